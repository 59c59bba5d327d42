package baseline_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/wsguard/wsguard/internal/baseline"
	"github.com/wsguard/wsguard/internal/wstest"
)

// weeks are those in which nothing is a spike.
var weeks = map[string]shape{
	"constant":         constant,
	"sinus to 1:20":    sinus(20),
	"sinus to 1:50":    sinus(50),
	"office to 1:20":   office(20),
	"office to 1:50":   office(50),
	"silent nights":    nights,
	"weekend":          weekend(office(20)),
	"silent weekend":   func(t float64) float64 { return math.Floor(weekend(constant)(t)) * nights(t) },
	"lunch":            lunch(office(20)),
	"pushes":           pushes(constant, 300),
	"pushes in office": pushes(office(20), 300),
	"long pushes":      pushes(constant, 600),
	"growing":          growing(sinus(20)),
	"storm":            storm(constant, 10, 120),
	"large storm":      storm(constant, 100, 60),
}

// calmly runs a world of a shape and wants no spike.
func calmly(t *testing.T, seed uint64, s shape, rate, until float64) {
	t.Helper()
	for _, idle := range []bool{false, true} {
		w := newWorld(seed, s, rate)
		w.idle = idle
		if all := w.run(until); len(all) > 0 {
			t.Errorf("seed %d, idle %v: at %.2f h: %+v", seed, idle, hourOf(all[0].t), all[0])
		}
	}
}

// TestWeek lives through weeks of many kinds, at low and at high rates.
func TestWeek(t *testing.T) {
	t.Parallel()
	until := week
	if testing.Short() {
		until = 30 * hour
	}
	if raceEnabled {
		until = 10 * hour
	}
	for name, s := range weeks {
		for _, rate := range []float64{0.05, 0.2, 1, 5, 50, 1000, 100_000} {
			t.Run(fmt.Sprintf("%s/%g", name, rate), func(t *testing.T) {
				t.Parallel()
				calmly(t, 1, s, rate, until)
			})
		}
	}
}

// TestNightlyWeeks lives through more of the weeks of TestWeek. Chance makes a
// spike once in years.
func TestNightlyWeeks(t *testing.T) {
	wstest.Nightly(t)
	weekCount, spikes := 0, 0
	for name, s := range weeks {
		for _, rate := range []float64{0.05, 0.2, 1, 5, 50} {
			for seed := range uint64(2) {
				weekCount++
				for _, f := range newWorld(100+seed, s, rate).run(week) {
					t.Logf("%s at %g/s, seed %d: %.2f h: %+v", name, rate, seed, hourOf(f.t), f)
					if f.Kind == baseline.Begun {
						spikes++
					}
				}
			}
		}
	}
	if spikes > weekCount/100 {
		t.Errorf("%d spikes in %d weeks", spikes, weekCount)
	}
}

// TestSlowRamp raises the rate tenfold within a day.
func TestSlowRamp(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{1, 10, 1000, 100_000} {
		calmly(t, 1, func(t float64) float64 { return 0.1 + 0.9*min(1, t/day) }, rate, 1.5*day)
		calmly(t, 2, func(t float64) float64 { return math.Pow(10, min(1, t/day)-1) }, rate, 1.5*day)
	}
}

// TestNewService has no history: its first clients come after hours, all at once.
func TestNewService(t *testing.T) {
	t.Parallel()
	for _, first := range []float64{1, minute, 4 * minute, hour, day} {
		for _, rate := range []float64{0.05, 1, 1000} {
			calmly(t, 1, func(t float64) float64 {
				if t < first {
					return 0
				}
				return storm(constant, 10, first+2*minute)(t)
			}, rate, first+10*hour)
		}
	}
}

// TestRestart restarts the counter amid a day, with a storm of reconnects.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{1, 50, 1000} {
		w := newWorld(1, office(20), rate)
		w.run(11 * hour)
		w.total = 0
		w.shape = during(office(20), w.t, 90, 20)
		if all := w.run(30 * hour); len(all) > 0 {
			t.Errorf("a restart at %g/s makes %+v", rate, all)
		}
	}
}

// TestOutage stops all events for some minutes. Their return is no spike.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, length := range []float64{10, minute, 3 * minute, 8 * minute, 9.9 * minute, 12 * minute, hour, 3 * day} {
		for _, rate := range []float64{1, 50, 1000} {
			calmly(t, 3, func(t float64) float64 {
				if t > 5*hour && t < 5*hour+length {
					return 0
				}
				return 1
			}, rate, 6*hour+length)
		}
	}
}

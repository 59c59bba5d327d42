package baseline_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/baseline"
)

// floods wants a spike of one flood: one begin within 30 seconds, and one end.
func floods(t *testing.T, all []found, begin, length, rate float64) {
	t.Helper()
	if len(all) != 2 || all[0].Kind != baseline.Begun || all[1].Kind != baseline.Over {
		t.Fatalf("a flood at %.3f h makes %+v", hourOf(begin), all)
	}
	first, last := all[0], all[1]
	if late := first.t - begin; late < 0 || late > 30 {
		t.Errorf("a flood at %.3f h is found after %.1f s", hourOf(begin), late)
	}
	if first.Baseline < rate/2.5 || first.Baseline > rate*2.5 || first.Rate < 3*rate || first.Rate > 30*rate {
		t.Errorf("a flood of ten times %g/s is said to be %g over %g", rate, first.Rate, first.Baseline)
	}
	if late := last.t - begin - length; late < 0 || late > 120 {
		t.Errorf("the end of a flood at %.3f h is found after %.1f s", hourOf(begin), late)
	}
	if d := last.For.Seconds(); d < length-25 || d > length+60 {
		t.Errorf("a flood of %g s is said to be %v long", length, last.For)
	}
	if last.Peak < 8*rate || last.Peak > 60*rate || last.Settled {
		t.Errorf("a flood of ten times %g/s ends as %+v", rate, last)
	}
}

// TestTenfoldFlood floods a Series at each hour of a day, at low and at high rates.
func TestTenfoldFlood(t *testing.T) {
	t.Parallel()
	shapes := map[string]shape{
		"constant": constant,
		"sinus":    sinus(20),
		"office":   office(50),
		"pushes":   pushes(constant, 300),
		"lunch":    lunch(office(20)),
		"weekend":  weekend(office(20)),
		"growing":  growing(constant),
		"storm":    storm(constant, 10, 120),
	}
	evening := map[string]bool{"office": true, "lunch": true, "weekend": true}
	for name, s := range shapes {
		for _, rate := range []float64{1, 20, 1000, 100_000} {
			t.Run(fmt.Sprintf("%s/%g", name, rate), func(t *testing.T) {
				t.Parallel()
				w := newWorld(3, s, rate)
				w.run(hour / 2)
				for i := range 24 {
					// Not in a push, and not where the evening's edge has just ended.
					begin := hour*float64(i+1) + (30+10*w.r.Float64())*minute
					if normal := rate * s(begin); normal >= 0.2 && (i+1 != 17 || !evening[name]) {
						w.shape = during(s, begin, 5*minute, 10)
						floods(t, w.run(begin+15*minute), begin, 5*minute, normal)
					} else {
						w.shape = s
						w.run(begin + 15*minute)
					}
				}
			})
		}
	}
}

// TestEvening says when a flood is found again after a fall of the rate to a
// fiftieth within half an hour.
func TestEvening(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{50, 1000} {
		for seed := range uint64(20) {
			w := newWorld(seed, office(50), rate)
			w.t = 16 * hour
			w.run(17.5 * hour)
			begin := 18*hour + w.r.Float64()*hour // the fall has ended quarter of an hour ago
			w.shape = during(office(50), begin, 5*minute, 10)
			floods(t, w.run(begin+15*minute), begin, 5*minute, rate/50)
		}
	}
}

// TestSmallFloods floods a Series whose events are rare. The alarm takes longer.
func TestSmallFloods(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ rate, within, part float64 }{
		{0.2, 60, 1}, {0.1, 150, 0.95}, {0.05, 180, 0.8},
	} {
		found := 0
		for seed := range uint64(100) {
			w := newWorld(seed, constant, c.rate)
			begin := hour + w.r.Float64()*minute
			w.shape = during(constant, begin, 5*minute, 10)
			all := w.run(begin + 15*minute)
			if len(all) > 2 || len(all) == 1 {
				t.Errorf("a flood of ten times %g/s makes %+v", c.rate, all)
			}
			if len(all) == 2 && all[0].t-begin < c.within {
				found++
			}
		}
		if float64(found) < 100*c.part {
			t.Errorf("%d of 100 floods of ten times %g/s are found within %g s", found, c.rate, c.within)
		}
	}
}

// TestFloor checks that a few events after a silent night are no spike, that the
// first flood of all is one, and that a flood after a silent night is one.
func TestFloor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		before float64 // rate of the day before the silent night
		flood  float64 // rate after it
		rule   baseline.Rule
		spike  bool
	}{
		{"never any", 0, 10, baseline.Rule{FromZero: true}, true},
		{"never any, below the floor", 0, 0.1, baseline.Rule{FromZero: true}, false},
		{"never any, below a higher floor", 0, 10, baseline.Rule{FromZero: true, Floor: 50}, false},
		{"a few in the day", 0.01, 10, baseline.Rule{FromZero: true}, true},
		{"as in the day", 20, 20, baseline.Rule{}, false},
		{"ten times the day", 20, 200, baseline.Rule{}, true},
		{"ten times the day's refusals", 1, 10, baseline.Rule{FromZero: true}, true},
	} {
		for _, idle := range []bool{false, true} {
			w := newWorld(5, constant, c.before)
			w.rule, w.idle = c.rule, idle
			w.run(day / 2)
			w.shape = func(float64) float64 { return 0 }
			w.run(day)
			w.total += 3 // three events after the silent night
			all := w.run(day + hour)
			w.shape, w.rate = constant, c.flood
			begin := w.t
			all = append(all, w.run(begin+5*minute)...)
			w.shape = func(float64) float64 { return 0 }
			w.idle = false
			all = append(all, w.run(begin+20*minute)...)
			if !c.spike {
				if len(all) > 0 {
					t.Errorf("%s, idle %v: %+v", c.name, idle, all)
				}
				continue
			}
			if len(all) != 2 || all[0].t-begin > 30 || all[0].t < begin {
				t.Errorf("%s, idle %v: a flood at %g makes %+v", c.name, idle, begin, all)
			}
		}
	}
}

// TestSecondFlood floods a Series again and again. None hides the next.
func TestSecondFlood(t *testing.T) {
	t.Parallel()
	for _, pause := range []float64{15 * minute, hour} {
		w := newWorld(8, constant, 10)
		w.run(hour)
		for range 10 {
			begin := w.t + 1
			w.shape = during(constant, begin, 20*minute, 10)
			floods(t, w.run(begin+20*minute+pause), begin, 20*minute, 10)
		}
	}
}

// TestPulses floods a Series in pulses. They are one spike.
func TestPulses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ on, off, times, within float64 }{
		{30, 30, 20, 40}, {10, 20, 60, 120}, {5, 25, 100, 150},
	} {
		w := newWorld(2, constant, 20)
		w.run(hour)
		begin := w.t
		w.shape = func(t float64) float64 {
			if past := t - begin; past >= 0 && past < 20*minute && int(past)%int(c.on+c.off) < int(c.on) {
				return c.times
			}
			return 1
		}
		all := w.run(begin + 40*minute)
		if len(all) != 2 || all[0].t-begin > c.within || all[1].For < 18*time.Minute {
			t.Errorf("%+v: %+v", c, all)
		}
	}
}

// TestBurst adds a burst that is over within 5 seconds.
func TestBurst(t *testing.T) {
	t.Parallel()
	for _, size := range []float64{10, 1000, 1e9} {
		for _, rate := range []float64{0, 0.2, 20} {
			w := newWorld(2, constant, rate)
			w.rule.FromZero = true
			all := w.run(hour)
			for range 30 {
				w.total += size
				all = append(all, w.run(w.t+5*minute)...)
			}
			if len(all) > 0 {
				t.Errorf("bursts of %g at %g/s make %+v", size, rate, all)
			}
		}
	}
}

// TestSettles multiplies the rate for good.
func TestSettles(t *testing.T) {
	t.Parallel()
	w := newWorld(4, constant, 10)
	w.run(hour)
	w.rate = 100
	all := w.run(5 * hour)
	if len(all) != 2 || !all[1].Settled || all[1].t > 4*hour || all[1].t < 2*hour || all[1].For < time.Hour {
		t.Fatalf("a new normal makes %+v", all)
	}
	begin := w.t
	w.shape = during(constant, begin, 5*minute, 10)
	floods(t, w.run(begin+hour), begin, 5*minute, 100)
	w.rate = 10 // and back
	w.shape = constant
	if all := w.run(w.t + 5*hour); len(all) > 0 {
		t.Errorf("the old normal makes %+v", all)
	}
}

// TestBytes counts bytes of messages of many sizes.
func TestBytes(t *testing.T) {
	t.Parallel()
	const largest = 65_536
	sizes := func(r *rand.Rand) float64 { // a few are large, and carry most of the bytes
		if r.IntN(50) == 0 {
			return largest
		}
		return 50 + 100*r.Float64()
	}
	for _, rate := range []float64{0.2, 2, 20, 200} {
		w := newWorld(6, constant, rate)
		w.rule.Unit, w.size = largest, sizes
		if all := w.run(2 * day); len(all) > 0 {
			t.Errorf("bytes of %g messages per second: %+v", rate, all)
		}
		if rate < 100 {
			continue
		}
		begin := w.t
		w.shape = during(constant, begin, 5*minute, 10)
		if all := w.run(begin + 20*minute); len(all) != 2 || all[0].t-begin > 30 {
			t.Errorf("a flood of bytes of ten times %g messages per second: %+v", rate, all)
		}
	}
}

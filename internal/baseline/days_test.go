package baseline_test

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/wsguard/wsguard/internal/baseline"
)

const (
	minute = 60.0
	hour   = 60 * minute
	day    = 24 * hour
	week   = 7 * day
)

// shape is the expected rate at a time in seconds, as a part of the busiest one.
type shape func(t float64) float64

// hourOf returns the hour of the day with its fraction.
func hourOf(t float64) float64 { return math.Mod(t, day) / hour }

func constant(float64) float64 { return 1 }

// sinus is a day whose night, at 2 o'clock, has 1/ratio of the rate.
func sinus(ratio float64) shape {
	return func(t float64) float64 {
		up := (1 - math.Cos((hourOf(t)-2)/24*2*math.Pi)) / 2
		return 1/ratio + (1-1/ratio)*up
	}
}

// office is a day with edges that take half an hour, at quarter past 8 and at quarter past 17.
func office(ratio float64) shape {
	return func(t float64) float64 {
		h := hourOf(t)
		up := min(1, max(0, (h-8.25)/0.5)) - min(1, max(0, (h-17.25)/0.5))
		return 1/ratio + (1-1/ratio)*up
	}
}

// nights is a day with nothing at all from 20 to 6 o'clock. Its morning takes ten minutes.
func nights(t float64) float64 {
	h := hourOf(t)
	return min(1, max(0, (h-6)*6)) - min(1, max(0, h-19))
}

// weekend is s with a fifth of the rate on the last two days of a week.
func weekend(s shape) shape {
	return func(t float64) float64 {
		if math.Mod(t, week) > 5*day {
			return s(t) / 5
		}
		return s(t)
	}
}

// pushes is s with three times the rate for length seconds from each full hour on.
func pushes(s shape, length float64) shape {
	return func(t float64) float64 {
		if past := math.Mod(t, hour); past < length {
			return 3 * s(t)
		}
		return s(t)
	}
}

// lunch is s with three tenths of the rate from 12 to 13 o'clock, and dies off and
// returns within two minutes.
func lunch(s shape) shape {
	return func(t float64) float64 {
		h := hourOf(t)
		off := min(1, max(0, (h-12)*30)) - min(1, max(0, (h-13)*30))
		return s(t) * (1 - 0.7*off)
	}
}

// growing is s, growing tenfold in a week.
func growing(s shape) shape {
	return func(t float64) float64 { return s(t) * math.Pow(10, t/week-1) }
}

// storm is s with a multiple of the rate in the first seconds.
func storm(s shape, times, length float64) shape {
	return func(t float64) float64 {
		if t < length {
			return times * s(t)
		}
		return s(t)
	}
}

// during multiplies the rate of s from begin for length seconds.
func during(s shape, begin, length, times float64) shape {
	return func(t float64) float64 {
		if t >= begin && t < begin+length {
			return times * s(t)
		}
		return s(t)
	}
}

// poisson returns a count at random whose mean is given.
func poisson(r *rand.Rand, mean float64) float64 {
	if mean > 60 {
		return max(0, math.Round(mean+math.Sqrt(mean)*r.NormFloat64()))
	}
	limit, n := math.Exp(-mean), -1.0
	for p := 1.0; p > limit; n++ {
		p *= r.Float64()
	}
	return max(0, n)
}

// world feeds a Series with the events of a shape.
type world struct {
	r      *rand.Rand
	series baseline.Series
	rule   baseline.Rule
	shape  shape
	rate   float64 // of the busiest time
	size   func(*rand.Rand) float64
	every  float64 // seconds between two ticks
	jitter float64 // seconds that a tick may be late
	idle   bool    // no ticks while nothing happens
	begun  bool
	t      float64
	total  float64
}

// found is a Change and its time.
type found struct {
	t float64
	baseline.Change
}

var midnight = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func newWorld(seed uint64, s shape, rate float64) *world {
	return &world{r: rand.New(rand.NewPCG(seed, 1)), shape: s, rate: rate, every: 5, jitter: 0.2}
}

// run runs until a time, and returns what was found.
func (w *world) run(until float64) (all []found) {
	if !w.begun {
		w.series.Tick(at(w.t), uint64(w.total), w.rule)
		w.begun = true
	}
	for w.t < until {
		d := w.every + w.jitter*w.r.Float64()
		mean := w.rate * w.shape(w.t+d/2) * d
		n := poisson(w.r, mean)
		if w.size != nil {
			for events := n; events > 0; events-- {
				n += math.Floor(w.size(w.r)) - 1
			}
		}
		w.t += d
		w.total += n
		if w.idle && n == 0 && !w.series.Spiking() {
			continue
		}
		if c := w.series.Tick(at(w.t), uint64(w.total), w.rule); c.Kind != baseline.None {
			all = append(all, found{w.t, c})
		}
	}
	return all
}

func at(t float64) time.Time { return midnight.Add(time.Duration(t * float64(time.Second))) }

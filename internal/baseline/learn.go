package baseline

import "slices"

const (
	minute  = 60.0
	minutes = 5 // that a new Series learns
)

// learner has the first minutes of a Series.
type learner struct {
	done  bool
	begun bool // there was an event
	n     int  // minutes that are complete
	now   slot // the minute that is not
	rates [minutes]float64
}

// learn takes a slot of the first minutes.
func (s *Series) learn(one slot, rule *Rule) {
	l := &s.learnt
	if !l.begun && !rule.FromZero {
		l.begun = one.n > 0 // it begins with the next slot
		return
	}
	if one.d >= silence && !rule.FromZero {
		*l = learner{}
		return
	}
	l.now.n, l.now.d = l.now.n+one.n, l.now.d+one.d
	if l.now.d < minute {
		return
	}
	for d, rate := l.now.d, l.now.rate(); d >= minute && l.n < minutes; d -= minute {
		l.rates[l.n] = rate
		l.n++
	}
	l.now = slot{}
	if l.n < minutes {
		return
	}
	slices.Sort(l.rates[:])
	base := l.rates[minutes/2]
	s.short, s.long, s.high = base, base, base
	*l = learner{done: true}
}

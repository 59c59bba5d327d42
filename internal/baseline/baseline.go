// Package baseline decides whether a rate has left its usual range.
//
// A Series learns the baseline of one rate, such as the refusals for one reason or
// the bytes of all messages. Tick feeds it with a counter that only grows, and
// answers whether a spike has begun or is over. A Series has no goroutine and no
// clock. It is a value of less than 1 KiB, and Tick does not allocate.
//
// # How to feed it
//
// Call Tick about every 5 seconds while something happens, and while Spiking is
// true. The first call tells where the counter begins. Make it when the counter is
// made. Ticks may be irregular, and may stop while nothing happens. A Series takes
// a gap for a time without events. It takes ticks that are less than 4 seconds apart
// together as one. A decision needs at least four ticks.
//
// # What is a spike
//
// The baseline is the lower of two moving averages, of 4 and of 10 minutes. They
// follow the rhythm of a day, and a short burst raises them only a little. The
// latest 30 seconds are not in them, so that a flood does not raise the baseline
// that it is compared with. Where events are rare, these are up to 2 minutes.
//
// A spike begins when the rate of the latest 4 to 24 ticks is at least Rule.Factor
// times the baseline and at least Rule.Floor. The two busiest of these ticks do not
// count. So a burst that is over within 5 seconds is no spike, however large it is.
// The count must also be too large for chance, even if the rate had been at 0.6
// times what makes a spike.
//
// With the default Rule and a tick every 5 seconds, a tenfold flood is found within
// 30 seconds if it has 5 events per second or more. One with 2 events per second is
// found in this time nearly always, and smaller ones take up to 3 minutes. A flood
// with less than 1 event per second may be missed.
//
// A spike is over when the rate of the last minute is below half of what makes a
// spike. What comes during a spike does not change the baseline. After 2 hours the
// new rate becomes the baseline, which ends the spike.
//
// # What is no spike
//
// A new Series learns for 5 minutes before it reports anything. The median of these
// minutes is its first baseline, so a storm of reconnects at the start does not
// spoil it. The Series learns again when the counter falls, because then it was
// restarted.
//
// After 10 minutes without events the baseline says little about what comes next,
// for example in the morning after a night without traffic. For 10 minutes from the
// next event on, the rate is compared with the highest baseline of about the last
// day instead.
//
// A time without events in which many were expected is an outage, and does not lower
// the baseline. With Rule.FromZero it does.
//
// # What it cannot tell
//
// A Series does not know what is usual at which hour. A rate that multiplies by
// Rule.Factor within about two minutes is a spike in the morning too. Thrice the
// rate at once is none. When the rate falls to a fiftieth within half an hour, the
// baseline has followed about a quarter of an hour later. Until then it takes a
// larger flood to be a spike. It is the same in the minutes after a burst that took
// ten minutes.
package baseline

import (
	"math"
	"time"
)

const (
	// DefaultFactor is used where Rule.Factor is 0.
	DefaultFactor = 5
	// DefaultFloor is used where Rule.Floor is 0, in units per second.
	DefaultFloor = 0.25
)

// Rule says what a spike is. The zero Rule has the defaults. Each call of Tick may
// have another Rule.
type Rule struct {
	// Factor is how many times the baseline makes a spike. The default is 5. With a
	// Factor that is not above 1, no spike begins, and one that has begun is over.
	Factor float64
	// Floor is a rate per second below which nothing is a spike. The default is
	// 0.25 times Unit. A negative Floor is the default.
	Floor float64
	// Unit is how much a single event may add to the counter. The default is 1. For
	// bytes it is the size of a large message, so that a few of these do not look
	// like many events.
	Unit float64
	// FromZero says that a Series in which nothing has happened has a baseline of
	// zero. It is meant for what need not happen, such as refusals: the first flood
	// is then a spike. Otherwise the Series learns from the first event on.
	FromZero bool
}

// resolve returns r with its defaults.
func (r Rule) resolve() Rule {
	if r.Factor == 0 {
		r.Factor = DefaultFactor
	}
	if !(r.Factor > 1) {
		r.Factor = math.Inf(1)
	}
	if !(r.Unit > 0) || math.IsInf(r.Unit, 1) {
		r.Unit = 1
	}
	if !(r.Floor > 0) {
		r.Floor = DefaultFloor * r.Unit
	}
	return r
}

// off reports whether r, which is resolved, lets nothing be a spike.
func (r *Rule) off() bool { return math.IsInf(r.Factor, 1) }

// Kind is the kind of a Change.
type Kind uint8

const (
	None  Kind = iota // nothing has changed
	Begun             // a spike has begun
	Over              // the spike is over
)

// Change is what a Tick has found. Rates are per second.
type Change struct {
	Kind     Kind
	Rate     float64       // Begun: since the spike began. Over: of the last minute.
	Baseline float64       // the rate that was usual before the spike
	Peak     float64       // the highest rate of one tick during the spike
	For      time.Duration // from the beginning of the spike to the last tick that was high
	Settled  bool          // Over: the rate has not fallen, and is the new baseline
}

const (
	slots     = 24 // that a Series keeps
	fewest    = 4  // slots that a decision needs
	busiest   = 2  // slots that do not count as the rate
	calmSlots = 12 // slots that must be calm together before a spike is over

	// The latest slots are held back from the averages until heldEvents were
	// expected in them. These are fewestHeld slots at least.
	fewestHeld = 6
	heldEvents = 3

	shortest = 4.0  // seconds; shorter ticks are taken together
	usual    = 5.0  // seconds between two ticks
	idle     = 60.0 // seconds after which a tick was not late, but nothing happened
	fast     = 4 * 60.0
	slow     = 10 * 60.0
	silence  = 10 * 60.0 // seconds without events after which the averages say little
	resuming = 10 * 60.0 // seconds after a silence in which the day's highest baseline counts
	settling = 2 * 60 * 60.0
	day      = 24 * 60 * 60.0

	outage = 20.0 // events that were expected where there were none

	// A count must be too large for chance where the rate is chance times the
	// one that makes a spike. Its improbability is e to the power of -evidence.
	chance   = 0.6
	evidence = 12.0
	// calm times the rate that makes a spike is what ends it.
	calm = 0.5
)

// slot is what happened between two ticks.
type slot struct {
	n float64 // counted
	d float64 // seconds
}

func (s slot) rate() float64 { return s.n / s.d }

// Series has the baseline of one rate. The zero Series is ready for use. It is not
// safe for concurrent use.
type Series struct {
	last    time.Time
	total   uint64
	started bool
	pending slot // too short for a slot so far

	ring  [slots]slot
	next  int // index in ring of the next slot
	kept  int // slots in ring that count
	unfed int // the latest of these, which are not in the averages yet

	learnt  learner
	short   float64 // average over fast
	long    float64 // average over slow
	high    float64 // the highest baseline of about a day
	zeros   float64 // seconds without events that are not in the averages yet
	quiet   float64 // seconds since the last slot with an event
	resumes float64 // seconds left of resuming

	spike spike
}

// spike is the spike that goes on.
type spike struct {
	on    bool
	base  float64 // the baseline before it
	least float64 // the rate that made it a spike
	peak  float64
	level float64 // average over slow since it began
	slots int     // since it began
	d     float64 // seconds since it began
	hot   float64 // seconds from its beginning to the end of its last high slot
}

// Spiking reports whether a spike has begun and is not over.
func (s *Series) Spiking() bool { return s.spike.on }

// Tick tells the Series that the counter was total at now. The first call tells
// where the counter begins. A counter that is lower than before has been restarted.
// A time that is earlier than before, after a jump of the clock, counts as no time.
func (s *Series) Tick(now time.Time, total uint64, rule Rule) Change {
	if !s.started || total < s.total {
		c := s.end(false, 0)
		*s = Series{last: now, total: total, started: true}
		return c
	}
	s.pending.n += float64(total - s.total)
	s.pending.d += max(0, now.Sub(s.last).Seconds())
	s.last, s.total = now, total
	if s.pending.d < shortest {
		return Change{}
	}
	one := s.pending
	s.pending = slot{}
	rule = rule.resolve()
	if rule.off() && s.spike.on {
		return s.end(false, one.rate())
	}
	return s.close(one, &rule)
}

// close takes a finished slot.
func (s *Series) close(one slot, rule *Rule) Change {
	if one.d >= silence {
		return s.gap(one, rule)
	}
	if one.d > idle && one.n > 0 {
		// Nobody ticked because nothing happened. What was counted came at the end.
		c := s.close(slot{d: one.d - usual}, rule)
		if c.Kind == None {
			c = s.close(slot{one.n, usual}, rule)
		}
		return c
	}
	switch {
	case one.n == 0:
		s.quiet += one.d
	case s.quiet >= silence:
		s.resume(rule)
		s.quiet = 0
	default:
		s.quiet = 0
	}
	if !s.learnt.done {
		s.learn(one, rule)
		return Change{}
	}
	s.resumes = max(0, s.resumes-one.d)
	s.push(one)
	if s.spike.on {
		return s.during(one)
	}
	c := s.judge(rule)
	if c.Kind == None {
		s.unfed++
		for s.unfed > s.held(rule) {
			s.unfed--
			s.feed(s.back(s.unfed), rule)
		}
	}
	return c
}

// gap takes a time without ticks. What was counted in it does not say when it
// happened, so it is neither judged nor averaged.
func (s *Series) gap(one slot, rule *Rule) Change {
	c := s.end(false, one.rate())
	s.quiet += one.d
	if !s.learnt.done {
		s.learn(slot{d: one.d}, rule)
	}
	if one.n > 0 {
		s.resume(rule)
		s.quiet = 0
	}
	return c
}

// resume begins again after a silence.
func (s *Series) resume(rule *Rule) {
	if rule.FromZero {
		// That nothing happened is as usual, and counts.
		s.average(slot{d: s.quiet})
	}
	s.forget()
	s.zeros = 0
	s.resumes = resuming
}

// forget drops the slots that are kept.
func (s *Series) forget() { s.kept, s.unfed = 0, 0 }

func (s *Series) push(one slot) {
	s.ring[s.next] = one
	s.next = (s.next + 1) % slots
	s.kept = min(s.kept+1, slots)
}

// back returns the slot that is i before the latest one.
func (s *Series) back(i int) slot { return s.ring[(s.next-1-i+2*slots)%slots] }

// base returns the rate that others are compared with. It is the lower average and
// one standard deviation of it, so that a few events that came by chance too late do
// not make it too low.
func (s *Series) base(rule *Rule) float64 {
	base := min(s.short, s.long)
	if s.resumes > 0 {
		base = max(base, s.high)
	}
	return base + math.Sqrt(base*rule.Unit/(2*fast))
}

// held returns how many of the latest slots are not in the averages. Where events
// are rare they are more, because a flood takes longer to be found there.
func (s *Series) held(rule *Rule) int {
	expected := max(s.base(rule), rule.Floor/rule.Factor) / rule.Unit * usual
	n := heldEvents / expected
	if !(n > fewestHeld) { // also where the rule makes it no number
		return fewestHeld
	}
	return int(min(n, slots-1))
}

// judge says whether a spike has begun.
func (s *Series) judge(rule *Rule) Change {
	if rule.off() {
		return Change{}
	}
	base := s.base(rule)
	least := max(rule.Factor*base, rule.Floor)
	var sum, first, second slot // all, and the two busiest of them
	for i := range s.kept {
		one := s.back(i)
		sum.n, sum.d = sum.n+one.n, sum.d+one.d
		switch {
		case first.d == 0 || one.n*first.d > first.n*one.d:
			first, second = one, first
		case second.d == 0 || one.n*second.d > second.n*one.d:
			second = one
		}
		if i+1 < fewest {
			continue
		}
		rest := slot{sum.n - first.n - second.n, sum.d - first.d - second.d}
		if rest.n >= least*rest.d && improbable(sum.n/rule.Unit, chance*least*sum.d/rule.Unit) {
			return s.begin(least, i+1)
		}
	}
	return Change{}
}

// improbable reports whether n events are too many to be chance where mean are
// expected. It uses Chernoff's bound of the Poisson distribution.
func improbable(n, mean float64) bool { return n*math.Log(n/mean)-n+mean > evidence }

// begin begins a spike that was found in the latest n slots.
func (s *Series) begin(least float64, n int) Change {
	for n > 1 && s.back(n-1).rate() < calm*least {
		n-- // it had not begun
	}
	base := min(s.short, s.long)
	s.spike = spike{on: true, base: base, least: least, slots: n}
	var sum slot
	for i := n - 1; i >= 0; i-- {
		one := s.back(i)
		sum.n, sum.d = sum.n+one.n, sum.d+one.d
		s.spike.add(one)
	}
	s.spike.level = sum.rate()
	s.unfed = 0
	return Change{Kind: Begun, Rate: sum.rate(), Baseline: base, Peak: s.spike.peak, For: seconds(s.spike.hot)}
}

// add counts a slot of the spike.
func (p *spike) add(one slot) {
	p.d += one.d
	if one.rate() >= p.least {
		p.hot = p.d
	}
	p.peak = max(p.peak, one.rate())
	p.level += (one.rate() - p.level) * weight(one.d, slow)
}

// during says whether the spike is over after one more slot.
func (s *Series) during(one slot) Change {
	s.spike.add(one)
	s.spike.slots++
	if s.spike.slots < calmSlots {
		return Change{}
	}
	var sum slot
	for i := range min(calmSlots, s.kept) {
		one := s.back(i)
		sum.n, sum.d = sum.n+one.n, sum.d+one.d
	}
	if sum.rate() < calm*s.spike.least {
		return s.end(false, sum.rate())
	}
	if s.spike.d >= settling {
		s.short, s.long = s.spike.level, s.spike.level
		s.high = max(s.high, s.spike.level)
		return s.end(true, sum.rate())
	}
	return Change{}
}

// end ends the spike, if there is one.
func (s *Series) end(settled bool, rate float64) Change {
	if !s.spike.on {
		return Change{}
	}
	p := s.spike
	s.spike = spike{}
	s.forget()
	return Change{Kind: Over, Rate: rate, Baseline: p.base, Peak: p.peak, For: seconds(p.hot), Settled: settled}
}

// feed lets a slot into the averages. Slots without events wait for the next one
// that has some, because only then it is known whether they belong to a silence.
func (s *Series) feed(one slot, rule *Rule) {
	if one.n == 0 {
		s.zeros += one.d
		return
	}
	// A time without events in which many were expected is an outage.
	if s.zeros > 0 && (rule.FromZero || s.zeros*min(s.short, s.long) < outage*rule.Unit) {
		s.average(slot{d: s.zeros})
	}
	s.zeros = 0
	if !rule.off() {
		one.n = min(one.n, max(rule.Factor*min(s.short, s.long), rule.Floor)*one.d)
	}
	s.average(one)
}

func (s *Series) average(one slot) {
	rate := one.rate()
	s.short += (rate - s.short) * weight(one.d, fast)
	s.long += (rate - s.long) * weight(one.d, slow)
	s.high = max(min(s.short, s.long), s.high*math.Exp(-one.d/day))
}

// weight is the weight of d seconds in an average over span seconds.
func weight(d, span float64) float64 { return -math.Expm1(-d / span) }

// seconds converts n seconds, which may be more than a Duration has.
func seconds(n float64) time.Duration {
	return time.Duration(min(n*float64(time.Second), math.MaxInt64/2))
}

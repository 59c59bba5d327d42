package keyed

import (
	"math"
	"math/bits"
	"time"
)

// Arithmetic is in units: a token has 2^k of them, so a take adds a whole
// number and at any rate a burst is exactly its number of takes. k is as large
// as lets 36 years pass before an int64 is full: a unit is less than what flows
// in within half a nanosecond, or than 2^-55 of the burst. What flows in is
// computed from the table's birth on and rounded down, so that no error adds up.

const (
	horizon  = 1<<60 - 1              // nanoseconds a table serves
	maxUnits = 1 << 56                // units of a burst
	maxRate  = 1 << 32                // units that flow in within a second
	maxDebt  = 1 << 60                // units owed: 16 bursts at least
	never    = time.Duration(1 << 62) // the wait for what does not fit
)

// pair has a number for each lane.
type pair [2]int64

// limits are those of all lanes. They do not change.
type limits struct {
	n    int
	lane [2]lane
}

// lane is a Limit at work. The zero lane has no limit.
type lane struct {
	limit Limit
	unit  float64 // units of a token
	burst int64   // units; 0: no limit
	mul   uint64  // units that flow in within a nanosecond: mul * 2^(-60-shift)
	shift uint
	flow  float64 // the same, nearly
	full  float64 // 1/burst
}

func newLimits(of ...Limit) *limits {
	l := &limits{n: len(of)}
	for i, limit := range of {
		l.lane[i] = newLane(limit)
	}
	return l
}

// with is l with other limits.
func (l *limits) with(to []Limit) *limits {
	c := *l
	for i, limit := range to[:min(len(to), l.n)] {
		c.lane[i] = newLane(limit)
	}
	return &c
}

func newLane(limit Limit) lane {
	if !(limit.PerSecond > 0) {
		return lane{limit: limit}
	}
	k := math.Floor(math.Log2(maxRate / limit.PerSecond))
	if limit.Burst > 0 {
		k = min(k, math.Floor(math.Log2(maxUnits/limit.Burst)))
	}
	// Far beyond what anybody configures, but let no exponent overflow.
	k = min(max(k, -60), 60)
	l := lane{limit: limit, unit: math.Ldexp(1, int(k))}
	l.burst = max(1, int64(min(limit.Burst*l.unit, maxUnits)))
	l.full = 1 / float64(l.burst)
	// mul is the quotient of rate and 1e9 to 63 bits, rounded down. Both have
	// their highest bit set, so it fits.
	fraction, exp := math.Frexp(min(limit.PerSecond, maxRate/l.unit))
	m := uint64(math.Ldexp(fraction, 64))
	l.mul, _ = bits.Div64(m>>1, m<<63, 1e9<<34)
	// PerSecond = m * 2^(exp-64), 1e9 = 1e9<<34 * 2^-34, mul = m<<63 / 1e9<<34.
	if shift := 33 - exp - int(k); shift >= 0 {
		l.shift = uint(shift)
	}
	l.flow = limit.PerSecond * l.unit / 1e9
	return l
}

// at returns what has flowed in by ns, in units.
func (l *lane) at(ns int64) int64 {
	hi, _ := bits.Mul64(uint64(ns)<<4, l.mul)
	return int64(hi >> l.shift)
}

// cost rounds up. What is more than any debt is that much.
func (l *lane) cost(n float64) int64 {
	units := n * l.unit
	if !(units < maxDebt) {
		return maxDebt
	}
	c := int64(units)
	if float64(c) < units {
		c++
	}
	return max(c, 0)
}

func (l *limits) at(ns int64) (at pair) {
	at[0] = l.lane[0].at(ns)
	if l.n > 1 {
		at[1] = l.lane[1].at(ns)
	}
	return at
}

// judge returns what a take of a and b makes of a bucket, and whether there is
// enough in it. If not, next is nevertheless what would have been.
func (l *limits) judge(tat, at pair, a, b float64) (next pair, ok bool) {
	ok = true
	if l.lane[0].burst != 0 {
		next[0] = max(tat[0], at[0]) + l.lane[0].cost(a)
		ok = next[0]-at[0] <= l.lane[0].burst
	}
	if l.n > 1 && l.lane[1].burst != 0 {
		next[1] = max(tat[1], at[1]) + l.lane[1].cost(b)
		ok = ok && next[1]-at[1] <= l.lane[1].burst
	}
	return next, ok
}

// charge is judge without a judgement.
func (l *limits) charge(tat, at pair, a, b float64, shared bool) (next pair) {
	next, _ = l.judge(tat, at, a, b)
	for i := range l.n {
		most := at[i] + maxDebt
		if shared {
			most = at[i] + l.lane[i].burst
		}
		next[i] = min(next[i], most)
	}
	return next
}

// empty tells whether a bucket has less than a token.
func (l *limits) empty(tat, at pair) bool {
	for i := range l.n {
		if lane := &l.lane[i]; lane.burst != 0 && tat[i]-at[i] > lane.burst-lane.cost(1) {
			return true
		}
	}
	return false
}

// drained is the bucket that has just lost its last token.
func (l *limits) drained(tat, at pair) pair {
	for i := range l.n {
		if burst := l.lane[i].burst; burst != 0 {
			tat[i] = max(tat[i], at[i]+burst)
		}
	}
	return tat
}

// live tells whether a bucket is not full.
func (l *limits) live(tat, at pair) bool { return tat[0] > at[0] || tat[1] > at[1] }

// level is how much of a bucket is missing, as a part of it.
func (l *limits) level(tat, at pair) (part float64) {
	for i := range l.n {
		part = max(part, float64(tat[i]-at[i])*l.lane[i].full)
	}
	return part
}

// fills returns by when a bucket is full, in nanoseconds, not too early.
func (l *limits) fills(tat, at pair, clock int64) int64 {
	latest := clock
	for i := range l.n {
		if owed := tat[i] - at[i]; owed > 0 {
			latest = max(latest, clock+1+int64(min(float64(owed)/l.lane[i].flow*(1+1e-9), horizon)))
		}
	}
	return latest
}

// wait returns how long after ns, which may be before clock, a and b fit, after
// which next would be due.
func (l *limits) wait(next pair, a, b float64, clock, ns int64) time.Duration {
	ready := clock
	for i, n := range [2]float64{a, b} {
		lane := &l.lane[i]
		need := next[i] - lane.burst
		over := need - lane.at(clock)
		if lane.burst == 0 || over <= 0 {
			continue
		}
		if lane.cost(n) > lane.burst || need > lane.at(horizon) {
			return never
		}
		// Nearly, for the quotient is rounded; then the first nanosecond exactly.
		t := clock + int64(float64(over)/lane.flow)
		around := int64(min(2/lane.flow, horizon)) + t>>50 + 2
		early, late := max(clock, t-around), min(horizon, t+around)
		for early < late {
			if mid := early + (late-early)/2; lane.at(mid) < need {
				early = mid + 1
			} else {
				late = mid
			}
		}
		ready = max(ready, late)
	}
	return time.Duration(ready - ns)
}

// convert carries a bucket over to other limits: see [Table.SetRate].
func (l *limits) convert(to *limits, tat pair, clock int64) (next pair) {
	at, then := l.at(clock), to.at(clock)
	for i := range l.n {
		old, lane := &l.lane[i], &to.lane[i]
		owed := float64(tat[i] - at[i])
		if old.burst == 0 || lane.burst == 0 || owed <= 0 {
			continue
		}
		// In the new units; a debt beyond the burst stays one.
		owed *= lane.unit / old.unit
		debt := max(0, owed-float64(old.burst)*(lane.unit/old.unit))
		owed = min(owed, float64(lane.burst)+debt, maxDebt)
		next[i] = then[i] + int64(math.Ceil(owed))
	}
	return next
}

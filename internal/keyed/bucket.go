package keyed

import (
	"math"
	"math/bits"
	"time"
)

const (
	tokenBits = 27

	horizon = 1<<60 - 1              // nanoseconds that a table serves
	token   = 1 << tokenBits         // units of a token
	most    = 1 << 61                // units of a burst or of a debt
	beyond  = 1 << 62                // units of a take that never fits
	never   = time.Duration(1 << 62) // the wait for such a take
)

// pair has a number for each lane.
type pair [2]int64

// bucket is the state of a key.
type bucket struct {
	owed pair  // units owed at seen
	seen int64 // when something was last taken, in nanoseconds
}

// lane is a Limit at work. The zero lane has no limit.
type lane struct {
	burst     int64 // units
	perSecond float64
	flows     float64 // units that flow in within a nanosecond, nearly
	limited   bool
}

func newLane(l Limit) lane {
	if !(l.PerSecond > 0) {
		return lane{}
	}
	burst := l.Burst * token
	if !(burst > 0) {
		burst = 0
	}
	return lane{burst: int64(min(burst, most)), perSecond: l.PerSecond, flows: l.PerSecond * (token / 1e9), limited: true}
}

// cost is n in units, rounded up. Without a limit nothing costs anything.
func (l *lane) cost(n float64) int64 {
	if !l.limited {
		return 0
	}
	units := n * token
	if !(units <= most) {
		return beyond
	}
	c := int64(units)
	if float64(c) < units {
		c++
	}
	return max(c, 0)
}

// rounding is more than the errors of flows and of a product with it can add up
// to, as a part of it.
const rounding = 1.0 / (1 << 50)

// flow is what flows in within d nanoseconds, rounded down.
func (l *lane) flow(d int64) int64 {
	units := float64(d) * l.flows
	low, high := units*(1-rounding), units*(1+rounding)
	if !(high < most) {
		return most
	}
	if n := int64(low); n == int64(high) {
		return n
	}
	return l.exactly(d)
}

// left returns the part of owed that is still owed after d nanoseconds.
func (l *lane) left(owed, d int64) int64 {
	if owed == 0 {
		return 0
	}
	if float64(d)*l.flows*(1-rounding) >= float64(owed) {
		return 0 // as usual, and quicker than flow
	}
	return max(0, owed-l.flow(d))
}

// exactly is flow where floating-point numbers are not exact enough. It needs
// less than 2^62 units to flow in.
func (l *lane) exactly(d int64) int64 {
	// perSecond is m * 2^exp, and m has 53 bits. It is no denormal number: of
	// those not a unit flows in. So the result is d * m * 2^(exp+27) / 1e9.
	float := math.Float64bits(l.perSecond)
	m, exp := float&(1<<52-1)|1<<52, int(float>>52)-1075
	hi, lo := bits.Mul64(uint64(d), m)
	shift := exp + tokenBits
	if up := uint(max(shift, 0)); up > 0 {
		hi, lo = hi<<up|lo>>(64-up), lo<<up
	}
	hi, rem := hi/1e9, hi%1e9
	lo, _ = bits.Div64(rem, lo, 1e9)
	if down := uint(max(-shift, 0)); down > 0 {
		lo = lo>>down | hi<<(64-down) | hi>>(down-64)
	}
	return int64(lo)
}

// drain returns the debt after a take of cost, or of the rest if that is less.
func (l *lane) drain(owed, cost int64) int64 { return max(owed, min(owed+cost, l.burst)) }

// look is a call: its limits, and the time of the part of the table that it looks
// at.
type look struct {
	lane [2]lane
	now  int64
}

func (l *look) unlimited() bool { return !l.lane[0].limited && !l.lane[1].limited }

// owed returns the debt at the time of the call. The debt of a lane without a limit stays.
func (l *look) owed(b bucket) pair {
	d := l.now - b.seen
	return pair{l.lane[0].left(b.owed[0], d), l.lane[1].left(b.owed[1], d)}
}

// owes tells whether anything is owed in a lane that has a limit.
func (l *look) owes(owed pair) bool {
	return owed[0] > 0 && l.lane[0].limited || owed[1] > 0 && l.lane[1].limited
}

// live tells whether a bucket is not full.
func (l *look) live(b bucket) bool { return l.owes(l.owed(b)) }

// fits tells whether there is enough for a take.
func (l *look) fits(owed, cost pair) bool {
	return (!l.lane[0].limited || owed[0]+cost[0] <= l.lane[0].burst) &&
		(!l.lane[1].limited || owed[1]+cost[1] <= l.lane[1].burst)
}

// level is how much of a bucket is missing, as a part of it.
func (l *look) level(b bucket) (part float64) {
	owed := l.owed(b)
	for i := range l.lane {
		if lane := &l.lane[i]; lane.limited {
			part = max(part, float64(owed[i])/float64(max(lane.burst, 1)))
		}
	}
	return part
}

// wait returns how long after ns, which may be before l.now, a take fits that does
// not fit now.
func (l *look) wait(b bucket, cost pair, ns int64) time.Duration {
	ready := l.now
	for i := range l.lane {
		lane := &l.lane[i]
		need := b.owed[i] + cost[i] - lane.burst
		switch {
		case !lane.limited:
			continue
		case cost[i] > lane.burst:
			return never
		case need <= lane.flow(l.now-b.seen):
			continue
		case need > lane.flow(horizon-b.seen):
			return never
		}
		// The quotient is rounded. Search for the first nanosecond around it.
		d := int64(min(float64(need)/lane.flows, horizon))
		around := d>>49 + 2
		early, late := max(l.now-b.seen, d-around), min(horizon-b.seen, d+around)
		for early < late {
			if mid := early + (late-early)/2; lane.flow(mid) < need {
				early = mid + 1
			} else {
				late = mid
			}
		}
		ready = max(ready, b.seen+late)
	}
	return time.Duration(ready - ns)
}

// What a lane owes is packed into 44 bits, as a floating-point number: 5 bits of
// exponent, and 39 bits of the 40 that are significant. A number below 2^40 is its
// own code.
const (
	significant = 40
	codeBits    = 44
	codeMask    = 1<<codeBits - 1
)

// pack rounds up. It never packs less than owed.
func pack(owed int64) uint64 {
	v := uint64(owed)
	shift := bits.Len64(v >> significant)
	// A carry out of the significant bits goes into the exponent, as it should.
	return uint64(shift)<<(significant-1) + (v+1<<shift-1)>>shift
}

func unpack(code uint64) int64 {
	if code < 1<<significant {
		return int64(code)
	}
	shift := code>>(significant-1) - 1
	return int64((code - shift<<(significant-1)) << shift)
}

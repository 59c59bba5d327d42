// Package keyed keeps token buckets under keys, in bounded memory.
//
// A bucket is one number: the theoretical arrival time of the generic cell
// rate algorithm, the moment at which the bucket will be full again. A key is
// its 64-bit hash under a secret seed. A table is a set-associative cache of
// such pairs, which begins small and grows to its cap; a table of two lanes has
// two buckets under each key, and decides about both at once.
//
// When there is no more room, what is forgotten is what matters least: first
// buckets that are full, then the one nearest to it, and never one that has
// refused. Those that have refused take at most half of the table. Beyond it
// the /48 around an IPv6 key is penalised in its place: whoever is new in that
// network shares one empty bucket. IPv4 addresses and strings have no such
// network; what they owe is then kept like any other, and so goes last. A key
// for which there is no place shares one bucket with all others like it.
package keyed

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Limit is a bucket: Burst tokens at most, PerSecond flow in. Without a
// positive PerSecond there is no limit.
type Limit struct{ PerSecond, Burst float64 }

// Table is a set of token buckets. It is safe for concurrent use.
//
// Time never goes back: a now before the latest that a part of the table has
// seen counts as that one. It serves for 36 years.
type Table struct {
	born     time.Time
	seed     maphash.Seed
	maxSets  int // of a shard
	setting  sync.Mutex
	shard    [shards]shard
	overflow overflow
}

// overflow is the bucket that untracked keys share.
type overflow struct {
	mu    sync.Mutex
	lim   *limits
	clock int64
	tat   pair
	used  uint64
}

// New returns a table of buckets that hold burst tokens and gain perSecond. It
// has room for keys of them, rounded up to a power of two, in 16 bytes each.
func New(perSecond float64, burst float64, keys int) *Table {
	return newTable(newLimits(Limit{perSecond, burst}), keys)
}

// NewPair returns a table with two buckets, lanes, under each key: see
// [Table.Take2]. An entry takes 24 bytes.
func NewPair(a, b Limit, keys int) *Table {
	return newTable(newLimits(a, b), keys)
}

func newTable(lim *limits, keys int) *Table {
	t := &Table{born: time.Now(), seed: maphash.MakeSeed(), maxSets: 1}
	for t.maxSets*ways*shards < keys {
		t.maxSets *= 2
	}
	for i := range t.shard {
		t.shard[i].lim = lim
		t.shard[i].maxSets = t.maxSets
	}
	t.overflow.lim = lim
	return t
}

// Key is a key of one table.
type Key struct {
	hash   uint64
	parent uint64 // of the network that is penalised in its place; 0: none
}

// String and Prefix make keys.
func (t *Table) String(s string) Key { return Key{hash: maphash.String(t.seed, s)} }

func (t *Table) Prefix(p netip.Prefix) Key {
	k := Key{hash: maphash.Comparable(t.seed, p)}
	if p.Addr().Is6() && p.Bits() > 48 {
		if net, err := p.Addr().Prefix(48); err == nil {
			// Not the key of the /48 itself, which may have a bucket of its own.
			k.parent = max(1, ^maphash.Comparable(t.seed, net))
		}
	}
	return k
}

// of returns the shard of a key. All of a /48 are in one, so that one lock
// guards a key and its network, and so that whoever has a whole /48 to rotate
// through meets a small part of the table.
func (t *Table) of(key Key) *shard {
	if key.parent != 0 {
		return &t.shard[key.parent%shards]
	}
	return &t.shard[key.hash%shards]
}

// elapsed is the table's time, in nanoseconds.
func (t *Table) elapsed(now time.Time) int64 {
	return min(max(int64(now.Sub(t.born)), 0), horizon)
}

// Take takes n tokens from key's bucket. When there are not enough it takes
// none and returns how long to wait for them.
func (t *Table) Take(key Key, n float64, now time.Time) (wait time.Duration, ok bool) {
	return t.take(key, n, 0, now, true)
}

// Take2 takes a tokens from key's first bucket and b from its second, or none
// from either. A table of one lane ignores b.
func (t *Table) Take2(key Key, a, b float64, now time.Time) (wait time.Duration, ok bool) {
	return t.take(key, a, b, now, true)
}

// Peek is Take without taking.
func (t *Table) Peek(key Key, n float64, now time.Time) (wait time.Duration, ok bool) {
	return t.take(key, n, 0, now, false)
}

// Peek2 is Take2 without taking.
func (t *Table) Peek2(key Key, a, b float64, now time.Time) (wait time.Duration, ok bool) {
	return t.take(key, a, b, now, false)
}

func (t *Table) take(key Key, a, b float64, now time.Time, really bool) (wait time.Duration, ok bool) {
	ns := t.elapsed(now)
	s := t.of(key)
	s.mu.Lock()
	s.clock = max(s.clock, ns)
	at := s.lim.at(s.clock)
	tat := at
	p := s.find(key, at)
	if p >= 0 {
		tat = s.tat(p)
	}
	next, ok := s.lim.judge(tat, at, a, b)
	if !ok {
		if p >= 0 {
			s.penalise(key, p, at)
		}
		wait = s.lim.wait(next, a, b, s.clock, ns)
		s.mu.Unlock()
		return wait, false
	}
	if p < 0 && s.lim.live(next, at) { // or it would be kept for nothing
		// Peek asks too whether there is a place: where there is none, another
		// bucket decides.
		if p = s.place(key.hash, at, really); p < 0 {
			s.mu.Unlock()
			return t.overflow.take(a, b, ns, really)
		}
	}
	if really && p >= 0 {
		s.store(p, next, at)
	}
	s.mu.Unlock()
	return 0, true
}

// Charge takes n tokens whether or not they are there: what is owed is paid off
// before the next one is admitted. A bucket that several keys share it empties,
// no more: nobody can run up a debt for others. A debt of more than 16 bursts
// may be cut to that.
func (t *Table) Charge(key Key, n float64, now time.Time) { t.Charge2(key, n, 0, now) }

// Charge2 is Charge for both buckets of key.
func (t *Table) Charge2(key Key, a, b float64, now time.Time) {
	ns := t.elapsed(now)
	s := t.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = max(s.clock, ns)
	at := s.lim.at(s.clock)
	p := s.find(key, at)
	tat := at
	if p >= 0 {
		tat = s.tat(p)
	} else if p = s.place(key.hash, at, true); p < 0 {
		t.overflow.charge(a, b, ns)
		return
	}
	next := s.lim.charge(tat, at, a, b, s.mem[p]&network != 0)
	s.store(p, next, at)
	if s.lim.empty(next, at) {
		s.penalise(key, p, at)
	}
}

// Give puts n tokens back that Take took. What was taken from a bucket that
// several keys share stays taken.
func (t *Table) Give(key Key, n float64) { t.Give2(key, n, 0) }

// Give2 puts back what Take2 took.
func (t *Table) Give2(key Key, a, b float64) {
	s := t.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.own(key.hash); p >= 0 {
		s.give(p, a, b)
	}
}

// SetRate changes the limits, of both lanes if there are two; a lane that is
// not named stays as it is. What is owed stays owed; but who has not overdrawn a
// bucket that becomes smaller does not overdraw the smaller one. For each key
// the change is atomic.
func (t *Table) SetRate(now time.Time, to ...Limit) {
	t.setting.Lock()
	defer t.setting.Unlock()
	ns := t.elapsed(now)
	lim := t.shard[0].lim.with(to)
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		s.clock = max(s.clock, ns)
		s.set(lim)
		s.mu.Unlock()
	}
	o := &t.overflow
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock = max(o.clock, ns)
	o.tat = o.lim.convert(lim, o.tat, o.clock)
	o.lim = lim
}

// Stats say how a table is doing.
type Stats struct {
	Keys       int    // whose bucket is not full
	Penalised  int    // of them, kept because they were refused; networks included
	Networks   int    // of them, a /48 penalised in place of the keys in it
	Evicted    uint64 // buckets forgotten that were not full
	Overflowed uint64 // decisions by the bucket of those without a place
}

// Stats looks at every bucket: it is for a scrape now and then.
func (t *Table) Stats(now time.Time) (st Stats) {
	ns := t.elapsed(now)
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		s.clock = max(s.clock, ns)
		s.count(&st)
		s.mu.Unlock()
	}
	t.overflow.mu.Lock()
	st.Overflowed = t.overflow.used
	t.overflow.mu.Unlock()
	return st
}

// Evicted returns how many buckets were dropped that were not full.
func (t *Table) Evicted() (n uint64) {
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		n += s.evicted
		s.mu.Unlock()
	}
	return n
}

func (o *overflow) take(a, b float64, ns int64, really bool) (wait time.Duration, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock = max(o.clock, ns)
	o.used++
	next, ok := o.lim.judge(o.tat, o.lim.at(o.clock), a, b)
	if !ok {
		return o.lim.wait(next, a, b, o.clock, ns), false
	}
	if really {
		o.tat = next
	}
	return 0, true
}

func (o *overflow) charge(a, b float64, ns int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock = max(o.clock, ns)
	o.used++
	o.tat = o.lim.charge(o.tat, o.lim.at(o.clock), a, b, true)
}

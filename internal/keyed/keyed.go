// Package keyed keeps token buckets under keys, in bounded memory.
//
// A table is made once, with room for a number of keys, and never replaced. It
// has no limits of its own, because each call brings a limit. A bucket stores what
// its key owes, in tokens, and when something was last taken from it. The limit of
// the next call turns the time since then into tokens and decides. So debts stay
// when a limit changes, and callers with different limits can share a table.
//
// # Two lanes
//
// Each key has two buckets, which are called lanes. [Table.Take2] decides about
// both of them at once. All other methods use the first lane. A call without a
// limit for a lane takes nothing from it and pays nothing off. The lane keeps its
// debt for the next call that has a limit, but the key counts as full.
//
// # Precision
//
// A key takes 24 bytes, its hash included: 42 bits of hash, 2 bits of marks, 60
// bits of time in nanoseconds, and 44 bits for the debt of each lane. A token has
// 2^27 units. A debt is a whole number of units that is rounded up to 40
// significant bits. Whole tokens are exact, so a burst allows exactly its number
// of takes at any rate.
//
// All rounding is against the key, so a table never admits more than the limit
// says. A take that is admitted can cost less than one unit too much, which is
// 2^-27 tokens, and one part in 2^39 of the debt. A take that is refused changes
// nothing. These bounds hold for any rate, for bursts of up to 2^34 tokens,
// and for 36 years. A larger burst counts as 2^34 tokens, and so does a larger debt.
//
// # Bounded memory
//
// A table is a set-associative cache. It begins small and grows to its cap. A key
// is known by its hash under a secret seed.
//
// When there is no more room, the table forgets the buckets that matter least. It
// forgets full buckets first, and then the one that is nearest to being full.
// Buckets that have refused a take stay. They take at most half of the table.
// Beyond that half, the table penalises the /48 around an IPv6 key in place of the
// key. All keys of that network that have no bucket yet then share one empty
// bucket. IPv4 addresses and strings have no such network. Their buckets are then
// kept like any other, and are forgotten last because they are empty. A key for
// which there is no place shares one bucket with all others like it.
//
// The limit of the call that looks for room decides how full a bucket is.
package keyed

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Limit is the limit of a bucket. The bucket holds at most Burst tokens, and
// PerSecond tokens flow in. There is no limit unless PerSecond is positive.
type Limit struct{ PerSecond, Burst float64 }

// Table is a set of token buckets. It is safe for concurrent use.
//
// Time never steps back. A now that is earlier than the latest one that a part of
// the table has seen counts as that one. A table serves for 36 years.
type Table struct {
	born     time.Time
	seed     maphash.Seed
	maxSets  int // of a shard
	shard    [shards]shard
	overflow overflow
}

// overflow is the bucket that keys without a place share.
type overflow struct {
	mu     sync.Mutex
	clock  int64  // guarded by mu, as in a shard
	bucket bucket // guarded by mu
	used   uint64 // guarded by mu
}

// New returns a table with room for keys, rounded up to a power of two. It grows
// to 24 bytes for each of them.
func New(keys int) *Table {
	t := &Table{born: time.Now(), seed: maphash.MakeSeed(), maxSets: 1}
	for t.maxSets*ways*shards < keys {
		t.maxSets *= 2
	}
	for i := range t.shard {
		t.shard[i].maxSets = t.maxSets
	}
	return t
}

// Key is a key of one table.
type Key struct {
	hash   uint64
	parent uint64 // the hash of the network that is penalised in its place; 0: none
}

// String returns the key of a string.
func (t *Table) String(s string) Key { return Key{hash: maphash.String(t.seed, s)} }

// Prefix returns the key of a prefix.
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

// of returns the shard of a key. All keys of a /48 are in one shard. So one lock
// guards a key and its network, and a client that rotates through a whole /48
// meets a small part of the table.
func (t *Table) of(key Key) *shard {
	if key.parent != 0 {
		return &t.shard[key.parent%shards]
	}
	return &t.shard[key.hash%shards]
}

// elapsed returns the table's time, in nanoseconds.
func (t *Table) elapsed(now time.Time) int64 {
	return min(max(int64(now.Sub(t.born)), 0), horizon)
}

// Take takes n tokens from key's bucket. If there are not enough, it takes none and
// returns how long to wait for them.
func (t *Table) Take(key Key, n float64, limit Limit, now time.Time) (wait time.Duration, ok bool) {
	at := look{lane: [2]lane{newLane(limit)}}
	return t.take(key, pair{at.lane[0].cost(n)}, &at, now, true)
}

// Take2 takes a tokens from key's first bucket and b from its second, or none
// from either.
func (t *Table) Take2(key Key, a, b float64, la, lb Limit, now time.Time) (wait time.Duration, ok bool) {
	at := look{lane: [2]lane{newLane(la), newLane(lb)}}
	return t.take(key, pair{at.lane[0].cost(a), at.lane[1].cost(b)}, &at, now, true)
}

// Peek returns what Take would return, and takes nothing.
func (t *Table) Peek(key Key, n float64, limit Limit, now time.Time) (wait time.Duration, ok bool) {
	at := look{lane: [2]lane{newLane(limit)}}
	return t.take(key, pair{at.lane[0].cost(n)}, &at, now, false)
}

func (t *Table) take(key Key, cost pair, at *look, now time.Time, really bool) (wait time.Duration, ok bool) {
	if at.unlimited() {
		return 0, true
	}
	ns := t.elapsed(now)
	s := t.of(key)
	s.mu.Lock()
	s.look(at, ns)
	p := s.find(key, at)
	b := bucket{seen: at.now}
	if p >= 0 {
		b = s.get(p)
	}
	owed := at.owed(b)
	if !at.fits(owed, cost) {
		if p >= 0 {
			s.penalise(key, p, at)
		}
		wait = at.wait(b, cost, ns)
		s.mu.Unlock()
		return wait, false
	}
	if cost == (pair{}) { // the table stores nothing for such a call
		s.mu.Unlock()
		return 0, true
	}
	if p < 0 {
		// Peek also asks whether there is a place. If there is none, another bucket
		// decides.
		if p = s.place(key.hash, at, really); p < 0 {
			s.mu.Unlock()
			return t.overflow.take(cost, at, ns, really)
		}
	}
	if really {
		s.store(p, at.owes(owed), pair{owed[0] + cost[0], owed[1] + cost[1]}, at)
	}
	s.mu.Unlock()
	return 0, true
}

// Charge takes n tokens whether or not they are there. The table admits no further token
// before the debt is paid off. Charge only empties a bucket that several keys share, so that
// no key can run up a debt for others.
func (t *Table) Charge(key Key, n float64, limit Limit, now time.Time) {
	at := look{lane: [2]lane{newLane(limit)}}
	cost, ns := at.lane[0].cost(n), t.elapsed(now)
	if cost == 0 {
		return
	}
	s := t.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(&at, ns)
	p := s.find(key, &at)
	if p < 0 {
		if p = s.place(key.hash, &at, true); p < 0 {
			t.overflow.charge(cost, &at, ns)
			return
		}
	}
	owed := at.owed(s.get(p))
	live := at.owes(owed)
	if s.mem[p]&network != 0 {
		owed[0] = at.lane[0].drain(owed[0], cost)
	} else {
		owed[0] = min(owed[0]+cost, most)
	}
	s.store(p, live, owed, &at)
	if owed[0] > at.lane[0].burst-token {
		s.penalise(key, p, &at)
	}
}

// Spend takes n tokens from key's own bucket and reports whether they were there. If
// there are fewer, it takes the rest. Unlike Take it penalises no key, and it never
// uses a bucket that several keys share. So the takes of one key never count against
// another. A table that Spend uses should be used by Spend alone, because buckets
// that Take has penalised may leave it no place.
func (t *Table) Spend(key Key, n float64, limit Limit, now time.Time) (ok bool) {
	at := look{lane: [2]lane{newLane(limit)}}
	cost := at.lane[0].cost(n)
	if cost == 0 {
		return true
	}
	s := t.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(&at, t.elapsed(now))
	p := s.own(key.hash)
	if p < 0 {
		if p = s.place(key.hash, &at, true); p < 0 {
			return true
		}
	}
	owed := at.owed(s.get(p))
	live := at.owes(owed)
	ok = at.fits(owed, pair{cost})
	owed[0] = at.lane[0].drain(owed[0], cost)
	s.store(p, live, owed, &at)
	return ok
}

// Give puts n tokens back that Take took with the same limit. It puts nothing back
// into a bucket that several keys share.
func (t *Table) Give(key Key, n float64, limit Limit) { t.Give2(key, n, 0, limit, Limit{}) }

// Give2 puts back what Take2 took with the same limits.
func (t *Table) Give2(key Key, a, b float64, la, lb Limit) {
	first, second := newLane(la), newLane(lb)
	cost := pair{first.cost(a), second.cost(b)}
	s := t.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.own(key.hash); p >= 0 {
		b := s.get(p)
		for i := range b.owed {
			b.owed[i] = max(0, b.owed[i]-cost[i])
		}
		s.put(p, b)
	}
}

// Forget makes key owe nothing, in both lanes. Buckets that several keys share
// stay as they are.
func (t *Table) Forget(key Key) {
	s := t.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.own(key.hash); p >= 0 {
		s.put(p, bucket{})
	}
}

// Stats counts the buckets of a table that are not full.
type Stats struct {
	Keys       int    // the keys whose bucket is not full
	Penalised  int    // how many of Keys are kept because they were refused, networks included
	Networks   int    // how many of Penalised are a /48, in place of the keys in it
	Evicted    uint64 // the buckets that were forgotten although they were not full
	Overflowed uint64 // the decisions by the bucket of the keys without a place
}

// Stats counts the buckets that are not full under these limits. It looks at every
// bucket, so call it seldom.
func (t *Table) Stats(la, lb Limit, now time.Time) (st Stats) {
	ns := t.elapsed(now)
	at := look{lane: [2]lane{newLane(la), newLane(lb)}}
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		s.look(&at, ns)
		s.count(&st, &at)
		s.mu.Unlock()
	}
	t.overflow.mu.Lock()
	st.Overflowed = t.overflow.used
	t.overflow.mu.Unlock()
	return st
}

// sample is how many sets of a shard Sample looks at.
const sample = 16

// Sample is like Stats, but looks at no more than a fixed part of the table. If the table has
// grown beyond that part, Keys, Penalised and Networks are estimates. Its cost does not grow with
// the number of keys.
func (t *Table) Sample(la, lb Limit, now time.Time) (st Stats) {
	ns := t.elapsed(now)
	at := look{lane: [2]lane{newLane(la), newLane(lb)}}
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		s.look(&at, ns)
		s.sample(&st, &at)
		s.mu.Unlock()
	}
	t.overflow.mu.Lock()
	st.Overflowed = t.overflow.used
	t.overflow.mu.Unlock()
	return st
}

// Evicted returns how many buckets were forgotten although they were not full.
func (t *Table) Evicted() (n uint64) {
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		n += s.evicted
		s.mu.Unlock()
	}
	return n
}

func (o *overflow) look(at *look, ns int64) (owed pair) {
	o.clock = max(o.clock, ns)
	o.used++
	at.now = o.clock
	return at.owed(o.bucket)
}

func (o *overflow) take(cost pair, at *look, ns int64, really bool) (wait time.Duration, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	owed := o.look(at, ns)
	if !at.fits(owed, cost) {
		return at.wait(o.bucket, cost, ns), false
	}
	if really {
		o.bucket = bucket{owed: pair{owed[0] + cost[0], owed[1] + cost[1]}, seen: at.now}
	}
	return 0, true
}

func (o *overflow) charge(cost int64, at *look, ns int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	owed := o.look(at, ns)
	owed[0] = at.lane[0].drain(owed[0], cost)
	o.bucket = bucket{owed: owed, seen: at.now}
}

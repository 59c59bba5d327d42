// Package keyed keeps token buckets under keys, in bounded memory.
//
// A bucket is one number: the theoretical arrival time of the generic cell
// rate algorithm, the moment at which the bucket will be full again. A key is
// its 64-bit hash under a secret seed. A table is a set-associative cache of
// such pairs: when a set is full, the entry that is nearest to a full bucket
// goes, so a key that was just refused is never evicted for a fresh one.
package keyed

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"time"
)

const (
	shards = 64
	ways   = 8
)

// Table is a set of token buckets of one rate. It is safe for concurrent use.
type Table struct {
	born    time.Time
	seed    maphash.Seed
	rate    float64 // tokens per second
	burst   float64
	maxSets int // of a shard
	shard   [shards]shard
}

type shard struct {
	mu      sync.Mutex
	sets    []set // a power of two of them
	evicted uint64
	_       [16]byte
}

type set [ways]entry

// entry is free when its bucket is full, that is when tat has passed. Time is
// counted in tokens, so that a take adds a whole number: at any rate a burst is
// exactly its number of takes.
type entry struct {
	hash uint64
	tat  float64
}

// slack is what rounding may add, in tokens.
const slack = 1e-6

// New returns a table of buckets that hold burst tokens and gain perSecond. It
// keeps at least keys of them.
func New(perSecond float64, burst float64, keys int) *Table {
	sets := 1
	for sets*ways*shards < keys {
		sets *= 2
	}
	return &Table{
		born:    time.Now(),
		seed:    maphash.MakeSeed(),
		rate:    perSecond,
		burst:   burst + slack,
		maxSets: sets,
	}
}

// Key is a key of one table.
type Key uint64

// String and Prefix make keys.
func (t *Table) String(s string) Key       { return Key(maphash.String(t.seed, s)) }
func (t *Table) Prefix(p netip.Prefix) Key { return Key(maphash.Comparable(t.seed, p)) }

// Take takes n tokens from key's bucket. When there are not enough it takes
// none and returns how long to wait for them.
func (t *Table) Take(key Key, n float64, now time.Time) (wait time.Duration, ok bool) {
	at := now.Sub(t.born).Seconds() * t.rate
	s := &t.shard[uint64(key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(uint64(key))
	tat, wait, ok := t.judge(e, n, at)
	if !ok {
		return wait, false
	}
	if e == nil {
		e = t.place(s, uint64(key), at)
		e.hash = uint64(key)
	}
	e.tat = tat
	return 0, true
}

// Peek is Take without taking.
func (t *Table) Peek(key Key, n float64, now time.Time) (wait time.Duration, ok bool) {
	s := &t.shard[uint64(key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	_, wait, ok = t.judge(s.find(uint64(key)), n, now.Sub(t.born).Seconds()*t.rate)
	return wait, ok
}

// Charge takes n tokens whether or not they are there: what is owed is paid off
// before the next one is admitted.
func (t *Table) Charge(key Key, n float64, now time.Time) {
	at := now.Sub(t.born).Seconds() * t.rate
	s := &t.shard[uint64(key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(uint64(key))
	if e == nil {
		e = t.place(s, uint64(key), at)
		*e = entry{hash: uint64(key)}
	}
	e.tat = max(e.tat, at) + n
}

// judge returns what a take of n would make of e, which may be nil.
func (t *Table) judge(e *entry, n, at float64) (tat float64, wait time.Duration, ok bool) {
	tat = at + n
	if e != nil {
		tat = max(e.tat, at) + n
	}
	if over := tat - at - t.burst; over > 0 {
		return tat, time.Duration(math.Min(math.Ceil(over/t.rate*float64(time.Second)), math.MaxInt64/2)), false
	}
	return tat, 0, true
}

// Give puts n tokens back that Take took.
func (t *Table) Give(key Key, n float64) {
	s := &t.shard[uint64(key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(uint64(key)); e != nil {
		e.tat -= n
	}
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

func (s *shard) set(hash uint64) *set {
	return &s.sets[(hash/shards)&uint64(len(s.sets)-1)]
}

// find looks at full buckets too: a now that steps back must find the same
// entry again.
func (s *shard) find(hash uint64) *entry {
	if s.sets == nil {
		return nil
	}
	set := s.set(hash)
	for i := range set {
		if e := &set[i]; e.hash == hash {
			return e
		}
	}
	return nil
}

// place makes room for a key that is not there.
func (t *Table) place(s *shard, hash uint64, now float64) *entry {
	if s.sets == nil {
		s.sets = make([]set, 1)
	}
	for {
		set := s.set(hash)
		least := &set[0]
		for i := range set {
			if e := &set[i]; e.tat < least.tat {
				least = e
			}
		}
		if least.tat <= now {
			return least
		}
		if len(s.sets) >= t.maxSets {
			s.evicted++
			return least
		}
		s.grow(now)
	}
}

// grow doubles the shard. A set's entries spread over two, so they fit.
func (s *shard) grow(now float64) {
	old := s.sets
	s.sets = make([]set, 2*len(old))
	for i := range old {
		for _, e := range old[i] {
			if e.tat <= now {
				continue
			}
			to := s.set(e.hash)
			for j := range to {
				if to[j].tat <= now {
					to[j] = e
					break
				}
			}
		}
	}
}

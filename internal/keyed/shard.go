package keyed

import (
	"math"
	"sync"
)

const (
	shards = 64
	ways   = 8  // of a set, which is what a key can lie in
	choice = 16 // of sets, of which a key has two
)

// A tag is a key's hash, with marks in place of its lowest bits. Which shard
// a key is in does not depend on these bits alone.
const (
	marked  = 1 << iota // has refused: kept until it is full
	network             // is a /48 penalised in place of its keys
	marks   = marked | network
)

// shard is a part of a table. Its sets lie one after another in mem, each of
// them eight tags and then, for each lane, eight arrival times. An entry, by the
// index of its tag, is free when its bucket is full. mem has no pointers, and
// nothing in it is ever moved but to grow.
type shard struct {
	mu      sync.Mutex
	lim     *limits
	mem     []uint64
	sets    uint64 // a power of two of them
	maxSets int
	clock   int64 // the latest now, in nanoseconds
	nets    int64 // until when a network may be penalised, likewise
	evicted uint64
	_       [48]byte
}

// line is one of a set's groups of eight.
func (s *shard) line(p int) *[ways]uint64 { return (*[ways]uint64)(s.mem[p:]) }

// stride is the length of a set.
func (s *shard) stride() int { return ways * (1 + s.lim.n) }

// homes returns where the two sets of a hash begin. They may be one.
func (s *shard) homes(hash uint64) (a, b int) {
	i := hash >> 6
	j := i ^ (1 + hash>>56%(choice-1))
	return int(i&(s.sets-1)) * s.stride(), int(j&(s.sets-1)) * s.stride()
}

// find returns the entry that decides about key: its own or, for one that has
// none, that of its network if that is penalised. It is -1 if there is none.
func (s *shard) find(key Key, at pair) int {
	p := s.own(key.hash)
	if p < 0 && key.parent != 0 && s.nets > s.clock {
		if q := s.own(key.parent); q >= 0 && s.mem[q]&network != 0 && s.lim.live(s.tat(q), at) {
			return q
		}
	}
	return p
}

// own looks at full buckets too: that is no harm, and no comparison more.
func (s *shard) own(hash uint64) int {
	if s.sets == 0 {
		return -1
	}
	a, b := s.homes(hash)
	tag := hash &^ marks
	for i, other := range s.line(a) {
		if other&^marks == tag {
			return a + i
		}
	}
	for i, other := range s.line(b) {
		if other&^marks == tag {
			return b + i
		}
	}
	return -1
}

func (s *shard) tat(p int) (tat pair) {
	tat[0] = int64(s.mem[p+ways])
	if s.lim.n > 1 {
		tat[1] = int64(s.mem[p+2*ways])
	}
	return tat
}

// write sets an entry's arrival times.
func (s *shard) write(p int, tat pair) {
	s.mem[p+ways] = uint64(tat[0])
	if s.lim.n > 1 {
		s.mem[p+2*ways] = uint64(tat[1])
	}
}

// store is write for a decision made. A bucket that was full begins anew,
// without marks.
func (s *shard) store(p int, next, at pair) {
	if tag := s.mem[p]; tag&marks != 0 {
		if !s.lim.live(s.tat(p), at) {
			s.mem[p] = tag &^ marks
		} else if tag&network != 0 {
			s.nets = max(s.nets, s.lim.fills(next, at, s.clock))
		}
	}
	s.write(p, next)
}

func (s *shard) give(p int, a, b float64) {
	tat := s.tat(p)
	for i, n := range [2]float64{a, b} {
		if i < s.lim.n && s.lim.lane[i].burst != 0 {
			tat[i] = max(0, tat[i]-s.lim.lane[i].cost(n))
		}
	}
	s.write(p, tat)
}

// place makes room for a key that is not there, and says where, or -1. Unless
// really, it only tells whether it would.
func (s *shard) place(hash uint64, at pair, really bool) int {
	if s.sets == 0 {
		if !really {
			return 0
		}
		s.sets, s.mem = 1, make([]uint64, s.stride())
	}
	for {
		a, b := s.homes(hash)
		if p := s.free(a, at); p >= 0 {
			return s.clear(p, hash, really)
		}
		if p := s.free(b, at); p >= 0 {
			return s.clear(p, hash, really)
		}
		if int(s.sets) < s.maxSets {
			if !really {
				return 0
			}
			s.grow(at)
			continue
		}
		p, level := s.fullest(a, at)
		if q, other := s.fullest(b, at); other < level {
			p = q
		}
		if p >= 0 && really {
			s.evicted++
			s.clear(p, hash, true)
		}
		return p
	}
}

// free returns a free entry of a set, or -1.
func (s *shard) free(set int, at pair) int {
	first, second := s.line(set+ways), s.line(set+ways*s.lim.n)
	for i := range ways {
		// With one lane these are the same.
		if int64(first[i]) <= at[0] && int64(second[i]) <= at[s.lim.n-1] {
			return set + i
		}
	}
	return -1
}

// fullest returns the entry of a set that may be forgotten first, or -1, and how
// much is missing in it.
func (s *shard) fullest(set int, at pair) (p int, level float64) {
	p, level = -1, math.Inf(1)
	for q := set; q < set+ways; q++ {
		if s.mem[q]&marked != 0 {
			continue
		}
		if other := s.lim.level(s.tat(q), at); other < level {
			p, level = q, other
		}
	}
	return p, level
}

// clear gives an entry to another key.
func (s *shard) clear(p int, hash uint64, really bool) int {
	if really {
		s.mem[p] = hash &^ marks
		s.write(p, pair{})
	}
	return p
}

// grow doubles the shard. Whichever of its two sets a key is in, it goes to one
// of the two that this set becomes, and nobody else does: they fit.
func (s *shard) grow(at pair) {
	old, sets, stride := s.mem, s.sets, s.stride()
	s.mem, s.sets = make([]uint64, 2*len(old)), 2*sets
	for i := range int(sets) {
		for way := range ways {
			p := i*stride + way
			tag, tat := old[p], pair{int64(old[p+ways])}
			if s.lim.n > 1 {
				tat[1] = int64(old[p+2*ways])
			}
			if !s.lim.live(tat, at) {
				continue
			}
			to, b := s.homes(tag)
			if to/stride&int(sets-1) != i {
				to = b
			}
			for q := to; q < to+ways; q++ {
				if !s.lim.live(s.tat(q), at) {
					s.mem[q] = tag
					s.write(q, tat)
					break
				}
			}
		}
	}
}

// penalise protects an entry that has refused. If too many are protected, it
// penalises the network of key instead.
func (s *shard) penalise(key Key, p int, at pair) {
	if s.mem[p]&marked != 0 {
		return
	}
	if s.mem[p]&^marks == key.parent&^marks && key.parent != 0 {
		key = Key{hash: key.parent} // it was the network that refused
	}
	if s.mark(key.hash, at, false) || key.parent == 0 {
		return
	}
	q := s.own(key.parent)
	if q < 0 {
		if q = s.place(key.parent, at, true); q < 0 {
			return
		}
	}
	tat := s.lim.drained(s.tat(q), at)
	s.write(q, tat)
	s.mem[q] |= network
	s.nets = max(s.nets, s.lim.fills(tat, at, s.clock))
	s.mark(key.parent, at, true)
}

// mark protects the entry of hash, if no more than half of those around it are
// protected then. Networks have a part of that half to themselves.
func (s *shard) mark(hash uint64, at pair, net bool) bool {
	for {
		p := s.own(hash)
		// Both sets of a key are in one aligned group of sets.
		stride := s.stride()
		size := min(int(s.sets), choice)
		first := p / stride &^ (size - 1)
		n := 0
		for i := first; i < first+size; i++ {
			for q := i * stride; q < i*stride+ways; q++ {
				if s.mem[q]&marked != 0 && s.lim.live(s.tat(q), at) {
					n++
				}
			}
		}
		most := size * ways / 2
		if !net {
			most -= max(1, most/8)
		}
		if n < most {
			s.mem[p] |= marked
			return true
		}
		if int(s.sets) >= s.maxSets {
			return false
		}
		s.grow(at)
	}
}

// set changes the limits.
func (s *shard) set(lim *limits) {
	s.nets = 0
	at := lim.at(s.clock)
	for set := 0; set < len(s.mem); set += s.stride() {
		for p := set; p < set+ways; p++ {
			tat := s.lim.convert(lim, s.tat(p), s.clock)
			s.write(p, tat)
			switch {
			case !lim.live(tat, at):
				s.mem[p] &^= marks
			case s.mem[p]&network != 0:
				s.nets = max(s.nets, lim.fills(tat, at, s.clock))
			}
		}
	}
	s.lim = lim
}

func (s *shard) count(st *Stats) {
	st.Evicted += s.evicted
	at := s.lim.at(s.clock)
	for set := 0; set < len(s.mem); set += s.stride() {
		for p := set; p < set+ways; p++ {
			if !s.lim.live(s.tat(p), at) {
				continue
			}
			st.Keys++
			if s.mem[p]&marked != 0 {
				st.Penalised++
			}
			if s.mem[p]&network != 0 {
				st.Networks++
			}
		}
	}
}

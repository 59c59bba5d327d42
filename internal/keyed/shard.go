package keyed

import (
	"math"
	"sync"
)

const (
	shards = 64
	ways   = 8  // how many entries a set has; a key lies in one of two sets
	choice = 16 // how many sets there are in a group; both sets of a key are in one group
)

// An entry is three words, and eight entries are a set. A set begins with the tags
// of its entries. Then come the time and the debt of each of them, side by side so
// that they are in one cache line. An entry is known by the index of its tag.
//
//	tag   42 bits of the key's hash · 2 marks · bits 24 to 43 of the second debt
//	time  60 bits of nanoseconds · bits 20 to 23 of the second debt
//	debt  bits 0 to 19 of the second debt · 44 bits of the first debt
//
// The lowest bits of the hash, which choose the shard, are not in the tag.
const (
	stride = 3 * ways // words of a set

	highBits = 20
	highMask = 1<<highBits - 1

	marked  = 1 << highBits       // has refused, and is kept until it is full
	network = 1 << (highBits + 1) // is a /48 that is penalised in place of its keys
	marks   = marked | network

	hashShift = highBits + 2
	hashMask  = ^uint64(1<<hashShift - 1)
)

// shard is a part of a table. An entry whose bucket is full is free. mem has no
// pointers, and nothing in it is ever moved except by grow.
type shard struct {
	mu      sync.Mutex // guards all fields below, except maxSets; overflow.mu may be taken while it is held
	mem     []uint64
	sets    uint64 // a power of two of them
	maxSets int    // read-only after New
	clock   int64  // the latest now, in nanoseconds
	nets    int    // entries marked as a network
	evicted uint64
	_       [48]byte
}

// look sets the time of a call.
func (s *shard) look(at *look, ns int64) {
	s.clock = max(s.clock, ns)
	at.now = s.clock
}

// tags returns the tags of a set.
func (s *shard) tags(set int) *[ways]uint64 { return (*[ways]uint64)(s.mem[set:]) }

// state returns where the time of an entry is. Its debt comes after it.
func state(p int) int { return p + ways + p%stride }

// get returns an entry's bucket.
func (s *shard) get(p int) bucket {
	q := state(p)
	tag, at, debt := s.mem[p], s.mem[q], s.mem[q+1]
	second := debt>>codeBits | at&15<<20 | tag&highMask<<24
	return bucket{owed: pair{unpack(debt & codeMask), unpack(second)}, seen: int64(at >> 4)}
}

// put sets an entry's bucket.
func (s *shard) put(p int, b bucket) {
	second := pack(b.owed[1])
	s.mem[p] = s.mem[p]&^highMask | second>>24
	q := state(p)
	s.mem[q] = uint64(b.seen)<<4 | second>>20&15
	s.mem[q+1] = second<<codeBits | pack(b.owed[0])
}

// homes returns where the two sets of a hash begin. They may be one.
func (s *shard) homes(hash uint64) (a, b int) {
	i := hash >> hashShift
	j := i ^ (1 + hash>>56%(choice-1))
	return int(i&(s.sets-1)) * stride, int(j&(s.sets-1)) * stride
}

// find returns the entry that decides about key. That is its own or, for a key
// that has none, that of its network if it is penalised. find returns -1 if there
// is none.
func (s *shard) find(key Key, at *look) int {
	p := s.own(key.hash)
	if p < 0 && key.parent != 0 && s.nets > 0 {
		if q := s.own(key.parent); q >= 0 && s.mem[q]&network != 0 && at.live(s.get(q)) {
			return q
		}
	}
	return p
}

// own returns the entry of a hash, or -1. It finds full buckets too.
func (s *shard) own(hash uint64) int {
	if s.sets == 0 {
		return -1
	}
	a, b := s.homes(hash)
	tag := hash & hashMask
	for i, other := range s.tags(a) {
		if other&hashMask == tag {
			return a + i
		}
	}
	for i, other := range s.tags(b) {
		if other&hashMask == tag {
			return b + i
		}
	}
	return -1
}

// store is put for a take. A bucket that was full before it begins anew, without
// marks.
func (s *shard) store(p int, live bool, owed pair, at *look) {
	if !live {
		s.unmark(p)
	}
	s.put(p, bucket{owed: owed, seen: at.now})
}

func (s *shard) unmark(p int) {
	if s.mem[p]&network != 0 {
		s.nets--
	}
	s.mem[p] &^= marks
}

// clear gives an entry to another hash.
func (s *shard) clear(p int, hash uint64) {
	s.unmark(p)
	s.mem[p] = hash & hashMask
	s.put(p, bucket{})
}

// place makes room for a hash that is not there and returns its entry, or -1 if
// there is no room. Unless really, it changes nothing, and only the sign of the
// result means something.
func (s *shard) place(hash uint64, at *look, really bool) int {
	if s.sets == 0 {
		if !really {
			return 0
		}
		s.sets, s.mem = 1, make([]uint64, stride)
	}
	for {
		a, b := s.homes(hash)
		p := s.free(a, at)
		if p < 0 {
			p = s.free(b, at)
		}
		if p < 0 && int(s.sets) < s.maxSets {
			if !really {
				return 0
			}
			s.grow()
			continue
		}
		evicts := p < 0
		if evicts {
			var level float64
			p, level = s.fullest(a, at)
			if q, other := s.fullest(b, at); other < level {
				p = q
			}
		}
		if p >= 0 && really {
			if evicts {
				s.evicted++
			}
			s.clear(p, hash)
		}
		return p
	}
}

// free returns a free entry of a set, or -1.
func (s *shard) free(set int, at *look) int {
	for p := set; p < set+ways; p++ {
		if !at.live(s.get(p)) {
			return p
		}
	}
	return -1
}

// fullest returns the entry of a set that may be forgotten first, or -1, and how
// much is missing in it.
func (s *shard) fullest(set int, at *look) (p int, level float64) {
	p, level = -1, math.Inf(1)
	for q := set; q < set+ways; q++ {
		if s.mem[q]&marked != 0 {
			continue
		}
		if other := at.level(s.get(q)); other < level {
			p, level = q, other
		}
	}
	return p, level
}

// grow doubles the shard. Each set becomes two sets. An entry goes to the one of
// them that is its home, and entries of other sets do not. So all of them fit.
// Entries that owe nothing are dropped. No network is among the others, because
// none is penalised before the shard is fully grown.
func (s *shard) grow() {
	old := shard{mem: s.mem}
	s.mem, s.sets = make([]uint64, 2*len(old.mem)), 2*s.sets
	for set := 0; set < len(old.mem); set += stride {
		for p := set; p < set+ways; p++ {
			b := old.get(p)
			if b.owed == (pair{}) {
				continue
			}
			tag := old.mem[p]
			to, other := s.homes(tag)
			if to%len(old.mem) != set {
				to = other
			}
			for s.get(to).owed != (pair{}) {
				to++
			}
			s.mem[to] = tag
			s.put(to, b)
		}
	}
}

// penalise protects an entry that has refused, unless its bucket is full and was
// asked for more than it ever holds. If too many are protected, penalise penalises
// the network of key instead.
func (s *shard) penalise(key Key, p int, at *look) {
	if s.mem[p]&marked != 0 || !at.live(s.get(p)) {
		return
	}
	if key.parent != 0 && s.mem[p]&hashMask == key.parent&hashMask {
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
	owed := at.owed(s.get(q))
	for i := range at.lane {
		if at.lane[i].limited {
			owed[i] = max(owed[i], at.lane[i].burst)
		}
	}
	s.put(q, bucket{owed: owed, seen: at.now})
	if s.mem[q]&network == 0 {
		s.mem[q] |= network
		s.nets++
	}
	s.mark(key.parent, at, true)
}

// mark protects the entry of hash, if no more than half of those around it are
// protected then. Networks have a part of that half to themselves.
func (s *shard) mark(hash uint64, at *look, net bool) bool {
	for {
		p := s.own(hash)
		// Both sets of a key are in one aligned group of sets.
		size := min(int(s.sets), choice)
		first := p / stride &^ (size - 1)
		n := 0
		for i := first; i < first+size; i++ {
			for q := i * stride; q < i*stride+ways; q++ {
				if s.mem[q]&marked != 0 && at.live(s.get(q)) {
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
		s.grow()
	}
}

func (s *shard) count(st *Stats, at *look) {
	st.Evicted += s.evicted
	for set := 0; set < len(s.mem); set += stride {
		s.countSet(st, at, set)
	}
}

// sample is count for sets that are spread over the shard. They stand for the others.
func (s *shard) sample(st *Stats, at *look) {
	st.Evicted += s.evicted
	step := max(1, int(s.sets)/sample) // both are powers of two
	var part Stats
	for set := 0; set < len(s.mem); set += step * stride {
		s.countSet(&part, at, set)
	}
	st.Keys += part.Keys * step
	st.Penalised += part.Penalised * step
	st.Networks += part.Networks * step
}

// countSet counts the buckets of a set that are not full.
func (s *shard) countSet(st *Stats, at *look, set int) {
	for p := set; p < set+ways; p++ {
		if !at.live(s.get(p)) {
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

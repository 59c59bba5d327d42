package jsonschema

import (
	"hash/maphash"
	"math/bits"
	"sync"
)

// A scratch is the memory that a walk needs outside its own frame. It needs it for objects with names that the schema does
// not know, for names with escapes, and for values that are judged more than once. The walk takes it from a pool when it
// first needs it.
type scratch struct {
	keys  []keyEntry
	heads []int32 // index+1 of the newest name with these hash bits
	names []byte  // names that had to be unescaped
	text  []byte  // a string being judged
	fold  []byte
	words []uint64 // names seen, where there are more than 64
	memo  map[uint64]outcome
	items []itemHash
	dirty bool // heads holds something
}

type keyEntry struct {
	hash     uint64
	off, end int32 // in the message, or in names
	next     int32
	own      bool // in names
}

// An outcome is the verdict of a recursive node on a value. It has the end of the value, or the fault.
type outcome struct {
	end   int32
	fault fault
}

var scratches = sync.Pool{New: func() any { return &scratch{memo: map[uint64]outcome{}} }}

func (v *vm) scratch() *scratch {
	if v.sc == nil {
		v.sc = scratches.Get().(*scratch)
	}
	return v.sc
}

// release gives the scratch back to the pool, unless it has grown too large to keep.
func (v *vm) release() {
	s := v.sc
	v.sc = nil
	if cap(s.keys) > 1<<14 || cap(s.names) > 1<<16 || cap(s.text) > 1<<16 || cap(s.words) > 1<<12 || len(s.memo) > 1<<10 || cap(s.items) > 1<<13 {
		return
	}
	if s.dirty {
		clear(s.heads)
		s.dirty = false
	}
	if len(s.memo) > 0 {
		clear(s.memo)
	}
	s.keys, s.names, s.words, s.items = s.keys[:0], s.names[:0], s.words[:0], s.items[:0]
	scratches.Put(s)
}

// A keyFrame is one open object among the names of scratch.
type keyFrame struct {
	first  int32  // its first name, plus one; 0: there is none yet
	names  int32  // length of scratch.names when it began
	bloom  uint64 // hash bits of its names
	linked bool   // its names are in the chains
}

// linear is how many names of an object are searched one by one. The names of a larger object are in chains.
const linear = 24

var (
	seed    = maphash.MakeSeed()
	mixKeys = [3]uint64{maphash.String(seed, "a") | 1, maphash.String(seed, "b") | 1, maphash.String(seed, "c") | 1}
)

func fold64(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// hashBytes has a key of the process, so that no peer knows which names collide.
func hashBytes(b []byte) uint64 {
	n := len(b)
	if n <= 16 {
		first, last := ends(b)
		return fold64(first^mixKeys[0], last^mixKeys[1])
	}
	h := uint64(n) ^ mixKeys[2]
	for i := 0; i+16 < n; i += 16 {
		h = fold64(load(b, i)^mixKeys[0]^h, load(b, i+8)^mixKeys[1])
	}
	return fold64(load(b, n-16)^mixKeys[0]^h, load(b, n-8)^mixKeys[1])
}

// open begins the names of an object.
func (v *vm) open(kf *keyFrame) *scratch {
	s := v.scratch()
	if kf.first == 0 {
		kf.first, kf.names = int32(len(s.keys))+1, int32(len(s.names))
	}
	return s
}

// track notes a name of the object kf, and reports whether the object has it already. The name is msg[off:end], or the
// end of scratch.names if own.
func (v *vm) track(kf *keyFrame, name []byte, off, end int, own bool) (twice bool) {
	s := v.open(kf)
	first := int(kf.first) - 1
	e := keyEntry{hash: hashBytes(name), off: int32(off), end: int32(end), own: own}
	bit := uint64(1) << (e.hash >> 58)
	e.hash += uint64(kf.first) * 0x9E3779B97F4A7C15 // objects share the chains
	if n := len(s.keys) - first; n < linear {
		if kf.bloom&bit != 0 {
			for i := first; i < len(s.keys); i++ {
				if s.keys[i].hash == e.hash && string(v.nameOf(&s.keys[i])) == string(name) {
					return true
				}
			}
		}
	} else {
		if len(s.heads) <= len(s.keys) {
			s.grow()
		}
		if !kf.linked {
			kf.linked, s.dirty = true, true
			for i := first; i < len(s.keys); i++ {
				s.link(i)
			}
		}
		for k := s.heads[e.hash&uint64(len(s.heads)-1)]; k != 0; {
			o := &s.keys[k-1]
			if o.hash == e.hash && int(k) > first && string(v.nameOf(o)) == string(name) {
				return true
			}
			k = o.next
		}
	}
	kf.bloom |= bit
	e.next = -1
	s.keys = append(s.keys, e)
	if kf.linked {
		s.link(len(s.keys) - 1)
	}
	return false
}

func (v *vm) nameOf(e *keyEntry) []byte {
	if e.own {
		return v.sc.names[e.off:e.end]
	}
	return v.msg[e.off:e.end]
}

// untrack forgets the names of an object that has ended.
func (v *vm) untrack(kf *keyFrame) {
	s := v.sc
	first := int(kf.first) - 1
	if kf.linked {
		for i := len(s.keys) - 1; i >= first; i-- {
			s.heads[s.keys[i].hash&uint64(len(s.heads)-1)] = s.keys[i].next
		}
	}
	s.keys = s.keys[:first]
	s.names = s.names[:kf.names]
}

func (s *scratch) link(i int) {
	h := &s.heads[s.keys[i].hash&uint64(len(s.heads)-1)]
	s.keys[i].next, *h = *h, int32(i+1)
}

// grow makes more chains, and puts the names of the old ones into them.
func (s *scratch) grow() {
	s.heads = make([]int32, max(128, 4*len(s.heads)))
	for i := range s.keys {
		if s.keys[i].next >= 0 {
			s.link(i)
		}
	}
}

// Package topk finds the heaviest keys of a stream in bounded memory, such as the
// clients that are refused most often.
//
// A Sketch has k counters, however many keys come. It forgets with time: what was
// added a half-life ago counts half. So Top says which keys are heavy now.
//
// # What is certain
//
// Weights are those that have not been forgotten. Each key with more than 1/k of
// the weight of all keys is in the Sketch, whatever else was added, and in whatever
// order. The weight of a key in Top is at least Count-Error and at most Count. This
// is the algorithm Space-Saving with decayed weights.
//
// A client that rotates its keys, so that each comes once, takes over the counters
// of light keys only. Such keys have an Error that is nearly their Count, and Top
// lists them last.
//
// # How to use it
//
// Choose k as ten times the number of keys to show, or more, and make one Sketch
// for each stream. A Sketch keeps the keys that it counts, so a string that is a
// part of a larger one, or very long, should be cloned and cut before it is added.
package topk

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// step is the part of a half-life in which the gain stays the same.
	step = 64
	// highest is the gain above which all counts are scaled down.
	highest = 1 << 40
	// heaviest is the largest weight of one Add.
	heaviest = 1 << 40
)

// Entry is a key and what is known of its weight, which is at least Count-Error and
// at most Count.
type Entry[K comparable] struct {
	Key   K
	Count float64
	Error float64
}

// AtLeast returns the weight that the key certainly has.
func (e Entry[K]) AtLeast() float64 { return e.Count - e.Error }

// Sketch counts the heaviest keys of a stream. It is safe for concurrent use. Make
// it with New.
type Sketch[K comparable] struct {
	k    int           // read-only after New
	tick time.Duration // read-only after New: a step of the half-life

	mu       sync.Mutex // guards all fields below; no other lock is taken while it is held
	born     time.Time  // the moment at which the gain was 1
	at       int64      // steps since born, for which gain is valid
	gain     float64    // what a weight of 1 adds now
	total    float64    // of all weights
	index    map[K]int32
	counters []counter[K]
	heap     []int32 // indexes of counters; the lightest is the first
}

// counter counts a key. Its numbers are multiplied by the gain of their time, so
// they need not be touched as time passes.
type counter[K comparable] struct {
	key   K
	count float64
	err   float64
	place int32 // index in heap
}

// New returns an empty Sketch with k counters, at least 1. With a half-life that is
// not positive nothing is forgotten.
func New[K comparable](k int, halfLife time.Duration) *Sketch[K] {
	k = min(max(k, 1), math.MaxInt32)
	s := &Sketch[K]{k: k, gain: 1}
	if halfLife > 0 {
		s.tick = max(halfLife/step, 1)
	}
	return s
}

// Add adds a weight to a key. A weight that is not positive does nothing, as does a
// key that does not equal itself. A weight above 2^40 counts as 2^40.
func (s *Sketch[K]) Add(now time.Time, key K, weight float64) {
	if !(weight > 0) || key != key {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pass(now)
	weight = min(weight, heaviest) * s.gain
	s.total += weight
	if i, ok := s.index[key]; ok {
		s.counters[i].count += weight
		s.down(int(s.counters[i].place))
		return
	}
	if s.index == nil {
		s.index = make(map[K]int32, s.k)
	}
	if n := len(s.counters); n < s.k {
		s.counters = append(s.counters, counter[K]{key: key, count: weight, place: int32(n)})
		s.heap = append(s.heap, int32(n))
		s.index[key] = int32(n)
		s.up(n)
		return
	}
	i := s.heap[0]
	c := &s.counters[i]
	delete(s.index, c.key)
	s.index[key] = i
	*c = counter[K]{key: key, count: c.count + weight, err: c.count}
	s.down(0)
}

// Top returns the n keys with the largest certain weights, the heaviest first.
func (s *Sketch[K]) Top(now time.Time, n int) []Entry[K] {
	s.mu.Lock()
	s.pass(now)
	all := make([]Entry[K], 0, len(s.counters))
	for _, c := range s.counters {
		if c.count > 0 { // or it is forgotten
			all = append(all, Entry[K]{c.key, c.count / s.gain, c.err / s.gain})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b Entry[K]) int {
		return cmp.Or(cmp.Compare(b.AtLeast(), a.AtLeast()), cmp.Compare(b.Count, a.Count))
	})
	return slices.Clip(all[:min(max(n, 0), len(all))])
}

// Total returns the weight of all keys together, in the Sketch or not.
func (s *Sketch[K]) Total(now time.Time) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pass(now)
	return s.total / s.gain
}

// pass lets time pass until now. A time that is earlier than before counts as the
// same time.
func (s *Sketch[K]) pass(now time.Time) {
	if s.tick == 0 {
		return
	}
	if s.born.IsZero() {
		s.born = now
	}
	at := int64(now.Sub(s.born) / s.tick)
	if at <= s.at {
		return
	}
	s.at = at
	s.gain = math.Exp2(float64(at) / step)
	if s.gain < highest {
		return
	}
	for i := range s.counters {
		s.counters[i].count /= s.gain
		s.counters[i].err /= s.gain
	}
	s.total /= s.gain
	s.born, s.at, s.gain = now, 0, 1
}

// down moves the counter at place i of the heap down to where it belongs.
func (s *Sketch[K]) down(i int) {
	moving := s.heap[i]
	for {
		child := 2*i + 1
		if child >= len(s.heap) {
			break
		}
		if child+1 < len(s.heap) && s.counters[s.heap[child+1]].count < s.counters[s.heap[child]].count {
			child++
		}
		if s.counters[moving].count <= s.counters[s.heap[child]].count {
			break
		}
		s.put(i, s.heap[child])
		i = child
	}
	s.put(i, moving)
}

// up moves the counter at place i of the heap up to where it belongs.
func (s *Sketch[K]) up(i int) {
	moving := s.heap[i]
	for i > 0 {
		parent := (i - 1) / 2
		if s.counters[s.heap[parent]].count <= s.counters[moving].count {
			break
		}
		s.put(i, s.heap[parent])
		i = parent
	}
	s.put(i, moving)
}

func (s *Sketch[K]) put(place int, i int32) {
	s.heap[place] = i
	s.counters[i].place = int32(place)
}

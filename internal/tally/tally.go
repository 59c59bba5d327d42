// Package tally counts things that happen often, from many goroutines at once. Its counters are
// atomic, take no lock and allocate nothing.
package tally

import (
	"math/bits"
	"sync/atomic"
)

const (
	// subBits is the number of bits that tell the buckets of one octave apart.
	subBits = 3

	// maxBits bounds the values that are told apart. Larger ones count in the last bucket.
	maxBits = 40

	// Buckets is how many buckets a Histogram has.
	Buckets = (maxBits-subBits+1)<<subBits + 1
)

// Histogram counts values in buckets whose widths grow with the values. A bucket is at most an
// eighth as wide as the values in it are large. Its zero value is empty. Many goroutines may use
// it at the same time.
type Histogram struct {
	counts [Buckets]atomic.Uint64
	sum    atomic.Uint64
}

// Add counts a value.
func (h *Histogram) Add(v uint64) {
	h.counts[bucket(v)].Add(1)
	h.sum.Add(v)
}

// Counts is what one or more Histograms had counted at a moment.
type Counts struct {
	N   [Buckets]uint64
	Sum uint64
}

// Add adds what h has counted to c.
func (c *Counts) Add(h *Histogram) {
	for i := range h.counts {
		c.N[i] += h.counts[i].Load()
	}
	c.Sum += h.sum.Load()
}

// Note counts a value in c.
func (c *Counts) Note(v uint64) {
	c.N[bucket(v)]++
	c.Sum += v
}

// Total returns how many values c has.
func (c *Counts) Total() (n uint64) {
	for _, k := range c.N {
		n += k
	}
	return n
}

// bucket returns the index of the bucket that v counts in. The upper bounds of the buckets are
// 0, 1, 2, …, 8, 9, …, 16, 18, 20, …, so that each power of two is one.
func bucket(v uint64) int {
	if v <= 1<<subBits {
		return int(v)
	}
	v-- // the bounds belong to the buckets below them
	octave := bits.Len64(v) - 1 - subBits
	if octave > maxBits-subBits-1 {
		return Buckets - 1
	}
	return (octave+1)<<subBits + int(v>>octave) - 1<<subBits + 1
}

// Upper returns the largest value that counts in bucket i.
func Upper(i int) uint64 {
	if i <= 1<<subBits {
		return uint64(i)
	}
	i--
	octave := i>>subBits - 1
	return uint64(i&(1<<subBits-1)+1<<subBits+1) << octave
}

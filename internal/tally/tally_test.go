package tally

import (
	"math/rand/v2"
	"testing"
)

// Each value counts in the first bucket whose bound is not below it.
func TestBucket(t *testing.T) {
	check := func(v uint64) {
		t.Helper()
		i := bucket(v)
		if i < 0 || i >= Buckets {
			t.Fatalf("bucket(%d) = %d", v, i)
		}
		if v > 1<<maxBits {
			if i != Buckets-1 {
				t.Fatalf("bucket(%d) = %d, not the last", v, i)
			}
			return
		}
		if v > Upper(i) || i > 0 && v <= Upper(i-1) {
			t.Fatalf("%d counts in bucket %d, from %d to %d", v, i, Upper(max(0, i-1)), Upper(i))
		}
		if float64(Upper(i)-v) > float64(v)/8 {
			t.Fatalf("%d counts as %d", v, Upper(i))
		}
	}
	for v := range uint64(100_000) {
		check(v)
	}
	for range 100_000 {
		check(rand.Uint64() >> rand.IntN(64))
	}
	for i := range 64 {
		check(1<<i - 1)
		check(1 << i)
		check(1<<i + 1)
		if i <= maxBits && Upper(bucket(1<<i)) != 1<<i {
			t.Errorf("2^%d is no bound", i)
		}
	}
	check(1<<64 - 1)
}

func TestHistogram(t *testing.T) {
	var a, b Histogram
	for v := range uint64(1000) {
		a.Add(v)
		b.Add(v)
	}
	var c Counts
	c.Add(&a)
	c.Add(&b)
	if c.Total() != 2000 || c.Sum != 999*1000 {
		t.Errorf("%d values with the sum %d", c.Total(), c.Sum)
	}
	if n := testing.AllocsPerRun(100, func() { a.Add(77) }); n != 0 {
		t.Errorf("Add allocates %v times", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	var h Histogram
	for i := uint64(0); b.Loop(); i += 77 {
		h.Add(i & 0xffff)
	}
}

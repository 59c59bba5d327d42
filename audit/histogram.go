package audit

// Histogram has the distribution of a quantity since the Guard was made. The bounds of its
// buckets are part of no promise, but each power of two of the quantity's smallest unit is one:
// a byte, a message, or a microsecond.
type Histogram struct {
	// Count is how many values there are.
	Count uint64

	// Sum is the sum of all values.
	Sum float64

	// Buckets has the buckets that are not empty, in ascending order.
	Buckets []Bucket
}

// Bucket is a bucket of a Histogram.
type Bucket struct {
	// Upper is the largest value that the bucket counts.
	Upper float64

	// Count is how many values the bucket has.
	Count uint64
}

// AtMost returns how many values are at most v. It is exact if v is the bound of a bucket, and
// otherwise leaves out the bucket that v lies in.
func (h Histogram) AtMost(v float64) (n uint64) {
	for _, b := range h.Buckets {
		if b.Upper > v {
			break
		}
		n += b.Count
	}
	return n
}

// Quantile returns a value that is at least as large as the part q of all values, such as 0.99.
// It is at most an eighth too large. It is 0 if there are no values.
func (h Histogram) Quantile(q float64) float64 {
	want, n := q*float64(h.Count), uint64(0)
	for _, b := range h.Buckets {
		if n += b.Count; float64(n) >= want {
			return b.Upper
		}
	}
	return 0
}

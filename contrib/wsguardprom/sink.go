package wsguardprom

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wsguard/wsguard/audit"
)

// sink sends the series of one family.
type sink struct {
	desc *prometheus.Desc
	born time.Time // when the counters began with 0
	out  chan<- prometheus.Metric
}

func (s *sink) gauge(v float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, v, labels...)
}

func (s *sink) counter(n uint64, labels ...string) {
	s.out <- prometheus.MustNewConstMetricWithCreatedTimestamp(s.desc, prometheus.CounterValue, float64(n), s.born, labels...)
}

// counters sends a counter for each key of n, whose parts are the labels.
func counters[K comparable](s *sink, n map[K]uint64, labels func(K) []string) {
	for k, v := range n {
		s.counter(v, labels(k)...)
	}
}

func (s *sink) histogram(h audit.Histogram, bounds []float64) {
	buckets := make(map[float64]uint64, len(bounds))
	for _, b := range bounds {
		buckets[b] = h.AtMost(b)
	}
	s.out <- prometheus.MustNewConstHistogramWithCreatedTimestamp(s.desc, h.Count, h.Sum, buckets, s.born)
}

// powers returns 2^first, 2^(first+step), … to 2^last, divided by unit. A Histogram counts
// exactly up to each power of two of its smallest unit.
func powers(first, step, last int, unit float64) (bounds []float64) {
	for i := first; i <= last; i += step {
		bounds = append(bounds, float64(uint64(1)<<i)/unit)
	}
	return bounds
}

// code returns a close code as a label.
func code(n int) string {
	if n == 0 {
		return other
	}
	return strconv.Itoa(n)
}

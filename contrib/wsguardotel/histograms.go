package wsguardotel

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/wsguard/wsguard/audit"
)

// Histograms gives the distributions of Guards to a reader: how long handshakes, connections and
// pings take, and how large messages are. Give it to the reader and to each Guard's Config:
//
//	histograms := &wsguardotel.Histograms{Temporality: exporter.Temporality}
//	reader := metric.NewPeriodicReader(exporter, metric.WithProducer(histograms))
//
// A Guard counts these values by itself, so that no message waits for an instrument. The API of
// OpenTelemetry has no instrument that takes a finished histogram, but a reader of the SDK does.
//
// A reader needs Histograms of its own. So do two readers that must both have them, since what a
// reader with delta temporality has got is not reported again. Views do not apply. The zero value
// is ready to use. Many goroutines may use it at any time.
type Histograms struct {
	// Temporality says whether a histogram counts from the beginning or from the last
	// collection. Set it to the Temporality method of the exporter, so that the histograms and
	// the counters agree. The default, nil, is cumulative. It is read-only after the first
	// collection.
	Temporality sdkmetric.TemporalitySelector

	mu      sync.Mutex // Guard.Stats is called while it is held
	sources []*source  // guarded by mu
}

var _ sdkmetric.Producer = (*Histograms)(nil)

// source is a Guard and what has been reported about it.
type source struct {
	stats func() audit.Snapshot // read-only
	with  attribute.Set         // read-only
	last  []counted             // guarded by the mu of Histograms, like since: by distributions; nil before the first report
	since time.Time             // when the last report was
}

// counted is a histogram with the bounds of a distribution.
type counted struct {
	n   []uint64 // for each bound, and for what is above the last one
	sum float64
}

// distribution is a row of the table of histograms.
type distribution struct {
	name, unit, description string
	bounds                  []float64 // read-only
	of                      func(*audit.Snapshot) audit.Histogram
}

// distributions are all histograms. README.md has the same table. The bounds are powers of two of
// a microsecond or a byte, for which the buckets of audit.Histogram are exact.
var distributions = []distribution{
	{"wsguard.handshake.duration", "s", "How long the guard took over a handshake that it accepted or refused.", powers(7, 24, 1, 1e6),
		func(s *audit.Snapshot) audit.Histogram { return s.HandshakeSeconds }},
	{"wsguard.connection.duration", "s", "How long connections that have ended were open.", powers(20, 38, 2, 1e6),
		func(s *audit.Snapshot) audit.Histogram { return s.ConnectionSeconds }},
	{"wsguard.message.size", "By", "Payload sizes of the messages that the application got.", powers(4, 24, 2, 1),
		func(s *audit.Snapshot) audit.Histogram { return s.MessageBytes }},
	{"wsguard.ping.rtt", "s", "Times between pings and their pongs.", powers(8, 24, 1, 1e6),
		func(s *audit.Snapshot) audit.Histogram { return s.PingSeconds }},
}

// powers returns the powers of two from 2^first to 2^last in units, with an exponent that grows by
// step.
func powers(first, last, step int, unit float64) (bounds []float64) {
	for e := first; e <= last; e += step {
		bounds = append(bounds, math.Ldexp(1, e)/unit)
	}
	return bounds
}

// add adds a Guard, and returns a function that removes it. A nil h adds nothing.
func (h *Histograms) add(stats func() audit.Snapshot, common attribute.KeyValue) (remove func()) {
	if h == nil {
		return func() {}
	}
	s := &source{stats: stats, with: attribute.NewSet(common)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sources = append(h.sources, s)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.sources = slices.DeleteFunc(h.sources, func(o *source) bool { return o == s })
	}
}

// Produce returns the histograms of all Guards. A reader calls it.
func (h *Histograms) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sources) == 0 {
		return nil, nil
	}
	temporality := metricdata.CumulativeTemporality
	if h.Temporality != nil {
		temporality = h.Temporality(sdkmetric.InstrumentKindHistogram)
	}
	points := make([][]metricdata.HistogramDataPoint[float64], len(distributions))
	for _, s := range h.sources {
		s.report(points, temporality == metricdata.DeltaTemporality)
	}
	scope := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: Scope}}
	for i, d := range distributions {
		scope.Metrics = append(scope.Metrics, metricdata.Metrics{
			Name: d.name, Unit: d.unit, Description: d.description,
			Data: metricdata.Histogram[float64]{Temporality: temporality, DataPoints: points[i]},
		})
	}
	return []metricdata.ScopeMetrics{scope}, nil
}

// report adds a point of each distribution. The caller holds the mu of Histograms.
func (s *source) report(points [][]metricdata.HistogramDataPoint[float64], delta bool) {
	now := s.stats()
	start, seen := now.Since, make([]counted, len(distributions))
	if delta && s.last != nil {
		start = s.since
	}
	for i, d := range distributions {
		seen[i] = d.count(&now)
		p := metricdata.HistogramDataPoint[float64]{
			Attributes: s.with, StartTime: start, Time: now.Time,
			Bounds: slices.Clone(d.bounds), BucketCounts: slices.Clone(seen[i].n), Sum: seen[i].sum,
		}
		if delta && s.last != nil {
			for k, n := range s.last[i].n {
				p.BucketCounts[k] -= n
			}
			p.Sum = max(0, p.Sum-s.last[i].sum)
		}
		for _, n := range p.BucketCounts {
			p.Count += n
		}
		points[i] = append(points[i], p)
	}
	s.last, s.since = seen, now.Time
}

// count returns the histogram of a distribution with the bounds of the distribution.
func (d *distribution) count(s *audit.Snapshot) counted {
	h := d.of(s)
	c := counted{n: make([]uint64, len(d.bounds)+1), sum: h.Sum}
	at := 0
	for _, b := range h.Buckets {
		for at < len(d.bounds) && b.Upper > d.bounds[at] {
			at++
		}
		c.n[at] += b.Count
	}
	return c
}

package wsguardotel

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
)

// growing is a guard whose figures grow with each call.
type growing struct {
	mu    sync.Mutex
	rng   *rand.Rand
	seen  map[float64]uint64 // by the bounds of buckets
	stats audit.Snapshot
}

func newGrowing() *growing {
	now := time.Now()
	return &growing{rng: rand.New(rand.NewPCG(1, 2)), seen: map[float64]uint64{}, stats: audit.Snapshot{Time: now, Since: now}}
}

func (g *growing) Stats() audit.Snapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := &g.stats.MessageBytes
	for range g.rng.IntN(50) {
		upper := float64(uint64(1) << g.rng.IntN(30))
		if g.rng.IntN(2) == 0 {
			upper *= 1.125 // no bound of a histogram
		}
		g.seen[upper]++
		h.Count++
		h.Sum += upper
	}
	h.Buckets = nil
	for upper, n := range g.seen {
		h.Buckets = append(h.Buckets, audit.Bucket{Upper: upper, Count: n})
	}
	slices.SortFunc(h.Buckets, func(a, b audit.Bucket) int { return int(a.Upper - b.Upper) })
	g.stats.Time = g.stats.Time.Add(time.Second)
	return g.stats
}

// sizes returns the points of wsguard.message.size.
func sizes(t *testing.T, h *Histograms) metricdata.Histogram[float64] {
	t.Helper()
	scopes, err := h.Produce(t.Context())
	if err != nil || len(scopes) != 1 || len(scopes[0].Metrics) != len(distributions) {
		t.Fatalf("%v, %v", scopes, err)
	}
	for _, m := range scopes[0].Metrics {
		if m.Name == "wsguard.message.size" {
			return m.Data.(metricdata.Histogram[float64])
		}
	}
	t.Fatal("no message sizes")
	return metricdata.Histogram[float64]{}
}

func deltas(sdkmetric.InstrumentKind) metricdata.Temporality { return metricdata.DeltaTemporality }

// TestHistograms compares the points with what audit.Histogram says, for both temporalities. The
// sum of the deltas is what has been counted.
func TestHistograms(t *testing.T) {
	for name, selector := range map[string]sdkmetric.TemporalitySelector{
		"by default": nil,
		"cumulative": sdkmetric.DefaultTemporalitySelector,
		"delta":      deltas,
	} {
		t.Run(name, func(t *testing.T) {
			delta := name == "delta"
			g := newGrowing()
			h := &Histograms{Temporality: selector}
			defer h.add(g.Stats, attribute.String("guard", "g"))()
			var sums []uint64
			since, last := g.stats.Since, g.stats.Since
			for range 100 {
				data := sizes(t, h)
				if (data.Temporality == metricdata.DeltaTemporality) != delta {
					t.Fatalf("%v", data.Temporality)
				}
				p, want := data.DataPoints[0], g.stats.MessageBytes
				total, start := p.Count, since
				if delta {
					start = last
				}
				if !p.StartTime.Equal(start) || !p.Time.Equal(g.stats.Time) {
					t.Fatalf("from %v to %v, want from %v to %v", p.StartTime, p.Time, start, g.stats.Time)
				}
				last = p.Time
				if sums == nil || !delta {
					sums = make([]uint64, len(p.BucketCounts))
				}
				for i, n := range p.BucketCounts {
					sums[i] += n
				}
				if delta {
					total = 0
					for _, n := range sums {
						total += n
					}
				} else if p.Sum != want.Sum {
					t.Fatalf("the sum is %v, want %v", p.Sum, want.Sum)
				}
				if total != want.Count || len(p.BucketCounts) != len(p.Bounds)+1 {
					t.Fatalf("%d values, want %d", total, want.Count)
				}
				cumulated := uint64(0)
				for i, bound := range p.Bounds {
					if cumulated += sums[i]; cumulated != want.AtMost(bound) {
						t.Fatalf("%d values are at most %v, want %d", cumulated, bound, want.AtMost(bound))
					}
				}
			}
		})
	}
}

// TestBoundsAreExact holds the bounds to those that audit.Histogram counts exactly.
func TestBoundsAreExact(t *testing.T) {
	for _, d := range distributions {
		if !slices.IsSorted(d.bounds) || len(slices.Compact(slices.Clone(d.bounds))) != len(d.bounds) || len(d.bounds) > 20 {
			t.Errorf("%s: %v", d.name, d.bounds)
		}
		for _, b := range d.bounds {
			if d.unit == "s" {
				b *= 1e6
			}
			if n := uint64(b + 0.5); n&(n-1) != 0 {
				t.Errorf("%s: %v is no power of two", d.name, b)
			}
		}
	}
}

// TestHistogramsAreCopies changes what a reader has got. The next collection is not affected.
func TestHistogramsAreCopies(t *testing.T) {
	h := &Histograms{}
	defer h.add(func() audit.Snapshot { return full() }, attribute.String("guard", "g"))()
	first := sizes(t, h).DataPoints[0]
	want := slices.Clone(first.BucketCounts)
	clear(first.BucketCounts)
	clear(first.Bounds)
	if second := sizes(t, h).DataPoints[0]; !slices.Equal(second.BucketCounts, want) || second.Bounds[0] == 0 {
		t.Errorf("%v %v", second.Bounds, second.BucketCounts)
	}
}

// TestHistogramsEnd collects after the context has ended, and after the last guard has gone.
func TestHistogramsEnd(t *testing.T) {
	h := &Histograms{}
	remove := h.add(func() audit.Snapshot { return full() }, attribute.String("guard", "g"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := h.Produce(ctx); got != nil || err != context.Canceled {
		t.Errorf("%v, %v", got, err)
	}
	remove()
	remove()
	if got, err := h.Produce(t.Context()); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

// TestConcurrentUse registers guards and ends their reports while readers collect.
func TestConcurrentUse(t *testing.T) {
	h := &Histograms{Temporality: deltas}
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(h))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	guard, err := wsguard.New(wsguard.Config{Origins: []string{"https://app.example"}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				r, err := Register(guard, Config{Name: string(rune('a' + i)), MeterProvider: provider, Histograms: h})
				if err != nil {
					t.Error(err)
					return
				}
				var rm metricdata.ResourceMetrics
				if err := reader.Collect(t.Context(), &rm); err != nil {
					t.Error(err)
				}
				if err := r.Unregister(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestOneStats reads the figures once for each collection of the instruments.
func TestOneStats(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	calls := 0
	r, err := register(func() audit.Snapshot { calls++; return full() }, Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))})
	if err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 3; want++ {
		if err := reader.Collect(t.Context(), &metricdata.ResourceMetrics{}); err != nil || calls != want {
			t.Fatalf("%d calls, %v, want %d", calls, err, want)
		}
	}
	if err := r.Unregister(); err != nil {
		t.Fatal(err)
	}
	if err := reader.Collect(t.Context(), &metricdata.ResourceMetrics{}); err != nil || calls != 3 {
		t.Errorf("%d calls after Unregister, %v", calls, err)
	}
}

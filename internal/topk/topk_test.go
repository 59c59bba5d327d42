package topk_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/topk"
)

var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// oracle keeps the weight of every key, forgotten exactly.
type oracle[K comparable] struct {
	halfLife time.Duration
	last     time.Time
	weights  map[K]float64
}

func (o *oracle[K]) pass(now time.Time) {
	if d := now.Sub(o.last); d > 0 && o.halfLife > 0 {
		for k := range o.weights {
			o.weights[k] *= math.Exp2(-float64(d) / float64(o.halfLife))
		}
	}
	o.last = now
}

func (o *oracle[K]) total() (sum float64) {
	for _, w := range o.weights {
		sum += w
	}
	return sum
}

// compare holds what a Sketch says against the oracle. A Sketch forgets in steps of
// a 64th of the half-life, which makes a difference of slack at most.
func compare[K comparable](t *testing.T, s *topk.Sketch[K], o *oracle[K], now time.Time, k int) {
	t.Helper()
	o.pass(now)
	slack, total := 1+1e-9, o.total()
	if o.halfLife > 0 {
		slack *= math.Exp2(1.0 / 64)
	}
	top := s.Top(now, k+5)
	if len(top) > k {
		t.Fatalf("%d keys in a sketch of %d", len(top), k)
	}
	known := map[K]bool{}
	for i, e := range top {
		if known[e.Key] {
			t.Fatalf("%v is there twice", e.Key)
		}
		known[e.Key] = true
		if w := o.weights[e.Key]; e.Count*slack < w || e.AtLeast() > w*slack+total*1e-9 {
			t.Fatalf("%v weighs %g, and the sketch says %g to %g", e.Key, w, e.AtLeast(), e.Count)
		}
		if i > 0 && e.AtLeast() > top[i-1].AtLeast() {
			t.Fatalf("%v comes after a lighter one", e.Key)
		}
	}
	for key, w := range o.weights {
		if w > total/float64(k)*slack*slack && !known[key] {
			t.Fatalf("%v weighs %g of %g and is not among %d", key, w, total, k)
		}
	}
	if got := s.Total(now); got > total*slack || got*slack < total {
		t.Fatalf("the total is %g, want %g", got, total)
	}
}

// TestOracle compares a Sketch with exact counts, on streams of several kinds.
func TestOracle(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(*rand.Rand, int) (int, float64){
		"uniform": func(r *rand.Rand, _ int) (int, float64) { return r.IntN(500), 1 },
		"skewed":  func(r *rand.Rand, _ int) (int, float64) { return int(math.Pow(r.Float64(), 6) * 10_000), 1 },
		"weights": func(r *rand.Rand, _ int) (int, float64) { return r.IntN(300), math.Exp(4 * r.NormFloat64()) },
		"rotating": func(r *rand.Rand, i int) (int, float64) { // every fourth is one of three
			if i%4 == 0 {
				return r.IntN(3), 1
			}
			return 1000 + i, 1
		},
		"in turn": func(_ *rand.Rand, i int) (int, float64) { return i % 65, 1 },
		"late":    func(_ *rand.Rand, i int) (int, float64) { return min(i, 15_000), 1 },
	}
	for name, next := range kinds {
		for _, halfLife := range []time.Duration{0, time.Second, time.Minute} {
			for _, k := range []int{1, 2, 10, 64} {
				t.Run(fmt.Sprintf("%s/%v/%d", name, halfLife, k), func(t *testing.T) {
					r := rand.New(rand.NewPCG(uint64(k), 7))
					s, now := topk.New[int](k, halfLife), start
					o := &oracle[int]{halfLife: halfLife, last: start, weights: map[int]float64{}}
					for i := range 20_000 {
						key, weight := next(r, i)
						s.Add(now, key, weight)
						o.weights[key] += weight
						if i%4000 == 3999 {
							compare(t, s, o, now, k)
							now = now.Add(time.Duration(r.IntN(5_000)) * time.Millisecond)
							o.pass(now)
						}
					}
					compare(t, s, o, now, k)
				})
			}
		}
	}
}

// TestRotatingKeys floods a Sketch with 100,000 keys that come once each. Those that
// stay are the first in Top, with weights that are nearly exact.
func TestRotatingKeys(t *testing.T) {
	t.Parallel()
	s := topk.New[string](64, time.Minute)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 100_000 {
		s.Add(start, strconv.FormatUint(r.Uint64(), 36), 1)
		if i%20 == 0 {
			s.Add(start, "a", 1)
		}
		if i%40 == 0 {
			s.Add(start, "b", 1)
		}
	}
	top := s.Top(start, 3)
	if len(top) != 3 || top[0].Key != "a" || top[1].Key != "b" {
		t.Fatalf("the top is %+v", top)
	}
	if a, b := top[0], top[1]; a.AtLeast() < 4990 || a.Count > 7000 || b.AtLeast() < 2400 {
		t.Errorf("a is %+v, and b is %+v", a, b)
	}
	if c := top[2]; c.AtLeast() > 5 {
		t.Errorf("%+v is said to weigh more than it does", c)
	}
}

// TestForgets checks that a key that was heavy gives way to one that is heavy now.
func TestForgets(t *testing.T) {
	t.Parallel()
	s := topk.New[string](10, time.Minute)
	for range 1000 {
		s.Add(start, "old", 1)
	}
	now := start.Add(10 * time.Minute)
	for range 10 {
		s.Add(now, "new", 1)
	}
	top := s.Top(now, 10)
	if len(top) != 2 || top[0].Key != "new" || math.Abs(top[1].Count-1000.0/1024) > 1e-6 {
		t.Fatalf("the top is %+v", top)
	}
	if top := s.Top(now.Add(1000*time.Hour), 10); len(top) != 0 {
		t.Errorf("after 60,000 half-lives the top is %+v", top)
	}
	if top := topk.New[string](10, 0).Top(start, 3); len(top) != 0 {
		t.Errorf("the top of nothing is %+v", top)
	}
}

// TestTimes passes times that go back, that stand and that are far away.
func TestTimes(t *testing.T) {
	t.Parallel()
	for _, halfLife := range []time.Duration{-1, 0, 1, 63, time.Hour, math.MaxInt64} {
		s := topk.New[int](4, halfLife)
		for i, now := range []time.Time{start, start.Add(-time.Hour), {}, start.Add(time.Hour), time.Unix(1<<40, 0), start, time.Unix(-1<<40, 0)} {
			s.Add(now, i, 1)
			total := s.Total(now)
			if !(total >= 1) || total > 7.0001 {
				t.Errorf("half-life %v: the total is %g after %v", halfLife, total, now)
			}
			for _, e := range s.Top(now, 4) {
				if !(e.Error >= 0) || !(e.Count >= e.Error) {
					t.Errorf("half-life %v: %+v after %v", halfLife, e, now)
				}
			}
		}
	}
}

// TestOddInput passes weights that are none, keys that are unequal to themselves,
// and sizes that are none.
func TestOddInput(t *testing.T) {
	t.Parallel()
	s := topk.New[float64](-3, time.Minute)
	for _, w := range []float64{0, -1, math.NaN(), math.Inf(-1)} {
		s.Add(start, 1, w)
	}
	for range 1000 {
		s.Add(start, math.NaN(), 1)
	}
	if top := s.Top(start, 10); len(top) != 0 {
		t.Errorf("the top is %+v", top)
	}
	now := start
	for range 10_000 {
		now = now.Add(time.Hour)
		s.Add(now, 1, math.Inf(1))
		s.Add(now, 2, math.SmallestNonzeroFloat64)
	}
	for _, n := range []int{-1, 0, 1, 100} {
		if top := s.Top(now, n); len(top) != min(max(n, 0), 1) {
			t.Errorf("the top %d are %+v", n, top)
		}
	}
	if e := s.Top(now, 1)[0]; math.IsInf(e.Count, 0) || math.IsNaN(e.Count) {
		t.Errorf("the top is %+v", e)
	}
}

// TestConcurrent adds from several goroutines, and nothing is lost.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	s := topk.New[int](8, time.Minute)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				s.Add(start, g, 1)
				if i%1000 == 0 {
					s.Top(start, 3)
				}
			}
		})
	}
	wg.Wait()
	for _, e := range s.Top(start, 8) {
		if e.Count != 5000 || e.Error != 0 {
			t.Errorf("%+v", e)
		}
	}
}

// TestAllocations checks that Add allocates nothing in the steady state.
func TestAllocations(t *testing.T) {
	s := topk.New[uint64](64, time.Minute)
	for i := range uint64(100_000) {
		s.Add(start, i, 1)
	}
	i := uint64(1 << 40)
	if n := testing.AllocsPerRun(10_000, func() { i++; s.Add(start, i, 1); s.Add(start, 7, 1) }); n != 0 {
		t.Errorf("Add allocates %v times", n)
	}
}

// FuzzSketch compares a Sketch with exact counts, on any stream.
func FuzzSketch(f *testing.F) {
	f.Add(uint8(3), uint16(1000), []byte("a\x01b\x02a\x03c\x04d\x05\xff\x10e\x01"))
	f.Fuzz(func(t *testing.T, k uint8, halfLife uint16, stream []byte) {
		size, life := int(k%20)+1, time.Duration(halfLife)*time.Millisecond
		s, now := topk.New[byte](size, life), start
		o := &oracle[byte]{halfLife: life, last: start, weights: map[byte]float64{}}
		for ; len(stream) >= 2; stream = stream[2:] {
			if stream[0] == 255 { // time passes
				now = now.Add(time.Duration(stream[1]) * 100 * time.Millisecond)
				o.pass(now)
				continue
			}
			weight := float64(stream[1])
			s.Add(now, stream[0], weight)
			o.weights[stream[0]] += weight
		}
		compare(t, s, o, now, size)
	})
}

func BenchmarkAdd(b *testing.B) {
	var keys [1 << 16][16]byte
	r := rand.New(rand.NewPCG(1, 1))
	for i := range keys {
		binary.LittleEndian.PutUint64(keys[i][:], r.Uint64())
	}
	for _, c := range []struct {
		name string
		mask int
	}{{"known", 15}, {"rotating", len(keys) - 1}} {
		b.Run(c.name, func(b *testing.B) {
			s, now, i := topk.New[[16]byte](128, time.Minute), start, 0
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Microsecond)
				s.Add(now, keys[i&c.mask], 1)
				i++
			}
		})
	}
}

package wire

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// In no window does a bucket give more than its burst and what flows in, and
// it never refuses what is there, whatever now does.
func TestBucket(t *testing.T) {
	for range 2000 {
		rate, burst := []float64{0.5, 1, 10, 1e3, 1e9}[rand.N(5)], 1+rand.N(30)
		b := bucket{rate: rate, burst: float64(burst), tokens: float64(burst)}
		var taken []time.Duration
		now, high := time.Duration(1), time.Duration(0)
		model := float64(burst)
		for range 300 {
			switch rand.N(4) {
			case 0:
				now += rand.N(time.Duration(float64(time.Second)/rate) + 2)
			case 1:
				now = max(1, now-rand.N(time.Second)) // a clock that steps back
			}
			if now > high {
				model = min(float64(burst), model+rate*(now-high).Seconds())
				high = now
			}
			ok := b.take(now)
			switch {
			case ok && model < 1-1e-6:
				t.Fatalf("rate %v burst %d: gave one although %v were there", rate, burst, model)
			case !ok && model > 1+1e-6:
				t.Fatalf("rate %v burst %d: refused although %v were there", rate, burst, model)
			}
			if ok {
				model--
				taken = append(taken, high)
			}
		}
		for i := range taken {
			for j := i; j < len(taken); j++ {
				if n, most := float64(j-i+1), float64(burst)+rate*(taken[j]-taken[i]).Seconds()+1e-6; n > most {
					t.Fatalf("rate %v burst %d: %v in %v", rate, burst, n, taken[j]-taken[i])
				}
			}
		}
	}
	var off bucket
	for range 1000 {
		if !off.take(1) {
			t.Fatal("no limit refused")
		}
	}
}

func TestCtxWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fired atomic.Int32
		var last atomic.Value
		w := ctxWatch{fire: func(done <-chan struct{}) { fired.Add(1); last.Store(done) }}

		w.watch(context.Background())
		ctx, cancel := context.WithCancel(context.Background())
		for range 1000 {
			w.watch(ctx)
		}
		type key struct{}
		w.watch(context.WithValue(ctx, key{}, 1)) // the same Done
		cancel()
		synctest.Wait()
		if n := fired.Load(); n != 1 || last.Load() != ctx.Done() {
			t.Fatalf("1,000 times the same context: fired %d times, with %v", n, last.Load())
		}
		w.watch(ctx) // ended already: the caller asks ctx.Err
		synctest.Wait()
		if n := fired.Load(); n != 1 {
			t.Fatalf("fired %d times", n)
		}

		// One that was replaced does not fire.
		old, cancelOld := context.WithCancel(context.Background())
		next, cancelNext := context.WithCancel(context.Background())
		w.watch(old)
		w.watch(next)
		cancelOld()
		synctest.Wait()
		if n := fired.Load(); n != 1 {
			t.Fatalf("fired %d times after a context that was replaced", n)
		}
		w.watch(old) // already ended: fires, with its own Done
		synctest.Wait()
		if last.Load() != old.Done() {
			t.Fatal("one that has ended already does not fire")
		}
		w.watch(next)
		cancelNext()
		synctest.Wait()
		if last.Load() != next.Done() {
			t.Fatal("the last one does not fire")
		}

		ctx, cancel = context.WithCancel(context.Background())
		w.watch(ctx)
		w.clear()
		n := fired.Load()
		cancel()
		synctest.Wait()
		if fired.Load() != n {
			t.Fatal("fired after clear")
		}
	})
}

func TestCtxWatchAllocs(t *testing.T) {
	w := ctxWatch{fire: func(<-chan struct{}) {}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.watch(ctx)
	if n := testing.AllocsPerRun(10_000, func() { w.watch(ctx) }); n != 0 {
		t.Errorf("a context that is watched already: %v allocations", n)
	}
	w.clear()
}

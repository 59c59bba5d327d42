package keyed_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
)

func TestTake2TakesBothOrNone(t *testing.T) {
	tab := newPair(keyed.Limit{PerSecond: 1, Burst: 3}, keyed.Limit{PerSecond: 100, Burst: 1000}, 64)
	key, now := tab.String("k"), time.Now()
	for i, step := range []struct {
		a, b float64
		ok   bool
		wait time.Duration
	}{
		{1, 400, true, 0},
		{1, 700, false, time.Second},     // bytes; takes no message
		{1, 300, true, 0},                // 1 message and 300 bytes are left
		{2, 10, false, time.Second},      // messages; takes no bytes
		{2, 500, false, 2 * time.Second}, // both: the longer wait
		{1, 300, true, 0},
		{1, 0, false, time.Second},
		{0, 1, false, 10 * time.Millisecond},
	} {
		wait, ok := tab.Take2(key, step.a, step.b, now)
		if ok != step.ok || (wait-step.wait).Abs() > time.Microsecond {
			t.Fatalf("step %d: %v %v, want %v %v", i, wait, ok, step.wait, step.ok)
		}
	}
	tab.Give2(key, 1, 300)
	if _, ok := tab.Take2(key, 1, 300, now); !ok {
		t.Fatal("what was given back is not there")
	}
	tab.Charge(key, 1, now)
	if _, ok := tab.Take2(key, 1, 1, now.Add(1999*time.Millisecond)); ok {
		t.Fatal("a debt was forgiven")
	}
	if _, ok := tab.Take2(key, 1, 1, now.Add(2*time.Second)); !ok {
		t.Fatal("a debt that was paid off remains")
	}
}

func TestLaneWithoutLimit(t *testing.T) {
	tab := newPair(keyed.Limit{}, keyed.Limit{PerSecond: 1, Burst: 10}, 64)
	key, now := tab.String("k"), time.Now()
	if _, ok := tab.Take2(key, 1e12, 10, now); !ok {
		t.Fatal("a lane without a limit refused")
	}
	if wait, ok := tab.Take2(key, 1e12, 1, now); ok || wait > time.Second {
		t.Fatalf("%v %v, want a wait of 1s", wait, ok)
	}
	tab.set(keyed.Limit{PerSecond: 1, Burst: 2}, tab.second())
	if _, ok := tab.Take2(key, 2, 0, now); !ok {
		t.Fatal("a new limit begins with debts")
	}
	if _, ok := tab.Take2(key, 1, 0, now); ok {
		t.Fatal("a new limit does not hold")
	}
}

func TestLimitChanges(t *testing.T) {
	left := func(tab *fixed, key keyed.Key, now time.Time) (n int) {
		for n <= 1000 {
			if _, ok := tab.Take(key, 1, now); !ok {
				break
			}
			n++
		}
		return n
	}
	for _, c := range []struct {
		name      string
		take, owe float64
		to        keyed.Limit
		left      int // at once
		second    int // after a second more
	}{
		{"the same", 4, 0, keyed.Limit{PerSecond: 10, Burst: 10}, 6, 10},
		{"faster", 4, 0, keyed.Limit{PerSecond: 1e9, Burst: 10}, 6, 10},
		{"slower", 4, 0, keyed.Limit{PerSecond: 1, Burst: 10}, 6, 1},
		{"larger", 10, 0, keyed.Limit{PerSecond: 10, Burst: 100}, 90, 10},
		{"smaller", 4, 0, keyed.Limit{PerSecond: 1, Burst: 5}, 1, 1},
		{"smaller, and empty", 10, 0, keyed.Limit{PerSecond: 6, Burst: 5}, 0, 1}, // 5 of the 10 are a debt now
		{"smaller, in debt", 10, 1, keyed.Limit{PerSecond: 6, Burst: 5}, 0, 0},
		{"off", 10, 0, keyed.Limit{}, 1001, 1001},
	} {
		tab := newFixed(10, 10, 64)
		key, now := tab.String("k"), time.Now()
		tab.Take(key, c.take, now)
		tab.Charge(key, c.owe, now)
		tab.set(c.to, keyed.Limit{})
		if n := left(tab, key, now); n != c.left {
			t.Errorf("%s: %d left, want %d", c.name, n, c.left)
		}
		if n := left(tab, key, now.Add(time.Second+2)); n != c.second {
			t.Errorf("%s: %d after a second, want %d", c.name, n, c.second)
		}
	}
}

// Reconfiguring back and forth must not be a way to a full bucket.
func TestChangesRefillNothing(t *testing.T) {
	a, b := keyed.Limit{PerSecond: 3, Burst: 30}, keyed.Limit{PerSecond: 7e8, Burst: 30}
	tab := newFixed(a.PerSecond, a.Burst, 4096)
	now := time.Now()
	keys := make([]keyed.Key, 500)
	for i := range keys {
		keys[i] = tab.String(string(rune('a' + i)))
		tab.Take(keys[i], 30, now)
		tab.Take(keys[i], 1, now)
	}
	for range 50 {
		for i := range keys {
			for _, l := range []keyed.Limit{b, a} {
				tab.set(l, keyed.Limit{})
				if _, ok := tab.Take(keys[i], 1, now); ok {
					t.Fatal("a token came from nowhere")
				}
			}
		}
	}
	if st := tab.Stats(now); st.Keys != 500 || st.Penalised != 500 {
		t.Fatalf("%+v, want 500 penalised", st)
	}
	for i := range keys {
		if _, ok := tab.Take(keys[i], 1, now); ok {
			t.Fatal("a token came from nowhere")
		}
	}
	tab.set(a, keyed.Limit{})
	for i := range keys {
		if _, ok := tab.Take(keys[i], 1, now.Add(334*time.Millisecond)); !ok {
			t.Fatal("rounding has added up to a debt")
		}
	}
}

// Changed all the time between two rates, a bucket admits no more than at the
// larger of them.
func TestLimitChangesWhileTaking(t *testing.T) {
	tab := newFixed(1000, 10, 64)
	start := time.Now()
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			key := tab.String("k")
			for range 2000 {
				if _, ok := tab.Take(key, 1, time.Now()); ok {
					admitted.Add(1)
				}
			}
		})
	}
	for i := range 200 {
		tab.set(keyed.Limit{PerSecond: float64(1000 + i%2*9000), Burst: float64(10 + i%3)}, keyed.Limit{})
	}
	wg.Wait()
	// An emptied bucket that becomes larger has what it was enlarged by, once
	// each time.
	if n, most := float64(admitted.Load()), 10+2*200+10_000*time.Since(start).Seconds(); n > most {
		t.Fatalf("%v admitted, at most %v", n, most)
	}
}

func TestNothingTakenIsNotKept(t *testing.T) {
	now := time.Now()
	for _, tab := range []*fixed{newFixed(1, 1, 64), newPair(keyed.Limit{}, keyed.Limit{}, 64)} {
		for i := range 10_000 {
			if _, ok := tab.Take(tab.Prefix(client4(i)), 0, now); !ok {
				t.Fatal("nothing is too much")
			}
		}
		if st := tab.Stats(now); st != (keyed.Stats{}) {
			t.Errorf("%+v", st)
		}
	}
}

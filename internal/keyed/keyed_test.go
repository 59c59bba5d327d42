package keyed_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"
)

func TestNeverMoreThanBurstPlusRate(t *testing.T) {
	for _, rate := range []float64{0.5, 3, 10, 1000, 1e9} {
		for _, burst := range []float64{1, 5, 40} {
			tab := newFixed(rate, burst, 100)
			key := tab.String("k")
			start := time.Now()
			latest := start
			taken := 0.0
			for range 5000 {
				// now steps forth and back.
				now := start.Add(time.Duration(rand.N(int64(3 * time.Second))))
				if now.After(latest) {
					latest = now
				}
				n := float64(rand.N(3) + 1)
				if _, ok := tab.Take(key, n, now); ok {
					taken += n
				}
				if most := burst + rate*latest.Sub(start).Seconds() + 1e-5; taken > most {
					t.Fatalf("rate %v burst %v: %v taken, at most %v", rate, burst, taken, most)
				}
			}
		}
	}
}

func TestWaitIsExact(t *testing.T) {
	tab := newFixed(2, 1, 100)
	key, now := tab.String("k"), time.Now()
	if _, ok := tab.Take(key, 1, now); !ok {
		t.Fatal("a full bucket refused")
	}
	wait, ok := tab.Take(key, 1, now)
	if ok || (wait-500*time.Millisecond).Abs() > time.Microsecond {
		t.Fatalf("wait %v %v, want 500ms", wait, ok)
	}
	if _, ok := tab.Take(key, 1, now.Add(wait-time.Microsecond)); ok {
		t.Fatal("admitted before the wait was over")
	}
	if _, ok := tab.Take(key, 1, now.Add(wait)); !ok {
		t.Fatal("refused after the wait")
	}
}

func TestGiveBack(t *testing.T) {
	tab := newFixed(1, 2, 100)
	key, now := tab.Prefix(netip.MustParsePrefix("192.0.2.1/32")), time.Now()
	for range 100 {
		if _, ok := tab.Take(key, 1, now); !ok {
			t.Fatal("refused although each token came back")
		}
		tab.Give(key, 1)
	}
}

func TestPenalisedKeySurvivesAFlood(t *testing.T) {
	tab := newFixed(1, 10, 1024)
	now := time.Now()
	bad := tab.String("bad")
	if _, ok := tab.Take(bad, 10, now); !ok {
		t.Fatal("refused")
	}
	for i := range 200_000 {
		tab.Take(tab.String(strconv.Itoa(i)), 1, now)
	}
	if _, ok := tab.Take(bad, 1, now); ok {
		t.Fatal("the emptied bucket was forgotten")
	}
	if tab.Evicted() == 0 {
		t.Fatal("200,000 keys in a table of 1,024 and none evicted")
	}
}

func TestFullBucketsMakeRoom(t *testing.T) {
	tab := newFixed(1, 1, 1024)
	now := time.Now()
	for i := range 10_000 {
		// Each key's bucket is full again when the next comes.
		tab.Take(tab.String(fmt.Sprint("k", i)), 1, now.Add(time.Duration(i)*2*time.Second))
	}
	if n := tab.Evicted(); n != 0 {
		t.Fatalf("%d live keys evicted", n)
	}
}

func TestRace(t *testing.T) {
	tab := newFixed(1e-9, 100, 1024)
	now := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	admitted := map[int]int{}
	for range 8 {
		wg.Go(func() {
			for i := range 4000 {
				k := i % 10
				if _, ok := tab.Take(tab.String(fmt.Sprint(k)), 1, now); ok {
					mu.Lock()
					admitted[k]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for k, n := range admitted {
		if n != 100 {
			t.Errorf("key %d: %d admitted, want 100", k, n)
		}
	}
}

func TestTakeAllocatesNothing(t *testing.T) {
	tab := newFixed(1e6, 1e6, 1024)
	key, now := tab.String("k"), time.Now()
	if n := testing.AllocsPerRun(100, func() { tab.Take(key, 1, now) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

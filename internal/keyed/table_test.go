package keyed_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
)

// client6 is the i-th /64 of the /48 number net.
func client6(net, i int) netip.Prefix {
	a := [16]byte{0x20, 0x01}
	binary.BigEndian.PutUint32(a[2:], uint32(net))
	binary.BigEndian.PutUint16(a[6:], uint16(i))
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// spread are n clients of a /48 whose first sets come in turn: no set is full
// by chance of the seed, so that none of them is driven out.
func spread(tab *fixed, net, n, sets int) (ps []netip.Prefix) {
	for i := 0; len(ps) < n; i++ {
		if p := client6(net, i); tab.Home(tab.Prefix(p)) == len(ps)%sets {
			ps = append(ps, p)
		}
	}
	return ps
}

func client4(i int) netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(i))
	return netip.PrefixFrom(netip.AddrFrom4(a), 32)
}

// refuse takes the last token of a bucket and has it refuse.
func refuse(t testing.TB, tab *fixed, key keyed.Key, now time.Time) {
	t.Helper()
	tab.Charge(key, 1, now)
	if _, ok := tab.Take(key, 1, now); ok {
		t.Fatal("an empty bucket admitted")
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Half of those that flood owe more than the penalised ones do by then.
func TestPenalisedKeysSurviveAMillion(t *testing.T) {
	const keys = 65536
	flood := 1_000_000
	if raceEnabled {
		flood /= 5
	}
	tab := newFixed(1.0/60, 10, keys)
	now := time.Now()
	before := heap()
	bad := make([]keyed.Key, 1000)
	for i := range bad {
		bad[i] = tab.Prefix(client4(i))
		tab.Charge(bad[i], 10, now)
		refuse(t, tab, bad[i], now)
	}
	later := now.Add(8 * time.Minute)
	for i := range flood {
		tab.Take(tab.Prefix(client4(1<<24+i)), float64(1+i%2*8), later)
	}
	if used := int64(heap() - before); used > keys*24*5/4 {
		t.Errorf("%d bytes for %d keys", used, keys)
	}
	for _, key := range bad {
		if _, ok := tab.Take(key, 8, later); ok {
			t.Fatal("a penalised key was forgotten")
		}
	}
	if tab.Evicted() == 0 {
		t.Errorf("%d keys and none evicted", flood)
	}
	runtime.KeepAlive(tab)
}

func TestSmallTablesStaySmall(t *testing.T) {
	before := heap()
	tab := newPair(keyed.Limit{PerSecond: 1, Burst: 10}, keyed.Limit{PerSecond: 1, Burst: 10}, 1<<20)
	for i := range 100 {
		tab.Take(tab.Prefix(client4(i)), 1, time.Now())
	}
	if used := int64(heap() - before); used > 40<<10 {
		t.Errorf("%d bytes for 100 keys", used)
	}
	runtime.KeepAlive(tab)
}

// Keys that are not driven out are found again, wherever growing has put them.
func TestGrowingLosesNobody(t *testing.T) {
	for _, tab := range []*fixed{
		newFixed(1e-3, 1, 1<<17),
		newPair(keyed.Limit{PerSecond: 1e-3, Burst: 1}, keyed.Limit{PerSecond: 1e-3, Burst: 1}, 1<<17),
	} {
		now := time.Now()
		const n = 60_000
		for i := range n {
			if _, ok := tab.Take2(tab.Prefix(client6(i/4, i)), 1, 1, now); !ok {
				t.Fatal("a fresh key refused")
			}
		}
		st := tab.Stats(now)
		admitted := 0
		for i := range n {
			if _, ok := tab.Peek(tab.Prefix(client6(i/4, i)), 1, now); ok {
				admitted++
			}
		}
		if st.Keys+int(st.Evicted) != n || st.Evicted > n/1000 || admitted > n/1000 {
			t.Errorf("%+v, %d of %d admitted again", st, admitted, n)
		}
	}
}

func TestPenalisedTakeAtMostHalf(t *testing.T) {
	const keys = 4096
	tab := newFixed(1e-3, 1, keys)
	now := time.Now()
	for i := range 10 * keys {
		refuse(t, tab, tab.String(fmt.Sprint(i)), now)
	}
	st := tab.Stats(now)
	if st.Penalised > keys/2 || st.Penalised < keys/3 {
		t.Errorf("%d of %d penalised, want nearly half", st.Penalised, keys)
	}
	// There is room for others: they have a bucket of their own, but for a few
	// whose sets are full by chance of the seed.
	alone := 0
	for i := range 1000 {
		key := tab.Prefix(client4(i))
		_, first := tab.Take(key, 1, now)
		if _, again := tab.Take(key, 1, now); first && !again {
			alone++
		}
	}
	if without := tab.Stats(now).Overflowed - st.Overflowed; alone+int(without) < 1000 || alone < 900 {
		t.Errorf("%d of 1000 have a bucket of their own, %d decisions were by that of the others", alone, without)
	}
	// All pass away.
	later := now.Add(2000 * time.Second)
	if st := tab.Stats(later); st.Keys != 0 || st.Penalised != 0 {
		t.Errorf("%+v when all are full again", st)
	}
	refuse(t, tab, tab.String("x"), later)
	if st := tab.Stats(later); st.Penalised != 1 {
		t.Errorf("%d penalised, want 1", st.Penalised)
	}
}

func TestNetworkIsPenalisedBeyondHalf(t *testing.T) {
	tab := newFixed(1.0/60, 4, 4096) // 64 of a shard in 8 sets, and so of a /48
	now := time.Now()
	known, other := tab.Prefix(client6(7, 60_000)), tab.Prefix(client6(8, 60_000))
	tab.Take(known, 3, now)
	bad := spread(tab, 7, 40, 8)
	for _, p := range bad[:24] {
		tab.Charge(tab.Prefix(p), 3, now)
		refuse(t, tab, tab.Prefix(p), now)
	}
	if st := tab.Stats(now); st.Penalised != 24 || st.Networks != 0 {
		t.Fatalf("%+v, want 24 penalised", st)
	}
	for _, p := range bad[24:] {
		key := tab.Prefix(p)
		tab.Charge(key, 4, now)
		tab.Take(key, 1, now)
	}
	if st := tab.Stats(now); st.Networks != 1 || st.Penalised > 32 {
		t.Fatalf("%+v, want the /48", st)
	}
	for i := range 1000 {
		if _, ok := tab.Take(tab.Prefix(client6(7, 1000+i)), 1, now); ok {
			t.Fatal("a fresh key of the /48 passed")
		}
	}
	if _, ok := tab.Take(known, 1, now); !ok || tab.Evicted() != 0 {
		t.Error("a key that was known has lost its own bucket")
	}
	if _, ok := tab.Take(other, 1, now); !ok {
		t.Error("another /48 is penalised too")
	}
	// Whoever is new shares what flows into one bucket.
	n := 0
	for i := range 6000 {
		if _, ok := tab.Take(tab.Prefix(client6(7, 2000+i)), 1, now.Add(time.Duration(i)*100*time.Millisecond)); ok {
			n++
		}
	}
	if n != 9 {
		t.Errorf("%d passed in ten minutes, want 9", n)
	}
	// It is over when the bucket is full.
	later := now.Add(12*time.Minute + time.Millisecond) // what rounding has cost included
	for i := range 3 {
		if _, ok := tab.Take(tab.Prefix(client6(7, 10_000+i)), 1, later); !ok {
			t.Error("the /48 is penalised for ever")
		}
	}
}

// A bucket of the /48 itself is another one.
func TestNetworkAsAKey(t *testing.T) {
	tab := newFixed(1, 1, 64)
	now := time.Now()
	net, _ := client6(1, 1).Addr().Prefix(48)
	refuse(t, tab, tab.Prefix(net), now)
	if _, ok := tab.Take(tab.Prefix(client6(1, 1)), 1, now); !ok {
		t.Error("a key is held to its network's bucket")
	}
}

func TestUntrackedKeysShareABucket(t *testing.T) {
	tab := newFixed(1, 3, 4096) // 8 sets in a shard
	now := time.Now()
	for i := range 16 { // both sets of these keys
		key := keyed.RawKey(uint64(i) << 20)
		tab.Charge(key, 3, now)
		refuse(t, tab, key, now)
	}
	key := func(i int) keyed.Key { return keyed.RawKey(uint64(100+i) << 20) }
	if _, ok := tab.Peek(key(0), 1, now); !ok {
		t.Fatal("refused although nobody has taken")
	}
	for i := range 10 {
		if _, ok := tab.Take(key(i), 1, now); ok != (i < 3) {
			t.Fatalf("key %d: %v", i, ok)
		}
		tab.Give(key(i), 1) // it is not his to give
	}
	if _, ok := tab.Peek(key(0), 1, now); ok {
		t.Fatal("Peek does not know of the shared bucket")
	}
	if st := tab.Stats(now); st.Overflowed < 10 || st.Evicted != 0 {
		t.Errorf("%+v", st)
	}
	if _, ok := tab.Take(keyed.RawKey(3<<6), 3, now); !ok {
		t.Error("a key that has a place is refused")
	}
	tab.Charge(key(1), 1e6, now.Add(2*time.Second)) // nobody can run up a debt for others
	if wait, ok := tab.Peek(key(2), 1, now.Add(2*time.Second)); ok || wait.Round(time.Millisecond) != time.Second {
		t.Errorf("after a charge: %v %v, want 1s", wait, ok)
	}
	tab.set(keyed.Limit{PerSecond: 1.25, Burst: 3}, keyed.Limit{})
	if wait, ok := tab.Peek(key(2), 1, now.Add(2*time.Second)); ok || wait.Round(time.Millisecond) != 800*time.Millisecond {
		t.Errorf("at a higher rate: %v %v, want 800ms", wait, ok)
	}
}

func TestNothingAllocates(t *testing.T) {
	tab := newPair(keyed.Limit{PerSecond: 1, Burst: 1e6}, keyed.Limit{PerSecond: 1, Burst: 1e6}, 64)
	now := time.Now()
	p := client6(1, 2)
	if n := testing.AllocsPerRun(100, func() {
		key := tab.Prefix(p)
		tab.Take2(key, 1, 10, now)
		tab.Peek(key, 1e7, now)
		tab.Give2(key, 1, 10)
		tab.Charge(key, 1, now)
		tab.Spend(key, 1, now)
		tab.Forget(key)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

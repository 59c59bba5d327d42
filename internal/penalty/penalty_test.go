package penalty_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/penalty"
)

func addr(s string) penalty.Key { return penalty.Addr(netip.MustParseAddr(s)) }
func net(s string) penalty.Key  { return penalty.Net(netip.MustParsePrefix(s)) }

// host4 and host6 are the i-th of many; host6 is the i-th /64 of a /48.
func host4(i int) penalty.Key {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(i))
	return penalty.Addr(netip.AddrFrom4(a))
}

func host6(net, i int) penalty.Key {
	a := [16]byte{0x20, 0x01, 15: 1}
	binary.BigEndian.PutUint32(a[2:], uint32(net))
	binary.BigEndian.PutUint16(a[6:], uint16(i))
	return penalty.Addr(netip.AddrFrom16(a))
}

// small bans at once what goes beyond one violation.
var small = config{Rate: 1, Burst: 1, First: time.Minute, Max: 10 * time.Minute, Decay: time.Hour, MaxBans: 64}

// offend violates until a ban.
func offend(b *box, k penalty.Key, now time.Time) (ban penalty.Ban, ok bool) {
	for range 20 {
		if ban, ok = b.Violation(k, 1, "test", now); ok {
			return ban, true
		}
	}
	return ban, false
}

func banned(b *box, k penalty.Key, now time.Time) bool {
	_, ok := b.Banned(k, now)
	return ok
}

func TestViolationsEmptyABucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(config{Rate: 0.5, Burst: 4, First: time.Minute})
		k := addr("192.0.2.1")
		for i, step := range []struct {
			sleep  time.Duration
			weight float64
			ban    bool
		}{
			{0, 1, false},
			{0, 2.5, false},
			{0, 0, false},
			{time.Second, 1, false}, // 4 by now
			{2 * time.Second, 1, false},
			{time.Second, 1, true},
			{59 * time.Second, 100, false}, // banned already: it counts for nothing
			{time.Second, 4, false},        // the ban is over, the bucket full
			{0, 0.01, true},
		} {
			time.Sleep(step.sleep)
			was := banned(b, k, time.Now())
			ban, ok := b.Violation(k, step.weight, "why", time.Now())
			if ok != step.ban {
				t.Fatalf("step %d: ban %v, want %v", i, ok, step.ban)
			}
			if ok && (ban.Prefix != netip.MustParsePrefix("192.0.2.1/32") || ban.Reason != "why" || ban.Manual || was) {
				t.Fatalf("step %d: %+v", i, ban)
			}
			if now := banned(b, k, time.Now()); now != (was || step.ban) {
				t.Fatalf("step %d: banned %v", i, now)
			}
		}
		if banned(b, addr("192.0.2.2"), time.Now()) {
			t.Error("a neighbour is banned")
		}
	})
}

func TestBansDoubleAndDecay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(small)
		k := penalty.Name("tenant")
		for i, step := range []struct {
			free    time.Duration // time without a ban before it
			strikes int
			lasts   time.Duration
		}{
			{0, 1, time.Minute},
			{0, 2, 2 * time.Minute},
			{time.Minute, 3, 4 * time.Minute},
			{time.Hour - 1, 4, 8 * time.Minute},
			{0, 5, 10 * time.Minute},
			{0, 6, 10 * time.Minute},
			{2*time.Hour + time.Minute, 5, 10 * time.Minute},
			{4 * time.Hour, 2, 2 * time.Minute},
			{1000 * time.Hour, 1, time.Minute},
		} {
			time.Sleep(step.free)
			ban, ok := offend(b, k, time.Now())
			if !ok || ban.Strikes != step.strikes || time.Until(ban.Until) != step.lasts || ban.Name != "tenant" {
				t.Fatalf("step %d: %v %+v for %v, want %d for %v", i, ok, ban, time.Until(ban.Until), step.strikes, step.lasts)
			}
			time.Sleep(step.lasts - time.Nanosecond)
			if until, ok := b.Banned(k, time.Now()); !ok || !until.Equal(ban.Until) {
				t.Fatalf("step %d: banned %v until %v", i, ok, until)
			}
			time.Sleep(time.Nanosecond)
			if banned(b, k, time.Now()) {
				t.Fatalf("step %d: still banned", i)
			}
		}
	})
}

// A now that steps back neither forgives nor ends a ban.
func TestNowStepsBack(t *testing.T) {
	b := newBox(small)
	k, now := addr("192.0.2.1"), time.Now().Add(time.Hour)
	n := 0
	for i := range 100 {
		at := now
		if i%2 == 1 {
			at = now.Add(-time.Hour)
		}
		if _, ok := b.Violation(k, 0.25, "", at); ok {
			break
		}
		n++
	}
	if n != 4 {
		t.Errorf("%d violations without consequence, want 4", n)
	}
	if !banned(b, k, now.Add(-time.Hour)) {
		t.Error("no ban in the past")
	}
}

func TestKeys(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		ban       penalty.Key
		in, outOf []penalty.Key
	}{
		{addr("192.0.2.1"), []penalty.Key{addr("192.0.2.1"), addr("::ffff:192.0.2.1")}, []penalty.Key{addr("192.0.2.2"), addr("::192.0.2.1"), penalty.Name("192.0.2.1")}},
		{addr("2001:db8::1"), []penalty.Key{addr("2001:db8::2"), addr("2001:db8::2%eth0")}, []penalty.Key{addr("2001:db8:0:1::1")}},
		{net("203.0.113.0/24"), []penalty.Key{addr("203.0.113.0"), addr("203.0.113.255")}, []penalty.Key{addr("203.0.114.0")}},
		{net("203.0.113.77/24"), []penalty.Key{addr("203.0.113.0")}, []penalty.Key{addr("203.0.114.0")}},
		{net("::ffff:203.0.113.0/120"), []penalty.Key{addr("203.0.113.9")}, []penalty.Key{addr("203.0.114.0")}},
		{net("10.0.0.0/7"), []penalty.Key{addr("11.255.0.1")}, []penalty.Key{addr("12.0.0.1"), addr("a00::")}},
		{net("2001:db8::1/128"), []penalty.Key{addr("2001:db8::1")}, []penalty.Key{addr("2001:db8::2")}},
		{net("2001:db8::/29"), []penalty.Key{addr("2001:dbf::1"), net("2001:db8:1::/48")}, []penalty.Key{addr("2001:dc0::"), net("2001::/16")}},
		{penalty.Name("a"), []penalty.Key{penalty.Name("a")}, []penalty.Key{penalty.Name("b"), penalty.Name("")}},
	} {
		b := newBox(config{})
		if err := b.Ban(c.ban, time.Hour, "by hand", now); err != nil {
			t.Errorf("%v: %v", c.ban, err)
		}
		for _, k := range c.in {
			if until, ok := b.Banned(k, now); !ok || until.Sub(now) != time.Hour {
				t.Errorf("ban of %v: %v is not banned", c.ban, k)
			}
			if _, ok := b.Violation(k, 1000, "", now); ok {
				t.Errorf("ban of %v: %v is banned twice", c.ban, k)
			}
		}
		for _, k := range c.outOf {
			if banned(b, k, now) {
				t.Errorf("ban of %v: %v is banned", c.ban, k)
			}
		}
		if all := b.All(now); len(all) != 1 || !all[0].Manual || all[0].Reason != "by hand" || all[0].Strikes != 0 {
			t.Errorf("%+v", all)
		}
		if !b.Lift(c.ban, now) || banned(b, c.in[0], now) || b.Lift(c.ban, now) || b.Stats().Entries != 0 {
			t.Errorf("%v was not lifted once", c.ban)
		}
	}
}

func TestWhatCannotBeBanned(t *testing.T) {
	b, now := newBox(config{}), time.Now()
	for _, k := range []penalty.Key{{}, penalty.Name(""), penalty.Addr(netip.Addr{}), penalty.Net(netip.Prefix{}), net("0.0.0.0/0"), net("::/0"), net("::ffff:0.0.0.0/90")} {
		if err := b.Ban(k, time.Hour, "", now); err != penalty.ErrKey {
			t.Errorf("%v: %v", k, err)
		}
	}
	if err := b.Ban(addr("192.0.2.1"), 0, "", now); err != penalty.ErrKey {
		t.Error("a ban of no time")
	}
	if _, ok := b.Violation(penalty.Key{}, 1e9, "", now); ok || banned(b, penalty.Key{}, now) || b.Lift(penalty.Key{}, now) {
		t.Error("nobody is banned")
	}
}

func TestListAndLift(t *testing.T) {
	b, now := newBox(small), time.Now()
	offend(b, addr("192.0.2.1"), now)
	offend(b, addr("2001:db8::1"), now.Add(time.Second))
	b.Ban(net("192.0.2.0/24"), 1<<62, "for ever", now)
	b.Ban(penalty.Name("x"), time.Second, "", now)
	all := b.All(now)
	if len(all) != 4 || all[0].Name != "x" || all[1].Prefix.String() != "192.0.2.1/32" || all[2].Prefix.String() != "2001:db8::/64" || all[3].Reason != "for ever" {
		t.Fatalf("%+v", all)
	}
	if !b.Lift(addr("192.0.2.1"), now) || !banned(b, addr("192.0.2.1"), now) {
		t.Error("lifting a client lifts its network too")
	}
	if len(b.All(now.Add(2*time.Minute))) != 1 {
		t.Error("what is over is listed")
	}
	// Lifted strikes are forgotten.
	b.Lift(net("192.0.2.0/24"), now)
	if ban, ok := offend(b, addr("192.0.2.1"), now); !ok || ban.Strikes != 1 {
		t.Errorf("%v %+v", ok, ban)
	}
	// A violation after a ban by hand begins with one strike; a ban by hand
	// takes the place of the other.
	later := now.Add(2 * time.Second)
	if ban, ok := offend(b, penalty.Name("x"), later); !ok || ban.Manual || ban.Strikes != 1 {
		t.Errorf("%v %+v", ok, ban)
	}
	if err := b.Ban(penalty.Name("x"), time.Hour, "again", later); err != nil || len(b.All(later)) != 3 {
		t.Errorf("%v %+v", err, b.All(later))
	}
	if until, _ := b.Banned(penalty.Name("x"), later); until.Sub(later) != time.Hour {
		t.Errorf("until %v", until)
	}
}

func TestBansByHandAreBounded(t *testing.T) {
	b, now := newBox(small), time.Now()
	for bits := 1; bits <= 128; bits++ {
		err := b.Ban(penalty.Net(netip.PrefixFrom(netip.MustParseAddr("ffff::"), bits)), time.Hour, "", now)
		if bits <= 16 != (err == nil) {
			t.Fatalf("/%d: %v", bits, err)
		}
	}
	for i := range penalty.MaxManual - 16 {
		if err := b.Ban(host4(i), time.Minute, "", now); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Ban(penalty.Name("x"), time.Hour, "", now); err != penalty.ErrFull {
		t.Fatal(err)
	}
	if err := b.Ban(host4(1), time.Minute, "", now); err != nil {
		t.Error("a ban that is there cannot be replaced:", err)
	}
	if err := b.Ban(penalty.Name("x"), time.Hour, "", now.Add(time.Minute)); err != nil {
		t.Error("what is over takes room:", err)
	}
	// They take no room from the others.
	if _, ok := offend(b, host6(1, 1), now); ok != false && !banned(b, host6(1, 1), now) {
		t.Error("no ban")
	}
	if _, ok := offend(b, host4(1<<20), now); !ok {
		t.Error("no ban")
	}
}

// Of 64 bans IPv4 has 32. A long one survives any number of short ones.
func TestBotnet(t *testing.T) {
	b, now := newBox(small), time.Now()
	bad := host4(1)
	for range 4 {
		ban, _ := offend(b, bad, now)
		now = ban.Until
	}
	ban, _ := offend(b, bad, now) // for 10 minutes
	if ban.Until.Sub(now) != 10*time.Minute {
		t.Fatalf("%+v", ban)
	}
	for i := range 500 {
		now = now.Add(time.Second / 2)
		if _, ok := offend(b, host4(1000+i), now); !ok || !banned(b, host4(1000+i), now) {
			t.Fatalf("bot %d is not banned", i)
		}
	}
	if !banned(b, bad, now) {
		t.Error("a long ban was displaced by short ones")
	}
	st := b.Stats()
	if st.Entries != 32 || st.Displaced == 0 {
		t.Errorf("%+v, want 32 entries", st)
	}
	// IPv6 has its own room.
	for i := range 16 {
		if ban, ok := offend(b, host6(i, 0), now); !ok || ban.Prefix.Bits() != 64 {
			t.Errorf("%v %+v", ok, ban)
		}
	}
	if st := b.Stats(); st.Entries != 48 {
		t.Errorf("%+v", st)
	}
}

// A ban that would end before all others has no place; the next violation tries again.
func TestNoPlace(t *testing.T) {
	b, now := newBox(small), time.Now()
	for range 5 {
		for i := range 32 {
			offend(b, host4(i), now)
		}
		now = now.Add(10 * time.Minute)
	}
	for i := range 32 {
		offend(b, host4(i), now)
	}
	if _, ok := offend(b, host4(99), now); ok || b.Stats().Unplaced == 0 {
		t.Error("a short ban has displaced a long one")
	}
	if _, ok := b.Violation(host4(99), 1, "", now.Add(9*time.Minute+time.Second)); ok {
		t.Error("the bucket does not fill")
	}
	if _, ok := offend(b, host4(99), now.Add(9*time.Minute+time.Second)); !ok {
		t.Error("never a place again")
	}
}

func TestRotatingThroughIPv6(t *testing.T) {
	b, now := newBox(small), time.Now()
	for i := range 16 {
		if ban, ok := offend(b, host6(1, i), now); !ok || ban.Prefix.Bits() != 64 {
			t.Fatalf("%v %+v, want a /64", ok, ban)
		}
	}
	ban, ok := offend(b, host6(1, 16), now)
	if !ok || ban.Prefix.String() != "2001:0:1::/48" {
		t.Fatalf("%v %+v, want the /48", ok, ban)
	}
	for i := 17; i < 1000; i++ {
		if !banned(b, host6(1, i), now) {
			t.Fatal("the /48 is not banned")
		}
	}
	if banned(b, host6(2, 0), now) {
		t.Error("another /48 is banned")
	}
	// A /32 of them.
	for i := range 1000 {
		now = now.Add(100 * time.Millisecond)
		offend(b, host6(100+i, i), now)
		if !banned(b, host6(100+i, i), now) {
			t.Fatalf("/48 number %d: not banned", i)
		}
	}
	if st := b.Stats(); st.Entries > 32 {
		t.Errorf("%+v, want at most 32", st)
	}
	// When their time is over /64s are banned again.
	now = now.Add(time.Hour)
	if ban, ok := offend(b, host6(5000, 0), now); !ok || ban.Prefix.Bits() != 64 {
		t.Errorf("%v %+v, want a /64", ok, ban)
	}
}

// How long a ban lasts is said with each strike.
func TestConfigOfTheCall(t *testing.T) {
	b, now := newBox(small), time.Now()
	k := addr("192.0.2.1")
	strike := func(first, longest, decay time.Duration) penalty.Ban {
		t.Helper()
		ban, ok := b.Strike(k, "", penalty.Config{First: first, Max: longest, Decay: decay}, now)
		if !ok {
			t.Fatal("no ban")
		}
		if _, again := b.Strike(k, "", penalty.Config{First: first, Max: longest, Decay: decay}, now); again {
			t.Error("banned twice")
		}
		return ban
	}
	for i, step := range []struct {
		first, longest, decay time.Duration
		free                  time.Duration // time without a ban before it
		strikes               int
		lasts                 time.Duration
	}{
		{time.Minute, time.Hour, time.Hour, 0, 1, time.Minute},
		{time.Minute, time.Hour, time.Hour, 0, 2, 2 * time.Minute},
		{time.Second, time.Hour, time.Hour, 0, 3, 4 * time.Second},
		{time.Minute, 3 * time.Minute, time.Hour, 0, 4, 3 * time.Minute},
		{time.Minute, time.Second, time.Hour, 0, 5, time.Minute}, // the longest is the first
		{time.Minute, time.Hour, time.Minute, 3 * time.Minute, 3, 4 * time.Minute},
		{time.Minute, time.Hour, 0, 1000 * time.Hour, 4, 8 * time.Minute}, // nothing is forgotten
		{1 << 62, 1 << 62, time.Hour, 0, 5, 1 << 62},
	} {
		now = now.Add(step.free)
		ban := strike(step.first, step.longest, step.decay)
		if ban.Strikes != step.strikes || ban.Until.Sub(now) != step.lasts {
			t.Fatalf("step %d: %+v for %v, want %d for %v", i, ban, ban.Until.Sub(now), step.strikes, step.lasts)
		}
		now = ban.Until
	}
}

// A bucket that other limits are asked about owes what it owed, in weight.
func TestLimitsChange(t *testing.T) {
	b, now := newBox(small), time.Now()
	b.Violation(host4(99), 1, "", now)
	b.cfg.Burst, b.cfg.First = 3, 2*time.Minute
	for i := range 3 {
		if ban, ok := b.Violation(host4(99), 1, "", now); ok != (i == 2) || ok && ban.Until.Sub(now) != 2*time.Minute {
			t.Errorf("violation %d: %v %+v", i, ok, ban)
		}
	}
}

// A client for which there is no room is not forgotten. Each further violation tries
// again. Its neighbours are not held to what it did.
func TestNoPlaceIsTriedAgain(t *testing.T) {
	b, now := newBox(small), time.Now()
	long := penalty.Config{First: time.Hour, Max: time.Hour, Decay: time.Hour}
	for i := range 16 {
		b.Strike(host6(1000+i, 0), "", long, now)
	}
	for i := range 17 { // the last is a /48, which fills their room
		for j := range 16 {
			b.Strike(host6(i, j), "", long, now)
		}
	}
	bad, neighbour := host6(5000, 1), host6(5000, 2)
	for range 5 {
		if _, ok := b.Violation(bad, 3, "", now); ok {
			t.Fatal("a place for a short ban")
		}
	}
	if n := b.Stats().Unplaced; n != 5 {
		t.Errorf("%d unplaced, want 5", n)
	}
	now = now.Add(time.Hour)
	b.Violation(bad, 1, "", now) // its bucket is full by now
	if _, ok := b.Violation(neighbour, 1, "", now); ok {
		t.Error("a neighbour is banned for a first violation")
	}
	if _, ok := b.Violation(bad, 1, "", now); !ok {
		t.Error("never a place again")
	}
}

func TestManyAreBounded(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	flood := 200_000
	if raceEnabled {
		flood /= 5
	}
	now := time.Now()
	before := heap()
	b := newBox(config{MaxBans: 1024})
	suspect := host4(1)
	b.Violation(suspect, 9.9, "", now)
	bad := host4(2)
	b.Violation(bad, 11, "", now)
	for i := range flood {
		b.Violation(host4(1000+i), float64(1+i%2*6), "", now)
		b.Violation(host6(i/100, i), float64(1+i%8*2), "", now)
		b.Violation(penalty.Name(fmt.Sprint(i)), 1, "", now)
	}
	if used := int64(heap() - before); used > 1024*400+4096*40 {
		t.Errorf("%d bytes", used)
	}
	if st := b.Stats(); st.Entries > 1024 || b.suspects(now) > 4096 {
		t.Errorf("%+v, %d suspects", st, b.suspects(now))
	}
	if _, ok := b.Violation(suspect, 0.2, "", now); !ok {
		t.Error("someone nearly banned was forgotten for others")
	}
	if !banned(b, bad, now) {
		t.Error("a ban was forgotten")
	}
	runtime.KeepAlive(b)
}

func TestManyAtOnce(t *testing.T) {
	b, now := newBox(config{Burst: 100}), time.Now()
	k := addr("192.0.2.1")
	var bans, before atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			for j := range 20 {
				if banned(b, k, now) {
					b.All(now)
					return
				}
				before.Add(1)
				if _, ok := b.Violation(k, 1, "", now); ok {
					bans.Add(1)
				}
				b.Violation(host6(i, j), 11, "", now)
				b.Banned(host6(j, i), now)
				b.Ban(penalty.Name(fmt.Sprint(i)), time.Hour, "", now)
				b.Lift(penalty.Name(fmt.Sprint(j)), now)
			}
		})
	}
	wg.Wait()
	if bans.Load() != 1 || before.Load() < 101 {
		t.Errorf("%d bans after %d violations", bans.Load(), before.Load())
	}
}

func TestNothingAllocates(t *testing.T) {
	b, now := newBox(config{}), time.Now()
	check := func(what string, k penalty.Key) {
		t.Helper()
		if n := testing.AllocsPerRun(100, func() { b.Banned(k, now) }); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
	k := host6(1, 1)
	check("nobody", k)
	offend(b, host6(2, 2), now)
	b.Ban(net("2001:db8::/33"), time.Hour, "", now)
	check("not banned", k)
	check("banned", host6(2, 2))
	b.Violation(k, 1, "", now)
	if n := testing.AllocsPerRun(100, func() { b.Violation(k, 1e-9, "", now) }); n != 0 {
		t.Errorf("a violation: %v allocations", n)
	}
}

func BenchmarkBanned(b *testing.B) {
	now := time.Now()
	run := func(name string, box *box, k penalty.Key) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				box.Banned(k, now)
			}
		})
	}
	full := newBox(config{})
	run("empty", full, host4(1))
	for i := range 8000 {
		offend(full, host4(1000+i), now)
		offend(full, host6(1000+i, i), now)
	}
	run("IPv4", full, host4(1))
	run("IPv6", full, host6(1, 1))
	run("banned", full, host4(1001))
}

// The oracle knows no bounds: as long as there is room the box does the same.
func FuzzBox(f *testing.F) {
	f.Add([]byte{0, 1, 40, 0, 1, 40, 1, 200, 40, 2, 1, 0, 0, 1, 255})
	f.Fuzz(func(t *testing.T, ops []byte) {
		cfg := config{Rate: 1, Burst: 4, First: time.Second, Max: 8 * time.Second, Decay: 30 * time.Second}
		b := newBox(cfg)
		type client struct {
			tokens  float64
			seen    time.Time
			until   time.Time
			strikes int
		}
		now := time.Now()
		clients := map[byte]*client{}
		for ; len(ops) >= 3; ops = ops[3:] {
			who, c := host4(int(ops[1]%4)), clients[ops[1]%4]
			if c == nil {
				c = &client{tokens: 4, seen: now}
				clients[ops[1]%4] = c
			}
			switch ops[0] % 4 {
			case 0:
				weight := float64(ops[2]%32) / 4
				_, ok := b.Violation(who, weight, "", now)
				if weight == 0 || now.Before(c.until) {
					if ok {
						t.Fatal("a ban for nothing")
					}
					continue
				}
				c.tokens, c.seen = min(4, c.tokens+now.Sub(c.seen).Seconds()), now
				// Exactly at the edge rounding may decide.
				if c.tokens -= weight; ok != (c.tokens < 0) && (c.tokens < -1e-6 || c.tokens > 1e-6) {
					t.Fatalf("ban %v with %v left", ok, c.tokens)
				}
				if ok {
					if past := now.Sub(c.until); past > 0 && c.strikes > 0 {
						c.strikes = max(0, c.strikes-int(past/cfg.Decay))
					}
					c.strikes++
					c.until = now.Add(min(cfg.Max, cfg.First<<(min(c.strikes, 10)-1)))
					c.tokens = 4
				}
			case 1:
				now = now.Add(time.Duration(ops[2]) * 100 * time.Millisecond)
			case 2:
				if b.Lift(who, now) != now.Before(c.until) {
					t.Fatal("lifted what was not banned, or the other way round")
				}
				delete(clients, ops[1]%4)
			case 3:
				if until, ok := b.Banned(who, now); ok != now.Before(c.until) || ok && !until.Equal(c.until) {
					t.Fatalf("banned %v until %v, want until %v", ok, until, c.until)
				}
			}
		}
	})
}

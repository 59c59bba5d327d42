package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/penalty"
)

// limitsResult is what limits cost that are kept under keys.
type limitsResult struct {
	names      []string
	rounds     map[string][]time.Duration // of a decision, in picoseconds: a nanosecond is too coarse
	allocs     float64                    // for each decision
	tracked    int
	perKey     float64 // bytes for each key and limit: one limit for each
	perKeyPair float64 // two
	flood      floodResult
}

type floodResult struct {
	keys, penalised, remained int
	used, limit               int64 // bytes of heap
	evicted                   uint64
	box                       int64 // bytes of heap of a penalty box
	banned                    bool  // a client that was banned before the flood still is
}

const (
	allowN   = "rate.Limiter, AllowN, one limiter"
	takeOne  = "keyed.Table, Take, one key"
	takePair = "keyed.Table, Take2, one key, two limits"
	takeMany = "keyed.Table, Take, 65,536 keys in turn"
	notBan   = "penalty.Box, Banned, 8,192 bans, not of this one"
	noBans   = "penalty.Box, Banned, nobody is"
)

// maxBans and bans are what a Guard has.
const maxBans = 16384

var bans = penalty.Config{First: time.Minute, Max: time.Hour, Decay: time.Hour}

// runLimits measures on one goroutine of this process: there is no peer.
func runLimits(o options, log func(string, ...any)) *limitsResult {
	r := &limitsResult{rounds: map[string][]time.Duration{}}
	decisions, tracked := o.refusals*1000, o.refusals*500 // 2 million and 1 million
	log("limits: decisions")
	r.decide(o.rounds, decisions)
	log("limits: memory")
	r.tracked = tracked
	r.perKey, r.perKeyPair = r.perKeyOf(1), r.perKeyOf(2)
	log("limits: flood of keys")
	r.drown(o.refusals * 5000) // 10 million
	return r
}

// perKeyOf fills a table of so many lanes.
func (r *limitsResult) perKeyOf(lanes int) float64 {
	l, second := keyed.Limit{PerSecond: 1e-3, Burst: 10}, keyed.Limit{}
	if lanes == 2 {
		second = l
	}
	var t *keyed.Table
	now := time.Now()
	bytes := grown(func() any {
		t = keyed.New(r.tracked)
		for i := range r.tracked {
			t.Take2(t.Prefix(clientKey(i)), 1, 1, l, second, now)
		}
		return t
	})
	// Some have found no room.
	return bytes / float64(lanes*t.Stats(l, second, now).Keys)
}

func (r *limitsResult) decide(rounds, n int) {
	lim := rate.NewLimiter(1e9, 1e9)
	l, slower := keyed.Limit{PerSecond: 1e9, Burst: 1e9}, keyed.Limit{PerSecond: 1e6, Burst: 1e9}
	one, pair, many := keyed.New(65536), keyed.New(65536), keyed.New(1<<17)
	key, key2 := one.Prefix(clientKey(1)), pair.Prefix(clientKey(1))
	keys := make([]keyed.Key, 65536)
	begin := time.Now()
	for i := range keys {
		keys[i] = many.Prefix(clientKey(i))
		many.Charge(keys[i], 1e8, slower, begin)
	}
	box, empty := penalty.New(maxBans), penalty.New(maxBans)
	for i := range 8192 {
		box.Strike(penalty.Net(clientKey(1000+i)), "", bans, begin)
	}
	who := penalty.Net(clientKey(1))
	// Time goes on, or nothing would flow in.
	steps := []struct {
		name string
		f    func(i int, now time.Time)
	}{
		{allowN, func(_ int, now time.Time) { lim.AllowN(now, 1) }},
		{takeOne, func(_ int, now time.Time) { one.Take(key, 1, l, now) }},
		{takePair, func(_ int, now time.Time) { pair.Take2(key2, 1, 100, l, l, now) }},
		{takeMany, func(i int, now time.Time) { many.Take(keys[i%len(keys)], 1, slower, now) }},
		{notBan, func(_ int, now time.Time) { box.Banned(who, now) }},
		{noBans, func(_ int, now time.Time) { empty.Banned(who, now) }},
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		for _, s := range steps {
			now := begin
			started := time.Now()
			for i := range n {
				now = now.Add(100)
				s.f(i, now)
			}
			r.rounds[s.name] = append(r.rounds[s.name], time.Since(started)*1000/time.Duration(n))
		}
		begin = begin.Add(time.Duration(n) * 100)
	}
	runtime.ReadMemStats(&after)
	for _, s := range steps {
		r.names = append(r.names, s.name)
	}
	r.allocs = float64(after.Mallocs-before.Mallocs) / float64(n*rounds*len(steps))
}

// drown lets keys come that are all different. A quarter of them empties its
// bucket and is refused, and so is every tenth in the same few networks.
func (r *limitsResult) drown(keys int) {
	const size = 65536
	l := keyed.Limit{PerSecond: 1.0 / 60, Burst: 10}
	f := floodResult{keys: keys, penalised: 1000, limit: 24 * size * 5 / 4} // what the allocator leaves unused included
	var t *keyed.Table
	begin := time.Now()
	f.used = int64(grown(func() any {
		t = keyed.New(size)
		for i := range f.penalised {
			k := t.Prefix(clientKey(i))
			t.Charge(k, 20, l, begin)
			t.Take(k, 1, l, begin)
		}
		for i := range keys {
			// All within five minutes.
			now := begin.Add(time.Duration(i) * (5 * time.Minute) / time.Duration(keys))
			p := clientKey(1<<24 + i)
			if i%10 == 0 {
				p = rotatingKey(i)
			}
			k, n := t.Prefix(p), 1.0
			if i%4 == 0 {
				n = 10
			}
			t.Take(k, n, l, now)
			t.Take(k, n, l, now)
		}
		return t
	}))
	end := begin.Add(5 * time.Minute)
	for i := range f.penalised {
		if _, ok := t.Take(t.Prefix(clientKey(i)), 1, l, end); !ok {
			f.remained++
		}
	}
	f.evicted = t.Evicted()
	// As a Guard does it: buckets for violations, and a box behind them.
	var box *penalty.Box
	var violations *keyed.Table
	limit := keyed.Limit{PerSecond: 0.1, Burst: 10}
	offend := func(p netip.Prefix, weight float64, now time.Time) {
		who := penalty.Net(p)
		if _, banned := box.Banned(who, now); banned {
			return
		}
		if k := violations.Prefix(p); !violations.Spend(k, weight, limit, now) {
			if _, banned := box.Strike(who, "", bans, now); banned {
				violations.Forget(k)
			}
		}
	}
	bad := penalty.Net(clientKey(1))
	f.box = int64(grown(func() any {
		box, violations = penalty.New(maxBans), keyed.New(size)
		offend(clientKey(1), 11, begin)
		for i := range keys / 5 {
			// So that bans of a minute have their time at this rate.
			now := begin.Add(time.Duration(i) * (30 * time.Second) / time.Duration(keys))
			p := clientKey(1<<24 + i)
			if i%2 == 0 {
				p = rotatingKey(i)
			}
			offend(p, float64(1+i%4*5), now)
		}
		return []any{box, violations}
	}))
	_, f.banned = box.Banned(bad, begin.Add(30*time.Second))
	r.flood = f
}

// clientKey is the i-th of many: IPv4 addresses, and /64s that are in networks of
// their own.
func clientKey(i int) netip.Prefix {
	if i%2 == 0 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], uint32(i))
		return netip.PrefixFrom(netip.AddrFrom4(a), 32)
	}
	a := [16]byte{0x20, 0x01}
	binary.BigEndian.PutUint32(a[2:], uint32(i))
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// rotatingKey is a /64 of sixteen /48s.
func rotatingKey(i int) netip.Prefix {
	a := [16]byte{0x20, 0x02}
	a[5] = byte(i >> 16 & 15)
	binary.BigEndian.PutUint16(a[6:], uint16(i))
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// grown is how much heap there is for what f returns.
func grown(f func() any) float64 {
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse)
	}
	before := heap()
	kept := f()
	after := heap()
	runtime.KeepAlive(kept)
	return after - before
}

func printLimits(w io.Writer, o options, r *limitsResult) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "Limits under keys: decisions on one goroutine, %d in a round; rounds: %d\n\n", o.refusals*1000, o.rounds)
	fmt.Fprintln(w, "| decision | ns | ÷ AllowN |")
	fmt.Fprintln(w, "|---|--:|--:|")
	for _, name := range r.names {
		ratio, _ := ratioOf(r.rounds[name], r.rounds[allowN])
		fmt.Fprintf(w, "| %s | %.1f | %s |\n", name, float64(median(r.rounds[name]))/1000, ratio)
	}
	f := r.flood
	fmt.Fprintf(w, "\nA flood of %d keys, all different, in a table for 65,536: %d bytes of heap, %d buckets evicted that were not full; of %d penalised before it %d still are. A fifth as many in a penalty box: %d bytes.\n\n",
		f.keys, f.used, f.evicted, f.penalised, f.remained, f.box)
}

func goalsLimits(w io.Writer, r *limitsResult) {
	if r == nil {
		return
	}
	line := goal(w)
	if q, ok := ratioOf(r.rounds[takeOne], r.rounds[allowN]); ok {
		line(q.mid <= 2.5 && r.allocs < 0.005, "decision for a known key ÷ rate.Limiter.AllowN: %s, goal ≤ 2.5; allocations %.2f, goal 0", q.spread(), r.allocs)
	}
	line(max(r.perKey, r.perKeyPair) <= 64, "bytes of heap for each of %d keys and limit: %.1f in a table of one, %.1f of two, goal ≤ 64", r.tracked, r.perKey, r.perKeyPair)
	f := r.flood
	line(f.used <= f.limit && f.remained == f.penalised && f.banned,
		"%d rotating keys: %d bytes of heap, goal ≤ %d; %d of %d penalised keys remain, goal all", f.keys, f.used, f.limit, f.remained, f.penalised)
}

package storetest

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/store"
)

// slow is a limit under which no token flows in during a test.
var slow = store.Limit{PerSecond: 1e-6, Burst: 100}

// take takes tokens, and checks how many they are.
func (s *suite) take(t store.Take, want int64) (wait time.Duration) {
	s.Helper()
	n, wait, err := s.a.Rates.TakeTokens(s.ctx, t)
	if err != nil {
		s.Fatal(err)
	}
	if n != want {
		s.Fatalf("%+v: took %d, want %d (wait %v)", t, n, want, wait)
	}
	return wait
}

func ratesBurst(s *suite) {
	s.need(s.a.Rates != nil, "Rates")
	s.take(store.Take{Key: "k", Limit: slow, Least: 1, Most: 60}, 60)
	s.take(store.Take{Key: "other", Limit: slow, Least: 1, Most: 1000}, 100)
	s.take(store.Take{Key: "k", Limit: slow, Least: 1, Most: 30}, 30)
	if wait := s.take(store.Take{Key: "k", Limit: slow, Least: 20, Most: 20}, 0); wait <= 0 {
		s.Error("refused without a time to wait")
	}
	s.take(store.Take{Key: "k", Limit: slow, Least: 2, Most: 20}, 10)
	if wait := s.take(store.Take{Key: "k", Limit: slow, Least: 0, Most: 20}, 0); wait != 0 {
		s.Error("a least of 0 was refused for", wait)
	}
}

func ratesRefill(s *suite) {
	s.need(s.a.Rates != nil, "Rates")
	limit := store.Limit{PerSecond: 20, Burst: 10}
	half := store.Take{Limit: limit, Least: 5, Most: 5}
	var n int64
	var wait time.Duration
	for i := range 50 { // on a slow machine, tokens may flow in before the second take
		half.Key = fmt.Sprint("k", i)
		s.take(store.Take{Key: half.Key, Limit: limit, Least: 10, Most: 10}, 10)
		var err error
		if n, wait, err = s.a.Rates.TakeTokens(s.ctx, half); err != nil {
			s.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	if n != 0 || wait <= 0 || wait > time.Second/4 {
		s.Fatalf("an empty bucket gave %d tokens, wait %v, want at most 250ms", n, wait)
	}
	s.h.Advance(wait)
	s.take(half, 5)
	s.h.Advance(time.Second) // more than enough for a full bucket
	s.take(store.Take{Key: half.Key, Limit: limit, Least: 10, Most: 1000}, 10)
}

func ratesRace(s *suite) {
	s.need(s.a.Rates != nil, "Rates")
	var sum atomic.Int64
	s.race(200, func(in Instance, i int) {
		n, _, err := in.Rates.TakeTokens(s.ctx, store.Take{Key: "k", Limit: slow, Least: 1, Most: int64(1 + i%7)})
		if err != nil {
			s.Error(err)
		}
		sum.Add(n)
	})
	if n := sum.Load(); n != slow.Burst {
		s.Errorf("%d tokens, want %d", n, slow.Burst)
	}
}

// What is owed stays owed when a limit changes.
func ratesDebt(s *suite) {
	s.need(s.a.Rates != nil, "Rates")
	small, large := slow, slow
	small.Burst, large.Burst = 20, 150
	s.take(store.Take{Key: "k", Limit: slow, Least: 1, Most: 50}, 50)
	s.take(store.Take{Key: "k", Limit: small, Least: 1, Most: 50}, 0)
	s.take(store.Take{Key: "k", Limit: small, Least: 0, Most: 50}, 0)
	s.take(store.Take{Key: "k", Limit: large, Least: 1, Most: 1000}, 100)
	// Tokens flow in at the rate of the call.
	large.PerSecond = 10_000
	s.h.Advance(short)
	s.take(store.Take{Key: "k", Limit: large, Least: 150, Most: 1000}, 150)
}

func ratesLook(s *suite) {
	s.need(s.a.Rates != nil, "Rates")
	for range 3 {
		if wait := s.take(store.Take{Key: "k", Limit: slow, Least: 100}, 0); wait != 0 {
			s.Error("a full bucket lacks tokens for", wait)
		}
	}
	s.take(store.Take{Key: "k", Limit: slow, Least: 100, Most: 100}, 100)
	if wait := s.take(store.Take{Key: "k", Limit: slow, Least: 1}, 0); wait <= 0 {
		s.Error("an empty bucket has tokens")
	}
	if wait := s.take(store.Take{Key: "k", Limit: slow}, 0); wait != 0 {
		s.Error("a look for nothing was refused for", wait)
	}
}

func ratesExtremes(s *suite) {
	s.need(s.a.Rates != nil, "Rates")
	fast := store.Limit{PerSecond: 1 << 32, Burst: 1 << 34}
	s.take(store.Take{Key: "fast", Limit: fast, Least: 1 << 34, Most: math.MaxInt64}, 1<<34)
	slowest := store.Limit{PerSecond: 1e-9, Burst: 1 << 34}
	s.take(store.Take{Key: "slowest", Limit: slowest, Least: 1 << 34, Most: 1 << 34}, 1<<34)
	if wait := s.take(store.Take{Key: "slowest", Limit: slowest, Least: 1 << 34, Most: 1 << 34}, 0); wait < time.Hour {
		s.Error("wait", wait)
	}
	odd := store.Limit{PerSecond: 1.0 / 3, Burst: 1}
	s.take(store.Take{Key: "odd {key}\x00\xff\r\n", Limit: odd, Least: 1, Most: 1}, 1)
	s.take(store.Take{Key: "odd {key}\x00\xff\r\n", Limit: odd, Least: 1, Most: 1}, 0)
}

func ratesInvalid(s *suite) {
	s.need(s.a.Rates != nil, "Rates")
	for what, t := range invalidTakes {
		_, _, err := s.a.Rates.TakeTokens(s.ctx, t)
		s.invalid(what, err)
	}
}

var invalidTakes = map[string]store.Take{
	"no key":               {Limit: slow, Least: 1, Most: 1},
	"no limit":             {Key: "k", Least: 1, Most: 1},
	"a negative rate":      {Key: "k", Limit: store.Limit{PerSecond: -1, Burst: 1}, Least: 1, Most: 1},
	"NaN":                  {Key: "k", Limit: store.Limit{PerSecond: math.NaN(), Burst: 1}, Least: 1, Most: 1},
	"infinity":             {Key: "k", Limit: store.Limit{PerSecond: math.Inf(1), Burst: 1}, Least: 1, Most: 1},
	"a rate too low":       {Key: "k", Limit: store.Limit{PerSecond: 1e-300, Burst: 1}, Least: 1, Most: 1},
	"no burst":             {Key: "k", Limit: store.Limit{PerSecond: 1}, Least: 1, Most: 1},
	"a burst too high":     {Key: "k", Limit: store.Limit{PerSecond: 1, Burst: 1<<34 + 1}, Least: 1, Most: 1},
	"more than the burst":  {Key: "k", Limit: slow, Least: 101, Most: 200},
	"a negative least":     {Key: "k", Limit: slow, Least: -1, Most: 1},
	"a negative most":      {Key: "k", Limit: slow, Least: 0, Most: -1},
	"a most under a least": {Key: "k", Limit: slow, Least: 2, Most: 1},
}

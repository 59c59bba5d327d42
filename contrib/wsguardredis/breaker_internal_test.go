package wsguardredis

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := &breaker{logger: slog.New(slog.NewTextHandler(&log, nil))}
		fail := func() time.Duration {
			t.Helper()
			probe, _, ok := b.enter(time.Now())
			if !ok {
				t.Fatal("a call was not let through")
			}
			return b.failed(time.Now(), probe, errors.New("no"))
		}
		for i := range 3 * maxFailures { // a success ends a row
			if fail() != 0 {
				t.Fatal("open after", i)
			}
			if i%(maxFailures-1) == 0 {
				b.succeeded()
			}
		}
		b.succeeded()
		for range maxFailures - 1 {
			fail()
		}
		spread := map[time.Duration]bool{}
		for range 20 {
			retry := fail()
			spread[retry] = true
			if retry < probeEvery*3/4 || retry > probeEvery*5/4 {
				t.Fatal("asked again after", retry)
			}
			time.Sleep(retry - 1)
			if _, left, ok := b.enter(time.Now()); ok || left != 1 {
				t.Fatal("let through too early:", left, ok)
			}
			time.Sleep(time.Nanosecond)
		}
		if len(spread) < 10 {
			t.Errorf("only %d different times to wait", len(spread))
		}
		// One call at a time asks.
		probe, _, ok := b.enter(time.Now())
		if !probe || !ok {
			t.Fatal(probe, ok)
		}
		if _, retry, ok := b.enter(time.Now()); ok || retry <= 0 {
			t.Fatal("a second call asks:", retry)
		}
		b.leave(probe) // it has told nothing, so the next one asks
		if probe, _, ok = b.enter(time.Now()); !probe || !ok {
			t.Fatal(probe, ok)
		}
		b.succeeded()
		for range 3 {
			if probe, _, ok := b.enter(time.Now()); probe || !ok {
				t.Fatal("closed, but", probe, ok)
			}
		}
		text := log.String()
		if strings.Count(text, "level=WARN") != 1 || strings.Count(text, "level=INFO") != 1 {
			t.Errorf("logged\n%s", text)
		}
	})
}

// A call that began before the breaker opened says nothing about the probe.
func TestBreakerLateFailure(t *testing.T) {
	b := &breaker{}
	now := time.Now()
	for range maxFailures {
		b.failed(now, false, errors.New("no"))
	}
	next := b.next
	if retry := b.failed(now.Add(time.Millisecond), false, errors.New("no")); retry != next.Sub(now)-time.Millisecond || b.next != next {
		t.Error("a late failure moves the next probe:", retry)
	}
}

// Each tally is newer than the one before.
func TestTallies(t *testing.T) {
	var ts tallies
	last := uint64(0)
	check := func(got tally, n, held int, fresh bool) {
		t.Helper()
		if got.n != n || got.held != held || got.fresh != fresh || got.seq <= last {
			t.Errorf("%+v after %d, want %d %d %v", got, last, n, held, fresh)
		}
		last = got.seq
	}
	ts.confirm("k", "a")
	check(ts.remove("k", "a"), 0, 0, false)
	check(ts.add("k", "a"), 1, 0, true)
	check(ts.add("k", "a"), 1, 0, false)
	check(ts.add("k", "b"), 2, 0, true)
	check(ts.add("other", "b"), 1, 0, true)
	ts.confirm("k", "a")
	ts.confirm("k", "a")
	ts.confirm("k", "unknown")
	check(ts.now("k"), 2, 1, false)
	check(ts.add("k", "a"), 2, 1, false)
	check(ts.remove("k", "a"), 1, 0, false)
	check(ts.remove("k", "a"), 1, 0, false)
	check(ts.remove("k", "b"), 0, 0, false)
	check(ts.now("k"), 0, 0, false)
	if len(ts.scopes) != 1 {
		t.Errorf("%v", ts.scopes)
	}
	// A number that was sent while an ID was asked for is sent again when it was refused.
	ts.add("wide", "stays")
	before := ts.now("wide").seq
	quiet := ts.add("wide", "quiet")
	if got, told := ts.forget(counted{"wide", quiet.seq}, "quiet"); told {
		t.Errorf("%+v after %d, and nothing was sent", got, before)
	}
	told := ts.add("wide", "told")
	ts.now("wide")
	if got, ok := ts.forget(counted{"wide", told.seq}, "told"); !ok || got.n != 1 || got.seq <= told.seq {
		t.Errorf("%+v %v", got, ok)
	}
	ts.remove("wide", "stays")
	if len(ts.scopes) != 1 {
		t.Errorf("%v", ts.scopes)
	}
}

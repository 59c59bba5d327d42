package storetest

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/store"
)

// both runs f for a scope and for one that is wide.
func (s *suite) both(f func(scope func(key string, max int) store.Scope)) {
	s.Helper()
	s.need(s.a.Slots != nil, "Slots")
	for _, wide := range []bool{false, true} {
		f(func(key string, max int) store.Scope {
			return store.Scope{Key: fmt.Sprint(key, "-wide-", wide), Max: max, Wide: wide}
		})
	}
}

// acquire takes slots, and checks which scope is full. "" is none.
func (s *suite) acquire(in Instance, id, full string, ttl time.Duration, scopes ...store.Scope) {
	s.Helper()
	got, err := in.Slots.Acquire(s.ctx, id, ttl, scopes...)
	if err != nil || got != full {
		s.Fatalf("%s: full %q, %v; want full %q", id, got, err, full)
	}
}

func slotsCap(s *suite) {
	s.both(func(scope func(string, int) store.Scope) {
		in, other := s.a, s.open()
		three := scope("cap", 3)
		for i := range 3 {
			s.acquire(in, fmt.Sprint("id", i), "", long, three)
			in, other = other, in
		}
		s.acquire(in, "id3", three.Key, long, three)
		s.acquire(other, "id4", three.Key, long, three)
		none := scope("counted", 0)
		for i := range 20 {
			s.acquire(in, fmt.Sprint("id", i), "", long, none)
		}
		none.Max = 20 // they were counted
		s.acquire(other, "id20", none.Key, long, none)
		more := scope("cap", 4) // another limit of the same scope
		s.acquire(other, "id5", "", long, more)
	})
}

func slotsAllOrNone(s *suite) {
	s.both(func(scope func(string, int) store.Scope) {
		a, b, c := scope("a", 5), scope("b", 1), scope("c", 1)
		s.acquire(s.a, "first", "", long, a, b)
		for i := range 10 { // they must not take a slot in a
			s.acquire(s.a, fmt.Sprint("refused", i), b.Key, long, a, b, c)
		}
		s.acquire(s.a, "c", "", long, c)
		s.acquire(s.a, "two", b.Key, long, a, b, c) // the first of the scopes that are full
		s.acquire(s.a, "three", c.Key, long, a, c, b)
		for i := range 4 {
			s.acquire(s.a, fmt.Sprint("more", i), "", long, a)
		}
		s.acquire(s.a, "over", a.Key, long, a)
	})
}

func slotsSameID(s *suite) {
	s.both(func(scope func(string, int) store.Scope) {
		two := scope("two", 2)
		for range 5 {
			s.acquire(s.a, "same", "", long, two)
		}
		s.acquire(s.a, "other", "", long, two)
		s.acquire(s.a, "same", "", long, two) // full, but it has a slot
		s.acquire(s.a, "third", two.Key, long, two)
		lease := store.Lease{ID: "same", Scopes: []store.Scope{two}}
		for range 3 { // returned once
			s.ok(s.a.Slots.Release(s.ctx, lease))
		}
		s.acquire(s.a, "fourth", "", long, two)
		s.acquire(s.a, "fifth", two.Key, long, two)
	})
}

func slotsRace(s *suite) {
	s.both(func(scope func(string, int) store.Scope) {
		limit, all := scope("race", 50), scope("all", 0)
		var got atomic.Int32
		s.race(800, func(in Instance, i int) {
			full, err := in.Slots.Acquire(s.ctx, fmt.Sprint("id", i), long, all, limit)
			if err != nil {
				s.Error(err)
			} else if full == "" {
				got.Add(1)
			}
		})
		if n := got.Load(); n != 50 {
			s.Errorf("%d slots of %s, want 50", n, limit.Key)
		}
	})
}

func slotsRelease(s *suite) {
	s.both(func(scope func(string, int) store.Scope) {
		a, b := scope("a", 10), scope("b", 3)
		var leases []store.Lease
		for i := range 3 {
			id := fmt.Sprint("id", i)
			s.acquire(s.a, id, "", long, a, b)
			leases = append(leases, store.Lease{ID: id, Scopes: []store.Scope{a, b}})
		}
		s.acquire(s.a, "over", b.Key, long, a, b)
		s.ok(s.a.Slots.Release(s.ctx, leases[1:]...))
		s.ok(s.a.Slots.Release(s.ctx, store.Lease{ID: "unknown", Scopes: []store.Scope{a, b}}))
		s.ok(s.a.Slots.Release(s.ctx))
		s.acquire(s.a, "x", "", long, a, b)
		s.acquire(s.a, "y", "", long, a, b)
		s.acquire(s.a, "z", b.Key, long, a, b)
	})
}

func slotsExpire(s *suite) {
	s.both(func(scope func(string, int) store.Scope) {
		one, live := scope("one", 1), scope("live", 1)
		gone := s.open()
		s.acquire(gone, "killed", "", short, one)
		s.acquire(s.a, "lives", "", long, live)
		s.h.Advance(short + 10*time.Millisecond)
		s.acquire(s.a, "next", "", long, one)
		s.acquire(s.a, "over", live.Key, long, live)
	})
}

func slotsRenew(s *suite) {
	s.both(func(scope func(string, int) store.Scope) {
		one, lost := scope("one", 1), scope("lost", 2)
		s.acquire(s.a, "renewed", "", short, one)
		s.ok(s.a.Slots.Renew(s.ctx, long, store.Lease{ID: "renewed", Scopes: []store.Scope{one}}))
		s.h.Advance(short + 10*time.Millisecond)
		s.acquire(s.a, "over", one.Key, long, one)

		// The store has never heard of these: it has lost its memory.
		var leases []store.Lease
		for i := range 1200 {
			leases = append(leases, store.Lease{ID: fmt.Sprint("id", i), Scopes: []store.Scope{lost}})
		}
		s.ok(s.a.Slots.Renew(s.ctx, long, leases...))
		lost.Max = 1200
		s.acquire(s.a, "over", lost.Key, long, lost)
		lost.Max = 1201
		s.acquire(s.a, "fits", "", long, lost)
		s.ok(s.a.Slots.Renew(s.ctx, long))
	})
}

func slotsInvalid(s *suite) {
	s.both(func(scope func(string, int) store.Scope) {
		acquire := func(id string, ttl time.Duration, scopes ...store.Scope) error {
			_, err := s.a.Slots.Acquire(s.ctx, id, ttl, scopes...)
			return err
		}
		good := scope("good", 1)
		s.invalid("no ID", acquire("", long, good))
		s.invalid("no scope", acquire("id", long))
		s.invalid("no ttl", acquire("id", 0, good))
		s.invalid("a negative ttl", acquire("id", -1, good))
		s.invalid("a long ttl", acquire("id", store.MaxLease+1, good))
		s.invalid("no key", acquire("id", long, good, store.Scope{Max: 1}))
		s.invalid("a negative maximum", acquire("id", long, scope("good", -1)))
		s.invalid("the same scope twice", acquire("id", long, good, good))
		s.invalid("Renew without a ttl", s.a.Slots.Renew(s.ctx, 0))
		s.invalid("Renew without an ID", s.a.Slots.Renew(s.ctx, long, store.Lease{Scopes: []store.Scope{good}}))
		s.acquire(s.a, "id", "", long, good) // no slot was taken
	})
}

func instances(s *suite) {
	s.need(s.a.Instances != nil && !s.h.Single, "Instances of several instances")
	beat := func(in Instance, ttl time.Duration, want int) {
		s.Helper()
		if n, err := in.Instances.Beat(s.ctx, ttl); err != nil || n != want {
			s.Errorf("%d instances, %v; want %d", n, err, want)
		}
	}
	b, c := s.open(), s.open()
	beat(s.a, long, 1)
	beat(s.a, long, 1)
	beat(b, long, 2)
	beat(c, short, 3)
	s.h.Advance(short + 10*time.Millisecond)
	beat(s.a, long, 2)
	beat(c, long, 3)
	_, err := s.a.Instances.Beat(s.ctx, 0)
	s.invalid("no ttl", err)
}

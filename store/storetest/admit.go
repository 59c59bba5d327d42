package storetest

import (
	"fmt"
	"sync/atomic"

	"github.com/wsguard/wsguard/store"
)

// admit asks the Admitter, and checks which step refuses.
func (s *suite) admit(r store.Request, want store.Refusal) store.Answer {
	s.Helper()
	a, err := s.a.Admitter.Admit(s.ctx, r)
	if err != nil {
		s.Fatal(err)
	}
	if a.Refused != want {
		s.Fatalf("%+v: %+v, want %d", r, a, want)
	}
	return a
}

func (s *suite) needAdmitter() {
	s.Helper()
	s.need(s.a.Admitter != nil, "Admitter")
}

func admitOrder(s *suite) {
	s.needAdmitter()
	one := store.Limit{PerSecond: 1e-6, Burst: 1}
	s.ok(s.a.Once.Put(s.ctx, "ticket", []byte("alice"), long))
	s.acquire(s.a, "holder", "", long, store.Scope{Key: "full", Max: 1})
	r := store.Request{
		Takes:  []store.Take{{Key: "a", Limit: slow, Least: 1, Most: 10}, {Key: "b", Limit: one, Least: 1, Most: 1}},
		ID:     "id",
		TTL:    long,
		Scopes: []store.Scope{{Key: "all", Max: 1, Wide: true}, {Key: "full", Max: 1}},
		Once:   "ticket",
	}
	a := s.admit(r, store.RefusedSlot)
	if a.Key != "full" || len(a.Taken) != 2 || a.Taken[0] != 10 || a.Taken[1] != 1 {
		s.Errorf("%+v", a)
	}
	// b is empty now. Nothing more is taken from a.
	if a = s.admit(r, store.RefusedRate); a.Key != "b" || a.Wait <= 0 || a.Taken != nil {
		s.Errorf("%+v", a)
	}
	s.take(store.Take{Key: "a", Limit: slow, Least: 1, Most: 1000}, 90)
	// The ticket is there, and the wide scope has its slot.
	r.Takes = nil
	r.Scopes[1].Key = "free"
	if a = s.admit(r, store.Admitted); string(a.Value) != "alice" {
		s.Errorf("%+v", a)
	}
	// Without a ticket no slot is held.
	r.ID, r.Scopes = "id2", []store.Scope{{Key: "one", Max: 1}, {Key: "wide", Max: 1, Wide: true}}
	for range 3 {
		s.admit(r, store.RefusedOnce)
	}
	s.acquire(s.a, "id3", "", long, r.Scopes...)
}

func admitAll(s *suite) {
	s.needAdmitter()
	s.admit(store.Request{}, store.Admitted)
	s.ok(s.a.Once.Put(s.ctx, "empty", nil, long))
	s.admit(store.Request{Once: "empty"}, store.Admitted)
	s.admit(store.Request{Once: "empty"}, store.RefusedOnce)
	r := store.Request{
		Takes: []store.Take{
			{Key: "handshakes", Limit: slow, Least: 1, Most: 1},
			{Key: "failures", Limit: slow, Least: 1}, // only looked at
			{Key: "lease", Limit: slow, Least: 0, Most: 1000},
		},
		ID: "id", TTL: long, Scopes: []store.Scope{{Key: "client", Max: 3}},
	}
	if a := s.admit(r, store.Admitted); len(a.Taken) != 3 || a.Taken[0] != 1 || a.Taken[1] != 0 || a.Taken[2] != 100 {
		s.Errorf("%+v", a)
	}
	r.ID = "id2"
	if a := s.admit(r, store.Admitted); len(a.Taken) != 3 || a.Taken[2] != 0 {
		s.Errorf("%+v", a)
	}
	s.take(store.Take{Key: "failures", Limit: slow, Least: 1, Most: 100}, 100)
	r.ID = "id3"
	if a := s.admit(r, store.RefusedRate); a.Key != "failures" || a.Wait <= 0 {
		s.Errorf("%+v", a)
	}
	s.acquire(s.a, "id4", "", long, store.Scope{Key: "client", Max: 3}) // id3 has no slot
	s.acquire(s.a, "id5", "client", long, store.Scope{Key: "client", Max: 3})
}

func admitRace(s *suite) {
	s.needAdmitter()
	const clients, perClient = 40, 2
	all := store.Scope{Key: "all", Max: 100, Wide: true}
	client := func(i int) store.Scope { return store.Scope{Key: fmt.Sprint("client", i), Max: perClient} }
	var tokens atomic.Int64
	var held [clients]atomic.Int64
	s.race(400, func(in Instance, i int) {
		a, err := in.Admitter.Admit(s.ctx, store.Request{
			Takes: []store.Take{{Key: "rate", Limit: store.Limit{PerSecond: 1e-6, Burst: 1000}, Least: 1, Most: 2}},
			ID:    fmt.Sprint("id", i), TTL: long,
			Scopes: []store.Scope{all, client(i % clients)},
		})
		if err != nil {
			s.Error(err)
			return
		}
		for _, n := range a.Taken {
			tokens.Add(n)
		}
		if a.Refused == store.Admitted {
			held[i%clients].Add(1)
		}
	})
	if n := tokens.Load(); n != 800 {
		s.Errorf("%d tokens, want 800", n)
	}
	// Calls that ran at the same time may have refused each other. No slot is lost by that.
	total := 0
	for i := range clients {
		for n := held[i].Load(); n < perClient; n++ {
			s.acquire(s.a, fmt.Sprint("later", i, "/", n), "", long, all, client(i))
		}
		if n := held[i].Load(); n > perClient {
			s.Errorf("%d slots of client %d, want at most %d", n, i, perClient)
		}
		s.acquire(s.a, fmt.Sprint("over", i), client(i).Key, long, client(i))
		total += perClient
	}
	for ; total < all.Max; total++ {
		s.acquire(s.a, fmt.Sprint("rest", total), "", long, all)
	}
	s.acquire(s.a, "over", all.Key, long, all)
}

func admitInvalid(s *suite) {
	s.needAdmitter()
	good := store.Take{Key: "good", Limit: slow, Least: 1, Most: 1}
	for what, t := range invalidTakes {
		_, err := s.a.Admitter.Admit(s.ctx, store.Request{Takes: []store.Take{good, t}})
		s.invalid(what, err)
	}
	for what, r := range map[string]store.Request{
		"one key twice":        {Takes: []store.Take{good, good}},
		"an ID without scopes": {Takes: []store.Take{good}, ID: "id", TTL: long},
		"scopes without an ID": {Takes: []store.Take{good}, TTL: long, Scopes: []store.Scope{{Key: "k"}}},
		"scopes without a ttl": {Takes: []store.Take{good}, ID: "id", Scopes: []store.Scope{{Key: "k"}}},
	} {
		_, err := s.a.Admitter.Admit(s.ctx, r)
		s.invalid(what, err)
	}
	s.take(store.Take{Key: "good", Limit: slow, Least: 1, Most: 1000}, 100)
}

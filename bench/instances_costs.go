package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/spend"
	"github.com/wsguard/wsguard/store"
)

// decide measures a decision about a message, by the table alone, and by the table and a lease
// that has tokens.
func (r *instancesResult) decide(rounds, n int) {
	limit := keyed.Limit{PerSecond: 1e9, Burst: 1e9}
	tab := keyed.New(65536)
	key := tab.String("alice")

	var running sync.WaitGroup
	of := store.Limit{PerSecond: 1 << 32, Burst: 1 << 34}
	lim := spend.NewLimits(of, of)
	lease := spend.NewPool(func(takes []store.Take) (store.Answer, error) {
		var a store.Answer
		for _, t := range takes {
			a.Taken = append(a.Taken, t.Most)
		}
		return a, nil
	}, &running).Acquire("alice")

	take := func(now time.Time) bool {
		return lease.Take(spend.Amount{1, 100}, &lim, now, spend.Patient{For: spend.Patience}).Verdict == spend.Granted
	}
	for !take(time.Now()) { // until the first tokens are in hand
		runtime.Gosched()
	}

	granted := 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	for range rounds {
		for i := range r.decided {
			now, started := begin, time.Now()
			for range n {
				now = now.Add(100)
				tab.Take2(key, 1, 100, limit, limit, now)
				if i == 1 && take(now) {
					granted++
				}
			}
			r.decided[i] = append(r.decided[i], time.Since(started)*1000/time.Duration(n))
		}
		begin = begin.Add(time.Duration(n) * 100)
	}
	runtime.ReadMemStats(&after)
	running.Wait()
	r.granted = float64(granted) / float64(rounds*n)
	r.allocs = float64(after.Mallocs-before.Mallocs) / float64(2*rounds*n)
}

// open measures handshakes without a store and with one, in turn.
func (r *instancesResult) open(o options, addr string) error {
	var all [2]*instance
	for i, at := range []string{"", addr} {
		in, err := newInstance(at, "handshakes", hold, func(*wsguard.Config) {})
		if err != nil {
			return err
		}
		defer in.stop()
		all[i] = in
	}
	for round := range o.rounds + 1 {
		for i, in := range all {
			begin := time.Now()
			for j := range openedPerRound {
				in.trips.Store(0)
				who := round*openedPerRound + j
				if _, err := in.dial("/ws", addrOf(who), fmt.Sprint("user", who)); err != nil {
					return err
				}
				if round > 0 && i == 1 {
					r.trips = max(r.trips, int(in.trips.Load()))
				}
			}
			if round > 0 { // in the first one, Redis learns the scripts
				r.opened[i] = append(r.opened[i], time.Since(begin)/openedPerRound)
			}
		}
	}
	return r.openWithTicket(all[1])
}

const openedPerRound = 50

// openWithTicket counts the round trips of handshakes with a ticket.
func (r *instancesResult) openWithTicket(in *instance) error {
	for i := range 10 {
		client := addrOf(1<<20 + i)
		req := httptest.NewRequest("POST", "http://bench.test/ticket", nil)
		req.Header = http.Header{"Authorization": {"Bearer alice"}, "Origin": {instancesOrigin}, "Client": {client}}
		w := httptest.NewRecorder()
		in.server.Handler.ServeHTTP(w, req)
		var sold struct{ Ticket string }
		if json.Unmarshal(w.Body.Bytes(), &sold); sold.Ticket == "" {
			return fmt.Errorf("no ticket: %d %s", w.Code, w.Body)
		}
		in.trips.Store(0)
		if _, err := in.dial("/ws?ticket="+sold.Ticket, client, ""); err != nil {
			return err
		}
		r.ticket = max(r.ticket, int(in.trips.Load()))
	}
	return nil
}

// recorder notes the leases that it gives.
type recorder struct {
	store.Admitter
	mu     sync.Mutex
	leases []store.Lease // guarded by mu
}

func (r *recorder) Admit(ctx context.Context, q store.Request) (store.Answer, error) {
	a, err := r.Admitter.Admit(ctx, q)
	if err == nil && a.Refused == store.Admitted && len(q.Scopes) > 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.leases = append(r.leases, store.Lease{ID: q.ID, Scopes: q.Scopes})
	}
	return a, err
}

// measureRedis measures what Redis does for handshakes, renewals, refills and connections that
// end. Each connection has a client and a subject of its own.
func (r *instancesResult) measureRedis(o options, addr string) error {
	n := max(o.refusals/2, 20)
	var given *recorder
	in, err := newInstance(addr, "costs", hold, func(cfg *wsguard.Config) {
		given = &recorder{Admitter: cfg.Shared.Admitter}
		cfg.Shared.Admitter = given
	})
	if err != nil {
		return err
	}
	defer in.stop()
	s := in.store
	open := func(from, n int) error {
		for i := range n {
			if _, err := in.dial("/ws", addrOf(from+i), fmt.Sprint("user-0123456789-", from+i)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := open(1<<16, 5); err != nil {
		return err
	}
	empty, err := loadOf(in.client)
	if err != nil {
		return err
	}
	if err := r.cost(in, "handshake", n, func() error { return open(0, n) }); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // the buckets of the handshakes are full again, and so Redis forgets them
	full, err := loadOf(in.client)
	if err != nil {
		return err
	}
	r.held, r.heldFrom = full.less(empty, n).memory, n

	const renewals = 20
	given.mu.Lock()
	leases := given.leases
	given.mu.Unlock()
	err = r.cost(in, "renewal of one connection", renewals*n, func() error { return renewAll(s, leases, renewals) })
	if err != nil {
		return err
	}
	err = r.cost(in, "refill of one lease", 5*n, func() error { return refill(s, 5*n) })
	if err != nil {
		return err
	}
	return r.cost(in, "end of one connection", n, func() error {
		in.hangUp()
		for range 1000 {
			if in.guard.Stats().Shared.Slots == 0 {
				time.Sleep(100 * time.Millisecond) // the last release is under way
				return nil
			}
			time.Sleep(5 * time.Millisecond)
		}
		return errors.New("slots are held after all connections have ended")
	})
}

// cost adds what Redis does for each of n while run runs.
func (r *instancesResult) cost(in *instance, name string, n int, run func() error) error {
	before, err := loadOf(in.client)
	if err != nil {
		return err
	}
	if err := run(); err != nil {
		return err
	}
	after, err := loadOf(in.client)
	r.costs = append(r.costs, costResult{name, after.less(before, n)})
	return err
}

// renewAll renews the leases several times, in batches as large as those of a Guard: 500
// connections have two leases each.
func renewAll(s *wsguardredis.Store, leases []store.Lease, times int) error {
	for range times {
		for begin := 0; begin < len(leases); begin += 1000 {
			if err := s.Renew(context.Background(), 30*time.Second, leases[begin:min(begin+1000, len(leases))]...); err != nil {
				return err
			}
		}
	}
	return nil
}

// refill takes tokens as a Guard does for a subject that has the default rates.
func refill(s *wsguardredis.Store, n int) error {
	lim := spend.NewLimits(store.Limit{PerSecond: 80, Burst: 160}, store.Limit{PerSecond: 1 << 20, Burst: 4 << 20})
	for i := range n {
		key := fmt.Sprint("subject/user-0123456789-", i%1000)
		if _, err := s.Admit(context.Background(), store.Request{Takes: []store.Take{lim.Take(key, 0, 1), lim.Take(key, 1, 100)}}); err != nil {
			return err
		}
	}
	return nil
}

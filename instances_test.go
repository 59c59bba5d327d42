package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// cluster has the stores that the instances of a test share, in memory. It counts the calls, and
// it can fail.
type cluster struct {
	slots   atomic.Pointer[store.MemorySlots]
	rates   store.MemoryRates
	tickets *store.MemoryOnce

	instances int
	gone      atomic.Bool  // all calls fail
	dead      atomic.Bool  // renewals and releases are lost, as those of an instance that was killed
	admits    atomic.Int64 // calls of Admit
	calls     atomic.Int64 // all calls of handshakes
}

func newCluster() *cluster {
	c := &cluster{tickets: store.NewOnce(0), instances: 1}
	c.slots.Store(&store.MemorySlots{})
	return c
}

var errGone = &store.OutageError{Op: "test", Err: errors.New("gone")}

func (c *cluster) fails() error {
	if c.gone.Load() {
		return errGone
	}
	return nil
}

// shared returns the stores for one instance.
func (c *cluster) shared() wsguard.SharedConfig {
	return wsguard.SharedConfig{Slots: clusterSlots{c}, Rates: clusterRates{c}, Tickets: clusterOnce{c}, Admitter: clusterAdmitter{c}, Instances: clusterSlots{c}}
}

type (
	clusterSlots    struct{ c *cluster }
	clusterRates    struct{ c *cluster }
	clusterOnce     struct{ c *cluster }
	clusterAdmitter struct{ c *cluster }
)

func (s clusterSlots) Acquire(ctx context.Context, id string, ttl time.Duration, scopes ...store.Scope) (string, error) {
	if err := s.c.fails(); err != nil {
		return "", err
	}
	return s.c.slots.Load().Acquire(ctx, id, ttl, scopes...)
}

func (s clusterSlots) Renew(ctx context.Context, ttl time.Duration, leases ...store.Lease) error {
	if err := s.c.fails(); err != nil || s.c.dead.Load() {
		return err
	}
	return s.c.slots.Load().Renew(ctx, ttl, leases...)
}

func (s clusterSlots) Release(ctx context.Context, leases ...store.Lease) error {
	if err := s.c.fails(); err != nil || s.c.dead.Load() {
		return err
	}
	return s.c.slots.Load().Release(ctx, leases...)
}

func (s clusterSlots) Beat(context.Context, time.Duration) (int, error) {
	return s.c.instances, s.c.fails()
}

func (s clusterRates) TakeTokens(ctx context.Context, t store.Take) (int64, time.Duration, error) {
	if err := s.c.fails(); err != nil {
		return 0, 0, err
	}
	return s.c.rates.TakeTokens(ctx, t)
}

func (s clusterOnce) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := s.c.fails(); err != nil {
		return err
	}
	s.c.calls.Add(1)
	return s.c.tickets.Put(ctx, key, value, ttl)
}

func (s clusterOnce) PutOwned(ctx context.Context, key, owner string, most int, value []byte, ttl time.Duration) error {
	if err := s.c.fails(); err != nil {
		return err
	}
	s.c.calls.Add(1)
	return s.c.tickets.PutOwned(ctx, key, owner, most, value, ttl)
}

func (s clusterOnce) Take(ctx context.Context, key string) ([]byte, bool, error) {
	if err := s.c.fails(); err != nil {
		return nil, false, err
	}
	s.c.calls.Add(1)
	return s.c.tickets.Take(ctx, key)
}

func (s clusterAdmitter) Admit(ctx context.Context, r store.Request) (store.Answer, error) {
	if err := s.c.fails(); err != nil {
		return store.Answer{}, err
	}
	s.c.admits.Add(1)
	s.c.calls.Add(1)
	return store.Combine(&s.c.rates, s.c.slots.Load(), s.c.tickets).Admit(ctx, r)
}

// join serves an instance with cfg, and shuts it down when the test ends.
func (c *cluster) join(t *testing.T, cfg wsguard.Config, serve func(*testing.T, wsguard.Config) *env) *env {
	t.Helper()
	cfg.Shared = c.shared()
	e := serve(t, cfg)
	t.Cleanup(func() { shutDown(t, e) })
	return e
}

func shutDown(t *testing.T, e *env) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.g.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// selling serves a guard everywhere but at /ticket, where it sells tickets.
func selling(t *testing.T, cfg wsguard.Config) *env {
	t.Helper()
	e := newEnv(t, cfg)
	mux := http.NewServeMux()
	mux.Handle("/", echoDoor(e.g))
	mux.Handle("/ticket", e.g.TicketHandler(nil))
	e.serve(mux)
	return e
}

func guarding(t *testing.T, cfg wsguard.Config) *env { t.Helper(); return serveGuard(t, cfg) }

// two serves two instances with the same Config.
func (c *cluster) two(t *testing.T, cfg wsguard.Config) (a, b *env) {
	t.Helper()
	return c.join(t, cfg, guarding), c.join(t, cfg, guarding)
}

// Each cap holds for all instances together, and a slot that is given back is free for all.
func TestSharedCaps(t *testing.T) {
	for name, tt := range map[string]struct {
		caps   wsguard.CapConfig
		token  string
		status int
		reason string
	}{
		"all":     {wsguard.CapConfig{MaxConns: 3}, "alice", 503, "max_conns"},
		"client":  {wsguard.CapConfig{MaxUsersPerClient: 3}, "alice", 429, "max_client_conns"},
		"subject": {wsguard.CapConfig{MaxConnsPerSubject: 3}, "alice", 429, "max_subject_conns"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newCluster()
				a, b := c.two(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone}, Caps: tt.caps})
				first := a.open(bearer(tt.token))
				others := []interface{ Close() error }{a.open(bearer(tt.token)), b.open(bearer(tt.token))}
				for _, e := range []*env{a, b} {
					e.refused(bearer(tt.token), tt.status, tt.reason)
				}
				for range 20 { // the other instance waits for no renewal
					bye(first)
					a.idleTo(t, 1)
					first = a.open(bearer(tt.token))
				}
				bye(first)
				a.idleTo(t, 1)
				synctest.Wait()
				last := b.open(bearer(tt.token))
				a.refused(bearer(tt.token), tt.status, tt.reason)
				bye(last)
				for _, o := range others {
					o.Close()
				}
			})
		})
	}
}

// The cap and the rate of an IPv6 /48 hold for all instances together, too.
func TestSharedNetwork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		a, b := c.two(t, proxied(wsguard.Config{Caps: wsguard.CapConfig{MaxConnsPerNetwork: 3}}))
		var conns []*wstest.Client
		for i, e := range []*env{a, b, b} {
			conns = append(conns, e.open(from(fmt.Sprintf("2001:db8:0:%d::1", i))))
		}
		a.refused(from("2001:db8:0:9::1"), 429, "max_client_conns")
		b.refused(from("2001:db8:0:9::1"), 429, "max_client_conns")
		conns = append(conns, a.open(from("2001:db8:1::1")))
		for _, conn := range conns {
			bye(conn)
		}
	})
	bubble(t, func(t *testing.T) {
		c := newCluster()
		a, b := c.two(t, proxied(wsguard.Config{Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 1}}}))
		for i := range 16 { // a /48 has 16 times the rate of a client
			bye([]*env{a, b}[i%2].open(from(fmt.Sprintf("2001:db8:0:%d::1", i))))
		}
		a.refused(from("2001:db8:0:99::1"), 429, "handshake_rate")
		b.refused(from("2001:db8:0:98::1"), 429, "handshake_rate")
		bye(a.open(from("2001:db8:1::1")))
	})
}

// idleTo waits until n slots are held.
func (e *env) idleTo(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d slots held", n), func() bool { return e.g.Conns() == n })
}

// A slot lasts while its instance renews it, and ends with its lease when the instance is gone.
func TestSharedSlotLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		a, b := c.two(t, conf(noPings, func(cfg *wsguard.Config) {
			cfg.Auth.Verifier, cfg.Caps.MaxConns, cfg.Timeouts.Idle = anyone, 1, wsguard.Off
		}))
		one := a.open(bearer("alice"))
		for range 10 {
			time.Sleep(20 * time.Second)
			b.refused(bearer("bob"), 503, "max_conns")
		}
		if s := a.g.Stats().Shared; s.Slots != 1 || s.RenewalAge > 12*time.Second || s.Instances != 1 || s.Lost {
			t.Errorf("%+v", s)
		}
		c.dead.Store(true)
		time.Sleep(30 * time.Second)
		bye(b.open(bearer("bob")))
		c.dead.Store(false)
		bye(one)
	})
}

// A store that has lost its memory knows all slots again after one round of renewals.
func TestSharedSlotsRestored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		a, b := c.two(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone}, Caps: wsguard.CapConfig{MaxConns: 700, MaxUsersPerClient: 700, MaxConnsPerSubject: wsguard.Off}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}})
		for range 699 { // more than one batch
			conn := a.open(bearer("alice"))
			defer conn.Close()
		}
		c.slots.Store(&store.MemorySlots{})
		time.Sleep(12 * time.Second)
		last := b.open(bearer("alice"))
		b.refused(bearer("alice"), 503, "max_conns")
		last.Close()
	})
}

// Racing handshakes at several instances get exactly the slots that there are.
func TestSharedSlotsRace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		cfg := conf(noHandshakeLimits, func(cfg *wsguard.Config) {
			cfg.Auth.Verifier, cfg.Auth.Failures.PerSecond = anyone, wsguard.Off
			cfg.Caps.MaxConns, cfg.Caps.MaxUsersPerClient, cfg.Caps.MaxConnsPerSubject = 50, wsguard.Off, wsguard.Off
			cfg.Rates.MaxInFlight = wsguard.Off
		})
		var envs []*env
		for range 4 {
			envs = append(envs, c.join(t, cfg, guarding))
		}
		var admitted, refused atomic.Int64
		var wg sync.WaitGroup
		for i := range 400 {
			conn := envs[i%4].dial()
			t.Cleanup(func() { conn.Close() })
			wg.Go(func() {
				switch res, err := conn.Handshake("/", bearer(fmt.Sprint("u", i))); {
				case err != nil:
					t.Error(err)
				case res.StatusCode == http.StatusSwitchingProtocols:
					admitted.Add(1)
				case res.StatusCode == 503:
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		if admitted.Load() != 50 || refused.Load() != 350 {
			t.Errorf("admitted %d and refused %d, want 50 and 350", admitted.Load(), refused.Load())
		}
	})
}

// A handshake asks the stores at most twice, also with a ticket, and a refusal asks them once.
func TestSharedCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		a := c.join(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone, InsecureAnonymous: true, Tickets: &wsguard.TicketConfig{}}}, selling)
		count := func(what string, want int64, f func()) {
			t.Helper()
			before := c.calls.Load()
			f()
			if got := c.calls.Load() - before; got > want || got == 0 {
				t.Errorf("%s: %d calls, want at most %d", what, got, want)
			}
		}
		count("anonymous", 1, func() { a.open(header()).Close() })
		count("token", 2, func() { a.open(bearer("alice")).Close() })
		ticket := ""
		count("sale", 3, func() { ticket = a.buy(bearer("alice")) })
		count("ticket", 2, func() {
			conn, res := a.redeem(ticket, header())
			if res.StatusCode != http.StatusSwitchingProtocols {
				t.Error(res.StatusCode)
			}
			conn.Close()
		})
		count("used ticket", 2, func() { a.redeemRefused(ticket, header(), 401, "unauthenticated") })
	})
}

// The rate of handshakes holds for all instances together. What the store has refused is refused
// again without asking it.
func TestSharedHandshakeRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		a, b := c.two(t, wsguard.Config{Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: 0.1, Burst: 4}}})
		for range 2 {
			bye(a.open(header()))
			bye(b.open(header()))
		}
		a.refused(header(), 429, "handshake_rate")
		calls := c.calls.Load()
		for range 3 {
			a.refused(header(), 429, "handshake_rate")
		}
		if got := c.calls.Load() - calls; got != 0 {
			t.Errorf("%d calls about a client that was refused a moment ago", got)
		}
		b.refused(header(), 429, "handshake_rate")
		time.Sleep(10 * time.Second)
		bye(b.open(header()))
		a.refused(header(), 429, "handshake_rate")
	})
}

// People at one address do not use up each other's rate, on several instances either.
func TestSharedHandshakesOfManySubjects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		a, b := c.two(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 4}}})
		for i := range 40 {
			bye([]*env{a, b}[i%2].open(bearer(fmt.Sprint("user", i))))
		}
		for i := range 4 {
			bye([]*env{a, b}[i%2].open(bearer("alice")))
		}
		a.refused(bearer("alice"), 429, "handshake_rate")
		b.refused(bearer("alice"), 429, "handshake_rate")
		bye(b.open(bearer("user1")))
	})
}

// Failed credentials count for all instances together, and neighbours pass with what was accepted.
func TestSharedFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		v := newTokens()
		a, b := c.two(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify, Failures: wsguard.Rate{PerSecond: never, Burst: 4}}})
		bye(a.open(bearer("alice")))
		for i := range 2 {
			a.refused(bearer(fmt.Sprint("guess-a", i)), 401, "unauthenticated")
			b.refused(bearer(fmt.Sprint("guess-b", i)), 401, "unauthenticated")
		}
		a.refused(bearer("guess-c"), 429, "guessing")
		b.refused(bearer("guess-d"), 429, "guessing")
		bye(a.open(bearer("alice")))
	})
}

// While the store is gone, each instance admits its part of the failures.
func TestSharedFailuresWithoutStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		c.instances = 2
		v := newTokens()
		a, b := c.two(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify, Failures: wsguard.Rate{PerSecond: never, Burst: 8}}})
		synctest.Wait()
		c.gone.Store(true)
		time.Sleep(15 * time.Second) // both notice it
		for _, e := range []*env{a, b} {
			for i := range 4 {
				e.refused(bearer(fmt.Sprint("guess", i)), 401, "unauthenticated")
			}
			e.refused(bearer("guess-more"), 429, "guessing")
		}
		c.gone.Store(false)
	})
}

// A ticket that one instance has sold opens one connection at any other. MaxPerSubject holds for
// all of them, and a ticket that a cap has refused can be used again.
func TestSharedTickets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		cfg := wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: anyone, Tickets: &wsguard.TicketConfig{MaxPerSubject: 2}},
			Caps: wsguard.CapConfig{MaxConnsPerSubject: 1},
		}
		a, b := c.join(t, cfg, selling), c.join(t, cfg, selling)
		one, two := a.buy(bearer("alice")), b.buy(bearer("alice"))
		for _, e := range []*env{a, b} {
			if res := e.request("POST", "/ticket", bearer("alice")); res.StatusCode != 429 {
				t.Errorf("a third ticket: %d", res.StatusCode)
			}
		}
		conn, res := b.redeem(one, header())
		if res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(res.StatusCode)
		}
		a.redeemRefused(one, header(), 401, "unauthenticated")
		a.redeemRefused(two, header(), 429, "max_subject_conns")
		bye(conn)
		b.idle()
		synctest.Wait()
		conn, res = a.redeem(two, header())
		if res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(res.StatusCode)
		}
		bye(conn)
	})
}

// While the stores are gone, each instance applies its part of the limits. It says so once, and
// once that they are back. Then the slots of meanwhile count.
func TestSharedOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		c.instances = 3
		cfg := conf(noHandshakeLimits, noPings, func(cfg *wsguard.Config) {
			cfg.Timeouts.Idle = wsguard.Off
			cfg.Auth = wsguard.AuthConfig{Verifier: anyone, Tickets: &wsguard.TicketConfig{}}
			cfg.Caps = wsguard.CapConfig{MaxConns: 9, MaxConnsPerSubject: 6}
			cfg.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 1000}
		})
		a, b := c.join(t, cfg, selling), c.join(t, cfg, selling)
		synctest.Wait()
		ticket := a.buy(bearer("alice"))
		c.gone.Store(true)
		first, second := a.open(bearer("alice")), a.open(bearer("alice"))
		a.refused(bearer("alice"), 429, "max_subject_conns")
		a.redeemRefused(ticket, header(), 503, "unavailable")
		third := a.open(bearer("bob"))
		a.refused(bearer("carol"), 503, "max_conns")
		if s := a.g.Stats().Shared; !s.Lost || s.LocalDecisions == 0 || s.ClosedDecisions != 0 || s.Instances != 3 {
			t.Errorf("%+v", s)
		}
		roundTrip(t, first, "open connections go on")
		time.Sleep(time.Minute)
		roundTrip(t, first, "for long")
		c.gone.Store(false)
		time.Sleep(2 * time.Second)
		if s := a.g.Stats().Shared; s.Lost {
			t.Errorf("%+v", s)
		}
		var more []interface{ Close() error }
		for i := range 6 { // three of nine are held by the other instance
			more = append(more, b.open(bearer(fmt.Sprint("user", i))))
		}
		b.refused(bearer("one more"), 503, "max_conns")
		for _, token := range []string{"store_lost", "store_back"} {
			n := 0
			for _, ev := range a.events.of(audit.Warning) {
				if ev.Reason == token {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s was reported %d times", token, n)
			}
		}
		for _, conn := range append(more, first, second, third) {
			conn.Close()
		}
	})
}

// A feature that fails closed refuses while its store is gone, and nothing else does.
func TestSharedFailClosed(t *testing.T) {
	for name, set := range map[string]func(*wsguard.SharedConfig){
		"caps":  func(s *wsguard.SharedConfig) { s.CapsFailClosed = true },
		"rates": func(s *wsguard.SharedConfig) { s.RatesFailClosed = true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newCluster()
				cfg := wsguard.Config{Shared: c.shared()}
				cfg.Shared.MessagesPerInstance = true // see TestSharedRatesFailClosed
				set(&cfg.Shared)
				e := serveGuard(t, cfg)
				defer shutDown(t, e)
				one := e.open(header())
				c.gone.Store(true)
				e.refused(header(), 503, "unavailable")
				roundTrip(t, one, "goes on")
				if s := e.g.Stats().Shared; s.ClosedDecisions != 1 || s.LocalDecisions != 0 {
					t.Errorf("%+v", s)
				}
				c.gone.Store(false)
				bye(e.open(header()))
				bye(one)
			})
		})
	}
}

// A store that panics counts as gone.
func TestSharedPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{Shared: wsguard.SharedConfig{Admitter: panicking{}, Slots: panicking{}, Instances: panicking{}}})
		defer shutDown(t, e)
		bye(e.open(header()))
		if s := e.g.Stats().Shared; s.Calls[audit.StoreCall{Operation: "admit", Result: "error"}] != 1 {
			t.Errorf("%+v", s)
		}
	})
}

type panicking struct{ store.Slots }

func (panicking) Admit(context.Context, store.Request) (store.Answer, error) { panic("admit") }
func (panicking) Beat(context.Context, time.Duration) (int, error)           { panic("beat") }
func (panicking) Release(context.Context, ...store.Lease) error              { panic("release") }
func (panicking) Renew(context.Context, time.Duration, ...store.Lease) error { panic("renew") }

// Guards that share a State have the same stores, and Reconfigure keeps them.
func TestSharedWithState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		state := wsguard.NewState()
		cfg := wsguard.Config{Origins: []string{appOrigin}, State: state, Caps: wsguard.CapConfig{MaxConns: 1}}
		e := c.join(t, cfg, guarding)
		for name, shared := range map[string]wsguard.SharedConfig{"none": {}, "others": newCluster().shared()} {
			cfg.Shared, cfg.Auth.InsecureAnonymous = shared, true
			if _, err := wsguard.New(cfg); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		again := c.join(t, cfg, guarding)
		shutDown(t, again)
		cfg.Shared = wsguard.SharedConfig{}
		e.reconfigure(cfg)
		other := c.join(t, wsguard.Config{Caps: wsguard.CapConfig{MaxConns: 1}}, guarding)
		one := e.open(header())
		other.refused(header(), 503, "max_conns")
		bye(one)
	})
}

// The only connection that a subject may have is replaced by one at another instance.
func TestSharedReplaceElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, marks := newCluster(), &store.MemoryMarks{}
		cfg := conf(noPings, func(cfg *wsguard.Config) {
			cfg.Auth.Verifier, cfg.Timeouts.Idle = anyone, wsguard.Off
			cfg.Caps = wsguard.CapConfig{MaxConnsPerSubject: 1, ReplaceOldest: true}
			cfg.Shared = c.shared()
			cfg.Shared.Revocations = marks
		})
		var envs []*env
		for range 3 {
			e := serveGuard(t, cfg)
			t.Cleanup(func() { shutDown(t, e) })
			envs = append(envs, e)
		}
		bob := envs[0].open(bearer("bob"))
		old := envs[0].open(bearer("alice"))
		for i := 1; i < 12; i++ {
			time.Sleep(3 * time.Second)
			newer := envs[i%3].open(bearer("alice"))
			wantClose(t, old, 1008, "replaced")
			old.Close()
			time.Sleep(time.Second)
			roundTrip(t, newer, "is the only one")
			old = newer
		}
		roundTrip(t, bob, "goes on")
		bye(bob)
		bye(old)
	})
}

// A connection that replaces the oldest one of its subject takes its slot in the store, too.
func TestSharedReplaceOldest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		a, b := c.two(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone}, Caps: wsguard.CapConfig{MaxConnsPerSubject: 2, ReplaceOldest: true}})
		first, other := a.open(bearer("alice")), b.open(bearer("alice"))
		synctest.Wait() // both can be ended
		second := a.open(bearer("alice"))
		wantClose(t, first, 1008, "replaced")
		first.Close()
		time.Sleep(3 * time.Second)
		third := a.open(bearer("alice"))
		wantClose(t, second, 1008, "replaced")
		second.Close()
		roundTrip(t, other, "stays")
		bye(third)
		bye(other)
	})
}

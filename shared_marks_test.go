package wsguard_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// marksOfTest is a store.Marks in memory that can fail in several ways.
type marksOfTest struct {
	ahead time.Duration // how far its clock is ahead of that of the test

	mu   sync.Mutex
	down error              // guarded by mu: what each call returns; nil: it works
	mad  bool               // guarded by mu: each call panics
	hang chan struct{}      // guarded by mu: each call waits until it is closed, whatever its context says; nil: none
	gaps int                // guarded by mu: so many calls of News find a gap
	in   *store.MemoryMarks // guarded by mu: what it has; made when needed
	sets []string           // guarded by mu: the keys that were set, in order
	news int                // guarded by mu: the calls of News
	full bool               // guarded by mu: Set finds no room
}

func (m *marksOfTest) change(f func(m *marksOfTest)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

func (m *marksOfTest) fails() error {
	m.mu.Lock()
	hang := m.hang
	m.mu.Unlock()
	if hang != nil {
		<-hang
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mad {
		panic("the store has gone mad")
	}
	return m.down
}

// marks returns what the store has, until it loses its memory.
func (m *marksOfTest) marks() *store.MemoryMarks {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.in == nil {
		m.in = &store.MemoryMarks{}
	}
	return m.in
}

func (m *marksOfTest) Clear(ctx context.Context, key string) error { return m.marks().Clear(ctx, key) }

func (m *marksOfTest) Get(ctx context.Context, key string) (store.Mark, bool, error) {
	return m.marks().Get(ctx, key)
}

func (m *marksOfTest) moved(mark store.Mark) store.Mark {
	mark.At = mark.At.Add(m.ahead)
	if !mark.Until.IsZero() {
		mark.Until = mark.Until.Add(m.ahead)
	}
	return mark
}

func (m *marksOfTest) Set(ctx context.Context, key string, value []byte, ttl time.Duration) (store.Mark, error) {
	if err := m.fails(); err != nil {
		return store.Mark{}, err
	}
	m.mu.Lock()
	full := m.full
	if !full {
		m.sets = append(m.sets, key)
	}
	m.mu.Unlock()
	if full {
		return store.Mark{}, store.ErrFull
	}
	mark, err := m.marks().Set(ctx, key, value, ttl)
	return m.moved(mark), err
}

func (m *marksOfTest) All(ctx context.Context, each func(store.Mark) error) (string, error) {
	if err := m.fails(); err != nil {
		return "", err
	}
	return m.marks().All(ctx, func(mark store.Mark) error { return each(m.moved(mark)) })
}

func (m *marksOfTest) News(ctx context.Context, cursor string, wait time.Duration) ([]store.Mark, string, error) {
	m.mu.Lock()
	m.news++
	gap := m.gaps > 0
	m.mu.Unlock()
	if err := m.fails(); err != nil {
		return nil, cursor, err
	}
	if gap {
		m.change(func(m *marksOfTest) { m.gaps-- })
		return nil, cursor, store.ErrGap
	}
	news, next, err := m.marks().News(ctx, cursor, wait)
	if err == nil {
		err = m.fails()
	}
	if err != nil {
		return nil, cursor, err
	}
	for i := range news {
		news[i] = m.moved(news[i])
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gaps > 0 && len(news) > 0 { // the news are lost
		m.gaps--
		return nil, cursor, store.ErrGap
	}
	return news, next, nil
}

func (m *marksOfTest) Now(ctx context.Context) (time.Time, error) {
	if err := m.fails(); err != nil {
		return time.Time{}, err
	}
	now, err := m.marks().Now(ctx)
	return now.Add(m.ahead), err
}

// instance serves cfg as one instance of a service, and shuts it down when the test ends.
func instance(t testing.TB, cfg wsguard.Config, bans, revocations store.Marks) *env {
	t.Helper()
	cfg.Shared.Bans, cfg.Shared.Revocations = bans, revocations
	e := serveGuard(t, cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		e.g.Shutdown(ctx)
	})
	return e
}

// dated is a Config for the tokens of an issuer.
func dated(i *issuer, changes ...func(*wsguard.Config)) wsguard.Config {
	return conf(append([]func(*wsguard.Config){func(cfg *wsguard.Config) {
		noHandshakeLimits(cfg)
		noPings(cfg)
		cfg.Auth.Verifier = i.Verify
		cfg.Caps.MaxConnsPerSubject = wsguard.Off
		cfg.Timeouts.Idle = wsguard.Off
	}}, changes...)...)
}

// letsIn reports whether a token opens a connection, and closes it.
func letsIn(e *env, token string) bool {
	e.t.Helper()
	c, res := e.try(bearer(token))
	return accepted(e, c, res)
}

// twoOf returns two instances over one store.
func twoOf(t testing.TB, m *marksOfTest, changes ...func(*wsguard.Config)) (i *issuer, a, b *env) {
	i = &issuer{}
	return i, instance(t, dated(i, changes...), nil, m), instance(t, dated(i, changes...), nil, m)
}

// A revocation by one instance ends the connections at another, whose further handshakes with old
// credentials are refused. A login after the revocation is good everywhere.
func TestSharedRevoke(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Hour, -time.Hour} {
		for name, change := range map[string]func(*wsguard.Config){
			"":              nil,
			" answers kept": func(cfg *wsguard.Config) { cfg.Auth.CacheTTL = time.Hour },
			" with a TTL":   func(cfg *wsguard.Config) { cfg.Auth.RevocationTTL = 24 * time.Hour },
		} {
			t.Run(ahead.String()+name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					// The issuer's clock is that of the store.
					m := &marksOfTest{ahead: ahead}
					i, a, b := twoOf(t, m, change)
					old := i.issue("old", ahead-time.Second)
					unused := i.issue("unused", ahead-time.Second)
					i.issueAs("bob", wsguard.Principal{Subject: "bob", IssuedAt: time.Now().Add(ahead)})
					undated := i.issueAs("undated", wsguard.Principal{Subject: "alice"})
					c, other, bob, c2 := b.open(bearer(old)), a.open(bearer(old)), b.open(bearer("bob")), b.open(bearer(undated))
					synctest.Wait()
					a.g.Admin().By("eve").Revoke("alice")
					wantClose(t, other, 3000, "revoked")
					wantClose(t, c, 3000, "revoked")
					wantClose(t, c2, 3000, "revoked")
					fresh := i.issue("fresh", ahead)
					for _, e := range []*env{a, b} {
						if letsIn(e, old) || letsIn(e, unused) || letsIn(e, undated) {
							t.Error("an old credential is good")
						}
						if !letsIn(e, fresh) {
							t.Errorf("a new login is not good:\n%s", e.events)
						}
						if ev := e.events.of(audit.Revoked); len(ev) != 1 || ev[0].Operator != "eve" || ev[0].Subject != "alice" {
							t.Errorf("events: %+v", ev)
						}
					}
					if ev := b.events.of(audit.Revoked); ev[0].Detail != "open connections: 2" {
						t.Errorf("event: %+v", ev)
					}
					roundTrip(t, bob, "hello")
					bob.Close()
					stays := b.open(bearer(fresh))
					time.Sleep(time.Hour)
					roundTrip(t, stays, "hello")

					restarted := instance(t, dated(i, change), nil, m)
					if letsIn(restarted, old) || letsIn(restarted, undated) || !letsIn(restarted, fresh) {
						t.Error("a new instance does not know the revocation")
					}
					if len(restarted.events.of(audit.Revoked)) > 0 {
						t.Error("an old revocation is reported")
					}
					b.g.Admin().Restore("alice")
					synctest.Wait()
					roundTrip(t, stays, "hello")
					stays.Close()
					for _, e := range []*env{a, b, restarted, instance(t, dated(i, change), nil, m)} {
						if !letsIn(e, old) || !letsIn(e, undated) {
							t.Error("not restored")
						}
					}
					b.g.Admin().Revoke("alice")
					synctest.Wait()
					if letsIn(a, fresh) || letsIn(a, old) || letsIn(restarted, fresh) {
						t.Error("not revoked again")
					}
				})
			})
		}
	}
}

// A login right after Revoke has returned is good at once at the other instances.
func TestSharedRevokeThenLogin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		i, a, b := twoOf(t, &marksOfTest{})
		for n := range 50 {
			a.g.Admin().Revoke("alice")
			if token := i.issue(fmt.Sprint(n), 0); !letsIn(b, token) || !letsIn(a, token) {
				t.Fatalf("%d: the login is refused", n)
			}
			time.Sleep(time.Duration(n) * 7 * time.Microsecond)
		}
	})
}

// A sign-out ends a login at all instances, whatever its credentials say.
func TestSharedSignOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := &marksOfTest{}
		i, a, b := twoOf(t, m)
		i.issueAs("one", wsguard.Principal{Subject: "alice", SessionID: "s\x001", IssuedAt: time.Now().Add(time.Hour)})
		i.issueAs("two", wsguard.Principal{Subject: "alice", SessionID: "2", IssuedAt: time.Now()})
		c, other := b.open(bearer("one")), b.open(bearer("two"))
		a.g.Admin().By("eve").SignOut("s\x001")
		wantClose(t, c, 3000, "revoked")
		roundTrip(t, other, "hello")
		other.Close()
		for _, e := range []*env{a, b, instance(t, dated(i), nil, m)} {
			if letsIn(e, "one") || !letsIn(e, "two") {
				t.Error("the wrong login is signed out")
			}
		}
		if ev := b.events.wait(t, audit.SignedOut, 1); ev.Operator != "eve" || ev.Subject != "" {
			t.Errorf("%+v", ev)
		}
	})
}

// A subject or a login may have any bytes for a name.
func TestSharedSubjectBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		i, a, b := twoOf(t, &marksOfTest{})
		for n, subject := range []string{"login/x", "kick/x", "seen/zz", "\xff\x00/\n", strings.Repeat("é", 5000), "name/a", "subject/"} {
			token := i.issueAs(fmt.Sprint(n), wsguard.Principal{Subject: subject, SessionID: "x", IssuedAt: time.Now()})
			time.Sleep(time.Millisecond)
			if !letsIn(b, token) {
				t.Errorf("%q is not let in", subject)
			}
			a.g.Admin().Revoke(subject)
			synctest.Wait()
			if letsIn(b, token) {
				t.Errorf("%q is not revoked", subject)
			}
		}
	})
}

// A ticket that was bought before a revocation stays void at all instances, also after Restore.
func TestSharedRevokeTickets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		i, m, once := &issuer{}, &marksOfTest{}, store.NewOnce(0)
		shop := func() *env {
			cfg := dated(i)
			cfg.Auth.Tickets = &wsguard.TicketConfig{Store: once}
			cfg.Shared.Revocations = m
			e := ticketEnv(t, cfg)
			t.Cleanup(func() { e.g.Shutdown(context.Background()) })
			return e
		}
		a, b := shop(), shop()
		token := i.issue("token", -time.Second)
		before, also := a.buy(bearer(token)), b.buy(bearer(token))
		time.Sleep(time.Second)
		a.g.Admin().Revoke("alice")
		synctest.Wait()
		b.redeemRefused(before, header(), 401, "revoked")
		b.g.Admin().Restore("alice")
		synctest.Wait()
		restarted := shop()
		for _, e := range []*env{b, restarted} {
			after := a.buy(bearer(token))
			time.Sleep(time.Millisecond)
			c, res := e.redeem(after, header())
			if !accepted(e, c, res) {
				t.Error("a ticket of after Restore is refused")
			}
		}
		restarted.redeemRefused(also, header(), 401, "revoked")
	})
}

// A credential of an issuer whose clock is ahead is known at all instances to have been used
// before a revocation.
func TestSharedRevokeIssuerAhead(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Second, time.Minute} {
		bubble(t, func(t *testing.T) {
			m := &marksOfTest{}
			i, a, b := twoOf(t, m)
			used := i.issue("used", 30*time.Second)
			usedAtB := i.issue("used at b", 40*time.Second)
			later := i.issue("later", 2*time.Minute)
			if !letsIn(a, used) || !letsIn(b, usedAtB) {
				t.Fatal("not let in")
			}
			open := b.open(bearer(usedAtB))
			time.Sleep(wait)
			a.g.Admin().Revoke("alice")
			wantClose(t, open, 3000, "revoked")
			synctest.Wait()
			time.Sleep(5 * time.Millisecond) // what is seen at the same moment counts as seen before
			c := instance(t, dated(i), nil, m)
			for n, e := range []*env{a, b, c} {
				if letsIn(e, used) || letsIn(e, usedAtB) {
					t.Errorf("after %v, instance %d lets in what was used before", wait, n)
				}
				if !letsIn(e, later) {
					t.Errorf("after %v, instance %d refuses what was not used before", wait, n)
				}
			}
			time.Sleep(3 * time.Minute)
			fresh := i.issue("fresh", 0)
			for _, e := range []*env{a, b, c} {
				if !letsIn(e, fresh) {
					t.Error("a new login is refused")
				}
			}
		})
	}
}

// A connection is kicked at whatever instance it is.
func TestSharedKick(t *testing.T) {
	bubble(t, func(t *testing.T) {
		i, a, b := twoOf(t, &marksOfTest{})
		token := i.issue("token", 0)
		c := b.open(bearer(token))
		b.events.wait(t, audit.Open, 1)
		other := b.open(bearer(token))
		b.events.wait(t, audit.Open, 2)
		ids := b.ids()
		if !a.g.Admin().By("eve").Kick(ids[0], 4001, "out") {
			t.Error("nobody was asked")
		}
		wantClose(t, c, 4001, "out")
		if ev := b.closed(); ev.Operator != "eve" {
			t.Errorf("%+v", ev)
		}
		roundTrip(t, other, "hello")
		a.g.Admin().Kick(ids[1], 0, "for the log")
		wantClose(t, other, 3003, "kicked")
		if ev := b.closed(); !strings.Contains(ev.Detail, "for the log") {
			t.Errorf("%+v", ev)
		}
		if !a.g.Admin().Kick("nobody", 0, "") || a.g.Admin().Kick("", 0, "") {
			t.Error("what Kick returns")
		}
	})
	wstest.CheckGoroutines(t)
	if e := serveGuard(t, wsguard.Config{}); e.g.Admin().Kick("nobody", 0, "") {
		t.Error("without a store, nobody is asked")
	}
}

// Bans by hand and by violations hold at all instances, with their reasons, their ends and the
// strikes before. Lift ends them everywhere. Only the instance that has begun a ban reports it.
func TestSharedBans(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Hour, -time.Hour} {
		bubble(t, func(t *testing.T) {
			m := &marksOfTest{ahead: ahead}
			cfg := proxied(conf(noHandshakeLimits, func(cfg *wsguard.Config) {
				cfg.Auth.Verifier = onlyToken("T")
				cfg.Auth.Failures.PerSecond = wsguard.Off
				cfg.Penalties = wsguard.PenaltyConfig{Violations: wsguard.Rate{PerSecond: never, Burst: 2}}
			}))
			a, b := instance(t, cfg, m, nil), instance(t, cfg, m, nil)
			good := func(e *env, ip string) bool {
				t.Helper()
				synctest.Wait()
				c, res := e.try(from(ip, "Authorization", "Bearer T"))
				c.Close()
				return res.StatusCode == 101
			}
			if err := a.g.Admin().Ban("192.0.2.0/24", time.Hour, "spam \xff"); err != nil {
				t.Fatal(err)
			}
			c := instance(t, cfg, m, nil)
			for _, e := range []*env{a, b, c} {
				if good(e, "192.0.2.7") || !good(e, "192.0.3.7") {
					t.Error("the ban does not hold")
				}
			}
			bans := b.g.Admin().Bans()
			if len(bans) != 1 || bans[0].Client != "192.0.2.0/24" || !strings.HasPrefix(bans[0].Reason, "spam") || (time.Until(bans[0].Until)-time.Hour).Abs() > time.Second {
				t.Errorf("%+v", bans)
			}
			if len(b.events.of(audit.Banned)) > 0 || len(a.events.of(audit.Banned)) != 1 {
				t.Error("the wrong instance reports the ban")
			}
			if !b.g.Admin().Lift("192.0.2.0/24") || !good(a, "192.0.2.7") || !good(c, "192.0.2.7") || len(a.g.Admin().Bans()) > 0 {
				t.Error("not lifted everywhere")
			}
			// The ban of each instance is twice as long as the one before.
			strike := func(e *env) time.Duration {
				t.Helper()
				for range 5 {
					if _, res := e.try(from("198.51.100.1", "Authorization", "Bearer bad")); res.StatusCode == 429 {
						break
					}
				}
				synctest.Wait()
				var until time.Time
				for _, other := range []*env{a, b, c} {
					all := other.g.Admin().Bans()
					if len(all) != 1 || all[0].Reason != "unauthenticated" || !until.IsZero() && all[0].Until.Sub(until).Abs() > 50*time.Millisecond || all[0].Strikes == 0 {
						t.Errorf("%+v", all)
					}
					until = all[0].Until
				}
				return time.Until(until).Round(time.Second)
			}
			for n, e := range []*env{a, b, c, a} {
				if d := strike(e); d != time.Minute<<n {
					t.Errorf("ban %d lasts %v", n, d)
				}
				time.Sleep(time.Minute << n)
			}
			d := instance(t, cfg, m, nil)
			c = d
			if got := strike(d); got != 16*time.Minute {
				t.Errorf("a new instance bans for %v", got)
			}
			if !a.g.Admin().Lift("198.51.100.1") || !good(d, "198.51.100.1") {
				t.Error("not lifted everywhere")
			}
			if got := strike(b); got != time.Minute {
				t.Errorf("after Lift, a ban lasts %v", got)
			}
			if n := len(b.events.of(audit.Banned)); n != 2 {
				t.Errorf("b has begun %d bans", n)
			}
		})
	}
}

// A ban by violations that comes from elsewhere does not shorten a longer one.
func TestSharedBanNotShorter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := &marksOfTest{}
		a := instance(t, conf(), m, nil)
		a.g.Admin().Ban("192.0.2.1", time.Hour, "")
		for _, value := range []string{`{"for":1000,"strikes":3}`, `{"for":-5}`, `{"strikes":-1}`} {
			m.Set(context.Background(), "192.0.2.1/32", []byte(value), time.Minute)
			synctest.Wait()
			if all := a.g.Admin().Bans(); len(all) != 1 || time.Until(all[0].Until) < time.Hour-time.Minute {
				t.Errorf("%s: %+v", value, all)
			}
		}
	})
}

package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// What an instance does while the store is down holds there at once, and reaches the others in its
// order when the store is back.
func TestSharedMarksOutage(t *testing.T) {
	for _, how := range []string{"error", "panic", "gap"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				m := &marksOfTest{}
				i, a, b := twoOf(t, m)
				token := func(n int) string {
					name := fmt.Sprint("user", n)
					return i.issueAs(name, wsguard.Principal{Subject: name, IssuedAt: time.Now()})
				}
				var conns []*wstest.Client
				for n := range 40 {
					conns = append(conns, b.open(bearer(token(n))))
				}
				time.Sleep(time.Second)
				m.change(func(m *marksOfTest) {
					switch how {
					case "error":
						m.down = errors.New("down")
					case "panic":
						m.mad = true
					case "gap":
						m.gaps = 5
					}
					m.sets = nil
				})
				for n := range 40 {
					a.g.Admin().Revoke(fmt.Sprint("user", n))
					if letsIn(a, fmt.Sprint("user", n)) {
						t.Error("not revoked at once")
					}
				}
				a.g.Admin().Restore("user5")
				a.g.Admin().Revoke("user6")
				if waiting := a.g.Stats().Shared.MarksWaiting; how != "gap" && waiting != 40 {
					t.Errorf("%d marks wait, want 40", waiting)
				}
				time.Sleep(time.Minute)
				fresh := i.issueAs("fresh", wsguard.Principal{Subject: "user7", IssuedAt: time.Now()})
				stays := a.open(bearer(fresh))
				m.change(func(m *marksOfTest) { m.down, m.mad = nil, false })
				for n, c := range conns {
					if n != 5 {
						wantClose(t, c, 3000, "revoked")
					}
				}
				time.Sleep(5 * time.Second)
				if how != "gap" { // B may have read the copy in between
					roundTrip(t, conns[5], "hello")
				}
				conns[5].Close()
				for n := range 40 {
					if good := letsIn(b, fmt.Sprint("user", n)); good != (n == 5) {
						t.Errorf("user %d: good is %t", n, good)
					}
				}
				// A login during the outage is later than the revocation.
				roundTrip(t, stays, "hello")
				stays.Close()
				if !letsIn(b, fresh) {
					t.Error("a login after the revocation is refused")
				}
				if s := a.g.Stats().Shared; s.MarksWaiting != 0 || s.MarksAge > 3*time.Second {
					t.Errorf("%+v", s)
				}
				if how == "error" {
					m.mu.Lock()
					defer m.mu.Unlock()
					want := []string{}
					for n := range 40 {
						if n != 5 && n != 6 {
							want = append(want, fmt.Sprint("subject/user", n))
						}
					}
					want = append(want, "subject/user5", "subject/user6")
					if fmt.Sprint(m.sets) != fmt.Sprint(want) {
						t.Errorf("set %v", m.sets)
					}
				}
			})
		})
	}
}

// A store that has lost its memory gets back what the instances know.
func TestSharedMarksLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		revocations, bans := &marksOfTest{}, &marksOfTest{}
		i := &issuer{}
		a, b := instance(t, dated(i), bans, revocations), instance(t, dated(i), bans, revocations)
		var tokens []string
		for n := range 20 {
			name := fmt.Sprint("user", n)
			tokens = append(tokens, i.issueAs(name, wsguard.Principal{Subject: name, IssuedAt: time.Now()}))
			time.Sleep(time.Millisecond)
			a.g.Admin().Revoke(name)
			b.g.Admin().Ban(fmt.Sprint("192.0.2.", n), time.Hour, "")
		}
		a.g.Admin().Restore("user3")
		a.g.Admin().Lift("192.0.2.3")
		time.Sleep(time.Millisecond)
		fresh := i.issueAs("fresh", wsguard.Principal{Subject: "user4", IssuedAt: time.Now()})
		time.Sleep(time.Minute)
		for _, m := range []*marksOfTest{revocations, bans} {
			m.change(func(m *marksOfTest) { m.in = nil })
		}
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		a.g.Shutdown(ctx)
		b.g.Shutdown(ctx)
		c := instance(t, dated(i), bans, revocations)
		for n, token := range tokens {
			if good := letsIn(c, token); good != (n == 3) {
				t.Errorf("user %d: good is %t", n, good)
			}
		}
		if !letsIn(c, fresh) {
			t.Error("a login after the revocation is refused")
		}
		if n := len(c.g.Admin().Bans()); n != 19 {
			t.Errorf("%d bans, want 19", n)
		}
		revocations.mu.Lock()
		defer revocations.mu.Unlock()
		if n := len(revocations.sets); n > 21+2*20 {
			t.Errorf("%d marks were set", n)
		}
	})
}

// After a gap, an instance knows what has happened meanwhile.
func TestSharedMarksGap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := &marksOfTest{}
		i, a, b := twoOf(t, m)
		for _, name := range []string{"alice", "bob"} {
			i.issueAs(name, wsguard.Principal{Subject: name, IssuedAt: time.Now()})
		}
		a.g.Admin().Revoke("bob")
		time.Sleep(time.Second)
		c := b.open(bearer("alice"))
		m.change(func(m *marksOfTest) { m.gaps = 4 }) // for both instances
		a.g.Admin().Revoke("alice")
		a.g.Admin().Restore("bob")
		wantClose(t, c, 3000, "revoked")
		time.Sleep(5 * time.Second)
		if letsIn(b, "alice") || !letsIn(b, "bob") || letsIn(a, "alice") || !letsIn(a, "bob") {
			t.Error("the copy is not that of the store")
		}
	})
}

// Of two things that happen to a subject at different instances, the later one counts
// everywhere, although the earlier one is set later.
func TestSharedMarksOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m, slow := &marksOfTest{}, &marksOfTest{}
		i := &issuer{}
		late := &lateMarks{marksOfTest: m, gate: slow}
		a, b := instance(t, dated(i), nil, late), instance(t, dated(i), nil, m)
		i.issueAs("alice", wsguard.Principal{Subject: "alice", IssuedAt: time.Now()})
		i.issueAs("bob", wsguard.Principal{Subject: "bob", IssuedAt: time.Now()})
		time.Sleep(time.Second)
		b.g.Admin().Revoke("bob")
		slow.change(func(m *marksOfTest) { m.down = errors.New("down") })
		a.g.Admin().Restore("bob")
		a.g.Admin().Revoke("alice")
		time.Sleep(time.Second)
		b.g.Admin().Revoke("bob") // is later than Restore
		b.g.Admin().Revoke("alice")
		b.g.Admin().Restore("alice") // is later than the Revoke of the other
		time.Sleep(time.Second)
		slow.change(func(m *marksOfTest) { m.down = nil })
		time.Sleep(time.Minute)
		for n, e := range []*env{a, b, instance(t, dated(i), nil, m)} {
			if !letsIn(e, "alice") || letsIn(e, "bob") {
				t.Errorf("instance %d does not know what came last", n)
			}
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.sets) > 12 {
			t.Errorf("%d marks were set: %v", len(m.sets), m.sets)
		}
	})
}

// lateMarks are marks that cannot be set while gate is down.
type lateMarks struct {
	*marksOfTest
	gate *marksOfTest
}

func (m *lateMarks) Set(ctx context.Context, key string, value []byte, ttl time.Duration) (store.Mark, error) {
	if err := m.gate.fails(); err != nil {
		return store.Mark{}, err
	}
	return m.marksOfTest.Set(ctx, key, value, ttl)
}

// New waits for the first copy. Without it nobody is let in.
func TestSharedMarksFirstCopy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := &marksOfTest{down: errors.New("down")}
		i := &issuer{}
		token := i.issue("token", 0)
		cfg := dated(i)
		cfg.Auth.Tickets = &wsguard.TicketConfig{}
		cfg.Shared.Bans = m
		start := time.Now()
		e := newEnv(t, cfg)
		mux := http.NewServeMux()
		mux.Handle("/ticket", e.g.TicketHandler(nil))
		mux.Handle("/", echoDoor(e.g))
		e.serve(mux)
		t.Cleanup(func() { e.g.Shutdown(context.Background()) })
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("New took %v", d)
		}
		e.refused(bearer(token), 503, "unavailable")
		if res := e.request("POST", "/ticket", bearer(token)); res.StatusCode != 503 {
			t.Errorf("a sale: %d", res.StatusCode)
		}
		m.change(func(m *marksOfTest) { m.down = nil })
		time.Sleep(time.Second)
		if !letsIn(e, token) {
			t.Error("not let in with the first copy")
		}
		if res := e.request("POST", "/ticket", bearer(token)); res.StatusCode != 200 {
			t.Errorf("a sale: %d", res.StatusCode)
		}
		start = time.Now()
		instance(t, dated(i), m, nil)
		if time.Since(start) > 0 {
			t.Error("New waits for nothing")
		}
	})
}

// With MarksFailClosed, nobody is let in while the copy is old. Without it, the copy is used.
// Open connections go on.
func TestSharedMarksFailClosed(t *testing.T) {
	for _, closed := range []bool{true, false} {
		for _, hang := range []bool{true, false} {
			bubble(t, func(t *testing.T) {
				m := &marksOfTest{}
				i := &issuer{}
				token := i.issue("token", 0)
				cfg := dated(i)
				cfg.Shared.MarksFailClosed = closed
				e := instance(t, cfg, m, m)
				c := e.open(bearer(token))
				time.Sleep(time.Hour)
				if !letsIn(e, token) {
					t.Error("refused although the store answers")
				}
				released := make(chan struct{})
				m.change(func(m *marksOfTest) {
					m.down = errors.New("down")
					if hang {
						m.hang = released
					}
				})
				time.Sleep(2 * time.Second)
				if !letsIn(e, token) {
					t.Error("refused too early")
				}
				time.Sleep(6 * time.Second)
				if closed {
					e.refused(bearer(token), 503, "unavailable")
				} else if !letsIn(e, token) {
					t.Error("refused although MarksFailClosed is not set")
				}
				roundTrip(t, c, "hello")
				if age := e.g.Stats().Shared.MarksAge; age < 5*time.Second {
					t.Errorf("the age is %v", age)
				}
				close(released)
				m.change(func(m *marksOfTest) { m.down, m.hang = nil, nil })
				time.Sleep(2 * time.Second)
				if !letsIn(e, token) {
					t.Error("refused although the store is back")
				}
				c.Close()
			})
		}
	}
}

// A store that blocks holds up neither New, nor a method of Admin, nor Shutdown, and leaves no
// goroutine when it returns.
func TestSharedMarksBlocked(t *testing.T) {
	for _, early := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			released := make(chan struct{})
			m := &marksOfTest{}
			if early {
				m.hang = released
			}
			g, err := wsguard.New(wsguard.Config{
				Logger: slog.New(slog.DiscardHandler), Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true},
				Shared: wsguard.SharedConfig{Bans: m, Revocations: m},
			})
			if err != nil {
				t.Fatal(err)
			}
			m.change(func(m *marksOfTest) { m.hang = released })
			time.Sleep(time.Minute)
			start := time.Now()
			g.Admin().Revoke("alice")
			if d := time.Since(start); d > 50*time.Millisecond {
				t.Errorf("Revoke took %v", d)
			}
			start = time.Now()
			if err := g.Shutdown(context.Background()); err != nil || time.Since(start) > 3*time.Second {
				t.Errorf("Shutdown: %v after %v", err, time.Since(start))
			}
			close(released) // synctest fails if a goroutine is left
		})
	}
}

// Shutdown waits until the store has what was done, and for nothing that the store does not take.
func TestSharedMarksFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, m := &issuer{}, &marksOfTest{}
		token := i.issue("token", 0)
		time.Sleep(time.Millisecond)
		made := func() *wsguard.Guard {
			g, err := wsguard.New(conf(func(cfg *wsguard.Config) {
				*cfg = dated(i)
				cfg.Origins, cfg.Logger = []string{appOrigin}, slog.New(slog.DiscardHandler)
				cfg.Shared.Revocations = m
			}))
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		g := made()
		m.change(func(m *marksOfTest) { m.down = errors.New("down") })
		g.Admin().Revoke("alice")
		go func() {
			time.Sleep(200 * time.Millisecond)
			m.change(func(m *marksOfTest) { m.down = nil })
		}()
		g.Shutdown(context.Background())
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			*cfg = dated(i)
			cfg.Shared.Revocations = m
		}))
		e.serve(e.g.Handler(echo))
		if letsIn(e, token) {
			t.Error("the revocation is lost")
		}
		m.change(func(m *marksOfTest) { m.down = errors.New("down") })
		e.g.Admin().Revoke("bob")
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := e.g.Shutdown(ctx); err != nil || time.Since(start) > 200*time.Millisecond {
			t.Errorf("Shutdown: %v after %v", err, time.Since(start))
		}
		e.g.Admin().Revoke("carol") // afterwards it holds here
		time.Sleep(10 * time.Second)
	})
}

// A value that cannot be read is reported once, and what comes after it is applied.
func TestSharedMarksBroken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m, bans := &marksOfTest{}, &marksOfTest{}
		i := &issuer{}
		ctx := context.Background()
		set := func(key, value string) {
			m.Set(ctx, key, []byte(value), time.Hour)
			bans.Set(ctx, key, []byte(value), time.Hour)
		}
		values := []string{
			"", "{", "null", "[]", "1", `"x"`, `{"at":"x"}`, `{"at":-1}`, `{"at":9223372036854775807}`, `{"age":-9223372036854775808}`,
			`{"age":9223372036854775807}`, `{"for":9223372036854775807}`, `{"strikes":9223372036854775807}`, `{"code":-1}`, `{"undone":true,"revoked":-1}`,
			`{"by_hand":true,"for":-1}`, `{"later":{"version":2}}`, "\xff\xfe", `{"from":"` + strings.Repeat("x", 1<<16) + `"}`, "[[[[[[[[[[[[[[[[",
		}
		all := func() {
			for _, value := range values {
				for _, key := range []string{"subject/x", "login/x", "kick/x", "seen/x", "seen/" + strings.Repeat("ab", 32), "seen/" + strings.Repeat("ab", 99), "name/", "name/x", "0.0.0.0/0", "::ffff:0:0/90", "10.0.0.0/8", "x", "subject/", "/"} {
					set(key, value)
				}
			}
		}
		all()
		e := instance(t, dated(i), bans, m)
		all()
		synctest.Wait()
		e.g.Admin().Bans()
		token := i.issue("token", -time.Second)
		c := e.open(bearer(token))
		set("subject/alice", `{}`)
		wantClose(t, c, 3000, "revoked")
		if ev := e.events.of(audit.Warning); len(ev) != 2 || ev[0].Reason != "mark_broken" {
			t.Errorf("%+v", ev)
		}
	})
}

// A store without room is reported once, and an instance tries until it has room.
func TestSharedMarksFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := &marksOfTest{full: true}
		i, a, b := twoOf(t, m)
		token := i.issue("token", -time.Second)
		c := b.open(bearer(token))
		a.g.Admin().Revoke("alice")
		a.g.Admin().Revoke("bob")
		time.Sleep(time.Minute)
		if ev := a.events.of(audit.Warning); len(ev) != 1 || ev[0].Reason != "marks_full" {
			t.Errorf("%+v", ev)
		}
		roundTrip(t, c, "hello")
		m.change(func(m *marksOfTest) { m.full = false })
		wantClose(t, c, 3000, "revoked")
	})
}

// Nothing spins, however the store fails.
func TestSharedMarksRate(t *testing.T) {
	for how, change := range map[string]func(*marksOfTest){
		"well":   func(m *marksOfTest) {},
		"failed": func(m *marksOfTest) { m.down = errors.New("down") },
		"panics": func(m *marksOfTest) { m.mad = true },
		"gaps":   func(m *marksOfTest) { m.gaps = 1 << 30 },
	} {
		bubble(t, func(t *testing.T) {
			m := &marksOfTest{}
			i, a, _ := twoOf(t, m)
			m.change(change)
			a.g.Admin().Revoke("alice")
			i.issue("x", 0)
			m.change(func(m *marksOfTest) { m.news = 0 })
			time.Sleep(time.Minute)
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.news > 300 {
				t.Errorf("%s: %d calls of News in a minute", how, m.news)
			}
		})
	}
}

// A revocation lasts as long as any credential that an instance has accepted.
func TestSharedRevocationOutlastsCredential(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := &marksOfTest{}
		i, a, b := twoOf(t, m, func(cfg *wsguard.Config) { cfg.Auth.RevocationTTL = time.Minute })
		token := i.issueAs("token", wsguard.Principal{Subject: "alice", IssuedAt: time.Now(), Expires: time.Now().Add(time.Hour)})
		time.Sleep(time.Millisecond)
		if !letsIn(b, token) {
			t.Fatal("refused")
		}
		a.g.Admin().Revoke("alice")
		time.Sleep(30 * time.Minute)
		for n, e := range []*env{a, b, instance(t, dated(i), nil, m)} {
			if letsIn(e, token) {
				t.Errorf("instance %d has forgotten the revocation", n)
			}
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.sets) > 3 {
			t.Errorf("set %v", m.sets)
		}
	})
}

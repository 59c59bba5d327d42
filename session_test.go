package wsguard_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/store"
)

// logins is a Verifier of tokens "SUBJECT SESSION TTL SCOPE…".
func logins(_ context.Context, token string) (p wsguard.Principal, err error) {
	part := strings.Fields(token)
	if len(part) < 3 {
		return p, errors.New("what is that")
	}
	if part[0] == "unavailable" {
		return p, wsguard.ErrUnavailable
	}
	ttl, err := time.ParseDuration(part[2])
	if err == nil && ttl > 0 {
		p.Expires = time.Now().Add(ttl)
	}
	p.Subject, p.SessionID, p.Scopes, p.IssuedAt = part[0], part[1], part[3:], time.Now()
	if part[1] == "-" {
		p.SessionID = ""
	}
	return p, err
}

func loginConfig(cfg *wsguard.Config) {
	cfg.Auth = wsguard.AuthConfig{Verifier: logins}
	cfg.Timeouts.PingInterval = wsguard.Off
}

func sessionsOf(g *wsguard.Guard) map[string]audit.Session {
	all := map[string]audit.Session{}
	for s := range g.Admin().Sessions() {
		all[s.Subject+" "+s.SessionID] = s
	}
	return all
}

func TestSessions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(loginConfig, func(cfg *wsguard.Config) {
			cfg.Auth.Sources = wsguard.TokenSources{Header: true, FirstMessage: true}
			cfg.Subprotocols = []string{"chat"}
		}))
		opened := time.Now()
		c := e.open(bearer("alice s1 1h read write"))
		e.open(bearer("bob - 0s"))
		e.open(header()) // owes its first message
		synctest.Wait()
		all := sessionsOf(e.g)
		if len(all) != 2 {
			t.Fatalf("%d sessions: %v", len(all), all)
		}
		a := all["alice s1"]
		if !a.Since.Equal(opened) || !a.LastMessage.Equal(opened) || a.Origin != appOrigin || !a.Client.IsLoopback() ||
			!slices.Equal(a.Scopes, []string{"read", "write"}) || a.Stats != (audit.Stats{}) {
			t.Errorf("%+v", a)
		}
		time.Sleep(time.Minute)
		roundTrip(t, c, "hello")
		synctest.Wait() // what is written is counted after it
		a = sessionsOf(e.g)["alice s1"]
		if !a.LastMessage.Equal(opened.Add(time.Minute)) || a.Stats != (audit.Stats{MessagesIn: 1, MessagesOut: 1, BytesIn: 5, BytesOut: 5}) {
			t.Errorf("%+v", a)
		}
		for range e.g.Admin().Sessions() {
			break
		}
		if !e.g.Admin().Kick(a.ID, 4007, "again") || e.g.Admin().Kick("nobody", 0, "") {
			t.Error("Kick")
		}
		wantClose(t, c, 4007, "again")
		if n := len(sessionsOf(e.g)); n != 1 {
			t.Errorf("%d sessions after the kick", n)
		}
	})
}

// A code that cannot be sent still kicks.
func TestKickCodes(t *testing.T) {
	for _, tt := range []struct {
		code wsguard.StatusCode
		want int
		text string
	}{{0, 3003, "kicked"}, {1006, 3003, "kicked"}, {4000, 4000, "bye"}, {1000, 1000, "bye"}} {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, wsguard.Config{})
			c := e.open(header())
			synctest.Wait()
			e.g.Admin().Kick(e.ids()[0], tt.code, "bye")
			wantClose(t, c, tt.want, tt.text)
			if ev := e.closed(); !errors.Is(ev.Err, reason.Kicked) || ev.Reason != "kicked" || ev.Detail != "bye" {
				t.Errorf("%+v", ev)
			}
		})
	}
}

// T35: one login ends, the others of its subject go on.
func TestSignOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noHandshakeLimits, loginConfig, func(cfg *wsguard.Config) {
			cfg.Auth.RevocationTTL = time.Hour
			cfg.Auth.Tickets = &wsguard.TicketConfig{}
		}))
		e.serve(ticketMux(e.g))
		dial := func(token string) *wstest.Client {
			c := e.dial()
			if res, err := c.Handshake("/ws", bearer(token)); err != nil || res.StatusCode != 101 {
				t.Fatal(res, err)
			}
			return c
		}
		status := func(token string) int {
			c := e.dial()
			defer c.Close()
			res, err := c.Handshake("/ws", bearer(token))
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode
		}
		a, b, other := dial("alice s1 0s"), dial("alice s1 0s"), dial("alice s2 0s")
		anonymous := dial("bob - 0s")
		synctest.Wait()
		e.g.Admin().SignOut("s1")
		wantClose(t, a, 3000, "revoked")
		wantClose(t, b, 3000, "revoked")
		roundTrip(t, other, "still here")
		roundTrip(t, anonymous, "me too")
		time.Sleep(time.Minute) // a later credential of the login is no better
		if got := status("alice s1 0s"); got != 401 {
			t.Errorf("the login opens another: %d", got)
		}
		e.g.Admin().Restore("alice")
		if got := status("alice s1 0s"); got != 401 {
			t.Errorf("restoring the subject restores the login: %d", got)
		}
		if got := status("alice s3 0s"); got != 101 {
			t.Errorf("another login: %d", got)
		}
		time.Sleep(time.Hour)
		if got := status("alice s1 0s"); got != 101 {
			t.Errorf("remembered beyond RevocationTTL: %d", got)
		}
		if n := len(e.events.of(audit.Refusal)); n != 2 {
			t.Errorf("%d refusals", n)
		}
	})
}

func TestRefresh(t *testing.T) {
	// A message is a credential; what Refresh says is the answer.
	refresher := func(ctx context.Context, c *wsguard.Conn) error {
		for {
			_, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			answer := "ok"
			if err := c.Refresh(ctx, string(msg)); err != nil {
				answer = err.Error()
			}
			if c.Write(ctx, wsguard.MessageText, []byte(answer)) != nil {
				<-ctx.Done()
			}
		}
	}
	refresh := func(t *testing.T, first string, test func(e *env, c *wstest.Client)) {
		bubble(t, func(t *testing.T) {
			e := newEnv(t, conf(func(cfg *wsguard.Config) { loginConfig(cfg); cfg.Auth.InsecureAnonymous = true }))
			e.serve(e.g.Handler(refresher))
			c := e.open(bearer(first))
			test(e, c)
		})
	}
	ask := func(t *testing.T, c *wstest.Client, token, want string) {
		t.Helper()
		c.WriteFrame(wstest.Text(token))
		_, p, err := c.ReadMessage()
		if err != nil || !strings.Contains(string(p), want) {
			t.Errorf("refreshed with %q: %q, %v; want %q", token, p, err, want)
		}
	}
	t.Run("expiry and scopes", func(t *testing.T) {
		refresh(t, "alice s1 1m a", func(e *env, c *wstest.Client) {
			time.Sleep(50 * time.Second)
			ask(t, c, "alice s2 1m b", "ok")
			a, ok := sessionsOf(e.g)["alice s2"]
			if !ok || !slices.Equal(a.Scopes, []string{"b"}) {
				t.Errorf("%+v", sessionsOf(e.g))
			}
			e.g.Admin().SignOut("s1") // the old login
			start := time.Now()
			wantClose(t, c, 3000, "expired")
			wantBetween(t, "expired", time.Since(start), time.Minute, time.Minute+250*time.Millisecond)
			if n := len(e.events.of(audit.Refresh)); n != 1 {
				t.Errorf("%d events", n)
			}
		})
	})
	t.Run("no expiry", func(t *testing.T) {
		refresh(t, "alice s1 1m", func(e *env, c *wstest.Client) {
			ask(t, c, "alice s1 0s", "ok")
			time.Sleep(2 * time.Minute)
			ask(t, c, "alice s1 0s", "ok")
		})
	})
	t.Run("sooner", func(t *testing.T) {
		refresh(t, "alice s1 1h", func(e *env, c *wstest.Client) {
			ask(t, c, "alice s1 1s", "ok")
			start := time.Now()
			wantClose(t, c, 3000, "expired")
			wantBetween(t, "expired", time.Since(start), time.Second, 1250*time.Millisecond)
		})
	})
	t.Run("new login signed out", func(t *testing.T) {
		refresh(t, "alice s1 1m", func(e *env, c *wstest.Client) {
			ask(t, c, "alice s2 1m", "ok")
			e.g.Admin().SignOut("s2")
			wantClose(t, c, 3000, "revoked")
		})
	})
	t.Run("T38 another subject", func(t *testing.T) {
		refresh(t, "alice s1 1m", func(e *env, c *wstest.Client) {
			c.WriteFrame(wstest.Text("bob s1 1m"))
			wantClose(t, c, 1008, "refresh")
			if ev := e.closed(); !errors.Is(ev.Err, reason.Refresh) || ev.Subject != "alice" {
				t.Errorf("%+v", ev)
			}
		})
	})
	t.Run("signed out", func(t *testing.T) {
		refresh(t, "alice s1 1m", func(e *env, c *wstest.Client) {
			e.g.Admin().SignOut("s2")
			c.WriteFrame(wstest.Text("alice s2 1m"))
			wantClose(t, c, 3000, "revoked")
		})
	})
	t.Run("refused, and everything stays", func(t *testing.T) {
		refresh(t, "alice s1 1m a", func(e *env, c *wstest.Client) {
			start := time.Now()
			ask(t, c, "junk", "no valid credential")
			ask(t, c, "unavailable s1 1m", "cannot decide now")
			ask(t, c, "alice s9 -1s", "ok") // no expiry, but it counts
			ask(t, c, "alice s1 1m", "rate limit exceeded")
			time.Sleep(10 * time.Second)
			ask(t, c, strings.Repeat("x", 9<<10), "no valid credential")
			ask(t, c, "alice s1 1m", "ok")
			ask(t, c, "alice s1 1m", "rate limit exceeded")
			wantClose(t, c, 3000, "expired")
			wantBetween(t, "expired", time.Since(start), 70*time.Second, 71*time.Second)
			if n := len(e.events.of(audit.Violation)); n != 5 {
				t.Errorf("%d violations", n)
			}
		})
	})
	t.Run("anonymous", func(t *testing.T) {
		refresh(t, "", func(e *env, c *wstest.Client) {
			ask(t, c, "junk", "no valid credential")
			ask(t, c, "alice s1 1m", "ok")
			wantClose(t, c, 3000, "expired")
		})
	})
	t.Run("a guess is a guess", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			e := newEnv(t, conf(loginConfig, func(cfg *wsguard.Config) {
				cfg.Auth.Failures = wsguard.Rate{PerSecond: never, Burst: 1}
			}))
			e.serve(e.g.Handler(refresher))
			c := e.open(bearer("alice s1 1m"))
			ask(t, c, "junk", "no valid credential")
			ask(t, c, "alice s2 1m", "too many failed")
			ask(t, c, "alice s1 1m", "ok") // which the guard has accepted before
			// It is no guess of others at the address.
			if res, err := e.dial().Handshake("/", bearer("bob s1 1m")); err != nil || res.StatusCode != 101 {
				t.Error(res, err)
			}
		})
	})
	t.Run("late", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			e := newEnv(t, conf(loginConfig))
			got := make(chan error, 1)
			e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				<-ctx.Done()
				got <- c.Refresh(context.Background(), "alice s1 1m")
				return nil
			}))
			e.open(bearer("alice s1 1m"))
			synctest.Wait()
			e.g.Admin().Kick(e.ids()[0], 0, "")
			if err := <-got; !errors.Is(err, reason.Kicked) {
				t.Error(err)
			}
		})
	})
}

func TestRevalidate(t *testing.T) {
	type reply func(ctx context.Context, p wsguard.Principal) (wsguard.Principal, error)
	run := func(t *testing.T, r reply, test func(e *env, c *wstest.Client)) {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, conf(loginConfig, func(cfg *wsguard.Config) {
				cfg.Auth.Revalidate = r
				cfg.Auth.RevalidateEvery = time.Minute
				cfg.Timeouts.PingInterval = 0
				cfg.Auth.InsecureAnonymous = true
			}))
			c := e.open(bearer("alice s1 0s a"))
			test(e, c)
		})
	}
	// T37: pongs are answered all the time, and renew nothing.
	for _, tt := range []struct {
		name   string
		reply  reply
		code   int
		reason string
		late   time.Duration
	}{
		{"no longer", func(context.Context, wsguard.Principal) (wsguard.Principal, error) {
			return wsguard.Principal{}, errors.New("gone, and here is a secret")
		}, 3000, "unauthenticated", 0},
		{"expired", func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
			p.Expires = time.Now()
			return p, nil
		}, 3000, "unauthenticated", 0},
		{"nobody", func(context.Context, wsguard.Principal) (wsguard.Principal, error) { return wsguard.Principal{}, nil }, 1013, "unavailable", 0},
		{"somebody else", func(context.Context, wsguard.Principal) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: "bob"}, nil
		}, 3000, "unauthenticated", 0},
		{"unavailable", func(context.Context, wsguard.Principal) (wsguard.Principal, error) {
			return wsguard.Principal{}, fmt.Errorf("down: %w", wsguard.ErrUnavailable)
		}, 1013, "unavailable", 0},
		{"panic", func(context.Context, wsguard.Principal) (wsguard.Principal, error) { panic("x") }, 1013, "unavailable", 0},
		{"hangs", func(ctx context.Context, _ wsguard.Principal) (wsguard.Principal, error) {
			<-ctx.Done()
			return wsguard.Principal{}, ctx.Err()
		}, 1013, "unavailable", 5 * time.Second},
		{"ignores its context", func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
			time.Sleep(time.Hour)
			return p, nil
		}, 1013, "unavailable", 5 * time.Second},
	} {
		t.Run("T37 "+tt.name, func(t *testing.T) {
			run(t, tt.reply, func(e *env, c *wstest.Client) {
				start := time.Now()
				a := <-browse(c)
				if a.code != tt.code || a.reason != tt.reason {
					t.Errorf("%d %q after %d pings, want %d %q", a.code, a.reason, len(a.pings), tt.code, tt.reason)
				}
				wantBetween(t, "closed", a.codedAt.Sub(start), tt.late, 66*time.Second+250*time.Millisecond+tt.late)
				if ev := e.closed(); strings.Contains(ev.Detail, "secret") || !strings.HasPrefix(ev.Detail, "revalidation: ") {
					t.Errorf("%+v", ev)
				}
				time.Sleep(time.Hour) // a hook that hangs ends, too
			})
		})
	}
	t.Run("T37 still good", func(t *testing.T) {
		var calls, others atomic.Int64
		run(t, func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
			if p.Subject != "alice" {
				others.Add(1)
			}
			p.Scopes = []string{fmt.Sprint(calls.Add(1))}
			return p, nil
		}, func(e *env, c *wstest.Client) {
			done := browse(c)
			time.Sleep(4*time.Minute + 50*time.Second) // of 5 minutes without a message
			synctest.Wait()                            // somebody may be asked at this very moment
			n := calls.Load()
			if n < 4 || n > 6 || others.Load() > 0 {
				t.Errorf("asked %d times, of others %d", n, others.Load())
			}
			if s := sessionsOf(e.g)["alice s1"]; !slices.Equal(s.Scopes, []string{fmt.Sprint(n)}) {
				t.Errorf("%+v after %d", s, n)
			}
			e.g.Admin().Revoke("alice")
			if a := <-done; a.code != 3000 || a.reason != "revoked" {
				t.Errorf("%d %q", a.code, a.reason)
			}
		})
	})
	t.Run("T37 anonymous", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, conf(func(cfg *wsguard.Config) {
				cfg.Auth = wsguard.AuthConfig{InsecureAnonymous: true, RevalidateEvery: time.Second, Revalidate: func(context.Context, wsguard.Principal) (wsguard.Principal, error) {
					t.Error("asked")
					return wsguard.Principal{}, nil
				}}
			}))
			c := e.open(header())
			time.Sleep(5 * time.Second)
			roundTrip(t, c, "still here")
		})
	})
	// Many at once are asked about in turn; whoever's turn does not come in
	// time goes.
	t.Run("T76 a store that hangs", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			var now, most atomic.Int64
			e := serveGuard(t, conf(noHandshakeLimits, loginConfig, func(cfg *wsguard.Config) {
				cfg.Caps.MaxConnsPerSubject = wsguard.Off
				cfg.Auth.RevalidateEvery = time.Second
				cfg.Auth.Revalidate = func(ctx context.Context, p wsguard.Principal) (wsguard.Principal, error) {
					most.Store(max(most.Load(), now.Add(1)))
					defer now.Add(-1)
					time.Sleep(time.Minute)
					return p, nil
				}
			}))
			for range 200 {
				browse(e.open(bearer("alice s1 0s")))
			}
			time.Sleep(30 * time.Second)
			if n := len(e.events.of(audit.Close)); n != 200 || e.g.Conns() != 0 {
				t.Errorf("%d closed, %d slots", n, e.g.Conns())
			}
			if most.Load() > 64 {
				t.Errorf("%d asked at once", most.Load())
			}
			time.Sleep(2 * time.Minute)
		})
	})
}

// A good answer is used again until it is old or somebody was revoked.
func TestAuthCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var calls atomic.Int64
		var during func()
		e := serveGuard(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) {
			cfg.Auth = wsguard.AuthConfig{CacheTTL: time.Minute, Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
				calls.Add(1)
				if during != nil {
					during()
				}
				return logins(ctx, token)
			}}
			cfg.Caps.MaxConnsPerSubject = wsguard.Off
		}))
		try := func(what, token string, status int, asked int64) {
			t.Helper()
			before := calls.Load()
			c := e.dial()
			defer c.Close()
			res, err := c.Handshake("/", bearer(token))
			if err != nil || res.StatusCode != status || calls.Load()-before != asked {
				t.Errorf("%s: %v %v, asked %d times; want %d, %d", what, res, err, calls.Load()-before, status, asked)
			}
		}
		try("first", "alice s1 0s", 101, 1)
		try("again", "alice s1 0s", 101, 0)
		try("another", "alice s2 0s", 101, 1)
		time.Sleep(time.Minute)
		try("old", "alice s1 0s", 101, 1)
		try("bad", "junk", 401, 1)
		try("bad again", "junk", 401, 0)
		time.Sleep(10 * time.Second)
		try("bad later", "junk", 401, 1)
		try("short", "carol s1 1s", 101, 1)
		time.Sleep(time.Second)
		try("expired meanwhile", "carol s1 1s", 401, 0)
		try("erin", "erin s1 0s", 101, 1)
		e.g.Admin().Revoke("erin")
		try("after somebody's revocation", "alice s1 0s", 101, 0)
		try("after the own revocation", "erin s1 0s", 401, 1)
		during = func() { during = nil; e.g.Admin().SignOut("s9") }
		try("revoked while asked", "dave s1 0s", 101, 1)
		try("and so not kept", "dave s1 0s", 101, 1)
		// More than the cache has room for. Most need no connection.
		many := rounds(10_000, 0)
		before := calls.Load()
		for i := range many {
			statusOf(e.g.Handler(echo), withHeader(upgradeRequest(), "Authorization", fmt.Sprintf("Bearer eve e%d 0s", i)))
		}
		if asked := calls.Load() - before; int(asked) != many {
			t.Errorf("asked %d times for %d tokens", asked, many)
		}
		for i := range 100 {
			try("many", fmt.Sprintf("eve e%d 0s", many+i), 101, 1)
		}
	})
}

// A page learns why, but only what it may, and few at a time.
func TestExplained(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noHandshakeLimits, loginConfig, func(cfg *wsguard.Config) {
			cfg.Auth.MaxExplained = 2
			cfg.Auth.Failures = wsguard.Rate{PerSecond: never, Burst: 6}
			cfg.Caps.MaxConnsPerSubject = 1
			cfg.Subprotocols = []string{"chat"}
			cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return nil, errors.New("no") }
		}))
		e.serve(e.g.Handler(func(context.Context, *wsguard.Conn) error {
			t.Error("application code has run")
			return nil
		}))
		try := func(h http.Header, status int) (*wstest.Client, *http.Response) {
			t.Helper()
			c := e.dial()
			res, err := c.Handshake("/", h)
			if err != nil || res.StatusCode != status {
				t.Fatalf("%v %v, want %d", res, err, status)
			}
			synctest.Wait() // what it held is given back after the answer
			return c, res
		}
		h := bearer("junk")
		h.Set("Sec-WebSocket-Protocol", "chat")
		a, res := try(h, 101)
		if p := res.Header.Get("Sec-WebSocket-Protocol"); p != "chat" {
			t.Errorf("subprotocol %q: a browser would fail the connection", p)
		}
		b, _ := try(bearer("junk 2"), 101)
		try(bearer("junk 3"), 401) // no room
		if e.g.Conns() != 0 || len(sessionsOf(e.g)) != 0 {
			t.Error("it holds a slot of the application's")
		}
		wantClose(t, a, 3000, "unauthenticated")
		a.WriteFrame(wstest.CloseFrame(3000, ""))
		a.Close()
		wantClose(t, b, 3000, "unauthenticated")
		time.Sleep(3 * time.Second) // b does not answer
		e.g.Admin().Revoke("carol")
		time.Sleep(time.Millisecond)
		c, _ := try(bearer("carol - 0s"), 403) // issued after it
		c.Close()

		h = bearer("junk 4")
		h.Set("Origin", "https://evil.test")
		try(h, 403)
		h = bearer("junk")
		h.Set("Sec-WebSocket-Version", "12")
		try(h, 426)

		for i := range 4 {
			try(bearer(fmt.Sprint("junk ", 10+i)), 101)
			time.Sleep(3 * time.Second)
		}
		c, _ = try(bearer("alice s1 0s"), 101)
		wantClose(t, c, 1013, "guessing")
		events := e.events.of(audit.Refusal)
		ev := events[len(events)-1]
		if ev.Status != 101 || ev.Code != 1013 || ev.Reason != "guessing" || len(e.events.of(audit.Open)) != 0 {
			t.Errorf("%+v", ev)
		}
		// A drain waits for them.
		start := time.Now()
		if err := e.g.Shutdown(context.Background()); err != nil || time.Since(start) > 3*time.Second {
			t.Error(err, time.Since(start))
		}
	})
}

// A 101 without a subprotocol tells a page nothing that has offered one, if only a
// credential: its browser fails it. A program may be told.
func TestExplainedSubprotocol(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noHandshakeLimits, loginConfig, func(cfg *wsguard.Config) {
			cfg.Auth.MaxExplained = 20
			cfg.Subprotocols = []string{"chat"}
			cfg.Origins, cfg.AllowMissingOrigin, cfg.Hosts = []string{appOrigin}, true, []string{"server"}
		}))
		e.serve(e.g.Handler(echo))
		for _, tt := range []struct {
			origin, offered string
			status          int
			proto           string
		}{
			{appOrigin, "", 101, ""},
			{appOrigin, "chat", 101, "chat"},
			{appOrigin, "other, chat", 101, "chat"},
			{appOrigin, "chat, bearer.junk", 101, "chat"},
			{appOrigin, "bearer.junk", 401, ""},
			{appOrigin, "bearer.junk, bearer.junk", 401, ""},
			{appOrigin, "other", 400, ""},
			{appOrigin, "other, bearer.junk", 400, ""},
			{"", "bearer.junk", 101, ""},
			{"", "other", 101, ""},
		} {
			c := e.dial()
			h := http.Header{}
			if tt.origin != "" {
				h.Set("Origin", tt.origin)
			}
			if tt.offered != "" {
				h.Set("Sec-WebSocket-Protocol", tt.offered)
			}
			before := len(e.events.of(audit.Refusal))
			res, err := c.HandshakeWith(wstest.HandshakeOptions{Host: "server", Header: h})
			if err != nil || res.StatusCode != tt.status || res.Header.Get("Sec-WebSocket-Protocol") != tt.proto {
				t.Errorf("%q offers %q: %v, %v, want %d and %q", tt.origin, tt.offered, res, err, tt.status, tt.proto)
			} else if tt.status == 101 {
				wantClose(t, c, 3000, "unauthenticated")
			}
			c.Close()
			synctest.Wait()
			if got := e.events.of(audit.Refusal)[before:]; len(got) != 1 || got[0].Status != tt.status {
				t.Errorf("%q offers %q: events %+v", tt.origin, tt.offered, got)
			}
		}
	})
}

// brokenOnce is a store in some state.
type brokenOnce struct {
	store.Once
	state atomic.Pointer[string]
}

func (b *brokenOnce) is(state string) { b.state.Store(&state) }

func (b *brokenOnce) trouble(ctx context.Context) error {
	switch *b.state.Load() {
	case "down":
		return errors.New("no route to 5ecr3t")
	case "hangs":
		<-ctx.Done()
		return ctx.Err()
	case "stuck":
		time.Sleep(time.Minute)
	case "panics":
		panic("5ecr3t")
	case "full":
		return store.ErrFull
	}
	return nil
}

func (b *brokenOnce) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := b.trouble(ctx); err != nil {
		return err
	}
	if strings.Contains(string(value), key) {
		return errors.New("the value gives the key away")
	}
	return b.Once.Put(ctx, key, value, ttl)
}

func (b *brokenOnce) Take(ctx context.Context, key string) ([]byte, bool, error) {
	if err := b.trouble(ctx); err != nil {
		return nil, false, err
	}
	if *b.state.Load() == "lies" {
		return []byte("?"), true, nil
	}
	return b.Once.Take(ctx, key)
}

// T31: several instances share a store of tickets, which fails closed.
func TestTicketStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &brokenOnce{Once: store.NewOnce(0)}
		shared.is("fine")
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: logins, Tickets: &wsguard.TicketConfig{Store: shared}}, InsecureAllowHTTP: true}
		here, there := ticketGuard(t, cfg), ticketGuard(t, cfg)
		for _, e := range []*env{here, there} {
			e.serve(ticketMux(e.g))
		}
		ticket := here.buy(bearer("alice s1 1h read"))
		var wg sync.WaitGroup
		var got [2]int
		for i, e := range []*env{here, there} {
			wg.Go(func() {
				c, res := e.redeem(ticket, header())
				got[i] = res.StatusCode
				if res.StatusCode == 101 {
					synctest.Wait()
					s := sessionsOf(e.g)["alice s1"]
					if !slices.Equal(s.Scopes, []string{"read"}) || s.Expires.IsZero() {
						t.Errorf("%+v", s)
					}
					bye(c)
				}
				c.Close()
			})
		}
		wg.Wait()
		if slices.Sort(got[:]); got != [2]int{101, 401} {
			t.Errorf("%v", got)
		}
		// Revoked there, outstanding there.
		ticket = here.buy(bearer("bob s1 1h"))
		time.Sleep(time.Second)
		there.g.Admin().Revoke("bob")
		there.g.Admin().Restore("bob")
		there.redeemRefused(ticket, header(), 401, "revoked")

		for _, state := range []string{"down", "hangs", "stuck", "panics", "full", "lies"} {
			shared.is("fine")
			ticket := here.buy(bearer("alice s1 1h"))
			shared.is(state)
			start := time.Now()
			if state != "lies" {
				if res := here.request("POST", "/ticket", bearer("alice s1 1h")); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
					t.Errorf("%s: bought with %d", state, res.StatusCode)
				}
			}
			if state != "full" {
				here.redeemRefused(ticket, header(), 503, "unavailable")
			}
			wantBetween(t, state, time.Since(start), 0, 11*time.Second)
			time.Sleep(time.Minute)
		}
		if s := here.log.String() + here.events.String(); strings.Contains(s, "5ecr3t") {
			t.Error("the store's error is in the log")
		}
		shared.is("fine")
		c, res := here.redeem(here.buy(bearer("alice s1 1h")), header())
		if res.StatusCode != 101 {
			t.Errorf("somebody was charged for it: %d", res.StatusCode)
		}
		bye(c)
	})
}

// An answer about a credential that a Refresh has replaced meanwhile says nothing about the new
// one. A refusal of the subject still counts.
func TestRefreshBeatsRevalidate(t *testing.T) {
	for _, late := range []error{nil, wsguard.ErrExpired, wsguard.ErrUnavailable, errors.New("gone")} {
		bubble(t, func(t *testing.T) {
			var calls atomic.Int64
			e := newEnv(t, conf(loginConfig, func(cfg *wsguard.Config) {
				cfg.Auth.RevalidateEvery = 10 * time.Second
				cfg.Auth.Revalidate = func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
					if calls.Add(1) == 1 {
						time.Sleep(4 * time.Second)
						return p, late
					}
					p.Scopes = append(p.Scopes[:0], "asked again") // what it is given is its own
					return p, nil
				}
			}))
			e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				_, msg, err := c.Read(ctx)
				if err == nil {
					err = c.Refresh(ctx, string(msg))
				}
				if err != nil {
					return err
				}
				<-ctx.Done()
				return nil
			}))
			c := e.open(bearer("alice s1 30s admin"))
			for calls.Load() == 0 {
				time.Sleep(100 * time.Millisecond)
			}
			c.WriteFrame(wstest.Text("alice s2 1h read"))
			time.Sleep(time.Second)
			if _, ok := sessionsOf(e.g)["alice s2"]; !ok {
				t.Fatalf("%+v", sessionsOf(e.g))
			}
			time.Sleep(4 * time.Second)
			if late != nil && late.Error() == "gone" {
				wantClose(t, c, 3000, "unauthenticated")
				return
			}
			a, ok := sessionsOf(e.g)["alice s2"]
			if !ok || !slices.Equal(a.Scopes, []string{"asked again"}) {
				t.Errorf("%+v", sessionsOf(e.g))
			}
			time.Sleep(30 * time.Second)
			e.g.Admin().SignOut("s2")
			wantClose(t, c, 3000, "revoked")
		})
	}
}

// A Refresh whose connection ends meanwhile changes nothing.
func TestRefreshOfTheDead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			cfg.Auth = wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
				if strings.HasSuffix(token, "slow") {
					time.Sleep(3 * time.Second)
				}
				return logins(ctx, token)
			}}
		}))
		got := make(chan error, 1)
		e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := e.g.Accept(w, r)
			if err != nil {
				return
			}
			got <- c.Refresh(r.Context(), "alice s2 1h slow")
		}))
		e.open(bearer("alice s1 1h"))
		synctest.Wait()
		e.g.Admin().Kick(e.ids()[0], 0, "")
		if err := <-got; !errors.Is(err, reason.Kicked) {
			t.Error(err)
		}
		synctest.Wait() // until the handler has returned
		if n := len(e.events.of(audit.Refresh)); n != 0 || e.g.Conns() != 0 {
			t.Errorf("%d refreshed, %d slots", n, e.g.Conns())
		}
	})
}

// More than can be asked about at once take turns; nobody goes for it.
func TestRevalidateTurns(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		var calls atomic.Int64
		e := serveGuard(t, conf(noHandshakeLimits, loginConfig, func(cfg *wsguard.Config) {
			cfg.Caps.MaxConnsPerSubject = wsguard.Off
			cfg.Auth.RevalidateEvery = 10 * time.Second
			cfg.Auth.Revalidate = func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
				calls.Add(1)
				time.Sleep(500 * time.Millisecond)
				return p, nil
			}
		}))
		// The places are good for 1,060 in 10 s. With fewer than that nobody waits
		// for nearly as long as an interval, whatever his luck.
		for range 900 {
			c := e.open(bearer("alice s1 0s"))
			browse(c)
		}
		time.Sleep(time.Minute)
		if n := len(e.events.of(audit.Close)); n > 0 || calls.Load() < 4000 {
			t.Errorf("%d closed, %d asked", n, calls.Load())
		}
		e.g.Admin().Revoke("alice")
	})
}

// A handler's panic within a hijack gives the place back.
func TestExplainedPanic(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: logins, MaxExplained: 1}})
	e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Panic") != "" {
			w = panicHijack{w}
		}
		defer func() { _ = recover() }()
		echoDoor(e.g).ServeHTTP(w, r)
	}))
	for range 3 {
		e.tryAny(header("Authorization", "Bearer junk", "X-Panic", "1"))
	}
	c, res := e.try(bearer("junk"))
	if res.StatusCode != 101 {
		t.Fatalf("no place left: %d", res.StatusCode)
	}
	wantClose(t, c, 3000, "unauthenticated")
	bye(c)
}

type panicHijack struct{ http.ResponseWriter }

func (panicHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) { panic("hijack") }

// tryAny makes a handshake whose answer does not matter.
func (e *env) tryAny(h http.Header) {
	c := e.dial()
	c.Handshake("/", h)
	c.Close()
}

// What any page can provoke is not told, nor a flood.
func TestExplainedNot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) {
			cfg.Auth = wsguard.AuthConfig{Verifier: logins, MaxExplained: 10, Sources: wsguard.TokenSources{Header: true, Cookie: "session"}}
			cfg.InsecureReportOnlyOrigins = true
			cfg.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 2}
		}))
		try := func(origin, name, value string, want int) {
			t.Helper()
			c := e.dial()
			defer c.Close()
			res, err := c.Handshake("/", http.Header{"Origin": {origin}, name: {value}})
			if err != nil || res.StatusCode != want {
				t.Errorf("%s %s: %v %v, want %d", origin, value, res, err, want)
			}
		}
		try("https://evil.test", "Authorization", "Bearer junk", 401)
		// Reported and let pass, but the visitor's cookie is not the page's.
		try("https://evil.test", "Cookie", "session=alice - 0s", 401)
		try(appOrigin, "Cookie", "session=alice", 101) // and told 3000
		try(appOrigin, "Cookie", "session=bob", 101)
		try(appOrigin, "Authorization", "Bearer alice - 0s", 429)
	})
}

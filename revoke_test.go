package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// issuer is a Verifier whose clock is not ours: it knows when each token was issued.
type issuer struct {
	mu     sync.Mutex
	issued map[string]wsguard.Principal

	revokedAt time.Time // the last Revoke; used by the test's goroutine
}

// issue makes token good, with an issue time that is ahead of this clock.
func (i *issuer) issue(token string, ahead time.Duration) string {
	return i.issueAs(token, wsguard.Principal{Subject: "alice", IssuedAt: time.Now().Add(ahead)})
}

func (i *issuer) issueAs(token string, p wsguard.Principal) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.issued == nil {
		i.issued = map[string]wsguard.Principal{}
	}
	i.issued[token] = p
	return token
}

func (i *issuer) Verify(_ context.Context, token string) (wsguard.Principal, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	p, ok := i.issued[token]
	if !ok {
		return wsguard.Principal{}, errors.New("no such token")
	}
	return p, nil
}

// revokeDoor is a way in for a token. It reports whether the token was good.
type revokeDoor struct {
	name  string
	cfg   func(*wsguard.Config)
	serve func(*wsguard.Guard, *issuer) http.Handler
	try   func(e *env, i *issuer, token string) bool
}

// accepted reports whether a handshake was, and ends what it opened.
func accepted(e *env, c *wstest.Client, res *http.Response) bool {
	e.t.Helper()
	defer c.Close()
	switch res.StatusCode {
	case 401:
		return false
	case 101:
		return true
	}
	e.t.Fatalf("status %d; events:\n%s", res.StatusCode, e.events)
	return false
}

func revokeDoors() []revokeDoor {
	plain := func(g *wsguard.Guard, _ *issuer) http.Handler { return g.Handler(echo) }
	byHeader := func(e *env, _ *issuer, token string) bool {
		c, res := e.try(bearer(token))
		return accepted(e, c, res)
	}
	byTicket := func(e *env, _ *issuer, token string) bool {
		res := e.request("POST", "/ticket", bearer(token))
		if res.StatusCode == 401 {
			return false
		}
		b := body(e.t, res)
		_, ticket, _ := strings.Cut(b, `"ticket":"`)
		ticket, _, _ = strings.Cut(ticket, `"`)
		c, res := e.redeem(ticket, header())
		return accepted(e, c, res)
	}
	tickets := func(c *wsguard.Config) { c.Auth.Tickets = &wsguard.TicketConfig{MaxPerSubject: wsguard.Off} }
	return []revokeDoor{
		{"header", nil, plain, byHeader},
		{"header, answers kept", func(c *wsguard.Config) { c.Auth.CacheTTL = time.Hour }, plain, byHeader},
		{"cookie", func(c *wsguard.Config) { c.Auth.Sources = wsguard.TokenSources{Cookie: "session"} }, plain, func(e *env, _ *issuer, token string) bool {
			c, res := e.try(header("Cookie", "session="+token))
			return accepted(e, c, res)
		}},
		{"first message", func(c *wsguard.Config) { c.Auth.Sources = wsguard.TokenSources{FirstMessage: true} }, plain, func(e *env, _ *issuer, token string) bool {
			c := e.open(header())
			defer c.Close()
			c.WriteFrame(first(token))
			c.WriteFrame(wstest.Text("hello"))
			f, err := c.ReadFrame()
			if err != nil {
				e.t.Fatal(err)
			}
			return f.Opcode == wstest.OpText
		}},
		{"refresh", nil, func(g *wsguard.Guard, i *issuer) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				_, msg, err := c.Read(ctx)
				if err == nil {
					err = c.Refresh(ctx, string(msg))
				}
				if err == nil {
					err = c.Write(ctx, wsguard.MessageText, []byte("ok"))
				}
				return err
			})
		}, func(e *env, i *issuer, token string) bool {
			// A credential of its own, which is new: nothing is known of it. It is not newer
			// than token, which could not refresh it then.
			at := i.revokedAt
			if at.IsZero() {
				at = time.Now().Add(-time.Hour)
			}
			other := i.issueAs(fmt.Sprint("other", len(i.issued)), wsguard.Principal{Subject: "alice", IssuedAt: at})
			c := e.open(bearer(other))
			defer c.Close()
			c.WriteFrame(wstest.Text(token))
			f, err := c.ReadFrame()
			if err != nil {
				e.t.Fatal(err)
			}
			return f.Opcode == wstest.OpText
		}},
		{"ticket for a bearer", tickets, func(g *wsguard.Guard, _ *issuer) http.Handler { return ticketMux(g) }, byTicket},
		{"ticket for a login", tickets, func(g *wsguard.Guard, i *issuer) http.Handler {
			mux := ticketMux(g)
			mux2 := http.NewServeMux()
			mux2.Handle("/ws", mux)
			mux2.Handle("/ticket", g.TicketHandler(func(r *http.Request) (wsguard.Principal, error) {
				return i.Verify(r.Context(), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
			}))
			return mux2
		}, byTicket},
		{"piece in front", nil, func(g *wsguard.Guard, _ *issuer) http.Handler {
			p := g.Pieces()
			return chain(g.Handler(echo), p.Origin.Handler, p.Auth.Handler)
		}, byHeader},
	}
}

// A token of an issuer whose clock is ahead does not come back after a Revoke. What
// counts is when the guard first accepted it, if that is earlier.
func TestRevokeIssuerAhead(t *testing.T) {
	for _, door := range revokeDoors() {
		for _, wait := range []time.Duration{0, time.Second, time.Minute} {
			t.Run(fmt.Sprint(door.name, ", ", wait), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					i := &issuer{}
					cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: i.Verify}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}}
					if door.cfg != nil {
						door.cfg(&cfg)
					}
					e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return door.serve(g, i) })
					good := func(what, token string, want bool) {
						t.Helper()
						if got := door.try(e, i, token); got != want {
							t.Errorf("%s: good is %t, want %t; events:\n%s", what, got, want, e.events)
						}
						e.idle()
					}
					used := i.issue("used", 30*time.Second)
					unused := i.issue("unused", -time.Second)
					ahead := i.issue("ahead", 2*time.Minute)
					good("before", used, true)
					time.Sleep(wait)
					e.g.Admin().Revoke("alice")
					i.revokedAt = time.Now()
					good("used before", used, false)
					good("used before, again", used, false)
					good("issued before", unused, false)
					good("not seen before, issued after by its issuer's clock", ahead, true)
					fresh := i.issue("fresh", 30*time.Second)
					good("issued after", fresh, true)
					exact := i.issue("exact", 0)
					good("issued after, by this clock", exact, true)
					time.Sleep(time.Minute) // the issue times have passed
					good("used before, a minute later", used, false)
					good("issued after, a minute later", fresh, true)
					e.g.Admin().Revoke("alice")
					i.revokedAt = time.Now()
					good("used between the revocations", fresh, false)
					good("used between the revocations", ahead, false)
					e.g.Admin().Restore("alice")
					i.revokedAt = time.Time{}
					good("restored", fresh, true)
					good("restored", used, true)
					e.g.Admin().Revoke("alice")
					i.revokedAt = time.Now()
					good("revoked again", used, false)
				})
			})
		}
	}
}

// The memory outlives Reconfigure, is shared with an Authenticator, and is no
// longer than it says.
func TestRevokeRemembers(t *testing.T) {
	newCase := func(t *testing.T, cfg wsguard.Config) (*env, *issuer) {
		i := &issuer{}
		cfg.Auth.Verifier = i.Verify
		return serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) }), i
	}
	status := func(e *env, token string, want int) {
		e.t.Helper()
		c, res := e.try(bearer(token))
		c.Close()
		if res.StatusCode != want {
			e.t.Errorf("%s: status %d, want %d", token, res.StatusCode, want)
		}
		e.idle()
	}
	authBubble(t, "Reconfigure", func(t *testing.T) {
		e, i := newCase(t, wsguard.Config{})
		status(e, i.issue("used", time.Minute), 101)
		cfg := wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{Verifier: i.Verify}}
		e.reconfigure(cfg)
		e.g.Admin().Revoke("alice")
		status(e, "used", 401)
		e.reconfigure(cfg)
		status(e, "used", 401)
	})
	authBubble(t, "at one instant", func(t *testing.T) {
		e, i := newCase(t, wsguard.Config{})
		start := time.Now()
		used, issued := i.issue("used", time.Minute), i.issue("issued", 0)
		e.open(bearer(used))
		e.g.Admin().Revoke("alice")
		e.refused(bearer(used), 401, "revoked")
		e.open(bearer(issued))
		if d := time.Since(start); d > 0 {
			t.Errorf("the clock moved by %v: this test shows nothing", d)
		}
	})
	// What a ticket was bought with is first seen where it was bought.
	authBubble(t, "tickets of two instances", func(t *testing.T) {
		i := &issuer{}
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: i.Verify, Tickets: &wsguard.TicketConfig{Store: store.NewOnce(0)}}}
		here, there := ticketGuard(t, cfg), ticketGuard(t, cfg)
		for _, e := range []*env{here, there} {
			e.serve(ticketMux(e.g))
		}
		used := i.issue("used", time.Minute)
		here.buy(bearer(used))
		time.Sleep(time.Second)
		there.g.Admin().Revoke("alice")
		time.Sleep(time.Second)
		there.redeemRefused(here.buy(bearer(used)), header(), 401, "revoked")
		if _, res := there.redeem(here.buy(bearer(i.issue("fresh", time.Minute))), header()); res.StatusCode != 101 {
			t.Errorf("a fresh credential's: %d", res.StatusCode)
		}
	})
	authBubble(t, "one State, two Guards", func(t *testing.T) {
		i := &issuer{}
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: i.Verify}, State: wsguard.NewState()}
		serve := func(g *wsguard.Guard) http.Handler { return g.Handler(echo) }
		a, b := serveWith(t, cfg, serve), serveWith(t, cfg, serve)
		status(a, i.issue("used", time.Minute), 101)
		b.g.Admin().Revoke("alice")
		status(b, "used", 401)
		status(a, "used", 401)
	})
	authBubble(t, "an issue time that moves", func(t *testing.T) {
		e, i := newCase(t, wsguard.Config{})
		status(e, i.issue("used", time.Minute), 101)
		e.g.Admin().Revoke("alice")
		status(e, i.issue("used", 2*time.Minute), 401)
	})
	authBubble(t, "no issue time", func(t *testing.T) {
		e, i := newCase(t, wsguard.Config{})
		never := i.issueAs("never", wsguard.Principal{Subject: "alice"})
		e.g.Admin().Revoke("alice")
		for range 3 {
			status(e, never, 401)
			time.Sleep(25 * time.Hour)
		}
		e.g.Admin().Restore("alice")
		status(e, never, 101)
	})
	authBubble(t, "another spelling of one login", func(t *testing.T) {
		e, i := newCase(t, wsguard.Config{})
		p := wsguard.Principal{Subject: "alice", SessionID: "laptop", IssuedAt: time.Now().Add(time.Minute)}
		status(e, i.issueAs("one", p), 101)
		e.g.Admin().Revoke("alice")
		status(e, i.issueAs("two", p), 401)
		time.Sleep(2 * time.Minute)
		status(e, "two", 401)
		p.IssuedAt = time.Now()
		status(e, i.issueAs("three", p), 101)
	})
	authBubble(t, "a day", func(t *testing.T) {
		e, i := newCase(t, wsguard.Config{})
		status(e, i.issue("used", time.Minute), 101)
		time.Sleep(time.Second)
		e.g.Admin().Revoke("alice")
		time.Sleep(24*time.Hour - 2*time.Second)
		status(e, "used", 401)
		time.Sleep(2 * time.Second) // from here on it is judged by its issue time
		status(e, "used", 101)
		e.g.Admin().Revoke("alice")
		status(e, "used", 401)
	})
	// A refused credential is not remembered, nor is one that nobody presented.
	authBubble(t, "refused", func(t *testing.T) {
		e, i := newCase(t, wsguard.Config{})
		status(e, "later", 401)
		e.g.Admin().Revoke("alice")
		time.Sleep(11 * time.Second) // the refusal is remembered for 10
		status(e, i.issue("later", time.Minute), 101)
	})
}

// A token that a Revoke has ended, or that was refused for it, is not good
// afterwards, whatever the order in which they met.
func TestRevokeRacesFirstSight(t *testing.T) {
	wstest.CheckGoroutines(t)
	i := &issuer{}
	e := newEnv(t, wsguard.Config{
		Auth: wsguard.AuthConfig{Verifier: i.Verify, Sources: wsguard.TokenSources{Header: true, FirstMessage: true}},
		Rates: wsguard.RateConfig{
			Handshakes: wsguard.Rate{PerSecond: wsguard.Off}, ClientMessages: wsguard.Rate{PerSecond: wsguard.Off}, SubjectMessages: wsguard.Rate{PerSecond: wsguard.Off},
		},
	})
	e.serve(e.g.Handler(echo))
	times := rounds(400, 60)
	survived := 0
	for n := range times {
		subject := fmt.Sprint("subject", n)
		token := i.issueAs(fmt.Sprint("token", n), wsguard.Principal{Subject: subject, IssuedAt: time.Now().Add(time.Hour)})
		var revoked sync.WaitGroup
		start := make(chan struct{})
		revoked.Go(func() {
			<-start
			time.Sleep(time.Duration(n%60) * 4 * time.Microsecond)
			e.g.Admin().Revoke(subject)
		})
		h, early := bearer(token), []byte(nil)
		if n%2 == 1 {
			h, early = header(), wstest.AppendFrame(nil, first(token))
		}
		early = wstest.AppendFrame(early, wstest.Text("hello"))
		try := func() (good bool) {
			c := e.dial()
			defer c.Close()
			res, err := c.HandshakeWith(wstest.HandshakeOptions{Header: h, Early: early})
			if err != nil {
				t.Fatal(err)
			}
			revoked.Wait()
			if res.StatusCode == 401 {
				return false
			}
			if _, _, err := c.ReadMessage(); err != nil {
				return false
			}
			// The echo may have come before the revocation.
			c.WriteFrame(wstest.Text("hello"))
			_, _, err = c.ReadMessage()
			return err == nil
		}
		close(start)
		good := try()
		if good {
			survived++
		}
		if again := try(); again != good {
			t.Fatalf("round %d: good is %t, and then %t", n, good, again)
		}
	}
	t.Logf("%d of %d came after the revocation", survived, times)
}

package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// becoming is an application that refreshes with each message "be TOKEN", and answers others
// with the subject and the value of the connection.
func becoming(ctx context.Context, c *wsguard.Conn) error {
	for {
		_, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		answer := fmt.Sprintf("%s %v", c.Principal().Subject, c.Value())
		if token, ok := strings.CutPrefix(string(msg), "be "); ok {
			answer = "ok"
			if err := c.Refresh(ctx, token); err != nil {
				answer = err.Error()
			}
		}
		if err := c.Write(ctx, wsguard.MessageText, []byte(answer)); err != nil {
			return err
		}
	}
}

// becomeConfig admits anonymous clients and has the Verifier logins.
func becomeConfig(cfg *wsguard.Config) {
	cfg.Auth = wsguard.AuthConfig{Verifier: logins, InsecureAnonymous: true}
}

// becomeValue is a value of Attach that notes when it is closed.
type becomeValue struct {
	name   string
	mu     *sync.Mutex
	closed *[]string
}

func (v becomeValue) String() string { return v.name }

func (v becomeValue) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	*v.closed = append(*v.closed, v.name)
	return nil
}

// Refresh makes an anonymous connection that of a subject, once. Its expiry, revocations, the
// cap and the buckets of the subject apply from then on.
func TestBecome(t *testing.T) {
	var mu sync.Mutex
	var closed, queries []string
	change := func(cfg *wsguard.Config) {
		becomeConfig(cfg)
		cfg.Caps.MaxConnsPerClient, cfg.Caps.MaxUsersPerClient, cfg.Caps.MaxConnsPerSubject = 2, 100, 1
		cfg.Attach = func(r *http.Request, p wsguard.Principal) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			queries = append(queries, p.Subject+r.URL.RawQuery+r.Header.Get("Authorization"))
			return becomeValue{"value of " + p.Subject, &mu, &closed}, nil
		}
	}
	firstServe(t, change, becoming, func(e *firstEnv) {
		c := e.dial()
		firstSay(c, "who", "be alice s1 1h", "who", "be alice s2 1h", "who")
		firstWant(e.t, c, " value of ", "ok", "alice value of alice", "ok", "alice value of alice")
		if want := []string{"id=7", "aliceid=7"}; !slices.Equal(queries, want) {
			e.t.Errorf("Attach: %q, want %q", queries, want)
		}
		if got := e.of(audit.Refresh); len(got) != 2 || got[0].Subject != "alice" {
			e.t.Errorf("%+v", got)
		}

		// The client has room for two other strangers, and the subject for no other connection.
		second := e.dial()
		third := e.dial()
		if res, err := e.s.Dial(e.t).Handshake("/", http.Header{"Origin": {"https://app.example.com"}}); err != nil || res.StatusCode != 429 {
			e.t.Error(res, err)
		}
		firstSay(second, "be alice s1 1h", "who")
		firstWant(e.t, second, reason.MaxSubjectConns.Error(), " value of ")
		if res, err := e.s.Dial(e.t).Handshake("/", http.Header{"Origin": {"https://app.example.com"}}); err != nil || res.StatusCode != 429 {
			e.t.Error("after a refused refresh:", res, err)
		}
		firstSay(third, "be carol s3 1m", "who")
		firstWant(e.t, third, "ok", "carol value of carol")

		start := time.Now()
		firstClosed(e.t, third, 3000, "expired")
		if d := time.Since(start); d < time.Minute || d > time.Minute+time.Second {
			e.t.Errorf("expired after %v", d)
		}
		third.Close()
		e.g.Admin().SignOut("s2")
		firstClosed(e.t, c, 3000, "revoked")
		c.Close()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(closed)
		if want := []string{"value of ", "value of ", "value of alice", "value of carol"}; !slices.Equal(closed, want) {
			e.t.Errorf("closed %q, want %q", closed, want)
		}
	})
}

// A refusal leaves the connection anonymous and open, and closes a value that Attach returned.
func TestBecomeRefused(t *testing.T) {
	revoke := func(g *wsguard.Guard) {}
	for name, tt := range map[string]struct {
		token  string
		change func(*wsguard.Config)
		want   string
	}{
		"bad":         {"junk", nil, "no valid credential"},
		"empty":       {"", nil, "no valid credential"},
		"unavailable": {"unavailable - 1h", nil, "cannot decide now"},
		"revoked":     {"revoked - 1h", nil, "credential revoked"},
		"Attach":      {"alice - 1h", func(cfg *wsguard.Config) { cfg.Attach = attachStranger(wsguard.ErrForbidden) }, "not allowed"},
		"Attach panics": {"alice - 1h", func(cfg *wsguard.Config) {
			cfg.Attach = func(_ *http.Request, p wsguard.Principal) (any, error) {
				if p.Subject != "" {
					panic("Attach")
				}
				return nil, nil
			}
		}, "cannot decide now"},
		"revoked meanwhile": {"alice - 1h", func(cfg *wsguard.Config) {
			cfg.Attach = func(_ *http.Request, p wsguard.Principal) (any, error) {
				if p.Subject != "" {
					revoke(nil)
				}
				return nil, nil
			}
		}, "credential revoked"},
		"subject's rate": {"busy - 1h", func(cfg *wsguard.Config) { cfg.Rates.Handshakes = wsguard.Rate{PerSecond: 0.001, Burst: 2} }, "too many handshakes"},
	} {
		t.Run(name, func(t *testing.T) {
			firstServe(t, func(cfg *wsguard.Config) {
				becomeConfig(cfg)
				if tt.change != nil {
					tt.change(cfg)
				}
			}, becoming, func(e *firstEnv) {
				revoke = func(*wsguard.Guard) { e.g.Admin().Revoke("alice") }
				if name == "revoked" {
					// The guard remembers the credential, so its new time of issue does not help.
					c := e.dial()
					firstSay(c, "be revoked - 1h")
					firstWant(e.t, c, "ok")
					e.g.Admin().Revoke("revoked")
					firstClosed(e.t, c, 3000, "revoked")
				}
				if name == "subject's rate" {
					for range 2 {
						if res, err := e.s.Dial(e.t).Handshake("/", http.Header{"Origin": {"https://app.example.com"}, "Authorization": {"Bearer busy - 1h"}}); err != nil || res.StatusCode != 101 {
							e.t.Fatal(res, err)
						}
					}
				}
				c := e.dial()
				firstSay(c, "be "+tt.token, "who")
				_, got, err := c.ReadMessage()
				if err != nil || !strings.Contains(string(got), tt.want) {
					e.t.Errorf("%q, %v; want %q", got, err, tt.want)
				}
				firstWant(e.t, c, " <nil>")
				e.g.Admin().Revoke("alice") // it is no connection of hers
				firstSay(c, "who")
				firstWant(e.t, c, " <nil>")
			})
		})
	}
}

// attachStranger is an Attach that refuses everybody but strangers.
func attachStranger(err error) func(*http.Request, wsguard.Principal) (any, error) {
	return func(_ *http.Request, p wsguard.Principal) (any, error) {
		if p.Subject != "" {
			return nil, err
		}
		return nil, nil
	}
}

// The subject's message rate applies from the next message on.
func TestBecomeRates(t *testing.T) {
	firstServe(t, func(cfg *wsguard.Config) {
		becomeConfig(cfg)
		cfg.Rates.SubjectMessages = wsguard.Rate{PerSecond: 0.001, Burst: 2}
	}, becoming, func(e *firstEnv) {
		c := e.dial()
		firstSay(c, "1", "2", "3", "be alice - 1h")
		firstWant(e.t, c, " <nil>", " <nil>", " <nil>", "ok")
		firstSay(c, "4", "5", "6")
		firstWant(e.t, c, "alice <nil>", "alice <nil>")
		firstClosed(e.t, c, 1008, "rate_limited")
	})
}

// Refused refreshes of an anonymous connection count against its client, and those of one
// client against nobody else.
func TestBecomeFailures(t *testing.T) {
	firstServe(t, func(cfg *wsguard.Config) {
		becomeConfig(cfg)
		cfg.Auth.Failures = wsguard.Rate{PerSecond: 1e-9, Burst: 1}
	}, becoming, func(e *firstEnv) {
		c := e.dial()
		firstSay(c, "be junk", "be alice - 1h")
		firstWant(e.t, c, "wsguard: no valid credential: invalid credential", "wsguard: too many failed credentials")
		if res, err := e.s.Dial(e.t).Handshake("/", http.Header{"Origin": {"https://app.example.com"}, "Authorization": {"Bearer bob - 1h"}}); err != nil || res.StatusCode != 429 {
			e.t.Error("the failure did not count against the client:", res, err)
		}
	})
}

// Revalidate is asked about the new principal.
func TestBecomeRevalidate(t *testing.T) {
	firstServe(t, func(cfg *wsguard.Config) {
		becomeConfig(cfg)
		cfg.Timeouts.Idle = wsguard.Off
		cfg.Auth.RevalidateEvery = time.Minute
		cfg.Auth.Revalidate = func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
			return p, errors.New("gone: " + p.Subject)
		}
	}, becoming, func(e *firstEnv) {
		c := e.dial()
		time.Sleep(10 * time.Minute)
		firstSay(c, "be alice - 1h")
		firstWant(e.t, c, "ok")
		start := time.Now()
		firstClosed(e.t, c, 3000, "unauthenticated")
		if d := time.Since(start); d > time.Minute+10*time.Second {
			e.t.Errorf("after %v", d)
		}
	})
}

// A connection that a first message has left anonymous can become somebody's, and Attach gets
// its request.
func TestBecomeAfterFirstMessage(t *testing.T) {
	firstServe(t, func(cfg *wsguard.Config) {
		becomeConfig(cfg)
		cfg.Auth.Sources.FirstMessage = true
		cfg.Auth.FirstMessage = shibboleth()
		cfg.Attach = func(r *http.Request, p wsguard.Principal) (any, error) { return r.URL.Path, nil }
	}, becoming, func(e *firstEnv) {
		c := e.dial()
		firstSay(c, "nobody", "be alice - 1h", "who")
		firstWant(e.t, c, "who is there?", "welcome ", "ok", "alice /room")
	})
}

// Attach gets the request of the handshake, so a connection that has not kept it cannot become
// somebody's once Reconfigure has set Attach.
func TestBecomeAttachAdded(t *testing.T) {
	var cfg wsguard.Config
	firstServe(t, func(c *wsguard.Config) { becomeConfig(c); cfg = *c }, becoming, func(e *firstEnv) {
		c := e.dial()
		cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return "new", nil }
		if err := e.g.Reconfigure(cfg); err != nil {
			e.t.Fatal(err)
		}
		firstSay(c, "be alice - 1h", "who")
		_, got, _ := c.ReadMessage()
		if !strings.Contains(string(got), reason.Unavailable.Error()) {
			e.t.Errorf("%s", got)
		}
		firstWant(e.t, c, " <nil>")
	})
}

// Kicks, revocations and closes race with the refresh of an anonymous connection. Each value of
// Attach is closed once, and no session and no slot is left.
func TestBecomeRaces(t *testing.T) {
	var mu sync.Mutex
	made, closed := 0, []string{}
	change := func(cfg *wsguard.Config) {
		becomeConfig(cfg)
		cfg.Caps.MaxConnsPerClient, cfg.Caps.MaxConnsPerSubject = wsguard.Off, wsguard.Off
		cfg.Rates.Handshakes.PerSecond = wsguard.Off
		cfg.Attach = func(_ *http.Request, p wsguard.Principal) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			made++
			return becomeValue{p.Subject, &mu, &closed}, nil
		}
	}
	var g *wsguard.Guard
	var others sync.WaitGroup
	handler := func(ctx context.Context, c *wsguard.Conn) error {
		for _, f := range []func(){
			func() { c.Refresh(context.Background(), "alice s1 1h") },
			func() { c.Refresh(context.Background(), "alice s2 1h") },
			func() { c.Value(); c.Principal() },
			func() { g.Admin().Kick(c.ID(), 0, "") },
			func() { g.Admin().SignOut("s1") },
		} {
			others.Go(f)
		}
		return nil
	}
	firstServe(t, change, handler, func(e *firstEnv) {
		g = e.g
		for range 100 {
			e.dial().Close()
		}
		synctest.Wait()
		others.Wait()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if made != len(closed) {
			e.t.Errorf("%d values, %d closed", made, len(closed))
		}
		if n := e.g.Conns(); n != 0 {
			e.t.Errorf("%d slots", n)
		}
	})
}

// A refusal of Attach gives the subject's slot back, and the connection counts as its client's
// again.
func TestBecomeRefusedCounts(t *testing.T) {
	firstServe(t, func(cfg *wsguard.Config) {
		becomeConfig(cfg)
		cfg.Caps.MaxConnsPerClient, cfg.Caps.MaxUsersPerClient, cfg.Caps.MaxConnsPerSubject = 1, 100, 1
		cfg.Attach = func(r *http.Request, p wsguard.Principal) (any, error) {
			if p.Subject != "" && r.URL.Path == "/room" {
				return nil, wsguard.ErrForbidden
			}
			return nil, nil
		}
	}, becoming, func(e *firstEnv) {
		c := e.dial()
		firstSay(c, "be alice - 1h")
		if _, got, err := c.ReadMessage(); err != nil || !strings.Contains(string(got), "not allowed") {
			e.t.Errorf("%s, %v", got, err)
		}
		h := http.Header{"Origin": {"https://app.example.com"}}
		if res, err := e.s.Dial(e.t).Handshake("/", h); err != nil || res.StatusCode != 429 {
			e.t.Error("a second stranger:", res, err)
		}
		h.Set("Authorization", "Bearer alice - 1h")
		if res, err := e.s.Dial(e.t).Handshake("/", h); err != nil || res.StatusCode != 101 {
			e.t.Error("the first of the subject:", res, err)
		}
	})
}

// Attach ends with the context of Refresh, which has no values for it.
func TestBecomeEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type key struct{}
		e := newEnv(t, conf(becomeConfig, func(cfg *wsguard.Config) {
			cfg.Attach = func(r *http.Request, p wsguard.Principal) (any, error) {
				if p.Subject == "" {
					return "nobody", nil
				}
				if r.Context().Value(key{}) != nil {
					t.Error("Attach sees a value of the context of Refresh")
				}
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			own, cancel := context.WithTimeout(context.WithValue(ctx, key{}, "value"), 200*time.Millisecond)
			defer cancel()
			var err error
			if d := within(func() { err = c.Refresh(own, "alice s1 1h") }); !errors.Is(err, reason.Unavailable) || d != 200*time.Millisecond {
				t.Errorf("%v after %v", err, d)
			}
			if c.Principal().Subject != "" || c.Value() != "nobody" {
				t.Errorf("%v %v", c.Principal(), c.Value())
			}
			return nil
		}))
		wantClose(t, e.open(header()), 1000, "")
	})
}

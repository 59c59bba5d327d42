package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// sharedStore is a store.Rates that does what a test wants before it answers.
type sharedStore struct {
	store.MemoryRates
	calls  atomic.Int64
	before atomic.Pointer[func(context.Context) error]
}

func (s *sharedStore) TakeTokens(ctx context.Context, t store.Take) (int64, time.Duration, error) {
	s.calls.Add(1)
	if before := s.before.Load(); before != nil {
		if err := (*before)(ctx); err != nil {
			return 0, 0, err
		}
	}
	return s.MemoryRates.TakeTokens(ctx, t)
}

// Admit makes a refill one call.
func (s *sharedStore) Admit(ctx context.Context, r store.Request) (store.Answer, error) {
	s.calls.Add(1)
	if before := s.before.Load(); before != nil {
		if err := (*before)(ctx); err != nil {
			return store.Answer{}, err
		}
	}
	return store.Combine(&s.MemoryRates, nil, nil).Admit(ctx, r)
}

// does makes the store call f before it answers. nil makes it well again.
func (s *sharedStore) does(f func(context.Context) error) {
	if f == nil {
		s.before.Store(nil)
		return
	}
	s.before.Store(&f)
}

var errStoreGone = errors.New("the store is gone")

func gone(context.Context) error { return errStoreGone }

// sharedConf returns the Config of an instance whose subjects have a rate, and nothing else has.
func sharedConf(s *sharedStore, subject wsguard.Rate, changes ...func(*wsguard.Config)) wsguard.Config {
	return conf(append([]func(*wsguard.Config){noHandshakeLimits, noRates, noPings, anyToken, func(cfg *wsguard.Config) {
		cfg.Rates.SubjectMessages, cfg.Rates.Action = subject, wsguard.ActionReply
		cfg.Messages.ControlFrames.PerSecond = wsguard.Off
		cfg.Shared = wsguard.SharedConfig{Rates: s, Admitter: s}
	}}, changes...)...)
}

// sayAll sends n messages, one after the other, and counts the echoes and the notices. Notices are
// limited, so that the pong to a ping behind each message says what has become of it.
func sayAll(t testing.TB, c *wstest.Client, n int) (echoes, notices int) {
	t.Helper()
	for i := range n {
		text := fmt.Sprint("m", i)
		c.WriteFrame(wstest.Text(text))
		c.WriteFrame(wstest.Ping(nil))
		for {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			if f.Opcode == wstest.OpPong {
				break
			}
			switch p := string(f.Payload); {
			case strings.Contains(p, "rate_limited"):
				notices++
			case p == text:
				echoes++
			default:
				t.Errorf("message %d: %q", i, p)
			}
		}
	}
	return echoes, notices
}

// A subject or a client with connections at two instances has each limit once.
func TestSharedMessages(t *testing.T) {
	slow, off := wsguard.Rate{PerSecond: never, Burst: 40}, wsguard.Rate{PerSecond: wsguard.Off}
	small := func(cfg *wsguard.Config) { cfg.Messages.MaxBytes = 40 }
	for name, tt := range map[string]struct {
		change func(*wsguard.Config)
		want   int
	}{
		"SubjectMessages": {func(cfg *wsguard.Config) { cfg.Rates.SubjectMessages = slow }, 40},
		"SubjectBytes":    {func(cfg *wsguard.Config) { small(cfg); cfg.Rates.SubjectBytes = slow }, 20},
		"ClientMessages":  {func(cfg *wsguard.Config) { cfg.Rates.ClientMessages = slow }, 40},
		"ClientBytes":     {func(cfg *wsguard.Config) { small(cfg); cfg.Rates.ClientBytes = slow }, 20},
		"named client": {func(cfg *wsguard.Config) {
			cfg.Rates.ClientMessages = slow
			cfg.Proxies.ClientName = func(*http.Request) string { return "a name" }
		}, 40},
		"MessagesPerInstance": {func(cfg *wsguard.Config) {
			cfg.Rates.SubjectMessages = slow
			cfg.Shared.MessagesPerInstance = true
		}, 80},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, got := &sharedStore{}, 0
				for range 2 {
					c := serveGuard(t, sharedConf(s, off, tt.change)).open(bearer("alice"))
					for range 5 {
						n, _ := sayAll(t, c, 10) // of two bytes each
						got += n
					}
				}
				if got != tt.want {
					t.Errorf("%d messages passed, want %d", got, tt.want)
				}
			})
		})
	}
}

// A message that finds no tokens is held, and not for longer than it takes the store to answer.
// The messages stay in their order, and no other connection waits.
func TestSharedHold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sharedStore{}
		e := serveGuard(t, sharedConf(s, wsguard.Rate{PerSecond: 100, Burst: 100}))
		alice, bob := e.open(bearer("alice")), e.open(bearer("bob"))
		time.Sleep(time.Second) // the tokens that the handshakes have taken lapse
		sayAll(t, bob, 5)       // has tokens in hand
		s.does(func(context.Context) error { time.Sleep(20 * time.Millisecond); return nil })
		begin := time.Now()
		for i := range 5 {
			alice.WriteFrame(wstest.Text(fmt.Sprint("m", i)))
		}
		sayAll(t, bob, 1)
		if d := time.Since(begin); d > 0 {
			t.Errorf("another connection waited for %v", d)
		}
		for i := range 5 {
			if _, p, err := alice.ReadMessage(); err != nil || string(p) != fmt.Sprint("m", i) {
				t.Errorf("message %d: %q %v", i, p, err)
			}
			if d := time.Since(begin); i == 0 && d != 20*time.Millisecond {
				t.Errorf("the first message was held for %v, want 20ms", d)
			}
		}
		if s := e.g.Stats().Shared; s.HeldMessages == 0 || s.LocalDecisions > 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What happens to a message over a shared rate.
func TestSharedActions(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*wsguard.Config)
		check  func(t *testing.T, e *env, c *wstest.Client)
	}{
		"close": {func(cfg *wsguard.Config) { cfg.Rates.Action = wsguard.ActionClose }, func(t *testing.T, e *env, c *wstest.Client) {
			if code, text, err := c.ReadClose(); err != nil || code != 1008 || text != "rate_limited" {
				t.Errorf("%d %q %v", code, text, err)
			}
		}},
		"reply": {nil, func(t *testing.T, e *env, c *wstest.Client) {
			if _, p, err := c.ReadMessage(); err != nil || !strings.HasPrefix(string(p), `{"error":"rate_limited","retry_after_ms":`) {
				t.Errorf("%q %v", p, err)
			}
		}},
		"delay": {func(cfg *wsguard.Config) { cfg.Rates.Action = wsguard.ActionDelay }, func(t *testing.T, e *env, c *wstest.Client) {
			begin := time.Now()
			_, p, err := c.ReadMessage()
			if d := time.Since(begin); err != nil || string(p) != "one more" || d < 400*time.Millisecond || d > 600*time.Millisecond {
				t.Errorf("%q %v after %v", p, err, d)
			}
		}},
		"report": {func(cfg *wsguard.Config) { cfg.Rates.ReportOnly = true }, func(t *testing.T, e *env, c *wstest.Client) {
			if _, p, err := c.ReadMessage(); err != nil || string(p) != "one more" {
				t.Errorf("%q %v", p, err)
			}
			if got := e.events.of(audit.Violation); len(got) != 1 || !got[0].Report || got[0].Reason != "rate_limited" {
				t.Errorf("%+v", got)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := &sharedStore{}
				rate := wsguard.Rate{PerSecond: 2, Burst: 8}
				other := serveGuard(t, sharedConf(s, rate))
				sayAll(t, other.open(bearer("alice")), 8)
				e := serveGuard(t, sharedConf(s, rate, tt.change))
				c := e.open(bearer("alice"))
				c.WriteFrame(wstest.Text("one more"))
				tt.check(t, e, c)
			})
		})
	}
}

// While the store is gone, an instance applies its part of the limits. Afterwards the limits are
// those of all again.
func TestSharedStoreGone(t *testing.T) {
	for name, fault := range map[string]func(context.Context) error{
		"fails":  gone,
		"panics": func(context.Context) error { panic("store") },
		"blocks": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := &sharedStore{}
				e := serveGuard(t, sharedConf(s, wsguard.Rate{PerSecond: 0.01, Burst: 40}))
				wsguard.CountInstances(e.g, 4)
				s.does(fault)
				c := e.open(bearer("alice"))
				begin := time.Now()
				echoes, _ := sayAll(t, c, 20)
				if d := time.Since(begin); echoes != 10 || d > 60*time.Millisecond {
					t.Errorf("%d messages passed within %v, want 10, a quarter of 40", echoes, d)
				}
				if s := e.g.Stats().Shared; s.LocalDecisions < 20 || s.ClosedDecisions != 0 {
					t.Errorf("%+v", s)
				}
				calls := s.calls.Load()
				for range 100 {
					sayAll(t, c, 1)
					time.Sleep(50 * time.Millisecond)
				}
				if n := s.calls.Load() - calls; n < 5 || n > 20 {
					t.Errorf("asked %d times within 5 seconds", n)
				}
				s.does(nil)
				time.Sleep(time.Second)
				sayAll(t, c, 1) // finds that the store answers
				time.Sleep(time.Second)
				sayAll(t, c, 1)
				if echoes, _ := sayAll(t, c, 60); echoes < 25 || echoes > 30 {
					t.Errorf("%d messages passed afterwards, want 30 without what the store has given in vain", echoes)
				}
			})
		})
	}
}

// A store that never returns holds each message up once at most, and keeps no Shutdown waiting.
func TestSharedStoreStuck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, release := &sharedStore{}, make(chan struct{})
		defer close(release)
		e := serveGuard(t, sharedConf(s, wsguard.Rate{PerSecond: 100, Burst: 100}, func(cfg *wsguard.Config) { cfg.Rates.Action = wsguard.ActionClose }))
		s.does(func(context.Context) error { <-release; return nil })
		for i := range 100 {
			c := e.open(bearer(fmt.Sprint("user", i)))
			begin := time.Now()
			if echoes, _ := sayAll(t, c, 3); echoes != 3 || time.Since(begin) > 50*time.Millisecond {
				t.Errorf("%d of 3 messages passed after %v", echoes, time.Since(begin))
			}
			c.Close()
		}
		begin := time.Now()
		if err := e.g.Shutdown(context.Background()); err != nil || time.Since(begin) > time.Second {
			t.Errorf("Shutdown: %v after %v", err, time.Since(begin))
		}
	})
}

// RatesFailClosed refuses messages while the store is gone.
func TestSharedRatesFailClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sharedStore{}
		e := serveGuard(t, sharedConf(s, wsguard.Rate{PerSecond: 100, Burst: 40}, func(cfg *wsguard.Config) { cfg.Shared.RatesFailClosed = true }))
		c := e.open(bearer("alice"))
		time.Sleep(time.Second) // the tokens that the handshake has taken lapse
		s.does(gone)
		if echoes, _ := sayAll(t, c, 10); echoes != 0 {
			t.Errorf("%d messages passed", echoes)
		}
		if s := e.g.Stats().Shared; s.LocalDecisions != 0 || s.ClosedDecisions < 10 {
			t.Errorf("%+v", s)
		}
		s.does(nil)
		for range 3 {
			time.Sleep(time.Second)
			sayAll(t, c, 1)
		}
		if echoes, _ := sayAll(t, c, 10); echoes != 10 {
			t.Errorf("%d messages passed afterwards", echoes)
		}
	})
}

// A message of the largest size is possible with a part of the limits.
func TestSharedStoreGoneLarge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sharedStore{}
		e := serveGuard(t, sharedConf(s, wsguard.Rate{PerSecond: wsguard.Off}, func(cfg *wsguard.Config) {
			cfg.Messages.MaxBytes, cfg.Rates.SubjectBytes = 1000, wsguard.Rate{PerSecond: 100, Burst: 1000}
		}))
		wsguard.CountInstances(e.g, 10)
		s.does(gone)
		c := e.open(bearer("alice"))
		c.WriteFrame(wstest.Text(strings.Repeat("x", 1000)))
		if _, p, err := c.ReadMessage(); err != nil || len(p) != 1000 {
			t.Errorf("%q %v", p, err)
		}
	})
}

// A message that needs more than a lease has gets its tokens, also if it must wait for them.
func TestSharedLargeMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sharedStore{}
		e := serveGuard(t, sharedConf(s, wsguard.Rate{PerSecond: wsguard.Off}, func(cfg *wsguard.Config) {
			cfg.Messages.MaxBytes, cfg.Rates.SubjectBytes = 1000, wsguard.Rate{PerSecond: 1000, Burst: 1000}
			cfg.Rates.Action = wsguard.ActionDelay
		}))
		c := e.open(bearer("alice"))
		begin := time.Now()
		for range 3 {
			c.WriteFrame(wstest.Text(strings.Repeat("x", 1000)))
			if _, p, err := c.ReadMessage(); err != nil || len(p) != 1000 {
				t.Fatalf("%q %v", p, err)
			}
		}
		if d := time.Since(begin); d < 2*time.Second || d > 2200*time.Millisecond {
			t.Errorf("3 messages passed within %v, want 2s", d)
		}
	})
}

// Reconfigure puts new limits in force with the next message, and what is owed stays owed.
func TestSharedReconfigure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sharedStore{}
		cfg := sharedConf(s, wsguard.Rate{PerSecond: never, Burst: 10})
		cfg.Origins = []string{appOrigin}
		e := serveGuard(t, cfg)
		c := e.open(bearer("alice"))
		if echoes, _ := sayAll(t, c, 12); echoes != 10 {
			t.Errorf("%d messages passed, want 10", echoes)
		}
		cfg.Rates.SubjectMessages.Burst = 15
		e.reconfigure(cfg)
		if echoes, _ := sayAll(t, c, 10); echoes != 5 {
			t.Errorf("%d further messages passed, want 5", echoes)
		}
		cfg.Rates.SubjectMessages = wsguard.Rate{PerSecond: wsguard.Off}
		e.reconfigure(cfg)
		if echoes, _ := sayAll(t, c, 30); echoes != 30 {
			t.Errorf("%d messages passed without a limit", echoes)
		}
		synctest.Wait() // the last refill gives its lease up after it has woken the message
		if n := wsguard.Leases(e.g); n != 0 {
			t.Errorf("%d leases without a limit", n)
		}
	})
}

// An anonymous connection that becomes somebody's spends from that subject's lease.
func TestSharedBecome(t *testing.T) {
	s := &sharedStore{}
	firstServe(t, func(cfg *wsguard.Config) {
		becomeConfig(cfg)
		noRates(cfg)
		cfg.Rates.SubjectMessages = wsguard.Rate{PerSecond: never, Burst: 5}
		cfg.Shared = wsguard.SharedConfig{Rates: s, Admitter: s}
	}, becoming, func(e *firstEnv) {
		c := e.dial()
		firstSay(c, "be alice s1 1h")
		firstWant(e.t, c, "ok")
		for range 5 {
			firstSay(c, "who")
			if _, _, err := c.ReadMessage(); err != nil {
				e.t.Error(err)
			}
		}
		firstSay(c, "who")
		firstClosed(e.t, c, 1008, "rate_limited")
		if n, _, err := s.MemoryRates.TakeTokens(context.Background(), store.Take{Key: "messages/subject/alice", Limit: store.Limit{PerSecond: never, Burst: 5}, Most: 5}); n != 0 || err != nil {
			e.t.Errorf("%d tokens left: %v", n, err)
		}
	})
}

// Nothing is left of connections that have ended, and of a Guard that has shut down.
func TestSharedNothingLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sharedStore{}
		e := serveGuard(t, sharedConf(s, wsguard.Rate{PerSecond: 100, Burst: 100}, func(cfg *wsguard.Config) {
			cfg.Rates.ClientMessages = wsguard.Rate{PerSecond: 100, Burst: 100}
		}))
		var clients []*wstest.Client
		for i := range 10 {
			c := e.open(bearer(fmt.Sprint("user", i/2)))
			clients = append(clients, c)
			sayAll(t, c, 3)
		}
		if n := wsguard.Leases(e.g); n != 6 {
			t.Errorf("%d leases of 5 subjects and a client", n)
		}
		for _, c := range clients {
			c.Close()
		}
		e.idle()
		time.Sleep(time.Second) // the tokens that the handshakes have taken lapse
		if n := wsguard.Leases(e.g); n != 0 {
			t.Errorf("%d leases are left", n)
		}
		if err := e.g.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// What a handshake has taken for the first messages is spent without another call.
func TestSharedFirstTakes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sharedStore{}
		e := serveGuard(t, sharedConf(s, wsguard.Rate{PerSecond: 100, Burst: 100}))
		if taken := wsguard.FirstTakes(e.g, "alice"); len(taken) != 1 || taken[0] != 4 {
			t.Errorf("taken %d, want 4", taken)
		}
		if taken := wsguard.FirstTakes(e.g, "alice"); len(taken) != 0 {
			t.Errorf("taken %d again", taken)
		}
		c := e.open(bearer("alice"))
		calls := s.calls.Load()
		sayAll(t, c, 3)
		if n := s.calls.Load() - calls; n != 0 {
			t.Errorf("%d calls for the first messages", n)
		}
		c.Close()
		e.idle()
		time.Sleep(time.Second)
		if n := wsguard.Leases(e.g); n != 0 {
			t.Errorf("%d leases are left", n)
		}
	})
}

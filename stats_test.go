package wsguard_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// What Stats counts of handshakes, messages and ends.
func TestStats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) {
			cfg.Messages.Validator = must(wsguard.CompileSchema([]byte(`{"maximum":9}`)))
			cfg.Messages.OnInvalid = wsguard.ActionReply
			cfg.Caps.MaxConns, cfg.Timeouts.PingInterval, cfg.Timeouts.Idle = 3, 20*time.Second, time.Minute
		}))
		began := time.Now()
		if s := e.g.Stats(); !s.Since.Equal(began) || s.Open != 0 || s.In != (audit.Traffic{}) || s.SweeperLate != 0 || s.MessageBytes.Quantile(0.5) != 0 {
			t.Errorf("at first: %+v", s)
		}
		e.refused(header("Origin", "https://evil.test"), 403, "origin")
		e.refused(header("Origin", "https://evil.test"), 403, "origin")
		a, b, c := e.open(header()), e.open(header()), e.open(header())
		e.refused(header(), 503, "max_conns")
		roundTrip(t, a, "1")
		roundTrip(t, a, `"four"`)
		a.WriteFrame(wstest.Text("10"))
		wantMessage(t, a, `{"error":"invalid_message","reason":"schema","keyword":"#/maximum"}`)

		synctest.Wait() // the answers are counted
		s := e.g.Stats()
		if s.Open != 3 || s.Slots != 3 || s.HandshakesAccepted != 3 || s.InFlight != 0 || s.Draining {
			t.Errorf("open: %+v", s)
		}
		if fmt.Sprint(s.HandshakesRefused) != "map[max_conns:1 origin:2]" || s.HandshakeSeconds.Count != 6 {
			t.Errorf("refused: %v; %+v", s.HandshakesRefused, s.HandshakeSeconds)
		}
		if s.In != (audit.Traffic{Messages: 2, Bytes: 7}) || s.Out != s.In || s.MessageBytes.Count != 2 || s.MessageBytes.Sum != 7 || s.MessageBytes.AtMost(1) != 1 || s.MessageBytes.Quantile(1) != 6 {
			t.Errorf("messages: in %v, out %v, sizes %+v", s.In, s.Out, s.MessageBytes)
		}
		if fmt.Sprint(s.Violations) != "map[{schema reply}:1]" {
			t.Errorf("violations: %v", s.Violations)
		}
		if l := s.Limits[0]; l != (audit.Limit{Name: "Caps.MaxConns", Max: 3, Used: 3}) {
			t.Errorf("limits: %+v", s.Limits)
		}

		a.WriteFrame(wstest.CloseFrame(4321, "done"))
		a.ReadClose()
		b.Close()
		time.Sleep(25 * time.Second) // c gets a ping
		if f, err := c.ReadFrame(); err != nil || f.Opcode != wstest.OpPing {
			t.Fatalf("%+v %v", f, err)
		} else {
			time.Sleep(3 * time.Second)
			c.WriteFrame(wstest.Pong(f.Payload))
		}
		time.Sleep(time.Second)
		if s = e.g.Stats(); s.PingSeconds.Count != 1 || s.PingSeconds.Sum < 3 || s.PingSeconds.Sum > 10 {
			t.Errorf("pings: %+v", s.PingSeconds)
		}
		if s.SweeperLate > 200*time.Millisecond {
			t.Errorf("the sweeper is late by %v", s.SweeperLate)
		}
		c.Timeout = time.Hour
		for {
			if f, err := c.ReadFrame(); err != nil || f.Opcode == wstest.OpClose {
				break
			} else if f.Opcode == wstest.OpPing {
				c.WriteFrame(wstest.Pong(f.Payload))
			}
		}
		e.idle()
		s = e.g.Stats()
		want := map[audit.Closing]uint64{
			{Reason: "peer_closed", By: audit.ByPeer}:                    1,
			{Reason: "connection_lost", By: audit.ByNetwork, Code: 1006}: 1,
			{Reason: "idle", By: audit.ByGuard, Code: 3008}:              1,
		}
		if fmt.Sprint(s.Closed) != fmt.Sprint(want) || s.Open != 0 || s.ConnectionSeconds.Count != 3 || s.ConnectionSeconds.Quantile(1) < 60 {
			t.Errorf("closed: %v; %+v", s.Closed, s.ConnectionSeconds)
		}
	})
}

// Who has ended a connection.
func TestStatsParties(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(e *env, c *wstest.Client)
		want audit.Closing
	}{
		{"kick", func(e *env, c *wstest.Client) { e.kick(0, "") }, audit.Closing{Reason: "kicked", By: audit.ByOperator, Code: 3003}},
		{"kick with a code", func(e *env, c *wstest.Client) { e.kick(4444, "") }, audit.Closing{Reason: "kicked", By: audit.ByOperator}},
		{"revoke", func(e *env, c *wstest.Client) { e.g.Admin().Revoke("alice") }, audit.Closing{Reason: "revoked", By: audit.ByOperator, Code: 3000}},
		{"application", func(e *env, c *wstest.Client) { c.WriteFrame(wstest.Text("close")) }, audit.Closing{Reason: "closed", By: audit.ByApplication}},
		{"return", func(e *env, c *wstest.Client) { c.WriteFrame(wstest.Text("return")) }, audit.Closing{By: audit.ByApplication, Code: 1000}},
		{"error", func(e *env, c *wstest.Client) { c.WriteFrame(wstest.Text("error")) }, audit.Closing{Reason: "internal_error", By: audit.ByApplication, Code: 1011}},
		{"panic", func(e *env, c *wstest.Client) { c.WriteFrame(wstest.Text("panic")) }, audit.Closing{Reason: "internal_error", By: audit.ByGuard, Code: 1011}},
		{"binary", func(e *env, c *wstest.Client) { c.WriteFrame(wstest.Binary([]byte("x"))) }, audit.Closing{Reason: "message_type", By: audit.ByGuard, Code: 1003}},
		{"peer", func(e *env, c *wstest.Client) { c.WriteFrame(wstest.CloseFrame(1001, "")) }, audit.Closing{Reason: "peer_closed", By: audit.ByPeer, Code: 1001}},
		{"lost", func(e *env, c *wstest.Client) { c.Close() }, audit.Closing{Reason: "connection_lost", By: audit.ByNetwork, Code: 1006}},
		{"shutdown", func(e *env, c *wstest.Client) { go e.g.Shutdown(context.Background()) }, audit.Closing{Reason: "draining", By: audit.ByGuard, Code: 1012}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveWith(t, conf(anyToken), func(g *wsguard.Guard) http.Handler {
					return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
						_, msg, err := c.Read(ctx)
						switch string(msg) {
						case "close":
							c.Close(4999, "")
						case "panic":
							panic("x")
						case "error":
							return fmt.Errorf("x")
						}
						return err
					})
				})
				c := e.open(bearer("alice"))
				e.opened()
				tt.end(e, c)
				ev := e.closed()
				if got := e.g.Stats().Closed; len(got) != 1 || got[tt.want] != 1 || ev.By != tt.want.By {
					t.Errorf("%+v, want %+v; the event says %q", got, tt.want, ev.By)
				}
			})
		})
	}
}

// The queues, what they drop, and the notices that are left out.
func TestStatsQueues(t *testing.T) {
	bubble(t, func(t *testing.T) {
		full := make(chan struct{})
		e := serveWith(t, conf(noPings, func(cfg *wsguard.Config) {
			cfg.Send.MaxMessages, cfg.Send.MaxBytes, cfg.Send.DropNewest = 4, 2<<20, true
			cfg.Timeouts.Write = time.Hour
		}), func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				c.Send(wsguard.MessageText, make([]byte, 1<<20)) // the pipe does not take it
				time.Sleep(time.Second)
				for range 5 {
					c.Send(wsguard.MessageText, []byte("hello"))
				}
				close(full)
				<-ctx.Done()
				return nil
			})
		})
		c := e.open(header())
		<-full
		synctest.Wait()
		s := e.g.Stats()
		if s.QueuedMessages != 4 || s.QueuedBytes < 1<<20 || s.QueueDropped != 2 {
			t.Errorf("%d messages with %d bytes queued, %d dropped", s.QueuedMessages, s.QueuedBytes, s.QueueDropped)
		}
		c.Close()
		e.closed()
		e.idle()
		synctest.Wait()
		if s = e.g.Stats(); s.QueuedMessages != 0 || s.QueuedBytes != 0 || s.QueueDropped != 6 {
			t.Errorf("after the end: %d messages with %d bytes queued, %d dropped", s.QueuedMessages, s.QueuedBytes, s.QueueDropped)
		}
	})
}

// What Guards with one State share, and what each counts for itself.
func TestStatsState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := conf(func(cfg *wsguard.Config) {
			cfg.State = wsguard.NewState()
			cfg.Auth = wsguard.AuthConfig{Verifier: newTokens().Verify, Tickets: &wsguard.TicketConfig{}, Failures: wsguard.Rate{PerSecond: never, Burst: 2}}
		})
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/", echoDoor(g))
			mux.Handle("POST /ticket", g.TicketHandler(nil))
			return mux
		})
		other := newEnv(t, cfg)
		a := e.g.Admin()
		a.Revoke("bob")
		a.SignOut("login")
		if err := a.Ban("203.0.113.7", time.Hour, "x"); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			e.try(bearer(fmt.Sprint("wrong", i)))
		}
		for i, s := range []audit.Snapshot{e.g.Stats(), other.g.Stats()} {
			if s.Bans != 1 || s.Revocations != 2 || s.Tables["failures"].Tracked == 0 || s.Tables["failures"].Penalised == 0 || len(s.Tables) != 7 {
				t.Errorf("%d: %d bans, %d revocations, tables %+v", i, s.Bans, s.Revocations, s.Tables)
			}
			if own := i == 0; (s.Banned == 1) != own || (s.Revoked == 2) != own || (len(s.HandshakesRefused) > 0) != own {
				t.Errorf("%d: %+v", i, s)
			}
		}
		time.Sleep(2 * time.Hour)
		if s := e.g.Stats(); s.Bans != 0 {
			t.Errorf("%d bans are in force", s.Bans)
		}
	})
}

// A peer, a page and an application cannot make the number of figures grow without bound.
func TestStatsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveWith(t, conf(noHandshakeLimits), func(g *wsguard.Guard) http.Handler {
			n := 0
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				if _, _, err := c.Read(ctx); err != nil {
					return err
				}
				n++
				return reason.New(fmt.Sprintf("own_%d", n), "own", 4000)
			})
		})
		for i := range 200 {
			e.refused(header("Origin", fmt.Sprintf("https://%d.test", i)), 403, "origin")
			c := e.open(header())
			c.WriteFrame(wstest.CloseFrame(4000+i, strings.Repeat("x", i%100)))
			c.ReadClose()
			c = e.open(header())
			c.WriteFrame(wstest.Text("x"))
			c.ReadClose()
		}
		e.idle()
		e.events.wait(t, audit.Close, 400)
		s := e.g.Stats()
		if len(s.HandshakesRefused) != 1 || s.HandshakesRefused["origin"] != 200 {
			t.Errorf("%v", s.HandshakesRefused)
		}
		if n := s.Closed[audit.Closing{Reason: "other", By: audit.ByApplication}]; n != 200-64 || len(s.Closed) != 64+2 {
			t.Errorf("%d others, %d kinds of ends: %v", n, len(s.Closed), s.Closed)
		}
	})
}

// BenchmarkStats shows that the cost does not depend on the number of connections.
func BenchmarkStats(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e := newEnv(b, conf(noHandshakeLimits, noPings, func(cfg *wsguard.Config) {
				cfg.Caps.MaxConns, cfg.Caps.MaxUsersPerClient, cfg.Caps.MaxUnauthenticated = wsguard.Off, wsguard.Off, wsguard.Off
			}))
			wait := e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error { <-ctx.Done(); return nil })
			e.serveOn(wstest.NewListener(wstest.PipeOptions{}), wait)
			for range n {
				e.open(header())
			}
			for b.Loop() {
				e.g.Stats()
			}
		})
	}
}

package wsguard_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// nextPing reads a frame and fails the test unless it is a ping.
func nextPing(t *testing.T, c *wstest.Client) (payload []byte, at time.Time) {
	t.Helper()
	f, err := c.ReadFrame()
	if err != nil || f.Opcode != wstest.OpPing {
		t.Fatalf("%+v, %v; want a ping", f, err)
	}
	return f.Payload, time.Now()
}

func wantBetween(t *testing.T, what string, d, least, most time.Duration) {
	t.Helper()
	if d < least || d > most {
		t.Errorf("%s after %v, want %v to %v", what, d, least, most)
	}
}

// clockTick is what the guard may be late: its clock has no zero, and at a deadline it looks for
// what has come, which takes a millisecond where the net.Conn is no socket.
const clockTick = time.Millisecond + 2*time.Nanosecond

// pongWait is how long the guard waits for a pong. It does not see the socket in a bubble.
const pongWait = 10*time.Second + 4*time.Second

const pingInterval, pingJitter = 25 * time.Second, 2500 * time.Millisecond

func TestPingAndPongTimeout(t *testing.T) {
	intervals := map[time.Duration]bool{}
	for range 8 {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, wsguard.Config{})
			c := e.open(header())
			last := time.Now()
			for range 3 {
				p, at := nextPing(t, c)
				intervals[at.Sub(last)] = true
				wantBetween(t, "ping", at.Sub(last), pingInterval-pingJitter, pingInterval+pingJitter)
				last = at
				time.Sleep(9999 * time.Millisecond)
				c.WriteFrame(wstest.Pong(p))
			}
			_, at := nextPing(t, c)
			wantClose(t, c, 3008, "pong_timeout")
			wantBetween(t, "pong timeout", time.Since(at), pongWait, pongWait+clockTick)
			if ev := e.closed(); !errors.Is(ev.Err, reason.PongTimeout) || ev.Remote {
				t.Errorf("%v", ev.Err)
			}
		})
	}
	if len(intervals) < 12 {
		t.Errorf("24 intervals, %d different ones: no jitter?", len(intervals))
	}
}

// Any whole frame that comes after the ping is a sign of life.
func TestSignsOfLife(t *testing.T) {
	for name, answer := range map[string]func(p []byte) wstest.Frame{
		"pong":           wstest.Pong,
		"empty pong":     func([]byte) wstest.Frame { return wstest.Pong(nil) },
		"other pong":     func(p []byte) wstest.Frame { return wstest.Pong(append([]byte{p[0] ^ 1}, p[1:]...)) },
		"ping":           func([]byte) wstest.Frame { return wstest.Ping(nil) },
		"message":        func([]byte) wstest.Frame { return wstest.Text("hello") },
		"empty message":  func([]byte) wstest.Frame { return wstest.Text("") },
		"binary message": func([]byte) wstest.Frame { return wstest.Binary([]byte("hello")) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(func(cfg *wsguard.Config) { cfg.Messages.Binary = true }))
				c := e.open(header())
				c.Timeout = time.Minute
				var last time.Time
				for range 4 {
					f, err := c.ReadFrame()
					for err == nil && f.Opcode != wstest.OpPing { // an answer
						f, err = c.ReadFrame()
					}
					if err != nil {
						t.Fatal(err)
					}
					if len(f.Payload) < 8 {
						t.Errorf("a ping of %d bytes can be guessed", len(f.Payload))
					}
					last = time.Now()
					time.Sleep(9 * time.Second)
					c.WriteFrame(answer(f.Payload))
				}
				for {
					f, err := c.ReadFrame()
					if err != nil {
						t.Fatal(err)
					}
					if f.Opcode == wstest.OpPing {
						last = time.Now()
					}
					if f.Opcode == wstest.OpClose {
						break
					}
				}
				wantBetween(t, "pong timeout", time.Since(last), pongWait, pongWait+clockTick)
			})
		})
	}
}

// Neither half a frame nor what has come before the ping is a sign of life.
func TestNoSignsOfLife(t *testing.T) {
	for name, before := range map[string]bool{"half a frame": false, "a message before the ping": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				work := make(chan struct{})
				e := serveWith(t, conf(), func(g *wsguard.Guard) http.Handler {
					return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
						for {
							if _, _, err := c.Read(ctx); err != nil {
								return err
							}
							<-work
						}
					})
				})
				c := e.open(header())
				c.Timeout = time.Minute
				c.Write(append(wstest.AppendFrame(nil, wstest.Text("a")), wstest.AppendFrame(nil, wstest.Text("b"))...))
				if !before {
					close(work)
				}
				nextPing(t, c)
				want := "pong_timeout"
				if before {
					close(work) // the second message is read now, and has come before
				} else {
					want = "message_timeout"
					c.Write(wstest.AppendFrame(nil, wstest.Text("c"))[:3])
				}
				for {
					f, err := c.ReadFrame()
					if err != nil {
						t.Fatal(err)
					}
					if f.Opcode == wstest.OpClose {
						if got := string(f.Payload[2:]); got != want {
							t.Errorf("closed with %s, want %s", got, want)
						}
						return
					}
				}
			})
		})
	}
}

// A peer that was in the middle of a message when its pong was due sends it
// right behind.
func TestPongBehindSlowMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{})
		c := e.open(header())
		p, _ := nextPing(t, c)
		b := wstest.AppendFrame(nil, wstest.Text("hello"))
		time.Sleep(5 * time.Second)
		c.Write(b[:8])
		time.Sleep(6 * time.Second)
		c.Write(b[8:])
		time.Sleep(time.Millisecond)
		c.WriteFrame(wstest.Pong(p))
		wantMessage(t, c, "hello")
		nextPing(t, c) // and not the close frame
	})
}

func TestIdle(t *testing.T) {
	const idle = 5 * time.Minute
	tests := []struct {
		name    string
		handler func(context.Context, *wsguard.Conn) error
		client  func(*wstest.Client)
		want    time.Duration
	}{
		{"pongs only", echo, nil, idle},
		{"unsolicited pongs", echo, func(c *wstest.Client) {
			for range 100 {
				time.Sleep(20 * time.Second)
				if c.WriteFrame(wstest.Pong([]byte("here"))) != nil {
					return
				}
			}
		}, idle},
		{"pings of the peer's", echo, func(c *wstest.Client) {
			for range 100 {
				time.Sleep(20 * time.Second)
				if c.WriteFrame(wstest.Ping([]byte("here"))) != nil {
					return
				}
			}
		}, idle},
		{"a message of the peer's", echo, func(c *wstest.Client) {
			time.Sleep(2 * time.Minute)
			c.WriteFrame(wstest.Text("x"))
		}, idle + 2*time.Minute},
		{"a message just in time", echo, func(c *wstest.Client) {
			time.Sleep(idle - 1)
			c.WriteFrame(wstest.Text("x"))
		}, 2*idle - 1},
		{"a message of the application's", func(ctx context.Context, c *wsguard.Conn) error {
			time.AfterFunc(3*time.Minute, func() { c.Write(ctx, wsguard.MessageText, []byte("x")) })
			return echo(ctx, c)
		}, nil, idle + 3*time.Minute},
		{"Send", func(ctx context.Context, c *wsguard.Conn) error {
			time.AfterFunc(3*time.Minute, func() { c.Send(wsguard.MessageText, []byte("x")) })
			return echo(ctx, c)
		}, nil, idle + 3*time.Minute},
		{"CloseRead", func(ctx context.Context, c *wsguard.Conn) error { c.CloseRead(); <-ctx.Done(); return nil }, nil, idle},
		{"polling", func(ctx context.Context, c *wsguard.Conn) error {
			for {
				rctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				_, _, err := c.Read(rctx)
				cancel()
				if err != nil && err != context.DeadlineExceeded {
					return err
				}
			}
		}, nil, idle},
		{"the application thinks", func(ctx context.Context, c *wsguard.Conn) error {
			_, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			time.Sleep(10 * time.Minute)
			if err := c.Write(ctx, wsguard.MessageText, msg); err != nil {
				return err
			}
			time.Sleep(10 * time.Minute)
			return echo(ctx, c)
		}, func(c *wstest.Client) { c.WriteFrame(wstest.Text("x")) }, 20*time.Minute + idle},
		{"half a message", echo, func(c *wstest.Client) {
			time.Sleep(idle - 5*time.Second)
			c.Write([]byte("\x81\x85\x00\x00\x00\x00h")) // the message's own deadline
		}, idle + 5*time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					if tt.name == "half a message" {
						cfg.Timeouts.PingInterval = wsguard.Off // its pong would be payload
					}
				}))
				e.serve(e.g.Handler(tt.handler))
				c := e.open(header())
				start := time.Now()
				answer := browse(c)
				if tt.client != nil {
					go tt.client(c)
				}
				a := <-answer
				want, reason := 3008, "idle"
				if tt.name == "half a message" {
					want, reason = 1008, "message_timeout"
				}
				if a.code != want || a.reason != reason {
					t.Errorf("%d %q", a.code, a.reason)
				}
				wantBetween(t, "closed", a.codedAt.Sub(start), tt.want, tt.want+clockTick)
				e.closed()
			})
		})
	}
}

// Ten minutes of thought are no missed pong, whoever sent the ping, and the
// peer is told all the while that somebody is there.
func TestProcessingIsNoMissedPong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for range 3 {
				typ, msg, err := c.Read(ctx)
				if err != nil {
					return err
				}
				time.Sleep(10 * time.Minute)
				if err := c.Write(ctx, typ, msg); err != nil {
					return err
				}
			}
			return nil
		}))
		c := e.open(header())
		start := time.Now()
		answer := browse(c)
		for range 3 {
			c.WriteFrame(wstest.Text("x"))
		}
		a := <-answer
		if a.code != 1000 || len(a.texts) != 3 || a.codedAt.Sub(start) != 30*time.Minute {
			t.Errorf("%d, %d messages, after %v", a.code, len(a.texts), a.codedAt.Sub(start))
		}
		if n := len(a.pings); n < 30 || n > 80 {
			t.Errorf("%d pings in half an hour", n)
		}
	})
}

// While nobody reads, the sweeper pings, and sees a peer that is gone.
func TestSweeperPings(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error { <-ctx.Done(); return nil }))
		c := e.open(header())
		start := time.Now()
		var last time.Time
		for i := range 20 {
			_, at := nextPing(t, c)
			if i > 0 {
				wantBetween(t, "ping", at.Sub(last), pingInterval-pingJitter, 2*pingInterval)
			} else {
				wantBetween(t, "first ping", at.Sub(start), pingInterval-pingJitter, 2*pingInterval)
			}
			last = at
		}
		c.Conn().(*wstest.PipeConn).Reset()
		start = time.Now()
		if ev := e.closed(); !errors.Is(ev.Err, reason.ConnectionLost) || time.Since(start) > 2*pingInterval {
			t.Errorf("a peer that is gone was noticed after %v: %v", time.Since(start), ev.Err)
		}
	})
}

// The same for a peer that is there and takes nothing.
func TestSweeperWatchesWrites(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		e.serveOn(wstest.NewListener(wstest.PipeOptions{BufferBytes: 256}), e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error { <-ctx.Done(); return nil }))
		c := e.open(header())
		wstest.KeepAlive(t, c)
		start := time.Now()
		ev := e.closed()
		if d := time.Since(start); d > 20*time.Minute {
			t.Errorf("a peer that takes no ping was noticed after %v: %v", d, ev.Err)
		}
	})
}

func TestLifetime(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{} // four of 43,200 ticks of the sweeper
	for _, reads := range []bool{true, false} {
		for range 2 {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(func(cfg *wsguard.Config) { cfg.Timeouts.Idle = wsguard.Off }))
				e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					if reads {
						return echo(ctx, c)
					}
					<-ctx.Done()
					return nil
				}))
				c := e.open(header())
				start := time.Now()
				a := <-browse(c)
				if a.code != 1001 || a.reason != "lifetime" {
					t.Errorf("%d %q", a.code, a.reason)
				}
				d := a.codedAt.Sub(start)
				seen[d] = true
				wantBetween(t, "lifetime", d, 12*time.Hour-72*time.Minute, 12*time.Hour+72*time.Minute+250*time.Millisecond)
				e.closed()
			})
		}
	}
	if len(seen) < 2 {
		t.Errorf("no jitter: %v", seen)
	}
}

// A credential's expiry ends the connection at once, whatever the application
// does and whatever else is due.
func TestExpiry(t *testing.T) {
	for name, handler := range map[string]func(context.Context, *wsguard.Conn) error{
		"reads": echo,
		"never reads": func(ctx context.Context, c *wsguard.Conn) error {
			<-ctx.Done()
			return nil
		},
		"is stuck in a write": func(ctx context.Context, c *wsguard.Conn) error {
			time.Sleep(1900 * time.Millisecond)
			return c.Write(ctx, wsguard.MessageText, make([]byte, 1<<20))
		},
	} {
		for _, off := range []bool{false, true} {
			for _, in := range []time.Duration{2 * time.Second, 7 * time.Minute} {
				if in > time.Minute && strings.Contains(name, "stuck") {
					continue
				}
				t.Run(name+", "+in.String(), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						e := newEnv(t, conf(func(cfg *wsguard.Config) {
							expiresIn(in)(cfg)
							cfg.Timeouts.Idle = wsguard.Off
							if off {
								cfg.Timeouts.PingInterval, cfg.Timeouts.Lifetime = wsguard.Off, wsguard.Off
							}
						}))
						ended := make(chan time.Time, 1)
						e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
							context.AfterFunc(ctx, func() { ended <- time.Now() })
							return handler(ctx, c)
						}))
						c := e.open(bearer("alice"))
						c.Timeout = time.Hour
						start := time.Now()
						if !strings.Contains(name, "stuck") {
							a := <-browse(c)
							if a.code != 3000 || a.reason != "expired" {
								t.Errorf("%d %q", a.code, a.reason)
							}
						}
						select {
						case at := <-ended:
							wantBetween(t, "expired", at.Sub(start), in, in+250*time.Millisecond)
						case <-time.After(time.Hour):
							t.Error("not ended an hour later")
							e.g.Admin().Kick(e.ids()[0], 0, "")
						}
						if ev := e.closed(); !errors.Is(ev.Err, reason.Expired) {
							t.Error(ev.Err)
						}
					})
				})
			}
		}
	}
}

// The message deadline runs from the first byte of the header, whatever comes.
func TestDribble(t *testing.T) {
	frame := string(wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 100))))
	ping := string(wstest.AppendFrame(nil, wstest.Ping([]byte("p"))))
	begun := string(fragment(wstest.OpText, false, []byte("a")))
	more := string(fragment(wstest.OpContinuation, false, []byte("a")))
	for name, send := range map[string]string{
		"payload":          frame,
		"header":           "\x81\xfe\x01\x00\x00\x00\x00\x00" + strings.Repeat("x", 100),
		"fragments":        begun + strings.Repeat(more, 60),
		"a control frame":  string(wstest.AppendFrame(nil, wstest.Ping(make([]byte, 120)))),
		"after a message":  frame,
		"pings in between": "PINGS",
		"pongs in a begun": begun + strings.Repeat(ping, 60),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(noPings))
				c := e.open(header())
				start := time.Now()
				if name == "after a message" {
					time.Sleep(time.Minute)
					roundTrip(t, c, "hello")
					time.Sleep(time.Minute)
					start = time.Now()
				}
				answer := browse(c)
				go func() {
					if send == "PINGS" {
						c.Write([]byte(begun))
						for range 60 {
							time.Sleep(time.Second)
							c.Write([]byte(ping))
						}
						return
					}
					for i := range len(send) {
						if _, err := c.Write([]byte(send[i : i+1])); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				}()
				a := <-answer
				if a.code != 1008 || a.reason != "message_timeout" {
					t.Errorf("%d %q", a.code, a.reason)
				}
				wantBetween(t, "closed", a.codedAt.Sub(start), 10*time.Second, 10*time.Second+clockTick)
				e.closed()
			})
		})
	}
}

// No Read ends the deadline, and each new message has its own.
func TestMessageDeadlineOverReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noPings))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for {
				rctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
				_, _, err := c.Read(rctx)
				cancel()
				if err != nil && err != context.DeadlineExceeded {
					return err
				}
			}
		}))
		c := e.open(header())
		b := wstest.AppendFrame(nil, wstest.Text("hello"))
		for range 5 { // 9 s each are allowed
			c.Write(b[:7])
			time.Sleep(9 * time.Second)
			c.Write(b[7:])
		}
		c.Write(b[:7])
		start := time.Now()
		a := <-browse(c)
		if a.code != 1008 || a.reason != "message_timeout" {
			t.Errorf("%d %q", a.code, a.reason)
		}
		wantBetween(t, "closed", a.codedAt.Sub(start), 10*time.Second, 10*time.Second+clockTick)
		e.closed()
	})
}

func TestReportIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(cfg *wsguard.Config) { cfg.Timeouts.ReportOnly = true }))
		c := e.open(header())
		done := browse(c)
		time.Sleep(16 * time.Minute)
		c.Close()
		<-done
		n := 0
		for _, ev := range e.events.of(audit.Violation) {
			if errors.Is(ev.Err, reason.Idle) && ev.Report {
				n++
			}
		}
		if n != 3 {
			t.Errorf("%d reports in 16 minutes", n)
		}
	})
}

// bubbled counts the goroutines of bubbles.
func bubbled() int {
	b := make([]byte, 1<<20)
	return strings.Count(string(b[:runtime.Stack(b, true)]), ", synctest bubble ")
}

// One goroutine per connection, one sweeper, and nothing when all are gone.
func TestGoroutinesPerConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) { cfg.Timeouts.Idle = wsguard.Off }))
		time.Sleep(time.Second)
		before := bubbled()
		const n = 50
		var clients []*wstest.Client
		for range n {
			c := e.open(header())
			clients = append(clients, c)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := bubbled() - before; got != n+1 {
			t.Errorf("%d goroutines for %d connections", got, n)
		}
		for _, c := range clients {
			c.Close()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := bubbled() - before; got != 0 {
			t.Errorf("%d goroutines are left", got)
		}
		c := e.open(header()) // the sweeper is back
		nextPing(t, c)
	})
}

// First-message authentication has its own deadline, whatever dribbles in.
func TestAuthTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(anyToken, func(cfg *wsguard.Config) {
			cfg.Auth.Sources = wsguard.TokenSources{FirstMessage: true}
		}))
		c := e.open(header())
		start := time.Now()
		a := <-browse(c)
		if a.code != 3008 || a.reason != "auth_timeout" {
			t.Errorf("%d %q", a.code, a.reason)
		}
		wantBetween(t, "auth timeout", a.codedAt.Sub(start), 10*time.Second, 10*time.Second+250*time.Millisecond)
		e.closed()
	})
}

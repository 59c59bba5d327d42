package wsguard_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// acceptDoors are the doors whose application runs in the handler of the request. Each calls
// run when it has a connection, and returns when run does.
func acceptDoors(g *wsguard.Guard, run func(*http.Request)) map[string]http.Handler {
	return map[string]http.Handler{
		"Accept": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := g.Accept(w, r)
			if err != nil {
				return
			}
			go func() { // reads until the peer leaves
				for {
					if _, _, err := c.Read(context.Background()); err != nil {
						return
					}
				}
			}()
			run(r)
		}),
		"Wrap": g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := hijack(w, r)
			if s.err != nil {
				return
			}
			io.WriteString(s.Conn, switching(r))
			go io.Copy(io.Discard, s.Conn)
			run(r)
		})),
	}
}

// A handler that runs on after the end of its connection holds the slot.
func TestSlotLastsUntilTheHandlerReturns(t *testing.T) {
	for _, door := range []string{"Accept", "Wrap"} {
		for name, in := range map[string]func(http.Handler) http.Handler{
			"plain": func(h http.Handler) http.Handler { return h },
			"a router that adds values": func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					type key struct{}
					h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
				})
			},
			"a router that adds a deadline": func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					ctx, cancel := context.WithTimeout(r.Context(), 1000*time.Hour)
					defer cancel()
					h.ServeHTTP(w, r.WithContext(ctx))
				})
			},
		} {
			t.Run(door+", "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					var running, most atomic.Int64
					release := make(chan struct{})
					e := newEnv(t, conf(noHandshakeLimits, noPings, func(cfg *wsguard.Config) { cfg.Caps.MaxConns = 4 }))
					e.serve(in(acceptDoors(e.g, func(*http.Request) {
						most.Store(max(most.Load(), running.Add(1)))
						defer running.Add(-1)
						<-release
					})[door]))
					admitted := 0
					for range 60 {
						c, res := e.try(header())
						if res.StatusCode == http.StatusSwitchingProtocols {
							admitted++
							c.WriteFrame(wstest.CloseFrame(1000, ""))
						}
						c.Close()
						time.Sleep(5 * time.Second) // the connection has ended, with its linger
					}
					if admitted != 4 || most.Load() != 4 || e.g.Conns() != 4 {
						t.Errorf("%d admitted, %d handlers at once, %d slots", admitted, most.Load(), e.g.Conns())
					}
					close(release)
					synctest.Wait()
					if e.g.Conns() != 0 {
						t.Errorf("%d slots held after the handlers have returned", e.g.Conns())
					}
					e.wantEachOnce()
				})
			})
		}
	}
}

// The slot also lasts as long as the connection does, and then ends with it.
func TestSlotLastsUntilTheConnectionEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noPings))
		e.serve(acceptDoors(e.g, func(*http.Request) {})["Accept"])
		wstest.KeepAlive(t, e.open(header())) // it answers no close frame
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		if e.g.Conns() != 1 {
			t.Error("no slot held while the connection ends")
		}
		time.Sleep(2 * time.Second)
		if ev := e.closed(); ev.Reason != "request_done" || e.g.Conns() != 0 {
			t.Errorf("%s, %d slots", ev.Reason, e.g.Conns())
		}
	})
}

// A context that cannot end is over with the connection.
func TestSlotOfContextWithoutDone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noPings))
		release := make(chan struct{})
		inner := acceptDoors(e.g, func(*http.Request) { <-release })["Accept"]
		e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
		}))
		bye(e.open(header()))
		e.closed()
		synctest.Wait()
		if e.g.Conns() != 0 {
			t.Errorf("%d slots held after the end", e.g.Conns())
		}
		close(release)
	})
}

// Shutdown waits for the handlers of both doors, and for one whose handshake has led to no
// connection.
func TestShutdownWaitsForHandlers(t *testing.T) {
	for _, door := range []string{"Accept", "Wrap", "Wrap, another answer"} {
		t.Run(door, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(noHandshakeLimits, noPings))
				work := func(*http.Request) { time.Sleep(time.Minute) }
				doors := acceptDoors(e.g, work)
				doors["Wrap, another answer"] = e.g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					s := hijack(w, r)
					io.WriteString(s.Conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
					s.Close()
					work(r)
				}))
				e.serve(doors[door])
				for range 3 {
					c, _ := e.try(header())
					browse(c)
				}
				synctest.Wait()
				var err error
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if d := within(func() { err = e.g.Shutdown(ctx) }); err != context.DeadlineExceeded || d > 1100*time.Millisecond {
					t.Errorf("with a second: %v after %v", err, d)
				}
				if d := within(func() { err = e.g.Shutdown(t.Context()) }); err != nil || d < 50*time.Second || d > time.Minute {
					t.Errorf("without a limit: %v after %v", err, d)
				}
				if e.g.Conns() != 0 {
					t.Errorf("%d slots", e.g.Conns())
				}
			})
		})
	}
}

// Shutdown returns with its context, whatever the application and the peers do.
func TestShutdownEndsWithItsContext(t *testing.T) {
	const n = 20
	hang := func() { time.Sleep(time.Minute) }
	for name, tt := range map[string]struct {
		cfg     func(*wsguard.Config)
		door    func(*wsguard.Guard) http.Handler
		message string
	}{
		"a Validator": {cfg: func(cfg *wsguard.Config) { cfg.Messages.Validator = judge(func([]byte) error { hang(); return nil }) }, message: "x"},
		"OnEvent": {cfg: func(cfg *wsguard.Config) {
			cfg.OnEvent = func(ev audit.Event) {
				if ev.Kind == audit.Close {
					hang()
				}
			}
		}},
		"an Accept":    {door: func(g *wsguard.Guard) http.Handler { return acceptDoors(g, func(*http.Request) { hang() })["Accept"] }},
		"a Wrap":       {door: func(g *wsguard.Guard) http.Handler { return acceptDoors(g, func(*http.Request) { hang() })["Wrap"] }},
		"silent peers": {},
		"a stuck writer": {door: func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				return c.Write(context.Background(), wsguard.MessageText, make([]byte, 1<<20))
			})
		}},
	} {
		for _, limit := range []time.Duration{0, 200 * time.Millisecond, 10 * time.Second} {
			t.Run(name+" "+limit.String(), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e := newEnv(t, conf(noHandshakeLimits, noPings, tt.cfg))
					door := echoDoor(e.g)
					if tt.door != nil {
						door = tt.door(e.g)
					}
					e.serve(door)
					for range n {
						c := e.open(header())
						wstest.KeepAlive(t, c)
						if tt.message != "" {
							c.WriteFrame(wstest.Text(tt.message))
						}
					}
					synctest.Wait()
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					var err error
					d := within(func() { err = e.g.Shutdown(ctx) })
					if err != nil && err != context.DeadlineExceeded || d > limit+100*time.Millisecond {
						t.Errorf("%v after %v", err, d)
					}
					time.Sleep(5 * time.Minute) // until nothing hangs any more
				})
			})
		}
	}
}

// stuckConn is a net.Conn of an application whose Close blocks.
type stuckConn struct {
	net.Conn
	stuck <-chan struct{}
}

func (c stuckConn) Close() error {
	<-c.stuck
	return c.Conn.Close()
}

type stuckWriter struct {
	http.ResponseWriter
	stuck <-chan struct{}
}

func (w stuckWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, brw, err := w.ResponseWriter.(http.Hijacker).Hijack()
	return stuckConn{c, w.stuck}, brw, err
}

// So it does while a net.Conn of the application blocks.
func TestShutdownEndsBeforeItsConns(t *testing.T) {
	wstest.CheckGoroutines(t)
	stuck := make(chan struct{})
	e := newEnv(t, conf(noHandshakeLimits, patient))
	h := echoDoor(e.g)
	e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(stuckWriter{w, stuck}, r) }))
	for range 5 {
		wstest.KeepAlive(t, e.open(header()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.g.Shutdown(ctx); err != context.Canceled || e.g.Conns() != 5 {
		t.Errorf("%v, %d slots", err, e.g.Conns())
	}
	close(stuck)
}

package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
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
)

func TestShutdown(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		g, ev := connGuard(t, nil)
		ev.patience = connPatience
		s := wstest.ServePipe(t, echoDoor(g))
		const n = 100
		var answers []<-chan connAnswer
		for range n {
			c := connDial(t, s, "")
			c.Timeout = connPatience
			answers = append(answers, connBrowse(c))
		}
		if g.Draining() {
			t.Error("draining already")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		synctest.Wait() // all are the guard's; a 101 comes before
		start := time.Now()
		var wg sync.WaitGroup
		for range 5 { // all of them wait for the same drain
			wg.Go(func() {
				if err := g.Shutdown(ctx); err != nil {
					t.Error(err)
				}
				if g.Conns() != 0 {
					t.Errorf("returned with %d slots held", g.Conns())
				}
			})
		}
		synctest.Wait()
		if !g.Draining() {
			t.Error("not draining")
		}
		c := s.Dial(t)
		res, err := c.Handshake("/", connHeader(""))
		if err != nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !res.Close {
			t.Errorf("handshake: %v %v", res, err)
		}
		wg.Wait()
		d := time.Since(start)
		connBetween(t, "drained", d, 3*time.Second, 5*time.Second)
		moments := map[time.Time]int{}
		for _, a := range answers {
			a := <-a
			if a.code != 1012 || a.reason != "draining" {
				t.Errorf("%d %q", a.code, a.reason)
			}
			moments[a.codedAt]++
		}
		for at, k := range moments {
			if k > 3 {
				t.Errorf("%d of %d closed at %v at once", k, n, at.Sub(start))
			}
		}
		if err := g.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		g.Shutdown(ended)
	})
}

// However many they are, they take most of the time that is theirs.
func TestShutdownPace(t *testing.T) {
	for _, n := range []int{30, 41, 42, 43, 83, 100} { // a half has room for 41 batches
		connBubble(t, func(t *testing.T) {
			g, _ := connGuard(t, nil)
			s := wstest.ServePipe(t, echoDoor(g))
			for range n {
				c := connDial(t, s, "")
				c.Timeout = connPatience
				connBrowse(c)
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			start := time.Now()
			if err := g.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
			connBetween(t, fmt.Sprint(n, " drained"), time.Since(start), 2500*time.Millisecond, 5*time.Second)
		})
	}
}

// A few go one by one, and do not take the whole time.
func TestShutdownOfFew(t *testing.T) {
	for _, n := range []int{1, 5} {
		connBubble(t, func(t *testing.T) {
			g, _ := connGuard(t, nil)
			s := wstest.ServePipe(t, echoDoor(g))
			var answers []<-chan connAnswer
			for range n {
				answers = append(answers, connBrowse(connDial(t, s, "")))
			}
			synctest.Wait()
			start := time.Now()
			if err := g.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			connBetween(t, "drained", time.Since(start), time.Duration(n-1)*80*time.Millisecond, time.Duration(n-1)*120*time.Millisecond)
			moments := map[time.Time]bool{}
			for _, a := range answers {
				moments[(<-a).codedAt] = true
			}
			if len(moments) != n {
				t.Errorf("%d went in %d batches", n, len(moments))
			}
		})
	}
}

// The time that Shutdown has may hold more batches than an int of 32 bits counts.
func TestShutdownWithinDecades(t *testing.T) {
	for _, years := range []time.Duration{1, 17, 30, 60, 100} {
		connBubble(t, func(t *testing.T) {
			g, _ := connGuard(t, nil)
			s := wstest.ServePipe(t, g.Handler(echo))
			for range 5 {
				connBrowse(connDial(t, s, ""))
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), years*365*24*time.Hour)
			defer cancel()
			start := time.Now()
			if err := g.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
			connBetween(t, fmt.Sprint("drained within ", int(years), " years"), time.Since(start), 320*time.Millisecond, 480*time.Millisecond)
		})
	}
}

func TestShutdownOfNobody(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		g, _ := connGuard(t, nil)
		start := time.Now()
		if err := g.Shutdown(context.Background()); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// Peers, and applications, that refuse to go.
func TestShutdownCuts(t *testing.T) {
	for name, handler := range map[string]func(context.Context, *wsguard.Conn) error{
		"peer": echo,
		"stuck writer": func(ctx context.Context, c *wsguard.Conn) error {
			return c.Write(ctx, wsguard.MessageText, make([]byte, 1<<20))
		},
		"application": func(ctx context.Context, c *wsguard.Conn) error { time.Sleep(time.Minute); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			connBubble(t, func(t *testing.T) {
				g, ev := connGuard(t, nil)
				ev.patience = connPatience
				s := wstest.ServePipe(t, g.Handler(handler))
				for range 40 {
					wstest.KeepAlive(t, connDial(t, s, ""))
				}
				const limit = 200 * time.Millisecond
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				defer cancel()
				second := make(chan time.Duration, 1)
				start := time.Now()
				go func() { g.Shutdown(context.Background()); second <- time.Since(start) }()
				synctest.Wait()
				err := g.Shutdown(ctx)
				d := time.Since(start)
				connBetween(t, "returned", d, limit, limit+time.Second)
				if err != context.DeadlineExceeded {
					t.Errorf("Shutdown: %v", err)
				}
				if name == "application" {
					if d := <-second; d != time.Minute {
						t.Errorf("the second call waited %v", d)
					}
				} else if d := <-second; d > limit+time.Second {
					t.Errorf("the second call waited %v", d)
				}
				if g.Conns() != 0 {
					t.Errorf("%d slots", g.Conns())
				}
				for _, e := range ev.of(audit.Close) {
					if e.Code != 1012 || !errors.Is(e.Err, reason.Draining) {
						t.Errorf("%d %v", e.Code, e.Err)
					}
				}
				connOnce(t, ev)
			})
		})
	}
}

// A handshake that races with Shutdown never survives it.
func TestShutdownRacesHandshake(t *testing.T) {
	wstest.CheckGoroutines(t)
	rounds := 60
	if testing.Short() {
		rounds = 2
	}
	survived := 0
	for range rounds {
		g, ev := connGuard(t, func(cfg *wsguard.Config) {
			connPatient(cfg)
			cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { runtime.Gosched(); return nil, nil }
		})
		s := wstest.Serve(t, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			<-ctx.Done()
			return nil
		}))
		var clients []*wstest.Client
		for range 6 {
			clients = append(clients, s.Dial(t))
		}
		var wg sync.WaitGroup
		var accepted atomic.Int32
		for i, c := range clients {
			wg.Go(func() {
				res, err := c.Handshake("/", connHeader(""))
				if err != nil {
					t.Error(err)
					return
				}
				if res.StatusCode == 101 {
					accepted.Add(1)
					if code, _, err := c.ReadClose(); err != nil || code != 1012 {
						t.Errorf("client %d: %d %v", i, code, err)
					}
				} else if res.StatusCode != 503 {
					t.Errorf("status %d", res.StatusCode)
				}
				c.Close()
			})
		}
		time.Sleep(rand.N(time.Millisecond))
		if err := g.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		connGone(t, g)
		connOnce(t, ev)
		survived += int(accepted.Load())
		s.Close()
	}
	t.Logf("%d handshakes of %d were accepted and closed", survived, 6*rounds)
}

type connValue struct{ closed *atomic.Int32 }

func (v connValue) Close() error { v.closed.Add(1); return nil }

func TestAccept(t *testing.T) {
	tests := []struct {
		name   string
		loop   func(*http.Request, *wsguard.Conn)
		code   int
		reason string
		is     error
	}{
		{"still open when the request ends", func(*http.Request, *wsguard.Conn) {}, 1001, "request_done", reason.RequestDone},
		{"End(nil)", func(_ *http.Request, c *wsguard.Conn) { c.End(nil) }, 1000, "", reason.HandlerDone},
		{"End(error)", func(_ *http.Request, c *wsguard.Conn) { c.End(io.ErrShortWrite) }, 1011, "internal_error", reason.Internal},
		{"End(CloseError)", func(_ *http.Request, c *wsguard.Conn) {
			c.End(fmt.Errorf("x: %w", &wsguard.CloseError{Code: 4004, Reason: "r"}))
		}, 4004, "r", reason.Closed},
		{"End twice", func(_ *http.Request, c *wsguard.Conn) { c.End(nil); c.End(io.EOF) }, 1000, "", reason.HandlerDone},
		{"panics", func(*http.Request, *wsguard.Conn) { panic(http.ErrAbortHandler) }, 1001, "request_done", reason.RequestDone},
		{"kept by another goroutine", func(_ *http.Request, c *wsguard.Conn) { go c.Read(context.Background()) }, 1001, "request_done", reason.RequestDone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			connBubble(t, func(t *testing.T) {
				var closed atomic.Int32
				g, ev := connGuard(t, func(cfg *wsguard.Config) {
					cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return connValue{&closed}, nil }
				})
				ev.patience = connPatience
				s := wstest.ServePipe(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					c, err := g.Accept(w, r)
					if err != nil {
						t.Error(err)
						return
					}
					if _, ok := c.Value().(connValue); !ok {
						t.Errorf("Value is %v", c.Value())
					}
					tt.loop(r, c)
				}))
				c := connDial(t, s, "")
				a := <-connBrowse(c)
				if a.code != tt.code || a.reason != tt.reason {
					t.Errorf("%d %q", a.code, a.reason)
				}
				if e := ev.closed(); !errors.Is(e.Err, tt.is) {
					t.Error(e.Err)
				}
				synctest.Wait()
				if closed.Load() != 1 || g.Conns() != 0 {
					t.Errorf("Value closed %d times, %d slots", closed.Load(), g.Conns())
				}
			})
		})
	}
}

func TestAttachValueClosedOnce(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		var made, closed atomic.Int32
		g, ev := connGuard(t, func(cfg *wsguard.Config) {
			cfg.Attach = func(r *http.Request, _ wsguard.Principal) (any, error) {
				made.Add(1)
				v := connValue{&closed}
				if r.URL.Path == "/refused" {
					return v, errors.New("no")
				}
				return v, nil
			}
		})
		s := wstest.ServePipe(t, echoDoor(g))
		for i := range 60 {
			c := s.Dial(t)
			path := "/"
			if i%3 == 0 {
				path = "/refused"
			}
			res, err := c.Handshake(path, connHeader(""))
			if err != nil || (res.StatusCode == 403) != (i%3 == 0) {
				t.Fatal(res, err)
			}
			if i%3 == 1 {
				for _, id := range connIDs(ev) {
					go g.Admin().Kick(id, 0, "")
				}
			}
			c.Close()
		}
		connGone(t, g)
		synctest.Wait() // the slot is back before the value is closed
		if made.Load() != 60 || closed.Load() != 60 {
			t.Errorf("%d made, %d closed", made.Load(), closed.Load())
		}
	})
}

func TestSendOrder(t *testing.T) {
	wstest.CheckGoroutines(t)
	g, ev := connGuard(t, nil)
	const n = 250
	s := wstest.Serve(t, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for i := range n {
			if err := c.Send(wsguard.MessageText, fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
			if rand.N(20) == 0 {
				runtime.Gosched()
			}
		}
		return echo(ctx, c)
	}))
	for range 5 {
		c := connDial(t, s, "")
		for i := range n {
			connWantMessage(t, c, fmt.Sprint(i))
		}
		connSettled(t, g, ev, c)
	}
}

// What cannot be sent is the caller's to know, and costs the others nothing.
func TestSendOfNoType(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		g, ev := connGuard(t, nil)
		ev.patience = connPatience
		s := wstest.ServePipe(t, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for i, typ := range []wsguard.MessageType{0, 3, 8, 9, -1, 257} {
				if err := c.Send(typ, []byte("bad")); err == nil {
					t.Errorf("Send of type %d succeeded", int(typ))
				}
				c.Send(wsguard.MessageText, fmt.Append(nil, i))
				synctest.Wait()
				if err := c.Write(ctx, typ, []byte("bad")); err == nil {
					t.Errorf("Write of type %d succeeded", int(typ))
				}
			}
			return echo(ctx, c)
		}))
		c := connDial(t, s, "")
		for i := range 6 {
			connWantMessage(t, c, fmt.Sprint(i))
		}
		connWantEcho(t, c, "hello")
	})
}

func TestSendQueueFull(t *testing.T) {
	for name, size := range map[string]int{"by number": 1, "by bytes": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			connBubble(t, func(t *testing.T) {
				g, ev := connGuard(t, nil)
				ev.patience = connPatience
				s := wstest.ServeListener(t, wstest.NewListener(wstest.PipeOptions{BufferBytes: 1024}), g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					// One message that does not go out, then the queue.
					if err := c.Send(wsguard.MessageText, make([]byte, 4096)); err != nil {
						t.Error(err)
					}
					synctest.Wait()
					start := time.Now()
					for i := range 1000 {
						err := c.Send(wsguard.MessageText, make([]byte, size))
						if err == nil {
							continue
						}
						want := 255
						if size > 1 {
							want = (1<<20 - 4096) / size
						}
						if i != want || !errors.Is(err, reason.QueueFull) {
							t.Errorf("after %d messages: %v", i, err)
						}
						break
					}
					if time.Since(start) != 0 {
						t.Error("Send blocked")
					}
					_, _, err := c.Read(ctx)
					if !errors.Is(err, reason.QueueFull) {
						t.Errorf("Read: %v", err)
					}
					if err := c.Send(wsguard.MessageText, nil); !errors.Is(err, reason.QueueFull) {
						t.Errorf("Send afterwards: %v", err)
					}
					return err
				}))
				wstest.KeepAlive(t, connDial(t, s, ""))
				if e := ev.closed(); e.Code != 1008 || e.Reason != "queue_full" || e.Duration > 2*time.Second {
					t.Errorf("%d %q after %v", e.Code, e.Reason, e.Duration)
				}
			})
		})
	}
}

// A message larger than the queue is granted to one that is empty.
func TestSendLargeToEmptyQueue(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		g, _ := connGuard(t, nil)
		big := strings.Repeat("x", 2<<20)
		s := wstest.ServePipe(t, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			if err := c.Send(wsguard.MessageText, []byte(big)); err != nil {
				t.Error(err)
			}
			return echo(ctx, c)
		}))
		connWantMessage(t, connDial(t, s, ""), big)
	})
}

// One reader that is stuck does not delay a broadcast to the others, and is cut
// when its write has taken too long.
func TestStalledReader(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		g, ev := connGuard(t, nil)
		ev.patience = connPatience
		var mu sync.Mutex
		var conns []*wsguard.Conn
		s := wstest.ServePipe(t, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			return echo(ctx, c)
		}))
		stalled := connDial(t, s, "")
		wstest.KeepAlive(t, stalled)
		synctest.Wait()
		var clients []*wstest.Client
		for range 10 {
			clients = append(clients, connDial(t, s, ""))
		}
		synctest.Wait()
		start := time.Now()
		msg := []byte(strings.Repeat("x", 20<<10))
		for range 40 {
			for _, c := range conns {
				c.Send(wsguard.MessageText, msg)
			}
			for _, c := range clients {
				if _, p, err := c.ReadMessage(); err != nil || len(p) != len(msg) {
					t.Fatal(len(p), err)
				}
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the others waited %v", d)
		}
		e := ev.closed()
		if !errors.Is(e.Err, reason.WriteTimeout) || time.Since(start) > 6*time.Second {
			t.Errorf("%v after %v", e.Err, time.Since(start))
		}
	})
}

func TestCloseRead(t *testing.T) {
	tests := []struct {
		name string
		act  func(*wstest.Client)
		code int
		why  string
	}{
		{"a message", func(c *wstest.Client) { c.WriteFrame(wstest.Text("x")) }, 1008, "unexpected_message"},
		{"the peer closes", func(c *wstest.Client) { c.WriteFrame(wstest.CloseFrame(1001, "")) }, 1001, ""},
		{"an illegal frame", func(c *wstest.Client) { c.Write([]byte{0xff}) }, 1002, "protocol_error"},
		{"pings for two minutes", func(c *wstest.Client) {
			time.Sleep(2 * time.Minute)
			c.WriteFrame(wstest.CloseFrame(4001, ""))
		}, 4001, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			connBubble(t, func(t *testing.T) {
				g, ev := connGuard(t, nil)
				ev.patience = connPatience
				s := wstest.ServePipe(t, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					c.CloseRead()
					c.CloseRead()
					if _, _, err := c.Read(ctx); err == nil {
						t.Error("Read after CloseRead")
					}
					if err := c.Write(ctx, wsguard.MessageText, []byte("hello")); err != nil {
						t.Error(err)
					}
					<-ctx.Done()
					return nil
				}))
				c := connDial(t, s, "")
				c.Timeout = connPatience
				connWantMessage(t, c, "hello")
				answer := connBrowse(c)
				go tt.act(c)
				if a := <-answer; a.code != tt.code || a.reason != tt.why {
					t.Errorf("%d %q", a.code, a.reason)
				}
				ev.closed()
			})
		})
	}
}

// What Read returned before CloseRead stays the application's: its bytes are not
// used again.
func TestCloseReadKeepsMessage(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		g, ev := connGuard(t, connNoRates)
		ev.patience = connPatience
		kept := make(chan []byte, 1)
		s := wstest.ServePipe(t, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			_, msg, err := c.Read(ctx)
			if err != nil || string(msg) != "mine" {
				return echo(ctx, c)
			}
			c.CloseRead()
			kept <- msg
			<-ctx.Done()
			return nil
		}))
		c := connDial(t, s, "")
		c.WriteFrame(wstest.Text("mine"))
		msg := <-kept
		c.WriteFrame(wstest.CloseFrame(1000, ""))
		ev.closed()
		for range 20 {
			other := connDial(t, s, "")
			other.WriteFrame(wstest.Text("theirs"))
			for range 20 {
				connWantEcho(t, other, "theirs")
			}
			other.Close()
			ev.closed()
		}
		if string(msg) != "mine" {
			t.Errorf("%q", msg)
		}
	})
}

// ownGoroutines returns the stacks of goroutines that run code of the library's.
func ownGoroutines() (own []string) {
	b := make([]byte, 1<<20)
	b = b[:runtime.Stack(b, true)]
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		if strings.Contains(stack, "\ngithub.com/wsguard/wsguard.") || strings.Contains(stack, "\ngithub.com/wsguard/wsguard/internal/wire.") {
			own = append(own, stack)
		}
	}
	return own
}

// After Shutdown, and when the last connection is gone, there is no goroutine of
// the Guard: a bubble ends at once.
func TestNoGoroutineIsLeft(t *testing.T) {
	for _, shutdown := range []bool{true, false} {
		for _, n := range []int{0, 1, 20} {
			t.Run(fmt.Sprintf("Shutdown %t, %d connections", shutdown, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g, _ := connGuard(t, nil)
					s := wstest.ServePipe(t, g.Handler(echo))
					for round := range 3 {
						var clients []*wstest.Client
						for range n {
							c := connDial(t, s, "")
							connWantEcho(t, c, "hello")
							clients = append(clients, c)
						}
						time.Sleep(time.Duration(round) * 150 * time.Millisecond) // the sweeper has seen them, or not
						for _, c := range clients {
							c.WriteFrame(wstest.CloseFrame(1000, ""))
							connWantClose(t, c, 1000, "")
							c.Close()
						}
						start := time.Now()
						if shutdown {
							if err := g.Shutdown(context.Background()); err != nil {
								t.Error(err)
							}
						}
						synctest.Wait()
						if own := ownGoroutines(); len(own) > 0 || time.Since(start) > 0 {
							t.Errorf("after %v there are %d goroutines:\n%s", time.Since(start), len(own), strings.Join(own, "\n\n"))
						}
						if shutdown {
							break
						}
					}
				})
			})
		}
	}
}

// The same over TCP, at the moment at which Shutdown returns.
func TestShutdownLeavesNoGoroutine(t *testing.T) {
	wstest.CheckGoroutines(t)
	var left []string
	for range 10 { // the very last instructions of a goroutine may be seen
		g, _ := connGuard(t, connPatient)
		s := wstest.Serve(t, g.Handler(echo))
		for range 3 {
			connBrowse(connDial(t, s, ""))
		}
		if err := g.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
		if left = ownGoroutines(); len(left) == 0 {
			return
		}
	}
	t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
}

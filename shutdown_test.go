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
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noHandshakeLimits))
		const n = 100
		var answers []<-chan browsed
		for range n {
			c := e.open(header())
			answers = append(answers, browse(c))
		}
		if e.g.Draining() {
			t.Error("draining already")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		synctest.Wait() // all are the guard's; a 101 comes before
		start := time.Now()
		var wg sync.WaitGroup
		for range 5 { // all of them wait for the same drain
			wg.Go(func() {
				if err := e.g.Shutdown(ctx); err != nil {
					t.Error(err)
				}
				if e.g.Conns() != 0 {
					t.Errorf("returned with %d slots held", e.g.Conns())
				}
			})
		}
		synctest.Wait()
		if !e.g.Draining() {
			t.Error("not draining")
		}
		c := e.dial()
		res, err := c.Handshake("/", header())
		if err != nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !res.Close {
			t.Errorf("handshake: %v %v", res, err)
		}
		wg.Wait()
		d := time.Since(start)
		wantBetween(t, "drained", d, 3*time.Second, 5*time.Second)
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
		if err := e.g.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		e.g.Shutdown(ended)
	})
}

// However many they are, they take most of the time that is theirs.
func TestShutdownPace(t *testing.T) {
	for _, n := range []int{30, 41, 42, 43, 83, 100} { // a half has room for 41 batches
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, conf(noHandshakeLimits))
			for range n {
				c := e.open(header())
				browse(c)
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			start := time.Now()
			if err := e.g.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
			wantBetween(t, fmt.Sprint(n, " drained"), time.Since(start), 2500*time.Millisecond, 5*time.Second)
		})
	}
}

// A few go one by one, and do not take the whole time.
func TestShutdownOfFew(t *testing.T) {
	for _, n := range []int{1, 5} {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, conf(noHandshakeLimits))
			var answers []<-chan browsed
			for range n {
				answers = append(answers, browse(e.open(header())))
			}
			synctest.Wait()
			start := time.Now()
			if err := e.g.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantBetween(t, "drained", time.Since(start), time.Duration(n-1)*80*time.Millisecond, time.Duration(n-1)*120*time.Millisecond)
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
		bubble(t, func(t *testing.T) {
			e := newEnv(t, conf(noHandshakeLimits))
			e.serve(e.g.Handler(echo))
			for range 5 {
				browse(e.open(header()))
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), years*365*24*time.Hour)
			defer cancel()
			start := time.Now()
			if err := e.g.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
			wantBetween(t, fmt.Sprint("drained within ", int(years), " years"), time.Since(start), 320*time.Millisecond, 480*time.Millisecond)
		})
	}
}

func TestShutdownOfNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		start := time.Now()
		if err := e.g.Shutdown(context.Background()); err != nil || time.Since(start) != 0 {
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
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(noHandshakeLimits))
				e.serve(e.g.Handler(handler))
				for range 40 {
					wstest.KeepAlive(t, e.open(header()))
				}
				synctest.Wait() // all are the guard's; a 101 comes before
				const limit = 200 * time.Millisecond
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				defer cancel()
				second := make(chan time.Duration, 1)
				start := time.Now()
				go func() { e.g.Shutdown(context.Background()); second <- time.Since(start) }()
				synctest.Wait()
				err := e.g.Shutdown(ctx)
				d := time.Since(start)
				wantBetween(t, "returned", d, limit, limit+100*time.Millisecond)
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
				if e.g.Conns() != 0 {
					t.Errorf("%d slots", e.g.Conns())
				}
				for _, ev := range e.events.of(audit.Close) {
					if ev.Code != 1012 || !errors.Is(ev.Err, reason.Draining) {
						t.Errorf("%d %v", ev.Code, ev.Err)
					}
				}
				e.wantEachOnce()
			})
		})
	}
}

// A handshake that races with Shutdown never survives it.
func TestShutdownRacesHandshake(t *testing.T) {
	wstest.CheckGoroutines(t)
	n := rounds(60, 12)
	var survived atomic.Int32
	once := func() {
		e := newEnv(t, conf(noHandshakeLimits, patient, func(cfg *wsguard.Config) {
			cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { runtime.Gosched(); return nil, nil }
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			<-ctx.Done()
			return nil
		}))
		var clients []*wstest.Client
		for range 6 {
			clients = append(clients, e.dial())
		}
		var wg sync.WaitGroup
		var accepted atomic.Int32
		for i, c := range clients {
			wg.Go(func() {
				res, err := c.Handshake("/", header())
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
		if err := e.g.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		e.idle()
		e.wantEachOnce()
		survived.Add(accepted.Load())
		e.s.Close()
	}
	var drains sync.WaitGroup // Shutdown takes its time
	for range 12 {
		drains.Go(func() {
			for range n / 12 {
				once()
			}
		})
	}
	drains.Wait()
	t.Logf("%d handshakes of %d were accepted and closed", survived.Load(), 6*n)
}

type countedValue struct{ closed *atomic.Int32 }

func (v countedValue) Close() error { v.closed.Add(1); return nil }

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
			bubble(t, func(t *testing.T) {
				var closed atomic.Int32
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return countedValue{&closed}, nil }
				}))
				e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					c, err := e.g.Accept(w, r)
					if err != nil {
						t.Error(err)
						return
					}
					if _, ok := c.Value().(countedValue); !ok {
						t.Errorf("Value is %v", c.Value())
					}
					tt.loop(r, c)
				}))
				c := e.open(header())
				a := <-browse(c)
				if a.code != tt.code || a.reason != tt.reason {
					t.Errorf("%d %q", a.code, a.reason)
				}
				if ev := e.closed(); !errors.Is(ev.Err, tt.is) {
					t.Error(ev.Err)
				}
				synctest.Wait()
				if closed.Load() != 1 || e.g.Conns() != 0 {
					t.Errorf("Value closed %d times, %d slots", closed.Load(), e.g.Conns())
				}
			})
		})
	}
}

func TestAttachValueClosedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var made, closed atomic.Int32
		e := serveGuard(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) {
			cfg.Attach = func(r *http.Request, _ wsguard.Principal) (any, error) {
				made.Add(1)
				v := countedValue{&closed}
				if r.URL.Path == "/refused" {
					return v, errors.New("no")
				}
				return v, nil
			}
		}))
		for i := range 60 {
			c := e.dial()
			path := "/"
			if i%3 == 0 {
				path = "/refused"
			}
			res, err := c.Handshake(path, header())
			if err != nil || (res.StatusCode == 403) != (i%3 == 0) {
				t.Fatal(res, err)
			}
			if i%3 == 1 {
				for _, id := range e.ids() {
					go e.g.Admin().Kick(id, 0, "")
				}
			}
			c.Close()
		}
		e.idle()
		synctest.Wait() // the slot is back before the value is closed
		if made.Load() != 60 || closed.Load() != 60 {
			t.Errorf("%d made, %d closed", made.Load(), closed.Load())
		}
	})
}

func TestSendOrder(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := newEnv(t, conf(noHandshakeLimits))
	const n = 250
	e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
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
		c := e.open(header())
		for i := range n {
			wantMessage(t, c, fmt.Sprint(i))
		}
		e.settle(c)
	}
}

// What cannot be sent is the caller's to know, and costs the others nothing.
func TestSendOfNoType(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
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
		c := e.open(header())
		for i := range 6 {
			wantMessage(t, c, fmt.Sprint(i))
		}
		roundTrip(t, c, "hello")
	})
}

func TestSendQueueFull(t *testing.T) {
	for name, size := range map[string]int{"by number": 1, "by bytes": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(func(cfg *wsguard.Config) { cfg.Send.MaxMessages = 256 }))
				e.serveOn(wstest.NewListener(wstest.PipeOptions{BufferBytes: 1024}), e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
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
				wstest.KeepAlive(t, e.open(header()))
				if ev := e.closed(); ev.Code != 1008 || ev.Reason != "queue_full" || ev.Duration > 2*time.Second {
					t.Errorf("%d %q after %v", ev.Code, ev.Reason, ev.Duration)
				}
			})
		})
	}
}

// A message larger than the queue is granted to one that is empty.
func TestSendLargeToEmptyQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		big := strings.Repeat("x", 2<<20)
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			if err := c.Send(wsguard.MessageText, []byte(big)); err != nil {
				t.Error(err)
			}
			return echo(ctx, c)
		}))
		wantMessage(t, e.open(header()), big)
	})
}

// One reader that is stuck does not delay a broadcast to the others, and is cut
// when its write has taken too long.
func TestStalledReader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noHandshakeLimits))
		var mu sync.Mutex
		var conns []*wsguard.Conn
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			return echo(ctx, c)
		}))
		stalled := e.open(header())
		wstest.KeepAlive(t, stalled)
		synctest.Wait()
		var clients []*wstest.Client
		for range 10 {
			clients = append(clients, e.open(header()))
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
		ev := e.closed()
		if !errors.Is(ev.Err, reason.WriteTimeout) || time.Since(start) > 6*time.Second {
			t.Errorf("%v after %v", ev.Err, time.Since(start))
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
			bubble(t, func(t *testing.T) {
				e := newEnv(t, wsguard.Config{})
				e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
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
				c := e.open(header())
				wantMessage(t, c, "hello")
				answer := browse(c)
				go tt.act(c)
				if a := <-answer; a.code != tt.code || a.reason != tt.why {
					t.Errorf("%d %q", a.code, a.reason)
				}
				e.closed()
			})
		})
	}
}

// What Read returned before CloseRead stays the application's: its bytes are not
// used again.
func TestCloseReadKeepsMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noHandshakeLimits, noRates))
		kept := make(chan []byte, 1)
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			_, msg, err := c.Read(ctx)
			if err != nil || string(msg) != "mine" {
				return echo(ctx, c)
			}
			c.CloseRead()
			kept <- msg
			<-ctx.Done()
			return nil
		}))
		c := e.open(header())
		c.WriteFrame(wstest.Text("mine"))
		msg := <-kept
		c.WriteFrame(wstest.CloseFrame(1000, ""))
		e.closed()
		for range 20 {
			other := e.open(header())
			other.WriteFrame(wstest.Text("theirs"))
			for range 20 {
				roundTrip(t, other, "theirs")
			}
			other.Close()
			e.closed()
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
					e := newEnv(t, conf(noHandshakeLimits))
					e.serve(e.g.Handler(echo))
					for round := range 3 {
						var clients []*wstest.Client
						for range n {
							c := e.open(header())
							roundTrip(t, c, "hello")
							clients = append(clients, c)
						}
						time.Sleep(time.Duration(round) * 150 * time.Millisecond) // the sweeper has seen them, or not
						for _, c := range clients {
							c.WriteFrame(wstest.CloseFrame(1000, ""))
							wantClose(t, c, 1000, "")
							c.Close()
						}
						start := time.Now()
						if shutdown {
							if err := e.g.Shutdown(context.Background()); err != nil {
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
		e := newEnv(t, conf(patient))
		e.serve(e.g.Handler(echo))
		for range 3 {
			browse(e.open(header()))
		}
		if err := e.g.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
		if left = ownGoroutines(); len(left) == 0 {
			return
		}
	}
	t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
}

package wsguard_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
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
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/internal/wstest"
)

// 256 endings wait for their peer; beyond that an ending is done as soon as its
// close frame is written.
func TestEndingsThatLinger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noHandshakeLimits))
		const n = 300
		clients := make([]*wstest.Client, n)
		for i := range clients {
			clients[i] = e.open(header())
		}
		synctest.Wait() // the 101 arrives before the open event
		for _, id := range e.ids() {
			e.g.Admin().Kick(id, 0, "")
		}
		synctest.Wait()
		if left := e.g.Conns(); left != 256 {
			t.Errorf("%d endings linger, want 256", left)
		}
		time.Sleep(2 * time.Second) // grace and linger
		synctest.Wait()
		if left := e.g.Conns(); left != 0 {
			t.Errorf("%d slots held after grace and linger", left)
		}
		for _, c := range clients {
			wantClose(t, c, 3003, "kicked")
		}
	})
}

// An ending reads no more than 16 MiB from a peer that never stops sending. In
// the bubble the time that bounds it as well does not pass.
func TestEndingReadsNotForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{})
		c := e.open(header())
		synctest.Wait()
		e.g.Admin().Kick(e.ids()[0], 0, "")
		synctest.Wait()
		junk := wstest.AppendFrame(nil, wstest.Binary(make([]byte, 32<<10)))
		sent := 0
		for sent < 64<<20 {
			n, err := c.Write(junk)
			sent += n
			if err != nil {
				break
			}
		}
		if sent < 16<<20 || sent > 17<<20 {
			t.Errorf("%d KiB were read while lingering, want 16 MiB", sent>>10)
		}
	})
}

// An ending parses some frames to find the peer's close frame, and then discards only: a peer
// can send an empty frame for less than it costs to parse one.
func TestEndingParsesNotForEver(t *testing.T) {
	for n, after := range map[int]time.Duration{9_000: 0, 11_000: time.Second} {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, wsguard.Config{})
			c := e.open(header())
			synctest.Wait()
			e.kick(0, "")
			wantClose(t, c, 3003, "kicked")
			start := time.Now()
			c.Write(bytes.Repeat(wstest.AppendFrame(nil, wstest.Ping(nil)), n))
			c.WriteFrame(wstest.CloseFrame(3003, ""))
			if err := c.ReadEOF(); err != nil {
				t.Error(err)
			}
			if d := time.Since(start); d != after {
				t.Errorf("%d frames before the answer: the end comes after %v, want %v", n, d, after)
			}
		})
	}
}

// A net.Conn that ignores its deadlines does not hold an ending up for longer than grace and
// linger, whatever the ending waits for.
func TestEndingOfADeafNetConn(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			e := newEnv(t, conf(noPings))
			pipes := wstest.NewListener(wstest.PipeOptions{BufferBytes: 4 << 10})
			var deaf atomic.Bool
			e.serveOn(deafListener{pipes, &deaf}, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				if _, _, err := c.Read(ctx); err != nil {
					return err
				}
				if stuck {
					return c.Write(ctx, wsguard.MessageBinary, make([]byte, 64<<10))
				}
				<-ctx.Done()
				return nil
			}))
			c := wstest.NewClient(t, must(pipes.Dial(context.Background())))
			c.Timeout = patience()
			e.upgrade(c, header())
			synctest.Wait()  // for the hijack
			deaf.Store(true) // net/http needs deadlines itself
			c.WriteFrame(wstest.Text("begin"))
			synctest.Wait()
			start := time.Now()
			e.kick(0, "")
			e.closed()
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("a writer is stuck: %t: ended after %v", stuck, d)
			}
		})
	}
}

// deafListener accepts net.Conn that ignore their deadlines while deaf is set.
type deafListener struct {
	net.Listener
	deaf *atomic.Bool
}

type deafConn struct {
	net.Conn
	deaf *atomic.Bool
}

func (c deafConn) SetDeadline(t time.Time) error {
	if c.deaf.Load() {
		return nil
	}
	return c.Conn.SetDeadline(t)
}

func (c deafConn) SetReadDeadline(t time.Time) error {
	if c.deaf.Load() {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

func (c deafConn) SetWriteDeadline(t time.Time) error {
	if c.deaf.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

func (l deafListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return deafConn{c, l.deaf}, err
}

// A context of the application's that lives on keeps no connection that has ended, also if its
// reader or its writer has outlasted the ending.
func TestLongContextKeepsNoConnection(t *testing.T) {
	app, cancel := context.WithCancel(context.Background())
	defer cancel()
	for door, handler := range map[string]func(*wsguard.Guard, func(any)) http.Handler{
		"Handler": func(g *wsguard.Guard, made func(any)) http.Handler {
			return g.Handler(func(_ context.Context, c *wsguard.Conn) error {
				made(c)
				for {
					typ, msg, err := c.Read(app)
					if err == nil {
						err = c.Write(app, typ, msg)
					}
					if err != nil {
						return err
					}
				}
			})
		},
		"Wrap": func(g *wsguard.Guard, made func(any)) http.Handler {
			return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := answer101(w, r)
				made(s.Conn)
				for s.err == nil {
					if _, s.err = s.frame(); s.err == nil {
						_, s.err = s.Write(encode(fromServer(wstest.OpText, "x")))
					}
				}
				s.Close()
			}))
		},
	} {
		for _, outlasts := range []string{"nobody", "the reader", "the writer"} {
			t.Run(door+", "+outlasts, func(t *testing.T) { longContext(t, app, outlasts, handler) })
		}
	}
}

func longContext(t *testing.T, app context.Context, outlasts string, handler func(*wsguard.Guard, func(any)) http.Handler) {
	const n = 20
	var held sync.WaitGroup // those who outlast the endings
	held.Add(n)
	release := make(chan struct{})
	hold := func() {
		held.Done()
		<-release
	}
	gone := make(chan struct{}, n)
	e := newEnv(t, conf(noHandshakeLimits, noPings, noRates, func(cfg *wsguard.Config) {
		cfg.Timeouts.CloseGrace, cfg.Timeouts.Linger = 20*time.Millisecond, 20*time.Millisecond
		cfg.Messages.Validator = judge(func([]byte) error {
			if outlasts == "the reader" {
				hold()
			}
			return nil
		})
	}))
	l := heldListener{Listener: listenTCP(), hold: func() {}}
	if outlasts == "the writer" {
		l.hold = hold
	}
	var made sync.WaitGroup
	made.Add(n)
	e.serveOn(l, handler(e.g, func(c any) {
		switch c := c.(type) {
		case *wsguard.Conn:
			runtime.AddCleanup(c, func(struct{}) { gone <- struct{}{} }, struct{}{})
		case *wire.Wrapped:
			runtime.AddCleanup(c, func(struct{}) { gone <- struct{}{} }, struct{}{})
		}
		made.Done()
	}), func(s *http.Server) {
		s.BaseContext = func(net.Listener) context.Context { return app }
	})
	var clients []*wstest.Client
	for range n {
		c := e.open(header())
		c.WriteFrame(wstest.Text("x"))
		clients = append(clients, c)
	}
	made.Wait()
	if outlasts == "nobody" {
		for _, c := range clients {
			wantMessage(t, c, "x")
		}
	} else {
		held.Wait()
	}
	e.kick(4000, "bye")
	e.events.wait(t, audit.Close, n) // the endings are over
	close(release)
	e.idle()
	for _, c := range clients {
		c.Close()
	}
	left := n
	eventually(t, "every connection is garbage", func() bool {
		runtime.GC()
		for {
			select {
			case <-gone:
				left--
			default:
				return left == 0
			}
		}
	})
}

// heldListener accepts net.Conn that call hold before they write a frame with the payload x.
// Their Close waits for no Write.
type heldListener struct {
	net.Listener
	hold func()
}

type heldConn struct {
	net.Conn
	hold func()
}

func (c heldConn) Write(p []byte) (int, error) {
	if string(p) == "\x81\x01x" {
		c.hold()
	}
	return c.Conn.Write(p)
}

func (l heldListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return heldConn{c, l.hold}, err
}

// handshakes are close handshakes, in either direction, after which the client
// keeps its side of the socket open.
var handshakes = map[string]func(t *testing.T, e *env, c *wstest.Client){
	"the peer begins": func(t *testing.T, _ *env, c *wstest.Client) {
		c.WriteFrame(wstest.CloseFrame(4001, "bye"))
		wantClose(t, c, 4001, "bye")
	},
	"the peer begins without a code": func(t *testing.T, _ *env, c *wstest.Client) {
		c.Write([]byte("\x88\x80\x00\x00\x00\x00"))
		wantClose(t, c, 1005, "")
	},
	"the peer begins after a message": func(t *testing.T, _ *env, c *wstest.Client) {
		c.Write(append(wstest.AppendFrame(nil, wstest.Text("hello")), wstest.AppendFrame(nil, wstest.CloseFrame(1001, ""))...))
		wantClose(t, c, 1001, "")
	},
	"Kick": func(t *testing.T, e *env, c *wstest.Client) {
		e.kick(0, "")
		wantClose(t, c, 3003, "kicked")
		c.WriteFrame(wstest.CloseFrame(3003, ""))
	},
	"Kick, answered byte by byte": func(t *testing.T, e *env, c *wstest.Client) {
		e.kick(0, "")
		wantClose(t, c, 3003, "kicked")
		for _, b := range wstest.AppendFrame(nil, wstest.CloseFrame(3003, strings.Repeat("x", 123))) {
			c.Write([]byte{b})
		}
	},
	"Kick, answered behind messages": func(t *testing.T, e *env, c *wstest.Client) {
		e.kick(0, "")
		wantClose(t, c, 3003, "kicked")
		for range 3 {
			c.WriteFrame(wstest.Text(strings.Repeat("x", 10_000)))
			c.Write(fragment(wstest.OpText, false, []byte("fragment")))
			c.WriteFrame(wstest.Ping([]byte("ping")))
			c.Write(fragment(wstest.OpContinuation, true, []byte("fragment")))
		}
		c.WriteFrame(wstest.CloseFrame(3003, ""))
	},
	"Kick in the middle of a frame": func(t *testing.T, e *env, c *wstest.Client) {
		frame := wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 20_000)))
		c.Write(frame[:10_000])
		time.Sleep(10 * time.Millisecond) // in a bubble the server has read the half by then; over a socket it may not have
		e.kick(0, "")
		wantClose(t, c, 3003, "kicked")
		c.Write(frame[10_000:])
		c.WriteFrame(wstest.CloseFrame(3003, ""))
	},
	"Kick in the middle of a fragmented message": func(t *testing.T, e *env, c *wstest.Client) {
		frame := fragment(wstest.OpText, false, []byte(strings.Repeat("x", 20_000)))
		c.Write(frame[:10_000])
		time.Sleep(10 * time.Millisecond) // in a bubble the server has read the half by then; over a socket it may not have
		e.kick(0, "")
		wantClose(t, c, 3003, "kicked")
		c.Write(frame[10_000:])
		c.Write(fragment(wstest.OpContinuation, true, []byte("x")))
		c.WriteFrame(wstest.CloseFrame(3003, ""))
	},
	"the handler returns": func(t *testing.T, _ *env, c *wstest.Client) {
		c.WriteFrame(wstest.Text("quit"))
		wantClose(t, c, 1000, "")
		c.WriteFrame(wstest.CloseFrame(1000, ""))
	},
	"a message that is refused": func(t *testing.T, _ *env, c *wstest.Client) {
		c.WriteFrame(wstest.Binary([]byte("x")))
		wantClose(t, c, 1003, "message_type")
		c.WriteFrame(wstest.CloseFrame(1003, ""))
	},
	"a message that is too big": func(t *testing.T, _ *env, c *wstest.Client) {
		frame := wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 40_000)))
		c.Write(frame[:20])
		wantClose(t, c, 1009, "message_too_big")
		c.Write(frame[20:])
		c.WriteFrame(wstest.CloseFrame(1009, ""))
	},
	"a message of too many frames": func(t *testing.T, _ *env, c *wstest.Client) {
		c.Write(fragment(wstest.OpText, false, []byte("x")))
		for range 96 {
			c.Write(fragment(wstest.OpContinuation, false, []byte("x")))
		}
		wantClose(t, c, 1008, "fragments")
		c.Write(fragment(wstest.OpContinuation, true, []byte("x")))
		c.WriteFrame(wstest.CloseFrame(1008, ""))
	},
	"both at once": func(t *testing.T, e *env, c *wstest.Client) {
		done := make(chan struct{})
		go func() { e.kick(0, ""); close(done) }()
		c.WriteFrame(wstest.CloseFrame(3003, "kicked"))
		wantClose(t, c, 3003, "kicked")
		<-done
	},
}

// closeHandshakes runs each of handshakes with a connection of its own. check is
// called when it is done.
func closeHandshakes(t *testing.T, serve func(*env, http.Handler) (dial func() *wstest.Client), change func(*wsguard.Config), check func(*testing.T, *env)) {
	handler := func(ctx context.Context, c *wsguard.Conn) error {
		for {
			_, msg, err := c.Read(ctx)
			if err != nil || string(msg) == "quit" {
				return err
			}
		}
	}
	e := newEnv(t, conf(noHandshakeLimits, change))
	dial := serve(e, e.g.Handler(handler))
	for name, handshake := range handshakes {
		c := dial()
		e.upgrade(c, header())
		e.opened()
		handshake(t, e, c)
		check(t, e)
		if err := c.ReadEOF(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
		if t.Failed() {
			t.Fatal(name)
		}
	}
	// Shutdown is the last of them.
	c := dial()
	e.upgrade(c, header())
	e.opened()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		wantClose(t, c, 1012, "draining")
		c.WriteFrame(wstest.CloseFrame(1012, ""))
	}()
	if err := e.g.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	<-answered
	check(t, e)
}

// After the close handshake there is nothing to wait for: the slot and the close
// event are there at once, though the client keeps its side of the socket open.
func TestCloseHandshakeEndsAtOnce(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		t.Run(fmt.Sprintf("wrapped %t", wrapped), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				serve := func(e *env, h http.Handler) func() *wstest.Client {
					pipes := wstest.NewListener(wstest.PipeOptions{})
					l := net.Listener(pipes)
					if wrapped {
						l = plainListener{l}
					}
					e.serveOn(l, h)
					return func() *wstest.Client {
						nc, err := pipes.Dial(context.Background())
						if err != nil {
							t.Fatal(err)
						}
						return wstest.NewClient(t, nc)
					}
				}
				closeHandshakes(t, serve, nil, func(t *testing.T, e *env) {
					start := time.Now()
					synctest.Wait()
					e.closed()
					if n, d := e.g.Conns(), time.Since(start); n > 0 || d > 0 {
						t.Errorf("%d slots held; ended after %v", n, d)
					}
				})
			})
		})
	}
}

// The same with sockets. An ending that lingers would do so for a minute.
func TestCloseHandshakeEndsAtOnceOverTCP(t *testing.T) {
	wstest.CheckGoroutines(t)
	for name, serve := range sockets {
		t.Run(name, func(t *testing.T) {
			dial := func(e *env, h http.Handler) func() *wstest.Client {
				e.s = serve(t, h)
				return e.dial
			}
			closeHandshakes(t, dial, patient, func(t *testing.T, e *env) {
				e.closed()
				e.idle()
			})
		})
	}
}

// A client that says over TLS that nothing more will come, before it has read the
// answer to its close frame, gets the answer all the same.
func TestCloseNotifyBehindCloseFrame(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := newEnv(t, conf(noHandshakeLimits, patient))
	e.serveTLS(e.g.Handler(echo))
	for range 50 {
		c := e.open(header())
		c.WriteFrame(wstest.CloseFrame(4001, "bye"))
		c.Conn().(*tls.Conn).CloseWrite()
		e.closed()
		wantClose(t, c, 4001, "bye")
		if err := c.ReadEOF(); err != nil {
			t.Error(err)
		}
		c.Close()
	}
}

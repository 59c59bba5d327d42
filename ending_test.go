package wsguard_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
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

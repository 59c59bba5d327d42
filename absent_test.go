package wsguard_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// work is what a handler does with a message, until ctx ends. The bytes of msg are the
// guard's.
type work func(ctx context.Context, msg []byte)

// workDoors are handlers that read one message and then work on it, behind each door.
var workDoors = map[string]func(*wsguard.Guard, work) http.Handler{
	"Handler": func(g *wsguard.Guard, do work) http.Handler {
		return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			_, msg, err := c.Read(ctx)
			if err == nil {
				do(ctx, msg)
			}
			return err
		})
	},
	"Accept": func(g *wsguard.Guard, do work) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := g.Accept(w, r)
			if err != nil {
				return
			}
			_, msg, err := c.Read(r.Context())
			if err == nil {
				do(c.Context(), msg)
			}
			c.End(err)
		})
	},
	"Wrap": func(g *wsguard.Guard, do work) http.Handler {
		return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := answer101(w, r)
			if s.err != nil {
				return
			}
			defer s.Close()
			if f, err := s.frame(); err == nil {
				do(r.Context(), f.Payload)
			}
		}))
	},
}

// leavings are the ways in which a peer leaves a handler that works. A peer whose message was
// not read is seen where the kernel tells, or where its message fits into a buffer.
var leavings = map[string]struct {
	leave  func(t *testing.T, c *wstest.Client)
	code   int
	reason string
	big    bool // more lies before the end than a look reads
}{
	"closes": {leave: hangUp},
	"closes behind a ping": {leave: func(t *testing.T, c *wstest.Client) {
		c.WriteFrame(wstest.Ping([]byte("ping")))
		hangUp(t, c)
	}},
	"closes within a frame": {leave: func(t *testing.T, c *wstest.Client) {
		c.Write(wstest.AppendFrame(nil, wstest.Text("unfinished"))[:9])
		hangUp(t, c)
	}},
	"closes behind a message": {leave: func(t *testing.T, c *wstest.Client) {
		c.WriteFrame(wstest.Text("second"))
		hangUp(t, c)
	}},
	"closes behind many messages": {big: true, leave: func(t *testing.T, c *wstest.Client) {
		c.WriteFrame(wstest.Text(strings.Repeat("x", 30_000)))
		hangUp(t, c)
	}},
	"resets": {leave: reset},
	"resets behind many messages": {big: true, leave: func(t *testing.T, c *wstest.Client) {
		c.WriteFrame(wstest.Text(strings.Repeat("x", 30_000)))
		reset(t, c)
	}},
	"sends a close frame": {code: 4001, reason: "bye", leave: func(t *testing.T, c *wstest.Client) {
		c.WriteFrame(wstest.CloseFrame(4001, "bye"))
	}},
	"sends a close frame behind control frames": {code: 4001, reason: "bye", leave: func(t *testing.T, c *wstest.Client) {
		c.WriteFrame(wstest.Ping([]byte("ping")))
		c.WriteFrame(wstest.Pong([]byte("pong")))
		c.WriteFrame(wstest.CloseFrame(4001, "bye"))
	}},
}

// hangUp closes the socket of a client, without a close frame.
func hangUp(_ *testing.T, c *wstest.Client) { c.Close() }

// reset resets the socket of a client.
func reset(t *testing.T, c *wstest.Client) {
	nc := c.Conn()
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	switch nc := nc.(type) {
	case *net.TCPConn:
		nc.SetLinger(0)
		nc.Close()
	case *wstest.PipeConn:
		nc.Reset()
	default:
		t.Fatalf("cannot reset a %T", nc)
	}
}

// A peer that leaves while the handler works ends the handler's context within half a second,
// and a message that the handler holds stays as it is.
func TestPeerLeavesWhileTheHandlerWorks(t *testing.T) {
	for door, handler := range workDoors {
		for name, peer := range leavings {
			if peer.big {
				continue // a pipe does not tell
			}
			t.Run(door+" "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					begun, ended := make(chan struct{}), make(chan time.Time)
					e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler {
						return handler(g, func(ctx context.Context, msg []byte) {
							close(begun)
							<-ctx.Done()
							if string(msg) != "first" {
								t.Errorf("the message has become %q", msg)
							}
							ended <- time.Now()
						})
					})
					c := e.open(header())
					c.WriteFrame(wstest.Text("first"))
					<-begun
					time.Sleep(3*time.Second + 70*time.Millisecond) // nothing happens
					start := time.Now()
					peer.leave(t, c)
					most := 500 * time.Millisecond
					if peer.code != 0 && door == "Wrap" {
						most += time.Second // the grace, in which the handler may answer
					}
					if d := (<-ended).Sub(start); d > most {
						t.Errorf("the context has ended after %v", d)
					}
					code, reason := 1006, "connection_lost"
					if peer.code != 0 {
						wantClose(t, c, peer.code, peer.reason)
						code, reason = peer.code, "peer_closed"
					}
					if ev := e.closed(); int(ev.Code) != code || ev.Reason != reason || !ev.Remote {
						t.Errorf("%+v", ev)
					}
				})
			})
		}
	}
}

// The same over sockets.
func TestPeerLeavesWhileTheHandlerWorksOverTCP(t *testing.T) {
	wstest.CheckGoroutines(t)
	listen := map[string]func(*env, http.Handler){
		"TCP":                              func(e *env, h http.Handler) { e.serveOn(listenTCP(), h) },
		"TLS":                              func(e *env, h http.Handler) { e.serveTLS(h) },
		"a wrapped net.Conn":               func(e *env, h http.Handler) { e.serveOn(plainListener{listenTCP()}, h) },
		"a net.Conn that shows its socket": func(e *env, h http.Handler) { e.serveOn(shownListener{listenTCP()}, h) },
	}
	for door, handler := range workDoors {
		for on, serve := range listen {
			t.Run(door+" over "+on, func(t *testing.T) {
				begun := make(chan struct{})
				e := newEnv(t, conf(noHandshakeLimits, patientButForTheGrace))
				if testing.Short() && door == "Accept" {
					t.Skip("as Handler")
				}
				serve(e, handler(e.g, func(ctx context.Context, msg []byte) {
					begun <- struct{}{}
					<-ctx.Done()
					if string(msg) != "first" {
						t.Errorf("the message has become %q", msg)
					}
				}))
				clients, want := map[string]*wstest.Client{}, map[string]int{}
				for name, peer := range leavings {
					if peer.big && (runtime.GOOS != "linux" || on == "a wrapped net.Conn") {
						continue
					}
					c := e.open(header())
					c.WriteFrame(wstest.Text("first"))
					<-begun
					peer.leave(t, c)
					clients[name] = c
				}
				for name, c := range clients {
					reason := "1006 connection_lost"
					if peer := leavings[name]; peer.code != 0 {
						wantClose(t, c, peer.code, peer.reason)
						reason = fmt.Sprint(peer.code, " peer_closed")
					}
					want[reason]++
				}
				for range clients {
					ev := e.closed()
					want[fmt.Sprint(int(ev.Code), " ", ev.Reason)]--
				}
				for reason, n := range want {
					if n != 0 {
						t.Errorf("%s is missing %d times; events:\n%s", reason, n, e.events)
					}
				}
				for _, c := range clients {
					c.Close()
				}
				e.idle()
			})
		}
	}
}

// patientButForTheGrace is patient, but the handler need not wait long for the end of its
// context.
func patientButForTheGrace(cfg *wsguard.Config) {
	patient(cfg)
	cfg.Timeouts.CloseGrace = 100 * time.Millisecond
}

// Nothing is lost, reordered or changed while a handler works and its peer keeps sending. Pings are
// answered meanwhile.
func TestLookAheadLosesNothing(t *testing.T) {
	var want [][]byte
	for i := range 40 {
		want = append(want, bytes.Repeat([]byte{byte('a' + i%26)}, []int{0, 1, 100, 1000, 4000, 9000}[i%6]))
	}
	const takes = 700 * time.Millisecond // each message
	for door, handler := range map[string]func(*testing.T, *wsguard.Guard, func([]byte)) http.Handler{
		"Handler": func(t *testing.T, g *wsguard.Guard, got func([]byte)) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				time.Sleep(takes) // the look finds what came with the handshake
				for range want {
					_, msg, err := c.Read(ctx)
					if err != nil {
						return err
					}
					before := bytes.Clone(msg)
					time.Sleep(takes)
					if !bytes.Equal(msg, before) {
						t.Errorf("a message has changed while the handler held it")
					}
					got(before)
				}
				return nil
			})
		},
		"Wrap": func(t *testing.T, g *wsguard.Guard, got func([]byte)) http.Handler {
			return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := answer101(w, r)
				defer s.Close()
				s.in = bufio.NewReaderSize(s.Conn, 64) // so that messages are read in parts
				time.Sleep(takes)
				for range want {
					f, err := s.frame()
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(takes)
					got(f.Payload)
				}
				s.Write(encode(fromServer(wstest.OpClose, closing(1000, ""))))
			}))
		},
	} {
		t.Run(door, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var got [][]byte
				e := serveWith(t, conf(noRates, noPings), func(g *wsguard.Guard) http.Handler {
					return handler(t, g, func(msg []byte) { got = append(got, msg) })
				})
				early := wstest.AppendFrame(wstest.AppendFrame(nil, wstest.Text(string(want[0]))), wstest.Text(string(want[1])))
				c, _ := e.tryWith(wstest.HandshakeOptions{Header: header(), Early: early})
				pongs := make(chan int)
				go func() {
					n := 0
					for {
						f, err := c.ReadFrame()
						if err != nil || f.Opcode == wstest.OpClose {
							pongs <- n
							return
						}
						n++
					}
				}()
				for i, msg := range want {
					for range i % 3 {
						c.WriteFrame(wstest.Ping(nil))
					}
					if i < 2 {
						continue // it came with the handshake
					}
					if i%4 == 3 && len(msg) > 1 {
						c.Write(fragment(wstest.OpText, false, msg[:1]))
						c.WriteFrame(wstest.Ping(nil))
						c.Write(fragment(wstest.OpContinuation, true, msg[1:]))
					} else {
						c.WriteFrame(wstest.Text(string(msg)))
					}
					if i%5 == 0 {
						time.Sleep(time.Second)
					}
				}
				if n := <-pongs; n == 0 {
					t.Error("no ping was answered")
				}
				if len(got) != len(want) {
					t.Fatalf("%d messages, want %d", len(got), len(want))
				}
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Errorf("message %d is %.20q of %d bytes, want %.20q of %d", i, got[i], len(got[i]), want[i], len(want[i]))
					}
				}
				c.Close()
			})
		})
	}
}

// A ping is answered while the handler works, and a flood of them ends the connection as ever.
func TestPingsWhileTheHandlerWorks(t *testing.T) {
	for door, handler := range workDoors {
		t.Run(door, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				begun := make(chan struct{})
				e := serveWith(t, conf(noPings), func(g *wsguard.Guard) http.Handler {
					return handler(g, func(ctx context.Context, msg []byte) {
						close(begun)
						<-ctx.Done()
					})
				})
				c := e.open(header())
				c.WriteFrame(wstest.Text("first"))
				<-begun
				start := time.Now()
				c.WriteFrame(wstest.Ping([]byte("one")))
				wantFrames(t, c, fromServer(wstest.OpPong, "one"))
				if d := time.Since(start); d > 500*time.Millisecond {
					t.Errorf("answered after %v", d)
				}
				// A byte at a time.
				for _, b := range wstest.AppendFrame(nil, wstest.Ping([]byte("slow"))) {
					c.Write([]byte{b})
					time.Sleep(210 * time.Millisecond)
				}
				wantFrames(t, c, fromServer(wstest.OpPong, "slow"))
				c.Write(bytes.Repeat(wstest.AppendFrame(nil, wstest.Ping(nil)), 1000))
				wantClose(t, c, 1008, "control_flood")
				if d := time.Since(start); d > 5*time.Second {
					t.Errorf("ended after %v", d)
				}
				bye(c)
			})
		})
	}
}

// The time that the handler works is nobody's, however often the guard looks after the peer.
func TestLooksJudgeNoDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveWith(t, conf(func(cfg *wsguard.Config) {
			cfg.Timeouts.PingInterval, cfg.Timeouts.Pong, cfg.Timeouts.Idle = 4*time.Second, time.Second, 5*time.Second
			cfg.Messages.Timeout = time.Second
		}), func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				for {
					_, msg, err := c.Read(ctx)
					if err != nil {
						return err
					}
					select {
					case <-time.After(time.Minute):
					case <-ctx.Done():
						t.Errorf("ended while the handler worked: %v", context.Cause(ctx))
					}
					if err := c.Write(ctx, wsguard.MessageText, msg); err != nil {
						return err
					}
				}
			})
		})
		c := e.open(header())
		c.WriteFrame(wstest.Text("first"))
		time.Sleep(time.Second)
		second := wstest.AppendFrame(nil, wstest.Text("second"))
		c.Write(second[:3]) // the rest comes when the handler is back
		wantMessage(t, c, "first")
		time.Sleep(900 * time.Millisecond) // less than the message may take
		c.Write(second[3:])
		wantMessage(t, c, "second")
		c.WriteFrame(wstest.CloseFrame(1000, ""))
		wantClose(t, c, 1000, "")
	})
}

// While a wrapped handler works, the pong to its own ping waits for it, and so does the peer's
// close frame, which it still can answer.
func TestWrapPongWhileTheHandlerWorks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, c, s := wrapOpen(t, conf(noPings))
		s.send(t, fromServer(wstest.OpPing, "theirs"))
		wantFrames(t, c, fromServer(wstest.OpPing, "theirs"))
		c.WriteFrame(wstest.Pong([]byte("theirs")))
		time.Sleep(time.Second)
		c.WriteFrame(wstest.CloseFrame(1001, "away"))
		time.Sleep(600 * time.Millisecond)
		if ev := e.events.of(audit.Close); len(ev) != 0 || s.over() {
			t.Errorf("%v; the context is over: %t", ev, s.over())
		}
		s.wantFrame(t, wstest.OpPong, "theirs")
		s.wantFrame(t, wstest.OpClose, closing(1001, "away"))
		s.send(t, fromServer(wstest.OpClose, closing(1001, "away")))
		wantClose(t, c, 1001, "away")
		s.wantErr(t, io.EOF)
		e.wantGone(t, s)
	})
}

// A message that is held back for its rate stays whole when the peer sends on or leaves.
func TestLooksWhileAMessageIsHeldBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveWith(t, conf(noPings, func(cfg *wsguard.Config) {
			cfg.Rates.Messages, cfg.Rates.Action = wsguard.Rate{PerSecond: 0.5, Burst: 1}, wsguard.ActionDelay
		}), func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				for {
					short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
					_, msg, err := c.Read(short)
					cancel()
					switch {
					case err == nil:
						if err := c.Write(ctx, wsguard.MessageText, msg); err != nil {
							return err
						}
					case ctx.Err() != nil:
						return err
					default:
						time.Sleep(900 * time.Millisecond) // the message waits meanwhile
					}
				}
			})
		})
		c := e.open(header())
		c.WriteFrame(wstest.Text("one"))
		c.WriteFrame(wstest.Text("two"))
		time.Sleep(500 * time.Millisecond)
		c.WriteFrame(wstest.Ping([]byte("ping")))
		c.WriteFrame(wstest.Text("three"))
		wantMessage(t, c, "one")
		wantFrames(t, c, fromServer(wstest.OpPong, "ping"))
		wantMessage(t, c, "two")
		wantMessage(t, c, "three")
		c.Close()
		if ev := e.closed(); ev.Reason != "connection_lost" {
			t.Errorf("%+v", ev)
		}
	})
}

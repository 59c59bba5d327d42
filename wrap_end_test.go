package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// guardEnds are the ends of the guard's own. Each ends the only connection.
var guardEnds = map[string]struct {
	change func(*wsguard.Config)
	do     func(e *wrapEnv, c *wstest.Client)
	code   int
	why    string
}{
	"Kick":       {nil, func(e *wrapEnv, _ *wstest.Client) { e.kick(0, "") }, 3003, "kicked"},
	"Kick, 4000": {nil, func(e *wrapEnv, _ *wstest.Client) { e.kick(4000, "go away") }, 4000, "go away"},
	"Revoke":     {nil, func(e *wrapEnv, _ *wstest.Client) { e.g.Admin().Revoke("alice") }, 3000, "revoked"},
	"SignOut":    {nil, func(e *wrapEnv, _ *wstest.Client) { e.g.Admin().SignOut("login") }, 3000, "revoked"},
	"Shutdown":   {nil, func(e *wrapEnv, _ *wstest.Client) { go e.g.Shutdown(context.Background()) }, 1012, "draining"},
	"Expired": {func(cfg *wsguard.Config) {
		cfg.Auth.Verifier = wrapLogin(time.Now().Add(time.Minute))
	}, func(*wrapEnv, *wstest.Client) { time.Sleep(61 * time.Second) }, 3000, "expired"},
	"Lifetime": {func(cfg *wsguard.Config) { cfg.Timeouts.Lifetime = time.Minute },
		func(*wrapEnv, *wstest.Client) { time.Sleep(67 * time.Second) }, 1001, "lifetime"},
	"Idle": {func(cfg *wsguard.Config) { cfg.Timeouts.Idle = time.Minute },
		func(*wrapEnv, *wstest.Client) { time.Sleep(time.Minute) }, 3008, "idle"},
	"Pong": {func(cfg *wsguard.Config) { cfg.Timeouts.PingInterval, cfg.Timeouts.Pong = time.Minute, time.Second },
		func(*wrapEnv, *wstest.Client) { time.Sleep(68 * time.Second) }, 3008, "pong_timeout"},
	"violation": {nil, func(_ *wrapEnv, c *wstest.Client) { c.WriteFrame(wstest.Binary(nil)) }, 1003, "message_type"},
}

func wrapLogin(expires time.Time) wsguard.Verifier {
	return func(context.Context, string) (wsguard.Principal, error) {
		return wsguard.Principal{Subject: "alice", SessionID: "login", Expires: expires}, nil
	}
}

// guardEnd opens a connection for one of guardEnds.
func guardEnd(t *testing.T, name string) (*wrapEnv, *wstest.Client, *served) {
	t.Helper()
	cfg := conf(noPings)
	cfg.Auth.Verifier = wrapLogin(time.Time{})
	if change := guardEnds[name].change; change != nil {
		change(&cfg)
	}
	e := wrapWith(t, cfg, answer101)
	c := e.open(bearer("x"))
	return e, c, <-e.conns
}

// When the guard ends the connection, the peer gets the code, and the handler a close frame
// with the same code, then EOF. Everything is back then.
func TestWrapGuardEnds(t *testing.T) {
	for name, end := range guardEnds {
		for _, answers := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, answered %t", name, answers), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e, c, s := guardEnd(t, name)
					go func() { // the handler is in Read
						s.in.Peek(1)
					}()
					c.Timeout = 2 * time.Minute
					go end.do(e, c)
					wantClose(t, c, end.code, end.why)
					if answers {
						c.WriteFrame(wstest.CloseFrame(end.code, end.why))
					}
					start := time.Now()
					if err := c.ReadEOF(); err != nil {
						t.Error(err)
					}
					if d := time.Since(start); answers && d > 0 || d > 2*time.Second {
						t.Errorf("EOF after %v", d)
					}
					c.Close()
					synctest.Wait()
					if s.over() {
						t.Error("the context has ended before the handler has read the end")
					}
					s.wantEnd(t, end.code, end.why)
					synctest.Wait()
					if !s.over() {
						t.Error("the context has not ended")
					}
					if _, err := s.Write(encode(fromServer(wstest.OpText, "late"))); !errors.Is(err, net.ErrClosed) {
						t.Errorf("Write returns %v", err)
					}
					ev := e.events.wait(t, audit.Close, 1)
					if int(ev.Code) != end.code || ev.Remote || !strings.Contains(ev.Reason+ev.Detail, end.why) {
						t.Errorf("%+v", ev)
					}
					s.Close()
					e.wantGone(t, s)
				})
			})
		}
	}
}

// The context of the request outlives the connection until the handler has read its end,
// but not for longer than grace and linger.
func TestWrapContextIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, c, s := wrapOpen(t, conf(noPings))
		e.kick(0, "")
		wantClose(t, c, 3003, "kicked")
		bye(c)
		synctest.Wait()
		if s.over() || len(e.events.of(audit.Close)) != 1 {
			t.Errorf("over %t, %s", s.over(), e.events)
		}
		if d := within(func() { <-s.r.Context().Done() }); d != 2*time.Second {
			t.Errorf("after %v", d)
		}
		var ce *wsguard.CloseError
		if err := context.Cause(s.r.Context()); !errors.As(err, &ce) || ce.Code != 3003 {
			t.Errorf("its cause is %v", err)
		}
		e.wantGone(t, s)
	})
}

// The peer gets the code at a frame boundary: a frame of the handler's that is under way
// has the grace. If the grace ends within it, no close frame is sent: FIN only.
func TestWrapGuardEndsWithinAFrame(t *testing.T) {
	whole := encode(fromServer(wstest.OpBinary, strings.Repeat("x", 10_000)), fromServer(wstest.OpText, "next"))
	for _, completed := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			e, c, s := wrapOpen(t, conf(noPings))
			s.Write(whole[:5000])
			e.kick(0, "")
			time.Sleep(900 * time.Millisecond)
			start := time.Now()
			if completed {
				if n, err := s.Write(whole[5000:]); n != 5004 || !errors.Is(err, net.ErrClosed) {
					t.Errorf("%d, %v", n, err)
				}
				wantFrames(t, c, fromServer(wstest.OpBinary, strings.Repeat("x", 10_000)), fromServer(wstest.OpClose, closing(3003, "kicked")))
				if d := time.Since(start); d > 0 {
					t.Errorf("after %v", d)
				}
			} else {
				if _, err := c.ReadFrame(); !errors.Is(err, io.ErrUnexpectedEOF) || time.Since(start) != 100*time.Millisecond {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				if _, err := s.Write(whole[5000:]); !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			}
			s.wantEnd(t, 3003, "kicked")
			c.Close()
			e.wantGone(t, s)
		})
	}
}

// A piece that is held back is not on the wire: the close frame does not wait for its rest.
func TestWrapGuardEndsBehindAPiece(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, c, s := wrapOpen(t, conf(noPings))
		s.send(t, wstest.Frame{Opcode: wstest.OpText, Payload: []byte("fragment")})
		s.Write([]byte("\x80\x05hel"))
		e.kick(0, "")
		if d := within(func() {
			wantFrames(t, c, wstest.Frame{Opcode: wstest.OpText, Payload: []byte("fragment")}, fromServer(wstest.OpClose, closing(3003, "kicked")))
		}); d > 0 {
			t.Errorf("after %v", d)
		}
		if _, err := s.Write([]byte("lo")); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		s.Close()
		c.Close()
		e.wantGone(t, s)
	})
}

// The handler that is told of the end and closes at once does not cost the peer its code.
func TestWrapHandlerClosesBehindTheGuard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for range 50 {
			e, c, s := wrapOpen(t, conf(noPings))
			go func() {
				s.frame()
				s.Close()
			}()
			e.kick(0, "")
			wantClose(t, c, 3003, "kicked")
			c.Close()
			s.release()
		}
	})
}

// Frames of which the handler has read a part are completed for it, then comes the close
// frame.
func TestWrapCompletesWhatIsBegun(t *testing.T) {
	for name, end := range guardEnds {
		if name == "Pong" || name == "Idle" { // they do not run while the handler is away
			continue
		}
		for _, size := range []int{100, 30_000} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e, c, s := guardEnd(t, name)
					frame := encode(wstest.Text(strings.Repeat("x", size)))
					c.Write(frame)
					b := make([]byte, 10)
					if n, err := s.Read(b[:2]); n != 2 || err != nil {
						t.Fatal(n, err)
					}
					if name != "violation" { // nobody reads it now
						end.do(e, c)
						wantClose(t, c, end.code, end.why)
					} else {
						end.do(e, c)
					}
					// Other connections use what the engine gives back.
					for range 5 {
						other := e.dial()
						if res, err := other.Handshake("/", bearer("x")); err != nil || res.StatusCode != 101 {
							break // draining, say
						}
						o := <-e.conns
						other.WriteFrame(wstest.Text(strings.Repeat("y", size)))
						o.wantFrame(t, wstest.OpText, strings.Repeat("y", size))
						other.Close()
						o.Close()
						o.release()
					}
					got := append([]byte(nil), b[:2]...)
					for len(got) < len(frame) {
						n, err := s.Read(b)
						got = append(got, b[:n]...)
						if err != nil {
							t.Fatal(err)
						}
					}
					if string(got) != string(frame) {
						t.Errorf("%.100x", got)
					}
					s.wantEnd(t, end.code, end.why)
				})
			})
		}
	}
}

// A message that was judged while the connection ended, and of which the handler has read
// nothing, is dropped after Revoked, Expired and SignOut, and delivered otherwise.
func TestWrapJudgedWhileItEnds(t *testing.T) {
	for name, end := range guardEnds {
		if name == "violation" || name == "Pong" || name == "Idle" {
			continue
		}
		for _, authorize := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, Authorize %t", name, authorize), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					asked, answer := make(chan struct{}), make(chan struct{})
					cfg := conf(noPings)
					cfg.Auth.Verifier = wrapLogin(time.Time{})
					cfg.Auth.VerifyTimeout = time.Hour
					if authorize {
						cfg.Messages.Authorize = func(context.Context, wsguard.Principal, string, []byte) error {
							close(asked)
							<-answer
							return nil
						}
					} else {
						cfg.Messages.Validator = judge(func([]byte) error {
							close(asked)
							<-answer
							return nil
						})
					}
					if end.change != nil {
						end.change(&cfg)
					}
					e := wrapWith(t, cfg, answer101)
					c := e.open(bearer("x"))
					s := <-e.conns
					first := make(chan wstest.Frame, 1)
					go func() { f, _ := s.frame(); first <- f }()
					c.WriteFrame(wstest.Text("hello"))
					<-asked
					end.do(e, c)
					synctest.Wait()
					close(answer)
					f := <-first
					if dropped := end.code == 3000; dropped != (f.Opcode == wstest.OpClose) {
						t.Errorf("the handler reads %d %q", f.Opcode, f.Payload)
					}
					if f.Opcode == wstest.OpText {
						s.wantEnd(t, end.code, end.why)
					}
					wantClose(t, c, end.code, end.why)
				})
			})
		}
	}
}

// If the peer vanishes, the handler reads its network error and no close frame.
func TestWrapPeerVanishes(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(*wstest.PipeConn)
		want error
	}{
		"FIN":   {func(c *wstest.PipeConn) { c.Close() }, io.EOF},
		"reset": {func(c *wstest.PipeConn) { c.Reset() }, syscall.ECONNRESET},
	} {
		for _, when := range []string{"between messages", "within a message", "behind the handler's close frame", "while it writes"} {
			t.Run(name+" "+when, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e, c, s := wrapOpen(t, conf(noPings))
					code, why := 1006, "connection_lost"
					switch when {
					case "within a message":
						c.Write(encode(wstest.Text("hello"))[:8])
					case "behind the handler's close frame":
						s.send(t, fromServer(wstest.OpClose, closing(4000, "")))
						code, why = 4000, "closed"
					case "while it writes":
						go s.Write(encode(fromServer(wstest.OpBinary, strings.Repeat("x", 1<<20))))
						synctest.Wait()
					}
					test.do(c.Conn().(*wstest.PipeConn))
					want := test.want
					if when == "while it writes" && name == "FIN" {
						want = syscall.EPIPE // found by the Write
					}
					synctest.Wait()
					s.wantErr(t, want)
					if ev := e.events.wait(t, audit.Close, 1); int(ev.Code) != code || ev.Reason != why {
						t.Errorf("%+v", ev)
					}
					e.wantGone(t, s)
				})
			})
		}
	}
}

// The handler's return ends nothing. The slot comes back when the connection has ended and
// the handler has returned.
func TestWrapReturnEndsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, c, s := wrapOpen(t, conf(noPings))
		s.release()
		time.Sleep(time.Minute)
		c.WriteFrame(wstest.Text("hello"))
		s.wantFrame(t, wstest.OpText, "hello")
		s.send(t, fromServer(wstest.OpText, "hello"))
		wantFrames(t, c, fromServer(wstest.OpText, "hello"))
		if n := e.g.Conns(); n != 1 {
			t.Errorf("%d slots held", n)
		}
		go s.frame()
		c.WriteFrame(wstest.CloseFrame(1000, ""))
		wantClose(t, c, 1000, "")
		c.Close()
		synctest.Wait()
		if n := e.g.Conns(); n != 0 {
			t.Errorf("%d slots held", n)
		}
	})
}

// A panic of the handler after Hijack is 1011, then goes up to net/http. One before it
// gives the slot back.
func TestWrapPanic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var up any
		e := newWrapEnv(t, conf(noPings))
		h := e.play(answer101)
		e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() { up = recover() }()
			h.ServeHTTP(w, r)
		}))
		c := e.open(header())
		s := <-e.conns
		e.panic <- "oh no"
		s.release()
		wantClose(t, c, 1011, "internal_error")
		s.wantEnd(t, 1011, "internal_error")
		bye(c)
		synctest.Wait()
		if up != "oh no" || e.g.Conns() != 0 {
			t.Errorf("net/http sees %v; %d slots", up, e.g.Conns())
		}
		if ev := e.events.wait(t, audit.Warning, 1); ev.Reason != "panic" || !strings.Contains(string(ev.Stack), "harness_wrap_test.go") {
			t.Errorf("%+v", ev)
		}
		if ev := e.events.wait(t, audit.Close, 1); ev.Code != 1011 {
			t.Errorf("%+v", ev)
		}
	})
	bubble(t, func(t *testing.T) {
		e := serveWith(t, conf(noPings), func(g *wsguard.Guard) http.Handler {
			return g.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
		})
		c := e.dial()
		if _, err := c.Handshake("/", header()); err == nil {
			t.Error("a response")
		}
		if err := e.g.Shutdown(context.Background()); err != nil || e.g.Conns() != 0 {
			t.Errorf("%v, %d slots", err, e.g.Conns())
		}
	})
}

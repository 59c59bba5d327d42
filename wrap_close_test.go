package wsguard_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// The peer's close frame goes on to the handler, which answers it; after it inbound bytes
// are discarded.
func TestWrapPeerCloses(t *testing.T) {
	for name, test := range map[string]struct {
		sent, seen, answer, got string
		code                    int
	}{
		"with a reason":                {closing(1000, "bye"), closing(1000, "bye"), closing(1000, "bye"), closing(1000, "bye"), 1000},
		"the answer has none":          {closing(4000, "bye"), closing(4000, "bye"), closing(4000, ""), closing(4000, ""), 4000},
		"the answer is another":        {closing(1001, ""), closing(1001, ""), closing(1000, "ok"), closing(1000, "ok"), 1001},
		"without a code":               {"", "", "", "", 1005},
		"without a code, answered one": {"", "", closing(1000, ""), closing(1000, ""), 1005},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e, c, s := wrapOpen(t, conf(noPings))
				c.WriteFrame(wstest.Frame{Fin: true, Opcode: wstest.OpClose, Masked: true, Payload: []byte(test.sent)})
				c.Write([]byte("what comes behind it is no frame"))
				s.wantFrame(t, wstest.OpClose, test.seen)
				s.wantErr(t, io.EOF)
				// It may finish what it was about to say.
				s.send(t, fromServer(wstest.OpText, "last words"), fromServer(wstest.OpClose, test.answer))
				if n, err := s.Write([]byte("dropped")); n != 7 || err != nil {
					t.Errorf("behind its close frame: %d, %v", n, err)
				}
				wantFrames(t, c, fromServer(wstest.OpText, "last words"), fromServer(wstest.OpClose, test.got))
				if d := within(func() {
					if err := c.ReadEOF(); err != nil {
						t.Error(err)
					}
				}); d > 0 {
					t.Errorf("EOF after %v", d)
				}
				ev := e.events.wait(t, audit.Close, 1)
				if int(ev.Code) != test.code || int(ev.PeerCode) != test.code || !ev.Remote || ev.Reason != "peer_closed" || ev.MessagesOut != 1 {
					t.Errorf("%+v", ev)
				}
				e.wantGone(t, s)
			})
		})
	}
}

// If the handler has not answered within CloseGrace, the engine does, with the same code, also if
// the handler has not read the close frame. If it closes without having answered, the engine
// does so at once.
func TestWrapPeerCloseUnanswered(t *testing.T) {
	for name, test := range map[string]struct {
		do    func(*served)
		code  int
		after time.Duration
		frame bool // an answer comes
	}{
		"not read":            {func(*served) {}, 4000, 1200 * time.Millisecond, true}, // the sweeper has seen it
		"never":               {func(s *served) { s.frame() }, 4000, time.Second, true},
		"never, no code":      {func(s *served) { s.frame() }, 1005, time.Second, true},
		"closes":              {func(s *served) { s.frame(); s.Close() }, 4000, 0, true},
		"closes, no code":     {func(s *served) { s.frame(); s.Close() }, 1005, 0, true},
		"closes later":        {func(s *served) { s.frame(); time.Sleep(300 * time.Millisecond); s.Close() }, 4000, 300 * time.Millisecond, true},
		"half closes":         {func(s *served) { s.frame(); s.Conn.(halfCloser).CloseWrite() }, 4000, 0, true},
		"closes with a piece": {func(s *served) { s.frame(); s.Write([]byte("\x81\x05hel")); s.Close() }, 4000, 0, true},
		"closes mid-frame": {func(s *served) {
			s.frame()
			s.Write(encode(fromServer(wstest.OpText, strings.Repeat("x", 10_000)))[:5000])
			s.Close()
		}, 4000, 0, false},
		"never, mid-frame": {func(s *served) {
			s.frame()
			s.Write(encode(fromServer(wstest.OpText, strings.Repeat("x", 10_000)))[:5000])
		}, 4000, time.Second, false},
		"late": {func(s *served) {
			s.frame()
			time.Sleep(1500 * time.Millisecond)
			if _, err := s.Write(encode(fromServer(wstest.OpClose, closing(1000, "late")))); !errors.Is(err, net.ErrClosed) {
				panic(err)
			}
		}, 4000, time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e, c, s := wrapOpen(t, conf(noPings))
				c.WriteFrame(wstest.CloseFrame(test.code, ""))
				go test.do(s)
				start := time.Now()
				if test.frame {
					wantClose(t, c, test.code, "")
				}
				c.ReadEOF()
				if d := time.Since(start); d != test.after {
					t.Errorf("after %v", d)
				}
				if ev := e.events.wait(t, audit.Close, 1); int(ev.PeerCode) != test.code || ev.Reason != "peer_closed" {
					t.Errorf("%+v", ev)
				}
				c.Close()
				e.wantGone(t, s)
			})
		})
	}
}

type halfCloser interface{ CloseWrite() error }

// The handler's close frame goes out, and its code is in the event; what it writes after
// that is dropped without a 1011. It still reads the peer's answer, then EOF.
func TestWrapHandlerCloses(t *testing.T) {
	for name, payload := range map[string]string{"code": closing(4001, "done"), "none": ""} {
		for _, then := range []string{"reads", "closes"} {
			t.Run(name+", "+then, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e, c, s := wrapOpen(t, conf(noPings))
					s.send(t, fromServer(wstest.OpText, "hello"), fromServer(wstest.OpClose, payload), fromServer(wstest.OpText, "dropped"))
					for _, raw := range []string{"\x81\x01x", "not a frame", "\xff\xff"} {
						if n, err := s.Write([]byte(raw)); n != len(raw) || err != nil {
							t.Errorf("%d %v", n, err)
						}
					}
					c.WriteFrame(wstest.Text("crosses"))
					c.WriteFrame(wstest.CloseFrame(1000, "answer"))
					if then == "reads" {
						s.wantFrame(t, wstest.OpText, "crosses")
						s.wantFrame(t, wstest.OpClose, closing(1000, "answer"))
						s.wantErr(t, io.EOF)
					}
					if d := within(func() { s.Close() }); d > 0 {
						t.Errorf("Close takes %v", d)
					}
					wantFrames(t, c, fromServer(wstest.OpText, "hello"), fromServer(wstest.OpClose, payload))
					if d := within(func() {
						if err := c.ReadEOF(); err != nil {
							t.Error(err)
						}
					}); d > 0 {
						t.Errorf("EOF after %v", d)
					}
					ev := e.events.wait(t, audit.Close, 1)
					if want := 4001; payload != "" && int(ev.Code) != want || payload == "" && ev.Code != 1005 || ev.Remote || ev.Reason != "closed" || ev.MessagesOut != 1 {
						t.Errorf("%+v", ev)
					}
					c.Close()
					e.wantGone(t, s)
				})
			})
		}
	}
}

// A peer that does not answer the handler's close frame has the grace, then reads FIN, and
// has the linger; whether or not the handler closes.
func TestWrapHandlerCloseUnanswered(t *testing.T) {
	for _, closes := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			e, c, s := wrapOpen(t, conf(noPings))
			s.send(t, fromServer(wstest.OpClose, closing(4001, "")))
			if closes {
				s.Close()
			}
			wantClose(t, c, 4001, "")
			if d := within(func() {
				if err := c.ReadEOF(); err != nil {
					t.Error(err)
				}
			}); d != time.Second {
				t.Errorf("EOF after %v", d)
			}
			if !closes {
				s.wantErr(t, net.ErrClosed) // as if it had closed
			}
			s.release()
			if d := within(func() { e.idle() }); d < 990*time.Millisecond || d > 1010*time.Millisecond {
				t.Errorf("the slot is back after %v more", d)
			}
			if ev := e.events.wait(t, audit.Close, 1); ev.Code != 4001 || ev.Duration != 2*time.Second {
				t.Errorf("%+v", ev)
			}
		})
	}
}

// If the handler closes without a close frame, none is invented: FIN at once, also in the
// middle of its frame. Its Close returns at once; the linger runs apart.
func TestWrapHandlerClosesWithoutAFrame(t *testing.T) {
	for name, before := range map[string]string{
		"between messages": "", "within a small frame": "\x81\x05hel", "within a large frame": "\x82\x7e\xff\x00" + strings.Repeat("x", 9000),
		"within a message": "\x01\x01a",
	} {
		for _, linger := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e, c, s := wrapOpen(t, conf(noPings))
					s.Write([]byte(before))
					c.WriteFrame(wstest.Text("unread"))
					if d := within(func() { s.Close() }); d > 0 {
						t.Errorf("Close takes %v", d)
					}
					var b []byte
					var err error
					if d := within(func() { b, err = io.ReadAll(c.Conn()) }); d > 0 || err != nil {
						t.Errorf("the end after %v, %v", d, err)
					}
					want := before
					if name == "within a small frame" {
						want = ""
					}
					if !bytes.Equal(b, []byte(want)) {
						t.Errorf("%.80x", b)
					}
					s.release()
					if !linger {
						c.Close()
						synctest.Wait()
					} else if d := within(func() { e.idle() }); d > 2*time.Second {
						t.Errorf("lingers for %v", d)
					}
					if n := e.g.Conns(); n > 0 {
						t.Errorf("%d slots", n)
					}
					if ev := e.events.wait(t, audit.Close, 1); ev.Code != 1006 || ev.Reason != "closed" || ev.Remote {
						t.Errorf("%+v", ev)
					}
				})
			})
		}
	}
}

// CloseWrite ends the handler's direction: the peer reads FIN, the handler reads on, for
// no longer than grace and linger.
func TestWrapCloseWrite(t *testing.T) {
	for _, frame := range []bool{false, true} {
		for _, answers := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				e, c, s := wrapOpen(t, conf(noPings))
				code := 1006
				if frame {
					code = 4001
					s.send(t, fromServer(wstest.OpClose, closing(4001, "")))
				}
				for range 2 {
					if err := s.Conn.(halfCloser).CloseWrite(); err != nil {
						t.Error(err)
					}
				}
				if _, err := s.Write([]byte{0x81, 0}); !errors.Is(err, net.ErrClosed) && !frame {
					t.Error(err)
				}
				if frame {
					wantClose(t, c, 4001, "")
				}
				if d := within(func() {
					if err := c.ReadEOF(); err != nil {
						t.Error(err)
					}
				}); d > 0 {
					t.Errorf("FIN after %v", d)
				}
				c.WriteFrame(wstest.Ping([]byte("cannot be answered")))
				c.WriteFrame(wstest.Text("hello"))
				s.wantFrame(t, wstest.OpText, "hello")
				if answers {
					c.WriteFrame(wstest.CloseFrame(1000, ""))
					s.wantFrame(t, wstest.OpClose, closing(1000, ""))
					if !frame {
						code = 1000
					}
				}
				end := io.EOF
				if frame && !answers {
					end = net.ErrClosed
				}
				if d := within(func() { s.wantErr(t, end) }); answers && d > 0 || !answers && d != time.Second {
					t.Errorf("the handler reads EOF after %v", d)
				}
				s.Close()
				s.release()
				if d := within(func() { e.idle() }); d > time.Second+10*time.Millisecond {
					t.Errorf("the slot is back after %v more", d)
				}
				if ev := e.events.wait(t, audit.Close, 1); int(ev.Code) != code {
					t.Errorf("%+v", ev)
				}
			})
		}
	}
}

// A Kick, or the peer's own close, while the peer takes nothing is bounded too.
func TestWrapEndsAreBounded(t *testing.T) {
	for name, do := range map[string]func(*wrapEnv, *served){
		"Kick":  func(e *wrapEnv, _ *served) { e.kick(0, "") },
		"Close": func(_ *wrapEnv, s *served) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e, c, s := wrapOpen(t, conf(noPings))
				wrote := make(chan error, 1)
				go func() {
					_, err := s.Write(encode(fromServer(wstest.OpBinary, strings.Repeat("x", 1<<20))))
					wrote <- err
				}()
				time.Sleep(time.Second)
				start := time.Now()
				do(e, s)
				<-wrote
				if d := time.Since(start); d > time.Second {
					t.Errorf("Write returns after %v", d)
				}
				s.release()
				e.idle()
				if d := time.Since(start); d > 2010*time.Millisecond {
					t.Errorf("the slot is back after %v", d)
				}
				wstest.KeepAlive(t, c)
			})
		})
	}
}

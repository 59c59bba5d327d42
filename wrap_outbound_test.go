package wsguard_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// What the handler writes is followed frame by frame, whatever pieces it comes in.
func TestWrapPiecesOut(t *testing.T) {
	frames := []wstest.Frame{
		fromServer(wstest.OpText, ""), fromServer(wstest.OpText, "hello"), fromServer(wstest.OpPing, "ping"), fromServer(wstest.OpPong, ""),
		{Opcode: wstest.OpBinary, Payload: []byte("frag")}, fromServer(wstest.OpPing, strings.Repeat("p", 125)),
		{Opcode: wstest.OpContinuation, Payload: make([]byte, 5000)}, {Fin: true, Opcode: wstest.OpContinuation},
		fromServer(wstest.OpText, strings.Repeat("a", 126)), fromServer(wstest.OpText, strings.Repeat("b", 4220)),
		fromServer(wstest.OpText, strings.Repeat("c", 4221)), fromServer(wstest.OpText, strings.Repeat("d", 65_536)),
	}
	for _, outbound := range []bool{false, true} {
		for _, size := range []int{1, 2, 3, 5, 64, 1000, 4096, 4224, 4225, 1 << 20} {
			bubble(t, func(t *testing.T) {
				cfg := conf(noPings)
				cfg.Messages.MaxBytes = 1 << 20
				if outbound {
					cfg.Messages.Outbound = judge(func([]byte) error { return nil })
				}
				e, c, s := wrapOpen(t, cfg)
				go func() {
					for p := encode(frames...); len(p) > 0; {
						k := min(size, len(p))
						piece := append([]byte(nil), p[:k]...)
						if n, err := s.Write(piece); n != k || err != nil {
							t.Errorf("%d, %v", n, err)
							return
						}
						for i := range piece { // libraries use their buffers again
							piece[i] = 0xff
						}
						p = p[k:]
					}
				}()
				if !outbound {
					wantFrames(t, c, frames...)
				} else { // whole messages
					for _, want := range []string{"", "hello", "frag" + string(make([]byte, 5000)), strings.Repeat("a", 126)} {
						if _, got, err := c.ReadMessage(); err != nil || string(got) != want {
							t.Fatalf("%.80q %v", got, err)
						}
					}
					wantFrames(t, c, frames[len(frames)-3:]...)
				}
				synctest.Wait()
				if all := sessionsOf(e.g); all[" "].Stats.MessagesOut != 7 || all[" "].Stats.BytesOut != 5004+5+126+4220+4221+65_536 {
					t.Errorf("%+v", all)
				}
			})
		}
	}
}

// Nothing of the guard's stands within a frame of the handler's; a ping of the peer's is
// answered at its end, also between the fragments of a message.
func TestWrapPongsAtFrameBoundaries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, c, s := wrapOpen(t, conf(noPings))
		go io.Copy(io.Discard, s.in)
		whole := encode(wstest.Frame{Opcode: wstest.OpText, Payload: make([]byte, 10_000)})
		s.Write(whole[:6000])
		c.WriteFrame(wstest.Ping([]byte("1")))
		synctest.Wait()
		s.Write(whole[6000:])
		synctest.Wait()
		c.WriteFrame(wstest.Ping([]byte("2")))
		synctest.Wait()
		last := encode(wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: []byte("end")})
		s.Write(last[:3]) // too small to go out before it is whole
		c.WriteFrame(wstest.Ping([]byte("3")))
		synctest.Wait()
		s.Write(last[3:])
		wantFrames(t, c, wstest.Frame{Opcode: wstest.OpText, Payload: make([]byte, 10_000)}, fromServer(wstest.OpPong, "1"),
			fromServer(wstest.OpPong, "2"), fromServer(wstest.OpPong, "3"), wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: []byte("end")})
		// Within one Write of many frames, too.
		var many []wstest.Frame
		for range 200 {
			many = append(many, fromServer(wstest.OpText, strings.Repeat("x", 1000)))
		}
		go s.Write(encode(many...))
		synctest.Wait() // the peer reads nothing
		c.WriteFrame(wstest.Ping([]byte("4")))
		synctest.Wait()
		for i := range 201 {
			f, err := c.ReadFrame()
			if err != nil || f.Opcode == wstest.OpPong && i == 200 {
				t.Fatalf("%d: %+v %v", i, f, err)
			}
			if f.Opcode == wstest.OpPong {
				break
			}
		}
	})
}

// A notice is a data message and stands only between two messages of the handler's. At
// most 16 wait for that; further ones are counted and dropped.
func TestWrapNotices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := conf(noPings)
		cfg.Messages.Validator = judge(func([]byte) error { return errors.New("bad") })
		cfg.Messages.OnInvalid = wsguard.ActionReply
		e, c, s := wrapOpen(t, cfg)
		s.send(t, wstest.Frame{Opcode: wstest.OpText, Payload: []byte("fra")})
		for range 19 {
			c.WriteFrame(wstest.Text("bad"))
		}
		c.WriteFrame(wstest.Ping([]byte("x")))
		go s.frame()
		time.Sleep(time.Second)
		wantFrames(t, c, wstest.Frame{Opcode: wstest.OpText, Payload: []byte("fra")}, fromServer(wstest.OpPong, "x"))
		s.send(t, wstest.Frame{Opcode: wstest.OpContinuation, Payload: []byte("gme")}, fromServer(wstest.OpPing, ""),
			wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: []byte("nt")}, fromServer(wstest.OpText, "next"))
		wantFrames(t, c, wstest.Frame{Opcode: wstest.OpContinuation, Payload: []byte("gme")}, fromServer(wstest.OpPing, ""),
			wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: []byte("nt")})
		for range 16 {
			if f, err := c.ReadFrame(); err != nil || !strings.Contains(string(f.Payload), `"error":"invalid_message"`) || f.Opcode != wstest.OpText || !f.Fin {
				t.Fatalf("%+v %v", f, err)
			}
		}
		wantFrames(t, c, fromServer(wstest.OpText, "next"))
		bye(c)
		if ev := e.events.wait(t, audit.Close, 1); ev.Violations != 19 || ev.ViolationsWithoutNotice != 3 || ev.MessagesOut != 2 {
			t.Errorf("%+v", ev)
		}
	})
}

// A notice goes out at once where no message of the handler's is on the wire.
func TestWrapNoticeAtOnce(t *testing.T) {
	for _, held := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			cfg := conf(noPings)
			cfg.Messages.Validator = judge(func([]byte) error { return errors.New("bad") })
			cfg.Messages.OnInvalid = wsguard.ActionReply
			if held {
				cfg.Messages.Outbound = judge(func([]byte) error { return nil })
			}
			_, c, s := wrapOpen(t, cfg)
			part := encode(fromServer(wstest.OpText, strings.Repeat("x", 4000)))
			if held { // of any size, and in several frames
				part = encode(wstest.Frame{Opcode: wstest.OpText, Payload: make([]byte, 8000)}, wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: make([]byte, 8000)})
			}
			s.Write(part[:len(part)-1])
			c.WriteFrame(wstest.Text("bad"))
			go s.frame()
			if f, err := c.ReadFrame(); err != nil || !strings.Contains(string(f.Payload), "invalid_message") {
				t.Fatalf("%+v %v", f, err)
			}
			s.Write(part[len(part)-1:])
			if _, msg, err := c.ReadMessage(); err != nil || len(msg) < 4000 {
				t.Errorf("%d bytes, %v", len(msg), err)
			}
		})
	}
}

// Illegal in the handler's frames are: masked, reserved bits or opcodes, control frames
// that are long or fragmented, a wrong continuation, a bad close payload. Each is 1011 and
// an event. Nothing of it is on the wire, and the frames in front of it are.
func TestWrapIllegalFrames(t *testing.T) {
	for name, raw := range map[string]string{
		"masked":                   "\x81\x85\x00\x00\x00\x00hello",
		"reserved bit 1":           "\xc1\x00",
		"reserved bit 3":           "\x91\x00",
		"opcode 3":                 "\x83\x00",
		"opcode 11":                "\x8b\x00",
		"long ping":                "\x89\x7e\x00\x7e" + strings.Repeat("x", 126),
		"long close":               "\x88\x7e\x00\x7e\x03\xe8" + strings.Repeat("x", 124),
		"fragmented ping":          "\x09\x00",
		"fragmented close":         "\x08\x00",
		"continuation of nothing":  "\x80\x00",
		"text in a text":           "\x01\x01a\x81\x01b",
		"text in a text, and ping": "\x01\x01a\x89\x00\x81\x01b",
		"close of one byte":        "\x88\x01\x03",
		"close 999":                "\x88\x02\x03\xe7",
		"close 1005":               "\x88\x02\x03\xed",
		"close 1006":               "\x88\x02\x03\xee",
		"close 1010":               "\x88\x02\x03\xf2",
		"close 1015":               "\x88\x02\x03\xf7",
		"close 5000":               "\x88\x02\x13\x88",
		"close, not UTF-8":         "\x88\x03\x03\xe8\xff",
		"close, a cut code point":  "\x88\x04\x03\xe8\xe2\x82",
		"length with the top bit":  "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
	} {
		for _, pieces := range []bool{false, true} {
			for _, outbound := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, in pieces %t, held %t", name, pieces, outbound), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						cfg := conf(noPings)
						if outbound {
							cfg.Messages.Outbound = judge(func([]byte) error { return nil })
						}
						e, c, s := wrapOpen(t, cfg)
						var err error
						all := append(encode(fromServer(wstest.OpText, "before")), raw...)
						for len(all) > 0 && err == nil {
							k := len(all)
							if pieces {
								k = 1
							}
							_, err = s.Write(all[:k])
							all = all[k:]
						}
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("the handler's Write: %v", err)
						}
						if _, err := s.Write(encode(fromServer(wstest.OpText, "after"))); !errors.Is(err, net.ErrClosed) {
							t.Errorf("the next Write: %v", err)
						}
						wantFrames(t, c, fromServer(wstest.OpText, "before"))
						for { // what is legal in front of it
							f, err := c.ReadFrame()
							if err != nil {
								t.Fatal(err)
							}
							if f.Opcode == wstest.OpClose {
								if string(f.Payload) != closing(1011, "internal_error") {
									t.Errorf("%q", f.Payload)
								}
								break
							}
						}
						s.wantEnd(t, 1011, "internal_error")
						ev := e.events.wait(t, audit.Close, 1)
						if ev.Code != 1011 || ev.Reason != "internal_error" || !strings.Contains(ev.Detail, "the wrapped handler wrote") {
							t.Errorf("%+v", ev)
						}
						c.Close()
						e.wantGone(t, s)
					})
				})
			}
		}
	}
}

// UTF-8 and payload are looked at only with an outbound check.
func TestWrapOutboundUnchecked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := conf(noPings)
		cfg.Messages.MaxBytes = 1 << 10
		_, c, s := wrapOpen(t, cfg)
		go s.Write(encode(fromServer(wstest.OpText, "\xff"), fromServer(wstest.OpBinary, strings.Repeat("x", 1<<20))))
		wantFrames(t, c, fromServer(wstest.OpText, "\xff"), fromServer(wstest.OpBinary, strings.Repeat("x", 1<<20)))
	})
}

// With one, whole messages up to MaxBytes are held and judged. One that is refused does not
// go out, and is an event; a larger one is 1011.
func TestWrapOutboundChecked(t *testing.T) {
	for _, size := range []int{1, 7, 1 << 20} {
		bubble(t, func(t *testing.T) {
			cfg := conf(noPings)
			cfg.Messages.MaxBytes = 10_000
			cfg.Messages.Outbound = judge(func(msg []byte) error {
				if strings.Contains(string(msg), "secret") {
					return errors.New("secret")
				}
				return nil
			})
			e, c, s := wrapOpen(t, cfg)
			write := func(frames ...wstest.Frame) error {
				for p := encode(frames...); len(p) > 0; p = p[min(size, len(p)):] {
					if _, err := s.Write(p[:min(size, len(p))]); err != nil {
						return err
					}
				}
				return nil
			}
			if err := write(fromServer(wstest.OpText, "one"), fromServer(wstest.OpText, "a secret"),
				wstest.Frame{Opcode: wstest.OpText, Payload: []byte("sec")}, fromServer(wstest.OpPing, "p"),
				wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: []byte("ret")},
				fromServer(wstest.OpText, "\xff"), fromServer(wstest.OpBinary, "\xff"), fromServer(wstest.OpText, strings.Repeat("x", 10_000))); err != nil {
				t.Fatal(err)
			}
			wantFrames(t, c, fromServer(wstest.OpText, "one"), fromServer(wstest.OpPing, "p"),
				fromServer(wstest.OpBinary, "\xff"), fromServer(wstest.OpText, strings.Repeat("x", 10_000)))
			if all := e.events.of(audit.Violation); len(all) != 3 {
				t.Errorf("%d events:\n%s", len(all), e.events)
			}
			// A ping alone is no message that would have to end.
			time.Sleep(time.Minute)
			if n := len(e.events.of(audit.Close)); n > 0 {
				t.Fatalf("%s", e.events)
			}
			half := strings.Repeat("x", 5001)
			err := write(wstest.Frame{Opcode: wstest.OpText, Payload: []byte(half)}, wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: []byte(half)})
			if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			wantClose(t, c, 1011, "internal_error")
			if ev := e.events.wait(t, audit.Close, 1); ev.Code != 1011 || !strings.Contains(ev.Detail, "MaxBytes") || ev.MessagesOut != 3 {
				t.Errorf("%+v", ev)
			}
			c.Close()
			e.wantGone(t, s)
		})
	}
}

// What is declared is not allocated before it comes.
func TestWrapOutboundDeclared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := conf(noPings)
		cfg.Messages.MaxBytes = 1 << 29
		noRates(&cfg)
		cfg.Messages.Outbound = judge(func([]byte) error { return nil })
		e, c, s := wrapOpen(t, cfg)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.Write([]byte("\x82\x7f\x00\x00\x00\x00\x1f\xff\xff\xff" + "x"))
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%d bytes are allocated for one", n)
		}
		time.Sleep(10 * time.Second)
		if ev := e.events.wait(t, audit.Close, 1); ev.Code != 1011 || !strings.Contains(ev.Detail, "unfinished") {
			t.Errorf("%+v", ev)
		}
		c.Close()
		e.wantGone(t, s)
	})
}

// A frame of the handler's that is not whole WriteTimeout after its last progress is 1011
// in the event and a cut.
func TestWrapUnfinishedFrame(t *testing.T) {
	for name, test := range map[string]struct {
		frame string
		seen  int // bytes on the wire
	}{
		"one byte":        {"\x82", 0},
		"a small frame":   {"\x82\x7e\x10\x00" + strings.Repeat("x", 1000), 0},
		"a large frame":   {"\x82\x7e\xff\x00" + strings.Repeat("x", 10_000), 10_004},
		"a continuation":  {"\x02\x01a\x00", 3},
		"a control frame": {"\x89\x05hell", 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e, c, s := wrapOpen(t, conf(noPings))
				at := 0
				for i := range 4 { // 9 s of progress
					k := len(test.frame) * (i + 1) / 4
					if k > at {
						s.Write([]byte(test.frame[at:k]))
						at = k
						if i < 3 {
							time.Sleep(3 * time.Second)
						}
					}
				}
				start := time.Now()
				b, _ := io.ReadAll(io.LimitReader(c.Conn(), 1<<20))
				if d := time.Since(start); d != 4*time.Second || len(b) != test.seen {
					t.Errorf("%d bytes, the end after %v", len(b), d)
				}
				if ev := e.events.wait(t, audit.Close, 1); ev.Code != 1011 || !strings.Contains(ev.Detail, "unfinished") {
					t.Errorf("%+v", ev)
				}
				e.wantGone(t, s)
			})
		})
	}
	// Between frames the handler may take its time, also within a message.
	bubble(t, func(t *testing.T) {
		_, c, s := wrapOpen(t, conf(noPings))
		s.send(t, wstest.Frame{Opcode: wstest.OpText, Payload: []byte("a")})
		time.Sleep(time.Minute)
		s.send(t, wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: []byte("b")})
		if _, msg, err := c.ReadMessage(); string(msg) != "ab" {
			t.Error(msg, err)
		}
	})
}

// The write timeout is the connection's. A peer that takes something goes on.
func TestWrapWriteTimeout(t *testing.T) {
	for name, test := range map[string]struct {
		take  int // bytes a second
		stuck bool
	}{"stuck": {0, true}, "slow": {5000, false}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e, c, s := wrapOpen(t, conf(noPings))
				done := make(chan error, 1)
				go func() {
					_, err := s.Write(encode(fromServer(wstest.OpBinary, strings.Repeat("x", 300_000))))
					done <- err
				}()
				start := time.Now()
				go func() {
					for b := make([]byte, max(1, test.take)); test.take > 0; time.Sleep(time.Second) {
						if _, err := c.Conn().Read(b); err != nil {
							return
						}
					}
				}()
				err := <-done
				if !test.stuck {
					if err != nil {
						t.Errorf("%v after %v", err, time.Since(start))
					}
					return
				}
				if d := time.Since(start); d != 4*time.Second || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%v after %v", err, d)
				}
				s.wantEnd(t, 1008, "write_timeout")
				if ev := e.events.wait(t, audit.Close, 1); ev.Reason != "write_timeout" {
					t.Errorf("%+v", ev)
				}
				c.Close()
				e.wantGone(t, s)
			})
		})
	}
}

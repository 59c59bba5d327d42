package wsguard_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// Each judged message is one well-formed frame that is not fragmented, masked with the key
// of the message's first frame.
func TestWrapMessagesIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := conf(noPings)
		cfg.Messages.Binary, cfg.Messages.MaxBytes, cfg.Messages.ControlFrames = true, 1<<20, wsguard.Rate{PerSecond: wsguard.Off}
		noRates(&cfg)
		_, c, s := wrapOpen(t, cfg)
		for _, n := range []int{0, 1, 125, 126, 4095, 4096, 4224, 4225, 65535, 65536, 300_000} {
			for _, frames := range []int{1, 2, 7} {
				for _, op := range []byte{wstest.OpText, wstest.OpBinary} {
					msg := []byte(strings.Repeat("ä", n/2) + strings.Repeat("x", n%2))
					key := [4]byte{byte(n), byte(frames), op, 1}
					go func() {
						rest, first := msg, key
						for i := range frames {
							k := len(rest)
							if i < frames-1 {
								k = n / frames
							}
							f := wstest.Frame{Opcode: op, Fin: i == frames-1, Masked: true, Mask: first, Payload: rest[:k]}
							if i > 0 {
								f.Opcode, f.Mask = wstest.OpContinuation, [4]byte{9, 9, 9, byte(i)}
								c.WriteFrame(wstest.Pong([]byte("unasked")))
							}
							c.WriteFrame(f)
							rest = rest[k:]
						}
					}()
					for range frames - 1 {
						s.wantFrame(t, wstest.OpPong, "unasked")
					}
					if f := s.wantFrame(t, op, string(msg)); f.Mask != key {
						t.Errorf("%d bytes in %d frames: masked with %x, want %x", n, frames, f.Mask, key)
					}
				}
			}
		}
	})
}

// Frames that the engine makes itself get a random key, which is never zero.
func TestWrapKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := conf(noPings)
		cfg.Messages.ControlFrames = wsguard.Rate{PerSecond: wsguard.Off}
		_, c, s := wrapOpen(t, cfg)
		seen := map[[4]byte]bool{}
		for range 100 {
			c.WriteFrame(wstest.Pong([]byte("x")))
			seen[s.wantFrame(t, wstest.OpPong, "x").Mask] = true
		}
		c.WriteFrame(wstest.CloseFrame(1000, ""))
		seen[s.wantFrame(t, wstest.OpClose, closing(1000, "")).Mask] = true
		if len(seen) < 100 || seen[[4]byte{}] {
			t.Errorf("%d keys, zero among them: %t", len(seen), seen[[4]byte{}])
		}
	})
}

// One Read returns what has come whole; it does not wait for a message that is refused.
func TestWrapReadsWhatIsThere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := conf(noPings)
		cfg.Messages.Validator = judge(func(msg []byte) error {
			if string(msg) == "bad" {
				return errors.New("bad")
			}
			return nil
		})
		cfg.Messages.OnInvalid = wsguard.ActionReply
		_, c, s := wrapOpen(t, cfg)
		b := make([]byte, 4096)
		for _, bad := range []int{0, 1, 2} {
			good := encode(wstest.Text("one"), wstest.Text("two"))
			p := good
			for range bad {
				p = append(p, encode(wstest.Text("bad"))...)
			}
			c.Write(p)
			if d := within(func() {
				if n, err := s.Read(b); string(b[:n]) != string(good) || err != nil {
					t.Errorf("%x, %v", b[:n], err)
				}
			}); d > 0 {
				t.Errorf("after %v", d)
			}
			// The refused ones go first next time, if they have not been judged.
			c.WriteFrame(wstest.Text("three"))
			s.wantFrame(t, wstest.OpText, "three")
		}
		// And in small pieces.
		c.Write(encode(wstest.Text("hello"), wstest.Text("hallo"), wstest.Text("holla")))
		var got []byte
		for len(got) < 33 {
			n, err := s.Read(b[:3])
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b[:n]...)
		}
		if string(got) != string(encode(wstest.Text("hello"), wstest.Text("hallo"), wstest.Text("holla"))) {
			t.Errorf("%x", got)
		}
	})
}

// The guard answers the peer's pings, and the handler does not see them, also between the
// fragments of a message.
func TestWrapPingsOfThePeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, c, s := wrapOpen(t, conf(noPings))
		go func() {
			c.WriteFrame(wstest.Ping([]byte("one")))
			c.Write(fragment(wstest.OpText, false, []byte("hel")))
			c.WriteFrame(wstest.Ping([]byte("two")))
			c.Write(fragment(wstest.OpContinuation, true, []byte("lo")))
		}()
		s.wantFrame(t, wstest.OpText, "hello")
		wantFrames(t, c, fromServer(wstest.OpPong, "one"), fromServer(wstest.OpPong, "two"))
	})
}

// The handler's own pings go out, and their pongs go on to it and count towards the
// control rate like any.
func TestWrapPingsOfTheHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, c, s := wrapOpen(t, conf(noPings))
		for _, p := range []string{"", "1", "four", strings.Repeat("x", 125)} {
			s.send(t, fromServer(wstest.OpPing, p))
			wantFrames(t, c, fromServer(wstest.OpPing, p))
			c.WriteFrame(wstest.Pong([]byte(p)))
			s.wantFrame(t, wstest.OpPong, p)
		}
		time.Sleep(time.Minute)
		for range 21 {
			c.WriteFrame(wstest.Pong([]byte("x")))
		}
		for range 20 {
			s.wantFrame(t, wstest.OpPong, "x")
		}
		s.wantEnd(t, 1008, "control_flood")
		wantClose(t, c, 1008, "control_flood")
		if ev := e.events.wait(t, audit.Close, 1); ev.Reason != "control_flood" {
			t.Errorf("%+v", ev)
		}
	})
}

// The pongs to the guard's own pings do not reach the handler.
func TestWrapPingsOfTheGuard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{}
		cfg.Timeouts.PingInterval, cfg.Timeouts.Pong, cfg.Timeouts.Idle = 10*time.Second, 5*time.Second, time.Hour
		e, c, s := wrapOpen(t, cfg)
		go func() {
			c.Timeout = time.Minute
			for range 20 {
				f, err := c.ReadFrame()
				if err != nil || f.Opcode != wstest.OpPing || len(f.Payload) != 8 {
					t.Errorf("%+v %v", f, err)
					return
				}
				c.WriteFrame(wstest.Pong(f.Payload))
			}
			c.WriteFrame(wstest.Text("alive"))
		}()
		s.wantFrame(t, wstest.OpText, "alive")
		if len(e.events.of(audit.Close)) > 0 {
			t.Errorf("%s", e.events)
		}
	})
}

// A pong to a ping of the handler's clears the guard's own ping that waits, and the guard
// does not ping right behind it: a peer may answer only the latest of several pings.
func TestWrapPongsStandForEachOther(t *testing.T) {
	for name, first := range map[string]bool{"the peer answers the first only": true, "the peer answers the latest only": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cfg := wsguard.Config{}
				cfg.Timeouts.PingInterval, cfg.Timeouts.Pong, cfg.Timeouts.Idle = 10*time.Second, 5*time.Second, time.Hour
				e, c, s := wrapOpen(t, cfg)
				pongs := 0
				go func() {
					for {
						f, err := s.frame()
						if err != nil {
							return
						}
						if f.Opcode == wstest.OpPong {
							pongs++
						}
					}
				}()
				go func() {
					for !s.over() {
						s.Write(encode(fromServer(wstest.OpPing, "")))
						time.Sleep(7 * time.Second)
					}
				}()
				c.Timeout = time.Minute
				pings := 0
				for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); {
					f, err := c.ReadFrame()
					if err != nil || f.Opcode != wstest.OpPing {
						t.Fatalf("%+v %v; events:\n%s", f, err, e.events)
					}
					pings++
					time.Sleep(100 * time.Millisecond)
					for { // what has come meanwhile
						c.Timeout = time.Nanosecond
						g, err := c.ReadFrame()
						c.Timeout = time.Minute
						if err != nil {
							break
						}
						if pings++; !first {
							f = g
						}
					}
					c.WriteFrame(wstest.Pong(f.Payload))
				}
				synctest.Wait()
				if pongs < 40 {
					t.Errorf("%d of 43 pings of the handler's are answered", pongs)
				}
			})
		})
	}
}

// A pong that answers a ping of the guard's does not reach the handler, however late it comes,
// and however often. All others do.
func TestWrapLatePongs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{}
		cfg.Timeouts.PingInterval, cfg.Timeouts.Pong, cfg.Timeouts.Idle = 10*time.Second, 5*time.Second, time.Hour
		_, c, s := wrapOpen(t, cfg)
		c.Timeout = time.Minute
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 20 { // as many of the guard's pings, and the peer answers them at the end
				s.wantFrame(t, wstest.OpPong, fmt.Sprint(i))
			}
			s.wantFrame(t, wstest.OpPong, "x")
			s.wantFrame(t, wstest.OpText, "end")
		}()
		var pings [][]byte
		for i := range 20 {
			f, err := c.ReadFrame()
			if err != nil || f.Opcode != wstest.OpPing {
				t.Fatalf("%+v %v", f, err)
			}
			pings = append(pings, f.Payload)
			s.send(t, fromServer(wstest.OpPing, fmt.Sprint(i)))
			wantFrames(t, c, fromServer(wstest.OpPing, fmt.Sprint(i)))
			c.WriteFrame(wstest.Pong([]byte(fmt.Sprint(i))))
		}
		for _, p := range pings {
			for range 2 {
				time.Sleep(100 * time.Millisecond)
				c.WriteFrame(wstest.Pong(p))
			}
		}
		c.WriteFrame(wstest.Pong([]byte("x")))
		c.WriteFrame(wstest.Text("end"))
		<-done
	})
}

// A pong that was sent again is no answer, and counts towards the control rate.
func TestWrapPongsAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{}
		cfg.Timeouts.PingInterval, cfg.Timeouts.Pong = 10*time.Second, 5*time.Second
		_, c, s := wrapOpen(t, cfg)
		go s.in.Peek(1)
		c.Timeout = time.Minute
		f, err := c.ReadFrame()
		if err != nil || f.Opcode != wstest.OpPing {
			t.Fatalf("%+v %v", f, err)
		}
		for range 22 {
			c.WriteFrame(wstest.Pong(f.Payload))
		}
		wantClose(t, c, 1008, "control_flood")
	})
}

// A peer that answers the handler's pings no more is noticed, as one that answers none of
// the guard's.
func TestWrapPongTimeout(t *testing.T) {
	for _, pings := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			cfg := wsguard.Config{}
			cfg.Timeouts.PingInterval, cfg.Timeouts.Pong = 10*time.Second, 5*time.Second
			e, c, s := wrapOpen(t, cfg)
			go func() {
				for pings && !s.over() {
					s.Write(encode(fromServer(wstest.OpPing, "x")))
					time.Sleep(2 * time.Second)
				}
			}()
			c.Timeout = time.Minute
			d := within(func() { s.wantEnd(t, 3008, "pong_timeout") })
			if d < 9*time.Second || d > 20*time.Second { // with the write timeout: a bubble has no sockets
				t.Errorf("after %v", d)
			}
			wantClose(t, c, 3008, "pong_timeout")
			if ev := e.events.wait(t, audit.Close, 1); ev.Reason != "pong_timeout" {
				t.Errorf("%+v", ev)
			}
		})
	}
}

// Idle and pong do not run against a peer while the handler is not in Read; lifetime and
// expiry do.
func TestWrapHandlerAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{}
		h := &cfg.Timeouts
		h.PingInterval, h.Pong, h.Idle, h.Lifetime = 10*time.Second, 5*time.Second, 20*time.Second, time.Hour
		e, c, s := wrapOpen(t, cfg)
		time.Sleep(30 * time.Minute)
		go c.ReadClose() // the guard pings meanwhile
		c.WriteFrame(wstest.Text("hello"))
		s.wantFrame(t, wstest.OpText, "hello")
		if len(e.events.of(audit.Close)) > 0 {
			t.Fatalf("%s", e.events)
		}
		time.Sleep(40 * time.Minute)
		synctest.Wait()
		if ev := e.events.wait(t, audit.Close, 1); ev.Reason != "lifetime" || ev.Code != 1001 {
			t.Errorf("%+v", ev)
		}
		s.wantEnd(t, 1001, "lifetime")
	})
}

// Actions work as for Conn: close, reply, delay and report.
func TestWrapActions(t *testing.T) {
	cfg := func(a wsguard.Action) wsguard.Config {
		cfg := conf(noPings)
		cfg.Rates.Messages, cfg.Rates.Action = wsguard.Rate{PerSecond: 1, Burst: 2}, a
		if a == reportOnly {
			cfg.Rates.Action, cfg.Rates.ReportOnly = wsguard.ActionClose, true
		}
		return cfg
	}
	three := encode(wstest.Text("1"), wstest.Text("2"), wstest.Text("3"))
	t.Run("close", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			_, c, s := wrapOpen(t, cfg(wsguard.ActionClose))
			c.Write(three)
			s.wantFrame(t, wstest.OpText, "1")
			s.wantFrame(t, wstest.OpText, "2")
			s.wantEnd(t, 1008, "rate_limited")
			wantClose(t, c, 1008, "rate_limited")
		})
	})
	t.Run("reply", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			_, c, s := wrapOpen(t, cfg(wsguard.ActionReply))
			c.Write(three)
			s.wantFrame(t, wstest.OpText, "1")
			s.wantFrame(t, wstest.OpText, "2")
			s.SetReadDeadline(time.Now().Add(time.Second))
			s.wantErr(t, os.ErrDeadlineExceeded)
			s.SetReadDeadline(time.Time{})
			wantFrames(t, c, fromServer(wstest.OpText, `{"error":"rate_limited","retry_after_ms":1000}`))
			c.Write(three[:len(three)/3])
			s.wantFrame(t, wstest.OpText, "1")
		})
	})
	t.Run("report", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			e, c, s := wrapOpen(t, cfg(reportOnly))
			c.Write(three)
			for i := range 3 {
				s.wantFrame(t, wstest.OpText, fmt.Sprint(i+1))
			}
			if ev := e.events.wait(t, audit.Violation, 1); !ev.Report || ev.Reason != "rate_limited" {
				t.Errorf("%+v", ev)
			}
		})
	})
	// A Read that ends under a delay loses nothing. Read gives what is there at once.
	t.Run("delay", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			_, c, s := wrapOpen(t, cfg(wsguard.ActionDelay))
			c.Write(three)
			b := make([]byte, 100)
			if d := within(func() {
				if n, err := s.Read(b); string(b[:n]) != string(three[:len(three)/3*2]) || err != nil {
					t.Errorf("%x %v", b[:n], err)
				}
			}); d > 0 {
				t.Errorf("two messages that may pass wait for %v", d)
			}
			start := time.Now()
			for range 9 {
				s.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err := s.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
			// One that is set while it waits wakes it.
			s.SetReadDeadline(time.Time{})
			go func() { time.Sleep(50 * time.Millisecond); s.SetReadDeadline(time.Unix(1, 0)) }()
			if _, err := s.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 950*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			s.SetReadDeadline(time.Time{})
			s.wantFrame(t, wstest.OpText, "3")
			if d := time.Since(start); d != time.Second {
				t.Errorf("the third passes after %v", d)
			}
			c.Write(three)
			go func() { time.Sleep(500 * time.Millisecond); s.Close() }()
			if d := within(func() { s.wantErr(t, net.ErrClosed) }); d != 500*time.Millisecond {
				t.Errorf("Close wakes after %v", d)
			}
		})
	})
}

// MessageTimeout runs while the handler is in Read.
func TestWrapMessageTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, c, s := wrapOpen(t, conf(noPings))
		c.Write(encode(wstest.Text("hello"))[:7])
		time.Sleep(time.Minute)
		if d := within(func() { s.wantEnd(t, 1008, "message_timeout") }); d < 10*time.Second || d > 10*time.Second+clockTick {
			t.Errorf("after %v", d)
		}
		wantClose(t, c, 1008, "message_timeout")
	})
}

// What the guard refuses does not reach the handler, in any form.
func TestWrapHostileFrames(t *testing.T) {
	for name, test := range map[string]struct {
		raw  string
		code int
		why  string
	}{
		"unmasked":            {"\x81\x05hello", 1002, "protocol_error"},
		"reserved bit":        {"\xc1\x85\x00\x00\x00\x00hello", 1002, "protocol_error"},
		"reserved opcode":     {"\x83\x80\x00\x00\x00\x00", 1002, "protocol_error"},
		"orphan continuation": {"\x80\x80\x00\x00\x00\x00", 1002, "protocol_error"},
		"fragmented ping":     {"\x09\x80\x00\x00\x00\x00", 1002, "protocol_error"},
		"top bit of length":   {"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00", 1002, "protocol_error"},
		"2^40 bytes":          {"\x81\xff\x00\x00\x01\x00\x00\x00\x00\x00", 1009, "message_too_big"},
		"not UTF-8":           {"\x81\x81\x00\x00\x00\x00\xff", 1007, "invalid_utf8"},
		"not UTF-8, early":    {"\x81\xfe\x01\x00\x00\x00\x00\x00\xff", 1007, "invalid_utf8"},
		"binary":              {"\x82\x80\x00\x00\x00\x00", 1003, "message_type"},
		"close of one byte":   {"\x88\x81\x00\x00\x00\x00\x03", 1002, "protocol_error"},
		"close 1005":          {"\x88\x82\x00\x00\x00\x00\x03\xed", 1002, "protocol_error"},
		"close, not UTF-8":    {"\x88\x83\x00\x00\x00\x00\x03\xe8\xff", 1007, "invalid_utf8"},
		"text in a text":      {"\x01\x81\x00\x00\x00\x00a\x81\x81\x00\x00\x00\x00b", 1002, "protocol_error"},
		"empty continuations": {"\x01\x80\x00\x00\x00\x00" + strings.Repeat("\x00\x80\x00\x00\x00\x00", 300), 1008, "fragments"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e, c, s := wrapOpen(t, conf(noPings))
				c.Write(encode(wstest.Text("before")))
				c.Write([]byte(test.raw))
				s.wantFrame(t, wstest.OpText, "before")
				s.wantEnd(t, test.code, test.why)
				wantClose(t, c, test.code, test.why)
				if err := c.ReadEOF(); err != nil {
					t.Error(err)
				}
				c.Close()
				e.wantGone(t, s)
			})
		})
	}
}

// onlyGood lets the message "good" pass.
type onlyGood struct{}

func (onlyGood) Validate(msg []byte) error {
	if string(msg) != "good" {
		return errors.New("not good")
	}
	return nil
}

// A message that was judged ahead and found invalid is over a rate when its turn comes, because
// another connection of the subject has used up the rate. It is refused for the rate, and not for
// what the check has said before.
func TestWrapJudgedAheadThenOverRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := wrapWith(t, conf(noPings, noRates, func(cfg *wsguard.Config) {
			cfg.Auth.Verifier = anyone
			cfg.Rates.SubjectMessages = wsguard.Rate{PerSecond: 0.001, Burst: 3}
			cfg.Messages.Validator = onlyGood{}
		}), answer101)
		open := func() (*wstest.Client, *served) {
			c := e.open(bearer("alice"))
			return c, <-e.conns
		}
		a, ofA := open()
		b, ofB := open()
		both := wstest.Text("good")
		both.Masked = true
		bad := wstest.Text("bad")
		bad.Masked = true
		a.Write(wstest.AppendFrame(wstest.AppendFrame(nil, both), bad))
		synctest.Wait()
		buf := make([]byte, 4096)
		if n, err := ofA.Read(buf); err != nil || n != 10 { // the head, the mask and "good"
			t.Fatal(n, err)
		}
		for range 2 {
			b.WriteFrame(wstest.Text("good"))
			if _, err := ofB.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := ofA.Read(buf); err != nil || buf[0] != 0x88 {
			t.Fatalf("%x, %v; want a close frame", buf[:n], err)
		}
		wantClose(t, a, 1008, "rate_limited")
		a.Close()
		ofA.end()
		e.events.wait(t, audit.Close, 1)
		if ev := e.events.of(audit.Close)[0]; !errors.Is(ev.Err, reason.RateLimited) {
			t.Error(ev.Err)
		}
		b.Close()
	})
}

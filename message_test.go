package wsguard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// bigMessages admits messages of 16 MiB as fast as they come.
func bigMessages(cfg *wsguard.Config) {
	patient(cfg)
	noRates(cfg)
	cfg.Messages.MaxBytes = 16 << 20
	cfg.Messages.Binary = true
	cfg.Messages.ControlFrames = wsguard.Rate{PerSecond: wsguard.Off}
}

func TestMessageSizes(t *testing.T) {
	sizes := []int{0, 1, 125, 126, 127, 4095, 4096, 4097, 4216, 4217, 4218, 4224, 65535, 65536, 65537, 1 << 20}
	run := func(t *testing.T, serve func(testing.TB, http.Handler, ...func(*http.Server)) *wstest.Server, sizes ...int) {
		wstest.CheckGoroutines(t)
		e := newEnv(t, conf(bigMessages))
		e.s = serve(t, echoDoor(e.g))
		c := e.open(header())
		c.Timeout = time.Minute
		for _, n := range sizes {
			for _, op := range []byte{wstest.OpBinary, wstest.OpText} {
				var pattern [256]byte
				for i := range pattern {
					pattern[i] = byte(i * 31)
					if op == wstest.OpText {
						pattern[i] &= 0x7f
					}
				}
				msg := bytes.Repeat(pattern[:], n/len(pattern)+1)[:n]
				go c.Write(fragment(op, true, msg))
				gotOp, p, err := c.ReadMessage()
				if err != nil || gotOp != op || !bytes.Equal(p, msg) {
					t.Fatalf("%d bytes: opcode %d, %d bytes, %v", n, gotOp, len(p), err)
				}
			}
		}
		c.Write([]byte("\x82\xff\x00\x00\x00\x00\x01\x00\x00\x01")) // one byte too many
		wantClose(t, c, 1009, "message_too_big")
		e.settle(c)
	}
	t.Run("TCP", func(t *testing.T) { run(t, wstest.Serve, sizes...) })
	t.Run("TLS", func(t *testing.T) { run(t, wstest.ServeTLS, sizes...) })
	// The largest where no write deadline can pass first.
	t.Run("pipe", func(t *testing.T) {
		bubble(t, func(t *testing.T) { run(t, wstest.ServePipe, 16<<20) })
	})
}

// However a conversation is cut into frames and into segments, and whatever
// control frames are in between, the echo is what was sent and each ping is
// answered (the last one that waits, at least).
func TestFragmentation(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := newEnv(t, conf(noHandshakeLimits, bigMessages))
	for _, secure := range []bool{false, true} {
		serve := wstest.Serve
		if secure {
			serve = wstest.ServeTLS
		}
		e.s = serve(t, echoDoor(e.g))
		for round := range 8 {
			var want [][]byte
			var ops []byte
			var wire []byte
			for range 20 {
				op := wstest.OpBinary
				msg := make([]byte, []int{0, 1, 125, 126, 300, 5000, 70_000}[rand.N(7)])
				for i := range msg {
					msg[i] = byte(rand.Uint32())
				}
				if rand.N(2) == 0 {
					op = wstest.OpText
					msg = []byte(strings.ToValidUTF8(string(msg), "€"))
				}
				want, ops = append(want, msg), append(ops, op)
				for _, f := range fragments(op, msg, 63) {
					wire = append(wire, f...)
					for rand.N(3) == 0 {
						wire = append(wire, fragment(wstest.OpPing+byte(rand.N(2)), true, make([]byte, rand.N(126)))...)
					}
				}
			}
			wire = append(wire, wstest.AppendFrame(nil, wstest.Ping([]byte("the last")))...)
			c := e.open(header())
			c.Timeout = time.Minute
			go func() {
				for len(wire) > 0 {
					n := len(wire)
					switch {
					case round == 0: // all in one
					case round == 1 && len(wire) > 1 && n < 1<<16:
						n = 1
					default:
						n = min(n, 1+rand.N([]int{10, 200, 5000, 60_000}[rand.N(4)]))
					}
					if _, err := c.Write(wire[:n]); err != nil {
						t.Error(err)
						return
					}
					wire = wire[n:]
				}
			}()
			for i := 0; ; {
				f, err := c.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if f.Opcode == wstest.OpPong {
					if string(f.Payload) == "the last" {
						if i != len(want) {
							t.Fatalf("the last pong after %d messages", i)
						}
						break
					}
					continue
				}
				if f.Opcode != ops[i] || !f.Fin || !bytes.Equal(f.Payload, want[i]) {
					t.Fatalf("message %d: opcode %d, %d bytes, want %d, %d", i, f.Opcode, len(f.Payload), ops[i], len(want[i]))
				}
				i++
			}
			e.settle(c)
		}
	}
}

// A whole conversation, byte by byte and in one write.
func TestConversation(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, conf(bigMessages))
	var wire []byte
	for _, f := range [][]byte{
		fragment(1, true, []byte("one")),
		fragment(1, false, []byte("t")), fragment(9, true, []byte("p1")), fragment(0, false, nil), fragment(10, true, []byte("x")), fragment(0, true, []byte("wo")),
		fragment(1, true, nil),
		fragment(1, false, nil), fragment(0, false, nil), fragment(0, true, nil),
		fragment(2, true, bytes.Repeat([]byte{0xff}, 126)),
		fragment(1, false, []byte("\xf0\x9f")), fragment(0, false, []byte("\x98")), fragment(0, true, []byte("\x80")),
		fragment(9, true, bytes.Repeat([]byte("p"), 125)),
		fragment(8, true, []byte("\x03\xe8bye")),
	} {
		wire = append(wire, f...)
	}
	for _, how := range []string{"byte by byte", "one write", "with the handshake"} {
		c := e.dial()
		if how == "with the handshake" {
			res, err := c.HandshakeWith(wstest.HandshakeOptions{Header: header(), Early: wire})
			if err != nil || res.StatusCode != 101 {
				t.Fatal(res, err)
			}
		} else {
			e.upgrade(c, header())
			c.Conn().(*net.TCPConn).SetNoDelay(true)
			n := len(wire)
			if how == "byte by byte" {
				n = 1
			}
			go func() {
				for b := wire; len(b) > 0; b = b[n:] {
					c.Write(b[:n])
				}
			}()
		}
		for i, want := range []string{"one", "two", "", "", strings.Repeat("\xff", 126), "😀"} {
			if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
				t.Fatalf("%s: message %d is %q, %v", how, i, p, err)
			}
		}
		wantClose(t, c, 1000, "bye")
		if err := c.ReadEOF(); err != nil {
			t.Error(err)
		}
		e.settle(c)
	}
}

// The default is 64 frames and one for each KiB of the largest message.
func TestFragmentLimit(t *testing.T) {
	for _, tt := range []struct {
		maxBytes     int64
		maxFragments int
		n, code      int
	}{
		{0, 0, 95, 0}, {0, 0, 96, 0}, {0, 0, 97, 1008}, // 32 KiB
		{1000, 0, 64, 0}, {1000, 0, 65, 1008},
		{1024, 0, 65, 0}, {1024, 0, 66, 1008},
		{1 << 20, 0, 1088, 0}, {1 << 20, 0, 1089, 1008},
		{1 << 20, 3, 3, 0}, {1 << 20, 3, 4, 1008},
		{0, wsguard.Off, 1000, 0},
	} {
		n, code := tt.n, tt.code
		bubble(t, func(t *testing.T) {
			e := newEnv(t, conf(noRates, func(cfg *wsguard.Config) {
				cfg.Messages.MaxBytes, cfg.Messages.MaxFragments = tt.maxBytes, tt.maxFragments
			}))
			e.serve(e.g.Handler(echo))
			c := e.open(header())
			for range 3 { // counted for each message
				b := fragment(1, false, []byte("x"))
				for range n - 2 {
					b = append(b, fragment(0, false, []byte("x"))...)
				}
				c.Write(append(b, fragment(0, true, []byte("x"))...))
				if code != 0 {
					wantClose(t, c, code, "fragments")
					return
				}
				wantMessage(t, c, strings.Repeat("x", n))
			}
		})
	}
}

// Text that is not UTF-8 does not leave. It is the caller's error, and the
// connection goes on.
func TestOutboundUTF8(t *testing.T) {
	bad := map[string][]byte{
		"a lone byte":     []byte("caf\xe9"),
		"cut":             []byte(strings.Repeat("x", 100) + "\xe2\x82"),
		"a surrogate":     []byte("\xed\xa0\x80"),
		"over-long":       []byte("\xc0\x80"),
		"beyond the last": []byte("\xf4\x90\x80\x80"),
		"at the end":      append(bytes.Repeat([]byte("x"), 1<<20), 0xff),
	}
	send := map[string]func(*wsguard.Conn, wsguard.MessageType, []byte) error{
		"Write": func(c *wsguard.Conn, typ wsguard.MessageType, msg []byte) error {
			return c.Write(context.Background(), typ, msg)
		},
		"Send":       (*wsguard.Conn).Send,
		"SendLatest": func(c *wsguard.Conn, typ wsguard.MessageType, msg []byte) error { return c.SendLatest("k", typ, msg) },
	}
	refused := func(t *testing.T, err error) {
		t.Helper()
		var ce *wsguard.CloseError
		if err == nil || errors.As(err, &ce) || !errors.Is(err, reason.InvalidUTF8) {
			t.Errorf("error %v", err)
		}
	}
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		for how, send := range send {
			e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				for name, msg := range bad {
					kept := bytes.Clone(msg)
					refused(t, send(c, wsguard.MessageText, msg))
					if !bytes.Equal(kept, msg) {
						t.Errorf("%s %s: the message is changed", how, name)
					}
				}
				// What Read returned is judged again: it may have been changed.
				typ, msg, err := c.Read(ctx)
				if err != nil {
					return err
				}
				if err := send(c, typ, msg); err != nil {
					t.Error(how, err)
				}
				synctest.Wait() // it has left
				msg[0] = 0xff
				refused(t, send(c, typ, msg))
				refused(t, send(c, typ, msg[:1]))
				if err := send(c, wsguard.MessageBinary, msg); err != nil {
					t.Error(how, err)
				}
				for _, ok := range []string{"", "\x00", "\ufffd", "\U0010ffff"} {
					synctest.Wait()
					if err := send(c, wsguard.MessageText, []byte(ok)); err != nil {
						t.Errorf("%s %q: %v", how, ok, err)
					}
				}
				synctest.Wait()
				return nil
			}))
			c := e.open(header())
			c.WriteFrame(wstest.Text("pong"))
			for _, want := range []string{"pong", "\xffong", "", "\x00", "\ufffd", "\U0010ffff"} {
				wantMessage(t, c, want)
			}
			wantClose(t, c, 1000, "")
			c.Close()
			if ev := e.closed(); ev.MessagesOut != 6 || ev.Violations != 0 {
				t.Errorf("%s: %+v", how, ev)
			}
		}
	})
}

// A notice is UTF-8, whatever is in the message that it is about.
func TestNoticeUTF8(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			cfg.Messages.Binary = true
			cfg.Messages.Validator, cfg.Messages.OnInvalid = must(wsguard.CompileSchema([]byte(`{"additionalProperties":{"type":"null"}}`))), wsguard.ActionReply
		}))
		e.serve(e.g.Handler(echo))
		c := e.open(header())
		for _, f := range []wstest.Frame{
			wstest.Text(`{"\ud800":1}`), wstest.Text(`{"café` + strings.Repeat("é", 100) + `":1}`), wstest.Binary([]byte("{\"\xff\":1}")),
		} {
			c.WriteFrame(f)
			op, p, err := c.ReadMessage()
			if err != nil || op != wstest.OpText || !utf8.Valid(p) || !bytes.Contains(p, []byte("invalid_message")) {
				t.Errorf("%d %q %v", op, p, err)
			}
		}
	})
}

// UTF-8 that is split at every byte is fine; bad UTF-8 is refused wherever it
// is split, and at the latest when the message ends.
func TestUTF8Split(t *testing.T) {
	texts := []string{"κόσμε", "a\u0080b\u07ffc\u0800d\uffffe\U00010000f\U0010ffffg", "\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbd", "\x00\x7f"}
	bad := []string{
		"ab\x80", "ab\xbf\xbfx", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf",
		"\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xfe", "\xff", "κόσ\xce", "κόσ\xe2\x82", "κόσ\xf0\x9f\x98", "\xc2a", "\xe2\x82a", "\xf0\x9f\x98a",
	}
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noHandshakeLimits, noRates))
		c := e.open(header())
		for _, text := range texts {
			if !utf8.ValidString(text) {
				t.Fatalf("%q", text)
			}
			for i := range len(text) + 1 {
				for j := i; j <= len(text); j++ {
					c.Write(append(append(fragment(1, false, []byte(text[:i])), fragment(0, false, []byte(text[i:j]))...), fragment(0, true, []byte(text[j:]))...))
					wantMessage(t, c, text)
				}
			}
			// And within a frame, in segments.
			f := fragment(1, true, []byte(text))
			for i := range f {
				c.Write(f[:i])
				synctest.Wait()
				c.Write(f[i:])
				wantMessage(t, c, text)
			}
		}
		for _, text := range bad {
			for i := range len(text) + 1 {
				c := e.open(header())
				c.Write(append(fragment(1, false, []byte(text[:i])), fragment(0, true, []byte(text[i:]))...))
				wantClose(t, c, 1007, "invalid_utf8")
				c.Close()
				e.closed()
			}
		}
	})
}

// The message rate: forty at once, then twenty a second.
func TestRateClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{})
		c := e.open(header())
		for range 40 {
			roundTrip(t, c, "x")
		}
		for range 100 {
			time.Sleep(50 * time.Millisecond)
			roundTrip(t, c, "x")
		}
		c.WriteFrame(wstest.Text("x"))
		wantClose(t, c, 1008, "rate_limited")
		if ev := e.closed(); ev.MessagesIn != 140 || ev.MessagesOut != 140 || ev.Violations != 1 {
			t.Errorf("%+v", ev)
		}
	})
}

func TestRateReply(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(cfg *wsguard.Config) {
			cfg.Rates.Messages, cfg.Rates.Action = wsguard.Rate{PerSecond: 1, Burst: 2}, wsguard.ActionReply
		}))
		c := e.open(header())
		answer := browse(c)
		for range 102 {
			c.WriteFrame(wstest.Text("x"))
		}
		synctest.Wait()
		time.Sleep(5 * time.Second) // one token of each bucket at least
		for range 2 {
			c.WriteFrame(wstest.Text("y"))
		}
		synctest.Wait()
		c.WriteFrame(wstest.CloseFrame(1000, ""))
		a := <-answer
		echoes, notices := 0, 0
		for _, text := range a.texts {
			if text == "x" || text == "y" {
				echoes++
			} else if strings.HasPrefix(text, `{"error":"rate_limited"`) {
				notices++
			} else {
				t.Errorf("%q", text)
			}
		}
		if echoes != 4 || notices != 20 {
			t.Errorf("%d echoes, %d notices", echoes, notices)
		}
		if ev := e.closed(); ev.Violations != 100 || ev.ViolationsWithoutNotice != 80 || ev.Code != 1000 {
			t.Errorf("%+v", ev)
		}
		if n := len(e.events.of(audit.Violation)); n != 100 {
			t.Errorf("%d events", n)
		}
	})
}

func TestRateDelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(cfg *wsguard.Config) {
			cfg.Rates.Messages, cfg.Rates.Action = wsguard.Rate{PerSecond: 0.25, Burst: 2}, wsguard.ActionDelay
		}))
		c := e.open(header())
		for i := range 5 {
			c.WriteFrame(wstest.Text(fmt.Sprint(i)))
		}
		start := time.Now()
		for i, want := range []time.Duration{0, 0, 4, 8, 12} {
			wantMessage(t, c, fmt.Sprint(i))
			wantBetween(t, "message", time.Since(start), want*time.Second-10*time.Microsecond, want*time.Second+10*time.Microsecond)
		}
		settlePipe(c)
		e.closed()
	})
	bubble(t, func(t *testing.T) { // too long a delay
		e := serveGuard(t, conf(func(cfg *wsguard.Config) {
			cfg.Rates.Messages, cfg.Rates.Action = wsguard.Rate{PerSecond: 0.19, Burst: 1}, wsguard.ActionDelay
		}))
		c := e.open(header())
		c.WriteFrame(wstest.Text("a"))
		c.WriteFrame(wstest.Text("b"))
		start := time.Now()
		wantClose(t, c, 1008, "rate_limited")
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("after %v", d)
		}
		e.closed()
	})
}

func settlePipe(c *wstest.Client) { c.Close(); synctest.Wait() }

// What the byte rate holds back takes nothing from the message rate, and the
// other way round.
func TestRateTakesOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Messages.MaxBytes = 100
			cfg.Rates.Messages = wsguard.Rate{PerSecond: 0.001, Burst: 3}
			cfg.Rates.Bytes = wsguard.Rate{PerSecond: 100, Burst: 100}
			cfg.Rates.Action = wsguard.ActionDelay
		}))
		c := e.open(header())
		for range 3 {
			roundTrip(t, c, strings.Repeat("x", 100))
		}
		settlePipe(c)
	})
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Messages.MaxBytes = 100
			cfg.Rates.Bytes = wsguard.Rate{PerSecond: 50, Burst: 200}
			cfg.Rates.ClientBytes = wsguard.Rate{PerSecond: 100, Burst: 100}
			cfg.Rates.Action = wsguard.ActionDelay
		}))
		c := e.open(header())
		c.Timeout = time.Minute
		start := time.Now()
		for range 2 { // what the connection's bucket holds; the client's makes the second wait 1 s
			c.WriteFrame(wstest.Text(strings.Repeat("x", 100)))
		}
		for range 2 {
			wantMessage(t, c, strings.Repeat("x", 100))
		}
		wantBetween(t, "two messages", time.Since(start), time.Second-10*time.Microsecond, time.Second+10*time.Microsecond)
		settlePipe(c)
	})
}

func TestRateReport(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(cfg *wsguard.Config) { cfg.Rates.ReportOnly = true }))
		c := e.open(header())
		for range 50 {
			roundTrip(t, c, "x")
		}
		c.Close()
		if ev := e.closed(); ev.Violations != 10 || ev.MessagesIn != 50 {
			t.Errorf("%+v", ev)
		}
		for _, ev := range e.events.of(audit.Violation) {
			if !ev.Report || !errors.Is(ev.Err, reason.RateLimited) {
				t.Errorf("%+v", ev)
			}
		}
	})
}

// The byte rate, and the buckets that connections share.
func TestSharedRates(t *testing.T) {
	tests := []struct {
		name   string
		rates  func(*wsguard.RateConfig)
		token  func(i int) string
		client func(i int) netip.AddrPort
		all    int // messages of 1,000 bytes that ten connections get through, in all
	}{
		{"bytes of a connection", func(r *wsguard.RateConfig) { r.Bytes = wsguard.Rate{PerSecond: 1, Burst: 5000} }, nil, nil, 50},
		{"messages of a subject", func(r *wsguard.RateConfig) { r.SubjectMessages = wsguard.Rate{PerSecond: 0.01, Burst: 20} }, func(int) string { return "alice" }, nil, 20},
		{"messages of two subjects", func(r *wsguard.RateConfig) { r.SubjectMessages = wsguard.Rate{PerSecond: 0.01, Burst: 20} }, func(i int) string { return []string{"alice", "bob"}[i%2] }, nil, 40},
		{"bytes of a subject", func(r *wsguard.RateConfig) { r.SubjectBytes = wsguard.Rate{PerSecond: 0.01, Burst: 7000} }, func(int) string { return "alice" }, nil, 7},
		{"messages of a client", func(r *wsguard.RateConfig) { r.ClientMessages = wsguard.Rate{PerSecond: 0.01, Burst: 15} }, func(i int) string { return fmt.Sprint(i) }, nil, 15},
		{"messages of a /64", func(r *wsguard.RateConfig) { r.ClientMessages = wsguard.Rate{PerSecond: 0.01, Burst: 15} }, nil, func(i int) netip.AddrPort {
			return netip.MustParseAddrPort(fmt.Sprintf("[2001:db8::%d]:1000", i+1))
		}, 15},
		{"messages of two clients", func(r *wsguard.RateConfig) { r.ClientMessages = wsguard.Rate{PerSecond: 0.01, Burst: 15} }, nil, func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 2)}), uint16(1000+i))
		}, 30},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(noHandshakeLimits, anyToken, noRates, func(cfg *wsguard.Config) {
					cfg.Messages.MaxBytes = 1000
					cfg.InsecureAllowHTTP = true
					tt.rates(&cfg.Rates)
				}))
				got := 0
				for i := range 10 {
					token := "alice"
					if tt.token != nil {
						token = tt.token(i)
					}
					c := e.dial()
					if tt.client != nil {
						nc, err := e.s.Pipe.DialFrom(tt.client(i))
						if err != nil {
							t.Fatal(err)
						}
						c = wstest.NewClient(t, nc)
					}
					e.upgrade(c, bearer(token))
					for range 12 {
						if c.WriteFrame(wstest.Text(strings.Repeat("x", 1000))) != nil {
							break
						}
						_, _, err := c.ReadMessage()
						if err == nil {
							got++
							continue
						}
						var ce *wstest.CloseError
						if !errors.As(err, &ce) || ce.Code != 1008 || ce.Reason != "rate_limited" {
							t.Errorf("%v", err)
						}
						break
					}
					c.Close()
					synctest.Wait()
				}
				if got != tt.all {
					t.Errorf("%d messages came through, want %d", got, tt.all)
				}
			})
		})
	}
}

func TestSchemaClose(t *testing.T) {
	for msg, want := range map[string]struct {
		code   int
		reason string
	}{
		`{"n":1}`:                               {0, ""},
		`{"n":1.0}`:                             {0, ""},
		`{"n":-1}`:                              {1008, "schema"},
		`{"n":1,"x":2}`:                         {1008, "schema"},
		`{}`:                                    {1008, "schema"},
		`[]`:                                    {1008, "schema"},
		`{"n":1`:                                {1007, "invalid_json"},
		``:                                      {1007, "invalid_json"},
		`{"n":1}{"n":1}`:                        {1007, "invalid_json"},
		`{"n":1,"n":1}`:                         {1007, "invalid_json"},
		`{"n":1,"\u006e":1}`:                    {1007, "invalid_json"},
		"\ufeff{\"n\":1}":                       {1007, "invalid_json"},
		`{"\ud800":1}`:                          {1007, "invalid_json"},
		"{\"n\":1}\x00":                         {1007, "invalid_json"},
		"{\"n\":\xff}":                          {1007, "invalid_utf8"},
		`{"n":1e1000001}`:                       {1008, "json_limit"},
		`{"n":1e999999}`:                        {1008, "json_limit"},
		`{"n":` + strings.Repeat("1", 65) + `}`: {1008, "json_limit"},
		strings.Repeat("[", 100) + strings.Repeat("]", 100):                       {1008, "schema"}, // before it is too deep
		`{"` + strings.Repeat("k", 300) + `":1}`:                                  {1008, "json_limit"},
		strings.Repeat("[", 32<<10):                                               {1008, "schema"},
		`{"n":` + strings.Repeat(`{"n":`, 4000) + "1" + strings.Repeat("}", 4001): {1008, "schema"},
	} {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, conf(withSchema(wsguard.ActionClose)))
			c := e.open(header())
			c.Write(fragment(1, true, []byte(msg)))
			if want.code == 0 {
				wantMessage(t, c, msg)
				return
			}
			code, reason, err := c.ReadClose()
			if code != want.code || reason != want.reason || err != nil {
				t.Errorf("%.60q: %d %q %v, want %d %q", msg, code, reason, err, want.code, want.reason)
			}
			if ev := e.closed(); strings.Contains(fmt.Sprint(ev), strings.Repeat("k", 200)) {
				t.Errorf("the event holds a payload: %v", ev)
			}
		})
	}
}

func TestSchemaReply(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(cfg *wsguard.Config) { withSchema(wsguard.ActionReply)(cfg); noRates(cfg) }))
		c := e.open(header())
		c.Timeout = time.Minute
		roundTrip(t, c, `{"n":1}`)
		for msg, want := range map[string]string{
			`{"n":-1}`: `"pointer":"/n"`,
			`{"n":`:    `"error":"invalid_message"`,
			`{"n":1,"<script>\u202e` + strings.Repeat("y", 200) + `":1}`: `"error":"invalid_message"`,
		} {
			c.Write(fragment(1, true, []byte(msg)))
			_, p, err := c.ReadMessage()
			if err != nil || !strings.Contains(string(p), want) || !strings.Contains(string(p), `"error":"invalid_message"`) {
				t.Errorf("%q: %q, %v", msg, p, err)
			}
			if strings.ContainsAny(string(p), "<>\u202e") || len(p) > 1000 || !utf8.Valid(p) {
				t.Errorf("a notice of %d bytes: %q", len(p), p)
			}
		}
		// Notices are few, the messages are refused nevertheless.
		for range 100 {
			c.WriteFrame(wstest.Text(`{"n":"no"}`))
		}
		c.WriteFrame(wstest.Text(`{"n":2}`))
		notices := 3
		for {
			_, p, err := c.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			if string(p) == `{"n":2}` {
				break
			}
			notices++
		}
		c.WriteFrame(wstest.CloseFrame(1000, ""))
		wantClose(t, c, 1000, "")
		ev := e.closed()
		if notices != 20 || ev.Violations != 103 || ev.ViolationsWithoutNotice != 83 {
			t.Errorf("%d notices; %+v", notices, ev)
		}
	})
}

// Everything at once. What must hold at the end: each connection ended exactly
// once, and nothing is left of any.
func TestStorm(t *testing.T) {
	wstest.CheckGoroutines(t)
	n := rounds(1000, 60)
	e := newEnv(t, conf(noHandshakeLimits, anyToken, func(cfg *wsguard.Config) {
		withSchema(wsguard.ActionReply)(cfg)
		cfg.Rates.Action = wsguard.ActionDelay
		cfg.Timeouts.PingInterval, cfg.Timeouts.Pong = 20*time.Millisecond, 10*time.Millisecond
		cfg.Timeouts.Idle, cfg.Timeouts.Lifetime = 100*time.Millisecond, 300*time.Millisecond
		cfg.Timeouts.CloseGrace, cfg.Timeouts.Linger = 50*time.Millisecond, 50*time.Millisecond
		cfg.Timeouts.Write = 4900 * time.Millisecond // of the 101, too; the lifetime is over long before
		cfg.Messages.Timeout = 50 * time.Millisecond
	}))
	handler := func(ctx context.Context, c *wsguard.Conn) error {
		switch rand.N(12) {
		case 0:
			return nil
		case 1:
			panic("storm")
		case 2:
			runtime.Goexit()
		case 3:
			return &wsguard.CloseError{Code: 4000}
		case 4:
			c.CloseRead()
			for c.Send(wsguard.MessageText, make([]byte, 100)) == nil {
				runtime.Gosched()
			}
			return nil
		case 5:
			return c.Write(ctx, wsguard.MessageText, make([]byte, 4<<20))
		case 6:
			<-ctx.Done()
			return nil
		case 7:
			go func() { c.Close(4001, "x") }()
		case 8:
			for {
				rctx, cancel := context.WithTimeout(ctx, rand.N(3*time.Millisecond))
				_, _, err := c.Read(rctx)
				c.Write(rctx, wsguard.MessageText, []byte("{}"))
				cancel()
				var ce *wsguard.CloseError
				if errors.As(err, &ce) {
					return err
				}
			}
		}
		return echo(ctx, c)
	}
	plain, secure := wstest.Serve(t, e.g.Handler(handler)), wstest.ServeTLS(t, e.g.Handler(handler))
	jobs := make(chan int)
	var wg sync.WaitGroup
	opened := 0
	var mu sync.Mutex
	for range 32 {
		wg.Go(func() {
			for i := range jobs {
				s := plain
				if i%5 == 0 {
					s = secure
				}
				c := s.Dial(t)
				c.Timeout = time.Minute // of the machine's, which has more to do than it can
				subject := fmt.Sprint("s", i%50)
				if res, err := c.Handshake("/", bearer(fmt.Sprint(subject, "-", i))); err != nil || res.StatusCode != 101 {
					t.Error(res, err)
					continue
				}
				c.Timeout = 2 * time.Second
				mu.Lock()
				opened++
				mu.Unlock()
				browse := func() { <-browse(c) }
				go func() {
					switch i % 7 {
					case 0:
						e.g.Admin().Revoke(fmt.Sprint(subject, "-", i))
					case 1:
						if evs := e.events.of(audit.Open); len(evs) > 0 {
							e.g.Admin().Kick(evs[rand.N(len(evs))].ConnID, 0, "")
						}
					}
				}()
				switch rand.N(8) {
				case 0:
					browse()
				case 1:
					for range 60 {
						c.WriteFrame(wstest.Text(`{"n":1}`))
					}
					browse()
				case 2:
					c.Write([]byte{0x81, 0xfe, 1})
					time.Sleep(rand.N(20 * time.Millisecond))
				case 3:
					for range 30 {
						c.WriteFrame(wstest.Ping([]byte("x")))
					}
					browse()
				case 4:
					b := make([]byte, 1+rand.N(200))
					for i := range b {
						b[i] = byte(rand.Uint32())
					}
					c.Write(b)
					browse()
				case 5:
					c.WriteFrame(wstest.CloseFrame(1000, ""))
					c.ReadEOF()
				case 6: // reads nothing for a while
					c.WriteFrame(wstest.Text(`{"n":1}`))
					time.Sleep(rand.N(100 * time.Millisecond))
				case 7:
					for _, f := range fragments(1, []byte(`{"n":"bad"}`), 10) {
						c.Write(f)
					}
					browse()
				}
				c.Close()
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	e.idle()
	e.wantEachOnce()
	if n := len(e.events.of(audit.Close)); n != opened {
		t.Errorf("%d opened, %d close events", opened, n)
	}
	for _, ev := range e.events.of(audit.Close) {
		var ce *wsguard.CloseError
		if !errors.As(ev.Err, &ce) || ce.Code != ev.Code || ev.Duration > time.Minute {
			t.Errorf("%+v", ev)
		}
	}
}

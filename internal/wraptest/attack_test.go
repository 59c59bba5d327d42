package wraptest_test

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// attack is what a hostile client does, in one way or several. It is held when
// each of them is.
type attack struct {
	name string

	// guard is what the Config has that the attack is about. It is short where
	// the default would make the test slow.
	guard func(*wsguard.Config)

	// ways return nil when the target has held. They see the target from
	// outside only. Of a wrapped one they expect the very status or close code.
	ways []func(*target) error
}

var attacks = []attack{
	{
		name: "foreign or missing origin",
		ways: ways(
			refused(http.StatusForbidden, setHeader("Origin", "https://evil.example")),
			refused(http.StatusForbidden, func(s *target, o *wstest.HandshakeOptions) {
				o.Header.Set("Origin", s.origin+".evil.example")
			}),
			refused(http.StatusForbidden, func(_ *target, o *wstest.HandshakeOptions) {
				o.Header.Del("Origin")
				o.Header.Set("Cookie", "session=alice")
			}),
		),
	},
	{
		name: "rebound host",
		ways: ways(refused(http.StatusMisdirectedRequest, func(_ *target, o *wstest.HandshakeOptions) {
			o.Host = "evil.example"
			o.Header.Set("Origin", "http://evil.example")
		})),
	},
	{
		name: "clear text said to be https",
		ways: ways(refused(http.StatusForbidden, setHeader("X-Forwarded-Proto", "https"))),
	},
	{
		name: "no credential, a bad one, or two",
		ways: ways(
			refused(http.StatusUnauthorized, func(_ *target, o *wstest.HandshakeOptions) { o.Header.Del("Authorization") }),
			refused(http.StatusUnauthorized, setHeader("Authorization", "Bearer mallory")),
			refused(http.StatusUnauthorized, func(s *target, o *wstest.HandshakeOptions) {
				o.Header.Set("Sec-WebSocket-Protocol", s.lib.dialect.subprotocol+", bearer."+goodToken)
			}),
		),
	},
	{
		name: "body on the upgrade",
		ways: ways(
			refused(http.StatusBadRequest, func(_ *target, o *wstest.HandshakeOptions) { o.Body = "GET /admin HTTP/1.1\r\n\r\n" }),
			refused(http.StatusBadRequest, setHeader("Transfer-Encoding", "chunked")), // and no chunk ever
		),
	},
	{
		name:  "handshake flood",
		guard: func(cfg *wsguard.Config) { cfg.Rates.Handshakes = wsguard.Rate{PerSecond: 0.01, Burst: 5} },
		ways:  ways(atMost(30, 5+5, http.StatusTooManyRequests)), // 5, and what a slow machine earns in 500 s
	},
	{
		name:  "connections over the cap",
		guard: func(cfg *wsguard.Config) { cfg.Caps.MaxConnsPerClient = 4 },
		ways:  ways(atMost(12, 4, http.StatusTooManyRequests)),
	},
	{
		name: "compressed message",
		ways: ways(bomb),
	},
	{
		name: "frames sent with the handshake",
		ways: ways(
			early(1002, func() []byte { return wstest.AppendFrame(nil, wstest.Frame{Fin: true, Opcode: 3, Masked: true}) }),
			early(1009, func() []byte { return declared(1 << 40) }),
		),
	},
	{
		name: "huge declared length",
		ways: ways(
			ends(1009, func(dialect) []byte { return declared(1 << 40) }),
			ends(1002, func(dialect) []byte { return declared(1 << 63) }),
		),
	},
	{
		name: "flood of empty fragments",
		ways: ways(ends(1008, func(dialect) []byte {
			b := fragment(nil, wstest.OpText, false, nil)
			for range 2000 {
				b = fragment(b, wstest.OpContinuation, false, nil)
			}
			return b
		})),
	},
	{
		name:  "dribbled message",
		guard: func(cfg *wsguard.Config) { cfg.Messages.Timeout = 500 * time.Millisecond },
		ways:  ways(dribble),
	},
	{
		name: "ping flood",
		ways: ways(ends(1008, func(dialect) []byte {
			return bytes.Repeat(wstest.AppendFrame(nil, wstest.Ping([]byte("x"))), 3000)
		})),
	},
	{
		name: "illegal data frames",
		ways: ways(
			illegal(wstest.Frame{Fin: true, Opcode: wstest.OpText, Payload: []byte("hello")}), // not masked
			illegal(masked(wstest.Frame{Fin: true, RSV: 1, Opcode: wstest.OpText, Payload: []byte("hello")})),
			illegal(masked(wstest.Frame{Fin: true, Opcode: 3, Payload: []byte("hello")})),
			illegal(masked(wstest.Frame{Fin: true, Opcode: wstest.OpText, Payload: []byte("hello"), LengthBytes: 2})),
			illegal(masked(wstest.Frame{Fin: true, Opcode: wstest.OpContinuation, Payload: []byte("hello")})),
			illegal(
				masked(wstest.Frame{Opcode: wstest.OpText, Payload: []byte("hello")}),
				masked(wstest.Frame{Fin: true, Opcode: wstest.OpText, Payload: []byte("hello")}),
			),
		),
	},
	{
		name: "illegal control frames",
		ways: ways(
			illegal(wstest.Ping(bytes.Repeat([]byte("x"), 126))),
			illegal(masked(wstest.Frame{Opcode: wstest.OpPing, Payload: []byte("x")})), // a fragment
			illegal(masked(wstest.Frame{Fin: true, Opcode: 11})),
			illegal(masked(wstest.Frame{Fin: true, Opcode: wstest.OpClose, Payload: []byte{3}})),
			illegal(masked(wstest.Frame{Fin: true, Opcode: wstest.OpClose, Payload: []byte{0x03, 0xed}})), // 1005
			ends(1007, func(dialect) []byte { return wstest.AppendFrame(nil, wstest.CloseFrame(1000, "\xff")) }),
		),
	},
	{
		name: "text that is not UTF-8",
		ways: ways(
			ends(1007, func(d dialect) []byte {
				return wstest.AppendFrame(nil, wstest.Text(strings.Replace(d.say(0, "BAD"), "BAD", "\xc3\x28", 1)))
			}),
			ends(1007, func(d dialect) []byte { // cut inside a code point, which then does not go on
				before, after, _ := strings.Cut(strings.Replace(d.say(0, "BAD"), "BAD", "\xe2\x82|x", 1), "|")
				return fragment(fragment(nil, wstest.OpText, false, []byte(before)), wstest.OpContinuation, true, []byte(after))
			}),
		),
	},
	{
		name: "message over the limit in fragments",
		ways: ways(ends(1009, func(d dialect) []byte {
			msg := []byte(d.say(0, strings.Repeat("x", 2*guardMaxBytes)))
			var b []byte
			for op := wstest.OpText; len(msg) > 0; op = wstest.OpContinuation {
				n := min(len(msg), 8<<10)
				b = fragment(b, op, n == len(msg), msg[:n])
				msg = msg[n:]
			}
			return b
		})),
	},
	{
		name:  "message flood",
		guard: func(cfg *wsguard.Config) { cfg.Rates.Messages = wsguard.Rate{PerSecond: 1, Burst: 20} },
		ways:  ways(messageFlood),
	},
	{
		name:  "not JSON, or not of the schema",
		guard: func(cfg *wsguard.Config) { cfg.Messages.Validator = messageSchema },
		ways: ways(
			ends(1007, func(dialect) []byte { return wstest.AppendFrame(nil, wstest.Text("hello")) }),
			ends(1008, func(dialect) []byte { return wstest.AppendFrame(nil, wstest.Text(`["hello"]`)) }),
			ends(1008, func(dialect) []byte { return wstest.AppendFrame(nil, wstest.Text(`{"type":"admin"}`)) }),
		),
	},
	{
		name: "binary where text is served",
		ways: ways(ends(1003, func(d dialect) []byte {
			return wstest.AppendFrame(nil, wstest.Binary([]byte(d.say(0, "hello"))))
		})),
	},
	{
		name: "half-open peer",
		guard: func(cfg *wsguard.Config) {
			cfg.Timeouts.PingInterval, cfg.Timeouts.Pong = 400*time.Millisecond, 200*time.Millisecond
		},
		ways: ways(silent(goodToken, 3008, nil)),
	},
	{
		name:  "idle squatter",
		guard: func(cfg *wsguard.Config) { cfg.Timeouts.Idle = 800 * time.Millisecond },
		ways:  ways(silent(goodToken, 3008, wstest.AppendFrame(nil, wstest.Ping(nil)))),
	},
	{
		name:  "slow reader",
		guard: func(cfg *wsguard.Config) { cfg.Timeouts.Write = 500 * time.Millisecond },
		ways:  ways(neverRead),
	},
	{
		name: "credential that expires, or is revoked",
		ways: ways(
			silent(briefToken, 3000, nil),
			func(s *target) error {
				c, err := s.open()
				if err != nil {
					return err
				}
				defer c.Close()
				if s.guard != nil {
					s.guard.Admin().Revoke(goodToken)
				}
				return c.ended(3000)
			},
		),
	},
	{
		name: "connection that outlives the shutdown",
		ways: ways(func(s *target) error {
			c, err := s.open()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(context.Background(), s.limit)
			defer cancel()
			// What a careful application does, in both cases.
			stopped := make(chan error, 1)
			go func() {
				if s.guard != nil {
					if err := s.guard.Shutdown(ctx); err != nil {
						stopped <- err
						return
					}
				}
				stopped <- s.http.Shutdown(ctx)
			}()
			err = c.ended(1012)
			c.Close()
			return errors.Join(err, <-stopped)
		}),
	},
}

func ways(w ...func(*target) error) []func(*target) error { return w }

// run carries out the attack, in all ways at once.
func (a *attack) run(s *target) error {
	errs := make([]error, len(a.ways))
	var wg sync.WaitGroup
	for i, way := range a.ways {
		wg.Go(func() {
			if err := way(s); err != nil {
				errs[i] = fmt.Errorf("way %d: %w", i+1, err)
			}
		})
	}
	wg.Wait()
	errs = append(errs, s.emptied())
	return errors.Join(errs...)
}

func setHeader(name, value string) func(*target, *wstest.HandshakeOptions) {
	return func(_ *target, o *wstest.HandshakeOptions) { o.Header.Set(name, value) }
}

// refused is a handshake, a good one but for what change does to it, that must
// be refused, without a call of the handler behind a guard.
func refused(status int, change func(*target, *wstest.HandshakeOptions)) func(*target) error {
	return func(s *target) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		o := s.good()
		change(s, &o)
		c.Timeout = s.limit
		res, err := c.HandshakeWith(o)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errors.New("no answer")
		case err != nil && s.guard == nil:
			return nil // it hangs up
		case err != nil:
			return err
		case res.StatusCode < 400:
			return fmt.Errorf("status %d", res.StatusCode)
		case s.guard == nil:
			return nil
		case res.StatusCode != status:
			return fmt.Errorf("status %d, want %d", res.StatusCode, status)
		case s.calls.Load() != 0:
			return errors.New("the handler was called")
		}
		return nil
	}
}

// atMost opens n connections at once, of which at most limit may be accepted.
// The others must be refused with status.
func atMost(n, limit, status int) func(*target) error {
	return func(s *target) error {
		codes := make([]int, n)
		errs := make([]error, n)
		var wg, all sync.WaitGroup
		all.Add(n)
		for i := range n {
			wg.Go(func() {
				c, err := s.dial()
				if err == nil {
					defer c.Close()
					var res *http.Response
					if res, err = c.HandshakeWith(s.good()); err == nil {
						codes[i] = res.StatusCode
					}
				}
				errs[i] = err
				all.Done()
				all.Wait() // nobody leaves before all have had their answer
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		accepted := 0
		for _, code := range codes {
			switch {
			case code == http.StatusSwitchingProtocols:
				accepted++
			case s.guard != nil && code != status:
				return fmt.Errorf("status %d, want %d", code, status)
			}
		}
		if accepted > limit {
			return fmt.Errorf("%d of %d accepted", accepted, n)
		}
		return nil
	}
}

// ended reads to the end of the connection. No text may come before. Behind a
// guard the close code must be code.
func (c *session) ended(code int) error {
	got, texts, err := c.end()
	switch {
	case len(texts) > 0:
		return errors.New("the handler answers")
	case err != nil:
		return err
	case c.target.guard != nil && got != code:
		return fmt.Errorf("close code %d, want %d", got, code)
	}
	return nil
}

// ends opens a connection and sends what must end it with code.
func ends(code int, bytes func(dialect) []byte) func(*target) error {
	return func(s *target) error {
		c, err := s.open()
		if err != nil {
			return err
		}
		defer c.Close()
		return c.sending(func() { c.Write(bytes(s.lib.dialect)) }, func() error { return c.ended(code) })
	}
}

// sending runs send, whose errors do not matter, beside receive.
func (c *session) sending(send func(), receive func() error) error {
	var wg sync.WaitGroup
	wg.Go(send)
	err := receive()
	c.Close() // whatever is not written by now
	wg.Wait()
	return err
}

func illegal(frames ...wstest.Frame) func(*target) error {
	return ends(1002, func(dialect) []byte {
		var b []byte
		for _, f := range frames {
			b = wstest.AppendFrame(b, f)
		}
		return b
	})
}

func masked(f wstest.Frame) wstest.Frame {
	f.Masked, f.Mask = true, [4]byte{0x37, 0xfa, 0x21, 0x3d}
	return f
}

func fragment(b []byte, opcode byte, fin bool, payload []byte) []byte {
	return wstest.AppendFrame(b, masked(wstest.Frame{Fin: fin, Opcode: opcode, Payload: payload}))
}

// declared is a text frame of which nothing but the header comes.
func declared(n uint64) []byte {
	return wstest.AppendFrame(nil, masked(wstest.Frame{Fin: true, Opcode: wstest.OpText, Length: &n}))
}

// early sends a frame in the same segment as the handshake. A refusal holds,
// too, of a bare handler: some libraries do so.
func early(code int, frame func() []byte) func(*target) error {
	return func(s *target) error {
		o := s.good()
		if s.lib.dialect.greet != "" {
			o.Early = wstest.AppendFrame(nil, wstest.Text(s.lib.dialect.greet))
		}
		o.Early = append(o.Early, frame()...)
		c, err := s.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		c.Timeout = s.limit
		if _, err = c.HandshakeWith(o); err != nil {
			if s.guard == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
		c.until = time.Now().Add(s.limit)
		return c.ended(code)
	}
}

// bomb offers compression, and sends a small message that inflates to a large
// one whether or not the offer was taken.
func bomb(s *target) error {
	o := s.good()
	o.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate")
	c, err := s.openBy(o)
	if err != nil {
		return err
	}
	defer c.Close()
	taken := c.res.Header.Get("Sec-WebSocket-Extensions")
	if taken != "" && s.guard != nil {
		return fmt.Errorf("the offer is taken: %s", taken)
	}
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		return err
	}
	fmt.Fprint(w, s.lib.dialect.say(0, strings.Repeat("x", maxMessage/2)))
	w.Flush()
	payload := bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff}) // RFC 7692, section 7.2.1
	c.WriteFrame(masked(wstest.Frame{Fin: true, RSV: 4, Opcode: wstest.OpText, Payload: payload}))
	if taken != "" {
		// The answer is compressed, too: ended would not understand it.
		if f, err := c.ReadFrame(); err == nil && f.Opcode == wstest.OpText {
			return errors.New("the handler answers")
		}
	}
	return c.ended(1002)
}

// dribble sends a message a byte at a time, and answers pings.
func dribble(s *target) error {
	c, err := s.open()
	if err != nil {
		return err
	}
	defer c.Close()
	stop := make(chan struct{})
	return c.sending(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for _, b := range wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 10_000))) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}, func() error {
		defer close(stop)
		return c.ended(1008)
	})
}

// messageFlood sends more good messages than the rate allows. Those within its
// burst may be answered.
func messageFlood(s *target) error {
	const n = 500
	c, err := s.open()
	if err != nil {
		return err
	}
	defer c.Close()
	var b []byte
	for i := range n {
		b = wstest.AppendFrame(b, wstest.Text(s.lib.dialect.say(i, "hello")))
	}
	return c.sending(func() { c.Write(b) }, func() error {
		code, texts, err := c.end()
		switch {
		case err != nil:
			return err
		case len(texts) == n:
			return errors.New("every message is answered")
		case s.guard != nil && code != 1008:
			return fmt.Errorf("close code %d, want 1008", code)
		}
		return nil
	})
}

// silent is a client that opens a connection and says nothing from then on, but
// for what it may repeat five times a second. It answers no ping.
func silent(token string, code int, repeat []byte) func(*target) error {
	return func(s *target) error {
		o := s.good()
		o.Header.Set("Authorization", "Bearer "+token)
		c, err := s.shake(o) // without the greeting, for which there might be no time
		if err != nil {
			return err
		}
		defer c.Close()
		stop := make(chan struct{})
		return c.sending(func() {
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for len(repeat) > 0 {
				select {
				case <-tick.C:
				case <-stop:
					return
				}
				if _, err := c.Write(repeat); err != nil {
					return
				}
			}
		}, func() error {
			defer close(stop)
			return c.ended(code)
		})
	}
}

// neverRead asks for more than all buffers hold, and reads nothing. It is held
// when the connection is reset: writes tell, since nobody reads.
func neverRead(s *target) error {
	c, err := s.open()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Conn().(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		return err
	}
	if err := c.WriteFrame(wstest.Text(s.lib.dialect.push(512, 64<<10))); err != nil {
		return err
	}
	pong := wstest.AppendFrame(nil, wstest.Pong(nil))
	for time.Now().Before(c.until) {
		if _, err := c.Write(pong); err != nil {
			return nil
		}
		time.Sleep(200 * time.Millisecond) // well below any control rate
	}
	return errors.New("the connection stays open")
}

// messageSchema is what the application's messages are like in both dialects.
var messageSchema = func() wsguard.Validator {
	s, err := wsguard.CompileSchema([]byte(`{
		"type": "object",
		"required": ["type"],
		"properties": {"type": {"enum": ["connection_init", "subscribe", "complete", "chat"]}}
	}`))
	if err != nil {
		panic(err)
	}
	return s
}()

package wsguard_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// Frames that the guard refuses, and what the peer is told (T52-T60).
func TestFrameFaults(t *testing.T) {
	wstest.CheckGoroutines(t)
	const K = "\x00\x00\x00\x00"
	text := func(s string) string { return string(wstest.AppendFrame(nil, wstest.Text(s))) }
	frame := func(op byte, fin bool, s string) string { return string(fragment(op, fin, []byte(s))) }
	closeFrame := func(p string) string { return frame(wstest.OpClose, true, p) }
	declare := func(b0 byte, n uint64) string {
		return string(binary.BigEndian.AppendUint64([]byte{b0, 0xff}, n))
	}
	tests := []struct {
		name, sent string
		code       int
		reason     string
	}{
		{"declared 2^40", "\x81\xff\x00\x00\x01\x00\x00\x00\x00\x00" + K, 1009, "message_too_big"},
		{"declared 2^40, no mask yet", "\x81\xff\x00\x00\x01\x00\x00\x00\x00\x00", 1009, "message_too_big"},
		{"declared one too many", declare(0x81, 32<<10+1)[:1] + "\xfe\x80\x01", 1009, "message_too_big"},
		{"declared over several frames", frame(1, false, strings.Repeat("x", 20<<10)) + "\x80\xfe\x40\x00", 1009, "message_too_big"},
		{"declared 2^63-1", declare(0x81, 1<<63-1), 1009, "message_too_big"},
		{"declared 2^63-1 after a byte", frame(1, false, "a") + declare(0x80, 1<<63-1) + K, 1009, "message_too_big"},
		{"declared 2^63-1 after a byte, not final", frame(1, false, "a") + declare(0x00, 1<<63-1) + K + "xxxx", 1009, "message_too_big"},
		{"top bit", "\x81\xff\x80", 1002, "protocol_error"},
		{"top bit, whole", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x05" + K + "hello", 1002, "protocol_error"},
		{"16 bits for 125", "\x81\xfe\x00\x7d", 1002, "protocol_error"},
		{"16 bits for 0", "\x81\xfe\x00\x00" + K, 1002, "protocol_error"},
		{"64 bits for 65535", "\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff", 1002, "protocol_error"},
		{"64 bits for 5", "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05" + K + "hello", 1002, "protocol_error"},
		{"unmasked text", "\x81\x05hello", 1002, "protocol_error"},
		{"unmasked ping", "\x89\x00", 1002, "protocol_error"},
		{"unmasked close", "\x88\x02\x03\xe8", 1002, "protocol_error"},
		{"RSV1", "\xc1\x85" + K + "hello", 1002, "protocol_error"},
		{"RSV2", "\xa1\x85" + K + "hello", 1002, "protocol_error"},
		{"RSV3", "\x91\x85" + K + "hello", 1002, "protocol_error"},
		{"RSV1 in a ping", "\xc9\x80" + K, 1002, "protocol_error"},
		{"RSV1 in a continuation", frame(1, false, "a") + "\xc0\x80" + K, 1002, "protocol_error"},
		{"opcode 3", "\x83", 1002, "protocol_error"},
		{"opcode 7", "\x87\x80" + K, 1002, "protocol_error"},
		{"opcode 11", "\x8b\x80" + K, 1002, "protocol_error"},
		{"opcode 15", "\x8f\x80" + K, 1002, "protocol_error"},
		{"ping of 126", "\x89\xfe", 1002, "protocol_error"},
		{"pong of 2^16", "\x8a\xff", 1002, "protocol_error"},
		{"close of 126", "\x88\xfe\x00\x7e" + K, 1002, "protocol_error"},
		{"fragmented ping", "\x09\x80" + K, 1002, "protocol_error"},
		{"fragmented close", "\x08\x82" + K + "\x03\xe8", 1002, "protocol_error"},
		{"orphan continuation", frame(0, true, "x"), 1002, "protocol_error"},
		{"orphan continuation after a message", text("hello") + frame(0, false, "x"), 1002, "protocol_error"},
		{"text inside a text", frame(1, false, "a") + text("b"), 1002, "protocol_error"},
		{"binary inside a text", frame(1, false, "a") + frame(2, true, "b"), 1002, "protocol_error"},
		{"text inside a text, after a ping", frame(1, false, "a") + frame(9, true, "") + text("b"), 1002, "protocol_error"},
		{"empty continuations", frame(1, false, "") + strings.Repeat(frame(0, false, ""), 96), 1008, "fragments"},
		{"1-byte continuations", frame(1, false, "a") + strings.Repeat(frame(0, false, "a"), 96), 1008, "fragments"},
		{"300,000 empty continuations", frame(1, false, "") + strings.Repeat(frame(0, false, ""), 300_000), 1008, "fragments"},
		{"21 pings", strings.Repeat(frame(9, true, "x"), 30), 1008, "control_flood"},
		{"5,000 pings", strings.Repeat(frame(9, true, strings.Repeat("x", 125)), 5000), 1008, "control_flood"},
		{"5,000 pongs", strings.Repeat(frame(10, true, ""), 5000), 1008, "control_flood"},
		{"pings between fragments", frame(1, false, "a") + strings.Repeat(frame(9, true, ""), 30), 1008, "control_flood"},
		{"close of 1 byte", closeFrame("\x03"), 1002, "protocol_error"},
		{"close 0", closeFrame("\x00\x00"), 1002, "protocol_error"},
		{"close 999", closeFrame("\x03\xe7"), 1002, "protocol_error"},
		{"close 1004", closeFrame("\x03\xec"), 1002, "protocol_error"},
		{"close 1005", closeFrame("\x03\xed"), 1002, "protocol_error"},
		{"close 1006", closeFrame("\x03\xee"), 1002, "protocol_error"},
		{"close 1015", closeFrame("\x03\xf7"), 1002, "protocol_error"},
		{"close 1016", closeFrame("\x03\xf8"), 1002, "protocol_error"},
		{"close 2999", closeFrame("\x0b\xb7"), 1002, "protocol_error"},
		{"close 5000", closeFrame("\x13\x88"), 1002, "protocol_error"},
		{"close 65535", closeFrame("\xff\xff"), 1002, "protocol_error"},
		{"close with a bad reason", closeFrame("\x03\xe8\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"), 1007, "invalid_utf8"},
		{"close with half a rune", closeFrame("\x03\xe8\xc3"), 1007, "invalid_utf8"},
		{"close inside a message", frame(1, false, "a") + closeFrame("\x03\xe8bye"), 1000, "bye"},
		{"close without a code", closeFrame(""), 1005, ""},
		{"close 4000", closeFrame("\x0f\xa0mine"), 4000, "mine"},
		{"close, then garbage", closeFrame("\x03\xe8") + "\xff\xff\xff\xff", 1000, ""},
		{"not UTF-8", text("\xff"), 1007, "invalid_utf8"},
		{"overlong", text("\xc0\xaf"), 1007, "invalid_utf8"},
		{"surrogate", text("\xed\xa0\x80"), 1007, "invalid_utf8"},
		{"beyond U+10FFFF", text("\xf4\x90\x80\x80"), 1007, "invalid_utf8"},
		{"ends within a rune", text("ab\xe2\x82"), 1007, "invalid_utf8"},
		{"ends within a rune, fragmented", frame(1, false, "ab\xe2") + frame(0, true, "\x82"), 1007, "invalid_utf8"},
		{"hopeless before its end", frame(1, false, "ab\xff"), 1007, "invalid_utf8"},
		{"hopeless rune over fragments", frame(1, false, "ab\xf4") + frame(0, false, "\x90"), 1007, "invalid_utf8"},
		{"half a frame that is hopeless", "\x81\xfe\x01\x00" + K + "abc\xff\xff", 1007, "invalid_utf8"},
		{"binary", frame(2, true, "x"), 1003, "message_type"},
		{"binary, at its first fragment", frame(2, false, ""), 1003, "message_type"},
		{"binary, header only", "\x82\xfe\x01\x00" + K, 1003, "message_type"},
	}
	e := newEnv(t, conf(noHandshakeLimits, patient, noRates, func(cfg *wsguard.Config) {
		cfg.Messages.ControlFrames = wsguard.Rate{PerSecond: never, Burst: 20}
	}))
	for _, secure := range []bool{false, true} {
		serve := wstest.Serve
		if secure {
			serve = wstest.ServeTLS
		}
		e.s = serve(t, echoDoor(e.g))
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s, TLS %t", tt.name, secure), func(t *testing.T) {
				e := e.in(t)
				c := e.open(header())
				defer e.settle(c)
				// The close frame is to arrive while the peer still sends.
				go c.Write([]byte(tt.sent))
				wantClose(t, c, tt.code, tt.reason)
				c.Close()
				if code := e.closed().Code; int(code) != tt.code {
					t.Errorf("the event says %d", code)
				}
			})
		}
		for _, early := range []bool{false, true} {
			if secure {
				break
			}
			for _, tt := range tests {
				if len(tt.sent) > 3000 {
					continue
				}
				t.Run(fmt.Sprintf("%s, byte by byte %t", tt.name, !early), func(t *testing.T) {
					e := e.in(t)
					c := e.dial()
					defer e.settle(c)
					if early { // sent with the handshake
						res, err := c.HandshakeWith(wstest.HandshakeOptions{Header: header(), Early: []byte(tt.sent)})
						if err != nil || res.StatusCode != 101 {
							t.Fatal(res, err)
						}
					} else {
						e.upgrade(c, header())
						c.Conn().(*net.TCPConn).SetNoDelay(true)
						go func() {
							for i := range len(tt.sent) {
								if _, err := c.Conn().Write([]byte(tt.sent[i : i+1])); err != nil {
									return
								}
							}
						}()
					}
					wantClose(t, c, tt.code, tt.reason)
					c.Close()
					e.closed()
				})
			}
		}
	}
	e.idle()
}

// A declared length is no reason to allocate.
func TestDeclaredLengthAllocatesNothing(t *testing.T) {
	e := newEnv(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) { noRates(cfg); cfg.Messages.MaxBytes = 1 << 29 }))
	e.serve(e.g.Handler(echo))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		c := e.open(header())
		c.Write(append(binary.BigEndian.AppendUint64([]byte{0x81, 0xff}, 1<<29), "\x00\x00\x00\x00abc"...))
		c.WriteFrame(wstest.Ping(nil)) // is payload
		c.Close()
		e.closed()
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("20 frames of 1 GiB declared cost %d bytes", n)
	}
}

func TestPeersFreed(t *testing.T) {
	stall := "\x81\xfe\x10\x00\x00\x00\x00\x00half"
	peers := map[string]struct{ before, after string }{
		"silent":                              {"", ""},
		"stalled in a header":                 {"\x81", ""},
		"stalled in a frame":                  {stall, ""},
		"stalled in a fragment":               {"\x01\x81\x00\x00\x00\x00x", ""},
		"declares 2^40 after the close":       {"", "\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		"declares 2^63-1 after the close":     {"", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"},
		"stalled, declares 2^40 afterwards":   {stall, strings.Repeat("x", 4092) + "\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		"half a header after the close":       {"", "\x82\xff\x00"},
		"pings after the close":               {"", strings.Repeat("\x89\x80\x00\x00\x00\x00", 100)},
		"nonsense after the close":            {"", "\xff\xff\xff"},
		"a close frame but no end":            {"", "\x88\x80\x00\x00\x00\x00"},
		"a half-closed socket":                {"", "FIN"},
		"stalled in a frame, answers nothing": {stall, "x"},
	}
	for name, p := range peers {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, wsguard.Config{})
				c := e.open(header())
				c.Write([]byte(p.before))
				synctest.Wait()
				start := time.Now()
				for _, id := range e.ids() {
					e.g.Admin().Kick(id, 0, "")
				}
				wantClose(t, c, 3003, "kicked")
				if p.after == "FIN" {
					c.Conn().(*wstest.PipeConn).CloseWrite()
				} else {
					c.Write([]byte(p.after))
				}
				e.closed()
				if d := time.Since(start); d > 2*time.Second {
					t.Errorf("freed after %v", d)
				}
				synctest.Wait()
				if e.g.Conns() != 0 {
					t.Error("slot held")
				}
			})
		})
	}
}

// Every kind of end has one cause, and all agree on it.
func TestOneCause(t *testing.T) {
	type world struct {
		*env
		c *wstest.Client
	}
	id := func(w world) string { return w.ids()[0] }
	send := func(b string) func(world) { return func(w world) { w.c.Write([]byte(b)) } }
	peerClose := func(code int, reason string) func(world) {
		return func(w world) { w.c.WriteFrame(wstest.CloseFrame(code, reason)) }
	}
	returns := func(err error) func(context.Context, *wsguard.Conn) error {
		return func(context.Context, *wsguard.Conn) error { return err }
	}
	closes := func(code wsguard.StatusCode, reason string) func(context.Context, *wsguard.Conn) error {
		return func(ctx context.Context, c *wsguard.Conn) error { c.Close(code, reason); return errors.New("too late") }
	}
	long := strings.Repeat("é", 100)
	tests := []struct {
		name    string
		config  func(*wsguard.Config)
		handler func(context.Context, *wsguard.Conn) error // nil: echo
		act     func(world)
		peer    int // the close code that the peer reads; 1006: none
		reason  string
		code    wsguard.StatusCode // what the server says; 0: as peer
		is      error
		remote  bool
	}{
		{name: "handler nil", handler: returns(nil), peer: 1000, is: reason.HandlerDone},
		{name: "handler error", handler: returns(errors.New("secret")), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "handler CloseError", handler: returns(&wsguard.CloseError{Code: 4321, Reason: "mine"}), peer: 4321, reason: "mine", is: reason.Closed},
		{name: "handler CloseError wrapped", handler: returns(fmt.Errorf("x: %w", &wsguard.CloseError{Code: 1013})), peer: 1013, is: reason.Closed},
		{name: "handler CloseError, long reason", handler: returns(&wsguard.CloseError{Code: 4321, Reason: long}), peer: 4321, reason: long[:122], is: reason.Closed},
		{name: "handler CloseError 1005", handler: returns(&wsguard.CloseError{Code: 1005}), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "handler CloseError 1006", handler: returns(&wsguard.CloseError{Code: 1006}), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "handler CloseError 0", handler: returns(&wsguard.CloseError{}), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "handler CloseError 66536", handler: returns(&wsguard.CloseError{Code: 66536}), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "handler panics", handler: func(context.Context, *wsguard.Conn) error { panic("secret") }, peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "handler panics with an error", handler: func(context.Context, *wsguard.Conn) error { panic(&wsguard.CloseError{Code: 4000}) }, peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "handler ends its goroutine", handler: func(context.Context, *wsguard.Conn) error { runtime.Goexit(); return nil }, peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "Close", handler: closes(4000, "bye"), peer: 4000, reason: "bye", is: reason.Closed},
		{name: "Close, long reason", handler: closes(4000, strings.Repeat("x", 122)+"é"), peer: 4000, reason: strings.Repeat("x", 122), is: reason.Closed},
		{name: "Close, bad reason", handler: closes(4000, "a\xffb"), peer: 4000, reason: "a\ufffdb", is: reason.Closed},
		{name: "Close 1005", handler: closes(1005, ""), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "Close 1015", handler: closes(1015, ""), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "Close 5000", handler: closes(5000, ""), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "Close -1", handler: closes(-1, ""), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "Close 66536", handler: closes(66536, ""), peer: 1011, reason: "internal_error", is: reason.Internal},
		{name: "Close twice", handler: func(ctx context.Context, c *wsguard.Conn) error {
			c.Close(4001, "a")
			c.Close(4002, "b")
			panic("late")
		}, peer: 4001, reason: "a", is: reason.Closed},
		{name: "Close with nobody reading", handler: func(ctx context.Context, c *wsguard.Conn) error { c.Close(4001, "a"); <-ctx.Done(); return nil }, peer: 4001, reason: "a", is: reason.Closed},
		{name: "kick", act: func(w world) { w.g.Admin().Kick(id(w), 0, "") }, peer: 3003, reason: "kicked", is: reason.Kicked},
		{name: "kick, mapped", config: func(cfg *wsguard.Config) { cfg.CloseCodes = map[*reason.Reason]wsguard.StatusCode{reason.Kicked: 4403} }, act: func(w world) { w.g.Admin().Kick(id(w), 0, "") }, peer: 4403, reason: "kicked", is: reason.Kicked},
		{name: "revoke", act: func(w world) { w.g.Admin().Revoke("alice") }, peer: 3000, reason: "revoked", is: reason.Revoked},
		{name: "peer 1000", act: peerClose(1000, "done"), peer: 1000, reason: "done", is: reason.PeerClosed, remote: true},
		{name: "peer 1001", act: peerClose(1001, ""), peer: 1001, is: reason.PeerClosed, remote: true},
		{name: "peer 1005", act: peerClose(1005, ""), peer: 1005, is: reason.PeerClosed, remote: true},
		{name: "peer 1011", act: peerClose(1011, ""), peer: 1011, is: reason.PeerClosed, remote: true},
		{name: "peer 4000", act: peerClose(4000, "x"), peer: 4000, reason: "x", is: reason.PeerClosed, remote: true},
		{name: "EOF", act: func(w world) { w.c.Conn().(*wstest.PipeConn).CloseWrite() }, peer: 1006, is: reason.ConnectionLost, remote: true},
		{name: "EOF in a frame", act: func(w world) { w.c.Write([]byte("\x81\x85")); w.c.Conn().(*wstest.PipeConn).CloseWrite() }, peer: 1006, is: reason.ConnectionLost, remote: true},
		{name: "reset", act: func(w world) { w.c.Conn().(*wstest.PipeConn).Reset() }, peer: 1006, is: reason.ConnectionLost, remote: true},
		{name: "rate", act: send(strings.Repeat(string(wstest.AppendFrame(nil, wstest.Text("x"))), 41)), peer: 1008, reason: "rate_limited", is: reason.RateLimited},
		{name: "schema", config: withSchema(wsguard.ActionClose), act: send(string(wstest.AppendFrame(nil, wstest.Text(`{"n":"x"}`)))), peer: 1008, reason: "schema", is: reason.Schema},
		{name: "JSON", config: withSchema(wsguard.ActionClose), act: send(string(wstest.AppendFrame(nil, wstest.Text(`{"n":`)))), peer: 1007, reason: "invalid_json", is: reason.InvalidJSON},
		{name: "idle", config: noPings, peer: 3008, reason: "idle", is: reason.Idle},
		{name: "pong", peer: 3008, reason: "pong_timeout", is: reason.PongTimeout},
		{name: "lifetime", config: func(cfg *wsguard.Config) { cfg.Timeouts.Lifetime = time.Second }, peer: 1001, reason: "lifetime", is: reason.Lifetime},
		{name: "expiry", config: expiresIn(time.Second), peer: 3000, reason: "expired", is: reason.Expired},
		{name: "message timeout", act: send("\x81\x85\x00\x00\x00\x00h"), peer: 1008, reason: "message_timeout", is: reason.MessageTimeout},
		{name: "shutdown", act: func(w world) { go w.g.Shutdown(context.Background()) }, peer: 1012, reason: "draining", is: reason.Draining},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				endings := make(chan handlerEnd, 1)
				fn := probe(endings)
				if tt.handler != nil {
					fn = func(ctx context.Context, c *wsguard.Conn) error {
						go func() { endings <- handlerEnded(ctx, c, nil) }()
						return tt.handler(ctx, c)
					}
				}
				e := newEnv(t, conf(anyToken, func(cfg *wsguard.Config) {
					if tt.config != nil {
						tt.config(cfg)
					}
				}))
				e.serve(e.g.Handler(fn))
				c := e.open(bearer("alice"))
				synctest.Wait()
				if tt.act != nil {
					tt.act(world{e, c})
				}
				code, reason, err := c.ReadClose()
				if err != nil {
					code, reason = 1006, ""
				}
				if code != tt.peer || reason != tt.reason {
					t.Errorf("the peer read %d %q (%v), want %d %q", code, reason, err, tt.peer, tt.reason)
				}
				if tt.code == 0 {
					tt.code = wsguard.StatusCode(tt.peer)
				}
				(<-endings).check(t, e.closed(), tt.code, tt.is, tt.remote)
				synctest.Wait()
				time.Sleep(5 * time.Second)
				if n := len(e.events.of(audit.Close)); n != 1 || e.g.Conns() != 0 {
					t.Errorf("%d close events, %d slots", n, e.g.Conns())
				}
			})
		})
	}
}

func withSchema(action wsguard.Action) func(*wsguard.Config) {
	return func(cfg *wsguard.Config) {
		schema, err := wsguard.CompileSchema([]byte(`{"type":"object","required":["n"],"properties":{"n":{"type":"integer","minimum":0}},"additionalProperties":false}`))
		if err != nil {
			panic(err)
		}
		cfg.Messages.Validator, cfg.Messages.OnInvalid = schema, action
	}
}

func expiresIn(in time.Duration) func(*wsguard.Config) {
	return func(cfg *wsguard.Config) {
		cfg.Auth = wsguard.AuthConfig{Verifier: wsguard.Verifier(func(_ context.Context, token string) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: token, Expires: time.Now().Add(in)}, nil
		})}
	}
}

// The context ends when the cause is fixed: whoever has seen the end in Read
// or Write finds it ended.
func TestContextEndsWithCause(t *testing.T) {
	wstest.CheckGoroutines(t)
	var early atomic.Int32
	e := newEnv(t, conf(noHandshakeLimits))
	e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			if _, _, err := c.Read(ctx); err != nil {
				if context.Cause(ctx) != err {
					early.Add(1)
				}
				return err
			}
		}
	}))
	const n = 300
	for i := range n {
		c := e.open(header())
		go c.WriteFrame(wstest.Text("x"))
		for len(e.ids()) <= i { // the 101 arrives before the open event
			runtime.Gosched()
		}
		e.g.Admin().Kick(e.ids()[i], 0, "")
		c.Close()
	}
	e.idle()
	if k := early.Load(); k > 0 {
		t.Errorf("%d of %d times Read had returned the cause before the context ended with it", k, n)
	}
}

// After the end Read and Write return the cause, also with a context that is
// derived from the connection's and so has ended, too.
func TestDerivedContextAfterEnd(t *testing.T) {
	for _, where := range []string{"read", "write", "delay", "after"} {
		t.Run(where, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const n = 64
				errs := make(chan error, 100*n)
				e := newEnv(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) {
					cfg.Rates.Action = wsguard.ActionDelay
					cfg.Rates.Messages = wsguard.Rate{PerSecond: 0.3, Burst: 1}
				}))
				e.serveOn(wstest.NewListener(wstest.PipeOptions{BufferBytes: 512}), e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					own := ctx
					ctx, cancel := context.WithTimeout(ctx, time.Hour)
					defer cancel()
					switch where {
					case "read":
						_, _, err := c.Read(ctx)
						errs <- err
					case "write":
						var wg sync.WaitGroup
						for range 4 {
							wg.Go(func() { errs <- c.Write(ctx, wsguard.MessageText, make([]byte, 4096)) })
						}
						wg.Wait()
					case "delay":
						c.Read(ctx)
						_, _, err := c.Read(ctx)
						errs <- err
					case "after":
						<-own.Done()
						for range 20 {
							errs <- c.Write(ctx, wsguard.MessageText, nil)
							_, _, err := c.Read(ctx)
							errs <- err
						}
					}
					return nil
				}))
				for range n {
					c := e.open(header())
					c.WriteFrame(wstest.Text("a"))
					if where != "read" {
						c.WriteFrame(wstest.Text("b"))
					} else {
						time.Sleep(time.Millisecond)
						continue
					}
				}
				synctest.Wait()
				for _, id := range e.ids() {
					e.g.Admin().Kick(id, 0, "")
				}
				time.Sleep(10 * time.Second)
				bad, all := 0, 0
				for len(errs) > 0 {
					err := <-errs
					if err == nil {
						continue
					}
					all++
					if !errors.Is(err, reason.Kicked) {
						if bad++; bad == 1 {
							t.Errorf("%v instead of the cause", err)
						}
					}
				}
				if bad > 0 {
					t.Errorf("%d of %d calls did not return the cause", bad, all)
				}
			})
		})
	}
}

// The close code reaches even a peer that never stops sending.
func TestCloseCodeReachesSender(t *testing.T) {
	long(t) // sends a lot
	wstest.CheckGoroutines(t)
	for name, serve := range sockets {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, conf(noHandshakeLimits, patient, func(cfg *wsguard.Config) {
				cfg.Messages.ControlFrames = wsguard.Rate{PerSecond: wsguard.Off}
			}))
			e.s = serve(t, echoDoor(e.g))
			flood := map[string][]byte{
				"messages": bytes.Repeat(wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 1000))), 16), // rate_limited
				"garbage":  bytes.Repeat([]byte{0xff}, 16<<10),
				"unmasked": bytes.Repeat([]byte("\x81\x05hello"), 2000),
				"big":      append([]byte("\x81\xff\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"), make([]byte, 16<<10)...),
			}
			want := map[string]int{"messages": 1008, "garbage": 1002, "unmasked": 1002, "big": 1009}
			for name, b := range flood {
				got := 0
				for range 25 {
					c := e.open(header())
					stop := make(chan struct{})
					stopped := make(chan struct{})
					go func() {
						defer close(stopped)
						for {
							select {
							case <-stop:
								return
							default:
								if _, err := c.Conn().Write(b); err != nil {
									return
								}
							}
						}
					}()
					if code, _, err := c.ReadClose(); err == nil && code == want[name] {
						got++
					}
					close(stop)
					c.Close()
					<-stopped
					e.closed()
				}
				if got != 25 {
					t.Errorf("%s: the close code arrived %d times of 25", name, got)
				}
			}
			e.idle()
		})
	}
}

// eachSend runs f with a connection that the server can half close, and with one
// that it cannot.
func eachSend(t *testing.T, f func(t *testing.T, g *wsguard.Guard, c *wstest.Client)) {
	for _, wrapped := range []bool{false, true} {
		t.Run(fmt.Sprintf("wrapped %t", wrapped), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, wsguard.Config{})
				pipes := wstest.NewListener(wstest.PipeOptions{})
				l := net.Listener(pipes)
				if wrapped {
					l = plainListener{l}
				}
				wstest.ServeListener(t, l, echoDoor(e.g))
				nc, err := pipes.Dial(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				c := wstest.NewClient(t, nc)
				if res, err := c.Handshake("/", header()); err != nil || res.StatusCode != 101 {
					t.Fatal(res, err)
				}
				synctest.Wait() // it is open
				f(t, e.g, c)
			})
		})
	}
}

// A socket is not closed, and so not reset, as long as its peer may not have
// read the close frame. That is the grace and the linger.
func TestLingersForSender(t *testing.T) {
	eachSend(t, func(t *testing.T, g *wsguard.Guard, c *wstest.Client) {
		c.Write([]byte("\x81\x05hello"))
		wantClose(t, c, 1002, "protocol_error")
		start := time.Now()
		for {
			if _, err := c.Conn().Write([]byte("x")); err != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if d := time.Since(start); d < 2*time.Second || d > 2100*time.Millisecond {
			t.Errorf("closed after %v, want grace and linger of two seconds", d)
		}
	})
}

// After a fault in the middle of a frame, a peer that still sends gets the end of the stream
// when it has answered the close frame, and at the latest when the grace is over.
func TestFailedMidFrame(t *testing.T) {
	header256 := []byte("\x81\xfe\x01\x00\x00\x00\x00\x00\xff") // and one byte of 256
	for name, test := range map[string]struct {
		begin  []byte
		code   int
		reason string
		rest   []byte // before the answer
		after  time.Duration
	}{
		"the frame is completed":           {header256, 1007, "invalid_utf8", make([]byte, 255), 0},
		"the answer is within the frame":   {header256, 1007, "invalid_utf8", nil, time.Second},
		"the frame is as long as declared": {[]byte("\x81\xff\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00"), 1009, "message_too_big", make([]byte, 1<<20), 0},
		"the frame is longer than the end": {[]byte("\x81\xff\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 1009, "message_too_big", make([]byte, 1<<20), time.Second},
		"no frame":                         {[]byte("\x81\x05hello"), 1002, "protocol_error", make([]byte, 1<<20), time.Second},
		"an illegal close frame":           {[]byte("\x88\x81\x00\x00\x00\x00x"), 1002, "protocol_error", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, wsguard.Config{})
				c := e.open(header())
				c.Write(test.begin)
				start := time.Now()
				wantClose(t, c, test.code, test.reason)
				if _, err := c.Write(test.rest); err != nil {
					t.Error(err)
				}
				c.WriteFrame(wstest.CloseFrame(test.code, ""))
				if err := c.ReadEOF(); err != nil {
					t.Error(err)
				}
				if d := time.Since(start); d != test.after {
					t.Errorf("closed after %v, want %v", d, test.after)
				}
			})
		})
	}
}

// A peer that has sent its close frame is not kept waiting.
func TestClosedAtOnce(t *testing.T) {
	ended := func(t *testing.T, c *wstest.Client, start time.Time) {
		t.Helper()
		if err := c.ReadEOF(); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("closed after %v", d)
		}
	}
	t.Run("by the peer", func(t *testing.T) {
		eachSend(t, func(t *testing.T, g *wsguard.Guard, c *wstest.Client) {
			start := time.Now()
			c.WriteFrame(wstest.CloseFrame(1000, ""))
			wantClose(t, c, 1000, "")
			ended(t, c, start)
		})
	})
	t.Run("by the server", func(t *testing.T) {
		eachSend(t, func(t *testing.T, g *wsguard.Guard, c *wstest.Client) {
			start := time.Now()
			for s := range g.Admin().Sessions() {
				g.Admin().Kick(s.ID, 4000, "bye")
			}
			wantClose(t, c, 4000, "bye")
			c.WriteFrame(wstest.CloseFrame(4000, ""))
			ended(t, c, start)
		})
	})
}

// A Write to a peer that does not read fails in time, whatever the peer sends
// meanwhile. What happens before the first byte has left is package wire's
// test: no kernel can be filled to the last byte for good.
func TestWriteTimeout(t *testing.T) {
	long(t)
	wstest.CheckGoroutines(t)
	const limit = time.Second // of the 101, too
	for _, secure := range []bool{false, true} {
		for _, pings := range []bool{false, true} {
			t.Run(fmt.Sprintf("TLS %t, pings %t", secure, pings), func(t *testing.T) {
				t.Parallel()
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					cfg.Timeouts.Write, cfg.Timeouts.CloseGrace, cfg.Timeouts.Linger = limit, limit, limit
					cfg.Messages.ControlFrames = wsguard.Rate{PerSecond: wsguard.Off}
				}))
				type result struct {
					err error
					d   time.Duration
				}
				results := make(chan result, 1)
				serve := wstest.Serve
				if secure {
					serve = wstest.ServeTLS
				}
				e.s = serve(t, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					go func() {
						for {
							if _, _, err := c.Read(ctx); err != nil {
								return
							}
						}
					}()
					start := time.Now()
					err := c.Write(context.Background(), wsguard.MessageText, make([]byte, 32<<20))
					results <- result{err, time.Since(start)}
					return err
				}))
				c := e.open(header())
				stop := make(chan struct{})
				defer close(stop)
				if pings {
					go func() {
						tick := time.NewTicker(5 * time.Millisecond)
						defer tick.Stop()
						for {
							select {
							case <-stop:
								return
							case <-tick.C:
								c.WriteFrame(wstest.Ping([]byte("are you there")))
							}
						}
					}()
				}
				r := <-results
				// The machine may be slow. That the limit is kept to the moment is a test in a bubble.
				if !errors.Is(r.err, reason.WriteTimeout) || r.d > time.Minute {
					t.Errorf("a write to a peer that does not read returned %v after %v", r.err, r.d)
				}
				if ev := e.closed(); ev.Code != 1008 || !errors.Is(ev.Err, reason.WriteTimeout) {
					t.Errorf("event %d %v", ev.Code, ev.Err)
				}
				e.idle()
			})
		}
	}
}

// Half a pong has left: no message can follow, and Write must not say so.
func TestPongBreaksPipe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		wrote := make(chan error, 1)
		read := make(chan error, 1)
		e := newEnv(t, wsguard.Config{})
		e.serveOn(wstest.NewListener(wstest.PipeOptions{BufferBytes: 300}), e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			go func() { _, _, err := c.Read(ctx); read <- err }()
			time.Sleep(20 * time.Second)
			wrote <- c.Write(ctx, wsguard.MessageText, []byte("lost"))
			return nil
		}))
		c := e.open(header())
		c.Write(bytes.Repeat(wstest.AppendFrame(nil, wstest.Ping(make([]byte, 125))), 3))
		start := time.Now()
		if err := <-wrote; !errors.Is(err, reason.WriteTimeout) {
			t.Errorf("Write after half a pong: %v", err)
		}
		ev := e.closed()
		if !errors.Is(ev.Err, reason.WriteTimeout) || ev.Duration > 6*time.Second {
			t.Errorf("ended with %v after %v", ev.Err, ev.Duration)
		}
		_ = start
		<-read
	})
}

// A Write whose context had ended before leaves the connection as it was.
func TestWriteWithEndedContext(t *testing.T) {
	for range 50 {
		bubble(t, func(t *testing.T) {
			e := newEnv(t, wsguard.Config{})
			e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				if err := c.Write(ended, wsguard.MessageText, []byte("never")); err != context.Canceled {
					t.Errorf("Write with an ended context: %v", err)
				}
				synctest.Wait()
				if err := c.Write(context.Background(), wsguard.MessageText, []byte("first")); err != nil {
					t.Error(err)
				}
				if err := c.Write(ctx, wsguard.MessageText, []byte("second")); err != nil {
					t.Error(err)
				}
				other, cancel := context.WithCancel(context.Background())
				defer cancel()
				if err := c.Write(other, wsguard.MessageText, []byte("third")); err != nil {
					t.Error(err)
				}
				return nil
			}))
			c := e.open(header())
			for _, want := range []string{"first", "second", "third"} {
				if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
					t.Fatalf("got %q, %v; want %q", p, err, want)
				}
			}
		})
		if t.Failed() {
			return
		}
	}
}

// A Write that ends in the middle of its frame ends the connection.
func TestWriteCutMidFrame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		errs := make(chan error, 3)
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			wctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			start := time.Now()
			errs <- c.Write(wctx, wsguard.MessageText, make([]byte, 1<<20))
			if d := time.Since(start); d != time.Second {
				t.Errorf("Write took %v", d)
			}
			errs <- c.Write(context.Background(), wsguard.MessageText, nil)
			_, _, err := c.Read(context.Background())
			errs <- err
			return nil
		}))
		c := e.open(header())
		for range 3 {
			var ce *wsguard.CloseError
			if err := <-errs; !errors.As(err, &ce) || !errors.Is(err, reason.WriteTimeout) {
				t.Errorf("%v", err)
			}
		}
		if ev := e.closed(); ev.Code != 1008 || ev.Duration > 2*time.Second {
			t.Errorf("%d after %v", ev.Code, ev.Duration)
		}
		c.Timeout = time.Minute
		if _, _, err := c.ReadClose(); err == nil {
			t.Error("a close frame behind half a frame")
		}
	})
}

// Kicks, wherever the connection's goroutines are.
func TestKick(t *testing.T) {
	for _, where := range []string{"blocked reader", "stuck writer", "delay", "absent application", "two readers", "polling reader"} {
		t.Run(where, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					if where == "delay" {
						cfg.Rates.Messages, cfg.Rates.Action = wsguard.Rate{PerSecond: 0.25, Burst: 1}, wsguard.ActionDelay
					}
				}))
				errs := make(chan error, 2)
				e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					switch where {
					case "stuck writer":
						go c.Read(ctx)
						errs <- c.Write(ctx, wsguard.MessageText, make([]byte, 1<<20))
					case "absent application":
						<-ctx.Done()
						errs <- context.Cause(ctx)
					case "two readers":
						go c.Read(ctx)
						fallthrough
					case "blocked reader", "delay":
						errs <- echo(ctx, c)
					case "polling reader":
						for {
							rctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
							_, _, err := c.Read(rctx)
							cancel()
							if err != context.DeadlineExceeded {
								errs <- err
								return err
							}
						}
					}
					return nil
				}))
				c := e.open(header())
				if where == "delay" {
					c.WriteFrame(wstest.Text("a"))
					c.WriteFrame(wstest.Text("b"))
				}
				time.Sleep(2 * time.Second)
				start := time.Now()
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() { e.g.Admin().Kick(e.ids()[0], 0, "") })
				}
				wg.Wait()
				if d := time.Since(start); d > 0 {
					t.Errorf("Kick blocked for %v", d)
				}
				err := <-errs
				if d := time.Since(start); d > time.Second || where != "stuck writer" && d > 0 {
					t.Errorf("the application was freed after %v", d)
				}
				if !errors.Is(err, reason.Kicked) {
					t.Errorf("the application saw %v", err)
				}
				if where != "stuck writer" {
					wantClose(t, c, 3003, "kicked")
				}
				e.closed()
				if d := time.Since(start); d > 2*time.Second {
					t.Errorf("the slot was freed after %v", d)
				}
				time.Sleep(10 * time.Second)
				if n := len(e.events.of(audit.Close)); n != 1 || e.g.Conns() != 0 {
					t.Errorf("%d close events, %d slots", n, e.g.Conns())
				}
			})
		})
	}
}

// A writer that is stuck when the end comes may finish: then the close frame
// follows.
func TestKickLetsWriterFinish(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		const size = 300 << 10
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			return c.Write(ctx, wsguard.MessageText, bytes.Repeat([]byte("x"), size))
		}))
		c := e.open(header())
		time.Sleep(time.Second)
		e.g.Admin().Kick(e.ids()[0], 0, "")
		time.Sleep(500 * time.Millisecond)
		if _, p, err := c.ReadMessage(); err != nil || len(p) != size {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
		wantClose(t, c, 3003, "kicked")
		e.closed()
	})
}

func TestManyConnections(t *testing.T) {
	wstest.CheckGoroutines(t)
	n := rounds(2000, 200)
	e := serveGuard(t, conf(noHandshakeLimits))
	before := heap()
	next := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range next {
				nc, err := net.Dial("tcp", e.s.Addr)
				if err != nil {
					t.Error(err)
					return
				}
				c := wstest.NewClient(t, nc)
				if res, err := c.Handshake("/", header()); err != nil || res.StatusCode != 101 {
					t.Error(res, err)
				}
				switch i % 6 {
				case 0:
					c.WriteFrame(wstest.Text("x"))
				case 1:
					c.Write([]byte{0x81, 0xfe})
				case 2:
					nc.(*net.TCPConn).SetLinger(0)
				case 3:
					c.WriteFrame(wstest.CloseFrame(1000, ""))
				case 4:
					c.WriteFrame(wstest.Text("x"))
					c.ReadMessage()
				}
				c.Close()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	e.idle()
	if got := len(e.events.of(audit.Close)); got != n {
		t.Errorf("%d close events of %d", got, n)
	}
	e.wantEachOnce()
	// What the test itself keeps of each: its client, and two events.
	if grown := heap() - before; grown > n*8<<10 {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	}
}

// Everything at once, on one connection after the other: one end, one event,
// one release, and everybody is told the same.
func TestStormOnOne(t *testing.T) {
	wstest.CheckGoroutines(t)
	n := rounds(150, 30)
	e := newEnv(t, conf(noHandshakeLimits, patient, noRates, anyToken))
	var errs sync.Map
	e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		var wg sync.WaitGroup
		note := func(err error) {
			var ce *wsguard.CloseError
			if err != nil && errors.As(err, &ce) {
				if first, _ := errs.LoadOrStore(c.ID(), ce); first != ce {
					t.Errorf("two causes: %v and %v", first, ce)
				}
			} else if err != nil {
				t.Errorf("no CloseError: %v", err)
			}
		}
		for i := range 12 {
			wg.Go(func() {
				for j := range 20 {
					switch (i + j) % 12 {
					case 0, 1, 2:
						note(c.Write(ctx, wsguard.MessageText, []byte("hello")))
					case 3, 4, 5, 6:
						note(c.Send(wsguard.MessageText, []byte("hello")))
					case 7:
						note(c.Write(context.Background(), wsguard.MessageText, make([]byte, 10_000)))
					}
				}
				switch i {
				case 0:
					c.Close(4000, "a")
				case 1:
					c.End(nil)
				case 2:
					c.End(errors.New("x"))
				case 3:
					e.g.Admin().Kick(c.ID(), 0, "")
				case 4:
					e.g.Admin().Revoke(c.Principal().Subject)
				case 5:
					_, _, err := c.Read(ctx)
					note(err)
				}
			})
		}
		wg.Wait()
		_, _, err := c.Read(context.Background())
		note(err)
		note(c.Write(context.Background(), wsguard.MessageText, nil))
		note(c.Send(wsguard.MessageText, nil))
		<-ctx.Done()
		note(context.Cause(ctx))
		return nil
	}))
	for i := range n {
		c := e.open(bearer(fmt.Sprint("subject", i)))
		answer := <-browse(c)
		ev := e.closed()
		e.idle() // the handler has returned, too
		first, _ := errs.Load(ev.ConnID)
		if first == nil || first.(*wsguard.CloseError) != ev.Err {
			t.Errorf("the event says %v, the calls %v", ev.Err, first)
		}
		if answer.code != int(ev.Code) {
			t.Errorf("the peer read %d, the event says %d", answer.code, ev.Code)
		}
	}
	e.idle()
	e.wantEachOnce()
}

// A Read whose context ends loses nothing, wherever it was.
func TestReadInterrupted(t *testing.T) {
	conversation := []struct{ name, sent string }{
		{"nothing", ""},
		{"one byte of a header", "\x81"},
		{"half a long header", "\x81\xfe\x01"},
		{"a header", "\x81\x85\x00\x00\x00\x00"},
		{"half a payload", "\x81\x85\x00\x00\x00\x00he"},
		{"a fragment", "\x01\x82\x00\x00\x00\x00he"},
		{"an empty fragment", "\x01\x80\x00\x00\x00\x00"},
		{"a fragment and half a header", "\x01\x82\x00\x00\x00\x00he\x80"},
		{"a fragment and a header", "\x01\x82\x00\x00\x00\x00he\x80\x83\x00\x00\x00\x00"},
		{"a fragment and a payload's half", "\x01\x82\x00\x00\x00\x00he\x80\x83\x00\x00\x00\x00l"},
		{"a fragment and half a ping", "\x01\x82\x00\x00\x00\x00he\x89\x83\x00\x00\x00\x00p"},
		{"a fragment and a ping", "\x01\x82\x00\x00\x00\x00he\x89\x83\x00\x00\x00\x00pin"},
		{"half a ping", "\x89\x83\x00\x00\x00\x00p"},
		{"a ping's header", "\x89\x83\x00"},
	}
	rest := map[string]string{
		"nothing": "\x81\x85\x00\x00\x00\x00hello", "one byte of a header": "\x85\x00\x00\x00\x00hello", "half a long header": "\x00\x00\x00\x00\x00" + strings.Repeat("x", 256),
		"a header": "hello", "half a payload": "llo", "a fragment": "\x80\x83\x00\x00\x00\x00llo", "an empty fragment": "\x80\x85\x00\x00\x00\x00hello",
		"a fragment and half a header": "\x83\x00\x00\x00\x00llo", "a fragment and a header": "llo", "a fragment and a payload's half": "lo",
		"a fragment and half a ping": "in\x80\x83\x00\x00\x00\x00llo", "a fragment and a ping": "\x80\x83\x00\x00\x00\x00llo",
		"half a ping": "in\x81\x85\x00\x00\x00\x00hello", "a ping's header": "\x00\x00\x00pin\x81\x85\x00\x00\x00\x00hello",
	}
	for _, tt := range conversation {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, wsguard.Config{})
				type result struct {
					err error
					d   time.Duration
					msg string
				}
				results := make(chan result)
				e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					for _, d := range []time.Duration{0, time.Second, time.Second, time.Hour, time.Hour} {
						rctx, cancel := context.WithTimeout(context.Background(), d)
						start := time.Now()
						_, msg, err := c.Read(rctx)
						cancel()
						results <- result{err, time.Since(start), string(msg)}
					}
					return nil
				}))
				c := e.open(header())
				c.Write([]byte(tt.sent))
				for _, d := range []time.Duration{0, time.Second, time.Second} {
					if r := <-results; r.err != context.DeadlineExceeded || r.d != d {
						t.Fatalf("Read returned %v after %v, want its context's error after %v", r.err, r.d, d)
					}
				}
				c.Write([]byte(rest[tt.name]))
				want := "hello"
				if tt.name == "half a long header" {
					want = strings.Repeat("x", 256)
				}
				if r := <-results; r.err != nil || r.msg != want {
					t.Fatalf("then %q, %v", r.msg, r.err)
				}
				c.WriteFrame(wstest.Text("next"))
				if r := <-results; r.err != nil || r.msg != "next" {
					t.Fatalf("and then %q, %v", r.msg, r.err)
				}
				if strings.Contains(tt.name, "ping") {
					if f, err := c.ReadFrame(); err != nil || f.Opcode != wstest.OpPong || string(f.Payload) != "pin" {
						t.Errorf("pong: %v, %v", f, err)
					}
				}
				wantClose(t, c, 1000, "")
			})
		})
	}
}

// The same as a property, with the scheduler's help: whenever contexts end, all
// messages arrive, in order and whole.
func TestReadInterruptedAnywhere(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, secure := range []bool{false, true} {
		serve := wstest.Serve
		if secure {
			serve = wstest.ServeTLS
		}
		e := newEnv(t, conf(patient, noRates, func(cfg *wsguard.Config) {
			cfg.Messages.ControlFrames = wsguard.Rate{PerSecond: wsguard.Off}
		}))
		got := make(chan []string, 1)
		e.s = serve(t, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			var msgs []string
			interrupts := 0
			defer func() { got <- msgs }()
			for {
				rctx, cancel := context.WithTimeout(context.Background(), rand.N(300*time.Microsecond))
				if rand.N(10) == 0 {
					cancel()
				}
				_, msg, err := c.Read(rctx)
				over := rctx.Err()
				cancel()
				switch {
				case err == nil:
					if !utf8.Valid(msg) {
						t.Error("not UTF-8")
					}
					msgs = append(msgs, string(msg))
				case err == context.DeadlineExceeded || err == context.Canceled:
					if over == nil {
						t.Errorf("%v although the context has not ended", err)
					}
					interrupts++
				default:
					if interrupts == 0 {
						t.Error("no Read was interrupted")
					}
					return err
				}
			}
		}))
		for range 2 {
			var want []string
			var wire []byte
			for i := range 100 {
				msg := strings.Repeat(string(rune(0x20+i)), rand.N(30)) + "é€😀"
				if rand.N(10) == 0 {
					msg = strings.Repeat(msg, 100)
				}
				want = append(want, msg)
				for _, f := range fragments(wstest.OpText, []byte(msg), 6) {
					wire = append(wire, f...)
					if rand.N(4) == 0 {
						wire = append(wire, fragment(wstest.OpPing, true, []byte("ping"))...)
					}
				}
			}
			wire = append(wire, wstest.AppendFrame(nil, wstest.CloseFrame(1000, ""))...)
			c := e.open(header())
			c.Timeout = time.Minute
			go func() {
				for len(wire) > 0 {
					n := min(len(wire), 1+rand.N(60))
					c.Write(wire[:n])
					wire = wire[n:]
					if rand.N(8) == 0 {
						runtime.Gosched()
					}
				}
			}()
			wantClose(t, c, 1000, "")
			if msgs := <-got; !slices.Equal(msgs, want) {
				t.Errorf("%d messages of %d, or not the same", len(msgs), len(want))
			}
			c.Close()
			e.closed()
		}
		e.idle()
	}
}

// A message that a rate holds back is kept for the next Read.
func TestReadInterruptedInDelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			cfg.Rates.Messages, cfg.Rates.Action = wsguard.Rate{PerSecond: 0.5, Burst: 1}, wsguard.ActionDelay
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			if _, msg, err := c.Read(ctx); err != nil || string(msg) != "one" {
				t.Errorf("%q, %v", msg, err)
			}
			start := time.Now()
			for range 3 {
				rctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
				if _, msg, err := c.Read(rctx); err != context.DeadlineExceeded {
					t.Errorf("%q, %v", msg, err)
				}
				cancel()
			}
			if _, msg, err := c.Read(ctx); err != nil || string(msg) != "two" {
				t.Errorf("%q, %v", msg, err)
			}
			if d := time.Since(start); d != 2*time.Second {
				t.Errorf("held back for %v", d)
			}
			return nil
		}))
		c := e.open(header())
		c.Write(append(wstest.AppendFrame(nil, wstest.Text("one")), wstest.AppendFrame(nil, wstest.Text("two"))...))
		c.Timeout = time.Hour
		wantClose(t, c, 1000, "")
	})
}

// The handler's context has nothing of the request.
func TestHandlerContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type key struct{}
		e := newEnv(t, wsguard.Config{})
		h := e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			if v := ctx.Value(key{}); v != nil {
				t.Errorf("a value of the request: %v", v)
			}
			if ctx.Value(http.ServerContextKey) != nil || ctx.Value(http.LocalAddrContextKey) != nil {
				t.Error("a value of the server's")
			}
			if _, ok := ctx.Deadline(); ok {
				t.Error("a deadline of the request's")
			}
			if ctx != c.Context() {
				t.Error("not the connection's context")
			}
			return echo(ctx, c)
		})
		e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), key{}, "alice"), time.Millisecond)
			defer cancel()
			h.ServeHTTP(w, r.WithContext(ctx))
		}))
		c := e.open(header())
		time.Sleep(time.Second)
		roundTrip(t, c, "hello")
	})
}

// The allocations of Read and Write in a steady state (invariant 12 of
// docs/invariants.md).
func TestAllocs(t *testing.T) {
	e := newEnv(t, conf(patient, noRates))
	results := make(chan map[string]float64, 1)
	const rounds = 10_000
	e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		got := map[string]float64{}
		other, cancel := context.WithCancel(context.Background())
		defer cancel()
		msg := []byte("a message of fifty bytes, or so, to read and write")
		for name, ctx := range map[string]context.Context{"Background": context.Background(), "own": ctx, "reused": other} {
			got["Read, "+name] = testing.AllocsPerRun(1, func() {
				for range rounds {
					if _, _, err := c.Read(ctx); err != nil {
						t.Error(err)
						return
					}
				}
			})
			got["Write, "+name] = testing.AllocsPerRun(1, func() {
				for range rounds {
					if err := c.Write(ctx, wsguard.MessageText, msg); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		results <- got
		return nil
	}))
	c := e.open(header())
	go func() {
		b := bytes.Repeat(wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 50))), 100)
		for {
			if _, err := c.Conn().Write(b); err != nil {
				return
			}
		}
	}()
	go func() {
		b := make([]byte, 1<<16)
		for {
			if _, err := c.Conn().Read(b); err != nil {
				return
			}
		}
	}()
	most := 1000.0 // the collector may empty the pools; an allocation for each message would be 10,000
	if raceDetector() {
		most = 4 * rounds // the race detector makes pools forget
	}
	for name, n := range <-results {
		t.Logf("%s: %v allocations in %d", name, n, rounds)
		if n > most {
			t.Errorf("%s: %v allocations in %d", name, n, rounds)
		}
	}
	c.Close()
	e.closed()
}

// What a handler returns, and what a logger does, cannot end the process. In a
// process of its own, as it might.
func TestProcessSurvives(t *testing.T) {
	if name := os.Getenv("WSGUARD_TEST_CRASH"); name != "" {
		crash(t, name)
		return
	}
	run := func(name string) (string, error) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestProcessSurvives$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), "WSGUARD_TEST_CRASH="+name)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if _, err := run("all"); err == nil {
		return
	}
	for name := range crashes {
		t.Run(name, func(t *testing.T) {
			if out, err := run(name); err != nil {
				first, _, _ := strings.Cut(out, "\n\n")
				t.Errorf("%v\n%.600s", err, first)
			}
		})
	}
}

type panickyError struct{}

func (panickyError) Error() string { panic("Error panics") }

type badLogger struct{ slog.Handler }

func (badLogger) Enabled(context.Context, slog.Level) bool  { return true }
func (badLogger) Handle(context.Context, slog.Record) error { panic("the logger panics") }
func (l badLogger) WithAttrs([]slog.Attr) slog.Handler      { return l }
func (l badLogger) WithGroup(string) slog.Handler           { return l }

type badCloser struct{}

func (badCloser) Close() error { panic("Close panics") }

var crashes = map[string]struct {
	config  func(*wsguard.Config)
	handler func(context.Context, *wsguard.Conn) error
}{
	"nil CloseError":         {nil, func(context.Context, *wsguard.Conn) error { var e *wsguard.CloseError; return e }},
	"error that panics":      {nil, func(context.Context, *wsguard.Conn) error { return panickyError{} }},
	"panic that panics":      {nil, func(context.Context, *wsguard.Conn) error { panic(panickyError{}) }},
	"panic and a bad logger": {func(cfg *wsguard.Config) { cfg.Logger = slog.New(badLogger{}) }, func(context.Context, *wsguard.Conn) error { panic("x") }},
	"a bad logger":           {func(cfg *wsguard.Config) { cfg.Logger = slog.New(badLogger{}) }, func(context.Context, *wsguard.Conn) error { return nil }},
	"a bad hook":             {func(cfg *wsguard.Config) { cfg.OnEvent = func(audit.Event) { panic("x") } }, func(context.Context, *wsguard.Conn) error { return nil }},
	"a hook that ends its goroutine": {func(cfg *wsguard.Config) {
		cfg.OnEvent = func(e audit.Event) {
			if e.Kind == audit.Close {
				runtime.Goexit()
			}
		}
	}, func(context.Context, *wsguard.Conn) error { return nil }},
	"a bad value": {func(cfg *wsguard.Config) {
		cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return badCloser{}, nil }
	}, func(context.Context, *wsguard.Conn) error { return nil }},
	"a bad validator": {func(cfg *wsguard.Config) { cfg.Messages.Validator = badValidator{} }, nil},
}

type badValidator struct{}

func (badValidator) Validate([]byte) error { return panickyError{} }

func crash(t *testing.T, name string) {
	if name == "all" {
		for name := range crashes {
			crash(t, name)
		}
		return
	}
	e := newEnv(t, conf(patient, func(cfg *wsguard.Config) {
		if f := crashes[name].config; f != nil {
			f(cfg)
		}
	}))
	fn := crashes[name].handler
	if fn == nil {
		fn = echo
	}
	e.serve(e.g.Handler(fn))
	for range 3 {
		c := e.open(header())
		c.WriteFrame(wstest.Text("x"))
		if _, _, err := c.ReadClose(); err != nil {
			t.Errorf("no close frame: %v", err)
		}
		c.Close()
	}
	e.idle()
}

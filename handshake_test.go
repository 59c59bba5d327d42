package wsguard_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// T17, T18, T19, T22, T65: the form of a handshake.
func TestHandshakeForm(t *testing.T) {
	wstest.CheckGoroutines(t)
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	for _, tt := range []struct {
		name   string
		o      wstest.HandshakeOptions
		status int
		reason string
		want   http.Header // of the response
	}{
		{"T19 legal", wstest.HandshakeOptions{}, 101, "", nil},
		{"T19 tokens among others", wstest.HandshakeOptions{Header: header("Connection", "keep-alive, UPGRADE", "Upgrade", "WebSocket")}, 101, "", nil},
		{"T19 Connection in two lines", wstest.HandshakeOptions{Header: header("Connection", "keep-alive", "Connection", "upgrade")}, 101, "", nil},
		{"T65 compression is offered", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")}, 101, "", nil},
		{"T22 plain GET", wstest.HandshakeOptions{Header: header("Upgrade", "", "Connection", "")}, 426, "not_upgrade", http.Header{"Upgrade": {"websocket"}}},
		{"T19 no Connection", wstest.HandshakeOptions{Header: header("Connection", "")}, 426, "not_upgrade", http.Header{"Upgrade": {"websocket"}}},
		{"T19 Connection: close", wstest.HandshakeOptions{Header: header("Connection", "close")}, 426, "not_upgrade", nil},
		{"T19 Connection: xupgrade", wstest.HandshakeOptions{Header: header("Connection", "xupgrade")}, 426, "not_upgrade", nil},
		{"T19 Upgrade: h2c", wstest.HandshakeOptions{Header: header("Upgrade", "h2c")}, 426, "not_upgrade", nil},
		{"T19 Upgrade: websocketx", wstest.HandshakeOptions{Header: header("Upgrade", "websocketx")}, 426, "not_upgrade", nil},
		{"T19 version 12", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Version", "12")}, 426, "version", http.Header{"Sec-Websocket-Version": {"13"}}},
		{"T19 version 8", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Version", "8")}, 426, "version", http.Header{"Sec-Websocket-Version": {"13"}}},
		{"T19 version 013", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Version", "013")}, 426, "version", http.Header{"Sec-Websocket-Version": {"13"}}},
		{"T19 version 13, 12", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Version", "13, 12")}, 426, "version", http.Header{"Sec-Websocket-Version": {"13"}}},
		{"T19 two versions", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Version", "13", "Sec-WebSocket-Version", "13")}, 426, "version", http.Header{"Sec-Websocket-Version": {"13"}}},
		{"T19 no version", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Version", "")}, 426, "version", http.Header{"Sec-Websocket-Version": {"13"}}},
		{"T19 no key", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Key", "")}, 400, "handshake", nil},
		{"T19 two keys", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Key", key, "Sec-WebSocket-Key", key)}, 400, "handshake", nil},
		{"T19 short key", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j")}, 400, "handshake", nil},
		{"T19 long key", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZTE=")}, 400, "handshake", nil},
		{"T19 key is no base64", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZ!==")}, 400, "handshake", nil},
		{"T19 key without padding", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ")}, 400, "handshake", nil},
		{"T19 POST", wstest.HandshakeOptions{Method: "POST"}, 405, "method", http.Header{"Allow": {"GET"}}},
		{"T19 HEAD", wstest.HandshakeOptions{Method: "HEAD"}, 405, "method", http.Header{"Allow": {"GET"}}},
		{"T19 OPTIONS", wstest.HandshakeOptions{Method: "OPTIONS"}, 405, "method", http.Header{"Allow": {"GET"}}},
		{"T19 PUT", wstest.HandshakeOptions{Method: "PUT"}, 405, "method", http.Header{"Allow": {"GET"}}},
		{"T19 CONNECT", wstest.HandshakeOptions{Method: "CONNECT", Path: "/"}, 405, "method", http.Header{"Allow": {"GET"}}},
		{"T19 get", wstest.HandshakeOptions{Method: "get"}, 405, "method", http.Header{"Allow": {"GET"}}},
		{"T19 HTTP/1.0", wstest.HandshakeOptions{Proto: "HTTP/1.0"}, 426, "http_version", http.Header{"Upgrade": {"websocket"}}},
		{"T17 Content-Length", wstest.HandshakeOptions{Body: "x"}, 400, "body", nil},
		{"T18 protocol of 800 kB", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Protocol", strings.Repeat("a", 800<<10))}, 431, "header_too_large", nil},
		{"T18 protocol over 12 KiB", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Protocol", strings.Repeat("a", 12<<10))}, 431, "header_too_large", nil},
		{"T18 over 12 KiB together", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Protocol", "a", "Sec-WebSocket-Extensions", strings.Repeat("a", 6<<10), "Sec-WebSocket-X", strings.Repeat("a", 6<<10))}, 431, "header_too_large", nil},
		{"T18 12 KiB together and a byte", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Protocol", "a", "Sec-WebSocket-X", strings.Repeat("a", 12<<10-len(key)-len("13")))}, 431, "header_too_large", nil},
		{"T18 12 KiB together", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Protocol", "a", "Sec-WebSocket-X", strings.Repeat("a", 12<<10-len(key)-len("13a")))}, 101, "", nil},
		{"T18 17 protocols", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Protocol", strings.Repeat("a,", 17))}, 431, "header_too_large", nil},
		{"T18 16 protocols", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Protocol", strings.Repeat("a,", 16))}, 101, "", nil},
		{"T18 17 extensions, in lines", wstest.HandshakeOptions{Header: header(slices.Repeat([]string{"Sec-WebSocket-Extensions", "x"}, 17)...)}, 431, "header_too_large", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				v := newTokens()
				e := serveGuard(t, wsguard.Config{Subprotocols: []string{"a"}, Auth: wsguard.AuthConfig{Verifier: v.Verify, InsecureAnonymous: true}})
				o := tt.o
				if o.Header == nil {
					o.Header = header()
				}
				o.Header["Authorization"] = []string{"Bearer alice"}
				start := time.Now()
				if tt.status == 101 {
					c, res := e.tryWith(o)
					if res.StatusCode != 101 {
						t.Fatalf("status %d; events:\n%s", res.StatusCode, e.events)
					}
					if ext := res.Header.Get("Sec-WebSocket-Extensions"); ext != "" {
						t.Errorf("extensions %q", ext)
					}
					roundTrip(t, c, "hello")
					return
				}
				c, res := e.tryWith(o)
				if res.StatusCode != tt.status {
					t.Fatalf("status %d, want %d; events:\n%s", res.StatusCode, tt.status, e.events)
				}
				if o.Method != "HEAD" {
					checkRefusal(t, res)
				}
				for name, want := range tt.want {
					if !slices.Equal(res.Header[name], want) {
						t.Errorf("%s is %q, want %q", name, res.Header[name], want)
					}
				}
				if ev := e.events.wait(t, audit.Refusal, 1); ev.Reason != tt.reason {
					t.Errorf("reason %s, want %s", ev.Reason, tt.reason)
				}
				c.Timeout = 3 * time.Second
				if err := c.ReadEOF(); err != nil && !strings.Contains(err.Error(), "reset") {
					t.Error(err)
				}
				if d := time.Since(start); d > 5*time.Second {
					t.Errorf("after %v", d)
				}
				if v.calls.Load() != 0 {
					t.Error("the verifier was called")
				}
			})
		})
	}
}

// T19: nothing behind a refused request is answered.
func TestHandshakeT19Pipelined(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}, Hosts: []string{"127.0.0.1"}})
	second := "GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: " + appOrigin + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer alice\r\n\r\n"
	for _, tt := range []struct {
		name   string
		o      wstest.HandshakeOptions
		status int
	}{
		{"T19 401", wstest.HandshakeOptions{Header: header()}, 401},
		{"T19 403", wstest.HandshakeOptions{Header: header("Origin", "https://evil.test")}, 403},
		{"T19 421", wstest.HandshakeOptions{Header: header(), Host: "evil.test"}, 421},
		{"T19 426", wstest.HandshakeOptions{Header: header("Upgrade", "")}, 426},
		{"T19 426 version", wstest.HandshakeOptions{Header: header("Sec-WebSocket-Version", "12")}, 426},
		{"T19 405", wstest.HandshakeOptions{Header: header(), Method: "POST"}, 405},
		{"T19 400 body", wstest.HandshakeOptions{Header: header("Content-Length", fmt.Sprint(len(second)))}, 400},
		{"T19 400 chunked", wstest.HandshakeOptions{Header: header("Transfer-Encoding", "chunked")}, 400},
		{"T19 400 chunked, ended", wstest.HandshakeOptions{Header: header("Transfer-Encoding", "chunked"), Body: "0\r\n\r\n"}, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := e.in(t)
			tt.o.Early = []byte(second)
			c, res := e.tryWith(tt.o)
			if res.StatusCode != tt.status {
				t.Fatalf("status %d", res.StatusCode)
			}
			if res, err := c.ReadResponse(); err == nil {
				t.Errorf("a second response: %d", res.StatusCode)
			}
		})
	}
}

// T17: a body that never comes. Answered at once, and no goroutine is left
// reading it while the client stays.
func TestHandshakeT17Body(t *testing.T) {
	request := func(proto, extra string) string {
		return "GET / " + proto + "\r\nHost: x\r\nOrigin: " + appOrigin + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + extra + "\r\n\r\n"
	}
	foreign := must(wsguard.NewOriginCheck(wsguard.Config{Origins: []string{"https://only.example.com"}}))
	for _, tt := range []struct {
		name    string
		request string
		drain   bool
		front   func(http.Handler) http.Handler
		status  int
	}{
		{"T17 chunked", request("HTTP/1.1", "Transfer-Encoding: chunked"), false, nil, 400},
		{"T17 half a chunk", request("HTTP/1.1", "Transfer-Encoding: chunked") + "10\r\nabc", false, nil, 400},
		{"T17 Content-Length", request("HTTP/1.1", "Content-Length: 5"), false, nil, 400},
		{"T17 large Content-Length", request("HTTP/1.1", "Content-Length: 100000000000"), false, nil, 400},
		{"T17 Expect", request("HTTP/1.1", "Content-Length: 5\r\nExpect: 100-continue"), false, nil, 400},
		{"T17 while draining", request("HTTP/1.1", "Transfer-Encoding: chunked"), true, nil, 503},
		{"T17 HTTP/1.0", request("HTTP/1.0", "Content-Length: 5"), false, nil, 426},
		{"T17 behind a piece", request("HTTP/1.1", "Transfer-Encoding: chunked"), false, foreign.Handler, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler {
					if tt.front != nil {
						return tt.front(echoDoor(g))
					}
					return echoDoor(g)
				})
				if tt.drain {
					e.g.Shutdown(context.Background())
				}
				synctest.Wait()
				base := bubbled()
				for range 5 {
					c := e.dial()
					start := time.Now()
					c.Write([]byte(tt.request))
					res, err := c.ReadResponse()
					if err != nil {
						t.Fatal(err)
					}
					if d := time.Since(start); res.StatusCode != tt.status || d > time.Second {
						t.Errorf("status %d after %v", res.StatusCode, d)
					}
					checkRefusal(t, res)
				}
				// The clients are still there.
				time.Sleep(3 * time.Second)
				synctest.Wait()
				if n := bubbled() - base; n > 0 {
					t.Errorf("%d goroutines more than before", n)
				}
			})
		})
	}
}

// T20: frames that come with the handshake are metered like any others.
func TestHandshakeT20Early(t *testing.T) {
	wstest.CheckGoroutines(t)
	frames := func(ff ...wstest.Frame) (b []byte) {
		for _, f := range ff {
			b = wstest.AppendFrame(b, f)
		}
		return b
	}
	for _, tt := range []struct {
		name   string
		early  []byte
		code   int
		reason string
	}{
		{"T20 a message", frames(wstest.Text("hello")), 0, ""},
		{"T20 half a header", []byte{0x81}, 0, "rest"},
		{"T20 too big", frames(wstest.Frame{Fin: true, Opcode: wstest.OpText, Masked: true, Length: ptr(uint64(1 << 40))}), 1009, "message_too_big"},
		{"T20 unmasked", frames(wstest.Frame{Fin: true, Opcode: wstest.OpText, Payload: []byte("x")}), 1002, "protocol_error"},
		{"T20 flood of pings", frames(slices.Repeat([]wstest.Frame{wstest.Ping(nil)}, 50)...), 1008, "control_flood"},
		{"T20 flood of messages", frames(slices.Repeat([]wstest.Frame{wstest.Text("x")}, 60)...), 1008, "rate_limited"},
		{"T20 binary", frames(wstest.Binary([]byte("x"))), 1003, "message_type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, wsguard.Config{})
				c, res := e.tryWith(wstest.HandshakeOptions{Header: header(), Early: tt.early})
				if res.StatusCode != 101 {
					t.Fatal(res.StatusCode)
				}
				if tt.code != 0 {
					wantClose(t, c, tt.code, tt.reason)
					return
				}
				if tt.reason == "rest" {
					c.Write(frames(wstest.Text("hello"))[1:])
				}
				if _, p, err := c.ReadMessage(); string(p) != "hello" {
					t.Errorf("%q, %v", p, err)
				}
			})
		})
	}
}

// T21: HTTP/2 is refused, never let through.
func TestHandshakeT21HTTP2(t *testing.T) {
	wstest.CheckGoroutines(t)
	v := newTokens()
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify}})
	h := echoDoor(e.g)
	t.Run("T21 over TLS", func(t *testing.T) {
		s := httptest.NewUnstartedServer(h)
		s.EnableHTTP2 = true
		s.StartTLS()
		defer s.Close()
		tr := s.Client().Transport.(*http.Transport)
		defer tr.CloseIdleConnections()
		for _, method := range []string{"GET", "POST"} {
			req := must(http.NewRequest(method, s.URL, nil))
			req.Header = bearer("alice")
			res, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if res.ProtoMajor != 2 || res.StatusCode != 501 {
				t.Errorf("%s %s: status %d", res.Proto, method, res.StatusCode)
			}
			checkRefusal(t, res)
			res.Body.Close()
		}
	})
	for _, tt := range []struct {
		name string
		edit func(*http.Request)
		want int
	}{
		{"T21 extended CONNECT", func(r *http.Request) { r.Method = "CONNECT"; r.Header.Set(":protocol", "websocket") }, 501},
		{"T21 HTTP/2 with upgrade headers", func(*http.Request) {}, 501},
		{"T21 HTTP/3", func(r *http.Request) { r.Proto, r.ProtoMajor = "HTTP/3.0", 3 }, 501},
		{"T21 HTTP/1.2", func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.2", 1, 2 }, 501},
		{"T21 HTTP/0.9", func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/0.9", 0, 9 }, 501},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := upgradeRequest()
			r.Proto, r.ProtoMajor, r.ProtoMinor, r.ContentLength = "HTTP/2.0", 2, 0, -1
			r.Header.Set("Authorization", "Bearer alice")
			tt.edit(r)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("status %d", w.Code)
			}
		})
	}
	if v.calls.Load() != 0 {
		t.Error("the verifier was called")
	}
}

// upgradeRequest is a legal handshake as a server sees it, from loopback.
func upgradeRequest() *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "127.0.0.1:1234"
	r.Header = http.Header{
		"Origin": {appOrigin}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	return r
}

// A page that offers subprotocols, none of which is served, would be told that its
// connection is open, and every browser would then fail it. It is refused, and
// costs nothing.
func TestHandshakeSubprotocol(t *testing.T) {
	wstest.CheckGoroutines(t)
	const offer = "Sec-WebSocket-Protocol"
	none, chat := []string(nil), []string{"v2", "chat"}
	keys := wsguard.AuthConfig{Verifier: newTokens().Verify}
	anonymous := wsguard.AuthConfig{InsecureAnonymous: true}
	tickets := wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}, Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Subprotocol: "tok."}}
	for _, tt := range []struct {
		name   string
		served []string
		auth   wsguard.AuthConfig
		header http.Header
		status int
		reason string // of a refusal
		proto  string // of a 101
		detail []string
	}{
		{"one that is served", chat, anonymous, header(offer, "chat"), 101, "", "chat", nil},
		{"one of several", chat, anonymous, header(offer, "a, chat, b"), 101, "", "chat", nil},
		{"by the server's preference", chat, anonymous, header(offer, "chat, v2"), 101, "", "v2", nil},
		{"no offer", chat, anonymous, header(), 101, "", "", nil},
		{"no offer, an empty line", chat, anonymous, http.Header{"Origin": {appOrigin}, offer: {""}}, 101, "", "", nil},
		{"no offer, only commas", chat, anonymous, header(offer, " ,, ,"), 101, "", "", nil},
		{"one that is not served", chat, anonymous, header(offer, "other"), 400, "subprotocol", "", []string{"other", "chat", "v2"}},
		{"in another case", chat, anonymous, header(offer, "Chat"), 400, "subprotocol", "", []string{"Chat"}},
		{"the beginning", chat, anonymous, header(offer, "cha"), 400, "subprotocol", "", nil},
		{"several, in lines", chat, anonymous, header(offer, "a, b", offer, "c"), 400, "subprotocol", "", []string{"a, b, c"}},
		{"none is served", none, anonymous, header(offer, "chat"), 400, "subprotocol", "", []string{"chat", "none"}},
		{"a program", none, anonymous, header("Origin", "", offer, "chat"), 101, "", "", nil},
		{"a program, another", chat, anonymous, header("Origin", "", offer, "other"), 101, "", "", nil},
		{"a program, an empty Origin", none, anonymous, http.Header{"Origin": {""}, offer: {"chat"}}, 101, "", "", nil},
		{"credential and one that is served", chat, keys, header(offer, "chat, bearer.alice"), 101, "", "chat", nil},
		{"credential and one that is not", chat, keys, header(offer, "other, bearer.alice"), 400, "subprotocol", "", []string{"other"}},
		{"credential and none is served", none, keys, header(offer, "bearer.alice", offer, "other"), 400, "subprotocol", "", []string{"other"}},
		{"credential alone", chat, keys, header(offer, "bearer.alice"), 401, "unauthenticated", "", nil},
		{"credential alone, none is served", none, keys, header(offer, "bearer.alice"), 401, "unauthenticated", "", nil},
		{"two credentials", none, keys, header(offer, "bearer.alice, bearer.bob"), 401, "unauthenticated", "", nil},
		{"empty credential", none, keys, header(offer, "bearer."), 401, "unauthenticated", "", nil},
		{"credential in the header beside it", none, keys, header("Authorization", "Bearer alice", offer, "other"), 400, "subprotocol", "", nil},
		{"credential in the header, another alone", none, keys, header("Authorization", "Bearer alice", offer, "bearer.alice"), 401, "unauthenticated", "", nil},
		{"wrong credential beside it", chat, keys, header(offer, "other, bearer.wrong"), 400, "subprotocol", "", nil},
		{"a program's credential beside it", chat, keys, header("Origin", "", offer, "other, bearer.alice"), 101, "", "", nil},
		{"another prefix is an offer", chat, tickets, header(offer, "bearer.alice"), 400, "subprotocol", "", nil},
		{"its own prefix is none", chat, tickets, header(offer, "chat, tok.alice"), 101, "", "chat", nil},
		{"no token source: every entry is an offer", chat, anonymous, header(offer, "bearer.alice"), 400, "subprotocol", "", nil},
		{"no token source, beside one that is served", chat, anonymous, header(offer, "bearer.alice, chat"), 101, "", "chat", nil},
		{"control and bidi characters", chat, anonymous, header(offer, "a\u202eb"), 400, "subprotocol", "", []string{`a\u202eb`}},
	} {
		for _, front := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", pieces in front ", front), func(t *testing.T) {
				t.Parallel()
				e := serveWith(t, wsguard.Config{
					Auth: tt.auth, Subprotocols: tt.served, AllowMissingOrigin: true, Origins: []string{appOrigin}, Hosts: []string{"127.0.0.1"},
					Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 3}},
				}, func(g *wsguard.Guard) http.Handler {
					if front {
						return chain(g.Handler(echo), allPieces(g)...)
					}
					return g.Handler(echo)
				})
				if tt.status == 101 {
					c, res := e.try(tt.header)
					if got := res.Header.Get(offer); res.StatusCode != 101 || got != tt.proto {
						t.Fatalf("status %d, subprotocol %q, want %q; events:\n%s", res.StatusCode, got, tt.proto, e.events)
					}
					roundTrip(t, c, "hello")
					bye(c)
					return
				}
				if front && slices.Contains([]string{"wrong credential beside it", "another prefix is an offer"}, tt.name) {
					e.refused(tt.header, 401, "unauthenticated") // by the piece, which comes first
					return
				}
				tries := 1
				if tt.status == 400 {
					tries = 10 // it is not charged to the handshake rate
				}
				if front {
					tries = min(tries, 3) // the authenticator in front knows no endpoint, and charges it
				}
				for range tries {
					e.refused(tt.header, tt.status, tt.reason)
				}
				ev := e.events.wait(t, audit.Refusal, 1)
				for _, want := range tt.detail {
					if !strings.Contains(ev.Detail, want) {
						t.Errorf("%q is not in the detail %q", want, ev.Detail)
					}
				}
				if s := renderEvent(ev); strings.Contains(s, "alice") || strings.Contains(s, "\u202e") {
					t.Errorf("the event says %s", s)
				}
			})
		}
	}
}

// What a page offers is in the event, but nothing that may be a secret: a token can
// come where no token is looked for.
func TestHandshakeSubprotocolDetail(t *testing.T) {
	wstest.CheckGoroutines(t)
	const secret = "s3cr3t-s3cr3t-s3cr3t-s3cr3t"
	e := serveGuard(t, wsguard.Config{
		Subprotocols: []string{"chat"},
		Auth:         wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Subprotocol: "Key-"}},
	})
	for _, tt := range []struct{ offered, want string }{
		{"graphql-transport-ws, graphql-ws", "graphql-transport-ws, graphql-ws"},
		{secret, "s3cr3t-s…"},
		{"a, " + secret, "a, s3cr3t-s…"},
		{"eyJhbGciOiJIUzI1NiJ9.e30.abcdefghijklmnopqrstuvwxyz", "eyJhbGci…"},
		{"bearer.s3cr3t", "bearer…"},
		{"BEARER.s3cr3t", "BEARER…"},
		{"base64url.bearer.authorization.k8s.io.s3cr3t", "base64url.bearer…"},
		{"key-s3cr3t", "key-…"},
		{"chat2, Key-alice", "chat2"},
		{"\u023a\u023abearer.s3cr3t", "\u023a\u023abearer…"}, // longer in lower case
		{"\u212aey-x", "\u212aey-x"},
		{"bearer, bear, ", "bearer, bear"},
		{strings.Repeat("a,", 15) + "b", "a, a, a"},
		{strings.Repeat("a", 8<<10), "aaaaaaaa…"},
	} {
		before := len(e.events.of(audit.Refusal))
		e.refused(header("Sec-WebSocket-Protocol", tt.offered), 400, "subprotocol")
		ev := e.events.of(audit.Refusal)[before]
		if !strings.Contains(ev.Detail, tt.want) || len(ev.Detail) > 256 {
			t.Errorf("offered %.40s: detail %q, want %q in it", tt.offered, ev.Detail, tt.want)
		}
		if s := renderEvent(ev); strings.Contains(s, "s3cr3t-s3") || strings.Contains(s, ".s3cr3t") || strings.Contains(s, "key-s") || strings.Contains(s, "alice") {
			t.Errorf("offered %s: the event says %s", tt.offered, s)
		}
	}
}

// A ticket is good for the next handshake after one that offers what is not served.
func TestHandshakeSubprotocolKeepsTicket(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := ticketEnv(t, wsguard.Config{Subprotocols: []string{"chat"}})
	ticket := e.buy(bearer("alice"))
	for range 3 {
		if _, res := e.redeem(ticket, header("Sec-WebSocket-Protocol", "other")); res.StatusCode != 400 {
			t.Fatalf("status %d, want 400", res.StatusCode)
		}
	}
	if _, res := e.redeem(ticket, header("Sec-WebSocket-Protocol", "chat")); res.StatusCode != 101 {
		t.Errorf("status %d: the ticket is used up", res.StatusCode)
	}
}

// A token of 8,192 bytes may come in Sec-WebSocket-Protocol, as in a header.
func TestHandshakeLongToken(t *testing.T) {
	wstest.CheckGoroutines(t)
	long := strings.Repeat("x", 8<<10-len("alice-")) // the rest of the name
	e := serveGuard(t, wsguard.Config{Subprotocols: []string{"chat"}, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}})
	bye(e.open(header("Sec-WebSocket-Protocol", "chat, bearer.alice-"+long)))
	bye(e.open(header("Sec-WebSocket-Protocol", "bearer.alice-"+long, "Sec-WebSocket-Protocol", "chat", "Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")))
	bye(e.open(bearer("alice-" + long)))
	e.refused(header("Sec-WebSocket-Protocol", "chat, bearer.alice-x"+long), 401, "unauthenticated")
}

// T25: nothing of a request comes back, and nothing of why.
func TestHandshakeT25Echo(t *testing.T) {
	wstest.CheckGoroutines(t)
	const mark = "mark3r"
	e := serveGuard(t, wsguard.Config{
		Auth:  wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Header: true, Cookie: "session", InsecureQuery: "token"}},
		Hosts: []string{"127.0.0.1"},
		Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
		Attach: func(r *http.Request, p wsguard.Principal) (any, error) {
			return nil, fmt.Errorf("%s for %s may not", mark, r.URL)
		},
	})
	for _, o := range []wstest.HandshakeOptions{
		{Path: "/" + mark, Header: header("Origin", "https://"+mark+".test")},
		{Path: "/" + mark, Header: header("Sec-Fetch-Mode", mark)},
		{Host: mark + ".test", Header: header()},
		{Header: header("Upgrade", mark)},
		{Header: header("Sec-WebSocket-Version", mark)},
		{Header: header("Sec-WebSocket-Key", mark)},
		{Header: header("Sec-WebSocket-Protocol", mark+strings.Repeat(",a", 17))},
		{Method: strings.ToUpper(mark), Header: header()},
		{Header: bearer(mark)},
		{Header: bearer("unavailable-" + mark)},
		{Header: bearer("panic-" + mark)},
		{Header: header("Cookie", "session="+mark)},
		{Path: "/?token=" + mark, Header: header()},
		{Path: "/" + mark, Header: bearer("alice")},
		{Header: header("Via", mark)},
	} {
		c, res := e.tryWith(o)
		checkRefusal(t, res)
		if s := strings.ToLower(fmt.Sprint(res.Header, body(t, res))); strings.Contains(s, mark) || strings.Contains(s, "wsguard") {
			t.Errorf("%+v: %s", o, s)
		}
		c.Close()
	}
}

// stage is one step of a handshake, with what makes it refuse.
type stage struct {
	reason string
	status int
	config func(*wsguard.Config)
	edit   func(*wstest.HandshakeOptions)
	// prepare brings the guard into the state in which it refuses.
	prepare func(*order)
}

// order is one guard on which two stages refuse.
type order struct {
	*env
	v    *tokens
	undo []func()
}

// The steps have an order: a handshake that fails two of them in a row is refused
// by the earlier one, and nothing later has been called.
func TestHandshakeOrder(t *testing.T) {
	wstest.CheckGoroutines(t)
	set := func(name, value string) func(*wstest.HandshakeOptions) {
		return func(o *wstest.HandshakeOptions) { o.Header[name] = []string{value} }
	}
	stages := []stage{
		{"draining", 503, nil, nil, func(o *order) { o.g.Shutdown(context.Background()) }},
		{"http_version", 426, nil, func(o *wstest.HandshakeOptions) { o.Proto = "HTTP/1.0" }, nil},
		{"body", 400, nil, set("Content-Length", "1"), nil},
		{"method", 405, nil, func(o *wstest.HandshakeOptions) { o.Method = "DELETE" }, nil},
		{"not_upgrade", 426, nil, set("Upgrade", "h2c"), nil},
		{"version", 426, nil, set("Sec-WebSocket-Version", "12"), nil},
		{"handshake", 400, nil, set("Sec-WebSocket-Key", "x"), nil},
		{"client_address", 403, nil, set("X-Test-Peer", "nonsense"), nil},
		{"host", 421, func(c *wsguard.Config) { c.Hosts = []string{"127.0.0.1"} }, func(o *wstest.HandshakeOptions) { o.Host = "evil.test" }, nil},
		{"insecure_transport", 403, nil, set("Via", "1.1 x"), nil},
		{"origin", 403, nil, set("Origin", "https://evil.test"), nil},
		{"fetch_metadata", 403, nil, set("Sec-Fetch-Mode", "navigate"), nil},
		{"subprotocol", 400, func(c *wsguard.Config) { c.Subprotocols = []string{"news"} }, set("Sec-WebSocket-Protocol", "chat"), nil},
		{"handshake_rate", 429, func(c *wsguard.Config) { c.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 1} }, nil, func(o *order) {
			for {
				c, res := o.try(header())
				c.Close()
				if ev := o.events.of(audit.Refusal); res.StatusCode == 429 && ev[len(ev)-1].Reason == "handshake_rate" {
					return
				}
			}
		}},
		{"in_flight", 429, func(c *wsguard.Config) { c.Rates.MaxInFlightPerClient = 1 }, nil, func(o *order) {
			c := o.s.Dial(o.t)
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				c.Handshake("/", bearer("stuck"))
			}()
			<-o.v.entered
			o.undo = append(o.undo, func() { close(o.v.release); <-answered; c.Close() })
		}},
		{"max_conns", 503, func(c *wsguard.Config) { c.Caps.MaxConns = 1 }, nil, func(o *order) {
			if o.g.Conns() == 0 {
				l := must(o.g.Pieces().Cap.Acquire(upgradeRequest()))
				o.undo = append(o.undo, l.Release)
			}
		}},
		{"max_client_conns", 429, func(c *wsguard.Config) { c.Caps.MaxConnsPerClient = 1 }, nil, func(o *order) {
			if o.g.Conns() == 0 {
				l := must(o.g.Pieces().Cap.Acquire(upgradeRequest()))
				o.undo = append(o.undo, l.Release)
			}
		}},
		{"guessing", 429, func(c *wsguard.Config) { c.Auth.Failures = wsguard.Rate{PerSecond: never, Burst: 1} }, set("Authorization", "Bearer alice-new"), func(o *order) {
			_, err := o.g.Pieces().Auth.Authenticate(withHeader(upgradeRequest(), "Authorization", "Bearer guess"))
			if !errors.Is(err, wsguard.ErrUnauthenticated) {
				o.t.Fatal(err)
			}
		}},
		{"unauthenticated", 401, nil, set("Authorization", "Bearer wrong"), nil},
		{"max_subject_conns", 429, func(c *wsguard.Config) { c.Caps.MaxConnsPerSubject = 1 }, nil, func(o *order) {
			in, out, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
			p := o.g.Pieces()
			h := p.Auth.Handler(p.Cap.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(in); <-out })))
			go func() {
				defer close(gone)
				h.ServeHTTP(httptest.NewRecorder(), withHeader(upgradeRequest(), "Authorization", "Bearer alice"))
			}()
			<-in
			o.undo = append(o.undo, func() { close(out); <-gone })
		}},
		{"revoked", 401, nil, nil, func(o *order) { o.g.Admin().Revoke("alice") }},
		{"forbidden", 403, func(c *wsguard.Config) {
			c.Attach = func(*http.Request, wsguard.Principal) (any, error) { return nil, errors.New("no") }
		}, nil, nil},
	}
	both := func(t *testing.T, first, second stage) {
		v := newTokens()
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify, VerifyTimeout: 30 * time.Second}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}}
		for _, s := range []stage{first, second} {
			if s.config != nil {
				s.config(&cfg)
			}
		}
		var attached atomic.Int64
		if attach := cfg.Attach; attach != nil {
			cfg.Attach = func(r *http.Request, p wsguard.Principal) (any, error) { attached.Add(1); return attach(r, p) }
		}
		o := &order{v: v}
		o.env = serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if peer := r.Header.Get("X-Test-Peer"); peer != "" {
					r.RemoteAddr = peer
				}
				echoDoor(g).ServeHTTP(w, r)
			})
		})
		prepare := []stage{second, first}
		if first.reason == "in_flight" || second.reason == "revoked" {
			prepare = []stage{first, second} // who hangs holds a slot as well
		}
		for _, s := range prepare {
			if s.prepare != nil {
				s.prepare(o)
			}
		}
		req := wstest.HandshakeOptions{Header: bearer("alice")}
		for _, s := range []stage{first, second} {
			if s.edit != nil {
				s.edit(&req)
			}
		}
		calls := v.calls.Load()
		conns := o.g.Conns()
		o.refusedWith(req, first.status, first.reason)
		asked := int64(0)
		if i := slices.IndexFunc(stages, func(s stage) bool { return s.reason == first.reason }); i >= 18 {
			asked = 1
		}
		if got := v.calls.Load() - calls; got != asked {
			t.Errorf("the verifier was asked %d times, want %d", got, asked)
		}
		if want := first.reason == "forbidden"; (attached.Load() > 0) != want {
			t.Error("Attach called:", !want)
		}
		if got := o.g.Conns(); got != conns {
			t.Errorf("%d slots held, before %d", got, conns)
		}
		for _, f := range o.undo {
			f()
		}
	}
	for i, s := range stages {
		next := stage{}
		if i+1 < len(stages) {
			next = stages[i+1]
		}
		if s.reason == "unauthenticated" {
			next = stages[i+2] // without a credential there is no subject
		}
		if s.reason == "guessing" {
			t.Run("guessing before max_subject_conns", func(t *testing.T) {
				s, next := s, stages[i+2]
				// The good credential of the preparation comes first.
				s.prepare, next.prepare = next.prepare, s.prepare
				s.prepare, next.prepare = func(o *order) { stages[i+2].prepare(o); stages[i].prepare(o) }, nil
				bubble(t, func(t *testing.T) { both(t, s, next) })
			})
		}
		t.Run(strings.TrimSuffix(s.reason+" before "+next.reason, " before "), func(t *testing.T) {
			bubble(t, func(t *testing.T) { both(t, s, next) })
		})
	}
}

// A unix socket's peer has no address.
func TestHandshakeUnixPeer(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, trusted := range []bool{false, true} {
		t.Run(fmt.Sprint("T42 unix trusted ", trusted), func(t *testing.T) {
			cfg := wsguard.Config{}
			if trusted {
				cfg.Proxies.Trusted = []string{"unix"}
			}
			e := newEnv(t, cfg)
			path := filepath.Join(t.TempDir(), "s")
			e.serveOn(must(net.Listen("unix", path)), echoDoor(e.g))
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			c := wstest.NewClient(t, conn)
			res, err := c.HandshakeWith(wstest.HandshakeOptions{Host: "x", Header: from("192.0.2.1")})
			if err != nil {
				t.Fatal(err)
			}
			if !trusted {
				if ev := e.events.wait(t, audit.Refusal, 1); res.StatusCode != 403 || ev.Reason != "client_address" || ev.Detail == "" {
					t.Errorf("status %d, event %+v", res.StatusCode, ev)
				}
				return
			}
			if ev := e.events.wait(t, audit.Open, 1); res.StatusCode != 101 || ev.Client != "192.0.2.1" {
				t.Errorf("status %d, event %+v", res.StatusCode, ev)
			}
			roundTrip(t, c, "hello")
		})
	}
}

// The wrappers of the usual routers.

// chiWriter has Hijack and Unwrap of its own.
type chiWriter struct{ http.ResponseWriter }

func (w *chiWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w *chiWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

// ginWriter sends the status only with the body, or when told to.
type ginWriter struct {
	http.ResponseWriter
	status int
	sent   bool
}

func (w *ginWriter) WriteHeader(code int) { w.status = code }
func (w *ginWriter) WriteHeaderNow() {
	if !w.sent {
		w.sent = true
		w.ResponseWriter.WriteHeader(w.status)
	}
}
func (w *ginWriter) Write(b []byte) (int, error) {
	w.WriteHeaderNow()
	return w.ResponseWriter.Write(b)
}
func (w *ginWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.sent = true
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

// echoWriter has nothing but Unwrap.
type echoWriter struct{ w http.ResponseWriter }

func (w *echoWriter) Header() http.Header         { return w.w.Header() }
func (w *echoWriter) Write(b []byte) (int, error) { return w.w.Write(b) }
func (w *echoWriter) WriteHeader(code int)        { w.w.WriteHeader(code) }
func (w *echoWriter) Unwrap() http.ResponseWriter { return w.w }

// opaqueWriter hides what it wraps.
type opaqueWriter struct{ http.ResponseWriter }

// brokenWriter says that it can be hijacked, and cannot.
type brokenWriter struct {
	http.ResponseWriter
	f func()
}

func (w *brokenWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.f != nil {
		w.f()
	}
	return nil, nil, errors.New("broken")
}

func TestHandshakeWrappers(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, tt := range []struct {
		name string
		wrap func(http.ResponseWriter) http.ResponseWriter
		want int
	}{
		{"chi", func(w http.ResponseWriter) http.ResponseWriter { return &chiWriter{w} }, 101},
		{"gin", func(w http.ResponseWriter) http.ResponseWriter { return &ginWriter{ResponseWriter: w, status: 200} }, 101},
		{"echo", func(w http.ResponseWriter) http.ResponseWriter { return &echoWriter{w} }, 101},
		{"gin in echo in chi", func(w http.ResponseWriter) http.ResponseWriter {
			return &chiWriter{&ginWriter{ResponseWriter: &chiWriter{w}, status: 200}}
		}, 101},
		{"T21 opaque", func(w http.ResponseWriter) http.ResponseWriter { return opaqueWriter{w} }, 501},
		{"T21 opaque in echo", func(w http.ResponseWriter) http.ResponseWriter { return &echoWriter{opaqueWriter{w}} }, 501},
	} {
		for _, accept := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " Accept ", accept), func(t *testing.T) {
				t.Parallel()
				v := newTokens()
				e := serveWith(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify}}, func(g *wsguard.Guard) http.Handler {
					h := echoDoor(g)
					if accept {
						h = acceptEcho(g)
					}
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						ww := tt.wrap(w)
						h.ServeHTTP(ww, r)
						if gin, ok := ww.(*ginWriter); ok {
							gin.WriteHeaderNow() // as the engine does in the end
						}
					})
				})
				if tt.want == 501 {
					e.refused(bearer("alice"), 501, "not_hijackable")
					if v.calls.Load() != 0 {
						t.Error("the verifier was called")
					}
					return
				}
				roundTrip(t, e.open(bearer("alice")), "hello")
				e.refused(bearer("wrong"), 401, "unauthenticated")
			})
		}
	}
	t.Run("T21 TimeoutHandler", func(t *testing.T) {
		t.Parallel()
		e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler {
			return http.TimeoutHandler(echoDoor(g), time.Minute, "")
		})
		e.refused(header(), 501, "not_hijackable")
	})
}

func acceptEcho(g *wsguard.Guard) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := g.Accept(w, r)
		if err != nil {
			return
		}
		defer func() { c.End(err) }()
		err = echo(r.Context(), c)
	})
}

// Over TLS it is no different.
func TestHandshakeTLSRefusal(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := newEnv(t, wsguard.Config{})
	e.serveTLS(echoDoor(e.g), func(s *http.Server) { s.TLSConfig.NextProtos = []string{"http/1.1"} })
	e.refused(header("Origin", "https://evil.test"), 403, "origin")
	c := e.open(header())
	if cs := c.Conn().(*tls.Conn).ConnectionState(); !cs.HandshakeComplete {
		t.Error("no TLS")
	}
	roundTrip(t, c, "hello")
	bye(c)
}

// A client that has left when the 101 goes out is a connection that is lost, and no
// ResponseWriter that cannot be hijacked.
func TestClientLeavesBeforeTheAnswer(t *testing.T) {
	for door, handler := range map[string]func(*wsguard.Guard) http.Handler{
		"Handler": func(g *wsguard.Guard) http.Handler { return g.Handler(echo) },
		"Accept":  acceptEcho,
		"Wrap":    func(g *wsguard.Guard) http.Handler { return g.Wrap(coderEcho()) },
	} {
		t.Run(door, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				attached, left := make(chan struct{}), make(chan struct{})
				var cfg wsguard.Config
				cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) {
					close(attached)
					<-left
					return nil, nil
				}
				e := serveWith(t, cfg, handler)
				c := e.dial()
				c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nOrigin: " + appOrigin + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
					"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
				<-attached
				c.Close()
				close(left)
				synctest.Wait()
				if all := e.events.all(); len(all) != 1 || all[0].Kind != audit.Refusal || !errors.Is(all[0].Err, reason.ConnectionLost) || all[0].Status != 0 {
					t.Errorf("%s", e.events)
				}
			})
		})
	}
}

// lostWriter is a ResponseWriter whose Hijack finds that the client has gone. front is what it
// does before.
type lostWriter struct {
	http.ResponseWriter
	err   error
	front func()
}

func (w lostWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.front != nil {
		w.front()
	}
	return nil, nil, w.err
}

// A hijack that fails because the client has gone is no ResponseWriter that cannot be hijacked.
func TestHijackOfLostConnection(t *testing.T) {
	doors := map[string]func(*wsguard.Guard) http.Handler{
		"Handler": func(g *wsguard.Guard) http.Handler { return g.Handler(echo) },
		"Accept":  acceptEcho,
		"Wrap":    func(g *wsguard.Guard) http.Handler { return g.Wrap(coderEcho()) },
	}
	for name, tt := range map[string]struct {
		err  error
		lost bool
	}{
		"reset":           {&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, true},
		"a bare errno":    {syscall.EPIPE, true},
		"closed":          {fmt.Errorf("middleware: %w", net.ErrClosed), true},
		"EOF":             {fmt.Errorf("unexpected Peek failure reading buffered byte: %w", io.EOF), true},
		"a pipe":          {io.ErrClosedPipe, true},
		"not implemented": {errors.ErrUnsupported, false},
		"hijacked before": {http.ErrHijacked, false},
		"of its own":      {errors.New("broken"), false},
		"an evil error":   {&evilError{"As", func() { panic("As") }}, false},
	} {
		for door, handler := range doors {
			t.Run(name+" "+door, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler {
						h := handler(g)
						return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(lostWriter{w, tt.err, nil}, r) })
					})
					e.tryAny(header())
					e.idle()
					synctest.Wait()
					all := e.events.of(audit.Refusal)
					if len(all) != 1 || errors.Is(all[0].Err, reason.ConnectionLost) != tt.lost || (all[0].Status == 0) != tt.lost {
						t.Errorf("%s", e.events)
					}
				})
			})
		}
	}
}

// The same of an error that says nothing, if the client has left meanwhile, and of a refusal
// that is told by a close code.
func TestHijackAfterTheClientHasLeft(t *testing.T) {
	for door, handler := range map[string]func(*wsguard.Guard) http.Handler{
		"Handler": func(g *wsguard.Guard) http.Handler { return g.Handler(echo) },
		"Accept":  acceptEcho,
		"Wrap":    func(g *wsguard.Guard) http.Handler { return g.Wrap(coderEcho()) },
	} {
		for _, token := range []string{"alice", "wrong"} {
			t.Run(door+" "+token, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					reached := make(chan struct{})
					e := serveWith(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, MaxExplained: 1}}, func(g *wsguard.Guard) http.Handler {
						h := handler(g)
						return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							h.ServeHTTP(lostWriter{w, errors.New("broken"), func() { close(reached); <-r.Context().Done() }}, r)
						})
					})
					c := e.dial()
					go c.Handshake("/", bearer(token))
					<-reached
					c.Close()
					e.idle()
					synctest.Wait()
					want := reason.ConnectionLost
					if token == "wrong" {
						want = reason.Unauthenticated
					}
					all := e.events.of(audit.Refusal)
					if len(all) != 1 || !errors.Is(all[0].Err, want) || all[0].Status != 0 {
						t.Errorf("%s", e.events)
					}
				})
			})
		}
	}
}

// A client that leaves while its credential is verified is no fault of the verifier.
func TestClientLeavesDuringVerify(t *testing.T) {
	asked := make(chan struct{})
	e := serveGuard(t, conf(func(cfg *wsguard.Config) {
		cfg.Auth.Verifier = func(ctx context.Context, token string) (wsguard.Principal, error) {
			close(asked)
			<-ctx.Done()
			return wsguard.Principal{}, ctx.Err()
		}
	}))
	c := e.dial()
	c.Write([]byte("GET / HTTP/1.1\r\nHost: " + e.s.Addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://app.example.com\r\nAuthorization: Bearer alice\r\n\r\n"))
	<-asked
	c.Close()
	if ev := e.events.wait(t, audit.Refusal, 1); ev.Reason != "connection_lost" || ev.Status != 0 {
		t.Errorf("%s %d %s", ev.Reason, ev.Status, ev.Detail)
	}
}

package wraptest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// asBefore is the function of the same name in docs/migrating.md.
func asBefore() wsguard.Config {
	off := wsguard.Rate{PerSecond: wsguard.Off}
	return wsguard.Config{
		Origins:                   []string{"https://app.example.com"}, // who may connect once the next line is gone
		InsecureReportOnlyOrigins: true,                                // any page and any program; the library still checks
		InsecureAllowHTTP:         true,                                // clear text over the network
		Auth: wsguard.AuthConfig{
			InsecureAnonymous: true, // anybody; the handler still authenticates
		},
		Messages: wsguard.MessageConfig{
			Binary:        true,        // binary messages
			MaxBytes:      64 << 20,    // long messages, but not any length: it cannot be Off
			MaxFragments:  wsguard.Off, // messages of many frames
			Timeout:       wsguard.Off, // messages that take long to arrive
			ControlFrames: off,         // any number of pings and pongs
		},
		Rates: wsguard.RateConfig{
			Messages:   off, // any number of messages
			Bytes:      off, // any number of bytes
			Handshakes: off, // any number of handshakes
		},
		Caps: wsguard.CapConfig{
			MaxConnsPerClient:  wsguard.Off, // any number of connections of an address
			MaxConnsPerNetwork: wsguard.Off, // any number of connections of an IPv6 network
			MaxConns:           wsguard.Off, // any number of connections
		},
		Timeouts: wsguard.TimeoutConfig{
			Write:        24 * time.Hour, // clients that read nothing, but not endlessly: it cannot be Off
			PingInterval: wsguard.Off,    // clients that are gone or answer no ping
			Idle:         wsguard.Off,    // connections without messages
			Lifetime:     wsguard.Off,    // connections of any age
		},
	}
}

// defaultGorilla and defaultCoder echo as the READMEs of their libraries do, with the defaults of
// the library. The subprotocols are for tests that look at which one is negotiated.
func defaultGorilla(subprotocols ...string) http.Handler {
	upgrader := gorilla.Upgrader{Subprotocols: subprotocols}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			typ, msg, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(typ, msg) != nil {
				return
			}
		}
	})
}

func defaultCoder(subprotocols ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := coder.Accept(w, r, &coder.AcceptOptions{Subprotocols: subprotocols})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			typ, msg, err := conn.Read(r.Context())
			if err != nil || conn.Write(r.Context(), typ, msg) != nil {
				return
			}
		}
	})
}

// defaults are the libraries whose defaults asBefore must not narrow.
var defaults = map[string]func() http.Handler{
	"gorilla": func() http.Handler { return defaultGorilla("v2", "v1") },
	"coder":   func() http.Handler { return defaultCoder("v2", "v1") },
}

// peerHeader tells the servers of these tests from where a client comes.
const peerHeader = "X-Test-Peer"

// from returns a handler that sees the address in peerHeader as that of the client.
func from(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if addr := r.Header.Get(peerHeader); addr != "" {
			r.RemoteAddr = addr
		}
		next.ServeHTTP(w, r)
	})
}

// bubble runs f as a subtest in a bubble, where no client waits in vain.
func bubble(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// guardOf returns the Guard of cfg, which is shut down at the end of the test.
func guardOf(t *testing.T, cfg wsguard.Config) *wsguard.Guard {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	guard, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Shutdown(context.Background()) })
	return guard
}

// handshakes returns handshakes that vary in what a server could look at, one combination of
// origin, host and subprotocol for each form.
func handshakes() (all []wstest.HandshakeOptions) {
	forms := []func(*wstest.HandshakeOptions){
		func(*wstest.HandshakeOptions) {},
		func(o *wstest.HandshakeOptions) { o.Header["Connection"] = []string{"keep-alive, Upgrade"} },
		func(o *wstest.HandshakeOptions) { o.Header["Upgrade"] = []string{"WebSocket"} },
		func(o *wstest.HandshakeOptions) { o.Header["Upgrade"] = []string{"h2c, websocket"} },
		func(o *wstest.HandshakeOptions) { o.Header["Upgrade"] = nil },
		func(o *wstest.HandshakeOptions) { o.Header["Sec-WebSocket-Version"] = []string{"8"} },
		func(o *wstest.HandshakeOptions) { o.Header["Sec-WebSocket-Version"] = []string{"13, 8"} },
		func(o *wstest.HandshakeOptions) { o.Header["Sec-WebSocket-Key"] = []string{"short"} },
		func(o *wstest.HandshakeOptions) { o.Header["Sec-WebSocket-Key"] = nil },
		func(o *wstest.HandshakeOptions) {
			o.Header["Sec-WebSocket-Extensions"] = []string{"permessage-deflate; client_max_window_bits"}
		},
		func(o *wstest.HandshakeOptions) { o.Method = "POST" },
		func(o *wstest.HandshakeOptions) { o.Proto = "HTTP/1.0" },
		func(o *wstest.HandshakeOptions) { o.Header["Content-Length"] = []string{"5"} },
		func(o *wstest.HandshakeOptions) { o.Header["Cookie"] = []string{"session=1"} },
		func(o *wstest.HandshakeOptions) { o.Header["Authorization"] = []string{"Bearer t"} },
		func(o *wstest.HandshakeOptions) { o.Path = "/chat?token=t&ticket=u" },
		func(o *wstest.HandshakeOptions) { o.Header["Sec-Fetch-Site"] = []string{"cross-site"} },
		func(o *wstest.HandshakeOptions) { o.Header["X-Forwarded-For"] = []string{"203.0.113.7"} },
		func(o *wstest.HandshakeOptions) { o.Header[peerHeader] = []string{"203.0.113.7:4711"} },
		func(o *wstest.HandshakeOptions) { o.Header[peerHeader] = []string{"[2001:db8::7]:4711"} },
		func(o *wstest.HandshakeOptions) { o.Header["X-Long"] = []string{strings.Repeat("x", 20<<10)} },
		func(o *wstest.HandshakeOptions) {
			o.Header["Sec-WebSocket-Extensions"] = []string{strings.Repeat("x,", 20<<10)}
		},
	}
	for _, form := range forms {
		for _, origin := range []string{"", "https://app.example.com", "http://app.example.com", "https://evil.example", "null", "file://", "https://app.example.com:8443"} {
			for _, host := range []string{"app.example.com", "app.example.com:8443", "APP.example.com", "203.0.113.1"} {
				for _, protocol := range []string{"", "v1", "v1, v2", "other", "bearer.t, v1"} {
					o := wstest.HandshakeOptions{Host: host, Header: http.Header{}}
					if origin != "" {
						o.Header["Origin"] = []string{origin}
					}
					if protocol != "" {
						o.Header["Sec-WebSocket-Protocol"] = []string{protocol}
					}
					form(&o)
					all = append(all, o)
				}
			}
		}
	}
	return all
}

// stillRefused are the reasons that asBefore leaves. docs/migrating.md has them in a table.
var stillRefused = map[string]string{
	"http_version":     "a handshake in HTTP/1.0",
	"body":             "a handshake with a body",
	"version":          "a handshake that lists several versions",
	"header_too_large": "Sec-WebSocket headers far longer than any client sends",
	"invalid_utf8":     "a text message that is not UTF-8",
	"protocol_error":   "a frame that declares its length with more bytes than needed",
	"message_too_big":  "a message above 64 MiB",
}

// TestAsBeforeHandshakes compares what a library accepts bare and behind a guard of asBefore.
func TestAsBeforeHandshakes(t *testing.T) {
	for name, handler := range defaults {
		bubble(t, name, func(t *testing.T) {
			bare := wstest.ServePipe(t, from(handler()))
			guarded := wstest.ServePipe(t, from(guardOf(t, asBefore()).Wrap(handler())))
			accepted, refused := 0, map[string]bool{}
			for _, o := range handshakes() {
				want, got := tryHandshake(t, bare, o), tryHandshake(t, guarded, o)
				token := got[strings.LastIndex(got, " ")+1:]
				switch {
				case !strings.HasPrefix(want, "101"):
				case stillRefused[token] != "":
					refused[token] = true
				case got != want:
					t.Errorf("%+v: got %q, bare %q", o, got, want)
				default:
					accepted++
				}
			}
			if accepted < 500 || len(refused) == 0 {
				t.Errorf("%d handshakes were accepted, and refused for %v", accepted, refused)
			}
		})
	}
}

// tryHandshake returns the status of a handshake with the subprotocol and an echo, or with the body
// of the refusal.
func tryHandshake(t *testing.T, s *wstest.Server, o wstest.HandshakeOptions) string {
	c := s.Dial(t)
	defer c.Close()
	res, err := c.HandshakeWith(o)
	if err != nil {
		return "error: " + err.Error()
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		var body bytes.Buffer
		body.ReadFrom(res.Body)
		return fmt.Sprint(res.StatusCode, " ", strings.TrimSpace(body.String()))
	}
	c.WriteFrame(wstest.Text("hello"))
	_, msg, err := c.ReadMessage()
	return fmt.Sprintf("101 %q %q %v", res.Header.Get("Sec-WebSocket-Protocol"), msg, err)
}

// TestAsBeforeMessages compares what a library reads of random frames, bare and behind a guard of
// asBefore.
func TestAsBeforeMessages(t *testing.T) {
	for name, handler := range defaults {
		bubble(t, name, func(t *testing.T) {
			bare := wstest.ServePipe(t, handler())
			guarded := wstest.ServePipe(t, guardOf(t, asBefore()).Wrap(handler()))
			rnd := rand.New(rand.NewPCG(1, 2))
			normal, refused := 0, map[string]int{}
			for i := range 1000 {
				script, faults := randomFrames(rnd)
				want, wantEnd := play(t, bare, script)
				got, end := play(t, guarded, script)
				if _, token, _ := strings.Cut(end, " "); slices.Contains(faults, token) {
					refused[token]++
					continue
				}
				if len(got) < len(want) || !slices.Equal(got[:len(want)], want) || strings.HasPrefix(wantEnd, "1000 ") && end != wantEnd {
					t.Errorf("script %d: got %.200q and %q, bare %.200q and %q", i, got, end, want, wantEnd)
				}
				if strings.HasPrefix(wantEnd, "1000 ") {
					normal++
				}
			}
			if normal < 200 || refused["invalid_utf8"] < 20 || refused["protocol_error"] < 20 {
				t.Errorf("%d connections ended well, and %v were refused", normal, refused)
			}
		})
	}
}

// randomFrames returns frames of a client. In many scripts they break no rule. faults are the
// reasons in stillRefused that they may meet.
func randomFrames(rnd *rand.Rand) (script []byte, faults []string) {
	within := false
	for range 1 + rnd.IntN(12) {
		f := wstest.Text("hello")
		f.Payload = bytes.Repeat([]byte("é"), rnd.IntN(300))
		switch {
		case rnd.IntN(5) == 0:
			f.Opcode = []byte{wstest.OpPing, wstest.OpPong}[rnd.IntN(2)]
			f.Payload = f.Payload[:min(len(f.Payload), 124)]
		default:
			if within {
				f.Opcode = wstest.OpContinuation
			} else if rnd.IntN(3) == 0 {
				f.Opcode = wstest.OpBinary
			}
			f.Fin = rnd.IntN(3) > 0
			within = !f.Fin
		}
		switch rnd.IntN(40) {
		case 0:
			f.RSV = byte(1 + rnd.IntN(7))
		case 1:
			f.Opcode = byte(rnd.IntN(16))
		case 2:
			f.Masked = false
		case 3:
			f.Payload = append(f.Payload, 0xff)
			faults = append(faults, "invalid_utf8")
		case 4:
			f.LengthBytes = 8
			faults = append(faults, "protocol_error")
		}
		script = wstest.AppendFrame(script, f)
	}
	if within {
		script = wstest.AppendFrame(script, wstest.Frame{Fin: true, Masked: true, Opcode: wstest.OpContinuation})
	}
	return wstest.AppendFrame(script, wstest.CloseFrame(1000, "bye")), faults
}

// play sends frames and returns the messages that come back, and how the connection ends.
func play(t *testing.T, s *wstest.Server, script []byte) (messages []string, end string) {
	c := s.Dial(t)
	defer c.Close()
	c.Timeout = 10 * time.Second
	if _, err := c.HandshakeWith(wstest.HandshakeOptions{Host: "app.example.com", Header: http.Header{"Origin": {"http://app.example.com"}}}); err != nil {
		t.Fatal(err)
	}
	c.Write(script)
	for {
		op, msg, err := c.ReadMessage()
		if err != nil {
			return messages, endOf(err)
		}
		messages = append(messages, fmt.Sprint(op, " ", string(msg)))
	}
}

// endOf returns the code and the reason of a close frame, or the text of the error.
func endOf(err error) string {
	var ce *wstest.CloseError
	if errors.As(err, &ce) {
		return fmt.Sprint(ce.Code, " ", ce.Reason)
	}
	return err.Error()
}

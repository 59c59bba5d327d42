package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// Each check alone: pure, and enforced by its Handler.
func TestPiecesChecks(t *testing.T) {
	origin := must(wsguard.NewOriginCheck(wsguard.Config{Origins: []string{appOrigin}}))
	host := must(wsguard.NewHostCheck(wsguard.Config{Hosts: []string{"example.com"}}))
	tls := must(wsguard.NewTLSCheck(wsguard.Config{Proxies: wsguard.Proxies{}}))
	remote := func() *http.Request { r := upgradeRequest(); r.RemoteAddr = "192.0.2.1:1234"; return r }
	for _, tt := range []struct {
		name   string
		check  *wsguard.RequestCheck
		r      *http.Request
		want   error
		status int
	}{
		{"T01 listed", origin, upgradeRequest(), nil, 200},
		{"T01 foreign", origin, withHeader(upgradeRequest(), "Origin", "https://evil.test"), reason.Origin, 403},
		{"T12 navigate", origin, withHeader(upgradeRequest(), "Sec-Fetch-Mode", "navigate"), reason.FetchMetadata, 403},
		{"T09 served", host, upgradeRequest(), nil, 200},
		{"T09 another", host, func() *http.Request { r := upgradeRequest(); r.Host = "evil.test"; return r }(), reason.Host, 421},
		{"T23 loopback", tls, upgradeRequest(), nil, 200},
		{"T23 remote", tls, remote(), reason.InsecureTransport, 403},
		{"T23 remote, spoofed", tls, withHeader(remote(), "X-Forwarded-Proto", "https"), reason.InsecureTransport, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := fmt.Sprintf("%+v", tt.r)
			for range 3 {
				if err := tt.check.Check(tt.r); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
					t.Errorf("Check: %v, want %v", err, tt.want)
				}
			}
			if after := fmt.Sprintf("%+v", tt.r); after != before {
				t.Error("Check changed the request")
			}
			w := httptest.NewRecorder()
			called := false
			tt.check.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true })).ServeHTTP(w, tt.r)
			if w.Code != tt.status || called != (tt.want == nil) {
				t.Errorf("Handler: status %d, next called: %t", w.Code, called)
			}
			if tt.want != nil {
				checkRefusal(t, func() *http.Response { r := w.Result(); r.Close = w.Header().Get("Connection") == "close"; return r }())
			}
		})
	}
}

// chain puts pieces in front of h, the first outermost.
func chain(h http.Handler, pieces ...func(http.Handler) http.Handler) http.Handler {
	for i := len(pieces) - 1; i >= 0; i-- {
		h = pieces[i](h)
	}
	return h
}

func allPieces(g *wsguard.Guard) []func(http.Handler) http.Handler {
	p := g.Pieces()
	return []func(http.Handler) http.Handler{p.Host.Handler, p.TLS.Handler, p.Origin.Handler, p.Cap.Handler, p.Auth.Handler}
}

// All pieces of a Guard in front of it: nothing is done twice.
func TestPiecesComposed(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, order := range []string{"in the order of the guard", "each twice", "cap behind authentication"} {
		for _, accept := range []bool{true, false} {
			t.Run(fmt.Sprint(order, " Accept ", accept), func(t *testing.T) {
				t.Parallel()
				v := newTokens()
				e := serveWith(t, wsguard.Config{
					Auth:  wsguard.AuthConfig{Verifier: v.Verify, Failures: wsguard.Rate{PerSecond: never, Burst: 2}},
					Hosts: []string{"127.0.0.1"},
					Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 7}},
					Caps:  wsguard.CapConfig{MaxConns: 2, MaxConnsPerSubject: 1},
				}, func(g *wsguard.Guard) http.Handler {
					h := echoDoor(g)
					if accept {
						h = acceptEcho(g)
					}
					pieces := allPieces(g)
					switch order {
					case "each twice":
						pieces = append(pieces, pieces...)
					case "cap behind authentication":
						pieces[3], pieces[4] = pieces[4], pieces[3]
					}
					return chain(h, pieces...)
				})
				for i := range int64(4) { // of the handshake rate's seven: each is charged once
					c := e.open(bearer("alice"))
					roundTrip(t, c, "hello")
					if n := v.calls.Load(); n != i+1 {
						t.Errorf("verified %d times for %d handshakes", n, i+1)
					}
					if n := e.g.Conns(); n != 1 {
						t.Errorf("%d slots held", n)
					}
					bye(c)
					e.idle()
				}
				v.calls.Store(0)
				// One failure is one failure.
				c, res := e.try(bearer("wrong"))
				c.Close()
				if res.StatusCode != 401 || v.calls.Load() != 1 {
					t.Errorf("status %d, verified %d times", res.StatusCode, v.calls.Load())
				}
				c = e.open(bearer("alice"))
				second, res := e.try(bearer("alice"))
				second.Close()
				if res.StatusCode != 429 {
					t.Errorf("status %d for one connection too many", res.StatusCode)
				}
				e.events.mu.Lock()
				refusals := 0
				for _, ev := range e.events.events {
					if ev.Kind == audit.Refusal {
						refusals++
					}
				}
				e.events.mu.Unlock()
				if refusals != 2 {
					t.Errorf("%d refusals reported, want 2", refusals)
				}
				bye(c)
			})
		}
	}
}

// What another Guard's pieces have let pass counts for nothing.
func TestPiecesForeign(t *testing.T) {
	wstest.CheckGoroutines(t)
	mallory := wsguard.Verifier(func(context.Context, string) (wsguard.Principal, error) {
		return wsguard.Principal{Subject: "mallory"}, nil
	})
	lax := newEnv(t, wsguard.Config{
		Origins: []string{"https://evil.test", appOrigin}, Hosts: []string{"evil.test", "127.0.0.1"}, InsecureAllowHTTP: true,
		Auth: wsguard.AuthConfig{Verifier: mallory},
	}).g
	for _, tt := range []struct {
		name   string
		o      wstest.HandshakeOptions
		status int
	}{
		{"origin", wstest.HandshakeOptions{Header: header("Origin", "https://evil.test", "Authorization", "Bearer alice")}, 403},
		{"host", wstest.HandshakeOptions{Header: bearer("alice"), Host: "evil.test"}, 421},
		{"clear text", wstest.HandshakeOptions{Header: header("Authorization", "Bearer alice", "Via", "x")}, 403},
		{"credential", wstest.HandshakeOptions{Header: bearer("wrong")}, 401},
		{"all good", wstest.HandshakeOptions{Header: bearer("alice")}, 101},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := serveWith(t, wsguard.Config{Hosts: []string{"127.0.0.1"}, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}, func(g *wsguard.Guard) http.Handler {
				return chain(echoDoor(g), allPieces(lax)...)
			})
			c, res := e.tryWith(tt.o)
			if res.StatusCode != tt.status {
				t.Errorf("status %d, want %d", res.StatusCode, tt.status)
			}
			if tt.status == 101 {
				if ev := e.events.wait(t, audit.Open, 1); ev.Subject != "alice" {
					t.Errorf("subject %q, of the other guard", ev.Subject)
				}
				bye(c)
			}
		})
	}
	// Its own authenticator outside, the other's inside.
	t.Run("principal", func(t *testing.T) {
		e := serveWith(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}, func(g *wsguard.Guard) http.Handler {
			return chain(echoDoor(g), g.Pieces().Auth.Handler, lax.Pieces().Auth.Handler)
		})
		bye(e.open(bearer("alice")))
		if ev := e.events.wait(t, audit.Open, 1); ev.Subject != "alice" {
			t.Errorf("subject %q, of the other guard", ev.Subject)
		}
	})
	// The cap counted for the other's subject: its own still counts.
	t.Run("subject of the cap", func(t *testing.T) {
		e := serveWith(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}, Caps: wsguard.CapConfig{MaxConnsPerSubject: 1}}, func(g *wsguard.Guard) http.Handler {
			p := g.Pieces()
			anybody := must(wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{Verifier: wsguard.Verifier(func(_ context.Context, token string) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: "tenant-" + fmt.Sprint(g.Conns())}, nil
			})}}))
			return chain(echoDoor(g), anybody.Handler, p.Cap.Handler)
		})
		c := e.open(bearer("alice"))
		second, res := e.try(bearer("alice"))
		if res.StatusCode != 429 {
			t.Errorf("status %d: two connections of alice, cap 1", res.StatusCode)
		}
		second.Close()
		bye(c)
	})
	eventually(t, "the other's slots", func() bool { return lax.Conns() == 0 })
}

// A cap of its own: the slot goes back with next, or with the Conn.
func TestPiecesCap(t *testing.T) {
	wstest.CheckGoroutines(t)
	limit := must(wsguard.NewConnCap(wsguard.Config{Caps: wsguard.CapConfig{MaxConns: 1}}))
	held := func() int {
		l, err := limit.Acquire(upgradeRequest())
		if err != nil {
			return 1
		}
		l.Release()
		return 0
	}
	e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/ws", echoDoor(g))
		mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, held()) })
		mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		return limit.Handler(mux)
	})
	back := func() {
		t.Helper()
		eventually(t, "the slot of the standalone cap", func() bool { return held() == 0 })
	}
	get := func(path string) *http.Response {
		c := e.dial()
		defer c.Close()
		c.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
		res, err := c.ReadResponse()
		if err != nil {
			return nil
		}
		return res
	}
	if res := get("/plain"); res == nil || body(t, res) != "1" {
		t.Error("no slot while next ran")
	}
	back()
	get("/panic")
	back()
	c, res := e.tryWith(wstest.HandshakeOptions{Path: "/ws", Header: header("Origin", "https://evil.test")})
	c.Close()
	if res.StatusCode != 403 {
		t.Errorf("status %d", res.StatusCode)
	}
	back()
	c, res = e.tryWith(wstest.HandshakeOptions{Path: "/ws", Header: header()})
	if res.StatusCode != 101 {
		t.Fatal(res.StatusCode)
	}
	roundTrip(t, c, "hello")
	// ServeHTTP has returned; the Conn holds the slot.
	if held() != 1 || e.g.Conns() != 1 {
		t.Errorf("%d and %d slots held", held(), e.g.Conns())
	}
	if res := get("/plain"); res == nil || res.StatusCode != 503 {
		t.Error("a second slot")
	}
	bye(c)
	back()
	// By hand; twice is once.
	l := must(limit.Acquire(upgradeRequest()))
	if _, err := limit.Acquire(upgradeRequest()); !errors.Is(err, reason.MaxConns) {
		t.Error(err)
	}
	l.Release()
	l.Release()
	if held() != 0 {
		t.Errorf("%d slots", held())
	}
}

// Endpoints of one Guard share its caps and sessions; messages are their own.
func TestPiecesEndpoints(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveWith(t, wsguard.Config{
		Auth: wsguard.AuthConfig{Verifier: newTokens().Verify},
		Caps: wsguard.CapConfig{MaxConns: 2},
	}, func(g *wsguard.Guard) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/a", g.Handler(echo))
		mux.Handle("/b", must(g.Endpoint(wsguard.EndpointConfig{Messages: wsguard.MessageConfig{Binary: true}})).Handler(echo))
		mux.Handle("/c", must(g.Endpoint(wsguard.EndpointConfig{
			Subprotocols: []string{"v2", "v1"},
			Messages: wsguard.MessageConfig{Validators: map[string]wsguard.Validator{
				"v1": must(wsguard.CompileSchema([]byte(`{"type":"integer"}`))), "v2": must(wsguard.CompileSchema([]byte(`{"type":"string"}`))),
			}},
		})).Handler(echo))
		return mux
	})
	at := func(path string, kv ...string) (*wstest.Client, *http.Response) {
		return e.tryWith(wstest.HandshakeOptions{Path: path, Header: header(append(kv, "Authorization", "Bearer alice")...)})
	}
	a, _ := at("/a")
	b, _ := at("/b")
	roundTrip(t, a, "hello")
	b.WriteFrame(wstest.Binary([]byte("x")))
	if op, _, err := b.ReadMessage(); op != wstest.OpBinary {
		t.Errorf("opcode %d, %v", op, err)
	}
	if _, res := at("/b"); res.StatusCode != 503 {
		t.Errorf("a third: status %d", res.StatusCode)
	}
	a.WriteFrame(wstest.Binary([]byte("x")))
	wantClose(t, a, 1003, "message_type")
	a.Close()
	e.g.Admin().Revoke("alice")
	wantClose(t, b, 3000, "revoked")
	b.Close()
	e.idle()
	e.g.Admin().Restore("alice")
	for _, offered := range []string{"", "v3", "V1"} {
		if _, res := at("/c", "Sec-WebSocket-Protocol", offered); res.StatusCode != 400 {
			t.Errorf("offered %q: status %d, want 400", offered, res.StatusCode)
		}
	}
	for _, tt := range []struct{ offered, want, good, bad string }{{"v1", "v1", "1", `"x"`}, {"v1, v2", "v2", `"x"`, "1"}} {
		c, res := at("/c", "Sec-WebSocket-Protocol", tt.offered)
		if got := res.Header.Get("Sec-WebSocket-Protocol"); got != tt.want {
			t.Errorf("offered %q: %q", tt.offered, got)
		}
		roundTrip(t, c, tt.good)
		c.WriteFrame(wstest.Text(tt.bad))
		wantClose(t, c, 1008, "schema")
		c.Close()
		e.idle()
	}
}

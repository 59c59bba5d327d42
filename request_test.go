package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// T19: what is no host is no handshake. A long one would stay in memory.
func TestRequestHost(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveWith(t, wsguard.Config{Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}},
		func(g *wsguard.Guard) http.Handler { return g.Handler(echo) },
		func(s *http.Server) { s.MaxHeaderBytes = 4 << 20 })
	label := strings.Repeat("a", 63)
	long := strings.Join([]string{label, label, label, label}, ".") // 255 bytes
	for _, tt := range []struct {
		host   string
		status int
	}{
		{"app.example.com", 101},
		{"APP.example.com:8443", 101},
		{"localhost", 101},
		{"a_b-c~d.example.", 101},
		{"a!$&'()*+,;=b", 101}, // all of them are a reg-name's (RFC 3986)
		{"%41pp.example.com", 101},
		{"127.0.0.1:8080", 101},
		{"999.1.1.1", 101}, // a name, by the same grammar
		{"[::1]", 101},
		{"[::1]:8080", 101},
		{"[2001:DB8::7]:0", 101},
		{"[::ffff:192.0.2.1]:65535", 101},
		{"[fe80::1%25eth0]:80", 101},
		{"app.example.com:", 101}, // a port may be empty
		{"[::1]:", 101},
		{"app.example.com:0", 101},
		{"app.example.com:65535", 101},
		{"app.example.com:00080", 101},
		{long + ":65535", 101},
		{long + ".aaaaa", 101},
		{long + ":655350", 400},
		{long + ":065535", 400},
		{long + ".aaaaaa", 400},
		{strings.Repeat("a", 1<<20), 400},
		{"app.example.com:65536", 400},
		{"app.example.com:99999999999999999999", 400},
		{"app.example.com:80a", 400},
		{"app.example.com:-1", 400},
		{"app.example.com:+80", 400},
		{"app.example.com:80:80", 400},
		{"app.example.com::80", 400},
		{":80", 400},
		{":", 400},
		{"::1", 400},
		{"2001:db8::7", 400},
		{"[::1", 400},
		{"::1]", 400},
		{"[]", 400},
		{"[]:80", 400},
		{"[::1]80", 400},
		{"[::1]]", 400},
		{"[[::1]]", 400},
		{"[127.0.0.1]", 400},
		{"[app.example.com]", 400},
		{"[::g]", 400},
		{"[::1]:65536", 400},
		{"[v1.a]", 400},
		{"[::1%]", 400},
		{"a[::1]", 400},
		{"app.[example].com", 400},
		{"app%.example.com", 400},
		{"app%4", 400},
		{"app%zz", 400},
		{"app.example.com%", 400},
	} {
		name := tt.host[:min(len(tt.host), 40)]
		t.Run(fmt.Sprintf("%s %d bytes", name, len(tt.host)), func(t *testing.T) {
			e := e.in(t)
			o := wstest.HandshakeOptions{Host: tt.host, Header: header()}
			if tt.status == 101 {
				c, res := e.tryWith(o)
				if res.StatusCode != 101 {
					t.Fatalf("status %d; events:\n%s", res.StatusCode, e.events)
				}
				bye(c)
				return
			}
			before := len(e.events.of(audit.Refusal))
			e.refusedWith(o, 400, "handshake")
			if got := e.events.of(audit.Refusal)[before:]; len(got) != 1 || !strings.HasPrefix(got[0].Detail, "Host ") || len(got[0].Host) > 300 {
				t.Errorf("events %.1000v", got)
			}
		})
	}
	// net/http lets these through to a handler only where something has changed the
	// request; an absolute target comes in the place of Host.
	for _, host := range []string{"a b", "a/b", "user@a", "a?b", "a#b", `a\b`, "a\x00", "a\x7f", "ä", `"a"`, "<a>", "a|b", "a^b", "a`b", "{a}", "http://a", "a\r\nb", strings.Repeat("a", 262), "a\n"} {
		r := upgradeRequest()
		r.Host = host
		w := httptest.NewRecorder()
		e.g.Handler(echo).ServeHTTP(hijackable{w}, r)
		if w.Code != 400 {
			t.Errorf("Host %q: status %d", host, w.Code)
		}
	}
	c := e.dial()
	c.Write([]byte("GET http://[::1]:99999/ HTTP/1.1\r\nHost: a\r\nOrigin: " + appOrigin + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	if res, err := c.ReadResponse(); err != nil || res.StatusCode != 400 {
		t.Errorf("absolute target: %v, %v", res, err)
	}
	// An empty Host is legal HTTP. A list of hosts has no entry for it.
	c = e.dial()
	res, err := c.HandshakeWith(wstest.HandshakeOptions{Header: http.Header{"Origin": {appOrigin}, "Host": {""}}})
	if err != nil || res.StatusCode != 101 {
		t.Errorf("empty Host: %v, %v", res, err)
	}
	bye(c)
}

// The form of Host is judged with that of the rest of the handshake: behind the key,
// before everything that is about the client.
func TestRequestHostOrder(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveWith(t, wsguard.Config{Hosts: []string{"app.example.com"}}, func(g *wsguard.Guard) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Test-Opaque") != "" {
				w = opaqueWriter{w}
			}
			if peer := r.Header.Get("X-Test-Peer"); peer != "" {
				r.RemoteAddr = peer
			}
			g.Handler(echo).ServeHTTP(w, r)
		})
	})
	for _, tt := range []struct {
		header http.Header
		status int
		reason string
	}{
		{header("Sec-WebSocket-Version", "12"), 426, "version"},
		{header("Sec-WebSocket-Protocol", strings.Repeat("a", 13<<10)), 431, "header_too_large"},
		{header("X-Test-Opaque", "1"), 400, "handshake"},
		{header("X-Test-Peer", "nonsense"), 400, "handshake"},
		{header(), 400, "handshake"},
		{header("Via", "1.1 x"), 400, "handshake"},
		{header("Origin", "https://evil.test"), 400, "handshake"},
	} {
		e.refusedWith(wstest.HandshakeOptions{Host: "app.example.com:80:80", Header: tt.header}, tt.status, tt.reason)
	}
	e.refusedWith(wstest.HandshakeOptions{Host: "evil.test", Header: header()}, 421, "host")
}

// A Conn, and its events, have 256 bytes each of Host and Origin.
func TestRequestKept(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveWith(t, wsguard.Config{InsecureReportOnlyOrigins: true}, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) },
		func(s *http.Server) { s.MaxHeaderBytes = 4 << 20 })
	for _, tt := range []struct{ origin, host, wantOrigin, wantHost string }{
		{"https://a.test", "b.test", "https://a.test", "b.test"},
		{strings.Repeat("o", 256), strings.Repeat("h", 256), strings.Repeat("o", 256), strings.Repeat("h", 256)},
		{strings.Repeat("o", 257), strings.Repeat("h", 257), strings.Repeat("o", 253) + "…", strings.Repeat("h", 253) + "…"},
		{strings.Repeat("o", 1<<20), strings.Repeat("h", 261), strings.Repeat("o", 253) + "…", strings.Repeat("h", 253) + "…"},
	} {
		n := len(e.events.of(audit.Open))
		c, res := e.tryWith(wstest.HandshakeOptions{Host: tt.host, Header: header("Origin", tt.origin)})
		if res.StatusCode != 101 {
			t.Fatalf("status %d; events:\n%s", res.StatusCode, e.events)
		}
		if ev := e.events.wait(t, audit.Open, n+1); ev.Origin != tt.wantOrigin || ev.Host != tt.wantHost {
			t.Errorf("the event has %q and %q", ev.Origin, ev.Host)
		}
		for s := range e.g.Admin().Sessions() {
			if s.Origin != tt.wantOrigin {
				t.Errorf("the session has %q", s.Origin)
			}
		}
		bye(c)
		e.idle()
	}
}

// big is part of a header that must not stay.
const big = 512 << 10

// Nothing of a request's size stays for the life of a connection, whatever aliases
// it: what the application makes of a header, too.
func TestRequestMemory(t *testing.T) {
	long(t) // collects garbage all the time
	wstest.CheckGoroutines(t)
	pad := strings.Repeat("x", big)
	for _, tt := range []struct {
		name   string
		cfg    wsguard.Config
		o      func(i int) wstest.HandshakeOptions
		early  []byte
		during bool // until the first message has come
	}{
		{"Origin", wsguard.Config{InsecureReportOnlyOrigins: true}, func(int) wstest.HandshakeOptions {
			return wstest.HandshakeOptions{Header: header("Origin", "https://"+pad)}
		}, nil, false},
		{"query and header", wsguard.Config{}, func(int) wstest.HandshakeOptions {
			return wstest.HandshakeOptions{Path: "/?" + pad, Header: header("X-Big", pad, "Cookie", pad)}
		}, nil, false},
		{"client's name", wsguard.Config{Proxies: wsguard.Proxies{ClientName: func(r *http.Request) string { return r.Header.Get("X-Tenant")[:6] }}}, func(i int) wstest.HandshakeOptions {
			return wstest.HandshakeOptions{Header: header("X-Tenant", fmt.Sprintf("t-%04d", i)+pad)}
		}, nil, false},
		{"subject from a cookie", wsguard.Config{Auth: wsguard.AuthConfig{
			Sources: wsguard.TokenSources{Cookie: "session"},
			Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: token[:6], SessionID: token[:7], Scopes: []string{token[:8]}}, nil
			},
		}}, func(i int) wstest.HandshakeOptions {
			return wstest.HandshakeOptions{Header: header("Cookie", fmt.Sprintf("session=s-%04d-abc; other=", i)+pad)}
		}, nil, false},
		{"subject from the cache", wsguard.Config{Auth: wsguard.AuthConfig{
			Sources: wsguard.TokenSources{InsecureQuery: "token"}, CacheTTL: time.Hour,
			Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: token[:6], SessionID: token[:7], Scopes: []string{token[:8]}}, nil
			},
		}}, func(i int) wstest.HandshakeOptions {
			return wstest.HandshakeOptions{Path: fmt.Sprintf("/?token=s-%04d-abc&x=", i) + pad, Header: header()}
		}, nil, false},
		{"first message", wsguard.Config{Auth: wsguard.AuthConfig{
			Verifier: newTokens().Verify, FirstMessageTimeout: time.Hour, Sources: wsguard.TokenSources{FirstMessage: true, InsecureQuery: "token"},
		}}, func(int) wstest.HandshakeOptions {
			return wstest.HandshakeOptions{Header: header("Cookie", pad, "Authorization", "Basic "+pad, "Proxy-Authorization", pad, "Proxy-Connection", pad, "Te", pad, "Keep-Alive", pad)}
		}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const n = 24
			noPings(&tt.cfg) // on a busy machine, handshakes with so much take longer than a pong may
			tt.cfg.Rates.Handshakes.PerSecond = wsguard.Off
			tt.cfg.Caps.MaxConnsPerSubject = wsguard.Off
			e := serveWith(t, tt.cfg, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) },
				func(s *http.Server) { s.MaxHeaderBytes = 16 << 20 })
			before := heap()
			var conns []*wstest.Client
			for i := range n {
				c, res := e.tryWith(tt.o(i))
				if res.StatusCode != 101 {
					t.Fatalf("status %d; events:\n%s", res.StatusCode, e.events)
				}
				conns = append(conns, c)
			}
			if !tt.during {
				e.events.wait(t, audit.Open, n)
			}
			// The pools of net/http and of this test's server keep some.
			eventually(t, "memory for little more than the connections", func() bool { return heap()-before < n*big/4 })
			if grown := heap() - before; grown >= n*big/4 {
				t.Errorf("%d bytes for each connection", grown/n)
			}
			for _, c := range conns {
				if tt.during {
					c.WriteFrame(first("alice"))
				}
				roundTrip(t, c, "hello")
				bye(c)
			}
		})
	}
}

// heap returns how much is in use, garbage aside.
func heap() int {
	runtime.GC()
	runtime.GC() // what pools have kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// T18: the longest list of subprotocols does not stay with the one that was chosen.
func TestRequestMemorySubprotocols(t *testing.T) {
	wstest.CheckGoroutines(t)
	const n = 50
	e := serveWith(t, wsguard.Config{
		Subprotocols: []string{"chat"}, Caps: wsguard.CapConfig{MaxConnsPerClient: wsguard.Off},
		Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}, MaxInFlightPerClient: wsguard.Off},
	}, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
	var conns []*wstest.Client
	open := func(offered string) (grown int) { // none is closed before the end: what a closing one frees would count as shrinking
		before := heap()
		for range n {
			conns = append(conns, e.open(header("Sec-WebSocket-Protocol", offered)))
		}
		eventually(t, "all open", func() bool { return len(e.events.of(audit.Open)) >= len(conns) })
		return heap() - before
	}
	open("chat")
	var more []int
	for range 5 {
		little, long := open("chat"), open("chat, "+strings.Repeat("x", 11<<10))
		t.Logf("%d bytes for each connection with a short list, %d with a long one", little/n, long/n)
		more = append(more, (long-little)/n)
	}
	for _, c := range conns {
		bye(c)
	}
	e.idle()
	// What an earlier test has left may be freed in any round, so the median counts.
	if slices.Sort(more); more[2] > (11<<10)/2 {
		t.Errorf("a long list costs %d bytes more for each connection", more)
	}
}

// What Attach sees after a first message: no credential, and all that it can use.
func TestRequestAttachLater(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, accept := range []bool{false, true} {
		t.Run(fmt.Sprint("Accept ", accept), func(t *testing.T) {
			seen := make(chan *http.Request, 1)
			e := serveWith(t, wsguard.Config{
				Auth:         wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true, Header: true, Subprotocol: "bearer.", InsecureQuery: "token"}},
				Subprotocols: []string{"chat"},
				Proxies:      wsguard.Proxies{Trusted: []string{"127.0.0.1"}},
				Attach:       func(r *http.Request, _ wsguard.Principal) (any, error) { seen <- r; return nil, nil },
			}, func(g *wsguard.Guard) http.Handler {
				h := g.Handler(echo)
				if accept {
					h = acceptEcho(g)
				}
				mux := http.NewServeMux()
				mux.Handle("GET /rooms/{room}/ws", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					r.ParseForm()
					r.SetPathValue("extra", "value")
					h.ServeHTTP(w, r)
				}))
				return mux
			})
			h := header("Cookie", "session=5ecr3t", "Authorization", "Basic 5ecr3t", "Proxy-Authorization", "5ecr3t", "Sec-WebSocket-Protocol", "chat",
				"Sec-WebSocket-Extensions", "5ecr3t", "Keep-Alive", "5ecr3t", "Te", "5ecr3t", "Proxy-Connection", "5ecr3t",
				"X-Forwarded-For", "192.0.2.7", "X-Forwarded-Proto", "https", "User-Agent", "agent", "Accept-Language", "de", "Accept-Language", "en", "X-Custom", "custom")
			c, res := e.tryWith(wstest.HandshakeOptions{Path: "/rooms/a%2Fb/ws?q=1&q=2&r=%20", Host: "app.example.com:8443", Header: h})
			if res.StatusCode != 101 {
				t.Fatalf("status %d; events:\n%s", res.StatusCode, e.events)
			}
			c.WriteFrame(first("alice"))
			r := <-seen
			roundTrip(t, c, "hello")
			for name, want := range map[string][]string{
				"X-Custom": {"custom"}, "User-Agent": {"agent"}, "Accept-Language": {"de", "en"}, "X-Forwarded-For": {"192.0.2.7"}, "Origin": {appOrigin},
				"Cookie": nil, "Authorization": nil, "Proxy-Authorization": nil, "Connection": nil, "Upgrade": nil,
				"Sec-Websocket-Key": nil, "Sec-Websocket-Protocol": nil, "Sec-Websocket-Version": nil, "Sec-Websocket-Extensions": nil,
			} {
				if got := r.Header[name]; !slices.Equal(got, want) {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if s := fmt.Sprintf("%+v", r); strings.Contains(s, "5ecr3t") {
				t.Errorf("a secret is in %s", s)
			}
			if r.Host != "app.example.com:8443" || r.Method != "GET" || r.Proto != "HTTP/1.1" || r.URL.Path != "/rooms/a/b/ws" || r.URL.RawPath != "/rooms/a%2Fb/ws" ||
				r.RequestURI != "/rooms/a%2Fb/ws?q=1&q=2&r=%20" || !slices.Equal(r.URL.Query()["q"], []string{"1", "2"}) {
				t.Errorf("%+v", r)
			}
			if r.PathValue("room") != "a/b" || r.PathValue("extra") != "value" || r.Pattern != "GET /rooms/{room}/ws" || !strings.HasPrefix(r.RemoteAddr, "127.0.0.1:") {
				t.Errorf("%+v, room %q", r, r.PathValue("room"))
			}
			if r.ParseForm() != nil || r.Form.Get("q") != "1" {
				t.Errorf("form %v", r.Form)
			}
			bye(c)
		})
	}
}

// The credential of an absolute target is none of Attach's.
func TestRequestAttachLaterUserinfo(t *testing.T) {
	wstest.CheckGoroutines(t)
	var user atomic.Pointer[url.Userinfo]
	var once sync.Once
	e := serveGuard(t, wsguard.Config{
		Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true}},
		Attach: func(r *http.Request, _ wsguard.Principal) (any, error) {
			once.Do(func() { user.Store(r.URL.User) })
			if strings.Contains(r.RequestURI, "5ecr3t") {
				return nil, errors.New("a secret")
			}
			return nil, nil
		},
	})
	c, res := e.tryWith(wstest.HandshakeOptions{Path: "http://user:5ecr3t@app.example.com/ws", Header: header()})
	if res.StatusCode != 101 {
		t.Fatal(res.StatusCode)
	}
	c.WriteFrame(first("alice"))
	roundTrip(t, c, "hello")
	if user.Load() != nil {
		t.Error("Attach sees a password")
	}
	bye(c)
}

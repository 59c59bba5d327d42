package wsguard_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// T26, T30: what counts as a credential, and what does not.
func TestAuthSources(t *testing.T) {
	wstest.CheckGoroutines(t)
	all := wsguard.TokenSources{Header: true, Subprotocol: "bearer.", Cookie: "session", InsecureQuery: "token"}
	standard := wsguard.TokenSources{}
	for _, tt := range []struct {
		name    string
		sources wsguard.TokenSources
		path    string
		header  http.Header
		subject string // empty: refused with 401
		calls   int64
		proto   string
	}{
		{"T26 none", standard, "", header(), "", 0, ""},
		{"T26 header", standard, "", bearer("alice"), "alice", 1, ""},
		{"T26 header, scheme in lower case", standard, "", header("Authorization", "bearer alice"), "alice", 1, ""},
		{"T26 wrong", standard, "", bearer("wrong"), "", 1, ""},
		{"T26 another scheme", standard, "", header("Authorization", "Basic YWxpY2U6"), "", 0, ""},
		{"T26 no scheme", standard, "", header("Authorization", "alice"), "", 0, ""},
		{"T26 empty", standard, "", header("Authorization", "Bearer "), "", 0, ""},
		{"T26 header twice", standard, "", header("Authorization", "Bearer alice", "Authorization", "Bearer alice"), "", 0, ""},
		{"T26 header twice, another scheme", standard, "", header("Authorization", "Bearer alice", "Authorization", "Basic eDp5"), "", 0, ""},
		{"T26 header twice, another scheme first", standard, "", header("Authorization", "Basic eDp5", "Authorization", "Bearer alice"), "", 0, ""},
		{"T26 header twice, no bearer", standard, "", header("Authorization", "Basic eDp5", "Authorization", "Basic eDp5"), "", 0, ""},
		{"T26 over-long", standard, "", bearer("alice" + strings.Repeat("x", 9<<10)), "", 0, ""},
		{"T26 expired", standard, "", bearer("expired"), "", 1, ""},
		{"T26 query is off", standard, "/?token=alice", header(), "", 0, ""},
		{"T26 cookie is off", standard, "", header("Cookie", "session=alice"), "", 0, ""},
		{"T26 cookie", all, "", header("Cookie", "a=b; session=alice"), "alice", 1, ""},
		{"T26 cookie twice", all, "", header("Cookie", "session=alice; session=alice"), "", 0, ""},
		{"T26 cookie in two lines", all, "", header("Cookie", "session=alice", "Cookie", "session=bob"), "", 0, ""},
		{"T26 empty cookie", all, "", header("Cookie", "session="), "", 0, ""},
		{"T26 query", all, "/?token=alice", header(), "alice", 1, ""},
		{"T26 query twice", all, "/?token=alice&token=alice", header(), "", 0, ""},
		{"T26 query, escaped name, twice", all, "/?token=alice&tok%65n=bob", header(), "", 0, ""},
		{"T26 empty query", all, "/?token=", header(), "", 0, ""},
		{"T26 header and query", all, "/?token=alice", bearer("alice"), "", 0, ""},
		{"T26 header and cookie", all, "", header("Authorization", "Bearer alice", "Cookie", "session=alice"), "", 0, ""},
		{"T26 header and subprotocol", all, "", header("Authorization", "Bearer alice", "Sec-WebSocket-Protocol", "chat, bearer.alice"), "", 0, ""},
		{"T30 subprotocol", standard, "", header("Sec-WebSocket-Protocol", "chat, bearer.alice"), "alice", 1, "chat"},
		{"T30 token first", standard, "", header("Sec-WebSocket-Protocol", "bearer.alice,chat"), "alice", 1, "chat"},
		{"T30 in lines of their own", standard, "", header("Sec-WebSocket-Protocol", "bearer.alice", "Sec-WebSocket-Protocol", "chat"), "alice", 1, "chat"},
		{"T30 alone", standard, "", header("Sec-WebSocket-Protocol", "bearer.alice"), "", 0, ""},
		{"T30 two", standard, "", header("Sec-WebSocket-Protocol", "chat, bearer.alice, bearer.bob"), "", 0, ""},
		{"T30 twice the same", standard, "", header("Sec-WebSocket-Protocol", "chat, bearer.alice, bearer.alice"), "", 0, ""},
		{"T30 empty", standard, "", header("Sec-WebSocket-Protocol", "chat, bearer."), "", 0, ""},
		{"T30 not decoded", standard, "", header("Sec-WebSocket-Protocol", "chat, bearer.%61lice"), "", 1, ""},
		{"T30 prefix in another case", standard, "", header("Sec-WebSocket-Protocol", "chat, Bearer.alice"), "", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := newTokens()
			var proto atomic.Value
			e := serveGuard(t, wsguard.Config{
				Auth:         wsguard.AuthConfig{Verifier: v.Verify, Sources: tt.sources},
				Subprotocols: []string{"chat"},
				Attach: func(r *http.Request, p wsguard.Principal) (any, error) {
					proto.Store(r.Header.Get("Sec-WebSocket-Protocol") + " " + r.RequestURI + " " + r.URL.String())
					return nil, nil
				},
			})
			o := wstest.HandshakeOptions{Path: tt.path, Header: tt.header}
			if tt.subject == "" {
				e.refusedWith(o, 401, "unauthenticated")
			} else {
				c, res := e.tryWith(o)
				if res.StatusCode != 101 {
					t.Fatalf("status %d; events:\n%s", res.StatusCode, e.events)
				}
				if got := res.Header.Get("Sec-WebSocket-Protocol"); got != tt.proto {
					t.Errorf("negotiated %q, want %q", got, tt.proto)
				}
				if got := e.events.wait(t, audit.Open, 1).Subject; got != tt.subject {
					t.Errorf("subject %q, want %q", got, tt.subject)
				}
				if got := proto.Load().(string); strings.Contains(got, "alice") {
					t.Errorf("Attach sees %q", got)
				}
				roundTrip(t, c, "hello")
			}
			if got := v.calls.Load(); got != tt.calls {
				t.Errorf("%d calls of the verifier, want %d", got, tt.calls)
			}
		})
	}
}

// With InsecureAnonymous, what is presented must still be valid.
func TestAuthT26Anonymous(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, InsecureAnonymous: true}})
	e.refused(bearer("wrong"), 401, "unauthenticated")
	e.open(header())
	if ev := e.events.wait(t, audit.Open, 1); ev.Subject != "" {
		t.Errorf("subject %q", ev.Subject)
	}
}

// authBubble is t.Run where no timeout passes because the machine is slow.
func authBubble(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// Verifiers that fail, panic or say nothing: 503, and never in.
func TestAuthT76FailingVerifiers(t *testing.T) {
	for _, token := range []string{"unavailable", "panic", "nobody", "hang"} {
		authBubble(t, "T76 "+token, func(t *testing.T) {
			e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{
				Verifier: newTokens().Verify, VerifyTimeout: 20 * time.Millisecond,
				// None of them is a guess.
				Failures: wsguard.Rate{PerSecond: never, Burst: 1},
			}})
			for range 3 {
				e.refused(bearer(token), 503, "unavailable")
			}
			e.open(bearer("alice"))
		})
	}
}

func TestAuthAPIKeys(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: wsguard.APIKeys(map[[32]byte]wsguard.Principal{
		sha256.Sum256([]byte("key-of-alice")): {Subject: "alice"},
		sha256.Sum256([]byte("key-of-bob")):   {Subject: "bob"},
	})}})
	e.open(bearer("key-of-bob"))
	if ev := e.events.wait(t, audit.Open, 1); ev.Subject != "bob" {
		t.Errorf("subject %q", ev.Subject)
	}
	for _, key := range []string{"key-of-bo", "key-of-bobb", "KEY-OF-BOB", "bob"} {
		e.refused(bearer(key), 401, "unauthenticated")
	}
}

// proxied is a Config behind a proxy on this machine.
func proxied(cfg wsguard.Config) wsguard.Config {
	cfg.Proxies = wsguard.Proxies{Trusted: []string{"127.0.0.1"}}
	return cfg
}

// from is a header from a client behind that proxy.
func from(client string, kv ...string) http.Header {
	return header(append([]string{"X-Forwarded-For", client, "X-Forwarded-Proto", "https"}, kv...)...)
}

// T28: guessing.
func TestAuthT28Guessing(t *testing.T) {
	wstest.CheckGoroutines(t)
	t.Run("T28 per client", func(t *testing.T) {
		t.Parallel()
		v := newTokens()
		e := serveGuard(t, proxied(wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify, Failures: wsguard.Rate{PerSecond: never, Burst: 5}}}))
		for i := range 5 {
			e.refused(from("192.0.2.1", "Authorization", fmt.Sprintf("Bearer guess%d", i)), 401, "unauthenticated")
		}
		for i := range 3 {
			e.refused(from("192.0.2.1", "Authorization", fmt.Sprintf("Bearer more%d", i)), 429, "guessing")
		}
		if n := v.calls.Load(); n != 5 {
			t.Errorf("the verifier was asked %d times, want 5", n)
		}
		// From here even the right one is not looked at; from elsewhere it works.
		e.refused(from("192.0.2.1", "Authorization", "Bearer alice"), 429, "guessing")
		e.open(from("192.0.2.2", "Authorization", "Bearer alice"))
	})
	t.Run("T28 per credential", func(t *testing.T) {
		t.Parallel()
		v := newTokens()
		e := serveGuard(t, proxied(wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify, Failures: wsguard.Rate{PerSecond: never, Burst: 5}}}))
		for i := range 5 {
			e.refused(from(fmt.Sprintf("192.0.2.%d", i), "Authorization", "Bearer guess"), 401, "unauthenticated")
		}
		e.refused(from("192.0.2.99", "Authorization", "Bearer guess"), 429, "guessing")
		e.open(from("192.0.2.99", "Authorization", "Bearer alice"))
	})
	t.Run("T28 missing credentials and good ones do not count", func(t *testing.T) {
		t.Parallel()
		e := serveGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Failures: wsguard.Rate{PerSecond: never, Burst: 1}},
		})
		for range 5 {
			e.refused(header(), 401, "unauthenticated")
			e.refused(header("Authorization", "Bearer alice", "Authorization", "Bearer alice"), 401, "unauthenticated")
			bye(e.open(bearer("alice")))
		}
	})
	authBubble(t, "T28 many at once", func(t *testing.T) {
		// All that are let in are asked about before the first is answered:
		// no more than the burst and what may be in flight, and no more of
		// them ever again.
		gate := make(chan struct{})
		var asked atomic.Int64
		v := wsguard.Verifier(func(ctx context.Context, token string) (wsguard.Principal, error) {
			asked.Add(1)
			<-gate
			return wsguard.Principal{}, errNoSuchToken
		})
		e := serveGuard(t, wsguard.Config{
			Auth:  wsguard.AuthConfig{Verifier: v, Failures: wsguard.Rate{PerSecond: never, Burst: 5}},
			Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
		})
		statuses := e.atOnce(40, func(i int) http.Header { return bearer(fmt.Sprintf("guess%d", i)) }, func(done func(int) int) {
			eventually(t, "the others refused", func() bool { return int(asked.Load())+done(429) == 40 })
			close(gate)
		})
		if statuses[401] > 8 || statuses[401]+statuses[429] != 40 || int(asked.Load()) != statuses[401] {
			t.Errorf("%v, asked %d times", statuses, asked.Load())
		}
		e.refused(bearer("one-more"), 429, "guessing")
	})
	// Guesses that are made at once are paid for as well: in the long run it
	// is the rate that counts.
	t.Run("T28 many at once, again and again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int64
			v := wsguard.Verifier(func(ctx context.Context, token string) (wsguard.Principal, error) {
				asked.Add(1)
				time.Sleep(50 * time.Millisecond)
				return wsguard.Principal{}, errNoSuchToken
			})
			e := serveGuard(t, wsguard.Config{
				Auth:  wsguard.AuthConfig{Verifier: v}, // 1/s, burst 10
				Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
			})
			for round := range 300 { // a minute
				e.atOnce(8, func(i int) http.Header { return bearer(fmt.Sprint("guess", round, "-", i)) }, nil)
				time.Sleep(200 * time.Millisecond)
			}
			if n := asked.Load(); n > 10+8+75 {
				t.Errorf("%d guesses in about 75 s at 1/s, burst 10, 8 at once", n)
			}
		})
	})
	// One credential may be that of a whole fleet, or of many tabs: whoever
	// has the right one is not guessing, however many come at once.
	authBubble(t, "T28 a good credential at once from many clients", func(t *testing.T) {
		v := newTokens()
		e := serveGuard(t, proxied(wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: v.Verify},
			Caps: wsguard.CapConfig{MaxConnsPerSubject: wsguard.Off},
		}))
		statuses := e.atOnce(30, func(i int) http.Header {
			return from(fmt.Sprintf("192.0.2.%d", i), "Authorization", "Bearer alice-stuck")
		}, func(done func(int) int) {
			eventually(t, "all at the verifier, or refused", func() bool { return len(v.entered)+done(429) == 30 })
			close(v.release)
		})
		if statuses[101] != 30 {
			t.Errorf("statuses %v, want 30 times 101", statuses)
		}
	})
	authBubble(t, "T28 a good credential at once from one client", func(t *testing.T) {
		v := newTokens()
		e := serveGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: v.Verify, Failures: wsguard.Rate{PerSecond: 1, Burst: 3}},
		})
		statuses := e.atOnce(8, func(i int) http.Header { return bearer("alice-stuck") }, func(done func(int) int) {
			eventually(t, "all at the verifier, or refused", func() bool { return len(v.entered)+done(429) == 8 })
			close(v.release)
		})
		if statuses[101] != 8 {
			t.Errorf("statuses %v, want 8 times 101", statuses)
		}
	})
}

// atOnce makes n handshakes at once and counts their statuses. meanwhile runs
// beside them; done counts those that are answered.
func (e *env) atOnce(n int, h func(int) http.Header, meanwhile func(done func(status int) int)) map[int]int {
	e.t.Helper()
	var mu sync.Mutex
	statuses := map[int]int{}
	var wg sync.WaitGroup
	for i := range n {
		c := e.dial()
		c.Timeout = 30 * time.Second
		wg.Go(func() {
			status := 0
			res, err := c.Handshake("/", h(i))
			if err != nil {
				e.t.Errorf("handshake %d: %v", i, err)
			} else {
				status = res.StatusCode
			}
			mu.Lock()
			statuses[status]++
			mu.Unlock()
			if status != 101 {
				c.Close()
			}
		})
	}
	if meanwhile != nil {
		meanwhile(func(status int) int {
			mu.Lock()
			defer mu.Unlock()
			return statuses[status]
		})
	}
	wg.Wait()
	return statuses
}

// T29: what the query carries is nowhere to be found.
func TestAuthT29Query(t *testing.T) {
	wstest.CheckGoroutines(t)
	const secret = "alice-5ecr3t5ecr3t"
	for _, tt := range []struct{ name, query, kept string }{
		{"T29 alone", "token=" + secret, ""},
		{"T29 with others", "a=1&token=" + secret + "&b=%32", "a=1&b=%32"},
		{"T29 escaped", "to%6ben=" + secret + "&x", "x"},
		{"T29 wrong", "token=5ecr3t5ecr3t", "-"},
		{"T29 twice", "token=" + secret + "&token=" + secret, "-"},
		{"T29 bad escape", "%zz=1&token=" + secret, "%zz=1"},
		{"T29 semicolon", "token=" + secret + ";x=1", "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Value
			e := serveGuard(t, wsguard.Config{
				Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{InsecureQuery: "token"}},
				Attach: func(r *http.Request, p wsguard.Principal) (any, error) {
					seen.Store([]string{r.URL.RawQuery, r.RequestURI, fmt.Sprintf("%+v", r)})
					return nil, nil
				},
			})
			o := wstest.HandshakeOptions{Path: "/ws?" + tt.query, Header: header()}
			if tt.kept == "-" {
				e.refusedWith(o, 401, "unauthenticated")
			} else {
				_, res := e.tryWith(o)
				if res.StatusCode != 101 {
					t.Fatalf("status %d", res.StatusCode)
				}
				got := seen.Load().([]string)
				want := "/ws"
				if tt.kept != "" {
					want += "?" + tt.kept
				}
				if got[0] != tt.kept || got[1] != want || strings.Contains(got[2], "5ecr3t") {
					t.Errorf("Attach sees %q, want %q", got, want)
				}
			}
			e.s.Close()
			for _, ev := range e.events.all() {
				if s := renderEvent(ev); strings.Contains(s, "5ecr3t") {
					t.Errorf("an event tells: %s", s)
				}
			}
			if s := e.log.String(); strings.Contains(s, "5ecr3t") {
				t.Errorf("the log tells: %s", s)
			}
		})
	}
	t.Run("T29 standalone", func(t *testing.T) {
		t.Parallel()
		a := must(wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{
			Verifier: newTokens().Verify, Sources: wsguard.TokenSources{InsecureQuery: "token", Subprotocol: "bearer."},
		}}))
		for _, r := range []*http.Request{
			httptest.NewRequest("GET", "/ws?x=1&token="+secret, nil),
			httptest.NewRequest("GET", "http://example.com/ws?token="+secret+"&x=1", nil),
			withHeader(httptest.NewRequest("GET", "/ws?x=1", nil), "Sec-WebSocket-Protocol", "chat, bearer."+secret),
		} {
			before := fmt.Sprintf("%+v", r)
			called := false
			a.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				called = true
				if s := fmt.Sprintf("%+v %v", r, r.URL); strings.Contains(s, "5ecr3t") {
					t.Errorf("the next handler sees %s", s)
				}
				if r.URL.RawQuery != "x=1" || !strings.HasSuffix(r.RequestURI, "/ws?x=1") {
					t.Errorf("URL %v, RequestURI %s", r.URL, r.RequestURI)
				}
				if p, ok := wsguard.PrincipalOf(r); !ok || p.Subject != "alice" {
					t.Errorf("PrincipalOf: %v, %v", p, ok)
				}
			})).ServeHTTP(httptest.NewRecorder(), r)
			if !called {
				t.Errorf("%v refused", r.URL)
			}
			if after := fmt.Sprintf("%+v", r); after != before {
				t.Errorf("the caller's request was changed:\n%s\n%s", before, after)
			}
		}
	})
}

func withHeader(r *http.Request, name, value string) *http.Request {
	r.Header.Set(name, value)
	return r
}

// first is a first message that is a credential.
func first(token string) wstest.Frame {
	return wstest.Text(`{"type":"auth","token":"` + token + `"}`)
}

// T32: the credential in the first message.
func TestAuthT32FirstMessage(t *testing.T) {
	cfg := func(v wsguard.Verifier) wsguard.Config {
		return wsguard.Config{Auth: wsguard.AuthConfig{
			Verifier: v, Sources: wsguard.TokenSources{Header: true, FirstMessage: true},
			FirstMessageTimeout: 300 * time.Millisecond, VerifyTimeout: 100 * time.Millisecond,
		}}
	}
	for _, tt := range []struct {
		name   string
		frames []wstest.Frame
		code   int
		reason string
	}{
		{"T32 silent", nil, 3008, "auth_timeout"},
		{"T32 only pings", []wstest.Frame{wstest.Ping(nil), wstest.Pong([]byte("x"))}, 3008, "auth_timeout"},
		{"T32 half a message", []wstest.Frame{{Opcode: wstest.OpText, Masked: true, Payload: []byte(`{"type":`)}}, 3008, "auth_timeout"},
		{"T32 another message", []wstest.Frame{wstest.Text(`{"type":"hello"}`)}, 3000, "unauthenticated"},
		{"T32 no JSON", []wstest.Frame{wstest.Text(`auth alice`)}, 3000, "unauthenticated"},
		{"T32 an array", []wstest.Frame{wstest.Text(`["auth","alice"]`)}, 3000, "unauthenticated"},
		{"T32 null", []wstest.Frame{wstest.Text(`null`)}, 3000, "unauthenticated"},
		{"T32 empty", []wstest.Frame{wstest.Text(``)}, 3000, "unauthenticated"},
		{"T32 no token", []wstest.Frame{wstest.Text(`{"type":"auth"}`)}, 3000, "unauthenticated"},
		{"T32 token is a number", []wstest.Frame{wstest.Text(`{"type":"auth","token":1}`)}, 3000, "unauthenticated"},
		{"T32 token is empty", []wstest.Frame{wstest.Text(`{"type":"auth","token":""}`)}, 3000, "unauthenticated"},
		{"T32 two tokens", []wstest.Frame{wstest.Text(`{"type":"auth","token":"wrong","token":"alice"}`)}, 3000, "unauthenticated"},
		{"T32 other case", []wstest.Frame{wstest.Text(`{"Type":"auth","Token":"alice"}`)}, 3000, "unauthenticated"},
		{"T32 wrong token", []wstest.Frame{first("wrong")}, 3000, "unauthenticated"},
		{"T32 expired", []wstest.Frame{first("expired")}, 3000, "unauthenticated"},
		{"T32 not UTF-8", []wstest.Frame{wstest.Text("\xff\xfe")}, 1007, "invalid_utf8"},
		{"T32 binary", []wstest.Frame{wstest.Binary([]byte(`{"type":"auth","token":"alice"}`))}, 1003, "message_type"},
		{"T32 over 4 KiB", []wstest.Frame{first(strings.Repeat("x", 4<<10))}, 1009, "message_too_big"},
		{"T32 over 4 KiB, declared", []wstest.Frame{{Fin: true, Opcode: wstest.OpText, Masked: true, Length: ptr(uint64(4097))}}, 1009, "message_too_big"},
		{"T32 unavailable", []wstest.Frame{first("unavailable")}, 1013, "unavailable"},
		{"T32 panic", []wstest.Frame{first("panic")}, 1013, "unavailable"},
		{"T32 hanging verifier", []wstest.Frame{first("hang")}, 1013, "unavailable"},
		{"T32 no subject", []wstest.Frame{first("nobody")}, 1013, "unavailable"},
		{"T32 binary frame of rubbish", []wstest.Frame{{Fin: true, Opcode: 3, Masked: true}}, 1002, "protocol_error"},
	} {
		authBubble(t, tt.name, func(t *testing.T) {
			c := cfg(newTokens().Verify)
			c.Attach = func(*http.Request, wsguard.Principal) (any, error) { t.Error("Attach called"); return nil, nil }
			e := serveWith(t, c, func(g *wsguard.Guard) http.Handler {
				return g.Handler(func(context.Context, *wsguard.Conn) error { t.Error("handler called"); return nil })
			})
			cl := e.open(header())
			start := time.Now()
			for _, f := range tt.frames {
				cl.WriteFrame(f)
			}
			wantClose(t, cl, tt.code, tt.reason)
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("after %v", d)
			}
			cl.Close()
			ev := e.events.wait(t, audit.Close, 1)
			if int(ev.Code) != tt.code || ev.Reason != tt.reason {
				t.Errorf("event %d %s", ev.Code, ev.Reason)
			}
			if n := len(e.events.of(audit.Open)); n != 0 {
				t.Errorf("%d open events for a connection that never authenticated", n)
			}
		})
	}

	authBubble(t, "T32 right", func(t *testing.T) {
		v := newTokens()
		var attached atomic.Bool
		c := cfg(v.Verify)
		c.Attach = func(r *http.Request, p wsguard.Principal) (any, error) {
			attached.Store(true)
			if r.URL.Path != "/ws" || p.Subject != "alice" {
				t.Errorf("Attach: %v, %v", r.URL, p)
			}
			return "value", nil
		}
		e := serveWith(t, c, func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				if !attached.Load() || c.Value() != "value" || c.Principal().Subject != "alice" {
					t.Error("the handler started too early")
				}
				return echo(ctx, c)
			})
		})
		cl, res := e.tryWith(wstest.HandshakeOptions{Path: "/ws", Header: header()})
		if res.StatusCode != 101 {
			t.Fatal(res.StatusCode)
		}
		synctest.Wait()
		if v.calls.Load() != 0 || attached.Load() {
			t.Error("something was called before the message")
		}
		cl.WriteFrame(first("alice"))
		roundTrip(t, cl, "hello") // the first reply: the credential is not answered
		roundTrip(t, cl, strings.Repeat("x", 10000))
	})
	authBubble(t, "T32 early, fragmented, between pings", func(t *testing.T) {
		e := serveGuard(t, cfg(newTokens().Verify))
		var early []byte
		for _, f := range []wstest.Frame{
			{Opcode: wstest.OpText, Masked: true, Payload: []byte(`{"type":"auth",`)},
			wstest.Ping([]byte("p")),
			{Fin: true, Opcode: wstest.OpContinuation, Masked: true, Payload: []byte(`"token":"alice"}`)},
			wstest.Text("hello"),
		} {
			early = wstest.AppendFrame(early, f)
		}
		cl, res := e.tryWith(wstest.HandshakeOptions{Header: header(), Early: early})
		if res.StatusCode != 101 {
			t.Fatal(res.StatusCode)
		}
		if _, got, err := cl.ReadMessage(); string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
	})
	authBubble(t, "T32 header instead", func(t *testing.T) {
		e := serveGuard(t, cfg(newTokens().Verify))
		cl := e.open(bearer("alice"))
		roundTrip(t, cl, "hello")
		e.refused(bearer("wrong"), 401, "unauthenticated")
	})
	authBubble(t, "T32 cap on those not authenticated", func(t *testing.T) {
		c := cfg(newTokens().Verify)
		c.Auth.FirstMessageTimeout = 10 * time.Second
		c.Caps.MaxUnauthenticated = 3
		e := serveGuard(t, c)
		var waiting []*wstest.Client
		for range 3 {
			waiting = append(waiting, e.open(header()))
		}
		e.refused(header(), 503, "max_conns")
		e.open(bearer("bob")) // not one of them
		waiting[0].WriteFrame(first("alice"))
		roundTrip(t, waiting[0], "hello")
		waiting = append(waiting, e.open(header()))
		e.refused(header(), 503, "max_conns")
		waiting[1].Close()
		eventually(t, "the slot of one that has gone", func() bool { return e.g.Conns() == 4 })
		e.open(header())
	})
	authBubble(t, "T32 default cap is a tenth", func(t *testing.T) {
		c := cfg(newTokens().Verify)
		c.Auth.FirstMessageTimeout = 10 * time.Second
		c.Caps.MaxConns = 20
		e := serveGuard(t, c)
		e.open(header())
		e.open(header())
		e.refused(header(), 503, "max_conns")
	})
	authBubble(t, "T32 cap only reports", func(t *testing.T) {
		c := cfg(newTokens().Verify)
		c.Auth.FirstMessageTimeout = 10 * time.Second
		c.Caps.MaxUnauthenticated = 1
		c.Caps.ReportOnly = true
		e := serveGuard(t, c)
		e.open(header())
		cl := e.open(header())
		cl.WriteFrame(first("alice"))
		roundTrip(t, cl, "hello")
	})
	authBubble(t, "T32 subject cap", func(t *testing.T) {
		c := cfg(newTokens().Verify)
		c.Caps.MaxConnsPerSubject = 1
		e := serveGuard(t, c)
		cl := e.open(header())
		cl.WriteFrame(first("alice"))
		roundTrip(t, cl, "hello")
		second := e.open(header())
		second.WriteFrame(first("alice"))
		wantClose(t, second, 1013, "max_subject_conns")
		other := e.open(header())
		other.WriteFrame(first("bob"))
		roundTrip(t, other, "hello")
	})
	authBubble(t, "T32 Attach refuses", func(t *testing.T) {
		c := cfg(newTokens().Verify)
		c.Attach = func(*http.Request, wsguard.Principal) (any, error) { return nil, errors.New("no") }
		e := serveWith(t, c, func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(context.Context, *wsguard.Conn) error { t.Error("handler called"); return nil })
		})
		cl := e.open(header())
		cl.WriteFrame(first("alice"))
		wantClose(t, cl, 3003, "forbidden")
		e.refused(bearer("alice"), 403, "forbidden")
	})
	authBubble(t, "T32 guessing", func(t *testing.T) {
		c := cfg(newTokens().Verify)
		c.Auth.Failures = wsguard.Rate{PerSecond: never, Burst: 2}
		e := serveGuard(t, c)
		for i, want := range []string{"unauthenticated", "unauthenticated", "guessing"} {
			cl := e.open(header())
			cl.WriteFrame(first(fmt.Sprint("guess", i)))
			code := 3000
			if want == "guessing" {
				code = 1013
			}
			wantClose(t, cl, code, want)
		}
	})
	authBubble(t, "T32 revoked", func(t *testing.T) {
		e := serveGuard(t, cfg(newTokens().Verify))
		cl := e.open(header())
		e.g.Admin().Revoke("alice")
		cl.WriteFrame(first("alice"))
		wantClose(t, cl, 3000, "revoked")
		e.g.Admin().Restore("alice")
		cl = e.open(header())
		cl.WriteFrame(first("alice"))
		roundTrip(t, cl, "hello")
	})
	authBubble(t, "T32 Accept returns afterwards", func(t *testing.T) {
		accepted := make(chan error, 2)
		e := serveWith(t, cfg(newTokens().Verify), func(g *wsguard.Guard) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, err := g.Accept(w, r)
				accepted <- err
				if err == nil {
					if c.Principal().Subject != "alice" {
						t.Errorf("principal %v", c.Principal())
					}
					c.End(echo(r.Context(), c))
				}
			})
		})
		cl := e.open(header())
		synctest.Wait()
		select {
		case <-accepted:
			t.Error("Accept returned before the credential")
		default:
		}
		cl.WriteFrame(first("alice"))
		roundTrip(t, cl, "hello")
		if err := <-accepted; err != nil {
			t.Error(err)
		}
		cl = e.open(header())
		cl.WriteFrame(first("wrong"))
		wantClose(t, cl, 3000, "unauthenticated")
		var ce *wsguard.CloseError
		if err := <-accepted; !errors.As(err, &ce) || !errors.Is(err, wsguard.ErrUnauthenticated) || ce.Code != 3000 {
			t.Errorf("Accept: %v", err)
		}
	})
	// The credential is no message of the application's: its bounds are the
	// credential's own.
	authBubble(t, "T32 messages smaller than the credential", func(t *testing.T) {
		c := cfg(newTokens().Verify)
		c.Messages.MaxBytes = 16
		e := serveGuard(t, c)
		cl := e.open(header())
		cl.WriteFrame(first("alice"))
		roundTrip(t, cl, "hello")
		cl.WriteFrame(wstest.Text(strings.Repeat("x", 17)))
		wantClose(t, cl, 1009, "message_too_big")
	})
	authBubble(t, "T32 a schema is for the messages after it", func(t *testing.T) {
		c := cfg(newTokens().Verify)
		c.Messages.Validator = must(wsguard.CompileSchema([]byte(`{"type":"integer"}`)))
		e := serveGuard(t, c)
		cl := e.open(header())
		cl.WriteFrame(first("alice"))
		roundTrip(t, cl, "1")
		cl.WriteFrame(wstest.Text(`"one"`))
		wantClose(t, cl, 1008, "schema")
	})
	// What ends the connection while Attach runs comes first in the log, too:
	// nothing opens after its close.
	authBubble(t, "T32 ended while Attach runs", func(t *testing.T) {
		attaching, go_ := make(chan struct{}), make(chan struct{})
		var closed atomic.Int64
		c := cfg(newTokens().Verify)
		c.Auth.FirstMessageTimeout = 10 * time.Second
		c.Auth.VerifyTimeout = 10 * time.Second
		c.Attach = func(*http.Request, wsguard.Principal) (any, error) {
			close(attaching)
			<-go_
			return closer(func() { closed.Add(1) }), nil
		}
		e := serveWith(t, c, func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(context.Context, *wsguard.Conn) error { t.Error("handler called"); return nil })
		})
		cl := e.open(header())
		cl.WriteFrame(first("alice"))
		<-attaching
		e.g.Admin().Revoke("alice")
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e.g.Shutdown(ctx) // cuts
		e.events.wait(t, audit.Close, 1)
		close(go_)
		e.idle()
		if closed.Load() != 1 {
			t.Errorf("the value was closed %d times", closed.Load())
		}
		if n := len(e.events.of(audit.Open)); n != 0 {
			t.Error("opened after it had been closed:\n", e.events)
		}
	})
}

func ptr[T any](v T) *T { return &v }

// closer is an io.Closer.
type closerFunc struct{ f func() }

func closer(f func()) *closerFunc { return &closerFunc{f} }

func (c *closerFunc) Close() error { c.f(); return nil }

// T32: whoever dribbles the first message gets what the silent get, at the
// same time: the defaults of both deadlines are 10 s.
func TestAuthT32Dribble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true}},
		})
		cl := e.open(header())
		cl.Timeout = time.Minute
		start := time.Now()
		cl.Write([]byte{0x81})
		wantClose(t, cl, 3008, "auth_timeout")
		if d := time.Since(start); d < 10*time.Second || d > 10*time.Second+250*time.Millisecond {
			t.Errorf("after %v", d)
		}
	})
}

// T34: the credential's expiry, to a quarter of a second, whatever goes on.
func TestAuthT34Expiry(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ping    time.Duration
		handler func(context.Context, *wsguard.Conn) error
		busy    bool
	}{
		{"T34 idle", 0, echo, false},
		{"T34 idle, without pings", wsguard.Off, echo, false},
		{"T34 busy", 0, echo, true},
		{"T34 not reading", wsguard.Off, func(ctx context.Context, c *wsguard.Conn) error { <-ctx.Done(); return context.Cause(ctx) }, false},
		{"T34 only writing", wsguard.Off, func(ctx context.Context, c *wsguard.Conn) error {
			for {
				if err := c.Write(ctx, wsguard.MessageText, []byte("x")); err != nil {
					return err
				}
				time.Sleep(500 * time.Millisecond)
			}
		}, false},
	} {
		for _, source := range []string{"header", "first-message"} {
			t.Run(tt.name+", "+source, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v := wsguard.Verifier(func(context.Context, string) (wsguard.Principal, error) {
						return wsguard.Principal{Subject: "alice", Expires: time.Now().Add(2 * time.Second)}, nil
					})
					e := serveWith(t, wsguard.Config{
						Auth:     wsguard.AuthConfig{Verifier: v, Sources: wsguard.TokenSources{Header: true, FirstMessage: true}},
						Timeouts: wsguard.TimeoutConfig{PingInterval: tt.ping},
					}, func(g *wsguard.Guard) http.Handler { return g.Handler(tt.handler) })
					o := wstest.HandshakeOptions{Header: bearer("x")}
					if source != "header" {
						o = wstest.HandshakeOptions{Header: header(), Early: wstest.AppendFrame(nil, first("x"))}
					}
					cl, res := e.tryWith(o)
					if res.StatusCode != 101 {
						t.Fatal(res.StatusCode)
					}
					cl.Timeout = time.Minute
					start := time.Now()
					stop := make(chan struct{})
					defer close(stop)
					if tt.busy {
						go func() {
							for {
								select {
								case <-stop:
									return
								case <-time.After(100 * time.Millisecond):
									cl.WriteFrame(wstest.Text("x"))
								}
							}
						}()
					}
					wantClose(t, cl, 3000, "expired")
					if d := time.Since(start); d < 2*time.Second || d > 2*time.Second+250*time.Millisecond {
						t.Errorf("after %v", d)
					}
				})
			})
		}
	}
}

// T35: revocation by subject.
func TestAuthT35Revoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newTokens()
		e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify}})
		var alice []*wstest.Client
		for range 3 {
			alice = append(alice, e.open(bearer("alice")))
		}
		bob := e.open(bearer("bob"))
		start := time.Now()
		e.g.Admin().Revoke("alice")
		for _, c := range alice {
			wantClose(t, c, 3000, "revoked")
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("after %v", d)
		}
		roundTrip(t, bob, "still here")
		e.refused(bearer("alice"), 401, "revoked")

		// Credentials issued since are good, and Restore makes the old ones so.
		v.issued = time.Now()
		roundTrip(t, e.open(bearer("alice")), "hello")
		v.issued = start.Add(-time.Hour)
		e.refused(bearer("alice"), 401, "revoked")
		v.issued = time.Time{}
		e.g.Admin().Restore("alice")
		roundTrip(t, e.open(bearer("alice")), "hello")
	})
}

// T36: a revocation at any moment of a handshake leaves no survivor.
func TestAuthT36RevokeRace(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, source := range []string{"header", "first-message"} {
		t.Run("T36 "+source, func(t *testing.T) {
			t.Parallel()
			v := wsguard.Verifier(func(_ context.Context, token string) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: token, SessionID: "login of " + token}, nil
			})
			cfg := wsguard.Config{
				Auth:   wsguard.AuthConfig{Verifier: v, Sources: wsguard.TokenSources{Header: true, FirstMessage: true}},
				Rates:  wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}, ClientMessages: wsguard.Rate{PerSecond: wsguard.Off}},
				Attach: func(*http.Request, wsguard.Principal) (any, error) { return nil, nil },
			}
			e := serveGuard(t, cfg)
			n := rounds(1000, 100)
			for i := range n {
				subject := fmt.Sprint("subject", i)
				c := e.dial()
				start, revoked := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(revoked)
					<-start
					for range i % 97 * 20 { // spread over the handshake
						_ = subject
					}
					if i%3 != 0 {
						time.Sleep(time.Duration(i%50) * 4 * time.Microsecond)
					}
					if i%2 == 0 {
						e.g.Admin().Revoke(subject)
					} else {
						e.g.Admin().SignOut("login of " + subject)
					}
				}()
				h, early := bearer(subject), []byte(nil)
				if source != "header" {
					h, early = header(), wstest.AppendFrame(nil, first(subject))
				}
				close(start)
				res, err := c.HandshakeWith(wstest.HandshakeOptions{Header: h, Early: early})
				if err != nil {
					t.Fatal(err)
				}
				<-revoked
				switch res.StatusCode {
				case 401:
				case 101:
					if code, reason, err := c.ReadClose(); code != 3000 || reason != "revoked" {
						t.Fatalf("round %d: a survivor: %d %s, %v", i, code, reason, err)
					}
				default:
					t.Fatalf("round %d: status %d", i, res.StatusCode)
				}
				c.Close()
			}
		})
	}
}

// T41: all 401s look alike.
func TestAuthT41Alike(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{
		Auth:         wsguard.AuthConfig{Verifier: newTokens().Verify, Tickets: &wsguard.TicketConfig{}},
		Subprotocols: []string{"chat"},
		Rates:        wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
	})
	e.g.Admin().Revoke("carol")
	want := ""
	for _, tt := range []struct {
		name, path string
		header     http.Header
		reason     string
	}{
		{"T41 none", "/", header(), "unauthenticated"},
		{"T41 wrong", "/", bearer("wrong"), "unauthenticated"},
		{"T41 expired", "/", bearer("expired"), "unauthenticated"},
		{"T41 revoked", "/", bearer("carol"), "revoked"},
		{"T41 two", "/", header("Authorization", "Bearer alice", "Sec-WebSocket-Protocol", "chat, bearer.alice"), "unauthenticated"},
		{"T41 subprotocol alone", "/", header("Sec-WebSocket-Protocol", "bearer.alice"), "unauthenticated"},
		{"T41 ticket", "/?ticket=AAAAAAAAAAAAAAAAAAAAAA", header(), "unauthenticated"},
		{"T41 over-long", "/", bearer(strings.Repeat("x", 9<<10)), "unauthenticated"},
	} {
		res := e.refusedWith(wstest.HandshakeOptions{Path: tt.path, Header: tt.header}, 401, tt.reason)
		res.Header.Del("Date")
		got := fmt.Sprint(res.Proto, res.Status, res.Header, res.ContentLength, body(t, res))
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%s:\n%s\nothers:\n%s", tt.name, got, want)
		}
	}
}

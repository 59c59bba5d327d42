package wsguard_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// cookieLogin is a login of session middleware. Its calls are counted.
func cookieLogin(calls *atomic.Int64) func(*http.Request) (wsguard.Principal, error) {
	return func(r *http.Request) (wsguard.Principal, error) {
		calls.Add(1)
		if user := r.Header.Get("X-User"); user != "" {
			return wsguard.Principal{Subject: user, SessionID: "proxy"}, nil
		}
		c, err := r.Cookie("session")
		switch {
		case err != nil:
			return wsguard.Principal{}, fmt.Errorf("no session: %w", wsguard.ErrNoCredential)
		case c.Value == "panic":
			panic("session")
		case c.Value == "down":
			return wsguard.Principal{}, wsguard.ErrUnavailable
		case c.Value == "alice":
			return wsguard.Principal{Subject: "alice", SessionID: "s1"}, nil
		}
		return wsguard.Principal{}, errors.New("no such session")
	}
}

// Authenticate is asked where a cookie would count, and nowhere else.
func TestAuthenticate(t *testing.T) {
	wstest.CheckGoroutines(t)
	var calls atomic.Int64
	cfg := failing(3, wsguard.Config{
		Origins: []string{appOrigin, "null", "file://"}, Hosts: []string{"127.0.0.1"}, AllowMissingOrigin: true,
		Auth: wsguard.AuthConfig{Authenticate: cookieLogin(&calls)},
	})
	e := serveGuard(t, cfg)
	for _, tt := range []struct {
		name   string
		h      http.Header
		status int
		reason string
		asked  int64
	}{
		{"own page", header("Cookie", "session=alice"), 101, "", 1},
		{"own page, nobody", header(), 401, "unauthenticated", 1},
		{"own page, header of a proxy", header("X-User", "bob"), 101, "", 1},
		{"down", header("Cookie", "session=down"), 503, "unavailable", 1},
		{"panic", header("Cookie", "session=panic"), 503, "unavailable", 1},
		{"program", header("Origin", "", "X-User", "bob"), 101, "", 1},
		{"program with a cookie", header("Origin", "", "Cookie", "session=alice"), 403, "origin", 0},
		{"frame", header("Origin", "null", "Cookie", "session=alice"), 401, "unauthenticated", 0},
		{"file", header("Origin", "file://", "Cookie", "session=alice"), 401, "unauthenticated", 0},
		{"foreign page", header("Origin", "https://evil.example", "Cookie", "session=alice"), 403, "origin", 0},
	} {
		before := calls.Load()
		if tt.status == 101 {
			bye(e.open(tt.h))
		} else {
			e.refused(tt.h, tt.status, tt.reason)
		}
		if n := calls.Load() - before; n != tt.asked {
			t.Errorf("%s: asked %d times, want %d", tt.name, n, tt.asked)
		}
	}
	// Nobody is no failure, however often. A bad session is, once.
	for range 20 {
		e.refused(header(), 401, "unauthenticated")
		e.refused(header("Cookie", "session=stale"), 401, "unauthenticated")
	}
	for i := range 2 {
		e.refused(header("Cookie", fmt.Sprint("session=guess", i)), 401, "unauthenticated")
	}
	e.refused(header("Cookie", "session=guess9"), 429, "guessing")
	// Revocation and the subject's cap are as for a Verifier.
	c := e.open(header("Cookie", "session=alice"))
	e.g.Admin().SignOut("s1")
	wantClose(t, c, 3000, "revoked")
	e.refused(header("Cookie", "session=alice"), 401, "revoked")
}

// Under report-only origins a foreign request is nobody's.
func TestAuthenticateReportOnly(t *testing.T) {
	wstest.CheckGoroutines(t)
	var calls atomic.Int64
	e := serveGuard(t, wsguard.Config{
		InsecureReportOnlyOrigins: true,
		Auth:                      wsguard.AuthConfig{Authenticate: cookieLogin(&calls), InsecureAnonymous: true},
	})
	e.open(header("Origin", "https://evil.example", "Cookie", "session=alice"))
	if calls.Load() != 0 {
		t.Error("asked")
	}
	for s := range e.g.Admin().Sessions() {
		if s.Subject != "" {
			t.Errorf("%+v", s)
		}
	}
	e.open(header("Cookie", "session=alice"))
	if calls.Load() != 1 {
		t.Error("not asked")
	}
}

// A ticket beside a session cookie is one credential, and so is a bearer token.
func TestAuthenticateBesideOthers(t *testing.T) {
	wstest.CheckGoroutines(t)
	var calls atomic.Int64
	e := ticketEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Authenticate: cookieLogin(&calls)}})
	token := e.buy(bearer("bob"))
	calls.Store(0)
	c, res := e.tryWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + token, Header: header("Cookie", "session=alice")})
	if res.StatusCode != 101 {
		t.Fatal(res.Status)
	}
	for s := range e.g.Admin().Sessions() {
		if s.Subject != "bob" {
			t.Errorf("%+v", s)
		}
	}
	bye(c)
	e.refusedWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + token, Header: header("Cookie", "session=alice")}, 401, "unauthenticated")
	if calls.Load() != 0 {
		t.Error("Authenticate was asked beside a ticket")
	}
}

// With both, the first message is the credential of a handshake that Authenticate does not
// know, and those that wait for it are bounded.
func TestAuthenticateOrFirstMessage(t *testing.T) {
	wstest.CheckGoroutines(t)
	var calls atomic.Int64
	e := serveWith(t, wsguard.Config{
		Auth: wsguard.AuthConfig{Authenticate: cookieLogin(&calls), Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true}},
		Caps: wsguard.CapConfig{MaxUnauthenticated: 1},
	}, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
	roundTrip(t, e.open(header("Cookie", "session=alice")), "hello")
	waits := e.open(header())
	e.refused(header(), 503, "max_conns")
	roundTrip(t, e.open(header("Cookie", "session=alice")), "hello")
	waits.WriteFrame(first("bob"))
	roundTrip(t, waits, "hello")
}

// An Authenticator that stands alone needs an origin check in front.
func TestAuthenticateAlone(t *testing.T) {
	var calls atomic.Int64
	a := must(wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{Authenticate: cookieLogin(&calls)}}))
	check := must(wsguard.NewOriginCheck(wsguard.Config{Origins: []string{appOrigin}, AllowMissingOrigin: true}))
	in := func(h http.Handler, change func(*http.Request)) (p wsguard.Principal, ok bool) {
		r := withHeader(upgradeRequest(), "Cookie", "session=alice")
		change(r)
		found := func(_ http.ResponseWriter, r *http.Request) { p, ok = wsguard.PrincipalOf(r) }
		if h != nil {
			h = check.Handler(a.Handler(http.HandlerFunc(found)))
		} else {
			h = a.Handler(http.HandlerFunc(found))
		}
		h.ServeHTTP(discard{}, r)
		return p, ok
	}
	same := func(*http.Request) {}
	program := func(r *http.Request) {
		r.Header.Del("Origin")
		r.Header.Del("Cookie")
		r.Header.Set("X-User", "bob")
	}
	if p, ok := in(nil, same); ok {
		t.Errorf("without an origin check: %+v", p)
	}
	if p, ok := in(nil, program); ok {
		t.Errorf("a program without an origin check: %+v", p)
	}
	if p, ok := in(check.Handler(nil), same); !ok || p.Subject != "alice" {
		t.Errorf("behind an origin check: %+v", p)
	}
	if p, ok := in(check.Handler(nil), program); !ok || p.Subject != "bob" {
		t.Errorf("a program behind an origin check: %+v", p)
	}
}

// A credential may stand in a header of any name.
func TestCustomHeader(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{
		Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Header: true, CustomHeader: "x-api-key"},
	}})
	bye(e.open(header("X-API-Key", " alice ")))
	bye(e.open(bearer("bob")))
	e.refused(header("X-API-Key", "junk"), 401, "unauthenticated")
	e.refused(header("X-API-Key", "alice", "X-Api-Key", "alice"), 401, "unauthenticated")
	e.refused(header("X-API-Key", "alice", "Authorization", "Bearer alice"), 401, "unauthenticated")
	for _, name := range []string{"Authorization", "Cookie", "Origin", "Sec-WebSocket-Key", "a b", "Host", "X-Forwarded-For"} {
		if _, err := wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{
			Verifier: newTokens().Verify, Sources: wsguard.TokenSources{CustomHeader: name}}}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Tickets can be the only credentials, bought with a bearer token.
func TestTicketsOnly(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := ticketEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Sources: wsguard.TokenSources{TicketsOnly: true}}})
	token := e.buy(bearer("alice"))
	e.refusedWith(wstest.HandshakeOptions{Path: "/ws", Header: bearer("alice")}, 401, "unauthenticated")
	c, res := e.tryWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + token, Header: header()})
	if res.StatusCode != 101 {
		t.Error(res.Status)
	}
	c.Close()
	for _, auth := range []wsguard.AuthConfig{
		{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{TicketsOnly: true}},
		{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{TicketsOnly: true, Header: true}, Tickets: &wsguard.TicketConfig{}},
	} {
		if _, err := wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: auth}); err == nil {
			t.Errorf("%+v is accepted", auth.Sources)
		}
	}
}

// A ticket handler without a login of its own asks Authenticate about any request without a
// bearer token, HTTP Basic included.
func TestTicketsForBasic(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := ticketEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Authenticate: func(r *http.Request) (wsguard.Principal, error) {
		if user, password, ok := r.BasicAuth(); ok && password == "secret" {
			return wsguard.Principal{Subject: user}, nil
		}
		return wsguard.Principal{}, wsguard.ErrUnauthenticated
	}}})
	e.buy(header("Authorization", "Basic YWxpY2U6c2VjcmV0"))
	e.buy(bearer("bob"))
	if res := e.request("POST", "/ticket", header("Authorization", "Basic YWxpY2U6bm8=")); res.StatusCode != 401 {
		t.Error(res.Status)
	}
}

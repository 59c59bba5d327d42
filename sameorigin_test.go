package wsguard_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// checkOf runs a piece of the origin for a request.
func checkOf(cfg wsguard.Config, host, origin string, change func(*http.Request)) error {
	check, err := wsguard.NewOriginCheck(cfg)
	if err != nil {
		panic(err)
	}
	r := upgradeRequest()
	r.RemoteAddr, r.Host = "192.0.2.1:1234", host
	r.Header.Set("Origin", origin)
	if change != nil {
		change(r)
	}
	return check.Check(r)
}

func overTLS(r *http.Request) { r.TLS = &tls.ConnectionState{} }

// SameOrigin compares the whole tuple: scheme, host and port.
func TestSameOrigin(t *testing.T) {
	cfg := wsguard.Config{
		SameOrigin: true, Hosts: []string{"a.example", "b.example:8443", "[::1]:8080"},
		Proxies: wsguard.Proxies{Trusted: []string{"10.0.0.0/8"}},
	}
	viaProxy := func(proto string) func(*http.Request) {
		return func(r *http.Request) {
			r.RemoteAddr = "10.0.0.1:1"
			r.Header["X-Forwarded-Proto"], r.Header["X-Forwarded-Host"] = []string{proto}, []string{"evil.example"}
		}
	}
	for _, tt := range []struct {
		host, origin string
		change       func(*http.Request)
		same         bool
	}{
		{"a.example", "http://a.example", nil, true},
		{"A.Example", "http://a.example", nil, true},
		{"a.example:80", "http://a.example", nil, true},
		{"a.example", "http://a.example:80", nil, true},
		{"a.example", "https://a.example", nil, false},
		{"a.example", "http://a.example:8080", nil, false},
		{"a.example", "https://a.example", overTLS, true},
		{"a.example:443", "https://a.example", overTLS, true},
		{"a.example:80", "https://a.example", overTLS, false},
		{"a.example", "http://a.example", overTLS, false},
		{"b.example:8443", "https://b.example:8443", overTLS, true},
		{"b.example:8443", "https://b.example", overTLS, false},
		{"[::1]:8080", "http://[::1]:8080", nil, true},
		{"a.example", "https://a.example", viaProxy("https"), true},
		{"a.example", "http://a.example", viaProxy("https"), false},
		{"a.example", "http://a.example", viaProxy("http"), true},
		{"a.example", "https://evil.example", viaProxy("https"), false}, // X-Forwarded-Host is never read
		{"a.example", "https://a.example", func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") }, false},
		{"evil.example", "http://evil.example", nil, false}, // rebinding: not among Hosts
		{"a.example", "null", nil, false},
		{"a.example", "http://a.example.evil.example", nil, false},
		{"a.example", "http://a.example/", nil, false},
		{"a.example", "http://user@a.example", nil, false},
		{"", "http://", nil, false},
		{"*", "http://*", nil, false},
	} {
		if err := checkOf(cfg, tt.host, tt.origin, tt.change); (err == nil) != tt.same {
			t.Errorf("%s at %s: %v, want same %t", tt.origin, tt.host, err, tt.same)
		}
	}
	if err := checkOf(wsguard.Config{InsecureSameOrigin: true}, "evil.example", "http://evil.example", nil); err != nil {
		t.Error(err)
	}
	// Listed origins stay.
	cfg.Origins = []string{"https://app.example.com"}
	if err := checkOf(cfg, "a.example", "https://app.example.com", nil); err != nil {
		t.Error(err)
	}
}

// A cookie counts from a page of the same origin, and never where any origin is admitted.
func TestSameOriginCookie(t *testing.T) {
	wstest.CheckGoroutines(t)
	auth := wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Cookie: "session"}}
	e := serveGuard(t, wsguard.Config{SameOrigin: true, Hosts: []string{"127.0.0.1"}, Auth: auth, Origins: []string{appOrigin}})
	own := "http://" + e.s.Addr
	e.open(header("Origin", own, "Cookie", "session=alice"))
	e.refused(header("Origin", "http://evil.example", "Cookie", "session=alice"), 403, "origin")
}

// Faults of the settings of origins.
func TestOriginSettings(t *testing.T) {
	cookie := wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Cookie: "session"}}
	anybody := wsguard.AuthConfig{InsecureAnonymous: true}
	for name, tt := range map[string]struct {
		cfg   wsguard.Config
		field string
	}{
		"same origin without hosts": {wsguard.Config{SameOrigin: true, Auth: anybody}, "SameOrigin"},
		"any origin and a cookie":   {wsguard.Config{InsecureAnyOrigin: true, Auth: cookie}, "InsecureAnyOrigin"},
		"files and a cookie":        {wsguard.Config{Origins: []string{"file://"}, Auth: cookie}, "Origins"},
		"same origin":               {wsguard.Config{SameOrigin: true, Hosts: []string{"a.example"}, Auth: anybody}, ""},
		"insecure same origin":      {wsguard.Config{InsecureSameOrigin: true, Auth: cookie}, ""},
		"any origin":                {wsguard.Config{InsecureAnyOrigin: true, Auth: anybody}, ""},
		"files":                     {wsguard.Config{Origins: []string{"file://"}, Auth: anybody}, ""},
		"function":                  {wsguard.Config{OriginFunc: func(context.Context, string, string) (bool, error) { return true, nil }, Auth: cookie}, ""},
	} {
		_, err := wsguard.New(tt.cfg)
		var fault *wsguard.ConfigError
		if tt.field == "" && err != nil || tt.field != "" && (!errors.As(err, &fault) || fault.Field != tt.field) {
			t.Errorf("%s: %v, want a fault of %q", name, err, tt.field)
		}
	}
}

// InsecureAnyOrigin admits every origin, but no request without one. Foreign pages do not use
// up what listed pages need.
func TestAnyOrigin(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{
		InsecureAnyOrigin: true, Origins: []string{appOrigin},
		Auth:  wsguard.AuthConfig{Verifier: newTokens().Verify, InsecureAnonymous: true, Failures: wsguard.Rate{PerSecond: never, Burst: 1}},
		Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 3}},
	})
	for _, o := range []string{"https://evil.example", "null", "file://"} {
		bye(e.open(header("Origin", o)))
	}
	e.refused(header("Origin", "https://evil.example"), 429, "handshake_rate")
	e.refused(header("Origin", ""), 403, "origin")
	bye(e.open(header()))
	e.refused(bearer("junk"), 401, "unauthenticated")
}

// file:// and http://localhost:* are entries of their own.
func TestOriginsOfFilesAndLocalhost(t *testing.T) {
	cfg := wsguard.Config{Origins: []string{"file://", "http://localhost:*"}}
	for o, allowed := range map[string]bool{
		"file://": true, "file:///": false, "FILE://": false, "file://host": false, "null": false,
		"http://localhost": true, "http://localhost:80": true, "http://localhost:3000": true, "http://LOCALHOST:1": true,
		"https://localhost": false, "https://localhost:3000": false, "http://127.0.0.1:3000": false,
		"http://localhost.evil.example": false, "http://evil.localhost:3000": false, "http://localhost:x": false, "http://localhost:": false,
	} {
		if err := checkOf(cfg, "a.example", o, nil); (err == nil) != allowed {
			t.Errorf("%s: %v, want allowed %t", o, err, allowed)
		}
	}
}

// OriginFunc is asked after the list, about canonical tuples only, once a minute.
func TestOriginFunc(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var asked []string
		e := serveGuard(t, wsguard.Config{OriginFunc: func(_ context.Context, origin, host string) (bool, error) {
			asked = append(asked, origin+" at "+host)
			switch {
			case strings.Contains(origin, "down"):
				return true, errors.New("the database is down")
			case strings.Contains(origin, "panic"):
				panic("x")
			}
			return strings.HasSuffix(origin, ".customer.example"), nil
		}, Origins: []string{appOrigin}, Hosts: []string{"127.0.0.1"}})
		at := func(o string) http.Header { return header("Origin", o) }
		bye(e.open(at(appOrigin)))
		for range 3 {
			bye(e.open(at("https://A.customer.example:443")))
			e.refused(at("https://evil.example"), 403, "origin")
		}
		e.refused(at("null"), 403, "origin")
		e.refused(at("https://a.customer.example/"), 403, "origin")
		want := []string{"https://a.customer.example at " + e.s.Addr, "https://evil.example at " + e.s.Addr}
		if fmt.Sprint(asked) != fmt.Sprint(want) {
			t.Errorf("asked about %v, want %v", asked, want)
		}
		for range 2 { // these are not kept
			e.refused(at("https://down.example"), 503, "unavailable")
			e.refused(at("https://panic.example"), 503, "unavailable")
		}
		time.Sleep(time.Minute)
		bye(e.open(at("https://a.customer.example")))
		if len(asked) != 7 {
			t.Errorf("asked about %v", asked)
		}
		synctest.Wait() // a slot comes back after the peer has read the close frame
		if n := e.g.Conns(); n != 0 {
			t.Errorf("%d slots", n)
		}
	})
}

// A flood of foreign origins does not make OriginFunc forget the good ones.
func TestOriginFuncFlood(t *testing.T) {
	var calls atomic.Int64
	check, err := wsguard.NewOriginCheck(wsguard.Config{OriginFunc: func(_ context.Context, origin, _ string) (bool, error) {
		calls.Add(1)
		return strings.HasSuffix(origin, ".good.example"), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(o string) error {
		r := upgradeRequest()
		r.Header.Set("Origin", o)
		return check.Check(r)
	}
	for i := range 500 {
		if err := ask(fmt.Sprintf("https://a%d.good.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5000 {
		if err := ask(fmt.Sprintf("https://a%d.evil.example", i)); !errors.Is(err, reason.Origin) {
			t.Fatal(err)
		}
	}
	before := calls.Load()
	for i := range 500 {
		if err := ask(fmt.Sprintf("https://a%d.good.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := calls.Load() - before; n != 0 {
		t.Errorf("asked about %d good origins again", n)
	}
}

// A slow OriginFunc is bounded by VerifyTimeout and by the places in flight.
func TestOriginFuncSlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		e := serveGuard(t, wsguard.Config{
			OriginFunc: func(context.Context, string, string) (bool, error) { <-release; return true, nil },
			Auth:       wsguard.AuthConfig{VerifyTimeout: 2 * time.Second}, Rates: wsguard.RateConfig{MaxInFlightPerClient: 2},
		})
		got := tries(e, 4, func(i int) http.Header { return header("Origin", fmt.Sprintf("https://a%d.example", i)) })
		if got["Service Unavailable: unavailable"] != 2 || got["Too Many Requests: in_flight"] != 2 {
			t.Errorf("%v", got)
		}
		close(release)
		synctest.Wait()
		bye(e.open(header("Origin", "https://b.example")))
	})
}

// A mark holds what it was made for: a request that a middleware makes inside with another
// Origin, Host or credential is judged anew.
func TestMarksHoldWhatTheyWereMadeFor(t *testing.T) {
	wstest.CheckGoroutines(t)
	cfg := wsguard.Config{Hosts: []string{"127.0.0.1"}, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}
	for name, tt := range map[string]struct {
		change func(*http.Request)
		status int
	}{
		"nothing":                 {func(*http.Request) {}, 101},
		"another origin":          {func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403},
		"another host":            {func(r *http.Request) { r.Host = "evil.example" }, 421},
		"another good credential": {func(r *http.Request) { r.Header.Set("Authorization", "Bearer bob") }, 101},
		"another credential":      {func(r *http.Request) { r.Header.Set("Authorization", "Bearer junk") }, 401},
		"two credentials":         {func(r *http.Request) { r.Header.Add("Authorization", "Bearer bob") }, 401},
		"no credential":           {func(r *http.Request) { r.Header.Del("Authorization") }, 101},
	} {
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
			inner := echoDoor(g)
			p := g.Pieces()
			return p.Host.Handler(p.Origin.Handler(p.Auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r = r.Clone(r.Context())
				tt.change(r)
				inner.ServeHTTP(w, r)
			}))))
		})
		c, res := e.try(bearer("alice"))
		if res.StatusCode != tt.status {
			t.Errorf("%s: %d, want %d; %s", name, res.StatusCode, tt.status, e.events)
		}
		if name == "another good credential" {
			for s := range e.g.Admin().Sessions() {
				if s.Subject != "bob" {
					t.Errorf("%s: the session is of %s", name, s.Subject)
				}
			}
		}
		c.Close()
	}
	// PrincipalOf says nobody for nobody.
	a, err := wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{InsecureAnonymous: true}})
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	a.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked = true
		if p, ok := wsguard.PrincipalOf(r); ok {
			t.Errorf("%+v", p)
		}
	})).ServeHTTP(discard{}, upgradeRequest())
	if !asked {
		t.Error("refused")
	}
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

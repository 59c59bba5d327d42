package wsguard_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// foreign is the origin of a page that no test lists.
const foreign = "https://evil.test"

var cookieSource = wsguard.TokenSources{Header: true, Cookie: "session"}

// A cookie counts only for a page of a listed origin, whichever piece looks at it,
// also where foreign origins are only reported.
func TestCookieCountsForListedPagesOnly(t *testing.T) {
	wstest.CheckGoroutines(t)
	type front func(*wsguard.Guard, *wsguard.Authenticator, *wsguard.RequestCheck) []func(http.Handler) http.Handler
	pieces := func(names ...string) front {
		return func(g *wsguard.Guard, alone *wsguard.Authenticator, _ *wsguard.RequestCheck) (all []func(http.Handler) http.Handler) {
			p := g.Pieces()
			if alone != nil {
				p.Auth = alone
			}
			for _, name := range names {
				all = append(all, map[string]func(http.Handler) http.Handler{"origin": p.Origin.Handler, "auth": p.Auth.Handler, "cap": p.Cap.Handler}[name])
			}
			return all
		}
	}
	for _, tt := range []struct {
		name   string
		front  front
		alone  bool     // the Authenticator is of NewAuthenticator
		lists  []string // what a NewOriginCheck lists that stands in front
		cookie int      // the status of a listed page's cookie
	}{
		{name: "the guard alone", front: pieces(), cookie: 101},
		{name: "behind the origin check", front: pieces("origin", "auth"), cookie: 101},
		{name: "behind the origin check, twice", front: pieces("origin", "auth", "origin", "auth"), cookie: 101},
		{name: "before the origin check", front: pieces("auth", "origin"), cookie: 101},
		{name: "without the origin check", front: pieces("auth", "cap"), cookie: 101},
		{name: "an Authenticator that stands alone, in the guard", front: pieces(), alone: true, cookie: 101},
		{name: "an Authenticator that stands alone, behind the origin check", front: pieces("origin", "auth"), alone: true, cookie: 101},
		// Nobody has looked at the Origin: it fails closed.
		{name: "an Authenticator that stands alone, before the origin check", front: pieces("auth", "origin"), alone: true, cookie: 401},
		{name: "an Authenticator that stands alone, in front", front: pieces("auth"), alone: true, cookie: 401},
		{name: "an Authenticator that stands alone, behind an origin check of its own", front: func(g *wsguard.Guard, a *wsguard.Authenticator, c *wsguard.RequestCheck) []func(http.Handler) http.Handler {
			return []func(http.Handler) http.Handler{c.Handler, a.Handler}
		}, alone: true, lists: []string{appOrigin}, cookie: 101},
		{name: "an Authenticator that stands alone, behind an origin check that lists more", front: func(g *wsguard.Guard, a *wsguard.Authenticator, c *wsguard.RequestCheck) []func(http.Handler) http.Handler {
			return []func(http.Handler) http.Handler{c.Handler, a.Handler}
		}, alone: true, lists: []string{appOrigin, foreign, "null"}, cookie: 101},
		{name: "an Authenticator that stands alone, behind both", front: func(g *wsguard.Guard, a *wsguard.Authenticator, c *wsguard.RequestCheck) []func(http.Handler) http.Handler {
			return []func(http.Handler) http.Handler{c.Handler, g.Pieces().Origin.Handler, a.Handler}
		}, alone: true, lists: []string{appOrigin, foreign}, cookie: 101},
	} {
		for _, reportOnly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, report only %t", tt.name, reportOnly), func(t *testing.T) {
				t.Parallel()
				v := newTokens()
				auth := wsguard.AuthConfig{Verifier: v.Verify, Sources: cookieSource, Failures: wsguard.Rate{PerSecond: never, Burst: 1}}
				if tt.lists != nil {
					auth.Failures.PerSecond = wsguard.Off // who is listed there is asked about
				}
				cfg := wsguard.Config{InsecureReportOnlyOrigins: reportOnly, Auth: auth}
				var alone *wsguard.Authenticator
				if tt.alone {
					alone = must(wsguard.NewAuthenticator(wsguard.Config{Auth: auth}))
				}
				var check *wsguard.RequestCheck
				if tt.lists != nil {
					check = must(wsguard.NewOriginCheck(wsguard.Config{Origins: tt.lists, InsecureReportOnlyOrigins: reportOnly}))
				}
				e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
					return chain(g.Handler(echo), tt.front(g, alone, check)...)
				})
				status := func(h http.Header) int {
					c, res := e.try(h)
					c.Close()
					e.idle()
					return res.StatusCode
				}
				want(t, "a listed page's cookie", status(header("Cookie", "session=alice")), tt.cookie)
				asked := v.calls.Load()
				// A visitor's cookie, good or stale, never gets to the verifier.
				for _, cookie := range []string{"session=alice", "session=stale", "session=stale", "session=stale"} {
					for _, origin := range []string{foreign, "null", ""} {
						if got := status(header("Origin", origin, "Cookie", cookie)); got != 401 && (got != 403 || reportOnly) {
							t.Errorf("%s of the origin %q: status %d", cookie, origin, got)
						}
					}
				}
				if n := v.calls.Load() - asked; n != 0 && check == nil {
					t.Errorf("the verifier was asked %d times", n)
				}
				if reportOnly { // what a page has to know itself does count
					want(t, "a foreign page's bearer", status(header("Origin", foreign, "Authorization", "Bearer alice")), 101)
				}
				if n := e.g.Conns(); n != 0 {
					t.Errorf("%d slots", n)
				}
			})
		}
	}
}

func TestCookieAuthenticate(t *testing.T) {
	v := newTokens()
	cfg := wsguard.AuthConfig{Verifier: v.Verify, Sources: cookieSource}
	request := func(origin string) *http.Request {
		r := withHeader(upgradeRequest(), "Cookie", "session=alice")
		r.Header.Set("Origin", origin)
		return r
	}
	alone := must(wsguard.NewAuthenticator(wsguard.Config{Auth: cfg}))
	if _, err := alone.Authenticate(request(appOrigin)); !errors.Is(err, wsguard.ErrUnauthenticated) {
		t.Errorf("no origin check in front: %v", err)
	}
	for name, check := range map[string]wsguard.Config{
		"checks":  {Origins: []string{appOrigin, "null"}},
		"reports": {Origins: []string{appOrigin, "null"}, InsecureReportOnlyOrigins: true},
	} {
		for origin, good := range map[string]bool{appOrigin: true, "null": false, foreign: false} {
			called := false
			must(wsguard.NewOriginCheck(check)).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				called = true
				p, err := alone.Authenticate(r)
				if (err == nil) != good || good && p.Subject != "alice" {
					t.Errorf("%s, origin %s: %v, %v", name, origin, p, err)
				}
				// What is made of the request inside does not profit.
				inside := r.Clone(r.Context())
				inside.Header.Set("Origin", foreign)
				if _, err := alone.Authenticate(inside); err == nil {
					t.Errorf("%s, origin %s, then a foreign one: good", name, origin)
				}
			})).ServeHTTP(httptest.NewRecorder(), request(origin))
			if !called && (good || name == "reports") {
				t.Errorf("%s refuses %s", name, origin)
			}
		}
	}
	g := must(wsguard.New(wsguard.Config{Origins: []string{appOrigin}, InsecureReportOnlyOrigins: true, Auth: cfg}))
	for origin, good := range map[string]bool{appOrigin: true, "null": false, foreign: false} {
		if _, err := g.Pieces().Auth.Authenticate(request(origin)); (err == nil) != good {
			t.Errorf("of a Guard, origin %s: %v", origin, err)
		}
	}
}

// A login of the application's may go by a cookie: it counts where a cookie does.
func TestTicketLoginCountsForListedPagesOnly(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, reportOnly := range []bool{false, true} {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("report only %t, login %t", reportOnly, own), func(t *testing.T) {
				t.Parallel()
				var asked atomic.Int64
				login := func(r *http.Request) (wsguard.Principal, error) {
					asked.Add(1)
					return wsguard.Principal{Subject: "alice"}, nil // of a middleware in front, say
				}
				if !own {
					login = nil
				}
				e := ticketGuard(t, wsguard.Config{Origins: []string{appOrigin, "null"}, InsecureReportOnlyOrigins: reportOnly})
				mux := http.NewServeMux()
				mux.Handle("/ticket", e.g.TicketHandler(login))
				e.serve(mux)
				refused, ofNull, listed := 403, 401, 200
				if reportOnly {
					refused = 401
				}
				if !own { // a bearer is no cookie
					ofNull = 200
					if reportOnly {
						refused = 200
					}
				}
				for _, tt := range []struct {
					name string
					kv   []string
					want int
				}{
					{"listed", []string{"Cookie", "session=alice"}, listed},
					{"listed, fetch", []string{"Cookie", "session=alice", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin"}, listed},
					{"listed, no cookie", nil, listed},
					{"program", []string{"Origin", ""}, listed},
					{"foreign, cookie", []string{"Origin", foreign, "Cookie", "session=alice"}, refused},
					{"foreign", []string{"Origin", foreign}, refused},
					{"foreign, listed in another case", []string{"Origin", "NULL", "Cookie", "session=alice"}, refused},
					{"two origins", []string{"Origin", appOrigin, "Origin", foreign, "Cookie", "session=alice"}, refused},
					{"no origin, cookie", []string{"Origin", "", "Cookie", "session=alice"}, refused},
					{"null, cookie", []string{"Origin", "null", "Cookie", "session=alice"}, ofNull},
					{"null", []string{"Origin", "null"}, ofNull},
				} {
					before := asked.Load()
					res := e.request("POST", "/ticket", header(append(tt.kv, "Authorization", "Bearer alice")...))
					want(t, tt.name, res.StatusCode, tt.want)
					if n := asked.Load() - before; own && (n == 1) != (tt.want == 200) {
						t.Errorf("%s: the login was asked %d times", tt.name, n)
					}
				}
			})
		}
	}
}

// null is the origin of every sandboxed frame: not beside a cookie.
func TestCookieNullOrigin(t *testing.T) {
	null := []string{appOrigin, "null"}
	cookie := wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: cookieSource}
	anonymous := wsguard.AuthConfig{InsecureAnonymous: true}
	for name, tt := range map[string]struct {
		cfg   wsguard.Config
		field string
	}{
		"both in the Config": {wsguard.Config{Origins: null, Auth: cookie}, "Origins"},
		"report only":        {wsguard.Config{Origins: null, Auth: cookie, InsecureReportOnlyOrigins: true}, "Origins"},
		"no null":            {wsguard.Config{Origins: null[:1], Auth: cookie}, ""},
		"no cookie":          {wsguard.Config{Origins: null, Auth: anonymous}, ""},
		"no cookie, tickets": {wsguard.Config{Origins: null, Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := wsguard.New(tt.cfg)
			if tt.field == "" {
				if err != nil {
					t.Error(err)
				}
			} else if fields := faultsOf(t, err); !slices.Equal(fields, []string{tt.field}) || g != nil {
				t.Errorf("%v", fields)
			}
		})
	}
	g := must(wsguard.New(wsguard.Config{Origins: null[:1], Auth: cookie}))
	if fields := faultsOf(t, g.Reconfigure(wsguard.Config{Origins: null, Auth: cookie})); !slices.Equal(fields, []string{"Origins"}) {
		t.Errorf("Reconfigure: %v", fields)
	}
}

// The prefix __Host- belongs to the name of the cookie.
func TestCookieHostPrefix(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Cookie: "__Host-session"}}})
	set := (&http.Cookie{Name: "__Host-session", Value: "alice", Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}).String()
	own, _, _ := strings.Cut(set, ";")
	e.open(header("Cookie", own)).Close()
	e.open(header("Cookie", "session=mallory; "+own)).Close()
	e.refused(header("Cookie", "session=alice"), 401, "unauthenticated")
	e.refused(header("Cookie", "__host-session=mallory; "+own), 401, "unauthenticated")
}

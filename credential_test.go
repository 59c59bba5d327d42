package wsguard_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// many is n cookies, or parameters, that are none of ours.
func many(n int, between string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "c%d=%s", i, between)
	}
	return b.String()
}

// A credential counts as presented also where net/http's parsers skip it: a second
// one is a 401, and one that cannot be read is a 401 and not nobody.
func TestCredentialsAreCountedRaw(t *testing.T) {
	wstest.CheckGoroutines(t)
	const cookie, query, auth, proto = "Cookie", "?", "Authorization", "Sec-WebSocket-Protocol"
	for _, tt := range []struct {
		in, value string
	}{
		// The second is skipped by a parser.
		{cookie, `session=alice; session=a"b`},
		{cookie, `session=a"b; session=alice`},
		{cookie, `session=alice; session=a\b`},
		{cookie, `session=alice; session="bob`},
		{cookie, "session=alice; session=b\xc3\xb6b"},
		{cookie, `session=alice; session`},
		{cookie, `session=alice; session=`},
		{cookie, `session=alice;session =bob`},
		{cookie, "session=alice; \tsession\t= bob"},
		{cookie, `session=alice; Session=bob`},
		{cookie, `session=alice; SESSION=bob`},
		{cookie, `session=alice; sess%69on=bob`},
		{cookie, `session=alice; session[]=bob`},
		{cookie, `a="b; session=bob"; session=alice`},
		{cookie, `a=b, session=bob; session=alice`},
		{cookie, `a=b,session =bob; session=alice`},
		{cookie, `a=b session=bob; session=alice`},
		{cookie, `session=alice, session=bob`},
		{cookie, `session=alice; ` + many(3000, "; ") + `session=bob`},
		{cookie, many(3000, "; ") + `session=alice; session=bob`},
		{query, `token=alice&token=%zz`},
		{query, `token=%zz&token=alice`},
		{query, `token=alice&token=%`},
		{query, `token=alice&token=%4`},
		{query, `token=alice&tok%65n=%zz`},
		{query, `token=alice&token`},
		{query, `token=alice&token=`},
		{query, `token=alice&a=b;token=bob`},
		{query, `token=alice&token=bob;x=1`},
		{query, `token=alice&;token=bob`},
		{query, `token=alice&+token=bob`},
		{query, `token=alice&token+=bob`},
		{query, `token=alice&%20token=bob`},
		{query, `token=alice&%09token=bob`},
		{query, `token=alice&Token=bob`},
		{query, `token=alice&TOKEN=%zz`},
		{query, `token=alice&to%4Ben=bob`},
		{query, `token=alice&token[]=bob`},
		{query, `token=alice&token%5B0%5D=bob`},
		{query, `ticket=AAAAAAAAAAAAAAAAAAAAAA&ticket=%zz`},
		{query, `token=alice&ticket=%zz`},
		{query, `token=alice&` + many(11000, "&") + `token=bob`},
		{auth, `Bearer alice, Bearer bob`},
		{auth, `Bearer alice,bearer bob`},
		{auth, "Bearer alice, Bearer\tbob"},
		{auth, `Bearer alice, Bearer`},
		{proto, `chat, bearer.alice, Bearer.bob`},
		{proto, `chat, bearer.alice, BEARER.`},
		{proto, `bearer.alice, Bearer.bob`},
		{proto, `chat,, bearer.alice,,bearer.alice`},
		// The only one cannot be read.
		{cookie, `session=a"b`},
		{cookie, `session=a\b`},
		{cookie, `session="alice`},
		{cookie, `session =a"b`},
		{cookie, `sess%69on=alice`},
		{cookie, `session`},
		{cookie, `session=`},
		{cookie, many(3000, "; ") + `session=alice`},
		{cookie, `session=alice; ` + many(3000, "; ")},
		{query, `token=%zz`},
		{query, `token=a%`},
		{query, `token=alice;x=1`},
		{query, `x=1;token=alice`},
		{query, `token=alice;`},
		{query, `+token=alice`},
		{query, `token`},
		{query, `ticket=%zz`},
		{query, `a=1&ticket=AAAAAAAAAAAAAAAAAAAAAA;b`},
		{query, many(11000, "&") + `token=alice`},
		{auth, "Bearer\talice"},
		{auth, "bearer\t alice"},
		{auth, `Bearer:alice`},
		{auth, `Bearer="alice"`},
		{auth, `Bearer`},
		{auth, `BEARER`},
		{auth, `Basic eDp5, Bearer alice`},
		{auth, `Digest a="b", bearer alice`},
		{proto, `chat, bearer.`},
		{proto, `bearer.alice`},
		{proto, `,bearer.alice,`},
	} {
		value := tt.value
		if len(value) > 60 {
			value = value[:30] + "…" + value[len(value)-20:]
		}
		t.Run(tt.in+" "+value, func(t *testing.T) {
			t.Parallel()
			for _, anybody := range []string{"nobody", "anonymous", "first message"} {
				v := newTokens()
				cfg := wsguard.Config{
					Auth: wsguard.AuthConfig{
						Verifier: v.Verify, Tickets: &wsguard.TicketConfig{}, InsecureAnonymous: anybody == "anonymous",
						Sources: wsguard.TokenSources{Header: true, Subprotocol: "bearer.", Cookie: "session", InsecureQuery: "token", FirstMessage: anybody == "first message"},
					},
					Subprotocols: []string{"chat"},
				}
				e := serveGuard(t, cfg)
				o := wstest.HandshakeOptions{Path: "/ws", Header: header()}
				if tt.in == query {
					o.Path += "?" + tt.value
				} else {
					o.Header.Set(tt.in, tt.value)
				}
				e.refusedWith(o, 401, "unauthenticated")
				if n := v.calls.Load(); n != 0 {
					t.Errorf("%s: the verifier was asked %d times", anybody, n)
				}
			}
		})
	}
}

// What only looks like a credential is none, and stays the application's.
func TestNoCredentials(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, tt := range []struct{ name, path, cookie, auth, proto, subject string }{
		{name: "nothing"},
		{name: "other names", path: "?tokens=1&xtoken=2&token.x=3&a=token&[token]=4&[]=5", cookie: `sessions=1; xsession=2; a=session; session.x=3`},
		{name: "another case", path: "?Token=1&TOKEN=%zz", cookie: `Session=a"b; SESSION=x`, auth: "bearers x", proto: "chat, Bearer.x"},
		{name: "bad escapes of others", path: "?%zz=1&a=%&b=1;c=2&;;&=&", cookie: `a="b; c"; =; ;;; "=`},
		{name: "another scheme", auth: `Digest username="bearer", bearerx="y"`},
		{name: "many", path: "?" + many(11000, "&"), cookie: many(3500, ";")},
		{name: "a token among all that", path: "?%zz=1&a=%&b=1;c=2&token=alice&token2=bob&atoken[]=2", cookie: `a="b; c"; sessions=x; b=x session`, subject: "alice"},
		{name: "a token that is escaped", path: "?tok%65n=%61lice", subject: "alice"},
		{name: "a cookie among all that", cookie: `a="b; c"; =;; sessions=1;session=alice`, subject: "alice"},
		{name: "a quoted cookie", cookie: `session="alice"`, subject: "alice"},
		{name: "blanks around a cookie", cookie: "a=b;\t session =alice ;", subject: "alice"},
		{name: "blanks before a bearer", auth: "bEARER   alice", subject: "alice"},
		{name: "empty elements", proto: ",, chat,\t,bearer.alice,", subject: "alice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Value
			e := serveGuard(t, wsguard.Config{
				Auth: wsguard.AuthConfig{
					Verifier: newTokens().Verify, InsecureAnonymous: true, Tickets: &wsguard.TicketConfig{},
					Sources: wsguard.TokenSources{Header: true, Subprotocol: "bearer.", Cookie: "session", InsecureQuery: "token"},
				},
				Subprotocols: []string{"chat"},
				Attach: func(r *http.Request, p wsguard.Principal) (any, error) {
					seen.Store(r.URL.RawQuery)
					return nil, nil
				},
			})
			o := wstest.HandshakeOptions{Path: "/ws" + tt.path, Header: header()}
			for name, value := range map[string]string{"Cookie": tt.cookie, "Authorization": tt.auth, "Sec-WebSocket-Protocol": tt.proto} {
				if value != "" {
					o.Header.Set(name, value)
				}
			}
			c, res := e.tryWith(o)
			if res.StatusCode != 101 {
				t.Fatalf("status %d; events:\n%s", res.StatusCode, e.events)
			}
			if got := e.events.wait(t, audit.Open, 1).Subject; got != tt.subject {
				t.Errorf("subject %q, want %q", got, tt.subject)
			}
			if got := seen.Load().(string); tt.subject == "" && got != strings.TrimPrefix(tt.path, "?") {
				t.Errorf("Attach sees the query %q", got)
			}
			bye(c)
		})
	}
}

// What cannot be read is cut all the same, where it is only reported.
func TestUnreadableCredentialsAreCut(t *testing.T) {
	const secret = "5ecr3t"
	a := must(wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{
		Verifier: newTokens().Verify, InsecureReportOnly: true,
		Sources: wsguard.TokenSources{InsecureQuery: "token", Subprotocol: "bearer."},
	}}))
	for _, tt := range []struct{ query, kept string }{
		{"token=" + secret + "%zz", ""},
		{"a=1&token=%zz" + secret + "&b=%32", "a=1&b=%32"},
		{"tok%65n=" + secret + "%&x", "x"},
		{"token=alice&token=%zz" + secret, ""},
		{"token=" + secret + ";x=1&y=2", "y=2"},
		{"x=1;token=" + secret + "&y=2", "y=2"},
		{"token=" + secret + ";" + secret + "&y=2", "y=2"},
		{"a=%zz&+token=" + secret + "&b", "a=%zz&b"},
		{"token=alice&Token=" + secret + "&tokens=1", "tokens=1"},
		{"token=alice&token[]=" + secret + "&token[a]=" + secret, ""},
		{"Token=5&a=%zz", "Token=5&a=%zz"}, // the application's
		{"a=1;b=2&&c", "a=1;b=2&&c"},
	} {
		t.Run(tt.query, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/ws", nil)
			r.URL = &url.URL{Path: "/ws", RawQuery: tt.query}
			r.RequestURI = "/ws?" + tt.query
			called := false
			a.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				called = true
				if s := fmt.Sprintf("%+v %v", r, r.URL); strings.Contains(s, secret) {
					t.Errorf("the next handler sees %s", s)
				}
				uri := "/ws"
				if tt.kept != "" {
					uri += "?" + tt.kept
				}
				if r.URL.RawQuery != tt.kept || r.RequestURI != uri {
					t.Errorf("query %q, URI %q; want %q", r.URL.RawQuery, r.RequestURI, tt.kept)
				}
			})).ServeHTTP(httptest.NewRecorder(), r)
			if !called {
				t.Error("refused")
			}
		})
	}
	r := withHeader(httptest.NewRequest("GET", "/ws", nil), "Sec-WebSocket-Protocol", "chat, bearer.alice, Bearer."+secret)
	a.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Sec-WebSocket-Protocol"); got != "chat" {
			t.Errorf("the next handler sees the offer %q", got)
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
}

// Whatever the bytes: no fewer credentials are counted than net/http's parsers see,
// what the Verifier is asked about is what they see, and who presented one is not
// nobody.
func TestCredentialsAgainstNetHTTP(t *testing.T) {
	t.Parallel()
	var asked []string
	g := must(wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{
		InsecureAnonymous: true, Failures: wsguard.Rate{PerSecond: wsguard.Off},
		Sources: wsguard.TokenSources{Cookie: "se", InsecureQuery: "to"},
		Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
			asked = append(asked, token)
			return wsguard.Principal{Subject: "alice"}, nil
		},
	}}))
	auth := g.Pieces().Auth
	rnd := rand.New(rand.NewPCG(1, 2))
	text := func(words ...string) string {
		var b strings.Builder
		for range rnd.IntN(9) {
			b.WriteString(words[rnd.IntN(len(words))])
		}
		return b.String()
	}
	for range 30_000 {
		query := text("to", "to=", "=", "&", "&", ";", "a", "%", "%74o", "+", "[]", "TO=", "%zz", "&to=a")
		cookie := text("se", "se=", "=", ";", "; ", ",", "a", `"`, "\\", " ", "\t", "%73e", "SE=", ";se=a")
		r := upgradeRequest()
		r.Header = http.Header{"Origin": {appOrigin}, "Cookie": {cookie}}
		r.URL.RawQuery = query
		asked = nil
		p, err := auth.Authenticate(r)
		seen := r.URL.Query()["to"]
		for _, c := range r.CookiesNamed("se") {
			seen = append(seen, c.Value)
		}
		raw := 0
		for _, part := range strings.FieldsFunc(query, func(c rune) bool { return c == '&' || c == ';' }) {
			name, _, _ := strings.Cut(part, "=")
			if name, err := url.QueryUnescape(name); err == nil && name == "to" {
				raw++
			}
		}
		for _, part := range strings.Split(cookie, ";") {
			if name, _, _ := strings.Cut(part, "="); strings.Trim(name, " \t") == "se" {
				raw++
			}
		}
		switch {
		case err == nil && p.Subject == "" && (raw > 0 || len(seen) > 0):
			t.Fatalf("query %q, cookie %q: nobody, of %d credentials", query, cookie, raw)
		case err == nil && p.Subject != "" && (raw != 1 || !slices.Equal(asked, seen)):
			t.Fatalf("query %q, cookie %q: asked about %q, net/http sees %q", query, cookie, asked, seen)
		case err != nil && len(asked) > 0:
			t.Fatalf("query %q, cookie %q: asked about %q, and refused", query, cookie, asked)
		}
	}
}

package wsguard_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

func TestOriginWire(t *testing.T) {
	wstest.CheckGoroutines(t)
	type try struct {
		name   string
		header http.Header
		host   string
		status int
		reason string
	}
	origin := func(name, origin string, status int) try {
		reason := ""
		if status == 403 {
			reason = "origin"
		}
		return try{name: name, header: header("Origin", origin), status: status, reason: reason}
	}
	for _, group := range []struct {
		name  string
		cfg   wsguard.Config
		tries []try
	}{
		{"exact", wsguard.Config{Origins: []string{appOrigin}}, []try{
			origin("T01 listed", appOrigin, 101),
			origin("T01 foreign", "https://evil.test", 403),
			{"T01 foreign, Host alike", header("Origin", "https://evil.test"), "evil.test", 403, "origin"},
			origin("T02 other port", appOrigin+":444", 403),
			origin("T02 longer", appOrigin+".evil.test", 403),
			origin("T02 user info", "https://app.example.com@evil.test", 403),
			origin("T04 http", "http://app.example.com", 403),
			origin("T04 ftp", "ftp://app.example.com", 403),
			origin("T04 wss", "wss://app.example.com", 403),
			origin("T04 no scheme", "//app.example.com", 403),
			origin("T04 host only", "app.example.com", 403),
			origin("T05 default port", appOrigin+":443", 101),
			origin("T05 case and port", "HTTPS://APP.EXAMPLE.COM:443", 101),
			origin("T05 trailing dot", appOrigin+".", 403),
			origin("T05 raw UTF-8", "https://äpp.example.com", 403),
			origin("T06 path", appOrigin+"/", 403),
			origin("T06 query", appOrigin+"?", 403),
			origin("T06 fragment", appOrigin+"#x", 403),
			origin("T06 password", "https://u:p@app.example.com", 403),
			origin("T06 comma", appOrigin+", https://evil.test", 403),
			origin("T06 comma, reversed", "https://evil.test, "+appOrigin, 403),
			origin("T06 space", appOrigin+" https://evil.test", 403),
			origin("T06 backslash", appOrigin+`\@evil.test`, 403),
			origin("T06 over-long", "https://"+strings.Repeat("a.", 2000)+"example.com", 403),
			origin("T06 port 0443", appOrigin+":0443", 403),
			origin("T06 empty port", appOrigin+":", 403),
			{"T06 two, good first", header("Origin", appOrigin, "Origin", "https://evil.test"), "", 403, "origin"},
			{"T06 two, good last", header("Origin", "https://evil.test", "Origin", appOrigin), "", 403, "origin"},
			{"T06 twice the same", header("Origin", appOrigin, "Origin", appOrigin), "", 403, "origin"},
			origin("T07 null", "null", 403),
			origin("T07 NULL", "NULL", 403),
			origin("T08 missing", "", 403),
			{"T08 empty", http.Header{"Origin": {""}}, "", 403, "origin"},
			{"T08 missing, with a cookie", header("Origin", "", "Cookie", "session=x"), "", 403, "origin"},
			{"T12 mode websocket", header("Sec-Fetch-Mode", "websocket"), "", 101, ""},
			{"T12 mode navigate", header("Sec-Fetch-Mode", "navigate"), "", 403, "fetch_metadata"},
			{"T12 mode cors", header("Sec-Fetch-Mode", "cors"), "", 403, "fetch_metadata"},
			{"T12 mode empty", http.Header{"Origin": {appOrigin}, "Sec-Fetch-Mode": {""}}, "", 403, "fetch_metadata"},
			{"T12 two modes", header("Sec-Fetch-Mode", "websocket", "Sec-Fetch-Mode", "navigate"), "", 403, "fetch_metadata"},
			{"T12 cross-site, listed", header("Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "websocket"), "", 101, ""},
			{"T12 same-origin, foreign", header("Origin", "https://evil.test", "Sec-Fetch-Site", "same-origin"), "", 403, "origin"},
		}},
		{"wildcard", wsguard.Config{Origins: []string{"https://*.example.com", "https://dash.corp"}}, []try{
			origin("T02 suffix", "https://dash.corp.evil.test", 403),
			origin("T02 prefix", "https://evildash.corp", 403),
			origin("T02 port", "https://dash.corp:444", 403),
			origin("T02 listed", "https://dash.corp", 101),
			origin("T03 one label", "https://a.example.com", 101),
			origin("T03 two labels", "https://a.b.example.com", 403),
			origin("T03 no label", "https://.example.com", 403),
			origin("T03 apex", "https://example.com", 403),
			origin("T03 prefix", "https://evilexample.com", 403),
			origin("T03 star itself", "https://*.example.com", 403),
			origin("T03 port", "https://a.example.com:8443", 403),
			origin("T03 scheme", "http://a.example.com", 403),
		}},
		{"loopback and null", wsguard.Config{Origins: []string{"http://127.0.0.1:3000", "http://[::1]:3000", "http://localhost", "null"}}, []try{
			origin("T07 null listed", "null", 101),
			origin("T07 Null", "Null", 403),
			origin("T10 itself", "http://127.0.0.1:3000", 101),
			origin("T10 IPv6", "http://[::1]:3000", 101),
			origin("T10 look-alike", "http://127.0.0.1.evil.test", 403),
			origin("T10 look-alike with port", "http://127.0.0.1.evil.test:3000", 403),
			origin("T10 other loopback", "http://127.0.0.2:3000", 403),
			origin("T10 short form", "http://127.1:3000", 403),
			origin("T10 decimal", "http://2130706433:3000", 403),
			origin("T10 hex", "http://0x7f000001:3000", 403),
			origin("T10 octal", "http://0177.0.0.1:3000", 403),
			origin("T10 IPv6, long form", "http://[0:0:0:0:0:0:0:1]:3000", 403),
			origin("T10 IPv4-mapped", "http://[::ffff:127.0.0.1]:3000", 403),
			origin("T10 localhost look-alike", "http://localhost.evil.test", 403),
		}},
		{"missing allowed", wsguard.Config{Origins: []string{appOrigin}, AllowMissingOrigin: true, Hosts: []string{"app.example.com", "*.api.example.com", "127.0.0.1:8443"}}, []try{
			{"T08 missing", header("Origin", ""), "app.example.com", 101, ""},
			{"T08 empty", http.Header{"Origin": {""}}, "app.example.com", 101, ""},
			{"T08 missing, with a cookie", header("Origin", "", "Cookie", "session=x"), "app.example.com", 403, "origin"},
			{"T08 missing, with an empty cookie", http.Header{"Cookie": {""}}, "app.example.com", 403, "origin"},
			{"T08 foreign", header("Origin", "https://evil.test"), "app.example.com", 403, "origin"},
			{"T08 null", header("Origin", "null"), "app.example.com", 403, "origin"},
			{"T09 rebinding", header("Origin", "http://evil.test"), "evil.test", 421, "host"},
			{"T09 rebinding, no origin", header("Origin", ""), "evil.test", 421, "host"},
			{"T09 any port", header("Origin", ""), "app.example.com:9999", 101, ""},
			{"T09 case", header("Origin", ""), "APP.Example.COM", 101, ""},
			{"T09 suffix", header("Origin", ""), "app.example.com.evil.test", 421, "host"},
			{"T09 trailing dot", header("Origin", ""), "app.example.com.", 421, "host"},
			{"T09 one label", header("Origin", ""), "a.api.example.com", 101, ""},
			{"T09 two labels", header("Origin", ""), "a.b.api.example.com", 421, "host"},
			{"T09 port of an entry", header("Origin", ""), "127.0.0.1:8443", 101, ""},
			{"T09 another port", header("Origin", ""), "127.0.0.1:8444", 421, "host"},
			{"T09 X-Forwarded-Host is no Host", header("Origin", "", "X-Real-Host", "app.example.com"), "evil.test", 421, "host"},
			{"T12 cross-site, no origin", header("Origin", "", "Sec-Fetch-Site", "cross-site"), "app.example.com", 403, "fetch_metadata"},
			{"T12 cross-site twice, no origin", header("Origin", "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Site", "cross-site"), "app.example.com", 403, "fetch_metadata"},
			{"T12 navigate, no origin", header("Origin", "", "Sec-Fetch-Mode", "navigate"), "app.example.com", 403, "fetch_metadata"},
		}},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			v := newTokens()
			var attached, handled atomic.Int64
			group.cfg.Auth.Verifier = v.Verify
			group.cfg.Auth.InsecureAnonymous = true
			group.cfg.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: len(group.tries)}
			group.cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { attached.Add(1); return nil, nil }
			e := serveWith(t, group.cfg, func(g *wsguard.Guard) http.Handler {
				return g.Handler(func(ctx context.Context, c *wsguard.Conn) error { handled.Add(1); return echo(ctx, c) })
			})
			for _, try := range group.tries {
				t.Run(try.name, func(t *testing.T) {
					e := e.in(t)
					calls, at, ha := v.calls.Load(), attached.Load(), handled.Load()
					try.header["Authorization"] = []string{"Bearer alice"}
					o := wstest.HandshakeOptions{Header: try.header, Host: try.host}
					if try.status == 101 {
						c, res := e.tryWith(o)
						if res.StatusCode != 101 {
							t.Fatalf("status %d, want 101; events:\n%s", res.StatusCode, e.events)
						}
						roundTrip(t, c, "hello")
						bye(c)
						return
					}
					e.refusedWith(o, try.status, try.reason)
					if v.calls.Load() != calls || attached.Load() != at || handled.Load() != ha {
						t.Error("the verifier, Attach or the handler was called")
					}
				})
			}
		})
	}
}

// Nothing is charged to the handshake rate of a client for foreign origins:
// any page that its user visits could use it up.
func TestOriginForeignIsNotCharged(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{
		Hosts: []string{"127.0.0.1"},
		Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 1}},
	})
	for range 30 {
		e.refused(header("Origin", "https://evil.test"), 403, "origin")
		e.refused(header("Sec-Fetch-Mode", "navigate"), 403, "fetch_metadata")
		e.refusedWith(wstest.HandshakeOptions{Host: "evil.test", Header: header()}, 421, "host")
		e.refused(header("Upgrade", ""), 426, "not_upgrade")
	}
	e.open(header())
	e.refused(header(), 429, "handshake_rate")
}

// T11: the standard library's protection passes every GET.
func TestOriginT11BehindCrossOriginProtection(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler {
		return http.NewCrossOriginProtection().Handler(echoDoor(g))
	})
	e.refused(header("Origin", "https://evil.test", "Sec-Fetch-Site", "cross-site"), 403, "origin")
	roundTrip(t, e.open(header()), "hello")
}

// T15: what only reports logs, and lets pass.
func TestOriginT15ReportOnly(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{InsecureReportOnlyOrigins: true})
	roundTrip(t, e.open(header("Origin", "https://evil.test")), "hello")
	ev := e.events.wait(t, audit.Violation, 1)
	if !ev.Report || ev.Reason != "origin" || ev.Origin != "https://evil.test" {
		t.Errorf("event %+v", ev)
	}
	if n := len(e.events.of(audit.Refusal)); n != 0 {
		t.Errorf("%d refusals", n)
	}
	if n := len(e.log.Find("websocket violation")); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

// T23: clear text.
func TestOriginT23ClearText(t *testing.T) {
	wstest.CheckGoroutines(t)
	proxied := wsguard.Proxies{Trusted: []string{"127.0.0.1"}}
	rfc7239 := wsguard.Proxies{Trusted: []string{"127.0.0.1", "10.0.0.0/8"}, Header: "Forwarded"}
	single := wsguard.Proxies{Trusted: []string{"127.0.0.1"}, Header: "X-Real-IP"}
	other := wsguard.Proxies{Trusted: []string{"192.0.2.0/24"}}
	for _, tt := range []struct {
		name    string
		proxies wsguard.Proxies
		allow   bool
		header  http.Header
		status  int
	}{
		{"T23 loopback", wsguard.Proxies{}, false, header(), 101},
		{"T23 loopback, Forwarded", wsguard.Proxies{}, false, header("Forwarded", "proto=https"), 403},
		{"T23 loopback, X-Forwarded-For", wsguard.Proxies{}, false, header("X-Forwarded-For", "127.0.0.1"), 403},
		{"T23 loopback, X-Forwarded-Proto https, spoofed", wsguard.Proxies{}, false, header("X-Forwarded-Proto", "https"), 403},
		{"T23 loopback, X-Forwarded-Host", wsguard.Proxies{}, false, header("X-Forwarded-Host", "a"), 403},
		{"T23 loopback, X-Real-IP", wsguard.Proxies{}, false, header("X-Real-IP", "127.0.0.1"), 403},
		{"T23 loopback, Via", wsguard.Proxies{}, false, header("Via", "1.1 x"), 403},
		{"T23 proxy elsewhere, spoofed", other, false, header("X-Forwarded-Proto", "https"), 403},
		{"T23 proxy elsewhere, loopback", other, false, header(), 403},
		{"T23 proxy says https", proxied, false, header("X-Forwarded-Proto", "https"), 101},
		{"T23 proxy says http", proxied, false, header("X-Forwarded-Proto", "http"), 403},
		{"T23 proxy says HTTPS", proxied, false, header("X-Forwarded-Proto", "HTTPS"), 101},
		{"T23 proxy says wss", proxied, false, header("X-Forwarded-Proto", "wss"), 101},
		{"T23 proxy says WsS", proxied, false, header("X-Forwarded-Proto", "WsS"), 101},
		{"T23 proxy says ws", proxied, false, header("X-Forwarded-Proto", "ws"), 403},
		{"T23 proxy says something longer", proxied, false, header("X-Forwarded-Proto", "httpss"), 403},
		{"T23 proxy says a letter that folds to s", proxied, false, header("X-Forwarded-Proto", "http\u017f"), 403},
		{"T23 proxy says nothing", proxied, false, header(), 403},
		{"T23 proxy says an empty value", proxied, false, http.Header{"Origin": {appOrigin}, "X-Forwarded-Proto": {""}}, 403},
		{"T23 proxy says blanks", proxied, false, header("X-Forwarded-Proto", " \t "), 403},
		{"T23 proxy says both", proxied, false, header("X-Forwarded-Proto", "https,http"), 403},
		{"T23 proxy says both, the other way round", proxied, false, header("X-Forwarded-Proto", "http, https"), 403},
		{"T23 proxy says both in other case", proxied, false, header("X-Forwarded-Proto", "HTTPS,http"), 403},
		{"T23 proxy says both in lines", proxied, false, header("X-Forwarded-Proto", "https", "X-Forwarded-Proto", "http"), 403},
		{"T23 proxy says it twice", proxied, false, header("X-Forwarded-Proto", "https", "X-Forwarded-Proto", "https"), 101},
		{"T23 proxy says it in all ways", proxied, false, header("X-Forwarded-Proto", " wss\t, https ", "X-Forwarded-Proto", "HTTPS"), 101},
		{"T23 proxy says it, and nothing behind the comma", proxied, false, header("X-Forwarded-Proto", "https,"), 403},
		{"T23 proxy says it, and an empty line", proxied, false, http.Header{"Origin": {appOrigin}, "X-Forwarded-Proto": {"https", ""}}, 403},
		{"T23 proxy says it with semicolons", proxied, false, header("X-Forwarded-Proto", "https;https"), 403},
		{"T23 proxy says it in quotes", proxied, false, header("X-Forwarded-Proto", `"https"`), 403},
		{"T23 other words of the proxy", proxied, false, header("X-Forwarded-Ssl", "on", "X-Url-Scheme", "https", "X-Forwarded-Protocol", "https", "X-Forwarded-Port", "443", "Front-End-Https", "on"), 403},
		{"T23 Forwarded is not the header", proxied, false, header("Forwarded", "for=192.0.2.1;proto=https"), 403},
		{"T23 single address", single, false, header("X-Real-IP", "192.0.2.1", "X-Forwarded-Proto", "wss"), 101},
		{"T23 single address, clear text", single, false, header("X-Real-IP", "192.0.2.1", "X-Forwarded-Proto", "http"), 403},

		{"T23 Forwarded", rfc7239, false, header("Forwarded", "for=192.0.2.1;proto=https"), 101},
		{"T23 Forwarded, quoted", rfc7239, false, header("Forwarded", `proto="WSS";for="192.0.2.1:80"`), 101},
		{"T23 Forwarded, clear text", rfc7239, false, header("Forwarded", "for=192.0.2.1;proto=http"), 403},
		{"T23 Forwarded, the word of another element", rfc7239, false, header("Forwarded", "for=192.0.2.1, for=10.0.0.2;proto=https"), 403},
		{"T23 Forwarded, the client's own element", rfc7239, false, header("Forwarded", "for=192.0.2.1;proto=https, for=192.0.2.2;proto=http"), 403},
		{"T23 Forwarded, clear text behind the edge", rfc7239, false, header("Forwarded", "for=192.0.2.1;proto=https", "Forwarded", "for=10.0.0.2;proto=http"), 101},
		{"T23 Forwarded, clear text in front of the edge", rfc7239, false, header("Forwarded", "for=192.0.2.1;proto=http", "Forwarded", "for=10.0.0.2;proto=https"), 403},
		{"T23 Forwarded, X-Forwarded-Proto does not count", rfc7239, false, header("Forwarded", "for=192.0.2.1", "X-Forwarded-Proto", "https"), 403},
		{"T23 Forwarded, X-Forwarded-Proto does not count against it", rfc7239, false, header("Forwarded", "for=192.0.2.1;proto=wss", "X-Forwarded-Proto", "http"), 101},
		{"T23 Forwarded, the proxy is the client", rfc7239, false, header("Forwarded", "for=127.0.0.1;proto=https"), 101},
		{"T23 Forwarded, none", rfc7239, false, header(), 403},
		{"T23 the proxy is the client", proxied, false, header("X-Forwarded-For", "127.0.0.1", "X-Forwarded-Proto", "https"), 101},

		{"T23 allowed", other, true, header("X-Forwarded-Proto", "http"), 101},
		{"T23 allowed, the proxy says http", proxied, true, header("X-Forwarded-Proto", "http"), 101},
		{"T23 allowed, the proxy says nothing", proxied, true, header(), 101},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := serveGuard(t, wsguard.Config{Proxies: tt.proxies, InsecureAllowHTTP: tt.allow})
			if tt.status == 101 {
				e.open(tt.header)
			} else if res := e.refused(tt.header, 403, "insecure_transport"); res.Header.Get("Location") != "" {
				t.Error("redirected")
			}
		})
	}
	for _, tt := range []struct {
		name    string
		proxies wsguard.Proxies
		allow   bool
		header  http.Header
		status  int
	}{
		{"T23 TLS", other, false, header("X-Forwarded-Proto", "http"), 101},
		{"T23 TLS, no proxies", wsguard.Proxies{}, false, header("X-Forwarded-Proto", "http", "Forwarded", "proto=http"), 101},
		{"T23 TLS, proxy says nothing", proxied, false, header("X-Forwarded-For", "192.0.2.1"), 101},
		{"T23 TLS, proxy says https", proxied, false, header("X-Forwarded-Proto", "https"), 101},
		{"T23 TLS, proxy says wss twice", proxied, false, header("X-Forwarded-Proto", "wss,wss"), 101},
		{"T23 TLS, proxy says http", proxied, false, header("X-Forwarded-Proto", "http"), 403},
		{"T23 TLS, proxy says both", proxied, false, header("X-Forwarded-Proto", "https", "X-Forwarded-Proto", "http"), 403},
		{"T23 TLS, proxy says an empty value", proxied, false, http.Header{"Origin": {appOrigin}, "X-Forwarded-Proto": {""}}, 403},
		{"T23 TLS, Forwarded says nothing", rfc7239, false, header("Forwarded", "for=192.0.2.1, for=10.0.0.2;proto=http"), 101},
		{"T23 TLS, Forwarded says http", rfc7239, false, header("Forwarded", "for=192.0.2.1;proto=http, for=10.0.0.2;proto=https"), 403},
		{"T23 TLS, Forwarded says http of an unnamed client", rfc7239, false, header("Forwarded", "for=unknown;proto=http"), 403},
		{"T23 TLS, allowed, proxy says http", proxied, true, header("X-Forwarded-Proto", "http"), 101},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, wsguard.Config{Proxies: tt.proxies, InsecureAllowHTTP: tt.allow})
			e.serveTLS(e.g.Handler(echo))
			if tt.status == 101 {
				roundTrip(t, e.open(tt.header), "hello")
			} else {
				e.refused(tt.header, 403, "insecure_transport")
			}
		})
	}
}

// T23: an operator learns from the event what the proxy said, or which peer to
// name.
func TestOriginT23Detail(t *testing.T) {
	proxied := wsguard.Proxies{Trusted: []string{"10.0.0.0/8"}}
	rfc7239 := wsguard.Proxies{Trusted: []string{"10.0.0.0/8"}, Header: "Forwarded"}
	cloud := wsguard.Proxies{Trusted: []string{"10.0.0.0/8"}, Header: "CF-Connecting-IP"}
	const name = "Proxies.Trusted"
	for _, tt := range []struct {
		title   string
		proxies wsguard.Proxies
		peer    string
		header  http.Header
		want    []string // parts of the detail
		not     string
	}{
		{"proxy says http", proxied, "10.0.0.1:1", header("X-Forwarded-Proto", "http"), []string{`X-Forwarded-Proto: "http"`}, name},
		{"proxy says two things", proxied, "10.0.0.1:1", header("X-Forwarded-Proto", "https", "X-Forwarded-Proto", "ws"), []string{`"https, ws"`}, name},
		{"proxy says an empty value", proxied, "10.0.0.1:1", http.Header{"X-Forwarded-Proto": {""}}, []string{`X-Forwarded-Proto: ""`}, name},
		{"proxy says nothing", proxied, "10.0.0.1:1", header(), []string{"no X-Forwarded-Proto"}, name},
		{"proxy passes on what a client wrote", proxied, "10.0.0.1:1", header("X-Forwarded-Proto", "a\x1b[31m\u202e"+strings.Repeat("b", 1<<20)), []string{`a\u001b[31m\u202eb`}, "\x1b"},
		{"proxy passes on many lines", proxied, "10.0.0.1:1", header(slices.Repeat([]string{"X-Forwarded-Proto", "x"}, 10000)...), []string{`"x, x, x`}, name},
		{"Forwarded says http", rfc7239, "10.0.0.1:1", header("Forwarded", `for=192.0.2.1;proto="http"`), []string{`Forwarded: proto="http"`}, name},
		{"Forwarded says nothing", rfc7239, "10.0.0.1:1", header("Forwarded", "for=192.0.2.1", "X-Forwarded-Proto", "https"), []string{"no proto", "Forwarded"}, name},
		{"peer is no proxy", proxied, "192.0.2.1:1", header("X-Forwarded-Proto", "https"), []string{"X-Forwarded-Proto", "no trusted proxy", name}, ""},
		{"peer is no proxy, no proxies", wsguard.Proxies{}, "192.0.2.1:1", header("X-Forwarded-For", "192.0.2.9"), []string{"X-Forwarded-For", "no trusted proxy", name}, ""},
		{"peer is no proxy, loopback", wsguard.Proxies{}, "127.0.0.1:1", header("Via", "1.1 x"), []string{"Via", "no trusted proxy", name}, ""},
		{"peer is no proxy, Forwarded", rfc7239, "192.0.2.1:1", header("Forwarded", "proto=https"), []string{"Forwarded", "no trusted proxy", name}, ""},
		{"peer is no proxy, the header that is named", cloud, "192.0.2.1:1", header("Cf-Connecting-Ip", "192.0.2.9"), []string{"CF-Connecting-IP", "no trusted proxy", name}, ""},
		{"peer is no proxy, another header", proxied, "192.0.2.1:1", header("X-Forwarded-"+strings.Repeat("A", 1<<20), "x"), []string{"X-Forwarded-", "no trusted proxy", name}, "AA"},
		{"no header", proxied, "192.0.2.1:1", header(), []string{"no TLS"}, name},
		{"unix socket", proxied, "@", header("X-Forwarded-Proto", "https"), []string{"unix", name}, ""},
	} {
		t.Run(tt.title, func(t *testing.T) {
			check := must(wsguard.NewTLSCheck(wsguard.Config{Proxies: tt.proxies}))
			r := upgradeRequest()
			r.RemoteAddr, r.Header = tt.peer, tt.header
			err := check.Check(r)
			if !errors.Is(err, reason.InsecureTransport) {
				t.Fatalf("%v", err)
			}
			detail := err.Error()
			if len(detail) > 400 {
				t.Errorf("%d bytes: %.400s", len(detail), detail)
			}
			for _, want := range tt.want {
				if !strings.Contains(detail, want) {
					t.Errorf("%q is not in %q", want, detail)
				}
			}
			if tt.not != "" && strings.Contains(detail, tt.not) {
				t.Errorf("%q is in %q", tt.not, detail)
			}
		})
	}
	// The same is in the event.
	g := newEnv(t, wsguard.Config{Proxies: proxied})
	w := httptest.NewRecorder()
	r := upgradeRequest()
	r.RemoteAddr = "10.0.0.1:1"
	r.Header.Set("X-Forwarded-Proto", "http")
	g.g.Handler(echo).ServeHTTP(hijackable{w}, r)
	if ev := g.events.wait(t, audit.Refusal, 1); w.Code != 403 || !strings.Contains(ev.Detail, `X-Forwarded-Proto: "http"`) {
		t.Errorf("status %d, event %+v", w.Code, ev)
	}
}

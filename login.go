package wsguard

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/wsguard/wsguard/internal/wire"
)

// A login is the application's own way to tell who sends a request: the login of
// Guard.TicketHandler, or AuthConfig.Authenticate. It may use what a browser sends by itself.

// loginCounts reports whether no foreign page can have made a browser send the request. A
// page of an allowed origin sends it, or a program that sends no cookie.
func (a *admission) loginCounts() bool {
	if a.ownPage {
		return true
	}
	program := len(a.r.Header["Origin"]) == 0 || a.r.Header["Origin"][0] == ""
	if a.origin.none { // a piece that stands alone needs an origin check in front
		program = program && slices.ContainsFunc(a.marks.passed, func(m mark) bool { return m.step == stepOrigin })
	}
	return program && a.known && len(a.r.Header["Cookie"]) == 0
}

// logIn asks a login who sends the request.
func (a *admission) logIn(login func(*http.Request) (Principal, error)) (Principal, error) {
	if !a.loginCounts() {
		return Principal{}, innocent("a login counts only with a listed Origin")
	}
	s := a.g.state
	try := a.loginAttempt()
	try.ask = func(ctx context.Context) (Principal, error) { return login(a.r.WithContext(ctx)) }
	p, err := a.budgeted(try)
	if err != nil {
		return Principal{}, err
	}
	if try.remembers() {
		s.lately.Note(s.lately.Key(try.kind, try.secret))
	}
	p.cookie = a.ownPage
	p = sighted(s.accepted, "", p)
	a.g.shared.sighted(p)
	return p, nil
}

// askAuthenticate asks AuthConfig.Authenticate, if there is one, who sends a handshake that
// presents nothing in the other places. A handshake for which no login counts is nobody's.
func (a *admission) askAuthenticate() (Principal, error) {
	if a.auth.cfg.Authenticate == nil || !a.loginCounts() {
		return Principal{}, ErrNoCredential
	}
	return a.logIn(a.auth.cfg.Authenticate)
}

// presented returns what a login may take for a credential. That is the query, the client's
// certificate, the offers of Sec-WebSocket-Protocol that the endpoint does not serve, and all
// headers but those that browsers and proxies send of their own accord. It is "" if there is
// nothing of that and no body.
func (e *endpointPolicy) presented(r *http.Request) string {
	var parts []string
	if r.URL.RawQuery != "" {
		parts = append(parts, r.URL.RawQuery)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		switch {
		case name == "Cookie":
			if cookies := cookiesOf(r.Header[name]); cookies != "" {
				parts = append(parts, name+": "+cookies)
			}
		case !isPlainHeader(name):
			parts = append(parts, name+": "+strings.Join(r.Header[name], "\n"))
		}
	}
	for _, offer := range wire.HeaderTokens(r.Header, "Sec-Websocket-Protocol") {
		if !slices.Contains(e.subprotocols, offer) {
			parts = append(parts, "subprotocol: "+offer)
		}
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		parts = append(parts, "certificate: "+string(r.TLS.PeerCertificates[0].Raw))
	}
	if len(parts) == 0 && hasBody(r) {
		return "a body"
	}
	return strings.Join(parts, "\n")
}

// cookiesOf returns the cookies but those with which well-known analytics count visits. They
// change while a session stays.
func cookiesOf(lines []string) string {
	var kept []string
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ";") {
			part = strings.Trim(part, " \t")
			if !slices.ContainsFunc(analytics, func(prefix string) bool { return strings.HasPrefix(part, prefix) }) {
				kept = append(kept, part)
			}
		}
	}
	return strings.Join(kept, "; ")
}

// analytics has the beginnings of the names of such cookies.
var analytics = []string{"_ga", "_gid=", "_gat", "_gcl_", "_fbp=", "_fbc=", "_hj", "_pk_", "__utm", "_clck=", "_clsk=", "ajs_", "amp_", "mp_"}

// isPlainHeader reports whether a header is no credential.
func isPlainHeader(name string) bool {
	for _, prefix := range identityHeaders {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	for _, prefix := range []string{"Accept", "Sec-", "Content-", "If-", "Cf-", "X-Amz-Cf-", "X-Amzn-", "X-B3-", "X-Envoy-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return plainHeaders[name]
}

// identityHeaders has the beginnings of the headers in which a content delivery network or a load
// balancer says who the client is. Their names begin like those of its other headers.
var identityHeaders = []string{"Cf-Access-", "Cf-Cert-", "X-Amzn-Ava-", "X-Amzn-Mtls-", "X-Amzn-Oidc-"}

// plainHeaders has the headers that browsers, proxies and content delivery networks send, many
// of them with another value in each request.
var plainHeaders = map[string]bool{
	"B3": true, "Cache-Control": true, "Cdn-Loop": true, "Connection": true, "Dnt": true, "Fly-Request-Id": true, "Forwarded": true,
	"Keep-Alive": true, "Origin": true, "Pragma": true, "Priority": true, "Referer": true, "Te": true, "Traceparent": true,
	"Tracestate": true, "True-Client-Ip": true, "Upgrade": true, "Upgrade-Insecure-Requests": true, "User-Agent": true, "Via": true,
	"X-Client-Ip": true, "X-Cloud-Trace-Context": true, "X-Correlation-Id": true, "X-Forwarded-For": true, "X-Forwarded-Host": true,
	"X-Forwarded-Port": true, "X-Forwarded-Prefix": true, "X-Forwarded-Proto": true, "X-Forwarded-Scheme": true,
	"X-Forwarded-Server": true, "X-Forwarded-Ssl": true, "X-Real-Ip": true, "X-Request-Id": true, "X-Request-Start": true,
	"X-Requested-With": true, "X-Vercel-Id": true,
}

package wsguard

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/wsguard/wsguard/reason"
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
		program = program && slices.ContainsFunc(a.marks.passed, func(m mark) bool { return m.step == stepOrigin && m.holds(a.scopeOf(a.r)) })
	}
	return program && a.known && len(a.r.Header["Cookie"]) == 0
}

// logIn asks a login who sends the request.
func (a *admission) logIn(login func(*http.Request) (Principal, error)) (Principal, error) {
	if !a.loginCounts() {
		d := deny(reason.Unauthenticated, "a login counts only with a listed Origin")
		d.blameless = true
		return Principal{}, d
	}
	s := a.g.state
	try := attempt{kind: "login", secret: presented(a.r), forgets: hasBody(a.r), budget: s.rates.failures, waits: true}
	try.ask = func(ctx context.Context) (Principal, error) { return login(a.r.WithContext(ctx)) }
	p, err := a.budgeted(try)
	if err != nil {
		return Principal{}, err
	}
	if try.remembers() {
		s.lately.Note(s.lately.Key(try.kind, try.secret))
	}
	p.cookie = a.ownPage
	return sighted(s.accepted, "", p), nil
}

// askAuthenticate asks AuthConfig.Authenticate, if there is one, who sends a handshake that
// presents nothing in the other places. A handshake for which no login counts is nobody's.
func (a *admission) askAuthenticate() (Principal, error) {
	if a.auth.cfg.Authenticate == nil || !a.loginCounts() {
		return Principal{}, ErrNoCredential
	}
	return a.logIn(a.auth.cfg.Authenticate)
}

// presented returns what a login may take for a credential: the query, and all headers but
// those that browsers and proxies send of their own accord. It is "" if there is nothing of
// that and no body.
func presented(r *http.Request) string {
	var parts []string
	if r.URL.RawQuery != "" {
		parts = append(parts, r.URL.RawQuery)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if !isPlainHeader(name) {
			parts = append(parts, name+": "+strings.Join(r.Header[name], "\n"))
		}
	}
	if len(parts) == 0 && hasBody(r) {
		return "a body"
	}
	return strings.Join(parts, "\n")
}

// isPlainHeader reports whether a header is no credential.
func isPlainHeader(name string) bool {
	for _, prefix := range []string{"Accept", "Sec-", "X-Forwarded-", "Content-", "If-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return plainHeaders[name]
}

var plainHeaders = map[string]bool{
	"Cache-Control": true, "Connection": true, "Dnt": true, "Forwarded": true, "Keep-Alive": true, "Origin": true,
	"Pragma": true, "Priority": true, "Referer": true, "Te": true, "Traceparent": true, "Tracestate": true, "Upgrade": true,
	"Upgrade-Insecure-Requests": true, "User-Agent": true, "Via": true, "X-Real-Ip": true, "X-Request-Id": true,
	"X-Requested-With": true,
}

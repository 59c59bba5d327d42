package wsguard

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// Principal is the user or the program that a credential stands for.
type Principal struct {
	// Subject names the user or the program. Limits of a subject and Admin.Revoke use it. It
	// is empty if the client is anonymous, because it presented no credential. A Verifier
	// must not return a Principal without a Subject. The handshake would get a 503.
	Subject string

	// SessionID names the login that the credential belongs to, such as the ID of a web session.
	// All credentials of one login have the same SessionID. Admin.SignOut takes it. It is not
	// the ID of a connection, which Conn.ID returns. It may be empty.
	SessionID string

	// Scopes lists what the principal may do. A message whose Rule has a Scope needs that
	// scope.
	Scopes []string

	// Expires is when the credential expires. The guard then closes the connection with 3000
	// expired. The zero Time means never.
	Expires time.Time

	// IssuedAt is when the credential was issued, by the issuer's clock. Admin.Revoke voids the
	// credentials that were issued before the revocation. A credential whose IssuedAt is the
	// zero Time counts as one of them. So does a credential that the guard has accepted before
	// the revocation, even if its IssuedAt is later.
	IssuedAt time.Time

	seen   time.Time // when the guard first accepted the credential; zero: not known
	bought time.Time // when the ticket was bought, if the credential is a ticket
	cookie bool      // the credential came as a cookie
}

func (p Principal) anonymous() bool { return p.Subject == "" }

// clone returns a copy of p that shares no memory with it. The strings that a Verifier
// returns may be parts of the token, and the token a part of a long header.
func (p Principal) clone() Principal {
	p.Subject, p.SessionID, p.Scopes = strings.Clone(p.Subject), strings.Clone(p.SessionID), slices.Clone(p.Scopes)
	for i, scope := range p.Scopes {
		p.Scopes[i] = strings.Clone(scope)
	}
	return p
}

// Verifier returns the Principal that a credential stands for. Many goroutines call it at
// the same time, and it must return within AuthConfig.VerifyTimeout. Its result decides
// about a handshake as follows:
//   - A Principal with a Subject is accepted.
//   - A Principal whose Expires has passed, ErrExpired and ErrNoCredential give a 401. They
//     count neither toward AuthConfig.Failures nor toward a ban.
//   - An error that wraps ErrUnavailable, context.DeadlineExceeded or context.Canceled
//     gives a 503, and counts toward neither. So do a Principal without a Subject, a panic,
//     and a call that takes too long.
//   - Any other error gives a 401, and counts toward both.
//
// If the credential comes in the first message, the connection is closed with 3000 instead
// of a 401, or with 1013 instead of a 503. The guard drops the text of the error, which may
// hold the credential.
type Verifier func(ctx context.Context, token string) (Principal, error)

// APIKeys returns a Verifier for API keys. keys has the Principal of each key under the
// SHA-256 of the key, so that a leak of the configuration discloses no key. Keys must be random
// and have at least 128 bits, because a fast hash does not protect a password.
func APIKeys(keys map[[sha256.Size]byte]Principal) Verifier {
	type entry struct {
		digest    [sha256.Size]byte
		principal Principal
	}
	entries := make([]entry, 0, len(keys))
	for digest, p := range keys {
		entries = append(entries, entry{digest, p})
	}
	return func(_ context.Context, token string) (Principal, error) {
		digest := sha256.Sum256([]byte(token))
		found := -1
		for i := range entries {
			if subtle.ConstantTimeCompare(entries[i].digest[:], digest[:]) == 1 {
				found = i
			}
		}
		if found < 0 {
			return Principal{}, reason.Unauthenticated
		}
		return entries[found].principal, nil
	}
}

// TokenSources are the places of a handshake in which the guard looks for a credential. If
// no field is set and AuthConfig.Verifier is, the guard looks in Header and for the
// Subprotocol "bearer.". If a field is set, the guard looks only in the places that are set.
//
// A handshake with more than one credential gets a 401, whether they are in two places or in
// one. A handshake with a malformed credential gets a 401, too. A credential is malformed if
// the guard cannot parse it, if it is empty, or if it is longer than 8 KiB. Both hold even
// with AuthConfig.InsecureAnonymous, and even if net/http ignores the malformed value.
type TokenSources struct {
	// Header accepts Authorization: Bearer TOKEN (RFC 6750 §2.1). Programs can set it, and scripts
	// of a page cannot. The default is true if no source is set and there is a Verifier, and
	// otherwise false.
	Header bool

	// Subprotocol is the prefix of the subprotocol that has the credential. A page sends it as new
	// WebSocket(url, ["chat", "bearer."+token]). The guard never selects that entry. So the page
	// must also offer a subprotocol that the guard serves. A handshake that offers the credential
	// alone gets a 401. The default is "bearer." if no source is set and there is a Verifier, and
	// otherwise none.
	Subprotocol string

	// Cookie is the name of the cookie that has the credential. Browsers send a cookie with the
	// requests of every page. So the guard accepts it only from a page whose origin Origins,
	// SameOrigin or OriginFunc allows. A handshake whose Origin is missing, null or foreign gets a
	// 403, or a 401 if InsecureReportOnlyOrigins only reports it. The Verifier is not called. An
	// Authenticator of Guard.Pieces uses the origins of its Guard. An Authenticator of
	// NewAuthenticator needs the Handler of a NewOriginCheck in front of it, and accepts no cookie
	// without one. The default, "", is none.
	Cookie string

	// FirstMessage accepts {"type":"auth","token":"TOKEN"} as the first message of a connection
	// whose handshake has no credential. The handler starts, and Accept returns, after the guard
	// has accepted that message. AuthConfig.FirstMessage is for protocols in which that message has
	// another form. The default is false.
	FirstMessage bool

	// CustomHeader is the name of a header whose whole value is the credential, such as
	// X-API-Key. Programs can set it, and scripts of a page cannot. Authorization has a field
	// of its own, Header. The default, "", is none.
	CustomHeader string

	// TicketsOnly makes the guard accept no token in a handshake. A client must present a
	// ticket, or be known to AuthConfig.Authenticate if that is set. Guard.TicketHandler still
	// asks the Verifier or a login. TicketsOnly excludes all other sources and needs
	// AuthConfig.Tickets. The default is false.
	TicketsOnly bool

	// InsecureQuery is the name of a query parameter that has the credential. The guard removes it
	// before Attach sees the URL. Proxies in front have seen it and may have logged it. The
	// default, "", is none.
	InsecureQuery string
}

// source is one place of a handshake in which the guard looks for a credential.
type source struct {
	kind sourceKind
	name string // the prefix, the cookie or the parameter; empty for other kinds
}

type sourceKind int

const (
	sourceNone sourceKind = iota
	sourceHeader
	sourceSubprotocol
	sourceCookie
	sourceQuery
	sourceFirstMessage
	sourceTicket
	sourceCustomHeader
)

func (t TokenSources) list() (sources []source) {
	if t.Header {
		sources = append(sources, source{kind: sourceHeader})
	}
	if t.Subprotocol != "" {
		sources = append(sources, source{sourceSubprotocol, t.Subprotocol})
	}
	if t.CustomHeader != "" {
		sources = append(sources, source{sourceCustomHeader, http.CanonicalHeaderKey(t.CustomHeader)})
	}
	if t.Cookie != "" {
		sources = append(sources, source{sourceCookie, t.Cookie})
	}
	if t.InsecureQuery != "" {
		sources = append(sources, source{sourceQuery, t.InsecureQuery})
	}
	return sources
}

// AuthConfig says how clients authenticate.
type AuthConfig struct {
	// Verifier verifies the credentials from Sources. It may be nil if Authenticate or Tickets
	// is set, or if InsecureAnonymous is true. Without a Verifier, no field of Sources may be
	// set except TicketsOnly.
	Verifier Verifier

	// Tickets makes the guard accept the one-time tickets that Guard.TicketHandler issues. The
	// default, nil, accepts none.
	Tickets *TicketConfig

	// Sources says where in a handshake the guard looks for a credential. With a Verifier, the
	// default is the Authorization header, and a subprotocol that begins with "bearer.". Without a
	// Verifier, the default is no place.
	Sources TokenSources

	// Authenticate returns the Principal of a request by the application's own means, such as
	// session middleware, HTTP Basic, a client certificate or the header of an identity proxy.
	// The guard calls it for a handshake that presents neither a credential in Sources nor a
	// ticket, in two cases. In the first, a page whose origin Origins, SameOrigin or OriginFunc
	// allows sends the handshake, and the origin is neither null nor file://. In the second, a
	// program sends it with neither an Origin nor a Cookie header, and AllowMissingOrigin admits
	// it.
	//
	// In all other cases a page of another site may have made the browser send what Authenticate
	// reads. Such a handshake counts as one without a credential. New refuses Authenticate
	// together with InsecureAnyOrigin. An Authenticator of NewAuthenticator calls Authenticate
	// only behind the Handler of a NewOriginCheck. A handshake with a ticket and a session
	// cookie presents one credential, which is the ticket.
	//
	// The guard treats an error as that of a Verifier. ErrNoCredential says that the request has no
	// login. The handshake then counts as one without a credential. The call must return within
	// VerifyTimeout. The default is nil, and no such call is made.
	Authenticate func(*http.Request) (Principal, error)

	// InsecureAnonymous admits handshakes without a credential. A credential that is
	// presented must still be valid. Conn.Refresh can give an anonymous connection a
	// subject. The default is false, and a handshake without a credential gets a 401.
	InsecureAnonymous bool

	// InsecureReportOnly admits handshakes that would be refused because the credential is
	// missing, is not valid or cannot be verified. The guard treats such a client as anonymous,
	// and reports what it would have refused. The default is false.
	InsecureReportOnly bool

	// Revalidate says whether the Principal of an open connection is still valid. The guard calls
	// it every RevalidateEvery for each connection that is not anonymous. The Principal that it
	// returns replaces the old one and must have the same Subject. If it has no Expires, no
	// SessionID or no IssuedAt, the connection keeps the old value of that field. If it has no
	// Scopes, the connection has none from then on. An error closes the connection with 3000. An
	// error that wraps ErrUnavailable, context.DeadlineExceeded or context.Canceled, a panic, and a
	// call that takes longer than VerifyTimeout close it with 1013. With nil, the default, the
	// guard never asks.
	//
	// At most 64 calls run at the same time, for all Guards of a State together. A call that does
	// not return keeps its place even after VerifyTimeout. A connection that is due while all
	// places are taken waits, and the connection that has been due for longest gets the next place.
	// If Revalidate cannot keep up, the guard closes those that have waited for a whole
	// RevalidateEvery, with 1013 unavailable. So it closes none of them as long as 64 calls at a
	// time can ask about every connection once in two intervals.
	Revalidate func(context.Context, Principal) (Principal, error)

	// RevalidateEvery is the time between two calls of Revalidate for a connection, spread by
	// 10 % either way. The default is 5 minutes. It cannot be Off.
	RevalidateEvery time.Duration

	// RevocationTTL is how long the guard remembers a revocation by Admin.Revoke or
	// Admin.SignOut. When the guard forgets the revocation, the credentials that it has voided
	// are accepted again. So set RevocationTTL to the longest life of a credential. If the guard
	// has accepted a credential of the same subject or login whose Expires is later, it
	// remembers the revocation until that Expires. By default, and with Off, a revocation never
	// expires.
	RevocationTTL time.Duration

	// CacheTTL is how long the guard keeps the Principal that a Verifier has returned for a token.
	// Within that time it accepts the token without a call of the Verifier. So it does not notice
	// what the Verifier would refuse meanwhile. Admin.Revoke and Admin.SignOut make the guard drop
	// the Principals of the subject or the login, and Reconfigure makes it drop all. The guard
	// keeps at most 10,000 Principals. It keeps no errors. CacheTTL must be at most an hour. By
	// default, and with Off, the guard keeps none.
	CacheTTL time.Duration

	// MaxExplained is how many refused handshakes may be accepted and closed at the same time, with
	// 3000 instead of a 401 or 1013 instead of a 429. Browsers hide the status of a failed
	// handshake from scripts but show the close code. Further refusals get their status. The
	// default is 0. With 0 and with Off, each refusal gets its status.
	//
	// Four kinds of refusals always get their status. The first are those by the handshake rate.
	// The second are those of handshakes whose origin is not allowed, is admitted by
	// InsecureAnyOrigin alone, or has not been checked yet. The third are those of a page that
	// offers subprotocols of which the guard selects none. The fourth are those with any other
	// status than 401 and 429.
	MaxExplained int

	// Failures limits how many credentials of one client may be refused. It also limits how often
	// one credential may be refused to all clients together. The default is 1 per second with a
	// burst of 10. An IPv6 /48 has 16 times the rate of a client. Tickets have limits of the same
	// size, which are counted separately.
	//
	// While one of these limits is exceeded, a credential gets a 429 guessing without a call of
	// the Verifier. There is one exception. A credential that the guard has accepted within the
	// last 24 hours is still verified. The guard verifies one such credential of a client at a
	// time.
	//
	// A credential that was refused to a client is refused to the same client again for 10
	// seconds, with a 401 and without a call. These refusals do not count again. A request
	// without a credential does not count, and neither does a credential for which the Verifier
	// returns ErrExpired or ErrNoCredential. A failed Refresh of a connection with a subject
	// counts for that subject, and not for the client. A failed Refresh of an anonymous
	// connection counts for the client. With Rate{PerSecond: Off} there is no limit, and the
	// Verifier is called for every credential.
	Failures Rate

	// VerifyTimeout is how long one call of a hook may take. The hooks are Verifier, Authenticate,
	// Revalidate, MessageConfig.Authorize, Config.OriginFunc, the login of Guard.TicketHandler, the
	// hooks of FirstMessage, and the methods of a ticket Store. The default is 5 s. It cannot be
	// Off. A call that takes longer counts as a failure of the application. A request then gets a
	// 503, an open connection is closed with 1013, and Refresh returns an error.
	//
	// For Config.Attach, only the context of its request ends after VerifyTimeout. The guard
	// still waits until Attach returns.
	VerifyTimeout time.Duration

	// FirstMessage is the form of the first messages, for a protocol that has its own. It needs
	// TokenSources.FirstMessage. The default, nil, is the form that is described there.
	FirstMessage *FirstMessage

	// FirstMessageTimeout is how long a connection may take to send its credential with
	// TokenSources.FirstMessage. With FirstMessage it includes the messages before the
	// credential. The default is 10 s. It cannot be Off. A connection that takes longer is
	// closed with 3008 auth_timeout.
	FirstMessageTimeout time.Duration

	// FirstMessageBytes is how many bytes of payload the first message may have, if it must be
	// the credential because of TokenSources.FirstMessage. The default is 4 KiB. It cannot be
	// Off. With FirstMessage it holds for each message before the credential, too. A longer
	// message closes the connection with 1009.
	FirstMessageBytes int64
}

// authRule is a compiled AuthConfig.
type authRule struct {
	cfg     AuthConfig
	sources []source
	tickets *TicketConfig // nil: none
}

func newAuthRule(cfg AuthConfig, f *faults) authRule {
	none := cfg.Sources == TokenSources{}
	switch {
	case cfg.Sources.TicketsOnly:
		if cfg.Tickets == nil || cfg.Sources != (TokenSources{TicketsOnly: true}) {
			f.add("Auth.Sources.TicketsOnly", "", "needs Tickets, and excludes all other sources")
		}
	case cfg.Verifier == nil && !none:
		f.add("Auth.Verifier", "", "a token source without a Verifier")
	}
	if cfg.Verifier == nil && cfg.Tickets == nil && cfg.Authenticate == nil && !cfg.InsecureAnonymous {
		f.add("Auth.Verifier", "", "say who may connect: a Verifier, Authenticate, Tickets, or InsecureAnonymous")
	}
	if cfg.Verifier != nil && none {
		cfg.Sources = TokenSources{Header: true, Subprotocol: "bearer."}
	}
	cfg.FirstMessage.check(cfg.Sources, f)
	if p := cfg.Sources.Subprotocol; p != "" && !isToken(p) {
		f.add("Auth.Sources.Subprotocol", p, "not the beginning of a token of RFC 9110: it would never match")
	}
	if n := cfg.Sources.Cookie; n != "" && !isToken(n) {
		f.add("Auth.Sources.Cookie", n, "not a cookie's name: it would never match")
	}
	if n := cfg.Sources.CustomHeader; n != "" && (!isToken(n) || isPlainHeader(http.CanonicalHeaderKey(n)) || notCustom[http.CanonicalHeaderKey(n)]) {
		f.add("Auth.Sources.CustomHeader", n, "not the name of a header for credentials, such as X-API-Key")
	}
	rule := authRule{sources: cfg.Sources.list()}
	if cfg.Tickets != nil {
		rule.tickets = cfg.Tickets.resolve(f)
		if cfg.Sources.InsecureQuery == rule.tickets.Param {
			f.add("Auth.Tickets.Param", rule.tickets.Param, "is a token's parameter too")
		}
		rule.sources = append(rule.sources, source{sourceTicket, rule.tickets.Param})
	}
	cfg.Failures = cfg.Failures.resolve(Rate{1, 10}, "Auth.Failures", f)
	cfg.RevalidateEvery = required(cfg.RevalidateEvery, 5*time.Minute, "Auth.RevalidateEvery", f)
	cfg.RevocationTTL = timeout(cfg.RevocationTTL, 0, "Auth.RevocationTTL", f)
	cfg.CacheTTL = timeout(cfg.CacheTTL, 0, "Auth.CacheTTL", f)
	if cfg.CacheTTL > maxCacheTTL {
		f.add("Auth.CacheTTL", cfg.CacheTTL, "must be at most an hour: what the Verifier learns meanwhile does not count")
	}
	cfg.MaxExplained = limit(cfg.MaxExplained, 0, "Auth.MaxExplained", f)
	cfg.VerifyTimeout = required(cfg.VerifyTimeout, 5*time.Second, "Auth.VerifyTimeout", f)
	cfg.FirstMessageTimeout = required(cfg.FirstMessageTimeout, 10*time.Second, "Auth.FirstMessageTimeout", f)
	cfg.FirstMessageBytes = requiredAmount(cfg.FirstMessageBytes, 4<<10, "Auth.FirstMessageBytes", f)
	rule.cfg = cfg
	return rule
}

// Authenticator finds and verifies the credential of a handshake. [NewAuthenticator] makes one
// that stands alone, and [Guard.Pieces] returns that of a Guard. Many goroutines may use it at
// the same time.
type Authenticator struct{ g *Guard }

// NewAuthenticator returns an Authenticator that can stand in front of any handler. It uses the
// fields Auth, InsecureObserve, LoopbackOnly, Proxies, Logger, OnEvent, Observer, Name, RequestID
// and State of cfg. TokenSources.FirstMessage and Tickets need a Guard and are errors here. An
// Authenticator that is returned with an error refuses every request.
func NewAuthenticator(cfg Config) (*Authenticator, error) {
	var f faults
	p := alone(cfg, &f)
	cfg = cfg.observed()
	p.auth = newAuthRule(cfg.Auth, &f)
	if cfg.Auth.Sources.FirstMessage {
		f.add("Auth.Sources.FirstMessage", "", "needs a Guard")
	}
	if cfg.Auth.Tickets != nil {
		f.add("Auth.Tickets", "", "needs a Guard")
	}
	err := f.err()
	if err != nil {
		p.broken = reason.Unavailable // some callers ignore the error
	}
	return &Authenticator{standAlone(p, cfg)}, err
}

// Authenticate returns the Principal of a handshake, which is the zero Principal if the client
// is anonymous. TokenSources.Cookie says when a cookie is accepted. The error wraps a value of
// package reason, such as reason.Unauthenticated or reason.Guessing.
func (a *Authenticator) Authenticate(r *http.Request) (Principal, error) {
	in := a.g.endpoint.admission(r)
	defer in.unwind()
	if err := in.run(authenticateSteps); err != nil {
		return Principal{}, err
	}
	if in.await {
		return Principal{}, deny(reason.Unauthenticated, "the credential is to come in the first message")
	}
	return in.principal, nil
}

var authenticateSteps = []step{addressStep, banStep, askOriginStep, flightStep, credentialStep, revokedStep}

// seek finds the credential that the request presents. Further calls do nothing.
func (a *admission) seek() {
	if !a.sought {
		a.cred, a.credErr = find(a.r, a.auth.sources)
		a.sought = true
	}
}

// authenticate is the credential step. It takes the Principal that a piece in front has
// found, or else judges the credential. With InsecureReportOnly it reports a handshake
// that it would refuse and lets it pass as anonymous.
func (a *admission) authenticate() error {
	if err := a.g.shared.marksKnown(); err != nil {
		return err
	}
	p, known := Principal{}, false
	if a.r != nil {
		p, known = a.found()
	}
	var err error
	switch {
	case known && p.cookie && !a.ownPage: // the origin checks of the piece in front differ from the Guard's
		err = foreignCookie()
	case !known:
		p, err = a.demand()
	}
	if err != nil {
		a.notAccepted()
		if !a.auth.cfg.InsecureReportOnly || a.r == nil || a.conn != nil {
			return err
		}
		a.reportOnly(err)
		p = Principal{}
	}
	a.principal = p
	if a.r != nil && a.conn == nil {
		a.stripped = a.auth.strip(a.r)
	}
	return nil
}

func (a *admission) demand() (Principal, error) {
	a.seek()
	if a.credErr != nil {
		return Principal{}, a.credErr
	}
	switch a.cred.kind {
	case sourceNone:
		if p, err := a.askAuthenticate(); err != ErrNoCredential {
			return p, err
		}
		switch {
		case a.auth.cfg.Sources.FirstMessage:
			return Principal{}, a.awaitCredential()
		case a.auth.cfg.InsecureAnonymous:
			return Principal{}, nil
		}
		return Principal{}, ErrNoCredential
	case sourceCookie:
		if !a.ownPage {
			return Principal{}, foreignCookie()
		}
	}
	p, err := a.verify()
	p.cookie = a.cred.kind == sourceCookie
	return p, err
}

// foreignCookie is the refusal of a cookie that a foreign page may have made the browser send.
func foreignCookie() error {
	return deny(reason.Unauthenticated, "a cookie counts only with a listed Origin")
}

// Handler passes a request with a valid credential to next, and answers others with 401,
// 403, 429 or 503. A request without a credential passes with AuthConfig.InsecureAnonymous,
// and with TokenSources.FirstMessage. A request whose credential is refused passes with
// AuthConfig.InsecureReportOnly. Handler removes credentials from the query and from
// Sec-WebSocket-Protocol, because they would end up in logs. In next, [PrincipalOf] returns
// the Principal.
func (a *Authenticator) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := a.g.endpoint.admission(r)
		if in.passed(stepCredential) {
			next.ServeHTTP(w, r)
			return
		}
		if !in.piece(w, authenticatorSteps) {
			return
		}
		in.unwind() // the place in flight
		steps := []string{stepRate}
		if !in.await { // else the Guard behind waits for the first message
			steps = append(steps, stepCredential, stepSubject)
		}
		m := in.pass(in.stripped, steps...)
		if !in.await {
			m = m.find(a.g, in.principal, in.used)
		}
		next.ServeHTTP(w, m.on(in.stripped))
	})
}

var authenticatorSteps = []step{addressStep, banStep, askOriginStep, rateStep, flightStep, credentialStep, subjectRateStep, revokedStep}

// PrincipalOf returns the Principal that an [Authenticator] or [Guard.Wrap] in front of the
// handler has found for r. It returns false if there is none or if the client is anonymous.
func PrincipalOf(r *http.Request) (Principal, bool) {
	if m := marksOf(r); len(m.principals) > 0 {
		p := m.principals[len(m.principals)-1].principal
		return p, !p.anonymous()
	}
	return Principal{}, false
}

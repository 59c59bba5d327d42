package wsguard

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/seen"
	"github.com/wsguard/wsguard/reason"
)

// Principal is who a credential stands for.
type Principal struct {
	Subject   string    // empty: anonymous, no credential was presented
	SessionID string    // of the login that the credential belongs to, for SignOut; may be empty
	Scopes    []string  // what it may do
	Expires   time.Time // the connection is closed then; zero: not by expiry

	// IssuedAt is when the credential was issued, by the issuer's clock. Revoke
	// compares it, or the moment at which the guard first accepted the
	// credential if that is earlier, with the moment of the revocation. Zero
	// counts as earlier than every revocation.
	IssuedAt time.Time

	seen   time.Time // when its credential was first accepted here; zero: not known
	bought time.Time // its ticket, if it came with one
	cookie bool      // its credential came as a cookie
}

func (p Principal) anonymous() bool { return p.Subject == "" }

// clone returns a copy of p that shares no memory with it. What a Verifier returns
// may be part of the token, and the token part of a long header.
func (p Principal) clone() Principal {
	p.Subject, p.SessionID, p.Scopes = strings.Clone(p.Subject), strings.Clone(p.SessionID), slices.Clone(p.Scopes)
	for i, scope := range p.Scopes {
		p.Scopes[i] = strings.Clone(scope)
	}
	return p
}

// Verifier says whom a credential stands for, from several goroutines and within
// AuthConfig.VerifyTimeout. An error is a 401 and counts as a guess; one that
// wraps ErrUnavailable or a context's, or a panic, is a 503 and does not.
type Verifier func(ctx context.Context, token string) (Principal, error)

// APIKeys verifies keys of which only the SHA-256 is kept. Keys must be
// random, of 128 bits or more: a fast hash does not protect a password.
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

// TokenSources are the places of a handshake that a credential may come in. The
// zero value is Header and Subprotocol "bearer.". More than one credential, in
// two places or twice in one, is a 401. So is one that cannot be read, also with
// AuthConfig.InsecureAnonymous: what net/http skips counts as presented.
type TokenSources struct {
	Header      bool   // Authorization: Bearer TOKEN (RFC 6750 §2.1), for programs
	Subprotocol string // prefix of one entry beside a real one, never echoed: new WebSocket(url, ["chat", "bearer."+token])

	// Cookie is the name of a cookie. Browsers send it with the requests of every
	// page, so it counts only where the request comes from a listed Origin: not
	// where the Origin is missing, is null, or is only reported. Otherwise it is a
	// 401, and the Verifier is not asked. An Authenticator of Guard.Pieces goes by
	// the Origins of its Guard. For one of NewAuthenticator, the Handler of a
	// NewOriginCheck must stand in front.
	Cookie string

	FirstMessage  bool   // {"type":"auth","token":"TOKEN"}; the handler starts, and Accept returns, after it
	InsecureQuery string // parameter, removed before Attach sees the URL; what stands in front has seen, and perhaps logged, it
}

// source is one of them.
type source struct {
	kind sourceKind
	name string
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
)

func (t TokenSources) list() (sources []source) {
	if t.Header {
		sources = append(sources, source{kind: sourceHeader})
	}
	if t.Subprotocol != "" {
		sources = append(sources, source{sourceSubprotocol, t.Subprotocol})
	}
	if t.Cookie != "" {
		sources = append(sources, source{sourceCookie, t.Cookie})
	}
	if t.InsecureQuery != "" {
		sources = append(sources, source{sourceQuery, t.InsecureQuery})
	}
	return sources
}

// AuthConfig says who may connect.
type AuthConfig struct {
	Verifier Verifier      // judges credentials; nil needs InsecureAnonymous or Tickets
	Tickets  *TicketConfig // not nil: the tickets of Guard.TicketHandler are accepted

	Sources TokenSources // where a credential is looked for

	// InsecureAnonymous admits handshakes without a credential. One that is
	// presented must still be valid.
	InsecureAnonymous bool

	// InsecureReportOnly reports what would be refused for its credential, and
	// lets it pass, anonymous.
	InsecureReportOnly bool

	// Revalidate is asked again and again, from when a connection opens,
	// whether its Principal is still good: its error is as the Verifier's,
	// and closes with 3000 or 1013; its answer replaces the Principal.
	Revalidate      func(context.Context, Principal) (Principal, error)
	RevalidateEvery time.Duration // ±10 %; default 5 min, required

	RevocationTTL time.Duration // how long Revoke and SignOut count: as long as a credential can live; default: until Restore
	CacheTTL      time.Duration // how long a Verifier's good answer to a token is used again, till a revocation; default: never
	MaxExplained  int           // refused handshakes (401, 429) at once that are accepted and closed with 3000 or 1013, so that a page sees why; default: none

	Failures            Rate          // of a client, and of a credential; default 1/s, burst 10 → 429, unasked
	VerifyTimeout       time.Duration // of Verifier, Revalidate, Authorize and Attach; default 5 s, required → 503
	FirstMessageTimeout time.Duration // default 10 s, required → 3008 auth_timeout
	FirstMessageBytes   int64         // default 4 KiB, required → 1009
}

// Authenticator finds and verifies the credential of a handshake.
type Authenticator struct {
	reporter
	line         *line[Authenticator]
	cfg          AuthConfig // resolved
	client       identify
	failures     *keyed.Table
	seen         *seen.Memory // what has been accepted; shared with the forms before and after
	tickets      *tickets     // nil: none
	verified     *verified    // nil: nothing is kept
	revalidating chan struct{}
	inFlight     *counter // of a stand-alone piece; a Guard has its own
	sources      []source
}

// NewAuthenticator returns a token extractor that can stand in front of any
// handler. A first message and Tickets need a Guard and are errors here. An
// Authenticator that is returned with an error refuses every request.
func NewAuthenticator(cfg AuthConfig, proxies Proxies) (*Authenticator, error) {
	var f faults
	a := newAuthenticator(cfg, proxies.resolver(&f), &f)
	if a.cfg.Sources.FirstMessage {
		f.add("Auth.Sources.FirstMessage", "", "needs a Guard")
	}
	if a.tickets != nil {
		f.add("Auth.Tickets", "", "needs a Guard")
	}
	if err := f.err(); err != nil {
		// Some callers ignore the error.
		nobody := func(context.Context, string) (Principal, error) { return Principal{}, ErrUnavailable }
		return newAuthenticator(AuthConfig{Verifier: nobody}, Proxies{}.resolver(&f), &f), err
	}
	return a, nil
}

func newAuthenticator(cfg AuthConfig, client identify, f *faults) *Authenticator {
	none := cfg.Sources == TokenSources{}
	if cfg.Verifier == nil && !none {
		f.add("Auth.Verifier", "", "a token source without a Verifier")
	}
	if cfg.Verifier == nil && cfg.Tickets == nil && !cfg.InsecureAnonymous {
		f.add("Auth.Verifier", "", "say who may connect: a Verifier, Tickets, or InsecureAnonymous")
	}
	a := &Authenticator{client: client, inFlight: newCounter(256, 8), seen: seen.New(), line: &line[Authenticator]{}}
	a.line.latest.Store(a)
	if cfg.Verifier != nil && none {
		cfg.Sources = TokenSources{Header: true, Subprotocol: "bearer."}
	}
	if p := cfg.Sources.Subprotocol; p != "" && !isToken(p) {
		f.add("Auth.Sources.Subprotocol", p, "not the beginning of a token of RFC 9110: it would never match")
	}
	if n := cfg.Sources.Cookie; n != "" && !isToken(n) {
		f.add("Auth.Sources.Cookie", n, "not a cookie's name: it would never match")
	}
	a.sources = cfg.Sources.list()
	if cfg.Tickets != nil {
		a.tickets = newTickets(*cfg.Tickets, f)
		if cfg.Sources.InsecureQuery == a.tickets.cfg.Param {
			f.add("Auth.Tickets.Param", a.tickets.cfg.Param, "is a token's parameter too")
		}
		a.sources = append(a.sources, source{sourceTicket, a.tickets.cfg.Param})
	}
	cfg.Failures = cfg.Failures.resolve(Rate{1, 10}, "Auth.Failures", f)
	a.failures = keyed.New(tableKeys)
	cfg.RevalidateEvery = required(cfg.RevalidateEvery, 5*time.Minute, "Auth.RevalidateEvery", f)
	cfg.RevocationTTL = timeout(cfg.RevocationTTL, 0, "Auth.RevocationTTL", f)
	if cfg.CacheTTL = timeout(cfg.CacheTTL, 0, "Auth.CacheTTL", f); cfg.CacheTTL > 0 {
		a.verified = &verified{ttl: cfg.CacheTTL, all: map[[sha256.Size]byte]answer{}}
	}
	cfg.MaxExplained = limit(cfg.MaxExplained, 0, "Auth.MaxExplained", f)
	a.revalidating = make(chan struct{}, maxRevalidating)
	cfg.VerifyTimeout = required(cfg.VerifyTimeout, 5*time.Second, "Auth.VerifyTimeout", f)
	cfg.FirstMessageTimeout = required(cfg.FirstMessageTimeout, 10*time.Second, "Auth.FirstMessageTimeout", f)
	cfg.FirstMessageBytes = requiredAmount(cfg.FirstMessageBytes, 4<<10, "Auth.FirstMessageBytes", f)
	a.cfg = cfg
	return a
}

// latest is what a has become by now.
func (a *Authenticator) latest() *Authenticator { return a.line.latest.Load() }

// succeed takes over what old has counted.
func (a *Authenticator) succeed(old *Authenticator) {
	if a == old {
		return // shared
	}
	a.failures = old.failures
	a.inFlight, a.revalidating, a.seen = old.inFlight, old.revalidating, old.seen
	if a.tickets != nil {
		a.tickets.succeed(old.tickets)
	}
	a.line = old.line
	a.line.latest.Store(a)
}

// credential is what a handshake presented.
type credential struct {
	kind  sourceKind
	token string
}

// maxToken is longer than any token in use; a longer one is not looked at.
const maxToken = 8 << 10

// find returns the credential of r; its kind is sourceNone when there is none. One
// that is presented and cannot be read is an error.
func find(r *http.Request, sources []source) (credential, error) {
	var found credential
	n, readable := 0, true
	add := func(s source, p shown) {
		if p.n > 0 {
			found = credential{s.kind, p.token}
			readable = p.ok
			n += p.n
		}
	}
	for _, s := range sources {
		switch s.kind {
		case sourceHeader:
			lines := r.Header["Authorization"]
			if len(lines) > 1 { // of any scheme: it is a header of one value (RFC 9110 §11.6.2)
				return credential{}, deny(reason.Unauthenticated, "more than one credential")
			}
			for _, v := range lines {
				add(s, bearerIn(v))
			}
		case sourceSubprotocol:
			real, p, similar := 0, shown{ok: true}, 0
			for _, entry := range headerTokens(r.Header, "Sec-Websocket-Protocol") {
				if token, ok := strings.CutPrefix(entry, s.name); ok {
					p.token = token
					p.n++
				} else if real++; hasPrefixFold(entry, s.name) {
					similar++
				}
			}
			if p.n > 0 {
				p.n += similar
			}
			if p.n == 1 && real == 0 {
				return credential{}, deny(reason.Unauthenticated, "a token in Sec-WebSocket-Protocol without a subprotocol beside it")
			}
			add(s, p)
		case sourceCookie:
			add(s, cookieIn(r, s.name))
		case sourceQuery, sourceTicket:
			add(s, paramIn(r, s.name))
		}
	}
	switch {
	case n > 1:
		return credential{}, deny(reason.Unauthenticated, "more than one credential")
	case !readable:
		return credential{}, deny(reason.Unauthenticated, "a credential that cannot be read")
	case n == 1 && (found.token == "" || len(found.token) > maxToken):
		return credential{}, deny(reason.Unauthenticated, "empty or over-long credential")
	}
	return found, nil
}

// offers returns the subprotocols that a handshake offers: the entries of
// Sec-WebSocket-Protocol that are no credentials. Beside a credential, an entry that
// differs from one in letter case only is one too.
func (a *Authenticator) offers(h http.Header) []string {
	all := headerTokens(h, "Sec-Websocket-Protocol")
	prefix := a.cfg.Sources.Subprotocol
	if prefix != "" && slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
		all = slices.DeleteFunc(all, func(s string) bool { return hasPrefixFold(s, prefix) })
	}
	return all
}

// strip returns r without the credentials that would end up in logs: those of
// the query and of Sec-WebSocket-Protocol.
func (a *Authenticator) strip(r *http.Request) *http.Request {
	out := r
	clone := func() {
		if out == r {
			out = new(http.Request)
			*out = *r
		}
	}
	for _, s := range a.sources {
		switch s.kind {
		case sourceQuery, sourceTicket:
			if q, cut := cutQuery(out.URL.RawQuery, s.name); cut {
				clone()
				u := *out.URL
				u.RawQuery = q
				out.URL = &u
				out.RequestURI = u.RequestURI()
				out.Form, out.PostForm = nil, nil // parsed from it, perhaps
			}
		case sourceSubprotocol:
			kept := a.offers(out.Header)
			if len(kept) < len(headerTokens(out.Header, "Sec-Websocket-Protocol")) {
				clone()
				out.Header = out.Header.Clone()
				out.Header.Del("Sec-Websocket-Protocol")
				if len(kept) > 0 {
					out.Header.Set("Sec-Websocket-Protocol", strings.Join(kept, ", "))
				}
			}
		}
	}
	return out
}

// Authenticate returns the Principal of a handshake. TokenSources.Cookie says where
// a cookie counts.
func (a *Authenticator) Authenticate(r *http.Request) (Principal, error) {
	a = a.latest()
	client, err := a.client.of(r)
	if err != nil {
		return Principal{}, err
	}
	p, await, err := a.alone(r, client)
	if await {
		return Principal{}, deny(reason.Unauthenticated, "the credential is to come in the first message")
	}
	return p, err
}

// alone is authenticate outside of a Guard's handshake.
func (a *Authenticator) alone(r *http.Request, client client) (p Principal, await bool, err error) {
	fl, err := a.inFlight.fly(client)
	if err != nil {
		return Principal{}, false, err
	}
	defer fl.done()
	return a.authenticate(r, client, fl, a.ownPage(r))
}

// authenticate is Authenticate for a client that is known. own says that a page of
// a listed origin sends r: only then a cookie counts. await says that the
// credential comes in the first message. flight is held for as long as a verifier
// runs, even if nobody waits for it any more.
func (a *Authenticator) authenticate(r *http.Request, client client, fl *flight, own bool) (p Principal, await bool, err error) {
	p, await, err = a.demand(r, client, fl, own)
	if err != nil && a.cfg.InsecureReportOnly {
		a.report(r, err)
		return Principal{}, false, nil
	}
	return p, await, err
}

func (a *Authenticator) demand(r *http.Request, client client, fl *flight, own bool) (p Principal, await bool, err error) {
	cred, err := find(r, a.sources)
	if err != nil {
		return Principal{}, false, err
	}
	switch cred.kind {
	case sourceNone:
		switch {
		case a.cfg.Sources.FirstMessage:
			return Principal{}, true, nil
		case a.cfg.InsecureAnonymous:
			return Principal{}, false, nil
		}
		return Principal{}, false, deny(reason.Unauthenticated, "no credential")
	case sourceCookie:
		if !own {
			return Principal{}, false, foreignCookie()
		}
	}
	p, err = a.verify(r.Context(), cred, client, r.Header.Get("Origin"), fl)
	p.cookie = cred.kind == sourceCookie
	return p, false, err
}

// foreignCookie refuses a cookie that may be sent for a page of somebody else's.
func foreignCookie() error {
	return deny(reason.Unauthenticated, "a cookie counts only with a listed Origin")
}

// verify judges a credential, within the failure budget of its client.
func (a *Authenticator) verify(ctx context.Context, cred credential, client client, origin string, fl *flight) (Principal, error) {
	if cred.kind == sourceTicket {
		if a.tickets == nil {
			return Principal{}, deny(reason.Unauthenticated, "nobody to ask")
		}
		if !a.tickets.shared {
			fl = nil // nothing to wait for
		}
		return a.guarded(ctx, client, cred.token, fl, func(ctx context.Context) (Principal, error) {
			return a.tickets.redeem(ctx, cred.token, origin)
		})
	}
	if a.cfg.Verifier == nil {
		return Principal{}, deny(reason.Unauthenticated, "nobody to ask")
	}
	p, err := a.guarded(ctx, client, cred.token, fl, func(ctx context.Context) (Principal, error) {
		return a.verified.ask(ctx, cred.token, a.cfg.Verifier)
	})
	if err != nil {
		return Principal{}, err
	}
	return a.sighted(cred.token, p), nil
}

// sighted notes that a credential has been accepted, and returns p with the
// moment at which it first was. The caller looks at the revocations afterwards: so
// a revocation finds the credential noted, or the credential came after it. An
// empty token is a login of the application's, which is known by its Principal.
func (a *Authenticator) sighted(token string, p Principal) Principal {
	first := func(at time.Time) {
		if p.seen.IsZero() || at.Before(p.seen) {
			p.seen = at
		}
	}
	if token != "" {
		first(a.seen.Note(a.seen.Key("token", token), !p.IssuedAt.IsZero()))
		if p.SessionID == "" {
			return p
		}
	}
	// Another spelling of a token, such as the second signature that every ECDSA
	// signature has, is no other login. An issue time that is not ahead of the
	// clock is earlier than any moment at which the login can be seen: it need
	// not be noted.
	login := a.seen.Key("login", p.Subject, p.SessionID, p.IssuedAt.UTC().Format(time.RFC3339Nano))
	if p.IssuedAt.After(time.Now()) {
		first(a.seen.Note(login, true))
	} else if at, ok := a.seen.Look(login); ok {
		first(at)
	}
	return p
}

// guarded asks ask whom a credential stands for, in bounded time, unless its
// client or the credential itself has failed too often. How many can be asked
// about at once is bounded by the handshakes in flight. A failure is charged
// when the answer is there, whether or not anybody still waits for it.
func (a *Authenticator) guarded(ctx context.Context, client client, secret string, fl *flight, ask func(context.Context) (Principal, error)) (Principal, error) {
	var keys []keyed.Key
	limit := a.cfg.Failures.limit()
	if !a.cfg.Failures.off() {
		keys = append(keys, client.in(a.failures))
		if secret != "" {
			keys = append(keys, a.failures.String("credential:"+secret))
		}
	}
	for _, k := range keys {
		if wait, ok := a.failures.Peek(k, 1, limit, time.Now()); !ok {
			return Principal{}, denyRetry(reason.Guessing, wait)
		}
	}
	judge := func(ctx context.Context) (Principal, error) {
		p, err := judged(ctx, ask)
		if errors.Is(err, reason.Unauthenticated) {
			for _, k := range keys {
				a.failures.Charge(k, 1, limit, time.Now())
			}
		}
		return p, err
	}
	if fl == nil {
		return judge(ctx)
	}
	fl.hold()
	return within(ctx, a.cfg.VerifyTimeout, fl.done, judge)
}

// within waits for f no longer than limit. Left behind, f holds what done gives
// back: it cannot pile up.
func within[T any](ctx context.Context, limit time.Duration, done func(), f func(context.Context) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	results := make(chan result, 1)
	go func() {
		defer done()
		r := result{err: deny(reason.Unavailable, "panicked")}
		defer func() {
			_ = recover() // with what it was given, perhaps
			results <- r
		}()
		r.v, r.err = f(ctx)
	}()
	select {
	case got := <-results:
		return got.v, got.err
	case <-ctx.Done():
		var none T
		return none, deny(reason.Unavailable, "no answer in time")
	}
}

// judged asks, and survives.
func judged(ctx context.Context, ask func(context.Context) (Principal, error)) (p Principal, err error) {
	defer func() {
		if recover() != nil { // with what it was given, perhaps
			p, err = Principal{}, deny(reason.Unavailable, "verifier panicked")
		}
	}()
	return settle(ask(ctx))
}

// maxRevalidating is how many connections are asked about at once.
const maxRevalidating = 64

// revalidate asks whether p is still good, in bounded time. Its caller has a place
// in revalidating, which comes back when the hook does.
func (a *Authenticator) revalidate(ctx context.Context, p Principal) (Principal, error) {
	p.Scopes = slices.Clone(p.Scopes) // the hook's
	done := func() { <-a.revalidating }
	fresh, err := within(ctx, a.cfg.VerifyTimeout, done, func(ctx context.Context) (Principal, error) {
		return judged(ctx, func(ctx context.Context) (Principal, error) { return a.cfg.Revalidate(ctx, p) })
	})
	if err == nil && fresh.Subject != p.Subject {
		return Principal{}, deny(reason.Unauthenticated, "revalidated as another subject")
	}
	return fresh, err
}

// verified keeps the good answers of a Verifier, by the hash of what was asked
// about.
type verified struct {
	ttl time.Duration

	mu      sync.Mutex
	all     map[[sha256.Size]byte]answer
	cleared uint64
}

type answer struct {
	principal Principal
	until     time.Time
}

// maxVerified bounds the answers that are kept; beyond it any one goes.
const maxVerified = 10_000

func (v *verified) ask(ctx context.Context, token string, verify Verifier) (Principal, error) {
	if v == nil {
		return verify(ctx, token)
	}
	key := sha256.Sum256([]byte(token))
	v.mu.Lock()
	got, ok := v.all[key]
	cleared := v.cleared
	v.mu.Unlock()
	if ok && time.Now().Before(got.until) {
		return got.principal, nil
	}
	p, err := verify(ctx, token)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil:
		delete(v.all, key)
	case v.cleared == cleared: // else somebody was revoked while it was asked
		if len(v.all) >= maxVerified {
			for k := range v.all {
				delete(v.all, k)
				break
			}
		}
		v.all[key] = answer{p.clone(), time.Now().Add(v.ttl)}
	}
	return p, err
}

func (v *verified) clear() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.all)
	v.cleared++
}

// settle judges what a verifier has answered. The text of its error may hold
// the credential: it goes nowhere.
func settle(p Principal, err error) (Principal, error) {
	switch {
	case err == nil && p.Subject == "":
		return Principal{}, deny(reason.Unavailable, "the verifier returned no subject")
	case err == nil && !p.Expires.IsZero() && !time.Now().Before(p.Expires):
		return Principal{}, deny(reason.Unauthenticated, "credential expired")
	case err == nil:
		return p.clone(), nil
	case errors.Is(err, reason.Unavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Principal{}, deny(reason.Unavailable, "verifier unavailable")
	}
	return Principal{}, deny(reason.Unauthenticated, "invalid credential")
}

// bearer returns the token of the Authorization header.
func bearer(r *http.Request) (string, error) {
	cred, err := find(r, []source{{kind: sourceHeader}})
	if err == nil && cred.kind == sourceNone {
		err = deny(reason.Unauthenticated, "no credential")
	}
	return cred.token, err
}

// Handler lets a request with a valid credential pass to next, without those that
// end up in logs, or answers 401, 429 or 503. [PrincipalOf] says who it is.
func (a *Authenticator) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, m := a.latest(), marksOf(r)
		if m.has(a.line) {
			next.ServeHTTP(w, r)
			return
		}
		client, err := a.client.of(r)
		if err != nil {
			a.refuse(w, r, err, audit.Event{})
			return
		}
		if err := a.banned(client); err != nil {
			a.refuse(w, r, err, audit.Event{Client: client.String()})
			return
		}
		p, await, err := a.alone(r, client)
		if err != nil {
			a.offended(r, client, err)
			a.refuse(w, r, err, audit.Event{Client: client.String()})
			return
		}
		if await {
			next.ServeHTTP(w, r) // the Guard behind waits for it
			return
		}
		m.principals = append(m.principals[:len(m.principals):len(m.principals)], found{a.line, p})
		next.ServeHTTP(w, m.with(a.strip(r), a.line))
	})
}

// PrincipalOf returns whom the [Authenticator] in front of a handler found.
func PrincipalOf(r *http.Request) (Principal, bool) {
	if m := marksOf(r); len(m.principals) > 0 {
		return m.principals[len(m.principals)-1].principal, true
	}
	return Principal{}, false
}

// parseFirstMessage reads {"type":"auth","token":"…"}: strict JSON, those keys
// in that spelling.
func parseFirstMessage(msg []byte) (token string, err error) {
	if err := jsonschema.Scan(msg, nil); err != nil {
		return "", deny(reason.Unauthenticated, "first message is not JSON")
	}
	var m map[string]json.RawMessage
	var typ string
	if json.Unmarshal(msg, &m) != nil || json.Unmarshal(m["type"], &typ) != nil || typ != "auth" ||
		json.Unmarshal(m["token"], &token) != nil || token == "" || len(token) > maxToken {
		return "", deny(reason.Unauthenticated, "first message is not a credential")
	}
	return token, nil
}

// flight is a place among the handshakes in flight. It has several holders:
// the handshake, and a verifier that may outlive it.
type flight struct {
	release func()
	holders atomic.Int32
}

func (fl *flight) hold() {
	if fl != nil {
		fl.holders.Add(1)
	}
}

func (fl *flight) done() {
	if fl != nil && fl.holders.Add(-1) == 0 {
		fl.release()
	}
}

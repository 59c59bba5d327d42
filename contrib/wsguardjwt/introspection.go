package wsguardjwt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/wsguard/wsguard"
)

// IntrospectionConfig says how opaque tokens are verified, by asking the authorization server
// about them (RFC 7662). Endpoint, Audience, ClientID and ClientSecret are required, unless their
// comments say otherwise. The zero value of every other field is its default.
type IntrospectionConfig struct {
	// Endpoint is the URL of the introspection endpoint, which the metadata of the
	// authorization server calls introspection_endpoint. It must be an https URL, or an http
	// URL of a loopback host.
	Endpoint string

	// ClientID and ClientSecret are the credentials of this service at the Endpoint. They are
	// required, unless AuthMethod is "none".
	ClientID, ClientSecret string

	// AuthMethod says how this service authenticates at the Endpoint. With
	// "client_secret_basic" it uses HTTP Basic, and encodes ClientID and ClientSecret as
	// RFC 6749 §2.3.1 says. With "client_secret_post" it sends them in the body. With "none"
	// the Transport must authenticate, for example by mutual TLS, and ClientID is sent in the
	// body if it is set. The default is "client_secret_basic".
	AuthMethod string

	// Audience lists names of this service. The aud of an answer must have one of them, to the
	// letter. Audience is required unless InsecureAnyAudience is true.
	Audience []string

	// InsecureAnyAudience accepts tokens for other services, and answers that have no aud. Use
	// it only if the authorization server answers {"active":false} for a token that is not for
	// the client that asks. The default is false.
	InsecureAnyAudience bool

	// Issuer is the iss that an answer must have, to the letter. By default an answer may have
	// any iss, or none.
	Issuer string

	// SubjectClaim is the name of the member of an answer that has the Principal.Subject. An
	// answer without it is refused. The default is "sub".
	SubjectClaim string

	// SessionClaim is the name of the member of an answer that has the Principal.SessionID. An
	// answer need not have it. The default is "sid".
	SessionClaim string

	// CacheTTL is how long the answer about an active token is used again. It is never used after
	// its exp. A token that is revoked still opens connections for that long. The default is 1
	// minute, and it must be at most 1 hour. With wsguard.Off, Verify asks about every token each
	// time.
	CacheTTL time.Duration

	// MaxAge is how long a connection may last on an answer without exp. The connection is
	// then closed with 3000 expired. The default is 1 hour, and it must be at most 24 hours.
	// With wsguard.Off, an answer without exp is refused.
	MaxAge time.Duration

	// Leeway is how far the clock of the authorization server may be ahead. It applies to nbf
	// and iat, and not to exp. The default is 10 seconds, and wsguard.Off is no leeway. It
	// must be at most 30 seconds.
	Leeway time.Duration

	// MaxTokenBytes is how many bytes a token may have. Verify refuses a longer token without
	// asking. The default is 8 KiB. It cannot be Off.
	MaxTokenBytes int

	// MaxCalls is how many calls of the Endpoint may be under way at the same time. Further
	// tokens wait for one of them to end. The default is 32. It cannot be Off.
	MaxCalls int

	// InsecureAllowHTTP allows an Endpoint in clear text on a host that is not loopback.
	// Everybody on the way can then read the tokens and change the answers. The default is
	// false.
	InsecureAllowHTTP bool

	// Transport sends the requests. A request may take 10 seconds, and no redirect is
	// followed. The default is http.DefaultTransport.
	Transport http.RoundTripper

	// Principal, if set, decides about a token that is active. claims is the answer, such as
	// client_id and username. p is the Principal that Verify would return. Principal may
	// change p, but Verify returns the earlier of the two Expires. Numbers among the claims
	// are json.Number. An error refuses the token, as wsguard.Verifier says. The result is
	// used again for CacheTTL. The default, nil, returns p.
	Principal func(ctx context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error)

	// Logger is told at level Warn why the Endpoint could not be asked, at most once a minute.
	// The default is slog.Default().
	Logger *slog.Logger
}

const (
	inactiveFor    = 10 * time.Second // is not asked about again: a token that is not active
	maxAnswers     = 10_000           // of active tokens, and as many of others
	maxAnswerBytes = 64 << 10
	warnEvery      = time.Minute
)

// Introspection verifies tokens by asking the authorization server. [NewIntrospection] makes
// one. Many goroutines may use it at the same time.
type Introspection struct {
	// Read-only after NewIntrospection.
	cfg    IntrospectionConfig // with its defaults
	client *http.Client
	calls  chan struct{} // has an element for each call of the Endpoint that is under way

	mu       sync.Mutex                    // no other lock is taken while it is held
	active   recent[answer]                // guarded by mu
	inactive recent[time.Time]             // guarded by mu: until when a token is refused again
	asking   map[[sha256.Size]byte]*asking // guarded by mu: the tokens that are asked about now
	warned   time.Time                     // guarded by mu: when Logger was last told
}

// answer is what is known of a token that was active.
type answer struct {
	principal wsguard.Principal
	expires   time.Time // of the token; zero: the answer had no exp
	until     time.Time // when the answer is too old to be used again
}

// asking is a token that is being asked about. Calls with the same token share it.
type asking struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when principal and err are set

	// Guarded by mu of Introspection.
	waiting int  // the calls that wait; at 0 the request is cancelled
	late    bool // a call has waited as long as its context allows

	// Read-only after done is closed.
	principal wsguard.Principal
	err       error
}

// NewIntrospection returns an Introspection, or an error that has every mistake in cfg at once,
// each as a *wsguard.ConfigError. It sends no request.
func NewIntrospection(cfg IntrospectionConfig) (*Introspection, error) {
	var faults []error
	fault := func(field string, value any, reason string) {
		faults = append(faults, &wsguard.ConfigError{Field: "wsguardjwt.IntrospectionConfig." + field, Value: value, Reason: reason})
	}
	if _, err := parseURL(cfg.Endpoint, cfg.InsecureAllowHTTP); err != nil {
		fault("Endpoint", "", err.Error()) // a value could have a password in it
	}
	cfg.resolveClient(fault)
	cfg.Audience = slices.Clone(cfg.Audience)
	switch {
	case slices.Contains(cfg.Audience, ""):
		fault("Audience", "", "has an empty entry")
	case len(cfg.Audience) == 0 && !cfg.InsecureAnyAudience:
		fault("Audience", "", "is required: without it, tokens for other services are accepted")
	case len(cfg.Audience) > 0 && cfg.InsecureAnyAudience:
		fault("InsecureAnyAudience", true, "and Audience are both given")
	}
	cfg.resolveBounds(fault)
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if cfg.SubjectClaim == "" {
		cfg.SubjectClaim = "sub"
	}
	if cfg.SessionClaim == "" {
		cfg.SessionClaim = "sid"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Introspection{
		cfg:      cfg,
		client:   newClient(cfg.Transport),
		calls:    make(chan struct{}, cfg.MaxCalls),
		active:   recent[answer]{most: maxAnswers},
		inactive: recent[time.Time]{most: maxAnswers},
		asking:   map[[sha256.Size]byte]*asking{},
	}, nil
}

func (cfg *IntrospectionConfig) resolveClient(fault func(field string, value any, reason string)) {
	switch cfg.AuthMethod {
	case "":
		cfg.AuthMethod = "client_secret_basic"
	case "client_secret_basic", "client_secret_post":
	case "none":
		if cfg.ClientSecret != "" {
			fault("ClientSecret", "", "is given, but AuthMethod is none")
		}
		return
	default:
		fault("AuthMethod", cfg.AuthMethod, "is not one of client_secret_basic, client_secret_post, none")
	}
	if cfg.ClientID == "" {
		fault("ClientID", "", "is required: RFC 7662 wants the caller to authenticate")
	}
	if cfg.ClientSecret == "" {
		fault("ClientSecret", "", "is required: RFC 7662 wants the caller to authenticate")
	}
}

func (cfg *IntrospectionConfig) resolveBounds(fault func(field string, value any, reason string)) {
	bound(fault, &cfg.CacheTTL, "CacheTTL", time.Minute, time.Hour)
	bound(fault, &cfg.MaxAge, "MaxAge", time.Hour, 24*time.Hour)
	bound(fault, &cfg.Leeway, "Leeway", 10*time.Second, maxLeeway)
	positive(fault, &cfg.MaxTokenBytes, "MaxTokenBytes", 8<<10)
	positive(fault, &cfg.MaxCalls, "MaxCalls", 32)
}

// Verify is a wsguard.Verifier. The error of a token that is refused wraps
// wsguard.ErrUnauthenticated. It also wraps wsguard.ErrExpired if an answer has said that the
// token is active and for this service, but its exp has passed or its nbf or iat is still to
// come. The answer {"active":false} does not tell an expired token from an invented one. If the
// server cannot be asked or its answer cannot be understood, the error wraps
// wsguard.ErrUnavailable. No error contains any part of the token.
func (i *Introspection) Verify(ctx context.Context, token string) (wsguard.Principal, error) {
	if err := ctx.Err(); err != nil {
		return wsguard.Principal{}, &unavailable{err}
	}
	if token == "" || len(token) > i.cfg.MaxTokenBytes {
		return wsguard.Principal{}, refusal{jwt.ErrTokenMalformed}
	}
	key := sha256.Sum256([]byte(token))
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	if known, ok := i.active.get(key); ok {
		switch {
		case !known.expires.IsZero() && !now.Before(known.expires):
			return wsguard.Principal{}, untimely{jwt.ErrTokenExpired}
		case now.Before(known.until):
			return share(known.principal), nil
		}
	}
	if until, ok := i.inactive.get(key); ok && now.Before(until) {
		return wsguard.Principal{}, refusal{jwt.ErrTokenUnverifiable}
	}
	a := i.begin(key, token)
	a.waiting++
	i.mu.Unlock()
	var err error
	late := false
	select {
	case <-a.done:
		err = a.err
	case <-ctx.Done():
		err = &unavailable{ctx.Err()}
		late = ctx.Err() == context.DeadlineExceeded
	}
	i.mu.Lock()
	a.late = a.late || late
	if a.waiting--; a.waiting == 0 {
		a.cancel()
		if i.asking[key] == a {
			delete(i.asking, key) // a later call must not join a request that is cancelled
		}
	}
	if err != nil {
		return wsguard.Principal{}, err
	}
	return share(a.principal), nil
}

// share returns p for one of several callers. They must not share a slice.
func share(p wsguard.Principal) wsguard.Principal {
	p.Scopes = slices.Clone(p.Scopes)
	return p
}

// begin returns the request about a token that is under way, or makes one. The caller holds mu.
func (i *Introspection) begin(key [sha256.Size]byte, token string) *asking {
	if a := i.asking[key]; a != nil {
		return a
	}
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	a := &asking{cancel: cancel, done: make(chan struct{})}
	i.asking[key] = a
	go func() {
		defer cancel()
		got, err := answer{}, error(&unavailable{errors.New("the transport or the hook ended the request")})
		defer func() {
			_ = recover() // whatever they do, err says that there is no answer
			i.settle(key, a, got, err)
		}()
		got, err = i.judge(ctx, token)
	}()
	return a
}

// settle ends a request. It calls no method of an error that may be the application's before
// the callers have been told.
func (i *Introspection) settle(key [sha256.Size]byte, a *asking, got answer, err error) {
	a.principal, a.err = got.principal, err
	warn := false
	i.mu.Lock()
	now := time.Now()
	if i.asking[key] == a {
		delete(i.asking, key)
	}
	switch fault := err.(type) {
	case nil:
		if i.cfg.CacheTTL > 0 {
			got.until = now.Add(i.cfg.CacheTTL)
			i.active.put(key, got)
		}
	case refusal:
		if fault.why == errInactive {
			i.inactive.put(key, now.Add(inactiveFor))
		}
	case *unavailable:
		if a.late {
			err = &unavailable{errors.New("there was no answer in time")}
		}
		if (a.waiting > 0 || a.late) && (i.warned.IsZero() || now.Sub(i.warned) >= warnEvery) {
			i.warned, warn = now, true
		}
	}
	i.mu.Unlock()
	close(a.done)
	if warn {
		defer func() { _ = recover() }() // the logger is the application's, and may panic
		i.cfg.Logger.Warn("wsguardjwt: cannot introspect tokens", "error", err)
	}
}

// errInactive is the reason of a token about which the server has said that it is not active.
var errInactive = errors.New("token is not active")

// judge asks about a token, and decides by the answer.
func (i *Introspection) judge(ctx context.Context, token string) (got answer, err error) {
	select {
	case i.calls <- struct{}{}:
	case <-ctx.Done():
		return got, &unavailable{errors.New("too many requests are under way")}
	}
	defer func() { <-i.calls }()
	claims, err := i.ask(ctx, token)
	if err != nil {
		return got, &unavailable{err}
	}
	if active, _ := claims["active"].(bool); !active {
		return got, refusal{errInactive}
	}
	p, err := i.principal(claims)
	if err != nil {
		return got, err
	}
	got.expires = p.Expires
	if p.Expires.IsZero() {
		if i.cfg.MaxAge == 0 {
			return got, refusal{jwt.ErrTokenRequiredClaimMissing}
		}
		p.Expires = time.Now().Add(i.cfg.MaxAge)
	}
	got.principal, err = decide(ctx, i.cfg.Principal, claims, p)
	return got, err
}

// principal returns the Principal that the answer about an active token describes, or why the
// token is refused. It looks at the times last. So a token that is refused as expired has no
// other fault.
func (i *Introspection) principal(claims jwt.MapClaims) (p wsguard.Principal, err error) {
	if iss, _ := claims["iss"].(string); i.cfg.Issuer != "" && iss != i.cfg.Issuer {
		return p, refusal{jwt.ErrTokenInvalidIssuer}
	}
	if !i.cfg.InsecureAnyAudience && !anyOf(claims, i.cfg.Audience) {
		return p, refusal{jwt.ErrTokenInvalidAudience}
	}
	// Some servers also introspect refresh tokens and ID tokens, and tokens that need a proof
	// of possession. RFC 7662 has token_type, and some servers have token_use.
	if kind, there := claims["token_type"]; there {
		if s, _ := kind.(string); !strings.EqualFold(s, "bearer") {
			return p, refusal{jwt.ErrTokenUnverifiable}
		}
	}
	if use, there := claims["token_use"]; there && use != "access" && use != "access_token" {
		return p, refusal{jwt.ErrTokenUnverifiable}
	}
	p.Subject, _ = claims[i.cfg.SubjectClaim].(string)
	if p.Subject == "" {
		return p, refusal{jwt.ErrTokenRequiredClaimMissing}
	}
	if !describe(&p, claims, i.cfg.SessionClaim) {
		return p, refusal{jwt.ErrTokenInvalidClaims}
	}
	if exp, err := claims.GetExpirationTime(); err != nil {
		return p, refusal{jwt.ErrTokenInvalidClaims}
	} else if exp != nil {
		p.Expires = exp.Time
	}
	return p, timesFit(&p, claims, i.cfg.Leeway)
}

// answerSchema makes the JSON of an answer as strict as that of a token.
var answerSchema = mustCompile(`{"type": "object", "required": ["active"], "allOf": [{"properties": {"active": {"type": "boolean"}}}], ` + registeredClaims + `}`)

// ask sends the request of RFC 7662 §2.1. Its error has no part of the token, unless the
// transport puts it there.
func (i *Introspection) ask(ctx context.Context, token string) (jwt.MapClaims, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	if i.cfg.AuthMethod != "client_secret_basic" && i.cfg.ClientID != "" {
		form.Set("client_id", i.cfg.ClientID)
	}
	if i.cfg.AuthMethod == "client_secret_post" {
		form.Set("client_secret", i.cfg.ClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.cfg.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("not a URL")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if i.cfg.AuthMethod == "client_secret_basic" {
		req.SetBasicAuth(url.QueryEscape(i.cfg.ClientID), url.QueryEscape(i.cfg.ClientSecret))
	}
	res, err := i.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", req.URL.Host, withoutURL(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes+1))
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	var claims jwt.MapClaims
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		err = errors.New("status 401: the server does not accept ClientID and ClientSecret")
	case res.StatusCode != http.StatusOK:
		err = fmt.Errorf("status %d", res.StatusCode)
	case err != nil:
	case len(body) > maxAnswerBytes:
		err = fmt.Errorf("more than %d bytes", maxAnswerBytes)
	case kind != "application/json":
		err = errors.New("the answer is not application/json")
	case !decodeJSON(body, answerSchema, &claims):
		err = errors.New("the answer is not the JSON of RFC 7662")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", req.URL.Host, err)
	}
	return claims, nil
}

// recent remembers the values that were put last. Its zero value with most set is ready to use.
// Its owner guards it.
type recent[V any] struct {
	most  int
	all   map[[sha256.Size]byte]V
	order [][sha256.Size]byte // a ring: the keys in the order of their first put
	next  int                 // the oldest of order, once it is full
}

func (r *recent[V]) get(key [sha256.Size]byte) (V, bool) {
	v, ok := r.all[key]
	return v, ok
}

// put stores a value. If there are too many, it displaces the one that was first put the longest
// ago.
func (r *recent[V]) put(key [sha256.Size]byte, v V) {
	if r.all == nil {
		r.all = map[[sha256.Size]byte]V{}
	}
	if _, there := r.all[key]; !there {
		if len(r.order) < r.most {
			r.order = append(r.order, key)
		} else {
			delete(r.all, r.order[r.next])
			r.order[r.next] = key
			r.next = (r.next + 1) % r.most
		}
	}
	r.all[key] = v
}

package wsguardjwt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const (
	fetchTimeout  = 10 * time.Second
	fetchPause    = 3 * time.Second  // after a fetch
	firstRetry    = 5 * time.Second  // after a failed fetch, then doubled up to lastRetry
	lastRetry     = time.Minute      // after many failed fetches
	absentFor     = 10 * time.Second // is not looked for again: a kid that a fetch has not found
	maxEarly      = 32               // calls that wait for a fetch that has not begun yet
	maxAbsent     = 1024             // kids that are remembered as absent
	maxBodyBytes  = 256 << 10
	maxKeyIDBytes = 256
)

// remote is a JWK Set that is fetched when a token needs it.
//
// The package jwkset parses the keys. Its HTTP storage, on which keyfunc stands, is not used. It
// refreshes the keys from a goroutine of its own and reads a body of any size. It drops the
// whole set because of one key that it does not accept. It lets a verifier wait for its rate
// limit, fetches as often as there are waiters, and cannot tell "no such key" from "could not
// ask".
type remote struct {
	// Read-only after newRemote.
	client   *http.Client
	issuer   string // not empty: url is discovered
	insecure bool   // clear text is allowed
	algs     []string
	maxAge   time.Duration
	log      *slog.Logger

	mu       sync.Mutex           // no other lock is taken while it is held
	url      string               // guarded by mu: the URL of the set; empty: not discovered yet
	keys     []publicKey          // guarded by mu; nil: none
	begun    int                  // guarded by mu: how many fetches have begun
	of       int                  // guarded by mu: which of them brought keys, counted from 1
	fetched  time.Time            // guarded by mu: when keys came
	tried    time.Time            // guarded by mu: when the last fetch ended
	failures int                  // guarded by mu: the failed fetches since keys came
	err      error                // guarded by mu: the error of the last fetch
	flight   *flight              // guarded by mu: the fetch that is under way or about to begin; nil: none is
	absent   map[string]time.Time // guarded by mu: until when a kid that is not in keys is not looked for
}

// flight is a fetch.
type flight struct {
	begins  time.Time     // read-only
	timer   *time.Timer   // read-only: begins the fetch; nil: it began at once
	landed  chan struct{} // closed when the fetch has ended
	waiting int           // guarded by mu of remote: the calls that wait
}

// publicKey is a key that fits at least one of the algorithms.
type publicKey struct {
	kid    string
	issuer string // the only issuer whose tokens it verifies; empty: not said
	algs   []string
	key    jwt.VerificationKey
}

// newClient returns a client that follows no redirect. The URL of a redirect has not been
// checked, and would get the token of an introspection.
func newClient(t http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func newRemote(cfg Config) *remote {
	r := &remote{
		client:   newClient(cfg.Transport),
		url:      cfg.JWKSURL,
		insecure: cfg.InsecureAllowHTTP,
		algs:     cfg.Algorithms,
		maxAge:   cfg.MaxKeyAge,
		log:      cfg.Logger,
		absent:   map[string]time.Time{},
	}
	if cfg.JWKSURL == "" {
		r.issuer = cfg.Issuer
	}
	return r
}

// find returns the keys that a token may have been signed with. If the set has no key of that
// kid, find waits for a fetch that begins after the call. So no token is refused because its key
// has just been published. Strangers may invent kids, which cost little:
//
//   - Between two fetches there is a pause, and all calls share a fetch.
//   - A kid that such a fetch has not found is refused at once for a while.
//   - A token that has another fault is refused at once.
//   - Few calls wait for a fetch that has not begun. The others get wsguard.ErrUnavailable.
func (r *remote) find(ctx context.Context, w wanted) ([]jwt.VerificationKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	came := r.begun
	for waited := false; ; waited = true {
		now := time.Now()
		usable := r.usable(now)
		if usable {
			keys, known := r.lookup(w)
			if known && now.Sub(r.fetched) >= r.maxAge/4 && !now.Before(r.due()) {
				r.begin(now) // for later calls
			}
			switch {
			case known:
				return keys, nil
			case r.of > came:
				r.note(w.kid, now)
				return nil, refusal{jwt.ErrTokenUnverifiable}
			case now.Before(r.absent[w.kid]) || !w.promising():
				return nil, refusal{jwt.ErrTokenUnverifiable}
			}
		}
		if r.err != nil && (waited || r.flight == nil && now.Before(r.due())) {
			return nil, noKeys(r.err)
		}
		if err := r.await(ctx, r.begin(now), usable); err != nil {
			return nil, err
		}
	}
}

// await waits for the end of a fetch. If nobody waits any more for a fetch that has not begun, it
// never begins. The caller holds mu, and await unlocks it while it waits.
func (r *remote) await(ctx context.Context, f *flight, usable bool) error {
	if usable && f.waiting >= maxEarly && f.begins.After(time.Now()) {
		return &unavailable{errors.New("too many tokens name keys that are not known")}
	}
	f.waiting++
	r.mu.Unlock()
	err := wait(ctx, f.landed)
	r.mu.Lock()
	f.waiting--
	if f.waiting == 0 && f.timer != nil && f.timer.Stop() {
		r.flight = nil
	}
	return err
}

// note remembers that a fetch has not found the kid.
func (r *remote) note(kid string, now time.Time) {
	if len(r.absent) >= maxAbsent {
		maps.DeleteFunc(r.absent, func(_ string, until time.Time) bool { return !now.Before(until) })
	}
	if len(r.absent) < maxAbsent {
		r.absent[strings.Clone(kid)] = now.Add(absentFor)
	}
}

func (r *remote) ready(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.usable(now) {
		return nil
	}
	if r.flight != nil || !now.Before(r.due()) {
		if err := r.await(ctx, r.begin(now), false); err != nil {
			return err
		}
	}
	if r.usable(time.Now()) {
		return nil
	}
	return noKeys(r.err)
}

func noKeys(why error) error {
	if why == nil {
		return &unavailable{errors.New("the keys are too old")}
	}
	return &unavailable{fmt.Errorf("fetching keys: %w", why)}
}

func wait(ctx context.Context, flight <-chan struct{}) error {
	select {
	case <-flight:
		return nil
	case <-ctx.Done():
		return &unavailable{ctx.Err()}
	}
}

func (r *remote) usable(now time.Time) bool {
	return len(r.keys) > 0 && now.Sub(r.fetched) < r.maxAge
}

// lookup returns the keys that a token may have been signed with, and whether the set has the
// kid. If it has, fetching the set again is of no use, even if no key fits. Without a kid, only
// one key may fit (OpenID Connect Core §10.1).
func (r *remote) lookup(w wanted) (keys []jwt.VerificationKey, known bool) {
	for _, k := range r.keys {
		if w.kid != "" && w.kid != k.kid {
			continue
		}
		known = true
		if slices.Contains(k.algs, w.alg) && k.isOf(w.iss, w.tid) {
			keys = append(keys, k.key)
		}
	}
	if w.kid == "" && len(keys) > 1 {
		keys = nil
	}
	return keys, known
}

// isOf reports whether the key verifies tokens of the issuer. Keys of Microsoft Entra say of
// which issuer they are, some with a template.
func (k publicKey) isOf(iss, tid string) bool {
	return k.issuer == "" || strings.ReplaceAll(k.issuer, tenantTemplate, tid) == iss
}

// due returns when the next fetch may begin.
func (r *remote) due() time.Time {
	switch {
	case r.tried.IsZero():
		return time.Time{}
	case r.err != nil:
		return r.tried.Add(min(firstRetry<<min(r.failures, 5)/2, lastRetry))
	}
	return r.tried.Add(fetchPause)
}

// begin returns the fetch that is under way or about to begin, or makes one that begins when it
// is due. The context of a caller does not bound a fetch, because others wait for it too.
func (r *remote) begin(now time.Time) *flight {
	if r.flight != nil {
		return r.flight
	}
	f := &flight{begins: now, landed: make(chan struct{})}
	r.flight = f
	if due := r.due(); due.After(now) {
		f.begins = due
		f.timer = time.AfterFunc(due.Sub(now), func() { r.fly(f) })
	} else {
		go r.fly(f)
	}
	return f
}

// fly fetches the keys.
func (r *remote) fly(f *flight) {
	r.mu.Lock()
	r.begun++
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	keys, err := []publicKey(nil), errors.New("the transport ended the fetch")
	defer func() { r.land(f, keys, err) }() // whatever the transport does
	keys, err = r.fetch(ctx)
}

// land ends the fetch that is under way. It calls no method of the transport's error, because
// the error may be the application's.
func (r *remote) land(f *flight, keys []publicKey, err error) {
	r.mu.Lock()
	r.flight = nil
	r.tried = time.Now()
	r.err = err
	if err == nil {
		r.keys, r.of, r.fetched, r.failures = keys, r.begun, r.tried, 0
	} else {
		if _, withdrawn := err.(*noKeysError); withdrawn {
			r.keys = nil // the issuer has withdrawn them all
		}
		r.failures++
	}
	r.mu.Unlock()
	close(f.landed)
	if err != nil {
		defer func() { _ = recover() }() // the logger is the application's, and may panic
		r.log.Warn("wsguardjwt: cannot fetch keys", "error", err)
	}
}

// noKeysError is the error of a set that has no usable key.
type noKeysError struct{ of int }

func (e *noKeysError) Error() string {
	return fmt.Sprintf("none of the %d keys in the set is public, for signatures, strong enough and of a configured algorithm", e.of)
}

func (r *remote) fetch(ctx context.Context) (keys []publicKey, err error) {
	defer func() {
		if recover() != nil { // in a transport that is not ours
			keys, err = nil, errors.New("the transport panicked")
		}
	}()
	r.mu.Lock()
	at := r.url
	r.mu.Unlock()
	if r.issuer != "" {
		if at == "" {
			if at, err = r.discover(ctx); err != nil {
				return nil, fmt.Errorf("discovery: %w", err)
			}
		}
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.url = at
			if err != nil {
				r.url = "" // it may have moved
			}
		}()
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := r.get(ctx, at, &set); err != nil {
		return nil, err
	}
	if set.Keys == nil {
		return nil, errors.New("not a JWK Set")
	}
	for _, raw := range set.Keys {
		if k, ok := r.parse(raw); ok {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, &noKeysError{len(set.Keys)}
	}
	return keys, nil
}

// discover returns the jwks_uri of the issuer.
func (r *remote) discover(ctx context.Context) (string, error) {
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	// Microsoft Entra has a document for all tenants, whose issuer is the template.
	base := strings.Replace(strings.TrimSuffix(r.issuer, "/"), tenantTemplate, "common", 1)
	if err := r.get(ctx, base+"/.well-known/openid-configuration", &doc); err != nil {
		return "", err
	}
	if doc.Issuer != r.issuer {
		return "", errors.New("the document is of another issuer")
	}
	u, err := parseURL(doc.JWKSURI, r.insecure)
	if err != nil {
		return "", fmt.Errorf("jwks_uri %w", err)
	}
	// A loopback issuer may do without TLS. An issuer elsewhere must not point to a loopback
	// URL without TLS.
	if u.Scheme != "https" && !strings.HasPrefix(strings.ToLower(r.issuer), "http:") {
		return "", errors.New("jwks_uri is not https")
	}
	return doc.JWKSURI, nil
}

func (r *remote) get(ctx context.Context, at string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return errors.New("not a URL")
	}
	req.Header.Set("Accept", "application/json")
	req.Close = true // an idle connection would be two goroutines
	res, err := r.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", req.URL.Host, withoutURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", req.URL.Host, res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBodyBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", req.URL.Host, err)
	case len(body) > maxBodyBytes:
		return fmt.Errorf("%s: more than %d bytes", req.URL.Host, maxBodyBytes)
	case json.Unmarshal(body, into) != nil:
		return fmt.Errorf("%s: not the JSON that it should be", req.URL.Host)
	}
	return nil
}

// withoutURL returns an error of an http.Client without the URL, whose query may be a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// parse returns the key if it can be used. A key that cannot be used is no fault of the set,
// because issuers also publish keys for other purposes.
func (r *remote) parse(raw json.RawMessage) (k publicKey, ok bool) {
	var m jwkset.JWKMarshal
	var more struct {
		Issuer *string `json:"issuer"`
	}
	if json.Unmarshal(raw, &m) != nil || json.Unmarshal(raw, &more) != nil || len(m.KID) > maxKeyIDBytes {
		return k, false
	}
	if more.Issuer != nil {
		if k.issuer = *more.Issuer; k.issuer == "" {
			return k, false
		}
	}
	switch {
	case m.USE != "" && m.USE != jwkset.UseSig,
		len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify),
		m.D != "" || m.K != "": // a secret that is published is none
		return k, false
	}
	m.X5C, m.X5U, m.X5T, m.X5TS256 = nil, "", "", "" // certificates say nothing that we ask for
	keyAlg := m.ALG.String()
	m.ALG = "" // jwkset does not know Ed25519
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return k, false
	}
	k.kid, k.key = m.KID, jwk.Key()
	for _, alg := range r.algs {
		if isFor(keyAlg, alg) && algorithms[alg].fits(k.key) == "" {
			k.algs = append(k.algs, alg)
		}
	}
	return k, len(k.algs) > 0
}

// parseURL returns the URL if the answers from it can be trusted.
func parseURL(s string, insecure bool) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return nil, errors.New("is not an absolute URL")
	case u.User != nil:
		return nil, errors.New("has a user in its URL")
	case u.Fragment != "":
		return nil, errors.New("has a fragment in its URL")
	case u.Scheme == "https":
		return u, nil
	case u.Scheme != "http":
		return nil, errors.New("is not https")
	case !insecure && !loopback(u.Hostname()):
		return nil, errors.New("is not https: anybody on the way could change what it says")
	}
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

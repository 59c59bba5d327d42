package wsguardjwt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	fetchInterval = time.Minute     // between fetches, while there are keys
	firstRetry    = 5 * time.Second // after a failure without keys, then doubled up to fetchInterval
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

	mu       sync.Mutex    // no other lock is taken while it is held
	url      string        // guarded by mu: the URL of the set; empty: not discovered yet
	keys     []publicKey   // guarded by mu; nil: none
	fetched  time.Time     // guarded by mu: when keys came
	tried    time.Time     // guarded by mu: when the last fetch ended
	failures int           // guarded by mu: the failed fetches since keys came
	err      error         // guarded by mu: the error of the last fetch
	flight   chan struct{} // guarded by mu: closed when the fetch that is under way ends; nil: none is
}

// publicKey is a key that fits at least one of the algorithms.
type publicKey struct {
	kid  string
	algs []string
	key  jwt.VerificationKey
}

func newRemote(cfg Config) *remote {
	r := &remote{
		client: &http.Client{
			Transport: cfg.Transport,
			// The URL of a redirect has not been checked.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		url:      cfg.JWKSURL,
		insecure: cfg.InsecureAllowHTTP,
		algs:     cfg.Algorithms,
		maxAge:   cfg.MaxKeyAge,
		log:      cfg.Logger,
	}
	if cfg.JWKSURL == "" {
		r.issuer = cfg.Issuer
	}
	return r
}

func (r *remote) find(ctx context.Context, kid, alg string) ([]jwt.VerificationKey, error) {
	for waited := false; ; waited = true {
		r.mu.Lock()
		now := time.Now()
		usable := r.usable(now)
		keys, known := r.lookup(kid, alg)
		if usable && known {
			if now.Sub(r.fetched) >= r.maxAge/4 {
				r.begin(now) // for later calls
			}
			r.mu.Unlock()
			return keys, nil
		}
		flight := r.flight
		if !waited {
			flight = r.begin(now)
		}
		failed := r.err
		r.mu.Unlock()
		switch {
		case flight != nil && !waited:
			if err := wait(ctx, flight); err != nil {
				return nil, err
			}
		case usable && failed == nil:
			return nil, jwt.ErrTokenUnverifiable // the set was fetched within the last minute and has no such key
		default:
			return nil, noKeys(failed)
		}
	}
}

func (r *remote) ready(ctx context.Context) error {
	r.mu.Lock()
	now := time.Now()
	if r.usable(now) {
		r.mu.Unlock()
		return nil
	}
	flight := r.begin(now)
	r.mu.Unlock()
	if flight != nil {
		if err := wait(ctx, flight); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
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
func (r *remote) lookup(kid, alg string) (keys []jwt.VerificationKey, known bool) {
	for _, k := range r.keys {
		if kid != "" && kid != k.kid {
			continue
		}
		known = true
		if slices.Contains(k.algs, alg) {
			keys = append(keys, k.key)
		}
	}
	if kid == "" && len(keys) > 1 {
		keys = nil
	}
	return keys, known
}

// begin returns the fetch that is under way, or starts one. It returns nil if it is too early
// for another fetch. The context of a caller does not bound a fetch, because a caller that
// leaves would waste the one fetch of a minute.
func (r *remote) begin(now time.Time) chan struct{} {
	if r.flight != nil {
		return r.flight
	}
	interval := fetchInterval
	if !r.usable(now) {
		interval = min(firstRetry<<min(r.failures, 5)/2, fetchInterval)
	}
	if !r.tried.IsZero() && now.Sub(r.tried) < interval {
		return nil
	}
	flight := make(chan struct{})
	r.flight = flight
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
		defer cancel()
		keys, err := []publicKey(nil), errors.New("the transport ended the fetch")
		defer func() { r.land(keys, err) }() // whatever the transport does
		keys, err = r.fetch(ctx)
	}()
	return flight
}

// land ends the fetch that is under way. It calls no method of the transport's error, because
// the error may be the application's.
func (r *remote) land(keys []publicKey, err error) {
	r.mu.Lock()
	flight := r.flight
	r.flight = nil
	r.tried = time.Now()
	r.err = err
	if err == nil {
		r.keys, r.fetched, r.failures = keys, r.tried, 0
	} else {
		if _, withdrawn := err.(*noKeysError); withdrawn {
			r.keys = nil // the issuer has withdrawn them all
		}
		r.failures++
	}
	r.mu.Unlock()
	close(flight)
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
	if err := r.get(ctx, strings.TrimSuffix(r.issuer, "/")+"/.well-known/openid-configuration", &doc); err != nil {
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
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, whose query may be a secret
		}
		return fmt.Errorf("%s: %w", req.URL.Host, err)
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

// parse returns the key if it can be used. A key that cannot be used is no fault of the set,
// because issuers also publish keys for other purposes.
func (r *remote) parse(raw json.RawMessage) (k publicKey, ok bool) {
	var m jwkset.JWKMarshal
	if json.Unmarshal(raw, &m) != nil || len(m.KID) > maxKeyIDBytes {
		return k, false
	}
	switch {
	case m.USE != "" && m.USE != jwkset.UseSig,
		len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify),
		m.D != "" || m.K != "": // a secret that is published is none
		return k, false
	}
	m.X5C, m.X5U, m.X5T, m.X5TS256 = nil, "", "", "" // certificates say nothing that we ask for
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return k, false
	}
	k = publicKey{kid: m.KID, key: jwk.Key()}
	for _, alg := range r.algs {
		if (m.ALG == "" || m.ALG.String() == alg) && algorithms[alg].fits(k.key) == "" {
			k.algs = append(k.algs, alg)
		}
	}
	return k, len(k.algs) > 0
}

// parseURL returns the URL if keys may be fetched from it.
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
		return nil, errors.New("is not https: whoever is on the way could put their own keys in")
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

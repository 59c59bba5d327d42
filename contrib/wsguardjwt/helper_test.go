package wsguardjwt_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
)

const (
	issuer   = "https://login.example.com"
	audience = "https://api.example.com"
	jwksURL  = issuer + "/keys"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	rsaOther = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	rsaWeak  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 1024)) })
	p256     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p256b    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p256c    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return must(key, err)
	})
)

// obj is a JSON object. A nil value takes a default away.
type obj map[string]any

func merge(base, with obj) obj {
	out := maps.Clone(base)
	for k, v := range with {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

// claims are those of a good token, changed.
func claims(with obj) obj {
	now := time.Now()
	return merge(obj{
		"iss": issuer, "aud": audience, "sub": "alice", "sid": "s-1", "scope": "read write",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}, with)
}

func encode(v any) string {
	if s, ok := v.(string); ok {
		return base64.RawURLEncoding.EncodeToString([]byte(s))
	}
	return encode(string(must(json.Marshal(v))))
}

// raw signs what is not what a library would write.
func raw(method jwt.SigningMethod, key any, header, payload any) string {
	input := encode(header) + "." + encode(payload)
	return input + "." + base64.RawURLEncoding.EncodeToString(must(method.Sign(input, key)))
}

// sign signs a token, good but for what is changed.
func sign(alg string, key crypto.PrivateKey, header, with obj) string {
	return raw(jwt.GetSigningMethod(alg), key, merge(obj{"alg": alg, "typ": "JWT", "kid": "k1"}, header), claims(with))
}

func jwk(key any, kid string, meta jwkset.JWKMetadataOptions) jwkset.JWKMarshal {
	meta.KID = kid
	return must(jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: meta})).Marshal()
}

// idp publishes keys, as a transport.
type idp struct {
	mu      sync.Mutex
	keys    []any
	answer  func(*http.Request) (*http.Response, error) // instead, if set
	fetches []string
}

func publish(keys ...any) *idp { return &idp{keys: keys} }

func (i *idp) set(keys ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys, i.answer = keys, nil
}

func (i *idp) fail(answer func(*http.Request) (*http.Response, error)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *idp) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.fetches)
}

func (i *idp) RoundTrip(r *http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.fetches = append(i.fetches, r.URL.String())
	answer, keys := i.answer, i.keys
	i.mu.Unlock()
	if answer != nil {
		return answer(r)
	}
	if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
		return respond(200, string(must(json.Marshal(obj{"issuer": issuer, "jwks_uri": jwksURL})))), nil
	}
	if keys == nil {
		keys = []any{}
	}
	return respond(200, string(must(json.Marshal(obj{"keys": keys})))), nil
}

func respond(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

var errDown = errors.New("connection refused")

func down(*http.Request) (*http.Response, error) { return nil, errDown }

// logTo keeps what is logged, so that a test can look for secrets in it.
type logTo struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logTo) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logTo) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newVerifier(t *testing.T, cfg wsguardjwt.Config) *wsguardjwt.Verifier {
	t.Helper()
	if cfg.Issuer == "" {
		cfg.Issuer = issuer
	}
	if cfg.Audience == nil {
		cfg.Audience = []string{audience}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	v, err := wsguardjwt.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// accepted fails the test unless the token is good.
func accepted(t *testing.T, v *wsguardjwt.Verifier, token string) wsguard.Principal {
	t.Helper()
	p, err := v.Verify(context.Background(), token)
	if err != nil {
		t.Fatalf("a good token: %v", err)
	}
	return p
}

// refused fails the test unless the token is a 401, whose error has nothing of it.
func refused(t *testing.T, v *wsguardjwt.Verifier, token string) error {
	t.Helper()
	p, err := v.Verify(context.Background(), token)
	switch {
	case err == nil:
		t.Fatalf("accepted: %+v", p)
	case !errors.Is(err, wsguard.ErrUnauthenticated) || errors.Is(err, wsguard.ErrUnavailable):
		t.Fatalf("not a 401: %v", err)
	}
	holdsNothing(t, err.Error(), token)
	return err
}

// unavailable fails the test unless the token is a 503.
func unavailable(t *testing.T, v *wsguardjwt.Verifier, token string) error {
	t.Helper()
	p, err := v.Verify(context.Background(), token)
	if !errors.Is(err, wsguard.ErrUnavailable) || errors.Is(err, wsguard.ErrUnauthenticated) {
		t.Fatalf("not a 503: %+v, %v", p, err)
	}
	holdsNothing(t, err.Error(), token)
	return err
}

// holdsNothing looks for a token's segments, and for what they say.
func holdsNothing(t *testing.T, text, token string) {
	t.Helper()
	for _, part := range strings.Split(token, ".") {
		if len(part) >= 8 && strings.Contains(text, part) {
			t.Errorf("%q holds a part of the token", text)
		}
	}
	for _, secret := range []string{"alice", "s-1", "mallory", "evil", "k1"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q holds %q", text, secret)
		}
	}
}

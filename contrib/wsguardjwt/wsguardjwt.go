// Package wsguardjwt verifies JSON Web Tokens (RFC 7519) for wsguard. It takes the keys from
// its configuration, from the URL of a JWK Set, or from an OpenID Connect issuer that publishes
// them.
//
// # Usage
//
//	verifier, err := wsguardjwt.New(wsguardjwt.Config{
//		Issuer:   "https://login.example.com", // its keys are discovered
//		Audience: []string{"https://api.example.com"},
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	guard, err := wsguard.New(wsguard.Config{
//		Origins: []string{"https://app.example.com"},
//		Auth:    wsguard.AuthConfig{Verifier: verifier.Verify},
//	})
//
// # What is checked
//
// The package follows RFC 8725. The configuration chooses the algorithms, and the token never
// does. Issuer, audience and expiry are always checked. The Verifier ignores the fields of a
// header that say where keys are (jku, jwk, x5u, x5c).
//
// # Fetching keys
//
// The Verifier fetches keys when a token needs them, over https and in bounded time and size.
// It fetches them at most once a minute, whatever tokens come. While there are no keys, it tries
// again after 5 seconds at first, and then less and less often. No goroutine stays in the
// background. One runs while keys are being fetched, for 10 seconds at most.
package wsguardjwt

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/wsguard/wsguard"
)

// Config says which tokens are accepted. Issuer and Audience are required. The zero value of
// every other field is its default. Without Keys and JWKSURL, the Verifier discovers the keys
// of the Issuer (OpenID Connect Discovery 1.0).
type Config struct {
	// Issuer is the iss claim that a token must have. It is compared to the letter. If the
	// keys are discovered, it must be an https URL, or an http URL of a loopback host.
	Issuer string

	// Audience lists names of this service. The aud claim of a token must have one of them,
	// to the letter.
	Audience []string

	// Algorithms lists the algorithms that are accepted. They must be of one family, because
	// a mixed list would let a public key be taken for a secret. The families are HS256,
	// HS384 and HS512; RS256, RS384, RS512, PS256, PS384 and PS512; ES256, ES384 and ES512;
	// and EdDSA, which is Ed25519. The default is RS256.
	Algorithms []string

	// Keys lists the keys to verify with, at most eight. The Verifier tries them in turn,
	// whatever kid a token names. A key is an *rsa.PublicKey of 2,048 to 8,192 bits, an
	// *ecdsa.PublicKey, an ed25519.PublicKey, or a []byte with the secret for HMAC. A secret
	// must be random and at least as long as the hash (RFC 7518 §3.2), which is 32 bytes for
	// HS256. The default is to fetch the keys. HMAC requires Keys.
	Keys []any

	// JWKSURL is the URL of the JWK Set. It must be an https URL, or an http URL of a
	// loopback host. A token must name the kid of its key, unless only one key fits. If a
	// kid is not in the set, the Verifier fetches the set again, at most once a minute. While
	// that fails, tokens that it cannot judge get wsguard.ErrUnavailable, which is a 503. The
	// default is to discover the URL from the Issuer. Keys and JWKSURL exclude each other.
	JWKSURL string

	// MaxKeyAge is how long the Verifier uses fetched keys if it cannot fetch them again. It
	// is also how long a key that the issuer has withdrawn may still be used at most. After a
	// quarter of MaxKeyAge, the next token makes the Verifier fetch the keys again, and does
	// not wait for them. The default is 1 hour. It must be between 5 minutes and 24 hours.
	MaxKeyAge time.Duration

	// InsecureAllowHTTP allows the Verifier to fetch keys in clear text from hosts that are
	// not loopback. The default is false.
	InsecureAllowHTTP bool

	// Transport fetches the keys. A fetch may take 10 seconds, and no redirect is followed.
	// The default is http.DefaultTransport.
	Transport http.RoundTripper

	// Leeway is how far the issuer's clock may be ahead. It applies to nbf and iat. It does
	// not apply to exp, because the connection ends then. The default is 10 seconds, and
	// wsguard.Off is no leeway. It must be at most 30 seconds.
	Leeway time.Duration

	// Type is the typ header that a token must have, such as "at+jwt" (RFC 9068), which keeps
	// ID tokens out. By default a token may have no typ, "JWT" or "at+jwt".
	Type string

	// SessionClaim is the name of the claim that has the Principal.SessionID. A token need
	// not have it. The default is "sid".
	SessionClaim string

	// MaxTokenBytes is how many bytes a token may have. A longer token is refused before it
	// is parsed. The default is 8 KiB. It cannot be Off.
	MaxTokenBytes int

	// Principal, if set, decides about a token that is valid. p is the Principal that Verify
	// would return. Its Subject is the claim sub, its Scopes come from scope or scp, its
	// Expires is exp, and its IssuedAt is iat. Principal may change p, but the guard takes
	// the earlier of the two Expires. Numbers among the claims are json.Number. An error
	// refuses the token, as wsguard.Verifier says. The default, nil, returns p.
	Principal func(ctx context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error)

	// Logger is told at level Warn why keys could not be fetched. The default is
	// slog.Default().
	Logger *slog.Logger
}

const (
	maxLeeway     = 30 * time.Second
	maxStaticKeys = 8
	maxNameBytes  = 255 // of a subject (OpenID Connect Core §2) and of a session ID
)

// Verifier verifies tokens. [New] makes one. Many goroutines may use it at the same time.
type Verifier struct {
	// Read-only after New.
	cfg    Config // with its defaults, and without Keys
	parser *jwt.Parser
	keys   keySource // has a lock of its own
}

// keySource finds the keys that a token may have been signed with.
type keySource interface {
	find(ctx context.Context, kid, alg string) ([]jwt.VerificationKey, error)
	ready(ctx context.Context) error
}

// New returns a Verifier, or an error that has every mistake in cfg at once, each as a
// *wsguard.ConfigError. It fetches nothing. Use [Verifier.Ready] to fetch the keys.
func New(cfg Config) (*Verifier, error) {
	var faults []error
	fault := func(field string, value any, reason string) {
		faults = append(faults, &wsguard.ConfigError{Field: "wsguardjwt.Config." + field, Value: value, Reason: reason})
	}
	if cfg.Issuer == "" {
		fault("Issuer", "", "is required")
	}
	cfg.Audience = slices.Clone(cfg.Audience)
	if len(cfg.Audience) == 0 || slices.Contains(cfg.Audience, "") {
		fault("Audience", "", "is required: without it, tokens for other services are accepted")
	}

	cfg.Algorithms = slices.Clone(cfg.Algorithms)
	if len(cfg.Algorithms) == 0 {
		cfg.Algorithms = []string{"RS256"}
	}
	known := true
	for _, alg := range cfg.Algorithms {
		if algorithms[alg].family == "" {
			fault("Algorithms", alg, "is not one of HS256, HS384, HS512, RS256, …, PS256, …, ES256, ES384, ES512, EdDSA")
			known = false
		}
	}
	family := algorithms[cfg.Algorithms[0]].family
	if known {
		for _, alg := range cfg.Algorithms {
			if algorithms[alg].family != family {
				fault("Algorithms", cfg.Algorithms, "are of more than one family")
				break
			}
		}
	}

	switch {
	case cfg.Leeway == 0:
		cfg.Leeway = 10 * time.Second
	case cfg.Leeway == wsguard.Off:
		cfg.Leeway = 0
	case cfg.Leeway < 0 || cfg.Leeway > maxLeeway:
		fault("Leeway", cfg.Leeway, "must be at most 30s")
	}
	if cfg.SessionClaim == "" {
		cfg.SessionClaim = "sid"
	}
	if cfg.MaxTokenBytes == 0 {
		cfg.MaxTokenBytes = 8 << 10
	} else if cfg.MaxTokenBytes < 0 {
		fault("MaxTokenBytes", cfg.MaxTokenBytes, "must be positive")
	}
	if cfg.MaxKeyAge == 0 {
		cfg.MaxKeyAge = time.Hour
	} else if cfg.MaxKeyAge < 5*time.Minute || cfg.MaxKeyAge > 24*time.Hour {
		fault("MaxKeyAge", cfg.MaxKeyAge, "must be between 5m and 24h")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}

	v := &Verifier{cfg: cfg}
	switch {
	case len(cfg.Keys) > 0 && cfg.JWKSURL != "":
		fault("JWKSURL", "", "and Keys are both given")
	case len(cfg.Keys) > 0:
		if !known {
			break
		}
		keys, why := staticKeys(cfg.Keys, cfg.Algorithms)
		if why != "" {
			fault("Keys", "", why) // a value could be a secret
		}
		v.keys = keys
	case family == familyHMAC:
		fault("Keys", "", "are required for HMAC: nobody publishes a secret")
	default:
		field, base := "JWKSURL", cfg.JWKSURL
		if base == "" {
			field, base = "Issuer", cfg.Issuer
		}
		if base == "" {
			break
		}
		u, err := parseURL(base, cfg.InsecureAllowHTTP)
		if err != nil {
			fault(field, "", err.Error()) // a value could have a password in it
			break
		}
		if cfg.JWKSURL == "" && u.RawQuery != "" {
			fault(field, "", "must have no query")
		}
		v.keys = newRemote(cfg)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	v.cfg.Keys = nil // v.keys has copies
	v.parser = jwt.NewParser(
		jwt.WithValidMethods(cfg.Algorithms),
		jwt.WithIssuer(cfg.Issuer),
		jwt.WithAudience(cfg.Audience...),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(cfg.Leeway),
		jwt.WithStrictDecoding(),
		jwt.WithJSONNumber(),
	)
	return v, nil
}

// Ready returns nil if there are keys to verify with. If there are none, it fetches them and
// waits. It returns an error if that fails or if ctx ends first. Use it in a program that must
// not start without keys, and in a readiness probe.
func (v *Verifier) Ready(ctx context.Context) error { return v.keys.ready(ctx) }

// Verify is a wsguard.Verifier. The error of a token that is refused wraps
// wsguard.ErrUnauthenticated and the reason of golang-jwt, such as jwt.ErrTokenExpired. The
// error of a token that cannot be judged now wraps wsguard.ErrUnavailable. Neither contains any
// part of the token.
func (v *Verifier) Verify(ctx context.Context, token string) (wsguard.Principal, error) {
	if err := ctx.Err(); err != nil {
		return wsguard.Principal{}, &unavailable{err}
	}
	if len(token) > v.cfg.MaxTokenBytes || !wellFormed(token) {
		return wsguard.Principal{}, refuse(jwt.ErrTokenMalformed)
	}
	header, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	if !strictJSON(header, headerSchema) || !strictJSON(payload, claimsSchema) {
		return wsguard.Principal{}, refuse(jwt.ErrTokenMalformed)
	}
	claims := jwt.MapClaims{}
	_, err := v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		// The parser has found alg among v.cfg.Algorithms.
		if !v.typeFits(t.Header) {
			return nil, jwt.ErrTokenUnverifiable
		}
		kid, _ := t.Header["kid"].(string)
		keys, err := v.keys.find(ctx, kid, t.Method.Alg())
		return jwt.VerificationKeySet{Keys: keys}, err
	})
	if err != nil {
		return wsguard.Principal{}, refuse(err)
	}
	p, err := v.principal(claims)
	if err != nil {
		return wsguard.Principal{}, err
	}
	if v.cfg.Principal == nil {
		return p, nil
	}
	expires := p.Expires
	p, err = v.cfg.Principal(ctx, claims, p)
	switch {
	case errors.Is(err, wsguard.ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return wsguard.Principal{}, &unavailable{err}
	case err != nil || p.Subject == "":
		return wsguard.Principal{}, refusal{errors.Join(jwt.ErrTokenInvalidClaims, err)}
	}
	if p.Expires.IsZero() || p.Expires.After(expires) {
		p.Expires = expires
	}
	return p, nil
}

// principal returns the Principal that the claims of a valid token describe.
func (v *Verifier) principal(claims jwt.MapClaims) (wsguard.Principal, error) {
	var p wsguard.Principal
	p.Subject, _ = claims["sub"].(string)
	if p.Subject == "" {
		return p, refuse(jwt.ErrTokenRequiredClaimMissing)
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil {
		return p, refuse(jwt.ErrTokenRequiredClaimMissing)
	}
	p.Expires = exp.Time
	// The parser has granted leeway here too.
	if !time.Now().Before(p.Expires) {
		return p, refuse(jwt.ErrTokenExpired)
	}
	if iat, err := claims.GetIssuedAt(); err == nil && iat != nil {
		p.IssuedAt = iat.Time
	}
	ok := true
	if sid, there := claims[v.cfg.SessionClaim]; there {
		p.SessionID, ok = sid.(string)
	}
	if !ok || len(p.Subject) > maxNameBytes || len(p.SessionID) > maxNameBytes {
		return p, refuse(jwt.ErrTokenInvalidClaims)
	}
	scope, there := claims["scope"] // RFC 8693 §4.2
	if !there {
		scope, there = claims["scp"]
	}
	if there {
		if p.Scopes, ok = scopes(scope); !ok {
			return p, refuse(jwt.ErrTokenInvalidClaims)
		}
	}
	return p, nil
}

// scopes returns the scopes of a claim, which may be a list or a string with spaces. Issuers
// disagree on which of the two scope and scp are. A token with anything else is refused.
func scopes(claim any) (list []string, ok bool) {
	switch claim := claim.(type) {
	case string:
		return strings.Fields(claim), true
	case []any:
		for _, s := range claim {
			s, ok := s.(string)
			if !ok {
				return nil, false
			}
			list = append(list, s)
		}
		return list, true
	}
	return nil, false
}

// typeFits reports whether the typ header of a token is accepted. That keeps tokens out that
// were made for another purpose, such as a logout+jwt (RFC 8725 §3.11).
func (v *Verifier) typeFits(header map[string]any) bool {
	typ, there := header["typ"].(string)
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/") // RFC 7515 §4.1.9
	if v.cfg.Type != "" {
		return typ == strings.TrimPrefix(strings.ToLower(v.cfg.Type), "application/")
	}
	return !there || typ == "jwt" || typ == "at+jwt"
}

// wellFormed reports whether token consists of three segments of base64url. The decoder skips
// line breaks, so without this check one token would have many spellings.
func wellFormed(token string) bool {
	dots, last := 0, -1
	for i := range len(token) {
		switch c := token[i]; {
		case c == '.':
			if i == last+1 {
				return false
			}
			dots++
			last = i
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return dots == 2 && last < len(token)-1
}

// These schemas make the JSON of a token strict about names, UTF-8, sizes and types. golang-jwt
// reads JSON as encoding/json does. Of two claims with one name the last counts there, and other
// parsers may take the first. A time after the year 9999 would overflow.
var (
	headerSchema = mustCompile(`{"type": "object", "properties": {
		"alg": {"type": "string"}, "kid": {"type": "string", "minLength": 1, "maxLength": 256}, "typ": {"type": "string"}, "crit": false}}`)
	claimsSchema = mustCompile(`{"type": "object", "properties": {
		"iss": {"type": "string"}, "sub": {"type": "string"}, "aud": {"type": ["string", "array"], "items": {"type": "string"}},
		"exp": {"$ref": "#/$defs/date"}, "nbf": {"$ref": "#/$defs/date"}, "iat": {"$ref": "#/$defs/date"}},
		"$defs": {"date": {"type": "number", "minimum": 0, "maximum": 253402300799}}}`)
)

func mustCompile(schema string) *wsguard.Schema {
	s, err := wsguard.CompileSchema([]byte(schema))
	if err != nil {
		panic(err) // the schema is a constant, and the tests compile it
	}
	return s
}

func strictJSON(segment string, schema *wsguard.Schema) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	return err == nil && schema.Validate(b) == nil
}

// refusal is the error of a token that is not valid.
type refusal struct{ why error }

func (r refusal) Error() string { return "wsguardjwt: " + r.why.Error() }

func (r refusal) Unwrap() []error { return []error{wsguard.ErrUnauthenticated, r.why} }

// unavailable is the error of a token that cannot be judged now.
type unavailable struct{ why error }

func (u *unavailable) Error() string { return "wsguardjwt: cannot decide now: " + u.why.Error() }

func (u *unavailable) Unwrap() []error { return []error{wsguard.ErrUnavailable, u.why} }

// refuse returns an error with the meaning of err, and without its text, which may have parts
// of the token.
func refuse(err error) error {
	var u *unavailable
	if errors.As(err, &u) {
		return u
	}
	for _, why := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet,
		jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience, jwt.ErrTokenInvalidClaims,
	} {
		if errors.Is(err, why) {
			return refusal{why}
		}
	}
	return refusal{jwt.ErrTokenUnverifiable}
}

// isPublicKey reports whether a secret is the content of a key file. Everybody knows a public
// key, so it must not be the secret of HMAC. No random secret looks like a key file.
func isPublicKey(secret []byte) bool {
	if block, _ := pem.Decode(secret); block != nil {
		return true
	}
	if _, err := x509.ParsePKIXPublicKey(secret); err == nil {
		return true
	}
	if _, err := x509.ParseCertificate(secret); err == nil {
		return true
	}
	_, err := x509.ParsePKCS1PublicKey(secret)
	return err == nil
}

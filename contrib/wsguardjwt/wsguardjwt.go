// Package wsguardjwt verifies JSON Web Tokens (RFC 7519) for wsguard: with keys
// that are given, with those at the URL of a JWK Set, or with those that an
// OpenID Connect issuer publishes.
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
// It does what RFC 8725 asks for: the algorithms are the configuration's, never
// the token's; issuer, audience and expiry are always checked; and what a
// header says about where keys are (jku, jwk, x5u, x5c) is not looked at. Keys
// are fetched when a token needs them, in bounded time and size, and at most once
// a minute whatever is sent; while there are none, after 5 seconds at first. No
// goroutine stays in the background: one runs while keys are being fetched, for
// 10 seconds at most.
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

// Config says which tokens are accepted. Issuer and Audience are required;
// every other zero value is a default. Without Keys and JWKSURL, the keys are
// discovered from the Issuer (OpenID Connect Discovery 1.0).
type Config struct {
	Issuer   string   // the iss claim, to the letter; an https URL where keys are discovered
	Audience []string // one of these must be in the aud claim, to the letter

	// Algorithms that are accepted, all of one family: HS256, HS384, HS512;
	// RS256 (the default), RS384, RS512, PS256, PS384, PS512; ES256, ES384,
	// ES512; or EdDSA, which is Ed25519. A mixed list would let a public key
	// be taken for a secret.
	Algorithms []string

	// Keys are tried in turn, whatever kid a token names: *rsa.PublicKey of
	// 2,048 to 8,192 bits, *ecdsa.PublicKey, ed25519.PublicKey, or a []byte for
	// HMAC, random and as long as the hash (RFC 7518 §3.2): 32 bytes for HS256.
	// At most eight.
	Keys []any

	// JWKSURL is where the JWK Set is: https, or http from loopback. A token
	// must name its key's kid unless only one key fits. An unknown kid has the
	// set fetched anew, at most once a minute. While that does not succeed,
	// tokens that cannot be judged are wsguard.ErrUnavailable: a 503.
	JWKSURL string

	// MaxKeyAge is how long fetched keys are used without a word from the
	// issuer, and how long at most a withdrawn one is: 5 minutes to 24 hours,
	// default 1 hour. After a quarter of it, a token that comes has them
	// fetched anew, and does not wait for it.
	MaxKeyAge time.Duration

	InsecureAllowHTTP bool // fetch keys in clear text from hosts that are not loopback

	// Transport fetches the keys; default http.DefaultTransport. There are 10
	// seconds for it, and no redirect is followed.
	Transport http.RoundTripper

	// Leeway is how far the issuer's clock may be ahead: it is granted to nbf
	// and iat, never to exp, for the connection ends then. At most 30 seconds;
	// default 10 seconds, wsguard.Off none.
	Leeway time.Duration

	// Type is the typ header that a token must have, such as "at+jwt" (RFC
	// 9068), which keeps ID tokens out. Default: none, "JWT" or "at+jwt".
	Type string

	SessionClaim  string // whose value is Principal.SessionID, where there is one; default "sid"
	MaxTokenBytes int    // a longer token is not looked at; default 8 KiB

	// Principal, if set, has the last word on a token that is valid. p is what
	// would be returned, with Subject from sub, SessionID, Scopes from scope
	// or scp, Expires from exp and IssuedAt from iat. Expires can only
	// become earlier. Numbers among the claims are json.Number. An error refuses the token, as wsguard.Verifier says.
	Principal func(ctx context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error)

	Logger *slog.Logger // told, at Warn, why keys could not be fetched; default slog.Default()
}

const (
	maxLeeway     = 30 * time.Second
	maxStaticKeys = 8
	maxNameBytes  = 255 // of a subject (OpenID Connect Core §2) and of a session ID
)

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	cfg    Config // resolved
	parser *jwt.Parser
	keys   keySource
}

// keySource finds the keys that a token may have been signed with.
type keySource interface {
	find(ctx context.Context, kid, alg string) ([]jwt.VerificationKey, error)
	ready(ctx context.Context) error
}

// New returns a Verifier, or every mistake in cfg at once, each a
// *wsguard.ConfigError. It fetches nothing; see [Verifier.Ready].
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

// Ready returns nil when there are keys to verify with. If there are none it
// has them fetched and waits, or says what failed: for programs that would
// rather not start without them, and for readiness probes.
func (v *Verifier) Ready(ctx context.Context) error { return v.keys.ready(ctx) }

// Verify is a wsguard.Verifier. Its errors wrap wsguard.ErrUnauthenticated and
// golang-jwt's reason, such as jwt.ErrTokenExpired, or wsguard.ErrUnavailable.
// They hold nothing of the token.
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

// principal is what the claims of a valid token say.
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

// scopes takes a list as well as a string: issuers disagree on which of the two
// scope and scp are. Anything else is no token to guess about.
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

// typeFits keeps tokens out that were made for something else (RFC 8725 §3.11),
// such as a logout+jwt.
func (v *Verifier) typeFits(header map[string]any) bool {
	typ, there := header["typ"].(string)
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/") // RFC 7515 §4.1.9
	if v.cfg.Type != "" {
		return typ == strings.TrimPrefix(strings.ToLower(v.cfg.Type), "application/")
	}
	return !there || typ == "jwt" || typ == "at+jwt"
}

// wellFormed reports whether token is three segments of base64url. The decoder
// would skip line breaks, and so take many spellings for one token.
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

// golang-jwt reads JSON as encoding/json does: of two claims of one name the
// last counts, as other parsers may not agree. wsguard's schemas are strict
// about names, UTF-8 and sizes, and say here what the types are. A time beyond
// the year 9999 would overflow.
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
		panic(err) // a constant: a test runs it
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

// refuse keeps of an error what it means. Its text could hold the token's.
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

// isPublicKey reports whether a secret is what is in a file of a key: the
// public one everybody knows, and no secret for HMAC looks like that.
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

// Package wsguardjwt verifies JSON Web Tokens (RFC 7519) for wsguard. It takes the keys from
// its configuration, from the URL of a JWK Set, or from an OpenID Connect issuer that publishes
// them. It also verifies opaque tokens, by asking their issuer (RFC 7662).
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
// It pauses for 3 seconds between two fetches, whatever tokens come. A token whose key the
// issuer has just published waits for the next fetch. A key that a fetch has not found is not
// looked for again for 10 seconds. So a new key is accepted within 10 seconds and the time of two
// fetches after its publication, even if strangers send tokens with invented key IDs all the
// time. After a failed fetch the pause is 5 seconds at first, and doubles up to a minute. No goroutine
// stays in the background. One runs while keys are being fetched, for 10 seconds at most.
package wsguardjwt

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wsguard/wsguard"
)

// Config says which tokens are accepted. Issuer is required, and so is Audience unless
// CognitoClientIDs is set. The zero value of every other field is its default. Without Keys and JWKSURL, the Verifier discovers the keys
// of the Issuer (OpenID Connect Discovery 1.0).
type Config struct {
	// Issuer is the iss claim that a token must have. It is compared to the letter. If the
	// keys are discovered, it must be an https URL, or an http URL of a loopback host.
	//
	// For all tenants of Microsoft Entra it is a template, which is
	// "https://login.microsoftonline.com/{tenantid}/v2.0". The iss claim must then be the
	// template with the tid claim of the token in place of {tenantid}. Tenants says which
	// tenants are accepted. The Subject of the Principal is the tid, a slash and the sub,
	// because a sub is unique only within its issuer. The keys are discovered from the
	// template with "common" in place of {tenantid}.
	Issuer string

	// Tenants lists the tenants of Microsoft Entra whose tokens are accepted. An entry is the
	// GUID that the tid claim has. If Issuer is a template, Tenants must not be empty, unless
	// InsecureAnyTenant is true. If Issuer is not a template, Tenants must be empty.
	Tenants []string

	// InsecureAnyTenant accepts the tokens of every tenant of Microsoft Entra. Everybody can
	// open a tenant there. So the application must decide by itself whose tokens it serves,
	// for example in Principal. The default is false.
	InsecureAnyTenant bool

	// Audience lists names of this service. The aud claim of a token must have one of them,
	// to the letter. Audience is required unless CognitoClientIDs is set.
	Audience []string

	// CognitoClientIDs lists app clients of an Amazon Cognito user pool whose access tokens
	// are accepted. By default, such a token has no aud claim, but a client_id claim. If
	// CognitoClientIDs is set, the token_use claim of every token must be "access", so ID
	// tokens are refused. A token without an aud claim must then have a client_id of the
	// list. A token with an aud claim must still have one of Audience. The default is an
	// empty list, and every token must have one of Audience.
	CognitoClientIDs []string

	// Algorithms lists the algorithms that are accepted. They must be of one family, because
	// a mixed list would let a public key be taken for a secret. The families are HS256,
	// HS384 and HS512; RS256, RS384, RS512, PS256, PS384 and PS512; ES256, ES384 and ES512;
	// and EdDSA and Ed25519. These two are names of one algorithm, the older one of RFC 8037
	// and the newer one of RFC 9864. List both while your issuer moves from one to the other.
	// Ed448 is not supported. The default is RS256.
	Algorithms []string

	// Keys lists the keys to verify with, at most eight. The Verifier tries them in turn,
	// whatever kid a token names. A key is an *rsa.PublicKey of 2,048 to 8,192 bits, an
	// *ecdsa.PublicKey, an ed25519.PublicKey, or a []byte with the secret for HMAC. A secret
	// must be random and at least as long as the hash (RFC 7518 §3.2), which is 32 bytes for
	// HS256. The default is to fetch the keys. HMAC requires Keys.
	Keys []any

	// JWKSURL is the URL of the JWK Set. It must be an https URL, or an http URL of a
	// loopback host. A token must name the kid of its key, unless only one key fits. A key
	// that has an issuer member verifies tokens of that issuer only, as Microsoft Entra asks
	// for. If a kid is not in the set, the Verifier fetches the set again, at most every 3
	// seconds. While that fails, tokens that it cannot judge get wsguard.ErrUnavailable,
	// which is a 503. The default is to discover the URL from the Issuer. Keys and JWKSURL
	// exclude each other.
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
	// would return. Its Subject is the claim sub, after the tid and a slash if Issuer is a
	// template. Its SessionID comes from SessionClaim, its Scopes come from scope or scp, its
	// Expires is exp, and its IssuedAt is iat. Principal may change p, but Verify returns the
	// earlier of the two Expires. Numbers among the claims are json.Number. An error
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
	cfg.CognitoClientIDs = slices.Clone(cfg.CognitoClientIDs)
	if len(cfg.Audience)+len(cfg.CognitoClientIDs) == 0 || slices.Contains(cfg.Audience, "") {
		fault("Audience", "", "is required: without it, tokens for other services are accepted")
	}
	if slices.Contains(cfg.CognitoClientIDs, "") {
		fault("CognitoClientIDs", "", "has an empty entry")
	}
	cfg.resolveTenants(fault)
	family, known := cfg.resolveAlgorithms(fault)
	cfg.resolveBounds(fault)
	v := &Verifier{cfg: cfg}
	v.keys = cfg.source(fault, family, known)
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	v.cfg.Keys = nil // v.keys has copies
	return v, nil
}

// resolveAlgorithms returns the family of the first algorithm, and whether all are known.
func (cfg *Config) resolveAlgorithms(fault func(field string, value any, reason string)) (family string, known bool) {
	cfg.Algorithms = slices.Clone(cfg.Algorithms)
	if len(cfg.Algorithms) == 0 {
		cfg.Algorithms = []string{"RS256"}
	}
	family, known = algorithms[cfg.Algorithms[0]].family, true
	for _, alg := range cfg.Algorithms {
		switch {
		case alg == "Ed448":
			fault("Algorithms", alg, "is not supported: Go has no Ed448")
			known = false
		case algorithms[alg].family == "":
			fault("Algorithms", alg, "is not one of HS256, HS384, HS512, RS256, …, PS256, …, ES256, ES384, ES512, EdDSA, Ed25519")
			known = false
		}
	}
	mixed := func(alg string) bool { return algorithms[alg].family != family }
	if known && slices.ContainsFunc(cfg.Algorithms, mixed) {
		fault("Algorithms", cfg.Algorithms, "are of more than one family")
	}
	return family, known
}

// bound resolves a duration: 0 is its default, Off is none, and most is the most.
func bound(fault func(field string, value any, reason string), d *time.Duration, field string, byDefault, most time.Duration) {
	switch {
	case *d == 0:
		*d = byDefault
	case *d == wsguard.Off:
		*d = 0
	case *d < 0 || *d > most:
		fault(field, *d, "must be at most "+most.String())
	}
}

// positive resolves a number that cannot be Off. 0 is its default.
func positive(fault func(field string, value any, reason string), n *int, field string, byDefault int) {
	if *n == 0 {
		*n = byDefault
	} else if *n < 0 {
		fault(field, *n, "must be positive")
	}
}

func (cfg *Config) resolveBounds(fault func(field string, value any, reason string)) {
	bound(fault, &cfg.Leeway, "Leeway", 10*time.Second, maxLeeway)
	if cfg.SessionClaim == "" {
		cfg.SessionClaim = "sid"
	}
	positive(fault, &cfg.MaxTokenBytes, "MaxTokenBytes", 8<<10)
	if cfg.MaxKeyAge == 0 {
		cfg.MaxKeyAge = time.Hour
	} else if cfg.MaxKeyAge < 5*time.Minute || cfg.MaxKeyAge > 24*time.Hour {
		fault("MaxKeyAge", cfg.MaxKeyAge, "must be between 5m and 24h")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
}

// source returns the source of the keys. It returns nil if it has found a fault.
func (cfg *Config) source(fault func(field string, value any, reason string), family string, known bool) keySource {
	switch {
	case len(cfg.Keys) > 0 && cfg.JWKSURL != "":
		fault("JWKSURL", "", "and Keys are both given")
		return nil
	case len(cfg.Keys) > 0 && !known:
		return nil
	case len(cfg.Keys) > 0:
		keys, why := staticKeys(cfg.Keys, cfg.Algorithms)
		if why != "" {
			fault("Keys", "", why) // a value could be a secret
		}
		return keys
	case family == familyHMAC:
		fault("Keys", "", "are required for HMAC: nobody publishes a secret")
		return nil
	}
	field, base := "JWKSURL", cfg.JWKSURL
	if base == "" {
		field, base = "Issuer", cfg.Issuer
	}
	if base == "" {
		return nil
	}
	u, err := parseURL(base, cfg.InsecureAllowHTTP)
	if err != nil {
		fault(field, "", err.Error()) // a value could have a password in it
		return nil
	}
	if cfg.JWKSURL == "" && u.RawQuery != "" {
		fault(field, "", "must have no query")
	}
	return newRemote(*cfg)
}

// tenantTemplate stands for the tenant in an issuer of Microsoft Entra.
const tenantTemplate = "{tenantid}"

// resolveTenants checks the template of an issuer and the tenants, and copies them.
func (cfg *Config) resolveTenants(fault func(field string, value any, reason string)) {
	if !strings.Contains(cfg.Issuer, tenantTemplate) {
		if len(cfg.Tenants) > 0 {
			fault("Tenants", cfg.Tenants, "need an Issuer with "+tenantTemplate)
		}
		if cfg.InsecureAnyTenant {
			fault("InsecureAnyTenant", true, "needs an Issuer with "+tenantTemplate)
		}
		return
	}
	_, rest, _ := strings.Cut(cfg.Issuer, "://")
	_, path, _ := strings.Cut(rest, "/")
	if strings.Count(cfg.Issuer, tenantTemplate) != 1 || !strings.Contains("/"+path+"/", "/"+tenantTemplate+"/") {
		fault("Issuer", "", "must have "+tenantTemplate+" once, as a segment of its path")
	}
	switch {
	case len(cfg.Tenants) == 0 && !cfg.InsecureAnyTenant:
		fault("Tenants", "", "are required: without them, tokens of every tenant are accepted")
	case len(cfg.Tenants) > 0 && cfg.InsecureAnyTenant:
		fault("InsecureAnyTenant", true, "and Tenants are both given")
	}
	cfg.Tenants = slices.Clone(cfg.Tenants)
	for i, tenant := range cfg.Tenants {
		cfg.Tenants[i] = strings.ToLower(tenant)
		if !isTenant(cfg.Tenants[i]) {
			fault("Tenants", tenant, "is not a GUID: the tid claim never is a name")
		}
	}
}

// isTenant reports whether s is a GUID in lower case.
func isTenant(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

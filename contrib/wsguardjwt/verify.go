package wsguardjwt

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/wsguard/wsguard"
)

// Verifier verifies tokens. [New] makes one. Many goroutines may use it at the same time.
type Verifier struct {
	// Read-only after New.
	cfg  Config    // with its defaults, and without Keys
	keys keySource // has a lock of its own
}

// keySource finds the keys that a token may have been signed with.
type keySource interface {
	find(context.Context, wanted) ([]jwt.VerificationKey, error)
	ready(context.Context) error
}

// wanted says which keys a token needs. All of it is what the token says about itself, before
// its signature is verified.
type wanted struct {
	kid, alg string
	iss, tid string // the issuer, and the tenant of Microsoft Entra

	// promising reports whether the token would be accepted if its signature were right. It
	// is called only before something is done for a token that names an unknown key. It takes
	// no lock, because the source holds its own.
	promising func() bool
}

// Ready returns nil if there are keys to verify with. If there are none, it fetches them and
// waits. It returns an error if that fails or if ctx ends first. Use it in a program that must
// not start without keys, and in a readiness probe.
func (v *Verifier) Ready(ctx context.Context) error { return v.keys.ready(ctx) }

// Verify is a wsguard.Verifier. The error of a token that is refused wraps
// wsguard.ErrUnauthenticated and the reason of golang-jwt, such as jwt.ErrTokenInvalidAudience.
// It also wraps wsguard.ErrExpired if the token is genuine, but expired or not valid yet: its
// signature, its issuer and its audience are right. The error of a token that cannot be judged
// now wraps wsguard.ErrUnavailable. No error contains any part of the token.
func (v *Verifier) Verify(ctx context.Context, token string) (wsguard.Principal, error) {
	if err := ctx.Err(); err != nil {
		return wsguard.Principal{}, &unavailable{err}
	}
	t, ok := v.parse(token)
	if !ok {
		return wsguard.Principal{}, refusal{jwt.ErrTokenMalformed}
	}
	if err := v.verifySignature(ctx, t); err != nil {
		return wsguard.Principal{}, err
	}
	p, err := v.principal(t.claims)
	if err != nil {
		return wsguard.Principal{}, err
	}
	return decide(ctx, v.cfg.Principal, t.claims, p)
}

// parsed is a token whose form is right. Nothing in it is proven.
type parsed struct {
	alg, kid  string
	typ       string
	hasTyp    bool
	claims    jwt.MapClaims
	signed    string // the part of the token that the signature is of
	signature []byte
}

// parse returns what a token says, if its form is right.
func (v *Verifier) parse(token string) (t parsed, ok bool) {
	if len(token) > v.cfg.MaxTokenBytes || !wellFormed(token) {
		return t, false
	}
	dot := strings.LastIndexByte(token, '.')
	t.signed = token[:dot]
	header, payload, _ := strings.Cut(t.signed, ".")
	var fields map[string]any // encoding/json would accept other spellings for a struct
	if !decode(header, headerSchema, &fields) || !decode(payload, claimsSchema, &t.claims) {
		return t, false
	}
	t.alg, _ = fields["alg"].(string)
	t.kid, _ = fields["kid"].(string)
	t.typ, t.hasTyp = fields["typ"].(string)
	var err error
	t.signature, err = base64.RawURLEncoding.Strict().DecodeString(token[dot+1:])
	return t, err == nil
}

// verifySignature returns nil if one of the keys of the issuer has signed the token.
func (v *Verifier) verifySignature(ctx context.Context, t parsed) error {
	if !slices.Contains(v.cfg.Algorithms, t.alg) {
		return refusal{jwt.ErrTokenSignatureInvalid}
	}
	if !v.typeFits(t) {
		return refusal{jwt.ErrTokenUnverifiable}
	}
	w := wanted{kid: t.kid, alg: t.alg, promising: func() bool {
		_, err := v.principal(t.claims)
		return err == nil
	}}
	w.iss, _ = t.claims["iss"].(string)
	w.tid, _ = t.claims["tid"].(string)
	keys, err := v.keys.find(ctx, w)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return refusal{jwt.ErrTokenUnverifiable}
	}
	for _, key := range keys {
		if algorithms[t.alg].method.Verify(t.signed, t.signature, key) == nil {
			return nil
		}
	}
	return refusal{jwt.ErrTokenSignatureInvalid}
}

// principal returns the Principal that the claims of a token describe, or why the token is
// refused. It looks at the times last. So a token that is refused as expired has no other
// fault.
func (v *Verifier) principal(claims jwt.MapClaims) (p wsguard.Principal, err error) {
	tenant, ok := v.issuerFits(claims)
	if !ok {
		return p, refusal{jwt.ErrTokenInvalidIssuer}
	}
	if !v.audienceFits(claims) {
		return p, refusal{jwt.ErrTokenInvalidAudience}
	}
	p.Subject, _ = claims["sub"].(string)
	exp, err := claims.GetExpirationTime()
	if p.Subject == "" || err != nil || exp == nil {
		return p, refusal{jwt.ErrTokenRequiredClaimMissing}
	}
	if tenant != "" {
		p.Subject = tenant + "/" + p.Subject
	}
	if !describe(&p, claims, v.cfg.SessionClaim) {
		return p, refusal{jwt.ErrTokenInvalidClaims}
	}
	p.Expires = exp.Time
	return p, timesFit(&p, claims, v.cfg.Leeway)
}

// issuerFits reports whether a token is of the configured issuer, and which tenant of Microsoft
// Entra it is of. The tenant is empty if Config.Issuer is not a template.
func (v *Verifier) issuerFits(claims jwt.MapClaims) (tenant string, ok bool) {
	iss, _ := claims["iss"].(string)
	if !strings.Contains(v.cfg.Issuer, tenantTemplate) {
		return "", iss == v.cfg.Issuer
	}
	tenant, _ = claims["tid"].(string)
	ok = isTenant(tenant) && iss == strings.Replace(v.cfg.Issuer, tenantTemplate, tenant, 1)
	return tenant, ok && (v.cfg.InsecureAnyTenant || slices.Contains(v.cfg.Tenants, tenant))
}

// audienceFits reports whether a token is for this service. A token that names an audience must
// name the right one, even if it has a client_id. Without an audience it must be an access
// token of a listed client of Amazon Cognito.
func (v *Verifier) audienceFits(claims jwt.MapClaims) bool {
	cognito := len(v.cfg.CognitoClientIDs) > 0
	if cognito && claims["token_use"] != "access" {
		return false
	}
	if _, there := claims["aud"]; !there && cognito {
		id, _ := claims["client_id"].(string)
		return slices.Contains(v.cfg.CognitoClientIDs, id)
	}
	return anyOf(claims, v.cfg.Audience)
}

// anyOf reports whether the aud claim has one of the names.
func anyOf(claims jwt.MapClaims, names []string) bool {
	aud, err := claims.GetAudience()
	return err == nil && slices.ContainsFunc(aud, func(name string) bool { return slices.Contains(names, name) })
}

// describe sets the SessionID and the Scopes of p. It reports whether the claims are of the
// right types and the names not too long.
func describe(p *wsguard.Principal, claims jwt.MapClaims, sessionClaim string) (ok bool) {
	ok = true
	if sid, there := claims[sessionClaim]; there {
		p.SessionID, ok = sid.(string)
	}
	if !ok || len(p.Subject) > maxNameBytes || len(p.SessionID) > maxNameBytes {
		return false
	}
	scope, there := claims["scope"] // RFC 8693 §4.2
	if !there {
		scope, there = claims["scp"]
	}
	if there {
		p.Scopes, ok = scopes(scope)
	}
	return ok
}

// timesFit returns nil if the token is valid now. Expires of p is set, and IssuedAt is not. An
// untimely error says that the token is genuine, so the caller has checked everything else.
// Expires has no leeway, because the connection ends then.
func timesFit(p *wsguard.Principal, claims jwt.MapClaims, leeway time.Duration) error {
	now := time.Now()
	nbf, err := claims.GetNotBefore()
	if err != nil {
		return refusal{jwt.ErrTokenInvalidClaims}
	}
	iat, err := claims.GetIssuedAt()
	if err != nil {
		return refusal{jwt.ErrTokenInvalidClaims}
	}
	if iat != nil {
		p.IssuedAt = iat.Time
	}
	switch {
	case !p.Expires.IsZero() && !now.Before(p.Expires):
		return untimely{jwt.ErrTokenExpired}
	case nbf != nil && now.Before(nbf.Add(-leeway)):
		return untimely{jwt.ErrTokenNotValidYet}
	case iat != nil && now.Before(iat.Add(-leeway)):
		return untimely{jwt.ErrTokenUsedBeforeIssued}
	}
	return nil
}

// decide asks the application about a credential that is valid. hook may be nil.
func decide(ctx context.Context, hook principalFunc, claims jwt.MapClaims, p wsguard.Principal) (wsguard.Principal, error) {
	if hook == nil {
		return p, nil
	}
	expires := p.Expires
	p, err := hook(ctx, claims, p)
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

type principalFunc = func(context.Context, map[string]any, wsguard.Principal) (wsguard.Principal, error)

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
func (v *Verifier) typeFits(t parsed) bool {
	typ := strings.TrimPrefix(strings.ToLower(t.typ), "application/") // RFC 7515 §4.1.9
	if v.cfg.Type != "" {
		return typ == strings.TrimPrefix(strings.ToLower(v.cfg.Type), "application/")
	}
	return !t.hasTyp || typ == "jwt" || typ == "at+jwt"
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

// These schemas make the JSON of a token strict about names, UTF-8, sizes and types. encoding/json
// takes the last of two claims with one name, and other parsers may take the first. A time after
// the year 9999 would overflow.
var (
	headerSchema = mustCompile(`{"type": "object", "properties": {
		"alg": {"type": "string"}, "kid": {"type": "string", "minLength": 1, "maxLength": 256}, "typ": {"type": "string"}, "crit": false}}`)
	claimsSchema = mustCompile(`{"type": "object", ` + registeredClaims + `}`)
)

const registeredClaims = `"properties": {
	"iss": {"type": "string"}, "sub": {"type": "string"}, "aud": {"type": ["string", "array"], "items": {"type": "string"}},
	"exp": {"$ref": "#/$defs/date"}, "nbf": {"$ref": "#/$defs/date"}, "iat": {"$ref": "#/$defs/date"}},
	"$defs": {"date": {"type": "number", "minimum": 0, "maximum": 253402300799}}`

func mustCompile(schema string) *wsguard.Schema {
	s, err := wsguard.CompileSchema([]byte(schema))
	if err != nil {
		panic(err) // the schema is a constant, and the tests compile it
	}
	return s
}

// decode decodes a segment into a map, whose numbers are json.Number.
func decode(segment string, schema *wsguard.Schema, into any) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	return err == nil && decodeJSON(b, schema, into)
}

func decodeJSON(b []byte, schema *wsguard.Schema, into any) bool {
	if schema.Validate(b) != nil {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(into) == nil
}

// refusal is the error of a credential that is not valid.
type refusal struct{ why error }

func (r refusal) Error() string { return "wsguardjwt: " + r.why.Error() }

func (r refusal) Unwrap() []error { return []error{wsguard.ErrUnauthenticated, r.why} }

// untimely is the error of a credential that is genuine, but expired or not valid yet.
type untimely struct{ why error }

func (u untimely) Error() string { return "wsguardjwt: " + u.why.Error() }

func (u untimely) Unwrap() []error { return []error{wsguard.ErrExpired, u.why} }

// unavailable is the error of a credential that cannot be judged now.
type unavailable struct{ why error }

func (u *unavailable) Error() string { return "wsguardjwt: cannot decide now: " + u.why.Error() }

func (u *unavailable) Unwrap() []error { return []error{wsguard.ErrUnavailable, u.why} }

package wsguardjwt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
)

// faults are the fields that New complains about.
func faults(err error) (fields []string) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			var c *wsguard.ConfigError
			if errors.As(err, &c) {
				fields = append(fields, strings.TrimPrefix(c.Field, "wsguardjwt.Config."))
			}
		}
	}
	return fields
}

func TestConfig(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	der := must(x509.MarshalPKIXPublicKey(&rsaKey().PublicKey))
	base := wsguardjwt.Config{Issuer: issuer, Audience: []string{audience}}
	with := func(change func(*wsguardjwt.Config)) wsguardjwt.Config {
		cfg := base
		change(&cfg)
		return cfg
	}
	keys := func(alg string, keys ...any) wsguardjwt.Config {
		return with(func(c *wsguardjwt.Config) { c.Algorithms, c.Keys = strings.Fields(alg), keys })
	}
	algs := func(algs ...string) wsguardjwt.Config {
		return with(func(c *wsguardjwt.Config) { c.Algorithms = algs })
	}
	url := func(u string) wsguardjwt.Config {
		return with(func(c *wsguardjwt.Config) { c.JWKSURL = u })
	}
	iss := func(u string) wsguardjwt.Config {
		return with(func(c *wsguardjwt.Config) { c.Issuer = u })
	}
	entra := func(u string, tenants ...string) wsguardjwt.Config {
		return with(func(c *wsguardjwt.Config) { c.Issuer, c.Tenants = u, tenants })
	}
	anyTenant := func(c wsguardjwt.Config) wsguardjwt.Config {
		c.InsecureAnyTenant = true
		return c
	}
	even := &rsa.PublicKey{N: rsaKey().N, E: 65536}
	one := &rsa.PublicKey{N: rsaKey().N, E: 1}
	long := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 8192), E: 65537}
	for name, tt := range map[string]struct {
		cfg  wsguardjwt.Config
		want string
	}{
		"all at once": {wsguardjwt.Config{Algorithms: []string{"RS256", "HS256"}, Leeway: time.Minute}, "Issuer Audience Algorithms Leeway"},
		"no issuer":   {wsguardjwt.Config{Audience: []string{audience}}, "Issuer"},
		"no audience": {wsguardjwt.Config{Issuer: issuer}, "Audience"},
		"an empty one": {with(func(c *wsguardjwt.Config) { c.Audience = []string{audience, ""} }),
			"Audience"},
		"none":                      {algs("none"), "Algorithms"},
		"None":                      {algs("RS256", "None"), "Algorithms"},
		"no such algorithm":         {algs("ES256K"), "Algorithms"},
		"Ed448":                     {algs("Ed448"), "Algorithms"},
		"ECDSA and Ed25519":         {algs("ES256", "Ed25519"), "Algorithms"},
		"Ed25519 with an EC key":    {keys("Ed25519", &p256().PublicKey), "Keys"},
		"an empty Cognito client":   {with(func(c *wsguardjwt.Config) { c.CognitoClientIDs = []string{""} }), "CognitoClientIDs"},
		"no tenants":                {entra(template), "Tenants"},
		"tenants and any":           {anyTenant(entra(template, tenant1)), "InsecureAnyTenant"},
		"tenants, no template":      {entra(issuer, tenant1), "Tenants"},
		"any tenant, no template":   {anyTenant(entra(issuer)), "InsecureAnyTenant"},
		"a tenant's name":           {entra(template, "contoso.onmicrosoft.com"), "Tenants"},
		"tenant common":             {entra(template, tenant1, "common"), "Tenants"},
		"an empty tenant":           {entra(template, ""), "Tenants"},
		"template as the host":      {entra("https://{tenantid}/v2.0", tenant1), "Issuer Issuer"},
		"template in the host":      {entra("https://{tenantid}.example.com/{tenantid}", tenant1), "Issuer Issuer"},
		"template twice":            {entra("https://a/{tenantid}/{tenantid}", tenant1), "Issuer"},
		"template in a segment":     {entra("https://a/x{tenantid}/v2.0", tenant1), "Issuer"},
		"RSA and HMAC":              {algs("RS256", "HS256"), "Algorithms"},
		"RSA and ECDSA":             {algs("RS256", "ES256"), "Algorithms"},
		"ECDSA and EdDSA":           {algs("ES256", "EdDSA"), "Algorithms"},
		"HMAC by URL":               {with(func(c *wsguardjwt.Config) { c.Algorithms, c.JWKSURL = []string{"HS256"}, jwksURL }), "Keys"},
		"HMAC by discovery":         {algs("HS256"), "Keys"},
		"keys and a URL":            {with(func(c *wsguardjwt.Config) { c.Keys, c.JWKSURL = []any{&rsaKey().PublicKey}, jwksURL }), "JWKSURL"},
		"leeway":                    {with(func(c *wsguardjwt.Config) { c.Leeway = 31 * time.Second }), "Leeway"},
		"negative leeway":           {with(func(c *wsguardjwt.Config) { c.Leeway = -time.Second }), "Leeway"},
		"token bytes":               {with(func(c *wsguardjwt.Config) { c.MaxTokenBytes = -1 }), "MaxTokenBytes"},
		"key age, short":            {with(func(c *wsguardjwt.Config) { c.MaxKeyAge = time.Minute }), "MaxKeyAge"},
		"key age, long":             {with(func(c *wsguardjwt.Config) { c.MaxKeyAge = 25 * time.Hour }), "MaxKeyAge"},
		"key age, off":              {with(func(c *wsguardjwt.Config) { c.MaxKeyAge = wsguard.Off }), "MaxKeyAge"},
		"JWKS in clear text":        {url("http://login.example.com/keys"), "JWKSURL"},
		"JWKS of a file":            {url("file:///keys"), "JWKSURL"},
		"JWKS of a user":            {url("https://user:hunter2@login.example.com/keys"), "JWKSURL"},
		"JWKS, relative":            {url("/keys"), "JWKSURL"},
		"JWKS of a loopback's name": {url("http://localhost.example.com/keys"), "JWKSURL"},
		"JWKS of nobody":            {url("https:///keys"), "JWKSURL"},
		"discovery in clear text":   {iss("http://login.example.com"), "Issuer"},
		"discovery without a URL":   {iss("login"), "Issuer"},
		"discovery with a query":    {iss(issuer + "?x=1"), "Issuer"},
		"discovery with a fragment": {iss(issuer + "#x"), "Issuer"},
		"short secret":              {keys("HS256", secret[:31]), "Keys"},
		"short for HS384":           {keys("HS256 HS384", secret), "Keys"},
		"short for HS512":           {keys("HS512", append(slices.Clone(secret), secret[:31]...)), "Keys"},
		"no secret":                 {keys("HS256", []byte{}), "Keys"},
		"secret of zeros":           {keys("HS256", make([]byte, 32)), "Keys"},
		"secret, a string":          {keys("HS256", string(secret)), "Keys"},
		"secret, a public PEM":      {keys("HS256", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "Keys"},
		"secret, a public DER":      {keys("HS256", der), "Keys"},
		"secret, a PKCS1 DER":       {keys("HS256", x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)), "Keys"},
		"HMAC with an RSA key":      {keys("HS256", &rsaKey().PublicKey), "Keys"},
		"RSA with a secret":         {keys("RS256", secret), "Keys"},
		"one key of two wrong":      {keys("RS256", &rsaKey().PublicKey, &rsaWeak().PublicKey), "Keys"},
		"weak RSA":                  {keys("RS256", &rsaWeak().PublicKey), "Keys"},
		"long RSA":                  {keys("RS256", long), "Keys"},
		"RSA by 1":                  {keys("RS256", one), "Keys"},
		"RSA by an even number":     {keys("RS256", even), "Keys"},
		"RSA of nobody":             {keys("RS256", (*rsa.PublicKey)(nil)), "Keys"},
		"RSA without a modulus":     {keys("RS256", &rsa.PublicKey{E: 3}), "Keys"},
		"private RSA":               {keys("RS256", rsaKey()), "Keys"},
		"wrong curve":               {keys("ES256", &p384().PublicKey), "Keys"},
		"one curve of two":          {keys("ES256 ES384", &p256().PublicKey), "Keys"},
		"ECDSA of nobody":           {keys("ES256", (*ecdsa.PublicKey)(nil)), "Keys"},
		"short Ed25519":             {keys("EdDSA", edKey().Public().(ed25519.PublicKey)[:31]), "Keys"},
		"nine keys":                 {keys("RS256", slices.Repeat([]any{&rsaKey().PublicKey}, 9)...), "Keys"},
		"nil key":                   {keys("RS256", nil), "Keys"},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := wsguardjwt.New(tt.cfg)
			if v != nil || strings.Join(faults(err), " ") != tt.want {
				t.Fatalf("faults of %v, want %s", err, tt.want)
			}
			for _, secret := range []string{"hunter2", "0123456789"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("holds a secret: %v", err)
				}
			}
		})
	}
	for name, cfg := range map[string]wsguardjwt.Config{
		"discovery":          base,
		"discovery, a slash": iss(issuer + "/"),
		"loopback":           iss("http://127.0.0.1:8080"),
		"IPv6 loopback":      url("http://[::1]:8080/keys"),
		"localhost":          url("http://localhost/keys"),
		"insecure":           with(func(c *wsguardjwt.Config) { c.JWKSURL, c.InsecureAllowHTTP = "http://keys.internal/", true }),
		"two of a family":    algs("RS256", "PS256"),
		"both of Ed25519":    algs("EdDSA", "Ed25519"),
		"Cognito":            with(func(c *wsguardjwt.Config) { c.Audience, c.CognitoClientIDs = nil, []string{"app"} }),
		"tenants":            entra(template, tenant1, strings.ToUpper(tenant2)),
		"any tenant":         anyTenant(entra(template)),
		"tenants of v1":      entra("https://sts.windows.net/{tenantid}/", tenant1),
		"both curves":        keys("ES256 ES384", &p256().PublicKey, &p384().PublicKey),
		"issuer, a name":     with(func(c *wsguardjwt.Config) { c.Issuer, c.Keys = "accounts", []any{&rsaKey().PublicKey} }),
		"no leeway":          with(func(c *wsguardjwt.Config) { c.Leeway = wsguard.Off }),
		"most leeway":        with(func(c *wsguardjwt.Config) { c.Leeway = 30 * time.Second }),
	} {
		if _, err := wsguardjwt.New(cfg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConfigIsCopied: changing what was given changes nothing.
func TestConfigIsCopied(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	cfg := wsguardjwt.Config{Audience: []string{audience}, Algorithms: []string{"HS256"}, Keys: []any{secret}}
	v := newVerifier(t, cfg)
	good := sign("HS256", slices.Clone(secret), nil, nil)
	clear(secret)
	cfg.Audience[0], cfg.Algorithms[0] = "other", "HS512"
	accepted(t, v, good)
	refused(t, v, sign("HS256", secret, nil, nil))
}

func TestPrincipal(t *testing.T) {
	v := newVerifier(t, wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}})
	now := time.Now()
	got := accepted(t, v, sign("RS256", rsaKey(), nil, nil))
	if got.Subject != "alice" || got.SessionID != "s-1" || !slices.Equal(got.Scopes, []string{"read", "write"}) ||
		got.Expires.Unix() < now.Add(4*time.Minute).Unix() || got.IssuedAt.IsZero() || got.IssuedAt.After(time.Now()) {
		t.Errorf("%+v", got)
	}
	for name, tt := range map[string]struct {
		with   obj
		sid    string
		scopes []string
	}{
		"scope, spaces":         {obj{"scope": " a  b "}, "s-1", []string{"a", "b"}},
		"scope, a list":         {obj{"scope": []string{"a", "b"}}, "s-1", []string{"a", "b"}},
		"scope, empty":          {obj{"scope": ""}, "s-1", nil},
		"scp, a list":           {obj{"scope": nil, "scp": []string{"a", "b"}}, "s-1", []string{"a", "b"}},
		"scp, a string":         {obj{"scope": nil, "scp": "a b"}, "s-1", []string{"a", "b"}},
		"scope before scp":      {obj{"scope": "a", "scp": []string{"b"}}, "s-1", []string{"a"}},
		"neither":               {obj{"scope": nil}, "s-1", nil},
		"jti is no session":     {obj{"sid": nil, "jti": "j"}, "", []string{"read", "write"}},
		"aud among others":      {obj{"aud": []string{"x", audience}}, "s-1", []string{"read", "write"}},
		"a claim of an object":  {obj{"realm_access": obj{"roles": []string{"x"}}}, "s-1", []string{"read", "write"}},
		"no iat":                {obj{"iat": nil}, "s-1", []string{"read", "write"}},
		"exp with a fraction":   {obj{"exp": float64(now.Unix()) + 60.5}, "s-1", []string{"read", "write"}},
		"exp in the year 9999":  {obj{"exp": int64(253402300799)}, "s-1", []string{"read", "write"}},
		"longest names":         {obj{"sub": strings.Repeat("a", 255)}, "s-1", []string{"read", "write"}},
		"claims of other cases": {obj{"SUB": "admin", "Exp": 0}, "s-1", []string{"read", "write"}},
	} {
		p := accepted(t, v, sign("RS256", rsaKey(), nil, tt.with))
		if p.SessionID != tt.sid || !slices.Equal(p.Scopes, tt.scopes) || p.Subject == "admin" || p.Expires.IsZero() {
			t.Errorf("%s: %+v", name, p)
		}
	}
	v = newVerifier(t, wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}, SessionClaim: "jti"})
	if p := accepted(t, v, sign("RS256", rsaKey(), nil, obj{"jti": "j"})); p.SessionID != "j" {
		t.Errorf("%+v", p)
	}
}

func TestType(t *testing.T) {
	for typ, tt := range map[string]struct{ any, at bool }{
		"":                   {true, false},
		"JWT":                {true, false},
		"jwt":                {true, false},
		"at+jwt":             {true, true},
		"AT+JWT":             {true, true},
		"application/at+jwt": {true, true},
		"logout+jwt":         {false, false},
		"id+jwt":             {false, false},
		"at+jwt2":            {false, false},
	} {
		header := obj{"typ": typ}
		if typ == "" {
			header["typ"] = nil
		}
		token := sign("RS256", rsaKey(), header, nil)
		for want, ok := range map[string]bool{"": tt.any, "at+jwt": tt.at} {
			v := newVerifier(t, wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}, Type: want})
			if _, err := v.Verify(context.Background(), token); (err == nil) != ok {
				t.Errorf("typ %q where %q is wanted: %v", typ, want, err)
			}
		}
	}
}

// TestTimes: leeway is for the issuer's clock, to the second, and never for exp.
func TestTimes(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		for name, tt := range map[string]struct {
			claim  string // set to now plus ahead
			ahead  time.Duration
			leeway time.Duration
			after  time.Duration // until it is verified
			want   error
		}{
			"just before exp":        {"exp", time.Minute, 0, time.Minute - 1, nil},
			"at exp":                 {"exp", time.Minute, 0, time.Minute, jwt.ErrTokenExpired},
			"at exp, leeway":         {"exp", time.Minute, 30 * time.Second, time.Minute, jwt.ErrTokenExpired},
			"iat 10 s ahead":         {"iat", 10 * time.Second, 0, 0, nil},
			"iat 11 s ahead":         {"iat", 11 * time.Second, 0, 0, jwt.ErrTokenUsedBeforeIssued},
			"iat 1 s ahead, Off":     {"iat", time.Second, wsguard.Off, 0, jwt.ErrTokenUsedBeforeIssued},
			"iat 1 s ahead, waited":  {"iat", time.Second, wsguard.Off, time.Second, nil},
			"nbf 30 s ahead":         {"nbf", 30 * time.Second, 30 * time.Second, 0, nil},
			"nbf 31 s ahead":         {"nbf", 31 * time.Second, 30 * time.Second, 0, jwt.ErrTokenNotValidYet},
			"nbf 31 s ahead, waited": {"nbf", 31 * time.Second, 30 * time.Second, time.Second, nil},
			"nbf of the past":        {"nbf", -time.Hour, wsguard.Off, 0, nil},
		} {
			v := newVerifier(t, wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}, Leeway: tt.leeway})
			token := sign("RS256", rsaKey(), nil, obj{tt.claim: time.Now().Add(tt.ahead).Unix()})
			time.Sleep(tt.after)
			if _, err := v.Verify(t.Context(), token); !errors.Is(err, tt.want) {
				t.Errorf("%s: %v", name, err)
			}
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // to a full second
		}
	})
}

func TestPrincipalHook(t *testing.T) {
	var hook func(ctx context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error)
	v := newVerifier(t, wsguardjwt.Config{
		Keys: []any{&rsaKey().PublicKey},
		Principal: func(ctx context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
			return hook(ctx, claims, p)
		},
	})
	token := sign("RS256", rsaKey(), nil, obj{"tenant": "t1", "n": int64(12345678901234567)})

	hook = func(_ context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
		p.Subject = claims["tenant"].(string) + "/" + p.Subject
		p.Scopes = append(p.Scopes, claims["n"].(json.Number).String())
		return p, nil
	}
	if p := accepted(t, v, token); p.Subject != "t1/alice" || p.Scopes[2] != "12345678901234567" {
		t.Errorf("%+v", p)
	}

	// The token's expiry is a bound.
	var exp time.Time
	for _, by := range []time.Duration{-time.Minute, time.Hour} {
		hook = func(_ context.Context, _ map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
			exp = p.Expires
			p.Expires = p.Expires.Add(by)
			return p, nil
		}
		if p := accepted(t, v, token); !p.Expires.Equal(exp.Add(min(by, 0))) {
			t.Errorf("%v moved: %v, was %v", by, p.Expires, exp)
		}
	}
	hook = func(_ context.Context, _ map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
		p.Expires = time.Time{}
		return p, nil
	}
	if p := accepted(t, v, token); !p.Expires.Equal(exp) {
		t.Errorf("taken away: %v", p.Expires)
	}

	hook = func(context.Context, map[string]any, wsguard.Principal) (wsguard.Principal, error) {
		return wsguard.Principal{}, nil
	}
	refused(t, v, token)
	hook = func(_ context.Context, _ map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
		return p, errors.New("banned")
	}
	refused(t, v, token)
	for _, err := range []error{wsguard.ErrUnavailable, context.DeadlineExceeded, context.Canceled} {
		hook = func(_ context.Context, _ map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
			return p, fmt.Errorf("database: %w", err)
		}
		unavailable(t, v, token)
	}
	hook = func(_ context.Context, _ map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
		t.Error("asked about a bad token")
		return p, nil
	}
	refused(t, v, token[:len(token)-8]+"AAAAAAAA")
}

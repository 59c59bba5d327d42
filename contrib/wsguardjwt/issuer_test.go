package wsguardjwt_test

import (
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
	"github.com/wsguard/wsguard/reason"
)

// TestExpired shows which tokens are expired and no guess. TestForgeries shows which are not.
func TestExpired(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}})
		now := time.Now()
		for name, tt := range map[string]struct {
			with obj
			want error
		}{
			"exp now":           {obj{"exp": now.Unix()}, jwt.ErrTokenExpired},
			"exp long ago":      {obj{"exp": now.Add(-24 * time.Hour).Unix()}, jwt.ErrTokenExpired},
			"nbf beyond leeway": {obj{"nbf": now.Add(11 * time.Second).Unix()}, jwt.ErrTokenNotValidYet},
			"iat beyond leeway": {obj{"iat": now.Add(11 * time.Second).Unix()}, jwt.ErrTokenUsedBeforeIssued},
		} {
			err := refused(t, v, sign("RS256", rsaKey(), nil, tt.with))
			if !errors.Is(err, wsguard.ErrExpired) || !errors.Is(err, tt.want) {
				t.Errorf("%s: %v", name, err)
			}
			err = refused(t, v, sign("RS256", rsaOther(), nil, tt.with))
			if errors.Is(err, wsguard.ErrExpired) || errors.Is(err, tt.want) {
				t.Errorf("%s, forged: %v", name, err)
			}
		}
		// The keys are not known yet. An expired token is judged when they are.
		k1, _ := ecKeys(t)
		source := publish(k1)
		source.fail(down)
		v = byURL(t, source)
		expired := sign("ES256", p256(), nil, obj{"exp": now.Add(-time.Hour).Unix()})
		unavailable(t, v, expired)
		source.set(k1)
		time.Sleep(time.Minute)
		if err := refused(t, v, expired); !errors.Is(err, wsguard.ErrExpired) {
			t.Error(err)
		}
	})
}

// TestExpiredThroughAGuard shows that a stale tab exhausts nobody's budget, and that a forged
// token that looks expired does.
func TestExpiredThroughAGuard(t *testing.T) {
	v := newVerifier(t, wsguardjwt.Config{Algorithms: []string{"ES256"}, Keys: []any{&p256().PublicKey}})
	last := func(key any) (err error) {
		a, err := wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{
			Verifier: v.Verify, Failures: wsguard.Rate{PerSecond: 0.001, Burst: 3},
		}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			r := httptest.NewRequest("GET", "http://api.example.com/ws", nil)
			r.Header.Set("Authorization", "Bearer "+sign("ES256", key, nil, obj{"exp": time.Now().Add(-time.Hour).Unix(), "n": i}))
			_, err = a.Authenticate(r)
		}
		return err
	}
	if err := last(p256()); !errors.Is(err, reason.Unauthenticated) {
		t.Errorf("six expired tokens: %v", err)
	}
	if err := last(p256b()); !errors.Is(err, reason.Guessing) {
		t.Errorf("six forged tokens that look expired: %v", err)
	}
}

func TestCognito(t *testing.T) {
	base := wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}, Audience: []string{}, CognitoClientIDs: []string{"app-1", "app-2"}}
	both := base
	both.Audience = []string{audience}
	access := func(with obj) obj {
		return merge(obj{"aud": nil, "sid": nil, "client_id": "app-1", "token_use": "access", "username": "alice"}, with)
	}
	for name, tt := range map[string]struct {
		with       obj
		only, both bool // accepted without and with an Audience
	}{
		"access token":                   {access(nil), true, true},
		"of the other client":            {access(obj{"client_id": "app-2"}), true, true},
		"of a client not listed":         {access(obj{"client_id": "app-3"}), false, false},
		"of a client in capitals":        {access(obj{"client_id": "APP-1"}), false, false},
		"without a client":               {access(obj{"client_id": nil}), false, false},
		"of an empty client":             {access(obj{"client_id": ""}), false, false},
		"of a list of clients":           {access(obj{"client_id": []string{"app-1"}}), false, false},
		"ID token":                       {access(obj{"token_use": "id", "client_id": nil, "aud": "app-1"}), false, false},
		"ID token for the audience":      {access(obj{"token_use": "id", "aud": audience}), false, false},
		"ID token with a client_id":      {access(obj{"token_use": "id"}), false, false},
		"no token_use":                   {access(obj{"token_use": nil}), false, false},
		"no token_use, right aud":        {access(obj{"token_use": nil, "aud": audience}), false, false},
		"token_use in capitals":          {access(obj{"token_use": "ACCESS"}), false, false},
		"token_use a list":               {access(obj{"token_use": []string{"access"}}), false, false},
		"for the audience":               {access(obj{"aud": audience}), false, true},
		"for the audience, other client": {access(obj{"aud": audience, "client_id": "app-3"}), false, true},
		"for another audience":           {access(obj{"aud": "https://other.example.com"}), false, false},
		"for a client as the audience":   {access(obj{"aud": "app-1"}), false, false},
		"for no audience":                {access(obj{"aud": []string{}}), false, false},
		"for an empty audience":          {access(obj{"aud": ""}), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			token := sign("RS256", rsaKey(), nil, tt.with)
			for _, c := range []struct {
				cfg wsguardjwt.Config
				ok  bool
			}{{base, tt.only}, {both, tt.both}} {
				if v := newVerifier(t, c.cfg); c.ok {
					accepted(t, v, token)
				} else if err := refused(t, v, token); !errors.Is(err, jwt.ErrTokenInvalidAudience) {
					t.Error(err)
				}
			}
		})
	}
	// Without the field, a client_id is no audience.
	v := newVerifier(t, wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}})
	refused(t, v, sign("RS256", rsaKey(), nil, obj{"aud": nil, "client_id": audience, "token_use": "access"}))
}

const (
	template = "https://login.microsoftonline.com/{tenantid}/v2.0"
	tenant1  = "72f988bf-86f1-41af-91ab-2d7cd011db47"
	tenant2  = "9188040d-6c67-4c5b-b112-36a304b66dad"
	tenant3  = "11111111-2222-3333-4444-555555555555"
)

func ofTenant(tid string) string { return strings.Replace(template, "{tenantid}", tid, 1) }

// entra publishes keys as Microsoft Entra does.
func entra(keys ...any) roundTripper {
	source := publish(keys...)
	return func(r *http.Request) (*http.Response, error) {
		switch r.URL.String() {
		case "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration":
			return respond(200, `{"issuer":"`+template+`","jwks_uri":"https://login.microsoftonline.com/common/discovery/v2.0/keys"}`), nil
		case "https://login.microsoftonline.com/common/discovery/v2.0/keys":
			return source.RoundTrip(r)
		}
		return respond(404, ""), nil
	}
}

func withIssuer(key any, kid string, issuer any) obj {
	m := jwk(key, kid, jwkset.JWKMetadataOptions{})
	return obj{"kty": m.KTY, "crv": m.CRV, "x": m.X, "y": m.Y, "kid": kid, "issuer": issuer}
}

func TestTenants(t *testing.T) {
	source := entra(
		withIssuer(&p256().PublicKey, "k1", template),
		withIssuer(&p256b().PublicKey, "k2", ofTenant(tenant2)),
		withIssuer(&p256c().PublicKey, "bad", 1), withIssuer(&p256c().PublicKey, "empty", ""),
	)
	base := wsguardjwt.Config{Issuer: template, Algorithms: []string{"ES256"}, Transport: source}
	listed, anyTenant := base, base
	listed.Tenants = []string{tenant1, strings.ToUpper(tenant2)}
	anyTenant.InsecureAnyTenant = true
	few, all := newVerifier(t, listed), newVerifier(t, anyTenant)
	of := func(tid any, iss string) obj { return obj{"tid": tid, "iss": iss} }
	for name, tt := range map[string]struct {
		kid      string
		with     obj
		few, all string // the subject; empty: refused
	}{
		"a listed tenant":              {"k1", of(tenant1, ofTenant(tenant1)), tenant1 + "/alice", tenant1 + "/alice"},
		"listed in capitals":           {"k1", of(tenant2, ofTenant(tenant2)), tenant2 + "/alice", tenant2 + "/alice"},
		"another tenant":               {"k1", of(tenant3, ofTenant(tenant3)), "", tenant3 + "/alice"},
		"tid of a listed one":          {"k1", of(tenant1, ofTenant(tenant3)), "", ""},
		"iss of a listed one":          {"k1", of(tenant3, ofTenant(tenant1)), "", ""},
		"no tid":                       {"k1", of(nil, ofTenant(tenant1)), "", ""},
		"tid a list":                   {"k1", of([]string{tenant1}, ofTenant(tenant1)), "", ""},
		"tid in capitals":              {"k1", of(strings.ToUpper(tenant1), ofTenant(strings.ToUpper(tenant1))), "", ""},
		"tid the template":             {"k1", of("{tenantid}", template), "", ""},
		"tid common":                   {"k1", of("common", ofTenant("common")), "", ""},
		"tid empty":                    {"k1", of("", ofTenant("")), "", ""},
		"tid a path":                   {"k1", of("x/"+tenant1, ofTenant("x/"+tenant1)), "", ""},
		"iss of another host":          {"k1", of(tenant1, "https://evil.example/"+tenant1+"/v2.0"), "", ""},
		"iss of v1":                    {"k1", of(tenant1, "https://sts.windows.net/"+tenant1+"/"), "", ""},
		"iss longer":                   {"k1", of(tenant1, ofTenant(tenant1)+"/x"), "", ""},
		"key of the tenant":            {"k2", of(tenant2, ofTenant(tenant2)), tenant2 + "/alice", tenant2 + "/alice"},
		"key of another tenant":        {"k2", of(tenant1, ofTenant(tenant1)), "", ""},
		"another tenant's, tid forged": {"k2", of(tenant2, ofTenant(tenant1)), "", ""},
	} {
		key := p256()
		if tt.kid == "k2" {
			key = p256b()
		}
		token := sign("ES256", key, obj{"kid": tt.kid}, tt.with)
		for v, want := range map[*wsguardjwt.Verifier]string{few: tt.few, all: tt.all} {
			p, err := v.Verify(t.Context(), token)
			if p.Subject != want || (err == nil) != (want != "") {
				t.Errorf("%s: %+v, %v, want %q", name, p, err, want)
			}
			if want == "" && !errors.Is(err, wsguard.ErrUnauthenticated) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// The issuer is compared too if the keys do not say of which issuer they are.
	given := newVerifier(t, wsguardjwt.Config{Issuer: template, Tenants: []string{tenant1}, Algorithms: []string{"ES256"}, Keys: []any{&p256().PublicKey}})
	accepted(t, given, sign("ES256", p256(), nil, of(tenant1, ofTenant(tenant1))))
	for _, with := range []obj{of(tenant1, ofTenant(tenant3)), of(tenant3, ofTenant(tenant1)), of(tenant1, template), of(nil, template)} {
		if err := refused(t, given, sign("ES256", p256(), nil, with)); !errors.Is(err, jwt.ErrTokenInvalidIssuer) {
			t.Errorf("%v: %v", with, err)
		}
	}
	// An expired token is genuine only if its tenant is right.
	for iss, want := range map[string]bool{ofTenant(tenant1): true, ofTenant(tenant3): false} {
		with := merge(of(tenant1, iss), obj{"exp": time.Now().Add(-time.Hour).Unix()})
		if err := refused(t, few, sign("ES256", p256(), nil, with)); errors.Is(err, wsguard.ErrExpired) != want {
			t.Errorf("expired of %s: %v", iss, err)
		}
	}
	// A key whose issuer cannot be read is no key.
	for _, kid := range []string{"bad", "empty"} {
		synctest.Test(t, func(t *testing.T) {
			refused(t, newVerifier(t, listed), sign("ES256", p256c(), obj{"kid": kid}, of(tenant1, ofTenant(tenant1))))
		})
	}
}

// TestIssuerOfAKey shows that a key with an issuer verifies tokens of that issuer only, also
// without a template.
func TestIssuerOfAKey(t *testing.T) {
	source := publish(withIssuer(&p256().PublicKey, "k1", ofTenant(tenant1)), withIssuer(&p256b().PublicKey, "k2", template))
	for iss, want := range map[string]bool{ofTenant(tenant1): true, ofTenant(tenant2): false, issuer: false} {
		v := byURL(t, source, func(c *wsguardjwt.Config) { c.Issuer = iss })
		token := sign("ES256", p256(), nil, obj{"iss": iss, "tid": tenant1})
		if want {
			accepted(t, v, token)
			accepted(t, v, sign("ES256", p256b(), obj{"kid": "k2"}, obj{"iss": iss, "tid": tenant1}))
			refused(t, v, sign("ES256", p256b(), obj{"kid": "k2"}, obj{"iss": iss, "tid": tenant2}))
		} else {
			refused(t, v, token)
		}
	}
}

// TestEd25519 shows that Ed25519 and EdDSA are two names of one algorithm, and that the
// configuration says which of the names a token may have.
func TestEd25519(t *testing.T) {
	public := edKey().Public().(ed25519.PublicKey)
	token := func(alg string) string {
		return raw(jwt.SigningMethodEdDSA, edKey(), obj{"alg": alg, "kid": "k1"}, claims(nil))
	}
	old, fresh := token("EdDSA"), token("Ed25519")
	okp := func(alg any) obj {
		return merge(obj{"kty": "OKP", "crv": "Ed25519", "x": encode(string(public)), "kid": "k1"}, obj{"alg": alg})
	}
	for _, algs := range []string{"EdDSA", "Ed25519", "EdDSA Ed25519"} {
		list := strings.Fields(algs)
		verifiers := []*wsguardjwt.Verifier{newVerifier(t, wsguardjwt.Config{Algorithms: list, Keys: []any{public}})}
		for _, alg := range []any{nil, "EdDSA", "Ed25519"} {
			verifiers = append(verifiers, newVerifier(t, wsguardjwt.Config{Algorithms: list, JWKSURL: jwksURL, Transport: publish(okp(alg))}))
		}
		for i, v := range verifiers {
			for name, token := range map[string]string{"EdDSA": old, "Ed25519": fresh} {
				_, err := v.Verify(t.Context(), token)
				if want := strings.Contains(" "+algs+" ", " "+name+" "); (err == nil) != want {
					t.Errorf("verifier %d of %s: token of %s: %v", i, algs, name, err)
				}
			}
			refused(t, v, fresh[:len(fresh)-8]+"AAAAAAAA")
			refused(t, v, token("Ed448"))
			refused(t, v, token("ed25519"))
		}
	}
	// Keys of other algorithms and curves are passed over.
	for name, key := range map[string]obj{
		"alg ES256": okp("ES256"),
		"alg Ed448": okp("Ed448"),
		"Ed448":     {"kty": "OKP", "crv": "Ed448", "x": encode(strings.Repeat("x", 57)), "kid": "k1"},
		"X25519":    {"kty": "OKP", "crv": "X25519", "x": encode(string(public)), "kid": "k1"},
		"EC":        {"kty": "EC", "crv": "Ed25519", "x": encode(string(public)), "kid": "k1"},
	} {
		v := newVerifier(t, wsguardjwt.Config{Algorithms: []string{"Ed25519"}, JWKSURL: jwksURL, Transport: publish(key)})
		if _, err := v.Verify(t.Context(), fresh); !errors.Is(err, wsguard.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

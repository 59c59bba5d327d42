package wsguardjwt_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
)

// TestForgeries is threat T33, by the attacks of RFC 8725 §2 and those that
// have worked on other libraries. The verifier knows the keys, so each fails
// for what it is.
func TestForgeries(t *testing.T) {
	rs := jwt.SigningMethodRS256
	key := rsaKey()
	der := must(x509.MarshalPKIXPublicKey(&key.PublicKey))
	pkcs1 := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	pemOf := func(typ string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
	}
	hs := func(secret []byte) string { return sign("HS256", secret, nil, nil) }
	good := sign("RS256", key, nil, nil)
	parts := strings.Split(good, ".")
	header := func(with obj) string { return sign("RS256", key, with, nil) }
	claim := func(with obj) string { return sign("RS256", key, nil, with) }
	payload := func(format string, args ...any) string {
		return raw(rs, key, obj{"alg": "RS256", "kid": "k1"}, fmt.Sprintf(format, args...))
	}
	now := time.Now()
	rest := fmt.Sprintf(`"iss":%q,"aud":%q,"exp":%d`, issuer, audience, now.Add(time.Minute).Unix())
	otherJWK := jwk(&rsaOther().PublicKey, "k1", jwkset.JWKMetadataOptions{})

	tests := map[string]string{
		// No signature, or none that counts.
		"alg none":                          encode(obj{"alg": "none"}) + "." + encode(claims(nil)) + ".",
		"alg none, with the old signature":  encode(obj{"alg": "none", "kid": "k1"}) + "." + parts[1] + "." + parts[2],
		"alg None":                          encode(obj{"alg": "None", "kid": "k1"}) + "." + parts[1] + "." + parts[2],
		"alg nOnE":                          encode(obj{"alg": "nOnE", "kid": "k1"}) + "." + parts[1] + "." + parts[2],
		"alg empty":                         encode(obj{"alg": "", "kid": "k1"}) + "." + parts[1] + "." + parts[2],
		"alg missing":                       encode(obj{"kid": "k1"}) + "." + parts[1] + "." + parts[2],
		"alg null":                          encode(`{"alg":null,"kid":"k1"}`) + "." + parts[1] + "." + parts[2],
		"alg a list":                        encode(`{"alg":["RS256"],"kid":"k1"}`) + "." + parts[1] + "." + parts[2],
		"signature stripped":                parts[0] + "." + parts[1] + ".",
		"signature and dot stripped":        parts[0] + "." + parts[1],
		"signature of zeros":                parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 256)),
		"signature cut":                     good[:len(good)-4],
		"payload modified":                  parts[0] + "." + encode(claims(obj{"sub": "admin"})) + "." + parts[2],
		"header modified":                   encode(obj{"alg": "RS256", "kid": "k1", "x": 1}) + "." + parts[1] + "." + parts[2],
		"another key's":                     sign("RS256", rsaOther(), nil, nil),
		"weak key's":                        sign("RS256", rsaWeak(), obj{"kid": "weak"}, nil),
		"encryption key's":                  sign("RS256", rsaOther(), obj{"kid": "enc"}, nil),
		"key of another alg":                sign("RS256", rsaOther(), obj{"kid": "ps"}, nil),
		"key of another operation":          sign("RS256", rsaOther(), obj{"kid": "ops"}, nil),
		"key whose private half is public":  sign("RS256", rsaOther(), obj{"kid": "private"}, nil),
		"RS512, which is not listed":        sign("RS512", key, nil, nil),
		"PS256, which is not listed":        sign("PS256", key, nil, nil),
		"ES256":                             sign("ES256", p256(), nil, nil),
		"EdDSA":                             sign("EdDSA", edKey(), nil, nil),
		"no kid, where keys are many":       header(obj{"kid": nil}),
		"HS256 by the public key, PKIX PEM": hs(pemOf("PUBLIC KEY", der)),
		"HS256 by the public key, trimmed":  hs([]byte(strings.TrimSpace(string(pemOf("PUBLIC KEY", der))))),
		"HS256 by the public key, PKCS1":    hs(pemOf("RSA PUBLIC KEY", pkcs1)),
		"HS256 by the public key, DER":      hs(der),
		"HS256 by the public key, raw DER":  hs(pkcs1),
		"HS256 by the modulus":              hs(key.N.Bytes()),
		"HS256 by nothing":                  hs([]byte{}),
		"HS256 by the kid":                  hs([]byte("k1")),

		// Keys that the token brings along.
		"jwk":             sign("RS256", rsaOther(), obj{"jwk": otherJWK}, nil),
		"jwk, no kid":     sign("RS256", rsaOther(), obj{"jwk": otherJWK, "kid": nil}, nil),
		"jku":             sign("RS256", rsaOther(), obj{"jku": "https://evil.example/keys"}, nil),
		"x5u":             sign("RS256", rsaOther(), obj{"x5u": "https://evil.example/cert.pem"}, nil),
		"x5c":             sign("RS256", rsaOther(), obj{"x5c": []string{base64.StdEncoding.EncodeToString(der)}}, nil),
		"kid, a path":     sign("RS256", rsaOther(), obj{"kid": "../../../../dev/null"}, nil),
		"kid, a URL":      sign("RS256", rsaOther(), obj{"kid": "https://evil.example/key"}, nil),
		"kid, SQL":        sign("RS256", rsaOther(), obj{"kid": "x' UNION SELECT 'secret'--"}, nil),
		"kid, a NUL":      sign("RS256", rsaOther(), obj{"kid": "k1\x00"}, nil),
		"kid, empty":      header(obj{"kid": ""}),
		"kid, a number":   header(obj{"kid": 1}),
		"kid, a list":     header(obj{"kid": []string{"k1"}}),
		"kid, very long":  header(obj{"kid": strings.Repeat("k", 300)}),
		"crit":            header(obj{"crit": []string{"exp"}}),
		"crit, empty":     header(obj{"crit": []string{}}),
		"crit and b64":    header(obj{"crit": []string{"b64"}, "b64": false}),
		"typ logout+jwt":  header(obj{"typ": "logout+jwt"}),
		"typ a number":    header(obj{"typ": 1}),
		"header no JSON":  raw(rs, key, "RS256", claims(nil)),
		"header a list":   raw(rs, key, `["RS256"]`, claims(nil)),
		"header, twice":   raw(rs, key, `{"alg":"none","kid":"k1","alg":"RS256"}`, claims(nil)),
		"header, escaped": raw(rs, key, `{"alg":"RS256","kid":"k1","\u0061lg":"RS256"}`, claims(nil)),
		"header, more":    raw(rs, key, `{"alg":"RS256","kid":"k1"}{}`, claims(nil)),

		// Forgeries that look expired or not valid yet.
		"another key's, expired":           sign("RS256", rsaOther(), nil, obj{"exp": now.Add(-time.Hour).Unix()}),
		"another key's, not valid yet":     sign("RS256", rsaOther(), nil, obj{"nbf": now.Add(time.Hour).Unix()}),
		"another key's, iat in the future": sign("RS256", rsaOther(), nil, obj{"iat": now.Add(time.Hour).Unix()}),
		"unknown kid, expired":             sign("RS256", rsaOther(), obj{"kid": "junk"}, obj{"exp": now.Add(-time.Hour).Unix()}),
		"alg none, expired":                encode(obj{"alg": "none"}) + "." + encode(claims(obj{"exp": 1})) + ".AAAA",
		"signature of zeros, expired":      parts[0] + "." + encode(claims(obj{"exp": 1})) + "." + encode(string(make([]byte, 256))),
		"another payload's, expired":       parts[0] + "." + encode(claims(obj{"exp": 1})) + "." + parts[2],
		"HS256 by the public key, expired": sign("HS256", pemOf("PUBLIC KEY", der), nil, obj{"exp": 1}),
		"typ logout+jwt, expired":          sign("RS256", key, obj{"typ": "logout+jwt"}, obj{"exp": 1}),
		"iss another, expired":             claim(obj{"iss": "https://evil.example", "exp": 1}),
		"iss missing, expired":             claim(obj{"iss": nil, "exp": 1}),
		"aud another, expired":             claim(obj{"aud": "https://other.example.com", "exp": 1}),
		"aud missing, not valid yet":       claim(obj{"aud": nil, "nbf": now.Add(time.Hour).Unix()}),
		"sub missing, expired":             claim(obj{"sub": nil, "exp": 1}),
		"sid a number, expired":            claim(obj{"sid": 1, "exp": 1}),

		// Claims, all well signed.
		"expired":                 claim(obj{"exp": now.Add(-time.Second).Unix()}),
		"expired an hour ago":     claim(obj{"exp": now.Add(-time.Hour).Unix()}),
		"exp missing":             claim(obj{"exp": nil}),
		"exp null":                payload(`{"iss":%q,"aud":%q,"sub":"alice","exp":null}`, issuer, audience),
		"exp empty":               claim(obj{"exp": ""}),
		"exp a string":            claim(obj{"exp": fmt.Sprint(now.Add(time.Hour).Unix())}),
		"exp zero":                claim(obj{"exp": 0}),
		"exp negative":            claim(obj{"exp": -1}),
		"exp beyond the calendar": claim(obj{"exp": int64(253402300800)}),
		"exp 1e300":               payload(`{"iss":%q,"aud":%q,"sub":"alice","exp":1e300}`, issuer, audience),
		"exp 1e999":               payload(`{"iss":%q,"aud":%q,"sub":"alice","exp":1e999}`, issuer, audience),
		"exp 2^63":                payload(`{"iss":%q,"aud":%q,"sub":"alice","exp":9223372036854775808}`, issuer, audience),
		"exp in a list":           claim(obj{"exp": []int64{now.Add(time.Hour).Unix()}}),
		"exp of other case":       claim(obj{"exp": nil, "EXP": now.Add(time.Hour).Unix()}),
		"nbf in the future":       claim(obj{"nbf": now.Add(time.Hour).Unix()}),
		"nbf a string":            claim(obj{"nbf": "0"}),
		"iat in the future":       claim(obj{"iat": now.Add(time.Hour).Unix()}),
		"iat a string":            claim(obj{"iat": "0"}),
		"iss missing":             claim(obj{"iss": nil}),
		"iss empty":               claim(obj{"iss": ""}),
		"iss another":             claim(obj{"iss": "https://evil.example"}),
		"iss with a slash":        claim(obj{"iss": issuer + "/"}),
		"iss in capitals":         claim(obj{"iss": strings.ToUpper(issuer)}),
		"iss longer":              claim(obj{"iss": issuer + ".evil.example"}),
		"iss shorter":             claim(obj{"iss": "https://login.example"}),
		"iss a list":              claim(obj{"iss": []string{issuer}}),
		"aud missing":             claim(obj{"aud": nil}),
		"aud empty":               claim(obj{"aud": ""}),
		"aud an empty list":       claim(obj{"aud": []string{}}),
		"aud another":             claim(obj{"aud": "https://other.example.com"}),
		"aud a list of others":    claim(obj{"aud": []string{"a", "b"}}),
		"aud longer":              claim(obj{"aud": audience + ".evil.example"}),
		"aud shorter":             claim(obj{"aud": audience[:len(audience)-1]}),
		"aud within":              claim(obj{"aud": "x " + audience + " y"}),
		"aud a number":            claim(obj{"aud": 1}),
		"aud a list of numbers":   claim(obj{"aud": []any{1, audience}}),
		"aud an object":           claim(obj{"aud": obj{audience: true}}),
		"sub missing":             claim(obj{"sub": nil}),
		"sub empty":               claim(obj{"sub": ""}),
		"sub a number":            claim(obj{"sub": 1}),
		"sub too long":            claim(obj{"sub": strings.Repeat("a", 256)}),
		"sid a number":            claim(obj{"sid": 1}),
		"sid too long":            claim(obj{"sid": strings.Repeat("a", 256)}),
		"scope a number":          claim(obj{"scope": 1}),
		"scp of numbers":          claim(obj{"scope": nil, "scp": []int{1}}),
		"sub, twice":              payload(`{%s,"sub":"alice","sub":"admin"}`, rest),
		"exp, twice":              payload(`{%s,"sub":"alice","exp":%d}`, rest, now.Add(time.Hour).Unix()),
		"twice, deep inside":      payload(`{%s,"sub":"alice","act":{"sub":"a","sub":"b"}}`, rest),
		"sub not UTF-8":           payload("{%s,\"sub\":\"ali\xffce\"}", rest),
		"sub half a surrogate":    payload(`{%s,"sub":"\ud800"}`, rest),
		"trailing data":           payload(`{%s,"sub":"alice"} {"sub":"admin"}`, rest),
		"byte order mark":         payload("\xef\xbb\xbf{%s,\"sub\":\"alice\"}", rest),
		"payload a list":          payload(`[]`),
		"payload null":            payload(`null`),
		"payload empty":           raw(rs, key, obj{"alg": "RS256", "kid": "k1"}, ""),
		"nested too deep":         payload(`{%s,"sub":"alice","x":%s1%s}`, rest, strings.Repeat("[", 1000), strings.Repeat("]", 1000)),

		// Forms. Each is the good token, spelled in a way that some decoder takes.
		"empty":                        "",
		"dots":                         "..",
		"one segment":                  "a",
		"four segments":                good + ".",
		"four full segments":           good + "." + parts[2],
		"JWE":                          encode(obj{"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "k1"}) + ".a.b.c.d",
		"space before":                 " " + good,
		"space after":                  good + " ",
		"line break after":             good + "\n",
		"line break in the signature":  parts[0] + "." + parts[1] + "." + parts[2][:10] + "\r\n" + parts[2][10:],
		"line break in the payload":    raw(rs, key, obj{"alg": "RS256", "kid": "k1"}, claims(nil))[:40] + "\n" + good[40:],
		"tab":                          parts[0] + ".\t" + parts[1] + "." + parts[2],
		"NUL":                          good + "\x00",
		"padding":                      good + "==",
		"standard base64":              parts[0] + "." + parts[1] + "." + strings.NewReplacer("-", "+", "_", "/").Replace(parts[2]) + "+",
		"last bits of the signature":   lastBits(good),
		"Bearer":                       "Bearer " + good,
		"JSON serialization":           `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"percent":                      strings.Replace(good, ".", "%2e", 1),
		"not ASCII":                    good + "é",
		"full stops of another script": strings.ReplaceAll(good, ".", "．"),
	}
	// These are genuine. Every other one is a guess.
	untimely := []string{"expired", "expired an hour ago", "exp zero", "nbf in the future", "iat in the future"}
	source := publish(
		jwk(&key.PublicKey, "k1", jwkset.JWKMetadataOptions{}),
		jwk(&rsaOther().PublicKey, "k2", jwkset.JWKMetadataOptions{ALG: jwkset.AlgRS256, USE: jwkset.UseSig}),
		jwk(&rsaWeak().PublicKey, "weak", jwkset.JWKMetadataOptions{}),
		jwk(&rsaOther().PublicKey, "enc", jwkset.JWKMetadataOptions{USE: jwkset.UseEnc}),
		jwk(&rsaOther().PublicKey, "ps", jwkset.JWKMetadataOptions{ALG: jwkset.AlgPS256}),
		jwk(&rsaOther().PublicKey, "ops", jwkset.JWKMetadataOptions{KEYOPS: []jwkset.KEYOPS{jwkset.KeyOpsEncrypt}}),
		must(jwkset.NewJWKFromKey(rsaOther(), jwkset.JWKOptions{
			Metadata: jwkset.JWKMetadataOptions{KID: "private"}, Marshal: jwkset.JWKMarshalOptions{Private: true},
		})).Marshal(),
	)
	fromURL := newVerifier(t, wsguardjwt.Config{JWKSURL: jwksURL, Transport: source})
	given := newVerifier(t, wsguardjwt.Config{Keys: []any{&key.PublicKey}})
	for _, v := range []*wsguardjwt.Verifier{fromURL, given} {
		accepted(t, v, good)
	}
	accepted(t, fromURL, sign("RS256", rsaOther(), obj{"kid": "k2"}, nil))
	var wg sync.WaitGroup // those of unknown kids wait for the next fetch, together
	for name, token := range tests {
		wg.Go(func() {
			t.Run(name, func(t *testing.T) {
				genuine := slices.Contains(untimely, name)
				for _, v := range []*wsguardjwt.Verifier{fromURL, given} {
					// Given keys are tried whatever the kid.
					if v == given && name == "no kid, where keys are many" {
						continue
					}
					if err := refused(t, v, token); errors.Is(err, wsguard.ErrExpired) != genuine {
						t.Errorf("taken for genuine: %v: %v", !genuine, err)
					}
				}
			})
		})
	}
	wg.Wait()
	// The first fetch, and few for the unknown kids.
	if n := source.count(); n > 3 || source.fetches[0] != jwksURL {
		t.Errorf("fetched %d times: %v", n, source.fetches)
	}
}

// lastBits changes the bits of the last character that carry nothing: the same
// signature in another spelling.
func lastBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[i^1])
}

// TestForgedECDSA are the forgeries that need curves: CVE-2022-21449 and keys
// of the wrong one.
func TestForgedECDSA(t *testing.T) {
	source := publish(
		jwk(&p256().PublicKey, "k1", jwkset.JWKMetadataOptions{}),
		jwk(&p384().PublicKey, "k384", jwkset.JWKMetadataOptions{}),
	)
	v := newVerifier(t, wsguardjwt.Config{Algorithms: []string{"ES256"}, JWKSURL: jwksURL, Transport: source})
	good := sign("ES256", p256(), nil, nil)
	accepted(t, v, good)
	accepted(t, v, sign("ES256", p256(), obj{"kid": nil}, nil)) // only one fits
	body := good[:strings.LastIndexByte(good, '.')+1]
	order := p256().Params().N.Bytes()
	for name, sig := range map[string][]byte{
		"r = s = 0":         make([]byte, 64),
		"r = s = the order": append(append([]byte{}, order...), order...),
		"short":             make([]byte, 8),
		"long":              make([]byte, 96),
		"DER":               {0x30, 0x06, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00},
	} {
		t.Run(name, func(t *testing.T) {
			if err := refused(t, v, body+base64.RawURLEncoding.EncodeToString(sig)); !errors.Is(err, jwt.ErrTokenSignatureInvalid) {
				t.Error(err)
			}
		})
	}
	refused(t, v, sign("ES384", p384(), obj{"kid": "k384"}, nil))
	refused(t, v, sign("ES256", p256b(), nil, nil))
	refused(t, v, sign("ES256", p256(), obj{"kid": "k384"}, nil))
}

func TestEachAlgorithm(t *testing.T) {
	secret := []byte(strings.Repeat("0123456789abcdef", 4))
	for alg, pair := range map[string][2]any{
		"HS256": {secret, secret}, "HS384": {secret, secret}, "HS512": {secret, secret},
		"RS256": {rsaKey(), &rsaKey().PublicKey}, "RS384": {rsaKey(), &rsaKey().PublicKey}, "RS512": {rsaKey(), &rsaKey().PublicKey},
		"PS256": {rsaKey(), &rsaKey().PublicKey}, "PS384": {rsaKey(), &rsaKey().PublicKey}, "PS512": {rsaKey(), &rsaKey().PublicKey},
		"ES256": {p256(), &p256().PublicKey}, "ES384": {p384(), &p384().PublicKey},
		"EdDSA": {edKey(), edKey().Public()},
	} {
		t.Run(alg, func(t *testing.T) {
			v := newVerifier(t, wsguardjwt.Config{Algorithms: []string{alg}, Keys: []any{pair[1]}})
			token := sign(alg, pair[0], nil, nil)
			accepted(t, v, token)
			refused(t, v, token[:len(token)-8]+"AAAAAAAA")
			if alg[:2] == "HS" {
				return
			}
			source := publish(jwk(pair[1], "k1", jwkset.JWKMetadataOptions{ALG: jwkset.ALG(alg), USE: jwkset.UseSig}))
			v = newVerifier(t, wsguardjwt.Config{Algorithms: []string{alg}, JWKSURL: jwksURL, Transport: source})
			accepted(t, v, token)
		})
	}
}

// TestOverLong: a long token costs a comparison of its length.
func TestOverLong(t *testing.T) {
	v := newVerifier(t, wsguardjwt.Config{JWKSURL: jwksURL, Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("keys were asked for")
		return nil, errDown
	})})
	token := sign("RS256", rsaKey(), nil, obj{"x": strings.Repeat("a", 8<<20)})
	if n := testing.AllocsPerRun(100, func() { v.Verify(context.Background(), token) }); n > 4 {
		t.Errorf("%v allocations for a token of %d MiB", n, len(token)>>20)
	}
	refused(t, v, token[:8<<10+1])

	// The cap is to the byte.
	good := sign("RS256", rsaKey(), nil, nil)
	accepted(t, newVerifier(t, wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}, MaxTokenBytes: len(good)}), good)
	refused(t, newVerifier(t, wsguardjwt.Config{Keys: []any{&rsaKey().PublicKey}, MaxTokenBytes: len(good) - 1}), good)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func FuzzVerify(f *testing.F) {
	key := p256()
	v := must(wsguardjwt.New(wsguardjwt.Config{Issuer: issuer, Audience: []string{audience}, Algorithms: []string{"ES256"}, Keys: []any{&key.PublicKey}}))
	good := sign("ES256", key, nil, nil)
	f.Add(good)
	f.Add("")
	f.Add("..")
	f.Add(encode(obj{"alg": "none"}) + "." + encode(claims(nil)) + ".")
	f.Add(encode(`{"alg":"ES256","kid":"`+"\xff"+`"}`) + ".e30.AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		// Whoever has no key makes no token: ECDSA signatures can be negated,
		// which is another spelling of the same one.
		if p, err := v.Verify(context.Background(), token); err == nil && !strings.HasPrefix(token, good[:strings.LastIndexByte(good, '.')+1]) {
			t.Errorf("%q stands for %+v", token, p)
		}
	})
}

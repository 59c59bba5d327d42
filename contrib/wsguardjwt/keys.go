package wsguardjwt

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

const (
	familyHMAC  = "HMAC"
	familyRSA   = "RSA"
	familyECDSA = "ECDSA"
	familyEdDSA = "EdDSA"
)

// algorithm says how a signature is verified, and what a key must be (RFC 7518 §3.1, RFC 8037
// §3.1, RFC 9864 §2.2).
type algorithm struct {
	family string
	method jwt.SigningMethod
	secret int            // HMAC: how many bytes the secret has at least
	curve  elliptic.Curve // ECDSA: the curve, which golang-jwt does not compare
}

var algorithms = map[string]algorithm{
	"HS256": {family: familyHMAC, method: jwt.SigningMethodHS256, secret: 32},
	"HS384": {family: familyHMAC, method: jwt.SigningMethodHS384, secret: 48},
	"HS512": {family: familyHMAC, method: jwt.SigningMethodHS512, secret: 64},
	"RS256": {family: familyRSA, method: jwt.SigningMethodRS256},
	"RS384": {family: familyRSA, method: jwt.SigningMethodRS384},
	"RS512": {family: familyRSA, method: jwt.SigningMethodRS512},
	"PS256": {family: familyRSA, method: jwt.SigningMethodPS256},
	"PS384": {family: familyRSA, method: jwt.SigningMethodPS384},
	"PS512": {family: familyRSA, method: jwt.SigningMethodPS512},
	"ES256": {family: familyECDSA, method: jwt.SigningMethodES256, curve: elliptic.P256()},
	"ES384": {family: familyECDSA, method: jwt.SigningMethodES384, curve: elliptic.P384()},
	"ES512": {family: familyECDSA, method: jwt.SigningMethodES512, curve: elliptic.P521()},
	// These are two names of one algorithm, because EdDSA is only Ed25519 here.
	"EdDSA":   {family: familyEdDSA, method: jwt.SigningMethodEdDSA},
	"Ed25519": {family: familyEdDSA, method: jwt.SigningMethodEdDSA},
}

// isFor reports whether the alg of a key allows tokens of the algorithm name. A key without an
// alg allows every algorithm that its type fits. A key may have the older name of an algorithm,
// and a token the newer one.
func isFor(keyAlg, name string) bool {
	return keyAlg == "" || keyAlg == name ||
		algorithms[keyAlg].family == familyEdDSA && algorithms[name].family == familyEdDSA
}

// A longer key takes longer to verify with, and is not in use anywhere.
const minRSABits, maxRSABits = 2048, 8192

// fits returns why a key cannot be used with the algorithm, or "".
func (a algorithm) fits(key any) (why string) {
	switch k := key.(type) {
	case []byte:
		switch {
		case a.family != familyHMAC:
			return "are secrets, but the algorithms are not HMAC"
		case len(k) < a.secret:
			return "are too short: a secret is as long as its hash"
		}
	case *rsa.PublicKey:
		switch {
		case a.family != familyRSA:
			return "are RSA, but the algorithms are not"
		case k == nil || k.N == nil || k.N.BitLen() < minRSABits || k.N.BitLen() > maxRSABits:
			return "of RSA must have 2,048 to 8,192 bits"
		case k.E < 3 || k.E%2 == 0: // with 1, every signature would be its own proof
			return "of RSA must have an odd exponent of 3 or more"
		}
	case *ecdsa.PublicKey:
		switch {
		case a.family != familyECDSA:
			return "are ECDSA, but the algorithms are not"
		case k == nil || k.Curve != a.curve:
			return "are not of the algorithm's curve"
		}
		if _, err := k.ECDH(); err != nil {
			return "are not on their curve"
		}
	case ed25519.PublicKey:
		switch {
		case a.family != familyEdDSA:
			return "are Ed25519, but the algorithms are not EdDSA"
		case len(k) != ed25519.PublicKeySize:
			return "of Ed25519 must have 32 bytes"
		}
	default:
		return "must be *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey or []byte"
	}
	return ""
}

// static has the configured keys by algorithm. It is read-only.
type static map[string][]jwt.VerificationKey

// staticKeys returns the keys by algorithm, or what is wrong with them.
func staticKeys(keys []any, algs []string) (static, string) {
	if len(keys) > maxStaticKeys {
		return nil, "are more than eight"
	}
	byAlg := static{}
	for _, key := range keys {
		if secret, ok := key.([]byte); ok {
			switch {
			case isPublicKey(secret):
				return nil, "hold a PEM block or a public key as a secret"
			case len(secret) > 0 && bytes.Count(secret, secret[:1]) == len(secret):
				return nil, "hold a secret of one repeated byte"
			}
			key = slices.Clone(secret)
		}
		why, used := "", false
		for _, alg := range algs {
			if why = algorithms[alg].fits(key); why == "" {
				byAlg[alg] = append(byAlg[alg], key)
				used = true
			}
		}
		if !used {
			return nil, why
		}
	}
	for _, alg := range algs {
		if len(byAlg[alg]) == 0 {
			return nil, "have none that fits " + alg
		}
	}
	return byAlg, ""
}

func (s static) find(_ context.Context, w wanted) ([]jwt.VerificationKey, error) {
	return s[w.alg], nil
}

func (static) ready(context.Context) error { return nil }

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

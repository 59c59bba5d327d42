package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// demoUsers are for this demonstration, and in its README. Yours are in a
// database, with argon2id or bcrypt.
var demoUsers = map[string]struct{ password, scope string }{
	"alice": {"wonderland", "chat:read chat:write"},
	"bob":   {"builder", "chat:read chat:write"},
	"carol": {"christmas", "chat:read"},
}

const (
	cookieName   = "wsguard_jwt_login"
	loginFor     = 8 * time.Hour
	maxLogins    = 1000
	maxLoginBody = 1 << 10
)

// issuer stands for an identity provider: a login is a cookie that lives for
// hours, and buys tokens that live for minutes.
type issuer struct {
	url, audience string
	ttl           time.Duration
	key           *ecdsa.PrivateKey
	kid           string
	set           json.RawMessage // the JWK Set
	signedOut     func(sid string)
	rate          *rate.Limiter // of logins

	mu     sync.Mutex
	logins map[[sha256.Size]byte]login // by the hash of the cookie's value
}

type login struct {
	// The token says which login it is of; the cookie is a secret of its own,
	// or a service that sees a token could make more of them.
	sid, user string
	until     time.Time
}

// newIssuer makes its key: with the program, all tokens end.
func newIssuer(url, audience string, ttl time.Duration) (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	kid := rand.Text()
	jwk, err := jwkset.NewJWKFromKey(&key.PublicKey, jwkset.JWKOptions{
		Metadata: jwkset.JWKMetadataOptions{ALG: jwkset.AlgES256, KID: kid, USE: jwkset.UseSig},
	})
	if err != nil {
		return nil, err
	}
	set := jwkset.NewMemoryStorage()
	if err := set.KeyWrite(context.Background(), jwk); err != nil {
		return nil, err
	}
	public, err := set.JSONPublic(context.Background())
	if err != nil {
		return nil, err
	}
	return &issuer{
		url: url, audience: audience, ttl: ttl, key: key, kid: kid, set: public,
		rate: rate.NewLimiter(5, 20), logins: map[[sha256.Size]byte]login{},
	}, nil
}

func (i *issuer) configuration(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{"issuer": i.url, "jwks_uri": i.url + "/.well-known/jwks.json"})
}

func (i *issuer) keys(w http.ResponseWriter, _ *http.Request) { answer(w, i.set) }

// login takes a name and a password, and answers with a first token.
func (i *issuer) login(w http.ResponseWriter, r *http.Request) {
	if !i.rate.Allow() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "Too many logins, please wait.", http.StatusTooManyRequests)
		return
	}
	var req struct{ Name, Password string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLoginBody)).Decode(&req); err != nil {
		http.Error(w, "That is no login.", http.StatusBadRequest)
		return
	}
	want, known := demoUsers[req.Name]
	a, b := sha256.Sum256([]byte(want.password)), sha256.Sum256([]byte(req.Password))
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !known {
		http.Error(w, "No such name and password.", http.StatusUnauthorized)
		return
	}
	i.end(r) // who logs in again leaves the old login behind
	cookie := rand.Text()
	l := login{sid: rand.Text(), user: req.Name, until: time.Now().Add(loginFor)}
	if !i.add(sha256.Sum256([]byte(cookie)), l) {
		http.Error(w, "Too many people are here, please come back later.", http.StatusServiceUnavailable)
		return
	}
	// Strict: the cookie comes with no request that another site started. A
	// server with TLS adds Secure, and the prefix __Host- to the name.
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: cookie, Path: "/", MaxAge: int(loginFor / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	i.grant(w, l)
}

func (i *issuer) add(key [sha256.Size]byte, l login) bool {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	for k, l := range i.logins {
		if !now.Before(l.until) {
			delete(i.logins, k)
		}
	}
	if len(i.logins) >= maxLogins {
		return false
	}
	i.logins[key] = l
	return true
}

func (i *issuer) find(r *http.Request) (key [sha256.Size]byte, l login, ok bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return key, l, false
	}
	key = sha256.Sum256([]byte(cookie.Value))
	i.mu.Lock()
	defer i.mu.Unlock()
	l, ok = i.logins[key]
	return key, l, ok && time.Now().Before(l.until)
}

// token answers the cookie with a new token.
func (i *issuer) token(w http.ResponseWriter, r *http.Request) {
	_, l, ok := i.find(r)
	if !ok {
		http.Error(w, "Please log in.", http.StatusUnauthorized)
		return
	}
	i.grant(w, l)
}

func (i *issuer) grant(w http.ResponseWriter, l login) {
	now := time.Now()
	exp := now.Add(i.ttl)
	if exp.After(l.until) {
		exp = l.until
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": i.url, "aud": i.audience, "sub": l.user, "sid": l.sid, "scope": demoUsers[l.user].scope,
		"iat": now.Unix(), "exp": exp.Unix(), "jti": rand.Text(),
	})
	t.Header["kid"] = i.kid
	t.Header["typ"] = "at+jwt" // RFC 9068
	token, err := t.SignedString(i.key)
	if err != nil {
		http.Error(w, "Something went wrong.", http.StatusInternalServerError)
		return
	}
	answer(w, map[string]any{"name": l.user, "token": token, "expires_in": int(time.Until(exp) / time.Second)})
}

func (i *issuer) logout(w http.ResponseWriter, r *http.Request) {
	i.end(r)
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	w.WriteHeader(http.StatusNoContent)
}

// end closes the login of r, if it has one, and every connection that was
// opened with its tokens: a logout that leaves the sockets open is none.
func (i *issuer) end(r *http.Request) {
	key, l, ok := i.find(r)
	if !ok {
		return
	}
	i.mu.Lock()
	delete(i.logins, key) // first: it buys no more tokens
	i.mu.Unlock()
	i.signedOut(l.sid)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

package main

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard"
)

const (
	cookieName   = "wsguard_chat"
	sessionFor   = 8 * time.Hour
	maxSessions  = 1000
	maxLoginBody = 1 << 10
)

// A name is short and of letters and digits, so that nobody can pass for
// somebody else with a space or a character that turns the line around.
var validName = regexp.MustCompile(`^[\pL\pN][\pL\pN_.-]{0,19}$`)

// logins gives a name to every client that asks. It stands for the login of your
// application, which knows people by more than a name: all that the guard
// needs of it is principal, and a call of Revoke when a session ends.
type logins struct {
	revoke func(name string)
	rate   *rate.Limiter
	key    string // makes an operator of a login; another one after each start
	store  *store
	log    *slog.Logger
	secure bool // browsers come over TLS
}

// operatorScope is the scope of an operator's connections, for the page.
const operatorScope = "operator"

func newLogins(revoke func(name string), s *store, log *slog.Logger) *logins {
	return &logins{revoke: revoke, rate: rate.NewLimiter(5, 20), key: rand.Text(), store: s, log: log}
}

// principal says whose ticket is asked for.
func (l *logins) principal(r *http.Request) (wsguard.Principal, error) {
	s, ok := l.find(r)
	if !ok {
		return wsguard.Principal{}, errors.New("no session")
	}
	// The connection ends with the session. IssuedAt tells this session from
	// one of the same name that was revoked earlier.
	p := wsguard.Principal{Subject: s.Name, IssuedAt: s.Since, Expires: s.Until}
	if s.operator {
		p.Scopes = []string{operatorScope}
	}
	return p, nil
}

// operator is the Authorize of the handlers for operators.
func (l *logins) operator(r *http.Request) (string, error) {
	switch s, ok := l.find(r); {
	case !ok:
		return "", wsguard.ErrNoCredential
	case !s.operator:
		return "", wsguard.ErrForbidden
	default:
		return s.Name, nil
	}
}

func (l *logins) find(r *http.Request) (session, bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, false
	}
	return l.store.find(cookie.Value)
}

func (l *logins) login(w http.ResponseWriter, r *http.Request) {
	if !l.rate.Allow() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "Too many logins, please wait.", http.StatusTooManyRequests)
		return
	}
	var req struct{ Name, Key string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLoginBody)).Decode(&req); err != nil {
		http.Error(w, "That is no login.", http.StatusBadRequest)
		return
	}
	if !validName.MatchString(req.Name) {
		http.Error(w, "A name has up to 20 letters and digits, and may have - _ . after the first.", http.StatusBadRequest)
		return
	}
	if req.Key != "" && subtle.ConstantTimeCompare([]byte(req.Key), []byte(l.key)) == 0 {
		http.Error(w, "That is not the operator key.", http.StatusForbidden)
		return
	}
	err := l.end(r) // who logs in again leaves the old name behind
	var token, name string
	if err == nil {
		token, name, err = l.store.login(req.Name, req.Key != "")
	}
	switch {
	case errors.Is(err, errTooMany):
		http.Error(w, "Too many people are here, please come back later.", http.StatusServiceUnavailable)
		return
	case err != nil:
		l.log.Error("store", "error", err)
		http.Error(w, "The server cannot keep your login, please come back later.", http.StatusServiceUnavailable)
		return
	}
	// Strict: the cookie comes with no request that another site started. A
	// server that has TLS only gives the name the prefix __Host-, too.
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: token, Path: "/", MaxAge: int(sessionFor / time.Second),
		HttpOnly: true, Secure: l.secure, SameSite: http.SameSiteStrictMode,
	})
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"name": name})
}

// whoami says who is logged in, and "" for nobody. The page asks it when it is loaded: the
// 401 of a ticket would tell as well, but as an error in the browser's console.
func (l *logins) whoami(w http.ResponseWriter, r *http.Request) {
	s, ok := l.find(r)
	if !ok {
		s = session{}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"name": s.Name})
}

func (l *logins) logout(w http.ResponseWriter, r *http.Request) {
	err := l.end(r)
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, HttpOnly: true, Secure: l.secure, SameSite: http.SameSiteStrictMode})
	if err != nil {
		l.log.Error("store", "error", err)
		http.Error(w, "You are logged out, but the server could not write that down yet.", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// end closes the session of r, if it has one, and every connection that was
// opened with it: a logout that leaves the sockets open is none. The error is
// that of store.logout.
func (l *logins) end(r *http.Request) error {
	s, ok := l.find(r)
	if !ok {
		return nil
	}
	l.revoke(s.Name) // while the name is still taken: it must not hit the next of that name
	return l.store.logout(s.Hash)
}

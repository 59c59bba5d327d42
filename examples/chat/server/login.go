package server

import (
	"cmp"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard"
)

const (
	cookieName   = "wsguard_chat"
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
	store  Store
	log    *slog.Logger
	secure bool // browsers come over TLS
}

// operatorScope is the scope of an operator's connections, for the page.
const operatorScope = "operator"

func newLogins(revoke func(name string), o Options) *logins {
	return &logins{revoke: revoke, rate: rate.NewLimiter(5, 20), key: cmp.Or(o.Key, rand.Text()), store: o.Store, log: o.Log}
}

// principal says whose ticket is asked for.
func (l *logins) principal(r *http.Request) (wsguard.Principal, error) {
	s, err := l.find(r)
	if err != nil {
		return wsguard.Principal{}, err
	}
	// The connection ends with the session. IssuedAt tells this session from
	// one of the same name that was revoked earlier.
	p := wsguard.Principal{Subject: s.Name, IssuedAt: s.Since, Expires: s.Until}
	if s.Operator {
		p.Scopes = []string{operatorScope}
	}
	return p, nil
}

// operator is the Authorize of the handlers for operators.
func (l *logins) operator(r *http.Request) (string, error) {
	switch s, err := l.find(r); {
	case err != nil:
		return "", err
	case !s.Operator:
		return "", wsguard.ErrForbidden
	default:
		return s.Name, nil
	}
}

// find returns the session of r. The error is wsguard.ErrNoCredential if it has none, and wraps
// wsguard.ErrUnavailable if the store does not know.
func (l *logins) find(r *http.Request) (Session, error) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return Session{}, wsguard.ErrNoCredential
	}
	s, ok, err := l.store.Find(r.Context(), cookie.Value)
	switch {
	case err != nil:
		l.log.Error("store", "error", err)
		return Session{}, fmt.Errorf("%w: %w", wsguard.ErrUnavailable, err)
	case !ok:
		return Session{}, wsguard.ErrNoCredential
	}
	return s, nil
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
		token, name, err = l.store.Login(r.Context(), req.Name, req.Key != "")
	}
	switch {
	case errors.Is(err, ErrTooMany):
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
		Name: cookieName, Value: token, Path: "/", MaxAge: int(SessionFor / time.Second),
		HttpOnly: true, Secure: l.secure, SameSite: http.SameSiteStrictMode,
	})
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"name": name})
}

// whoami says who is logged in, and "" for nobody. The page asks it when it is loaded: the
// 401 of a ticket would tell as well, but as an error in the browser's console.
func (l *logins) whoami(w http.ResponseWriter, r *http.Request) {
	s, err := l.find(r)
	if errors.Is(err, wsguard.ErrUnavailable) {
		http.Error(w, "The server cannot look up your login, please come back later.", http.StatusServiceUnavailable)
		return
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
// that of the store.
func (l *logins) end(r *http.Request) error {
	s, err := l.find(r)
	if errors.Is(err, wsguard.ErrNoCredential) {
		return nil
	}
	if err != nil {
		return err
	}
	l.revoke(s.Name) // while the name is still taken: it must not hit the next of that name
	return l.store.Logout(r.Context(), s)
}

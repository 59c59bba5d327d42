package main

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
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
	key    string // makes an operator of a login

	mu       sync.Mutex
	sessions map[string]session // by the cookie's value
}

type session struct {
	name         string
	since, until time.Time
	operator     bool
}

// operatorScope is the scope of an operator's connections, for the page.
const operatorScope = "operator"

func newLogins(revoke func(name string)) *logins {
	return &logins{revoke: revoke, rate: rate.NewLimiter(5, 20), key: rand.Text(), sessions: map[string]session{}}
}

// principal says whose ticket is asked for.
func (l *logins) principal(r *http.Request) (wsguard.Principal, error) {
	s, ok := l.find(r)
	if !ok {
		return wsguard.Principal{}, errors.New("no session")
	}
	// The connection ends with the session. IssuedAt tells this session from
	// one of the same name that was revoked earlier.
	p := wsguard.Principal{Subject: s.name, IssuedAt: s.since, Expires: s.until}
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
		return s.name, nil
	}
}

func (l *logins) find(r *http.Request) (session, bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.sessions[cookie.Value]
	return s, ok && time.Now().Before(s.until)
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
	l.end(r) // who logs in again leaves the old name behind
	token, name, ok := l.start(req.Name, req.Key != "")
	if !ok {
		http.Error(w, "Too many people are here, please come back later.", http.StatusServiceUnavailable)
		return
	}
	// Strict: the cookie comes with no request that another site started. A
	// server with TLS adds Secure, and the prefix __Host- to the name.
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: token, Path: "/", MaxAge: int(sessionFor / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"name": name})
}

// start opens a session under the name, or one like it if that is taken.
func (l *logins) start(name string, operator bool) (token, got string, ok bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := make(map[string]bool, len(l.sessions))
	for token, s := range l.sessions {
		if !now.Before(s.until) {
			delete(l.sessions, token)
			continue
		}
		taken[strings.ToLower(s.name)] = true
	}
	if len(l.sessions) >= maxSessions {
		return "", "", false
	}
	got = name
	for n := 2; taken[strings.ToLower(got)]; n++ {
		got = fmt.Sprintf("%s-%d", name, n)
	}
	token = rand.Text()
	l.sessions[token] = session{got, now, now.Add(sessionFor), operator}
	return token, got, true
}

func (l *logins) logout(w http.ResponseWriter, r *http.Request) {
	l.end(r)
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	w.WriteHeader(http.StatusNoContent)
}

// end closes the session of r, if it has one, and every connection that was
// opened with it: a logout that leaves the sockets open is none.
func (l *logins) end(r *http.Request) {
	s, ok := l.find(r)
	if !ok {
		return
	}
	l.revoke(s.name) // while the name is still taken: it must not hit the next of that name
	cookie, _ := r.Cookie(cookieName)
	l.mu.Lock()
	delete(l.sessions, cookie.Value)
	l.mu.Unlock()
}

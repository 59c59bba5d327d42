package wsguard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
)

// TicketConfig is for one-time tickets: a page buys one over HTTP with the
// session that it has, and connects with it in the query. What ends up in a log
// is worthless by then. In each field 0 is the default.
type TicketConfig struct {
	Param         string        // the query parameter; default "ticket"
	TTL           time.Duration // default 30 s, required
	MaxPerSubject int           // outstanding; default 16, Off none → 429
	MaxTotal      int           // outstanding; default 100,000, Off none → 503
}

// tickets are the outstanding ones, by their hash.
type tickets struct {
	cfg TicketConfig

	mu       sync.Mutex
	all      map[[sha256.Size]byte]*ticket
	subjects map[string]int
	queue    []*ticket // by expiry: the TTL is the same for all
}

type ticket struct {
	hash      [sha256.Size]byte
	principal Principal
	origin    string // empty: issued to a request without one
	until     time.Time
}

func newTickets(cfg TicketConfig, f *faults) *tickets {
	if cfg.Param == "" {
		cfg.Param = "ticket"
	}
	cfg.TTL = required(cfg.TTL, 30*time.Second, "Auth.Tickets.TTL", f)
	cfg.MaxPerSubject = limit(cfg.MaxPerSubject, 16, "Auth.Tickets.MaxPerSubject", f)
	cfg.MaxTotal = limit(cfg.MaxTotal, 100_000, "Auth.Tickets.MaxTotal", f)
	return &tickets{cfg: cfg, all: map[[sha256.Size]byte]*ticket{}, subjects: map[string]int{}}
}

// issue returns a ticket of 128 random bits, of which only the hash is kept.
func (t *tickets) issue(p Principal, origin string) (string, error) {
	var b [16]byte
	rand.Read(b[:])
	token := base64.RawURLEncoding.EncodeToString(b[:])
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(now)
	if t.cfg.MaxPerSubject > 0 && t.subjects[p.Subject] >= t.cfg.MaxPerSubject {
		return "", denyRetry(ErrTickets, t.cfg.TTL)
	}
	if t.cfg.MaxTotal > 0 && len(t.all) >= t.cfg.MaxTotal {
		d := denyRetry(ErrTickets, t.cfg.TTL)
		d.status = http.StatusServiceUnavailable
		return "", d
	}
	tk := &ticket{hash: sha256.Sum256([]byte(token)), principal: p, origin: origin, until: now.Add(t.cfg.TTL)}
	t.all[tk.hash] = tk
	t.subjects[p.Subject]++
	t.queue = append(t.queue, tk)
	return token, nil
}

// redeem takes the ticket, and judges it only then: whoever presents it in the
// wrong place has used it up.
func (t *tickets) redeem(token, origin string) (Principal, error) {
	hash := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(time.Now())
	tk := t.all[hash]
	if tk == nil {
		return Principal{}, deny(ErrUnauthenticated, "no such ticket")
	}
	t.drop(tk)
	if tk.origin != "" && tk.origin != origin {
		return Principal{}, deny(ErrUnauthenticated, "ticket of another origin")
	}
	return tk.principal, nil
}

func (t *tickets) expire(now time.Time) {
	for len(t.queue) > 0 && !now.Before(t.queue[0].until) {
		t.drop(t.queue[0])
		t.queue[0] = nil
		t.queue = t.queue[1:]
	}
}

func (t *tickets) drop(tk *ticket) {
	if t.all[tk.hash] == tk {
		delete(t.all, tk.hash)
		down(t.subjects, tk.principal.Subject)
	}
}

// revoke drops what is outstanding for a subject.
func (t *tickets) revoke(subject string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.subjects[subject] == 0 {
		return
	}
	for _, tk := range t.queue {
		if tk != nil && tk.principal.Subject == subject {
			t.drop(tk)
		}
	}
}

// TicketHandler issues one-time tickets, each bound to its subject and to the
// Origin that it was bought from, to a POST: {"ticket":"…","expires_in":30}.
//
// login says who asks; an error is a 401 (503 for ErrUnavailable). A nil login
// asks the Verifier, for the credential of the Authorization header. All other
// checks are a handshake's, but that a missing Origin is let pass without a
// cookie. It panics without AuthConfig.Tickets.
func (g *Guard) TicketHandler(login func(*http.Request) (Principal, error)) http.Handler {
	if g.auth.tickets == nil {
		panic("wsguard: TicketHandler without AuthConfig.Tickets")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := Event{}
		token, err := g.issue(r, login, &e)
		if err != nil {
			g.reporter.refuse(w, r, err, e)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(struct {
			Ticket    string `json:"ticket"`
			ExpiresIn int    `json:"expires_in"`
		}{token, int(g.auth.tickets.cfg.TTL / time.Second)})
	})
}

// presented is what a login will look at: somebody who shows nothing does not
// guess.
func presented(r *http.Request) string {
	return strings.Join(r.Header["Authorization"], ",") + strings.Join(r.Header["Cookie"], ";")
}

func (g *Guard) issue(r *http.Request, login func(*http.Request) (Principal, error), e *Event) (string, error) {
	if g.Draining() {
		return "", deny(ErrDraining, "")
	}
	if r.Method != http.MethodPost {
		d := deny(ErrMethod, "not a POST")
		d.allow = http.MethodPost
		return "", d
	}
	client, err := g.client.Client(r)
	if err != nil {
		return "", denyCause(ErrClientAddress, err)
	}
	e.Client = client.String()
	if g.host != nil {
		if err := g.host.Check(r); err != nil {
			return "", err
		}
	}
	if err := g.tls.Check(r); err != nil {
		return "", err
	}
	if err := g.origin.post(r); err != nil {
		return "", err
	}
	if err := g.rates.handshake(client); err != nil {
		return "", err
	}
	fl, err := g.rates.inFlight.fly(client)
	if err != nil {
		return "", err
	}
	defer fl.done()
	var p Principal
	if login != nil {
		p, err = g.auth.guarded(r.Context(), client, presented(r), fl, func(ctx context.Context) (Principal, error) {
			return login(r.WithContext(ctx))
		})
		if err != nil {
			return "", err
		}
	} else {
		token, err := bearer(r)
		if err != nil {
			return "", err
		}
		if p, err = g.auth.verify(r.Context(), credential{sourceHeader, token}, client, "", fl); err != nil {
			return "", err
		}
	}
	e.Subject = p.Subject
	if g.sessions.revoked(p) {
		return "", deny(ErrRevoked, "")
	}
	return g.auth.tickets.issue(p, r.Header.Get("Origin"))
}

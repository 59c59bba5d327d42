package wsguard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// TicketConfig is for one-time tickets: a page asks for one over HTTP, with
// the session that it has, and connects with it in the query. What ends up in
// a log is worthless by then.
type TicketConfig struct {
	// Param is the query parameter that carries it. Default "ticket".
	Param string

	// TTL is how long a ticket can be redeemed. Default 30 s; Off is an
	// error.
	TTL time.Duration

	// MaxPerSubject and MaxTotal bound the tickets that are outstanding.
	// Default 16 (over it 429) and 100,000 (over it 503); Off is no limit.
	MaxPerSubject int
	MaxTotal      int
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

// TicketHandler issues one-time tickets: POST, answered with
//
//	{"ticket":"…","expires_in":30}
//
// Mount it beside the user's own session. login says who asks: a Principal, or
// an error for 401 (one that wraps ErrUnavailable: 503). A nil login asks the
// guard's own Verifier, for the credential of the Authorization header.
//
// The checks of a handshake hold here as well: host, clear text, origin (a
// request without an Origin must carry no cookie), the client's handshake
// rate, failed credentials and revocation. A ticket issued to a page is bound
// to its origin, and every ticket to the subject. It needs
// AuthConfig.Tickets, and panics without.
func (g *Guard) TicketHandler(login func(*http.Request) (Principal, error)) http.Handler {
	if g.auth.tickets == nil {
		panic("wsguard: TicketHandler without AuthConfig.Tickets")
	}
	if login == nil && g.auth.cfg.Verifier == nil {
		panic("wsguard: TicketHandler without a login and without a Verifier")
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

func (g *Guard) issue(r *http.Request, login func(*http.Request) (Principal, error), e *Event) (string, error) {
	if g.Draining() {
		return "", deny(ErrDraining, "")
	}
	if r.Method != http.MethodPost {
		return "", deny(ErrMethod, detailPost)
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
	if err := g.origin.checkPost(r); err != nil {
		return "", err
	}
	if err := g.rates.handshake(client); err != nil {
		return "", err
	}
	fl, err := g.rates.fly(client)
	if err != nil {
		return "", err
	}
	defer fl.done()
	var p Principal
	if login != nil {
		p, err = g.auth.ask(r.Context(), fl, func(ctx context.Context) (Principal, error) {
			return login(r.WithContext(ctx))
		})
		if p, err = g.auth.settle(p, err); err != nil {
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

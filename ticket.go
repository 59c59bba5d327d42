package wsguard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/wsguard/wsguard/internal/origin"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/store"
)

// TicketConfig is for one-time tickets: a page buys one over HTTP with the
// session that it has, and connects with it in the query. A ticket works
// once, so one that a log shows is worthless. In each field 0 is the default.
type TicketConfig struct {
	// Param is the name of the query parameter that has the ticket. The default is
	// "ticket".
	Param string

	// TTL is how long a ticket can be used. The default is 30 s. It cannot be Off.
	TTL time.Duration

	// MaxPerSubject is how many tickets one subject may have that were sold by this
	// process and not used yet. The default is 16, and Off means no limit. Further
	// requests for a ticket get a 429.
	MaxPerSubject int

	// MaxTotal is how many tickets the default Store holds that were not used yet.
	// The default is 100,000, and Off means no limit. Further requests for a ticket
	// get a 503.
	MaxTotal int

	// Store holds the tickets where several instances share them. The default holds
	// them in memory. While a Store fails, requests and handshakes get a 503.
	Store store.Once
}

// resolve returns the configuration with its defaults. Without a Store, tickets are kept
// in the State.
func (cfg TicketConfig) resolve(f *faults) *TicketConfig {
	if cfg.Param == "" {
		cfg.Param = "ticket"
	}
	cfg.TTL = required(cfg.TTL, 30*time.Second, "Auth.Tickets.TTL", f)
	cfg.MaxPerSubject = limit(cfg.MaxPerSubject, 16, "Auth.Tickets.MaxPerSubject", f)
	cfg.MaxTotal = limit(cfg.MaxTotal, 100_000, "Auth.Tickets.MaxTotal", f)
	return &cfg
}

// tickets sells and redeems. The store has the tickets, by their hash. What is counted
// here is what has been sold and not seen again. The limits come with each call.
type tickets struct {
	memory *store.MemoryOnce // for those without a Store

	mu       sync.Mutex
	sold     map[string]*sale
	subjects map[string]int
	queue    []*sale       // by expiry
	ttl      time.Duration // of the last sale
	longest  time.Duration // of all sales
}

// outstanding is how long a ticket may be good that was sold already.
func (t *tickets) outstanding() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.longest
}

func newTickets() *tickets {
	return &tickets{memory: store.NewOnce(0), sold: map[string]*sale{}, subjects: map[string]int{}}
}

func (t *tickets) store(cfg *TicketConfig) store.Once {
	if cfg.Store != nil {
		return cfg.Store
	}
	t.memory.SetMax(cfg.MaxTotal)
	return t.memory
}

type sale struct {
	key, subject string
	until        time.Time
}

// ticket is what a store keeps.
type ticket struct {
	Subject   []byte    `json:"subject"` // need not be UTF-8
	SessionID []byte    `json:"session_id,omitempty"`
	Scopes    [][]byte  `json:"scopes,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
	IssuedAt  time.Time `json:"issued_at,omitzero"`
	Seen      time.Time `json:"seen,omitzero"`    // Principal.seen of the buyer
	Origin    string    `json:"origin,omitempty"` // as retained returns it; empty: bought without one
	Bought    time.Time `json:"bought"`
}

// ticketKey is what a store knows of a ticket.
func ticketKey(token string) string {
	hash := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(hash[:])
}

// issue returns a ticket of 128 random bits for p, which says when it was bought.
func (t *tickets) issue(ctx context.Context, cfg *TicketConfig, p Principal, origin string) (string, error) {
	var b [16]byte
	rand.Read(b[:])
	token := base64.RawURLEncoding.EncodeToString(b[:])
	now := time.Now()
	s := &sale{ticketKey(token), p.Subject, now.Add(cfg.TTL)}
	if !t.sell(s, cfg, now) {
		return "", denyRetry(reason.Tickets, cfg.TTL)
	}
	tk := ticket{[]byte(p.Subject), []byte(p.SessionID), nil, p.Expires, p.IssuedAt, p.seen, origin, p.bought}
	for _, scope := range p.Scopes {
		tk.Scopes = append(tk.Scopes, []byte(scope))
	}
	value, err := json.Marshal(tk)
	stored := false
	defer func() {
		if !stored { // the store has failed, or panicked
			t.seen(s.key)
		}
	}()
	if err == nil {
		err = t.store(cfg).Put(ctx, s.key, value, cfg.TTL)
	}
	switch {
	case err == nil:
		stored = true
		return token, nil
	case errors.Is(err, store.ErrFull): // within recovers what its methods do
		d := denyRetry(reason.Tickets, cfg.TTL)
		d.status = http.StatusServiceUnavailable
		return "", d
	}
	return "", deny(reason.Unavailable, "the ticket store failed")
}

// sell counts a ticket, unless its subject has too many outstanding.
func (t *tickets) sell(s *sale, cfg *TicketConfig, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cfg.TTL < t.ttl {
		// Cap the expiry at the new TTL so that the queue stays sorted.
		for _, old := range t.queue {
			if old.until.After(s.until) {
				old.until = s.until
			}
		}
	}
	t.ttl, t.longest = cfg.TTL, max(t.longest, cfg.TTL)
	for len(t.queue) > 0 && !now.Before(t.queue[0].until) {
		t.drop(t.queue[0])
		t.queue[0] = nil
		t.queue = t.queue[1:]
	}
	if cfg.MaxPerSubject > 0 && t.subjects[s.subject] >= cfg.MaxPerSubject {
		return false
	}
	t.sold[s.key] = s
	t.subjects[s.subject]++
	t.queue = append(t.queue, s)
	return true
}

func (t *tickets) seen(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sold[key]; s != nil {
		t.drop(s)
	}
}

func (t *tickets) drop(s *sale) {
	if t.sold[s.key] == s {
		delete(t.sold, s.key)
		down(t.subjects, s.subject)
	}
}

// redeem takes the ticket, and judges it only then: whoever presents it in the
// wrong place has used it up.
func (t *tickets) redeem(ctx context.Context, cfg *TicketConfig, token, from string) (Principal, error) {
	key := ticketKey(token)
	value, ok, err := t.store(cfg).Take(ctx, key)
	var tk ticket
	switch {
	case err != nil:
		return Principal{}, deny(reason.Unavailable, "the ticket store failed")
	case !ok:
		return Principal{}, deny(reason.Unauthenticated, "no such ticket")
	}
	t.seen(key)
	switch {
	case json.Unmarshal(value, &tk) != nil:
		return Principal{}, deny(reason.Unavailable, "the ticket store returned something else")
	case !time.Now().Before(tk.Bought.Add(cfg.TTL)): // whatever the store thinks
		return Principal{}, deny(reason.Unauthenticated, "no such ticket")
	case tk.Origin != "" && !origin.Same(tk.Origin, retained(from)): // that of a Conn is cut already
		return Principal{}, deny(reason.Unauthenticated, "ticket of another origin")
	}
	p := Principal{
		Subject: string(tk.Subject), SessionID: string(tk.SessionID), Expires: tk.Expires, IssuedAt: tk.IssuedAt,
		seen: tk.Seen, bought: tk.Bought,
	}
	for _, scope := range tk.Scopes {
		p.Scopes = append(p.Scopes, string(scope))
	}
	return p, nil
}

// TicketHandler issues one-time tickets, each bound to its subject and to the
// Origin that it was bought from, to a POST: {"ticket":"…","expires_in":30}.
//
// login says who asks; an error is as a Verifier's. What it goes by, such as a
// session cookie, may be what a browser sends for every page. So it is asked only
// where the Origin is listed and is not null, or where a program sends neither an
// Origin nor a cookie: otherwise the answer is a 401. A nil login asks the Verifier,
// for the credential of the Authorization header. All other checks are a
// handshake's, except that a missing Origin passes without a cookie. It panics
// without AuthConfig.Tickets.
//
// login may read the body, within VerifyTimeout. The handler waits 250 ms at most for
// what is left of a body, and closes the connection after its answer where the body
// is not complete by then. A ResponseWriter that has neither SetReadDeadline nor
// Unwrap leaves that to http.Server.ReadTimeout.
func (g *Guard) TicketHandler(login func(*http.Request) (Principal, error)) http.Handler {
	if g.policy.Load().auth.tickets == nil {
		panic("wsguard: TicketHandler without AuthConfig.Tickets")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := g.endpoint.admission(r)
		a.login = login
		lent := &lentBody{body: r.Body}
		if login != nil && hasBody(r) {
			a.r = new(http.Request)
			*a.r = *r
			a.r.Body = lent
		}
		defer a.unwind()
		err := a.run(saleSteps)
		complete := lent.takeBack(w)
		if err != nil {
			a.offended(asDenied(err))
			a.refuse(w, err, a.event())
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		if !complete && !settleBody(w, r) {
			h.Set("Connection", "close")
		}
		json.NewEncoder(w).Encode(struct {
			Ticket    string `json:"ticket"`
			ExpiresIn int64  `json:"expires_in"`
		}{a.ticket, int64(a.auth.tickets.TTL / time.Second)})
	})
}

// presented is what a login will look at, as a rule.
func presented(r *http.Request) string {
	return strings.Join(r.Header["Authorization"], ",") + strings.Join(r.Header["Cookie"], ";")
}

// askLogin finds out who buys a ticket. The sale is dated before the last look at
// revocations: a revocation that comes after it voids the ticket.
func (a *admission) askLogin() error {
	p, err := a.buyer()
	a.principal = p
	a.principal.bought = a.g.state.accepted.Now()
	return err
}

func (a *admission) buyer() (Principal, error) {
	if a.login == nil {
		token, err := bearer(a.r)
		if err != nil {
			return Principal{}, err
		}
		a.cred = credential{sourceHeader, token}
		return a.verify()
	}
	// It may go by what the browser sends by itself, as a cookie.
	program := len(a.r.Header["Origin"]) == 0 || a.r.Header["Origin"][0] == ""
	if !a.known || !program && !a.ownPage {
		return Principal{}, deny(reason.Unauthenticated, "a login counts only with a listed Origin")
	}
	p, err := a.budgeted(presented(a.r), true, func(ctx context.Context) (Principal, error) {
		return a.login(a.r.WithContext(ctx))
	})
	if err != nil {
		return Principal{}, err
	}
	return sighted(a.g.state.accepted, "", p), nil
}

// sell sells a ticket for the buyer.
func (a *admission) sell() error {
	issue := func(ctx context.Context) (string, error) {
		return a.g.state.tickets.issue(ctx, a.auth.tickets, a.principal, retained(a.from))
	}
	var err error
	if a.auth.tickets.Store == nil {
		a.ticket, err = issue(a.ctx)
		return err
	}
	a.fl.hold()
	a.ticket, err = within(a.ctx, a.auth.cfg.VerifyTimeout, a.fl.done, issue)
	return err
}

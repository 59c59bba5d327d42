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

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/origin"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/store"
)

// TicketConfig is for one-time tickets: a page buys one over HTTP with the
// session that it has, and connects with it in the query. What ends up in a log
// is worthless by then. In each field 0 is the default.
type TicketConfig struct {
	Param         string        // the query parameter; default "ticket"
	TTL           time.Duration // default 30 s, required
	MaxPerSubject int           // outstanding, bought here; default 16, Off none → 429
	MaxTotal      int           // outstanding, in the default Store; default 100,000, Off none → 503
	Store         store.Once    // that several instances share; default in memory; when it fails → 503
}

// tickets sells and redeems. The store has them, by their hash; what is counted
// here is what this instance has sold and not seen again.
type tickets struct {
	*sales
	cfg    TicketConfig
	shared bool // the store may be slow, or gone
}

type sales struct {
	mu       sync.Mutex
	sold     map[string]*sale
	subjects map[string]int
	queue    []*sale // by expiry: the TTL is the same for all
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

func newTickets(cfg TicketConfig, f *faults) *tickets {
	if cfg.Param == "" {
		cfg.Param = "ticket"
	}
	cfg.TTL = required(cfg.TTL, 30*time.Second, "Auth.Tickets.TTL", f)
	cfg.MaxPerSubject = limit(cfg.MaxPerSubject, 16, "Auth.Tickets.MaxPerSubject", f)
	cfg.MaxTotal = limit(cfg.MaxTotal, 100_000, "Auth.Tickets.MaxTotal", f)
	t := &tickets{cfg: cfg, shared: cfg.Store != nil, sales: &sales{sold: map[string]*sale{}, subjects: map[string]int{}}}
	if !t.shared {
		t.cfg.Store = store.NewOnce(cfg.MaxTotal)
	}
	return t
}

// succeed takes over what old has sold.
func (t *tickets) succeed(old *tickets) {
	t.sales = old.sales
	// What is counted is not waited for longer than what comes behind it.
	t.mu.Lock()
	defer t.mu.Unlock()
	most := time.Now().Add(t.cfg.TTL)
	for _, s := range t.queue {
		if s != nil && s.until.After(most) {
			s.until = most
		}
	}
	if own, ok := old.cfg.Store.(*store.MemoryOnce); ok && !old.shared && !t.shared {
		own.SetMax(t.cfg.MaxTotal)
		t.cfg.Store = own
	}
}

// ticketKey is what a store knows of a ticket.
func ticketKey(token string) string {
	hash := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(hash[:])
}

// issue returns a ticket of 128 random bits for p, which says when it was bought.
func (t *tickets) issue(ctx context.Context, p Principal, origin string) (string, error) {
	var b [16]byte
	rand.Read(b[:])
	token := base64.RawURLEncoding.EncodeToString(b[:])
	now := time.Now()
	s := &sale{ticketKey(token), p.Subject, now.Add(t.cfg.TTL)}
	if !t.sell(s, now) {
		return "", denyRetry(reason.Tickets, t.cfg.TTL)
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
		err = t.cfg.Store.Put(ctx, s.key, value, t.cfg.TTL)
	}
	switch {
	case err == nil:
		stored = true
		return token, nil
	case errors.Is(err, store.ErrFull): // within recovers what its methods do
		d := denyRetry(reason.Tickets, t.cfg.TTL)
		d.status = http.StatusServiceUnavailable
		return "", d
	}
	return "", deny(reason.Unavailable, "the ticket store failed")
}

// sell counts a ticket, unless its subject has too many outstanding.
func (t *tickets) sell(s *sale, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) > 0 && !now.Before(t.queue[0].until) {
		t.drop(t.queue[0])
		t.queue[0] = nil
		t.queue = t.queue[1:]
	}
	if t.cfg.MaxPerSubject > 0 && t.subjects[s.subject] >= t.cfg.MaxPerSubject {
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
func (t *tickets) redeem(ctx context.Context, token, from string) (Principal, error) {
	key := ticketKey(token)
	value, ok, err := t.cfg.Store.Take(ctx, key)
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
	case !time.Now().Before(tk.Bought.Add(t.cfg.TTL)): // whatever the store thinks
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
	if g.now.Load().auth.tickets == nil {
		panic("wsguard: TicketHandler without AuthConfig.Tickets")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := admission{endpointState: g.endpoint.now.Load(), g: g, r: r}
		a.shared()
		lent := &lentBody{body: r.Body}
		if login != nil && hasBody(r) {
			a.r = new(http.Request)
			*a.r = *r
			a.r.Body = lent
		}
		e := audit.Event{}
		token, err := a.issue(login, &e)
		complete := lent.takeBack(w)
		if err != nil {
			a.offended(asDenied(err))
			g.reporter.refuse(w, r, err, e)
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
		}{token, int64(a.auth.tickets.cfg.TTL / time.Second)})
	})
}

// presented is what a login will look at, as a rule.
func presented(r *http.Request) string {
	return strings.Join(r.Header["Authorization"], ",") + strings.Join(r.Header["Cookie"], ";")
}

// issue runs those steps of a handshake that apply to the sale of a ticket.
func (a *admission) issue(login func(*http.Request) (Principal, error), e *audit.Event) (string, error) {
	g, r := a.g, a.r
	if g.Draining() {
		return "", deny(reason.Draining, "")
	}
	if r.Method != http.MethodPost {
		d := deny(reason.Method, "not a POST")
		d.allow = http.MethodPost
		return "", d
	}
	client, err := a.setup.client.of(r)
	if err != nil {
		return "", err
	}
	e.Client = client.String()
	if err := g.banned(client); err != nil {
		return "", err
	}
	for _, check := range []func(*http.Request) error{a.host.check, a.tls.check, a.origin.post} {
		if err := check(r); err != nil {
			return "", err
		}
	}
	a.client, a.known = client, !a.origin.foreignPost(r)
	if err := a.handshakeRate(); err != nil {
		return "", err
	}
	fl, err := a.rates.inFlight.fly(client)
	if err != nil {
		return "", err
	}
	defer fl.done()
	var p Principal
	if login != nil {
		// It may go by what the browser sends by itself, as a cookie.
		program := len(r.Header["Origin"]) == 0 || r.Header["Origin"][0] == ""
		if !a.known || !program && !a.origin.page(r) {
			return "", deny(reason.Unauthenticated, "a login counts only with a listed Origin")
		}
		p, err = a.auth.guarded(r.Context(), client, presented(r), fl, func(ctx context.Context) (Principal, error) {
			return login(r.WithContext(ctx))
		})
		if err != nil {
			return "", err
		}
		p = a.auth.sighted("", p)
	} else {
		token, err := bearer(r)
		if err != nil {
			return "", err
		}
		if p, err = a.auth.verify(r.Context(), credential{sourceHeader, token}, client, "", fl); err != nil {
			return "", err
		}
	}
	e.Subject = p.Subject
	// Bought before the last look: a revocation that comes after it voids the
	// ticket.
	p.bought = a.auth.seen.Now()
	if g.sessions.revoked(p) {
		return "", deny(reason.Revoked, "")
	}
	issue := func(ctx context.Context) (string, error) {
		return a.auth.tickets.issue(ctx, p, retained(r.Header.Get("Origin")))
	}
	if !a.auth.tickets.shared {
		return issue(r.Context())
	}
	fl.hold()
	return within(r.Context(), a.auth.cfg.VerifyTimeout, fl.done, issue)
}

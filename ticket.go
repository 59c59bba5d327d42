package wsguard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/origin"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/store"
)

// TicketConfig configures one-time tickets. A page requests a ticket over HTTP with its
// session, and connects with the ticket in the query. A ticket works once, so a ticket in a
// log is worthless as soon as it was used or has expired. The zero value is a default in each
// field.
type TicketConfig struct {
	// Param is the name of the query parameter that has the ticket. The default is
	// "ticket".
	Param string

	// TTL is how long a ticket can be used after it was issued. The default is 30 s, and the
	// most is an hour. It cannot be Off. A handshake with an older ticket gets a 401.
	TTL time.Duration

	// MaxPerSubject is how many unused tickets one subject may have. It counts those that this
	// process has issued, and with SharedConfig.Tickets those of all instances. The default is
	// 16, and Off means no limit. Further requests for a ticket get a 429.
	MaxPerSubject int

	// MaxTotal is how many unused tickets the guard holds in memory. It has no effect on a
	// Store. The default is 100,000, and Off means no limit. Further requests for a ticket get a
	// 503.
	MaxTotal int

	// Store holds the tickets if several instances share only them. While a Store fails, or if it
	// takes longer than VerifyTimeout, requests for a ticket and handshakes with one get a 503.
	// The default is SharedConfig.Tickets. If that is nil too, the State of the Guard holds the
	// tickets in memory.
	Store store.Once

	shared store.OwnedOnce // Store, if it is that of SharedConfig.Tickets
}

// maxTicketTTL bounds TicketConfig.TTL, and maxCacheTTL bounds AuthConfig.CacheTTL.
const (
	maxTicketTTL = time.Hour
	maxCacheTTL  = time.Hour
)

// resolve returns the configuration with its defaults. Without a Store, tickets are kept
// in the State.
func (cfg TicketConfig) resolve(f *faults) *TicketConfig {
	if cfg.Param == "" {
		cfg.Param = "ticket"
	}
	cfg.TTL = required(cfg.TTL, 30*time.Second, "Auth.Tickets.TTL", f)
	if cfg.TTL > maxTicketTTL {
		f.add("Auth.Tickets.TTL", cfg.TTL, "must be at most an hour: a ticket stands in URLs")
	}
	cfg.MaxPerSubject = limit(cfg.MaxPerSubject, 16, "Auth.Tickets.MaxPerSubject", f)
	cfg.MaxTotal = limit(cfg.MaxTotal, 100_000, "Auth.Tickets.MaxTotal", f)
	return &cfg
}

// tickets sells and redeems tickets, and counts those that were sold and not seen again. The
// store has the tickets, by their hash. Each call brings its limits.
type tickets struct {
	memory *store.MemoryOnce // the store of configurations without one

	mu       sync.Mutex       // no other lock is taken while it is held
	sold     map[string]*sale // guarded by mu: the outstanding tickets by their key
	subjects map[string]int   // guarded by mu: the outstanding tickets of each subject
	queue    []*sale          // guarded by mu: in the order of their expiry
	ttl      time.Duration    // guarded by mu: the TTL of the last sale
	longest  time.Duration    // guarded by mu: the longest TTL of all sales
}

// outstanding returns the longest time for which a ticket that was sold already can still be
// used.
func (t *tickets) outstanding() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.longest
}

// count returns how many tickets were sold that are neither used nor expired.
func (t *tickets) count(now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(now)
	return len(t.sold)
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

// sale is a ticket that was sold. tickets.mu guards it.
type sale struct {
	key, subject string    // read-only
	until        time.Time // when the ticket expires at the latest
}

// ticket is the value that a store keeps of a ticket.
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

// ticketKey returns the key of a ticket in a store.
func ticketKey(token string) string {
	hash := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(hash[:])
}

// issue returns a ticket of 128 random bits for p. p.bought is when it was bought.
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
		err = t.put(ctx, cfg, s, value)
	}
	switch {
	case err == nil:
		stored = true
		return token, nil
	case cfg.shared != nil && errors.Is(err, store.ErrOwnerFull):
		return "", denyRetry(reason.Tickets, cfg.TTL)
	case errors.Is(err, store.ErrFull): // within recovers what its methods do
		d := denyRetry(reason.Tickets, cfg.TTL)
		d.status = http.StatusServiceUnavailable
		return "", d
	}
	return "", deny(reason.Unavailable, "the ticket store failed")
}

// put stores a ticket. A store that all instances share counts the tickets of the subject, too.
func (t *tickets) put(ctx context.Context, cfg *TicketConfig, s *sale, value []byte) error {
	if cfg.shared != nil && cfg.MaxPerSubject > 0 {
		return cfg.shared.PutOwned(ctx, s.key, hashed(s.subject), cfg.MaxPerSubject, value, cfg.TTL)
	}
	return t.store(cfg).Put(ctx, s.key, value, cfg.TTL)
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
	t.expire(now)
	if cfg.MaxPerSubject > 0 && t.subjects[s.subject] >= cfg.MaxPerSubject {
		return false
	}
	t.sold[s.key] = s
	t.subjects[s.subject]++
	t.queue = append(t.queue, s)
	return true
}

// expire forgets the tickets that have expired. The caller holds mu.
func (t *tickets) expire(now time.Time) {
	for len(t.queue) > 0 && !now.Before(t.queue[0].until) {
		t.drop(t.queue[0])
		t.queue[0] = nil
		t.queue = t.queue[1:]
	}
}

// unused reports whether this process has sold a ticket that nobody has presented since.
func (t *tickets) unused(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sold[key] != nil
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

// usedTicket is a ticket that was taken out of the store.
type usedTicket struct {
	key     string
	value   []byte
	subject string
	until   time.Time
}

// putBack makes a used ticket good again for what is left of its life.
func (t *tickets) putBack(ctx context.Context, cfg *TicketConfig, used *usedTicket) error {
	left := time.Until(used.until)
	if left <= 0 {
		return nil
	}
	t.mu.Lock()
	s := &sale{used.key, used.subject, used.until}
	t.sold[s.key] = s
	t.subjects[s.subject]++
	i, _ := slices.BinarySearchFunc(t.queue, s.until, func(s *sale, until time.Time) int { return s.until.Compare(until) })
	t.queue = slices.Insert(t.queue, i, s)
	t.mu.Unlock()
	stored := false
	defer func() {
		if !stored { // the store has failed, or panicked
			t.seen(used.key)
		}
	}()
	err := t.store(cfg).Put(ctx, used.key, used.value, left)
	stored = err == nil
	return err
}

// take takes a ticket out of the store. The value is nil if there is none.
func (t *tickets) take(ctx context.Context, cfg *TicketConfig, key string) ([]byte, error) {
	value, ok, err := t.store(cfg).Take(ctx, key)
	switch {
	case err != nil || !ok:
		return nil, err
	case value == nil:
		value = []byte{}
	}
	return value, nil
}

// redeem takes the ticket out of the store before it judges the ticket. So a ticket that is
// presented in the wrong place is used up.
func (t *tickets) redeem(ctx context.Context, cfg *TicketConfig, token, from string, f *fetched, sh *shared) (Principal, *usedTicket, error) {
	key := ticketKey(token)
	if f == nil || f.key != key {
		f = &fetched{key: key}
		f.value, f.err = t.take(ctx, cfg, key)
	}
	var tk ticket
	switch {
	case f.err != nil:
		return Principal{}, nil, deny(reason.Unavailable, "the ticket store failed")
	case f.value == nil:
		return Principal{}, nil, deny(reason.Unauthenticated, "no such ticket")
	}
	t.seen(key)
	if json.Unmarshal(f.value, &tk) != nil {
		return Principal{}, nil, deny(reason.Unavailable, "the ticket store returned something else")
	}
	if cfg.Store != nil {
		tk.Bought, tk.Seen = sh.localised(tk.Bought), sh.localised(tk.Seen)
	}
	switch {
	case !time.Now().Before(tk.Bought.Add(cfg.TTL)): // the store may keep tickets for too long
		return Principal{}, nil, deny(reason.Unauthenticated, "no such ticket")
	case tk.Origin != "" && !origin.Same(tk.Origin, retained(from)): // a Conn's origin is cut already
		return Principal{}, nil, deny(reason.Unauthenticated, "ticket of another origin")
	}
	p := Principal{
		Subject: string(tk.Subject), SessionID: string(tk.SessionID), Expires: tk.Expires, IssuedAt: tk.IssuedAt,
		seen: tk.Seen, bought: tk.Bought,
	}
	for _, scope := range tk.Scopes {
		p.Scopes = append(p.Scopes, string(scope))
	}
	return p, &usedTicket{key, f.value, p.Subject, tk.Bought.Add(cfg.TTL)}, nil
}

// TicketHandler returns a handler that issues one-time tickets. It answers a POST with
// {"ticket":"…","expires_in":30}. Each ticket is bound to its subject. If the POST has an
// Origin, the ticket is also bound to that Origin. If the POST has none, the ticket can be
// used from every origin that may connect.
//
// The handler applies the following to the POST as to a handshake: Shutdown, LoopbackOnly,
// bans, Hosts, the check for clear text, the check of the origin, Rates.Handshakes, the limits
// of handshakes in flight, and revocations. It looks at neither the fetch metadata nor the
// subprotocols nor Caps, and it does not call Attach. A foreign origin gets a 403. A POST with
// neither an Origin nor a cookie passes the check of the origin. TicketHandler
// panics without AuthConfig.Tickets.
//
// login returns the Principal for the ticket. Its errors count as those of a Verifier. login
// may use a session cookie, which a browser sends with the requests of every page. So the
// handler calls login only in two cases. In the first, Origins, SameOrigin or OriginFunc
// allows the origin, and the origin is neither null nor file://. In the second, a program
// sends the POST with neither an Origin nor a cookie. A page whose origin InsecureAnyOrigin
// alone admits gets a 401.
//
// If login is nil, the handler calls the Verifier with the Bearer token of the Authorization
// header. It does so for every origin that may connect. For a POST without a Bearer token,
// the handler calls AuthConfig.Authenticate under the same conditions as a login.
//
// login may read the body, within VerifyTimeout. Before it answers, the handler waits for
// the rest of the body for at most 250 ms. If the body is not complete by then, the handler
// closes the connection after its answer. The handler needs a ResponseWriter with
// SetReadDeadline or Unwrap for that. With any other one, net/http waits for the body until
// http.Server.ReadTimeout.
func (g *Guard) TicketHandler(login func(*http.Request) (Principal, error)) http.Handler {
	if g.policy.Load().auth.tickets == nil {
		panic("wsguard: TicketHandler without AuthConfig.Tickets")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := g.endpoint.admission(r)
		a.login, a.selling = login, true
		lent := &lentBody{body: r.Body}
		if login != nil && hasBody(r) {
			a.r = new(http.Request)
			*a.r = *r
			a.r.Body = lent
		}
		defer a.unwind()
		a.w = w
		err := a.run(saleSteps)
		complete := lent.takeBack(w)
		if err != nil {
			a.offended(asDenied(err))
			a.refuse(w, err, a.event())
			return
		}
		sold := a.event()
		sold.Kind = audit.Ticket
		g.events.tell(sold, nil)
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

// askLogin finds the Principal that buys a ticket. It dates the sale before the last look at
// the revocations, so that a later revocation voids the ticket.
func (a *admission) askLogin() error {
	if err := a.g.shared.marksKnown(); err != nil {
		return err
	}
	p, err := a.buyer()
	if err != nil {
		a.notAccepted()
	}
	a.principal = p
	a.principal.bought = a.g.state.accepted.Now()
	return err
}

// seller returns the login that a request for a ticket is judged by. It is nil if the Verifier
// judges the bearer token.
func (a *admission) seller() func(*http.Request) (Principal, error) {
	if a.login != nil {
		return a.login
	}
	if cred, err := find(a.r, []source{{kind: sourceHeader}}); err == nil && cred.kind == sourceNone {
		return a.auth.cfg.Authenticate
	}
	return nil
}

// soldTo returns the kind and the secret under which a request for a ticket is remembered.
func (a *admission) soldTo() (kind, secret string) {
	if a.seller() == nil {
		token, _ := bearer(a.r)
		return "token", token
	}
	if hasBody(a.r) {
		return "login", "" // the body may be what the login looks at
	}
	return "login", a.presented(a.r)
}

func (a *admission) buyer() (Principal, error) {
	login := a.seller()
	if login == nil {
		token, err := bearer(a.r)
		if err != nil {
			return Principal{}, err
		}
		a.cred = credential{sourceHeader, token}
		return a.verify()
	}
	return a.logIn(login)
}

// returnTicket puts the ticket of a handshake back if a cap or a rate has refused the
// handshake, and returns over, the refusal. The client may then use the ticket again.
func (a *admission) returnTicket(over error) error {
	if over == nil || a.used == nil {
		return over
	}
	put := func(ctx context.Context) (struct{}, error) {
		return struct{}{}, a.g.state.tickets.putBack(ctx, a.auth.tickets, a.used)
	}
	if a.auth.tickets.Store == nil {
		put(a.ctx)
		return over
	}
	a.fl.hold()
	within(a.ctx, a.auth.cfg.VerifyTimeout, a.fl.done, put) // if the store fails, the ticket is lost
	return over
}

// sell sells a ticket to the principal of the admission.
func (a *admission) sell() error {
	a.g.state.registry.sold(a.principal)
	p := a.principal
	if a.auth.tickets.Store != nil {
		p.bought, p.seen = a.g.shared.stored(p.bought), a.g.shared.stored(p.seen)
	}
	issue := func(ctx context.Context) (string, error) {
		return a.g.state.tickets.issue(ctx, a.auth.tickets, p, retained(a.from))
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

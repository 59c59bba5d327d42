package wsguard

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/seen"
	"github.com/wsguard/wsguard/reason"
)

// How long the State remembers a credential that a guard has accepted, and one that it has
// refused a client.
const (
	rememberAccepted = 24 * time.Hour
	rememberRejected = 10 * time.Second
)

// verify judges the credential, unless its client has failed too often.
func (a *admission) verify() (Principal, error) {
	token, s := a.cred.token, a.g.state
	if a.cred.kind == sourceTicket {
		if a.auth.tickets == nil {
			return Principal{}, deny(reason.Unauthenticated, "nobody to ask")
		}
		try := a.ticketAttempt()
		used := make(chan *usedTicket, 1) // ask may outlive the handshake
		try.ask = func(ctx context.Context) (Principal, error) {
			p, ticket, err := s.tickets.redeem(ctx, a.auth.tickets, token, a.from, a.fetched, a.g.shared)
			used <- ticket
			return p, err
		}
		p, err := a.budgeted(try)
		if err == nil {
			a.used = <-used
		}
		return p, err
	}
	if a.auth.cfg.Verifier == nil {
		return Principal{}, deny(reason.Unauthenticated, "nobody to ask")
	}
	p, ok, err := s.verified.get(token, &a.auth.cfg)
	if !ok {
		try := a.tokenAttempt()
		try.ask = func(ctx context.Context) (Principal, error) { return s.verified.ask(ctx, token, &a.auth.cfg) }
		p, err = a.budgeted(try)
	}
	if err != nil {
		return Principal{}, err
	}
	s.lately.Note(s.lately.Key("token", token))
	p = sighted(s.accepted, token, p)
	a.g.shared.sighted(p)
	return p, nil
}

// sighted notes that a credential has been accepted, and returns p with the moment at which
// it was first accepted. The caller must look at the revocations afterwards. So either a
// revocation finds the credential noted, or the credential came after it. If token is empty,
// p comes from the application's login and is noted by its fields.
func sighted(m *seen.Memory, token string, p Principal) Principal {
	first := func(at time.Time) {
		if p.seen.IsZero() || at.Before(p.seen) {
			p.seen = at
		}
	}
	if token != "" {
		first(m.Note(m.Key("token", token), !p.IssuedAt.IsZero()))
		if p.SessionID == "" {
			return p
		}
	}
	// Note the login as well, because one token can have several spellings. Every ECDSA
	// signature has a second valid form, for example. A login whose issue time is not ahead
	// of the clock need not be noted, because its issue time is earlier than any sighting.
	login := m.Key("login", p.Subject, p.SessionID, p.IssuedAt.UTC().Format(time.RFC3339Nano))
	if p.IssuedAt.After(time.Now()) {
		first(m.Note(login, true))
	} else if at, ok := m.Look(login); ok {
		first(at)
	}
	return p
}

// attempt is a credential that must be judged.
type attempt struct {
	kind    string       // of the secret, because tokens, tickets and logins are judged differently
	secret  string       // empty: nothing was presented
	forgets bool         // the secret is not all that ask looks at, so its answer is not remembered
	budget  *keyed.Table // has the buckets of the failures
	waits   bool         // ask may block
	ask     func(context.Context) (Principal, error)
}

// tokenAttempt returns the attempt with the token that is the credential. The caller sets ask.
func (a *admission) tokenAttempt() attempt {
	return attempt{kind: "token", secret: a.cred.token, budget: a.g.state.rates.failures, waits: true}
}

// ticketAttempt is tokenAttempt for a ticket. The store in memory does not block.
func (a *admission) ticketAttempt() attempt {
	return attempt{kind: "ticket", secret: a.cred.token, budget: a.g.state.rates.tickets, waits: a.auth.tickets != nil && a.auth.tickets.Store != nil}
}

// loginAttempt is tokenAttempt for what a login may take for a credential.
func (a *admission) loginAttempt() attempt {
	return attempt{kind: "login", secret: a.presented(a.r), forgets: hasBody(a.r), budget: a.g.state.rates.failures, waits: true}
}

// bucket is a bucket of a table with its rate.
type bucket struct {
	key  keyed.Key
	name string // the key in the shared store; empty if the rates are not shared
	rate Rate
}

// budgeted judges a credential, in bounded time, unless the client or the credential has
// failed too often. A credential that was refused this client a moment ago is refused again
// from memory, which costs nothing. A client that has failed too often may still present what
// was accepted before, one credential at a time. The handshakes in flight bound how many calls
// of ask run at the same time. A failure is charged when ask returns, even if the caller no
// longer waits.
func (a *admission) budgeted(try attempt) (Principal, error) {
	s, bad := a.g.state, a.rejectedAs(try)
	remembers := try.remembers() && !a.auth.cfg.Failures.off()
	if remembers {
		if _, again := s.rejected.Look(bad); again {
			return Principal{}, innocent("the same credential was refused a moment ago")
		}
	}
	asked, charged := a.failureBuckets(try)
	done := func() {}
	wait, over := exhausted(try.budget, asked)
	if !over {
		wait, over = a.sharedGuessing(try.budget, asked)
	}
	if over {
		if !s.acceptedBefore(try) {
			return Principal{}, denyRetry(reason.Guessing, wait)
		}
		key := a.client.key()
		if ok, _ := s.again.take(a.ctx, &waiter{key: key, mostEach: 1}); !ok {
			return Principal{}, denyRetry(reason.Guessing, wait)
		}
		done = func() { s.again.give(key) }
	}
	judge := func(ctx context.Context) (Principal, error) {
		defer done()
		p, err := judged(ctx, try.ask)
		switch {
		case !errors.Is(err, reason.Unauthenticated) || asDenied(err).blameless:
		case try.secret == "":
			err = ErrNoCredential
		default:
			for _, b := range charged {
				try.budget.Charge(b.key, 1, b.rate.limit(), time.Now())
			}
			if remembers {
				s.rejected.Note(bad, true)
			}
			a.chargeFailure(ctx, charged)
		}
		return p, err
	}
	if !try.waits {
		return judge(a.ctx)
	}
	a.fl.hold()
	return within(a.ctx, a.auth.cfg.VerifyTimeout, a.fl.done, judge)
}

func (try attempt) remembers() bool { return try.secret != "" && !try.forgets }

// rejectedAs is the key under which the State remembers that a credential was refused. It is
// that of one client and of one policy, because another may have another Verifier. What a
// foreign page has presented is remembered apart.
func (a *admission) rejectedAs(try attempt) seen.Key {
	who := a.client.key()
	return a.g.state.rejected.Key(a.policy.id, try.kind, strconv.FormatBool(a.known), who.name, who.prefix.String(), try.secret)
}

// acceptedBefore reports whether a credential was accepted not long ago, or is a ticket that was
// sold here.
func (s *State) acceptedBefore(try attempt) bool {
	if try.kind == "ticket" {
		return s.tickets.unused(ticketKey(try.secret))
	}
	return try.remembers() && s.lately.Look(s.lately.Key(try.kind, try.secret))
}

// failureBuckets returns the buckets that allow the judgement of a credential, and those that
// its failure is charged to. A refresh counts for its subject, if there is one, and not for the
// client, whose address others may share. A failure that a foreign page may have
// caused has buckets of its own, and cannot lock out the owner of a credential.
func (a *admission) failureBuckets(try attempt) (asked, charged []bucket) {
	rate, t := a.auth.cfg.Failures, try.budget
	if rate.off() {
		return nil, nil
	}
	if a.conn != nil && !a.conn.Principal().anonymous() {
		subject := a.conn.Principal().Subject
		charged = []bucket{{t.String("subject:" + subject), try.sharedKey() + "subject/" + subject, rate}}
		return charged, charged
	}
	net, wide := a.client.network()
	var own, around, credential string
	if sh := a.g.shared; sh != nil && sh.cfg.Rates != nil {
		own, around = a.sharedKey(try.sharedKey()), a.sharedNetKey(try.sharedKey(), net)
		credential = try.sharedKey() + "credential/" + hashed(try.secret)
	}
	charged = []bucket{{a.client.keyIn(t, !a.known), own, rate}}
	if wide {
		charged = append(charged, bucket{networkKey(t, net, !a.known), around, rate.times(perNetwork)})
	}
	asked = charged
	if try.remembers() {
		asked = append(asked[:len(asked):len(asked)], bucket{t.String("credential:" + try.secret), credential, rate})
	}
	if a.known {
		charged = asked
	}
	return asked, charged
}

// sharedKey begins the keys of the buckets of failures in the shared store.
func (try attempt) sharedKey() string {
	if try.kind == "ticket" {
		return "tickets/"
	}
	return "failures/"
}

// exhausted reports whether one of the buckets is empty, and how long that will last.
func exhausted(t *keyed.Table, buckets []bucket) (wait time.Duration, over bool) {
	for _, b := range buckets {
		if wait, ok := t.Peek(b.key, 1, b.rate.limit(), time.Now()); !ok {
			return wait, true
		}
	}
	return 0, false
}

// within calls f and waits for it no longer than limit. It calls done when f has returned. If
// f outlives the limit, it keeps its place until then, so abandoned calls are bounded.
func within[T any](ctx context.Context, limit time.Duration, done func(), f func(context.Context) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	results := make(chan result, 1)
	go func() {
		defer done()
		r := result{err: deny(reason.Unavailable, "panicked")}
		defer func() {
			_ = recover() // the value may quote a credential, so drop it
			results <- r
		}()
		r.v, r.err = f(ctx)
	}()
	select {
	case got := <-results:
		return got.v, got.err
	case <-ctx.Done():
	}
	select {
	case got := <-results: // at the same moment, or during a pause of the process
		return got.v, got.err
	default:
		var none T
		return none, deny(reason.Unavailable, "no answer in time")
	}
}

// judged calls ask and settles its answer. It recovers a panic.
func judged(ctx context.Context, ask func(context.Context) (Principal, error)) (p Principal, err error) {
	defer func() {
		if recover() != nil { // the value may quote the credential, so drop it
			p, err = Principal{}, deny(reason.Unavailable, "verifier panicked")
		}
	}()
	return settle(ask(ctx))
}

// verified caches the Principals that Verifiers have returned, by the hash of the token. Each
// AuthConfig in use has its own answers, because it has its own Verifier. Reconfigure puts
// another AuthConfig in use.
type verified struct {
	mu      sync.Mutex          // no other lock is taken while it is held
	all     map[question]answer // guarded by mu; made when needed
	cleared uint64              // guarded by mu: how many times clear was called
}

// question is a token and the AuthConfig whose Verifier was asked about it.
type question struct {
	asked *AuthConfig // owned by a policy
	token [sha256.Size]byte
}

// answer is the Principal of a token, and the time until which it may be used.
type answer struct {
	principal Principal
	until     time.Time
}

// maxVerified is how many answers are kept. When there are more, an arbitrary one is dropped.
const maxVerified = 10_000

// get returns the answer that is kept for a token. ok is false if there is none.
func (v *verified) get(token string, cfg *AuthConfig) (p Principal, ok bool, err error) {
	if cfg.CacheTTL <= 0 {
		return Principal{}, false, nil
	}
	v.mu.Lock()
	got, ok := v.all[question{cfg, sha256.Sum256([]byte(token))}]
	v.mu.Unlock()
	if !ok || !time.Now().Before(got.until) {
		return Principal{}, false, nil
	}
	p, err = settle(got.principal, nil)
	return p, true, err
}

// ask calls the Verifier and keeps a good answer.
func (v *verified) ask(ctx context.Context, token string, cfg *AuthConfig) (Principal, error) {
	if cfg.CacheTTL <= 0 {
		return cfg.Verifier(ctx, token)
	}
	key := question{cfg, sha256.Sum256([]byte(token))}
	v.mu.Lock()
	cleared := v.cleared
	v.mu.Unlock()
	p, err := cfg.Verifier(ctx, token)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil:
		delete(v.all, key)
	case v.cleared == cleared: // otherwise a revocation came during the call
		if v.all == nil {
			v.all = map[question]answer{}
		}
		if len(v.all) >= maxVerified {
			for k := range v.all {
				delete(v.all, k)
				break
			}
		}
		v.all[key] = answer{p.clone(), time.Now().Add(cfg.CacheTTL)}
	}
	return p, err
}

// forget drops the answers about id, so that the Verifier is called again. The answers of
// calls that are under way are not kept either.
func (v *verified) forget(id identity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for k, got := range v.all {
		if slices.Contains(got.principal.identities(), id) {
			delete(v.all, k)
		}
	}
	v.cleared++
}

// clear drops all answers. The answers of calls that are under way are not kept either.
func (v *verified) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.all)
	v.cleared++
}

// settle judges the answer of a verifier. It drops the text of the error, which may hold the
// credential.
func settle(p Principal, err error) (Principal, error) {
	switch {
	case err == nil && p.Subject == "":
		return Principal{}, deny(reason.Unavailable, "the verifier returned no subject")
	case err == nil && !p.Expires.IsZero() && !time.Now().Before(p.Expires):
		return Principal{}, innocent("credential expired")
	case err == nil:
		return p.clone(), nil
	case errors.Is(err, reason.Unavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Principal{}, deny(reason.Unavailable, "verifier unavailable")
	}
	for _, harmless := range []error{ErrExpired, ErrNoCredential} {
		if errors.Is(err, harmless) {
			return Principal{}, harmless
		}
	}
	return Principal{}, deny(reason.Unauthenticated, "invalid credential")
}

package wsguard

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/seen"
	"github.com/wsguard/wsguard/reason"
)

// verify judges the credential, unless its client has failed too often.
func (a *admission) verify() (Principal, error) {
	token, s := a.cred.token, a.g.state
	if a.cred.kind == sourceTicket {
		if a.auth.tickets == nil {
			return Principal{}, deny(reason.Unauthenticated, "nobody to ask")
		}
		waits := a.auth.tickets.Store != nil // the store in memory does not block
		return a.budgeted(token, waits, func(ctx context.Context) (Principal, error) {
			return s.tickets.redeem(ctx, a.auth.tickets, token, a.from)
		})
	}
	if a.auth.cfg.Verifier == nil {
		return Principal{}, deny(reason.Unauthenticated, "nobody to ask")
	}
	p, err := a.budgeted(token, true, func(ctx context.Context) (Principal, error) {
		return s.verified.ask(ctx, token, &a.auth.cfg)
	})
	if err != nil {
		return Principal{}, err
	}
	return sighted(s.accepted, token, p), nil
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

// budgeted calls ask, in bounded time, unless the client or the credential has failed too
// often. waits says that ask may block. The handshakes in flight bound how many calls run at
// the same time. A failure is charged when ask returns, even if the caller no longer waits. A
// failure that a foreign page may have caused is charged to a bucket of its own.
func (a *admission) budgeted(secret string, waits bool, ask func(context.Context) (Principal, error)) (Principal, error) {
	failures, limit := a.g.state.rates.failures, a.auth.cfg.Failures.limit()
	var asked, charged []keyed.Key
	switch {
	case a.auth.cfg.Failures.off():
	case a.known:
		charged = []keyed.Key{a.client.in(failures)}
		if secret != "" {
			charged = append(charged, failures.String("credential:"+secret))
		}
		asked = charged
	default: // a foreign page cannot lock out the owner of a credential
		charged = []keyed.Key{a.client.foreign(failures)}
		asked = append(charged, failures.String("credential:"+secret))
	}
	for _, k := range asked {
		if wait, ok := failures.Peek(k, 1, limit, time.Now()); !ok {
			return Principal{}, denyRetry(reason.Guessing, wait)
		}
	}
	judge := func(ctx context.Context) (Principal, error) {
		p, err := judged(ctx, ask)
		if errors.Is(err, reason.Unauthenticated) {
			for _, k := range charged {
				failures.Charge(k, 1, limit, time.Now())
			}
		}
		return p, err
	}
	if !waits {
		return judge(a.ctx)
	}
	a.fl.hold()
	return within(a.ctx, a.auth.cfg.VerifyTimeout, a.fl.done, judge)
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

// maxRevalidating is how many calls of Revalidate may run at the same time.
const maxRevalidating = 64

// revalidate calls Revalidate for p, in bounded time. The caller has taken a place in
// revalidating, which is given back when the hook has returned.
func (s *State) revalidate(ctx context.Context, cfg *AuthConfig, p Principal) (Principal, error) {
	p.Scopes = slices.Clone(p.Scopes) // the hook may change its copy
	done := func() { <-s.revalidating }
	fresh, err := within(ctx, cfg.VerifyTimeout, done, func(ctx context.Context) (Principal, error) {
		return judged(ctx, func(ctx context.Context) (Principal, error) { return cfg.Revalidate(ctx, p) })
	})
	if err == nil && fresh.Subject != p.Subject {
		return Principal{}, deny(reason.Unauthenticated, "revalidated as another subject")
	}
	return fresh, err
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

func (v *verified) ask(ctx context.Context, token string, cfg *AuthConfig) (Principal, error) {
	if cfg.CacheTTL <= 0 {
		return cfg.Verifier(ctx, token)
	}
	key := question{cfg, sha256.Sum256([]byte(token))}
	v.mu.Lock()
	got, ok := v.all[key]
	cleared := v.cleared
	v.mu.Unlock()
	if ok && time.Now().Before(got.until) {
		return got.principal, nil
	}
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
		return Principal{}, deny(reason.Unauthenticated, "credential expired")
	case err == nil:
		return p.clone(), nil
	case errors.Is(err, reason.Unavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Principal{}, deny(reason.Unavailable, "verifier unavailable")
	}
	return Principal{}, deny(reason.Unauthenticated, "invalid credential")
}

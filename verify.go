package wsguard

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/seen"
	"github.com/wsguard/wsguard/reason"
)

// verify judges a credential, within the failure budget of its client.
func (a *admission) verify() (Principal, error) {
	token, s := a.cred.token, a.g.state
	if a.cred.kind == sourceTicket {
		if a.auth.tickets == nil {
			return Principal{}, deny(reason.Unauthenticated, "nobody to ask")
		}
		waits := a.auth.tickets.Store != nil // else there is nothing to wait for
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

// sighted notes that a credential has been accepted, and returns p with the
// moment at which it first was. The caller looks at the revocations afterwards: so
// a revocation finds the credential noted, or the credential came after it. An
// empty token is a login of the application's, which is known by its Principal.
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
	// Another spelling of a token, such as the second signature that every ECDSA
	// signature has, is no other login. An issue time that is not ahead of the
	// clock is earlier than any moment at which the login can be seen: it need
	// not be noted.
	login := m.Key("login", p.Subject, p.SessionID, p.IssuedAt.UTC().Format(time.RFC3339Nano))
	if p.IssuedAt.After(time.Now()) {
		first(m.Note(login, true))
	} else if at, ok := m.Look(login); ok {
		first(at)
	}
	return p
}

// budgeted asks ask whom a credential stands for, in bounded time, unless its
// client or the credential itself has failed too often. How many can be asked
// about at once is bounded by the handshakes in flight. A failure is charged
// when the answer is there, whether or not anybody still waits for it. What a foreign
// page provokes is charged to a bucket of its own.
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

// within waits for f no longer than limit. Left behind, f holds what done gives
// back: it cannot pile up.
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
			_ = recover() // with what it was given, perhaps
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

// judged asks, and survives.
func judged(ctx context.Context, ask func(context.Context) (Principal, error)) (p Principal, err error) {
	defer func() {
		if recover() != nil { // with what it was given, perhaps
			p, err = Principal{}, deny(reason.Unavailable, "verifier panicked")
		}
	}()
	return settle(ask(ctx))
}

// maxRevalidating is how many connections are asked about at once.
const maxRevalidating = 64

// revalidate asks whether p is still good, in bounded time. Its caller has a place
// in revalidating, which comes back when the hook does.
func (s *State) revalidate(ctx context.Context, cfg *AuthConfig, p Principal) (Principal, error) {
	p.Scopes = slices.Clone(p.Scopes) // the hook's
	done := func() { <-s.revalidating }
	fresh, err := within(ctx, cfg.VerifyTimeout, done, func(ctx context.Context) (Principal, error) {
		return judged(ctx, func(ctx context.Context) (Principal, error) { return cfg.Revalidate(ctx, p) })
	})
	if err == nil && fresh.Subject != p.Subject {
		return Principal{}, deny(reason.Unauthenticated, "revalidated as another subject")
	}
	return fresh, err
}

// verified keeps the good answers of Verifiers, by the hash of what was asked about. Each
// AuthConfig in use has its own answers, because it has its own Verifier. A Guard has a
// new one after Reconfigure.
type verified struct {
	mu      sync.Mutex
	all     map[question]answer // made when needed
	cleared uint64
}

type question struct {
	asked *AuthConfig // of a policy
	token [sha256.Size]byte
}

type answer struct {
	principal Principal
	until     time.Time
}

// maxVerified bounds the answers that are kept; beyond it any one goes.
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
	case v.cleared == cleared: // else somebody was revoked while it was asked
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

// clear forgets all answers, and those that are under way.
func (v *verified) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.all)
	v.cleared++
}

// settle judges what a verifier has answered. The text of its error may hold
// the credential: it goes nowhere.
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

// flight is a place among the handshakes in flight. It has several holders:
// the handshake, and a verifier that may outlive it.
type flight struct {
	release func()
	holders atomic.Int32
}

func (fl *flight) hold() {
	if fl != nil {
		fl.holders.Add(1)
	}
}

func (fl *flight) done() {
	if fl != nil && fl.holders.Add(-1) == 0 {
		fl.release()
	}
}

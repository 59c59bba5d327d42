package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Admitter decides about a handshake in one call, so that a handshake costs a round trip and
// not one for each limit. A shared store should have it beside [Rates], [Slots] and [Once].
// [Combine] makes one of these three for a store that has none. Many goroutines call it at the
// same time.
type Admitter interface {
	// Admit does what the request asks for, in this order:
	//
	//  1. It takes the tokens of all Takes, or of none if one of them is refused. The tokens
	//     stay taken if a later step refuses.
	//  2. It looks for a free slot in each of Scopes.
	//  3. It takes the value of Once.
	//  4. It takes the slots.
	//
	// A step that refuses ends the call. The error is then nil, and Answer.Refused says which
	// step has refused. No slot is held. If the third step has refused, there was no value. If the
	// second step has refused, the value can still be taken.
	//
	// The error wraps [ErrInvalid] if the request is not valid, and is an [OutageError] if the
	// store is slow or gone. The caller then does not know which steps were taken. Slots that
	// were taken nevertheless are free again when their lease ends, at the latest. Use another ID
	// to try again.
	Admit(ctx context.Context, r Request) (Answer, error)
}

// Request is what an [Admitter] is asked for. Each of its three parts may be left out.
type Request struct {
	Takes []Take // the tokens to take; no two have the same key

	// ID, TTL and Scopes are those of [Slots].
	ID     string
	TTL    time.Duration
	Scopes []Scope

	// Once is the key of the value to take, as for [Once]. It is empty if there is none. With it,
	// ID must not hold slots already, because a store may release them if there is no value.
	Once string
}

// Refusal is the step that has refused a [Request].
type Refusal int

const (
	Admitted    Refusal = iota // no step has refused
	RefusedRate                // too few tokens
	RefusedSlot                // a full scope
	RefusedOnce                // no value
)

// Answer is the answer to a [Request].
type Answer struct {
	Refused Refusal       // the step that has refused, or Admitted
	Key     string        // the key of the rate or of the scope that has refused
	Wait    time.Duration // until there are enough tokens, if Refused is RefusedRate
	Taken   []int64       // the tokens of each of Takes, unless Refused is RefusedRate
	Value   []byte        // the value of Once, if nothing has refused
}

// ErrInvalid says that a call of a store was not valid. The call has changed nothing.
var ErrInvalid = errors.New("store: invalid request")

// OutageError says that a store did not answer in time, or could not do what it was asked for.
// It is not known what the store has done.
type OutageError struct {
	Op         string        // what was asked for, such as "admit"
	RetryAfter time.Duration // how long the store will not be asked; 0: the next call asks it
	Err        error         // the cause; nil while the store is not asked
}

func (e *OutageError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("store: %s: not asked for the next %v, because earlier calls have failed", e.Op, e.RetryAfter)
	}
	return fmt.Sprintf("store: %s: %v", e.Op, e.Err)
}

// Unwrap returns the cause.
func (e *OutageError) Unwrap() error { return e.Err }

// Validate returns an error that wraps [ErrInvalid] if the request is not one that a store can
// answer. Each store calls it first. The methods of [Slots] and [Rates] have the same rules.
func (r Request) Validate() error {
	for i, t := range r.Takes {
		if err := t.validate(); err != nil {
			return err
		}
		for _, other := range r.Takes[:i] {
			if other.Key == t.Key {
				return invalid("two takes of one key")
			}
		}
	}
	if r.ID == "" && len(r.Scopes) == 0 {
		return nil
	}
	switch {
	case r.ID == "":
		return invalid("no ID")
	case len(r.Scopes) == 0:
		return invalid("no scope")
	}
	if err := ValidateTTL(r.TTL); err != nil {
		return err
	}
	return validateScopes(r.Scopes)
}

func validateScopes(scopes []Scope) error {
	for i, s := range scopes {
		switch {
		case s.Key == "":
			return invalid("a scope without a key")
		case s.Max < 0:
			return invalid("a scope with a negative maximum")
		}
		for _, other := range scopes[:i] {
			if other.Key == s.Key {
				return invalid("two scopes with one key")
			}
		}
	}
	return nil
}

func (t Take) validate() error {
	l := t.Limit
	switch {
	case t.Key == "":
		return invalid("a take without a key")
	case !(l.PerSecond > 0) || l.PerSecond > maxPerSecond:
		return invalid("the rate must be more than 0 and at most 2^32 per second")
	case l.PerSecond < minPerSecond:
		return invalid("the rate must be at least 1e-9 per second")
	case l.Burst < 1 || l.Burst > maxBurst:
		return invalid("the burst must be between 1 and 2^34")
	case t.Least < 0 || t.Most < 0:
		return invalid("a negative number of tokens")
	case t.Least > l.Burst:
		return invalid("more tokens than the burst")
	case t.Most > 0 && t.Most < t.Least:
		return invalid("the most is less than the least")
	}
	return nil
}

// The limits of a [Limit].
const (
	minPerSecond = 1e-9
	maxPerSecond = 1 << 32
	maxBurst     = 1 << 34
)

// ValidateTTL returns an error that wraps [ErrInvalid] unless ttl is a lease's: at least a
// millisecond and at most [MaxLease].
func ValidateTTL(ttl time.Duration) error {
	if ttl < time.Millisecond || ttl > MaxLease {
		return invalid("a lease must last between a millisecond and 10 minutes")
	}
	return nil
}

func invalid(why string) error { return fmt.Errorf("%w: %s", ErrInvalid, why) }

// Combine returns an [Admitter] that asks three stores one after another. A nil store refuses
// what it would be asked for with an error. If a step refuses or fails, Combine releases the
// slots that it has taken.
func Combine(rates Rates, slots Slots, once Once) Admitter {
	return combined{rates, slots, once}
}

// combined is what Combine returns. It is read-only.
type combined struct {
	rates Rates
	slots Slots
	once  Once
}

func (c combined) Admit(ctx context.Context, r Request) (Answer, error) {
	var a Answer
	err := r.Validate()
	switch {
	case err != nil:
		return a, err
	case len(r.Takes) > 0 && c.rates == nil, len(r.Scopes) > 0 && c.slots == nil, r.Once != "" && c.once == nil:
		return a, invalid("there is no store for it")
	}
	if a, err = c.take(ctx, r.Takes); err != nil || a.Refused != Admitted {
		return a, err
	}
	if len(r.Scopes) > 0 {
		full, err := c.slots.Acquire(ctx, r.ID, r.TTL, r.Scopes...)
		if err != nil {
			return Answer{}, err
		}
		if full != "" {
			a.Refused, a.Key = RefusedSlot, full
			return a, nil
		}
	}
	if r.Once == "" {
		return a, nil
	}
	value, ok, err := c.once.Take(ctx, r.Once)
	if err == nil && ok {
		a.Value = value
		return a, nil
	}
	a.Refused = RefusedOnce
	if len(r.Scopes) > 0 {
		free := c.slots.Release(context.WithoutCancel(ctx), Lease{r.ID, r.Scopes})
		err = errors.Join(err, free)
	}
	if err != nil {
		return Answer{}, err
	}
	return a, nil
}

// take takes the tokens of all takes. Rates has no call for several keys. So take looks at all
// of them before it takes any. A take that is refused nevertheless has lost a race. The tokens
// of the takes before it are lost then.
func (c combined) take(ctx context.Context, takes []Take) (a Answer, err error) {
	for _, looking := range []bool{true, false} {
		for _, t := range takes {
			if looking {
				if len(takes) == 1 || t.Least == 0 {
					continue
				}
				t.Most = 0
			}
			n, wait, err := c.rates.TakeTokens(ctx, t)
			if err != nil {
				return Answer{}, err
			}
			if wait > 0 {
				return Answer{Refused: RefusedRate, Key: t.Key, Wait: wait}, nil
			}
			if !looking {
				a.Taken = append(a.Taken, n)
			}
		}
	}
	return a, nil
}

// waitFor returns how long it takes until missing tokens have flowed in. It is never 0.
func waitFor(missing, perSecond float64) time.Duration {
	d := math.Ceil(missing / perSecond * 1e6)
	return time.Duration(min(max(d, 1), maxWait)) * time.Microsecond
}

// maxWait bounds the time to wait, in microseconds.
const maxWait = 1e15

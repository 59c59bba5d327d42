package wsguardredis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/store"
)

// errTimeout is the cause of an outage if Redis has not answered in time.
var errTimeout = errors.New("redis did not answer in time")

// call calls f on a goroutine of its own, and waits for it no longer than Options.Timeout. A
// client heeds the end of a context only if its ContextTimeoutEnabled is set, so call does not
// rely on it. If f fails, or returns when call waits no longer, call calls undo on the goroutine
// of f, unless undo is nil. It does not wait for undo. An error of f is an outage, except
// store.ErrFull and store.ErrOwnerFull.
func call[T any](ctx context.Context, s *Store, op string, f func(context.Context) (T, error), undo func()) (T, error) {
	return callFor(ctx, s, op, s.opts.Timeout, s.calls, f, undo)
}

// callFor is call with a time to wait and a bound on what is under way.
func callFor[T any](ctx context.Context, s *Store, op string, timeout time.Duration, calls chan struct{}, f func(context.Context) (T, error), undo func()) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	probe, retry, ok := s.breaker.enter(time.Now())
	if !ok {
		return zero, &store.OutageError{Op: op, RetryAfter: retry}
	}
	inner, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	select {
	case calls <- struct{}{}:
	case <-inner.Done():
		return zero, s.gaveUp(ctx, op, probe)
	case <-ctx.Done():
		return zero, s.gaveUp(ctx, op, probe)
	}
	w := &waited[T]{done: make(chan struct{})}
	go func() {
		defer func() { <-calls }()
		var err error
		w.result, err = protected(inner, f)
		w.err = err
		late := !w.over.CompareAndSwap(false, true)
		if !late {
			close(w.done)
		}
		if undo != nil && (late || err != nil) {
			protected(inner, func(context.Context) (struct{}, error) { undo(); return struct{}{}, nil })
		}
	}()
	select {
	case <-w.done:
	case <-inner.Done():
	case <-ctx.Done():
	}
	if w.over.CompareAndSwap(false, true) {
		return zero, s.gaveUp(ctx, op, probe)
	}
	<-w.done
	return w.result, s.judge(op, w.err, probe)
}

// waited is a call that somebody waits for.
type waited[T any] struct {
	over   atomic.Bool   // the call has returned, or nobody waits for it any more
	done   chan struct{} // closed if the call has returned while somebody waited
	result T             // written before done is closed
	err    error         // written before done is closed
}

// gaveUp returns the error of a call that stops waiting.
func (s *Store) gaveUp(ctx context.Context, op string, probe bool) error {
	if err := ctx.Err(); err != nil { // the caller's wish says nothing about Redis
		s.breaker.leave(probe)
		return err
	}
	return s.judge(op, errTimeout, probe)
}

// judge tells the breaker how a call has ended, and returns its error.
func (s *Store) judge(op string, err error, probe bool) error {
	if err == nil || errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrOwnerFull) {
		s.breaker.succeeded()
		return err
	}
	retry := s.breaker.failed(time.Now(), probe, err)
	return &store.OutageError{Op: op, RetryAfter: retry, Err: err}
}

// protected calls f, and turns a panic of the client or of one of its hooks into an error.
func protected[T any](ctx context.Context, f func(context.Context) (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the client panicked: %v", p)
		}
	}()
	return f(ctx)
}

// The settings of the breaker.
const (
	maxFailures = 5
	probeEvery  = 500 * time.Millisecond
)

// breaker stops the calls to a Redis that fails. It is closed at first. After maxFailures
// failures in a row it opens. While it is open, it lets one call through about each probeEvery,
// and it closes when such a call has succeeded.
type breaker struct {
	logger *slog.Logger // read-only

	mu       sync.Mutex // no other lock is taken while it is held
	failures int        // guarded by mu: in a row
	open     bool       // guarded by mu
	next     time.Time  // guarded by mu: when the next call may ask, while open
	probing  bool       // guarded by mu: such a call is under way
}

// enter asks whether a call may ask Redis. If it may not, retry is how long that will last.
// probe says that the call is one that an open breaker lets through.
func (b *breaker) enter(now time.Time) (probe bool, retry time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open:
		return false, 0, true
	case now.Before(b.next):
		return false, b.next.Sub(now), false
	case b.probing:
		return false, probeEvery, false
	}
	b.probing = true
	return true, 0, true
}

// leave says that a call has ended without telling anything about Redis.
func (b *breaker) leave(probe bool) {
	if probe {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.probing = false
	}
}

// succeeded closes the breaker.
func (b *breaker) succeeded() {
	b.mu.Lock()
	closed := b.open
	b.failures, b.open, b.probing = 0, false, false
	b.mu.Unlock()
	if closed && b.logger != nil {
		b.logger.Info("wsguardredis: redis answers again")
	}
}

// failed counts a failure. It returns how long Redis will not be asked.
func (b *breaker) failed(now time.Time, probe bool, err error) (retry time.Duration) {
	b.mu.Lock()
	b.failures++
	opened := !b.open && b.failures >= maxFailures
	if opened || probe {
		b.open, b.probing = true, false
		b.next = now.Add(jitter(probeEvery))
	}
	if b.open {
		retry = b.next.Sub(now)
	}
	b.mu.Unlock()
	if opened && b.logger != nil {
		b.logger.Warn("wsguardredis: redis fails, and is asked less often", "err", err)
	}
	return max(retry, 0)
}

// jitter returns d ± 25 %, so that the instances of a service do not ask at the same time.
func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2) }

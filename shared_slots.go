package wsguard

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wsguard/wsguard/store"
)

// tenancy has the slots that one connection holds in the store. It is made by a handshake, and
// ends with the Lease of the connection.
type tenancy struct {
	k      *keeper       // read-only
	leases []store.Lease // guarded by k.mu: those that are renewed
	over   bool          // guarded by k.mu: the Lease has been released
}

// keeper renews and releases the slots in the store. Only its goroutine calls Renew and Release.
// So no slot is renewed while it is released, or afterwards.
type keeper struct {
	sh   *shared       // read-only
	wake chan struct{} // has a value if slots wait to be released; has room for one

	mu       sync.Mutex            // no other lock is taken while it is held
	held     map[*tenancy]struct{} // guarded by mu: the tenancies with leases
	leaving  []store.Lease         // guarded by mu: the leases to release
	released uint64                // guarded by mu: how many leases have been released
	flushed  chan struct{}         // guarded by mu: closed when leaving has been released; nil: nobody waits
	complete time.Time             // guarded by mu: when the last complete round of renewals began; zero: never
	since    time.Time             // guarded by mu: since when there are slots
}

func newKeeper(sh *shared) *keeper {
	return &keeper{sh: sh, wake: make(chan struct{}, 1), held: map[*tenancy]struct{}{}}
}

// hold makes the keeper renew a lease. It releases the lease if the connection has ended
// meanwhile.
func (t *tenancy) hold(lease store.Lease) {
	if t == nil || len(lease.Scopes) == 0 {
		return
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if t.over {
		k.leave(lease)
		return
	}
	if len(k.held) == 0 {
		k.since = time.Now()
	}
	k.held[t] = struct{}{}
	t.leases = append(t.leases, lease)
}

// holds reports whether the connection has a slot in a scope whose key begins with prefix.
func (t *tenancy) holds(prefix string) bool {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return slices.ContainsFunc(t.leases, func(l store.Lease) bool {
		return slices.ContainsFunc(l.Scopes, func(s store.Scope) bool { return strings.HasPrefix(s.Key, prefix) })
	})
}

// drop gives back the slots in a scope.
func (t *tenancy) drop(scope string) {
	if t == nil {
		return
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	t.leases = slices.DeleteFunc(t.leases, func(l store.Lease) bool {
		if l.Scopes[0].Key != scope {
			return false
		}
		k.leave(l)
		return true
	})
}

// release gives all slots back.
func (t *tenancy) release() {
	if t == nil {
		return
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	t.over = true
	for _, l := range t.leases {
		k.leave(l)
	}
	t.leases = nil
	delete(k.held, t)
}

// leave makes the goroutine release a lease. If a store does not return, so that very many wait,
// the lease ends by itself. The caller holds mu.
func (k *keeper) leave(l store.Lease) {
	if len(k.leaving) < maxLeaving {
		k.leaving = append(k.leaving, l)
		k.poke()
	}
}

// poke makes the goroutine look at the leases that are to be released.
func (k *keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// soFar returns how many leases have been released.
func (k *keeper) soFar() uint64 {
	if k == nil {
		return 0
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.released
}

// settle waits until no lease waits to be released. before is what soFar returned before the
// question that was refused. settle returns false if no lease was released since then, and if ctx
// ends first.
func (k *keeper) settle(ctx context.Context, before uint64) bool {
	k.mu.Lock()
	if len(k.leaving) == 0 {
		defer k.mu.Unlock()
		return k.released != before
	}
	if k.flushed == nil {
		k.flushed = make(chan struct{})
	}
	flushed := k.flushed
	k.mu.Unlock()
	select {
	case <-flushed:
		return true
	case <-ctx.Done():
		return false
	}
}

// figures returns how many connections have slots in the store, and how old the last complete
// renewal is.
func (k *keeper) figures(now time.Time) (slots int, age time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.held) == 0 {
		return 0, 0
	}
	since := k.since
	if k.complete.After(since) {
		since = k.complete
	}
	return len(k.held), max(0, now.Sub(since))
}

// retryEvery is how long the keeper waits after a failure, with a jitter.
const retryEvery = time.Second

// flushWithin bounds how long the last Guard waits at its end until its slots are released.
const flushWithin = time.Second

// run renews and releases until the last Guard has left.
func (k *keeper) run() {
	ctx := k.sh.ctx
	timer := time.NewTimer(k.next(ctx)) // the first round makes this instance count
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-k.wake:
			if !k.flush(ctx) {
				k.sh.pause(retryEvery / 10) // a store that is gone is not asked all the time
				k.poke()
			}
		case <-timer.C:
			timer.Reset(k.next(ctx))
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushWithin)
	defer cancel()
	k.flush(last)
}

// next makes a round, and returns the time until the next one.
func (k *keeper) next(ctx context.Context) time.Duration {
	if k.round(ctx) {
		return jitter(renewEvery)
	}
	return jitter(retryEvery)
}

// round renews all slots, and counts the instances. It reports whether the store has answered
// all calls.
func (k *keeper) round(ctx context.Context) (ok bool) {
	if ok = k.beat(ctx); !ok {
		return false
	}
	if k.sh.cfg.Slots == nil {
		return true
	}
	began := time.Now()
	k.mu.Lock()
	all := slices.Collect(maps.Keys(k.held))
	k.mu.Unlock()
	for batch := range slices.Chunk(all, renewBatch) {
		ok = k.flush(ctx) && ok // a store that cannot release may renew nevertheless
		if !k.renew(ctx, batch) {
			return false
		}
	}
	k.mu.Lock()
	k.complete = began
	k.mu.Unlock()
	return ok
}

// maxInstances bounds what a store may count.
const maxInstances = 1 << 20

// keep calls a store for the keeper.
func keep[T any](k *keeper, ctx context.Context, op string, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, keeperWithin)
	defer cancel()
	return callStore(k.sh, ctx, op, call)
}

// beat says that this instance is alive, and counts the instances.
func (k *keeper) beat(ctx context.Context) bool {
	if k.sh.cfg.Instances == nil {
		return true
	}
	live, err := keep(k, ctx, "beat", func(ctx context.Context) (int, error) {
		return k.sh.cfg.Instances.Beat(ctx, slotLease)
	})
	if err != nil {
		return false
	}
	k.sh.mu.Lock()
	k.sh.live = min(max(1, live), maxInstances)
	k.sh.mu.Unlock()
	return true
}

// renew renews the leases of some tenancies.
func (k *keeper) renew(ctx context.Context, some []*tenancy) bool {
	leases := make([]store.Lease, 0, 2*len(some))
	k.mu.Lock()
	for _, t := range some {
		leases = append(leases, t.leases...)
	}
	k.mu.Unlock()
	if len(leases) == 0 {
		return true
	}
	_, err := keep(k, ctx, "renew", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, k.sh.cfg.Slots.Renew(ctx, slotLease, leases...)
	})
	return err == nil
}

// maxLeaving bounds the leases that wait until a store that is gone has come back.
const maxLeaving = 65_536

// flush releases the leases that are to be released. It reports false if the store has failed.
func (k *keeper) flush(ctx context.Context) bool {
	for {
		k.mu.Lock()
		batch := k.leaving[:min(len(k.leaving), renewBatch)]
		k.mu.Unlock()
		if len(batch) > 0 {
			_, err := keep(k, ctx, "release", func(ctx context.Context) (struct{}, error) {
				return struct{}{}, k.sh.cfg.Slots.Release(ctx, batch...)
			})
			if outage(err) {
				return false
			}
		}
		k.mu.Lock()
		k.released += uint64(len(batch))
		if k.leaving = k.leaving[len(batch):]; len(k.leaving) > 0 {
			k.mu.Unlock()
			continue
		}
		k.leaving = nil
		if k.flushed != nil {
			close(k.flushed)
			k.flushed = nil
		}
		k.mu.Unlock()
		return true
	}
}

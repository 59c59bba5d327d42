package wsguard

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/store"
)

// SharedConfig makes limits, tickets, bans and revocations hold for all instances of a service
// together. Its stores are usually on one Redis or Valkey, and package contrib/wsguardredis
// returns a SharedConfig with all of them. A nil store shares nothing. All instances must have
// the same stores, Caps and Rates.
//
// A handshake asks the stores at most twice. The first call comes before the credential is
// judged, and has the rates of the client, its slot, and a ticket if there is one. The second
// call comes afterwards, and has the rate and the slot of the subject. What the limits of one
// instance refuse never reaches a store.
//
// While a store is slow or gone, each instance applies its part of the shared limits. That is the
// limit divided by the number of instances that Instances has counted last. The guard refuses
// instead if the fields that end in FailClosed say so. A ticket that cannot be looked up gets a
// 503 in any case.
type SharedConfig struct {
	// Slots shares MaxConns, MaxUsersPerClient, MaxConnsPerNetwork and MaxConnsPerSubject of
	// CapConfig. MaxConnsPerClient and MaxUnauthenticated hold in each instance, and so do a
	// ConnCap and each cap with CapConfig.ReportOnly. A connection has a lease of 30 seconds on its
	// slots, which the guard renews every 10 seconds. An instance that is killed gives its slots
	// back when their leases have ended.
	Slots store.Slots

	// Rates shares the rates of handshakes and of failed credentials, and those of messages and
	// bytes of a client and of a subject. The rates of one connection need no store. A connection
	// spends tokens that its instance has taken in advance, so few messages wait for the store. A
	// message that finds none waits for at most 50 milliseconds.
	Rates store.Rates

	// Admitter answers what a handshake asks Slots, Rates and Tickets, in one call. The default,
	// nil, asks them one after the other.
	Admitter store.Admitter

	// Tickets holds the tickets of AuthConfig.Tickets if TicketConfig.Store is nil. With it,
	// TicketConfig.MaxPerSubject holds for all instances together.
	Tickets store.OwnedOnce

	// Bans shares the bans that violations and Admin.Ban begin. Admin.Lift ends a ban on all
	// instances.
	Bans store.Marks

	// Revocations shares the calls of Admin.Revoke, Admin.SignOut, Admin.Restore and Admin.Kick.
	// New waits for at most 2 seconds until it has read the revocations and the bans. Until they
	// have been read, handshakes get a 503 unavailable.
	Revocations store.Marks

	// Timeout is how long a handshake or a message waits for a call of a store. The default is 100
	// milliseconds. Then the guard decides without the store. A store should give up earlier by
	// itself, as that of wsguardredis does. It cannot be Off. A message waits for at most 50
	// milliseconds, whatever Timeout is.
	Timeout time.Duration

	// Instances counts the instances that are alive. The default, nil, counts one, and then each
	// instance applies the whole limit while a store is gone.
	Instances store.Instances

	// MessagesPerInstance keeps the rates of messages and bytes out of Rates, so that messages
	// never wait for a store. Each instance then counts the messages that it gets. The default is
	// false.
	MessagesPerInstance bool

	// CapsFailClosed refuses handshakes with 503 unavailable while Slots cannot be asked. The
	// default is false.
	CapsFailClosed bool

	// RatesFailClosed refuses handshakes with 503 unavailable while Rates cannot be asked, and
	// treats messages as over their rate. The default is false.
	RatesFailClosed bool

	// MarksFailClosed refuses handshakes with 503 unavailable while bans or revocations have not
	// been read for 5 seconds. Open connections stay open. The default is false. The guard then
	// judges by the bans and revocations that it has read.
	MarksFailClosed bool
}

func (cfg SharedConfig) none() bool { return cfg == SharedConfig{} }

// same reports whether two Guards have the same stores. Values that cannot be compared are
// not the same.
func (cfg SharedConfig) same(other SharedConfig) (same bool) {
	defer func() {
		if recover() != nil {
			same = false
		}
	}()
	return cfg == other
}

// How the guard uses the stores.
const (
	slotLease  = 30 * time.Second // the lease of a slot
	renewEvery = 10 * time.Second // how often leases are renewed, and instances counted
	renewBatch = 500              // how many leases one call renews or releases

	defaultTimeout = 2 * maxHold // of SharedConfig: longer than wsguardredis waits

	keeperWithin = 5 * time.Second // how long a renewal, a release or a count may take
	lostAfter    = 3               // so many failed calls in a row mean that a store is gone
)

// shared asks the stores for the Guards of a State. It runs from the first join until the last
// of its Guards has shut down.
type shared struct {
	// Read-only after newShared.
	cfg      SharedConfig
	admitter store.Admitter // nil: neither slots nor rates nor tickets are shared
	timeout  time.Duration  // SharedConfig.Timeout
	ctx      context.Context
	stop     context.CancelFunc
	running  sync.WaitGroup // the goroutines

	keeper   *keeper   // read-only; has a lock of its own; nil: no slots are shared, and no instances counted
	refusals refusals  // has a lock of its own
	credits  credits   // has a lock of its own
	spending *spending // read-only; has a lock of its own; nil: the rates of messages are not shared

	// Read-only after start, besides the locks that they have of their own.
	id          string    // names this instance in the values of marks
	born        time.Time // the times of feeds count from here
	state       *State
	revocations *feed // nil: not shared
	bans        *feed // nil: not shared
	feeds       []*feed

	stuck   atomic.Int32 // calls of handshakes that have outlived their limit
	divisor atomic.Int32 // by what a limit is divided while a store is gone; 0: none is

	mu       sync.Mutex                 // no other lock is taken while it is held
	guards   []*Guard                   // guarded by mu: those that have joined and not left
	failures [storeGroups]int           // guarded by mu: failed calls in a row, of each group of stores
	live     int                        // guarded by mu: the instances, as counted last
	calls    map[audit.StoreCall]uint64 // guarded by mu
	local    uint64                     // guarded by mu: decisions without the store
	closed   uint64                     // guarded by mu: refusals because of FailClosed
}

func newShared(cfg SharedConfig) *shared {
	sh := &shared{cfg: cfg, admitter: cfg.Admitter, timeout: cfg.Timeout, live: 1, calls: map[audit.StoreCall]uint64{}, id: rand.Text(), born: time.Now()}
	if sh.admitter == nil && (cfg.Slots != nil || cfg.Rates != nil || cfg.Tickets != nil) {
		sh.admitter = store.Combine(cfg.Rates, cfg.Slots, cfg.Tickets)
	}
	if sh.timeout == 0 {
		sh.timeout = defaultTimeout
	}
	sh.ctx, sh.stop = context.WithCancel(context.Background())
	if cfg.Slots != nil || cfg.Instances != nil {
		sh.keeper = newKeeper(sh)
	}
	sh.spending = newSpending(sh)
	return sh
}

// join makes g use the stores of cfg. It returns nil if cfg has none. It adds a fault if another
// Guard of the State has other stores.
func (s *State) join(g *Guard, cfg SharedConfig, f *faults) *shared {
	s.joining.Lock()
	defer s.joining.Unlock()
	sh := s.shared
	switch {
	case sh == nil && cfg.none():
		return nil
	case cfg.Timeout < 0:
		f.add("Shared.Timeout", cfg.Timeout, "must be positive, or 0 for the default")
		return nil
	case sh != nil && !sh.cfg.same(cfg):
		f.add("Shared", "", "Guards with one State must have the same stores")
		return nil
	case sh == nil:
		sh = newShared(cfg)
		s.shared = sh
		defer sh.start(s)
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.guards = append(sh.guards, g)
	return sh
}

// leave undoes join. The last Guard that leaves waits until what it has to tell the other
// instances is in the stores, and for the goroutines, but not for long, because a store may block.
func (s *State) leave(g *Guard) {
	if g.shared == nil {
		return
	}
	s.joining.Lock()
	sh := g.shared
	sh.mu.Lock()
	for i, other := range sh.guards {
		if other == g {
			sh.guards = append(sh.guards[:i:i], sh.guards[i+1:]...)
			break
		}
	}
	last := len(sh.guards) == 0 && s.shared == sh
	sh.mu.Unlock()
	if last {
		s.shared = nil
	}
	s.joining.Unlock()
	if last {
		sh.flushMarks()
		sh.stop()
		sh.spending.close()
		sh.wait()
	}
}

// endWaits bounds how long the last Guard waits for a store that does not return.
const endWaits = 2 * time.Second

// wait waits until the goroutines have ended. One that a store never lets go is left behind.
func (sh *shared) wait() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sh.running.Wait()
	}()
	t := time.NewTimer(endWaits)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
	}
}

// start starts the goroutines.
func (sh *shared) start(s *State) {
	if sh.keeper != nil {
		sh.running.Go(sh.keeper.run)
	}
	sh.startMarks(s)
}

// figures adds the figures of the stores to s.
func (sh *shared) figures(s *audit.Snapshot) {
	if sh == nil {
		return
	}
	to := &s.Shared
	if sh.keeper != nil {
		to.Slots, to.RenewalAge = sh.keeper.figures(s.Time)
	}
	sh.markFigures(to)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	to.Instances, to.Lost, to.Calls = sh.live, sh.lost(), maps.Clone(sh.calls)
	to.LocalDecisions, to.ClosedDecisions = sh.local, sh.closed
	sh.spending.figures(to)
}

// decided counts a decision without the store.
func (sh *shared) decided(closed bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if closed {
		sh.closed++
		return
	}
	sh.local++
}

// callStore calls a store, recovers its panic, and counts the call. op names the call in
// audit.Snapshot.
func callStore[T any](sh *shared, ctx context.Context, op string, call func(context.Context) (T, error)) (v T, err error) {
	err = errStorePanicked
	defer func() {
		_ = recover() // the value may quote a credential, so drop it
		sh.note(op, err)
	}()
	return call(ctx)
}

var errStorePanicked = errors.New("wsguard: the store panicked")

// outage reports whether err means that the store could not be asked.
func outage(err error) bool {
	for _, answer := range []error{nil, store.ErrFull, store.ErrOwnerFull, store.ErrGap, store.ErrInvalid} {
		if errors.Is(err, answer) {
			return false
		}
	}
	return true
}

// note counts a call, and notices that the stores are gone or back.
func (sh *shared) note(op string, err error) {
	result := "ok"
	if outage(err) {
		result = "error"
	}
	sh.mu.Lock()
	sh.calls[audit.StoreCall{Operation: op, Result: result}]++
	before, group := sh.lost(), groupOf(op)
	switch {
	case result == "ok":
		sh.failures[group] = 0
	case !errors.Is(err, context.Canceled):
		sh.failures[group]++
	}
	lost, back := !before && sh.lost(), before && !sh.lost()
	live := sh.live
	if sh.failures[limitStores] < lostAfter {
		sh.divisor.Store(0)
	} else {
		sh.divisor.Store(int32(live))
	}
	sh.mu.Unlock()
	switch {
	case lost:
		sh.warn("store_lost", fmt.Sprintf("the shared store does not answer: %s; this instance applies its part of each limit, which is 1/%d of it", errorText(err), live))
	case back:
		sh.warn("store_back", "the shared store answers again")
	}
}

// The stores of limits may be gone while those of marks are not.
const (
	limitStores = iota
	banStore
	revocationStore
	storeGroups
)

// groupOf returns the group of stores that an operation belongs to.
func groupOf(op string) int {
	switch {
	case strings.HasPrefix(op, "bans_"):
		return banStore
	case strings.HasPrefix(op, "revocations_"):
		return revocationStore
	}
	return limitStores
}

// lost reports whether a store is gone. The caller holds mu.
func (sh *shared) lost() bool {
	return slices.ContainsFunc(sh.failures[:], func(n int) bool { return n >= lostAfter })
}

// guard returns one of the Guards, or nil.
func (sh *shared) guard() *Guard {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(sh.guards) == 0 {
		return nil
	}
	return sh.guards[0]
}

// warn reports to one of the Guards.
func (sh *shared) warn(token, detail string) {
	if g := sh.guard(); g != nil {
		g.events.emit(audit.Event{Kind: audit.Warning, Reason: token, Detail: detail})
	}
}

// instances returns how many instances there are, as counted last.
func (sh *shared) instances() int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.live
}

// partOf returns the part of a limit that each of n instances applies while the stores are gone.
// A limit of 0 is no limit, and any other part is at least 1.
func partOf(limit, n int) int {
	if limit <= 0 {
		return limit
	}
	return max(1, limit/n)
}

// part is like partOf for a Rate.
func (r Rate) part(n int) Rate {
	if r.off() {
		return r
	}
	return Rate{PerSecond: r.PerSecond / float64(n), Burst: max(1, r.Burst/n)}
}

// Package spend has leases on token buckets that several instances share. An instance takes
// tokens out of such a bucket in advance, and its connections spend them without asking the
// store. The tokens leave the bucket when they are taken, so all instances together never exceed
// its limit.
package spend

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/store"
)

// Flights is how many refills are under way at the same time at most. Further ones wait.
const Flights = 64

// Pool has the leases of an instance. Its methods may be called by many goroutines.
type Pool struct {
	// Read-only after NewPool.
	born    time.Time
	take    func([]store.Take) (store.Answer, error)
	running *sync.WaitGroup

	probeAt atomic.Int64 // when Lease.Probe may ask next, in nanoseconds since born

	mu     sync.Mutex        // no other lock is taken while it is held
	leases map[string]*Lease // guarded by mu
	flying int               // guarded by mu: the goroutines that refill
	queue  []*Lease          // guarded by mu: those that wait for such a goroutine
	closed bool              // guarded by mu
}

// NewPool returns a Pool. take asks the store. It must return within a bounded time, and it must
// not panic. running counts the goroutines of the Pool.
func NewPool(take func([]store.Take) (store.Answer, error), running *sync.WaitGroup) *Pool {
	return &Pool{born: time.Now(), take: take, running: running, leases: map[string]*Lease{}}
}

// at returns a time in nanoseconds since the Pool was made.
func (p *Pool) at(now time.Time) int64 { return int64(now.Sub(p.born)) }

// Acquire returns the lease of a key. The caller must release it. The names of the buckets in
// the store are messages/KEY and bytes/KEY.
func (p *Pool) Acquire(key string) *Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acquire(key)
}

// acquire is Acquire. The caller holds mu.
func (p *Pool) acquire(key string) *Lease {
	l := p.leases[key]
	if l == nil {
		l = &Lease{pool: p, name: key, keys: Keys(key)}
		p.leases[key] = l
	}
	l.refs++
	return l
}

// Keys returns the names of the buckets of a key in the store.
func Keys(key string) [2]string { return [2]string{"messages/" + key, "bytes/" + key} }

// Release gives a lease up. The last one who does so drops its tokens. A lease that is still used
// afterwards behaves as before.
func (p *Pool) Release(l *Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(l)
}

// release is Release. The caller holds mu.
func (p *Pool) release(l *Lease) {
	if l.refs--; l.refs == 0 && p.leases[l.name] == l {
		delete(p.leases, l.name)
	}
}

// Len returns how many leases there are.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.leases)
}

// Credit adds tokens to the lease of a key. They were taken from the store by a call that began
// at asked. The lease then lasts until they end, even if no connection acquires it.
func (p *Pool) Credit(key string, n Amount, asked time.Time) {
	left := Life - time.Since(asked)
	if left <= 0 || n == (Amount{}) {
		return
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	l := p.acquire(key)
	p.mu.Unlock()
	l.mu.Lock()
	l.look(p.at(time.Now()))
	l.add(n, p.at(asked))
	l.mu.Unlock()
	time.AfterFunc(left, func() { p.Release(l) })
}

// Has returns what the lease of a key has now.
func (p *Pool) Has(key string) (n Amount) {
	p.mu.Lock()
	l := p.leases[key]
	p.mu.Unlock()
	if l == nil {
		return n
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look(p.at(time.Now()))
	return plus(l.lots[0].left, l.lots[1].left)
}

// errClosed is the error of a refill that was not begun.
var errClosed = errors.New("spend: the Pool is closed")

// start makes a goroutine refill l, which has a flight.
func (p *Pool) start(l *Lease) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		l.giveUp()
		return
	}
	l.refs++ // so that a connection that comes back finds the lease
	if p.leases[l.name] == nil {
		p.leases[l.name] = l
	}
	if p.flying == Flights {
		p.queue = append(p.queue, l)
		p.mu.Unlock()
		return
	}
	p.flying++
	p.running.Add(1)
	p.mu.Unlock()
	go p.work(l)
}

// work refills l, and then those that wait.
func (p *Pool) work(l *Lease) {
	defer p.running.Done()
	for l != nil {
		l.refill()
		l = p.done(l)
	}
}

// done releases l after a refill, and returns the next lease to refill, or nil.
func (p *Pool) done(l *Lease) (next *Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(l)
	if len(p.queue) == 0 {
		p.flying--
		p.queue = nil
		return nil
	}
	next, p.queue[0] = p.queue[0], nil
	p.queue = p.queue[1:]
	return next
}

// Close makes the Pool begin no further refills. The caller makes those that are under way end,
// and waits for them.
func (p *Pool) Close() {
	p.mu.Lock()
	queue := p.queue
	p.closed, p.queue = true, nil
	for _, l := range queue {
		p.release(l)
	}
	p.mu.Unlock()
	for _, l := range queue {
		l.giveUp()
	}
}

// giveUp ends a flight that was not begun.
func (l *Lease) giveUp() {
	l.mu.Lock()
	l.failed(errClosed)
	l.landed()
}

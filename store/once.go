// Package store has the interfaces of a store that the instances of a service share, and stores
// in the memory of one instance.
//
// [Once] holds tickets, [Slots] counts connections, [Rates] has token buckets, and [Marks] holds
// bans and revocations. A store implements those that it can. Package storetest tests a store.
// The module contrib/wsguardredis has all of them on Redis and Valkey. The stores of a Guard stand
// in Shared of its Config:
//
//	guard, err := wsguard.New(wsguard.Config{
//		Shared: wsguard.SharedConfig{Slots: s, Rates: s, Tickets: s, Bans: bans, Revocations: revocations},
//		…
//	})
//
// Without a store, a Guard shares nothing with other instances.
//
// # Tickets
//
// The keys of tickets are hashes, so the store cannot redeem a ticket. The values have the
// subject, the scopes and the times of the Principal that a ticket was issued to.
package store

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"
)

// Once stores values, such as tickets. Each value can be taken once. Many goroutines call it at the
// same time. Package wsguard waits for an answer no longer than AuthConfig.VerifyTimeout. If a call
// takes longer or returns an error, the guard cannot decide and refuses the request with a 503.
type Once interface {
	// Put stores value under key for ttl. The guard never uses a key for a second value. The error
	// wraps ErrFull if there is no room.
	Put(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Take removes the value of key and returns it. ok is false if there is no value, if its
	// ttl has passed, or if another call has taken it. Of several calls for one key at the
	// same time, exactly one gets the value.
	Take(ctx context.Context, key string) (value []byte, ok bool, err error)
}

// ErrFull says that a store has no room. Package wsguard then answers a request for a ticket with
// a 503 tickets.
var ErrFull = errors.New("store: full")

// OwnedOnce is a [Once] that bounds how many values an owner has, across all instances.
type OwnedOnce interface {
	Once

	// PutOwned is Put for a value of owner. The error wraps [ErrOwnerFull] if owner has max
	// values that were neither taken nor have expired. A max of 0 is no limit. If calls for one
	// owner have different values of max, each call judges by its own.
	PutOwned(ctx context.Context, key, owner string, max int, value []byte, ttl time.Duration) error
}

// ErrOwnerFull says that an owner has as many values as it may have. See [OwnedOnce].
var ErrOwnerFull = errors.New("store: the owner has too many values")

// MemoryOnce is an [OwnedOnce] in the memory of one instance. The zero value is ready to use and has
// no limit. Many goroutines may use it at the same time.
type MemoryOnce struct {
	max int // guarded by mu; 0: no limit

	mu    sync.Mutex       // no other lock is taken while it is held
	all   map[string]*once // guarded by mu; made when needed
	queue queue            // guarded by mu
	owned map[string]int   // guarded by mu; how many values each owner has; made when needed
}

// once is a stored value. The mu of its store guards it.
type once struct {
	key   string
	value []byte // a copy, which Take hands out
	owner string // empty: none
	until time.Time
	index int // in queue
}

// NewOnce returns a store that holds at most max values. A max of 0 is no limit.
func NewOnce(max int) *MemoryOnce { return &MemoryOnce{max: max} }

// SetMax changes how many values the store may hold. Values that are stored already stay, even
// if there are more than max.
func (m *MemoryOnce) SetMax(max int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.max = max
}

// Put stores a copy of value under key for ttl, in place of a value that key may have. It
// returns [ErrFull] if the store holds as many values as it may. It never looks at the context.
func (m *MemoryOnce) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return m.PutOwned(ctx, key, "", 0, value, ttl)
}

// PutOwned is Put for a value of owner. It returns [ErrOwnerFull] if owner has max values. An
// empty owner is nobody, and has no limit.
func (m *MemoryOnce) PutOwned(_ context.Context, key, owner string, max int, value []byte, ttl time.Duration) error {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.queue) > 0 && !now.Before(m.queue[0].until) {
		m.drop(m.queue[0])
	}
	if old := m.all[key]; old != nil {
		m.drop(old)
	}
	if m.max > 0 && len(m.all) >= m.max {
		return ErrFull
	}
	if owner != "" && max > 0 && m.owned[owner] >= max {
		return ErrOwnerFull
	}
	if m.all == nil {
		m.all, m.owned = map[string]*once{}, map[string]int{}
	}
	o := &once{key: key, value: append([]byte(nil), value...), owner: owner, until: now.Add(ttl)}
	m.all[key] = o
	if owner != "" {
		m.owned[owner]++
	}
	heap.Push(&m.queue, o)
	return nil
}

// Take removes the value of key and returns it, unless its ttl has passed. It never looks at
// the context.
func (m *MemoryOnce) Take(_ context.Context, key string) ([]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.all[key]
	if o == nil {
		return nil, false, nil
	}
	m.drop(o)
	return o.value, time.Now().Before(o.until), nil
}

func (m *MemoryOnce) drop(o *once) {
	delete(m.all, o.key)
	heap.Remove(&m.queue, o.index)
	if o.owner == "" {
		return
	}
	if m.owned[o.owner]--; m.owned[o.owner] == 0 {
		delete(m.owned, o.owner)
	}
}

// queue is a heap. Its first value is the one that expires first.
type queue []*once

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].until.Before(q[j].until) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	o := x.(*once)
	o.index = len(*q)
	*q = append(*q, o)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	o := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return o
}

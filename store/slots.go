package store

import (
	"context"
	"sync"
	"time"
)

// Slots counts connections in scopes, such as those of one client, of one subject, or all of
// them. A slot is a lease. The instance that has the connection renews the lease, and the slot
// is free again when the lease has ended. So an instance that is gone gives its slots back.
// Many goroutines call Slots at the same time.
//
// The errors wrap [ErrInvalid] if an argument is not valid. They are an [OutageError] if the
// store is slow or gone.
type Slots interface {
	// Acquire takes a slot in each of scopes for ttl, or in none. full is the key of the first
	// scope that has no free slot, or empty if there is a slot in each. A slot belongs to the
	// ID of a connection, which is different from all others of all instances. A second Acquire
	// with the ID and the scopes of a slot that is held takes no other slot, and renews it. ttl
	// is at most [MaxLease].
	//
	// No scope ever has more than Max slots. A store may keep scopes in different places. Then a
	// call may hold a slot in one scope until another scope refuses it, and meanwhile the slot is
	// missing for others. So calls that race for several scopes may leave slots free. These slots
	// can be taken as soon as the calls have returned. A race for one scope leaves none free.
	//
	// After an error it is not known whether the slots are held. The store releases them as soon
	// as it can, and they end with their lease. Use another ID to try again.
	Acquire(ctx context.Context, id string, ttl time.Duration, scopes ...Scope) (full string, err error)

	// Renew makes leases last for ttl from now. It does not look at Scope.Max. A lease that the
	// store does not know any more is taken anew. So a store that has lost its memory is
	// restored when each instance has renewed its leases. After an error, some of the leases may
	// have been renewed. Renew must not be called during or after the Release of a lease.
	Renew(ctx context.Context, ttl time.Duration, leases ...Lease) error

	// Release gives slots back. Leases that are not held are no error. After an error, some of
	// them may still be held until they end.
	Release(ctx context.Context, leases ...Lease) error
}

// MaxLease is the longest life of a slot.
const MaxLease = 10 * time.Minute

// Scope is a set of connections that is limited together.
type Scope struct {
	Key string // what the connections have in common, such as "client/192.0.2.1"; not empty
	Max int    // how many slots there are; 0: no limit, and the connection is counted

	// Wide says that the scope is meant for a great part of all connections, such as all of
	// them. A store may then keep a number for each instance in place of a slot for each
	// connection. All calls for a key must agree on Wide.
	Wide bool
}

// Lease says where a connection has slots.
type Lease struct {
	ID     string
	Scopes []Scope // those of Acquire
}

// Instances counts the instances that are alive. While a store is gone, an instance can apply
// its part of a shared limit, which is the limit divided by the last count. Many goroutines
// call it at the same time.
type Instances interface {
	// Beat says that this instance is alive for ttl from now. It returns how many instances
	// are, this one included. ttl is at most [MaxLease].
	Beat(ctx context.Context, ttl time.Duration) (live int, err error)
}

// MemorySlots is a [Slots] and an [Instances] in the memory of one instance. The zero value is
// ready to use. It never looks at the context.
type MemorySlots struct {
	mu     sync.Mutex            // no other lock is taken while it is held
	scopes map[string]*scopeHeld // guarded by mu; made when needed
}

// scopeHeld has the slots of one scope. The mu of its store guards it.
type scopeHeld struct {
	until map[string]time.Time // when each lease ends
	next  time.Time            // no lease ends before
}

// Acquire implements [Slots].
func (m *MemorySlots) Acquire(_ context.Context, id string, ttl time.Duration, scopes ...Scope) (string, error) {
	if err := (Request{ID: id, TTL: ttl, Scopes: scopes}).validateSlots(); err != nil {
		return "", err
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range scopes {
		held := m.live(s.Key, now)
		if held == nil || s.Max == 0 {
			continue
		}
		if _, mine := held.until[id]; !mine && len(held.until) >= s.Max {
			return s.Key, nil
		}
	}
	m.hold(id, now.Add(ttl), scopes)
	return "", nil
}

// validateSlots is Validate for a call that must have an ID and scopes.
func (r Request) validateSlots() error {
	if r.ID == "" {
		return invalid("no ID")
	}
	return r.Validate()
}

// live drops the leases of a scope that have ended, and returns the scope or nil. The caller
// holds mu.
func (m *MemorySlots) live(key string, now time.Time) *scopeHeld {
	held := m.scopes[key]
	if held == nil || now.Before(held.next) {
		return held
	}
	held.next = now.Add(MaxLease)
	for id, until := range held.until {
		switch {
		case !now.Before(until):
			delete(held.until, id)
		case until.Before(held.next):
			held.next = until
		}
	}
	if len(held.until) == 0 {
		delete(m.scopes, key)
		return nil
	}
	return held
}

// hold makes the slots of a lease last until a time. The caller holds mu.
func (m *MemorySlots) hold(id string, until time.Time, scopes []Scope) {
	if m.scopes == nil {
		m.scopes = map[string]*scopeHeld{}
	}
	for _, s := range scopes {
		held := m.scopes[s.Key]
		if held == nil {
			held = &scopeHeld{until: map[string]time.Time{}, next: until}
			m.scopes[s.Key] = held
		}
		held.until[id] = until
		if until.Before(held.next) {
			held.next = until
		}
	}
}

// Renew implements [Slots].
func (m *MemorySlots) Renew(_ context.Context, ttl time.Duration, leases ...Lease) error {
	if err := ValidateLeases(ttl, leases...); err != nil {
		return err
	}
	until := time.Now().Add(ttl)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range leases {
		m.hold(l.ID, until, l.Scopes)
	}
	return nil
}

// ValidateLeases returns an error that wraps [ErrInvalid] if leases cannot be renewed for ttl.
func ValidateLeases(ttl time.Duration, leases ...Lease) error {
	if err := ValidateTTL(ttl); err != nil {
		return err
	}
	for _, l := range leases {
		if err := (Request{ID: l.ID, TTL: ttl, Scopes: l.Scopes}).validateSlots(); err != nil {
			return err
		}
	}
	return nil
}

// Release implements [Slots].
func (m *MemorySlots) Release(_ context.Context, leases ...Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range leases {
		for _, s := range l.Scopes {
			held := m.scopes[s.Key]
			if held == nil {
				continue
			}
			delete(held.until, l.ID)
			if len(held.until) == 0 {
				delete(m.scopes, s.Key)
			}
		}
	}
	return nil
}

// Beat implements [Instances]. There is one instance.
func (m *MemorySlots) Beat(_ context.Context, ttl time.Duration) (int, error) {
	return 1, ValidateTTL(ttl)
}

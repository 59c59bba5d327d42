package store

import (
	"context"
	"math"
	"sync"
	"time"
)

// Rates has token buckets that several instances share. Many goroutines call it at the same
// time.
//
// An instance should not ask a shared store for each message. It takes several tokens at once,
// spends them from its own memory, and takes further ones before it has none left. The tokens
// leave the bucket when they are taken, so all instances together never exceed the limit.
type Rates interface {
	// TakeTokens takes tokens from a bucket. It takes t.Most if they are there, otherwise as many as
	// are there, and at least t.Least. If there are fewer than t.Least, it takes none, and wait
	// is the time until there are enough, by the clock of the store. Otherwise wait is 0.
	//
	// The error wraps [ErrInvalid] if t is not valid. It is an [OutageError] if the store is slow
	// or gone. Then the tokens may have been taken.
	TakeTokens(ctx context.Context, t Take) (n int64, wait time.Duration, err error)
}

// Take says how many tokens to take, and where.
type Take struct {
	Key   string // names the bucket, such as "handshakes/192.0.2.1"; not empty
	Limit Limit
	Least int64 // at most Limit.Burst; 0: take what is there, and never refuse
	Most  int64 // at least Least; 0: take nothing, and only look whether Least are there
}

// Limit is the limit of a token bucket. The bucket keeps what is owed, in tokens. So what is
// owed stays owed if calls for one bucket have different limits.
type Limit struct {
	PerSecond float64 // how many tokens flow in per second; between 1e-9 and 2^32
	Burst     int64   // how many tokens a bucket holds; between 1 and 2^34
}

// MemoryRates is a [Rates] in the memory of one instance. The zero value is ready to use. It
// never looks at the context, and forgets a bucket some time after it is full again.
type MemoryRates struct {
	mu      sync.Mutex         // no other lock is taken while it is held
	buckets map[string]*bucket // guarded by mu; made when needed
	tidyAt  int                // guarded by mu: the number of buckets at which full ones are dropped
}

// bucket is a token bucket that is not full. The mu of its store guards it.
type bucket struct {
	owed      float64 // the tokens that are missing
	at        time.Time
	perSecond float64 // of the last call
}

// tolerance is how much of a token may be missing because numbers are rounded.
const tolerance = 1e-6

// TakeTokens implements [Rates].
func (m *MemoryRates) TakeTokens(_ context.Context, t Take) (int64, time.Duration, error) {
	if err := t.validate(); err != nil {
		return 0, 0, err
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.buckets[t.Key]
	var owed float64
	if b != nil {
		b.perSecond = t.Limit.PerSecond
		owed = b.owes(now)
	}
	free := float64(t.Limit.Burst) - owed
	if missing := float64(t.Least) - free; missing > tolerance {
		return 0, waitFor(missing, t.Limit.PerSecond), nil
	}
	n := max(0, min(t.Most, int64(math.Floor(free+tolerance))))
	if n == 0 {
		return 0, 0, nil
	}
	if b == nil {
		m.tidy(now)
		b = &bucket{perSecond: t.Limit.PerSecond}
		m.buckets[t.Key] = b
	}
	b.owed, b.at = owed+float64(n), now
	return n, 0, nil
}

// owes returns how many tokens are missing now.
func (b *bucket) owes(now time.Time) float64 {
	return max(0, b.owed-max(0, now.Sub(b.at).Seconds())*b.perSecond)
}

// tidy drops full buckets each time the number of buckets has doubled. The caller holds mu.
func (m *MemoryRates) tidy(now time.Time) {
	if m.buckets == nil {
		m.buckets, m.tidyAt = map[string]*bucket{}, 1024
	}
	if len(m.buckets) < m.tidyAt {
		return
	}
	for key, b := range m.buckets {
		if b.owes(now) == 0 {
			delete(m.buckets, key)
		}
	}
	m.tidyAt = max(1024, 2*len(m.buckets))
}

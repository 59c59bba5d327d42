package wsguard

import (
	"sync"
	"time"
)

// maxMemo bounds refusals and credits each. When there are more, arbitrary ones are forgotten.
const maxMemo = 16_384

// memo remembers something about keys of a store for a while.
type memo[T any] struct {
	mu  sync.Mutex          // no other lock is taken while it is held
	all map[string]noted[T] // guarded by mu; made when needed
}

// noted is what a memo remembers about a key.
type noted[T any] struct {
	v     T
	until time.Time
}

// get returns what is remembered about a key. The caller holds mu.
func (m *memo[T]) get(key string, now time.Time) (n noted[T], ok bool) {
	n, ok = m.all[key]
	return n, ok && now.Before(n.until)
}

// set remembers v until a time. The caller holds mu.
func (m *memo[T]) set(key string, v T, until, now time.Time) {
	if m.all == nil {
		m.all = map[string]noted[T]{}
	}
	if _, known := m.all[key]; !known && len(m.all) >= maxMemo {
		for k, n := range m.all {
			if len(m.all) < maxMemo*3/4 {
				break
			}
			if !now.Before(n.until) {
				delete(m.all, k)
			}
		}
		for k := range m.all {
			if len(m.all) < maxMemo*3/4 {
				break
			}
			delete(m.all, k)
		}
	}
	m.all[key] = noted[T]{v, until}
}

// refusals remembers until when the store would refuse a token of each bucket that it has refused.
type refusals struct{ memo[struct{}] }

// maxRefusal bounds how long a refusal is remembered. Another instance may lift it meanwhile.
const maxRefusal = 10 * time.Second

func (r *refusals) note(key string, wait time.Duration) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(key, struct{}{}, now.Add(min(wait, maxRefusal)), now)
}

// left returns how long the store would refuse a token. It is 0 if that is not known.
func (r *refusals) left(key string) time.Duration {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.get(key, now)
	if !ok {
		return 0
	}
	return n.until.Sub(now)
}

// credits has tokens of handshakes that were taken from the store for a client, and that count for
// a subject now. The next handshakes of the client use them.
type credits struct{ memo[int] }

// creditLife is how long such a token is good. Meanwhile the bucket of the client fills up.
const creditLife = 500 * time.Millisecond

func (c *credits) give(key string) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.get(key, now)
	if !ok {
		n.v = 0
	}
	c.set(key, n.v+1, now.Add(creditLife), now)
}

func (c *credits) spend(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.get(key, time.Now())
	if !ok || n.v == 0 {
		return false
	}
	if n.v--; n.v == 0 {
		delete(c.all, key)
		return true
	}
	c.all[key] = n
	return true
}

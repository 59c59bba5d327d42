// Package seen remembers when credentials were first seen, in bounded memory.
//
// A credential is known by a hash under a secret seed, so a Memory holds nothing
// that could be presented. A full Memory forgets the credential that came in
// longest ago.
package seen

import (
	"crypto/rand"
	"sync"
	"time"
)

// Size is the number of credentials that a Memory remembers at most.
const Size = 65_536

// Memory holds the moment at which each credential was first seen. It begins
// small, and takes about 4.5 MB when it is full. It is safe for concurrent use.
//
// A Memory has a clock of its own. Each moment of it is later than the one before,
// even if the system's clock has not moved between them. So two moments tell which
// of two calls came first.
type Memory struct {
	age  time.Duration // read-only after New
	born time.Time     // read-only after New
	seed [32]byte      // read-only after New

	mu    sync.Mutex    // guards all fields below; no other lock is taken while it is held
	last  time.Duration // the latest moment, counted from born
	known map[Key]sight
	ring  []Key // the keys of known in the order in which they came in, the oldest at first
	first int   // index of the oldest in ring
}

// Key stands for a credential in one Memory.
type Key [16]byte

// sight is when a credential was first seen, in nanoseconds since the Memory was
// made, times two. The lowest bit says that the credential had an issue time.
type sight int64

func (s sight) at() time.Duration { return time.Duration(s >> 1) }
func (s sight) dated() bool       { return s&1 == 1 }

func newSight(at time.Duration, dated bool) sight {
	s := sight(at) << 1
	if dated {
		s |= 1
	}
	return s
}

// New returns an empty Memory. It remembers a credential for age after it first saw it.
func New(age time.Duration) *Memory {
	m := &Memory{age: age, born: time.Now(), known: map[Key]sight{}}
	rand.Read(m.seed[:])
	return m
}

// Key returns the key of a credential that consists of parts.
func (m *Memory) Key(parts ...string) Key { return keyOf(m.seed, parts) }

// Now returns a moment that is later than all before it.
func (m *Memory) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.time(m.tick())
}

// Note returns the moment at which a credential was first seen. If the Memory does not
// know the credential, that moment is now, and the Memory remembers it. dated says that
// the credential has an issue time. A credential that had none before counts as new.
func (m *Memory) Note(k Key, dated bool) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.tick()
	m.expire(now)
	s, ok := m.known[k]
	if !ok {
		m.push(k)
	}
	if !ok || now-s.at() >= m.age || dated && !s.dated() {
		s = newSight(now, dated)
		m.known[k] = s
	}
	return m.time(s.at())
}

// Look returns the moment at which a credential was first seen. ok is false if
// the Memory does not know it.
func (m *Memory) Look(k Key) (first time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.known[k]
	if !ok || time.Since(m.born)-s.at() >= m.age {
		return time.Time{}, false
	}
	return m.time(s.at()), true
}

// tick returns the next moment. mu is held.
func (m *Memory) tick() time.Duration {
	m.last = max(m.last+1, time.Since(m.born))
	return m.last
}

// time returns a moment as a time. Its monotonic part orders the moments of this Memory.
// Its wall clock is that of today, even if the machine has slept since.
func (m *Memory) time(at time.Duration) time.Time {
	now := time.Now()
	return now.Add(at - now.Sub(m.born))
}

// expire forgets up to two credentials that are too old. So the cost of a call
// is bounded, and old ones go faster than new ones come in. mu is held.
func (m *Memory) expire(now time.Duration) {
	for range 2 {
		if len(m.known) == 0 || now-m.known[m.ring[m.first]].at() < m.age {
			return
		}
		m.pop()
	}
}

// pop forgets the oldest. mu is held.
func (m *Memory) pop() {
	delete(m.known, m.ring[m.first])
	m.first = (m.first + 1) % len(m.ring)
}

// push appends a key that is not in known yet, and makes room for it. mu is held.
func (m *Memory) push(k Key) {
	n := len(m.known)
	switch {
	case n == Size:
		m.pop()
		n--
	case n == len(m.ring):
		ring := make([]Key, max(16, min(2*n, Size)))
		copy(ring[copy(ring, m.ring[m.first:]):], m.ring[:m.first])
		m.ring, m.first = ring, 0
	}
	m.ring[(m.first+n)%len(m.ring)] = k
}

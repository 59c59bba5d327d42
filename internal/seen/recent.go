package seen

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// Recent remembers which credentials were seen lately. A credential is remembered for at least
// an age after it was last seen, and at most twice as long. Recent holds at most Size of them
// and forgets those first that were not seen for longest. It is safe for concurrent use.
type Recent struct {
	age  time.Duration // read-only after NewRecent
	seed [32]byte      // read-only after NewRecent

	mu    sync.Mutex // no other lock is taken while it is held
	now   generation // guarded by mu: seen since begun
	old   generation // guarded by mu: seen in the generation before
	begun time.Time  // guarded by mu: when the generation began
}

// generation has the keys of the credentials that were seen in a span of time.
type generation map[Key]struct{}

// NewRecent returns an empty Recent.
func NewRecent(age time.Duration) *Recent {
	r := &Recent{age: age, begun: time.Now()}
	rand.Read(r.seed[:])
	return r
}

// Key returns the key of a credential that consists of parts.
func (r *Recent) Key(parts ...string) Key { return keyOf(r.seed, parts) }

// Note notes that a credential was seen.
func (r *Recent) Note(k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn()
	if _, ok := r.now[k]; !ok && len(r.now) >= Size/2 {
		r.next()
	}
	if r.now == nil {
		r.now = generation{}
	}
	r.now[k] = struct{}{}
	delete(r.old, k)
}

// Forget forgets a credential.
func (r *Recent) Forget(k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.now, k)
	delete(r.old, k)
}

// Look reports whether a credential was seen lately.
func (r *Recent) Look(k Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn()
	_, now := r.now[k]
	_, old := r.old[k]
	return now || old
}

// turn begins a new generation if the age has passed. The caller holds mu.
func (r *Recent) turn() {
	switch past := time.Since(r.begun); {
	case past >= 2*r.age:
		r.next()
		r.next()
	case past >= r.age:
		r.next()
	}
}

// next begins a new generation. The caller holds mu.
func (r *Recent) next() { r.now, r.old, r.begun = nil, r.now, time.Now() }

// keyOf returns a hash of parts under a secret seed.
func keyOf(seed [32]byte, parts []string) Key {
	h := hmac.New(sha256.New, seed[:])
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p))) // "ab", "c" is not "a", "bc"
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return Key(h.Sum(nil)[:len(Key{})])
}

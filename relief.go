package wsguard

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// queues bounds the memory of the queues of all connections.
type queues struct {
	total   atomic.Int64 // what all queues hold, in bytes
	leaving atomic.Int64 // the part of total that ended connections give back when their last write is over

	mu     sync.Mutex // one search for room at a time; sessions.mu may be taken while it is held
	vain   int64      // guarded by mu: how much memory was wanted when nobody could be ended for it
	vainAt time.Time  // guarded by mu: when that was
}

// reserve takes n bytes of the memory of all queues, or nothing. A negative n gives bytes back.
func (g *Guard) reserve(n int64) bool {
	total := &g.queues.total
	if n <= 0 {
		total.Add(n)
		return true
	}
	for {
		old := total.Load()
		if old+n > g.policy.Load().send.MaxTotalBytes {
			return false
		}
		if total.CompareAndSwap(old, old+n) {
			return true
		}
	}
}

// makeRoom reserves n bytes for a message of c. It ends connections of the client that has most
// queued until there is room. It returns false if there is none even so. Each turn of the loop
// ends a connection, or is the last.
//
// The bytes of the message count for the client of c. So a client cannot make the guard end the
// connections of others by what is sent to itself.
func (c *Conn) makeRoom(n int64) bool {
	qs := &c.g.queues
	limit := c.g.policy.Load().send.MaxTotalBytes
	if n > limit {
		return false
	}
	qs.mu.Lock()
	defer qs.mu.Unlock()
	for !c.g.reserve(n) {
		before := qs.total.Load() - qs.leaving.Load()
		if before+n <= limit || qs.inVain(n) {
			return false
		}
		victim := c.g.sessions.fullest(c.client.key(), n)
		if victim == nil {
			qs.vain, qs.vainAt = n, time.Now()
			return false
		}
		func() {
			qs.mu.Unlock() // the end calls the net.Conn, which may be the application's
			defer qs.mu.Lock()
			c.g.events.meter.gauges.refuse(limitQueueTotal)
			victim.end(because(reason.QueueFull, "all queues together are full, and those of this client hold the most"))
			victim.dropQueue(false)
		}()
		if qs.total.Load()-qs.leaving.Load() >= before {
			return false // what it held is held by others, too
		}
	}
	return true
}

// vainPause is how long no search for a similar n is made after one that found no victim.
const vainPause = 100 * time.Millisecond

// inVain reports whether makeRoom can skip the search for a victim, because a search for a
// similar n has just found none. A search looks at every connection, and finds none only if no
// client has more than n bytes queued. So inVain bounds how often a search is made in vain. mu
// is held.
func (qs *queues) inVain(n int64) bool {
	return n > qs.vain/2 && time.Since(qs.vainAt) < vainPause
}

// fullest returns the connection with the fullest queue of the client that has most in all of its
// queues. n more bytes count for the client sender. fullest returns nil if that makes sender the
// client with most, and its queues are empty.
func (s *sessions) fullest(sender clientKey, n int64) *Conn {
	type holding struct {
		bytes, most int64
		fullest     *Conn
	}
	clients := map[clientKey]holding{sender: {bytes: n}}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if bytes := c.queue.weight.Load(); bytes > 0 {
			key := c.client.key()
			h := clients[key]
			h.bytes += bytes
			if bytes > h.most {
				h.most, h.fullest = bytes, c
			}
			clients[key] = h
		}
	}
	top := clients[sender]
	for _, h := range clients {
		if h.bytes > top.bytes {
			top = h
		}
	}
	return top.fullest
}

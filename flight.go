package wsguard

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// flight is a place among the handshakes in flight. Its holders are the handshake and a call
// of a verifier that may outlive the handshake.
type flight struct {
	release func() // gives the place back; read-only
	holders atomic.Int32
}

func (fl *flight) hold() {
	if fl != nil {
		fl.holders.Add(1)
	}
}

func (fl *flight) done() {
	if fl != nil && fl.holders.Add(-1) == 0 {
		fl.release()
	}
}

// Many handshakes may come at once without an attack, such as those of people behind one
// address who open a page. So a handshake waits for a place for patience. At most maxWaiting
// handshakes wait, and at most maxWaitingEach of one client.
const (
	patience       = time.Second
	maxWaiting     = 256
	maxWaitingEach = 64
)

// counter counts the places in flight that are held, in all and per client. Each call brings
// its limits, and a limit of 0 is no limit.
type counter struct {
	mu    sync.Mutex        // no other lock is taken while it is held
	all   int               // guarded by mu: the places that are held
	each  map[clientKey]int // guarded by mu: those of each client
	queue []*waiter         // guarded by mu: the handshakes that wait; the first has waited for longest
}

// waiter is a handshake that waits for a place. It is read-only once it is in the queue.
type waiter struct {
	key            clientKey
	most, mostEach int           // the limits of all and of the client; 0: no limit
	ready          chan struct{} // closed when the waiter has its place
}

func newCounter() *counter { return &counter{each: map[clientKey]int{}} }

// held returns how many places are held.
func (c *counter) held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// fly reserves a place for a handshake of client. It waits for one, but no longer than
// patience.
func (c *counter) fly(ctx context.Context, client client, cfg RateConfig) (*flight, error) {
	w := &waiter{key: client.key(), most: cfg.MaxInFlight, mostEach: cfg.MaxInFlightPerClient}
	if ok, own := c.take(ctx, w); !ok {
		return nil, noPlace(own)
	}
	fl := &flight{release: func() { c.give(w.key) }}
	fl.hold()
	return fl, nil
}

// noPlace is the refusal of a handshake that gets no place. own says that its client's own limit is
// reached.
func noPlace(own bool) error {
	if own {
		d := denyStatus(reason.InFlight, http.StatusTooManyRequests, "of the client")
		d.limit = limitFlightEach
		return d
	}
	d := denyOver(reason.InFlight, "", limitFlight)
	d.blameless = true
	return d
}

// levels returns how many places are held, and how many of them by client.
func (c *counter) levels(client client) (all, own int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all, c.each[client.key()]
}

// take reserves a place. If it returns false, own says whether the client's own limit is
// reached. That limit takes precedence over the limit of all.
func (c *counter) take(ctx context.Context, w *waiter) (ok, own bool) {
	c.mu.Lock()
	if c.fits(w) {
		c.hold(w)
		c.mu.Unlock()
		return true, false
	}
	if own = c.full(w); len(c.queue) >= maxWaiting || c.waiting(w.key) >= maxWaitingEach {
		c.mu.Unlock()
		return false, own
	}
	w.ready = make(chan struct{})
	c.queue = append(c.queue, w)
	c.mu.Unlock()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-w.ready:
		return true, false
	case <-t.C:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.queue, w)
	if i < 0 {
		return true, false // the place came at the same moment
	}
	c.queue = slices.Delete(c.queue, i, i+1)
	return false, c.full(w)
}

// give gives a place back. The first waiter for which there is room gets it.
func (c *counter) give(key clientKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	down(c.each, key)
	for i := 0; i < len(c.queue); {
		w := c.queue[i]
		if !c.fits(w) {
			i++
			continue
		}
		c.hold(w)
		c.queue = slices.Delete(c.queue, i, i+1)
		close(w.ready)
	}
}

// hold counts a place for w. The caller holds mu.
func (c *counter) hold(w *waiter) {
	c.all++
	c.each[w.key]++
}

// fits reports whether there is a place for w. The caller holds mu.
func (c *counter) fits(w *waiter) bool { return !c.full(w) && (w.most <= 0 || c.all < w.most) }

// full reports whether the client of w has all the places that it may have. The caller holds
// mu.
func (c *counter) full(w *waiter) bool { return w.mostEach > 0 && c.each[w.key] >= w.mostEach }

// waiting returns how many handshakes of a client wait. The caller holds mu.
func (c *counter) waiting(key clientKey) (n int) {
	for _, w := range c.queue {
		if w.key == key {
			n++
		}
	}
	return n
}

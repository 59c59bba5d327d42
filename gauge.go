package wsguard

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/internal/tally"
	"github.com/wsguard/wsguard/internal/wire"
)

// limitID names a limit whose use Guard.Suggest looks at.
type limitID uint8

const (
	noLimit limitID = iota // a limit that Guard.Suggest does not look at
	limitConns
	limitUsers
	limitStrangers
	limitNetwork
	limitSubject
	limitWaiting
	limitHandshakes
	limitFlight
	limitFlightEach
	limitMessages
	limitClientMessages
	limitSubjectMessages
	limitBytes
	limitClientBytes
	limitSubjectBytes
	limitSize
	limitQueue
	limitQueueBytes
	limitQueueTotal
	limitIdle
	limitPong
	limitLifetime
	limits
)

// gauges have how much of each limit was used. All of their fields are atomic.
type gauges [limits]gauge

// gauge has how much of a limit was used.
type gauge struct {
	seen    tally.Histogram  // of a Rate: what was used of it in a second
	minute  *tally.Histogram // of a Rate: what was used of it in a minute; read-only; nil for other limits
	refused atomic.Uint64    // what the limit has refused, and what it would have refused if it did not only report
}

func newGauges() *gauges {
	g := new(gauges)
	for i := limitID(0); i < limits; i++ {
		switch i {
		case limitHandshakes, limitMessages, limitClientMessages, limitSubjectMessages, limitBytes, limitClientBytes, limitSubjectBytes:
			g[i].minute = new(tally.Histogram)
		}
	}
	return g
}

// note notes that n of a limit is in use.
func (g *gauges) note(l limitID, n int) { g[l].seen.Add(uint64(max(0, n))) }

// refuse counts what a limit has refused, or would have refused.
func (g *gauges) refuse(l limitID) { g[l].refused.Add(1) }

// refusedBy counts the refusal err, unless err is nil.
func (g *gauges) refusedBy(err error) {
	var d *denied
	if errors.As(err, &d) {
		g.refuse(d.limit)
	}
}

// limitOf returns the limit that a fault of the engine exceeds.
func limitOf(f wire.Fault) limitID {
	switch f {
	case wire.FaultTooBig:
		return limitSize
	case wire.FaultIdle:
		return limitIdle
	case wire.FaultPong:
		return limitPong
	}
	return noLimit
}

// used is what was used of the rates of messages and of bytes.
type used struct{ messages, bytes uint64 }

// usage sums up what connections, clients and subjects use of their rates in each second and in
// each minute. Nothing on the path of a message does that. The sweeper looks at the counters of
// each connection once a second, and the last holder of a connection adds the rest.
type usage struct {
	gauges *gauges // read-only

	mu      sync.Mutex // no other lock is taken while it is held
	windows [2]window  // guarded by mu: of a second, and of a minute

	paying     sync.Mutex    // no other lock is taken while it is held
	handshakes [2]handshakes // guarded by paying: of a second, and of a minute
}

const (
	second = iota
	minute
)

// window sums up what messages use in a time.
type window struct {
	begun    time.Time
	clients  map[clientKey]used
	subjects map[string]used
}

// handshakes sums up the handshakes in a time.
type handshakes struct {
	begun time.Time
	n     map[handshaker]int
}

// handshaker is who pays for a handshake: a client, or a subject.
type handshaker struct {
	client  clientKey
	subject string
}

var windowTimes = [2]time.Duration{time.Second, time.Minute}

// maxUsers bounds how many clients, subjects and handshakers a window tells apart. What others do
// is not looked at.
const maxUsers = 1 << 16

func newUsage(g *gauges) *usage {
	u := &usage{gauges: g}
	for i := range u.windows {
		u.windows[i] = window{clients: map[clientKey]used{}, subjects: map[string]used{}}
		u.handshakes[i].n = map[handshaker]int{}
	}
	return u
}

// counted is what usage has seen of a connection. It is guarded by usage.mu.
type counted struct {
	used [2]used   // the messages that each window has
	last time.Time // the last message; zero: the sweeper has not looked yet
}

// handshake counts n handshakes. n is negative if the charge was given back.
func (u *usage) handshake(of handshaker, n int) {
	now := time.Now()
	u.paying.Lock()
	defer u.paying.Unlock()
	u.rollHandshakes(now)
	for i := range u.handshakes {
		all := u.handshakes[i].n
		if _, known := all[of]; known || len(all) < maxUsers {
			all[of] += n
		}
	}
}

// rollHandshakes ends the windows of handshakes whose time is over. The caller holds paying.
func (u *usage) rollHandshakes(now time.Time) {
	for i := range u.handshakes {
		h := &u.handshakes[i]
		if now.Sub(h.begun) < windowTimes[i] {
			continue
		}
		for _, n := range h.n {
			if n > 0 {
				u.gauges[limitHandshakes].add(i, uint64(n), 1)
			}
		}
		clear(h.n)
		h.begun = now
	}
}

// add adds what was used in a window that has lasted scale times as long as it should.
func (g *gauge) add(window int, n uint64, scale float64) {
	if n == 0 {
		return
	}
	if scale > 1 {
		n = max(1, uint64(float64(n)/scale))
	}
	if window == second {
		g.seen.Add(n)
	} else {
		g.minute.Add(n)
	}
}

// begin begins the windows of messages anew, when the first connection opens.
func (u *usage) begin(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range u.windows {
		u.flush(i, 1)
		u.windows[i].begun = now
	}
}

// look adds what the connections have used. The sweeper calls it every second.
func (u *usage) look(conns []*Conn, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range u.windows {
		w := &u.windows[i]
		lasted := now.Sub(w.begun)
		if lasted < windowTimes[i] {
			continue
		}
		scale := float64(lasted) / float64(windowTimes[i])
		for _, c := range conns {
			u.count(c, i, scale)
		}
		u.flush(i, scale)
		w.begun = now
	}
	for _, c := range conns {
		u.glance(c)
	}
}

// count adds to a window what a connection has used since the window began. The caller holds mu.
func (u *usage) count(c *Conn, i int, scale float64) {
	before := c.watch.counted.used[i]
	now := used{c.reading.messages.Load(), c.reading.bytes.Load()}
	if now == before {
		return
	}
	c.watch.counted.used[i] = now
	now.messages -= before.messages
	now.bytes -= before.bytes
	u.gauges[limitMessages].add(i, now.messages, scale)
	u.gauges[limitBytes].add(i, now.bytes, scale)
	w := &u.windows[i]
	sum(w.clients, c.client.key(), now)
	if subject := c.who.principal.Load().Subject; subject != "" {
		sum(w.subjects, subject, now)
	}
}

func sum[K comparable](m map[K]used, k K, more used) {
	if all, known := m[k]; known || len(m) < maxUsers {
		m[k] = used{all.messages + more.messages, all.bytes + more.bytes}
	}
}

// flush notes what clients and subjects have used in a window. The caller holds mu.
func (u *usage) flush(i int, scale float64) {
	w, g := &u.windows[i], u.gauges
	for _, n := range w.clients {
		g[limitClientMessages].add(i, n.messages, scale)
		g[limitClientBytes].add(i, n.bytes, scale)
	}
	for _, n := range w.subjects {
		g[limitSubjectMessages].add(i, n.messages, scale)
		g[limitSubjectBytes].add(i, n.bytes, scale)
	}
	clear(w.clients)
	clear(w.subjects)
}

// glance notes how long a connection was without a message, and how full its queue was. The
// caller holds mu.
func (u *usage) glance(c *Conn) {
	last, before := c.w.LastMessage(), c.watch.counted.last
	if !before.IsZero() {
		u.gap(last.Sub(before))
	}
	c.watch.counted.last = last
	q := &c.queue
	if n := q.peak.Load(); n > 0 {
		u.gauges.note(limitQueue, int(n))
		u.gauges.note(limitQueueBytes, int(q.peakBytes.Load()))
		q.peak.Store(0)
		q.peakBytes.Store(0)
	}
}

// gap notes how long a connection was without a message. Only gaps of at least a second count. The
// caller need not hold mu.
func (u *usage) gap(d time.Duration) {
	if d >= time.Second {
		u.gauges.note(limitIdle, int(d.Milliseconds()))
	}
}

// leave adds what a connection has used that is given back.
func (u *usage) leave(c *Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range u.windows {
		u.count(c, i, 1)
	}
	u.glance(c)
}

// settle ends the windows that nobody else will end, because there are no connections.
func (u *usage) settle(now time.Time) {
	u.paying.Lock()
	u.rollHandshakes(now)
	u.paying.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range u.windows {
		if now.Sub(u.windows[i].begun) >= windowTimes[i] {
			u.flush(i, 1)
		}
	}
}

package wsguard

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// sessions has the connections of a Guard and the state of its drain.
type sessions struct {
	g     *Guard
	usage *usage // has a lock of its own, which may be taken while mu is held

	mu       sync.Mutex    // only the lock of usage is taken while it is held
	conns    []*Conn       // guarded by mu
	sweeper  chan struct{} // guarded by mu: closed to stop the sweeper; nil while there are no connections
	swept    time.Time     // guarded by mu: when the sweeper has looked at the connections last, or was started
	sweepers int           // guarded by mu: the running sweepers; a stopped one counts until it has returned
	draining bool          // guarded by mu
	entering int           // guarded by mu: the handshakes under way
	drained  chan struct{} // closed under mu when draining and no connection is left
	paced    chan struct{} // closed when the goroutine that drains has returned
}

func newSessions(g *Guard) *sessions {
	return &sessions{g: g, usage: newUsage(g.events.meter.gauges), drained: make(chan struct{}), paced: make(chan struct{})}
}

func (s *sessions) find(id string) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if c.id == id {
			return c
		}
	}
	return nil
}

// add lists a connection, and starts the sweeper if none runs. It reports whether a drain has
// begun. The drain may have missed the connection.
func (s *sessions) add(c *Conn) (draining bool) {
	s.mu.Lock()
	c.life.index = len(s.conns)
	s.conns = append(s.conns, c)
	if s.sweeper == nil {
		s.sweeper = make(chan struct{})
		s.sweepers++
		s.swept = time.Now()
		s.usage.begin(s.swept)
		go s.g.sweep(s.sweeper)
	}
	draining = s.draining
	s.mu.Unlock()
	return draining
}

// reconfigured makes the sweeper look at every open connection, because the new Config may
// have more timeouts.
func (s *sessions) reconfigured() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if c.life.begun.Load() {
			c.watch.due.Store(int64(time.Since(s.g.born)))
		}
	}
}

func (s *sessions) remove(c *Conn) {
	s.g.state.registry.unregister(c.who.session)
	s.usage.leave(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.conns) - 1
	s.conns[c.life.index] = s.conns[last]
	s.conns[c.life.index].life.index = c.life.index
	s.conns[last] = nil
	s.conns = s.conns[:last]
	if last == 0 {
		s.conns = nil
		close(s.sweeper)
		s.sweeper = nil
	}
	s.checkDrained()
}

// due appends to due the connections that the sweeper must look at, and to unread those whose
// application has not read for a while.
func (s *sessions) due(due, unread []*Conn) (_, _ []*Conn) {
	now := time.Now()
	born := int64(now.Sub(s.g.born))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept = now
	for _, c := range s.conns {
		if c.watch.due.Load() <= born {
			due = append(due, c)
		}
		if c.w.Absent(now, sweepEvery) {
			unread = append(unread, c)
		}
	}
	return due, unread
}

// look notes what the connections use of their limits. The sweeper calls it once a second. conns is
// memory for look, and look returns it.
func (s *sessions) look(conns []*Conn) []*Conn {
	if n := s.g.queues.total.Load(); n > 0 {
		s.usage.gauges.note(limitQueueTotal, int(n))
	}
	s.mu.Lock()
	conns = append(conns, s.conns...)
	s.mu.Unlock()
	s.usage.look(conns, time.Now())
	clear(conns)
	return conns[:0]
}

// sweeperDone counts a sweeper that has returned.
func (s *sessions) sweeperDone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepers--
	s.checkDrained()
}

func (s *sessions) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// entered counts a handshake, for which a drain waits. left undoes it.
func (s *sessions) entered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entering++
}

func (s *sessions) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entering--
	s.checkDrained()
}

// checkDrained closes drained if the drain is complete. The caller holds mu.
func (s *sessions) checkDrained() {
	if s.draining && len(s.conns) == 0 && s.entering == 0 && s.sweepers == 0 {
		select {
		case <-s.drained:
		default:
			close(s.drained)
		}
	}
}

func (c *Conn) describe() audit.Session {
	p := c.Principal()
	return audit.Session{
		ID: c.id, Subject: p.Subject, SessionID: p.SessionID, Scopes: slices.Clone(p.Scopes), Expires: p.Expires,
		Client: c.client.addr, ClientName: sanitize(c.client.name, maxField), Origin: sanitize(c.origin, maxField), Subprotocol: c.subprotocol,
		Since: c.opened, LastMessage: c.w.LastMessage(), Stats: c.stats(),
	}
}

func (g *Guard) revoke(id identity, operator string) {
	ttl := g.policy.Load().auth.cfg.RevocationTTL
	r, conns, many := g.state.registry.revoke(id, ttl, g.state.accepted.Now, g.shared.issueTime)
	marks := g.shared.revoked(id, operator, r.until)
	g.events.tell(revokedEvent(id, operator, len(conns)), nil)
	for _, c := range conns {
		c.end(because(reason.Revoked, ""))
	}
	if many {
		g.events.emit(audit.Event{Kind: audit.Warning, Reason: "revocations", Detail: "100,000 revocations are remembered until Restore: set Auth.RevocationTTL"})
	}
	g.state.verified.forget(id)
	g.shared.durable(marks...)
}

// revokedEvent is the event of a revocation that ends so many connections.
func revokedEvent(id identity, operator string, conns int) occurrence {
	e := occurrence{
		Event:       audit.Event{Kind: audit.Revoked, Subject: id.id, Operator: operator, Detail: fmt.Sprintf("open connections: %d", conns)},
		connections: conns,
	}
	if id.login {
		e.Kind, e.Subject = audit.SignedOut, ""
	}
	return e
}

// count returns how many connections have not ended.
func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// open returns the connections that have not ended.
func (s *sessions) open() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*Conn, 0, len(s.conns))
	for _, c := range s.conns {
		if c.cause() == nil {
			conns = append(conns, c)
		}
	}
	return conns
}

const (
	drainEvery = 100 * time.Millisecond
	drainPace  = 10 * time.Second
)

// How long Shutdown may take after its ctx has ended: it waits for endWithin until the
// connections that it has cut have ended, and it returns after overWithin in any case.
const (
	endWithin  = 50 * time.Millisecond
	overWithin = 80 * time.Millisecond
)

// Shutdown refuses new handshakes with 503. It closes the connections with 1012 in batches,
// over the first half of the time until the deadline of ctx, or over 10 seconds if there is
// none. It returns nil when the connections have ended and their handlers have returned. For a
// connection of Accept, that is when the context of its request has ended. The Guard then has
// no goroutine left, except that of a Config.Observer which has not got all events within a
// second. Further calls wait for the same drain. The last Guard of a State waits for at most three
// seconds until the stores of Config.Shared have its bans and revocations.
//
// If ctx ends first, Shutdown cuts the remaining connections and returns the error of ctx, at
// most 100 milliseconds after ctx has ended. The following may run on after that:
//   - The handlers and hooks that have not returned, and the handshakes that wait for a hook.
//     They keep their slots.
//   - The ends of connections, which report the close events. They take no longer than
//     CloseGrace and Linger together, unless a handler, a hook or a net.Conn of the application
//     holds them up.
//
// Call Shutdown before that of http.Server, which does not see upgraded connections.
func (g *Guard) Shutdown(ctx context.Context) error {
	s := g.sessions
	s.mu.Lock()
	first := !s.draining
	s.draining = true
	s.checkDrained()
	s.mu.Unlock()
	if first {
		g.events.spikes.stop()
		pace := drainPace
		if by, ok := ctx.Deadline(); ok {
			pace = time.Until(by) / 2
		}
		go func() {
			defer close(s.paced)
			g.drain(ctx, pace)
			if g.shared != nil {
				<-s.drained // connections that are left have slots in the store
				g.state.leave(g)
			}
		}()
	}
	select {
	case <-s.drained:
		select {
		case <-s.paced: // closed at once, unless marks wait for a store
		case <-ctx.Done():
		}
		g.events.flush()
		g.events.observer.flush(ctx)
		return nil
	case <-ctx.Done():
	}
	// The goroutine is for a net.Conn or a Logger of the application that blocks, and for a
	// great many connections.
	end, over := time.NewTimer(endWithin), time.NewTimer(overWithin)
	defer over.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer end.Stop()
		g.cut()
		select { // connections that were cut end at once, but a handler may still run
		case <-s.drained:
		case <-end.C:
		}
		g.events.flush()
	}()
	select {
	case <-done:
	case <-over.C:
	}
	return ctx.Err()
}

// cut ends the connections that are left, and closes their sockets.
func (g *Guard) cut() {
	g.sessions.mu.Lock()
	left := slices.Clone(g.sessions.conns)
	g.sessions.mu.Unlock()
	for _, c := range left {
		c.end(because(reason.Draining, "cut"))
	}
	for _, c := range left { // afterwards, because a net.Conn of the application may block
		c.w.Cut()
	}
}

// drain ends the connections in batches, so that the clients do not all reconnect elsewhere
// at once.
func (g *Guard) drain(ctx context.Context, pace time.Duration) {
	conns := g.sessions.open()
	rand.Shuffle(len(conns), func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })
	n, k := int64(len(conns)), int64(0)
	// The jitter is a tenth of the interval, and a timer may be late.
	ticks := min(n, max(1, int64(pace/(drainEvery+drainEvery/5))))
	for tick := range ticks {
		for ; k < n*(tick+1)/ticks; k++ {
			conns[k].end(because(reason.Draining, ""))
		}
		if k == n {
			return
		}
		select {
		case <-time.After(jitter(drainEvery)):
		case <-g.sessions.drained:
			return
		case <-ctx.Done():
			return
		}
	}
}

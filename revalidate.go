package wsguard

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// maxRevalidating is how many calls of Revalidate may run at the same time.
const maxRevalidating = 64

// revalidations has the connections that are due for a Revalidate and wait for a place. The
// connection that has been due for longest gets the next place. A connection that waits has
// no goroutine. If it has waited for a whole RevalidateEvery, the sweeper ends it.
type revalidations struct {
	mu      sync.Mutex // no other lock is taken while it is held
	running int        // guarded by mu: the places that are taken, each by a call that has not returned
	queue   dueQueue   // guarded by mu: a heap; empty while there is a free place
}

// enter queues a connection that has been due since then.
func (r *revalidations) enter(c *Conn, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	heap.Push(&r.queue, dueConn{since, c})
	r.serve()
}

// leave removes a connection from the queue. It reports false if the connection does not wait.
func (r *revalidations) leave(c *Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.who.turn == 0 {
		return false
	}
	heap.Remove(&r.queue, c.who.turn-1)
	return true
}

// done gives a place back.
func (r *revalidations) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running--
	r.serve()
}

// serve gives the free places to connections that wait. The caller holds mu.
func (r *revalidations) serve() {
	for r.running < maxRevalidating && len(r.queue) > 0 {
		c := heap.Pop(&r.queue).(dueConn).c
		c.who.recheck.Store(0)
		c.who.stage.Store(checkAsks)
		r.running++
		go c.revalidate()
	}
	if len(r.queue) == 0 {
		r.queue = nil // it may have been long
	}
}

// dueConn is a connection that waits for a place.
type dueConn struct {
	since time.Time
	c     *Conn
}

// dueQueue is a heap of connections. The first one has been due for longest.
type dueQueue []dueConn

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].since.Before(q[j].since) }

func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].c.who.turn, q[j].c.who.turn = i+1, j+1
}

// Push implements heap.Interface.
func (q *dueQueue) Push(x any) {
	*q = append(*q, x.(dueConn))
	(*q)[len(*q)-1].c.who.turn = len(*q)
}

// Pop implements heap.Interface.
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	d := (*q)[last]
	(*q)[last] = dueConn{}
	*q = (*q)[:last]
	d.c.who.turn = 0
	return d
}

// The stages of a Revalidate.
const (
	checkIdle  int32 = iota // it is not due
	checkWaits              // the connection waits for a place
	checkAsks               // a goroutine revalidates
)

// checkAgain sets when the connection must be revalidated.
func (c *Conn) checkAgain(p Principal, in time.Duration) {
	if c.e.policy().auth.cfg.Revalidate != nil && !p.anonymous() {
		c.who.recheck.Store(int64(time.Since(c.g.born) + in))
	}
}

// recheck queues the connection if it is due for a Revalidate. It ends the connection if it
// has waited for a place for too long. The sweeper calls it.
func (c *Conn) recheck() {
	cfg, all := &c.e.policy().auth.cfg, &c.g.state.revalidations
	stage := c.who.stage.Load()
	at, now := c.who.recheck.Load(), time.Since(c.g.born)
	switch {
	case stage == checkAsks:
	case stage == checkWaits && (now-time.Duration(at) < cfg.RevalidateEvery || !all.leave(c)):
		// It may wait for longer, or it has its place by now.
	case stage == checkWaits && cfg.Revalidate != nil:
		// A principal that has waited for a whole interval is no longer known to be good.
		c.end(because(reason.Unavailable, "revalidation: too many at once"))
	case stage == checkWaits: // Reconfigure has ended it
		c.who.recheck.Store(0)
		c.who.stage.Store(checkIdle)
	case at == 0:
		if c.life.begun.Load() { // Reconfigure may have begun to ask
			c.checkAgain(c.Principal(), spread(cfg.RevalidateEvery))
		}
	case now >= time.Duration(at):
		// The wait counts from now, because the sweeper itself may be late.
		c.who.recheck.Store(int64(now))
		c.who.stage.Store(checkWaits)
		all.enter(c, c.g.born.Add(time.Duration(at)))
		if c.cause() != nil { // it may have given everything back before it was queued
			all.leave(c)
		}
	}
}

// nextCheck returns when the sweeper must call recheck, as watch.due counts. It is 0 if
// there is no such time.
func (c *Conn) nextCheck() time.Duration {
	waits := c.who.stage.Load() == checkWaits
	at := time.Duration(c.who.recheck.Load())
	if at != 0 && waits {
		at += c.e.policy().auth.cfg.RevalidateEvery
	}
	return at
}

// revalidate calls Revalidate for the principal. It runs on a goroutine of its own, one at a
// time for each connection, and has a place. The goroutine ends with the connection.
func (c *Conn) revalidate() {
	defer c.survive()
	defer c.who.stage.Store(checkIdle)
	cfg, all := &c.e.policy().auth.cfg, &c.g.state.revalidations
	if cfg.Revalidate == nil || c.cause() != nil { // Reconfigure, or the end, has come first
		all.done()
		return
	}
	old := c.who.principal.Load()
	p, err := cfg.revalidated(c.ctx, *old, all.done)
	if err == nil {
		p = old.updated(p)
	}
	if !c.who.refreshMu.lock(c.ctx) {
		return // the connection has ended
	}
	defer c.who.refreshMu.unlock()
	switch {
	case c.cause() != nil:
	case c.who.principal.Load() != old && (err == nil || !refusesSubject(err)):
		// A Refresh has replaced the principal that the answer is about.
		c.checkAgain(*c.who.principal.Load(), 0)
		c.schedule(time.Now())
	case err != nil:
		d := asDenied(err)
		c.end(because(d.Reason, "revalidation: "+d.detail))
	default:
		c.checkAgain(p, jitter(cfg.RevalidateEvery))
		c.adopt(p)
	}
}

// revalidated calls Revalidate for p, in bounded time. It calls done when the hook has
// returned.
func (cfg *AuthConfig) revalidated(ctx context.Context, p Principal, done func()) (Principal, error) {
	p.Scopes = slices.Clone(p.Scopes) // the hook may change its copy
	fresh, err := within(ctx, cfg.VerifyTimeout, done, func(ctx context.Context) (Principal, error) {
		return judged(ctx, func(ctx context.Context) (Principal, error) { return cfg.Revalidate(ctx, p) })
	})
	if err == nil && fresh.Subject != p.Subject {
		return Principal{}, deny(reason.Unauthenticated, "revalidated as another subject")
	}
	return fresh, err
}

// refusesSubject reports whether the error of a Revalidate is about the subject. It counts
// although a Refresh has replaced the credential meanwhile.
func refusesSubject(err error) bool {
	d := asDenied(err)
	return !serversFault(d.Reason) && !d.blameless
}

// updated returns fresh, the answer of a Revalidate, with what it leaves out. It does not add
// scopes, because an answer without scopes takes them away.
func (p Principal) updated(fresh Principal) Principal {
	fresh.seen, fresh.bought, fresh.cookie = p.seen, p.bought, p.cookie
	if fresh.Expires.IsZero() {
		fresh.Expires = p.Expires
	}
	if fresh.SessionID == "" {
		fresh.SessionID = p.SessionID
	}
	if fresh.IssuedAt.IsZero() {
		fresh.IssuedAt = p.IssuedAt
	}
	return fresh
}

package wsguard

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// lifecycle is the part of a connection that knows who still holds it, and what has been
// reported of it. The goroutine that makes the connection owns it until list returns,
// and the last holder when it gives everything back.
type lifecycle struct {
	holders    atomic.Int32  // the socket, the handler's goroutine, the goroutine that authenticates
	leases     []*Lease      // read-only after start; the last holder releases them
	lease      *Lease        // of this Guard's cap; read-only after start
	index      int           // in sessions.conns; guarded by sessions.mu
	listed     atomic.Bool   // sessions.conns has the connection
	begun      atomic.Bool   // it is open to the application
	violations atomic.Uint64 // messages that were refused or reported

	reportMu sync.Mutex // orders the open event before the close event
	reported bool       // guarded by reportMu: the end has been reported
}

// start takes the connection into the Guard.
func (c *Conn) start(await bool, holders int32) {
	if await {
		holders++ // authenticate is one
	}
	c.prepare(holders)
	c.who.awaiting.Store(await)
	if await {
		c.who.authBy = c.opened.Add(c.first.auth.cfg.FirstMessageTimeout)
	}
	c.list(!await)
}

// prepare makes the connection ready for the engine.
func (c *Conn) prepare(holders int32) {
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.opened = time.Now()
	c.life.holders.Store(holders)
	c.reading.rates = c.g.state.rates.conn(c.first.rates, c.client, c.Principal().Subject)
	c.writing.sent.Store(c.reading.rates.sent)
	c.w.Serve(&c.reading)
}

// list makes the connection known to the Guard, and opens it to the application if it is
// authenticated.
func (c *Conn) list(authenticated bool) {
	if c.first.heartbeat.Lifetime > 0 {
		c.watch.lifetime = c.opened.Add(jitter(c.first.heartbeat.Lifetime))
	}
	c.watch.due.Store(int64(never))
	c.schedule(c.opened)
	c.life.listed.Store(true)
	draining := c.g.sessions.add(c)
	if authenticated {
		c.begin()
	}
	if draining {
		c.end(reason.Draining, "")
	}
}

// begin opens the connection to the application.
func (c *Conn) begin() {
	p := c.Principal()
	if !p.Expires.IsZero() {
		c.who.expires.Store(&p.Expires)
	}
	// The first time at any moment of the interval: who comes together is not
	// to be asked about together.
	c.checkAgain(p, rand.N(c.e.policy().auth.cfg.RevalidateEvery))
	c.schedule(time.Now())
	c.life.begun.Store(true)
	c.reportOpen()
	// A revocation since it was registered ends it here.
	c.who.session.attach(c)
}

// reportOpen reports that the connection is open, unless its end has been
// reported already.
func (c *Conn) reportOpen() {
	c.life.reportMu.Lock()
	defer c.life.reportMu.Unlock()
	if !c.life.reported {
		c.g.events.emit(c.event(audit.Open))
	}
}

// run is the goroutine of a connection of Guard.Handler.
func (c *Conn) run(fn func(context.Context, *Conn) error, r *http.Request) {
	returned := false
	var err error
	defer c.done()
	defer func() {
		defer c.fault("what the handler panicked with ended the goroutine") // unless it has ended
		if v := recover(); v != nil {
			c.panicked("handler", v)
		} else if !returned {
			c.end(reason.Internal, "handler ended its goroutine")
		} else {
			c.End(err)
		}
	}()
	if c.who.awaiting.Load() {
		if c.authenticate(c.ctx, r) != nil {
			returned = true
			return
		}
		r = nil
	}
	if c.w.Cause() == nil {
		err = fn(c.ctx, c)
	}
	returned = true
}

// fault ends the connection for a mistake on this side.
func (c *Conn) fault(detail string) { c.end(reason.Internal, detail) }

// punish is accuse for what counts towards a ban.
func (c *Conn) punish(why *reason.Reason, detail string) error {
	c.offended(why)
	return c.accuse(why, detail)
}

// accuse is end for what the peer has done, or was refused for. A violation is
// reported with the end, which is no warning by itself.
func (c *Conn) accuse(why *reason.Reason, detail string) error {
	c.life.violations.Add(1)
	cause := c.causeOf(why)
	cause.accused = why != reason.Internal && why != reason.Unavailable // which are the server's
	return c.endWith(cause, cause.Code, detail)
}

// end ends the connection for a reason of the guard's, and returns the error
// of whatever has ended it.
func (c *Conn) end(why *reason.Reason, detail string) error {
	cause := c.causeOf(why)
	return c.endWith(cause, cause.Code, detail)
}

func (c *Conn) causeOf(why *reason.Reason) *CloseError {
	return &CloseError{Code: c.g.closeCode(why), Reason: why.Token(), err: why}
}

func (c *Conn) endWith(cause *CloseError, code StatusCode, detail string) error {
	if c.wrap != nil {
		// What the handler has said to its peer is how the connection ends.
		if said := c.wrap.said.Load(); said != nil {
			cause, code, detail = said, said.Code, ""
		}
	}
	c.w.End(cause, int(code), cause.Reason, func() { c.cancel(cause) }, func() { c.ended(cause, detail) })
	return c.closed()
}

// failed turns what the wire found into the end that it calls for.
func (c *Conn) failed(e *wire.Error) error {
	switch e.Fault {
	case wire.FaultClosed:
		cause := &CloseError{Code: StatusCode(e.Code), Reason: e.Reason, Remote: true, err: reason.PeerClosed}
		return c.endWith(cause, cause.Code, "")
	case wire.FaultLost:
		return c.lost(e.Err)
	case wire.FaultTooBig:
		return c.punish(reason.MessageTooBig, "")
	case wire.FaultFragments:
		return c.punish(reason.Fragments, "")
	case wire.FaultControl:
		return c.punish(reason.ControlFlood, "")
	case wire.FaultReason:
		return c.punish(reason.InvalidUTF8, e.Detail)
	case wire.FaultUTF8:
		return c.punish(reason.InvalidUTF8, "")
	case wire.FaultMessageTimeout:
		return c.punish(reason.MessageTimeout, "")
	case wire.FaultIdle:
		return c.end(reason.Idle, "")
	case wire.FaultPong:
		return c.end(reason.PongTimeout, "")
	}
	return c.punish(reason.Protocol, e.Detail)
}

// lost ends a connection whose socket is of no use any more.
func (c *Conn) lost(err error) error {
	cause := &CloseError{Code: websocket.StatusAbnormalClosure, Remote: true, err: reason.ConnectionLost}
	return c.endWith(cause, 0, errorText(err))
}

// stopped returns why a ctx that has ended stopped a call: the cause, if it ended
// with the connection, for it may be made of the connection's own.
func (c *Conn) stopped(ctx context.Context) error {
	if c.ctx.Err() != nil {
		<-c.w.Closing()
		return c.closed()
	}
	return ctx.Err()
}

// over reports whether the connection has ended: then there is a cause. The
// context ends a moment before that can be seen.
func (c *Conn) over() bool {
	if c.ctx.Err() == nil {
		return false
	}
	<-c.w.Closing()
	return true
}

// closed returns the cause. It is only called when there is one.
func (c *Conn) closed() error { return c.w.Cause() }

// ended runs once, on a goroutine of its own, when the socket is closed.
func (c *Conn) ended(cause *CloseError, detail string) {
	defer c.done() // whatever a hook does
	if c.wrap != nil {
		defer c.wrap.ended(cause)
		if !c.life.listed.Load() {
			return // it was never open
		}
	}
	c.dropQueue()
	c.life.reportMu.Lock()
	c.life.reported = true
	c.life.reportMu.Unlock()
	if cause.accused {
		c.tell(cause.err, detail, false)
	}
	e := c.event(audit.Close)
	e.Err, e.Reason, e.Detail = cause, cause.err.Token(), detail
	e.Code, e.Remote = cause.Code, cause.Remote
	if cause.err == reason.PeerClosed {
		e.PeerCode = cause.Code
	}
	if detail == "" && cause.Reason != e.Reason {
		e.Detail = cause.Reason // chosen by the application, or by the peer
	}
	e.Duration = time.Since(c.opened)
	e.Stats = c.stats()
	c.g.events.emit(e)
}

// violation counts and reports a message that was, or would be, refused.
func (c *Conn) violation(why *reason.Reason, detail string, report bool) {
	c.life.violations.Add(1)
	c.tell(why, detail, report)
}

// tell reports a message that is, or would be, refused.
func (c *Conn) tell(why *reason.Reason, detail string, report bool) {
	e := c.event(audit.Violation)
	e.Err, e.Reason, e.Detail, e.Report = why, why.Token(), detail, report
	c.g.events.emit(e)
}

func (c *Conn) event(kind audit.Kind) audit.Event {
	return audit.Event{Kind: kind, ConnID: c.id, Subject: c.Principal().Subject, Client: c.client.String(), Origin: c.origin, Host: c.host}
}

func (c *Conn) stats() audit.Stats {
	return audit.Stats{
		MessagesIn: c.reading.messages.Load(), MessagesOut: c.writing.messages.Load(), BytesIn: c.reading.bytes.Load(), BytesOut: c.writing.bytes.Load(),
		Violations: c.life.violations.Load(), ViolationsWithoutNotice: c.reading.unnoticed.Load(), Dropped: c.queue.dropped.Load(),
	}
}

// done is called by each holder when it is done with the connection. The last
// one gives the slot back: a handler that goes on after the end still counts.
func (c *Conn) done() {
	if c.life.holders.Add(-1) > 0 {
		return
	}
	if c.life.listed.Load() { // whatever Close does
		defer c.g.sessions.remove(c)
	} else {
		defer c.g.state.registry.unregister(c.who.session)
	}
	for _, l := range c.life.leases {
		l.Release()
	}
	closeValue(c.who.value)
}

// panicText describes what was recovered. It may be an error whose text panics.
func panicText(who string, v any) (s string) {
	defer func() {
		if recover() != nil {
			s = who + " panicked"
		}
	}()
	return fmt.Sprintf("%s panicked: %v", who, v)
}

func closeValue(v any) {
	if cl, ok := v.(io.Closer); ok {
		defer func() { _ = recover() }()
		cl.Close()
	}
}

// survive is deferred by the goroutines that the library starts. A hook or a
// net.Conn of the application's that panics there ends the connection, and not the
// process.
func (c *Conn) survive() {
	if recover() != nil {
		c.fault("a goroutine of the library panicked")
	}
}

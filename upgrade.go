package wsguard

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// guarded runs the steps of a handshake, and then done. A refusal is answered and
// reported, and what was taken is given back, also when a hook or a wrapper panics. The
// caller must call sessions.left.
func (a *admission) guarded(w http.ResponseWriter, done func() error) error {
	admitted, refused := false, false
	defer func() {
		if !admitted && !refused {
			a.cutOff()
		}
	}()
	defer func() {
		if !admitted {
			a.unwind()
		}
	}()
	a.w = w
	a.g.sessions.entered()
	err := a.run(handshakeSteps)
	if err == nil {
		err = done()
	}
	if err != nil {
		if d := asDenied(err); d.Reason == reason.Unavailable && a.r.Context().Err() == context.Canceled {
			// A hook has given up because the client has gone.
			lost := denyCause(reason.ConnectionLost, err)
			lost.status = d.statusCode()
			a.gone, err = true, lost
		}
		ev := a.event()
		if a.answered || a.explain(w, err, &ev.Event) {
			w = discardResponse{}
		}
		refused = true
		a.refuse(w, err, ev)
		a.offended(asDenied(err))
		return err
	}
	admitted = true
	return nil
}

// prepare returns the connection that the handshake becomes. It has no socket yet.
func (a *admission) prepare() *Conn {
	c := &Conn{
		g: a.g, e: a.e, first: a.endpointPolicy, known: a.known, id: newID(), client: a.client, origin: retained(a.from), host: retained(a.r.Host),
		subprotocol: a.subprotocol,
	}
	c.tally = a.g.events.meter.shard()
	c.queue.tally = c.tally
	c.who.value, c.who.session = a.value, a.session
	c.life.leases, c.life.lease = a.leases, a.lease
	c.reading.c, c.reading.rule = c, anyKind
	c.reading.fit(a.endpointPolicy)
	p := a.principal // a pointer into a would keep the request
	c.who.principal.Store(&p)
	a.land() // no step waits any more
	return c
}

// hand leaves what the steps have taken to the connection.
func (a *admission) hand(c *Conn) {
	for _, l := range a.leases {
		l.move()
	}
	a.conn, a.undo = c, nil
}

// upgrade answers 101 and opens the connection to the application.
func (a *admission) upgrade(w http.ResponseWriter, holders int32) (err error) {
	c := a.prepare()
	c.w, err = wire.Upgrade(w, a.stripped, a.subprotocol, a.wire)
	if err != nil {
		// Once the connection is taken nothing more can be answered.
		if a.answered = !wire.Is(err, wire.ErrNotHijackable); a.answered {
			return denyCause(notSent(err), err)
		}
		d := denyCause(notTaken(a.r, err), err)
		if a.gone = d.Reason == reason.ConnectionLost; a.gone {
			d.status = reason.NotHijackable.Status()
		}
		return d
	}
	a.hand(c)
	started := false
	defer func() {
		if !started { // a hook has panicked; the connection owns what the steps have taken
			c.end(fault("the handshake was cut off"))
			for range holders - 1 {
				c.done()
			}
		}
	}()
	a.accepted(c)
	c.start(a.await, holders)
	started = true
	return nil
}

// accepted reports that the handshake has led to c.
func (a *admission) accepted(c *Conn) {
	e := a.event()
	e.Kind, e.ConnID, e.subprotocol, e.Duration = audit.Accepted, c.id, a.subprotocol, time.Since(a.begun)
	a.g.events.tell(e, nil)
}

// notSent returns why the 101 could not be sent.
func notSent(err error) *reason.Reason {
	if wire.Is(err, os.ErrDeadlineExceeded) {
		return reason.WriteTimeout
	}
	return reason.ConnectionLost
}

// notTaken returns why the connection of r could not be taken over. A client that has gone is
// no fault of the ResponseWriter. net/http cancels the context of its request.
func notTaken(r *http.Request, err error) *reason.Reason {
	if r.Context().Err() == context.Canceled || broken(err) {
		return reason.ConnectionLost
	}
	return reason.NotHijackable
}

// broken reports whether err is the error of a connection that no longer works. The error may
// be that of an application's ResponseWriter, so its methods may panic.
func broken(err error) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	var failed net.Error
	return errors.As(err, &failed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe)
}

// explain answers a refusal with an upgrade and a close code. A script can read the close
// code, but not the status of a handshake. MaxExplained bounds how many refusals are
// explained at the same time. explain returns false for the others, which get their status.
func (a *admission) explain(w http.ResponseWriter, err error, ev *audit.Event) bool {
	d, g := asDenied(err), a.g
	var why *reason.Reason
	switch status := d.statusCode(); {
	case !a.known || d.Reason == reason.HandshakeRate:
		return false // the flood itself must stay cheap
	case a.subprotocol == "" && ofPage(a.r.Header) && len(wire.HeaderTokens(a.r.Header, "Sec-Websocket-Protocol")) > 0:
		return false // the browser would fail a 101 that names no subprotocol
	case status == http.StatusUnauthorized:
		why = reason.Unauthenticated // the client must not learn more
	case status == http.StatusTooManyRequests:
		why = d.Reason
	default:
		return false
	}
	code := g.closeCode(why, 0)
	if code == 0 {
		code = websocket.StatusTryAgainLater
	}
	told := &g.state.explained
	if told.Add(1) > int64(a.auth.cfg.MaxExplained) {
		told.Add(-1)
		return false
	}
	begun := false
	defer func() {
		if !begun { // a wrapper may panic, too
			told.Add(-1)
		}
	}()
	c, err := wire.Upgrade(w, a.auth.strip(a.r), a.subprotocol, a.wire)
	if err != nil {
		taken := !wire.Is(err, wire.ErrNotHijackable)
		a.gone = taken || notTaken(a.r, err) == reason.ConnectionLost
		return taken
	}
	begun = true
	token := why.Token()
	ev.Code = code
	g.sessions.entered() // a drain waits for it
	c.End(wire.Ending{Cause: &CloseError{Code: code, Reason: token, err: why}, Code: int(code), Reason: token, First: func() {}, Done: func() {
		told.Add(-1)
		g.sessions.left()
	}})
	return true
}

// cutOff reports a handshake that was neither admitted nor refused.
func (a *admission) cutOff() {
	e := a.event()
	e.Kind, e.Err, e.Reason, e.Detail = audit.Warning, reason.Internal, "panic", "a hook or a ResponseWriter ended a handshake"
	a.g.events.tell(e, nil)
}

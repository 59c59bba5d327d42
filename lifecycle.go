package wsguard

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// lifecycle is the part of a connection that counts its holders and the events about it. The
// goroutine that makes the connection owns it until list returns. The last holder owns it
// when it gives everything back.
type lifecycle struct {
	holders    atomic.Int32  // the socket, the handler's goroutine or the request of Accept, the goroutine that authenticates
	leases     []*Lease      // read-only after start; the last holder releases them
	lease      *Lease        // the one of leases that this Guard's cap counts; read-only after start
	index      int           // in sessions.conns; guarded by sessions.mu
	listed     atomic.Bool   // sessions.conns has the connection
	begun      atomic.Bool   // it is open to the application
	violations atomic.Uint64 // refused and reported messages

	reportMu sync.Mutex // orders the open event before the close event
	reported bool       // guarded by reportMu: the end has been reported
}

// # How a connection ends
//
// The method end ends a connection, and nothing else does. The first call wins. Its argument
// is an ending, which one of the functions of this table makes. There is one function for
// each party that can cause an end. It decides what the end does besides the close event.
// TestEndings compares this table with what happens.
//
//	function       the end is due to             code and text       remote  violation  counts towards a ban
//	because        the guard or the operator     of the reason       no      no         no
//	fault          this side: a panic, a bug     of Internal         no      no         no
//	violation      what the peer has sent        of the reason       no      yes        messageOffences
//	badCredential  the first-message credential  of the reason       no      yes        handshakeOffences
//	chosen         the application, the handler  chosen              no      no         no
//	byPeer         the peer's close frame        the peer's          yes     no         no
//	lost           the network                   1006, not sent      yes     no         no
//
// What Send has queued is written first, within the grace, if the application or the server
// ends well. That is an ending by chosen, by a handler's return, by a drain and by the
// lifetime. All other endings drop it, because it may be private, or because the peer does not
// take it. The close event counts what was dropped.
//
// The code of a reason is that of Config.CloseCodes, or the reason's own. A violation is
// counted in Stats.Violations and reported by an event of its own, before the close
// event. A violation or a credential that is refused with Internal or Unavailable is the
// server's fault, so it is because instead.
//
// A message that is refused while the connection stays open (ActionReply, ReportOnly) is
// no ending. The method inbound.refuse counts and reports it in the same way.
//
// # Whether a connection has ended
//
// The method cause answers that, and nothing else does.

// endKind is the row of the table that an ending belongs to.
type endKind uint8

const (
	endBecause endKind = iota
	endViolation
	endCredential
	endChosen
	endByPeer
	endLost
)

// endEffects has the columns of the table.
var endEffects = [...]struct {
	ownCode   bool                       // the code and the text are the ending's, and not the reason's
	remote    bool                       // CloseError.Remote
	violation bool                       // the end is counted and reported as a violation
	offences  map[*reason.Reason]float64 // the weights that count towards a ban
}{
	endBecause:    {},
	endViolation:  {violation: true, offences: messageOffences},
	endCredential: {violation: true, offences: handshakeOffences},
	endChosen:     {ownCode: true},
	endByPeer:     {ownCode: true, remote: true},
	endLost:       {ownCode: true, remote: true},
}

// ending says why a connection ends and which party has caused that. Only the functions of
// the table make one.
type ending struct {
	kind    endKind
	why     *reason.Reason
	offence *reason.Reason // the key of offences under which the end counts towards a ban; nil: it does not count
	code    StatusCode     // of an endChosen, an endByPeer and an endLost; for other ends, a code for a reason that Config.CloseCodes does not have, or 0
	text    string         // set for an endChosen or an endByPeer
	detail  string         // for the event only
	flush   bool           // what is queued is written first
	by      string         // the operator who has caused it, as Admin.By was told; empty: none is known
	cut     bool           // the client gets neither a close frame nor the time to read one
}

// because is an ending that the guard or its operator has caused.
func because(why *reason.Reason, detail string) ending {
	well := why == reason.HandlerDone || why == reason.Draining || why == reason.Lifetime || why == reason.RequestDone
	return ending{kind: endBecause, why: why, detail: detail, flush: well}
}

// fault is an ending because of a mistake on this side.
func fault(detail string) ending { return because(reason.Internal, detail) }

// violation is an ending because of what the peer has sent.
func violation(why *reason.Reason, detail string) ending {
	if serversFault(why) {
		return because(why, detail)
	}
	return ending{kind: endViolation, why: why, offence: why, detail: detail}
}

// badCredential is an ending because the credential in the first message is refused or
// missing.
func badCredential(d *denied) ending {
	if d.Code() == 0 {
		d = denyCause(reason.Unavailable, d)
	}
	if serversFault(d.Reason) {
		return because(d.Reason, d.detail)
	}
	e := ending{kind: endCredential, why: d.Reason, offence: d.Reason, detail: d.detail}
	if d.blameless {
		e.offence = nil
	}
	return e
}

// chosen is an ending whose code and text the application or its handler has chosen.
func chosen(code StatusCode, text string, by *reason.Reason) ending {
	return ending{kind: endChosen, why: by, code: code, text: wire.TrimReason(text), flush: true}
}

// byPeer is an ending because of the peer's close frame, which the guard answers with the
// same code.
func byPeer(code StatusCode, text string) ending {
	return ending{kind: endByPeer, why: reason.PeerClosed, code: code, text: text}
}

// lost is an ending because the socket no longer works.
func lost(err error) ending {
	return ending{kind: endLost, why: reason.ConnectionLost, code: websocket.StatusAbnormalClosure, detail: errorText(err)}
}

// serversFault reports whether why is a fault of the server, which no peer can cause.
func serversFault(why *reason.Reason) bool {
	return why == reason.Internal || why == reason.Unavailable
}

// end ends the connection, unless something has ended it before. It returns the cause, which
// is not e if another ending came first.
func (c *Conn) end(e ending) error {
	do := &endEffects[e.kind]
	cause := &CloseError{Code: e.code, Reason: e.text, Remote: do.remote, err: e.why}
	if !do.ownCode {
		cause.Code, cause.Reason = c.g.closeCode(e.why, e.code), e.why.Token()
	}
	detail := e.detail
	if c.wrap != nil {
		// The handler has sent a close frame, so the connection ends with its code.
		if said := c.wrap.said.Load(); said != nil {
			cause, detail = said, ""
		}
	}
	frame := int(cause.Code)
	if cause.Code == websocket.StatusAbnormalClosure {
		frame = 0 // the engine then sends no close frame
	}
	first := func() {
		if do.violation {
			c.life.violations.Add(1)
		}
		c.cancel(cause)
	}
	func() {
		// Ban the client before it learns of the end, so that it cannot return in between. A
		// ban calls OnEvent. The defer ends the connection even if OnEvent panics or ends
		// the goroutine.
		end := wire.Ending{Cause: cause, Code: frame, Reason: cause.Reason, Cut: e.cut, First: first, Done: func() { c.ended(e, cause, detail) }}
		if e.flush {
			end.Queue = (*outbox)(c)
		}
		defer c.w.End(end)
		c.offended(e.why, do.offences[e.offence])
	}()
	return c.cause()
}

// cause returns the cause of the connection's end, or nil while it is open. It never returns
// nil once the connection's context has ended.
func (c *Conn) cause() error {
	if c.ctx.Err() == nil {
		return nil
	}
	<-c.w.Closing() // the context ends a moment before the engine has the cause
	return c.w.Cause()
}

// stopped returns the error of a call whose ctx has ended. That is the cause if the
// connection has ended, because ctx may be derived from the connection's context.
func (c *Conn) stopped(ctx context.Context) error {
	if err := c.cause(); err != nil {
		return err
	}
	return ctx.Err()
}

// engineFault returns the ending for a fault that the engine has found. late says that the
// deadline of the first message has passed. That takes precedence over MessageTimeout, which
// may pass at the same moment.
func engineFault(e *wire.Error, late bool) ending {
	switch e.Fault {
	case wire.FaultClosed:
		return byPeer(StatusCode(e.Code), e.Reason)
	case wire.FaultLost:
		return lost(e.Err)
	case wire.FaultTooBig:
		return violation(reason.MessageTooBig, "")
	case wire.FaultFragments:
		return violation(reason.Fragments, "")
	case wire.FaultControl:
		return violation(reason.ControlFlood, "")
	case wire.FaultReason:
		return violation(reason.InvalidUTF8, e.Detail)
	case wire.FaultUTF8:
		return violation(reason.InvalidUTF8, "")
	case wire.FaultMessageTimeout:
		if late {
			return badCredential(deny(reason.AuthTimeout, ""))
		}
		return violation(reason.MessageTimeout, "")
	case wire.FaultIdle:
		return because(reason.Idle, "")
	case wire.FaultPong:
		return because(reason.PongTimeout, "")
	}
	return violation(reason.Protocol, e.Detail)
}

// unwritten returns the ending for a failed write that ctx bounded.
func unwritten(ctx context.Context, err error) ending {
	failed, ok := err.(*wire.WriteError)
	switch {
	case ok && ctx.Err() != nil:
		return because(reason.WriteTimeout, "the context ended in the middle of a message")
	case ok && failed.Timeout:
		return because(reason.WriteTimeout, "")
	}
	return lost(err)
}

// panicked ends the connection because the application has panicked with v, and reports it
// with the stack.
func (c *Conn) panicked(v any) {
	detail := panicText("handler", v)
	c.end(fault(detail))
	e := c.event(audit.Warning)
	e.Err, e.Reason, e.Detail, e.Stack = reason.Internal, "panic", detail, debug.Stack()
	c.g.events.emit(e)
}

// start takes the connection into the Guard.
func (c *Conn) start(await bool, holders int32) {
	if await {
		holders++ // authenticate is a holder
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
	c.reading.lease(c.first.rates)
	c.writing.sent.Store(c.reading.rates.sent)
	c.w.Serve(&c.reading)
}

// list makes the connection known to the Guard, and opens it to the application if it is
// authenticated.
func (c *Conn) list(authenticated bool) {
	if c.first.timeouts.Lifetime > 0 {
		if at := c.opened.Sub(c.g.born) + jitter(c.first.timeouts.Lifetime); at > 0 { // centuries overflow
			c.watch.lifetime = int64(at)
		}
	}
	c.watch.due.Store(int64(never))
	c.schedule(c.opened)
	c.life.listed.Store(true)
	draining := c.g.sessions.add(c)
	if c.life.lease != nil {
		c.life.lease.opened(c)
	}
	if authenticated {
		c.begin()
	}
	if draining {
		c.end(because(reason.Draining, ""))
	}
}

// begin opens the connection to the application.
func (c *Conn) begin() {
	c.checkAgain(c.Principal(), spread(c.e.policy().auth.cfg.RevalidateEvery))
	c.schedule(time.Now())
	c.life.begun.Store(true)
	c.reportOpen()
	// This ends the connection if it was revoked after its session was registered.
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

// run is the body of the goroutine of a connection of Guard.Handler.
func (c *Conn) run(fn func(context.Context, *Conn) error, r *http.Request) {
	returned := false
	var err error
	defer c.done()
	defer func() {
		defer c.end(fault("what the handler panicked with ended the goroutine")) // unless it has ended
		if v := recover(); v != nil {
			c.panicked(v)
		} else if !returned {
			c.end(fault("handler ended its goroutine"))
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
	if c.cause() == nil {
		err = fn(c.ctx, c)
	}
	returned = true
}

// requestDone ends the connection of Accept, because the context of its request has ended, and
// releases it for the request.
func (c *Conn) requestDone() {
	defer c.done()
	if c.g.Draining() {
		c.end(because(reason.Draining, "still open when its request ended"))
		return
	}
	c.end(because(reason.RequestDone, ""))
}

// ended runs once, on a goroutine of its own, when the socket is closed.
func (c *Conn) ended(by ending, cause *CloseError, detail string) {
	defer c.done() // even if a hook panics
	if c.wrap != nil {
		defer c.wrap.ended(cause)
		if !c.life.listed.Load() {
			c.wrap.neverOpen(cause.err, detail)
			return
		}
	}
	c.dropQueue(true)
	c.g.sessions.usage.gap(time.Since(c.w.LastMessage()))
	c.life.reportMu.Lock()
	c.life.reported = true
	c.life.reportMu.Unlock()
	if endEffects[by.kind].violation {
		c.report(by.why, by.detail, audit.ActionClose)
	}
	e := c.event(audit.Close)
	e.Err, e.Reason, e.Detail = cause, cause.err.Token(), detail
	e.Code, e.Remote = cause.Code, cause.Remote
	if cause.err == reason.PeerClosed {
		e.PeerCode = cause.Code
	}
	if detail == "" && cause.Reason != e.Reason {
		e.Detail = cause.Reason // the application or the peer has chosen it
	}
	e.By, e.Operator = partyOf(by), by.by
	if c.wrap != nil && cause == c.wrap.said.Load() {
		e.By = audit.ByApplication
	}
	e.Duration = time.Since(c.opened)
	e.Stats = c.stats()
	c.g.events.emit(e)
}

// refused counts and reports a message that was refused while the connection stays open.
func (c *Conn) refused(why *reason.Reason, detail string, action audit.Action) {
	c.life.violations.Add(1)
	c.report(why, detail, action)
}

// report reports what has become of a message, or of a credential of Refresh.
func (c *Conn) report(why *reason.Reason, detail string, action audit.Action) {
	c.tell(c.violation(why, detail, action))
}

// reportOwn reports a message of the application that was refused. The client is no offender.
func (c *Conn) reportOwn(why *reason.Reason, detail string) {
	c.g.events.emit(c.violation(why, detail, audit.ActionRefuse))
}

// violation returns the event of a message that was refused, or only reported.
func (c *Conn) violation(why *reason.Reason, detail string, action audit.Action) audit.Event {
	e := c.event(audit.Violation)
	e.Err, e.Reason, e.Detail, e.Action = why, why.Token(), detail, action
	e.Report = action == audit.ActionReport || action == audit.ActionWarn
	return e
}

// tell reports an event that is about the connection.
func (c *Conn) tell(e audit.Event) { c.g.events.tell(occurrence{Event: e, who: c.client.key()}, nil) }

func (c *Conn) event(kind audit.Kind) audit.Event {
	return audit.Event{Kind: kind, ConnID: c.id, Endpoint: c.first.name, Subject: c.Principal().Subject, Client: c.client.String(), Origin: c.origin, Host: c.host}
}

func (c *Conn) stats() audit.Stats {
	return audit.Stats{
		MessagesIn: c.reading.messages.Load(), MessagesOut: c.writing.messages.Load(), BytesIn: c.reading.bytes.Load(), BytesOut: c.writing.bytes.Load(),
		Violations: c.life.violations.Load(), ViolationsWithoutNotice: c.reading.unnoticed.Load(), Dropped: c.queue.dropped.Load(),
	}
}

// done releases the connection for one holder. The last holder gives the slot back. So a
// handler that runs on after the end still counts.
func (c *Conn) done() {
	if c.life.holders.Add(-1) > 0 {
		return
	}
	if c.life.listed.Load() { // deferred, because the Close of the value may panic
		defer c.g.sessions.remove(c)
	} else {
		if c.wrap != nil { // a drain waits for a handshake that led to no connection
			defer c.wrap.left(c.g)
		}
		defer c.g.state.registry.unregister(c.who.session)
	}
	if c.who.stage.Load() == checkWaits {
		c.g.state.revalidations.leave(c)
	}
	c.reading.leases.end(c.g.shared)
	for _, l := range c.life.leases {
		l.Release()
	}
	if !c.who.newer.CompareAndSwap(nil, gone) {
		defer closeValue(c.who.newer.Load().value)
	}
	closeValue(c.who.value)
}

// panicText describes a recovered value. The value may be an error whose method Error panics.
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

// survive recovers a panic on a goroutine that the library has started, which must defer it.
// A hook or an application's net.Conn that panics there ends the connection, and not the
// process.
func (c *Conn) survive() {
	if recover() != nil {
		c.end(fault("a goroutine of the library panicked"))
	}
}

package wsguard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// MessageType is MessageText or MessageBinary, as in coder/websocket.
type MessageType = websocket.MessageType

const (
	MessageText   = websocket.MessageText
	MessageBinary = websocket.MessageBinary
)

// Conn is a guarded connection. Read is for one goroutine at a time, the other
// methods for any number. It ends when its handler returns, or when the peer or
// a guard ends it; nothing need be closed.
type Conn struct {
	g       *Guard
	e       *Endpoint
	st      *endpointState // of the handshake
	auth    *Authenticator // of the handshake
	w       *wire.Conn
	ctx     context.Context // ends when the cause of the end is fixed
	cancel  context.CancelCauseFunc
	holders atomic.Int32 // the socket, the handler's goroutine, who authenticates

	id, origin, host string
	client           client
	subprotocol      string
	opened, lifetime time.Time
	authBy           time.Time
	leases           []*Lease
	lease            *Lease                       // of this Guard's cap
	sent             atomic.Pointer[rate.Limiter] // nil: no limit

	// Of who authenticates, then of nobody; read again by the last holder.
	value   any
	session *session

	principal  atomic.Pointer[Principal]
	expires    atomic.Pointer[time.Time]
	awaiting   atomic.Bool  // the credential is to be the first message
	begun      atomic.Bool  // it is open to the application
	recheck    atomic.Int64 // when to revalidate, as due counts; 0: never, or under way
	rechecking atomic.Bool  // a goroutine revalidates
	overdue    time.Time    // of who revalidates
	due        atomic.Int64 // when the sweeper is to look
	pinged     time.Time    // the sweeper's
	index      int          // sessions.mu
	listed     bool         // sessions has it; fixed before the last holder is done
	wrap       *wrapping    // the second door; nil behind the first
	closeRead  atomic.Bool

	reading inbound

	in, out, bytesIn, bytesOut, violations, unnoticed, dropped atomic.Uint64

	queue queue

	refreshMu sync.Mutex    // one Refresh at a time
	refreshes *rate.Limiter // refreshMu

	reportMu sync.Mutex
	reported bool // reportMu: the end is
}

// Kind is the type that a Table has found in the message that Read last returned.
// It belongs to the reader, as the message does.
func (c *Conn) Kind() string { return c.reading.kind }

// ID identifies the connection in events.
func (c *Conn) ID() string { return c.id }

// Principal is who the connection was authenticated for.
func (c *Conn) Principal() Principal { return *c.principal.Load() }

// Value is what Config.Attach returned.
func (c *Conn) Value() any { return c.value }

// Subprotocol is the one that was negotiated; empty for none.
func (c *Conn) Subprotocol() string { return c.subprotocol }

// Client is the client's address, past the trusted proxies.
func (c *Conn) Client() netip.Addr { return c.client.addr }

// Context ends when the cause of the end is fixed; context.Cause tells it.
func (c *Conn) Context() context.Context { return c.ctx }

// Read returns the next message that passes the guards. The message is valid
// until the next Read: then its bytes are used again, for messages of other
// connections too. Whoever keeps it must copy it; Send and SendLatest do.
//
// When ctx ends first, Read returns its error and the connection stays usable:
// what has come of a message is kept for the next Read. A context that is used
// again costs nothing; nor does the Conn's own. After the end Read returns a
// *[CloseError]. Somebody has to read, or pongs and the peer's close frame are
// not seen: see [Conn.CloseRead].
func (c *Conn) Read(ctx context.Context) (MessageType, []byte, error) {
	if c.closeRead.Load() {
		return 0, nil, errors.New("wsguard: Read after CloseRead")
	}
	return c.read(ctx)
}

// plain returns a context that need not be watched in place of the Conn's own.
func (c *Conn) plain(ctx context.Context) context.Context {
	if ctx.Done() == c.ctx.Done() {
		return context.Background()
	}
	return ctx
}

func (c *Conn) read(ctx context.Context) (MessageType, []byte, error) {
	ctx = c.plain(ctx)
	returned := false
	defer func() {
		if !returned {
			// Nobody might read again, so nobody would notice the peer's end.
			c.fault("the reading goroutine panicked, or a hook ended it")
		}
	}()
	for {
		m, err := c.w.Receive(ctx)
		returned = true
		switch {
		case err == wire.ErrClosing:
			return 0, nil, c.closed()
		case err == wire.ErrInterrupted && ctx.Err() == nil:
			continue
		case err == wire.ErrInterrupted:
			return 0, nil, c.stopped(ctx)
		case err != nil:
			return 0, nil, err
		case m.Binary:
			return MessageBinary, m.Data, nil
		}
		return MessageText, m.Data, nil
	}
}

// outbound judges what is to be sent.
func (c *Conn) outbound(msg []byte) error {
	v := c.e.now.Load().messages.Outbound
	if v == nil {
		return nil
	}
	err := validate(v, msg)
	if err == nil {
		return nil
	}
	if t, ok := v.(*table); ok {
		v = t.rule(msg).Validator
	}
	o := object(explain(v, msg, err), verdict)
	c.tell(o.why, "outbound: "+o.detail, false)
	return fmt.Errorf("wsguard: outbound message refused: %w", o.err)
}

// violation counts and reports a message that was, or would be, refused.
func (c *Conn) violation(why *reason.Reason, detail string, report bool) {
	c.violations.Add(1)
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

// Write sends a message and returns when the kernel has all of it, ctx ends,
// or the write timeout passes. It never queues. A Write whose ctx ends before
// a byte has left returns ctx's error and the connection stays usable (not over
// TLS); any other failure to write ends it, and Write returns a *[CloseError].
//
// A MessageText that is not UTF-8 is a mistake of the caller's, since every browser
// would close the connection. Write, Send and SendLatest then send nothing and
// return an error that is no *CloseError, and the connection stays usable.
func (c *Conn) Write(ctx context.Context, typ MessageType, msg []byte) error {
	if err := wellFormed(typ, msg); err != nil {
		return err
	}
	if err := c.outbound(msg); err != nil {
		return err
	}
	return c.writeMessage(ctx, typ, msg)
}

// wellFormed returns an error if no connection can be sent such a message.
func wellFormed(typ MessageType, msg []byte) error {
	switch {
	case typ != MessageText && typ != MessageBinary:
		return errMessageType(typ)
	case typ == MessageText && !utf8.Valid(msg):
		return errNotUTF8
	}
	return nil
}

var errNotUTF8 = fmt.Errorf("wsguard: outbound message refused: %w", reason.InvalidUTF8)

func (c *Conn) writeMessage(ctx context.Context, typ MessageType, msg []byte) error {
	if err := c.write(c.plain(ctx), typ, msg); err != nil {
		return err
	}
	c.wrote(msg)
	return nil
}

// notify sends a notice of the guard's to the peer.
func (c *Conn) notify(msg []byte) error {
	if c.wrap != nil {
		if !c.w.Notice(msg) {
			c.unnoticed.Add(1)
		}
		return nil
	}
	return c.write(context.Background(), MessageText, msg)
}

// wrote counts a message of the application's.
func (c *Conn) wrote(msg []byte) {
	c.out.Add(1)
	c.bytesOut.Add(uint64(len(msg)))
	charge(c.sent.Load(), len(msg))
}

// write sends a message of one of the two types.
func (c *Conn) write(ctx context.Context, typ MessageType, msg []byte) error {
	op := byte(wire.Text)
	if typ == MessageBinary {
		op = wire.Binary
	}
	err := c.w.Write(ctx, op, msg)
	switch {
	case err == nil:
		return nil
	case err == wire.ErrInterrupted && ctx.Err() != nil:
		return c.stopped(ctx)
	case err == wire.ErrClosing:
		return c.closed()
	}
	return c.writeFailed(ctx, err)
}

// writeFailed ends a connection that cannot be written to.
func (c *Conn) writeFailed(ctx context.Context, err error) error {
	failed, ok := err.(*wire.WriteError)
	switch {
	case ok && ctx.Err() != nil:
		return c.end(reason.WriteTimeout, "the context ended in the middle of a message")
	case ok && failed.Timeout:
		return c.end(reason.WriteTimeout, "")
	}
	return c.lost(err)
}

func errMessageType(typ MessageType) error {
	return fmt.Errorf("wsguard: message type %d: must be MessageText or MessageBinary", int(typ))
}

// CloseRead reads in the background, for applications that only send. A message
// that comes closes the connection with 1008.
func (c *Conn) CloseRead() {
	if c.closeRead.Swap(true) {
		return
	}
	c.w.KeepMessage() // the application may hold on to it
	go func() {
		defer c.survive()
		if _, _, err := c.read(context.Background()); err == nil {
			c.accuse(reason.Unexpected, "")
		}
	}()
}

// survive is deferred by the goroutines that the library starts. A hook or a
// net.Conn of the application's that panics there ends the connection, and not the
// process.
func (c *Conn) survive() {
	if recover() != nil {
		c.fault("a goroutine of the library panicked")
	}
}

// Close ends the connection, if nothing has before, and returns at once; the
// ending runs behind it. The reason is cut to 123 bytes of valid UTF-8. A code
// that must not be sent (RFC 6455 §7.4) is an error, and closes with 1011.
func (c *Conn) Close(code StatusCode, reason string) error {
	if !sendable(code) {
		c.fault(fmt.Sprintf("Close with code %d", int(code)))
		return fmt.Errorf("wsguard: close code %d cannot be sent", int(code))
	}
	c.byApplication(code, reason)
	return nil
}

// End ends an accepted connection as Guard.Handler does when its function has
// returned err: defer func() { c.End(err) }().
func (c *Conn) End(err error) {
	// The methods of the error are the application's. They may panic, or end the
	// goroutine.
	defer func() {
		_ = recover()
		c.fault("a method of the handler's error panicked") // unless it has ended
	}()
	var ce *CloseError
	switch {
	case err == nil:
		c.end(reason.HandlerDone, "")
	case errors.As(err, &ce) && ce != nil && sendable(ce.Code):
		c.byApplication(ce.Code, ce.Reason)
	default:
		c.end(reason.Internal, err.Error())
	}
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
	c.violations.Add(1)
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

// ended runs once, on a goroutine of its own, when the socket is closed.
func (c *Conn) ended(cause *CloseError, detail string) {
	defer c.done() // whatever a hook does
	if c.wrap != nil {
		defer c.wrap.ended(cause)
		if !c.listed {
			return // it was never open
		}
	}
	c.dropQueue()
	c.reportMu.Lock()
	c.reported = true
	c.reportMu.Unlock()
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

func (c *Conn) stats() audit.Stats {
	return audit.Stats{
		MessagesIn: c.in.Load(), MessagesOut: c.out.Load(), BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
		Violations: c.violations.Load(), ViolationsWithoutNotice: c.unnoticed.Load(), Dropped: c.dropped.Load(),
	}
}

// done is called by each holder when it is done with the connection. The last
// one gives the slot back: a handler that goes on after the end still counts.
func (c *Conn) done() {
	if c.holders.Add(-1) > 0 {
		return
	}
	if c.listed { // whatever Close does
		defer c.g.sessions.remove(c)
	} else {
		defer c.g.sessions.unregister(c.session)
	}
	for _, l := range c.leases {
		l.Release()
	}
	closeValue(c.value)
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
	if c.awaiting.Load() {
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

// authenticate takes the credential out of the first message and does what the
// handshake could not: what it finds wrong has ended the connection.
func (c *Conn) authenticate(ctx context.Context, r *http.Request) error {
	g := c.g
	defer c.done() // start has counted us
	_, msg, err := c.read(ctx)
	if err != nil {
		if c.w.Cause() == nil {
			return c.end(reason.AuthTimeout, "Accept's context ended")
		}
		return err
	}
	// It came in time; what a verifier takes is not the peer's.
	c.awaiting.Store(false)
	var p Principal
	var fl *flight
	token, err := parseFirstMessage(msg)
	if err == nil {
		fl, err = c.st.rates.inFlight.fly(c.client)
	} else if c.auth.cfg.InsecureReportOnly {
		// It is the application's, then.
		c.w.Again()
	}
	if err == nil {
		defer fl.done()
		p, err = c.auth.latest().verify(c.ctx, credential{sourceFirstMessage, token}, c.client, c.origin, fl)
	}
	if err != nil && c.auth.cfg.InsecureReportOnly {
		d := asDenied(err)
		c.violation(d.Reason, d.detail, true)
		p, err = Principal{}, nil
	}
	if err == nil {
		err = c.lease.bind(p.Subject, r)
	}
	if err == nil {
		c.principal.Store(&p)
		c.session = g.sessions.register(p)
		if g.sessions.revoked(p) {
			err = deny(reason.Revoked, "")
		}
	}
	if err == nil {
		c.value, err = c.st.callAttach(r, p)
	}
	if err != nil {
		if c.over() {
			return c.closed()
		}
		d := asDenied(err)
		if d.Code() == 0 {
			d = denyCause(reason.Unavailable, err)
		}
		if !d.shared {
			g.offend(c.st.setup, c.client, d.Reason, handshakeOffences[d.Reason])
		}
		return c.accuse(d.Reason, d.detail)
	}
	c.lease.authenticated()
	in := &c.reading
	in.fit(c.e.now.Load())
	in.rates = in.policy.rates.conn(c.client, p.Subject)
	in.rates.sent = c.sent.Load()
	c.begin()
	if c.w.Cause() != nil {
		return c.closed()
	}
	return nil
}

// start takes the connection into the Guard.
func (c *Conn) start(await bool, holders int32) {
	if await {
		holders++ // authenticate is one
	}
	c.prepare(holders)
	c.awaiting.Store(await)
	if await {
		c.authBy = c.opened.Add(c.auth.cfg.FirstMessageTimeout)
	}
	c.list(!await)
}

// prepare makes the connection ready for the engine.
func (c *Conn) prepare(holders int32) {
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.opened = time.Now()
	c.holders.Store(holders)
	c.reading.rates = c.st.rates.conn(c.client, c.Principal().Subject)
	c.reading.rates.sent = c.st.rates.cfg.SentBytes.limiter()
	c.sent.Store(c.reading.rates.sent)
	c.w.Serve(&c.reading)
}

// list makes the connection known to the Guard, and opens it to the application if it is
// authenticated.
func (c *Conn) list(authenticated bool) {
	if c.st.heartbeat.Lifetime > 0 {
		c.lifetime = c.opened.Add(jitter(c.st.heartbeat.Lifetime))
	}
	c.due.Store(int64(never))
	c.schedule(c.opened)
	c.listed = true
	draining := c.g.sessions.add(c)
	if authenticated {
		c.begin()
	}
	if draining {
		c.end(reason.Draining, "")
	}
}

// reportOpen reports that the connection is open, unless its end has been
// reported already.
func (c *Conn) reportOpen() {
	c.reportMu.Lock()
	defer c.reportMu.Unlock()
	if !c.reported {
		c.g.events.emit(c.event(audit.Open))
	}
}

// begin opens the connection to the application.
func (c *Conn) begin() {
	p := c.Principal()
	if !p.Expires.IsZero() {
		c.expires.Store(&p.Expires)
	}
	// The first time at any moment of the interval: who comes together is not
	// to be asked about together.
	c.checkAgain(p, rand.N(c.auth.latest().cfg.RevalidateEvery))
	c.schedule(time.Now())
	c.begun.Store(true)
	c.reportOpen()
	// A revocation since it was registered ends it here.
	c.session.attach(c)
}

// Refresh replaces the credential of a connection by a newer one of the same
// subject, which the application has got from the peer: its expiry, scopes and
// session. Three are looked at in a row, then one every 10 s: reason.RateLimited.
// An error leaves everything as it was, except that another subject
// (reason.Refresh) and a credential that is revoked close the connection.
func (c *Conn) Refresh(ctx context.Context, token string) error {
	c.refreshMu.Lock()
	defer c.refreshMu.Unlock()
	if c.over() {
		return c.closed()
	}
	old := c.principal.Load()
	p, err := c.refreshed(ctx, old, token)
	switch {
	case c.over():
		return c.closed()
	case err != nil:
		d := asDenied(err)
		c.violation(d.Reason, "refresh: "+d.detail, false)
		return err
	case p.Subject != old.Subject:
		return c.punish(reason.Refresh, "")
	}
	if !c.adopt(p) {
		return c.closed()
	}
	c.g.events.emit(c.event(audit.Refresh))
	return nil
}

// refreshed judges a newer credential.
func (c *Conn) refreshed(ctx context.Context, old *Principal, token string) (Principal, error) {
	auth := c.auth.latest()
	switch {
	case old.anonymous():
		return Principal{}, deny(reason.Unauthenticated, "nobody to refresh")
	case token == "" || len(token) > maxToken:
		return Principal{}, deny(reason.Unauthenticated, "empty or over-long credential")
	}
	if c.refreshes == nil {
		c.refreshes = rate.NewLimiter(rate.Every(10*time.Second), 3)
	}
	if !c.refreshes.Allow() {
		return Principal{}, deny(reason.RateLimited, "")
	}
	fl, err := c.g.now.Load().rates.inFlight.fly(c.client)
	if err != nil {
		return Principal{}, err
	}
	defer fl.done()
	cred := credential{sourceFirstMessage, token}
	if auth.cfg.Verifier == nil {
		cred.kind = sourceTicket
	}
	return auth.verify(ctx, cred, c.client, c.origin, fl)
}

// adopt makes p the connection's from now on. It reports false when the connection
// has ended, for that or another reason. refreshMu is held.
func (c *Conn) adopt(p Principal) bool {
	if !c.g.sessions.identify(c.session, p) {
		return false // gone
	}
	if c.g.sessions.revoked(p) || c.session.isKilled() {
		c.end(reason.Revoked, "")
		return false
	}
	c.principal.Store(&p)
	if p.Expires.IsZero() {
		c.expires.Store(nil)
	} else {
		c.expires.Store(&p.Expires)
	}
	c.schedule(time.Now())
	return true
}

// checkAgain sets when the connection is to be revalidated.
func (c *Conn) checkAgain(p Principal, in time.Duration) {
	if c.auth.latest().cfg.Revalidate != nil && !p.anonymous() {
		c.recheck.Store(int64(time.Since(c.g.born) + in))
	}
}

// revalidate runs on a goroutine of its own, one at a time, which ends with the
// connection.
func (c *Conn) revalidate() {
	defer c.survive()
	defer c.rechecking.Store(false)
	auth := c.auth.latest()
	if auth.cfg.Revalidate == nil {
		return // Reconfigure has just ended it
	}
	every := auth.cfg.RevalidateEvery
	select {
	case auth.revalidating <- struct{}{}:
		c.overdue = time.Time{}
	default:
		// Its turn will come; but who waits for as long as an interval is
		// no longer known to be good.
		now := time.Now()
		if c.overdue.IsZero() {
			c.overdue = now.Add(every)
		}
		if !now.Before(c.overdue) {
			c.end(reason.Unavailable, "revalidation: too many at once")
			return
		}
		c.checkAgain(c.Principal(), jitter(min(time.Second, every/4)))
		c.schedule(now)
		return
	}
	old := c.principal.Load()
	p, err := auth.revalidate(c.ctx, *old)
	c.refreshMu.Lock()
	defer c.refreshMu.Unlock()
	switch {
	case c.over():
	case c.principal.Load() != old:
		// A Refresh came in between: the answer is about who he was.
		c.checkAgain(*c.principal.Load(), 0)
		c.schedule(time.Now())
	case err != nil:
		d := asDenied(err)
		c.end(d.Reason, "revalidation: "+d.detail)
	default:
		c.checkAgain(p, jitter(every))
		c.adopt(p)
	}
}

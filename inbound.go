package wsguard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// inbound is the part of a connection that judges the peer's messages. It implements
// wire.Hooks for the engine. The reader owns it, except for c, which is read-only, and for
// the fields that are atomic.
type inbound struct {
	c         *Conn
	policy    *endpointPolicy // the endpoint's newest, for messages
	validator Validator       // nil: none
	table     *table          // validator, if it is a Table
	late      *time.Timer     // bounds Authorize
	rates     *connRates
	leases    *leases       // what rates hold of the store's tokens; read-only after prepare; has a lock; nil: nothing
	holding   bool          // the message has been held for such tokens
	since     time.Duration // what its Waited was before that
	msg       *wire.Message
	rule      *rule                        // the rule of the message; never nil
	cost      int                          // how many messages it counts for
	at        call                         // what a check has judged last: the message, or a call of it
	wait      time.Duration                // how long the message must wait for its rates, if it is over one
	err       error                        // why a check refuses the message; nil once refuse has it
	changed   *sanitizeBox                 // Sanitize has changed the message, and this has the bytes before; nil: it has not
	kind      string                       // the type of the message that was delivered last
	notices   [noticeBuckets]*rate.Limiter // made when needed
	closeRead atomic.Bool                  // CloseRead has been called
	stale     atomic.Bool                  // the rates do not count for the subject yet

	messages, bytes atomic.Uint64 // delivered messages, and their payload bytes
	unnoticed       atomic.Uint64 // refused messages that got no notice, because of its limit
}

// plain returns ctx, or context.Background if ctx is the connection's own, which the engine
// need not watch.
func (c *Conn) plain(ctx context.Context) context.Context {
	if ctx.Done() == c.ctx.Done() {
		return context.Background()
	}
	return ctx
}

// read implements Read. CloseRead and authenticate use it too.
func (c *Conn) read(ctx context.Context) (MessageType, []byte, error) {
	ctx = c.plain(ctx)
	returned := false
	defer func() {
		if !returned {
			// If nothing reads again, nothing notices the peer's end.
			c.end(fault("the reading goroutine panicked, or a hook ended it"))
		}
	}()
	for {
		m, err := c.w.Receive(ctx)
		returned = true
		switch {
		case err == wire.ErrClosing:
			return 0, nil, c.cause()
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

// fit puts p in force for the messages from now on. Only the reader and the goroutine that
// makes the connection may call it.
func (in *inbound) fit(p *endpointPolicy) {
	c := in.c
	in.policy = p
	in.validator = p.messages.validator(c.subprotocol)
	if in.validator == nil && len(p.messages.Validators) > 0 {
		in.validator = noKind // Reconfigure has removed the subprotocol
	}
	in.table, _ = in.validator.(*table)
	if in.rates == nil || c.who.awaiting.Load() {
		return
	}
	in.rates.relimit(&c.g.state.rates, p.rates, c.client, c.Principal().Subject)
	in.lease(p.rates)
	c.writing.sent.Store(in.rates.sent)
}

// Accept judges the type of a message, and returns how long the message may be.
func (in *inbound) Accept(binary bool) (int64, error) {
	c := in.c
	if p := c.e.policy(); p != in.policy || in.stale.Load() {
		in.stale.Store(false)
		in.fit(p)
	}
	awaiting := c.who.awaiting.Load()
	mayBeBinary := in.policy.messages.Binary || in.policy.observe && !awaiting
	switch {
	case binary && (!mayBeBinary || awaiting && c.first.auth.cfg.FirstMessage != nil):
		return 0, c.end(violation(reason.MessageType, ""))
	case awaiting:
		return c.first.auth.cfg.FirstMessageBytes, nil
	}
	return in.policy.maxBytes(), nil
}

// Judge judges the rate, the UTF-8, the schema and the authorization of a whole message, and
// lets Sanitize change it. A message that is refused is dropped.
func (in *inbound) Judge(m *wire.Message) (v wire.Verdict, wait time.Duration, err error) {
	returned := false
	defer func() {
		if !returned {
			in.c.end(fault("a hook panicked, or ended the reading goroutine"))
		}
	}()
	v, wait, err = in.judged(m)
	returned = true
	return v, wait, err
}

func (in *inbound) judged(m *wire.Message) (v wire.Verdict, wait time.Duration, err error) {
	in.msg = m
	if m.Ahead && !in.Ahead() { // Reconfigure has changed the policy since the engine has asked
		return wire.Hold, 0, nil
	}
	now := in.c.w.Arrived()
	if m.Held {
		now = time.Now()
	}
	if in.policy.observe && !in.holding {
		in.observeForm()
	}
	in.setRule(anyKind)
	in.err, in.changed = nil, nil // a check that was asked ahead may have left an error
	for i := range messageChecks {
		switch check := &messageChecks[i]; {
		case check.ok(in, now):
		case m.Ahead:
			if i > 0 {
				in.rates.give(in.rates.shared, len(m.Data), in.cost, now)
			}
			return wire.Hold, 0, nil
		default:
			if v, wait, err = check.refuse(in); v != wire.Deliver || err != nil {
				return v, wait, err
			}
		}
	}
	if in.changed != nil {
		if v, wait, err = in.rejudge(now); v != wire.Deliver || err != nil {
			return v, wait, err
		}
	}
	if in.c.wrap != nil && in.c.cause() != nil && withheld(in.c.cause()) {
		return wire.Drop, 0, in.c.cause() // the connection has ended while the message was judged
	}
	in.kind = in.rule.kind
	in.messages.Add(1)
	in.bytes.Add(uint64(len(m.Data)))
	in.c.tally.in.Add(uint64(len(m.Data)))
	return wire.Deliver, 0, nil
}

// Ahead reports whether messages may be judged before the application has read those in
// front of them. It is false if Authorize or a scope must be asked about each message, and
// if a message can cause a warning or is judged for the reports of Config.Observe only.
func (in *inbound) Ahead() bool {
	return !in.policy.observe && !in.authorizes() && in.policy.messages.Sanitize == nil && in.rates.warnAt == 0
}

// authorizes reports whether it depends on the message who may send it.
func (in *inbound) authorizes() bool {
	return in.policy.messages.Authorize != nil || in.table != nil && in.table.scoped
}

// messageCheck is one check of a message. If ok returns false, refuse says what happens to the
// message. Deliver means that the refusal is only reported, and the next check follows.
//
// The engine may ask about a message while the application has not read those in front of it.
// Then only ok is called. It must change nothing if it returns false. The engine holds the
// message, and asks again when the messages in front of it have been read.
type messageCheck struct {
	ok     func(*inbound, time.Time) bool
	refuse func(*inbound) (wire.Verdict, time.Duration, error)
}

// messageChecks has the checks of a whole message, in order. The first one charges the rates.
var messageChecks = [...]messageCheck{
	{(*inbound).affordable, (*inbound).tooMany},
	{(*inbound).readable, (*inbound).unreadable},
	{(*inbound).valid, (*inbound).invalid},
	{(*inbound).allowed, (*inbound).forbidden},
	{(*inbound).clean, (*inbound).unclean},
}

// gauges returns where the use of limits is noted.
func (in *inbound) gauges() *gauges { return in.c.g.events.meter.gauges }

// Failed ends the connection because of a fault that the engine has found.
func (in *inbound) Failed(e *wire.Error) error {
	in.gauges().refuse(limitOf(e.Fault))
	late := in.c.who.awaiting.Load() && !time.Now().Before(in.c.who.authBy)
	return in.c.end(engineFault(e, late))
}

// Broken ends a connection that cannot be written to.
func (in *inbound) Broken(err error) { in.c.end(unwritten(context.Background(), err)) }

// Pong counts how long the peer has taken to answer a ping.
func (in *inbound) Pong(roundTrip time.Duration) {
	in.c.g.events.meter.pings.Add(microseconds(roundTrip))
}

// affordable charges the message to its rates.
func (in *inbound) affordable(now time.Time) (ok bool) {
	if in.wait, ok = in.charge(now); ok && in.rates.warnAt > 0 && in.rates.warn(in.c.w.Arrived()) {
		in.warn()
	}
	return ok
}

// tooMany applies Action to a message over a rate.
func (in *inbound) tooMany() (wire.Verdict, time.Duration, error) {
	c, wait := in.c, in.wait
	if in.rates.held {
		in.hold()
		return wire.Hold, wait, nil
	}
	in.holding = false
	switch action := in.policy.rates.Action; {
	case action == actionReport:
		in.gauges().refuse(in.rates.over)
		c.refused(reason.RateLimited, "", audit.ActionReport)
		in.setRule(in.ruleOf())
		return wire.Deliver, 0, nil
	case action == ActionReply:
		in.gauges().refuse(in.rates.over)
		o := objection{why: reason.RateLimited, kind: reason.RateLimited, wait: wait}
		notice, e := in.answer(&o, rateNotices)
		if e != nil {
			e.offence = in.offence()
			return wire.Drop, 0, c.end(*e)
		}
		c.offended(o.why, messageOffences[in.offence()])
		c.refused(o.why, "", audit.ActionReply)
		in.send(notice)
		return wire.Drop, 0, nil
	case action == ActionDelay && wait <= maxDelay-in.msg.Waited():
		return wire.Hold, wait, nil
	}
	in.gauges().refuse(in.rates.over)
	e := violation(reason.RateLimited, "")
	e.offence = in.offence()
	return wire.Drop, 0, c.end(e)
}

// readable reports whether the text is UTF-8.
func (in *inbound) readable(time.Time) bool {
	m := in.msg
	return m.Binary || utf8.Valid(m.Data[m.Checked:])
}

func (in *inbound) unreadable() (wire.Verdict, time.Duration, error) {
	return wire.Drop, 0, in.c.end(violation(reason.InvalidUTF8, ""))
}

// valid asks the validator. A first message that must be the credential is no message of the
// application's.
func (in *inbound) valid(time.Time) bool {
	if in.validator == nil || in.c.who.awaiting.Load() {
		return true
	}
	in.err = in.validate()
	return in.err == nil
}

func (in *inbound) invalid() (wire.Verdict, time.Duration, error) {
	o := object(in.takeErr(), verdict)
	o.by, _ = in.last().(*Schema)
	o.at = in.at
	return in.refuse(o, in.policy.messages.OnInvalid)
}

// allowed asks whether the principal may send the message.
func (in *inbound) allowed(time.Time) bool {
	if !in.authorizes() || in.c.who.awaiting.Load() {
		return true
	}
	if in.err = in.authorize(); in.err != nil {
		return false
	}
	return in.policy.messages.Authorize == nil || in.c.wrap != nil || in.c.cause() == nil
}

func (in *inbound) forbidden() (wire.Verdict, time.Duration, error) {
	err := in.takeErr()
	if cause := in.c.cause(); cause != nil { // the connection has ended during Authorize
		return wire.Drop, 0, cause
	}
	return in.refuse(object(err, forbidden), in.policy.messages.OnForbidden)
}

// takeErr returns what a check has left for its refusal.
func (in *inbound) takeErr() error {
	err := in.err
	in.err = nil
	return err
}

// withheld reports whether cause keeps judged messages from a wrapped handler, because their
// sender may no longer send.
func withheld(cause error) bool {
	return slices.ContainsFunc([]*reason.Reason{reason.Revoked, reason.Expired, reason.Unauthenticated, reason.Banned},
		func(why *reason.Reason) bool { return errors.Is(cause, why) })
}

// validate asks the validator about the message.
func (in *inbound) validate() (err error) {
	if in.table != nil {
		in.at, err = in.table.judge(in.msg.Data, in.rule)
		return err
	}
	return validate(in.validator, in.msg.Data)
}

// last returns the validator that can explain why a message is refused.
func (in *inbound) last() Validator {
	if in.table != nil {
		return in.at.rule.Validator
	}
	return in.validator
}

// refuse applies action to a message to which a hook has objected. To say where in the message
// the fault is takes another pass over the message. refuse takes it for a notice and for a line
// in the log only, so that a flood does not cost twice.
func (in *inbound) refuse(o objection, action Action) (wire.Verdict, time.Duration, error) {
	c := in.c
	var e ending
	switch {
	case serversFault(o.why):
		e = violation(o.why, in.detail(o))
	case action == actionReport:
		in.refused(o, audit.ActionReport)
		return wire.Deliver, 0, nil
	case action == ActionReply:
		notice, unanswered := in.answer(&o, messageNotices)
		if unanswered == nil {
			c.offended(o.why, messageOffences[o.kind])
			in.refused(o, audit.ActionReply)
			in.send(notice)
			return wire.Drop, 0, nil
		}
		e = *unanswered
	default:
		if c.g.events.likely(audit.Violation, o.why.Token()) || c.g.events.likely(audit.Close, "") {
			o = o.explained(in.msg.Data) // the events come later, without the message
		}
		e = violation(o.why, in.detail(o))
	}
	e.offence = o.kind
	return wire.Drop, 0, c.end(e)
}

// refused counts and reports a message that was refused while the connection stays open.
func (in *inbound) refused(o objection, action audit.Action) {
	c := in.c
	c.life.violations.Add(1)
	c.g.events.tell(occurrence{Event: c.violation(o.why, in.detail(o), action), who: c.client.key()}, func() string { return in.detail(o.explained(in.msg.Data)) })
}

// detail returns the detail of the event about a refused message.
func (in *inbound) detail(o objection) string {
	detail := o.detail
	if in.changed != nil {
		detail = "after Sanitize: " + detail
	}
	if kind := in.at.rule.kind; kind != "" {
		detail = kind + ": " + detail
	}
	return detail
}

// charge charges the message to its rates. It first charges one message. If the rates allow
// that, it finds the type of the message and charges the rest of the type's Cost. A message
// that is refused costs nothing.
func (in *inbound) charge(now time.Time) (wait time.Duration, ok bool) {
	n := len(in.msg.Data)
	in.begin()
	if wait, ok := in.rates.take(n, 1, now); !ok {
		return wait, false
	}
	in.setRule(in.ruleOf())
	in.cost = in.rule.cost(in.msg.Data)
	if extra := in.cost - 1; extra > 0 {
		if wait, ok := in.rates.take(0, extra, now); !ok {
			in.rates.give(in.rates.shared, n, 1, now)
			return wait, false
		}
	}
	in.holding = false
	return 0, true
}

// offence returns the reason under which a message over a rate counts towards a ban. It is
// nil if only SentBytes was exceeded, because other users can cause that.
func (in *inbound) offence() *reason.Reason {
	if in.rates.owing {
		return nil
	}
	return reason.RateLimited
}

// ruleOf returns the rule that the validator has for the message.
func (in *inbound) ruleOf() *rule {
	if in.c.who.awaiting.Load() {
		return anyKind
	}
	switch v := in.validator.(type) {
	case *table:
		return v.rule(in.msg.Data)
	case *rule: // see fit
		return v
	}
	return anyKind
}

// setRule sets the rule of the message.
func (in *inbound) setRule(r *rule) {
	in.rule, in.cost, in.at = r, 1, wholeMessage(r, in.msg.Data)
}

// authorize asks whether the peer may send this message, or each call of it.
func (in *inbound) authorize() error {
	in.at = wholeMessage(in.rule, in.msg.Data)
	if in.rule.calls == nil {
		return in.authorizeCall()
	}
	for b := in.rule.calls.walk(in.msg.Data); b.next(); {
		in.at = b.at
		if err := in.authorizeCall(); err != nil {
			return in.at.placed(err)
		}
		if in.c.wrap == nil && in.c.cause() != nil {
			break // the caller drops the message
		}
	}
	in.at = wholeMessage(in.rule, in.msg.Data)
	return nil
}

// authorizeCall asks whether the peer may send what in.at says.
func (in *inbound) authorizeCall() error {
	p := in.c.who.principal.Load()
	if in.at.rule.fault != nil {
		// ReportOnly has let a message of an unknown type pass. Such a message has no scope, so
		// no principal may send it.
		return fmt.Errorf("%w: of an unknown type", reason.Forbidden)
	}
	if scope := in.at.rule.Scope; scope != "" && !slices.Contains(p.Scopes, scope) {
		return fmt.Errorf("%w: needs scope %q", reason.Forbidden, scope)
	}
	if in.policy.messages.Authorize == nil {
		return nil
	}
	return in.askAuthorize(p)
}

// askAuthorize calls Authorize. A call that takes longer than VerifyTimeout ends the
// connection, even if it never returns.
func (in *inbound) askAuthorize(p *Principal) (err error) {
	c, limit := in.c, in.policy.auth.cfg.VerifyTimeout
	if in.late == nil {
		in.late = time.AfterFunc(limit, func() { c.end(because(reason.Unavailable, "Authorize takes too long")) })
	} else {
		in.late.Reset(limit)
	}
	defer in.late.Stop()
	defer func() {
		if recover() != nil { // the value may quote the message, so drop it
			err = fmt.Errorf("%w: Authorize panicked", reason.Internal)
		}
	}()
	return in.policy.messages.Authorize(c.ctx, *p, in.at.rule.kind, in.at.of(in.msg.Data))
}

// errorText returns the text of err. It recovers a panic of the method Error, which may be
// the application's.
func errorText(err error) (s string) {
	defer func() {
		if recover() != nil {
			s = "an error without a text"
		}
	}()
	return err.Error()
}

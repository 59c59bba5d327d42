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

	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// inbound is the part of a connection that judges what the peer sends. It answers the
// engine (wire.Hooks). The reader owns it, except for c, which is read-only, and for the
// fields that are atomic.
type inbound struct {
	c         *Conn
	policy    *endpointPolicy // for messages: the endpoint's newest
	validator Validator       // nil: none
	table     *table          // the same, if it is a Table
	late      *time.Timer     // bounds Authorize
	rates     *connRates
	msg       *wire.Message
	rule      *rule            // of the message; never nil
	kind      string           // of the message that was delivered last
	notices   [2]*rate.Limiter // for rates, for messages; made when needed
	closeRead atomic.Bool      // CloseRead has been called

	messages, bytes atomic.Uint64 // that were delivered
	unnoticed       atomic.Uint64 // violations for which there was no notice left
}

// plain returns ctx, or a context that need not be watched if ctx is the connection's own.
func (c *Conn) plain(ctx context.Context) context.Context {
	if ctx.Done() == c.ctx.Done() {
		return context.Background()
	}
	return ctx
}

// read is Read, and CloseRead's and authenticate's.
func (c *Conn) read(ctx context.Context) (MessageType, []byte, error) {
	ctx = c.plain(ctx)
	returned := false
	defer func() {
		if !returned {
			// Nobody might read again, so nobody would notice the peer's end.
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

// fit makes p what holds for the messages from now on. Only the reader, and those who
// make the connection, may call it.
func (in *inbound) fit(p *endpointPolicy) {
	c := in.c
	in.policy = p
	in.validator = p.messages.validator(c.subprotocol)
	if in.validator == nil && len(p.messages.Validators) > 0 {
		in.validator = noKind // its subprotocol is no longer served
	}
	in.table, _ = in.validator.(*table)
	if in.rates == nil || c.who.awaiting.Load() {
		return
	}
	in.rates.relimit(&c.g.state.rates, p.rates, c.client, c.Principal().Subject)
	c.writing.sent.Store(in.rates.sent)
}

// Accept judges the type of a message, and says how long it may be.
func (in *inbound) Accept(binary bool) (int64, error) {
	c := in.c
	if p := c.e.policy(); p != in.policy {
		in.fit(p)
	}
	switch {
	case binary && !in.policy.messages.Binary:
		return 0, c.end(violation(reason.MessageType, ""))
	case c.who.awaiting.Load():
		return c.first.auth.cfg.FirstMessageBytes, nil
	}
	return in.policy.messages.MaxBytes, nil
}

// Judge judges a whole message: rate, UTF-8, schema, authorization. A message that is
// refused is gone.
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
	now := in.c.w.Arrived()
	if m.Held {
		now = time.Now()
	}
	in.rule = anyKind
	if m.Ahead {
		if !in.ahead() {
			return wire.Hold, 0, nil
		}
	} else {
		if v, wait, err = in.afford(now); v != wire.Deliver || err != nil {
			return v, wait, err
		}
		if ok, err := in.judge(); err != nil || !ok {
			return wire.Drop, 0, err
		}
	}
	if in.c.wrap != nil && in.c.cause() != nil && withheld(in.c.cause()) {
		return wire.Drop, 0, in.c.cause() // it has ended while the message was judged
	}
	in.kind = in.rule.kind
	in.messages.Add(1)
	in.bytes.Add(uint64(len(m.Data)))
	return wire.Deliver, 0, nil
}

// Ahead is true unless the application must be asked about each message, which may take
// its time, or the judgement of a message does more than to deliver or to refuse it.
func (in *inbound) Ahead() bool {
	return !in.authorizes() && in.rates.warnAt == 0
}

// authorizes reports whether it depends on the message who may send it.
func (in *inbound) authorizes() bool {
	return in.policy.messages.Authorize != nil || in.table != nil && in.table.scoped
}

// ahead judges a message while those in front of it have not been read. A message that
// would not simply pass is held, and nothing is charged for it: what it calls for must
// come after the answers to those in front of it.
func (in *inbound) ahead() bool {
	m, now := in.msg, in.c.w.Arrived()
	if _, ok := in.charge(now); !ok {
		return false
	}
	good := m.Binary || utf8.Valid(m.Data[m.Checked:])
	if good && in.validator != nil {
		good = in.validate() == nil
	}
	if !good {
		in.rates.give(in.rates.shared, len(m.Data), max(1, in.rule.Cost), now)
	}
	return good
}

// Failed ends the connection for what the engine found.
func (in *inbound) Failed(e *wire.Error) error {
	late := in.c.who.awaiting.Load() && !time.Now().Before(in.c.who.authBy)
	return in.c.end(engineFault(e, late))
}

// Broken ends a connection that cannot be written to.
func (in *inbound) Broken(err error) { in.c.end(unwritten(context.Background(), err)) }

// Idle reports an idle connection, if that is all that there is to do.
func (in *inbound) Idle() bool {
	if in.c.first.heartbeat.ReportIdle {
		in.c.refused(reason.Idle, "", true)
	}
	return in.c.first.heartbeat.ReportIdle
}

// afford charges the message to its rates, and does what Action says if they are exceeded.
func (in *inbound) afford(now time.Time) (wire.Verdict, time.Duration, error) {
	c := in.c
	if wait, ok := in.charge(now); !ok {
		switch action := in.policy.rates.Action; {
		case action == ActionReport:
			c.refused(reason.RateLimited, "", true)
			in.rule = in.ruleOf()
		case action == ActionReply:
			c.offended(reason.RateLimited, messageOffences[in.offence()])
			c.refused(reason.RateLimited, "", false)
			return wire.Drop, 0, in.reply(0, func() notice { return rateNotice(wait) })
		case action == ActionDelay && wait <= maxDelay-in.msg.Waited():
			return wire.Hold, wait, nil
		default:
			e := violation(reason.RateLimited, "")
			e.offence = in.offence()
			return wire.Drop, 0, c.end(e)
		}
	}
	if in.rates.warnAt > 0 && in.rates.warn(c.w.Arrived()) {
		return wire.Deliver, 0, in.warn()
	}
	return wire.Deliver, 0, nil
}

// judge judges a message that is paid for. It reports whether the application gets it.
func (in *inbound) judge() (bool, error) {
	c, m := in.c, in.msg
	if !m.Binary && !utf8.Valid(m.Data[m.Checked:]) {
		return false, c.end(violation(reason.InvalidUTF8, ""))
	}
	if c.who.awaiting.Load() {
		return true, nil
	}
	if in.validator != nil {
		if err := in.validate(); err != nil {
			err = explain(in.last(), in.msg.Data, err)
			if ok, err := in.refuse(object(err, verdict), in.policy.messages.OnInvalid); !ok {
				return false, err
			}
		}
	}
	if in.authorizes() {
		if err := in.authorize(); err != nil {
			if c.cause() != nil {
				return false, c.cause()
			}
			return in.refuse(object(err, forbidden), in.policy.messages.OnForbidden)
		}
		if in.policy.messages.Authorize != nil && c.wrap == nil && c.cause() != nil {
			return false, c.cause() // it took its time
		}
	}
	return true, nil
}

// withheld reports whether a message that has been judged is kept from a wrapped handler
// after this end, because its sender may no longer send.
func withheld(cause error) bool {
	return slices.ContainsFunc([]*reason.Reason{reason.Revoked, reason.Expired, reason.Unauthenticated, reason.Banned},
		func(why *reason.Reason) bool { return errors.Is(cause, why) })
}

// validate asks the validator about the message.
func (in *inbound) validate() error {
	if in.table != nil {
		return validate(in.rule, in.msg.Data)
	}
	return validate(in.validator, in.msg.Data)
}

// last is the validator that has the last word about the message.
func (in *inbound) last() Validator {
	if in.table != nil {
		return in.rule.Validator
	}
	return in.validator
}

// refuse applies action to a message that was objected to. It reports whether the
// application gets the message all the same.
func (in *inbound) refuse(o objection, action Action) (bool, error) {
	c, detail := in.c, o.detail
	if in.rule.kind != "" {
		detail = in.rule.kind + ": " + detail
	}
	switch {
	case serversFault(o.why):
	case action == ActionReport:
		c.refused(o.why, detail, true)
		return true, nil
	case action == ActionReply:
		c.offended(o.why, messageOffences[o.kind])
		c.refused(o.why, detail, false)
		return false, in.reply(1, o.notice)
	}
	e := violation(o.why, detail)
	e.offence = o.kind
	return false, c.end(e)
}

// reply answers a message that was refused, if the peer's notices are not used up. Rates
// and messages have a bucket each, so that a flood of one does not silence the other.
func (in *inbound) reply(bucket int, text func() notice) error {
	if in.notices[bucket] == nil {
		in.notices[bucket] = rate.NewLimiter(1, 20)
	}
	if !in.notices[bucket].Allow() {
		in.unnoticed.Add(1)
		return nil
	}
	return in.c.notify(text().json())
}

// charge pays for the message: as one message, and then, once that is paid and its type is
// worth a look, what a type with a higher cost takes besides. A message that is refused
// costs nothing.
func (in *inbound) charge(now time.Time) (wait time.Duration, ok bool) {
	n := len(in.msg.Data)
	if wait, ok := in.rates.take(n, 1, now); !ok {
		return wait, false
	}
	in.rule = in.ruleOf()
	if extra := in.rule.Cost - 1; extra > 0 {
		if wait, ok := in.rates.take(0, extra, now); !ok {
			in.rates.give(in.rates.shared, n, 1, now)
			return wait, false
		}
	}
	return 0, true
}

// offence is what a message over a rate counts as towards a ban. It is nothing when only
// SentBytes was exceeded, because other users can cause that.
func (in *inbound) offence() *reason.Reason {
	if in.rates.owing {
		return nil
	}
	return reason.RateLimited
}

// ruleOf finds what the table says of the message.
func (in *inbound) ruleOf() *rule {
	if in.table == nil || in.c.who.awaiting.Load() {
		return anyKind
	}
	return in.table.rule(in.msg.Data)
}

// warn tells the peer to slow down before a rate is exceeded.
func (in *inbound) warn() error {
	in.c.report(reason.RateLimited, "warned", true)
	return in.reply(0, func() notice { return notice{Warning: "rate_limit"} })
}

// authorize asks whether the peer may send this message.
func (in *inbound) authorize() error {
	p := in.c.who.principal.Load()
	if in.rule == noKind {
		// OnInvalid may only report a message of an unknown type. Nobody knows what it
		// is, so nobody may send it.
		return fmt.Errorf("%w: of an unknown type", ErrForbidden)
	}
	if scope := in.rule.Scope; scope != "" && !slices.Contains(p.Scopes, scope) {
		return fmt.Errorf("%w: needs scope %q", reason.Forbidden, scope)
	}
	if in.policy.messages.Authorize == nil {
		return nil
	}
	return in.askAuthorize(p)
}

// askAuthorize asks the application. A call that takes too long ends the connection,
// whether or not it ever returns.
func (in *inbound) askAuthorize(p *Principal) (err error) {
	c, limit := in.c, in.policy.auth.cfg.VerifyTimeout
	if in.late == nil {
		in.late = time.AfterFunc(limit, func() { c.end(because(reason.Unavailable, "Authorize takes too long")) })
	} else {
		in.late.Reset(limit)
	}
	defer in.late.Stop()
	defer func() {
		if recover() != nil { // with the message, perhaps
			err = fmt.Errorf("%w: Authorize panicked", reason.Internal)
		}
	}()
	return in.policy.messages.Authorize(c.ctx, *p, in.rule.kind, in.msg.Data)
}

// errorText is an error's text. The error may be the application's: its method may panic.
func errorText(err error) (s string) {
	defer func() {
		if recover() != nil {
			s = "an error without a text"
		}
	}()
	return err.Error()
}

package wsguard

import (
	"context"
	"fmt"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// outbound is the part of a connection that sends what the application writes. All of
// its fields are atomic, so it has no owner. The engine puts the writers in order.
type outbound struct {
	sent            atomic.Pointer[rate.Limiter] // the bucket of SentBytes; nil: no limit
	messages, bytes atomic.Uint64                // sent messages, and their payload bytes
}

// outbound judges a message before it is sent.
func (c *Conn) outbound(msg []byte) error {
	v := c.e.policy().messages.Outbound
	if v == nil {
		return nil
	}
	returned := false
	defer func() {
		if !returned {
			c.end(fault("a hook ended the writing goroutine"))
		}
	}()
	err := validate(v, msg)
	if err == nil {
		returned = true
		return nil
	}
	o := outboundObjection(v, msg, err)
	c.reportOwn(o.why, "outbound: "+o.detail)
	returned = true
	return o.outbound()
}

// outboundObjection explains why v has refused a message of the application's.
func outboundObjection(v Validator, msg []byte, err error) objection {
	return object(explain(v, msg, err), verdict)
}

// outbound is the error that the sender of a refused message gets.
func (o objection) outbound() error {
	return fmt.Errorf("wsguard: outbound message refused: %w", o.err)
}

// wellFormed returns an error if typ is no message type or if a text is not UTF-8.
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

func errMessageType(typ MessageType) error {
	return fmt.Errorf("wsguard: message type %d: must be MessageText or MessageBinary", int(typ))
}

func (c *Conn) writeMessage(ctx context.Context, typ MessageType, msg []byte) error {
	if err := c.write(c.plain(ctx), typ, msg); err != nil {
		return err
	}
	c.wrote(1, len(msg))
	return nil
}

// notify sends a notice of the guard to the peer. If another call is the writer, that one sends
// it.
func (c *Conn) notify(msg []byte) {
	if !c.w.Notice(msg) {
		c.omitted()
	}
}

// omitted counts a notice that was not sent.
func (c *Conn) omitted() {
	c.reading.unnoticed.Add(1)
	c.tally.unnoticed.Add(1)
}

// wrote counts messages that the application has sent, and the bytes of their payloads.
func (c *Conn) wrote(messages, bytes int) {
	c.writing.messages.Add(uint64(messages))
	c.writing.bytes.Add(uint64(bytes))
	c.tally.out.Add(uint64(messages))
	c.tally.outBytes.Add(uint64(bytes))
	charge(c.writing.sent.Load(), messages, bytes)
}

// opcode returns the opcode of a message type.
func opcode(typ MessageType) byte {
	if typ == MessageBinary {
		return wire.Binary
	}
	return wire.Text
}

// write sends a message of one of the two types.
func (c *Conn) write(ctx context.Context, typ MessageType, msg []byte) error {
	err := c.w.Write(ctx, opcode(typ), msg)
	switch {
	case err == nil:
		return nil
	case err == wire.ErrInterrupted && ctx.Err() != nil:
		return c.stopped(ctx)
	case err == wire.ErrClosing:
		return c.cause()
	}
	return c.end(unwritten(ctx, err))
}

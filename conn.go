package wsguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// A connection consists of parts. Each part is a struct with a file of its own and
// one owner. The owner writes the fields that are neither atomic nor guarded by a lock.
//
//	part            file           owner
//	inbound         inbound.go     the reader: the goroutine that is in Read, or in the wrapped handler's Read
//	outbound        outbound.go    nobody: its fields are atomic; the engine's writer lock orders the writers
//	queue           send.go        the holder of queue.mu; drain writes what is queued
//	authentication  identity.go    the goroutine that authenticates, then the holder of refreshMu
//	lifecycle       lifecycle.go   the goroutine that makes the connection, then the goroutine that ends it
//	watch           heartbeat.go   the sweeper
//	wrapping        wrap.go        the wrapped handler's goroutine; nil behind the first door
//	wire.Conn       internal/wire  the engine, which lists its own owners
//
// A goroutine that holds one of these locks may take those to the right of it:
//
//	refreshMu → sessions.mu
//	the engine's reader and writer → reportMu
//	the engine's reader and writer → sessions.mu
//	queue.mu → queues.mu
//
// Application code may run under refreshMu (Verifier, Revalidate), under reportMu
// (OnEvent) and under the engine's reader and writer (Validator, Authorize, OnEvent).
// It never runs under sessions.mu, queue.mu or queues.mu.

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
	// Read-only after start.
	g           *Guard
	e           *Endpoint
	first       *endpointPolicy // of the handshake: timeouts, queue bounds, frame limits
	known       bool            // its origin was right
	w           *wire.Conn      // the engine
	wrap        *wrapping       // the second door; nil behind the first
	id          string
	client      client
	origin      string
	host        string
	subprotocol string
	opened      time.Time
	ctx         context.Context // ends when the cause of the end is fixed
	cancel      context.CancelCauseFunc

	reading inbound
	writing outbound
	queue   queue
	who     authentication
	life    lifecycle
	watch   watch
}

// Kind is the type that a Table has found in the message that Read last returned.
// It belongs to the reader, as the message does.
func (c *Conn) Kind() string { return c.reading.kind }

// ID identifies the connection in events.
func (c *Conn) ID() string { return c.id }

// Principal is who the connection was authenticated for.
func (c *Conn) Principal() Principal { return *c.who.principal.Load() }

// Value is what Config.Attach returned.
func (c *Conn) Value() any { return c.who.value }

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
	if c.reading.closeRead.Load() {
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

// CloseRead reads in the background, for applications that only send. A message
// that comes closes the connection with 1008.
func (c *Conn) CloseRead() {
	if c.reading.closeRead.Swap(true) {
		return
	}
	c.w.KeepMessage() // the application may hold on to it
	go func() {
		defer c.survive()
		if _, _, err := c.read(context.Background()); err == nil {
			c.end(violation(reason.Unexpected, ""))
		}
	}()
}

// Close ends the connection, if nothing has before, and returns at once; the
// ending runs behind it. The reason is cut to 123 bytes of valid UTF-8. A code
// that must not be sent (RFC 6455 §7.4) is an error, and closes with 1011.
func (c *Conn) Close(code StatusCode, text string) error {
	if !sendable(code) {
		c.end(fault(fmt.Sprintf("Close with code %d", int(code))))
		return fmt.Errorf("wsguard: close code %d cannot be sent", int(code))
	}
	c.end(chosen(code, text, reason.Closed))
	return nil
}

// End ends an accepted connection as Guard.Handler does when its function has
// returned err: defer func() { c.End(err) }().
func (c *Conn) End(err error) {
	// The methods of the error are the application's. They may panic, or end the
	// goroutine.
	defer func() {
		_ = recover()
		c.end(fault("a method of the handler's error panicked")) // unless it has ended
	}()
	var ce *CloseError
	switch {
	case err == nil:
		c.end(because(reason.HandlerDone, ""))
	case errors.As(err, &ce) && ce != nil && sendable(ce.Code):
		c.end(chosen(ce.Code, ce.Reason, reason.Closed))
	default:
		e := fault(err.Error())
		if own := ownReason(err); own != nil {
			e.why = own
		}
		c.end(e)
	}
}

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
//	outbound        outbound.go    none, because its fields are atomic; the engine's writer lock orders the writers
//	queue           queue.go       the holder of queue.mu; the engine's writer takes the queued messages; segment.go has its memory
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
//	the engine's writer → queue.mu
//	queues.mu → sessions.mu → usage.mu
//
// The lock of State.revalidations may be taken while any of them is held.
//
// Application code may run under refreshMu (Verifier, Revalidate), under reportMu (OnEvent) and
// under the engine's reader and writer (Validator, Authorize, Sanitize, OnEvent). It never runs under
// sessions.mu, queue.mu or queues.mu.

// MessageType is the type of a message, MessageText or MessageBinary. It is the type of the same
// name in coder/websocket.
type MessageType = websocket.MessageType

const (
	// MessageText is the type of a message of UTF-8 text (RFC 6455 §5.6).
	MessageText = websocket.MessageText

	// MessageBinary is the type of a message of any bytes.
	MessageBinary = websocket.MessageBinary
)

// Conn is a guarded connection. [Guard.Handler] and [Guard.Accept] make one.
//
// One goroutine at a time may call Read and Kind. Any number of goroutines may call the
// other methods, at the same time as that one and each other.
//
// A connection ends in one of these ways:
//   - The function of Guard.Handler returns. The function need not close the connection.
//   - The application calls Close or End, as it must after Guard.Accept.
//   - The context of the request that Guard.Accept has upgraded ends.
//   - The peer closes the connection, or is gone.
//   - The Guard ends the connection.
//
// From then on Read, Write, the methods that send and Refresh return the cause, a *[CloseError],
// and Context is done.
type Conn struct {
	// Read-only after start.
	g           *Guard
	e           *Endpoint
	first       *endpointPolicy // the policy of the handshake, for timeouts, queue bounds and frame limits
	known       bool            // the origin of the handshake was right
	w           *wire.Conn      // the engine
	wrap        *wrapping       // the second door; nil behind the first
	id          string
	client      client
	origin      string // as retained returns it
	host        string // as retained returns it
	subprotocol string
	opened      time.Time
	tally       *meterShard     // the shard of the Guard's meter in which the connection counts
	ctx         context.Context // ends when the cause of the end is fixed
	cancel      context.CancelCauseFunc

	reading inbound
	writing outbound
	queue   queue
	who     authentication
	life    lifecycle
	watch   watch

	ticked struct{ messages, bytes uint64 } // what reading had counted at the last tick of spikes, whose mu guards it
}

// ID returns the name of the connection in events, in [Admin.Sessions] and for
// [Admin.Kick]: 32 hexadecimal digits that no other connection has.
func (c *Conn) ID() string { return c.id }

// Principal returns the Principal of the connection. It is the zero Principal while the
// connection is anonymous. Refresh and AuthConfig.Revalidate change it. The caller must
// not change Scopes, because every caller gets the same slice.
func (c *Conn) Principal() Principal { return *c.who.principal.Load() }

// Value returns what Config.Attach returned for the connection, or nil. If Refresh has given an
// anonymous connection a subject, it is what Attach returned then. The guard closes that value
// and the one before it when the connection has ended.
func (c *Conn) Value() any {
	if newer := c.who.newer.Load(); newer != nil && newer != gone {
		return newer.value
	}
	return c.who.value
}

// Subprotocol returns the subprotocol that was negotiated, or "" if there is none.
func (c *Conn) Subprotocol() string { return c.subprotocol }

// Client returns the address of the client. Behind a trusted proxy it is the address that
// the proxy reports.
func (c *Conn) Client() netip.Addr { return c.client.addr }

// Context returns the context of the connection. It ends as soon as something ends the
// connection, before the close frame is sent, and context.Cause then returns the cause. It
// has no values of the request. It is the context that the function of Guard.Handler gets.
//
// A peer that leaves while the application does not read ends the context within half a second.
// The peer's messages that were not read are then lost. The guard does not see everything:
//   - A close frame behind a message that was not read is seen when the application has read
//     that message.
//   - If the peer closes its socket without a close frame behind more than 4 KiB that were not
//     read, the guard sees the end on Linux only. The guard must also be able to find the
//     socket. If a listener of the http.Server wraps its connections, the wrapper needs a
//     method NetConn or SyscallConn.
//   - What a proxy has not passed on cannot be seen.
func (c *Conn) Context() context.Context { return c.ctx }

// Read waits for the next message that passes all checks, and returns its type and its
// bytes.
//
// The bytes are valid until the next Read. The guard then reuses the memory, also for
// messages of other connections. Copy the bytes to keep them. Send, SendWait and SendLatest copy
// what they are given.
//
// If ctx ends first, Read returns ctx.Err() and the connection stays usable. The next Read
// continues with the part of a message that has come. Once the connection has ended, Read
// returns the cause, a *[CloseError]. Passing the same context to each Read costs nothing,
// and neither does passing the Conn's own.
//
// An application must read even if it expects no message. While it does not, the guard looks every
// 400 milliseconds whether the peer is still there, as [Conn.Context] says, but it waits for no
// pong and counts no idle time. Use [Conn.CloseRead] in an application that only sends.
func (c *Conn) Read(ctx context.Context) (MessageType, []byte, error) {
	if c.reading.closeRead.Load() {
		return 0, nil, errors.New("wsguard: Read after CloseRead")
	}
	return c.read(ctx)
}

// Kind returns the type of the message that Read has returned last. It is the key of the message's
// Rule in Table.Types or Table.Prefixes, and so it is never a text that the peer has chosen. It is
// "*" if the Rule is Table.Default. Kind is "" if the Rule is Table.Absent, for a JSON-RPC batch,
// without a [Table], and for a message of an unknown type that was only reported. Only the
// goroutine that reads may call it.
func (c *Conn) Kind() string { return c.reading.kind }

// CloseRead is for an application that only sends. It starts a goroutine that reads from the
// connection, and returns at once. If a message passes all checks, that goroutine closes the
// connection with 1008 unexpected_message. After CloseRead the application must not call
// Read, which returns an error. A further CloseRead does nothing.
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

// Write sends a message and returns when the kernel has all of it. It neither changes msg nor
// keeps it. Use it if the caller must wait for a slow peer anyway, as in an answer to a message
// that was read. Write waits for what Send has queued before it, so that messages leave in the
// order in which one goroutine has sent them. A peer that takes nothing for as long as
// Timeouts.Write ends the connection.
//
// If ctx ends before Write has written a byte, Write returns ctx.Err() and the connection
// stays usable. If ctx ends later, or if the message cannot be written, the connection ends
// and Write returns the cause, a *[CloseError]. Over TLS the guard cannot know whether a
// byte has left. So a connection over TLS ends if ctx ends after Write has begun to write.
//
// Write refuses msg if typ is not a message type, if a MessageText is not UTF-8, or if
// Messages.Outbound refuses it. Write then sends nothing, and the connection stays usable.
// The error is no *CloseError. For a text that is not UTF-8 it wraps reason.InvalidUTF8,
// because every browser would close the connection at such a text. For Outbound it wraps the
// error of Outbound.
func (c *Conn) Write(ctx context.Context, typ MessageType, msg []byte) error {
	if err := wellFormed(typ, msg); err != nil {
		return err
	}
	if err := c.outbound(msg); err != nil {
		return err
	}
	if c.queue.count.Load() > 0 {
		if err := c.flushed(ctx); err != nil {
			return err
		}
	}
	return c.writeMessage(ctx, typ, msg)
}

// Send queues a message and returns at once. A goroutine writes the queued messages, in
// order, and as many as there are with one system call. Send copies msg, so that the caller may
// change it when Send has returned. msg may be the bytes that Read returned. Use Send if the
// caller must not wait for this peer, as in a hub that serves many. Use [Conn.SendPrepared] for a
// message that goes to many connections.
//
// If the queue of the connection is full, Send ends the connection with 1008 queue_full.
// With [SendConfig].DropNewest it returns reason.QueueFull instead, and the connection stays
// usable. An empty queue takes one message of any size. If the queues of all connections together
// are full, the guard ends connections of the client that has the most queued. If that makes no
// room, Send returns an error that wraps reason.QueueFull, and the connection stays usable; see
// [SendConfig].MaxTotalBytes. Once the connection has ended, Send returns the cause, a
// *[CloseError]. Send refuses the messages that Write refuses.
//
// The following ends of a connection write the queued messages before the close frame, for
// at most [TimeoutConfig].CloseGrace:
//   - The function of Guard.Handler returns, with or without an error.
//   - The application calls Close with a code that can be sent, or End.
//   - The context of the request that Guard.Accept has upgraded ends.
//   - Guard.Shutdown closes the connection.
//   - The connection is as old as its Lifetime allows.
//   - Admin.Kick ends the connection with a code that can be sent.
//
// Every other end drops the queued messages, and so does a peer that does not take them in
// time. The close event counts the dropped messages. Flush waits until the messages are written.
func (c *Conn) Send(typ MessageType, msg []byte) error {
	m, err := c.message(typ, msg)
	if err != nil {
		return err
	}
	return c.send(m)
}

// SendWait is like Send but waits while the queue of the connection is full. Use it to send more
// than a queue holds, such as a long list, as fast as the peer takes it. Calls that wait get room
// in the order in which they began. DropNewest does not apply to SendWait.
//
// If ctx ends first, SendWait returns ctx.Err(), the message is not queued, and the connection
// stays usable. A peer that takes nothing for as long as Timeouts.Write ends the connection, and
// SendWait returns the cause, a *[CloseError]. If the queues of all connections together are
// full, SendWait does what Send does.
func (c *Conn) SendWait(ctx context.Context, typ MessageType, msg []byte) error {
	m, err := c.message(typ, msg)
	if err != nil {
		return err
	}
	return c.sendWait(ctx, m)
}

// SendLatest is like Send but replaces a queued message with the same key. Use it for values
// of which only the newest matters, such as a price. The new message takes the place of the old
// one in the queue. SendLatest does not replace a message that is being written.
func (c *Conn) SendLatest(key string, typ MessageType, msg []byte) error {
	m, err := c.message(typ, msg)
	if err != nil {
		return err
	}
	if m.key = key; key == "" {
		m.key = "\x00" // a key like any other
	}
	return c.send(m)
}

// SendPrepared is like Send for a message that [Guard.Prepare] or [Endpoint.Prepare] has made. Use
// it to send one message to many connections. It copies nothing.
//
// Prepare has judged the message by Messages.Outbound. SendPrepared judges it again only after
// a Reconfigure, or if p was last judged for another endpoint. If p is from another Guard,
// SendPrepared does what Send does.
func (c *Conn) SendPrepared(p *Prepared) error {
	if p.g != c.g {
		return c.Send(p.typ, p.payload)
	}
	if err := c.cause(); err != nil {
		return err
	}
	if err := c.prepared(p); err != nil {
		return err
	}
	return c.send(message{payload: p.payload, frame: len(p.frame), prepared: p})
}

// Flush waits until all messages that are queued when it is called are written. It returns
// ctx.Err() if ctx ends first, and the cause, a *[CloseError], if the connection has ended with
// messages in the queue.
func (c *Conn) Flush(ctx context.Context) error { return c.flushed(ctx) }

// Refresh replaces the credential of the connection with a newer one of the same subject,
// which the application has received from the peer. The Principal of the connection then has
// the Expires, the Scopes, the SessionID and the IssuedAt of the new credential. Refresh
// calls the Verifier, or redeems a ticket if there is no Verifier, and waits for an answer
// no longer than VerifyTimeout. One Refresh of a connection runs at a time.
//
// Refresh refuses a credential with an earlier IssuedAt than that of the old one. If Refresh
// returns an error, the old credential stays in force and the connection stays open, with
// two exceptions. A credential of another subject closes the connection with 1008 refresh. A
// revoked credential closes it with 3000 revoked. The error wraps a reason, or it is a
// *[CloseError] if the connection has ended.
//
// Refresh has a rate for each connection. It is one call every 10 seconds, with a burst of 3.
// Refresh refuses further calls with reason.RateLimited.
//
// The first Refresh of an anonymous connection gives it the subject of the credential. It
// applies the limits of that subject and the revocations, and calls Config.Attach, which may
// take VerifyTimeout once more. From then on [Conn.Value] returns the new value. If Refresh
// returns an error, the connection stays anonymous and open, and its value stays. Refused
// credentials count as failures of the client. A connection that was opened before
// Reconfigure has set Attach is refused with reason.Unavailable, and so is one whose handshake
// had more than 16 KiB of headers, if there is an Attach.
func (c *Conn) Refresh(ctx context.Context, token string) error { return c.refresh(ctx, token) }

// Close ends the connection with code and text. It returns at once, before the close frame
// is sent. The text is cut to 123 bytes of valid UTF-8. If the connection has ended already,
// Close changes nothing.
//
// Close returns nil, unless code must not be sent (RFC 6455 §7.4). For such a code it
// returns an error, and ends a connection that is open with 1011.
func (c *Conn) Close(code StatusCode, text string) error {
	if !sendable(code) {
		c.end(fault(fmt.Sprintf("Close with code %d", int(code))))
		return fmt.Errorf("wsguard: close code %d cannot be sent", int(code))
	}
	c.end(chosen(code, text, reason.Closed))
	return nil
}

// End ends the connection as Guard.Handler does when its function has returned err. It
// returns at once. The close code is one of these:
//   - 1000 if err is nil
//   - the code of a *[CloseError] that err wraps, with its Reason as the text
//   - the code of a reason that the application has made with [reason.New], if err wraps one,
//     with its token as the text
//   - 1011 for any other error
//
// An application that calls Accept uses it:
//
//	defer func() { c.End(err) }()
func (c *Conn) End(err error) {
	// The application's error has methods that may panic or end the goroutine.
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
		e.flush = true // the application has returned
		if own := ownReason(err); own != nil {
			e.why = own
		}
		c.end(e)
	}
}

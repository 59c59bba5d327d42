package wire

import (
	"crypto/tls"
	"net"
	"time"
)

// Ending says how a connection ends.
type Ending struct {
	Cause  error  // what Conn.Cause returns
	Code   int    // of the close frame; 0 sends none
	Reason string // of the close frame
	Cut    bool   // close the socket at once, and send no close frame

	First func() // called before Conn.Cause returns the cause
	Done  func() // called on a goroutine of its own when the socket is closed

	// Queue has the frames that are written before the close frame, within the grace. nil
	// writes none.
	Queue Source
}

// End ends the connection. The first call wins. When End returns, a cause is set.
//
// The ending has the grace for a write that is under way and for the close frame. In all it
// has the grace and the linger. Both count from the wrapped handler's close frame or half-close
// if that came before.
func (c *Conn) End(e Ending) {
	if c.ending.Swap(true) {
		<-c.closing
		return
	}
	defer func() { go c.finish(e) }() // whatever First does
	defer c.fix(e)
	e.First()
}

// fix sets the cause. The reader stops at once. A writer has the grace: if its frame gets out,
// the close frame can follow.
//
// Without a Queue, a batch of a Source stops at the end of the frame that is under way. On a
// socket the writer is interrupted for that. Elsewhere it looks after each piece.
func (c *Conn) fix(e Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	drops := e.Queue == nil
	c.cause, c.endCode, c.endReason, c.drops = e.Cause, e.Code, e.Reason, drops
	from := c.lastWord
	if from == 0 {
		from = c.now()
	}
	c.graceBy = from + c.cfg.CloseGrace
	c.overBy = c.graceBy + c.cfg.Linger
	close(c.closing)
	if e.Cut {
		c.endCode = 0
		c.hangUp()
	}
	c.armed = 1
	setDeadline(c.nc.SetReadDeadline, past)
	if drops && c.resumes && c.inBatch.Load() {
		c.warmed = 1
		setDeadline(c.nc.SetWriteDeadline, past)
		return
	}
	c.warmed = c.graceBy
	setDeadline(c.nc.SetWriteDeadline, c.at(c.warmed))
}

// setDeadline sets a deadline of a net.Conn. It recovers a panic, because a net.Conn may be the
// application's.
func setDeadline(set func(time.Time) error, t time.Time) {
	defer func() { _ = recover() }()
	set(t)
}

// Cut closes the socket without waiting for the peer any longer. It must be called after End.
func (c *Conn) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangUp()
}

// hangUp closes the socket. The caller holds mu.
func (c *Conn) hangUp() {
	c.cut = true
	closeConn(c.socket())
}

// socket returns the net.Conn under TLS. Closing a tls.Conn instead writes an alert, and may
// wait five seconds for a peer that does not take it.
func (c *Conn) socket() net.Conn {
	if t, ok := c.nc.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.nc
}

// Left returns how much time the ending still has. It must be called after End.
func (c *Conn) Left() time.Duration { return c.until(c.overBy) }

// until returns the time from now until at, or 0. Only the ending may call it.
func (c *Conn) until(at time.Duration) time.Duration { return max(0, at-c.now()) }

// parting is how the ending leaves the peer.
type parting int

const (
	partCut   parting = iota // nothing more reaches the peer
	partFIN                  // the peer sees the end of the stream only
	partClose                // a close frame has been sent, by the engine or by the handler
)

func (c *Conn) finish(e Ending) {
	defer e.Done()
	defer c.abandon()
	if c.wrapped != nil {
		c.wrapped.attach(nil)
	}
	socket := c.socket()
	defer closeConn(socket)
	// Neither a tls.Conn's lock nor a net.Conn that ignores its deadlines holds the ending up.
	late := time.AfterFunc(c.until(c.overBy), func() { closeConn(socket) })
	defer late.Stop()
	how, writer := c.part(e.Queue)
	c.stopLooking()
	if c.wrapped != nil {
		c.wrapped.finish(writer)
	}
	// The reader's Read has failed by now, or fails at once; the application
	// runs outside of the lock.
	if c.lockReader() {
		c.tidyReader()
		if how != partCut {
			c.linger(how)
		}
		c.dropUnread()
	}
}

// abandon leaves what the ending could not tidy up, because it did not get the lock, to the
// holder of the lock.
func (c *Conn) abandon() {
	c.over.Store(true)
	c.lastReader()
	c.lastWriter()
}

// lastReader tidies up for a reader that has outlasted the ending. Once over is set, a
// goroutine that has given the reader's lock back calls it.
func (c *Conn) lastReader() {
	select {
	case c.rlock <- struct{}{}: // for good
		c.tidyReader()
		c.dropUnread()
	default:
	}
}

// lastWriter does the same for a writer.
func (c *Conn) lastWriter() {
	if c.tryLockWriter() { // for good
		c.wctx.clear()
		if c.wrapped != nil {
			c.wrapped.tidy()
		}
	}
}

// tidyReader gives up what the reader holds. The caller is the reader, for good.
func (c *Conn) tidyReader() {
	// The context may be the application's, and live as long as the process.
	c.rctx.clear()
	if c.lent || c.whole {
		// The application may still hold a message, and a wrapped handler a
		// part of a frame.
		c.forsake()
	}
}

// dropUnread forgets what the peer has sent and nobody reads.
func (c *Conn) dropUnread() {
	c.release()
	c.early = nil
}

// lockReader makes the ending the reader, for good. It reports false for a net.Conn that
// ignores its deadlines, and while the application judges a message.
func (c *Conn) lockReader() bool {
	select {
	case c.rlock <- struct{}{}:
		return true
	default:
	}
	t := time.NewTimer(c.until(c.overBy))
	defer t.Stop()
	select {
	case c.rlock <- struct{}{}:
		return true
	case <-t.C:
		return false
	}
}

// lockWriter makes the ending the writer, for good. Within the grace it waits until a wrapped
// handler is ready. After the grace it waits, until the linger is over, only for the writer
// that is under way, whose deadline has passed by then. waited says that the grace may be over,
// or nearly over. ok is false for a net.Conn that ignores its deadlines.
func (c *Conn) lockWriter() (waited, ok bool) {
	ready := func() bool { return c.wrapped == nil || c.wrapped.ready() }
	if c.tryLockWriter() {
		if ready() {
			return false, true
		}
		<-c.wlock
	}
	t := time.NewTimer(c.until(c.graceBy))
	defer t.Stop()
	late := false
	over := func() bool { // the timer has fired
		if late {
			return true
		}
		late = true
		t.Reset(c.until(c.overBy))
		return false
	}
	for {
		select {
		case c.wlock <- struct{}{}:
		case <-t.C:
			if over() {
				return true, false
			}
			continue
		}
		if late || ready() {
			return true, true
		}
		<-c.wlock
		select {
		case <-c.wrapped.changed:
		case <-t.C:
			over()
		}
	}
}

// part writes the close frame, if one is due. Nothing is written after it. ok says that
// the ending is the writer.
func (c *Conn) part(queue Source) (how parting, ok bool) {
	defer func() {
		if recover() != nil { // a net.Conn may be the application's
			how = partCut
		}
	}()
	waited, ok := c.lockWriter()
	if !ok {
		c.abort()
		return partCut, false
	}
	c.wctx.clear()
	w := c.wrapped
	code, reason, lost := c.finalWrite(waited && queue == nil)
	switch {
	case c.broken || w != nil && c.failure != nil && !w.boundary():
		c.abort()
		return partCut, true
	case lost != nil || w == nil && code == 0:
		return partCut, true
	case w == nil && queue != nil:
		if c.flush(queue); c.broken {
			c.abort()
			return partCut, true
		}
		c.finalWrite(true)
	case w == nil:
	case w.closeSent.Load():
		return partClose, true
	case code == 0 || w.phase != phaseOpen || w.finSent || !w.boundary():
		return partFIN, true
	}
	var payload []byte
	if code != 1005 { // the answer to a close frame without a code has none
		payload = appendClose(nil, code, reason)
	}
	if _, err := c.push(opClose, payload, false); err != nil {
		return partCut, true
	}
	return partClose, true
}

// finalWrite sets the deadline of the close frame, and returns what decides about that frame.
// If the ending has waited for a frame that was under way, the close frame has the linger too.
func (c *Conn) finalWrite(waited bool) (code int, reason string, lost error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.final = true
	if c.warmed = c.graceBy; waited {
		c.warmed = c.overBy
	}
	c.nc.SetWriteDeadline(c.at(c.warmed))
	return c.endCode, c.endReason, c.lost
}

// linger waits until the peer can have read the close frame. Closing a socket with unread
// bytes resets it, and a reset destroys bytes that are on their way (RFC 6455 §7.1.1). First
// the peer may answer with a close frame of its own, and then it may close its side. linger
// bounds both waits and the bytes that it reads.
//
// linger does not wait if both close frames have been exchanged. The peer then sends nothing
// more, and the server closes first.
func (c *Conn) linger(how parting) {
	defer func() { _ = recover() }() // a net.Conn may be the application's
	select {
	case c.cfg.Endings <- struct{}{}:
		defer func() { <-c.cfg.Endings }()
	default:
		return
	}
	left := c.cfg.LingerBytes
	// The end of the stream comes after the answer, or at the end of the grace. A peer that
	// meets it while it still sends may give up at once, and never look at the close frame.
	if how == partClose && !c.answered.Load() && !c.parted {
		if !c.deadline(c.graceBy) {
			return
		}
		left = c.awaitClose(left)
	}
	if !c.deadline(min(c.overBy, c.now()+c.cfg.Linger)) {
		return
	}
	socket := c.socket()
	if t, ok := c.nc.(*tls.Conn); ok {
		if t.CloseWrite() != nil {
			return
		}
	}
	// Many a net.Conn around a socket does not show that it can be half closed.
	// Its peer is not told of the end yet, but has the same time to read the close
	// frame.
	if half, ok := socket.(interface{ CloseWrite() error }); ok && !c.answered.Load() {
		if half.CloseWrite() != nil {
			return
		}
	}
	if how == partClose && !c.answered.Load() {
		left = c.awaitClose(left)
	}
	if c.answered.Load() {
		// Over TLS the peer's close_notify may be there.
		takeUnread(socket, left)
		return
	}
	c.discard(left)
}

// deadline bounds the waiting that follows. It reports false after Cut.
func (c *Conn) deadline(by time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return false
	}
	c.nc.SetDeadline(c.at(by))
	return true
}

// maxSkipped is how many frames an ending parses to find the peer's close frame. A peer can
// send an empty frame for less than it costs to parse one.
const maxSkipped = 10_000

// awaitClose reads and drops what the peer sends until it has all of the peer's close frame. It
// returns the rest of limit. It can be called again. If the close frame cannot be told from
// other bytes, it drops what comes until the deadline.
func (c *Conn) awaitClose(limit int64) int64 {
	if !c.desync {
		limit = c.skipFrames(limit)
	}
	if c.desync {
		limit = c.discard(limit)
	}
	return limit
}

// skipFrames is awaitClose for as long as what comes can be read as frames. When it cannot, it
// sets desync.
func (c *Conn) skipFrames(limit int64) int64 {
	c.skipFrame()
	closed := false
	for limit > 0 {
		for c.w > c.r || closed {
			if c.remain > 0 {
				n := int(min(c.remain, int64(c.w-c.r)))
				c.r += n
				c.remain -= int64(n)
				if c.remain > 0 {
					break
				}
			}
			if closed {
				c.answered.Store(true)
				return limit
			}
			h, n, fault := parseHeader(c.buf[c.r:c.w], c.open)
			if fault != "" || h.length > limit || c.skipped == maxSkipped {
				c.desync = true
				return limit
			}
			if n == 0 {
				break
			}
			c.skipped++
			if !h.control() {
				c.open = !h.fin
			}
			closed = h.op == opClose
			c.remain = int64(n) + h.length
		}
		if c.early != nil {
			c.takeEarly()
			continue
		}
		n, err := c.receive(nil)
		c.w += n
		limit -= int64(n)
		switch {
		case isTimeout(err):
			return limit
		case err != nil:
			return 0
		}
	}
	return limit
}

// skipFrame turns the unread rest of a frame into bytes to be skipped.
func (c *Conn) skipFrame() {
	if !c.inFrame {
		return
	}
	if c.box == nil { // what has been taken still lies in buf
		c.r += int(c.size - c.remain)
	}
	c.open, c.inFrame = !c.fin, false
}

// discard reads and throws away until EOF, an error, or limit bytes. It returns the rest of
// limit. Under TLS it does not decrypt what it reads, so nothing can be read from the net.Conn
// afterwards.
func (c *Conn) discard(limit int64) int64 {
	nc := c.socket()
	b := buffers.get()
	defer buffers.put(b)
	for limit > 0 {
		n, err := nc.Read(b[:])
		limit -= int64(n)
		switch {
		case isTimeout(err):
			return limit
		case err != nil:
			return 0
		}
	}
	return limit
}

// abort arranges that closing the socket resets the connection. The kernel then drops the bytes
// that a stuck peer does not take.
func (c *Conn) abort() {
	if tcp, ok := c.socket().(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	setDeadline(c.nc.SetDeadline, past)
}

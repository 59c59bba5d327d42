package wire

import (
	"crypto/tls"
	"net"
	"time"
)

// End ends the connection. The first call wins: cause is what Cause returns from
// now on, and the peer is sent code and reason; code 0 sends no close frame.
// first is called before anybody can see the cause; done from a goroutine of its
// own when the socket is closed, after no more than the grace, the linger and
// what a write that is under way still takes of the grace. When End returns, a
// cause is set.
func (c *Conn) End(cause error, code int, reason string, first, done func()) {
	if c.ending.Swap(true) {
		<-c.closing
		return
	}
	first()
	c.mu.Lock()
	c.cause, c.endCode, c.endReason = cause, code, reason
	close(c.closing)
	// The reader stops at once. A writer has the grace: if its frame gets
	// out, the close frame can follow.
	c.armed = 1
	c.nc.SetReadDeadline(past)
	c.warmed = c.now() + c.cfg.CloseGrace
	c.nc.SetWriteDeadline(c.born.Add(c.warmed))
	c.mu.Unlock()
	go c.finish(code, reason, done)
}

// Cut closes the socket without waiting for the peer any longer. It is for
// after End; before it, End is what to call.
func (c *Conn) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	closeConn(c.socket())
}

// socket is the net.Conn under TLS: closing a tls.Conn writes an alert, and may
// wait five seconds for a peer that does not take it.
func (c *Conn) socket() net.Conn {
	if t, ok := c.nc.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.nc
}

func (c *Conn) finish(code int, reason string, done func()) {
	defer done()
	defer func() {
		_ = recover() // a net.Conn may be the application's
		closeConn(c.socket())
	}()
	polite := c.sendClose(code, reason)
	if c.wrapped != nil {
		c.wrapped.finish()
	}

	// The reader's Read has failed by now, or fails at once; the application
	// runs outside of the lock.
	t := time.NewTimer(c.cfg.CloseGrace)
	select {
	case c.rlock <- struct{}{}:
		c.rctx.clear()
		if c.lent || c.whole {
			// The application may still hold a message, and a wrapped handler a
			// part of a frame.
			c.forsake()
		}
		if polite {
			c.linger()
		}
		c.release()
		c.early = nil
	case <-t.C:
		// A net.Conn that ignores its deadlines.
	}
	t.Stop()
}

// sendClose writes the close frame and reports whether it is worth waiting for the peer
// to read what was sent.
func (c *Conn) sendClose(code int, reason string) bool {
	t := time.NewTimer(c.cfg.CloseGrace)
	defer t.Stop()
	w := c.wrapped
	for late := false; ; {
		select {
		case c.wlock <- struct{}{}:
			// Kept: nothing is written after this.
		case <-t.C:
			// A writer that ignores its deadline. Closing the socket is all that is
			// left.
			c.abort()
			return false
		}
		if w == nil || late || w.ready() {
			break
		}
		<-c.wlock
		select {
		case <-w.changed:
		case <-t.C:
			late = true
			t.Reset(c.cfg.CloseGrace)
		}
	}
	c.wctx.clear()
	if w != nil {
		c.mu.Lock()
		c.final, c.warmed = true, c.now()+c.cfg.CloseGrace
		c.nc.SetWriteDeadline(c.born.Add(c.warmed))
		c.mu.Unlock()
	}
	switch {
	case c.broken:
		c.abort()
		return false
	case w != nil && (w.phase != phaseOpen || w.closeSent.Load() || w.closed.Load() && !c.answered.Load() || !w.boundary()):
		// No close frame, or no other: the end of the stream is all that is sent.
		return c.Lost() == nil
	case code == 0:
		return false
	}
	var payload []byte
	if code != 1005 { // the answer to a close frame without a code has none
		payload = appendClose(nil, code, reason)
	}
	_, err := c.push(opClose, payload, func() bool { return false })
	return err == nil
}

// linger waits until the peer can have read the close frame. A socket that is
// closed with unread bytes in it is reset, and a reset eats what is on its way (RFC
// 6455 §7.1.1). First the peer may answer with a close frame of its own, then it may
// close its side; linger waits for neither for long, and reads few bytes.
//
// When both close frames have been exchanged there is nothing to wait for. The peer
// sends nothing more, and the server closes first.
func (c *Conn) linger() {
	select {
	case c.cfg.Endings <- struct{}{}:
		defer func() { <-c.cfg.Endings }()
	default:
		return
	}
	left := c.cfg.LingerBytes
	// Before the half-close below, the answer is not waited for in the middle of a
	// frame: it may lie behind a payload that never comes.
	if !c.answered.Load() && !c.desync && !c.behind && !c.inFrame && c.deadline(c.cfg.CloseGrace) {
		left = c.awaitClose(left)
	}
	if !c.deadline(c.cfg.Linger) {
		return
	}
	// Neither a tls.Conn's lock nor a socket that ignores its deadlines holds
	// the ending up.
	socket := c.socket()
	timer := time.AfterFunc(c.cfg.Linger, func() { closeConn(socket) })
	defer timer.Stop()
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
	if !c.answered.Load() && !c.desync {
		left = c.awaitClose(left)
	}
	if c.answered.Load() {
		// Over TLS the peer's close_notify may be there.
		takeUnread(socket, left)
		return
	}
	// Under TLS, what the peer still sends need not be decrypted.
	c.discard(socket, left)
}

// deadline bounds the waiting that follows. It reports false after Cut.
func (c *Conn) deadline(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return false
	}
	c.nc.SetDeadline(c.born.Add(c.now() + d))
	return true
}

// awaitClose reads frames, throwing them away, until it has all of the peer's close
// frame. It returns what is left of limit. It can be called again.
func (c *Conn) awaitClose(limit int64) int64 {
	// What the reader left of a frame that it was in.
	if c.inFrame {
		if c.inPlace() {
			c.remain = c.size
		}
		c.inFrame, c.open = false, !c.fin
	}
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
			if fault != "" {
				c.desync = true
				return limit
			}
			if h.length > limit {
				return limit
			}
			if n == 0 {
				break
			}
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
		if err != nil {
			return 0
		}
	}
	return limit
}

// discard reads and throws away until EOF, an error, or limit bytes.
func (c *Conn) discard(nc net.Conn, limit int64) {
	b := buffers.get()
	defer buffers.put(b)
	for limit > 0 {
		n, err := nc.Read(b[:])
		limit -= int64(n)
		if err != nil {
			return
		}
	}
}

// abort makes the close that follows a reset: the kernel is not to keep bytes
// that a stuck peer does not take.
func (c *Conn) abort() {
	if tcp, ok := c.socket().(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.nc.SetDeadline(past)
}

package wire

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// Write sends one message and returns when the kernel has all of it. A context
// that ends before the first byte has left stops it with ErrInterrupted, and
// the connection stays usable. After a *WriteError the caller must end the
// connection.
func (c *Conn) Write(ctx context.Context, op byte, p []byte) error {
	done := ctx.Done()
	select {
	case c.wlock <- struct{}{}:
	default:
		select {
		case c.wlock <- struct{}{}:
		case <-done:
			return ErrInterrupted
		case <-c.closing:
			return ErrClosing
		}
	}
	defer c.unlockWriter()
	if done != nil {
		c.wctx.watch(ctx)
		c.setWriteContext(done)
		defer c.setWriteContext(nil)
		if ctx.Err() != nil {
			return ErrInterrupted
		}
	}
	start := c.now()
	err := c.writeFrame(op, p, start)
	if err == nil {
		c.lastApp.Store(int64(start))
		c.lastMessage.Store(int64(start))
	}
	return err
}

// setWriteContext sets the context of the current Write. It clears an interrupt that was for
// another Write.
func (c *Conn) setWriteContext(done <-chan struct{}) {
	c.mu.Lock()
	c.wcur, c.wintr = done, false
	c.mu.Unlock()
}

// interruptWrite stops a Write that is on behalf of the context with done.
func (c *Conn) interruptWrite(done <-chan struct{}) {
	defer c.survive()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil && c.wcur == done {
		c.wintr = true
		c.warmed = 1
		c.nc.SetWriteDeadline(past)
	}
}

func (c *Conn) tryLockWriter() bool {
	select {
	case c.wlock <- struct{}{}:
		return true
	default:
		return false
	}
}

// unlockWriter sends the frames that wait for the writer, and unlocks it. Leaving frames to
// the writer lets the reader never wait for a stuck one.
func (c *Conn) unlockWriter() {
	for {
		stuck := c.pending.Load() && !c.flushControl()
		<-c.wlock
		// One may have been left between the flush and the unlock.
		if stuck || !c.pending.Load() || !c.tryLockWriter() {
			return
		}
	}
}

// flushControl sends the frames that wait: control frames at the boundary of a frame,
// notices at the boundary of a message. It reports whether none waits any more.
func (c *Conn) flushControl() bool {
	for {
		if c.failed || c.wrapped != nil && !c.wrapped.between() {
			return false // a write that failed has said so, and must not wait again
		}
		op, p := c.nextWaiting(c.wrapped == nil || c.wrapped.betweenMessages())
		if op == 0 {
			return !c.pending.Load()
		}
		if err := c.writeFrame(op, p, c.now()); err != nil {
			if _, failed := err.(*WriteError); failed {
				c.hooks.Broken(err)
			}
			return false
		}
	}
}

// nextWaiting takes a frame that waits. between says whether a notice may go out.
func (c *Conn) nextWaiting(between bool) (op byte, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.pendPong >= 0:
		op, p = opPong, c.wctl[:copy(c.wctl[:], c.pongData[:c.pendPong])]
		c.pendPong = -1
	case c.pendPing:
		payload := c.pingPayload(c.pings)
		op, p = opPing, c.wctl[:copy(c.wctl[:], payload[:])]
		c.pendPing, c.oursLast = false, true
	case between && len(c.notices) > 0:
		op, p = opText, c.notices[0]
		c.notices[0] = nil
		c.notices = c.notices[1:]
	}
	c.pending.Store(c.pendPing || c.pendPong >= 0 || len(c.notices) > 0)
	return op, p
}

// Notice sends a text message of the guard's to the peer of a wrapped handler, between two
// messages of the handler's. It reports false if too many wait already.
func (c *Conn) Notice(p []byte) bool {
	c.mu.Lock()
	full := len(c.notices) >= maxNotices
	if !full {
		c.notices = append(c.notices, p)
		c.pending.Store(true)
	}
	c.mu.Unlock()
	if !full && c.tryLockWriter() {
		c.unlockWriter()
	}
	return !full
}

// pong answers a ping. If another goroutine is the writer, it leaves the pong to that one. If
// several pings wait, it answers only the last, which RFC 6455 §5.5.3 allows.
func (c *Conn) pong(p []byte) {
	c.mu.Lock()
	c.pendPong = copy(c.pongData[:], p)
	c.pending.Store(true)
	c.mu.Unlock()
	if c.tryLockWriter() {
		c.unlockWriter()
	}
}

// Ping sends a ping. If another goroutine is the writer, it leaves the ping to that one. The
// timeout of a ping that still waits for its pong continues.
//
// If the wrapped handler has just sent a ping, Ping sends none. A peer may answer only the
// latest of several pings (RFC 6455 §5.5.3), and the handler waits for the answer to its own.
func (c *Conn) Ping() {
	now := c.now()
	if !c.wantPing(now) {
		return
	}
	if c.tryLockWriter() {
		c.unlockWriter()
	}
}

// wantPing leaves a ping to the writer. It returns false if none is due.
func (c *Conn) wantPing(now time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.theirPing; at != 0 && now < at+c.cfg.PingInterval/2 {
		return false
	}
	if !c.pendPing {
		c.pendPing = true
		c.pings++
	}
	c.pingSent = now
	c.pongs.CompareAndSwap(0, int64(now))
	c.pending.Store(true)
	return true
}

// pinged notes that a ping of the wrapped handler's has gone out. The next pong that the
// handler gets shows that the peer is there, as one to a ping of ours does.
func (c *Conn) pinged(now time.Duration) {
	if c.cfg.PingInterval <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.theirPing, c.theirs, c.oursLast = now, true, false
	c.pongs.CompareAndSwap(0, int64(now))
}

// pingSecret makes the payloads of pings unpredictable.
var pingSecret = sync.OnceValue(func() (b [32]byte) {
	rand.Read(b[:])
	return b
})

// pingPayload returns the payload of our nth ping. It is n and a code that only the engine can
// make. So the engine knows a pong to each ping that it has ever sent, and keeps none of them.
func (c *Conn) pingPayload(n uint32) (p [8]byte) {
	var b [32 + 8 + 4]byte
	secret := pingSecret()
	copy(b[:], secret[:])
	binary.BigEndian.PutUint64(b[32:], c.pingKey)
	binary.BigEndian.PutUint32(b[40:], n)
	sum := sha256.Sum256(b[:])
	binary.BigEndian.PutUint32(p[:], n)
	copy(p[4:], sum[:])
	return p
}

// ourPing returns which ping of ours a pong with payload p answers.
func (c *Conn) ourPing(p []byte) (n uint32, ok bool) {
	if len(p) != 8 {
		return 0, false
	}
	n = binary.BigEndian.Uint32(p)
	want := c.pingPayload(n)
	return n, string(p) == string(want[:])
}

// answersOurs takes a pong to our nth ping. It reports whether the pong is news. It is none if
// the same pong, or one to a later ping, has come before.
func (c *Conn) answersOurs(n uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n <= c.ponged || n > c.pings {
		return false
	}
	c.ponged = n
	c.heard()
	return true
}

// answersTheirs notes a pong to a ping of the wrapped handler. The pong goes on to the handler.
func (c *Conn) answersTheirs() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.theirs {
		c.theirs = false
		c.heard()
	}
}

// heard ends the wait for a pong. If the last ping on the wire is ours and has not been
// answered, the peer owes a pong to that one: it may leave out only the pongs to earlier pings
// (RFC 6455 §5.5.3). mu is held.
func (c *Conn) heard() {
	sent := c.pongs.Load()
	if !(c.oursLast || c.pendPing) || c.ponged == c.pings {
		c.pongs.Store(0)
	} else if sent != 0 {
		c.pongs.CompareAndSwap(sent, max(sent, int64(c.pingSent)))
	}
}

// writeFrame sends one frame within the write timeout, from start on. The caller
// is the writer.
func (c *Conn) writeFrame(op byte, p []byte, start time.Duration) error {
	if c.broken {
		c.failed = true
		return &WriteError{Broken: true, Err: errBroken}
	}
	if err := c.armWrite(start); err != nil {
		return err
	}
	c.broken = true // in case the net.Conn panics
	sent, err := c.push(op, p, func() bool { return c.rearmWrite(start) })
	if err == nil {
		c.broken = false
		return nil
	}
	// Over TLS the engine cannot know which bytes have left.
	c.broken = sent > 0 || !c.resumes
	c.mu.Lock()
	intr, cause := c.wintr && c.wcur != nil, c.cause
	c.mu.Unlock()
	switch {
	case cause != nil:
		return ErrClosing
	case intr && !c.broken:
		return ErrInterrupted
	}
	return c.failWrite(err, intr)
}

// setLost notes the network error that has ended the stream, if it is the first.
func (c *Conn) setLost(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = err
	}
}

// failWrite notes that nothing more can be written.
func (c *Conn) failWrite(err error, interrupted bool) *WriteError {
	c.failed = true
	if !isTimeout(err) {
		c.setLost(err)
	}
	return &WriteError{Timeout: isTimeout(err) && !interrupted, Broken: c.broken, Err: err}
}

var errBroken = errors.New("half a frame has been written")

// push writes the frame. After a timeout it resumes as long as again says that the deadline
// was moved.
func (c *Conn) push(op byte, p []byte, again func() bool) (sent int, err error) {
	scratch := buffers.get()
	defer buffers.put(scratch)
	a := appendHeader(scratch[:0], op, len(p))
	b := p
	if len(a)+len(p) <= len(scratch) {
		a, b = append(a, p...), nil
	} else if !c.resumes {
		// Two writes make two TLS records: fill the first.
		k := len(scratch) - len(a)
		a, b = append(a, p[:k]...), p[k:]
	}
	for {
		var n int
		switch {
		case len(b) == 0:
			n, err = c.nc.Write(a)
			a = a[n:]
		case c.resumes:
			// One system call and no copy.
			c.wvec = [2][]byte{a, b}
			c.wbufs = c.wvec[:]
			var n64 int64
			n64, err = c.wbufs.WriteTo(c.nc)
			c.wvec, c.wbufs = [2][]byte{}, nil
			n = int(n64)
			k := min(n, len(a))
			a, b = a[k:], b[n-k:]
		default:
			if n, err = c.nc.Write(a); err == nil {
				sent += n
				n, err = c.nc.Write(b)
			}
		}
		sent += n
		if err == nil || !c.resumes || !isTimeout(err) || !again() {
			return sent, err
		}
	}
}

// armWrite makes sure that a write begun at now may take half the write
// timeout at least. A write that needs more is given it by rearmWrite, so that
// a busy connection seldom moves its deadline.
func (c *Conn) armWrite(now time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return ErrClosing
	}
	if c.wintr && c.wcur != nil {
		return ErrInterrupted
	}
	c.handlers = false
	if !c.resumes || c.warmed < now+c.cfg.WriteTimeout/2 {
		c.warmed = now + c.cfg.WriteTimeout
		c.nc.SetWriteDeadline(c.at(c.warmed))
	}
	return nil
}

// rearmWrite sets the write deadline for the rest of the time of a write that began at start.
func (c *Conn) rearmWrite(start time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	end := start + c.cfg.WriteTimeout
	if c.cause != nil || c.wintr && c.wcur != nil || c.now() >= end {
		return false
	}
	c.warmed = end
	c.nc.SetWriteDeadline(c.at(end))
	return true
}

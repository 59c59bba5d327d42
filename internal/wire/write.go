package wire

import (
	"bytes"
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
	defer c.mu.Unlock()
	c.wcur, c.wintr = done, false
	if done == nil && c.tls != nil && c.cause == nil && !c.broken {
		c.extendWrite(c.now()) // in case of an interrupt that came too late
	}
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

// unlockWriter unlocks the writer. If frames wait for it, a goroutine sends them first, so that
// no call waits for a peer that does not take them.
func (c *Conn) unlockWriter() {
	for {
		if c.mayFlush() {
			go c.flushAndUnlock()
			return
		}
		c.freeWriter()
		// One may have been left between the look and the unlock.
		if !c.pending.Load() || !c.tryLockWriter() {
			return
		}
		if !c.mayFlush() {
			c.freeWriter()
			return
		}
	}
}

// freeWriter gives the writer's lock back.
func (c *Conn) freeWriter() {
	<-c.wlock
	if c.over.Load() {
		c.lastWriter()
	}
}

// mayFlush reports whether a frame waits for the writer and may go out now. The caller is the
// writer.
func (c *Conn) mayFlush() bool {
	if !c.pending.Load() || c.failure != nil || c.ending.Load() || c.wrapped != nil && !c.wrapped.between() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pendPing || c.pendPong >= 0 || c.mayNotice()
}

// mayNotice reports whether a notice waits and may go out now. mu is held, and the caller is the
// writer.
func (c *Conn) mayNotice() bool {
	return len(c.notices) > 0 && (c.wrapped == nil || c.wrapped.betweenMessages())
}

// flushAndUnlock sends the frames that wait, and unlocks the writer.
func (c *Conn) flushAndUnlock() {
	defer c.survive()
	defer c.unlockWriter() // also if the net.Conn panics
	c.flushControl()
}

// flushControl sends the frames that wait: control frames at the boundary of a frame,
// notices at the boundary of a message.
func (c *Conn) flushControl() {
	for c.mayFlush() {
		op, p := c.nextWaiting()
		began := op == opPing && c.pinging()
		if err := c.writeFrame(op, p, c.now()); err != nil {
			if _, failed := err.(*WriteError); failed {
				c.hooks.Broken(err)
			}
			return
		}
		if began {
			c.pingSent()
		}
	}
}

// deliver sends the frames that wait. If another goroutine is the writer, deliver leaves them
// to that goroutine and returns. The reader calls deliver, which waits until the frames have
// gone out or until the reader must stop waiting.
func (c *Conn) deliver() {
	if !c.tryLockWriter() {
		return
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.flushAndUnlock()
	}()
	for {
		c.mu.Lock()
		intr := c.rintr
		c.mu.Unlock()
		left := never
		if by := c.readBy.Load(); by != 0 {
			left = time.Duration(by) - c.now()
		}
		if intr || left <= 0 {
			return // fill sees it too
		}
		t := time.NewTimer(left)
		over := true
		select {
		case <-sent:
		case <-c.closing:
		case <-c.poke:
			over = false
		case <-t.C:
			over = false
		}
		if t.Stop(); over {
			return
		}
	}
}

// nextWaiting takes a frame that waits. mayFlush must hold.
func (c *Conn) nextWaiting() (op byte, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.pendPong >= 0:
		op, p = opPong, bytes.Clone(c.pongData[:c.pendPong])
		c.pendPong = -1
	case c.pendPing:
		payload := c.pingPayload(c.pings)
		op, p = opPing, payload[:]
		c.pendPing = false
		c.pingLeft = c.now()
	case c.mayNotice():
		op, p = opText, c.notices[0]
		c.notices[0] = nil
		c.notices = c.notices[1:]
	}
	c.pending.Store(c.pendPing || c.pendPong >= 0 || len(c.notices) > 0)
	return op, p
}

// Notice sends a text message of the guard's to the peer, between two messages of the
// application's. It reports false if too many wait already. The reader calls it.
func (c *Conn) Notice(p []byte) bool {
	c.mu.Lock()
	full := len(c.notices) >= maxNotices
	if !full {
		c.notices = append(c.notices, p)
		c.pending.Store(true)
	}
	c.mu.Unlock()
	if !full {
		c.deliver()
	}
	return !full
}

// NoticeRoom reports whether a further notice would be taken. The reader calls it.
func (c *Conn) NoticeRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.notices) < maxNotices
}

// pong answers a ping. If another goroutine is the writer, it leaves the pong to that one. If
// several pings wait, it answers only the last, which RFC 6455 §5.5.3 allows.
func (c *Conn) pong(p []byte) {
	c.mu.Lock()
	c.pendPong = copy(c.pongData[:], p)
	c.pending.Store(true)
	c.mu.Unlock()
	if c.looking {
		c.flushSoon()
	} else {
		c.deliver()
	}
}

// flushSoon sends the frames that wait, and does not wait until they have gone out.
func (c *Conn) flushSoon() {
	if c.tryLockWriter() {
		c.unlockWriter()
	}
}

// Ping sends a ping, and does not wait until it has gone out. The timeout of a ping that still
// waits for its pong continues.
//
// If the wrapped handler has just sent a ping, Ping sends none. A peer may answer only the
// latest of several pings (RFC 6455 §5.5.3), and the handler waits for the answer to its own.
func (c *Conn) Ping() {
	if c.wantPing(c.now()) {
		c.flushSoon()
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
	c.pending.Store(true)
	return true
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
// the same pong, or one to a later ping, has come before. roundTrip is the time since that ping
// was handed to the writer, or negative if it is not known.
func (c *Conn) answersOurs(n uint32) (fresh bool, roundTrip time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n <= c.ponged || n > c.pings {
		return false, -1
	}
	c.ponged = n
	if n < c.pings || c.pendPing {
		return true, -1 // when that ping was sent is not known any more
	}
	return true, max(0, c.filled-c.pingLeft)
}

// writeFrame sends one frame, as the write that begins at start. The caller is the writer.
func (c *Conn) writeFrame(op byte, p []byte, start time.Duration) error {
	if c.broken {
		return c.cannotWrite()
	}
	if err := c.armWrite(start); err != nil {
		return err
	}
	c.broken = true // in case the net.Conn panics
	sent, err := c.push(op, p, true)
	return c.written(sent, err)
}

// written ends a write that began with armWrite. sent is how many bytes have left.
func (c *Conn) written(sent int, err error) error {
	c.endWrite(err == nil)
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
	if !isTimeout(err) {
		c.setLost(err)
	}
	c.failure = &WriteError{Timeout: isTimeout(err) && !interrupted, Broken: c.broken, Err: err}
	return c.failure
}

// cannotWrite returns the error of a write behind half a frame. It is that of the write that has
// failed there, whose caller may not have ended the connection yet.
func (c *Conn) cannotWrite() *WriteError {
	if c.failure == nil { // the net.Conn has panicked
		c.failure = &WriteError{Broken: true, Err: errBroken}
	}
	return c.failure
}

var errBroken = errors.New("half a frame has been written")

// push writes a frame. With resume it continues after a timeout as long as the write timeout
// has not passed.
func (c *Conn) push(op byte, p []byte, resume bool) (sent int, err error) {
	scratch := buffers.get()
	defer buffers.put(scratch)
	head := appendHeader(scratch[:0], op, len(p))
	switch k := len(scratch) - len(head); {
	case len(p) <= k:
		c.wvec[0], p = append(head, p...), nil
	case c.resumes:
		c.wvec[0] = head // one system call and no copy
	default:
		// Two writes make two TLS records: fill the first.
		c.wvec[0], p = append(head, p[:k]...), p[k:]
	}
	c.wvec[1] = p
	c.wbufs = c.wvec[:1]
	if len(p) > 0 {
		c.wbufs = c.wvec[:]
	}
	return c.put(resume)
}

// Progress in a net.Conn that is no socket may be seen only between pieces. A record of TLS has
// 16 KiB at most.
const (
	pieceBytes  = 4 << 10
	recordBytes = 16 << 10
)

// pieceOf returns how much of b is given to the net.Conn at once.
func (c *Conn) pieceOf(b []byte) []byte {
	switch {
	case c.resumes:
		return b
	case c.tls != nil:
		return b[:min(len(b), recordBytes)]
	}
	return b[:min(len(b), pieceBytes)]
}

// accepted notes that the net.Conn has accepted n bytes. whole says that it was a whole piece.
func (c *Conn) accepted(n int, whole bool) {
	c.stall.written.Add(int64(n))
	if whole && !c.resumes {
		c.stall.piece.Store(int64(c.now()))
	}
}

// put writes wbufs: to a socket all of it with one system call, otherwise piece by piece.
func (c *Conn) put(resume bool) (sent int, err error) {
	defer func() { c.wvec, c.wbufs = [2][]byte{}, nil }()
	for {
		n := 0
		if c.resumes && len(c.wbufs) > 1 {
			var n64 int64
			n64, err = c.wbufs.WriteTo(c.nc) // which takes what it has written out of wbufs
			n = int(n64)
		} else {
			first := c.wbufs[0]
			n, err = c.nc.Write(c.pieceOf(first))
			if c.wbufs[0] = first[n:]; n == len(first) {
				c.wbufs = c.wbufs[1:]
			}
		}
		sent += n
		c.accepted(n, err == nil)
		switch {
		case err == nil && len(c.wbufs) == 0:
			return sent, nil
		case err != nil && (!resume || !isTimeout(err) || !c.resumeWrite(c.now(), 0)):
			return sent, err
		}
		if c.src != nil && c.ending.Load() && !c.trim(sent) {
			return sent, ErrClosing
		}
	}
}

// armWrite begins a write at now. It refuses one that must not begin.
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
	c.beginWrite(now)
	c.setWriteBy(now, 0)
	return nil
}

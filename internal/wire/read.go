package wire

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

// Receive waits for the next message that Judge delivers. The message is valid until
// the next Receive.
//
// Receive watches a context that can end. When it ends, Receive returns ErrInterrupted and
// loses nothing. The next Receive resumes where this one stopped. The caller need not pass the
// connection's own context, because Receive notices its end anyway. Any other error has ended
// the connection.
//
// The time between two calls is the application's. It counts neither as idle nor as a missed
// pong nor as a slow message.
func (c *Conn) Receive(ctx context.Context) (m *Message, err error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer func() { c.leave(err != nil) }() // also when a hook panics
	if ctx.Err() != nil {
		return nil, ErrInterrupted
	}
	return c.next()
}

// enter makes the caller the reader, until leave.
func (c *Conn) enter(ctx context.Context) error {
	select {
	case c.rlock <- struct{}{}:
	default:
		select {
		case c.rlock <- struct{}{}:
		case <-ctx.Done(): // Look may have to wait for the net.Conn
			return ErrInterrupted
		case <-c.closing:
			return ErrClosing
		}
	}
	if c.ending.Load() {
		c.unlockReader()
		<-c.closing
		return ErrClosing
	}
	if done := ctx.Done(); done != nil || c.rctx.done != nil {
		c.rctx.watch(ctx)
		c.mu.Lock()
		c.rcur, c.rintr = done, false
		c.mu.Unlock()
	}
	return nil
}

// leave undoes enter. nothing says that the reader has waited and got nothing, so that its wait
// does not count as the application's time.
func (c *Conn) leave(nothing bool) {
	if c.away.Load() == 0 {
		at := c.filled
		if nothing {
			at = c.now()
		}
		c.away.Store(int64(at))
	}
	c.unlockReader()
}

// unlockReader gives the reader's lock back.
func (c *Conn) unlockReader() {
	<-c.rlock
	if c.over.Load() {
		c.lastReader()
	}
}

// back ends the time that the application took. It is called when the reader has to wait.
// Until then the engine looks at no deadline.
func (c *Conn) back(now time.Duration) {
	if away := time.Duration(c.away.Load()); away != 0 {
		c.away.Store(0)
		c.absent(now-away, now)
	}
}

// absent says that gap must not count against the peer.
func (c *Conn) absent(gap, now time.Duration) {
	// No later than now: a write or a ping may have been in the meantime.
	c.lastApp.Store(min(c.lastApp.Load()+int64(gap), int64(now)))
	if sent := c.pongs.Load(); sent != 0 {
		c.pongs.CompareAndSwap(sent, min(sent+int64(gap), int64(now)))
	}
	c.started = min(c.started+gap, now)
	c.filled = min(c.filled+gap, now)
}

// Arrived returns when the last bytes came, plus the time that the application has taken
// since. Only Judge may call it.
func (c *Conn) Arrived() time.Time { return c.born.Add(c.filled - 1) } // see now

// Away returns for how long no Receive has waited for the peer; 0 while one does.
func (c *Conn) Away() time.Duration {
	at := time.Duration(c.away.Load())
	if at == 0 {
		return 0
	}
	return c.now() - at
}

// next assembles messages and calls Judge for each, until one is delivered.
func (c *Conn) next() (*Message, error) {
	if !c.whole && !c.open {
		c.dropMessage()
	}
	for {
		if !c.whole {
			if err := c.assemble(); err != nil {
				if e, ok := err.(*Error); ok {
					err = c.hooks.Failed(e)
				}
				return nil, err
			}
			c.whole = true
		}
		c.msg.Ahead = c.hurry
		verdict, wait, err := c.hooks.Judge(&c.msg)
		switch {
		case err != nil:
			return nil, err
		case verdict == Hold:
			if c.hurry {
				return nil, errLater
			}
			c.msg.Held = true
			if err := c.pause(wait); err != nil {
				return nil, err
			}
		case verdict == Drop:
			c.whole = false
			c.dropMessage()
		default:
			c.whole, c.lent = false, true
			return &c.msg, nil
		}
	}
}

// errLater says that no message can be had without waiting, while others wait to be read.
var errLater = errors.New("wire: no message without waiting")

// ahead reports whether the next message has come whole, in one frame, and may be judged
// before those in front of it have been read.
func (c *Conn) ahead() bool {
	if c.r == c.w || c.ending.Load() || !c.hooks.Ahead() {
		return false
	}
	h, n, fault := parseHeader(c.buf[c.r:c.w], false)
	return fault == "" && n > 0 && h.fin && int64(c.w-c.r-n) >= h.length &&
		h.op <= opBinary && (h.op == opBinary) == c.msg.Binary && // as the message before it, whose type was accepted
		(c.limit == 0 || h.length <= c.limit)
}

// Replace replaces the payload of the message that is being judged by a copy of data. Only Judge
// may call it.
func (c *Conn) Replace(data []byte) {
	if c.box == nil && len(data) > cap(c.msg.Data) { // it lies in buf, and behind it is what came next
		c.box = boxes.Get().(*[]byte)
		c.msg.Data = (*c.box)[:0]
	}
	c.msg.Data, c.msg.Checked = append(c.msg.Data[:0], data...), 0
}

// Waited returns for how long the message has been held back.
func (m *Message) Waited() time.Duration { return m.waited }

// pause holds the message back for d, or until the reader must stop waiting. The time is
// the guard's: it counts neither as idle nor as a missed pong.
func (c *Conn) pause(d time.Duration) error {
	start := c.now()
	c.setPausing(true)
	defer func() {
		c.setPausing(false)
		now := c.now()
		c.msg.waited += now - start
		c.absent(now-start, now)
	}()
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		now := c.now()
		left := start + d - now
		c.mu.Lock()
		intr, resume, by := c.rintr, c.resume, time.Duration(c.readBy.Load())
		c.rintr, c.resume = false, false
		c.mu.Unlock()
		switch {
		case intr:
			return ErrInterrupted
		case by != 0 && now >= by:
			return os.ErrDeadlineExceeded
		case left <= 0 || resume:
			return nil
		case by != 0:
			left = min(left, by-now)
		}
		t.Reset(left)
		select {
		case <-t.C:
		case <-c.poke:
		case <-c.closing:
			return ErrClosing
		}
	}
}

// Resume makes the engine ask Judge again about a message that is held back. If none is, it asks
// about the next one at once, after it has been held. Anyone may call it. It does not block.
func (c *Conn) Resume() {
	c.mu.Lock()
	c.resume = true
	c.mu.Unlock()
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

func (c *Conn) setPausing(on bool) {
	c.mu.Lock()
	c.pausing = on
	c.mu.Unlock()
}

var noBytes = []byte{}

var boxes = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

const (
	// maxBox is the largest buffer that is kept for another message.
	maxBox = 64 << 10
	// direct is how much must be missing of a frame for the rest to be read past buf.
	direct = bufferBytes / 2
)

// KeepMessage leaves the message that Receive returned last to the application for good.
func (c *Conn) KeepMessage() { c.keep.Store(true) }

// dropMessage forgets the message. Its memory is used again, unless the application
// may keep it.
func (c *Conn) dropMessage() {
	kept := c.lent && c.keep.Load()
	switch {
	case c.box == nil:
		if kept {
			c.forsake()
		}
	case !kept && cap(c.msg.Data) <= maxBox:
		*c.box = c.msg.Data[:0]
		boxes.Put(c.box)
	}
	c.box, c.lent, c.msg = nil, false, Message{}
}

// forsake leaves buf to the application, which holds a message in it.
func (c *Conn) forsake() {
	old, r, w := c.buf, c.r, c.w
	c.buf, c.r, c.w = nil, 0, 0
	if r < w {
		c.makeRoom()
		c.w = copy(c.buf[:], old[r:w])
	}
}

// assemble reads until the message is complete. Control frames are answered on the way.
// The error is ErrInterrupted or os.ErrDeadlineExceeded, after which assemble can be
// called again as if nothing had been; ErrClosing; errForwarded; an *Error that calls for
// an end; or what Accept returned.
func (c *Conn) assemble() error {
	for {
		if !c.inFrame {
			ready, err := c.boundary()
			if err != nil {
				return err
			}
			if !ready {
				if _, err := c.fill(nil); err != nil {
					return err
				}
				continue
			}
		}
		if err := c.payload(); err != nil {
			return err
		}
		c.inFrame = false
		c.alive()
		if c.fin {
			c.completed()
			return nil
		}
	}
}

// completed runs when the last byte of a message has come.
func (c *Conn) completed() {
	c.glanceBy = 0
	c.open, c.asked, c.frags, c.size = false, false, 0, 0
	c.started = c.filled
	c.lastApp.Store(int64(c.filled))
	c.lastMessage.Store(int64(c.filled))
}

// payload takes the payload of the current frame.
func (c *Conn) payload() error {
	if c.inPlace() {
		return c.payloadInPlace()
	}
	if c.box == nil {
		c.box = boxes.Get().(*[]byte)
		c.msg.Data = (*c.box)[:0]
	}
	for c.remain > 0 {
		have := len(c.msg.Data)
		if n := int(min(int64(c.w-c.r), c.remain)); n > 0 {
			c.room(n)
			c.msg.Data = append(c.msg.Data, c.buf[c.r:c.r+n]...)
			c.r += n
		} else if c.remain >= direct {
			c.room(int(min(c.remain, max(direct, int64(have)))))
			free := c.msg.Data[have:cap(c.msg.Data)]
			n, err := c.fill(free[:min(int64(len(free)), c.remain)])
			if err != nil {
				return err
			}
			c.msg.Data = c.msg.Data[:have+n]
		} else {
			if _, err := c.fill(nil); err != nil {
				return err
			}
			continue
		}
		c.key = mask(c.msg.Data[have:], c.key)
		c.remain -= int64(len(c.msg.Data) - have)
		if (c.remain > 0 || !c.fin) && !c.msg.stillUTF8() {
			return &Error{Fault: FaultUTF8, Detail: "text is not UTF-8"}
		}
	}
	return nil
}

// inPlace reports whether the current frame is a message that fits into buf.
func (c *Conn) inPlace() bool {
	return c.box == nil && c.frags == 1 && c.fin && c.size <= bufferBytes
}

// payloadInPlace is payload for a message of one frame that fits into buf. It is not
// copied.
func (c *Conn) payloadInPlace() error {
	for {
		length := int(c.size)
		have := min(c.w-c.r, length)
		done := length - int(c.remain)
		c.msg.Data = noBytes
		if have > 0 {
			c.msg.Data = c.buf[c.r : c.r+have : c.r+have]
		}
		c.key = mask(c.msg.Data[done:], c.key)
		c.remain -= int64(have - done)
		if have == length {
			c.r += length
			return nil
		}
		if !c.msg.stillUTF8() {
			return &Error{Fault: FaultUTF8, Detail: "text is not UTF-8"}
		}
		if _, err := c.fill(nil); err != nil {
			return err
		}
	}
}

// room makes room for n more bytes in msg. It doubles the buffer as bytes come, and does not
// allocate the length that a peer only declares.
func (c *Conn) room(n int) {
	if need := len(c.msg.Data) + n; need > cap(c.msg.Data) {
		bigger := make([]byte, len(c.msg.Data), max(need, 2*cap(c.msg.Data)))
		copy(bigger, c.msg.Data)
		c.msg.Data = bigger
	}
}

// stillUTF8 checks the part of a text that has come, except for a code point at its end that
// may still be completed.
func (m *Message) stillUTF8() bool {
	if m.Binary {
		return true
	}
	rest := m.Data[m.Checked:]
	tail := 0
	for i := 1; i <= min(3, len(rest)); i++ {
		if b := rest[len(rest)-i]; utf8.RuneStart(b) {
			if b >= utf8.RuneSelf && !utf8.FullRune(rest[len(rest)-i:]) {
				tail = i
			}
			break
		}
	}
	rest = rest[:len(rest)-tail]
	m.Checked += len(rest)
	return utf8.Valid(rest)
}

// boundary looks at what follows a frame. It answers control frames. ready says that the
// header of a data frame has been read; otherwise more bytes are needed.
func (c *Conn) boundary() (ready bool, err error) {
	for {
		if c.early != nil {
			c.takeEarly()
		}
		if c.r == c.w {
			if !c.open {
				c.release()
			}
			return false, nil
		}
		h, n, fault := parseHeader(c.buf[c.r:c.w], c.open)
		if fault != "" {
			c.desync = true
			return false, &Error{Fault: FaultProtocol, Detail: fault}
		}
		if !h.control() {
			if err := c.accept(h, n > 0); err != nil {
				return false, err
			}
		}
		if n == 0 {
			return false, nil
		}
		if !h.control() {
			if err := c.begin(h); err != nil {
				return false, err
			}
			c.r += n
			return true, nil
		}
		if c.w-c.r < n+int(h.length) {
			return false, nil
		}
		if err := c.takeControl(h, n); err != nil {
			return false, err
		}
	}
}

// takeControl takes a whole control frame with a header of n bytes from the front of buf.
func (c *Conn) takeControl(h header, n int) error {
	p := c.buf[c.r+n : c.r+n+int(h.length)]
	mask(p, h.key())
	c.r += n + len(p)
	if err := c.controlFrame(h.op, p); err != nil {
		return err
	}
	if !c.open {
		c.started = c.filled
	}
	return nil
}

// accept judges the type of a message and its declared length as soon as they have come. So
// the engine reads no payload of a message that is refused.
func (c *Conn) accept(h header, complete bool) error {
	if !complete && h.length == 0 {
		return nil
	}
	if !c.asked {
		limit, err := c.hooks.Accept(h.op == opBinary)
		if err != nil {
			return err
		}
		c.asked, c.limit = true, limit
	}
	if c.limit > 0 && h.length > c.limit-c.size {
		return &Error{Fault: FaultTooBig, Detail: "declared length over the limit"}
	}
	return nil
}

// begin takes the header of a data frame.
func (c *Conn) begin(h header) error {
	c.frags++
	if most := c.cfg.MaxFragments; most > 0 && c.frags == most+1 && !c.hooks.Tolerates(FaultFragments) {
		return &Error{Fault: FaultFragments, Detail: "too many frames in a message"}
	}
	if !c.open {
		c.open = true
		c.msg.Binary = h.op == opBinary
		c.first = h.mask
	}
	c.size += h.length
	c.inFrame, c.fin, c.remain, c.key = true, h.fin, h.length, h.key()
	return nil
}

// errForwarded says that the wrapped handler has a frame to read.
var errForwarded = errors.New("wire: a control frame for the wrapped handler")

func (c *Conn) controlFrame(op byte, p []byte) error {
	c.alive()
	var n uint32
	ours, fresh, trip := false, false, time.Duration(-1)
	if op == opPong {
		if n, ours = c.ourPing(p); ours {
			fresh, trip = c.answersOurs(n)
		}
	}
	// The answers to our own pings are no flood, even if they come all at once because
	// the application was busy.
	if op != opClose && !fresh && !c.control.take(c.filled) && !c.hooks.Tolerates(FaultControl) {
		return &Error{Fault: FaultControl, Detail: "too many control frames"}
	}
	switch op {
	case opPing:
		c.pong(p)
	case opPong:
		if c.wrapped != nil && !ours {
			c.wrapped.forward(opPong, p)
			return errForwarded
		}
		if trip >= 0 {
			c.hooks.Pong(trip)
		}
	case opClose:
		code, reason, fault, detail := parseClose(p)
		c.desync, c.parted = true, true // nothing may follow a close frame
		if fault != FaultNone {
			return &Error{Fault: fault, Detail: detail}
		}
		c.answered.Store(true)
		if c.wrapped != nil {
			c.wrapped.forward(opClose, p)
		}
		return &Error{Fault: FaultClosed, Detail: "close frame received", Code: code, Reason: reason}
	}
	return nil
}

// takeEarly moves bytes that came with the handshake into the buffer, as if they had been
// read just now.
func (c *Conn) takeEarly() {
	c.makeRoom()
	c.filled = c.now()
	if c.r == c.w && !c.open {
		c.started = c.filled
	}
	c.w += c.giveEarly(c.buf[c.w:])
}

// giveEarly moves bytes that came with the handshake to dst.
func (c *Conn) giveEarly(dst []byte) int {
	n := copy(dst, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n
}

// makeRoom leaves at least one free byte behind buf[:w]. That works because buf never holds
// more than one frame.
func (c *Conn) makeRoom() {
	if c.buf == nil {
		c.buf = buffers.get()
		c.r, c.w = 0, 0
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if c.w > len(c.buf)/2 && c.r > 0 {
		c.w = copy(c.buf[:], c.buf[c.r:c.w])
		c.r = 0
	}
}

func (c *Conn) release() {
	if c.buf != nil {
		buffers.put(c.buf)
		c.buf, c.r, c.w = nil, 0, 0
	}
}

// fill reads once, waiting no longer than the next deadline of the connection. At a
// deadline that is not the end, it acts and waits on. It reads into dst, or into buf if
// dst is nil.
func (c *Conn) fill(dst []byte) (int, error) {
	if c.early != nil {
		if dst == nil {
			c.takeEarly()
			return 0, nil
		}
		return c.giveEarly(dst), nil
	}
	now := c.looked
	if c.looked = 0; now == 0 {
		now = c.now()
	}
	c.back(now)
	for {
		wake, late := c.due(now)
		var n int
		var err error
		if late != nil {
			if n, err = c.glance(dst, now); n == 0 && err == nil {
				return 0, late
			}
		} else {
			if err := c.armRead(now, wake); err != nil {
				return 0, err
			}
			n, err = c.receive(dst)
		}
		now = c.now()
		if n > 0 {
			c.came(now)
			if dst == nil {
				c.w += n
			}
			return n, nil
		}
		switch {
		case err == nil:
		case err == ErrClosing:
			return 0, err
		case isTimeout(err):
			c.mu.Lock()
			c.armed = 1 // passed
			intr, cause := c.rintr, c.cause
			c.rintr = false
			c.mu.Unlock()
			if cause != nil {
				return 0, ErrClosing
			}
			if intr {
				return 0, ErrInterrupted
			}
		default:
			if c.Cause() != nil {
				return 0, ErrClosing
			}
			return 0, c.lostError(err)
		}
	}
}

// readPlain reads from the net.Conn.
func (c *Conn) readPlain(dst []byte) (int, error) {
	if c.tls != nil {
		c.reading.Store(true)
		defer c.reading.Store(false)
	}
	return c.nc.Read(dst)
}

// maxGlance bounds the looks for what has come, so that a peer cannot stretch a deadline by
// sending a byte for each look.
const maxGlance = 250 * time.Millisecond

// glance reads what has come although a deadline has passed, and does not wait. The process may
// have been stopped, and the peer may have done all that it had to. n is 0 if nothing has
// come.
func (c *Conn) glance(dst []byte, now time.Duration) (n int, err error) {
	if c.glanceBy == 0 {
		c.glanceBy = now + maxGlance
	}
	if now > c.glanceBy {
		return 0, nil
	}
	if dst == nil {
		c.makeRoom()
		dst = c.buf[c.w:]
	}
	return c.receiveNow(dst)
}

// came notes that bytes have come, which are not in buf yet.
func (c *Conn) came(now time.Duration) {
	if c.r == c.w && !c.open {
		c.started = now
	}
	c.filled = now
}

// lostError notes a network error, and returns the fault.
func (c *Conn) lostError(err error) *Error {
	c.desync = true
	c.setLost(err)
	if Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // an end without a close frame
	}
	return &Error{Fault: FaultLost, Detail: "connection lost", Err: err}
}

// due handles the deadlines that have passed at now. It returns when to look again, or 0 for
// never.
func (c *Conn) due(now time.Duration) (wake time.Duration, err error) {
	soonest := func(at time.Duration) {
		if wake == 0 || at < wake {
			wake = at
		}
	}
	mid := c.open || c.r < c.w
	if t := c.cfg.MessageTimeout; t > 0 && mid {
		at := c.started + t
		if now >= at {
			if !c.hooks.Tolerates(FaultMessageTimeout) {
				return 0, &Error{Fault: FaultMessageTimeout, Detail: "message not complete in time"}
			}
			c.started = now
			at = now + t
		}
		soonest(at)
	}
	// In the middle of a message its own deadline rules, if there is one.
	if t := c.cfg.IdleTimeout; t > 0 && !(mid && c.cfg.MessageTimeout > 0) {
		at := time.Duration(c.lastApp.Load()) + t
		if now >= at {
			if !c.hooks.Tolerates(FaultIdle) {
				return 0, &Error{Fault: FaultIdle, Detail: "no message for too long"}
			}
			c.lastApp.Store(int64(now))
			at = now + t
		}
		soonest(at)
	}
	if t := c.cfg.PongTimeout; t > 0 {
		// A peer in the middle of a message cannot answer; the message's own deadline
		// watches it.
		if sent := c.pongs.Load(); sent != 0 && !mid {
			at := time.Duration(sent) + t
			if now >= at {
				if at = c.pongBy(now, at); at == 0 {
					if !c.hooks.Tolerates(FaultPong) {
						return 0, &Error{Fault: FaultPong, Detail: "ping not answered"}
					}
					c.pongs.Store(0) // until the next ping
				}
			}
			if at > 0 {
				soonest(at)
			}
		}
	}
	if c.pingAt > 0 {
		if now >= c.pingAt {
			c.pingAt = c.nextPing(now)
			c.Ping()
			if t := c.cfg.PongTimeout; t > 0 && !mid {
				soonest(now + t)
			}
		}
		soonest(c.pingAt)
	}
	if c.tls != nil {
		soonest(now + c.horizon()/2) // armRead then moves the write deadline
	}
	c.glanceBy = 0 // nothing is late
	return wake, nil
}

// armRead sets the read deadline to wake, or to the wrapped handler's own if that is
// earlier. An earlier deadline stays set. fill then wakes once for nothing, which is cheaper
// than setting a deadline for each message.
func (c *Conn) armRead(now, wake time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := time.Duration(c.readBy.Load())
	switch {
	case c.cause != nil:
		return ErrClosing
	case c.rintr:
		c.rintr = false
		return ErrInterrupted
	case by != 0 && now >= by:
		return os.ErrDeadlineExceeded
	case by != 0 && (wake == 0 || by < wake):
		wake = by
	}
	if c.arms++; c.tls != nil {
		c.keepWriteAway(now)
	}
	switch {
	case wake == 0 && c.armed == 0:
	case wake == 0:
		c.armed = 0
		c.nc.SetReadDeadline(time.Time{})
	case c.armed == 0 || wake < c.armed || c.armed <= now:
		c.armed = wake
		c.nc.SetReadDeadline(c.at(wake))
	}
	return nil
}

// interruptRead stops a Receive that waits on behalf of the context with done.
func (c *Conn) interruptRead(done <-chan struct{}) {
	defer c.survive()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil && c.rcur == done {
		c.rintr = true
		c.wakeReader()
	}
}

// unstickAfter is how long a reader of a tls.Conn may take to see that it must look again. It has
// that time twice, because the process may have been stopped in the first.
const unstickAfter = 50 * time.Millisecond

// unstick ends a connection whose reader is still in the Read that it began when c.arms was
// arms. The reader is then in a write with which the tls.Conn answers a KeyUpdate, and the peer
// does not take it. If nothing is in the socket, the reader has only not had the processor yet.
func (c *Conn) unstick(arms uint32, again bool) {
	defer c.survive()
	left, known := int64(0), false
	if s := socketOf(c.nc); s != nil {
		left, known = s.queued()
	}
	c.mu.Lock()
	stuck := c.cause == nil && c.arms == arms && c.reading.Load()
	wait := stuck && (!again || known && left == 0)
	if wait {
		time.AfterFunc(unstickAfter, func() { c.unstick(arms, true) })
	}
	c.mu.Unlock()
	if !stuck || wait {
		return
	}
	// The cause comes first. A tls.Conn that could not answer a KeyUpdate cannot read what follows,
	// and the reader would take that for the cause.
	c.hooks.Broken(&WriteError{Timeout: true, Err: errStuck})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warmed = 1
	c.nc.SetWriteDeadline(past)
}

var errStuck = errors.New("wire: the peer does not take the answer to a KeyUpdate")

// wakeReader makes the reader look again. mu is held.
func (c *Conn) wakeReader() {
	c.armed = 1
	c.nc.SetReadDeadline(past)
	if c.tls != nil && c.reading.Load() {
		arms := c.arms
		time.AfterFunc(unstickAfter, func() { c.unstick(arms, false) })
	}
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Again makes the next Receive judge and deliver the message that Receive returned last
// once more. Only the reader may call it.
func (c *Conn) Again() {
	select {
	case c.rlock <- struct{}{}:
		c.whole, c.lent, c.msg.Held = true, false, true
		c.unlockReader()
	case <-c.closing: // the ending keeps the lock
	}
}

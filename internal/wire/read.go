package wire

import (
	"context"
	"errors"
	"io"
	"time"
)

// Segment is a piece of a message that is in memory.
type Segment struct {
	Start  bool // the message begins here
	Binary bool // valid with Start
	N      int  // payload bytes at hand
	Last   bool // they are the message's last
}

// Enter makes the caller the reader, until Leave. A context that can end is
// watched: when it ends, Next returns ErrInterrupted. The connection's own
// context need not be passed; its end is noticed anyway.
//
// The time between Leave and Enter was the application's: it counts neither
// as idle nor as a missed pong nor as a slow message.
func (c *Conn) Enter(ctx context.Context) error {
	select {
	case c.rlock <- struct{}{}:
	default:
		select {
		case c.rlock <- struct{}{}:
		case <-c.closing:
			return ErrClosing
		}
	}
	if c.ending.Load() {
		<-c.rlock
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

// back ends the time that the application took, once the reader has to wait:
// until then no deadline is looked at.
func (c *Conn) back(now time.Duration) {
	if away := time.Duration(c.away.Load()); away != 0 {
		c.away.Store(0)
		c.absent(now-away, now)
	}
}

// Arrived is when the last bytes came, or later by the time that the application
// has taken since. Only the reader may call it.
func (c *Conn) Arrived() time.Time { return c.born.Add(c.filled - 1) } // see now

// Absent says that the reader was busy for d with what is not the peer's
// doing. Only the reader may call it.
func (c *Conn) Absent(d time.Duration) { c.absent(d, c.now()) }

func (c *Conn) absent(gap, now time.Duration) {
	// No later than now: a write or a ping may have been in the meantime.
	c.lastApp.Store(min(c.lastApp.Load()+int64(gap), int64(now)))
	if sent := c.pongs.Load(); sent != 0 {
		c.pongs.CompareAndSwap(sent, min(sent+int64(gap), int64(now)))
	}
	c.started = min(c.started+gap, now)
	c.filled = min(c.filled+gap, now)
}

// Leave ends what Enter began. A Read that waited and got nothing says so: its
// wait was not the application's time.
func (c *Conn) Leave(nothing bool) {
	if c.away.Load() == 0 {
		at := c.filled
		if nothing {
			at = c.now()
		}
		c.away.Store(int64(at))
	}
	<-c.rlock
}

// SetMax sets the largest message that is accepted from now on, in bytes; 0
// is no limit. Only the reader may call it.
func (c *Conn) SetMax(n int64) { c.max.Store(n) }

// Away returns for how long no Read has waited for the peer; 0 while one does.
func (c *Conn) Away() time.Duration {
	at := time.Duration(c.away.Load())
	if at == 0 {
		return 0
	}
	return c.now() - at
}

// OnIdle makes an idle timeout a report: f is called each time, by the reader.
func (c *Conn) OnIdle(f func()) { c.onIdle = f }

// Mid reports whether a message has begun and is not complete. Only the
// reader may call it.
func (c *Conn) Mid() bool { return c.open }

// Next waits until the next piece of a message is in memory and says how much
// there is. The reader must then take all of it through [Conn.Start] and
// [Conn.Take] before it calls Next again. Control frames are answered here and
// never shown. The error is ErrInterrupted, after which Next can be called
// again as if nothing had been; ErrClosing; or an *Error that calls for an end.
func (c *Conn) Next() (Segment, error) {
	for {
		start := false
		if c.hdr == 0 && c.remain == 0 {
			var ready bool
			var err error
			if start, ready, err = c.boundary(); err != nil {
				return Segment{}, err
			}
			if !ready {
				if err := c.fill(); err != nil {
					return Segment{}, err
				}
				continue
			}
		}
		n := int(min(int64(c.w-c.r-c.hdr), c.remain))
		// A continuation's header is given together with payload: the
		// library reads it only when it is asked for payload.
		if !start && n == 0 && c.remain > 0 {
			if err := c.fill(); err != nil {
				return Segment{}, err
			}
			continue
		}
		c.give = c.hdr + n
		c.hdr = 0
		c.remain -= int64(n)
		seg := Segment{Start: start, N: n, Last: c.fin && c.remain == 0}
		if start {
			seg.Binary = c.buf[c.r]&0x0f == opBinary
		}
		if seg.Last {
			// Nobody can answer a ping in the middle of a message.
			if sent := c.pongs.Load(); sent != 0 && c.filled > c.started {
				c.pongs.CompareAndSwap(sent, min(sent+int64(c.filled-c.started), int64(c.filled)))
			}
			c.open, c.frags, c.size = false, 0, 0
			c.started = c.filled
			c.lastApp.Store(int64(c.filled))
			c.lastMessage.Store(int64(c.filled))
		}
		return seg, nil
	}
}

// boundary looks at what follows a frame. ready says that the header of a
// data frame lies at buf[r:]; otherwise more bytes are needed.
func (c *Conn) boundary() (start, ready bool, err error) {
	for {
		if c.early != nil {
			c.takeEarly()
		}
		if c.r == c.w {
			if !c.open {
				c.release()
			}
			return false, false, nil
		}
		h, n, fault := parseHeader(c.buf[c.r:c.w], c.open)
		if fault != "" {
			c.desync = true
			return false, false, &Error{Fault: FaultProtocol, Detail: fault}
		}
		if max := c.max.Load(); !h.control() && max > 0 && h.length > max-c.size {
			// The declared length is enough: nothing is read for it.
			c.behind = true
			return false, false, &Error{Fault: FaultTooBig, Detail: "declared length over the limit"}
		}
		if n == 0 {
			return false, false, nil
		}
		if h.control() {
			if c.w-c.r < n+int(h.length) {
				return false, false, nil
			}
			p := c.buf[c.r+n : c.r+n+int(h.length)]
			unmask(p, h.mask)
			c.r += n + len(p)
			if err := c.controlFrame(h.op, p); err != nil {
				return false, false, err
			}
			if !c.open {
				c.started = c.filled
			}
			continue
		}
		start = !c.open
		c.frags++
		if c.cfg.MaxFragments > 0 && c.frags > c.cfg.MaxFragments {
			c.behind = true
			return false, false, &Error{Fault: FaultFragments, Detail: "too many frames in a message"}
		}
		c.open = true
		c.size += h.length
		if !start && h.length == 0 && !h.fin {
			// Counted; the library need not see it.
			c.r += n
			continue
		}
		c.hdr, c.remain, c.fin = n, h.length, h.fin
		return start, true, nil
	}
}

func (c *Conn) controlFrame(op byte, p []byte) error {
	// The answers to our own pings are no flood, even if they come all at
	// once because the application was busy.
	if op != opClose && !(op == opPong && c.answersPing(p)) && !c.control.take(c.filled) {
		return &Error{Fault: FaultControl, Detail: "too many control frames"}
	}
	switch op {
	case opPing:
		c.pong(p)
	case opClose:
		code, reason, fault, detail := parseClose(p)
		// Nothing may follow a close frame.
		c.desync = true
		if fault != FaultNone {
			return &Error{Fault: fault, Detail: detail}
		}
		c.answered = true
		return &Error{Fault: FaultClosed, Detail: "close frame received", Code: code, Reason: reason}
	}
	return nil
}

// takeEarly moves bytes that came with the handshake into the buffer, as if
// they had been read just now.
func (c *Conn) takeEarly() {
	c.makeRoom()
	c.filled = c.now()
	if c.r == c.w && !c.open {
		c.started = c.filled
	}
	n := copy(c.buf[c.w:], c.early)
	c.w += n
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
}

// makeRoom leaves at least one free byte behind buf[:w]. What is kept is
// never more than a control frame.
func (c *Conn) makeRoom() {
	if c.buf == nil {
		c.buf = buffers.Get().(*[bufferBytes]byte)
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
		buffers.Put(c.buf)
		c.buf, c.r, c.w = nil, 0, 0
	}
}

// fill reads once, waiting no longer than the next deadline of the
// connection. At a deadline that is not the end, it acts and waits on.
func (c *Conn) fill() error {
	if c.early != nil {
		c.takeEarly()
		return nil
	}
	now := c.now()
	c.back(now)
	for {
		wake, err := c.due(now)
		if err != nil {
			return err
		}
		if err := c.armRead(now, wake); err != nil {
			return err
		}
		n, err := c.receive()
		now = c.now()
		if n > 0 {
			if c.r == c.w && !c.open {
				c.started = now
			}
			c.w += n
			c.filled = now
			return nil
		}
		switch {
		case err == nil:
		case isTimeout(err):
			c.mu.Lock()
			c.armed = 1 // passed
			intr, cause := c.rintr, c.cause
			c.rintr = false
			c.mu.Unlock()
			if cause != nil {
				return ErrClosing
			}
			if intr {
				return ErrInterrupted
			}
		default:
			if c.Cause() != nil {
				return ErrClosing
			}
			c.desync = true
			if is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // an end without a close frame
			}
			return &Error{Fault: FaultLost, Detail: "connection lost", Err: err}
		}
	}
}

// due acts on what is due at now and returns when to look again; 0: never.
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
			c.behind = true
			return 0, &Error{Fault: FaultMessageTimeout, Detail: "message not complete in time"}
		}
		soonest(at)
	}
	// In the middle of a message its own deadline rules, if there is one.
	if t := c.cfg.IdleTimeout; t > 0 && !(mid && c.cfg.MessageTimeout > 0) {
		at := time.Duration(c.lastApp.Load()) + t
		if now >= at {
			if c.onIdle == nil {
				return 0, &Error{Fault: FaultIdle, Detail: "no message for too long"}
			}
			c.onIdle()
			c.lastApp.Store(int64(now))
			at = now + t
		}
		soonest(at)
	}
	if t := c.cfg.PongTimeout; t > 0 {
		// A peer in the middle of a message cannot answer; the message's
		// own deadline watches it.
		if sent := c.pongs.Load(); sent != 0 && !mid {
			at := time.Duration(sent) + t
			if now >= at {
				return 0, &Error{Fault: FaultPong, Detail: "ping not answered"}
			}
			soonest(at)
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
	return wake, nil
}

// armRead sets the read deadline to wake, unless it is earlier already: then
// fill wakes for nothing once, which is cheaper than a deadline per message.
func (c *Conn) armRead(now, wake time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return ErrClosing
	}
	if c.rintr {
		c.rintr = false
		return ErrInterrupted
	}
	switch {
	case wake == 0 && c.armed == 0:
	case wake == 0:
		c.armed = 0
		c.nc.SetReadDeadline(time.Time{})
	case c.armed == 0 || wake < c.armed || c.armed <= now:
		c.armed = wake
		c.nc.SetReadDeadline(c.born.Add(wake))
	}
	return nil
}

// interruptRead stops a Next that waits on behalf of the context with done.
func (c *Conn) interruptRead(done <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil && c.rcur == done {
		c.rintr = true
		c.armed = 1
		c.nc.SetReadDeadline(past)
	}
}

// Start hands the header of the message that Next announced to the library.
func (c *Conn) Start() (io.Reader, error) {
	_, r, err := c.ws.Reader(context.Background())
	return r, err
}

// Take reads the n payload bytes that Next announced into dst.
func (c *Conn) Take(r io.Reader, dst []byte) error {
	if len(dst) == 0 {
		if c.give == 0 {
			return nil
		}
		// The header of an empty last frame: the library must see it.
		if _, err := r.Read(c.one[:]); err != io.EOF {
			return errors.Join(errLibrary, err)
		}
		return nil
	}
	if _, err := io.ReadFull(r, dst); err != nil {
		return errors.Join(errLibrary, err)
	}
	return nil
}

var errLibrary = errors.New("wire: the library did not take what was announced")

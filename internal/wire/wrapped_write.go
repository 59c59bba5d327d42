package wire

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// Write sends the bytes of the handler. It returns when the kernel has all of them, except for
// those that it holds back until they are whole. These are the response head, a small frame,
// and, with an outbound check, a message.
func (w *Wrapped) Write(p []byte) (int, error) {
	now, err := w.lock()
	if err != nil {
		if err == errDropped || w.answersEnd(p) {
			return len(p), nil
		}
		return 0, err
	}
	returned := false
	defer func() {
		if !returned { // the net.Conn has panicked, and what follows cannot be known
			w.c.hooks.Broken(errPanicked)
		}
		if err != errHandedOver {
			w.unlock()
		}
	}()
	n, err := w.write(p, now)
	returned = true
	if err == errHandedOver {
		return n, os.ErrDeadlineExceeded
	}
	return n, err
}

// errHandedOver says that the handler's own deadline has passed while frames of the guard went
// out, and that the goroutine that sends them is the writer now.
var errHandedOver = errors.New("wire: another goroutine is the writer")

// flush sends the frames of the guard that wait. It returns errHandedOver if the handler's own
// deadline passes meanwhile.
func (w *Wrapped) flush() error {
	c := w.c
	if !c.mayFlush() {
		return nil
	}
	if c.writeBy.Load() == 0 {
		c.flushControl()
		return nil
	}
	var over atomic.Bool // one of the two is done
	sent := make(chan struct{})
	go func() {
		defer c.survive()
		defer func() {
			if over.Swap(true) {
				w.unlock()
			}
			close(sent)
		}()
		c.flushControl()
	}()
	for {
		by := time.Duration(c.writeBy.Load())
		t := time.NewTimer(w.timeLeft(by))
		select {
		case <-sent:
			t.Stop()
			return nil
		case <-w.wpoke:
			t.Stop()
		case <-t.C:
			if by := time.Duration(c.writeBy.Load()); by == 0 || c.now() < by {
				continue
			}
			if over.Swap(true) {
				<-sent
				return nil
			}
			w.wakeWriter()
			return errHandedOver
		}
	}
}

// write is Write for the writer. now is what lock has returned.
func (w *Wrapped) write(p []byte, now time.Duration) (int, error) {
	switch {
	case w.closed.Load() || w.halfClosed || w.phase == phaseOver:
		return 0, net.ErrClosed
	case w.fault != nil:
		return 0, w.fault
	case w.phase == phaseAnswer:
		return w.writeAnswer(p)
	case w.phase == phaseRefused:
		n, err := w.send(p, now)
		w.progress = w.c.now()
		return n, err
	}
	return w.writeFrames(p, now)
}

// errDropped says that a close frame of the handler has gone out. Bytes that it writes after
// that are dropped.
var errDropped = errors.New("wire: written after the close frame")

// answersEnd reports whether p is the handler's answer to the close frame that it was given
// when the guard ended the connection. Write drops it, because the peer has that close frame.
func (w *Wrapped) answersEnd(p []byte) bool {
	return w.told.Load() && !w.closed.Load() && len(p) > 0 && p[0] == 0x80|opClose
}

// lock makes the caller the writer, within the handler's own deadline. It returns the time if
// it has just looked at the clock, or 0.
func (w *Wrapped) lock() (now time.Duration, err error) {
	c := w.c
	for {
		by := time.Duration(c.writeBy.Load())
		if w.closed.Load() {
			return 0, net.ErrClosed
		}
		if by != 0 {
			if now = c.now(); now >= by {
				w.wakeWriter()
				return 0, os.ErrDeadlineExceeded
			}
		}
		select {
		case c.wlock <- struct{}{}:
			return now, nil
		default:
		}
		t := time.NewTimer(w.timeLeft(by))
		select {
		case c.wlock <- struct{}{}:
			t.Stop()
			return 0, nil
		case <-w.shut:
			t.Stop()
			if w.closeSent.Load() && !w.closed.Load() {
				return 0, errDropped
			}
			return 0, net.ErrClosed
		case <-w.wpoke:
		case <-t.C:
		}
		t.Stop()
	}
}

// unlock undoes lock. It watches over a frame that is not whole, and tells an ending that
// waits for the boundary.
func (w *Wrapped) unlock() {
	if w.phase == phaseOpen && w.unfinished() {
		w.midSince.Store(int64(w.c.now()))
		w.watch()
	}
	if w.c.ending.Load() {
		w.tell()
	}
	w.c.unlockWriter()
}

// tell wakes an ending that waits for the handler.
func (w *Wrapped) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// boundary reports whether the wire is at the boundary of a frame. Held bytes are not on the
// wire.
func (w *Wrapped) boundary() bool {
	return !w.restBegun && w.follow.sent == 0 && (w.holds || w.follow.remain == 0)
}

// unfinished reports whether a frame of the handler's is not whole, or has not gone out.
func (w *Wrapped) unfinished() bool { return !w.follow.whole() || len(w.rest) > 0 }

// between reports whether a frame of the guard's may go out now.
func (w *Wrapped) between() bool {
	return w.phase == phaseOpen && w.boundary() && !w.closeSent.Load() && !w.halfClosed
}

// betweenMessages reports the same of a message. between must hold.
func (w *Wrapped) betweenMessages() bool { return w.holds || !w.follow.open }

// ready reports whether the close frame can follow what the handler has written, or need
// not be sent at all. The caller is the writer.
func (w *Wrapped) ready() bool {
	switch {
	case w.phase != phaseOpen, w.closeSent.Load(), w.closed.Load(), w.halfClosed, w.fault != nil:
		return true
	case w.c.answered.Load():
		return false // the handler answers the peer's close frame itself
	}
	return w.boundary()
}

// writeAnswer holds the response head until it is whole, and judges it.
func (w *Wrapped) writeAnswer(p []byte) (int, error) {
	rest := p
	for {
		had := len(w.head)
		w.head = append(w.head, rest[:min(len(rest), maxAnswer+1-had)]...)
		n := cutHead(w.head)
		if len(w.head) > maxAnswer && (n == 0 || n > maxAnswer) {
			return len(p) - len(rest), w.bad("a response head over 16 KiB")
		}
		if n == 0 {
			return len(p), nil
		}
		a := judgeAnswer(w.head[:n], w.offer)
		if a.fault != "" {
			return len(p) - len(rest), w.bad(a.fault)
		}
		rest, w.head = rest[n-had:], nil
		if err := w.sendHead(a.status, a.head, nil); err != nil {
			return 0, err
		}
		took := len(p) - len(rest)
		switch {
		case a.status < 200 && a.status != http.StatusSwitchingProtocols:
			continue // an interim response
		case a.status == http.StatusSwitchingProtocols:
			w.settle(phaseOpen)
			w.hooks.Opened()
			n, err := w.writeFrames(rest, 0)
			return took + n, err
		}
		w.refused.Store(true)
		w.settle(phaseRefused)
		w.progress = w.c.now()
		w.answerBy.Reset(w.c.cfg.WriteTimeout)
		w.hooks.Refused(a.status)
		n, err := w.send(rest, 0)
		return took + n, err
	}
}

// settle ends phaseAnswer.
func (w *Wrapped) settle(to phase) {
	w.answerBy.Stop()
	w.phase = to
	close(w.answered)
}

// errBadAnswer is what the handler's Write returns when its answer was not sent.
var errBadAnswer = errors.New("wsguard: the handler's response is no 101 that fits the request")

// bad answers 502 in place of the handler. A 502 that cannot be sent is not reported: the
// connection has then ended for another cause.
func (w *Wrapped) bad(detail string) error {
	w.refused.Store(true)
	w.settle(phaseOver)
	if w.sendHead(http.StatusBadGateway, []byte(badGateway), []byte(badGatewayBody)) == nil {
		w.hooks.BadAnswer(detail)
	}
	return errBadAnswer
}

// tooLate bounds how long the handler may take for its response head, and how long a refusal
// may make no progress.
func (w *Wrapped) tooLate() {
	defer w.c.survive()
	select {
	case w.c.wlock <- struct{}{}:
	case <-w.shut:
		return
	}
	defer w.c.unlockWriter()
	switch w.phase {
	case phaseAnswer:
		if !w.c.ending.Load() {
			w.bad("no whole response head within the write timeout")
		}
	case phaseRefused:
		if left := w.progress + w.c.cfg.WriteTimeout - w.c.now(); left > 0 {
			w.answerBy.Reset(left)
			return
		}
		w.phase = phaseOver
		w.hooks.Closed("no progress")
	}
}

// sendHead sends a response head, and body behind it. Middleware learns the status if that is
// still possible.
func (w *Wrapped) sendHead(status int, head, body []byte) error {
	var said *announcement
	if w.late.Load() != nil && !w.c.ending.Load() {
		said = announcementOf(status, head, w.c.cfg.WriteTimeout)
	}
	switch sent, err := w.attach(said); {
	case err != nil:
		w.c.broken = true // a part of the head may have left
		return w.failed(err)
	case !sent:
		return w.c.writeAll(slices.Concat(head, body))
	case len(body) > 0:
		return w.c.writeAll(body)
	}
	return nil
}

// writeAll sends b within the write timeout. It is for heads: no deadline of the
// handler's ends it in the middle. An error has ended the connection.
func (c *Conn) writeAll(b []byte) error {
	if err := c.armWrite(c.now()); err != nil {
		return net.ErrClosed
	}
	c.broken = true // also if the net.Conn panics
	c.wvec[0] = b
	c.wbufs = c.wvec[:1]
	_, err := c.put(true)
	c.endWrite(err == nil)
	if err != nil {
		return c.wrapped.failed(err)
	}
	c.broken = false
	return nil
}

// writeFrames follows p frame by frame, and sends as much of it with one call as may go
// out together. now is the time if the caller has just looked at the clock, or 0.
func (w *Wrapped) writeFrames(p []byte, now time.Duration) (total int, err error) {
	c := w.c
	w.midSince.Store(0)
	for len(p) > 0 {
		if len(w.rest) > 0 {
			now = 0
			if err := w.sendRest(); err != nil {
				return total, err
			}
		}
		if w.boundary() {
			if c.pending.Load() {
				now = 0
				if err := w.flush(); err != nil {
					return total, err
				}
			}
			switch {
			case w.closeSent.Load(), w.answersEnd(p):
				return total + len(p), nil
			case w.closed.Load(), c.ending.Load() && !c.answered.Load():
				return total, net.ErrClosed
			}
		}
		if !w.follow.open && w.follow.whole() {
			w.holdTo, w.holds = w.hooks.Outbound()
		}
		r := w.gather(p)
		if r.closes {
			w.hooks.Closing(r.code, r.why) // before the peer can answer it
		}
		pinging := r.pings && w.pinging()
		if n, err := w.send(r.send, now); err != nil {
			took := r.took
			if !r.held {
				took = n
			}
			if r.closes && err == os.ErrDeadlineExceeded {
				w.hooks.Unsent()
			}
			if messages, bytes := w.follow.resume(r, n); messages > 0 {
				w.sent(messages, bytes)
			}
			return total + took, err
		}
		if pinging {
			c.pingSent()
		}
		now = 0
		w.follow.drop()
		p, total = p[r.took:], total+r.took
		if err := w.account(r); err != nil {
			return total, err
		}
	}
	return total, nil
}

// pinging is called before a ping of the handler's goes out. The peer must answer it, as it must
// answer one of ours.
func (w *Wrapped) pinging() bool {
	c := w.c
	if c.cfg.PingInterval <= 0 {
		return false
	}
	c.mu.Lock()
	c.theirPing = c.now()
	c.mu.Unlock()
	return c.pinging()
}

// account updates the state when a run has gone out.
func (w *Wrapped) account(r run) error {
	if r.messages > 0 {
		w.sent(r.messages, r.bytes)
	}
	switch {
	case r.fault != "":
		w.fault = fmt.Errorf("wsguard: the handler wrote %s: %w", r.fault, net.ErrClosed)
		w.hooks.Illegal(r.fault)
		return w.fault
	case r.closes:
		w.closeSent.Store(true)
		w.lastWord()
	case r.whole:
		return w.release()
	}
	return nil
}

// run has the bytes that may go out with one call.
type run struct {
	send     []byte
	took     int // bytes of what was given that are accounted for
	before   followState
	held     bool // send had been held back
	messages int
	bytes    int64
	pings    bool // send has a ping
	fault    string
	closes   bool // send ends with a close frame
	code     int
	why      string
	whole    bool // a message that is held is whole
}

// runBytes is where a run of several frames ends, so that a pong or the close frame need
// not wait for all that the handler has written with one call.
const runBytes = 32 << 10

// gather follows p to its end, or to a boundary at which something else is due.
func (w *Wrapped) gather(p []byte) (r run) {
	f := &w.follow
	r.before = f.followState
	for r.took < len(p) {
		s := f.follow(p[r.took:])
		r.held = s.held
		r.pings = r.pings || s.ping
		if s.fault != "" {
			r.fault = s.fault
			return r
		}
		if w.holds && !s.control {
			w.holdMore(&r, s)
			return r
		}
		if r.held || w.holds {
			r.send = s.send
		} else {
			r.send = p[:r.took+len(s.send)]
		}
		r.took += s.took
		switch s.end {
		case endClose:
			r.closes, r.code, r.why = true, s.code, s.why
			return r
		case endMessage:
			if !s.control {
				r.messages++
				r.bytes += s.bytes
			}
			if _, hold := w.hooks.Outbound(); hold {
				return r
			}
		}
		if r.held || w.holds || len(s.send) == 0 || s.end != endInput && (r.took >= runBytes || w.c.pending.Load() || w.c.ending.Load()) {
			return r
		}
	}
	return r
}

// holdMore takes a step of a message that is held.
func (w *Wrapped) holdMore(r *run, s step) {
	r.took += s.took
	if w.holdTo > 0 && w.follow.size > w.holdTo {
		r.fault = "a message over Messages.MaxBytes"
		return
	}
	if w.hold == nil {
		w.hold = boxes.Get().(*[]byte)
		*w.hold = append((*w.hold)[:0], make([]byte, HeaderBytes)...)
	}
	*w.hold = append(*w.hold, s.payload...)
	r.whole = s.end == endMessage
}

// unhold gives back the buffer that held a message.
func (w *Wrapped) unhold() {
	if w.hold != nil && cap(*w.hold) <= maxBox {
		boxes.Put(w.hold)
	}
	w.hold, w.rest, w.restBegun = nil, nil, false
}

// release sends a message that was held, if the outbound check lets it pass.
func (w *Wrapped) release() error {
	msg := (*w.hold)[HeaderBytes:]
	w.holds = false
	if !w.hooks.Check(w.follow.op == opBinary, msg) {
		w.unhold()
		return nil
	}
	var space [HeaderBytes]byte
	head := appendHeader(space[:0], w.follow.op, len(msg))
	w.rest = (*w.hold)[HeaderBytes-len(head):]
	copy(w.rest, head)
	return w.sendRest()
}

// sendRest sends the rest of a frame that has passed the outbound check.
func (w *Wrapped) sendRest() error {
	n, err := w.send(w.rest, 0)
	w.rest = w.rest[n:]
	w.restBegun = w.restBegun || n > 0
	if err != nil {
		return err
	}
	w.sent(1, int64(len(*w.hold)-HeaderBytes))
	w.unhold()
	return nil
}

// send writes b within the connection's write timeout, and within the handler's own deadline,
// which ends the call alone. now is the time if the caller has just looked at the clock, or 0.
func (w *Wrapped) send(b []byte, now time.Duration) (sent int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	c := w.c
	if now == 0 {
		now = c.now()
	}
	w.begun = now
	if !w.arm(now) {
		return 0, net.ErrClosed
	}
	for {
		broken := c.broken
		c.broken = true // in case the net.Conn panics
		n, err := c.nc.Write(c.pieceOf(b[sent:]))
		c.broken = broken
		sent += n
		c.accepted(n, err == nil)
		switch {
		case err == nil && sent == len(b):
			c.endWrite(true)
			return sent, nil
		case err == nil:
			if !w.mayGoOn() {
				c.endWrite(false)
				return sent, net.ErrClosed
			}
			continue
		}
		now = c.now()
		own := time.Duration(c.writeBy.Load())
		expired := isTimeout(err) && own != 0 && now >= own
		if isTimeout(err) && !expired && !w.closed.Load() && c.resumeWrite(now, own) {
			continue
		}
		c.broken = c.broken || !c.resumes // the engine cannot know which bytes have left
		c.endWrite(false)
		switch {
		case w.closed.Load():
			return sent, net.ErrClosed
		case expired && c.resumes:
			return sent, os.ErrDeadlineExceeded
		}
		return sent, w.failed(err)
	}
}

// sent counts messages of the handler's that have gone out.
func (w *Wrapped) sent(messages int, bytes int64) {
	w.c.lastApp.Store(int64(w.begun))
	w.c.lastMessage.Store(int64(w.begun))
	w.hooks.Sent(messages, bytes)
}

// arm begins a write at now. It returns false if nothing may go out any more. The socket is then
// left alone, so that the ending can still send the close frame.
func (w *Wrapped) arm(now time.Duration) bool {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	own := time.Duration(c.writeBy.Load())
	switch {
	case w.closed.Load(), c.cause != nil && now >= c.graceBy:
		return false
	case c.cause != nil && (own == 0 || c.graceBy < own):
		own = c.graceBy
	}
	c.handlers = true
	c.beginWrite(now)
	if c.cause != nil {
		c.warmed = own // fix has set it for a tls.Conn too
		c.nc.SetWriteDeadline(c.at(own))
		return true
	}
	c.setWriteBy(now, own)
	return true
}

// mayGoOn reports whether the next piece of a write may go out.
func (w *Wrapped) mayGoOn() bool {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return !w.closed.Load() && (c.cause == nil || c.now() < c.graceBy)
}

// failed ends the connection because it cannot be written to.
func (w *Wrapped) failed(err error) error {
	c := w.c
	failure := c.failWrite(err, false)
	if !c.ending.Load() {
		c.hooks.Broken(failure)
	}
	return err
}

// watch sees to it that a frame of the handler's does not stay unfinished.
func (w *Wrapped) watch() {
	if w.watching.Swap(true) {
		return
	}
	if w.stall == nil {
		w.stall = time.AfterFunc(never, w.stalled)
	}
	w.stall.Reset(w.c.cfg.WriteTimeout)
}

func (w *Wrapped) stalled() {
	since := time.Duration(w.midSince.Load())
	left := since + w.c.cfg.WriteTimeout - w.c.now()
	if late := -left; since != 0 && late > w.c.slice() && w.granted.Swap(int64(since)) != int64(since) {
		left = w.c.moment() // the process was stopped, and the handler too
	}
	switch {
	case w.c.ending.Load():
	case since == 0:
		w.watching.Store(false)
		if w.midSince.Load() != 0 && !w.watching.Swap(true) {
			w.stall.Reset(w.c.cfg.WriteTimeout)
		}
	case left > 0:
		w.stall.Reset(left)
	default:
		w.hooks.Stalled()
	}
}

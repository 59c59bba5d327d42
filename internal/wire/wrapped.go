package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// WrapHooks is what the engine tells the guard about a wrapped handler. No lock of the
// reader's is held when they are called; the writer's may be.
type WrapHooks interface {
	Opened()                        // its 101 has gone out
	Refused(status int)             // it has answered with another status
	BadAnswer(detail string)        // its answer was replaced by a 502; detail is constant
	Illegal(detail string)          // it has written what is no legal frame; detail is constant
	Closing(code int, why string)   // its close frame has gone out
	Closed(detail string)           // it has closed its net.Conn, or has left a frame unfinished
	Stalled()                       // it has left a frame unfinished for the write timeout
	Sent(messages int, bytes int64) // so many messages with so much payload have gone out

	// Outbound is asked at the beginning of each message whether whole messages are held
	// and judged, and how long they may be.
	Outbound() (max int64, hold bool)

	// Check judges a message that was held. It reports whether it goes out.
	Check(binary bool, msg []byte) bool
}

// phase is how far a wrapped handler has come.
type phase int

const (
	phaseAnswer  phase = iota // its response head is not whole
	phaseOpen                 // its 101 has gone out
	phaseRefused              // it has answered otherwise
	phaseOver                 // nothing of it goes out any more
)

// maxNotices bounds the notices that wait for the end of a message of the handler's.
const maxNotices = 16

// Wrapped is the net.Conn of a handler that speaks WebSocket by itself. Its Read returns
// judged messages as frames; what its Write is given is followed frame by frame. It has
// no other methods, because whoever reached the connection below would go round the guard.
type Wrapped struct {
	c     *Conn
	hooks WrapHooks
	offer Offer

	answered chan struct{} // closed when phaseAnswer is over
	shut     chan struct{} // closed when nothing of the handler's goes out any more
	changed  chan struct{} // tells the ending that the handler has come to a boundary
	wpoke    chan struct{} // wakes a Write that waits for the writer's lock
	answerBy *time.Timer   // bounds phaseAnswer, or a refusal without progress

	closed    atomic.Bool                // the handler has called Close
	closeSent atomic.Bool                // its close frame has gone out
	refused   atomic.Bool                // phaseRefused; written by the writer
	dropped   atomic.Int64               // notices for which there was no room
	leave     atomic.Pointer[time.Timer] // ends the connection after the handler's last word; set by the writer
	watching  atomic.Bool                // stall runs
	midSince  atomic.Int64               // Duration: last progress in the middle of a frame; 0: at a boundary

	rmu      sync.Mutex     // one Read at a time
	outHead  []byte         // rmu: bytes for the next Read
	outBody  []byte         // rmu: those behind them; they lie in the reader's message
	outKey   uint32         // rmu: their masking key
	outSpace [14 + 125]byte // rmu: where outHead lies
	peerHas  bool           // rmu: the peer's close frame has been forwarded
	over     error          // rmu: what Read returns when out is empty

	phase  phase         // writer
	head   []byte        // writer: what has come of the response head
	follow follower      // writer
	hold   []byte        // writer: a message that is held for the outbound check
	holds  bool          // writer: the current message is
	holdTo int64         // writer: how long it may be
	begun  time.Duration // writer: the last call that sent something
	stall  *time.Timer   // writer: looks after a frame that is not whole
}

// Wrap makes the second door of c. It must be called before anything is read or written.
func (c *Conn) Wrap(offer Offer, hooks WrapHooks) *Wrapped {
	w := &Wrapped{
		c: c, hooks: hooks, offer: offer,
		answered: make(chan struct{}), shut: make(chan struct{}), changed: make(chan struct{}, 1), wpoke: make(chan struct{}, 1),
	}
	c.wrapped = w
	w.answerBy = time.AfterFunc(c.cfg.WriteTimeout, w.late)
	return w
}

// NoticesDropped is how many notices found no room.
func (w *Wrapped) NoticesDropped() int64 { return w.dropped.Load() }

func (w *Wrapped) LocalAddr() net.Addr  { return w.c.nc.LocalAddr() }
func (w *Wrapped) RemoteAddr() net.Addr { return w.c.nc.RemoteAddr() }

// Read returns bytes of well-formed, masked frames: one unfragmented frame for each judged
// message, the pongs that answer the handler's own pings, and the close frame.
func (w *Wrapped) Read(p []byte) (int, error) {
	w.rmu.Lock()
	defer w.rmu.Unlock()
	if err := w.awaitAnswer(); err != nil {
		return 0, err
	}
	for {
		if w.closed.Load() {
			return 0, net.ErrClosed
		}
		if n := w.give(p); n > 0 || len(p) == 0 {
			return n, nil
		}
		if w.over != nil {
			return 0, w.over
		}
		n, err := w.receive(p)
		switch err {
		case nil, errForwarded, ErrInterrupted:
			if n > 0 {
				return n, nil
			}
		case os.ErrDeadlineExceeded:
			return 0, err
		default:
			w.finalFrame()
		}
	}
}

// give copies what is there for the handler.
func (w *Wrapped) give(p []byte) int {
	n := copy(p, w.outHead)
	w.outHead = w.outHead[n:]
	m := min(len(p)-n, len(w.outBody))
	w.outKey = maskTo(p[n:n+m], w.outBody[:m], w.outKey)
	w.outBody = w.outBody[m:]
	return n + m
}

// awaitAnswer waits until the handler's response has gone out.
func (w *Wrapped) awaitAnswer() error {
	select {
	case <-w.answered:
		if w.refused.Load() && w.over == nil {
			w.over = io.EOF
		}
		return nil
	default:
	}
	for {
		left, err := w.timeLeft(&w.c.readBy)
		if err != nil {
			return err
		}
		t := time.NewTimer(left)
		select {
		case <-w.answered:
		case <-w.c.closing:
		case <-w.c.poke:
			t.Stop()
			continue
		case <-t.C:
			continue
		}
		t.Stop()
		if w.refused.Load() {
			w.over = io.EOF
		}
		return nil
	}
}

// timeLeft is how long a deadline of the handler's leaves.
func (w *Wrapped) timeLeft(by *time.Duration) (time.Duration, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if *by == 0 {
		return never, nil
	}
	left := *by - w.c.now()
	if left <= 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return left, nil
}

const never = time.Duration(1<<63 - 1)

// receive waits for a judged message and copies its frame to p, and with it those of the
// messages behind it that have come whole: a handler that reads through a buffer would
// otherwise pay for a call for each message.
func (w *Wrapped) receive(p []byte) (n int, err error) {
	c := w.c
	if err := c.enter(context.Background()); err != nil {
		return 0, err
	}
	m, err := c.next()
	for err == nil {
		w.message(m)
		n += w.give(p[n:])
		if n == len(p) || !c.ahead() {
			break
		}
		c.hurry = true
		m, err = c.next()
		c.hurry = false
	}
	c.leave(n == 0 && err != errForwarded)
	if n > 0 {
		err = nil // the next call meets it again, if it has ended the connection
	}
	return n, err
}

// message makes the frame of a judged message.
func (w *Wrapped) message(m *Message) {
	op := byte(opText)
	if m.Binary {
		op = opBinary
	}
	w.header(op, w.c.first, len(m.Data))
	w.outBody, w.outKey = m.Data, binary.LittleEndian.Uint32(w.c.first[:])
}

// header makes the header of a masked frame.
func (w *Wrapped) header(op byte, key [4]byte, length int) {
	b := appendHeader(w.outSpace[:0], op, length)
	b[1] |= 0x80
	w.outHead = append(b, key[:]...)
}

// control makes a control frame of the engine's own for the handler.
func (w *Wrapped) control(op byte, p []byte) {
	var key [4]byte
	for binary.LittleEndian.Uint32(key[:]) == 0 {
		binary.LittleEndian.PutUint32(key[:], rand.Uint32())
	}
	w.header(op, key, len(p))
	n := len(w.outHead)
	w.outHead = append(w.outHead, p...)
	mask(w.outHead[n:], binary.LittleEndian.Uint32(key[:]))
}

// forward hands a control frame of the peer's to the handler. The reader calls it, on
// behalf of a Read whose out is empty.
func (w *Wrapped) forward(op byte, p []byte) {
	w.control(op, p)
	w.peerHas = w.peerHas || op == opClose
}

// finalFrame is what the handler reads when the connection has ended.
func (w *Wrapped) finalFrame() {
	c := w.c
	<-c.closing
	c.mu.Lock()
	code, why, gone := c.endCode, c.endReason, c.lost
	c.mu.Unlock()
	w.over = io.EOF
	switch {
	case w.peerHas, w.closeSent.Load():
	case w.closed.Load():
		w.over = net.ErrClosed
	case gone != nil:
		w.over = gone
	case code == 1005:
		w.control(opClose, nil)
	case code != 0:
		w.control(opClose, appendClose(nil, code, why))
	}
}

// Write sends what the handler writes. It returns when the kernel has all of it, except
// for what is held back until it is whole: the response head, a header, a control frame,
// and, with an outbound check, a message.
func (w *Wrapped) Write(p []byte) (int, error) {
	if err := w.lock(); err != nil {
		if err == errDropped {
			return len(p), nil
		}
		return 0, err
	}
	defer w.unlock()
	switch {
	case w.closed.Load() || w.phase == phaseOver:
		return 0, net.ErrClosed
	case w.closeSent.Load():
		return len(p), nil
	case w.phase == phaseAnswer:
		return w.writeAnswer(p)
	case w.phase == phaseRefused:
		n, err := w.send(p)
		w.answerBy.Reset(w.c.cfg.WriteTimeout)
		return n, err
	}
	return w.writeFrames(p)
}

// errDropped says that a close frame of the handler's has gone out: what it writes after
// that goes nowhere.
var errDropped = errors.New("wire: written after the close frame")

// lock makes the caller the writer, within the handler's own deadline.
func (w *Wrapped) lock() error {
	select {
	case w.c.wlock <- struct{}{}:
		return nil
	default:
	}
	for {
		left, err := w.timeLeft(&w.c.writeBy)
		if err != nil {
			return err
		}
		t := time.NewTimer(left)
		select {
		case w.c.wlock <- struct{}{}:
			t.Stop()
			return nil
		case <-w.shut:
			t.Stop()
			if w.closeSent.Load() && !w.closed.Load() {
				return errDropped
			}
			return net.ErrClosed
		case <-w.wpoke:
		case <-t.C:
		}
		t.Stop()
	}
}

// unlock undoes lock. It watches over a frame that is not whole, and tells an ending that
// waits for the boundary.
func (w *Wrapped) unlock() {
	if w.phase == phaseOpen && (w.holds || !w.follow.whole()) {
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

// boundary reports whether the wire is at the boundary of a frame. A message that is held
// is not on the wire.
func (w *Wrapped) boundary() bool { return w.holds || w.follow.between() }

// writeAnswer holds the response head until it is whole, and judges it.
func (w *Wrapped) writeAnswer(p []byte) (int, error) {
	had := len(w.head)
	w.head = append(w.head, p...)
	n := cutHead(w.head)
	switch {
	case n > maxAnswer || n == 0 && len(w.head) > maxAnswer:
		return 0, w.bad("a response head over 16 KiB")
	case n == 0:
		return len(p), nil
	}
	a, rest := judgeAnswer(w.head[:n], w.offer), p[n-had:]
	if a.fault != "" {
		return 0, w.bad(a.fault)
	}
	w.head = nil
	if _, err := w.send(a.head); err != nil {
		return 0, err
	}
	took := len(p) - len(rest)
	switch {
	case a.status == http.StatusSwitchingProtocols:
		w.settle(phaseOpen)
		w.hooks.Opened()
		n, err := w.writeFrames(rest)
		return took + n, err
	case a.status < 200:
		n, err := w.writeAnswer(rest)
		return took + n, err
	}
	w.refused.Store(true)
	w.settle(phaseRefused)
	w.answerBy.Reset(w.c.cfg.WriteTimeout)
	w.hooks.Refused(a.status)
	n, err := w.send(rest)
	return took + n, err
}

// settle ends phaseAnswer.
func (w *Wrapped) settle(to phase) {
	w.answerBy.Stop()
	w.phase = to
	close(w.answered)
}

// errBadAnswer is what the handler's Write returns when its answer was not sent.
var errBadAnswer = errors.New("wsguard: the handler's response is no 101 that fits the request")

// bad answers 502 in place of the handler.
func (w *Wrapped) bad(detail string) error {
	w.refused.Store(true)
	w.settle(phaseOver)
	w.send([]byte(badGateway))
	w.hooks.BadAnswer(detail)
	return errBadAnswer
}

// late bounds how long the handler may take for its response head, and how long a refusal
// may make no progress.
func (w *Wrapped) late() {
	select {
	case w.c.wlock <- struct{}{}:
	case <-w.shut:
		return
	}
	defer w.c.unlockWriter()
	switch w.phase {
	case phaseAnswer:
		w.bad("no whole response head within the write timeout")
	case phaseRefused:
		w.phase = phaseOver
		w.hooks.Closed("no progress")
	}
}

// writeFrames follows p frame by frame, and sends as much of it with one call as may go
// out together.
func (w *Wrapped) writeFrames(p []byte) (int, error) {
	c := w.c
	w.midSince.Store(0)
	total := 0
	for {
		if w.boundary() {
			switch {
			case c.ending.Load() && !c.answered.Load():
				return total, net.ErrClosed
			case w.closeSent.Load():
				return total + len(p), nil
			case c.pending.Load():
				c.flushControl()
			}
		}
		if len(p) == 0 {
			return total, nil
		}
		if !w.follow.open && w.follow.whole() {
			w.holdTo, w.holds = w.hooks.Outbound()
		}
		r := w.gather(p)
		n, err := w.send(r.send)
		if err != nil {
			took := r.took
			if w.follow.resume(r, n); !r.held {
				took = n
			}
			return total + took, err
		}
		w.follow.drop()
		p, total = p[r.took:], total+r.took
		if r.messages > 0 {
			w.sent(r.messages, r.bytes)
		}
		switch {
		case r.fault != "":
			w.phase = phaseOver
			w.hooks.Illegal(r.fault)
			return total, net.ErrClosed
		case r.closes:
			w.closeSent.Store(true)
			w.closeBy()
			w.hooks.Closing(r.code, r.why)
		case r.whole:
			if err := w.release(); err != nil {
				return total, err
			}
		}
	}
}

// run is what may go out with one call.
type run struct {
	send     []byte
	took     int // bytes of what was given that are accounted for
	before   followState
	held     bool // send had been held back
	messages int
	bytes    int64
	fault    string
	closes   bool // send ends with a close frame
	code     int
	why      string
	whole    bool // a message that is held is whole
}

// gather follows p to its end, or to a boundary at which something else is due.
func (w *Wrapped) gather(p []byte) (r run) {
	f := &w.follow
	r.before = f.followState
	for r.took < len(p) {
		s := f.follow(p[r.took:])
		r.held = s.held
		if s.fault != "" {
			r.fault = s.fault
			return r
		}
		if w.holds && !s.control {
			if f.size > w.holdTo && w.holdTo > 0 {
				r.fault = "a message over Messages.MaxBytes"
				return r
			}
			w.hold = append(w.hold, s.payload...)
			r.took += s.took
			r.whole = s.end == endMessage
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
		if r.held || w.holds || len(s.send) == 0 || s.end != endInput && (w.c.pending.Load() || w.c.ending.Load()) {
			return r
		}
	}
	return r
}

// release sends a message that was held, if the outbound check lets it pass.
func (w *Wrapped) release() error {
	msg := w.hold
	op := w.follow.op
	w.holds = false
	defer func() {
		if w.hold = msg[:0]; cap(msg) > maxBox {
			w.hold = nil
		}
	}()
	if !w.hooks.Check(op == opBinary, msg) {
		return nil
	}
	w.begun = w.c.now()
	if err := w.c.writeFrame(op, msg, w.begun); err != nil {
		if err != ErrClosing {
			w.c.hooks.Broken(err)
		}
		return err
	}
	w.sent(1, int64(len(msg)))
	return nil
}

// send writes b within the connection's write timeout, which starts again with progress,
// and within the handler's own deadline, which ends the call alone.
func (w *Wrapped) send(b []byte) (sent int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	c := w.c
	start, from := c.now(), 0
	w.begun = start
	w.arm(start)
	for {
		n, err := c.nc.Write(b[sent:])
		sent += n
		if err == nil {
			return sent, nil
		}
		if !isTimeout(err) || !c.resumes {
			return sent, w.failed(err)
		}
		now := c.now()
		c.mu.Lock()
		ended, over, own := c.cause != nil, now >= c.warmed, c.writeBy != 0 && now >= c.writeBy
		c.mu.Unlock()
		switch {
		case w.closed.Load():
			return sent, net.ErrClosed
		case ended && over:
			return sent, w.failed(err)
		case ended:
		case own:
			return sent, os.ErrDeadlineExceeded
		case now >= start+c.cfg.WriteTimeout:
			if sent-from < minProgress {
				return sent, w.failed(err)
			}
			start, from = now, sent
			fallthrough
		default:
			w.arm(start)
		}
	}
}

// sent counts messages of the handler's that have gone out.
func (w *Wrapped) sent(messages int, bytes int64) {
	w.c.lastApp.Store(int64(w.begun))
	w.c.lastMessage.Store(int64(w.begun))
	w.hooks.Sent(messages, bytes)
}

// minProgress is how much a peer must take within the write timeout.
const minProgress = 1 << 10

// arm sets the write deadline for a call that began, or made progress, at start.
func (w *Wrapped) arm(start time.Duration) {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return // the grace rules
	}
	by := start + c.cfg.WriteTimeout
	soon := start + c.cfg.WriteTimeout/2
	if c.writeBy != 0 && c.writeBy < by {
		by, soon = c.writeBy, c.writeBy
	}
	if !c.resumes || c.warmed < soon || c.warmed > by {
		c.warmed = by
		c.nc.SetWriteDeadline(c.born.Add(by))
	}
}

// failed ends the connection because it cannot be written to.
func (w *Wrapped) failed(err error) error {
	c := w.c
	c.broken, c.failed = c.broken || !c.resumes, true
	if !c.ending.Load() {
		c.hooks.Broken(&WriteError{Timeout: isTimeout(err), Broken: true, Err: err})
	}
	return err
}

// watch sees to it that a frame of the handler's does not stay unfinished.
func (w *Wrapped) watch() {
	if w.watching.Swap(true) {
		return
	}
	if w.stall == nil {
		w.stall = time.AfterFunc(w.c.cfg.WriteTimeout, w.stalled)
	} else {
		w.stall.Reset(w.c.cfg.WriteTimeout)
	}
}

func (w *Wrapped) stalled() {
	since := time.Duration(w.midSince.Load())
	left := since + w.c.cfg.WriteTimeout - w.c.now()
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

// ready reports whether the close frame can follow what the handler has written, or is not
// to be sent at all. The caller is the writer.
func (w *Wrapped) ready() bool {
	switch {
	case w.phase != phaseOpen, w.closeSent.Load(), w.closed.Load():
		return true
	case w.c.answered.Load():
		return false // the handler answers the peer's close frame itself
	}
	return w.boundary()
}

// finish is called when nothing of the handler's goes out any more.
func (w *Wrapped) finish() {
	close(w.shut)
	w.answerBy.Stop()
	if t := w.leave.Load(); t != nil {
		t.Stop()
	}
}

// Close ends the connection and returns at once, and so do calls that are under way. No
// close frame is invented; one of the peer's is answered.
func (w *Wrapped) Close() error {
	if w.closed.Swap(true) {
		return net.ErrClosed
	}
	w.hooks.Closed("")
	c := w.c
	c.mu.Lock()
	if !c.final { // a write that is under way gives up
		c.warmed = 1
		c.nc.SetWriteDeadline(past)
	}
	c.mu.Unlock()
	w.tell()
	return nil
}

// CloseWrite ends the handler's direction: nothing that it writes goes out any more.
func (w *Wrapped) CloseWrite() error {
	if err := w.lock(); err != nil {
		return err
	}
	defer w.unlock()
	if w.closed.Load() {
		return net.ErrClosed
	}
	w.phase = phaseOver
	w.c.failed = true // no control frame can follow
	w.closeBy()
	if half, ok := w.c.nc.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// SetDeadline sets the handler's own deadlines. They end its calls with
// os.ErrDeadlineExceeded, and never move those of the engine.
func (w *Wrapped) SetDeadline(t time.Time) error {
	w.SetReadDeadline(t)
	return w.SetWriteDeadline(t)
}

// SetReadDeadline is SetDeadline for Read.
func (w *Wrapped) SetReadDeadline(t time.Time) error {
	c := w.c
	by := w.deadline(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	earlier := by != 0 && (c.readBy == 0 || by < c.readBy)
	c.readBy = by
	if earlier && c.cause == nil && (c.away.Load() == 0 || !w.open()) {
		c.wakeReader()
	}
	return nil
}

// SetWriteDeadline is SetDeadline for Write.
func (w *Wrapped) SetWriteDeadline(t time.Time) error {
	c := w.c
	by := w.deadline(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy = by
	if by != 0 && by < c.warmed && c.cause == nil {
		c.warmed = by
		c.nc.SetWriteDeadline(c.born.Add(by))
	}
	select {
	case w.wpoke <- struct{}{}:
	default:
	}
	return nil
}

// closeBy bounds the connection's life after the handler's last word.
func (w *Wrapped) closeBy() {
	if w.leave.Load() == nil {
		w.leave.Store(time.AfterFunc(w.c.cfg.CloseGrace+w.c.cfg.Linger, func() { w.hooks.Closed("") }))
	}
}

func (w *Wrapped) open() bool {
	select {
	case <-w.answered:
		return true
	default:
		return false
	}
}

func (w *Wrapped) deadline(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(1, t.Sub(w.c.born))
}

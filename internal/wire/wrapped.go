package wire

import (
	"net"
	"sync/atomic"
	"time"
)

// WrapHooks are the methods of the guard that the engine calls about a wrapped handler. The
// caller holds no lock of the reader, but may hold that of the writer.
type WrapHooks interface {
	Opened()                        // its 101 has gone out
	Refused(status int)             // it has answered with another status
	BadAnswer(detail string)        // its answer was replaced by a 502; detail is constant
	Illegal(detail string)          // it has written an illegal frame; detail is constant
	Closing(code int, why string)   // its close frame goes out
	Unsent()                        // its own deadline has kept that frame from going out
	Closed(detail string)           // it has closed its net.Conn, or has stopped
	Unanswered()                    // it has closed its net.Conn without a response
	Stalled()                       // it has left a frame unfinished for the write timeout
	Drained()                       // it has read to the end, or has closed its net.Conn
	Sent(messages int, bytes int64) // so many messages with so much payload have gone out

	// Outbound is called at the beginning of each message. It returns whether whole messages
	// are held and judged, and how long they may be.
	Outbound() (max int64, hold bool)

	// Check judges a message that was held. It reports whether it goes out.
	Check(binary bool, msg []byte) bool
}

// phase is the progress of a wrapped handler.
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
// judged messages as frames, and its Write checks each frame. It has no other methods, because
// a handler that reached the connection below could bypass the guard.
type Wrapped struct {
	c     *Conn
	hooks WrapHooks
	offer Offer

	answered chan struct{} // closed when phaseAnswer is over
	shut     chan struct{} // closed when nothing of the handler's goes out any more
	changed  chan struct{} // tells the ending that the handler has come to a boundary
	wpoke    chan struct{} // wakes a Write that waits for the writer's lock
	answerBy *time.Timer   // bounds phaseAnswer, or a refusal without progress

	late atomic.Pointer[late] // the connection that net/http still has; nil: it does not

	closed    atomic.Bool                // the handler has called Close
	closeSent atomic.Bool                // its close frame has gone out
	told      atomic.Bool                // the handler has been given the close frame of the guard's end
	refused   atomic.Bool                // it has answered otherwise, or was not let
	drained   atomic.Bool                // the hook has been called
	leave     atomic.Pointer[time.Timer] // ends the connection after the handler's last word; set by the writer
	watching  atomic.Bool                // stall runs
	granted   atomic.Int64               // the midSince for which the handler got a moment more
	midSince  atomic.Int64               // Duration: last progress in the middle of a frame; 0: at a boundary

	rmu      turn           // one Read at a time
	outHead  []byte         // rmu: bytes for the next Read
	outBody  []byte         // rmu: those behind them; they lie in the reader's message
	outKey   uint32         // rmu: their masking key
	outSpace [14 + 125]byte // rmu: where outHead lies
	peerHas  bool           // rmu: the peer's close frame has been forwarded
	over     error          // rmu: what Read returns when out is empty

	phase      phase         // writer
	head       []byte        // writer: what has come of the response head
	progress   time.Duration // writer: the last write of a refusal's body
	follow     follower      // writer
	fault      error         // writer: the handler has written an illegal frame
	halfClosed bool          // writer: CloseWrite has been called
	finSent    bool          // writer: and the peer has been told
	holds      bool          // writer: the payload of the current message is held for the outbound check
	holdTo     int64         // writer: how long it may be
	hold       *[]byte       // writer: what has come of it, behind room for a header; nil: nothing
	rest       []byte        // writer: in hold: a frame that has passed the check, and has not gone out
	restBegun  bool          // writer: the front of it has
	begun      time.Duration // writer: the last call that sent something
	stall      *time.Timer   // writer: looks after a frame that is not whole
}

var _ net.Conn = (*Wrapped)(nil)

// turn is a lock that may be held for as long as a Read waits. Waiting for it is durably
// blocking in the sense of testing/synctest, as waiting for a sync.Mutex is not.
type turn struct {
	held    atomic.Bool
	waiting atomic.Int32
	free    chan struct{} // has room for one
}

func (t *turn) lock() {
	if t.tryLock() {
		return
	}
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	for !t.tryLock() {
		<-t.free
	}
}

func (t *turn) tryLock() bool { return t.held.CompareAndSwap(false, true) }

func (t *turn) unlock() {
	t.held.Store(false)
	if t.waiting.Load() > 0 {
		select {
		case t.free <- struct{}{}:
		default:
		}
	}
}

// Wrap makes the second door of c. It must be called before anything is read or written.
func (c *Conn) Wrap(offer Offer, hooks WrapHooks) *Wrapped {
	w := &Wrapped{
		c: c, hooks: hooks, offer: offer, rmu: turn{free: make(chan struct{}, 1)},
		answered: make(chan struct{}), shut: make(chan struct{}), changed: make(chan struct{}, 1), wpoke: make(chan struct{}, 1),
	}
	c.wrapped = w
	if l, ok := c.nc.(*late); ok {
		w.late.Store(l)
	}
	w.answerBy = time.AfterFunc(never, w.tooLate)
	w.answerBy.Reset(c.cfg.WriteTimeout)
	return w
}

const never = time.Duration(1<<63 - 1)

func (w *Wrapped) LocalAddr() net.Addr  { return w.netConn().LocalAddr() }
func (w *Wrapped) RemoteAddr() net.Addr { return w.netConn().RemoteAddr() }

// netConn returns the connection, which it takes over if net/http still has it.
func (w *Wrapped) netConn() net.Conn {
	w.attach(nil)
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return w.c.nc
}

// Close ends the connection and returns at once, and so do calls that are under way. No
// close frame is invented; one of the peer's is answered.
func (w *Wrapped) Close() error {
	if w.closed.Swap(true) {
		return net.ErrClosed
	}
	select {
	case <-w.answered:
		w.hooks.Closed("")
	default:
		w.hooks.Unanswered()
	}
	w.giveUp()
	w.tell()
	w.drain()
	return nil
}

// giveUp stops a Write that is under way.
func (w *Wrapped) giveUp() {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.final {
		c.warmed = 1
		setDeadline(c.nc.SetWriteDeadline, past)
	}
}

// CloseWrite ends the handler's direction: nothing that it writes goes out any more. A
// close frame of the peer's that the handler has not answered is answered first. The
// connection lasts for the grace and the linger then.
func (w *Wrapped) CloseWrite() error {
	if _, err := w.lock(); err != nil {
		if err == errDropped {
			return nil
		}
		return err
	}
	defer w.unlock()
	switch {
	case w.closed.Load():
		return net.ErrClosed
	case w.halfClosed:
		return nil
	}
	w.halfClosed = true
	if w.c.ending.Load() {
		return nil // the ending does the rest
	}
	w.finSent = true
	w.lastWord()
	if half, ok := w.netConn().(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// lastWord bounds the connection's life after the handler's close frame or half-close: the
// peer has the grace for an answer, and the linger for its EOF.
func (w *Wrapped) lastWord() {
	c := w.c
	c.mu.Lock()
	first := c.lastWord == 0 && c.cause == nil
	if first {
		c.lastWord = c.now()
	}
	c.mu.Unlock()
	if first {
		w.leave.Store(time.AfterFunc(c.cfg.CloseGrace, func() { w.hooks.Closed("") }))
	}
}

// finish is called when nothing of the handler's goes out any more. The ending is the
// writer, or its writer ignores deadlines.
func (w *Wrapped) finish(writer bool) {
	close(w.shut)
	w.answerBy.Stop()
	if t := w.leave.Load(); t != nil {
		t.Stop()
	}
	if writer {
		w.tidy()
	}
}

// tidy gives up what the writer holds. The caller is the writer, for good.
func (w *Wrapped) tidy() {
	if w.stall != nil {
		w.stall.Stop()
	}
	w.head = nil
	w.follow.forget()
	w.unhold()
}

// drain tells the guard once that the handler expects nothing more.
func (w *Wrapped) drain() {
	if !w.drained.Swap(true) {
		w.hooks.Drained()
	}
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
	old := c.readBy.Swap(by)
	earlier := by != 0 && (old == 0 || by < old)
	if earlier && c.cause == nil && (c.away.Load() == 0 || c.pausing || !w.settled()) {
		c.wakeReader()
	}
	return w.usable()
}

// SetWriteDeadline is SetDeadline for Write.
func (w *Wrapped) SetWriteDeadline(t time.Time) error {
	c := w.c
	by := w.deadline(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy.Store(by)
	// Leave a write of the engine alone. A write of the handler continues if it finds its
	// deadline moved later.
	if own := time.Duration(by); own != 0 && c.handlers && !c.final && c.stall.since.Load() != 0 {
		switch {
		case c.tls != nil && c.cause == nil:
			c.lookBy(c.now(), own)
		case c.warmed == 0 || own < c.warmed:
			c.warmed = own
			c.nc.SetWriteDeadline(c.at(own))
		}
	}
	w.wakeWriter()
	return w.usable()
}

// wakeWriter wakes a Write that waits, so that it looks at its deadline. Of several Writes that
// wait it wakes one, which must wake the next when it leaves.
func (w *Wrapped) wakeWriter() {
	select {
	case w.wpoke <- struct{}{}:
	default:
	}
}

// usable returns the result of setting a deadline.
func (w *Wrapped) usable() error {
	if w.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// settled reports whether the handler's response has gone out, or another in its place.
func (w *Wrapped) settled() bool {
	select {
	case <-w.answered:
		return true
	default:
		return false
	}
}

func (w *Wrapped) deadline(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return int64(min(max(1, t.Sub(w.c.born)), never-1)) + 1 // see now
}

// Package wire is the engine: it owns the net.Conn of a WebSocket connection from
// the moment at which it is hijacked to the moment at which it is closed.
//
// The engine parses frames, unmasks them, assembles whole messages, asks its
// [Hooks] to judge each of them, answers control frames, keeps every deadline,
// writes at frame boundaries and ends the connection. Two doors stand on it.
// [Conn.Receive] and [Conn.Write] give messages to an application. [Wrapped] is the
// net.Conn of a handler that speaks WebSocket by itself. The handler reads judged messages as
// frames, and the engine checks each frame that it writes.
//
// # Owners
//
//	reader   the holder of rlock: Receive, Wrapped.Read or Look, later the ending
//	writer   the holder of wlock: Write, WriteFrames, Wrapped.Write, flushAndUnlock, later the ending
//	mu       the end, the deadlines, frames that wait for the writer
//
// The locks are taken in this order: Wrapped.rmu, rlock or wlock, mu. mu is never held
// while something blocks, and no hook is called while it is held.
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	mathrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config has the settings that the connections of one endpoint share. It is read-only after
// the first connection.
type Config struct {
	PingInterval   time.Duration // 0: no pings
	PongTimeout    time.Duration // 0: the engine does not wait for pongs
	IdleTimeout    time.Duration // 0: no idle timeout
	MessageTimeout time.Duration // 0: no limit on the time of a message
	WriteTimeout   time.Duration // required
	CloseGrace     time.Duration // for the close frame, and for the peer's answer
	Linger         time.Duration // for the peer's EOF
	LingerBytes    int64         // how many bytes a lingering end reads and drops

	MaxFragments int     // frames per message; 0: no limit
	ControlRate  float64 // control frames per second; 0: no limit
	ControlBurst int

	// Endings bounds how many endings wait for their peer at the same time. An ending that
	// finds it full closes the socket right after its close frame.
	Endings chan struct{}
}

// Message is a whole message from the peer.
type Message struct {
	Binary  bool
	Data    []byte // unmasked; valid until the next Receive
	Checked int    // Data[:Checked] is known to be UTF-8
	Held    bool   // Judge has held it back before
	Ahead   bool   // the messages in front of it have not been read, so Judge must deliver it, or hold it and do nothing else

	waited time.Duration
}

// Verdict is what Judge decides about a message.
type Verdict int

// Verdicts.
const (
	Deliver Verdict = iota // the application gets it
	Drop                   // the message is dropped, and the engine reads on
	Hold                   // Judge is asked again after a wait
)

// Hooks are the methods of the guard that the engine calls. The reader calls them, except for
// Broken, which any writer may call.
type Hooks interface {
	// Accept is called once for each message, at the header of its first frame. It returns
	// how many bytes of payload the message may have. 0 is no limit. An error has ended the
	// connection, and Receive returns it.
	Accept(binary bool) (max int64, err error)

	// Judge is called when the message is complete. wait is how long to Hold it. An error
	// has ended the connection.
	Judge(m *Message) (v Verdict, wait time.Duration, err error)

	// Ahead reports whether messages may be judged before a wrapped handler has read those
	// in front of them.
	Ahead() bool

	// Failed ends the connection because of a fault that the reader has found. Receive
	// returns its error.
	Failed(e *Error) error

	// Broken ends the connection because a control frame or a notice could not be
	// written.
	Broken(err error)

	// Tolerates is called with a FaultFragments, a FaultControl, a FaultMessageTimeout, a
	// FaultIdle or a FaultPong. It returns true if the guard only reports the fault, and the
	// engine goes on. The engine calls it once for each message that has too many frames, and
	// again each time that a timeout has passed once more.
	Tolerates(f Fault) bool

	// Pong is called when the peer has answered the latest ping of the guard, with the time
	// since the ping was handed to the writer.
	Pong(roundTrip time.Duration)
}

// Errors that say why a call stopped. None of them closes the connection.
var (
	ErrClosing     = errors.New("wire: the connection is closing")
	ErrInterrupted = errors.New("wire: interrupted")
)

// Fault is a reason to close that the engine itself has found.
type Fault int

const (
	FaultNone           Fault = iota
	FaultProtocol             // an illegal frame
	FaultTooBig               // declared more than the limit
	FaultFragments            // too many frames in a message
	FaultControl              // too many control frames
	FaultReason               // a close reason that is not UTF-8
	FaultUTF8                 // a text that is not UTF-8, seen before it was complete
	FaultMessageTimeout       // a message took too long
	FaultIdle                 // no application message for too long
	FaultPong                 // a ping was not answered
	FaultClosed               // the peer sent a close frame
	FaultLost                 // EOF or an error of the net.Conn
)

// Error is a Fault with its details.
type Error struct {
	Fault  Fault
	Detail string // constant text
	Code   int    // FaultClosed: the peer's code, 1005 for none
	Reason string // FaultClosed: the peer's reason, valid UTF-8
	Err    error  // FaultLost: the net.Conn's error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return "wire: " + e.Detail + ": " + e.Err.Error()
	}
	return "wire: " + e.Detail
}

func (e *Error) Unwrap() error { return e.Err }

// WriteError is a write that failed. Broken says that bytes of the frame may
// have left, so that no other frame can follow.
type WriteError struct {
	Timeout bool // the write timeout passed
	Broken  bool
	Err     error
}

func (e *WriteError) Error() string { return "wire: write: " + e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

// bufferBytes holds a frame of 4 KiB with its header.
const bufferBytes = 4096 + 128

// buffers has the buffers that hold nothing at present.
var buffers = pool{spare: make(chan *[bufferBytes]byte, 64)}

// pool is a sync.Pool that keeps a few buffers through a garbage collection: connections
// take a buffer for nearly every message.
type pool struct {
	many  sync.Pool
	spare chan *[bufferBytes]byte
}

func (p *pool) get() *[bufferBytes]byte {
	if b, ok := p.many.Get().(*[bufferBytes]byte); ok {
		return b
	}
	select {
	case b := <-p.spare:
		return b
	default:
		return new([bufferBytes]byte)
	}
}

func (p *pool) put(b *[bufferBytes]byte) {
	if len(p.spare) < cap(p.spare) {
		select {
		case p.spare <- b:
			return
		default:
		}
	}
	p.many.Put(b)
}

// past is a deadline that has passed, also in a synctest bubble.
var past = time.Unix(1, 0)

// Conn is one connection.
type Conn struct {
	nc    net.Conn // fixed, except that a late is replaced before the wrapped handler's response goes out
	cfg   *Config
	hooks Hooks     // fixed before the first Receive
	born  time.Time // times below count from here: monotonic, and one word

	// resumes says that a write that timed out can resume where it stopped. That of a
	// tls.Conn cannot. It is true of a socket with nothing around it, see isSocket.
	resumes bool

	// tls is nc if that is one. Its deadlines are special, see stall.
	tls *tls.Conn

	// wrapped is the second door; nil behind the first. Fixed before the 101.
	wrapped *Wrapped

	rlock chan struct{}
	raw   *rawReader         // reader; nil: the net.Conn's Read
	buf   *[bufferBytes]byte // reader; nil while nothing is in it
	r, w  int                // reader: buf[r:w] is unread
	early []byte             // reader: bytes that came with the handshake

	msg      Message       // reader: what has come of the message, or the message that was judged last
	box      *[]byte       // reader: where msg.Data lies, if not in buf
	lent     bool          // reader: the application may still hold msg.Data
	keep     atomic.Bool   // the application may keep msg.Data after the next Receive
	whole    bool          // reader: msg is complete, and not delivered yet
	hurry    bool          // reader: do not wait for a message that is held back
	asked    bool          // reader: Accept has been called for the message
	limit    int64         // reader: the limit that Accept returned
	inFrame  bool          // reader: the header of a data frame has been read, its payload not all
	remain   int64         // reader: payload of that frame that has not been taken
	key      uint32        // reader: its masking key, turned to the next byte
	first    [4]byte       // reader: the masking key of the message's first frame
	fin      bool          // reader: that frame is its message's last
	open     bool          // reader: a message has begun
	desync   bool          // reader: what follows cannot be read as frames
	parted   bool          // reader: the peer has sent a close frame, also an illegal one
	skipped  int           // the ending, as the reader: the frames that it has parsed
	frags    int           // reader: frames of the message
	size     int64         // reader: payload of the message so far, declared
	started  time.Duration // reader: when the first byte of the incomplete message or frame came
	filled   time.Duration // reader: when the last bytes came
	looked   time.Duration // reader: when Wrapped.Read has looked at the clock for the next fill; 0: it has not
	control  bucket        // reader
	looking  bool          // reader: Look is the reader, and waits for nobody
	dry      int64         // reader: away, when Look has found that the net.Conn has read nothing ahead; 0: it has not
	pingAt   time.Duration // reader: when the next ping is due
	glanceBy time.Duration // reader: how long it may look for what has come although a deadline has passed; 0: none has
	rctx     ctxWatch      // reader

	readBy  atomic.Int64 // Duration: the wrapped handler's own deadline for reading; 0: none; written under mu
	writeBy atomic.Int64 // and for writing

	lastApp     atomic.Int64 // Duration: idle counts from here: the last application message, either way, or later
	lastMessage atomic.Int64 // Duration: that message
	away        atomic.Int64 // Duration from which on the time is the application's; 0: a Receive waits
	pongs       atomic.Int64 // Duration from which on the peer's answer to a ping is awaited; 0: none is

	reading atomic.Bool // over TLS: the reader is in the net.Conn's Read

	wlock   chan struct{}
	wvec    [2][]byte   // writer: the array behind wbufs, unless that is a batch of a Source
	wbufs   net.Buffers // writer: a field, so that writing allocates nothing
	src     Source      // writer: the Source whose batch is written; nil: none
	gone    int64       // writer: how many bytes of the batch had left when put was called
	broken  bool        // writer: half a frame has left, no other can follow
	failure *WriteError // writer: the *WriteError that was returned last; nil: none
	wctx    ctxWatch    // writer
	stall   stall

	inBatch atomic.Bool // WriteFrames is the writer

	mu        sync.Mutex
	cause     error           // mu: set once, with the next five
	endCode   int             // mu: the close code; 0: no close frame
	endReason string          // mu
	graceBy   time.Duration   // mu, and the ending: the end of the grace
	overBy    time.Duration   // mu, and the ending: the end of the linger
	drops     bool            // mu: the ending writes no more of a Source
	lastWord  time.Duration   // mu: a wrapped handler's close frame or half-close; 0: none
	armed     time.Duration   // mu: the read deadline; 0: none
	arms      uint32          // mu: how often the reader has looked at it
	warmed    time.Duration   // mu: the write deadline; 0: none
	rintr     bool            // mu: the reader must stop waiting
	wintr     bool            // mu: the writer must stop waiting
	rcur      <-chan struct{} // mu: Done of the context of the Receive that is on
	wcur      <-chan struct{} // mu: Done of the context of the Write that is on
	pendPing  bool            // mu: frames for the next writer that stands at a boundary
	pongData  [125]byte       // mu
	pendPong  int             // mu: the pong that waits is pongData[:pendPong]; -1: none
	pending   atomic.Bool     // pendPing, pendPong or notices are set; written under mu
	notices   [][]byte        // mu: text messages that wait for the end of a message of the wrapped handler's
	pingKey   uint64          // makes the payloads of our pings; read-only
	pings     uint32          // mu: pings of ours that were sent or wait for the writer
	ponged    uint32          // mu: the last of them that a pong has answered
	pingLeft  time.Duration   // mu: when the last of them was handed to the writer
	theirPing time.Duration   // mu: when the wrapped handler sent its last ping; 0: never
	pingBegun time.Duration   // mu: when the write of the ping whose answer pongs awaits began
	pinged    bool            // mu: the write of that ping has returned
	pongTaken int64           // mu: what the peer had taken at the time that pongs says
	pongLeft  int64           // mu: and what it had not
	lost      error           // mu: the network error that the reader or the writer met
	final     bool            // mu: the ending is the writer
	cut       bool            // mu: do not wait for the peer any more
	pausing   bool            // mu: the reader holds a message back
	resume    bool            // mu: it must ask Judge again now
	handlers  bool            // mu: the write deadline is that of a write of the wrapped handler's

	poke     chan struct{} // wakes a reader that waits for something else than bytes
	ending   atomic.Bool   // the cause is being set
	closing  chan struct{} // closed once it is
	answered atomic.Bool   // the peer's close frame has come
	over     atomic.Bool   // the ending is done, and has left each lock that it could not get to its holder
}

func newConn(nc net.Conn, early []byte, cfg *Config) *Conn {
	c := &Conn{
		cfg:     cfg,
		born:    time.Now(),
		rlock:   make(chan struct{}, 1),
		wlock:   make(chan struct{}, 1),
		closing: make(chan struct{}),
		poke:    make(chan struct{}, 1),

		pingKey:  mathrand.Uint64(),
		pendPong: -1,
	}
	c.own(nc, early)
	c.control = bucket{rate: cfg.ControlRate, burst: float64(cfg.ControlBurst), tokens: float64(cfg.ControlBurst)}
	c.pingAt = c.nextPing(1)
	c.lastApp.Store(1)
	c.rctx.fire = c.interruptRead
	c.wctx.fire = c.interruptWrite
	c.away.Store(1)
	return c
}

// own sets the net.Conn of c, and what has been read from it.
func (c *Conn) own(nc net.Conn, early []byte) {
	c.nc, c.early = nc, early
	c.resumes = isSocket(nc)
	c.tls, _ = nc.(*tls.Conn)
	c.raw = newRawReader(nc)
}

// isSocket reports whether nc is a socket with nothing around it.
func isSocket(nc net.Conn) bool {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// now is never 0, so that 0 can mean "not set".
func (c *Conn) now() time.Duration { return time.Since(c.born) + 1 }

// at is the time at which now returns d.
func (c *Conn) at(d time.Duration) time.Time { return c.born.Add(d - 1) }

func (c *Conn) nextPing(now time.Duration) time.Duration {
	p := c.cfg.PingInterval
	if p <= 0 {
		return 0
	}
	// ±10 %, so that connections opened together do not ping together.
	return now + p - p/10 + mathrand.N(p/5+1)
}

// Cause returns the cause of the connection's end, or nil while it is open.
func (c *Conn) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// LastMessage returns when the last application message came or went.
func (c *Conn) LastMessage() time.Time {
	return c.born.Add(max(0, time.Duration(c.lastMessage.Load())-1)) // see now
}

// Serve sets the hooks. It must be called before the first Receive.
func (c *Conn) Serve(h Hooks) { c.hooks = h }

// Closing is closed when the cause is set.
func (c *Conn) Closing() <-chan struct{} { return c.closing }

// ctxWatch turns the end of a context into an interrupt. It registers a context once, however
// often it is passed. Two contexts are the same if their Done channels are the same.
type ctxWatch struct {
	done <-chan struct{}
	stop func() bool
	fire func(done <-chan struct{})
}

func (w *ctxWatch) watch(ctx context.Context) {
	done := ctx.Done()
	if done == w.done {
		return
	}
	w.clear()
	if done == nil {
		return
	}
	w.done = done
	fire := w.fire
	w.stop = context.AfterFunc(ctx, func() { fire(done) })
}

func (w *ctxWatch) clear() {
	if w.stop != nil {
		w.stop()
	}
	w.done, w.stop = nil, nil
}

// bucket is a token bucket for one owner.
type bucket struct {
	rate, burst, tokens float64
	last                time.Duration
}

func (b *bucket) take(now time.Duration) bool {
	if b.rate <= 0 {
		return true
	}
	if now > b.last {
		b.tokens = min(b.burst, b.tokens+b.rate*(now-b.last).Seconds())
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func isTimeout(err error) bool { return Is(err, os.ErrDeadlineExceeded) }

// Is calls errors.Is for an error that may be the application's, such as one of its net.Conn.
// It returns false if a method of the error panics.
func Is(err, target error) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	return errors.Is(err, target)
}

// errPanicked is the error of a connection whose net.Conn has panicked.
var errPanicked = errors.New("wire: the net.Conn panicked")

// survive ends the connection if a goroutine of the engine panics, which must defer it. The
// net.Conn and what the hooks call may be the application's.
func (c *Conn) survive() {
	if recover() != nil {
		c.hooks.Broken(errPanicked)
	}
}

// closeConn closes a net.Conn, and recovers a panic of its Close.
func closeConn(nc net.Conn) {
	defer func() { _ = recover() }()
	nc.Close()
}

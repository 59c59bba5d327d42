// Package wire owns the net.Conn of a WebSocket connection from the moment it
// is hijacked to the moment it is closed.
//
// coder/websocket is asked for three things only: the 101, the unmasking and
// the assembly of messages. It never waits on the network: [Conn.Next] waits
// until a piece of a message is in memory, and only then is the library called
// to take that piece. Whatever can block, and whatever a peer could pin, is
// therefore here, under deadlines that this package sets.
//
// Everything that the library would write goes nowhere. Frames to the peer are
// built by [Conn.Write]; they are unmasked, so a header and the payload is all
// there is.
//
// # Owners
//
//	reader   whoever holds rlock: the application's Read, later the ending
//	writer   whoever holds wlock: Write, a pong, a ping, the close frame
//	mu       the end, the deadlines, control frames that wait for the writer
//
// mu is never held while something blocks.
package wire

import (
	"bufio"
	"context"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// Config is what the connections of one endpoint share. It is not changed
// after the first connection.
type Config struct {
	PingInterval   time.Duration // 0: no pings
	PongTimeout    time.Duration // 0: pongs are not waited for
	IdleTimeout    time.Duration // 0: no idle timeout
	MessageTimeout time.Duration // 0: a message may take for ever
	WriteTimeout   time.Duration // required
	CloseGrace     time.Duration // for the close frame, and for the peer's answer
	Linger         time.Duration // for the peer's EOF
	LingerBytes    int64         // read and thrown away while lingering

	MaxFragments int     // frames per message; 0: no limit
	ControlRate  float64 // control frames per second; 0: no limit
	ControlBurst int

	// Endings bounds how many endings wait for their peer at once. An ending
	// that finds it full closes the socket right behind its close frame.
	Endings chan struct{}
}

// Errors that say why a call stopped. None of them closes the connection.
var (
	ErrClosing     = errors.New("wire: the connection is closing")
	ErrInterrupted = errors.New("wire: interrupted")
)

// Fault is a reason to close that the wire itself found.
type Fault int

const (
	FaultNone           Fault = iota
	FaultProtocol             // an illegal frame
	FaultTooBig               // declared more than the limit
	FaultFragments            // too many frames in a message
	FaultControl              // too many control frames
	FaultReason               // a close reason that is not UTF-8
	FaultMessageTimeout       // a message took too long
	FaultIdle                 // no application message for too long
	FaultPong                 // a ping was not answered
	FaultClosed               // the peer sent a close frame
	FaultLost                 // EOF or an error of the net.Conn
)

// Error is a Fault with what is known of it.
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

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// past is a deadline that has passed, also in a synctest bubble.
var past = time.Unix(1, 0)

// Conn is one connection.
type Conn struct {
	nc   net.Conn
	ws   *websocket.Conn
	cfg  *Config
	born time.Time // times below count from here: monotonic, and one word

	// resumes: a write that timed out can go on where it stopped. A tls.Conn
	// cannot.
	resumes bool

	rlock chan struct{}
	raw   *rawReader         // reader; nil: the net.Conn's Read
	buf   *[bufferBytes]byte // reader; nil while there is nothing in it
	r, w  int                // reader: buf[r:w] is unread
	early []byte             // reader: bytes that came with the handshake

	hdr      int           // reader: header bytes at buf[r:] that the library has not taken
	give     int           // reader: bytes that the library may take now
	remain   int64         // reader: payload of the current frame behind hdr
	fin      bool          // reader: the current frame is its message's last
	open     bool          // reader: a message has begun
	desync   bool          // reader: what follows cannot be read as frames
	behind   bool          // reader: a close frame may lie behind a payload that never comes
	answered bool          // reader: a close frame has come
	frags    int           // reader
	size     int64         // reader: payload of the message so far, declared
	max      atomic.Int64  // largest message; 0: no limit
	started  time.Duration // reader: first byte of what is incomplete
	filled   time.Duration // reader: the last bytes came
	control  bucket        // reader
	pingAt   time.Duration // reader: the next ping is due
	onIdle   func()        // fixed before the first Read
	onBroken func(error)   // fixed before the first Read
	one      [1]byte       // reader
	rctx     ctxWatch      // reader

	lastApp     atomic.Int64 // Duration: idle counts from here: the last application message, either way, or later
	lastMessage atomic.Int64 // Duration: that message
	away        atomic.Int64 // Duration from which on the time is the application's; 0: a Read waits
	pongs       atomic.Int64 // Duration at which the ping that waits was sent; 0: none

	wlock  chan struct{}
	wctl   [125]byte   // writer: the control frame that is written
	wvec   [2][]byte   // writer: the array behind wbufs
	wbufs  net.Buffers // writer: a field, so that writing allocates nothing
	broken bool        // writer: half a frame has left, no other can follow
	failed bool        // writer: a *WriteError was returned
	wctx   ctxWatch    // writer

	mu       sync.Mutex
	cause    error           // mu: set once
	armed    time.Duration   // mu: the read deadline; 0: none
	warmed   time.Duration   // mu: the write deadline; 0: none
	rintr    bool            // mu: the reader is to stop waiting
	wintr    bool            // mu: so is the writer
	rcur     <-chan struct{} // mu: Done of the context of the Read that is on
	wcur     <-chan struct{} // mu: Done of the context of the Write that is on
	pendPing bool            // mu: control frames for whoever unlocks wlock next
	pongData [125]byte       // mu
	pendPong int             // mu: the pong that waits is pongData[:pendPong]; -1: none
	pending  atomic.Bool     // pendPing or pendPong is set; written under mu
	asked    int             // mu: pings with pingData that no pong has answered
	pingData [8]byte         // mu: what the awaited pong must carry
	cut      bool            // mu: no waiting for the peer any more

	ending  atomic.Bool   // the cause is being set
	closing chan struct{} // closed once it is
}

func newConn(nc net.Conn, early []byte, cfg *Config) *Conn {
	c := &Conn{
		nc:      nc,
		cfg:     cfg,
		born:    time.Now(),
		early:   early,
		rlock:   make(chan struct{}, 1),
		wlock:   make(chan struct{}, 1),
		closing: make(chan struct{}),

		pendPong: -1,
	}
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		c.resumes = true
	}
	c.control = bucket{rate: cfg.ControlRate, burst: float64(cfg.ControlBurst), tokens: float64(cfg.ControlBurst)}
	c.pingAt = c.nextPing(0)
	c.rawRead()
	c.rctx.fire = c.interruptRead
	c.wctx.fire = c.interruptWrite
	c.away.Store(1)
	return c
}

// now is never 0, so that 0 can mean "not set".
func (c *Conn) now() time.Duration { return time.Since(c.born) + 1 }

func (c *Conn) nextPing(now time.Duration) time.Duration {
	p := c.cfg.PingInterval
	if p <= 0 {
		return 0
	}
	// ±10 %, so that connections opened together do not ping together.
	return now + p - p/10 + mathrand.N(p/5+1)
}

// Cause returns what ended the connection, nil while it is open.
func (c *Conn) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// LastMessage is when the last application message came or went.
func (c *Conn) LastMessage() time.Time {
	return c.born.Add(max(0, time.Duration(c.lastMessage.Load())-1)) // see now
}

// Closing is closed when the cause is set.
func (c *Conn) Closing() <-chan struct{} { return c.closing }

// ctxWatch turns the end of a context into an interrupt. It registers a
// context once however often it is passed; two contexts are the same when
// their Done channels are.
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

// lib is the net.Conn that coder/websocket is given.
type lib struct{ c *Conn }

func (l lib) Read(p []byte) (int, error) {
	c := l.c
	n := min(len(p), c.give)
	if n == 0 {
		// A bug: the library wants more than Next announced.
		return 0, io.ErrNoProgress
	}
	copy(p, c.buf[c.r:c.r+n])
	c.r += n
	c.give -= n
	return n, nil
}

func (l lib) Write(p []byte) (int, error)      { return len(p), nil }
func (l lib) Close() error                     { return nil }
func (l lib) LocalAddr() net.Addr              { return l.c.nc.LocalAddr() }
func (l lib) RemoteAddr() net.Addr             { return l.c.nc.RemoteAddr() }
func (l lib) SetDeadline(time.Time) error      { return nil }
func (l lib) SetReadDeadline(time.Time) error  { return nil }
func (l lib) SetWriteDeadline(time.Time) error { return nil }

// readWriter is what Hijack promises beside the net.Conn. 16 bytes are the
// least that bufio takes; a frame header fits, and payloads pass it by.
func (l lib) readWriter() *bufio.ReadWriter {
	return bufio.NewReadWriter(bufio.NewReaderSize(l, 16), bufio.NewWriterSize(l, 16))
}

func isTimeout(err error) bool { return is(err, os.ErrDeadlineExceeded) }

// is is errors.Is for an error of a net.Conn, which a listener of the application's
// may have wrapped. If one of the error's methods panics, it is not target.
func is(err, target error) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	return errors.Is(err, target)
}

// closeConn closes a net.Conn, whatever its Close does.
func closeConn(nc net.Conn) {
	defer func() { _ = recover() }()
	nc.Close()
}

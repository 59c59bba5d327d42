package wstest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// DefaultBufferBytes is how much each direction of a [Pipe] holds unless
// [PipeOptions] say otherwise.
const DefaultBufferBytes = 64 << 10

// The addresses used where options name none. Loopback, like a test over TCP;
// the server's port is not one that a URL or an Origin would leave out.
var (
	defaultServerAddr = netip.AddrPortFrom(loopback, 8080)
	defaultClientAddr = netip.AddrPortFrom(loopback, firstEphemeralPort)
	loopback          = netip.AddrFrom4([4]byte{127, 0, 0, 1})
)

const firstEphemeralPort = 49152

// PipeOptions configure [Pipe] and [NewListener].
type PipeOptions struct {
	// BufferBytes is how much a direction holds before a Write blocks. Zero
	// means [DefaultBufferBytes].
	BufferBytes int

	// ClientAddr and ServerAddr are the two ends' addresses, so that code
	// which looks at RemoteAddr sees the address a test wants it to see. The
	// zero values mean 127.0.0.1:49152 and 127.0.0.1:8080.
	ClientAddr, ServerAddr netip.AddrPort
}

func (o PipeOptions) withDefaults() PipeOptions {
	if o.BufferBytes < 0 {
		panic(fmt.Sprintf("wstest: PipeOptions.BufferBytes is %d", o.BufferBytes))
	}
	if o.BufferBytes == 0 {
		o.BufferBytes = DefaultBufferBytes
	}
	if !o.ClientAddr.IsValid() {
		o.ClientAddr = defaultClientAddr
	}
	if !o.ServerAddr.IsValid() {
		o.ServerAddr = defaultServerAddr
	}
	return o
}

// Pipe returns the two ends of an in-memory connection.
//
// Unlike [net.Pipe] it has a buffer in each direction, half-closes, resets and
// IP addresses, so that code written for TCP behaves on it as it does on TCP.
// Its waits are durably blocking in the sense of [testing/synctest], and its
// deadlines run on the bubble's clock; so make and use a Pipe within one
// bubble, or outside of any.
func Pipe(opts PipeOptions) (client, server *PipeConn) {
	opts = opts.withDefaults()
	mu := new(sync.Mutex)
	up, down := newStream(mu, opts.BufferBytes), newStream(mu, opts.BufferBytes)
	clientAddr, serverAddr := net.TCPAddrFromAddrPort(opts.ClientAddr), net.TCPAddrFromAddrPort(opts.ServerAddr)
	return &PipeConn{mu, down, up, clientAddr, serverAddr}, &PipeConn{mu, up, down, serverAddr, clientAddr}
}

// PipeConn is one end of a [Pipe]. All methods may be called concurrently.
//
// Errors have the form that those of a [net.TCPConn] have: a [net.OpError]
// around [net.ErrClosed], [os.ErrDeadlineExceeded] or, in an
// [os.SyscallError], ECONNRESET or EPIPE; the end of the stream is the bare
// [io.EOF]. The differences from the kernel are on the side of determinism:
//
//   - bytes arrive at once; those the peer has not read count against the
//     writer's buffer alone;
//   - the first Write after the peer's Close fails already, where TCP learns
//     of it only from the answer;
//   - Close never turns into a reset because received data is left unread;
//     [PipeConn.Reset] says so openly;
//   - after a reset each Read and Write reports it, not only the first.
type PipeConn struct {
	mu            *sync.Mutex // shared by both ends
	in, out       *stream
	local, remote *net.TCPAddr
}

var _ net.Conn = (*PipeConn)(nil)

// Read reads what the peer has written. Data goes before the end of the
// stream; a deadline that has passed goes before both.
func (c *PipeConn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write returns as soon as p is in the buffer, and blocks while the buffer is
// full. When it fails, n says how much of p went into the buffer before.
// Concurrent Writes do not interleave.
func (c *PipeConn) Write(p []byte) (n int, err error) {
	n, err = c.out.write(p)
	return n, c.wrap("write", err)
}

// CloseWrite ends the stream to the peer, which reads what is buffered and then
// [io.EOF], and can still write.
func (c *PipeConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.out.writeErr {
	case net.ErrClosed:
		return c.wrap("close", net.ErrClosed)
	case syscall.ECONNRESET:
		return c.wrap("close", os.NewSyscallError("shutdown", syscall.ENOTCONN))
	}
	c.out.writeErr = syscall.EPIPE
	c.out.eof = true
	c.out.changed.Broadcast()
	return nil
}

// Close ends both directions. The peer reads what is buffered and then
// [io.EOF]; its writes fail with EPIPE. Whatever waits on this end fails with
// [net.ErrClosed].
func (c *PipeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed() {
		return c.wrap("close", net.ErrClosed)
	}
	c.out.eof = true
	c.end(nil, syscall.EPIPE)
	return nil
}

// Reset ends both directions as a RST does. The peer's reads and writes fail
// with ECONNRESET, and what it has not read yet is lost: the kernel may still
// hand over bytes that had arrived, but nobody can rely on it. On a closed end
// Reset does nothing.
func (c *PipeConn) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed() {
		return
	}
	c.end(syscall.ECONNRESET, syscall.ECONNRESET)
}

// closed reports whether this end was closed or reset by its owner.
func (c *PipeConn) closed() bool { return c.in.readErr == net.ErrClosed }

// end closes this end. The peer's reads and writes fail with the errors given,
// unless the peer has ended them itself.
func (c *PipeConn) end(peerRead, peerWrite error) {
	c.in.readErr, c.out.writeErr = net.ErrClosed, net.ErrClosed
	c.in.buf = bytes.Buffer{}
	if c.in.writeErr != net.ErrClosed {
		c.in.writeErr = peerWrite
	}
	if c.out.readErr != net.ErrClosed {
		c.out.readErr = peerRead
	}
	c.in.readBy.stop()
	c.out.writeBy.stop()
	c.in.changed.Broadcast()
	c.out.changed.Broadcast()
}

// LocalAddr returns the *[net.TCPAddr] of this end.
func (c *PipeConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the *[net.TCPAddr] of the other end.
func (c *PipeConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the deadlines of reads and writes. As on TCP a deadline
// concerns waiting calls too, one in the past fails every call at once, and one
// moved later, or the zero time, makes the connection usable again.
func (c *PipeConn) SetDeadline(t time.Time) error { return c.setDeadline(t, true, true) }

// SetReadDeadline sets the deadline of reads alone.
func (c *PipeConn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, true, false) }

// SetWriteDeadline sets the deadline of writes alone.
func (c *PipeConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, false, true) }

func (c *PipeConn) setDeadline(t time.Time, read, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed() {
		return c.wrap("set", net.ErrClosed)
	}
	if read {
		c.in.readBy.set(t, c.in)
	}
	if write {
		c.out.writeBy.set(t, c.out)
	}
	return nil
}

// wrap gives err the form that package net gives it.
func (c *PipeConn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// stream is one direction of a pipe.
//
// Everything waits on one sync.Cond: that is durably blocking, which a
// sync.Mutex is not. Hence mu is never held across a wait, and the turn of a
// Write is a flag.
type stream struct {
	mu      *sync.Mutex
	changed sync.Cond // something below has changed
	limit   int

	buf      bytes.Buffer
	writing  bool  // a Write has its turn
	eof      bool  // nothing follows buf
	readErr  error // what reads fail with: net.ErrClosed or ECONNRESET
	writeErr error // what writes fail with: net.ErrClosed, EPIPE or ECONNRESET

	readBy, writeBy deadline
}

func newStream(mu *sync.Mutex, limit int) *stream {
	return &stream{mu: mu, changed: sync.Cond{L: mu}, limit: limit}
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.readErr == net.ErrClosed:
			return 0, net.ErrClosed
		case len(p) == 0: // package net does not look further
			return 0, nil
		case s.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case s.readErr != nil:
			return 0, s.readErr
		case s.buf.Len() > 0:
			n, _ := s.buf.Read(p)
			s.changed.Broadcast()
			return n, nil
		case s.eof:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing && s.writeErr != net.ErrClosed {
		s.changed.Wait()
	}
	if s.writeErr == net.ErrClosed {
		return 0, net.ErrClosed
	}
	s.writing = true
	defer func() {
		s.writing = false
		s.changed.Broadcast()
	}()
	for {
		switch {
		case s.writeErr == net.ErrClosed:
			return n, net.ErrClosed
		case s.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case s.writeErr != nil:
			return n, s.writeErr
		}
		if m := min(len(p)-n, s.limit-s.buf.Len()); m > 0 {
			s.buf.Write(p[n : n+m])
			n += m
			s.changed.Broadcast()
		}
		if n == len(p) {
			return n, nil
		}
		s.changed.Wait()
	}
}

// deadline is a point in time at which the waiters of a stream have to look
// again. It is guarded by the stream's mutex.
type deadline struct {
	at    time.Time // with a monotonic reading; zero means never
	timer *time.Timer
}

func (d *deadline) set(t time.Time, s *stream) {
	d.stop()
	d.at = time.Time{}
	if !t.IsZero() {
		// Reckoned from now: t may lack a monotonic reading, and then a step of
		// the wall clock could let the timer fire before passed agrees.
		wait := time.Until(t)
		d.at = time.Now().Add(wait)
		switch {
		case wait <= 0:
		case d.timer != nil:
			d.timer.Reset(wait)
		default: // in the bubble of the goroutine that sets the first deadline
			d.timer = time.AfterFunc(wait, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.changed.Broadcast()
			})
		}
	}
	s.changed.Broadcast()
}

func (d *deadline) passed() bool { return !d.at.IsZero() && time.Until(d.at) <= 0 }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

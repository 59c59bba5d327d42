//go:build unix

package wire

import (
	"net"
	"syscall"
)

// rawReader reads from a socket without holding a buffer while it waits. Most
// connections are silent most of the time, and their buffers would be most of what
// they cost.
type rawReader struct {
	rc  syscall.RawConn
	try func(fd uintptr) bool // a field, so that reading allocates nothing
	c   *Conn
	dst []byte // nil: buf
	n   int
	err error
}

// newRawReader returns nil where nc is no socket, or where something in between wants
// to see the bytes.
func newRawReader(nc net.Conn) *rawReader {
	if !isSocket(nc) {
		return nil
	}
	rc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	r := &rawReader{rc: rc}
	r.try = r.read
	return r
}

// read is called before any waiting, and again whenever the socket is readable.
func (r *rawReader) read(fd uintptr) bool {
	c, dst := r.c, r.dst
	if dst == nil {
		c.makeRoom()
		dst = c.buf[c.w:]
	}
	n, err := readOnce(int(fd), dst)
	if err == syscall.EAGAIN {
		if c.r == c.w {
			c.release()
		}
		return false
	}
	r.n, r.err = n, err
	return true
}

// receive reads once, waiting if there is nothing: into dst, or into buf[w:] if dst
// is nil.
func (c *Conn) receive(dst []byte) (int, error) {
	r := c.raw
	if r == nil {
		if dst == nil {
			c.makeRoom()
			dst = c.buf[c.w:]
		}
		return c.readPlain(dst)
	}
	r.c, r.dst = c, dst
	if err := r.rc.Read(r.try); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// takeUnread reads and throws away what a socket has received, at most limit bytes.
// It does not wait for more. It does nothing to a net.Conn that is not a socket.
func takeUnread(nc net.Conn, limit int64) {
	if !isSocket(nc) {
		return
	}
	rc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	b := buffers.get()
	defer buffers.put(b)
	rc.Read(func(fd uintptr) bool {
		for limit > 0 {
			n, err := syscall.Read(int(fd), b[:])
			if err == syscall.EINTR {
				continue
			}
			if n <= 0 {
				break
			}
			limit -= int64(n)
		}
		return true
	})
}

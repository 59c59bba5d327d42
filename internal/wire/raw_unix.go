//go:build unix

package wire

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rawReader reads from a socket without holding a buffer while it waits: most
// connections are silent most of the time, and their buffers would be most of
// what they cost.
type rawReader struct {
	rc  syscall.RawConn
	try func(fd uintptr) bool // a field, so that reading allocates nothing
	n   int
	err error
}

// rawRead prepares c for it, where its net.Conn is a socket and nothing in
// between wants to see the bytes.
func (c *Conn) rawRead() {
	switch c.nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return
	}
	rc, err := c.nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	c.raw = &rawReader{rc: rc}
	// It is called first before any waiting: what is there already is not
	// waited for.
	c.raw.try = func(fd uintptr) bool {
		c.makeRoom()
		for {
			n, err := syscall.Read(int(fd), c.buf[c.w:])
			switch {
			case err == syscall.EINTR:
				continue
			case err == syscall.EAGAIN:
				if c.r == c.w {
					c.release()
				}
				return false
			case err != nil:
				c.raw.n, c.raw.err = 0, os.NewSyscallError("read", err)
			case n == 0:
				c.raw.n, c.raw.err = 0, io.EOF
			default:
				c.raw.n, c.raw.err = n, nil
			}
			return true
		}
	}
}

// receive reads once into buf[w:], waiting if there is nothing.
func (c *Conn) receive() (int, error) {
	if c.raw == nil {
		c.makeRoom()
		return c.nc.Read(c.buf[c.w:])
	}
	if err := c.raw.rc.Read(c.raw.try); err != nil {
		return 0, err
	}
	return c.raw.n, c.raw.err
}

// takeUnread reads and throws away what a socket has received, at most limit bytes.
// It does not wait for more. It does nothing to a net.Conn that is not a socket.
func takeUnread(nc net.Conn, limit int64) {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return
	}
	rc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	b := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(b)
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

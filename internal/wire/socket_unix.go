//go:build unix

package wire

import (
	"io"
	"net"
	"os"
	"syscall"
)

// socket is the innermost socket of a net.Conn: below TLS, and below what is wrapped around
// it if that shows it. It is made for each look, because a connection is seldom looked at.
type socket struct {
	rc syscall.RawConn
}

// rawOf returns the RawConn of nc, or nil.
func rawOf(nc any) syscall.RawConn {
	s, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return rc
}

// control calls fn with the file descriptor. It reports false if the socket is closed.
func (s *socket) control(fn func(fd int)) (ok bool) {
	return s.rc.Control(func(fd uintptr) { fn(int(fd)) }) == nil
}

// peek reports what a read would find.
func (s *socket) peek() (found peeked) {
	found = peekEnd
	s.control(func(fd int) {
		var b [1]byte
		for {
			n, _, err := syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			switch {
			case err == syscall.EINTR:
				continue
			case err == syscall.EAGAIN:
				found = peekNothing
			case err == nil && n > 0:
				found = peekBytes
			}
			return
		}
	})
	return found
}

// read reads what is there, and does not wait. n is 0 if there is nothing, and at the end, for
// which err is set.
func (s *socket) read(dst []byte) (n int, err error) {
	ok := s.control(func(fd int) { n, err = readOnce(fd, dst) })
	switch {
	case !ok:
		return 0, net.ErrClosed
	case err == syscall.EAGAIN:
		return 0, nil
	}
	return n, err
}

// readOnce reads once. The error is syscall.EAGAIN if there is nothing, and io.EOF at the end.
func readOnce(fd int, dst []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, dst)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, syscall.EAGAIN
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// queued returns how many bytes the kernel holds that the peer's kernel has not acknowledged.
func (s *socket) queued() (n int64, ok bool) {
	s.control(func(fd int) { n, ok = unsentBytes(fd) })
	return n, ok
}

// acknowledged returns how many bytes the peer's kernel has acknowledged since the connection
// was made.
func (s *socket) acknowledged() (n int64, ok bool) {
	s.control(func(fd int) { n, ok = ackedBytes(fd) })
	return n, ok
}

// leftByPeer reports whether the peer has closed its side or reset the connection, also if unread
// bytes lie before that. It reports false where the kernel does not tell.
func (s *socket) leftByPeer() (left bool) {
	s.control(func(fd int) { left = peerClosed(fd) })
	return left
}

//go:build !unix

package wire

import "net"

type rawReader struct{}

func newRawReader(net.Conn) *rawReader { return nil }

// receive reads once, waiting if there is nothing: into dst, or into buf[w:] if dst
// is nil.
func (c *Conn) receive(dst []byte) (int, error) {
	if dst == nil {
		c.makeRoom()
		dst = c.buf[c.w:]
	}
	return c.readPlain(dst)
}

// takeUnread does nothing here: what has been received cannot be told without waiting.
func takeUnread(net.Conn, int64) {}

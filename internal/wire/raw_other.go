//go:build !unix

package wire

import "net"

type rawReader struct{}

func (c *Conn) rawRead() {}

// receive reads once into buf[w:], waiting if there is nothing.
func (c *Conn) receive() (int, error) {
	c.makeRoom()
	return c.nc.Read(c.buf[c.w:])
}

// takeUnread does nothing here: what has been received cannot be told without waiting.
func takeUnread(net.Conn, int64) {}

//go:build !unix

package wire

type rawReader struct{}

func (c *Conn) rawRead() {}

// receive reads once into buf[w:], waiting if there is nothing.
func (c *Conn) receive() (int, error) {
	c.makeRoom()
	return c.nc.Read(c.buf[c.w:])
}

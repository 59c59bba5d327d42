package wire

import "time"

// The engine pings a peer, and awaits a sign of life: any whole frame that it reads after the
// ping has gone out. How long it waits depends on what lies in front of the ping in the socket.
// The peer cannot answer a ping that it has not got.

// pingRoom is how many bytes of the socket a ping takes at most, over TLS too.
const pingRoom = 64

// pinging begins the wait for a sign of life before a ping goes out, unless one is awaited. The
// answer may come before the write has returned.
func (c *Conn) pinging() (began bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pongs.Load() != 0 && c.pinged {
		return false
	}
	c.pingBegun = c.now()
	c.pongs.Store(int64(c.pingBegun))
	c.pinged = false
	return true
}

// pingSent begins the time of the wait that pinging has begun, when the ping has gone out.
func (c *Conn) pingSent() {
	taken, left := c.inSocket()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinged = true
	if c.pongs.Load() != 0 {
		c.pongs.Store(int64(c.now()))
		c.pongTaken, c.pongLeft = taken, left
	}
}

// inSocket returns what the peer has taken, and what it has not. left is -1 if that is not known.
func (c *Conn) inSocket() (taken, left int64) {
	s := socketOf(c.nc)
	taken, ok := s.takenBytes(c.stall.written.Load())
	if ok {
		left, ok = s.queued()
	}
	if !ok {
		return 0, -1
	}
	return taken, left
}

// alive ends the wait for a sign of life if the frame that has just been read came after the
// ping.
func (c *Conn) alive() {
	if c.pongs.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.filled >= c.pingBegun {
		c.pongs.Store(0)
	}
}

// pongBy returns the time by which the peer must give a sign of life. at is the deadline so
// far, which has passed. pongBy returns 0 if the peer gets no more time.
//
// The wait begins again when the peer has taken minProgress bytes, or all, of what lay in the
// socket. If the peer has taken less of what lies in front of the ping, it gets the write
// timeout in addition. If the socket cannot be found, the peer always gets the write timeout in
// addition.
func (c *Conn) pongBy(now, at time.Duration) time.Duration {
	taken, left := c.inSocket()
	c.mu.Lock()
	defer c.mu.Unlock()
	moved := taken - c.pongTaken
	switch {
	case !c.pinged:
		return now + c.cfg.PongTimeout // the write timeout watches the write
	case left < 0 || c.pongLeft < 0:
		at += c.cfg.WriteTimeout
	case moved >= minProgress, c.pongLeft > pingRoom && moved >= c.pongLeft:
		c.pongs.Store(int64(now))
		c.pongTaken, c.pongLeft = taken, left
		at = now + c.cfg.PongTimeout
	case c.pongLeft > pingRoom:
		at += c.cfg.WriteTimeout
	}
	if now >= at {
		return 0
	}
	return at
}

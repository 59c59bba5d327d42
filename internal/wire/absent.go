package wire

import (
	"io"
	"time"
)

// Absent reports whether, at now, the last Receive stopped waiting for the peer at least d ago.
// It is false while a Receive waits.
func (c *Conn) Absent(now time.Time, d time.Duration) bool {
	at := time.Duration(c.away.Load())
	return at != 0 && now.Sub(c.born)+1-at >= d // see now
}

// Look looks after the peer while the application works and does not read. It ends the
// connection if the peer has closed or reset it, answers control frames, and takes a close
// frame. It goes no further than the header of a data frame, and reads at most one buffer ahead.
// It judges no deadline, because the time is the application's.
//
// Look does nothing while a Receive is under way. Unless wait is true, Look never waits. With
// wait it may wait for a millisecond, or longer for a net.Conn that is not a socket. slow says
// that only a call with wait can tell whether something has come.
//
// A FIN or a reset that lies behind more bytes than the buffer takes is seen on Linux only. A
// close frame behind a data frame is not seen.
func (c *Conn) Look(wait bool) (slow bool) {
	if !c.lockAbsent() {
		return false
	}
	l := look{c: c, socket: socketOf(c.nc)}
	defer l.done() // also when the net.Conn panics
	switch {
	case !l.worthwhile():
		return false
	case !wait && (l.socket == nil || !c.resumes):
		return true
	}
	c.looking = true
	l.fault = l.ahead()
	return false
}

// lockAbsent makes the caller the reader, also of the wrapped handler's frames, if nobody else
// is.
func (c *Conn) lockAbsent() bool {
	if w := c.wrapped; w != nil && (!w.settled() || w.refused.Load() || !w.rmu.tryLock()) {
		return false
	}
	select {
	case c.rlock <- struct{}{}:
		if !c.ending.Load() {
			return true
		}
		c.unlockReader()
	default:
	}
	if c.wrapped != nil {
		c.wrapped.rmu.unlock()
	}
	return false
}

func (c *Conn) unlockAbsent() {
	c.unlockReader()
	if c.wrapped != nil {
		c.wrapped.rmu.unlock()
	}
}

// look is one call of Look. The caller is the reader.
type look struct {
	c      *Conn
	socket *socket // the innermost; nil: it is not seen
	fresh  bool    // buf was taken from the pool, so that no message lies in it
	read   int     // how many bytes it has read
	fault  *Error  // ends the connection
}

// done gives back what the look holds. It leaves an ending to a goroutine, because the guard may
// call the application for it.
func (l *look) done() {
	c := l.c
	c.looking = false
	if c.r == c.w && (l.fresh || !c.held()) {
		c.release()
	}
	if l.fault == nil {
		c.unlockAbsent()
		return
	}
	go func() {
		defer c.survive()
		defer c.unlockAbsent()
		c.hooks.Failed(l.fault)
	}()
}

// worthwhile reports whether there may be something to see. It costs one system call.
func (l *look) worthwhile() bool {
	c := l.c
	switch {
	case c.w-c.r == len(c.buf):
		return l.socket != nil && l.socket.leftByPeer()
	case l.socket == nil, c.early != nil:
		return true
	case l.socket.peek() != peekNothing:
		return true
	}
	// A net.Conn around the socket may have read more than it has given.
	return !c.resumes && c.dry != c.away.Load()
}

// ahead reads and takes what the peer has sent. It returns a fault that ends the connection.
func (l *look) ahead() *Error {
	c := l.c
	for {
		if err := l.takeControls(); err != nil {
			return err
		}
		dst := l.room()
		if len(dst) == 0 {
			if l.socket != nil && l.socket.leftByPeer() {
				return c.lostError(io.EOF)
			}
			return nil
		}
		n, err := c.receiveNow(dst)
		switch {
		case n > 0:
			c.came(c.now())
			c.w += n
			l.read += n
			continue
		case err == ErrClosing:
			return nil
		case err != nil:
			return c.lostError(err)
		}
		c.dry = c.away.Load()
		return nil
	}
}

// room returns where to read to. It is empty if the buffer is full, or if enough was read.
func (l *look) room() []byte {
	c := l.c
	switch {
	case c.buf == nil:
		l.fresh = true
		c.makeRoom()
	case !c.held():
		c.makeRoom()
	case c.w == len(c.buf) && c.r > 0:
		c.forsake()
		c.makeRoom()
	}
	return c.buf[c.w:][:min(len(c.buf)-c.w, len(c.buf)-l.read)]
}

// held reports whether a message that somebody holds, or will get, may lie in buf. Nothing in
// buf may then move.
func (c *Conn) held() bool { return c.lent || c.whole }

// takeControls takes the control frames that have come before a data frame.
func (l *look) takeControls() *Error {
	c := l.c
	for !c.inFrame && c.r < c.w {
		h, n, fault := parseHeader(c.buf[c.r:c.w], c.open)
		if fault != "" || n == 0 || !h.control() || c.w-c.r < n+int(h.length) {
			return nil // Receive judges it
		}
		if w := c.wrapped; w != nil && h.op != opPing && !w.takes() {
			return nil // it may be for the handler, which has not read what comes before it
		}
		if err, ok := c.takeControl(h, n).(*Error); ok {
			return err
		}
	}
	return nil
}

package wire

import (
	"net"
	"time"
)

// peeked is what a read would find.
type peeked int

const (
	peekNothing peeked = iota
	peekBytes
	peekEnd // EOF, a reset, or a closed socket
)

// socketOf returns the innermost socket of nc, or nil if it is not seen. A wrapper shows what
// is below it by a method NetConn, as a tls.Conn does, or SyscallConn.
func socketOf(nc net.Conn) (s *socket) {
	defer func() {
		if recover() != nil { // a wrapper is the application's
			s = nil
		}
	}()
	for range 8 { // a wrapper that contains itself
		if rc := rawOf(nc); rc != nil {
			return &socket{rc: rc}
		}
		outer, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		nc = outer.NetConn()
	}
	return nil
}

// takenBytes returns how many bytes the peer has taken of those that were written. It counts
// from a fixed point, so only differences say something. written is how many bytes the net.Conn
// has accepted. ok is false if the socket does not tell. A peer has taken what its kernel has
// acknowledged. What a proxy or that kernel still holds cannot be seen.
func (s *socket) takenBytes(written int64) (taken int64, ok bool) {
	if s == nil {
		return 0, false
	}
	if n, ok := s.acknowledged(); ok {
		return n, true
	}
	// Over TLS written is less than what has gone into the socket, so less counts as taken.
	if n, ok := s.queued(); ok {
		return written - n, true
	}
	return 0, false
}

// brief is how long a read that should not wait may wait where the net.Conn knows no other way.
const brief = time.Millisecond

// receiveNow reads what has come into dst. It does not wait on a socket. On any other net.Conn
// it may wait for brief, and over TLS until the answer to a KeyUpdate is written. n is 0 if
// there is nothing. The reader calls it. On any other net.Conn than a socket it leaves a read
// deadline behind that has passed, or passes within brief.
func (c *Conn) receiveNow(dst []byte) (n int, err error) {
	if c.early != nil {
		return c.giveEarly(dst), nil
	}
	if c.resumes {
		if s := socketOf(c.nc); s != nil {
			return s.read(dst)
		}
	}
	wait := brief
	if c.tls != nil {
		if s := socketOf(c.nc); s != nil && s.peek() == peekNothing {
			wait = -1 // only what the tls.Conn has read already
		}
	}
	if !c.armBrief(wait) {
		return 0, ErrClosing
	}
	if c.tls != nil && wait > 0 {
		// Read may answer a KeyUpdate, and wait for a peer that does not take the answer.
		arms := c.arms
		stuck := time.AfterFunc(c.cfg.WriteTimeout, func() { c.unstick(arms, true) })
		defer stuck.Stop()
	}
	n, err = c.readPlain(dst)
	if n > 0 || isTimeout(err) {
		return n, nil
	}
	return 0, err
}

// armBrief sets a read deadline that is wait away, or has passed if wait is negative.
func (c *Conn) armBrief(wait time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return false
	}
	if c.arms++; c.tls != nil {
		c.keepWriteAway(c.now())
	}
	c.armed = 1
	at := past
	if wait > 0 {
		at = time.Now().Add(wait)
	}
	c.nc.SetReadDeadline(at)
	return true
}

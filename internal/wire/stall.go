package wire

import (
	"sync/atomic"
	"time"
)

// stall finds a peer that takes nothing of what is written. While a write is under way, it
// looks at intervals of slice how much the peer has taken. A look sees progress if the peer has
// taken minProgress bytes since the last look that saw progress. The write timeout passes when
// no look has seen progress for WriteTimeout. The timeout belongs to the connection: a write
// that continues where another was interrupted continues its wait.
//
// On a plain socket a write that has passed its deadline can resume. There the deadline of a
// write is the time of the next look, and the writer looks when it has passed. Elsewhere a
// timer looks, and the deadline stays far away, because a tls.Conn that has passed its write
// deadline cannot be written to any more.
type stall struct {
	since   atomic.Int64 // Duration: when the write that is under way began; 0: none is
	written atomic.Int64 // bytes that the net.Conn has accepted; the writer adds to it
	piece   atomic.Int64 // Duration: when a net.Conn that is no socket has last accepted a whole piece

	flowed bool // writer: the write before has written everything

	timer  *time.Timer   // mu: looks where the writer cannot; nil until it is needed
	on     bool          // mu: the timer runs
	next   time.Duration // mu: when it fires
	from   time.Duration // mu: when progress was seen last; 0: no look yet
	taken  int64         // mu: what the peer had taken then
	looked time.Duration // mu: when the last look was
	once   bool          // mu: a look was granted although the time was over
	retry  bool          // mu: the write tries again although its deadline has passed
	passed bool          // mu: the write timeout has passed
}

// minProgress is how much a peer must take within the write timeout.
const minProgress = 1 << 10

// slice is the time between two looks.
func (c *Conn) slice() time.Duration { return max(c.cfg.WriteTimeout/8, time.Millisecond) }

// moment is the time for one more try.
func (c *Conn) moment() time.Duration { return min(c.slice(), 100*time.Millisecond) }

// beginWrite notes that a write begins at now. mu is held.
func (c *Conn) beginWrite(now time.Duration) {
	s := &c.stall
	if s.flowed {
		s.flowed, s.from, s.once, s.retry, s.passed = false, 0, false, false, false
	}
	s.since.Store(int64(now))
	if s.from == 0 {
		s.taken, s.looked = s.written.Load(), now
	}
	if !c.resumes {
		c.lookBy(now, now+c.slice())
	}
}

// lookBy sees to it that the timer looks at the time by, or earlier. mu is held.
func (c *Conn) lookBy(now, by time.Duration) {
	s := &c.stall
	if own := time.Duration(c.writeBy.Load()); c.handlers && own != 0 {
		by = min(by, own)
	}
	switch {
	case s.timer == nil:
		s.timer = time.AfterFunc(by-now, c.lookAtWrite)
	case !s.on || by < s.next:
		s.timer.Reset(by - now)
	default:
		return
	}
	s.on, s.next = true, by
}

// endWrite notes that the write is over. all says that it has written everything.
func (c *Conn) endWrite(all bool) {
	c.stall.flowed = all
	c.stall.since.Store(0)
}

// stopLooking stops the timer for good. The ending calls it.
func (c *Conn) stopLooking() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stall.timer != nil {
		c.stall.timer.Stop()
	}
}

// look judges at now whether the write timeout has passed. It returns the time until the next
// look, or 0 if it has. taken is what the peer has taken, if known. mu is held.
//
// The time is never over at the first look, because that one learns only what the peer has
// taken by then. Nor is it at a look that comes late. The process may have been stopped, and the
// peer must get the chance to be seen.
func (c *Conn) look(now time.Duration, taken int64, known bool) time.Duration {
	s := &c.stall
	grant := now-s.looked > 2*c.slice()
	s.looked = now
	if s.from == 0 {
		s.from = time.Duration(s.since.Load())
		if known {
			s.taken, grant = taken, true
		}
	}
	over := c.cfg.WriteTimeout
	if !known && !c.resumes {
		s.from = max(s.from, time.Duration(s.piece.Load()))
		if !s.retry {
			over -= c.moment()
		}
	} else {
		if !known {
			taken = s.written.Load()
		}
		if taken-s.taken >= minProgress {
			s.from, s.taken, s.once = now, taken, false
		}
	}
	left := s.from + over - now
	if left > 0 {
		return min(left, c.slice())
	}
	if grant && !s.once {
		s.once = true
		return c.moment()
	}
	return 0
}

// lookAtWrite runs on the timer.
func (c *Conn) lookAtWrite() {
	defer c.survive()
	s := &c.stall
	taken, known := socketOf(c.nc).takenBytes(s.written.Load())
	c.mu.Lock()
	defer c.mu.Unlock()
	s.on = false
	now := c.now()
	if c.cause != nil || s.passed || s.since.Load() == 0 {
		return // the ending has its own deadlines, and the next write starts the timer
	}
	left := c.look(now, taken, known)
	own := time.Duration(c.writeBy.Load())
	switch {
	case c.handlers && own != 0 && now >= own:
	case left > 0:
		if c.tls != nil {
			c.keepWriteAway(now)
		}
		c.lookBy(now, now+left)
		return
	case !known && c.tls == nil:
		c.lookBy(now, now+c.moment()) // the writer judges what was accepted
	default:
		s.passed = true
	}
	c.warmed = 1
	c.nc.SetWriteDeadline(past)
}

// resumeWrite reports whether a write that has timed out at now may continue. own is its own
// deadline, or 0. A write over TLS never continues.
func (c *Conn) resumeWrite(now, own time.Duration) bool {
	s := &c.stall
	var taken int64
	known := false
	if c.resumes {
		taken, known = socketOf(c.nc).takenBytes(s.written.Load())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	by := own
	switch {
	case c.tls != nil, c.wintr && c.wcur != nil, s.passed:
		return false
	case c.cause != nil:
		if c.final || now >= c.graceBy {
			return false
		}
		if by == 0 || c.graceBy < by {
			by = c.graceBy
		}
	case c.resumes:
		left := c.look(now, taken, known)
		if left == 0 {
			s.passed = true
			return false
		}
		if by = now + left; own != 0 {
			by = min(by, own)
		}
	case !s.retry:
		s.retry = true // it may accept a part now, where it has waited for more room
		s.taken = s.written.Load()
	case s.written.Load()-s.taken >= minProgress:
		s.from, s.retry, s.once = now, false, false
	default:
		s.passed = true
		return false
	}
	c.warmed = by
	deadline := time.Time{}
	if by != 0 {
		deadline = c.at(by)
	}
	c.nc.SetWriteDeadline(deadline)
	return true
}

// setWriteBy sets the write deadline for a write that begins at now. own is its own deadline,
// or 0. A deadline that is near enough stays, which is cheaper than setting one for each
// write. mu is held.
func (c *Conn) setWriteBy(now, own time.Duration) {
	by, soon := own, own
	switch {
	case c.tls != nil:
		c.extendWrite(now) // the timer ends the write
		return
	case c.resumes && (own == 0 || own > now+c.slice()):
		by, soon = now+c.slice(), now+c.slice()/2
	}
	switch {
	case by == 0 && c.warmed == 0:
	case by == 0:
		c.warmed = 0
		c.nc.SetWriteDeadline(time.Time{})
	case c.warmed <= now || c.warmed < soon || c.warmed > by:
		c.warmed = by
		c.nc.SetWriteDeadline(c.at(by))
	}
}

// horizon is how far away the write deadline of a tls.Conn stays at least. Read answers a
// KeyUpdate with a write (RFC 8446 §4.6.3). That write must not meet a deadline that has
// passed, and must have one.
func (c *Conn) horizon() time.Duration {
	return max(time.Minute, min(2*c.cfg.WriteTimeout, 1<<60)) // twice that, and the time since born, do not overflow
}

// extendWrite keeps the write deadline of a tls.Conn away. mu is held.
func (c *Conn) extendWrite(now time.Duration) {
	if c.warmed < now+c.horizon() {
		c.warmed = now + 2*c.horizon()
		c.nc.SetWriteDeadline(c.at(c.warmed))
	}
}

// keepWriteAway is extendWrite for a caller that is not the writer. It leaves the deadline of a
// write that must stop. mu is held.
func (c *Conn) keepWriteAway(now time.Duration) {
	if c.warmed != 1 || c.stall.since.Load() == 0 {
		c.extendWrite(now)
	}
}

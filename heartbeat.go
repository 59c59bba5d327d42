package wsguard

import (
	"math/rand/v2"
	"time"
)

// HeartbeatConfig bounds how long a connection may be silent, slow or open. In
// each field 0 is the default and Off switches the guard off, where that is
// possible. The time that the application takes over a message counts as
// nobody's.
type HeartbeatConfig struct {
	// Ping is how often a ping is sent, ±10 %. Default 25 s, which keeps the
	// usual proxies from cutting. Pings pause while the application is not
	// reading, for as long as one interval.
	Ping time.Duration

	// Pong is how long its answer may take. Default 10 s, half of Ping where
	// that is less; then 3008 pong_timeout. It must be shorter than Ping.
	Pong time.Duration

	// Idle is how long no message of the application's may pass, in either
	// direction. Pings and pongs do not count. Default 5 min; then 3008 idle.
	Idle time.Duration

	// ReportIdle reports an idle connection, and leaves it open.
	ReportIdle bool

	// Lifetime is how long a connection may last, ±10 %. Default 12 h; then
	// 1001 lifetime. A client that reconnects is authenticated anew.
	Lifetime time.Duration

	// Write is how long a write may take until the kernel has it. Default
	// 4 s, less than 5 s; then 1008 write_timeout. It cannot be Off.
	Write time.Duration

	// CloseGrace is how long the end waits for a write that is under way,
	// and for the peer's close frame; Linger, for its EOF after that. Default
	// 1 s each. They cannot be Off.
	CloseGrace time.Duration
	Linger     time.Duration
}

func (h HeartbeatConfig) resolve(f *faults) HeartbeatConfig {
	h.Ping = timeout(h.Ping, 25*time.Second, "Heartbeat.Ping", f)
	pong := 10 * time.Second
	if h.Ping > 0 {
		pong = min(pong, h.Ping/2)
	}
	h.Pong = timeout(h.Pong, pong, "Heartbeat.Pong", f)
	if h.Ping > 0 && h.Pong > 0 && h.Ping <= h.Pong {
		f.add("Heartbeat.Pong", h.Pong, "must be shorter than Ping")
	}
	h.Idle = timeout(h.Idle, 5*time.Minute, "Heartbeat.Idle", f)
	h.Lifetime = timeout(h.Lifetime, 12*time.Hour, "Heartbeat.Lifetime", f)
	h.Write = required(h.Write, 4*time.Second, "Heartbeat.Write", f)
	if h.Write >= 5*time.Second {
		f.add("Heartbeat.Write", h.Write, "must be less than 5 s")
	}
	h.CloseGrace = required(h.CloseGrace, time.Second, "Heartbeat.CloseGrace", f)
	h.Linger = required(h.Linger, time.Second, "Heartbeat.Linger", f)
	return h
}

// jitter spreads d by ±10 %.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// sweepEvery is how late the sweeper may be.
const sweepEvery = 200 * time.Millisecond

// sweep runs while there are connections. It ends those that are due, whether
// or not their application reads.
func (g *Guard) sweep() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	var due []*Conn
	for range t.C {
		var more bool
		if due, more = g.sessions.due(due[:0]); !more {
			return
		}
		for i, c := range due {
			c.sweep()
			due[i] = nil
		}
	}
}

// sweep looks at what is due. It never blocks.
func (c *Conn) sweep() {
	now := time.Now()
	expires := c.expires.Load()
	switch {
	case c.w.Cause() != nil:
		c.due.Store(int64(never))
		return
	case expires != nil && !now.Before(*expires):
		c.end(ErrExpired, "")
	case !c.lifetime.IsZero() && !now.Before(c.lifetime):
		c.end(ErrLifetime, "")
	case c.awaiting.Load() && !now.Before(c.authBy):
		c.end(ErrAuthTimeout, "")
	default:
		// The reader pings. While the application keeps away from Read for
		// longer than an interval, the sweeper does.
		if p := c.g.heartbeat.Ping; p > 0 && c.w.Away() >= p && now.Sub(c.pinged) >= p {
			c.pinged = now
			go c.w.Ping()
		}
	}
	c.schedule(now)
}

const never = time.Duration(1<<63 - 1)

// schedule works out when the sweeper is to look again.
func (c *Conn) schedule(now time.Time) {
	next := never
	soonest := func(t time.Time) { next = min(next, t.Sub(c.g.born)) }
	if t := c.expires.Load(); t != nil {
		soonest(*t)
	}
	if !c.lifetime.IsZero() {
		soonest(c.lifetime)
	}
	if c.awaiting.Load() {
		soonest(c.authBy)
	}
	if p := c.g.heartbeat.Ping; p > 0 {
		soonest(now.Add(p / 2))
	}
	c.due.Store(int64(next))
}

package wsguard

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// HeartbeatConfig bounds how long a connection may be silent, slow or open. In
// each field 0 is the default, and Off switches the guard off where the comment
// does not say "required". The time that the application takes over a message
// counts as nobody's.
type HeartbeatConfig struct {
	Ping       time.Duration // between pings, ±10 %; default 25 s, which keeps proxies from cutting
	Pong       time.Duration // for the answer; default 10 s or half of Ping; must be shorter than Ping → 3008 pong_timeout
	Idle       time.Duration // without an application message, either way; default 5 min → 3008 idle
	ReportIdle bool          // an idle connection is reported, and left open
	Lifetime   time.Duration // of a connection, ±10 %; default 12 h → 1001 lifetime
	Write      time.Duration // until the kernel has a message; default 4 s, less than 5 s, required → 1008 write_timeout

	// CloseGrace is how long an ending waits for a write that is under way, and then
	// for the peer's close frame. The default is one second. It cannot be Off.
	CloseGrace time.Duration

	// Linger is how long an ending then waits for a peer that has not answered the
	// close frame to close its side, so that it can read the close frame. Nothing
	// is waited for when both close frames have been exchanged. The default is one
	// second. It cannot be Off.
	Linger time.Duration
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

// sweep runs while there are connections, until stop is closed. It ends those that
// are due, whether or not their application reads.
func (g *Guard) sweep(stop <-chan struct{}) {
	stopped := false
	defer func() {
		_ = recover()
		if !stopped {
			go g.sweep(stop) // a hook has panicked, or ended the goroutine
			return
		}
		g.sessions.swept()
	}()
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	var due []*Conn
	for n := 0; ; n++ {
		select {
		case <-t.C:
		case <-stop:
			g.reportEvicted() // the next sweeper may be as short
			stopped = true
			return
		}
		if n%50 == 0 {
			g.reportEvicted()
		}
		due = g.sessions.due(due[:0])
		for i, c := range due {
			c.sweep()
			due[i] = nil
		}
	}
}

// watch is the part of a connection that says when the sweeper must look at it. The
// sweeper owns it.
type watch struct {
	due      atomic.Int64 // when the sweeper must look, counted from Guard.born; schedule only makes it earlier
	lifetime time.Time    // when Lifetime ends it; zero: never; read-only after list
	pinged   time.Time    // when the sweeper last sent a ping
}

// sweep looks at what is due. It never blocks.
func (c *Conn) sweep() {
	now := time.Now()
	c.watch.due.Store(int64(never))
	expires := c.who.expires.Load()
	switch {
	case c.cause() != nil:
		return
	case expires != nil && !now.Before(*expires):
		c.end(because(reason.Expired, ""))
	case !c.watch.lifetime.IsZero() && !now.Before(c.watch.lifetime):
		c.end(because(reason.Lifetime, ""))
	case c.who.awaiting.Load() && !now.Before(c.who.authBy):
		c.end(badCredential(deny(reason.AuthTimeout, "")))
	default:
		switch at := c.who.recheck.Load(); {
		case c.who.rechecking.Load():
		case at == 0:
			if c.life.begun.Load() { // Reconfigure may have begun to ask
				c.checkAgain(c.Principal(), jitter(c.e.policy().auth.cfg.RevalidateEvery))
			}
		case time.Since(c.g.born) >= time.Duration(at):
			c.who.recheck.Store(0)
			c.who.rechecking.Store(true)
			go c.revalidate()
		}
		// The reader pings. While the application keeps away from Read for
		// longer than an interval, the sweeper does.
		if p := c.first.heartbeat.Ping; p > 0 && c.w.Away() >= p && now.Sub(c.watch.pinged) >= p {
			c.watch.pinged = now
			go func() {
				defer c.survive()
				c.w.Ping()
			}()
		}
	}
	c.schedule(now)
}

const never = time.Duration(1<<63 - 1)

// schedule works out when the sweeper is to look again. It only ever makes that
// earlier: the sweeper and whoever authenticates may be here at once.
func (c *Conn) schedule(now time.Time) {
	next := never
	born := time.Since(c.g.born)
	soonest := func(t time.Time) {
		if d := time.Until(t); d < never-born { // the year 9999 is
			next = min(next, born+d)
		}
	}
	if t := c.who.expires.Load(); t != nil {
		soonest(*t)
	}
	if !c.watch.lifetime.IsZero() {
		soonest(c.watch.lifetime)
	}
	if c.who.awaiting.Load() {
		soonest(c.who.authBy)
	}
	if at := c.who.recheck.Load(); at != 0 {
		next = min(next, time.Duration(at))
	}
	if p := c.first.heartbeat.Ping; p > 0 {
		soonest(now.Add(p / 2))
	}
	for {
		old := c.watch.due.Load()
		if old <= int64(next) || c.watch.due.CompareAndSwap(old, int64(next)) {
			return
		}
	}
}

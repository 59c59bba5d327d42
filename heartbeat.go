package wsguard

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// TimeoutConfig has the timeouts of a connection. They limit how long it may be silent, how
// long it may last, how long a write may take, and how long its end may take. The zero value
// is a secure default in each field. A negative value other than Off is an error.
//
// Time spent in the application's handler counts toward neither Pong nor Idle. [Conn.Context]
// says what the guard sees of the peer in that time. Reconfigure changes none of these timeouts
// for connections that are open.
type TimeoutConfig struct {
	// PingInterval is the time between two pings to a peer, spread by 10 % either way. The
	// default is 25 seconds, which keeps most proxies from cutting a connection that is silent.
	// Off sends no pings. The guard then finds a peer that is gone only by Idle, by Lifetime, or
	// when a write fails.
	PingInterval time.Duration

	// Pong is how long a peer may give no sign of life after a ping. The default is 10 seconds, or
	// half of PingInterval if that is shorter. It must be shorter than PingInterval. With Off, the
	// guard waits for no sign of life. Any whole frame that comes after the ping is a sign of life,
	// and not only a pong. A connection whose peer gives none in time is closed with 3008
	// pong_timeout.
	//
	// The time begins when the ping has been written. It begins again when the peer has taken
	// at least 1 KiB, or all, of what the kernel still held when the ping was written. If the
	// peer has taken less than that of what lies in front of the ping, it gets the time of
	// Write in addition. Where the kernel does not say what the peer has taken, every peer gets
	// that time in addition. What a proxy or the peer's own kernel holds in front of the ping
	// cannot be seen. Set a longer Pong for large downloads to slow clients.
	Pong time.Duration

	// Idle is how long a connection may be without a message of the application, in either
	// direction. Pings and pongs do not count. The default is 5 minutes, and Off is no limit. An
	// idle connection is closed with 3008 idle.
	Idle time.Duration

	// ReportOnly reports an idle connection instead of closing it, and reports it again
	// after each further Idle. The client sees nothing. The default is false.
	ReportOnly bool

	// Lifetime is how long a connection may last, spread by 10 % either way so that clients which
	// came together do not return together. The default is 12 hours, and Off is no limit. A
	// connection that reaches it is closed with 1001 lifetime.
	Lifetime time.Duration

	// Write is how long a peer may take nothing of what is written to it. The default is 4
	// seconds. It cannot be Off. A write that waits for room ends the connection with 1008
	// write_timeout when the peer has taken less than 1 KiB for that time. A slow peer that
	// takes more may take as long as it needs. All calls that write share this time.
	//
	// The guard asks the kernel what the peer has taken. If the server's listener wraps its
	// connections, and the wrapper has no method NetConn or SyscallConn, progress is what
	// the wrapper's Write accepts. Over TLS that is seen only when a whole record of 16 KiB has
	// been accepted. Set a longer Write then.
	Write time.Duration

	// CloseGrace is how long the end of a connection may take until the peer has answered the
	// close frame. Within that time, the guard waits for a write that is under way, writes the
	// queued messages of Send, writes the close frame, and waits for the peer's close frame. The
	// default is one second. It cannot be Off.
	CloseGrace time.Duration

	// Linger is how long the guard keeps the socket open after CloseGrace, so that a peer that
	// has not answered the close frame can still read it. The guard does not end its side of
	// the stream before CloseGrace is over. Many clients that meet the end of the stream while
	// they send never report the close code. Once both close frames have been exchanged, the
	// guard closes the socket at once. The default is one second. It cannot be Off.
	Linger time.Duration
}

func (h TimeoutConfig) resolve(f *faults) TimeoutConfig {
	h.PingInterval = timeout(h.PingInterval, 25*time.Second, "Timeouts.PingInterval", f)
	pong := 10 * time.Second
	if h.PingInterval > 0 {
		pong = min(pong, h.PingInterval/2)
	}
	h.Pong = timeout(h.Pong, pong, "Timeouts.Pong", f)
	if h.PingInterval > 0 && h.Pong > 0 && h.PingInterval <= h.Pong {
		f.add("Timeouts.Pong", h.Pong, "must be shorter than PingInterval")
	}
	h.Idle = timeout(h.Idle, 5*time.Minute, "Timeouts.Idle", f)
	h.Lifetime = timeout(h.Lifetime, 12*time.Hour, "Timeouts.Lifetime", f)
	h.Write = required(h.Write, 4*time.Second, "Timeouts.Write", f)
	h.CloseGrace = required(h.CloseGrace, time.Second, "Timeouts.CloseGrace", f)
	h.Linger = required(h.Linger, time.Second, "Timeouts.Linger", f)
	return h
}

// jitter spreads d by ±10 %.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// spread returns a random time within d, so that connections which came together do not come
// together again.
func spread(d time.Duration) time.Duration { return rand.N(d) }

// sweepEvery is the time between two runs of the sweeper. A timeout may be that much late.
const sweepEvery = 200 * time.Millisecond

// lookEvery is the least time between two looks after the peer of a connection whose
// application works. It is one and a half runs of the sweeper, so that the sweeper looks in
// every second run although its ticks vary.
const lookEvery = sweepEvery * 3 / 2

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
		g.sessions.sweeperDone()
	}()
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	var due, unread, all []*Conn
	last := time.Now()
	for n := 0; ; n++ {
		select {
		case <-t.C:
		case <-stop:
			g.reportEvicted() // the next sweeper may be stopped as early
			stopped = true
			return
		}
		if n%50 == 0 {
			g.reportEvicted()
		}
		// If the process was stopped, peers may have done what they must do. Their readers get the
		// chance to see it.
		now := time.Now()
		late := now.Sub(last) > 5*sweepEvery
		last = now
		due, unread = g.sessions.due(due[:0], unread[:0])
		for _, c := range due {
			c.sweep(late)
		}
		g.lookAfter(unread)
		if n%5 == 4 { // once a second
			all = g.sessions.look(all)
		}
		clear(due)
		clear(unread)
	}
}

// watch is the part of a connection that says when the sweeper must look at it. The
// sweeper owns it.
type watch struct {
	due      atomic.Int64 // when the sweeper must look, counted from Guard.born; schedule only makes it earlier
	lifetime int64        // when Lifetime ends it, counted from Guard.born; 0: never
	pinged   int64        // when the sweeper has last sent a ping, counted from Guard.born
	looked   int64        // when the sweeper has last looked after the peer, counted from Guard.born; 0: never
	counted  counted      // guarded by usage.mu
}

// lookAfter looks after the peers of connections whose application does not read. It never
// blocks.
func (g *Guard) lookAfter(conns []*Conn) {
	now := int64(time.Since(g.born))
	var slow []*Conn
	for _, c := range conns {
		if at := c.watch.looked; at != 0 && now-at < int64(lookEvery) {
			continue
		}
		if c.look(false) {
			if g.looking.Load() {
				continue // the next run looks
			}
			slow = append(slow, c)
		}
		c.watch.looked = now
	}
	if len(slow) > 0 {
		g.looking.Store(true)
		go g.lookSlowly(slow)
	}
}

// look looks after the peer. The net.Conn may be the application's, and panic.
func (c *Conn) look(wait bool) (slow bool) {
	defer c.survive()
	return c.w.Look(wait)
}

// maxLooks is how many looks may wait for their net.Conn at the same time.
const maxLooks = 256

// lookSlowly looks after the peers of connections whose net.Conn cannot be asked without
// waiting. Each look takes about a millisecond.
func (g *Guard) lookSlowly(conns []*Conn) {
	defer g.looking.Store(false)
	places := make(chan struct{}, maxLooks)
	for _, c := range conns {
		places <- struct{}{}
		go func() {
			defer func() { <-places }()
			c.look(true)
		}()
	}
}

// sweep handles the timeouts of c that are due. It never blocks. late says that the sweeper has
// been late, so that a peer must get another moment.
func (c *Conn) sweep(late bool) {
	now := time.Now()
	age := int64(now.Sub(c.g.born))
	c.watch.due.Store(int64(never))
	expires := c.who.principal.Load().Expires
	switch {
	case c.cause() != nil:
		return
	case !expires.IsZero() && !now.Before(expires):
		c.end(because(reason.Expired, ""))
	case c.watch.lifetime != 0 && age >= c.watch.lifetime && c.first.observe:
		c.watch.lifetime = 0
		c.g.events.meter.gauges.refuse(limitLifetime)
		c.refused(reason.Lifetime, "", audit.ActionReport)
	case c.watch.lifetime != 0 && age >= c.watch.lifetime:
		c.g.events.meter.gauges.refuse(limitLifetime)
		c.end(because(reason.Lifetime, ""))
	case c.who.awaiting.Load() && !now.Before(c.who.authBy) && !late:
		c.end(badCredential(deny(reason.AuthTimeout, "")))
	default:
		c.recheck()
		// The reader sends the pings. If the application has not called Read for an
		// interval, the sweeper sends them.
		if p := c.first.timeouts.PingInterval; p > 0 && c.w.Away() >= p && age-c.watch.pinged >= int64(p) {
			c.watch.pinged = age
			c.w.Ping()
		}
	}
	c.schedule(now)
}

const never = time.Duration(1<<63 - 1)

// schedule works out when the sweeper must look at the connection again. It only makes that
// time earlier, because the sweeper and a goroutine that authenticates may call it at the
// same time.
func (c *Conn) schedule(now time.Time) {
	next := never
	born := time.Since(c.g.born)
	soonest := func(t time.Time) {
		if d := time.Until(t); d < never-born { // the sum would overflow for the year 9999
			next = min(next, born+d)
		}
	}
	if t := c.who.principal.Load().Expires; !t.IsZero() {
		soonest(t)
	}
	if at := c.watch.lifetime; at != 0 {
		next = min(next, time.Duration(at))
	}
	if c.who.awaiting.Load() {
		soonest(c.who.authBy)
	}
	if at := c.nextCheck(); at != 0 {
		next = min(next, at)
	}
	if p := c.first.timeouts.PingInterval; p > 0 {
		soonest(now.Add(p / 2))
	}
	for {
		old := c.watch.due.Load()
		if old <= int64(next) || c.watch.due.CompareAndSwap(old, int64(next)) {
			return
		}
	}
}

package wsguard

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// sessions is the registry: who is connected, and who no longer may be.
type sessions struct {
	g *Guard

	mu        sync.Mutex
	conns     []*Conn
	subjects  map[string]map[*session]struct{}
	notBefore map[string]time.Time // of revoked subjects
	sweeping  bool
	draining  bool
	entering  int           // handshakes under way
	drained   chan struct{} // closed when draining and nobody is left
}

// session is one subject's, from before the last look at its revocation until
// its connection is gone.
type session struct {
	set     *sessions
	subject string
	conn    *Conn // set.mu: once there is one
	killed  bool  // set.mu
}

func newSessions(g *Guard) *sessions {
	return &sessions{
		g:         g,
		subjects:  map[string]map[*session]struct{}{},
		notBefore: map[string]time.Time{},
		drained:   make(chan struct{}),
	}
}

// register is called before the last look at revoked: so a revocation at any
// time finds the session or is found.
func (s *sessions) register(p Principal) *session {
	se := &session{set: s, subject: p.Subject}
	if p.anonymous() {
		return se
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.subjects[p.Subject]
	if set == nil {
		set = map[*session]struct{}{}
		s.subjects[p.Subject] = set
	}
	set[se] = struct{}{}
	return se
}

func (s *sessions) unregister(se *session) {
	if se == nil || se.subject == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if set := s.subjects[se.subject]; set != nil {
		delete(set, se)
		if len(set) == 0 {
			delete(s.subjects, se.subject)
		}
	}
}

// attach gives the session its connection, and ends it if it has been killed.
func (se *session) attach(c *Conn) {
	se.set.mu.Lock()
	se.conn = c
	killed := se.killed
	se.set.mu.Unlock()
	if killed {
		c.end(ErrRevoked, "")
	}
}

func (se *session) isKilled() bool {
	se.set.mu.Lock()
	defer se.set.mu.Unlock()
	return se.killed
}

// revoked reports whether p's credential is void.
func (s *sessions) revoked(p Principal) bool {
	if p.anonymous() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	nb, ok := s.notBefore[p.Subject]
	return ok && (p.IssuedAt.IsZero() || p.IssuedAt.Before(nb))
}

func (s *sessions) revoke(subject string) {
	var conns []*Conn
	s.mu.Lock()
	s.notBefore[subject] = time.Now()
	for se := range s.subjects[subject] {
		se.killed = true
		if se.conn != nil {
			conns = append(conns, se.conn)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.end(ErrRevoked, "")
	}
}

func (s *sessions) restore(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.notBefore, subject)
}

func (s *sessions) find(id string) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if c.id == id {
			return c
		}
	}
	return nil
}

// add lists a connection, and sees to it that the sweeper runs. It reports
// whether a drain has begun, which may have missed the connection.
func (s *sessions) add(c *Conn) (draining bool) {
	s.mu.Lock()
	c.index = len(s.conns)
	s.conns = append(s.conns, c)
	sweep := !s.sweeping
	s.sweeping = true
	draining = s.draining
	s.mu.Unlock()
	if sweep {
		go s.g.sweep()
	}
	return draining
}

func (s *sessions) remove(c *Conn) {
	s.unregister(c.session)
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.conns) - 1
	s.conns[c.index] = s.conns[last]
	s.conns[c.index].index = c.index
	s.conns[last] = nil
	s.conns = s.conns[:last]
	s.checkDrained()
}

// due appends the connections that the sweeper is to look at. It reports
// whether there are any connections; if not, the sweeper is to stop.
func (s *sessions) due(to []*Conn) ([]*Conn, bool) {
	now := int64(time.Since(s.g.born))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) == 0 {
		s.sweeping = false
		s.conns = nil
		return to, false
	}
	for _, c := range s.conns {
		if c.due.Load() <= now {
			to = append(to, c)
		}
	}
	return to, true
}

func (s *sessions) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// entered counts a handshake, unless a drain has begun. left undoes it either
// way: a drain waits for both.
func (s *sessions) entered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entering++
	return !s.draining
}

func (s *sessions) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entering--
	s.checkDrained()
}

// checkDrained is called with mu held.
func (s *sessions) checkDrained() {
	if s.draining && len(s.conns) == 0 && s.entering == 0 {
		select {
		case <-s.drained:
		default:
			close(s.drained)
		}
	}
}

// open returns the connections that nothing has ended yet.
func (s *sessions) open() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*Conn, 0, len(s.conns))
	for _, c := range s.conns {
		if c.w.Cause() == nil {
			conns = append(conns, c)
		}
	}
	return conns
}

const (
	drainEvery = 100 * time.Millisecond
	drainBatch = 16 // at least; a small server is drained at once
	drainPace  = 10 * time.Second
)

// Shutdown refuses new handshakes with 503, closes the connections with 1012 in
// batches over the first half of ctx's time (10 s without a deadline), and
// returns when they and their handlers are gone. When ctx ends first, it cuts
// what is left and returns ctx's error. Further calls wait for the same drain.
// http.Server.Shutdown knows nothing of upgraded connections: call it after.
func (g *Guard) Shutdown(ctx context.Context) error {
	s := g.sessions
	s.mu.Lock()
	first := !s.draining
	s.draining = true
	s.checkDrained()
	s.mu.Unlock()
	if first {
		pace := drainPace
		if by, ok := ctx.Deadline(); ok {
			pace = time.Until(by) / 2
		}
		go g.drain(ctx, pace)
	}
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	left := append([]*Conn(nil), s.conns...)
	s.mu.Unlock()
	for _, c := range left {
		c.end(ErrDraining, "cut")
		c.w.Cut()
	}
	// What was cut is gone in no time; a handler that goes on is not.
	select {
	case <-s.drained:
	case <-time.After(g.heartbeat.CloseGrace):
	}
	return ctx.Err()
}

// drain ends the connections in batches: clients that reconnect elsewhere are
// not to arrive there all at once.
func (g *Guard) drain(ctx context.Context, pace time.Duration) {
	conns := g.sessions.open()
	rand.Shuffle(len(conns), func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })
	ticks := max(1, int(pace/drainEvery))
	batch := max(drainBatch, (len(conns)+ticks-1)/ticks)
	for len(conns) > 0 {
		n := min(batch, len(conns))
		for _, c := range conns[:n] {
			c.end(ErrDraining, "")
		}
		if conns = conns[n:]; len(conns) == 0 {
			return
		}
		select {
		case <-time.After(jitter(drainEvery)):
		case <-g.sessions.drained:
			return
		case <-ctx.Done():
			return
		}
	}
}

package wsguard

import (
	"sync"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// registry is who is authenticated, and who no longer may be.
type registry struct {
	mu     sync.Mutex // no other lock is taken while it is held, except the clock's of accepted credentials
	who    map[identity]map[*session]struct{}
	void   map[identity]revocation
	tidyAt int // entries of void at which those that are over are dropped
}

func newRegistry() *registry {
	return &registry{who: map[identity]map[*session]struct{}{}, void: map[identity]revocation{}, tidyAt: 1024}
}

// identity is what can be revoked: a subject, or one login.
type identity struct {
	login bool
	id    string
}

// identities are those of a principal.
func (p Principal) identities() []identity {
	switch {
	case p.anonymous():
		return nil
	case p.SessionID == "":
		return []identity{{id: p.Subject}}
	}
	return []identity{{id: p.Subject}, {true, p.SessionID}}
}

// revocation voids what was issued before it.
type revocation struct {
	at       time.Time // by the clock: what an issue time is compared with
	moment   time.Time // of the Authenticator's memory: what sightings and tickets are compared with
	until    time.Time // when it is forgotten; zero: never
	restored bool      // credentials are good again; tickets stay void
}

// session is one subject's, from before the last look at its revocation until
// its connection is gone.
type session struct {
	set    *registry
	ids    []identity // set.mu
	conn   *Conn      // set.mu: once there is one
	killed bool       // set.mu
	gone   bool       // set.mu: the connection is; nothing lists it any more
}

// register is called before the last look at revoked: so a revocation at any
// time finds the session or is found.
func (s *registry) register(p Principal) *session {
	se := &session{set: s}
	s.identify(se, p)
	return se
}

// identify lists a session under what p can be revoked by, if it is not gone.
func (s *registry) identify(se *session, p Principal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if se.gone {
		return false
	}
	s.forget(se)
	se.ids = p.identities()
	for _, id := range se.ids {
		set := s.who[id]
		if set == nil {
			set = map[*session]struct{}{}
			s.who[id] = set
		}
		set[se] = struct{}{}
	}
	return true
}

func (s *registry) unregister(se *session) {
	if se == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(se)
	se.gone = true
}

// forget is called with mu held.
func (s *registry) forget(se *session) {
	for _, id := range se.ids {
		set := s.who[id]
		delete(set, se)
		if len(set) == 0 {
			delete(s.who, id)
		}
	}
	se.ids = nil
}

// attach gives the session its connection, and ends it if it has been killed.
func (se *session) attach(c *Conn) {
	se.set.mu.Lock()
	se.conn = c
	killed := se.killed
	se.set.mu.Unlock()
	if killed {
		c.end(because(reason.Revoked, ""))
	}
}

func (se *session) isKilled() bool {
	se.set.mu.Lock()
	defer se.set.mu.Unlock()
	return se.killed
}

// revoked reports whether p's credential is void.
func (s *registry) revoked(p Principal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range p.identities() {
		r, ok := s.void[id]
		switch {
		case !ok || !r.until.IsZero() && !time.Now().Before(r.until):
		case !p.bought.IsZero() && p.bought.Before(r.moment):
			return true
		case !r.restored && (id.login || p.IssuedAt.IsZero() || p.IssuedAt.Before(r.at) || !p.seen.IsZero() && p.seen.Before(r.moment)):
			return true
		}
	}
	return false
}

// manyRevocations is where somebody should have said how long they count.
const manyRevocations = 100_000

// revoke voids what was issued to id so far, for ttl, or for ever if ttl is 0. now is the
// clock of accepted credentials. It returns the connections that must end, and whether
// there are so many revocations that somebody should say how long they count.
func (s *registry) revoke(id identity, ttl time.Duration, now func() time.Time) (conns []*Conn, many bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The times are taken under mu: what a handshake has noted before it
	// registered its session is earlier than a revocation that ends the session.
	r := revocation{at: time.Now(), moment: now()}
	if ttl > 0 {
		r.until = r.at.Add(ttl)
		// Another Guard may have revoked for longer.
		if old, ok := s.void[id]; ok && !old.restored && (old.until.IsZero() || old.until.After(r.until)) {
			r.until = old.until
		}
	}
	s.void[id] = r
	many = r.until.IsZero() && len(s.void) == manyRevocations
	s.tidy(r.at)
	for se := range s.who[id] {
		se.killed = true
		if se.conn != nil {
			conns = append(conns, se.conn)
		}
	}
	return conns, many
}

// tidy drops revocations that are over, each time their number has doubled. It
// is called with mu held.
func (s *registry) tidy(now time.Time) {
	if len(s.void) < s.tidyAt {
		return
	}
	for id, r := range s.void {
		if !r.until.IsZero() && !now.Before(r.until) {
			delete(s.void, id)
		}
	}
	s.tidyAt = max(1024, 2*len(s.void))
}

// restore undoes revoke, except for the tickets that were outstanding; they live for
// tickets at the most, and there are none if that is 0.
func (s *registry) restore(id identity, tickets time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.void[id]
	if !ok {
		return
	}
	if tickets == 0 {
		delete(s.void, id)
		return
	}
	r.restored, r.until = true, time.Now().Add(tickets)
	s.void[id] = r
}

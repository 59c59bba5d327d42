package wsguard

import (
	"sync"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// registry has the authenticated sessions and the revocations.
type registry struct {
	mu     sync.Mutex                         // no other lock is taken while it is held, except the clock's of accepted credentials
	who    map[identity]map[*session]struct{} // guarded by mu: the sessions by each identity
	void   map[identity]revocation            // guarded by mu: the revocations
	latest map[identity]time.Time             // guarded by mu: the latest Expires of the credentials that were accepted
	forgot time.Time                          // guarded by mu: the latest of those that latest had no room for
	tidyAt int                                // guarded by mu: the number of entries of void at which expired ones are dropped
	ahead  map[sighting]sight                 // guarded by mu: credentials whose issue time is ahead, as instances have seen them; made when needed
}

// sight is when an instance has first accepted a credential.
type sight struct {
	at    time.Time // by the clock of accepted credentials
	until time.Time // when it does not matter any more
}

func newRegistry() *registry {
	return &registry{who: map[identity]map[*session]struct{}{}, void: map[identity]revocation{}, latest: map[identity]time.Time{}, tidyAt: 1024}
}

// identity names a subject or one login, which can be revoked.
type identity struct {
	login bool // id is a Principal.SessionID; otherwise it is a Subject
	id    string
}

// identities returns the identities under which p can be revoked.
func (p Principal) identities() []identity {
	switch {
	case p.anonymous():
		return nil
	case p.SessionID == "":
		return []identity{{id: p.Subject}}
	}
	return []identity{{id: p.Subject}, {true, p.SessionID}}
}

// revocation voids the credentials and tickets that were issued before it.
type revocation struct {
	at       time.Time     // when it was made; compared with issue times. It is by the clock of the store if that is known
	moment   time.Time     // the same by the clock of accepted credentials, at the latest; compared with sightings and tickets
	surely   time.Time     // the same, at the earliest; equal to moment if the revocation was made here
	slack    time.Duration // how much later than at a credential may have been issued that was first seen before moment
	until    time.Time     // when it expires; zero: never
	restored bool          // credentials are good again; tickets stay void
}

// after reports whether the revocation came after a sighting, or after the sale of a ticket. It is
// only known to have come between surely and moment. In this span, a credential that was issued at
// about this time is taken for one of a login after the revocation.
func (r *revocation) after(t, issued time.Time) bool {
	switch {
	case t.IsZero():
		return false
	case t.Before(r.surely):
		return true
	}
	return t.Before(r.moment) && (issued.Before(r.at) || issued.After(r.at.Add(r.slack)))
}

// session is a session of one subject. It lasts from before the last look at the revocations
// until the connection has ended.
type session struct {
	set    *registry
	ids    []identity // guarded by set.mu
	who    Principal  // guarded by set.mu: the principal, without its scopes
	conn   *Conn      // guarded by set.mu; nil until attach
	killed bool       // guarded by set.mu: a revocation has ended the session
	gone   bool       // guarded by set.mu: the session is unregistered, and must not be listed again
}

// revocations returns how many revocations are remembered.
func (s *registry) revocations() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.void)
}

// register lists a new session of p. The caller must look at revoked afterwards. So a
// revocation at any time either finds the session or is found.
func (s *registry) register(p Principal) *session {
	se := &session{set: s}
	s.identify(se, p)
	return se
}

// identify lists a session under the identities of p. It returns false if the session is gone.
func (s *registry) identify(se *session, p Principal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if se.gone {
		return false
	}
	ids := p.identities()
	for _, id := range ids {
		s.expires(id, p.Expires)
	}
	s.list(se, ids)
	se.who = p
	se.who.Scopes = nil
	return true
}

// list lists a session under ids, and under no others. The caller holds mu.
func (s *registry) list(se *session, ids []identity) {
	s.forget(se)
	se.ids = ids
	for _, id := range ids {
		set := s.who[id]
		if set == nil {
			set = map[*session]struct{}{}
			s.who[id] = set
		}
		set[se] = struct{}{}
	}
}

// succeed lists old under the identities of newer, which it unregisters. registered is false
// if old is gone. killed says that a revocation has ended newer, and that nothing has changed.
func (s *registry) succeed(old, newer *session) (registered, killed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case old.gone:
		return false, false
	case newer.killed:
		return false, true
	}
	ids := newer.ids
	old.who = newer.who
	s.forget(newer)
	newer.gone = true
	s.list(old, ids)
	return true, false
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

// forget removes the session from all lists. The caller holds mu.
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

// maxLatest bounds latest.
const maxLatest = 65_536

// expires notes when a credential of id expires. The caller holds mu.
func (s *registry) expires(id identity, at time.Time) {
	before, known := s.latest[id]
	if at.IsZero() || !at.After(before) {
		return
	}
	if !known && len(s.latest) >= maxLatest {
		now := time.Now()
		for other, until := range s.latest {
			if !now.Before(until) {
				delete(s.latest, other)
			}
		}
		for other, until := range s.latest { // an arbitrary quarter, if there is no room yet
			if len(s.latest) < maxLatest*3/4 {
				break
			}
			if until.After(s.forgot) {
				s.forgot = until
			}
			delete(s.latest, other)
		}
	}
	s.latest[id] = at
}

// sold notes the expiry of a principal that has bought a ticket.
func (s *registry) sold(p Principal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range p.identities() {
		s.expires(id, p.Expires)
	}
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
	return s.voids(p)
}

// voids implements revoked. The caller holds mu.
func (s *registry) voids(p Principal) bool {
	for _, id := range p.identities() {
		r, ok := s.void[id]
		switch {
		case !ok || !r.until.IsZero() && !time.Now().Before(r.until):
		case r.after(p.bought, p.IssuedAt):
			return true
		case r.restored:
		case id.login || p.IssuedAt.IsZero() || p.IssuedAt.Before(r.at) || r.after(p.seen, p.IssuedAt):
			return true
		case len(s.ahead) > 0 && r.after(s.ahead[sightingOf(p)].at, p.IssuedAt):
			return true
		}
	}
	return false
}

// maxAhead bounds ahead.
const maxAhead = 65_536

// sight notes that an instance has first accepted a credential whose issue time is ahead. It
// returns false if that is known already.
func (s *registry) sight(k sighting, at, until time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.ahead[k]
	if ok && !at.Before(old.at) {
		return false
	}
	if s.ahead == nil {
		s.ahead = map[sighting]sight{}
	}
	if !ok && len(s.ahead) >= maxAhead {
		now := time.Now()
		for other, seen := range s.ahead {
			if !now.Before(seen.until) {
				delete(s.ahead, other)
			}
		}
		for other := range s.ahead { // an arbitrary quarter, if there is no room yet
			if len(s.ahead) < maxAhead*3/4 {
				break
			}
			delete(s.ahead, other)
		}
	}
	s.ahead[k] = sight{at, until}
	return !ok
}

// manyRevocations is the number of revocations without an expiry at which a missing
// RevocationTTL is reported.
const manyRevocations = 100_000

// revoke voids what was issued to id so far, for ttl. If ttl is 0, the revocation never
// expires. now is the clock of accepted credentials, and issued that of issue times. revoke returns
// the revocation, the connections that must end, and whether a missing RevocationTTL must be
// reported.
func (s *registry) revoke(id identity, ttl time.Duration, now, issued func() time.Time) (r revocation, conns []*Conn, many bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Take the times under mu. So the sighting that a handshake has noted before it
	// registered its session is earlier than a revocation that ends the session.
	r = revocation{at: issued(), moment: now()}
	r.surely = r.moment
	here := time.Now()
	if ttl > 0 {
		r.until = s.lasts(id, here.Add(ttl))
	}
	s.void[id] = r
	many = r.until.IsZero() && len(s.void) == manyRevocations
	s.tidy(here)
	for se := range s.who[id] {
		conns = se.kill(conns)
	}
	return r, conns, many
}

// lasts returns until when a revocation lasts that should last until a time. The caller holds mu.
func (s *registry) lasts(id identity, until time.Time) time.Time {
	for _, expires := range []time.Time{s.latest[id], s.forgot} {
		if expires.After(until) {
			until = expires // a credential is good until then
		}
	}
	// Another Guard may have revoked for longer.
	if old, ok := s.void[id]; ok && !old.restored && (old.until.IsZero() || old.until.After(until)) {
		until = old.until
	}
	return until
}

// learn notes a revocation that the store has. own says that this instance has made it. learn
// returns the connections that must end, and until when the revocation lasts.
func (s *registry) learn(id identity, r revocation, own bool) (conns []*Conn, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !r.until.IsZero() {
		r.until = s.lasts(id, r.until)
		if !r.until.IsZero() && !now.Before(r.until) {
			return nil, r.until
		}
	}
	if old, ok := s.void[id]; ok && !old.restored && own {
		r.moment, r.surely, r.slack = old.moment, old.surely, old.slack // it is known better here
	}
	s.void[id] = r
	s.tidy(now)
	for se := range s.who[id] {
		if !se.killed && s.voids(se.who) {
			conns = se.kill(conns)
		}
	}
	return conns, r.until
}

// kill marks the session as ended, and appends its connection to conns. The caller holds set.mu.
func (se *session) kill(conns []*Conn) []*Conn {
	se.killed = true
	if se.conn != nil {
		conns = append(conns, se.conn)
	}
	return conns
}

// unlearn notes that the store has a revocation as undone. The tickets from before r stay void
// until r ends.
func (s *registry) unlearn(id identity, r revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.void[id]
	switch {
	case !time.Now().Before(r.until):
		delete(s.void, id)
		return
	case ok: // it is known better here
		old.restored, old.until = true, r.until
		r = old
	}
	s.void[id] = r
}

// recheck returns the connections of the sessions that a revocation has voided.
func (s *registry) recheck() (conns []*Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.void {
		for se := range s.who[id] {
			if !se.killed && s.voids(se.who) {
				conns = se.kill(conns)
			}
		}
	}
	return conns
}

// tidy drops expired revocations each time their number has doubled. The caller holds mu.
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

// restore undoes revoke, except for outstanding tickets, which stay void. tickets is the
// longest time for which one of them could still be used. It is 0 if there are none. restore
// returns when the revocation was made. at is zero if there is none.
func (s *registry) restore(id identity, tickets time.Duration) (at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.void[id]
	if !ok {
		return time.Time{}
	}
	at = r.at
	if tickets == 0 {
		delete(s.void, id)
		return at
	}
	r.restored, r.until = true, time.Now().Add(tickets)
	s.void[id] = r
	return at
}

package wsguard

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// slots counts the connections of a State. Each call brings its limits. A connection that
// exceeds them under CapConfig.ReportOnly is counted too.
type slots struct {
	mu        sync.Mutex           // only keeper.mu is taken while it is held
	all       int                  // guarded by mu
	waiting   waiters              // guarded by mu: those that owe a first message
	clients   map[clientKey]int    // guarded by mu: all connections of a client
	strangers map[clientKey]int    // guarded by mu: those of clients without a subject
	networks  map[netip.Prefix]int // guarded by mu
	subjects  map[string]*party    // guarded by mu
}

// party has the connections of a subject.
type party struct {
	leases    []*Lease  // the oldest first
	replacing *Lease    // a newcomer that may replace the oldest; nil: none
	replaced  time.Time // the last replacement
}

func newSlots() *slots {
	return &slots{clients: map[clientKey]int{}, strangers: map[clientKey]int{}, networks: map[netip.Prefix]int{}, subjects: map[string]*party{}}
}

// figures returns how many slots are held, and how many of them wait for a credential.
func (s *slots) figures() (held, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all, len(s.waiting.all)
}

// acquire reserves a slot. stranger says that no credential was presented. over is the error
// of a cap that is exceeded, or nil. l is nil if over is not, except with ReportOnly.
func (s *slots) acquire(who client, stranger bool, cfg CapConfig, g *gauges) (l *Lease, over error) {
	l = &Lease{slots: s, client: who.key(), stranger: stranger}
	l.network, _ = who.network()
	s.mu.Lock()
	defer s.mu.Unlock()
	g.note(limitConns, s.all+1)
	g.note(limitUsers, s.clients[l.client]+1)
	if stranger {
		g.note(limitStrangers, s.strangers[l.client]+1)
	}
	if l.network.IsValid() {
		g.note(limitNetwork, s.networks[l.network]+1)
	}
	if over = s.over(l, 1, cfg); over != nil && !cfg.ReportOnly {
		return nil, over
	}
	s.all++
	s.clients[l.client]++
	if stranger {
		s.strangers[l.client]++
	}
	if l.network.IsValid() {
		s.networks[l.network]++
	}
	return l, over
}

// over returns the error of the cap that more further slots of l's client would exceed, or
// nil. The caller holds mu.
func (s *slots) over(l *Lease, more int, cfg CapConfig) error {
	switch {
	case cfg.MaxConns > 0 && s.all+more > cfg.MaxConns:
		return denyOver(reason.MaxConns, "", limitConns)
	case cfg.MaxConnsPerClient > 0 && l.stranger && s.strangers[l.client]+more > cfg.MaxConnsPerClient:
		return denyOver(reason.MaxClientConns, "", limitStrangers)
	case cfg.MaxUsersPerClient > 0 && s.clients[l.client]+more > cfg.MaxUsersPerClient:
		d := denyOver(reason.MaxClientConns, "of all its users", limitUsers)
		d.blameless = true
		return d
	case cfg.MaxConnsPerNetwork > 0 && l.network.IsValid() && s.networks[l.network]+more > cfg.MaxConnsPerNetwork:
		d := denyOver(reason.MaxClientConns, "of its /48", limitNetwork)
		d.blameless = true
		return d
	}
	return nil
}

// Lease is a slot that [ConnCap.Acquire] has reserved. The caller must call Release.
type Lease struct {
	slots   *slots       // read-only
	client  clientKey    // read-only
	network netip.Prefix // read-only; not valid: none

	subject  string // guarded by slots.mu: the subject that the slot counts for; empty: none
	stranger bool   // guarded by slots.mu: strangers counts the lease
	moved    bool   // guarded by slots.mu: a Conn owns the lease, and not the handshake or piece that reserved it
	conn     *Conn  // guarded by slots.mu: the Conn that owns the lease and can be ended; nil: none
	released bool   // guarded by slots.mu

	tenancy *tenancy // guarded by slots.mu: the slots in the shared store; nil: none
}

// lock locks the slots, and returns the function that unlocks them.
func (l *Lease) lock() (s *slots, unlock func()) {
	l.slots.mu.Lock()
	return l.slots, l.slots.mu.Unlock
}

// bind counts the lease for a subject as well. It does nothing if the lease is bound to that
// subject already, or if subject is "", which is anonymous. If the subject has as many
// connections as it may have, and cfg has ReplaceOldest, the lease may replace the oldest of them.
// replaceOldest does that.
func (l *Lease) bind(subject string, cfg CapConfig, g *gauges) (over error) {
	s, unlock := l.lock()
	defer unlock()
	if subject == "" || l.subject == subject || l.released {
		return nil
	}
	l.unbind() // a piece in front has found another subject
	p := s.subjects[subject]
	if p == nil {
		p = &party{}
	}
	g.note(limitSubject, len(p.leases)+1)
	if cfg.MaxConnsPerSubject > 0 && len(p.leases) >= cfg.MaxConnsPerSubject {
		if cfg.ReplaceOldest && !cfg.ReportOnly && p.mayReplace() {
			p.replacing = l
		} else if over = denyOver(reason.MaxSubjectConns, "", limitSubject); !cfg.ReportOnly {
			return over
		}
	}
	s.subjects[subject] = p
	p.leases = append(p.leases, l)
	l.subject = subject
	l.known()
	return over
}

// replaceEvery is the shortest time between two replacements of a subject's connections. Two
// clients that replace each other would otherwise do so without a pause.
const replaceEvery = 2 * time.Second

// mayReplace reports whether a newcomer may replace a connection of the subject.
func (p *party) mayReplace() bool {
	return p.replacing == nil && time.Since(p.replaced) >= replaceEvery && slices.ContainsFunc(p.leases, func(l *Lease) bool { return l.conn != nil })
}

// replaceOldest ends that the oldest connection of the subject counts for it, if bind has let
// the lease replace it. It returns that connection, which the caller must end, or nil. The
// connection keeps its slot until its handler has returned.
func (l *Lease) replaceOldest() *Conn {
	s, unlock := l.lock()
	defer unlock()
	p := s.subjects[l.subject]
	if p == nil || p.replacing != l {
		return nil
	}
	p.replacing = nil
	return p.makeRoom(func(old *Lease) bool { return old != l && old.conn != nil })
}

// makeRoom ends that the oldest connection for which may returns true counts for its subject, and
// returns that connection, or nil. The caller holds slots.mu.
func (p *party) makeRoom(may func(*Lease) bool) *Conn {
	i := slices.IndexFunc(p.leases, may)
	if i < 0 { // all have ended meanwhile
		return nil
	}
	p.replaced = time.Now()
	old := p.leases[i]
	old.unbind()
	return old.conn
}

// overSubject returns the error of MaxConnsPerSubject if its subject has more than most connections.
func (l *Lease) overSubject(most int) error {
	s, unlock := l.lock()
	defer unlock()
	if p := s.subjects[l.subject]; p == nil || len(p.leases) <= most || p.replacing == l {
		return nil
	}
	return denyOver(reason.MaxSubjectConns, "", limitSubject)
}

// oldest ends that the oldest connection of a subject counts for it, and returns that connection,
// which the caller must end. It returns nil if the subject has none that was opened before a time.
func (s *slots) oldest(subject string, before time.Time) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.subjects[subject]
	if p == nil {
		return nil
	}
	return p.makeRoom(func(l *Lease) bool { return l.conn != nil && l.conn.opened.Before(before) })
}

// replaceAnyway lets the lease replace the oldest connection of its subject, because the subject
// has all of its slots in the shared store. It returns false if there is none to replace here.
func (l *Lease) replaceAnyway() bool {
	s, unlock := l.lock()
	defer unlock()
	p := s.subjects[l.subject]
	if p == nil || !p.mayReplace() {
		return false
	}
	p.replacing = l
	return true
}

// replaces reports whether the lease may replace the oldest of its subject.
func (l *Lease) replaces() bool {
	s, unlock := l.lock()
	defer unlock()
	p := s.subjects[l.subject]
	return p != nil && p.replacing == l
}

// tenant returns the tenancy of the lease, and makes it if there is none.
func (l *Lease) tenant(k *keeper) *tenancy {
	_, unlock := l.lock()
	defer unlock()
	if l.tenancy == nil {
		l.tenancy = &tenancy{k: k, over: l.released}
	}
	return l.tenancy
}

// unbind ends that the lease counts for its subject. The caller holds slots.mu.
func (l *Lease) unbind() {
	p := l.slots.subjects[l.subject]
	if p == nil {
		return
	}
	if p.replacing == l {
		p.replacing = nil
	}
	p.leases = slices.DeleteFunc(p.leases, func(other *Lease) bool { return other == l })
	if len(p.leases) == 0 {
		delete(l.slots.subjects, l.subject)
	}
	l.tenancy.drop(scopeSubject + l.subject)
	l.subject = ""
}

// disown undoes bind for a lease that counted as a stranger's before.
func (l *Lease) disown() {
	s, unlock := l.lock()
	defer unlock()
	l.unbind()
	if !l.stranger && !l.released {
		l.stranger = true
		s.strangers[l.client]++
	}
}

// known ends that the lease counts as a stranger's. The caller holds slots.mu.
func (l *Lease) known() {
	if l.stranger {
		l.stranger = false
		down(l.slots.strangers, l.client)
	}
}

// anonymous counts the lease as a stranger's although a credential was presented, because the
// credential was refused and the refusal only reported.
func (l *Lease) anonymous(cfg CapConfig, g *gauges) (over error) {
	s, unlock := l.lock()
	defer unlock()
	if l.stranger || l.subject != "" || l.released {
		return nil
	}
	l.stranger = true
	s.strangers[l.client]++
	g.note(limitStrangers, s.strangers[l.client])
	if cfg.MaxConnsPerClient > 0 && s.strangers[l.client] > cfg.MaxConnsPerClient {
		over = denyOver(reason.MaxClientConns, "", limitStrangers)
	}
	return over
}

// over returns the error of the cap of cfg that is exceeded, or nil. The lease is counted
// already.
func (l *Lease) over(cfg CapConfig) error {
	s, unlock := l.lock()
	defer unlock()
	return s.over(l, 0, cfg)
}

// Release gives the slot back. Further calls do nothing. Many goroutines may call it at the
// same time.
func (l *Lease) Release() {
	s, unlock := l.lock()
	defer unlock()
	if l.released {
		return
	}
	l.released, l.conn = true, nil
	l.tenancy.release()
	s.waiting.remove(l)
	s.all--
	down(s.clients, l.client)
	if l.network.IsValid() {
		down(s.networks, l.network)
	}
	l.unbind()
	l.known()
}

func down[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}

// move hands the lease to a Conn. The piece that has reserved it no longer releases it.
func (l *Lease) move() {
	_, unlock := l.lock()
	defer unlock()
	l.moved = true
}

// opened says that the Conn that owns the lease has started, so that it can be ended.
func (l *Lease) opened(c *Conn) {
	_, unlock := l.lock()
	defer unlock()
	if !l.released {
		l.conn = c
	}
}

func (l *Lease) releaseUnlessMoved() {
	_, unlock := l.lock()
	moved := l.moved
	unlock()
	if !moved {
		l.Release()
	}
}

package wsguard

import (
	"net/http"
	"net/netip"
	"sync"

	"github.com/wsguard/wsguard/reason"
)

// CapConfig bounds how many connections there are. In each field 0 is the default and Off
// is no limit. The guard reserves a slot before the upgrade. It releases the slot when the
// connection has ended and its handler has returned.
type CapConfig struct {
	// MaxConns is how many connections there may be. The default is 10,000, and Off is no
	// limit. Further handshakes get a 503 max_conns.
	MaxConns int

	// MaxConnsPerClient is how many connections without a subject one client may have. A
	// client is an IPv4 address, an IPv6 /64 or the name that Proxies.ClientName returns. A
	// connection has no subject if it is anonymous, or while it waits for a credential in its
	// first message. The default is 64, or MaxUsersPerClient if that is less. Off is no
	// limit. Further handshakes of the client get a 429 max_client_conns.
	MaxConnsPerClient int

	// MaxUsersPerClient is how many connections one client may have in all, with a subject or
	// without. Many people may share one address. The default is 1,024, which is 16 times the
	// default of MaxConnsPerClient. If only MaxConnsPerClient is set, the default is the same
	// number, or Off. Off is no limit. A value below MaxConnsPerClient is an error. Further
	// handshakes of the client get a 429 max_client_conns.
	MaxUsersPerClient int

	// MaxConnsPerNetwork is how many connections an IPv6 /48 may have. The default is 1,024,
	// and Off is no limit. Further handshakes of the network get a 429 max_client_conns.
	MaxConnsPerNetwork int

	// MaxConnsPerSubject is how many connections one subject may have. Anonymous connections
	// have no subject. The default is 16, and Off is no limit. Further handshakes of the
	// subject get a 429 max_subject_conns. If the credential comes in the first message, the
	// guard closes the connection with 1013 instead.
	MaxConnsPerSubject int

	// MaxUnauthenticated is how many connections may wait for a credential in their first
	// message. A client, and an IPv6 /48, may hold a quarter of these places, and at least 4.
	// Its further handshakes get a 429. When all places are taken, a newcomer takes the place
	// of a connection that has been silent for 3 seconds and whose client holds more than its
	// fair share, which is the places divided by the clients that wait. That connection is
	// closed with 1013. The default is a tenth of MaxConns, or 1,000 if that is Off. Off is no limit.
	// Further handshakes without a credential get a 503 max_conns.
	MaxUnauthenticated int

	// ReportOnly reports a connection that exceeds a cap, and admits it. The default is false.
	ReportOnly bool
}

func (cfg CapConfig) resolve(f *faults) CapConfig {
	c := CapConfig{
		MaxConns:           limit(cfg.MaxConns, 10_000, "Caps.MaxConns", f),
		MaxConnsPerNetwork: limit(cfg.MaxConnsPerNetwork, 1024, "Caps.MaxConnsPerNetwork", f),
		MaxConnsPerSubject: limit(cfg.MaxConnsPerSubject, 16, "Caps.MaxConnsPerSubject", f),
		ReportOnly:         cfg.ReportOnly,
	}
	each, users := 64, 1024
	switch {
	case cfg.MaxConnsPerClient > 0:
		users = cfg.MaxConnsPerClient
	case cfg.MaxConnsPerClient == Off:
		users = 0
	case cfg.MaxUsersPerClient > 0:
		each = min(each, cfg.MaxUsersPerClient)
	}
	c.MaxConnsPerClient = limit(cfg.MaxConnsPerClient, each, "Caps.MaxConnsPerClient", f)
	c.MaxUsersPerClient = limit(cfg.MaxUsersPerClient, users, "Caps.MaxUsersPerClient", f)
	if c.MaxUsersPerClient > 0 && c.MaxUsersPerClient < c.MaxConnsPerClient {
		f.add("Caps.MaxUsersPerClient", c.MaxUsersPerClient, "must not be less than MaxConnsPerClient, whose connections count here too")
	}
	waiting := 1000
	if c.MaxConns > 0 {
		waiting = max(1, c.MaxConns/10)
	}
	c.MaxUnauthenticated = limit(cfg.MaxUnauthenticated, waiting, "Caps.MaxUnauthenticated", f)
	return c
}

// slots counts the connections of a State. Each call brings its limits. A connection that
// exceeds them under CapConfig.ReportOnly is counted too.
type slots struct {
	mu        sync.Mutex           // a Lease's mu may be held; no other lock is taken while it is held
	all       int                  // guarded by mu
	waiting   waiters              // guarded by mu: those that owe a first message
	clients   map[clientKey]int    // guarded by mu: all connections of a client
	strangers map[clientKey]int    // guarded by mu: those of clients without a subject
	networks  map[netip.Prefix]int // guarded by mu
	subjects  map[string]int       // guarded by mu
}

func newSlots() *slots {
	return &slots{clients: map[clientKey]int{}, strangers: map[clientKey]int{}, networks: map[netip.Prefix]int{}, subjects: map[string]int{}}
}

// held returns how many slots are held.
func (s *slots) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// acquire reserves a slot. stranger says that no credential was presented. over is the error
// of a cap that is exceeded, or nil. l is nil if over is not, except with ReportOnly.
func (s *slots) acquire(who client, stranger bool, cfg CapConfig) (l *Lease, over error) {
	l = &Lease{slots: s, client: who.key(), stranger: stranger}
	l.network, _ = who.network()
	s.mu.Lock()
	defer s.mu.Unlock()
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
// nil. The caller holds mu, and l.mu if others know l.
func (s *slots) over(l *Lease, more int, cfg CapConfig) error {
	switch {
	case cfg.MaxConns > 0 && s.all+more > cfg.MaxConns:
		return deny(reason.MaxConns, "")
	case cfg.MaxConnsPerClient > 0 && l.stranger && s.strangers[l.client]+more > cfg.MaxConnsPerClient:
		return deny(reason.MaxClientConns, "")
	case cfg.MaxUsersPerClient > 0 && s.clients[l.client]+more > cfg.MaxUsersPerClient:
		d := deny(reason.MaxClientConns, "of all its users")
		d.blameless = true
		return d
	case cfg.MaxConnsPerNetwork > 0 && l.network.IsValid() && s.networks[l.network]+more > cfg.MaxConnsPerNetwork:
		d := deny(reason.MaxClientConns, "of its /48")
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

	mu       sync.Mutex // slots.mu may be taken while it is held
	subject  string     // guarded by mu: the subject that the slot counts for; empty: none
	stranger bool       // guarded by mu: strangers counts the lease
	moved    bool       // guarded by mu: a Conn owns the lease
	released bool       // guarded by mu
}

// bind counts the lease for a subject as well. It does nothing if the lease is bound to that
// subject already, or if subject is "", which is anonymous.
func (l *Lease) bind(subject string, cfg CapConfig) (over error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if subject == "" || l.subject == subject || l.released {
		return nil
	}
	s := l.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.subject != "" {
		down(s.subjects, l.subject) // a piece in front has found another subject
		l.subject = ""
	}
	if cfg.MaxConnsPerSubject > 0 && s.subjects[subject] >= cfg.MaxConnsPerSubject {
		over = deny(reason.MaxSubjectConns, "")
		if !cfg.ReportOnly {
			return over
		}
	}
	s.subjects[subject]++
	l.subject = subject
	l.known()
	return over
}

// known ends that the lease counts as a stranger's. The caller holds both locks.
func (l *Lease) known() {
	if l.stranger {
		l.stranger = false
		down(l.slots.strangers, l.client)
	}
}

// anonymous counts the lease as a stranger's although a credential was presented, because the
// credential was refused and the refusal only reported.
func (l *Lease) anonymous(cfg CapConfig) (over error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stranger || l.subject != "" || l.released {
		return nil
	}
	s := l.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	l.stranger = true
	s.strangers[l.client]++
	if cfg.MaxConnsPerClient > 0 && s.strangers[l.client] > cfg.MaxConnsPerClient {
		over = deny(reason.MaxClientConns, "")
	}
	return over
}

// over returns the error of the cap of cfg that is exceeded, or nil. The lease is counted
// already.
func (l *Lease) over(cfg CapConfig) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots.mu.Lock()
	defer l.slots.mu.Unlock()
	return l.slots.over(l, 0, cfg)
}

// Release gives the slot back. Further calls do nothing. Many goroutines may call it at the
// same time.
func (l *Lease) Release() {
	l.authenticated()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return
	}
	l.released = true
	s := l.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	down(s.clients, l.client)
	if l.network.IsValid() {
		down(s.networks, l.network)
	}
	if l.subject != "" {
		down(s.subjects, l.subject)
	}
	l.known()
}

func down[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}

// move hands the lease to a Conn. The piece that has reserved it no longer releases it.
func (l *Lease) move() {
	l.mu.Lock()
	l.moved = true
	l.mu.Unlock()
}

func (l *Lease) releaseUnlessMoved() {
	l.mu.Lock()
	moved := l.moved
	l.mu.Unlock()
	if !moved {
		l.Release()
	}
}

// ConnCap limits how many connections there are. [NewConnCap] makes one that stands alone, and
// [Guard.Pieces] returns that of a Guard. Many goroutines may use it at the same time.
type ConnCap struct{ g *Guard }

// NewConnCap returns a cap that can stand in front of any handler. A ConnCap that is
// returned with an error refuses every request.
func NewConnCap(cfg CapConfig, proxies Proxies) (*ConnCap, error) {
	var f faults
	p := alone(proxies.resolver(&f))
	p.caps = cfg.resolve(&f)
	err := f.err()
	if err != nil {
		p.broken = reason.MaxConns
	}
	return &ConnCap{standAlone(p)}, err
}

// Acquire reserves a slot for the client of r, even if r has one already. The caller must call
// Release of the Lease. The error wraps reason.MaxConns, reason.MaxClientConns,
// reason.ClientAddress or reason.Unavailable.
func (c *ConnCap) Acquire(r *http.Request) (*Lease, error) {
	a := c.g.endpoint.admission(r)
	a.marks.leases = nil // other callers own those
	err := a.run([]step{addressStep, slotStep})
	if err != nil {
		a.unwind()
		return nil, err
	}
	return a.lease, nil
}

// Handler reserves a slot and calls next, or answers 503 or 429 if a cap is exceeded. It
// releases the slot when next has returned. If a Guard in next accepts the request, the slot
// stays reserved until the Conn ends. Behind an [Authenticator]'s Handler, the cap of the
// subject applies too.
func (c *ConnCap) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := c.g.endpoint.admission(r)
		if a.passed(stepSlot) {
			next.ServeHTTP(w, r)
			return
		}
		defer a.unwind()
		if !a.piece(w, []step{addressStep, askOriginStep, slotStep, knownSubjectStep}) {
			return
		}
		m := a.pass(r, stepSlot)
		m.leases = a.leases
		next.ServeHTTP(w, m.on(r))
	})
}

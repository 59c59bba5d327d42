package wsguard

import (
	"net/http"

	"github.com/wsguard/wsguard/reason"
)

// CapConfig bounds how many connections there are. In each field 0 is the default and Off
// is no limit. The guard reserves a slot before the upgrade. It releases the slot when the
// connection has ended and its handler has returned.
type CapConfig struct {
	// MaxConns is how many connections there may be. The default is 10,000, and Off is no
	// limit. Further handshakes get a 503 max_conns.
	MaxConns int

	// MaxConnsPerClient is how many connections without a subject one client may have. A client
	// is an IPv4 address, an IPv6 /64 or the name that Proxies.ClientName returns. A connection
	// has no subject if it is anonymous, or while it waits for a credential in its first
	// message. The default is 64, or MaxUsersPerClient if that is less. Off is no limit. When
	// the client has that many, its handshakes that present no credential get a 429
	// max_client_conns. The limit of all connections of a client is MaxUsersPerClient.
	MaxConnsPerClient int

	// MaxUsersPerClient is how many connections one client may have in all, with a subject or
	// without. It counts connections, and not users. The default is 1,024. If MaxConnsPerClient
	// is set and MaxUsersPerClient is not, the default is the value of MaxConnsPerClient. Off is
	// no limit. A value below MaxConnsPerClient is an error. Further handshakes of the client
	// get a 429 max_client_conns. Raise MaxUsersPerClient if many people share one address.
	MaxUsersPerClient int

	// MaxConnsPerNetwork is how many connections an IPv6 /48 may have. The default is 1,024,
	// and Off is no limit. Further handshakes of the network get a 429 max_client_conns.
	MaxConnsPerNetwork int

	// MaxConnsPerSubject is how many connections one subject may have. Anonymous connections
	// have no subject. The default is 16, and Off is no limit. Further handshakes of the
	// subject get a 429 max_subject_conns. If the credential comes in the first message, the
	// guard closes the connection with 1013 instead.
	MaxConnsPerSubject int

	// ReplaceOldest lets a new connection of a subject take the place of its oldest one. That
	// happens when the subject has MaxConnsPerSubject connections, and one more handshake has
	// passed every check, Attach included. The guard closes the oldest connection with 1008
	// replaced. The handler of that connection counts in MaxConns until it returns. The guard
	// replaces a connection of a subject at most once in 2 seconds. A handshake that comes
	// earlier gets a 429 max_subject_conns. NewConnCap refuses ReplaceOldest, because only a
	// Guard can end a connection. The default is false.
	//
	// With SharedConfig.Slots, the oldest connection of the subject at the same instance is
	// replaced. If it has none there, the handshake gets a 429 max_subject_conns. There is one
	// exception. If MaxConnsPerSubject is 1 and SharedConfig.Revocations is set, the connection at
	// another instance is replaced.
	ReplaceOldest bool

	// MaxUnauthenticated is how many connections may wait for a credential in their first
	// message. The default is a tenth of MaxConns, or 1,000 if MaxConns is Off. Off is no limit.
	// Further handshakes without a credential get a 503 max_conns.
	//
	// One client may hold a quarter of these places, and at least 4. The same holds for an IPv6
	// /48. Its further handshakes without a credential get a 429 max_client_conns.
	//
	// When all places are taken, a newcomer may take the place of a waiting connection. The
	// fair share of a client is the number of places divided by the number of clients that
	// wait. The guard looks at the client that holds the most places. If that client holds
	// more than its fair share, and its oldest waiting connection has waited for at least 3
	// seconds, the guard closes that connection with 1013 max_conns. Otherwise the newcomer is
	// refused.
	MaxUnauthenticated int

	// ReportOnly reports a connection that exceeds one of these caps, and admits it. It closes
	// no other connection for it, even with ReplaceOldest. The default is false.
	ReportOnly bool
}

func (cfg CapConfig) resolve(f *faults) CapConfig {
	c := CapConfig{
		MaxConns:           limit(cfg.MaxConns, 10_000, "Caps.MaxConns", f),
		MaxConnsPerNetwork: limit(cfg.MaxConnsPerNetwork, 1024, "Caps.MaxConnsPerNetwork", f),
		MaxConnsPerSubject: limit(cfg.MaxConnsPerSubject, 16, "Caps.MaxConnsPerSubject", f),
		ReplaceOldest:      cfg.ReplaceOldest,
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

// ConnCap limits how many connections there are. [NewConnCap] makes one that stands alone, and
// [Guard.Pieces] returns that of a Guard. Many goroutines may use it at the same time.
type ConnCap struct{ g *Guard }

// NewConnCap returns a cap that can stand in front of any handler. It uses the fields Caps,
// Observe, LoopbackOnly, Proxies, Logger, OnEvent, Observer, Name, RequestID and State of cfg. A
// ConnCap that is returned with an error refuses every request.
func NewConnCap(cfg Config) (*ConnCap, error) {
	var f faults
	p := alone(cfg, &f)
	cfg = cfg.observed()
	p.caps = cfg.Caps.resolve(&f)
	if cfg.Caps.ReplaceOldest {
		f.add("Caps.ReplaceOldest", "", "needs a Guard")
	}
	err := f.err()
	if err != nil {
		p.broken = reason.MaxConns
	}
	return &ConnCap{standAlone(p, cfg)}, err
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

// Handler reserves a slot and calls next. It answers 503 or 429 if a cap is exceeded, and
// 403 if the address of the client is not known. It releases the slot when next has
// returned. If a Guard in next accepts the request, the slot stays reserved until the Conn
// ends. Behind an [Authenticator]'s Handler, the cap of the subject applies too.
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

package wsguard

import (
	"sync"
	"sync/atomic"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/penalty"
	"github.com/wsguard/wsguard/internal/seen"
)

// State holds the counters of a Guard, which last while it is reconfigured. These are
// connection slots, handshakes in flight, the buckets of clients and subjects, failed
// credentials, bans, revocations, and tickets. Each Guard has one State. Guards that are
// given the same State in [Config] share these counters, and a Revoke or a Ban of one holds
// for all of them. Each Guard keeps its own limits.
//
// Send queues and Shutdown are not shared. Each Guard shuts down its own connections.
//
// Share a State only between Guards that trust each other's users. A ticket that one of them
// has issued is accepted by all, with the Principal that the login of the first has
// returned. The Guards should have the same rates, because each of them refills a shared
// bucket at its own rate.
type State struct {
	// Read-only after NewState. Each part has a lock of its own.
	slots    *slots
	inFlight *counter
	asking   *counter // calls of OriginFunc
	rates    buckets
	accepted *seen.Memory // credentials that were accepted
	lately   *seen.Recent // credentials that were accepted lately
	rejected *seen.Memory // credentials that were refused, each for one client
	again    *counter     // clients over their failures that present an accepted credential
	verified verified     // has a lock of its own
	tickets  *tickets
	bans     *penalty.Box
	registry *registry

	revalidations revalidations
	explained     atomic.Int64 // how many refusals are being answered with a close code

	joining sync.Mutex // shared.mu may be taken while it is held
	shared  *shared    // guarded by joining; nil: no Guard shares anything with other instances
}

// buckets are the buckets of clients and subjects. Each call of a table brings its limits.
type buckets struct {
	handshakes *keyed.Table // handshakes of a client
	networks   *keyed.Table // handshakes of an IPv6 /48
	clients    *keyed.Table // messages and bytes of a client
	subjects   *keyed.Table // messages and bytes of a subject
	failures   *keyed.Table // failures of a client, of a /48, of a subject, and of a credential
	tickets    *keyed.Table // failed tickets of a client, of a /48, and of a ticket
	violations *keyed.Table // weight of the violations of a client
}

// NewState returns a State for Guards to share.
func NewState() *State {
	s := &State{
		slots:    newSlots(),
		inFlight: newCounter(),
		asking:   newCounter(),
		rates: buckets{
			handshakes: keyed.New(tableKeys), networks: keyed.New(tableKeys),
			clients: keyed.New(tableKeys), subjects: keyed.New(tableKeys),
			failures: keyed.New(tableKeys), tickets: keyed.New(tableKeys), violations: keyed.New(tableKeys),
		},
		accepted: seen.New(rememberAccepted),
		lately:   seen.NewRecent(rememberAccepted),
		rejected: seen.New(rememberRejected),
		again:    newCounter(),
		tickets:  newTickets(),
		bans:     penalty.New(maxBans),
		registry: newRegistry(),
	}
	return s
}

// evicted returns how many buckets have been forgotten although they were not full.
func (s *State) evicted() (n uint64) {
	b := &s.rates
	for _, t := range []*keyed.Table{b.handshakes, b.networks, b.clients, b.subjects, b.failures, b.tickets, b.violations} {
		n += t.Evicted()
	}
	return n
}

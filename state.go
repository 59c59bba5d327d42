package wsguard

import (
	"sync/atomic"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/penalty"
	"github.com/wsguard/wsguard/internal/seen"
)

// State is what lasts while a Guard is reconfigured: connection slots, handshakes in
// flight, what clients and subjects owe to their rates, failed credentials, bans,
// revocations, and tickets. Each Guard has one. Guards that are given the same State in
// [Config] count together, and a Revoke or a Ban of one holds for all of them. The limits
// are each Guard's own.
//
// Send queues and Shutdown are not shared. Each Guard shuts down its own connections.
//
// Share a State only between Guards that trust each other's users: a ticket that one of
// them sells is accepted by the others with the Principal of the seller. They should have
// the same rates, because the Guard that charges a bucket pays off its debt at its own rate.
type State struct {
	slots    *slots
	inFlight *counter
	rates    buckets
	accepted *seen.Memory // credentials that were accepted
	verified verified
	tickets  *tickets
	bans     *penalty.Box
	registry *registry

	revalidating chan struct{} // a place for each Revalidate that runs
	explained    atomic.Int64  // refusals that are being told after an upgrade
}

// buckets are what clients and subjects owe. Each table has limits of its own, which come
// with each call.
type buckets struct {
	handshakes *keyed.Table // of a client
	networks   *keyed.Table // of an IPv6 /48: its handshakes
	clients    *keyed.Table // messages and bytes
	subjects   *keyed.Table // messages and bytes
	failures   *keyed.Table // of a client, and of a credential
	violations *keyed.Table // of a client, by weight
}

// NewState returns a State for Guards to share.
func NewState() *State {
	s := &State{
		slots:    newSlots(),
		inFlight: newCounter(),
		rates: buckets{
			handshakes: keyed.New(tableKeys), networks: keyed.New(tableKeys),
			clients: keyed.New(tableKeys), subjects: keyed.New(tableKeys),
			failures: keyed.New(tableKeys), violations: keyed.New(tableKeys),
		},
		accepted:     seen.New(),
		tickets:      newTickets(),
		bans:         penalty.New(maxBans),
		registry:     newRegistry(),
		revalidating: make(chan struct{}, maxRevalidating),
	}
	return s
}

// evicted is how many buckets have been forgotten although they were not full.
func (s *State) evicted() (n uint64) {
	b := &s.rates
	for _, t := range []*keyed.Table{b.handshakes, b.networks, b.clients, b.subjects, b.failures, b.violations} {
		n += t.Evicted()
	}
	return n
}

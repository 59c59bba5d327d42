package wsguard

import (
	"maps"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/tally"
	"github.com/wsguard/wsguard/reason"
)

// meter counts what a Guard does. What is counted for each message is atomic and sharded, and
// each connection counts in one shard. What is counted for each event is guarded by a lock.
type meter struct {
	shards []meterShard  // read-only; a power of two of them
	next   atomic.Uint32 // the shard of the next connection

	handshakes  tally.Histogram // microseconds
	connections tally.Histogram // microseconds
	pings       tally.Histogram // microseconds

	gauges *gauges // read-only; its fields are atomic

	mu         sync.Mutex        // no other lock is taken while it is held
	accepted   uint64            // guarded by mu
	sold       uint64            // guarded by mu
	refreshes  uint64            // guarded by mu
	banned     uint64            // guarded by mu
	revoked    uint64            // guarded by mu
	refused    map[string]uint64 // guarded by mu, like the maps below
	reported   map[string]uint64
	closed     map[audit.Closing]uint64
	violations map[audit.Offence]uint64
	warnings   map[string]uint64
	own        map[string]struct{} // the tokens of the application's reasons that are counted by their names
}

// meterShard is a part of a meter.
type meterShard struct {
	in        tally.Histogram // payload bytes of the messages that the application got
	out       atomic.Uint64   // messages that the application has sent
	outBytes  atomic.Uint64
	queued    atomic.Int64  // messages in the queues
	dropped   atomic.Uint64 // messages that queues have dropped or refused
	unnoticed atomic.Uint64 // notices that were omitted
	_         [64]byte      // a cache line of distance to the next shard
}

// maxShards bounds the shards of a meter, and maxOwn the tokens of the application's reasons that
// are counted by their names.
const (
	maxShards = 64
	maxOwn    = 64
)

// known has the tokens of package reason.
var known = func() map[string]bool {
	tokens := map[string]bool{}
	for _, r := range reason.All() {
		tokens[r.Token()] = true
	}
	return tokens
}()

// other stands for the tokens that are not counted by their names.
const other = "other"

func newMeter() *meter {
	n := min(maxShards, 1<<bits.Len(uint(runtime.GOMAXPROCS(0)-1)))
	return &meter{
		shards: make([]meterShard, n), refused: map[string]uint64{}, reported: map[string]uint64{}, closed: map[audit.Closing]uint64{},
		gauges: newGauges(), violations: map[audit.Offence]uint64{}, warnings: map[string]uint64{}, own: map[string]struct{}{},
	}
}

// shard returns the shard in which a new connection counts.
func (m *meter) shard() *meterShard { return &m.shards[m.next.Add(1)&uint32(len(m.shards)-1)] }

// microseconds returns d for a Histogram.
func microseconds(d time.Duration) uint64 { return uint64(max(0, d.Microseconds())) }

// count counts an event. It returns the token under which a Refusal or a Violation counts as a
// refusal of the client, and "" for all other events.
func (m *meter) count(e *audit.Event) (refusal string) {
	switch e.Kind {
	case audit.Accepted, audit.Refusal:
		m.handshakes.Add(microseconds(e.Duration))
	case audit.Close:
		m.connections.Add(microseconds(e.Duration))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Kind {
	case audit.Accepted:
		m.accepted++
	case audit.Refusal:
		refusal = m.name(e)
		m.refused[refusal]++
	case audit.Violation:
		refusal = m.name(e)
		if e.ConnID == "" {
			m.reported[refusal]++
		} else {
			m.violations[audit.Offence{Reason: refusal, Action: e.Action}]++
		}
		if e.Action == audit.ActionWarn {
			return "" // nothing was refused
		}
	case audit.Close:
		m.closed[audit.Closing{Reason: m.name(e), By: e.By, Code: registered(e.Code)}]++
	case audit.Banned:
		if !e.Report {
			m.banned++
		}
	case audit.Ticket:
		m.sold++
	case audit.Refresh:
		m.refreshes++
	case audit.Revoked, audit.SignedOut:
		m.revoked++
	case audit.Warning:
		m.warnings[e.Reason]++
	}
	return refusal
}

// refusals returns how many handshakes and messages were refused or only reported, by reason. The
// caller holds mu.
func (m *meter) refusals() map[string]uint64 {
	all := maps.Clone(m.refused)
	for token, n := range m.reported {
		all[token] += n
	}
	for o, n := range m.violations {
		if o.Action != audit.ActionWarn {
			all[o.Reason] += n
		}
	}
	return all
}

// name returns the token under which an event counts. There are no more of them than there are
// reasons of package reason, and maxOwn. The caller holds mu.
func (m *meter) name(e *audit.Event) string {
	if known[e.Reason] {
		return e.Reason
	}
	if _, known := m.own[e.Reason]; !known {
		if len(m.own) >= maxOwn {
			return other
		}
		m.own[e.Reason] = struct{}{}
	}
	return e.Reason
}

// registered returns a close code that is counted by its number, or 0. There are few of them,
// so that a peer cannot make the guard count ever more codes.
func registered(code StatusCode) int {
	if code >= 1000 && code <= 1014 || code == 3000 || code == 3003 || code == 3008 {
		return int(code)
	}
	return 0
}

// partyOf returns the party that has caused the ending.
func partyOf(by ending) audit.Party {
	switch {
	case by.kind == endByPeer:
		return audit.ByPeer
	case by.kind == endLost:
		return audit.ByNetwork
	case by.why == reason.Kicked, by.why == reason.Revoked:
		return audit.ByOperator
	case by.kind == endChosen && by.why == reason.Closed, by.why == reason.HandlerDone, by.why == reason.RequestDone:
		return audit.ByApplication
	case by.flush && (by.why == reason.Internal || by.why.Own()):
		return audit.ByApplication // its handler has returned an error
	}
	return audit.ByGuard
}

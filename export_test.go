package wsguard

import (
	"context"
	"time"

	"github.com/wsguard/wsguard/internal/baseline"
)

// What docs/operators.md says of spikes and of Activity.
var SpikeFloors = spikeFloors

const (
	DefaultSpikeFactor = baseline.DefaultFactor
	KeptEach           = keptEach
	WarnPerSecond      = warnPerSecond
	FullestEach        = fullestEach
	OffenderHalfLife   = offenderHalfLife
	OffenderCounters   = offenderCounters
	ShownInEvent       = shownInEvent
)

// Resolved returns the Config that g works with: each limit has its default, or
// what New was given. A limit without a default is 0, and a rate that is off is
// Rate{PerSecond: Off}.
func (g *Guard) Resolved() Config {
	e := g.endpoint.policy()
	cfg := Config{
		InsecureReportOnlyOrigins: e.origin.report,
		Auth:                      e.auth.cfg,
		Caps:                      e.caps,
		Rates:                     e.rates,
		Penalties:                 e.penalties,
		Messages:                  e.messages,
		Timeouts:                  e.timeouts,
		Send:                      e.send,
		SpikeFactor:               e.spikeFactor,
	}
	cfg.Auth.Tickets = e.auth.tickets
	cfg.Shared.Timeout = defaultTimeout
	return cfg
}

// ResolvedMessages returns the Messages that an endpoint of g works with.
func (g *Guard) ResolvedMessages(endpoint int) MessageConfig {
	return g.policy.Load().endpoints[endpoint].messages
}

// Revalidations returns how many calls of Revalidate have not returned, and how many
// connections wait for a place.
func Revalidations(g *Guard) (running, waiting int) {
	r := &g.state.revalidations
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running, len(r.queue)
}

// Queued returns how much memory the queues of all connections hold.
func (g *Guard) Queued() int64 { return g.queues.total.Load() }

// QueueHolds reports whether the queue of c holds anything, or a goroutine.
func (c *Conn) QueueHolds() bool {
	q := &c.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.head != nil || q.tail != nil || q.fill != nil || q.busy != nil || q.latest != nil || q.waiting != nil ||
		q.draining || q.bytes != 0 || q.memory != 0 || q.weight.Load() != 0
}

// QueueLen returns how many messages are queued.
func (c *Conn) QueueLen() int { return int(c.queue.count.Load()) }

// Suggestible returns the fields that Suggest has suggestions for.
func Suggestible() (fields []string) {
	for _, s := range suggestible {
		fields = append(fields, s.field)
	}
	return fields
}

// NoteUse notes that n of the limit of a field was used, within a second and within a minute if
// the field is a Rate.
func (g *Guard) NoteUse(field string, n uint64) {
	for _, s := range suggestible {
		if s.field != field {
			continue
		}
		switch use := &g.events.meter.gauges[s.limit]; s.limit {
		case limitSize:
			g.events.meter.shards[0].in.Add(n)
		case limitPong:
			g.events.meter.pings.Add(n)
		case limitLifetime:
			g.events.meter.connections.Add(n)
		default:
			use.seen.Add(n)
			if use.minute != nil {
				use.minute.Add(n)
			}
		}
	}
}

// Look lets the sweeper look at what the connections use of their limits.
// conns is memory for it, which Look returns.
func (g *Guard) Look(conns []*Conn) []*Conn { return g.sessions.look(conns) }

// Due lets the sweeper look for connections that are due.
func (g *Guard) Due() { g.sessions.due(nil, nil) }

// Leases returns how many leases a Guard with shared rates has.
func Leases(g *Guard) int { return g.shared.spending.pool.Len() }

// CountInstances makes a Guard count n instances.
func CountInstances(g *Guard, n int) {
	g.shared.mu.Lock()
	defer g.shared.mu.Unlock()
	g.shared.live = n
}

// FirstTakes runs what a handshake does for the messages of a subject.
func FirstTakes(g *Guard, subject string) (taken []int64) {
	asked, of := time.Now(), subjectSpender(subject)
	takes := g.shared.firstTakes(of, g.endpoint.policy().rates)
	for _, t := range takes {
		n, _, err := g.shared.cfg.Rates.TakeTokens(context.Background(), t)
		if err != nil {
			panic(err)
		}
		taken = append(taken, n)
	}
	g.shared.credit(of, takes, taken, asked)
	return taken
}

package wsguard

import (
	"maps"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/tally"
)

// Stats returns the figures of the Guard. It is cheap enough to be called every second, and its
// cost does not grow with the number of connections. Many goroutines may call it at any time.
//
// The figures are read one after the other while the Guard works, so they need not fit together
// exactly. Package contrib/wsguardprom gives them to Prometheus.
func (g *Guard) Stats() audit.Snapshot {
	s := audit.Snapshot{Time: time.Now(), Since: g.born, EventsDropped: g.events.observer.dropped.Load()}
	g.sessions.figures(&s)
	g.events.meter.figures(&s)
	g.events.spikes.figures(&s)
	g.state.figures(&s, g.policy.Load())
	g.shared.figures(&s)
	s.QueuedBytes = g.queues.total.Load()
	g.limits(&s)
	return s
}

// limits adds the limits of the whole server to s.
func (g *Guard) limits(s *audit.Snapshot) {
	p := g.policy.Load()
	s.Limits = append(s.Limits, []audit.Limit{
		{Name: "Caps.MaxConns", Max: int64(p.caps.MaxConns), Used: int64(s.Slots)},
		{Name: "Caps.MaxUnauthenticated", Max: int64(p.caps.MaxUnauthenticated), Used: int64(s.Unauthenticated)},
		{Name: "Rates.MaxInFlight", Max: int64(p.rates.MaxInFlight), Used: int64(s.InFlight)},
		{Name: "Send.MaxTotalBytes", Max: p.send.MaxTotalBytes, Used: s.QueuedBytes},
	}...)
	if t := p.auth.tickets; t != nil {
		s.Limits = append(s.Limits, audit.Limit{Name: "Auth.Tickets.MaxTotal", Max: int64(t.MaxTotal), Used: int64(s.TicketsOutstanding)})
	}
}

func (s *sessions) figures(to *audit.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to.Open, to.Draining = len(s.conns), s.draining
	if s.sweeper != nil && !s.swept.IsZero() {
		to.SweeperLate = max(0, to.Time.Sub(s.swept)-sweepEvery)
	}
}

// figures adds what the meter has counted to s.
func (m *meter) figures(s *audit.Snapshot) {
	var sizes tally.Counts
	for i := range m.shards {
		shard := &m.shards[i]
		sizes.Add(&shard.in)
		s.Out.Messages += shard.out.Load()
		s.Out.Bytes += shard.outBytes.Load()
		s.QueuedMessages += shard.queued.Load()
		s.QueueDropped += shard.dropped.Load()
		s.NoticesOmitted += shard.unnoticed.Load()
	}
	s.QueuedMessages = max(0, s.QueuedMessages) // a shard may have been read before another one
	s.MessageBytes = histogram(&sizes, 1)
	s.In = audit.Traffic{Messages: s.MessageBytes.Count, Bytes: sizes.Sum}
	s.HandshakeSeconds, s.ConnectionSeconds, s.PingSeconds = seconds(&m.handshakes), seconds(&m.connections), seconds(&m.pings)
	m.mu.Lock()
	defer m.mu.Unlock()
	s.HandshakesAccepted, s.TicketsSold, s.Refreshes, s.Banned, s.Revoked = m.accepted, m.sold, m.refreshes, m.banned, m.revoked
	s.HandshakesRefused, s.HandshakesReported, s.Warnings = maps.Clone(m.refused), maps.Clone(m.reported), maps.Clone(m.warnings)
	s.Closed, s.Violations = maps.Clone(m.closed), maps.Clone(m.violations)
}

// seconds returns a Histogram of microseconds in seconds.
func seconds(h *tally.Histogram) audit.Histogram {
	var c tally.Counts
	c.Add(h)
	return histogram(&c, 1e6)
}

// histogram returns c, whose values are divided by unit.
func histogram(c *tally.Counts, unit float64) audit.Histogram {
	h := audit.Histogram{Sum: float64(c.Sum) / unit}
	for i, n := range c.N {
		if n > 0 {
			h.Count += n
			h.Buckets = append(h.Buckets, audit.Bucket{Upper: float64(tally.Upper(i)) / unit, Count: n})
		}
	}
	return h
}

// figures adds what Guards with this State share to s. p says how full a bucket is.
func (st *State) figures(s *audit.Snapshot, p *policy) {
	s.Slots, s.Unauthenticated = st.slots.figures()
	s.InFlight = st.inFlight.held()
	s.TicketsOutstanding = st.tickets.count(s.Time)
	s.Bans = st.bans.Count(s.Time)
	s.Revocations = st.registry.revocations()
	b, r := &st.rates, &p.rates
	s.Tables = map[string]audit.Table{}
	for _, t := range []struct {
		name          string
		table         *keyed.Table
		first, second keyed.Limit
	}{
		{"handshakes", b.handshakes, r.Handshakes.limit(), keyed.Limit{}},
		{"networks", b.networks, r.Handshakes.times(perNetwork).limit(), keyed.Limit{}},
		{"clients", b.clients, r.ClientMessages.limit(), r.ClientBytes.limit()},
		{"subjects", b.subjects, r.SubjectMessages.limit(), r.SubjectBytes.limit()},
		{"failures", b.failures, p.auth.cfg.Failures.limit(), keyed.Limit{}},
		{"tickets", b.tickets, p.auth.cfg.Failures.limit(), keyed.Limit{}},
		{"violations", b.violations, p.penalties.Violations.limit(), keyed.Limit{}},
	} {
		n := t.table.Sample(t.first, t.second, s.Time)
		s.Tables[t.name] = audit.Table{Tracked: n.Keys, Penalised: n.Penalised, Evicted: n.Evicted}
	}
}

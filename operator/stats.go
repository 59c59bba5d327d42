package operator

import (
	"cmp"
	"slices"
	"time"

	"github.com/wsguard/wsguard/audit"
)

// snapshot is an audit.Snapshot in an answer.
type snapshot struct {
	Time               time.Time         `json:"time"`
	Since              time.Time         `json:"since"`
	Draining           bool              `json:"draining"`
	Open               int               `json:"open"`
	Unauthenticated    int               `json:"unauthenticated"`
	InFlight           int               `json:"in_flight"`
	Slots              int               `json:"slots"`
	HandshakesAccepted uint64            `json:"handshakes_accepted"`
	HandshakesRefused  map[string]uint64 `json:"handshakes_refused"`
	HandshakesReported map[string]uint64 `json:"handshakes_reported"`
	Closed             []closing         `json:"closed"`
	In                 traffic           `json:"in"`
	Out                traffic           `json:"out"`
	Violations         []offence         `json:"violations"`
	NoticesOmitted     uint64            `json:"notices_omitted"`
	QueuedMessages     int64             `json:"queued_messages"`
	QueuedBytes        int64             `json:"queued_bytes"`
	QueueDropped       uint64            `json:"queue_dropped"`
	TicketsSold        uint64            `json:"tickets_sold"`
	TicketsOutstanding int               `json:"tickets_outstanding"`
	Refreshes          uint64            `json:"refreshes"`
	Tables             map[string]table  `json:"tables"`
	Bans               int               `json:"bans"`
	Banned             uint64            `json:"banned"`
	Revocations        int               `json:"revocations"`
	Revoked            uint64            `json:"revoked"`
	SweeperLate        float64           `json:"sweeper_late_seconds"`
	Warnings           map[string]uint64 `json:"warnings"`
	EventsDropped      uint64            `json:"events_dropped"`
	Spikes             map[string]uint64 `json:"spikes"`
	Spiking            []spike           `json:"spiking"`
	Limits             []limit           `json:"limits"`
	Shared             *shared           `json:"shared,omitempty"`
	HandshakeSeconds   histogram         `json:"handshake_seconds"`
	ConnectionSeconds  histogram         `json:"connection_seconds"`
	MessageBytes       histogram         `json:"message_bytes"`
	PingSeconds        histogram         `json:"ping_seconds"`
}

// shared has the figures of the stores that instances share.
type shared struct {
	Instances       int     `json:"instances"`
	Lost            bool    `json:"lost"`
	Calls           []calls `json:"calls"`
	LocalDecisions  uint64  `json:"local_decisions"`
	ClosedDecisions uint64  `json:"closed_decisions"`
	HeldMessages    uint64  `json:"held_messages"`
	Slots           int     `json:"slots"`
	RenewalAge      float64 `json:"renewal_age_seconds"`
	MarksAge        float64 `json:"marks_age_seconds"`
	MarksWaiting    int     `json:"marks_waiting"`
}

// calls counts calls of the stores.
type calls struct {
	Operation string `json:"operation"`
	Result    string `json:"result"`
	Count     uint64 `json:"count"`
}

type traffic struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
}

type closing struct {
	Reason string `json:"reason"`
	By     string `json:"by"`
	Code   int    `json:"code"`
	Count  uint64 `json:"count"`
}

type offence struct {
	Reason string `json:"reason"`
	Action string `json:"action"`
	Count  uint64 `json:"count"`
}

type table struct {
	Tracked   int    `json:"tracked"`
	Penalised int    `json:"penalised"`
	Evicted   uint64 `json:"evicted"`
}

type spike struct {
	Of       string    `json:"of"`
	Reason   string    `json:"reason,omitempty"`
	Since    time.Time `json:"since"`
	Rate     float64   `json:"rate"`
	Baseline float64   `json:"baseline"`
}

// histogram has a few quantiles in place of the buckets of an audit.Histogram.
type histogram struct {
	Count       uint64  `json:"count"`
	Sum         float64 `json:"sum"`
	Median      float64 `json:"p50"`
	Ninetieth   float64 `json:"p90"`
	NinetyNinth float64 `json:"p99"`
}

func (h *handler) stats(query) (any, *failure) { return snapshotOf(h.g.Stats()), nil }

func snapshotOf(s audit.Snapshot) snapshot {
	v := snapshot{
		Time: s.Time.UTC(), Since: s.Since.UTC(), Draining: s.Draining, Open: s.Open, Unauthenticated: s.Unauthenticated,
		InFlight: s.InFlight, Slots: s.Slots, HandshakesAccepted: s.HandshakesAccepted,
		HandshakesRefused: s.HandshakesRefused, HandshakesReported: s.HandshakesReported,
		Closed: []closing{}, In: traffic(s.In), Out: traffic(s.Out), Violations: []offence{}, NoticesOmitted: s.NoticesOmitted,
		QueuedMessages: s.QueuedMessages, QueuedBytes: s.QueuedBytes, QueueDropped: s.QueueDropped,
		TicketsSold: s.TicketsSold, TicketsOutstanding: s.TicketsOutstanding, Refreshes: s.Refreshes,
		Tables: tablesOf(s.Tables), Bans: s.Bans, Banned: s.Banned, Revocations: s.Revocations, Revoked: s.Revoked,
		SweeperLate: s.SweeperLate.Seconds(), Warnings: s.Warnings, EventsDropped: s.EventsDropped,
		Spikes: s.Spikes, Spiking: []spike{}, Limits: limitsOf(s.Limits), Shared: sharedOf(s.Shared),
		HandshakeSeconds: histogramOf(s.HandshakeSeconds), ConnectionSeconds: histogramOf(s.ConnectionSeconds),
		MessageBytes: histogramOf(s.MessageBytes), PingSeconds: histogramOf(s.PingSeconds),
	}
	for c, n := range s.Closed {
		v.Closed = append(v.Closed, closing{c.Reason, string(c.By), c.Code, n})
	}
	for o, n := range s.Violations {
		v.Violations = append(v.Violations, offence{o.Reason, string(o.Action), n})
	}
	for _, p := range s.Spiking {
		v.Spiking = append(v.Spiking, spike{p.Of, p.Reason, p.Since.UTC(), p.Rate, p.Baseline})
	}
	slices.SortFunc(v.Closed, func(a, b closing) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.By, b.By), cmp.Compare(a.Code, b.Code))
	})
	slices.SortFunc(v.Violations, func(a, b offence) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Action, b.Action))
	})
	return v
}

// sharedOf returns nil if nothing is shared.
func sharedOf(s audit.Shared) *shared {
	if s.Instances == 0 {
		return nil
	}
	v := &shared{
		Instances: s.Instances, Lost: s.Lost, Calls: []calls{}, LocalDecisions: s.LocalDecisions, ClosedDecisions: s.ClosedDecisions,
		HeldMessages: s.HeldMessages, Slots: s.Slots, RenewalAge: s.RenewalAge.Seconds(), MarksAge: s.MarksAge.Seconds(), MarksWaiting: s.MarksWaiting,
	}
	for c, n := range s.Calls {
		v.Calls = append(v.Calls, calls{c.Operation, c.Result, n})
	}
	slices.SortFunc(v.Calls, func(a, b calls) int {
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Result, b.Result))
	})
	return v
}

func tablesOf(all map[string]audit.Table) map[string]table {
	tables := make(map[string]table, len(all))
	for name, t := range all {
		tables[name] = table(t)
	}
	return tables
}

func histogramOf(h audit.Histogram) histogram {
	return histogram{h.Count, h.Sum, h.Quantile(0.5), h.Quantile(0.9), h.Quantile(0.99)}
}

package wsguardotel

import (
	"cmp"
	"strconv"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// instruments are all instruments. README.md has the same table. The names become those of
// contrib/wsguardprom if a dot becomes an underscore and the unit and _total are appended, as
// Prometheus does with the metrics of OpenTelemetry.
var instruments = []instrument{
	{"wsguard.handshakes", "{handshake}", "Handshakes, by whether they led to a connection.", counter, handshakes},
	{"wsguard.handshakes.rejected", "{handshake}", "Handshakes and requests for tickets that were refused, by reason.", counter,
		reasons(func(s *audit.Snapshot) map[string]uint64 { return s.HandshakesRefused })},
	{"wsguard.handshakes.reported", "{handshake}", "Handshakes that passed only because of report-only mode, by reason.", counter,
		reasons(func(s *audit.Snapshot) map[string]uint64 { return s.HandshakesReported })},
	{"wsguard.handshakes.in_flight", "{handshake}", "Handshakes that wait for a hook of the application.", upDown,
		number(func(s *audit.Snapshot) int { return s.InFlight })},
	{"wsguard.connections", "{connection}", "Open connections.", upDown,
		number(func(s *audit.Snapshot) int { return s.Open })},
	{"wsguard.connections.closed", "{connection}", "Connections that have ended, by who ended them, by reason and by close code.", counter, closed},
	{"wsguard.connection.slots", "{slot}", "Slots that count towards wsguard.connections.limit of the same scope.", upDown, slots},
	{"wsguard.connections.limit", "{connection}", "Limit of connections of a scope. It has no value if there is no limit.", gauge, connectionLimits},
	{"wsguard.messages", "{message}", "Messages that the application got and has sent.", counter,
		directions(func(t audit.Traffic) uint64 { return t.Messages })},
	{"wsguard.message.bytes", "By", "Payload bytes of the messages that the application got and has sent.", counter,
		directions(func(t audit.Traffic) uint64 { return t.Bytes })},
	{"wsguard.messages.rejected", "{message}", "Messages that were refused or reported, by reason and by what the guard did.", counter, violations},
	{"wsguard.notices.omitted", "{notice}", "Notices to peers that were not sent because of a limit.", counter,
		number(func(s *audit.Snapshot) uint64 { return s.NoticesOmitted })},
	{"wsguard.heartbeats.missed", "{connection}", "Connections that have ended because no pong came.", counter,
		func(s *audit.Snapshot, to observer) { to(float64(s.ClosedFor(reason.PongTimeout.Token()))) }},
	{"wsguard.kicks", "{connection}", "Connections that were kicked, revoked, or replaced by a newer one of the subject.", counter, kicks},
	{"wsguard.queue.messages", "{message}", "Messages that wait in the queues of connections.", upDown,
		number(func(s *audit.Snapshot) int64 { return s.QueuedMessages })},
	{"wsguard.queue.bytes", "By", "Memory of the messages that wait in the queues of connections.", upDown,
		number(func(s *audit.Snapshot) int64 { return s.QueuedBytes })},
	{"wsguard.queue.dropped_messages", "{message}", "Messages that queues have dropped or refused.", counter,
		number(func(s *audit.Snapshot) uint64 { return s.QueueDropped })},
	{"wsguard.tickets.sold", "{ticket}", "Tickets that were issued.", counter,
		number(func(s *audit.Snapshot) uint64 { return s.TicketsSold })},
	{"wsguard.tickets.outstanding", "{ticket}", "Tickets that can still be redeemed.", upDown,
		number(func(s *audit.Snapshot) int { return s.TicketsOutstanding })},
	{"wsguard.credentials.refreshed", "{credential}", "Credentials that Conn.Refresh has replaced on open connections.", counter,
		number(func(s *audit.Snapshot) uint64 { return s.Refreshes })},
	{"wsguard.tracked_keys", "{key}", "Clients and subjects that a table remembers.", upDown,
		tables(func(t audit.Table) int { return t.Tracked })},
	{"wsguard.tracked_keys.penalised", "{key}", "Clients and subjects of a table that have exceeded their limit.", upDown,
		tables(func(t audit.Table) int { return t.Penalised })},
	{"wsguard.tracked_keys.evicted", "{key}", "Clients and subjects that a full table has forgotten too early.", counter,
		tables(func(t audit.Table) uint64 { return t.Evicted })},
	{"wsguard.bans", "{ban}", "Bans that have begun.", counter,
		number(func(s *audit.Snapshot) uint64 { return s.Banned })},
	{"wsguard.banned_clients", "{client}", "Clients that are banned.", upDown,
		number(func(s *audit.Snapshot) int { return s.Bans })},
	{"wsguard.revocations", "{revocation}", "Calls of Admin.Revoke and Admin.SignOut.", counter,
		number(func(s *audit.Snapshot) uint64 { return s.Revoked })},
	{"wsguard.revocations.remembered", "{revocation}", "Revocations of subjects and logins that are remembered.", upDown,
		number(func(s *audit.Snapshot) int { return s.Revocations })},
	{"wsguard.store.calls", "{call}", "Calls of the stores that instances share, by operation and result. The metrics wsguard.store.… have no value if no store is shared.", counter, storeCalls},
	{"wsguard.store.lost", "", "1 if calls of the stores fail, so that this instance decides by itself, and 0 otherwise.", gauge,
		ofStores(func(s *audit.Shared) int { return oneIf(s.Lost) })},
	{"wsguard.store.local_decisions", "{decision}", "Decisions that this instance has made by itself because a store had failed.", counter,
		ofStores(func(s *audit.Shared) uint64 { return s.LocalDecisions })},
	{"wsguard.store.refused_decisions", "{decision}", "Decisions that were refusals because a store had failed.", counter,
		ofStores(func(s *audit.Shared) uint64 { return s.ClosedDecisions })},
	{"wsguard.store.held_messages", "{message}", "Messages that have waited for tokens of the store.", counter,
		ofStores(func(s *audit.Shared) uint64 { return s.HeldMessages })},
	{"wsguard.store.slots", "{slot}", "Connections of this instance that have slots in the store.", upDown,
		ofStores(func(s *audit.Shared) int { return s.Slots })},
	{"wsguard.store.instances", "{instance}", "Instances that were alive when they were counted last.", gauge,
		ofStores(func(s *audit.Shared) int { return s.Instances })},
	{"wsguard.store.renewal_age", "s", "How long ago all slots in the store were renewed. It is 0 if there are none.", fraction,
		ofStores(func(s *audit.Shared) float64 { return s.RenewalAge.Seconds() })},
	{"wsguard.store.marks_age", "s", "How long ago the bans and the revocations of all instances were known to be complete. It is 0 if they are not shared.", fraction,
		ofStores(func(s *audit.Shared) float64 { return s.MarksAge.Seconds() })},
	{"wsguard.store.marks_waiting", "{mark}", "Bans and revocations of this instance that the store does not have yet.", upDown,
		ofStores(func(s *audit.Shared) int { return s.MarksWaiting })},
	{"wsguard.limit.used", "1", "How full a limit of the whole server is: 1 is full. It has no value if there is no limit.", fraction, limitsUsed},
	{"wsguard.sweeper.late", "s", "How late the sweeper is, which ends connections whose time is over.", fraction,
		func(s *audit.Snapshot, to observer) { to(s.SweeperLate.Seconds()) }},
	{"wsguard.spikes", "{spike}", "Rates that have left their baselines.", counter, spikes},
	{"wsguard.spiking", "{spike}", "Spikes that go on.", upDown, spiking},
	{"wsguard.warnings", "{warning}", "Warnings to the operator, by reason.", counter,
		reasons(func(s *audit.Snapshot) map[string]uint64 { return s.Warnings })},
	{"wsguard.events.dropped", "{event}", "Events that Config.Observer has not got, because it was too slow.", counter,
		number(func(s *audit.Snapshot) uint64 { return s.EventsDropped })},
	{"wsguard.draining", "", "1 after Guard.Shutdown has been called, and 0 before.", gauge, draining},
	{"wsguard.start_time", "s", "When the guard was made, in seconds since 1970.", fraction,
		func(s *audit.Snapshot, to observer) { to(float64(s.Since.UnixMicro()) / 1e6) }},
}

func handshakes(s *audit.Snapshot, to observer) {
	refused := uint64(0)
	for _, n := range s.HandshakesRefused {
		refused += n
	}
	to(float64(s.HandshakesAccepted), text("result", "accepted"))
	to(float64(refused), text("result", "rejected"))
}

// closed names the reason of a handler that has returned nil, because backends drop empty values.
func closed(s *audit.Snapshot, to observer) {
	for c, n := range s.Closed {
		to(float64(n), text("initiator", string(c.By)), text("reason", cmp.Or(c.Reason, "handler_done")), text("code", code(c.Code)))
	}
}

// code returns a close code as the attribute has it.
func code(n int) string {
	if n == 0 {
		return "other"
	}
	return strconv.Itoa(n)
}

func violations(s *audit.Snapshot, to observer) {
	for o, n := range s.Violations {
		to(float64(n), text("reason", o.Reason), text("action", string(o.Action)))
	}
}

func kicks(s *audit.Snapshot, to observer) {
	for _, r := range []*reason.Reason{reason.Kicked, reason.Revoked, reason.Replaced} {
		to(float64(s.ClosedFor(r.Token())), text("cause", r.Token()))
	}
}

// The scopes of connection slots.
const (
	scopeTotal           = "total"
	scopeUnauthenticated = "unauthenticated"
)

func slots(s *audit.Snapshot, to observer) {
	to(float64(s.Slots), text("scope", scopeTotal))
	to(float64(s.Unauthenticated), text("scope", scopeUnauthenticated))
}

func connectionLimits(s *audit.Snapshot, to observer) {
	scopes := map[string]string{"Caps.MaxConns": scopeTotal, "Caps.MaxUnauthenticated": scopeUnauthenticated}
	for _, l := range s.Limits {
		if scope := scopes[l.Name]; scope != "" && l.Max > 0 {
			to(float64(l.Max), text("scope", scope))
		}
	}
}

func limitsUsed(s *audit.Snapshot, to observer) {
	for _, l := range s.Limits {
		if l.Max > 0 {
			to(float64(l.Used)/float64(l.Max), text("limit", l.Name))
		}
	}
}

func spikes(s *audit.Snapshot, to observer) {
	for of, n := range s.Spikes {
		to(float64(n), text("of", of))
	}
}

// spiking has a value for each rate that is watched, which are those that Spikes counts.
func spiking(s *audit.Snapshot, to observer) {
	now := map[string]int{}
	for _, p := range s.Spiking {
		now[p.Of]++
	}
	for of := range s.Spikes {
		to(float64(now[of]), text("of", of))
	}
}

func draining(s *audit.Snapshot, to observer) { to(float64(oneIf(s.Draining))) }

// oneIf returns 1 if b is true, and 0 otherwise.
func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

func storeCalls(s *audit.Snapshot, to observer) {
	for c, n := range s.Shared.Calls {
		to(float64(n), text("operation", c.Operation), text("result", c.Result))
	}
}

// ofStores returns the observe function of a figure of the stores. It has no value if no store is
// shared.
func ofStores[T int | uint64 | float64](of func(*audit.Shared) T) func(*audit.Snapshot, observer) {
	return func(s *audit.Snapshot, to observer) {
		if s.Shared.Instances > 0 {
			to(float64(of(&s.Shared)))
		}
	}
}

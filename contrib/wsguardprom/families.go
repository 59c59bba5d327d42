package wsguardprom

import (
	"maps"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// family is a metric: its name without the prefix, its help, its labels besides "guard", and
// what it is in a Snapshot. A family has one type, that of the sink's method that it calls.
type family struct {
	name, help string
	labels     []string
	collect    func(*sink, *audit.Snapshot)
}

// microsecond is the unit of the durations of a Snapshot, in parts of a second.
const microsecond = 1e6

// The bounds of the histograms.
var (
	handshakeBounds  = powers(7, 1, 24, microsecond)  // 128 µs to 17 s
	connectionBounds = powers(20, 2, 38, microsecond) // 1 s, 4 s, 17 s, 67 s, 268 s, 18 min, … to 76 h
	pingBounds       = powers(8, 1, 24, microsecond)  // 256 µs to 17 s
	sizeBounds       = powers(4, 2, 24, 1)            // 16 bytes to 16 MiB
)

// families has all metrics. The README lists them in this order.
var families = []family{
	{"handshakes_total", "Handshakes and requests for tickets that were answered, by their result. It is accepted or rejected. An issued ticket counts in wsguard_tickets_sold_total instead.",
		[]string{"result"}, func(to *sink, s *audit.Snapshot) {
			to.counter(s.HandshakesAccepted, "accepted")
			to.counter(total(s.HandshakesRefused), "rejected")
		}},
	{"handshakes_rejected_total", "Handshakes and requests for tickets that were refused, by the token of the reason.",
		[]string{"reason"}, func(to *sink, s *audit.Snapshot) { counters(to, add(refusals, s.HandshakesRefused), one) }},
	{"handshakes_reported_total", "Handshakes that passed only because of report-only mode, by the token of the reason.",
		[]string{"reason"}, func(to *sink, s *audit.Snapshot) { counters(to, add(refusals, s.HandshakesReported), one) }},
	{"handshake_duration_seconds", "Time from the beginning of the guard's checks to the answer, for accepted and for refused handshakes. The hooks of the application are in it.",
		nil, func(to *sink, s *audit.Snapshot) { to.histogram(s.HandshakeSeconds, handshakeBounds) }},
	{"handshakes_in_flight", "Handshakes that wait for a hook of the application. Guards that share a State share this figure.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(float64(s.InFlight)) }},

	{"connections", "Connections of this guard that have not ended.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(float64(s.Open)) }},
	{"connection_slots", "Slots that count towards wsguard_connections_limit of the same scope. Guards that share a State share this figure.",
		[]string{"scope"}, func(to *sink, s *audit.Snapshot) {
			to.gauge(float64(s.Slots), scopeTotal)
			to.gauge(float64(s.Unauthenticated), scopeUnauthenticated)
		}},
	{"connections_limit", "Limit of connections: Caps.MaxConns in the scope total, Caps.MaxUnauthenticated in the scope unauthenticated. The series is missing if there is no limit.",
		[]string{"scope"}, limits},
	{"connections_closed_total", "Connections that have ended, by who ended them, the token of the reason and the close code.",
		[]string{"initiator", "reason", "code"}, func(to *sink, s *audit.Snapshot) { counters(to, add(closings, closed(s)), three) }},
	{"connection_duration_seconds", "How long the connections that have ended were open.",
		nil, func(to *sink, s *audit.Snapshot) { to.histogram(s.ConnectionSeconds, connectionBounds) }},
	{"kicks_total", "Connections that were ended because somebody lost the right to it: kicked by an operator, revoked, or replaced by a newer connection of the subject.",
		[]string{"cause"}, func(to *sink, s *audit.Snapshot) {
			for _, r := range []*reason.Reason{reason.Kicked, reason.Revoked, reason.Replaced} {
				to.counter(s.ClosedFor(r.Token()), r.Token())
			}
		}},
	{"heartbeats_missed_total", "Pings that were not answered in time. Each has ended a connection.",
		nil, func(to *sink, s *audit.Snapshot) { to.counter(s.ClosedFor(reason.PongTimeout.Token())) }},
	{"ping_rtt_seconds", "Time between a ping of the guard and its pong.",
		nil, func(to *sink, s *audit.Snapshot) { to.histogram(s.PingSeconds, pingBounds) }},

	{"messages_total", "Messages that the application got (in) and has sent (out).",
		[]string{"direction"}, func(to *sink, s *audit.Snapshot) {
			to.counter(s.In.Messages, "in")
			to.counter(s.Out.Messages, "out")
		}},
	{"message_bytes_total", "Payload bytes of the messages that the application got (in) and has sent (out).",
		[]string{"direction"}, func(to *sink, s *audit.Snapshot) {
			to.counter(s.In.Bytes, "in")
			to.counter(s.Out.Bytes, "out")
		}},
	{"message_size_bytes", "Payload sizes of the messages that the application got.",
		nil, func(to *sink, s *audit.Snapshot) { to.histogram(s.MessageBytes, sizeBounds) }},
	{"messages_rejected_total", "Messages and credentials of open connections that broke a rule, by the token of the reason and by what the guard did. With the actions report and warn the message has passed.",
		[]string{"reason", "action"}, func(to *sink, s *audit.Snapshot) { counters(to, add(offences, violations(s)), two) }},
	{"notices_omitted_total", "Notices to peers that were not sent because of a limit.",
		nil, func(to *sink, s *audit.Snapshot) { to.counter(s.NoticesOmitted) }},

	{"queue_messages", "Messages in the queues of Conn.Send and its like.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(float64(s.QueuedMessages)) }},
	{"queue_bytes", "Memory of the queues, which Send.MaxTotalBytes limits.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(float64(s.QueuedBytes)) }},
	{"queue_dropped_messages_total", "Messages that were queued and never written, or refused because a queue was full.",
		nil, func(to *sink, s *audit.Snapshot) { to.counter(s.QueueDropped) }},

	{"limit_used_ratio", "How full a limit of the whole server is: 1 is full. The label limit is its field in Config. The series is missing if there is no limit.",
		[]string{"limit"}, func(to *sink, s *audit.Snapshot) {
			for _, l := range s.Limits {
				if l.Max > 0 {
					to.gauge(float64(l.Used)/float64(l.Max), l.Name)
				}
			}
		}},
	{"tracked_keys", "Clients or subjects that a table remembers. Guards that share a State share this figure.",
		[]string{"table"}, func(to *sink, s *audit.Snapshot) {
			for name, t := range s.Tables {
				to.gauge(float64(t.Tracked), name)
			}
		}},
	{"tracked_keys_penalised", "Keys of a table that have exceeded their limit. Guards that share a State share this figure.",
		[]string{"table"}, func(to *sink, s *audit.Snapshot) {
			for name, t := range s.Tables {
				to.gauge(float64(t.Penalised), name)
			}
		}},
	{"tracked_keys_evicted_total", "Keys that a full table has forgotten although there was something to remember. Guards that share a State share this figure.",
		[]string{"table"}, func(to *sink, s *audit.Snapshot) {
			for name, t := range s.Tables {
				to.counter(t.Evicted, name)
			}
		}},

	{"tickets_sold_total", "Tickets that were issued.",
		nil, func(to *sink, s *audit.Snapshot) { to.counter(s.TicketsSold) }},
	{"tickets_outstanding", "Tickets that can still be redeemed. Guards that share a State share this figure.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(float64(s.TicketsOutstanding)) }},
	{"credentials_refreshed_total", "Credentials that Conn.Refresh has put in the place of older ones.",
		nil, func(to *sink, s *audit.Snapshot) { to.counter(s.Refreshes) }},
	{"bans_total", "Bans that this guard has begun, for violations and by Admin.Ban.",
		nil, func(to *sink, s *audit.Snapshot) { to.counter(s.Banned) }},
	{"banned_clients", "Clients that are banned now. Guards that share a State share this figure.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(float64(s.Bans)) }},
	{"revocations_total", "Calls of Admin.Revoke and Admin.SignOut.",
		nil, func(to *sink, s *audit.Snapshot) { to.counter(s.Revoked) }},
	{"revocations_remembered", "Revocations that are remembered now. Guards that share a State share this figure.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(float64(s.Revocations)) }},

	{"store_calls_total", "Calls of the stores that instances share, by operation and by result, which is ok or error. The metrics wsguard_store_… are missing if no store is shared. Guards that share a State share this figure.",
		[]string{"operation", "result"}, ofStores(func(to *sink, s *audit.Shared) { counters(to, add(storeCalls, calls(s)), two) })},
	{"store_lost", "1 if calls of the stores fail, so that this instance decides by itself, and 0 otherwise. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.gauge(oneIf(s.Lost)) })},
	{"store_local_decisions_total", "Decisions that this instance has made by itself because a store had failed. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.counter(s.LocalDecisions) })},
	{"store_refused_decisions_total", "Decisions that were refusals because a store had failed. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.counter(s.ClosedDecisions) })},
	{"store_held_messages_total", "Messages that have waited for tokens of the store. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.counter(s.HeldMessages) })},
	{"store_slots", "Connections of this instance that have slots in the store. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.gauge(float64(s.Slots)) })},
	{"store_instances", "Instances that were alive when they were counted last. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.gauge(float64(s.Instances)) })},
	{"store_renewal_age_seconds", "How long ago all slots in the store were renewed. It is 0 if there are none. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.gauge(s.RenewalAge.Seconds()) })},
	{"store_marks_age_seconds", "How long ago the bans and the revocations of all instances were known to be complete. It is 0 if they are not shared. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.gauge(s.MarksAge.Seconds()) })},
	{"store_marks_waiting", "Bans and revocations of this instance that the store does not have yet. Guards that share a State share this figure.",
		nil, ofStores(func(to *sink, s *audit.Shared) { to.gauge(float64(s.MarksWaiting)) })},

	{"spikes_total", "Rates that have left their baselines. The label of is refusals, connections, messages or bytes.",
		[]string{"of"}, func(to *sink, s *audit.Snapshot) { counters(to, add(spikes, s.Spikes), one) }},
	{"spiking", "Spikes that go on. The label of is that of wsguard_spikes_total.",
		[]string{"of"}, func(to *sink, s *audit.Snapshot) {
			now := map[string]int{}
			for _, p := range s.Spiking {
				now[p.Of]++
			}
			for of := range spikes {
				to.gauge(float64(now[of]), of)
			}
		}},
	{"warnings_total", "Warnings to the operator, by their token. The log has the details.",
		[]string{"reason"}, func(to *sink, s *audit.Snapshot) { counters(to, add(warnings, s.Warnings), one) }},
	{"events_dropped_total", "Events that Config.Observer has not got, because it was too slow.",
		nil, func(to *sink, s *audit.Snapshot) { to.counter(s.EventsDropped) }},
	{"sweeper_late_seconds", "How late the goroutine is that ends connections whose time is over.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(s.SweeperLate.Seconds()) }},
	{"draining", "1 if Guard.Shutdown has been called, and 0 otherwise.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(oneIf(s.Draining)) }},
	{"start_time_seconds", "When the guard was made, in seconds since 1970.",
		nil, func(to *sink, s *audit.Snapshot) { to.gauge(float64(s.Since.UnixMicro()) / microsecond) }},
}

// The scopes of connections_limit and connection_slots.
const (
	scopeTotal           = "total"
	scopeUnauthenticated = "unauthenticated"
)

func limits(to *sink, s *audit.Snapshot) {
	scopes := map[string]string{"Caps.MaxConns": scopeTotal, "Caps.MaxUnauthenticated": scopeUnauthenticated}
	for _, l := range s.Limits {
		if scope := scopes[l.Name]; scope != "" && l.Max > 0 {
			to.gauge(float64(l.Max), scope)
		}
	}
}

// ofStores returns the collect function of a figure of the stores. The figure is missing if no
// store is shared.
func ofStores(collect func(*sink, *audit.Shared)) func(*sink, *audit.Snapshot) {
	return func(to *sink, s *audit.Snapshot) {
		if s.Shared.Instances > 0 {
			collect(to, &s.Shared)
		}
	}
}

// calls returns s.Calls by operation and result, as labels from closed sets.
func calls(s *audit.Shared) map[[2]string]uint64 {
	n := map[[2]string]uint64{}
	for c, k := range s.Calls {
		n[storeCall(c.Operation, c.Result == resultOK)] += k
	}
	return n
}

// closed returns s.Closed by initiator, reason and close code.
func closed(s *audit.Snapshot) map[[3]string]uint64 {
	n := map[[3]string]uint64{}
	for c, k := range s.Closed {
		n[closing(c.By, c.Reason, c.Code)] += k
	}
	return n
}

// closing returns the labels of a connection that has ended. An empty label would be none, so a
// handler that has returned nil has the reason handler_done.
func closing(by audit.Party, token string, n int) [3]string {
	if token == "" {
		token = handlerDone
	}
	return [3]string{string(by), token, code(n)}
}

const handlerDone = "handler_done"

// violations returns s.Violations by reason and action.
func violations(s *audit.Snapshot) map[[2]string]uint64 {
	n := map[[2]string]uint64{}
	for o, k := range s.Violations {
		n[[2]string{o.Reason, string(o.Action)}] += k
	}
	return n
}

// add returns what n has, and 0 for the further keys of zeros.
func add[K comparable](zeros, n map[K]uint64) map[K]uint64 {
	all := maps.Clone(zeros)
	maps.Copy(all, n)
	return all
}

func total(n map[string]uint64) (sum uint64) {
	for _, k := range n {
		sum += k
	}
	return sum
}

// oneIf returns 1 if b is true, and 0 otherwise.
func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func one(k string) []string      { return []string{k} }
func two(k [2]string) []string   { return k[:] }
func three(k [3]string) []string { return k[:] }

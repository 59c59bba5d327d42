package audit

import "time"

// Activity says who makes work for a Guard, and what the Guard has refused lately.
// Admin.Activity of package wsguard returns it. Strings that a peer has chosen are escaped and
// cut to about 256 bytes.
type Activity struct {
	// Time is when the Activity was read.
	Time time.Time

	// Refusals has the latest events of the kinds Refusal and Violation, the newest first. The
	// Guard keeps at most 16 of each reason. Of a reason that occurs more often, it keeps 5 per
	// second after a burst of 16. So a flood for one reason hides no other reason. There are at
	// most 512 in all. Err and Stack of these events are nil.
	Refusals []Event

	// Offenders has the clients that were refused most or have opened most connections lately,
	// the first most. There are at most 50 of them.
	Offenders []Offender

	// Fullest has the clients, networks and subjects that are nearest to the limits of one of
	// them, those with the largest part of their limit first. There are at most 20 for each
	// limit. Guards with the same State share them. A limit that is Off has none.
	Fullest []Limit
}

// Offender is a client that has caused many events of one sort lately.
type Offender struct {
	// Client is an IPv4 address, an IPv6 /64, or a name that Proxies.ClientName has returned.
	// Admin.Ban takes it, unless it was a name that had to be escaped or cut.
	Client string

	// Of is the sort of the events, as Spike.Of.
	Of string

	// Reason is the token of the reason if Of is "refusals". It is empty for the other sorts.
	Reason string

	// Count is how many events the client has caused lately. It is an estimate, and old events
	// count less.
	Count uint64
}

// Spike is a rate that has left its baseline.
type Spike struct {
	// Of says which rate it is. "refusals" counts the handshakes and messages that were
	// refused, or would have been refused without report-only mode. "connections" counts the
	// handshakes that were accepted. "messages" and "bytes" count what the application got.
	Of string

	// Reason is the token of the reason if the refusals for one reason have left their
	// baseline. It is empty for the sum of all refusals, and for the other rates.
	Reason string

	// Since is when the Guard has noticed the spike.
	Since time.Time

	// Rate is the rate per second when the Guard has noticed the spike, and Baseline is the
	// usual rate before it.
	Rate, Baseline float64
}

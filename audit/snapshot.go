package audit

import "time"

// Snapshot has the figures of a Guard at one moment. Guard.Stats of package wsguard returns it.
//
// Fields of the types uint64, Traffic and Histogram, and the values of maps, only grow. They
// count from the call of New. The other fields say how things are now. The comment of a field
// says so if Guards that share a State share the figure.
type Snapshot struct {
	// Time is when the figures were read, and Since is when the Guard was made.
	Time, Since time.Time

	// Draining says that Guard.Shutdown has been called.
	Draining bool

	// Open is how many connections of the Guard have not ended, including those that wait for a
	// credential in their first message.
	Open int

	// Unauthenticated is how many connections and handshakes wait for a credential in the first
	// message. Guards with the same State share it.
	Unauthenticated int

	// InFlight is how many handshakes are in flight, as RateConfig.MaxInFlight counts them.
	// Guards with the same State share it.
	InFlight int

	// Slots is how many connection slots are held, as Guard.Conns returns it. Guards with the
	// same State share it.
	Slots int

	// HandshakesAccepted counts the handshakes that led to a connection.
	HandshakesAccepted uint64

	// HandshakesRefused counts the refused handshakes and the refused requests for tickets, by
	// the token of the reason.
	HandshakesRefused map[string]uint64

	// HandshakesReported counts the handshakes that passed only because of report-only mode, by
	// the token of the reason.
	HandshakesReported map[string]uint64

	// Closed counts the connections that have ended.
	Closed map[Closing]uint64

	// In and Out count the messages that the application got and has sent.
	In, Out Traffic

	// Violations counts what the guard has refused, or would have refused without report-only
	// mode, of the messages on open connections.
	Violations map[Offence]uint64

	// NoticesOmitted counts the notices to peers that were not sent because of a limit.
	NoticesOmitted uint64

	// QueuedMessages and QueuedBytes are what Conn.Send and its like have queued.
	// QueuedBytes is the memory that SendConfig.MaxTotalBytes limits.
	QueuedMessages, QueuedBytes int64

	// QueueDropped counts the messages that were queued and not written, and those that were
	// refused with reason.QueueFull.
	QueueDropped uint64

	// TicketsSold counts the tickets that Guard.TicketHandler has issued.
	TicketsSold uint64

	// TicketsOutstanding is how many tickets can still be redeemed. Guards with the same State
	// share it.
	TicketsOutstanding int

	// Refreshes counts the credentials that Conn.Refresh has put in the place of older ones.
	Refreshes uint64

	// Tables has the tables of clients and subjects, by their names. Guards with the same State
	// share them.
	Tables map[string]Table

	// Bans is how many clients are banned now. Guards with the same State share it.
	Bans int

	// Banned counts the bans that this Guard has begun, for violations and by Admin.Ban.
	Banned uint64

	// Revocations is how many revocations of subjects and logins are remembered. Guards with the
	// same State share it.
	Revocations int

	// Revoked counts the calls of Admin.Revoke and Admin.SignOut of this Guard.
	Revoked uint64

	// SweeperLate is how late the sweeper is, which ends connections whose time is over. It is
	// 0 while there are no connections. More than a second means that the process gets too
	// little of the processor.
	SweeperLate time.Duration

	// Warnings counts the warnings to the operator, by the token that Event.Reason has.
	Warnings map[string]uint64

	// EventsDropped counts the events that Config.Observer has not got, because it was too slow.
	EventsDropped uint64

	// Spikes counts the spikes that have begun, by Spike.Of.
	Spikes map[string]uint64

	// Spiking has the spikes that are not over yet.
	Spiking []Spike

	// Limits has the limits that count things which the whole server shares, and how full they
	// are.
	Limits []Limit

	// Shared has the figures of the stores that Config.Shared names. Guards with the same State
	// share it.
	Shared Shared

	// HandshakeSeconds has the durations of the handshakes that were accepted or refused, in
	// seconds. The time that a hook of the application takes is in it.
	HandshakeSeconds Histogram

	// ConnectionSeconds has the durations of the connections that have ended, in seconds.
	ConnectionSeconds Histogram

	// MessageBytes has the payload sizes of the messages that the application got, in bytes.
	MessageBytes Histogram

	// PingSeconds has the times between pings of the guard and their pongs, in seconds. A time
	// includes what the peer's application and the network had to do in between.
	PingSeconds Histogram
}

// ClosedFor returns how many connections have ended for a reason, whichever party has ended them.
// token is the token of the reason.
func (s *Snapshot) ClosedFor(token string) (n uint64) {
	for c, k := range s.Closed {
		if c.Reason == token {
			n += k
		}
	}
	return n
}

// Shared has the figures of the stores that the instances of a service share. It is zero if
// nothing is shared.
type Shared struct {
	// Instances is how many instances there were when they were counted last. It is at least 1,
	// also if SharedConfig has nothing that counts them.
	Instances int

	// Lost says that calls of the stores fail, so that this instance decides by itself.
	Lost bool

	// Calls counts the calls of the stores.
	Calls map[StoreCall]uint64

	// LocalDecisions counts what this instance has decided by itself because a store had
	// failed. ClosedDecisions counts what it has refused for the same reason.
	LocalDecisions, ClosedDecisions uint64

	// HeldMessages counts the messages that have waited for tokens of the store.
	HeldMessages uint64

	// Slots is how many connections have slots in the store.
	Slots int

	// RenewalAge is how long ago all slots were renewed. It is 0 if there are none.
	RenewalAge time.Duration

	// MarksAge is how long ago the bans and the revocations were known to be complete.
	MarksAge time.Duration

	// MarksWaiting is how many bans and revocations of this instance the store does not have yet.
	MarksWaiting int
}

// StoreCall is a kind of calls of a store.
type StoreCall struct {
	Operation string // such as "admit"
	Result    string // "ok" or "error"
}

// Traffic counts messages and their payload bytes.
type Traffic struct {
	Messages, Bytes uint64
}

// Closing says how a connection has ended.
type Closing struct {
	// Reason is the token of the reason, such as "idle". It is empty if the handler has
	// returned nil. It is "other" for a reason of the application's if there are more than 64
	// of them.
	Reason string

	// By is the party that has ended the connection.
	By Party

	// Code is the close code if it is registered, in the range from 1000 to 1014 or one of 3000,
	// 3003 and 3008, or 1005 or 1006. It is 0 for any other code, so that a peer cannot make new
	// values.
	Code int
}

// Party is a party that can end a connection.
type Party string

// The parties.
const (
	ByGuard       Party = "guard"       // a check, a timeout, a drain, or a fault on this side
	ByApplication Party = "application" // its handler has returned, or it has called Close
	ByPeer        Party = "peer"        // its close frame
	ByNetwork     Party = "network"     // the socket no longer works
	ByOperator    Party = "operator"    // Admin
)

// Offence says what the guard has refused and what it did.
type Offence struct {
	// Reason is the token of the reason, such as "schema". It is "other" as in Closing.
	Reason string

	// Action is what the guard did.
	Action Action
}

// Action is what the guard does with a message that it refuses.
type Action string

// The actions.
const (
	ActionClose  Action = "close"  // it ended the connection
	ActionReply  Action = "reply"  // it dropped the message, and sent a notice if there was room
	ActionReport Action = "report" // it let the message pass, in report-only mode
	ActionWarn   Action = "warn"   // it let the message pass, and has warned the peer, as RateConfig.WarnAt says
	ActionRefuse Action = "refuse" // it refused a message of the application, or a credential of Conn.Refresh
)

// Table says how full a table of clients or subjects is.
type Table struct {
	// Tracked is how many keys the table remembers. It may count a key that has nothing to
	// remember any more.
	Tracked int

	// Penalised is how many of these keys have exceeded their limit and are protected from
	// being forgotten. It may count a key whose debt is paid off.
	Penalised int

	// Evicted counts the keys that were forgotten although there was something to remember.
	Evicted uint64
}

// Limit is a limit and how full it is.
type Limit struct {
	// Name is the field of Config, such as "Caps.MaxConns".
	Name string

	// Of is the client, the network or the subject that the limit is about. It is empty for a
	// limit of the whole server.
	Of string

	// Max is the limit, or 0 if there is none.
	Max int64

	// Used is how much of it is in use.
	Used int64
}

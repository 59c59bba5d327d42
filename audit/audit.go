// Package audit has the values in which a wsguard.Guard reports about itself. An [Event] or a
// [Record] says what has happened, a [Snapshot] has figures, a [Session] describes a connection,
// and a [Ban] a client that is banned.
//
// # Usage
//
// A Guard writes each event to its slog.Logger. Set Config.OnEvent of package wsguard to get
// the events in the program as well, for example to count them:
//
//	cfg.OnEvent = func(e audit.Event) {
//		switch {
//		case e.Kind == audit.Refusal && errors.Is(e.Err, reason.Origin):
//			foreignOrigins.Add(1)
//		case e.Kind == audit.Close:
//			messages.Add(e.MessagesIn)
//		}
//	}
//
// OnEvent runs on the goroutine that has caused the event, so it must not block. The log
// leaves out repeated lines, and OnEvent gets every event. Config.Observer gets the same events
// as a [Record] each, on a goroutine of its own, so it may take its time.
//
// Guard.Stats returns the figures of a Guard as a [Snapshot].
//
// Guard.Admin of package wsguard lists the Sessions and the Bans. Its method Activity returns an
// [Activity], which says who makes work for the Guard.
package audit

import (
	"net/netip"
	"time"

	"github.com/coder/websocket"
)

// Kind says what an [Event] is about.
type Kind string

// The kinds of events.
const (
	// Accepted says that a handshake has led to a connection, whose ID is Event.ConnID. Open
	// follows. The log has Accepted at the level Debug only.
	Accepted Kind = "accept"

	// Open says that the application has a new connection. If the credential comes in the first
	// message, Open follows when the guard has accepted it.
	Open Kind = "open"

	// Refresh says that Conn.Refresh has given a connection a newer credential.
	Refresh Kind = "refresh"

	// Close says that a connection has ended. Event.Err is the cause. Each connection has one
	// Close. A connection that ends while it waits for a credential in its first message has a
	// Close and no Open.
	Close Kind = "close"

	// Refusal says that a handshake or a request for a ticket was refused.
	Refusal Kind = "refusal"

	// Violation says that the guard has refused a message of the peer, a credential of
	// Conn.Refresh, or a message of the application to which MessageConfig.Outbound objects. If
	// the violation ends the connection, a Close follows.
	//
	// If Event.Report is set, the guard has refused nothing. The event is then about a
	// handshake, a message or an idle connection that the guard would refuse or close without
	// report-only mode, or about the warning that RateConfig.WarnAt sends to a peer.
	Violation Kind = "violation"

	// Banned says that a client is banned from now on. If Event.Report is set, the client has
	// exceeded PenaltyConfig.Violations and is not banned, because PenaltyConfig.ReportOnly is
	// set.
	Banned Kind = "ban"

	// Lifted says that Admin.Lift has ended the ban of a client.
	Lifted Kind = "lift"

	// Ticket says that Guard.TicketHandler has issued a ticket to a subject.
	Ticket Kind = "ticket"

	// Revoked says that Admin.Revoke has revoked a subject. Event.Detail says how many
	// connections have ended.
	Revoked Kind = "revoke"

	// SignedOut says that Admin.SignOut has ended a login. Event.Detail says how many
	// connections have ended. The event does not name the login, because the name may be a
	// secret of the application.
	SignedOut Kind = "sign_out"

	// Restored says that Admin.Restore has undone the revocation of a subject.
	Restored Kind = "restore"

	// Reconfigured says that the Guard has a new configuration, after a Reconfigure or a call of
	// Guard.Endpoint.
	Reconfigured Kind = "reconfigure"

	// Warning says that the operator should look at something. Event.Reason says at what.
	Warning Kind = "warning"

	// SpikeStart says that a rate has left its baseline, as Config.SpikeFactor of package
	// wsguard says. Event.Reason says which rate, as Spike.Of does, and Event.Detail has the
	// figures and the clients that have caused most of it.
	SpikeStart Kind = "spike"

	// SpikeOver says that a spike is over. Event.Reason says which one, and Event.Duration how
	// long it lasted.
	SpikeOver Kind = "spike_over"
)

// Event is something that has happened. Strings that a peer has chosen are escaped and cut to
// about 256 bytes. No event holds a payload or a credential.
type Event struct {
	// Kind says what the event is about.
	Kind Kind

	// Time is when the guard has reported the event.
	Time time.Time

	// ConnID is the ID of the connection, as Conn.ID returns it. It is empty if the event is
	// about a handshake, a client or the server.
	ConnID string

	// Subject is the subject of the connection or of the handshake. It is empty if the client
	// is anonymous or has not been authenticated yet.
	Subject string

	// Client is the address of the client. If Proxies.ClientName has named the client, Client is
	// "NAME at ADDRESS". For a ban by Admin.Ban, and for Admin.Lift, it is the client that the
	// method was given.
	Client string

	// Origin is the Origin header of the handshake.
	Origin string

	// Host is the Host header of the handshake.
	Host string

	// Path is the path of the request's URL, without the query. It is set for Accepted, Refusal
	// and Ticket, and for a Violation that is about a handshake. It is empty for the events of
	// a connection. Find the Accepted event with the same ConnID for those.
	Path string

	// RequestID is the ID that the application's middleware or a proxy has given the request,
	// as Config.RequestID says. It is set for the same events as Path.
	RequestID string

	// Endpoint is the name of the endpoint, from EndpointConfig.Name or Config.Name. It is set
	// for the events of a request and of a connection.
	Endpoint string

	// Err is the reason as an error. errors.Is finds the value of package reason in it. It is
	// set for a Refusal, a Violation, a Close, a Banned event, and for the Warning "panic". For
	// a Close it is the *wsguard.CloseError. It is nil for all other events.
	Err error

	// Reason is the token of the reason of a Refusal, a Violation or a Close, such as "origin",
	// "rate_limited" or "schema". It is empty for the Close of a connection whose handler has
	// returned nil. For a Banned event it is the token of the violation that has led to the ban,
	// or "by_hand" for Admin.Ban. For a Warning it is one of these tokens:
	//
	//   - "one_client": 100 handshakes in a row have come from one address.
	//   - "no_client_header": a trusted proxy has not sent the header that names the client.
	//   - "evicted": buckets that were not full have been forgotten, as Guard.Evicted counts.
	//   - "revocations": 100,000 revocations are remembered, and none of them expires.
	//   - "shared_origin": a star in Config.Origins admits the pages of strangers.
	//   - "plain_origin": an origin in Config.Origins has no TLS.
	//   - "mark_broken": a store of Config.Shared has a ban or a revocation that cannot be read.
	//   - "mark_refused": the store does not take a ban or a revocation.
	//   - "marks_full": the store has no room for more bans or revocations.
	//   - "bans_full": a ban by hand of another instance has no room here.
	//   - "panic": a handler has panicked, or a hook or a ResponseWriter has cut a handshake
	//     off.
	//   - "store_lost": the stores of Config.Shared fail, so that this instance decides by itself.
	//   - "store_back": the stores answer again.
	//
	// A SpikeStart and a SpikeOver have the name of the rate here. It is "refusals", "connections",
	// "messages" or "bytes". Reason is empty for all other kinds.
	Reason string

	// Detail says more, for people. It may have the text of an error that the application
	// has returned. Programs should use Err or Reason instead.
	//
	// For a message that a Schema has refused, Detail names the keyword that has refused it. It
	// also has the place in the message if the peer gets a notice or the log a line about the
	// message. The guard does not look for the place otherwise, because that takes a second pass
	// over the message.
	Detail string

	// Status is the HTTP status of the answer to the request of a Refusal. It is 101 if the
	// guard has accepted the handshake and has told the refusal by Code. It is 0 if the
	// connection broke before the client had an answer, or if a handler behind Guard.Wrap has
	// closed it without a response. It is 0 for all other kinds.
	Status int

	// Action is what the guard did with what a Violation is about. It is empty for all other
	// kinds.
	Action Action

	// By is the party that has ended the connection of a Close. It is empty for all other kinds.
	By Party

	// Operator is the name that Admin.By was given. It is set for Banned,
	// Lifted, Revoked, SignedOut, Restored, and for the Close of a connection that Kick has
	// ended.
	Operator string

	// Report says that the guard has refused nothing and only reports. It is set in report-only
	// mode for what the guard would have refused, closed or banned. It is also set for the
	// warning that RateConfig.WarnAt sends to a peer.
	Report bool

	// Stack is the stack of the goroutine for the Warning "panic" about a handler. It is nil for
	// all other events.
	Stack []byte

	// Code is the close code of a Close (RFC 6455 §7.4). It is 1005 if the peer's close frame
	// has no code, and 1006 if the connection ended without a close frame. For a Refusal it is
	// the close code that has told the refusal instead of a status, as AuthConfig.MaxExplained
	// allows, or 0. It is 0 for all other kinds.
	Code websocket.StatusCode

	// PeerCode is the code of the peer's close frame if that frame has ended the connection.
	// It is 0 for every other end, even if the peer has answered the guard's close frame.
	PeerCode websocket.StatusCode

	// Remote says for a Close that the peer or the network has ended the connection.
	Remote bool

	// Duration is how long the connection of a Close was open, or how long the rate of a
	// SpikeOver was high. For Accepted and Refusal it is the time from the beginning of the
	// guard's checks to the answer.
	Duration time.Duration

	// Stats has the counts of the connection of a Close.
	Stats
}

// Stats has the counts of a connection.
type Stats struct {
	// MessagesIn counts the messages of the peer that the application got.
	MessagesIn uint64

	// MessagesOut counts the messages that the application has sent.
	MessagesOut uint64

	// BytesIn counts the payload bytes of MessagesIn.
	BytesIn uint64

	// BytesOut counts the payload bytes of MessagesOut.
	BytesOut uint64

	// Violations counts what the guard has refused of the peer, or would have refused without
	// report-only mode.
	Violations uint64

	// ViolationsWithoutNotice counts the notices that the guard would have sent to the peer, and
	// did not send because of a limit. A connection gets at most one notice per second about
	// rates, with a burst of 20. The same limit holds for its notices about invalid and
	// forbidden messages. Behind Guard.Wrap, at most 16 notices wait until the handler has
	// finished the message that it is sending.
	ViolationsWithoutNotice uint64

	// Dropped counts the messages of Conn.Send, SendWait, SendLatest and SendPrepared that were
	// not written. These are the messages that were still queued when the connection ended, and that the end has
	// dropped. They are also the messages that were refused with reason.QueueFull while the
	// connection stayed open.
	Dropped uint64
}

// Session describes a connection that is open. It may be anonymous.
type Session struct {
	// ID is the ID of the connection, as Conn.ID returns it. Admin.Kick takes it.
	ID string

	// Subject is Principal.Subject. It is empty for an anonymous connection.
	Subject string

	// SessionID is Principal.SessionID, which names the login, and not this connection.
	// Admin.SignOut takes it. It may be empty.
	SessionID string

	// Scopes has a copy of Principal.Scopes.
	Scopes []string

	// Expires is when the credential expires. The zero Time means never.
	Expires time.Time

	// Client is the address of the client. Behind a trusted proxy it is the address that the
	// proxy reports.
	Client netip.Addr

	// ClientName is the name that Proxies.ClientName has given the client, escaped and cut to
	// about 256 bytes. It is empty without ClientName.
	ClientName string

	// Origin is the Origin header of the handshake, escaped and cut to about 256 bytes. It is
	// empty if there was none.
	Origin string

	// Subprotocol is the subprotocol that was negotiated, or "".
	Subprotocol string

	// Since is when the connection was opened.
	Since time.Time

	// LastMessage is when the last message of the peer or of the application was
	// transferred. It is the time of the opening if there was none. Pings and pongs do not
	// count.
	LastMessage time.Time

	// Stats has the counts of the connection so far.
	Stats Stats
}

// Ban describes a client that is banned. Its handshakes get a 429.
type Ban struct {
	// Client is an address, a prefix, or a name that Proxies.ClientName has returned.
	Client string

	// Until is when the ban ends.
	Until time.Time

	// Strikes is how many bans of the client are remembered, this one included. It is 0 for a
	// ban by Admin.Ban.
	Strikes int

	// Reason is the token of the violation that has led to the ban, or the text that Admin.Ban
	// was given.
	Reason string
}

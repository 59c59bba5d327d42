package audit

import (
	"time"

	"github.com/coder/websocket"
)

// Record is an event as a value of a type of its own, which has exactly the fields of such an
// event. Config.Observer of package wsguard gets one for each event. Use a type switch with a
// default case, because later versions may add types:
//
//	switch r := r.(type) {
//	case audit.HandshakeRefused:
//		log.Println(r.RequestID, r.Reason)
//	case audit.ClientBanned:
//		page(r.Client, r.Until)
//	}
//
// All types are in this package. Strings that a peer has chosen are escaped and cut to about 256
// bytes. No Record holds a payload or a credential.
type Record interface {
	// Kind returns the kind of the event, which the log has as its message. MessageRefused and
	// a HandshakeRefused that is only reported have the kind Violation.
	Kind() Kind

	record()
}

// Request describes the request of a handshake, or of a ticket.
type Request struct {
	Method    string // the method, which a client can choose
	Scheme    string // "https" or "http", as a trusted proxy says or as the connection shows
	Path      string // the path of the URL, without the query
	Endpoint  string // EndpointConfig.Name or Config.Name
	RequestID string // as Event.RequestID
	Subject   string // as Event.Subject
	Client    string // as Event.Client
	Origin    string // the Origin header
	Host      string // the Host header
}

// Connection describes the connection that an event is about. HandshakeAccepted has the same ID
// and the request.
type Connection struct {
	ID       string // as Conn.ID returns it
	Endpoint string // EndpointConfig.Name or Config.Name
	Subject  string // as Event.Subject
	Client   string // as Event.Client
	Origin   string // the Origin header of the handshake
	Host     string // the Host header of the handshake
}

// HandshakeAccepted says that a handshake has led to a connection. ConnectionOpened follows,
// after the credential if that comes in the first message.
type HandshakeAccepted struct {
	Time time.Time
	Request
	ConnID      string        // the ID of the connection
	Subprotocol string        // the subprotocol that the guard has negotiated, or ""
	Duration    time.Duration // from the beginning of the guard's checks to the answer
}

// HandshakeRefused says that a handshake or a request for a ticket was refused, or would have
// been refused without report-only mode.
type HandshakeRefused struct {
	Time time.Time
	Request
	Err      error                // as Event.Err
	Reason   string               // the token of the reason
	Detail   string               // as Event.Detail
	Status   int                  // as Event.Status
	Code     websocket.StatusCode // as Event.Code of a Refusal
	Report   bool                 // the handshake has passed, because the guard only reports
	Duration time.Duration        // from the beginning of the guard's checks to the answer
}

// ConnectionOpened says that the application has a new connection.
type ConnectionOpened struct {
	Time time.Time
	Connection
}

// ConnectionRefreshed says that Conn.Refresh has given a connection a newer credential.
type ConnectionRefreshed struct {
	Time time.Time
	Connection
}

// ConnectionClosed says that a connection has ended.
type ConnectionClosed struct {
	Time time.Time
	Connection
	Err      error                // the *wsguard.CloseError
	Reason   string               // the token of the reason
	Detail   string               // as Event.Detail
	By       Party                // the party that has ended it
	Operator string               // as Event.Operator
	Code     websocket.StatusCode // as Event.Code
	PeerCode websocket.StatusCode // as Event.PeerCode
	Duration time.Duration        // how long it was open
	Stats                         // its counts
}

// MessageRefused says that the guard has refused a message, or a credential of Conn.Refresh, or
// would have refused it without report-only mode.
type MessageRefused struct {
	Time time.Time
	Connection
	Err    error  // as Event.Err
	Reason string // the token of the reason
	Detail string // as Event.Detail
	Action Action // what the guard did
}

// ClientBanned says that a client is banned from now on.
type ClientBanned struct {
	Time     time.Time
	Client   string    // as Event.Client
	Reason   string    // the token of the violation, or "by_hand"
	Detail   string    // the text that Admin.Ban was given, and otherwise what the log says
	Until    time.Time // when the ban ends
	Strikes  int       // as Ban.Strikes
	Report   bool      // the client is not banned, because PenaltyConfig.ReportOnly is set
	Operator string    // as Event.Operator
}

// BanLifted says that Admin.Lift has ended a ban.
type BanLifted struct {
	Time     time.Time
	Client   string // as Event.Client
	Operator string // as Event.Operator
}

// TicketSold says that Guard.TicketHandler has issued a ticket.
type TicketSold struct {
	Time time.Time
	Request
}

// SubjectRevoked says that Admin.Revoke has revoked a subject.
type SubjectRevoked struct {
	Time        time.Time
	Subject     string
	Connections int    // how many connections it ends
	Operator    string // as Event.Operator
}

// LoginSignedOut says that Admin.SignOut has ended a login. It does not name the login, because
// the name may be a secret of the application.
type LoginSignedOut struct {
	Time        time.Time
	Connections int    // how many connections it ends
	Operator    string // as Event.Operator
}

// SubjectRestored says that Admin.Restore has undone a revocation.
type SubjectRestored struct {
	Time     time.Time
	Subject  string
	Operator string // as Event.Operator
}

// GuardReconfigured says that the Guard has a new configuration.
type GuardReconfigured struct {
	Time time.Time
}

// OperatorWarned says that the operator should look at something.
type OperatorWarned struct {
	Time   time.Time
	Reason string // a token; Event.Reason lists them
	Detail string // for people
	ConnID string // the connection that it is about, if any
	Client string // the client that it is about, if any
	Origin string // the origin that it is about, if any
	Err    error  // as Event.Err
	Stack  []byte // as Event.Stack
}

// SpikeBegun says that a rate has left its baseline. The Guard only reports it, and refuses
// nothing because of it.
type SpikeBegun struct {
	Time      time.Time
	Of        string     // as Spike.Of
	Reason    string     // as Spike.Reason
	Rate      float64    // per second, since the spike began
	Baseline  float64    // the usual rate, per second
	Offenders []Offender // the clients that have caused most of it, at most 5, the first most
}

// SpikeEnded says that a spike is over, or that the rate has been high for so long that it is
// the new baseline.
type SpikeEnded struct {
	Time     time.Time
	Of       string        // as Spike.Of
	Reason   string        // as Spike.Reason
	Peak     float64       // the highest rate, per second
	Duration time.Duration // how long the rate was high
	Settled  bool          // the rate has not fallen, and is the new baseline
}

// Kind returns Accepted.
func (HandshakeAccepted) Kind() Kind { return Accepted }

// Kind returns Refusal, or Violation if Report is set.
func (r HandshakeRefused) Kind() Kind {
	if r.Report {
		return Violation
	}
	return Refusal
}

// Kind returns Open.
func (ConnectionOpened) Kind() Kind { return Open }

// Kind returns Refresh.
func (ConnectionRefreshed) Kind() Kind { return Refresh }

// Kind returns Close.
func (ConnectionClosed) Kind() Kind { return Close }

// Kind returns Violation.
func (MessageRefused) Kind() Kind { return Violation }

// Kind returns Banned.
func (ClientBanned) Kind() Kind { return Banned }

// Kind returns Lifted.
func (BanLifted) Kind() Kind { return Lifted }

// Kind returns Ticket.
func (TicketSold) Kind() Kind { return Ticket }

// Kind returns Revoked.
func (SubjectRevoked) Kind() Kind { return Revoked }

// Kind returns SignedOut.
func (LoginSignedOut) Kind() Kind { return SignedOut }

// Kind returns Restored.
func (SubjectRestored) Kind() Kind { return Restored }

// Kind returns Reconfigured.
func (GuardReconfigured) Kind() Kind { return Reconfigured }

// Kind returns Warning.
func (OperatorWarned) Kind() Kind { return Warning }

// Kind returns SpikeStart.
func (SpikeBegun) Kind() Kind { return SpikeStart }

// Kind returns SpikeOver.
func (SpikeEnded) Kind() Kind { return SpikeOver }

func (HandshakeAccepted) record()   {}
func (HandshakeRefused) record()    {}
func (ConnectionOpened) record()    {}
func (ConnectionRefreshed) record() {}
func (ConnectionClosed) record()    {}
func (MessageRefused) record()      {}
func (ClientBanned) record()        {}
func (BanLifted) record()           {}
func (TicketSold) record()          {}
func (SubjectRevoked) record()      {}
func (LoginSignedOut) record()      {}
func (SubjectRestored) record()     {}
func (GuardReconfigured) record()   {}
func (OperatorWarned) record()      {}
func (SpikeBegun) record()          {}
func (SpikeEnded) record()          {}

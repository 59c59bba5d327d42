// Package audit has what a wsguard.Guard tells about itself: what happened, who is
// connected, and who is banned.
package audit

import (
	"net/netip"
	"time"

	"github.com/coder/websocket"
)

// Kind is what happened.
type Kind string

// Kinds of events.
const (
	Open      Kind = "open"      // a connection is open and authenticated
	Refresh   Kind = "refresh"   // a connection has a newer credential
	Close     Kind = "close"     // a connection has ended; Err says why
	Refusal   Kind = "refusal"   // a handshake, or a ticket, was refused
	Violation Kind = "violation" // a message was refused, or would have been; a Close may follow
	Banned    Kind = "ban"       // a client is banned; Reason is its last offence
	Warning   Kind = "warning"   // something is wrong on the server's side
)

// Event is something that happened. What a peer chose is escaped and cut to 256
// bytes. No event holds a payload or a credential.
type Event struct {
	Kind    Kind
	Time    time.Time
	ConnID  string // empty for a refusal
	Subject string // empty: anonymous, or not known yet
	Client  string // its address, after the name that ClientName gave it
	Origin  string
	Host    string
	Err     error  // errors.Is finds the sentinel of package reason
	Reason  string // its token: "origin", "rate_limited", "schema", …
	Detail  string // for people; it may have the text of an error of the application's
	Status  int    // of a refusal, in HTTP
	Report  bool   // only reported, and let pass
	Stack   []byte // of a panic

	// Of Close. PeerCode is 0 when the peer sent no close frame. Code is also
	// what a refusal was told by, where AuthConfig.MaxExplained lets it.
	Code, PeerCode websocket.StatusCode
	Remote         bool // the peer began it
	Duration       time.Duration
	Stats
}

// Stats are a connection's counts.
type Stats struct {
	MessagesIn, MessagesOut uint64
	BytesIn, BytesOut       uint64 // payload
	Violations              uint64 // messages refused or reported
	ViolationsWithoutNotice uint64 // of them, for whom the notices were used up
	Dropped                 uint64 // messages that a full queue refused
}

// Session is a connection that is open and authenticated.
type Session struct {
	ID          string // Conn.ID
	Subject     string
	SessionID   string // of the login
	Scopes      []string
	Expires     time.Time
	Client      netip.Addr
	Origin      string
	Subprotocol string
	Since       time.Time
	LastMessage time.Time // either way; at first, when it was opened
	Stats       Stats
}

// Ban is a client that gets nothing but 429.
type Ban struct {
	Client  string // an address, a prefix, or what ClientName said
	Until   time.Time
	Strikes int    // bans in a row; 0: by hand
	Reason  string // token of the last offence, or what Admin.Ban was given
}

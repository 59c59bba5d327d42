// Package reason has a sentinel for each reason to refuse a handshake, to refuse a
// message, or to close a connection. errors.Is finds them in every error of
// wsguard's, and in its events.
package reason

import "github.com/coder/websocket"

// Reason is why. It is an error, to be compared with the variables below.
type Reason struct {
	token  string
	text   string // completes "wsguard: "
	status int
	code   websocket.StatusCode
}

func (r *Reason) Error() string { return "wsguard: " + r.text }

// Token is a stable name, such as "rate_limited": the reason of a close frame,
// and in events.
func (r *Reason) Token() string { return r.token }

// Status is the HTTP status before the upgrade, 0 if it does not happen there.
func (r *Reason) Status() int { return r.status }

// Code is the close code after it, 0 if it does not happen there.
func (r *Reason) Code() websocket.StatusCode { return r.code }

// Timeout is true of deadlines, as net.Error's is.
func (r *Reason) Timeout() bool { return r.code == timeout }

const timeout websocket.StatusCode = 3008

// Reasons to refuse a handshake. Each is answered with the status behind it.
var (
	Draining          = &Reason{"draining", "shutting down", 503, 1012}
	HTTPVersion       = &Reason{"http_version", "not HTTP/1.1", 501, 0} // HTTP/1.0: 426
	NotHijackable     = &Reason{"not_hijackable", "the ResponseWriter cannot be hijacked", 501, 0}
	Body              = &Reason{"body", "handshake with a body", 400, 0}
	Method            = &Reason{"method", "handshake method is not GET", 405, 0}
	NotUpgrade        = &Reason{"not_upgrade", "not a WebSocket handshake", 426, 0}
	Version           = &Reason{"version", "WebSocket version is not 13", 426, 0}
	Handshake         = &Reason{"handshake", "malformed handshake", 400, 0}
	HeaderTooLarge    = &Reason{"header_too_large", "Sec-WebSocket headers too large", 431, 0}
	Subprotocol       = &Reason{"subprotocol", "no subprotocol that is served", 400, 0}
	ClientAddress     = &Reason{"client_address", "the client's address is not known", 403, 0}
	Banned            = &Reason{"banned", "banned", 429, 0}
	Host              = &Reason{"host", "host not served", 421, 0}
	InsecureTransport = &Reason{"insecure_transport", "clear text", 403, 0}
	Origin            = &Reason{"origin", "origin not allowed", 403, 0}
	FetchMetadata     = &Reason{"fetch_metadata", "fetch metadata is not a WebSocket's", 403, 0}
	HandshakeRate     = &Reason{"handshake_rate", "too many handshakes", 429, 0}
	InFlight          = &Reason{"in_flight", "too many handshakes in flight", 503, 0} // of one client: 429
	MaxConns          = &Reason{"max_conns", "connection limit reached", 503, 1013}
	MaxClientConns    = &Reason{"max_client_conns", "connection limit of the client reached", 429, 0}
	MaxSubjectConns   = &Reason{"max_subject_conns", "connection limit of the subject reached", 429, 1013}
	Guessing          = &Reason{"guessing", "too many failed credentials", 429, 1013}
	Unauthenticated   = &Reason{"unauthenticated", "no valid credential", 401, 3000}
	Revoked           = &Reason{"revoked", "credential revoked", 401, 3000}
	Unavailable       = &Reason{"unavailable", "cannot decide now", 503, 1013}
	Tickets           = &Reason{"tickets", "too many tickets outstanding", 429, 0} // in all: 503
	Forbidden         = &Reason{"forbidden", "not allowed", 403, 3003}
	Handler           = &Reason{"handler", "refused by the handler behind Guard.Wrap", 502, 0} // or the status of the handler's own
)

// Reasons to close a connection. Each has the close code behind it, which
// wsguard.Config.CloseCodes can change.
var (
	HandlerDone    = &Reason{"", "handler returned", 0, 1000}
	Closed         = &Reason{"closed", "closed by the application", 0, 1000}
	PeerClosed     = &Reason{"peer_closed", "closed by the peer", 0, 1000}
	ConnectionLost = &Reason{"connection_lost", "connection lost", 0, 0}
	Lifetime       = &Reason{"lifetime", "lifetime reached", 0, 1001}
	Protocol       = &Reason{"protocol_error", "illegal frame", 0, 1002}
	MessageType    = &Reason{"message_type", "message type not accepted", 0, 1003}
	InvalidUTF8    = &Reason{"invalid_utf8", "not UTF-8", 0, 1007}
	InvalidJSON    = &Reason{"invalid_json", "not JSON", 0, 1007}
	MessageTooBig  = &Reason{"message_too_big", "message too big", 0, 1009}
	Schema         = &Reason{"schema", "message does not fit its schema", 0, 1008}
	UnknownType    = &Reason{"unknown_type", "message of an unknown type", 0, 1008}
	JSONLimit      = &Reason{"json_limit", "JSON too complex", 0, 1008}
	RateLimited    = &Reason{"rate_limited", "rate limit exceeded", 0, 1008}
	ControlFlood   = &Reason{"control_flood", "too many control frames", 0, 1008}
	Fragments      = &Reason{"fragments", "too many frames in a message", 0, 1008}
	MessageTimeout = &Reason{"message_timeout", "message not complete in time", 0, 1008}
	WriteTimeout   = &Reason{"write_timeout", "peer reads too slowly", 0, 1008}
	QueueFull      = &Reason{"queue_full", "send queue full", 0, 1008}
	Refresh        = &Reason{"refresh", "refreshed by another subject", 0, 1008}
	Unexpected     = &Reason{"unexpected_message", "message although none is read", 0, 1008}
	Idle           = &Reason{"idle", "no message for too long", 0, timeout}
	PongTimeout    = &Reason{"pong_timeout", "ping not answered", 0, timeout}
	AuthTimeout    = &Reason{"auth_timeout", "no credential in time", 0, timeout}
	Expired        = &Reason{"expired", "credential expired", 0, 3000}
	Kicked         = &Reason{"kicked", "kicked", 0, 3003}
	Internal       = &Reason{"internal_error", "internal error", 0, 1011}
)

// GraphQL is for wsguard.Config.CloseCodes: what graphql-ws clients know.
func GraphQL() map[*Reason]websocket.StatusCode {
	return map[*Reason]websocket.StatusCode{
		InvalidUTF8: 4400, InvalidJSON: 4400, Schema: 4400, UnknownType: 4400, JSONLimit: 4400, MessageType: 4400,
		Unauthenticated: 4401, Expired: 4401, Revoked: 4401,
		Forbidden: 4403, Kicked: 4403,
		AuthTimeout: 4408, Idle: 4408, PongTimeout: 4408,
		RateLimited: 4429, ControlFlood: 4429,
	}
}

// Policy is for wsguard.Config.CloseCodes: 1008 in place of the 3000s.
func Policy() map[*Reason]websocket.StatusCode {
	codes := map[*Reason]websocket.StatusCode{}
	for _, r := range []*Reason{
		Unauthenticated, Revoked, Expired, Forbidden, Kicked, Idle, PongTimeout, AuthTimeout,
	} {
		codes[r] = websocket.StatusPolicyViolation
	}
	return codes
}

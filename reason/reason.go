// Package reason has a value for each reason to refuse a handshake, to refuse a message,
// or to close a connection.
//
// # Usage
//
// A reason is an error. errors.Is finds it in the errors of the methods of a Conn and in the
// events of a Guard:
//
//	_, _, err := c.Read(ctx)
//	if errors.Is(err, reason.Idle) {
//		…
//	}
//
// The comment of each reason says what the client sees, and what the client should do. The
// events of a Guard have the reason in Event.Err and its token in Event.Reason. A close frame
// of the guard has the token as its text. docs/close-codes.md lists all reasons by their
// numbers.
//
// A hook of the application can return a reason, and [New] makes reasons of the application's
// own.
package reason

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"
)

// Reason is a reason to refuse a handshake or a message, or to close a connection. It is an
// error. Use errors.Is to compare an error with the variables of this package.
type Reason struct {
	// All fields are read-only.
	token  string
	text   string               // follows "wsguard: "
	status int                  // 0: no handshake is refused for this reason
	code   websocket.StatusCode // 0: no close frame has this reason
	own    bool                 // New has made it
}

// Error returns "wsguard: " and a short description of the reason.
func (r *Reason) Error() string { return "wsguard: " + r.text }

// Token returns the stable name of the reason, such as "rate_limited". It is the text of the
// close frame, and it stands in events and in the log. Only the token of HandlerDone is empty.
func (r *Reason) Token() string { return r.token }

// Status returns the HTTP status of a handshake that is refused for this reason, or 0 if
// the reason refuses none. A few reasons have another status in some cases. Their
// comments say so.
func (r *Reason) Status() int { return r.status }

// Code returns the close code of a connection that is closed for this reason, or 0 if no
// close frame has it. Config.CloseCodes of package wsguard changes the code that is sent,
// but not what Code returns.
func (r *Reason) Code() websocket.StatusCode { return r.code }

// Timeout reports whether the close code of the reason is 3008, which stands for a timeout.
// It returns true for Idle, PongTimeout and AuthTimeout, and for a reason of New with that
// code. It returns false for WriteTimeout and MessageTimeout, whose code is 1008.
func (r *Reason) Timeout() bool { return r.code == timeout }

// Own reports whether the application has made the reason with [New].
func (r *Reason) Own() bool { return r.own }

const timeout websocket.StatusCode = 3008

const maxToken = 40

// New returns a reason of the application's own. A hook uses it to say in the application's words
// why it refuses a message or a connection. A Validator, Sanitize, Authorize, Attach or the
// function of Guard.Handler can return it, wrapped or not:
//
//	var RoomClosed = reason.New("room_closed", "the room is closed", 4004)
//
// The guard then closes the connection with code, and with token as the text. Before the
// upgrade, Attach refuses the handshake with 403 instead. The guard counts and reports the
// refusal as it does for an error without such a reason. If an error wraps several reasons
// of New, the guard uses the first that errors.As finds. If an error of a Validator,
// Sanitize, Authorize or Attach also wraps Internal, the guard uses Internal. If an error of Authorize
// or Attach also wraps Unavailable, the guard uses Unavailable.
//
// The token has 1 to 40 characters. They are lower-case ASCII letters, digits and underscores, and
// the first is a letter. It must not be the token of a reason of this package. The text is
// printable ASCII. The code is from 3000 to 4999, or it is a code that a reason of this package
// has. New panics if the token, the text or the code breaks these rules.
//
// Make reasons once, in package variables. The guard keeps a counter for each token for as long as
// it runs. So a program that makes new reasons all the time uses more and more memory.
func New(token, text string, code websocket.StatusCode) *Reason {
	letter := func(c rune) bool { return c >= 'a' && c <= 'z' }
	switch {
	case token == "" || len(token) > maxToken || !letter(rune(token[0])) ||
		strings.ContainsFunc(token, func(c rune) bool { return !letter(c) && c != '_' && (c < '0' || c > '9') }):
		panic(fmt.Sprintf("reason: New(%q): the token must be 1 to %d of a-z, 0-9 and _, and begin with a letter", token, maxToken))
	case tokens[token]:
		panic(fmt.Sprintf("reason: New(%q): the token is that of a reason of this package", token))
	case text == "" || strings.ContainsFunc(text, func(c rune) bool { return c < 0x20 || c > 0x7e }):
		panic(fmt.Sprintf("reason: New(%q): the text must be printable ASCII", token))
	case !codes[code] && (code < 3000 || code > 4999):
		panic(fmt.Sprintf("reason: New(%q): code %d must be from 3000 to 4999, or a code of this package", token, int(code)))
	}
	return &Reason{token: token, text: text, status: http.StatusForbidden, code: code, own: true}
}

// The reasons of this package, with their tokens and close codes.
var (
	all    []*Reason
	tokens = map[string]bool{}
	codes  = map[websocket.StatusCode]bool{}
)

// All returns the reasons of this package. Those of [New] are not among them.
func All() []*Reason { return slices.Clone(all) }

// define returns a reason of this package, and notes its token and its code for New.
func define(token, text string, status int, code websocket.StatusCode) *Reason {
	tokens[token] = true
	if code != 0 {
		codes[code] = true
	}
	r := &Reason{token: token, text: text, status: status, code: code}
	all = append(all, r)
	return r
}

// These are reasons to refuse a handshake. Those that have a close code as well can also end a
// connection. Config.CloseCodes of package wsguard changes these codes.
var (
	// Draining says that the server shuts down, because Guard.Shutdown has been called. New
	// handshakes get a 503, and open connections are closed with 1012. The client should
	// connect again after a random delay.
	Draining = define("draining", "shutting down", 503, 1012)

	// HTTPVersion says that the handshake did not come over HTTP/1.1. HTTP/2 and later get a 501,
	// and HTTP/1.0 gets a 426. The client, or the proxy in front, must use HTTP/1.1.
	HTTPVersion = define("http_version", "not HTTP/1.1", 501, 0)

	// NotHijackable says that a middleware has wrapped the ResponseWriter in something
	// that has neither Hijack nor Unwrap, or that the hijack has failed. The reason is
	// ConnectionLost if the hijack has failed because the client had gone. The status is 501.
	// The client can do nothing about it. The operator must mend the middleware.
	NotHijackable = define("not_hijackable", "the ResponseWriter cannot be hijacked", 501, 0)

	// Body says that the handshake has a body. The status is 400. The client is broken.
	Body = define("body", "handshake with a body", 400, 0)

	// Method says that the method of the handshake is not GET. The status is 405. The
	// client is broken, or is no WebSocket client.
	Method = define("method", "handshake method is not GET", 405, 0)

	// NotUpgrade says that the request asks for no upgrade to WebSocket. The status is
	// 426. Either the client is no WebSocket client, or a proxy removes the Connection or
	// Upgrade header.
	NotUpgrade = define("not_upgrade", "not a WebSocket handshake", 426, 0)

	// Version says that the handshake is for a WebSocket version other than 13. The status
	// is 426. The client must use version 13.
	Version = define("version", "WebSocket version is not 13", 426, 0)

	// Handshake says that the Sec-WebSocket-Key or the Host header is malformed. The
	// status is 400. The client is broken.
	Handshake = define("handshake", "malformed handshake", 400, 0)

	// HeaderTooLarge says that the Sec-WebSocket headers are too long or have too many
	// values. The status is 431. The client must offer less.
	HeaderTooLarge = define("header_too_large", "Sec-WebSocket headers too large", 431, 0)

	// Subprotocol says that a page offers subprotocols of which none is served. It is also the
	// reason if Messages.Validators has no Validator for the negotiated subprotocol. The status
	// is 400. The client must offer a subprotocol that the server has.
	Subprotocol = define("subprotocol", "no subprotocol that is served", 400, 0)

	// ClientAddress says that the address of the client is not known or not allowed. The status is
	// 403, and the client can do nothing about it. There are four causes. The RemoteAddr of the
	// request is no address with a port, because a middleware has replaced it. The request came
	// over a unix socket, and Proxies.Trusted does not have "unix". A trusted proxy on a unix
	// socket names no client. Or Config.LoopbackOnly is set, and the client is on another machine.
	// In the first three cases the operator must look at the middleware or the proxy.
	ClientAddress = define("client_address", "the client's address is not known or not allowed", 403, 0)

	// Banned says that the client is banned. The status is 429, and the client should wait as
	// long as Retry-After says. The close code is 1013 if the ban comes while a first-message
	// credential is verified, or while a handler behind Guard.Wrap answers.
	Banned = define("banned", "banned", 429, 1013)

	// Host says that the server does not answer under the name in the Host header. The
	// status is 421. The client must use another name.
	Host = define("host", "host not served", 421, 0)

	// InsecureTransport says that the handshake came in clear text. The status is 403. The
	// client must use wss.
	InsecureTransport = define("insecure_transport", "clear text", 403, 0)

	// Origin says that the Origin is missing or is not one that may connect. The status is
	// 403. Pages of that origin cannot connect.
	Origin = define("origin", "origin not allowed", 403, 0)

	// FetchMetadata says that the Sec-Fetch headers are not those of a WebSocket, so that
	// the request is not what it claims to be. The status is 403.
	FetchMetadata = define("fetch_metadata", "fetch metadata is not a WebSocket's", 403, 0)

	// HandshakeRate says that the client, its network or its subject connects too often. The status
	// is 429, and the close code after a first-message credential is 1013. The client should wait
	// as long as Retry-After says.
	HandshakeRate = define("handshake_rate", "too many handshakes", 429, 1013)

	// InFlight says that too many handshakes wait for a hook of the application, such as a
	// Verifier or Attach. The status is 503, or 429 if they are this client's. The client should
	// connect again later. Conn.Refresh returns this reason, too, and the connection stays open.
	InFlight = define("in_flight", "too many handshakes in flight", 503, 0)

	// MaxConns says that the server has as many connections as Caps.MaxConns allows, or as many
	// that have not authenticated as Caps.MaxUnauthenticated allows. The status is 503, and the
	// close code is 1013. The client should connect again later, and wait longer each time.
	MaxConns = define("max_conns", "connection limit reached", 503, 1013)

	// MaxClientConns says that the client, or its network, has too many connections. The
	// status is 429. The client should close one before it opens another.
	MaxClientConns = define("max_client_conns", "connection limit of the client reached", 429, 0)

	// MaxSubjectConns says that the subject has too many connections. The status is 429, and the
	// close code after a first-message credential is 1013. The client should close one before it
	// opens another.
	MaxSubjectConns = define("max_subject_conns", "connection limit of the subject reached", 429, 1013)

	// Guessing says that too many credentials of the client were refused. The status is 429, and
	// the close code after a first-message credential is 1013. The client should wait, and then use
	// a valid credential.
	Guessing = define("guessing", "too many failed credentials", 429, 1013)

	// Unauthenticated says that there is no valid credential. The status is 401, and the close code
	// is 3000. The client should connect once more, with a fresh credential.
	Unauthenticated = define("unauthenticated", "no valid credential", 401, 3000)

	// Revoked says that the credential, the session or the subject was revoked. The status is 401,
	// and the close code is 3000. The user must log in again.
	Revoked = define("revoked", "credential revoked", 401, 3000)

	// Unavailable says that the guard cannot decide now, because a hook or a store fails or is too
	// slow. The status is 503, and the close code is 1013. The refusal counts neither toward
	// AuthConfig.Failures nor toward a ban, and the client should connect again later.
	Unavailable = define("unavailable", "cannot decide now", 503, 1013)

	// Tickets says that the subject has too many unused tickets. The status is 429, or 503 if all
	// subjects together have too many. The client should use a ticket, or wait until one expires.
	Tickets = define("tickets", "too many tickets outstanding", 429, 0)

	// Forbidden says that the application does not allow a connection or a message. If Attach
	// refuses a handshake, the status is 403. If Attach refuses after a first-message credential,
	// or if a Validator, Authorize or the scope of a Rule forbids a message, the close code is
	// 3003. The client should not try again.
	Forbidden = define("forbidden", "not allowed", 403, 3003)

	// Handler says that the handler behind Guard.Wrap has refused the handshake. The status is the
	// handler's own, or 502 if its answer was not a correct handshake.
	Handler = define("handler", "refused by the handler behind Guard.Wrap", 502, 0)
)

// These are reasons to close a connection. Config.CloseCodes of package wsguard changes their
// codes, except those of Closed, PeerClosed and ConnectionLost.
var (
	// HandlerDone says that the application's function has returned nil. The close code is
	// 1000, and the text is empty. What the client does next is up to the application.
	HandlerDone = define("", "handler returned", 0, 1000)

	// Closed says that the application has closed the connection. It has chosen the code and
	// the text of the close frame. The token is in the event only.
	Closed = define("closed", "closed by the application", 0, 1000)

	// PeerClosed says that the client has sent a close frame. The guard answers it with the
	// client's code. The token is in the event only.
	PeerClosed = define("peer_closed", "closed by the peer", 0, 1000)

	// ConnectionLost says that the connection broke without a close frame. The guard sends none
	// either. The client should connect again.
	ConnectionLost = define("connection_lost", "connection lost", 0, 0)

	// RequestDone says that the context of the request of Guard.Accept has ended while the
	// connection was open. The close code is 1001. The client should connect again.
	RequestDone = define("request_done", "the request has ended", 0, 1001)

	// Lifetime says that the connection is as old as Timeouts.Lifetime allows. The close
	// code is 1001. The client should connect again.
	Lifetime = define("lifetime", "lifetime reached", 0, 1001)

	// Protocol says that the client has sent an illegal frame. The close code is 1002. The
	// client is broken.
	Protocol = define("protocol_error", "illegal frame", 0, 1002)

	// MessageType says that the client has sent a binary message where only text is
	// accepted. The close code is 1003. The client must send text.
	MessageType = define("message_type", "message type not accepted", 0, 1003)

	// InvalidUTF8 says that a text message or the text of a close frame is not UTF-8. The
	// close code is 1007. The client is broken. Write and Send return this reason for an
	// outbound text that is not UTF-8, and the connection stays open.
	InvalidUTF8 = define("invalid_utf8", "not UTF-8", 0, 1007)

	// InvalidJSON says that a message is not strict JSON, where a Schema or a Table checks it. A
	// duplicate key, for example, is not allowed. The close code is 1007. The client must mend
	// its messages.
	InvalidJSON = define("invalid_json", "not JSON", 0, 1007)

	// MessageTooBig says that a message is longer than Messages.MaxBytes, than the MaxBytes of
	// its Rule or, if it is the first message and must be the credential, than
	// Auth.FirstMessageBytes. The close code is 1009. The client must send shorter messages.
	MessageTooBig = define("message_too_big", "message too big", 0, 1009)

	// Schema says that the Validator has refused a message. The close code is 1008. The
	// client must mend its messages.
	Schema = define("schema", "message does not fit its schema", 0, 1008)

	// UnknownType says that the Table has no rule for the type of a message. The close code
	// is 1008. The client must mend its messages.
	UnknownType = define("unknown_type", "message of an unknown type", 0, 1008)

	// JSONLimit says that a message is nested too deeply, or is otherwise too complex to be
	// checked. The close code is 1008. The client must send simpler messages.
	JSONLimit = define("json_limit", "JSON too complex", 0, 1008)

	// RateLimited says that messages or bytes come faster than a rate allows. The close code is
	// 1008. The client should connect again later and send more slowly. Conn.Refresh returns
	// this reason if it is called too often, and the connection stays open.
	RateLimited = define("rate_limited", "rate limit exceeded", 0, 1008)

	// ControlFlood says that pings and pongs come faster than Messages.ControlFrames allows.
	// The close code is 1008. The client should send fewer.
	ControlFlood = define("control_flood", "too many control frames", 0, 1008)

	// Fragments says that a message has more frames than Messages.MaxFragments. The close
	// code is 1008. The client should write its messages in larger pieces.
	Fragments = define("fragments", "too many frames in a message", 0, 1008)

	// MessageTimeout says that a message was not complete within Messages.Timeout. The close
	// code is 1008. The client should connect again when its network is better.
	MessageTimeout = define("message_timeout", "message not complete in time", 0, 1008)

	// WriteTimeout says that the client took less than 1 KiB within Timeouts.Write while a
	// write waited for it. It is also the reason if the context of Conn.Write ended in the
	// middle of a message. The close code is 1008, but the client seldom gets it. It should
	// connect again and read faster.
	WriteTimeout = define("write_timeout", "peer reads too slowly", 0, 1008)

	// QueueFull says that the client reads more slowly than the application sends, so that
	// the queue of Send is full. The close code is 1008. The client should connect again
	// and read faster. Send returns an error that wraps this reason, and the connection stays
	// open, with Send.DropNewest, and if a message finds no room in Send.MaxTotalBytes.
	QueueFull = define("queue_full", "send queue full", 0, 1008)

	// Refresh says that Conn.Refresh was given a credential of another subject. The close code
	// is 1008. The client must open another connection for another subject.
	Refresh = define("refresh", "refreshed by another subject", 0, 1008)

	// Unexpected says that a message came after Conn.CloseRead, when the application reads none.
	// The close code is 1008. The client must send nothing.
	Unexpected = define("unexpected_message", "message although none is read", 0, 1008)

	// Idle says that no message came or went for as long as Timeouts.Idle. The close code
	// is 3008. The client should connect again when it has something to say.
	Idle = define("idle", "no message for too long", 0, timeout)

	// PongTimeout says that the client has not answered a ping within Timeouts.Pong. The
	// close code is 3008. The client should connect again.
	PongTimeout = define("pong_timeout", "ping not answered", 0, timeout)

	// AuthTimeout says that the first message, which must be the credential, has not come within
	// Auth.FirstMessageTimeout. The close code is 3008. The client should connect again, and
	// send its credential at once.
	AuthTimeout = define("auth_timeout", "no credential in time", 0, timeout)

	// Expired says that the credential has expired. The close code is 3000. The client
	// should connect again with a fresh credential.
	Expired = define("expired", "credential expired", 0, 3000)

	// Kicked says that an operator has closed the connection with Admin.Kick. The close
	// code is 3003, unless Kick was given another. The client should not connect again.
	Kicked = define("kicked", "kicked", 0, 3003)

	// Replaced says that a newer connection of the subject has taken the place of this one,
	// as CapConfig.ReplaceOldest asks for. The close code is 1008. The client should not
	// connect again, because the two would replace each other.
	Replaced = define("replaced", "replaced by a newer connection", 0, 1008)

	// Internal says that something is broken on the server's side. A handler has returned an
	// error, or a handler or a hook has panicked. The close code is 1011. The client should
	// connect again, and wait longer each time.
	Internal = define("internal_error", "internal error", 0, 1011)
)

// GraphQL returns a map for Config.CloseCodes of package wsguard. It has the close codes that
// clients of the graphql-transport-ws protocol know. The client of the npm package graphql-ws
// gives up at some codes and connects again after others:
//
//	it gives up         4400 the message is invalid, 4401 no valid credential, 4429 a rate or a ban,
//	                    1008 forbidden, kicked or replaced, and 1002, 1009 and 1011
//	it connects again   4403 the credential has expired, 4408 a timeout or a slow network,
//	                    and 1001, 1006, 1012 and 1013
func GraphQL() map[*Reason]websocket.StatusCode {
	return map[*Reason]websocket.StatusCode{
		InvalidUTF8: 4400, InvalidJSON: 4400, Schema: 4400, UnknownType: 4400, JSONLimit: 4400, MessageType: 4400,
		Unauthenticated: 4401, Revoked: 4401,
		Expired:   4403, // the client takes it for a credential that it must renew
		Forbidden: 1008, Kicked: 1008,
		AuthTimeout: 4408, Idle: 4408, PongTimeout: 4408, MessageTimeout: 4408, WriteTimeout: 4408, QueueFull: 4408,
		RateLimited: 4429, ControlFlood: 4429, Banned: 4429,
	}
}

// Policy returns a map for Config.CloseCodes of package wsguard. It replaces each code of 3000
// and above by 1008, policy violation (RFC 6455 §7.4.1).
func Policy() map[*Reason]websocket.StatusCode {
	codes := map[*Reason]websocket.StatusCode{}
	for _, r := range []*Reason{
		Unauthenticated, Revoked, Expired, Forbidden, Kicked, Idle, PongTimeout, AuthTimeout,
	} {
		codes[r] = websocket.StatusPolicyViolation
	}
	return codes
}

// RFC6455 returns a map for Config.CloseCodes of package wsguard. It replaces 1012 and 1013,
// which were registered after RFC 6455, by 1001, going away. Some clients, such as those of
// gobwas/ws and libwebsockets, take a code between 1012 and 2999 for a protocol error. The text
// of the close frame still names the reason.
func RFC6455() map[*Reason]websocket.StatusCode {
	codes := map[*Reason]websocket.StatusCode{}
	for _, r := range []*Reason{
		Draining, Banned, MaxConns, MaxSubjectConns, HandshakeRate, Guessing, Unavailable,
	} {
		codes[r] = websocket.StatusGoingAway
	}
	return codes
}

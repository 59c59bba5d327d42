package wsguard

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/internal/wire"
)

// StatusCode is a close code of RFC 6455 §7.4, as in coder/websocket.
type StatusCode = websocket.StatusCode

// refusal is a sentinel: one per reason to refuse or to close.
type refusal struct {
	token  string     // the close reason, and the reason in events
	text   string     // completes "wsguard: "
	status int        // before the upgrade; 0: does not happen there
	code   StatusCode // after it; 0: does not happen there
}

func (r *refusal) Error() string { return "wsguard: " + r.text }

// Timeout makes the errors of deadlines answer as net.Error's do.
func (r *refusal) Timeout() bool { return r.code == codeTimeout }

const codeTimeout StatusCode = 3008

// Reasons to refuse a handshake. Each is answered with the status behind it.
var (
	ErrDraining          error = &refusal{"draining", "shutting down", 503, 1012}
	ErrHTTPVersion       error = &refusal{"http_version", "not HTTP/1.1", 501, 0} // HTTP/1.0: 426
	ErrNotHijackable     error = &refusal{"not_hijackable", "the ResponseWriter cannot be hijacked", 501, 0}
	ErrBody              error = &refusal{"body", "handshake with a body", 400, 0}
	ErrMethod            error = &refusal{"method", "handshake method is not GET", 405, 0}
	ErrNotUpgrade        error = &refusal{"not_upgrade", "not a WebSocket handshake", 426, 0}
	ErrVersion           error = &refusal{"version", "WebSocket version is not 13", 426, 0}
	ErrHandshake         error = &refusal{"handshake", "malformed handshake", 400, 0}
	ErrHeaderTooLarge    error = &refusal{"header_too_large", "Sec-WebSocket headers too large", 431, 0}
	ErrSubprotocol       error = &refusal{"subprotocol", "no subprotocol that is served", 400, 0}
	ErrClientAddress     error = &refusal{"client_address", "the client's address is not known", 403, 0}
	ErrHostDenied        error = &refusal{"host", "host not served", 421, 0}
	ErrInsecureTransport error = &refusal{"insecure_transport", "clear text", 403, 0}
	ErrOriginDenied      error = &refusal{"origin", "origin not allowed", 403, 0}
	ErrFetchMetadata     error = &refusal{"fetch_metadata", "fetch metadata is not a WebSocket's", 403, 0}
	ErrHandshakeRate     error = &refusal{"handshake_rate", "too many handshakes", 429, 0}
	ErrInFlight          error = &refusal{"in_flight", "too many handshakes in flight", 503, 0} // of one client: 429
	ErrMaxConns          error = &refusal{"max_conns", "connection limit reached", 503, 1013}
	ErrMaxClientConns    error = &refusal{"max_client_conns", "connection limit of the client reached", 429, 0}
	ErrMaxSubjectConns   error = &refusal{"max_subject_conns", "connection limit of the subject reached", 429, 1013}
	ErrGuessing          error = &refusal{"guessing", "too many failed credentials", 429, 1013}
	ErrUnauthenticated   error = &refusal{"unauthenticated", "no valid credential", 401, 3000}
	ErrRevoked           error = &refusal{"revoked", "credential revoked", 401, 3000}
	ErrUnavailable       error = &refusal{"unavailable", "cannot decide now", 503, 1013}
	ErrTickets           error = &refusal{"tickets", "too many tickets outstanding", 429, 0} // in all: 503
	ErrForbidden         error = &refusal{"forbidden", "not allowed", 403, 3003}
)

// Reasons to close a connection. Each has the close code behind it, which
// Config.CloseCodes can change.
var (
	ErrHandlerDone    error = &refusal{"", "handler returned", 0, 1000}
	ErrClosed         error = &refusal{"closed", "closed by the application", 0, 1000}
	ErrPeerClosed     error = &refusal{"peer_closed", "closed by the peer", 0, 1000}
	ErrConnectionLost error = &refusal{"connection_lost", "connection lost", 0, 0}
	ErrLifetime       error = &refusal{"lifetime", "lifetime reached", 0, 1001}
	ErrProtocol       error = &refusal{"protocol_error", "illegal frame", 0, 1002}
	ErrMessageType    error = &refusal{"message_type", "message type not accepted", 0, 1003}
	ErrInvalidUTF8    error = &refusal{"invalid_utf8", "not UTF-8", 0, 1007}
	ErrInvalidJSON    error = &refusal{"invalid_json", "not JSON", 0, 1007}
	ErrMessageTooBig  error = &refusal{"message_too_big", "message too big", 0, 1009}
	ErrSchema         error = &refusal{"schema", "message does not fit its schema", 0, 1008}
	ErrUnknownType    error = &refusal{"unknown_type", "message of an unknown type", 0, 1008}
	ErrJSONLimit      error = &refusal{"json_limit", "JSON too complex", 0, 1008}
	ErrRateLimited    error = &refusal{"rate_limited", "rate limit exceeded", 0, 1008}
	ErrControlFlood   error = &refusal{"control_flood", "too many control frames", 0, 1008}
	ErrFragments      error = &refusal{"fragments", "too many frames in a message", 0, 1008}
	ErrMessageTimeout error = &refusal{"message_timeout", "message not complete in time", 0, 1008}
	ErrWriteTimeout   error = &refusal{"write_timeout", "peer reads too slowly", 0, 1008}
	ErrQueueFull      error = &refusal{"queue_full", "send queue full", 0, 1008}
	ErrRefresh        error = &refusal{"refresh", "refreshed by another subject", 0, 1008}
	ErrUnexpected     error = &refusal{"unexpected_message", "message although none is read", 0, 1008}
	ErrIdle           error = &refusal{"idle", "no message for too long", 0, codeTimeout}
	ErrPongTimeout    error = &refusal{"pong_timeout", "ping not answered", 0, codeTimeout}
	ErrAuthTimeout    error = &refusal{"auth_timeout", "no credential in time", 0, codeTimeout}
	ErrExpired        error = &refusal{"expired", "credential expired", 0, 3000}
	ErrKicked         error = &refusal{"kicked", "kicked", 0, 3003}
	ErrInternal       error = &refusal{"internal_error", "internal error", 0, 1011}
)

// CloseCodesGraphQL is for Config.CloseCodes: what graphql-ws clients know.
func CloseCodesGraphQL() map[error]StatusCode {
	return map[error]StatusCode{
		ErrInvalidUTF8: 4400, ErrInvalidJSON: 4400, ErrSchema: 4400, ErrJSONLimit: 4400, ErrMessageType: 4400,
		ErrUnauthenticated: 4401, ErrExpired: 4401, ErrRevoked: 4401,
		ErrForbidden: 4403, ErrKicked: 4403,
		ErrAuthTimeout: 4408, ErrIdle: 4408, ErrPongTimeout: 4408,
		ErrRateLimited: 4429, ErrControlFlood: 4429,
	}
}

// CloseCodesPolicy is for Config.CloseCodes: 1008 in place of the 3000s.
func CloseCodesPolicy() map[error]StatusCode {
	codes := map[error]StatusCode{}
	for _, err := range []error{
		ErrUnauthenticated, ErrRevoked, ErrExpired, ErrForbidden, ErrKicked, ErrIdle, ErrPongTimeout, ErrAuthTimeout,
	} {
		codes[err] = websocket.StatusPolicyViolation
	}
	return codes
}

// CloseError says why a connection ended. Read and Write return it, it is the
// cause of the connection's context, and a handler may return one. errors.Is
// finds the sentinel, and io.EOF for a peer's 1000 or 1001 only.
type CloseError struct {
	Code   StatusCode // 1005: the peer gave none; 1006: no close frame came
	Reason string     // a token of the guard's, or whoever closed chose it
	Remote bool       // the peer ended it

	err error
}

func (e *CloseError) Error() string {
	who := "closed"
	if e.Remote {
		who = "closed by the peer"
	}
	s := fmt.Sprintf("wsguard: %s: %d", who, int(e.Code))
	if e.Reason != "" {
		s += " " + sanitize(e.Reason, maxField)
	}
	return s
}

// Unwrap returns the guard's sentinel, and io.EOF for a peer's 1000 or 1001.
func (e *CloseError) Unwrap() []error {
	var errs []error
	if e.err != nil {
		errs = append(errs, e.err)
	}
	if e.Remote && (e.Code == websocket.StatusNormalClosure || e.Code == websocket.StatusGoingAway) {
		errs = append(errs, io.EOF)
	}
	return errs
}

// Timeout reports whether a deadline of the guard ended the connection.
func (e *CloseError) Timeout() bool {
	var r *refusal
	return errors.As(e.err, &r) && r.Timeout()
}

func sendable(code StatusCode) bool { return wire.Sendable(int(code)) }

// denied is a refusal with what only the event may know.
type denied struct {
	*refusal
	status int           // where it differs from the sentinel's
	retry  time.Duration // Retry-After; 0: none, or the default of 429 and 503
	allow  string        // Allow of a 405; empty: GET
	detail string
	cause  error
}

func (d *denied) Error() string {
	if d.detail == "" {
		return d.refusal.Error()
	}
	return d.refusal.Error() + ": " + d.detail
}

func (d *denied) Unwrap() []error {
	if d.cause == nil {
		return []error{d.refusal}
	}
	return []error{d.refusal, d.cause}
}

func deny(sentinel error, detail string) *denied {
	return &denied{refusal: sentinel.(*refusal), detail: detail}
}

func denyStatus(sentinel error, status int, detail string) *denied {
	d := deny(sentinel, detail)
	d.status = status
	return d
}

func denyRetry(sentinel error, retry time.Duration) *denied {
	d := deny(sentinel, "")
	d.retry = retry
	return d
}

func denyCause(sentinel error, cause error) *denied {
	d := deny(sentinel, cause.Error())
	d.cause = cause
	return d
}

// asDenied finds how to answer err; an error that is none of ours fails closed.
func asDenied(err error) *denied {
	var d *denied
	if errors.As(err, &d) {
		return d
	}
	var r *refusal
	if errors.As(err, &r) && r.status != 0 {
		return &denied{refusal: r}
	}
	return denyCause(ErrUnavailable, err)
}

func (d *denied) statusCode() int {
	if d.status != 0 {
		return d.status
	}
	return d.refusal.status
}

// write answers a refused handshake: a constant body, nothing of the request.
func (d *denied) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Connection", "close")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	status := d.statusCode()
	switch status {
	case http.StatusUpgradeRequired:
		if error(d.refusal) == ErrVersion {
			h.Set("Sec-WebSocket-Version", "13")
		}
		// Two lines: net/http closes only where the first is just "close".
		h["Connection"] = []string{"close", "Upgrade"}
		h.Set("Upgrade", "websocket")
	case http.StatusMethodNotAllowed:
		h.Set("Allow", cmp.Or(d.allow, http.MethodGet))
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(retrySeconds(d.retry)))
	}
	w.WriteHeader(status)
	io.WriteString(w, http.StatusText(status)+"\n")
}

// retrySeconds rounds up: a client that obeys is not refused again.
func retrySeconds(d time.Duration) int {
	if d <= 0 {
		return 5
	}
	if d > time.Hour {
		return 3600
	}
	return int((d + time.Second - 1) / time.Second)
}

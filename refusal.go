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
	"github.com/wsguard/wsguard/reason"
)

// StatusCode is a close code of RFC 6455 §7.4, as in coder/websocket.
type StatusCode = websocket.StatusCode

// These are errors for hooks to return, wrapped or not. Package reason has all reasons.
var (
	// ErrUnauthenticated says that the credential is not valid. It is reason.Unauthenticated.
	ErrUnauthenticated error = reason.Unauthenticated

	// ErrExpired says that a credential is genuine, but expired, not valid yet, or revoked by
	// its issuer. The client gets a 401, as with ErrUnauthenticated. The refusal counts neither
	// toward AuthConfig.Failures nor toward a ban.
	ErrExpired error = innocent("the credential is genuine, but not valid now")

	// ErrNoCredential says that the request presents no credential. The client gets a 401. The
	// refusal counts neither toward AuthConfig.Failures nor toward a ban.
	ErrNoCredential error = innocent("no credential")

	// ErrForbidden says that the principal may not do this. It is reason.Forbidden. A Validator
	// returns it so that the close code is 3003 instead of 1008. Authorize and Attach need not
	// return it, because they refuse with it for any error. From a Verifier it counts as an
	// invalid credential.
	ErrForbidden error = reason.Forbidden

	// ErrUnavailable says that the hook cannot decide now. It is reason.Unavailable. The client
	// gets a 503, or 1013 if the connection is open. The refusal counts neither toward
	// AuthConfig.Failures nor toward a ban. A Validator cannot say that it is unavailable, and
	// ErrUnavailable from it refuses the message like any other error.
	ErrUnavailable error = reason.Unavailable
)

// CloseError says why a connection has ended. Read, Write and Send return it, and it is the
// cause of the connection's context. A handler may return one, to choose the close code.
// errors.Is finds the value of package reason in it, and io.EOF if the peer has closed with
// 1000 or 1001.
type CloseError struct {
	// Code is the close code (RFC 6455 §7.4). It is 1005 if the peer's close frame has no
	// code, and 1006 if the connection ended without a close frame.
	Code StatusCode

	// Reason is the text of the close frame. It is the token of a reason, or the text that the
	// application or the peer has chosen. It is empty if Code is 1006, and if the close frame
	// has no text.
	Reason string

	// Remote says that the peer or the network has ended the connection.
	Remote bool

	err *reason.Reason
}

// Error returns the code and the reason, which is escaped and cut.
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

// Unwrap returns the value of package reason, and io.EOF if the peer has closed with 1000 or
// 1001.
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

// Timeout reports whether the connection has ended for a reason whose Timeout method returns
// true. These are reason.Idle, reason.PongTimeout and reason.AuthTimeout, and a reason of
// [reason.New] with the close code 3008. Timeout returns false for reason.WriteTimeout and
// reason.MessageTimeout.
func (e *CloseError) Timeout() bool {
	return e.err != nil && e.err.Timeout()
}

func sendable(code StatusCode) bool { return wire.Sendable(int(code)) }

// denied is a refusal, with the details that only the event has.
type denied struct {
	*reason.Reason
	status int           // 0: the status of the Reason
	retry  time.Duration // Retry-After; 0: none, or the default of 429 and 503
	allow  string        // Allow of a 405; empty: GET
	detail string        // for the event only
	cause  error         // the error of a hook or of a parser; nil: none

	// blameless says that the client need not have done anything wrong, because others can
	// cause the refusal, or because the credential is genuine. The refusal counts towards no
	// failure and no ban.
	blameless bool

	limit limitID // the limit that is exceeded, for Guard.Suggest
}

func (d *denied) Error() string {
	if d.detail == "" {
		return d.Reason.Error()
	}
	return d.Reason.Error() + ": " + d.detail
}

func (d *denied) Unwrap() []error {
	if d.cause == nil {
		return []error{d.Reason}
	}
	return []error{d.Reason, d.cause}
}

func deny(why *reason.Reason, detail string) *denied {
	return &denied{Reason: why, detail: detail}
}

// innocent is a 401 that counts against no client.
func innocent(detail string) *denied {
	d := deny(reason.Unauthenticated, detail)
	d.blameless = true
	return d
}

// denyOver is a refusal because of a limit.
func denyOver(why *reason.Reason, detail string, limit limitID) *denied {
	d := deny(why, detail)
	d.limit = limit
	return d
}

func denyStatus(why *reason.Reason, status int, detail string) *denied {
	d := deny(why, detail)
	d.status = status
	return d
}

func denyRetry(why *reason.Reason, retry time.Duration) *denied {
	d := deny(why, "")
	d.retry = retry
	return d
}

func denyCause(why *reason.Reason, cause error) *denied {
	d := deny(why, errorText(cause))
	d.cause = cause
	return d
}

// asDenied returns the refusal for err. An error that has no reason fails closed as
// Unavailable.
func asDenied(err error) *denied {
	var d *denied
	if errors.As(err, &d) {
		return d
	}
	var r *reason.Reason
	if errors.As(err, &r) && r.Status() != 0 {
		return &denied{Reason: r}
	}
	return denyCause(reason.Unavailable, err)
}

func (d *denied) statusCode() int { return cmp.Or(d.status, d.Reason.Status()) }

// write answers a refused handshake. The body is constant and repeats nothing of the request.
// It ends in the token of the reason, except that a 401 does not say what is wrong with the
// credential.
func (d *denied) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Connection", "close")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	status := d.statusCode()
	switch status {
	case http.StatusUpgradeRequired:
		if d.Reason == reason.Version {
			h.Set("Sec-WebSocket-Version", "13")
		}
		// Use two lines, because net/http closes only if the first line is just "close".
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
	token := d.Token()
	if status == http.StatusUnauthorized {
		token = reason.Unauthenticated.Token()
	}
	io.WriteString(w, http.StatusText(status)+": "+token)
}

// retrySeconds rounds d up to whole seconds, so that a client that obeys is not refused again.
func retrySeconds(d time.Duration) int {
	if d <= 0 {
		return 5
	}
	if d > time.Hour {
		return 3600
	}
	return int((d + time.Second - 1) / time.Second)
}

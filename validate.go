package wsguard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// Validator judges a whole message before the application sees it. It is called by
// many goroutines at once. It must neither change msg nor keep it, because the bytes
// are used again, for messages of other connections too.
//
// An error refuses the message: as reason.InvalidJSON, reason.InvalidUTF8,
// reason.JSONLimit or ErrForbidden if it wraps that, else as reason.Schema. If it wraps a
// reason of [reason.New], the client and the events get the token and the close code of
// that. A panic of Validate, or of a method of its error, closes the connection with 1011.
// A *[Schema] is a Validator.
type Validator interface {
	Validate(msg []byte) error
}

// MessageConfig says which messages an endpoint accepts. The zero value is a secure default
// in each field: text messages of at most 32 KiB, whatever is in them.
type MessageConfig struct {
	// Binary accepts binary messages besides text. The default is false: a binary message
	// closes the connection with 1003 message_type.
	Binary bool

	// MaxBytes is how many bytes of payload a message may have, as its frames declare. The
	// default is 32 KiB. It cannot be Off. A longer message closes the connection with 1009
	// message_too_big, before its payload is read.
	MaxBytes int64

	// MaxFragments is how many frames one message may have. The default is 64
	// and one more for each KiB of MaxBytes: 96 for 32 KiB. So a client that
	// writes its messages through a buffer of a few KiB, as many do, can send
	// whatever MaxBytes allows. Off is no limit. A message with more frames
	// closes the connection with 1008 fragments.
	MaxFragments int

	// Timeout is how long a message may take from the first byte of its header to its last
	// byte. The default is 10 seconds, Off is no limit. A message that takes longer closes
	// the connection with 1008 message_timeout.
	Timeout time.Duration

	// Control is the rate of pings and pongs that a client may send. The default is 10 per
	// second with a burst of 20, Rate{PerSecond: Off} is no limit. More close the connection
	// with 1008 control_flood.
	Control Rate

	// Validator judges every message, text or binary. A *[Schema] and a *[Table] are
	// Validators. The default, nil, accepts every message. A message that it refuses closes
	// the connection with 1008 schema or with the reason that the error wraps, unless
	// OnInvalid says otherwise.
	Validator Validator

	// Validators judge, in place of Validator, the messages of connections with the
	// subprotocols that are the keys. Each key must be among Subprotocols. If there is no
	// Validator, a handshake that negotiates none of the keys gets a 400. The default is nil.
	Validators map[string]Validator

	// OnInvalid is what happens to a message that Validator or Validators refuse. ActionClose,
	// the default, closes the connection. ActionReply answers with a notice and reads on.
	// ActionReport reports the message and delivers it. ActionDelay is an error.
	OnInvalid Action

	// Authorize is asked last, for each message, whether p may send it. kind is the type
	// that a Table has found, or "". The default, nil, allows every message.
	//
	// An error closes the connection with 3003 forbidden, unless OnForbidden says otherwise,
	// or with the code of a reason of [reason.New] that it wraps. An error that wraps
	// ErrUnavailable, or a call that takes longer than Auth.VerifyTimeout, closes it with
	// 1013, and a panic with 1011. Authorize is called by many goroutines at once. It must
	// neither change msg nor keep it.
	Authorize func(ctx context.Context, p Principal, kind string, msg []byte) error

	// OnForbidden is what happens to a message that Authorize or the Scope of a Rule refuses.
	// It has the values of OnInvalid. The default is ActionClose.
	OnForbidden Action

	// Outbound judges each message that Write, Send and SendLatest are given, once for each
	// connection. A message that it refuses is not sent: the call returns an error that wraps
	// Outbound's, a violation is reported, and the client sees nothing. It finds mistakes of
	// the application. The default, nil, judges nothing.
	Outbound Validator
}

func (m MessageConfig) resolve(subprotocols []string, f *faults) MessageConfig {
	m.MaxBytes = requiredAmount(m.MaxBytes, 32<<10, "Messages.MaxBytes", f)
	// This fits in an int, because MaxBytes is at most maxAmount.
	m.MaxFragments = limit(m.MaxFragments, int(64+m.MaxBytes>>10), "Messages.MaxFragments", f)
	m.Timeout = timeout(m.Timeout, 10*time.Second, "Messages.Timeout", f)
	m.Control = m.Control.resolve(Rate{10, 20}, "Messages.Control", f)
	if m.OnInvalid < ActionClose || m.OnInvalid > ActionReport || m.OnInvalid == ActionDelay {
		f.add("Messages.OnInvalid", int(m.OnInvalid), "must be ActionClose, ActionReply or ActionReport")
	}
	if m.OnForbidden < ActionClose || m.OnForbidden > ActionReport || m.OnForbidden == ActionDelay {
		f.add("Messages.OnForbidden", int(m.OnForbidden), "must be ActionClose, ActionReply or ActionReport")
	}
	m.Validator = inUse(m.Validator, "Messages.Validator", f)
	m.Outbound = inUse(m.Outbound, "Messages.Outbound", f)
	if m.Validators != nil {
		own := make(map[string]Validator, len(m.Validators))
		for name, v := range m.Validators {
			known := false
			for _, s := range subprotocols {
				known = known || s == name
			}
			if !known {
				f.add("Messages.Validators", name, "not among Subprotocols")
			}
			if v == nil {
				f.add("Messages.Validators", name, "no Validator")
			}
			own[name] = inUse(v, "Messages.Validators", f)
		}
		m.Validators = own
	}
	return m
}

// inUse is v, or what a Table becomes.
func inUse(v Validator, field string, f *faults) Validator {
	switch v := v.(type) {
	case *Table:
		if v != nil {
			return v.resolve(field, f)
		}
		f.add(field, "", "a nil *Table")
	case *Schema:
		if v == nil {
			f.add(field, "", "a nil *Schema")
		}
	}
	return v
}

// validator returns who judges the messages of a connection.
func (m *MessageConfig) validator(subprotocol string) Validator {
	if v, ok := m.Validators[subprotocol]; ok {
		return v
	}
	return m.Validator
}

// validate runs a validator, which may be the user's.
func validate(v Validator, msg []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the validator panicked", reason.Internal)
		}
	}()
	return v.Validate(msg)
}

// objection is what a hook's error comes to. It is worked out once, so that no
// method of the application's error runs anywhere else.
type objection struct {
	why     *reason.Reason
	kind    *reason.Reason // of this package: what why counts as; why itself unless it is the application's own
	detail  string         // the text of the error
	message *MessageError  // what a notice can say about the message; nil: nothing
	err     error          // the error itself, to be wrapped
}

// object judges a hook's error by verdict. The methods of the error, which
// errors.Is and errors.As call, are the application's. If one of them panics, the
// objection is reason.Internal, as if the hook itself had panicked.
func object(err error, verdict func(error) *reason.Reason) (o objection) {
	o = objection{why: reason.Internal, kind: reason.Internal, detail: "a method of the error panicked", err: reason.Internal}
	defer func() { _ = recover() }()
	kind := verdict(err)
	judged := objection{why: kind, kind: kind, detail: err.Error(), err: err}
	if own := ownReason(err); own != nil && !serversFault(kind) {
		judged.why = own
	}
	errors.As(err, &judged.message)
	return judged
}

// ownReason returns the reason that err wraps, if the application has made it. It must run
// under recover, because it calls the methods of the error.
func ownReason(err error) *reason.Reason {
	var r *reason.Reason
	if errors.As(err, &r) && r != nil && r.Own() {
		return r
	}
	return nil
}

// verdict finds the sentinel of a validator's error.
func verdict(err error) *reason.Reason {
	for _, why := range []*reason.Reason{
		reason.Internal, reason.InvalidJSON, reason.InvalidUTF8, reason.JSONLimit, reason.Forbidden, reason.UnknownType, reason.MessageTooBig, reason.Schema,
	} {
		if errors.Is(err, why) {
			return why
		}
	}
	return reason.Schema
}

// forbidden is verdict for what authorize returns.
func forbidden(err error) *reason.Reason {
	switch {
	case errors.Is(err, reason.Internal):
		return reason.Internal
	case errors.Is(err, reason.Unavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return reason.Unavailable
	}
	return reason.Forbidden
}

// notice is the reply to a message that was refused.
type notice struct {
	Error   string `json:"error,omitempty"`
	Warning string `json:"warning,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Pointer string `json:"pointer,omitempty"`
	Keyword string `json:"keyword,omitempty"`
	RetryMS int64  `json:"retry_after_ms,omitempty"`
}

func (o objection) notice() notice {
	if o.kind == reason.Forbidden {
		n := notice{Error: "forbidden"}
		if o.why.Own() {
			n.Reason = o.why.Token()
		}
		return n
	}
	n := notice{Error: "invalid_message", Reason: o.why.Token()}
	if m := o.message; m != nil {
		n.Pointer, n.Keyword = m.Pointer, m.Keyword
		if !o.why.Own() {
			n.Reason = m.Reason
		}
	}
	return n
}

func rateNotice(wait time.Duration) notice {
	n := notice{Error: "rate_limited"}
	if wait < time.Hour {
		n.RetryMS = (wait + time.Millisecond - 1).Milliseconds()
	}
	return n
}

func (n notice) json() []byte {
	b, err := json.Marshal(n)
	if err != nil {
		return []byte(`{"error":"` + n.Error + `"}`)
	}
	return b
}

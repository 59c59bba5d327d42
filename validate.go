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

// MessageConfig says what messages are accepted. In each field 0 is the default,
// and Off no limit where the comment does not say "required".
type MessageConfig struct {
	Binary   bool  // accept binary messages as well; else → 1003
	MaxBytes int64 // of a message, as its frames declare; default 32 KiB, required → 1009

	// MaxFragments is how many frames one message may have. The default is 64
	// and one more for each KiB of MaxBytes: 96 for 32 KiB. So a client that
	// writes its messages through a buffer of a few KiB, as many do, can send
	// whatever MaxBytes allows. Off is no limit. A message with more frames
	// closes the connection with 1008 fragments.
	MaxFragments int

	Timeout time.Duration // from the first byte of its header to its last; default 10 s → 1008 message_timeout
	Control Rate          // pings and pongs; default 10/s, burst 20 → 1008 control_flood

	// Validator judges every message, text or binary; nil accepts all.
	// Validators judge those of connections with these subprotocols
	// instead: a handshake that negotiates none of them gets 400 unless
	// there is a Validator as well. OnInvalid is what happens to what they
	// refuse: ActionClose, ActionReply or ActionReport.
	Validator  Validator
	Validators map[string]Validator
	OnInvalid  Action

	// Authorize is asked last, for each message, with its type if a Table has
	// found one. An error is a 3003 forbidden; one that wraps ErrUnavailable a
	// 1013, and so is VerifyTimeout; a panic a 1011. OnForbidden is as
	// OnInvalid, for the first and for a Rule's Scope. Authorize must neither
	// change msg nor keep it, as a Validator.
	Authorize   func(ctx context.Context, p Principal, kind string, msg []byte) error
	OnForbidden Action

	// Outbound judges what Write and Send are given: what it refuses is not
	// sent, and its error is returned. Each connection asks: it is for
	// development, or for those who do not trust themselves.
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

// is is errors.Is for an error that may be the application's. If one of its methods
// panics, it is not target.
func is(err, target error) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	return errors.Is(err, target)
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

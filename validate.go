package wsguard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// Validator checks a whole message before the application sees it. Many goroutines call it
// at the same time. It must neither change msg nor keep it, because the guard reuses the
// bytes, also for messages of other connections.
//
// A *[Schema] and a *[Table] are Validators.
type Validator interface {
	// Validate returns nil if the message is good. An error refuses the message.
	//
	// If the error wraps reason.InvalidJSON, reason.InvalidUTF8, reason.JSONLimit,
	// reason.Forbidden, reason.UnknownType or reason.MessageTooBig, that is the reason of the
	// refusal. The reason of any other error is reason.Schema. If the error wraps a reason that
	// the application has made with reason.New, the client and the events get the token of that
	// one, and the client its close code. A panic of Validate or of a method of the error, and
	// an error that wraps reason.Internal, close the connection with 1011.
	Validate(msg []byte) error
}

// MessageConfig says which messages an endpoint accepts. The zero value is a secure default
// in each field. It accepts text messages of at most 32 KiB with any content.
type MessageConfig struct {
	// Binary accepts binary messages besides text. The default is false. A binary message then
	// closes the connection with 1003 message_type.
	Binary bool

	// MaxBytes is how many bytes of payload a message may have, as its frames declare. The
	// default is 32 KiB. It cannot be Off. A longer message closes the connection with 1009
	// message_too_big, before its payload is read.
	MaxBytes int64

	// MaxFragments is how many frames one message may have. The default is 64
	// and one more for each KiB of MaxBytes, which is 96 for 32 KiB. Many clients write
	// their messages through a buffer of a few KiB. The default allows them every message
	// that MaxBytes allows. Off is no limit. A message with more frames closes the
	// connection with 1008 fragments.
	MaxFragments int

	// Timeout is how long a message may take from the first byte of its header to its last byte.
	// The default is 10 seconds, and Off is no limit. A message that takes longer closes the
	// connection with 1008 message_timeout.
	Timeout time.Duration

	// ControlFrames is the rate of pings and pongs that the peer of a connection may send. The
	// default is 10 per second with a burst of 20. Rate{PerSecond: Off} is no limit. A connection
	// whose peer sends more is closed with 1008 control_flood.
	ControlFrames Rate

	// Validator checks every message, text or binary. A *[Schema] and a *[Table] are Validators.
	// The default, nil, accepts every message. A message that the Validator refuses closes the
	// connection, unless OnInvalid says otherwise. The close code and the text are those of the
	// reason that [Validator] describes, such as 1008 schema.
	Validator Validator

	// Validators has Validators for some of the Subprotocols, by their names. A connection that
	// has negotiated one of these uses the Validator of that name. All other connections use the
	// field Validator. If that is nil, a handshake that negotiates none of these names gets a
	// 400. Each key must be among Subprotocols. The default is nil.
	Validators map[string]Validator

	// OnInvalid is what happens to a message that its Validator refuses. ActionClose, the
	// default, closes the connection. ActionReply drops the message, answers it with a notice,
	// and leaves the connection open. ActionDelay is an error.
	OnInvalid Action

	// ReportOnly reports a message that its Validator refuses, and delivers it. OnInvalid does not
	// apply then. The other fields here are not affected, unless Config.Observe is set. There is
	// one exception. If Authorize is set or a Rule of the Table has a Scope, a message of an
	// unknown type is still forbidden, as OnForbidden says. The default is false.
	ReportOnly bool

	// Authorize is called for each message, after every other check, and decides whether p may
	// send it. kind is the type of the message, as [Conn.Kind] returns it. For a JSON-RPC batch,
	// Authorize is called for each call, with its kind and its bytes. The default, nil, allows
	// every message.
	//
	// An error closes the connection with 3003 forbidden, unless OnForbidden says otherwise. If
	// the error wraps a reason that the application has made with [reason.New], the connection
	// is closed with the code of that reason. An error that wraps ErrUnavailable,
	// context.DeadlineExceeded or context.Canceled, and a call that takes longer than
	// Auth.VerifyTimeout, close it with 1013. A panic closes it with 1011. Many goroutines call
	// Authorize at the same time. It must neither change msg nor keep it.
	Authorize func(ctx context.Context, p Principal, kind string, msg []byte) error

	// Notice returns the notice that answers a refused message with ActionReply, in the words of
	// the protocol that the client speaks. The packages jsonrpc and graphqlws have ready-made
	// ones. The default, nil, is the JSON that ActionReply describes. Notice also makes the
	// warning of Rates.WarnAt.
	//
	// The guard sends the notice as a text message. If Notice returns nil, no answer is due. The
	// guard then sends nothing, and the message does not count toward the limit of notices. A
	// notice that is longer than [Refused.MaxBytes] allows, a notice that is not UTF-8, and an
	// error close the connection as ActionClose does. A panic closes it with 1011. Without the
	// hook, the guard leaves out the notices above their limit. With the hook, it closes the
	// connection when such a notice is due, so that the client does not wait for an answer in vain.
	// The code is 1008 unless Config.CloseCodes has the reason, and the text is the token of the
	// reason. For a warning, only a panic closes the connection.
	//
	// The guard copies the notice. Many goroutines call Notice at the same time. It must neither
	// change nor keep Refused.Message.
	Notice func(r Refused) (notice []byte, err error)

	// OnForbidden is what happens to a message that Authorize or the Scope of a Rule refuses.
	// It has the values of OnInvalid. The default is ActionClose.
	OnForbidden Action

	// InsecureReportOnlyForbidden reports a message that Authorize or the Scope of a Rule
	// refuses, and delivers it. OnForbidden does not apply then. The default is false.
	InsecureReportOnlyForbidden bool

	// Sanitize is called for each message that has passed the Validator, the Scope and Authorize.
	// It returns the message that the application gets instead. Use it to remove text that no check
	// needs to refuse, such as blanks around a name. kind is what Authorize gets. For a JSON-RPC
	// batch, Sanitize is called for each call, with its kind and its bytes, and the batch is put
	// together again. The package sanitize has ready-made functions. The default, nil, changes
	// nothing. Sanitize is not called for the credential in a first message.
	//
	// msg is a copy. Sanitize may change it in place and may return it or a part of it, but it must
	// not keep it. The guard copies the result. A nil result is the empty message.
	//
	// If Sanitize has changed a message, the guard checks once more that it is UTF-8, and that the
	// Validator, the Scope and Authorize accept it. If they do not, the guard refuses it as if the
	// client had sent it. Sanitize must not change the type that a message has in the Table, nor
	// that of a call in a batch. The guard refuses such a message as one of an unknown type,
	// because it has judged Scope and Cost by the old type. It does not charge the rates again.
	//
	// An error refuses the message as an error of the Validator does, and so does a result that is
	// longer than MaxBytes, with reason.MessageTooBig. OnInvalid says what happens then. A panic,
	// and an error that wraps reason.Internal, close the connection with 1011. With ReportOnly,
	// Sanitize also gets the messages that the Validator refuses. If Sanitize returns an error, the
	// application gets the message as it was before. If the Validator refuses the result, the
	// application gets the result.
	//
	// Many goroutines call Sanitize at the same time.
	Sanitize func(kind string, msg []byte) ([]byte, error)

	// Outbound checks every message that a method of Conn sends, and every message that a
	// handler behind Guard.Wrap sends. If the application calls Send for many connections,
	// Outbound checks the message once for each of them. Guard.Prepare checks it once for all.
	// Use Outbound to find mistakes of the application. A message that Outbound refuses is not
	// sent. The method returns an error that wraps that of Outbound. The guard reports a
	// violation, but not for Prepare, which belongs to no connection. The client sees nothing.
	// The default, nil, checks nothing.
	Outbound Validator
}

func (m MessageConfig) resolve(subprotocols []string, f *faults) MessageConfig {
	m.MaxBytes = requiredAmount(m.MaxBytes, 32<<10, "Messages.MaxBytes", f)
	// This fits in an int, because MaxBytes is at most maxAmount.
	m.MaxFragments = limit(m.MaxFragments, int(64+m.MaxBytes>>10), "Messages.MaxFragments", f)
	m.Timeout = timeout(m.Timeout, 10*time.Second, "Messages.Timeout", f)
	m.ControlFrames = m.ControlFrames.resolve(Rate{10, 20}, "Messages.ControlFrames", f)
	m.OnInvalid = m.OnInvalid.resolve(m.ReportOnly, "Messages.OnInvalid", f)
	m.OnForbidden = m.OnForbidden.resolve(m.InsecureReportOnlyForbidden, "Messages.OnForbidden", f)
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

// resolve returns what happens to a message that a hook refuses.
func (a Action) resolve(reportOnly bool, field string, f *faults) Action {
	if a != ActionClose && a != ActionReply {
		f.add(field, int(a), "must be ActionClose or ActionReply")
	}
	if reportOnly {
		return actionReport
	}
	return a
}

// inUse returns v, or the compiled form of v if it is a Table.
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

// validator returns the Validator for the messages of a connection.
func (m *MessageConfig) validator(subprotocol string) Validator {
	if v, ok := m.Validators[subprotocol]; ok {
		return v
	}
	return m.Validator
}

// validate calls v and recovers its panics, because v may be the application's.
func validate(v Validator, msg []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the validator panicked", reason.Internal)
		}
	}()
	return v.Validate(msg)
}

// objection has what the guard needs to know about a hook's error. object makes it once, so
// that no method of the application's error runs anywhere else.
type objection struct {
	why     *reason.Reason
	kind    *reason.Reason // the built-in reason that why counts as; it differs from why only for a reason of reason.New
	detail  string         // the text of the error
	message *MessageError  // the details for a notice; nil: none
	err     error          // the error itself, for callers to wrap
	by      *Schema        // can say where in the message the fault is; nil: nothing can, or the objection says it
	at      call           // what by has judged
	wait    time.Duration  // how long a message over a rate would have to wait
}

// explained returns o with the place in msg, if there is a Schema that can tell it.
func (o objection) explained(msg []byte) objection {
	if o.by == nil || o.message == nil {
		return o
	}
	if e := o.by.s.Explain(o.at.of(msg)); e != nil {
		o.message = o.at.located(messageError(e))
		o.detail, o.by = o.message.Error(), nil
	}
	return o
}

// object judges a hook's error with verdict. errors.Is and errors.As call methods of the
// error, which are the application's. If one of them panics, the objection has
// reason.Internal, as if the hook itself had panicked.
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

// ownReason returns the reason of reason.New that err wraps, or nil. It must run under
// recover, because it calls methods of the error.
func ownReason(err error) *reason.Reason {
	var r *reason.Reason
	if errors.As(err, &r) && r != nil && r.Own() {
		return r
	}
	return nil
}

// verdict returns the reason for a validator's error.
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

// forbidden returns the reason for an error of authorize.
func forbidden(err error) *reason.Reason {
	switch {
	case errors.Is(err, reason.Internal):
		return reason.Internal
	case errors.Is(err, reason.Unavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return reason.Unavailable
	}
	return reason.Forbidden
}

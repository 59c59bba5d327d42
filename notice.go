package wsguard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// Refused describes a message that the guard has refused, for [MessageConfig.Notice].
type Refused struct {
	// Kind is the type of the message, as [Conn.Kind] returns it. For one refused call of a
	// JSON-RPC batch it is the type of the call.
	Kind string

	// Message is the whole message, as the peer has sent it. It may be text that is not JSON. It is
	// valid until Notice returns.
	Message []byte

	// Reason is why the message is refused. It is reason.RateLimited, reason.Forbidden, or one of
	// the reasons that [Validator] lists. If a hook has returned a reason of reason.New, it is the
	// built-in reason as which the guard counts the refusal. For an error of Authorize, that is
	// reason.Forbidden. For all others it is one of the list of [Validator].
	Reason *reason.Reason

	// Token is a token for the fault. It is the token of the application's own reason, the Reason
	// of the [MessageError], such as "duplicate_key", or the token of Reason.
	Token string

	// Pointer is the JSON pointer (RFC 6901) to the value that is refused, and Keyword the place
	// in the schema of the keyword that has refused it. Both are empty if no Schema has refused
	// the message. A name in Pointer that the schema does not declare is *, so that Pointer
	// repeats nothing of the message. In a JSON-RPC batch, Pointer begins with the index of the
	// call. The guard takes another pass over the message to find the place. It does so for
	// 20 messages of a connection and for one more each second, whether Notice answers them or not.
	// For the others, Pointer has no more than the index of the call.
	Pointer, Keyword string

	// Detail says more where Keyword does not say enough, as MessageError.Detail does. It is empty
	// for most keywords, and for messages in which the guard does not look for the place.
	Detail string

	// RetryAfter is how long the peer has to wait until the rates allow the message. It is 0 if
	// waiting does not help, if the wait is an hour or longer, and for any reason but
	// reason.RateLimited.
	RetryAfter time.Duration

	// Warning says that the message is not refused. The application gets it and may answer it. The
	// notice only warns the peer that it comes near a rate, as RateConfig.WarnAt says. In a protocol
	// that answers each message once, Notice should return nil.
	Warning bool
}

// Bounds on what the hook Notice answers.
const (
	maxNotice = 1024 // bytes of a notice
	minNotice = 256  // bytes that may always answer, however short the message is
)

// MaxBytes returns how many bytes the notice may have. That is the length of the message, but at
// least 256 and at most 1,024 bytes. So a peer cannot make the guard send much more than it is
// sent.
func (r Refused) MaxBytes() int { return min(max(len(r.Message), minNotice), maxNotice) }

// The buckets of notices. Notices about rates and about messages have a bucket each, so that a
// flood of one kind does not suppress the other.
const (
	rateNotices = iota
	messageNotices

	// placePasses are not notices but the passes over a message that find the place of a fault for
	// the hook Notice. A pass counts whether the hook then answers or not. So a flood of messages
	// that get no answer does not cost twice.
	placePasses

	noticeBuckets
)

// answer returns the notice that answers a refused message, or nil if none is sent. If a notice
// is due and cannot be sent, answer returns the ending of the connection instead. It makes o say
// where the fault is if a notice will.
func (in *inbound) answer(o *objection, bucket int) (notice []byte, unanswered *ending) {
	hook := in.policy.messages.Notice
	if hook == nil {
		if !in.mayNotify(bucket) {
			return nil, nil
		}
		*o = o.explained(in.msg.Data)
		return o.notice().json(), nil
	}
	if o.by != nil && in.bucket(placePasses).Allow() {
		*o = o.explained(in.msg.Data)
	}
	end := func(code websocket.StatusCode, why string) *ending {
		e := violation(o.why, why+": "+in.detail(*o))
		e.code = code
		return &e
	}
	if in.c.who.awaiting.Load() {
		return nil, end(0, "before the credential") // which the hook must not see
	}
	if o.kind == reason.RateLimited {
		in.setRule(in.ruleOf())
	}
	notice, err := ask(hook, in.describe(o))
	switch {
	case err == errNoticePanic:
		e := fault("Messages.Notice panicked")
		return nil, &e
	case err != nil:
		return nil, end(0, "Messages.Notice: "+errorText(err))
	case len(notice) == 0:
		return nil, nil
	case !in.c.w.NoticeRoom() || !in.mayNotify(bucket):
		return nil, end(websocket.StatusPolicyViolation, "no notices left")
	}
	return notice, nil
}

// sent returns the message as the peer has sent it.
func (in *inbound) sent() []byte {
	if in.changed != nil {
		return in.changed.sent
	}
	return in.msg.Data
}

// describe returns what the hook learns of an objection.
func (in *inbound) describe(o *objection) Refused {
	r := Refused{Kind: in.at.rule.kind, Message: in.sent(), Reason: o.kind, Token: o.why.Token()}
	if m := o.message; m != nil {
		r.Pointer, r.Keyword, r.Detail = m.place, m.Keyword, m.Detail
		if m.place == "" {
			r.Pointer = m.Pointer // the application has made m
		}
		if !o.why.Own() && m.Reason != "" {
			r.Token = m.Reason
		}
	}
	if o.wait < time.Hour {
		r.RetryAfter = o.wait
	}
	return r
}

var errNoticePanic = fmt.Errorf("%w: Messages.Notice panicked", reason.Internal)

// ask calls the application's hook and copies its answer. It returns an error for a notice that
// must not be sent.
func ask(hook func(Refused) ([]byte, error), r Refused) (notice []byte, err error) {
	defer func() {
		if recover() != nil { // the value may quote the message, so drop it
			notice, err = nil, errNoticePanic
		}
	}()
	notice, err = hook(r)
	switch {
	case err != nil:
		return nil, err
	case len(notice) > r.MaxBytes():
		return nil, fmt.Errorf("a notice of %d bytes where %d are allowed", len(notice), r.MaxBytes())
	case !utf8.Valid(notice):
		return nil, reason.InvalidUTF8
	}
	return bytes.Clone(notice), nil
}

// warn sends the peer a notice before it exceeds a rate.
func (in *inbound) warn() {
	in.c.report(reason.RateLimited, "warned", audit.ActionWarn)
	hook := in.policy.messages.Notice
	if hook == nil {
		if in.mayNotify(rateNotices) {
			in.send(notice{Warning: "rate_limit"}.json())
		}
		return
	}
	if in.c.who.awaiting.Load() {
		return // the hook must not see the credential
	}
	r := in.describe(&objection{why: reason.RateLimited, kind: reason.RateLimited})
	r.Warning = true
	n, err := ask(hook, r)
	switch {
	case err == errNoticePanic:
		in.c.end(fault("Messages.Notice panicked"))
	case err == nil && len(n) > 0 && in.mayNotify(rateNotices):
		in.send(n)
	}
}

// bucket returns one of the buckets.
func (in *inbound) bucket(bucket int) *rate.Limiter {
	if in.notices[bucket] == nil {
		in.notices[bucket] = rate.NewLimiter(1, 20)
	}
	return in.notices[bucket]
}

// mayNotify reports whether the bucket of notices allows one.
func (in *inbound) mayNotify(bucket int) bool {
	if !in.bucket(bucket).Allow() {
		in.c.omitted()
		return false
	}
	return true
}

// send sends a notice, if there is one.
func (in *inbound) send(notice []byte) {
	if len(notice) > 0 {
		in.c.notify(notice)
	}
}

// notice is the reply to a message that was refused, without the hook Notice.
type notice struct {
	Error   string `json:"error,omitempty"`
	Warning string `json:"warning,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Pointer string `json:"pointer,omitempty"`
	Keyword string `json:"keyword,omitempty"`
	Detail  string `json:"detail,omitempty"`
	RetryMS int64  `json:"retry_after_ms,omitempty"`
}

func (o objection) notice() notice {
	switch o.kind {
	case reason.RateLimited:
		n := notice{Error: "rate_limited"}
		if o.wait < time.Hour {
			n.RetryMS = (o.wait + time.Millisecond - 1).Milliseconds()
		}
		return n
	case reason.Forbidden:
		n := notice{Error: "forbidden"}
		if o.why.Own() {
			n.Reason = o.why.Token()
		}
		return n
	}
	n := notice{Error: "invalid_message", Reason: o.why.Token()}
	if m := o.message; m != nil {
		n.Pointer, n.Keyword, n.Detail = m.Pointer, m.Keyword, m.Detail
		if !o.why.Own() {
			n.Reason = m.Reason
		}
	}
	return n
}

// json returns the text of n. It leaves out the place in the schema and in the message if the
// text would be too long.
func (n notice) json() []byte {
	for {
		b, err := json.Marshal(n)
		switch {
		case err != nil:
			return []byte(`{"error":"` + n.Error + `"}`)
		case len(b) <= maxNotice:
			return b
		case n.Detail != "":
			n.Detail = ""
		case n.Keyword != "":
			n.Keyword = ""
		case n.Pointer != "":
			n.Pointer = ""
		default:
			return []byte(`{"error":"` + n.Error + `"}`)
		}
	}
}

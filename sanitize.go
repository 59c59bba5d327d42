package wsguard

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// maxSanitizeBox is the largest copy of a message whose memory is kept for another message.
const maxSanitizeBox = 64 << 10

// sanitizeBoxes has memory for the copies that Sanitize gets.
var sanitizeBoxes = sync.Pool{New: func() any { return new([]byte) }}

// clean calls Sanitize, once for each message, and replaces the message by what it returns.
// Sanitize gets a copy and the connection copies the result. So the hook can change neither the
// bytes that were judged nor those that the application gets.
func (in *inbound) clean(time.Time) bool {
	hook := in.policy.messages.Sanitize
	switch {
	case hook == nil || in.changed || in.c.who.awaiting.Load():
		return true
	case in.msg.Ahead:
		return false // the engine asks again when it is the message's turn
	}
	box := sanitizeBoxes.Get().(*[]byte)
	msg := append((*box)[:0], in.msg.Data...)
	*box = msg
	out, err := askSanitize(hook, in.rule.kind, msg[:len(msg):len(msg)])
	switch {
	case err != nil:
		in.err = err
	case int64(len(out)) > in.policy.messages.MaxBytes:
		in.err = errSanitizedTooBig
	case !bytes.Equal(out, in.msg.Data):
		r := in.rule
		if !in.sameKind(out) {
			r = noKind
		}
		in.c.w.Replace(out)
		in.setRule(r)
		in.changed = true
	}
	if cap(msg) <= maxSanitizeBox {
		sanitizeBoxes.Put(box)
	}
	return in.err == nil
}

var errSanitizedTooBig = fmt.Errorf("%w: Sanitize has made it longer than MaxBytes", reason.MessageTooBig)

// unclean applies OnInvalid to a message that Sanitize refuses.
func (in *inbound) unclean() (wire.Verdict, time.Duration, error) {
	in.at = wholeMessage(in.rule, in.msg.Data)
	return in.refuse(object(in.takeErr(), verdict), in.policy.messages.OnInvalid)
}

// sameKind reports whether out has the type that the message has, or a batch the types of its
// calls. The scope, the cost and the
// rates were those of that type.
func (in *inbound) sameKind(out []byte) bool {
	if in.table == nil {
		return true
	}
	r := in.table.rule(out)
	if r != in.rule || r.calls == nil {
		return r == in.rule
	}
	before, after := r.calls.walk(in.msg.Data), r.calls.walk(out)
	for {
		a, b := before.next(), after.next()
		if a != b || !a {
			return a == b
		}
		if before.at.rule != after.at.rule {
			return false
		}
	}
}

// rejudge judges a message that Sanitize has changed, by the checks that depend on its bytes.
func (in *inbound) rejudge(now time.Time) (v wire.Verdict, wait time.Duration, err error) {
	for i := range messageChecks[1:] {
		if check := &messageChecks[1+i]; !check.ok(in, now) {
			if v, wait, err = check.refuse(in); v != wire.Deliver || err != nil {
				return v, wait, err
			}
		}
	}
	return wire.Deliver, 0, nil
}

// askSanitize calls hook and recovers its panics.
func askSanitize(hook func(string, []byte) ([]byte, error), kind string, msg []byte) (out []byte, err error) {
	defer func() {
		if recover() != nil { // the value may quote the message, so drop it
			err = fmt.Errorf("%w: Sanitize panicked", reason.Internal)
		}
	}()
	return hook(kind, msg)
}

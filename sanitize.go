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

// sanitizeBox has memory for one call of clean.
type sanitizeBox struct {
	copied []byte // what Sanitize gets
	batch  []byte // made of what Sanitize returns for each call
	sent   []byte // the message before it was changed
}

var sanitizeBoxes = sync.Pool{New: func() any { return new(sanitizeBox) }}

// release gives b back, unless it is large.
func (b *sanitizeBox) release() {
	if max(cap(b.copied), cap(b.batch), cap(b.sent)) <= maxSanitizeBox {
		sanitizeBoxes.Put(b)
	}
}

// clean calls Sanitize, once for the message or for each call of a batch, and replaces the message
// by what it returns. Sanitize gets a copy and the connection copies the result. So the hook can
// change neither the bytes that were judged nor those that the application gets.
func (in *inbound) clean(time.Time) bool {
	if in.policy.messages.Sanitize == nil || in.changed != nil || in.c.who.awaiting.Load() {
		return true
	}
	box := sanitizeBoxes.Get().(*sanitizeBox)
	out, err := in.sanitize(box)
	switch {
	case err != nil:
		in.err = err
	case int64(len(out)) > in.policy.maxBytes(): // a batch
		in.err = errSanitizedTooBig
	case !bytes.Equal(out, in.msg.Data):
		r := in.rule
		if !in.sameKind(out) {
			r = noKind
		}
		box.sent = append(box.sent[:0], in.msg.Data...)
		in.c.w.Replace(out)
		in.setRule(r)
		in.changed = box
		return true
	}
	box.release()
	return in.err == nil
}

// sanitize returns what Sanitize makes of the message. in.at is the part of the message that an
// error is about.
func (in *inbound) sanitize(box *sanitizeBox) ([]byte, error) {
	whole := wholeMessage(in.rule, in.msg.Data)
	if in.rule.calls == nil {
		return in.sanitizePart(box, whole)
	}
	msg, done := in.msg.Data, 0
	box.batch = box.batch[:0]
	for b := in.rule.calls.walk(msg); b.next(); {
		if b.at.index < 0 {
			return in.sanitizePart(box, whole) // ReportOnly has let something pass that is no batch
		}
		out, err := in.sanitizePart(box, b.at)
		if err != nil {
			return nil, b.at.placed(err)
		}
		box.batch = append(append(box.batch, msg[done:b.at.from]...), out...)
		done = b.at.to
	}
	in.at = whole
	box.batch = append(box.batch, msg[done:]...)
	return box.batch, nil
}

// sanitizePart calls Sanitize with a copy of one part of the message.
func (in *inbound) sanitizePart(box *sanitizeBox, part call) ([]byte, error) {
	in.at = part
	box.copied = append(box.copied[:0], part.of(in.msg.Data)...)
	n := len(box.copied)
	out, err := askSanitize(in.policy.messages.Sanitize, part.rule.kind, box.copied[:n:n])
	if err == nil && int64(len(out)) > in.policy.maxBytes() {
		err = errSanitizedTooBig
	}
	return out, err
}

var errSanitizedTooBig = fmt.Errorf("%w: Sanitize has made it longer than MaxBytes", reason.MessageTooBig)

// unclean applies OnInvalid to a message that Sanitize refuses.
func (in *inbound) unclean() (wire.Verdict, time.Duration, error) {
	return in.refuse(object(in.takeErr(), verdict), in.policy.messages.OnInvalid)
}

// sameKind reports whether out has the type that the message has, or a batch the types of its
// calls. The scope, the cost and the rates were those of that type.
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
	defer func() {
		in.changed.release()
		in.changed = nil
	}()
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

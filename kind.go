package wsguard

import (
	"errors"
	"fmt"
	"math"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// maxInline is how many bytes of a type that must be copied cost no allocation.
const maxInline = 128

// rule finds the type of a message that has not been judged yet, and returns its rule.
func (t *table) rule(msg []byte) *rule {
	switch {
	case t.kind != nil:
		return t.asked(msg)
	case t.jsonrpc && jsonschema.IsBatch(msg):
		return t.batch
	case t.jsonrpc:
		return t.callRule(msg)
	}
	var buf [maxInline]byte
	kind, found := jsonschema.Discriminator(msg, t.path, t.numbers, buf[:])
	switch found {
	case jsonschema.Present:
		return t.named(kind)
	case jsonschema.Absent:
		return t.absent
	}
	return t.unclear
}

// named returns the rule of a type.
func (t *table) named(kind []byte) *rule {
	if r := t.rules[string(kind)]; r != nil {
		return r
	}
	if r := t.prefixed(kind); r != nil {
		return r
	}
	return t.other
}

// Validate finds the type of msg and judges it.
func (t *table) Validate(msg []byte) error {
	_, err := t.judge(msg, t.rule(msg))
	return err
}

// asked returns the rule of the type that the application's Kind returns.
func (t *table) asked(msg []byte) (r *rule) {
	defer func() {
		if recover() != nil { // the value may quote the message, so drop it
			r = faultyKind
		}
	}()
	kind, ok := t.kind(msg)
	if !ok {
		return t.absent
	}
	var buf [maxInline]byte
	return t.named(append(buf[:0], kind...))
}

// cost returns how many messages msg counts for, whose rule is r.
func (r *rule) cost(msg []byte) int {
	if r.calls == nil {
		return max(1, r.Cost)
	}
	n := 0
	for b := r.calls.walk(msg); b.next(); {
		if n += max(1, b.at.rule.Cost); n < 0 {
			return math.MaxInt // no burst is as large
		}
	}
	return max(1, n)
}

// call is what one rule judges: a whole message, or one call of a JSON-RPC batch.
type call struct {
	rule     *rule
	index    int // the place of the call in its batch; -1: it is the whole message
	from, to int // where it stands in the message
}

func wholeMessage(r *rule, msg []byte) call { return call{rule: r, index: -1, to: len(msg)} }

// of returns the bytes of c, which is a part of msg.
func (c call) of(msg []byte) []byte { return msg[c.from:c.to:c.to] }

// placed returns an error about c as an error about the whole message.
func (c call) placed(err error) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *MessageError:
		return c.located(e)
	}
	if c.index < 0 {
		return err
	}
	return &callError{c, err}
}

// located returns an error about a place in c as one about a place in the whole message.
func (c call) located(e *MessageError) *MessageError {
	if c.index < 0 {
		return e
	}
	m, at := *e, fmt.Sprintf("/%d", c.index)
	m.Pointer, m.place, m.text = at+e.Pointer, at+e.place, ""
	if m.Offset >= 0 {
		m.Offset += c.from
	}
	return &m
}

// callError is an error about one call of a batch.
type callError struct {
	call call
	err  error
}

func (e *callError) Error() string { return fmt.Sprintf("call %d: %v", e.call.index, e.err) }
func (e *callError) Unwrap() error { return e.err }

// As finds a MessageError that err wraps, with its place in the whole message.
func (e *callError) As(target any) bool {
	m, ok := target.(**MessageError)
	if !ok || !errors.As(e.err, m) {
		return false
	}
	*m = e.call.located(*m)
	return true
}

// judge judges a message whose rule is r. If it is refused, judge returns the call that is to
// blame, which is the whole message if it is no batch.
func (t *table) judge(msg []byte, r *rule) (call, error) {
	whole := wholeMessage(r, msg)
	if r.calls == nil {
		return whole, validate(r, msg)
	}
	for b := r.calls.walk(msg); b.next(); {
		if err := validate(b.at.rule, b.at.of(msg)); err != nil {
			return b.at, b.at.placed(err)
		}
	}
	return whole, nil
}

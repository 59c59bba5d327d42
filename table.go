package wsguard

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"

	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// Table is a Validator that checks messages by their type. A type comes from a string in the
// message (Pointer), from an integer (Numbers), from a function of the application's (Kind), or
// from the method of a JSON-RPC 2.0 call (JSONRPC).
//
// The Table refuses a message with reason.UnknownType if it has no rule for the type of the
// message. It also does so if programs could read the message as one of another type. Neither
// Default nor Absent applies then.
//
// A Table must not be changed or copied after its first use. [New] and Guard.Reconfigure take
// what the Table contains at the time of the call.
type Table struct {
	// Pointer is the JSON pointer (RFC 6901) to the type. The default is "/type". The part 0 of a
	// pointer such as "/0" is the first item where the message has an array, and the member of
	// the name 0 where it has an object.
	Pointer string

	// Numbers makes the type an integer instead of a string, as in {"op":2}. The keys of Types
	// are then decimal integers such as "2" and "-1", from -(2^53-1) to 2^53-1. An integer that a
	// message writes in another way, such as 2.0, 2e0 or -0, is an unknown type. The default is
	// false.
	Numbers bool

	// Kind returns the type of a message. It replaces Pointer. ok is false for a message that has
	// no type, and Absent applies to it. The default, nil, finds the type as the other fields say.
	//
	// Kind must read the type as the application does, because the guard cannot check that.
	// Kind is called before the message is checked. So msg can be anything that the peer sends,
	// such as text that is not JSON. Kind can be called more than once for a message. Many
	// goroutines call it at the same time. It must neither change msg nor keep it. A panic closes
	// the connection with 1011.
	Kind func(msg []byte) (kind string, ok bool)

	// NotJSON says that the messages are not JSON. The Table then does not require JSON, and the
	// Validator of a rule gets the message as it is. Use it for a binary protocol, together with
	// MessageConfig.Binary. It requires Kind. The default is false, and every message must be
	// strict JSON.
	NotJSON bool

	// JSONRPC says that the messages are calls of JSON-RPC 2.0, in both directions. The type is
	// the method. A response, which has no method, has the rule Absent. The default is false.
	//
	// A message that breaks the rules of JSON-RPC 2.0 is refused with reason.UnknownType. The
	// member jsonrpc must be "2.0". The id is a string or an integer without a fraction, and may
	// be null in an error only. The params are an object or an array. A response has exactly one
	// of result and error. Further members are allowed.
	//
	// A batch is an array of calls. Each call is judged by the rule of its own method. The
	// Validator and Authorize get the bytes of the call, and Scope and MaxBytes apply to the call.
	// The batch has the Cost of all its calls together. If one call is refused, the whole batch is
	// refused.
	JSONRPC bool

	// MaxBatch is how many calls a batch may have. The default is 32, and Off is no limit except
	// MessageConfig.MaxBytes. A longer batch is refused with reason.JSONLimit. It requires
	// JSONRPC.
	MaxBatch int

	// RefuseBatches refuses every batch with reason.UnknownType. Use it if the application does
	// not serve batches. It requires JSONRPC. The default is false.
	RefuseBatches bool

	// Types has a Rule for each type of message. Types, Prefixes and Default may not all be empty.
	// If Default is set, "*" cannot be a key, because Conn.Kind returns it for Default. If Absent
	// is set, "" cannot be a key, for the same reason.
	Types map[string]Rule

	// Prefixes has a Rule for all types that begin with a string. For example, "room:" applies to
	// the type "room:42". The longest prefix applies, and only if the type is not in Types. A key
	// cannot be empty, and cannot be in Types too. The default is none.
	Prefixes map[string]Rule

	// Default is the Rule for a type that is neither in Types nor in Prefixes. The default, nil,
	// refuses such a message with reason.UnknownType.
	Default *Rule

	// Absent is the Rule for messages without a type. These are messages that have nothing at
	// Pointer, or for which Kind returns false, and the responses of JSON-RPC. The default, nil,
	// refuses them with reason.UnknownType.
	Absent *Rule

	built atomic.Value // the *builtTable of the first Validate
}

// Rule is what a Table requires of the messages of one type.
type Rule struct {
	// Validator checks the message, or the call of a JSON-RPC batch. A *Schema is a Validator,
	// and a *Table is an error here. The message is strict JSON already, unless Table.NotJSON is
	// set. The default, nil, accepts every message.
	Validator Validator

	// Scope is the scope that the Principal must have. A message of a Principal without the
	// scope closes the connection with 3003 forbidden, unless MessageConfig.OnForbidden says
	// otherwise. The default, "", requires no scope.
	Scope string

	// MaxBytes is how many bytes the message may have. MessageConfig.MaxBytes holds as well, so
	// a larger MaxBytes has no effect. The default, 0, is no further limit. It cannot be Off. A
	// longer message is refused with reason.MessageTooBig, and MessageConfig.OnInvalid says what
	// happens then.
	MaxBytes int64

	// Cost is how many messages a message of this type counts for. It applies to
	// Rates.Messages, Rates.ClientMessages and Rates.SubjectMessages, and not to the rates of
	// bytes. A message always exceeds a rate whose burst is less than its Cost. The default,
	// 0, counts as 1. It cannot be Off.
	Cost int
}

// defaultKind is the kind of the rule Default.
const defaultKind = "*"

// builtTable is a compiled Table, for its method Validate.
type builtTable struct {
	of  *Table // a copy of a Table has the builtTable of another
	own *table
	err error
}

// Validate checks a message by its type. It does not look at the Scope, and it charges no Cost.
func (t *Table) Validate(msg []byte) error {
	b, _ := t.built.Load().(*builtTable)
	if b == nil || b.of != t {
		var f faults
		b = &builtTable{of: t, own: t.resolve("Table", &f)}
		if err := f.err(); err != nil {
			b.err = fmt.Errorf("%w: %w", reason.Internal, err)
		}
		t.built.Store(b)
	}
	if b.err != nil {
		return b.err
	}
	at, err := b.own.judge(msg, b.own.rule(msg))
	if err == nil {
		return nil
	}
	return at.explain(msg, err)
}

// table is a compiled Table. It is read-only.
type table struct {
	path     []string // Table.Pointer, split
	numbers  bool
	kind     func([]byte) (string, bool) // nil: the message says its type
	jsonrpc  bool
	maxBatch int              // 0: no limit
	rules    map[string]*rule // by the name of the type
	prefixes []prefix         // sorted
	other    *rule            // of a type without a rule; never nil
	absent   *rule            // never nil
	unclear  *rule            // of a message whose type is unclear
	batch    *rule            // of a batch
	scoped   bool             // some type needs a scope
}

// rule is the Rule of one type of message. It is read-only.
type rule struct {
	kind string // the name of the type
	Rule
	raw   bool   // the message need not be JSON
	fault error  // refuses every message; nil: the Rule decides
	calls *table // the message is a batch, and its calls have rules of this table; nil: it is none
}

// anyKind is the rule of all messages without a Table, and noKind that of messages that are
// refused whatever their type is. A fault of the application's Kind has the rule faultyKind.
var (
	anyKind    = &rule{}
	noKind     = &rule{fault: reason.UnknownType}
	faultyKind = &rule{raw: true, fault: fmt.Errorf("%w: Table.Kind panicked", reason.Internal)}
)

// These are the faults of messages for which a Table has no rule. None has text of the peer's.
var (
	errNotInTable  = fmt.Errorf("%w: the Table has no rule for its type", reason.UnknownType)
	errNoType      = fmt.Errorf("%w: it has no type, and the Table has no Absent", reason.UnknownType)
	errUnclearType = fmt.Errorf("%w: its type is unclear", reason.UnknownType)
)

func (t *Table) resolve(field string, f *faults) *table {
	own := &table{
		numbers: t.Numbers, kind: t.Kind, jsonrpc: t.JSONRPC,
		rules:   map[string]*rule{},
		other:   &rule{raw: t.NotJSON, fault: errNotInTable},
		absent:  &rule{raw: t.NotJSON, fault: errNoType},
		unclear: &rule{fault: errUnclearType},
	}
	t.check(field, f)
	own.path, _ = jsonschema.SplitPointer(cmp.Or(t.Pointer, "/type"))
	own.maxBatch = limit(t.MaxBatch, 32, field+".MaxBatch", f)
	own.batch = &rule{calls: own}
	if t.RefuseBatches {
		own.batch = noBatch
	}
	for kind, r := range t.Types {
		t.checkKind(kind, field+".Types", f)
		own.rules[kind] = own.add(kind, r, t.NotJSON, field+".Types", f)
	}
	for prefix, r := range t.Prefixes {
		t.checkPrefix(prefix, field+".Prefixes", f)
		own.addPrefix(prefix, own.add(prefix, r, t.NotJSON, field+".Prefixes", f))
	}
	own.linkPrefixes()
	if t.Default != nil {
		own.other = own.add(defaultKind, *t.Default, t.NotJSON, field+".Default", f)
	}
	if t.Absent != nil {
		own.absent = own.add("", *t.Absent, t.NotJSON, field+".Absent", f)
	}
	return own
}

// clone returns a copy of t that shares no map and no Rule with it.
func (t *Table) clone() *Table {
	own := func(r *Rule) *Rule {
		if r == nil {
			return nil
		}
		copied := *r
		return &copied
	}
	return &Table{
		Pointer: t.Pointer, Numbers: t.Numbers, Kind: t.Kind, NotJSON: t.NotJSON,
		JSONRPC: t.JSONRPC, MaxBatch: t.MaxBatch, RefuseBatches: t.RefuseBatches,
		Types: maps.Clone(t.Types), Prefixes: maps.Clone(t.Prefixes), Default: own(t.Default), Absent: own(t.Absent),
	}
}

// check finds the faults of all fields of t except the rules.
func (t *Table) check(field string, f *faults) {
	if _, ok := jsonschema.SplitPointer(cmp.Or(t.Pointer, "/type")); !ok {
		f.add(field+".Pointer", t.Pointer, "not a JSON pointer to a member of the message")
	}
	if len(t.Types) == 0 && len(t.Prefixes) == 0 && t.Default == nil {
		f.add(field+".Types", "", "no types: every message would be refused")
	}
	excluded := func(is bool, name string, value any, why string) {
		if is {
			f.add(field+"."+name, value, why)
		}
	}
	excluded(t.Kind != nil && t.Pointer != "", "Pointer", t.Pointer, "Kind finds the type")
	excluded(t.JSONRPC && t.Pointer != "", "Pointer", t.Pointer, "the type of a JSON-RPC call is its method")
	excluded(t.JSONRPC && t.Kind != nil, "Kind", "", "the type of a JSON-RPC call is its method")
	excluded(t.JSONRPC && t.Numbers, "Numbers", true, "the type of a JSON-RPC call is its method")
	excluded(t.Kind != nil && t.Numbers, "Numbers", true, "Kind finds the type")
	excluded(t.NotJSON && t.Kind == nil, "NotJSON", true, "only Kind can find the type of a message that is not JSON")
	excluded(!t.JSONRPC && t.MaxBatch != 0, "MaxBatch", t.MaxBatch, "only JSON-RPC has batches")
	excluded(!t.JSONRPC && t.RefuseBatches, "RefuseBatches", true, "only JSON-RPC has batches")
	excluded(t.RefuseBatches && t.MaxBatch != 0, "MaxBatch", t.MaxBatch, "RefuseBatches refuses every batch")
}

// checkKind finds types that no message can have.
func (t *Table) checkKind(kind, field string, f *faults) {
	switch {
	case t.Numbers && !jsonschema.IsInteger(kind):
		f.add(field, kind, "with Numbers, a type is an integer such as 2 or -1, from -(2^53-1) to 2^53-1")
	case t.Kind == nil && len(kind) > jsonschema.MaxKind:
		f.add(field, kind[:32]+"…", fmt.Sprintf("a type has at most %d bytes", jsonschema.MaxKind))
	case t.Default != nil && kind == defaultKind:
		f.add(field, kind, "the kind of Default")
	case t.Absent != nil && kind == "":
		f.add(field, kind, "the kind of Absent")
	}
}

func (t *Table) checkPrefix(prefix, field string, f *faults) {
	_, both := t.Types[prefix]
	switch {
	case prefix == "":
		f.add(field, prefix, "an empty prefix: Default is for all other types")
	case t.Numbers:
		f.add(field, prefix, "with Numbers, a type has no prefix")
	case both:
		f.add(field, prefix, "in Types too, so that Conn.Kind would not tell them apart")
	default:
		t.checkKind(prefix, field, f)
	}
}

// add returns the compiled form of r.
func (t *table) add(kind string, r Rule, raw bool, field string, f *faults) *rule {
	t.scoped = t.scoped || r.Scope != ""
	if r.MaxBytes < 0 || r.Cost < 0 {
		f.add(field, kind, "MaxBytes and Cost must not be negative")
	}
	switch v := r.Validator.(type) {
	case *Table:
		f.add(field, kind, "a Table within a Table")
	case *Schema:
		if v == nil {
			f.add(field, kind, "a nil *Schema")
		}
	}
	return &rule{kind: kind, Rule: r, raw: raw}
}

// Validate judges a message of a Table. It refuses duplicate keys even if the Validator of
// the type accepts them, because the application might see another type.
func (r *rule) Validate(msg []byte) error {
	if _, ok := r.Validator.(*Schema); !ok && !r.raw {
		if err := strictJSON(msg); err != nil {
			return err
		}
	}
	switch {
	case r.fault != nil:
		return r.fault
	case r.MaxBytes > 0 && int64(len(msg)) > r.MaxBytes:
		return reason.MessageTooBig
	case r.Validator == nil:
		return nil
	}
	return r.Validator.Validate(msg)
}

func strictJSON(msg []byte) error {
	if err := jsonschema.Scan(msg, nil); err != nil {
		return messageError(err)
	}
	return nil
}

// explain returns a more detailed error than err, which v has returned for msg, if it can.
func explain(v Validator, msg []byte, err error) error {
	at := wholeMessage(&rule{Rule: Rule{Validator: v}}, msg)
	if t, ok := v.(*table); ok {
		at, _ = t.judge(msg, t.rule(msg))
	}
	return at.explain(msg, err)
}

// explain returns a more detailed error than err, which the rule of c has returned, if it can.
func (c call) explain(msg []byte, err error) error {
	var e *MessageError
	if s, ok := c.rule.Validator.(*Schema); ok && errors.As(err, &e) {
		if more := s.s.Explain(c.of(msg)); more != nil {
			return c.placed(messageError(more))
		}
	}
	return err
}

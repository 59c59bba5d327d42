package wsguard

import (
	"fmt"
	"strings"

	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// Table is a Validator that checks JSON messages by their type. With reason.UnknownType it
// refuses a message that names none of its types, or that could be read as naming two.
type Table struct {
	// Pointer is the JSON pointer (RFC 6901) to the string that names the type. The default
	// is "/type".
	Pointer string

	// Types has a Rule for each type of message. At least one type is required.
	Types map[string]Rule
}

// Rule is what a Table requires of the messages of one type.
type Rule struct {
	// Validator checks the message. A *Schema is a Validator, and a *Table is an error here.
	// The message is strict JSON already. The default, nil, accepts every message that is
	// strict JSON.
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

// Validate checks a message by its type. It does not look at the Scope, and it charges no Cost.
func (t *Table) Validate(msg []byte) error {
	var f faults
	own := t.resolve("Table", &f)
	if err := f.err(); err != nil {
		return fmt.Errorf("%w: %w", reason.Internal, err)
	}
	r := own.rule(msg)
	return explain(r.Validator, msg, r.Validate(msg))
}

// table is a compiled Table. It is read-only.
type table struct {
	path   []string         // Table.Pointer, split
	rules  map[string]*rule // by the name of the type
	scoped bool             // some type needs a scope
}

// rule is the Rule of one type of message. It is read-only.
type rule struct {
	kind string // the name of the type
	Rule
}

// anyKind is the rule of all messages without a Table. noKind is the rule of an unknown type.
var anyKind, noKind = &rule{}, &rule{}

func (t *Table) resolve(field string, f *faults) *table {
	own := &table{rules: map[string]*rule{}}
	var ok bool
	if own.path, ok = parsePointer(t.Pointer); !ok {
		f.add(field+".Pointer", t.Pointer, "not a JSON pointer to a member of the message")
	}
	if len(t.Types) == 0 {
		f.add(field+".Types", "", "no types: every message would be refused")
	}
	for kind, r := range t.Types {
		own.rules[kind] = &rule{kind, r}
		own.scoped = own.scoped || r.Scope != ""
		if r.MaxBytes < 0 || r.Cost < 0 {
			f.add(field+".Types", kind, "MaxBytes and Cost must not be negative")
		}
		switch v := r.Validator.(type) {
		case *Table:
			f.add(field+".Types", kind, "a Table within a Table")
		case *Schema:
			if v == nil {
				f.add(field+".Types", kind, "a nil *Schema")
			}
		}
	}
	return own
}

// parsePointer splits a JSON pointer (RFC 6901).
func parsePointer(p string) (path []string, ok bool) {
	if p == "" {
		p = "/type"
	}
	if p[0] != '/' {
		return nil, false
	}
	for part := range strings.SplitSeq(p[1:], "/") {
		rest := strings.NewReplacer("~0", "", "~1", "").Replace(part)
		if strings.Contains(rest, "~") {
			return nil, false
		}
		path = append(path, strings.NewReplacer("~1", "/", "~0", "~").Replace(part))
	}
	return path, true
}

// rule finds the type of a message that has not been judged yet, and returns its rule.
func (t *table) rule(msg []byte) *rule {
	if kind, ok := jsonschema.Discriminator(msg, t.path); ok {
		if r := t.rules[string(kind)]; r != nil {
			return r
		}
	}
	return noKind
}

func (t *table) Validate(msg []byte) error { return t.rule(msg).Validate(msg) }

// Validate judges a message of a Table. It refuses duplicate keys even if the Validator of
// the type accepts them, because the application might see another type.
func (r *rule) Validate(msg []byte) error {
	if _, ok := r.Validator.(*Schema); !ok {
		if err := strictJSON(msg); err != nil {
			return err
		}
	}
	switch {
	case r == noKind:
		return reason.UnknownType
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

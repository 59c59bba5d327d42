package wsguard

import (
	"errors"
	"fmt"
	"sync"

	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// Schema is a compiled JSON Schema. [CompileSchema] makes one. Many goroutines may use it at
// the same time.
type Schema struct {
	s      *jsonschema.Schema // read-only
	errors sync.Map           // from *jsonschema.Error, one for each place in the schema, to *MessageError
}

// CompileSchema compiles a JSON Schema of draft 4, 6, 7, 2019-09 or 2020-12. The draft is
// 2020-12 if "$schema" is absent. CompileSchema loads nothing from a file or the network.
//
// CompileSchema returns an error for parts of a schema that would silently check nothing or
// something else. These are for example an unknown keyword, an unknown format, an empty
// enum, and a number that is too long or too large to be handled exactly. It also returns an
// error for bounds that no value of their type can meet, such as a minimum above the maximum,
// and for a required property whose schema is false. The keyword format is enforced on
// messages. [SchemaConfig] has words and formats of your own.
//
// A pattern, and a name in patternProperties, means what ECMA-262 says with the flag u. It is
// matched by RE2 in linear time. CompileSchema returns an error for a pattern that RE2 cannot
// match, such as one with lookaround, and for a pattern that RE2 or another dialect would
// read in a way of its own.
func CompileSchema(src []byte) (*Schema, error) { return SchemaConfig{}.Compile(src) }

// Validate returns nil if msg is strict JSON that fits the schema. Strict JSON has no
// duplicate keys, lone surrogates, byte order mark or trailing data. Its depth, the number
// and the length of its keys, and the length and the exponent of its numbers are limited.
//
// The error is a *[MessageError] without the place in the message. Validate returns the same
// *MessageError each time a message fails at the same keyword of the schema. Explain also
// says where in the message the fault is.
func (s *Schema) Validate(msg []byte) error {
	err := s.s.Validate(msg)
	if err == nil {
		return nil
	}
	e, ok := err.(*jsonschema.Error)
	if !ok {
		return messageError(err)
	}
	if known, ok := s.errors.Load(e); ok {
		return known.(*MessageError)
	}
	m := messageError(e)
	m.text = m.Error()
	known, _ := s.errors.LoadOrStore(e, m)
	return known.(*MessageError)
}

// Explain is like Validate, but its *[MessageError] also says where in the message the fault
// is.
func (s *Schema) Explain(msg []byte) error {
	if e := s.s.Explain(msg); e != nil {
		return messageError(e)
	}
	return nil
}

func messageError(err error) *MessageError {
	var e *jsonschema.Error
	if !errors.As(err, &e) {
		return &MessageError{Reason: "internal", Offset: -1, err: reason.Internal}
	}
	m := &MessageError{Reason: e.Token, Offset: e.Offset, Pointer: e.InstancePointer, Keyword: e.KeywordLocation, Detail: e.Detail, place: e.LogPointer}
	switch e.Kind {
	case jsonschema.KindSyntax:
		m.err = reason.InvalidJSON
	case jsonschema.KindLimit:
		m.err = reason.JSONLimit
	case jsonschema.KindSchema:
		m.err = reason.Schema
	default:
		m.err = reason.Internal
	}
	return m
}

// MessageError says why a message is refused. It contains nothing of the message except the
// property names in Pointer, which are escaped and truncated. Error replaces names that the
// schema does not declare with *.
type MessageError struct {
	// Reason is a token for the fault, such as "schema", "duplicate_key" or "depth". It is
	// more exact than the token of the reason that Unwrap returns.
	Reason string

	// Offset is where in the message the fault is, in bytes. It is -1 if a keyword of the schema
	// has refused the message. It is also -1 if the error comes from Schema.Validate, which does
	// not look for the place.
	Offset int

	// Pointer is the JSON pointer (RFC 6901) to the value that does not fit the schema. It is
	// empty if that value is the whole message, and if the error comes from Schema.Validate.
	Pointer string

	// Keyword is the place in the schema of the keyword that has refused the message, such as
	// "#/properties/text/maxLength". It is empty if no keyword has.
	Keyword string

	// Detail says more where Keyword does not say enough. It is `name "text" is missing` for
	// required and dependentRequired, `branches 0 and 2 accept the value` for oneOf, and
	// `items 1 and 3 are equal` for uniqueItems. The name is one of the schema's. Branches and
	// items are counted from 0. Detail has at most 256 bytes. It is empty for other keywords,
	// and if the error comes from Schema.Validate.
	Detail string

	place string // Pointer without the names that the schema does not declare, for a log
	text  string // what Error returns, if the error is one that Schema.Validate keeps
	err   *reason.Reason
}

// Error returns a text for the log, without any part of the message.
func (e *MessageError) Error() string {
	detail := ""
	if e.Detail != "" {
		detail = ", " + e.Detail
	}
	switch {
	case e.text != "":
		return e.text
	case e.Keyword != "" && e.place != "":
		return fmt.Sprintf("%v: at %q, by %s%s", e.err, e.place, e.Keyword, detail)
	case e.Keyword != "":
		return fmt.Sprintf("%v: by %s%s", e.err, e.Keyword, detail)
	}
	text := fmt.Sprintf("%v: %s", e.err, e.Reason)
	if e.Offset >= 0 {
		text += fmt.Sprintf(" at byte %d", e.Offset)
	}
	if field := capFields[e.Reason]; field != "" {
		text += ", more than SchemaConfig." + field + " allows"
	}
	return text
}

// capFields has the fields of SchemaConfig that bound JSON, by the Reason of a MessageError.
var capFields = map[string]string{
	jsonschema.TokenDepth: "MaxDepth", jsonschema.TokenKeys: "MaxKeys", jsonschema.TokenKeyBytes: "MaxKeyBytes",
	jsonschema.TokenNumberBytes: "MaxNumberBytes", jsonschema.TokenExponent: "MaxExponent",
}

// Unwrap returns the *[reason.Reason] of the error.
func (e *MessageError) Unwrap() error { return e.err }

package wsguard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"sync"

	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// Schema is a compiled JSON Schema. It is safe for concurrent use.
type Schema struct {
	s      *jsonschema.Schema
	errors sync.Map // of *jsonschema.Error, one for each place in the schema, to *MessageError
}

// CompileSchema compiles a JSON Schema of draft 4, 6, 7, 2019-09 or 2020-12 (when
// "$schema" is absent). Nothing is loaded from a file or the network. What would
// silently check nothing is an error: a keyword or a format that is not known,
// an empty enum, a number beyond all use. Formats are checked.
func CompileSchema(src []byte) (*Schema, error) { return SchemaConfig{}.Compile(src) }

// SchemaConfig is for schemas that refer to others, and for what JSON Schema has
// no word for.
type SchemaConfig struct {
	Resources map[string][]byte // that references may lead to, by absolute URL without a fragment
	Files     fs.FS             // of an embed.FS, say: its *.json, each by the absolute URL of its "$id"

	RefusePrototypeKeys bool // the names __proto__, constructor and prototype, at any depth
	RefuseCaseVariants  bool // names that differ only in case from one that is declared: encoding/json takes them for it
	RefuseControls      bool // C0 but for tab and line ends, DEL, C1 and bidi controls in strings, escaped or not
}

// Compile is CompileSchema with this configuration.
func (c SchemaConfig) Compile(src []byte) (*Schema, error) {
	resources, err := c.resources()
	if err != nil {
		return nil, fmt.Errorf("wsguard: schema: %w", err)
	}
	s, err := jsonschema.Compile(src, jsonschema.Options{
		Resources: resources, RefuseCaseVariants: c.RefuseCaseVariants,
		Limits: jsonschema.Limits{RefusePrototypeKeys: c.RefusePrototypeKeys, RefuseControls: c.RefuseControls},
	})
	if err != nil {
		return nil, fmt.Errorf("wsguard: schema: %w", err)
	}
	return &Schema{s: s}, nil
}

func (c SchemaConfig) resources() (map[string][]byte, error) {
	all := maps.Clone(c.Resources)
	if c.Files == nil {
		return all, nil
	}
	if all == nil {
		all = map[string][]byte{}
	}
	var faults []error
	err := fs.WalkDir(c.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".json" {
			return err
		}
		src, err := fs.ReadFile(c.Files, name)
		if err != nil {
			return err
		}
		var doc struct {
			ID  string `json:"$id"`
			Old string `json:"id"` // draft 4
		}
		if err := json.Unmarshal(src, &doc); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			return nil
		}
		if doc.ID == "" {
			doc.ID = doc.Old
		}
		id, err := url.Parse(doc.ID)
		if err != nil || !id.IsAbs() || id.Fragment != "" {
			faults = append(faults, fmt.Errorf(`%s: its "$id" is %q, and has to be an absolute URL without a fragment`, name, doc.ID))
			return nil
		}
		id.Fragment = ""
		if old, ok := all[id.String()]; ok && !bytes.Equal(old, src) {
			faults = append(faults, fmt.Errorf("%s: another schema has the same $id %s", name, id))
		}
		all[id.String()] = src
		return nil
	})
	return all, errors.Join(append(faults, err)...)
}

// Validate returns nil when msg is strict JSON (no duplicate keys, lone
// surrogates, byte order mark or trailing data; depth, keys and numbers within
// bounds) that fits the schema. Otherwise the error is a *[MessageError], the same
// for each place in the schema: it does not say where in the message, see Explain.
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
	known, _ := s.errors.LoadOrStore(e, messageError(e))
	return known.(*MessageError)
}

// Explain is Validate for whoever wants to know where: a *[MessageError] or nil.
func (s *Schema) Explain(msg []byte) error {
	if e := s.s.Explain(msg); e != nil {
		return messageError(e)
	}
	return nil
}

// explain says more about an error of v's, if it can.
func explain(v Validator, msg []byte, err error) error {
	var e *MessageError
	if s, ok := v.(*Schema); ok && errors.As(err, &e) {
		if more := s.Explain(msg); more != nil {
			return more
		}
	}
	return err
}

func messageError(err error) *MessageError {
	var e *jsonschema.Error
	if !errors.As(err, &e) {
		return &MessageError{Reason: "internal", Offset: -1, err: reason.Internal}
	}
	m := &MessageError{Reason: e.Token, Offset: e.Offset, Pointer: e.InstancePointer, Keyword: e.KeywordLocation, place: e.LogPointer}
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

// MessageError says what is wrong with a message. Nothing in it is the peer's but
// the names in Pointer, which are escaped and cut; in the error's text those that
// the schema does not have are *.
type MessageError struct {
	Reason  string // a token: "schema", "duplicate_key", "depth", …
	Offset  int    // of the byte, for what no keyword refuses; -1: not asked
	Pointer string // to the value (RFC 6901), for what does not fit, if it was asked
	Keyword string // where the schema says so

	place string // Pointer, for a log
	err   *reason.Reason
}

func (e *MessageError) Error() string {
	switch {
	case e.Keyword != "" && e.place != "":
		return fmt.Sprintf("%v: at %q, by %s", e.err, e.place, e.Keyword)
	case e.Keyword != "":
		return fmt.Sprintf("%v: by %s", e.err, e.Keyword)
	case e.Offset >= 0:
		return fmt.Sprintf("%v: %s at byte %d", e.err, e.Reason, e.Offset)
	}
	return fmt.Sprintf("%v: %s", e.err, e.Reason)
}

// Unwrap returns the reason of package reason.
func (e *MessageError) Unwrap() error { return e.err }

// misfit keeps what encoding/json quotes of a message out of the log that a
// handler's error goes to.
type misfit struct {
	into any
	err  error
}

func (e *misfit) Error() string { return fmt.Sprintf("wsguard: the message does not fit a %T", e.into) }
func (e *misfit) Unwrap() error { return e.err }

// ReadJSON reads the next message into a new T: the very bytes that were
// validated. What does not fit T is an error of the handler's; the schema should
// have said so.
func ReadJSON[T any](ctx context.Context, c *Conn) (v T, err error) {
	_, msg, err := c.Read(ctx)
	if err == nil {
		if err = json.Unmarshal(msg, &v); err != nil {
			err = &misfit{v, err}
		}
	}
	return v, err
}

package sanitize

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// At applies f to each string at one of the pointers, once if several lead to it.
//
// A pointer is a JSON pointer (RFC 6901), and * in it stands for every member of an object and
// every item of an array: "/items/*/name". RFC 6901 has no such thing, so you cannot write a
// pointer to only the member whose name is *. "" is the message itself. Names are compared without
// their escapes, and without regard to letter case, because encoding/json takes "Text" for "text".
// At changes neither a value that is no string nor a place that the message lacks. The schema
// decides whether it refuses them.
//
// The message must be strict JSON, as a Schema or a Table of wsguard requires it. At refuses any
// other message with reason.InvalidJSON. At changes nothing but the strings whose text f changes. In
// such a string, a character that was escaped is still escaped, such as \u003c. At allocates nothing
// if nothing changes and f allocates nothing.
//
// If f returns a text that is not UTF-8, the error wraps reason.Internal. At panics if f is nil, if
// pointers is empty, and if one of them is not a JSON pointer.
func At(f Func, pointers ...string) Message {
	if f == nil || len(pointers) == 0 {
		panic("sanitize: At without a Func, or without a pointer")
	}
	pointers = slices.Clone(pointers)
	paths := make([]jsonschema.Path, len(pointers))
	for i, p := range pointers {
		var ok bool
		if paths[i], ok = jsonschema.ParsePath(p); !ok {
			panic(fmt.Sprintf("sanitize: At: %q is not a JSON pointer", p))
		}
	}
	rewrite := func(at int, text []byte) ([]byte, error) {
		out, err := f(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("sanitize: at %q: %w", pointers[at], err)
		case !utf8.Valid(out):
			return nil, fmt.Errorf("%w: sanitize: at %q: the Func has returned a text that is not UTF-8", reason.Internal, pointers[at])
		}
		return out, nil
	}
	return func(_ string, msg []byte) ([]byte, error) {
		if err := jsonschema.Scan(msg, &noLimits); err != nil {
			return nil, errNotJSON
		}
		return jsonschema.Rewrite(msg, paths, rewrite)
	}
}

// noLimits leaves the limits to the Validator, which has judged the message.
var noLimits = jsonschema.Limits{Depth: -1, Keys: -1, KeyBytes: -1, NumberBytes: -1, Exponent: -1}

var errNotJSON = fmt.Errorf("%w: sanitize: the message is no strict JSON", reason.InvalidJSON)

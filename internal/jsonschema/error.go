package jsonschema

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Kind says what is wrong with a message, so that a caller can choose a close code. The set is closed.
type Kind uint8

const (
	KindSyntax   Kind = iota + 1 // the message is not strict JSON; close with 1007
	KindLimit                    // the message exceeds a limit, or costs too much to judge; close with 1008
	KindSchema                   // the message is JSON and does not fit the schema; close with 1008
	KindInternal                 // the validator has failed; close with 1011
)

// String returns a word for logs.
func (k Kind) String() string {
	switch k {
	case KindSyntax:
		return "syntax"
	case KindLimit:
		return "limit"
	case KindSchema:
		return "schema"
	case KindInternal:
		return "internal"
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// Tokens name the fault for logs, metrics and replies. They are stable and never made of the peer's bytes.
const (
	// Tokens of KindSyntax.
	TokenEmpty     = "empty"             // there is nothing, or only white space
	TokenBOM       = "bom"               // there is a byte order mark
	TokenSyntax    = "syntax"            // the message breaks the grammar of RFC 8259
	TokenTrailing  = "trailing_data"     // something follows the value
	TokenControl   = "control_character" // a string has an unescaped U+0000 to U+001F
	TokenUTF8      = "invalid_utf8"      // the message is not UTF-8
	TokenSurrogate = "lone_surrogate"    // \ud800 comes without its other half
	TokenDuplicate = "duplicate_key"     // an object has a name twice, after unescaping

	// Tokens of KindLimit.
	TokenSize        = "size"         // the message has more than 1 GiB
	TokenDepth       = "depth"        // it exceeds Limits.Depth
	TokenKeys        = "keys"         // it exceeds Limits.Keys
	TokenKeyBytes    = "key_bytes"    // it exceeds Limits.KeyBytes
	TokenNumberBytes = "number_bytes" // it exceeds Limits.NumberBytes
	TokenExponent    = "exponent"     // it exceeds Limits.Exponent
	TokenFuel        = "fuel"         // it costs more to judge than Options.Fuel allows

	// Tokens of KindSchema.
	TokenSchema          = "schema"            // a keyword has refused the message
	TokenPrototypeKey    = "prototype_key"     // Limits.RefusePrototypeKeys has refused a name
	TokenCaseVariant     = "case_variant"      // Options.RefuseCaseVariants has refused a name
	TokenControlInString = "control_in_string" // Limits.RefuseControls has refused a string

	// Tokens of KindInternal.
	TokenLoop          = "loop"  // a dynamic reference leads back to itself
	TokenInternalPanic = "panic" // the validator has panicked
)

// An Error says why a message was refused. It holds nothing of the message except the pointer, which is sanitised.
type Error struct {
	Kind   Kind
	Token  string // one of the Token constants
	Offset int    // the byte offset of a fault that no keyword has found; -1 for other faults and from Validate

	// InstancePointer is the JSON pointer (RFC 6901) of the value that a keyword has refused. "" is the whole message.
	// Only Explain sets it. Its names are the peer's. So it is cut at 256 bytes, and control and bidi characters are
	// escaped.
	InstancePointer string

	// LogPointer is InstancePointer for a log. A name that stands nowhere in the schema may be anything, so * replaces it.
	LogPointer string

	// KeywordLocation is the place of the keyword in the schema that has refused, such as #/properties/id/type.
	KeywordLocation string

	// Detail says what of the keyword the value does not meet. It is the name that required or a dependency misses, the
	// branches of a oneOf that accept the value, or the items under uniqueItems that are equal. It has at most maxPointer
	// bytes and nothing of the message. Only Explain sets it, and it is empty for other keywords.
	Detail string
}

// Error returns a text for a log, without any part of the message.
func (e *Error) Error() string {
	switch e.Kind {
	case KindSyntax, KindLimit, KindSchema:
		if e.Offset >= 0 {
			return fmt.Sprintf("wsguard: message refused: %s (%s) at byte %d", e.Kind, e.Token, e.Offset)
		}
		if e.KeywordLocation == "" {
			break
		}
		detail := ""
		if e.Detail != "" {
			detail = ", " + e.Detail
		}
		if e.InstancePointer == "" { // it is the whole message, or the error is not from Explain
			return fmt.Sprintf("wsguard: message refused: %s, by %s%s", e.Kind, e.KeywordLocation, detail)
		}
		return fmt.Sprintf("wsguard: message refused: %s at %q, by %s%s", e.Kind, e.LogPointer, e.KeywordLocation, detail)
	}
	return fmt.Sprintf("wsguard: message refused: %s (%s)", e.Kind, e.Token)
}

// maxPointer is how many bytes of the peer's keys an Error has at most.
const maxPointer = 256

// bounded collects text up to maxPointer bytes and drops the rest.
type bounded struct {
	b     []byte
	full  bool
	known map[string]bool // the names that are written; nil: all
}

const ellipsis = "…"

// add appends a piece that must not be cut in two. If it does not fit, add drops it and everything after it.
func (b *bounded) add(s string) {
	if b.full {
		return
	}
	if len(b.b)+len(s) > maxPointer-len(ellipsis) {
		b.full = true
		s = ellipsis
	}
	b.b = append(b.b, s...)
}

// text appends s. It escapes everything that could change how a log or a terminal shows the text after it.
func (b *bounded) text(s string) {
	for i := 0; i < len(s) && !b.full; {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b.add(fmt.Sprintf(`\x%02x`, s[i]))
		case r == '\\':
			b.add(`\\`)
		case hidden(r) && r > 0xFFFF:
			b.add(fmt.Sprintf(`\U%08x`, r))
		case hidden(r):
			b.add(fmt.Sprintf(`\u%04x`, r))
		default:
			b.add(s[i : i+size])
		}
		i += size
	}
}

// hidden reports whether r is a control, a format character (bidi, zero width, tags), a line separator, or a space that
// is not the ASCII one.
func hidden(r rune) bool {
	return !unicode.IsPrint(r)
}

// pointerName appends one reference token of a JSON pointer.
func (b *bounded) pointerName(name string) {
	b.add("/")
	if b.known != nil && !b.known[name] {
		b.add("*")
		return
	}
	for !b.full {
		i := strings.IndexAny(name, "~/")
		if i < 0 {
			b.text(name)
			return
		}
		b.text(name[:i])
		if name[i] == '~' {
			b.add("~0")
		} else {
			b.add("~1")
		}
		name = name[i+1:]
	}
}

func sanitise(s string) string {
	var b bounded
	b.text(s)
	return string(b.b)
}

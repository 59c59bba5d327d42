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
	KindSyntax   Kind = iota + 1 // not strict JSON: close 1007
	KindLimit                    // beyond a cap, or too dear to judge: close 1008
	KindSchema                   // JSON, but not what the schema asks for: close 1008
	KindInternal                 // the validator failed, not the message: close 1011
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
	TokenEmpty           = "empty"             // KindSyntax: nothing, or only white space
	TokenBOM             = "bom"               // KindSyntax: a byte order mark
	TokenSyntax          = "syntax"            // KindSyntax: against the grammar of RFC 8259
	TokenTrailing        = "trailing_data"     // KindSyntax: something after the value
	TokenControl         = "control_character" // KindSyntax: an unescaped U+0000 to U+001F in a string
	TokenUTF8            = "invalid_utf8"      // KindSyntax
	TokenSurrogate       = "lone_surrogate"    // KindSyntax: \ud800 without its other half
	TokenDuplicate       = "duplicate_key"     // KindSyntax: twice the same name in one object, after unescaping
	TokenSize            = "size"              // KindLimit: a message beyond 1 GiB
	TokenDepth           = "depth"             // KindLimit: Limits.Depth
	TokenKeys            = "keys"              // KindLimit: Limits.Keys
	TokenKeyBytes        = "key_bytes"         // KindLimit: Limits.KeyBytes
	TokenNumberBytes     = "number_bytes"      // KindLimit: Limits.NumberBytes
	TokenExponent        = "exponent"          // KindLimit: Limits.Exponent
	TokenFuel            = "fuel"              // KindLimit: too dear to judge, see Options.Fuel
	TokenSchema          = "schema"            // KindSchema: by a keyword
	TokenPrototypeKey    = "prototype_key"     // KindSchema: Limits.RefusePrototypeKeys
	TokenCaseVariant     = "case_variant"      // KindSchema: Options.RefuseCaseVariants
	TokenControlInString = "control_in_string" // KindSchema: Limits.RefuseControls
	TokenLoop            = "loop"              // KindInternal: a dynamic reference that leads back to itself
	TokenInternalPanic   = "panic"             // KindInternal
)

// An Error says why a message was refused. It holds nothing of the message but the sanitised pointer.
type Error struct {
	Kind   Kind
	Token  string // one of the Token constants
	Offset int    // byte offset of a fault that no keyword found, if Scan or Explain was asked; otherwise -1

	// InstancePointer, which Explain works out, is the JSON pointer (RFC 6901) of the value that a schema refused, ""
	// being the whole message. Its names are the peer's: it is cut at 256 bytes, and control and bidi characters are
	// escaped.
	InstancePointer string

	// LogPointer is InstancePointer for a log: a name that the schema does not have anywhere, which may be anything, is *.
	LogPointer string

	// KeywordLocation is where in the schema the keyword stands that refused, such as #/properties/id/type.
	KeywordLocation string
}

// Error returns a text fit for a log. Nothing in it is the peer's.
func (e *Error) Error() string {
	switch e.Kind {
	case KindSyntax, KindLimit, KindSchema:
		if e.Offset >= 0 {
			return fmt.Sprintf("wsguard: message refused: %s (%s) at byte %d", e.Kind, e.Token, e.Offset)
		}
		if e.KeywordLocation == "" {
			break
		}
		if e.InstancePointer == "" { // the whole message, or nobody has asked where
			return fmt.Sprintf("wsguard: message refused: %s, by %s", e.Kind, e.KeywordLocation)
		}
		return fmt.Sprintf("wsguard: message refused: %s at %q, by %s", e.Kind, e.LogPointer, e.KeywordLocation)
	}
	return fmt.Sprintf("wsguard: message refused: %s (%s)", e.Kind, e.Token)
}

// maxPointer bounds what an Error carries of the peer's keys.
const maxPointer = 256

// bounded collects text up to maxPointer bytes and drops the rest.
type bounded struct {
	b     []byte
	full  bool
	known map[string]bool // nil: every name is written; else only these
}

const ellipsis = "…"

// add appends a piece that must not be cut in two, or nothing from here on.
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

// text appends s with everything escaped that could change how a log line or a terminal shows what follows.
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

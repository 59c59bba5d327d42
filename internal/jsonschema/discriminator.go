package jsonschema

import (
	"strings"
	"unicode/utf8"
)

// MaxKind is how many bytes the name of a type has at most. Discriminator and ReadCall do not take a longer string for
// one.
const MaxKind = 1024

// A Found says what Discriminator has found.
type Found uint8

const (
	// Unclear means that there is something other than a type, or that readers could see different things.
	Unclear Found = iota

	// Absent means that there is nothing at the path, for every reader.
	Absent

	// Present means that there is a type.
	Present
)

// Discriminator returns the type of msg: the string at a path of member names and array indices or, with numbers, the
// integer. It does not look at the rest of msg. It is for choosing the schema that judges msg.
//
// The result is Unclear if a reader could see another type. That is so if a name of the path is there twice, or once
// more in another letter case, which encoding/json takes for the same. It is also so for an integer that is not written
// as most programs write it, and for one that is not exact in a float64.
//
// A string without escapes is a part of msg. Otherwise it is in buf, which grows as needed.
func Discriminator(msg []byte, path []string, numbers bool, buf []byte) ([]byte, Found) {
	i := skipSpace(msg, 0)
	for _, name := range path {
		if i >= len(msg) {
			return nil, Unclear
		}
		found := Unclear
		switch c := msg[i]; {
		case c == '{':
			i, found = onlyMember(msg, i, name)
		case c == '[':
			i, found = item(msg, i, name)
		case c == '"' || c == '-' || c-'0' <= 9 || c == 't' || c == 'f' || c == 'n':
			return nil, Absent // nothing is within a scalar
		}
		if found != Present {
			return nil, found
		}
	}
	if i >= len(msg) {
		return nil, Unclear
	}
	if numbers {
		raw, ok := integer(msg, i)
		if !ok || !exact(raw) {
			return nil, Unclear
		}
		return raw, Present
	}
	if msg[i] != '"' {
		return nil, Unclear
	}
	kind, ok := kindAt(msg, i, buf)
	if !ok {
		return nil, Unclear
	}
	return kind, Present
}

// kindAt returns the text of the string at i, unless it is longer than a type may be.
func kindAt(msg []byte, i int, buf []byte) ([]byte, bool) {
	raw := msg[i:skipString(msg, i)]
	if len(raw) > MaxKind+2 {
		return nil, false
	}
	return Unquote(raw, buf)
}

// integer returns the integer at i as it is written. It returns false for what is not an integer, for -0, and for an
// integer with a fraction or an exponent.
func integer(msg []byte, i int) ([]byte, bool) {
	j := i
	if j < len(msg) && msg[j] == '-' {
		j++
	}
	first := j
	for j < len(msg) && msg[j]-'0' <= 9 {
		j++
	}
	if j == first || msg[first] == '0' && j > i+1 {
		return nil, false
	}
	if j < len(msg) && msg[j] > ' ' && msg[j] != ',' && msg[j] != '}' && msg[j] != ']' {
		return nil, false
	}
	return msg[i:j], true
}

// exact reports whether an integer is at most 2^53 - 1 and at least -(2^53 - 1). JavaScript and other readers that keep
// numbers in a float64 take different integers beyond for the same.
func exact(raw []byte) bool {
	const most = 1<<53 - 1
	if raw[0] == '-' {
		raw = raw[1:]
	}
	if len(raw) > 16 {
		return false
	}
	var n uint64
	for _, c := range raw {
		n = n*10 + uint64(c-'0')
	}
	return n <= most
}

// IsInteger reports whether s is an integer in the form in which Discriminator returns one.
func IsInteger(s string) bool {
	raw, ok := integer([]byte(s), 0)
	return ok && len(raw) == len(s) && exact(raw)
}

// item returns the offset of the item of the array at i.
func item(msg []byte, i int, name string) (int, Found) {
	n, ok := index(name)
	if !ok {
		return 0, Absent
	}
	w := items{msg: msg, at: i}
	for ; w.next(); n-- {
		if n == 0 {
			return w.at, Present
		}
	}
	if w.bad {
		return 0, Unclear
	}
	return 0, Absent
}

// onlyMember returns the offset of the value that the object at i has under a name.
func onlyMember(msg []byte, i int, name string) (int, Found) {
	at := -1
	for j, last := firstMember(msg, i); ; {
		switch {
		case last && at < 0:
			return 0, Absent
		case last:
			return at, Present
		case j < 0:
			return 0, Unclear
		}
		end := skipString(msg, j)
		value := skipSpace(msg, end)
		if value >= len(msg) || msg[value] != ':' {
			return 0, Unclear
		}
		value = skipSpace(msg, value+1)
		if is, like := compareName(msg[j:end], name); like {
			if at >= 0 || !is {
				return 0, Unclear
			}
			at = value
		}
		j, last = memberAfter(msg, value)
	}
}

// firstMember returns the offset of the first name of the object at i. last is true if the object is empty. The offset is
// negative if there is something that is no object.
func firstMember(msg []byte, i int) (j int, last bool) {
	j = skipSpace(msg, i+1)
	switch {
	case j < len(msg) && msg[j] == '"':
		return j, false
	case j < len(msg) && msg[j] == '}':
		return j, true
	}
	return -1, false
}

// memberAfter is like firstMember for the name after the value at i.
func memberAfter(msg []byte, i int) (j int, last bool) {
	j = skipSpace(msg, skipValue(msg, i))
	switch {
	case j < len(msg) && msg[j] == '}':
		return j, true
	case j < len(msg) && msg[j] == ',':
		if j = skipSpace(msg, j+1); j < len(msg) && msg[j] == '"' {
			return j, false
		}
	}
	return -1, false
}

// items walks the items of an array.
type items struct {
	msg   []byte
	at    int // the offset of the item; before the first next, that of the array; after the last, that of the bracket
	begun bool
	bad   bool // the walk has ended at something that is no array
}

func (w *items) next() bool {
	msg := w.msg
	if !w.begun {
		w.begun = true
		w.at = skipSpace(msg, w.at+1)
	} else {
		w.at = skipSpace(msg, skipValue(msg, w.at))
		if w.at < len(msg) && msg[w.at] == ',' {
			w.at = skipSpace(msg, w.at+1)
			w.bad = w.at >= len(msg) || msg[w.at] == ']'
			return !w.bad
		}
		w.bad = w.at >= len(msg) || msg[w.at] != ']'
		return false
	}
	if w.at < len(msg) && msg[w.at] == ']' {
		return false
	}
	w.bad = w.at >= len(msg)
	return !w.bad
}

// compareName reports whether a string is a name, and whether encoding/json would take it for it.
func compareName(raw []byte, name string) (is, like bool) {
	n := len(raw) - 2
	// A string that is longer than the name with every byte escaped is another name.
	if n > 6*len(name) {
		return false, false
	}
	_, flags, f := scanString(raw, 1)
	switch {
	case f != faultNone:
		return false, true // parsers may read it differently, so it must not be this name
	case flags != 0:
		var buf [64]byte
		text, _ := Unquote(raw, buf[:])
		return string(text) == name, strings.EqualFold(string(text), name)
	case n != len(name):
		return false, folded(name) && strings.EqualFold(string(raw[1:n+1]), name)
	case string(raw[1:n+1]) == name:
		return true, true
	case raw[1]|0x20 != name[0]|0x20 && name[0] < utf8.RuneSelf:
		return false, false
	}
	return false, strings.EqualFold(string(raw[1:n+1]), name)
}

// folded reports whether a name may be equal to one of another length in another letter case. That takes letters
// outside ASCII, such as the Kelvin sign.
func folded(name string) bool {
	for i := 0; i < len(name); i++ {
		if name[i] >= utf8.RuneSelf {
			return true
		}
	}
	return false
}

// RawMember returns the value that the object msg has under a name, as it is written. The result is Unclear if a reader
// could see another value, and if msg is no object.
func RawMember(msg []byte, name string) ([]byte, Found) {
	i := skipSpace(msg, 0)
	if i >= len(msg) || msg[i] != '{' {
		return nil, Unclear
	}
	i, found := onlyMember(msg, i, name)
	if found != Present {
		return nil, found
	}
	return msg[i:skipValue(msg, i)], Present
}

package jsonschema

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// Discriminator returns the string at a path of member names and array indices, without a look at the rest of msg: it is
// for choosing who judges msg. It fails when there is no such string, or when a reader could see another one: the name is
// there twice, or once more in another case, which encoding/json takes for the same.
func Discriminator(msg []byte, path []string) (kind []byte, ok bool) {
	w := walker{b: msg}
	for _, name := range path {
		if !w.enter(name) {
			return nil, false
		}
	}
	w.space()
	start := w.i
	if !w.string() || w.i-start > maxKind {
		return nil, false
	}
	return unquoted(w.b[start:w.i])
}

// Bounds on what is looked at: nobody has paid for more yet.
const (
	maxKind    = 1024 // bytes of the string
	maxMembers = 256
)

// walker goes over bytes that may be anything.
type walker struct {
	b []byte
	i int
}

// unquoted returns what a JSON string stands for.
func unquoted(s []byte) ([]byte, bool) {
	inner := s[1 : len(s)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner, true
	}
	var v string
	if json.Unmarshal(s, &v) != nil {
		return nil, false
	}
	return []byte(v), true
}

func (w *walker) space() {
	for w.i < len(w.b) && (w.b[w.i] == ' ' || w.b[w.i] == '\t' || w.b[w.i] == '\n' || w.b[w.i] == '\r') {
		w.i++
	}
}

func (w *walker) is(c byte) bool {
	w.space()
	if w.i < len(w.b) && w.b[w.i] == c {
		w.i++
		return true
	}
	return false
}

// enter moves to the value of a member, or of an item.
func (w *walker) enter(name string) bool {
	if w.is('[') {
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 || strconv.Itoa(n) != name {
			return false
		}
		for ; n > 0; n-- {
			if !w.value() || !w.is(',') {
				return false
			}
		}
		return true
	}
	if !w.is('{') || w.is('}') {
		return false
	}
	at := -1
	for n := 0; ; n++ {
		w.space()
		start := w.i
		if n == maxMembers || !w.string() {
			return false
		}
		key := w.b[start:w.i]
		if !w.is(':') {
			return false
		}
		// What is longer than its name with all of it escaped is another.
		if len(key)-2 <= 6*len(name) {
			key, ok := unquoted(key)
			if !ok {
				return false
			}
			if strings.EqualFold(string(key), name) {
				if at >= 0 || string(key) != name {
					return false
				}
				at = w.i
			}
		}
		if !w.value() {
			return false
		}
		if w.is('}') {
			break
		}
		if !w.is(',') {
			return false
		}
	}
	w.i = at
	return at >= 0
}

// string moves past a string.
func (w *walker) string() bool {
	if w.i >= len(w.b) || w.b[w.i] != '"' {
		return false
	}
	for w.i++; w.i < len(w.b); w.i++ {
		switch w.b[w.i] {
		case '"':
			w.i++
			return true
		case '\\':
			w.i++
		}
	}
	return false
}

// value moves past a value, or past what looks like one.
func (w *walker) value() bool {
	w.space()
	start, depth := w.i, 0
	for w.i < len(w.b) {
		switch w.b[w.i] {
		case '"':
			if !w.string() {
				return false
			}
			if depth == 0 {
				return true
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return w.i > start
			}
			if depth--; depth == 0 {
				w.i++
				return true
			}
		case ',':
			if depth == 0 {
				return w.i > start
			}
		}
		w.i++
	}
	return false
}

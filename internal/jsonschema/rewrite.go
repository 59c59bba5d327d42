package jsonschema

import (
	"bytes"
	"strings"
	"sync"
	"unicode/utf8"
)

// A Path is the way to some strings of a message.
type Path []pathStep

// A pathStep leads from an object or an array to one of its values, or to each of them.
type pathStep struct {
	every bool
	name  []byte
	index int // name as the index of an array; -1: it is none
}

// ParsePath splits a JSON pointer (RFC 6901) in which * stands for every member of an object and every item of an array.
func ParsePath(pointer string) (p Path, ok bool) {
	names, ok := SplitPointer(pointer)
	for _, name := range names {
		s := pathStep{every: name == "*", name: []byte(name), index: -1}
		if n, ok := index(name); ok {
			s.index = n
		}
		p = append(p, s)
	}
	return p, ok
}

// SplitPointer returns the unescaped names of a JSON pointer (RFC 6901).
func SplitPointer(pointer string) (names []string, ok bool) {
	if pointer == "" {
		return nil, true
	}
	if pointer[0] != '/' {
		return nil, false
	}
	for part := range strings.SplitSeq(pointer[1:], "/") {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(part), "~") {
			return nil, false
		}
		names = append(names, strings.NewReplacer("~1", "/", "~0", "~").Replace(part))
	}
	return names, true
}

// Rewrite returns msg with other texts in the strings that paths lead to. fn returns the text for the text of a string at
// paths[at]; both are UTF-8 without escapes. Rewrite calls fn once for each string, and returns its first error. It does
// not change msg, and returns msg itself if no text changes. All bytes outside of the strings that change stay as they
// are. msg must have passed Scan.
//
// A name leads to the members that encoding/json could take for it. So it also leads to a name in another letter case.
func Rewrite(msg []byte, paths []Path, fn func(at int, text []byte) ([]byte, error)) ([]byte, error) {
	w := rewriters.Get().(*rewriter)
	w.msg, w.paths, w.fn, w.out, w.done = msg, paths, fn, nil, 0
	w.active = w.active[:0]
	for i := range paths {
		w.active = append(w.active, i)
	}
	w.value(skipSpace(msg, 0), 0, 0)
	out, err := msg, w.err
	switch {
	case err != nil:
		out = nil
	case w.out != nil:
		out = append(w.out, msg[w.done:]...)
	}
	w.msg, w.paths, w.fn, w.out, w.err = nil, nil, nil, nil, nil
	if max(cap(w.text), cap(w.name)) <= maxRewriter {
		rewriters.Put(w)
	}
	return out, err
}

// maxRewriter is how large the buffers of a rewriter that is used again may be.
const maxRewriter = 64 << 10

var rewriters = sync.Pool{New: func() any { return new(rewriter) }}

// A rewriter walks through one message.
type rewriter struct {
	msg    []byte
	paths  []Path
	fn     func(int, []byte) ([]byte, error)
	active []int  // a stack: for each value from the message down to the current one, the paths that lead there or further
	out    []byte // what msg[:done] becomes; nil: nothing has changed
	done   int
	err    error // of fn; nothing more is rewritten
	text   []byte
	name   []byte
}

// value walks through the value at i, whose depth is depth. active[from:] are the paths that lead there or further. It
// returns the offset after the value.
func (w *rewriter) value(i, from, depth int) int {
	here, further := -1, false
	for _, p := range w.active[from:] {
		switch {
		case len(w.paths[p]) > depth:
			further = true
		case here < 0:
			here = p
		}
	}
	switch c := w.msg[i]; {
	case w.err != nil:
	case c == '"' && here >= 0:
		end := skipString(w.msg, i)
		w.rewrite(here, i, end)
		return end
	case c == '{' && further:
		return w.object(i, from, depth)
	case c == '[' && further:
		return w.array(i, from, depth)
	}
	return skipValue(w.msg, i)
}

func (w *rewriter) object(i, from, depth int) int {
	to := len(w.active)
	for i = skipSpace(w.msg, i+1); w.msg[i] != '}'; {
		end := skipString(w.msg, i)
		name := w.msg[i+1 : end-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			w.name = unescape(w.name[:0], name)
			name = w.name
		}
		for _, p := range w.active[from:to] {
			if path := w.paths[p]; len(path) > depth && (path[depth].every || bytes.EqualFold(path[depth].name, name)) {
				w.active = append(w.active, p)
			}
		}
		i = w.value(skipSpace(w.msg, skipSpace(w.msg, end)+1), to, depth+1)
		w.active = w.active[:to]
		i = w.next(i)
	}
	return i + 1
}

func (w *rewriter) array(i, from, depth int) int {
	to := len(w.active)
	i = skipSpace(w.msg, i+1)
	for n := 0; w.msg[i] != ']'; n++ {
		for _, p := range w.active[from:to] {
			if path := w.paths[p]; len(path) > depth && (path[depth].every || path[depth].index == n) {
				w.active = append(w.active, p)
			}
		}
		i = w.value(i, to, depth+1)
		w.active = w.active[:to]
		i = w.next(i)
	}
	return i + 1
}

// next returns the offset of what follows the value that ends at i, without a comma.
func (w *rewriter) next(i int) int {
	if i = skipSpace(w.msg, i); w.msg[i] == ',' {
		i = skipSpace(w.msg, i+1)
	}
	return i
}

// rewrite asks fn for the text of the string between i and end.
func (w *rewriter) rewrite(at, i, end int) {
	raw := w.msg[i+1 : end-1]
	text := raw
	if bytes.IndexByte(raw, '\\') >= 0 {
		w.text = unescape(w.text[:0], raw)
		text = w.text
	}
	text = text[:len(text):len(text)]
	changed, err := w.fn(at, text)
	if err != nil {
		w.err = err
		return
	}
	if bytes.Equal(changed, text) {
		return
	}
	if w.out == nil {
		w.out = make([]byte, 0, len(w.msg)+max(0, len(changed)-len(text)))
	}
	w.out = append(w.out, w.msg[w.done:i+1]...)
	w.out = quoteLike(w.out, raw, changed)
	w.done = end - 1
}

// quoteLike appends text as the inside of a JSON string that takes the place of the one with the inside raw. Characters
// stand there as they do in raw, escaped or not. So a string that was safe to stand in a page or in a program stays so.
func quoteLike(dst, raw, text []byte) []byte {
	if out, ok := quoteFrom(dst, raw, text); ok {
		return out
	}
	e := escapesIn(raw)
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		text = text[size:]
		dst = e.append(dst, r)
	}
	return dst
}

// quoteFrom is quoteLike for a text that is raw without some of its characters.
func quoteFrom(dst, raw, text []byte) (out []byte, ok bool) {
	i := 0
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		text = text[size:]
		for {
			if i == len(raw) {
				return dst, false
			}
			had, n := escapedRune(raw[i:])
			i += n
			if had == r {
				dst = append(dst, raw[i-n:i]...)
				break
			}
		}
	}
	return dst, true
}

// escapedRune returns the first character of a string's inside, and how many bytes it takes there.
func escapedRune(raw []byte) (r rune, n int) {
	if raw[0] != '\\' {
		return utf8.DecodeRune(raw)
	}
	n = 2
	if raw[1] == 'u' {
		if n = 6; raw[2]|0x20 == 'd' && raw[3] >= '8' {
			n = 12 // the first half of a surrogate pair
		}
	}
	var buf [utf8.UTFMax]byte
	r, _ = utf8.DecodeRune(unescape(buf[:0], raw[:n]))
	return r, n
}

// escapes says which characters to escape that need not be.
type escapes struct {
	ascii [2]uint64 // a bit for each
	lines bool      // U+2028 and U+2029, which end a line of old JavaScript
	wide  bool      // all outside ASCII
}

// escapesIn returns the escapes that a string's inside has.
func escapesIn(raw []byte) (e escapes) {
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			break
		}
		r, n := escapedRune(raw[i:])
		raw = raw[i+n:]
		switch {
		case r < utf8.RuneSelf:
			e.ascii[r>>6] |= 1 << (r & 63)
		case r == 0x2028 || r == 0x2029:
			e.lines = true
		default:
			e.wide = true
		}
	}
	return e
}

const hexDigits = "0123456789abcdef"

func (e *escapes) append(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\' || r == '/' && e.has(r):
		return append(dst, '\\', byte(r))
	case r == '\n':
		return append(dst, '\\', 'n')
	case r == '\r':
		return append(dst, '\\', 'r')
	case r == '\t':
		return append(dst, '\\', 't')
	case r >= ' ' && !e.has(r):
		return utf8.AppendRune(dst, r)
	case r > 0xFFFF:
		r -= 0x10000
		return appendU(appendU(dst, 0xD800+r>>10), 0xDC00+r&0x3FF)
	}
	return appendU(dst, r)
}

func (e *escapes) has(r rune) bool {
	switch {
	case r < utf8.RuneSelf:
		return e.ascii[r>>6]>>(r&63)&1 != 0
	case r == 0x2028 || r == 0x2029:
		return e.lines || e.wide
	}
	return e.wide
}

func appendU(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

package jsonschema

import (
	"bytes"
	"math"
	"sort"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// regexLimit bounds the nested groups, the named groups and the references by name of an expression.
const regexLimit = 1000

// A regexParser reads an expression of ECMA-262, section 22.2.1, once from left to right. It knows the expressions of the
// edition of 2025, without Annex B, which is for browsers, and without the flag v.
type regexParser struct {
	s []byte
	i int

	// An expression is right if it is right with the flag u, or without it. The first of these says that it may still be
	// right with the flag, the second that it may be right without.
	unicode, plain bool

	few       [16]regexGroup // the outer groups around i; the first is the expression itself
	more      []regexGroup   // the groups in these
	depth     int            // how many groups are around i
	groups    int            // how many groups capture
	reference int            // the greatest number of \1, \2, …
	names     map[string]int // where each named group stands last
	wanted    []string       // the names of \k<name>
}

type regexGroup struct {
	start       int32 // of the group's text
	alternative int32 // the start of its current alternative
	assertion   bool  // a quantifier may not follow
}

// isRegex reports whether s is a regular expression of ECMA-262.
func isRegex(s []byte) bool {
	p := regexParser{s: s, unicode: true, plain: true}
	return len(s) <= math.MaxInt32 && p.parse()
}

// around returns the group of the given depth.
func (p *regexParser) around(depth int) *regexGroup {
	if depth < len(p.few) {
		return &p.few[depth]
	}
	return &p.more[depth-len(p.few)]
}

// enter opens a group. It reports false if there are too many.
func (p *regexParser) enter(g regexGroup) bool {
	if p.depth++; p.depth < len(p.few) {
		p.few[p.depth] = g
	} else {
		p.more = append(p.more[:p.depth-len(p.few)], g)
	}
	return p.depth <= regexLimit
}

func (p *regexParser) parse() bool {
	atom := false // a quantifier may follow
	for p.i < len(p.s) {
		ok := true
		switch p.s[p.i] {
		case '(':
			ok, atom = p.group(), false
		case ')':
			if p.depth == 0 {
				return false
			}
			atom = !p.around(p.depth).assertion
			p.depth--
			p.i++
		case '|':
			p.i++
			p.around(p.depth).alternative, atom = int32(p.i), false
		case '*', '+', '?', '{':
			ok, atom = atom && p.quantifier(), false
		case '^', '$':
			p.i++
			atom = false
		case '[':
			ok, atom = p.class(), true
		case '\\':
			atom, ok = p.escape()
		case ']', '}':
			return false
		default:
			p.i++
			atom = true
		}
		if !ok || !p.unicode && !p.plain {
			return false
		}
	}
	for _, name := range p.wanted {
		if _, ok := p.names[name]; !ok {
			return false
		}
	}
	return p.depth == 0 && p.reference <= p.groups
}

// take steps over c and reports true if c is next.
func (p *regexParser) take(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

// group steps over the start of a group.
func (p *regexParser) group() bool {
	p.i++
	var g regexGroup
	if !p.take('?') {
		p.groups++
	} else {
		switch {
		case p.take(':'):
		case p.take('='), p.take('!'):
			g.assertion = true
		case p.take('<'):
			if p.take('=') || p.take('!') {
				g.assertion = true
				break
			}
			at := p.i
			name, ok := p.groupName()
			if !ok || !p.declare(name, at) {
				return false
			}
			p.groups++
		default:
			if !p.modifiers() {
				return false
			}
		}
	}
	g.start, g.alternative = int32(p.i), int32(p.i)
	return p.enter(g)
}

// declare records a named group at the given place. Two groups may have the same name only if they stand in different
// alternatives, so that at most one of them matches. The groups of the name that came before the last one are in other
// alternatives than the last. So it is enough to compare with the last.
func (p *regexParser) declare(name string, at int) bool {
	if last, ok := p.names[name]; ok {
		// The texts before the current alternatives do not overlap, and they are in order. Find the one that may have last.
		depth := sort.Search(p.depth+1, func(i int) bool { return int(p.around(i).alternative) > last })
		if depth > p.depth || int(p.around(depth).start) > last {
			return false
		}
	}
	if p.names == nil {
		p.names = map[string]int{}
	}
	p.names[name] = at
	return len(p.names) <= regexLimit
}

// modifiers steps over flags that a group sets or removes, such as i-m, and their colon.
func (p *regexParser) modifiers() bool {
	seen, removes := 0, false
	for ; p.i < len(p.s); p.i++ {
		c := p.s[p.i]
		switch flag := strings.IndexByte("ims", c); {
		case flag >= 0:
			if seen&(1<<flag) != 0 {
				return false
			}
			seen |= 1 << flag
		case c == '-' && !removes:
			removes = true
		default:
			p.i++
			return c == ':' && seen != 0
		}
	}
	return false
}

// quantifier steps over a quantifier.
func (p *regexParser) quantifier() bool {
	p.i++
	if p.s[p.i-1] == '{' {
		low := p.digits()
		high := low
		if p.take(',') {
			high = p.digits()
		}
		if len(low) == 0 || !p.take('}') || len(high) > 0 && less(high, low) {
			return false
		}
	}
	p.take('?')
	return true
}

// digits steps over digits, and returns them.
func (p *regexParser) digits() []byte {
	start := p.i
	for p.i < len(p.s) && isDigit(p.s[p.i]) {
		p.i++
	}
	return p.s[start:p.i]
}

// less compares two numbers of any length.
func less(a, b []byte) bool {
	a, b = bytes.TrimLeft(a, "0"), bytes.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return bytes.Compare(a, b) < 0
}

// escape steps over an escape outside a class.
func (p *regexParser) escape() (atom, ok bool) {
	if p.i++; p.i == len(p.s) {
		return false, false
	}
	switch c := p.s[p.i]; c {
	case 'b', 'B':
		p.i++
		return false, true
	case '1', '2', '3', '4', '5', '6', '7', '8', '9':
		n := 0
		for _, c := range p.digits() {
			n = min(n*10+int(c-'0'), len(p.s))
		}
		p.reference = max(p.reference, n)
		return true, true
	case 'k':
		p.i++
		if !p.take('<') || len(p.wanted) == regexLimit {
			return true, false
		}
		name, ok := p.groupName()
		p.wanted = append(p.wanted, name)
		return true, ok
	}
	_, _, ok = p.character()
	return true, ok
}

// character steps over the escape of a character or of a set of characters, without its backslash. A class may have it too.
func (p *regexParser) character() (r rune, set, ok bool) {
	if p.i == len(p.s) {
		return 0, false, false
	}
	c := p.s[p.i]
	p.i++
	switch c {
	case 'd', 'D', 's', 'S', 'w', 'W':
		return 0, true, true
	case 'p', 'P':
		p.plain = false
		return 0, true, p.property()
	case 't':
		return '\t', false, true
	case 'n':
		return '\n', false, true
	case 'v':
		return '\v', false, true
	case 'f':
		return '\f', false, true
	case 'r':
		return '\r', false, true
	case '0':
		return 0, false, p.i == len(p.s) || !isDigit(p.s[p.i])
	case 'c':
		if p.i == len(p.s) || !isLetter(p.s[p.i]) {
			return 0, false, false
		}
		p.i++
		return rune(p.s[p.i-1] & 31), false, true
	case 'x':
		r, ok = p.hex(2)
		return r, false, ok
	case 'u':
		if p.i < len(p.s) && p.s[p.i] == '{' {
			p.plain = false
		}
		r, ok = p.unicodeEscape()
		return r, false, ok
	case '^', '$', '\\', '.', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '/':
		return rune(c), false, true
	}
	p.i--
	r, n := utf8.DecodeRune(p.s[p.i:])
	p.i += n
	p.unicode = false // with the flag, only those above stand for themselves
	return r, false, r > 0xFFFF || !isIDContinue(r)
}

// hex steps over n hexadecimal digits.
func (p *regexParser) hex(n int) (r rune, ok bool) {
	if len(p.s)-p.i < n {
		return 0, false
	}
	for range n {
		c := p.s[p.i]
		if !hexDigit[c] {
			return 0, false
		}
		r = r<<4 | hexValue(c)
		p.i++
	}
	return r, true
}

func hexValue(c byte) rune {
	if isDigit(c) {
		return rune(c - '0')
	}
	return rune(c|0x20-'a') + 10
}

// unicodeEscape steps over the rest of \u0041, \u{41} or a surrogate pair.
func (p *regexParser) unicodeEscape() (r rune, ok bool) {
	if p.take('{') {
		start := p.i
		for p.i < len(p.s) && hexDigit[p.s[p.i]] {
			if r = r<<4 | hexValue(p.s[p.i]); r > unicode.MaxRune {
				return 0, false
			}
			p.i++
		}
		return r, p.i > start && p.take('}')
	}
	r, ok = p.hex(4)
	if rest := p.s[p.i:]; ok && r>>10 == 0xD800>>10 && len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
		at := p.i
		p.i += 2
		if low, ok := p.hex(4); ok && low>>10 == 0xDC00>>10 {
			return 0x10000 + (r&0x3FF)<<10 + low&0x3FF, true
		}
		p.i = at
	}
	return r, ok
}

// class steps over a class such as [^a-z\d].
func (p *regexParser) class() bool {
	p.i++
	p.take('^')
	for p.i < len(p.s) {
		if p.take(']') {
			return true
		}
		low, set, ok := p.classAtom()
		if !ok {
			return false
		}
		if p.i+1 >= len(p.s) || p.s[p.i] != '-' || p.s[p.i+1] == ']' {
			continue
		}
		p.i++
		high, set2, ok := p.classAtom()
		if !ok || set || set2 {
			return false
		}
		p.unicode = p.unicode && low <= high
		p.plain = p.plain && lastUnit(low) <= firstUnit(high)
	}
	return false
}

// firstUnit and lastUnit return the code units of UTF-16 that a range has as its end and as its start without the flag u.
func firstUnit(r rune) rune {
	if r > 0xFFFF {
		return 0xD800 + (r-0x10000)>>10
	}
	return r
}

func lastUnit(r rune) rune {
	if r > 0xFFFF {
		return 0xDC00 + r&0x3FF
	}
	return r
}

func (p *regexParser) classAtom() (r rune, set, ok bool) {
	if !p.take('\\') {
		r, n := utf8.DecodeRune(p.s[p.i:])
		p.i += n
		return r, false, true
	}
	switch {
	case p.take('b'):
		return '\b', false, true
	case p.take('-'):
		return '-', false, true
	}
	return p.character()
}

// groupName steps over the name of a group and the > behind it, and returns the name without escapes.
func (p *regexParser) groupName() (name string, ok bool) {
	var b []byte
	for start := true; p.i < len(p.s); start = false {
		if p.take('>') {
			return string(b), !start
		}
		r, n := utf8.DecodeRune(p.s[p.i:])
		p.i += n
		if r == '\\' {
			if !p.take('u') {
				return "", false
			}
			if r, ok = p.unicodeEscape(); !ok {
				return "", false
			}
		}
		if r != '$' && (start && !isIDStart(r) || !isIDContinue(r)) {
			return "", false
		}
		b = utf8.AppendRune(b, r)
	}
	return "", false
}

// isIDStart reports whether an identifier of ECMAScript may start with r, which is no $.
func isIDStart(r rune) bool {
	if r < utf8.RuneSelf {
		return isLetter(byte(r)) || r == '_'
	}
	return (unicode.IsLetter(r) || unicode.In(r, unicode.Nl, unicode.Other_ID_Start)) && !isPattern(r)
}

// isIDContinue reports whether r may follow in an identifier of ECMAScript. It does not have $, which is no ID_Continue.
func isIDContinue(r rune) bool {
	if r < utf8.RuneSelf {
		return isLetter(byte(r)) || isDigit(byte(r)) || r == '_'
	}
	return isIDStart(r) || unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc, unicode.Other_ID_Continue) && !isPattern(r)
}

func isPattern(r rune) bool {
	return unicode.In(r, unicode.Pattern_Syntax, unicode.Pattern_White_Space)
}

// property steps over the braces of \p and \P, and reports whether Unicode has what they name.
func (p *regexParser) property() bool {
	if !p.take('{') {
		return false
	}
	n := bytes.IndexByte(p.s[p.i:min(len(p.s), p.i+80)], '}')
	if n < 0 {
		return false
	}
	text := p.s[p.i : p.i+n]
	p.i += n + 1
	name, value, found := bytes.Cut(text, []byte("="))
	t := regexProperties()
	switch string(name) {
	case "General_Category", "gc":
		return t.categories[string(value)]
	case "Script", "sc", "Script_Extensions", "scx":
		return t.scripts[string(value)]
	}
	return !found && (t.categories[string(name)] || t.binary[string(name)])
}

type propertyNames struct{ categories, scripts, binary map[string]bool }

var regexProperties = sync.OnceValue(func() *propertyNames {
	set := func(list string) map[string]bool {
		m := map[string]bool{}
		for _, name := range strings.Fields(list) {
			m[name] = true
		}
		return m
	}
	return &propertyNames{set(categoryNames), set(scriptNames), set(binaryPropertyNames)}
})

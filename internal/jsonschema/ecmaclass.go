package jsonschema

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// character reads an escape that means one character or a set. The backslash, at from, has been read.
func (p *ecmaParser) character(from int) (r rune, set runeSet, isSet bool) {
	if p.i == len(p.s) {
		p.fail(from, p.i, "nothing follows the backslash")
	}
	switch r = p.next(); r {
	case 'd':
		return 0, digitSet, true
	case 'D':
		return 0, noDigits, true
	case 's':
		return 0, spaces, true
	case 'S':
		return 0, noSpaces, true
	case 'w':
		return 0, wordSet, true
	case 'W':
		return 0, noWords, true
	case 'p', 'P':
		return 0, p.property(from, r == 'P'), true
	case 'f':
		return '\f', nil, false
	case 'n':
		return '\n', nil, false
	case 'r':
		return '\r', nil, false
	case 't':
		return '\t', nil, false
	case 'v':
		return '\v', nil, false
	case 'c':
		if p.i < len(p.s) && letter(p.s[p.i]) {
			p.i++
			return rune(p.s[p.i-1] % 32), nil, false
		}
		p.fail(from, p.i, "a letter follows \\c in ECMA-262")
	case 'x':
		if n := p.hex(2); n >= 0 {
			return n, nil, false
		}
		p.fail(from, p.i, `ECMA-262 writes two hexadecimal digits after \x`)
	case 'u':
		return p.unicodeEscape(from), nil, false
	}
	switch {
	case r == '0' && (p.i == len(p.s) || p.s[p.i] < '0' || p.s[p.i] > '9'):
		return 0, nil, false
	case '0' <= r && r <= '9':
		p.fail(from, p.i, reasonOctal)
	case r < utf8.RuneSelf && letter(byte(r)):
		p.fail(from, p.i, reasonLetter)
	}
	return r, nil, false
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// hex reads n hexadecimal digits, or returns -1.
func (p *ecmaParser) hex(n int) (v rune) {
	if p.i+n > len(p.s) {
		return -1
	}
	for _, c := range []byte(p.s[p.i : p.i+n]) {
		d := strings.IndexByte("0123456789abcdef", c|0x20)
		if c < '0' || d < 0 || c > '9' && !letter(c) {
			return -1
		}
		v = v<<4 | rune(d)
	}
	p.i += n
	return v
}

// unicodeEscape reads what follows \u. Two escapes of four digits are one character if they are a surrogate pair.
func (p *ecmaParser) unicodeEscape(from int) rune {
	if p.has("{") {
		p.i++
		v, n := rune(0), 0
		for ; v >= 0 && v <= unicode.MaxRune && !p.has("}"); n++ {
			d := p.hex(1)
			if v = v<<4 | d; d < 0 {
				v = -1
			}
		}
		if n == 0 || v < 0 || v > unicode.MaxRune {
			p.fail(from, p.i, "ECMA-262 writes a number of at most 10FFFF between the braces")
		}
		p.i++
		return v
	}
	v := p.hex(4)
	if v < 0 {
		p.fail(from, p.i, `ECMA-262 writes four hexadecimal digits after \u, or a number in braces`)
	}
	if v >= firstSurrogate && v < 0xDC00 && p.has(`\u`) {
		back := p.i
		p.i += 2
		if low := p.hex(4); low >= 0xDC00 && low <= lastSurrogate {
			return 0x10000 + (v-firstSurrogate)<<10 + low - 0xDC00
		}
		p.i = back
	}
	return v
}

// property reads what follows \p or \P.
func (p *ecmaParser) property(from int, negated bool) runeSet {
	end := strings.IndexByte(p.s[p.i:], '}')
	if !p.has("{") || end < 0 {
		p.fail(from, p.i+1, `ECMA-262 writes the name of a property in braces, as in \p{L}`)
	}
	name := p.s[p.i+1 : p.i+end]
	p.i += end + 1
	set, reason := property(name)
	if reason != "" {
		p.fail(from, p.i, reason)
	}
	if negated {
		return set.negated()
	}
	return set
}

// class reads a class. Its bracket, at from, has been read.
func (p *ecmaParser) class(from int) *expr {
	negated := p.has("^")
	if negated {
		p.i++
	}
	p.ambiguous = -1
	if p.has("]") {
		p.ambiguous = from
	}
	var ranges []rune
	for !p.has("]") {
		low, set, at := p.member(from)
		if !p.has("-") || strings.HasPrefix(p.s[p.i:], "-]") {
			ranges = p.add(ranges, low, low, set)
			continue
		}
		p.i++
		high, other, _ := p.member(from)
		switch {
		case set != nil || other != nil || low < 0 || high < 0:
			// Annex B takes the hyphen beside a set for itself.
			ranges = p.add(ranges, low, low, set)
			ranges = p.add(ranges, '-', '-', nil)
			ranges = p.add(ranges, high, high, other)
		case low > high:
			p.fail(at, p.i, "the range is out of order")
		default:
			ranges = p.add(ranges, low, high, nil)
		}
	}
	p.i++
	set := newRuneSet(ranges)
	if negated {
		set = set.negated()
	}
	return p.one(set)
}

func (p *ecmaParser) add(ranges []rune, low, high rune, set runeSet) []rune {
	if low < 0 {
		return append(ranges, set...)
	}
	return append(ranges, low, high)
}

// member reads a character or a set in the class that begins at from. For a set, r is -1.
func (p *ecmaParser) member(from int) (r rune, set runeSet, at int) {
	if at = p.i; at == len(p.s) {
		p.fail(from, from+1, reasonOpenClass)
	}
	switch r = p.next(); r {
	case '[':
		p.posix(at)
	case '\\':
		if p.has("b") {
			p.i++
			return '\b', nil, at
		}
		var isSet bool
		if r, set, isSet = p.character(at); isSet {
			return -1, set, at
		}
	}
	return r, nil, at
}

// posix refuses [:alpha:] in a class. It is a class of letters in RE2, and ECMA-262 takes it for the end of a class of
// punctuation and a few letters.
func (p *ecmaParser) posix(from int) {
	if !p.has(":") {
		return
	}
	end := p.i + 1
	for end < len(p.s) && (letter(p.s[end]) || p.s[end] == '^') {
		end++
	}
	if !strings.HasPrefix(p.s[end:], ":]") {
		return
	}
	p.fail(from, end+2, "ECMA-262 has no POSIX classes, and RE2 has; write the characters, as in [a-z]")
}

var (
	digitSet       = runeSet{'0', '9'}
	noDigits       = digitSet.negated()
	wordSet        = runeSet{'0', '9', 'A', 'Z', '_', '_', 'a', 'z'}
	noWords        = wordSet.negated()
	lineEnds       = runeSet{'\n', '\n', '\r', '\r', 0x2028, 0x2029}
	anyButLineEnds = lineEnds.negated()
	spaces         = tableSet(unicode.Zs).union(runeSet{'\t', '\r'}).union(runeSet{0x2028, 0x2029}).union(runeSet{0xFEFF, 0xFEFF})
	noSpaces       = spaces.negated()
)

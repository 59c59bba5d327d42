package jsonschema

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// These are values that a walk returns in place of an offset. A refusal may concern one branch only. A stop concerns the
// whole message, because of its syntax, a limit or its fuel. No anyOf and no not may ignore a stop.
const (
	refused = -1
	stopped = -2
)

// These bits say what is known of a string that has been read once.
const (
	escaped  = 1 << iota // the string has a backslash
	nonASCII             // the string has a byte of 0x80 or more
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// load reads eight bytes at i. The message must be long enough.
func load(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i : i+8]) }

// special marks, in the high bit of each byte, a quote, a backslash, a control or a byte outside ASCII.
func special(w uint64) uint64 {
	low := w &^ highs
	return ^((low + ones*0x60) & (low ^ ones*'"' + ones*0x7F) & (low ^ ones*'\\' + ones*0x7F) &^ w) & highs
}

// digits reads the decimal digits at the beginning of eight bytes, without a branch for each, and how many there are.
func digits(w uint64) (value uint64, n int) {
	x := w ^ ones*'0'
	n = bits.TrailingZeros64((x+ones*0x76|x)&highs) >> 3
	x <<= uint(64-8*n) & 127 // none are all shifted out
	x = x*10 + x>>8
	return ((x&0x000000FF000000FF)*0x000F424000000064 + (x>>16&0x000000FF000000FF)*0x0000271000000001) >> 32, n
}

// str reads the string whose quote stands at i and returns the offset after its closing quote.
func (v *vm) str(i int) (end int, flags uint8) {
	msg := v.msg
	j := i + 1
	for j+8 <= len(msg) {
		m := special(load(msg, j))
		if m == 0 {
			j += 8
			continue
		}
		j += bits.TrailingZeros64(m) >> 3
		if msg[j] == '"' && !v.controls {
			return j + 1, 0
		}
		break
	}
	end, flags, f := scanString(msg, j)
	if f != faultNone {
		return v.stop(f, end), flags
	}
	if v.controls {
		if off := controlAt(msg, i+1, end-1); off >= 0 {
			return v.stop(faultControlInString, off), flags
		}
	}
	return end, flags
}

// scanString reads on in a string from i, which is inside of it. It returns the offset after the closing quote, or of
// the fault.
func scanString(msg []byte, i int) (end int, flags uint8, f scanFault) {
	for {
		for i+8 <= len(msg) {
			m := special(load(msg, i))
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
			break
		}
	slow:
		if i >= len(msg) {
			return len(msg), flags, faultSyntax
		}
		switch c := msg[i]; {
		case c == '"':
			return i + 1, flags, faultNone
		case c == '\\':
			flags |= escaped
			var f scanFault
			if i, f = scanEscape(msg, i); f != faultNone {
				return i, flags, f
			}
		case c < 0x20:
			return i, flags, faultControl
		case c < utf8.RuneSelf:
			i++
		default:
			flags |= nonASCII
			// Text of other scripts has its letters in runs, with single spaces between them. So look at the next
			// byte before reading words of eight again.
			for {
				switch {
				case c >= 0xC2 && c < 0xE0 && i+1 < len(msg) && msg[i+1]&0xC0 == 0x80:
					i += 2
				case c > 0xE0 && c < 0xED && i+2 < len(msg) && msg[i+1]&0xC0 == 0x80 && msg[i+2]&0xC0 == 0x80:
					i += 3
				default:
					r, size := utf8.DecodeRune(msg[i:])
					if r == utf8.RuneError && size == 1 {
						return i, flags, faultUTF8
					}
					i += size
				}
				if i == len(msg) {
					goto slow
				}
				if c = msg[i]; c == ' ' && i+1 < len(msg) && msg[i+1] >= utf8.RuneSelf {
					i++
					c = msg[i]
				} else if c < utf8.RuneSelf {
					break
				}
			}
			if msg[i] == '"' {
				return i + 1, flags, faultNone
			}
		}
	}
}

// scanEscape reads the escape that begins at i, and both halves of a surrogate pair.
func scanEscape(msg []byte, i int) (int, scanFault) {
	if i+1 == len(msg) {
		return i + 1, faultSyntax
	}
	switch msg[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, faultNone
	case 'u':
		r, bad := hex4(msg, i+2)
		if bad >= 0 {
			return bad, faultSyntax
		}
		if r < 0xD800 || r > 0xDFFF {
			return i + 6, faultNone
		}
		if r >= 0xDC00 || i+7 >= len(msg) || msg[i+6] != '\\' || msg[i+7] != 'u' {
			return i, faultSurrogate
		}
		low, bad := hex4(msg, i+8)
		if bad >= 0 || low < 0xDC00 || low > 0xDFFF {
			return i, faultSurrogate
		}
		return i + 12, faultNone
	}
	return i + 1, faultSyntax
}

// hex4 reads four hexadecimal digits at i. bad is the offset of the first byte that is no such digit, or -1.
func hex4(msg []byte, i int) (r rune, bad int) {
	for k := i; k < i+4; k++ {
		if k >= len(msg) {
			return 0, len(msg)
		}
		c := msg[k]
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, k
		}
		r = r<<4 | rune(c)
	}
	return r, -1
}

// unescape appends the text of a JSON string's inside, which scanString has accepted.
func unescape(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		switch c = raw[i+1]; c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r, _ := hex4(raw, i+2)
			i += 6
			if r >= 0xD800 && r <= 0xDBFF {
				low, _ := hex4(raw, i+2)
				r = (r-0xD800)<<10 + (low - 0xDC00) + 0x10000
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c)
		i += 2
	}
	return dst
}

// unescapedLen returns how many bytes raw has after unescaping, and stops counting beyond most. An escape that is cut
// short at the end of raw counts as one byte.
func unescapedLen(raw []byte, most int) int {
	n := 0
	for i := 0; i < len(raw) && n <= most; n++ {
		if raw[i] != '\\' {
			i++
			continue
		}
		if i+1 >= len(raw) || raw[i+1] != 'u' {
			i += 2
			continue
		}
		r, bad := hex4(raw, i+2)
		i += 6
		switch {
		case bad >= 0 || r < 0x80:
		case r < 0x800:
			n++
		case r >= 0xD800 && r <= 0xDBFF:
			n += 3
			i += 6
		default:
			n += 2
		}
	}
	return n
}

// codePoints counts the characters of a string's inside, which scanString has accepted.
func codePoints(raw []byte, flags uint8) int {
	switch {
	case flags == 0:
		return len(raw)
	case flags&escaped == 0:
		return utf8.RuneCount(raw)
	}
	n := 0
	for i := 0; i < len(raw); n++ {
		switch c := raw[i]; {
		case c == '\\' && raw[i+1] != 'u':
			i += 2
		case c == '\\':
			if r, _ := hex4(raw, i+2); r >= 0xD800 && r <= 0xDBFF {
				i += 6
			}
			i += 6
		case c < utf8.RuneSelf:
			i++
		default:
			_, size := utf8.DecodeRune(raw[i:])
			i += size
		}
	}
	return n
}

// skipSpace returns the offset of the next byte that is no white space.
func skipSpace(msg []byte, i int) int {
	for i < len(msg) && (msg[i] == ' ' || msg[i] == '\n' || msg[i] == '\r' || msg[i] == '\t') {
		i++
	}
	return i
}

func (v *vm) word(i int, word string) int {
	for k := 0; k < len(word); k++ {
		if i+k == len(v.msg) || v.msg[i+k] != word[k] {
			return v.stop(faultSyntax, i+k)
		}
	}
	return i + len(word)
}

// A number is a JSON number as it was read. If it is small, which means at most 18 digits, it is mant × 10^exp, with the
// sign neg.
type number struct {
	mant  uint64
	exp   int32
	neg   bool
	small bool
}

// num reads the number that begins at i.
func (v *vm) num(i int) (end int, n number) {
	msg := v.msg
	j := i
	neg := msg[j] == '-'
	if neg {
		j++
	}
	first := j
	var mant uint64
	if j+8 <= len(msg) {
		var n int
		mant, n = digits(load(msg, j))
		j += n
	}
	if j-first == 8 || j == first {
		for j < len(msg) && msg[j]-'0' <= 9 {
			mant = mant*10 + uint64(msg[j]-'0')
			j++
		}
	}
	count := j - first
	if count == 0 || count > 1 && msg[first] == '0' {
		if count > 0 {
			j = first + 1
		}
		return v.badNumber(i, j), n
	}
	exp := 0
	if j < len(msg) && (msg[j] == '.' || msg[j]|0x20 == 'e') {
		if msg[j] == '.' {
			j++
			from := j
			if j+8 <= len(msg) {
				few, n := digits(load(msg, j))
				mant = mant*pow10[n] + few
				j += n
			}
			if j-from == 8 || j == from {
				for j < len(msg) && msg[j]-'0' <= 9 {
					mant = mant*10 + uint64(msg[j]-'0')
					j++
				}
			}
			if j == from {
				return v.badNumber(i, j), n
			}
			exp = from - j
			count += j - from
		}
		if j < len(msg) && msg[j]|0x20 == 'e' {
			j++
			sign := 1
			if j < len(msg) && (msg[j] == '+' || msg[j] == '-') {
				if msg[j] == '-' {
					sign = -1
				}
				j++
			}
			from, e := j, 0
			for j < len(msg) && msg[j]-'0' <= 9 {
				e = addDigit(e, msg[j])
				j++
			}
			if j == from {
				return v.badNumber(i, j), n
			}
			if j-i > v.limits.NumberBytes {
				return v.stop(faultNumberBytes, i), n
			}
			if e > v.limits.Exponent {
				return v.stop(faultExponent, i), n
			}
			exp += sign * e
		}
	}
	if j-i > v.limits.NumberBytes {
		return v.stop(faultNumberBytes, i), n
	}
	return j, number{mant, int32(exp), neg && mant != 0, count <= 18}
}

// badNumber reports a fault at j of the number that began at i, which may have been too long before it was wrong.
func (v *vm) badNumber(i, j int) int {
	if j-i >= v.limits.NumberBytes {
		return v.stop(faultNumberBytes, i)
	}
	return v.stop(faultSyntax, j)
}

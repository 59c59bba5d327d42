package jsonschema

import (
	"bytes"
	"math/bits"
	"unicode/utf8"
)

// The functions of this file search bytes that may not be JSON. They check no more than they need, and they return
// whatever the bytes are. A strict walk refuses a message that is not JSON.

// quoteOrEscape marks quotes and backslashes, exactly for the lowest mark.
func quoteOrEscape(w uint64) uint64 {
	q, b := w^ones*'"', w^ones*'\\'
	return ((q-ones)&^q | (b-ones)&^b) & highs
}

// skipString returns the offset after the string whose quote stands at i, or the end of msg.
func skipString(msg []byte, i int) int {
	i++
	for {
		for i+8 <= len(msg) {
			m := quoteOrEscape(load(msg, i))
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
			break
		}
		if i >= len(msg) {
			return len(msg)
		}
		switch msg[i] {
		case '"':
			return i + 1
		case '\\':
			i += 2
		default:
			i++
		}
	}
}

// skipValue returns the offset after the value that begins at i. It is beyond i, unless that is the end.
func skipValue(msg []byte, i int) int {
	if i >= len(msg) {
		return len(msg)
	}
	switch msg[i] {
	case '"':
		return skipString(msg, i)
	case '{', '[':
		depth := 0
		for i < len(msg) {
			// A word at a time, as long as the value cannot end in it. A bracket differs from a brace in one bit.
			if i+8 <= len(msg) {
				w := load(msg, i)
				t := (w | ones*0x20) &^ highs
				open := ^((t ^ ones*'{' + ones*0x7F) | w) & highs
				shut := ^((t ^ ones*'}' + ones*0x7F) | w) & highs
				quote := ^((w&^highs ^ ones*'"' + ones*0x7F) | w) & highs
				before := quote&-quote - 1 // the bytes before the first quote, or all bytes
				if ends := bits.OnesCount64(shut & before); depth > ends {
					depth += bits.OnesCount64(open&before) - ends
					if quote == 0 {
						i += 8
					} else {
						i = skipString(msg, i+bits.TrailingZeros64(quote)>>3)
					}
					continue
				}
			}
			switch msg[i] {
			case '"':
				i = skipString(msg, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return len(msg)
	}
	for i++; i < len(msg) && msg[i] > ' ' && msg[i] != ',' && msg[i] != '}' && msg[i] != ']'; i++ {
	}
	return i
}

// firstItem returns the offset of the first item of the array at i, or of the first name of an object, or -1.
func firstItem(msg []byte, i int) int {
	if i = skipSpace(msg, i+1); i >= len(msg) || msg[i] == ']' || msg[i] == '}' {
		return -1
	}
	return i
}

// nextItem returns the offset of the item after the one that ends at i, or -1.
func nextItem(msg []byte, i int) int {
	if i = skipSpace(msg, i); i >= len(msg) || msg[i] != ',' {
		return -1
	}
	if i = skipSpace(msg, i+1); i >= len(msg) {
		return -1
	}
	return i
}

// memberValue returns the offset of the value whose name is at j.
func memberValue(msg []byte, j int) int {
	return skipSpace(msg, skipSpace(msg, skipString(msg, j))+1)
}

// member returns the offset of the value that the object at i has under a name, the first if there are two, or the
// negated offset of where the search ended.
func member(msg []byte, i int, name string) int {
	j := skipSpace(msg, i+1)
	for j < len(msg) && msg[j] == '"' {
		end := skipString(msg, j)
		found := end-j-2 == len(name) && string(msg[j+1:end-1]) == name
		if !found && end-j-2 > len(name) {
			found = sameName(msg[j+1:end-1], name)
		}
		j = skipSpace(msg, end)
		if j >= len(msg) || msg[j] != ':' {
			break
		}
		if j = skipSpace(msg, j+1); j >= len(msg) {
			break
		}
		if found {
			return j
		}
		if j = skipSpace(msg, skipValue(msg, j)); j >= len(msg) || msg[j] != ',' {
			break
		}
		j = skipSpace(msg, j+1)
	}
	return -j
}

// sameName compares the inside of a string that has escapes with a name.
func sameName(raw []byte, name string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return false
	}
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			if len(name) == 0 || name[0] != raw[i] {
				return false
			}
			name = name[1:]
			i++
			continue
		}
		end, f := scanEscape(raw, i)
		if f != faultNone {
			return false
		}
		var buf [utf8.UTFMax]byte
		text := unescape(buf[:0], raw[i:end])
		if len(name) < len(text) || name[:len(text)] != string(text) {
			return false
		}
		name = name[len(text):]
		i = end
	}
	return name == ""
}

// index reads an array index of RFC 6901, which has no sign and no leading zero.
func index(s string) (int, bool) {
	if s == "" || len(s) > 9 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i]-'0' > 9 {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

// Unquote returns the text of a JSON string. Without an escape, the text is a part of raw. Otherwise it is in buf, which
// grows as needed. Unquote returns false if raw is no string of strict JSON.
func Unquote(raw, buf []byte) ([]byte, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, false
	}
	end, flags, f := scanString(raw, 1)
	if f != faultNone || end != len(raw) {
		return nil, false
	}
	if flags&escaped == 0 {
		return raw[1 : end-1], true
	}
	return unescape(buf[:0], raw[1:end-1]), true
}

package jsonschema

import "bytes"

// A format judges text. It has the cost of that.
type format struct {
	ok   func(text []byte) bool
	cost int // sixteenths of a unit of fuel for each byte
}

func (f *format) price(n int) int { return 4 + sixteenths(n, f.cost) }

// formats has the formats by name. None of them allocates, except regex for named groups and for deep nesting.
var formats = func() map[string]*format {
	m := map[string]*format{}
	add := func(ok func([]byte) bool, cost int, names ...string) {
		for _, name := range names {
			m[name] = &format{ok, cost}
		}
	}
	add(isDateTime, 1, "date-time")
	add(isDate, 1, "date")
	add(isTime, 1, "time")
	add(isDuration, 1, "duration")
	add(isPeriod, 1, "period")
	add(isHostname, 4, "hostname")
	add(isIDNHostname, 8, "idn-hostname")
	add(isEmail, 4, "email")
	add(isIDNEmail, 8, "idn-email")
	add(isIPv4, 1, "ipv4", "ip-address")
	add(isIPv6, 1, "ipv6")
	add(isURI, 1, "uri")
	add(isURIReference, 1, "uri-reference", "uriref")
	add(isIRI, 2, "iri")
	add(isIRIReference, 2, "iri-reference")
	add(isURITemplate, 2, "uri-template")
	add(isUUID, 1, "uuid")
	add(isJSONPointer, 1, "json-pointer")
	add(isRelativePointer, 1, "relative-json-pointer")
	m["regex"] = regexFormat
	return m
}()

var regexFormat = &format{isRegex, 8}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return c-'0' <= 9 }

// number2 reads two digits, or returns -1.
func number2(s []byte, i int) int {
	a, b := s[i]-'0', s[i+1]-'0'
	if a > 9 || b > 9 {
		return -1
	}
	return int(a)*10 + int(b)
}

// isDate reports whether s is a full-date of RFC 3339.
func isDate(s []byte) bool {
	if len(s) != 10 || s[4] != '-' || s[7] != '-' {
		return false
	}
	century, year, month, day := number2(s, 0), number2(s, 2), number2(s, 5), number2(s, 8)
	if century < 0 || year < 0 || month < 1 || month > 12 || day < 1 {
		return false
	}
	switch {
	case month != 2:
		return day <= 30+(month+month>>3)&1
	case year%4 == 0 && (year != 0 || century%4 == 0):
		return day <= 29
	}
	return day <= 28
}

// isTime reports whether s is a full-time of RFC 3339. A leap second is valid only at 23:59:60 UTC.
func isTime(s []byte) bool {
	if len(s) < 9 || s[2] != ':' || s[5] != ':' {
		return false
	}
	hour, minute, second := number2(s, 0), number2(s, 3), number2(s, 6)
	if hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60 {
		return false
	}
	s = s[8:]
	if s[0] == '.' {
		n := 1
		for n < len(s) && s[n]-'0' <= 9 {
			n++
		}
		if n == 1 || n == len(s) {
			return false
		}
		s = s[n:]
	}
	at := hour*60 + minute
	switch s[0] {
	case 'z', 'Z':
		if len(s) != 1 {
			return false
		}
	case '+', '-':
		if len(s) != 6 || s[3] != ':' {
			return false
		}
		h, m := number2(s, 1), number2(s, 4)
		if h < 0 || h > 23 || m < 0 || m > 59 {
			return false
		}
		if s[0] == '+' {
			at -= h*60 + m
		} else {
			at += h*60 + m
		}
	default:
		return false
	}
	return second < 60 || (at+24*60)%(24*60) == 23*60+59
}

func isDateTime(s []byte) bool {
	return len(s) >= 20 && s[10]|0x20 == 't' && isDate(s[:10]) && isTime(s[11:])
}

// isDuration reports whether s is a duration of RFC 3339, appendix A.
func isDuration(s []byte) bool {
	if len(s) < 2 || s[0] != 'P' {
		return false
	}
	s = s[1:]
	if s[len(s)-1] == 'W' {
		n, rest, ok := units(s, "W")
		return ok && n == 1 && len(rest) == 0
	}
	_, s, ok := units(s, "YMD")
	if !ok || len(s) == 0 {
		return ok
	}
	n, s, ok := units(s[1:], "HMS")
	return ok && n > 0 && len(s) == 0
}

// units reads numbers that are followed by one of the letters each. The letters are in their order, and none may be
// left out between two of them.
func units(s []byte, letters string) (n int, rest []byte, ok bool) {
	at := -1
	for len(s) > 0 && s[0] != 'T' {
		i := 0
		for i < len(s) && s[i]-'0' <= 9 {
			i++
		}
		if i == 0 || i == len(s) {
			return n, s, false
		}
		k := 0
		for k < len(letters) && letters[k] != s[i] {
			k++
		}
		if k == len(letters) || at >= 0 && k != at+1 {
			return n, s, false
		}
		at = k
		n++
		s = s[i+1:]
	}
	return n, s, true
}

func isPeriod(s []byte) bool {
	i := bytes.IndexByte(s, '/')
	if i < 0 {
		return false
	}
	from, to := s[:i], s[i+1:]
	if isDateTime(from) {
		return isDateTime(to) || isDuration(to)
	}
	return isDuration(from) && isDateTime(to)
}

func isIPv4(s []byte) bool {
	for part := range 4 {
		n, i := 0, 0
		for i < len(s) && i < 3 && s[i]-'0' <= 9 {
			n = n*10 + int(s[i]-'0')
			i++
		}
		if i == 0 || n > 255 || i > 1 && s[0] == '0' {
			return false
		}
		if s = s[i:]; part < 3 {
			if len(s) == 0 || s[0] != '.' {
				return false
			}
			s = s[1:]
		}
	}
	return len(s) == 0
}

func isIPv6(s []byte) bool {
	groups, gap := 0, false
	if len(s) >= 2 && s[0] == ':' && s[1] == ':' {
		gap = true
		if s = s[2:]; len(s) == 0 {
			return true
		}
	}
	for groups < 8 {
		i := 0
		for i < len(s) && i < 5 && (s[i]-'0' <= 9 || s[i]|0x20 >= 'a' && s[i]|0x20 <= 'f') {
			i++
		}
		if i < len(s) && s[i] == '.' {
			groups += 2
			return isIPv4(s) && (groups == 8 && !gap || gap && groups < 8)
		}
		if i == 0 || i > 4 {
			return false
		}
		groups++
		if s = s[i:]; len(s) == 0 {
			break
		}
		if s[0] != ':' || len(s) == 1 {
			return false
		}
		if s = s[1:]; s[0] == ':' {
			if gap {
				return false
			}
			gap = true
			if s = s[1:]; len(s) == 0 {
				break
			}
		}
	}
	return len(s) == 0 && (groups == 8 && !gap || gap && groups < 8)
}

func isUUID(s []byte) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return allHex(s[:8]) && allHex(s[9:13]) && allHex(s[14:18]) && allHex(s[19:23]) && allHex(s[24:])
}

var hexDigit = func() (t [256]bool) {
	for _, c := range "0123456789abcdefABCDEF" {
		t[c] = true
	}
	return t
}()

func allHex(s []byte) bool {
	for _, c := range s {
		if !hexDigit[c] {
			return false
		}
	}
	return true
}

func isJSONPointer(s []byte) bool {
	if len(s) > 0 && s[0] != '/' {
		return false
	}
	for i, c := range s {
		if c == '~' && (i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return false
		}
	}
	return true
}

// isRelativePointer reports whether s is a pointer of draft-bhutton-relative-json-pointer-00: how many levels up, how far to
// move in an array, and a pointer from there.
func isRelativePointer(s []byte) bool {
	n := numberLen(s)
	if n == 0 {
		return false
	}
	if s = s[n:]; len(s) > 0 && (s[0] == '+' || s[0] == '-') {
		if n = numberLen(s[1:]); n == 0 || s[1] == '0' {
			return false
		}
		s = s[1+n:]
	}
	return len(s) == 1 && s[0] == '#' || isJSONPointer(s)
}

// numberLen returns the length of the number at the start of s. It returns 0 if there is none, or one with a leading zero.
func numberLen(s []byte) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	if n > 1 && s[0] == '0' {
		return 0
	}
	return n
}

package jsonschema

import (
	"bytes"
	"net/mail"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"
)

// A format judges text. It has the cost of that.
type format struct {
	ok   func(text []byte) bool
	cost int // sixteenths of a unit of fuel for each byte
}

func (f *format) price(n int) int { return 4 + sixteenths(n, f.cost) }

// formats has the formats of v5. The code here judges the texts of common messages, without an allocation. v5 judges the
// rarer formats, and texts that are not plainly right. It does not judge hostnames and addresses, for which it is too
// lenient.
var formats = func() map[string]*format {
	m := map[string]*format{}
	for name, f := range v5.Formats {
		m[name] = &format{func(text []byte) bool { return f(string(text)) }, 8}
	}
	own := func(ok func([]byte) bool, names ...string) {
		for _, name := range names {
			m[name] = &format{ok, 1}
		}
	}
	own(isDateTime, "date-time")
	own(isDate, "date")
	own(isTime, "time")
	own(isDuration, "duration")
	own(isPeriod, "period")
	own(isHostname, "hostname")
	own(isIPv4, "ipv4", "ip-address")
	own(isIPv6, "ipv6")
	own(isUUID, "uuid")
	own(isJSONPointer, "json-pointer")
	own(isRelativePointer, "relative-json-pointer")
	quick := func(name string, yes, no func([]byte) bool) {
		slow := m[name].ok
		m[name].ok = func(text []byte) bool { return yes(text) || !no(text) && slow(text) }
	}
	quick("uri", func(s []byte) bool { return plainURI(s, true) }, func(s []byte) bool { return bytes.IndexByte(s, ':') <= 0 })
	quick("uri-reference", func(s []byte) bool { return plainURI(s, false) }, func(s []byte) bool { return bytes.IndexByte(s, '\\') >= 0 })
	m["email"] = &format{isEmail, 8}
	// A regular expression is one of ECMA-262. Parsing it is linear and builds no program, so that nested repeats of a peer
	// cost nothing.
	m["regex"] = &format{func(text []byte) bool { return isECMA(string(text)) }, 16 * 24}
	return m
}()

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

// isHostname reports whether s is a host name of RFC 1123, section 2.1.
func isHostname(s []byte) bool {
	if n := len(s); n > 0 && s[n-1] == '.' {
		s = s[:n-1]
	}
	if len(s) > 253 {
		return false
	}
	label := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			c := s[i]
			if (c|0x20 < 'a' || c|0x20 > 'z') && c-'0' > 9 && (c != '-' || label == 0) {
				return false
			}
			label++
			continue
		}
		if label == 0 || label > 63 || s[i-1] == '-' {
			return false
		}
		label = 0
	}
	return true
}

func isEmail(s []byte) bool {
	at := bytes.LastIndexByte(s, '@')
	if at < 0 || at > 64 || len(s) > 254 {
		return false
	}
	domain := s[at+1:]
	if n := len(domain); n >= 2 && domain[0] == '[' && domain[n-1] == ']' {
		if ip, ok := bytes.CutPrefix(domain[1:n-1], []byte("IPv6:")); ok {
			return isIPv6(ip)
		}
		return isIPv4(domain[1 : n-1])
	}
	if !isHostname(domain) {
		return false
	}
	if domain[len(domain)-1] != '.' && dotAtom(s[:at]) {
		return true
	}
	_, err := mail.ParseAddress(string(s))
	return err == nil
}

func dotAtom(s []byte) bool {
	last := byte('.')
	for _, c := range s {
		switch {
		case c|0x20 >= 'a' && c|0x20 <= 'z' || c-'0' <= 9 || c == '-' || c == '_' || c == '+':
		case c == '.' && last != '.':
		default:
			return false
		}
		last = c
	}
	return last != '.'
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

func isRelativePointer(s []byte) bool {
	n := 0
	for n < len(s) && s[n]-'0' <= 9 {
		n++
	}
	if n == 0 || n > 1 && s[0] == '0' {
		return false
	}
	s = s[n:]
	return len(s) == 1 && s[0] == '#' || isJSONPointer(s)
}

var uriByte = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/?#" {
		t[c] = true
	}
	return t
}()

// plainURI accepts the ordinary forms of a URI, or of a reference if not absolute.
func plainURI(s []byte, absolute bool) bool {
	for _, c := range s {
		if !uriByte[c] {
			return false
		}
	}
	colon := bytes.IndexByte(s, ':')
	if stop := bytes.IndexAny(s, "/?#"); stop >= 0 && colon > stop {
		colon = -1
	}
	if colon >= 0 {
		for i, c := range s[:colon] {
			letter := c|0x20 >= 'a' && c|0x20 <= 'z'
			if !letter && (i == 0 || c-'0' > 9 && c != '+' && c != '-' && c != '.') {
				return false
			}
		}
	}
	if colon == 0 || colon < 0 && absolute {
		return false
	}
	if s = s[colon+1:]; len(s) < 2 || s[0] != '/' || s[1] != '/' {
		return true
	}
	s = s[2:]
	if i := bytes.IndexAny(s, "/?#"); i >= 0 {
		s = s[:i]
	}
	host, port, found := bytes.Cut(s, []byte(":"))
	for _, c := range port {
		if c-'0' > 9 {
			return false
		}
	}
	return (len(host) > 0 || !found) && bytes.IndexByte(host, '@') < 0
}

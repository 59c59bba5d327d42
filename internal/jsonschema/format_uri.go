package jsonschema

import (
	"bytes"
	"unicode/utf8"
)

// The sets of the characters that RFC 3986 allows in the parts of a URI. A percent-encoded octet is allowed in all of them.
const (
	uriName     uint8 = 1 << iota // a registered name: unreserved and sub-delims
	uriUser                       // user information: those and ":"
	uriSegment                    // the first segment of a relative path: uriName and "@"
	uriPath                       // a path: uriUser, "@" and "/"
	uriQuery                      // a query: those and "?"
	uriFragment                   // a fragment: the same
)

var uriSets = func() (t [256]uint8) {
	add := func(set uint8, chars string) {
		for _, c := range []byte(chars) {
			t[c] |= set
		}
	}
	const name = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;="
	add(uriName, name)
	add(uriUser, name+":")
	add(uriSegment, name+"@")
	add(uriPath, name+":@/")
	add(uriQuery|uriFragment, name+":@/?")
	return t
}()

func isURI(s []byte) bool          { return parseURI(s, true, false) }
func isURIReference(s []byte) bool { return parseURI(s, false, false) }
func isIRI(s []byte) bool          { return parseURI(s, true, true) }
func isIRIReference(s []byte) bool { return parseURI(s, false, true) }

// parseURI reports whether s is a URI-reference of RFC 3986 or, if iri is set, an IRI-reference of RFC 3987. If absolute is
// set, s must have a scheme.
func parseURI(s []byte, absolute, iri bool) bool {
	if n := schemeLen(s); n > 0 {
		s = s[n+1:]
	} else if absolute {
		return false
	} else if n := uriRun(s, uriSegment, iri); n < len(s) && s[n] == ':' {
		return false
	}
	if len(s) >= 2 && s[0] == '/' && s[1] == '/' {
		s = s[2:]
		n := authorityLen(s, iri)
		if n < 0 || n < len(s) && s[n] != '/' && s[n] != '?' && s[n] != '#' {
			return false
		}
		s = s[n:]
	}
	s = s[uriRun(s, uriPath, iri):]
	if len(s) > 0 && s[0] == '?' {
		s = s[1+uriRun(s[1:], uriQuery, iri):]
	}
	if len(s) > 0 && s[0] == '#' {
		s = s[1+uriRun(s[1:], uriFragment, iri):]
	}
	return len(s) == 0
}

// schemeLen returns the length of the scheme at the start of s, without its colon. It returns 0 if there is none.
func schemeLen(s []byte) int {
	for i, c := range s {
		switch {
		case isLetter(c):
		case c == ':':
			return i
		case i == 0 || !isDigit(c) && c != '+' && c != '-' && c != '.':
			return 0
		}
	}
	return 0
}

// authorityLen returns the length of the authority at the start of s, or -1 if its host or its port is wrong.
func authorityLen(s []byte, iri bool) int {
	i := uriRun(s, uriUser, iri)
	if i < len(s) && s[i] == '@' {
		i++
	} else {
		i = 0
	}
	if i < len(s) && s[i] == '[' {
		n := bytes.IndexByte(s[i:], ']')
		if n < 0 || !isIPv6(s[i+1:i+n]) && !isIPvFuture(s[i+1:i+n]) {
			return -1
		}
		i += n + 1
	} else {
		i += uriRun(s[i:], uriName, iri)
	}
	if i < len(s) && s[i] == ':' {
		for i++; i < len(s) && isDigit(s[i]); i++ {
		}
	}
	return i
}

// isIPvFuture reports whether s is an address of a later version of IP, without its brackets.
func isIPvFuture(s []byte) bool {
	version, address, found := bytes.Cut(s, []byte("."))
	if !found || len(version) < 2 || version[0]|0x20 != 'v' || !allHex(version[1:]) || len(address) == 0 {
		return false
	}
	for _, c := range address {
		if uriSets[c]&uriUser == 0 {
			return false
		}
	}
	return true
}

// uriRun returns the length of the characters of set at the start of s.
func uriRun(s []byte, set uint8, iri bool) int {
	for i := 0; ; {
		for i < len(s) && uriSets[s[i]]&set != 0 {
			i++
		}
		switch {
		case i == len(s):
			return i
		case isPercentEncoded(s[i:]):
			i += 3
		case s[i] >= utf8.RuneSelf && iri:
			r, n := utf8.DecodeRune(s[i:])
			if !isUCSChar(r) && (set != uriQuery || !isPrivateUse(r)) || isBidiControl(r) {
				return i
			}
			i += n
		default:
			return i
		}
	}
}

func isPercentEncoded(s []byte) bool {
	return len(s) >= 3 && s[0] == '%' && hexDigit[s[1]] && hexDigit[s[2]]
}

// isUCSChar reports whether r is a ucschar of RFC 3987, section 2.2.
func isUCSChar(r rune) bool {
	switch {
	case r < 0xA0:
		return false
	case r < 0x10000:
		return r <= 0xD7FF || r >= 0xF900 && r <= 0xFDCF || r >= 0xFDF0 && r <= 0xFFEF
	}
	return r < 0xF0000 && r&0xFFFF <= 0xFFFD && (r < 0xE0000 || r >= 0xE1000)
}

// isPrivateUse reports whether r is an iprivate of RFC 3987, section 2.2.
func isPrivateUse(r rune) bool {
	return r >= 0xE000 && r <= 0xF8FF || r >= 0xF0000 && r&0xFFFF <= 0xFFFD
}

// isBidiControl reports whether r formats bidirectional text. RFC 3987, section 4.1, forbids that in an IRI.
func isBidiControl(r rune) bool {
	switch r {
	case 0x061C, 0x200E, 0x200F, 0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068, 0x2069:
		return true
	}
	return false
}

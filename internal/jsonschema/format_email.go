package jsonschema

import (
	"bytes"
	"unicode/utf8"
)

const (
	maxLocalPart = 64  // octets, RFC 5321, section 4.5.3.1.1
	maxMailbox   = 254 // octets; a path has 256 with its angle brackets, section 4.5.3.1.3
)

// atext has the characters of an atom, RFC 5322, section 3.2.3.
var atext = func() (t [utf8.RuneSelf]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~" {
		t[c] = true
	}
	return t
}()

// isEmail reports whether s is a Mailbox of RFC 5321, section 4.1.2.
func isEmail(s []byte) bool {
	domain := mailDomain(s, false)
	return len(domain) > 0 && (isAddressLiteral(domain) || isHostname(domain))
}

// isIDNEmail reports whether s is a Mailbox of RFC 6531, section 3.3. Its local part may have every non-ASCII character.
func isIDNEmail(s []byte) bool {
	domain := mailDomain(s, true)
	return len(domain) > 0 && (isAddressLiteral(domain) || isIDNMailDomain(domain))
}

// mailDomain returns what follows the local part and the @ of a mailbox. It returns nothing if the local part is wrong, or
// the mailbox too long.
func mailDomain(s []byte, international bool) []byte {
	if len(s) == 0 || len(s) > maxMailbox {
		return nil
	}
	var n int
	if s[0] == '"' {
		n = quotedLen(s, international)
	} else {
		n = dotStringLen(s, international)
	}
	if n <= 0 || n > maxLocalPart || n == len(s) || s[n] != '@' {
		return nil
	}
	return s[n+1:]
}

// dotStringLen returns the length of the Dot-string at the start of s, or -1 if it has a dot in the wrong place.
func dotStringLen(s []byte, international bool) int {
	last := byte('.')
	for i, c := range s {
		switch {
		case c >= utf8.RuneSelf && international:
		case c < utf8.RuneSelf && atext[c]:
		case c == '.' && last != '.':
		case last == '.':
			return -1
		default:
			return i
		}
		last = c
	}
	return -1
}

// quotedLen returns the length of the Quoted-string at the start of s, or -1 if it is wrong.
func quotedLen(s []byte, international bool) int {
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i++; i == len(s) || s[i] < ' ' || s[i] > '~' {
				return -1
			}
		case (c < ' ' || c > '~') && (c < utf8.RuneSelf || !international):
			return -1
		}
	}
	return -1
}

// isAddressLiteral reports whether s is an address literal of IPv4 or IPv6. IPv6 is the only registered tag.
func isAddressLiteral(s []byte) bool {
	n := len(s)
	if n < 2 || s[0] != '[' || s[n-1] != ']' {
		return false
	}
	s = s[1 : n-1]
	const tag = "IPv6:"
	if len(s) < len(tag) || !bytes.EqualFold(s[:len(tag)], []byte(tag)) {
		return isIPv4(s)
	}
	return isIPv6(s[len(tag):])
}

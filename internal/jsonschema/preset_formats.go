package jsonschema

import (
	"bytes"
	"encoding/json"
	"math"
	"sort"
	"strings"
	"unicode/utf8"
)

// isBase64 reports whether s is base64 of RFC 4648, section 4, with its padding.
func isBase64(s []byte) bool {
	if len(s)%4 != 0 {
		return false
	}
	n := len(s)
	for n > 0 && len(s)-n < 2 && s[n-1] == '=' {
		n--
	}
	return base64Text(s[:n], '+', '/')
}

// isBase64URL reports whether s is base64url of RFC 4648, section 5, with all of its padding or none.
func isBase64URL(s []byte) bool {
	n := len(s)
	for n > 0 && len(s)-n < 2 && s[n-1] == '=' {
		n--
	}
	return (n == len(s) || len(s)%4 == 0) && base64Text(s[:n], '-', '_')
}

func base64Text(s []byte, c62, c63 byte) bool {
	for _, c := range s {
		if !isLetter(c) && c-'0' > 9 && c != c62 && c != c63 {
			return false
		}
	}
	return len(s)%4 != 1
}

// isJWT reports whether s has the form of a signed JSON Web Token: three parts in base64url, of which the first is a JSON
// object.
func isJWT(s []byte) bool {
	for part := range 3 {
		end := bytes.IndexByte(s, '.')
		if part == 2 {
			return end < 0 && len(s) > 0 && unpadded(s)
		}
		if end <= 0 || !unpadded(s[:end]) || part == 0 && !bytes.HasPrefix(s, []byte("ey")) {
			return false
		}
		s = s[end+1:]
	}
	return false
}

func unpadded(s []byte) bool { return s[len(s)-1] != '=' && base64Text(s, '-', '_') }

// isCUID reports whether s is a cuid: a c, and at least 8 letters or digits.
func isCUID(s []byte) bool { return len(s) > 0 && s[0]|0x20 == 'c' && only(s, 9, math.MaxInt, "") }

// isCUID2 reports whether s is a cuid2 of any length: small letters and digits.
func isCUID2(s []byte) bool {
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return only(s, 1, math.MaxInt, "")
}

// isULID reports whether s is a ULID: 26 characters of Crockford's base32, which has no I, L, O and U. The first is at
// most 7, so that the number has 128 bits.
func isULID(s []byte) bool {
	return only(s, 26, 26, "") && s[0] <= '7' && !bytes.ContainsAny(s, "ILOUilou")
}

// isXID reports whether s is an xid: 20 characters of base32hex.
func isXID(s []byte) bool {
	for _, c := range s {
		if c|0x20 > 'v' {
			return false
		}
	}
	return only(s, 20, 20, "")
}

func isKSUID(s []byte) bool { return only(s, 27, 27, "") }

// isNanoID reports whether s is a nanoid of the usual length.
func isNanoID(s []byte) bool { return only(s, 21, 21, "_-") }

// isE164 reports whether s is a telephone number of E.164 with its plus.
func isE164(s []byte) bool {
	return len(s) >= 8 && len(s) <= 16 && s[0] == '+' && s[1] != '0' && digitsOnly(s[1:])
}

// isEmoji reports whether s has pictographs and what composes them, such as digits and joiners, and nothing else.
func isEmoji(s []byte) bool {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRune(s[i:])
		i += n
		at := sort.Search(len(emojiRanges)/2, func(k int) bool { return emojiRanges[2*k+1] >= r })
		if at == len(emojiRanges)/2 || r < emojiRanges[2*at] {
			return false
		}
	}
	return len(s) > 0
}

// isIPv4Network reports whether s is an IPv4 address with the length of a prefix.
func isIPv4Network(s []byte) bool { return isNetwork(s, isIPv4, 32) }

// isIPv6Network reports whether s is an IPv6 address with the length of a prefix.
func isIPv6Network(s []byte) bool { return isNetwork(s, isIPv6, 128) }

func isNetwork(s []byte, address func([]byte) bool, bits int) bool {
	slash := bytes.IndexByte(s, '/')
	if slash < 0 || !address(s[:slash]) {
		return false
	}
	length := s[slash+1:]
	if len(length) > 3 {
		return false
	}
	n, ok := index(string(length))
	return ok && n <= bits
}

// isUUIDOf returns the check of a UUID of one version and of the variant of RFC 9562.
func isUUIDOf(version byte) func([]byte) bool {
	return func(s []byte) bool {
		return isUUID(s) && s[14] == version && (s[19] == '8' || s[19] == '9' || s[19]|0x20 == 'a' || s[19]|0x20 == 'b')
	}
}

func isJSONText(s []byte) bool { return json.Valid(s) }

// isLocalTime reports whether s is a partial-time of RFC 3339, which names no zone.
func isLocalTime(s []byte) bool {
	var buf [64]byte
	if len(s) > len(buf)-1 {
		return false
	}
	n := copy(buf[:], s)
	buf[n] = 'Z'
	return isTime(buf[:n+1]) && s[len(s)-1]|0x20 != 'z'
}

func isLocalDateTime(s []byte) bool {
	return len(s) > 11 && s[10]|0x20 == 't' && isDate(s[:10]) && isLocalTime(s[11:])
}

// isZodDuration reports whether s is a duration of ISO 8601-1. Unlike one of RFC 3339, it may leave out units between
// two others, and its seconds may have a fraction.
func isZodDuration(s []byte) bool {
	if len(s) < 3 || s[0] != 'P' {
		return false
	}
	s = s[1:]
	if s[len(s)-1] == 'W' {
		return digitsOnly(s[:len(s)-1])
	}
	days, time, timed := bytes.Cut(s, []byte("T"))
	if timed && len(time) == 0 {
		return false
	}
	return unitsOf(days, "YMD", false) && unitsOf(time, "HMS", true)
}

// unitsOf reports whether s is numbers with the letters after them in their order, of which each may be absent. The number
// of the last letter may have a fraction.
func unitsOf(s []byte, letters string, fraction bool) bool {
	for len(s) > 0 {
		n := 0
		for n < len(s) && s[n]-'0' <= 9 {
			n++
		}
		whole := true
		if fraction && n > 0 && n+1 < len(s) && (s[n] == '.' || s[n] == ',') && s[n+1]-'0' <= 9 {
			whole = false
			for n++; n < len(s) && s[n]-'0' <= 9; n++ {
			}
		}
		if n == 0 || n == len(s) {
			return false
		}
		k := strings.IndexByte(letters, s[n])
		if k < 0 || !whole && letters[k] != 'S' {
			return false
		}
		letters, s = letters[k+1:], s[n+1:]
	}
	return true
}

// isISOTime reports whether s is a time that may leave out its zone.
func isISOTime(s []byte) bool { return isTime(s) || isLocalTime(s) }

// isISODateTime reports whether s is a date-time that may leave out its zone, and may have a blank for the T.
func isISODateTime(s []byte) bool {
	return len(s) > 11 && (s[10]|0x20 == 't' || s[10] == ' ') && isDate(s[:10]) && isISOTime(s[11:])
}

// isURL reports whether s is a URI of http, https or ftp with a host.
func isURL(s []byte) bool {
	colon := bytes.IndexByte(s, ':')
	if colon < 0 || !bytes.HasPrefix(s[colon:], []byte("://")) {
		return false
	}
	known := false
	for _, scheme := range []string{"http", "https", "ftp"} {
		known = known || strings.EqualFold(string(s[:min(colon, 8)]), scheme)
	}
	if !known {
		return false
	}
	host := s[colon+3:]
	return len(host) > 0 && bytes.IndexByte([]byte("/?#:@"), host[0]) < 0 && formats["uri"].ok(s)
}

// isPointerFragment reports whether s is a JSON pointer as the fragment of a URI, with its #.
func isPointerFragment(s []byte) bool {
	if len(s) == 0 || s[0] != '#' || !formats["uri-reference"].ok(s) {
		return false
	}
	for s = s[1:]; len(s) > 0; {
		if s[0] != '/' {
			return false
		}
		s = s[1:]
		for len(s) > 0 && s[0] != '/' {
			if s[0] == '~' && (len(s) < 2 || s[1] != '0' && s[1] != '1') {
				return false
			}
			s = s[1:]
		}
	}
	return true
}

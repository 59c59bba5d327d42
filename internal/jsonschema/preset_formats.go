package jsonschema

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// isBase64 reports whether s is base64 of RFC 4648, section 4, with its padding. The bits behind the last byte are zero.
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
	last := 0
	for _, c := range s {
		switch {
		case c >= 'A' && c <= 'Z':
			last = int(c - 'A')
		case c >= 'a' && c <= 'z':
			last = int(c-'a') + 26
		case c-'0' <= 9:
			last = int(c-'0') + 52
		case c == c62:
			last = 62
		case c == c63:
			last = 63
		default:
			return false
		}
	}
	switch len(s) % 4 {
	case 1:
		return false
	case 2:
		return last&15 == 0
	case 3:
		return last&3 == 0
	}
	return true
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
func isCUID(s []byte) bool { return len(s) > 0 && s[0]|0x20 == 'c' && only(s, 9, 64, "") }

// isCUID2 reports whether s is a cuid2: a small letter, and small letters or digits.
func isCUID2(s []byte) bool {
	if !only(s, 2, 32, "") || s[0] < 'a' {
		return false
	}
	return lower(s)
}

func lower(s []byte) bool {
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return true
}

// isULID reports whether s is a ULID: 26 characters of Crockford's base32, which has no I, L, O and U. The first is at
// most 7, so that the number has 128 bits.
func isULID(s []byte) bool {
	return only(s, 26, 26, "") && s[0] <= '7' && bytes.IndexAny(s, "ILOUilou") < 0
}

// isXID reports whether s is an xid: 20 characters of small base32hex.
func isXID(s []byte) bool {
	for _, c := range s {
		if c > 'v' {
			return false
		}
	}
	return only(s, 20, 20, "") && lower(s)
}

func isKSUID(s []byte) bool { return only(s, 27, 27, "") }

// isNanoID reports whether s is a nanoid of the usual length.
func isNanoID(s []byte) bool { return only(s, 21, 21, "_-") }

// isE164 reports whether s is a telephone number of E.164 with its plus.
func isE164(s []byte) bool {
	return len(s) >= 8 && len(s) <= 16 && s[0] == '+' && s[1] != '0' && digitsOnly(s[1:])
}

// isEmoji reports whether s has pictographs, and the characters that join, vary and number them, and nothing else.
func isEmoji(s []byte) bool {
	picture := false
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		s = s[n:]
		switch {
		case r == 0x200D || r == 0xFE0F || r == 0x20E3 || r >= 0xE0020 && r <= 0xE007F: // joiner, variation, keycap, tags
		case r >= '0' && r <= '9' || r == '#' || r == '*':
			if !bytes.HasPrefix(s, []byte("\uFE0F\u20E3")) && !bytes.HasPrefix(s, []byte("\u20E3")) {
				return false
			}
			picture = true
		case r >= 0x1F000 && r <= 0x1FAFF || r >= 0x2600 && r <= 0x27BF || r >= 0x2190 && r <= 0x21FF || r >= 0x2300 && r <= 0x23FF ||
			r >= 0x25A0 && r <= 0x25FF || r >= 0x2900 && r <= 0x297F || r >= 0x2B00 && r <= 0x2BFF || r == 0x3030 || r == 0x303D ||
			r == 0x3297 || r == 0x3299 || r == 0x00A9 || r == 0x00AE || r == 0x203C || r == 0x2049 || r == 0x2122 || r == 0x2139 || r == 0x24C2:
			picture = true
		default:
			return false
		}
	}
	return picture
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
	n, ok := index(string(s[slash+1:]))
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
	switch string(bytes.ToLower(s[:min(colon, 8)])) {
	case "http", "https", "ftp":
	default:
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

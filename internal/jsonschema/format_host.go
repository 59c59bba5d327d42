package jsonschema

import "unicode/utf8"

// isHostname reports whether s is a host name of RFC 1123, section 2.1. A label that starts with xn-- must be an A-label of
// RFC 5890.
func isHostname(s []byte) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	start, encoded := 0, false
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			if c := s[i]; !isLetter(c) && !isDigit(c) && c != '-' {
				return false
			}
			continue
		}
		label := s[start:i]
		if n := len(label); n == 0 || n > maxLabel || label[0] == '-' || label[n-1] == '-' {
			return false
		}
		encoded = encoded || len(label) > 4 && label[2] == '-' && label[3] == '-' && label[0]|0x20 == 'x' && label[1]|0x20 == 'n'
		start = i + 1
	}
	return !encoded || isDomain(s, false, false)
}

// isIDNHostname reports whether s is an internationalized host name of RFC 5890. Its dots may be those of RFC 3490.
func isIDNHostname(s []byte) bool { return isDomain(s, true, false) }

// isIDNMailDomain reports whether s is a Domain of RFC 6531, section 3.3. A mail server brings its labels into NFC.
func isIDNMailDomain(s []byte) bool { return isDomain(s, false, true) }

func isDomain(s []byte, dots, loose bool) bool {
	if len(s) > utf8.UTFMax*maxName {
		return false
	}
	d := idnName{loose: loose}
	for i := 0; i < len(s); {
		r, n := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(s[i:])
		}
		i += n
		if r == '.' || dots && (r == 0x3002 || r == 0xFF0E || r == 0xFF61) {
			if !d.end() {
				return false
			}
		} else if !d.add(r) {
			return false
		}
	}
	return d.end() && d.ok()
}

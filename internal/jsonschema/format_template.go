package jsonschema

import "unicode/utf8"

// templateLiteral has the ASCII characters that RFC 6570, section 2.1, allows outside an expression. Erratum 6937 adds the
// apostrophe.
var templateLiteral = func() (t [utf8.RuneSelf]bool) {
	for c := byte('!'); c <= '~'; c++ {
		t[c] = true
	}
	for _, c := range `"%<>\^` + "`{|}" {
		t[c] = false
	}
	return t
}()

// isURITemplate reports whether s is a URI template of RFC 6570, level 4.
func isURITemplate(s []byte) bool {
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(s[i:])
			if !isUCSChar(r) && !isPrivateUse(r) {
				return false
			}
			i += n
		case templateLiteral[c]:
			i++
		case isPercentEncoded(s[i:]):
			i += 3
		case c == '{':
			n := expressionLen(s[i+1:])
			if n < 0 {
				return false
			}
			i += 1 + n
		default:
			return false
		}
	}
	return true
}

// expressionLen returns the length of the expression at the start of s, without its opening and with its closing brace. It
// returns -1 if the expression is wrong. The operators that the RFC reserves for extensions are wrong, because section 3
// makes them an error of the expansion.
func expressionLen(s []byte) int {
	i := 0
	if i < len(s) {
		switch s[i] {
		case '+', '#', '.', '/', ';', '?', '&':
			i++
		}
	}
	for {
		n := variableLen(s[i:])
		if n < 0 {
			return -1
		}
		if i += n; i == len(s) {
			return -1
		}
		switch s[i] {
		case '}':
			return i + 1
		case ',':
			i++
		default:
			return -1
		}
	}
}

// variableLen returns the length of the variable at the start of s, with its modifier, or -1 if the variable is wrong.
func variableLen(s []byte) int {
	i := 0
	for {
		n := variableCharLen(s[i:])
		if n == 0 {
			return -1
		}
		for ; n > 0; n = variableCharLen(s[i:]) {
			i += n
		}
		if i == len(s) || s[i] != '.' {
			break
		}
		i++
	}
	if i == len(s) {
		return -1
	}
	switch s[i] {
	case '*':
		return i + 1
	case ':':
		digits := i + 1
		for i = digits; i < len(s) && isDigit(s[i]); i++ {
		}
		if i == digits || i > digits+4 || s[digits] == '0' {
			return -1
		}
	}
	return i
}

// variableCharLen returns the length of the varchar at the start of s, or 0 if there is none.
func variableCharLen(s []byte) int {
	switch {
	case len(s) == 0:
		return 0
	case isLetter(s[0]) || isDigit(s[0]) || s[0] == '_':
		return 1
	case isPercentEncoded(s):
		return 3
	}
	return 0
}

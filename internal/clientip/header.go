package clientip

import (
	"net/netip"
	"strings"
)

// walker yields the elements of a list header from the last to the first.
type walker struct {
	lines  []string
	line   string // the unread rest of the current line
	inLine bool   // line has an element left, which may be empty
	quoted bool   // commas may stand inside quoted strings
	bytes  int    // how many more may be read
}

// next returns false at the end of the list and at the bound.
func (w *walker) next() (element string, ok bool) {
	if !w.inLine {
		if len(w.lines) == 0 {
			return "", false
		}
		last := len(w.lines) - 1
		w.lines, w.line, w.inLine = w.lines[:last], w.lines[last], true
	}
	tail := w.line
	if len(tail) > w.bytes {
		tail = tail[len(tail)-w.bytes:]
	}
	i := lastComma(tail, w.quoted)
	if i < 0 && len(tail) < len(w.line) {
		return "", false
	}
	element = tail[i+1:]
	w.bytes -= len(element)
	if i < 0 {
		w.inLine = false
	} else {
		w.bytes--
		w.line = w.line[:len(w.line)-len(element)-1]
	}
	return trim(element), true
}

// lastComma finds the last comma that separates elements.
//
// It reads from the right, also where there are quoted strings. The element of the
// last proxy is well-formed, so its quotes pair up. So the comma before it is found,
// however many quotes the client has left open. From the left, one open quote of the
// client would hide what the proxy appended.
func lastComma(s string, quoted bool) int {
	if !quoted {
		return strings.LastIndexByte(s, ',')
	}
	inQuote := false
	for i := len(s) - 1; i >= 0; i-- {
		switch s[i] {
		case '"':
			// The quote that opens a string comes after a =, one inside it after
			// a backslash.
			inQuote = !inQuote || i > 0 && s[i-1] == '\\'
		case ',':
			if !inQuote {
				return i
			}
		}
	}
	return -1
}

// proto is the proto parameter of an element.
type proto struct {
	value string
	named bool // the parameter is there, and may be empty
}

// parseForwarded reads the for and the proto parameter of one forwarded-element
// (RFC 7239, section 4). A second for makes the element malformed, because one of
// the two may come from the client, through a proxy that copies its Host unquoted.
// For the same reason a proto that is not secure prevails over one that is secure.
// There is no address without for, with unknown, and with an obfuscated identifier.
// A malformed element has neither an address nor a proto. The grammar has no white
// space around the semicolons, but some proxies write it.
func parseForwarded(s string) (a netip.Addr, p proto, ok bool) {
	found := false // there was a for, readable or not
	for {
		if s = strings.TrimLeft(s, "; \t"); s == "" {
			return a, p, a.IsValid()
		}
		name, value, pair := strings.Cut(s, "=")
		if !pair || !isToken(name) {
			return netip.Addr{}, proto{}, false
		}
		if quoted, is := strings.CutPrefix(value, `"`); is {
			if value, s, ok = cutQuoted(quoted); !ok {
				return netip.Addr{}, proto{}, false
			}
			if s = trim(s); s != "" && s[0] != ';' {
				return netip.Addr{}, proto{}, false
			}
		} else {
			value, s, _ = strings.Cut(value, ";")
			if value = trim(value); strings.ContainsAny(value, "\"\\ \t") {
				return netip.Addr{}, proto{}, false
			}
		}
		switch {
		case strings.EqualFold(name, "proto"):
			if !p.named || secure(p.value) {
				p = proto{value, true}
			}
		case strings.EqualFold(name, "for"):
			if found {
				return netip.Addr{}, proto{}, false
			}
			found = true
			a, _ = parseForwardedNode(value)
		}
	}
}

// isToken reports whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// cutQuoted splits a text after an opening quote into the quoted string and the
// rest. It does not decode escapes, because a value with an escape is neither an
// address nor a scheme.
func cutQuoted(s string) (value, rest string, ok bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[:i], s[i+1:], true
		}
	}
	return "", "", false
}

// parseForwardedNode reads a node (RFC 7239, section 6). Unlike in X-Forwarded-For,
// IPv6 must have its brackets. Without them, the last group could be the port that
// the grammar allows there. The port may be obfuscated.
func parseForwardedNode(s string) (netip.Addr, bool) {
	if i := strings.LastIndex(s, ":_"); i >= 0 && isObfuscated(s[i+2:]) {
		s = s[:i]
	}
	if !strings.HasPrefix(s, "[") && strings.Count(s, ":") > 1 {
		return netip.Addr{}, false
	}
	return parseNode(s)
}

func isObfuscated(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// parseNode reads ip, ip4:port, [ip6] or [ip6]:port.
func parseNode(s string) (netip.Addr, bool) {
	host, port, hasPort := s, "", false
	if strings.HasPrefix(s, "[") {
		var ok bool
		host, port, ok = strings.Cut(s[1:], "]")
		if !ok || !strings.Contains(host, ":") {
			return netip.Addr{}, false
		}
		if port, hasPort = strings.CutPrefix(port, ":"); !hasPort && port != "" {
			return netip.Addr{}, false
		}
	} else if strings.Count(s, ":") == 1 {
		host, port, hasPort = strings.Cut(s, ":")
	}
	if hasPort && !validPort(port) {
		return netip.Addr{}, false
	}
	// A zone is of no use here and would be interned.
	host, zone, hasZone := strings.Cut(host, "%")
	if hasZone && (zone == "" || !strings.Contains(host, ":")) {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// validPort reports whether s is a port as proxies write it. They also write 0.
func validPort(s string) bool {
	if len(s) < 1 || len(s) > 5 {
		return false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// trim cuts the optional white space of RFC 9110, section 5.6.3, and no other space.
func trim(s string) string { return strings.Trim(s, " \t") }

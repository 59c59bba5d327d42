// Package origin parses and matches web origins (RFC 6454) and the names in a
// Host header (RFC 9110, section 7.2).
//
// Both sides go through the same parser. It parses an entry of an allow-list once,
// at construction, and the header of each request. The result is a tuple, and only
// whole tuples are compared. The well-known bypasses come from comparisons of
// prefixes, suffixes and substrings, and there are none here.
//
// The parser takes one spelling of a host and refuses the others. Only the case of
// letters and the default port may differ, because honest spellings of an origin
// differ in nothing else. An address in another notation, such as 127.1, 0x7f.0.0.1
// or [0:0:0:0:0:0:0:1], is malformed and equals no other.
package origin

import "strings"

// maxLen bounds an Origin header, a Host header and an entry, in bytes. A name
// has at most 253 bytes (RFC 1035), so an honest header is much shorter.
const maxLen = 512

// A Fault names one entry that cannot be part of a list.
type Fault struct {
	Value  string // the entry, as the configuration has it
	Reason string // a phrase that names the fault and, if that is known, a value to use instead
}

// tuple is an origin in canonical form. It is in lower case, and it has no port if the
// port is the default of the scheme. For a wildcard, host is the part after "*.".
type tuple struct{ scheme, host, port string }

// List is a set of origins. It does not change once it is parsed. A nil List and
// the zero List match nothing.
type List struct {
	exact map[tuple]struct{}
	wild  map[tuple]struct{}
	ports map[tuple]struct{} // at any port
	null  bool
	file  bool
}

// ParseList parses an allow-list of origins. An entry is one of
//
//	https://app.example.com        this scheme, this host, the scheme's own port
//	https://app.example.com:8443   this port only
//	http://127.0.0.1:8080          an IPv4 address in dotted decimal
//	http://[::1]:3000              an IPv6 address in its RFC 5952 form
//	https://*.example.com          exactly one label before example.com
//	chrome-extension://id          another scheme, without wildcards
//	http://localhost:*             this host at any port, and at none
//	file://                        pages from files, as Chromium names their origin
//	null                           the opaque origin: sandboxed frames, file: pages, some redirects
//
// A wildcard never stands for the domain itself, for two labels, or in front of a
// suffix under which everyone can register a name (*.com, *.co.uk, *.github.io). Only
// the common suffixes of that kind are known, because the whole Public Suffix List
// changes weekly and is not built in.
//
// ParseList returns every bad entry. If there is one, the List is nil.
func ParseList(entries []string) (*List, []Fault) {
	var faults []Fault
	l := &List{exact: make(map[tuple]struct{}), wild: make(map[tuple]struct{}), ports: make(map[tuple]struct{})}
	for _, e := range entries {
		switch e {
		case "null":
			l.null = true
			continue
		case fileOrigin:
			l.file = true
			continue
		case "http://localhost:*":
			l.ports[tuple{scheme: "http", host: "localhost"}] = struct{}{}
			continue
		}
		t, wild, reason := parseEntry(e)
		switch {
		case reason != "":
			faults = append(faults, Fault{e, reason})
		case wild:
			l.wild[t] = struct{}{}
		default:
			l.exact[t] = struct{}{}
		}
	}
	if faults != nil {
		return nil, faults
	}
	return l, nil
}

// Len returns the number of different entries.
func (l *List) Len() int {
	if l == nil {
		return 0
	}
	n := len(l.exact) + len(l.wild) + len(l.ports)
	for _, b := range []bool{l.null, l.file} {
		if b {
			n++
		}
	}
	return n
}

// Match reports whether header is in the list. It must be the value of a request's
// only Origin header, which the caller must check. A header that is not a
// well-formed origin is in no list.
//
// Match allocates nothing for a header in lower case, as browsers send it.
func (l *List) Match(header string) bool {
	if l == nil {
		return false
	}
	switch header {
	case "null": // RFC 6454, section 7.1: these bytes, in this case
		return l.null
	case fileOrigin:
		return l.file
	}
	t, reason := parseOrigin(header)
	if reason != "" {
		return false
	}
	if _, ok := l.exact[t]; ok {
		return true
	}
	if len(l.ports) > 0 {
		if _, ok := l.ports[tuple{scheme: t.scheme, host: t.host}]; ok {
			return true
		}
	}
	if len(l.wild) == 0 {
		return false
	}
	// The part after the first label must be one of the suffixes of the list. An
	// address cannot match, because no suffix ends in a number or a bracket.
	_, behind, ok := strings.Cut(t.host, ".")
	if !ok {
		return false
	}
	t.host = behind
	_, ok = l.wild[t]
	return ok
}

// parseEntry parses an entry of a List, which may have a wildcard.
func parseEntry(s string) (t tuple, wild bool, reason string) {
	if s == "*" {
		return tuple{}, false, "would let every site in; list the origins, or set InsecureAnyOrigin"
	}
	s, reason = fold(s)
	if reason != "" {
		return tuple{}, false, reason
	}
	scheme, rest, reason := cutScheme(s)
	if reason != "" {
		return tuple{}, false, reason
	}
	if strings.HasSuffix(rest, ":*") {
		return tuple{}, false, "has a star for the port, which only http://localhost:* may have"
	}
	if scheme == "file" {
		return tuple{}, false, "names a file: list file:// for the pages of all files"
	}
	if noPage[scheme] {
		return tuple{}, false, "no page has an origin of this scheme: list the page's own origin, or null for an opaque one"
	}
	rest, wild, reason = cutWildcard(rest)
	if reason != "" {
		return tuple{}, false, reason
	}
	if wild && scheme != "https" && scheme != "http" {
		return tuple{}, false, "has a wildcard, which only http and https may have"
	}
	host, port, reason := splitHostPort(rest)
	if reason == "" && wild {
		reason = checkSuffix(host)
	}
	if reason != "" {
		return tuple{}, false, reason
	}
	return canonical(scheme, host, port), wild, ""
}

// parseOrigin parses the value of an Origin header.
func parseOrigin(s string) (tuple, string) {
	s, reason := fold(s)
	if reason != "" {
		return tuple{}, reason
	}
	scheme, rest, reason := cutScheme(s)
	if reason != "" {
		return tuple{}, reason
	}
	host, port, reason := splitHostPort(rest)
	if reason != "" {
		return tuple{}, reason
	}
	return canonical(scheme, host, port), ""
}

// Same reports whether two values of an Origin header are the same origin, perhaps
// in different spellings.
func Same(a, b string) bool {
	if a == b {
		return true
	}
	s, fault := parseOrigin(a)
	t, other := parseOrigin(b)
	return fault == "" && other == "" && s == t
}

// Canonical returns the canonical form of the value of an Origin header. ok is false if it is
// no tuple of a scheme, a host and a port, as null is not.
func Canonical(header string) (s string, ok bool) {
	t, fault := parseOrigin(header)
	if fault != "" {
		return "", false
	}
	if t.port != "" {
		t.port = ":" + t.port
	}
	return t.scheme + "://" + t.host + t.port, true
}

// IsOf reports whether the value of an Origin header is the origin of a server that answers
// under a scheme and a Host header.
func IsOf(header, scheme, host string) bool {
	t, fault := parseOrigin(header)
	s, other := parseOrigin(scheme + "://" + host)
	return fault == "" && other == "" && s == t
}

// fileOrigin is the origin of a page from a file in Chromium. Other browsers send null.
const fileOrigin = "file://"

// canonical drops the port that a scheme implies.
func canonical(scheme, host, port string) tuple {
	if scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		port = ""
	}
	return tuple{scheme, host, port}
}

// noPage lists schemes that look plausible in an allow-list and could never match.
// These are the schemes of the socket, in place of the page's, and the schemes whose
// pages have an opaque origin (https://html.spec.whatwg.org/#origin).
var noPage = map[string]bool{
	"ws": true, "wss": true, "ftp": true,
	"data": true, "blob": true, "about": true, "javascript": true,
}

// cutScheme cuts "scheme://" off and checks it against RFC 3986, section 3.1.
func cutScheme(s string) (scheme, rest, reason string) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme == "" {
		return "", "", "has no scheme; write scheme://host or scheme://host:port"
	}
	for i := range len(scheme) {
		switch c := scheme[i]; {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'):
		case c == '*':
			return "", "", starElsewhere
		default:
			return "", "", "has a malformed scheme"
		}
	}
	return scheme, rest, ""
}

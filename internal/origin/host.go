package origin

import (
	"net/netip"
	"strings"
)

// hostPort is the key of a Hosts set. An empty port stands for any.
type hostPort struct{ host, port string }

// Hosts is a set of names under which a server answers. It does not change once
// it is parsed. A nil Hosts and the zero Hosts match nothing.
type Hosts struct {
	exact map[hostPort]struct{}
	wild  map[hostPort]struct{}
}

// ParseHosts parses an allow-list for the Host header. An entry is one of
//
//	app.example.com        this name at any port
//	app.example.com:8443   this name at this port
//	127.0.0.1:8080         an IPv4 address, with or without a port
//	[::1]:8080             an IPv6 address in brackets, with or without a port
//	*.example.com          exactly one label before example.com, under the rules of [ParseList]
//
// ParseHosts returns every bad entry. If there is one, the Hosts is nil.
func ParseHosts(entries []string) (*Hosts, []Fault) {
	var faults []Fault
	h := &Hosts{exact: make(map[hostPort]struct{}), wild: make(map[hostPort]struct{})}
	for _, e := range entries {
		k, wild, reason := parseHostEntry(e)
		switch {
		case reason != "":
			faults = append(faults, Fault{e, reason})
		case wild:
			h.wild[k] = struct{}{}
		default:
			h.exact[k] = struct{}{}
		}
	}
	if faults != nil {
		return nil, faults
	}
	return h, nil
}

// Len returns the number of different entries.
func (h *Hosts) Len() int {
	if h == nil {
		return 0
	}
	return len(h.exact) + len(h.wild)
}

// Match reports whether host, a request's Host, is in the set. defaultPort is
// the port that a Host without one means. It is "443" if the client speaks TLS, and
// "80" if it does not. With an empty defaultPort, a Host without a port matches only
// entries without one. A malformed Host matches nothing.
//
// Match allocates nothing for a Host in lower case.
func (h *Hosts) Match(host, defaultPort string) bool {
	if h == nil {
		return false
	}
	host, reason := fold(host)
	if reason != "" {
		return false
	}
	name, port, reason := splitHostPort(host)
	if reason != "" {
		return false
	}
	if port == "" {
		port = defaultPort
	}
	if has(h.exact, name, port) {
		return true
	}
	if len(h.wild) == 0 {
		return false
	}
	_, behind, ok := strings.Cut(name, ".")
	return ok && has(h.wild, behind, port)
}

func has(set map[hostPort]struct{}, host, port string) bool {
	if _, ok := set[hostPort{host, ""}]; ok {
		return true
	}
	if port == "" {
		return false
	}
	_, ok := set[hostPort{host, port}]
	return ok
}

func parseHostEntry(s string) (k hostPort, wild bool, reason string) {
	if s == "*" {
		return hostPort{}, false, "would let every name in; leave the list out instead"
	}
	s, reason = fold(s)
	if reason != "" {
		return hostPort{}, false, reason
	}
	if strings.Contains(s, "://") {
		return hostPort{}, false, "has a scheme; write host or host:port"
	}
	s, wild, reason = cutWildcard(s)
	if reason != "" {
		return hostPort{}, false, reason
	}
	host, port, reason := splitHostPort(s)
	if reason == "" && wild {
		reason = checkSuffix(host)
	}
	if reason != "" {
		return hostPort{}, false, reason
	}
	return hostPort{host, port}, wild, ""
}

// fold refuses bytes that no origin and no Host can have, and turns letters to lower
// case.
func fold(s string) (lower, reason string) {
	if s == "" {
		return "", "is empty"
	}
	if len(s) > maxLen {
		return "", "is longer than 512 bytes"
	}
	upper := false
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 0x80:
			return "", "has characters outside ASCII; write an international name in punycode (xn--…)"
		case c == ' ' || '\t' <= c && c <= '\r':
			return "", "has white space"
		case c < ' ' || c == 0x7f:
			return "", "has a control character"
		case c == ',':
			return "", "has a comma; each entry is one value"
		case c == '%':
			return "", "has a percent escape"
		case 'A' <= c && c <= 'Z':
			upper = true
		}
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, ""
}

const starElsewhere = "has a * elsewhere than as the whole first label of the host"

// cutWildcard cuts a leading "*." off and refuses a star at any other place.
func cutWildcard(s string) (rest string, wild bool, reason string) {
	if s == "*" || strings.HasPrefix(s, "*:") {
		return "", false, "would let every host in; a wildcard is one label before a name of two labels or more"
	}
	rest, wild = strings.CutPrefix(s, "*.")
	if strings.Contains(rest, "*") {
		return "", false, starElsewhere
	}
	return rest, wild, ""
}

// splitHostPort splits host, host:port, [ip6] or [ip6]:port and checks both parts. It
// refuses user information, paths and the like around them, and says why. s is in
// lower case.
func splitHostPort(s string) (host, port, reason string) {
	if i := strings.IndexAny(s, `/?#@\`); i >= 0 {
		switch {
		case s[i] == '@':
			return "", "", "has user information"
		case i == 0:
			return "", "", "has no host"
		case s[i] == '?':
			return "", "", "has a query"
		case s[i] == '#':
			return "", "", "has a fragment"
		default: // a browser reads \ as /
			return "", "", "has a path, if only a slash; leave it out"
		}
	}
	var hasPort bool
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", "has an unclosed ["
		}
		host, port = s[:end+1], s[end+1:]
		if port, hasPort = strings.CutPrefix(port, ":"); !hasPort && port != "" {
			return "", "", "has something other than a port behind the ]"
		}
		reason = checkIP6(host[1:end])
	} else {
		host, port, hasPort = strings.Cut(s, ":")
		if strings.Contains(port, ":") {
			return "", "", "has more than one colon; write an IPv6 address in brackets"
		}
		reason = checkName(host)
	}
	if reason == "" && hasPort && !validPort(port) {
		reason = "has a bad port; a port is 1 to 65535, without sign or leading zeros"
	}
	if reason != "" {
		return "", "", reason
	}
	return host, port, ""
}

// maxHost is the length of the longest Host, which is a name of 255 bytes, a colon and
// a port.
const maxHost = 261

// CheckHost returns a phrase that says why s is no value for a Host header, or "". It
// accepts host and host:port as RFC 3986, section 3.2, defines them. An IP literal must
// be an IPv6 address, and a port must be at most 65535. CheckHost accepts more than
// [Hosts.Match], which accepts only what a browser sends for one of its entries. The
// empty Host is legal (RFC 9112, section 3.2). A port after an empty name is not.
func CheckHost(s string) string {
	if s == "" {
		return ""
	}
	if len(s) > maxHost {
		return "is longer than 261 bytes"
	}
	host, port, hasPort := "", "", false
	if literal, ok := strings.CutPrefix(s, "["); ok {
		if host, port, ok = strings.Cut(literal, "]"); !ok {
			return "has an unclosed ["
		}
		if port, hasPort = strings.CutPrefix(port, ":"); !hasPort && port != "" {
			return "has something other than a port behind the ]"
		}
		// A zone is of no use here, but clients send it. Its % may be escaped as %25.
		address, zone, hasZone := strings.Cut(host, "%")
		if a, err := netip.ParseAddr(address); err != nil || !a.Is6() || hasZone && !isRegName(strings.TrimPrefix(zone, "25")) {
			return "has no IPv6 address in its brackets"
		}
	} else {
		if host, port, hasPort = strings.Cut(s, ":"); host == "" {
			return "has no name"
		}
		if !isRegName(host) {
			return "has a character that no host has"
		}
	}
	if hasPort && !isPort(port) {
		return "has a bad port"
	}
	return ""
}

// isRegName reports whether s is a reg-name of at least one character.
func isRegName(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~!$&'()*+,;=", c) >= 0:
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			i += 2
		default:
			return false
		}
	}
	return s != ""
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// isPort reports whether s is a number of at most 65535, or empty.
func isPort(s string) bool {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		if n = n*10 + int(s[i]-'0'); n > 65535 {
			return false
		}
	}
	return true
}

func validPort(s string) bool { return s != "" && s[0] != '0' && isPort(s) }

// checkIP6 accepts the one form of an address that browsers send. Each other spelling
// of the same address would be a second key.
func checkIP6(s string) string {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || !a.Is6():
		return "has a malformed IPv6 address"
	case a.Is4In6():
		return "has an IPv4 address written as IPv6; write it as IPv4"
	}
	var buf [64]byte
	if canon := a.AppendTo(buf[:0]); string(canon) != s {
		return "has an IPv6 address that is not in its short form (RFC 5952)"
	}
	return ""
}

// checkName accepts a DNS name or a dotted IPv4 address. It also accepts an
// underscore. RFC 1123 does not, but such names exist and browsers open them.
func checkName(s string) string {
	switch {
	case s == "":
		return "has no host"
	case len(s) > 253:
		return "has a host longer than 253 bytes"
	case s[len(s)-1] == '.':
		return "has a host that ends in a dot"
	}
	start := 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '.' {
			switch n := i - start; {
			case n == 0:
				return "has an empty label in its host"
			case n > 63:
				return "has a label longer than 63 bytes in its host"
			case s[start] == '-' || s[i-1] == '-':
				return "has a label that begins or ends with a hyphen in its host"
			}
			start = i + 1
			continue
		}
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return "has a character in its host that no name has"
		}
	}
	if endsInNumber(s) {
		// netip takes only four decimal numbers without leading zeros.
		if _, err := netip.ParseAddr(s); err != nil {
			return "has a host that is read as an IPv4 address but is not four decimal numbers"
		}
	}
	return ""
}

// endsInNumber reports whether a browser reads the host as an IPv4 address, however
// odd the host looks (https://url.spec.whatwg.org/#ends-in-a-number-checker).
func endsInNumber(s string) bool {
	last := s[strings.LastIndexByte(s, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// checkSuffix refuses a host that must not stand after a wildcard. host has been
// checked already.
func checkSuffix(host string) string {
	if host[0] == '[' || endsInNumber(host) {
		return "has a wildcard before an IP address"
	}
	first, behind, ok := strings.Cut(host, ".")
	if !ok {
		return "has a wildcard over a top-level domain; at least two labels must stand behind the *"
	}
	if anybody[host] || len(behind) == 2 && registry[first] {
		return "has a wildcard over a suffix under which anybody can register a name"
	}
	return ""
}

// registry has the second-level labels under which country registries sell names, as
// in co.uk, com.au and ac.jp.
var registry = map[string]bool{
	"ac": true, "co": true, "com": true, "edu": true, "gov": true, "mil": true, "net": true, "org": true,
}

// anybody has the suffixes of common hosting services, where the label next to one's
// own belongs to a stranger. All are on https://publicsuffix.org/list/. The map finds
// the frequent mistake and does not replace that list.
var anybody = map[string]bool{
	"appspot.com":           true,
	"azurestaticapps.net":   true,
	"azurewebsites.net":     true,
	"blob.core.windows.net": true,
	"blogspot.com":          true,
	"cloudapp.net":          true,
	"cloudfront.net":        true,
	"deno.dev":              true,
	"firebaseapp.com":       true,
	"fly.dev":               true,
	"github.io":             true,
	"gitlab.io":             true,
	"herokuapp.com":         true,
	"netlify.app":           true,
	"ngrok-free.app":        true,
	"ngrok.app":             true,
	"ngrok.io":              true,
	"onrender.com":          true,
	"pages.dev":             true,
	"replit.app":            true,
	"s3.amazonaws.com":      true,
	"trycloudflare.com":     true,
	"up.railway.app":        true,
	"vercel.app":            true,
	"web.app":               true,
	"workers.dev":           true,
}

// strangers has suffixes under which many organisations have a name each. A wildcard over one
// of them lets in the pages of strangers, which may be meant.
var strangers = []string{
	"a.run.app", "amplifyapp.com", "atlassian.net", "awsapprunner.com", "azurecontainerapps.io", "force.com", "framer.app",
	"glitch.me", "lovable.app", "myshopify.com", "notion.site", "sharepoint.com", "squarespace.com", "surge.sh",
	"webflow.io", "wixsite.com", "wordpress.com", "zendesk.com",
}

// Strangers returns the suffix under which strangers have names too, if entry is a wildcard
// over one. The list is short, and none is complete.
func Strangers(entry string) (suffix string, ok bool) {
	_, host, _ := strings.Cut(strings.ToLower(entry), "://*.")
	host, _, _ = strings.Cut(host, ":")
	for _, suffix := range strangers {
		if host == suffix || strings.HasSuffix(host, "."+suffix) {
			return suffix, true
		}
	}
	return "", false
}

// Plain reports whether entry is an origin of pages that come over the network in clear text.
func Plain(entry string) bool {
	t, _, fault := parseEntry(entry)
	return fault == "" && t.scheme == "http" && t.host != "localhost" && t.host != "127.0.0.1" && t.host != "[::1]"
}

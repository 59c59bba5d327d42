// Package clientip finds the address of the client behind a request.
//
// There is no safe guess. Any client can send X-Forwarded-For, so a header is
// read only when the peer of the connection is a proxy that was named as trusted,
// and only the one header that was named. Within it, each proxy vouches for the
// address that it appended and for nothing to the left of it, so the list is read
// from the right and reading stops at the first address that is not a trusted
// proxy. That address is the client. The client may have written everything to the left of it.
package clientip

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

var (
	// ErrPeer means that RemoteAddr is not an address with a port. net/http always
	// writes one; an address alone was put there by a middleware, often from a
	// header that nobody checked.
	ErrPeer = errors.New("wsguard: the peer's address is unreadable")

	// ErrUnixPeer means that the request came over a unix socket, where every peer
	// looks the same, and that "unix" is not trusted.
	ErrUnixPeer = errors.New("wsguard: the peer is a unix socket, which is not trusted")

	// ErrNoAddr means that a trusted peer on a unix socket named no readable
	// client. Over TCP the peer's own address would be the answer; here there is
	// none.
	ErrNoAddr = errors.New("wsguard: the proxy on the unix socket names no client address")
)

// Bounds on what one request can make a Resolver read, from the right. Beyond
// them the rest counts as unreadable.
const (
	maxElements = 32
	maxBytes    = 8 << 10
)

// A Fault names a part of the configuration that cannot be used.
type Fault struct {
	Header bool   // Value is the header's name, not a trusted entry
	Value  string // as it was written
	Reason string // a phrase that names the fault and, if that is known, a value to use instead
}

// Resolver finds clients. It does not change once it is parsed. The zero Resolver
// trusts no proxy.
type Resolver struct {
	trusted []netip.Prefix
	unix    bool
	header  string // canonical
	form    form
}

// form is how the configured header is written.
type form int

const (
	formList      form = iota // X-Forwarded-For: addresses between commas
	formForwarded             // RFC 7239
	formSingle                // one line with one address, as X-Real-IP
)

// Parse makes a Resolver. An entry of trusted is a prefix (10.0.0.0/8), a single
// address, or the word unix for peers on a unix socket.
//
// header is the one source that is read when the peer is trusted. Empty means
// X-Forwarded-For. Forwarded is read as RFC 7239 has it. Any other header must
// have exactly one line with exactly one address (X-Real-IP, CF-Connecting-IP);
// the proxy must overwrite it, not pass it on.
//
// A set of prefixes that leaves no address of a family out is a fault, as the
// prefix of length 0 is.
//
// Every fault is returned, not just the first, and then the Resolver is nil.
func Parse(trusted []string, header string) (*Resolver, []Fault) {
	var faults []Fault
	r := &Resolver{header: "X-Forwarded-For"}
	for _, e := range trusted {
		if e == "unix" {
			r.unix = true
			continue
		}
		p, reason := parseTrusted(e)
		if reason != "" {
			faults = append(faults, Fault{Value: e, Reason: reason})
			continue
		}
		r.trusted = append(r.trusted, p)
	}
	faults = append(faults, trustInAll(r.trusted)...)
	if header != "" {
		if reason := checkHeader(header, len(trusted) > 0); reason != "" {
			faults = append(faults, Fault{Header: true, Value: header, Reason: reason})
		}
		r.header = http.CanonicalHeaderKey(header)
		switch r.header {
		case "X-Forwarded-For":
		case "Forwarded":
			r.form = formForwarded
		default:
			r.form = formSingle
		}
	}
	if faults != nil {
		return nil, faults
	}
	return r, nil
}

func parseTrusted(s string) (p netip.Prefix, reason string) {
	if strings.Contains(s, "%") {
		return p, "has a zone; peers are compared without theirs"
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return p, "is neither a prefix, nor an address, nor the word unix"
		}
		if a.Is4In6() {
			return p, "is an IPv4 address written as IPv6; write it as IPv4"
		}
		return netip.PrefixFrom(a, a.BitLen()), ""
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, "is not a prefix such as 10.0.0.0/8"
	case p.Bits() == 0:
		return p, "trusts every address, so that any client could name itself"
	case p.Addr().Is4In6():
		return p, "is an IPv4 prefix written as IPv6; write it as IPv4"
	case p.Masked() != p:
		return p, "has bits set behind the prefix; write " + p.Masked().String() + ", or the address alone"
	}
	return p, ""
}

// mapped holds the IPv4 addresses written as IPv6. A peer there counts as IPv4.
var mapped = netip.MustParsePrefix("::ffff:0.0.0.0/96")

// trustInAll returns a fault for each family of addresses of which the prefixes
// together leave none out. That is the same as a single prefix of length 0.
func trustInAll(trusted []netip.Prefix) (faults []Fault) {
	var v4, v6 []netip.Prefix
	for _, p := range trusted {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	if covers(v4, netip.IPv4Unspecified()) {
		faults = append(faults, Fault{Value: join(v4), Reason: "together trust every IPv4 address, so that any client could name itself"})
	}
	if covers(append(v6, mapped), netip.IPv6Unspecified()) {
		faults = append(faults, Fault{Value: join(v6), Reason: "together trust every IPv6 address, so that any client could name itself"})
	}
	return faults
}

// covers reports whether every address from first to the last of its family is in
// one of the prefixes, which are of that family.
func covers(prefixes []netip.Prefix, first netip.Addr) bool {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	next := first // every address before it is covered
	for _, p := range sorted {
		if next.Less(p.Addr()) {
			return false
		}
		end := lastOf(p)
		if end.Less(next) {
			continue // p lies within a prefix before it
		}
		if next = end.Next(); !next.IsValid() {
			return true
		}
	}
	return false
}

// lastOf returns the last address in p.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func join(prefixes []netip.Prefix) string {
	all := make([]string, len(prefixes))
	for i, p := range prefixes {
		all[i] = p.String()
	}
	return strings.Join(all, ", ")
}

func checkHeader(name string, proxied bool) string {
	if !isToken(name) {
		return "is not the name of a header"
	}
	if !proxied {
		return "is a header that any client can send; name the proxies that may set it"
	}
	return ""
}

// Proxied tells whether any proxy is trusted.
func (r *Resolver) Proxied() bool { return r.unix || len(r.trusted) > 0 }

// PeerTrusted tells whether the request's peer is a trusted proxy, so that what
// it says about the request (X-Forwarded-Proto) may be believed.
func (r *Resolver) PeerTrusted(req *http.Request) bool {
	a, unix, err := Peer(req.RemoteAddr)
	if unix {
		return r.unix
	}
	return err == nil && r.Trusts(a)
}

// Client returns the address of the request's client, IPv4 as IPv4 and without a
// zone.
//
// A peer that is not trusted is the client, whatever its headers say. Behind a
// trusted peer, the lines of the header are read as one list, from the last
// element to the first, past trusted addresses, up to the first that is not
// trusted: the client. If all are trusted, the leftmost is the client.
//
// Reading also stops at an element that is not an address (unknown, an obfuscated
// identifier, an empty element, unix:), and at the bounds of 32 elements and 8 KiB.
// The client is then the last trusted address before it, the nearest one that
// something vouches for; without a header it is the peer. Nothing to the left is
// believed, so a client gains nothing by sending rubbish. For the header of a
// single address, any doubt (two lines, a list) makes the peer the client.
//
// It returns [ErrPeer], [ErrUnixPeer] or [ErrNoAddr] if there is no address to
// stand on.
func (r *Resolver) Client(req *http.Request) (netip.Addr, error) {
	peer, unix, err := Peer(req.RemoteAddr)
	switch {
	case err != nil:
		return netip.Addr{}, err
	case unix && !r.unix:
		return netip.Addr{}, ErrUnixPeer
	case !unix && !r.Trusts(peer):
		return peer, nil
	}
	client, _ := r.walk(req.Header[r.header], peer)
	if !client.IsValid() {
		return netip.Addr{}, ErrNoAddr
	}
	return client, nil
}

// Scheme is what a trusted proxy says about the scheme that the client used.
type Scheme struct {
	// Values are the lines of X-Forwarded-Proto or, of Forwarded, the proto
	// parameter of one element. Nil means that the proxy names no scheme.
	Values []string
}

// Named reports whether the proxy names a scheme, be it an empty one.
func (s Scheme) Named() bool { return len(s.Values) > 0 }

// Secure reports whether the proxy names a scheme and each one that it names is
// https or wss. A value may be a list with commas, of which each element counts.
func (s Scheme) Secure() bool {
	for _, v := range s.Values {
		if !secure(v) {
			return false
		}
	}
	return s.Named()
}

// Scheme returns what the peer of a request, which must be a trusted proxy, says
// about the scheme that the client used: all of X-Forwarded-Proto or, if the
// Resolver reads Forwarded, the proto parameter of the element that the client's
// address comes from. A proto elsewhere is about another hop, or was written by
// the client.
//
// An element that ends the walk because it has no readable address comes from a
// trusted proxy, too. Its proto counts if it is not secure, and only then.
func (r *Resolver) Scheme(req *http.Request) Scheme {
	if r.form != formForwarded {
		return Scheme{req.Header["X-Forwarded-Proto"]}
	}
	peer, _, _ := Peer(req.RemoteAddr)
	if _, p := r.walk(req.Header[r.header], peer); p.named {
		return Scheme{[]string{p.value}}
	}
	return Scheme{}
}

// secure reports whether all elements of a list are https or wss, in any case.
func secure(list string) bool {
	for v := range strings.SplitSeq(list, ",") {
		if v = trim(v); !isWord(v, "https") && !isWord(v, "wss") {
			return false
		}
	}
	return true
}

// isWord reports whether s is word, in any case. EqualFold alone would take a
// letter outside ASCII for an s.
func isWord(s, word string) bool { return len(s) == len(word) && strings.EqualFold(s, word) }

// Trusts reports whether an address is a proxy's that is believed.
func (r *Resolver) Trusts(a netip.Addr) bool {
	for _, p := range r.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// walk reads all lines of the header from the right: a proxy may add a line of its
// own (HAProxy does), and the first line is then what the client sent. known is the
// address to fall back to, and is not valid for a peer without one. Of Forwarded,
// walk also returns the proto parameter that is about the client's own hop.
func (r *Resolver) walk(lines []string, known netip.Addr) (netip.Addr, proto) {
	if r.form == formSingle {
		if len(lines) == 1 && len(lines[0]) <= maxBytes {
			if a, ok := parseNode(trim(lines[0])); ok {
				return a, proto{}
			}
		}
		return known, proto{}
	}
	var said proto
	w := walker{lines: lines, quoted: r.form == formForwarded, bytes: maxBytes}
	for range maxElements {
		e, ok := w.next()
		if !ok {
			break
		}
		var a netip.Addr
		var p proto
		if r.form == formForwarded {
			a, p, ok = parseForwarded(e)
		} else {
			a, ok = parseNode(e)
		}
		if !ok {
			if p.named && !secure(p.value) {
				said = p
			}
			break
		}
		known, said = a, p
		if !r.Trusts(a) {
			break
		}
	}
	return known, said
}

// Peer reads a request's RemoteAddr: the address, IPv4 as IPv4 and without a zone,
// or unix for what net/http writes when the listener is a unix socket.
func Peer(remoteAddr string) (addr netip.Addr, unix bool, err error) {
	if remoteAddr == "" || remoteAddr[0] == '@' || remoteAddr[0] == '/' {
		return netip.Addr{}, true, nil
	}
	ap, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return netip.Addr{}, false, ErrPeer
	}
	return plain(ap.Addr()), false, nil
}

// Key is what limits of one client count by: the address for IPv4; the /64 for
// IPv6, all of which is one subscriber's to take addresses from (RFC 6177).
// An invalid address has the zero Prefix.
func Key(a netip.Addr) netip.Prefix { return prefix(a, 64) }

// Net48 is the network around a client: the /48 for IPv6, the most that one site
// is usually given; for IPv4 the address, as in [Key].
func Net48(a netip.Addr) netip.Prefix { return prefix(a, 48) }

func prefix(a netip.Addr, bits6 int) netip.Prefix {
	a = plain(a)
	if a.Is4() {
		bits6 = 32
	}
	p, _ := a.Prefix(bits6) // an error only for the zero Addr, with the zero Prefix
	return p
}

// plain makes two spellings of one address equal: ::ffff:192.0.2.1 is 192.0.2.1,
// and a zone names the server's interface, not the client.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

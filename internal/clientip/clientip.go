// Package clientip finds the address of the client behind a request.
//
// There is no safe guess. Any client can send X-Forwarded-For. So a header is
// read only if the peer of the connection is a proxy that was named as trusted,
// and only the one header that was named. Each proxy vouches for the address that
// it appended, and for nothing to the left of it. So the list is read from the
// right, up to the first address that is not a trusted proxy. That address is the
// client. The client may have written everything to the left of it.
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
	// writes one. A middleware has written an address without a port, often from a
	// header that it has not checked.
	ErrPeer = errors.New("wsguard: the peer's address is unreadable")

	// ErrUnixPeer means that the request came over a unix socket, where every peer
	// looks the same, and that "unix" is not trusted.
	ErrUnixPeer = errors.New("wsguard: the peer is a unix socket, which is not trusted")

	// ErrNoAddr means that a trusted peer on a unix socket named no readable
	// client. Over TCP, the client would then be the peer. A peer on a unix socket
	// has no address.
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
	Header bool   // Value is the name of the header, and not an entry of trusted
	Value  string // the name or the entry, as the configuration has it
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

// form is the syntax of the configured header.
type form int

const (
	formList      form = iota // X-Forwarded-For: addresses between commas
	formForwarded             // RFC 7239
	formSingle                // one line with one address, as X-Real-IP
)

// Parse makes a Resolver. An entry of trusted is a prefix (10.0.0.0/8), a single
// address, or the word unix for peers on a unix socket.
//
// header is the one header that is read if the peer is trusted. An empty header
// means X-Forwarded-For. Forwarded is read as RFC 7239 says. Any other header,
// such as X-Real-IP or CF-Connecting-IP, must have exactly one line with exactly
// one address. The proxy must overwrite it, and must not pass it on.
//
// Prefixes that together cover all addresses of a family are a fault, like the
// prefix of length 0.
//
// Parse returns every fault. If there is one, the Resolver is nil.
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

// mapped has the IPv4 addresses that are written as IPv6. Such a peer counts as IPv4.
var mapped = netip.MustParsePrefix("::ffff:0.0.0.0/96")

// trustInAll returns a fault for each family of which the prefixes together cover
// all addresses. They do the same as a single prefix of length 0.
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

// Proxied reports whether any proxy is trusted.
func (r *Resolver) Proxied() bool { return r.unix || len(r.trusted) > 0 }

// PeerTrusted reports whether the request's peer is a trusted proxy. Its headers
// about the request, such as X-Forwarded-Proto, may then be believed.
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
// A peer that is not trusted is the client, whatever its headers say. If the peer
// is trusted, Client reads the lines of the header as one list, from the last
// element to the first, past trusted addresses. The first address that is not
// trusted is the client. If all are trusted, the leftmost one is the client.
//
// Reading also stops at an element that is not an address (unknown, an obfuscated
// identifier, an empty element, unix:), and at the bounds of 32 elements and 8 KiB.
// The client is then the last trusted address that was read, because that is the
// nearest address for which a proxy vouches. Without a header it is the peer.
// Nothing to the left is believed, so a client gains nothing by sending rubbish. A
// header for a single address that has two lines or a list makes the peer the
// client.
//
// Client returns [ErrPeer], [ErrUnixPeer] or [ErrNoAddr] if there is no such
// address.
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

// NamesClient reports whether the header of a request has a readable address where
// Client looks for the first one. If it has none, a trusted peer counts as the
// client.
func (r *Resolver) NamesClient(req *http.Request) bool {
	a, _ := r.walk(req.Header[r.header], netip.Addr{})
	return a.IsValid()
}

// Single reports whether the header must hold exactly one address.
func (r *Resolver) Single() bool { return r.form == formSingle }

// Scheme is what a trusted proxy says about the scheme that the client used.
type Scheme struct {
	// Values has the lines of X-Forwarded-Proto, or the proto parameter of one
	// element of Forwarded. Nil means that the proxy names no scheme.
	Values []string
}

// Named reports whether the proxy names a scheme, which may be empty.
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

// Scheme returns what the peer of a request says about the scheme that the client
// used. The peer must be a trusted proxy. Scheme returns all of X-Forwarded-Proto.
// If the Resolver reads Forwarded, it returns the proto parameter of the element
// that the client's address comes from. The proto of another element is about
// another hop, or the client has written it.
//
// An element that ends the walk because it has no readable address comes from a
// trusted proxy, too. Its proto counts only if it is not secure.
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

// secure reports whether all elements of a list are https or wss, in any letter case.
func secure(list string) bool {
	for v := range strings.SplitSeq(list, ",") {
		if v = trim(v); !isWord(v, "https") && !isWord(v, "wss") {
			return false
		}
	}
	return true
}

// isWord reports whether s is word, in any letter case. EqualFold alone would take
// a letter outside ASCII for an s.
func isWord(s, word string) bool { return len(s) == len(word) && strings.EqualFold(s, word) }

// Trusts reports whether an address is that of a trusted proxy.
func (r *Resolver) Trusts(a netip.Addr) bool {
	for _, p := range r.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// walk reads all lines of the header from the right, because a proxy may add a line
// of its own, as HAProxy does. The first line is then what the client sent. known is
// the address to fall back to. It is not valid for a peer without an address. For
// Forwarded, walk also returns the proto parameter that is about the client's own
// hop.
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

// Peer returns the address in a request's RemoteAddr, IPv4 as IPv4 and without a
// zone. unix is true for the RemoteAddr that net/http writes if the listener is a
// unix socket.
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

// Key returns the prefix by which limits count a client. For IPv4 it is the
// address. For IPv6 it is the /64, because one subscriber can take any address of
// it (RFC 6177). For an invalid address it is the zero Prefix.
func Key(a netip.Addr) netip.Prefix { return prefix(Inner(a), 64) }

// nat64 is the well-known prefix of RFC 6052. An address in it stands for an IPv4 host.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Inner returns the IPv4 address that a NAT64 address has inside, and any other address as it
// is. All of IPv4 would otherwise be one client. Use it for keys only: whether an address is
// trusted, or is of this machine, must be judged by the address itself.
func Inner(a netip.Addr) netip.Addr {
	if !nat64.Contains(a.WithZone("")) {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// Net48 returns the network around a client. For IPv6 it is the /48, which is
// usually the largest prefix of one site. For IPv4 it is the address, as in [Key].
func Net48(a netip.Addr) netip.Prefix { return prefix(a, 48) }

func prefix(a netip.Addr, bits6 int) netip.Prefix {
	a = plain(a)
	if a.Is4() {
		bits6 = 32
	}
	p, _ := a.Prefix(bits6) // the zero Addr is an error, and has the zero Prefix
	return p
}

// plain makes two spellings of one address equal. It turns ::ffff:192.0.2.1 into
// 192.0.2.1, and drops the zone, which names an interface of the server.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

package penalty

import "net/netip"

// Key is the client or the network that a ban is about.
type Key struct {
	prefix netip.Prefix
	name   string
	exact  bool // the ban is about the prefix itself, and not about the client in it
}

// Addr returns the key of the client at an address.
func Addr(a netip.Addr) Key {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return Key{}
	}
	return Key{prefix: netip.PrefixFrom(a, a.BitLen())}
}

// Net returns the key of all addresses in a prefix. The length must not be 0.
func Net(p netip.Prefix) Key {
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return Key{} // the prefix has more than IPv4 addresses
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return Key{prefix: p.Masked(), exact: true}
}

// Name returns the key of a client to which the application has given a name.
func Name(s string) Key { return Key{name: s} }

func (k Key) valid() bool { return k.name != "" || k.prefix.IsValid() }

// client returns the key under which k is banned. For an IPv6 address it is the /64, because one
// subscriber has all of it.
func (k Key) client() Key {
	if !k.exact && k.name == "" && k.prefix.IsValid() && k.prefix.Addr().Is6() {
		k.prefix, _ = k.prefix.Addr().Prefix(64)
	}
	k.exact = true
	return k
}

// Client returns the prefix or the name that a strike against k bans. Both are zero if k is
// zero.
func (k Key) Client() (p netip.Prefix, name string) {
	k = k.client()
	return k.prefix, k.name
}

// network returns the key of the /48 around a /64.
func (k Key) network() Key {
	k.prefix, _ = k.prefix.Addr().Prefix(48)
	return k
}

// Bans that strikes have led to are of three kinds.
const (
	poolHost    = iota // IPv4 addresses and names
	poolSite           // IPv6 prefixes longer than a /48
	poolNetwork        // IPv6 prefixes of a /48 or shorter
	pools

	noPool = -1 // the pool of a ban by hand
)

func (k Key) pool() int {
	switch {
	case k.name != "" || k.prefix.Addr().Is4():
		return poolHost
	case k.prefix.Bits() > 48:
		return poolSite
	}
	return poolNetwork
}

// room returns how many bans a pool may have.
func (b *Box) room(pool int) int {
	if pool == poolHost {
		return b.max / 2
	}
	return b.max / 4
}

// family returns 0 for an IPv4 address and 1 for an IPv6 address.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// lengths has the lengths of the prefixes in a map, so that a client can be looked up under each
// of them.
type lengths struct {
	used  []int    // the lengths that some prefix has
	count [129]int // how many prefixes have each length
}

// fits reports whether a prefix of this length may be added by hand. It may if another prefix
// has that length, or if there are not too many lengths yet.
func (l *lengths) fits(bits int) bool { return l.count[bits] > 0 || len(l.used) < maxLengths }

func (l *lengths) add(bits int) {
	if l.count[bits]++; l.count[bits] == 1 {
		l.used = append(l.used, bits)
	}
}

func (l *lengths) remove(bits int) {
	if l.count[bits]--; l.count[bits] > 0 {
		return
	}
	for i, other := range l.used {
		if other == bits {
			l.used[i] = l.used[len(l.used)-1]
			l.used = l.used[:len(l.used)-1]
			return
		}
	}
}

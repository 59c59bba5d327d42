package penalty

import "net/netip"

// Key is the client or the network that a ban is about.
type Key struct {
	prefix netip.Prefix
	name   string
	exact  bool // the prefix itself, not the client within it
}

// Addr is the client at an address.
func Addr(a netip.Addr) Key {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return Key{}
	}
	return Key{prefix: netip.PrefixFrom(a, a.BitLen())}
}

// Net is all in a prefix, of any length but 0.
func Net(p netip.Prefix) Key {
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return Key{} // not only IPv4, and not all of that is
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return Key{prefix: p.Masked(), exact: true}
}

// Name is a client under a name of the application's.
func Name(s string) Key { return Key{name: s} }

func (k Key) valid() bool { return k.name != "" || k.prefix.IsValid() }

// client is what bans k: for an IPv6 address the /64, all of which is one
// subscriber's.
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

// network is the /48 around a key of a site.
func (k Key) network() Key {
	k.prefix, _ = k.prefix.Addr().Prefix(48)
	return k
}

// Bans that strikes have led to are of three kinds.
const (
	poolHost    = iota // IPv4 addresses and names
	poolSite           // IPv6 prefixes longer than a /48
	poolNetwork        // and of a /48 or shorter
	pools

	noPool = -1 // by hand
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

// room is how many bans there may be in a pool.
func (b *Box) room(pool int) int {
	if pool == poolHost {
		return b.max / 2
	}
	return b.max / 4
}

// family is 0 for IPv4 and 1 for IPv6.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// lengths are those of the prefixes in a map, so that a client can be looked up
// under each.
type lengths struct {
	used  []int
	count [129]int
}

// fits tells whether one more length would be too many. The longest that
// strikes lead to are there anyway.
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

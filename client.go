package wsguard

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/penalty"
	"github.com/wsguard/wsguard/reason"
)

// client is who a peer is to every limit and every log: an address, or the name
// that the application knows him by.
type client struct {
	addr netip.Addr
	name string
}

// clientKey is what is counted under. An IPv6 client is its /64.
type clientKey struct {
	prefix netip.Prefix
	name   string
}

func (c client) valid() bool { return c.addr.IsValid() }

func (c client) String() string {
	if c.name == "" {
		return c.addr.String()
	}
	return c.name + " at " + c.addr.String()
}

func (c client) key() clientKey {
	if c.name != "" {
		return clientKey{name: c.name}
	}
	return clientKey{prefix: clientip.Key(c.addr)}
}

// network is the /48 around an IPv6 client without a name.
func (c client) network() (p netip.Prefix, ok bool) {
	if c.name != "" || !c.addr.Is6() || c.addr.Is4In6() {
		return p, false
	}
	return clientip.Net48(c.addr), true
}

func (c client) in(t *keyed.Table) keyed.Key {
	if c.name != "" {
		return t.String("client:" + c.name)
	}
	return t.Prefix(clientip.Key(c.addr))
}

// foreign is the key of what a page of another site, or a program without an Origin, makes
// the client do. It has a bucket of its own: the page cannot use up what the client's own
// pages need, and a program that sends no Origin does not go unlimited.
func (c client) foreign(t *keyed.Table) keyed.Key {
	if c.name != "" {
		return t.String("foreign client:" + c.name)
	}
	return t.String("foreign:" + clientip.Key(c.addr).String())
}

func (c client) penalty() penalty.Key {
	if c.name != "" {
		return penalty.Name(c.name)
	}
	return penalty.Addr(c.addr)
}

// maxName bounds what is kept under a name; of a longer one the hash is.
const maxName = 128

func shortName(s string) string {
	if len(s) <= maxName {
		return strings.Clone(s) // it may be part of a long header
	}
	hash := sha256.Sum256([]byte(s))
	return s[:maxName/2] + "…" + hex.EncodeToString(hash[:16])
}

// identify finds clients.
type identify struct {
	*clientip.Resolver
	name   func(*http.Request) string // nil: nobody has one
	header string
}

// of says who has sent r.
func (i identify) of(r *http.Request) (c client, err error) {
	defer func() {
		if recover() != nil {
			c, err = client{}, deny(reason.Unavailable, "ClientName panicked")
		}
	}()
	if c.addr, err = i.Client(r); err != nil {
		return client{}, denyCause(reason.ClientAddress, err)
	}
	if i.name != nil {
		c.name = shortName(i.name(r))
	}
	return c, nil
}

// crowd notices that all clients seem to be one. Whoever forgets to name a proxy
// has made a limit of each client's the limit of all.
type crowd struct {
	mu   sync.Mutex
	addr netip.Addr
	n    int
	said bool
}

const crowded = 100 // handshakes in a row from one address

// saw reports, once, that it is time to say so.
func (c *crowd) saw(who client) bool {
	if who.name != "" {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.said {
		return false
	}
	if who.addr != c.addr {
		c.addr, c.n = who.addr, 0
	}
	c.n++
	c.said = c.n == crowded
	return c.said
}

func (a *admission) notice() {
	if !a.g.crowd.saw(a.client) {
		return
	}
	e := audit.Event{Kind: audit.Warning, Reason: "one_client", Client: a.client.String()}
	e.Detail = "all of the last 100 handshakes came from this address: if it is a proxy, name it in Proxies.Trusted, for limits of a client are now limits of all"
	if a.policy.client.PeerTrusted(a.r) {
		e.Detail = "all of the last 100 handshakes came from this address, through a proxy: if it does not send " + a.policy.client.header + ", limits of a client are now limits of all"
	}
	a.g.events.emit(e)
}

package wsguard

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/penalty"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// client identifies a peer in every limit and every log. It is an address, or the name that
// Proxies.ClientName has returned for the peer.
type client struct {
	addr netip.Addr
	name string
}

// clientKey is the key under which a client is counted. It is the /64 of an IPv6 client.
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

// String returns the client as Admin.Ban takes it. A name is escaped and cut.
func (k clientKey) String() string {
	switch {
	case k.name != "":
		return sanitize(k.name, maxField)
	case k.prefix.IsSingleIP():
		return k.prefix.Addr().String()
	}
	return k.prefix.String()
}

// network is the /48 around an IPv6 client without a name.
func (c client) network() (p netip.Prefix, ok bool) {
	if c.name != "" || !clientip.Inner(c.addr).Is6() || c.addr.Is4In6() {
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

// foreign is the key for requests that a page of another site, or a program without an
// Origin, sends from the client. They have a bucket of their own. So a foreign page cannot
// use up what the client's own pages need, and a program without an Origin is limited too.
func (c client) foreign(t *keyed.Table) keyed.Key {
	if c.name != "" {
		return t.String("foreign client:" + c.name)
	}
	return t.String("foreign:" + clientip.Key(c.addr).String())
}

// keyIn is the key of the client, or that of the requests that foreign pages send from it.
func (c client) keyIn(t *keyed.Table, foreign bool) keyed.Key {
	if foreign {
		return c.foreign(t)
	}
	return c.in(t)
}

func (c client) penalty() penalty.Key {
	if c.name != "" {
		return penalty.Name(c.name)
	}
	return penalty.Addr(clientip.Inner(c.addr))
}

// maxName bounds the names of clients in bytes. A longer name is replaced by its hash.
const maxName = 128

func shortName(s string) string {
	if len(s) <= maxName {
		return strings.Clone(s) // it may be part of a long header
	}
	hash := sha256.Sum256([]byte(s))
	return s[:maxName/2] + "…" + hex.EncodeToString(hash[:16])
}

// identify finds the client of a request.
type identify struct {
	*clientip.Resolver
	name   func(*http.Request) string // Proxies.ClientName; nil: clients have no names
	header string
}

// of returns the client that has sent r.
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

// crowd notices that all clients seem to be one. That happens when a proxy is missing from
// Proxies.Trusted, and then all clients share the limits of one client.
type crowd struct {
	mu   sync.Mutex // no other lock is taken while it is held
	addr netip.Addr // guarded by mu: the address of the last handshake
	n    int        // guarded by mu: how many handshakes in a row came from addr
	said bool       // guarded by mu: the warning was given
}

const crowded = 100 // handshakes in a row from one address

// saw counts a handshake. It returns true once, when the last crowded handshakes came from
// one address.
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

// notice warns if the client of the request that has just been found is probably not the real
// one.
func (a *admission) notice() {
	a.noticeUnnamed()
	if a.policy.loopbackOnly {
		return // all clients are on this machine
	}
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

// unnamed paces the warning that a trusted proxy does not name its client.
type unnamed struct {
	mu   sync.Mutex // no other lock is taken while it is held
	last time.Time  // guarded by mu: when the warning was given last
}

// unnamedPause is the shortest time between two of these warnings.
const unnamedPause = time.Minute

// due reports whether the warning must be given now, and notes that it is.
func (u *unnamed) due() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if !u.last.IsZero() && now.Sub(u.last) < unnamedPause {
		return false
	}
	u.last = now
	return true
}

// noticeUnnamed warns if a trusted proxy does not name the client. The proxy itself is the
// client then, so that all of its clients share the limits of one. A request that is neither
// a handshake nor a POST may be a health check of the proxy, which has no client to name.
func (a *admission) noticeUnnamed() {
	proxies := a.policy.client
	if a.client.name != "" || a.r.Method != http.MethodPost && !wire.HasToken(a.r.Header, "Upgrade", "websocket") {
		return
	}
	if peer, _, err := clientip.Peer(a.r.RemoteAddr); err != nil || peer != a.client.addr || !proxies.Trusts(peer) {
		return
	}
	if proxies.NamesClient(a.r) || !a.g.unnamed.due() {
		return
	}
	fault := "sent no " + proxies.header
	if len(a.r.Header[http.CanonicalHeaderKey(proxies.header)]) > 0 {
		fault = "sent no readable address at the end of " + proxies.header
		if proxies.Single() {
			fault = "sent not exactly one address in " + proxies.header
		}
	}
	a.g.events.emit(audit.Event{
		Kind: audit.Warning, Reason: "no_client_header", Client: a.client.String(),
		Detail: "the trusted proxy " + a.client.addr.String() + " " + fault + ", so the proxy counts as the client: all handshakes without the header share the limits of one client",
	})
}

package wsguard

import (
	"net/http"
	"strings"

	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/internal/origin"
)

// OriginConfig says which web origins may connect (RFC 6454, RFC 6455 §10.2).
type OriginConfig struct {
	// Origins are the allowed origins, each a scheme, a host and, where it
	// is not the scheme's default, a port: "https://app.example.com",
	// "http://localhost:3000". "https://*.example.com" allows exactly one
	// label in place of the star. "null" has to be listed to be allowed.
	// Anything else is an error: there are no patterns.
	Origins []string

	// AllowMissing admits handshakes without an Origin header, as programs
	// that are no browser send them; never with a cookie, which only a
	// browser attaches by itself. In a [Config] it needs a Hosts list.
	AllowMissing bool

	// InsecureReportOnly reports what would be refused, and lets it pass.
	InsecureReportOnly bool
}

// OriginGuard checks the Origin header and the fetch metadata of a handshake.
type OriginGuard struct {
	reporter
	list *origin.List
	cfg  OriginConfig
}

// NewOriginGuard returns a check that can stand in front of any handler. An
// empty list is an error unless AllowMissing is set.
func NewOriginGuard(cfg OriginConfig) (*OriginGuard, error) {
	var f faults
	g := newOriginGuard(cfg, &f)
	return g, f.err()
}

func newOriginGuard(cfg OriginConfig, f *faults) *OriginGuard {
	list, bad := origin.ParseList(cfg.Origins)
	for _, b := range bad {
		f.add("Origins", b.Value, b.Reason)
	}
	if len(cfg.Origins) == 0 && !cfg.AllowMissing {
		f.add("Origins", "", "list at least one origin: an empty list would refuse every browser")
	}
	cfg.Origins = nil
	return &OriginGuard{list: list, cfg: cfg}
}

// Check returns nil, or an error that wraps ErrOriginDenied or
// ErrFetchMetadata.
func (g *OriginGuard) Check(r *http.Request) error {
	err := g.check(r)
	if err != nil && g.cfg.InsecureReportOnly {
		g.report(r, err)
		return nil
	}
	return err
}

func (g *OriginGuard) check(r *http.Request) error {
	switch origins := r.Header["Origin"]; {
	case len(origins) > 1:
		return deny(ErrOriginDenied, "several Origin headers")
	case len(origins) == 0 || origins[0] == "":
		if !g.cfg.AllowMissing {
			return deny(ErrOriginDenied, "no Origin header")
		}
		if len(r.Header["Cookie"]) > 0 {
			return deny(ErrOriginDenied, "a cookie and no Origin header")
		}
		if site, ok := single(r.Header, "Sec-Fetch-Site"); ok && site == "cross-site" {
			return deny(ErrFetchMetadata, "cross-site and no Origin header")
		}
	case !g.list.Match(origins[0]):
		return deny(ErrOriginDenied, "")
	}
	// Browsers that send fetch metadata send this mode for a WebSocket only;
	// a page cannot change it.
	for _, mode := range r.Header["Sec-Fetch-Mode"] {
		if mode != "websocket" {
			return deny(ErrFetchMetadata, "Sec-Fetch-Mode is not websocket")
		}
	}
	return nil
}

// checkPost is Check for a POST that buys a ticket: scripts send it with
// other fetch metadata, and programs without an Origin, but never with a cookie.
func (g *OriginGuard) checkPost(r *http.Request) error {
	var err error
	switch origins := r.Header["Origin"]; {
	case len(origins) > 1:
		err = deny(ErrOriginDenied, "several Origin headers")
	case len(origins) == 1 && origins[0] != "":
		if !g.list.Match(origins[0]) {
			err = deny(ErrOriginDenied, "")
		}
	case len(r.Header["Cookie"]) > 0:
		err = deny(ErrOriginDenied, "a cookie and no Origin header")
	}
	if err != nil && g.cfg.InsecureReportOnly {
		g.report(r, err)
		return nil
	}
	return err
}

// Handler lets a request pass to next, or answers 403.
func (g *OriginGuard) Handler(next http.Handler) http.Handler {
	return g.handler(g, g.Check, next)
}

// HostGuard checks the Host header of a handshake. It stops DNS rebinding
// where no origin list does: when a missing Origin is allowed.
type HostGuard struct {
	reporter
	hosts *origin.Hosts
}

// NewHostGuard returns a check for these hosts. An entry without a port
// matches any port; "*.example.com" allows one label in place of the star. An
// empty list is an error.
func NewHostGuard(hosts []string) (*HostGuard, error) {
	var f faults
	if len(hosts) == 0 {
		f.add("Hosts", "", "list at least one host")
	}
	g := newHostGuard(hosts, &f)
	return g, f.err()
}

// newHostGuard returns nil for no hosts: they are not checked.
func newHostGuard(hosts []string, f *faults) *HostGuard {
	if len(hosts) == 0 {
		return nil
	}
	list, bad := origin.ParseHosts(hosts)
	for _, b := range bad {
		f.add("Hosts", b.Value, b.Reason)
	}
	return &HostGuard{hosts: list}
}

// Check returns nil, or an error that wraps ErrHostDenied.
func (g *HostGuard) Check(r *http.Request) error {
	port := "80"
	if r.TLS != nil {
		port = "443"
	}
	if !g.hosts.Match(r.Host, port) {
		return deny(ErrHostDenied, "")
	}
	return nil
}

// Handler lets a request pass to next, or answers 421 (RFC 9110 §15.5.20).
func (g *HostGuard) Handler(next http.Handler) http.Handler {
	return g.handler(g, g.Check, next)
}

// Proxies says what stands in front of the server, and so who the client is.
// The zero value is a server that clients reach directly: the client is the
// peer of the TCP connection, and no header is believed.
type Proxies struct {
	// Trusted are the prefixes ("10.0.0.0/8") and addresses from which
	// forwarding headers are believed, and "unix" for the peers of a unix
	// socket, which are refused otherwise. There is no safe default.
	Trusted []string

	// Header is the one header that carries the client's address. Default
	// X-Forwarded-For, read from the right over all its lines, past trusted
	// addresses only. "Forwarded" is read as RFC 7239 says; any other must
	// hold a single address, as X-Real-IP does.
	Header string
}

func (p Proxies) resolver(f *faults) *clientip.Resolver {
	r, bad := clientip.Parse(p.Trusted, p.Header)
	for _, b := range bad {
		f.add("Proxies", b.Value, b.Reason)
	}
	return r
}

// TLSConfig says what counts as encrypted.
type TLSConfig struct {
	Proxies Proxies

	// InsecureAllowHTTP admits clear text from everybody.
	InsecureAllowHTTP bool
}

// TLSGuard refuses clear text (RFC 6455 §10.6). It admits TLS; a trusted
// proxy that sends exactly one X-Forwarded-Proto, equal to https; and, so that
// development works, a loopback peer when no proxy is configured and none has
// left a trace in the request.
type TLSGuard struct {
	reporter
	client   *clientip.Resolver
	insecure bool
}

// NewTLSGuard returns a check that can stand in front of any handler.
func NewTLSGuard(cfg TLSConfig) (*TLSGuard, error) {
	var f faults
	g := &TLSGuard{client: cfg.Proxies.resolver(&f), insecure: cfg.InsecureAllowHTTP}
	return g, f.err()
}

// Check returns nil, or an error that wraps ErrInsecureTransport.
func (g *TLSGuard) Check(r *http.Request) error {
	if r.TLS != nil || g.insecure {
		return nil
	}
	if g.client.PeerTrusted(r) {
		if proto, ok := single(r.Header, "X-Forwarded-Proto"); ok && proto == "https" {
			return nil
		}
		return deny(ErrInsecureTransport, "the proxy does not say https")
	}
	if !g.client.Proxied() && !forwarded(r.Header) {
		if peer, _, err := clientip.Peer(r.RemoteAddr); err == nil && peer.IsLoopback() {
			return nil
		}
	}
	return deny(ErrInsecureTransport, "")
}

// Handler lets a request pass to next, or answers 403. It never redirects: a
// credential that came in clear text is known already.
func (g *TLSGuard) Handler(next http.Handler) http.Handler {
	return g.handler(g, g.Check, next)
}

// forwarded reports whether a proxy has left a trace.
func forwarded(h http.Header) bool {
	for name := range h {
		switch {
		case name == "Forwarded", name == "Via", name == "X-Real-Ip", strings.HasPrefix(name, "X-Forwarded-"):
			return true
		}
	}
	return false
}

// single returns a header that must come once.
func single(h http.Header, name string) (string, bool) {
	if v := h[name]; len(v) == 1 {
		return v[0], true
	}
	return "", false
}

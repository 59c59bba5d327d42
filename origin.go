package wsguard

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/internal/origin"
	"github.com/wsguard/wsguard/reason"
)

// originRule has the settings of a Config for the Origin header and the fetch metadata of a
// handshake.
type originRule struct {
	list    *origin.List
	missing bool // AllowMissingOrigin
	report  bool // InsecureReportOnlyOrigins
	null    bool // Origins lists null
	none    bool // there is no origin step, because a piece of another kind stands alone
}

func newOriginRule(cfg Config, f *faults) originRule {
	list, bad := origin.ParseList(cfg.Origins)
	for _, b := range bad {
		f.add("Origins", b.Value, b.Reason)
	}
	if len(cfg.Origins) == 0 && !cfg.AllowMissingOrigin {
		f.add("Origins", "", "list at least one origin: an empty list would refuse every browser")
	}
	return originRule{list: list, missing: cfg.AllowMissingOrigin, report: cfg.InsecureReportOnlyOrigins, null: list.Match("null")}
}

// NewOriginCheck returns a check of the Origin header and the fetch metadata (RFC 6455 §10.2).
// It uses the fields Origins, AllowMissingOrigin and InsecureReportOnlyOrigins of cfg. A
// RequestCheck that is returned with an error refuses every request.
func NewOriginCheck(cfg Config) (*RequestCheck, error) {
	var f faults
	p := alone(identify{Resolver: &clientip.Resolver{}})
	p.origin = newOriginRule(cfg, &f)
	return newCheck(p, stepOrigin, reason.Origin, f.err())
}

// page reports whether a page of a listed origin sends the request. InsecureReportOnlyOrigins
// does not change that. The guard accepts a cookie, which a browser sends by itself, from
// such a page only. The origin null is that of every sandboxed frame, so page returns false
// for it.
func (o *originRule) page(r *http.Request) bool {
	origins := r.Header["Origin"]
	return len(origins) == 1 && origins[0] != "null" && o.list.Match(origins[0])
}

// check judges a handshake.
func (o *originRule) check(r *http.Request) error {
	switch origins := r.Header["Origin"]; {
	case len(origins) > 1:
		return deny(reason.Origin, "several Origin headers")
	case len(origins) == 0 || origins[0] == "":
		if !o.missing {
			return deny(reason.Origin, "no Origin header")
		}
		if len(r.Header["Cookie"]) > 0 {
			return deny(reason.Origin, "a cookie and no Origin header")
		}
		if slices.Contains(r.Header["Sec-Fetch-Site"], "cross-site") {
			return deny(reason.FetchMetadata, "cross-site and no Origin header")
		}
	case !o.list.Match(origins[0]):
		return deny(reason.Origin, "")
	}
	// Browsers that send fetch metadata send this mode for a WebSocket only;
	// a page cannot change it.
	for _, mode := range r.Header["Sec-Fetch-Mode"] {
		if mode != "websocket" {
			return deny(reason.FetchMetadata, "Sec-Fetch-Mode is not websocket")
		}
	}
	return nil
}

// checkPost judges the origin of a POST that buys a ticket. Unlike check, it does not look at
// the fetch metadata, which differ for such a request. It admits a request without an Origin
// if it has no cookie.
func (o *originRule) checkPost(r *http.Request) error {
	var err error
	switch origins := r.Header["Origin"]; {
	case len(origins) > 1:
		err = deny(reason.Origin, "several Origin headers")
	case len(origins) == 1 && origins[0] != "":
		if !o.list.Match(origins[0]) {
			err = deny(reason.Origin, "")
		}
	case len(r.Header["Cookie"]) > 0:
		err = deny(reason.Origin, "a cookie and no Origin header")
	}
	return err
}

// hostRule has the setting of a Config for the Host header.
type hostRule struct {
	list *origin.Hosts // nil: not checked
}

func newHostRule(hosts []string, f *faults) hostRule {
	if hosts == nil {
		return hostRule{}
	}
	if len(hosts) == 0 {
		f.add("Hosts", "", "list at least one host: an empty list would refuse every request")
	}
	list, bad := origin.ParseHosts(hosts)
	for _, b := range bad {
		f.add("Hosts", b.Value, b.Reason)
	}
	return hostRule{list}
}

func (h *hostRule) check(r *http.Request) error {
	// Without TLS here, a proxy may have had TLS, so either default port matches.
	if h.list == nil || h.list.Match(r.Host, "443") || r.TLS == nil && h.list.Match(r.Host, "80") {
		return nil
	}
	return deny(reason.Host, "")
}

// NewHostCheck returns a check of the Host header. It stops DNS rebinding if no list of
// origins does. An entry is a host with or without a port, such as "app.example.com". An entry
// without a port matches any port, and a star stands for exactly one label. A request for
// another host gets a 421. An empty list is an error, and so is nil. A RequestCheck that is
// returned with an error refuses every request.
func NewHostCheck(hosts []string) (*RequestCheck, error) {
	if hosts == nil {
		hosts = []string{} // nil leaves the check out in a Config only
	}
	var f faults
	p := alone(identify{Resolver: &clientip.Resolver{}})
	p.host = newHostRule(hosts, &f)
	return newCheck(p, stepHost, reason.Host, f.err())
}

// Proxies names the proxies in front of the server, and so decides which address is the
// client's. The zero value is for a server that clients reach directly. The client is then
// the peer of the TCP connection, and the guard believes no header.
type Proxies struct {
	// Trusted lists the prefixes, such as "10.0.0.0/8", and the addresses of the proxies
	// whose headers the guard believes. "unix" stands for the peers of a unix socket. They
	// are refused if it is not listed. The default, nil, trusts no proxy.
	Trusted []string

	// Header is the name of the header that carries the client's address. The default is
	// X-Forwarded-For. The guard reads it, and Forwarded (RFC 7239), from the right up to the
	// first address that is not trusted. Any other header must hold a single address.
	Header string

	// ClientName, if set, returns the name under which all limits, bans and logs count the
	// client, such as a tenant whose users share an address. If it returns "", the client is
	// its address. The guard has not checked the request yet. So ClientName must use only
	// what the client cannot forge. If it panics, the request gets a 503. The default, nil,
	// names no client.
	ClientName func(*http.Request) string
}

func (p Proxies) resolver(f *faults) identify {
	r, bad := clientip.Parse(p.Trusted, p.Header)
	for _, b := range bad {
		f.add("Proxies", b.Value, b.Reason)
	}
	return identify{r, p.ClientName, cmp.Or(p.Header, "X-Forwarded-For")}
}

// NewTLSCheck returns a check that refuses clear text (RFC 6455 §10.6). It never
// redirects.
//
// The check believes a trusted proxy about the client's scheme. It reads X-Forwarded-Proto
// or, if Proxies.Header is Forwarded, the proto parameter of the element that the client's
// address comes from. It reads no other header. The secure schemes are https and wss, in any
// letter case. If there are several values, in lines or between commas, each of them must be
// secure. An empty value is not secure.
//
// A request over TLS passes, unless a trusted proxy names a scheme that is not
// secure. Such a proxy encrypts what it took in clear text. A request without TLS
// passes if a trusted proxy names a secure scheme. For development it also passes
// from a loopback peer, if no proxy is configured and none has left a trace in the
// header. Everything else is a 403. Config.InsecureAllowHTTP switches the check off,
// whatever the proxy says.
func NewTLSCheck(proxies Proxies) (*RequestCheck, error) {
	var f faults
	p := alone(proxies.resolver(&f))
	p.insecureHTTP = false
	return newCheck(p, stepTLS, reason.InsecureTransport, f.err())
}

// checkTransport judges whether the client's own connection is encrypted.
func (p *policy) checkTransport(r *http.Request) error {
	switch {
	case p.insecureHTTP:
		return nil
	case p.client.PeerTrusted(r):
		return checkScheme(p.client.Scheme(r), p.client.header, r.TLS != nil)
	case r.TLS != nil:
		return nil
	}
	return checkClearText(p.client, r)
}

// checkScheme judges the scheme that a trusted proxy has named. header is Proxies.Header.
func checkScheme(s clientip.Scheme, header string, tls bool) error {
	prefix, none := "X-Forwarded-Proto: ", "no TLS, and the trusted proxy sent no X-Forwarded-Proto"
	if strings.EqualFold(header, "Forwarded") {
		prefix = "Forwarded: proto="
		none = "no TLS, and the trusted proxy named no proto in the element of Forwarded that the client's address comes from"
	}
	switch {
	case s.Secure(), !s.Named() && tls:
		return nil
	case !s.Named():
		return deny(reason.InsecureTransport, none)
	}
	return deny(reason.InsecureTransport, `the trusted proxy says `+prefix+`"`+quotable(s.Values)+`"`)
}

// checkClearText judges a request without TLS whose peer is no trusted proxy.
func checkClearText(client identify, r *http.Request) error {
	peer, unix, err := clientip.Peer(r.RemoteAddr)
	trace := forwarded(r.Header, client.header)
	switch {
	case unix:
		return deny(reason.InsecureTransport, `no TLS, and the peer is a unix socket: if it is a proxy, name "unix" in Proxies.Trusted`)
	case trace != "":
		return deny(reason.InsecureTransport, "no TLS, and "+trace+" came from a peer that is no trusted proxy: if it is a proxy, name it in Proxies.Trusted")
	case !client.Proxied() && err == nil && peer.IsLoopback():
		return nil
	}
	return deny(reason.InsecureTransport, "no TLS")
}

// forwarded returns the name of a header in which a proxy has left a trace, or "". header is
// Proxies.Header.
func forwarded(h http.Header, header string) string {
	for _, name := range []string{"X-Forwarded-Proto", header, "X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"} {
		if _, ok := h[http.CanonicalHeaderKey(name)]; ok {
			return name
		}
	}
	for name := range h {
		if strings.HasPrefix(name, "X-Forwarded-") {
			return "a header X-Forwarded-…" // the peer has chosen the rest of the name
		}
	}
	return ""
}

// single returns the value of a header that must come exactly once.
func single(h http.Header, name string) (string, bool) {
	if v := h[name]; len(v) == 1 {
		return v[0], true
	}
	return "", false
}

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

// originRule is what a Config says about the Origin header and the fetch metadata of a
// handshake.
type originRule struct {
	list    *origin.List
	missing bool // AllowMissingOrigin
	report  bool // InsecureReportOrigin
	null    bool // null is listed
	none    bool // there is no such step: the piece of another kind stands alone
}

func newOriginRule(cfg Config, f *faults) originRule {
	list, bad := origin.ParseList(cfg.Origins)
	for _, b := range bad {
		f.add("Origins", b.Value, b.Reason)
	}
	if len(cfg.Origins) == 0 && !cfg.AllowMissingOrigin {
		f.add("Origins", "", "list at least one origin: an empty list would refuse every browser")
	}
	return originRule{list: list, missing: cfg.AllowMissingOrigin, report: cfg.InsecureReportOrigin, null: list.Match("null")}
}

// NewOriginCheck returns a check of the Origin header and the fetch metadata, as
// cfg's Origins, AllowMissingOrigin and InsecureReportOrigin say. A Check that is
// returned with an error refuses every request.
func NewOriginCheck(cfg Config) (*Check, error) {
	var f faults
	p := alone(identify{Resolver: &clientip.Resolver{}})
	p.origin = newOriginRule(cfg, &f)
	return newCheck(p, stepOrigin, reason.Origin, f.err())
}

// page reports whether a page of a listed origin sends the request, whether or not
// foreign origins are only reported. What a browser sends by itself, such as a
// cookie, counts only then. null is the origin of every sandboxed frame, so it is
// never such a page.
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

// checkPost is check for a POST that buys a ticket: scripts send it with
// other fetch metadata, and programs without an Origin, but never with a cookie.
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

// hostRule is what a Config says about the Host header.
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
	// Without TLS a proxy may have had it: either default will do.
	if h.list == nil || h.list.Match(r.Host, "443") || r.TLS == nil && h.list.Match(r.Host, "80") {
		return nil
	}
	return deny(reason.Host, "")
}

// NewHostCheck returns a check of the Host header. It stops DNS rebinding where no
// origin list does. An entry without a port matches any port, and a star stands
// for exactly one label. An empty list is an error, and so is nil. A Check that is
// returned with an error refuses every request.
func NewHostCheck(hosts []string) (*Check, error) {
	if hosts == nil {
		hosts = []string{} // nil leaves the check out in a Config only
	}
	var f faults
	p := alone(identify{Resolver: &clientip.Resolver{}})
	p.host = newHostRule(hosts, &f)
	return newCheck(p, stepHost, reason.Host, f.err())
}

// Proxies says what stands in front of the server, and so who the client is.
// The zero value is a server that clients reach directly: the client is the
// peer of the TCP connection, and no header is believed.
type Proxies struct {
	// Trusted are prefixes ("10.0.0.0/8") and addresses whose headers are
	// believed; "unix" are the peers of a unix socket, refused otherwise.
	Trusted []string

	// Header is the one that carries the client's address: X-Forwarded-For
	// (the default) or Forwarded (RFC 7239), read from the right past
	// trusted addresses; any other must hold a single address.
	Header string

	// ClientName, if set, names who a client is to all limits, bans and logs: a
	// tenant, say, whose users share an address. "" is the address. The request
	// has not been checked yet: name by what cannot be forged.
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
// What a trusted proxy says about the client's scheme counts: X-Forwarded-Proto or,
// if Proxies.Header is Forwarded, the proto parameter of the element that the
// client's address comes from. The word is https or wss, in any case. There may be
// several, in lines or between commas, and then each must be one of the two; an
// empty one is neither. No other header is read.
//
// A request over TLS passes, unless a trusted proxy names a scheme that is not
// secure: such a proxy encrypts what it took in clear text. A request without TLS
// passes if a trusted proxy names a secure scheme. For development it also passes
// from a loopback peer, if no proxy is configured and none has left a trace in the
// header. Everything else is a 403. Config.InsecureAllowHTTP switches the check off,
// whatever the proxy says.
func NewTLSCheck(proxies Proxies) (*Check, error) {
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

// checkScheme judges what a trusted proxy says. header is where the Proxies find the
// client's address.
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

// forwarded returns the name of a header in which a proxy has left a trace, or "".
// header is where the Proxies find the client's address.
func forwarded(h http.Header, header string) string {
	for _, name := range []string{"X-Forwarded-Proto", header, "X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"} {
		if _, ok := h[http.CanonicalHeaderKey(name)]; ok {
			return name
		}
	}
	for name := range h {
		if strings.HasPrefix(name, "X-Forwarded-") {
			return "a header X-Forwarded-…" // the rest of its name is the peer's
		}
	}
	return ""
}

// single returns a header that must come once.
func single(h http.Header, name string) (string, bool) {
	if v := h[name]; len(v) == 1 {
		return v[0], true
	}
	return "", false
}

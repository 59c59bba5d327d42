package wsguard

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/internal/origin"
	"github.com/wsguard/wsguard/reason"
)

// Check judges a request's origin, host or transport, and consumes nothing.
type Check struct {
	reporter
	line    *line[Check]
	kind    checkKind
	check   func(*http.Request) error
	post    func(*http.Request) error // checkOrigin: for a POST that buys a ticket
	missing bool                      // checkOrigin: a missing Origin is allowed
	off     bool                      // checkHost: any host will do

	reportOnly bool                      // checkOrigin
	strict     func(*http.Request) error // checkOrigin: check, if it did not only report
	strictPost func(*http.Request) error // checkOrigin: post, if it did not only report
	page       func(*http.Request) bool  // checkOrigin: see originGuard.page
	null       bool                      // checkOrigin: null is listed
}

// latest is what c has become by now.
func (c *Check) latest() *Check { return c.line.latest.Load() }

func (c *Check) succeed(old *Check) {
	if c == old {
		return // shared: whoever it belongs to has seen to it
	}
	c.line = old.line
	c.line.latest.Store(c)
}

func newCheck(kind checkKind, check func(*http.Request) error) *Check {
	c := &Check{kind: kind, check: check, line: &line[Check]{}}
	c.line.latest.Store(c)
	return c
}

// orClosed returns c, or, if the configuration of c has faults, err and a check of
// the same kind that refuses every request. Some callers ignore the error.
func (c *Check) orClosed(err error) (*Check, error) {
	if err == nil {
		return c, nil
	}
	why := map[checkKind]*reason.Reason{checkOrigin: reason.Origin, checkHost: reason.Host, checkTLS: reason.InsecureTransport}[c.kind]
	closed := newCheck(c.kind, func(*http.Request) error { return deny(why, "the configuration of the check has faults") })
	closed.post = closed.check
	return closed, err
}

type checkKind string

const (
	checkOrigin checkKind = "Origin"
	checkHost   checkKind = "Host"
	checkTLS    checkKind = "TLS"
)

// Check returns nil, or an error that wraps reason.Origin, reason.FetchMetadata,
// reason.Host or reason.InsecureTransport.
func (c *Check) Check(r *http.Request) error { return c.latest().check(r) }

// Handler lets a request pass to next, or answers 403 or 421.
func (c *Check) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := marksOf(r)
		if !m.has(c.line) {
			if err := c.Check(r); err != nil {
				c.refuse(w, r, err, audit.Event{})
				return
			}
			r = m.with(r, c.line)
		}
		next.ServeHTTP(w, r)
	})
}

// originGuard checks the Origin header and the fetch metadata of a handshake.
type originGuard struct {
	list *origin.List
	cfg  Config
}

// NewOriginCheck returns a check of the Origin header and the fetch metadata, as
// cfg's Origins, AllowMissingOrigin and InsecureReportOrigin say. A Check that is
// returned with an error refuses every request.
func NewOriginCheck(cfg Config) (*Check, error) {
	var f faults
	return newOriginCheck(cfg, &f).orClosed(f.err())
}

func newOriginCheck(cfg Config, f *faults) *Check {
	cfg = Config{Origins: cfg.Origins, AllowMissingOrigin: cfg.AllowMissingOrigin, InsecureReportOrigin: cfg.InsecureReportOrigin}
	list, bad := origin.ParseList(cfg.Origins)
	for _, b := range bad {
		f.add("Origins", b.Value, b.Reason)
	}
	if len(cfg.Origins) == 0 && !cfg.AllowMissingOrigin {
		f.add("Origins", "", "list at least one origin: an empty list would refuse every browser")
	}
	g := &originGuard{list: list, cfg: cfg}
	c := newCheck(checkOrigin, g.check)
	c.missing, c.post, c.strict, c.strictPost = cfg.AllowMissingOrigin, g.checkPost, g.check, g.checkPost
	c.page, c.null = g.page, list.Match("null")
	if c.reportOnly = cfg.InsecureReportOrigin; c.reportOnly {
		c.check, c.post = c.reporting(g.check), c.reporting(g.checkPost)
	}
	return c
}

// foreign reports whether a handshake passes only because foreign origins are
// reported and not refused.
func (c *Check) foreign(r *http.Request) bool { return c.reportOnly && c.strict(r) != nil }

// foreignPost is foreign for a POST that buys a ticket.
func (c *Check) foreignPost(r *http.Request) bool { return c.reportOnly && c.strictPost(r) != nil }

// reporting makes a report of what check refuses.
func (c *Check) reporting(check func(*http.Request) error) func(*http.Request) error {
	return func(r *http.Request) error {
		if err := check(r); err != nil {
			c.report(r, err)
		}
		return nil
	}
}

// page reports whether a page of a listed origin sends the request, whether or not
// foreign origins are only reported. What a browser sends by itself, such as a
// cookie, counts only then. null is the origin of every sandboxed frame, so it is
// never such a page.
func (g *originGuard) page(r *http.Request) bool {
	origins := r.Header["Origin"]
	return len(origins) == 1 && origins[0] != "null" && g.list.Match(origins[0])
}

func (g *originGuard) check(r *http.Request) error {
	switch origins := r.Header["Origin"]; {
	case len(origins) > 1:
		return deny(reason.Origin, "several Origin headers")
	case len(origins) == 0 || origins[0] == "":
		if !g.cfg.AllowMissingOrigin {
			return deny(reason.Origin, "no Origin header")
		}
		if len(r.Header["Cookie"]) > 0 {
			return deny(reason.Origin, "a cookie and no Origin header")
		}
		if slices.Contains(r.Header["Sec-Fetch-Site"], "cross-site") {
			return deny(reason.FetchMetadata, "cross-site and no Origin header")
		}
	case !g.list.Match(origins[0]):
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

// checkPost is Check for a POST that buys a ticket: scripts send it with
// other fetch metadata, and programs without an Origin, but never with a cookie.
func (g *originGuard) checkPost(r *http.Request) error {
	var err error
	switch origins := r.Header["Origin"]; {
	case len(origins) > 1:
		err = deny(reason.Origin, "several Origin headers")
	case len(origins) == 1 && origins[0] != "":
		if !g.list.Match(origins[0]) {
			err = deny(reason.Origin, "")
		}
	case len(r.Header["Cookie"]) > 0:
		err = deny(reason.Origin, "a cookie and no Origin header")
	}
	return err
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
	return newHostCheck(hosts, &f).orClosed(f.err())
}

// newHostCheck returns a check that is off if hosts is nil.
func newHostCheck(hosts []string, f *faults) *Check {
	if hosts == nil {
		c := newCheck(checkHost, func(*http.Request) error { return nil })
		c.off = true
		return c
	}
	if len(hosts) == 0 {
		f.add("Hosts", "", "list at least one host: an empty list would refuse every request")
	}
	list, bad := origin.ParseHosts(hosts)
	for _, b := range bad {
		f.add("Hosts", b.Value, b.Reason)
	}
	return newCheck(checkHost, func(r *http.Request) error {
		// Without TLS a proxy may have had it: either default will do.
		if list.Match(r.Host, "443") || r.TLS == nil && list.Match(r.Host, "80") {
			return nil
		}
		return deny(reason.Host, "")
	})
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
	return newTLSCheck(proxies.resolver(&f), false).orClosed(f.err())
}

func newTLSCheck(client identify, insecure bool) *Check {
	return newCheck(checkTLS, func(r *http.Request) error {
		switch {
		case insecure:
			return nil
		case client.PeerTrusted(r):
			return checkScheme(client.Scheme(r), client.header, r.TLS != nil)
		case r.TLS != nil:
			return nil
		}
		return checkClearText(client, r)
	})
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

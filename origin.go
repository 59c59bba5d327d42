package wsguard

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/internal/origin"
	"github.com/wsguard/wsguard/reason"
)

// originRule has the settings of a Config for the Origin header and the fetch metadata of a
// handshake.
type originRule struct {
	list    *origin.List
	same    bool // SameOrigin or InsecureSameOrigin
	any     bool // InsecureAnyOrigin
	hook    *originHook
	missing bool // AllowMissingOrigin
	report  bool // InsecureReportOnlyOrigins
	none    bool // there is no origin step, because a piece of another kind stands alone
}

func newOriginRule(cfg Config, f *faults) originRule {
	list, bad := origin.ParseList(cfg.Origins)
	for _, b := range bad {
		f.add("Origins", b.Value, b.Reason)
	}
	o := originRule{
		list: list, same: cfg.SameOrigin || cfg.InsecureSameOrigin, any: cfg.InsecureAnyOrigin,
		missing: cfg.AllowMissingOrigin, report: cfg.InsecureReportOnlyOrigins,
	}
	if cfg.OriginFunc != nil {
		o.hook = &originHook{ask: cfg.OriginFunc}
	}
	if len(cfg.Origins) == 0 && !o.missing && !o.same && !o.any && o.hook == nil {
		f.add("Origins", "", "list at least one origin, or set SameOrigin or OriginFunc: an empty list would refuse every browser")
	}
	if cfg.SameOrigin && cfg.Hosts == nil {
		f.add("SameOrigin", "", "needs a Hosts list: with DNS rebinding any page is of the same origin; InsecureSameOrigin does without")
	}
	return o
}

// opaque returns the entry whose origin pages of other sites, or other files, share. It is ""
// if there is none.
func (o *originRule) opaque() string {
	for _, entry := range []string{"null", "file://"} {
		if o.list.Match(entry) {
			return entry
		}
	}
	return ""
}

// NewOriginCheck returns a check of the Origin header and the fetch metadata. It uses the fields
// Origins, SameOrigin, InsecureSameOrigin, InsecureAnyOrigin, OriginFunc, AllowMissingOrigin,
// InsecureReportOnlyOrigins, InsecureObserve, Hosts, LoopbackOnly, Proxies, Logger, OnEvent,
// Observer, Name, RequestID and State of cfg. It returns an error if one of them has a fault. A
// RequestCheck that is returned with an error refuses every request.
func NewOriginCheck(cfg Config) (*RequestCheck, error) {
	var f faults
	p := alone(cfg, &f)
	cfg = cfg.observed()
	p.origin = newOriginRule(cfg, &f)
	p.host = newHostRule(cfg.Hosts, &f)
	return newCheck(p, cfg, stepOrigin, reason.Origin, f.err())
}

// page says what kind of page sends a request.
type page int

const (
	pageMissing page = iota // the request has no Origin, so no page sends it
	pageSeveral             // the request has several, which no browser sends
	pageForeign             // the origin is not allowed
	pageOwn                 // the origin is listed, the same as the server's, or accepted by OriginFunc
	pageOpaque              // the origin is listed, but pages of other sites or other files share it
	pageAny                 // InsecureAnyOrigin admits the origin
)

// pageOf returns what kind of page sends the request of the admission. The error is that of an
// OriginFunc that did not answer.
func (a *admission) pageOf() (page, error) {
	origins := a.r.Header["Origin"]
	switch {
	case len(origins) > 1:
		return pageSeveral, nil
	case len(origins) == 0 || origins[0] == "":
		return pageMissing, nil
	}
	o, from := &a.origin, origins[0]
	switch {
	case o.list.Match(from):
		if from == "null" || from == "file://" {
			return pageOpaque, nil
		}
		return pageOwn, nil
	case o.same && origin.IsOf(from, a.schemeOf(a.r), a.r.Host) && a.host.check(a.r) == nil:
		return pageOwn, nil
	}
	ok, err := a.askHook(from)
	switch {
	case err != nil:
		return pageForeign, err
	case ok:
		return pageOwn, nil
	case o.any:
		return pageAny, nil
	}
	return pageForeign, nil
}

// schemeOf returns the scheme that the client used, as a trusted proxy says or as the
// connection shows.
func (p *policy) schemeOf(r *http.Request) string {
	secure := r.TLS != nil
	if p.client.PeerTrusted(r) {
		if s := p.client.Scheme(r); s.Named() {
			secure = s.Secure()
		}
	}
	if secure {
		return "https"
	}
	return "http"
}

// check judges a handshake that a page of this kind sends.
func (o *originRule) check(p page, r *http.Request) error {
	switch p {
	case pageMissing:
		if !o.missing {
			return deny(reason.Origin, "no Origin header")
		}
		if len(r.Header["Cookie"]) > 0 {
			return deny(reason.Origin, "a cookie and no Origin header")
		}
		if slices.Contains(r.Header["Sec-Fetch-Site"], "cross-site") {
			return deny(reason.FetchMetadata, "cross-site and no Origin header")
		}
	case pageSeveral:
		return deny(reason.Origin, "several Origin headers")
	case pageForeign:
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
func (o *originRule) checkPost(p page, r *http.Request) error {
	switch {
	case p == pageSeveral:
		return deny(reason.Origin, "several Origin headers")
	case p == pageForeign:
		return deny(reason.Origin, "")
	case p == pageMissing && len(r.Header["Cookie"]) > 0:
		return deny(reason.Origin, "a cookie and no Origin header")
	}
	return nil
}

// originHook calls OriginFunc and keeps its answers. A policy has its own.
type originHook struct {
	ask func(ctx context.Context, origin, host string) (bool, error)

	mu   sync.Mutex // no other lock is taken while it is held
	kept map[originQuestion]originAnswer
}

type originQuestion struct{ origin, host string }

type originAnswer struct {
	ok    bool
	until time.Time
}

// How long the answers of an OriginFunc are kept, and how many of them.
const (
	keepOrigins = time.Minute
	maxOrigins  = 1024
)

// askHook asks OriginFunc about an origin that is not listed, in bounded time and with a place
// of its own. Without an OriginFunc, and for an origin that is no tuple or that is too long to be
// kept, the answer is no.
func (a *admission) askHook(from string) (bool, error) {
	h := a.origin.hook
	tuple, ok := origin.Canonical(from)
	if h == nil || !ok || len(tuple) > maxField || len(a.r.Host) > maxField {
		return false, nil
	}
	q := originQuestion{tuple, strings.ToLower(a.r.Host)}
	if ok, kept := h.get(q); kept {
		return ok, nil
	}
	if !a.client.valid() { // a piece that has not found it
		a.client, _ = a.policy.client.of(a.r)
	}
	// A page of any site can make its visitor's browser ask. So the call has a rate and places
	// that the visitor's own handshakes do not need.
	if err := a.g.state.rates.handshake(a.client, true, a.rates.Handshakes); err != nil {
		return false, err
	}
	fl, err := a.g.state.asking.fly(a.ctx, a.client, a.rates)
	if err != nil {
		return false, err
	}
	defer fl.done()
	fl.hold()
	ok, err = within(a.ctx, a.auth.cfg.VerifyTimeout, fl.done, func(ctx context.Context) (bool, error) {
		return h.ask(ctx, q.origin, q.host)
	})
	if err != nil {
		return false, deny(reason.Unavailable, "OriginFunc: "+errorText(err))
	}
	h.keep(q, ok)
	return ok, nil
}

func (h *originHook) get(q originQuestion) (ok, kept bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	answer, kept := h.kept[q]
	return answer.ok, kept && time.Now().Before(answer.until)
}

// keep keeps an answer. It makes room by dropping an arbitrary refusal, so that a flood of
// foreign origins does not make the hook be asked about the good ones again.
func (h *originHook) keep(q originQuestion, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept == nil {
		h.kept = map[originQuestion]originAnswer{}
	}
	if _, again := h.kept[q]; !again && len(h.kept) >= maxOrigins {
		h.drop()
	}
	h.kept[q] = originAnswer{ok, time.Now().Add(keepOrigins)}
}

// drop drops a refusal, or any answer if there is none. The caller holds mu.
func (h *originHook) drop() {
	var any originQuestion
	for q, answer := range h.kept {
		if any = q; !answer.ok || !time.Now().Before(answer.until) {
			break
		}
	}
	delete(h.kept, any)
}

// warnAbout reports origins that are allowed by a Config without a fault, and that may not be
// meant.
func (g *Guard) warnAbout(cfg Config) {
	for _, entry := range cfg.Origins {
		if suffix, ok := origin.Strangers(entry); ok {
			g.events.emit(audit.Event{Kind: audit.Warning, Reason: "shared_origin", Origin: entry,
				Detail: "strangers have names under " + suffix + ", too, and this wildcard lets their pages in"})
		}
		if !cfg.InsecureAllowHTTP && origin.Plain(entry) {
			g.events.emit(audit.Event{Kind: audit.Warning, Reason: "plain_origin", Origin: entry,
				Detail: "anybody on the network can change a page that comes without TLS, and then connect as its user"})
		}
	}
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

// NewHostCheck returns a check that the Host header has one of the names in Hosts. A request
// for another host gets a 421. The check stops DNS rebinding, with which an attacker makes a
// name of its own point to this server. Use it where no check of the origin stops that, as
// with AllowMissingOrigin. An entry is a host with or without a port, such as
// "app.example.com". An entry without a port matches any port, and a star stands for exactly
// one label.
//
// NewHostCheck uses the fields Hosts, LoopbackOnly, Proxies, Logger, OnEvent, Observer, Name and
// RequestID of cfg. A Hosts that is empty or nil is an error. A RequestCheck that is returned with
// an error refuses every request.
func NewHostCheck(cfg Config) (*RequestCheck, error) {
	if cfg.Hosts == nil {
		cfg.Hosts = []string{} // nil leaves the check out of a Guard only
	}
	var f faults
	p := alone(cfg, &f)
	p.host = newHostRule(cfg.Hosts, &f)
	return newCheck(p, cfg, stepHost, reason.Host, f.err())
}

// Proxies names the proxies in front of the server, and so decides which address is the
// client's. The zero value is for a server that clients reach directly. The client is then
// the peer of the TCP connection, and the guard believes no header.
type Proxies struct {
	// Trusted lists the prefixes, such as "10.0.0.0/8", and the addresses of the proxies whose
	// headers the guard believes. "unix" stands for all peers of a unix socket. Without that
	// entry a request over a unix socket gets a 403. The default, nil, trusts no proxy.
	Trusted []string

	// Header is the name of the header that carries the client's address. The default is
	// X-Forwarded-For. The guard reads X-Forwarded-For and Forwarded (RFC 7239) from the right,
	// past the addresses of trusted proxies. The first address that is not trusted is the
	// client. Any other header must be a single line with a single address. If a trusted proxy
	// sends no readable address, the proxy itself is the client.
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

// NewTLSCheck returns a check that refuses clear text (RFC 6455 §10.6) with a 403. It never
// redirects.
//
// The check believes a trusted proxy about the client's scheme. It reads X-Forwarded-Proto.
// If Proxies.Header is Forwarded, it reads instead the proto parameter of the element that
// the client's address comes from. The secure schemes are https and wss, in any letter case.
// If there are several values, in lines or between commas, each of them must be secure. An
// empty value is not secure.
//
// A request over TLS passes, unless a trusted proxy names a scheme that is not secure. Such
// a proxy encrypts what it took in clear text. A request without TLS passes if a trusted
// proxy names a secure scheme. For development, a request without TLS also passes from a
// loopback peer, if Proxies.Trusted is empty and the request has no header that a proxy
// adds. These headers are Via, Forwarded, X-Real-IP, the one that Proxies.Header names, and
// all whose names begin with X-Forwarded-. Every other request is refused.
// Config.InsecureAllowHTTP switches the check off, whatever the proxy says.
//
// NewTLSCheck uses the fields InsecureAllowHTTP, LoopbackOnly, Proxies, Logger, OnEvent, Observer,
// Name and RequestID of cfg. A RequestCheck that is returned with an error refuses every request.
func NewTLSCheck(cfg Config) (*RequestCheck, error) {
	var f faults
	p := alone(cfg, &f)
	p.insecureHTTP = cfg.InsecureAllowHTTP
	return newCheck(p, cfg, stepTLS, reason.InsecureTransport, f.err())
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
	return p.checkClearText(r)
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
func (p *policy) checkClearText(r *http.Request) error {
	peer, unix, err := clientip.Peer(r.RemoteAddr)
	trace := forwarded(r.Header, p.client.header)
	switch {
	case unix:
		return deny(reason.InsecureTransport, `no TLS, and the peer is a unix socket: if it is a proxy, name "unix" in Proxies.Trusted`)
	case trace != "" && p.loopbackOnly:
		return deny(reason.InsecureTransport, "no TLS, and "+trace+" shows that a proxy is in front, which LoopbackOnly does not allow")
	case trace != "":
		return deny(reason.InsecureTransport, "no TLS, and "+trace+" came from a peer that is no trusted proxy: if it is a proxy, name it in Proxies.Trusted")
	case !p.client.Proxied() && err == nil && peer.IsLoopback():
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

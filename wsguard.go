// Package wsguard makes a WebSocket endpoint safe by default.
//
// A [Guard] wraps one handler. It refuses handshakes in clear text, from foreign
// origins, without a valid credential or over a limit; lets only messages of the
// right form, type, size, rate and schema pass; notices peers that are silent,
// slow or gone; ends every connection once, with one cause and one close code;
// and reports all of it to log/slog.
//
//	guard, err := wsguard.New(wsguard.Config{
//		Origins:      []string{"https://app.example.com"},
//		Subprotocols: []string{"chat"}, // new WebSocket(url, ["chat", "bearer." + token])
//		Auth:         wsguard.AuthConfig{Verifier: verifier},
//	})
//	…
//	http.Handle("/ws", guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
//		typ, msg, err := c.Read(ctx) // msg is valid until the next Read
//		…
//	}))
//
// Zero values are the secure defaults, [Off] switches a limit off, and what
// weakens security is named Insecure. Most users need [New], [Guard.Handler],
// [Conn.Read], [Conn.Write] or [Conn.Send], and [Guard.Shutdown].
//
// Each guard can also stand alone in front of any handler: a [Check] of origin,
// host or transport, an [Authenticator], a [ConnCap]. Package reason has what a
// refusal or an end can be due to, audit what a Guard reports about itself.
package wsguard

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/penalty"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// Config is what New needs to know. Origins and Auth have to be set; every
// other zero value is a default.
type Config struct {
	// Origins that may connect (RFC 6454, RFC 6455 §10.2): scheme, host and,
	// unless it is the default, port: "https://app.example.com". A star stands
	// for exactly one label: "https://*.example.com". There are no other patterns.
	//
	// "null" must be listed to be allowed. It is the origin of every sandboxed
	// frame, whoever's page that is in, so New refuses it beside a
	// TokenSources.Cookie, and a login of Guard.TicketHandler is not asked for it.
	Origins            []string
	AllowMissingOrigin bool // programs without an Origin and without a cookie; needs Hosts

	// InsecureReportOrigin reports a foreign origin instead of refusing it. What the
	// browser sends by itself still does not count for a foreign page: a
	// TokenSources.Cookie is a 401, and a login of Guard.TicketHandler is not asked.
	// Attach and the application see the request as it came.
	InsecureReportOrigin bool

	// Proxies says what stands in front of the server.
	Proxies Proxies

	// InsecureAllowHTTP admits clear text from every peer, over the network too,
	// and whatever a trusted proxy says about the client's scheme. By default such
	// requests get a 403; NewTLSCheck says which ones pass.
	InsecureAllowHTTP bool

	// Hosts lists the names under which the server answers, as NewHostCheck takes
	// them. A request for another Host gets a 421. The default, nil, is no check;
	// an empty list that is not nil is an error.
	Hosts []string

	Auth      AuthConfig
	Caps      CapConfig
	Rates     RateConfig
	Penalties PenaltyConfig
	Messages  MessageConfig
	Heartbeat HeartbeatConfig
	Send      SendConfig

	// Subprotocols lists the names for Sec-WebSocket-Protocol that the endpoint
	// serves, the preferred one first. They are compared to the letter. The first
	// one that a client offers is named in the answer, and is Conn.Subprotocol. A
	// page that offers some, of which none is listed, gets a 400, because its browser
	// would fail the connection. A client without an Origin is let in, without a
	// subprotocol, and so is every client that offers none. Entries that begin with
	// Auth.Sources.Subprotocol are credentials and no offers; none may be listed.
	// The default is none.
	Subprotocols []string

	// Attach runs after every check and before the upgrade, on the request's
	// goroutine, without the credentials that end up in logs. Its value is
	// Conn.Value; an io.Closer is closed once, when the connection and its
	// handler are done or the upgrade fails. An error is a 403, or a 503 if it
	// wraps ErrUnavailable or its context's, which ends after VerifyTimeout and
	// has to be honoured.
	//
	// After a first-message credential Attach runs on the connection's goroutine,
	// and its errors close with 3003 and 1013. Its request then has no context
	// values, no parsed form, and of the header neither Cookie, Authorization and
	// Proxy-Authorization nor what belongs to the handshake or to one hop.
	Attach func(*http.Request, Principal) (any, error)

	CloseCodes map[*reason.Reason]StatusCode // see reason.GraphQL
	Logger     *slog.Logger                  // default slog.Default(); repeated refusals are sampled
	OnEvent    func(audit.Event)             // gets every event where it happens: it must not block
	Pieces     Pieces                        // that exist already; one that is set replaces what is said here
}

// Pieces are guards for handlers and Guards to share: slots, failed credentials
// and tickets are then counted once. Revoke, Kick and Shutdown stay a Guard's own.
type Pieces struct {
	Origin *Check // of NewOriginCheck
	Host   *Check // of NewHostCheck
	TLS    *Check // of NewTLSCheck
	Auth   *Authenticator
	Cap    *ConnCap
}

// Guard guards WebSocket endpoints. It is safe for concurrent use.
type Guard struct {
	born     time.Time // the sweeper's times count from here
	cap      *ConnCap
	events   *sink
	reporter reporter
	sessions *sessions
	queues   queues
	endings  chan struct{}
	crowd    crowd
	evicted  atomic.Uint64 // as last reported
	box      *penalty.Box
	endpoint *Endpoint
	now      atomic.Pointer[setup]

	setting   sync.Mutex // one Reconfigure at a time
	pieces    Pieces     // as New had them
	endpoints []*Endpoint
	wraps     bool // setting: Wrap has been called
}

// setup is what a Config has become. It is not changed: Reconfigure makes another,
// and a handshake sees one of them from its beginning to its end.
type setup struct {
	client    identify
	origin    *Check
	host      *Check // nil: not checked
	tls       *Check
	auth      *Authenticator
	caps      CapConfig // resolved
	rates     *rates
	penalties PenaltyConfig   // resolved
	heartbeat HeartbeatConfig // resolved
	send      SendConfig      // resolved
	codes     map[*reason.Reason]StatusCode
	attach    func(*http.Request, Principal) (any, error) // of endpoints without one
	explained chan struct{}                               // refusals that are told after an upgrade
}

const (
	maxEndings  = 256      // endings that wait for their peer at once
	lingerBytes = 16 << 20 // that one of them reads and throws away
)

// New returns a Guard, or every mistake in cfg at once, each a *ConfigError.
func New(cfg Config) (*Guard, error) {
	g := &Guard{
		born:    time.Now(),
		events:  newSink(cfg.Logger, cfg.OnEvent),
		endings: make(chan struct{}, maxEndings),
		pieces:  cfg.Pieces,
	}
	g.reporter = reporter{g.events, g}
	g.sessions = newSessions(g)
	if g.cap = cfg.Pieces.Cap; g.cap == nil {
		g.cap = &ConnCap{reporter: g.reporter, clients: map[clientKey]int{}, networks: map[netip.Prefix]int{}, subjects: map[string]int{}}
	}
	g.box = penalty.New(penalty.Config{})
	g.endpoint = &Endpoint{g: g}
	g.endpoints = []*Endpoint{g.endpoint}
	if err := g.configure(cfg); err != nil {
		return nil, err
	}
	return g, nil
}

// Reconfigure puts cfg in the place of the Config before, for each handshake and
// each message to come; the timeouts, queues and frames of connections that are
// open stay, and so does what buckets owe. When cfg has a mistake all stays.
// Pieces, Logger, OnEvent and whether there are Tickets are New's.
func (g *Guard) Reconfigure(cfg Config) error {
	cfg.Pieces = g.pieces
	return g.configure(cfg)
}

func (g *Guard) configure(cfg Config) error {
	g.setting.Lock()
	defer g.setting.Unlock()
	var f faults
	s := g.build(cfg, &f)
	own := EndpointConfig{cfg.Subprotocols, cfg.Messages, cfg.Attach}
	states := []*endpointState{g.endpoint.build(own, s, &f)}
	for _, e := range g.endpoints[1:] {
		states = append(states, e.build(e.cfg, s, &f))
	}
	old := g.now.Load()
	if old != nil && (old.auth.tickets == nil) != (s.auth.tickets == nil) {
		f.add("Auth.Tickets", "", "cannot be switched on or off by Reconfigure")
	}
	if g.wraps && s.auth.cfg.Sources.FirstMessage {
		f = append(f, errWrapFirstMessage())
	}
	if err := f.err(); err != nil {
		return err
	}
	// Nothing can fail from here on.
	g.endpoint.cfg = own
	if old != nil {
		s.succeed(old)
	}
	if g.pieces.Cap == nil {
		g.cap.set(s.caps, s.client)
	}
	g.box.Set(s.penalties.box())
	g.now.Store(s)
	for i, e := range g.endpoints {
		e.now.Store(states[i])
	}
	g.sessions.reconfigured()
	return nil
}

// succeed takes over what old has counted.
func (s *setup) succeed(old *setup) {
	s.origin.succeed(old.origin)
	s.host.succeed(old.host)
	s.tls.succeed(old.tls)
	s.auth.succeed(old.auth)
	if cap(s.explained) == cap(old.explained) {
		s.explained = old.explained
	}
	s.rates.succeed(old.rates)
}

// build resolves cfg, and changes nothing.
func (g *Guard) build(cfg Config, f *faults) *setup {
	s := &setup{client: cfg.Proxies.resolver(f), attach: cfg.Attach}
	if s.origin = cfg.Pieces.Origin; s.origin == nil {
		s.origin = newOriginCheck(cfg, f)
		s.origin.sink = g.events
	}
	if s.host = cfg.Pieces.Host; s.host == nil {
		s.host = newHostCheck(cfg.Hosts, f)
		s.host.sink = g.events
	}
	if s.origin.missing && s.host.off {
		f.add("AllowMissingOrigin", "", "needs a Hosts list: without an Origin nothing else stops DNS rebinding")
	}
	if s.tls = cfg.Pieces.TLS; s.tls == nil {
		s.tls = newTLSCheck(s.client, cfg.InsecureAllowHTTP)
		s.tls.sink = g.events
	}
	for _, c := range []struct {
		kind  checkKind
		check *Check
	}{{checkOrigin, s.origin}, {checkHost, s.host}, {checkTLS, s.tls}} {
		if c.check.kind != c.kind {
			f.add("Pieces."+string(c.kind), "", "is a check of something else")
		}
	}
	if s.auth = cfg.Pieces.Auth; s.auth == nil {
		s.auth = newAuthenticator(cfg.Auth, s.client, f)
		s.auth.reporter = g.reporter
	}
	if s.origin.latest().null && s.auth.latest().cfg.Sources.Cookie != "" {
		field := "Origins"
		if cfg.Pieces.Origin != nil {
			field = "Pieces.Origin"
		}
		f.add(field, "null", "with Auth.Sources.Cookie it would let in the frames of every site: take a ticket or a token for pages of the origin null")
	}
	s.caps = cfg.Caps.resolve(f)
	s.explained = make(chan struct{}, s.auth.cfg.MaxExplained)
	s.rates = newRates(cfg.Rates, f)
	s.penalties = cfg.Penalties.resolve(f)
	s.heartbeat = cfg.Heartbeat.resolve(f)
	s.send = cfg.Send.resolve(f)
	s.codes = maps.Clone(cfg.CloseCodes)
	for why, code := range s.codes {
		if why == nil || why.Code() == 0 || why == reason.Closed || why == reason.PeerClosed {
			f.add("CloseCodes", why, "not a reason of the guard's to close")
		} else if !sendable(code) {
			f.add("CloseCodes", int(code), "cannot be sent")
		}
	}
	return s
}

// EndpointConfig is what endpoints of one Guard need not share. Attach defaults to
// the Guard's, the others to the package's defaults.
type EndpointConfig struct {
	Subprotocols []string
	Messages     MessageConfig
	Attach       func(*http.Request, Principal) (any, error)
}

// Endpoint is an endpoint of a Guard, with messages of its own.
type Endpoint struct {
	g   *Guard
	cfg EndpointConfig // g.setting
	now atomic.Pointer[endpointState]
}

// endpointState is what an EndpointConfig has become, within a setup. It is not
// changed.
type endpointState struct {
	*setup
	subprotocols []string
	messages     MessageConfig // resolved
	attach       func(*http.Request, Principal) (any, error)
	wire         *wire.Config
}

// Endpoint returns a further endpoint of g, or every mistake in cfg at once, each
// a *ConfigError.
func (g *Guard) Endpoint(cfg EndpointConfig) (*Endpoint, error) {
	g.setting.Lock()
	defer g.setting.Unlock()
	e := &Endpoint{g: g}
	if err := e.set(cfg); err != nil {
		return nil, err
	}
	g.endpoints = append(g.endpoints, e)
	return e, nil
}

// Reconfigure is Guard.Reconfigure for what is this endpoint's own.
func (e *Endpoint) Reconfigure(cfg EndpointConfig) error {
	e.g.setting.Lock()
	defer e.g.setting.Unlock()
	return e.set(cfg)
}

func (e *Endpoint) set(cfg EndpointConfig) error {
	var f faults
	state := e.build(cfg, e.g.now.Load(), &f)
	if err := f.err(); err != nil {
		return err
	}
	e.cfg = cfg
	e.now.Store(state)
	e.g.sessions.reconfigured()
	return nil
}

func (e *Endpoint) build(cfg EndpointConfig, s *setup, f *faults) *endpointState {
	st := &endpointState{setup: s, subprotocols: slices.Clone(cfg.Subprotocols), attach: cfg.Attach}
	if st.attach == nil {
		st.attach = s.attach
	}
	auth := s.auth
	for i, s := range st.subprotocols {
		if !isToken(s) {
			f.add("Subprotocols", s, "not a token of RFC 9110")
		} else if slices.Contains(st.subprotocols[:i], s) {
			f.add("Subprotocols", s, "listed twice")
		} else if prefix := auth.cfg.Sources.Subprotocol; prefix != "" && strings.HasPrefix(s, prefix) {
			f.add("Subprotocols", s, "begins with Auth.Sources.Subprotocol: it would be taken for a credential")
		}
	}
	st.messages = cfg.Messages.resolve(st.subprotocols, f)
	s.rates.checkBytes(st.messages.MaxBytes, f)
	h, control := s.heartbeat, st.messages.Control
	if control.off() {
		control = Rate{}
	}
	st.wire = &wire.Config{
		PingInterval: h.Ping, PongTimeout: h.Pong, IdleTimeout: h.Idle, MessageTimeout: st.messages.Timeout,
		WriteTimeout: h.Write, CloseGrace: h.CloseGrace, Linger: h.Linger, LingerBytes: lingerBytes,
		MaxFragments: st.messages.MaxFragments, ControlRate: control.PerSecond, ControlBurst: control.Burst,
		Endings: e.g.endings,
	}
	return st
}

// Handler guards and upgrades each request, and runs fn on a goroutine of its own
// after ServeHTTP has returned, so that nothing of the request is kept. ctx
// carries no request values; it ends when the cause of the connection's end is
// fixed, and context.Cause tells it.
//
// When fn returns, the connection is closed: with 1000 for nil, with the code
// of a *[CloseError], with 1011 for any other error and for a panic. Once a
// cause is fixed, what fn returns changes nothing.
func (g *Guard) Handler(fn func(ctx context.Context, c *Conn) error) http.Handler {
	return g.endpoint.Handler(fn)
}

// Accept guards and upgrades one request, for those who need the request's own
// middleware around the connection: the loop is theirs, and so is the end; see
// [Conn.End]. What is still open when the request's context ends is closed with
// 1011. When Accept returns an error, the refusal has been written.
func (g *Guard) Accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	return g.endpoint.Accept(w, r)
}

// Handler is Guard.Handler for this endpoint.
func (e *Endpoint) Handler(fn func(ctx context.Context, c *Conn) error) http.Handler {
	if fn == nil {
		panic("wsguard: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, r, err := e.accept(w, r, 2)
		if err != nil {
			return
		}
		go c.run(fn, r)
	})
}

// Accept is Guard.Accept for this endpoint.
func (e *Endpoint) Accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	ctx := r.Context()
	c, r, err := e.accept(w, r, 1)
	if err != nil {
		return nil, err
	}
	if c.awaiting.Load() {
		returned := false
		defer func() {
			if !returned {
				c.fault("a hook ended the goroutine of Accept")
			}
		}()
		err := c.authenticate(ctx, r)
		returned = true
		if err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.end(reason.Internal, "still open when its request ended") })
	context.AfterFunc(c.ctx, func() { stop() })
	if c.w.Cause() != nil {
		return nil, c.closed()
	}
	return c, nil
}

// Draining reports whether Shutdown has been called; readiness probes ask.
func (g *Guard) Draining() bool { return g.sessions.isDraining() }

// Conns returns how many slots are held, by connections and by handshakes.
func (g *Guard) Conns() int { return g.cap.conns() }

// Pieces are the Guard's own, to stand in front of other middleware. Host is nil
// when hosts are not checked; with TokenSources.FirstMessage, Auth
// lets pass who has no credential yet.
func (g *Guard) Pieces() Pieces {
	s := g.now.Load()
	p := Pieces{Origin: s.origin, Host: s.host, TLS: s.tls, Auth: s.auth, Cap: g.cap}
	if s.host.off {
		p.Host = nil
	}
	return p
}

// accept does everything up to the upgrade, and upgrades. The request that it returns is
// for Attach, if that is still to come.
func (e *Endpoint) accept(w http.ResponseWriter, r *http.Request, holders int32) (*Conn, *http.Request, error) {
	a := e.admission(r)
	defer e.g.sessions.left()
	var c *Conn
	err := a.guarded(w, holders, func() (err error) {
		if c, err = a.admit(w); err == nil {
			err = a.upgrade(w, c, holders)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return c, a.attachLater, nil
}

// admission begins a handshake.
func (e *Endpoint) admission(r *http.Request) *admission {
	a := &admission{endpointState: e.now.Load(), e: e, g: e.g, r: r}
	a.shared()
	return a
}

// guarded runs the steps of a handshake. A refusal is answered and reported, and what was
// taken is given back, also when a hook or a wrapper panics. The caller must call
// sessions.left.
func (a *admission) guarded(w http.ResponseWriter, holders int32, steps func() error) error {
	admitted, refused := false, false
	defer func() {
		if !admitted && !refused {
			a.cutOff()
		}
	}()
	defer func() {
		if !admitted {
			a.undo(holders)
		}
	}()
	err := error(deny(reason.Draining, ""))
	if a.g.sessions.entered() {
		err = steps()
	}
	if err != nil {
		ev := audit.Event{Subject: a.principal.Subject}
		if a.client.valid() {
			ev.Client = a.client.String()
		}
		if a.answered || a.explain(w, err, &ev) {
			w = discardResponse{}
		}
		refused = true
		a.g.reporter.refuse(w, a.r, err, ev)
		a.offended(asDenied(err))
		return err
	}
	admitted = true
	return nil
}

// explain answers a refusal so that a page can see it: a script learns no status
// of a handshake, but a close code. There is room for few; the others get theirs.
func (a *admission) explain(w http.ResponseWriter, err error, ev *audit.Event) bool {
	d, g := asDenied(err), a.g
	var why *reason.Reason
	switch status := d.statusCode(); {
	case !a.known || d.Reason == reason.HandshakeRate:
		return false // the flood itself is not to be dear
	case a.subprotocol == "" && ofPage(a.r.Header) && len(headerTokens(a.r.Header, "Sec-Websocket-Protocol")) > 0:
		return false // its browser would fail a 101 that names no subprotocol
	case status == http.StatusUnauthorized:
		why = reason.Unauthenticated // whatever is wrong with it
	case status == http.StatusTooManyRequests:
		why = d.Reason
	default:
		return false
	}
	code := g.closeCode(why)
	if code == 0 {
		code = websocket.StatusTryAgainLater
	}
	select {
	case a.explained <- struct{}{}:
	default:
		return false
	}
	told := false
	defer func() {
		if !told { // a wrapper may panic, too
			<-a.explained
		}
	}()
	c, err := wire.Upgrade(w, a.auth.strip(a.r), a.subprotocol, a.wire)
	if err != nil {
		return !is(err, wire.ErrNotHijackable)
	}
	told = true
	token := why.Token()
	ev.Code = code
	g.sessions.entered() // a drain waits for it
	c.End(&CloseError{Code: code, Reason: token, err: why}, int(code), token, func() {}, func() {
		<-a.explained
		g.sessions.left()
	})
	return true
}

// auth is the Authenticator as it is by now.
func (g *Guard) auth() *Authenticator { return g.now.Load().auth.latest() }

func (g *Guard) closeCode(why *reason.Reason) StatusCode {
	if own, ok := g.now.Load().codes[why]; ok {
		return own
	}
	return why.Code()
}

// admission is one handshake on its way.
type admission struct {
	*endpointState
	e *Endpoint
	g *Guard
	r *http.Request

	// The pieces: the setup's, or what those that are shared are by now.
	origin, host, tls *Check
	auth              *Authenticator

	client      client
	subprotocol string
	known       bool // that host, transport and origin are right
	fl          *flight
	leases      []*Lease // all of them move to the Conn
	lease       *Lease   // of this Guard's cap
	own         bool     // and made here, not by a piece in front
	principal   Principal
	session     *session
	value       any
	conn        *Conn
	answered    bool
	attachLater *http.Request
	stripped    *http.Request // without the credentials that end up in logs
	await       bool          // the credential is to be the first message
	wrapped     bool          // for Guard.Wrap
}

func (a *admission) shared() {
	a.origin, a.host, a.tls, a.auth = a.setup.origin, a.setup.host, a.setup.tls, a.setup.auth
	p := &a.g.pieces
	if p.Origin != nil {
		a.origin = p.Origin.latest()
	}
	if p.Host != nil {
		a.host = p.Host.latest()
	}
	if p.TLS != nil {
		a.tls = p.TLS.latest()
	}
	if p.Auth != nil {
		a.auth = p.Auth.latest()
	}
}

// handshakeRate charges the handshake, or the sale of a ticket, to its client.
func (a *admission) handshakeRate() error {
	err := a.rates.handshake(a.client)
	if err != nil && a.rates.cfg.ReportHandshakes {
		a.g.reporter.report(a.r, err)
		return nil
	}
	return err
}

// land gives the place in flight back.
func (a *admission) land() {
	a.fl.done()
	a.fl = nil
}

// cutOff reports a handshake that was neither admitted nor refused.
func (a *admission) cutOff() {
	ev := audit.Event{Kind: audit.Warning, Err: reason.Internal, Reason: "panic", Detail: "a hook or a ResponseWriter ended a handshake"}
	ev.Client, ev.Subject, ev.Origin, ev.Host = peerOf(a.r), a.principal.Subject, a.r.Header.Get("Origin"), a.r.Host
	if a.client.valid() {
		ev.Client = a.client.String()
	}
	a.g.events.emit(ev)
}

func (a *admission) undo(holders int32) {
	a.land()
	if a.conn != nil { // it has the rest
		a.conn.end(reason.Internal, "the handshake was cut off")
		for range holders - 1 {
			a.conn.done()
		}
		return
	}
	if a.session != nil {
		a.g.sessions.unregister(a.session)
	}
	if a.own {
		a.lease.Release()
	}
	closeValue(a.value)
}

// admit runs the steps of a handshake up to the upgrade. Each of them may refuse.
func (a *admission) admit(w http.ResponseWriter) (*Conn, error) {
	g, r := a.g, a.r
	if err := checkUpgrade(r); err != nil {
		return nil, err
	}
	if !wire.Hijackable(w) {
		return nil, deny(reason.NotHijackable, "the ResponseWriter has neither Hijack nor Unwrap")
	}
	var err error
	if a.client, err = a.setup.client.of(r); err != nil {
		return nil, err
	}
	a.notice()
	if err := g.banned(a.client); err != nil {
		return nil, err
	}
	m := marksOf(r)
	for _, c := range []*Check{a.host, a.tls, a.origin} {
		if !m.has(c.line) {
			if err := c.check(r); err != nil {
				return nil, err
			}
		}
	}
	if a.subprotocol, err = a.negotiate(r, a.auth, a.wrapped); err != nil {
		return nil, err
	}
	a.known = !a.origin.foreign(r)
	if err := a.handshakeRate(); err != nil {
		return nil, err
	}
	if a.fl, err = a.rates.inFlight.fly(a.client); err != nil {
		return nil, err
	}
	for _, l := range m.leases {
		if l.cap == g.cap {
			a.lease = l
		}
	}
	a.leases = m.leases
	if a.lease == nil {
		if a.lease, err = g.cap.acquire(a.client, r); err != nil {
			return nil, err
		}
		a.own = true
		a.leases = append(a.leases[:len(a.leases):len(a.leases)], a.lease)
	}
	await := false
	own := a.known && a.origin.page(r)
	who, known := m.principal(a.auth.line)
	switch {
	case known && who.cookie && !own: // a piece in front went by another origin check
		err = foreignCookie()
		if a.auth.cfg.InsecureReportOnly {
			g.reporter.report(r, err)
			who, err = Principal{}, nil
		}
	case !known:
		who, await, err = a.auth.authenticate(r, a.client, a.fl, own)
	}
	if err != nil {
		return nil, err
	}
	a.principal = who
	a.stripped = a.auth.strip(r)
	if await {
		if err := a.lease.await(r); err != nil {
			return nil, err
		}
	} else {
		if err := a.lease.bind(a.principal.Subject, r); err != nil {
			return nil, err
		}
		// Registered before the last look: a revocation that races with
		// the handshake finds the session, or is found here.
		a.session = g.sessions.register(a.principal)
		if g.sessions.revoked(a.principal) {
			return nil, deny(reason.Revoked, "")
		}
		if a.value, err = a.callAttach(a.stripped, a.principal); err != nil {
			return nil, err
		}
		if a.session.isKilled() {
			return nil, deny(reason.Revoked, "")
		}
	}
	if g.Draining() {
		return nil, deny(reason.Draining, "")
	}
	c := &Conn{
		g: g, e: a.e, st: a.endpointState, auth: a.auth, id: newID(), client: a.client, origin: retained(r.Header.Get("Origin")), host: retained(r.Host),
		subprotocol: a.subprotocol, value: a.value, session: a.session, leases: a.leases, lease: a.lease,
	}
	c.reading = inbound{c: c, rule: anyKind}
	c.reading.fit(a.endpointState)
	p := a.principal // a pointer into a would keep the request
	c.principal.Store(&p)
	a.await = await
	a.land() // nothing is waited for any more
	return c, nil
}

// upgrade answers 101 and opens the connection to the application.
func (a *admission) upgrade(w http.ResponseWriter, c *Conn, holders int32) (err error) {
	c.w, err = wire.Upgrade(w, a.stripped, a.subprotocol, a.wire)
	if err != nil {
		// Once the connection is taken nothing more can be answered.
		a.answered = !is(err, wire.ErrNotHijackable)
		return denyCause(reason.NotHijackable, err)
	}
	for _, l := range a.leases {
		l.move()
	}
	if a.await {
		a.attachLater = detached(a.stripped)
	}
	a.conn = c
	c.start(a.await, holders)
	return nil
}

// Package wsguard makes a WebSocket endpoint safe by default.
//
// A [Guard] wraps one handler. It refuses handshakes in clear text, from
// foreign origins, without a valid credential or over a limit; it reads only
// well-formed messages of the right type, size, rate and schema; it notices
// peers that are silent, slow or gone; it ends every connection with one cause
// and one close code; and it reports all of it to log/slog.
//
//	guard, err := wsguard.New(wsguard.Config{
//		Origins: []string{"https://app.example.com"},
//		Auth:    wsguard.AuthConfig{Verifier: verifier},
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	http.Handle("/ws", guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
//		for {
//			typ, msg, err := c.Read(ctx) // msg is valid until the next Read
//			if err != nil {
//				return err
//			}
//			if err := c.Write(ctx, typ, msg); err != nil {
//				return err
//			}
//		}
//	}))
//
// Zero values are the secure defaults, [Off] switches a limit off, and what
// weakens security is named Insecure. Most users need [New], [Guard.Handler],
// [Conn.Read], [Conn.Write] or [Conn.Send], and [Guard.Shutdown].
//
// Each guard can also be used alone, in front of any handler: [OriginGuard],
// [HostGuard], [TLSGuard], [Authenticator], [ConnCap]. A Guard runs all of them
// in the right order: cheap checks first, and nothing of the request believed
// before it was checked. A check that a piece of the same Guard has made
// already is not made again.
package wsguard

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/internal/wire"
)

// Config is what New needs to know. Origins and Auth have to be set; every
// other zero value is a default.
type Config struct {
	// Origins are the web origins that may connect; see OriginConfig. An
	// empty list is an error unless AllowMissingOrigin is set.
	Origins []string

	// AllowMissingOrigin admits clients that are no browser: without an
	// Origin header, and without a cookie. It needs Hosts.
	AllowMissingOrigin bool

	// InsecureReportOrigin reports a foreign origin, and lets it pass.
	InsecureReportOrigin bool

	// Hosts are the hosts that are served; see NewHostGuard. Nil: not
	// checked, for the origin list stops DNS rebinding already.
	Hosts []string

	// InsecureAllowHTTP admits clear text from everybody; see TLSGuard for
	// what is admitted without.
	InsecureAllowHTTP bool

	// Proxies are what stands in front of the server.
	Proxies Proxies

	Auth      AuthConfig
	Caps      CapConfig
	Rates     RateConfig
	Messages  MessageConfig
	Heartbeat HeartbeatConfig

	// Subprotocols are what the endpoint speaks, in order of preference,
	// compared to the letter. None negotiated is no error; see
	// MessageConfig.Validators.
	Subprotocols []string

	// Attach runs after every check and before the upgrade, on the
	// request's goroutine. Its value becomes Conn.Value; one that is an
	// io.Closer is closed once, when the connection has ended or the
	// upgrade fails. An error refuses with 403. The request is stripped of
	// credentials that end up in logs. After a first-message credential it
	// runs on the connection's goroutine instead, with a copy of the request
	// that has no context values, and an error closes with 3003.
	Attach func(*http.Request, Principal) (any, error)

	// CloseCodes changes the close codes of the sentinels that are its keys;
	// CloseCodesGraphQL and CloseCodesPolicy are such maps.
	CloseCodes map[error]StatusCode

	// Logger gets the events: open and close at Info, the others at Warn
	// and, of one kind and reason, at most 5 a second with a burst of 20,
	// the rest counted. Default slog.Default().
	Logger *slog.Logger

	// OnEvent gets every event, from the goroutine that it happens on: it
	// must not block. A panic in it is swallowed.
	OnEvent func(Event)

	// Pieces are guards that exist already, for handlers and Guards to
	// share. One that is set replaces what Config says of it.
	Pieces Pieces
}

// Pieces are guards made by NewOriginGuard and its like.
type Pieces struct {
	Origin *OriginGuard
	Host   *HostGuard
	TLS    *TLSGuard
	Auth   *Authenticator
	Cap    *ConnCap
}

// Guard guards WebSocket endpoints. It is safe for concurrent use.
type Guard struct {
	born      time.Time // the sweeper's times count from here
	client    *clientip.Resolver
	origin    *OriginGuard
	host      *HostGuard // nil: not checked
	tls       *TLSGuard
	auth      *Authenticator
	cap       *ConnCap
	rates     *rates
	heartbeat HeartbeatConfig // resolved
	codes     map[error]StatusCode
	events    *sink
	reporter  reporter
	sessions  *sessions
	endings   chan struct{}
	attach    func(*http.Request, Principal) (any, error)
	endpoint  *Endpoint
}

const (
	maxEndings  = 256      // endings that wait for their peer at once
	lingerBytes = 16 << 20 // that one of them reads and throws away
)

// New returns a Guard, or every mistake in cfg at once, each a *ConfigError.
// It keeps no part of cfg that the caller can change.
func New(cfg Config) (*Guard, error) {
	var f faults
	sink := newSink(cfg.Logger, cfg.OnEvent)
	g := &Guard{
		born:     time.Now(),
		events:   sink,
		reporter: reporter{sink},
		endings:  make(chan struct{}, maxEndings),
		attach:   cfg.Attach,
	}
	g.client = cfg.Proxies.resolver(&f)
	if g.origin = cfg.Pieces.Origin; g.origin == nil {
		if cfg.AllowMissingOrigin && len(cfg.Hosts) == 0 && cfg.Pieces.Host == nil {
			f.add("AllowMissingOrigin", "", "needs a Hosts list: without an Origin nothing else stops DNS rebinding")
		}
		g.origin = newOriginGuard(OriginConfig{cfg.Origins, cfg.AllowMissingOrigin, cfg.InsecureReportOrigin}, &f)
		g.origin.sink = sink
	}
	if g.host = cfg.Pieces.Host; g.host == nil {
		if g.host = newHostGuard(cfg.Hosts, &f); g.host != nil {
			g.host.sink = sink
		}
	}
	if g.tls = cfg.Pieces.TLS; g.tls == nil {
		g.tls = &TLSGuard{reporter{sink}, g.client, cfg.InsecureAllowHTTP}
	}
	if g.auth = cfg.Pieces.Auth; g.auth == nil {
		g.auth = newAuthenticator(cfg.Auth, g.client, &f)
		g.auth.sink = sink
	}
	if g.cap = cfg.Pieces.Cap; g.cap == nil {
		g.cap = newConnCap(cfg.Caps, g.client, &f)
		g.cap.sink = sink
	}
	g.rates = newRates(cfg.Rates, &f)
	g.heartbeat = cfg.Heartbeat.resolve(&f)
	g.codes = maps.Clone(cfg.CloseCodes)
	for err, code := range g.codes {
		if r, ok := err.(*refusal); !ok || r.code == 0 {
			f.add("CloseCodes", err, "not a reason of this package's to close")
		} else if !sendable(code) {
			f.add("CloseCodes", int(code), "cannot be sent")
		}
	}
	g.sessions = newSessions(g)
	g.endpoint = g.newEndpoint(EndpointConfig{cfg.Subprotocols, cfg.Messages, cfg.Attach}, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	return g, nil
}

// EndpointConfig is what endpoints of one Guard need not share. What is not
// set is the package's default, but Attach, which is the Guard's.
type EndpointConfig struct {
	Subprotocols []string
	Messages     MessageConfig
	Attach       func(*http.Request, Principal) (any, error)
}

// Endpoint is an endpoint of a Guard: limits, credentials and sessions are the
// Guard's, messages its own.
type Endpoint struct {
	g            *Guard
	subprotocols []string
	messages     MessageConfig // resolved
	attach       func(*http.Request, Principal) (any, error)
	wire         *wire.Config
}

// Endpoint returns a further endpoint. It panics when cfg is wrong, as
// http.Handle does: an endpoint is made where the program starts.
func (g *Guard) Endpoint(cfg EndpointConfig) *Endpoint {
	var f faults
	if cfg.Attach == nil {
		cfg.Attach = g.attach
	}
	e := g.newEndpoint(cfg, &f)
	if err := f.err(); err != nil {
		panic(err)
	}
	return e
}

func (g *Guard) newEndpoint(cfg EndpointConfig, f *faults) *Endpoint {
	e := &Endpoint{g: g, subprotocols: slices.Clone(cfg.Subprotocols), attach: cfg.Attach}
	for i, s := range e.subprotocols {
		if !isToken(s) {
			f.add("Subprotocols", s, "not a token of RFC 9110")
		} else if slices.Contains(e.subprotocols[:i], s) {
			f.add("Subprotocols", s, "listed twice")
		}
	}
	e.messages = cfg.Messages.resolve(e.subprotocols, f)
	g.rates.checkBytes(e.messages.MaxBytes, f)
	h, control := g.heartbeat, e.messages.Control
	if control.off() {
		control = Rate{}
	}
	e.wire = &wire.Config{
		PingInterval: h.Ping, PongTimeout: h.Pong, IdleTimeout: h.Idle, MessageTimeout: e.messages.Timeout,
		WriteTimeout: h.Write, CloseGrace: h.CloseGrace, Linger: h.Linger, LingerBytes: lingerBytes,
		MaxFragments: e.messages.MaxFragments, ControlRate: control.PerSecond, ControlBurst: control.Burst,
		Endings: g.endings,
	}
	return e
}

// Handler returns a handler that guards and upgrades each request, and runs fn
// for the connection on a goroutine of its own after ServeHTTP has returned,
// so that nothing of the request is kept. ctx carries no request values; it
// ends when the cause of the connection's end is fixed, and context.Cause
// tells it.
//
// When fn returns, the connection is closed: with 1000 for nil, with the code
// of a *[CloseError], with 1011 for any other error and for a panic. Whatever
// fn returns changes nothing once a cause is fixed.
func (g *Guard) Handler(fn func(ctx context.Context, c *Conn) error) http.Handler {
	return g.endpoint.Handler(fn)
}

// Accept guards and upgrades one request. It is for those who need the
// request's own middleware around the connection: the loop is theirs, on the
// request's goroutine, and so is the end; see [Conn.End]. A connection that is
// still open when the request's context ends is closed with 1011. When Accept
// returns an error, the refusal has been written.
func (g *Guard) Accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	return g.endpoint.Accept(w, r)
}

// Handler is Guard.Handler for this endpoint.
func (e *Endpoint) Handler(fn func(ctx context.Context, c *Conn) error) http.Handler {
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
		if err := c.authenticate(ctx, r); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.end(ErrInternal, "still open when its request ended") })
	context.AfterFunc(c.ctx, func() { stop() })
	if c.w.Cause() != nil {
		return nil, c.closed()
	}
	return c, nil
}

// Draining reports whether Shutdown has been called; readiness probes ask.
func (g *Guard) Draining() bool { return g.sessions.isDraining() }

// Conns returns how many slots are held: by connections, and by handshakes
// that have got that far.
func (g *Guard) Conns() int { return g.cap.Conns() }

// Revoke ends the sessions of a subject with 3000 revoked and makes void what
// was issued to it so far: its tickets, and credentials with no IssuedAt or an
// earlier one. It also stops handshakes that are under way. Restore undoes it.
func (g *Guard) Revoke(subject string) {
	if g.auth.tickets != nil {
		defer g.auth.tickets.revoke(subject)
	}
	g.sessions.revoke(subject)
}

// Restore lets credentials of a revoked subject open connections again.
func (g *Guard) Restore(subject string) { g.sessions.restore(subject) }

// Kick ends the connection with this ID with 3003 kicked, and reports whether
// there was one.
func (g *Guard) Kick(id string) bool {
	c := g.sessions.find(id)
	if c == nil {
		return false
	}
	c.end(ErrKicked, "")
	return true
}

// Pieces are the Guard's own, to stand in front of other middleware: the Guard
// does not check again what they have let pass. Host is nil when hosts are not
// checked. With FirstMessageToken among the sources, Auth lets pass who has no
// credential yet.
func (g *Guard) Pieces() Pieces {
	return Pieces{Origin: g.origin, Host: g.host, TLS: g.tls, Auth: g.auth, Cap: g.cap}
}

// accept does everything up to the upgrade. The request that it returns is for
// Attach, if that is still to come.
func (e *Endpoint) accept(w http.ResponseWriter, r *http.Request, holders int32) (*Conn, *http.Request, error) {
	a := admission{e: e, g: e.g, r: r}
	c, err := a.admit(w, holders)
	if err != nil {
		a.undo()
		ev := Event{Subject: a.principal.Subject}
		if a.client.IsValid() {
			ev.Client = a.client.String()
		}
		if a.answered {
			w = discardResponse{}
		} else if errors.Is(err, ErrBody) {
			// A body that never comes would keep net/http reading it.
			http.NewResponseController(w).SetReadDeadline(time.Now())
		}
		e.g.reporter.refuse(w, r, err, ev)
		return nil, nil, err
	}
	return c, a.attachLater, nil
}

// admission is one handshake on its way.
type admission struct {
	e *Endpoint
	g *Guard
	r *http.Request

	client      netip.Addr
	subprotocol string
	fl          *flight
	leases      []*Lease // all of them move to the Conn
	lease       *Lease   // of this Guard's cap
	own         bool     // and made here, not by a piece in front
	principal   Principal
	session     *session
	value       any
	answered    bool
	attachLater *http.Request
}

func (a *admission) undo() {
	if a.session != nil {
		a.g.sessions.unregister(a.session)
	}
	if a.own {
		a.lease.Release()
	}
	closeValue(a.value)
	a.fl.done()
}

// admit is the picture of the design: each step may refuse.
func (a *admission) admit(w http.ResponseWriter, holders int32) (*Conn, error) {
	g, r := a.g, a.r
	if g.Draining() {
		return nil, deny(ErrDraining, "")
	}
	if err := checkUpgrade(r); err != nil {
		return nil, err
	}
	if !wire.Hijackable(w) {
		return nil, deny(ErrNotHijackable, "the ResponseWriter has neither Hijack nor Unwrap")
	}
	var err error
	if a.client, err = g.client.Client(r); err != nil {
		return nil, denyCause(ErrClientAddress, err)
	}
	m := marksOf(r)
	if g.host != nil && !m.has(g.host) {
		if err := g.host.Check(r); err != nil {
			return nil, err
		}
	}
	if !m.has(g.tls) {
		if err := g.tls.Check(r); err != nil {
			return nil, err
		}
	}
	if !m.has(g.origin) {
		if err := g.origin.Check(r); err != nil {
			return nil, err
		}
	}
	if a.subprotocol, err = a.e.negotiate(r); err != nil {
		return nil, err
	}
	if err := g.rates.handshake(a.client); err != nil {
		return nil, err
	}
	if a.fl, err = g.rates.fly(a.client); err != nil {
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
	if m.has(g.auth) && m.principal != nil {
		a.principal = *m.principal
	} else {
		a.principal, await, err = g.auth.authenticate(r, a.client, a.fl)
		if err != nil {
			return nil, err
		}
	}
	stripped := g.auth.strip(r)
	if await {
		if err := a.lease.await(); err != nil {
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
			return nil, deny(ErrRevoked, "")
		}
		if a.value, err = a.e.callAttach(stripped, a.principal); err != nil {
			return nil, err
		}
		if a.session.isKilled() {
			return nil, deny(ErrRevoked, "")
		}
	}
	c := &Conn{
		g: g, e: a.e, id: newID(), client: a.client, origin: r.Header.Get("Origin"), host: r.Host,
		subprotocol: a.subprotocol, value: a.value, session: a.session, leases: a.leases, lease: a.lease,
		validator: a.e.messages.validator(a.subprotocol),
	}
	c.principal.Store(&a.principal)
	c.w, err = wire.Upgrade(w, stripped, a.subprotocol, a.e.wire)
	if err != nil {
		// After a 101 the library has answered, as well as it could.
		a.answered = !errors.Is(err, wire.ErrNotHijackable)
		return nil, denyCause(ErrNotHijackable, err)
	}
	for _, l := range a.leases {
		l.move()
	}
	if await {
		a.attachLater = detached(stripped)
	}
	c.start(await, holders)
	a.fl.done()
	return c, nil
}

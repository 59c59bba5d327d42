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
// Five guards can also stand alone in front of any handler: a [Check] of the origin, of
// the host or of the transport, an [Authenticator], and a [ConnCap]. Package reason has
// the reasons of refusals and closes. Package audit has the events that a Guard reports.
package wsguard

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
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
	// frame, on a page of any site. So New refuses it together with
	// TokenSources.Cookie, and Guard.TicketHandler does not call login for it.
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
	// wraps ErrUnavailable or the error of the request's context. That context ends
	// after Auth.VerifyTimeout, and Attach must return then.
	//
	// After a first-message credential Attach runs on the connection's goroutine,
	// and its errors close with 3003 and 1013. Its request then has no context
	// values, no parsed form, and of the header neither Cookie, Authorization and
	// Proxy-Authorization nor what belongs to the handshake or to one hop.
	Attach func(*http.Request, Principal) (any, error)

	CloseCodes map[*reason.Reason]StatusCode // see reason.GraphQL
	Logger     *slog.Logger                  // default slog.Default(); repeated refusals are sampled
	OnEvent    func(audit.Event)             // gets every event where it happens: it must not block

	// State is what several Guards count together, such as connections, rates, failed
	// credentials and bans; see State. The default is a State of the Guard's own.
	// Reconfigure keeps the one that New was given.
	State *State
}

// Guard guards WebSocket endpoints. It is safe for concurrent use.
type Guard struct {
	born     time.Time // the sweeper's times count from here
	state    *State
	events   *sink
	sessions *sessions
	queues   queues
	endings  chan struct{}
	crowd    crowd
	evicted  atomic.Uint64 // as last reported
	endpoint *Endpoint
	policy   atomic.Pointer[policy]

	setting sync.Mutex       // one Reconfigure at a time; no other lock is taken by those that hold it, except sessions.mu and the State's
	cfg     Config           // guarded by setting
	further []EndpointConfig // guarded by setting: of the further endpoints
	wraps   bool             // guarded by setting: Wrap has been called
}

// New returns a Guard, or every mistake in cfg at once, each a *ConfigError.
func New(cfg Config) (*Guard, error) {
	g := &Guard{
		born:    time.Now(),
		state:   cfg.State,
		events:  newSink(cfg.Logger, cfg.OnEvent),
		endings: make(chan struct{}, maxEndings),
	}
	if g.state == nil {
		g.state = NewState()
	}
	g.sessions = newSessions(g)
	g.endpoint = &Endpoint{g: g}
	if err := g.configure(cfg, nil); err != nil {
		return nil, err
	}
	return g, nil
}

// Reconfigure puts cfg in the place of the Config before, for each handshake and
// each message to come. The timeouts, queues and frames of connections that are
// open stay, and so does what buckets owe. When cfg has a mistake all stays.
// State, Logger, OnEvent and whether there are Tickets are New's.
func (g *Guard) Reconfigure(cfg Config) error {
	g.setting.Lock()
	defer g.setting.Unlock()
	return g.configure(cfg, g.further)
}

// configure compiles and stores. setting is held, unless New is at work.
func (g *Guard) configure(cfg Config, further []EndpointConfig) error {
	var f faults
	cfg = cfg.clone() // it is compiled again for each further Endpoint
	p := compile(cfg, further, g.endings, &f)
	if old := g.policy.Load(); old != nil && (old.auth.tickets == nil) != (p.auth.tickets == nil) {
		f.add("Auth.Tickets", "", "cannot be switched on or off by Reconfigure")
	}
	if g.wraps && p.auth.cfg.Sources.FirstMessage {
		f = append(f, errWrapFirstMessage())
	}
	if err := f.err(); err != nil {
		return err
	}
	g.cfg, g.further = cfg, further
	g.policy.Store(p)
	g.state.verified.clear() // its answers were another Verifier's
	g.sessions.reconfigured()
	return nil
}

// clone returns a copy of cfg that shares no lists with it. What the caller changes in its
// own later has no effect.
func (cfg Config) clone() Config {
	cfg.Origins, cfg.Hosts = slices.Clone(cfg.Origins), slices.Clone(cfg.Hosts)
	cfg.Proxies.Trusted = slices.Clone(cfg.Proxies.Trusted)
	cfg.CloseCodes = maps.Clone(cfg.CloseCodes)
	if t := cfg.Auth.Tickets; t != nil {
		own := *t
		cfg.Auth.Tickets = &own
	}
	own := EndpointConfig{cfg.Subprotocols, cfg.Messages, cfg.Attach}.clone()
	cfg.Subprotocols, cfg.Messages = own.Subprotocols, own.Messages
	return cfg
}

func (cfg EndpointConfig) clone() EndpointConfig {
	cfg.Subprotocols = slices.Clone(cfg.Subprotocols)
	cfg.Messages.Validator = ownTable(cfg.Messages.Validator)
	cfg.Messages.Validators = maps.Clone(cfg.Messages.Validators)
	for name, v := range cfg.Messages.Validators {
		cfg.Messages.Validators[name] = ownTable(v)
	}
	return cfg
}

// ownTable returns v, or a copy if it is a Table, which its caller may change.
func ownTable(v Validator) Validator {
	t, ok := v.(*Table)
	if !ok || t == nil {
		return v
	}
	return &Table{Pointer: t.Pointer, Types: maps.Clone(t.Types)}
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
	g     *Guard
	index int // of its policy; fixed
}

// policy returns the endpoint's newest policy.
func (e *Endpoint) policy() *endpointPolicy { return e.g.policy.Load().endpoints[e.index] }

// Endpoint returns a further endpoint of g, or every mistake in cfg at once, each
// a *ConfigError.
func (g *Guard) Endpoint(cfg EndpointConfig) (*Endpoint, error) {
	g.setting.Lock()
	defer g.setting.Unlock()
	further := append(slices.Clone(g.further), cfg.clone())
	if err := g.configure(g.cfg, further); err != nil {
		return nil, err
	}
	return &Endpoint{g: g, index: len(further)}, nil
}

// Reconfigure is Guard.Reconfigure for what is this endpoint's own.
func (e *Endpoint) Reconfigure(cfg EndpointConfig) error {
	g := e.g
	g.setting.Lock()
	defer g.setting.Unlock()
	if e.index == 0 {
		own := g.cfg
		own.Subprotocols, own.Messages, own.Attach = cfg.Subprotocols, cfg.Messages, cfg.Attach
		return g.configure(own, g.further)
	}
	further := slices.Clone(g.further)
	further[e.index-1] = cfg.clone()
	return g.configure(g.cfg, further)
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
	if c.who.awaiting.Load() {
		returned := false
		defer func() {
			if !returned {
				c.end(fault("a hook ended the goroutine of Accept"))
			}
		}()
		err := c.authenticate(ctx, r)
		returned = true
		if err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.end(fault("still open when its request ended")) })
	context.AfterFunc(c.ctx, func() { stop() })
	if err := c.cause(); err != nil {
		return nil, err
	}
	return c, nil
}

// Draining reports whether Shutdown has been called; readiness probes ask.
func (g *Guard) Draining() bool { return g.sessions.isDraining() }

// Conns returns how many slots are held, by connections and by handshakes. Guards that
// share a State share its slots.
func (g *Guard) Conns() int { return g.state.slots.held() }

// accept does everything up to the upgrade, and upgrades. The request that it returns is
// for Attach, if that is still to come.
func (e *Endpoint) accept(w http.ResponseWriter, r *http.Request, holders int32) (*Conn, *http.Request, error) {
	a := e.admission(r)
	defer e.g.sessions.left()
	if err := a.guarded(w, func() error { return a.upgrade(w, holders) }); err != nil {
		return nil, nil, err
	}
	if a.await {
		return a.conn, detached(a.stripped), nil
	}
	return a.conn, nil, nil
}

func (g *Guard) closeCode(why *reason.Reason) StatusCode {
	if own, ok := g.policy.Load().codes[why]; ok {
		return own
	}
	return why.Code()
}

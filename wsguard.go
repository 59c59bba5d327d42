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

// Config configures a Guard. Origins and Auth must be set. The zero value of every other
// field is its default.
type Config struct {
	// Origins lists the origins that may connect (RFC 6454, RFC 6455 §10.2). An entry has a
	// scheme, a host and, unless it is the default, a port, as in "https://app.example.com".
	// A star stands for exactly one label, as in "https://*.example.com". There are no other
	// patterns. A browser whose origin is not listed gets a 403. An empty list is an error,
	// unless AllowMissingOrigin is set.
	//
	// "null" must be listed to be allowed. It is the origin of every sandboxed
	// frame, on a page of any site. So New refuses it together with
	// TokenSources.Cookie, and Guard.TicketHandler does not call login for it.
	Origins []string

	// SameOrigin admits the pages of the server's own origin, besides Origins. The guard
	// compares the Origin with the Host header, and with the scheme that the connection has
	// or that a trusted proxy names. It does not read X-Forwarded-Host. SameOrigin needs
	// Hosts. Without them a page of any site could have its name point to this server (DNS
	// rebinding), and be of the same origin.
	SameOrigin bool

	// InsecureSameOrigin is SameOrigin without Hosts.
	InsecureSameOrigin bool

	// OriginFunc reports whether an origin that is not listed may connect, for origins that
	// are in a database. origin is in canonical form, such as "https://a.example:8443", and
	// host is the Host header in lower case. The origin null is never asked about. Each
	// call has a place in flight and ends within Auth.VerifyTimeout. An answer is kept for a
	// minute, and at most 1,024 of them. An error and a panic are a 503. The default, nil,
	// refuses.
	OriginFunc func(ctx context.Context, origin, host string) (bool, error)

	// InsecureAnyOrigin admits the pages of every origin. It cannot be combined with
	// TokenSources.Cookie, and Guard.TicketHandler does not call login for
	// an origin that is admitted by InsecureAnyOrigin alone. It admits no missing Origin.
	InsecureAnyOrigin bool

	// AllowMissingOrigin admits handshakes that have neither an Origin nor a cookie, which
	// programs send. It needs Hosts. The default is false, and such a handshake gets a 403.
	AllowMissingOrigin bool

	// ReportOnly reports what the caps, the rates, the penalties, the message checks and the
	// idle timeout would refuse or close, and lets it pass. It sets the fields ReportOnly of
	// Caps, Rates, Penalties, Messages and Timeouts, and that of each Endpoint's Messages.
	// Each of these fields may be set alone. Use them to put a Guard in front of a running
	// service: the events that have Report set say what the Guard would have done. Origins,
	// credentials and the scopes of messages are still checked, because an attacker could
	// profit if they were not. They have fields of their own, whose names begin with
	// InsecureReportOnly. The default is false.
	ReportOnly bool

	// InsecureReportOnlyOrigins reports a foreign or missing origin instead of refusing it.
	// Credentials that the browser sends by itself are still refused from a foreign page. A
	// handshake with a TokenSources.Cookie gets a 401, and Guard.TicketHandler does not call
	// login. Attach and the application see the request as it came. While this field is set,
	// violations ban no client. The default is false.
	InsecureReportOnlyOrigins bool

	// LoopbackOnly refuses a client on another machine with a 403, for servers that only
	// programs on their own machine may use. The guard looks at Request.RemoteAddr, which must
	// be a loopback address, and at no header. A peer on a unix socket has no address and is
	// refused, too. Guard.TicketHandler and all pieces check it as well. LoopbackOnly together
	// with Proxies.Trusted is an error, because every client of a proxy on this machine has a
	// peer on loopback.
	// The default is false. LocalConfig sets it.
	LoopbackOnly bool

	// Proxies names the proxies in front of the server, whose headers the guard believes. The
	// default is no proxy. The client is then the peer of the TCP connection.
	Proxies Proxies

	// InsecureAllowHTTP admits clear text from every peer, even over the network and even if
	// a trusted proxy says that the client's scheme is not secure. By default the guard
	// refuses requests in clear text with a 403. NewTLSCheck says which ones pass.
	InsecureAllowHTTP bool

	// Hosts lists the names under which the server answers, in the form that NewHostCheck
	// takes. A request for another Host gets a 421. The default, nil, is no check. An empty
	// list that is not nil is an error.
	Hosts []string

	// Auth says how clients authenticate. It must say who may connect, with a Verifier, with
	// Tickets, or with InsecureAnonymous.
	Auth AuthConfig

	// Caps limits how many connections there may be.
	Caps CapConfig

	// Rates limits messages, payload bytes and handshakes.
	Rates RateConfig

	// Penalties says which clients are banned for their violations. The default bans nobody.
	Penalties PenaltyConfig

	// Messages says which messages the endpoint accepts. The default is text messages of at
	// most 32 KiB with any content.
	Messages MessageConfig

	// Timeouts limits how long a connection may be silent, may last, and may block a write.
	Timeouts TimeoutConfig

	// Send limits what Conn.Send and Conn.SendLatest queue.
	Send SendConfig

	// Subprotocols lists the names for Sec-WebSocket-Protocol that the endpoint
	// serves, the preferred one first. Letter case matters. The guard selects the first
	// one that the client offers, and Conn.Subprotocol returns it. A page that offers only
	// names that are not listed gets a 400, because its browser would fail the connection. A
	// client without an Origin is admitted without a subprotocol, and so is every client
	// that offers none. Entries that begin with Auth.Sources.Subprotocol are credentials and
	// not offers, and cannot be listed. The default is none.
	Subprotocols []string

	// Attach runs after every check and before the upgrade, on the request's goroutine. Its
	// request lacks the credentials that end up in logs. Conn.Value returns the value that
	// Attach returns. If the value is an io.Closer, the guard closes it once, when the
	// connection has ended and its handler has returned, or when the upgrade fails. An error
	// refuses the handshake with a 403, or with a 503 if it wraps ErrUnavailable or the error
	// of the request's context. That context ends after Auth.VerifyTimeout, and Attach must
	// return then. The default, nil, attaches nothing.
	//
	// After a credential in the first message, Attach runs on the connection's goroutine,
	// and its errors close the connection with 3003 or 1013. The request then has no context
	// values and no parsed form. Its header lacks Cookie, Authorization, Proxy-Authorization
	// and the fields that belong to the handshake or to one hop.
	//
	// When Conn.Refresh gives an anonymous connection a subject, Attach runs again, on the
	// goroutine of that call and with such a request. Its errors leave the connection
	// anonymous. So the guard keeps that request for each anonymous connection, if there is
	// an Attach and a Verifier or Tickets.
	Attach func(*http.Request, Principal) (any, error)

	// CloseCodes replaces the close codes of some reasons. reason.GraphQL and reason.Policy
	// return maps for it. A code that must not be sent is an error (RFC 6455 §7.4), and so is
	// a reason that no close frame of the guard has. The default, nil, leaves each reason its
	// own code.
	CloseCodes map[*reason.Reason]StatusCode

	// Logger gets the events. Of the warnings of one kind and reason it gets at most 5 per
	// second, with a burst of 20, and a later line counts the others. The default is
	// slog.Default().
	Logger *slog.Logger

	// OnEvent is called with every event, on the goroutine that has caused it. It must not
	// block. If it panics, the event is lost. The default, nil, is no call.
	OnEvent func(audit.Event)

	// State has what several Guards count together, such as connections, rates, failed
	// credentials and bans. The default is a State of the Guard's own. Reconfigure keeps the
	// State of New.
	State *State
}

// Guard guards WebSocket endpoints. It is safe for concurrent use.
type Guard struct {
	born     time.Time              // the sweeper's times count from here; read-only
	state    *State                 // read-only; has locks of its own
	events   *sink                  // read-only; has a lock of its own
	sessions *sessions              // read-only; has a lock of its own
	queues   queues                 // has a lock of its own
	endings  chan struct{}          // a place for each ending that waits for its peer; read-only
	crowd    crowd                  // has a lock of its own
	unnamed  unnamed                // has a lock of its own
	evicted  atomic.Uint64          // the number of evicted buckets that was reported last
	endpoint *Endpoint              // the first endpoint, which Handler, Accept and Wrap use; read-only
	policy   atomic.Pointer[policy] // stored under setting

	setting sync.Mutex       // one Reconfigure at a time; sessions.mu and the locks of the State may be taken while it is held
	cfg     Config           // guarded by setting
	further []EndpointConfig // guarded by setting: those of the further endpoints
	wraps   bool             // guarded by setting: Wrap has been called
}

// New returns a Guard, or an error that has every mistake in cfg at once, each as a
// *[ConfigError].
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

// Reconfigure replaces the Config for all further handshakes and messages. Connections that
// are open keep their timeouts, queue limits and frame limits. Buckets keep their debts. If
// cfg has a mistake, Reconfigure returns an error and changes nothing. Switching
// Auth.Tickets on or off is a mistake. Reconfigure ignores State, Logger and OnEvent of cfg.
func (g *Guard) Reconfigure(cfg Config) error {
	g.setting.Lock()
	defer g.setting.Unlock()
	return g.configure(cfg, g.further)
}

// configure compiles cfg and stores the policy. The caller holds setting, unless it is New.
func (g *Guard) configure(cfg Config, further []EndpointConfig) error {
	var f faults
	cfg = cfg.clone() // it is compiled again for each further Endpoint
	p := compile(cfg, further, g.endings, &f)
	old := g.policy.Load()
	again := old != nil
	if again && (old.auth.tickets == nil) != (p.auth.tickets == nil) {
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
	g.state.verified.clear() // the answers may be another Verifier's
	g.sessions.reconfigured()
	if again {
		g.events.emit(audit.Event{Kind: audit.Reconfigured})
	}
	g.warnAbout(cfg)
	return nil
}

// clone returns a copy of cfg that shares no lists with it. Later changes of cfg have no
// effect on the copy.
func (cfg Config) clone() Config {
	cfg.Origins, cfg.Hosts = slices.Clone(cfg.Origins), slices.Clone(cfg.Hosts)
	cfg.Proxies.Trusted = slices.Clone(cfg.Proxies.Trusted)
	cfg.CloseCodes = maps.Clone(cfg.CloseCodes)
	if t := cfg.Auth.Tickets; t != nil {
		own := *t
		cfg.Auth.Tickets = &own
	}
	cfg.Auth.FirstMessage = cfg.Auth.FirstMessage.own()
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

// EndpointConfig has the settings that endpoints of one Guard need not share. The Config of
// the Guard has the settings of its first endpoint.
type EndpointConfig struct {
	// Subprotocols is as in [Config]. The default is none, whatever the Guard has.
	Subprotocols []string

	// Messages is as in [Config]. Its defaults are those of the package, whatever the Guard
	// has. Config.ReportOnly of the Guard applies to it.
	Messages MessageConfig

	// Attach is as in [Config]. The default, nil, is the Attach of the Guard.
	Attach func(*http.Request, Principal) (any, error)
}

// Endpoint is an endpoint of a Guard. It has its own subprotocols, messages and Attach, and
// shares everything else with the other endpoints of the Guard.
type Endpoint struct {
	g     *Guard // read-only
	index int    // in policy.endpoints; read-only
}

// policy returns the endpoint's newest policy.
func (e *Endpoint) policy() *endpointPolicy { return e.g.policy.Load().endpoints[e.index] }

// Endpoint returns a further endpoint of g, or an error that has every mistake in cfg at once,
// each as a *[ConfigError].
func (g *Guard) Endpoint(cfg EndpointConfig) (*Endpoint, error) {
	g.setting.Lock()
	defer g.setting.Unlock()
	further := append(slices.Clone(g.further), cfg.clone())
	if err := g.configure(g.cfg, further); err != nil {
		return nil, err
	}
	return &Endpoint{g: g, index: len(further)}, nil
}

// Reconfigure is like [Guard.Reconfigure] for the settings of this endpoint.
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

// Handler returns an http.Handler that guards and upgrades each request. It runs fn on a
// goroutine of its own, so that ServeHTTP returns and the request can be freed. ctx has no
// values of the request. It ends when the cause of the connection's end is fixed, and
// context.Cause returns that cause.
//
// When fn returns, the guard closes the connection. The code is 1000 for nil, that of a
// *[CloseError] or of a reason of [reason.New], and 1011 for any other error and for a panic.
// If the connection has ended already, the result of fn changes nothing.
func (g *Guard) Handler(fn func(ctx context.Context, c *Conn) error) http.Handler {
	return g.endpoint.Handler(fn)
}

// Accept guards and upgrades one request. Use it instead of Handler if the request's
// middleware must stay around the connection. The caller reads from the connection, and ends
// it with [Conn.End]. A connection that is still open when the request's context ends is
// closed with 1001 request_done, or with 1012 if Shutdown has been called. When Accept returns
// an error, it has answered the request already.
func (g *Guard) Accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	return g.endpoint.Accept(w, r)
}

// Handler is like [Guard.Handler] for this endpoint.
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

// Accept is like [Guard.Accept] for this endpoint.
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
	stop := context.AfterFunc(ctx, func() {
		if c.g.Draining() {
			c.end(because(reason.Draining, "still open when its request ended"))
			return
		}
		c.end(because(reason.RequestDone, ""))
	})
	context.AfterFunc(c.ctx, func() { stop() })
	if err := c.cause(); err != nil {
		return nil, err
	}
	return c, nil
}

// Draining reports whether Shutdown has been called. Use it for a readiness probe.
func (g *Guard) Draining() bool { return g.sessions.isDraining() }

// Conns returns how many slots are held, by connections and by handshakes. Guards that
// share a State share its slots.
func (g *Guard) Conns() int { return g.state.slots.held() }

// accept runs the steps of a handshake and upgrades. The request that it returns is for
// authenticate. It is nil if the connection is open to the application already.
func (e *Endpoint) accept(w http.ResponseWriter, r *http.Request, holders int32) (*Conn, *http.Request, error) {
	a := e.admission(r)
	defer e.g.sessions.left()
	if err := a.guarded(w, func() error { return a.upgrade(w, holders) }); err != nil {
		return nil, nil, err
	}
	kept := a.kept()
	if a.await {
		return a.conn, kept, nil
	}
	a.conn.who.request = kept
	return a.conn, nil, nil
}

func (g *Guard) closeCode(why *reason.Reason) StatusCode {
	if own, ok := g.policy.Load().codes[why]; ok {
		return own
	}
	return why.Code()
}

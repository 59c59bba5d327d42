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

// Config configures a Guard. It must say which origins may connect, with Origins or with
// another of the fields for origins. It must say who may connect, with Auth. The zero value
// of every other field is its default.
type Config struct {
	// Origins lists the origins that may connect (RFC 6454, RFC 6455 §10.2). An entry has a
	// scheme, a host and, unless it is the default, a port, as in "https://app.example.com". A
	// star stands for exactly one label, as in "https://*.example.com". The only other pattern
	// is "http://localhost:*". A page whose origin no field allows gets a 403. The list may be
	// empty if SameOrigin, InsecureSameOrigin, OriginFunc, InsecureAnyOrigin or
	// AllowMissingOrigin is set. Otherwise an empty list is an error.
	//
	// The origins "null" and "file://" must be listed to be allowed. "null" is the origin of
	// every sandboxed frame, on a page of any site. So New refuses both of them together with
	// TokenSources.Cookie. For a page of such an origin the guard calls neither
	// AuthConfig.Authenticate nor the login of Guard.TicketHandler.
	Origins []string

	// SameOrigin admits the pages of the server's own origin, besides Origins. The guard
	// compares the Origin with the Host header, and with the scheme that the connection has or
	// that a trusted proxy names. It does not read X-Forwarded-Host. The default is false.
	//
	// SameOrigin needs Hosts. An attacker can make a name of its own point to this server (DNS
	// rebinding). A browser that opens a page under that name sends the name in both headers.
	// Without Hosts, the attacker's page would be of the same origin.
	SameOrigin bool

	// InsecureSameOrigin is like SameOrigin, and does not need Hosts. Without Hosts it admits
	// the pages of an attacker that uses DNS rebinding. The default is false.
	InsecureSameOrigin bool

	// OriginFunc reports whether the pages of an origin may connect. Use it if the origins are
	// in a database. The guard calls it for an origin that neither Origins nor SameOrigin
	// allows. It does not call it for an origin without a host, such as null. origin is in
	// canonical form, such as "https://a.example:8443", and host is the Host header in lower
	// case.
	//
	// The guard keeps each answer for a minute, and at most 1,024 answers. A call takes a place
	// of RateConfig.MaxInFlight, and without a place the handshake is refused with in_flight. An
	// error, a panic, and a call that takes longer than Auth.VerifyTimeout refuse the handshake
	// with a 503. The default, nil, allows no further origin.
	OriginFunc func(ctx context.Context, origin, host string) (bool, error)

	// InsecureAnyOrigin admits the pages of every origin. New refuses it together with
	// TokenSources.Cookie and with AuthConfig.Authenticate. Guard.TicketHandler does not call
	// login for an origin that InsecureAnyOrigin alone admits. A handshake without an Origin
	// still needs AllowMissingOrigin. The default is false.
	InsecureAnyOrigin bool

	// AllowMissingOrigin admits handshakes without an Origin header, as programs send them. A
	// browser sends an Origin with every handshake. A handshake without an Origin still gets a
	// 403 if it has a Cookie header, or if its Sec-Fetch-Site header says that a page of another
	// site has caused it. AllowMissingOrigin needs Hosts, because without an Origin nothing else
	// stops DNS rebinding. The default is false, and every handshake without an Origin gets a
	// 403.
	AllowMissingOrigin bool

	// Observe makes the Guard report most of what it would otherwise refuse or close, and let it
	// pass. Use it to put a Guard in front of a running service. The events that have Report set
	// say what the Guard would have done, and Guard.Suggest says which limits fit the service. The
	// client sees nothing. The default is false.
	//
	// Observe sets the fields ReportOnly of Caps, Rates, Penalties, Messages and Timeouts, and that
	// of each Endpoint's Messages. Each of these fields may be set alone. With them, the Guard
	// accepts connections above a cap, and handshakes and messages above a rate. It bans no client
	// for its violations, delivers messages that a Validator refuses, and keeps idle connections
	// open.
	//
	// Observe also affects limits that these fields leave alone. The Guard then accepts handshakes
	// above MaxInFlight and MaxInFlightPerClient, and whatever exceeds Timeouts.Pong,
	// Timeouts.Lifetime or one of the fields Binary, MaxBytes, MaxFragments, Timeout and
	// ControlFrames of Messages. A message longer than 16 MiB still closes the connection with
	// 1009, unless MaxBytes is larger, because the guard holds whole messages in memory.
	//
	// All other checks still refuse. docs/running-services.md lists them. An attacker could profit
	// if foreign origins, bad credentials or forbidden messages passed. So these have fields of
	// their own, whose names begin with InsecureReportOnly, and InsecureObserve sets them all.
	Observe bool

	// InsecureObserve implies Observe. It also sets InsecureReportOnlyOrigins,
	// Auth.InsecureReportOnly and Messages.InsecureReportOnlyForbidden, the last one for each
	// Endpoint too. So handshakes with a foreign origin or a bad credential pass and are reported,
	// and so are messages that their sender may not send. Use it only if the service behind the
	// Guard still makes these checks by itself. The default is false.
	InsecureObserve bool

	// InsecureReportOnlyOrigins reports a handshake whose origin is foreign or missing, and lets
	// it pass. Credentials that a browser sends by itself still count only for a page whose
	// origin is allowed. For any other page, a handshake with the cookie of TokenSources.Cookie
	// gets a 401, and the guard calls neither AuthConfig.Authenticate nor the login of
	// Guard.TicketHandler. Attach and the application see the Origin header as it came. While
	// this field is set, violations ban no client. The default is false.
	InsecureReportOnlyOrigins bool

	// LoopbackOnly refuses a client on another machine with a 403, for servers that only
	// programs on their own machine may use. The guard looks at Request.RemoteAddr, which must
	// be a loopback address, and at no header. A peer on a unix socket has no address and is
	// refused, too. Guard.TicketHandler and all pieces check it as well. LoopbackOnly together
	// with Proxies.Trusted is an error, because every client of a proxy on this machine has a
	// peer on loopback. The default is false. LocalConfig sets it.
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
	// Authenticate, with Tickets, or with InsecureAnonymous.
	Auth AuthConfig

	// Caps limits how many connections there may be.
	Caps CapConfig

	// Rates limits messages, payload bytes and handshakes.
	Rates RateConfig

	// Penalties says which clients are banned for their violations. The default bans no client.
	Penalties PenaltyConfig

	// Messages says which messages the endpoint accepts. The default is text messages of at
	// most 32 KiB with any content.
	Messages MessageConfig

	// Timeouts limits how long a connection may be silent, may last, and may block a write.
	Timeouts TimeoutConfig

	// Send limits what Conn.Send and Conn.SendLatest queue.
	Send SendConfig

	// Subprotocols lists the names for Sec-WebSocket-Protocol that the endpoint serves, the
	// preferred one first. Letter case matters. The guard selects the first entry of this list
	// that the client offers, whatever the order in which the client offers them.
	// Conn.Subprotocol returns the selected one. The default is an empty list, and the guard
	// selects none.
	//
	// A page that offers only names that are not listed gets a 400, because its browser would
	// fail the connection. There is one exception. If the list is empty, Guard.Wrap passes the
	// offers to its handler, which selects one. A client without an Origin is admitted without
	// a subprotocol, and so is every client that offers none. Such a client gets a 400 if
	// Messages.Validators is set and Messages.Validator is nil. An offer that begins with
	// Auth.Sources.Subprotocol is a credential and no offer, and an entry of this list must
	// not begin with it.
	Subprotocols []string

	// Attach prepares a value for the connection, or refuses the handshake. Use it for what
	// depends on both the request and the Principal, such as the right to enter the room that
	// the URL names. It runs once for each handshake, after every other check and before the
	// upgrade, on the request's goroutine. Its request lacks the credentials in the query and in
	// Sec-WebSocket-Protocol, because they would end up in logs. Conn.Value returns the value.
	// The default, nil, attaches nothing.
	//
	// If the value is an io.Closer, the guard closes it once. The guard does that when the
	// connection has ended and its handler has returned. If the handshake does not lead to a
	// connection, the guard closes the value at once.
	//
	// An error refuses the handshake with a 403. A panic, and an error that wraps
	// ErrUnavailable, context.DeadlineExceeded or context.Canceled, refuse it with a 503. The
	// request's context ends after Auth.VerifyTimeout. The guard waits until Attach returns,
	// even then.
	//
	// If the credential comes in the first message, Attach runs after that message. An error or
	// a panic then closes the connection with 3003 instead of a 403, or with 1013 instead of a
	// 503. The request has no context values and no parsed form. Its header lacks Cookie,
	// Authorization, Proxy-Authorization, the header of TokenSources.CustomHeader, and the
	// fields that belong to the handshake or to one hop.
	//
	// When Conn.Refresh gives an anonymous connection a subject, Attach runs again, on the
	// goroutine of that call and with such a request. Its errors leave the connection
	// anonymous. So the guard keeps that request for each anonymous connection, if there is
	// an Attach and a Verifier or Tickets.
	Attach func(*http.Request, Principal) (any, error)

	// CloseCodes replaces the close codes of some reasons. reason.GraphQL, reason.Policy and
	// reason.RFC6455 return maps for it. New refuses a code that must not be sent (RFC 6455
	// §7.4). It also refuses a reason that has no close code, and reason.Closed and
	// reason.PeerClosed, whose codes the application or the peer has chosen. The default, nil,
	// leaves each reason its own code.
	CloseCodes map[*reason.Reason]StatusCode

	// Logger gets a line for each event. Refusals, violations, bans and warnings have the level
	// Warn. Of these, Logger gets at most 5 lines per second for each kind and reason, with a
	// burst of 20. Accepted handshakes have the level Debug, and all other events have the level
	// Info. Of these, Logger gets at most 50 lines per second about handshakes that are accepted,
	// with a burst of 500. It gets as many about connections that open, as many about those that
	// close, and as many about those that are refreshed. No other lines are left out. A later line
	// says in suppressed how many lines were left out. The default is slog.Default().
	Logger *slog.Logger

	// Name names the endpoint of Guard.Handler, Guard.Accept and Guard.Wrap in events and in the
	// log. It is cut to 256 bytes. The default is the empty name.
	Name string

	// RequestID returns the ID that middleware or a proxy has given a request, so that its events
	// and its line in the access log can be matched. The events and the log have it escaped and
	// cut to 256 bytes. It must not block. A panic counts as an empty ID. The default, nil, takes
	// the header X-Request-Id of the response if middleware in front has set it, and otherwise
	// that of the request, which the client can choose.
	RequestID func(*http.Request) string

	// Observer is called with a record of every event, on a goroutine of its own, one at a time
	// and in the order in which the events were reported. ctx has the values of the request that
	// the event is about, such as the trace that a middleware has begun, and does not end with
	// it. For all other events it is context.Background().
	//
	// Observer may block. At most 1,024 records wait for it, and audit.Snapshot.EventsDropped
	// counts those that found no room. The guard recovers a panic of Observer. Guard.Shutdown waits
	// for at most a second until Observer has got the records that wait. The default is nil.
	Observer func(ctx context.Context, r audit.Record)

	// SpikeFactor is how many times as high as usual a rate must be for the guard to report it. The
	// guard watches the refusals, in all and for each reason, the accepted handshakes, and the
	// messages and bytes that the application gets. A SpikeStart event has the figures and the
	// clients that have caused most of it, and a SpikeOver event follows. The guard only reports,
	// and refuses nothing because of a spike.
	//
	// The guard learns the usual rates during the first 5 minutes, and adjusts them from then on.
	// It reports a tenfold flood within about 30 seconds. A few events are no spike. There must be
	// at least one refusal in 4 seconds, one connection in 2 seconds, or 2 messages per second.
	//
	// The default is 5. With Off, the guard looks for no spikes. A value below 2 or above 1e6 is an
	// error. The guard reads its counters every 5 seconds while connections are open or anything
	// happens. A message costs no more because of that. The guard takes at most 50 KiB of memory
	// for each reason that has refused anything. Pieces that stand alone look for no spikes.
	SpikeFactor float64

	// OnEvent is called with every event, on the goroutine that reports it. For a close event, that
	// is a goroutine of the guard, and not the goroutine that has ended the connection. Many
	// goroutines may call OnEvent at the same time. It must not block. The guard recovers a panic
	// of OnEvent, and the Logger has the event nevertheless. OnEvent also gets the events that the
	// Logger leaves out. The default is nil.
	OnEvent func(audit.Event)

	// Shared makes limits, tickets, bans and revocations hold for all instances of a service
	// together. The default, the zero value, shares nothing with other instances. Reconfigure
	// keeps the Shared of New.
	Shared SharedConfig

	// State has what several Guards share, such as the counters of connections, of rates and of
	// failed credentials, and the bans. The default is a State of the Guard's own. Reconfigure
	// keeps the State of New.
	State *State
}

// Guard guards WebSocket endpoints. It is safe for concurrent use.
type Guard struct {
	born     time.Time              // the sweeper's times count from here; read-only
	state    *State                 // read-only; has locks of its own
	shared   *shared                // read-only after New; has locks of its own; nil: nothing is shared with other instances
	events   *sink                  // read-only; has a lock of its own
	sessions *sessions              // read-only; has a lock of its own
	queues   queues                 // has a lock of its own
	endings  chan struct{}          // a place for each ending that waits for its peer; read-only
	crowd    crowd                  // has a lock of its own
	unnamed  unnamed                // has a lock of its own
	looking  atomic.Bool            // lookSlowly runs
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
		events:  newSink(cfg),
		endings: make(chan struct{}, maxEndings),
	}
	if g.state == nil {
		g.state = NewState()
	}
	g.sessions = newSessions(g)
	g.events.spikes = newSpikes(g)
	g.endpoint = &Endpoint{g: g}
	if err := g.configure(cfg, nil); err != nil {
		return nil, err
	}
	var f faults
	g.shared = g.state.join(g, cfg.Shared, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	g.shared.awaitMarks()
	return g, nil
}

// Reconfigure replaces the Config. Further handshakes use the new Config, and so do further
// messages of open connections. The limits of messages, rates, hooks and close codes of an
// open connection are then the new ones. A bucket that was not full does not fill up because
// of the change.
//
// An open connection keeps the following of its handshake's Config:
//   - all of Timeouts
//   - Messages.Timeout, Messages.MaxFragments and Messages.ControlFrames
//   - Send, except for MaxTotalBytes
//   - Auth.FirstMessageTimeout and Auth.FirstMessageBytes
//   - its client, its subprotocol and the value of Attach
//
// If cfg has a mistake, Reconfigure returns an error and changes nothing. Switching
// Auth.Tickets on or off is a mistake. Reconfigure ignores State, Shared, Logger,
// OnEvent and Observer of cfg.
func (g *Guard) Reconfigure(cfg Config) error {
	g.setting.Lock()
	defer g.setting.Unlock()
	return g.configure(cfg, g.further)
}

// configure compiles cfg and stores the policy. The caller holds setting, unless it is New.
func (g *Guard) configure(cfg Config, further []EndpointConfig) error {
	var f faults
	if g.policy.Load() != nil {
		cfg.Shared = g.cfg.Shared
	}
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
	own := EndpointConfig{cfg.Name, cfg.Subprotocols, cfg.Messages, cfg.Attach}.clone()
	cfg.Subprotocols, cfg.Messages = own.Subprotocols, own.Messages
	return cfg
}

// Handler returns an http.Handler that guards and upgrades each request. It runs fn on a
// goroutine of its own, so that ServeHTTP returns and the request can be freed. ctx has no
// values of the request. It ends when the cause of the connection's end is fixed, and
// context.Cause returns that cause.
//
// When fn returns, the guard closes the connection with one of these codes:
//   - 1000 if the error is nil
//   - the code of a *[CloseError] that the error wraps, with its Reason as the text
//   - the code of a reason that the application has made with [reason.New], if the error wraps
//     one, with its token as the text
//   - 1011 for any other error, and for a panic
//
// If the connection has ended already, the result of fn changes nothing.
func (g *Guard) Handler(fn func(ctx context.Context, c *Conn) error) http.Handler {
	return g.endpoint.Handler(fn)
}

// Accept guards and upgrades one request. Use it instead of Handler if the request's
// middleware must stay around the connection. The caller must read from the connection, and
// must end it with [Conn.End]. If the request's context ends first, the guard closes the
// connection with 1001 request_done, or with 1012 if Shutdown has been called. When Accept
// returns an error, it has answered the request already.
//
// The slot of the connection is released when the connection and the request's context have
// ended. net/http ends that context when the handler has returned. So a handler that runs on
// after the end of its connection counts in [CapConfig], and Shutdown waits for it. A middleware
// that puts another context in the request must see to it that the context ends when the
// handler has returned. A context that can never end, whose Done is nil, does not count.
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
	holders := int32(1) // the socket
	if ctx.Done() != nil {
		holders++ // the request
	}
	c, r, err := e.accept(w, r, holders)
	if err != nil {
		return nil, err
	}
	if ctx.Done() != nil {
		// Deferred, because authenticate does the rest of the handshake.
		defer func() { context.AfterFunc(ctx, c.requestDone) }()
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
	if err := c.cause(); err != nil {
		return nil, err
	}
	return c, nil
}

// Draining reports whether Shutdown has been called. Use it for a readiness probe.
func (g *Guard) Draining() bool { return g.sessions.isDraining() }

// Conns returns how many slots are held, by connections and by handshakes. Guards that
// share a State share its slots.
func (g *Guard) Conns() int {
	held, _ := g.state.slots.figures()
	return held
}

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

// closeCode returns the close code of a reason. It is that of Config.CloseCodes, or else code, or
// else the reason's own if code is 0.
func (g *Guard) closeCode(why *reason.Reason, code StatusCode) StatusCode {
	if own, ok := g.policy.Load().codes[why]; ok {
		return own
	}
	if code != 0 {
		return code
	}
	return why.Code()
}

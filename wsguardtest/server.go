package wsguardtest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// Server is a server for one test. Its methods fail the test, so call them on the goroutine of
// the test.
type Server struct {
	// Guard is the Guard of the server. It is nil for a server of NewHTTPServer or ServerAt.
	Guard *wsguard.Guard

	// Config is what Guard was made of. A test that calls Guard.Reconfigure should change a copy
	// of it, so that the clients still get in and the events are still recorded.
	Config wsguard.Config

	// Events has the events of Guard. If Guard is nil, it has what the test passes to its method
	// Record.
	Events *Events

	// URL is the address of the server, such as "http://127.0.0.1:8080". Only HTTPClient and
	// DialContext reach a server in memory.
	URL string

	t      testing.TB
	addr   string           // host:port
	pipe   *wstest.Listener // nil: the server is reached over TCP
	client *http.Client
	dial   []DialOption // the defaults of a client and the options of the server
	open   *clients
}

// clients has the clients of a server, which end with the test.
type clients struct {
	mu   sync.Mutex // no other lock is taken while it is held
	drop []func()   // of each client
}

// NewServer serves handler behind a Guard, at every path, until the test ends. In a bubble of
// testing/synctest, t must be that of the bubble.
//
// When the test has ended, the server drops its clients, shuts the Guard down, and closes. The
// test fails if a handler has not returned then, or if a goroutine is left that the server, the
// Guard or the handler has started. The server waits 10 s for them, by the clock of the bubble if
// there is one.
func NewServer(t testing.TB, handler func(context.Context, *wsguard.Conn) error, opts ...Option) *Server {
	t.Helper()
	if handler == nil {
		t.Fatal("wsguardtest: NewServer: the handler is nil")
	}
	return NewServerFunc(t, func(g *wsguard.Guard) http.Handler { return g.Handler(handler) }, opts...)
}

// NewServerFunc is like [NewServer] for a handler that build makes with the Guard. Use it for
// Guard.Wrap, Guard.Accept, Guard.Endpoint, and for a router with several paths.
func NewServerFunc(t testing.TB, build func(*wsguard.Guard) http.Handler, opts ...Option) *Server {
	t.Helper()
	s, o, w := newServer(t, opts)
	s.Config = o.prepared(s.Events)
	w.do(func() {
		g, err := wsguard.New(s.Config)
		if err != nil {
			t.Fatalf("wsguardtest: the Config of the server has mistakes:\n%v", err)
		}
		s.Guard = g
		s.serve(build(g), o)
	})
	s.dial = append([]DialOption{defaultsOf(s.Config, s.addr)}, o.dial...)
	return s
}

// NewHTTPServer is like [NewServer] for a finished handler, which makes its own Guard. It does not
// shut that Guard down. [As] needs [Verify] as the Verifier of the Guard, and [NewEvents] records
// its events.
func NewHTTPServer(t testing.TB, handler http.Handler, opts ...Option) *Server {
	t.Helper()
	s, o, w := newServer(t, opts)
	if o.configured {
		t.Fatal("wsguardtest: NewHTTPServer: the option Config needs NewServer or NewServerFunc, which make a Guard of it")
	}
	w.do(func() { s.serve(handler, o) })
	s.dial = append([]DialOption{Origin(s.URL)}, o.dial...)
	return s
}

// ServerAt returns a server that runs already, at a URL such as "ws://127.0.0.1:8080/ws". Use it for
// a program that the test has started. The URL has the scheme ws or http. The clients send its path,
// and the origin of the server. At the end of the test the clients are dropped, and nothing else
// is done.
func ServerAt(t testing.TB, addr string, opts ...DialOption) *Server {
	t.Helper()
	u, err := url.Parse(addr)
	switch {
	case err != nil:
		t.Fatalf("wsguardtest: ServerAt: %v", err)
	case u.Scheme != "ws" && u.Scheme != "http" || u.Host == "":
		t.Fatalf("wsguardtest: ServerAt: %q is no URL such as ws://127.0.0.1:8080/ws", addr)
	case inBubble():
		t.Fatal("wsguardtest: ServerAt: a bubble of testing/synctest cannot wait for the network")
	}
	transport := new(http.Transport)
	s := &Server{
		Events: NewEvents(t), URL: "http://" + u.Host, t: t, addr: u.Host, open: new(clients),
		client: &http.Client{Transport: transport, Timeout: wstest.DefaultTimeout},
	}
	if u.Port() == "" {
		s.addr = net.JoinHostPort(u.Hostname(), "80")
	}
	s.dial = append([]DialOption{Origin(s.URL), Host(u.Host), Path(u.RequestURI())}, opts...)
	t.Cleanup(func() {
		s.end()
		transport.CloseIdleConnections()
	})
	return s
}

// newServer returns a server that does not serve yet. It registers the check of the goroutines,
// which then runs after everything else that the test has registered.
func newServer(t testing.TB, opts []Option) (*Server, *serverOptions, *watch) {
	t.Helper()
	o := new(serverOptions)
	for _, opt := range opts {
		opt.server(o)
	}
	if o.tcp && inBubble() {
		t.Fatal("wsguardtest: a bubble of testing/synctest cannot wait for the network: leave the option TCP out")
	}
	s := &Server{Events: NewEvents(t), t: t, open: new(clients)}
	w := newWatch()
	t.Cleanup(func() {
		t.Helper()
		w.check(t, o.goroutines)
	})
	return s, o, w
}

// serve starts the server.
func (s *Server) serve(h http.Handler, o *serverOptions) {
	s.t.Helper()
	if h == nil {
		s.t.Fatal("wsguardtest: the handler is nil")
	}
	serve := wstest.ServePipe
	if o.tcp {
		serve = wstest.Serve
	}
	srv := serve(s.t, h)
	s.addr, s.URL, s.pipe, s.client = srv.Addr, srv.URL, srv.Pipe, srv.HTTPClient()
	s.t.Cleanup(s.end)
}

// endGrace is how long the server waits for each of its parts to end.
const endGrace = 10 * time.Second

// end ends the clients and the Guard.
func (s *Server) end() {
	s.t.Helper()
	s.open.end()
	if s.Guard == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endGrace)
	defer cancel()
	if err := s.Guard.Shutdown(ctx); err != nil {
		s.t.Errorf("wsguardtest: a handler has not returned %v after its connection has ended. "+
			"A handler must return when its ctx ends, and when a method of its Conn returns an error", endGrace)
	}
}

// In returns the server for a subtest, which the methods then fail. Clients that it dials end with
// the subtest.
func (s *Server) In(t testing.TB) *Server {
	sub := *s
	sub.t, sub.Events = t, &Events{t, s.Events.log}
	return &sub
}

// HTTPClient returns a client for the server's other paths, such as that of a ticket. Its timeout
// is 10 s.
func (s *Server) HTTPClient() *http.Client { return s.client }

// DialContext connects to the server, whatever the address says. It has the form that
// http.Transport and the clients of other libraries take.
func (s *Server) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	if s.pipe != nil {
		return s.pipe.DialContext(ctx, "", "")
	}
	return new(net.Dialer).DialContext(ctx, "tcp", s.addr)
}

// prepared returns the Config of the Guard.
func (o *serverOptions) prepared(events *Events) wsguard.Config {
	cfg := o.config
	if len(cfg.Origins) == 0 && cfg.OriginFunc == nil && !cfg.SameOrigin && !cfg.InsecureSameOrigin && !cfg.InsecureAnyOrigin && !cfg.AllowMissingOrigin {
		cfg.Origins = []string{ownOrigin}
	}
	if cfg.Auth.Verifier == nil && cfg.Auth.Authenticate == nil && cfg.Auth.Tickets == nil {
		cfg.Auth.InsecureAnonymous = true
	}
	admitPrincipals(&cfg.Auth)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	hook := cfg.OnEvent
	cfg.OnEvent = func(ev audit.Event) {
		events.Record(ev)
		if hook != nil {
			hook(ev)
		}
	}
	return cfg
}

// ownOrigin is the origin of the clients if the Config names none.
const ownOrigin = "https://wsguardtest.example"

// star stands for the star of a pattern.
const star = "wsguardtest"

// defaultsOf returns the option that gives a client the Host, the Origin and the subprotocols
// that a Config admits.
func defaultsOf(cfg wsguard.Config, addr string) DialOption {
	host := addr
	if len(cfg.Hosts) > 0 {
		host = strings.Replace(cfg.Hosts[0], "*", star, 1)
	}
	var origin string
	switch {
	case len(cfg.Origins) > 0:
		origin = strings.Replace(cfg.Origins[0], "://*.", "://"+star+".", 1)
		origin = strings.TrimSuffix(origin, ":*") // the pattern for localhost, which has any port
	case cfg.SameOrigin, cfg.InsecureSameOrigin, cfg.OriginFunc != nil, cfg.InsecureAnyOrigin:
		origin = "http://" + host
	}
	names := slices.Clone(cfg.Subprotocols)
	return dialOption(func(o *dialOptions) {
		o.host, o.subprotocols = host, names
		Origin(origin).dial(o)
	})
}

// A bubble's clock starts in the year 2000.
func inBubble() bool { return time.Now().Year() < 2020 }

// patience is how long a test waits for what must come.
func patience(t testing.TB) time.Duration {
	if inBubble() {
		return 24 * time.Hour
	}
	d := 10 * time.Second
	if t, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if by, ok := t.Deadline(); ok {
			d = min(d, max(time.Until(by)-time.Second, time.Second)) // rather this test than all
		}
	}
	return d
}

// dialing returns the options of a client.
func (s *Server) dialing(opts []DialOption) *dialOptions {
	s.t.Helper()
	o := &dialOptions{path: "/", header: http.Header{}, timeout: patience(s.t)}
	for _, opt := range slices.Concat(s.dial, opts) {
		if opt.dial(o); o.err != nil {
			s.t.Fatalf("wsguardtest: %v", o.err)
		}
	}
	set := func(name, value string) {
		if _, own := o.header[name]; !own {
			o.header[name] = []string{value}
		}
	}
	if o.principal.Subject != "" {
		set("Authorization", "Bearer "+Token(s.t, o.principal))
	}
	if len(o.subprotocols) > 0 {
		set("Sec-Websocket-Protocol", strings.Join(o.subprotocols, ", "))
	}
	return o
}

// connect opens a connection without a handshake, from the address that o names.
func (s *Server) connect(o *dialOptions) net.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	var conn net.Conn
	var err error
	switch {
	case !o.from.IsValid():
		conn, err = s.DialContext(ctx, "", "")
	case s.pipe != nil:
		conn, err = s.pipe.DialFrom(netip.AddrPortFrom(o.from, uint16(50000+s.open.count()%10000)))
	default:
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.from, 0))}
		conn, err = d.DialContext(ctx, "tcp", s.addr)
	}
	if err != nil {
		s.t.Fatalf("wsguardtest: the client cannot connect: %v", err)
	}
	return conn
}

// count returns how many clients there have been.
func (c *clients) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.drop)
}

// add adds a client, which drop drops.
func (c *clients) add(drop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop = append(c.drop, drop)
}

// end drops all clients.
func (c *clients) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, drop := range c.drop {
		drop()
	}
}

// Package server is the server of the chat in examples/chat. A [Store] has what the server keeps,
// and connects the instances of a chat that has several of them.
package server

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/client/js"
	"github.com/wsguard/wsguard/operator"
)

//go:embed static
var static embed.FS

// What clients may send is written down in one place, for the guard to check
// and for the author of a client to read.
//
//go:embed schema.json
var schema []byte

// Options are the options of a [Server].
type Options struct {
	// Store keeps the logins and the messages. It must be set. The Server does not close it.
	Store Store

	// Proxy is the origin, such as https://localhost:8443, under which a proxy on this machine
	// serves the chat over TLS. The default is none.
	Proxy string

	// Key is the key that makes an operator of a login. The default is a new one.
	Key string

	// Guard changes the configuration of the guards. It is called once, and may be nil.
	Guard func(*wsguard.Config)

	Log *slog.Logger // must be set
}

// Server is an instance of the chat.
type Server struct {
	app    *app
	l      net.Listener
	origin string
}

// New returns a server on a listener, which must be on a loopback address.
func New(l net.Listener, o Options) (*Server, error) {
	origins, err := loopbackOrigins(l.Addr(), o.Proxy)
	if err != nil {
		return nil, err
	}
	a, err := newApp(origins, o)
	if err != nil {
		return nil, err
	}
	return &Server{a, l, origins[0]}, nil
}

// Origin returns the address of the page.
func (s *Server) Origin() string { return s.origin }

// Key returns the key that makes an operator of a login.
func (s *Server) Key() string { return s.app.logins.key }

// Run serves until ctx ends, and then drains. It closes the listener. Call it once.
func (s *Server) Run(ctx context.Context) error {
	a := s.app
	defer s.l.Close()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := a.start(running); err != nil {
		return err
	}

	// These end with the handshake: what comes after it is the guard's to
	// bound.
	srv := &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(s.l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// The guards first: http.Server knows nothing of upgraded connections.
	// They refuse new handshakes while the server still answers.
	a.log.Info("draining")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(a.shutdown(ctx), srv.Shutdown(ctx))
}

// loopbackOrigins returns the origins under which a browser on this machine finds
// the listener, or that of the proxy in front of it.
func loopbackOrigins(addr net.Addr, proxy string) ([]string, error) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("%v is not a loopback address: elsewhere a chat needs TLS, and a login with passwords", addr)
	}
	if proxy == "" {
		port := strconv.Itoa(tcp.Port)
		return []string{"http://" + net.JoinHostPort("localhost", port), "http://" + net.JoinHostPort(tcp.IP.String(), port)}, nil
	}
	u, err := url.Parse(proxy)
	if err != nil || u.Scheme != "https" || proxy != "https://"+u.Host || (u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback()) {
		return nil, fmt.Errorf("%q is not an origin of this machine, such as https://localhost:8443", proxy)
	}
	return []string{proxy}, nil
}

// app is the chat without its listener.
type app struct {
	chat, lab *wsguard.Guard
	store     Store
	logins    *logins
	rooms     *rooms
	feed      *feed
	csp       string
	log       *slog.Logger

	operators map[string]http.Handler // of each guard, by its name
}

func newApp(origins []string, o Options) (*app, error) {
	a := &app{store: o.Store, rooms: newRooms(o.Store, o.Log), log: o.Log}
	a.feed = newFeed(a.rooms)
	messages, err := wsguard.CompileSchema(schema)
	if err != nil {
		return nil, err
	}
	// The origins are spelled out, never taken from a request: otherwise any
	// page whose name resolves to this machine would be one of ours.
	var hosts, sockets, proxies []string
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, u.Host)
		sockets = append(sockets, strings.Replace(o, "http", "ws", 1))
		if u.Scheme == "https" { // the proxy has the TLS
			proxies = []string{"127.0.0.1", "::1"}
		}
	}
	cfg := wsguard.Config{
		Origins: origins,
		Hosts:   hosts,
		Proxies: wsguard.Proxies{Trusted: proxies},
		// A browser cannot send a header with a WebSocket. The page buys a
		// ticket with its session cookie, over HTTP, and puts that into the
		// URL: thirty seconds later, or once used, it is worth nothing.
		Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}},
		Caps: wsguard.CapConfig{MaxConns: 200},
		// Tight, so that one press of a button shows them. A page that people
		// use wants to be told of a refusal; a program is better cut off.
		Rates:    wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: 4, Burst: 10}, Action: wsguard.ActionReply},
		Messages: wsguard.MessageConfig{Validator: messages, OnInvalid: wsguard.ActionReply},
		Timeouts: wsguard.TimeoutConfig{Idle: time.Hour}, // people read more than they write
		Logger:   o.Log,
		OnEvent:  a.feed.events("chat"),
		State:    wsguard.NewState(), // that the lab shares
	}
	if o.Guard != nil {
		o.Guard(&cfg)
	}
	if a.chat, err = wsguard.New(cfg); err != nil {
		return nil, err
	}
	a.rooms.hub.Guard = a.chat
	// The lab is where the page misbehaves: the same rules, but soon bored.
	// With the chat's State it shares the chat's tickets, connection slots and
	// revocations. Limits and connections are its own.
	cfg.Timeouts.Idle = 5 * time.Second
	cfg.OnEvent = a.feed.events("lab")
	if a.lab, err = wsguard.New(cfg); err != nil {
		return nil, err
	}
	a.logins = newLogins(a.chat.Admin().Revoke, o)
	a.logins.secure = proxies != nil
	a.operators = map[string]http.Handler{}
	for name, g := range map[string]*wsguard.Guard{"chat": a.chat, "lab": a.lab} {
		if a.operators[name], err = operator.New(g, operator.Config{Authorize: a.logins.operator}); err != nil {
			return nil, err
		}
	}
	a.csp = "default-src 'self'; connect-src 'self' " + strings.Join(sockets, " ") +
		"; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
	return a, nil
}

// start starts the goroutines of the chat. They end with ctx.
func (a *app) start(ctx context.Context) error {
	if err := a.store.Follow(ctx, a.rooms); err != nil {
		return err
	}
	go a.feed.run(ctx)
	go a.rooms.run(ctx)
	return nil
}

func (a *app) handler() http.Handler {
	pages, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // embedded: cannot be
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(pages))
	mux.Handle("GET /wsguard.js", js.Handler()) // the browser client, which reconnects
	mux.HandleFunc("POST /login", a.logins.login)
	mux.HandleFunc("GET /session", a.logins.whoami)
	mux.HandleFunc("POST /logout", a.logins.logout)
	mux.Handle("POST /ticket", a.chat.TicketHandler(a.logins.principal))
	for name, h := range a.operators {
		path := "/operator/" + name
		mux.Handle("GET "+path+"/", http.StripPrefix(path, h))
		mux.Handle("POST "+path+"/", http.StripPrefix(path, h))
	}
	mux.Handle("GET /ws", a.chat.Handler(a.rooms.serve))
	mux.Handle("GET /lab", a.lab.Handler(serveLab))

	// The guard checks host and origin of handshakes and tickets. The pages
	// and the login get the same here: the host by the guard's own piece,
	// against DNS rebinding, and the origin of every POST.
	var h http.Handler = http.NewCrossOriginProtection().Handler(mux)
	h = a.chat.Pieces().Host.Handler(h)
	return a.headers(h)
}

// headers lets the pages load nothing but what is embedded here, and lets
// nobody frame them.
func (a *app) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", a.csp)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

func (a *app) shutdown(ctx context.Context) error {
	return errors.Join(a.lab.Shutdown(ctx), a.chat.Shutdown(ctx))
}

// serveLab says ok to every message that the guard lets pass.
func serveLab(ctx context.Context, c *wsguard.Conn) error {
	for {
		if _, _, err := c.Read(ctx); err != nil {
			return err
		}
		if err := c.Write(ctx, wsguard.MessageText, []byte(`{"type":"ok"}`)); err != nil {
			return err
		}
	}
}

// Chat is a chat for browsers, with every message behind a wsguard.Guard, and
// a panel of buttons that break the rules so that each guard can be seen at
// work.
//
//	go run ./examples/chat
//
// and open http://localhost:8080. Kill it and start it again: the page comes
// back by itself, still logged in and with the last messages. README.md says
// what is in which file. A client that logs in with the operator key, which the
// program prints, also sees the guards' figures and can end connections.
package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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

func main() {
	addr := flag.String("addr", "localhost:8080", "loopback address to listen on")
	proxy := flag.String("proxy", "", "origin, such as https://localhost:8443, under which a proxy on this machine serves the chat over TLS")
	data := flag.String("data", defaultData(), "file that keeps the logins and the last messages over a restart; \"\" keeps nothing")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *proxy, *data, os.Stdout, log); err != nil {
		log.Error("chat", "error", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, addr, proxy, data string, stdout io.Writer, log *slog.Logger) (err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	origins, err := loopbackOrigins(l.Addr(), proxy)
	if err != nil {
		return err
	}
	store, err := openStore(data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	app, err := newApp(origins, store, log)
	if err != nil {
		return err
	}
	go app.feed.run(ctx)
	go app.rooms.run(ctx)

	// These end with the handshake: what comes after it is the guard's to
	// bound.
	srv := &http.Server{
		Handler:           app.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Fprintf(stdout, "open %s\noperator key: %s\nlogins and messages: %s\n",
		origins[0], app.logins.key, cmp.Or(data, "in memory only, and gone with the program"))
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// The guards first: http.Server knows nothing of upgraded connections.
	// They refuse new handshakes while the server still answers.
	log.Info("draining")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(app.shutdown(ctx), srv.Shutdown(ctx))
}

// defaultData is a file among those that the user may delete. It is "" where
// the system has no place for such files.
func defaultData() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "wsguard-chat", "data.jsonl")
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
	logins    *logins
	rooms     *rooms
	feed      *feed
	csp       string

	operators map[string]http.Handler // of each guard, by its name
}

func newApp(origins []string, store *store, log *slog.Logger) (*app, error) {
	a := &app{rooms: newRooms(store, log)}
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
		Logger:   log,
		OnEvent:  a.feed.events("chat"),
		State:    wsguard.NewState(), // that the lab shares
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
	a.logins = newLogins(a.chat.Admin().Revoke, store, log)
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

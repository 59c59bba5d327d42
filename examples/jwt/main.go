// Jwt is a chat whose WebSockets are opened with JSON Web Tokens that live two
// minutes, and whose page brings a new one before the old has expired.
//
//	cd examples/jwt && go run .
//
// and open http://localhost:8080. In this file the guard is put together;
// issuer.go stands for the identity provider that you have already, chat.go is
// the chat.
package main

import (
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
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/client/js"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
)

//go:embed static
var static embed.FS

// What clients may send, by its type, and which scope it takes. Schemas are
// strict: what they do not name is refused.
const (
	saySchema = `{"type": "object", "required": ["text"], "additionalProperties": false,
		"properties": {"type": true, "text": {"type": "string", "minLength": 1, "maxLength": 500}}}`
	refreshSchema = `{"type": "object", "required": ["token"], "additionalProperties": false,
		"properties": {"type": true, "token": {"type": "string", "minLength": 1}}}`
)

const audience = "wsguard-example-chat"

func main() {
	addr := flag.String("addr", "localhost:8080", "loopback address to listen on")
	ttl := flag.Duration("ttl", 2*time.Minute, "life of a token")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *ttl, os.Stdout, log); err != nil {
		log.Error("jwt", "error", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, addr string, ttl time.Duration, stdout io.Writer, log *slog.Logger) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		return fmt.Errorf("%v is not a loopback address: elsewhere this needs TLS, and no demo users", l.Addr())
	}
	port := strconv.Itoa(tcp.Port)
	app, err := newApp([]string{net.JoinHostPort("localhost", port), net.JoinHostPort(tcp.IP.String(), port)}, ttl, log)
	if err != nil {
		return err
	}

	// These end with the handshake: what comes after it is the guard's to
	// bound.
	srv := &http.Server{
		Handler:           app.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Fprintf(stdout, "open http://%s\n", app.hosts[0])
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// The guard first: http.Server knows nothing of upgraded connections. It
	// refuses new handshakes while the server still answers.
	log.Info("draining")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(app.guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// app is the program without its listener.
type app struct {
	hosts  []string
	issuer *issuer
	guard  *wsguard.Guard
	chat   *chat
}

// newApp makes one that is reached under these hosts; the last of them, an
// address, is where it finds itself.
func newApp(hosts []string, ttl time.Duration, log *slog.Logger) (*app, error) {
	self := "http://" + hosts[len(hosts)-1]
	iss, err := newIssuer(self, audience, ttl)
	if err != nil {
		return nil, err
	}
	// With an identity provider of your own, Issuer is an https URL, and
	// these four lines are all there is: the keys are discovered from it, as
	// they are here.
	verifier, err := wsguardjwt.New(wsguardjwt.Config{
		Issuer:     self,
		Audience:   []string{audience},
		Algorithms: []string{"ES256"},
		Type:       "at+jwt", // an access token: no ID token opens a socket
		Logger:     log,
	})
	if err != nil {
		return nil, err
	}
	say, err := wsguard.CompileSchema([]byte(saySchema))
	if err != nil {
		return nil, err
	}
	refresh, err := wsguard.CompileSchema([]byte(refreshSchema))
	if err != nil {
		return nil, err
	}
	messages := &wsguard.Table{Types: map[string]wsguard.Rule{
		"say":     {Validator: say, Scope: "chat:write", MaxBytes: 4 << 10},
		"refresh": {Validator: refresh, MaxBytes: 9 << 10},
	}}
	// The origins are spelled out, never taken from a request: otherwise any
	// page whose name resolves to this machine would be one of ours.
	var origins []string
	for _, h := range hosts {
		origins = append(origins, "http://"+h)
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins: origins,
		Hosts:   hosts,
		Auth: wsguard.AuthConfig{
			Verifier: verifier.Verify,
			// new WebSocket(url, ["chat", "bearer." + token]) is the one way
			// for a script to send a token with the handshake and not in the
			// URL. Programs use the header.
			Sources: wsguard.TokenSources{Header: true, Subprotocol: "bearer."},
			// A token outlives its logout by this at most; then nobody need
			// remember the logout.
			RevocationTTL: ttl + time.Minute,
			// A script sees no status: let a page know that it must log in.
			MaxExplained: 16,
		},
		Caps:         wsguard.CapConfig{MaxConns: 200},
		Messages:     wsguard.MessageConfig{Validator: messages, OnInvalid: wsguard.ActionReply, OnForbidden: wsguard.ActionReply},
		Timeouts:     wsguard.TimeoutConfig{Idle: time.Hour}, // people read more than they write
		Subprotocols: []string{"chat"},
		Logger:       log,
	})
	if err != nil {
		return nil, err
	}
	// Logging out ends the sockets of that login at once. Its tokens, good by
	// themselves until they expire, open no others.
	iss.signedOut = guard.Admin().SignOut
	return &app{hosts: hosts, issuer: iss, guard: guard, chat: newChat(guard)}, nil
}

func (a *app) handler() http.Handler {
	pages, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // embedded: cannot be
	}
	r := chi.NewRouter()
	r.Use(middleware.RequestID, middleware.Recoverer, a.headers)
	// The guard checks host and origin of handshakes. Everything else gets
	// the same here: the host against DNS rebinding, the origin of each POST.
	r.Use(a.guard.Pieces().Host.Handler, http.NewCrossOriginProtection().Handler)

	r.Method(http.MethodGet, "/ws", a.guard.Handler(a.chat.serve))
	r.Method(http.MethodGet, "/wsguard.js", js.Handler()) // the browser client, which reconnects
	r.Get("/.well-known/openid-configuration", a.issuer.configuration)
	r.Get("/.well-known/jwks.json", a.issuer.keys)
	r.Post("/login", a.issuer.login)
	r.Post("/token", a.issuer.token)
	r.Post("/logout", a.issuer.logout)
	r.Method(http.MethodGet, "/*", http.FileServerFS(pages))
	return r
}

// headers lets the page load nothing but what is embedded here, and lets nobody
// frame it or keep what has a token in it.
func (a *app) headers(next http.Handler) http.Handler {
	csp := "default-src 'self'; connect-src 'self' ws://" + strings.Join(a.hosts, " ws://") +
		"; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", csp)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// Html is a chat where messages may have markup. The guard lets in what has the
// right structure, and sanitises the markup before the chat gets it.
//
//	cd examples/html && go run .
//
// and open http://localhost:8080. In this file the guard is put together, chat.go
// is the chat, and markup.go says what is left of a message. README.md says when
// not to do this.
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

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/client/js"
	"github.com/wsguard/wsguard/sanitize"
)

//go:embed static
var static embed.FS

// What clients may send. A schema sees that there is a string, and how long it
// is; what a browser would make of it no schema can say.
const (
	markupSchema = `{"type": "object", "required": ["html"], "additionalProperties": false,
		"properties": {"type": true, "html": {"type": "string", "minLength": 1, "maxLength": 4000}}}`
	plainSchema = `{"type": "object", "required": ["text"], "additionalProperties": false,
		"properties": {"type": true, "text": {"type": "string", "minLength": 1, "maxLength": 4000}}}`
)

func main() {
	addr := flag.String("addr", "localhost:8080", "loopback address to listen on")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, os.Stdout, log); err != nil {
		log.Error("html", "error", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, addr string, stdout io.Writer, log *slog.Logger) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		return fmt.Errorf("%v is not a loopback address: elsewhere this needs TLS, and a login", l.Addr())
	}
	port := strconv.Itoa(tcp.Port)
	app, err := newApp([]string{net.JoinHostPort("localhost", port), net.JoinHostPort(tcp.IP.String(), port)}, newPolicy().Sanitize, log)
	if err != nil {
		return err
	}

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
	fmt.Fprintf(stdout, "open http://%s\n", app.hosts[0])
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// The guard first: http.Server knows nothing of upgraded connections.
	log.Info("draining")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(app.guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// app is the program without its listener.
type app struct {
	hosts []string
	guard *wsguard.Guard
	chat  *chat
}

// messages says what clients may send, by its type.
func messages() (*wsguard.Table, error) {
	markup, err := wsguard.CompileSchema([]byte(markupSchema))
	if err != nil {
		return nil, err
	}
	plain, err := wsguard.CompileSchema([]byte(plainSchema))
	if err != nil {
		return nil, err
	}
	return &wsguard.Table{Types: map[string]wsguard.Rule{
		"markup": {Validator: markup, Cost: 2}, // sanitising is work
		"plain":  {Validator: plain},
	}}, nil
}

// sanitizer lets clean change the markup of a message. The guard judges the message again
// then. So its schema refuses markup of which nothing is left, and markup that has become
// too long.
func sanitizer(clean func(string) string) sanitize.Message {
	return sanitize.ByKind(map[string]sanitize.Message{
		"markup": sanitize.At(sanitize.Chain(sanitize.String(clean), sanitize.Trim), "/html"),
	})
}

func newApp(hosts []string, clean func(string) string, log *slog.Logger) (*app, error) {
	table, err := messages()
	if err != nil {
		return nil, err
	}
	var origins []string
	for _, h := range hosts {
		origins = append(origins, "http://"+h)
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins:  origins,
		Hosts:    hosts,
		Auth:     wsguard.AuthConfig{InsecureAnonymous: true}, // examples/chat has a login
		Caps:     wsguard.CapConfig{MaxConns: 200},
		Rates:    wsguard.RateConfig{Action: wsguard.ActionReply},
		Messages: wsguard.MessageConfig{Validator: table, OnInvalid: wsguard.ActionReply, Sanitize: sanitizer(clean)},
		Timeouts: wsguard.TimeoutConfig{Idle: time.Hour}, // people read more than they write
		Logger:   log,
	})
	if err != nil {
		return nil, err
	}
	return &app{hosts: hosts, guard: guard, chat: newChat(guard)}, nil
}

func (a *app) handler() http.Handler {
	pages, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // embedded: cannot be
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(pages))
	mux.Handle("GET /wsguard.js", js.Handler()) // the browser client, which reconnects
	mux.Handle("GET /ws", a.guard.Handler(a.chat.serve))
	return a.headers(a.guard.Pieces().Host.Handler(mux))
}

// headers are the second line: should the sanitiser ever let a script through, no
// browser runs it. There is no inline script, no eval, no style attribute and no
// image from elsewhere; and only one place of app.js, by this name, may turn a
// string into HTML (Trusted Types).
func (a *app) headers(next http.Handler) http.Handler {
	csp := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws://" + strings.Join(a.hosts, " ws://") +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types sanitised-by-server"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", csp)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

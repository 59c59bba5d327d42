// Command tls is a WebSocket server that ends TLS itself.
//
//	go run ./examples/tls
//
// Open the address that it prints. README.md says what to change for a real server.
package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/wsguard/wsguard"
)

//go:embed index.html
var page []byte

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(ctx, os.Args[1:], os.Stdout, log); err != nil {
		log.Error("tls", "error", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, args []string, stdout io.Writer, log *slog.Logger) error {
	fs := flag.NewFlagSet("tls", flag.ContinueOnError)
	addr := fs.String("addr", "localhost:8443", "The server listens on this `address`.")
	origins := fs.String("origins", "", "The pages of these origins `a,b` may connect (default the server's own pages).")
	cert := fs.String("cert", "", "The certificate and its chain are in this PEM `file` (default a certificate for localhost that no browser trusts).")
	key := fs.String("key", "", "The key of the certificate is in this PEM `file`.")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if (*cert == "") != (*key == "") {
		return errors.New("-cert and -key belong together")
	}
	config, err := tlsConfig(*cert, *key, log)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if *origins == "" {
		host, _, _ := net.SplitHostPort(*addr)
		*origins = "https://" + net.JoinHostPort(host, port)
	}

	guard, err := wsguard.New(wsguard.Config{
		Origins: strings.Split(*origins, ","),
		Auth:    wsguard.AuthConfig{InsecureAnonymous: true}, // docs/authentication.md says how to know your users.
		Logger:  log,
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", guard.Handler(echo))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if *cert != "" {
			// Without a certificate of its own the host is localhost, and the browser would
			// use https for every other server there.
			w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	srv := &http.Server{
		Handler:           mux,
		TLSConfig:         config,
		ReadHeaderTimeout: 5 * time.Second, // It bounds the TLS handshake, too.
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.ServeTLS(l, "", "") }()
	fmt.Fprintf(stdout, "listening on %s\n", strings.Split(*origins, ",")[0])
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// The guard drains first, because http.Server.Shutdown does not see upgraded connections.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// tlsConfig returns the settings of a server. Without files it makes a certificate itself.
func tlsConfig(cert, key string, log *slog.Logger) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if cert == "" {
		c, err := selfSigned()
		config.Certificates = []tls.Certificate{c}
		return config, err
	}
	f := &files{cert: cert, key: key, log: log}
	if err := f.load(); err != nil {
		return nil, err
	}
	config.GetCertificate = f.get
	return config, nil
}

// echo sends every message back.
func echo(ctx context.Context, c *wsguard.Conn) error {
	for {
		typ, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.Write(ctx, typ, msg); err != nil {
			return err
		}
	}
}

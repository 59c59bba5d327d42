// Kubernetes is an echo server for a cluster. It has probes, and on SIGTERM it drains: it closes
// the connections with 1012, in batches, so that the clients come back to other pods.
//
//	cd examples/kubernetes && go run . -origins http://localhost:8080
package main

import (
	"context"
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(ctx, os.Args[1:], os.Stdout, log); err != nil {
		log.Error("the server has failed", "error", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	addr  string
	drain time.Duration
	cfg   wsguard.Config
}

func parse(args []string) (options, error) {
	fs := flag.NewFlagSet("kubernetes", flag.ContinueOnError)
	addr := fs.String("addr", ":8080", "The server listens on this `address`.")
	drain := fs.Duration("drain", 30*time.Second, "The connections are closed over the first half of this `time`, and cut at its end.")
	origins := fs.String("origins", "", "The pages of these origins `a,b` may connect.")
	proxies := fs.String("trusted-proxies", "", "The ingress has an address in these prefixes `a,b` (default no proxy).")
	if err := fs.Parse(args); err != nil {
		return options{}, err
	}
	cfg := wsguard.Config{
		Origins: strings.Split(*origins, ","),
		Auth:    wsguard.AuthConfig{InsecureAnonymous: true}, // docs/authentication.md says how to know your users.
	}
	if *proxies != "" {
		cfg.Proxies.Trusted = strings.Split(*proxies, ",")
	}
	return options{*addr, *drain, cfg}, nil
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, args []string, stdout io.Writer, log *slog.Logger) error {
	opts, err := parse(args)
	if err != nil {
		return err
	}
	opts.cfg.Logger = log
	guard, err := wsguard.New(opts.cfg)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", opts.addr)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           handler(guard),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Fprintf(stdout, "listening on http://%s\n", l.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// The guard drains first. Meanwhile the server still answers the probes.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opts.drain)
	defer cancel()
	err = errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("connections were cut at the end of the drain")
		return srv.Close()
	}
	return err
}

// handler has the endpoint and the probes.
func handler(guard *wsguard.Guard) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /ws", guard.Handler(echo))
	// Liveness: the process answers. A pod that drains must not fail it, or it would be killed.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "ok\n")
	})
	// Readiness: a pod that drains wants no new clients.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if guard.Draining() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	return mux
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

// Proxyproto is a WebSocket server behind a TCP load balancer, which tells it who
// the clients are by the PROXY protocol:
// https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
//
//	cd examples/proxyproto && go run . -trusted 127.0.0.1
//
// listens for the balancer; haproxy.cfg, in the same directory, is one. All there
// is to see is in listener.go: a guard takes the client's address from RemoteAddr
// and needs no configuration.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/wsguard/wsguard"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, log); err != nil {
		log.Error("proxyproto", "error", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, args []string, stdout io.Writer, log *slog.Logger) error {
	fs := flag.NewFlagSet("proxyproto", flag.ContinueOnError)
	addr := fs.String("addr", "127.0.0.1:8444", "address that the balancer connects to")
	trusted := fs.String("trusted", "", "addresses and prefixes of the balancer, such as 10.0.0.0/24,10.0.1.7")
	headerTimeout := fs.Duration("header-timeout", 2*time.Second, "time for the balancer to send its header")
	origins := fs.String("origins", "https://localhost:8443", "origins of the pages that may connect")
	cert := fs.String("cert", "", "certificate, a PEM file; default: one that nobody trusts, to try this out")
	key := fs.String("key", "", "its key")
	allowHTTP := fs.Bool("allow-http", false, "clear text: the balancer ends the TLS, and nothing else reaches -addr")
	perClient := fs.Int("max-conns-per-client", 0, "connections of a client; 0: the default, 64")
	if err := fs.Parse(args); err != nil {
		return err
	}

	guard, err := wsguard.New(wsguard.Config{
		Origins: strings.Split(*origins, ","),
		// Proxies stays empty: the address is RemoteAddr. With prefixes in it,
		// a client that has an address in one of them could name another in
		// an X-Forwarded-For.
		Caps: wsguard.CapConfig{MaxConnsPerClient: *perClient},
		// The PROXY protocol does not say whether the client used TLS. What
		// arrives in clear text is refused, unless it is known to be otherwise.
		InsecureAllowHTTP: *allowHTTP,
		// Who they are is another example's subject.
		Auth:   wsguard.AuthConfig{InsecureAnonymous: true},
		Logger: log,
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /ws", guard.Handler(echo))
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second, // the TLS handshake's as well
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	if !*allowHTTP {
		if srv.TLSConfig, err = tlsConfig(*cert, *key); err != nil {
			return err
		}
	}

	l, err := listen(*addr, strings.Split(*trusted, ","), *headerTimeout)
	if err != nil {
		return err
	}
	defer l.Close()
	failed := make(chan error, 1)
	go func() {
		if *allowHTTP {
			failed <- srv.Serve(l)
		} else {
			// The balancer's header comes first, in clear text; then the
			// client's TLS, which the balancer has only passed on.
			failed <- srv.ServeTLS(l, "", "")
		}
	}()
	fmt.Fprintf(stdout, "listening on %s\n", l.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// The guard first: http.Server knows nothing of upgraded connections.
	log.Info("draining")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// echo tells the client who it is, and then what it says.
func echo(ctx context.Context, c *wsguard.Conn) error {
	if err := c.Write(ctx, wsguard.MessageText, []byte("you are "+c.Client().String())); err != nil {
		return err
	}
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

func tlsConfig(cert, key string) (*tls.Config, error) {
	c, err := selfSigned()
	if cert != "" || key != "" {
		c, err = tls.LoadX509KeyPair(cert, key)
	}
	if err != nil {
		return nil, err
	}
	// WebSockets are HTTP/1.1.
	return &tls.Config{Certificates: []tls.Certificate{c}, NextProtos: []string{"http/1.1"}}, nil
}

// Local is a server for programs of one user on one machine, and its client.
//
//	go run ./examples/local
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/wsguard/wsguard"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("local", flag.ContinueOnError)
	addr := fs.String("addr", "127.0.0.1:0", "The server listens on this loopback `address`. Port 0 is a free port.")
	file := fs.String("token-file", "", "The token is in this `file` (default wsguard-local/token in the user's configuration directory).")
	connect := fs.String("connect", "", "Run the client, and connect to the server at this `address`.")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *file == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return err
		}
		*file = filepath.Join(dir, "wsguard-local", "token")
		if err := os.MkdirAll(filepath.Dir(*file), 0o700); err != nil {
			return err
		}
	}
	if *connect != "" {
		return say(ctx, *connect, *file, "hello", stdout)
	}
	return serve(ctx, *addr, *file, stdout)
}

// serve serves until ctx ends, and then drains.
func serve(ctx context.Context, addr, file string, stdout io.Writer) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	cfg, err := wsguard.LocalConfig(l.Addr(), file)
	if err != nil {
		return err
	}
	guard, err := wsguard.New(cfg)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: guard.Handler(echo), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Fprintf(stdout, "go run ./examples/local -token-file %q -connect %s\n", file, l.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
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

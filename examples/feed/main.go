// Feed is a server that only sends. It has the prices of a few symbols, and sends each change to
// all clients. A client that is slow gets fewer prices, and never an old one after a new one.
//
//	go run ./examples/feed
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/wsguard/wsguard"
)

// symbols are what the feed has prices of.
var symbols = []string{"AAA", "BBB", "CCC"}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "The server listens on this `address`.")
	every := flag.Duration("every", 100*time.Millisecond, "A price changes each `interval`.")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *every, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, addr string, every time.Duration, stdout io.Writer) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	cfg := config()
	cfg.Hosts, cfg.AllowMissingOrigin = []string{l.Addr().String()}, true // For pages, list their Origins.
	guard, err := wsguard.New(cfg)
	if err != nil {
		return err
	}
	f := newFeed()
	go f.change(ctx, every)
	srv := &http.Server{Handler: guard.Handler(f.serve), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Fprintf(stdout, "npx wscat -c ws://%s\n", l.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// config is for clients that only listen.
func config() wsguard.Config {
	return wsguard.Config{
		// Everybody may know the prices. docs/authentication.md says how to know your users.
		Auth: wsguard.AuthConfig{InsecureAnonymous: true},
		// Clients send no messages. The guard refuses a longer one at its first frame.
		Messages: wsguard.MessageConfig{MaxBytes: 1 << 10},
		// At most two prices of each symbol wait for a client: one that is being written, and one
		// that SendLatest replaces. So the queue is never full.
		Send: wsguard.SendConfig{MaxMessages: 2 * len(symbols)},
		// Prices may stay the same for hours. Pings find the clients that are gone.
		Timeouts: wsguard.TimeoutConfig{Idle: wsguard.Off},
	}
}

// change changes a price each interval, until ctx ends.
func (f *feed) change(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.set(symbols[rand.IntN(len(symbols))], 90+rand.IntN(20))
		}
	}
}

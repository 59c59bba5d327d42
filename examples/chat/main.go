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
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/wsguard/wsguard/examples/chat/server"
)

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
	store, err := server.OpenFile(data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	s, err := server.New(l, server.Options{Store: store, Proxy: proxy, Log: log})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "open %s\noperator key: %s\nlogins and messages: %s\n",
		s.Origin(), s.Key(), cmp.Or(data, "in memory only, and gone with the program"))
	return s.Run(ctx)
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

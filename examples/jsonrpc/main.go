// Jsonrpc is a server for JSON-RPC 2.0 over WebSocket, with some of the methods of the Model
// Context Protocol. Both sides call each other. The guard checks each call and each response
// against a JSON Schema.
//
//	go run ./examples/jsonrpc -token-file ~/.wsguard-token
//
// This file puts the guard together. peer.go has JSON-RPC, and tools.go has the methods.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/jsonrpc"
)

// schemas has the schemas of the calls of clients, by method, and those of their answers.
//
//go:embed methods client
var schemas embed.FS

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "The server listens on this loopback `address`. Port 0 is a free port.")
	token := flag.String("token-file", "", "The server keeps the token for its clients in this `file`.")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *addr, *token, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, addr, token string, stdout io.Writer) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	cfg, err := wsguard.LocalConfig(l.Addr(), token)
	if err != nil {
		return err
	}
	if cfg.Messages, err = messages(); err != nil {
		return err
	}
	sampled, err := compile("client/sampling.json")
	if err != nil {
		return err
	}
	m := &methods{sampled}
	cfg.Rates = wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: 5, Burst: 20}, Action: wsguard.ActionReply}
	guard, err := wsguard.New(cfg)
	if err != nil {
		return err
	}
	ws := guard.Handler(func(ctx context.Context, c *wsguard.Conn) error { return serve(ctx, c, m.handle) })
	srv := &http.Server{Handler: ws, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Fprintf(stdout, "npx wscat -c ws://%s -H \"Authorization: Bearer $(cat %s)\"\n", l.Addr(), token)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// messages says what clients may send. The client gets a JSON-RPC error for a call that the guard
// refuses.
func messages() (wsguard.MessageConfig, error) {
	table := &wsguard.Table{JSONRPC: true, Types: map[string]wsguard.Rule{}}
	err := fs.WalkDir(schemas, "methods", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		schema, err := compile(name)
		method := strings.TrimSuffix(strings.TrimPrefix(name, "methods/"), ".json")
		table.Types[method] = wsguard.Rule{Validator: schema}
		return err
	})
	if err != nil {
		return wsguard.MessageConfig{}, err
	}
	response, err := compile("client/response.json")
	if err != nil {
		return wsguard.MessageConfig{}, err
	}
	table.Absent = &wsguard.Rule{Validator: response} // a response has no method
	return wsguard.MessageConfig{Validator: table, OnInvalid: wsguard.ActionReply, Notice: jsonrpc.Notice}, nil
}

func compile(name string) (*wsguard.Schema, error) {
	src, err := schemas.ReadFile(name)
	if err != nil {
		return nil, err
	}
	schema, err := wsguard.CompileSchema(src)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return schema, nil
}

// Graphql guards the handler of gqlgen with Guard.Wrap. It serves a chat over
// graphql-transport-ws, the protocol of the npm package graphql-ws.
//
//	cd examples/graphql && go run .
//
// This file puts the guard and the handler together. policy.go says who the users are and what
// clients may send. session.go has what gqlgen's hooks know of a connection, and init.go lets
// clients authenticate in connection_init. chat.go has the resolvers, and exec.go stands for the
// code that gqlgen generates. client has a client in JavaScript.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/99designs/gqlgen/graphql/handler"
	"github.com/99designs/gqlgen/graphql/handler/extension"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/graphqlws"
	"github.com/wsguard/wsguard/reason"
)

// subprotocol is the only one that the server speaks.
const subprotocol = "graphql-transport-ws"

// options are the flags of the program.
type options struct {
	addr           string
	connectionInit bool          // clients may authenticate in connection_init
	ttl            time.Duration // how long a connection may last
}

func main() {
	var opts options
	flag.StringVar(&opts.addr, "addr", "localhost:8080", "The server listens on this loopback `address`.")
	flag.BoolVar(&opts.connectionInit, "connection-init", false, "Clients may also authenticate in connection_init.")
	flag.DurationVar(&opts.ttl, "ttl", 2*time.Minute, "A credential expires after this `time`. The client then connects again with a new one.")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, opts, os.Stdout, log); err != nil {
		log.Error("graphql", "error", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, opts options, stdout io.Writer, log *slog.Logger) error {
	l, err := net.Listen("tcp", opts.addr)
	if err != nil {
		return err
	}
	defer l.Close()
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		return fmt.Errorf("%v is not a loopback address: on another address this needs TLS and real users", l.Addr())
	}
	host := net.JoinHostPort("localhost", strconv.Itoa(tcp.Port))
	keys := map[string]string{"alice": rand.Text(), "bob": rand.Text()}
	a, err := newApp([]string{host, l.Addr().String()}, users(keys, opts.ttl), opts, log)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	for name, key := range keys {
		fmt.Fprintf(stdout, "node client/main.mjs http://%s %s # %s\n", host, key, name)
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(a.guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// app is the program without its listener.
type app struct {
	verify wsguard.Verifier
	guard  *wsguard.Guard
	gqlgen *handler.Server
	chat   *chat
	late   late // of init.go
}

// newApp returns a server that is reached under hosts.
func newApp(hosts []string, verify wsguard.Verifier, opts options, log *slog.Logger) (*app, error) {
	a := &app{verify: verify}
	table, err := messages()
	if err != nil {
		return nil, err
	}
	var origins []string
	for _, h := range hosts {
		origins = append(origins, "http://"+h)
	}
	a.guard, err = wsguard.New(wsguard.Config{
		Origins: origins,
		Hosts:   hosts,
		Auth: wsguard.AuthConfig{
			Verifier:          a.verify,
			Tickets:           &wsguard.TicketConfig{},
			Sources:           wsguard.TokenSources{TicketsOnly: true},
			InsecureAnonymous: opts.connectionInit, // init.go turns those away who do not authenticate
			MaxExplained:      20,                  // the client gives up after 4401, but not after a mere 401
		},
		Subprotocols: []string{subprotocol},
		CloseCodes:   reason.GraphQL(),
		Rates:        wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: 10, Burst: 20}, Action: wsguard.ActionReply},
		Messages: wsguard.MessageConfig{
			// Without this subprotocol gqlgen would speak an older protocol, so a client that
			// does not offer it gets a 400.
			Validators: map[string]wsguard.Validator{subprotocol: table},
			OnInvalid:  wsguard.ActionReply,
			Notice:     graphqlws.Notice,
		},
		Logger: log,
	})
	if err != nil {
		return nil, err
	}
	a.chat = newChat(a.kick)
	a.gqlgen = handler.New(newExecutable(a.chat))
	a.gqlgen.AddTransport(transport.Websocket{
		Implementation: accepter{transport.CoderWebsocketImplementation{
			AcceptOptions: websocket.AcceptOptions{InsecureSkipVerify: true}, // the guard has checked the origin
		}},
		InitFunc: a.connectionInit,
	})
	a.gqlgen.SetParserTokenLimit(100) // fragments that spread fragments double the work each time
	a.gqlgen.Use(extension.FixedComplexityLimit(20))
	a.gqlgen.AroundOperations(bounded)
	return a, nil
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /ticket", a.guard.TicketHandler(nil))
	mux.Handle("GET /graphql", a.guard.Wrap(sessions(a.gqlgen)))
	return mux
}

// kick ends the connections of a user and returns how many there were. The client gets 1008
// kicked, and does not connect again.
func (a *app) kick(name string) (n int) {
	for s := range a.guard.Admin().Sessions() {
		if s.Subject == name && a.guard.Admin().Kick(s.ID, 0, "by a moderator") {
			n++
		}
	}
	return n + a.late.kick(name)
}

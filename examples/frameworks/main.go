// Frameworks is an echo server behind one of five routers, each with an access log, compression
// and timeouts. Each router has a file of its own.
//
//	cd examples/frameworks && go run . -router chi
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
	"strings"
	"syscall"
	"time"

	"github.com/wsguard/wsguard"
)

// routes is what all routers serve.
type routes struct {
	ws      http.Handler  // at /ws, behind the access log only
	page    http.Handler  // at /, compressed and with a timeout
	timeout time.Duration // of the page
	log     io.Writer     // gets the access log
}

// routers makes the handler of the server, by the name of the router.
var routers = map[string]func(routes) http.Handler{
	"chi":  chiRouter,
	"echo": echoRouter,
	"gin":  ginRouter,
	"mux":  gorillaRouter,
	"std":  standardRouter,
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "The server listens on this loopback `address`.")
	router := flag.String("router", "std", "The router is this `one` of chi, echo, gin, mux and std.")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *router, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, addr, router string, stdout io.Writer) error {
	build, ok := routers[router]
	if !ok {
		return fmt.Errorf("there is no router %q", router)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{"http://" + l.Addr().String()},
		Auth:    wsguard.AuthConfig{InsecureAnonymous: true}, // docs/authentication.md says how to know your users.
	})
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           build(routes{guard.Handler(echoMessages), http.HandlerFunc(page), 5 * time.Second, os.Stderr}),
		ReadHeaderTimeout: 5 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Fprintf(stdout, "open http://%s\n", l.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// page connects to /ws, sends a message and shows the answer. Its size makes compression worth it.
func page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	io.WriteString(w, `<!doctype html><body><script>
const ws = new WebSocket("/ws");
ws.onopen = () => ws.send("hello");
ws.onmessage = (event) => document.body.append(event.data);
</script>`+strings.Repeat(" ", 2000))
}

// echoMessages sends every message back.
func echoMessages(ctx context.Context, c *wsguard.Conn) error {
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

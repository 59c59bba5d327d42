package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
)

// keys are the API keys of the users in tests.
var keys = map[string]string{"alice": "the-key-of-alice-0123456789", "bob": "the-key-of-bob-0123456789"}

// server is a running app.
type server struct {
	*app
	url     string
	tickets atomic.Int32 // how many tickets were asked for
	stop    func()       // ends the server, once
}

// serve starts an app with the users of keys. It ends with the test.
func serve(t *testing.T, opts options) *server {
	t.Helper()
	opts.addr = "127.0.0.1:0"
	return serveUsers(t, opts, users(keys, time.Minute))
}

// serveUsers is like serve, with users that verify knows.
func serveUsers(t *testing.T, opts options, verify wsguard.Verifier) *server {
	t.Helper()
	l, err := net.Listen("tcp", opts.addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{url: "http://" + l.Addr().String()}
	if s.app, err = newApp([]string{l.Addr().String()}, verify, opts, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	h := s.handler()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ticket" {
			s.tickets.Add(1)
		}
		h.ServeHTTP(w, r)
	})}
	go srv.Serve(l)
	s.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(s.guard.Shutdown(ctx), srv.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
		s.listeners(t, 0)
		eventually(t, "no session is left", func() bool {
			s.late.mu.Lock()
			defer s.late.mu.Unlock()
			return len(s.late.sessions) == 0
		})
	})
	t.Cleanup(s.stop)
	return s
}

// client is a client of npm's graphql-ws, which decides by itself whether it connects again.
type client struct {
	t      *testing.T
	stdin  io.Writer
	events chan event
}

// event is what testdata/driver.mjs says of a client.
type event struct {
	Event  string
	ID     string
	Code   int
	Text   string
	Data   map[string]any
	Errors []struct {
		Message    string
		Extensions map[string]any
	}
}

// program returns a command that runs a program in JavaScript. It skips the test without node
// or the packages.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node")
	}
	if _, err := os.Stat(filepath.Join("client", "node_modules", "graphql-ws")); err != nil {
		t.Skip("no graphql-ws: npm ci in examples/graphql/client")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, node, args...)
	cmd.Stderr = t.Output()
	t.Cleanup(cancel)
	return cmd
}

// connect starts a client with the options of newClient.
func connect(t *testing.T, s *server, user string, opts map[string]any) *client {
	t.Helper()
	all := map[string]any{"server": s.url, "key": keys[user]}
	for name, v := range opts {
		all[name] = v
	}
	arg, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	cmd := program(t, "testdata/driver.mjs", string(arg))
	stdin, stdout := start(t, cmd)
	c := &client{t, stdin, make(chan event, 1000)}
	go func() {
		defer close(c.events)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("%v in %s", err, lines.Bytes())
			}
			c.events <- e
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		for range c.events {
		}
		if err := cmd.Wait(); err != nil {
			t.Error("the client:", err)
		}
	})
	return c
}

func (c *client) send(m map[string]any) {
	c.t.Helper()
	b, err := json.Marshal(m)
	if err == nil {
		_, err = c.stdin.Write(append(b, '\n'))
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) run(id, query string, variables map[string]any) {
	c.t.Helper()
	c.send(map[string]any{"id": id, "query": query, "variables": variables})
}

// next returns the next event, which must be of this kind.
func (c *client) next(kind string) event {
	c.t.Helper()
	select {
	case e, ok := <-c.events:
		if !ok || e.Event != kind {
			c.t.Fatalf("got %+v, want %s", e, kind)
		}
		return e
	case <-time.After(20 * time.Second):
		c.t.Fatalf("no %s", kind)
	}
	panic("unreachable")
}

// closed expects that the connection is closed.
func (c *client) closed(code int, text string) {
	c.t.Helper()
	if e := c.next("closed"); e.Code != code || e.Text != text {
		c.t.Fatalf("closed with %d %s, want %d %s", e.Code, e.Text, code, text)
	}
}

// gaveUp expects that an operation fails because the client does not connect again.
func (c *client) gaveUp(id string, code int) {
	c.t.Helper()
	if e := c.next("gave up"); e.ID != id || e.Code != code {
		c.t.Fatalf("%+v, want that %s gives up after %d", e, id, code)
	}
}

// listen subscribes, and returns when the server has the subscription.
func (c *client) listen(s *server) {
	c.t.Helper()
	before := s.chat.listening()
	c.run("said", `subscription { said { who text } }`, nil)
	c.next("connecting")
	c.next("connected")
	s.listeners(c.t, before+1)
}

// listeners waits until there are n subscriptions.
func (s *server) listeners(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " subscriptions"), func() bool { return s.chat.listening() == n })
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for by := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(by) {
			t.Fatal("not in time: ", what)
		}
	}
}

// heard expects a message of the subscription.
func (c *client) heard(who, text string) {
	c.t.Helper()
	e := c.next("next")
	said, _ := e.Data["said"].(map[string]any)
	if e.ID != "said" || said["who"] != who || said["text"] != text {
		c.t.Fatalf("heard %+v, want %s: %s", e, who, text)
	}
}

// start starts a program and returns its standard input and output.
func start(t *testing.T, cmd *exec.Cmd) (stdin io.WriteCloser, stdout io.ReadCloser) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if stdout, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return stdin, stdout
}

// say sends a chat message in the name of a user without a connection.
func (s *server) say(text string) {
	s.chat.say(context.WithValue(context.Background(), sessionKey{}, &session{}), text)
}

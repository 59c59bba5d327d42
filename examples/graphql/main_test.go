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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/wsguardtest"
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
		if len(s.late.sessions) > 0 {
			t.Error("sessions are left")
		}
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
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
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
	for by := time.Now().Add(20 * time.Second); s.chat.listening() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(by) {
			t.Fatalf("%d subscriptions, want %d", s.chat.listening(), n)
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

// say says something as a user who has no connection.
func (s *server) say(text string) {
	s.chat.say(context.WithValue(context.Background(), sessionKey{}, &session{}), text)
}

func TestMessages(t *testing.T) {
	table, err := messages()
	if err != nil {
		t.Fatal(err)
	}
	wsguardtest.Messages(t, table, os.DirFS("testdata/messages"))
}

// ways are the two ways to authenticate.
var ways = map[string]struct {
	opts   options
	client map[string]any
}{
	"ticket":          {},
	"connection_init": {options{connectionInit: true}, map[string]any{"connectionInit": true}},
}

// both runs a test for each of the ways.
func both(t *testing.T, f func(t *testing.T, opts options, client map[string]any)) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, way.opts, way.client)
		})
	}
}

// A client subscribes, speaks and asks, and its operations have the user of its credential.
func TestChat(t *testing.T) {
	both(t, func(t *testing.T, opts options, way map[string]any) {
		s := serve(t, opts)
		c := connect(t, s, "bob", way)
		c.listen(s)
		c.run("say", `mutation ($t: String!) { said: say(text: $t) { __typename by: who } }`, map[string]any{"t": "<b>\u00e9"})
		var own map[string]any
		for range 3 {
			switch e := <-c.events; {
			case e.Event == "next" && e.ID == "say":
				own = e.Data["said"].(map[string]any)
			case e.Event == "next" && e.ID == "said":
				if said := e.Data["said"].(map[string]any); said["who"] != "bob" || said["text"] != "<b>\u00e9" {
					t.Errorf("heard %+v", e)
				}
			case e.Event != "complete" || e.ID != "say":
				t.Errorf("got %+v", e)
			}
		}
		if own["by"] != "bob" || own["__typename"] != "Message" {
			t.Errorf("the mutation returns %v", own)
		}
		c.run("ask", `{ n: listeners }`, nil)
		if e := c.next("next"); e.Data["n"] != 1.0 {
			t.Errorf("got %+v", e)
		}
		c.next("complete")
		c.send(map[string]any{"id": "said", "end": true})
		c.next("complete")
		s.listeners(t, 0)
		c.closed(1000, "Normal Closure")
	})
}

// When a credential expires, the client connects again with a new one, and its subscription
// goes on.
func TestExpiry(t *testing.T) {
	both(t, func(t *testing.T, opts options, way map[string]any) {
		// The first credential expires soon, and the others do not.
		short, long := users(keys, time.Second), users(keys, time.Minute)
		var used atomic.Bool
		opts.addr = "127.0.0.1:0"
		s := serveUsers(t, opts, func(ctx context.Context, token string) (wsguard.Principal, error) {
			if used.CompareAndSwap(false, true) {
				return short(ctx, token)
			}
			return long(ctx, token)
		})
		c := connect(t, s, "bob", way)
		c.run("said", `subscription { said { who text } }`, nil)
		c.next("connecting")
		c.next("connected")
		c.closed(4403, "expired")
		c.next("connecting")
		c.next("connected")
		s.listeners(t, 1)
		s.say("still there?")
		c.heard("", "still there?")
		if n, want := s.tickets.Load(), map[bool]int32{true: 2}[way == nil]; n != want {
			t.Errorf("%d tickets, want %d", n, want)
		}
	})
}

// A client that is kicked stays away, whichever fatal code it gets. After 4403 it comes back.
func TestKick(t *testing.T) {
	both(t, func(t *testing.T, opts options, way map[string]any) {
		s := serve(t, opts)
		c := connect(t, s, "bob", way)
		c.listen(s)
		moderator := connect(t, s, "alice", nil)
		moderator.run("kick", `mutation { kick(who: "bob") }`, nil)
		moderator.next("connecting")
		moderator.next("connected")
		if e := moderator.next("next"); e.Data["kick"] != 1.0 {
			t.Errorf("kicked %+v", e)
		}
		c.closed(1008, "kicked")
		c.gaveUp("said", 1008)
		if len(c.events) > 0 {
			t.Errorf("and then %+v", <-c.events)
		}
	})
	for code, stays := range map[wsguard.StatusCode]bool{0: true, 4400: true, 4401: true, 4429: true, 1011: true, 4403: false, 1013: false} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			s := serve(t, options{})
			c := connect(t, s, "bob", nil)
			c.listen(s)
			for session := range s.guard.Admin().Sessions() {
				s.guard.Admin().Kick(session.ID, code, "kicked")
			}
			want := int(code)
			if code == 0 {
				want = 1008
			}
			c.closed(want, "kicked")
			if stays {
				c.gaveUp("said", want)
				return
			}
			c.next("connecting")
			c.next("connected")
		})
	}
}

// A user who is no moderator cannot kick, and an operation that fails leaves the others alone.
func TestErrors(t *testing.T) {
	s := serve(t, options{})
	c := connect(t, s, "bob", nil)
	c.listen(s)
	for query, want := range map[string]string{
		`mutation { kick(who: "alice") }`:                  "only moderators may kick",
		`{ __schema { types { name } } }`:                  "__schema is not served",
		`subscription { said @skip(if: true) { who } }`:    "not one subscription",
		`subscription { a: said { who } b: said { who } }`: "not one subscription",
		`subscription { __typename }`:                      "must not select an introspection top level field",
		`{ nothing }`:                                      `Cannot query field "nothing" on type "Query".`,
		`{ a`:                                              "Expected Name, found <EOF>",
		`{ ` + strings.Repeat("listeners ", 99) + `}`:      "exceeded token limit of 100",
		`{ ` + aliases(21, "listeners") + ` }`:             "operation has complexity 21, which exceeds the limit of 20",
		`query ($t: String!) { __typename }`:               `Variable "$t" is never used`,
		`mutation { say(text: 1) { who } }`:                `String cannot represent a non string value: 1`,
		`query a { listeners } query b { listeners }`:      "operation  not found",
	} {
		c.run("op", query, nil)
		if e := c.next("next"); len(e.Errors) == 0 || !strings.Contains(e.Errors[0].Message, want) {
			t.Errorf("%s: %+v, want %s", query, e, want)
		}
		c.next("complete")
	}
	s.say("still there?")
	c.heard("", "still there?")
}

// aliases returns n fields of one name.
func aliases(n int, field string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d: %s ", i, field)
	}
	return b.String()
}

// A connection may have so many operations under way, and more are refused until one is over.
func TestOperations(t *testing.T) {
	s := serve(t, options{})
	c := connect(t, s, "bob", nil)
	c.listen(s)
	for i := range maxOperations - 1 {
		c.run(fmt.Sprint(i), `subscription { said { text } }`, nil)
	}
	s.listeners(t, maxOperations)
	c.run("more", `{ listeners }`, nil)
	if e := c.next("next"); len(e.Errors) != 1 || e.Errors[0].Message != "more than 16 operations" {
		t.Errorf("got %+v", e)
	}
	c.next("complete")
	c.send(map[string]any{"id": "3", "end": true})
	c.next("complete")
	s.listeners(t, maxOperations-1)
	c.run("again", `{ listeners }`, nil)
	if e := c.next("next"); e.Data["listeners"] != float64(maxOperations-1) {
		t.Errorf("got %+v", e)
	}
}

// A client without a valid credential gives up.
func TestNoCredential(t *testing.T) {
	for name, tt := range map[string]struct {
		opts   options
		client map[string]any
	}{
		"wrong key":                    {options{}, map[string]any{"key": "wrong"}},
		"wrong key, connection_init":   {options{connectionInit: true}, map[string]any{"key": "wrong", "connectionInit": true}},
		"wrong key, either":            {options{connectionInit: true}, map[string]any{"key": "wrong"}},
		"connection_init is not taken": {options{}, map[string]any{"connectionInit": true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.opts)
			c := connect(t, s, "bob", tt.client)
			c.run("said", `subscription { said { text } }`, nil)
			c.next("connecting")
			c.closed(4401, "unauthenticated")
			c.gaveUp("said", 4401)
		})
	}
}

// When the server restarts, its clients come back, and their subscriptions go on.
func TestRestart(t *testing.T) {
	both(t, func(t *testing.T, opts options, way map[string]any) {
		s := serve(t, opts)
		c := connect(t, s, "bob", way)
		c.listen(s)
		s.stop()
		c.closed(1012, "draining")
		opts.addr = strings.TrimPrefix(s.url, "http://")
		s = serveUsers(t, opts, users(keys, time.Minute))
		for e := range c.events { // those of attempts that fail are among them
			if e.Event == "connected" {
				break
			}
		}
		s.listeners(t, 1)
		s.say("hello again")
		c.heard("", "hello again")
	})
}

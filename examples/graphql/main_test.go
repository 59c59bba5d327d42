package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/wsguardtest"
)

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
	t.Parallel()
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
// continues.
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

// A client that is kicked stays away, and so it does if the application kicks it with a fatal
// code. After 4403 it comes back.
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
	for code, stays := range map[wsguard.StatusCode]bool{4401: true, 4403: false} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			s := serve(t, options{})
			c := connect(t, s, "bob", nil)
			c.listen(s)
			for session := range s.guard.Admin().Sessions() {
				s.guard.Admin().Kick(session.ID, code, "kicked")
			}
			c.closed(int(code), "kicked")
			if stays {
				c.gaveUp("said", int(code))
				return
			}
			c.next("connecting")
			c.next("connected")
		})
	}
}

// A user who is no moderator cannot kick, and an operation that fails leaves the others alone.
func TestErrors(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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

// flood runs n queries at once, and returns the events that follow until each has ended. Each
// query ends once.
func (c *client) flood(n int) (events []event) {
	c.t.Helper()
	for i := range n {
		c.run(fmt.Sprint("q", i), `{ listeners }`, nil)
	}
	ended := map[string]bool{}
	for len(ended) < n {
		e, ok := <-c.events
		if !ok {
			c.t.Fatalf("%d of %d queries end", len(ended), n)
		}
		events = append(events, e)
		if strings.HasPrefix(e.ID, "q") && e.Event != "next" {
			if ended[e.ID] {
				c.t.Errorf("%s ends twice", e.ID)
			}
			ended[e.ID] = true
		}
	}
	return events
}

// An operation above the rate gets an error that says when to try again. The other operations
// and the connection go on.
func TestRate(t *testing.T) {
	t.Parallel()
	s := serve(t, options{})
	c := connect(t, s, "bob", nil)
	c.listen(s)
	limited := 0
	for _, e := range c.flood(30) {
		switch e.Event {
		case "next", "complete":
		case "error":
			limited++
			x := e.Errors[0].Extensions
			if wait, _ := x["retryAfter"].(float64); x["code"] != "RATE_LIMITED" || wait <= 0 || wait > 0.1 {
				t.Errorf("got %+v", e)
			}
		default:
			t.Errorf("got %+v", e)
		}
	}
	if limited == 0 {
		t.Error("no operation is above the rate")
	}
	s.say("still there?")
	c.heard("", "still there?")
}

// A client that obeys retryAfter gets all its data.
func TestPatience(t *testing.T) {
	t.Parallel()
	s := serve(t, options{})
	c := connect(t, s, "bob", nil)
	c.listen(s)
	const together = maxOperations - 1 // and the subscription
	for wave := range 2 {
		for i := range together {
			c.send(map[string]any{"id": fmt.Sprint(wave, i), "query": `{ listeners }`, "patient": true})
		}
		for range together {
			if e := c.next("complete"); e.Data["listeners"] != 1.0 {
				t.Errorf("got %+v", e)
			}
		}
	}
}

// A client that ignores the notices uses them up. The guard then closes it, and it does not connect again.
func TestFlood(t *testing.T) {
	t.Parallel()
	s := serve(t, options{})
	c := connect(t, s, "bob", nil)
	c.listen(s)
	var closed, gaveUp int
	for _, e := range c.flood(200) {
		switch e.Event {
		case "closed":
			closed = e.Code
		case "gave up":
			gaveUp = e.Code
		case "connecting":
			t.Error("the client comes back")
		}
	}
	if closed != 4429 || gaveUp != 4429 {
		t.Errorf("closed with %d, gave up after %d", closed, gaveUp)
	}
}

// An operation that its schema refuses gets an error, and another message closes the connection.
func TestInvalid(t *testing.T) {
	t.Parallel()
	s := serve(t, options{})
	c := connect(t, s, "bob", nil)
	c.listen(s)
	c.run("long", `{ listeners }`+strings.Repeat(" ", 4000), nil)
	e := c.next("error")
	if x := e.Errors[0].Extensions; e.ID != "long" || x["code"] != "BAD_REQUEST" || x["reason"] != "schema" || x["pointer"] != "/payload/query" {
		t.Errorf("got %+v", e)
	}
	s.say("still there?")
	c.heard("", "still there?")

	init := connect(t, s, "bob", map[string]any{"connectionParams": map[string]any{"role": "admin"}})
	init.run("said", `subscription { said { text } }`, nil)
	init.next("connecting")
	init.closed(4400, "schema")
	init.gaveUp("said", 4400)
}

// A user whose credentials are revoked stays away.
func TestRevoke(t *testing.T) {
	t.Parallel()
	s := serve(t, options{})
	c := connect(t, s, "bob", nil)
	c.listen(s)
	s.guard.Admin().Revoke("bob")
	c.closed(4401, "revoked")
	c.gaveUp("said", 4401)
	again := connect(t, s, "bob", nil)
	again.run("said", `subscription { said { text } }`, nil)
	again.next("connecting")
	again.closed(4401, "unauthenticated")
	again.gaveUp("said", 4401)
}

// dial opens a connection without the client of graphql-ws.
func dial(t *testing.T, s *server, subprotocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	conn, res, err := websocket.Dial(ctx, s.url+"/graphql", &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {s.url}}, Subprotocols: subprotocols,
	})
	if err == nil {
		t.Cleanup(func() { conn.CloseNow() })
	}
	return conn, res, err
}

// A client that the guard has admitted as anonymous can do nothing before connection_init.
func TestBeforeInit(t *testing.T) {
	t.Parallel()
	for msg, code := range map[string]websocket.StatusCode{
		"": 4408, // nothing is sent
		`{"type":"subscribe","id":"1","payload":{"query":"mutation { say(text: \"x\") { who } }"}}`: 1002,
		`{"type":"connection_init"}`: 4401,
		`{"type":"connection_init","payload":{"Authorization":"Bearer wrong"}}`:  4401,
		`{"type":"connection_init","payload":[]}`:                                4400,
		`{"type":"connection_init","payload":{},"Payload":{"Authorization":""}}`: 4400,
	} {
		t.Run(msg, func(t *testing.T) {
			t.Parallel()
			s := serve(t, options{connectionInit: true})
			conn, _, err := dial(t, s, subprotocol)
			if err != nil {
				t.Fatal(err)
			}
			if msg != "" {
				if err := conn.Write(t.Context(), websocket.MessageText, []byte(msg)); err != nil {
					t.Fatal(err)
				}
			}
			if _, b, err := conn.Read(t.Context()); websocket.CloseStatus(err) != code {
				t.Errorf("%s, %v, want %d", b, err, code)
			}
		})
	}
}

// gqlgen speaks an older protocol to a client that does not offer the new one. The guard does not
// let such a client pass.
func TestSubprotocol(t *testing.T) {
	s := serve(t, options{connectionInit: true})
	for _, offer := range [][]string{nil, {"graphql-ws"}, {"chat"}} {
		if _, res, err := dial(t, s, offer...); err == nil || res == nil || res.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %v", offer, err)
		}
	}
}

// A listener that does not keep up is dropped, and delays nobody.
func TestSlowListener(t *testing.T) {
	c := newChat(nil)
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), sessionKey{}, &session{}))
	slow := c.listen(ctx)
	for range cap(slow) + 1 {
		c.say(ctx, "x")
	}
	if n := c.listening(); n != 0 {
		t.Errorf("%d listeners", n)
	}
	for range cap(slow) {
		<-slow
	}
	if _, ok := <-slow; ok {
		t.Error("the channel is not closed")
	}
	cancel()
}

// The client in the terminal says what it reads.
func TestTerminal(t *testing.T) {
	t.Parallel()
	s := serve(t, options{})
	cmd := program(t, "client/main.mjs", s.url, keys["bob"])
	stdin, stdout := start(t, cmd)
	lines := bufio.NewScanner(stdout)
	want := func(line string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != line {
			t.Fatalf("the client prints %q, want %q", lines.Text(), line)
		}
	}
	want("connected")
	s.listeners(t, 1)
	io.WriteString(stdin, "hello\n")
	want("bob: hello")
	io.WriteString(stdin, "/kick alice\n")
	want("only moderators may kick")
	s.kick("bob")
	want("closed: 1008 kicked")
	want("the client gives up after 1008 kicked")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Error(err)
	}
}

func TestRun(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, options{addr: "127.0.0.1:0", ttl: time.Minute}, stdout, slog.New(slog.DiscardHandler))
		stdout.Close()
		done <- err
	}()
	lines := bufio.NewScanner(out)
	for range keys {
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), "node client/main.mjs http://localhost:") {
			t.Fatalf("the server prints %q", lines.Text())
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := run(t.Context(), options{addr: "0.0.0.0:0"}, io.Discard, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("serves the demo users to everybody")
	}
}

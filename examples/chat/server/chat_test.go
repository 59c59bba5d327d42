package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/wsguardtest"
)

// serve starts the chat on a free port. The end of the test drains it, and
// finds every goroutine back.
func serve(t *testing.T) *wstest.Server {
	t.Helper()
	s, _ := serveApp(t)
	return s
}

// serveApp is serve for tests that need the app as well.
func serveApp(t *testing.T) (*wstest.Server, *app) {
	t.Helper()
	return serveStore(t, open(t, ""))
}

// serveStore is serveApp for tests that need another store.
func serveStore(t *testing.T, store Store) (*wstest.Server, *app) {
	t.Helper()
	wstest.CheckGoroutines(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(l, Options{Store: store, Log: slog.New(new(wstest.Log))})
	if err != nil {
		t.Fatal(err)
	}
	app := server.app
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if err := app.start(ctx); err != nil {
		t.Fatal(err)
	}
	s := wstest.ServeListener(t, l, app.handler())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := app.shutdown(ctx); err != nil {
			t.Error("shutdown:", err)
		}
		if n := app.chat.Conns() + app.lab.Conns(); n != 0 {
			t.Errorf("%d slots held after the drain", n)
		}
	})
	return s, app
}

// user is a browser without a screen: it keeps cookies and has an origin.
type user struct {
	t    *testing.T
	s    *wstest.Server
	http *http.Client
}

func newUser(t *testing.T, s *wstest.Server) *user {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &user{t, s, &http.Client{Jar: jar, Transport: tr, Timeout: 30 * time.Second}}
}

// post returns the status and the body.
func (u *user) post(path, body, origin string) (int, string) {
	u.t.Helper()
	req, err := http.NewRequest("POST", u.s.URL+path, strings.NewReader(body))
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Origin", origin)
	res, err := u.http.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func (u *user) login(name string) string {
	u.t.Helper()
	body, err := json.Marshal(map[string]string{"name": name})
	if err != nil {
		u.t.Fatal(err)
	}
	status, got := u.post("/login", string(body), u.s.Origin)
	var res struct{ Name string }
	if err := json.Unmarshal([]byte(got), &res); status != 200 || err != nil {
		u.t.Fatalf("login: %d %q", status, got)
	}
	return res.Name
}

func (u *user) ticket() string {
	u.t.Helper()
	status, got := u.post("/ticket", "", u.s.Origin)
	var res struct{ Ticket string }
	if err := json.Unmarshal([]byte(got), &res); status != 200 || err != nil || res.Ticket == "" {
		u.t.Fatalf("ticket: %d %q", status, got)
	}
	return res.Ticket
}

// dial returns the connection, or the status of the refusal.
func (u *user) dial(path, ticket string) (*conn, int) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	u.t.Cleanup(cancel)
	ws, res, err := websocket.Dial(ctx, u.s.URL+path+"?ticket="+ticket, &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {u.s.Origin}},
		HTTPClient: &http.Client{Transport: u.http.Transport},
	})
	if err != nil {
		if res == nil {
			u.t.Fatal(err)
		}
		return nil, res.StatusCode
	}
	u.t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(1 << 20)
	return &conn{u.t, ctx, ws}, res.StatusCode
}

func (u *user) connect(path string) *conn {
	u.t.Helper()
	c, status := u.dial(path, u.ticket())
	if c == nil {
		u.t.Fatalf("handshake: %d", status)
	}
	return c
}

type conn struct {
	t   *testing.T
	ctx context.Context
	ws  *websocket.Conn
}

func (c *conn) send(msg string) {
	c.t.Helper()
	if err := c.ws.Write(c.ctx, websocket.MessageText, []byte(msg)); err != nil {
		c.t.Fatal(err)
	}
}

// reply is any message of the server's: the chat's own, or a notice.
type reply struct {
	outgoing
	At                              int64 // of said
	Error, Reason, Pointer, Keyword string
}

// until reads on to the first message that fits.
func (c *conn) until(what string, fits func(reply) bool) reply {
	c.t.Helper()
	for {
		_, b, err := c.ws.Read(c.ctx)
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", what, err)
		}
		var m reply
		if err := json.Unmarshal(b, &m); err != nil {
			c.t.Fatalf("%v: %s", err, b)
		}
		if fits(m) {
			return m
		}
	}
}

func (c *conn) untilType(typ string) reply {
	c.t.Helper()
	return c.until(typ, func(m reply) bool { return m.Type == typ })
}

// closed reads on to the end.
func (c *conn) closed() (websocket.StatusCode, string) {
	c.t.Helper()
	for {
		_, _, err := c.ws.Read(c.ctx)
		var ce websocket.CloseError
		if errors.As(err, &ce) {
			return ce.Code, ce.Reason
		}
		if err != nil {
			c.t.Fatal("no close frame:", err)
		}
	}
}

func TestTalk(t *testing.T) {
	s := serve(t)
	alice, bob := newUser(t, s), newUser(t, s)
	if got := alice.login("alice"); got != "alice" {
		t.Errorf("alice is called %q", got)
	}
	if got := bob.login("Alice"); got != "Alice-2" {
		t.Errorf("the second alice is called %q", got)
	}
	a, b := alice.connect("/ws"), bob.connect("/ws")
	if m := b.untilType("welcome"); m.Name != "Alice-2" {
		t.Errorf("welcome, %q", m.Name)
	}
	a.send(`{"type":"join","room":"tea"}`)
	a.untilType("joined")
	a.send(`{"type":"say","room":"tea","text":"<b>first</b>"}`)
	a.untilType("said")
	b.send(`{"type":"join","room":"tea"}`)
	m := b.untilType("joined")
	if len(m.People) != 2 || len(m.History) != 1 || m.History[0].Text != "<b>first</b>" || m.History[0].Name != "alice" {
		t.Errorf("joined: %+v", m)
	}
	if m := a.untilType("here"); m.Name != "Alice-2" || m.Room != "tea" {
		t.Errorf("here: %+v", m)
	}
	b.send(`{"type":"say","room":"tea","text":"second"}`)
	if m := a.untilType("said"); m.Name != "Alice-2" || m.Text != "second" {
		t.Errorf("said: %+v", m)
	}
	b.send(`{"type":"leave","room":"tea"}`)
	b.untilType("left")
	b.send(`{"type":"say","room":"tea","text":"from outside"}`)
	b.untilType("problem")
	if m := a.untilType("gone"); m.Name != "Alice-2" {
		t.Errorf("gone: %+v", m)
	}
}

// A client that lost its connection cannot know whether its message arrived. It
// sends the message again, and nobody gets it twice.
func TestSendAgain(t *testing.T) {
	s := serve(t)
	alice, bob := newUser(t, s), newUser(t, s)
	alice.login("alice")
	bob.login("bob")
	a, b := alice.connect("/ws"), bob.connect("/ws")
	for _, c := range []*conn{a, b} {
		c.send(`{"type":"join","room":"tea"}`)
		c.untilType("joined")
	}
	const say = `{"type":"say","room":"tea","text":"once","id":"k-1"}`
	a.send(say)
	first := a.untilType("said")
	if first.ID != "k-1" || first.Text != "once" {
		t.Errorf("said: %+v", first)
	}
	a.send(say)
	if again := a.untilType("said"); again.ID != "k-1" || again.At != first.At || again.Text != "once" {
		t.Errorf("acknowledged again: %+v, first %+v", again, first)
	}
	// On another connection, before it has joined any room.
	a.ws.CloseNow()
	a = alice.connect("/ws")
	a.send(say)
	if again := a.untilType("said"); again.ID != "k-1" || again.At != first.At {
		t.Errorf("acknowledged on the next connection: %+v", again)
	}
	// The ID is this login's: the same of another login is another message, and
	// messages without an ID are never the same.
	for _, say := range []string{say, `{"type":"say","room":"tea","text":"plain"}`, `{"type":"say","room":"tea","text":"plain"}`} {
		b.send(say)
	}
	b.send(`{"type":"say","room":"elsewhere","text":"x","id":"k-2"}`)
	if m := b.untilType("problem"); m.ID != "k-2" {
		t.Errorf("problem: %+v", m)
	}
	a.send(`{"type":"join","room":"tea"}`)
	var got []string
	for _, m := range a.untilType("joined").History {
		got = append(got, m.Name+" "+m.Text+" "+m.ID)
	}
	if want := []string{"alice once k-1", "bob once k-1", "bob plain ", "bob plain "}; !slices.Equal(got, want) {
		t.Errorf("history: %q, want %q", got, want)
	}
	for _, id := range []string{`""`, `"` + strings.Repeat("x", 33) + `"`, `"a b"`, `"\n"`, `"a\n"`, `"é"`, `7`, `null`} {
		a.send(`{"type":"say","room":"tea","text":"x","id":` + id + `}`)
		if m := a.until("a notice", func(m reply) bool { return m.Error != "" || m.Type == "said" }); m.Error != "invalid_message" {
			t.Errorf("id %s: %+v", id, m)
		}
	}
}

func TestBounds(t *testing.T) {
	s := serve(t)
	u := newUser(t, s)
	u.login("alice")
	c := u.connect("/ws")
	for _, room := range []string{"lobby", "a", "b", "c", "d", "e"} {
		c.send(`{"type":"join","room":"` + room + `"}`)
	}
	c.untilType("problem") // a sixth room

	// A room is gone with the last who is in it; the lobby stays.
	c.ws.Close(websocket.StatusNormalClosure, "")
	c = u.connect("/ws")
	m := c.until("rooms without the old ones", func(m reply) bool { return m.Type == "rooms" && len(m.Rooms) == 1 })
	if m.Rooms[0].Name != firstRoom {
		t.Errorf("rooms: %+v", m.Rooms)
	}
}

// However people come and go, the last list of rooms is right.
func TestRoomList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms(open(t, ""), slog.New(slog.DiscardHandler))
		s := wsguardtest.NewServer(t, r.serve)
		r.hub.Guard = s.Guard
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.run(ctx)
		as := func(n int) *wsguardtest.Client {
			return s.Dial(wsguardtest.As(wsguard.Principal{Subject: fmt.Sprint("user", n/2)})) // two connections of each user
		}
		eye := s.Dial(wsguardtest.As(wsguard.Principal{Subject: "eye"}))
		var known []roomInfo
		random := rand.New(rand.NewPCG(1, 2))
		clients := make([]*wsguardtest.Client, 10)
		for round := range 20 {
			for range 20 {
				n := random.IntN(len(clients))
				switch c := clients[n]; {
				case c == nil:
					clients[n] = as(n)
				case random.IntN(4) == 0:
					c.CloseNow()
					clients[n] = nil
				default:
					do := []string{"join", "join", "leave"}[random.IntN(3)]
					c.WriteText(fmt.Sprintf(`{"type":%q,"room":"r%d"}`, do, random.IntN(3)))
				}
			}
			synctest.Wait()
			r.report([]event{{Kind: fmt.Sprint("end of ", round)}}, 0)
			for ended := false; !ended; {
				var m reply
				if err := json.Unmarshal([]byte(eye.ReadText()), &m); err != nil {
					t.Fatal(err)
				}
				if m.Type == "rooms" {
					known = m.Rooms
				}
				ended = m.Type == "events" && m.Events[0].Kind == fmt.Sprint("end of ", round)
			}
			if want := list(r.People()).Rooms; !slices.Equal(known, want) {
				t.Errorf("round %d: the last list is %v, and it should be %v", round, known, want)
			}
		}
	})
}

func TestTickets(t *testing.T) {
	s := serve(t)
	u := newUser(t, s)
	if status, _ := u.post("/ticket", "", s.Origin); status != http.StatusUnauthorized {
		t.Errorf("a ticket without a cookie: %d", status)
	}
	if _, status := u.dial("/ws", ""); status != http.StatusUnauthorized {
		t.Errorf("a handshake without a ticket: %d", status)
	}
	u.login("alice")
	if status, _ := u.post("/ticket", "", "https://evil.example"); status != http.StatusForbidden {
		t.Errorf("a ticket for another origin: %d", status)
	}
	ticket := u.ticket()
	if c, status := u.dial("/ws", ticket); c == nil {
		t.Errorf("first use: %d", status)
	}
	for _, path := range []string{"/ws", "/lab"} {
		if _, status := u.dial(path, ticket); status != http.StatusUnauthorized {
			t.Errorf("second use, at %s: %d", path, status)
		}
	}
}

func TestLogout(t *testing.T) {
	s := serve(t)
	u, other := newUser(t, s), newUser(t, s)
	u.login("alice")
	other.login("bob")
	ws, lab, stays := u.connect("/ws"), u.connect("/lab"), other.connect("/ws")
	ticket := u.ticket()
	if status, _ := u.post("/logout", "", "https://evil.example"); status != http.StatusForbidden {
		t.Errorf("logged out by another origin: %d", status)
	}
	if status, _ := u.post("/logout", "", s.Origin); status != http.StatusNoContent {
		t.Errorf("logout: %d", status)
	}
	for _, c := range []*conn{ws, lab} {
		if code, reason := c.closed(); code != 3000 || reason != "revoked" {
			t.Errorf("after the logout: closed %d %s", code, reason)
		}
	}
	if status, _ := u.post("/ticket", "", s.Origin); status != http.StatusUnauthorized {
		t.Errorf("a ticket after the logout: %d", status)
	}
	if _, status := u.dial("/ws", ticket); status != http.StatusUnauthorized {
		t.Errorf("an older ticket: %d", status)
	}
	stays.send(`{"type":"join","room":"lobby"}`)
	stays.untilType("joined")

	// The name is free again, and not banned.
	if got := u.login("alice"); got != "alice" {
		t.Errorf("alice is called %q", got)
	}
	u.connect("/ws").untilType("welcome")
}

func TestLoginRefused(t *testing.T) {
	s := serve(t)
	u := newUser(t, s)
	for body, want := range map[string]int{
		``:                    http.StatusBadRequest,
		`{"name":""}`:         http.StatusBadRequest,
		`{"name":"a b"}`:      http.StatusBadRequest,
		`{"name":"a\u202eb"}`: http.StatusBadRequest, // turns the line around
		`{"name":"` + strings.Repeat("a", 21) + `"}`: http.StatusBadRequest,
		strings.Repeat(" ", 2000) + `{"name":"a"}`:   http.StatusBadRequest,
	} {
		if status, got := u.post("/login", body, s.Origin); status != want {
			t.Errorf("login with %.30q: %d %s", body, status, got)
		}
	}
	if status, _ := u.post("/login", `{"name":"mallory"}`, "https://evil.example"); status != http.StatusForbidden {
		t.Errorf("login from another origin: %d", status)
	}
}

func TestInvalidMessage(t *testing.T) {
	s := serve(t)
	u := newUser(t, s)
	u.login("alice")
	c := u.connect("/ws")
	c.send(`{"type":"say","room":"lobby","text":42}`)
	m := c.until("a notice", func(m reply) bool { return m.Error != "" })
	if m.Error != "invalid_message" || m.Reason != "schema" || m.Pointer != "/text" || !strings.HasSuffix(m.Keyword, "/type") {
		t.Errorf("notice: %+v", m)
	}
	for _, bad := range []string{
		`{"type":"say","room":"lobby","text":"as somebody else","name":"bob"}`,
		`{"TYPE":"join","room":"lobby"}`,
		`{"type":"join","type":"leave","room":"lobby"}`,
		`{"type":"join","room":"Über"}`,
		`{"type":"join","room":""}`, // everybody
		`{"type":"say","room":"lobby","text":"` + strings.Repeat("x", 501) + `"}`,
		`{"type":"say","room":"lobby","text":"   "}`,
	} {
		c.send(bad)
		if m := c.until("a notice", func(m reply) bool { return m.Error != "" }); m.Error != "invalid_message" {
			t.Errorf("%.60s: %+v", bad, m)
		}
	}
	c.send(`{"type":"join","room":"lobby"}`) // still open
	c.untilType("joined")
}

func TestFlood(t *testing.T) {
	s := serve(t)
	alice, bob := newUser(t, s), newUser(t, s)
	alice.login("alice")
	bob.login("bob")
	watch, c := bob.connect("/ws"), alice.connect("/lab")
	for range 100 {
		c.send(`{"type":"say","room":"lobby","text":"x"}`)
	}
	ok := 0
	c.until("a notice", func(m reply) bool {
		if m.Type == "ok" {
			ok++
		}
		return m.Error == "rate_limited"
	})
	if ok < 10 || ok > 30 {
		t.Errorf("%d messages before the first refusal", ok)
	}
	// Everybody sees it, as few messages.
	messages, violations := 0, 0
	watch.until("the violations", func(m reply) bool {
		for _, e := range m.Events {
			if e.Kind == "violation" && e.Reason == "rate_limited" && e.Subject == "alice" && e.Guard == "lab" {
				violations += e.Count
			}
		}
		messages++
		return violations >= 60
	})
	if messages > 20 {
		t.Errorf("%d messages tell of %d violations", messages, violations)
	}
}

func TestClosed(t *testing.T) {
	s := serve(t)
	u := newUser(t, s)
	u.login("alice")
	for _, tt := range []struct {
		name, path string
		typ        websocket.MessageType
		msg        []byte
		code       websocket.StatusCode
		reason     string
	}{
		{"oversize", "/ws", websocket.MessageText, bytes.Repeat([]byte("x"), 40<<10), 1009, "message_too_big"},
		{"binary", "/ws", websocket.MessageBinary, []byte{1}, 1003, "message_type"},
		{"drill", "/ws", websocket.MessageText, []byte(`{"type":"drill"}`), 1012, "drill"},
		{"silence", "/lab", 0, nil, 3008, "idle"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := u.connect(tt.path)
			if tt.msg != nil {
				if err := c.ws.Write(c.ctx, tt.typ, tt.msg); err != nil {
					t.Fatal(err)
				}
			}
			if code, reason := c.closed(); code != tt.code || reason != tt.reason {
				t.Errorf("closed %d %s, want %d %s", code, reason, tt.code, tt.reason)
			}
		})
	}
}

func TestPages(t *testing.T) {
	s := serve(t)
	c := s.HTTPClient()
	defer c.CloseIdleConnections()
	for _, path := range []string{"/", "/app.js", "/wsguard.js", "/policy.js", "/lab.js", "/operator.js", "/style.css", "/icon.svg", "/none"} {
		res, err := c.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		want := http.StatusOK
		if path == "/none" {
			want = http.StatusNotFound
		}
		if res.StatusCode != want {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
		csp := res.Header.Get("Content-Security-Policy")
		for _, d := range []string{"default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, d) {
				t.Errorf("%s: no %s in %q", path, d, csp)
			}
		}
		if strings.Contains(csp, "unsafe") {
			t.Errorf("%s: %q", path, csp)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="} {
			if strings.Contains(string(body), bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
	// DNS rebinding: the pages too are only for the hosts that are served.
	req, _ := http.NewRequest("GET", s.URL, nil)
	req.Host = "evil.example"
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host: %d", res.StatusCode)
	}
}

func TestCookie(t *testing.T) {
	s := serve(t)
	u := newUser(t, s)
	res, err := u.http.Post(s.URL+"/login", "application/json", strings.NewReader(`{"name":"alice"}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	cookies := res.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("%d cookies", len(cookies))
	}
	if c := cookies[0]; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || len(c.Value) < 22 || c.MaxAge <= 0 {
		t.Errorf("cookie: %v", c)
	}
}

func TestOnlyLoopback(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "0.0.0.0:1": false, "[::]:1": false, "192.0.2.1:1": false} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := loopbackOrigins(a, ""); (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for proxy, want := range map[string]bool{
		"https://localhost": true, "https://localhost:8443": true, "https://127.0.0.1:8443": true, "https://[::1]:8443": true,
		"http://localhost:8443": false, "https://localhost:8443/": false, "https://a@localhost": false, "https://app.example.com": false,
		"https://192.0.2.1": false, "https://localhost.evil.test": false, "localhost:8443": false, "https://": false,
	} {
		got, err := loopbackOrigins(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, proxy)
		if (err == nil) != want || err == nil && !slices.Equal(got, []string{proxy}) {
			t.Errorf("%s: %v, %v", proxy, got, err)
		}
	}
}

// A server drains when its context ends.
func TestRun(t *testing.T) {
	wstest.CheckGoroutines(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(l, Options{Store: open(t, ""), Log: slog.New(new(wstest.Log))})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	url := server.Origin()
	u := newUser(t, &wstest.Server{URL: url, Origin: url})
	u.login("alice")
	c := u.connect("/ws")
	c.untilType("welcome")
	cancel()
	if code, reason := c.closed(); code != 1012 || reason != "draining" {
		t.Errorf("closed %d %s", code, reason)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("run does not end")
	}
}

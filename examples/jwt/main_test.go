package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// logTo keeps what is logged.
type logTo struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logTo) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logTo) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type program struct {
	url string
	log *logTo
	end func() // and wait for it
}

// start runs the whole program. Its end leaves no goroutine behind.
func start(t *testing.T, ttl time.Duration) *program {
	t.Helper()
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	p := &program{log: new(logTo)}
	done := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", ttl, stdout, slog.New(slog.NewTextHandler(p.log, nil)))
		stdout.Close()
		done <- err
	}()
	p.end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error("run:", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("does not end")
		}
	})
	t.Cleanup(func() {
		p.end()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		for by := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(by) {
				buf := make([]byte, 64<<10)
				t.Errorf("goroutines:\n%s", buf[:runtime.Stack(buf, true)])
				return
			}
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(<-done)
	}
	_, port, ok := strings.Cut(strings.TrimSpace(line), "http://localhost:")
	if !ok {
		t.Fatalf("said %q", line)
	}
	p.url = "http://127.0.0.1:" + port
	return p
}

// user is a browser without a screen: it keeps cookies and has an origin.
type user struct {
	t    *testing.T
	p    *program
	http *http.Client
}

func newUser(t *testing.T, p *program) *user {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &user{t, p, &http.Client{Jar: jar, Timeout: 10 * time.Second}}
}

func (u *user) do(method, path, body string, change ...func(*http.Request)) (int, string) {
	u.t.Helper()
	req, err := http.NewRequest(method, u.p.url+path, strings.NewReader(body))
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Origin", u.p.url)
	for _, f := range change {
		f(req)
	}
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

// grant returns the token of an answer.
func (u *user) grant(status int, body string) string {
	u.t.Helper()
	var m struct{ Token string }
	if err := json.Unmarshal([]byte(body), &m); status != 200 || err != nil || m.Token == "" {
		u.t.Fatalf("%d %s", status, body)
	}
	return m.Token
}

func (u *user) login(name string) string {
	u.t.Helper()
	b, err := json.Marshal(map[string]string{"name": name, "password": demoUsers[name].password})
	if err != nil {
		u.t.Fatal(err)
	}
	return u.grant(u.do("POST", "/login", string(b)))
}

func (u *user) token() string {
	u.t.Helper()
	return u.grant(u.do("POST", "/token", ""))
}

type conn struct {
	t   *testing.T
	ctx context.Context
	ws  *websocket.Conn
}

func (u *user) connect(token string) *conn {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	u.t.Cleanup(cancel)
	ws, res, err := websocket.Dial(ctx, u.p.url+"/ws", &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {u.p.url}}, Subprotocols: []string{"chat", "bearer." + token},
	})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { ws.CloseNow() })
	if got := res.Header.Get("Sec-Websocket-Protocol"); got != "chat" && got != "" {
		u.t.Errorf("subprotocol %q", got)
	}
	return &conn{u.t, ctx, ws}
}

func (c *conn) send(m incoming) {
	c.t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	// Only what the type has: the schema allows nothing else.
	b = []byte(strings.NewReplacer(`,"text":""`, "", `,"token":""`, "").Replace(string(b)))
	if err := c.ws.Write(c.ctx, websocket.MessageText, b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conn) want(typ string) outgoing {
	c.t.Helper()
	_, b, err := c.ws.Read(c.ctx)
	var m outgoing
	if err != nil || json.Unmarshal(b, &m) != nil || m.Type != typ {
		c.t.Fatalf("got %s, %v, want %s", b, err, typ)
	}
	return m
}

func (c *conn) closed(code websocket.StatusCode, reason string) {
	c.t.Helper()
	_, b, err := c.ws.Read(c.ctx)
	var ce websocket.CloseError
	if !errors.As(err, &ce) || ce.Code != code || ce.Reason != reason {
		c.t.Fatalf("got %s, %v, want %d %s", b, err, code, reason)
	}
}

// TestStory is what the page does: it logs in, talks, stays connected past its
// first token's end, and is gone when it logs out.
func TestStory(t *testing.T) {
	p := start(t, 6*time.Second)
	alice, bob := newUser(t, p), newUser(t, p)
	t1 := alice.login("alice")
	a, b := alice.connect(t1), bob.connect(bob.login("bob"))
	first := a.want("hello")
	if first.Name != "alice" {
		t.Errorf("hello: %+v", first)
	}
	b.want("hello")
	a.send(incoming{Type: "say", Text: "<b>hi</b>"})
	for _, c := range []*conn{a, b} {
		if m := c.want("said"); m.Name != "alice" || m.Text != "<b>hi</b>" {
			t.Errorf("said: %+v", m)
		}
	}

	// A token that is none leaves everything as it was; a new one counts.
	a.send(incoming{Type: "refresh", Token: t1[:len(t1)-4] + "AAAA"})
	a.want("problem")
	// Twice, so that each time there are some seconds to spare.
	t2, last := "", first
	for range 2 {
		time.Sleep(2 * time.Second)
		t2 = alice.token()
		a.send(incoming{Type: "refresh", Token: t2})
		m := a.want("refreshed")
		if m.Expires <= last.Expires || m.Name != "alice" {
			t.Errorf("refreshed: %+v, was %+v", m, last)
		}
		last = m
	}

	// Bob does not refresh. Alice outlives her first token.
	b.closed(3000, "expired")
	a.send(incoming{Type: "say", Text: "still here"})
	a.want("said")
	if time.Now().UnixMilli() < first.Expires {
		t.Error("bob's token was younger, and is over first")
	}

	// A second socket of the login, and one of another login of hers.
	same := alice.connect(t2)
	same.want("hello")
	elsewhere := newUser(t, p)
	other := elsewhere.connect(elsewhere.login("alice"))
	other.want("hello")
	if status, body := alice.do("POST", "/logout", ""); status != 204 {
		t.Errorf("logout: %d %s", status, body)
	}
	a.closed(3000, "revoked")
	same.closed(3000, "revoked")
	other.send(incoming{Type: "say", Text: "another login"})
	other.want("said")

	// The token is good by itself for some seconds still, and opens nothing.
	again := alice.connect(t2)
	again.closed(3000, "unauthenticated") // a page is told that much, whatever it was
	if status, _ := alice.do("POST", "/token", ""); status != 401 {
		t.Errorf("a token after the logout: %d", status)
	}
	fresh := alice.connect(alice.login("alice"))
	fresh.want("hello")

	// The end: told to come back, and nobody is left.
	p.end()
	fresh.closed(1012, "draining")
	other.closed(1012, "draining")
	if !regexp.MustCompile(`"websocket refusal" .*reason=revoked`).MatchString(p.log.String()) {
		t.Errorf("the old token was not refused for the logout:\n%s", p.log)
	}
	for _, secret := range []string{t1, t2} {
		for part := range strings.SplitSeq(secret, ".") {
			if strings.Contains(p.log.String(), part) {
				t.Errorf("logged %q", part)
			}
		}
	}
}

func TestAnotherSubject(t *testing.T) {
	p := start(t, 2*time.Minute)
	alice, bob := newUser(t, p), newUser(t, p)
	a := alice.connect(alice.login("alice"))
	a.want("hello")
	a.send(incoming{Type: "refresh", Token: bob.login("bob")})
	a.closed(1008, "refresh")
}

func TestRefused(t *testing.T) {
	p := start(t, 2*time.Minute)
	u := newUser(t, p)
	for name, tt := range map[string]struct {
		body   string
		change func(*http.Request)
		want   int
	}{
		"wrong password": {`{"name":"alice","password":"x"}`, nil, 401},
		"nobody":         {`{"name":"mallory","password":""}`, nil, 401},
		"no password":    {`{"name":"alice"}`, nil, 401},
		"no JSON":        {`name=alice`, nil, 400},
		"long":           {`{"name":"` + strings.Repeat("a", 2000) + `"}`, nil, 400},
		"another origin": {`{"name":"alice","password":"wonderland"}`, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403},
		"another host":   {`{"name":"alice","password":"wonderland"}`, func(r *http.Request) { r.Host = "evil.example" }, 421},
	} {
		var change []func(*http.Request)
		if tt.change != nil {
			change = append(change, tt.change)
		}
		if status, body := u.do("POST", "/login", tt.body, change...); status != tt.want {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, _ := u.do("POST", "/token", ""); status != 401 {
		t.Errorf("a token without a login: %d", status)
	}
	// A script would see 1006. So it is let in, told, and shut out.
	u.connect("nonsense").closed(3000, "unauthenticated")

	// What the scope, the type or the schema does not allow gets a notice.
	carol := newUser(t, p)
	for who, tt := range map[*conn]struct {
		m    incoming
		want string
	}{
		u.connect(u.login("alice")):         {incoming{Type: "shout", Text: "x"}, "unknown_type"},
		u.connect(u.token()):                {incoming{Type: "say", Text: strings.Repeat("x", 501)}, "schema"},
		carol.connect(carol.login("carol")): {incoming{Type: "say", Text: "x"}, "forbidden"},
	} {
		who.want("hello")
		who.send(tt.m)
		if _, b, err := who.ws.Read(who.ctx); err != nil || !strings.Contains(string(b), tt.want) {
			t.Errorf("%s, %v, want %s", b, err, tt.want)
		}
	}
}

func TestPages(t *testing.T) {
	p := start(t, time.Minute)
	u := newUser(t, p)
	for path, want := range map[string]string{
		"/":                                 "Demo users",
		"/app.js":                           "bearer.",
		"/wsguard.js":                       "export class Connection",
		"/style.css":                        "color-scheme",
		"/.well-known/openid-configuration": `"jwks_uri":"` + p.url + `/.well-known/jwks.json"`,
		"/.well-known/jwks.json":            `"crv":"P-256"`,
	} {
		if status, body := u.do("GET", path, ""); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, status, body)
		} else if strings.Contains(body, `"d":`) {
			t.Errorf("%s has a private key", path)
		}
	}
}

func TestLoopbackOnly(t *testing.T) {
	if err := run(t.Context(), "0.0.0.0:0", time.Minute, io.Discard, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("serves the demo users to everybody")
	}
}

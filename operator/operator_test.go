package operator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/operator"
)

const origin = "https://app.example.com"

// env is a server with a guarded endpoint at /ws and the handler for operators below /op.
type env struct {
	t     *testing.T
	g     *wsguard.Guard
	s     *httptest.Server
	asked int // calls of Authorize

	mu     sync.Mutex
	events []audit.Event // guarded by mu
}

func newEnv(t *testing.T, change func(*wsguard.Config), cfg operator.Config) *env {
	t.Helper()
	e := &env{t: t}
	c := wsguard.Config{
		Origins: []string{origin}, InsecureAllowHTTP: true,
		Auth: wsguard.AuthConfig{Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
			if token == "bad" {
				return wsguard.Principal{}, wsguard.ErrUnauthenticated
			}
			return wsguard.Principal{Subject: token, SessionID: "login-" + token, Scopes: []string{"read"}, Expires: time.Now().Add(time.Hour)}, nil
		}},
		Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
		Caps:  wsguard.CapConfig{MaxConnsPerSubject: 100},
		OnEvent: func(ev audit.Event) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.events = append(e.events, ev)
		},
	}
	if change != nil {
		change(&c)
	}
	g, err := wsguard.New(c)
	if err != nil {
		t.Fatal(err)
	}
	e.g = g
	if cfg.Authorize == nil {
		cfg.Authorize = func(r *http.Request) (string, error) {
			e.asked++
			if r.Header.Get("X-Operator") == "" {
				return "", wsguard.ErrNoCredential
			}
			return r.Header.Get("X-Operator"), nil
		}
	}
	h, err := operator.New(g, cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			if _, _, err := c.Read(ctx); err != nil {
				return err
			}
		}
	}))
	mux.Handle("/op/", http.StripPrefix("/op", h))
	e.s = httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g.Shutdown(ctx)
		e.s.Close()
	})
	return e
}

// open opens a connection of a subject.
func (e *env) open(token string) *websocket.Conn {
	e.t.Helper()
	c, _, err := e.dial(token, origin)
	if err != nil {
		e.t.Fatal(err)
	}
	return c
}

func (e *env) dial(token, origin string) (*websocket.Conn, *http.Response, error) {
	return websocket.Dial(e.t.Context(), e.s.URL+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{
		"Origin": {origin}, "Authorization": {"Bearer " + token},
	}})
}

// do sends a request as the operator root. kv are headers that replace others; an empty one is
// left out.
func (e *env) do(method, path, body string, kv ...string) *http.Response {
	e.t.Helper()
	r, err := http.NewRequest(method, e.s.URL+"/op"+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	r.Header.Set("X-Operator", "root")
	if method == "POST" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(kv); i += 2 {
		r.Header.Set(kv[i], kv[i+1])
		if kv[i+1] == "" {
			r.Header.Del(kv[i])
		}
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { res.Body.Close() })
	checkHeaders(e.t, res)
	return res
}

// checkHeaders checks what holds for every answer.
func checkHeaders(t *testing.T, res *http.Response) {
	t.Helper()
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		"Cross-Origin-Resource-Policy": "same-origin", "Access-Control-Allow-Origin": "",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// get returns the answer to a GET.
func (e *env) get(path string) (answer map[string]any) {
	e.t.Helper()
	return e.want(e.do("GET", path, ""), 200, "")
}

// post sends an act, and expects that it is done.
func (e *env) post(path, body string) {
	e.t.Helper()
	if answer := e.want(e.do("POST", path, body), 200, ""); answer["done"] != true {
		e.t.Errorf("%s: %v", path, answer)
	}
}

// want checks the status and the token of an answer, and returns it.
func (e *env) want(res *http.Response, status int, token string) (answer map[string]any) {
	e.t.Helper()
	b, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(b, &answer); err != nil {
		e.t.Fatalf("%v: %q", err, b)
	}
	if res.StatusCode != status || token != "" && answer["error"] != token {
		e.t.Errorf("%s: %d %s, want %d %s", res.Request.URL.Path, res.StatusCode, b, status, token)
	}
	return answer
}

// event waits for an event of a kind.
func (e *env) event(kind audit.Kind) (found audit.Event) {
	e.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		e.mu.Lock()
		i := slices.IndexFunc(e.events, func(ev audit.Event) bool { return ev.Kind == kind })
		if i >= 0 {
			found = e.events[i]
		}
		e.mu.Unlock()
		if i >= 0 {
			return found
		}
	}
	e.t.Fatalf("no event of kind %s", kind)
	return found
}

// sessions waits until n sessions are listed, and returns them.
func (e *env) sessions(n int) (all []map[string]any) {
	e.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if all = list(e.get("/sessions?limit=1000"), "sessions"); len(all) == n {
			return all
		}
	}
	e.t.Fatalf("%d sessions, want %d", len(all), n)
	return nil
}

func list(answer map[string]any, name string) (all []map[string]any) {
	entries, ok := answer[name].([]any)
	if !ok {
		return []map[string]any{{"no list": answer}}
	}
	for _, entry := range entries {
		all = append(all, entry.(map[string]any))
	}
	return all
}

var (
	reads = []string{"/sessions", "/bans", "/stats", "/limits", "/offenders", "/refusals"}
	acts  = map[string]string{
		"/kick": `{"id":"x"}`, "/ban": `{"client":"192.0.2.1","seconds":60}`, "/lift": `{"client":"192.0.2.1"}`,
		"/revoke": `{"subject":"alice"}`, "/restore": `{"subject":"alice"}`, "/signout": `{"session_id":"login-alice"}`,
	}
)

func TestNew(t *testing.T) {
	g, err := wsguard.New(wsguard.Config{Origins: []string{origin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}})
	if err != nil {
		t.Fatal(err)
	}
	ok := func(*http.Request) (string, error) { return "root", nil }
	for name, make := range map[string]func() (http.Handler, error){
		"no Authorize": func() (http.Handler, error) { return operator.New(g, operator.Config{}) },
		"no Guard":     func() (http.Handler, error) { return operator.New(nil, operator.Config{Authorize: ok}) },
	} {
		if h, err := make(); err == nil || h != nil {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
}

// Whatever Authorize does but return a name, nothing is shown and nothing is done.
func TestAuthorize(t *testing.T) {
	var authorize func() (string, error)
	e := newEnv(t, nil, operator.Config{Authorize: func(*http.Request) (string, error) { return authorize() }})
	e.open("alice")
	before := fmt.Sprint(e.g.Admin().Bans(), e.g.Stats().Revoked)
	for _, test := range []struct {
		name      string
		authorize func() (string, error)
		status    int
		token     string
	}{
		{"no credential", func() (string, error) { return "root", wsguard.ErrNoCredential }, 401, "unauthenticated"},
		{"bad", func() (string, error) { return "root", fmt.Errorf("x: %w", wsguard.ErrUnauthenticated) }, 401, "unauthenticated"},
		{"expired", func() (string, error) { return "root", wsguard.ErrExpired }, 401, "unauthenticated"},
		{"forbidden", func() (string, error) { return "root", wsguard.ErrForbidden }, 403, "forbidden"},
		{"unavailable", func() (string, error) { return "root", wsguard.ErrUnavailable }, 503, "unavailable"},
		{"another error", func() (string, error) { return "root", errors.New("secret of the database") }, 403, "forbidden"},
		{"no name", func() (string, error) { return "", nil }, 403, "forbidden"},
		{"panic", func() (string, error) { panic("secret of the database") }, 403, "forbidden"},
		{"panic with nil", func() (string, error) { panic(nil) }, 403, "forbidden"},
	} {
		authorize = test.authorize
		var all []*http.Response
		for _, path := range append([]string{"/", "/nothing"}, reads...) {
			all = append(all, e.do("GET", path, ""))
		}
		for path, body := range acts {
			all = append(all, e.do("POST", path, body), e.do("GET", path, ""), e.do("POST", path, body, "Content-Type", "text/plain"))
		}
		for _, res := range all {
			if answer := e.want(res, test.status, test.token); len(answer) != 1 {
				t.Errorf("%s: %s: %v", test.name, res.Request.URL.Path, answer)
			}
			if got := res.Header.Get("WWW-Authenticate"); (got != "") != (test.status == 401) {
				t.Errorf("WWW-Authenticate %q of a %d", got, test.status)
			}
		}
	}
	if after := fmt.Sprint(e.g.Admin().Bans(), e.g.Stats().Revoked); after != before {
		t.Errorf("%s, before %s", after, before)
	}
}

// A panic after the name is there leads to no answer.
func TestAuthorizePanics(t *testing.T) {
	e := newEnv(t, nil, operator.Config{Authorize: func(*http.Request) (string, error) {
		defer func() { panic(http.ErrAbortHandler) }()
		return "root", nil
	}})
	e.want(e.do("POST", "/revoke", acts["/revoke"]), 403, "forbidden")
}

// The page of another origin cannot act with the cookie of an operator.
func TestCrossOrigin(t *testing.T) {
	e := newEnv(t, nil, operator.Config{})
	for path, body := range acts {
		for _, headers := range [][]string{
			{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
			{"Sec-Fetch-Site", "cross-site", "Origin", e.s.URL},
		} {
			e.want(e.do("POST", path, body, headers...), 403, "cross_origin")
		}
	}
	if e.asked != 0 || len(e.g.Admin().Bans()) != 0 || e.g.Stats().Revoked != 0 {
		t.Error("a foreign page has acted")
	}
	for _, headers := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Origin", e.s.URL}, {}} {
		e.want(e.do("POST", "/ban", acts["/ban"], headers...), 200, "")
	}
}

func TestMethods(t *testing.T) {
	e := newEnv(t, nil, operator.Config{})
	check := func(path string, allowed ...string) {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"} {
			if slices.Contains(allowed, method) {
				continue
			}
			res := e.do(method, path, "")
			if res.StatusCode != 405 || res.Header.Get("Allow") != strings.Join(allowed, ", ") {
				t.Errorf("%s %s: %d, Allow %q", method, path, res.StatusCode, res.Header.Get("Allow"))
			}
		}
	}
	for _, path := range reads {
		check(path, "GET", "HEAD")
		get, head := e.do("GET", path, ""), e.do("HEAD", path, "")
		b, _ := io.ReadAll(head.Body)
		if get.StatusCode != 200 || head.StatusCode != 200 || len(b) != 0 || head.ContentLength <= 0 {
			t.Errorf("%s: GET %d, HEAD %d %d %q", path, get.StatusCode, head.StatusCode, head.ContentLength, b)
		}
	}
	for path := range acts {
		check(path, "POST")
	}
	for _, path := range []string{"/", "/sessions/", "/Sessions", "/sessions/x", "/%2e%2e/sessions", "/kick%00"} {
		e.want(e.do("GET", path, ""), 404, "not_found")
	}
}

func TestBodies(t *testing.T) {
	e := newEnv(t, nil, operator.Config{})
	long := strings.Repeat("x", 9000)
	for path, good := range acts {
		for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json; charset=latin1", "application/json-patch+json", ";"} {
			e.want(e.do("POST", path, good, "Content-Type", kind), 415, "content_type")
		}
		for body, token := range map[string]string{
			"": "body", "{": "body", "null": "field", "[]": "body", `"x"`: "body", "{}": "field", good + good: "body", good + "x": "body",
			strings.TrimSuffix(good, "}") + `,"more":1}`: "body", "{\"\xff\":1}": "body", strings.Replace(good, `":"`, `":1,"`, 1): "body",
			strings.NewReplacer(`"x"`, `""`, `"192.0.2.1"`, `""`, `"alice"`, `""`, `"login-alice"`, `""`).Replace(good): "field",
		} {
			e.want(e.do("POST", path, body), 400, token)
		}
		e.want(e.do("POST", path, `{"id":"`+long+`"}`), 413, "body_too_large")
	}
	for _, kind := range []string{"application/json; charset=utf-8", "Application/JSON;charset=UTF-8"} {
		e.want(e.do("POST", "/revoke", acts["/revoke"], "Content-Type", kind), 200, "")
	}
	if n := e.g.Stats().Revoked; n != 2 {
		t.Errorf("%d revocations", n)
	}
	for body, token := range map[string]string{
		`{"client":"192.0.2.1"}`: "field", `{"client":"192.0.2.1","seconds":0}`: "field", `{"client":"192.0.2.1","seconds":-1}`: "field",
		`{"client":"192.0.2.1","seconds":1e18}`: "field", `{"client":"192.0.2.1","seconds":1.5}`: "field", `{"client":1,"seconds":60}`: "field",
		`{"client":"192.0.2.1","seconds":9223372036854775807}`: "field", `{"client":"192.0.2.300","seconds":60}`: "ban",
		`{"client":"0.0.0.0/0","seconds":60}`: "ban", `{"client":"nobody","seconds":60}`: "ban",
	} {
		e.want(e.do("POST", "/ban", body), 400, token)
	}
	for _, body := range []string{
		`{"id":"x","code":1005}`, `{"id":"x","code":1006}`, `{"id":"x","code":1015}`, `{"id":"x","code":2999}`, `{"id":"x","code":5000}`,
		`{"id":"x","code":-1}`, `{"id":"x","text":"` + strings.Repeat("ä", 62) + `"}`,
	} {
		e.want(e.do("POST", "/kick", body), 400, "field")
	}
	if len(e.g.Admin().Bans()) != 0 {
		t.Errorf("%v", e.g.Admin().Bans())
	}
}

// Each act does what it says, and its event has the name of the operator.
func TestActs(t *testing.T) {
	e := newEnv(t, nil, operator.Config{})
	by := func(kind audit.Kind) audit.Event {
		t.Helper()
		ev := e.event(kind)
		if ev.Operator != "root" {
			t.Errorf("%s by %q", kind, ev.Operator)
		}
		return ev
	}
	code := func(c *websocket.Conn) websocket.StatusCode {
		_, _, err := c.Read(t.Context())
		return websocket.CloseStatus(err)
	}

	c := e.open("alice")
	id := e.sessions(1)[0]["id"].(string)
	e.post("/kick", fmt.Sprintf(`{"id":%q,"code":4001,"text":"bye"}`, id))
	if got := code(c); got != 4001 {
		t.Errorf("kicked with %d", got)
	}
	if ev := by(audit.Close); ev.By != audit.ByOperator {
		t.Errorf("%+v", ev)
	}
	e.want(e.do("POST", "/kick", `{"id":"`+id+`"}`), 404, "no_connection")

	e.post("/ban", `{"client":"2001:db8::1","seconds":3600,"why":"spam"}`)
	if ev := by(audit.Banned); ev.Client != "2001:db8::1" || ev.Detail != "spam" {
		t.Errorf("%+v", ev)
	}
	bans := list(e.get("/bans"), "bans")
	if len(bans) != 1 || bans[0]["client"] != "2001:db8::/64" || bans[0]["reason"] != "spam" || bans[0]["strikes"] != 0.0 {
		t.Errorf("%v", bans)
	}
	until, err := time.Parse(time.RFC3339, bans[0]["until"].(string))
	if d := time.Until(until); err != nil || d < 58*time.Minute || d > time.Hour {
		t.Errorf("until %v, %v", until, err)
	}
	e.post("/lift", `{"client":"2001:db8::/64"}`)
	by(audit.Lifted)
	e.want(e.do("POST", "/lift", `{"client":"2001:db8::/64"}`), 404, "no_ban")
	if bans := list(e.get("/bans"), "bans"); len(bans) != 0 {
		t.Errorf("%v", bans)
	}

	c = e.open("alice")
	e.sessions(1)
	e.post("/revoke", `{"subject":"alice"}`)
	if got := code(c); got != 3000 {
		t.Errorf("revoked with %d", got)
	}
	by(audit.Revoked)
	if _, res, err := e.dial("alice", origin); err == nil || res.StatusCode != 401 {
		t.Errorf("%v %v", res, err)
	}
	e.post("/restore", `{"subject":"alice"}`)
	by(audit.Restored)
	c = e.open("alice")
	e.sessions(1)
	e.post("/signout", `{"session_id":"login-alice"}`)
	if got := code(c); got != 3000 {
		t.Errorf("signed out with %d", got)
	}
	by(audit.SignedOut)
}

// The pages of the list have each connection that stays open once, in order.
func TestSessionPages(t *testing.T) {
	e := newEnv(t, nil, operator.Config{})
	const n = 23
	for i := range n {
		e.open(fmt.Sprintf("user-%d", i%3))
	}
	all := e.sessions(n)
	var want []string
	for _, s := range all {
		want = append(want, s["id"].(string))
	}
	for _, limit := range []int{1, 7, 23, 24} {
		var got []string
		for cursor, more := "", true; more; {
			answer := e.get(fmt.Sprintf("/sessions?limit=%d&cursor=%s", limit, cursor))
			page := list(answer, "sessions")
			if len(page) > limit || len(page) == 0 {
				t.Fatalf("a page of %d", len(page))
			}
			for _, s := range page {
				got = append(got, s["id"].(string))
			}
			cursor, more = answer["next"].(string)
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %v, want %v", limit, got, want)
		}
	}
	first := e.get("/sessions?limit=5")
	e.g.Admin().Kick(want[2], 0, "")
	e.g.Admin().Kick(want[10], 0, "")
	e.open("late")
	e.sessions(n - 1)
	rest := list(e.get("/sessions?cursor="+first["next"].(string)), "sessions")
	if len(rest) != n-5 || rest[0]["id"] != want[5] || rest[len(rest)-1]["subject"] != "late" {
		t.Errorf("%d after the first page: %v", len(rest), rest)
	}

	of := 0 // user-1
	for i, s := range all {
		if i != 2 && i != 10 && s["subject"] == "user-1" {
			of++
		}
	}
	for path, n := range map[string]int{
		"/sessions?subject=user-1": of, "/sessions?subject=nobody": 0, "/sessions?client=127.0.0.1": 22, "/sessions?client=127.0.0.0/8": 22,
		"/sessions?client=::ffff:127.0.0.1": 22, "/sessions?client=192.0.2.1": 0, "/sessions?client=nobody": 0,
		"/sessions?subject=late&client=127.0.0.1": 1, "/sessions?subject=user-1&limit=3": 3, "/sessions?subject=USER-1": 0,
	} {
		if got := list(e.get(path), "sessions"); len(got) != n {
			t.Errorf("%s: %d, want %d", path, len(got), n)
		}
	}
}

func TestParameters(t *testing.T) {
	e := newEnv(t, nil, operator.Config{})
	for _, query := range []string{
		"limit=0", "limit=-1", "limit=1001", "limit=x", "limit=1e3", "limit=99999999999999999999", "limit=1&limit=2", "cursor=x", "cursor=%00",
		"cursor=eA", "subjct=alice", "limit=1;cursor=", "%zz", "cursor=" + strings.Repeat("A", 4000),
	} {
		e.want(e.do("GET", "/sessions?"+query, ""), 400, "parameter")
		e.want(e.do("GET", "/bans?"+query, ""), 400, "parameter")
	}
	for _, path := range []string{"/stats?x=1", "/limits?limit=1", "/offenders?limit=1", "/refusals?cursor=", "/bans?subject=x"} {
		e.want(e.do("GET", path, ""), 400, "parameter")
	}
}

// An answer has no credential, and names a login only if Config says so.
func TestNoSecrets(t *testing.T) {
	for _, shown := range []bool{false, true} {
		e := newEnv(t, nil, operator.Config{SessionIDs: shown})
		e.open("alice")
		s := e.sessions(1)[0]
		if _, found := s["session_id"]; found != shown {
			t.Errorf("%v: %v", shown, s)
		}
		delete(s, "session_id")
		delete(s, "expires")
		delete(s, "since")
		delete(s, "last_message")
		delete(s, "id")
		want := map[string]any{
			"subject": "alice", "scopes": []any{"read"}, "client": "127.0.0.1", "origin": origin, "messages_in": 0.0, "messages_out": 0.0,
			"bytes_in": 0.0, "bytes_out": 0.0, "violations": 0.0, "violations_without_notice": 0.0, "dropped": 0.0,
		}
		if fmt.Sprint(s) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", s, want)
		}
	}
}

func TestActivity(t *testing.T) {
	e := newEnv(t, func(cfg *wsguard.Config) {
		cfg.Caps = wsguard.CapConfig{MaxConns: 50, MaxConnsPerSubject: 4}
	}, operator.Config{})
	for range 3 {
		e.open("alice")
	}
	e.sessions(3)
	for range 40 {
		e.dial("alice", "https://evil.example")
	}
	e.dial("bad", origin)

	refusals := list(e.get("/refusals"), "refusals")
	if len(refusals) != 17 || refusals[0]["reason"] != "unauthenticated" || refusals[0]["status"] != 401.0 {
		t.Errorf("%d refusals, the first %v", len(refusals), refusals[0])
	}
	for _, r := range refusals[1:] {
		if r["reason"] != "origin" || r["kind"] != "refusal" || r["client"] != "127.0.0.1" || r["origin"] != "https://evil.example" || r["path"] != "/ws" || r["status"] != 403.0 {
			t.Errorf("%v", r)
		}
	}
	if got := list(e.get("/refusals?reason=unauthenticated"), "refusals"); len(got) != 1 {
		t.Errorf("%v", got)
	}
	if got := list(e.get("/refusals?limit=2"), "refusals"); len(got) != 2 {
		t.Errorf("%v", got)
	}
	offenders := list(e.get("/offenders"), "offenders")
	if len(offenders) != 3 || offenders[0]["client"] != "127.0.0.1" || offenders[0]["of"] != "refusals" || offenders[0]["reason"] != "origin" || offenders[0]["count"].(float64) < 38 {
		t.Errorf("%v", offenders)
	}
	limits := e.get("/limits")
	if all := list(limits, "limits"); len(all) == 0 || all[0]["name"] != "Caps.MaxConns" || all[0]["max"] != 50.0 || all[0]["used"] != 3.0 {
		t.Errorf("%v", all)
	}
	fullest := list(limits, "fullest")
	if len(fullest) < 2 || fullest[0]["name"] != "Caps.MaxConnsPerSubject" || fullest[0]["of"] != "alice" || fullest[0]["max"] != 4.0 || fullest[0]["used"] != 3.0 {
		t.Errorf("%v", fullest)
	}
	stats := e.get("/stats")
	if stats["open"] != 3.0 || stats["handshakes_accepted"] != 3.0 || stats["handshakes_refused"].(map[string]any)["origin"] != 40.0 {
		t.Errorf("%v", stats)
	}
}

// What a client has chosen is escaped.
func TestHostileStrings(t *testing.T) {
	e := newEnv(t, nil, operator.Config{})
	r, _ := http.NewRequest("GET", e.s.URL+"/ws?token=s3cret", nil)
	r.URL.Opaque = ""
	r.URL.Path = "/ws"
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		"Origin": {"https://\u202e<script>" + strings.Repeat("x", 5000)}, "X-Request-Id": {"\u009b31m"}, "Authorization": {"Bearer s3cret"},
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	res = e.do("GET", "/refusals", "")
	b, _ := io.ReadAll(res.Body)
	if len(b) > 2000 || strings.Contains(string(b), "<script") || strings.Contains(string(b), "s3cret") || strings.ContainsAny(string(b), "\u202e\u009b") {
		t.Errorf("%d bytes: %s", len(b), b)
	}
}

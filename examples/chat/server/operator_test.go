package server

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// An operator sees what both guards do and can end a connection. Nobody else can.
func TestOperator(t *testing.T) {
	s, app := serveApp(t)
	alice, root, stranger := newUser(t, s), newUser(t, s), newUser(t, s)
	alice.login("alice")
	if status, body := root.post("/login", `{"name":"root","key":"guess"}`, s.Origin); status != http.StatusForbidden {
		t.Errorf("a wrong key: %d %s", status, body)
	}
	if status, body := root.post("/login", `{"name":"root","key":"`+app.logins.key+`"}`, s.Origin); status != http.StatusOK {
		t.Fatalf("the key: %d %s", status, body)
	}
	c := alice.connect("/ws")
	if m := c.untilType("welcome"); m.Operator {
		t.Error("alice is an operator")
	}
	o := root.connect("/ws")
	if m := o.untilType("welcome"); !m.Operator {
		t.Error("root is no operator")
	}
	o.ws.CloseNow()
	lab := alice.connect("/lab")
	lab.send(`{"type":"say","room":"lobby","text":42}`)
	lab.until("the notice", func(r reply) bool { return r.Error == "invalid_message" })

	get := func(u *user, path string) (int, string) {
		t.Helper()
		res, err := u.http.Get(s.URL + "/operator/" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	for u, want := range map[*user]int{stranger: 401, alice: 403, root: 200} {
		for _, path := range []string{"chat/sessions", "chat/stats", "lab/refusals", "lab/limits", "chat/offenders", "chat/bans"} {
			if status, body := get(u, path); status != want {
				t.Errorf("%s: %d %s, want %d", path, status, body, want)
			}
		}
	}
	if _, body := get(root, "lab/refusals"); !strings.Contains(body, `"reason":"schema"`) || !strings.Contains(body, `"subject":"alice"`) {
		t.Error(body)
	}
	_, body := get(root, "chat/sessions?subject=alice")
	var list struct{ Sessions []struct{ ID string } }
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Sessions) != 1 {
		t.Fatalf("%v %s", err, body)
	}
	kick := func(u *user, origin string) int {
		t.Helper()
		req, _ := http.NewRequest("POST", s.URL+"/operator/chat/kick", strings.NewReader(`{"id":"`+list.Sessions[0].ID+`"}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Origin", origin)
		res, err := u.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if a, b := kick(alice, s.Origin), kick(root, "https://evil.example"); a != 403 || b != 403 {
		t.Errorf("kicked by alice: %d, by a foreign page: %d", a, b)
	}
	if got := kick(root, s.Origin); got != 200 {
		t.Errorf("kick: %d", got)
	}
	if code, reason := c.closed(); code != 3003 || reason != "kicked" {
		t.Errorf("closed with %d %s", code, reason)
	}
}

// The page asks who is logged in, and nobody is no error.
func TestSession(t *testing.T) {
	s := serve(t)
	alice, stranger := newUser(t, s), newUser(t, s)
	alice.login("alice")
	for u, want := range map[*user]string{alice: `{"name":"alice"}`, stranger: `{"name":""}`} {
		res, err := u.http.Get(s.URL + "/session")
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if got := strings.TrimSpace(string(b)); res.StatusCode != http.StatusOK || got != want {
			t.Errorf("%d %s, want %s", res.StatusCode, got, want)
		}
	}
}

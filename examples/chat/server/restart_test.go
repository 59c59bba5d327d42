package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// With programEnv the test binary is the chat itself, and with fillEnv a program that fills the
// store in a file. So tests can kill them.
const (
	programEnv = "WSGUARD_CHAT_TEST_PROGRAM"
	fillEnv    = "WSGUARD_CHAT_TEST_FILL"
)

func TestMain(m *testing.M) {
	switch path := os.Getenv(fillEnv); {
	case os.Getenv(programEnv) != "":
		chat()
	case path != "":
		fill(path)
	default:
		os.Exit(m.Run())
	}
}

// chat is what the program does, whose package a test of this one cannot import.
func chat() {
	addr, data := flag.String("addr", "", ""), flag.String("data", "", "")
	flag.Parse()
	check := func(err error) {
		if err != nil {
			slog.Error("chat", "error", err)
			os.Exit(1)
		}
	}
	l, err := net.Listen("tcp", *addr)
	check(err)
	store, err := OpenFile(*data)
	check(err)
	s, err := New(l, Options{Store: store, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	check(err)
	fmt.Printf("open %s\noperator key: %s\n", s.Origin(), s.Key())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	check(s.Run(ctx))
}

// program is the chat in a process of its own.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer
	*wstest.Server
	key string
}

func command(t *testing.T, env string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), env)
	return cmd
}

// start returns once the program listens.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: command(t, programEnv+"=1", args...)}
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	lines := bufio.NewScanner(stdout)
	said := map[string]string{}
	for len(said) < 2 && lines.Scan() {
		what, value, _ := strings.Cut(lines.Text(), " http")
		if value == "" {
			what, value, _ = strings.Cut(lines.Text(), ": ")
		}
		said[what] = value
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(said["open"], "://"))
	if err != nil {
		p.kill()
		t.Fatalf("%v %q\n%s", err, said, &p.stderr)
	}
	addr := net.JoinHostPort(host, port)
	p.Server = &wstest.Server{Addr: addr, URL: "http://" + addr, Origin: "http://" + addr}
	p.key = said["operator key"]
	return p
}

// kill is kill -9.
func (p *program) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// host has ports that other tests do not use between the two starts of a program.
var host = func() string {
	if runtime.GOOS == "linux" {
		return "127.0.77.1"
	}
	return "127.0.0.1"
}()

// A user of a killed chat comes back with the same cookie, and finds each message that anybody has
// seen, once. What it sends again is not said twice.
func TestKill(t *testing.T) {
	const users, each, rooms = 10, 8, 4 // in the burst of the rate, and in the history
	for _, after := range []int{1, 23, 57} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			p := start(t, "-addr", host+":0", "-data", data)
			var people []*user
			var conns []*conn
			say := func(c *conn, who int) {
				for n := range each {
					c.send(fmt.Sprintf(`{"type":"say","room":"r%d","text":"%d of u%d","id":"%d-%d"}`, who%rooms, n, who, who, n))
				}
			}
			for i := range users {
				u := newUser(t, p.Server)
				u.login(fmt.Sprintf("u%d", i))
				people = append(people, u)
				conns = append(conns, u.connect("/ws"))
			}
			watch := people[0].connect("/ws")
			for i := range rooms {
				watch.send(fmt.Sprintf(`{"type":"join","room":"r%d"}`, i))
				watch.untilType("joined")
			}
			for i, c := range conns {
				c.send(fmt.Sprintf(`{"type":"join","room":"r%d"}`, i%rooms))
			}
			for i, c := range conns {
				say(c, i)
			}
			seen := map[string]bool{} // by any client
			for len(seen) < after {
				seen[watch.untilType("said").Text] = true
			}
			p.kill()
			for _, c := range append(conns, watch) {
				for {
					_, b, err := c.ws.Read(c.ctx)
					if err != nil {
						break
					}
					var m reply
					if err := json.Unmarshal(b, &m); err != nil {
						t.Fatal(err)
					}
					if m.Type == "said" {
						seen[m.Text] = true
					}
				}
			}

			start(t, "-addr", p.Addr, "-data", data)
			texts := func(u *user) map[string]int {
				got := map[string]int{}
				c := u.connect("/ws")
				for i := range rooms {
					c.send(fmt.Sprintf(`{"type":"join","room":"r%d"}`, i))
					for _, m := range c.untilType("joined").History {
						got[m.Text]++
						if !strings.HasSuffix(m.Text, " of "+m.Name) {
							t.Errorf("%s is said to be of %s", m.Text, m.Name)
						}
					}
				}
				return got
			}
			got := texts(people[0])
			for text := range seen {
				if got[text] != 1 {
					t.Errorf("%q was seen before the kill, and is there %d times", text, got[text])
				}
			}
			t.Logf("%d messages were seen, %d are kept", len(seen), len(got))
			for i, u := range people {
				c := u.connect("/ws")
				if m := c.untilType("welcome"); m.Name != fmt.Sprintf("u%d", i) {
					t.Errorf("u%d comes back as %s", i, m.Name)
				}
				c.send(fmt.Sprintf(`{"type":"join","room":"r%d"}`, i%rooms))
				say(c, i)
				for n := range each {
					id := fmt.Sprintf("%d-%d", i, n)
					c.until(id, func(m reply) bool { return m.Type == "said" && m.ID == id })
				}
			}
			got = texts(people[1])
			for text, n := range got {
				if n != 1 {
					t.Errorf("%q is there %d times", text, n)
				}
			}
			if len(got) != users*each {
				t.Errorf("%d messages after all were sent again, want %d", len(got), users*each)
			}
		})
	}
}

// A logout outlives a kill, and so does the end of an operator's key.
func TestKillLogins(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := start(t, "-addr", host+":0", "-data", data)
	alice, bob, root := newUser(t, p.Server), newUser(t, p.Server), newUser(t, p.Server)
	operator := func(u *user, p *program) {
		t.Helper()
		if status, body := u.post("/login", `{"name":"root","key":"`+p.key+`"}`, p.Origin); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		if m := u.connect("/ws").untilType("welcome"); !m.Operator {
			t.Error("root is no operator")
		}
	}
	alice.login("alice")
	bob.login("bob")
	operator(root, p)
	ticket := alice.ticket()
	site, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	stolen := bob.http.Jar.Cookies(site)
	if status, _ := bob.post("/logout", "", p.Origin); status != http.StatusNoContent {
		t.Errorf("logout: %d", status)
	}
	p.kill()

	old := p.key
	p = start(t, "-addr", p.Addr, "-data", data)
	bob.http.Jar.SetCookies(site, stolen)
	if status, _ := bob.post("/ticket", "", p.Origin); status != http.StatusUnauthorized {
		t.Errorf("a ticket after the logout: %d", status)
	}
	if _, status := alice.dial("/ws", ticket); status != http.StatusUnauthorized {
		t.Errorf("a ticket of before the kill: %d", status)
	}
	alice.connect("/ws").untilType("welcome")
	if got := newUser(t, p.Server).login("Alice"); got != "Alice-2" {
		t.Errorf("the second alice is called %q", got)
	}
	if m := root.connect("/ws").untilType("welcome"); m.Name != "root" || m.Operator {
		t.Errorf("root comes back as %+v", m)
	}
	if status, _ := root.post("/login", `{"name":"root","key":"`+old+`"}`, p.Origin); status != http.StatusForbidden || old == p.key {
		t.Errorf("the old key: %d", status)
	}
	operator(root, p)
}

// A drain loses nothing either, and without a file nothing is kept.
func TestRestart(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("has no SIGTERM")
	}
	for _, data := range []string{filepath.Join(t.TempDir(), "data"), ""} {
		p := start(t, "-addr", host+":0", "-data", data)
		u := newUser(t, p.Server)
		u.login("alice")
		c := u.connect("/ws")
		c.send(`{"type":"join","room":"tea"}`)
		c.send(`{"type":"say","room":"tea","text":"x"}`)
		c.untilType("said")
		p.cmd.Process.Signal(os.Interrupt)
		if code, reason := c.closed(); code != 1012 || reason != "draining" {
			t.Errorf("closed %d %s", code, reason)
		}
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, &p.stderr)
		}
		start(t, "-addr", p.Addr, "-data", data)
		if data == "" {
			if status, _ := u.post("/ticket", "", p.Origin); status != http.StatusUnauthorized {
				t.Errorf("a ticket after a restart without a file: %d", status)
			}
			continue
		}
		c = u.connect("/ws")
		c.send(`{"type":"join","room":"tea"}`)
		if m := c.untilType("joined"); len(m.History) != 1 {
			t.Errorf("joined: %+v", m)
		}
	}
}

// What keeps the program from its file is said in one line, and the file stays as it is.
func TestRefusedStart(t *testing.T) {
	dir := t.TempDir()
	used, foreign := filepath.Join(dir, "used"), filepath.Join(dir, "foreign")
	if err := os.WriteFile(foreign, []byte("my novel\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "-addr", host+":0", "-data", used)
	u := newUser(t, p.Server)
	u.login("alice")
	for path, want := range map[string]string{used: errInUse.Error(), foreign: errForeign.Error(), dir: errForeign.Error()} {
		out, err := command(t, programEnv+"=1", "-addr", host+":0", "-data", path).CombinedOutput()
		if err == nil || !strings.Contains(string(out), path+": "+want) || bytes.Count(out, []byte("\n")) != 1 {
			t.Errorf("%s: %v %s", path, err, out)
		}
	}
	if b, err := os.ReadFile(foreign); err != nil || string(b) != "my novel\n" {
		t.Errorf("%q %v", b, err)
	}
	u.connect("/ws").untilType("welcome")
}

// A chat with a full disk refuses messages and logins, tells their authors, and lives on.
func TestFullDisk(t *testing.T) {
	store := open(t, filepath.Join(t.TempDir(), "data"))
	s, _ := serveStore(t, store)
	alice, bob := newUser(t, s), newUser(t, s)
	alice.login("alice")
	bob.login("bob")
	a, b := alice.connect("/ws"), bob.connect("/ws")
	for _, c := range []*conn{a, b} {
		c.send(`{"type":"join","room":"tea"}`)
		c.untilType("joined")
	}
	full := func(is bool) {
		store.mu.Lock()
		defer store.mu.Unlock()
		if is {
			store.journal.file = &fullDisk{file: store.journal.file, full: true, room: 10}
		} else {
			store.journal.file = store.journal.file.(*fullDisk).file
		}
	}
	full(true)
	a.send(`{"type":"say","room":"tea","text":"refused","id":"k-1"}`)
	if m := a.untilType("problem"); m.ID != "k-1" || m.Room != "tea" || !strings.Contains(m.Text, "try again") {
		t.Errorf("problem: %+v", m)
	}
	if status, body := newUser(t, s).post("/login", `{"name":"carol"}`, s.Origin); status != http.StatusServiceUnavailable {
		t.Errorf("login: %d %s", status, body)
	}
	b.send(`{"type":"leave","room":"tea"}`)
	b.untilType("left")
	full(false)
	a.send(`{"type":"say","room":"tea","text":"accepted","id":"k-1"}`)
	if m := a.untilType("said"); m.Text != "accepted" {
		t.Errorf("said: %+v", m)
	}
	full(true)
	if status, _ := alice.post("/logout", "", s.Origin); status != http.StatusInternalServerError {
		t.Errorf("logout: %d", status)
	}
	if code, reason := a.closed(); code != 3000 || reason != "revoked" {
		t.Errorf("closed %d %s", code, reason)
	}
	if status, _ := alice.post("/ticket", "", s.Origin); status != http.StatusUnauthorized {
		t.Errorf("a ticket after the logout: %d", status)
	}
	bob.connect("/ws").untilType("welcome")
}

// fill tells on its standard output which messages the store has taken.
func fill(path string) {
	s, err := OpenFile(path)
	if err != nil {
		slog.Error("fill", "error", err)
		os.Exit(1)
	}
	text := strings.Repeat("x", 2000)
	for i := 0; ; i++ {
		m := Message{Room: "tea", Name: "alice", Text: fmt.Sprint(i, text), At: time.Now().UnixMilli()}
		if err := add(s, m); err != nil {
			os.Exit(1)
		}
		fmt.Println(i)
	}
}

// A kill while the file is written anew loses nothing.
func TestKillRewrite(t *testing.T) {
	for _, after := range []int{300, 520, 1100, 1700} { // about 500 lines make a file of full size
		path := filepath.Join(t.TempDir(), "data")
		cmd := command(t, fillEnv+"="+path)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, acked := bufio.NewScanner(stdout), -1
		for lines.Scan() {
			if acked++; acked == after {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		got := open(t, path).history("tea")
		if len(got) != MaxHistory {
			t.Fatalf("%d messages", len(got))
		}
		var first int
		fmt.Sscanf(got[0].Text, "%d", &first)
		for i, m := range got {
			if !strings.HasPrefix(m.Text, fmt.Sprint(first+i)+"x") {
				t.Fatalf("message %d is %.10s, the first %d", i, m.Text, first)
			}
		}
		if newest := first + MaxHistory - 1; newest < acked || newest > acked+1 {
			t.Errorf("the last message is %d, and %d was acknowledged", newest, acked)
		}
	}
}

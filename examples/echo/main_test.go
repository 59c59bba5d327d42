package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// server is run with flags.
type server struct {
	t      *testing.T
	addr   string
	stderr *buffer
	stop   func() error // as SIGTERM does
}

func start(t *testing.T, args ...string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	s := &server{t: t, stderr: &buffer{}}
	done := make(chan error, 1)
	go func() {
		err := run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), w, s.stderr)
		w.Close()
		done <- err
	}()
	s.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return fmt.Errorf("run does not return")
		}
	})
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("no line on standard output: %v; %v; %s", err, s.stop(), s.stderr)
	}
	go io.Copy(io.Discard, r)
	var ok bool
	if s.addr, ok = strings.CutPrefix(strings.TrimSpace(line), "listening on http://"); !ok {
		t.Fatalf("the first line is %q", line)
	}
	return s
}

func (s *server) header(kv ...string) http.Header {
	h := http.Header{"Origin": {"http://" + s.addr}}
	for i := 0; i < len(kv); i += 2 {
		h[kv[i]] = []string{kv[i+1]}
		if kv[i+1] == "" {
			h[kv[i]] = nil
		}
	}
	return h
}

func (s *server) try(path string, kv ...string) (*wstest.Client, *http.Response) {
	s.t.Helper()
	return s.tryWith(wstest.HandshakeOptions{Path: path, Header: s.header(kv...)})
}

func (s *server) tryWith(o wstest.HandshakeOptions) (*wstest.Client, *http.Response) {
	s.t.Helper()
	c := wstest.Dial(s.t, s.addr)
	res, err := c.HandshakeWith(o)
	if err != nil {
		s.t.Fatal(err)
	}
	return c, res
}

func (s *server) status(want int, path string, kv ...string) {
	s.t.Helper()
	c, res := s.try(path, kv...)
	c.Close()
	if res.StatusCode != want {
		s.t.Errorf("%s %q: status %d, want %d\n%s", path, kv, res.StatusCode, want, s.stderr)
	}
}

func (s *server) open(kv ...string) *wstest.Client {
	s.t.Helper()
	c, res := s.try("/ws", kv...)
	if res.StatusCode != 101 {
		s.t.Fatalf("%q: status %d\n%s", kv, res.StatusCode, s.stderr)
	}
	return c
}

func echoes(t *testing.T, c *wstest.Client, text string) {
	t.Helper()
	c.WriteFrame(wstest.Text(text))
	if _, p, err := c.ReadMessage(); string(p) != text {
		t.Errorf("%q, %v", p, err)
	}
}

func closes(t *testing.T, c *wstest.Client, code int, reason string) {
	t.Helper()
	if got, why, err := c.ReadClose(); got != code || why != reason {
		t.Errorf("closed with %d %q, %v; want %d %q", got, why, err, code, reason)
	}
}

// do makes a plain request.
func (s *server) do(method, path, host, body string, kv ...string) (int, string) {
	s.t.Helper()
	req, _ := http.NewRequest(method, "http://"+s.addr+path, strings.NewReader(body))
	if host != "" {
		req.Host = host
	}
	for i := 0; i < len(kv); i += 2 {
		req.Header.Set(kv[i], kv[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// asMain is set in the environment of a process of this test binary that runs main.
const asMain = "WSGUARD_TEST_ECHO"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program is the server as a process of its own.
func program(args ...string) (cmd *exec.Cmd, stdout io.Reader, stderr *buffer) {
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	stdout, _ = cmd.StdoutPipe()
	stderr = &buffer{}
	cmd.Stderr = stderr
	return cmd, stdout, stderr
}

// TestExit checks the status that the process exits with.
func TestExit(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"-h"}, 0, "every message back"},
		{[]string{"-nonsense"}, 2, "nonsense"},
		{[]string{"-greet", "-1"}, 2, "echo: -greet -1: must not be negative\n"},
		{[]string{"-message-rate", "5"}, 2, "Rates.Messages"},
		{[]string{"-message-rate", "2e9/1"}, 2, "at most 1e9"},
	} {
		cmd, stdout, stderr := program(append(tt.args, "-addr", "127.0.0.1:0")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(stdout)
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != tt.status || !strings.Contains(stderr.String(), tt.stderr) || len(out) > 0 {
			t.Errorf("%q: exit status %d, want %d; stdout %q, stderr:\n%s", tt.args, got, tt.status, out, stderr)
		}
	}
}

// TestSIGTERM checks that the process drains and exits 0, also if it has to cut a
// connection.
func TestSIGTERM(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGTERM on Windows")
	}
	for _, flags := range []string{"-drain 5s", "-drain 1ms", "-drain 200ms -work 1h -log json"} {
		cmd, stdout, stderr := program(append(strings.Fields(flags), "-addr", "127.0.0.1:0")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on http://")
		if err != nil || !ok {
			t.Fatalf("the first line is %q, %v", line, err)
		}
		s := &server{t: t, addr: addr, stderr: stderr}
		s.open().WriteFrame(wstest.Text("hi")) // This client does not answer the close frame.
		s.open().Close()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", flags, err, stderr)
		}
	}
}

func texts(n int, s string) (fs []wstest.Frame) {
	return slices.Repeat([]wstest.Frame{wstest.Text(s)}, n)
}

func TestFlags(t *testing.T) {
	wstest.CheckGoroutines(t)
	schema := filepath.Join(t.TempDir(), "schema.json")
	os.WriteFile(schema, []byte(`{"type":"object","required":["a"],"additionalProperties":{"type":"integer"}}`), 0o600)
	fragments := func(n int) (fs []wstest.Frame) {
		for i := range n {
			f := wstest.Text("x")
			f.Fin = i == n-1
			if i > 0 {
				f.Opcode = wstest.OpContinuation
			}
			fs = append(fs, f)
		}
		return fs
	}
	for _, tt := range []struct {
		name   string
		flags  string
		header []string
		frames []wstest.Frame
		code   int // 0: the last frame is answered with reply
		reason string
		reply  string // a part of the last of the answers
	}{
		{name: "defaults", frames: texts(1, "hi"), reply: "hi"},
		{name: "text only", frames: []wstest.Frame{wstest.Binary([]byte("x"))}, code: 1003, reason: "message_type"},
		{name: "-binary", flags: "-binary", frames: []wstest.Frame{wstest.Binary([]byte("x"))}, reply: "x"},
		{name: "-message-rate", flags: "-message-rate 1/3", frames: texts(4, "x"), code: 1008, reason: "rate_limited"},
		{name: "-message-rate, last wins", flags: "-message-rate 1/1 -message-rate 1/9", frames: texts(4, "x"), reply: "x"},
		{name: "-message-rate 0", flags: "-message-rate 0", frames: texts(60, "x"), code: 1008, reason: "rate_limited"},
		{name: "-message-rate 0/0", flags: "-message-rate 0/0", frames: texts(30, "x"), reply: "x"},
		{name: "-message-rate -1", flags: "-message-rate -1", frames: texts(300, "x"), reply: "x"},
		{name: "-message-rate -1/-1", flags: "-message-rate -1/-1", frames: texts(300, "x"), reply: "x"},
		{name: "-message-rate 1e9/1e9", flags: "-message-rate 1e9/1e9", frames: texts(300, "x"), reply: "x"},
		{name: "-message-rate 1000000000/1000000000", flags: "-message-rate=1000000000/1000000000", frames: texts(300, "x"), reply: "x"},
		{name: "-rate-action reply", flags: "-rate-action reply -message-rate 0.001/2", frames: texts(3, "x"), reply: `{"error":"rate_limited"`},
		{name: "-rate-action delay", flags: "-rate-action delay -message-rate 100/1", frames: texts(5, "x"), reply: "x"},
		{name: "-byte-rate", flags: "-byte-rate 1/100 -max-message-bytes 100", frames: texts(2, strings.Repeat("x", 60)), code: 1008, reason: "rate_limited"},
		{name: "-subject-message-rate", flags: "-subject-message-rate 0.001/2 -tokens alice=T1", header: []string{"Authorization", "Bearer T1"}, frames: texts(3, "x"), code: 1008, reason: "rate_limited"},
		{name: "-max-message-bytes", flags: "-max-message-bytes 5", frames: texts(1, "123456"), code: 1009, reason: "message_too_big"},
		{name: "-max-message-bytes, exactly", flags: "-max-message-bytes 5", frames: texts(1, "12345"), reply: "12345"},
		{name: "-max-fragments", flags: "-max-fragments 3", frames: fragments(4), code: 1008, reason: "fragments"},
		{name: "-max-fragments, exactly", flags: "-max-fragments 3", frames: fragments(3), reply: "xxx"},
		{name: "-max-fragments -1", flags: "-max-fragments -1", frames: fragments(100), reply: "xxx"},
		{name: "-control-rate", flags: "-control-rate 0.001/2", frames: slices.Repeat([]wstest.Frame{wstest.Ping(nil)}, 3), code: 1008, reason: "control_flood"},
		{name: "-message-timeout", flags: "-message-timeout 100ms", frames: fragments(2)[:1], code: 1008, reason: "message_timeout"},
		{name: "-idle", flags: "-idle 150ms", code: 3008, reason: "idle"},
		{name: "-lifetime", flags: "-lifetime 100ms", code: 1001, reason: "lifetime"},
		{name: "-ping, -pong-timeout", flags: "-ping 100ms -pong-timeout 50ms", code: 3008, reason: "pong_timeout"},
		{name: "-pong-timeout before -ping", flags: "-pong-timeout 50ms -ping 100ms", code: 3008, reason: "pong_timeout"},
		{name: "-schema", flags: "-schema " + schema, frames: texts(1, `{"a":"x"}`), code: 1008, reason: "schema"},
		{name: "-schema, no JSON", flags: "-schema " + schema, frames: texts(1, `{`), code: 1007, reason: "invalid_json"},
		{name: "-schema, good", flags: "-schema " + schema, frames: texts(1, `{"a":1}`), reply: `{"a":1}`},
		{name: "-schema-action reply", flags: "-schema-action reply -schema " + schema, frames: texts(1, `{"a":"x"}`), reply: `{"error":"invalid_message"`},
		{name: "-token-ttl", flags: "-tokens alice=T1 -token-ttl 2s", header: []string{"Authorization", "Bearer T1"}, code: 3000, reason: "expired"},
		{name: "-token-from first-message", flags: "-tokens alice=T1 -token-from first-message", frames: append(texts(1, `{"type":"auth","token":"T1"}`), texts(1, "x")...), reply: "x"},
		{name: "-token-from first-message, wrong", flags: "-tokens alice=T1 -token-from first-message", frames: texts(1, `{"type":"auth","token":"T2"}`), code: 3000, reason: "unauthenticated"},
		{name: "-auth-timeout", flags: "-tokens alice=T1 -token-from first-message -auth-timeout 100ms", code: 3008, reason: "auth_timeout"},
		{name: "-write-timeout", flags: "-write-timeout 1s", frames: texts(1, "x"), reply: "x"},
		{name: "everything off", flags: "-message-rate -1 -byte-rate -1 -subject-message-rate -1 -control-rate -1 -handshake-rate -1 -auth-failures -1 -max-conns -1 -max-conns-per-client -1 -max-conns-per-subject -1 -max-fragments -1 -message-timeout -1 -ping -1 -pong-timeout -1 -idle -1 -lifetime -1", frames: texts(100, "x"), reply: "x"},
		{name: "empty lists", flags: "-hosts= -origins= -trusted-proxies= -subprotocols= -tokens= -token-from= -schema= -admin-token= -proxy-header=", frames: texts(1, "x"), reply: "x"},
		{name: "empty lists, last wins", flags: "-hosts a.test -hosts= -origins https://a.test -origins=, -tokens alice=T1 -tokens= -token-from header -token-from ,,", frames: texts(1, "x"), reply: "x"},
		{name: "-write-by send", flags: "-write-by send", frames: append(texts(20, "other"), texts(1, "last")...), reply: "last"},
		{name: "-write-by, last wins", flags: "-write-by send -write-by write", frames: texts(1, "x"), reply: "x"},
		{name: "-work", flags: "-work 10ms", frames: texts(3, "x"), reply: "x"},
		{name: "everything 0", flags: "-message-rate 0 -byte-rate 0/0 -control-rate 0 -handshake-rate 0 -auth-failures 0 -max-conns 0 -max-conns-per-client 0 -max-conns-per-subject 0 -max-fragments 0 -max-message-bytes 0 -message-timeout 0 -write-timeout 0 -ping 0 -pong-timeout 0 -idle 0 -lifetime 0 -auth-timeout 0 -greet 0 -greet-bytes 0 -quit-after 0 -work 0", frames: texts(10, "x"), reply: "x"},
	} {
		for _, door := range []string{"", "-wrap"} {
			if door != "" && strings.Contains(tt.flags, "first-message") {
				continue
			}
			t.Run(strings.TrimSpace(tt.name+" "+door), func(t *testing.T) {
				t.Parallel()
				s := start(t, strings.Fields(tt.flags+" "+door)...)
				c := s.open(tt.header...)
				var b []byte
				for _, f := range tt.frames {
					b = wstest.AppendFrame(b, f)
				}
				c.Write(b)
				if tt.code != 0 {
					closes(t, c, tt.code, tt.reason)
					return
				}
				deadline := len(tt.frames)
				var last string
				for range deadline {
					_, p, err := c.ReadMessage()
					if err != nil {
						t.Fatalf("after %q: %v", last, err)
					}
					if last = string(p); strings.HasPrefix(tt.name, "-max-fragments") || strings.HasPrefix(tt.name, "-token-from") {
						break
					}
				}
				if !strings.Contains(last, tt.reply) {
					t.Errorf("the last answer is %q, want %q", last, tt.reply)
				}
			})
		}
	}
}

func TestFlagsOfHandshakes(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t, "-tokens", "alice=T1,bob=T2", "-token-from", "header,cookie,query,subprotocol", "-subprotocols", "chat,v2", "-max-conns-per-subject", "1", "-handshake-rate", "-1")
	for _, tt := range []struct {
		status int
		path   string
		kv     []string
	}{
		{101, "/ws", []string{"Authorization", "Bearer T1"}},
		{101, "/ws", []string{"Cookie", "session=T1"}},
		{101, "/ws?token=T1", nil},
		{101, "/ws", []string{"Sec-WebSocket-Protocol", "v2, bearer.T1"}},
		{401, "/ws", []string{"Sec-WebSocket-Protocol", "bearer.T1"}},
		{401, "/ws", nil},
		{401, "/ws", []string{"Authorization", "Bearer alice"}},
		{401, "/ws?token=T1", []string{"Cookie", "session=T1"}},
		{403, "/ws", []string{"Authorization", "Bearer T1", "Origin", "http://evil.test"}},
		{403, "/ws", []string{"Authorization", "Bearer T1", "Origin", ""}},
		{403, "/ws", []string{"Authorization", "Bearer T1", "Via", "x"}},
		{404, "/", nil},
	} {
		c, res := s.try(tt.path, tt.kv...)
		if res.StatusCode != tt.status {
			t.Errorf("%s %q: status %d, want %d", tt.path, tt.kv, res.StatusCode, tt.status)
		}
		if res.StatusCode == 101 {
			echoes(t, c, "hi")
			s.status(429, "/ws", "Authorization", "Bearer T1")
			s.status(101, "/ws", "Authorization", "Bearer T2")
			c.WriteFrame(wstest.CloseFrame(1000, ""))
			closes(t, c, 1000, "")
		}
		c.Close()
		s.connections(0)
	}

	s = start(t, "-hosts", "a.test,b.test", "-origins", "https://a.test,https://b.test", "-allow-missing-origin")
	for _, tt := range []struct {
		host, origin string
		status       int
	}{{"a.test", "https://a.test", 101}, {"b.test", "https://a.test", 101}, {"c.test", "https://a.test", 421}, {"a.test", "", 101}, {"a.test", "https://c.test", 403}} {
		c, res := s.tryWith(wstest.HandshakeOptions{Path: "/ws", Host: tt.host, Header: s.header("Origin", tt.origin)})
		c.Close()
		if res.StatusCode != tt.status {
			t.Errorf("%+v: status %d", tt, res.StatusCode)
		}
	}
	for _, host := range []string{"elsewhere.test", "a.test:1", "[::1]", strings.Repeat("a", 300)} {
		if code, _ := s.do("GET", "/healthz", host, ""); code != 200 {
			t.Errorf("/healthz of host %q: %d", host, code)
		}
	}

	s = start(t, "-trusted-proxies", "127.0.0.0/8", "-max-conns-per-client", "1")
	s.status(403, "/ws")
	s.open("X-Forwarded-Proto", "https", "X-Forwarded-For", "192.0.2.1")
	s.status(429, "/ws", "X-Forwarded-Proto", "https", "X-Forwarded-For", "192.0.2.1")
	s.open("X-Forwarded-Proto", "https", "X-Forwarded-For", "192.0.2.2")

	s = start(t, "-proxy-header", "X-Real-IP", "-trusted-proxies", "127.0.0.0/8", "-max-conns-per-client", "1")
	s.open("X-Forwarded-Proto", "https", "X-Real-Ip", "192.0.2.1", "X-Forwarded-For", "192.0.2.3")
	s.status(429, "/ws", "X-Forwarded-Proto", "https", "X-Real-Ip", "192.0.2.1", "X-Forwarded-For", "192.0.2.4")
	s.open("X-Forwarded-Proto", "https", "X-Real-Ip", "192.0.2.2", "X-Forwarded-For", "192.0.2.3")

	s = start(t, "-allow-http", "-handshake-rate", "0.001/2", "-max-conns", "1")
	s.open("Via", "x")
	s.status(503, "/ws")
	s.status(429, "/ws")

	s = start(t, "-tokens", "alice=T1", "-auth-failures", "0.001/2")
	s.status(401, "/ws", "Authorization", "Bearer x")
	s.status(401, "/ws", "Authorization", "Bearer y")
	s.status(429, "/ws", "Authorization", "Bearer z")
}

// connections waits until /healthz says n.
func (s *server) connections(n int) {
	s.t.Helper()
	var got struct{ Connections, Goroutines int }
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		code, body := s.do("GET", "/healthz", "", "")
		if code != 200 || json.Unmarshal([]byte(body), &got) != nil || got.Goroutines < 1 {
			s.t.Fatalf("/healthz: %d %s", code, body)
		}
		if got.Connections == n {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%d connections, want %d", got.Connections, n)
		}
	}
}

// under is a client that the cap has let in, or nil. Eight handshakes of a client
// are under way at once, at most: with a 429 it was not the cap's turn yet.
func (s *server) under() *wstest.Client {
	for end := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			s.t.Error(err)
			return nil
		}
		c := wstest.NewClient(s.t, conn)
		res, err := c.Handshake("/ws", s.header())
		if err == nil && res.StatusCode == 101 {
			return c
		}
		c.Close()
		if err == nil && res.StatusCode == 429 && time.Now().Before(end) {
			continue
		}
		if err != nil || res.StatusCode != 503 {
			s.t.Errorf("neither 101 nor 503: %v, %v", res, err)
		}
		return nil
	}
}

func TestCap80(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t, "-max-conns", "10", "-handshake-rate", "1000/1000")
	for range 2 {
		got := make(chan *wstest.Client, 80)
		for range 80 {
			go func() { got <- s.under() }()
		}
		n := 0
		var open []*wstest.Client
		for range 80 {
			if c := <-got; c != nil {
				open = append(open, c)
				n++
			}
		}
		if n != 10 {
			t.Errorf("%d of 80 admitted, want 10", n)
		}
		s.connections(n)
		for _, c := range open {
			c.Close()
		}
		s.connections(0)
	}
}

func TestTicketsAndRevoke(t *testing.T) {
	wstest.CheckGoroutines(t)
	// Tokens that nothing else in a log looks like: "T1" is in every time from ten
	// to eight in the evening.
	const alice, bobs = "token-of-alice", "token-of-bob"
	s := start(t, "-tickets", "-tokens", "alice="+alice+",bob="+bobs, "-admin-token", "ADMIN")
	origin := "http://" + s.addr
	ticket := func(token string) string {
		t.Helper()
		code, body := s.do("POST", "/ticket", "", "", "Authorization", "Bearer "+token, "Origin", origin)
		var got struct {
			Ticket    string `json:"ticket"`
			ExpiresIn int    `json:"expires_in"`
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 || got.ExpiresIn != 30 {
			t.Fatalf("%d %s", code, body)
		}
		return got.Ticket
	}
	a := ticket(alice)
	c, res := s.try("/ws?ticket=" + a)
	if res.StatusCode != 101 {
		t.Fatal(res.StatusCode)
	}
	echoes(t, c, "hi")
	s.status(401, "/ws?ticket="+a)
	bob := s.open("Authorization", "Bearer "+bobs)
	b := ticket(alice)
	for _, tt := range []struct {
		method, auth, form string
		want               int
	}{
		{"POST", "", "subject=alice", 401}, {"POST", "Bearer " + alice, "subject=alice", 401}, {"POST", "Bearer ADMIN", "", 400},
		{"GET", "Bearer ADMIN", "", 405}, {"POST", "Basic ADMIN", "subject=alice", 401}, {"POST", "bearer ADMIN", "subject=alice", 204},
	} {
		if code, _ := s.do(tt.method, "/revoke", "", tt.form, "Authorization", tt.auth, "Content-Type", "application/x-www-form-urlencoded"); code != tt.want && !(tt.want == 204 && code/100 == 2) {
			t.Errorf("%+v: %d", tt, code)
		}
	}
	closes(t, c, 3000, "revoked")
	echoes(t, bob, "still here")
	s.status(401, "/ws", "Authorization", "Bearer "+alice)
	s.status(401, "/ws?ticket="+b)
	if code, _ := s.do("POST", "/ticket", "", "", "Authorization", "Bearer "+alice); code != 401 {
		t.Errorf("a ticket for the revoked: %d", code)
	}
	if s := s.stderr.String(); strings.Contains(s, a) || strings.Contains(s, "ADMIN") || strings.Contains(s, alice) || strings.Contains(s, bobs) {
		t.Errorf("the log tells:\n%s", s)
	}
}

func TestDrain(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t, "-drain", "10s")
	c := s.open()
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	closes(t, c, 1012, "draining")
	c.WriteFrame(wstest.CloseFrame(1012, ""))
	c.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	// A client that refuses to go is cut, and that is no error.
	s = start(t, "-drain", "300ms", "-log", "json")
	s.open()
	begin := time.Now()
	if err := s.stop(); err != nil || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	for line := range strings.Lines(s.stderr.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
}

// Who has connected and asked for nothing does not hold the exit up.
func TestDrainPastTheSilent(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t, "-drain", "1m")
	wstest.Dial(t, s.addr)
	if c, res := s.try("/nothing"); res.StatusCode != 404 { // accepted after the silent one
		t.Error(res.StatusCode)
	} else {
		c.Close()
	}
	begin := time.Now()
	if err := s.stop(); err != nil || time.Since(begin) > 4*time.Second { // http.Server alone waits for five
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

func TestOwnOrigins(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, addr := range []string{"localhost:0", "0.0.0.0:0", ":0"} {
		s := start(t, "-addr", addr)
		_, port, _ := net.SplitHostPort(s.addr)
		host, _, _ := net.SplitHostPort(addr)
		if host == "" {
			host = "localhost"
		}
		s.addr = "127.0.0.1:" + port
		for _, own := range []string{"127.0.0.1", host} {
			s.status(101, "/ws", "Origin", "http://"+net.JoinHostPort(own, port))
		}
		s.status(403, "/ws", "Origin", "http://evil.test:"+port)
	}
	if ln, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Log("no IPv6: ", err)
	} else {
		ln.Close()
		s := start(t, "-addr", "[::1]:0")
		s.status(101, "/ws")
		s = start(t, "-addr", "[::]:0")
		_, port, _ := net.SplitHostPort(s.addr)
		s.addr = "[::1]:" + port
		s.status(101, "/ws")
		s.status(101, "/ws", "Origin", "http://localhost:"+port)
	}
	s := start(t, "-origins", "https://a.test")
	s.status(403, "/ws")
	s.status(101, "/ws", "Origin", "https://a.test")
}

// TestLargeHeader checks that the server leaves the bound on a request's header to
// net/http, which is 1 MiB.
func TestLargeHeader(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t)
	s.status(101, "/ws", "X-Filler", strings.Repeat("x", 512<<10))
}

func TestGreeting(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, tt := range []struct {
		flags        string
		count, bytes int
	}{
		{"-greet 3", 3, 1},
		{"-greet 3 -greet-bytes 0", 3, 0},
		{"-greet-bytes 70000 -greet 300", 300, 70000},
		{"-greet 9 -greet 2 -greet-bytes 5", 2, 5},
		{"-write-by send -greet 8 -greet-bytes 70000", 8, 70000},
		{"-greet 1 -greet-bytes 40000 -max-message-bytes 10", 1, 40000},
	} {
		s := start(t, strings.Fields(tt.flags)...)
		c := s.open()
		c.WriteFrame(wstest.Text("hi")) // The greeting comes before the answer.
		for i := range tt.count {
			op, p, err := c.ReadMessage()
			if err != nil || op != wstest.OpText || string(p) != strings.Repeat("x", tt.bytes) {
				t.Fatalf("%s: message %d: opcode %d, %d bytes, %v", tt.flags, i, op, len(p), err)
			}
		}
		if _, p, err := c.ReadMessage(); string(p) != "hi" {
			t.Errorf("%s: after the greeting %q, %v", tt.flags, p, err)
		}
	}
	// A credential in the first message is not read by the handler, so the greeting
	// comes after it.
	s := start(t, "-greet", "1", "-tokens", "alice=T1", "-token-from", "first-message")
	c := s.open()
	c.WriteFrame(wstest.Text(`{"type":"auth","token":"T1"}`))
	if _, p, err := c.ReadMessage(); string(p) != "x" {
		t.Errorf("%q, %v", p, err)
	}
	echoes(t, c, "hi")
}

func TestQuitAfter(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, by := range []string{"write", "send"} {
		s := start(t, "-quit-after", "2", "-greet", "2", "-write-by", by)
		c := s.open()
		for _, text := range []string{"x", "x"} {
			if _, p, err := c.ReadMessage(); string(p) != text {
				t.Errorf("%s: greeting %q, %v", by, p, err)
			}
		}
		echoes(t, c, "one")
		c.WriteFrame(wstest.Text("two"))
		if by == "write" {
			if _, p, err := c.ReadMessage(); string(p) != "two" {
				t.Errorf("%q, %v", p, err)
			}
		}
		for {
			f, err := c.ReadFrame()
			if err != nil {
				t.Errorf("%s: no close frame: %v", by, err)
			} else if f.Opcode != wstest.OpClose {
				continue
			} else if string(f.Payload) != "\x03\xe8" {
				t.Errorf("%s: closed with %q, want 1000", by, f.Payload)
			}
			break
		}
		c.WriteFrame(wstest.CloseFrame(1000, ""))
		s.connections(0)
	}
}

func TestWork(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t, "-work", "100ms")
	c := s.open()
	begin := time.Now()
	echoes(t, c, "hi")
	echoes(t, c, "ho")
	if d := time.Since(begin); d < 200*time.Millisecond {
		t.Errorf("two answers after %v", d)
	}
	// The end of the connection ends the work.
	s = start(t, "-work", "1h", "-lifetime", "100ms")
	c = s.open()
	c.WriteFrame(wstest.Text("hi"))
	closes(t, c, 1001, "lifetime")
	c.WriteFrame(wstest.CloseFrame(1001, ""))
	s.connections(0)
	c = s.open()
	c.WriteFrame(wstest.Text("hi"))
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

func TestBroadcast(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t)
	if code, _ := s.do("POST", "/broadcast", "", "hi", "Authorization", "Bearer "); code != 404 {
		t.Errorf("without -admin-token: %d", code)
	}
	s = start(t, "-admin-token", "ADMIN", "-max-conns-per-client", "100", "-handshake-rate", "-1")
	send := func(body string, status, sent int) {
		t.Helper()
		code, answer := s.do("POST", "/broadcast", "", body, "Authorization", "Bearer ADMIN")
		if code != status || status == 200 && strings.TrimSpace(answer) != fmt.Sprintf(`{"sent":%d}`, sent) {
			t.Errorf("%d bytes: %d %s, want %d and %d", len(body), code, answer, status, sent)
		}
	}
	gets := func(c *wstest.Client, text string) {
		t.Helper()
		if op, p, err := c.ReadMessage(); op != wstest.OpText || string(p) != text {
			t.Errorf("opcode %d, %d bytes %.20q, %v; want %.20q", op, len(p), p, err, text)
		}
	}
	send("nobody", 200, 0)
	for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer admin", "Basic ADMIN", "ADMIN", "Bearer ADMIN ADMIN"} {
		if code, _ := s.do("POST", "/broadcast", "", "hi", "Authorization", auth); code != 401 {
			t.Errorf("with %q: %d", auth, code)
		}
	}
	if code, _ := s.do("GET", "/broadcast", "", "", "Authorization", "Bearer ADMIN"); code != 405 {
		t.Errorf("GET: %d", code)
	}
	// A client that has read its 101 is open.
	var all []*wstest.Client
	for i := range 50 {
		all = append(all, s.open())
		send("héllo", 200, i+1)
		for _, c := range all {
			gets(c, "héllo")
		}
	}
	s.status(403, "/ws", "Origin", "http://evil.test")
	for _, c := range all[2:] {
		c.Close()
	}
	all = all[:2]
	s.connections(2)
	// The bound is that of messages.
	full := strings.Repeat("x", 32<<10)
	send(full, 200, 2)
	send("", 200, 2)
	send(full+"x", 413, 0)
	send("\xff"+full, 413, 0)
	send("a\xff", 400, 0)
	send("\xed\xa0\x80", 400, 0)
	send("last", 200, 2)
	for _, c := range all {
		for _, text := range []string{full, "", "last"} {
			gets(c, text)
		}
	}
	echoes(t, all[0], full)
	all[0].WriteFrame(wstest.Text(full + "x"))
	closes(t, all[0], 1009, "message_too_big")

	s = start(t, "-admin-token", "ADMIN", "-max-message-bytes", "5", "-tokens", "alice=T1", "-token-from", "first-message")
	send("12345", 200, 0)
	send("123456", 413, 0)
	c := s.open()
	send("early", 200, 0)
	c.WriteFrame(wstest.Text(`{"type":"auth","token":"T1"}`))
	echoes(t, c, "hi")
	send("later", 200, 1)
	gets(c, "later")
}

// TestBroadcastPastTheStuck checks that a client that does not read delays nobody.
func TestBroadcastPastTheStuck(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t, "-admin-token", "ADMIN", "-max-message-bytes", "1000000")
	s.open()
	c := s.open()
	text := strings.Repeat("x", 300_000)
	for range 60 {
		begin := time.Now()
		code, answer := s.do("POST", "/broadcast", "", text, "Authorization", "Bearer ADMIN")
		if code != 200 || time.Since(begin) > 3*time.Second {
			t.Errorf("%d %s after %v", code, answer, time.Since(begin))
		}
		if _, p, err := c.ReadMessage(); len(p) != len(text) {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
	}
}

func TestHTTP2(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t)
	c := wstest.Dial(t, s.addr)
	fmt.Fprint(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	if res, err := c.ReadResponse(); err != nil || res.StatusCode != 501 {
		t.Error(res, err)
	}
}

func TestTokensOfOneSubject(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t, "-tokens", "alice=one,alice=two", "-max-conns-per-subject", "1")
	c := s.open("Authorization", "Bearer one")
	s.status(429, "/ws", "Authorization", "Bearer two")
	s.status(401, "/ws", "Authorization", "Bearer three")
	echoes(t, c, "x")
}

func TestLog(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := start(t, "-log", "json")
	c := s.open()
	c.WriteFrame(wstest.CloseFrame(4001, "x"))
	c.ReadClose()
	s.status(403, "/ws", "Origin", "http://evil.test")
	s.connections(0)
	s.stop()
	want := map[string]bool{}
	for line := range strings.Lines(s.stderr.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Errorf("%v: %s", err, line)
			continue
		}
		switch {
		case m["level"] == "INFO" && m["peer_code"] == 4001.0 && m["origin"] == "http://"+s.addr && m["code"] == 4001.0:
			want["close"] = true
		case m["level"] == "INFO" && m["origin"] == "http://"+s.addr:
			want["open"] = true
		case m["level"] == "WARN" && m["origin"] == "http://evil.test" && m["status"] == 403.0 && m["reason"] == "origin":
			want["refusal"] = true
		}
	}
	if len(want) != 3 {
		t.Errorf("only %v in\n%s", want, s.stderr)
	}
}

func TestWrongFlags(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, tt := range []struct{ flags, want string }{
		{"-nonsense", "nonsense"}, {"-message-rate x", "message-rate"}, {"-message-rate 5", "Rates.Messages"}, {"-message-rate NaN/5", "Rates.Messages"},
		{"-message-rate -2/5", "Rates.Messages"}, {"-message-rate 5/x", "message-rate"}, {"-message-rate 5/1e10", "message-rate"}, {"-message-rate 5/-5", "Rates.Messages"},
		{"-rate-action x", "rate-action"}, {"-schema-action delay", "schema-action"}, {"-log x", "log"}, {"-max-conns -2", "Caps.MaxConns"},
		{"-max-message-bytes -1", "Messages.MaxBytes"}, {"-write-timeout -1", "Timeouts.Write"}, {"-ping 1s -pong-timeout 1s", "Timeouts.P"},
		{"-byte-rate 10/10", "Rates.Bytes"}, {"-allow-missing-origin", "AllowMissingOrigin"}, {"-token-from header", "Auth.Verifier"}, {"-tokens alice", "tokens"},
		{"-tokens a=b -token-from x", "token-from"}, {"-wrap -tokens a=b -token-from first-message", "-token-from"}, {"-origins *", "Origins"}, {"-hosts *", "Hosts"}, {"-trusted-proxies x", "Proxies"}, {"-schema /nonexistent", "/nonexistent"},
		{"-token-ttl -5s", "token-ttl"}, {"-drain -5s", "drain"}, {"-tokens a=b,c=b", "tokens"}, {"-ping 5", "ping"}, {"surplus", "surplus"}, {"-subprotocols a,a", "Subprotocols"},
		{"-message-rate 2e9/5", "message-rate"}, {"-message-rate Inf/5", "message-rate"}, {"-byte-rate -2e9/5", "byte-rate"},
		{"-proxy-header X-Real-IP", "Proxies"}, {"-trusted-proxies 10.0.0.0/8 -proxy-header a:b", "Proxies"}, {"-write-by x", "write-by"}, {"-write-by=", "write-by"},
		{"-greet -1", "-greet -1"}, {"-greet x", "greet"}, {"-greet-bytes -1", "-greet-bytes -1"}, {"-greet-bytes 2000000000", "at most 1073741824"},
		{"-quit-after -1", "-quit-after -1"}, {"-quit-after 1.5", "quit-after"}, {"-work -1s", "-work -1s"}, {"-work -1", "-work"}, {"-work 5", "work"}, {"-auth-timeout -5s", "Auth.FirstMessageTimeout"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var out, errs buffer
		err := run(ctx, append([]string{"-addr", "127.0.0.1:0"}, strings.Fields(tt.flags)...), &out, &errs)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want one that names %s", tt.flags, err, tt.want)
		}
		if out.String() != "" {
			t.Errorf("%s: on standard output: %s", tt.flags, out.String())
		}
		cancel()
	}
}

// With -wrap the handler is one of coder/websocket, and there is no broadcast.
func TestWrap(t *testing.T) {
	s := start(t, "-wrap", "-subprotocols", "chat", "-binary", "-admin-token", "ADMIN", "-tokens", "alice=T1", "-token-from", "subprotocol")
	c := s.open("Sec-WebSocket-Protocol", "chat, bearer.T1")
	c.WriteFrame(wstest.Binary([]byte{0, 0xff}))
	if op, p, err := c.ReadMessage(); err != nil || op != wstest.OpBinary || string(p) != "\x00\xff" {
		t.Errorf("%d %q %v", op, p, err)
	}
	if code, _ := s.do("POST", "/broadcast", "", "hi", "Authorization", "Bearer ADMIN"); code != 404 {
		t.Errorf("/broadcast: %d", code)
	}
	if code, _ := s.do("POST", "/revoke", "", "subject=alice", "Authorization", "Bearer ADMIN", "Content-Type", "application/x-www-form-urlencoded"); code != 204 {
		t.Errorf("/revoke: %d", code)
	}
	closes(t, c, 3000, "revoked")
}

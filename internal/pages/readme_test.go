package pages_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest/browser"
)

// A readme is what README.md tells a new user to run, to the letter.
type readme struct {
	server, client string // programs
	noOrigin       string // fields of the server's Config, for clients that send no Origin
}

func readREADME(t *testing.T) (r readme) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks("README.md", string(text)) {
		target := &r.noOrigin
		switch {
		case strings.Contains(b.code, "http.ListenAndServe("):
			target = &r.server
		case strings.Contains(b.code, "websocket.Dial("):
			target = &r.client
		case !strings.Contains(b.code, "AllowMissingOrigin:"):
			continue
		}
		if *target != "" {
			t.Fatalf("%s: a second block of this kind", b)
		}
		*target = b.code
	}
	if r.server == "" || r.client == "" || r.noOrigin == "" {
		t.Fatalf("README.md lacks a block: %+v", r)
	}
	return r
}

// at returns r for another port than the one in README.md.
func (r readme) at(t *testing.T, port string) readme {
	t.Helper()
	for _, code := range []*string{&r.server, &r.client, &r.noOrigin} {
		if !strings.Contains(*code, "localhost:8080") {
			t.Fatalf("README.md does not say localhost:8080:\n%s", *code)
		}
		*code = strings.ReplaceAll(*code, "8080", port)
	}
	return r
}

// build builds a program with the packages of the repository, and with gorilla/websocket or wsguardjwt
// if it imports that.
func build(t *testing.T, code string) string {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(source, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", program, source)
	cmd.Dir = root
	switch {
	case strings.Contains(code, `"github.com/gorilla/websocket"`):
		cmd.Dir = filepath.Join(root, "internal", "wraptest")
	case strings.Contains(code, `/contrib/wsguardjwt"`):
		cmd.Dir = filepath.Join(root, "contrib", "wsguardjwt")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// freePort returns a port of the loopback interface that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// serve runs a server until the test ends, and returns when it listens.
func serve(t *testing.T, code, port string) {
	t.Helper()
	startServer(t, exec.Command(build(t, code)), port)
}

// startServer runs a server until the test ends. It returns when the server listens, with what it writes.
func startServer(t *testing.T, cmd *exec.Cmd, port string) *output {
	t.Helper()
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the server said:\n%s", out)
		}
	})
	for by := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", "localhost:"+port)
		if err == nil {
			c.Close()
			return out
		}
		if time.Now().After(by) {
			t.Fatal(err)
		}
		select {
		case <-ended:
			t.Fatalf("the server ended:\n%s", out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// An output keeps what a program writes while it runs.
type output struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// run runs a client, and returns what it printed.
func run(t *testing.T, code string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, build(t, code)).CombinedOutput()
	return string(out), err
}

// originLine is the line of the client that sets its Origin.
var originLine = regexp.MustCompile(`(?m)^\s*"Origin":.*\n`)

// TestREADME runs the programs of README.md as they are there, except for the port.
func TestREADME(t *testing.T) {
	port := freePort(t)
	r := readREADME(t).at(t, port)
	serve(t, r.server, port)

	t.Run("program", func(t *testing.T) {
		if out, err := run(t, r.client); err != nil || out != "hello\n" {
			t.Errorf("the client printed %q, %v", out, err)
		}
	})
	t.Run("program without an Origin", func(t *testing.T) {
		if !originLine.MatchString(r.client) {
			t.Fatal("the client does not set its Origin")
		}
		out, err := run(t, originLine.ReplaceAllString(r.client, ""))
		if err == nil || !strings.Contains(out, "403") {
			t.Errorf("the client printed %q, %v, want it refused with 403", out, err)
		}
	})
	t.Run("page", func(t *testing.T) {
		b := browser.Start(t)
		p := b.Open("http://localhost:" + port + "/")
		p.Wait("document.body?.innerText === 'hello'")
		if got := p.Eval("ws.protocol + ' ' + ws.readyState"); got != "chat 1" {
			t.Errorf("the page has the protocol and state %q, want %q", got, "chat 1")
		}
		b.NoErrors()
	})
}

// TestREADMEWithoutOrigin adds the fields for clients that send no Origin.
func TestREADMEWithoutOrigin(t *testing.T) {
	port := freePort(t)
	r := readREADME(t).at(t, port)
	origins := regexp.MustCompile(`(?m)^\s*Origins: .*\n`)
	at := origins.FindStringIndex(r.server)
	if at == nil {
		t.Fatal("the server lists no Origins")
	}
	serve(t, r.server[:at[1]]+r.noOrigin+r.server[at[1]:], port)
	for name, code := range map[string]string{"with": r.client, "without": originLine.ReplaceAllString(r.client, "")} {
		if out, err := run(t, code); err != nil || out != "hello\n" {
			t.Errorf("%s an Origin the client printed %q, %v", name, out, err)
		}
	}
}

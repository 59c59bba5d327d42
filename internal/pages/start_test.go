package pages_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/internal/wstest/browser"
)

// A section of docs/start.md is what a reader copies and runs.
type section struct {
	program string
	lines   []string // of its sh blocks
}

// startPage returns the sections of docs/start.md by their headings. The name of the first one,
// which has no program, is empty.
func startPage(t *testing.T) map[string]section {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "start.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]section{}
	for i, part := range strings.Split(string(text), "\n## ") {
		heading, body, _ := strings.Cut(part, "\n")
		if i == 0 {
			heading = ""
		}
		var s section
		for _, b := range blocks("docs/start.md", body) {
			if !b.whole() || s.program != "" {
				t.Errorf("%q has code that is not one program", heading)
			}
			s.program = b.code
		}
		for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(body, -1) {
			s.lines = append(s.lines, strings.Split(strings.TrimSpace(m[1]), "\n")...)
		}
		sections[heading] = s
	}
	return sections
}

// wscat connects as a line that calls wscat does. It returns the status of a refused handshake.
func wscat(t *testing.T, line, folder string) (*websocket.Conn, int) {
	t.Helper()
	opts := &websocket.DialOptions{HTTPHeader: http.Header{}}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	var address, cert string
	words := regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(line, -1)
	if len(words) < 4 || words[0] != "npx" || words[1] != "wscat" || len(words)%2 != 0 {
		t.Fatalf("%s: not understood", line)
	}
	for i := 2; i < len(words); i += 2 {
		switch v := strings.Trim(words[i+1], `"`); words[i] {
		case "-c":
			address = v
		case "-o":
			opts.HTTPHeader.Set("Origin", v)
		case "-H":
			name, value, _ := strings.Cut(v, ": ")
			opts.HTTPHeader.Set(name, value)
		case "--ca":
			pem, err := os.ReadFile(filepath.Join(folder, v))
			if err != nil || !config.RootCAs.AppendCertsFromPEM(pem) {
				t.Fatal(v, err)
			}
		case "--cert":
			cert = v
		case "--key":
			pair, err := tls.LoadX509KeyPair(filepath.Join(folder, cert), filepath.Join(folder, v))
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		default:
			t.Fatalf("%s: %s is not understood", line, words[i])
		}
	}
	opts.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	return dial(t, address, opts)
}

func dial(t *testing.T, address string, opts *websocket.DialOptions) (*websocket.Conn, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, res, err := websocket.Dial(ctx, address, opts)
	if err != nil {
		if res == nil {
			t.Fatal(err)
		}
		return nil, res.StatusCode
	}
	t.Cleanup(func() { c.CloseNow() })
	return c, res.StatusCode
}

// answer sends hello and returns what comes back.
func answer(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	_, msg, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(msg)
}

// backend is a server that a program stands in front of. It answers each message with the value of
// X-User in front.
func backend(t *testing.T) (port string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil) // with its own check of the Origin
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			typ, msg, err := c.Read(context.Background())
			if err != nil || c.Write(context.Background(), typ, append([]byte(r.Header.Get("X-User")+": "), msg...)) != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// TestStart runs each program of docs/start.md, and connects to it as the page says: the first line
// that connects gets an answer, and the second one is refused.
func TestStart(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds programs")
	}
	sections := startPage(t)
	delete(sections, "")
	for heading, tt := range map[string]struct {
		answer  string
		refused int
	}{
		"A handler on another library":  {"hello", 401},
		"A server in another language":  {"alice: hello", 401},
		"A JWT":                         {"alice: hello", 401},
		"An API key":                    {"alice: hello", 401},
		"Client certificates":           {"alice: hello", 401},
		"Nothing":                       {"hello", 403},
		"A service that must not break": {": hello", 403},
	} {
		s := sections[heading]
		delete(sections, heading)
		t.Run(heading, func(t *testing.T) {
			t.Parallel()
			port, folder := freePort(t), t.TempDir()
			here := strings.NewReplacer("localhost:8080", "localhost:"+port, "localhost:8443", "localhost:"+port, "127.0.0.1:9000", "127.0.0.1:"+backend(t))
			var connect []string
			for _, line := range s.lines {
				if strings.HasPrefix(line, "npx wscat ") {
					connect = append(connect, here.Replace(line))
					continue
				}
				if _, err := exec.LookPath(strings.Fields(line)[0]); err != nil {
					t.Skip(err)
				}
				cmd := exec.Command("sh", "-c", line)
				cmd.Dir = folder
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", line, err, out)
				}
			}
			cmd := exec.Command(build(t, here.Replace(s.program)))
			cmd.Dir = folder
			out := startServer(t, cmd, port)
			if heading == "A JWT" {
				line := regexp.MustCompile(`(?m)^npx wscat .*$`).FindString(out.String())
				connect = []string{line, line[:len(line)-2] + `x"`} // with another signature
			}
			if len(connect) != 2 {
				t.Fatalf("%d lines that connect", len(connect))
			}
			c, status := wscat(t, connect[0], folder)
			if c == nil {
				t.Fatalf("%s: %d", connect[0], status)
			}
			if got := answer(t, c); got != tt.answer {
				t.Errorf("%s: %q, want %q", connect[0], got, tt.answer)
			}
			if _, status := wscat(t, connect[1], folder); status != tt.refused {
				t.Errorf("%s: %d, want %d", connect[1], status, tt.refused)
			}
		})
	}
	delete(sections, "A session cookie") // TestStartCookie
	for heading := range sections {
		t.Errorf("no test runs the program of %q", heading)
	}
}

// TestStartCookie runs the program of docs/start.md for a session cookie.
func TestStartCookie(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds a program")
	}
	port := freePort(t)
	base := "http://localhost:" + port
	serve(t, strings.ReplaceAll(startPage(t)["A session cookie"].program, "localhost:8080", "localhost:"+port), port)

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	user := &http.Client{Jar: jar}
	post := func(path string) {
		t.Helper()
		res, err := user.PostForm(base+path, url.Values{"user": {"alice"}})
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	connect := func(origin string) (*websocket.Conn, int) {
		t.Helper()
		return dial(t, base+"/ws", &websocket.DialOptions{HTTPClient: user, HTTPHeader: http.Header{"Origin": {origin}}})
	}
	if _, status := connect(base); status != http.StatusUnauthorized {
		t.Errorf("before the login: %d", status)
	}
	post("/login")
	if _, status := connect("https://evil.example"); status != http.StatusForbidden {
		t.Errorf("from another site: %d", status)
	}
	c, status := connect(base)
	if c == nil {
		t.Fatalf("after the login: %d", status)
	}
	if got := answer(t, c); got != "alice: hello" {
		t.Errorf("got %q", got)
	}
	cookies := jar.Cookies(&url.URL{Scheme: "http", Host: "localhost:" + port, Path: "/"})
	post("/logout")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, _, err = c.Read(ctx)
	var ce websocket.CloseError
	if !errors.As(err, &ce) || ce.Code != 3000 {
		t.Errorf("after the logout the connection says %v, want 3000", err)
	}
	header := http.Header{"Origin": {base}, "Cookie": {cookies[0].String()}}
	if _, status := dial(t, base+"/ws", &websocket.DialOptions{HTTPHeader: header}); status != http.StatusUnauthorized {
		t.Errorf("with the cookie of a login that has ended: %d", status)
	}

	t.Run("page", func(t *testing.T) {
		b := browser.Start(t)
		p := b.Open(base)
		p.Wait("document.querySelector('p')?.textContent.startsWith('closed')")
		p.Eval("document.querySelector('button').click()")
		p.Wait("document.querySelector('p')?.textContent === 'alice: hello'")
	})
}

// TestStartLeads checks that each case of docs/start.md has a section, that each section is a case,
// and that each one names the next page.
func TestStartLeads(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "start.md"))
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(text), "\n## ")
	var cases, headings []string
	for _, m := range regexp.MustCompile(`(?m)^\|[^|]*\| \[(.*?)\]\(#(.*?)\) \|$`).FindAllStringSubmatch(head, -1) {
		cases = append(cases, m[1])
		if anchor := strings.ReplaceAll(strings.ToLower(m[1]), " ", "-"); anchor != m[2] {
			t.Errorf("%s leads to #%s, want #%s", m[1], m[2], anchor)
		}
	}
	for part := range strings.SplitSeq(rest, "\n## ") {
		heading, body, _ := strings.Cut(part, "\n")
		headings = append(headings, heading)
		if !regexp.MustCompile(`Read\snext:\s`).MatchString(body) {
			t.Errorf("%s does not say what to read next", heading)
		}
	}
	if !slices.Equal(cases, headings) {
		t.Errorf("cases %q, sections %q", cases, headings)
	}
}

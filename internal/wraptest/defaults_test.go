package wraptest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	"github.com/olahol/melody"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// What docs/comparison.md names in the libraries.
var (
	_ = (*gorilla.Conn).NextReader
	_ = gorilla.Upgrader{EnableCompression: true}
	_ = (*coder.Conn).Reader
	_ = coder.AcceptOptions{CompressionMode: coder.CompressionContextTakeover}
	_ = gws.ServerOption{Authorize: nil, PermessageDeflate: gws.PermessageDeflate{Enabled: true}}
	_ = wsflate.Extension{}
)

// untouched are servers that echo messages and set no option of their library.
var untouched = map[string]func(t *testing.T, host string) http.Handler{
	"github.com/gorilla/websocket": func(*testing.T, string) http.Handler { return defaultGorilla() },
	"github.com/coder/websocket":   func(*testing.T, string) http.Handler { return defaultCoder() },
	"github.com/lxzan/gws": func(*testing.T, string) http.Handler {
		upgrader := gws.NewUpgrader(untouchedGWS{}, nil)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if conn, err := upgrader.Upgrade(w, r); err == nil {
				conn.ReadLoop()
			}
		})
	},
	"github.com/gobwas/ws": func(*testing.T, string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, _, err := ws.UpgradeHTTP(r, w)
			if err != nil {
				return
			}
			defer conn.Close()
			for {
				msg, op, err := wsutil.ReadClientData(conn)
				if err != nil || wsutil.WriteServerMessage(conn, op, msg) != nil {
					return
				}
			}
		})
	},
	"github.com/olahol/melody": func(t *testing.T, _ string) http.Handler {
		m := melody.New()
		var running sync.WaitGroup
		t.Cleanup(func() {
			running.Wait() // a request that registers with a closed melody never ends
			_ = m.Close()
		})
		m.HandleMessage(func(s *melody.Session, msg []byte) { _ = s.Write(msg) })
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Done()
			_ = m.HandleRequest(w, r)
		})
	},
	"wsguard": func(t *testing.T, host string) http.Handler {
		guard, err := wsguard.New(wsguard.Config{
			Origins: []string{"https://" + host},
			Auth:    wsguard.AuthConfig{InsecureAnonymous: true},
			Logger:  slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := guard.Shutdown(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
		return guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for {
				typ, msg, err := c.Read(ctx)
				if err != nil {
					return err
				}
				if err := c.Write(ctx, typ, msg); err != nil {
					return err
				}
			}
		})
	},
}

type untouchedGWS struct{ gws.BuiltinEventHandler }

func (untouchedGWS) OnMessage(conn *gws.Conn, msg *gws.Message) {
	defer msg.Close()
	_ = conn.WriteMessage(msg.Opcode, msg.Bytes())
}

// host is the name of the servers, which their pages have, too.
const host = "app.example.com"

// TestLibraryDefaults compares the table of docs/comparison.md with what each
// library does if no option is set.
func TestLibraryDefaults(t *testing.T) {
	t.Parallel()
	rows := 0
	for _, cells := range comparisonTable(t) {
		name, cells := cells[0], cells[1:]
		handler := untouched[name]
		if handler == nil {
			t.Errorf("docs/comparison.md lists %s, which the test does not know", name)
			continue
		}
		rows++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := []string{
				version(t, name),
				admits(t, handler, "https://evil.example"),
				admits(t, handler, "http://"+host),
				admits(t, handler, ""),
				largest(t, handler),
				delivers(t, handler, "\xff"),
				pings(t, handler),
			}
			for i, what := range []string{
				"version", "page of another host", "page of the same host over http", "no Origin",
				"largest message", "text that is not UTF-8", "pings",
			} {
				if cells[i] != got[i] {
					t.Errorf("%s: the page says %q, and the library says %q", what, cells[i], got[i])
				}
			}
		})
	}
	if rows != len(untouched) {
		t.Errorf("the page lists %d libraries, want %d", rows, len(untouched))
	}
}

// comparisonTable returns the rows of the table with the defaults of libraries.
func comparisonTable(t *testing.T) (rows [][]string) {
	b, err := os.ReadFile("../../docs/comparison.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(b), "\n| library | version |")
	if !found {
		t.Fatal("docs/comparison.md has no table of libraries")
	}
	lines := strings.Split(table, "\n")[2:] // behind the head
	for _, line := range lines {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		if len(cells) != 8 {
			t.Fatalf("the row has %d cells, want 8: %s", len(cells), line)
		}
		rows = append(rows, cells)
	}
	return rows
}

// TestComparisonCounts checks how many attacks and libraries the page says there are.
func TestComparisonCounts(t *testing.T) {
	b, err := os.ReadFile("../../docs/comparison.md")
	if err != nil {
		t.Fatal(err)
	}
	others := 0
	for _, lib := range libraries {
		if lib.own == nil {
			others++
		}
	}
	want := fmt.Sprintf("runs %d attacks against handlers on %d libraries", len(attacks), others)
	if !strings.Contains(strings.Join(strings.Fields(string(b)), " "), want) {
		t.Errorf("docs/comparison.md does not say that `internal/wraptest` %s", want)
	}
}

// version returns the version of a library that this module requires.
func version(t *testing.T, name string) string {
	if name == "wsguard" {
		return "this one"
	}
	b, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\t` + regexp.QuoteMeta(name) + ` v(\S+)$`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("go.mod does not require %s", name)
	}
	return string(m[1])
}

// connect opens a connection over TLS to a server with the handler.
func connect(t *testing.T, handler func(*testing.T, string) http.Handler, origin string) (*wstest.Client, *http.Response) {
	srv := httptest.NewTLSServer(handler(t, host))
	t.Cleanup(srv.Close)
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	return shake(t, conn, origin)
}

func shake(t *testing.T, conn net.Conn, origin string) (*wstest.Client, *http.Response) {
	c := wstest.NewClient(t, conn)
	c.Timeout = wrappedLimit
	t.Cleanup(func() { c.Close() }) // before the server, which may wait for it
	h := http.Header{}
	if origin != "" {
		h.Set("Origin", origin)
	}
	res, err := c.HandshakeWith(wstest.HandshakeOptions{Host: host, Header: h})
	if err != nil {
		t.Fatal(err)
	}
	return c, res
}

func open(t *testing.T, handler func(*testing.T, string) http.Handler) *wstest.Client {
	c, res := connect(t, handler, "https://"+host)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("a page of the server itself gets %s", res.Status)
	}
	return c
}

func admits(t *testing.T, handler func(*testing.T, string) http.Handler, origin string) string {
	if _, res := connect(t, handler, origin); res.StatusCode == http.StatusSwitchingProtocols {
		return "admitted"
	}
	return "refused"
}

// delivers reports whether the handler gets a text.
func delivers(t *testing.T, handler func(*testing.T, string) http.Handler, text string) string {
	if echoes(t, open(t, handler), text) {
		return "delivered"
	}
	return "refused"
}

// echoes reports whether a message comes back. Otherwise the connection must end.
func echoes(t *testing.T, c *wstest.Client, text string) bool {
	if _, err := c.Write(wstest.AppendFrame(nil, wstest.Text(text))); err != nil {
		return false // the server has not read all of it
	}
	_, msg, err := c.ReadMessage()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a message of %d bytes: no answer and no end", len(text))
	}
	return err == nil && string(msg) == text
}

// largest returns the size of the largest message that the handler gets. A
// library that takes 17 MiB is said to have no limit.
func largest(t *testing.T, handler func(*testing.T, string) http.Handler) string {
	for _, n := range []int{512, 32 << 10, 16 << 20} {
		if !echoes(t, open(t, handler), strings.Repeat("x", n)) {
			return fmt.Sprintf("less than %d", n)
		}
		if !echoes(t, open(t, handler), strings.Repeat("x", n+1)) {
			return thousands(n)
		}
	}
	if !echoes(t, open(t, handler), strings.Repeat("x", 17<<20)) {
		return "less than 17 MiB"
	}
	return "no limit"
}

// thousands returns n with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// pings returns the time until a peer that does nothing is pinged, if it is
// pinged within a day.
func pings(t *testing.T, handler func(*testing.T, string) http.Handler) (answer string) {
	synctest.Test(t, func(t *testing.T) {
		l := wstest.NewListener(wstest.PipeOptions{})
		srv := &http.Server{Handler: asIfTLS(handler(t, host))}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = srv.Serve(l)
		}()
		conn, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, _ := shake(t, conn, "https://"+host)
		start := time.Now()
		c.Timeout = 24 * time.Hour
		f, err := c.ReadFrame()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			answer = "no"
		case err != nil:
			t.Error(err)
		case f.Opcode != 9:
			t.Errorf("the server sends a frame with the opcode %d", f.Opcode)
		default:
			answer = interval(time.Since(start))
		}
		c.Close()
		srv.Close()
		<-done
	})
	return answer
}

// interval returns a time as the page says it. That of the guard has a jitter.
func interval(d time.Duration) string {
	if d != d.Round(time.Second) && (d-25*time.Second).Abs() <= 2500*time.Millisecond {
		return "every 25 s ±10 %"
	}
	return fmt.Sprintf("every %.0f s", d.Seconds())
}

// asIfTLS lets requests of an in-memory connection look as if they had come over
// TLS.
func asIfTLS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{}
		next.ServeHTTP(w, r)
	})
}

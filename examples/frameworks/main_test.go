package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/wsguardtest"
)

// accesses is an access log.
type accesses struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (a *accesses) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buf.Write(p)
}

func (a *accesses) count(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for line := range strings.Lines(a.buf.String()) {
		if strings.Contains(line, path) {
			n++
		}
	}
	return n
}

// get requests the page, and accepts gzip.
func get(t *testing.T, s *wsguardtest.Server, path string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "gzip")
	res, err := s.HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body := io.Reader(res.Body)
	if res.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func wantEcho(c *wsguardtest.Client, text string) {
	c.WriteText(text)
	c.WantText(text)
}

func TestRouters(t *testing.T) {
	for name, build := range routers {
		t.Run(name, func(t *testing.T) {
			var log accesses
			s := wsguardtest.NewServerFunc(t, func(guard *wsguard.Guard) http.Handler {
				return build(routes{guard.Handler(echoMessages), http.HandlerFunc(page), 10 * time.Second, &log})
			}, wsguardtest.Path("/ws"), wsguardtest.Header("Accept-Encoding", "gzip"), wsguardtest.TCP())
			c := s.Dial()
			wantEcho(c, "hello")
			wantEcho(c, strings.Repeat("x", 20_000))
			s.WantRefusal(403, "origin", wsguardtest.Origin("https://evil.example"))

			res, body := get(t, s, "/")
			if res.StatusCode != 200 || res.Header.Get("Content-Encoding") != "gzip" || !strings.Contains(body, "new WebSocket") {
				t.Errorf("the page: %s %v %s", res.Status, res.Header, body)
			}
			if res, _ := get(t, s, "/none"); res.StatusCode != 404 {
				t.Errorf("a page that does not exist: %s", res.Status)
			}
			wantEcho(c, "still there")
			c.Close()
			if log.count("/ws") == 0 || log.count("/none") != 1 {
				t.Errorf("the access log is\n%s", log.buf.String())
			}
		})
	}
}

// The timeout ends the page, and no connection that is older than the timeout.
func TestTimeout(t *testing.T) {
	slow := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for name, build := range routers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := wsguardtest.NewServerFunc(t, func(guard *wsguard.Guard) http.Handler {
				return build(routes{guard.Handler(echoMessages), slow, 50 * time.Millisecond, io.Discard})
			}, wsguardtest.Path("/ws"), wsguardtest.TCP())
			c := s.Dial()
			wantEcho(c, "hello")
			if res, _ := get(t, s, "/"); res.StatusCode != 503 && res.StatusCode != 504 {
				t.Errorf("the slow page: %s", res.Status)
			}
			wantEcho(c, "older than the timeout")
		})
	}
}

// What README.md says about middleware that stands in front of everything.
func TestInFront(t *testing.T) {
	serve := func(t *testing.T, wrap func(http.Handler) http.Handler, handler func(*wsguard.Guard) http.Handler) *wsguardtest.Server {
		return wsguardtest.NewServerFunc(t, func(g *wsguard.Guard) http.Handler { return wrap(handler(g)) },
			wsguardtest.Header("Accept-Encoding", "gzip"), wsguardtest.TCP())
	}
	handler := func(g *wsguard.Guard) http.Handler { return g.Handler(echoMessages) }
	accept := func(g *wsguard.Guard) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, err := g.Accept(w, r); err == nil {
				c.End(echoMessages(r.Context(), c))
			}
		})
	}
	wrap := func(g *wsguard.Guard) http.Handler {
		return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				return
			}
			defer c.CloseNow()
			for {
				typ, msg, err := c.Read(r.Context())
				if err != nil || c.Write(r.Context(), typ, msg) != nil {
					return
				}
			}
		}))
	}
	t.Run("http.TimeoutHandler", func(t *testing.T) {
		s := serve(t, func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "") }, handler)
		s.WantRefusal(501, "not_hijackable")
	})
	t.Run("chi Timeout", func(t *testing.T) {
		timeout := middleware.Timeout(50 * time.Millisecond)
		c := serve(t, timeout, handler).Dial()
		for _, door := range []func(*wsguard.Guard) http.Handler{accept, wrap} {
			if _, msg, err := serve(t, timeout, door).Dial().Read(); err == nil {
				t.Errorf("%q came, and not the end of the connection", msg)
			}
		}
		wantEcho(c, "older than the timeout")
	})
	t.Run("chi Compress", func(t *testing.T) {
		wantEcho(serve(t, middleware.Compress(5), handler).Dial(), "hello")
		wantEcho(serve(t, middleware.Compress(5), wrap).Dial(), "hello")
	})
	t.Run("echo Gzip", func(t *testing.T) {
		gzip := func(h http.Handler) http.Handler {
			e := echo.New()
			e.Use(echomiddleware.Gzip())
			e.GET("/", echo.WrapHandler(h))
			return e
		}
		wantEcho(serve(t, gzip, handler).Dial(), "hello")
		wantEcho(serve(t, gzip, wrap).Dial(), "hello")
	})
}

// The program serves the page, and admits a client with its origin.
func TestProgram(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", "chi", stdout)
		stdout.Close()
		done <- err
	}()
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(<-done)
	}
	url := strings.TrimSpace(strings.TrimPrefix(line, "open "))
	s := wsguardtest.ServerAt(t, url+"/ws", wsguardtest.Origin(url))
	c := s.Dial()
	wantEcho(c, "hello")
	s.WantRefusal(403, "origin", wsguardtest.Origin("https://evil.example"))
	stop()
	c.WantClose(1012, "draining")
	if err := <-done; err != nil {
		t.Error("run:", err)
	}
	if err := run(ctx, "127.0.0.1:0", "none", io.Discard); err == nil {
		t.Error("a router that does not exist is no error")
	}
}

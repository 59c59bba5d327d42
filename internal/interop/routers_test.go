package interop_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/mux"
	"github.com/gorilla/websocket"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"

	"github.com/wsguard/wsguard"
)

// Routers wrap the ResponseWriter, each in its way. The 101 must get through,
// and frames both ways after it.
func TestRouters(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	routers := map[string]func(h http.Handler) http.Handler{
		"net/http": func(h http.Handler) http.Handler { return h },
		"chi": func(h http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Use(middleware.RequestLogger(&middleware.DefaultLogFormatter{Logger: discardLogger{}}), middleware.Recoverer)
			r.Handle("/", h)
			return r
		},
		"gin": func(h http.Handler) http.Handler {
			r := gin.New()
			r.Use(gin.LoggerWithWriter(io.Discard), gin.Recovery())
			r.GET("/", gin.WrapH(h))
			return r
		},
		"echo": func(h http.Handler) http.Handler {
			e := echo.New()
			e.Use(echomiddleware.Recover(), echomiddleware.RequestID())
			e.GET("/", echo.WrapHandler(h))
			return e
		},
		"gorilla/mux": func(h http.Handler) http.Handler {
			r := mux.NewRouter()
			r.Handle("/", h)
			return r
		},
	}
	for name, wrap := range routers {
		for _, accept := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				guard, err := wsguard.New(wsguard.Config{
					Origins: []string{origin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Subprotocols: []string{"chat"},
				})
				if err != nil {
					t.Fatal(err)
				}
				h := guard.Handler(echoMessages)
				if accept {
					h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						c, err := guard.Accept(w, r)
						if err != nil {
							return
						}
						c.End(echoMessages(r.Context(), c))
					})
				}
				srv := httptest.NewServer(wrap(h))
				defer srv.Close()
				c := dialGorilla(t, "ws"+strings.TrimPrefix(srv.URL, "http"))
				for _, msg := range []string{"", "hello", strings.Repeat("x", 20_000)} {
					if err := c.WriteMessage(websocket.TextMessage, []byte(msg)); err != nil {
						t.Fatal(err)
					}
					if _, p, err := c.ReadMessage(); err != nil || string(p) != msg {
						t.Fatalf("%d bytes back, want %d: %v", len(p), len(msg), err)
					}
				}
				c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(20*time.Second))
				if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1000) {
					t.Error(err)
				}
			})
		}
	}
}

func echoMessages(ctx context.Context, c *wsguard.Conn) error {
	for {
		typ, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.Write(ctx, typ, msg); err != nil {
			return err
		}
	}
}

type discardLogger struct{}

func (discardLogger) Print(...any) {}

// What cannot hand over its connection gets a 501, and never a 101.
func TestOpaqueWriters(t *testing.T) {
	guard, err := wsguard.New(wsguard.Config{Origins: []string{origin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}})
	if err != nil {
		t.Fatal(err)
	}
	h := guard.Handler(echoMessages)
	for name, wrapped := range map[string]http.Handler{
		"http.TimeoutHandler": http.TimeoutHandler(h, time.Minute, ""),
		"opaque": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		}),
		"Hijack fails": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(failingHijacker{w}, r)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(wrapped)
			defer srv.Close()
			_, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), http.Header{"Origin": {origin}})
			if err == nil || res == nil || res.StatusCode != http.StatusNotImplemented {
				t.Errorf("%v %v, want a 501", res, err)
			}
			if n := guard.Conns(); n != 0 {
				t.Errorf("%d slots held", n)
			}
		})
	}
}

type failingHijacker struct{ http.ResponseWriter }

func (failingHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("not this one")
}

package accesslogs_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/gorilla/websocket"
	"github.com/lxzan/gws"

	"github.com/wsguard/wsguard"
)

const origin = "https://app.example.com"

// doors are the ways to serve an echo behind the guard.
var doors = map[string]func(t *testing.T, g *wsguard.Guard) http.Handler{
	"Handler": func(_ *testing.T, g *wsguard.Guard) http.Handler { return g.Handler(echoMessages) },
	"Accept": func(_ *testing.T, g *wsguard.Guard) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, err := g.Accept(w, r); err == nil {
				c.End(echoMessages(r.Context(), c))
			}
		})
	},
	"Wrap coder":   func(_ *testing.T, g *wsguard.Guard) http.Handler { return g.Wrap(http.HandlerFunc(coderEcho)) },
	"Wrap gorilla": func(_ *testing.T, g *wsguard.Guard) http.Handler { return g.Wrap(http.HandlerFunc(gorillaEcho)) },
	"Wrap gws":     func(_ *testing.T, g *wsguard.Guard) http.Handler { return g.Wrap(http.HandlerFunc(gwsEcho)) },
	"Wrap gobwas":  func(_ *testing.T, g *wsguard.Guard) http.Handler { return g.Wrap(http.HandlerFunc(gobwasEcho)) },
	"Wrap ReverseProxy": func(t *testing.T, g *wsguard.Guard) http.Handler {
		backend := httptest.NewServer(http.HandlerFunc(gorillaEcho))
		t.Cleanup(backend.Close)
		to, _ := url.Parse(backend.URL)
		return g.Wrap(&httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(to) }})
	},
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

func coderEcho(w http.ResponseWriter, r *http.Request) {
	c, err := coder.Accept(w, r, &coder.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		typ, msg, err := c.Read(context.Background())
		if err != nil || c.Write(context.Background(), typ, msg) != nil {
			return
		}
	}
}

func gorillaEcho(w http.ResponseWriter, r *http.Request) {
	c, err := (&websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		typ, msg, err := c.ReadMessage()
		if err != nil || c.WriteMessage(typ, msg) != nil {
			return
		}
	}
}

type gwsHandler struct{ gws.BuiltinEventHandler }

func (gwsHandler) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	c.WriteMessage(m.Opcode, m.Bytes())
}

func gwsEcho(w http.ResponseWriter, r *http.Request) {
	if c, err := gws.NewUpgrader(gwsHandler{}, nil).Upgrade(w, r); err == nil {
		c.ReadLoop()
	}
}

func gobwasEcho(w http.ResponseWriter, r *http.Request) {
	c, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		msg, op, err := wsutil.ReadClientData(c)
		if err != nil || wsutil.WriteServerMessage(c, op, msg) != nil {
			return
		}
	}
}

// errorLog is the ErrorLog of a server.
type errorLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *errorLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *errorLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts a server. When the test ends, its ErrorLog must be empty.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	var errors errorLog
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(&errors, "", 0)
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		if s := errors.String(); s != "" {
			t.Errorf("the server has logged: %s", s)
		}
	})
	return srv
}

func newGuard(t *testing.T, cfg wsguard.Config) *wsguard.Guard {
	t.Helper()
	cfg.Origins = []string{origin}
	if cfg.Auth.Verifier == nil {
		cfg.Auth.InsecureAnonymous = true
	}
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g.Shutdown(ctx)
	})
	return g
}

// dial makes a handshake. The connection echoes, or is nil.
func dial(t *testing.T, srv *httptest.Server, h http.Header) (*websocket.Conn, *http.Response) {
	t.Helper()
	h = h.Clone()
	h.Set("Accept-Encoding", "gzip") // as browsers do
	c, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), h)
	if res == nil {
		t.Fatalf("no response: %v", err)
	}
	if err != nil {
		return nil, res
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if err := c.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := c.ReadMessage(); err != nil || string(msg) != "hello" {
		t.Fatalf("%q %v", msg, err)
	}
	return c, res
}

// wantLogged waits until the middleware has reported as many statuses. They must be want, in any
// order.
func wantLogged(t *testing.T, statuses func() []int, want ...int) {
	t.Helper()
	for range 3000 {
		if got := slices.Sorted(slices.Values(statuses())); len(got) >= len(want) {
			if !slices.Equal(got, want) {
				t.Errorf("logged: %d, want %d", got, want)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("nothing is logged, want %d", want)
}

func fromApp() http.Header { return http.Header{"Origin": {origin}} }

// Each middleware tells an upgrade from a refusal, behind each door.
func TestAccepted(t *testing.T) {
	for name, use := range all {
		for door, behind := range doors {
			t.Run(name+", "+door, func(t *testing.T) {
				h, statuses := use(t, behind(t, newGuard(t, wsguard.Config{})))
				srv := serve(t, h)
				c, res := dial(t, srv, fromApp())
				if c == nil {
					t.Fatalf("%s %v", res.Status, res.Header)
				}
				if n := len(res.Header["Sec-Websocket-Accept"]) + len(res.Header["Connection"]) + len(res.Header["Upgrade"]); n != 3 || len(res.Header["Content-Type"])+len(res.Header["Content-Encoding"]) > 0 {
					t.Errorf("%v", res.Header)
				}
				want := 101
				if name == "echo, compressing" {
					want = 200 // that of echo itself: Gzip would hold the 101 back
				}
				// Only the function of Handler runs apart from the request.
				if door == "Handler" {
					wantLogged(t, statuses, want)
				} else if got := statuses(); len(got) > 0 {
					t.Errorf("logged: %d, although the handler runs", got)
				}
				c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Minute))
				if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1000) {
					t.Error(err)
				}
				c.Close()
				wantLogged(t, statuses, want)
			})
		}
	}
}

// Each middleware logs the status of each refusal, behind each door.
func TestRefused(t *testing.T) {
	for name, use := range all {
		for door, behind := range doors {
			t.Run(name+", "+door, func(t *testing.T) {
				var cfg wsguard.Config
				cfg.Rates.Handshakes = wsguard.Rate{PerSecond: 1e-6, Burst: 1}
				cfg.Auth.Verifier = func(context.Context, string) (wsguard.Principal, error) {
					return wsguard.Principal{}, wsguard.ErrUnauthenticated
				}
				handler, statuses := use(t, behind(t, newGuard(t, cfg)))
				srv := serve(t, handler)
				credential := http.Header{"Origin": {origin}, "Authorization": {"Bearer wrong"}}
				for i, h := range []http.Header{{"Origin": {"https://evil.example"}}, credential, credential} {
					if _, res := dial(t, srv, h); res.StatusCode != []int{403, 401, 429}[i] {
						t.Errorf("%s", res.Status)
					}
				}
				wantLogged(t, statuses, 401, 403, 429)
			})
		}
	}
}

// A refusal that a handler behind Wrap writes by hand is logged, and the client gets it as it is.
func TestRefusedByHand(t *testing.T) {
	for name, use := range all {
		for framing, head := range map[string]string{
			"length":  "Content-Length: 5\r\n\r\nhello",
			"chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			"close":   "\r\nhello",
		} {
			t.Run(name+", "+framing, func(t *testing.T) {
				h, statuses := use(t, newGuard(t, wsguard.Config{}).Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					c, brw, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					io.WriteString(brw, "HTTP/1.1 403 Forbidden\r\nX-Why: policy\r\n"+head)
					brw.Flush()
				})))
				_, res := dial(t, serve(t, h), fromApp())
				body, err := io.ReadAll(res.Body)
				if res.StatusCode != 403 || res.Header.Get("X-Why") != "policy" || string(body) != "hello" || err != nil {
					t.Errorf("%s %v %q %v", res.Status, res.Header, body, err)
				}
				if name != "echo, compressing" {
					wantLogged(t, statuses, 403)
				}
			})
		}
	}
}

// The log of a middleware shows no 101 that the client has not got.
func TestHijackFails(t *testing.T) {
	for name, as := range map[string]func(*recorder) http.ResponseWriter{
		"neither":                   func(r *recorder) http.ResponseWriter { return r },
		"Hijack fails":              func(r *recorder) http.ResponseWriter { return failing{r} },
		"Hijack fails, with Unwrap": func(r *recorder) http.ResponseWriter { return failingBoth{unwrapper{r}} },
		"Hijack only":               func(r *recorder) http.ResponseWriter { return closed{r} },
		"Unwrap only":               func(r *recorder) http.ResponseWriter { return unwrapper{r} },
		"both":                      func(r *recorder) http.ResponseWriter { return both{unwrapper{r}} },
	} {
		for door, behind := range doors {
			t.Run(name+", "+door, func(t *testing.T) {
				h, statuses := record(behind(t, newGuard(t, wsguard.Config{})), as)
				c, res := dial(t, serve(t, h), fromApp())
				want := 101
				switch name {
				case "neither", "Hijack fails":
					if want = res.StatusCode; want == 200 {
						want = 0 // gws answers nothing then, and neither does its handler
					}
					if c != nil || !strings.HasPrefix(door, "Wrap") && want != 501 {
						t.Errorf("%s", res.Status)
					}
				case "Hijack only":
					want = 0 // a WriteHeader after Hijack would be an error
				}
				if c != nil {
					c.Close()
				}
				wantLogged(t, statuses, want)
			})
		}
	}
}

// A middleware that holds the status back does not keep the 101 from the client.
func TestHeldBack(t *testing.T) {
	for door, behind := range doors {
		t.Run(door, func(t *testing.T) {
			h := behind(t, newGuard(t, wsguard.Config{}))
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(&late{recorder: &recorder{ResponseWriter: w}}, r)
			}))
			if c, res := dial(t, srv, fromApp()); c == nil {
				t.Error(res.Status)
			}
		})
	}
}

// A second hijack answers nothing, and announces nothing.
func TestHijackedTwice(t *testing.T) {
	for door, behind := range doors {
		t.Run(door, func(t *testing.T) {
			guarded := behind(t, newGuard(t, wsguard.Config{}))
			h, statuses := record(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				guarded.ServeHTTP(w, r)
				io.WriteString(c, "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n")
			}), func(r *recorder) http.ResponseWriter { return unwrapper{r} })
			srv := httptest.NewUnstartedServer(h)
			srv.Config.ErrorLog = log.New(io.Discard, "", 0) // the refusal is a mistake of the application's
			srv.Start()
			defer srv.Close()
			if _, res := dial(t, srv, fromApp()); res.StatusCode != 418 {
				t.Error(res.Status)
			}
			for range 3000 {
				if got := statuses(); len(got) > 0 {
					if slices.Contains(got, 101) {
						t.Errorf("logged: %d", got)
					}
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Error("nothing is logged")
		})
	}
}

// Frames that come with the handshake are read behind each door.
func TestEarlyFrames(t *testing.T) {
	for door, behind := range doors {
		t.Run(door, func(t *testing.T) {
			h, statuses := useChi(t, behind(t, newGuard(t, wsguard.Config{})))
			srv := serve(t, h)
			c, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nOrigin: "+origin+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"+
				"\x81\x85\x00\x00\x00\x00hello\x88\x82\x00\x00\x00\x00\x03\xe8")
			r := bufio.NewReader(c)
			if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
				t.Fatalf("%v %v", res, err)
			}
			frame := make([]byte, 7)
			if _, err := io.ReadFull(r, frame); err != nil || string(frame) != "\x81\x05hello" {
				t.Fatalf("%q %v", frame, err)
			}
			if rest, err := io.ReadAll(r); !strings.HasPrefix(string(rest), "\x88") {
				t.Errorf("%q %v", rest, err)
			}
			c.Close()
			wantLogged(t, statuses, 101)
		})
	}
}

// The same over TLS.
func TestAcceptedOverTLS(t *testing.T) {
	for door, behind := range doors {
		t.Run(door, func(t *testing.T) {
			h, statuses := useChi(t, behind(t, newGuard(t, wsguard.Config{})))
			var errors errorLog
			srv := httptest.NewUnstartedServer(h)
			srv.Config.ErrorLog = log.New(&errors, "", 0)
			srv.StartTLS()
			defer srv.Close()
			d := websocket.Dialer{TLSClientConfig: srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()}
			d.TLSClientConfig.NextProtos = nil // no HTTP/2
			c, _, err := d.Dial("wss"+strings.TrimPrefix(srv.URL, "https"), fromApp())
			if err != nil {
				t.Fatal(err)
			}
			c.WriteMessage(websocket.TextMessage, []byte("hello"))
			if _, msg, err := c.ReadMessage(); err != nil || string(msg) != "hello" {
				t.Errorf("%q %v", msg, err)
			}
			c.Close()
			wantLogged(t, statuses, 101)
			if s := errors.String(); s != "" {
				t.Errorf("the server has logged: %s", s)
			}
		})
	}
}

package wraptest_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"

	"github.com/wsguard/wsguard/internal/wraptest"
	"github.com/wsguard/wsguard/internal/wstest"
)

// observer is a handler that echoes until its connection ends, and tells with
// which close code; 1006 if there was none.
type observer struct {
	name    string
	handler func(t *testing.T, ended chan<- int) http.Handler
}

const abnormal = 1006

func gorillaObserver(_ *testing.T, ended chan<- int) http.Handler {
	upgrader := gorilla.Upgrader{Subprotocols: []string{plain.subprotocol}, CheckOrigin: func(*http.Request) bool { return true }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for err == nil {
			var msg []byte
			if _, msg, err = conn.ReadMessage(); err == nil {
				err = conn.WriteMessage(gorilla.TextMessage, msg)
			}
		}
		code := abnormal
		if closed := (*gorilla.CloseError)(nil); errors.As(err, &closed) {
			code = closed.Code // 1006 of an unexpected end
		}
		ended <- code
	})
}

var observers = []observer{
	{"gorilla/websocket", gorillaObserver},
	{"coder/websocket", func(_ *testing.T, ended chan<- int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := coder.Accept(w, r, &coder.AcceptOptions{Subprotocols: []string{plain.subprotocol}})
			if err != nil {
				return
			}
			defer conn.CloseNow()
			for err == nil {
				var msg []byte
				if _, msg, err = conn.Read(r.Context()); err == nil {
					err = conn.Write(r.Context(), coder.MessageText, msg)
				}
			}
			code := abnormal
			if status := coder.CloseStatus(err); status != -1 {
				code = int(status)
			}
			ended <- code
		})
	}},
	{"lxzan/gws", func(_ *testing.T, ended chan<- int) http.Handler {
		upgrader := gws.NewUpgrader(gwsObserver{ended: ended}, &gws.ServerOption{SubProtocols: []string{plain.subprotocol}})
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := upgrader.Upgrade(w, r)
			if err != nil {
				return
			}
			go conn.ReadLoop()
		})
	}},
	{"gobwas/ws", func(_ *testing.T, ended chan<- int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, _, err := ws.UpgradeHTTP(r, w)
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for err == nil {
					var msg []byte
					if msg, err = wsutil.ReadClientText(conn); err == nil {
						err = wsutil.WriteServerText(conn, msg)
					}
				}
				code := abnormal
				if closed := (wsutil.ClosedError{}); errors.As(err, &closed) {
					code = int(closed.Code)
				}
				ended <- code
			}()
		})
	}},
	{"gorilla/websocket, proxied", func(t *testing.T, ended chan<- int) http.Handler {
		backend := httptest.NewServer(gorillaObserver(t, ended))
		t.Cleanup(backend.Close)
		u, err := url.Parse(backend.URL)
		if err != nil {
			t.Fatal(err)
		}
		return &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(u) }}
	}},
}

type gwsObserver struct {
	gws.BuiltinEventHandler
	ended chan<- int
}

func (o gwsObserver) OnMessage(conn *gws.Conn, message *gws.Message) {
	defer message.Close()
	_ = conn.WriteMessage(gws.OpcodeText, message.Bytes())
}

func (o gwsObserver) OnClose(_ *gws.Conn, err error) {
	code := abnormal
	if closed := (*gws.CloseError)(nil); errors.As(err, &closed) {
		code = int(closed.Code)
	}
	o.ended <- code
}

// TestHandlerSeesTheEnd ends connections in each way, and asks the handler what
// it has seen of the end.
func TestHandlerSeesTheEnd(t *testing.T) {
	if !wraptest.CanWrap() {
		t.Skip("the Guard of this tree has no Wrap")
	}
	ends := []struct {
		name string
		end  func(*session) error
		code int
	}{
		{"revoked", func(c *session) error { c.target.guard.Admin().Revoke(goodToken); return nil }, 3000},
		{"kicked", func(c *session) error {
			for s := range c.target.guard.Admin().Sessions() {
				c.target.guard.Admin().Kick(s.ID, 4003, "enough")
			}
			return nil
		}, 4003},
		{"illegal frame", func(c *session) error { return c.WriteFrame(wstest.Frame{Fin: true, Opcode: wstest.OpText}) }, 1002},
		{"closed by the client", func(c *session) error { return c.WriteFrame(wstest.CloseFrame(4321, "")) }, 4321},
		{"lost", func(c *session) error { return c.Close() }, abnormal},
	}
	for _, o := range observers {
		t.Run(o.name, func(t *testing.T) {
			for _, e := range ends {
				ended := make(chan int, 1)
				lib := &library{name: o.name, dialect: plain, handler: func() (http.Handler, func()) { return o.handler(t, ended), noStop }}
				s := lib.serve(t, true, nil)
				c, err := s.open()
				if err == nil {
					err = c.ask("hello") // all is open and being read by then
				}
				if err == nil {
					err = e.end(c)
				}
				if err != nil {
					t.Fatalf("%s: %v", e.name, err)
				}
				select {
				case code := <-ended:
					if code != e.code {
						t.Errorf("%s: the handler sees %d, want %d", e.name, code, e.code)
					}
				case <-time.After(wrappedLimit):
					t.Errorf("%s: the handler sees no end", e.name)
				}
				c.Close()
				if err := s.emptied(); err != nil {
					t.Errorf("%s: %v", e.name, err)
				}
				s.stop()
			}
		})
	}
}

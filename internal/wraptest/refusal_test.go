package wraptest_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	xnet "golang.org/x/net/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wraptest"
)

// refusers are handlers that refuse what the guard lets pass, each in its
// library's way: through the ResponseWriter, or by hand after Hijack.
var refusers = map[string]http.Handler{
	"gorilla/websocket": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := gorilla.Upgrader{CheckOrigin: func(*http.Request) bool { return false }}
		upgrader.Upgrade(w, r, nil)
	}),
	"coder/websocket": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = "other.example"
		coder.Accept(w, r, nil)
	}),
	"lxzan/gws": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gws.NewUpgrader(gws.BuiltinEventHandler{}, &gws.ServerOption{
			Authorize: func(*http.Request, gws.SessionStorage) bool { return false },
		}).Upgrade(w, r)
	}),
	// It leaves the connection open, as its users do.
	"gobwas/ws": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Sec-WebSocket-Extensions", "x")
		ws.HTTPUpgrader{Negotiate: func(httphead.Option) (httphead.Option, error) {
			return httphead.Option{}, ws.RejectConnectionError(ws.RejectionStatus(http.StatusForbidden), ws.RejectionReason("no"))
		}}.Upgrade(r, w)
	}),
	"x/net/websocket": xnet.Server{
		Handshake: func(*xnet.Config, *http.Request) error { return errors.New("no") },
		Handler:   func(*xnet.Conn) {},
	},
	"net/http": http.NotFoundHandler(),
}

// TestRefusal compares what a client gets of a handler that refuses it. The
// guard ends the connection then, whatever the handler does, and reports it.
func TestRefusal(t *testing.T) {
	for name, h := range refusers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lib := &library{name: name, dialect: plain, handler: func() (http.Handler, func()) { return h, noStop }}
			want, _, err := lib.refusal(t, false)
			if err != nil {
				t.Fatalf("bare: %v", err)
			}
			if !wraptest.CanWrap() {
				t.Skip("the Guard of this tree has no Wrap")
			}
			got, reported, err := lib.refusal(t, true)
			switch {
			case err != nil:
				t.Error(err)
			case got != want:
				t.Errorf("status %d, bare %d", got, want)
			case reported != want:
				t.Errorf("the event has status %d, want %d", reported, want)
			}
		})
	}
}

// refusal returns the status that a client gets, and the one of the event.
func (l *library) refusal(t *testing.T, wrapped bool) (status, reported int, err error) {
	var event atomic.Int64
	s := l.serve(t, wrapped, func(cfg *wsguard.Config) {
		cfg.Timeouts.Write = 500 * time.Millisecond
		cfg.OnEvent = func(e audit.Event) {
			if e.Kind == audit.Refusal && e.Reason == "handler" {
				event.Store(int64(e.Status))
			}
		}
	})
	defer s.stop()
	c, err := s.dial()
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	c.Timeout = s.limit
	res, err := c.HandshakeWith(s.good())
	if res == nil {
		return 0, 0, err
	}
	if wrapped {
		switch {
		case err != nil:
			return 0, 0, err
		case !res.Close:
			return 0, 0, errors.New("no Connection: close")
		}
		if err := errors.Join(c.ReadEOF(), s.emptied()); err != nil {
			return 0, 0, err
		}
	}
	return res.StatusCode, int(event.Load()), nil
}

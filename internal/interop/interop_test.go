package interop_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/lxzan/gws"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

const origin = "https://app.example.com"

func newGuard(t *testing.T, change func(*wsguard.Config)) *wsguard.Guard {
	t.Helper()
	cfg := wsguard.Config{
		Origins:      []string{origin},
		Auth:         wsguard.AuthConfig{InsecureAnonymous: true},
		Subprotocols: []string{"chat"},
	}
	cfg.Messages.Binary = true
	cfg.Messages.MaxBytes = 1 << 20
	cfg.Rates.Messages.PerSecond = wsguard.Off
	cfg.Rates.Bytes.PerSecond = wsguard.Off
	if change != nil {
		change(&cfg)
	}
	guard, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return guard
}

// drain ends what guard has at the end of the test.
func drain(t *testing.T, guard *wsguard.Guard) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := guard.Shutdown(ctx); err != nil {
			t.Error("shutdown:", err)
		}
		if n := guard.Conns(); n != 0 {
			t.Errorf("%d slots held at the end", n)
		}
	})
}

// serve runs an echo behind a guard and returns its ws:// address.
func serve(t *testing.T, change func(*wsguard.Config), fn func(context.Context, *wsguard.Conn) error) (*wsguard.Guard, string) {
	t.Helper()
	guard := newGuard(t, change)
	if fn == nil {
		fn = echoMessages
	}
	srv := httptest.NewServer(guard.Handler(fn))
	t.Cleanup(srv.Close)
	drain(t, guard)
	return guard, "ws" + strings.TrimPrefix(srv.URL, "http")
}

func dialGorilla(t *testing.T, url string) *websocket.Conn {
	t.Helper()
	return dialGorillaBy(t, nil, url)
}

// dialGorillaBy connects through dial; nil is TCP.
func dialGorillaBy(t *testing.T, dial func(ctx context.Context, network, addr string) (net.Conn, error), url string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{NetDialContext: dial, Subprotocols: []string{"chat"}, WriteBufferSize: 64 << 10}
	c, _, err := d.Dial(url, http.Header{"Origin": {origin}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c
}

// A client with gorilla's default buffer of 4 KiB sends a message in frames of
// that size. It may send what MaxBytes allows, and nothing else need be raised.
func TestGorillaDefaultBuffer(t *testing.T) {
	for _, limit := range []int{257 << 10, 1 << 20} {
		guard, err := wsguard.New(wsguard.Config{
			Origins:  []string{origin},
			Auth:     wsguard.AuthConfig{InsecureAnonymous: true},
			Messages: wsguard.MessageConfig{MaxBytes: int64(limit)},
		})
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(guard.Handler(echoMessages))
		t.Cleanup(srv.Close)
		drain(t, guard)
		c, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), http.Header{"Origin": {origin}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		msg := bytes.Repeat([]byte{'x'}, limit)
		if err := c.WriteMessage(websocket.TextMessage, msg); err != nil {
			t.Fatal(err)
		}
		if _, p, err := c.ReadMessage(); err != nil || !bytes.Equal(p, msg) {
			t.Errorf("%d bytes: %d bytes back, %v", limit, len(p), err)
		}
	}
}

func TestGorillaEcho(t *testing.T) {
	_, url := serve(t, nil, nil)
	c := dialGorilla(t, url)
	if got := c.Subprotocol(); got != "chat" {
		t.Errorf("subprotocol %q", got)
	}
	for _, n := range []int{0, 1, 125, 126, 4096, 65535, 65536, 1 << 20} {
		msg := bytes.Repeat([]byte{'x'}, n)
		for _, typ := range []int{websocket.TextMessage, websocket.BinaryMessage} {
			// NextWriter fragments what does not fit its buffer.
			w, err := c.NextWriter(typ)
			if err != nil {
				t.Fatal(err)
			}
			for len(msg) > 0 {
				k := min(len(msg), 1+rand.N(64<<10))
				w.Write(msg[:k])
				msg = msg[k:]
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			msg = bytes.Repeat([]byte{'x'}, n)
			got, p, err := c.ReadMessage()
			if err != nil || got != typ || !bytes.Equal(p, msg) {
				t.Fatalf("%d bytes: type %d, %d bytes back, %v", n, got, len(p), err)
			}
		}
	}
}

func TestGorillaSeesTheCode(t *testing.T) {
	_, url := serve(t, func(c *wsguard.Config) {
		c.Rates.Messages = wsguard.Rate{PerSecond: 1, Burst: 3}
	}, nil)
	c := dialGorilla(t, url)
	for range 10 {
		c.WriteMessage(websocket.TextMessage, []byte("x"))
	}
	for {
		_, _, err := c.ReadMessage()
		if err == nil {
			continue
		}
		var ce *websocket.CloseError
		if !errors.As(err, &ce) || ce.Code != 1008 || ce.Text != "rate_limited" {
			t.Fatalf("%v, want 1008 rate_limited", err)
		}
		return
	}
}

func TestGorillaClosesFirst(t *testing.T) {
	for _, code := range []int{1000, 1001, 1005, 4321} {
		got := make(chan error, 1)
		_, url := serve(t, nil, func(ctx context.Context, c *wsguard.Conn) error {
			_, _, err := c.Read(ctx)
			got <- err
			return err
		})
		c := dialGorilla(t, url)
		var payload []byte
		if code != 1005 {
			payload = websocket.FormatCloseMessage(code, "bye")
		}
		c.WriteControl(websocket.CloseMessage, payload, time.Now().Add(20*time.Second))
		_, _, err := c.ReadMessage()
		var echoed *websocket.CloseError
		if !errors.As(err, &echoed) || echoed.Code != code {
			t.Errorf("%d: the client reads %v", code, err)
		}
		var ce *wsguard.CloseError
		if err := next(t, got); !errors.As(err, &ce) || int(ce.Code) != code || !ce.Remote {
			t.Errorf("%d: Read returned %v", code, err)
		}
	}
}

// In a bubble: a client that is slow, because the machine is, would have missed
// the time for its pong.
func TestGorillaAnswersPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wstest.CheckGoroutines(t)
		guard := newGuard(t, func(c *wsguard.Config) {
			c.Timeouts.PingInterval, c.Timeouts.Pong = 50*time.Millisecond, 40*time.Millisecond
		})
		s := wstest.ServePipe(t, guard.Handler(echoMessages))
		drain(t, guard)
		c := dialGorillaBy(t, s.Pipe.DialContext, "ws://"+s.Addr)
		pings := 0
		answer := c.PingHandler()
		c.SetPingHandler(func(data string) error {
			pings++
			if pings == 5 {
				c.WriteMessage(websocket.TextMessage, []byte("done"))
			}
			return answer(data)
		})
		pong := make(chan string, 1)
		c.SetPongHandler(func(data string) error { pong <- data; return nil })
		c.WriteControl(websocket.PingMessage, []byte("mine"), time.Now().Add(time.Second))
		if _, p, err := c.ReadMessage(); err != nil || string(p) != "done" {
			t.Fatalf("%q %v", p, err)
		}
		if got := next(t, pong); got != "mine" {
			t.Errorf("pong %q", got)
		}
	})
}

func TestGorillaRefused(t *testing.T) {
	_, url := serve(t, nil, nil)
	_, res, err := websocket.DefaultDialer.Dial(url, http.Header{"Origin": {"https://evil.example"}})
	if err == nil || res.StatusCode != http.StatusForbidden {
		t.Fatalf("%v %v", res, err)
	}
}

// next waits for a value, not for ever.
func next[T any](t *testing.T, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came in 20 s")
	}
	return v
}

// gwsClient collects what a gws connection sees.
type gwsClient struct {
	gws.BuiltinEventHandler
	messages chan []byte
	closed   chan error
}

func (h *gwsClient) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	h.messages <- bytes.Clone(m.Bytes())
}

func (h *gwsClient) OnClose(_ *gws.Conn, err error) { h.closed <- err }

func dialGWS(t *testing.T, url string) (*gws.Conn, *gwsClient) {
	t.Helper()
	h := &gwsClient{messages: make(chan []byte, 64), closed: make(chan error, 1)}
	// Compression is offered, and the guard must decline it.
	c, _, err := gws.NewClient(h, &gws.ClientOption{
		Addr: url, RequestHeader: http.Header{"Origin": {origin}},
		PermessageDeflate: gws.PermessageDeflate{Enabled: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.NetConn().Close() })
	go c.ReadLoop()
	return c, h
}

func TestGWSEcho(t *testing.T) {
	_, url := serve(t, nil, nil)
	c, h := dialGWS(t, url)
	for _, n := range []int{0, 1, 125, 126, 4096, 65535, 65536, 1 << 20} {
		msg := bytes.Repeat([]byte{'y'}, n)
		if err := c.WriteMessage(gws.OpcodeText, msg); err != nil {
			t.Fatal(err)
		}
		if got := next(t, h.messages); !bytes.Equal(got, msg) {
			t.Fatalf("%d bytes: %d back", n, len(got))
		}
	}
}

func TestGWSSeesTheCode(t *testing.T) {
	schema, err := wsguard.CompileSchema([]byte(`{"type":"object"}`))
	if err != nil {
		t.Fatal(err)
	}
	_, url := serve(t, func(c *wsguard.Config) { c.Messages.Validator = schema }, nil)
	c, h := dialGWS(t, url)
	c.WriteString(`[]`)
	var ce *gws.CloseError
	if err := next(t, h.closed); !errors.As(err, &ce) || ce.Code != 1008 || string(ce.Reason) != "schema" {
		t.Fatalf("%v, want 1008 schema", err)
	}
}

func TestManyClients(t *testing.T) {
	guard, url := serve(t, func(c *wsguard.Config) {
		c.Rates.Handshakes.PerSecond = wsguard.Off
		c.Rates.MaxInFlightPerClient = wsguard.Off // all of them come at once
		c.Caps.MaxConns = 40
	}, nil)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			msg := bytes.Repeat([]byte{byte('a' + i%26)}, 100+i)
			if i%2 == 0 {
				c, h := dialGWS(t, url)
				for range 50 {
					c.WriteMessage(gws.OpcodeBinary, msg)
					if got := next(t, h.messages); !bytes.Equal(got, msg) {
						t.Error("gws: another message back")
					}
				}
				return
			}
			c := dialGorilla(t, url)
			for range 50 {
				c.WriteMessage(websocket.BinaryMessage, msg)
				if _, got, err := c.ReadMessage(); err != nil || !bytes.Equal(got, msg) {
					t.Error("gorilla:", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := guard.Conns(); n != 40 {
		t.Errorf("%d slots, want 40", n)
	}
}

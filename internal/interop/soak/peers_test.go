package soak_test

import (
	"context"
	"net/http"
	"slices"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gorilla/websocket"
	"github.com/lxzan/gws"
)

// The servers of this file are what the documentation of their libraries leads to: a limit
// for messages, deadlines, and pings. They have no schema and no rates.

// coderPlain leaves limits and timeouts to others. It runs behind Guard.Wrap.
const (
	coderPlain   = false
	coderCareful = true
)

// coderHandler is careful or plain.
func coderHandler(careful bool) http.Handler {
	const (
		idle     = time.Minute
		write    = 10 * time.Second
		interval = 25 * time.Second
	)
	within := func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
		if !careful {
			return context.Background(), func() {}
		}
		return context.WithTimeout(ctx, d)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := coder.Accept(w, r, &coder.AcceptOptions{InsecureSkipVerify: true}) // known has looked at the origin
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		if careful {
			c.SetReadLimit(maxMessage)
			go func() {
				defer cancel()
				t := time.NewTicker(interval)
				defer t.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-t.C:
					}
					ping, stop := within(ctx, write)
					err := c.Ping(ping)
					stop()
					if err != nil {
						return
					}
				}
			}()
		}
		send := func(msg []byte) error {
			ctx, cancel := within(ctx, write)
			defer cancel()
			return c.Write(ctx, coder.MessageText, msg)
		}
		if r.URL.Path == pathFeed {
			c.CloseRead(ctx)
			for n := 0; err == nil; n++ {
				err = send(message(n, feedBytes))
			}
			return
		}
		for {
			ctx, cancel := within(ctx, idle)
			_, msg, err := c.Read(ctx)
			cancel()
			if err != nil || answer(r.URL.Path, msg, send) != nil {
				return
			}
		}
	})
}

// answer answers a message as the path says.
func answer(path string, msg []byte, send func([]byte) error) error {
	if path == pathEcho {
		return send(msg)
	}
	for n := range burst {
		if err := send(message(n, 0)); err != nil {
			return err
		}
	}
	return nil
}

// gorillaHandler has the deadlines of gorilla's chat example.
func gorillaHandler() http.Handler {
	const (
		write    = 10 * time.Second
		pong     = 60 * time.Second
		interval = pong * 9 / 10
	)
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }} // known has looked at it
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		c.SetReadLimit(maxMessage)
		c.SetReadDeadline(time.Now().Add(pong))
		c.SetPongHandler(func(string) error { return c.SetReadDeadline(time.Now().Add(pong)) })
		done := make(chan struct{})
		defer close(done)
		go func() {
			t := time.NewTicker(interval)
			defer t.Stop()
			for {
				select {
				case <-done:
					return
				case <-t.C:
				}
				if c.WriteControl(websocket.PingMessage, nil, time.Now().Add(write)) != nil {
					return
				}
			}
		}()
		send := func(msg []byte) error {
			c.SetWriteDeadline(time.Now().Add(write))
			return c.WriteMessage(websocket.TextMessage, msg)
		}
		if r.URL.Path == pathFeed {
			go func() {
				defer c.Close()
				for n := 0; send(message(n, feedBytes)) == nil; n++ {
				}
			}()
		}
		for {
			_, msg, err := c.ReadMessage()
			if err != nil || r.URL.Path == pathFeed || answer(r.URL.Path, msg, send) != nil {
				return
			}
		}
	})
}

// gwsEvents has the deadlines of the example in gws's README. There the client pings. Here
// the server does, because not every client can.
type gwsEvents struct{ gws.BuiltinEventHandler }

const (
	gwsInterval = 5 * time.Second
	gwsWait     = 10 * time.Second
)

func (gwsEvents) OnOpen(c *gws.Conn) {
	c.SetDeadline(time.Now().Add(gwsInterval + gwsWait))
	go func() {
		t := time.NewTicker(gwsInterval)
		defer t.Stop()
		for range t.C {
			if c.WritePing(nil) != nil {
				return
			}
		}
	}()
	if path, _ := c.Session().Load("path"); path == pathFeed {
		go func() {
			for n := 0; c.WriteMessage(gws.OpcodeText, message(n, feedBytes)) == nil; n++ {
			}
		}()
	}
}

func (gwsEvents) OnPing(c *gws.Conn, payload []byte) { c.WritePong(payload) }

func (gwsEvents) OnPong(c *gws.Conn, _ []byte) {
	c.SetDeadline(time.Now().Add(gwsInterval + gwsWait))
}

func (gwsEvents) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	path, _ := c.Session().Load("path")
	answer(path.(string), slices.Clone(m.Bytes()), func(msg []byte) error { return c.WriteMessage(gws.OpcodeText, msg) })
}

func gwsHandler() http.Handler {
	upgrader := gws.NewUpgrader(gwsEvents{}, &gws.ServerOption{
		CheckUtf8Enabled:   true,
		ReadMaxPayloadSize: maxMessage,
		ParallelEnabled:    false, // an echo must keep the order
		Recovery:           gws.Recovery,
		Authorize: func(r *http.Request, s gws.SessionStorage) bool {
			s.Store("path", r.URL.Path)
			return true
		},
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = recover() }() // a panic of gws must not end the other measurements
			defer c.WriteClose(1011, nil)
			c.ReadLoop()
		}()
	})
}

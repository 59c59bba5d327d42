package main

import (
	"net/http"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	"github.com/olahol/melody"
)

// gorillaHandler sets a deadline for each message read and written, as gorilla's
// own examples do. gorilla checks no UTF-8.
func gorillaHandler(string) http.Handler {
	var upgrader websocket.Upgrader // its CheckOrigin wants Origin and Host equal
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		c.SetReadLimit(maxMessage)
		for {
			c.SetReadDeadline(time.Now().Add(time.Minute))
			typ, msg, err := c.ReadMessage()
			if err != nil {
				return
			}
			c.SetWriteDeadline(time.Now().Add(5 * time.Second))
			if c.WriteMessage(typ, msg) != nil {
				return
			}
		}
	})
}

type gwsEcho struct{ gws.BuiltinEventHandler }

func (gwsEcho) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	c.WriteMessage(m.Opcode, m.Bytes())
}

// gwsHandler has no deadline: gws leaves them to its user.
func gwsHandler(string) http.Handler { return serveGWS(gwsEcho{}) }

func serveGWS(events gws.Event) http.Handler {
	upgrader := gws.NewUpgrader(events, &gws.ServerOption{
		CheckUtf8Enabled:   true,
		ReadMaxPayloadSize: maxMessage,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		// In gws's own words: without a goroutine of its own the request
		// is not collected.
		go c.ReadLoop()
	})
}

// gobwasHandler is the README's loop. ReadClientData checks UTF-8.
func gobwasHandler(string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, _, err := ws.UpgradeHTTP(r, w)
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for {
				msg, op, err := wsutil.ReadClientData(c)
				if err != nil {
					return
				}
				if wsutil.WriteServerMessage(c, op, msg) != nil {
					return
				}
			}
		}()
	})
}

func melodyHandler(string) http.Handler {
	m := melody.New()
	m.Config.MaxMessageSize = maxMessage
	m.HandleMessage(func(s *melody.Session, msg []byte) { s.Write(msg) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.HandleRequest(w, r) })
}

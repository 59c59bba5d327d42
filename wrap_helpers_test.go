package wsguard_test

import (
	"context"
	"net/http"
	"os"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
)

// coderEcho is an echo handler on coder/websocket that knows nothing of wsguard.
func coderEcho(subprotocols ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: subprotocols})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		for {
			typ, msg, err := c.Read(context.Background())
			if err != nil {
				return
			}
			if err := c.Write(context.Background(), typ, msg); err != nil {
				return
			}
		}
	})
}

// echoDoor is an echo behind the door that the tests run through.
func echoDoor(g *wsguard.Guard, cfg wsguard.Config) http.Handler {
	if os.Getenv("WSGUARD_DOOR") == "wrap" && !cfg.Auth.Sources.FirstMessage {
		return g.Wrap(coderEcho(cfg.Subprotocols...))
	}
	return g.Handler(echo)
}

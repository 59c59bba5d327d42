package wsguard_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// transports are the kinds of net.Conn that a server may have. A wrapper shows what is below it,
// or does not.
var transports = map[string]struct{ wrapped, shown, secure bool }{
	"TCP": {}, "TLS": {secure: true}, "wrapped": {wrapped: true}, "TLS over wrapped": {wrapped: true, shown: true, secure: true},
}

// serveTransport serves h over one of the transports.
func (e *env) serveTransport(name string, h http.Handler) {
	e.t.Helper()
	tr, l := transports[name], listenTCP()
	switch {
	case tr.shown:
		l = shownListener{l}
	case tr.wrapped:
		l = plainListener{l}
	}
	if tr.secure {
		e.s = wstest.ServeTLSListener(e.t, l, h)
	} else {
		e.serveOn(l, h)
	}
}

// shownListener is a listener whose connections show what they are around.
type shownListener struct{ net.Listener }

type shownConn struct{ net.Conn }

func (c shownConn) NetConn() net.Conn { return c.Conn }

func (l shownListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return shownConn{c}, err
}

// sending is a handler that sends n messages of size bytes, behind one of the doors.
func sending(g *wsguard.Guard, wrapped bool, n, size int) http.Handler {
	msg := make([]byte, size)
	if wrapped {
		return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				return
			}
			ctx := c.CloseRead(context.Background())
			for range n {
				if c.Write(ctx, websocket.MessageBinary, msg) != nil {
					return
				}
			}
			c.Close(websocket.StatusNormalClosure, "")
		}))
	}
	return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		c.CloseRead()
		for range n {
			if err := c.Write(ctx, wsguard.MessageBinary, msg); err != nil {
				return err
			}
		}
		return nil
	})
}

// A client that reads slowly, but all the time, gets everything. The kernel's buffer is so large
// that it has room for more only once in several write timeouts.
func TestSlowReader(t *testing.T) {
	long(t)
	bothDoors(t)
	const total = 6 << 20
	for name := range transports {
		for _, wrapped := range []bool{false, true} {
			for _, size := range []int{16 << 10, 2 << 20} {
				t.Run(fmt.Sprintf("%s, wrap %t, %d bytes", name, wrapped, size), func(t *testing.T) {
					t.Parallel()
					e := newEnv(t, conf(noRates, func(cfg *wsguard.Config) {
						cfg.Timeouts.Write = 800 * time.Millisecond
						cfg.Timeouts.CloseGrace = time.Minute
						cfg.Messages.MaxBytes = 16 << 20
					}))
					e.serveTransport(name, sending(e.g, wrapped, total/size, size))
					c := e.open(header())
					const ahead = 8 << 10 // what the handshake may have read
					if got := readSlowly(c.Conn(), total-ahead); got < total-ahead {
						t.Errorf("%d bytes of %d came", got, total)
					}
					c.Close()
					if ev := e.events.wait(t, audit.Close, 1); ev.Code != 1000 {
						t.Errorf("closed with %d %s %s", ev.Code, ev.Reason, ev.Detail)
					}
				})
			}
		}
	}
}

// readSlowly reads 1 MiB/s until it has n bytes, or the connection has ended.
func readSlowly(c net.Conn, n int) (got int) {
	b := make([]byte, 10<<10)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		k, err := c.Read(b)
		if got += k; err != nil || got >= n {
			return got
		}
	}
	return got
}

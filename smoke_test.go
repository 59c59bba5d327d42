package wsguard_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

func echo(ctx context.Context, c *wsguard.Conn) error {
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

func TestSmoke(t *testing.T) {
	wstest.CheckGoroutines(t)
	g, err := wsguard.New(wsguard.Config{Origins: []string{"https://app.example.com"}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}})
	if err != nil {
		t.Fatal(err)
	}
	s := wstest.Serve(t, g.Handler(echo))
	c := s.Dial(t)
	res, err := c.Handshake("/", http.Header{"Origin": {"https://app.example.com"}})
	if err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	c.WriteFrame(wstest.Text("hello"))
	op, p, err := c.ReadMessage()
	t.Log(op, string(p), err)
	f := wstest.Text("hel")
	f.Fin = false
	c.WriteFrame(f)
	c.WriteFrame(wstest.Ping([]byte("x")))
	f = wstest.Text("")
	f.Opcode = 0
	f.Fin = false
	c.WriteFrame(f)
	f = wstest.Text("lo")
	f.Opcode = 0
	c.WriteFrame(f)
	op, p, err = c.ReadMessage()
	t.Log(op, string(p), err)
	c.WriteFrame(wstest.CloseFrame(1000, "bye"))
	t.Log(c.ReadClose())
	t.Log(c.ReadEOF())
	c.Close() // or the guard lingers for it
	connGone(t, g)
}

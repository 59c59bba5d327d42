package wsguard_test

import (
	"context"
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

// TestSmoke is one conversation of a well-behaved client, from the handshake to the
// end of the connection.
func TestSmoke(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := newEnv(t, wsguard.Config{})
	e.serve(e.g.Handler(echo))
	c := e.open(header())
	echoed := func(want string) {
		t.Helper()
		if op, p, err := c.ReadMessage(); err != nil || op != wstest.OpText || string(p) != want {
			t.Fatalf("opcode %d, %q, %v; want the text %q", op, p, err, want)
		}
	}
	c.WriteFrame(wstest.Text("hello"))
	echoed("hello")

	// A message in three frames, and a ping between them.
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
	if f, err := c.ReadFrame(); err != nil || f.Opcode != wstest.OpPong || string(f.Payload) != "x" {
		t.Fatalf("%+v, %v; want the pong", f, err)
	}
	echoed("hello")

	// The guard answers a close frame with the same, and ends the connection.
	c.WriteFrame(wstest.CloseFrame(1000, "bye"))
	wantClose(t, c, 1000, "bye")
	if err := c.ReadEOF(); err != nil {
		t.Error(err)
	}
	c.Close()
	e.idle()
}

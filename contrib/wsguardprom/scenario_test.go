package wsguardprom

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

const origin = "https://app.example.com"

// doors has an echo behind each door of a Guard.
var doors = map[string]func(*wsguard.Guard) http.Handler{
	"handler": func(g *wsguard.Guard) http.Handler {
		return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for {
				typ, msg, err := c.Read(ctx)
				if err != nil {
					return err
				}
				if err := c.Write(ctx, typ, msg); err != nil {
					return err
				}
			}
		})
	},
	"wrap": func(g *wsguard.Guard) http.Handler {
		return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
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
		}))
	},
}

// eachDoor runs f behind both doors.
func eachDoor(t *testing.T, f func(t *testing.T, door func(*wsguard.Guard) http.Handler)) {
	for name, door := range doors {
		t.Run(name, func(t *testing.T) { f(t, door) })
	}
}

// newGuard returns a Guard that admits anonymous clients of origin in clear text and logs
// nothing. set may change its Config.
func newGuard(t testing.TB, set ...func(*wsguard.Config)) *wsguard.Guard {
	t.Helper()
	cfg := wsguard.Config{
		Origins: []string{origin}, InsecureAllowHTTP: true,
		Auth:   wsguard.AuthConfig{InsecureAnonymous: true},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, f := range set {
		f(&cfg)
	}
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return g
}

// scenario lets some minutes of a small server pass, in a bubble of synctest.
func scenario(t *testing.T, g *wsguard.Guard, h http.Handler) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := wstest.ServePipe(t, h)
	shake := func(origin string, want int) *wstest.Client {
		t.Helper()
		c := s.Dial(t)
		c.Timeout = time.Hour
		res, err := c.Handshake("/", http.Header{"Origin": {origin}})
		must(err)
		if res.StatusCode != want {
			t.Fatalf("status %d, want %d", res.StatusCode, want)
		}
		return c
	}
	closed := func(c *wstest.Client, want int) {
		t.Helper()
		code, _, err := c.ReadClose()
		must(err)
		if code != want {
			t.Fatalf("close code %d, want %d", code, want)
		}
		c.Close()
		synctest.Wait()
	}
	echo := func(c *wstest.Client, msg string) {
		t.Helper()
		must(c.WriteFrame(wstest.Text(msg)))
		if _, got, err := c.ReadMessage(); err != nil || string(got) != msg {
			t.Fatalf("%q %v", got, err)
		}
	}

	shake("https://evil.example", 403)
	shake("https://evil.example", 403)

	kicked := shake(origin, 101)
	synctest.Wait()
	for session := range g.Admin().Sessions() { // the only one
		if !g.Admin().Kick(session.ID, 0, "enough") {
			t.Error("there is nobody to kick")
		}
	}
	closed(kicked, 3003)

	talker, silent, large := shake(origin, 101), shake(origin, 101), shake(origin, 101)
	for i := range 10 {
		echo(talker, strings.Repeat("x", 1<<i))
	}
	must(large.WriteFrame(wstest.Text(strings.Repeat("x", 1<<20))))
	closed(large, 1009)

	// talker answers its ping, a second late. silent does not.
	for _, c := range []*wstest.Client{talker, silent} {
		if f, err := c.ReadFrame(); err != nil || f.Opcode != wstest.OpPing {
			t.Fatalf("%v %v", f, err)
		} else if c == talker {
			time.Sleep(time.Second)
			must(c.WriteFrame(wstest.Pong(f.Payload)))
		}
	}
	closed(silent, 3008)
	must(g.Admin().Ban("192.0.2.7", time.Hour, "a test"))
	must(talker.WriteFrame(wstest.CloseFrame(1001, "")))
	closed(talker, 1001)

	open := shake(origin, 101)
	echo(open, "still here")
	synctest.Wait()
	if n := g.Stats().Open; n != 1 {
		t.Fatalf("%d connections are open", n)
	}
}

package wsguard_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// output is what a program has written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) contains(s string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Contains(o.b.Bytes(), []byte(s))
}

// A peer may ask for new keys at any time (RFC 8446 §4.6.3), also long after the server's last
// write. The client is openssl, because crypto/tls does not ask by itself.
func TestKeyUpdate(t *testing.T) {
	long(t)
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	for name, handler := range map[string]func(*wsguard.Guard) http.Handler{
		"Handler": func(g *wsguard.Guard) http.Handler { return g.Handler(echo) },
		"Wrap":    func(g *wsguard.Guard) http.Handler { return g.Wrap(coderEcho()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, conf(noPings, func(cfg *wsguard.Config) { cfg.Timeouts.Write = 200 * time.Millisecond }))
			e.serveTLS(handler(e.g))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, openssl, "s_client", "-connect", e.s.Addr, "-tls1_3")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out := &output{}
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cancel()
			wait := func(s string) {
				t.Helper()
				eventually(t, s, func() bool { return out.contains(s) })
			}
			wait("Verify return code") // the handshake is over
			io.WriteString(in, "GET / HTTP/1.1\r\nHost: "+e.s.Addr+"\r\nOrigin: https://app.example.com"+
				"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			wait("101 Switching")
			for _, text := range []string{"first", "second", "third"} {
				in.Write(wstest.AppendFrame(nil, wstest.Text(text)))
				wait(text)
				// The write deadline of the answer passes, if there is one.
				time.Sleep(500 * time.Millisecond)
				io.WriteString(in, "K\n") // new keys, and the server must answer with its own
				wait("KEYUPDATE")
				time.Sleep(50 * time.Millisecond) // s_client takes a command only at the start of what it reads
			}
			in.Write(wstest.AppendFrame(nil, wstest.CloseFrame(1000, "")))
			if ev := e.events.wait(t, audit.Close, 1); ev.Code != 1000 {
				t.Errorf("%+v\n%s", ev, out.b.String())
			}
		})
	}
}

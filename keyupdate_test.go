package wsguard_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// output collects the output of a program.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) count(s string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Count(o.b.Bytes(), []byte(s))
}

// A peer may ask for new keys at any time (RFC 8446 §4.6.3), also long after the server's last
// write. The client is openssl, because crypto/tls does not ask by itself.
func TestKeyUpdate(t *testing.T) {
	long(t)
	bothDoors(t)
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
			wait := func(s string, n int) {
				t.Helper()
				eventually(t, s, func() bool { return out.count(s) >= n })
			}
			wait("Verify return code", 1) // the handshake is over
			io.WriteString(in, "GET / HTTP/1.1\r\nHost: "+e.s.Addr+"\r\nOrigin: https://app.example.com"+
				"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			wait("101 Switching", 1)
			for i, text := range []string{"first", "second", "third"} {
				in.Write(wstest.AppendFrame(nil, wstest.Text(text)))
				wait(text, 1)
				// The write deadline of the answer passes, if there is one.
				time.Sleep(500 * time.Millisecond)
				io.WriteString(in, "K\n") // new keys, and the server must answer with its own
				wait("KEYUPDATE", i+1)    // s_client takes a command only at the start of what it reads
			}
			in.Write(wstest.AppendFrame(nil, wstest.CloseFrame(1000, "")))
			if ev := e.events.wait(t, audit.Close, 1); ev.Code != 1000 {
				t.Errorf("%+v\n%s", ev, out.b.String())
			}
		})
	}
}

// A peer that asks for new keys and takes no answer holds the reader inside of crypto/tls. Its
// connection still ends in time: with the context of a Read, and with a Close.
func TestKeyUpdateFlood(t *testing.T) {
	long(t)
	bothDoors(t)
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprintf("Close %t", closes), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, conf(noPings, func(cfg *wsguard.Config) {
				cfg.Timeouts.Idle, cfg.Timeouts.Lifetime, cfg.Messages.Timeout = wsguard.Off, wsguard.Off, wsguard.Off
			}))
			stuck, returned := make(chan struct{}), make(chan time.Duration, 1)
			e.serveTLS(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				if closes {
					go func() {
						<-stuck
						c.Close(4000, "")
					}()
				}
				for {
					rctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
					if closes {
						rctx, cancel = ctx, func() {}
					}
					start := time.Now()
					_, _, err := c.Read(rctx)
					cancel()
					if c.Context().Err() != nil {
						returned <- time.Since(start)
						return err
					}
				}
			}), func(s *http.Server) {
				s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
					c.(*tls.Conn).NetConn().(*net.TCPConn).SetWriteBuffer(16 << 10) // few answers fill it
					return ctx
				}
			})
			var secrets bytes.Buffer
			conn := must(net.Dial("tcp", e.s.Addr))
			conn.(*net.TCPConn).SetReadBuffer(16 << 10)
			conn.(*net.TCPConn).SetWriteBuffer(256 << 10)
			secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, KeyLogWriter: &secrets})
			c := wstest.NewClient(t, secure)
			e.upgrade(c, header())
			// crypto/tls has sent one record with the handshake. From here on the records are ours.
			w, err := wstest.NewRecordWriter(conn, secure.ConnectionState().CipherSuite, secrets.String(), 1)
			if err != nil {
				t.Skip(err)
			}
			frame := wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 30_000)))
			flooded := make(chan struct{})
			go func() {
				defer close(flooded)
				for i := 0; ; i++ {
					w.Flood(frame[i%len(frame)])
					conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
					if w.Flush() != nil {
						close(stuck)
						return
					}
				}
			}()
			select {
			case <-flooded:
			case <-time.After(5 * time.Minute):
				t.Fatal("the server answers for ever")
			}
			start := time.Now()
			// The machine may be slow.
			if d := <-returned; !closes && d > time.Minute {
				t.Errorf("a Read with 300 ms returned after %v", d)
			}
			if d := time.Since(start); d > time.Minute {
				t.Errorf("the reader came back %v later", d)
			}
			ev := e.events.wait(t, audit.Close, 1)
			if want := map[bool]string{false: "write_timeout", true: "closed"}[closes]; ev.Reason != want {
				t.Errorf("closed with %d %s %s, want %s", ev.Code, ev.Reason, ev.Detail, want)
			}
		})
	}
}

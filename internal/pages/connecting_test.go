package pages_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

// connectingProgram returns the program of docs/connecting.md with short delays.
func connectingProgram(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "connecting.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks("docs/connecting.md", string(text)) {
		if b.whole() {
			for _, name := range []string{"5 * time.Second", "30 * time.Second"} {
				if strings.Count(b.code, name) != 1 {
					t.Fatalf("%s: %q does not stand there once", b, name)
				}
			}
			return build(t, strings.NewReplacer("30 * time.Second", "40 * time.Millisecond", "5 * time.Second", "20 * time.Millisecond").Replace(b.code))
		}
	}
	t.Fatal("docs/connecting.md has no program")
	return ""
}

// TestConnectingProgram runs the program of docs/connecting.md against a server that ends each of its
// connections in another way.
func TestConnectingProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds a program")
	}
	program := connectingProgram(t)
	for _, tt := range []struct {
		name     string
		ends     []any // a close code with its text, or a status; the last one stops the program
		sessions int
	}{
		{"a restart, an overload, then forbidden", []any{reason.Draining, reason.MaxConns, reason.Forbidden}, 3},
		{"lost, then replaced", []any{reason.ConnectionLost, reason.RateLimited, reason.Replaced}, 3},
		{"expired twice", []any{reason.Expired, reason.Expired}, 2},
		{"refused with 503 and 429, then 403", []any{503, 429, reason.Lifetime, 403}, 4},
		{"refused with 401 twice", []any{401, reason.Lifetime, 401}, 3},
		{"a redirect", []any{302}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			n := 0
			next := func() any {
				mu.Lock()
				defer mu.Unlock()
				n++
				return tt.ends[min(n, len(tt.ends))-1]
			}
			end := make(chan *reason.Reason, 1)
			guard, err := wsguard.New(wsguard.Config{
				InsecureAllowHTTP: true, Origins: []string{"https://app.example.com"},
				Auth: wsguard.AuthConfig{Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
					return wsguard.Principal{Subject: token}, nil
				}},
			})
			if err != nil {
				t.Fatal(err)
			}
			ws := guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				why := <-end
				if err := c.Write(ctx, wsguard.MessageText, []byte("hello "+c.Principal().Subject)); err != nil {
					return err
				}
				return &wsguard.CloseError{Code: why.Code(), Reason: why.Token()}
			})
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch e := next().(type) {
				case int:
					w.Header().Set("Location", "http://127.0.0.1:1/")
					w.WriteHeader(e)
				case *reason.Reason:
					if e == reason.ConnectionLost {
						panic(http.ErrAbortHandler)
					}
					end <- e
					ws.ServeHTTP(w, r)
				}
			}))
			defer s.Close()
			defer guard.Shutdown(t.Context())
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, program)
			cmd.Env = append(os.Environ(), "URL="+s.URL, "TOKEN=s3cret", "ORIGIN=https://app.example.com")
			var out, log bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &log
			if err := cmd.Run(); err == nil || ctx.Err() != nil || !strings.Contains(log.String(), "stopped: ") {
				t.Errorf("%v\n%s", err, &log)
			}
			mu.Lock()
			defer mu.Unlock()
			if n != tt.sessions {
				t.Errorf("%d attempts, want %d\n%s", n, tt.sessions, &log)
			}
			opened := 0
			for _, e := range tt.ends {
				if r, ok := e.(*reason.Reason); ok && r != reason.ConnectionLost {
					opened++
				}
			}
			if got := strings.Count(out.String(), "hello s3cret\n"); got != opened {
				t.Errorf("%d greetings, want %d: %s", got, opened, &out)
			}
			if strings.Contains(log.String(), "s3cret") {
				t.Errorf("the log has the token: %s", &log)
			}
		})
	}
}

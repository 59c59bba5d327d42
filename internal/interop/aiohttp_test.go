package interop_test

import (
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// aiohttp returns a Python that has aiohttp, or skips the test.
func aiohttp(t *testing.T) string {
	t.Helper()
	// The package of a distribution is for the distribution's Python, which need not be
	// the first in the path.
	for _, program := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(program, "-c", "import aiohttp").Run() == nil {
			return program
		}
	}
	t.Skip("no python3 that has aiohttp: install python3-aiohttp")
	return ""
}

// A client that is in the middle of a message that is refused reads the close code, and not
// 1006.
func TestAiohttpReadsTheCode(t *testing.T) {
	program := aiohttp(t)
	for name, serve := range map[string]func(testing.TB, http.Handler, ...func(*http.Server)) *wstest.Server{
		"TCP": wstest.Serve, "TLS": wstest.ServeTLS,
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuard(t, func(cfg *wsguard.Config) {
				cfg.Messages.MaxBytes = 64 << 10
				cfg.Caps.MaxConnsPerClient = wsguard.Off
				cfg.Rates.Handshakes.PerSecond = wsguard.Off
				cfg.Timeouts.CloseGrace = 30 * time.Second
			})
			s := serve(t, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				_, _, err := c.Read(ctx)
				return err
			}))
			const tries = 10
			args := []string{filepath.Join("testdata", "aiohttp_client.py"), origin, strconv.Itoa(1 << 20)}
			for range tries {
				args = append(args, strings.Replace(s.URL, "http", "ws", 1)+"/")
			}
			out, err := exec.Command(program, args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got := strings.Count(string(out), "1009\n"); got != tries {
				t.Errorf("1009 arrived %d times of %d:\n%s", got, tries, out)
			}
		})
	}
}

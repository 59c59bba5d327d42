package wsguard_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// Guards that share a State count together, and each has its own limits.
func TestStateShared(t *testing.T) {
	wstest.CheckGoroutines(t)
	echoDoor := func(g *wsguard.Guard) http.Handler { return g.Handler(echo) }
	two := func(t *testing.T, edit func(*wsguard.Config)) (a, b *env, cfg wsguard.Config) {
		cfg = wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}, State: wsguard.NewState()}
		edit(&cfg)
		return serveWith(t, cfg, echoDoor), serveWith(t, cfg, echoDoor), cfg
	}
	status := func(t *testing.T, e *env, h http.Header, code int) {
		t.Helper()
		c, res := e.try(h)
		c.Close()
		want(t, "status", res.StatusCode, code)
	}
	t.Run("slots", func(t *testing.T) {
		a, b, cfg := two(t, func(c *wsguard.Config) { c.Caps.MaxConns = 1 })
		c := a.open(bearer("alice"))
		want(t, "slots that b sees", b.g.Conns(), 1)
		status(t, b, bearer("bob"), 503)
		// b's own limit, and a's stays.
		cfg.Caps.MaxConns = 2
		b.reconfigure(cfg)
		second := b.open(bearer("bob"))
		status(t, a, bearer("carol"), 503)
		bye(c)
		bye(second)
	})
	t.Run("handshake rate", func(t *testing.T) {
		a, b, _ := two(t, func(c *wsguard.Config) { c.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 2} })
		status(t, a, bearer("alice"), 101)
		status(t, b, bearer("alice"), 101)
		status(t, a, bearer("alice"), 429)
	})
	t.Run("failed credentials", func(t *testing.T) {
		a, b, _ := two(t, func(c *wsguard.Config) { c.Auth.Failures = wsguard.Rate{PerSecond: never, Burst: 1} })
		status(t, a, bearer("wrong"), 401)
		status(t, b, bearer("wrong, too"), 429)
	})
	t.Run("revocation", func(t *testing.T) {
		a, b, _ := two(t, func(*wsguard.Config) {})
		c := a.open(bearer("alice"))
		b.g.Admin().Revoke("alice")
		wantClose(t, c, 3000, "revoked")
		c.Close()
		status(t, a, bearer("alice"), 401)
	})
	t.Run("ban", func(t *testing.T) {
		a, b, _ := two(t, func(*wsguard.Config) {})
		if err := a.g.Admin().Ban("127.0.0.1", time.Hour, ""); err != nil {
			t.Fatal(err)
		}
		status(t, b, bearer("alice"), 429)
	})
	t.Run("shutdown is its own", func(t *testing.T) {
		a, b, _ := two(t, func(*wsguard.Config) {})
		c := a.open(bearer("alice"))
		if err := b.g.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c, "still there")
		bye(c)
	})
	t.Run("origins are its own", func(t *testing.T) {
		a, b, cfg := two(t, func(*wsguard.Config) {})
		cfg.Origins = []string{"https://new.example.com"}
		a.reconfigure(cfg)
		status(t, a, bearer("alice"), 403)
		status(t, b, bearer("alice"), 101)
	})
}

package wsguardotel_test

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/contrib/wsguardotel"
)

// TestMessagesCostNothing sends many messages. The observer gets a record of the handshake, the
// opening and the close, and none of a message. Nothing more is allocated than without this
// package.
func TestMessagesCostNothing(t *testing.T) {
	const n = 2000
	doors(t, func(t *testing.T, echo func(*wsguard.Guard) http.Handler) {
		messages := strings.Split(strings.Repeat("x", n), "")
		// run returns the allocations of n echoes.
		run := func(attached bool) uint64 {
			cfg := config()
			cfg.Rates.Messages = wsguard.Rate{PerSecond: wsguard.Off}
			var records atomic.Int64
			if attached {
				provider, _ := recorder(t)
				mcfg, collect := meters(t)
				mcfg.TracerProvider = provider
				mcfg.Next = func(context.Context, audit.Record) { records.Add(1) }
				cfg.Observer = wsguardotel.Observer(mcfg)
				defer func() {
					eventually(t, func() bool { return records.Load() >= 3 })
					if lines := series(collect()); len(lines) == 0 || records.Load() != 3 {
						t.Errorf("%d series, %d records", len(lines), records.Load())
					}
				}()
				g := newGuard(t, cfg)
				register(t, g, mcfg)
				return echoes(t, g, echo(g), messages)
			}
			g := newGuard(t, cfg)
			return echoes(t, g, echo(g), messages)
		}
		// Other goroutines of the process allocate as well. The least of some runs has least of them.
		bare, attached := run(false), run(true)
		for range 5 {
			if attached < bare+n/4 {
				return
			}
			bare, attached = min(bare, run(false)), min(attached, run(true))
		}
		if attached >= bare+n/4 {
			t.Errorf("%d echoes take %d allocations, and %d without this package", n, attached, bare)
		}
	})
}

// echoes returns the allocations while a client exchanges messages with g.
func echoes(t *testing.T, g *wsguard.Guard, h http.Handler, messages []string) uint64 {
	t.Helper()
	s := server(t, h)
	c, status := dial(t, s, "/", http.Header{"Origin": {page}})
	if c == nil {
		t.Fatalf("status %d", status)
	}
	say(t, c, messages[:10]...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	say(t, c, messages[10:]...)
	runtime.ReadMemStats(&after)
	c.CloseNow()
	shutdown(t, g)
	return after.Mallocs - before.Mallocs
}

// TestNoGoroutine leaves no goroutine behind, neither of a guard nor of the metrics.
func TestNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("work", func(t *testing.T) {
		provider, _ := recorder(t)
		cfg, collect := meters(t)
		cfg.TracerProvider = provider
		gcfg := config()
		gcfg.Observer = wsguardotel.Observer(cfg)
		g := newGuard(t, gcfg)
		register(t, g, cfg)
		h := g.Handler(func(context.Context, *wsguard.Conn) error { return nil })
		s := server(t, h)
		for range 20 {
			dial(t, s, "/", http.Header{"Origin": {"https://evil.example"}})
			c, status := dial(t, s, "/", http.Header{"Origin": {page}})
			if c == nil {
				t.Fatalf("status %d", status)
			}
			c.CloseNow()
			collect()
		}
	})
	http.DefaultClient.CloseIdleConnections()
	eventually(t, func() bool { return runtime.NumGoroutine() <= before })
}

package wsguard_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// One look of the sweeper at what all connections use of their limits, once a second. It is a part
// of the work of the sweeper, which looks for connections that are due five times a second.
func BenchmarkLook(b *testing.B) {
	cfg := observing()
	noHandshakeLimits(&cfg)
	cfg.Origins = []string{appOrigin}
	cfg.Timeouts.Idle = wsguard.Off
	g := must(wsguard.New(cfg))
	s := wstest.ServePipe(b, http.Handler(g.Handler(echo)))
	for i := range 2000 {
		c := s.Dial(b)
		if _, err := c.Handshake("/", bearer(fmt.Sprint(i))); err != nil {
			b.Fatal(err)
		}
	}
	var conns []*wsguard.Conn
	b.Run("use", func(b *testing.B) {
		for b.Loop() {
			conns = g.Look(conns)
		}
	})
	b.Run("due", func(b *testing.B) {
		for b.Loop() {
			g.Due()
		}
	})
}

package wsguard

import (
	"net/netip"
	"testing"
	"time"

	"github.com/wsguard/wsguard/audit"
)

// More clients than a table has room for are said once, and then each time that
// their number has doubled. Over the network they would be too many for a test.
func TestEvictedIsReported(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves this out, because it takes long")
	}
	var said []audit.Event
	g, err := New(Config{
		Origins: []string{"https://app.example.com"},
		Auth:    AuthConfig{InsecureAnonymous: true},
		OnEvent: func(e audit.Event) { said = append(said, e) },
	})
	if err != nil {
		t.Fatal(err)
	}
	rates, now := &g.state.rates, time.Now() // the same for all: no bucket fills up meanwhile
	limit := g.policy.Load().rates.Handshakes.limit()
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			rates.handshakes.Take(client{addr: addr}.in(rates.handshakes), 1, limit, now)
		}
	}
	g.reportEvicted()
	if len(said) > 0 || g.Evicted() > 0 {
		t.Fatalf("%d evicted: %+v", g.Evicted(), said)
	}
	fill(0, 150_000)
	g.reportEvicted()
	g.reportEvicted()
	if len(said) != 1 || said[0].Kind != audit.Warning || said[0].Reason != "evicted" || g.Evicted() == 0 {
		t.Fatalf("%d evicted: %+v", g.Evicted(), said)
	}
	fill(150_000, 500_000)
	g.reportEvicted()
	if len(said) != 2 {
		t.Errorf("%d evicted: %+v", g.Evicted(), said)
	}
}

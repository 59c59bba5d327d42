package wsguard_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// 256 endings wait for their peer; beyond that an ending is done as soon as its
// close frame is written.
func TestEndingsThatLinger(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		g, ev := connGuard(t, nil)
		s := wstest.ServePipe(t, g.Handler(echo))
		const n = 300
		clients := make([]*wstest.Client, n)
		for i := range clients {
			clients[i] = connDial(t, s, "")
		}
		synctest.Wait() // the 101 arrives before the open event
		for _, id := range connIDs(ev) {
			g.Kick(id, 0, "")
		}
		synctest.Wait()
		if left := g.Conns(); left != 256 {
			t.Errorf("%d endings linger, want 256", left)
		}
		time.Sleep(2 * time.Second) // grace and linger
		synctest.Wait()
		if left := g.Conns(); left != 0 {
			t.Errorf("%d slots held after grace and linger", left)
		}
		for _, c := range clients {
			connWantClose(t, c, 3003, "kicked")
		}
	})
}

// An ending reads no more than 16 MiB from a peer that never stops sending. In
// the bubble the time that bounds it as well does not pass.
func TestEndingReadsNotForEver(t *testing.T) {
	connBubble(t, func(t *testing.T) {
		g, ev := connGuard(t, nil)
		s := wstest.ServePipe(t, g.Handler(echo))
		c := connDial(t, s, "")
		synctest.Wait()
		g.Kick(connIDs(ev)[0], 0, "")
		synctest.Wait()
		junk := wstest.AppendFrame(nil, wstest.Binary(make([]byte, 32<<10)))
		sent := 0
		for sent < 64<<20 {
			n, err := c.Write(junk)
			sent += n
			if err != nil {
				break
			}
		}
		if sent < 16<<20 || sent > 17<<20 {
			t.Errorf("%d KiB were read while lingering, want 16 MiB", sent>>10)
		}
	})
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/wsguardtest"
)

func serve(t *testing.T) (*feed, *wsguardtest.Server) {
	f := newFeed()
	return f, wsguardtest.NewServer(t, f.serve, wsguardtest.Config(config()))
}

func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := serve(t)
		f.set("AAA", 99)
		f.set("AAA", 100)
		c := s.Dial()
		c.WantJSON(`{"symbol":"AAA","price":100}`) // what there is
		f.set("BBB", 101)
		c.WantJSON(`{"symbol":"BBB","price":101}`) // what changes
		c.WantNothing(time.Hour)                   // and listening is not idle
		f.set("AAA", 102)
		c.WantJSON(`{"symbol":"AAA","price":102}`)

		c.WriteText(`{"symbol":"AAA","price":1}`)
		c.WantClose(1008, "unexpected_message")
		c = s.Dial()
		c.WriteText(strings.Repeat("x", 1<<10+1))
		c.WantClose(1009, "message_too_big")
	})
}

// Clients that have left are not kept, however they have left.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := serve(t)
		s.Dial().Close()
		s.Dial().CloseNow()
		stays := s.Dial()
		synctest.Wait()
		f.mu.Lock()
		if len(f.conns) != 1 {
			t.Errorf("%d connections, want 1", len(f.conns))
		}
		f.mu.Unlock()
		f.set("AAA", 100)
		stays.WantJSON(`{"symbol":"AAA","price":100}`)
	})
}

// A slow client gets fewer prices. It is not closed, the prices of a symbol come in their order,
// and the last is the newest. No time passes for the others.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rounds = 5000
		f, s := serve(t)
		slow, fast, start := s.DialRaw(), s.Dial(), time.Now()
		synctest.Wait()
		for n := 1; n <= rounds; n++ {
			for _, symbol := range symbols {
				f.set(symbol, n)
			}
			synctest.Wait()
			for range symbols {
				fast.ReadText()
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the others have waited for %v", d)
		}
		got, last := 0, map[string]int{}
		for n := 0; n < len(symbols); got++ {
			frame := slow.ReadFrame()
			if frame.Opcode != wsguardtest.OpText {
				t.Fatalf("the slow client got %+v %s", frame, frame.Payload)
			}
			var m struct {
				Symbol string
				Price  int
			}
			if err := json.Unmarshal(frame.Payload, &m); err != nil {
				t.Fatal(err)
			}
			if m.Price <= last[m.Symbol] {
				t.Fatalf("%d came after %d", m.Price, last[m.Symbol])
			}
			if last[m.Symbol] = m.Price; m.Price == rounds {
				n++
			}
		}
		if got == rounds*len(symbols) {
			t.Error("the slow client got every price, so the test shows nothing")
		}
		if events := s.Events.All(); slices.ContainsFunc(events, func(ev audit.Event) bool { return ev.Kind == audit.Close }) {
			t.Error("a connection was closed")
		}
	})
}

func TestProgram(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", time.Millisecond, stdout)
		stdout.Close()
		done <- err
	}()
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(<-done)
	}
	s := wsguardtest.ServerAt(t, strings.TrimSpace(strings.TrimPrefix(line, "npx wscat -c ")), wsguardtest.Origin(""))
	s.WantRefusal(403, "origin", wsguardtest.Origin("https://evil.example"))
	c := s.Dial()
	seen := map[string]bool{}
	for len(seen) < len(symbols) {
		var m struct{ Symbol string }
		c.ReadJSON(&m)
		seen[m.Symbol] = true
	}
	stop()
	c.WantClose(1012, "draining")
	select {
	case err := <-done:
		if err != nil {
			t.Error("run:", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("the program does not end")
	}
}

package wsguard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// A prepared message goes to many connections. Prepare copies it, and refuses what Write refuses.
func TestPrepare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, dial := totalServer(t, 1<<20)
		for _, typ := range []wsguard.MessageType{wsguard.MessageText, wsguard.MessageBinary} {
			for _, size := range []int{0, 1, 125, 126, 5000, 70_000} {
				want := bytes.Repeat([]byte("x"), size)
				msg := bytes.Clone(want)
				p, err := e.g.Prepare(typ, msg)
				if err != nil {
					t.Fatal(err)
				}
				clear(msg)
				for i := range 3 {
					client, conn := dial(fmt.Sprint(i))
					for range 2 {
						if err := conn.SendPrepared(p); err != nil {
							t.Fatal(err)
						}
						op, b, err := client.ReadMessage()
						if err != nil || int(op) != int(typ) || !bytes.Equal(b, want) {
							t.Errorf("%d bytes of type %d arrive as %d of opcode %d, %v", size, typ, len(b), op, err)
						}
					}
					bye(client)
				}
			}
		}
		if _, err := e.g.Prepare(wsguard.MessageText, []byte("\xff")); !errors.Is(err, reason.InvalidUTF8) {
			t.Errorf("a text that is not UTF-8: %v", err)
		}
		if _, err := e.g.Prepare(7, nil); err == nil {
			t.Error("an unknown type was prepared")
		}
		client, conn := dial("x")
		bye(client)
		e.idle()
		p, _ := e.g.Prepare(wsguard.MessageText, nil)
		var ce *wsguard.CloseError
		if err := conn.SendPrepared(p); !errors.As(err, &ce) {
			t.Errorf("a connection that has ended: %v", err)
		}
		wantNothingQueued(t, e)
	})
}

// Outbound judges a prepared message once, and again only after a Reconfigure or for another
// endpoint.
func TestPrepareOutbound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var judged atomic.Int32
		bad := errors.New("bad")
		outbound := judge(func(msg []byte) error {
			judged.Add(1)
			if bytes.Contains(msg, []byte("bad")) {
				return bad
			}
			return nil
		})
		cfg := conf(noPings, noRates, noHandshakeLimits, func(cfg *wsguard.Config) { cfg.Messages.Outbound = outbound })
		e := newEnv(t, cfg)
		conns := make(chan *wsguard.Conn, 1)
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			conns <- c
			_, _, err := c.Read(ctx)
			return err
		}))
		var all []*wsguard.Conn
		var clients []*wstest.Client
		for range 5 {
			clients = append(clients, e.open(header()))
			all = append(all, <-conns)
		}
		want := func(n int32, p *wsguard.Prepared, err error) {
			t.Helper()
			judged.Store(0)
			for i, c := range all {
				if got := c.SendPrepared(p); !errors.Is(got, err) || err == nil && got != nil {
					t.Fatalf("connection %d: %v, want %v", i, got, err)
				}
			}
			if got := judged.Load(); got != n {
				t.Errorf("judged %d times, want %d", got, n)
			}
		}
		if _, err := e.g.Prepare(wsguard.MessageText, []byte("bad")); !errors.Is(err, bad) {
			t.Errorf("a bad message: %v", err)
		}
		judged.Store(0)
		good, err := e.g.Prepare(wsguard.MessageText, []byte("good"))
		if err != nil || judged.Load() != 1 {
			t.Fatal(err, judged.Load())
		}
		want(0, good, nil)
		e.reconfigure(e.cfg)
		want(1, good, nil)
		want(0, good, nil)
		strict := e.cfg
		strict.Messages.Outbound = judge(func([]byte) error { judged.Add(1); return bad })
		e.reconfigure(strict)
		want(5, good, bad)
		if n := len(e.events.of(audit.Violation)); n != 5 {
			t.Errorf("%d events", n)
		}
		e.reconfigure(e.cfg)
		other, err := e.g.Endpoint(wsguard.EndpointConfig{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := other.Prepare(wsguard.MessageText, []byte("bad"))
		if err != nil {
			t.Fatal(err)
		}
		want(5, p, bad)
		// A message of another Guard is judged, and sent as Send does.
		p, err = newEnv(t, wsguard.Config{}).g.Prepare(wsguard.MessageText, []byte("foreign"))
		if err != nil {
			t.Fatal(err)
		}
		want(5, p, nil)
		for _, c := range clients {
			for _, text := range []string{"good", "good", "good", "foreign"} {
				wantMessage(t, c, text)
			}
			bye(c)
		}
	})
}

// MaxTotalBytes counts a prepared message once for all queues, and MaxBytes in full in each.
func TestPreparedCountsOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const total = 1 << 20
		e, dial := totalServer(t, total)
		p, err := e.g.Prepare(wsguard.MessageText, kib(700))
		if err != nil {
			t.Fatal(err)
		}
		var clients []*wstest.Client
		var conns []*wsguard.Conn
		for i := range 100 {
			client, c := dial(fmt.Sprint(i))
			if err := c.SendPrepared(p); err != nil {
				t.Fatal(err)
			}
			clients, conns = append(clients, client), append(conns, c)
		}
		synctest.Wait()
		if n := e.g.Queued(); n < 700<<10 || n > 710<<10 {
			t.Errorf("%d bytes are queued", n)
		}
		if err := conns[0].SendPrepared(p); !errors.Is(err, reason.QueueFull) {
			t.Errorf("1,400 KiB in one queue: %v", err)
		}
		another, err := e.g.Prepare(wsguard.MessageText, kib(800))
		if err != nil {
			t.Fatal(err)
		}
		_, c := dial("another")
		if err := c.SendPrepared(another); !errors.Is(err, reason.QueueFull) || c.Context().Err() != nil {
			t.Errorf("a message for which there is no room: %v", err)
		}
		for _, client := range clients[1:] {
			if _, b, err := client.ReadMessage(); err != nil || len(b) != 700<<10 {
				t.Fatal(len(b), err)
			}
		}
		clients[0].Close()
		e.closed()
		synctest.Wait()
		wantNothingQueued(t, e)
	})
}

package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// ends are ways to end a connection, and whether they write what is queued.
var ends = map[string]struct {
	end    func(g *wsguard.Guard, c *wsguard.Conn) error // what it returns, the handler returns
	writes bool
}{
	"return nil":        {func(*wsguard.Guard, *wsguard.Conn) error { return nil }, true},
	"return error":      {func(*wsguard.Guard, *wsguard.Conn) error { return errors.New("x") }, true},
	"return CloseError": {func(*wsguard.Guard, *wsguard.Conn) error { return &wsguard.CloseError{Code: 4000} }, true},
	"Close":             {func(_ *wsguard.Guard, c *wsguard.Conn) error { c.Close(4000, ""); return stay(c) }, true},
	"End":               {func(_ *wsguard.Guard, c *wsguard.Conn) error { c.End(nil); return stay(c) }, true},
	"Kick with a code":  {func(g *wsguard.Guard, c *wsguard.Conn) error { g.Admin().Kick(c.ID(), 4000, ""); return stay(c) }, true},
	"Shutdown":          {func(g *wsguard.Guard, c *wsguard.Conn) error { go g.Shutdown(context.Background()); return stay(c) }, true},
	"Kick":              {func(g *wsguard.Guard, c *wsguard.Conn) error { g.Admin().Kick(c.ID(), 0, ""); return stay(c) }, false},
	"Revoke":            {func(g *wsguard.Guard, c *wsguard.Conn) error { g.Admin().Revoke("alice"); return stay(c) }, false},
	"SignOut":           {func(g *wsguard.Guard, c *wsguard.Conn) error { g.Admin().SignOut("s1"); return stay(c) }, false},
	"panic":             {func(*wsguard.Guard, *wsguard.Conn) error { panic("x") }, false},
}

func stay(c *wsguard.Conn) error {
	<-c.Context().Done()
	return nil
}

// What Send has queued reaches the client before the close frame if the end is a good one, for
// each of many clients. It does not reach those who may no longer have it.
func TestEndsWriteTheQueue(t *testing.T) {
	for name, tt := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ready := make(chan struct{})
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					cfg.Auth = wsguard.AuthConfig{Verifier: func(context.Context, string) (wsguard.Principal, error) {
						return wsguard.Principal{Subject: "alice", SessionID: "s1"}, nil
					}}
					cfg.Caps.MaxConnsPerSubject = wsguard.Off
				}))
				l := wstest.NewListener(wstest.PipeOptions{BufferBytes: 64})
				e.serveOn(l, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					<-ready
					for i := range 40 { // more than the socket takes at once
						if err := c.Send(wsguard.MessageText, []byte(fmt.Sprintf("message %02d %s", i, strings.Repeat("x", 100)))); err != nil {
							t.Error(err)
						}
					}
					return tt.end(e.g, c)
				}))
				nc, err := l.Dial(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				c := wstest.NewClient(t, nc)
				e.upgrade(c, bearer("T"))
				close(ready)
				synctest.Wait() // the first message fills the socket
				var got int
				for ; ; got++ {
					_, msg, err := c.ReadMessage()
					if err != nil {
						break
					}
					if !strings.HasPrefix(string(msg), fmt.Sprintf("message %02d", got)) {
						t.Fatalf("message %d is %.12s", got, msg)
					}
				}
				want := 40
				if tt.writes != (got == want) {
					t.Errorf("%d messages of %d", got, want)
				}
				c.Close()
				if ev := e.closed(); int(ev.Dropped)+got != want && got != want || int(ev.MessagesOut) < got {
					t.Errorf("%d dropped, %d sent, the client has %d", ev.Dropped, ev.MessagesOut, got)
				}
			})
		})
	}
}

// A client that does not take the queue within the grace gets no half frame and no close frame
// in it, and the event counts what was dropped.
func TestQueueOfASlowClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		l := wstest.NewListener(wstest.PipeOptions{BufferBytes: 64})
		e.serveOn(l, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for range 10 {
				c.Send(wsguard.MessageText, []byte(strings.Repeat("x", 40)))
			}
			return nil
		}))
		nc, err := l.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		c := wstest.NewClient(t, nc)
		e.upgrade(c, header())
		start := time.Now()
		ev := e.closed() // the client reads nothing
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("the end took %v", d)
		}
		if int(ev.Dropped)+int(ev.MessagesOut) != 10 || ev.Dropped == 0 || ev.Code != 1000 {
			t.Errorf("%d dropped, %d sent, code %d", ev.Dropped, ev.MessagesOut, ev.Code)
		}
	})
}

// Flush waits until the queue is empty, until its context ends, or until the connection does.
func TestFlush(t *testing.T) {
	bubble(t, func(t *testing.T) {
		results := make(chan error, 10)
		e := newEnv(t, conf(noPings))
		l := wstest.NewListener(wstest.PipeOptions{BufferBytes: 64})
		e.serveOn(l, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			results <- c.Flush(ctx) // nothing is queued
			for range 10 {
				c.Send(wsguard.MessageText, []byte(strings.Repeat("x", 100)))
			}
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			results <- c.Flush(short)
			results <- c.Flush(ctx)
			c.Send(wsguard.MessageText, []byte(strings.Repeat("x", 1000)))
			go func() {
				time.Sleep(time.Second)
				e.g.Admin().Kick(c.ID(), 0, "")
			}()
			results <- c.Flush(context.Background())
			results <- c.Flush(context.Background())
			return nil
		}))
		nc, err := l.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		c := wstest.NewClient(t, nc)
		e.upgrade(c, header())
		if err := <-results; err != nil {
			t.Errorf("an empty queue: %v", err)
		}
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that ends: %v", err)
		}
		for range 10 {
			if _, _, err := c.ReadMessage(); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-results; err != nil {
			t.Errorf("a queue that is written: %v", err)
		}
		for range 2 {
			if err := <-results; !errors.Is(err, reason.Kicked) {
				t.Errorf("a connection that ends: %v", err)
			}
		}
	})
}

// An end that drops the queue stops a batch that is under way at the end of a frame, and the peer
// gets the close frame.
func TestEndInABatch(t *testing.T) {
	for name, serve := range queueDoors {
		if name == "pipe" {
			continue // TestEndsWriteTheQueue has it
		}
		t.Run(name, func(t *testing.T) {
			conns := make(chan *wsguard.Conn, 1)
			e := newEnv(t, conf(patient, noRates, func(cfg *wsguard.Config) { cfg.Send.MaxBytes = 64 << 20 }))
			serve(e, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				conns <- c
				return stay(c)
			}))
			client := e.open(header())
			c := <-conns
			const n = 10_000
			for range n {
				if err := c.Send(wsguard.MessageText, make([]byte, 1500)); err != nil {
					t.Fatal(err)
				}
			}
			e.g.Admin().Kick(c.ID(), 0, "")
			got := 0
			code, reason := 0, ""
			for {
				f, err := client.ReadFrame()
				if err != nil {
					break
				}
				if f.Opcode == wstest.OpClose {
					code, reason = int(f.Payload[0])<<8|int(f.Payload[1]), string(f.Payload[2:])
					break
				}
				got++
			}
			if got == n || code != 3003 || reason != "kicked" {
				t.Errorf("%d messages, then %d %q", got, code, reason)
			}
			bye(client)
			if ev := e.closed(); int(ev.MessagesOut) != got || int(ev.Dropped) != n-got {
				t.Errorf("%d sent, %d dropped, the client has %d", ev.MessagesOut, ev.Dropped, got)
			}
		})
	}
}

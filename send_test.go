package wsguard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// sendServer accepts connections over pipes whose buffers are small, so that a
// client that does not read is felt at once, and hands out their Conns. It runs
// in a bubble, where the write deadline waits for everything else.
func sendServer(t *testing.T, change func(*wsguard.Config)) (*wsguard.Guard, func() (*wstest.Client, *wsguard.Conn), chan audit.Event) {
	t.Helper()
	events := make(chan audit.Event, 1000)
	cfg := wsguard.Config{
		Origins: []string{"https://app.example.com"},
		Auth:    wsguard.AuthConfig{InsecureAnonymous: true},
		Caps:    wsguard.CapConfig{MaxConnsPerClient: wsguard.Off},
		Rates:   wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
		OnEvent: func(e audit.Event) {
			if e.Kind == audit.Close {
				events <- e
			}
		},
	}
	cfg.Timeouts.Write = 4 * time.Second
	if change != nil {
		change(&cfg)
	}
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan *wsguard.Conn, 1)
	l := wstest.NewListener(wstest.PipeOptions{BufferBytes: 4 << 10})
	wstest.ServeListener(t, l, g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		conns <- c
		_, _, err := c.Read(ctx)
		return err
	}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		g.Shutdown(ctx)
	})
	return g, func() (*wstest.Client, *wsguard.Conn) {
		t.Helper()
		nc, err := l.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		c := wstest.NewClient(t, nc)
		res, err := c.Handshake("/", http.Header{"Origin": {"https://app.example.com"}})
		if err != nil || res.StatusCode != 101 {
			t.Fatal(res, err)
		}
		return c, <-conns
	}, events
}

// stuck queues until a message stays queued behind one that is being written.
func stuck(t *testing.T, c *wsguard.Conn) {
	t.Helper()
	if err := c.Send(wsguard.MessageText, bytes.Repeat([]byte("x"), 64<<10)); err != nil {
		t.Fatal(err)
	}
}

func TestSendDropNewest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, events := sendServer(t, func(c *wsguard.Config) { c.Send.MaxMessages, c.Send.DropNewest = 2, true })
		client, conn := dial()
		stuck(t, conn)
		if err := conn.Send(wsguard.MessageText, []byte("kept")); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := conn.Send(wsguard.MessageText, []byte("dropped")); err != reason.QueueFull {
				t.Fatal(err)
			}
		}
		if _, p, err := client.ReadMessage(); err != nil || len(p) != 64<<10 {
			t.Fatal(len(p), err)
		}
		if _, p, err := client.ReadMessage(); err != nil || string(p) != "kept" {
			t.Fatalf("%q %v", p, err)
		}
		client.WriteFrame(wstest.CloseFrame(1000, ""))
		if e := <-events; e.Dropped != 5 || e.PeerCode != 1000 {
			t.Errorf("%+v", e)
		}
	})
}

func TestSendLatest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, _ := sendServer(t, func(c *wsguard.Config) { c.Send.MaxMessages = 4 })
		client, conn := dial()
		stuck(t, conn)
		for i := range 100 {
			for _, key := range []string{"a", "b", ""} {
				if err := conn.SendLatest(key, wsguard.MessageText, []byte(fmt.Sprint(key, i))); err != nil {
					t.Fatal(err)
				}
			}
		}
		var got []string
		for range 4 {
			_, p, err := client.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			if len(p) < 100 {
				got = append(got, string(p))
			}
		}
		if s := strings.Join(got, " "); s != "a99 b99 99" {
			t.Errorf("%s, want the newest of each key", s)
		}
	})
}

func TestSendTotal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, events := sendServer(t, func(c *wsguard.Config) {
			c.Send.MaxTotalBytes = 300 << 10
		})
		_, first := dial()
		_, second := dial()
		reader, third := dial()
		stuck(t, first)
		stuck(t, second)
		// The third makes progress all the time, and is not the one to go.
		for range 20 {
			stuck(t, third)
			if _, _, err := reader.ReadMessage(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the reader has it before the total has it back
		}
		if err := second.Send(wsguard.MessageText, make([]byte, 150<<10)); err != nil {
			t.Fatal(err)
		}
		if err := second.Send(wsguard.MessageText, make([]byte, 50<<10)); err != nil {
			t.Fatal("the second is not the one that waited longest:", err)
		}
		if e := <-events; e.ConnID != first.ID() || e.Code != 1008 || e.Reason != "queue_full" {
			t.Errorf("%s %d %s", e.ConnID, e.Code, e.Reason)
		}
		// An empty queue takes one message whatever the total.
		if err := third.Send(wsguard.MessageText, make([]byte, 400<<10)); err != nil {
			t.Error("an empty queue:", err)
		}
	})
}

// What ends gives back what it has queued.
func TestSendTotalComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g, dial, events := sendServer(t, func(c *wsguard.Config) { c.Send.MaxTotalBytes = 200 << 10 })
		for range 20 {
			_, conn := dial()
			stuck(t, conn)
			stuck(t, conn)
			g.Admin().Kick(conn.ID(), 0, "")
			if e := <-events; e.Reason != "kicked" {
				t.Fatalf("%s: the total did not come back", e.Reason)
			}
		}
	})
}

func TestSendAfterEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, events := sendServer(t, nil)
		_, conn := dial()
		conn.Close(4000, "over")
		<-events
		var ce *wsguard.CloseError
		if err := conn.Send(wsguard.MessageText, nil); !errors.As(err, &ce) || ce.Code != 4000 {
			t.Error(err)
		}
		if err := conn.Send(7, nil); err == nil || errors.As(err, &ce) {
			t.Error("an unknown type:", err)
		}
	})
}

// One stalled reader never delays a broadcast to the others.
func TestBroadcastPastAStalledReader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, _ := sendServer(t, nil)
		_, stalled := dial()
		stuck(t, stalled)
		var clients []*wstest.Client
		var conns []*wsguard.Conn
		for range 10 {
			c, conn := dial()
			clients, conns = append(clients, c), append(conns, conn)
		}
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				for range 100 {
					if _, p, err := c.ReadMessage(); err != nil || len(p) != 1000 {
						t.Error(len(p), err)
						return
					}
				}
			})
		}
		msg := bytes.Repeat([]byte("z"), 1000)
		for range 100 {
			stalled.Send(wsguard.MessageText, msg)
			for _, c := range conns {
				if err := c.Send(wsguard.MessageText, msg); err != nil {
					t.Fatal(err)
				}
			}
		}
		wg.Wait()
	})
}

// Send and SendLatest copy: what is done with the slice afterwards changes nothing.
func TestSendCopies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, _ := sendServer(t, nil)
		client, conn := dial()
		var buf []byte
		send := func(text string, send func() error) {
			t.Helper()
			buf = append(buf[:0], text...)
			if err := send(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // for the first to be half written
			for i := range buf {
				buf[i] = '!'
			}
		}
		first := strings.Repeat("x", 64<<10)
		want := []string{first}
		send(first, func() error { return conn.Send(wsguard.MessageText, buf) })
		for i, typ := range []wsguard.MessageType{wsguard.MessageText, wsguard.MessageBinary} {
			send("queued", func() error { return conn.Send(typ, buf) })
			send("old", func() error { return conn.SendLatest(fmt.Sprint(i), typ, buf) })
			send("latest", func() error { return conn.SendLatest(fmt.Sprint(i), typ, buf) })
			want = append(want, "queued", "latest")
		}
		send("", func() error { return conn.Send(wsguard.MessageText, buf) })
		want = append(want, "")
		for _, w := range want {
			if _, p, err := client.ReadMessage(); err != nil || string(p) != w {
				t.Fatalf("%.40q %v, want %.40q", p, err, w)
			}
		}
	})
}

// The hub that everybody writes first: what Read returns goes to all by Send. A
// member that reads slowly sees nothing of what was said to others meanwhile.
func TestHubLeaksNothing(t *testing.T) {
	for _, latest := range []bool{false, true} {
		t.Run(fmt.Sprintf("SendLatest %t", latest), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var mu sync.Mutex
				members := map[*wsguard.Conn]bool{}
				e := newEnv(t, conf(noRates))
				l := wstest.NewListener(wstest.PipeOptions{BufferBytes: 4 << 10})
				wstest.ServeListener(t, l, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
					mu.Lock()
					members[c] = true
					mu.Unlock()
					for n := 0; ; n++ {
						typ, msg, err := c.Read(ctx)
						if err != nil {
							return err
						}
						if bytes.HasPrefix(msg, []byte("private")) {
							continue
						}
						mu.Lock()
						for m := range members {
							if latest {
								err = m.SendLatest(fmt.Sprint(n), typ, msg)
							} else {
								err = m.Send(typ, msg)
							}
							if err != nil {
								t.Error(err)
							}
						}
						mu.Unlock()
					}
				}))
				dial := func() *wstest.Client {
					nc, err := l.Dial(context.Background())
					if err != nil {
						t.Fatal(err)
					}
					c := wstest.NewClient(t, nc)
					e.upgrade(c, header())
					return c
				}
				bystander, speaker := dial(), dial()
				synctest.Wait() // until both are members
				read := make(chan int)
				go func() {
					n := 0
					for ; n < 41; n++ {
						if _, _, err := speaker.ReadMessage(); err != nil {
							break
						}
					}
					read <- n
				}()
				say := func(s string) {
					if err := speaker.WriteFrame(wstest.Text(s)); err != nil {
						t.Fatal(err)
					}
				}
				say(strings.Repeat("x", 30<<10)) // the bystander has no room for it
				for i := range 40 {
					say(fmt.Sprintf("public message %02d", i))
					say(fmt.Sprintf("private secret %02d", i))
				}
				if n := <-read; n != 41 {
					t.Errorf("the speaker got %d messages", n)
				}
				for i := range 41 {
					_, p, err := bystander.ReadMessage()
					if err != nil || i > 0 && string(p) != fmt.Sprintf("public message %02d", i-1) {
						t.Errorf("message %d: %.40q %v", i, p, err)
					}
				}
			})
		})
	}
}

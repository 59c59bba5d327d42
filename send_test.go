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

// totalServer is a server whose clients have the names that they give, and whose queues may take
// total bytes together. dial opens a connection of a client that does not read.
func totalServer(t *testing.T, total int64) (e *env, dial func(client string) (*wstest.Client, *wsguard.Conn)) {
	t.Helper()
	conns := make(chan *wsguard.Conn, 1)
	e = newEnv(t, conf(noPings, noRates, noHandshakeLimits, func(cfg *wsguard.Config) {
		cfg.Caps.MaxUsersPerClient = wsguard.Off
		cfg.Send.MaxTotalBytes = total
		cfg.Timeouts.Write = 4 * time.Second
		cfg.Proxies.ClientName = func(r *http.Request) string { return r.Header.Get("Client-Name") }
	}))
	e.serveOn(wstest.NewListener(wstest.PipeOptions{BufferBytes: 4 << 10}), e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		conns <- c
		_, _, err := c.Read(ctx)
		return err
	}))
	return e, func(client string) (*wstest.Client, *wsguard.Conn) {
		t.Helper()
		return e.open(header("Client-Name", client)), <-conns
	}
}

// kib is a message of n KiB.
func kib(n int) []byte { return make([]byte, n<<10) }

// When all queues together are full, the client that has most queued loses its fullest queue.
func TestSendTotal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, dial := totalServer(t, 300<<10)
		_, single := dial("single")
		_, small := dial("hog")
		_, big := dial("hog")
		_, sender := dial("sender")
		for c, n := range map[*wsguard.Conn]int{single: 90, small: 60, big: 80} {
			if err := c.Send(wsguard.MessageText, kib(n)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		// The three queues have one message each, which is being written, so ending one of them
		// makes room only when its write has been broken off.
		if err := sender.Send(wsguard.MessageText, kib(80)); !errors.Is(err, reason.QueueFull) {
			t.Errorf("no room: %v", err)
		}
		ev := e.closed()
		if ev.ConnID != big.ID() || ev.Code != 1008 || ev.Reason != "queue_full" || !strings.Contains(ev.Detail, "all queues") || ev.Dropped != 1 {
			t.Errorf("%+v; want the end of %s", ev, big.ID())
		}
		synctest.Wait()
		if err := sender.Send(wsguard.MessageText, kib(80)); err != nil {
			t.Errorf("there is room again: %v", err)
		}
		for _, c := range []*wsguard.Conn{single, small, sender} {
			if c.Context().Err() != nil {
				t.Errorf("%s has ended: %v", c.ID(), context.Cause(c.Context()))
			}
		}
		// 90 KiB, 60 KiB and 80 KiB are there. What is queued behind them is dropped at once.
		if err := small.Send(wsguard.MessageText, kib(60)); err != nil {
			t.Fatal(err)
		}
		if err := sender.Send(wsguard.MessageText, kib(30)); err != nil {
			t.Error(err)
		}
		if ev := e.closed(); ev.ConnID != small.ID() || ev.Dropped != 2 {
			t.Errorf("%+v; want the end of %s", ev, small.ID())
		}
		// Now the sender is the client with most.
		if err := sender.Send(wsguard.MessageText, kib(100)); err == nil || sender.Context().Err() == nil {
			t.Errorf("the sender has most: %v", err)
		}
		if single.Context().Err() != nil {
			t.Errorf("another client was ended: %v", context.Cause(single.Context()))
		}
	})
}

// A message that is larger than all that others have queued fails, and ends nobody. So a client
// cannot end others by what it lets the application send to it.
func TestSendTotalIsFair(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, dial := totalServer(t, 1<<20)
		var good []*wsguard.Conn
		for i := range 20 {
			_, c := dial(fmt.Sprint("good ", i))
			if err := c.Send(wsguard.MessageText, kib(40)); err != nil {
				t.Fatal(err)
			}
			good = append(good, c)
		}
		_, hostile := dial("hostile")
		_, again := dial("hostile")
		for range 100 {
			for size, c := range map[int]*wsguard.Conn{300: hostile, 1100: hostile, 400: again} {
				if err := c.Send(wsguard.MessageText, kib(size)); !errors.Is(err, reason.QueueFull) {
					t.Fatalf("%d KiB: %v", size, err)
				}
				if c.Context().Err() != nil {
					t.Fatal("a message that finds no room ended its connection")
				}
			}
		}
		// Many small messages fill what is left. Then the hostile client loses its own queue.
		var ended bool
		for i := 0; i < 2000 && !ended; i++ {
			c := []*wsguard.Conn{hostile, again}[i%2]
			c.Send(wsguard.MessageText, kib(8))
			ended = c.Context().Err() != nil
		}
		if !ended {
			t.Error("the hostile client filled all queues, and lost none of its own")
		}
		for _, c := range good {
			if c.Context().Err() != nil {
				t.Fatalf("a good client was ended: %v", context.Cause(c.Context()))
			}
		}
		_ = e
	})
}

// First messages count, and so do those of SendLatest: MaxTotalBytes bounds them all.
func TestSendTotalBoundsAll(t *testing.T) {
	const total = 4 << 20
	large := kib(100)
	for name, send := range map[string]func(*wsguard.Conn, int) error{
		"first messages": func(c *wsguard.Conn, _ int) error { return c.Send(wsguard.MessageText, large) },
		"SendLatest": func(c *wsguard.Conn, i int) error {
			return c.SendLatest(fmt.Sprint(i%50), wsguard.MessageText, kib(1+i%37))
		},
		"small messages": func(c *wsguard.Conn, _ int) error { return c.Send(wsguard.MessageText, make([]byte, 100)) },
		"large and small": func(c *wsguard.Conn, i int) error {
			return c.Send(wsguard.MessageText, make([]byte, 1+i%2*5000))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				each := 200
				if name == "first messages" {
					each = 20 // which is half of the total for each of the clients
				}
				e, dial := totalServer(t, total)
				for i := range 100 {
					_, c := dial(fmt.Sprint(i))
					for k := range each {
						send(c, k)
						if n := e.g.Queued(); n > total {
							t.Fatalf("%d bytes are queued", n)
						}
					}
				}
				if n := e.g.Queued(); n < total/3 {
					t.Errorf("only %d bytes are queued", n)
				}
			})
		})
	}
}

// SendLatest obeys MaxBytes, also when it replaces a message.
func TestSendLatestObeysMaxBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, _ := sendServer(t, func(c *wsguard.Config) { c.Send.MaxBytes, c.Send.DropNewest = 100<<10, true })
		client, conn := dial()
		stuck(t, conn)
		synctest.Wait()
		for i, want := range []error{nil, nil, reason.QueueFull, nil} {
			if err := conn.SendLatest("a", wsguard.MessageText, kib([]int{1, 30, 40, 20}[i])); err != want {
				t.Errorf("message %d: %v, want %v", i, err, want)
			}
		}
		for _, want := range []int{64 << 10, 20 << 10} {
			if _, p, err := client.ReadMessage(); err != nil || len(p) != want {
				t.Errorf("%d bytes, %v; want %d", len(p), err, want)
			}
		}
	})
}

// SendLatest finds its message in constant time.
func TestSendLatestIsQuick(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, _ := sendServer(t, nil)
		_, conn := dial()
		stuck(t, conn)
		synctest.Wait()
		for range 20 {
			for k := range 3000 { // 60,000 calls would take 90,000,000 comparisons
				if err := conn.SendLatest(fmt.Sprint(k), wsguard.MessageText, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := conn.QueueLen(); n != 3001 {
			t.Errorf("%d messages are queued", n)
		}
	})
}

// A burst of small messages is no slow consumer. With the defaults all of it arrives.
func TestSendBurst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, _ := sendServer(t, nil)
		client, conn := dial()
		const n = 3000
		for i := range n {
			if err := conn.Send(wsguard.MessageText, fmt.Append(nil, i)); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		for i := range n {
			wantMessage(t, client, fmt.Sprint(i))
		}
	})
}

// A queue that is full for as long as Timeouts.Write is no reason to end a peer that reads.
func TestSlowReaderOfAQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, events := sendServer(t, noPings)
		client, conn := dial()
		const n = 300
		for range n {
			if err := conn.Send(wsguard.MessageText, kib(3)); err != nil {
				t.Fatal(err)
			}
		}
		for range n {
			time.Sleep(time.Second) // 5 minutes in all, and the write timeout is 4 s
			if _, _, err := client.ReadMessage(); err != nil {
				t.Fatal(err)
			}
		}
		conn.Close(1000, "")
		client.ReadClose()
		client.Close()
		if ev := <-events; ev.MessagesOut != n || ev.Dropped != 0 {
			t.Errorf("%d sent, %d dropped", ev.MessagesOut, ev.Dropped)
		}
	})
}

// A peer that takes nothing is closed after the write timeout, whatever is queued.
func TestStuckReaderOfAQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, events := sendServer(t, nil)
		client, conn := dial()
		for range 100 {
			if err := conn.Send(wsguard.MessageText, kib(1)); err != nil {
				t.Fatal(err)
			}
		}
		ev := <-events
		if ev.Reason != "write_timeout" || ev.Code != 1008 || ev.Duration > 8*time.Second || ev.MessagesOut+ev.Dropped != 100 || ev.MessagesOut < 3 {
			t.Errorf("%+v", ev)
		}
		client.Close()
	})
}

// Write waits for what Send has queued, and its context bounds the wait.
func TestWriteBehindSend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, _ := sendServer(t, nil)
		client, conn := dial()
		stuck(t, conn)
		conn.Send(wsguard.MessageText, []byte("queued"))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := conn.Write(ctx, wsguard.MessageText, []byte("too late")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Write behind a queue: %v", err)
		}
		wrote := make(chan error)
		go func() { wrote <- conn.Write(context.Background(), wsguard.MessageText, []byte("written")) }()
		synctest.Wait()
		conn.Send(wsguard.MessageText, []byte("behind"))
		if _, p, err := client.ReadMessage(); err != nil || len(p) != 64<<10 {
			t.Fatal(len(p), err)
		}
		wantMessage(t, client, "queued")
		var got []string
		for range 2 {
			_, p, err := client.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(p))
		}
		// Two goroutines have sent these, so they have no order.
		if s := strings.Join(got, " "); s != "written behind" && s != "behind written" {
			t.Error(s)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		stuck(t, conn)
		stuck(t, conn)
		go func() { wrote <- conn.Write(context.Background(), wsguard.MessageText, []byte("never")) }()
		synctest.Wait()
		conn.Close(4000, "over")
		var ce *wsguard.CloseError
		if err := <-wrote; !errors.As(err, &ce) || ce.Code != 4000 {
			t.Errorf("Write behind a queue of a connection that ends: %v", err)
		}
		client.Close()
	})
}

// SendWait waits for room, in order, until its context or the connection ends.
func TestSendWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, dial, _ := sendServer(t, func(c *wsguard.Config) { c.Send.MaxMessages = 3 })
		client, conn := dial()
		ctx := context.Background()
		stuck(t, conn)
		synctest.Wait()
		for range 2 {
			if err := conn.SendWait(ctx, wsguard.MessageText, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := conn.SendWait(short, wsguard.MessageText, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that ends: %v", err)
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := conn.SendWait(ctx, wsguard.MessageText, fmt.Append(nil, i)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if _, p, err := client.ReadMessage(); err != nil || len(p) != 64<<10 {
			t.Fatal(len(p), err)
		}
		for range 2 {
			wantMessage(t, client, "x")
		}
		for i := range 20 {
			wantMessage(t, client, fmt.Sprint(i))
		}
		wg.Wait()
		// The connection ends.
		stuck(t, conn)
		for range 2 {
			conn.Send(wsguard.MessageText, nil)
		}
		ended := make(chan error, 1)
		go func() { ended <- conn.SendWait(ctx, wsguard.MessageText, nil) }()
		synctest.Wait()
		conn.Close(4000, "over")
		var ce *wsguard.CloseError
		if err := <-ended; !errors.As(err, &ce) || ce.Code != 4000 {
			t.Errorf("a connection that ends: %v", err)
		}
		if err := conn.SendWait(ctx, wsguard.MessageText, nil); !errors.As(err, &ce) {
			t.Errorf("a connection that has ended: %v", err)
		}
		client.Close()
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

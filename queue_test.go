package wsguard_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// queueModel is what a test has sent, and says what the client may read.
type queueModel struct {
	mu     sync.Mutex
	sent   []sentMessage
	next   int            // plain messages that were read
	read   map[string]int // by key: the number behind the last message that was read
	plains []int          // the numbers of the plain messages
}

type sentMessage struct {
	key   string // of SendLatest
	front int    // how many plain messages are in front of it
}

// add returns the bytes of a new message. It has its number in front.
func (m *queueModel) add(key string, size int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.sent)
	if m.sent = append(m.sent, sentMessage{key, len(m.plains)}); key == "" {
		m.plains = append(m.plains, n)
	}
	b := bytes.Repeat([]byte{byte(n)}, 8+size)
	binary.BigEndian.PutUint64(b, uint64(n))
	return b
}

// got judges a message that the client has read.
func (m *queueModel) got(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := int(binary.BigEndian.Uint64(b))
	if bytes.Count(b[8:], []byte{byte(n)}) != len(b)-8 {
		return fmt.Errorf("message %d has bytes of another", n)
	}
	key := m.sent[n].key
	if key == "" {
		if m.next == len(m.plains) || m.plains[m.next] != n {
			return fmt.Errorf("message %d in place of the %dth", n, m.next)
		}
		m.next++
		return nil
	}
	// It stands where the first message with its key stood that was not read.
	first := m.read[key]
	for m.sent[first].key != key {
		first++
	}
	if n < first || m.sent[first].front != m.next {
		return fmt.Errorf("message %d of key %s behind %d others; message %d of that key was sent behind %d", n, key, m.next, first, m.sent[first].front)
	}
	m.read[key] = n + 1
	return nil
}

// all reports whether the client has read all that it must.
func (m *queueModel) all() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, s := range m.sent {
		if s.key != "" && m.read[s.key] <= n {
			return false
		}
	}
	return m.next == len(m.plains)
}

func randomSize() int {
	switch rand.N(20) {
	case 0:
		return 20_000 + rand.N(80_000)
	case 1, 2:
		return rand.N(10_000)
	}
	return rand.N(300)
}

// queueDoors are the kinds of net.Conn that a queue is written to.
var queueDoors = map[string]func(*env, http.Handler){
	"pipe": func(e *env, h http.Handler) { e.serveOn(wstest.NewListener(wstest.PipeOptions{BufferBytes: 3000}), h) },
	"TCP":  func(e *env, h http.Handler) { e.serve(h) },
	"TLS":  func(e *env, h http.Handler) { e.serveTLS(h) },
}

// A client reads what was sent in the order of the calls, with nothing lost and nothing twice,
// whatever methods have sent it, and however the connection ends. Then nothing is held.
func TestQueueModel(t *testing.T) {
	for name, serve := range queueDoors {
		t.Run(name, func(t *testing.T) {
			for range rounds(30, 5) {
				run := func(t *testing.T) { queueModelRun(t, serve) }
				if name == "pipe" {
					bubble(t, run)
				} else {
					t.Run("", run)
				}
			}
		})
	}
}

func queueModelRun(t *testing.T, serve func(*env, http.Handler)) {
	conns := make(chan *wsguard.Conn, 1)
	e := newEnv(t, conf(patient, noRates, func(cfg *wsguard.Config) {
		cfg.Send.MaxBytes = 64 << 20
	}))
	serve(e, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		conns <- c
		_, _, err := c.Read(ctx)
		return err
	}))
	client := e.open(header())
	c := <-conns
	m := &queueModel{read: map[string]int{}}
	end := rand.N(3) // by the client when it has read everything, or by the server: a good one, or a bad one
	read := make(chan int)
	go func() {
		n := 0
		defer func() { read <- n }()
		for {
			if rand.N(30) == 0 {
				time.Sleep(rand.N(5 * time.Millisecond))
			}
			_, b, err := client.ReadMessage()
			if err != nil {
				return
			}
			if err := m.got(b); err != nil {
				t.Error(err)
				return
			}
			n++
		}
	}()
	ctx := context.Background()
	ok := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	for range 50 + rand.N(400) {
		switch size := randomSize(); rand.N(12) {
		case 0:
			ok(c.Write(ctx, wsguard.MessageBinary, m.add("", size)))
		case 1:
			ok(c.Flush(ctx))
			eventually(t, "an empty queue holds nothing", func() bool { return !c.QueueHolds() })
		case 2, 3:
			p, err := e.g.Prepare(wsguard.MessageBinary, m.add("", size))
			ok(err)
			ok(c.SendPrepared(p))
		case 4, 5, 6:
			key := string('a' + rune(rand.N(3)))
			if size > 2000 && rand.N(4) > 0 {
				size %= 2000
			}
			ok(c.SendLatest(key, wsguard.MessageBinary, m.add(key, size)))
		default:
			ok(c.SendWait(ctx, wsguard.MessageBinary, m.add("", size)))
		}
		if t.Failed() {
			break
		}
	}
	switch end {
	case 0:
		ok(c.Flush(ctx))
		c.Close(4000, "")
	case 1:
		c.Close(4000, "")
	case 2:
		e.g.Admin().Kick(c.ID(), 0, "")
	}
	got := <-read
	client.Close()
	ev := e.closed()
	if end < 2 && !m.all() {
		t.Errorf("end %d: the client has not read everything; it has %d", end, got)
	}
	if int(ev.MessagesOut) < got || end < 2 && (int(ev.MessagesOut) != got || ev.Dropped != 0) {
		t.Errorf("end %d: the client has %d messages; %d sent, %d dropped", end, got, ev.MessagesOut, ev.Dropped)
	}
	wantNothingQueued(t, e)
	eventually(t, "the queue of a connection that has ended holds nothing", func() bool { return !c.QueueHolds() })
}

// wantNothingQueued checks that no queue takes memory.
func wantNothingQueued(t *testing.T, e *env) {
	t.Helper()
	eventually(t, "no memory in queues", func() bool { return e.g.Queued() == 0 })
}

// What one goroutine sends arrives in its order while others send too, and connections end at any
// moment. Then the queues take no memory.
func TestQueueRaces(t *testing.T) {
	for name, serve := range queueDoors {
		t.Run(name, func(t *testing.T) {
			run := func(t *testing.T) {
				for range rounds(10, 2) {
					queueRace(t, serve)
				}
			}
			if name == "pipe" {
				bubble(t, run)
			} else {
				run(t)
			}
		})
	}
}

func queueRace(t *testing.T, serve func(*env, http.Handler)) {
	const conns, senders, each = 4, 5, 200
	opened := make(chan *wsguard.Conn, conns)
	e := newEnv(t, conf(patient, noRates, noHandshakeLimits, func(cfg *wsguard.Config) { cfg.Send.MaxBytes, cfg.Send.MaxMessages = 50_000, 100 }))
	serve(e, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		opened <- c
		_, _, err := c.Read(ctx)
		return err
	}))
	var all []*wsguard.Conn
	var readers, writers sync.WaitGroup
	for range conns {
		client := e.open(header())
		all = append(all, <-opened)
		readers.Go(func() {
			next := [senders]byte{}
			for {
				_, b, err := client.ReadMessage()
				if err != nil {
					break
				}
				who, n := b[0], b[1]
				if n < next[who] {
					t.Errorf("message %d of sender %d after message %d", n, who, next[who]-1)
				}
				next[who] = n + 1
			}
			client.Close()
		})
	}
	for who := range senders {
		writers.Go(func() {
			for n := range each {
				b := bytes.Repeat([]byte{byte(who), byte(n)}, 1+rand.N(200))
				p, err := e.g.Prepare(wsguard.MessageBinary, b)
				if err != nil {
					t.Error(err)
				}
				ctx, cancel := context.WithTimeout(context.Background(), rand.N(time.Minute))
				for _, c := range all {
					switch rand.N(6) {
					case 0:
						c.Write(context.Background(), wsguard.MessageBinary, b)
					case 1:
						c.SendWait(ctx, wsguard.MessageBinary, b)
					case 2:
						c.SendPrepared(p)
					case 3:
						c.SendLatest(fmt.Sprint(who, n), wsguard.MessageBinary, b)
					case 4:
						c.Flush(ctx)
					default:
						c.Send(wsguard.MessageBinary, b)
					}
				}
				cancel()
				if rand.N(300) == 0 {
					all[rand.N(conns)].Close(4000, "")
				}
				if rand.N(300) == 0 {
					e.g.Admin().Kick(all[rand.N(conns)].ID(), 0, "")
				}
			}
		})
	}
	writers.Wait()
	for _, c := range all {
		c.Close(4000, "")
	}
	readers.Wait()
	e.idle()
	wantNothingQueued(t, e)
}

// Send, SendPrepared and SendWait allocate nothing in the steady state, whether the queue is empty
// each time or not.
func TestSendAllocs(t *testing.T) {
	const each = 50
	conns := make(chan *wsguard.Conn, 1)
	e := newEnv(t, conf(patient, noRates))
	e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		conns <- c
		_, _, err := c.Read(ctx)
		return err
	}))
	client := e.open(header())
	go io.Copy(io.Discard, client.Conn())
	c := <-conns
	msg := bytes.Repeat([]byte("x"), 150)
	large := bytes.Repeat(msg, 20)
	p, err := e.g.Prepare(wsguard.MessageText, msg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for name, send := range map[string]func() error{
		"Send":            func() error { return c.Send(wsguard.MessageText, msg) },
		"Send of 3,000 B": func() error { return c.Send(wsguard.MessageText, large) },
		"SendPrepared":    func() error { return c.SendPrepared(p) },
		"SendWait":        func() error { return c.SendWait(ctx, wsguard.MessageText, msg) },
	} {
		for _, burst := range []int{1, each} {
			rounds := 200
			if raceDetector() {
				rounds = 20
			}
			n := testing.AllocsPerRun(1, func() {
				for range rounds * each / burst {
					for range burst {
						if err := send(); err != nil {
							t.Fatal(err)
						}
					}
					for c.QueueHolds() { // Flush would make a channel
						runtime.Gosched()
					}
				}
			})
			most := 300.0 // the collector may empty the pools once or twice
			if raceDetector() {
				most = float64(8 * rounds * each) // the race detector makes pools forget
			}
			t.Logf("%s, %d at once: %v allocations in %d", name, burst, n, rounds*each)
			if n > most {
				t.Errorf("%s, %d at once: %v allocations in %d", name, burst, n, rounds*each)
			}
		}
	}
	client.Close()
}

// obstinateListener has connections whose Write never returns while stuck is open, whatever their
// deadline is and although they are closed. Its bytes go to got afterwards.
type obstinateListener struct {
	net.Listener
	stuck chan struct{}
	got   chan []byte
}

type obstinateConn struct {
	net.Conn
	l *obstinateListener
}

func (l *obstinateListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &obstinateConn{c, l}, nil
}

func (c *obstinateConn) Write(p []byte) (int, error) {
	if !bytes.Contains(p, []byte("secret")) {
		return c.Conn.Write(p)
	}
	<-c.l.stuck
	c.l.got <- bytes.Clone(p)
	return c.Conn.Write(p)
}

// The memory of what a net.Conn is still writing is not used for others, although the connection
// has ended.
func TestQueueOfAnObstinateConn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conns := make(chan *wsguard.Conn, 1)
		e := newEnv(t, conf(noPings, noRates, noHandshakeLimits))
		pipes := wstest.NewListener(wstest.PipeOptions{})
		l := &obstinateListener{pipes, make(chan struct{}), make(chan []byte, 10)}
		e.serveOn(l, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			conns <- c
			_, _, err := c.Read(ctx)
			return err
		}))
		dial := func() (*wstest.Client, *wsguard.Conn) {
			nc, err := pipes.Dial(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			client := wstest.NewClient(t, nc)
			e.upgrade(client, header())
			return client, <-conns
		}
		client, c := dial()
		secret := bytes.Repeat([]byte("secret "), 100)
		for range 5 {
			if err := c.Send(wsguard.MessageText, secret); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		c.Close(4000, "")
		if ev := e.closed(); ev.Dropped != 5 || ev.MessagesOut != 0 {
			t.Errorf("%d dropped, %d sent", ev.Dropped, ev.MessagesOut)
		}
		if e.g.Queued() == 0 {
			t.Error("memory that is being written counts as free")
		}
		for range 20 {
			other, c := dial()
			for range 20 {
				if err := c.Send(wsguard.MessageText, bytes.Repeat([]byte("public "), 100)); err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				if _, _, err := other.ReadMessage(); err != nil {
					t.Fatal(err)
				}
			}
			bye(other)
		}
		close(l.stuck)
		if p := <-l.got; bytes.Contains(p, []byte("public")) || !bytes.Contains(p, secret) {
			t.Errorf("%.50q was written", p)
		}
		synctest.Wait()
		wantNothingQueued(t, e)
		client.Close()
	})
}

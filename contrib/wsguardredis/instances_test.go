//go:build unix

package wsguardredis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/contrib/wsguardredis"
)

// TestMain runs an instance of a service if a test has started this program for that.
func TestMain(m *testing.M) {
	if addr := os.Getenv("WSGUARDREDIS_INSTANCE"); addr != "" {
		runInstance(addr)
		return
	}
	os.Exit(m.Run())
}

// node is an instance of a service.
type node struct {
	url   string
	guard *wsguard.Guard // nil for a process of its own
}

// settings is the Config of the instances of the tests. The token of a client is its name.
func settings(s *wsguardredis.Store) wsguard.Config {
	off := wsguard.Rate{PerSecond: wsguard.Off}
	return wsguard.Config{
		Shared:            s.Shared(),
		InsecureAllowHTTP: true,
		Origins:           []string{"https://app.example.com"},
		Logger:            slog.New(slog.DiscardHandler),
		Auth: wsguard.AuthConfig{
			Failures: off,
			Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: token, IssuedAt: time.Now()}, nil
			},
		},
		Caps:     wsguard.CapConfig{MaxConnsPerSubject: 4},
		Rates:    wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: 1e4, Burst: 1e4}, Handshakes: off, MaxInFlightPerClient: wsguard.Off},
		Timeouts: wsguard.TimeoutConfig{PingInterval: wsguard.Off, Idle: wsguard.Off},
	}
}

// handler serves an echo, and POST /revoke with the name of a subject.
func handler(g *wsguard.Guard) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/ws", g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			typ, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			if err := c.Write(ctx, typ, msg); err != nil {
				return err
			}
		}
	}))
	mux.HandleFunc("POST /revoke", func(_ http.ResponseWriter, r *http.Request) { g.Admin().Revoke(r.FormValue("subject")) })
	return mux
}

// start serves an instance, which change may give another Config, until the test ends.
func start(t *testing.T, s *wsguardredis.Store, change func(*wsguard.Config)) *node {
	t.Helper()
	cfg := settings(s)
	if change != nil {
		change(&cfg)
	}
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler(g), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go server.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), slowest)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return &node{"http://" + l.Addr().String(), g}
}

// runInstance serves an instance in a process of its own.
func runInstance(redisAddr string) {
	client := redis.NewClient(&redis.Options{Addr: redisAddr, ReadTimeout: slowest, DialTimeout: slowest, PoolTimeout: slowest})
	s, err := wsguardredis.New(client, wsguardredis.Options{Prefix: "test", Timeout: slowest})
	if err != nil {
		panic(err)
	}
	g, err := wsguard.New(settings(s))
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go http.Serve(l, handler(g))
	fmt.Println("http://" + l.Addr().String())
	io.Copy(io.Discard, os.Stdin) // until the test has ended
}

// spawn starts an instance in a process of its own. kill ends it as kill -9 does.
func spawn(t *testing.T, redisAddr string) (n *node, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WSGUARDREDIS_INSTANCE="+redisAddr)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(func() {
		in.Close()
		kill()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &node{url: strings.TrimSpace(line)}, kill
}

// dial connects as a subject. It returns the status of a refusal, and a nil connection.
func (n *node) dial(t *testing.T, subject string) (*websocket.Conn, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slowest)
	defer cancel()
	c, res, err := websocket.Dial(ctx, n.url+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{
		"Origin": {"https://app.example.com"}, "Authorization": {"Bearer " + subject},
	}})
	if err != nil && res == nil {
		t.Fatal(err)
	}
	if err != nil {
		return nil, res.StatusCode
	}
	t.Cleanup(func() { c.CloseNow() })
	return c, res.StatusCode
}

func (n *node) mustDial(t *testing.T, subject string) *websocket.Conn {
	t.Helper()
	c, status := n.dial(t, subject)
	if c == nil {
		t.Fatalf("%s: refused with %d", subject, status)
	}
	return c
}

func (n *node) mustRefuse(t *testing.T, subject string, status int) {
	t.Helper()
	if c, got := n.dial(t, subject); got != status {
		t.Errorf("%s: status %d, want %d", subject, got, status)
		if c != nil {
			c.CloseNow()
		}
	}
}

func (n *node) revoke(t *testing.T, subject string) {
	t.Helper()
	res, err := http.PostForm(n.url+"/revoke", map[string][]string{"subject": {subject}})
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

// echoes checks that a connection works.
func echoes(t *testing.T, c *websocket.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slowest)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := c.Read(ctx); err != nil || string(msg) != "hello" {
		t.Fatalf("%q %v", msg, err)
	}
}

// isRevoked waits until a connection has ended as revoked.
func isRevoked(t *testing.T, c *websocket.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slowest)
	defer cancel()
	_, _, err := c.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 3000 || closed.Reason != "revoked" {
		t.Errorf("closed with %v, want 3000 revoked", err)
	}
}

// soon waits until ok returns true, for as long as a lease lasts and a little longer.
func soon(t *testing.T, what string, ok func() bool) (took time.Duration) {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > slowest {
			t.Fatalf("not within %v: %s", slowest, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(began)
}

// An instance that is killed gives its slots back when their leases end, and not earlier. What it
// has revoked stays revoked, also for an instance that starts later.
func TestKilledInstance(t *testing.T) {
	t.Parallel()
	server := startServer(t, "redis-server")
	a, kill := spawn(t, server.addr)
	b, _ := spawn(t, server.addr)
	mallory := b.mustDial(t, "mallory")
	a.revoke(t, "mallory")
	isRevoked(t, mallory)
	for range 3 {
		a.mustDial(t, "alice")
	}
	stays := b.mustDial(t, "alice")
	a.mustRefuse(t, "alice", 429)
	b.mustRefuse(t, "alice", 429)
	kill()
	killed := time.Now()
	b.mustRefuse(t, "alice", 429)
	soon(t, "a slot is free", func() bool {
		c, _ := b.dial(t, "alice")
		return c != nil
	})
	if took := time.Since(killed); took < 15*time.Second {
		t.Errorf("a slot was free %v after its instance was killed, before its lease had ended", took)
	}
	// A renewal may have been up to ten seconds old, and each lease ends by itself.
	soon(t, "all slots are free", func() bool {
		c, status := b.dial(t, "alice")
		return c == nil && status == 429 && leases(t, server.addr, "test:slots:subject/alice") == 4
	})
	echoes(t, stays)
	c, _ := spawn(t, server.addr)
	c.mustRefuse(t, "alice", 429)
}

// leases returns how many slots of a scope are held in Redis.
func leases(t *testing.T, addr, key string) int64 {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: slowest})
	defer client.Close()
	ctx := context.Background()
	now, err := client.Time(ctx).Result()
	if err != nil {
		t.Fatal(err)
	}
	n, err := client.ZCount(ctx, key, fmt.Sprint(now.UnixMilli()), "+inf").Result()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// While Redis is stopped, handshakes are answered without waiting for it, each instance admits no
// more than its part, open connections go on, and a revocation is kept until Redis is back.
func TestStoppedRedis(t *testing.T) {
	t.Parallel()
	server := startServer(t, "redis-server")
	stopping := func() *wsguardredis.Store {
		return newStore(t, impatient(t, server.addr), wsguardredis.Options{})
	}
	a, b := start(t, stopping(), nil), start(t, stopping(), nil)
	soon(t, "both instances are counted", func() bool {
		return a.guard.Stats().Shared.Instances == 2 && b.guard.Stats().Shared.Instances == 2
	})
	open := a.mustDial(t, "alice")
	mallory := b.mustDial(t, "mallory")
	server.signal(syscall.SIGSTOP)
	began, handshakes, admitted := time.Now(), 0, 0
	var longest time.Duration
	a.revoke(t, "mallory")
	for time.Since(began) < 10*time.Second {
		for _, n := range []*node{a, b} {
			at := time.Now()
			if c, _ := n.dial(t, "bob"); c != nil {
				admitted++
			}
			longest, handshakes = max(longest, time.Since(at)), handshakes+1
		}
		echoes(t, open)
		time.Sleep(20 * time.Millisecond)
	}
	if admitted > 4 {
		t.Errorf("%d connections of a subject were admitted, and the cap is 4", admitted)
	}
	if admitted == 0 {
		t.Error("nobody was admitted")
	}
	if longest > 5*time.Second {
		t.Errorf("a handshake took %v", longest)
	}
	t.Logf("%d handshakes, %d admitted, the longest took %v", handshakes, admitted, longest)
	if s := a.guard.Stats().Shared; !s.Lost {
		t.Errorf("%+v", s)
	}
	server.signal(syscall.SIGCONT)
	isRevoked(t, mallory)
	soon(t, "Redis is in use again", func() bool { return !a.guard.Stats().Shared.Lost && !b.guard.Stats().Shared.Lost })
	soon(t, "Redis has the slots of meanwhile", func() bool { return leases(t, server.addr, "test:slots:subject/bob") == int64(admitted) })
	echoes(t, open)
}

// A Redis that has started again without its memory knows all slots after one round of renewals,
// and all revocations.
func TestEmptiedRedis(t *testing.T) {
	t.Parallel()
	server := startServer(t, "redis-server")
	instance := func() *node {
		return start(t, newStore(t, impatient(t, server.addr), wsguardredis.Options{Timeout: slowest}), nil)
	}
	a, b := instance(), instance()
	for range 2 {
		a.mustDial(t, "alice")
		b.mustDial(t, "alice")
	}
	a.revoke(t, "mallory")
	server.kill()
	if !server.start() {
		t.Fatal("Redis does not start again")
	}
	took := soon(t, "Redis has the slots", func() bool { return leases(t, server.addr, "test:slots:subject/alice") == 4 })
	t.Logf("restored after %v", took)
	a.mustRefuse(t, "alice", 429)
	b.mustRefuse(t, "alice", 429)
	soon(t, "Redis has the revocation", func() bool {
		_, known, err := newStore(t, newClient(t, server.addr), patient).Revocations().Get(context.Background(), "subject/mallory")
		return err == nil && known
	})
}

// When a replica takes over, the slots and the revocations are those of before.
func TestGuardsAfterFailover(t *testing.T) {
	t.Parallel()
	master, replica := startServer(t, "redis-server", "--repl-diskless-sync-delay", "0"), startServer(t, "redis-server")
	ctx := context.Background()
	admin := newClient(t, replica.addr)
	host, port, _ := net.SplitHostPort(master.addr)
	if err := admin.Do(ctx, "REPLICAOF", host, port).Err(); err != nil {
		t.Fatal(err)
	}
	soon(t, "the replica is in step", func() bool {
		return strings.Contains(admin.Info(ctx, "replication").Val(), "master_link_status:up")
	})
	p := startProxy(t, master.addr)
	instance := func() *node {
		return start(t, newStore(t, impatient(t, p.l.Addr().String()), wsguardredis.Options{Timeout: slowest}), nil)
	}
	a, b := instance(), instance()
	mallory := b.mustDial(t, "mallory")
	for range 2 {
		a.mustDial(t, "alice")
		b.mustDial(t, "alice")
	}
	soon(t, "the replica has the slots", func() bool { return admin.ZCard(ctx, "test:slots:subject/alice").Val() == 4 })
	master.kill()
	if err := admin.Do(ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	p.cut(replica.addr)
	a.revoke(t, "mallory")
	isRevoked(t, mallory)
	soon(t, "the store is in use again", func() bool { return !a.guard.Stats().Shared.Lost && !b.guard.Stats().Shared.Lost })
	soon(t, "the cap holds", func() bool {
		_, one := a.dial(t, "alice")
		_, two := b.dial(t, "alice")
		return one == 429 && two == 429
	})
}

// A handshake costs at most two calls of Admit. TestRoundTrips shows that each is one round trip.
func TestHandshakeRoundTrips(t *testing.T) {
	t.Parallel()
	server := startServer(t, "redis-server")
	s, _ := open(t, server.addr, wsguardredis.Options{Timeout: slowest})
	n := start(t, s, func(cfg *wsguard.Config) {
		cfg.Rates.Handshakes = wsguard.Rate{PerSecond: 100, Burst: 1000}
		cfg.Auth.Failures = wsguard.Rate{PerSecond: 1, Burst: 10}
		cfg.Auth.Tickets = &wsguard.TicketConfig{}
	})
	for i := range 3 { // the first loads the scripts
		n.mustDial(t, fmt.Sprint("warm", i))
	}
	soon(t, "the instance is counted", func() bool { return n.guard.Stats().Shared.Instances == 1 })
	admit := audit.StoreCall{Operation: "admit", Result: "ok"}
	before := n.guard.Stats().Shared.Calls[admit]
	n.mustDial(t, "alice")
	if got := n.guard.Stats().Shared.Calls[admit] - before; got < 1 || got > 2 {
		t.Errorf("%d calls, want at most 2", got)
	}
}

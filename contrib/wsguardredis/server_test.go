package wsguardredis_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/store/storetest"
)

// server is a real Redis or Valkey, which listens on a port of its own and keeps nothing on disk.
type server struct {
	t       testing.TB
	program string
	args    []string
	addr    string
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has exited
}

// startServer starts a server with further arguments. It skips the test if there is no such
// program.
func startServer(t testing.TB, program string, args ...string) *server {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	s := &server{t: t, program: path, args: args}
	for range 5 {
		s.addr = freeAddr(t)
		if s.start() {
			t.Cleanup(s.kill)
			return s
		}
	}
	t.Fatalf("%s does not start", path)
	return nil
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start starts the server at its address, and waits until it answers. It returns false if the
// server exits, such as because another program has the port.
func (s *server) start() bool {
	s.t.Helper()
	host, port, _ := net.SplitHostPort(s.addr)
	dir := s.t.TempDir()
	args := append([]string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", dir}, s.args...)
	s.cmd = exec.Command(s.program, args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan struct{})
	s.exited = exited
	cmd := s.cmd
	go func() {
		cmd.Wait()
		close(exited)
	}()
	client := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
	defer client.Close()
	for {
		if client.Ping(context.Background()).Err() == nil {
			return true
		}
		select {
		case <-exited:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// kill ends the server as kill -9 does.
func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// signal sends a signal to the server.
func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// impatient returns a client that gives up at once when it cannot connect. Its commands wait for
// a server that has stopped.
func impatient(t *testing.T, addr string) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, ReadTimeout: time.Hour, DialTimeout: slowest})
	t.Cleanup(func() { client.Close() })
	return client
}

// open returns a Store on a client of its own.
func open(t *testing.T, addr string, opts wsguardredis.Options) (*wsguardredis.Store, *redis.Client) {
	t.Helper()
	client := newClient(t, addr)
	return newStore(t, client, opts), client
}

// slowest is how long the clients wait for a server. It is long enough for any machine.
const slowest = 2 * time.Minute

func newClient(t *testing.T, addr string) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: slowest, DialTimeout: slowest, PoolTimeout: slowest})
	t.Cleanup(func() { client.Close() })
	return client
}

func newStore(t *testing.T, client redis.UniversalClient, opts wsguardredis.Options) *wsguardredis.Store {
	t.Helper()
	if opts.Prefix == "" {
		opts.Prefix = "test"
	}
	s, err := wsguardredis.New(client, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// patient are options for tests of what a store does, and not of how long it waits.
var patient = wsguardredis.Options{Timeout: slowest, News: 50}

func instance(s *wsguardredis.Store) storetest.Instance {
	return storetest.Instance{Once: s, Slots: s, Instances: s, Rates: s, Admitter: s, Marks: s.Revocations()}
}

// services is how many prefixes harness has used.
var services atomic.Int64

// harness returns a harness for servers that start makes. start returns a client. Each test has
// a prefix of its own, so that tests can share a server.
func harness(start func(t *testing.T) func() redis.UniversalClient, opts wsguardredis.Options) storetest.Harness {
	return storetest.Harness{
		Open: func(t *testing.T) func() storetest.Instance {
			client := start(t)
			opts := opts
			opts.Prefix = fmt.Sprint("test", services.Add(1))
			return func() storetest.Instance { return instance(newStore(t, client(), opts)) }
		},
		Advance:   time.Sleep,
		ShortNews: 200,
	}
}

// clients returns a function that makes clients for one address.
func clients(t *testing.T, addr string) func() redis.UniversalClient {
	return func() redis.UniversalClient { return newClient(t, addr) }
}

func TestMiniredis(t *testing.T) {
	t.Parallel()
	var server *miniredis.Miniredis
	var now time.Time
	h := harness(func(t *testing.T) func() redis.UniversalClient {
		server = miniredis.RunT(t)
		now = time.Now()
		server.SetTime(now)
		return clients(t, server.Addr())
	}, patient)
	h.Advance = func(d time.Duration) {
		server.FastForward(d)
		now = now.Add(d)
		server.SetTime(now)
	}
	storetest.Run(t, h)
}

// runReal runs the suite on one server.
func runReal(t *testing.T, program string) {
	t.Parallel()
	s := startServer(t, program)
	storetest.Run(t, harness(func(t *testing.T) func() redis.UniversalClient {
		t.Parallel()
		return clients(t, s.addr)
	}, patient))
}

func TestRedis(t *testing.T)  { runReal(t, "redis-server") }
func TestValkey(t *testing.T) { runReal(t, "valkey-server") }

// A Redis Cluster of one node refuses a call for keys in different hash slots as a large one
// does.
func TestCluster(t *testing.T) {
	t.Parallel()
	s := startServer(t, "redis-server", "--cluster-enabled", "yes", "--cluster-config-file", filepath.Join(t.TempDir(), "nodes.conf"))
	ctx := context.Background()
	node := redis.NewClient(&redis.Options{Addr: s.addr})
	defer node.Close()
	if err := node.ClusterAddSlotsRange(ctx, 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	for {
		info, err := node.ClusterInfo(ctx).Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(info) > 16 && info[:16] == "cluster_state:ok" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, tag := range []bool{false, true} {
		name := "Spread"
		if tag {
			name = "HashTag"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := patient
			opts.HashTag = tag
			storetest.Run(t, harness(func(t *testing.T) func() redis.UniversalClient {
				t.Parallel()
				return func() redis.UniversalClient {
					client := redis.NewClusterClient(&redis.ClusterOptions{
						Addrs: []string{s.addr}, ReadTimeout: slowest, DialTimeout: slowest, PoolTimeout: slowest,
					})
					t.Cleanup(func() { client.Close() })
					return client
				}
			}, opts))
		})
	}
}

//go:build unix

package wsguardredis_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/store"
)

// calls has a call of each method.
func calls(s *wsguardredis.Store) map[string]func() error {
	ctx := context.Background()
	scope := store.Scope{Key: "stalled", Max: 3}
	all := store.Scope{Key: "all", Max: 3, Wide: true}
	lease := store.Lease{ID: "lease", Scopes: []store.Scope{scope, all}}
	n := 0
	return map[string]func() error{
		"Put":      func() error { return s.Put(ctx, "k", nil, time.Minute) },
		"PutOwned": func() error { return s.PutOwned(ctx, "k", "o", 3, nil, time.Minute) },
		"Take":     func() error { _, _, err := s.Take(ctx, "k"); return err },
		"Acquire": func() error {
			n++
			_, err := s.Acquire(ctx, fmt.Sprint("id", n), time.Second, scope, all)
			return err
		},
		"Renew":   func() error { return s.Renew(ctx, time.Second, lease) },
		"Release": func() error { return s.Release(ctx, lease) },
		"Beat":    func() error { _, err := s.Beat(ctx, time.Second); return err },
		"TakeTokens": func() error {
			_, _, err := s.TakeTokens(ctx, store.Take{Key: "k", Limit: store.Limit{PerSecond: 1, Burst: 1}, Least: 1, Most: 1})
			return err
		},
		"Admit": func() error {
			n++
			_, err := s.Admit(ctx, store.Request{ID: fmt.Sprint("id", n), TTL: time.Second, Scopes: []store.Scope{scope, all}})
			return err
		},
		"Set":   func() error { _, err := s.Bans().Set(ctx, "k", nil, 0); return err },
		"Clear": func() error { return s.Bans().Clear(ctx, "k") },
		"Get":   func() error { _, _, err := s.Bans().Get(ctx, "k"); return err },
		"All":   func() error { _, err := s.Bans().All(ctx, func(store.Mark) error { return nil }); return err },
		"News":  func() error { _, _, err := s.Bans().News(ctx, "", 20*time.Millisecond); return err },
		"Now":   func() error { _, err := s.Bans().Now(ctx); return err },
	}
}

// A Redis that has stopped holds no call, although the client would wait for an hour. Its calls
// leave nothing behind. The test is not parallel, because it counts goroutines.
func TestStalledServer(t *testing.T) {
	s := startServer(t, "redis-server")
	ctx := context.Background()
	before := runtime.NumGoroutine()
	client := impatient(t, s.addr)
	for what, call := range calls(newStore(t, client, wsguardredis.Options{Timeout: slowest})) {
		if err := call(); err != nil { // loads the scripts
			t.Fatal(what, err)
		}
	}
	s.signal(syscall.SIGSTOP)
	for what := range calls(nil) {
		fresh := newStore(t, client, wsguardredis.Options{}) // its breaker is closed
		o := outage(t, calls(fresh)[what]())
		if o.Err == nil {
			t.Errorf("%s: %v", what, o)
		}
	}
	// After some failures, nobody is asked.
	take := calls(newStore(t, client, wsguardredis.Options{}))["Take"]
	eventually(t, "the breaker is open", func() bool {
		o := outage(t, take())
		return o.Err == nil && o.RetryAfter > 0 && o.RetryAfter < time.Second
	})
	s.signal(syscall.SIGCONT)
	eventually(t, "redis is asked again", func() bool { return take() == nil })
	// Slots that nobody has got are given back, or end with their lease.
	patient, other := open(t, s.addr, wsguardredis.Options{Timeout: slowest})
	n := 0
	eventually(t, "all slots are free", func() bool {
		var leases []store.Lease
		for range 3 {
			n++
			scopes := []store.Scope{{Key: "stalled", Max: 3}, {Key: "all", Max: 3, Wide: true}}
			full, err := patient.Acquire(ctx, fmt.Sprint("after", n), time.Minute, scopes...)
			if err != nil {
				t.Fatal(err)
			}
			if full == "" {
				leases = append(leases, store.Lease{ID: fmt.Sprint("after", n), Scopes: scopes})
			}
		}
		if err := patient.Release(ctx, leases...); err != nil {
			t.Fatal(err)
		}
		return len(leases) == 3
	})
	other.Close()
	client.Close() // ends what waits for an hour
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

// A Redis that is gone is an outage, and one that comes back empty is used again. One
// renewal restores its slots. Readers of news learn that it has lost its memory.
func TestEmptyRestart(t *testing.T) {
	t.Parallel()
	s := startServer(t, "redis-server")
	ctx := context.Background()
	opts := wsguardredis.Options{Timeout: slowest}
	a, b := newStore(t, impatient(t, s.addr), opts), newStore(t, impatient(t, s.addr), opts)
	scopes := []store.Scope{{Key: "client", Max: 40}, {Key: "all", Max: 40, Wide: true}}
	held := map[*wsguardredis.Store][]store.Lease{}
	must := func(call func() error) {
		t.Helper()
		eventually(t, "redis answers", func() bool { return call() == nil })
	}
	for i := range 40 {
		in := []*wsguardredis.Store{a, b}[i%2]
		id := fmt.Sprint("id", i)
		if full, err := in.Acquire(ctx, id, time.Minute, scopes...); full != "" || err != nil {
			t.Fatalf("%s: full %q, %v", id, full, err)
		}
		held[in] = append(held[in], store.Lease{ID: id, Scopes: scopes})
	}
	var cursor string
	must(func() error { _, err := a.Bans().Set(ctx, "k", nil, 0); return err })
	must(func() (err error) {
		cursor, err = b.Bans().All(ctx, func(store.Mark) error { return nil })
		return err
	})
	s.kill()
	for range 10 {
		_, _, err := a.Take(ctx, "k")
		outage(t, err)
	}
	if !s.start() {
		t.Skip("another program has taken the port")
	}
	for _, in := range []*wsguardredis.Store{a, b} {
		must(func() error { return in.Renew(ctx, time.Minute, held[in]...) })
	}
	for i, scope := range scopes {
		must(func() error {
			full, err := b.Acquire(ctx, fmt.Sprint("over", i), time.Minute, scope)
			if err == nil && full != scope.Key {
				t.Errorf("%s has room after the renewal", scope.Key)
			}
			return err
		})
	}
	must(func() error {
		_, _, err := b.Bans().News(ctx, cursor, time.Second)
		if err == nil {
			t.Error("the memory is lost, and there is no gap")
		}
		if errors.Is(err, store.ErrGap) {
			return nil
		}
		return err
	})
}

// proxy passes connections on to a server. It can cut them, and it can change the server.
type proxy struct {
	l net.Listener

	mu    sync.Mutex
	addr  string              // guarded by mu: the server
	conns map[net.Conn]func() // guarded by mu: what cuts each
}

func startProxy(t *testing.T, addr string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, addr: addr, conns: map[net.Conn]func(){}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); p.cut(""); wg.Wait() })
	return p
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	p.mu.Lock()
	server, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.mu.Unlock()
		return
	}
	p.conns[c] = func() { c.Close(); server.Close() }
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(server, c); server.Close() })
	io.Copy(c, server)
	c.Close()
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// cut cuts all connections. New ones go to addr, unless it is empty.
func (p *proxy) cut(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if addr != "" {
		p.addr = addr
	}
	for _, cut := range p.conns {
		cut()
	}
}

// follow reads news into a copy until that has as many keys as want. stop returns the copy. It
// waits for no longer than slowest.
func follow(m store.Marks, want int) (stop func() (seen map[string]bool, gaps int)) {
	ctx, cancel := context.WithCancel(context.Background())
	seen, gaps := map[string]bool{}, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		cursor, known := "", false
		for len(seen) < want && ctx.Err() == nil {
			var err error
			if !known {
				cursor, err = m.All(ctx, func(mark store.Mark) error { seen[mark.Key] = true; return nil })
				known = err == nil
			} else {
				var news []store.Mark
				news, cursor, err = m.News(ctx, cursor, time.Second)
				for _, mark := range news {
					seen[mark.Key] = true
				}
				if errors.Is(err, store.ErrGap) {
					known = false
					gaps++
				}
			}
			if err != nil {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return func() (map[string]bool, int) {
		defer cancel()
		giveUp := time.AfterFunc(slowest, cancel)
		defer giveUp.Stop()
		<-done
		return seen, gaps
	}
}

// 400 revocations reach a reader while all connections are cut again and again.
func TestNoRevocationIsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t, "redis-server")
	p := startProxy(t, s.addr)
	writer, _ := open(t, p.l.Addr().String(), wsguardredis.Options{Timeout: slowest})
	reader, _ := open(t, p.l.Addr().String(), wsguardredis.Options{Timeout: slowest})
	const n = 400
	stop := follow(reader.Revocations(), n)
	for i := range n {
		if i%25 == 24 {
			p.cut("")
		}
		eventually(t, "the revocation is set", func() bool {
			_, err := writer.Revocations().Set(context.Background(), fmt.Sprint(i), nil, time.Hour)
			return err == nil
		})
	}
	if seen, gaps := stop(); len(seen) != n || gaps > 0 {
		t.Errorf("%d of %d revocations, %d gaps", len(seen), n, gaps)
	}
}

// A replica takes over. The reader gets what was set before and after that.
func TestFailover(t *testing.T) {
	t.Parallel()
	master := startServer(t, "redis-server", "--repl-diskless-sync-delay", "0")
	replica := startServer(t, "redis-server")
	ctx := context.Background()
	host, port, _ := net.SplitHostPort(master.addr)
	admin := redis.NewClient(&redis.Options{Addr: replica.addr})
	defer admin.Close()
	if err := admin.Do(ctx, "REPLICAOF", host, port).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica is in step", func() bool {
		return strings.Contains(admin.Info(ctx, "replication").Val(), "master_link_status:up")
	})
	p := startProxy(t, master.addr)
	writer, _ := open(t, p.l.Addr().String(), wsguardredis.Options{Timeout: slowest})
	reader, _ := open(t, p.l.Addr().String(), wsguardredis.Options{Timeout: slowest})
	const n = 200
	stop := follow(reader.Revocations(), n)
	set := func(from, to int) {
		for i := from; i < to; i++ {
			eventually(t, "the revocation is set", func() bool {
				_, err := writer.Revocations().Set(ctx, fmt.Sprint(i), nil, time.Hour)
				return err == nil
			})
		}
	}
	set(0, n/2)
	eventually(t, "the replica has them", func() bool {
		return admin.HLen(ctx, "{test:revocations}:marks").Val() == n/2
	})
	master.kill()
	if err := admin.Do(ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	p.cut(replica.addr)
	set(n/2, n)
	seen, gaps := stop()
	if len(seen) != n {
		t.Errorf("%d of %d revocations, %d gaps", len(seen), n, gaps)
	}
}

// The store uses only commands that Redis 6.2 has.
func TestCommands(t *testing.T) {
	t.Parallel()
	s := startServer(t, "redis-server")
	ctx := context.Background()
	in, client := open(t, s.addr, wsguardredis.Options{Timeout: slowest})
	for what, call := range calls(in) {
		if err := call(); err != nil && what != "Put" {
			t.Errorf("%s: %v", what, err)
		}
	}
	stats, err := client.Info(ctx, "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for line := range strings.Lines(stats) {
		name, ok := strings.CutPrefix(line, "cmdstat_")
		if !ok || strings.HasPrefix(name, "client") || strings.HasPrefix(name, "info") {
			continue // go-redis names itself
		}
		name, _, _ = strings.Cut(name, ":")
		name, _, _ = strings.Cut(name, "|")
		docs, err := client.Do(ctx, "COMMAND", "DOCS", name).Result()
		if err != nil {
			t.Skip("this server does not document its commands: ", err)
		}
		since := ""
		for _, doc := range docs.(map[any]any) {
			since = fmt.Sprint(doc.(map[any]any)["since"])
		}
		if since == "" || since > "6.2.0" {
			t.Errorf("%s is there since %q", name, since)
		}
		checked++
	}
	if checked < 20 {
		t.Errorf("only %d commands:\n%s", checked, stats)
	}
}

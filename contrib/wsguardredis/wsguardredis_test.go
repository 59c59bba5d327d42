package wsguardredis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/store"
)

func TestOptions(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	for what, opts := range map[string]wsguardredis.Options{
		"no prefix":          {},
		"a colon":            {Prefix: "a:b"},
		"a brace":            {Prefix: "{a}"},
		"a line":             {Prefix: "a\n"},
		"a long prefix":      {Prefix: strings.Repeat("a", 65)},
		"a negative timeout": {Prefix: "a", Timeout: -1},
		"negative marks":     {Prefix: "a", MaxMarks: -1},
		"negative news":      {Prefix: "a", News: -1},
	} {
		if s, err := wsguardredis.New(client, opts); err == nil || s != nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := wsguardredis.New(nil, wsguardredis.Options{Prefix: "a"}); err == nil {
		t.Error("no client: no error")
	}
	if _, err := wsguardredis.New(client, wsguardredis.Options{Prefix: strings.Repeat("a", 58) + "A._-90"}); err != nil {
		t.Error(err)
	}
}

// use makes a key of each kind.
func use(t *testing.T, s *wsguardredis.Store) {
	t.Helper()
	ctx := context.Background()
	_, err := s.Admit(ctx, store.Request{
		Takes: []store.Take{{Key: "k", Limit: store.Limit{PerSecond: 1, Burst: 5}, Least: 1, Most: 5}},
		ID:    "id", TTL: time.Minute, Scopes: []store.Scope{{Key: "k"}, {Key: "all", Wide: true}},
	})
	errs := []error{err, s.Put(ctx, "k", []byte("x"), time.Minute), s.PutOwned(ctx, "k2", "owner", 3, nil, time.Minute)}
	_, err = s.Beat(ctx, time.Minute)
	errs = append(errs, err)
	for _, m := range []store.Marks{s.Bans(), s.Revocations()} {
		_, err = m.Set(ctx, "k", nil, time.Minute)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Services with different prefixes do not meet.
func TestPrefix(t *testing.T) {
	ctx := context.Background()
	for _, tag := range []bool{false, true} {
		server := miniredis.RunT(t)
		a, _ := open(t, server.Addr(), wsguardredis.Options{Prefix: "a", Timeout: slowest, HashTag: tag})
		b, _ := open(t, server.Addr(), wsguardredis.Options{Prefix: "b", Timeout: slowest, HashTag: tag})
		use(t, a)
		before := strings.Join(server.Keys(), "\n")
		for _, key := range server.Keys() {
			if !strings.HasPrefix(key, "a:") && !strings.HasPrefix(key, "{a:") && !strings.HasPrefix(key, "{a}:") {
				t.Errorf("the key %q does not begin with the prefix", key)
			}
			if tag != strings.HasPrefix(key, "{a}:") && !strings.HasPrefix(key, "{a:") {
				t.Errorf("HashTag %v: %q", tag, key)
			}
		}
		if _, ok, _ := b.Take(ctx, "k"); ok {
			t.Error("b has a value of a")
		}
		if _, ok, _ := b.Bans().Get(ctx, "k"); ok {
			t.Error("b has a ban of a")
		}
		if n, err := b.Beat(ctx, time.Minute); n != 1 || err != nil {
			t.Errorf("b counts %d instances, %v", n, err)
		}
		if _, ok, _ := a.Revocations().Get(ctx, "k"); !ok {
			t.Error("the revocation is gone")
		}
		if !strings.Contains(before, "owner") {
			t.Errorf("keys:\n%s", before)
		}
	}
}

// Bans and revocations are different marks, each with its own bound.
func TestMaxMarks(t *testing.T) {
	ctx := context.Background()
	s, _ := open(t, miniredis.RunT(t).Addr(), wsguardredis.Options{Timeout: slowest, MaxMarks: 2})
	for i := range 2 {
		if _, err := s.Bans().Set(ctx, fmt.Sprint(i), nil, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Bans().Set(ctx, "2", nil, time.Minute); !errors.Is(err, store.ErrFull) {
		t.Error(err)
	}
	if _, err := s.Bans().Set(ctx, "1", nil, time.Hour); err != nil {
		t.Error("a mark that exists cannot be set:", err)
	}
	if _, err := s.Revocations().Set(ctx, "2", nil, time.Minute); err != nil {
		t.Error("bans take the room of revocations:", err)
	}
	if _, ok, err := s.Revocations().Get(ctx, "1"); ok || err != nil {
		t.Error("a ban is a revocation:", err)
	}
}

// hook counts round trips, and calls before and after for each of them. It leaves alone the
// commands with which the client greets a server on a new connection.
type hook struct {
	trips  atomic.Int64
	before atomic.Pointer[func()]
	after  atomic.Pointer[func()]
}

func greeting(cmd redis.Cmder) bool { return cmd.Name() == "hello" || cmd.Name() == "client" }

func (h *hook) trip() {
	h.trips.Add(1)
	if before := h.before.Load(); before != nil {
		(*before)()
	}
}

func (h *hook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (h *hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if greeting(cmd) {
			return next(ctx, cmd)
		}
		h.trip()
		err := next(ctx, cmd)
		if after := h.after.Load(); after != nil {
			(*after)()
		}
		return err
	}
}

func (h *hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if len(cmds) > 0 && !greeting(cmds[0]) {
			h.trip()
		}
		return next(ctx, cmds)
	}
}

func TestRoundTrips(t *testing.T) {
	ctx := context.Background()
	s, client := open(t, miniredis.RunT(t).Addr(), wsguardredis.Options{Timeout: slowest})
	use(t, s) // loads the scripts
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	h := &hook{}
	client.AddHook(h)
	scopes := []store.Scope{{Key: "a"}, {Key: "b"}, {Key: "c", Wide: true}}
	var leases []store.Lease
	for i := range 1000 {
		leases = append(leases, store.Lease{ID: fmt.Sprint(i), Scopes: scopes})
	}
	take := store.Take{Key: "k", Limit: store.Limit{PerSecond: 1, Burst: 5}, Least: 1, Most: 1}
	for _, test := range []struct {
		what string
		want int64
		call func() error
	}{
		{"Admit`", 1, func() error {
			_, err := s.Admit(ctx, store.Request{Takes: []store.Take{take}, ID: "x", TTL: time.Minute, Scopes: scopes, Once: "k"})
			return err
		}},
		{"Acquire`", 1, func() error { _, err := s.Acquire(ctx, "y", time.Minute, scopes...); return err }},
		{"TakeTokens`", 1, func() error { _, _, err := s.TakeTokens(ctx, take); return err }},
		{"Put`", 1, func() error { return s.Put(ctx, "new", nil, time.Minute) }},
		{"PutOwned`", 2, func() error { return s.PutOwned(ctx, "newer", "alice", 1, nil, time.Minute) }},
		{"Take`", 1, func() error { _, _, err := s.Take(ctx, "new"); return err }},
		{"Renew` of 1,000 leases", 3, func() error { return s.Renew(ctx, time.Minute, leases...) }},
		{"Release` of 1,000 leases", 2, func() error { return s.Release(ctx, leases...) }},
		{"Set`", 1, func() error { _, err := s.Bans().Set(ctx, "x", nil, 0); return err }},
	} {
		h.trips.Store(0)
		if err := test.call(); err != nil {
			t.Errorf("%s: %v", test.what, err)
		}
		if n := h.trips.Load(); n != test.want {
			t.Errorf("%s: %d round trips, want %d", test.what, n, test.want)
		}
		if row := fmt.Sprintf("| `%s | %d |", test.what, test.want); !strings.Contains(string(readme), row) {
			t.Errorf("README.md has no row %q", row)
		}
	}
}

// outage checks that an error is a store.OutageError, and returns it.
func outage(t *testing.T, err error) *store.OutageError {
	t.Helper()
	var o *store.OutageError
	if !errors.As(err, &o) {
		t.Fatalf("%v (%T) is no OutageError", err, err)
	}
	if o.Error() == "" || o.Op == "" {
		t.Errorf("%+v", o)
	}
	return o
}

// A slot that Redis gives too late is given back, whether Timeout has passed or the caller has
// left.
func TestLateSlotIsReleased(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		server := miniredis.RunT(t)
		patient, _ := open(t, server.Addr(), wsguardredis.Options{Timeout: slowest})
		use(t, patient) // loads the script
		_, client := open(t, server.Addr(), wsguardredis.Options{})
		h := &hook{}
		client.AddHook(h)
		scopes := []store.Scope{{Key: "one", Max: 1}, {Key: "late", Max: 1, Wide: true}}
		hold := make(chan struct{})
		n := 0
		eventually(t, "Redis gives a slot too late", func() bool { // on a slow machine, Timeout may pass before the call is sent
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			opts := wsguardredis.Options{}
			after := func() { <-hold }
			if leaves {
				opts.Timeout = time.Minute
				after = func() { cancel(); <-hold }
			}
			h.after.Store(&after)
			n++
			s := newStore(t, client, opts) // its breaker is closed
			_, err := s.Acquire(ctx, fmt.Sprint("late", n), time.Minute, scopes...)
			if !leaves {
				outage(t, err)
			} else if err != context.Canceled {
				t.Fatal(err)
			}
			return server.Exists("test:slots:one") && server.Exists("test:wide:late")
		})
		close(hold)
		eventually(t, "the slot is free", func() bool {
			full, err := patient.Acquire(context.Background(), "next", time.Minute, scopes...)
			if err != nil {
				t.Fatal(err)
			}
			return full == ""
		})
	}
}

// eventually waits until ok returns true. It gives up after a time that is long enough for any
// machine.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(slowest); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("never: " + what)
		}
	}
}

// The end of the caller's context ends a call, and is not a failure of Redis.
func TestCallersContext(t *testing.T) {
	s, client := open(t, miniredis.RunT(t).Addr(), wsguardredis.Options{Timeout: slowest})
	h := &hook{}
	client.AddHook(h)
	hold := make(chan struct{})
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		wait := func() { cancel(); <-hold }
		h.before.Store(&wait)
		if _, _, err := s.Take(ctx, "k"); err != context.Canceled {
			t.Fatal(err)
		}
		if _, _, err := s.Take(ctx, "k"); err != context.Canceled {
			t.Fatal(err)
		}
	}
	h.before.Store(nil)
	close(hold)
	if _, _, err := s.Take(context.Background(), "k"); err != nil {
		t.Error(err)
	}
}

// A panic in a hook of the client is an outage.
func TestPanickingClient(t *testing.T) {
	s, client := open(t, miniredis.RunT(t).Addr(), wsguardredis.Options{Timeout: slowest})
	h := &hook{}
	client.AddHook(h)
	evil := func() { panic("evil") }
	h.before.Store(&evil)
	_, _, err := s.Take(context.Background(), "k")
	if o := outage(t, err); !strings.Contains(o.Error(), "evil") {
		t.Error(o)
	}
	h.before.Store(nil)
	if _, _, err := s.Take(context.Background(), "k"); err != nil {
		t.Error(err)
	}
}

// Keys that something else has written are an outage, and no panic. Marks among them are left
// out.
func TestStrangeValues(t *testing.T) {
	ctx := context.Background()
	server := miniredis.RunT(t)
	s, client := open(t, server.Addr(), wsguardredis.Options{Timeout: slowest})
	client.Set(ctx, "test:slots:k", "x", 0)
	client.Set(ctx, "test:rate:k", "nonsense", 0)
	client.HSet(ctx, "{test:bans}:marks", "k", "nonsense")
	_, err := s.Acquire(ctx, "id", time.Minute, store.Scope{Key: "k", Max: 1})
	outage(t, err)
	_, _, err = s.TakeTokens(ctx, store.Take{Key: "k", Limit: store.Limit{PerSecond: 1, Burst: 1}, Least: 1, Most: 1})
	outage(t, err)
	if _, ok, err := s.Bans().Get(ctx, "k"); ok || err != nil {
		t.Error(ok, err)
	}
	if _, err := s.Bans().All(ctx, func(m store.Mark) error { return fmt.Errorf("%+v", m) }); err != nil {
		t.Error(err)
	}
}

func TestPutTwice(t *testing.T) {
	ctx := context.Background()
	s, _ := open(t, miniredis.RunT(t).Addr(), wsguardredis.Options{Timeout: slowest})
	for range 2 { // the client repeats a command when a connection fails
		if err := s.Put(ctx, "k", []byte("same"), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	outage(t, s.Put(ctx, "k", []byte("other"), time.Minute))
	if v, _, _ := s.Take(ctx, "k"); string(v) != "same" {
		t.Errorf("%q", v)
	}
	for what, err := range map[string]error{
		"no key": s.Put(ctx, "", nil, time.Minute), "no ttl": s.Put(ctx, "k", nil, 0),
		"no key of an owner": s.PutOwned(ctx, "", "o", 1, nil, time.Minute), "a short ttl": s.PutOwned(ctx, "k", "o", 1, nil, 1),
	} {
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An acquire that Redis gets after a renewal, which has counted it already, is counted once. If
// it is refused, it is not counted.
func TestWideOutOfOrder(t *testing.T) {
	for _, refused := range []bool{false, true} {
		ctx := context.Background()
		server := miniredis.RunT(t)
		opts := wsguardredis.Options{Timeout: slowest}
		a, client := open(t, server.Addr(), opts)
		other, _ := open(t, server.Addr(), opts)
		full := store.Scope{Key: "full"}
		if refused {
			full.Max = 1
		}
		all := store.Scope{Key: "all", Max: 3, Wide: true}
		take := func(s *wsguardredis.Store, id, want string, scopes ...store.Scope) {
			t.Helper()
			if got, err := s.Acquire(ctx, id, time.Minute, scopes...); err != nil || got != want {
				t.Errorf("%s: full %q, %v; want %q", id, got, err, want)
			}
		}
		take(a, "first", "", all, full)

		h := &hook{}
		client.AddHook(h)
		var held atomic.Bool
		started, hold, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
		wait := func() {
			if held.CompareAndSwap(false, true) {
				close(started)
				<-hold
			}
		}
		h.before.Store(&wait)
		go func() {
			defer close(done)
			want := ""
			if refused {
				want = "full"
			}
			take(a, "held up", want, all, full)
		}()
		<-started
		if err := a.Renew(ctx, time.Minute, store.Lease{ID: "first", Scopes: []store.Scope{all, full}}); err != nil {
			t.Error(err)
		}
		close(hold)
		<-done
		take(other, "other", "", all)
		if refused {
			take(other, "room", "", all)
		}
		take(other, "over", "all", all)
	}
}

// A release that Redis gets after a newer renewal does not replace its number.
func TestWideLateRelease(t *testing.T) {
	ctx := context.Background()
	server := miniredis.RunT(t)
	opts := wsguardredis.Options{Timeout: slowest}
	a, client := open(t, server.Addr(), opts)
	other, _ := open(t, server.Addr(), opts)
	all := []store.Scope{{Key: "all", Max: 3, Wide: true}}
	take := func(s *wsguardredis.Store, id, want string) {
		t.Helper()
		if got, err := s.Acquire(ctx, id, time.Minute, all...); err != nil || got != want {
			t.Errorf("%s: full %q, %v; want %q", id, got, err, want)
		}
	}
	take(a, "first", "")
	take(a, "second", "")

	h := &hook{}
	client.AddHook(h)
	var held atomic.Bool
	started, hold, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	wait := func() {
		if held.CompareAndSwap(false, true) {
			close(started)
			<-hold
		}
	}
	h.before.Store(&wait)
	go func() {
		defer close(done)
		if err := a.Release(ctx, store.Lease{ID: "second", Scopes: all}); err != nil {
			t.Error(err)
		}
	}()
	<-started
	take(a, "third", "")
	if err := a.Renew(ctx, time.Minute, store.Lease{ID: "first", Scopes: all}, store.Lease{ID: "third", Scopes: all}); err != nil {
		t.Error(err)
	}
	close(hold)
	<-done
	take(other, "other", "")
	take(other, "over", "all")
}

// A client that never gives up a command would keep goroutines of the store.
func TestClientWithoutTimeout(t *testing.T) {
	type timeouts struct {
		read, write time.Duration
		contexts    bool
	}
	for _, test := range []struct {
		timeouts
		ok bool
	}{
		{timeouts{0, 0, false}, true},
		{timeouts{time.Hour, time.Hour, false}, true},
		{timeouts{-2, 0, false}, false},
		{timeouts{0, -2, false}, false},
		{timeouts{-2, time.Second, false}, false},
		{timeouts{-2, -2, true}, true},
		{timeouts{-1, -1, true}, true},
	} {
		addrs := []string{"127.0.0.1:1"}
		for what, client := range map[string]redis.UniversalClient{
			"client":   redis.NewClient(&redis.Options{Addr: addrs[0], ReadTimeout: test.read, WriteTimeout: test.write, ContextTimeoutEnabled: test.contexts}),
			"failover": redis.NewFailoverClient(&redis.FailoverOptions{SentinelAddrs: addrs, ReadTimeout: test.read, WriteTimeout: test.write, ContextTimeoutEnabled: test.contexts}),
			"cluster":  redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, ReadTimeout: test.read, WriteTimeout: test.write, ContextTimeoutEnabled: test.contexts}),
			"ring":     redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": addrs[0]}, HeartbeatFrequency: time.Hour, ReadTimeout: test.read, WriteTimeout: test.write, ContextTimeoutEnabled: test.contexts}),
		} {
			if _, err := wsguardredis.New(client, wsguardredis.Options{Prefix: "a"}); (err == nil) != test.ok {
				t.Errorf("%s %+v: %v", what, test.timeouts, err)
			}
			client.Close()
		}
	}
	endless := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ReadTimeout: -1})
	defer endless.Close()
	if _, err := wsguardredis.New(endless, wsguardredis.Options{Prefix: "a"}); err == nil {
		t.Error("a ReadTimeout of -1: no error")
	}
}

// A panic in a hook of the client is harmless while a slot is given back.
func TestPanicWhileReleasing(t *testing.T) {
	ctx := context.Background()
	server := miniredis.RunT(t)
	s, client := open(t, server.Addr(), wsguardredis.Options{Timeout: slowest})
	use(t, s) // loads the script
	h := &hook{}
	client.AddHook(h)
	evil := func() { panic("evil") }
	h.before.Store(&evil)
	scope := store.Scope{Key: "wide", Max: 1, Wide: true}
	trips := h.trips.Load()
	_, err := s.Acquire(ctx, "id", time.Minute, scope)
	outage(t, err)
	eventually(t, "the slot is given back", func() bool { return h.trips.Load() == trips+2 })
	h.before.Store(nil)
	if full, err := s.Acquire(ctx, "next", time.Minute, scope); full != "" || err != nil {
		t.Errorf("full %q, %v", full, err)
	}
}

// A release counts an ID that Redis has refused, because the answer is still under way. The
// number is right after that.
func TestWideRefusedDuringRelease(t *testing.T) {
	ctx := context.Background()
	server := miniredis.RunT(t)
	a, client := open(t, server.Addr(), wsguardredis.Options{Timeout: slowest})
	other, _ := open(t, server.Addr(), wsguardredis.Options{Timeout: slowest})
	full, all := store.Scope{Key: "full", Max: 1}, store.Scope{Key: "all", Max: 2, Wide: true}
	take := func(s *wsguardredis.Store, id, want string, scopes ...store.Scope) {
		t.Helper()
		if got, err := s.Acquire(ctx, id, time.Minute, scopes...); err != nil || got != want {
			t.Errorf("%s: full %q, %v; want %q", id, got, err, want)
		}
	}
	take(a, "first", "", full)
	take(a, "second", "", all)
	h := &hook{}
	client.AddHook(h)
	answered, hold, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	wait := func() {
		h.after.Store(nil)
		close(answered)
		<-hold
	}
	h.after.Store(&wait)
	go func() {
		defer close(done)
		take(a, "refused", "full", all, full)
	}()
	<-answered
	if err := a.Release(ctx, store.Lease{ID: "second", Scopes: []store.Scope{all}}); err != nil {
		t.Error(err)
	}
	close(hold)
	<-done
	take(other, "one", "", all)
	take(other, "two", "", all)
	take(other, "three", "all", all)
}

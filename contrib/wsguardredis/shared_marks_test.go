//go:build unix

package wsguardredis_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardredis"
)

// guarded is an instance of a service that shares its bans and its revocations.
type guarded struct {
	g   *wsguard.Guard
	url string
}

// shares starts an instance. The token of a user is its name.
func shares(t *testing.T, s *wsguardredis.Store) *guarded {
	t.Helper()
	off := wsguard.Rate{PerSecond: wsguard.Off}
	g, err := wsguard.New(wsguard.Config{
		InsecureAllowHTTP: true,
		Origins:           []string{"https://app.example.com"},
		Logger:            slog.New(slog.NewTextHandler(io.Discard, nil)),
		Auth: wsguard.AuthConfig{Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: token}, nil
		}},
		Caps:     wsguard.CapConfig{MaxConnsPerClient: wsguard.Off},
		Rates:    wsguard.RateConfig{Handshakes: off, MaxInFlightPerClient: wsguard.Off},
		Timeouts: wsguard.TimeoutConfig{PingInterval: wsguard.Off, Idle: wsguard.Off},
		Shared:   wsguard.SharedConfig{Bans: s.Bans(), Revocations: s.Revocations()},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		_, _, err := c.Read(ctx)
		return err
	}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		g.Shutdown(ctx)
		server.Close()
	})
	return &guarded{g, server.URL}
}

// dial presents a token. It returns the status, and a connection if it is 101.
func (i *guarded) dial(t *testing.T, token string) (int, *websocket.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, i.url, &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {"https://app.example.com"}, "Authorization": {"Bearer " + token}},
	})
	if resp == nil {
		t.Fatal(err)
	}
	if err != nil {
		return resp.StatusCode, nil
	}
	t.Cleanup(func() { c.CloseNow() })
	return resp.StatusCode, c
}

// 400 revocations by one instance end 400 connections at another, while all connections to Redis
// are cut again and again, and answers are delayed. A third instance, which is started afterwards, knows
// all of them.
func TestNoSharedRevocationIsLost(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() { eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before }) })
	server := startServer(t, "redis-server")
	near, far := startProxy(t, server.addr), startProxy(t, server.addr)
	writer, _ := open(t, near.l.Addr().String(), wsguardredis.Options{})
	reader, _ := open(t, far.l.Addr().String(), wsguardredis.Options{})
	a, b := shares(t, writer), shares(t, reader)
	const n = 400
	var ended sync.WaitGroup
	var mu sync.Mutex
	codes := map[websocket.StatusCode]int{}
	for k := range n {
		status, c := b.dial(t, fmt.Sprint("user", k))
		if status != 101 {
			t.Fatalf("status %d", status)
		}
		ended.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			_, _, err := c.Read(ctx)
			mu.Lock()
			defer mu.Unlock()
			codes[websocket.CloseStatus(err)]++
		})
	}
	for k := range n {
		switch k % 50 {
		case 20:
			near.cut("")
		case 30:
			far.cut("")
		case 40:
			near.cut("")
			far.cut("")
			server.signal(syscall.SIGSTOP)
			time.AfterFunc(100*time.Millisecond, func() { server.cmd.Process.Signal(syscall.SIGCONT) })
		}
		a.g.Admin().Revoke(fmt.Sprint("user", k))
	}
	ended.Wait()
	if codes[3000] != n {
		t.Errorf("%v of %d connections have ended with 3000", codes, n)
	}
	eventually(t, "Redis has all revocations", func() bool { return a.g.Stats().Shared.MarksWaiting == 0 })
	third, _ := open(t, server.addr, wsguardredis.Options{Timeout: time.Minute})
	c := shares(t, third)
	for k := range n {
		for _, in := range []*guarded{a, b, c} {
			if status, _ := in.dial(t, fmt.Sprint("user", k)); status != 401 {
				t.Fatalf("user %d: %d, want 401", k, status)
			}
		}
	}
	if status, _ := c.dial(t, "another"); status != 101 {
		t.Errorf("another user: %d", status)
	}
}

// A Redis that was restarted without its memory gets the revocations and the bans back from the
// instances, so that a new instance knows them.
func TestSharedMarksAfterEmptyRestart(t *testing.T) {
	server := startServer(t, "redis-server")
	one, _ := open(t, server.addr, wsguardredis.Options{})
	two, _ := open(t, server.addr, wsguardredis.Options{})
	a, b := shares(t, one), shares(t, two)
	const n = 400
	for k := range n {
		[]*guarded{a, b}[k%2].g.Admin().Revoke(fmt.Sprint("user", k))
	}
	a.g.Admin().Restore("user7")
	if err := b.g.Admin().Ban("192.0.2.0/24", time.Hour, "spam"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Redis has everything", func() bool {
		return a.g.Stats().Shared.MarksWaiting+b.g.Stats().Shared.MarksWaiting == 0 && len(a.g.Admin().Bans()) == 1
	})
	server.kill()
	a.g.Admin().Revoke("meanwhile")
	if !server.start() {
		t.Skip("another program has taken the port")
	}
	fresh, client := open(t, server.addr, wsguardredis.Options{Timeout: time.Minute})
	eventually(t, "Redis has everything again", func() bool {
		return client.HLen(context.Background(), "{test:revocations}:marks").Val() == n+1 &&
			client.HLen(context.Background(), "{test:bans}:marks").Val() == 1
	})
	c := shares(t, fresh)
	for k := range n {
		want := 401
		if k == 7 {
			want = 101
		}
		if status, _ := c.dial(t, fmt.Sprint("user", k)); status != want {
			t.Fatalf("user %d: %d, want %d", k, status, want)
		}
	}
	if status, _ := c.dial(t, "meanwhile"); status != 401 {
		t.Errorf("revoked while Redis was down: %d", status)
	}
	if bans := c.g.Admin().Bans(); len(bans) != 1 || !strings.HasPrefix(bans[0].Client, "192.0.2.") {
		t.Errorf("%+v", bans)
	}
}

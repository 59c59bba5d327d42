package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// fair is an env behind a proxy, in a bubble.
type fair struct{ *env }

func fairUse(t *testing.T, change func(*wsguard.Config), test func(t *testing.T, f *fair)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		test(t, &fair{serveGuard(t, conf(noHandshakeLimits, noPings, func(cfg *wsguard.Config) {
			cfg.Proxies.Trusted = []string{"127.0.0.1"}
			change(cfg)
		}))})
	})
}

// from makes a handshake from an address.
func (f *fair) from(addr string, kv ...string) (*wstest.Client, *http.Response) {
	f.t.Helper()
	return f.try(from(addr, kv...))
}

// want is from for a handshake that must have this status.
func (f *fair) want(status int, addr string, kv ...string) *wstest.Client {
	f.t.Helper()
	c, res := f.from(addr, kv...)
	if res.StatusCode != status {
		f.t.Errorf("%s %v: %d, want %d", addr, kv, res.StatusCode, status)
	}
	synctest.Wait() // what it held is given back after the answer
	return c
}

// Buckets are the subject's: five sockets share one, and six connections in turn
// have no more than one.
func TestLimitT49Subject(t *testing.T) {
	subject := func(cfg *wsguard.Config) {
		anyToken(cfg)
		noRates(cfg)
		cfg.Rates.SubjectMessages = wsguard.Rate{PerSecond: never, Burst: 10}
	}
	fairUse(t, subject, func(t *testing.T, f *fair) {
		var conns []*wstest.Client
		for i := range 5 {
			conns = append(conns, f.want(101, fmt.Sprintf("192.0.2.%d", i+1), "Authorization", "Bearer alice"))
		}
		for i := range 10 {
			roundTrip(t, conns[i%5], "x")
		}
		other := f.want(101, "192.0.2.1", "Authorization", "Bearer bob")
		roundTrip(t, other, "x")
		for _, c := range conns {
			c.WriteFrame(wstest.Text("x"))
			wantClose(t, c, 1008, "rate_limited")
		}
	})
	fairUse(t, subject, func(t *testing.T, f *fair) {
		passed := 0
		for range 6 {
			c := f.want(101, "192.0.2.1", "Authorization", "Bearer alice")
			for range 4 {
				c.WriteFrame(wstest.Text("x"))
				if _, _, err := c.ReadMessage(); err != nil {
					break
				}
				passed++
			}
			c.Close()
		}
		if passed != 10 {
			t.Errorf("%d messages of six connections, want 10", passed)
		}
	})
}

// T46: 200 handshakes at once, each cap.
func TestLimitT46Race(t *testing.T) {
	for name, tt := range map[string]struct {
		caps wsguard.CapConfig
		addr func(i int) string
		who  func(i int) string
		want int
	}{
		"in all":      {wsguard.CapConfig{MaxConns: 50}, func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, func(i int) string { return fmt.Sprint("u", i) }, 50},
		"per client":  {wsguard.CapConfig{MaxConnsPerClient: 7}, func(i int) string { return fmt.Sprintf("192.0.2.%d", i%5) }, func(i int) string { return fmt.Sprint("u", i) }, 35},
		"per /48":     {wsguard.CapConfig{MaxConnsPerNetwork: 20}, func(i int) string { return fmt.Sprintf("2001:db8:%d:%x::1", i%2, i) }, func(i int) string { return fmt.Sprint("u", i) }, 40},
		"per subject": {wsguard.CapConfig{MaxConnsPerSubject: 3}, func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, func(i int) string { return fmt.Sprint("u", i%4) }, 12},
	} {
		t.Run(name, func(t *testing.T) {
			fairUse(t, func(cfg *wsguard.Config) { anyToken(cfg); cfg.Caps = tt.caps }, func(t *testing.T, f *fair) {
				for range 2 {
					var wg sync.WaitGroup
					var mu sync.Mutex
					var open []*wstest.Client
					for i := range 200 {
						wg.Go(func() {
							c, res := f.from(tt.addr(i), "Authorization", "Bearer "+tt.who(i))
							if res.StatusCode != 101 {
								c.Close()
								return
							}
							mu.Lock()
							open = append(open, c)
							mu.Unlock()
						})
					}
					wg.Wait()
					synctest.Wait()
					if len(open) != tt.want || f.g.Conns() != tt.want {
						t.Errorf("%d admitted, %d slots; want %d", len(open), f.g.Conns(), tt.want)
					}
					for _, c := range open {
						c.Close()
					}
					time.Sleep(5 * time.Second)
				}
			})
		})
	}
}

// T45: who has a /48 has not 65,536 times the handshakes.
func TestLimitT45HandshakesOfNetwork(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 2}
	}, func(t *testing.T, f *fair) {
		for i := range 32 {
			f.want(101, fmt.Sprintf("2001:db8:1:%x::1", i)).Close()
		}
		f.want(429, "2001:db8:1:ffff::1")
		f.want(101, "2001:db8:2:1::1")
		f.want(101, "192.0.2.1")
	})
}

// A tenant is one client, wherever its users are.
func TestClientName(t *testing.T) {
	tenant := func(cfg *wsguard.Config) {
		cfg.Proxies.ClientName = func(r *http.Request) string {
			if r.Header.Get("X-Panic") != "" {
				panic("name")
			}
			return r.Header.Get("X-Tenant")
		}
		noRates(cfg)
		cfg.Caps.MaxConnsPerClient = 2
		cfg.Rates.ClientMessages = wsguard.Rate{PerSecond: never, Burst: 3}
		cfg.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 4}
	}
	fairUse(t, tenant, func(t *testing.T, f *fair) {
		a, b := f.want(101, "192.0.2.1", "X-Tenant", "acme"), f.want(101, "192.0.2.2", "X-Tenant", "acme")
		f.want(429, "192.0.2.3", "X-Tenant", "acme")
		f.want(101, "192.0.2.1", "X-Tenant", "other").Close()
		f.want(101, "192.0.2.1").Close()
		roundTrip(t, a, "x")
		roundTrip(t, b, "x")
		roundTrip(t, a, "x")
		b.WriteFrame(wstest.Text("x"))
		wantClose(t, b, 1008, "rate_limited")
		b.Close()
		time.Sleep(5 * time.Second)
		f.want(101, "192.0.2.4", "X-Tenant", "acme").Close()
		f.want(429, "192.0.2.4", "X-Tenant", "acme") // the fifth handshake of its bucket
		f.want(503, "192.0.2.5", "X-Panic", "1")
		names := map[string]bool{}
		for _, e := range f.events.of(audit.Open) {
			names[e.Client] = true
		}
		if !names["acme at 192.0.2.1"] || !names["192.0.2.1"] {
			t.Error(names)
		}
		for range 2 {
			f.want(101, "192.0.2.9", "X-Tenant", strings.Repeat("n", 3000)) // is bounded, and goes on counting
		}
		f.want(429, "192.0.2.9", "X-Tenant", strings.Repeat("n", 3000))
		f.want(101, "192.0.2.9", "X-Tenant", strings.Repeat("n", 2999))
	})
}

// All clients in one is said once.
func TestOneClient(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) { cfg.Proxies = wsguard.Proxies{} }, func(t *testing.T, f *fair) {
		for range 250 {
			c := f.dial()
			c.Handshake("/", header())
			c.Close()
		}
		synctest.Wait()
		ws := f.events.of(audit.Warning)
		if len(ws) != 1 || ws[0].Reason != "one_client" || !strings.Contains(ws[0].Detail, "Proxies.Trusted") || ws[0].Client != "127.0.0.1" {
			t.Errorf("%+v", ws)
		}
	})
	// Clients with names of their own may share an address.
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Proxies.ClientName = func(r *http.Request) string { return r.Header.Get("X-Tenant") }
	}, func(t *testing.T, f *fair) {
		for range 150 {
			f.want(101, "192.0.2.1", "X-Tenant", "acme").Close()
		}
		if ws := f.events.of(audit.Warning); len(ws) > 0 {
			t.Errorf("%+v", ws)
		}
	})
	fairUse(t, func(*wsguard.Config) {}, func(t *testing.T, f *fair) {
		for i := range 250 {
			f.want(101, fmt.Sprintf("192.0.2.%d", i%2)).Close()
		}
		if ws := f.events.of(audit.Warning); len(ws) > 0 {
			t.Errorf("%+v", ws)
		}
		for range 100 {
			f.want(101, "").Close() // the proxy does not say for whom
		}
		ws := slices.DeleteFunc(slices.Clone(f.events.of(audit.Warning)), func(e audit.Event) bool { return e.Reason == "no_client_header" })
		if len(ws) != 1 || ws[0].Reason != "one_client" || !strings.Contains(ws[0].Detail, "X-Forwarded-For") {
			t.Errorf("%+v", ws)
		}
	})
}

// Who makes the server say much is not listened to for a while.
func TestLimitSentBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			cfg.Rates.SentBytes = wsguard.Rate{PerSecond: 100, Burst: 1000}
			cfg.Rates.Action = wsguard.ActionReply
			cfg.Timeouts.PingInterval = wsguard.Off
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for {
				_, msg, err := c.Read(ctx)
				if err != nil {
					return err
				}
				if len(msg) == 4 {
					c.Send(wsguard.MessageText, []byte(strings.Repeat("y", 800)))
				} else if err := c.Write(ctx, wsguard.MessageText, []byte(strings.Repeat("y", 800))); err != nil {
					return err
				}
			}
		}))
		c := e.open(header())
		answer := strings.Repeat("y", 800)
		c.WriteFrame(wstest.Text("more"))
		wantMessage(t, c, answer)
		c.WriteFrame(wstest.Text("write"))
		wantMessage(t, c, answer)
		synctest.Wait()
		c.WriteFrame(wstest.Text("write"))
		wantMessage(t, c, `{"error":"rate_limited","retry_after_ms":6000}`) // 600 are owed
		for range 5 {
			c.WriteFrame(wstest.Ping(nil)) // pongs are not counted
		}
		time.Sleep(6 * time.Second)
		c.WriteFrame(wstest.Text("more"))
		for {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Opcode == wstest.OpText {
				if string(f.Payload) != answer {
					t.Errorf("%.80s", f.Payload)
				}
				break
			}
		}
	})
}

// A warning comes first, once.
func TestLimitWarning(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Rates.Messages = wsguard.Rate{PerSecond: 1, Burst: 10}
		cfg.Rates.WarnAt = 0.8
	}, func(t *testing.T, f *fair) {
		c := f.want(101, "192.0.2.1")
		for round := range 2 {
			for i := range 9 {
				c.WriteFrame(wstest.Text("x"))
				if i == 7 {
					wantMessage(t, c, `{"warning":"rate_limit"}`)
				}
				wantMessage(t, c, "x")
			}
			synctest.Wait()
			vs := f.events.of(audit.Violation)
			if len(vs) != round+1 || !vs[round].Report || vs[round].Detail != "warned" || !errors.Is(vs[round].Err, reason.RateLimited) {
				t.Errorf("%+v", vs)
			}
			time.Sleep(20 * time.Second)
		}
		for range 10 {
			c.WriteFrame(wstest.Text("x"))
		}
		c.WriteFrame(wstest.Text("x"))
		wantClose(t, c, 1008, "rate_limited")
	})
}

// What would be refused is reported, and passes.
func TestReportOnly(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Auth = wsguard.AuthConfig{Verifier: logins, InsecureReportOnly: true, Sources: wsguard.TokenSources{Header: true, FirstMessage: true}}
		cfg.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 1}
		cfg.Rates.ReportOnly = true
	}, func(t *testing.T, f *fair) {
		f.want(101, "192.0.2.1", "Authorization", "Bearer alice - 0s").Close()
		roundTrip(t, f.want(101, "192.0.2.1", "Authorization", "Bearer junk"), "x")
		roundTrip(t, f.want(101, "192.0.2.1", "Authorization", "Bearer junk"), "x")
		c := f.want(101, "192.0.2.2")
		c.WriteFrame(first("junk"))
		roundTrip(t, c, "x")
		synctest.Wait()
		var got []string
		for _, e := range f.events.of(audit.Violation) {
			if !e.Report {
				t.Errorf("%+v", e)
			}
			got = append(got, e.Reason)
		}
		if !slices.Equal(got, []string{"unauthenticated", "handshake_rate", "unauthenticated", "unauthenticated"}) {
			t.Error(got)
		}
		for s := range f.g.Admin().Sessions() {
			if s.Subject != "" {
				t.Errorf("%+v", s)
			}
		}
	})
}

func penalties(cfg *wsguard.Config) {
	cfg.Auth = wsguard.AuthConfig{Verifier: logins, Failures: wsguard.Rate{PerSecond: wsguard.Off}}
	cfg.Penalties = wsguard.PenaltyConfig{Violations: wsguard.Rate{PerSecond: 0.01, Burst: 5}}
}

// Who offends again and again is banned, for longer each time.
func TestPenalties(t *testing.T) {
	fairUse(t, penalties, func(t *testing.T, f *fair) {
		good := []string{"Authorization", "Bearer alice - 0s"}
		bad := []string{"Authorization", "Bearer junk"}
		open := f.want(101, "192.0.2.1", good...)
		for range 6 {
			f.want(401, "192.0.2.1", bad...)
		}
		start := time.Now()
		_, res := f.from("192.0.2.1", good...)
		if res.StatusCode != 429 || res.Header.Get("Retry-After") != "60" {
			t.Errorf("%d %v", res.StatusCode, res.Header)
		}
		roundTrip(t, open, "what is open stays")
		f.want(101, "192.0.2.2", good...).Close()
		bans := f.g.Admin().Bans()
		if len(bans) != 1 || bans[0].Client != "192.0.2.1" || !bans[0].Until.Equal(start.Add(time.Minute)) || bans[0].Strikes != 1 || bans[0].Reason != "unauthenticated" {
			t.Errorf("%+v", bans)
		}
		if es := f.events.of(audit.Banned); len(es) != 1 || es[0].Client != "192.0.2.1" || !errors.Is(es[0].Err, reason.Banned) {
			t.Errorf("%+v", es)
		}
		time.Sleep(time.Minute)
		f.want(101, "192.0.2.1", good...).Close()
		for range 6 {
			f.want(401, "192.0.2.1", bad...)
		}
		_, res = f.from("192.0.2.1", good...)
		if res.StatusCode != 429 || res.Header.Get("Retry-After") != "120" {
			t.Errorf("the second: %d %v", res.StatusCode, res.Header)
		}
		if !f.g.Admin().Lift("192.0.2.1") || f.g.Admin().Lift("192.0.2.1") {
			t.Error("Lift")
		}
		f.want(101, "192.0.2.1", good...).Close()
	})
}

// What a connection does counts as well, and by weight.
func TestPenaltiesOfMessages(t *testing.T) {
	fairUse(t, penalties, func(t *testing.T, f *fair) {
		for i := range 2 {
			c := f.want(101, "2001:db8::1", "Authorization", "Bearer alice - 0s")
			c.Write([]byte("\x81\x01x")) // unmasked
			wantClose(t, c, 1002, "protocol_error")
			c.Close()
			if n := len(f.g.Admin().Bans()); n != i {
				t.Errorf("%d bans after %d", n, i+1)
			}
		}
		f.want(429, "2001:db8::2") // the same /64
		f.want(101, "2001:db8:0:1::2", "Authorization", "Bearer alice - 0s").Close()
		if b := f.g.Admin().Bans(); b[0].Client != "2001:db8::/64" || b[0].Reason != "protocol_error" {
			t.Errorf("%+v", b)
		}
	})
}

// What any page can provoke from its visitor's address counts for nothing; nor
// does an address that stands for many.
func TestPenaltiesNot(t *testing.T) {
	fairUse(t, penalties, func(t *testing.T, f *fair) {
		for range 20 {
			f.want(403, "192.0.2.1", "Origin", "https://evil.test")
			f.want(403, "192.0.2.1", "Sec-Fetch-Mode", "navigate")
			f.want(426, "192.0.2.1", "Upgrade", "")
			f.want(403, "192.0.2.1", "X-Forwarded-Proto", "http")
		}
		for range 20 {
			f.want(401, "127.0.0.1") // the proxy itself
		}
		if b := f.g.Admin().Bans(); len(b) > 0 {
			t.Errorf("%+v", b)
		}
	})
	t.Run("off", func(t *testing.T) {
		fairUse(t, func(cfg *wsguard.Config) { penalties(cfg); cfg.Penalties = wsguard.PenaltyConfig{} }, func(t *testing.T, f *fair) {
			for range 50 {
				f.want(401, "192.0.2.1")
			}
		})
	})
	t.Run("reported origins", func(t *testing.T) {
		fairUse(t, func(cfg *wsguard.Config) { penalties(cfg); cfg.InsecureReportOnlyOrigins = true }, func(t *testing.T, f *fair) {
			for range 50 {
				f.want(401, "192.0.2.1", "Origin", "https://evil.test")
			}
		})
	})
}

// By hand: an address, a prefix, a name. Nothing dear is done for them.
func TestBanByHand(t *testing.T) {
	var asked atomic.Int64
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Auth = wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
			asked.Add(1)
			return logins(ctx, token)
		}}
		cfg.Hosts = []string{"served.example.com"}
		cfg.Proxies.ClientName = func(r *http.Request) string { return r.Header.Get("X-Tenant") }
	}, func(t *testing.T, f *fair) {
		for _, who := range []string{"192.0.2.0/24", "2001:db8::1", "acme"} {
			if err := f.g.Admin().Ban(who, time.Hour, "asked to"); err != nil {
				t.Error(err)
			}
		}
		if err := f.g.Admin().Ban("0.0.0.0/0", time.Hour, ""); err == nil {
			t.Error("everybody")
		}
		for _, addr := range []string{"192.0.2.7", "2001:db8::99"} {
			f.want(429, addr)
		}
		f.want(429, "198.51.100.1", "X-Tenant", "acme")
		f.want(429, "192.0.2.9", "X-Tenant", "other") // his address is
		f.want(421, "198.51.100.1")                   // the next step
		if n := len(f.g.Admin().Bans()); n != 3 || asked.Load() != 0 {
			t.Errorf("%d bans, %d asked", n, asked.Load())
		}
		time.Sleep(time.Hour)
		f.want(421, "192.0.2.7")
	})
}

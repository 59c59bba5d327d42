package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// T16: handshakes in flight are bounded, in all and per client. The others wait for a second
// and are refused then.
func TestLimitT16InFlight(t *testing.T) {
	for _, token := range []string{"stuck", "hang"} {
		t.Run("T16 "+token, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				v := newTokens()
				e := serveGuard(t, proxied(wsguard.Config{Auth: wsguard.AuthConfig{Verifier: v.Verify, VerifyTimeout: 5 * time.Second}}))
				var wg sync.WaitGroup
				client := func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }
				for i := range 256 {
					c := e.dial()
					c.Timeout = 30 * time.Second
					wg.Go(func() {
						defer c.Close()
						c.Handshake("/", from(client(i/8), "Authorization", fmt.Sprintf("Bearer %s-%d", token, i)))
					})
				}
				synctest.Wait()
				if n := len(v.entered); n != 256 {
					t.Errorf("%d at the verifier, want 256", n)
				}
				// 44 wait for their turn, which does not come.
				var waiting sync.WaitGroup
				for i := range 44 {
					who, status, text := client(100+i), 503, "Service Unavailable: in_flight"
					if i%2 == 1 {
						who, status, text = client(i%32), 429, "Too Many Requests: in_flight"
					}
					waiting.Go(func() {
						start := time.Now()
						c, res := e.try(from(who, "Authorization", "Bearer alice"))
						defer c.Close()
						if b := body(t, res); res.StatusCode != status || b != text || time.Since(start) != time.Second {
							t.Errorf("%s: %d %q after %v, want %d", who, res.StatusCode, b, time.Since(start), status)
						}
					})
				}
				waiting.Wait()
				if n := len(e.events.of(audit.Refusal)); n != 44 {
					t.Errorf("%d refusals were reported, want 44", n)
				}
				close(v.release)
				if token == "hang" {
					e.s.Close() // the clients go: the verifier is told
				}
				wg.Wait()
				e.idle()
			})
		})
	}
	// Whoever ignores the context holds a place until he is done; the client
	// is answered, and its slot is free.
	t.Run("T16 ignores its context", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			v := newTokens()
			e := serveGuard(t, wsguard.Config{
				Auth: wsguard.AuthConfig{Verifier: v.Verify, VerifyTimeout: 20 * time.Millisecond},
				Caps: wsguard.CapConfig{MaxConns: 1},
			})
			for i := range 8 {
				e.refused(bearer(fmt.Sprint("stuck-", i)), 503, "unavailable")
				if n := e.g.Conns(); n != 0 {
					t.Errorf("%d slots held", n)
				}
			}
			e.refused(bearer("alice"), 429, "in_flight")
			close(v.release)
			synctest.Wait()
			bye(e.open(bearer("alice")))
		})
	})
}

// T46: a cap is exact, however many come at once.
func TestLimitT46Caps(t *testing.T) {
	wstest.CheckGoroutines(t)
	noRates := wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}, MaxInFlight: wsguard.Off, MaxInFlightPerClient: wsguard.Off}
	for _, tt := range []struct {
		name  string
		caps  wsguard.CapConfig
		rates wsguard.RateConfig
		over  int
	}{
		{"T46 global", wsguard.CapConfig{MaxConns: 10}, noRates, 503},
		{"T46 client", wsguard.CapConfig{MaxConnsPerClient: 10}, noRates, 429},
		{"T46 subject", wsguard.CapConfig{MaxConnsPerSubject: 10}, noRates, 429},
		// Nobody here waits for a verifier, a store or Attach: in the bubble no
		// In the bubble no time passes, so no handshake waits for its place too long.
		{"T46 global, default in flight", wsguard.CapConfig{MaxConns: 10}, wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: 1e9, Burst: 1e9}}, 503},
	} {
		for _, token := range []string{"", "alice"} {
			if token == "" && strings.Contains(tt.name, "subject") {
				continue
			}
			t.Run(tt.name+" "+token, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, InsecureAnonymous: true, Failures: wsguard.Rate{PerSecond: wsguard.Off}}, Caps: tt.caps, Rates: tt.rates})
					for range 2 {
						var mu sync.Mutex
						var open []*wstest.Client
						statuses := map[int]int{}
						var wg sync.WaitGroup
						start := make(chan struct{})
						for range 72 {
							c := e.dial()
							wg.Go(func() {
								h := header()
								if token != "" {
									h = bearer(token)
								}
								<-start
								res, err := c.Handshake("/", h)
								if err != nil {
									t.Error(err)
									return
								}
								mu.Lock()
								defer mu.Unlock()
								statuses[res.StatusCode]++
								if res.StatusCode == 101 {
									open = append(open, c)
								}
							})
						}
						close(start)
						wg.Wait()
						if statuses[101] != 10 || statuses[tt.over] != 62 {
							t.Errorf("statuses %v, want 10 times 101", statuses)
						}
						if n := e.g.Conns(); n != len(open) {
							t.Errorf("%d slots held, %d open", n, len(open))
						}
						for _, c := range open {
							bye(c)
						}
						e.idle()
					}
				})
			})
		}
	}
	// An open connection no longer waits, even while its opening is logged.
	t.Run("T46 a slow log is no handshake in flight", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			gate := make(chan struct{})
			var opened atomic.Int64
			e := serveGuard(t, wsguard.Config{
				Rates: wsguard.RateConfig{MaxInFlightPerClient: 2},
				OnEvent: func(ev audit.Event) {
					if ev.Kind == audit.Open {
						opened.Add(1)
						<-gate
					}
				},
			})
			var cs []*wstest.Client
			for range 2 {
				cs = append(cs, e.open(header()))
			}
			synctest.Wait() // the 101 comes first
			if n := opened.Load(); n != 2 {
				t.Errorf("%d openings are being logged, want 2", n)
			}
			c, res := e.try(header())
			close(gate)
			if res.StatusCode != 101 {
				t.Errorf("status %d while two openings are being logged; %s", res.StatusCode, e.events)
			}
			for _, c := range append(cs, c) {
				bye(c)
			}
		})
	})
	// Nor does who has yet to take the 101.
	t.Run("T46 a slow 101 is no handshake in flight", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			e := newEnv(t, wsguard.Config{Rates: wsguard.RateConfig{MaxInFlightPerClient: 1}})
			e.serveOn(wstest.NewListener(wstest.PipeOptions{BufferBytes: 16}), echoDoor(e.g))
			slow := e.dial()
			fmt.Fprintf(slow, "GET / HTTP/1.1\r\nHost: x\r\nOrigin: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", appOrigin)
			synctest.Wait()
			if n := e.g.Conns(); n != 1 {
				t.Errorf("%d slots, want 1", n)
			}
			start := time.Now()
			c, res := e.try(header())
			if d := time.Since(start); res.StatusCode != 101 || d > 0 {
				t.Errorf("status %d after %v; %s", res.StatusCode, d, e.events)
			}
			bye(c)
			slow.Close()
		})
	})
	t.Run("T46 reports only", func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: newTokens().Verify},
			Caps: wsguard.CapConfig{MaxConns: 1, MaxConnsPerClient: 1, MaxConnsPerSubject: 1, ReportOnly: true},
		})
		e.open(bearer("alice"))
		e.open(bearer("alice"))
		if ev := e.events.of(audit.Violation); len(ev) != 2 || !ev[0].Report || ev[0].Reason != "max_conns" || ev[1].Reason != "max_subject_conns" {
			t.Errorf("events %v", ev)
		}
		if n := e.g.Conns(); n != 2 {
			t.Errorf("%d slots", n)
		}
	})
}

// T44, T45: who counts as one client.
func TestLimitT45Clients(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, proxied(wsguard.Config{Caps: wsguard.CapConfig{MaxConnsPerClient: 1, MaxConnsPerNetwork: 3}}))
	for _, tt := range []struct {
		name, client string
		status       int
	}{
		{"T44 IPv4", "192.0.2.1", 101},
		{"T44 the same, mapped", "::ffff:192.0.2.1", 429},
		{"T44 the same, mapped, in hex", "::ffff:c000:201", 429},
		{"T44 its neighbour", "192.0.2.2", 101},
		{"T45 IPv6", "2001:db8::1", 101},
		{"T45 the same /64", "2001:db8::ffff:2", 429},
		{"T45 the same, with a zone", "2001:db8::1%eth0", 429},
		{"T45 in brackets with a port", "[2001:db8::9]:1234", 429},
		{"T45 the next /64", "2001:db8:0:1::1", 101},
		{"T45 the third /64", "2001:db8:0:2::1", 101},
		{"T45 the fourth /64 of the /48", "2001:db8:0:3::1", 429},
		{"T45 another /48", "2001:db8:1::1", 101},
	} {
		if tt.status == 101 {
			e.open(from(tt.client))
		} else {
			t.Log(tt.name)
			e.refused(from(tt.client), 429, "max_client_conns")
		}
	}
}

// T42, T43: the client's address, as events have it.
func TestLimitT42Client(t *testing.T) {
	wstest.CheckGoroutines(t)
	xff := func(lines ...string) http.Header {
		h := header("X-Forwarded-Proto", "https")
		if lines != nil {
			h["X-Forwarded-For"] = lines
		}
		return h
	}
	chain := wsguard.Proxies{Trusted: []string{"127.0.0.1", "10.0.0.0/8"}}
	for _, tt := range []struct {
		name    string
		proxies wsguard.Proxies
		header  http.Header
		want    string
	}{
		{"T42 no proxy", wsguard.Proxies{}, xff("192.0.2.1"), "127.0.0.1"},
		{"T42 untrusted peer", wsguard.Proxies{Trusted: []string{"10.0.0.0/8"}}, xff("192.0.2.1"), "127.0.0.1"},
		{"T42 one", chain, xff("192.0.2.1"), "192.0.2.1"},
		{"T42 spoofed on the left", chain, xff("6.6.6.6, 192.0.2.1"), "192.0.2.1"},
		{"T42 spoofed line before", chain, xff("6.6.6.6", "192.0.2.1"), "192.0.2.1"},
		{"T42 through the chain", chain, xff("6.6.6.6, 192.0.2.1, 10.1.1.1", "10.2.2.2"), "192.0.2.1"},
		{"T42 stops at rubbish", chain, xff("192.0.2.1, rubbish"), "127.0.0.1"},
		{"T42 stops at rubbish in the chain", chain, xff("192.0.2.1, rubbish, 10.1.1.1"), "10.1.1.1"},
		{"T42 stops at an empty one", chain, xff("192.0.2.1, , 10.1.1.1"), "10.1.1.1"},
		{"T42 all trusted", chain, xff("10.9.9.9, 10.1.1.1"), "10.9.9.9"},
		{"T42 none", chain, xff(), "127.0.0.1"},
		{"T42 very long", chain, xff("192.0.2.1" + strings.Repeat(", 10.1.1.1", 100)), "10.1.1.1"},
		{"T43 X-Real-IP is not the source", chain, header("X-Forwarded-Proto", "https", "X-Real-IP", "6.6.6.6", "Forwarded", "for=6.6.6.6"), "127.0.0.1"},
		{"T43 X-Real-IP is", wsguard.Proxies{Trusted: []string{"127.0.0.1"}, Header: "X-Real-IP"}, header("X-Forwarded-Proto", "https", "X-Real-IP", "192.0.2.1", "X-Forwarded-For", "6.6.6.6"), "192.0.2.1"},
		{"T43 X-Real-IP twice", wsguard.Proxies{Trusted: []string{"127.0.0.1"}, Header: "X-Real-IP"}, header("X-Forwarded-Proto", "https", "X-Real-IP", "6.6.6.6", "X-Real-IP", "192.0.2.1"), "127.0.0.1"},
		{"T43 Forwarded", wsguard.Proxies{Trusted: []string{"127.0.0.1"}, Header: "Forwarded"}, header("X-Forwarded-Proto", "https", "Forwarded", `for=6.6.6.6, for="[2001:db8::1]:99";proto=https`), "2001:db8::1"},
		{"T44 mapped", chain, xff("::ffff:192.0.2.1"), "192.0.2.1"},
		{"T45 zone", chain, xff("fe80::1%eth0"), "fe80::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := serveGuard(t, wsguard.Config{Proxies: tt.proxies, InsecureAllowHTTP: true})
			e.open(tt.header)
			if got := e.events.wait(t, audit.Open, 1).Client; got != tt.want {
				t.Errorf("client %s, want %s", got, tt.want)
			}
		})
	}
}

// T47: slots, subjects' slots and places in flight come back on every path, and
// what Attach made is closed once. Every cap is 1: what leaks is in the way.
func TestLimitT47Leaks(t *testing.T) {
	type unwrapper struct{ error }
	var made, closed, waited atomic.Int64
	var typedNil *badError
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	verifier := wsguard.Verifier(func(ctx context.Context, token string) (wsguard.Principal, error) {
		switch token {
		case "wrong":
			return wsguard.Principal{}, unwrapper{errNoSuchToken}
		case "panic":
			panic("verifier")
		case "nil-panic":
			panic(http.ErrAbortHandler)
		case "goexit":
			runtime.Goexit()
		case "typed-nil":
			return wsguard.Principal{}, typedNil
		case "wait":
			waited.Add(1)
			<-ctx.Done()
			return wsguard.Principal{}, ctx.Err()
		}
		return wsguard.Principal{Subject: token}, nil
	})
	wstest.CheckGoroutines(t)
	e := serveWith(t, wsguard.Config{
		Auth:  wsguard.AuthConfig{Verifier: verifier, VerifyTimeout: 100 * time.Millisecond, Failures: wsguard.Rate{PerSecond: wsguard.Off}},
		Caps:  wsguard.CapConfig{MaxConns: 1, MaxConnsPerClient: 1, MaxConnsPerSubject: 1},
		Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}, MaxInFlight: 1, MaxInFlightPerClient: 1},
		Attach: func(r *http.Request, p wsguard.Principal) (any, error) {
			made.Add(1)
			v := closer(func() { closed.Add(1) })
			switch r.Header.Get("X-Attach") {
			case "error":
				return v, errors.New("no")
			case "typed-nil":
				return v, typedNil
			case "panic":
				made.Add(-1)
				panic("Attach")
			case "goexit":
				made.Add(-1)
				runtime.Goexit()
			case "closer panics":
				return closer(func() { closed.Add(1); panic("Close") }), nil
			}
			return v, nil
		},
	}, func(g *wsguard.Guard) http.Handler {
		h := g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			_, msg, err := c.Read(ctx)
			switch string(msg) {
			case "panic":
				panic("handler")
			case "error":
				return errors.New("handler")
			case "goexit":
				runtime.Goexit()
			}
			return err
		})
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.Header.Get("X-Writer") {
			case "opaque":
				w = opaqueWriter{w}
			case "broken":
				w = &brokenWriter{ResponseWriter: w}
			case "panic":
				w = &brokenWriter{w, func() { panic(http.ErrAbortHandler) }}
			}
			if r.Header.Get("X-Accept") != "" {
				if c, err := g.Accept(w, r); err == nil {
					if r.Header.Get("X-Accept") == "panic" {
						defer c.End(errors.New("panicked"))
						panic(http.ErrAbortHandler)
					}
					// "forgotten": never ended
				}
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	with := func(kv ...string) http.Header {
		return header(append([]string{"Authorization", "Bearer alice"}, kv...)...)
	}
	for _, tt := range []struct {
		name    string
		header  http.Header
		message string
		reset   bool
	}{
		{name: "T47 no credential", header: header()},
		{name: "T47 wrong credential", header: bearer("wrong")},
		{name: "T47 verifier panics", header: bearer("panic")},
		{name: "T47 verifier aborts", header: bearer("nil-panic")},
		{name: "T47 verifier ends its goroutine", header: bearer("goexit")},
		{name: "T47 verifier returns a nil of its own", header: bearer("typed-nil")},
		{name: "T47 verifier hangs", header: bearer("wait")},
		{name: "T47 client goes while the verifier hangs", header: bearer("wait"), reset: true},
		{name: "T47 revoked", header: bearer("mallory")},
		{name: "T47 Attach refuses", header: with("X-Attach", "error")},
		{name: "T47 Attach returns a nil of its own", header: with("X-Attach", "typed-nil")},
		{name: "T47 Attach panics", header: with("X-Attach", "panic")},
		{name: "T47 Attach ends its goroutine", header: with("X-Attach", "goexit")},
		{name: "T47 value panics when closed", header: with("X-Attach", "closer panics"), message: "x"},
		{name: "T47 opaque writer", header: with("X-Writer", "opaque")},
		{name: "T47 Hijack fails", header: with("X-Writer", "broken")},
		{name: "T47 Hijack panics", header: with("X-Writer", "panic")},
		{name: "T47 handler returns", header: with(), message: "x"},
		{name: "T47 handler panics", header: with(), message: "panic"},
		{name: "T47 handler fails", header: with(), message: "error"},
		{name: "T47 handler ends its goroutine", header: with(), message: "goexit"},
		{name: "T47 client goes", header: with(), reset: true},
		{name: "T47 Accept, forgotten", header: with("X-Accept", "forgotten")},
		{name: "T47 Accept, panics", header: with("X-Accept", "panic")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := e.in(t)
			e.g.Admin().Revoke("mallory")
			c := e.dial()
			h := tt.header
			if tt.reset && h.Get("Authorization") == "Bearer wait" {
				before := waited.Load() // its slot may be back before anybody looks
				go c.Handshake("/", h)
				eventually(t, "the verifier asked", func() bool { return waited.Load() > before })
			} else {
				// Some end the connection without an answer.
				res, err := c.Handshake("/", h)
				if err == nil && res.StatusCode == 101 && tt.message != "" {
					c.WriteFrame(wstest.Text(tt.message))
					c.ReadClose()
				}
			}
			if tt.reset {
				c.Conn().(*net.TCPConn).SetLinger(0)
			}
			c.Close()
			e.idle()
			if t.Failed() {
				return
			}
			ok := false
			eventually(t, "a good handshake", func() bool {
				c, res := e.try(with())
				defer c.Close()
				if ok = res.StatusCode == 101; ok {
					bye(c)
				}
				return ok
			})
			e.idle()
			eventually(t, fmt.Sprintf("what Attach made closed once: %d made, %d closed", made.Load(), closed.Load()), func() bool {
				return made.Load() == closed.Load()
			})
		})
	}
}

// badError is an error whose nil is not harmless.
type badError struct{ cause error }

func (e *badError) Error() string { return e.cause.Error() }
func (e *badError) Unwrap() error { return e.cause }

// T48: churn.
func TestLimitT48HandshakeRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, proxied(wsguard.Config{Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: 0.5, Burst: 3}}}))
		for range 3 {
			bye(e.open(from("192.0.2.1")))
		}
		time.Sleep(500 * time.Millisecond)
		res := e.refused(from("192.0.2.1"), 429, "handshake_rate")
		if ra := res.Header.Get("Retry-After"); ra != "2" {
			t.Errorf("Retry-After is %s, want 2", ra)
		}
		bye(e.open(from("192.0.2.2")))
		time.Sleep(2 * time.Second) // as it was told
		bye(e.open(from("192.0.2.1")))
		e.refused(from("192.0.2.1"), 429, "handshake_rate")
	})
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{
			Caps:  wsguard.CapConfig{MaxConnsPerClient: wsguard.Off},
			Rates: wsguard.RateConfig{MaxInFlightPerClient: wsguard.Off}, // more may wait than there is room for
		})
		statuses := e.atOnce(140, func(int) http.Header { return header() }, nil)
		if statuses[101] != 100 || statuses[429] != 40 {
			t.Errorf("defaults: %v, want 100 times 101", statuses)
		}
	})
}

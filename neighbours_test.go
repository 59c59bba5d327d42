package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// These tests show that people who share an address with others are not kept out by them.

// slowly is anyone, and takes a while.
func slowly(ctx context.Context, token string) (wsguard.Principal, error) {
	time.Sleep(50 * time.Millisecond)
	return anyone(ctx, token)
}

// tries makes n handshakes at once, and returns how many got each answer. The connections
// stay open until the test ends.
func tries(e *env, n int, h func(i int) http.Header) map[string]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := map[string]int{}
	for i := range n {
		wg.Go(func() {
			_, res := e.try(h(i))
			answer := "101"
			if res.StatusCode != 101 {
				answer = body(e.t, res)
			}
			mu.Lock()
			got[answer]++
			mu.Unlock()
		})
	}
	wg.Wait()
	return got
}

func person(i int) http.Header { return bearer(fmt.Sprintf("person%d", i)) }

// 40 people behind one address open a page at once, and so do 300 in a row.
func TestNeighboursOpenAPage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: slowly}})
		if got := tries(e, 40, person); got["101"] != 40 {
			t.Errorf("%v", got)
		}
		for i := range 260 {
			e.open(person(40 + i))
		}
	})
}

// The 65th colleague gets in, and so does the 65th tab of a stranger after one was closed.
// Connections without a subject are bounded as before.
func TestNeighboursConnections(t *testing.T) {
	wstest.CheckGoroutines(t)
	auth := wsguard.AuthConfig{Verifier: anyone, InsecureAnonymous: true}
	e := serveGuard(t, wsguard.Config{Auth: auth, Caps: wsguard.CapConfig{MaxConnsPerClient: 2, MaxUsersPerClient: 5}})
	first := e.open(header())
	e.open(header())
	e.refused(header(), 429, "max_client_conns")
	for i := range 3 {
		e.open(person(i))
	}
	if res := e.refused(person(3), 429, "max_client_conns"); res.StatusCode != 429 {
		t.Fatal(res.Status)
	}
	bye(first)
	eventually(t, "the slot is back", func() bool { return e.g.Conns() == 4 })
	e.open(header())
	// Only MaxConnsPerClient is set, so it bounds all connections of an address.
	e = serveGuard(t, wsguard.Config{Auth: auth, Caps: wsguard.CapConfig{MaxConnsPerClient: 2}})
	e.open(person(1))
	e.open(header())
	e.refused(person(2), 429, "max_client_conns")
	// By default a client has room for many people.
	e = serveGuard(t, wsguard.Config{Auth: auth})
	for i := range 65 {
		e.open(person(i))
	}
}

// A credential in the first message makes a connection one of its subject's.
func TestNeighboursFirstMessage(t *testing.T) {
	wstest.CheckGoroutines(t)
	once := wsguard.Rate{PerSecond: never, Burst: 2}
	e := serveWith(t, wsguard.Config{
		Auth:  wsguard.AuthConfig{Verifier: anyone, Sources: wsguard.TokenSources{FirstMessage: true}},
		Caps:  wsguard.CapConfig{MaxConnsPerClient: 1, MaxUsersPerClient: 10},
		Rates: wsguard.RateConfig{Handshakes: once},
	}, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
	for i := range 5 {
		c := e.open(header())
		c.WriteFrame(first(fmt.Sprint("person", i)))
		roundTrip(t, c, "hello")
	}
	// Each subject has a rate of its own.
	c := e.open(header())
	c.WriteFrame(first("person0"))
	roundTrip(t, c, "hello")
	c = e.open(header())
	c.WriteFrame(first("person0"))
	wantClose(t, c, 1013, "handshake_rate")
}

// A handshake with a good credential costs the address nothing, and its subject a token. One
// without, or with a bad one, costs the address.
func TestNeighboursHandshakeRate(t *testing.T) {
	wstest.CheckGoroutines(t)
	few := wsguard.Rate{PerSecond: never, Burst: 3}
	cfg := wsguard.Config{
		Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, InsecureAnonymous: true, Failures: wsguard.Rate{PerSecond: wsguard.Off}},
		Caps: wsguard.CapConfig{MaxConnsPerSubject: wsguard.Off}, Rates: wsguard.RateConfig{Handshakes: few},
	}
	e := serveGuard(t, cfg)
	for range 3 {
		bye(e.open(bearer("alice")))
	}
	if b := body(t, e.refusedAt(t, bearer("alice"))); b != "Too Many Requests: handshake_rate" {
		t.Error(b)
	}
	// alice's refused handshake stays charged to the address, which has two left.
	bye(e.open(bearer("bob")))
	e.refused(bearer("junk"), 401, "unauthenticated")
	bye(e.open(header()))
	e.refused(bearer("carol"), 429, "handshake_rate")
	// The pieces charge what the guard would charge, in whatever order they stand.
	for _, order := range []string{"auth cap", "cap auth"} {
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
			h, p := echoDoor(g), g.Pieces()
			if order == "auth cap" {
				return p.Auth.Handler(p.Cap.Handler(h))
			}
			return p.Cap.Handler(p.Auth.Handler(h))
		})
		for _, name := range []string{"alice", "bob", "carol"} {
			for range 3 {
				bye(e.open(bearer(name)))
			}
			e.idle()
		}
		if _, res := e.try(bearer("alice")); res.StatusCode != 429 {
			t.Errorf("%s: %d", order, res.StatusCode)
		}
	}
}

// refusedAt returns the answer to a handshake that must not succeed.
func (e *env) refusedAt(t *testing.T, h http.Header) *http.Response {
	t.Helper()
	_, res := e.try(h)
	if res.StatusCode == 101 {
		t.Fatal("not refused")
	}
	return res
}

// The body of a refusal names the limit, and that of a 401 says nothing about the credential.
func TestRefusalBody(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{Hosts: []string{"127.0.0.1"}, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}, Caps: wsguard.CapConfig{MaxConnsPerSubject: 1}})
	e.open(bearer("alice"))
	e.g.Admin().Revoke("bob")
	for want, h := range map[string]http.Header{
		"Too Many Requests: max_subject_conns": bearer("alice"),
		"Unauthorized: unauthenticated":        bearer("bob"),
		"Forbidden: origin":                    header("Origin", "https://evil.example"),
		"Service Unavailable: unavailable":     bearer("panic"),
	} {
		if got := body(t, e.refusedAt(t, h)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	_, res := e.tryWith(wstest.HandshakeOptions{Header: header(), Host: "evil.example"})
	if b := body(t, res); b != "Misdirected Request: host" {
		t.Errorf("%q", b)
	}
}

// Those who wait for a place in flight are bounded, and take their turns.
func TestInFlightQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		v := newTokens()
		e := serveGuard(t, proxied(wsguard.Config{
			Auth:  wsguard.AuthConfig{Verifier: v.Verify, VerifyTimeout: time.Minute},
			Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}, MaxInFlight: 10, MaxInFlightPerClient: 4},
			Caps:  wsguard.CapConfig{MaxConnsPerSubject: wsguard.Off, MaxConnsPerClient: wsguard.Off},
		}))
		stuck := func(client string, n int) {
			for i := range n {
				c := e.dial()
				c.Timeout = time.Hour
				go c.Handshake("/", from(client, "Authorization", fmt.Sprintf("Bearer stuck-%d", i)))
			}
		}
		stuck("192.0.2.1", 4)
		for range 4 {
			<-v.entered
		}
		got := tries(e, 70, func(i int) http.Header { return from("192.0.2.1", "Authorization", "Bearer alice") })
		if got["Too Many Requests: in_flight"] != 70 {
			t.Errorf("%v", got)
		}
		// Somebody else does not wait behind them.
		start := time.Now()
		e.tryWith(wstest.HandshakeOptions{Header: from("192.0.2.2", "Authorization", "Bearer alice")})
		if d := time.Since(start); d > 0 {
			t.Errorf("waited %v", d)
		}
		// The first that waits gets the first place.
		at := time.Now()
		time.AfterFunc(300*time.Millisecond, func() { close(v.release) })
		c, res := e.try(from("192.0.2.1", "Authorization", "Bearer alice"))
		if d := time.Since(at); res.StatusCode != 101 || d != 300*time.Millisecond {
			t.Errorf("%s after %v", strings.TrimSpace(res.Status), d)
		}
		bye(c)
	})
}

// One address cannot take all places of those that owe a first message.
func TestUnauthenticatedShare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := proxied(wsguard.Config{
			Auth:  wsguard.AuthConfig{Verifier: anyone, Sources: wsguard.TokenSources{FirstMessage: true}},
			Caps:  wsguard.CapConfig{MaxUnauthenticated: 20},
			Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
		})
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
		at := func(format string, i int) http.Header { return from(fmt.Sprintf(format, i)) }
		if got := tries(e, 50, func(int) http.Header { return from("192.0.2.1") }); got["101"] != 5 || got["Too Many Requests: max_client_conns"] != 45 {
			t.Fatalf("%v", got)
		}
		if got := tries(e, 50, func(i int) http.Header { return at("2001:db8:1:%x::1", i) }); got["101"] != 5 || got["Too Many Requests: max_client_conns"] != 45 {
			t.Fatalf("a /48: %v", got)
		}
		// Others still get in, and their first message makes room.
		for i := range 54 {
			c := e.open(at("198.51.100.%d", i))
			c.WriteFrame(first("somebody"))
			roundTrip(t, c, "hello")
			bye(c)
		}
	})
}

// When all places are taken, a silent connection of a greedy client makes room.
func TestUnauthenticatedReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := proxied(wsguard.Config{
			Auth:  wsguard.AuthConfig{Verifier: anyone, Sources: wsguard.TokenSources{FirstMessage: true}, FirstMessageTimeout: time.Minute},
			Caps:  wsguard.CapConfig{MaxUnauthenticated: 8},
			Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
		})
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
		var greedy []*wstest.Client
		for range 4 {
			greedy = append(greedy, e.open(from("192.0.2.1")))
			time.Sleep(time.Millisecond)
		}
		for i := range 4 {
			e.open(from(fmt.Sprintf("198.51.100.%d", i)))
		}
		e.refused(from("198.51.100.9"), 503, "max_conns") // nobody has been silent for long
		time.Sleep(3 * time.Second)
		for i := range 3 { // until the greedy one has its share
			e.open(from(fmt.Sprintf("198.51.100.%d", 10+i)))
			wantClose(t, greedy[i], 1013, "max_conns")
		}
		time.Sleep(3 * time.Second)
		e.refused(from("198.51.100.20"), 503, "max_conns")
		// One that speaks in time stays.
		greedy[3].WriteFrame(first("somebody"))
		roundTrip(t, greedy[3], "hello")
		e.open(from("198.51.100.21"))
	})
}

// A connection that has sent its credential is not silent, and keeps its place. Connections that
// owe a first message count as those of strangers, whatever headers they have.
func TestUnauthenticatedNotSilent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := proxied(wsguard.Config{
			Auth: wsguard.AuthConfig{
				Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
					time.Sleep(4 * time.Second)
					return anyone(ctx, token)
				},
				Sources: wsguard.TokenSources{FirstMessage: true}, FirstMessageTimeout: time.Minute,
			},
			Caps: wsguard.CapConfig{MaxUnauthenticated: 4},
		})
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
		var speakers []*wstest.Client
		for range 4 {
			c := e.open(from("192.0.2.1"))
			c.WriteFrame(first("somebody"))
			speakers = append(speakers, c)
		}
		time.Sleep(3500 * time.Millisecond)
		e.refused(from("198.51.100.1"), 503, "max_conns")
		for _, c := range speakers {
			roundTrip(t, c, "hello")
		}
	})
	bubble(t, func(t *testing.T) {
		e := serveWith(t, wsguard.Config{
			Auth: wsguard.AuthConfig{
				Verifier: anyone, Sources: wsguard.TokenSources{FirstMessage: true},
				Authenticate: func(*http.Request) (wsguard.Principal, error) { return wsguard.Principal{}, wsguard.ErrNoCredential },
			},
			Caps: wsguard.CapConfig{MaxConnsPerClient: 2, MaxUsersPerClient: 50},
		}, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
		got := tries(e, 10, func(i int) http.Header { return header("X-Foo", fmt.Sprint(i)) })
		if got["101"] != 2 {
			t.Errorf("%v", got)
		}
	})
}

// A neighbour who floods the address with bad credentials does not keep those out whose
// credentials are known. A credential that is no longer good does not pass for long.
func TestNeighboursFlood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := &idp{}
		good := true
		e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
			p, err := j.verify(ctx, token)
			if !good {
				err = errors.New("signed out")
			}
			return p, err
		}}})
		bye(e.open(bearer("good")))
		for second := range 60 {
			for tab := range 50 {
				_, res := e.try(bearer(fmt.Sprint("bad", tab%5)))
				if res.StatusCode != 401 && res.StatusCode != 429 {
					t.Fatal(res.Status)
				}
			}
			c, res := e.try(bearer("good"))
			if res.StatusCode != 101 {
				t.Fatalf("second %d: %s %s", second, res.Status, body(t, res))
			}
			bye(c)
			time.Sleep(time.Second)
		}
		for {
			if _, res := e.try(bearer("bad0")); res.StatusCode == 429 {
				break
			}
		}
		good = false
		e.refused(bearer("good"), 401, "unauthenticated")
		e.refused(bearer("good"), 429, "handshake_rate")
		good = true
		e.refused(bearer("good"), 429, "handshake_rate")
	})
}

package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// These tests show that the failure bucket keeps guesses out, and not those whose neighbours
// have a stale tab.

// idp is a Verifier that counts its calls. Tokens that begin with good are good, and those
// that begin with stale are genuine.
type idp struct{ calls atomic.Int64 }

func (j *idp) verify(_ context.Context, token string) (wsguard.Principal, error) {
	j.calls.Add(1)
	switch {
	case strings.HasPrefix(token, "good"):
		return wsguard.Principal{Subject: token, IssuedAt: time.Now()}, nil
	case strings.HasPrefix(token, "stale"):
		return wsguard.Principal{}, fmt.Errorf("token of %s: %w", token, wsguard.ErrExpired)
	case strings.HasPrefix(token, "old"):
		return wsguard.Principal{Subject: token, Expires: time.Now().Add(-time.Second)}, nil
	}
	return wsguard.Principal{}, errors.New("bad signature")
}

func failing(burst int, cfg wsguard.Config) wsguard.Config {
	cfg.Auth.Failures = wsguard.Rate{PerSecond: never, Burst: burst}
	cfg.Rates.Handshakes = wsguard.Rate{PerSecond: wsguard.Off}
	return cfg
}

// Five tabs with a bad token that try again and again keep nobody out, and cost the Verifier
// five calls in 10 s.
func TestStaleTabs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := &idp{}
		e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: j.verify}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}})
		for second := range 120 {
			for tab := range 5 {
				e.refused(bearer(fmt.Sprint("bad", tab)), 401, "unauthenticated")
			}
			bye(e.open(bearer(fmt.Sprint("good", second))))
			time.Sleep(time.Second)
		}
		if n := j.calls.Load(); n > 120+5*12 {
			t.Errorf("the Verifier was called %d times", n)
		}
	})
}

// A genuine token that is not valid now is no guess, however many there are, and no offence.
func TestStaleTokensAreNoGuess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := &idp{}
		cfg := failing(3, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: j.verify}})
		cfg.Penalties = wsguard.PenaltyConfig{Violations: wsguard.Rate{PerSecond: never, Burst: 5}}
		e := serveGuard(t, proxied(cfg))
		at := func(token string) http.Header { return from("192.0.2.1", "Authorization", "Bearer "+token) }
		for i := range 20 {
			e.refused(at(fmt.Sprint("stale", i)), 401, "unauthenticated")
			e.refused(at(fmt.Sprint("old", i)), 401, "unauthenticated")
			e.refused(from("192.0.2.1"), 401, "unauthenticated") // presents nothing
		}
		e.open(at("good"))
		e.g.Admin().Revoke("good")
		for range 20 {
			e.refused(at("good"), 401, "revoked")
		}
		if bans := e.g.Admin().Bans(); len(bans) > 0 {
			t.Errorf("%+v", bans)
		}
		// Guesses still count.
		for i := range 3 {
			e.refused(at(fmt.Sprint("bad", i)), 401, "unauthenticated")
		}
		e.refused(at("bad9"), 429, "guessing")
		e.refused(at("better"), 429, "guessing")
	})
}

// A client that has guessed too often may present what was accepted before, one at a time.
func TestAcceptedBeforeOverTheBucket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := &idp{}
		var running, most atomic.Int64
		cfg := failing(3, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(10 * time.Millisecond)
			return j.verify(ctx, token)
		}}})
		e := serveGuard(t, proxied(cfg))
		good := func(i int) http.Header { return from("192.0.2.1", "Authorization", fmt.Sprint("Bearer good", i)) }
		for i := range 20 {
			bye(e.open(good(i)))
		}
		for i := range 3 {
			e.refused(from("192.0.2.1", "Authorization", fmt.Sprint("Bearer bad", i)), 401, "unauthenticated")
		}
		most.Store(0)
		if got := tries(e, 20, good); got["101"] != 20 {
			t.Errorf("%v", got)
		}
		if most.Load() != 1 {
			t.Errorf("%d were judged at once", most.Load())
		}
		e.refused(from("192.0.2.1", "Authorization", "Bearer good99"), 429, "guessing")
		e.refused(from("192.0.2.1", "Authorization", "Bearer bad9"), 429, "guessing")
		e.open(from("192.0.2.2", "Authorization", "Bearer good99"))
		// The place of one that is judged comes back.
		synctest.Wait()
		bye(e.open(good(0)))
	})
}

// A refusal is remembered for its client only.
func TestRefusalIsRememberedForItsClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		known := false
		calls := 0
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: func(context.Context, string) (wsguard.Principal, error) {
			if calls++; known {
				return wsguard.Principal{Subject: "alice"}, nil
			}
			return wsguard.Principal{}, errors.New("no")
		}}}
		e := serveGuard(t, proxied(cfg))
		at := func(addr string) http.Header { return from(addr, "Authorization", "Bearer T") }
		e.refused(at("192.0.2.1"), 401, "unauthenticated")
		known = true
		e.refused(at("192.0.2.1"), 401, "unauthenticated")
		e.open(at("192.0.2.2"))
		if calls != 2 {
			t.Errorf("%d calls", calls)
		}
		time.Sleep(11 * time.Second)
		e.open(at("192.0.2.1"))
		// Another Verifier is asked at once.
		e2 := serveGuard(t, proxied(cfg))
		known = false
		e2.refused(at("192.0.2.1"), 401, "unauthenticated")
		known = true
		e2.reconfigure(proxied(wsguard.Config{Origins: []string{appOrigin}, Auth: cfg.Auth}))
		e2.open(at("192.0.2.1"))
	})
}

// Over IPv6 a /48 has a bucket of its own, so that a guesser cannot change its /64.
func TestGuessesOfANetwork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := &idp{}
		e := serveGuard(t, proxied(failing(2, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: j.verify}})))
		for i := range 32 {
			e.refused(from(fmt.Sprintf("2001:db8:1:%x::1", i), "Authorization", fmt.Sprint("Bearer bad", i)), 401, "unauthenticated")
		}
		e.refused(from("2001:db8:1:ffff::1", "Authorization", "Bearer bad99"), 429, "guessing")
		e.open(from("2001:db8:2::1", "Authorization", "Bearer good"))
	})
}

// A page that asks for a ticket before its user has logged in is not charged, and neither is
// one whose session has expired, if the login says so.
func TestPollingTheTicketHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := failing(2, wsguard.Config{Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}}})
		cfg.Penalties = wsguard.PenaltyConfig{Violations: wsguard.Rate{PerSecond: never, Burst: 5}}
		e := serveWith(t, proxied(cfg), func(g *wsguard.Guard) http.Handler {
			return g.TicketHandler(func(r *http.Request) (wsguard.Principal, error) {
				c, err := r.Cookie("session")
				switch {
				case err != nil && r.Header.Get("X-Api-Key") == "":
					return wsguard.Principal{}, wsguard.ErrUnauthenticated
				case err == nil && c.Value == "alice":
					return wsguard.Principal{Subject: "alice"}, nil
				case err == nil && c.Value == "expired":
					return wsguard.Principal{}, wsguard.ErrExpired
				case err == nil && c.Value == "none":
					return wsguard.Principal{}, wsguard.ErrNoCredential
				}
				return wsguard.Principal{}, errors.New("no such session")
			})
		})
		buy := func(kv ...string) int {
			c := e.dial()
			defer c.Close()
			res, err := c.HandshakeWith(wstest.HandshakeOptions{Method: "POST", Header: from("192.0.2.1", kv...)})
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode
		}
		for range 20 {
			for _, kv := range [][]string{nil, {"User-Agent", "x", "Accept", "*/*", "Referer", "https://app.example.com/"}, {"Cookie", "session=expired"}, {"Cookie", "session=none"}} {
				if code := buy(kv...); code != 401 {
					t.Fatalf("%v: %d", kv, code)
				}
			}
		}
		if code := buy("Cookie", "session=alice"); code != 200 {
			t.Errorf("%d", code)
		}
		if bans := e.g.Admin().Bans(); len(bans) > 0 {
			t.Errorf("%+v", bans)
		}
		// A header that may be a credential is one.
		for i := range 2 {
			buy("X-Api-Key", fmt.Sprint("guess", i))
		}
		if code := buy("X-Api-Key", "guess9"); code != 429 {
			t.Errorf("%d, want 429", code)
		}
		if code := buy("Cookie", "session=alice"); code != 200 {
			t.Errorf("accepted before: %d; %s", code, e.events)
		}
		if n := len(e.events.of(audit.Refusal)); n != 83 {
			t.Errorf("%d refusals", n)
		}
	})
}

// A credential in steady use stays known, however long ago it was first accepted.
func TestAcceptedLongAgo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := &idp{}
		e := serveGuard(t, proxied(failing(2, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: j.verify}})))
		at := func(token string) http.Header { return from("192.0.2.1", "Authorization", "Bearer "+token) }
		for range 4 {
			bye(e.open(at("good")))
			time.Sleep(20 * time.Hour)
		}
		for i := range 2 {
			e.refused(at(fmt.Sprint("bad", i)), 401, "unauthenticated")
		}
		bye(e.open(at("good")))
		e.refused(at("goodbye"), 429, "guessing")
	})
}

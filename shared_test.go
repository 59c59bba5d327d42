package wsguard_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// pieceGuard is the Guard of newEnv for the requests of handshakeOf.
func pieceGuard(t *testing.T, cfg wsguard.Config) *wsguard.Guard {
	t.Helper()
	cfg.InsecureAllowHTTP = true
	return newEnv(t, cfg).g
}

// handshakeOf is upgradeRequest from another machine. Without an origin it has no Origin.
func handshakeOf(origin string, kv ...string) *http.Request {
	r := upgradeRequest()
	r.RemoteAddr = "192.0.2.1:1234"
	maps.Copy(r.Header, header(append(kv, "Origin", origin)...))
	return r
}

// Without a known origin, guesses are limited as well.
func TestGuessWithoutOrigin(t *testing.T) {
	g := pieceGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: onlyToken("T"), Failures: wsguard.Rate{PerSecond: never, Burst: 3}}})
	a := g.Pieces().Auth
	asked := 0
	for i := range 100 {
		_, err := a.Authenticate(handshakeOf("", "Authorization", fmt.Sprint("Bearer wrong ", i)))
		if errors.Is(err, wsguard.ErrUnauthenticated) && err.Error() != "" {
			asked++
		}
	}
	if asked != 3 {
		t.Errorf("%d guesses judged, budget is 3", asked)
	}
}

// An answer of a Verifier that was replaced while it was asked is not kept for the new one.
func TestCacheOfReplacedVerifier(t *testing.T) {
	var g *wsguard.Guard
	armed := false
	base := func(v wsguard.Verifier) wsguard.Config {
		return wsguard.Config{Origins: []string{appOrigin}, InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Verifier: v, CacheTTL: time.Hour}}
	}
	old := base(onlyToken("OLD"))
	old.Proxies.ClientName = func(*http.Request) string {
		if armed {
			armed = false
			if err := g.Reconfigure(base(onlyToken("NEW"))); err != nil {
				t.Error(err)
			}
		}
		return ""
	}
	g = pieceGuard(t, old)
	armed = true
	a := g.Pieces().Auth
	a.Authenticate(handshakeOf(appOrigin, "Authorization", "Bearer OLD")) // straddles
	if p, err := a.Authenticate(handshakeOf(appOrigin, "Authorization", "Bearer OLD")); err == nil {
		t.Errorf("the new Verifier does not know OLD, but it is %q for CacheTTL", p.Subject)
	}
}

// Acquire reserves a slot of its own behind Handler.
func TestAcquireBehindHandler(t *testing.T) {
	g := pieceGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{InsecureAnonymous: true}})
	c := g.Pieces().Cap
	c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l, err := c.Acquire(r)
		if err != nil {
			t.Fatal(err)
		}
		if n := g.Conns(); n != 2 {
			t.Errorf("held %d, want 2", n)
		}
		l.Release()
		if n := g.Conns(); n != 1 {
			t.Errorf("after Release held %d, want 1", n)
		}
	})).ServeHTTP(httptest.NewRecorder(), handshakeOf(appOrigin))
}

// A foreign page does not use up the handshakes of its visitor at a piece in front of the origin check.
func TestForeignPageHandshakes(t *testing.T) {
	g := pieceGuard(t, wsguard.Config{InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Verifier: onlyToken("T")}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 3}}})
	p := g.Pieces()
	h := p.Auth.Handler(p.Origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })))
	for range 5 {
		h.ServeHTTP(httptest.NewRecorder(), handshakeOf("https://evil.example"))
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, handshakeOf(appOrigin, "Authorization", "Bearer T"))
	if w.Code != 204 {
		t.Errorf("visitor locked out: %d", w.Code)
	}
}

// A Revoke does not shorten that of another Guard.
func TestRevokeOfAnotherGuard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := wsguard.NewState()
		mkg := func(ttl time.Duration) *wsguard.Guard {
			return pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{Verifier: onlyToken("T"), RevocationTTL: ttl}})
		}
		long, short := mkg(0), mkg(time.Millisecond)
		e := long.Handler(echo)
		long.Admin().Revoke("alice")
		short.Admin().Revoke("alice")
		time.Sleep(10 * time.Millisecond)
		w := httptest.NewRecorder()
		e.ServeHTTP(hijackable{w}, handshakeOf(appOrigin, "Authorization", "Bearer T"))
		if w.Code != 401 {
			t.Errorf("revoked for ever by one Guard, let in again: %d %s", w.Code, w.Body)
		}
	})
}

// The Cap of one Guard in front of another does not replace the caps of the other.
func TestCapOfAnotherGuard(t *testing.T) {
	s := wsguard.NewState()
	lax := pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Caps: wsguard.CapConfig{MaxConns: 100}})
	strict := pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Caps: wsguard.CapConfig{MaxConns: 1}, OnEvent: nil})
	l := must(lax.Pieces().Cap.Acquire(handshakeOf(appOrigin)))
	defer l.Release()
	lw := httptest.NewRecorder()
	lax.Pieces().Cap.Handler(strict.Handler(echo)).ServeHTTP(hijackable{lw}, handshakeOf(appOrigin))
	if lw.Code != 503 || lw.Header().Get("Retry-After") == "" {
		t.Errorf("strict MaxConns 1 is full, got %d %s", lw.Code, lw.Body)
	}
}

// Check judges a request also behind its own Handler.
func TestCheckBehindHandler(t *testing.T) {
	c, _ := wsguard.NewOriginCheck(wsguard.Config{Origins: []string{appOrigin}})
	c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Origin", "https://evil.example")
		if c.Check(r) == nil {
			t.Error("Check did not judge")
		}
	})).ServeHTTP(httptest.NewRecorder(), handshakeOf(appOrigin))
}

// What is changed in a Config after New has no effect.
func TestConfigChangedAfterNew(t *testing.T) {
	origins := []string{appOrigin}
	g := pieceGuard(t, wsguard.Config{Origins: origins, Auth: wsguard.AuthConfig{InsecureAnonymous: true}})
	origins[0] = "https://evil.example"
	if _, err := g.Endpoint(wsguard.EndpointConfig{}); err != nil {
		t.Fatal(err)
	}
	if g.Pieces().Origin.Check(handshakeOf("https://evil.example")) == nil {
		t.Error("a slice changed after New became the policy")
	}
}

// Restore leaves the tickets void that another Guard has sold.
func TestRestoreOfAnotherGuard(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := wsguard.NewState()
	shop := ticketEnv(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{Verifier: onlyToken("T")}})
	other := newEnv(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{Verifier: onlyToken("T")}})
	tk, tk2 := shop.buy(bearer("T")), shop.buy(bearer("T"))
	shop.g.Admin().Revoke("alice")
	shop.redeemRefused(tk, header(), 401, "revoked")
	other.g.Admin().Restore("alice")
	shop.redeemRefused(tk2, header(), 401, "revoked") // bought before the revocation
}

// Guesses of a foreign origin that is only reported are limited.
func TestGuessOfReportedOrigin(t *testing.T) {
	g := pieceGuard(t, wsguard.Config{InsecureReportOnlyOrigins: true, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}, Auth: wsguard.AuthConfig{Verifier: onlyToken("T"), Failures: wsguard.Rate{PerSecond: never, Burst: 2}}})
	n := 0
	for i := range 50 {
		w := httptest.NewRecorder()
		g.Handler(echo).ServeHTTP(hijackable{w}, handshakeOf("https://evil.example", "Authorization", fmt.Sprint("Bearer w", i)))
		if w.Code == 401 {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d guesses judged, budget is 2", n)
	}
}

// A piece of one Guard does not stand for the handshake rate of another.
func TestRateOfAnotherGuard(t *testing.T) {
	s := wsguard.NewState()
	lax := pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}})
	strict := pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 1}}})
	h := lax.Pieces().Auth.Handler(strict.Handler(echo))
	got := map[int]int{}
	for range 20 {
		w := httptest.NewRecorder()
		h.ServeHTTP(hijackable{w}, handshakeOf(appOrigin))
		got[w.Code]++
	}
	if got[429] == 0 {
		t.Errorf("strict Handshakes burst 1: %v", got)
	}
}

// A slot lasts as long as the handler of the piece that took it, and not that of a piece of
// another Guard behind it.
func TestCapOfAnotherGuardInFront(t *testing.T) {
	s := wsguard.NewState()
	cfg := wsguard.Config{State: s, Auth: wsguard.AuthConfig{InsecureAnonymous: true}}
	outer, inner := pieceGuard(t, cfg), pieceGuard(t, cfg)
	held := func(want int) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			if n := outer.Conns(); n != want {
				t.Errorf("%d slots held, want %d", n, want)
			}
		})
	}
	h := inner.Pieces().Cap.Handler(held(1))
	outer.Pieces().Cap.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		held(1).ServeHTTP(w, r)
	})).ServeHTTP(httptest.NewRecorder(), handshakeOf(appOrigin))
	held(0).ServeHTTP(nil, nil)
}

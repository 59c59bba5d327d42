package wsguard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
)

// notHijackable is a ResponseWriter with which every upgrade fails after its last step: a
// 501 says that all of them have passed.
type notHijackable struct{ *httptest.ResponseRecorder }

func (notHijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.New("no") }

func pieceGuard(t *testing.T, cfg wsguard.Config) *wsguard.Guard {
	t.Helper()
	cfg.InsecureAllowHTTP, cfg.Logger = true, slog.New(slog.DiscardHandler)
	if cfg.Origins == nil {
		cfg.Origins = []string{appOrigin}
	}
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func handshakeOf(origin string, kv ...string) *http.Request {
	r := httptest.NewRequest("GET", "http://x/ws", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-Websocket-Version", "13")
	r.Header.Set("Sec-Websocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	for i := 0; i < len(kv); i += 2 {
		r.Header.Set(kv[i], kv[i+1])
	}
	return r
}

func oneToken(tok, sub string) wsguard.Verifier {
	return func(_ context.Context, s string) (wsguard.Principal, error) {
		if s == tok {
			return wsguard.Principal{Subject: sub}, nil
		}
		return wsguard.Principal{}, errors.New("no")
	}
}

func discard(context.Context, *wsguard.Conn) error { return nil }

func buyTicket(t *testing.T, g *wsguard.Guard, tok string) string {
	r := httptest.NewRequest("POST", "http://x/ticket", nil)
	r.Header.Set("Origin", appOrigin)
	r.Header.Set("Authorization", "Bearer "+tok)
	w := httptest.NewRecorder()
	g.TicketHandler(nil).ServeHTTP(w, r)
	var v struct{ Ticket string }
	json.Unmarshal(w.Body.Bytes(), &v)
	if v.Ticket == "" {
		t.Logf("no ticket: %d %s", w.Code, w.Body)
	}
	return v.Ticket
}

func withTicket(g *wsguard.Guard, ticket string) int {
	r := handshakeOf(appOrigin)
	r.URL.RawQuery = "ticket=" + ticket
	w := httptest.NewRecorder()
	g.Handler(discard).ServeHTTP(notHijackable{w}, r)
	return w.Code
}

// Without a known origin, guesses are limited as well.
func TestGuessWithoutOrigin(t *testing.T) {
	g := pieceGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: oneToken("T", "alice"), Failures: wsguard.Rate{PerSecond: never, Burst: 3}}})
	a := g.Pieces().Auth
	asked := 0
	for range 100 {
		_, err := a.Authenticate(handshakeOf("", "Authorization", "Bearer wrong"))
		if errors.Is(err, wsguard.ErrUnauthenticated) && err.Error() != "" {
			asked++
		}
	}
	t.Log("asked", asked)
	if asked > 3 {
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
	old := base(oneToken("OLD", "alice"))
	old.Proxies.ClientName = func(*http.Request) string {
		if armed {
			armed = false
			if err := g.Reconfigure(base(oneToken("NEW", "alice"))); err != nil {
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
	g := pieceGuard(t, wsguard.Config{InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Verifier: oneToken("T", "alice")}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 3}}})
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
	connBubble(t, func(t *testing.T) {
		s := wsguard.NewState()
		mkg := func(ttl time.Duration) *wsguard.Guard {
			return pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{Verifier: oneToken("T", "alice"), RevocationTTL: ttl}})
		}
		long, short := mkg(0), mkg(time.Millisecond)
		e := long.Handler(func(context.Context, *wsguard.Conn) error { return nil })
		long.Revoke("alice")
		short.Revoke("alice")
		time.Sleep(10 * time.Millisecond)
		w := httptest.NewRecorder()
		e.ServeHTTP(notHijackable{w}, handshakeOf(appOrigin, "Authorization", "Bearer T"))
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
	l, _ := lax.Pieces().Cap.Acquire(handshakeOf(appOrigin))
	defer l.Release()
	lw := httptest.NewRecorder()
	lax.Pieces().Cap.Handler(strict.Handler(func(context.Context, *wsguard.Conn) error { return nil })).ServeHTTP(notHijackable{lw}, handshakeOf(appOrigin))
	if lw.Code != 503 || lw.Header().Get("Retry-After") == "" {
		t.Errorf("strict MaxConns 1 is full, got %d %s", lw.Code, lw.Body)
	}
	t.Log(lw.Code, lw.Body, lw.Header())
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
	s := wsguard.NewState()
	shop := pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{Verifier: oneToken("T", "alice"), Tickets: &wsguard.TicketConfig{}}})
	other := pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{Verifier: oneToken("T", "alice")}})
	tk, tk2 := buyTicket(t, shop, "T"), buyTicket(t, shop, "T")
	shop.Revoke("alice")
	if c := withTicket(shop, tk); c != 401 {
		t.Errorf("revoked: %d", c)
	}
	other.Restore("alice")
	if c := withTicket(shop, tk2); c != 401 {
		t.Errorf("Restore revives a ticket bought before the revocation: %d, want 401", c)
	}
}

// Guesses of a foreign origin that is only reported are limited.
func TestGuessOfReportedOrigin(t *testing.T) {
	g := pieceGuard(t, wsguard.Config{InsecureReportOrigin: true, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}, Auth: wsguard.AuthConfig{Verifier: oneToken("T", "alice"), Failures: wsguard.Rate{PerSecond: never, Burst: 2}}})
	n := 0
	for i := range 50 {
		w := httptest.NewRecorder()
		g.Handler(discard).ServeHTTP(notHijackable{w}, handshakeOf("https://evil.example", "Authorization", fmt.Sprint("Bearer w", i)))
		if w.Code == 401 {
			n++
		}
	}
	t.Log("judged", n)
	if n > 2 {
		t.Errorf("%d judged", n)
	}
}

// A piece of one Guard does not stand for the handshake rate of another.
func TestRateOfAnotherGuard(t *testing.T) {
	s := wsguard.NewState()
	lax := pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}})
	strict := pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 1}}})
	h := lax.Pieces().Auth.Handler(strict.Handler(discard))
	got := map[int]int{}
	for range 20 {
		w := httptest.NewRecorder()
		h.ServeHTTP(notHijackable{w}, handshakeOf(appOrigin))
		got[w.Code]++
	}
	if got[429] == 0 {
		t.Errorf("strict Handshakes burst 1: %v", got)
	}
}

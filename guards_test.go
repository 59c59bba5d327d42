package wsguard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/store"
)

// passed is a handler behind a piece. It says that the piece has let a request pass.
var passed = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

// statusOf is the status of an answer of h to r. With hijackable below it, a Guard that
// admits the request answers 501.
func statusOf(h http.Handler, r *http.Request) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(hijackable{w}, r)
	return w.Code
}

// fromAddr sets the address that r comes from.
func fromAddr(r *http.Request, addr string) *http.Request {
	r.RemoteAddr = addr
	return r
}

// buyTicket returns a ticket of g for alice.
func buyTicket(t *testing.T, g *wsguard.Guard) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/ticket", nil)
	r.Header = header("Authorization", "Bearer T")
	w := httptest.NewRecorder()
	ticketMux(g).ServeHTTP(w, r)
	var sold struct{ Ticket string }
	if err := json.Unmarshal(w.Body.Bytes(), &sold); err != nil {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return sold.Ticket
}

// withTicket is the status of a handshake with a ticket.
func withTicket(g *wsguard.Guard, ticket string) int {
	r := handshakeOf(appOrigin)
	r.URL.RawQuery = "ticket=" + ticket
	return statusOf(g.Handler(echo), r)
}

// Failed credentials that a foreign page sends are not charged to the client's own pages,
// nor to the credential.
func TestGuessesOfForeignPage(t *testing.T) {
	const evil = "https://evil.example"
	known := false
	verify := func(_ context.Context, token string) (wsguard.Principal, error) {
		if token == "T" && known {
			return wsguard.Principal{Subject: "alice"}, nil
		}
		return wsguard.Principal{}, errors.New("no")
	}
	g := pieceGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: verify, Failures: wsguard.Rate{PerSecond: never, Burst: 2}}})
	a := g.Pieces().Auth
	for _, token := range []string{"T", "T", "T2", "T", "T2"} {
		_, err := a.Authenticate(handshakeOf(evil, "Authorization", "Bearer "+token))
		if err == nil {
			t.Fatal("accepted")
		}
	}
	if _, err := a.Authenticate(handshakeOf(evil, "Authorization", "Bearer other")); !errors.Is(err, reason.Guessing) {
		t.Errorf("the foreign page goes on: %v, want Guessing", err)
	}
	known = true
	if _, err := a.Authenticate(handshakeOf(appOrigin, "Authorization", "Bearer T")); err != nil {
		t.Errorf("the page of the application: %v", err)
	}
}

// Handshakes that foreign pages send are charged to the client by its name, and to a bucket
// of their own for an IPv6 /48.
func TestHandshakesOfForeignPage(t *testing.T) {
	const evil = "https://evil.example"
	one := wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 1}}
	t.Run("name", func(t *testing.T) {
		g := pieceGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Rates: one,
			Proxies: wsguard.Proxies{ClientName: func(r *http.Request) string { return r.Header.Get("X-Name") }},
		})
		h := g.Pieces().Auth.Handler(passed)
		for _, step := range []struct {
			name string
			code int
		}{{"alice", 204}, {"alice", 429}, {"bob", 204}, {"bob", 429}} {
			if code := statusOf(h, handshakeOf(evil, "X-Name", step.name)); code != step.code {
				t.Errorf("%s: %d, want %d", step.name, code, step.code)
			}
		}
	})
	t.Run("network", func(t *testing.T) {
		g := pieceGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Rates: one})
		h := g.Pieces().Auth.Handler(passed)
		codes := map[int]int{}
		for i := range 20 {
			codes[statusOf(h, fromAddr(handshakeOf(evil), fmt.Sprintf("[2001:db8:1:%x::1]:1", i)))]++
		}
		if codes[204] != 16 || codes[429] != 4 {
			t.Errorf("20 handshakes of a /48 got %v, want 16 times 204", codes)
		}
		if code := statusOf(h, fromAddr(handshakeOf(appOrigin), "[2001:db8:1:ff::1]:1")); code != 204 {
			t.Errorf("a page of the application from that /48: %d, want 204", code)
		}
	})
}

// A connection beyond a cap is reported once, however many pieces of a Guard have looked at
// it.
func TestReportedCapOnce(t *testing.T) {
	count := func(caps wsguard.CapConfig) map[string]int {
		var mu sync.Mutex
		reports := map[string]int{}
		g := pieceGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: onlyToken("T")}, Caps: caps,
			OnEvent: func(e audit.Event) {
				if e.Report {
					mu.Lock()
					defer mu.Unlock()
					reports[e.Reason]++
				}
			},
		})
		p := g.Pieces()
		guarded := p.Auth.Handler(p.Cap.Handler(g.Handler(echo)))
		p.Auth.Handler(p.Cap.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			if code := statusOf(guarded, handshakeOf(appOrigin, "Authorization", "Bearer T")); code != 501 {
				t.Errorf("the second connection: %d, want 501", code)
			}
		}))).ServeHTTP(httptest.NewRecorder(), handshakeOf(appOrigin, "Authorization", "Bearer T"))
		return reports
	}
	if got := count(wsguard.CapConfig{MaxConns: 1, ReportOnly: true}); got["max_conns"] != 1 || len(got) != 1 {
		t.Errorf("MaxConns: reported %v, want max_conns once", got)
	}
	if got := count(wsguard.CapConfig{MaxConnsPerSubject: 1, ReportOnly: true}); got["max_subject_conns"] != 1 || len(got) != 1 {
		t.Errorf("MaxConnsPerSubject: reported %v, want max_subject_conns once", got)
	}
}

// A slot that another Guard's Cap has reserved counts once towards the caps of a Guard.
func TestCapOfAnotherGuardCountsOnce(t *testing.T) {
	s := wsguard.NewState()
	auth := wsguard.AuthConfig{InsecureAnonymous: true}
	lax := pieceGuard(t, wsguard.Config{State: s, Auth: auth})
	strict := pieceGuard(t, wsguard.Config{State: s, Auth: auth, Caps: wsguard.CapConfig{MaxConns: 1}})
	if code := statusOf(lax.Pieces().Cap.Handler(strict.Handler(echo)), handshakeOf(appOrigin)); code != 501 {
		t.Errorf("the only connection: %d, want 501", code)
	}
}

// A slot that is offered to a Guard twice, or after its end, does not stay counted among the
// unauthenticated, nor for its subject.
func TestLeaseCountsOnce(t *testing.T) {
	t.Run("twice", func(t *testing.T) {
		g := pieceGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: onlyToken("T"), Sources: wsguard.TokenSources{FirstMessage: true}},
			Caps: wsguard.CapConfig{MaxUnauthenticated: 2},
		})
		guarded := g.Handler(echo)
		h := g.Pieces().Cap.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for range 2 {
				if code := statusOf(guarded, r); code != 501 {
					t.Errorf("%d, want 501", code)
				}
			}
		}))
		for range 3 {
			h.ServeHTTP(httptest.NewRecorder(), handshakeOf(appOrigin))
		}
	})
	// The piece's handler returns while the Guard behind it still works.
	late := func(t *testing.T, g *wsguard.Guard, r func() *http.Request, hold, free func()) {
		guarded := g.Handler(echo)
		done := make(chan struct{})
		g.Pieces().Cap.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			go func() {
				defer close(done)
				statusOf(guarded, r)
			}()
			hold()
		})).ServeHTTP(httptest.NewRecorder(), r())
		free()
		<-done
		if n := g.Conns(); n != 0 {
			t.Errorf("%d slots are held, want 0", n)
		}
		if code := statusOf(guarded, r()); code != 501 {
			t.Errorf("the next handshake: %d, want 501", code)
		}
	}
	t.Run("subject after its end", func(t *testing.T) {
		asked, answer := make(chan struct{}, 2), make(chan struct{})
		g := pieceGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: func(context.Context, string) (wsguard.Principal, error) {
				asked <- struct{}{}
				<-answer
				return wsguard.Principal{Subject: "alice"}, nil
			}},
			Caps: wsguard.CapConfig{MaxConnsPerSubject: 1},
		})
		late(t, g, func() *http.Request { return handshakeOf(appOrigin, "Authorization", "Bearer T") }, func() { <-asked }, func() { close(answer) })
	})
	t.Run("unauthenticated after its end", func(t *testing.T) {
		asked, answer := make(chan struct{}, 2), make(chan struct{})
		g := pieceGuard(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: onlyToken("T"), Sources: wsguard.TokenSources{FirstMessage: true}},
			Caps: wsguard.CapConfig{MaxUnauthenticated: 1},
		})
		guarded := g.Handler(echo)
		done := make(chan struct{})
		g.Pieces().Cap.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			go func() {
				defer close(done)
				asked <- struct{}{}
				<-answer
				statusOf(guarded, r)
			}()
			<-asked
		})).ServeHTTP(httptest.NewRecorder(), handshakeOf(appOrigin))
		close(answer)
		<-done
		if code := statusOf(guarded, handshakeOf(appOrigin)); code != 501 {
			t.Errorf("the next handshake: %d, want 501", code)
		}
	})
}

// A revocation for longer stays; one that was undone does not count.
func TestRevokeAfterRevoke(t *testing.T) {
	guard := func(t *testing.T, s *wsguard.State, ttl time.Duration) *wsguard.Guard {
		return pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{
			Verifier: onlyToken("T"), RevocationTTL: ttl, Tickets: &wsguard.TicketConfig{TTL: time.Hour},
		}})
	}
	credential := func(g *wsguard.Guard) int {
		return statusOf(g.Handler(echo), handshakeOf(appOrigin, "Authorization", "Bearer T"))
	}
	t.Run("longer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := wsguard.NewState()
			long, short := guard(t, s, time.Hour), guard(t, s, time.Minute)
			long.Admin().Revoke("alice")
			short.Admin().Revoke("alice")
			time.Sleep(2 * time.Minute)
			if code := credential(short); code != 401 {
				t.Errorf("after two minutes: %d, want 401", code)
			}
			time.Sleep(time.Hour)
			if code := credential(short); code != 501 {
				t.Errorf("after more than an hour: %d, want 501", code)
			}
		})
	})
	t.Run("undone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := guard(t, wsguard.NewState(), time.Minute)
			g.Admin().Revoke("alice")
			g.Admin().Restore("alice")
			g.Admin().Revoke("alice")
			time.Sleep(2 * time.Minute)
			if code := credential(g); code != 501 {
				t.Errorf("after two minutes: %d, want 501", code)
			}
		})
	})
}

// Restore leaves the tickets void that were sold before the revocation, also those of
// another instance and those that live longer than the tickets sold now.
func TestRestoreLeavesTicketsVoid(t *testing.T) {
	t.Run("another instance", func(t *testing.T) {
		shared := store.NewOnce(0)
		instance := func() *wsguard.Guard {
			return pieceGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: onlyToken("T"), Tickets: &wsguard.TicketConfig{Store: shared}}})
		}
		a, b := instance(), instance()
		ticket := buyTicket(t, a)
		b.Admin().Revoke("alice")
		b.Admin().Restore("alice")
		if code := withTicket(b, ticket); code != 401 {
			t.Errorf("a ticket from before the revocation: %d, want 401", code)
		}
	})
	t.Run("longer life", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := wsguard.NewState()
			shop := func(ttl time.Duration) *wsguard.Guard {
				return pieceGuard(t, wsguard.Config{State: s, Auth: wsguard.AuthConfig{Verifier: onlyToken("T"), Tickets: &wsguard.TicketConfig{TTL: ttl}}})
			}
			long, short := shop(time.Hour), shop(time.Minute)
			ticket := buyTicket(t, long)
			buyTicket(t, short)
			short.Admin().Revoke("alice")
			short.Admin().Restore("alice")
			time.Sleep(2 * time.Minute)
			if code := withTicket(long, ticket); code != 401 {
				t.Errorf("a ticket from before the revocation: %d, want 401", code)
			}
		})
	})
}

// What the caller changes in its Config has no effect, also when an endpoint is added or
// reconfigured later.
func TestConfigIsCopied(t *testing.T) {
	anonymous := wsguard.AuthConfig{InsecureAnonymous: true}
	again := func(t *testing.T, g *wsguard.Guard) {
		t.Helper()
		if _, err := g.Endpoint(wsguard.EndpointConfig{}); err != nil {
			t.Error(err)
		}
	}
	t.Run("Hosts", func(t *testing.T) {
		hosts := []string{"example.com"}
		g := pieceGuard(t, wsguard.Config{Hosts: hosts, Auth: anonymous})
		hosts[0] = "other.example"
		again(t, g)
		if code := statusOf(g.Handler(echo), handshakeOf(appOrigin)); code != 501 {
			t.Errorf("%d, want 501", code)
		}
	})
	t.Run("Tickets", func(t *testing.T) {
		tickets := &wsguard.TicketConfig{}
		g := pieceGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: onlyToken("T"), Tickets: tickets}})
		tickets.Param = "other"
		again(t, g)
		if code := withTicket(g, buyTicket(t, g)); code != 501 {
			t.Errorf("%d, want 501", code)
		}
	})
	// A fault in a Table that was changed after it was given would be found when all
	// endpoints are compiled again.
	const bad = "no pointer"
	messages := func() (wsguard.MessageConfig, []*wsguard.Table) {
		tables := []*wsguard.Table{{Types: map[string]wsguard.Rule{"a": {}}}, {Types: map[string]wsguard.Rule{"a": {}}}}
		return wsguard.MessageConfig{Validator: tables[0], Validators: map[string]wsguard.Validator{"chat": tables[1]}}, tables
	}
	spoil := map[string]func(*wsguard.MessageConfig, []*wsguard.Table){
		"Pointer": func(_ *wsguard.MessageConfig, tables []*wsguard.Table) { tables[0].Pointer = bad },
		"Types": func(_ *wsguard.MessageConfig, tables []*wsguard.Table) {
			tables[0].Types["a"] = wsguard.Rule{MaxBytes: -2}
		},
		"Validators' Pointer": func(_ *wsguard.MessageConfig, tables []*wsguard.Table) { tables[1].Pointer = bad },
		"Validators": func(m *wsguard.MessageConfig, _ []*wsguard.Table) {
			m.Validators["other"] = &wsguard.Table{Pointer: bad}
		},
	}
	for name, spoil := range spoil {
		t.Run(name, func(t *testing.T) {
			own, ownTables := messages()
			g := pieceGuard(t, wsguard.Config{Auth: anonymous, Subprotocols: []string{"chat"}, Messages: own})
			spoil(&own, ownTables)
			again(t, g)

			added, addedTables := messages()
			e, err := g.Endpoint(wsguard.EndpointConfig{Subprotocols: []string{"chat"}, Messages: added})
			if err != nil {
				t.Fatal(err)
			}
			spoil(&added, addedTables)
			again(t, g)

			newer, newerTables := messages()
			if err := e.Reconfigure(wsguard.EndpointConfig{Subprotocols: []string{"chat"}, Messages: newer}); err != nil {
				t.Fatal(err)
			}
			spoil(&newer, newerTables)
			again(t, g)
		})
	}
	t.Run("nil Table", func(t *testing.T) {
		defer func() {
			if v := recover(); v != nil {
				t.Errorf("New panicked: %v", v)
			}
		}()
		wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: anonymous, Messages: wsguard.MessageConfig{Validator: (*wsguard.Table)(nil)}})
	})
}

// An endpoint's configuration with a fault leaves the one before it.
func TestEndpointFaultLeavesConfig(t *testing.T) {
	cfg := wsguard.Config{Origins: []string{appOrigin}, InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{InsecureAnonymous: true}}
	g := pieceGuard(t, cfg)
	e, err := g.Endpoint(wsguard.EndpointConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Reconfigure(wsguard.EndpointConfig{Subprotocols: []string{"no token"}}); err == nil {
		t.Fatal("a fault is not found")
	}
	if err := g.Reconfigure(cfg); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A piece that stands alone bounds how many credentials it asks about at once.
func TestAuthenticatorAloneInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		a, err := wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{
			VerifyTimeout: time.Hour,
			Verifier: func(context.Context, string) (wsguard.Principal, error) {
				<-answer
				return wsguard.Principal{Subject: "alice"}, nil
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var refused []error
		var all sync.WaitGroup
		ask := func(addr string) {
			all.Go(func() {
				if _, err := a.Authenticate(fromAddr(handshakeOf("", "Authorization", "Bearer T"), addr)); err != nil {
					mu.Lock()
					defer mu.Unlock()
					refused = append(refused, err)
				}
			})
		}
		count := func(want int) {
			t.Helper()
			time.Sleep(1100 * time.Millisecond) // after the patience of those that wait
			mu.Lock()
			defer mu.Unlock()
			if len(refused) != want || slices.ContainsFunc(refused, func(err error) bool { return !errors.Is(err, reason.InFlight) }) {
				t.Errorf("%d are refused, want %d: %v", len(refused), want, refused)
			}
		}
		for range 9 {
			ask("192.0.2.1:1")
		}
		count(1)
		for i := range 256 - 8 {
			ask(fmt.Sprintf("198.51.100.%d:1", i))
		}
		count(1)
		ask("192.0.2.2:1")
		count(2)
		close(answer)
		all.Wait()
	})
}

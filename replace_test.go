package wsguard_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

func replacing(cfg wsguard.Config) wsguard.Config {
	cfg.Auth.Verifier = anyone
	cfg.Caps.MaxConnsPerSubject, cfg.Caps.ReplaceOldest = 2, true
	cfg.Timeouts.PingInterval = wsguard.Off
	return cfg
}

// The oldest connection of a full subject makes room for a newcomer that has passed every
// check, at most once in 2 s.
func TestReplaceOldest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		refuse := false
		e := serveGuard(t, replacing(wsguard.Config{Attach: func(*http.Request, wsguard.Principal) (any, error) {
			if refuse {
				return nil, errors.New("no")
			}
			return nil, nil
		}}))
		oldest := e.open(bearer("alice"))
		time.Sleep(time.Second)
		second := e.open(bearer("alice"))
		e.open(bearer("bob"))
		refuse = true
		e.refused(bearer("alice"), 403, "forbidden")
		roundTrip(t, oldest, "still here") // the newcomer did not pass Attach
		refuse = false
		third := e.open(bearer("alice"))
		wantClose(t, oldest, 1008, "replaced")
		e.refused(bearer("alice"), 429, "max_subject_conns") // too early
		time.Sleep(2 * time.Second)
		fourth := e.open(bearer("alice"))
		wantClose(t, second, 1008, "replaced")
		roundTrip(t, third, "hello")
		roundTrip(t, fourth, "hello")
	})
}

// The slot passes over at once. The old handler counts against MaxConns until it returns.
func TestReplaceOldestSlots(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		cfg := replacing(wsguard.Config{})
		cfg.Caps.MaxConns = 4
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				c.CloseRead()
				<-ctx.Done()
				<-release
				return nil
			})
		})
		for i := range 4 { // the third and the fourth replace the first and the second
			e.open(bearer("alice"))
			synctest.Wait() // until its handler runs
			if i >= 2 {
				time.Sleep(2 * time.Second)
			}
		}
		synctest.Wait()
		if n := e.g.Conns(); n != 4 {
			t.Errorf("%d slots are held, want 4", n)
		}
		e.refused(bearer("bob"), 503, "max_conns")
		close(release)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		if n := e.g.Conns(); n != 2 {
			t.Errorf("%d slots are held, want 2", n)
		}
	})
}

// Many newcomers at once replace one connection, and the first message replaces as well.
func TestReplaceOldestRace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := replacing(wsguard.Config{})
		cfg.Auth.Sources = wsguard.TokenSources{Header: true, FirstMessage: true}
		cfg.Rates.MaxInFlightPerClient = wsguard.Off
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
		old := []*wstest.Client{e.open(bearer("alice")), e.open(bearer("alice"))}
		synctest.Wait() // until both are open
		got := tries(e, 20, func(int) http.Header { return bearer("alice") })
		if got["101"] != 1 || got["Too Many Requests: max_subject_conns"] != 19 {
			t.Errorf("%v", got)
		}
		wantClose(t, old[0], 1008, "replaced")
		time.Sleep(2 * time.Second)
		c := e.open(header())
		c.WriteFrame(first("alice"))
		roundTrip(t, c, "hello")
		wantClose(t, old[1], 1008, "replaced")
	})
}

// A cap in front leaves the choice to the Guard behind, and one that stands alone refuses the
// setting.
func TestReplaceOldestPieces(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveWith(t, replacing(wsguard.Config{}), func(g *wsguard.Guard) http.Handler {
		p := g.Pieces()
		return p.Auth.Handler(p.Cap.Handler(echoDoor(g)))
	})
	oldest := e.open(bearer("alice"))
	e.open(bearer("alice"))
	e.events.wait(t, audit.Open, 2) // the 101 arrives before the open event, and only what is open is replaced
	e.open(bearer("alice"))
	wantClose(t, oldest, 1008, "replaced")
	var fault *wsguard.ConfigError
	if _, err := wsguard.NewConnCap(wsguard.Config{Caps: wsguard.CapConfig{ReplaceOldest: true}}); !errors.As(err, &fault) || fault.Field != "Caps.ReplaceOldest" {
		t.Errorf("%v", err)
	}
}

// A handshake that a cap or a rate refuses gets its ticket back, for what is left of its life.
func TestTicketIsPutBack(t *testing.T) {
	for name, store := range map[string]*outsideStore{"memory": nil, "store": {}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cfg := wsguard.Config{Caps: wsguard.CapConfig{MaxConnsPerSubject: 1}, Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{MaxPerSubject: 2}}}
				cfg.Auth.Verifier = anyone
				if store != nil {
					cfg.Auth.Tickets.Store = store
				}
				e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return ticketMux(g) })
				open := func() *wstest.Client {
					c, _ := e.tryWith(wstest.HandshakeOptions{Path: "/ws", Header: bearer("alice")})
					return c
				}
				c := open()
				token := e.buy(bearer("alice"))
				use := func(want int, reason string) *wstest.Client {
					t.Helper()
					c, res := e.tryWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + token, Header: header()})
					if res.StatusCode != want || want != 101 && !strings.HasSuffix(body(t, res), reason) {
						t.Errorf("%s, want %d %s; %s", res.Status, want, reason, e.events)
					}
					return c
				}
				for range 5 {
					use(429, "max_subject_conns")
				}
				// It still counts as one of its subject's.
				e.buy(bearer("alice"))
				if res := e.request("POST", "/ticket", bearer("alice")); res.StatusCode != 429 {
					t.Errorf("a third ticket: %s", res.Status)
				}
				bye(c)
				synctest.Wait()
				bye(use(101, ""))
				use(401, "unauthenticated")
				// It does not live longer than it would have.
				time.Sleep(30 * time.Second)
				c = open()
				token = e.buy(bearer("alice"))
				time.Sleep(20 * time.Second)
				use(429, "max_subject_conns")
				time.Sleep(11 * time.Second)
				use(401, "unauthenticated")
				bye(c)
			})
		})
	}
}

// outsideStore is a store of tickets outside of the Guard.
type outsideStore struct {
	mu  sync.Mutex
	all map[string]string
}

func (s *outsideStore) Put(_ context.Context, key string, value []byte, ttl time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]string{}
	}
	s.all[key] = string(value)
	return nil
}

func (s *outsideStore) Take(_ context.Context, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.all[key]
	delete(s.all, key)
	return []byte(v), ok, nil
}

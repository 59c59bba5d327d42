package wsguard_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// A trusted proxy that does not name the client is reported, and the handshake is
// judged as one of the proxy itself.
func TestNoClientHeader(t *testing.T) {
	trust := func(header string) func(*wsguard.Config) {
		return func(cfg *wsguard.Config) { cfg.Proxies.Header = header }
	}
	for _, tt := range []struct {
		name   string
		change func(*wsguard.Config)
		header []string
		want   string // in the detail; "": no warning
	}{
		{"absent", trust(""), nil, "sent no X-Forwarded-For"},
		{"another header", trust(""), []string{"X-Real-Ip", "192.0.2.1"}, "sent no X-Forwarded-For"},
		{"unreadable", trust(""), []string{"X-Forwarded-For", "192.0.2.1, unknown"}, "no readable address at the end of X-Forwarded-For"},
		{"named", trust(""), []string{"X-Forwarded-For", "192.0.2.1"}, ""},
		{"the proxy is the client", trust(""), []string{"X-Forwarded-For", "127.0.0.1"}, ""},
		{"absent, single", trust("X-Real-IP"), []string{"X-Forwarded-For", "192.0.2.1"}, "sent no X-Real-IP"},
		{"twice, single", trust("X-Real-IP"), []string{"X-Real-Ip", "192.0.2.1", "X-Real-Ip", "192.0.2.2"}, "not exactly one address in X-Real-IP"},
		{"named, single", trust("X-Real-IP"), []string{"X-Real-Ip", "192.0.2.1"}, ""},
		{"absent, Forwarded", func(cfg *wsguard.Config) { cfg.Proxies.Header, cfg.InsecureAllowHTTP = "Forwarded", true }, nil, "sent no Forwarded"},
		{"no proxy is trusted", func(cfg *wsguard.Config) { cfg.Proxies.Trusted, cfg.InsecureAllowHTTP = nil, true }, nil, ""},
		{"clients with names", func(cfg *wsguard.Config) {
			cfg.Proxies.ClientName = func(*http.Request) string { return "acme" }
		}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fairUse(t, tt.change, func(t *testing.T, f *fair) {
				c := f.s.Dial(t)
				if res, err := c.Handshake("/", header(append([]string{"X-Forwarded-Proto", "https"}, tt.header...)...)); err != nil || res.StatusCode != 101 {
					t.Fatalf("%v, %v", res, err)
				}
				ws := f.events.of(audit.Warning)
				if tt.want == "" {
					if len(ws) > 0 {
						t.Errorf("%+v", ws)
					}
					return
				}
				if len(ws) != 1 || ws[0].Reason != "no_client_header" || ws[0].Client != "127.0.0.1" ||
					!strings.Contains(ws[0].Detail, tt.want) || !strings.Contains(ws[0].Detail, "127.0.0.1") {
					t.Errorf("%+v", ws)
				}
			})
		})
	}
}

// The warning comes at most once a minute.
func TestNoClientHeaderSampled(t *testing.T) {
	fairUse(t, func(*wsguard.Config) {}, func(t *testing.T, f *fair) {
		count := func() int { return len(f.events.of(audit.Warning)) }
		for range 20 {
			f.want(101, "").Close()
		}
		if n := count(); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
		time.Sleep(59 * time.Second)
		f.want(101, "").Close()
		if n := count(); n != 1 {
			t.Errorf("%d warnings after 59 s, want 1", n)
		}
		time.Sleep(time.Second)
		f.want(101, "").Close()
		f.want(101, "").Close()
		if n := count(); n != 2 {
			t.Errorf("%d warnings after 60 s, want 2", n)
		}
	})
}

// A proxy that asks whether the server is alive has no client to name. The sale of
// a ticket has one.
func TestNoClientHeaderRequests(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, tt := range []struct {
		name, method string
		handler      func(*wsguard.Guard) http.Handler
		warnings     int
	}{
		{"a GET of the endpoint", "GET", func(g *wsguard.Guard) http.Handler { return g.Handler(echo) }, 0},
		{"a HEAD of the endpoint", "HEAD", func(g *wsguard.Guard) http.Handler { return g.Handler(echo) }, 0},
		{"a GET of what is wrapped", "GET", func(g *wsguard.Guard) http.Handler { return g.Wrap(ok) }, 0},
		{"a GET behind the piece Auth", "GET", func(g *wsguard.Guard) http.Handler { return g.Pieces().Auth.Handler(ok) }, 0},
		{"a GET behind the piece Cap", "GET", func(g *wsguard.Guard) http.Handler { return g.Pieces().Cap.Handler(ok) }, 0},
		{"a GET of the tickets", "GET", func(g *wsguard.Guard) http.Handler { return g.TicketHandler(nil) }, 0},
		{"the sale of a ticket", "POST", func(g *wsguard.Guard) http.Handler { return g.TicketHandler(nil) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Tickets: &wsguard.TicketConfig{}}}
			cfg.Proxies.Trusted = []string{"10.0.0.0/8"}
			e := newEnv(t, cfg)
			r := httptest.NewRequest(tt.method, "/", nil)
			r.RemoteAddr = "10.0.0.1:1"
			r.Header.Set("X-Forwarded-Proto", "https")
			tt.handler(e.g).ServeHTTP(httptest.NewRecorder(), r)
			if ws := e.events.of(audit.Warning); len(ws) != tt.warnings {
				t.Errorf("%+v", ws)
			}
		})
	}
}

var ok = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

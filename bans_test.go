package wsguard_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// A client that ClientName has named can be banned and lifted whatever its name looks like.
func TestBansOfNames(t *testing.T) {
	names := []string{"42", "acme/eu", "10.0.0.7", "10.0.0.0/8", "2001:db8::1", "1.2", "a:b", "deadbeef", "ü"}
	fairUse(t, func(cfg *wsguard.Config) {
		penalties(cfg)
		cfg.Proxies.ClientName = func(r *http.Request) string { return r.Header.Get("X-Tenant") }
	}, func(t *testing.T, f *fair) {
		admin := f.g.Admin()
		for _, name := range names {
			good := []string{"Authorization", "Bearer alice - 0s", "X-Tenant", name}
			if err := admin.Ban(name, time.Hour, "by hand"); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			f.want(429, "198.51.100.1", good...)
			bans := admin.Bans()
			if len(bans) != 1 {
				t.Errorf("%s: %+v", name, bans)
			}
			for _, b := range bans {
				if !admin.Lift(b.Client) {
					t.Errorf("%s: Lift(%q) does nothing", name, b.Client)
				}
			}
			f.want(101, "198.51.100.1", good...).Close()
			if len(admin.Bans()) > 0 {
				t.Errorf("%s: %+v are left", name, admin.Bans())
			}
			// Bans of its own making can be lifted as well.
			for i := range 8 {
				f.from("198.51.100.1", "Authorization", "Bearer junk"+itoa(i), "X-Tenant", name)
			}
			if bans = admin.Bans(); len(bans) != 1 || !admin.Lift(bans[0].Client) {
				t.Errorf("%s: by its violations %+v", name, bans)
			}
			f.want(101, "198.51.100.1", good...).Close()
		}
		// What looks like a mistyped address is no name.
		for _, typo := range []string{"192.0.2.300", "10.0.0.0/08", "2001:db8::/129", "2001:db8::g", ""} {
			if admin.Ban(typo, time.Hour, "") == nil {
				t.Errorf("%q is banned", typo)
			}
		}
		// An address is banned with the name that is the same.
		admin.Ban("10.0.0.7", time.Hour, "")
		f.want(429, "10.0.0.7", "X-Tenant", "other")
		f.want(429, "10.0.0.8", "X-Tenant", "10.0.0.7")
	})
}

// Without ClientName a name is an error.
func TestBanWithoutNames(t *testing.T) {
	fairUse(t, func(*wsguard.Config) {}, func(t *testing.T, f *fair) {
		if f.g.Admin().Ban("acme", time.Hour, "") == nil || f.g.Admin().Lift("acme") {
			t.Error("a name is taken")
		}
	})
}

// A ban wins against a handshake that is being verified, attached or sent first.
func TestBanDuringVerification(t *testing.T) {
	for _, where := range []string{"Verifier", "Attach", "first message"} {
		bubble(t, func(t *testing.T) {
			in, out := make(chan struct{}), make(chan struct{})
			pause := func(name string) {
				if name == where {
					in <- struct{}{}
					<-out
				}
			}
			cfg := proxied(wsguard.Config{
				Auth: wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
					pause("Verifier")
					pause("first message")
					return anyone(ctx, token)
				}},
				Attach: func(*http.Request, wsguard.Principal) (any, error) { pause("Attach"); return nil, nil },
			})
			h := from("192.0.2.1", "Authorization", "Bearer alice")
			if where == "first message" {
				cfg.Auth.Sources.FirstMessage = true
				h = from("192.0.2.1")
			}
			e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
			go func() {
				<-in
				e.g.Admin().Ban("192.0.2.1", time.Hour, "")
				close(out)
			}()
			c, res := e.try(h)
			if where == "first message" {
				c.WriteFrame(first("alice"))
				wantClose(t, c, 1013, "banned")
			} else if b := body(t, res); res.StatusCode != 429 || b != "Too Many Requests: banned" {
				t.Errorf("%s: %d %s", where, res.StatusCode, b)
			}
			synctest.Wait()
			time.Sleep(5 * time.Second)
			if e.g.Conns() != 0 {
				t.Errorf("%s: a slot is held", where)
			}
		})
	}
}

// A client behind NAT64 is the IPv4 host inside. It gets no rights of that address.
func TestClientBehindNAT64(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Caps.MaxConnsPerClient = 1
		cfg.Proxies.Trusted = append(cfg.Proxies.Trusted, "10.0.0.0/8")
	}, func(t *testing.T, f *fair) {
		f.want(101, "64:ff9b::192.0.2.1")
		f.want(429, "64:ff9b::192.0.2.1")
		f.want(429, "192.0.2.1")
		f.want(101, "64:ff9b::192.0.2.2") // another host in the same /64 and /48
		f.g.Admin().Ban("192.0.2.3", time.Hour, "")
		f.want(429, "64:ff9b::c000:203")
		f.g.Admin().Lift("64:ff9b::c000:203")
		f.want(101, "64:ff9b::c000:203")
		// It is no trusted proxy, whose clients are told apart by the next address.
		f.want(101, "192.0.2.9, 64:ff9b::10.0.0.1")
		f.want(429, "192.0.2.9, 64:ff9b::10.0.0.1")
		f.want(101, "192.0.2.9")
		// 64:ff9b:1::/48, the next one, is no NAT64: one client is one /64.
		f.want(101, "64:ff9b:1::1")
		f.want(429, "64:ff9b:1::2")
	})
}

// Reports of a piece name the client past the proxies.
func TestReportsNameTheClient(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) { cfg.InsecureReportOnlyOrigins = true }, func(t *testing.T, f *fair) {
		f.want(101, "192.0.2.1", "Origin", "https://evil.example")
		for _, ev := range f.events.of(audit.Violation) {
			if ev.Client != "192.0.2.1" || ev.Reason != reason.Origin.Token() {
				t.Errorf("%+v", ev)
			}
		}
	})
}

// Refusals at a cap that stands in front count towards a ban, unless a foreign page has made
// the browser connect.
func TestPenaltiesAtTheCapInFront(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := proxied(wsguard.Config{Caps: wsguard.CapConfig{MaxConnsPerClient: 1}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}})
		cfg.Penalties = wsguard.PenaltyConfig{Violations: wsguard.Rate{PerSecond: 0.01, Burst: 5}}
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return g.Pieces().Cap.Handler(echoDoor(g)) })
		e.open(from("192.0.2.1"))
		for range 20 {
			e.refused(from("192.0.2.1", "Origin", "https://evil.example"), 429, "max_client_conns")
		}
		if b := e.g.Admin().Bans(); len(b) > 0 {
			t.Errorf("a foreign page: %+v", b)
		}
		for range 6 {
			e.refused(from("192.0.2.1"), 429, "max_client_conns")
		}
		if b := e.g.Admin().Bans(); len(b) != 1 || b[0].Reason != "max_client_conns" {
			t.Errorf("%+v", b)
		}
	})
}

// Messages on a connection of a page that only InsecureAnyOrigin admits have no weight, because
// any page could have its visitors banned.
func TestPenaltiesUnderAnyOrigin(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.InsecureAnyOrigin = true
		cfg.Penalties = wsguard.PenaltyConfig{Violations: wsguard.Rate{PerSecond: 0.01, Burst: 5}}
	}, func(t *testing.T, f *fair) {
		offend := func(origin string) {
			for range 10 {
				c, res := f.from("192.0.2.1", "Origin", origin)
				if res.StatusCode == 101 {
					c.Write([]byte{0xff, 0xff})
					c.ReadClose()
				}
				c.Close()
			}
		}
		offend("https://evil.example")
		if b := f.g.Admin().Bans(); len(b) > 0 {
			t.Errorf("%+v", b)
		}
		offend(appOrigin)
		if b := f.g.Admin().Bans(); len(b) != 1 {
			t.Errorf("a listed page: %+v", b)
		}
	})
}

package wsguard_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// Messages of a dear type that are delayed come at the rate.
func TestTableCostDelayed(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		noRates(cfg)
		cfg.Rates.Messages = wsguard.Rate{PerSecond: 2, Burst: 4}
		cfg.Rates.Action = wsguard.ActionDelay
		cfg.Messages.Validator = &wsguard.Table{Types: map[string]wsguard.Rule{"x": {Cost: 4}}}
	}, func(t *testing.T, f *fair) {
		c := f.want(101, "192.0.2.1")
		start := time.Now()
		var all []byte
		for range 20 {
			all = wstest.AppendFrame(all, wstest.Text(`{"type":"x"}`))
		}
		go c.Write(all)
		for range 20 {
			if _, _, err := c.ReadMessage(); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(start) < 37*time.Second {
			t.Error("rate exceeded")
		}
	})
}

// What an administrator does is no offence of the client.
func TestPenaltiesNotForRevoke(t *testing.T) {
	fairUse(t, penalties, func(t *testing.T, f *fair) {
		for range 6 {
			f.want(101, "192.0.2.1", "Authorization", "Bearer alice - 0s")
		}
		f.g.Admin().Revoke("alice")
		synctest.Wait()
		if b := f.g.Admin().Bans(); len(b) > 0 {
			t.Errorf("%+v", b)
		}
	})
}

// Nor is a message that is refused after the end: what it asked for may have been
// forbidden because of it.
func TestPenaltiesNotAfterTheEnd(t *testing.T) {
	var g *wsguard.Guard
	fairUse(t, func(cfg *wsguard.Config) {
		penalties(cfg)
		cfg.Messages.OnForbidden = wsguard.ActionReply
		cfg.Messages.Authorize = func(_ context.Context, _ wsguard.Principal, _ string, msg []byte) error {
			if string(msg) == "kick" {
				for s := range g.Admin().Sessions() {
					g.Admin().Kick(s.ID, 0, "")
				}
			}
			return wsguard.ErrForbidden
		}
	}, func(t *testing.T, f *fair) {
		g = f.g
		for _, tt := range []struct {
			msg  string
			bans int
		}{{"kick", 0}, {"no", 1}} {
			for range 8 {
				c, res := f.from("192.0.2.1", "Authorization", "Bearer alice - 0s")
				if res.StatusCode != 101 {
					break // the ban
				}
				c.WriteFrame(wstest.Text(tt.msg))
				synctest.Wait()
				c.Close()
				synctest.Wait()
			}
			if b := f.g.Admin().Bans(); len(b) != tt.bans {
				t.Errorf("%s: %+v, want %d", tt.msg, b, tt.bans)
			}
			if vs := f.events.of(audit.Violation); len(vs) > 0 != (tt.bans > 0) {
				t.Errorf("%s: %+v", tt.msg, vs)
			}
		}
	})
}

// What is owed keeps its part of the bucket when the rate changes.
func TestPenaltiesReconfigured(t *testing.T) {
	fairUse(t, penalties, func(t *testing.T, f *fair) {
		cfg := f.cfg
		f.want(401, "192.0.2.1", "Authorization", "Bearer junk")
		cfg.Penalties.Violations = wsguard.Rate{PerSecond: 1, Burst: 20}
		cfg.OnEvent, cfg.Logger = nil, nil
		f.reconfigure(cfg)
		f.want(401, "192.0.2.1", "Authorization", "Bearer junk")
		if b := f.g.Admin().Bans(); len(b) > 0 {
			t.Errorf("two offences, burst 20: %+v", b)
		}
	})
}

// Violations that have not led to a ban yet outlast a Reconfigure, also one that
// switches the penalties off for a time. Lift forgets them, of exactly that client.
func TestPenaltiesOwedAndLifted(t *testing.T) {
	fairUse(t, penalties, func(t *testing.T, f *fair) {
		cfg := f.cfg
		bad := []string{"Authorization", "Bearer junk"}
		first := []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"}
		for _, addr := range first {
			for range 5 {
				f.want(401, addr, bad...)
			}
		}
		cfg.OnEvent, cfg.Logger = nil, nil
		on := cfg.Penalties
		for _, p := range []wsguard.PenaltyConfig{{}, on} {
			cfg.Penalties = p
			f.reconfigure(cfg)
		}
		if f.g.Admin().Lift("192.0.2.1") || f.g.Admin().Lift("2001:db8::/64") {
			t.Error("lifted what was not banned")
		}
		for _, addr := range first {
			f.want(401, addr, bad...)
		}
		var banned []string
		for _, b := range f.g.Admin().Bans() {
			banned = append(banned, b.Client)
		}
		slices.Sort(banned)
		if want := []string{"192.0.2.2", "2001:db8:0:1::/64"}; !slices.Equal(banned, want) {
			t.Errorf("banned %v, want %v", banned, want)
		}
	})
}

// What all together have used up is nobody's offence.
func TestPenaltiesNotForShared(t *testing.T) {
	hang := make(chan struct{})
	fairUse(t, func(cfg *wsguard.Config) {
		penalties(cfg)
		cfg.Rates.MaxInFlight = 1
		cfg.Auth.Verifier = func(ctx context.Context, tok string) (wsguard.Principal, error) {
			<-ctx.Done()
			return wsguard.Principal{}, ctx.Err()
		}
		cfg.Auth.VerifyTimeout = time.Hour
	}, func(t *testing.T, f *fair) {
		a := f.dial()
		go a.Handshake("/", from("203.0.113.9", "Authorization", "Bearer slow"))
		synctest.Wait()
		for range 6 {
			f.want(503, "192.0.2.1", "Authorization", "Bearer alice - 0s")
		}
		if b := f.g.Admin().Bans(); len(b) > 0 {
			t.Errorf("%+v", b)
		}
		a.Close()
		close(hang)
	})
}

// A limit of what is sent can be switched off and on under an open connection.
func TestReconfigureSentBytes(t *testing.T) {
	fairUse(t, func(c *wsguard.Config) {
		noRates(c)
		c.Rates.SentBytes = wsguard.Rate{PerSecond: 1, Burst: 10}
	}, func(t *testing.T, f *fair) {
		cfg := f.cfg
		c := f.want(101, "192.0.2.1")
		roundTrip(t, c, strings.Repeat("x", 100))
		synctest.Wait()
		cfg.Rates.SentBytes = wsguard.Rate{PerSecond: wsguard.Off}
		f.reconfigure(cfg)
		roundTrip(t, c, "off now")
	})
	fairUse(t, noRates, func(t *testing.T, f *fair) {
		cfg := f.cfg
		c := f.want(101, "192.0.2.1")
		roundTrip(t, c, "x")
		cfg.Rates.SentBytes = wsguard.Rate{PerSecond: 1, Burst: 10}
		f.reconfigure(cfg)
		roundTrip(t, c, strings.Repeat("x", 1000))
		synctest.Wait()
		c.WriteFrame(wstest.Text("x"))
		wantClose(t, c, 1008, "rate_limited")
	})
}

// The first message after a Reconfigure is judged by it, from its header on.
func TestReconfigureFirstMessage(t *testing.T) {
	fairUse(t, func(c *wsguard.Config) { noRates(c); c.Messages.MaxBytes = 10 }, func(t *testing.T, f *fair) {
		cfg := f.cfg
		c := f.want(101, "192.0.2.1")
		roundTrip(t, c, "x")
		cfg.Messages = wsguard.MessageConfig{MaxBytes: 1000}
		f.reconfigure(cfg)
		c.WriteFrame(wstest.Text(strings.Repeat("x", 100)))
		typ, msg, err := c.ReadMessage()
		if err != nil {
			t.Error("larger allowed:", typ, string(msg), err)
		}
	})
	fairUse(t, noRates, func(t *testing.T, f *fair) {
		cfg := f.cfg
		c := f.want(101, "192.0.2.1")
		cfg.Messages = wsguard.MessageConfig{MaxBytes: 10}
		f.reconfigure(cfg)
		c.WriteFrame(wstest.Text(strings.Repeat("x", 100)))
		wantClose(t, c, 1009, "message_too_big")
	})
}

// A Refresh when Reconfigure has left nobody to ask.
func TestRefreshWithoutVerifier(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(c *wsguard.Config) { c.Auth = wsguard.AuthConfig{Verifier: onlyToken("one")} }))
		cfg := e.cfg
		got := make(chan any, 1)
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			c.Read(ctx)
			defer func() { got <- recover() }()
			c.Refresh(ctx, "one")
			return nil
		}))
		c := e.dial()
		res, _ := c.Handshake("/", http.Header{"Origin": {appOrigin}, "Authorization": {"Bearer one"}})
		if res.StatusCode != 101 {
			t.Fatal(res.StatusCode)
		}
		cfg.Auth = wsguard.AuthConfig{InsecureAnonymous: true}
		e.reconfigure(cfg)
		c.WriteFrame(wstest.Text("x"))
		if v := <-got; v != nil {
			t.Error("Refresh panics:", v)
		}
		c.Close()
	})
}

// A first message that is no credential is the application's, where that is only reported.
func TestReportOnlyFirstMessage(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Auth = wsguard.AuthConfig{Verifier: logins, InsecureReportOnly: true, Sources: wsguard.TokenSources{FirstMessage: true}}
	}, func(t *testing.T, f *fair) {
		c := f.want(101, "192.0.2.1")
		c.Timeout = time.Minute
		roundTrip(t, c, "hello")
		code, why, err := c.ReadClose()
		if err == nil && code != 1000 {
			t.Error("an old client in report only mode:", code, why)
		}
	})
}

// A nil schema in a Rule is a fault.
func TestTableNilSchema(t *testing.T) {
	var s *wsguard.Schema
	_, err := wsguard.New(wsguard.Config{Origins: []string{"https://a.example"}, Auth: wsguard.AuthConfig{InsecureAnonymous: true},
		Messages: wsguard.MessageConfig{Validator: &wsguard.Table{Types: map[string]wsguard.Rule{"x": {Validator: s}}}}})
	if err == nil {
		t.Error("nil *Schema in a Rule is accepted")
	}
}

// The cap on those who owe a credential is reported, too.
func TestReportOnlyUnauthenticated(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Auth = wsguard.AuthConfig{Verifier: logins, Sources: wsguard.TokenSources{FirstMessage: true}}
		cfg.Caps = wsguard.CapConfig{MaxUnauthenticated: 1, ReportOnly: true}
	}, func(t *testing.T, f *fair) {
		f.want(101, "192.0.2.1")
		f.want(101, "192.0.2.2")
		if len(f.events.of(audit.Violation)) == 0 {
			t.Error("nothing reported")
		}
	})
}

// Bans that are over take no room, of their lengths either.
func TestBanLengths(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {}, func(t *testing.T, f *fair) {
		for i := 10; i < 26; i++ {
			if err := f.g.Admin().Ban("10.0.0.0/"+itoa(i), time.Second, ""); err != nil {
				t.Fatal(i, err)
			}
		}
		time.Sleep(time.Hour)
		if err := f.g.Admin().Ban("192.0.2.1", time.Second, ""); err != nil {
			t.Error("no ban holds, but:", err)
		}
	})
}
func itoa(i int) string { return string([]byte{byte('0' + i/10), byte('0' + i%10)}) }

// Who is sent too much is not listened to, but has not offended.
func TestPenaltiesNotForSent(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		penalties(cfg)
		cfg.Rates.SentBytes = wsguard.Rate{PerSecond: 1, Burst: 10}
		cfg.Rates.Action = wsguard.ActionReply
	}, func(t *testing.T, f *fair) {
		c := f.want(101, "192.0.2.1", "Authorization", "Bearer alice - 0s")
		roundTrip(t, c, strings.Repeat("x", 100))
		synctest.Wait()
		for range 7 {
			c.WriteFrame(wstest.Text("x"))
			c.ReadMessage()
		}
		synctest.Wait()
		if b := f.g.Admin().Bans(); len(b) > 0 {
			t.Errorf("%+v", b)
		}
	})
}

// A long name is banned under what it is known by.
func TestBanLongName(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Proxies.ClientName = func(r *http.Request) string { return r.Header.Get("X-Tenant") }
	}, func(t *testing.T, f *fair) {
		n := strings.Repeat("n", 200)
		f.g.Admin().Ban(n, time.Hour, "")
		f.want(429, "192.0.2.1", "X-Tenant", n)
		for _, typo := range []string{"10.0.0.0/08", "192.0.2.300", "2001:db8::/129", "2001:db8::g"} {
			if f.g.Admin().Ban(typo, time.Hour, "") == nil {
				t.Errorf("%s is taken for a name", typo)
			}
		}
	})
}

// A piece of the Guard's in front knows of bans, and tells of offences.
func TestPenaltiesOfPieces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		asked := 0
		e := newEnv(t, conf(noHandshakeLimits, func(c *wsguard.Config) {
			c.Proxies.Trusted = []string{"127.0.0.1"}
			penalties(c)
			c.Auth.Verifier = func(ctx context.Context, tok string) (wsguard.Principal, error) { asked++; return logins(ctx, tok) }
		}))
		p := e.g.Pieces()
		e.serve(p.Auth.Handler(echoDoor(e.g)))
		whole := wstest.ServePipe(t, p.Origin.Handler(p.Auth.Handler(echoDoor(e.g))))
		for _, tt := range []struct {
			s      *wstest.Server
			origin string
			bans   int
		}{
			{e.s, "https://evil.test", 0}, // the piece asks the origin step, and refuses nothing for it
			{whole, "https://evil.test", 0},
			{e.s, appOrigin, 1},
			{whole, appOrigin, 1},
		} {
			for range 20 {
				c := tt.s.Dial(t)
				c.Handshake("/", from("192.0.2.1", "Authorization", "Bearer junk", "Origin", tt.origin))
				c.Close()
			}
			if n := len(e.g.Admin().Bans()); n != tt.bans {
				t.Errorf("%+v: %d bans", tt, n)
			}
		}
		e.g.Admin().Ban("192.0.2.1", time.Hour, "")
		asked = 0
		c := e.dial()
		res, _ := c.Handshake("/", from("192.0.2.1", "Authorization", "Bearer junk"))
		c.Close()
		if res.StatusCode != 429 || asked > 0 {
			t.Errorf("%d, and the verifier was asked %d times for a banned client", res.StatusCode, asked)
		}
	})
}

// Guessing at the ticket handler counts as well; and handshakes can only be reported.
func TestPenaltiesOfTickets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noHandshakeLimits, func(c *wsguard.Config) {
			c.Proxies.Trusted = []string{"127.0.0.1"}
			penalties(c)
			c.Auth.Tickets = &wsguard.TicketConfig{}
			c.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 1}
			c.Rates.ReportOnly = true
		}))
		e.serve(e.g.TicketHandler(nil))
		var codes []int
		for range 8 {
			c := e.dial()
			res, err := c.HandshakeWith(wstest.HandshakeOptions{Method: "POST", Header: from("192.0.2.1", "Authorization", "Bearer junk")})
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, res.StatusCode)
			c.Close()
		}
		if !slices.Equal(codes, []int{401, 401, 401, 401, 401, 401, 429, 429}) || len(e.g.Admin().Bans()) != 1 {
			t.Errorf("%v, %+v", codes, e.g.Admin().Bans())
		}
	})
}

// What a whole /48 has used up is no offence of one in it.
func TestPenaltiesNotForNeighbours(t *testing.T) {
	fairUse(t, func(c *wsguard.Config) {
		penalties(c)
		c.Rates.Handshakes = wsguard.Rate{PerSecond: never, Burst: 2}
	}, func(t *testing.T, f *fair) {
		for i := range 32 {
			f.want(401, fmt.Sprintf("2001:db8:1:%x::1", i))
		}
		for range 6 {
			f.want(429, "2001:db8:1:ffff::1")
		}
		for _, b := range f.g.Admin().Bans() {
			t.Errorf("neighbour: %+v", b)
		}
	})
}

// Tickets sold with a longer life do not hold up the count of later ones.
func TestReconfigureTicketTTL(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(c *wsguard.Config) {
			c.Auth = wsguard.AuthConfig{Verifier: logins, Tickets: &wsguard.TicketConfig{TTL: time.Hour, MaxPerSubject: 2}}
		}))
		cfg := e.cfg
		e.serve(e.g.TicketHandler(nil))
		buy := func(who string) int {
			c := e.dial()
			defer c.Close()
			h := header()
			h.Set("Authorization", "Bearer "+who+" - 0s")
			res, err := c.HandshakeWith(wstest.HandshakeOptions{Method: "POST", Header: h})
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode
		}
		buy("bob")
		cfg.Auth.Tickets = &wsguard.TicketConfig{TTL: 30 * time.Second, MaxPerSubject: 2}
		e.reconfigure(cfg)
		a, b := buy("alice"), buy("alice")
		time.Sleep(10 * time.Minute)
		if c := buy("alice"); c != 200 {
			t.Error(a, b, c)
		}
	})
}

// Revalidation can be switched off and on under an open connection.
func TestReconfigureRevalidate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(c *wsguard.Config) {
			c.Timeouts.PingInterval, c.Timeouts.Idle = wsguard.Off, wsguard.Off
			n := 0
			c.Auth = wsguard.AuthConfig{Verifier: onlyToken("one"), RevalidateEvery: time.Minute, Revalidate: func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) { n++; return p, nil }}
		}))
		cfg := e.cfg
		e.serve(echoDoor(e.g))
		c := e.dial()
		c.Handshake("/", http.Header{"Origin": {appOrigin}, "Authorization": {"Bearer one"}})
		time.Sleep(5 * time.Minute)
		hook := cfg.Auth.Revalidate
		cfg.Auth.Revalidate = nil
		e.reconfigure(cfg)
		time.Sleep(5 * time.Minute)
		asked := 0
		cfg.Auth.Revalidate = func(ctx context.Context, p wsguard.Principal) (wsguard.Principal, error) {
			asked++
			return hook(ctx, p)
		}
		e.reconfigure(cfg)
		time.Sleep(time.Hour)
		synctest.Wait()
		if asked == 0 {
			t.Error("off and on again: open connection is never asked about")
		}
		c.Close()
	})
}

// What is only reported is no offence; nor is what trusted proxies seem to do.
func TestPenaltiesNotForReports(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		penalties(cfg)
		cfg.Proxies.Trusted = []string{"127.0.0.1", "10.0.0.0/8"}
		cfg.Rates.Messages = wsguard.Rate{PerSecond: never, Burst: 1}
		cfg.Rates.ReportOnly = true
		cfg.Messages = wsguard.MessageConfig{Validator: refuseWord("bad"), ReportOnly: true}
	}, func(t *testing.T, f *fair) {
		c := f.want(101, "192.0.2.1", "Authorization", "Bearer alice - 0s")
		for range 20 {
			roundTrip(t, c, "bad")
		}
		for range 20 {
			f.want(401, "10.1.2.3") // a proxy that says for nobody
		}
		if b := f.g.Admin().Bans(); len(b) > 0 {
			t.Errorf("%+v", b)
		}
	})
}

// What a /48 refuses costs a client in it nothing.
func TestLimitNetworkGivesBack(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Rates.Handshakes = wsguard.Rate{PerSecond: 0.01, Burst: 2}
	}, func(t *testing.T, f *fair) {
		for i := range 32 {
			f.want(101, fmt.Sprintf("2001:db8:1:%x::1", i+1)).Close()
		}
		for range 5 {
			f.want(429, "2001:db8:1::1")
		}
		time.Sleep(13 * time.Second) // the /48 has two again, no client one
		f.want(101, "2001:db8:1::1").Close()
		f.want(101, "2001:db8:1::1").Close()
	})
}

// Bytes warn as messages do.
func TestLimitWarningOfBytes(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		cfg.Messages.MaxBytes = 100
		cfg.Rates.Bytes = wsguard.Rate{PerSecond: 1, Burst: 1000}
		cfg.Rates.WarnAt = 0.8
	}, func(t *testing.T, f *fair) {
		c := f.want(101, "192.0.2.1")
		msg := strings.Repeat("x", 100)
		for range 7 {
			roundTrip(t, c, msg)
		}
		c.WriteFrame(wstest.Text(msg))
		wantMessage(t, c, `{"warning":"rate_limit"}`)
	})
}

// Nobody's bucket is filled by a Reconfigure, his connection's own no more than
// those that he shares.
func TestReconfigureRefillsNothing(t *testing.T) {
	spent := wsguard.Rate{PerSecond: never, Burst: 300}
	for name, set := range map[string]func(*wsguard.RateConfig){
		"messages":         func(r *wsguard.RateConfig) { r.Messages = wsguard.Rate{PerSecond: never, Burst: 3} },
		"bytes":            func(r *wsguard.RateConfig) { r.Bytes = spent },
		"client messages":  func(r *wsguard.RateConfig) { r.ClientMessages = wsguard.Rate{PerSecond: never, Burst: 3} },
		"client bytes":     func(r *wsguard.RateConfig) { r.ClientBytes = spent },
		"subject messages": func(r *wsguard.RateConfig) { r.SubjectMessages = wsguard.Rate{PerSecond: never, Burst: 3} },
		"subject bytes":    func(r *wsguard.RateConfig) { r.SubjectBytes = spent },
	} {
		t.Run(name, func(t *testing.T) {
			fairUse(t, func(c *wsguard.Config) {
				anyToken(c)
				noRates(c)
				c.Messages.MaxBytes = 100
				set(&c.Rates)
			}, func(t *testing.T, f *fair) {
				cfg := f.cfg
				c := f.want(101, "192.0.2.1", "Authorization", "Bearer alice")
				for range 3 {
					roundTrip(t, c, strings.Repeat("x", 100))
				}
				cfg.Caps.MaxConns = 99
				f.reconfigure(cfg)
				c.WriteFrame(wstest.Text("x"))
				wantClose(t, c, 1008, "rate_limited")
			})
		})
	}
}

// The tickets that a subject has outstanding are counted on.
func TestReconfigureTicketSales(t *testing.T) {
	e := ticketEnv(t, wsguard.Config{})
	for range 16 {
		e.buy(bearer("alice"))
	}
	err := e.g.Reconfigure(wsguard.Config{
		Origins: []string{appOrigin},
		Auth:    wsguard.AuthConfig{Verifier: newTokens().Verify, Tickets: &wsguard.TicketConfig{}},
		Rates:   wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if res := e.request("POST", "/ticket", bearer("alice")); res.StatusCode != 429 {
		t.Errorf("the seventeenth: %d", res.StatusCode)
	}
}

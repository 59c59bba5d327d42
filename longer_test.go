package wsguard_test

import (
	"context"
	"errors"
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

// refreshing refreshes with each message and answers with the result.
func refreshing(ctx context.Context, c *wsguard.Conn) error {
	for {
		_, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		answer := "ok"
		if err := c.Refresh(ctx, string(msg)); errors.Is(err, wsguard.ErrUnauthenticated) {
			answer = "refused"
		} else if err != nil {
			return err
		}
		if err := c.Write(ctx, wsguard.MessageText, []byte(answer)); err != nil {
			return err
		}
	}
}

// A token that is older than the one in force does not refresh a connection, and one that is
// as old does.
func TestRefreshWithAnOlderToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		now := time.Now()
		e := serveWith(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
			age, err := time.ParseDuration(token[1:])
			return wsguard.Principal{Subject: "alice", SessionID: token[:1], IssuedAt: now.Add(-age)}, err
		}}}, func(g *wsguard.Guard) http.Handler { return g.Handler(refreshing) })
		c := e.open(bearer("a1h"))
		for _, tt := range []struct{ token, want string }{{"b2h", "refused"}, {"c1h", "ok"}, {"d1m", "ok"}, {"e1h", "refused"}} {
			c.WriteFrame(wstest.Text(tt.token))
			if _, got, err := c.ReadMessage(); err != nil || string(got) != tt.want {
				t.Errorf("%s: %s %v, want %s", tt.token, got, err, tt.want)
			}
			time.Sleep(10 * time.Second)
		}
		for s := range e.g.Admin().Sessions() {
			if s.SessionID != "d" {
				t.Errorf("%+v", s)
			}
		}
	})
}

// A Revalidate that answers no more than a subject keeps the expiry and the login, and takes
// the scopes away.
func TestRevalidateKeeps(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{
			Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: token, SessionID: "s1", Scopes: []string{"admin"}, Expires: time.Now().Add(time.Minute)}, nil
			},
			Revalidate: func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: p.Subject}, nil
			},
			RevalidateEvery: 10 * time.Second,
		}, Timeouts: wsguard.TimeoutConfig{PingInterval: wsguard.Off}})
		start := time.Now()
		c := e.open(bearer("alice"))
		c.Timeout = time.Hour
		time.Sleep(20 * time.Second)
		synctest.Wait()
		for s := range e.g.Admin().Sessions() {
			if s.SessionID != "s1" || s.Expires.IsZero() || len(s.Scopes) > 0 {
				t.Errorf("%+v", s)
			}
		}
		code, reason, err := c.ReadClose()
		if d := time.Since(start); err != nil || code != 3000 || reason != "expired" || d < time.Minute || d > 61*time.Second {
			t.Errorf("%d %s %v after %v", code, reason, err, d)
		}
	})
}

// A revocation is remembered at least until the latest credential of its subject or login
// expires, whatever RevocationTTL says.
func TestRevocationOutlastsCredentials(t *testing.T) {
	for _, signOut := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			start := time.Now()
			verify := func(_ context.Context, token string) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: "alice", SessionID: "s1", IssuedAt: start, Expires: start.Add(3 * time.Hour)}, nil
			}
			e := serveGuard(t, wsguard.Config{
				Auth: wsguard.AuthConfig{Verifier: verify, RevocationTTL: time.Minute, Failures: wsguard.Rate{PerSecond: wsguard.Off}},
			})
			c := e.open(bearer("T"))
			time.Sleep(time.Second)
			if signOut {
				e.g.Admin().SignOut("s1")
			} else {
				e.g.Admin().Revoke("alice")
			}
			wantClose(t, c, 3000, "revoked")
			for range 5 {
				time.Sleep(30 * time.Minute)
				e.refused(bearer("T"), 401, "revoked")
			}
			time.Sleep(30 * time.Minute)
			e.refused(bearer("T"), 401, "unauthenticated") // it has expired
		})
	}
}

// Many subjects do not make the guard forget how long a credential lasts.
func TestRevocationOutlastsManyCredentials(t *testing.T) {
	if testing.Short() {
		t.Skip("70,000 handshakes")
	}
	bubble(t, func(t *testing.T) {
		start := time.Now()
		g := must(wsguard.New(wsguard.Config{
			Origins: []string{appOrigin}, Caps: wsguard.CapConfig{MaxConns: wsguard.Off, MaxConnsPerClient: wsguard.Off},
			Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
			Auth: wsguard.AuthConfig{RevocationTTL: time.Minute, Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
				return wsguard.Principal{Subject: token, IssuedAt: start, Expires: start.Add(time.Hour)}, nil
			}},
			Attach: func(*http.Request, wsguard.Principal) (any, error) { return nil, wsguard.ErrForbidden },
		}))
		try := func(i int) int {
			r := withHeader(upgradeRequest(), "Authorization", fmt.Sprint("Bearer subject", i))
			return statusOf(g.Handler(echo), r)
		}
		for i := range 70_000 {
			try(i)
		}
		time.Sleep(time.Second)
		for _, i := range []int{0, 1, 30_000, 69_999} {
			g.Admin().Revoke(fmt.Sprint("subject", i))
		}
		time.Sleep(30 * time.Minute)
		for _, i := range []int{0, 1, 30_000, 69_999} {
			if code := try(i); code != 401 {
				t.Errorf("subject%d: %d, want 401", i, code)
			}
		}
	})
}

// What operators do, a sale and a new configuration are events.
func TestEventsOfOperators(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := ticketEnv(t, wsguard.Config{})
	e.buy(bearer("alice"))
	admin := e.g.Admin()
	admin.Revoke("alice")
	admin.SignOut("a secret of the application")
	admin.Restore("alice")
	if err := admin.Ban("192.0.2.1", time.Hour, "spam"); err != nil {
		t.Fatal(err)
	}
	admin.Lift("192.0.2.1")
	admin.Lift("192.0.2.2") // was not banned
	if err := e.g.Reconfigure(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Tickets: &wsguard.TicketConfig{}}}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, ev := range e.events.all() {
		got = append(got, fmt.Sprint(ev.Kind, " ", ev.Subject, ev.Client))
	}
	want := []string{"ticket alice127.0.0.1", "revoke alice", "sign_out ", "restore alice", "ban 192.0.2.1", "lift 192.0.2.1", "reconfigure "}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, text := range []string{"websocket ticket", "websocket revoke", "websocket sign_out", "websocket restore", "websocket lift", "websocket reconfigure"} {
		if len(e.log.Find(text)) != 1 {
			t.Errorf("the log has no line %q:\n%s", text, e.log)
		}
	}
	if strings.Contains(e.log.String(), "a secret of the application") {
		t.Error("the name of a login is in the log")
	}
}

// Origins that may not be meant are reported by New and by Reconfigure.
func TestOriginWarnings(t *testing.T) {
	wstest.CheckGoroutines(t)
	warned := func(cfg wsguard.Config) (got []string) {
		e := newEnv(t, cfg)
		for _, ev := range e.events.of(audit.Warning) {
			got = append(got, ev.Reason+" "+ev.Origin)
		}
		return got
	}
	for _, tt := range []struct {
		origins []string
		http    bool
		want    []string
	}{
		{[]string{"https://app.example.com", "http://localhost:3000", "http://127.0.0.1", "http://[::1]:8080", "http://localhost:*", "null"}, false, nil},
		{[]string{"http://app.example.com"}, false, []string{"plain_origin http://app.example.com"}},
		{[]string{"http://app.example.com"}, true, nil},
		{[]string{"https://*.myshopify.com", "https://*.a.run.app", "https://*.eu.awsapprunner.com", "https://shop.myshopify.com", "https://*.notmyshopify.com"}, false,
			[]string{"shared_origin https://*.myshopify.com", "shared_origin https://*.a.run.app", "shared_origin https://*.eu.awsapprunner.com"}},
	} {
		if got := warned(wsguard.Config{Origins: tt.origins, InsecureAllowHTTP: tt.http}); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.origins, got, tt.want)
		}
	}
}

// Lives that are too long are mistakes.
func TestUpperBoundsOfTTLs(t *testing.T) {
	for field, auth := range map[string]wsguard.AuthConfig{
		"Auth.Tickets.TTL": {Tickets: &wsguard.TicketConfig{TTL: time.Hour + 1}},
		"Auth.CacheTTL":    {Verifier: anyone, CacheTTL: time.Hour + 1},
	} {
		var fault *wsguard.ConfigError
		if _, err := wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: auth}); !errors.As(err, &fault) || fault.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

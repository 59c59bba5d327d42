package wsguard_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// reports returns how often each reason was reported, and fails the test if a reason was
// acted upon.
func reports(t *testing.T, evs []audit.Event) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, ev := range evs {
		switch ev.Kind {
		case audit.Refusal, audit.Violation, audit.Banned:
			if n[ev.Reason]++; !ev.Report {
				t.Errorf("not only reported: %+v", ev)
			}
		}
	}
	return n
}

// Config.Observe puts every guard into report-only mode that has one, on each endpoint.
func TestReportOnlyAll(t *testing.T) {
	only := wsguard.Rate{PerSecond: never, Burst: 1}
	for _, endpoint := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			messages := wsguard.MessageConfig{Validator: refuseWord("bad")}
			cfg := wsguard.Config{
				Observe:  true,
				Auth:     wsguard.AuthConfig{Verifier: newTokens().Verify, InsecureAnonymous: true},
				Caps:     wsguard.CapConfig{MaxConns: 1},
				Rates:    wsguard.RateConfig{Handshakes: only, Messages: only, Action: wsguard.ActionReply},
				Messages: messages,
				Timeouts: wsguard.TimeoutConfig{PingInterval: wsguard.Off, Idle: time.Minute},
			}
			e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
				if endpoint {
					return echoDoor(must(g.Endpoint(wsguard.EndpointConfig{Messages: messages})))
				}
				return echoDoor(g)
			})
			first := e.open(header())
			second := e.open(header())
			roundTrip(t, second, "bad")
			roundTrip(t, second, "good")
			time.Sleep(90 * time.Second)
			synctest.Wait()
			got := reports(t, e.events.all())
			for reason, want := range map[string]int{"max_conns": 1, "handshake_rate": 1, "rate_limited": 1, "schema": 1, "idle": 2} {
				if got[reason] != want {
					t.Errorf("endpoint %t: %s was reported %d times, want %d", endpoint, reason, got[reason], want)
				}
			}
			first.Close()
			second.Close()
		})
	}
}

// Config.Observe does not let in what an attacker could use: foreign origins, bad
// credentials, and messages without the scope.
func TestReportOnlyIsNotInsecure(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{
		Observe: true,
		Auth:    wsguard.AuthConfig{Verifier: newTokens().Verify},
		Messages: wsguard.MessageConfig{Validator: &wsguard.Table{Types: map[string]wsguard.Rule{
			"ban": {Scope: "admin"},
		}}},
	})
	e.refused(header("Origin", "https://evil.example", "Authorization", "Bearer alice"), 403, "origin")
	e.refused(bearer("junk"), 401, "unauthenticated")
	c := e.open(bearer("alice"))
	c.WriteFrame(wstest.Text(`{"type":"ban"}`))
	wantClose(t, c, 3003, "forbidden")
}

// Penalties.ReportOnly reports a client that would be banned, and again each time. A ban by
// hand holds.
func TestReportOnlyPenalties(t *testing.T) {
	fairUse(t, func(cfg *wsguard.Config) {
		penalties(cfg)
		cfg.Penalties.ReportOnly = true
	}, func(t *testing.T, f *fair) {
		client := "192.0.2.1"
		for range 100 {
			c := f.want(101, client, "Authorization", "Bearer alice - 0s")
			c.Write([]byte{0xff, 0xff}) // a protocol error
			c.ReadClose()
			c.Close()
		}
		synctest.Wait()
		n := 0
		for _, ev := range f.events.of(audit.Banned) {
			if n++; !ev.Report || ev.Reason != "protocol_error" || ev.Client != client {
				t.Errorf("%+v", ev)
			}
		}
		if n < 2 || len(f.g.Admin().Bans()) > 0 {
			t.Errorf("reported %d times, bans %v", n, f.g.Admin().Bans())
		}
		if err := f.g.Admin().Ban(client, time.Hour, "spam"); err != nil {
			t.Fatal(err)
		}
		f.want(429, client)
	})
}

// A cap that only reports closes nothing to make room.
func TestReportOnlyReplacesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveWith(t, wsguard.Config{
			Auth: wsguard.AuthConfig{Verifier: anyone, Sources: wsguard.TokenSources{Header: true, FirstMessage: true}, FirstMessageTimeout: time.Hour},
			Caps: wsguard.CapConfig{MaxConnsPerSubject: 1, ReplaceOldest: true, MaxUnauthenticated: 1, ReportOnly: true},
		}, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
		oldest := e.open(bearer("alice"))
		e.open(bearer("alice"))
		roundTrip(t, oldest, "still here")
		var silent []*wstest.Client
		for range 5 {
			silent = append(silent, e.open(header()))
		}
		time.Sleep(4 * time.Second)
		e.open(header())
		synctest.Wait()
		for i, c := range silent {
			c.WriteFrame(first(fmt.Sprint("person", i)))
			roundTrip(t, c, "still here")
		}
		if got := reports(t, e.events.all()); got["max_subject_conns"] != 1 || got["max_conns"]+got["max_client_conns"] != 5 {
			t.Errorf("%v", got)
		}
	})
}

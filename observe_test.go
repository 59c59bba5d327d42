package wsguard_test

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// modes returns the fields of v that only report, by their names, with their values.
func modes(prefix string, v reflect.Value, into map[string]bool) {
	for i := range v.NumField() {
		switch field := v.Type().Field(i); {
		case !field.IsExported():
		case field.Type.Kind() == reflect.Struct && strings.HasPrefix(field.Type.PkgPath(), modulePath):
			modes(prefix+field.Name+".", v.Field(i), into)
		case strings.Contains(field.Name, "ReportOnly"):
			into[prefix+field.Name] = v.Field(i).Bool()
		}
	}
}

// Observe sets every field of Config that only reports, except for those whose names begin with
// Insecure. InsecureObserve sets all of them. The same holds for a further Endpoint.
func TestObserveSetsEveryField(t *testing.T) {
	for _, insecure := range []bool{false, true} {
		cfg := wsguard.Config{Origins: []string{appOrigin}, Observe: !insecure, InsecureObserve: insecure, Auth: wsguard.AuthConfig{Verifier: anyone}}
		g := must(wsguard.New(cfg))
		must(g.Endpoint(wsguard.EndpointConfig{}))
		got := map[string]bool{}
		modes("", reflect.ValueOf(g.Resolved()), got)
		further := map[string]bool{}
		modes("Messages.", reflect.ValueOf(g.ResolvedMessages(1)), further)
		for name, set := range further {
			if set != got[name] {
				t.Errorf("the further endpoint has %s: %t", name, set)
			}
		}
		if len(got) != 8 || len(further) != 2 {
			t.Errorf("%d fields, and %d of an endpoint: list the new one in docs/running-services.md", len(got), len(further))
		}
		for name, set := range got {
			if want := insecure || !strings.Contains(name, "Insecure"); set != want {
				t.Errorf("InsecureObserve %t: %s is %t", insecure, name, set)
			}
		}
	}
}

// loosely is a Config whose limits a few messages exceed.
func loosely() wsguard.Config {
	only := wsguard.Rate{PerSecond: never, Burst: 1}
	return wsguard.Config{
		Observe: true,
		Auth:    wsguard.AuthConfig{Verifier: anyone, InsecureAnonymous: true},
		Messages: wsguard.MessageConfig{
			MaxBytes: 1 << 10, MaxFragments: 2, Timeout: 5 * time.Second, ControlFrames: only,
		},
		Timeouts: wsguard.TimeoutConfig{PingInterval: 20 * time.Second, Pong: 5 * time.Second, Idle: wsguard.Off, Lifetime: 10 * time.Minute},
	}
}

// frameOf is a frame of a text message.
func frameOf(op byte, fin bool, s string) wstest.Frame {
	f := wstest.Text(s)
	f.Opcode, f.Fin = op, fin
	return f
}

// harmless is what exceeds the limits of messages, frames and time, by the reasons. send checks
// that it has passed. n is how often it must be reported.
var harmless = map[string]struct {
	n    int
	send func(*testing.T, *wstest.Client)
}{
	"message_too_big": {1, func(t *testing.T, c *wstest.Client) { roundTrip(t, c, strings.Repeat("x", 64<<10)) }},
	"message_type": {1, func(t *testing.T, c *wstest.Client) {
		c.WriteFrame(wstest.Binary([]byte{0xff}))
		wantMessage(t, c, "\xff")
	}},
	"fragments": {2, func(t *testing.T, c *wstest.Client) {
		for range 2 {
			for i, part := range []string{"a", "b", "c", "d", "e"} {
				op := wstest.OpText
				if i > 0 {
					op = 0
				}
				c.WriteFrame(frameOf(byte(op), i == 4, part))
			}
			wantMessage(t, c, "abcde")
		}
	}},
	"control_flood": {3, func(t *testing.T, c *wstest.Client) {
		for range 4 {
			c.WriteFrame(wstest.Pong(nil))
		}
		roundTrip(t, c, "still here")
	}},
	"message_timeout": {2, func(t *testing.T, c *wstest.Client) {
		c.WriteFrame(frameOf(wstest.OpText, false, "slow"))
		time.Sleep(12 * time.Second)
		c.WriteFrame(frameOf(0, true, "ly"))
		wantMessage(t, c, "slowly")
	}},
	"pong_timeout": {2, func(t *testing.T, c *wstest.Client) {
		time.Sleep(70 * time.Second)
		roundTrip(t, c, "still here")
	}},
	"lifetime": {1, func(t *testing.T, c *wstest.Client) {
		for range 50 {
			time.Sleep(15 * time.Second)
			roundTrip(t, c, "still here")
		}
	}},
}

// Observe reports what exceeds the limits of messages, frames and time, and lets it pass.
func TestObserveHarmsNobody(t *testing.T) {
	for want, tt := range harmless {
		t.Run(want, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveWith(t, loosely(), func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
				c := e.open(header())
				tt.send(t, c)
				synctest.Wait()
				got := reports(t, e.events.all())
				if n := got[want]; n < tt.n || n > tt.n+1 && want != "lifetime" {
					t.Errorf("%s was reported %d times, want %d; %v", want, n, tt.n, got)
				}
				if ends := e.events.of(audit.Close); len(ends) > 0 {
					t.Errorf("closed: %v", ends)
				}
				c.Close()
			})
		})
	}
}

// Observe lets handshakes pass that find no place in flight, at once, and reports them.
func TestObserveInFlight(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := loosely()
		cfg.Rates = wsguard.RateConfig{MaxInFlight: 3, MaxInFlightPerClient: 2}
		cfg.Auth.Verifier = func(ctx context.Context, token string) (wsguard.Principal, error) {
			time.Sleep(2 * time.Second)
			return anyone(ctx, token)
		}
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				c, res := e.try(bearer("alice"))
				if res.StatusCode != http.StatusSwitchingProtocols {
					t.Errorf("status %d", res.StatusCode)
				}
				c.Close()
			})
		}
		start := time.Now()
		wg.Wait()
		synctest.Wait()
		if got := reports(t, e.events.all()); got["in_flight"] != 3 || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", got, time.Since(start))
		}
	})
}

// Without Observe, the fields ReportOnly of the parts let none of that pass.
func TestReportOnlyKeepsTheForm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := loosely()
		cfg.Observe = false
		cfg.Messages.ReportOnly, cfg.Timeouts.ReportOnly, cfg.Rates.ReportOnly = true, true, true
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
		c := e.open(header())
		c.WriteFrame(wstest.Text(strings.Repeat("x", 1<<10+1)))
		wantClose(t, c, 1009, "message_too_big")
		c = e.open(header())
		c.WriteFrame(wstest.Binary(nil))
		wantClose(t, c, 1003, "message_type")
		wantClose(t, e.open(header()), 3008, "pong_timeout")
		cfg.Rates.MaxInFlight = 1
		cfg.Auth.Verifier = func(ctx context.Context, token string) (wsguard.Principal, error) {
			time.Sleep(3 * time.Second)
			return anyone(ctx, token)
		}
		e = serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
		var wg sync.WaitGroup
		wg.Go(func() { e.open(bearer("alice")).Close() })
		time.Sleep(time.Second)
		e.refused(bearer("bob"), 503, "in_flight")
		wg.Wait()
	})
}

// InsecureObserve also lets pass what an attacker could use, and reports it.
func TestInsecureObserve(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{
		InsecureObserve: true,
		Auth:            wsguard.AuthConfig{Verifier: newTokens().Verify},
		Messages: wsguard.MessageConfig{Validator: &wsguard.Table{Types: map[string]wsguard.Rule{
			"ban": {Scope: "admin"},
		}}},
	})
	c := e.open(header("Origin", "https://evil.example", "Authorization", "Bearer junk"))
	roundTrip(t, c, `{"type":"ban"}`)
	got := reports(t, e.events.all())
	for _, want := range []string{"origin", "unauthenticated", "forbidden"} {
		if got[want] != 1 {
			t.Errorf("%s was reported %d times", want, got[want])
		}
	}
	bye(c)
}

// A piece that stands alone obeys Observe and InsecureObserve as a Guard does.
func TestObservePieces(t *testing.T) {
	cfg := wsguard.Config{Origins: []string{appOrigin}, InsecureObserve: true, Caps: wsguard.CapConfig{MaxConns: 1}, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}
	r := func() *http.Request {
		r := must(http.NewRequest("GET", "https://app.example/", nil))
		r.RemoteAddr, r.Header = "192.0.2.1:1", header("Origin", "https://evil.example", "Authorization", "Bearer junk")
		return r
	}
	limits := must(wsguard.NewConnCap(cfg))
	for range 2 {
		defer must(limits.Acquire(r())).Release()
	}
	if err := must(wsguard.NewOriginCheck(cfg)).Check(r()); err != nil {
		t.Error(err)
	}
	if _, err := must(wsguard.NewAuthenticator(cfg)).Authenticate(r()); err != nil {
		t.Error(err)
	}
}

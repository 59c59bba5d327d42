package wsguard_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// onlyToken is a Verifier of one token.
func onlyToken(token string) wsguard.Verifier {
	return func(_ context.Context, got string) (wsguard.Principal, error) {
		if got != token {
			return wsguard.Principal{}, errors.New("no")
		}
		return wsguard.Principal{Subject: "alice"}, nil
	}
}

func reconfigured(t *testing.T, test func(t *testing.T, e *env, cfg wsguard.Config, dial func(origin, token string) (*wstest.Client, int))) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noHandshakeLimits, func(c *wsguard.Config) {
			c.Auth = wsguard.AuthConfig{Verifier: onlyToken("one")}
			c.Timeouts.PingInterval = wsguard.Off
		}))
		test(t, e, e.cfg, func(origin, token string) (*wstest.Client, int) {
			t.Helper()
			c := e.dial()
			res, err := c.Handshake("/", http.Header{"Origin": {origin}, "Authorization": {"Bearer " + token}})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // what it held is given back after the answer
			return c, res.StatusCode
		})
	})
}

func want(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}

func status(_ *wstest.Client, code int) int { return code }

func TestReconfigureHandshakes(t *testing.T) {
	reconfigured(t, func(t *testing.T, e *env, cfg wsguard.Config, dial func(string, string) (*wstest.Client, int)) {
		c, _ := dial(appOrigin, "one")
		cfg.Origins = []string{"https://new.example.com"}
		cfg.Auth.Verifier = onlyToken("two")
		cfg.Caps.MaxConns = 2
		e.reconfigure(cfg)
		roundTrip(t, c, "still here")
		want(t, "old origin", status(dial(appOrigin, "two")), 403)
		want(t, "old token", status(dial("https://new.example.com", "one")), 401)
		want(t, "new", status(dial("https://new.example.com", "two")), 101)
		want(t, "over the new cap", status(dial("https://new.example.com", "two")), 503)
		cfg.Caps.MaxConns = 0
		cfg.Hosts = []string{"elsewhere.example.com"}
		e.reconfigure(cfg)
		want(t, "host", status(dial("https://new.example.com", "two")), 421)
		cfg.Hosts = nil
		cfg.Proxies.Trusted = []string{"127.0.0.1"}
		e.reconfigure(cfg)
		want(t, "a proxy that says nothing", status(dial("https://new.example.com", "two")), 403)
	})
}

// A mistake leaves everything as it was.
func TestReconfigureFaults(t *testing.T) {
	reconfigured(t, func(t *testing.T, e *env, cfg wsguard.Config, dial func(string, string) (*wstest.Client, int)) {
		bad := cfg
		bad.Origins = []string{"*", "https://new.example.com"}
		bad.Auth = wsguard.AuthConfig{Verifier: onlyToken("two"), Tickets: &wsguard.TicketConfig{}}
		bad.Rates.Messages = wsguard.Rate{PerSecond: 1}
		fields := faultsOf(t, e.g.Reconfigure(bad))
		if !slices.Equal(fields, []string{"Origins", "Rates.Messages", "Auth.Tickets"}) {
			t.Error(fields)
		}
		want(t, "new", status(dial("https://new.example.com", "two")), 403)
		want(t, "old", status(dial(appOrigin, "one")), 101)

		// Another endpoint's messages would no longer fit.
		must(e.g.Endpoint(wsguard.EndpointConfig{Messages: wsguard.MessageConfig{MaxBytes: 900 << 10}}))
		cfg.Rates.Bytes = wsguard.Rate{PerSecond: 1e6, Burst: 64 << 10}
		if fields := faultsOf(t, e.g.Reconfigure(cfg)); !slices.Contains(fields, "Rates.Bytes") {
			t.Error(fields)
		}
	})
}

// What holds for messages changes under the connections that are open.
func TestReconfigureMessages(t *testing.T) {
	reconfigured(t, func(t *testing.T, e *env, cfg wsguard.Config, dial func(string, string) (*wstest.Client, int)) {
		c, _ := dial(appOrigin, "one")
		roundTrip(t, c, "anything goes")
		cfg.Messages.Validator = must(wsguard.CompileSchema([]byte(`{"type":"array"}`)))
		cfg.Messages.OnInvalid = wsguard.ActionReply
		cfg.Rates.Messages = wsguard.Rate{PerSecond: 1, Burst: 3}
		cfg.Rates.Action = wsguard.ActionReply
		e.reconfigure(cfg)
		roundTrip(t, c, `[1]`)
		c.WriteFrame(wstest.Text("anything goes"))
		wantMessage(t, c, `{"error":"invalid_message","reason":"syntax"}`)
		roundTrip(t, c, `[2]`)
		c.WriteFrame(wstest.Text("[3]"))
		wantMessage(t, c, `{"error":"rate_limited","retry_after_ms":1000}`)
		cfg.Rates.Messages = wsguard.Rate{PerSecond: wsguard.Off}
		cfg.Messages = wsguard.MessageConfig{MaxBytes: 10}
		e.reconfigure(cfg)
		for range 10 {
			roundTrip(t, c, `free`)
		}
		c.WriteFrame(wstest.Text("longer than that"))
		wantClose(t, c, 1009, "message_too_big")
	})
}

// A subprotocol that is no longer served lets nothing through.
func TestReconfigureSubprotocolGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(c *wsguard.Config) {
			c.Subprotocols = []string{"a", "b"}
			any := must(wsguard.CompileSchema([]byte(`{}`)))
			c.Messages.Validators = map[string]wsguard.Validator{"a": any, "b": any}
		}))
		c := e.dial()
		h := header()
		h.Set("Sec-WebSocket-Protocol", "a")
		if res, err := c.Handshake("/", h); err != nil || res.StatusCode != 101 {
			t.Fatal(res, err)
		}
		roundTrip(t, c, "1")
		cfg := e.cfg
		cfg.Subprotocols = []string{"b"}
		cfg.Messages.Validators = map[string]wsguard.Validator{"b": cfg.Messages.Validators["b"]}
		e.reconfigure(cfg)
		c.WriteFrame(wstest.Text("1"))
		wantClose(t, c, 1008, "unknown_type")
	})
}

// What is owed stays owed: nobody's bucket is refilled.
func TestReconfigureBuckets(t *testing.T) {
	reconfigured(t, func(t *testing.T, e *env, cfg wsguard.Config, dial func(string, string) (*wstest.Client, int)) {
		cfg.Rates.SubjectMessages = wsguard.Rate{PerSecond: 0.001, Burst: 5}
		cfg.Auth.Failures = wsguard.Rate{PerSecond: 0.001, Burst: 2}
		cfg.Rates.Handshakes = wsguard.Rate{PerSecond: 0.001, Burst: 7}
		e.reconfigure(cfg)
		c, _ := dial(appOrigin, "one")
		for range 5 {
			roundTrip(t, c, "x")
		}
		want(t, "guess", status(dial(appOrigin, "guess")), 401)
		want(t, "guess", status(dial(appOrigin, "guess 2")), 401)
		cfg.Rates.SubjectMessages.PerSecond = 0.002
		cfg.Auth.Failures.PerSecond = 0.002
		cfg.Rates.Handshakes.PerSecond = 0.002
		e.reconfigure(cfg)
		want(t, "guess", status(dial(appOrigin, "two")), 429)
		c.WriteFrame(wstest.Text("x"))
		wantClose(t, c, 1008, "rate_limited")
		for range 4 {
			dial(appOrigin, "two")
		}
		want(t, "handshakes", status(dial(appOrigin, "three")), 429)
		refusals := e.events.of(audit.Refusal)
		if last := refusals[len(refusals)-1]; last.Reason != "handshake_rate" {
			t.Errorf("the last refusal is %s, want handshake_rate", last.Reason)
		}
		want(t, "a credential that was accepted lately", status(dial(appOrigin, "one")), 101)
	})
}

// A piece that stands in front follows, and still counts as having passed.
func TestReconfigurePieces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var asked atomic.Int64
		verifier := func(token string) wsguard.Verifier {
			return func(ctx context.Context, got string) (wsguard.Principal, error) {
				asked.Add(1)
				return onlyToken(token)(ctx, got)
			}
		}
		e := newEnv(t, conf(func(c *wsguard.Config) {
			c.Auth = wsguard.AuthConfig{Verifier: verifier("one")}
			c.Hosts = []string{"example.com"}
		}))
		p := e.g.Pieces()
		e.serve(p.Host.Handler(p.TLS.Handler(p.Origin.Handler(p.Cap.Handler(p.Auth.Handler(echoDoor(e.g)))))))
		cfg := e.cfg
		cfg.Auth.Verifier = verifier("two")
		cfg.Origins = []string{"https://new.example.com"}
		cfg.Hosts = nil
		e.reconfigure(cfg)
		for _, tt := range []struct {
			origin, token string
			code          int
			asked         int64
		}{{appOrigin, "two", 403, 0}, {"https://new.example.com", "one", 401, 1}, {"https://new.example.com", "two", 101, 1}} {
			asked.Store(0)
			c := e.dial()
			res, err := c.Handshake("/", http.Header{"Origin": {tt.origin}, "Authorization": {"Bearer " + tt.token}})
			if err != nil || res.StatusCode != tt.code || asked.Load() != tt.asked {
				t.Errorf("%+v: %v %v, asked %d", tt, res, err, asked.Load())
			}
			synctest.Wait()
			if tt.code == 101 && e.g.Conns() != 1 {
				t.Errorf("%d slots for one connection", e.g.Conns())
			}
			c.Close()
		}
	})
}

func TestReconfigureEndpoint(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		ev := must(e.g.Endpoint(wsguard.EndpointConfig{Subprotocols: []string{"a"}}))
		e.serve(ev.Handler(echo))
		c := e.open(header())
		roundTrip(t, c, "before")
		if err := ev.Reconfigure(wsguard.EndpointConfig{Subprotocols: []string{"a b"}}); err == nil {
			t.Error("a bad subprotocol")
		}
		roundTrip(t, c, "still")
		if err := ev.Reconfigure(wsguard.EndpointConfig{Messages: wsguard.MessageConfig{Validator: refuseWord("bad")}}); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c, "good")
		c.WriteFrame(wstest.Text("bad"))
		wantClose(t, c, 1008, "schema")
	})
}

func TestReconfigureTickets(t *testing.T) {
	e := ticketEnv(t, wsguard.Config{})
	ticket := e.buy(bearer("alice"))
	cfg := wsguard.Config{
		Origins: []string{appOrigin},
		Auth:    wsguard.AuthConfig{Verifier: newTokens().Verify, Tickets: &wsguard.TicketConfig{MaxTotal: 1}},
	}
	e.reconfigure(cfg)
	if res := e.request("POST", "/ticket", bearer("alice")); res.StatusCode != 503 {
		t.Errorf("over the new total: %d", res.StatusCode)
	}
	c, res := e.redeem(ticket, header())
	if res.StatusCode != 101 {
		t.Errorf("bought before: %d", res.StatusCode)
	}
	bye(c)
}

// A handshake sees one Config from its beginning to its end.
func TestReconfigureAtomic(t *testing.T) {
	bubble(t, func(t *testing.T) { // where no deadline passes while it is being changed
		configs := [2]wsguard.Config{}
		origins, keys := [2]string{"https://a.example.com", "https://b.example.com"}, [2]string{"A", "B"}
		for i := range configs {
			configs[i] = wsguard.Config{
				Origins: origins[i : i+1],
				Auth:    wsguard.AuthConfig{Verifier: onlyToken(keys[i]), Failures: wsguard.Rate{PerSecond: wsguard.Off}},
				Caps:    wsguard.CapConfig{MaxConnsPerSubject: wsguard.Off, MaxConnsPerClient: wsguard.Off},
				Rates:   wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}, MaxInFlightPerClient: wsguard.Off},
				Messages: wsguard.MessageConfig{Validator: &wsguard.Table{Types: map[string]wsguard.Rule{
					"x": {Validator: refuseWord(keys[1-i])},
				}}, ReportOnly: true},
			}
			noRates(&configs[i])
		}
		e := serveGuard(t, configs[0])
		stop := make(chan struct{})
		var changing sync.WaitGroup
		changing.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-stop:
					return
				default:
					e.reconfigure(configs[i%2])
				}
			}
		})
		var clients sync.WaitGroup
		var met [2]atomic.Int64
		for i := range 4 {
			clients.Go(func() {
				for n := range 300 {
					o, k := (i+n)%2, (i+n/2)%2
					c := e.dial()
					res, err := c.Handshake("/", http.Header{"Origin": {origins[o]}, "Authorization": {"Bearer " + keys[k]}})
					if err != nil {
						t.Error(err)
						return
					}
					if res.StatusCode == 101 {
						if o != k {
							t.Errorf("origin %s with key %s", origins[o], keys[k])
						}
						met[o].Add(1)
						for range 3 {
							roundTrip(t, c, `{"type":"x","A":1,"B":2}`)
						}
					}
					c.Close()
				}
			})
		}
		clients.Wait()
		close(stop)
		changing.Wait()
		if met[0].Load() == 0 || met[1].Load() == 0 {
			t.Logf("only one Config was met: %d, %d", met[0].Load(), met[1].Load())
		}
		for _, ev := range e.events.of(audit.Violation) {
			if !errors.Is(ev.Err, reason.Schema) || !strings.HasPrefix(ev.Detail, "x: ") {
				t.Fatalf("%+v", ev)
			}
		}
	})
}

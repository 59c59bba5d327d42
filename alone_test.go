package wsguard_test

import (
	"log/slog"
	"net/http"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// A piece that stands alone reports to the hook and the log of its Config, and names the
// client past the proxies.
func TestPiecesAloneReport(t *testing.T) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for name, tt := range map[string]struct {
		cfg    wsguard.Config
		make   func(wsguard.Config) (http.Handler, error)
		change func(*http.Request)
		reason string
		report bool
	}{
		"origin": {wsguard.Config{Origins: []string{appOrigin}}, func(cfg wsguard.Config) (http.Handler, error) {
			c, err := wsguard.NewOriginCheck(cfg)
			return c.Handler(next), err
		}, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, "origin", false},
		"origin, reported": {wsguard.Config{Origins: []string{appOrigin}, InsecureReportOnlyOrigins: true}, func(cfg wsguard.Config) (http.Handler, error) {
			c, err := wsguard.NewOriginCheck(cfg)
			return c.Handler(next), err
		}, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, "origin", true},
		"host": {wsguard.Config{Hosts: []string{"a.example"}}, func(cfg wsguard.Config) (http.Handler, error) {
			c, err := wsguard.NewHostCheck(cfg)
			return c.Handler(next), err
		}, func(r *http.Request) { r.Host = "evil.example" }, "host", false},
		"clear text": {wsguard.Config{}, func(cfg wsguard.Config) (http.Handler, error) {
			c, err := wsguard.NewTLSCheck(cfg)
			return c.Handler(next), err
		}, func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "http") }, "insecure_transport", false},
		"credential": {wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}, func(cfg wsguard.Config) (http.Handler, error) {
			a, err := wsguard.NewAuthenticator(cfg)
			return a.Handler(next), err
		}, func(r *http.Request) { r.Header.Set("Authorization", "Bearer junk") }, "unauthenticated", false},
		"cap, reported": {wsguard.Config{Caps: wsguard.CapConfig{MaxConns: 1}, Observe: true}, func(cfg wsguard.Config) (http.Handler, error) {
			c, err := wsguard.NewConnCap(cfg)
			if err == nil {
				_, err = c.Acquire(upgradeRequest())
			}
			return c.Handler(next), err
		}, func(*http.Request) {}, "max_conns", true},
	} {
		var events []audit.Event
		log := &wstest.Log{}
		tt.cfg.Proxies.Trusted = []string{"10.0.0.0/8"}
		tt.cfg.OnEvent = func(e audit.Event) { events = append(events, e) }
		tt.cfg.Logger = slog.New(log)
		h, err := tt.make(tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := upgradeRequest()
		r.RemoteAddr = "10.0.0.1:1"
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		tt.change(r)
		h.ServeHTTP(discard{}, r)
		if len(events) != 1 || events[0].Reason != tt.reason || events[0].Report != tt.report || events[0].Client != "192.0.2.1" {
			t.Errorf("%s: %+v", name, events)
		}
		if len(log.Records()) != 1 {
			t.Errorf("%s: the log has %s", name, log)
		}
	}
}

// A cap that stands alone and a Guard can count together.
func TestCapAloneSharesState(t *testing.T) {
	wstest.CheckGoroutines(t)
	state := wsguard.NewState()
	e := serveGuard(t, wsguard.Config{State: state, Caps: wsguard.CapConfig{MaxConns: 1}})
	c := must(wsguard.NewConnCap(wsguard.Config{State: state, Caps: wsguard.CapConfig{MaxConns: 1}}))
	l := must(c.Acquire(upgradeRequest()))
	e.refused(header(), 503, "max_conns")
	l.Release()
	e.open(header())
	if _, err := c.Acquire(upgradeRequest()); err == nil {
		t.Error("two connections")
	}
}

package wsguard_test

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

// faultsOf returns the fields of all the faults in err.
func faultsOf(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T is not joined", err)
	}
	var fields []string
	for _, e := range joined.Unwrap() {
		var ce *wsguard.ConfigError
		if !errors.As(e, &ce) || ce.Field == "" || ce.Reason == "" {
			t.Errorf("%T %v is no *ConfigError with Field and Reason", e, e)
			continue
		}
		if !strings.HasPrefix(e.Error(), "wsguard: "+ce.Field) {
			t.Errorf("%q does not begin with the field", e)
		}
		fields = append(fields, ce.Field)
	}
	return fields
}

// T15, T50: each fault by itself.
func TestConfigFaults(t *testing.T) {
	nan := wsguard.Rate{PerSecond: math.NaN(), Burst: 1}
	type fault struct {
		name  string
		edit  func(*wsguard.Config)
		field string // empty: no fault
	}
	tests := []fault{
		{"T15 the least", func(*wsguard.Config) {}, ""},
		{"T15 no origins", func(c *wsguard.Config) { c.Origins = nil }, "Origins"},
		{"T15 empty origins", func(c *wsguard.Config) { c.Origins = []string{} }, "Origins"},
		{"T15 missing allowed", func(c *wsguard.Config) { c.Origins = nil; c.AllowMissingOrigin = true; c.Hosts = []string{"a.test"} }, ""},
		{"T15 missing allowed, no hosts", func(c *wsguard.Config) { c.AllowMissingOrigin = true }, "AllowMissingOrigin"},
		{"T15 nobody may connect", func(c *wsguard.Config) { c.Auth = wsguard.AuthConfig{} }, "Auth.Verifier"},
		{"T15 source without verifier", func(c *wsguard.Config) { c.Auth.Sources = wsguard.TokenSources{Header: true} }, "Auth.Verifier"},
		{"T15 proxy", func(c *wsguard.Config) { c.Proxies.Trusted = []string{"10.0.0.1/8"} }, "Proxies"},
		{"T15 everybody a proxy", func(c *wsguard.Config) { c.Proxies.Trusted = []string{"0.0.0.0/0"} }, "Proxies"},
		{"T15 everybody a proxy, in halves", func(c *wsguard.Config) { c.Proxies.Trusted = []string{"0.0.0.0/1", "128.0.0.0/1"} }, "Proxies"},
		{"T15 empty hosts", func(c *wsguard.Config) { c.Hosts = []string{} }, "Hosts"},
		{"T15 missing allowed, empty hosts", func(c *wsguard.Config) { c.Hosts, c.AllowMissingOrigin = []string{}, true }, "Hosts"},
		{"T15 subprotocol", func(c *wsguard.Config) { c.Subprotocols = []string{"a b"} }, "Subprotocols"},
		{"T15 subprotocol with the prefix of credentials", func(c *wsguard.Config) {
			c.Auth.Verifier, c.Subprotocols = newTokens().Verify, []string{"chat", "bearer.chat"}
		}, "Subprotocols"},
		{"T15 subprotocol with a prefix that is not in use", func(c *wsguard.Config) { c.Subprotocols = []string{"bearer.chat", "bearer."} }, ""},
		{"T15 subprotocol twice", func(c *wsguard.Config) { c.Subprotocols = []string{"a", "a"} }, "Subprotocols"},
		{"T15 close code", func(c *wsguard.Config) { c.CloseCodes = map[*reason.Reason]wsguard.StatusCode{reason.Idle: 1006} }, "CloseCodes"},
		{"T15 close code of another", func(c *wsguard.Config) {
			c.CloseCodes = map[*reason.Reason]wsguard.StatusCode{nil: 4000}
		}, "CloseCodes"},
		{"T15 ping = pong", func(c *wsguard.Config) { c.Timeouts.PingInterval, c.Timeouts.Pong = time.Second, time.Second }, "Timeouts.Pong"},
		{"T15 ping < default pong", func(c *wsguard.Config) { c.Timeouts.PingInterval = time.Second }, ""},
		{"T15 ping < pong", func(c *wsguard.Config) { c.Timeouts.Pong = 26 * time.Second }, "Timeouts.Pong"},
		{"T15 no ping", func(c *wsguard.Config) { c.Timeouts.PingInterval, c.Timeouts.Pong = wsguard.Off, time.Hour }, ""},
		{"T15 write negative", func(c *wsguard.Config) { c.Timeouts.Write = -5 * time.Second }, "Timeouts.Write"},
		{"T15 write of any length", func(c *wsguard.Config) { c.Timeouts.Write = time.Hour }, ""},
		{"T15 byte burst < message", func(c *wsguard.Config) { c.Messages.MaxBytes = 1<<20 + 1 }, "Rates.Bytes"},
		{"T15 byte burst = message", func(c *wsguard.Config) { c.Messages.MaxBytes = 1 << 20 }, ""},
		{"T15 no byte rate", func(c *wsguard.Config) { c.Messages.MaxBytes = 1 << 29; c.Rates.Bytes.PerSecond = wsguard.Off }, ""},
		{"T15 longest ban < first", func(c *wsguard.Config) { c.Penalties.First, c.Penalties.Max = time.Hour, time.Hour-1 }, "Penalties.Max"},
		{"T15 longest ban = first", func(c *wsguard.Config) { c.Penalties.First, c.Penalties.Max = time.Hour, time.Hour }, ""},
		{"T15 first ban > default longest", func(c *wsguard.Config) { c.Penalties.First = 2 * time.Hour }, ""},
		{"T15 longest ban < default first", func(c *wsguard.Config) { c.Penalties.Max = time.Second }, ""},
		{"T15 action", func(c *wsguard.Config) { c.Rates.Action = 9 }, "Rates.Action"},
		{"T15 delay of what is invalid", func(c *wsguard.Config) { c.Messages.OnInvalid = wsguard.ActionDelay }, "Messages.OnInvalid"},
	}
	for _, origin := range []string{
		"*", "https://*", "*.example.com", "app.example.com", "https://app.example.com/", "https://a.*.example.com", "https://*.com",
		"https://*.co.uk", "https://u@app.example.com", "wss://app.example.com", "https://app.example.com:0", "", " ", "https://äpp.test", "NULL",
		"https://*app.example.com", "https://app.example.com, https://b.example.com", "https://*.*.example.com", "https://*.1.2.3",
	} {
		tests = append(tests, fault{"T15 origin " + origin, func(c *wsguard.Config) { c.Origins = []string{appOrigin, origin} }, "Origins"})
	}
	for _, host := range []string{"*", "https://app.example.com", "*.com", "a b", "app.example.com:99999"} {
		tests = append(tests, fault{"T15 host " + host, func(c *wsguard.Config) { c.Hosts = []string{host} }, "Hosts"})
	}
	for field, rate := range map[string]func(*wsguard.Config) *wsguard.Rate{
		"Rates.Messages": func(c *wsguard.Config) *wsguard.Rate { return &c.Rates.Messages }, "Rates.Bytes": func(c *wsguard.Config) *wsguard.Rate { return &c.Rates.Bytes },
		"Rates.ClientMessages": func(c *wsguard.Config) *wsguard.Rate { return &c.Rates.ClientMessages }, "Rates.ClientBytes": func(c *wsguard.Config) *wsguard.Rate { return &c.Rates.ClientBytes },
		"Rates.SubjectMessages": func(c *wsguard.Config) *wsguard.Rate { return &c.Rates.SubjectMessages }, "Rates.SubjectBytes": func(c *wsguard.Config) *wsguard.Rate { return &c.Rates.SubjectBytes },
		"Rates.Handshakes": func(c *wsguard.Config) *wsguard.Rate { return &c.Rates.Handshakes }, "Auth.Failures": func(c *wsguard.Config) *wsguard.Rate { return &c.Auth.Failures },
		"Messages.ControlFrames": func(c *wsguard.Config) *wsguard.Rate { return &c.Messages.ControlFrames },
	} {
		for name, r := range map[string]wsguard.Rate{
			"NaN": nan, "infinite": {PerSecond: math.Inf(1), Burst: 1}, "negative": {PerSecond: -2, Burst: 1}, "-Inf": {PerSecond: math.Inf(-1), Burst: 1},
			"above 2^32": {PerSecond: 1<<32 + 1, Burst: 1 << 30}, "far above 2^32": {PerSecond: math.MaxFloat64, Burst: 1 << 30},
			"negative burst": {PerSecond: 1, Burst: -2}, "rate without burst": {PerSecond: 1}, "-0.5": {PerSecond: -0.5, Burst: 1}, "burst Off": {PerSecond: 1, Burst: wsguard.Off},
		} {
			tests = append(tests, fault{"T50 " + field + " " + name, func(c *wsguard.Config) { *rate(c) = r }, field})
		}
		for name, r := range map[string]wsguard.Rate{
			"Off": {PerSecond: wsguard.Off}, "Off, Off": {PerSecond: wsguard.Off, Burst: wsguard.Off}, "large": {PerSecond: 1e9, Burst: 1e9}, "largest": {PerSecond: 1 << 32, Burst: math.MaxInt32}, "zero": {},
		} {
			tests = append(tests, fault{"T50 " + field + " " + name, func(c *wsguard.Config) { *rate(c) = r }, ""})
		}
	}
	for field, n := range map[string]func(*wsguard.Config) *int{
		"Caps.MaxConns": func(c *wsguard.Config) *int { return &c.Caps.MaxConns }, "Caps.MaxConnsPerClient": func(c *wsguard.Config) *int { return &c.Caps.MaxConnsPerClient },
		"Caps.MaxConnsPerNetwork": func(c *wsguard.Config) *int { return &c.Caps.MaxConnsPerNetwork }, "Caps.MaxConnsPerSubject": func(c *wsguard.Config) *int { return &c.Caps.MaxConnsPerSubject },
		"Caps.MaxUnauthenticated": func(c *wsguard.Config) *int { return &c.Caps.MaxUnauthenticated }, "Rates.MaxInFlight": func(c *wsguard.Config) *int { return &c.Rates.MaxInFlight },
		"Rates.MaxInFlightPerClient": func(c *wsguard.Config) *int { return &c.Rates.MaxInFlightPerClient }, "Messages.MaxFragments": func(c *wsguard.Config) *int { return &c.Messages.MaxFragments },
	} {
		tests = append(tests,
			fault{"T50 " + field + " -2", func(c *wsguard.Config) { *n(c) = -2 }, field},
			fault{"T50 " + field + " Off", func(c *wsguard.Config) { *n(c) = wsguard.Off }, ""})
	}
	type duration struct {
		d        func(*wsguard.Config) *time.Duration
		required bool
	}
	for field, d := range map[string]duration{
		"Timeouts.PingInterval": {func(c *wsguard.Config) *time.Duration { return &c.Timeouts.PingInterval }, false}, "Timeouts.Pong": {func(c *wsguard.Config) *time.Duration { return &c.Timeouts.Pong }, false},
		"Timeouts.Idle": {func(c *wsguard.Config) *time.Duration { return &c.Timeouts.Idle }, false}, "Timeouts.Lifetime": {func(c *wsguard.Config) *time.Duration { return &c.Timeouts.Lifetime }, false},
		"Messages.Timeout": {func(c *wsguard.Config) *time.Duration { return &c.Messages.Timeout }, false}, "Timeouts.Write": {func(c *wsguard.Config) *time.Duration { return &c.Timeouts.Write }, true},
		"Timeouts.CloseGrace": {func(c *wsguard.Config) *time.Duration { return &c.Timeouts.CloseGrace }, true}, "Timeouts.Linger": {func(c *wsguard.Config) *time.Duration { return &c.Timeouts.Linger }, true},
		"Penalties.First": {func(c *wsguard.Config) *time.Duration { return &c.Penalties.First }, true}, "Penalties.Max": {func(c *wsguard.Config) *time.Duration { return &c.Penalties.Max }, true},
		"Auth.VerifyTimeout": {func(c *wsguard.Config) *time.Duration { return &c.Auth.VerifyTimeout }, true}, "Auth.FirstMessageTimeout": {func(c *wsguard.Config) *time.Duration { return &c.Auth.FirstMessageTimeout }, true},
	} {
		off := ""
		if d.required {
			off = field
		}
		tests = append(tests,
			fault{"T50 " + field + " -1 s", func(c *wsguard.Config) { *d.d(c) = -time.Second }, field},
			fault{"T50 " + field + " Off", func(c *wsguard.Config) { *d.d(c) = wsguard.Off }, off})
	}
	for field, n := range map[string]func(*wsguard.Config) *int64{
		"Messages.MaxBytes": func(c *wsguard.Config) *int64 { return &c.Messages.MaxBytes }, "Auth.FirstMessageBytes": func(c *wsguard.Config) *int64 { return &c.Auth.FirstMessageBytes },
		"Send.MaxBytes": func(c *wsguard.Config) *int64 { return &c.Send.MaxBytes }, "Send.MaxTotalBytes": func(c *wsguard.Config) *int64 { return &c.Send.MaxTotalBytes },
	} {
		tests = append(tests,
			fault{"T50 " + field + " Off", func(c *wsguard.Config) { *n(c) = wsguard.Off }, field},
			fault{"T50 " + field + " -2", func(c *wsguard.Config) { *n(c) = -2 }, field})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}}
			tt.edit(&cfg)
			g, err := wsguard.New(cfg)
			fields := faultsOf(t, err)
			if tt.field == "" {
				if err != nil || g == nil {
					t.Errorf("%v", err)
				}
				return
			}
			if g != nil {
				t.Error("a Guard beside the error")
			}
			// What follows from it may be named as well.
			if !slices.Contains(fields, tt.field) {
				t.Errorf("faults %v, want %s: %v", fields, tt.field, err)
			}
		})
	}
}

// T15: all of them at once.
func TestConfigEveryFault(t *testing.T) {
	_, err := wsguard.New(wsguard.Config{
		Origins:  []string{"*", "https://ok.example.com", "ftp://x"},
		Hosts:    []string{"*"},
		Proxies:  wsguard.Proxies{Trusted: []string{"x"}, Header: "a b"},
		Auth:     wsguard.AuthConfig{Sources: wsguard.TokenSources{Cookie: "c"}, Failures: wsguard.Rate{PerSecond: 1}, VerifyTimeout: -1, Tickets: &wsguard.TicketConfig{TTL: -1, MaxTotal: -2}},
		Caps:     wsguard.CapConfig{MaxConns: -2},
		Rates:    wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: math.NaN()}, Action: -1},
		Messages: wsguard.MessageConfig{MaxBytes: -1, Validators: map[string]wsguard.Validator{"x": nil}},
		Timeouts: wsguard.TimeoutConfig{Write: -5, PingInterval: -5},

		Subprotocols: []string{""},
		CloseCodes:   map[*reason.Reason]wsguard.StatusCode{reason.Idle: 999},
	})
	fields := faultsOf(t, err)
	for _, want := range []string{
		"Origins", "Hosts", "Proxies", "Auth.Verifier", "Auth.Failures", "Auth.VerifyTimeout", "Auth.Tickets.TTL", "Auth.Tickets.MaxTotal",
		"Caps.MaxConns", "Rates.Messages", "Rates.Action", "Messages.MaxBytes", "Messages.Validators", "Timeouts.Write", "Timeouts.PingInterval", "Subprotocols", "CloseCodes",
	} {
		if !slices.Contains(fields, want) {
			t.Errorf("%s is not among the faults: %v", want, fields)
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return f != "Origins" })); n != 2 {
		t.Errorf("%d faults of Origins, want 2", n)
	}
}

// A Guard keeps nothing of its Config that the caller can change.
func TestConfigCopies(t *testing.T) {
	origins, hosts, subprotocols := []string{appOrigin}, []string{"127.0.0.1"}, []string{"chat"}
	codes := map[*reason.Reason]wsguard.StatusCode{reason.MessageType: 4003}
	e := serveGuard(t, wsguard.Config{Origins: origins, Hosts: hosts, Subprotocols: subprotocols, CloseCodes: codes, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}})
	origins[0], hosts[0], subprotocols[0] = "https://evil.test", "evil.test", "evil"
	clear(codes)
	c, res := e.try(header("Authorization", "Bearer alice", "Sec-WebSocket-Protocol", "evil, chat"))
	if res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Protocol") != "chat" {
		t.Errorf("status %d %v", res.StatusCode, res.Header)
	}
	c.Write([]byte{0x82, 0x80, 0, 0, 0, 0})
	wantClose(t, c, 4003, "message_type")
}

func TestConfigPieces(t *testing.T) {
	for name, f := range map[string]func() (any, error){
		"NewOriginCheck": func() (any, error) { return wsguard.NewOriginCheck(wsguard.Config{}) },
		"NewHostCheck":   func() (any, error) { return wsguard.NewHostCheck(wsguard.Config{Hosts: nil}) },
		"NewTLSCheck": func() (any, error) {
			return wsguard.NewTLSCheck(wsguard.Config{Proxies: wsguard.Proxies{Trusted: []string{"x"}}})
		},
		"NewAuthenticator": func() (any, error) { return wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{}}) },
		"NewAuthenticator, first message": func() (any, error) {
			return wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true}}})
		},
		"NewAuthenticator, tickets": func() (any, error) {
			return wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Tickets: &wsguard.TicketConfig{}}})
		},
		"NewConnCap": func() (any, error) { return wsguard.NewConnCap(wsguard.Config{Caps: wsguard.CapConfig{MaxConns: -3}}) },
	} {
		if _, err := f(); len(faultsOf(t, err)) == 0 {
			t.Errorf("%s: no fault", name)
		}
	}
	g := must(wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}}))
	for name, tt := range map[string]struct {
		cfg    wsguard.EndpointConfig
		fields []string
	}{
		"Endpoint":             {wsguard.EndpointConfig{Messages: wsguard.MessageConfig{MaxBytes: -1}}, []string{"Messages.MaxBytes"}},
		"Endpoint, byte burst": {wsguard.EndpointConfig{Messages: wsguard.MessageConfig{MaxBytes: 1 << 29}}, []string{"Rates.Bytes", "Rates.ClientBytes", "Rates.SubjectBytes"}},
		"Endpoint, two faults": {wsguard.EndpointConfig{Subprotocols: []string{"a b"}, Messages: wsguard.MessageConfig{MaxBytes: -1}}, []string{"Messages.MaxBytes", "Subprotocols"}},
	} {
		e, err := g.Endpoint(tt.cfg)
		fields := faultsOf(t, err)
		slices.Sort(fields)
		if e != nil || !slices.Equal(fields, tt.fields) {
			t.Errorf("%s: faults %v, want %v; an Endpoint: %t", name, fields, tt.fields, e != nil)
		}
	}
	if e, err := g.Endpoint(wsguard.EndpointConfig{}); e == nil || err != nil {
		t.Errorf("Endpoint: %v, %v", e, err)
	}
	// A failed Endpoint is no part of the Guard, which can still be reconfigured.
	if err := g.Reconfigure(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}}); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]func(){
		"TicketHandler without": func() {
			g.TicketHandler(func(*http.Request) (wsguard.Principal, error) { return wsguard.Principal{}, nil })
		},
	} {
		func() {
			defer func() {
				if v := recover(); v == nil {
					t.Errorf("%s: no panic", name)
				} else if s := fmt.Sprint(v); !strings.HasPrefix(s, "wsguard: ") {
					t.Errorf("%s: %s", name, s)
				}
			}()
			f()
		}()
	}
}

// What a constructor returns beside an error refuses every request: some callers
// ignore the error.
func TestConfigPiecesFailClosed(t *testing.T) {
	bad := wsguard.Proxies{Trusted: []string{"x"}}
	first := wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Header: true, FirstMessage: true}}
	type piece interface {
		Handler(http.Handler) http.Handler
	}
	check := func(c *wsguard.RequestCheck, err error) (piece, error) { return c, err }
	auth := func(a *wsguard.Authenticator, err error) (piece, error) { return a, err }
	for name, f := range map[string]func() (piece, error){
		"host, nil":   func() (piece, error) { return check(wsguard.NewHostCheck(wsguard.Config{Hosts: nil})) },
		"host, empty": func() (piece, error) { return check(wsguard.NewHostCheck(wsguard.Config{Hosts: []string{}})) },
		"host, one bad entry": func() (piece, error) {
			return check(wsguard.NewHostCheck(wsguard.Config{Hosts: []string{"example.com", "*"}}))
		},
		"origin, nothing": func() (piece, error) { return check(wsguard.NewOriginCheck(wsguard.Config{})) },
		"origin, bad entry": func() (piece, error) {
			return check(wsguard.NewOriginCheck(wsguard.Config{Origins: []string{appOrigin, "*"}}))
		},
		"origin, only reporting": func() (piece, error) {
			return check(wsguard.NewOriginCheck(wsguard.Config{InsecureReportOnlyOrigins: true}))
		},
		"origin, missing allowed": func() (piece, error) {
			return check(wsguard.NewOriginCheck(wsguard.Config{Origins: []string{"*"}, AllowMissingOrigin: true}))
		},
		"TLS": func() (piece, error) { return check(wsguard.NewTLSCheck(wsguard.Config{Proxies: bad})) },
		"auth, proxies": func() (piece, error) {
			return auth(wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}, Proxies: bad}))
		},
		"auth, nobody": func() (piece, error) {
			return auth(wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{}}))
		},
		"auth, first message": func() (piece, error) { return auth(wsguard.NewAuthenticator(wsguard.Config{Auth: first})) },
		"auth, only reporting": func() (piece, error) {
			return auth(wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{InsecureReportOnly: true}}))
		},
		"auth, anonymous": func() (piece, error) {
			return auth(wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{InsecureAnonymous: true, Sources: wsguard.TokenSources{Header: true}}}))
		},
		"cap": func() (piece, error) {
			l, err := wsguard.NewConnCap(wsguard.Config{Caps: wsguard.CapConfig{}, Proxies: bad})
			return l, err
		},
	} {
		p, err := f()
		if err == nil {
			t.Errorf("%s: no fault", name)
		}
		for how, r := range map[string]*http.Request{
			"":                 upgradeRequest(),
			"no origin":        withHeader(upgradeRequest(), "Origin", ""),
			"with a token":     withHeader(upgradeRequest(), "Authorization", "Bearer alice"),
			"cross-site, POST": {Method: "POST", RemoteAddr: "192.0.2.1:1", Host: "evil.test", Header: http.Header{"Origin": {"https://evil.test"}}},
		} {
			w := httptest.NewRecorder()
			passed := false
			p.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true })).ServeHTTP(w, r)
			if passed || w.Code < 400 {
				t.Errorf("%s: status %d for a request (%s), passed: %t", name, w.Code, how, passed)
			}
			if c, ok := p.(*wsguard.RequestCheck); ok && c.Check(r) == nil {
				t.Errorf("%s: Check lets a request pass (%s)", name, how)
			}
		}
	}
}

// hijackable is a ResponseWriter that a Guard takes for one of a server.
type hijackable struct{ http.ResponseWriter }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.ErrUnsupported
}

// What is too large is told how large it may be, and nothing else.
func TestConfigTooLarge(t *testing.T) {
	const most = math.MaxInt / 2
	off := wsguard.Rate{PerSecond: wsguard.Off}
	base := func() wsguard.Config {
		return wsguard.Config{
			Origins: []string{appOrigin},
			Auth:    wsguard.AuthConfig{InsecureAnonymous: true},
			Rates:   wsguard.RateConfig{Bytes: off, ClientBytes: off, SubjectBytes: off},
		}
	}
	bytes := map[string]func(*wsguard.Config, int64){
		"Messages.MaxBytes":      func(c *wsguard.Config, n int64) { c.Messages.MaxBytes = n },
		"Auth.FirstMessageBytes": func(c *wsguard.Config, n int64) { c.Auth.FirstMessageBytes = n },
		"Send.MaxBytes":          func(c *wsguard.Config, n int64) { c.Send.MaxBytes = n },
		"Send.MaxTotalBytes":     func(c *wsguard.Config, n int64) { c.Send.MaxTotalBytes = n },
		"Send.MaxMessages":       func(c *wsguard.Config, n int64) { c.Send.MaxMessages = int(min(n, math.MaxInt)) },
	}
	for field, set := range bytes {
		for _, n := range []int64{most + 1, math.MaxInt64 - 1, math.MaxInt64} {
			cfg := base()
			set(&cfg, n)
			_, err := wsguard.New(cfg)
			if fields := faultsOf(t, err); len(fields) != 1 || fields[0] != field || !strings.Contains(err.Error(), fmt.Sprintf("at most %d,", int64(most))) {
				t.Errorf("%s %d: %v", field, n, err)
			}
		}
		cfg := base()
		set(&cfg, most)
		if _, err := wsguard.New(cfg); err != nil {
			t.Errorf("%s: the largest value: %v", field, err)
		}
	}
	times := map[string]func(*wsguard.Config) *time.Duration{
		"Timeouts.Lifetime":   func(c *wsguard.Config) *time.Duration { return &c.Timeouts.Lifetime },
		"Timeouts.CloseGrace": func(c *wsguard.Config) *time.Duration { return &c.Timeouts.CloseGrace },
	}
	for field, d := range times {
		cfg := base()
		*d(&cfg) = math.MaxInt64
		_, err := wsguard.New(cfg)
		if fields := faultsOf(t, err); len(fields) != 1 || fields[0] != field || !strings.Contains(err.Error(), "must be at most") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// A rate that is named is never clipped. A default that is computed from another field is.
func TestConfigLargestRates(t *testing.T) {
	const most = 1 << 32
	base := func(r wsguard.RateConfig) wsguard.Config {
		return wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Rates: r}
	}
	for _, r := range []wsguard.Rate{{PerSecond: most + 1, Burst: 100}, {PerSecond: 1e300, Burst: 100}} {
		_, err := wsguard.New(base(wsguard.RateConfig{Messages: r}))
		if fields := faultsOf(t, err); len(fields) != 1 || fields[0] != "Rates.Messages" || !strings.Contains(err.Error(), "at most 4294967296 (2^32) per second") {
			t.Errorf("%+v: %v", r, err)
		}
		if _, err := wsguard.New(base(wsguard.RateConfig{SentBytes: r})); err == nil {
			t.Errorf("SentBytes %+v: no error", r)
		}
		cfg := base(wsguard.RateConfig{})
		cfg.Penalties.Violations = r
		if _, err := wsguard.New(cfg); err == nil {
			t.Errorf("Penalties.Violations %+v: no error", r)
		}
	}
	if math.MaxInt > 1<<34 {
		tooMuch := int(min(math.MaxInt-1, int64(1<<34)))
		_, err := wsguard.New(base(wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: 1, Burst: tooMuch + 1}}))
		if fields := faultsOf(t, err); len(fields) != 1 || !strings.Contains(err.Error(), "at most 17179869184 (2^34)") {
			t.Error(err)
		}
	}
	for _, burst := range []int{1 << 30, math.MaxInt32} {
		g, err := wsguard.New(base(wsguard.RateConfig{
			Messages: wsguard.Rate{PerSecond: most, Burst: burst}, Bytes: wsguard.Rate{PerSecond: most / 8, Burst: burst},
		}))
		if err != nil {
			t.Fatal(err)
		}
		capped := func(n int64) int { return int(min(n*int64(burst), 1<<34, math.MaxInt)) }
		r := g.Resolved().Rates
		for _, tt := range []struct {
			name string
			got  wsguard.Rate
			want wsguard.Rate
		}{
			{"Messages", r.Messages, wsguard.Rate{PerSecond: most, Burst: burst}},
			{"ClientMessages", r.ClientMessages, wsguard.Rate{PerSecond: most, Burst: capped(16)}},
			{"SubjectMessages", r.SubjectMessages, wsguard.Rate{PerSecond: most, Burst: capped(4)}},
			{"ClientBytes", r.ClientBytes, wsguard.Rate{PerSecond: most, Burst: capped(16)}},
			{"SubjectBytes", r.SubjectBytes, wsguard.Rate{PerSecond: most / 2, Burst: capped(4)}},
		} {
			if tt.got != tt.want {
				t.Errorf("%s is %+v, want %+v", tt.name, tt.got, tt.want)
			}
		}
	}
}

package wsguard_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
)

// TestMethodAndSchemeOfRecords refuses requests of many kinds. The record says which method they
// had, and in which scheme the client has come.
func TestMethodAndSchemeOfRecords(t *testing.T) {
	for name, tt := range map[string]struct {
		method, remote, proto string
		tls                   bool
		wantMethod, want      string
	}{
		"clear text":                    {method: "GET", want: "http", wantMethod: "GET"},
		"TLS":                           {method: "POST", tls: true, want: "https", wantMethod: "POST"},
		"a trusted proxy says https":    {method: "GET", remote: "10.0.0.1:1", proto: "https", want: "https", wantMethod: "GET"},
		"a trusted proxy says http":     {method: "GET", remote: "10.0.0.1:1", proto: "http", tls: true, want: "http", wantMethod: "GET"},
		"a stranger says https":         {method: "GET", remote: "192.0.2.1:1", proto: "https", want: "http", wantMethod: "GET"},
		"a method that nobody knows":    {method: "BREW\x00\xff", want: "http", wantMethod: `BREW\u0000\xff`},
		"a peer without an address":     {method: "GET", remote: "@", want: "http", wantMethod: "GET"},
		"a trusted proxy says nonsense": {method: "GET", remote: "10.0.0.1:1", proto: "gopher, https", want: "http", wantMethod: "GET"},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan audit.HandshakeRefused, 1)
			g := must(wsguard.New(wsguard.Config{
				Origins: []string{"https://a.example"}, Auth: wsguard.AuthConfig{InsecureAnonymous: true},
				Proxies: wsguard.Proxies{Trusted: []string{"10.0.0.0/8"}}, Logger: slog.New(slog.DiscardHandler),
				Observer: func(_ context.Context, r audit.Record) {
					if r, ok := r.(audit.HandshakeRefused); ok {
						got <- r
					}
				},
			}))
			r := httptest.NewRequest(http.MethodGet, "/ws?secret=1", nil)
			r.Method = tt.method
			if tt.remote != "" {
				r.RemoteAddr = tt.remote
			}
			if tt.proto != "" {
				r.Header.Set("X-Forwarded-Proto", tt.proto)
			}
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			g.Handler(func(context.Context, *wsguard.Conn) error { return nil }).ServeHTTP(httptest.NewRecorder(), r)
			if r := <-got; r.Method != tt.wantMethod || r.Scheme != tt.want || r.Path != "/ws" {
				t.Errorf("%q %q %q, want %q %q", r.Method, r.Scheme, r.Path, tt.wantMethod, tt.want)
			}
		})
	}
}

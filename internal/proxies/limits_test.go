package proxies

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/wstest"
)

// What docs/comparison.md says about the limits of proxies: they count the handshakes and the
// connections of a client, and no messages. There is no guard behind the proxy.
func TestLimitsOfProxies(t *testing.T) {
	for _, test := range []struct {
		proxy  string
		status int
		pairs  []string // what is replaced in the block of the page
	}{
		{"nginx", 503, []string{
			"server {\n", "limit_conn_zone $binary_remote_addr zone=conns:1m;\n" +
				"limit_req_zone $binary_remote_addr zone=requests:1m rate=1r/m;\nserver {\n",
			"location = /ws {\n", "location = /ws {\n\t\tlimit_conn conns 2;\n\t\tlimit_req zone=requests burst=3 nodelay;\n",
		}},
		{"haproxy", 429, []string{
			"default_backend app\n", "stick-table type ip size 1k expire 10m store conn_cur,http_req_rate(10m)\n" +
				"\thttp-request track-sc0 src\n" +
				"\thttp-request deny deny_status 429 if { sc_conn_cur(0) gt 2 }\n" +
				"\thttp-request deny deny_status 429 if { sc_http_req_rate(0) gt 4 }\n" +
				"\tdefault_backend app\n",
		}},
	} {
		t.Run(test.proxy, func(t *testing.T) {
			t.Parallel()
			backend := httptest.NewServer(http.HandlerFunc(plainEcho))
			t.Cleanup(backend.Close)
			p := proxyNamed(t, test.proxy)
			block := substitute(t, blocks(t, p.language)[0], test.pairs...)
			r := p.start(t, block, "127.0.0.1:8080", backend.Listener.Addr().String())

			t.Run("connections", func(t *testing.T) {
				r.open(t, "127.0.0.3", "/ws", nil)
				r.open(t, "127.0.0.3", "/ws", nil)
				if _, res := r.try(t, "127.0.0.3", true, "/ws", nil); res.StatusCode != test.status {
					t.Errorf("the third connection gets %s", res.Status)
				}
				r.open(t, "127.0.0.4", "/ws", nil) // of another client
			})
			t.Run("handshakes", func(t *testing.T) {
				for range 4 {
					c := r.open(t, "127.0.0.5", "/ws", nil)
					end(t, c)
				}
				if _, res := r.try(t, "127.0.0.5", true, "/ws", nil); res.StatusCode != test.status {
					t.Errorf("the fifth handshake gets %s", res.Status)
				}
			})
			t.Run("no messages", func(t *testing.T) {
				c := r.open(t, "127.0.0.6", "/ws", nil)
				for range 500 {
					wantEcho(t, c, "hello")
				}
				wantEcho(t, c, strings.Repeat("x", largest))
			})
		})
	}
}

func proxyNamed(t *testing.T, name string) *proxy {
	for _, p := range allProxies {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("the test knows no proxy %s", name)
	return nil
}

// end closes a connection and waits for the end of its stream, so that the proxy counts it no more.
func end(t *testing.T, c *wstest.Client) {
	if err := c.WriteFrame(wstest.CloseFrame(1000, "")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.ReadClose(); err != nil {
		t.Fatal(err)
	}
	if err := c.ReadEOF(); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

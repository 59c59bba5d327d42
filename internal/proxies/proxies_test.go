package proxies

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// forged is what a client may send to be taken for somebody else over TLS.
var forged = http.Header{
	"X-Forwarded-For": {"192.0.2.66", "192.0.2.67"}, "x-forwarded-for": {"192.0.2.68"}, "X-Real-IP": {"192.0.2.66"},
	"X-Forwarded-Proto": {"https", "wss"}, "Forwarded": {"for=192.0.2.66;proto=https"},
}

// hopByHop asks the proxy to remove the headers that it sets itself.
var hopByHop = http.Header{"Connection": {"Upgrade, X-Forwarded-For, X-Forwarded-Proto, close"}}

// each runs a test in front of each proxy.
func each(t *testing.T, f func(t *testing.T, p *proxy)) {
	for _, p := range allProxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			f(t, p)
		})
	}
}

// The blocks of docs/operations.md do what the page says.
func TestBlocks(t *testing.T) {
	each(t, func(t *testing.T, p *proxy) {
		s := serveTCP(t, func(*wsguard.Config) {})
		r := p.start(t, blocks(t, p.language)[0], "127.0.0.1:8080", s.addr)

		t.Run("a good client", func(t *testing.T) {
			c := r.open(t, "127.0.0.3", "/ws", nil)
			wantEcho(t, c, "hello")
			if e := s.last(t, audit.Open); e.Client != "127.0.0.3" || e.Host != host+":"+r.https {
				t.Errorf("the client is %s and the host %s", e.Client, e.Host)
			}
			wantEcho(t, c, strings.Repeat("x", largest))
		})
		t.Run("Wrap", func(t *testing.T) {
			c := r.open(t, "127.0.0.3", "/ws?wrap", nil)
			wantEcho(t, c, "hello")
			wantEcho(t, c, strings.Repeat("x", largest))
		})
		t.Run("same origin", func(t *testing.T) {
			own := origin + ":" + r.https
			wantEcho(t, r.open(t, "127.0.0.3", "/ws?same", http.Header{"Origin": {own}}), "hello")
			for _, other := range []string{origin, "http://" + host + ":" + r.https, "https://evil.test"} {
				if _, res := r.try(t, "127.0.0.3", true, "/ws?same", http.Header{"Origin": {other}, "X-Forwarded-Host": {"evil.test"}}); res.StatusCode != 403 {
					t.Errorf("a page of %s: %s", other, res.Status)
				}
			}
		})
		t.Run("limits of two clients", func(t *testing.T) {
			r.open(t, "127.0.0.4", "/ws", nil)
			r.open(t, "127.0.0.4", "/ws", nil)
			for _, header := range []http.Header{nil, forged, hopByHop} {
				if _, res := r.try(t, "127.0.0.4", true, "/ws", header); res.StatusCode != 429 {
					t.Errorf("the third connection: status %d with the header %v", res.StatusCode, header)
				}
				if e := s.last(t, audit.Refusal); e.Reason != "max_client_conns" || e.Client != "127.0.0.4" {
					t.Errorf("%+v", e)
				}
			}
			r.open(t, "127.0.0.5", "/ws", nil)
		})
		t.Run("forged headers", func(t *testing.T) {
			for _, header := range []http.Header{forged, {"X-Forwarded-Proto": {"http"}}, hopByHop} {
				c := r.open(t, "127.0.0.6", "/ws", header)
				wantEcho(t, c, "hello") // the event comes before
				if e := s.last(t, audit.Open); e.Client != "127.0.0.6" {
					t.Errorf("the client is %s with the header %v", e.Client, header)
				}
				c.Close()
				waitFor(t, "the slot is back", func() bool { return len(s.closed("127.0.0.6")) == len(s.opened("127.0.0.6")) })
			}
		})
		t.Run("clear text", func(t *testing.T) {
			for _, header := range []http.Header{nil, forged, hopByHop} {
				_, res := r.try(t, "127.0.0.7", false, "/ws", header)
				if res.StatusCode != 403 || res.Header.Get("Location") != "" {
					t.Errorf("status %d with the header %v", res.StatusCode, header)
				}
				if e := s.last(t, audit.Refusal); e.Reason != "insecure_transport" || e.Client != "127.0.0.7" {
					t.Errorf("%+v", e)
				}
			}
		})
		t.Run("pages", func(t *testing.T) {
			if res, _ := r.get(t, "127.0.0.8", false, "/a?b=c"); res.StatusCode/100 != 3 || res.Header.Get("Location") != "https://"+host+"/a?b=c" && res.Header.Get("Location") != "https://"+host+":"+r.http+"/a?b=c" {
				t.Errorf("clear text: %s, to %s", res.Status, res.Header.Get("Location"))
			}
			if res, body := r.get(t, "127.0.0.8", true, "/a?b=c"); res.StatusCode != 200 || body != "127.0.0.8 by https at "+host+":"+r.https {
				t.Errorf("TLS: %s %s", res.Status, body)
			}
		})
		if ws := s.events(audit.Warning); len(ws) > 0 {
			t.Errorf("%+v", ws)
		}
	})
}

// Pings keep a connection through a proxy that cuts silent ones, and through timeouts of the
// proxy for a request.
func TestIdle(t *testing.T) {
	each(t, func(t *testing.T, p *proxy) {
		s := serveTCP(t, func(cfg *wsguard.Config) {
			cfg.Timeouts.PingInterval, cfg.Timeouts.Pong = 200*time.Millisecond, wsguard.Off
		})
		pairs := []string{"127.0.0.1:8080", s.addr}
		if p.timeout != "" {
			pairs = append(pairs, p.timeout, p.brief)
		}
		r := p.start(t, blocks(t, p.language)[0], pairs...)
		paths := []string{"/ws", "/ws?wrap", "/ws?silent"}
		conns, ends := make([]*wstest.Client, len(paths)), make([]error, len(paths))
		for i, path := range paths {
			conns[i] = r.open(t, "127.0.0.3", path, nil)
		}
		var wg sync.WaitGroup
		for i := range paths {
			wg.Go(func() { ends[i] = idle(conns[i], 1800*time.Millisecond) })
		}
		wg.Wait()
		for i, path := range paths {
			switch cut := p.timeout != "" && path == "/ws?silent"; {
			case cut && ends[i] == nil:
				t.Error("the proxy does not cut a silent connection, so this test shows nothing")
			case !cut && ends[i] != nil:
				t.Errorf("%s is cut: %v", path, ends[i])
			case !cut:
				wantEcho(t, conns[i], "still there")
			}
		}
	})
}

// The blocks let no client use a version of TLS before 1.2.
func TestVersions(t *testing.T) {
	each(t, func(t *testing.T, p *proxy) {
		r := p.start(t, blocks(t, p.language)[0])
		for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
			c, err := tls.Dial("tcp", "127.0.0.1:"+r.https, &tls.Config{ServerName: host, RootCAs: r.cert.pool, MinVersion: version, MaxVersion: version})
			if (err == nil) != want {
				t.Errorf("%s: %v", tls.VersionName(version), err)
			}
			if err == nil {
				c.Close()
			}
		}
	})
}

// unixRow is a row of the table of unix sockets.
var unixRow = regexp.MustCompile("(?m)^\\| (\\w+) \\| `([^`]+)` \\| `([^`]+)` \\|$")

// The blocks work with the server's address that the page has for a unix socket.
func TestUnixSocket(t *testing.T) {
	rows := map[string][]string{}
	for _, m := range unixRow.FindAllStringSubmatch(page(t), -1) {
		rows[strings.ToLower(m[1])] = []string{m[2], strings.ReplaceAll(m[3], `\|`, "|")}
	}
	each(t, func(t *testing.T, p *proxy) {
		row := rows[strings.TrimSuffix(p.name, "2")]
		if row == nil {
			t.Fatal("docs/operations.md has no row for it")
		}
		dir, err := os.MkdirTemp("", "wsguard-proxy-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		socket := filepath.Join(dir, "app.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(socket, 0o666)); err != nil { // Apache is another user
			t.Fatal(err)
		}
		s := serve(t, l, func(cfg *wsguard.Config) { cfg.Proxies.Trusted = []string{"unix"} })
		block := substitute(t, blocks(t, p.language)[0], row[0], row[1])
		r := p.start(t, block, "/run/app/app.sock", socket)
		wantEcho(t, r.open(t, "127.0.0.3", "/ws", forged), "hello")
		if e := s.last(t, audit.Open); e.Client != "127.0.0.3" {
			t.Errorf("the client is %s", e.Client)
		}
		if _, res := r.try(t, "127.0.0.3", false, "/ws", forged); res.StatusCode != 403 {
			t.Errorf("clear text: %s", res.Status)
		}

		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		res, err := wstest.NewClient(t, c).HandshakeWith(wstest.HandshakeOptions{Path: "/ws", Host: host, Header: http.Header{"Origin": {origin}, "X-Forwarded-Proto": {"https"}}})
		if err != nil || res.StatusCode != 403 {
			t.Fatalf("a peer that names no client: %v, %v", res, err)
		}
		if e := s.last(t, audit.Refusal); e.Reason != "client_address" {
			t.Errorf("%+v", e)
		}
	})
}

// Behind a CDN the block for nginx needs the other line that the page has.
func TestCDN(t *testing.T) {
	const cdn = "127.0.0.9"
	for _, tt := range []struct {
		name    string
		appends bool
		from    string
		sent    string
		client  string
	}{
		{"as it is", false, cdn, "203.0.113.5", cdn},
		{"through the CDN", true, cdn, "192.0.2.66, 203.0.113.5", "203.0.113.5"},
		{"past the CDN", true, "127.0.0.10", "192.0.2.66, 203.0.113.5", "127.0.0.10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serveTCP(t, func(cfg *wsguard.Config) {
				if tt.appends {
					cfg.Proxies.Trusted = append(cfg.Proxies.Trusted, cdn)
				}
			})
			nginx := blocks(t, "nginx")
			pairs := []string{"127.0.0.1:8080", s.addr}
			if tt.appends {
				pairs = append(pairs, "proxy_set_header X-Forwarded-For $remote_addr;\n", nginx[1])
			}
			r := allProxies[0].start(t, nginx[0], pairs...)
			wantEcho(t, r.open(t, tt.from, "/ws", http.Header{"X-Forwarded-For": {tt.sent}, "X-Forwarded-Proto": {"http"}}), "hello")
			if e := s.last(t, audit.Open); e.Client != tt.client {
				t.Errorf("the client is %s, want %s", e.Client, tt.client)
			}
		})
	}
}

// In Apache each WebSocket keeps a thread, so that the next client has to wait.
func TestApacheThreads(t *testing.T) {
	t.Parallel()
	s := serveTCP(t, func(*wsguard.Config) {})
	p := *allProxies[slices.IndexFunc(allProxies, func(p *proxy) bool { return p.name == "apache2" })]
	p.threads = 2
	r := p.start(t, blocks(t, p.language)[0], "127.0.0.1:8080", s.addr)
	first := r.open(t, "127.0.0.3", "/ws", nil)
	wantEcho(t, r.open(t, "127.0.0.4", "/ws", nil), "hello")
	next := r.dial(t, "127.0.0.5", true)
	next.Timeout = 500 * time.Millisecond
	hello := wstest.HandshakeOptions{Path: "/ws", Host: host, Header: http.Header{"Origin": {origin}}}
	if res, err := next.HandshakeWith(hello); err == nil {
		t.Errorf("the third handshake: %s", res.Status)
	}
	first.Close()
	wantEcho(t, r.open(t, "127.0.0.6", "/ws", nil), "hello")
}

package proxies

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

const (
	host   = "app.example.com" // of the blocks
	origin = "https://" + host
)

// certificate is one for host that the clients of the tests trust.
type certificate struct {
	dir  string // with fullchain.pem, privkey.pem and combined.pem
	pool *x509.CertPool
}

func cert(t *testing.T) (c certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{host, "localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	c.dir, c.pool = t.TempDir(), x509.NewCertPool()
	c.pool.AppendCertsFromPEM(chain)
	for name, b := range map[string][]byte{"fullchain.pem": chain, "privkey.pem": private, "combined.pem": slices.Concat(chain, private)} {
		if err := os.WriteFile(filepath.Join(c.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// server is a guarded server behind a proxy.
type server struct {
	addr string
	mu   sync.Mutex
	all  []audit.Event // guarded by mu
}

func (s *server) add(e audit.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, e)
}

// events returns the events of a kind.
func (s *server) events(kind audit.Kind) (all []audit.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.all {
		if e.Kind == kind {
			all = append(all, e)
		}
	}
	return all
}

// last returns the last event of a kind.
func (s *server) last(t *testing.T, kind audit.Kind) audit.Event {
	t.Helper()
	all := s.events(kind)
	if len(all) == 0 {
		t.Errorf("there is no event %s", kind)
		return audit.Event{}
	}
	return all[len(all)-1]
}

const largest = 1 << 20 // bytes of a message

// serve starts a server. /ws is an echo by Guard.Handler, and with the query wrap the echo of
// coder/websocket under Guard.Wrap. The query silent leads to a guard that sends no pings, and the
// query same to one that allows the pages of the same origin.
func serve(t *testing.T, l net.Listener, change func(*wsguard.Config)) *server {
	t.Helper()
	s := &server{addr: l.Addr().String()}
	guard := func(change func(*wsguard.Config)) *wsguard.Guard {
		cfg := wsguard.Config{
			Origins: []string{origin},
			Hosts:   []string{host},
			Proxies: wsguard.Proxies{Trusted: []string{"127.0.0.1"}},
			Auth:    wsguard.AuthConfig{InsecureAnonymous: true},
			Caps:    wsguard.CapConfig{MaxConnsPerClient: 2},
			Logger:  slog.New(slog.DiscardHandler),
			OnEvent: s.add,
		}
		cfg.Messages.MaxBytes = largest
		change(&cfg)
		g, err := wsguard.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := g.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		})
		return g
	}
	silent := guard(func(cfg *wsguard.Config) { change(cfg); cfg.Timeouts.PingInterval = wsguard.Off })
	same := guard(func(cfg *wsguard.Config) { change(cfg); cfg.Origins, cfg.SameOrigin = nil, true })
	doors := map[string]http.Handler{
		"":       guard(change).Handler(echo),
		"wrap":   guard(change).Wrap(http.HandlerFunc(plainEcho)),
		"silent": silent.Handler(echo),
		"same":   same.Handler(echo),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) { doors[r.URL.RawQuery].ServeHTTP(w, r) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(r.Header.Get("X-Forwarded-For") + " by " + r.Header.Get("X-Forwarded-Proto") + " at " + r.Host))
	})
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return s
}

// serveTCP is serve on a free port.
func serveTCP(t *testing.T, change func(*wsguard.Config)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, l, change)
}

func echo(ctx context.Context, c *wsguard.Conn) error {
	for {
		typ, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.Write(ctx, typ, msg); err != nil {
			return err
		}
	}
}

// plainEcho knows nothing of wsguard.
func plainEcho(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		typ, msg, err := c.Read(context.Background())
		if err != nil {
			return
		}
		if err := c.Write(context.Background(), typ, msg); err != nil {
			return
		}
	}
}

// dial connects to a port of the proxy from an address of this machine, over TLS or not.
func (r *run) dial(t *testing.T, from string, secure bool) *wstest.Client {
	t.Helper()
	port := r.http
	if secure {
		port = r.https
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	if secure {
		c = tls.Client(c, &tls.Config{ServerName: host, RootCAs: r.cert.pool, NextProtos: []string{"http/1.1"}})
	}
	return wstest.NewClient(t, c)
}

// try makes a handshake with more header fields, and returns its status.
func (r *run) try(t *testing.T, from string, secure bool, path string, header http.Header) (*wstest.Client, *http.Response) {
	t.Helper()
	c := r.dial(t, from, secure)
	h := http.Header{"Origin": {origin}}
	for name, values := range header {
		h[name] = values
	}
	port := r.http
	if secure {
		port = r.https
	}
	res, err := c.HandshakeWith(wstest.HandshakeOptions{Path: path, Host: host + ":" + port, Header: h})
	if err != nil {
		t.Fatalf("the handshake from %s: %v", from, err)
	}
	return c, res
}

// open is try over TLS for a handshake that must succeed.
func (r *run) open(t *testing.T, from, path string, header http.Header) *wstest.Client {
	t.Helper()
	c, res := r.try(t, from, true, path, header)
	if res.StatusCode != 101 {
		t.Fatalf("the handshake from %s: status %d", from, res.StatusCode)
	}
	return c
}

// wantEcho sends a text and waits for its echo.
func wantEcho(t *testing.T, c *wstest.Client, text string) {
	t.Helper()
	if err := c.WriteFrame(wstest.Text(text)); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := c.ReadMessage(); err != nil || string(msg) != text {
		t.Fatalf("the echo has %d bytes, want %d: %v", len(msg), len(text), err)
	}
}

// idle answers pings for some time. It returns nil if the connection is still open then.
func idle(c *wstest.Client, d time.Duration) error {
	for until := time.Now().Add(d); ; {
		c.Timeout = time.Until(until)
		if c.Timeout <= 0 {
			c.Timeout = 0
			return nil
		}
		f, err := c.ReadFrame()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return err
		}
		if f.Opcode == wstest.OpPing {
			if err := c.WriteFrame(wstest.Pong(f.Payload)); err != nil {
				return err
			}
		}
	}
}

// get gets a page.
func (r *run) get(t *testing.T, from string, secure bool, path string) (*http.Response, string) {
	t.Helper()
	c, port := r.dial(t, from, secure), r.http
	if secure {
		port = r.https
	}
	if _, err := c.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: " + host + ":" + port + "\r\nConnection: close\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	res, err := c.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	return res, string(body)
}

// opened returns the Open events of a client.
func (s *server) opened(client string) []audit.Event { return s.of(audit.Open, client) }

// closed returns the Close events of a client.
func (s *server) closed(client string) []audit.Event { return s.of(audit.Close, client) }

func (s *server) of(kind audit.Kind, client string) []audit.Event {
	return slices.DeleteFunc(s.events(kind), func(e audit.Event) bool { return e.Client != client })
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(what + ": not within 10 s")
		}
	}
}

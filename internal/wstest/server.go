package wstest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Server is a running http.Server.
type Server struct {
	Addr   string // host:port
	URL    string // scheme and Addr, without a path
	Origin string // what a browser sends from a page of this server

	// Pipe is the listener of [ServePipe], to dial from any address; otherwise
	// nil.
	Pipe *Listener

	// HTTP is the server itself, for its Shutdown.
	HTTP *http.Server

	client *http.Client
	tls    *tls.Config // of clients; nil without TLS
	stop   func()
}

// Serve starts a server for h on a port of 127.0.0.1. Each option can change
// the http.Server before it starts. The test's end closes the server, though
// not connections that were hijacked: those belong to the handler that hijacked them.
// What the server logs goes to the test's log.
func Serve(t testing.TB, h http.Handler, opts ...func(*http.Server)) *Server {
	t.Helper()
	return serve(t, listenTCP(t), h, false, opts)
}

// ServeTLS is Serve over TLS, with a certificate that no one but
// [Server.HTTPClient] and [Server.Dial] trust.
func ServeTLS(t testing.TB, h http.Handler, opts ...func(*http.Server)) *Server {
	t.Helper()
	return serve(t, listenTCP(t), h, true, opts)
}

// ServePipe is Serve over an in-memory [Listener]. In a [testing/synctest]
// bubble it must be the bubble's own t, whose cleanups run within the bubble.
func ServePipe(t testing.TB, h http.Handler, opts ...func(*http.Server)) *Server {
	t.Helper()
	return ServeListener(t, NewListener(PipeOptions{}), h, opts...)
}

// ServeListener is Serve over a listener of the test's own, such as a
// [Listener] with small buffers. It closes l.
func ServeListener(t testing.TB, l net.Listener, h http.Handler, opts ...func(*http.Server)) *Server {
	t.Helper()
	return serve(t, l, h, false, opts)
}

// ServeTLSListener is ServeTLS over a listener of the test's own.
func ServeTLSListener(t testing.TB, l net.Listener, h http.Handler, opts ...func(*http.Server)) *Server {
	t.Helper()
	return serve(t, l, h, true, opts)
}

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("wstest: %v", err)
	}
	return l
}

func serve(t testing.TB, l net.Listener, h http.Handler, secure bool, opts []func(*http.Server)) *Server {
	t.Helper()
	errs := &testLog{t: t}
	s := &Server{Addr: l.Addr().String(), HTTP: &http.Server{Handler: h, ErrorLog: log.New(errs, "", 0)}}
	s.Pipe, _ = l.(*Listener)
	scheme := "http://"
	if secure {
		scheme = "https://"
		c, err := certificate()
		if err != nil {
			t.Fatalf("wstest: %v", err)
		}
		s.HTTP.TLSConfig = &tls.Config{Certificates: []tls.Certificate{c.cert}}
		s.tls = &tls.Config{RootCAs: c.roots, ServerName: "127.0.0.1"}
	}
	s.URL = scheme + s.Addr
	s.Origin = s.URL
	for _, opt := range opts {
		opt(s.HTTP)
	}
	transport := &http.Transport{TLSClientConfig: s.tls.Clone()}
	if s.Pipe != nil {
		transport.DialContext = s.Pipe.DialContext
	}
	s.client = &http.Client{Transport: transport, Timeout: DefaultTimeout}

	served := make(chan error, 1)
	go func() {
		if secure {
			served <- s.HTTP.ServeTLS(l, "", "")
		} else {
			served <- s.HTTP.Serve(l)
		}
	}()
	s.stop = sync.OnceFunc(func() {
		transport.CloseIdleConnections()
		s.HTTP.Close()
		l.Close() // Serve may not have got hold of it; otherwise this is the second time
		if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("wstest: the server stopped by itself: %v", err)
		}
	})
	t.Cleanup(func() {
		s.stop()
		errs.end()
	})
	return s
}

// Close stops the server before the end of the test.
func (s *Server) Close() { s.stop() }

// HTTPClient returns a client that reaches, and with TLS trusts, the server.
// Its Timeout is [DefaultTimeout].
func (s *Server) HTTPClient() *http.Client { return s.client }

// Dial returns a raw client connected to the server, over TLS if the server
// speaks it.
func (s *Server) Dial(t testing.TB) *Client {
	t.Helper()
	if s.Pipe != nil {
		conn, err := s.Pipe.Dial(context.Background())
		if err != nil {
			t.Fatalf("wstest: %v", err)
		}
		return NewClient(t, conn)
	}
	if s.tls == nil {
		return Dial(t, s.Addr)
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: DefaultTimeout}, "tcp", s.Addr, s.tls)
	if err != nil {
		t.Fatalf("wstest: %v", err)
	}
	return NewClient(t, conn)
}

// testLog writes to the log of a test while the test runs. A handler may outlive the
// test, and the log of a test that has ended panics.
type testLog struct {
	mu sync.Mutex
	t  testing.TB // nil after the end
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Logf("http.Server: %s", bytes.TrimSpace(p))
	}
	return len(p), nil
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t = nil
}

type trustedCertificate struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

// certificate is self-signed, for 127.0.0.1, ::1 and localhost.
var certificate = sync.OnceValues(func() (c trustedCertificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "wstest"},
		// In a bubble it is the year 2000.
		NotBefore:             time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return c, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return c, err
	}
	c.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	c.roots = x509.NewCertPool()
	c.roots.AddCert(leaf)
	return c, nil
})

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// program is the whole program, which serves.
type program struct {
	t      *testing.T
	origin string
	addr   string
	stop   context.CancelFunc
	done   chan error
}

func start(t *testing.T, args ...string) *program {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	p := &program{t: t, stop: stop, done: make(chan error, 1)}
	go func() {
		err := run(ctx, append([]string{"-addr", "localhost:0"}, args...), stdout, slog.New(slog.DiscardHandler))
		stdout.Close()
		p.done <- err
	}()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-p.done:
			if err != nil {
				t.Error("run:", err)
			}
		case <-time.After(15 * time.Second):
			t.Error("the program does not end")
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	p.origin = strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	p.addr = strings.TrimPrefix(p.origin, "https://")
	return p
}

// shown returns the certificate that the program shows.
func (p *program) shown() *x509.Certificate {
	p.t.Helper()
	c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// client trusts the certificate that the program shows now.
func (p *program) client() *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(p.shown())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func (p *program) dial(client *http.Client, url, origin string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client = &http.Client{Transport: client.Transport} // websocket.Dial has a context instead of a timeout
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client, HTTPHeader: http.Header{"Origin": {origin}}})
	if err == nil {
		p.t.Cleanup(func() { c.CloseNow() })
	}
	return c, err
}

// open connects as the page does.
func (p *program) open() *websocket.Conn {
	p.t.Helper()
	c, err := p.dial(p.client(), "wss://"+p.addr+"/ws", p.origin)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func wantEcho(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := c.Read(ctx); err != nil || string(msg) != text {
		t.Fatalf("%q, %v", msg, err)
	}
}

func TestTLS(t *testing.T) {
	p := start(t)
	c := p.open()
	wantEcho(t, c, "hello")
	if _, err := p.dial(p.client(), "wss://"+p.addr+"/ws", "https://evil.test"); err == nil {
		t.Error("a foreign page may connect")
	}
	if _, err := p.dial(http.DefaultClient, "ws://"+p.addr+"/ws", p.origin); err == nil {
		t.Error("a client may connect in clear text")
	}
	if c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		c.Close()
		t.Error("TLS 1.1 is accepted")
	}
	res, err := p.client().Get(p.origin)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != 200 || string(body) != string(page) || res.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("%s, %v: HSTS would be for all of localhost", res.Status, res.Header)
	}

	p.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("at the end: %v", err)
	}
}

// newCertificate returns another certificate and its key as PEM.
func newCertificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	c, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// The program uses a new certificate without a restart, and not before both files are new.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "fullchain.pem"), filepath.Join(dir, "privkey.pem")
	write := func(name string, b []byte) {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := newCertificate(t)
	write(certFile, cert)
	write(keyFile, key)
	p := start(t, "-cert", certFile, "-key", keyFile)
	c := p.open()
	old := p.shown()
	if res, err := p.client().Get(p.origin); err != nil || res.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%v, %v", res, err)
	} else {
		res.Body.Close()
	}

	cert, key = newCertificate(t)
	write(keyFile, key)
	time.Sleep(pause + 100*time.Millisecond)
	if !p.shown().Equal(old) {
		t.Error("a certificate whose key is not there yet is used")
	}
	write(certFile, cert)
	block, _ := pem.Decode(cert)
	for until := time.Now().Add(10 * time.Second); string(p.shown().Raw) != string(block.Bytes); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the new certificate is not used after 10 s")
		}
	}
	wantEcho(t, c, "still there")
	wantEcho(t, p.open(), "hello")
}

func TestFaults(t *testing.T) {
	for _, args := range [][]string{
		{"-cert", "none.pem"},
		{"-key", "none.pem"},
		{"-cert", "none.pem", "-key", "none.pem"},
		{"-origins", "*"},
		{"-addr", "localhost:65536"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := run(ctx, append([]string{"-addr", "localhost:0"}, args...), io.Discard, slog.New(slog.DiscardHandler))
		if err == nil {
			t.Errorf("%q is no fault", args)
		}
		var op *net.OpError
		if args[0] != "-addr" && errors.As(err, &op) {
			t.Errorf("%q: %v", args, err)
		}
		cancel()
	}
}

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pires/go-proxyproto"

	"github.com/wsguard/wsguard"
)

// logTo keeps what is logged.
type logTo struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logTo) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logTo) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// clients are the addresses of a guard's events, as operators see them.
func (l *logTo) clients(msg, reason string) (clients []string) {
	for line := range strings.Lines(l.String()) {
		var r struct{ Msg, Reason, Client string }
		if json.Unmarshal([]byte(line), &r) == nil && r.Msg == msg && r.Reason == reason {
			clients = append(clients, r.Client)
		}
	}
	return clients
}

type program struct {
	t    *testing.T
	addr string
	log  *logTo
}

const origin = "https://localhost:8443"

// start runs the whole program, for a balancer at 127.0.0.1. Its end leaves no
// goroutine behind.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	p := &program{t: t, log: new(logTo)}
	done := make(chan error, 1)
	go func() {
		// Nobody here is to lose to the clock, unless a test says so.
		err := run(ctx, append([]string{"-addr", "127.0.0.1:0", "-trusted", "127.0.0.1,192.0.2.0/24", "-header-timeout", "20s"}, args...), stdout, slog.New(slog.NewJSONHandler(p.log, nil)))
		stdout.Close()
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error("run:", err)
			}
		case <-time.After(15 * time.Second):
			t.Error("does not end")
		}
		for by := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(by) {
				buf := make([]byte, 64<<10)
				t.Errorf("goroutines:\n%s", buf[:runtime.Stack(buf, true)])
				return
			}
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(<-done)
	}
	p.addr = strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	return p
}

// dial opens a TCP connection from an address of this machine.
func (p *program) dial(from string) net.Conn {
	p.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", p.addr)
	if err != nil {
		p.t.Skipf("this machine cannot dial from %s: %v", from, err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

// through is a balancer that sends this before the client's bytes.
func (p *program) through(header []byte) net.Conn {
	p.t.Helper()
	c := p.dial("127.0.0.1")
	if _, err := c.Write(header); err != nil {
		p.t.Fatal(err)
	}
	return c
}

// handshake is the client's, over a connection of the balancer's. It returns the
// WebSocket, or the status of the refusal, or 0 without an answer.
func handshake(t *testing.T, scheme string, c net.Conn, header http.Header) (*websocket.Conn, int) {
	t.Helper()
	tr := &http.Transport{
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return c, nil },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // nobody trusts the certificate
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	if header == nil {
		header = http.Header{}
	}
	header.Set("Origin", origin)
	ws, res, err := websocket.Dial(ctx, scheme+"://"+c.RemoteAddr().String()+"/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}, HTTPHeader: header})
	if err != nil {
		c.Close()
		if res == nil {
			return nil, 0
		}
		return nil, res.StatusCode
	}
	t.Cleanup(func() { ws.CloseNow() })
	return ws, res.StatusCode
}

// read returns the next message.
func read(t *testing.T, ws *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, b, err := ws.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// greeted is a handshake whose client is told that it is who.
func greeted(t *testing.T, c net.Conn, who string) *websocket.Conn {
	t.Helper()
	ws, status := handshake(t, "wss", c, nil)
	if ws == nil {
		t.Fatalf("handshake of %s: %d", who, status)
	}
	if got := read(t, ws); got != "you are "+who {
		t.Errorf("%s is told %q", who, got)
	}
	return ws
}

func header(t *testing.T, version byte, client string) []byte {
	t.Helper()
	src := &net.TCPAddr{IP: net.ParseIP(client), Port: 40000}
	dst := &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 443}
	if src.IP.To4() == nil {
		dst.IP = net.ParseIP("2001:db8::1")
	}
	b, err := proxyproto.HeaderProxyFromAddrs(version, src, dst).Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The address is the client's in what the application sees and in the events,
// over TLS that the balancer only passes on.
func TestClient(t *testing.T) {
	p := start(t)
	var want []string
	for _, client := range []string{"203.0.113.7", "2001:db8:1:2::3"} {
		for _, version := range []byte{1, 2} {
			greeted(t, p.through(header(t, version, client)), client)
			want = append(want, client)
		}
	}
	// As they are on the wire, and not as this library writes them.
	greeted(t, p.through([]byte("PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n")), "203.0.113.7")
	greeted(t, p.through([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc0\x00\x02\x01\x9c\x40\x01\xbb")), "203.0.113.7")
	want = append(want, "203.0.113.7", "203.0.113.7")
	if got := p.log.clients("websocket open", ""); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("events: %q, want %q", got, want)
	}

	// What the client says of itself counts for nothing.
	ws, _ := handshake(t, "wss", p.through(header(t, 2, "203.0.113.7")), http.Header{"X-Forwarded-For": {"192.0.2.66"}, "Forwarded": {"for=192.0.2.66"}})
	if got := read(t, ws); got != "you are 203.0.113.7" {
		t.Errorf("with X-Forwarded-For: %q", got)
	}
}

// The caps are the clients', not the balancer's.
func TestCap(t *testing.T) {
	p := start(t, "-max-conns-per-client", "2")
	for i, client := range []string{"203.0.113.7", "2001:db8:1:2::1"} {
		for version := range byte(2) {
			greeted(t, p.through(header(t, version+1, client)), client)
		}
		third := []string{"203.0.113.7", "2001:db8:1:2:ffff::2"}[i] // the same /64
		if _, status := handshake(t, "wss", p.through(header(t, 2, third)), nil); status != http.StatusTooManyRequests {
			t.Errorf("third connection of %s: %d", client, status)
		}
		if got := p.log.clients("websocket refusal", "max_client_conns"); len(got) != i+1 || got[i] != third {
			t.Errorf("refusals: %q", got)
		}
	}
	greeted(t, p.through(header(t, 2, "203.0.113.8")), "203.0.113.8")
}

// silent fails unless the server ends the connection without a byte, and soon.
func silent(t *testing.T, c net.Conn, within time.Duration) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(within))
	b, err := io.ReadAll(c)
	var ne net.Error
	if len(b) > 0 || errors.As(err, &ne) && ne.Timeout() {
		t.Errorf("the server says %q, and then %v", b, err)
	}
}

// A header from somebody else is not believed, and neither is anything else that
// he says: nobody comes in past the balancer.
func TestSpoofed(t *testing.T) {
	p := start(t)
	for name, first := range map[string][]byte{
		"v1":        header(t, 1, "203.0.113.7"),
		"v2":        header(t, 2, "203.0.113.7"),
		"local":     []byte("PROXY UNKNOWN\r\n"),
		"no header": []byte("GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"nothing":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			p := &program{t, p.addr, p.log}
			c := p.dial("127.0.0.2")
			c.Write(first)
			silent(t, c, 10*time.Second)
			if _, status := handshake(t, "wss", p.dial("127.0.0.2"), nil); status != 0 {
				t.Errorf("a handshake from there: %d", status)
			}
		})
	}
	// Nobody else has had to wait for it.
	greeted(t, p.through(header(t, 2, "203.0.113.7")), "203.0.113.7")
	if got := p.log.clients("websocket open", ""); len(got) != 1 {
		t.Errorf("events: %q", got)
	}
}

// The client's own header comes after the balancer's, where it is no header but
// the beginning of a broken request.
func TestSecondHeader(t *testing.T) {
	for _, args := range [][]string{nil, {"-allow-http"}} {
		p := start(t, args...)
		c := p.through(header(t, 2, "203.0.113.7"))
		fmt.Fprintf(c, "PROXY TCP4 192.0.2.66 192.0.2.1 1 443\r\nGET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: %s\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", origin)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		b, _ := io.ReadAll(c)
		if strings.Contains(string(b), "101 ") || strings.Contains(p.log.String(), "websocket open") {
			t.Errorf("%v: upgraded: %q", args, b)
		}
	}
}

// A balancer's connection with no header, half of one, or one that makes no sense
// is cut without an answer.
func TestBadHeader(t *testing.T) {
	p := start(t, "-header-timeout", "200ms")
	for name, first := range map[string]string{
		"none":             "",
		"half of v1":       "PROXY TCP4 203.0.113.7 ",
		"half of v2":       "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00",
		"a request":        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"not an address":   "PROXY TCP4 203.0.113.777 192.0.2.1 40000 443\r\n",
		"UDP":              "\r\n\r\n\x00\r\nQUIT\n\x21\x12\x00\x0c\xcb\x00\x71\x07\xc0\x00\x02\x01\x9c\x40\x01\xbb",
		"unix":             "\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + strings.Repeat("/", 216),
		"64 KiB announced": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			p := &program{t, p.addr, p.log}
			t.Parallel()
			silent(t, p.through([]byte(first)), 5*time.Second)
		})
	}
}

// One byte at a time does not prolong it.
func TestSlowHeader(t *testing.T) {
	p := start(t, "-header-timeout", "300ms")
	c := p.dial("127.0.0.1")
	begin := time.Now()
	for _, b := range header(t, 1, "203.0.113.7") {
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	silent(t, c, 5*time.Second)
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("cut after %v", d)
	}
	if strings.Contains(p.log.String(), "203.0.113.7") {
		t.Error("the header is believed")
	}
}

// The balancer's look whether the server is alive is no client's connection.
func TestLocal(t *testing.T) {
	p := start(t)
	for _, local := range []string{"PROXY UNKNOWN\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
		greeted(t, p.through([]byte(local)), "127.0.0.1")
		p.through([]byte(local)).Close()
	}
}

// Clear text is refused, unless it is known that the balancer has ended the TLS.
func TestClearText(t *testing.T) {
	p := start(t)
	if _, status := handshake(t, "ws", p.through(header(t, 2, "203.0.113.7")), nil); status != http.StatusBadRequest {
		t.Errorf("clear text: %d", status)
	}
	p = start(t, "-allow-http")
	ws, status := handshake(t, "ws", p.through(header(t, 2, "203.0.113.7")), nil)
	if ws == nil {
		t.Fatalf("clear text that is allowed: %d", status)
	}
	if got := read(t, ws); got != "you are 203.0.113.7" {
		t.Error(got)
	}
}

// Without TLS, a guard that knows nothing of the balancer refuses: the client is
// no loopback peer, although the balancer is.
func TestClearTextRefused(t *testing.T) {
	l, err := listen("127.0.0.1:0", []string{"127.0.0.1"}, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := wsguard.New(wsguard.Config{Origins: []string{origin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: guard.Handler(echo)}
	go srv.Serve(l)
	defer srv.Close()
	p := &program{t: t, addr: l.Addr().String()}
	if _, status := handshake(t, "ws", p.through(header(t, 2, "203.0.113.7")), nil); status != http.StatusForbidden {
		t.Errorf("clear text: %d", status)
	}
}

// A client that goes on sending is told why it is closed, and sees an end and no
// reset, which on its way could overtake the close frame.
func TestCloseCodeReachesSender(t *testing.T) {
	for _, args := range [][]string{nil, {"-allow-http"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			p := start(t, args...)
			c := p.through(header(t, 2, "203.0.113.7"))
			if args == nil {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			}
			fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: %s\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", origin)
			// No client may send a frame without a mask, and what follows cannot be
			// read as frames any more.
			// The server waits a second for the end, of which a busy machine may
			// take most.
			for begin := time.Now(); time.Since(begin) < 200*time.Millisecond; time.Sleep(time.Millisecond) {
				if _, err := c.Write([]byte("\x81\x01x")); err != nil {
					t.Errorf("reset after %v: %v", time.Since(begin), err)
					break
				}
			}
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			b, err := io.ReadAll(c)
			if err != nil || !strings.HasSuffix(string(b), "\x03\xeaprotocol_error") {
				t.Errorf("%q at the end, and %v", b[max(0, len(b)-20):], err)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"-trusted", "10.0.0.0/33"},
		{"-trusted", "balancer.example"},
		{"-trusted", "0.0.0.0/0"},
		{"-trusted", "::/0"},
		{"-trusted", "0.0.0.0/1,128.0.0.0/1"},
		{"-trusted", "::/2,4000::/2,8000::/1"},
		{"-trusted", "127.0.0.1", "-cert", "none.pem"},
		{"-trusted", "127.0.0.1", "-origins", "*"},
		{"-trusted", "127.0.0.1", "-addr", "127.0.0.1:65536"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if err := run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), io.Discard, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%q is no fault", args)
		}
		cancel()
	}
}

// A balancer that others have written, with the configuration that stands here.
func TestHAProxy(t *testing.T) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("no haproxy on PATH")
	}
	if out, err := exec.Command(haproxy, "-v").CombinedOutput(); err != nil {
		t.Skipf("%s does not work here: %v\n%s", haproxy, err, out)
	}
	p := start(t)
	p.dial("127.0.0.3").Close() // or there is nobody to be
	b, err := os.ReadFile("haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"send-proxy", "send-proxy-v2"} {
		// It is given the listener: a port that it would have to bind again might
		// be another's by then, and a client need not wait for it to start.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		file, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		front := l.Addr().String()
		l.Close() // file is the same socket
		cfg := filepath.Join(t.TempDir(), "haproxy.cfg")
		// Without a maxconn it makes room for as many as may have files open,
		// which in a container can be a thousand million.
		text := "global\n\tmaxconn 100\n" + strings.NewReplacer("127.0.0.1:8443", "fd@3", "127.0.0.1:8444", p.addr, "send-proxy-v2", version).Replace(string(b))
		if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(haproxy, "-db", "-f", cfg)
		cmd.ExtraFiles = []*os.File{file}
		var out logTo
		cmd.Stdout, cmd.Stderr = &out, &out
		err = cmd.Start()
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		stop := sync.OnceFunc(func() {
			cmd.Process.Kill()
			cmd.Wait()
			if t.Failed() {
				t.Log(out.String())
			}
		})
		defer stop()
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.3")}, Timeout: 10 * time.Second}).Dial("tcp", front)
		if err != nil {
			t.Fatal(err)
		}
		greeted(t, c, "127.0.0.3")
		stop()
	}
}

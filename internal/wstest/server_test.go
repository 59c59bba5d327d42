package wstest_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// hello upgrades, says hello, repeats what it gets, byte for byte, and leaves.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" {
		io.WriteString(w, "plain "+r.RemoteAddr)
		return
	}
	conn, brw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
	conn.Write(server(wstest.Text("hello")))
	io.CopyN(conn, brw, 4)
	conn.Write(server(wstest.CloseFrame(1001, "")))
})

// visit is a whole visit at a server that runs hello.
func visit(t *testing.T, s *wstest.Server, scheme string) {
	t.Helper()
	if s.URL != scheme+"://"+s.Addr || s.Origin != s.URL {
		t.Errorf("Addr %q, URL %q, Origin %q", s.Addr, s.URL, s.Origin)
	}
	res, err := s.HTTPClient().Get(s.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if !strings.HasPrefix(string(body), "plain 127.0.0.1:") {
		t.Errorf("GET: %q", body)
	}

	c := s.Dial(t)
	res, err = c.HandshakeWith(wstest.HandshakeOptions{Early: []byte{0x82, 0}}) // an echo that a server may send
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v, %v", res, err)
	}
	if op, msg, err := c.ReadMessage(); op != wstest.OpText || string(msg) != "hello" || err != nil {
		t.Errorf("got %d, %q, %v", op, msg, err)
	}
	c.Write([]byte{0x89, 0})
	if code, reason, err := c.ReadClose(); code != 1001 || reason != "" || err != nil {
		t.Errorf("got %d, %q, %v", code, reason, err)
	}
	if err := c.ReadEOF(); err != nil {
		t.Error(err)
	}
}

func TestServe(t *testing.T) {
	wstest.CheckGoroutines(t)
	visit(t, wstest.Serve(t, hello), "http")
}

func TestServeTLS(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := wstest.ServeTLS(t, hello)
	visit(t, s, "https")
	if _, err := http.Get(s.URL); err == nil {
		t.Error("a stranger trusts the certificate")
	}
}

func TestServePipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wstest.CheckGoroutines(t)
		visit(t, wstest.ServePipe(t, hello), "http")
	})
	wstest.CheckGoroutines(t)
	visit(t, wstest.ServePipe(t, hello), "http")
}

func TestServeListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wstest.ServeListener(t, wstest.NewListener(wstest.PipeOptions{
			BufferBytes: 16,
			ClientAddr:  netip.MustParseAddrPort("127.0.0.1:1"),
			ServerAddr:  netip.MustParseAddrPort("192.0.2.1:8443"),
		}), hello)
		if s.Addr != "192.0.2.1:8443" {
			t.Errorf("Addr = %q", s.Addr)
		}
		visit(t, s, "http")
	})
}

func TestServeOptions(t *testing.T) {
	type key struct{}
	s := wstest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Context().Value(key{}).(string))
	}), func(s *http.Server) {
		s.BaseContext = func(net.Listener) context.Context { return context.WithValue(context.Background(), key{}, "option") }
	})
	res, err := s.Dial(t).Handshake("/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); string(body) != "option" {
		t.Errorf("got %q", body)
	}
}

// The end of the test ends the server, and so does Close, or the test itself.
func TestServeEnds(t *testing.T) {
	for name, end := range map[string]func(s *wstest.Server){
		"test":     func(*wstest.Server) {},
		"Close":    func(s *wstest.Server) { s.Close(); s.Close() },
		"Shutdown": func(s *wstest.Server) { s.HTTP.Shutdown(context.Background()) },
	} {
		var s *wstest.Server
		var conn net.Conn
		t.Run(name, func(t *testing.T) {
			s = wstest.Serve(t, hello)
			var err error
			if conn, err = net.Dial("tcp", s.Addr); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") // kept alive
			wantRead(t, conn, "HTTP/1.1 200 OK")
			end(s)
		})
		if err := wstest.NewClient(t, conn).ReadEOF(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if conn, err := net.DialTimeout("tcp", s.Addr, time.Second); err == nil {
			conn.Close()
			t.Errorf("%s: the server still listens", name)
		}
	}
}

// What the server logs is the test's while the test runs, and nobody's later:
// a handler that outlives its test must not panic.
func TestServeLog(t *testing.T) {
	tb := &logTB{fakeTB: &fakeTB{TB: t}}
	var logger *log.Logger
	s := wstest.Serve(tb, hello, func(s *http.Server) { logger = s.ErrorLog })
	logger.Print("during")
	tb.end()
	logger.Print("after")
	s.Close()
	if len(tb.logs) != 1 || !strings.Contains(tb.logs[0], "during") || len(tb.errors) != 0 {
		t.Errorf("logged %q, errors %q", tb.logs, tb.errors)
	}
}

type logTB struct {
	*fakeTB
	logs []string
}

func (l *logTB) Logf(_ string, args ...any) { l.logs = append(l.logs, string(args[0].([]byte))) }

// A server that cannot serve is reported.
func TestServeFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := &fakeTB{TB: t}
		wstest.ServeListener(tb, brokenListener{}, hello)
		synctest.Wait()
		tb.end()
		if len(tb.errors) != 1 || !strings.Contains(tb.errors[0], io.ErrNoProgress.Error()) {
			t.Errorf("errors %q", tb.errors)
		}
	})
}

type brokenListener struct{}

func (brokenListener) Accept() (net.Conn, error) { return nil, io.ErrNoProgress }
func (brokenListener) Close() error              { return nil }
func (brokenListener) Addr() net.Addr            { return &net.TCPAddr{} }

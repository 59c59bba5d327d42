package wstest_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// scripted returns a client, and the server's end of its connection.
func scripted(t *testing.T) (*wstest.Client, *wstest.PipeConn) {
	c, s := wstest.Pipe(wstest.PipeOptions{})
	t.Cleanup(func() { s.Close() })
	return wstest.NewClient(t, c), s
}

// exchange lets the server answer the handshake o with response, and returns
// the request as it was sent.
func exchange(t *testing.T, o wstest.HandshakeOptions, response string) (request string, res *http.Response, err error) {
	t.Helper()
	c, s := scripted(t)
	mustWrite(t, s, response)
	s.CloseWrite()
	res, err = c.HandshakeWith(o)
	c.Close()
	raw, rerr := io.ReadAll(s)
	if rerr != nil {
		t.Fatal(rerr)
	}
	return string(raw), res, err
}

const refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"

func TestHandshakeRequest(t *testing.T) {
	const defaults = "Host: 127.0.0.1:8080\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: KEY\n"
	for _, tc := range []struct {
		name string
		o    wstest.HandshakeOptions
		want string // with \n for \r\n, and KEY for the key
	}{
		{"default", wstest.HandshakeOptions{}, "GET / HTTP/1.1\n" + defaults + "\n"},
		{"line", wstest.HandshakeOptions{Method: "PUT", Path: "/a b?c", Proto: "HTTP/1.0", Host: "example.com"},
			"PUT /a b?c HTTP/1.0\n" + strings.Replace(defaults, "127.0.0.1:8080", "example.com", 1) + "\n"},
		{"added", wstest.HandshakeOptions{Header: http.Header{"Origin": {"https://a", "https://b"}, "Cookie": {"c=d"}}},
			"GET / HTTP/1.1\n" + defaults + "Cookie: c=d\nOrigin: https://a\nOrigin: https://b\n\n"},
		{"overridden", wstest.HandshakeOptions{Host: "unused", Header: http.Header{"host": {"x", "y"}, "Upgrade": nil, "connection": {"close"}}},
			"GET / HTTP/1.1\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: KEY\nconnection: close\nhost: x\nhost: y\n\n"},
		{"body and early", wstest.HandshakeOptions{Body: "body", Early: []byte("early")},
			"GET / HTTP/1.1\n" + defaults + "Content-Length: 4\n\nbodyearly"},
		{"body, chunked", wstest.HandshakeOptions{Body: "0\r\n\r\n", Header: http.Header{"Transfer-Encoding": {"chunked"}}},
			"GET / HTTP/1.1\n" + defaults + "Transfer-Encoding: chunked\n\n0\n\n"},
		{"body, wrong length", wstest.HandshakeOptions{Body: "x", Header: http.Header{"Content-Length": {"9"}}},
			"GET / HTTP/1.1\n" + defaults + "Content-Length: 9\n\nx"},
		{"smuggled", wstest.HandshakeOptions{Header: http.Header{"X": {"a\r\nY: b"}}},
			"GET / HTTP/1.1\n" + defaults + "X: a\nY: b\n\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, res, err := exchange(t, tc.o, refusal)
			if err != nil || res.StatusCode != 403 {
				t.Fatalf("got %v, %v", res, err)
			}
			if body, err := io.ReadAll(res.Body); string(body) != "no" || err != nil {
				t.Errorf("body %q, %v", body, err)
			}
			if _, after, ok := strings.Cut(got, "Sec-WebSocket-Key: "); ok {
				key, _, _ := strings.Cut(after, "\r\n")
				got = strings.Replace(got, key, "KEY", 1)
			}
			if got = strings.ReplaceAll(got, "\r\n", "\n"); got != tc.want {
				t.Errorf("sent\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func TestHandshakeKeyIsFresh(t *testing.T) {
	a, _, _ := exchange(t, wstest.HandshakeOptions{}, refusal)
	b, _, _ := exchange(t, wstest.HandshakeOptions{}, refusal)
	if a == b {
		t.Errorf("twice the same request:\n%s", a)
	}
}

func TestHandshakeAccept(t *testing.T) {
	// The example of RFC 6455, section 1.3.
	const key, accept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	one := http.Header{"Sec-WebSocket-Key": {key}}
	for _, tc := range []struct {
		name   string
		header http.Header
		answer string
		ok     bool
	}{
		{"right", one, "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: " + accept, true},
		{"other case", one, "upgrade: WebSocket\nconnection: keep-alive, upgrade\nsec-websocket-accept: " + accept, true},
		{"wrong accept", one, "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: " + key, false},
		{"two accepts", one, "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: " + accept + "\nSec-WebSocket-Accept: " + accept, false},
		{"no accept", one, "Upgrade: websocket\nConnection: Upgrade", false},
		{"no upgrade", one, "Connection: Upgrade\nSec-WebSocket-Accept: " + accept, false},
		{"no connection", one, "Upgrade: websocket\nSec-WebSocket-Accept: " + accept, false},
		{"no key", http.Header{"Sec-WebSocket-Key": nil}, "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: " + accept, false},
		{"two keys", http.Header{"Sec-WebSocket-Key": {key, key}}, "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: " + accept, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answer := "HTTP/1.1 101 Switching Protocols\r\n" + strings.ReplaceAll(tc.answer, "\n", "\r\n") + "\r\n\r\n"
			_, res, err := exchange(t, wstest.HandshakeOptions{Header: tc.header}, answer)
			if res == nil || res.StatusCode != 101 {
				t.Fatalf("got %v, %v", res, err)
			}
			if tc.ok != (err == nil) || !tc.ok && !errors.Is(err, wstest.ErrProtocol) {
				t.Errorf("got error %v, want one: %t", err, !tc.ok)
			}
		})
	}
}

func TestHandshakeFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		want   error
	}{
		"nothing":    {"", io.ErrUnexpectedEOF},
		"half":       {"HTTP/1.1 403 Forb", io.ErrUnexpectedEOF},
		"short body": {"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nno", io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := exchange(t, wstest.HandshakeOptions{}, tc.answer)
			wantErr(t, err, tc.want)
		})
	}
	t.Run("endless body", func(t *testing.T) {
		c, s := scripted(t)
		go func() {
			mustWrite(t, s, "HTTP/1.1 200 OK\r\n\r\n")
			io.Copy(s, zeros{})
		}()
		if _, err := c.Handshake("/", nil); err == nil {
			t.Error("no error")
		}
	})
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, _ := scripted(t)
			start := time.Now()
			_, err := c.HandshakeWith(wstest.HandshakeOptions{Early: make([]byte, 1<<20)}) // nor does it read
			wantTimeout(t, err)
			if got := time.Since(start); got != 10*time.Second {
				t.Errorf("timed out after %v, want 10s", got)
			}
		})
	})
	t.Run("no deadline stays", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t)
			mustWrite(t, s, refusal)
			if _, err := c.Handshake("/", nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			mustWrite(t, c.Conn(), "x")
			mustWrite(t, s, "raw")
			wantRead(t, c.Conn(), "raw")
		})
	})
	// The response is there although the request could not be sent in full.
	t.Run("early refusal", func(t *testing.T) {
		c, s := scripted(t)
		go func() {
			http.ReadRequest(bufio.NewReader(s))
			mustWrite(t, s, refusal)
			s.Close()
		}()
		res, err := c.HandshakeWith(wstest.HandshakeOptions{Early: make([]byte, 1<<20)})
		if err != nil || res.StatusCode != 403 {
			t.Errorf("got %v, %v", res, err)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestReadResponse(t *testing.T) {
	c, s := scripted(t)
	go func() {
		for range 2 {
			wantRead(t, s, "GET")
			mustWrite(t, s, refusal)
		}
	}()
	for range 2 { // the connection is kept alive
		mustWrite(t, c, "GET")
		if res, err := c.ReadResponse(); err != nil || res.StatusCode != 403 {
			t.Fatalf("got %v, %v", res, err)
		}
	}
}

// server builds what a server sends.
func server(frames ...wstest.Frame) (wire []byte) {
	for _, f := range frames {
		f.Masked = false
		wire = wstest.AppendFrame(wire, f)
	}
	return wire
}

func TestReadFrame(t *testing.T) {
	c, s := scripted(t)
	long := strings.Repeat("x", 70000)
	frames := []wstest.Frame{
		wstest.Text("hello"), wstest.Text(""), wstest.Binary([]byte(long[:126])), wstest.Text(long),
		wstest.Ping([]byte("p")), wstest.CloseFrame(4000, "why"), {Opcode: 1, RSV: 4, Payload: []byte("z")},
	}
	go func() {
		s.Write(server(frames...))
		s.CloseWrite()
	}()
	for _, want := range frames {
		got, err := c.ReadFrame()
		if err != nil || got.Fin != want.Fin || got.RSV != want.RSV || got.Opcode != want.Opcode || got.Masked || !bytes.Equal(got.Payload, want.Payload) {
			t.Fatalf("got %.50v, %v; want %.50v", got, err, want)
		}
	}
	_, err := c.ReadFrame()
	wantErr(t, err, io.EOF)
}

func TestReadFrameViolations(t *testing.T) {
	length := func(n uint64) *uint64 { return &n }
	for name, f := range map[string]wstest.Frame{
		"masked":              wstest.Text("x"),
		"not minimal, 2":      {Fin: true, Opcode: 1, LengthBytes: 2, Payload: make([]byte, 125)},
		"not minimal, 8":      {Fin: true, Opcode: 1, LengthBytes: 8, Payload: make([]byte, 65535)},
		"top bit":             {Fin: true, Opcode: 1, Length: length(1 << 63)},
		"reserved data":       {Fin: true, Opcode: 3},
		"reserved control":    {Fin: true, Opcode: 11},
		"fragmented ping":     {Opcode: 9},
		"long pong":           {Fin: true, Opcode: 10, Payload: make([]byte, 126)},
		"more than it can be": {Fin: true, Opcode: 1, Length: length(1 << 40)},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := scripted(t)
			go s.Write(wstest.AppendFrame(nil, f))
			_, first := c.ReadFrame()
			if errors.Is(first, wstest.ErrProtocol) == (name == "more than it can be") || first == nil {
				t.Errorf("got %v", first)
			}
			// Nothing after it can be trusted.
			if _, err := c.ReadFrame(); err != first {
				t.Errorf("then got %v", err)
			}
			if _, _, err := c.ReadMessage(); err != first {
				t.Errorf("then got %v", err)
			}
		})
	}
}

func TestReadFrameTruncated(t *testing.T) {
	whole := server(wstest.Text(strings.Repeat("x", 200)))
	for _, n := range []int{1, 2, 3, 4, 50, len(whole) - 1} {
		c, s := scripted(t)
		s.Write(whole[:n])
		s.CloseWrite()
		_, err := c.ReadFrame()
		wantErr(t, err, io.ErrUnexpectedEOF)
	}
	c, s := scripted(t)
	s.Reset()
	_, err := c.ReadFrame()
	wantErr(t, err, syscall.ECONNRESET)
}

func TestReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t)
		for _, set := range []time.Duration{0, time.Minute} {
			c.Timeout = set
			want := set
			if want == 0 {
				want = wstest.DefaultTimeout
			}
			for name, read := range map[string]func() error{
				"ReadFrame":    func() error { _, err := c.ReadFrame(); return err },
				"ReadMessage":  func() error { _, _, err := c.ReadMessage(); return err },
				"ReadClose":    func() error { _, _, err := c.ReadClose(); return err },
				"ReadResponse": func() error { _, err := c.ReadResponse(); return err },
				"ReadEOF":      c.ReadEOF,
			} {
				start := time.Now()
				wantTimeout(t, read())
				if got := time.Since(start); got != want {
					t.Errorf("%s timed out after %v, want %v", name, got, want)
				}
			}
		}
		c.Timeout = 0

		// The timeout is of the whole call: pings do not prolong it.
		start := time.Now()
		go func() {
			for range 5 {
				time.Sleep(3 * time.Second)
				s.Write(server(wstest.Ping(nil)))
			}
		}()
		_, _, err := c.ReadClose()
		wantTimeout(t, err)
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("timed out after %v, want 10s", got)
		}
		time.Sleep(10 * time.Second)

		// It loses nothing of a header, and leaves no deadline behind.
		wire := server(wstest.Text(strings.Repeat("x", 200)))
		for range 2 {
			if f, err := c.ReadFrame(); err != nil || f.Opcode != wstest.OpPing {
				t.Fatal(f, err)
			}
		}
		s.Write(wire[:3])
		_, err = c.ReadFrame()
		wantTimeout(t, err)
		s.Write(wire[3:])
		if f, err := c.ReadFrame(); err != nil || len(f.Payload) != 200 {
			t.Errorf("got %v, %v", f, err)
		}
		go func() {
			time.Sleep(time.Hour)
			mustWrite(t, s, "raw")
		}()
		wantRead(t, c.Conn(), "raw")

		// Nor of a message between two of its fragments.
		s.Write(server(wstest.Frame{Opcode: 1, Payload: []byte("Hel")}))
		_, _, err = c.ReadMessage()
		wantTimeout(t, err)
		s.Write(server(wstest.Frame{Fin: true, Payload: []byte("lo")}))
		if _, got, err := c.ReadMessage(); string(got) != "Hello" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}

		// Within a payload there is no going on.
		s.Write(wire[:50])
		_, err = c.ReadFrame()
		wantTimeout(t, err)
		s.Write(wire[50:])
		if _, again := c.ReadFrame(); again != err {
			t.Errorf("got %v, want the first error again", again)
		}

		// Writes are bounded too, and leave no deadline behind either.
		mustWrite(t, c, "x")
		time.Sleep(time.Hour)
		mustWrite(t, c.Conn(), "x")
		start = time.Now()
		_, err = c.Write(make([]byte, 1<<20))
		wantTimeout(t, err)
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("Write timed out after %v, want 10s", got)
		}
	})
}

func TestReadMessage(t *testing.T) {
	c, s := scripted(t)
	s.Write(server(
		wstest.Ping(nil), wstest.Text("one"),
		wstest.Frame{Opcode: 2, Payload: []byte("t")}, wstest.Pong(nil), wstest.Frame{Payload: []byte("w")}, wstest.Frame{Fin: true, Payload: []byte("o")},
		wstest.Text(""), wstest.CloseFrame(1001, "away")))
	for _, want := range []struct {
		op  byte
		msg string
	}{{wstest.OpText, "one"}, {wstest.OpBinary, "two"}, {wstest.OpText, ""}} {
		if op, got, err := c.ReadMessage(); op != want.op || string(got) != want.msg || err != nil {
			t.Errorf("got %d, %q, %v; want %v", op, got, err, want)
		}
	}
	_, _, err := c.ReadMessage()
	var ce *wstest.CloseError
	if !errors.As(err, &ce) || *ce != (wstest.CloseError{Code: 1001, Reason: "away"}) {
		t.Errorf("got %v", err)
	}

	for name, frames := range map[string][]wstest.Frame{
		"continuation of nothing": {{Fin: true, Opcode: 0}},
		"two at once":             {{Opcode: 1}, wstest.Text("x")},
		"RSV":                     {{Fin: true, RSV: 4, Opcode: 1}},
		"RSV of a ping":           {{Fin: true, RSV: 1, Opcode: 9}},
		"RSV of a close":          {{Fin: true, RSV: 1, Opcode: 8}},
	} {
		c, s := scripted(t)
		s.Write(server(frames...))
		_, _, err := c.ReadMessage()
		if !errors.Is(err, wstest.ErrProtocol) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// ReadMessage shows the control frames that it skips, and may wait for ever.
func TestControl(t *testing.T) {
	c, s := scripted(t)
	c.Timeout = -1
	var skipped []string
	c.Control = func(f wstest.Frame) { skipped = append(skipped, string(f.Payload)) }
	for _, f := range []wstest.Frame{
		{Fin: true, Opcode: wstest.OpPing, Payload: []byte("ping")}, {Opcode: wstest.OpText, Payload: []byte("a")},
		{Fin: true, Opcode: wstest.OpPong, Payload: []byte("pong")}, {Fin: true, Payload: []byte("b")},
	} {
		mustWrite(t, s, string(wstest.AppendFrame(nil, f)))
	}
	if _, msg, err := c.ReadMessage(); err != nil || string(msg) != "ab" || strings.Join(skipped, " ") != "ping pong" {
		t.Errorf("%q, %v, skipped %q", msg, err, skipped)
	}
}

func TestReadClose(t *testing.T) {
	for _, tc := range []struct {
		payload string
		code    int
		reason  string
		ok      bool
	}{
		{"", 1005, "", true},
		{"\x03\xe8", 1000, "", true},
		{"\x0b\xb8expired", 3000, "expired", true},
		{"\x13\x87" + strings.Repeat("r", 123), 4999, strings.Repeat("r", 123), true},
		{"\x03\xf6", 1014, "", true},
		{"\x03", 0, "", false},
		{"\x03\xe7", 0, "", false},         // 999
		{"\x03\xec", 0, "", false},         // 1004
		{"\x03\xed", 0, "", false},         // 1005
		{"\x03\xee", 0, "", false},         // 1006
		{"\x03\xf7", 0, "", false},         // 1015
		{"\x0b\xb7", 0, "", false},         // 2999
		{"\x13\x88", 0, "", false},         // 5000
		{"\x03\xe8\xff\xfe", 0, "", false}, // not UTF-8
	} {
		c, s := scripted(t)
		s.Write(server(wstest.Ping(nil), wstest.Text("skipped"), wstest.Frame{Opcode: 2}, wstest.Frame{Fin: true, Opcode: 8, Payload: []byte(tc.payload)}))
		s.CloseWrite()
		code, reason, err := c.ReadClose()
		if code != tc.code || reason != tc.reason || tc.ok != (err == nil) || !tc.ok && !errors.Is(err, wstest.ErrProtocol) {
			t.Errorf("%q: got %d, %q, %v", tc.payload, code, reason, err)
		}
		if err := c.ReadEOF(); err != nil {
			t.Error(err)
		}
		if got := (&wstest.CloseError{Code: 4000, Reason: "r"}).Error(); !strings.Contains(got, `4000 "r"`) {
			t.Error(got)
		}
	}
	c, s := scripted(t)
	s.Write(server(wstest.Text("skipped")))
	s.CloseWrite()
	_, _, err := c.ReadClose()
	wantErr(t, err, io.EOF)
}

func TestReadEOF(t *testing.T) {
	c, s := scripted(t)
	mustWrite(t, s, "some rest")
	s.Close()
	if err := c.ReadEOF(); err != nil {
		t.Error(err)
	}
	c, s = scripted(t)
	s.Reset()
	wantErr(t, c.ReadEOF(), syscall.ECONNRESET)
}

// The end of the test closes the client's connection.
func TestNewClientCleanup(t *testing.T) {
	conn, s := wstest.Pipe(wstest.PipeOptions{})
	t.Run("user", func(t *testing.T) {
		c := wstest.NewClient(t, conn)
		if c.Conn() != conn {
			t.Error("Conn is another one")
		}
		if err := c.WriteFrame(wstest.Text("x")); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(s)
	if !bytes.Equal(got, wstest.AppendFrame(nil, wstest.Text("x"))) || err != nil {
		t.Errorf("read %x, %v", got, err)
	}
	if err := conn.SetDeadline(time.Time{}); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is open")
	}
}

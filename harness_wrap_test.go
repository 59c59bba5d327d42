package wsguard_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// coderEcho is an echo handler on coder/websocket that knows nothing of wsguard.
func coderEcho(subprotocols ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: subprotocols})
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
	})
}

// doors is a Guard or an Endpoint.
type doors interface {
	Handler(func(context.Context, *wsguard.Conn) error) http.Handler
	Wrap(http.Handler) http.Handler
}

// echoDoor is an echo behind the door that the tests run through: Handler, or with
// WSGUARD_DOOR=wrap Wrap where that is possible.
func echoDoor(d doors) (h http.Handler) {
	if os.Getenv("WSGUARD_DOOR") != "wrap" {
		return d.Handler(echo)
	}
	defer func() {
		if recover() != nil { // a first-message credential needs Handler
			h = d.Handler(echo)
		}
	}()
	return d.Wrap(coderEcho())
}

// served is a connection as a handler behind Guard.Wrap has it: what Hijack returned. The
// test plays the handler.
type served struct {
	net.Conn
	w       http.ResponseWriter
	r       *http.Request
	brw     *bufio.ReadWriter
	err     error // of Hijack
	in      *bufio.Reader
	release func() // lets the handler return
}

// hijack takes the connection over and writes nothing.
func hijack(w http.ResponseWriter, r *http.Request) *served {
	s := &served{w: w, r: r}
	s.Conn, s.brw, s.err = w.(http.Hijacker).Hijack()
	if s.err == nil {
		s.in = bufio.NewReader(s.Conn)
	}
	return s
}

// switching is the head of a 101 that fits r.
func switching(r *http.Request, more ...string) string {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	for _, line := range more {
		head += line + "\r\n"
	}
	return head + "\r\n"
}

// wrapEnv is a guard around a handler that the test plays.
type wrapEnv struct {
	*env
	conns chan *served
	panic chan any // what the handler panics with in place of returning
}

func newWrapEnv(t testing.TB, cfg wsguard.Config) *wrapEnv {
	t.Helper()
	return &wrapEnv{newEnv(t, cfg), make(chan *served, 16), make(chan any, 1)}
}

// wrapWith serves the handler that play returns.
func wrapWith(t testing.TB, cfg wsguard.Config, begin func(http.ResponseWriter, *http.Request) *served) *wrapEnv {
	t.Helper()
	e := newWrapEnv(t, cfg)
	e.serve(e.play(begin))
	return e
}

// play returns a handler behind Wrap. It runs begin for each request, and hands what that
// returns to the test. The handler returns when the test says so, or ends.
func (e *wrapEnv) play(begin func(http.ResponseWriter, *http.Request) *served) http.Handler {
	var mu sync.Mutex
	var all []*served
	over := false // the test
	e.t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		for _, s := range all {
			s.end()
		}
	})
	return e.g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		if s == nil {
			return
		}
		done := make(chan struct{})
		s.release = sync.OnceFunc(func() { close(done) })
		mu.Lock()
		if all = append(all, s); over {
			s.end()
		}
		mu.Unlock()
		e.conns <- s
		<-done
		select {
		case v := <-e.panic:
			panic(v)
		default:
		}
	}))
}

// end lets the handler return and closes its connection.
func (s *served) end() {
	s.release()
	if s.Conn != nil {
		s.Close()
	}
}

// wrapOpen is wrapWith for a handler that has answered 101. It returns both ends of a
// connection.
func wrapOpen(t *testing.T, cfg wsguard.Config) (*wrapEnv, *wstest.Client, *served) {
	t.Helper()
	e := wrapWith(t, cfg, answer101)
	c := e.open(header())
	return e, c, <-e.conns
}

func answer101(w http.ResponseWriter, r *http.Request) *served {
	s := hijack(w, r)
	if s.err == nil {
		_, s.err = io.WriteString(s.Conn, switching(r))
	}
	return s
}

// fromServer is a frame that a server sends.
func fromServer(op byte, payload string) wstest.Frame {
	return wstest.Frame{Fin: true, Opcode: op, Payload: []byte(payload)}
}

// closing is the payload of a close frame.
func closing(code int, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
}

func encode(frames ...wstest.Frame) (b []byte) {
	for _, f := range frames {
		b = wstest.AppendFrame(b, f)
	}
	return b
}

// send writes frames to the client.
func (s *served) send(t *testing.T, frames ...wstest.Frame) {
	t.Helper()
	if _, err := s.Write(encode(frames...)); err != nil {
		t.Fatalf("the handler's Write: %v", err)
	}
}

// frame reads a frame as a library would. It must be well-formed: masked, not fragmented,
// with no reserved bit, and of minimal length.
func (s *served) frame() (wstest.Frame, error) {
	var f wstest.Frame
	b := make([]byte, 2, 14)
	if _, err := io.ReadFull(s.in, b); err != nil {
		return f, err
	}
	n := int(b[1] & 0x7f)
	switch n {
	case 126:
		var x [2]byte
		if _, err := io.ReadFull(s.in, x[:]); err != nil {
			return f, err
		}
		if n = int(binary.BigEndian.Uint16(x[:])); n < 126 {
			return f, errors.New("length not minimal")
		}
	case 127:
		var x [8]byte
		if _, err := io.ReadFull(s.in, x[:]); err != nil {
			return f, err
		}
		if n = int(binary.BigEndian.Uint64(x[:])); n <= 0xffff {
			return f, errors.New("length not minimal")
		}
	}
	if b[0]&0xf0 != 0x80 || b[1]&0x80 == 0 {
		return f, fmt.Errorf("frame begins with %x", b)
	}
	f = wstest.Frame{Fin: true, Opcode: b[0] & 15, Masked: true, Payload: make([]byte, n)}
	if _, err := io.ReadFull(s.in, f.Mask[:]); err != nil {
		return f, err
	}
	if _, err := io.ReadFull(s.in, f.Payload); err != nil {
		return f, err
	}
	for i := range f.Payload {
		f.Payload[i] ^= f.Mask[i%4]
	}
	return f, nil
}

// wantFrame reads a frame, which must be this one.
func (s *served) wantFrame(t *testing.T, op byte, payload string) wstest.Frame {
	t.Helper()
	f, err := s.frame()
	if err != nil || f.Opcode != op || string(f.Payload) != payload {
		t.Fatalf("the handler reads frame %d %.80q, %v; want %d %.80q", f.Opcode, f.Payload, err, op, payload)
	}
	return f
}

// wantEnd reads the close frame that tells the handler of the end, and EOF.
func (s *served) wantEnd(t *testing.T, code int, reason string) {
	t.Helper()
	s.wantFrame(t, wstest.OpClose, closing(code, reason))
	s.wantErr(t, io.EOF)
}

// wantErr reads nothing but an error.
func (s *served) wantErr(t *testing.T, want error) {
	t.Helper()
	var b [16]byte
	for range 2 { // it stays
		if n, err := s.in.Read(b[:]); n > 0 || !errors.Is(err, want) || want == io.EOF && err != io.EOF {
			t.Fatalf("the handler reads %x, %v; want %v", b[:n], err, want)
		}
	}
}

// over reports whether the context of the handler's request has ended.
func (s *served) over() bool { return s.r.Context().Err() != nil }

// wantGone expects the end of the connection, of its slot and of its request's context,
// when its handler returns.
func (e *wrapEnv) wantGone(t *testing.T, s *served) {
	t.Helper()
	time.Sleep(2 * time.Second) // grace and linger
	synctest.Wait()
	if n := e.g.Conns(); n != 1 {
		t.Errorf("%d slots held while the handler runs, want 1", n)
	}
	if !s.over() {
		t.Error("the context of the request has not ended")
	}
	s.release()
	synctest.Wait()
	if n := e.g.Conns(); n != 0 {
		t.Errorf("%d slots held after the handler has returned", n)
	}
}

// wantFrames reads exactly these frames on the client's side.
func wantFrames(t *testing.T, c *wstest.Client, frames ...wstest.Frame) {
	t.Helper()
	for i, want := range frames {
		f, err := c.ReadFrame()
		if err != nil || f.Fin != want.Fin || f.Opcode != want.Opcode || string(f.Payload) != string(want.Payload) {
			t.Fatalf("frame %d: fin %t, opcode %d, %.80q, %v; want fin %t, opcode %d, %.80q",
				i, f.Fin, f.Opcode, f.Payload, err, want.Fin, want.Opcode, want.Payload)
		}
	}
}

// within reports how long f takes.
func within(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// judge is a Validator.
type judge func(msg []byte) error

func (j judge) Validate(msg []byte) error { return j(msg) }

// smallBuffers makes the kernel take little of what a server writes.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		c.(*net.TCPConn).SetWriteBuffer(32 << 10)
	}
	return c, err
}

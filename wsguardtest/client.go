package wsguardtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// Client is a client that speaks messages. Like a browser it reads all the time, answers pings,
// and answers a close frame. It holds up to 1,024 messages that the test has not read, and
// then it reads nothing more until the test has read one.
//
// Each method waits for as long as the option [Timeout] says. All methods but Read and Write fail
// the test, so call them on the goroutine of the test. Read and Write may be called on any
// goroutine.
type Client struct {
	t        testing.TB
	name     string         // for errors
	timeout  time.Duration  // read-only
	raw      *wstest.Client // the reader uses its methods; others use its Conn
	response *http.Response
	messages chan message  // closed by the reader when the connection has ended
	writing  chan struct{} // has room for the goroutine that writes; a channel, because a bubble's clock stands still while one waits for a Mutex
	ended    chan struct{} // closed by the reader, after err is set
	err      error         // written by the reader before it closes ended
	dropped  chan struct{} // closed by drop
	dropping sync.Once
}

type message struct {
	typ  wsguard.MessageType
	data []byte
}

// maxUnread is how many messages a Client holds that the test has not read.
const maxUnread = 1024

// Dial connects a client. The test fails if the handshake is refused.
func (s *Server) Dial(opts ...DialOption) *Client {
	s.t.Helper()
	o := s.dialing(opts)
	raw := wstest.NewClient(s.t, s.connect(o))
	c := &Client{
		t: s.t, name: s.nameOf(o), timeout: o.timeout, raw: raw,
		messages: make(chan message, maxUnread), writing: make(chan struct{}, 1), ended: make(chan struct{}), dropped: make(chan struct{}),
	}
	c.response = s.handshake(c.name, raw, o)
	s.mustUpgrade(c.name, c.response)
	raw.Timeout = -1
	raw.Control = c.control
	go c.read()
	s.open.add(c.drop)
	return c
}

// nameOf returns the name of a client in errors.
func (s *Server) nameOf(o *dialOptions) string {
	name := fmt.Sprintf("client %d", s.open.count()+1)
	if o.principal.Subject != "" {
		name += " (" + o.principal.Subject + ")"
	}
	return name
}

// handshake makes a handshake, and returns the response.
func (s *Server) handshake(name string, raw *wstest.Client, o *dialOptions) *http.Response {
	s.t.Helper()
	raw.Timeout = o.timeout
	res, err := raw.HandshakeWith(wstest.HandshakeOptions{Path: o.path, Host: o.host, Header: o.header})
	if err != nil {
		s.t.Fatalf("wsguardtest: %s: the handshake has failed: %v", name, err)
	}
	return res
}

// mustUpgrade fails the test if a handshake was refused.
func (s *Server) mustUpgrade(name string, res *http.Response) {
	s.t.Helper()
	if res.StatusCode != http.StatusSwitchingProtocols {
		s.t.Fatalf("wsguardtest: %s: the handshake was refused with %d %s", name, res.StatusCode, bodyOf(res))
	}
}

// bodyOf returns the body of a refusal in one line.
func bodyOf(res *http.Response) string {
	var b bytes.Buffer
	b.ReadFrom(res.Body) // the client has read it already
	return strings.TrimSpace(b.String())
}

// WantRefusal checks that a handshake is refused with a status, such as 403, and with a reason of
// package reason, such as "origin". With an empty token any reason will do.
//
// With AuthConfig.MaxExplained, the guard accepts a handshake that lacks a good credential and
// closes the connection. Use [Client.WantClose] with 3000 then.
func (s *Server) WantRefusal(status int, token string, opts ...DialOption) {
	s.t.Helper()
	o := s.dialing(opts)
	raw := wstest.NewClient(s.t, s.connect(o))
	s.open.add(func() { raw.Close() })
	defer raw.Close()
	res := s.handshake(s.nameOf(o), raw, o)
	if res.StatusCode == http.StatusSwitchingProtocols {
		s.t.Fatalf("wsguardtest: the handshake was accepted, want it refused with %d %s", status, token)
	}
	body := bodyOf(res)
	if _, got, _ := strings.Cut(body, ": "); res.StatusCode != status || token != "" && got != token {
		s.t.Fatalf("wsguardtest: the handshake was refused with %d %s, want %d %s", res.StatusCode, body, status, token)
	}
}

// read reads until the connection ends. It is the reader.
func (c *Client) read() {
	defer close(c.messages)
	defer close(c.ended)
	defer c.raw.Close()
	for {
		op, data, err := c.raw.ReadMessage()
		if err != nil {
			c.err = c.closed(err)
			return
		}
		m := message{wsguard.MessageText, data}
		if op == wstest.OpBinary {
			m.typ = wsguard.MessageBinary
		}
		select {
		case c.messages <- m:
		case <-c.dropped:
			c.err = errDropped
			return
		}
	}
}

var errDropped = errors.New("the client has dropped the connection")

// closed returns the error of a connection that has ended with err, and answers a close frame.
func (c *Client) closed(err error) error {
	var ce *wstest.CloseError
	switch {
	case errors.As(err, &ce):
		c.frame(wstest.CloseFrame(ce.Code, ""), c.timeout)
		return websocket.CloseError{Code: wsguard.StatusCode(ce.Code), Reason: ce.Reason}
	case errors.Is(err, wstest.ErrProtocol):
		return err
	case errors.Is(err, net.ErrClosed):
		return errDropped
	}
	return websocket.CloseError{Code: websocket.StatusAbnormalClosure}
}

// control answers a ping.
func (c *Client) control(f wstest.Frame) {
	if f.Opcode == wstest.OpPing {
		c.frame(wstest.Pong(f.Payload), c.timeout)
	}
}

// frame writes a frame.
func (c *Client) frame(f wstest.Frame, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case c.writing <- struct{}{}:
	case <-timer.C:
		return os.ErrDeadlineExceeded
	}
	defer func() { <-c.writing }()
	conn := c.raw.Conn()
	conn.SetWriteDeadline(time.Now().Add(timeout))
	_, err := conn.Write(wstest.AppendFrame(nil, f))
	return err
}

// Response returns the response to the handshake.
func (c *Client) Response() *http.Response { return c.response }

// Subprotocol returns the subprotocol that the server has selected, or "".
func (c *Client) Subprotocol() string { return c.response.Header.Get("Sec-Websocket-Protocol") }

// Read returns the next message. When the connection has ended and all messages were read, the
// error is a websocket.CloseError of coder/websocket. Its code is 1006 if there was no close
// frame. If no message comes in time, the error is os.ErrDeadlineExceeded.
func (c *Client) Read() (wsguard.MessageType, []byte, error) {
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case m, ok := <-c.messages:
		if !ok {
			return 0, nil, c.err
		}
		return m.typ, m.data, nil
	case <-timer.C:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

// Write sends a message in one frame. The error is that of Read if the connection has ended.
func (c *Client) Write(typ wsguard.MessageType, data []byte) error {
	select {
	case <-c.ended:
		return c.err
	default:
	}
	f := wstest.Binary(data)
	if typ == wsguard.MessageText {
		f = wstest.Text(string(data))
	}
	err := c.frame(f, c.timeout)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	c.raw.Close() // the reader may wait for what never comes
	<-c.ended
	return c.err
}

// WriteText sends a text message.
func (c *Client) WriteText(text string) {
	c.t.Helper()
	c.write(wsguard.MessageText, []byte(text))
}

// WriteBinary sends a binary message.
func (c *Client) WriteBinary(data []byte) {
	c.t.Helper()
	c.write(wsguard.MessageBinary, data)
}

// WriteJSON sends v as JSON, in a text message. WriteText sends JSON that is written out.
func (c *Client) WriteJSON(v any) {
	c.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		c.t.Fatalf("wsguardtest: %s: WriteJSON: %v", c.name, err)
	}
	c.write(wsguard.MessageText, data)
}

func (c *Client) write(typ wsguard.MessageType, data []byte) {
	c.t.Helper()
	if err := c.Write(typ, data); err != nil {
		c.t.Fatalf("wsguardtest: %s: cannot send %s: %s", c.name, show(message{typ, data}), c.explain(err))
	}
}

// ReadText returns the next message, which must be text.
func (c *Client) ReadText() string {
	c.t.Helper()
	return string(c.next(wsguard.MessageText, "a text message"))
}

// ReadBinary returns the next message, which must be binary.
func (c *Client) ReadBinary() []byte {
	c.t.Helper()
	return c.next(wsguard.MessageBinary, "a binary message")
}

// ReadJSON decodes the next message, which must be text, into v.
func (c *Client) ReadJSON(v any) {
	c.t.Helper()
	data := c.next(wsguard.MessageText, "a text message")
	if err := json.Unmarshal(data, v); err != nil {
		c.t.Fatalf("wsguardtest: %s: ReadJSON: %v, in %s", c.name, err, show(message{wsguard.MessageText, data}))
	}
}

// WantText checks that the next message is this text.
func (c *Client) WantText(want string) {
	c.t.Helper()
	wanted := show(message{wsguard.MessageText, []byte(want)})
	if got := c.next(wsguard.MessageText, wanted); string(got) != want {
		c.t.Fatalf("wsguardtest: %s: got %s, want %s", c.name, show(message{wsguard.MessageText, got}), wanted)
	}
}

// WantJSON checks that the next message is text that is equal to want as JSON. White space and
// the order of members do not matter. Numbers must be written in the same way.
func (c *Client) WantJSON(want string) {
	c.t.Helper()
	wanted, err := decode([]byte(want))
	if err != nil {
		c.t.Fatalf("wsguardtest: WantJSON: %v, in the JSON that the test wants: %s", err, want)
	}
	data := c.next(wsguard.MessageText, want)
	if got, err := decode(data); err != nil || !reflect.DeepEqual(got, wanted) {
		c.t.Fatalf("wsguardtest: %s:\n got %s\nwant %s", c.name, data, want)
	}
}

// decode decodes JSON with its numbers as they are written.
func decode(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err = d.Decode(&v); err == nil && d.More() {
		err = errors.New("something after the first value")
	}
	return v, err
}

// next returns the next message, which must have this type. want names it in errors.
func (c *Client) next(typ wsguard.MessageType, want string) []byte {
	c.t.Helper()
	start := time.Now()
	got, data, err := c.Read()
	switch {
	case err != nil:
		c.t.Fatalf("wsguardtest: %s: %s%s, want %s", c.name, c.explain(err), c.after(start), want)
	case got != typ:
		c.t.Fatalf("wsguardtest: %s: got %s, want %s", c.name, show(message{got, data}), want)
	}
	return data
}

// WantClose checks that the server closes the connection with a code and a reason, such as 1008
// and "schema". It skips the messages that come before. The code 1006 stands for an end without a
// close frame, and 1005 for a close frame without a code. For both, reason is empty.
func (c *Client) WantClose(code wsguard.StatusCode, reason string) {
	c.t.Helper()
	want := closed(code, reason)
	start := time.Now()
	var skipped []string
	for {
		typ, data, err := c.Read()
		if err == nil {
			skipped = append(skipped, show(message{typ, data}))
			continue
		}
		var ce websocket.CloseError
		if !errors.As(err, &ce) || ce.Code != code || ce.Reason != reason {
			c.t.Fatalf("wsguardtest: %s: %s%s, want it %s%s", c.name, c.explain(err), c.after(start), want, before(skipped))
		}
		return
	}
}

// before says which messages have come before the end.
func before(skipped []string) string {
	last := skipped[max(0, len(skipped)-3):]
	switch n := len(skipped); n {
	case 0:
		return ""
	case 1:
		return "; a message has come before:\n\t" + last[0]
	default:
		return fmt.Sprintf("; %d messages have come before, the last of them:\n\t%s", n, strings.Join(last, "\n\t"))
	}
}

// WantNothing checks that no message comes for d, and that the connection stays open. It takes
// that long, unless it runs in a bubble of testing/synctest.
func (c *Client) WantNothing(d time.Duration) {
	c.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case m, ok := <-c.messages:
		if !ok {
			c.t.Fatalf("wsguardtest: %s: %s, want nothing for %v", c.name, c.explain(c.err), d)
		}
		c.t.Fatalf("wsguardtest: %s: got %s, want nothing for %v", c.name, show(m), d)
	case <-timer.C:
	}
}

// Close closes the connection with 1000, and waits until the server has answered. It skips the
// messages that the test has not read. If the connection has ended already, it does nothing.
func (c *Client) Close() {
	c.t.Helper()
	c.CloseWith(1000, "")
}

// CloseWith is like Close with a code and a reason of the test's choice. The code 1005 stands for
// a close frame without a code. CloseWith does not check that a client may send the code.
func (c *Client) CloseWith(code wsguard.StatusCode, reason string) {
	c.t.Helper()
	err := c.frame(wstest.CloseFrame(int(code), reason), c.timeout)
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	for err == nil {
		select {
		case _, ok := <-c.messages:
			if !ok {
				return
			}
		case <-timer.C:
			c.t.Fatalf("wsguardtest: %s: the server has not answered the close frame within %v", c.name, c.timeout)
		}
	}
	c.CloseNow()
}

// CloseNow drops the connection without a close frame.
func (c *Client) CloseNow() { c.drop() }

// drop ends the connection and the reader.
func (c *Client) drop() {
	c.dropping.Do(func() { close(c.dropped) })
	c.raw.Close()
	<-c.ended
}

// explain says in words why there is no message.
func (c *Client) explain(err error) string {
	var ce websocket.CloseError
	switch {
	case errors.As(err, &ce):
		return "the connection was " + closed(ce.Code, ce.Reason)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("nothing has come within %v", c.timeout)
	}
	return err.Error()
}

// after says how long a call has waited for the end of the connection, if it was long. In a bubble
// that explains ends such as 3008 idle.
func (c *Client) after(start time.Time) string {
	if d := time.Since(start); d >= time.Second && d < c.timeout {
		return fmt.Sprintf(" after %v", d.Round(time.Second/10))
	}
	return ""
}

// closed says how a connection was closed.
func closed(code wsguard.StatusCode, reason string) string {
	switch {
	case code == websocket.StatusAbnormalClosure:
		return "cut off without a close frame (1006)"
	case reason == "":
		return fmt.Sprintf("closed with %d", int(code))
	}
	return fmt.Sprintf("closed with %d %q", int(code), reason)
}

// maxShown is how many bytes of a message an error has.
const maxShown = 500

// show returns a message for an error.
func show(m message) string {
	data, more := m.data, ""
	if len(data) > maxShown {
		data, more = data[:maxShown], fmt.Sprintf("… (%d bytes)", len(m.data))
	}
	if m.typ == wsguard.MessageBinary {
		return fmt.Sprintf("the binary message %x%s", data, more)
	}
	return fmt.Sprintf("the message %q%s", data, more)
}

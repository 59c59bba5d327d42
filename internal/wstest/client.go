package wstest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// DefaultTimeout bounds each call of a [Client], unless its Timeout says
// otherwise.
const DefaultTimeout = 10 * time.Second

// The most a client holds in memory of what a server sends.
const (
	maxPayloadBytes = 64 << 20
	maxBodyBytes    = 1 << 20
)

// Client is a raw WebSocket client over any net.Conn. It sends what a test
// tells it to, answers nothing by itself (no pong, no echoed close frame), and
// reports each violation of RFC 6455 in what it reads.
//
// One goroutine may read while another writes. No method fails the test. The
// caller must do that, on the test's goroutine.
type Client struct {
	// Timeout bounds each call as a whole, in the fake time of a bubble too, so
	// that a test fails instead of hanging. Zero means [DefaultTimeout], and a
	// negative value means no bound. A frame that is late by design, such as a
	// ping, needs a longer one. After a timeout the client can go on reading,
	// unless it came within a payload.
	Timeout time.Duration

	// Control is called by ReadMessage with each ping and pong that it skips. It
	// may be nil.
	Control func(Frame)

	// Upgraded is called when a handshake has been answered with 101, before the call that has
	// made it returns. It may be nil.
	Upgraded func()

	conn   net.Conn
	br     *bufio.Reader
	broken error // why the rest of the connection cannot be parsed; nil: it can

	// The message whose first fragments ReadMessage has read.
	begun   bool
	opcode  byte
	message []byte
}

// Dial connects to addr, the host:port of a server, over TCP. The test's end
// closes the connection.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, DefaultTimeout)
	if err != nil {
		t.Fatalf("wstest: %v", err)
	}
	return NewClient(t, conn)
}

// NewClient returns a client over conn, which stays reachable until the test's
// end closes it.
func NewClient(t testing.TB, conn net.Conn) *Client {
	t.Cleanup(func() { conn.Close() })
	return &Client{conn: conn, br: bufio.NewReader(conn)}
}

// Conn returns the connection. The client's buffer may already hold bytes of the
// server. So a test must read either with the client's methods or from Conn, and
// not with both.
func (c *Client) Conn() net.Conn { return c.conn }

// Close closes the connection without a close frame.
func (c *Client) Close() error { return c.conn.Close() }

// Write writes b as it is.
func (c *Client) Write(b []byte) (int, error) {
	c.conn.SetWriteDeadline(c.deadline())
	defer c.conn.SetWriteDeadline(time.Time{}) // leave no deadline of the client behind
	return c.conn.Write(b)
}

// WriteFrame writes f in a single Write.
func (c *Client) WriteFrame(f Frame) error {
	_, err := c.Write(AppendFrame(nil, f))
	return err
}

// deadline returns the zero Time if there is no bound.
func (c *Client) deadline() time.Time {
	switch {
	case c.Timeout < 0:
		return time.Time{}
	case c.Timeout == 0:
		return time.Now().Add(DefaultTimeout)
	}
	return time.Now().Add(c.Timeout)
}

// reading sets the deadline of a call that reads and returns what clears it.
func (c *Client) reading() (done func()) {
	c.conn.SetReadDeadline(c.deadline())
	return func() { c.conn.SetReadDeadline(time.Time{}) }
}

// HandshakeOptions describe an upgrade request, legal or not. The zero value is
// a legal one for the path "/". Nothing is escaped or checked.
type HandshakeOptions struct {
	Method string // default GET
	Path   string // the request target; default "/"
	Proto  string // default HTTP/1.1
	Host   string // default the connection's remote address

	// Header overrides the default fields (Host, Upgrade, Connection,
	// Sec-WebSocket-Version, Sec-WebSocket-Key and, with a Body,
	// Content-Length); a nil value removes one. Names go out in the case they
	// have here.
	Header http.Header

	Body string

	// Early follows in the same write, as from a client that sends frames
	// before it has seen the 101.
	Early []byte
}

// Handshake sends a correct upgrade request for path with header added to it,
// and returns the response as [Client.HandshakeWith] does. If the server needs an
// Origin, header must have it.
func (c *Client) Handshake(path string, header http.Header) (*http.Response, error) {
	return c.HandshakeWith(HandshakeOptions{Path: path, Header: header})
}

// HandshakeWith sends the request that o describes and returns the response,
// with its body already read. A refusal is a response like any other. A 101 that
// does not prove that the server understood the request is an error.
func (c *Client) HandshakeWith(o HandshakeOptions) (*http.Response, error) {
	req, key := o.request(c.conn.RemoteAddr().String())
	c.conn.SetDeadline(c.deadline())
	defer c.conn.SetDeadline(time.Time{})
	// A server may refuse, and close, before it has read everything. So there may
	// be a response even if the Write fails.
	_, writeErr := c.conn.Write(req)
	res, err := c.readResponse(o.Method)
	if err != nil {
		return res, errors.Join(writeErr, err)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if c.Upgraded != nil {
			c.Upgraded()
		}
		return res, checkUpgrade(res.Header, key)
	}
	return res, nil
}

// ReadResponse reads the response to a request that the test has written by
// itself, and its body.
func (c *Client) ReadResponse() (*http.Response, error) {
	defer c.reading()()
	return c.readResponse(http.MethodGet)
}

func (c *Client) readResponse(method string) (*http.Response, error) {
	res, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("wstest: reading the response: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBodyBytes+1))
	if err == nil && len(body) > maxBodyBytes {
		err = fmt.Errorf("longer than %d bytes", maxBodyBytes)
	}
	if err != nil {
		err = fmt.Errorf("wstest: reading the body of the %d: %w", res.StatusCode, err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, err
}

// request returns the bytes of the request and the key in it, which is empty
// unless there is exactly one.
func (o HandshakeOptions) request(host string) (req []byte, key string) {
	if o.Host != "" {
		host = o.Host
	}
	fields := []struct{ name, value string }{
		{"Host", host},
		{"Upgrade", "websocket"},
		{"Connection", "Upgrade"},
		{"Sec-WebSocket-Version", "13"},
		{"Sec-WebSocket-Key", newKey()},
	}
	overridden := make(map[string]bool)
	names := make([]string, 0, len(o.Header))
	for name := range o.Header {
		overridden[textproto.CanonicalMIMEHeaderKey(name)] = true
		names = append(names, name)
	}
	if o.Body != "" && !overridden["Transfer-Encoding"] {
		fields = append(fields, struct{ name, value string }{"Content-Length", strconv.Itoa(len(o.Body))})
	}
	sort.Strings(names) // the same request each time

	req = fmt.Appendf(req, "%s %s %s\r\n", or(o.Method, "GET"), or(o.Path, "/"), or(o.Proto, "HTTP/1.1"))
	var keys []string
	add := func(name, value string) {
		req = append(append(append(append(req, name...), ": "...), value...), "\r\n"...)
		if strings.EqualFold(name, "Sec-WebSocket-Key") {
			keys = append(keys, value)
		}
	}
	for _, f := range fields {
		if !overridden[textproto.CanonicalMIMEHeaderKey(f.name)] {
			add(f.name, f.value)
		}
	}
	for _, name := range names {
		for _, value := range o.Header[name] {
			add(name, value)
		}
	}
	req = append(append(append(req, "\r\n"...), o.Body...), o.Early...)
	if len(keys) == 1 {
		key = keys[0]
	}
	return req, key
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func newKey() string {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// AcceptKey computes Sec-WebSocket-Accept (RFC 6455, section 4.2.2).
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// checkUpgrade checks the header of a 101 (RFC 6455, section 4.1).
func checkUpgrade(h http.Header, key string) error {
	if key == "" {
		return violation("101 to a request without exactly one key")
	}
	if got, want := h.Values("Sec-WebSocket-Accept"), AcceptKey(key); len(got) != 1 || got[0] != want {
		return violation("Sec-WebSocket-Accept is %q, want %q", got, want)
	}
	if got := h.Values("Upgrade"); len(got) != 1 || !strings.EqualFold(got[0], "websocket") {
		return violation("Upgrade is %q", got)
	}
	if got := h.Values("Connection"); !slices.ContainsFunc(strings.Split(strings.Join(got, ","), ","), func(s string) bool {
		return strings.EqualFold(strings.TrimSpace(s), "Upgrade")
	}) {
		return violation("Connection is %q", got)
	}
	return nil
}

// CloseError is what [Client.ReadMessage] returns when a close frame comes
// instead. Code is 1005 if the frame has no status.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("wstest: the server closed with %d %q", e.Code, e.Reason)
}

// ReadFrame reads the server's next frame. A frame that no server may send is an
// error that wraps [ErrProtocol]. Such a frame is masked, has a length that is not
// in its shortest form, has a reserved opcode, or is a fragmented or long control
// frame. The caller must judge RSV, because it knows whether an extension was
// negotiated. The error at the end of the connection wraps [io.EOF]. Within a frame
// it wraps [io.ErrUnexpectedEOF].
func (c *Client) ReadFrame() (Frame, error) {
	defer c.reading()()
	return c.readFrame()
}

func (c *Client) readFrame() (Frame, error) {
	if c.broken != nil {
		return Frame{}, c.broken
	}
	// Peek, so that a timeout within a header leaves the header in place.
	b, err := c.br.Peek(2)
	if err != nil {
		return Frame{}, frameError(err, len(b) > 0)
	}
	f := Frame{Fin: b[0]&0x80 != 0, RSV: b[0] >> 4 & 7, Opcode: b[0] & 15, Masked: b[1]&0x80 != 0}
	length, form := uint64(b[1]&0x7f), 0
	switch length {
	case 126:
		form = 2
	case 127:
		form = 8
	}
	if b, err = c.br.Peek(2 + form); err != nil {
		return Frame{}, frameError(err, true)
	}
	switch form {
	case 2:
		length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 8:
		length = binary.BigEndian.Uint64(b[2:])
	}

	switch control := f.Opcode >= 8; {
	case f.Masked:
		err = violation("masked frame, opcode %d", f.Opcode)
	case form != minimalForm(length):
		err = violation("length %d in %d bytes", length, form)
	case length>>63 != 0:
		err = violation("length %#x has its top bit set", length)
	case f.Opcode > 10 || f.Opcode > 2 && !control:
		err = violation("reserved opcode %d", f.Opcode)
	case control && (!f.Fin || length > 125):
		err = violation("control frame, opcode %d, fin %t, length %d", f.Opcode, f.Fin, length)
	case length > maxPayloadBytes:
		err = fmt.Errorf("wstest: a frame of %d bytes is more than a test can want", length)
	}
	if err != nil {
		c.broken = err
		return f, err
	}
	c.br.Discard(2 + form) // they are buffered
	f.Payload = make([]byte, length)
	if _, err = io.ReadFull(c.br, f.Payload); err != nil {
		c.broken = frameError(err, true)
		return f, c.broken
	}
	return f, nil
}

func frameError(err error, within bool) error {
	if err == io.EOF && within {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("wstest: reading a frame: %w", err)
}

// ReadMessage reads the server's next message. Its opcode is OpText or OpBinary. It
// joins fragments and skips pings and pongs. For a close frame it returns a
// *[CloseError].
func (c *Client) ReadMessage() (opcode byte, payload []byte, err error) {
	defer c.reading()()
	for {
		f, err := c.readFrame()
		if err != nil {
			return 0, nil, err
		}
		switch {
		case f.RSV != 0:
			c.broken = violation("RSV %d without an extension", f.RSV)
		case f.Opcode == OpClose:
			return 0, nil, parseClose(f.Payload)
		case f.Opcode > OpClose:
			if c.Control != nil {
				c.Control(f)
			}
			continue
		case c.begun != (f.Opcode == OpContinuation):
			c.broken = violation("opcode %d, message begun: %t", f.Opcode, c.begun)
		}
		if c.broken != nil {
			return 0, nil, c.broken
		}
		if !c.begun {
			c.begun, c.opcode, c.message = true, f.Opcode, nil
		}
		if c.message = append(c.message, f.Payload...); f.Fin {
			c.begun = false
			return c.opcode, c.message, nil
		}
	}
}

// ReadClose skips frames until a close frame or an error. The code is 1005 if the
// close frame has no status.
func (c *Client) ReadClose() (code int, reason string, err error) {
	defer c.reading()()
	for {
		f, err := c.readFrame()
		if err != nil {
			return 0, "", err
		}
		if f.Opcode == OpClose {
			err := parseClose(f.Payload)
			if ce, ok := err.(*CloseError); ok {
				return ce.Code, ce.Reason, nil
			}
			return 0, "", err
		}
	}
}

// parseClose returns a *CloseError, or another error if the payload of the close
// frame is malformed (RFC 6455, sections 5.5.1 and 7.4).
func parseClose(p []byte) error {
	switch len(p) {
	case 0:
		return &CloseError{Code: noStatus}
	case 1:
		return violation("close frame with one byte")
	}
	code, reason := int(binary.BigEndian.Uint16(p)), string(p[2:])
	if sendable := code >= 1000 && code <= 1014 && code != 1004 && code != noStatus && code != 1006 ||
		code >= 3000 && code <= 4999; !sendable {
		return violation("close code %d on the wire", code)
	}
	if !utf8.ValidString(reason) {
		return violation("close reason %q is not UTF-8", reason)
	}
	return &CloseError{Code: code, Reason: reason}
}

// ReadEOF discards bytes until the server ends the connection. It returns nil if
// the end is orderly.
func (c *Client) ReadEOF() error {
	defer c.reading()()
	_, err := io.Copy(io.Discard, c.br)
	if err != nil {
		return fmt.Errorf("wstest: waiting for the end of the connection: %w", err)
	}
	return nil
}

package wire

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// ErrNotHijackable says that w cannot hand over its connection. Nothing was written to it.
var ErrNotHijackable = errors.New("wire: the ResponseWriter cannot be hijacked")

// hijacker finds the http.Hijacker behind w, as http.ResponseController does.
func hijacker(w http.ResponseWriter) (http.Hijacker, bool) {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return t, true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return nil, false
		}
	}
}

// Hijackable reports whether Hijack can take w's connection over.
func Hijackable(w http.ResponseWriter) bool {
	_, ok := hijacker(w)
	return ok
}

// HeaderTokens splits a header at its commas, all its lines.
func HeaderTokens(h http.Header, name string) []string {
	var tokens []string
	for _, line := range h[name] {
		for t := range strings.SplitSeq(line, ",") {
			if t = strings.Trim(t, " \t"); t != "" {
				tokens = append(tokens, t)
			}
		}
	}
	return tokens
}

// HasToken reports whether a header has a token, in any case.
func HasToken(h http.Header, name, token string) bool {
	return slices.ContainsFunc(HeaderTokens(h, name), func(t string) bool { return strings.EqualFold(t, token) })
}

// Hijack takes the connection over, and returns net/http's buffers for others to use.
// Nothing has been written to the connection. The error wraps ErrNotHijackable.
func Hijack(w http.ResponseWriter, cfg *Config) (*Conn, *bufio.ReadWriter, error) {
	hj, ok := hijacker(w)
	if !ok {
		return nil, nil, ErrNotHijackable
	}
	nc, brw, err := hj.Hijack()
	if err != nil {
		return nil, nil, errors.Join(ErrNotHijackable, err)
	}
	nc.SetDeadline(time.Time{})
	return newConn(nc, earlyOf(brw), cfg), brw, nil
}

// earlyOf returns the frames that have come with the handshake. They are copied, so that the
// buffers of net/http can go, and judged as any others.
func earlyOf(brw *bufio.ReadWriter) (early []byte) {
	if n := brw.Reader.Buffered(); n > 0 {
		b, _ := brw.Reader.Peek(n)
		early = append(early, b...)
	}
	return early
}

// Upgrade takes the connection over and answers 101, which coder/websocket words. The
// request must have been checked; subprotocol, when not empty, is one that it offers.
// With ErrNotHijackable nothing has been written; after any other error the connection
// is closed.
func Upgrade(w http.ResponseWriter, r *http.Request, subprotocol string, cfg *Config) (*Conn, error) {
	if !Hijackable(w) {
		return nil, ErrNotHijackable
	}
	uw := &upgradeWriter{w: w, gone: gone(r.Context()), header: w.Header().Clone(), cfg: cfg}
	if uw.header == nil {
		uw.header = http.Header{}
	}
	opts := &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the guard's own origin check has run
		CompressionMode:    websocket.CompressionDisabled,
	}
	if subprotocol != "" {
		opts.Subprotocols = []string{subprotocol}
	}
	ws, err := websocket.Accept(uw, r, opts)
	if err == nil {
		// The library has done its part. Without CloseNow its finalizer would keep it
		// from being collected.
		ws.CloseNow()
		return uw.conn, nil
	}
	if uw.conn == nil {
		return nil, errors.Join(ErrNotHijackable, uw.err, err)
	}
	uw.conn.socket().Close()
	return nil, err
}

// upgradeWriter is the ResponseWriter that the library answers to. It takes the connection
// before the 101 is written, not after: a Hijack may still fail, and a client must not be
// told of an upgrade that did not happen.
type upgradeWriter struct {
	w      http.ResponseWriter
	gone   bool // the client has left
	header http.Header
	cfg    *Config
	conn   *Conn
	err    error
}

func (w *upgradeWriter) Header() http.Header { return w.header }

// Write drops the library's own error texts.
func (w *upgradeWriter) Write(p []byte) (int, error) { return len(p), nil }

func (w *upgradeWriter) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols || w.conn != nil || w.err != nil {
		return
	}
	if n := nativeOf(w.w); n != nil && !w.gone {
		w.announce(n)
		return
	}
	if w.conn, _, w.err = Hijack(w.w, w.cfg); w.err != nil {
		return
	}
	w.send()
}

// announce tells the middleware of the 101, and takes the connection over.
func (w *upgradeWriter) announce(n *native) {
	withoutBody(w.header)
	sent, failed := n.announce(&announcement{status: http.StatusSwitchingProtocols, header: w.header, timeout: w.cfg.WriteTimeout})
	nc, brw, err := n.hijack()
	if err != nil {
		w.err = errors.Join(ErrNotHijackable, err)
		return
	}
	nc.SetDeadline(time.Time{})
	w.conn, w.err = newConn(nc, earlyOf(brw), w.cfg), failed
	if !sent {
		w.send()
	}
}

// send writes the 101.
func (w *upgradeWriter) send() {
	nc := w.conn.nc
	nc.SetWriteDeadline(time.Now().Add(w.cfg.WriteTimeout))
	_, w.err = nc.Write(SwitchingProtocols(w.header))
	nc.SetWriteDeadline(time.Time{})
}

func (w *upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.err != nil {
		return nil, nil, w.err
	}
	var none noConn
	return none, bufio.NewReadWriter(bufio.NewReaderSize(none, 16), bufio.NewWriterSize(none, 16)), nil
}

// withoutBody removes the headers that describe a body. A 101 has none.
func withoutBody(h http.Header) {
	for _, name := range []string{"Content-Encoding", "Content-Length", "Content-Type", "Trailer", "Transfer-Encoding"} {
		h.Del(name)
	}
}

// SwitchingProtocols is the head of a 101 with these headers.
func SwitchingProtocols(h http.Header) []byte {
	withoutBody(h)
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(&b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// noConn is the net.Conn that the library is given: it neither reads nor writes.
type noConn struct{}

func (noConn) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (noConn) Write(p []byte) (int, error)      { return len(p), nil }
func (noConn) Close() error                     { return nil }
func (noConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (noConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (noConn) SetDeadline(time.Time) error      { return nil }
func (noConn) SetReadDeadline(time.Time) error  { return nil }
func (noConn) SetWriteDeadline(time.Time) error { return nil }

package wire

import (
	"bufio"
	"bytes"
	"errors"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// ErrNotHijackable says that w cannot hand over its connection. Nothing was
// written to it.
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

// Hijackable reports whether Upgrade can take w's connection over.
func Hijackable(w http.ResponseWriter) bool {
	_, ok := hijacker(w)
	return ok
}

// Upgrade takes the connection over and answers 101. The request must have been
// checked; subprotocol, when not empty, is one that it offers. With
// ErrNotHijackable nothing has been written; after any other error the
// connection is closed.
func Upgrade(w http.ResponseWriter, r *http.Request, subprotocol string, cfg *Config) (*Conn, error) {
	hj, ok := hijacker(w)
	if !ok {
		return nil, ErrNotHijackable
	}
	uw := &upgradeWriter{header: w.Header().Clone(), hj: hj, cfg: cfg}
	if uw.header == nil {
		uw.header = http.Header{}
	}
	opts := &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the guard's own origin check has run
		CompressionMode:    websocket.CompressionDisabled,
	}
	if subprotocol != "" {
		opts.Subprotocols = []string{subprotocol}
		// The library keeps the entry that it picks, and with it the whole line.
		offer := *r
		offer.Header = maps.Clone(r.Header)
		offer.Header["Sec-Websocket-Protocol"] = opts.Subprotocols
		r = &offer
	}
	ws, err := websocket.Accept(uw, r, opts)
	if err != nil {
		if uw.conn == nil {
			return nil, errors.Join(ErrNotHijackable, uw.err, err)
		}
		uw.conn.socket().Close()
		return nil, err
	}
	// The guard measures messages at their headers, before the library
	// sees them.
	ws.SetReadLimit(-1)
	uw.conn.ws = ws
	return uw.conn, nil
}

// upgradeWriter is the ResponseWriter that the library answers to. It takes the
// connection before the 101 is written, not after: a Hijack may still fail, and
// a client must not be told of an upgrade that did not happen.
type upgradeWriter struct {
	header http.Header
	hj     http.Hijacker
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
	nc, brw, err := w.hj.Hijack()
	if err != nil {
		w.err = err
		return
	}
	// Frames may have come with the handshake: they pass the meter as any
	// others do. Copied, so that net/http's buffers can go.
	var early []byte
	if n := brw.Reader.Buffered(); n > 0 {
		b, _ := brw.Reader.Peek(n)
		early = append(early, b...)
	}
	w.conn = newConn(nc, early, w.cfg)
	w.header.Del("Content-Length")
	w.header.Del("Transfer-Encoding")
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	w.header.Write(&b)
	b.WriteString("\r\n")
	nc.SetDeadline(time.Time{})
	nc.SetWriteDeadline(time.Now().Add(w.cfg.WriteTimeout))
	_, w.err = nc.Write(b.Bytes())
	nc.SetWriteDeadline(time.Time{})
}

func (w *upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.err != nil {
		return nil, nil, w.err
	}
	l := lib{w.conn}
	return l, l.readWriter(), nil
}

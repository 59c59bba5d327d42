package wire

import (
	"bufio"
	"errors"
	"net"
	"net/http"

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

// Upgrade answers 101 and takes the connection over. The request must have
// been checked; subprotocol, when not empty, is one that it offers.
func Upgrade(w http.ResponseWriter, r *http.Request, subprotocol string, cfg *Config) (*Conn, error) {
	hj, ok := hijacker(w)
	if !ok {
		return nil, ErrNotHijackable
	}
	uw := &upgradeWriter{ResponseWriter: w, hj: hj, cfg: cfg}
	opts := &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the guard's own origin check has run
		CompressionMode:    websocket.CompressionDisabled,
	}
	if subprotocol != "" {
		opts.Subprotocols = []string{subprotocol}
	}
	ws, err := websocket.Accept(uw, r, opts)
	if err != nil {
		if uw.conn != nil {
			uw.conn.nc.Close()
		}
		return nil, err
	}
	// The guard measures messages at their headers, before the library
	// sees them.
	ws.SetReadLimit(-1)
	uw.conn.ws = ws
	return uw.conn, nil
}

// upgradeWriter keeps the net.Conn for itself and gives the library ours.
type upgradeWriter struct {
	http.ResponseWriter
	hj   http.Hijacker
	cfg  *Config
	conn *Conn
}

func (w *upgradeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeaderNow is gin's: without it gin never sends the 101.
func (w *upgradeWriter) WriteHeaderNow() {
	if g, ok := w.ResponseWriter.(interface{ WriteHeaderNow() }); ok {
		g.WriteHeaderNow()
	}
}

func (w *upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := w.hj.Hijack()
	if err != nil {
		return nil, nil, err
	}
	// Frames may have come with the handshake: they pass the meter as any
	// others do. Copied, so that net/http's buffers can go.
	var early []byte
	if n := brw.Reader.Buffered(); n > 0 {
		b, _ := brw.Reader.Peek(n)
		early = append(early, b...)
	}
	w.conn = newConn(nc, early, w.cfg)
	l := lib{w.conn}
	return l, l.readWriter(), nil
}

package wire

import (
	"bufio"
	"errors"
	"maps"
	"net"
	"net/http"
	"reflect"
	"time"
)

// Middleware learns the status of a response from WriteHeader, and net/http logs a WriteHeader
// that comes after Hijack as an error. So the engine passes the head of a response to WriteHeader
// before it hijacks the connection. net/http then writes the head. That is only honest if the
// hijack cannot fail afterwards, which is certain for the ResponseWriter of net/http itself.

// native is the ResponseWriter of net/http for HTTP/1, with the middleware around it.
type native struct {
	outer http.ResponseWriter
	inner http.ResponseWriter // net/http's own

	// These are fields of inner. No method of it shows what they say.
	wroteHeader reflect.Value // WriteHeader has been called
	status      reflect.Value // what it has been called with
	hijacked    reflect.Value // the connection has been hijacked
}

// nativeOf finds the ResponseWriter of net/http behind w. It returns nil if there is none, if a
// wrapper does not show it by a method Unwrap, or if it has a status or has been hijacked. It
// also returns nil for a version of net/http that has other fields. If w itself is net/http's, there
// is no middleware to tell, and nativeOf returns nil. The engine then hijacks first, so that no
// client has its 101 before the guard has the connection.
func nativeOf(w http.ResponseWriter) *native {
	inner, middleware := w, false
	for range 64 { // a wrapper that contains itself
		outer, ok := inner.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		inner, middleware = outer.Unwrap(), true
	}
	if !middleware {
		return nil
	}
	v := reflect.ValueOf(inner)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Type().String() != "*http.response" || v.Type().Elem().PkgPath() != "net/http" {
		return nil
	}
	v = v.Elem()
	n := &native{outer: w, inner: inner, wroteHeader: v.FieldByName("wroteHeader"), status: v.FieldByName("status")}
	if conn := v.FieldByName("conn"); conn.Kind() == reflect.Pointer && conn.Elem().Kind() == reflect.Struct {
		n.hijacked = conn.Elem().FieldByName("hijackedv")
	}
	if n.wroteHeader.Kind() != reflect.Bool || n.status.Kind() != reflect.Int || n.hijacked.Kind() != reflect.Bool {
		return nil
	}
	if n.wroteHeader.Bool() || n.hijacked.Bool() {
		return nil
	}
	return n
}

// announcement is a response head that middleware is told of.
type announcement struct {
	status  int
	header  http.Header
	timeout time.Duration // for the head
}

// errStatus says that a middleware has replaced the status of a response.
var errStatus = errors.New("wire: a middleware has replaced the status")

// announce passes a to the middleware and to net/http, which sends it. sent is false if a
// middleware holds the status back. If sent is true, err says whether the head has gone out
// whole.
func (n *native) announce(a *announcement) (sent bool, err error) {
	h := n.outer.Header()
	// A middleware that compresses may hold the status back until the handler has returned, and
	// pass it to net/http then.
	if len(h["Content-Encoding"]) > 0 || HasToken(h, "Vary", "Accept-Encoding") {
		return false, nil
	}
	before := maps.Clone(h)
	clear(h)
	maps.Copy(h, a.header)
	defer func() {
		clear(h)
		maps.Copy(h, before)
	}()
	// net/http clears the deadline when the connection is hijacked.
	http.NewResponseController(n.inner).SetWriteDeadline(time.Now().Add(a.timeout))
	n.outer.WriteHeader(a.status)
	for w := n.outer; !n.wroteHeader.Bool(); {
		// gin holds a status back until WriteHeaderNow is called.
		if now, ok := w.(interface{ WriteHeaderNow() }); ok {
			now.WriteHeaderNow()
		}
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false, nil
		}
		w = outer.Unwrap()
	}
	if int(n.status.Int()) != a.status {
		return true, errStatus
	}
	return true, http.NewResponseController(n.inner).Flush()
}

// hijack takes the connection over. If a middleware refuses that, it does so behind its back:
// the client may have the head of a 101 already.
func (n *native) hijack() (net.Conn, *bufio.ReadWriter, error) {
	if hj, ok := hijacker(n.outer); ok {
		if nc, brw, err := hj.Hijack(); err == nil {
			return nc, brw, nil
		}
	}
	return n.inner.(http.Hijacker).Hijack()
}

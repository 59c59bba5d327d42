package accesslogs_test

import (
	"bufio"
	"errors"
	"net"
	"net/http"
)

type unwrapper struct{ *recorder }

func (w unwrapper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// both has Unwrap and Hijack.
type both struct{ unwrapper }

func (w both) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

// closed has Hijack only.
type closed struct{ *recorder }

func (w closed) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

var errPolicy = errors.New("not this one")

// failing has a Hijack that fails.
type failing struct{ *recorder }

func (failing) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errPolicy }

// failingBoth has Unwrap, too.
type failingBoth struct{ unwrapper }

func (failingBoth) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errPolicy }

// late holds a status back until the handler has returned.
type late struct {
	*recorder
	status int
}

func (w *late) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w *late) WriteHeader(status int)      { w.status = status }

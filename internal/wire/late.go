package wire

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// late stands for the net.Conn of a wrapped handler's connection until the handler has
// answered. Most libraries hijack the connection and write the head of their response by hand.
// The engine takes the connection over when it has that head. By then it can tell middleware
// the status.
type late struct {
	noConn
	native *native
	ctx    context.Context // of the request

	mu    sync.Mutex // held while the connection is taken over
	taken bool       // guarded by mu
}

// Later is like Hijack for a wrapped handler, but leaves the connection to net/http until the
// handler has answered. It returns nil if middleware cannot be told the status anyway.
func Later(w http.ResponseWriter, r *http.Request, cfg *Config) *Conn {
	n := nativeOf(w)
	if n == nil {
		return nil
	}
	return newConn(&late{native: n, ctx: r.Context()}, nil, cfg)
}

func (l *late) Write([]byte) (int, error) { return 0, net.ErrClosed }

// SetWriteDeadline bounds the write with which net/http sends the response head.
func (l *late) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(l.native.inner).SetWriteDeadline(t)
}

// attach takes the connection over if net/http still has it. Middleware is told a, unless that
// is nil. sent says that net/http has sent the head of a, or has tried to. Any goroutine may
// call attach, but only the writer with an announcement.
func (w *Wrapped) attach(a *announcement) (sent bool, err error) {
	l := w.late.Load()
	if l == nil {
		return false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken {
		return false, nil
	}
	l.taken = true
	defer w.late.Store(nil) // an open connection keeps nothing of its request
	defer func() {
		if recover() != nil { // a middleware has panicked
			err = errPanicked
		}
	}()
	if a != nil && !gone(l.ctx) {
		sent, err = l.native.announce(a)
	}
	nc, brw, failed := l.native.hijack()
	if failed != nil {
		return sent, failed
	}
	w.c.replace(nc, earlyOf(brw))
	return sent, err
}

// gone reports whether net/http has found that the client of a request has left. It cancels the
// context of the request then.
func gone(ctx context.Context) bool { return ctx.Err() == context.Canceled }

// Returned must be called before a wrapped handler returns to net/http, which would answer the
// request if it still had the connection.
func (c *Conn) Returned() { c.wrapped.attach(nil) }

// replace sets the net.Conn in place of a late. The deadlines that were set meanwhile are set
// again.
func (c *Conn) replace(nc net.Conn, early []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own(nc, early)
	setDeadline(nc.SetDeadline, time.Time{})
	if c.armed != 0 {
		setDeadline(nc.SetReadDeadline, c.at(c.armed))
	}
	if c.warmed != 0 {
		setDeadline(nc.SetWriteDeadline, c.at(c.warmed))
	}
	if c.cut {
		closeConn(c.socket())
	}
}

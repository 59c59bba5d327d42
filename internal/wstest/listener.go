package wstest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
)

// Listener is a [net.Listener] whose connections are [Pipe]s. It runs a whole
// http.Server inside a [testing/synctest] bubble.
type Listener struct {
	opts PipeOptions
	addr *net.TCPAddr

	mu      sync.Mutex
	changed sync.Cond // backlog or closed has changed
	backlog []*PipeConn
	closed  bool
	port    uint16 // of the next Dial
}

var _ net.Listener = (*Listener)(nil)

// NewListener returns a listener at opts.ServerAddr. [Listener.Dial] gives its
// connections the address of opts.ClientAddr and ports that count up from it.
func NewListener(opts PipeOptions) *Listener {
	opts = opts.withDefaults()
	l := &Listener{opts: opts, addr: net.TCPAddrFromAddrPort(opts.ServerAddr), port: opts.ClientAddr.Port()}
	l.changed.L = &l.mu
	return l
}

// Dial connects from the next port of the listener's client address. Like a TCP
// handshake it succeeds without an Accept, so it never blocks. It fails if ctx has
// ended already. After Close it fails with ECONNREFUSED.
func (l *Listener) Dial(ctx context.Context) (*PipeConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, l.dialError(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	port := l.port
	if l.port++; l.port == 0 {
		l.port = firstEphemeralPort
	}
	return l.dial(netip.AddrPortFrom(l.opts.ClientAddr.Addr(), port))
}

// DialFrom is Dial from an address of the test's choice.
func (l *Listener) DialFrom(addr netip.AddrPort) (*PipeConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dial(addr)
}

// DialContext is Dial in the form that http.Transport takes. It connects to
// this listener whatever the address says.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := l.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dial is called with mu held.
func (l *Listener) dial(from netip.AddrPort) (*PipeConn, error) {
	if l.closed {
		return nil, l.dialError(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	opts := l.opts
	opts.ClientAddr = from
	client, server := Pipe(opts)
	l.backlog = append(l.backlog, server)
	l.changed.Broadcast()
	return client, nil
}

func (l *Listener) dialError(err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: l.addr, Err: err}
}

// Accept waits for a connection, the oldest first. After Close it fails with
// [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed && len(l.backlog) == 0 {
		l.changed.Wait()
	}
	if l.closed {
		return nil, l.closedError("accept")
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close ends Accept and Dial. It resets connections that were not accepted, as the
// kernel does.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.closedError("close")
	}
	l.closed = true
	for _, c := range l.backlog {
		c.Reset()
	}
	l.backlog = nil
	l.changed.Broadcast()
	return nil
}

func (l *Listener) closedError(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
}

// Addr returns the listener's *[net.TCPAddr].
func (l *Listener) Addr() net.Addr { return l.addr }

package soak_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// patience is how long a good client waits for an answer before the answer counts as lost. It
// is longer than any timeout of the servers, and than a busy machine may take.
const patience = 90 * time.Second

// goodKind is one way to be a good client. live returns nil when the crowd stops, and an
// error if the server has refused the client, cut it off, or lost something.
type goodKind struct {
	name string
	live func(*good) error
}

// goodKinds are spread evenly over the clients, so that a third of each kind is behind one
// address.
var goodKinds = []goodKind{
	{"echo", (*good).echoes},
	{"slow", (*good).feeds},
	{"echo", (*good).echoes},
	{"suspended", (*good).suspends},
	{"echo", (*good).echoes},
	{"burst", (*good).bursts},
	{"over TLS", (*good).echoesOverTLS},
	{"slow, suspended", (*good).feedsSuspended},
	{"echo", (*good).echoes},
	{"comes and goes", (*good).comesAndGoes},
	{"echo", (*good).echoes},
	{"echo", (*good).echoes},
	{"echo", (*good).echoes},
	{"suspended", (*good).suspends},
	{"echo", (*good).echoes},
	{"burst", (*good).bursts},
	{"over TLS", (*good).echoesOverTLS},
	{"echo", (*good).echoes},
	{"echo", (*good).echoes},
	{"comes and goes", (*good).comesAndGoes},
}

// good is a well-behaved client.
type good struct {
	*crowd
	n      int
	turn   int // the number among those of its kind
	from   net.IP
	conn   *pausable // of the last dial
	client *http.Client
}

// crowd is all good clients of one server.
type crowd struct {
	to      greeting
	roots   *x509.CertPool
	stop    chan struct{} // closed when the clients shall finish
	finish  func()        // has the clients leave, and waits until all have left
	clients sync.WaitGroup
	answers atomic.Int64 // messages that came back as they should
	phase   atomic.Int32 // in which latencies are recorded now

	mu        sync.Mutex
	latencies [phases][]time.Duration // guarded by mu until finish has returned: of echoes, by the phase in which they were sent
	failed    []failure               // guarded by mu until finish has returned
}

// failure is the end of a client that should have lived.
type failure struct {
	kind string
	err  error
}

// The phases of a soak.
const (
	phaseIgnored = iota // clients and buffers are still coming, or already going
	phaseCalm
	phaseAttack
	phases
)

// newCrowd starts n clients of a server. It returns when each has had time to connect.
func newCrowd(n int, to greeting) (*crowd, error) {
	cert, err := x509.ParseCertificate(to.Certificate)
	if err != nil {
		return nil, err
	}
	c := &crowd{to: to, roots: x509.NewCertPool(), stop: make(chan struct{})}
	c.roots.AddCert(cert)
	c.finish = sync.OnceFunc(func() {
		close(c.stop)
		c.clients.Wait()
	})
	for i := range n {
		g := &good{crowd: c, n: i, turn: i / len(goodKinds), from: net.IPv4(127, 0, 3, byte(1+i%250))}
		if i/250 > 0 {
			g.from = net.IPv4(127, 0, 4, byte(1+i%250))
		}
		if i%3 == 0 {
			g.from = net.IPv4(127, 0, 2, 1) // one address for a third
		}
		kind := goodKinds[i%len(goodKinds)]
		c.clients.Go(func() {
			begin := time.Now()
			transport := &http.Transport{
				DialContext:       g.dialTCP,
				TLSClientConfig:   &tls.Config{RootCAs: c.roots, ServerName: "example.com"},
				DisableKeepAlives: true,
			}
			g.client = &http.Client{Transport: transport}
			defer transport.CloseIdleConnections()
			if err := kind.live(g); err != nil {
				c.fail(failure{kind.name, fmt.Errorf("client %d after %v: %w", i, time.Since(begin).Round(time.Millisecond), err)})
			}
		})
		// All at once would be a flood of handshakes from the address that many share.
		time.Sleep(20 * time.Millisecond)
	}
	return c, nil
}

func (c *crowd) fail(f failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = append(c.failed, f)
}

// failures returns the clients that have failed, by kind.
func (c *crowd) failures() map[string][]error {
	kinds := map[string][]error{}
	for _, f := range c.failed {
		kinds[f.kind] = append(kinds[f.kind], f.err)
	}
	return kinds
}

// took records the latency of an echo that was sent at begin.
func (c *crowd) took(begin time.Time, phase int32) {
	d := time.Since(begin)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latencies[phase] = append(c.latencies[phase], d)
}

// recorded returns the latencies of a phase that is over.
func (c *crowd) recorded(phase int) []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.latencies[phase])
}

// pause waits for d, and reports whether the client shall finish.
func (c *crowd) pause(d time.Duration) (over bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.stop:
		return true
	case <-t.C:
		return false
	}
}

// dialTCP connects from the address of g.
func (g *good) dialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: g.from}}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	g.conn = &pausable{Conn: conn}
	return g.conn, nil
}

// open makes a handshake. A refusal is an error.
func (g *good) open(url string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient: g.client,
		HTTPHeader: http.Header{"Origin": {origin}, "Authorization": {fmt.Sprintf("Bearer token-of-good-%d", g.n)}},
	})
	if err != nil {
		if res != nil {
			err = fmt.Errorf("refused with %d: %w", res.StatusCode, err)
		}
		return nil, err
	}
	c.SetReadLimit(2 * feedBytes)
	return c, nil
}

func (g *good) dial(path string) (*websocket.Conn, error) { return g.open("ws://" + g.to.Addr + path) }

func send(c *websocket.Conn, msg []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.Write(ctx, websocket.MessageText, msg)
}

// receive reads a message, which must be want.
func receive(c *websocket.Conn, want []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, got, err := c.Read(ctx)
	if err != nil {
		return fmt.Errorf("waiting for %.24q: %w", want, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("got %.24q of %d bytes, want %.24q of %d", got, len(got), want, len(want))
	}
	return nil
}

// leave says goodbye. What the server answers does not matter any more.
func leave(c *websocket.Conn) { c.Close(websocket.StatusNormalClosure, "") }

// size is that of the n-th message.
func (g *good) size(n int) int { return []int{0, 150, 600, 4 << 10, 150, 9000}[(g.n+n)%6] }

// exchange has some messages on their way at once, of which first is the number of the first.
func (g *good) exchange(c *websocket.Conn, first, count int) error {
	phase := g.phase.Load()
	var begun []time.Time
	for n := first; n < first+count; n++ {
		begun = append(begun, time.Now())
		if err := send(c, message(n, g.size(n))); err != nil {
			return fmt.Errorf("sending message %d: %w", n, err)
		}
	}
	for n := first; n < first+count; n++ {
		if err := receive(c, message(n, g.size(n))); err != nil {
			return err
		}
		g.answers.Add(1)
		g.took(begun[n-first], phase)
	}
	return nil
}

func (g *good) echoes() error { return g.echo("ws://" + g.to.Addr + pathEcho) }

func (g *good) echoesOverTLS() error { return g.echo("wss://" + g.to.TLSAddr + pathEcho) }

func (g *good) echo(url string) error {
	c, err := g.open(url)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	inFlight := 1 + g.n%3
	for n := 0; !g.pause(time.Duration(400+g.n) * time.Millisecond); n += inFlight {
		if err := g.exchange(c, n, inFlight); err != nil {
			return err
		}
	}
	leave(c)
	return nil
}

// comesAndGoes connects again and again.
func (g *good) comesAndGoes() error {
	for !g.pause(time.Duration(500+g.n) * time.Millisecond) {
		c, err := g.dial(pathEcho)
		if err != nil {
			return err
		}
		err = g.exchange(c, 0, 5)
		leave(c)
		if err != nil {
			return err
		}
	}
	return nil
}

// suspended is how long a client does nothing. A guarded server waits 10 seconds for a pong and
// for the rest of a message, and what is left must be enough on a busy machine.
const suspended = 3 * time.Second

// suspends is like a page whose machine sleeps for some seconds, with answers on their way to
// it, or within a frame of its own.
func (g *good) suspends() error {
	c, err := g.dial(pathEcho)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	for n := 0; !g.pause(time.Duration(1000+g.n) * time.Millisecond); n += 5 {
		if n%2 == 0 {
			g.conn.half.Store(true)
		}
		for k := range 5 {
			if err := send(c, message(n+k, g.size(n+k))); err != nil {
				return fmt.Errorf("sending message %d: %w", n+k, err)
			}
		}
		if n%2 != 0 {
			g.pause(suspended)
		}
		for k := range 5 {
			if err := receive(c, message(n+k, g.size(n+k))); err != nil {
				return err
			}
			g.answers.Add(1)
		}
	}
	leave(c)
	return nil
}

// bursts gets many small messages at once, and reads them at once.
func (g *good) bursts() error {
	c, err := g.dial(pathBurst)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	for n := 0; !g.pause(time.Duration(2000+g.n) * time.Millisecond); n++ {
		if err := send(c, message(n, 0)); err != nil {
			return fmt.Errorf("asking for burst %d: %w", n, err)
		}
		for k := range burst {
			if err := receive(c, message(k, 0)); err != nil {
				return fmt.Errorf("burst %d: %w", n, err)
			}
			g.answers.Add(1)
		}
	}
	leave(c)
	return nil
}

// slowRate is what a slow client reads, in bytes a second, without a pause.
const slowRate = 200 << 10

func (g *good) feeds() error { return g.feed(0) }

// feedsSuspended also stops reading now and then, for less than a write may take.
func (g *good) feedsSuspended() error { return g.feed(2 * time.Second) }

func (g *good) feed(pause time.Duration) error {
	c, err := g.dial(pathFeed)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	if g.turn%2 == 0 {
		g.conn.Conn.(*net.TCPConn).SetReadBuffer(32 << 10) // as of a phone, not as of a server
	}
	g.conn.rate.Store(slowRate)
	last := time.Now()
	for n := 0; ; n++ {
		select {
		case <-g.stop:
			return nil
		default:
		}
		if pause > 0 && time.Since(last) > 8*time.Second {
			g.pause(pause)
			last = time.Now()
		}
		if err := receive(c, message(n, feedBytes)); err != nil {
			return err
		}
		g.answers.Add(1)
	}
}

// pausable is a connection that can be slow, or stop within a frame.
type pausable struct {
	net.Conn
	rate atomic.Int64 // bytes a second that are read; 0: as fast as they come
	half atomic.Bool  // the next Write stops in the middle
	next time.Time    // when the next Read may begin; used by the reader only
}

func (p *pausable) Read(b []byte) (int, error) {
	rate := p.rate.Load()
	if rate == 0 {
		return p.Conn.Read(b)
	}
	time.Sleep(time.Until(p.next))
	n, err := p.Conn.Read(b[:min(len(b), 4<<10)])
	// A client catches up on the lateness of a timer, and not on a pause.
	p.next = p.next.Add(time.Duration(n) * time.Second / time.Duration(rate))
	if least := time.Now().Add(-100 * time.Millisecond); p.next.Before(least) {
		p.next = least
	}
	return n, err
}

func (p *pausable) Write(b []byte) (int, error) {
	if !p.half.Swap(false) {
		return p.Conn.Write(b)
	}
	n, err := p.Conn.Write(b[:len(b)/2])
	if err != nil {
		return n, err
	}
	time.Sleep(suspended)
	m, err := p.Conn.Write(b[len(b)/2:])
	return n + m, err
}

// quantile returns that of durations, or 0 if there are none.
func quantile(q float64, of []time.Duration) time.Duration {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

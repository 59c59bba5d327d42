package main

import (
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between a store and Redis, and breaks the connections between them.
type proxy struct {
	t      *testing.T
	l      net.Listener
	target string
	wg     sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]struct{} // guarded by mu
	closed   bool                  // guarded by mu: new connections are refused
	breaking bool                  // guarded by mu
	broken   int                   // guarded by mu
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, l: l, target: target, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		l.Close()
		p.close()
		p.wg.Wait()
	})
	return p
}

// url returns the URL of the Redis behind the proxy.
func (p *proxy) url(to string) string {
	u, err := url.Parse(to)
	if err != nil {
		p.t.Fatal(err)
	}
	u.Host = p.l.Addr().String()
	return u.String()
}

func (p *proxy) serve() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil || !p.add(in, out) {
			in.Close()
			continue
		}
		pass := func(to, from net.Conn) {
			if n := p.life(); n == 0 {
				io.Copy(to, from)
			} else if m, _ := io.CopyN(to, from, n); m == n {
				p.mu.Lock()
				p.broken++
				p.mu.Unlock()
			}
			p.drop(in, out)
		}
		p.wg.Go(func() { pass(in, out) })
		p.wg.Go(func() { pass(out, in) })
	}
}

// life returns after how many bytes a connection breaks, and 0 for never.
func (p *proxy) life() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.breaking {
		return 0
	}
	return 3000 + rand.Int64N(3000) // more than a client needs for its first script
}

func (p *proxy) add(in, out net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		out.Close()
		return false
	}
	p.conns[in], p.conns[out] = struct{}{}, struct{}{}
	return true
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(p.conns, c)
	}
}

// close breaks all connections, and lets no new ones through until open.
func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.breakAll()
}

func (p *proxy) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = false
}

func (p *proxy) breakAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// breakOften lets connections break after some bytes, wherever that is.
func (p *proxy) breakOften(is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breaking = is
}

// breaks returns how many connections were broken by that.
func (p *proxy) breaks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

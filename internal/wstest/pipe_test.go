package wstest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// streamConn is what a PipeConn and a TCPConn have in common.
type streamConn interface {
	net.Conn
	CloseWrite() error
}

var (
	_ streamConn = (*wstest.PipeConn)(nil)
	_ streamConn = (*net.TCPConn)(nil)
)

// conform runs test on a Pipe within a bubble, on one outside, and on TCP: what
// the kernel does is the oracle.
func conform(t *testing.T, test func(t *testing.T, a, b streamConn)) {
	t.Helper()
	pipe := func(t *testing.T) {
		a, b := wstest.Pipe(wstest.PipeOptions{BufferBytes: 4 << 10})
		t.Cleanup(func() { a.Close(); b.Close() })
		test(t, a, b)
	}
	t.Run("bubble", func(t *testing.T) { synctest.Test(t, pipe) })
	t.Run("pipe", pipe)
	t.Run("tcp", func(t *testing.T) {
		a, b := tcpPair(t)
		test(t, a, b)
	})
}

func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

var past = time.Unix(1, 0)

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	var ne net.Error
	var oe *net.OpError
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() || !errors.As(err, &oe) {
		t.Errorf("got error %v, want a timeout", err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func mustWrite(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if n, err := io.WriteString(w, s); n != len(s) || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
}

func wantRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("read %q, %v; want %q", got, err, want)
	}
}

func TestConnBasicIO(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		want := make([]byte, 1<<20)
		rng := rand.NewChaCha8([32]byte{1})
		rng.Read(want)
		var wg sync.WaitGroup
		for _, c := range []streamConn{a, b} {
			wg.Go(func() {
				if n, err := c.Write(want); n != len(want) || err != nil {
					t.Errorf("Write = %d, %v", n, err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
					t.Errorf("read %d bytes that are right: %t, %v", len(got), bytes.Equal(got, want), err)
				}
			})
		}
		wg.Wait()
	})
}

func TestConnPingPong(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		const rounds = 500
		var wg sync.WaitGroup
		wg.Go(func() {
			for range rounds {
				wantRead(t, b, "ping")
				mustWrite(t, b, "pong")
			}
		})
		for range rounds {
			mustWrite(t, a, "ping")
			wantRead(t, a, "pong")
		}
		wg.Wait()
	})
}

// Concurrent reads with deadlines that pass all the time lose nothing.
func TestConnRacyRead(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		const total = 256 << 10
		var feeder, readers sync.WaitGroup
		feeder.Go(func() {
			if _, err := a.Write(make([]byte, total)); err != nil {
				t.Error(err)
			}
			a.CloseWrite()
		})
		var mu sync.Mutex
		got := 0
		for range 4 {
			readers.Go(func() {
				buf := make([]byte, 700)
				for {
					b.SetReadDeadline(time.Now().Add(50 * time.Microsecond))
					n, err := b.Read(buf)
					mu.Lock()
					got += n
					mu.Unlock()
					if err == io.EOF {
						return
					}
					if err != nil {
						wantTimeout(t, err)
					}
				}
			})
		}
		feeder.Wait()
		readers.Wait()
		if got != total {
			t.Errorf("read %d bytes, want %d", got, total)
		}
	})
}

// Concurrent writes with deadlines that pass all the time deliver exactly what
// they return.
func TestConnRacyWrite(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		var drain, writers sync.WaitGroup
		got := 0
		drain.Go(func() {
			n, err := io.Copy(io.Discard, b)
			got = int(n)
			if err != nil {
				t.Error(err)
			}
		})
		var mu sync.Mutex
		sent := 0
		for range 4 {
			writers.Go(func() {
				for range 200 {
					a.SetWriteDeadline(time.Now().Add(50 * time.Microsecond))
					n, err := a.Write(make([]byte, 9000))
					if err != nil {
						wantTimeout(t, err)
					} else if n != 9000 {
						t.Errorf("Write = %d, nil", n)
					}
					mu.Lock()
					sent += n
					mu.Unlock()
				}
			})
		}
		writers.Wait()
		a.CloseWrite()
		drain.Wait()
		if got != sent {
			t.Errorf("read %d bytes, the writes have returned %d", got, sent)
		}
	})
}

func TestConnPastDeadline(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		mustWrite(t, a, "data")
		wantRead(t, b, "da") // the rest has arrived too
		buf := make([]byte, 10)

		b.SetDeadline(past)
		for range 2 {
			n, err := b.Read(buf)
			wantTimeout(t, err)
			m, err := b.Write(buf)
			wantTimeout(t, err)
			if n != 0 || m != 0 {
				t.Errorf("Read = %d, Write = %d", n, m)
			}
		}
		_, err := b.Write(nil)
		wantTimeout(t, err)
		if _, err := b.Read(nil); err != nil {
			t.Errorf("Read(nil): %v", err)
		}

		b.SetReadDeadline(time.Now().Add(time.Hour)) // moved later
		wantRead(t, b, "ta")
		_, err = b.Write(buf)
		wantTimeout(t, err)
		b.SetWriteDeadline(time.Time{}) // taken away
		mustWrite(t, b, "back")
		wantRead(t, a, "back")

		// It goes before the end of the stream, too.
		a.CloseWrite()
		b.SetReadDeadline(past)
		_, err = b.Read(buf)
		wantTimeout(t, err)
		b.SetReadDeadline(time.Time{})
		if _, err := b.Read(buf); err != io.EOF {
			t.Errorf("got %v, want the bare io.EOF", err)
		}
	})
}

// A deadline set while a call waits concerns that call.
func TestConnPresentDeadline(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := a.Read(make([]byte, 1))
			wantTimeout(t, err)
		})
		wg.Go(func() {
			for { // TCP's buffers are the kernel's to size
				if _, err := a.Write(make([]byte, 1<<20)); err != nil {
					wantTimeout(t, err)
					return
				}
			}
		})
		time.Sleep(20 * time.Millisecond)
		a.SetDeadline(past)
		wg.Wait()
	})
}

func TestConnFutureDeadline(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		const d = 30 * time.Millisecond
		start := time.Now()
		a.SetDeadline(start.Add(d))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := a.Read(make([]byte, 1))
			wantTimeout(t, err)
		})
		wg.Go(func() {
			for {
				if _, err := a.Write(make([]byte, 1<<20)); err != nil {
					wantTimeout(t, err)
					return
				}
			}
		})
		wg.Wait()
		if got := time.Since(start); got < d {
			t.Errorf("timed out after %v, want %v", got, d)
		}
		go io.Copy(io.Discard, b)
		a.SetDeadline(time.Time{})
		mustWrite(t, a, "usable again")
		b.Close()
	})
}

func TestConnClose(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := a.Read(make([]byte, 1))
			wantErr(t, err, net.ErrClosed)
		})
		wg.Go(func() {
			for {
				if _, err := a.Write(make([]byte, 1<<20)); err != nil {
					wantErr(t, err, net.ErrClosed)
					return
				}
			}
		})
		time.Sleep(20 * time.Millisecond)
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()

		_, err := a.Read(nil)
		wantErr(t, err, net.ErrClosed)
		_, err = a.Write(nil)
		wantErr(t, err, net.ErrClosed)
		wantErr(t, a.CloseWrite(), net.ErrClosed)
		wantErr(t, a.SetDeadline(time.Now()), net.ErrClosed)
		wantErr(t, a.Close(), net.ErrClosed)
		if a.LocalAddr().String() != b.RemoteAddr().String() {
			t.Errorf("addresses after Close: %v, %v", a.LocalAddr(), b.RemoteAddr())
		}
	})
}

func TestConnPeerClose(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		mustWrite(t, a, "last words")
		a.Close()
		got, err := io.ReadAll(b)
		if string(got) != "last words" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		for err = nil; err == nil; { // TCP's first Write succeeds
			_, err = b.Write([]byte("x"))
			time.Sleep(time.Millisecond)
		}
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write after the peer's Close: %v", err)
		}
	})
}

func TestConnCloseWrite(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		mustWrite(t, a, "question")
		for range 2 {
			if err := a.CloseWrite(); err != nil {
				t.Error(err)
			}
		}
		_, err := a.Write([]byte("more"))
		wantErr(t, err, syscall.EPIPE)
		got, err := io.ReadAll(b)
		if string(got) != "question" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		mustWrite(t, b, "answer")
		wantRead(t, a, "answer")
		if err := b.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("got %v, want io.EOF", err)
		}
	})
}

// reset does what PipeConn.Reset does, on TCP too.
func reset(c streamConn) {
	if c, ok := c.(*net.TCPConn); ok {
		c.SetLinger(0)
		c.Close()
		return
	}
	c.(*wstest.PipeConn).Reset()
}

func TestConnReset(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := b.Read(make([]byte, 1))
			wantErr(t, err, syscall.ECONNRESET)
			var oe *net.OpError
			if !errors.As(err, &oe) || oe.Timeout() {
				t.Errorf("got %T, want a *net.OpError that is no timeout", err)
			}
		})
		time.Sleep(20 * time.Millisecond)
		reset(a)
		wg.Wait()
		_, err := a.Read(make([]byte, 1))
		wantErr(t, err, net.ErrClosed)
		_, err = a.Write([]byte("x"))
		wantErr(t, err, net.ErrClosed)
		wantErr(t, b.CloseWrite(), syscall.ENOTCONN)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	conform(t, func(t *testing.T, a, b streamConn) {
		reset(a)
		_, err := b.Write([]byte("x"))
		for _, tcp := b.(*net.TCPConn); tcp && err == nil; { // the RST is on its way
			_, err = b.Write([]byte("x"))
			time.Sleep(time.Millisecond)
		}
		wantErr(t, err, syscall.ECONNRESET)
	})
}

// All methods at once, for the race detector.
func TestConnConcurrentMethods(t *testing.T) {
	conform(t, func(t *testing.T, a, b streamConn) {
		var wg sync.WaitGroup
		for _, c := range []streamConn{a, b} {
			for range 50 {
				wg.Go(func() { c.Write(make([]byte, 10)) })
				wg.Go(func() { c.Read(make([]byte, 10)) })
				wg.Go(func() { c.SetDeadline(time.Now().Add(10 * time.Millisecond)) })
				wg.Go(func() { c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) })
				wg.Go(func() { c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) })
				wg.Go(func() { c.LocalAddr(); c.RemoteAddr() })
			}
		}
		wg.Go(func() { a.CloseWrite(); b.Close() })
		wg.Wait()
	})
}

// From here on: what the pipe promises beyond TCP.

func TestPipeAddresses(t *testing.T) {
	from, to := netip.MustParseAddrPort("203.0.113.7:1234"), netip.MustParseAddrPort("[2001:db8::1]:443")
	c, s := wstest.Pipe(wstest.PipeOptions{ClientAddr: from, ServerAddr: to})
	for _, got := range []net.Addr{c.LocalAddr(), s.RemoteAddr()} {
		if got.(*net.TCPAddr).AddrPort() != from || got.Network() != "tcp" {
			t.Errorf("client's address is %v, want %v", got, from)
		}
	}
	for _, got := range []net.Addr{s.LocalAddr(), c.RemoteAddr()} {
		if got.(*net.TCPAddr).AddrPort() != to {
			t.Errorf("server's address is %v, want %v", got, to)
		}
	}
	c, _ = wstest.Pipe(wstest.PipeOptions{})
	if c.LocalAddr().String() != "127.0.0.1:49152" || c.RemoteAddr().String() != "127.0.0.1:8080" {
		t.Errorf("default addresses are %v, %v", c.LocalAddr(), c.RemoteAddr())
	}
}

func TestPipeBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct{ option, want int }{{0, 64 << 10}, {1, 1}, {100, 100}} {
			c, s := wstest.Pipe(wstest.PipeOptions{BufferBytes: tc.option})
			for _, conn := range []*wstest.PipeConn{c, s} {
				conn.SetWriteDeadline(time.Now().Add(time.Second))
				if n, err := conn.Write(make([]byte, tc.want)); n != tc.want || err != nil {
					t.Errorf("%d: Write = %d, %v", tc.option, n, err)
				}
				n, err := conn.Write([]byte("x"))
				wantTimeout(t, err)
				if n != 0 {
					t.Errorf("%d: a full buffer took %d bytes more", tc.option, n)
				}
			}
		}
	})
	defer func() {
		if recover() == nil {
			t.Error("no panic with a negative buffer")
		}
	}()
	wstest.Pipe(wstest.PipeOptions{BufferBytes: -1})
}

func TestPipeDeadlineExact(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(c *wstest.PipeConn) // while a Read waits
		want time.Duration
	}{
		{"kept", func(*wstest.PipeConn) {}, time.Hour},
		{"later", func(c *wstest.PipeConn) {
			time.Sleep(time.Minute)
			c.SetReadDeadline(time.Now().Add(2 * time.Hour))
		}, 2*time.Hour + time.Minute},
		{"earlier", func(c *wstest.PipeConn) {
			time.Sleep(time.Minute)
			c.SetReadDeadline(time.Now().Add(time.Nanosecond))
		}, time.Minute + 1},
		{"past", func(c *wstest.PipeConn) {
			time.Sleep(time.Minute)
			c.SetDeadline(past)
		}, time.Minute},
		{"now", func(c *wstest.PipeConn) {
			time.Sleep(time.Minute)
			c.SetReadDeadline(time.Now())
		}, time.Minute},
		{"off and on", func(c *wstest.PipeConn) {
			time.Sleep(time.Minute)
			c.SetReadDeadline(time.Time{})
			time.Sleep(24 * time.Hour)
			c.SetReadDeadline(time.Now().Add(time.Second).Round(0)) // wall clock only
		}, 24*time.Hour + time.Minute + time.Second},
		{"write deadline", func(c *wstest.PipeConn) { c.SetWriteDeadline(past) }, time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := wstest.Pipe(wstest.PipeOptions{})
				start := time.Now()
				c.SetReadDeadline(start.Add(time.Hour))
				go tc.do(c)
				_, err := c.Read(make([]byte, 1))
				wantTimeout(t, err)
				if got := time.Since(start); got != tc.want {
					t.Errorf("timed out after %v, want %v", got, tc.want)
				}
			})
		})
	}
}

// At the very instant of the deadline a read fails, data or not.
func TestPipeDeadlineInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := wstest.Pipe(wstest.PipeOptions{})
		mustWrite(t, s, "data")
		c.SetReadDeadline(time.Now().Add(time.Second))
		time.Sleep(time.Second - 1)
		wantRead(t, c, "da")
		time.Sleep(time.Nanosecond)
		_, err := c.Read(make([]byte, 1))
		wantTimeout(t, err)
	})
}

func TestPipePartialWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := wstest.Pipe(wstest.PipeOptions{BufferBytes: 10})
		start := time.Now()
		c.SetWriteDeadline(start.Add(3 * time.Second))
		go func() {
			time.Sleep(time.Second)
			wantRead(t, s, "0123456789")
		}()
		n, err := io.WriteString(c, "0123456789abcdefghijklmno")
		wantTimeout(t, err)
		if n != 20 || time.Since(start) != 3*time.Second {
			t.Errorf("Write = %d after %v, want 20 after 3s", n, time.Since(start))
		}
		c.SetWriteDeadline(time.Time{})
		c.CloseWrite()
		if got, err := io.ReadAll(s); string(got) != "abcdefghij" || err != nil {
			t.Errorf("read %q, %v; want what Write has counted", got, err)
		}
	})
}

// A Write that waits for its turn waits durably: with a mutex there the clock
// of the bubble would stand still and this test would hang.
func TestPipeWritersQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := wstest.Pipe(wstest.PipeOptions{BufferBytes: 7})
		start := time.Now()
		c.SetWriteDeadline(start.Add(time.Minute))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := c.Write(make([]byte, 100))
				wantTimeout(t, err)
			})
		}
		wg.Wait()
		if got := time.Since(start); got != time.Minute {
			t.Errorf("timed out after %v, want 1m", got)
		}
		wantRead(t, s, string(make([]byte, 7)))

		c.SetWriteDeadline(time.Time{})
		for b := range byte(5) {
			wg.Go(func() { c.Write(bytes.Repeat([]byte{'a' + b}, 100)) })
		}
		go func() { wg.Wait(); c.CloseWrite() }()
		got, err := io.ReadAll(s)
		if len(got) != 500 || err != nil {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		for part := range 5 {
			if p := got[part*100:][:100]; bytes.Count(p, p[:1]) != 100 {
				t.Errorf("writes are interleaved: %q", p)
			}
		}

		// Nor does a Write that finds room take another one's turn.
		for range 100 {
			c, s := wstest.Pipe(wstest.PipeOptions{BufferBytes: 7})
			wg.Go(func() { c.Write(bytes.Repeat([]byte("a"), 20)) })
			synctest.Wait()
			wg.Go(func() {
				wantRead(t, s, "aaaaaaa")
				mustWrite(t, c, "bbb")
			})
			go func() { wg.Wait(); c.Close() }()
			synctest.Wait()
			if got, err := io.ReadAll(s); string(got) != "aaaaaaaaaaaaabbb" || err != nil {
				t.Fatalf("read %q, %v", got, err)
			}
		}

		// Those that wait for a turn, and the one that has it, see the end.
		for _, end := range []struct {
			do   func(c, s *wstest.PipeConn)
			want error
		}{
			{func(c, _ *wstest.PipeConn) { c.Close() }, net.ErrClosed},
			{func(_, s *wstest.PipeConn) { s.Close() }, syscall.EPIPE},
			{func(_, s *wstest.PipeConn) { s.Reset() }, syscall.ECONNRESET},
			{func(c, _ *wstest.PipeConn) { c.CloseWrite() }, syscall.EPIPE},
		} {
			c, s := wstest.Pipe(wstest.PipeOptions{BufferBytes: 7})
			for range 3 {
				wg.Go(func() {
					_, err := c.Write(make([]byte, 100))
					wantErr(t, err, end.want)
				})
			}
			synctest.Wait()
			end.do(c, s)
			wg.Wait()
		}
	})
}

// The order of events decides what an end sees, whatever comes later.
func TestPipeEndings(t *testing.T) {
	read := func(c *wstest.PipeConn) error { _, err := c.Read(make([]byte, 1)); return err }
	write := func(c *wstest.PipeConn) error { _, err := c.Write([]byte("x")); return err }
	type ends func(a, b *wstest.PipeConn)
	for i, tc := range []struct {
		do          ends
		read, write error // of b
	}{
		{func(a, b *wstest.PipeConn) { a.Close() }, io.EOF, syscall.EPIPE},
		{func(a, b *wstest.PipeConn) { a.Close(); a.Reset() }, io.EOF, syscall.EPIPE},
		{func(a, b *wstest.PipeConn) { a.CloseWrite(); a.Close() }, io.EOF, syscall.EPIPE},
		{func(a, b *wstest.PipeConn) { a.CloseWrite(); a.Reset() }, syscall.ECONNRESET, syscall.ECONNRESET},
		{func(a, b *wstest.PipeConn) { mustWrite(t, a, "lost"); a.Reset() }, syscall.ECONNRESET, syscall.ECONNRESET},
		{func(a, b *wstest.PipeConn) { a.Reset(); a.Close() }, syscall.ECONNRESET, syscall.ECONNRESET},
		{func(a, b *wstest.PipeConn) { b.CloseWrite(); a.Close() }, io.EOF, syscall.EPIPE},
		{func(a, b *wstest.PipeConn) { b.CloseWrite(); a.Reset() }, syscall.ECONNRESET, syscall.ECONNRESET},
		{func(a, b *wstest.PipeConn) { a.Close(); b.CloseWrite() }, io.EOF, syscall.EPIPE},
		{func(a, b *wstest.PipeConn) { b.Close(); a.Close() }, net.ErrClosed, net.ErrClosed},
		{func(a, b *wstest.PipeConn) { b.Close(); a.Reset() }, net.ErrClosed, net.ErrClosed},
		{func(a, b *wstest.PipeConn) { b.Reset(); a.Close() }, net.ErrClosed, net.ErrClosed},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			a, b := wstest.Pipe(wstest.PipeOptions{})
			tc.do(a, b)
			for range 2 { // and again
				wantErr(t, read(b), tc.read)
				wantErr(t, write(b), tc.write)
			}
		})
	}
}

// Benchmarks and allocation tests of others run over pipes.
func TestPipeAllocs(t *testing.T) {
	c, s := wstest.Pipe(wstest.PipeOptions{})
	defer c.Close()
	buf := make([]byte, 3000)
	if got := testing.AllocsPerRun(1000, func() {
		s.SetReadDeadline(time.Now().Add(time.Hour))
		c.SetWriteDeadline(time.Now().Add(time.Hour))
		c.Write(buf)
		io.ReadFull(s, buf)
	}); got != 0 {
		t.Errorf("%v allocations per message, want none", got)
	}
}

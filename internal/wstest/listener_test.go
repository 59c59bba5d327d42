package wstest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := wstest.NewListener(wstest.PipeOptions{
			ClientAddr: netip.MustParseAddrPort("198.51.100.1:65535"),
			ServerAddr: netip.MustParseAddrPort("192.0.2.1:443"),
		})
		if got := l.Addr().String(); got != "192.0.2.1:443" {
			t.Errorf("Addr = %v", got)
		}
		// Nobody accepts yet, and nothing blocks.
		first, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.DialFrom(netip.MustParseAddrPort("[2001:db8::7]:5")); err != nil {
			t.Fatal(err)
		}
		if _, err := l.DialContext(t.Context(), "tcp", "ignored:1"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"198.51.100.1:65535", "[2001:db8::7]:5", "198.51.100.1:49152"} {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if c.RemoteAddr().String() != want || c.LocalAddr().String() != "192.0.2.1:443" {
				t.Errorf("accepted %v at %v, want %v", c.RemoteAddr(), c.LocalAddr(), want)
			}
			if want == "198.51.100.1:65535" {
				mustWrite(t, c, "hello")
				wantRead(t, first, "hello")
			}
		}

		// A waiting Accept gets the next connection, or the end.
		accepted := make(chan error)
		accept := func() { _, err := l.Accept(); accepted <- err }
		go accept()
		synctest.Wait()
		if _, err := l.Dial(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-accepted; err != nil {
			t.Error(err)
		}
		unaccepted, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		_, err = unaccepted.Read(make([]byte, 1))
		wantErr(t, err, syscall.ECONNRESET)
		go accept()
		wantErr(t, <-accepted, net.ErrClosed)
		wantErr(t, l.Close(), net.ErrClosed)
		_, err = l.Dial(t.Context())
		wantErr(t, err, syscall.ECONNREFUSED)
		_, err = l.DialFrom(netip.MustParseAddrPort("192.0.2.1:1"))
		wantErr(t, err, syscall.ECONNREFUSED)
		if c, err := l.DialContext(t.Context(), "", ""); c != nil || err == nil {
			t.Errorf("DialContext = %v, %v; want a nil interface", c, err)
		}
	})
}

func TestListenerCloseWakesAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := wstest.NewListener(wstest.PipeOptions{})
		go func() {
			time.Sleep(time.Hour)
			l.Close()
		}()
		_, err := l.Accept()
		wantErr(t, err, net.ErrClosed)
	})
}

func TestListenerDialContext(t *testing.T) {
	l := wstest.NewListener(wstest.PipeOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Dial(ctx)
	wantErr(t, err, context.Canceled)
	var oe *net.OpError
	if !errors.As(err, &oe) || oe.Op != "dial" {
		t.Errorf("got %#v", err)
	}
}

// net/http on both sides, in fake time.
func TestListenerHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wstest.CheckGoroutines(t)
		s := wstest.ServePipe(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			io.WriteString(w, r.RemoteAddr)
			w.Write(body)
		}), func(s *http.Server) {
			s.ReadHeaderTimeout = 7 * time.Second
			s.IdleTimeout = 90 * time.Second
		})
		start := time.Now()
		for range 3 { // over one connection that is kept alive
			res, err := s.HTTPClient().Post(s.URL+"/path", "text/plain", &slowBody{n: 300 << 10})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			if want := len("127.0.0.1:49152") + 300<<10; len(got) != want || err != nil {
				t.Errorf("%s: read %d bytes, %v; want %d", res.Status, len(got), err, want)
			}
		}
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("three requests took %v", got)
		}

		// The server's own deadlines, to the exact duration.
		for _, tc := range []struct {
			request string
			want    time.Duration
		}{
			{"GET / HTTP/1.1\r\nHost: h\r\n", 7 * time.Second},
			{"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 91 * time.Second},
		} {
			start := time.Now()
			c, err := s.Pipe.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mustWrite(t, c, tc.request)
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Error(err)
			}
			if got := time.Since(start); got != tc.want {
				t.Errorf("%q: closed after %v, want %v", tc.request, got, tc.want)
			}
			c.Close()
		}
	})
}

// slowBody is an n bytes long body that gives net/http reason to flush.
type slowBody struct{ n int }

func (b *slowBody) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, io.EOF
	}
	n := min(b.n, len(p), 1000)
	b.n -= n
	return n, nil
}

// A hijack: net/http has a read of its own pending then, which it interrupts
// with a deadline in the past. It must lose nothing, and the deadline must go.
func TestListenerHijack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wstest.CheckGoroutines(t)
		s := wstest.ServePipe(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second) // the read is pending
			conn, brw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			if got := conn.RemoteAddr().(*net.TCPAddr).AddrPort().String(); got != "203.0.113.9:4321" || got != r.RemoteAddr {
				t.Errorf("RemoteAddr = %v, the request's is %v", got, r.RemoteAddr)
			}
			mustWrite(t, conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			go func() {
				defer conn.Close()
				io.Copy(conn, brw)
				mustWrite(t, conn, "bye")
			}()
		}))
		c, err := s.Pipe.DialFrom(netip.MustParseAddrPort("203.0.113.9:4321"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		start := time.Now()
		mustWrite(t, c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\r\nearly ")
		br := bufio.NewReader(c)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 101 || time.Since(start) != time.Second {
			t.Fatalf("got %v, %v after %v", res, err, time.Since(start))
		}
		wantRead(t, br, "early ")
		time.Sleep(1000 * time.Hour)
		mustWrite(t, c, "late")
		wantRead(t, br, "late")
		c.CloseWrite()
		if got, err := io.ReadAll(br); string(got) != "bye" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

package wire

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// tcpPair returns both ends of a TCP connection over loopback.
func tcpPair(t testing.TB) (here, there *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); a.Close() })
	return a.(*net.TCPConn), d.(*net.TCPConn)
}

// shown is a wrapper that shows what is below it.
type shown struct{ net.Conn }

func (s shown) NetConn() net.Conn { return s.Conn }

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

func TestSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a socket is not seen there")
	}
	here, there := tcpPair(t)
	if socketOf(struct{ net.Conn }{here}) != nil {
		t.Fatal("a wrapper that shows nothing is seen through")
	}
	s := socketOf(shown{shown{here}})
	if s == nil {
		t.Fatal("the socket below two wrappers is not seen")
	}
	if got := s.peek(); got != peekNothing {
		t.Fatalf("peek of an empty socket: %v", got)
	}
	b := make([]byte, 64)
	if n, err := s.read(b); n != 0 || err != nil {
		t.Fatalf("read of an empty socket: %d, %v", n, err)
	}
	there.Write([]byte("hello"))
	until(t, "five bytes", func() bool { return s.peek() == peekBytes })
	if runtime.GOOS == "linux" && s.leftByPeer() {
		t.Fatal("the peer has not closed its side")
	}
	there.CloseWrite()
	if _, known := s.acknowledged(); known {
		until(t, "a FIN behind unread bytes", s.leftByPeer)
	}
	if n, err := s.read(b); string(b[:n]) != "hello" || err != nil {
		t.Fatalf("read: %q, %v", b[:n], err)
	}
	until(t, "the end", func() bool { return s.peek() == peekEnd })
	if n, err := s.read(b); n != 0 || err != io.EOF {
		t.Fatalf("read at the end: %d, %v", n, err)
	}

	// What the peer's kernel does not take stays queued, and what it takes counts.
	if _, known := s.queued(); !known {
		t.Skip("this kernel does not tell what is queued")
	}
	written, n := 0, int64(0)
	until(t, "a full socket", func() bool {
		here.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		k, _ := here.Write(make([]byte, 64<<20))
		written += k
		n, _ = s.queued()
		return n > 0
	})
	taken, ok := s.takenBytes(int64(written))
	if !ok || n == 0 {
		t.Fatalf("%d bytes queued, %v", n, ok)
	}
	go io.Copy(io.Discard, there)
	until(t, "all taken", func() bool {
		now, _ := s.takenBytes(int64(written))
		left, _ := s.queued()
		return left == 0 && now-taken == n
	})
	here.Close()
	if s.peek() != peekEnd {
		t.Fatal("a closed socket has no end")
	}
}

package wire

import (
	"net"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// benchConfig has the defaults of a guard.
func benchConfig() Config {
	cfg := testConfig
	cfg.PingInterval, cfg.PongTimeout, cfg.IdleTimeout, cfg.MessageTimeout = 25*time.Second, 10*time.Second, 5*time.Minute, 30*time.Second
	cfg.MaxFragments, cfg.ControlRate, cfg.ControlBurst = 100, 10, 20
	return cfg
}

// endless is a net.Conn from which the same frame comes with every Read. What is written to it
// is lost.
type endless struct {
	wstest.Script
	frame []byte
}

func (e *endless) Read(p []byte) (int, error) { return copy(p, e.frame), nil }

// openForBench returns a wrapped connection whose handler has answered 101.
func openForBench(tb testing.TB, nc net.Conn) *door {
	d := newDoor(nc, benchConfig(), true)
	d.c.resumes = true
	if _, err := d.w.Write(d.answer()); err != nil {
		tb.Fatal(err)
	}
	return d
}

// echo is one message of 150 bytes each way, as a handler sees it.
func echo(tb testing.TB, d *door, in, out []byte) {
	for n := 0; n < len(out)+4; { // the masking key
		m, err := d.w.Read(in)
		if err != nil {
			tb.Fatal(err)
		}
		n += m
	}
	if _, err := d.w.Write(out); err != nil {
		tb.Fatal(err)
	}
}

func echoFrames() (fromPeer, fromHandler []byte) {
	msg := make([]byte, 150)
	return wstest.AppendFrame(nil, wstest.Binary(msg)), append(appendHeader(nil, opBinary, len(msg)), msg...)
}

// BenchmarkWrapped is the engine's cost of a message of 150 bytes that a wrapped handler reads
// and of one that it writes, without a network in "memory". Many libraries have deadlines of
// their own, as in "memory, deadlines".
func BenchmarkWrapped(b *testing.B) {
	for name, deadlines := range map[string]bool{"memory": false, "memory, deadlines": true} {
		b.Run(name, func(b *testing.B) {
			frame, out := echoFrames()
			d := openForBench(b, &endless{frame: frame})
			if deadlines {
				d.w.SetDeadline(time.Now().Add(time.Hour))
			}
			in := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				echo(b, d, in, out)
			}
			d.w.Close()
		})
	}
	b.Run("tcp", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		peer, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer peer.Close()
		nc, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		frame, out := echoFrames()
		d := openForBench(b, nc)
		in := make([]byte, 4096)
		if _, err := peer.Read(in); err != nil { // the 101
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := peer.Write(frame); err != nil {
				b.Fatal(err)
			}
			echo(b, d, in, out)
			if _, err := peer.Read(in); err != nil {
				b.Fatal(err)
			}
		}
		d.w.Close()
	})
}

// A message costs a wrapped handler no allocation, either way.
func TestWrappedAllocs(t *testing.T) {
	frame, out := echoFrames()
	d := openForBench(t, &endless{frame: frame})
	in := make([]byte, 4096)
	if n := testing.AllocsPerRun(10_000, func() { echo(t, d, in, out) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	d.w.Close()
}

package wire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/wsguard/wsguard/internal/wstest"
)

// A FrameCount counts the same frames however their bytes are cut.
func TestFrameCount(t *testing.T) {
	sizes := []int{0, 1, 125, 126, 127, 300, 65535, 65536, 70_000}
	for range 500 {
		var b []byte
		var frames, payload int64
		var ends []int
		for range rand.N(8) {
			n := sizes[rand.N(len(sizes))]
			if head := AppendHeader(nil, opText, n); len(head) != HeaderLen(n) {
				t.Fatalf("the header of %d bytes has %d bytes, not %d", n, len(head), HeaderLen(n))
			}
			b = append(AppendHeader(b, opText, n), make([]byte, n)...)
			ends = append(ends, len(b))
		}
		end := rand.N(len(b) + 1)
		whole := end == 0
		last := 0
		for _, e := range ends {
			if e <= end {
				frames++
				payload += int64(e - last - HeaderLen(payloadOf(e-last)))
				whole = whole || e == end
			}
			last = e
		}
		var f FrameCount
		for at := 0; at < end; {
			n := min(1+rand.N(1+rand.N(40_000)), end-at)
			f.Add(b[at : at+n])
			at += n
		}
		if f.Frames != frames || f.Payload != payload || f.Whole() != whole {
			t.Fatalf("%d frames, %d bytes, whole: %t; want %d, %d, %t", f.Frames, f.Payload, f.Whole(), frames, payload, whole)
		}
	}
}

// payloadOf is the payload of a frame of n bytes.
func payloadOf(n int) int {
	for _, head := range []int{2, 4, 10} {
		if n >= head && HeaderLen(n-head) == head {
			return n - head
		}
	}
	panic("no frame has that length")
}

// pile is a Source that gives its frames in batches of each.
type pile struct {
	frames [][]byte
	each   int
	given  int
	calls  []string
	sent   FrameCount
}

func (p *pile) Next() net.Buffers {
	p.calls = append(p.calls, "Next")
	p.given = min(p.each, len(p.frames))
	return net.Buffers(append([][]byte(nil), p.frames[:p.given]...)) // which the engine may change
}

func (p *pile) Rest(n int64) int64 {
	for _, f := range p.frames[:p.given] {
		if n < int64(len(f)) {
			if n > 0 {
				n = int64(len(f)) - n
			}
			return n
		}
		n -= int64(len(f))
	}
	return 0
}

func (p *pile) Wrote(n int64) bool {
	p.calls = append(p.calls, "Wrote")
	b := bytes.Join(p.frames[:p.given], nil)
	p.sent = FrameCount{}
	p.sent.Add(b[:n])
	p.frames = p.frames[p.sent.Frames:]
	return p.sent.Whole()
}

// recorder is a net.Conn that notes what is written, until it fails.
type recorder struct {
	wstest.Script
	writes [][]byte
	left   int // bytes until it fails
	panics bool
}

var errRecorder = errors.New("no more")

func (r *recorder) Write(p []byte) (int, error) {
	if r.panics {
		panic("a bad net.Conn")
	}
	n := min(len(p), r.left)
	r.left -= n
	r.writes = append(r.writes, bytes.Clone(p[:n]))
	if n < len(p) {
		return n, errRecorder
	}
	return n, nil
}

// somePile returns a Source with frames of n bytes.
func somePile(each int, sizes ...int) *pile {
	p := &pile{each: each}
	for i, n := range sizes {
		p.frames = append(p.frames, append(AppendHeader(nil, opText, n), bytes.Repeat([]byte{byte('a' + i%26)}, n)...))
	}
	return p
}

// Small frames share a Write if the net.Conn is no socket, and all bytes are in order.
func TestWriteFramesTogether(t *testing.T) {
	var sizes []int
	for i := range 300 {
		sizes = append(sizes, 100+i%3)
	}
	sizes = append(sizes, 9000, 5, 5, 40_000, 5)
	p := somePile(100, sizes...)
	want := bytes.Join(p.frames, nil)
	r := &recorder{left: 1 << 30}
	d := newDoor(r, testConfig, false)
	for len(p.frames) > 0 {
		if err := d.c.WriteFrames(p); err != nil {
			t.Fatal(err)
		}
	}
	if got := bytes.Join(r.writes, nil); !bytes.Equal(got, want) {
		t.Errorf("%d bytes were written, want %d", len(got), len(want))
	}
	if n, most := len(r.writes), 2*(len(want)/bufferBytes+4); n > most {
		t.Errorf("%d writes, want at most %d", n, most)
	}
	if err := d.c.WriteFrames(p); err != nil || len(p.calls)%2 == 0 {
		t.Errorf("an empty Source: %v, calls %v", err, p.calls)
	}
}

// A socket gets a batch with one system call, or at least in order.
func TestWriteFramesToSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for range 500 {
		sizes = append(sizes, rand.N(1+rand.N(20_000)))
	}
	p := somePile(60, sizes...)
	want := bytes.Join(p.frames, nil)
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(peer)
		got <- b
	}()
	d := newDoor(nc, testConfig, false)
	for len(p.frames) > 0 {
		if err := d.c.WriteFrames(p); err != nil {
			t.Fatal(err)
		}
	}
	nc.Close()
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("the peer has read %d bytes, want %d", len(b), len(want))
	}
	peer.Close()
}

// A batch that fails tells its Source exactly what has left. A net.Conn that panics leaves no
// batch with the engine.
func TestWriteFramesFails(t *testing.T) {
	for left := range 500 {
		p := somePile(100, 98, 98, 98, 98)
		r := &recorder{left: left}
		d := newDoor(r, testConfig, false)
		err := d.c.WriteFrames(p)
		if (err == nil) != (left >= 400) || int(p.sent.Frames) != min(left/100, 4) || p.sent.Payload != 98*p.sent.Frames {
			t.Fatalf("%d bytes: %v, %d frames", left, err, p.sent.Frames)
		}
		if err != nil {
			var we *WriteError
			if err := d.c.WriteFrames(p); !errors.As(err, &we) || !we.Broken {
				t.Fatalf("after a failure: %v", err)
			}
		}
	}
	p := somePile(100, 98, 98)
	d := newDoor(&recorder{panics: true}, testConfig, false)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is lost")
			}
		}()
		d.c.WriteFrames(p)
	}()
	if len(p.calls) != 2 || p.calls[1] != "Wrote" || p.sent.Frames != 0 {
		t.Errorf("calls %v, %d frames", p.calls, p.sent.Frames)
	}
}

package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// door is the guard of a test. It lets every message through, and ends a connection at the
// first fault.
type door struct {
	c     *Conn
	w     *Wrapped // nil for the first door
	ended chan struct{}

	mu   sync.Mutex
	said int // the code of the handler's close frame; -1: none
}

var testConfig = Config{
	WriteTimeout: 4 * time.Second, CloseGrace: time.Second, Linger: time.Second, LingerBytes: 1 << 20,
}

// newDoor returns the engine over nc. If wrapped is set it is the second door, whose handler
// has answered nothing yet.
func newDoor(nc net.Conn, cfg Config, wrapped bool) *door {
	cfg.Endings = make(chan struct{}, 1)
	d := &door{c: newConn(nc, nil, &cfg), ended: make(chan struct{}), said: -1}
	d.c.Serve(d)
	if wrapped {
		d.w = d.c.Wrap(Offer{Key: "key"}, d)
	}
	return d
}

// answer is the 101 of a handler.
func (d *door) answer() []byte {
	return SwitchingProtocols(http.Header{
		"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Accept": {acceptOf(d.w.offer.Key)},
	})
}

func (d *door) end(cause error, code int) error {
	d.mu.Lock()
	if d.said >= 0 {
		code = d.said
	}
	d.mu.Unlock()
	return d.endAs(Ending{Cause: cause, Code: code})
}

func (d *door) endAs(e Ending) error {
	e.First = func() {}
	e.Done = func() { close(d.ended) }
	d.c.End(e)
	return d.c.Cause()
}

func (d *door) Accept(bool) (int64, error)                           { return 1 << 20, nil }
func (d *door) Judge(*Message) (v Verdict, w time.Duration, e error) { return Deliver, 0, nil }
func (d *door) Ahead() bool                                          { return true }
func (d *door) Broken(err error)                                     { d.end(err, 0) }
func (d *door) Tolerates(Fault) bool                                 { return false }
func (d *door) Pong(time.Duration)                                   {}

func (d *door) Failed(e *Error) error {
	switch e.Fault {
	case FaultClosed:
		return d.end(e, e.Code)
	case FaultLost:
		return d.end(e, 0)
	}
	return d.end(e, 1002)
}

func (d *door) Opened()                       {}
func (d *door) Refused(int)                   {}
func (d *door) BadAnswer(detail string)       { d.end(errors.New(detail), 0) }
func (d *door) Illegal(detail string)         { d.end(errors.New(detail), 1011) }
func (d *door) Closed(string)                 { d.end(net.ErrClosed, 0) }
func (d *door) Unanswered()                   { d.end(net.ErrClosed, 0) }
func (d *door) Stalled()                      { d.endAs(Ending{Cause: errors.New("stalled"), Code: 1011, Cut: true}) }
func (d *door) Drained()                      {}
func (d *door) Sent(int, int64)               {}
func (d *door) Outbound() (max int64, b bool) { return 0, false }
func (d *door) Check(bool, []byte) bool       { return true }

func (d *door) Closing(code int, _ string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = code
}

func (d *door) Unsent() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = -1
}

// evil is a net.Conn of an application's, one method of which panics.
type evil struct {
	net.Conn
	mu     sync.Mutex
	method string
}

func (e *evil) arm(method string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.method = method
}

func (e *evil) call(method string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.method == method {
		panic(method)
	}
}

func (e *evil) Read(p []byte) (int, error)    { e.call("Read"); return e.Conn.Read(p) }
func (e *evil) Write(p []byte) (int, error)   { e.call("Write"); return e.Conn.Write(p) }
func (e *evil) Close() error                  { e.call("Close"); return e.Conn.Close() }
func (e *evil) CloseWrite() error             { e.call("CloseWrite"); return nil }
func (e *evil) SetDeadline(t time.Time) error { e.call("SetDeadline"); return e.Conn.SetDeadline(t) }
func (e *evil) SetReadDeadline(t time.Time) error {
	e.call("SetReadDeadline")
	return e.Conn.SetReadDeadline(t)
}
func (e *evil) SetWriteDeadline(t time.Time) error {
	e.call("SetWriteDeadline")
	return e.Conn.SetWriteDeadline(t)
}

var evilMethods = []string{"Read", "Write", "Close", "CloseWrite", "SetDeadline", "SetReadDeadline", "SetWriteDeadline"}

// tame calls f, which may panic because of a net.Conn.
func tame(f func()) {
	defer func() { _ = recover() }()
	f()
}

// A net.Conn that panics costs its own connection, and nothing else. Its ending runs to the
// end, no lock stays held, and no goroutine of the engine panics.
func TestEvilNetConn(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		for _, method := range evilMethods {
			for _, how := range []string{"end", "peer", "handler closes", "no answer", "context", "context of a Write", "deadline", "stall", "last word", "ping"} {
				switch {
				case !wrapped && (how == "handler closes" || how == "no answer" || how == "stall" || how == "last word"),
					wrapped && (how == "context" || how == "context of a Write"):
					continue
				}
				name := method + ", " + how
				if wrapped {
					name += ", wrapped"
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { testEvil(t, wrapped, method, how) })
				})
			}
		}
	}
}

func testEvil(t *testing.T, wrapped bool, method, how string) {
	peer, nc := net.Pipe()
	e := &evil{Conn: nc}
	d := newDoor(e, testConfig, wrapped)
	peerRead := make(chan struct{})
	reads := make(chan struct{}) // closed when the peer begins to read
	go func() {
		<-reads
		io.Copy(io.Discard, peer)
		peer.Close()
		close(peerRead)
	}()
	var calls sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	read := func() {
		if wrapped {
			d.w.Read(make([]byte, 100))
		} else {
			d.c.Receive(ctx)
		}
	}
	write := func(p []byte) {
		if wrapped {
			d.w.Write(p)
		} else {
			d.c.Write(ctx, Text, p)
		}
	}
	if how == "context of a Write" {
		calls.Go(func() { tame(func() { write([]byte("stuck")) }) })
		synctest.Wait()
		e.arm(method)
		cancel()
		synctest.Wait()
	}
	close(reads)
	if wrapped && how != "no answer" {
		write(d.answer())
	}
	if how == "last word" {
		write([]byte{0x80 | opClose, 0})
	}
	for range 2 {
		calls.Go(func() { tame(read) })
	}
	synctest.Wait()
	e.arm(method)
	switch how {
	case "peer":
		tame(func() { peer.Write([]byte{0x89, 0x80, 0, 0, 0, 0}) })
	case "handler closes":
		tame(func() { d.w.Close() })
	case "context":
		cancel()
	case "deadline":
		if wrapped {
			tame(func() { d.w.SetDeadline(time.Now().Add(time.Second)) })
		}
	case "stall":
		tame(func() { write([]byte{0x82, 126, 0x10}) })
	case "ping":
		tame(d.c.Ping)
	}
	for range 3 { // as good as it gets
		calls.Go(func() { tame(func() { write([]byte{0x81, 0}) }) })
	}
	time.Sleep(10 * time.Second)
	d.end(errors.New("the end"), 1000)
	time.Sleep(3 * time.Second)
	select {
	case <-d.ended:
	default:
		t.Error("the ending has not come to its end")
	}
	if !d.c.mu.TryLock() {
		t.Error("mu is locked")
	} else {
		d.c.mu.Unlock()
	}
	e.arm("")
	nc.Close()
	peer.Close()
	<-peerRead
	calls.Wait()
	if wrapped { // the handler learns of the end, whatever it does
		for range 10 {
			if _, err := d.w.Read(make([]byte, 100)); err != nil {
				break
			}
		}
		if _, err := d.w.Write([]byte{0x81, 0}); err == nil && !d.w.closeSent.Load() {
			t.Error("a Write succeeds after the end")
		}
		d.w.Close()
	}
}

// openDoor returns a wrapped connection to a peer that takes room bytes behind the 101, and
// what it has taken of them. A write that has timed out can resume.
func openDoor(t *testing.T, room int) (*door, *narrow, func() string) {
	t.Helper()
	n := newNarrow(room)
	d := newDoor(n, testConfig, true)
	d.c.resumes = true
	head := d.answer()
	n.widen(len(head))
	if _, err := d.w.Write(head); err != nil {
		t.Fatal(err)
	}
	return d, n, func() string { return n.taken()[len(head):] }
}

// A frame that the handler completes as the grace ends is followed by the close frame, which
// has the linger to go out.
func TestCloseFrameAtTheEndOfTheGrace(t *testing.T) {
	frame := string(appendHeader(nil, opBinary, 10_000)) + string(make([]byte, 10_000))
	closes := "\x88\x02\x0f\xa0" // 4000
	for _, resumes := range []bool{true, false} {
		for _, early := range []time.Duration{time.Nanosecond, time.Millisecond} {
			for _, pieces := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					d, n, taken := openDoor(t, 5000)
					d.c.resumes = resumes
					wrote := make(chan error, 1)
					if pieces {
						d.w.Write([]byte(frame[:5000]))
						n.widen(len(frame) - 5000)
					} else {
						go func() { _, err := d.w.Write([]byte(frame)); wrote <- err }()
					}
					synctest.Wait()
					d.end(errors.New("the end"), 4000)
					time.Sleep(time.Second - early)
					if pieces {
						_, err := d.w.Write([]byte(frame[5000:]))
						wrote <- err
					} else {
						n.widen(len(frame) - 5000)
					}
					if err := <-wrote; err != nil {
						t.Errorf("the handler's Write: %v", err)
					}
					time.Sleep(early + 900*time.Millisecond)
					n.widen(100)
					<-d.ended
					if got := taken(); got != frame+closes {
						t.Errorf("resumes %t, %v early, pieces %t: the peer has %d bytes, and %q behind the frame", resumes, early, pieces, len(got), got[min(len(got), len(frame)):])
					}
				})
			}
		}
	}
}

// When the grace has passed, the handler can neither begin a frame nor continue one. What it
// tries costs the peer nothing: neither the close frame, nor the end of the stream in order.
func TestNoFrameAfterTheGrace(t *testing.T) {
	const text, closes = "\x81\x05hello", "\x88\x02\x0f\xa0"
	for range 20 { // the handler and the ending look at the same time
		for _, answered := range []bool{false, true} {
			for _, resumes := range []bool{true, false} {
				for _, begun := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						d, _, taken := openDoor(t, 1<<20)
						d.c.resumes = resumes
						want := closes
						big := string(appendHeader(nil, opBinary, 10_000)) + string(make([]byte, 10_000))
						if begun {
							want = big[:5000]
							d.w.Write([]byte(want))
						}
						d.c.answered.Store(answered) // by a close frame that the handler must answer
						d.end(errors.New("the end"), 4000)
						time.Sleep(time.Second)
						rest := text
						if begun {
							rest = big[5000:]
						}
						if n, err := d.w.Write([]byte(rest)); n != 0 || !errors.Is(err, net.ErrClosed) {
							t.Errorf("answered %t, resumes %t, begun %t: the handler writes %d, %v", answered, resumes, begun, n, err)
						}
						<-d.ended
						if got := taken(); got != want {
							t.Errorf("answered %t, resumes %t, begun %t: the peer has %.100q, %d bytes", answered, resumes, begun, got, len(got))
						}
						if d.c.failure != nil {
							t.Errorf("answered %t, resumes %t, begun %t: the socket is reset", answered, resumes, begun)
						}
					})
				}
			}
		}
	}
}

// A close frame of the handler's that its own deadline has kept from going out does not count as
// sent. It does when the handler has sent the rest.
func TestCloseFrameNotSent(t *testing.T) {
	const closes = "\x88\x02\x0f\xa0" // 4000
	for _, room := range []int{0, 3} {
		for _, again := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				d, n, taken := openDoor(t, room)
				d.w.SetWriteDeadline(time.Now().Add(time.Second))
				k, err := d.w.Write([]byte(closes))
				if k != room || !errors.Is(err, os.ErrDeadlineExceeded) || d.said != -1 {
					t.Errorf("room for %d: %d, %v; %d is reported", room, k, err, d.said)
				}
				if again {
					d.w.SetWriteDeadline(time.Time{})
					n.widen(10)
					if _, err := d.w.Write([]byte(closes)[k:]); err != nil || d.said != 4000 || taken() != closes {
						t.Errorf("room for %d, again: %v; %d is reported, the peer has %q", room, err, d.said, taken())
					}
				}
				d.w.Close()
				<-d.ended
				if said := d.said; !again && said != -1 {
					t.Errorf("room for %d: %d is reported", room, said)
				}
			})
		}
	}
}

package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gorilla/websocket"

	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/internal/wstest"
)

// FuzzFrames gives the same bytes to the engine, in pieces, and to coder/websocket and gorilla.
// All must read the same messages, and come to the same end: a close frame with the same code and
// reason, a refusal, or a stream that is not over.
//
// The documented differences are these. The engine refuses what others read:
//   - a length that is not minimal (RFC 6455 §5.2);
//   - a text that is not UTF-8, if it does not come in one piece (§8.1); what comes in one piece
//     is left to the guard's judge;
//   - a close reason that is not UTF-8 (§5.5.1), which coder/websocket reads;
//   - a close frame with a payload of one byte (§5.5.1), which gorilla reads.
//
// gorilla refuses the close code 1014, which the registry of IANA has (§11.7). The engine
// refuses a header before it is whole, as soon as its fault has come. The others wait for the
// rest.
func FuzzFrames(f *testing.F) {
	for _, b := range frameSeeds() {
		for _, piece := range []byte{0, 1, 5} {
			f.Add(piece, b)
		}
	}
	f.Fuzz(func(t *testing.T, piece byte, b []byte) {
		ours, fault := engineReads(t, b, int(piece))
		strict := fault.Fault == wire.FaultUTF8 || fault.Detail == "length not minimal"
		compare(t, b, ours, fault, "coder/websocket", coderReads(t, b), strict || fault.Fault == wire.FaultReason, false)
		theirs := gorillaReads(t, b)
		code := fault.Fault == wire.FaultClosed && fault.Code == 1014 && theirs.end == refused
		compare(t, b, ours, fault, "gorilla", theirs, strict || fault.Detail == "close frame of one byte", code)
	})
}

// compare fails the test if the engine and a library read b in different ways. The engine may be
// stricter, and the library may refuse a code of a close frame that the engine takes.
func compare(t *testing.T, b []byte, ours reading, fault *wire.Error, library string, theirs reading, stricter, code bool) {
	t.Helper()
	early := ours.end == refused && theirs.end == more
	n := len(ours.messages)
	if n > len(theirs.messages) || !stricter && n < len(theirs.messages) ||
		!slices.EqualFunc(ours.messages, theirs.messages[:n], bytes.Equal) {
		t.Fatalf("the engine reads %d messages, and %s %d, of %x", n, library, len(theirs.messages), b)
	}
	if ours.end != theirs.end && !stricter && !early && !code {
		t.Fatalf("the engine: %s (%v); %s: %s, of %x", ours.end, fault, library, theirs.end, b)
	}
}

// reading is what becomes of a stream.
type reading struct {
	messages [][]byte // each with its opcode in front
	end      string
}

const (
	refused = "refused"
	more    = "not over"
)

func closedWith(code int, why string) string { return fmt.Sprintf("closed with %d %q", code, why) }

// hijacked is a ResponseWriter whose connection is a Script.
type hijacked struct {
	nc     net.Conn
	header http.Header
}

func (h *hijacked) Header() http.Header         { return h.header }
func (h *hijacked) Write(p []byte) (int, error) { return len(p), nil }
func (h *hijacked) WriteHeader(int)             {}
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.nc, bufio.NewReadWriter(bufio.NewReader(h.nc), bufio.NewWriter(h.nc)), nil
}

// frameDoor is a guard that lets every message through and notes the fault.
type frameDoor struct {
	c     *wire.Conn
	fault *wire.Error
	ended chan struct{}
}

func (d *frameDoor) Accept(bool) (int64, error) { return 0, nil }
func (d *frameDoor) Ahead() bool                { return false }
func (d *frameDoor) Tolerates(wire.Fault) bool  { return false }
func (d *frameDoor) Pong(time.Duration)         {}
func (d *frameDoor) Broken(error)               {}

func (d *frameDoor) Judge(*wire.Message) (wire.Verdict, time.Duration, error) {
	return wire.Deliver, 0, nil
}

func (d *frameDoor) Failed(e *wire.Error) error {
	d.fault = e
	d.c.End(wire.Ending{Cause: e, First: func() {}, Done: func() { close(d.ended) }})
	return e
}

func engineReads(t *testing.T, b []byte, piece int) (r reading, fault *wire.Error) {
	c, _, err := wire.Hijack(&hijacked{&wstest.Script{Stream: slices.Clone(b), Piece: piece}, http.Header{}}, &wire.Config{
		WriteTimeout: time.Second, CloseGrace: time.Second, Linger: time.Second, Endings: make(chan struct{}, 1),
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &frameDoor{c: c, ended: make(chan struct{})}
	c.Serve(d)
	for {
		m, err := c.Receive(context.Background())
		if err != nil {
			break
		}
		op := byte(wire.Text)
		if m.Binary {
			op = wire.Binary
		}
		r.messages = append(r.messages, append([]byte{op}, m.Data...))
	}
	<-d.ended
	switch d.fault.Fault {
	case wire.FaultClosed:
		r.end = closedWith(d.fault.Code, d.fault.Reason)
	case wire.FaultLost:
		r.end = more
	default:
		r.end = refused
	}
	return r, d.fault
}

func coderReads(t *testing.T, b []byte) (r reading) {
	nc := &wstest.Script{Stream: slices.Clone(b)}
	c, err := coder.Accept(&hijacked{nc, http.Header{}}, &http.Request{Method: http.MethodGet, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}}, &coder.AcceptOptions{InsecureSkipVerify: true, CompressionMode: coder.CompressionDisabled})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		typ, msg, err := c.Read(context.Background())
		var closed coder.CloseError
		switch {
		case err == nil:
			r.messages = append(r.messages, append([]byte{byte(typ)}, msg...))
			continue
		case errors.As(err, &closed):
			r.end = closedWith(int(closed.Code), closed.Reason)
		case nc.Over:
			r.end = more
		default:
			r.end = refused
		}
		return r
	}
}

func gorillaReads(t *testing.T, b []byte) (r reading) {
	nc := &wstest.Script{}
	u := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	c, err := u.Upgrade(&hijacked{nc, http.Header{}}, &http.Request{Method: http.MethodGet, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	nc.Stream = slices.Clone(b)
	for {
		typ, msg, err := c.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case err == nil:
			r.messages = append(r.messages, append([]byte{byte(typ)}, msg...))
			continue
		case errors.As(err, &closed):
			r.end = closedWith(closed.Code, closed.Text)
		case nc.Over:
			r.end = more
		default:
			r.end = refused
		}
		return r
	}
}

// frameSeeds are streams of each kind of frame.
func frameSeeds() [][]byte {
	encode := func(frames ...wstest.Frame) (b []byte) {
		for _, f := range frames {
			f.Masked, f.Mask = true, [4]byte{1, 2, 3, 4}
			b = wstest.AppendFrame(b, f)
		}
		return b
	}
	part := func(op byte, fin bool, payload string) wstest.Frame {
		return wstest.Frame{Opcode: op, Fin: fin, Payload: []byte(payload)}
	}
	seeds := [][]byte{
		nil,
		encode(wstest.Text("hello"), wstest.Binary([]byte{1, 2, 3}), wstest.CloseFrame(1000, "bye")),
		encode(part(1, false, "hel"), wstest.Ping([]byte("x")), part(0, false, ""), wstest.Pong(nil), part(0, true, "lo")),
		encode(part(1, false, "a"), part(1, true, "b")),
		encode(part(0, true, "a")),
		encode(part(9, false, "a")),
		encode(part(9, true, string(make([]byte, 126)))),
		encode(wstest.Text("\xff"), part(1, false, "\xff"), part(0, true, "")),
		encode(wstest.Text(string(make([]byte, 126))), wstest.Binary(make([]byte, 5000)), wstest.Binary(make([]byte, 70_000))),
		encode(part(8, true, "")),
		encode(part(8, true, "\x03")),
		encode(part(8, true, "\x03\xe8\xff")),
		encode(wstest.Text("a"), part(3, true, "")),
		[]byte("\x81\x05hello"),            // not masked
		[]byte("\xc1\x80\x00\x00\x00\x00"), // compressed
		[]byte("\x81\xfe\x00\x01\x00\x00\x00\x00a"),
		[]byte("\x81\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00a"),
		[]byte("\x82\xff\x80\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00a"),
		[]byte("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00a"),
	}
	for _, code := range []int{999, 1003, 1004, 1005, 1006, 1007, 1010, 1014, 1015, 1016, 2999, 3000, 4999, 5000} {
		seeds = append(seeds, encode(part(8, true, string([]byte{byte(code >> 8), byte(code)}))))
	}
	return seeds
}

package wsguardtest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// The opcodes of frames (RFC 6455 §5.2).
const (
	OpContinuation byte = 0x0
	OpText         byte = 0x1
	OpBinary       byte = 0x2
	OpClose        byte = 0x8
	OpPing         byte = 0x9
	OpPong         byte = 0xA
)

// Frame is a frame (RFC 6455 §5.2), whether it is legal or not. A Frame of which only Opcode and
// Payload are set is a legal frame of a client. [Raw.ReadFrame] sets Opcode, Payload, More and RSV.
type Frame struct {
	// Opcode is a number below 16, such as OpText.
	Opcode byte

	// Payload is the payload, which is not masked here.
	Payload []byte

	// More says that FIN is 0, because another fragment of the message follows.
	More bool

	// RSV has the three reserved bits. RSV1 is 4, RSV2 is 2, and RSV3 is 1.
	RSV byte

	// Unmasked says that the client does not mask the payload, which breaks the rules.
	Unmasked bool

	// Length is the length that the frame declares. The default is that of Payload.
	Length uint64

	// LengthBytes is how many bytes the extended length has, 2 or 8, even if the length fits in
	// fewer bytes. The default is the fewest bytes in which the length fits.
	LengthBytes int
}

// mask is the mask of all frames. It is not zero, so that a server that does not unmask is found.
var mask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// Append appends the bytes of the frame to b. It panics if no bytes have these values, such as an
// Opcode above 15.
func (f Frame) Append(b []byte) []byte {
	raw := wstest.Frame{Fin: !f.More, RSV: f.RSV, Opcode: f.Opcode, Masked: !f.Unmasked, Payload: f.Payload, LengthBytes: f.LengthBytes}
	if !f.Unmasked {
		raw.Mask = mask
	}
	if f.Length != 0 {
		raw.Length = &f.Length
	}
	return wstest.AppendFrame(b, raw)
}

// Raw is a client that speaks frames and any other bytes. It does only what the test says, so it
// answers neither pings nor close frames.
//
// Each method waits for as long as the option [Timeout] says, and fails the test. So call the
// methods on the goroutine of the test.
type Raw struct {
	t    testing.TB
	s    *Server
	name string // for errors
	c    *wstest.Client
	o    *dialOptions
}

// Connect connects a Raw that has not made its handshake yet.
func (s *Server) Connect(opts ...DialOption) *Raw {
	s.t.Helper()
	o := s.dialing(opts)
	r := &Raw{t: s.t, s: s, name: "raw " + s.nameOf(o), c: wstest.NewClient(s.t, s.connect(o)), o: o}
	r.c.Timeout = o.timeout
	s.open.add(r.CloseNow)
	return r
}

// DialRaw connects a Raw and makes its handshake. The test fails if the handshake is refused.
func (s *Server) DialRaw(opts ...DialOption) *Raw {
	s.t.Helper()
	r := s.Connect(opts...)
	s.mustUpgrade(r.name, r.Handshake())
	return r
}

// Handshake makes the handshake that the options of Connect describe, and returns the response,
// which may be a refusal. Its body is in memory.
func (r *Raw) Handshake() *http.Response {
	r.t.Helper()
	return r.s.handshake(r.name, r.c, r.o)
}

// Write sends bytes as they are. It may be a handshake, a part of a frame, or no WebSocket at all.
func (r *Raw) Write(b []byte) {
	r.t.Helper()
	if _, err := r.c.Write(b); err != nil {
		r.t.Fatalf("wsguardtest: %s: cannot send %d bytes: %s", r.name, len(b), r.explain(err))
	}
}

// WriteFrame sends a frame.
func (r *Raw) WriteFrame(f Frame) {
	r.t.Helper()
	r.Write(f.Append(nil))
}

// ReadFrame returns the next frame. The test fails if a server must not send that frame.
func (r *Raw) ReadFrame() Frame {
	r.t.Helper()
	f, err := r.c.ReadFrame()
	if err != nil {
		r.t.Fatalf("wsguardtest: %s: %s, want a frame", r.name, r.explain(err))
	}
	return Frame{Opcode: f.Opcode, Payload: f.Payload, More: !f.Fin, RSV: f.RSV, Unmasked: true}
}

// ReadResponse returns the response to an HTTP request that the test has written by itself. Its
// body is in memory.
func (r *Raw) ReadResponse() *http.Response {
	r.t.Helper()
	res, err := r.c.ReadResponse()
	if err != nil {
		r.t.Fatalf("wsguardtest: %s: %s, want a response", r.name, r.explain(err))
	}
	return res
}

// WantText checks that the next message is this text. It joins fragments, and skips pings and
// pongs.
func (r *Raw) WantText(want string) {
	r.t.Helper()
	wanted := show(message{wsguard.MessageText, []byte(want)})
	op, data, err := r.c.ReadMessage()
	got := message{wsguard.MessageText, data}
	if op == OpBinary {
		got.typ = wsguard.MessageBinary
	}
	switch {
	case err != nil:
		r.t.Fatalf("wsguardtest: %s: %s, want %s", r.name, r.explain(err), wanted)
	case op != OpText || string(data) != want:
		r.t.Fatalf("wsguardtest: %s: got %s, want %s", r.name, show(got), wanted)
	}
}

// WantClose checks that a close frame with this code and reason comes. It skips other frames. The
// code 1005 stands for a close frame without a code. The client does not answer the close frame.
func (r *Raw) WantClose(code wsguard.StatusCode, reason string) {
	r.t.Helper()
	got, why, err := r.c.ReadClose()
	switch {
	case err != nil:
		r.t.Fatalf("wsguardtest: %s: %s, want it %s", r.name, r.explain(err), closed(code, reason))
	case wsguard.StatusCode(got) != code || why != reason:
		r.t.Fatalf("wsguardtest: %s: the connection was %s, want it %s", r.name, closed(wsguard.StatusCode(got), why), closed(code, reason))
	}
}

// WantEnd checks that the server ends the connection. It skips all bytes that come before. It
// makes no difference whether the server has closed or reset the connection.
func (r *Raw) WantEnd() {
	r.t.Helper()
	if err := r.c.ReadEOF(); errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Fatalf("wsguardtest: %s: the server has not ended the connection within %v", r.name, r.timeout())
	}
}

// CloseNow drops the connection without a close frame.
func (r *Raw) CloseNow() { r.c.Close() }

func (r *Raw) timeout() time.Duration { return r.o.timeout }

// explain says in words why nothing was read or written.
func (r *Raw) explain(err error) string {
	var ce *wstest.CloseError
	switch {
	case errors.As(err, &ce):
		return "the connection was " + closed(wsguard.StatusCode(ce.Code), ce.Reason)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("nothing has come within %v", r.timeout())
	case errors.Is(err, io.EOF):
		return "the connection has ended"
	}
	return err.Error()
}

package wstest

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The opcodes of RFC 6455, section 5.2.
const (
	OpContinuation byte = 0x0
	OpText         byte = 0x1
	OpBinary       byte = 0x2
	OpClose        byte = 0x8
	OpPing         byte = 0x9
	OpPong         byte = 0xA
)

// Frame is a WebSocket frame (RFC 6455, section 5.2), legal or not.
type Frame struct {
	Fin    bool
	RSV    byte // the three reserved bits: RSV1 is 4, RSV2 is 2, RSV3 is 1
	Opcode byte // four bits

	// Masked says that the frame carries Mask and that Payload, which is the
	// plain text here, is masked with it on the wire.
	Masked bool
	Mask   [4]byte

	Payload []byte

	// Length is the length to declare when it is not that of Payload, for
	// frames that promise more than they hold.
	Length *uint64

	// LengthBytes is the size of the extended length: 2 or 8 force that form,
	// also where a shorter one would do; 0 picks the shortest that fits.
	LengthBytes int
}

// AppendFrame appends the bytes of f. It panics if the bits of a frame cannot
// express f, as for an opcode above 15, because that is a mistake of the test.
func AppendFrame(dst []byte, f Frame) []byte {
	if f.RSV > 7 || f.Opcode > 15 {
		panic(fmt.Sprintf("wstest: no such frame: RSV %d, opcode %d", f.RSV, f.Opcode))
	}
	length := uint64(len(f.Payload))
	if f.Length != nil {
		length = *f.Length
	}
	form := f.LengthBytes
	if form == 0 {
		form = minimalForm(length)
	}

	b0, mask := f.RSV<<4|f.Opcode, byte(0)
	if f.Fin {
		b0 |= 0x80
	}
	if f.Masked {
		mask = 0x80
	}
	switch {
	case form == 0:
		dst = append(dst, b0, mask|byte(length))
	case form == 2 && length <= math.MaxUint16:
		dst = append(dst, b0, mask|126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(length))
	case form == 8:
		dst = append(dst, b0, mask|127)
		dst = binary.BigEndian.AppendUint64(dst, length)
	default:
		panic(fmt.Sprintf("wstest: no such frame: length %d in %d bytes", length, form))
	}
	if !f.Masked {
		return append(dst, f.Payload...)
	}
	dst = append(dst, f.Mask[:]...)
	start := len(dst)
	dst = append(dst, f.Payload...)
	// The race detector looks at each byte of a loop, and tests send many.
	var key [1024]byte
	for i := 0; i < min(len(key), len(f.Payload)); i += len(f.Mask) {
		copy(key[i:], f.Mask[:])
	}
	for rest := dst[start:]; len(rest) > 0; {
		rest = rest[subtle.XORBytes(rest, rest, key[:]):]
	}
	return dst
}

// minimalForm returns how many bytes of extended length RFC 6455 requires.
func minimalForm(length uint64) int {
	switch {
	case length <= 125:
		return 0
	case length <= math.MaxUint16:
		return 2
	}
	return 8
}

// A client's frames are masked. The key is constant, so that a failure repeats,
// and not zero, so that a server which forgets to unmask is found out.
var clientMask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

func clientFrame(opcode byte, payload []byte) Frame {
	return Frame{Fin: true, Opcode: opcode, Masked: true, Mask: clientMask, Payload: payload}
}

// Text returns a client's text message of one frame.
func Text(s string) Frame { return clientFrame(OpText, []byte(s)) }

// Binary returns a client's binary message of one frame.
func Binary(b []byte) Frame { return clientFrame(OpBinary, b) }

// Ping returns a client's ping.
func Ping(b []byte) Frame { return clientFrame(OpPing, b) }

// Pong returns a client's pong.
func Pong(b []byte) Frame { return clientFrame(OpPong, b) }

// CloseFrame returns a client's close frame. Code 1005 stands for a frame without a
// status, as in RFC 6455. Any other code is sent as it is, even if no peer may send
// it.
func CloseFrame(code int, reason string) Frame {
	if code < 0 || code > math.MaxUint16 || code == noStatus && reason != "" {
		panic(fmt.Sprintf("wstest: no such close frame: %d %q", code, reason))
	}
	if code == noStatus {
		return clientFrame(OpClose, nil)
	}
	return clientFrame(OpClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}

const noStatus = 1005

// ErrProtocol is wrapped by the errors of a [Client] whose server has broken
// RFC 6455, as opposed to those of the connection.
var ErrProtocol = errors.New("wstest: the server violates RFC 6455")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

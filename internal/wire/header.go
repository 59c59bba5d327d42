package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// Opcodes of RFC 6455 §5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Opcodes of data messages, for Write.
const (
	Text   = opText
	Binary = opBinary
)

type header struct {
	op     byte
	fin    bool
	length int64
	mask   [4]byte
}

func (h header) control() bool { return h.op >= opClose }

// parseHeader reads a client's frame header (RFC 6455 §5.2) from the front of b. n is its
// length, or 0 while b does not hold all of it. It refuses an illegal header as soon as b has
// the bytes that show the fault. fault is a constant description. open says whether a
// fragmented message has begun.
func parseHeader(b []byte, open bool) (h header, n int, fault string) {
	return parse(b, open, true)
}

// parseServerHeader is parseHeader for a frame that a server sends.
func parseServerHeader(b []byte, open bool) (h header, n int, fault string) {
	return parse(b, open, false)
}

func parse(b []byte, open, masked bool) (h header, n int, fault string) {
	if len(b) < 1 {
		return h, 0, ""
	}
	h.fin, h.op = b[0]&0x80 != 0, b[0]&0x0f
	if fault := judgeFirst(b[0], open); fault != "" {
		return h, 0, fault
	}
	if len(b) < 2 {
		return h, 0, ""
	}
	switch has := b[1]&0x80 != 0; {
	case masked && !has:
		return h, 0, "unmasked frame"
	case has && !masked:
		return h, 0, "masked frame"
	}
	n = 2
	switch l := b[1] & 0x7f; {
	case l < 126:
		h.length = int64(l)
	case h.control():
		return h, 0, "long control frame"
	case l == 126:
		n = 4
		if len(b) < n {
			return h, 0, ""
		}
		h.length = int64(binary.BigEndian.Uint16(b[2:]))
		if h.length < 126 {
			return h, 0, "length not minimal"
		}
	default:
		// The first byte of the length tells whether its top bit is set.
		if len(b) > 2 && b[2]&0x80 != 0 {
			return h, 0, "length with the top bit set"
		}
		// And the first six, whether 16 bits would have done.
		if len(b) >= 8 && b[2]|b[3]|b[4]|b[5]|b[6]|b[7] == 0 {
			return h, 0, "length not minimal"
		}
		n = 10
		if len(b) < n {
			return h, 0, ""
		}
		h.length = int64(binary.BigEndian.Uint64(b[2:]))
	}
	if !masked {
		return h, n, ""
	}
	if len(b) < n+4 {
		// The length is known; the caller may refuse it already.
		return h, 0, ""
	}
	copy(h.mask[:], b[n:])
	return h, n + 4, ""
}

// judgeFirst judges the first byte of a frame's header; open says whether a fragmented
// message has begun. It returns the fault's constant description.
func judgeFirst(b byte, open bool) string {
	op, fin := b&0x0f, b&0x80 != 0
	switch {
	case b&0x70 != 0:
		return "reserved bit set"
	case op > opBinary && op < opClose || op > opPong:
		return "reserved opcode"
	case op >= opClose && !fin:
		return "fragmented control frame"
	case op == opContinuation && !open:
		return "continuation of nothing"
	case (op == opText || op == opBinary) && open:
		return "message inside a message"
	}
	return ""
}

// appendHeader builds the header of a server's frame: final, not masked.
func appendHeader(b []byte, op byte, length int) []byte {
	b = append(b, 0x80|op)
	switch {
	case length < 126:
		return append(b, byte(length))
	case length <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(length))
	}
}

// Sendable reports whether code may stand in a close frame (RFC 6455 §7.4
// and the IANA registry).
func Sendable(code int) bool {
	return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 && code != 1010 || code >= 3000 && code <= 4999
}

// receivable reports whether a peer may send code. That is every code that is Sendable, and
// 1010, which only clients send.
func receivable(code int) bool { return Sendable(code) || code == 1010 }

// parseClose reads a close frame's payload.
func parseClose(p []byte) (code int, reason string, fault Fault, detail string) {
	switch {
	case len(p) == 0:
		return 1005, "", FaultNone, ""
	case len(p) == 1:
		return 0, "", FaultProtocol, "close frame of one byte"
	}
	code = int(binary.BigEndian.Uint16(p))
	if !receivable(code) {
		return 0, "", FaultProtocol, "illegal close code"
	}
	if !utf8.Valid(p[2:]) {
		return 0, "", FaultReason, "close reason is not UTF-8"
	}
	return code, string(p[2:]), FaultNone, ""
}

// maxReason is how many bytes a control frame has room for in a reason (RFC 6455 §5.5).
const maxReason = 123

// appendClose builds the payload of a close frame: no more than 123 bytes of
// valid UTF-8, whatever reason holds.
func appendClose(b []byte, code int, reason string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, TrimReason(reason)...)
}

// TrimReason makes a close reason of s: valid UTF-8, at most 123 bytes.
func TrimReason(s string) string {
	if len(s) <= maxReason && utf8.ValidString(s) {
		return s
	}
	out := make([]byte, 0, maxReason)
	for _, r := range s {
		if len(out)+utf8.RuneLen(r) > maxReason {
			break
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

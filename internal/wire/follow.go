package wire

import "encoding/binary"

// follower follows what a wrapped handler writes, whatever pieces it comes in. It holds
// back a header that is not whole and a control frame that is not whole, so that nothing
// illegal is on the wire when it is found.
type follower struct {
	followState
	head [10 + 125]byte
}

// followState is what of a follower changes, apart from the bytes that it holds.
type followState struct {
	n      int   // head[:n] is the front of a frame
	sent   int   // head[:sent] has left: only after a write that was cut short
	remain int64 // payload of a data frame that has not come
	fin    bool  // that frame is its message's last
	open   bool  // a message of several frames is under way
	size   int64 // payload of that message so far
	op     byte  // of the message
}

// between reports whether no frame of the handler's is under way on the wire.
func (f *follower) between() bool { return f.remain == 0 && f.sent == 0 }

// step is what follow has found.
type step struct {
	send    []byte // may go out now: the front of what was given, or what was held
	payload []byte // the part of send that is payload of a data frame
	took    int    // bytes of what was given that are accounted for, send included
	end     stepEnd
	control bool  // a control frame
	bytes   int64 // endMessage: the payload of the message
	code    int   // endClose
	why     string
	fault   string
}

type stepEnd int

const (
	endInput   stepEnd = iota // everything that was given is accounted for
	endFrame                  // a frame has ended, and its message has not
	endMessage                // a message, or a ping or a pong, has ended
	endClose                  // a close frame
)

// follow goes on to the end of the next frame or of p. A fault has no bytes to send.
func (f *follower) follow(p []byte) step {
	if f.remain > 0 {
		k := int(min(f.remain, int64(len(p))))
		f.remain -= int64(k)
		return f.data(step{send: p[:k], payload: p[:k], took: k})
	}
	if f.n > 0 {
		return f.held(p)
	}
	h, n, fault := parseServerHeader(p, f.open)
	switch {
	case fault != "":
		return step{fault: fault}
	case n == 0 || h.control() && len(p) < n+int(h.length):
		f.n = copy(f.head[:], p)
		return step{took: len(p)}
	case h.control():
		return f.control(h, p[:n+int(h.length)], n, n+int(h.length))
	}
	f.begin(h)
	k := int(min(f.remain, int64(len(p)-n)))
	f.remain -= int64(k)
	return f.data(step{send: p[:n+k], payload: p[n : n+k], took: n + k})
}

// held goes on with a frame whose front was held back.
func (f *follower) held(p []byte) step {
	took := 0
	for {
		h, n, fault := parseServerHeader(f.head[:f.n], f.open)
		need := n
		if n > 0 && h.control() {
			need += int(h.length)
		}
		switch {
		case fault != "":
			return step{took: took, fault: fault}
		case n > 0 && f.n == need:
			send := f.head[f.sent:f.n]
			f.n, f.sent = 0, 0
			if h.control() {
				return f.control(h, send, n, took)
			}
			f.begin(h)
			return f.data(step{send: send, took: took})
		case took == len(p):
			return step{took: took}
		}
		f.head[f.n] = p[took]
		f.n++
		took++
	}
}

func (f *follower) begin(h header) {
	if !f.open {
		f.op, f.size = h.op, 0
	}
	f.open, f.fin, f.remain = true, h.fin, h.length
	f.size += h.length
}

// data says how a step in a data frame ends.
func (f *follower) data(s step) step {
	if f.remain == 0 {
		s.end = endFrame
		if f.fin {
			s.end, s.bytes, f.open = endMessage, f.size, false
		}
	}
	return s
}

// control judges a control frame, which is whole; n is the length of its header.
func (f *follower) control(h header, frame []byte, n, took int) step {
	s := step{send: frame, took: took, control: true, end: endMessage}
	if f.open {
		s.end = endFrame
	}
	if h.op == opClose {
		code, why, fault, detail := parseClose(frame[max(0, len(frame)-int(h.length)):])
		if fault != FaultNone || code == 1010 {
			return step{fault: "bad close payload: " + detail}
		}
		s.end, s.code, s.why = endClose, code, why
	}
	return s
}

// resume takes a run back of which only the first n bytes have left.
func (f *follower) resume(r run, n int) {
	f.followState = r.before
	if r.held { // send lies in head, whole
		f.n, f.sent = r.before.sent+len(r.send), r.before.sent+n
		return
	}
	for p := r.send[:n]; len(p) > 0; {
		s := f.follow(p)
		if len(s.send) == 0 {
			f.sent = f.n
		}
		p = p[s.took:]
	}
}

// parseServerHeader reads the header of a frame that a server sends.
func parseServerHeader(b []byte, open bool) (h header, n int, fault string) {
	if len(b) < 2 {
		if len(b) == 1 {
			fault = judgeFirst(b[0], open)
		}
		return h, 0, fault
	}
	h.fin, h.op = b[0]&0x80 != 0, b[0]&0x0f
	if fault := judgeFirst(b[0], open); fault != "" {
		return h, 0, fault
	}
	if b[1]&0x80 != 0 {
		return h, 0, "masked frame"
	}
	switch l := b[1] & 0x7f; {
	case l < 126:
		h.length, n = int64(l), 2
	case h.control():
		return h, 0, "long control frame"
	case l == 126:
		if len(b) < 4 {
			return h, 0, ""
		}
		h.length, n = int64(binary.BigEndian.Uint16(b[2:])), 4
		if h.length < 126 {
			return h, 0, "length not minimal"
		}
	default:
		if len(b) < 10 {
			return h, 0, ""
		}
		length := binary.BigEndian.Uint64(b[2:])
		if length>>63 != 0 || length <= 0xffff {
			return h, 0, "length not minimal, or with the top bit set"
		}
		h.length, n = int64(length), 10
	}
	return h, n, ""
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

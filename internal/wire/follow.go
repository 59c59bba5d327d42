package wire

// follower parses the frames that a wrapped handler writes, in pieces of any size. It holds
// back a small frame until it is whole. So an illegal frame is found before it is on the wire,
// and a frame that comes in two pieces leaves with one call.
type follower struct {
	followState
	piece *[bufferBytes]byte // holds piece[:n]; nil while n is 0
}

// followState has the fields of a follower that change, except the bytes that it holds.
type followState struct {
	n      int   // bytes that are held: the front of a frame
	sent   int   // of them, those that have left: only after a write that was cut short
	remain int64 // payload of a data frame that has not come, of which the front has left
	fin    bool  // that frame is its message's last
	open   bool  // a message of several frames is under way
	op     byte  // of the message
	size   int64 // payload of the message so far, declared
}

// whole reports whether no frame of the handler is under way.
func (f *follower) whole() bool { return f.remain == 0 && f.n == 0 }

// step is a result of follow.
type step struct {
	send    []byte // may go out now: the front of what was given, or what was held
	payload []byte // the part of send that is payload of a data frame
	took    int    // bytes of what was given that are accounted for
	held    bool   // send was held
	end     stepEnd
	control bool  // a control frame
	ping    bool  // of this kind
	bytes   int64 // endMessage: the payload of the message
	code    int   // endClose
	why     string
	fault   string
}

type stepEnd int

const (
	endInput   stepEnd = iota // everything that was given is accounted for
	endFrame                  // a frame has ended, and its message has not
	endMessage                // a message has ended, or a ping or a pong between two
	endClose                  // a close frame
)

// follow parses to the end of a frame or of p. A step with a fault sends nothing.
func (f *follower) follow(p []byte) step {
	switch {
	case f.remain > 0:
		k := int(min(f.remain, int64(len(p))))
		f.remain -= int64(k)
		return f.data(step{send: p[:k], payload: p[:k], took: k})
	case f.n > 0:
		return f.more(p)
	}
	h, n, fault := parseServerHeader(p, f.open)
	if fault != "" {
		return step{fault: fault}
	}
	if n > 0 && (h.length <= int64(len(p)-n) || int64(n)+h.length > bufferBytes) {
		return f.frame(h, n, p[:min(int64(len(p)), int64(n)+h.length)])
	}
	f.piece = buffers.get()
	f.n = copy(f.piece[:], p)
	return step{took: len(p)}
}

// more continues with a frame whose front is held.
func (f *follower) more(p []byte) step {
	took := 0
	for {
		h, n, fault := parseServerHeader(f.piece[:f.n], f.open)
		need := 1
		switch {
		case fault != "":
			return step{took: took, fault: fault}
		case n > 0 && (int64(f.n-n) >= h.length || int64(n)+h.length > bufferBytes):
			send := f.piece[f.sent:f.n]
			s := f.frame(h, n, f.piece[:f.n])
			s.send, s.took, s.held = send, took, true
			f.n, f.sent = 0, 0
			return s
		case n > 0:
			need = n + int(h.length) - f.n
		}
		if took == len(p) {
			return step{took: took}
		}
		k := copy(f.piece[f.n:], p[took:min(len(p), took+need)])
		f.n += k
		took += k
	}
}

// drop gives the buffer of what was held back, once that has been sent.
func (f *follower) drop() {
	if f.n == 0 && f.piece != nil {
		buffers.put(f.piece)
		f.piece = nil
	}
}

// forget drops the held bytes and gives their buffer back.
func (f *follower) forget() {
	f.n, f.sent = 0, 0
	f.drop()
}

// frame takes a frame, or the front of one that is too large to be held. n is the length
// of its header.
func (f *follower) frame(h header, n int, b []byte) step {
	if h.control() {
		return f.control(h, n, b)
	}
	if !f.open {
		f.op, f.size = h.op, 0
	}
	f.open, f.fin = true, h.fin
	f.remain = h.length - int64(len(b)-n)
	f.size += h.length
	return f.data(step{send: b, payload: b[n:], took: len(b)})
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

func (f *follower) control(h header, n int, b []byte) step {
	s := step{send: b, took: len(b), control: true, ping: h.op == opPing, end: endMessage}
	if f.open {
		s.end = endFrame
	}
	if h.op == opClose {
		code, why, fault, _ := parseClose(b[n:])
		if fault != FaultNone || code == 1010 {
			return step{fault: "bad close payload"}
		}
		s.end, s.code, s.why = endClose, code, why
	}
	return s
}

// resume takes a run back of which only the first n bytes have left. It returns how many
// messages, with how much payload, are among them.
func (f *follower) resume(r run, n int) (messages int, bytes int64) {
	f.followState = r.before
	if r.held {
		f.n, f.sent = r.before.sent+len(r.send), r.before.sent+n
		return 0, 0
	}
	for p := r.send[:n]; len(p) > 0; {
		s := f.follow(p)
		if len(s.send) == 0 {
			f.sent = f.n
		}
		if s.end == endMessage && !s.control {
			messages++
			bytes += s.bytes
		}
		p = p[s.took:]
	}
	return messages, bytes
}

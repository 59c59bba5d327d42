package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// Read returns bytes of well-formed, masked frames: one unfragmented frame for each judged
// message, the pongs that answer the handler's own pings, and the close frame.
func (w *Wrapped) Read(p []byte) (int, error) {
	w.rmu.lock()
	defer w.rmu.unlock()
	for {
		if w.closed.Load() {
			return 0, net.ErrClosed
		}
		if len(p) == 0 {
			return 0, nil
		}
		now := time.Duration(0) // not looked at
		if by := time.Duration(w.c.readBy.Load()); by != 0 {
			if now = w.c.now(); now >= by {
				return 0, os.ErrDeadlineExceeded
			}
		}
		if !w.settled() && !w.c.ending.Load() {
			w.awaitAnswer()
			continue
		}
		if n := w.give(p); n > 0 {
			return n, nil
		}
		if w.refused.Load() {
			w.over = io.EOF
		}
		if w.over != nil {
			w.drain()
			return 0, w.over
		}
		n, err := w.receive(p, now)
		switch err {
		case nil, errForwarded, ErrInterrupted:
			if n > 0 {
				return n, nil
			}
		case os.ErrDeadlineExceeded:
			return 0, err
		default:
			w.finalFrame()
		}
	}
}

// give copies the bytes that wait for the handler.
func (w *Wrapped) give(p []byte) int {
	n := copy(p, w.outHead)
	w.outHead = w.outHead[n:]
	m := min(len(p)-n, len(w.outBody))
	w.outKey = maskTo(p[n:n+m], w.outBody[:m], w.outKey)
	w.outBody = w.outBody[m:]
	return n + m
}

// awaitAnswer waits until the handler's response has gone out, or until there is
// something else to look at.
func (w *Wrapped) awaitAnswer() {
	t := time.NewTimer(w.timeLeft(time.Duration(w.c.readBy.Load())))
	defer t.Stop()
	select {
	case <-w.answered:
	case <-w.c.closing:
	case <-w.c.poke:
	case <-t.C:
	}
}

// timeLeft returns how much time a deadline of the handler leaves.
func (w *Wrapped) timeLeft(by time.Duration) time.Duration {
	if by == 0 {
		return never
	}
	return by - w.c.now()
}

// receive waits for a judged message and copies its frame to p. It also copies those of the
// messages behind it that have come whole. A handler that reads through a buffer would
// otherwise need a call for each message. now is the time if Read has looked at the clock, or 0.
func (w *Wrapped) receive(p []byte, now time.Duration) (n int, err error) {
	c := w.c
	if err := c.enter(context.Background()); err != nil {
		return 0, err
	}
	if c.r == c.w && !c.whole && c.early == nil {
		c.looked = now // the first thing that next does is to fill
	}
	quiet := true // also when a hook or the net.Conn panics
	defer func() {
		c.hurry = false
		c.leave(quiet)
	}()
	m, err := c.next()
	for err == nil {
		w.message(m)
		n += w.give(p[n:])
		if n == len(p) || !c.ahead() {
			break
		}
		c.hurry = true
		m, err = c.next()
	}
	quiet = n == 0 && err != errForwarded
	if n > 0 {
		err = nil // the next call meets it again, if it has ended the connection
	}
	return n, err
}

// message makes the frame of a judged message.
func (w *Wrapped) message(m *Message) {
	op := byte(opText)
	if m.Binary {
		op = opBinary
	}
	w.header(op, w.c.first, len(m.Data))
	w.outBody, w.outKey = m.Data, binary.LittleEndian.Uint32(w.c.first[:])
}

// header makes the header of a masked frame.
func (w *Wrapped) header(op byte, key [4]byte, length int) {
	b := appendHeader(w.outSpace[:0], op, length)
	b[1] |= 0x80
	w.outHead = append(b, key[:]...)
}

// control makes a control frame of the engine's own for the handler. It stands behind control
// frames that the handler has not read yet.
func (w *Wrapped) control(op byte, p []byte) {
	waiting := bytes.Clone(w.outHead) // none, unless Look has found them
	var key [4]byte
	for binary.LittleEndian.Uint32(key[:]) == 0 {
		binary.LittleEndian.PutUint32(key[:], rand.Uint32())
	}
	w.header(op, key, len(p))
	n := len(w.outHead)
	w.outHead = append(w.outHead, p...)
	mask(w.outHead[n:], binary.LittleEndian.Uint32(key[:]))
	if len(waiting) > 0 {
		w.outHead = append(waiting, w.outHead...)
	}
}

// maxControls bounds the control frames that wait for the handler, in bytes.
const maxControls = 1 << 10

// takes reports whether a control frame can wait for the handler.
func (w *Wrapped) takes() bool { return len(w.outBody) == 0 && len(w.outHead) < maxControls }

// forward hands a control frame of the peer's to the handler. The reader calls it, on
// behalf of a Read whose out is empty, or for Look if the handler takes one.
func (w *Wrapped) forward(op byte, p []byte) {
	w.control(op, p)
	w.peerHas = w.peerHas || op == opClose
}

// finalFrame makes the frame that the handler reads when the connection has ended.
func (w *Wrapped) finalFrame() {
	c := w.c
	<-c.closing
	c.mu.Lock()
	code, why, gone := c.endCode, c.endReason, c.lost
	c.mu.Unlock()
	w.over = io.EOF
	switch {
	case w.peerHas:
	case gone != nil:
		w.over = gone
	case w.closeSent.Load():
		w.over = net.ErrClosed // the peer has not answered the handler's close frame in time
	case code == 1005:
		w.told.Store(true)
		w.control(opClose, nil)
	case code != 0:
		w.told.Store(true)
		w.control(opClose, appendClose(nil, code, why))
	}
}

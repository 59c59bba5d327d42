package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// FuzzWrapped lets a peer, a handler and a guard do what a program says, each on a goroutine of
// its own, and holds what the peer and the handler read against the sentences of the contract
// of Guard.Wrap. The model is talk.check. It reads whole streams, and knows nothing of how the
// engine works.
func FuzzWrapped(f *testing.F) {
	for _, p := range talkSeeds {
		f.Add([]byte(p))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		p := make([]byte, 20+random.IntN(300))
		for i := range p {
			if random.IntN(3) > 0 { // zeros are the plain choices
				p[i] = byte(random.Uint32())
			}
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 400 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			k := newTalk(program)
			k.run()
			k.check(t)
			if t.Failed() {
				t.Logf("%s", k)
			}
		})
	})
}

// act is a step of one of the three.
type act struct {
	name  string
	bytes []byte        // to write
	piece int           // so many bytes at once
	pause time.Duration // afterwards
	code  int
}

// talk is a program, and what has come of it.
type talk struct {
	resumes, hold, pongs         bool
	peerBuffer, peerReads, reads int           // how much at once
	peerPause, readPause         time.Duration // between two reads
	peer, handler, guard         []act

	d     *door
	hurry atomic.Bool // the readers do not pause any more
	mu    sync.Mutex  // guards peerSent, judged, keys, accepted, taken, notices and peerGot

	peerSent   []byte    // what the peer has written
	judged     [][]byte  // messages that were delivered, with their opcode in front
	keys       [][4]byte // the masking keys of their first frames
	accepted   []byte    // what the handler's Writes have taken
	taken      int       // of them, those up to its last Write without an error
	notices    int       // of the guard's
	peerGot    []byte    // what the peer has read
	handlerGot []byte    // what the handler has read
	peerEnd    error     // how that ended
	handlerEnd error
	left       bool // the peer has closed its net.Conn
	closed     bool // the handler has closed its
}

const guardCode = 4000

var errGuard = errors.New("the guard's end")

// tape reads a program. Behind its end there are zeros.
type tape struct{ b []byte }

func (t *tape) next() int {
	if len(t.b) == 0 {
		return 0
	}
	v := t.b[0]
	t.b = t.b[1:]
	return int(v)
}

func pick[T any](t *tape, from ...T) T { return from[t.next()%len(from)] }

func newTalk(program []byte) *talk {
	t := &tape{program}
	flags := t.next()
	k := &talk{resumes: flags&1 == 0, hold: flags&2 != 0, pongs: flags&4 == 0}
	k.peerBuffer = pick(t, 64<<10, 16, 1000, 5000, 1<<20)
	k.peerReads, k.reads = pick(t, 4096, 1, 100, 70_000), pick(t, 4096, 1, 2, 13, 500, 70_000)
	k.peerPause = pick(t, 0, 0, time.Millisecond, 100*time.Millisecond, time.Second)
	k.readPause = pick(t, 0, 0, time.Millisecond, 100*time.Millisecond, time.Second)
	peerOpen, handlerOpen, n := false, false, 0
	for len(t.b) > 0 && n < 60 {
		n++
		pause := func(a act) act {
			a.pause = pick(t, 0, 0, 0, time.Nanosecond, time.Millisecond, 300*time.Millisecond, time.Second-time.Nanosecond, time.Second, 4*time.Second, 11*time.Second)
			return a
		}
		switch who := t.next(); who % 8 {
		case 0, 1, 2:
			k.peer = append(k.peer, pause(act{"write", t.frame(n, true, &peerOpen), pick(t, 1<<20, 1, 3, 7, 100, 4096), 0, 0}))
		case 3, 4, 5:
			k.handler = append(k.handler, pause(act{"write", t.frame(n, false, &handlerOpen), pick(t, 1<<20, 1, 3, 7, 100, 4096), 0, 0}))
		case 6:
			k.guard = append(k.guard, pause(act{pick(t, "notice", "ping", "nothing", "end"), nil, 0, 0, 0}))
		default:
			switch t.next() % 8 {
			case 0:
				k.peer = append(k.peer, pause(act{name: "close"}))
			case 1:
				k.peer = append(k.peer, pause(act{name: "half-close"}))
			case 2:
				k.handler = append(k.handler, pause(act{name: "close"}))
			case 3:
				k.handler = append(k.handler, pause(act{name: "half-close"}))
			case 4:
				k.handler = append(k.handler, pause(act{name: "deadline"}))
			default:
				k.peer = append(k.peer, pause(act{name: "nothing"}))
				k.handler = append(k.handler, pause(act{name: "nothing"}))
			}
		}
	}
	return k
}

// frame is a frame of the program's nth step.
func (t *tape) frame(n int, masked bool, open *bool) []byte {
	kind := t.next()
	size := pick(t, 5, 0, 1, 2, 100, 125, 126, 127, 1000, 4095, 4224, 4300, 9000, 66_000)
	f := wstest.Frame{Fin: true, Masked: masked}
	f.Mask = [4]byte{byte(t.next()), 1, 2, byte(n)}
	fill := byte('a' + n%26)
	switch kind % 12 {
	case 0, 1, 2, 3:
		f.Opcode = wstest.OpText
		if kind%2 == 1 {
			f.Opcode, fill = wstest.OpBinary, byte(200+n)
		}
		f.Fin = kind%4 < 2
		if *open {
			f.Opcode, fill = wstest.OpContinuation, byte('a'+n%26)
		}
		*open = !f.Fin
	case 4, 5:
		f.Opcode = wstest.OpContinuation
		if f.Fin = kind%2 == 0; !*open {
			f.Opcode = wstest.OpText
		}
		*open = !f.Fin
	case 6, 7:
		f.Opcode, size = wstest.OpPing, min(size, 125)
	case 8, 9:
		f.Opcode, size = wstest.OpPong, min(size, 125)
	case 10:
		f.Opcode, f.Payload = wstest.OpClose, binary.BigEndian.AppendUint16(nil, uint16(pick(t, 1000, 4001, 1001, 0)))
		if f.Payload[0] == 0 {
			f.Payload = nil
		}
		return wstest.AppendFrame(nil, f)
	default: // anything
		k := min(len(t.b), 1+size%8)
		b := slices.Clone(t.b[:k])
		t.b = t.b[k:]
		return b
	}
	if f.Opcode >= wstest.OpClose && !masked {
		size = max(1, size) // so that its pongs differ from those of the engine
	}
	f.Payload = bytes.Repeat([]byte{fill}, size)
	if size > 0 && f.Opcode >= wstest.OpClose {
		f.Payload[0] = byte(n)
	}
	return wstest.AppendFrame(nil, f)
}

func (k *talk) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "resumes %t, hold %t, pongs %t, the peer reads %d of %d at once, and the handler %d; pauses %v and %v\n",
		k.resumes, k.hold, k.pongs, k.peerReads, k.peerBuffer, k.reads, k.peerPause, k.readPause)
	for name, script := range map[string][]act{"peer": k.peer, "handler": k.handler, "guard": k.guard} {
		for _, a := range script {
			fmt.Fprintf(&b, "%s: %s %.20x (%d bytes, %d at once), then %v\n", name, a.name, a.bytes, len(a.bytes), a.piece, a.pause)
		}
	}
	fmt.Fprintf(&b, "peer: %v; handler: %v; cause: %v", k.peerEnd, k.handlerEnd, k.d.c.Cause())
	return b.String()
}

// The guard of a talk is a door that notes what it judges, and holds what the handler sends
// back if the program says so. A message of the handler's that begins with 'b' does not pass.
type talkDoor struct {
	*door
	k *talk
}

func (d talkDoor) Judge(m *Message) (Verdict, time.Duration, error) {
	if !m.Binary && len(m.Data) > 0 && m.Data[0] == 'b' {
		return Drop, 0, nil
	}
	if !m.Held && !m.Ahead && !m.Binary && len(m.Data) > 0 && m.Data[0] == 'c' {
		return Hold, 700 * time.Millisecond, nil
	}
	op := byte(opText)
	if m.Binary {
		op = opBinary
	}
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	d.k.judged = append(d.k.judged, append([]byte{op}, m.Data...))
	d.k.keys = append(d.k.keys, d.c.first)
	return Deliver, 0, nil
}

func (d talkDoor) Outbound() (int64, bool)       { return 0, d.k.hold }
func (d talkDoor) Check(_ bool, msg []byte) bool { return len(msg) == 0 || msg[0] != 'b' }

func (k *talk) run() {
	peer, server := wstest.Pipe(wstest.PipeOptions{BufferBytes: k.peerBuffer})
	cfg := testConfig
	cfg.PingInterval, cfg.PongTimeout, cfg.IdleTimeout, cfg.MessageTimeout = 10*time.Second, 5*time.Second, time.Minute, 20*time.Second
	cfg.MaxFragments, cfg.ControlRate, cfg.ControlBurst = 20, 1, 20
	k.d = newDoor(server, cfg, true)
	k.d.c.resumes = k.resumes
	hooks := talkDoor{k.d, k}
	k.d.c.hooks, k.d.w.hooks = hooks, hooks

	queue := make(chan []byte, 1000) // pongs of the peer
	var reading, acting sync.WaitGroup
	reading.Go(func() { k.peerEnd = k.readPeer(peer, queue) })
	reading.Go(func() { k.handlerEnd = k.readHandler() })
	acting.Go(func() { k.actPeer(peer, queue) })
	acting.Go(k.actHandler)
	acting.Go(k.actGuard)
	acting.Wait()
	time.Sleep(time.Second)
	k.end()
	<-k.d.ended
	k.hurry.Store(true)
	reading.Wait()
	k.d.w.Close()
	peer.Close()
}

func (k *talk) end() {
	k.d.end(errGuard, guardCode)
}

func (k *talk) readPeer(peer net.Conn, queue chan<- []byte) error {
	b := make([]byte, k.peerReads)
	seen := 0
	for {
		n, err := peer.Read(b)
		k.mu.Lock()
		k.peerGot = append(k.peerGot, b[:n]...)
		got := k.peerGot
		k.mu.Unlock()
		if err != nil {
			return err
		}
		for k.pongs { // answer the pings that have come
			f, size := cutFrame(got[min(seen, len(got)):])
			if size == 0 {
				break
			}
			seen += size
			if f.op == opPing {
				select {
				case queue <- wstest.AppendFrame(nil, wstest.Pong(f.payload)):
				default:
				}
			}
		}
		if !k.hurry.Load() {
			time.Sleep(k.peerPause)
		}
	}
}

func (k *talk) readHandler() error {
	b := make([]byte, k.reads)
	for {
		n, err := k.d.w.Read(b)
		k.handlerGot = append(k.handlerGot, b[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			k.d.w.SetReadDeadline(time.Time{})
			continue
		}
		if err != nil {
			return err
		}
		if !k.hurry.Load() {
			time.Sleep(k.readPause)
		}
	}
}

func (k *talk) actPeer(peer *wstest.PipeConn, queue <-chan []byte) {
	write := func(b []byte, piece int) bool {
		for p := range slices.Chunk(b, piece) {
			n, err := peer.Write(p)
			k.mu.Lock()
			k.peerSent = append(k.peerSent, p[:n]...)
			k.mu.Unlock()
			if err != nil {
				return false
			}
		}
		return true
	}
	for _, a := range k.peer {
		for len(queue) > 0 {
			write(<-queue, 1<<20)
		}
		switch a.name {
		case "write":
			if !write(a.bytes, a.piece) {
				return
			}
		case "close":
			k.left = true
			peer.Close()
			return
		case "half-close":
			peer.CloseWrite()
			return
		}
		time.Sleep(a.pause)
	}
	for {
		select {
		case b := <-queue:
			if !write(b, 1<<20) {
				return
			}
		case <-k.d.ended:
			return
		case <-time.After(15 * time.Second):
			return
		}
	}
}

func (k *talk) actHandler() {
	w := k.d.w
	for p := range slices.Chunk(k.d.answer(), 50) {
		if _, err := w.Write(p); err != nil {
			return
		}
	}
	for _, a := range k.handler {
		switch a.name {
		case "write":
			for p := range slices.Chunk(a.bytes, a.piece) {
				for len(p) > 0 {
					n, err := w.Write(p)
					k.mu.Lock()
					k.accepted = append(k.accepted, p[:n]...)
					if err == nil {
						k.taken = len(k.accepted)
					}
					k.mu.Unlock()
					p = p[n:]
					if errors.Is(err, os.ErrDeadlineExceeded) && k.resumes {
						w.SetWriteDeadline(time.Time{})
						if n > 0 || len(p) > 0 {
							continue
						}
					}
					if err != nil {
						return
					}
				}
			}
		case "close":
			k.closed = true
			w.Close()
			return
		case "half-close":
			w.CloseWrite()
		case "deadline":
			w.SetDeadline(time.Now().Add(500 * time.Millisecond))
		}
		time.Sleep(a.pause)
	}
}

func (k *talk) actGuard() {
	for _, a := range k.guard {
		switch a.name {
		case "notice":
			k.mu.Lock()
			k.notices++
			n := k.notices
			k.mu.Unlock()
			k.d.c.Notice([]byte(noticePrefix + fmt.Sprint(n)))
		case "ping":
			k.d.c.Ping()
		case "end":
			k.end()
		}
		time.Sleep(a.pause)
	}
}

const noticePrefix = "notice " // no message of the handler's has a space in it

// plain is a frame in a stream, as the model sees it.
type plain struct {
	fin     bool
	op      byte
	rsv     byte
	masked  bool
	minimal bool
	key     [4]byte
	payload []byte
	raw     []byte
}

// cutFrame cuts a frame from the front of b. size is 0 if b has no whole one.
func cutFrame(b []byte) (f plain, size int) {
	if len(b) < 2 {
		return f, 0
	}
	f.fin, f.op, f.rsv, f.masked = b[0]&128 != 0, b[0]&15, b[0]>>4&7, b[1]&128 != 0
	length, at := uint64(b[1]&127), 2
	f.minimal = true
	switch {
	case length == 126 && len(b) >= 4:
		length, at = uint64(binary.BigEndian.Uint16(b[2:])), 4
		f.minimal = length > 125
	case length == 127 && len(b) >= 10:
		length, at = binary.BigEndian.Uint64(b[2:]), 10
		f.minimal = length > 0xffff
	case length > 125:
		return f, 0
	}
	if f.masked {
		if len(b) < at+4 {
			return f, 0
		}
		at += copy(f.key[:], b[at:])
	}
	if uint64(len(b)-at) < length {
		return f, 0
	}
	f.raw = b[:at+int(length)]
	f.payload = slices.Clone(f.raw[at:])
	for i := range f.payload {
		f.payload[i] ^= f.key[i%4]
	}
	return f, len(f.raw)
}

// cutFrames cuts a stream into frames, as far as they are legal in it. rest is what remains.
func cutFrames(b []byte, masked bool) (frames []plain, rest []byte) {
	open := false
	for {
		f, size := cutFrame(b)
		control := f.op >= 8
		switch {
		case size == 0, f.rsv != 0, f.masked != masked, !f.minimal, f.op > 10, f.op > 2 && f.op < 8,
			control && (!f.fin || len(f.payload) > 125),
			!control && open != (f.op == 0):
			return frames, b
		}
		frames, b = append(frames, f), b[size:]
		if f.op == opClose {
			return frames, b
		}
		if !control {
			open = !f.fin
		}
	}
}

// joined returns the messages of frames, each with its opcode in front.
func joined(frames []plain) (messages [][]byte) {
	var m []byte
	for _, f := range frames {
		switch {
		case f.op >= 8:
			continue
		case f.op != 0:
			m = []byte{f.op}
		}
		m = append(m, f.payload...)
		if f.fin {
			messages = append(messages, m)
		}
	}
	return messages
}

func payloads(frames []plain, op byte) (all [][]byte) {
	for _, f := range frames {
		if f.op == op {
			all = append(all, f.payload)
		}
	}
	return all
}

// among reports whether some, in this order, are among all.
func among(some, all [][]byte) bool {
	for _, s := range some {
		i := slices.IndexFunc(all, func(a []byte) bool { return bytes.Equal(a, s) })
		if i < 0 {
			return false
		}
		all = all[i+1:]
	}
	return true
}

func without(all [][]byte, drop func([]byte) bool) [][]byte {
	return slices.DeleteFunc(slices.Clone(all), drop)
}

// check holds a talk against the contract.
func (k *talk) check(t *testing.T) {
	k.checkHandler(t)
	k.checkPeer(t)
}

// checkHandler checks what the handler has read.
func (k *talk) checkHandler(t *testing.T) {
	c := k.d.c
	sent, _ := cutFrames(k.peerSent, true)
	got, rest := cutFrames(k.handlerGot, true)
	if len(rest) > 0 && !k.closed {
		t.Errorf("the handler reads %.40x behind a close frame, or what is no frame; then %v", rest, k.handlerEnd)
	}
	var messages [][]byte
	for i, f := range got {
		if !f.fin || f.op == opContinuation || f.op == opPing {
			t.Errorf("frame %d of the handler: %.20x", i, f.raw)
		}
		if f.key == [4]byte{} {
			t.Errorf("frame %d of the handler has the key zero", i)
		}
		if f.op < 8 {
			if n := len(messages); n < len(k.keys) && f.key != k.keys[n] {
				t.Errorf("message %d of the handler has key %x, and the peer's had %x", n, f.key, k.keys[n])
			}
			messages = append(messages, append([]byte{f.op}, f.payload...))
		}
	}
	if n := len(messages); n > len(k.judged) || !slices.EqualFunc(messages, k.judged[:n], bytes.Equal) || n < len(k.judged) && !k.closed {
		t.Errorf("the handler reads %d messages, and %d were judged", len(messages), len(k.judged))
	}
	all := without(joined(sent), func(m []byte) bool { return m[0] == opText && len(m) > 1 && m[1] == 'b' })
	if n := len(k.judged); n > len(all) || !slices.EqualFunc(k.judged, all[:n], bytes.Equal) {
		t.Errorf("%d messages were judged, of %d", n, len(all))
	}
	pongs := without(payloads(sent, opPong), func(p []byte) bool { _, ours := c.ourPing(p); return ours })
	if !among(payloads(got, opPong), pongs) {
		t.Errorf("the handler reads pongs %x, of %x", payloads(got, opPong), pongs)
	}
	closes := payloads(got, opClose)
	if k.handlerEnd == io.EOF && c.Cause() == errGuard && !k.closed && len(closes) == 0 && !k.d.w.closeSent.Load() {
		t.Error("the handler reads no close frame after the guard's end")
	}
}

// checkPeer checks what the peer has read.
func (k *talk) checkPeer(t *testing.T) {
	c := k.d.c
	head := k.d.answer()
	if len(k.peerGot) <= len(head) {
		return // it has left early
	}
	if !bytes.HasPrefix(k.peerGot, head) {
		t.Fatalf("the head is %q", k.peerGot[:len(head)])
	}
	got, tail := cutFrames(k.peerGot[len(head):], false)
	wrote, _ := cutFrames(k.accepted, false)
	var theirs []plain // frames of the handler's
	open, notice := false, 0
	var pongs [][]byte
	for i, f := range got {
		switch {
		case f.op == opPong && isOf(f, wrote):
			theirs = append(theirs, f)
		case f.op == opPong:
			pongs = append(pongs, f.payload)
		case f.op == opPing:
			if _, ours := c.ourPing(f.payload); !ours {
				theirs = append(theirs, f)
			}
		case bytes.HasPrefix(f.payload, []byte(noticePrefix)):
			var n int
			fmt.Sscanf(string(f.payload), noticePrefix+"%d", &n)
			if open || !f.fin || f.op != opText || n <= notice {
				t.Errorf("frame %d, notice %d behind %d, open %t: %x", i, n, notice, open, f.raw)
			}
			notice = n
		case f.op == opClose:
			if i != len(got)-1 || len(tail) > 0 {
				t.Errorf("%d frames and %.40x behind the close frame", len(got)-1-i, tail)
			}
		default:
			open = !f.fin
			theirs = append(theirs, f)
		}
	}
	sent, _ := cutFrames(k.peerSent, true)
	if !among(pongs, payloads(sent, opPing)) {
		t.Errorf("the peer reads pongs %x, of %x", pongs, payloads(sent, opPing))
	}
	k.checkTheirs(t, theirs, wrote, tail)
	// The guard's end reaches the peer, unless something stands in the way.
	closes := len(got) > 0 && got[len(got)-1].op == opClose
	c.mu.Lock()
	lost := c.lost
	c.mu.Unlock()
	if c.Cause() == errGuard && !closes && len(tail) == 0 && !k.left && lost == nil && c.failure == nil && !c.broken && !k.d.w.halfClosed {
		t.Error("the peer reads no close frame after the guard's end")
	}
}

// isOf reports whether f may be a frame of the handler's.
func isOf(f plain, wrote []plain) bool {
	return slices.ContainsFunc(wrote, func(g plain) bool { return bytes.Equal(f.raw, g.raw) })
}

// checkTheirs checks the frames that the peer has got of the handler. wrote are those that the
// handler has written, and tail is what the peer has got behind the last whole frame.
func (k *talk) checkTheirs(t *testing.T, theirs, wrote []plain, tail []byte) {
	c := k.d.c
	whole := !k.left && c.failure == nil && !c.broken && c.Cause() != nil
	all := k.handlerFrames()
	if k.hold {
		refused := func(m []byte) bool { return len(m) > 1 && m[1] == 'b' }
		got, want := joined(theirs), without(joined(all), refused)
		if n := len(got); n > len(want) || !slices.EqualFunc(got, want[:n], bytes.Equal) {
			t.Errorf("the peer reads %d messages of the handler's, which has written %d", len(got), len(want))
		}
		for _, f := range theirs {
			if !f.fin || f.op == opContinuation {
				t.Errorf("a fragment %.20x of a message that was judged as a whole", f.raw)
			}
		}
		return
	}
	want := slices.DeleteFunc(slices.Clone(all), func(f plain) bool { return f.op == opClose })
	if n := len(theirs); n > len(want) || !slices.EqualFunc(theirs, want[:n], func(a, b plain) bool { return bytes.Equal(a.raw, b.raw) }) {
		t.Errorf("the peer reads %d frames of the handler's, which has written %d", len(theirs), len(want))
		return
	}
	if len(tail) > 0 {
		next := k.allWritten()
		for _, f := range theirs {
			next = next[len(f.raw):]
		}
		// The end may also cut a frame of the engine's that the peer has not taken.
		engines := tail[0] >= 0x80|opClose || bytes.HasPrefix(tail[min(2, len(tail)):], []byte(noticePrefix)[:max(0, min(len(noticePrefix), len(tail)-2))])
		if !bytes.HasPrefix(next, tail) && !engines {
			t.Errorf("%.40x behind the last frame is no part of the handler's next frame %.40x", tail, next)
		}
	}
	taken, _ := cutFrames(k.accepted[:k.taken], false)
	taken = slices.DeleteFunc(taken, func(f plain) bool { return f.op == opClose })
	if whole && len(theirs) < len(taken) && !k.d.w.closeSent.Load() {
		t.Errorf("the peer reads %d frames of the %d that the handler's Writes have taken", len(theirs), len(taken))
	}
}

// allWritten is all that the handler has written, or would have.
func (k *talk) allWritten() (b []byte) {
	for _, a := range k.handler {
		b = append(b, a.bytes...)
	}
	return b
}

func (k *talk) handlerFrames() []plain {
	frames, _ := cutFrames(k.allWritten(), false)
	return frames
}

// talkSeeds are programs of each kind of step. The first six bytes are the settings.
var talkSeeds = []string{
	"",
	"\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00" + "\x03\x00\x00\x00\x00\x00",                              // a message each way
	"\x01\x01\x01\x01\x02\x02" + "\x00\x02\x0d\x01\x01\x00" + "\x01\x06\x04\x00\x00\x00" + "\x00\x04\x0a\x00\x00\x00", // fragments, a ping
	"\x00\x02\x00\x02\x03\x00" + "\x03\x02\x0d\x01\x05\x00" + "\x06\x00\x00" + "\x06\x01\x00" + "\x04\x04\x05\x00\x03\x00",
	"\x02\x00\x00\x00\x00\x00" + "\x03\x02\x08\x00\x00\x00" + "\x06\x00\x00" + "\x05\x06\x02\x00\x00\x00" + "\x03\x04\x08\x00\x00\x00",
	"\x00\x01\x00\x00\x04\x00" + "\x03\x01\x0d\x00\x00\x00" + "\x06\x03\x06",
	"\x01\x03\x00\x00\x03\x00" + "\x03\x01\x0d\x00\x05\x05" + "\x06\x02\x04" + "\x06\x03\x07",
	"\x00\x00\x00\x00\x00\x00" + "\x00\x0a\x00\x00\x00\x00\x00" + "\x03\x00\x00\x00\x00\x06" + "\x03\x0a\x00\x00\x01\x00\x00",
	"\x00\x00\x00\x00\x00\x00" + "\x03\x0a\x00\x00\x01\x00\x00" + "\x00\x0a\x00\x00\x00\x00\x00",
	"\x00\x00\x00\x00\x00\x00" + "\x07\x00\x00",
	"\x00\x00\x00\x00\x00\x00" + "\x07\x02\x00" + "\x00\x00\x00\x00\x00\x00",
	"\x00\x00\x00\x00\x00\x00" + "\x07\x03\x08" + "\x00\x00\x00\x00\x00\x00",
	"\x00\x01\x02\x00\x04\x00" + "\x07\x04\x00" + "\x03\x01\x0c\x00\x00\x00" + "\x04\x00\x00\x00\x00\x00",
	"\x04\x00\x00\x00\x00\x00" + "\x03\x06\x04\x00\x00\x09" + "\x06\x01\x09" + "\x00\x08\x04\x00\x00\x09",
	"\x00\x00\x00\x00\x00\x00" + "\x00\x0b\x07\x00\xff\xff\xff\xff\xff\xff\xff\xff",
	"\x00\x00\x00\x00\x00\x00" + "\x03\x0b\x07\x00\xff\xff\xff\xff\xff\xff\xff\xff",
}

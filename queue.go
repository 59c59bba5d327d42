package wsguard

import (
	"context"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/wsguard/wsguard/internal/wire"
)

// queue is the part of a connection that holds what Send has yet to write. It is a list of
// segments, each of which is a run of frames in a chunk or one frame elsewhere. A message counts
// until it is written. An empty queue has no segment, no chunk, no map and no goroutine.
//
// The engine's writer takes a batch from the front of the list and leaves it there until it is
// written. So the end of a connection finds all that has not left, in order, and no memory is
// used again while a net.Conn may still read it.
type queue struct {
	count           atomic.Int64  // messages that are not written; changed under mu
	weight          atomic.Int64  // the bytes that the segments hold, a prepared message in full; 0 or less once the queue is dropped, so that makeRoom does not choose it again; changed under mu
	dropped         atomic.Uint64 // messages that Send refused, and those that the end has dropped
	peak, peakBytes atomic.Int64  // the largest count and payload since the sweeper has looked; raised under mu
	tally           *meterShard   // read-only; counts for the Guard what count and dropped count for the connection

	mu         sync.Mutex      // no other lock is taken while it is held
	head, tail *segment        // guarded by mu
	fill       *chunk          // guarded by mu: the chunk that has room; nil: none
	busy       *batch          // guarded by mu: what the writer has taken; nil: nothing
	bytes      int64           // guarded by mu: the payload bytes of the messages
	memory     int64           // guarded by mu: the part of queues.total that the segments hold, without prepared messages
	added      uint64          // guarded by mu: all messages that were ever added
	latest     map[string]*own // guarded by mu: the messages that SendLatest can replace; nil: none
	waiting    []*blocked      // guarded by mu: the calls that wait, in order
	start      func()          // guarded by mu: drain, as a value, so that starting it allocates nothing; nil before the first message
	draining   bool            // guarded by mu: the goroutine runs
	closed     bool            // guarded by mu: the queue takes no more messages
	shed       bool            // guarded by mu: the queue was dropped with messages in it
}

// batchBytes and batchSegments bound what one system call writes, so that a pong and the close
// frame need not wait for a whole queue. A longer frame is a batch of its own.
const (
	batchBytes    = 64 << 10
	batchSegments = 64
)

// batch is what the engine's writer has taken. The writer owns vec.
type batch struct {
	vec   [batchSegments][]byte
	n     int      // read-only: how many of vec there are
	bytes int64    // read-only
	last  *segment // the segment in or behind which the batch ends; set by take, cleared by Wrote
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// outcome is what has become of a message that was to be queued.
type outcome int

const (
	added  outcome = iota
	closed         // the queue takes no more messages
	full           // the queue of the connection is full
	scarce         // all queues together are full
)

// enqueue puts m into the queue. If all queues together are full, it may end other connections.
func (c *Conn) enqueue(m message) outcome {
	q := &c.queue
	var credit int64 // reserved for m
	for {
		q.mu.Lock()
		did := c.put(&m, credit)
		q.mu.Unlock()
		if did != scarce {
			return did
		}
		if credit = m.most(); !c.makeRoom(credit) {
			return scarce
		}
	}
}

// put is enqueue without making room. credit is how much memory is reserved for m. put gives back
// what m does not need. The caller holds queue.mu.
func (c *Conn) put(m *message, credit int64) outcome {
	q, total := &c.queue, &c.g.queues.total
	var old *own
	grown, replaced := int64(len(m.payload)), 0
	if m.key != "" && q.latest[m.key] != nil {
		old, replaced = q.latest[m.key], 1
		grown -= old.payload
	}
	switch {
	case q.closed:
		total.Add(-credit)
		return closed
	case grown > 0 || old == nil:
		if !q.fits(c.first.send, replaced, grown) {
			total.Add(-credit)
			return full
		}
	}
	need := q.need(m, old)
	reserved := false
	if p := m.prepared; p != nil {
		if reserved = p.reserve(need - credit); reserved {
			q.weight.Add(int64(len(p.frame)))
		}
	} else {
		reserved = c.g.reserve(need - credit)
	}
	if !reserved {
		return scarce
	}
	if need > 0 {
		q.memory += need
		q.weight.Add(need)
	}
	q.bytes += grown
	switch {
	case old != nil:
		old.set(m, need)
		return added
	case m.prepared != nil:
		q.push(segment{data: m.prepared.frame, prepared: m.prepared})
	case m.own():
		o := &own{}
		o.at = q.push(segment{own: o})
		o.set(m, need-segmentCost)
		if m.key != "" {
			q.list(o, m.key)
		}
	default:
		q.copyFrame(m)
	}
	q.added++
	if n := q.count.Add(1); n > q.peak.Load() {
		q.peak.Store(n)
	}
	if q.bytes > q.peakBytes.Load() {
		q.peakBytes.Store(q.bytes)
	}
	q.tally.queued.Add(1)
	if !q.draining {
		q.draining = true
		if q.start == nil {
			q.start = c.drain
		}
		go q.start()
	}
	return added
}

// fits reports whether the queue has room for a message. replaced is how many messages it takes the
// place of, and grown is how much more payload there is then. The queue has room for one message
// of any size. The caller holds mu.
func (q *queue) fits(limits SendConfig, replaced int, grown int64) bool {
	others := int(q.count.Load()) - replaced
	return others == 0 || others < limits.MaxMessages && q.bytes+grown <= limits.MaxBytes
}

// take fills b from the front of the queue.
func (q *queue) take(b *batch) net.Buffers {
	k := 0
	b.bytes = 0
	for s := q.head; s != nil; s = s.next {
		if k > 0 && (k == batchSegments || b.bytes+int64(len(s.data)) > batchBytes) {
			// The batch must end where a frame does.
			open := b.last.open
			b.bytes -= int64(open)
			b.vec[k-1] = b.vec[k-1][:len(b.vec[k-1])-open]
			break
		}
		if s.own != nil {
			q.unlist(s.own)
		}
		b.vec[k], b.last = s.data, s
		b.bytes += int64(len(s.data))
		k++
	}
	if len(b.vec[k-1]) == 0 {
		k--
		b.vec[k] = nil
	}
	b.n = k
	q.busy = b
	return b.vec[:k]
}

// outbox is the queue of a connection as the engine sees it. The engine's writer calls its
// methods.
type outbox Conn

// Next implements wire.Source. At the end of the connection it closes the queue when that is empty.
func (s *outbox) Next() net.Buffers {
	q := &s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == nil {
		q.closed = q.closed || s.ctx.Err() != nil
		return nil
	}
	return q.take(batches.Get().(*batch))
}

// Rest implements wire.Source.
func (s *outbox) Rest(n int64) (rest int64) {
	q := &s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	var f wire.FrameCount
	for seg := q.head; seg != nil; seg = seg.next {
		k := min(n, int64(len(seg.data)))
		f.Add(seg.data[:k])
		n -= k
		for _, b := range seg.data[k:] {
			if f.Whole() || f.Missing() > 0 {
				return rest + f.Missing()
			}
			f.Add([]byte{b}) // the rest of a header
			rest++
		}
	}
	return rest
}

// Wrote implements wire.Source.
func (s *outbox) Wrote(n int64) (whole bool) {
	c := (*Conn)(s)
	q := &c.queue
	q.mu.Lock()
	clear(q.busy.vec[:q.busy.n])
	q.busy.last = nil
	batches.Put(q.busy)
	q.busy = nil
	if q.shed {
		c.g.queues.leaving.Add(-q.memory)
	}
	f, freed := q.pop(n)
	if q.count.Load() == 0 { // the close event has counted them as dropped
		f.Frames, f.Payload = 0, 0
	}
	q.count.Add(-f.Frames)
	q.tally.queued.Add(-f.Frames)
	q.bytes -= f.Payload
	if q.shed {
		q.drop()
		freed += q.freeAll(nil)
	}
	c.give(freed)
	q.wake(c.first.send)
	q.mu.Unlock()
	if f.Frames > 0 {
		c.wrote(int(f.Frames), int(f.Payload))
	}
	return f.Whole()
}

// drain writes until the queue is empty.
func (c *Conn) drain() {
	defer c.survive()
	// If many goroutines are ready to run, as in a broadcast, the one that sends gets the time to
	// queue more for the same system call.
	runtime.Gosched()
	for more := true; more; {
		err := c.w.WriteFrames((*outbox)(c))
		if err != nil && err != wire.ErrClosing {
			c.unqueued(err)
		}
		// After an error the end writes or drops the rest.
		more = c.queue.more(err == nil)
	}
}

// unqueued ends a connection whose queue cannot be written. It is not inlined, so that the stack of
// drain stays small enough not to grow: a broadcast starts many of these goroutines.
//
//go:noinline
func (c *Conn) unqueued(err error) { c.end(unwritten(context.Background(), err)) }

// more reports whether drain must go on. ok says that it can.
func (q *queue) more(ok bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.draining = ok && q.head != nil
	return q.draining
}

// dropQueue drops the queued messages and closes the queue. A batch that the writer has taken
// stays until the writer returns it. With final, nothing is written any more, and the batch
// counts as dropped too.
func (c *Conn) dropQueue(final bool) {
	q := &c.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.head != nil && !q.shed {
		q.shed = true
		var last *segment
		var f wire.FrameCount
		if q.busy != nil {
			last = q.busy.last
			f = q.countBusy()
		}
		left := f.Frames
		q.dropping(q.count.Load() - left)
		c.give(q.freeAll(last))
		c.g.queues.leaving.Add(q.memory)
		q.bytes = f.Payload
		q.weight.Store(0)
	}
	if final {
		q.drop()
	}
}

// drop counts all messages as dropped.
func (q *queue) drop() {
	q.dropping(q.count.Load())
	q.bytes = 0
}

// refused counts a message that found no room.
func (q *queue) refused() {
	q.dropped.Add(1)
	q.tally.dropped.Add(1)
}

// dropping counts n queued messages as dropped. The caller holds mu.
func (q *queue) dropping(n int64) {
	q.count.Add(-n)
	q.tally.queued.Add(-n)
	q.dropped.Add(uint64(n))
	q.tally.dropped.Add(uint64(n))
}

// countBusy counts the frames that the writer has taken.
func (q *queue) countBusy() (f wire.FrameCount) {
	n := q.busy.bytes
	for s := q.head; n > 0; s = s.next {
		k := min(n, int64(len(s.data)))
		f.Add(s.data[:k])
		n -= k
	}
	return f
}

// give returns n bytes of memory to the Guard. The caller holds queue.mu.
func (c *Conn) give(n int64) {
	if n != 0 {
		c.queue.memory -= n
		c.queue.weight.Add(-n)
		c.g.queues.total.Add(-n)
	}
}

// blocked is a call that waits for the queue. The holder of queue.mu owns it.
type blocked struct {
	ready   chan struct{} // has room for one signal
	written uint64        // it waits until that many of the messages ever added are written; 0: it waits for room
	payload int64         // the size of the message that waits for room
}

// wait appends a waiter. The caller holds mu.
func (q *queue) wait(w blocked) *blocked {
	w.ready = make(chan struct{}, 1)
	q.waiting = append(q.waiting, &w)
	return &w
}

// waitForRoom returns a waiter, or nil if the queue has room now and nobody else waits for it.
func (q *queue) waitForRoom(limits SendConfig, payload int64) *blocked {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.first() == nil && q.fits(limits, 0, payload) {
		return nil
	}
	return q.wait(blocked{payload: payload})
}

// waitForWritten returns a waiter for all that is queued now, or nil if that is nothing. lost says
// that the connection has ended with messages in the queue.
func (q *queue) waitForWritten() (w *blocked, lost bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count.Load() == 0 {
		return nil, q.shed
	}
	return q.wait(blocked{written: q.added}), false
}

// first returns the waiter that has waited for room for longest, or nil.
func (q *queue) first() *blocked {
	for _, w := range q.waiting {
		if w.written == 0 {
			return w
		}
	}
	return nil
}

// wake signals the waiters that need not wait any more. Of those that wait for room it signals
// only the first. The next one has its turn when that one leaves. The caller holds mu.
func (q *queue) wake(limits SendConfig) {
	if len(q.waiting) == 0 {
		return
	}
	written := q.added - uint64(q.count.Load())
	for _, w := range q.waiting {
		if w.written > 0 && w.written <= written && !q.shed { // what was dropped is not written
			w.signal()
		}
	}
	if w := q.first(); w != nil && q.fits(limits, 0, w.payload) {
		w.signal()
	}
}

func (w *blocked) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// leave removes a waiter.
func (q *queue) leave(w *blocked, limits SendConfig) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, w)
	q.waiting = slices.Delete(q.waiting, i, i+1)
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
	q.wake(limits)
}

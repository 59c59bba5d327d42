package wsguard

import (
	"bytes"
	"container/list"
	"context"
	"sync"
	"sync/atomic"

	"github.com/wsguard/wsguard/reason"
)

// SendConfig limits what [Conn.Send] and [Conn.SendLatest] queue. The zero value is a default
// in each field. Conn.Write queues nothing.
type SendConfig struct {
	// MaxMessages is how many messages the queue of one connection holds. The default is 256.
	// It cannot be Off. If the queue is full, the guard closes the connection with 1008
	// queue_full.
	MaxMessages int

	// MaxBytes is how many bytes of payload the queue of one connection holds. The default is
	// 1 MiB. It cannot be Off. An empty queue takes one message of any size. If the queue is
	// full, the guard closes the connection with 1008 queue_full.
	MaxBytes int64

	// MaxTotalBytes is how many bytes of payload all queues of the Guard may hold together.
	// The default is 256 MiB. It cannot be Off. The guard checks the total when a message is
	// added to a queue that is not empty, and when SendLatest replaces a message. If the total
	// exceeds the limit, the guard closes connections with 1008 queue_full until it no longer
	// does. It begins with those whose peers have taken nothing for longest.
	MaxTotalBytes int64

	// DropNewest makes Send return reason.QueueFull for a message that does not fit into the
	// queue of its connection, instead of closing the connection. The message is dropped and
	// counted in Stats.Dropped. DropNewest does not apply to MaxTotalBytes. The default is
	// false.
	DropNewest bool
}

func (s SendConfig) resolve(f *faults) SendConfig {
	s.MaxMessages = int(requiredAmount(int64(s.MaxMessages), 256, "Send.MaxMessages", f))
	s.MaxBytes = requiredAmount(s.MaxBytes, 1<<20, "Send.MaxBytes", f)
	s.MaxTotalBytes = requiredAmount(s.MaxTotalBytes, 256<<20, "Send.MaxTotalBytes", f)
	return s
}

// queues counts the queued bytes of all connections, and orders the connections by their
// last progress.
type queues struct {
	total atomic.Int64 // bytes in the queues of all connections

	mu      sync.Mutex // a queue's mu may be held; no other lock is taken while it is held
	waiting list.List  // guarded by mu: the *Conns with a queued message; the front has made no progress for longest
}

// queue is the part of a connection that holds what Send has yet to write. A message
// counts until it is written. The holder of mu owns it.
type queue struct {
	mu       sync.Mutex    // queues.mu may be taken while it is held
	messages []queued      // guarded by mu; the first may be in the act of being written
	bytes    int64         // guarded by mu: the payload bytes of messages
	idle     chan struct{} // guarded by mu: closed when the goroutine that runs drain returns; nil: none runs
	closed   bool          // guarded by mu: the queue takes no more messages
	place    *list.Element // guarded by queues.mu: in queues.waiting
	dropped  atomic.Uint64 // messages that DropNewest refused, and those that the end has dropped
}

// queued is a message in a queue.
type queued struct {
	typ MessageType
	msg []byte // the caller's until it is in a queue, and a copy afterwards
	key string // set by SendLatest; empty: none
}

// send implements Send and SendLatest. The caller owns m.msg.
func (c *Conn) send(m queued) error {
	if err := wellFormed(m.typ, m.msg); err != nil {
		return err
	}
	if err := c.cause(); err != nil {
		return err
	}
	if err := c.outbound(m.msg); err != nil {
		return err
	}
	qs, q := &c.g.queues, &c.queue
	size := int64(len(m.msg))
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return c.cause()
	}
	if m.key != "" && q.replace(m, qs, c.first.send.MaxBytes) {
		q.mu.Unlock()
		c.relieve()
		return nil
	}
	if len(q.messages) > 0 && (len(q.messages) >= c.first.send.MaxMessages || q.bytes+size > c.first.send.MaxBytes) {
		q.mu.Unlock()
		if c.first.send.DropNewest {
			c.queue.dropped.Add(1)
			return reason.QueueFull
		}
		return c.end(because(reason.QueueFull, ""))
	}
	first := len(q.messages) == 0
	m.msg = bytes.Clone(m.msg) // as late as this, so that a message that is refused costs no copy
	q.messages = append(q.messages, m)
	q.bytes += size
	start := q.idle == nil
	if start {
		q.idle = make(chan struct{})
	}
	qs.total.Add(size)
	if first {
		qs.wait(c)
	}
	idle := q.idle
	q.mu.Unlock()
	if start {
		go c.drain(idle)
	}
	if !first {
		c.relieve()
	}
	return nil
}

// replace puts m in place of a queued message with the same key. It does not replace the
// first message, which may be in the act of being written.
func (q *queue) replace(m queued, qs *queues, most int64) bool {
	for i := 1; i < len(q.messages); i++ {
		if old := &q.messages[i]; old.key == m.key {
			grown := int64(len(m.msg) - len(old.msg))
			if grown > 0 && q.bytes+grown > most {
				return false
			}
			m.msg = bytes.Clone(m.msg)
			*old = m
			q.bytes += grown
			qs.total.Add(grown)
			return true
		}
	}
	return false
}

// relieve ends connections that make no progress until the total is within bounds. The loop
// ends, because each connection that it takes has at least one message.
func (c *Conn) relieve() {
	qs := &c.g.queues
	for qs.total.Load() > c.g.policy.Load().send.MaxTotalBytes {
		victim := qs.oldest()
		if victim == nil {
			return
		}
		victim.end(because(reason.QueueFull, "all queues together are full"))
		victim.dropQueue()
	}
}

func (qs *queues) oldest() *Conn {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if e := qs.waiting.Front(); e != nil {
		return e.Value.(*Conn)
	}
	return nil
}

// wait puts c at the back of the list. The caller has queued its first message, or c has made
// progress.
func (qs *queues) wait(c *Conn) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if c.queue.place == nil {
		c.queue.place = qs.waiting.PushBack(c)
	} else {
		qs.waiting.MoveToBack(c.queue.place)
	}
}

func (qs *queues) leave(c *Conn) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if c.queue.place != nil {
		qs.waiting.Remove(c.queue.place)
		c.queue.place = nil
	}
}

// drain writes until the queue is empty, and then closes idle.
func (c *Conn) drain(idle chan struct{}) {
	defer close(idle)
	defer c.survive()
	q := &c.queue
	for {
		q.mu.Lock()
		if len(q.messages) == 0 {
			q.messages, q.idle = nil, nil
			q.mu.Unlock()
			return
		}
		next := q.messages[0]
		q.mu.Unlock()
		if c.writeMessage(context.Background(), next.typ, next.msg) != nil {
			return // the end writes or drops the rest
		}
		q.mu.Lock()
		q.pop(c)
		q.mu.Unlock()
	}
}

// pop removes the first message, which has been written, unless the end has emptied the queue.
// The caller holds mu.
func (q *queue) pop(c *Conn) {
	if len(q.messages) == 0 {
		return
	}
	qs, size := &c.g.queues, int64(len(q.messages[0].msg))
	q.messages[0] = queued{}
	q.messages = q.messages[1:]
	q.bytes -= size
	qs.total.Add(-size)
	if len(q.messages) > 0 {
		qs.wait(c)
	} else {
		qs.leave(c)
	}
}

// flushQueue writes the queued messages at the end of the connection, and closes the queue. The
// engine calls it when nothing else writes.
func (c *Conn) flushQueue(write func(op byte, msg []byte) error) {
	q := &c.queue
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	if idle != nil {
		<-idle // it cannot write any more, and says whether its message has left
	}
	for {
		q.mu.Lock()
		if len(q.messages) == 0 {
			q.closed = true
			q.mu.Unlock()
			return
		}
		next := q.messages[0]
		q.mu.Unlock()
		if write(opcode(next.typ), next.msg) != nil {
			return
		}
		c.wrote(next.msg)
		q.mu.Lock()
		q.pop(c)
		q.mu.Unlock()
	}
}

// flushed implements Flush.
func (c *Conn) flushed(ctx context.Context) error {
	q := &c.queue
	for {
		q.mu.Lock()
		idle, left := q.idle, len(q.messages)
		q.mu.Unlock()
		switch {
		case left == 0 && idle == nil:
			return nil
		case c.cause() != nil && left > 0:
			return c.cause()
		}
		select {
		case <-idle:
			if err := c.cause(); err != nil {
				return err
			}
		case <-ctx.Done():
			return c.stopped(ctx)
		}
	}
}

// dropQueue drops all queued messages and closes the queue.
func (c *Conn) dropQueue() {
	qs, q := &c.g.queues, &c.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.dropped.Add(uint64(len(q.messages)))
	qs.total.Add(-q.bytes)
	q.messages, q.bytes = nil, 0
	qs.leave(c)
}

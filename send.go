package wsguard

import (
	"context"
	"fmt"

	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// SendConfig limits what [Conn.Send], [Conn.SendWait], [Conn.SendPrepared] and [Conn.SendLatest]
// queue. The zero value is a default in each field. Conn.Write queues nothing.
//
// A message counts toward these limits until the kernel has accepted it. If a peer takes
// nothing while a message is queued, the connection ends after Timeouts.Write.
type SendConfig struct {
	// MaxMessages is how many messages the queue of one connection holds. The default is
	// 65,536. It cannot be Off. If the queue is full, the guard closes the connection with 1008
	// queue_full.
	MaxMessages int

	// MaxBytes is how many bytes of payload the queue of one connection holds. A prepared
	// message counts in full in each queue. The default is 1 MiB. It cannot be Off. An empty
	// queue takes one message of any size. If the queue is full, the guard closes the connection
	// with 1008 queue_full.
	MaxBytes int64

	// MaxTotalBytes is how many bytes of memory all queues of the Guard may take together. A
	// prepared message counts once for all of them. Small messages lie in blocks of 4 KiB, and
	// a block counts as a whole. The default is 256 MiB. It cannot be Off.
	//
	// If a message finds no room, the guard looks for the client that has the most bytes in its
	// queues. The bytes of the new message count for its own client. The guard closes the
	// connection of that client that has the fullest queue, with 1008 queue_full, and looks
	// again until there is room. The message is refused with reason.QueueFull, and its
	// connection stays open, if it is larger than MaxTotalBytes, if its own client would have
	// the most bytes although nothing is queued for it, or if closing a connection does not make
	// room at once.
	MaxTotalBytes int64

	// DropNewest makes Send return reason.QueueFull for a message that does not fit into the
	// queue of its connection, instead of closing the connection. The message is dropped, and
	// counts in QueueDropped of audit.Snapshot. DropNewest applies neither to MaxTotalBytes nor to
	// SendWait. The default is false.
	DropNewest bool
}

func (s SendConfig) resolve(f *faults) SendConfig {
	s.MaxMessages = int(requiredAmount(int64(s.MaxMessages), 1<<16, "Send.MaxMessages", f))
	s.MaxBytes = requiredAmount(s.MaxBytes, 1<<20, "Send.MaxBytes", f)
	s.MaxTotalBytes = requiredAmount(s.MaxTotalBytes, 256<<20, "Send.MaxTotalBytes", f)
	return s
}

// message is a message on its way into a queue. Its bytes are the caller's.
type message struct {
	op       byte
	payload  []byte
	frame    int       // the length of the whole frame
	key      string    // set by SendLatest; "": none
	prepared *Prepared // nil: none
}

// message judges a message that the application sends.
func (c *Conn) message(typ MessageType, msg []byte) (m message, err error) {
	if err := wellFormed(typ, msg); err != nil {
		return m, err
	}
	if err := c.cause(); err != nil {
		return m, err
	}
	if err := c.outbound(msg); err != nil {
		return m, err
	}
	return message{op: opcode(typ), payload: msg, frame: wire.HeaderLen(len(msg)) + len(msg)}, nil
}

// send queues m, or does what Send says if it cannot.
func (c *Conn) send(m message) error {
	did := c.enqueue(m)
	if did != full {
		return c.sent(did)
	}
	c.overQueue()
	if c.first.send.DropNewest {
		c.queue.refused()
		return reason.QueueFull
	}
	return c.end(because(reason.QueueFull, ""))
}

// overQueue counts a message that the queue has no room for.
func (c *Conn) overQueue() {
	l := limitQueueBytes
	if c.queue.count.Load() >= int64(c.first.send.MaxMessages) {
		l = limitQueue
	}
	c.g.events.meter.gauges.refuse(l)
}

// sent returns the error for an outcome other than full.
func (c *Conn) sent(did outcome) error {
	switch did {
	case closed:
		return c.cause()
	case scarce:
		if err := c.cause(); err != nil {
			return err // it was this connection that had to go
		}
		c.queue.refused()
		c.g.events.meter.gauges.refuse(limitQueueTotal)
		return errTotal
	}
	return nil
}

// errTotal refuses a message because all queues together are full.
var errTotal = fmt.Errorf("wsguard: all queues together are full: %w", reason.QueueFull)

// sendWait implements SendWait.
func (c *Conn) sendWait(ctx context.Context, m message) error {
	if ctx.Err() != nil {
		return c.stopped(ctx)
	}
	q, payload := &c.queue, int64(len(m.payload))
	var w *blocked
	defer func() {
		if w != nil {
			q.leave(w, c.first.send)
		}
	}()
	for {
		if w == nil {
			w = q.waitForRoom(c.first.send, payload)
		}
		if w != nil {
			select {
			case <-w.ready:
			case <-ctx.Done():
				return c.stopped(ctx)
			case <-c.ctx.Done():
				return c.cause()
			}
		}
		if did := c.enqueue(m); did != full { // another call may have taken the room
			return c.sent(did)
		}
	}
}

// flushed implements Flush, and lets Write wait for what was queued before it.
func (c *Conn) flushed(ctx context.Context) error {
	q := &c.queue
	w, lost := q.waitForWritten()
	switch {
	case lost:
		return c.cause()
	case w == nil:
		return nil
	}
	defer q.leave(w, c.first.send)
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	select {
	case <-w.ready:
		return nil
	default:
		return c.stopped(ctx)
	}
}

package wsguard

import "context"

type queued struct {
	typ MessageType
	msg []byte
}

// The bounds of a connection's Send queue.
const (
	maxQueue      = 256
	maxQueueBytes = 1 << 20
)

// Send queues a message and never blocks. The message is not copied: it must not
// be changed, and may be sent to many connections. A queue that is full (256
// messages, 1 MiB) ends the connection with 1008 queue_full.
func (c *Conn) Send(typ MessageType, msg []byte) error {
	if typ != MessageText && typ != MessageBinary {
		return errMessageType(typ)
	}
	if c.w.Cause() != nil {
		return c.closed()
	}
	c.sendMu.Lock()
	if len(c.queue) > 0 && (len(c.queue) >= maxQueue || c.queued+len(msg) > maxQueueBytes) {
		c.sendMu.Unlock()
		return c.end(ErrQueueFull, "")
	}
	c.queue = append(c.queue, queued{typ, msg})
	c.queued += len(msg)
	start := !c.sending
	c.sending = true
	c.sendMu.Unlock()
	if start {
		go c.drain()
	}
	return nil
}

// drain writes until the queue is empty. A message counts until it is written.
func (c *Conn) drain() {
	for {
		c.sendMu.Lock()
		if len(c.queue) == 0 {
			c.queue, c.sending = nil, false
			c.sendMu.Unlock()
			return
		}
		next := c.queue[0]
		c.sendMu.Unlock()
		err := c.Write(context.Background(), next.typ, next.msg)
		c.sendMu.Lock()
		if err != nil {
			c.queue, c.queued, c.sending = nil, 0, false
			c.sendMu.Unlock()
			return
		}
		if len(c.queue) > 0 { // else the end has emptied it
			c.queue[0] = queued{}
			c.queue = c.queue[1:]
			c.queued -= len(next.msg)
		}
		c.sendMu.Unlock()
	}
}

package wire

import (
	"net"
)

// Source is a queue of frames that the application has sent. The engine calls Next and Wrote
// in turn while it is the writer, so at most one batch of a Source is under way.
type Source interface {
	// Next returns some whole frames, one behind the other. It returns nothing if the
	// queue is empty. The bytes must not change until Wrote is called. The slice of slices is
	// the engine's until then.
	Next() net.Buffers

	// Rest returns how many bytes are missing until a frame ends, once n bytes of what Next
	// returned have left.
	Rest(n int64) int64

	// Wrote says that the first n bytes of what Next returned have left, and that the engine
	// holds none of them any more. It reports whether these bytes end where a frame ends.
	Wrote(n int64) (whole bool)
}

// WriteFrames writes one batch of src and returns when the kernel has all of it. It must be
// called again until src is empty. Between two batches other writers have their turn. After a
// *WriteError the caller must end the connection.
func (c *Conn) WriteFrames(src Source) error {
	if !c.tryLockWriter() && !c.awaitWriter() {
		return ErrClosing
	}
	defer c.unlockWriter()
	c.inBatch.Store(true)
	defer c.inBatch.Store(false)
	if c.broken {
		return c.cannotWrite()
	}
	start := c.now()
	if err := c.armWrite(start); err != nil {
		return err
	}
	n, err := c.writeBatch(src, true)
	c.endWrite(err == nil)
	if n > 0 {
		c.lastApp.Store(int64(start))
		c.lastMessage.Store(int64(start))
	}
	if err == nil {
		return nil
	}
	if c.Cause() != nil {
		return ErrClosing
	}
	return c.failWrite(err, false)
}

// awaitWriter makes the caller the writer when the lock is free. It returns false if the connection
// ends first.
func (c *Conn) awaitWriter() bool {
	select {
	case c.wlock <- struct{}{}:
		return true
	case <-c.closing:
		return false
	}
}

// flush writes all of src, within the grace. A frame that does not get out is broken off.
func (c *Conn) flush(src Source) {
	for c.until(c.graceBy) > 0 {
		n, err := c.writeBatch(src, false)
		if n == 0 || err != nil {
			return
		}
	}
}

// writeBatch writes one batch of src, and returns how many bytes have left. That is 0 if src is
// empty. With resume it continues after a timeout as long as the write timeout has not passed.
func (c *Conn) writeBatch(src Source, resume bool) (n int64, err error) {
	b := src.Next()
	if len(b) == 0 {
		return 0, nil
	}
	returned := false
	c.src, c.gone = src, 0
	defer func() {
		c.src = nil
		if !returned {
			src.Wrote(0)
		}
	}()
	c.broken = true // in case the net.Conn panics
	if len(b) == 1 {
		c.wbufs = b // without the stack that pushFrames needs, because many of these goroutines are short
		sent, failed := c.put(resume)
		n, err = int64(sent), failed
	} else {
		n, err = c.pushFrames(b, resume)
	}
	returned = true
	whole := src.Wrote(n)
	// Over TLS the engine cannot know which bytes have left.
	c.broken = !whole || err != nil && err != ErrClosing && !c.resumes
	return n, err
}

// pushFrames writes b. A socket gets all of it with one system call. Any other net.Conn gets small
// frames together, because over TLS each Write makes a record.
func (c *Conn) pushFrames(b net.Buffers, resume bool) (sent int64, err error) {
	scratch := buffers.get()
	defer buffers.put(scratch)
	for len(b) > 0 && err == nil {
		k, n := 1, len(b[0])
		for ; k < len(b) && n+len(b[k]) <= len(scratch); k++ {
			n += len(b[k])
		}
		switch {
		case k > 1 && (k == len(b) || !c.resumes):
			c.wvec[0] = scratch[:0]
			for _, p := range b[:k] {
				c.wvec[0] = append(c.wvec[0], p...)
			}
			c.wbufs = c.wvec[:1]
		case c.resumes:
			c.wbufs, k = b, len(b)
		default:
			c.wbufs = b[:1]
		}
		b = b[k:]
		n, err = c.put(resume)
		sent += int64(n)
		c.gone = sent
		if c.ending.Load() && err == nil && len(b) > 0 {
			c.wbufs = b
			if !c.trim(0) {
				err = ErrClosing
			}
			b, c.wbufs = c.wbufs, nil
		}
	}
	return sent, err
}

// trim cuts wbufs where the frame that is under way ends, if the connection has ended and drops
// what is queued. It reports whether there is anything left to write. sent is how many bytes put
// has written.
func (c *Conn) trim(sent int) bool {
	c.mu.Lock()
	drops := c.cause != nil && c.drops
	c.mu.Unlock()
	if !drops {
		return true
	}
	left := c.src.Rest(c.gone + int64(sent))
	for i, p := range c.wbufs {
		if left <= int64(len(p)) {
			c.wbufs[i] = p[:left]
			if left > 0 {
				i++
			}
			c.wbufs = c.wbufs[:i]
			break
		}
		left -= int64(len(p))
	}
	return len(c.wbufs) > 0
}

// HeaderBytes is how long the header of a server's frame may be.
const HeaderBytes = 10

// HeaderLen is how long the header of a frame of n bytes is.
func HeaderLen(n int) int {
	switch {
	case n < 126:
		return 2
	case n <= 0xffff:
		return 4
	}
	return 10
}

// AppendHeader appends the header of a frame that is a whole message of n bytes.
func AppendHeader(dst []byte, op byte, n int) []byte { return appendHeader(dst, op, n) }

// FrameCount counts the whole frames in the bytes that a server sends. Its zero value is at the
// beginning of a frame.
type FrameCount struct {
	Frames  int64
	Payload int64 // the payload bytes of these frames

	head  [HeaderBytes]byte
	have  int   // bytes of the header of the current frame
	size  int64 // its payload
	still int64 // what is missing of that
}

// Add counts p, which continues what was added before.
func (f *FrameCount) Add(p []byte) {
	for len(p) > 0 {
		if f.still == 0 {
			f.head[f.have] = p[0]
			f.have++
			p = p[1:]
			h, n, _ := parseServerHeader(f.head[:f.have], false) // a frame of ours is legal
			if n == 0 {
				continue
			}
			f.size = h.length
			if f.still = f.size; f.still > 0 {
				continue
			}
		} else {
			n := min(f.still, int64(len(p)))
			p = p[n:]
			if f.still -= n; f.still > 0 {
				return
			}
		}
		f.Frames++
		f.Payload += f.size
		f.have = 0
	}
}

// Missing returns how many bytes of the payload are missing until the current frame ends. It is
// 0 in a header.
func (f *FrameCount) Missing() int64 { return f.still }

// Whole reports whether the bytes end where a frame ends.
func (f *FrameCount) Whole() bool { return f.have == 0 }

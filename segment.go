package wsguard

import (
	"strings"
	"sync"

	"github.com/wsguard/wsguard/internal/wire"
)

// This file has the memory of a queue. A small frame is copied into chunks, and may continue in
// the next chunk. A large frame and one of SendLatest have memory of their own. A prepared frame
// is shared. The queue is a list of segments, which say where the frames lie.
//
// All functions here need queue.mu, except those of message. They change what the queue holds,
// and not what it counts: put and Wrote do that. Only free changes weight, for a prepared frame.

// chunkBytes is the room of a chunk. A frame that is longer has memory of its own.
const chunkBytes = chunkCost - 8

// A message costs more than its payload. These constants are what MaxTotalBytes counts.
const (
	chunkCost   = 4096
	segmentCost = 64
	ownCost     = 256 // an own, and its place in the map of SendLatest
)

// chunk is memory for small frames. They lie one behind the other, and a frame may continue in
// the next chunk. The queue that has it owns it.
type chunk struct {
	runs int32 // how many segments lie in it
	used int32
	b    [chunkBytes]byte
}

// segment is a part of a queue. The holder of queue.mu owns it. The bytes of data do not change
// once they are there.
type segment struct {
	next     *segment
	data     []byte    // what has not been written
	open     int       // how many bytes at the end of data are the beginning of a frame that the next segment completes
	chunk    *chunk    // nil: data is the frame of prepared or own
	prepared *Prepared // nil: none
	own      *own      // nil: none
}

// own is a frame with memory of its own: a large one, or one of SendLatest. The holder of
// queue.mu owns it.
type own struct {
	frame   []byte
	payload int64
	cost    int64    // what MaxTotalBytes counts
	key     string   // SendLatest may replace it under that key; "": it may not, or no more
	at      *segment // its segment
}

var (
	chunks   = sync.Pool{New: func() any { return new(chunk) }}
	segments = sync.Pool{New: func() any { return new(segment) }}
)

// own reports whether m gets memory of its own.
func (m *message) own() bool { return m.key != "" || m.frame > chunkBytes }

// most returns how much memory m may need at most.
func (m *message) most() int64 {
	return max(2*segmentCost+chunkCost, segmentCost+ownCost+int64(len(m.key)+m.frame))
}

// need returns how much memory m needs in the queue, without a prepared frame. old is the message
// that it replaces.
func (q *queue) need(m *message, old *own) int64 {
	switch {
	case old != nil && m.frame <= cap(old.frame):
		return 0
	case old != nil:
		return int64(m.frame - cap(old.frame))
	case m.prepared != nil:
		return segmentCost
	case m.own():
		return int64(segmentCost + ownCost + len(m.key) + m.frame)
	}
	return q.chunkNeed(m.frame)
}

// chunkNeed returns how much memory a frame of n bytes, at most chunkBytes, needs in chunks.
func (q *queue) chunkNeed(n int) (cost int64) {
	room := 0
	if q.fill != nil {
		room = chunkBytes - int(q.fill.used)
	}
	if room > 0 && q.tail.chunk != q.fill {
		cost += segmentCost
	}
	if n > room {
		cost += segmentCost + chunkCost
	}
	return cost
}

// push appends a segment.
func (q *queue) push(s segment) *segment {
	p := segments.Get().(*segment)
	*p = s
	if q.tail == nil {
		q.head = p
	} else {
		q.tail.next = p
	}
	q.tail = p
	return p
}

// copyFrame copies the frame of m into chunks.
func (q *queue) copyFrame(m *message) {
	var buf [wire.HeaderBytes]byte
	head := wire.AppendHeader(buf[:0], m.op, len(m.payload))
	q.copyBytes(head, 0)
	q.copyBytes(m.payload, len(head))
}

// copyBytes copies a part of a frame into chunks. before is how many bytes of the frame are
// there already.
func (q *queue) copyBytes(b []byte, before int) {
	for len(b) > 0 {
		f := q.fill
		if f == nil || f.used == chunkBytes {
			if before > 0 {
				q.tail.open = before
			}
			f = chunks.Get().(*chunk)
			f.runs, f.used = 0, 0
			q.fill = f
		}
		s := q.tail
		if s == nil || s.chunk != f {
			f.runs++
			s = q.push(segment{chunk: f, data: f.b[f.used:f.used]})
		}
		n := min(len(b), chunkBytes-int(f.used))
		s.data = append(s.data, b[:n]...) // in the chunk, because s is its last run
		f.used += int32(n)
		b, before = b[n:], before+n
	}
}

// set puts the frame of m into o. cost is how much more memory that needs.
func (o *own) set(m *message, cost int64) {
	if m.frame > cap(o.frame) {
		o.frame = make([]byte, 0, m.frame)
	}
	o.frame = append(wire.AppendHeader(o.frame[:0], m.op, len(m.payload)), m.payload...)
	o.payload = int64(len(m.payload))
	o.cost += cost
	o.at.data = o.frame
}

// list lets SendLatest replace o.
func (q *queue) list(o *own, key string) {
	if q.latest == nil {
		q.latest = map[string]*own{}
	}
	o.key = strings.Clone(key) // it may be a part of something long
	q.latest[o.key] = o
}

// unlist keeps SendLatest from replacing o.
func (q *queue) unlist(o *own) {
	if o.key == "" {
		return
	}
	delete(q.latest, o.key)
	o.key = ""
	if len(q.latest) == 0 {
		q.latest = nil
	}
}

// pop removes n bytes from the front of the queue, which have been written. It returns what
// they were, and how much memory they held.
func (q *queue) pop(n int64) (f wire.FrameCount, freed int64) {
	for n > 0 {
		s := q.head
		k := min(n, int64(len(s.data)))
		f.Add(s.data[:k])
		s.data = s.data[k:]
		n -= k
		if len(s.data) > 0 {
			break
		}
		if q.head = s.next; q.head == nil {
			q.tail = nil
		}
		freed += q.free(s)
	}
	return f, freed
}

// free gives the memory of a segment back, and returns how much of queues.total that is.
func (q *queue) free(s *segment) (freed int64) {
	freed = segmentCost
	switch {
	case s.prepared != nil:
		q.weight.Add(-int64(len(s.prepared.frame)))
		s.prepared.release()
	case s.own != nil:
		q.unlist(s.own)
		freed += s.own.cost
	default:
		if s.chunk.runs--; s.chunk.runs == 0 {
			if q.fill == s.chunk {
				q.fill = nil
			}
			freed += chunkCost
			chunks.Put(s.chunk)
		}
	}
	*s = segment{}
	segments.Put(s)
	return freed
}

// freeAll frees the segments behind last, or all of them if last is nil.
func (q *queue) freeAll(last *segment) (freed int64) {
	s := q.head
	if last != nil {
		s, last.next = last.next, nil
	} else {
		q.head = nil
	}
	q.tail = last
	for s != nil {
		next := s.next
		freed += q.free(s)
		s = next
	}
	return freed
}

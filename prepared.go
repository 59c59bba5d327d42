package wsguard

import (
	"sync/atomic"

	"github.com/wsguard/wsguard/internal/wire"
)

// Prepared is a message for many connections. [Guard.Prepare] makes one, and [Conn.SendPrepared]
// sends it. It is checked and encoded once, and all queues share its memory. It is safe for
// concurrent use, and needs no Close.
type Prepared struct {
	g       *Guard      // read-only
	typ     MessageType // read-only
	frame   []byte      // read-only
	payload []byte      // read-only: the end of frame

	judged atomic.Pointer[endpointPolicy] // the policy whose Outbound has passed it last
	queued atomic.Int64                   // in how many places of queues it is
}

// Prepare returns a message that can be sent to many connections of the Guard with
// [Conn.SendPrepared]. It copies msg, so the caller may change it afterwards.
//
// Prepare refuses the messages that [Conn.Write] refuses, with the same errors. It judges msg with
// the Messages.Outbound of the Guard's first endpoint.
func (g *Guard) Prepare(typ MessageType, msg []byte) (*Prepared, error) {
	return g.endpoint.Prepare(typ, msg)
}

// Prepare is like [Guard.Prepare] with the Messages.Outbound of this endpoint.
func (e *Endpoint) Prepare(typ MessageType, msg []byte) (*Prepared, error) {
	if err := wellFormed(typ, msg); err != nil {
		return nil, err
	}
	head := wire.HeaderLen(len(msg))
	p := &Prepared{g: e.g, typ: typ, frame: make([]byte, 0, head+len(msg))}
	p.frame = append(wire.AppendHeader(p.frame, opcode(typ), len(msg)), msg...)
	p.payload = p.frame[head:len(p.frame):len(p.frame)]
	policy := e.policy()
	if v := policy.messages.Outbound; v != nil {
		if err := validate(v, p.payload); err != nil {
			return nil, outboundObjection(v, p.payload, err).outbound()
		}
	}
	p.judged.Store(policy)
	return p, nil
}

// prepared judges p, unless the endpoint's policy is that which has passed it last.
func (c *Conn) prepared(p *Prepared) error {
	policy := c.e.policy()
	if policy.messages.Outbound == nil || p.judged.Load() == policy {
		return nil
	}
	if err := c.outbound(p.payload); err != nil {
		return err
	}
	p.judged.Store(policy)
	return nil
}

// reserve counts a further place in a queue, and takes n bytes of the memory of all queues. The
// first place takes the memory of the frame as well. If there is no room, reserve does nothing and
// returns false.
func (p *Prepared) reserve(n int64) bool {
	if p.share() {
		if p.g.reserve(n) {
			return true
		}
		p.release()
		return false
	}
	if !p.g.reserve(n + int64(len(p.frame))) {
		return false
	}
	p.hold()
	return true
}

// share counts a further place in a queue. It does nothing and returns false if there is none
// yet, because the memory of the frame is not reserved then.
func (p *Prepared) share() bool {
	for {
		n := p.queued.Load()
		if n == 0 {
			return false
		}
		if p.queued.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// hold counts a place in a queue. The caller has reserved the memory of the frame. If another
// call has done the same meanwhile, hold gives it back.
func (p *Prepared) hold() {
	if p.queued.Add(1) > 1 {
		p.g.queues.total.Add(-int64(len(p.frame)))
	}
}

// release undoes share or hold. The last one gives the memory of the frame back.
func (p *Prepared) release() {
	if p.queued.Add(-1) == 0 {
		p.g.queues.total.Add(-int64(len(p.frame)))
	}
}

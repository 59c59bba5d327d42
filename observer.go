package wsguard

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
)

// maxRecords is how many records may wait for the observer.
const maxRecords = 1024

// observer hands records to Config.Observer, on a goroutine that runs while records wait. So an
// observer that blocks or panics harms no connection.
type observer struct {
	call    func(context.Context, audit.Record) // read-only; nil: none
	dropped atomic.Uint64                       // the records that found no room

	mu      sync.Mutex      // no other lock is taken while it is held
	waiting []observed      // guarded by mu
	running bool            // guarded by mu: the goroutine runs
	idle    []chan struct{} // guarded by mu: closed when the goroutine has called the observer for all records
}

// observed is a record with the context of its request.
type observed struct {
	ctx    context.Context
	record audit.Record
}

// add leaves a record to the goroutine. It never blocks. There must be an observer.
func (o *observer) add(ctx context.Context, r audit.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) >= maxRecords {
		o.dropped.Add(1)
		return
	}
	o.waiting = append(o.waiting, observed{ctx, r})
	if !o.running {
		o.running = true
		go o.run()
	}
}

// run calls the observer until no record waits.
func (o *observer) run() {
	returned := false
	defer func() {
		if !returned { // the observer has ended the goroutine
			go o.run()
		}
	}()
	for {
		o.mu.Lock()
		if len(o.waiting) == 0 {
			o.waiting, o.running, returned = nil, false, true
			for _, done := range o.idle {
				close(done)
			}
			o.idle = nil
			o.mu.Unlock()
			return
		}
		next := o.waiting[0]
		o.waiting[0] = observed{} // it may keep a request
		o.waiting = o.waiting[1:]
		o.mu.Unlock()
		o.one(next)
		runtime.Gosched() // connections come first
	}
}

// one calls the observer, and recovers its panic.
func (o *observer) one(next observed) {
	defer func() { _ = recover() }()
	o.call(next.ctx, next.record)
}

// flushFor is how long flush waits at most, because an observer may block for ever.
const flushFor = time.Second

// flush waits until the observer has got all records, for at most flushFor, or until ctx ends.
func (o *observer) flush(ctx context.Context) {
	o.mu.Lock()
	if !o.running {
		o.mu.Unlock()
		return
	}
	done := make(chan struct{})
	o.idle = append(o.idle, done)
	o.mu.Unlock()
	t := time.NewTimer(flushFor)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
}

package server

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
)

// feed shows everybody on the page what the guards do. That is for this demo
// only: a page that people use keeps the events, with who did what, in the log
// and in the metrics of those who run it.
type feed struct {
	rooms  *rooms
	queue  chan event
	missed atomic.Uint64
}

// event is what of a audit.Event may be seen by all: no address, no detail.
type event struct {
	At      int64  `json:"at"`
	Guard   string `json:"guard"` // chat or lab
	Kind    string `json:"kind"`
	Subject string `json:"subject,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Number  int    `json:"number,omitempty"` // the HTTP status or the close code
	Count   int    `json:"count"`            // of the same in a row
}

const (
	feedQueue = 256
	feedEvery = 250 * time.Millisecond
	feedBatch = 32
)

func newFeed(r *rooms) *feed {
	return &feed{rooms: r, queue: make(chan event, feedQueue)}
}

// events is a Config.OnEvent. It is called on whatever goroutine it happens
// on, a reader's or a handshake's, and so it only queues: sending from here
// could block that goroutine, and a Send that ends a connection has an event
// of its own.
func (f *feed) events(guard string) func(audit.Event) {
	return func(e audit.Event) {
		number := e.Status
		if e.Kind == audit.Close {
			number = int(e.Code)
		}
		select {
		case f.queue <- event{e.Time.UnixMilli(), guard, string(e.Kind), e.Subject, e.Reason, number, 1}:
		default:
			f.missed.Add(1)
		}
	}
}

// run sends what has come, four times a second and the same thing once, so
// that one client's flood of refusals does not become a flood for the others.
func (f *feed) run(ctx context.Context) {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	var batch []event
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-f.queue:
			if n := len(batch); n > 0 && batch[n-1].same(e) {
				batch[n-1].Count++
			} else if n < feedBatch {
				batch = append(batch, e)
			} else {
				f.missed.Add(1)
			}
		case <-tick.C:
			if len(batch) > 0 {
				f.rooms.report(batch, f.missed.Swap(0))
				batch = nil
			}
		}
	}
}

func (e event) same(other event) bool {
	other.At, other.Count = e.At, e.Count
	return e == other
}

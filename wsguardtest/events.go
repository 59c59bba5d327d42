package wsguardtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard/audit"
)

// Events has the events of a Guard. Its methods fail the test, so call them on the goroutine of
// the test. Many goroutines may call Record and All at the same time.
type Events struct {
	t   testing.TB
	log *eventLog
}

// eventLog keeps what all Events of a test share.
type eventLog struct {
	mu     sync.Mutex // no other lock is taken while it is held
	events []audit.Event
	taken  map[audit.Kind]int // how many events of a kind Next has returned
	more   chan struct{}      // closed by the next event; nil while nobody waits
}

// NewEvents returns Events for a Guard that the test makes by itself. Set Config.OnEvent to its
// method Record. A Guard of [NewServer] or [NewServerFunc] has [Server.Events] already. If the
// test fails, its log has the events.
func NewEvents(t testing.TB) *Events {
	e := &Events{t, &eventLog{taken: map[audit.Kind]int{}}}
	t.Cleanup(func() {
		if events := e.String(); t.Failed() && events != "" {
			t.Logf("wsguardtest: the guard has reported:\n%s", events)
		}
	})
	return e
}

// Record adds an event. It is what Config.OnEvent calls.
func (e *Events) Record(ev audit.Event) {
	l := e.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, ev)
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

// All returns the events so far, in the order in which they were recorded.
func (e *Events) All() []audit.Event {
	e.log.mu.Lock()
	defer e.log.mu.Unlock()
	return slices.Clone(e.log.events)
}

// Next returns the first event of a kind that Next has not returned yet, and waits for it. The
// test fails if it does not come in time. The time is 10 s, or 24 hours in a bubble of
// testing/synctest.
func (e *Events) Next(kind audit.Kind) audit.Event {
	e.t.Helper()
	e.log.mu.Lock()
	skip := e.log.taken[kind]
	e.log.taken[kind]++
	e.log.mu.Unlock()
	ev, ok := e.wait(func(ev audit.Event) bool {
		if ev.Kind == kind {
			skip--
		}
		return skip < 0
	})
	if !ok {
		e.t.Fatalf("wsguardtest: no further event of the kind %q within %v", kind, patience(e.t))
	}
	return ev
}

// Find returns the first event for which match returns true, and waits for it as Next does. It
// returns the same event each time.
func (e *Events) Find(match func(audit.Event) bool) audit.Event {
	e.t.Helper()
	ev, ok := e.wait(match)
	if !ok {
		e.t.Fatalf("wsguardtest: no event that matches within %v", patience(e.t))
	}
	return ev
}

// wait returns the first event for which match returns true. It calls match once for each event,
// in their order.
func (e *Events) wait(match func(audit.Event) bool) (audit.Event, bool) {
	timer := time.NewTimer(patience(e.t))
	defer timer.Stop()
	for seen := 0; ; {
		events, more := e.log.since(seen)
		for _, ev := range events {
			if match(ev) {
				return ev, true
			}
		}
		seen += len(events)
		select {
		case <-more:
		case <-timer.C:
			return audit.Event{}, false
		}
	}
}

// since returns the events from the index n on. The next event after them closes more.
func (l *eventLog) since(n int) (events []audit.Event, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return slices.Clone(l.events[n:]), l.more
}

// maxPrinted is how many events String returns, and the log of a failed test has.
const maxPrinted = 50

// String returns a line for each of the last 50 events.
func (e *Events) String() string {
	var b strings.Builder
	all := e.All()
	if n := len(all) - maxPrinted; n > 0 {
		fmt.Fprintf(&b, "… %d events before\n", n)
		all = all[n:]
	}
	for i := range all {
		b.WriteString(line(&all[i]))
		b.WriteByte('\n')
	}
	return b.String()
}

// line returns the fields of an event that are set.
func line(ev *audit.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", ev.Time.Format("15:04:05.000"), ev.Kind)
	field := func(name string, value any, zero bool) {
		if !zero {
			fmt.Fprintf(&b, " %s=%v", name, value)
		}
	}
	field("reason", ev.Reason, ev.Reason == "")
	field("status", ev.Status, ev.Status == 0)
	field("code", int(ev.Code), ev.Code == 0)
	field("subject", ev.Subject, ev.Subject == "")
	field("conn", ev.ConnID, ev.ConnID == "")
	field("origin", ev.Origin, ev.Origin == "" || ev.Kind != audit.Refusal)
	field("report", ev.Report, !ev.Report)
	field("detail", fmt.Sprintf("%q", ev.Detail), ev.Detail == "")
	if ev.Stack != nil {
		fmt.Fprintf(&b, "\n%s", ev.Stack)
	}
	return b.String()
}

package wsguard_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
)

// opened waits for the next open event.
func (e *env) opened() audit.Event {
	e.t.Helper()
	return e.events.next(e.t, audit.Open)
}

// closed waits for the next close event.
func (e *env) closed() audit.Event {
	e.t.Helper()
	return e.events.next(e.t, audit.Close)
}

// ids are the connections that were opened, in this order.
func (e *env) ids() (ids []string) {
	for _, ev := range e.events.of(audit.Open) {
		ids = append(ids, ev.ConnID)
	}
	return ids
}

// kick ends all connections.
func (e *env) kick(code wsguard.StatusCode, why string) {
	for s := range e.g.Admin().Sessions() {
		e.g.Admin().Kick(s.ID, code, why)
	}
}

// wantEachOnce checks that each connection was reported open and then closed, once.
func (e *env) wantEachOnce() {
	e.t.Helper()
	opened, closed, order := map[string]int{}, map[string]int{}, 0
	for _, ev := range e.events.all() {
		switch ev.Kind {
		case audit.Open:
			opened[ev.ConnID]++
			if closed[ev.ConnID] > 0 {
				order++
			}
		case audit.Close:
			closed[ev.ConnID]++
		}
	}
	for id, n := range opened {
		if n != 1 || closed[id] != 1 {
			e.t.Errorf("%s: opened %d times, closed %d times", id, n, closed[id])
		}
	}
	if order > 0 {
		e.t.Errorf("%d connections were reported closed before they were reported open", order)
	}
}

// eventLog keeps events. Its methods may be called from any goroutine.
type eventLog struct {
	mu     sync.Mutex
	events []audit.Event
	byKind map[audit.Kind][]audit.Event // the same events; a slice only grows
	taken  map[audit.Kind]int           // how many events of a kind next has returned
	more   chan struct{}                // closed by the next event; nil while nobody waits
}

func (l *eventLog) add(e audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
	if l.byKind == nil {
		l.byKind = map[audit.Kind][]audit.Event{}
	}
	l.byKind[e.Kind] = append(l.byKind[e.Kind], e)
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

func (l *eventLog) all() []audit.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// of returns the events of a kind. The caller does not change them, because they are no copy: a test
// of many events would spend its time on copies.
func (l *eventLog) of(kind audit.Kind) []audit.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clip(l.byKind[kind])
}

// wait returns the nth event of a kind, counted from 1, when it has come.
func (l *eventLog) wait(t testing.TB, kind audit.Kind, n int) audit.Event {
	t.Helper()
	for timeout := time.After(patience()); ; {
		l.mu.Lock()
		if events := l.byKind[kind]; n <= len(events) {
			l.mu.Unlock()
			return events[n-1]
		}
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more := l.more
		l.mu.Unlock()
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no event %d of kind %v; events:\n%s", n, kind, l)
		}
	}
}

// next waits for the first event of a kind that it has not yet returned.
func (l *eventLog) next(t testing.TB, kind audit.Kind) audit.Event {
	t.Helper()
	l.mu.Lock()
	if l.taken == nil {
		l.taken = map[audit.Kind]int{}
	}
	l.taken[kind]++
	n := l.taken[kind]
	l.mu.Unlock()
	return l.wait(t, kind, n)
}

// skip makes next wait for an event of a kind that is still to come.
func (l *eventLog) skip(kind audit.Kind) {
	n := len(l.of(kind))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken == nil {
		l.taken = map[audit.Kind]int{}
	}
	l.taken[kind] = n
}

func (l *eventLog) String() string {
	var b strings.Builder
	all := l.all()
	for _, e := range all[max(0, len(all)-6):] {
		fmt.Fprintf(&b, "%v %d %s %q, client %s, subject %s\n", e.Kind, e.Status, e.Reason, e.Detail, e.Client, e.Subject)
	}
	return b.String()
}

// renderEvent is everything that a hook could put somewhere.
func renderEvent(e audit.Event) string {
	return fmt.Sprintf("%v id=%s subject=%s client=%s origin=%s host=%s reason=%s detail=%s status=%d code=%d err=%v %+v",
		e.Kind, e.ConnID, e.Subject, e.Client, e.Origin, e.Host, e.Reason, e.Detail, e.Status, e.Code, e.Err, e)
}

package wsguard

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/topk"
)

const (
	offenderCounters = 64              // for each sort of events
	offenderHalfLife = 2 * time.Minute // after this time an event counts half
	shownInEvent     = 5
	shownInActivity  = 50
)

// offending has the clients that were refused most and have opened most connections lately. The
// tokens of the reasons come from meter.count, so there are few.
type offending struct {
	mu    sync.Mutex                          // no other lock is taken while it is held
	sorts map[offence]*topk.Sketch[clientKey] // guarded by mu; a Sketch has a lock of its own
}

// offence is a sort of events, as audit.Offender names it.
type offence struct{ of, reason string }

// add counts an event that a client has caused.
func (o *offending) add(of, reason string, who clientKey) {
	o.mu.Lock()
	sketch := o.sorts[offence{of, reason}]
	if sketch == nil {
		if o.sorts == nil {
			o.sorts = map[offence]*topk.Sketch[clientKey]{}
		}
		sketch = topk.New[clientKey](offenderCounters, offenderHalfLife)
		o.sorts[offence{of, reason}] = sketch
	}
	o.mu.Unlock()
	sketch.Add(time.Now(), who, 1)
}

// of returns the most clients that have caused the events of a sort. With an empty reason it
// returns those of all reasons together.
func (o *offending) of(now time.Time, of, reason string, most int) []audit.Offender {
	counts := map[clientKey]float64{}
	for sort, sketch := range o.all() {
		if sort.of != of || reason != "" && sort.reason != reason {
			continue
		}
		for _, e := range sketch.Top(now, offenderCounters) {
			counts[e.Key] += e.AtLeast()
		}
	}
	return heaviest(counts, of, reason, most)
}

// all returns the sketches of all sorts.
func (o *offending) all() map[offence]*topk.Sketch[clientKey] {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.sorts)
}

// heaviest returns the clients with the largest counts.
func heaviest(counts map[clientKey]float64, of, reason string, most int) (all []audit.Offender) {
	for key, n := range counts {
		if n = math.Round(n); n >= 1 {
			all = append(all, audit.Offender{Client: key.String(), Of: of, Reason: reason, Count: uint64(n)})
		}
	}
	return first(all, most)
}

// first returns the most offenders with the largest counts.
func first(all []audit.Offender, most int) []audit.Offender {
	slices.SortFunc(all, func(a, b audit.Offender) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Of, b.Of), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Clip(all[:min(len(all), most)])
}

// offenders returns the clients that have caused most events of any sort lately.
func (s *spikes) offenders(now time.Time) (all []audit.Offender) {
	for sort := range s.offending.all() {
		all = append(all, s.offending.of(now, sort.of, sort.reason, shownInActivity)...)
	}
	return first(all, shownInActivity)
}

// senders returns the clients whose connections have sent most since the last tick. The caller
// holds mu of s.
func (s *spikes) senders(of string) []audit.Offender {
	counts := map[clientKey]float64{}
	for _, c := range s.g.sessions.open() {
		n := c.reading.messages.Load() - c.ticked.messages
		if of == ofBytes {
			n = c.reading.bytes.Load() - c.ticked.bytes
		}
		counts[c.client.key()] += float64(n)
	}
	return heaviest(counts, of, "", shownInEvent)
}

// note remembers what each connection has sent, for the next tick. The caller holds mu of s.
func (s *spikes) note() {
	for _, c := range s.g.sessions.open() {
		c.ticked.messages, c.ticked.bytes = c.reading.messages.Load(), c.reading.bytes.Load()
	}
}

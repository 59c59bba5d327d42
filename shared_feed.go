package wsguard

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/store"
)

// How a feed uses its store.
const (
	firstCopyWithin = 2 * time.Second        // how long New waits for the first copies
	confirmWithin   = 5 * time.Second        // MarksFailClosed refuses when the copy is older
	newsWait        = 2 * time.Second        // how long News waits; a copy must be confirmed more often than confirmWithin
	clockEvery      = 10 * time.Second       // how often the store's clock is read
	storeRetry      = 500 * time.Millisecond // the pause after a failed call, before jitter
	setWithin       = 5 * time.Second        // how long a mark may take until it is set
	durableWithin   = 50 * time.Millisecond  // how long a method of Admin waits until its mark is durable
	marksWithin     = time.Second            // how long the last Guard waits for marks to be set
	clockGrain      = time.Millisecond       // what the clocks of a store and of this machine differ by at least

	// keepUndone is how long the store keeps the mark of a Restore or a Lift. An instance that
	// has read no news for longer may bring the revocation or the ban back.
	keepUndone = 24 * time.Hour
	longestAge = 24 * time.Hour // how long before it was set a mark can have happened
)

// markValue is the value of a mark in the store. A mark says what has happened to its key last.
type markValue struct {
	From     string `json:"from"`               // shared.id of the instance that has set it
	Age      int64  `json:"age,omitempty"`      // how long before Mark.At it has happened, in microseconds
	At       int64  `json:"at,omitempty"`       // when it has happened, in place of Age, in microseconds since 1970
	Operator string `json:"operator,omitempty"` // Admin.By
	Undone   bool   `json:"undone,omitempty"`   // the revocation was restored, or the ban lifted
	Revoked  int64  `json:"revoked,omitempty"`  // when a revocation was made that is undone, as At
	Reason   string `json:"reason,omitempty"`   // of a ban
	Strikes  int    `json:"strikes,omitempty"`  // of a ban
	ByHand   bool   `json:"by_hand,omitempty"`  // the ban is by Admin.Ban
	For      int64  `json:"for,omitempty"`      // how long a ban, or the tickets of an undone revocation, last, in milliseconds
	Code     int    `json:"code,omitempty"`     // of a kick
	Text     string `json:"text,omitempty"`     // of a kick
}

// lasts returns For.
func (v *markValue) lasts() time.Duration {
	return time.Duration(min(max(v.For, 0), math.MaxInt64/4/int64(time.Millisecond))) * time.Millisecond
}

// happened is a mark as this instance understands it.
type happened struct {
	at    time.Time // by the clock of the store
	until time.Time // the end of the mark, by the clock of the store; zero: never
	value markValue
}

func (h happened) over(now time.Time) bool { return !h.until.IsZero() && !now.Before(h.until) }

// feed keeps the copy of a store.Marks up to date, and sets the marks of this instance in it. Of
// two things that have happened to a key, the later one counts. So each instance comes to the
// same copy, in whatever order the marks are set.
type feed struct {
	// Read-only after newFeed.
	sh     *shared
	name   string // begins the names of the calls
	marks  store.Marks
	lasts  func(key string) bool                                // the mark of a key says what holds, and is no message to the instances
	apply  func(key string, h happened, own, fresh bool) func() // called with mu held; see take
	first  chan struct{}                                        // closed when the first copy is complete
	wake   chan struct{}                                        // has a value if the writer has to look at the queue
	broken atomic.Bool                                          // a mark that cannot be read was reported
	full   atomic.Bool                                          // a store that is full was reported

	clock     atomic.Pointer[storeClock] // nil until the first copy is under way
	confirmed atomic.Int64               // when the copy was known to be complete last, since sh.born
	complete  atomic.Bool                // first is closed

	mu      sync.Mutex          // the locks of the parts of the State may be taken while it is held
	known   map[string]happened // guarded by mu: the copy
	tidyAt  int                 // guarded by mu: the number of entries of known at which those that are over are dropped
	waiting map[string]*unset   // guarded by mu: what the store does not have yet
	queue   []*unset            // guarded by mu: the same in its order, and entries that were replaced
}

func newFeed(sh *shared, name string, marks store.Marks) *feed {
	return &feed{
		sh: sh, name: name, marks: marks, lasts: func(string) bool { return true },
		first: make(chan struct{}), wake: make(chan struct{}, 1),
		known: map[string]happened{}, tidyAt: 1024, waiting: map[string]*unset{},
	}
}

func (f *feed) start() {
	f.sh.running.Go(f.follow)
	f.sh.running.Go(f.write)
}

// follow reads the copy and then the news, until the shared ends. After a gap it reads the copy
// again.
func (f *feed) follow() {
	cursor, whole, gaps, wait := "", false, 0, newsWait
	for f.sh.ctx.Err() == nil {
		began := time.Now()
		err := f.readClock(began)
		moved := true
		switch {
		case err != nil:
		case whole:
			if cursor, moved, err = f.readNews(cursor, wait); err == nil {
				gaps, wait = 0, newsWait
			}
		default:
			cursor, err = f.readAll()
			whole = err == nil
		}
		switch {
		case errors.Is(err, store.ErrGap):
			whole = false
			if gaps++; gaps > 1 {
				f.sh.pause(storeRetry)
			}
		case err != nil:
			wait = 0 // the next news confirm the copy at once
			f.sh.pause(storeRetry)
		default:
			f.confirm()
			if !moved && time.Since(began) < newsWait/2 {
				f.sh.pause(storeRetry / 5) // the store does not wait for news
			}
		}
	}
}

// pause waits for about d, or until the shared ends.
func (sh *shared) pause(d time.Duration) {
	timer := time.NewTimer(jitter(d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-sh.ctx.Done():
	}
}

// confirm notes that the copy is complete.
func (f *feed) confirm() {
	f.confirmed.Store(int64(time.Since(f.sh.born)))
	if f.complete.CompareAndSwap(false, true) {
		close(f.first)
	}
}

// age returns how long ago the copy was known to be complete.
func (f *feed) age() time.Duration {
	return max(0, time.Since(f.sh.born)-time.Duration(f.confirmed.Load()))
}

// readAll reads the copy. The store may have forgotten marks that this instance knows, such as a
// Redis that was restarted. They are set again.
func (f *feed) readAll() (cursor string, err error) {
	var all []store.Mark
	cursor, err = callStore(f.sh, f.sh.ctx, f.name+"_all", func(ctx context.Context) (string, error) {
		return f.marks.All(ctx, func(m store.Mark) error {
			all = append(all, m)
			return f.sh.ctx.Err()
		})
	})
	if err != nil {
		return "", err
	}
	there := make(map[string]struct{}, len(all))
	for _, m := range all {
		there[m.Key] = struct{}{}
		f.take(m, false)
	}
	f.mu.Lock()
	now := f.storeNow(time.Now())
	for key, h := range f.known {
		if _, ok := there[key]; !ok && !h.over(now) {
			f.again(key, h)
		}
	}
	f.mu.Unlock()
	f.sh.recheck()
	return cursor, nil
}

// readNews waits for news and applies them. moved says that there were some.
func (f *feed) readNews(cursor string, wait time.Duration) (next string, moved bool, err error) {
	type page struct {
		news []store.Mark
		next string
	}
	p, err := callStore(f.sh, f.sh.ctx, f.name+"_news", func(ctx context.Context) (p page, err error) {
		p.news, p.next, err = f.marks.News(ctx, cursor, wait)
		return p, err
	})
	if err != nil {
		return cursor, false, err
	}
	for _, m := range p.news {
		f.take(m, true)
	}
	return p.next, len(p.news) > 0 && p.next != cursor, nil
}

// take takes a mark of the store into the copy and into the State. fresh says that it is news.
func (f *feed) take(m store.Mark, fresh bool) {
	h, err := f.read(m)
	if err != nil {
		if f.broken.CompareAndSwap(false, true) {
			f.sh.warn("mark_broken", "the store has a mark of "+f.name+" that cannot be read: "+errorText(err))
		}
		return
	}
	own := h.value.From == f.sh.id
	f.mu.Lock()
	e, waits := f.waiting[m.Key]
	if waits && !own && !e.at.IsZero() && !e.at.After(h.at) {
		f.drop(e) // another instance has set it again already, or what came afterwards
		waits = false
	}
	var act func()
	switch before, ok := f.known[m.Key]; {
	case !f.lasts(m.Key):
		act = f.apply(m.Key, h, own, fresh)
	case ok && before.at.After(h.at) && !before.over(f.storeNow(time.Now())):
		if !waits && !(before.value.Undone && h.value.Undone) {
			f.again(m.Key, before) // the store has what was replaced
		}
	case ok && before.at.Equal(h.at) && before.until.Equal(h.until) && before.value.Undone == h.value.Undone:
	default:
		f.know(m.Key, h)
		if !waits {
			act = f.apply(m.Key, h, own, fresh)
		}
	}
	f.mu.Unlock()
	if act != nil {
		act()
	}
}

// read reads the value of a mark.
func (f *feed) read(m store.Mark) (h happened, err error) {
	h = happened{at: m.At, until: m.Until}
	if m.Cleared {
		h.value.Undone, h.until = true, m.At.Add(keepUndone)
		return h, nil
	}
	if err := json.Unmarshal(m.Value, &h.value); err != nil {
		return h, errors.New("the value is no JSON of this package")
	}
	h.date(m.At)
	return h, nil
}

// date sets at, for a mark that was set at a time of the store's clock. It is never later.
func (h *happened) date(set time.Time) {
	h.at = set.Add(-time.Duration(min(max(h.value.Age, 0), longestAge.Microseconds())) * time.Microsecond)
	if at := time.UnixMicro(h.value.At); h.value.At > 0 && at.Before(h.at) {
		h.at = at
	}
}

// know notes what has happened to a key. The caller holds mu.
func (f *feed) know(key string, h happened) {
	f.known[key] = h
	if len(f.known) < f.tidyAt {
		return
	}
	now := f.storeNow(time.Now())
	for key, h := range f.known {
		if h.over(now) {
			delete(f.known, key)
		}
	}
	f.tidyAt = max(1024, 2*len(f.known))
}

// unset is a mark of this instance that the store does not have yet. The mu of its feed guards
// tries.
type unset struct {
	key   string
	value markValue
	made  time.Time     // when it has happened, by the local clock
	at    time.Time     // for a mark that the store has forgotten, when it has happened by the clock of the store; otherwise zero
	until time.Time     // when the mark ends, by the local clock; zero: never
	done  chan struct{} // closed when the store has the mark, or when it is not needed any more
}

// set hands a mark over to the writer. It replaces one of the same key that waits. The returned
// channel is closed when the mark is durable.
func (f *feed) set(key string, v markValue, made, until time.Time) <-chan struct{} {
	v.From = f.sh.id
	e := &unset{key: key, value: v, made: made, until: until, done: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.enqueue(e)
	return e.done
}

// again sets a mark that the store has forgotten. The caller holds mu.
func (f *feed) again(key string, h happened) {
	if f.waiting[key] != nil {
		return
	}
	v := h.value
	v.From, v.Age, v.At = f.sh.id, 0, h.at.UnixMicro()
	e := &unset{key: key, value: v, at: h.at, done: make(chan struct{})}
	if !h.until.IsZero() {
		e.until = f.localTime(h.until)
	}
	f.enqueue(e)
}

// enqueue lists a mark. The caller holds mu.
func (f *feed) enqueue(e *unset) {
	if old := f.waiting[e.key]; old != nil {
		close(old.done)
	}
	f.waiting[e.key] = e
	f.queue = append(f.queue, e)
	f.poke()
}

// poke makes the writer look at the queue.
func (f *feed) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// drop removes a mark that waits. The caller holds mu.
func (f *feed) drop(e *unset) {
	if f.waiting[e.key] == e {
		delete(f.waiting, e.key)
		close(e.done)
	}
}

// next returns the mark that has waited for longest, or nil.
func (f *feed) next() *unset {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) > 0 && f.waiting[f.queue[0].key] != f.queue[0] {
		f.queue[0] = nil
		f.queue = f.queue[1:]
	}
	if len(f.queue) == 0 {
		f.queue = nil
		return nil
	}
	return f.queue[0]
}

// write sets the marks that wait, one after the other, until the shared ends.
func (f *feed) write() {
	for f.sh.ctx.Err() == nil {
		e := f.next()
		if e == nil {
			select {
			case <-f.wake:
			case <-f.sh.ctx.Done():
			}
			continue
		}
		err := f.writeOne(e)
		switch {
		case err == nil:
			continue
		case errors.Is(err, store.ErrInvalid):
			f.sh.warn("mark_refused", "the store refuses a mark of "+f.name+": "+errorText(err))
			f.mu.Lock()
			f.drop(e)
			f.mu.Unlock()
			continue
		case errors.Is(err, store.ErrFull) && f.full.CompareAndSwap(false, true):
			f.sh.warn("marks_full", "the store has no room for more "+f.name+": other instances do not know all of them")
		}
		if !outage(err) || errors.Is(err, errStorePanicked) {
			f.mu.Lock()
			f.queue = append(f.queue[1:], f.queue[0]) // the others may have more luck
			f.mu.Unlock()
		}
		f.sh.pause(storeRetry)
	}
}

// writeOne sets a mark.
func (f *feed) writeOne(e *unset) error {
	ttl := time.Duration(0)
	if !e.until.IsZero() {
		if ttl = time.Until(e.until); ttl < time.Millisecond {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.drop(e)
			return nil
		}
	}
	h := happened{value: e.value}
	if e.at.IsZero() {
		h.value.Age = max(0, time.Since(e.made).Microseconds())
	}
	value, _ := json.Marshal(h.value) // which cannot fail
	ctx, cancel := context.WithTimeout(f.sh.ctx, setWithin)
	defer cancel()
	m, err := callStore(f.sh, ctx, f.name+"_set", func(ctx context.Context) (store.Mark, error) {
		return f.marks.Set(ctx, e.key, value, ttl)
	})
	if err == nil {
		h.until = m.Until
		h.date(m.At)
		f.settle(e, h)
	}
	return err
}

// settle notes that the store has a mark, and since when.
func (f *feed) settle(e *unset, h happened) {
	f.mu.Lock()
	if f.waiting[e.key] != e { // something has happened since
		f.mu.Unlock()
		return
	}
	delete(f.waiting, e.key)
	defer close(e.done)
	var act func()
	before, ok := f.known[e.key]
	switch {
	case !f.lasts(e.key):
	case ok && before.at.After(h.at) && !before.over(f.storeNow(time.Now())):
		act = f.apply(e.key, before, false, true)
		f.again(e.key, before)
	default:
		f.know(e.key, h)
		act = f.apply(e.key, h, true, true)
	}
	f.mu.Unlock()
	if act != nil {
		act()
	}
}

// flush waits until nothing waits, or until over is closed.
func (f *feed) flush(over <-chan struct{}) {
	f.mu.Lock()
	var left []*unset
	for _, e := range f.waiting {
		left = append(left, e)
	}
	f.mu.Unlock()
	for _, e := range left {
		select {
		case <-e.done:
		case <-over:
			return
		}
	}
}

// has reports whether something has happened to a key.
func (f *feed) has(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, known := f.known[key]
	return known || f.waiting[key] != nil
}

// unsetMarks returns how many marks wait.
func (f *feed) unsetMarks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

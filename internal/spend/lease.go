package spend

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/wsguard/wsguard/store"
)

const (
	// Patience is for how long a message may wait for tokens.
	Patience = 50 * time.Millisecond

	// Life is for how long tokens may be spent after they were taken. The bucket that they come
	// from has refilled by then, so that old tokens must not come on top of it.
	Life = 500 * time.Millisecond

	horizon = 250 * time.Millisecond // a refill brings what is spent within it
	slow    = 20                     // tokens per second; below that rate a batch is one token
	worth   = 4                      // so many messages within one refill's time are worth a refill in advance
	soon    = 40 * time.Millisecond  // between two refills of an empty bucket while no message is refused; less than Patience
	longest = Life                   // between two refills of an empty bucket while messages are refused
	retry   = 500 * time.Millisecond // after a call that has failed
	barred  = 5 * time.Second        // no refusal of the store is believed for longer
)

// Amount is a number of messages and a number of bytes.
type Amount [2]int64

// Limits has the limits of the two buckets of a key. The zero value has no limit.
type Limits [2]lane

// lane is the limit of a bucket.
type lane struct {
	limit store.Limit
	batch int64 // what a refill brings at most, unless a message needs more; 0: no limit
}

// NewLimits returns the limits of messages and of bytes. A zero Limit is no limit.
func NewLimits(messages, bytes store.Limit) Limits {
	var l Limits
	for i, limit := range []store.Limit{messages, bytes} {
		if limit == (store.Limit{}) {
			continue
		}
		batch := int64(1)
		if limit.PerSecond >= slow {
			batch = max(1, min(int64(limit.PerSecond*horizon.Seconds()), limit.Burst/4))
		}
		l[i] = lane{limit, batch}
	}
	return l
}

// Of returns n without what has no limit. Only that is spent.
func (l *Limits) Of(n Amount) Amount {
	for i := range n {
		if l[i].batch == 0 {
			n[i] = 0
		}
	}
	return n
}

// A handshake takes no more than these many tokens for the first messages of its connection.
const (
	firstMessages = 4
	firstBytes    = 4096
)

// First returns what a handshake should take for the first messages of its connection. It is
// nothing for rates that are so low that a token which nobody spends would be missed.
func (l *Limits) First() Amount {
	n := Amount{min(firstMessages, l[0].batch), min(firstBytes, l[1].batch)}
	for i := range l {
		if l[i].batch > 0 && l[i].batch < firstMessages {
			return Amount{}
		}
	}
	return n
}

// Take returns the take of n from the bucket of a lane.
func (l *Limits) Take(key string, lane int, n int64) store.Take {
	return store.Take{Key: Keys(key)[lane], Limit: l[lane].limit, Most: n}
}

// Verdict is the answer of a Lease to a message.
type Verdict int

const (
	Granted Verdict = iota // the tokens are spent
	Held                   // there are too few, and more may come within Patience
	Refused                // the message is over its rate
	Lost                   // the store does not answer, so others must decide
)

// Decision is a Verdict and what belongs to it.
type Decision struct {
	Verdict
	Wait time.Duration // Held: ask again after it, or when the Waiter is told; Refused: there may be tokens then
	Lane int           // Refused: the index in Amount of what there was too little of
}

// Waiter is told when the tokens that it waits for may have come. Resume must not block.
type Waiter interface{ Resume() }

// Patient says how a message can wait.
type Patient struct {
	For    time.Duration // for how long it may still wait
	Waiter Waiter        // nil: nobody is told
}

// Lease has the tokens that this instance has taken out of the two buckets of a key. All
// connections of the key spend from it. Pool.Acquire returns one.
type Lease struct {
	pool *Pool
	name string    // read-only
	keys [2]string // read-only: of the buckets in the store
	refs int       // guarded by Pool.mu

	mu      sync.Mutex // no other lock is taken while it is held
	clock   int64      // guarded by mu: the latest time that was seen, in nanoseconds of the Pool
	lots    [2]lot     // guarded by mu: the one that ends first comes first
	full    Amount     // guarded by mu: what there was after the last refill
	used    Amount     // guarded by mu: what was spent since the last refill was begun
	takes   int        // guarded by mu: by so many messages
	denied  bool       // guarded by mu: a message was refused since then
	flight  *flight    // guarded by mu: the refill that is under way; nil: none
	begun   int64      // guarded by mu: when the last refill was begun
	next    int64      // guarded by mu: no refill is begun before it
	pace    int64      // guarded by mu: the time between refills of an empty bucket; 0: it was not empty
	failing bool       // guarded by mu: the last call of the store has failed
	large   refusal    // guarded by mu: of a message that needs more than a batch
	waiters []Waiter   // guarded by mu: those that wait for the flight
}

// lot has the tokens of one refill.
type lot struct {
	left Amount
	end  int64 // they must be spent before it; 0: there is no lot
}

// refusal says that the store does not have so many tokens before a time.
type refusal struct {
	lane  int
	short int64
	until int64
}

// flight is a refill. It is read-only.
type flight struct {
	lim     Limits
	least   Amount
	most    Amount
	large   bool // for a message that needs more than a batch
	starved bool // messages were refused before it
}

// Take spends n, or nothing.
func (l *Lease) Take(n Amount, lim *Limits, now time.Time, p Patient) Decision {
	n = lim.Of(n)
	for i := range n {
		if n[i] > 0 && n[i] > lim[i].limit.Burst {
			return Decision{Refused, barred, i}
		}
	}
	l.mu.Lock()
	at := l.look(l.pool.at(now))
	var d Decision
	begun := false
	if short := l.missing(n); short == (Amount{}) {
		l.spend(n)
		begun = l.takes >= worth && l.low(lim) && l.flight == nil && !l.failing && at >= l.next && l.begin(Amount{}, Amount{}, lim)
	} else {
		d, begun = l.without(n, short, lim, p)
	}
	l.mu.Unlock()
	if begun {
		l.pool.start(l)
	}
	return d
}

// look sets the time, and drops what has ended. The caller holds mu.
func (l *Lease) look(at int64) int64 {
	l.clock = max(l.clock, at)
	for l.lots[0].end != 0 && l.lots[0].end <= l.clock {
		l.lots[0], l.lots[1] = l.lots[1], lot{}
	}
	return l.clock
}

// missing returns what there is too little of for n. The caller holds mu.
func (l *Lease) missing(n Amount) (short Amount) {
	for i := range n {
		short[i] = max(0, n[i]-l.lots[0].left[i]-l.lots[1].left[i])
	}
	return short
}

// spend spends n, which is there. The caller holds mu.
func (l *Lease) spend(n Amount) {
	for i := range n {
		first := min(n[i], l.lots[0].left[i])
		l.lots[0].left[i] -= first
		l.lots[1].left[i] -= n[i] - first
		l.used[i] += n[i]
	}
	l.takes++
}

// low reports whether a quarter or less is left of one of the two. The caller holds mu.
func (l *Lease) low(lim *Limits) bool {
	for i := range l.full {
		if lim[i].batch > 0 && 4*(l.lots[0].left[i]+l.lots[1].left[i]) <= l.full[i] {
			return true
		}
	}
	return false
}

// without decides about a message for which short is missing. The caller holds mu.
func (l *Lease) without(n, short Amount, lim *Limits, p Patient) (d Decision, begun bool) {
	d.Lane = lacks(short)
	switch {
	case l.failing:
		d.Verdict = Lost
		return d, l.flight == nil && l.clock >= l.next && l.begin(n, short, lim)
	case l.flight != nil:
		d.Wait = time.Duration(l.begun-l.clock) + Patience
		switch {
		case d.Wait <= 0:
			d.Verdict = Lost
			return d, false
		case p.For <= 0:
			d.Verdict = Refused
			return d, false
		}
		l.await(&d, p)
		return d, false
	}
	large := isLarge(short, lim)
	until := l.next
	if large && short[l.large.lane] >= l.large.short {
		until = max(until, l.large.until)
	}
	if d.Wait = time.Duration(until - l.clock); d.Wait > p.For || p.For <= 0 {
		l.denied = l.denied || !large
		d.Verdict, d.Wait = Refused, max(d.Wait, time.Millisecond)
		return d, false
	}
	if d.Wait > 0 {
		d.Verdict = Held
		return d, false
	}
	d.Wait = Patience
	l.await(&d, p)
	return d, l.begin(n, short, lim)
}

// await makes a message wait for the flight. The caller holds mu.
func (l *Lease) await(d *Decision, p Patient) {
	d.Verdict, d.Wait = Held, min(d.Wait, p.For)
	if p.Waiter != nil {
		l.waiters = append(l.waiters, p.Waiter)
	}
}

// lacks returns the lane in which something is missing.
func lacks(short Amount) int {
	if short[0] > 0 {
		return 0
	}
	return 1
}

// isLarge reports whether more is missing than a batch. Such a message gets all that is missing
// or nothing. Otherwise the tokens that it cannot use yet would end, again and again.
func isLarge(short Amount, lim *Limits) bool {
	return short[0] > lim[0].batch || short[1] > lim[1].batch
}

// begin begins a refill for a message that needs n, of which short is missing. Without a
// message, both are zero. It reports whether there is anything to take. The caller holds mu, and
// then calls Pool.start without it.
func (l *Lease) begin(n, short Amount, lim *Limits) bool {
	f := flight{lim: *lim, large: isLarge(short, lim), starved: l.denied}
	for i := range lim {
		if lim[i].batch == 0 {
			continue
		}
		f.most[i] = max(0, l.want(i, lim)-l.lots[0].left[i]-l.lots[1].left[i], short[i])
		f.least[i] = min(short[i], 1)
		if f.large {
			f.least[i] = short[i]
		}
	}
	if f.most == (Amount{}) {
		return false
	}
	l.flight, l.begun = &f, l.clock
	l.used, l.takes, l.denied = Amount{}, 0, false
	return true
}

// want returns how many tokens there should be after a refill: what was spent lately within
// horizon, but at most twice of what was spent since the last refill. So a key that sends little
// does not take tokens that nobody spends. The caller holds mu.
func (l *Lease) want(lane int, lim *Limits) int64 {
	if l.denied {
		return lim[lane].batch
	}
	factor := min(2, float64(horizon)/float64(max(1, l.clock-l.begun)))
	return min(int64(float64(l.used[lane])*factor), lim[lane].batch)
}

// Give puts back what Take has spent a moment ago. It drops tokens that have ended.
func (l *Lease) Give(n Amount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range n {
		l.used[i] = max(0, l.used[i]-n[i])
		if l.lots[0].end != 0 {
			l.lots[0].left[i] += n[i]
		}
	}
}

// Prepare begins a refill if n is not there.
func (l *Lease) Prepare(n Amount, lim *Limits, now time.Time) {
	n = lim.Of(n)
	l.mu.Lock()
	at := l.look(l.pool.at(now))
	short := l.missing(n)
	begun := short != (Amount{}) && l.flight == nil && !l.failing && at >= l.next && !isLarge(short, lim) && l.begin(n, short, lim)
	l.mu.Unlock()
	if begun {
		l.pool.start(l)
	}
}

// Renew forgets when the store will have tokens, because the limits have changed.
func (l *Lease) Renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.failing {
		l.next, l.pace, l.large = 0, 0, refusal{}
	}
}

// Probe asks the store although it is known not to answer. All leases of the Pool together do so
// only now and then.
func (l *Lease) Probe(n Amount, lim *Limits, now time.Time) {
	at := l.pool.at(now)
	due := l.pool.probeAt.Load()
	if at < due || !l.pool.probeAt.CompareAndSwap(due, at+jitter(retry)) {
		return
	}
	l.mu.Lock()
	l.look(at)
	begun := l.flight == nil && l.begin(n, Amount{min(n[0], 1), min(n[1], 1)}, lim)
	l.mu.Unlock()
	if begun {
		l.pool.start(l)
	}
}

// refill asks the store, and tells those that wait.
func (l *Lease) refill() {
	l.mu.Lock()
	f := l.flight
	l.mu.Unlock()
	var takes []store.Take
	var lanes []int
	for i := range f.most {
		if f.most[i] > 0 {
			takes = append(takes, store.Take{Key: l.keys[i], Limit: f.lim[i].limit, Least: f.least[i], Most: f.most[i]})
			lanes = append(lanes, i)
		}
	}
	asked := l.pool.at(time.Now())
	answer, err := l.pool.take(takes)
	if err == nil && answer.Refused == store.Admitted && len(answer.Taken) != len(takes) {
		err = errors.New("the store has not answered what it was asked")
	}
	l.mu.Lock()
	l.look(l.pool.at(time.Now()))
	switch {
	case err != nil:
		l.failed(err)
	case answer.Refused != store.Admitted:
		lane := 0
		if answer.Key == l.keys[1] {
			lane = 1
		}
		l.failing = false
		l.empty(f, lane, asked, min(answer.Wait, barred))
	default:
		var got Amount
		for i, lane := range lanes {
			got[lane] = max(0, min(answer.Taken[i], f.most[lane]))
		}
		l.failing = false
		l.arrived(f, got, asked)
	}
	l.landed()
}

// landed ends the flight, and tells those that wait for it. It unlocks mu, which the caller
// holds.
func (l *Lease) landed() {
	waiters := l.waiters
	l.flight, l.waiters = nil, nil
	l.mu.Unlock()
	for _, w := range waiters {
		w.Resume()
	}
}

// failed notes that the store has not answered. The caller holds mu.
func (l *Lease) failed(err error) {
	wait := retry
	var outage *store.OutageError
	if errors.As(err, &outage) && outage.RetryAfter > 0 {
		wait = min(outage.RetryAfter, barred)
	}
	l.failing, l.next = true, l.clock+jitter(wait)
}

// arrived adds what a refill has brought. The caller holds mu.
func (l *Lease) arrived(f *flight, got Amount, asked int64) {
	l.add(got, asked)
	delay := int64(0)
	for i := range got {
		if got[i] < f.most[i] {
			delay = max(delay, l.delay(f, i, got[i]))
		}
	}
	l.pace, l.next = delay, asked
	if delay > 0 {
		l.next += jitter(time.Duration(delay))
	}
}

// empty notes that a bucket had too little. wait is the time until there is enough. The caller
// holds mu.
func (l *Lease) empty(f *flight, lane int, asked int64, wait time.Duration) {
	if f.large {
		l.large = refusal{lane, f.least[lane], asked + int64(wait)}
		return
	}
	l.pace = l.delay(f, lane, 0)
	l.next = asked + max(jitter(time.Duration(l.pace)), int64(wait))
}

// delay returns how long the next refill must wait after one that has brought only got. While no
// message is refused, the delay is short, so that a message can wait for the refill. Otherwise the
// delay is so long that the next refill brings about three quarters of a batch. An instance does not
// know what other instances take. So the delay grows until refills bring that much. The caller
// holds mu.
func (l *Lease) delay(f *flight, lane int, got int64) int64 {
	good := max(1, f.lim[lane].batch*3/4)
	flows := min(float64(good)/f.lim[lane].limit.PerSecond*1e9, float64(barred))
	if !f.starved {
		return int64(min(flows, float64(soon)))
	}
	last := max(float64(l.pace), flows)
	d := last * min(2, float64(good)/float64(max(1, got)))
	return int64(min(max(d, flows), max(flows, float64(longest))))
}

// add adds tokens that were asked for at a time. The caller holds mu.
func (l *Lease) add(n Amount, asked int64) {
	a, b, end := &l.lots[0], &l.lots[1], asked+int64(Life)
	switch {
	case end <= l.clock || n == (Amount{}):
	case a.end == 0:
		*a = lot{n, end}
	case end < a.end: // a later call was quicker
		a.left, a.end = plus(a.left, n), end
	case b.end == 0:
		*b = lot{n, end}
	case end < b.end:
		a.left = plus(a.left, n)
	case a.left == (Amount{}):
		*a, *b = *b, lot{n, end}
	default:
		a.left = plus(a.left, b.left)
		*b = lot{n, end}
	}
	l.full = plus(l.lots[0].left, l.lots[1].left)
}

func plus(a, b Amount) Amount { return Amount{a[0] + b[0], a[1] + b[1]} }

// jitter returns d, or up to an eighth more or less, in nanoseconds.
func jitter(d time.Duration) int64 {
	return int64(d) - int64(d)/8 + rand.Int64N(max(1, int64(d)/4))
}

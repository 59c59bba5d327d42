package wsguard

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/spend"
	"github.com/wsguard/wsguard/store"
)

// spending has the leases of an instance on the buckets that instances share.
type spending struct {
	pool *spend.Pool

	local  atomic.Uint64 // messages that were judged without the store
	closed atomic.Uint64 // messages that were refused because of RatesFailClosed
	held   atomic.Uint64 // messages that have waited for tokens
}

// newSpending returns nil if instances do not share the rates of messages.
func newSpending(sh *shared) *spending {
	if sh.cfg.Rates == nil || sh.cfg.MessagesPerInstance {
		return nil
	}
	return &spending{pool: spend.NewPool(func(takes []store.Take) (store.Answer, error) {
		return sh.ask(sh.ctx, "rates_take", sh.timeout, store.Request{Takes: takes})
	}, &sh.running)}
}

// figures adds the figures of the messages to those of the stores.
func (s *spending) figures(to *audit.Shared) {
	if s == nil {
		return
	}
	to.LocalDecisions += s.local.Load()
	to.ClosedDecisions += s.closed.Load()
	to.HeldMessages += s.held.Load()
}

// close makes the leases ask the store no longer.
func (s *spending) close() {
	if s != nil {
		s.pool.Close()
	}
}

// spender is a client or a subject, as the store knows it.
type spender struct {
	key     string
	subject bool
}

func clientSpender(c client) spender { return spender{key: "client/" + c.key().text()} }

func subjectSpender(subject string) spender {
	return spender{key: "subject/" + shortName(subject), subject: true}
}

// limits returns the limits of cfg for a spender.
func (s spender) limits(cfg RateConfig) spend.Limits {
	if s.subject {
		return spend.NewLimits(cfg.SubjectMessages.leased(), cfg.SubjectBytes.leased())
	}
	return spend.NewLimits(cfg.ClientMessages.leased(), cfg.ClientBytes.leased())
}

// leased converts r for a store. Off is the zero Limit.
func (r Rate) leased() store.Limit {
	if r.off() {
		return store.Limit{}
	}
	return r.stored()
}

// firstTakes returns what a handshake should take for the first messages of its connection,
// beside what it asks for itself. They refuse nothing. credit must get what was taken.
func (sh *shared) firstTakes(of spender, cfg RateConfig) (takes []store.Take) {
	if sh == nil || sh.spending == nil {
		return nil
	}
	lim := of.limits(cfg)
	n, has := lim.First(), sh.spending.pool.Has(of.key)
	for lane := range n {
		if more := n[lane] - has[lane]; more > 0 {
			takes = append(takes, lim.Take(of.key, lane, more))
		}
	}
	return takes
}

// credit makes tokens that a handshake has taken with firstTakes ready for the connection. taken
// has as many numbers as takes. asked is when the call began. The tokens end half a second
// after that.
func (sh *shared) credit(of spender, takes []store.Take, taken []int64, asked time.Time) {
	if sh == nil || sh.spending == nil || len(takes) != len(taken) {
		return
	}
	var n spend.Amount
	for i, t := range takes {
		lane := 0
		if strings.HasPrefix(t.Key, "bytes/") {
			lane = 1
		}
		n[lane] += max(0, min(taken[i], t.Most))
	}
	sh.spending.pool.Credit(of.key, n, asked)
}

// leased is the lease of a bucket, as one connection uses it. The reader owns it.
type leased struct {
	sh    *shared      // read-only
	lease *spend.Lease // read-only
	lim   spend.Limits // read-only
	spent spend.Amount // what the message that is judged has spent of lease
}

// leases has what a connection must give back when it ends.
type leases struct {
	mu   sync.Mutex // no other lock is taken while it is held
	held []*leased  // guarded by mu
	over bool       // guarded by mu: the connection has ended
}

// lease gives the shared buckets of the connection their leases. It must be called after
// connRates.share.
func (in *inbound) lease(cfg RateConfig) {
	sh := in.c.g.shared
	if sh == nil || sh.spending == nil {
		return
	}
	if in.leases == nil {
		in.leases = &leases{}
	}
	var all []*leased
	for i := range in.rates.shared {
		b := &in.rates.shared[i]
		of := clientSpender(in.c.client)
		if b.names[0] == limitSubjectMessages {
			of = subjectSpender(in.c.Principal().Subject)
		}
		b.lease = &leased{sh: sh, lease: sh.spending.pool.Acquire(of.key), lim: of.limits(cfg)}
		all = append(all, b.lease)
	}
	in.leases.replace(sh, all)
}

// replace takes over new leases and gives up the old ones. It gives up the new ones too if the
// connection has ended.
func (l *leases) replace(sh *shared, all []*leased) {
	l.mu.Lock()
	old := l.held
	l.held = all
	if l.over {
		old, l.held = append(old, all...), nil
	}
	l.mu.Unlock()
	for _, a := range all {
		for _, b := range old {
			if a.lease == b.lease && a.lim != b.lim {
				a.lease.Renew()
			}
		}
	}
	for _, b := range old {
		sh.spending.pool.Release(b.lease)
	}
}

// end gives all leases up. The reader may still use them.
func (l *leases) end(sh *shared) {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.replace(sh, nil)
}

// begin makes the leases ready for a message.
func (in *inbound) begin() {
	if in.leases == nil {
		return
	}
	p := spend.Patient{For: spend.Patience}
	if in.holding {
		p.For -= in.msg.Waited() - in.since
	}
	if !in.msg.Ahead {
		p.Waiter = in.c.w
	}
	in.rates.patient = p
	for i := range in.rates.shared {
		if l := in.rates.shared[i].lease; l != nil {
			l.spent = spend.Amount{}
		}
	}
}

// hold counts a message that waits for tokens.
func (in *inbound) hold() {
	if in.holding {
		return
	}
	in.holding, in.since = true, in.msg.Waited()
	in.c.g.shared.spending.held.Add(1)
}

// spend spends a message from the lease of a shared bucket, whose table has been charged. If it
// returns false, the table has got its charge back, and held says whether the message should be
// asked about again after wait.
func (c *connRates) spend(i, n, cost int, now time.Time) (wait time.Duration, ok bool) {
	b := &c.shared[i]
	l, amount := b.lease, spend.Amount{int64(cost), int64(n)}
	if parts := int(l.sh.divisor.Load()); parts > 0 {
		l.lease.Probe(amount, &l.lim, now)
		return c.alone(b, n, cost, parts, now)
	}
	d := l.lease.Take(amount, &l.lim, now, c.patient)
	switch d.Verdict {
	case spend.Granted:
		amount = l.lim.Of(amount)
		l.spent[0] += amount[0]
		l.spent[1] += amount[1]
		return 0, true
	case spend.Lost:
		return c.alone(b, n, cost, l.sh.instances(), now)
	case spend.Held:
		c.held = true
		for _, b := range c.shared[i+1:] {
			if b.lease != nil {
				b.lease.lease.Prepare(amount, &b.lease.lim, now)
			}
		}
	default:
		c.over = b.names[d.Lane]
	}
	b.table.Give2(b.key, float64(cost), float64(n), b.messages, b.bytes)
	return d.Wait, false
}

// give puts back what the message that is judged has spent, up to n bytes that count for cost
// messages.
func (l *leased) give(n, cost int) {
	back := spend.Amount{min(int64(cost), l.spent[0]), min(int64(n), l.spent[1])}
	if back != (spend.Amount{}) {
		l.spent[0] -= back[0]
		l.spent[1] -= back[1]
		l.lease.Give(back)
	}
}

// alone decides about a message without the store, by the part of each limit that this instance
// has. The table has been charged with the whole limits.
func (c *connRates) alone(b *sharedBucket, n, cost, parts int, now time.Time) (wait time.Duration, ok bool) {
	b.table.Give2(b.key, float64(cost), float64(n), b.messages, b.bytes)
	sh := b.lease.sh
	if sh.cfg.RatesFailClosed {
		sh.spending.closed.Add(1)
		c.over = b.names[0]
		return time.Second, false
	}
	sh.spending.local.Add(1)
	own := *b
	own.messages, own.bytes = partFor(b.messages, parts, cost), partFor(b.bytes, parts, n)
	if wait, ok = b.table.Take2(b.key, float64(cost), float64(n), own.messages, own.bytes, now); !ok {
		c.over = own.exceeded(cost, now)
	}
	return wait, ok
}

// partFor returns the part of a limit that each of several instances applies. A message that
// needs n tokens of the whole burst fits into it.
func partFor(l keyed.Limit, parts, n int) keyed.Limit {
	return keyed.Limit{PerSecond: l.PerSecond / float64(parts), Burst: max(1, l.Burst/float64(parts), float64(n))}
}

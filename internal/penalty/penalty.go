// Package penalty bans, for a time, clients that offend again and again.
//
// Violations have weights and empty a bucket, which fills again with time. Who
// goes beyond it is banned, each time for twice as long; with time without a
// ban that is forgotten as well. A client is an IPv4 address, an IPv6 /64, or a
// name that the application has given it.
//
// All of it is bounded, and each kind of client by itself, so that whoever has
// many of one kind cannot get at the bans of another:
//
//   - IPv4 addresses and names have half of MaxBans. In their place no network
//     is banned: an IPv4 /24 is as likely strangers as accomplices. Someone with
//     more addresses than that has his new bans take the place of those that
//     end soonest, and only if they end before the new one would; so nobody gets
//     out of a long ban by having others banned.
//   - IPv6 /64s have a quarter. Beyond it the /48 is banned in their place, for
//     whoever has one /64 to rotate through has the other 65,535 as well.
//   - These /48s have the last quarter, with the rule of the first half: someone
//     with a /32 has as many of them as a botnet has addresses.
//   - Bans by hand are never displaced: there is an error when there are too many.
//   - Buckets that are not empty yet are kept under a seeded hash, without the
//     key. Of too many, of some taken at random the fullest is forgotten.
package penalty

import (
	"cmp"
	"errors"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what leads to a ban. 0 is the default everywhere.
type Config struct {
	Rate    float64       // weight of violations that is forgiven within a second; default 0.1
	Burst   float64       // weight that has no consequence; default 10
	First   time.Duration // the first ban; default 1 min
	Max     time.Duration // the longest; default 1 h
	Decay   time.Duration // after each such time without a ban one doubling is forgotten; default 1 h
	MaxBans int           // that are known at once, about 200 bytes each; default 16,384, at least 8
}

func (c Config) resolve() Config {
	c.Rate = cmp.Or(max(c.Rate, 0), 0.1)
	c.Burst = cmp.Or(max(c.Burst, 0), 10)
	c.First = cmp.Or(max(c.First, 0), time.Minute)
	c.Max = max(cmp.Or(max(c.Max, 0), time.Hour), c.First)
	c.Decay = cmp.Or(max(c.Decay, 0), time.Hour)
	c.MaxBans = max(cmp.Or(max(c.MaxBans, 0), 16384), 8)
	return c
}

// Bounds on bans by hand.
const (
	MaxManual  = 1024 // bans
	maxLengths = 16   // lengths of prefixes of one family: each is a look-up for each client
)

// What Ban can return.
var (
	ErrKey  = errors.New("wsguard: neither an address, a prefix of some length, nor a name")
	ErrFull = errors.New("wsguard: too many bans by hand")
)

// Ban is a ban.
type Ban struct {
	Prefix  netip.Prefix // not valid for a name
	Name    string
	Until   time.Time
	Strikes int    // bans in a row, this one included; 0 by hand
	Reason  string // what Violation or Ban was given
	Manual  bool
}

// Box knows who is banned. It is safe for concurrent use, has no goroutine and
// reads no clock.
type Box struct {
	held atomic.Int64 // entries; when there are none nothing is locked
	born time.Time
	seed maphash.Seed

	mu      sync.RWMutex
	cfg     Config
	nets    map[netip.Prefix]*entry
	names   map[string]*entry
	lengths [2]lengths // of nets, IPv4 and IPv6
	pools   [pools]pool
	manual  int
	buckets buckets
	stats   Stats
}

// New returns a box with nobody in it.
func New(cfg Config) *Box {
	return &Box{
		born:    time.Now(),
		seed:    maphash.MakeSeed(),
		cfg:     cfg.resolve(),
		nets:    map[netip.Prefix]*entry{},
		names:   map[string]*entry{},
		buckets: buckets{},
	}
}

// Set changes the configuration. Bans stay as they are, unless there are now too
// many.
func (b *Box) Set(cfg Config) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.cfg
	b.cfg = cfg.resolve()
	// What is owed stays owed: it takes another time to be forgiven.
	if old.Rate != b.cfg.Rate || old.Burst != b.cfg.Burst {
		most := b.cfg.Burst / b.cfg.Rate * float64(time.Second)
		for hash, tat := range b.buckets.tat {
			owed := float64(max(0, tat-b.buckets.clock)) * old.Rate / b.cfg.Rate
			b.buckets.tat[hash] = b.buckets.clock + int64(min(owed, most))
		}
	}
	for i := range b.pools {
		for len(b.pools[i]) > b.room(i) {
			b.remove(b.pools[i][0])
			b.stats.Displaced++
		}
	}
}

// Banned tells whether a client is banned, and until when. When nobody is, it
// costs nothing.
func (b *Box) Banned(k Key, now time.Time) (until time.Time, banned bool) {
	if b.held.Load() == 0 {
		return until, false
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if e := b.live(k, now); e != nil {
		return e.until, true
	}
	return until, false
}

// live returns the longest ban that holds for k.
func (b *Box) live(k Key, now time.Time) (longest *entry) {
	if k.name != "" {
		if e := b.names[k.name]; e != nil && now.Before(e.until) {
			return e
		}
		return nil
	}
	if !k.prefix.IsValid() {
		return nil
	}
	addr := k.prefix.Addr()
	for _, bits := range b.lengths[family(addr)].used {
		if bits > k.prefix.Bits() {
			continue
		}
		p, _ := addr.Prefix(bits)
		if e := b.nets[p]; e != nil && now.Before(e.until) && (longest == nil || longest.until.Before(e.until)) {
			longest = e
		}
	}
	return longest
}

// Violation counts a violation. It returns the ban if this one has led to it,
// perhaps of the network around k. While k is banned nothing counts.
func (b *Box) Violation(k Key, weight float64, reason string, now time.Time) (ban Ban, banned bool) {
	asked := k
	if k = k.client(); !k.valid() || !(weight > 0) {
		return ban, false
	}
	hash := b.hash(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(now)
	if b.live(asked, now) != nil {
		return ban, false
	}
	ns := int64(now.Sub(b.born))
	per := float64(time.Second) / b.cfg.Rate
	if !b.buckets.over(hash, weight*per, b.cfg.Burst*per, ns, b.cfg.MaxBans*4) {
		return ban, false
	}
	e := b.strike(k, reason, now)
	if e == nil {
		b.stats.Unplaced++
		return ban, false
	}
	delete(b.buckets.tat, hash)
	return e.ban(), true
}

// strike bans k or the network around it. It returns nil if there is no place.
func (b *Box) strike(k Key, reason string, now time.Time) *entry {
	pool := k.pool()
	e := b.entry(k)
	if e == nil && pool == poolSite && len(b.pools[poolSite]) >= b.room(poolSite) {
		// Those whose end has passed are kept for their strikes only.
		if first := b.pools[poolSite][0]; now.Before(first.until) {
			k, pool = k.network(), poolNetwork
			e = b.entry(k)
		} else {
			b.remove(first)
		}
	}
	if e != nil && e.manual { // over, or there would be no strike
		b.remove(e)
		e = nil
	}
	strikes := 1
	if e != nil {
		strikes += e.remembered(now, b.cfg.Decay)
	}
	until := now.Add(b.cfg.lasts(strikes))
	if e == nil {
		if len(b.pools[pool]) >= b.room(pool) {
			first := b.pools[pool][0]
			if first.until.After(until) {
				return nil
			}
			if now.Before(first.until) {
				b.stats.Displaced++
			}
			b.remove(first)
		}
		e = b.add(k)
	}
	b.place(e, pool, until)
	e.strikes, e.reason = strikes, reason
	return e
}

// forget drops entries without strikes left: a few each time will do.
func (b *Box) forget(now time.Time) {
	for i := range b.pools {
		if p := b.pools[i]; len(p) > 0 && p[0].until.Before(now) && p[0].remembered(now, b.cfg.Decay) == 0 {
			b.remove(p[0])
		}
	}
}

// lasts is how long the ban of so many strikes is.
func (c Config) lasts(strikes int) time.Duration {
	d := c.First
	for ; strikes > 1 && d < c.Max; strikes-- {
		d *= 2
	}
	if d > c.Max || d <= 0 {
		return c.Max
	}
	return d
}

// Ban bans by hand: a client, a name, or a prefix with all that is in it. A ban
// that is there already is replaced.
func (b *Box) Ban(k Key, d time.Duration, reason string, now time.Time) error {
	if k = k.client(); !k.valid() || k.name == "" && k.prefix.Bits() == 0 || d <= 0 {
		return ErrKey
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(k)
	if e == nil || !e.manual {
		if b.manual >= MaxManual || k.name == "" && !b.lengths[family(k.prefix.Addr())].fits(k.prefix.Bits()) {
			b.purge(now)
		}
		if b.manual >= MaxManual || k.name == "" && !b.lengths[family(k.prefix.Addr())].fits(k.prefix.Bits()) {
			return ErrFull
		}
		if e == nil {
			e = b.add(k)
		}
		b.unpool(e)
		e.manual = true
		b.manual++
	}
	e.until, e.reason, e.strikes = now.Add(min(d, math.MaxInt64/4)), reason, 0
	return nil
}

// purge drops bans by hand that are over.
func (b *Box) purge(now time.Time) {
	over := func(e *entry) {
		if e.manual && !now.Before(e.until) {
			b.remove(e)
		}
	}
	for _, e := range b.nets {
		over(e)
	}
	for _, e := range b.names {
		over(e)
	}
}

// Lift ends the ban of exactly k, forgets its strikes and fills its bucket. It
// tells whether there was a ban. A wider prefix that holds for k as well stays.
func (b *Box) Lift(k Key, now time.Time) bool {
	k = k.client()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.buckets.tat, b.hash(k))
	e := b.entry(k)
	if e == nil {
		return false
	}
	b.remove(e)
	return now.Before(e.until)
}

// All lists the bans, those that end soonest first.
func (b *Box) All(now time.Time) []Ban {
	b.mu.RLock()
	bans := make([]Ban, 0, len(b.nets)+len(b.names))
	add := func(e *entry) {
		if now.Before(e.until) {
			bans = append(bans, e.ban())
		}
	}
	for _, e := range b.nets {
		add(e)
	}
	for _, e := range b.names {
		add(e)
	}
	b.mu.RUnlock()
	slices.SortFunc(bans, func(x, y Ban) int { return x.Until.Compare(y.Until) })
	return bans
}

// Stats say how full the box is.
type Stats struct {
	Entries   int    // bans, and those over that are kept for their strikes
	Suspects  int    // clients with violations and without a ban, about
	Displaced uint64 // bans that ended early for want of room
	Unplaced  uint64 // bans that did not begin for want of room
}

// Stats returns them.
func (b *Box) Stats() Stats {
	b.mu.RLock()
	defer b.mu.RUnlock()
	st := b.stats
	st.Entries, st.Suspects = len(b.nets)+len(b.names), len(b.buckets.tat)
	return st
}

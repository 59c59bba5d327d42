// Package penalty stores which clients are banned, and for how long.
//
// A strike bans a client for a time. Each further strike bans it for twice as long. A time
// without a ban makes the box forget strikes. The caller of [Box.Strike] decides when a
// client gets a strike. A client is an IPv4 address, an IPv6 /64, or a name that the
// application has given it.
//
// A box is made once, with room for a number of bans, and never replaced. How long
// bans last is passed in with each call.
//
// The room is divided, so that an attacker with many clients of one kind cannot
// displace the bans of another kind:
//
//   - IPv4 addresses and names have half of the room. No network is banned in their
//     place, because the other addresses of an IPv4 /24 are as likely strangers as
//     accomplices. When the half is full, a new ban takes the place of the one that
//     ends soonest, but only if that one ends before the new one would. So a client
//     cannot get out of a long ban by having others banned.
//   - IPv6 /64s have a quarter. When it is full, the /48 is banned in their place,
//     because a client that can rotate through one /64 has the other 65,535 as well.
//   - These /48s have the last quarter, with the rule of the first half. An attacker
//     with a /32 has as many of them as a botnet has addresses.
//   - Bans by hand are never displaced. There is an error when there are too many.
package penalty

import (
	"errors"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config says how long a strike bans.
type Config struct {
	First time.Duration // how long the first ban lasts
	Max   time.Duration // how long the longest ban lasts; at least First
	Decay time.Duration // the time without a ban after which one doubling is forgotten; 0: never
}

// Bounds on bans by hand.
const (
	MaxManual = 1024 // how many bans

	// maxLengths is how many lengths the prefixes of one family may have. Each length costs
	// a look-up for each client.
	maxLengths = 16
)

// Errors of Ban.
var (
	ErrKey  = errors.New("wsguard: neither an address, a prefix of some length, nor a name")
	ErrFull = errors.New("wsguard: too many bans by hand")
)

// Ban describes a ban.
type Ban struct {
	Prefix  netip.Prefix // not valid for a name
	Name    string       // empty for a prefix
	Until   time.Time    // when the ban ends
	Strikes int          // the strikes that are remembered, this one included; 0 by hand
	Reason  string       // the reason that Strike or Ban was given
	Manual  bool         // the ban is by hand
}

// Box stores bans. It is safe for concurrent use, has no goroutine and reads no clock.
type Box struct {
	held atomic.Int64 // the number of entries; Banned takes no lock while it is 0
	max  int          // how many bans strikes can lead to; read-only after New

	mu      sync.RWMutex            // no other lock is taken while it is held
	nets    map[netip.Prefix]*entry // guarded by mu
	names   map[string]*entry       // guarded by mu
	lengths [2]lengths              // guarded by mu: the lengths of nets, for IPv4 and IPv6
	pools   [pools]pool             // guarded by mu: the entries that strikes have led to
	manual  int                     // guarded by mu: the number of bans by hand
	stats   Stats                   // guarded by mu
}

// New returns an empty box with room for bans, at least 8. A ban takes about 200
// bytes.
func New(bans int) *Box {
	return &Box{max: max(bans, 8), nets: map[netip.Prefix]*entry{}, names: map[string]*entry{}}
}

// Banned reports whether a client is banned, and until when. It takes no lock while the box is
// empty.
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

// Strike bans k, or the network around it if there is no room for k. It returns the
// ban, or false if k is banned already or there is no room at all.
func (b *Box) Strike(k Key, reason string, cfg Config, now time.Time) (ban Ban, banned bool) {
	asked := k
	if k = k.client(); !k.valid() {
		return ban, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(cfg, now)
	if b.live(asked, now) != nil {
		return ban, false
	}
	e := b.strike(k, reason, cfg, now)
	if e == nil {
		b.stats.Unplaced++
		return ban, false
	}
	return e.ban(), true
}

// strike bans k or the network around it. It returns nil if there is no place.
func (b *Box) strike(k Key, reason string, cfg Config, now time.Time) *entry {
	pool := k.pool()
	e := b.entry(k)
	if e == nil && pool == poolSite && len(b.pools[poolSite]) >= b.room(poolSite) {
		// A ban that is over is kept for its strikes only.
		if first := b.pools[poolSite][0]; now.Before(first.until) {
			k, pool = k.network(), poolNetwork
			e = b.entry(k)
		} else {
			b.remove(first)
		}
	}
	if e != nil && e.manual { // it is over, because a client that is banned gets no strike
		b.remove(e)
		e = nil
	}
	strikes := 1
	if e != nil {
		strikes += e.remembered(now, cfg.Decay)
	}
	until := now.Add(cfg.lasts(strikes))
	if e == nil {
		e = b.make(k, until, now)
	} else {
		b.place(e, pool, until)
	}
	if e == nil {
		return nil
	}
	e.strikes, e.reason = strikes, reason
	return e
}

// forget drops at most one entry of each pool that has no strikes left. Each strike calls it, so
// the pools do not keep old entries.
func (b *Box) forget(cfg Config, now time.Time) {
	for i := range b.pools {
		if p := b.pools[i]; len(p) > 0 && p[0].until.Before(now) && p[0].remembered(now, cfg.Decay) == 0 {
			b.remove(p[0])
		}
	}
}

// lasts returns how long the ban of a client with so many strikes lasts.
func (c Config) lasts(strikes int) time.Duration {
	d, longest := c.First, max(c.First, c.Max)
	for ; strikes > 1 && d < longest; strikes-- {
		d *= 2
	}
	if d > longest || d <= 0 {
		return longest
	}
	return d
}

// Ban bans a client, a name, or all addresses of a prefix by hand. It replaces the ban that k
// has already.
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

// Put stores a ban that another box has. A ban by hand replaces the ban of k, as Ban does. A ban
// by strikes does not shorten the ban of k. It may be over, and then counts for its strikes. Put
// bans no network in place of k. If there is no room for a ban by strikes, Put does nothing.
func (b *Box) Put(k Key, ban Ban, now time.Time) error {
	if ban.Manual {
		if !now.Before(ban.Until) {
			return nil
		}
		return b.Ban(k, ban.Until.Sub(now), ban.Reason, now)
	}
	if k = k.client(); !k.valid() || k.name == "" && k.prefix.Bits() == 0 {
		return ErrKey
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(k)
	live := e != nil && now.Before(e.until)
	switch {
	case e != nil && e.manual && live:
		e.until = later(e.until, ban.Until)
		return nil
	case e != nil && e.manual:
		b.remove(e)
		e = nil
	}
	if e == nil {
		if e = b.make(k, ban.Until, now); e == nil {
			b.stats.Unplaced++
			return nil
		}
	}
	if live {
		ban.Strikes = max(ban.Strikes, e.strikes)
	}
	if !ban.Until.Before(e.until) {
		e.reason = ban.Reason
		e.strikes = ban.Strikes
	}
	e.strikes = max(e.strikes, ban.Strikes)
	b.place(e, e.pool, later(e.until, ban.Until))
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// make adds an entry for k to its pool. If the pool is full, the entry takes the place of the ban
// that ends soonest. make returns nil if that one does not end before until.
func (b *Box) make(k Key, until, now time.Time) *entry {
	pool := k.pool()
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
	e := b.add(k)
	b.place(e, pool, until)
	return e
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

// Lift ends the ban of exactly k and forgets its strikes. It reports whether there was a ban. The
// ban of a wider prefix that contains k stays.
func (b *Box) Lift(k Key, now time.Time) bool {
	k = k.client()
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(k)
	if e == nil {
		return false
	}
	b.remove(e)
	return now.Before(e.until)
}

// All returns the bans that are in force, those that end soonest first.
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

// Count returns how many bans are in force.
func (b *Box) Count(now time.Time) (n int) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, e := range b.nets {
		if now.Before(e.until) {
			n++
		}
	}
	for _, e := range b.names {
		if now.Before(e.until) {
			n++
		}
	}
	return n
}

// Stats say how full the box is.
type Stats struct {
	Entries   int    // the bans, and bans that are over and kept for their strikes
	Displaced uint64 // bans that ended early, because another one needed the room
	Unplaced  uint64 // bans that did not begin, because there was no room
}

// Stats returns how full the box is.
func (b *Box) Stats() Stats {
	b.mu.RLock()
	defer b.mu.RUnlock()
	st := b.stats
	st.Entries = len(b.nets) + len(b.names)
	return st
}

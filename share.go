package wsguard

import (
	"net/netip"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// waiters are the leases of connections that owe a credential in their first message. All
// fields are guarded by slots.mu.
type waiters struct {
	all      map[*Lease]*wait
	clients  map[clientKey]int
	networks map[netip.Prefix]int
}

// wait is one place of the unauthenticated.
type wait struct {
	since time.Time
	evict func() // ends the connection; nil until it is open
}

// minShare is how many places a client has at least, and silentFor how old a connection is
// that may lose its place to another client.
const (
	minShare  = 4
	silentFor = 3 * time.Second
)

// await counts the lease as unauthenticated, once. authenticated ends that.
func (l *Lease) await(cfg CapConfig) error {
	over, evict := l.takePlace(cfg)
	if evict != nil {
		evict()
	}
	return over
}

func (l *Lease) takePlace(cfg CapConfig) (over error, evict func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.waiting
	if w.all[l] != nil || l.released {
		return nil, nil
	}
	if most := cfg.MaxUnauthenticated; most > 0 {
		each := max(minShare, most/4)
		switch {
		case w.clients[l.client] >= each:
			over = deny(reason.MaxClientConns, "of those not authenticated yet")
		case l.network.IsValid() && w.networks[l.network] >= each:
			d := deny(reason.MaxClientConns, "of those of its /48 not authenticated yet")
			d.blameless = true
			over = d
		case len(w.all) >= most:
			if silent := w.replaceable(most); silent != nil {
				evict = w.all[silent].evict
				w.remove(silent)
			} else {
				over = deny(reason.MaxConns, "of those not authenticated yet")
			}
		}
		if over != nil && !cfg.ReportOnly {
			return over, nil
		}
	}
	w.add(l)
	return over, evict
}

// replaceable returns a lease that may lose its place to a newcomer, or nil. It is the oldest
// of the client that holds most, if that is more than the fair share.
func (w *waiters) replaceable(most int) *Lease {
	var greedy clientKey
	n := 0
	for client, held := range w.clients {
		if held > n {
			greedy, n = client, held
		}
	}
	if n*len(w.clients) <= most {
		return nil
	}
	var oldest *Lease
	for l, place := range w.all {
		if l.client == greedy && place.evict != nil && (oldest == nil || place.since.Before(w.all[oldest].since)) {
			oldest = l
		}
	}
	if oldest == nil || time.Since(w.all[oldest].since) < silentFor {
		return nil
	}
	return oldest
}

func (w *waiters) add(l *Lease) {
	if w.all == nil {
		w.all, w.clients, w.networks = map[*Lease]*wait{}, map[clientKey]int{}, map[netip.Prefix]int{}
	}
	w.all[l] = &wait{since: time.Now()}
	w.clients[l.client]++
	if l.network.IsValid() {
		w.networks[l.network]++
	}
}

func (w *waiters) remove(l *Lease) {
	if w.all[l] == nil {
		return
	}
	delete(w.all, l)
	down(w.clients, l.client)
	if l.network.IsValid() {
		down(w.networks, l.network)
	}
}

// opened says how the lease's connection can be ended, from now on.
func (l *Lease) opened(evict func()) {
	l.slots.mu.Lock()
	defer l.slots.mu.Unlock()
	if place := l.slots.waiting.all[l]; place != nil {
		place.since, place.evict = time.Now(), evict
	}
}

// authenticated ends that the lease counts as unauthenticated.
func (l *Lease) authenticated() {
	l.slots.mu.Lock()
	defer l.slots.mu.Unlock()
	l.slots.waiting.remove(l)
}

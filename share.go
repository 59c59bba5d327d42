package wsguard

import (
	"net/netip"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// waiters are the leases of connections that owe a credential in their first message. All
// fields are guarded by slots.mu.
type waiters struct {
	all      map[*Lease]time.Time // since when each of them waits
	clients  map[clientKey]int
	networks map[netip.Prefix]int
}

// minShare is how many places a client has at least, and silentFor how old a connection is
// that may lose its place to another client.
const (
	minShare  = 4
	silentFor = 3 * time.Second
)

// await counts the lease as unauthenticated, once. authenticated ends that.
func (l *Lease) await(cfg CapConfig, g *gauges) error {
	silent, over := l.takePlace(cfg, g)
	if silent != nil {
		silent.end(because(reason.MaxConns, "its place went to another client"))
	}
	return over
}

// takePlace returns a connection that must end because the lease has got its place, and the
// error of a limit that is exceeded.
func (l *Lease) takePlace(cfg CapConfig, g *gauges) (silent *Conn, over error) {
	s, unlock := l.lock()
	defer unlock()
	w := &s.waiting
	if _, waits := w.all[l]; waits || l.released {
		return nil, nil
	}
	g.note(limitWaiting, len(w.all)+1)
	if most := cfg.MaxUnauthenticated; most > 0 {
		each := max(minShare, most/4)
		switch {
		case w.clients[l.client] >= each:
			over = denyOver(reason.MaxClientConns, "of those not authenticated yet", limitWaiting)
		case l.network.IsValid() && w.networks[l.network] >= each:
			d := denyOver(reason.MaxClientConns, "of those of its /48 not authenticated yet", limitWaiting)
			d.blameless = true
			over = d
		case len(w.all) >= most:
			if old := w.replaceable(most); old != nil && !cfg.ReportOnly {
				silent = old.conn
				w.remove(old)
			} else {
				over = denyOver(reason.MaxConns, "of those not authenticated yet", limitWaiting)
			}
		}
		if over != nil && !cfg.ReportOnly {
			return nil, over
		}
	}
	w.add(l)
	return silent, over
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
	for l, since := range w.all {
		if l.client == greedy && l.conn != nil && l.conn.who.awaiting.Load() && (oldest == nil || since.Before(w.all[oldest])) {
			oldest = l
		}
	}
	if oldest == nil || time.Since(w.all[oldest]) < silentFor {
		return nil
	}
	return oldest
}

func (w *waiters) add(l *Lease) {
	if w.all == nil {
		w.all, w.clients, w.networks = map[*Lease]time.Time{}, map[clientKey]int{}, map[netip.Prefix]int{}
	}
	w.all[l] = time.Now()
	w.clients[l.client]++
	if l.network.IsValid() {
		w.networks[l.network]++
	}
}

func (w *waiters) remove(l *Lease) {
	if _, waits := w.all[l]; !waits {
		return
	}
	delete(w.all, l)
	down(w.clients, l.client)
	if l.network.IsValid() {
		down(w.networks, l.network)
	}
}

// authenticated ends that the lease counts as unauthenticated.
func (l *Lease) authenticated() {
	s, unlock := l.lock()
	defer unlock()
	s.waiting.remove(l)
}

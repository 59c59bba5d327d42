package wsguard

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/audit"
)

const (
	keptEach = 16  // how many refusals are kept of each reason
	keptAll  = 512 // how many refusals list returns at most

	fullestEach = 20 // how many clients, networks or subjects are listed for each limit
)

// recent keeps the latest refusals of each reason for operators. A flood for one reason
// displaces no refusal for another.
type recent struct {
	mu      sync.Mutex              // no other lock is taken while it is held
	reasons map[string]*recentOfOne // guarded by mu; by the names of meter.name, so there are few
}

// recentOfOne has the latest refusals for one reason. The mu of its recent guards it.
type recentOfOne struct {
	pace   *rate.Limiter // a flood costs one look at it, and not the copies of its strings
	events []audit.Event // at most keptEach, a ring when it is full
	next   int           // the oldest event of a full ring
}

// due reports whether an event with this name must be kept. The caller then calls add.
func (r *recent) due(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.reasons[name]
	if of == nil {
		if r.reasons == nil {
			r.reasons = map[string]*recentOfOne{}
		}
		of = &recentOfOne{pace: rate.NewLimiter(warnPerSecond, keptEach)}
		r.reasons[name] = of
	}
	return of.pace.Allow()
}

// add keeps an event for which due was true. The strings of e are escaped and cut.
func (r *recent) add(name string, e audit.Event) {
	e.Err, e.Stack = nil, nil // they may keep much memory of the application's
	for _, field := range []*string{&e.Subject, &e.Client, &e.Origin, &e.Host, &e.Path, &e.RequestID, &e.Detail} {
		*field = strings.Clone(*field) // it may be part of a long header
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.reasons[name]
	if len(of.events) < keptEach {
		of.events = append(of.events, e)
		return
	}
	of.events[of.next] = e
	of.next = (of.next + 1) % keptEach
}

// list returns the events that are kept, the newest first.
func (r *recent) list() (events []audit.Event) {
	r.mu.Lock()
	for _, of := range r.reasons {
		events = append(events, of.events...)
	}
	r.mu.Unlock()
	slices.SortStableFunc(events, func(a, b audit.Event) int { return b.Time.Compare(a.Time) })
	return events[:min(len(events), keptAll)]
}

// fullest collects the holders that are nearest to a limit, and keeps the first most of them.
type fullest struct {
	most int
	all  []holder
}

// holder is a client, a network or a subject, and how much it holds.
type holder struct {
	key  clientKey // of a client, or of a network
	name string    // of a subject
	used int
}

// add adds a holder if it is one of the fullest.
func (f *fullest) add(h holder) {
	if len(f.all) == f.most {
		if h.used <= f.all[f.most-1].used {
			return
		}
		f.all = f.all[:f.most-1]
	}
	i, _ := slices.BinarySearchFunc(f.all, h, func(a, b holder) int { return cmp.Compare(b.used, a.used) })
	f.all = slices.Insert(f.all, i, h)
}

// limits returns the holders as figures of a limit. key says that they are clients or networks.
func (f *fullest) limits(to []audit.Limit, name string, most int) []audit.Limit {
	for _, h := range f.all {
		of := h.name
		if h.key != (clientKey{}) {
			of = h.key.String()
		}
		to = append(to, audit.Limit{Name: name, Of: sanitize(of, maxField), Max: int64(most), Used: int64(h.used)})
	}
	return to
}

// fullest returns the clients, networks and subjects that are nearest to the limits of p.
func (st *State) fullest(p *policy) (all []audit.Limit) {
	of := func(name string, most int, each func(add func(holder))) {
		if most <= 0 {
			return
		}
		f := fullest{most: fullestEach}
		each(f.add)
		all = f.limits(all, name, most)
	}
	clients := func(m map[clientKey]int) func(func(holder)) {
		return func(add func(holder)) {
			for key, n := range m {
				add(holder{key: key, used: n})
			}
		}
	}
	s, fl := st.slots, st.inFlight
	s.mu.Lock()
	of("Caps.MaxConnsPerClient", p.caps.MaxConnsPerClient, clients(s.strangers))
	of("Caps.MaxUsersPerClient", p.caps.MaxUsersPerClient, clients(s.clients))
	of("Caps.MaxConnsPerNetwork", p.caps.MaxConnsPerNetwork, func(add func(holder)) {
		for prefix, n := range s.networks {
			add(holder{key: clientKey{prefix: prefix}, used: n})
		}
	})
	of("Caps.MaxConnsPerSubject", p.caps.MaxConnsPerSubject, func(add func(holder)) {
		for subject, party := range s.subjects {
			add(holder{name: subject, used: len(party.leases)})
		}
	})
	s.mu.Unlock()
	fl.mu.Lock()
	of("Rates.MaxInFlightPerClient", p.rates.MaxInFlightPerClient, clients(fl.each))
	fl.mu.Unlock()
	slices.SortStableFunc(all, func(a, b audit.Limit) int {
		return cmp.Compare(float64(b.Used)/float64(b.Max), float64(a.Used)/float64(a.Max))
	})
	return all
}

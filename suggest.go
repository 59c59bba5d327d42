package wsguard

import (
	"math"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/tally"
)

// Suggest says how much of the limits was used since New, and what they could be. Use it with
// Config.Observe to find the limits of a running service. It works without Observe too, but then
// a limit that refuses much hides what its clients would have used.
//
// There is no suggestion for a limit that nothing has used. These limits have suggestions: those
// of Caps, Rates without SentBytes and WarnAt, Send, Messages.MaxBytes, and Timeouts.Idle, Pong and
// Lifetime. New accepts all suggested values together, and also the first n of them for each n.
//
// The suggested value lies above the 99.9th percentile by half of it, and by more for MaxConns and
// for Pong. It is also above the largest use that was seen, unless that is more than four times the
// percentile and so looks like an attack. It is rounded up to a round number, and it is never below
// a floor that is sane for any service. The values depend on how the Guard observes each limit:
//   - The limits of Caps and of handshakes in flight are observed at each handshake.
//   - A Rate is observed for each connection, client or subject, in each second and each minute
//     in which it uses the rate. PerSecond follows from the minutes, and Burst from both.
//   - Messages.MaxBytes follows from the messages of all endpoints together. Its Current is the
//     largest value of an endpoint.
//   - Timeouts.Idle follows from the gaps between messages that last at least a second.
//   - The limits of the queues are observed once a second, MaxTotalBytes as it is then and the
//     others at their peak.
//
// At most 65,536 clients and as many subjects are observed in each second and each minute. Suggest
// looks at every open connection, so call it at most once in a few seconds. Many goroutines may
// call it at the same time.
func (g *Guard) Suggest() []audit.Suggestion {
	now := time.Now()
	g.sessions.usage.settle(now)
	p, seen := g.policy.Load(), g.observations(now)
	values := make(map[limitID]audit.Setting, len(suggestible))
	for i := range suggestible {
		s := &suggestible[i]
		values[s.limit] = s.value(&seen[s.limit])
	}
	p.reconcile(values)
	var all []audit.Suggestion
	for i := range suggestible {
		s := &suggestible[i]
		use := &seen[s.limit]
		value := values[s.limit]
		if use.n.Total() == 0 || value == (audit.Setting{}) {
			continue
		}
		all = append(all, audit.Suggestion{
			Field: s.field, Unit: s.unit, Observed: now.Sub(g.born), Short: now.Sub(g.born) < longEnough || use.n.Total() < enough,
			Observations: use.n.Total(), Percentile99: quantile(&use.n, 0.99) / s.scale, Percentile999: quantile(&use.n, 0.999) / s.scale,
			Refused: g.events.meter.gauges[s.limit].refused.Load(), Current: s.current(p), Value: value,
		})
	}
	return all
}

// longEnough and enough say when a suggestion can be trusted.
const (
	longEnough = 24 * time.Hour
	enough     = 1000
)

// usedOf is what was seen of a limit.
type usedOf struct {
	n, minute tally.Counts
}

// observations returns what was seen of each limit.
func (g *Guard) observations(now time.Time) *[limits]usedOf {
	seen, m := new([limits]usedOf), g.events.meter
	for i := range seen {
		seen[i].n.Add(&m.gauges[i].seen)
		if minutes := m.gauges[i].minute; minutes != nil {
			seen[i].minute.Add(minutes)
		}
	}
	for i := range m.shards {
		seen[limitSize].n.Add(&m.shards[i].in)
	}
	seen[limitPong].n.Add(&m.pings)
	seen[limitLifetime].n.Add(&m.connections)
	for _, c := range g.sessions.open() { // they are as old, and as silent, as that at least
		seen[limitLifetime].n.Note(microseconds(now.Sub(c.opened)))
		if gap := now.Sub(c.w.LastMessage()); gap >= time.Second {
			seen[limitIdle].n.Note(uint64(gap.Milliseconds()))
		}
	}
	return seen
}

// quantile returns a value that is at least as large as the part q of all values.
func quantile(c *tally.Counts, q float64) float64 { return histogram(c, 1).Quantile(q) }

// suggestion says how the value of a limit is suggested.
type suggestion struct {
	limit   limitID
	field   string
	unit    string
	scale   float64 // how many of what is observed are one unit
	room    float64 // how many times the percentile the value is
	floor   audit.Setting
	current func(*policy) audit.Setting
}

// suggestible has the limits in an order in which each can be set before the next one. The bytes
// come before the size of a message, which they must exceed, and what clients share comes before
// what a connection may, because its default follows from that.
var suggestible = [...]suggestion{
	{limitConns, "Caps.MaxConns", "connections", 1, 2, count(1000), func(p *policy) audit.Setting { return count(p.caps.MaxConns) }},
	{limitUsers, "Caps.MaxUsersPerClient", "connections", 1, 1.5, count(64), func(p *policy) audit.Setting { return count(p.caps.MaxUsersPerClient) }},
	{limitStrangers, "Caps.MaxConnsPerClient", "connections", 1, 1.5, count(16), func(p *policy) audit.Setting { return count(p.caps.MaxConnsPerClient) }},
	{limitNetwork, "Caps.MaxConnsPerNetwork", "connections", 1, 1.5, count(64), func(p *policy) audit.Setting { return count(p.caps.MaxConnsPerNetwork) }},
	{limitSubject, "Caps.MaxConnsPerSubject", "connections", 1, 1.5, count(4), func(p *policy) audit.Setting { return count(p.caps.MaxConnsPerSubject) }},
	{limitWaiting, "Caps.MaxUnauthenticated", "connections", 1, 1.5, count(100), func(p *policy) audit.Setting { return count(p.caps.MaxUnauthenticated) }},
	{limitHandshakes, "Rates.Handshakes", "handshakes", 1, 1.5, perSecond(Rate{1, 10}), func(p *policy) audit.Setting { return perSecond(p.rates.Handshakes) }},
	{limitFlight, "Rates.MaxInFlight", "handshakes", 1, 1.5, count(64), func(p *policy) audit.Setting { return count(p.rates.MaxInFlight) }},
	{limitFlightEach, "Rates.MaxInFlightPerClient", "handshakes", 1, 1.5, count(8), func(p *policy) audit.Setting { return count(p.rates.MaxInFlightPerClient) }},
	{limitClientMessages, "Rates.ClientMessages", "messages", 1, 1.5, perSecond(Rate{4, 40}), func(p *policy) audit.Setting { return perSecond(p.rates.ClientMessages) }},
	{limitSubjectMessages, "Rates.SubjectMessages", "messages", 1, 1.5, perSecond(Rate{2, 20}), func(p *policy) audit.Setting { return perSecond(p.rates.SubjectMessages) }},
	{limitMessages, "Rates.Messages", "messages", 1, 1.5, perSecond(Rate{1, 10}), func(p *policy) audit.Setting { return perSecond(p.rates.Messages) }},
	{limitClientBytes, "Rates.ClientBytes", "bytes", 1, 1.5, perSecond(Rate{16 << 10, 256 << 10}), func(p *policy) audit.Setting { return perSecond(p.rates.ClientBytes) }},
	{limitSubjectBytes, "Rates.SubjectBytes", "bytes", 1, 1.5, perSecond(Rate{8 << 10, 128 << 10}), func(p *policy) audit.Setting { return perSecond(p.rates.SubjectBytes) }},
	{limitBytes, "Rates.Bytes", "bytes", 1, 1.5, perSecond(Rate{4 << 10, 64 << 10}), func(p *policy) audit.Setting { return perSecond(p.rates.Bytes) }},
	{limitSize, "Messages.MaxBytes", "bytes", 1, 1.5, count(4 << 10), func(p *policy) audit.Setting { return audit.Setting{Number: p.largest()} }},
	{limitQueue, "Send.MaxMessages", "messages", 1, 1.5, count(1024), func(p *policy) audit.Setting { return count(p.send.MaxMessages) }},
	{limitQueueBytes, "Send.MaxBytes", "bytes", 1, 1.5, count(256 << 10), func(p *policy) audit.Setting { return audit.Setting{Number: p.send.MaxBytes} }},
	{limitQueueTotal, "Send.MaxTotalBytes", "bytes", 1, 1.5, count(16 << 20), func(p *policy) audit.Setting { return audit.Setting{Number: p.send.MaxTotalBytes} }},
	{limitIdle, "Timeouts.Idle", "seconds", 1e3, 1.5, after(time.Minute), func(p *policy) audit.Setting { return after(p.timeouts.Idle) }},
	{limitPong, "Timeouts.Pong", "seconds", 1e6, 3, after(5 * time.Second), func(p *policy) audit.Setting { return after(p.timeouts.Pong) }},
	{limitLifetime, "Timeouts.Lifetime", "seconds", 1e6, 1.5, after(time.Hour), func(p *policy) audit.Setting { return after(p.timeouts.Lifetime) }},
}

func count(n int) audit.Setting           { return audit.Setting{Number: int64(n)} }
func after(d time.Duration) audit.Setting { return audit.Setting{Duration: d} }

func perSecond(r Rate) audit.Setting {
	if r.off() {
		return audit.Setting{}
	}
	return audit.Setting{PerSecond: r.PerSecond, Burst: r.Burst}
}

// largest returns the largest message that an endpoint accepts.
func (p *policy) largest() (n int64) {
	for _, e := range p.endpoints {
		n = max(n, e.messages.MaxBytes)
	}
	return n
}

// value returns the suggested value of a limit, or zero if nothing was seen.
func (s *suggestion) value(use *usedOf) (v audit.Setting) {
	switch {
	case use.n.Total() == 0:
	case s.floor.PerSecond > 0:
		v = s.rate(use)
	case s.floor.Duration > 0:
		d := time.Duration(min(s.enough(&use.n)/s.scale*float64(time.Second), float64(maxTimeout)))
		v.Duration = max(roundTime(d), s.floor.Duration)
	default:
		v.Number = max(int64(roundUp(s.enough(&use.n), s.unit == "bytes", maxAmount)), s.floor.Number)
	}
	return v
}

// farOff is how many times the percentile a use is that looks like an attack.
const farOff = 4

// enough returns a value for all uses but the last thousandth, with room above.
func (s *suggestion) enough(c *tally.Counts) float64 {
	h := histogram(c, 1)
	n := h.Quantile(0.999)
	if top := h.Quantile(1); top <= farOff*n {
		n = max(n, top/s.room)
	}
	return n * s.room
}

// rate returns the suggested Rate. In a minute nobody uses more than n, and in a second nobody
// more than k. Then a bucket of n(1-r/k) tokens into which r = n/60 tokens flow per second is
// never empty.
func (s *suggestion) rate(use *usedOf) audit.Setting {
	k := s.enough(&use.n)
	n := 60 * k
	if use.minute.Total() > 0 {
		n = max(k, s.enough(&use.minute))
	}
	r := n / 60
	burst := max(2*k, n*(1-min(1, r/k)))
	return audit.Setting{
		PerSecond: max(roundUp(r, s.unit == "bytes", maxPerSecond), s.floor.PerSecond),
		Burst:     max(int(roundUp(burst, s.unit == "bytes", min(maxBurst, math.MaxInt))), s.floor.Burst),
	}
}

// reconcile changes values so that New accepts each of them together with the ones before it, and
// with the present values of the ones after it.
func (p *policy) reconcile(values map[limitID]audit.Setting) {
	if users := values[limitUsers]; users.Number > 0 {
		users.Number = max(users.Number, int64(p.caps.MaxConnsPerClient), values[limitStrangers].Number)
		values[limitUsers] = users
	}
	size := values[limitSize]
	size.Number = min(size.Number, maxBurst)
	rates := map[limitID]Rate{limitClientBytes: p.rates.ClientBytes, limitSubjectBytes: p.rates.SubjectBytes, limitBytes: p.rates.Bytes}
	for l, now := range rates {
		if values[l].Burst == 0 && !now.off() { // it stays as it is
			size.Number = min(size.Number, int64(now.Burst))
		}
	}
	values[limitSize] = size
	for l := range rates {
		if v := values[l]; v.Burst > 0 {
			v.Burst = max(v.Burst, int(max(size.Number, p.largest())))
			values[l] = v
		}
	}
	if pong, every := values[limitPong], p.timeouts.PingInterval; pong.Duration >= every {
		pong.Duration = every / 2 // 0 if there are no pings
		values[limitPong] = pong
	}
}

// roundUp returns the next round number, which is at most most.
func roundUp(n float64, bytes bool, most float64) float64 {
	steps, base := []float64{1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10}, 10.0
	if bytes {
		steps, base = []float64{1, 1.5, 2}, 2
	}
	unit := 1.0
	for unit*base < n {
		unit *= base
	}
	for unit > n {
		unit /= base
	}
	for _, step := range steps {
		if step*unit >= n && (step*unit == math.Trunc(step*unit) || unit < 1) {
			return min(step*unit, most)
		}
	}
	return min(math.Ceil(n), most)
}

// roundTime returns the next round time.
func roundTime(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Second, time.Minute} {
		for _, n := range []time.Duration{1, 2, 3, 5, 10, 15, 20, 30} {
			if n*unit >= d {
				return n * unit
			}
		}
	}
	for n := time.Hour; ; n *= 2 {
		if n >= d || n > maxTimeout/2 {
			return n
		}
	}
}

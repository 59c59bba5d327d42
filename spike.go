package wsguard

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/baseline"
	"github.com/wsguard/wsguard/internal/tally"
)

const (
	spikeTick   = 5 * time.Second
	spikeQuiet  = 12 // ticks without anything new after which the timer stops
	leastFactor = 2
	mostFactor  = 1e6
)

// The rates that a Guard watches, as audit.Spike.Of names them.
const (
	ofRefusals    = "refusals"
	ofConnections = "connections"
	ofMessages    = "messages"
	ofBytes       = "bytes"
)

// spikeFloors has the rates per second below which nothing is a spike. That of bytes is in large
// messages.
var spikeFloors = map[string]float64{ofRefusals: 0.25, ofConnections: 0.5, ofMessages: 2, ofBytes: 2}

// spikes looks for rates that have left their baselines. A timer reads the meter while anything
// happens. No goroutine runs in between.
type spikes struct {
	g         *Guard      // read-only
	offending offending   // has locks of its own
	running   atomic.Bool // the timer runs; written under mu

	mu       sync.Mutex          // only sessions.mu is taken while it is held
	timer    *time.Timer         // guarded by mu, like all fields below; it keeps no Guard that nobody uses
	stopped  bool                // Shutdown has been called
	ticked   time.Time           // the last tick; zero: there was none
	seen     uint64              // what had happened at the last tick
	quiet    int                 // ticks since anything has happened
	rates    []*watched          // connections, messages, bytes, and the refusals for one reason each
	all      *watched            // all refusals
	reasons  map[string]*watched // those of rates that count the refusals for one reason
	begun    map[string]uint64   // the spikes that have begun, by Of
	messages uint64              // those that had been counted at the last tick
}

// watched is a rate and its baseline. The mu of its spikes guards it.
type watched struct {
	of, reason string // read-only
	started    bool
	series     baseline.Series
	spike      audit.Spike // the spike that goes on and was reported; Of is empty: there is none
}

// totals are the counters that a tick reads.
type totals struct {
	refusals map[string]uint64 // by reason
	of       map[string]uint64 // by Of
	large    float64           // bytes of a large message
}

// spikeChange is a spike that has begun or is over.
type spikeChange struct {
	of, reason string
	change     baseline.Change
	offenders  []audit.Offender
}

func newSpikes(g *Guard) *spikes {
	return &spikes{
		g: g, all: &watched{of: ofRefusals}, reasons: map[string]*watched{},
		rates: []*watched{{of: ofConnections}, {of: ofMessages}, {of: ofBytes}},
		begun: map[string]uint64{ofRefusals: 0, ofConnections: 0, ofMessages: 0, ofBytes: 0},
	}
}

// resolveSpikeFactor returns SpikeFactor with its default. It returns 0 for Off.
func resolveSpikeFactor(factor float64, f *faults) float64 {
	switch {
	case factor == 0:
		return baseline.DefaultFactor
	case factor == Off:
		return 0
	case !(factor >= leastFactor && factor <= mostFactor):
		f.add("SpikeFactor", factor, fmt.Sprintf("must be from %d to %.0f, 0 for the default, or Off", leastFactor, mostFactor))
	}
	return factor
}

// saw notes an event that the meter has counted. refusal is what meter.count has returned.
func (s *spikes) saw(o *occurrence, refusal string) {
	if s == nil || o.Kind == audit.SpikeStart || o.Kind == audit.SpikeOver {
		return
	}
	switch {
	case o.who == (clientKey{}):
	case refusal != "":
		s.offending.add(ofRefusals, refusal, o.who)
	case o.Kind == audit.Accepted:
		s.offending.add(ofConnections, "", o.who)
	}
	if s.running.Load() || s.g.policy.Load().spikeFactor == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped && !s.running.Swap(true) {
		s.quiet = 0
		s.arm(time.Nanosecond) // so that the pause is a tick of its own
	}
}

// arm starts the timer. The caller holds mu.
func (s *spikes) arm(d time.Duration) {
	if s.timer != nil {
		s.timer.Reset(d)
		return
	}
	self := weak.Make(s)
	s.timer = time.AfterFunc(d, func() {
		if s := self.Value(); s != nil {
			s.tick()
		}
	})
}

// stop ends the detection.
func (s *spikes) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// tick compares what has happened since the last tick with the baselines, and starts the timer
// again. The timer runs one tick at a time.
func (s *spikes) tick() {
	t, now := s.read(), time.Now()
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return
	}
	changes := s.judge(now, &t)
	if s.busy(&t) {
		s.arm(spikeTick)
	} else {
		s.running.Store(false) // the next event starts it again
	}
	s.mu.Unlock()
	for _, c := range changes {
		s.tell(c)
	}
}

// read returns the counters.
func (s *spikes) read() totals {
	m, t := s.g.events.meter, totals{of: map[string]uint64{}}
	var sizes tally.Counts
	for i := range m.shards {
		sizes.Add(&m.shards[i].in)
	}
	t.of[ofMessages], t.of[ofBytes], t.large = sizes.Total(), sizes.Sum, max(1, histogram(&sizes, 1).Quantile(0.999))
	m.mu.Lock()
	t.of[ofConnections], t.refusals = m.accepted, m.refusals()
	m.mu.Unlock()
	for _, n := range t.refusals {
		t.of[ofRefusals] += n
	}
	return t
}

// busy reports whether the timer must run on. The caller holds mu.
func (s *spikes) busy(t *totals) bool {
	seen := t.of[ofRefusals] + t.of[ofConnections] + t.of[ofMessages]
	if s.quiet++; seen != s.seen {
		s.quiet = 0
	}
	s.seen = seen
	if s.all.series.Spiking() {
		return true
	}
	for _, w := range s.rates {
		if w.series.Spiking() {
			return true
		}
	}
	return s.g.policy.Load().spikeFactor > 0 && (s.quiet < spikeQuiet || s.g.sessions.count() > 0)
}

// judge returns the changes that must be reported now. The caller holds mu.
func (s *spikes) judge(now time.Time, t *totals) (changes []*spikeChange) {
	for token := range t.refusals {
		if s.reasons[token] == nil {
			w := &watched{of: ofRefusals, reason: token}
			s.reasons[token], s.rates = w, append(s.rates, w)
		}
	}
	explained := false // there is a spike of the refusals for one reason
	for _, w := range s.rates {
		if c := s.advance(w, now, t, true); c != nil {
			changes = append(changes, c)
		}
		explained = explained || w.reason != "" && w.series.Spiking()
	}
	if c := s.advance(s.all, now, t, !explained); c != nil {
		changes = append(changes, c)
	}
	if n := t.of[ofMessages]; n != s.messages {
		s.messages = n
		s.note()
	}
	s.ticked = now
	return changes
}

// advance tells the series of w what was counted until now. It returns a change, or nil if there
// is none to report. A spike that begins while report is false is never reported. The caller
// holds mu.
func (s *spikes) advance(w *watched, now time.Time, t *totals, report bool) *spikeChange {
	total := t.of[w.of]
	if w.reason != "" {
		total = t.refusals[w.reason]
	}
	rule := baseline.Rule{Factor: s.g.policy.Load().spikeFactor, Floor: spikeFloors[w.of], FromZero: w.of == ofRefusals}
	if rule.Factor == 0 {
		rule.Factor = Off // 0 is the default there
	}
	if w.of == ofBytes {
		rule.Unit = t.large
		rule.Floor *= t.large
	}
	if !w.started {
		w.started = true
		w.series.Tick(s.g.born, 0, rule)
		if !s.ticked.IsZero() {
			w.series.Tick(s.ticked, 0, rule)
		}
	}
	c := &spikeChange{of: w.of, reason: w.reason, change: w.series.Tick(now, total, rule)}
	switch c.change.Kind {
	case baseline.Begun:
		if !report {
			return nil
		}
		s.begun[w.of]++
		w.spike = audit.Spike{Of: w.of, Reason: w.reason, Since: now, Rate: c.change.Rate, Baseline: c.change.Baseline}
		switch w.of {
		case ofMessages, ofBytes:
			c.offenders = s.senders(w.of)
		default:
			c.offenders = s.offending.of(now, w.of, w.reason, shownInEvent)
		}
		return c
	case baseline.Over:
		told := w.spike.Of != ""
		w.spike = audit.Spike{}
		if told {
			return c
		}
	}
	return nil
}

// figures adds the spikes to a Snapshot.
func (s *spikes) figures(to *audit.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to.Spikes = maps.Clone(s.begun)
	for _, w := range append([]*watched{s.all}, s.rates...) {
		if w.spike.Of != "" {
			to.Spiking = append(to.Spiking, w.spike)
		}
	}
}

// tell reports a spike that has begun or is over.
func (s *spikes) tell(c *spikeChange) {
	o := occurrence{spike: c, Event: audit.Event{Kind: audit.SpikeStart, Reason: c.of, Detail: c.text()}}
	if c.change.Kind == baseline.Over {
		o.Kind, o.Duration = audit.SpikeOver, c.change.For
	}
	s.g.events.tell(o, nil)
}

// text describes the change for people.
func (c *spikeChange) text() string {
	var b strings.Builder
	if c.reason != "" {
		fmt.Fprintf(&b, "for %s, ", c.reason)
	}
	if c.change.Kind == baseline.Over {
		fmt.Fprintf(&b, "at most %s per second", figure(c.change.Peak))
		if c.change.Settled {
			b.WriteString("; the rate has not fallen, and counts as usual from now on")
		}
		return b.String()
	}
	fmt.Fprintf(&b, "%s per second, usually %s", figure(c.change.Rate), figure(c.change.Baseline))
	separator := "; most from "
	for _, o := range c.offenders {
		fmt.Fprintf(&b, "%s%s (%d)", separator, o.Client, o.Count)
		separator = ", "
	}
	return b.String()
}

// record returns the change as a record.
func (c *spikeChange) record(at time.Time) audit.Record {
	if c.change.Kind == baseline.Over {
		return audit.SpikeEnded{
			Time: at, Of: c.of, Reason: c.reason, Peak: c.change.Peak, Duration: c.change.For, Settled: c.change.Settled,
		}
	}
	return audit.SpikeBegun{
		Time: at, Of: c.of, Reason: c.reason, Rate: c.change.Rate, Baseline: c.change.Baseline, Offenders: c.offenders,
	}
}

// figure writes a rate with the digits that matter.
func figure(rate float64) string {
	if rate >= 10 {
		return strconv.FormatFloat(math.Round(rate), 'f', -1, 64)
	}
	return strconv.FormatFloat(rate, 'g', 2, 64)
}

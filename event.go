package wsguard

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/audit"
)

const maxField = 256

// sink counts events and hands them to the log, to the hook and to the observer.
type sink struct {
	log      *slog.Logger      // read-only; nil: slog.Default at the time of the event
	hook     func(audit.Event) // read-only; nil: none
	meter    *meter            // read-only; has a lock of its own
	observer observer          // has a lock of its own
	recent   recent            // has a lock of its own
	spikes   *spikes           // read-only; has locks of its own; nil: spikes are not looked for

	mu    sync.Mutex           // no other lock is taken while it is held
	kinds map[sampled]*sampler // guarded by mu
}

// sampled is what all events of a sampler share.
type sampled struct {
	kind   audit.Kind
	reason string // of a warning; empty for all other events
	report bool
}

// sampler keeps repeated events from flooding the log. The mu of its sink guards it.
type sampler struct {
	of         sampled // read-only
	limit      *rate.Limiter
	suppressed uint64      // the events that no line has counted yet
	summary    *time.Timer // runs while suppressed is not 0; nil: it does not run
}

// How many lines the log gets, of each kind and reason of warnings, and of each kind of the
// events of every connection. All other events are rare.
const (
	warnPerSecond = 5
	warnBurst     = 20
	connPerSecond = 50
	connBurst     = 500
	summary       = time.Second // after this time a line of its own counts the suppressed events
)

// levelOf returns the level of the lines about a kind of events.
func levelOf(kind audit.Kind) slog.Level {
	switch kind {
	case audit.Refusal, audit.Violation, audit.Banned, audit.Warning, audit.SpikeStart, audit.SpikeOver:
		return slog.LevelWarn
	case audit.Accepted:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func newSink(cfg Config) *sink {
	return &sink{log: cfg.Logger, hook: cfg.OnEvent, meter: newMeter(), observer: observer{call: cfg.Observer}, kinds: map[sampled]*sampler{}}
}

func (s *sink) logger() *slog.Logger {
	if s.log != nil {
		return s.log
	}
	return slog.Default()
}

// emit reports an event that has no more in its record than in e.
func (s *sink) emit(e audit.Event) { s.tell(occurrence{Event: e}, nil) }

// tell counts an event. Then it reports the event to the log, to the hook and to the observer. A
// panic of one of them is recovered, and the others get the event nevertheless.
//
// If more can be said about the event than o.Detail does, more says it. tell calls more only if
// there is a line for the event in the log, and the hook and the observer then get the same
// Detail. A nil more says nothing.
func (s *sink) tell(o occurrence, more func() string) {
	defer func() { _ = recover() }()
	o.Reason = sanitize(o.Reason, maxField)
	refusal := s.meter.count(&o.Event)
	s.spikes.saw(&o, refusal)
	keep := refusal != "" && s.recent.due(refusal)
	suppressed, due := s.due(&o.Event)
	switch {
	case due && more != nil:
		o.Detail = more()
	case !due && !keep && s.hook == nil && s.observer.call == nil:
		return
	}
	o.Time = time.Now()
	for _, field := range []*string{&o.Subject, &o.Client, &o.Origin, &o.Host, &o.Path, &o.RequestID, &o.Operator, &o.Detail} {
		*field = sanitize(*field, maxField)
	}
	if s.hook != nil || s.observer.call != nil {
		// The application may keep the event. These strings may be parts of a long request.
		for _, field := range []*string{&o.Origin, &o.Host, &o.Path, &o.RequestID} {
			*field = strings.Clone(*field)
		}
	}
	if keep {
		s.recent.add(refusal, o.Event)
	}
	if due {
		s.write(o.Event, suppressed)
	}
	if s.hook != nil {
		s.callHook(o.Event)
	}
	if s.observer.call != nil {
		if o.ctx == nil {
			o.ctx = context.Background()
		}
		s.observer.add(o.ctx, o.record())
	}
}

// callHook calls the hook, and recovers its panic.
func (s *sink) callHook(e audit.Event) {
	defer func() { _ = recover() }()
	s.hook(e)
}

// due reports whether e must be written, and how many events before it were suppressed.
func (s *sink) due(e *audit.Event) (suppressed uint64, ok bool) {
	defer func() { _ = recover() }() // the Logger's handler is the application's
	if !s.logger().Enabled(context.Background(), levelOf(e.Kind)) {
		return 0, false
	}
	return s.sample(e)
}

// likely reports whether an event of this kind and reason would be written now.
func (s *sink) likely(kind audit.Kind, reason string) (yes bool) {
	defer func() { _ = recover() }()
	if !s.logger().Enabled(context.Background(), levelOf(kind)) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sampler(&audit.Event{Kind: kind, Reason: reason})
	return k == nil || k.limit.Tokens() >= 1
}

func (s *sink) write(e audit.Event, suppressed uint64) {
	defer func() { _ = recover() }()
	s.line(e, suppressed)
}

// line writes e and the number of events before it that were suppressed. An e that only counts
// suppressed events has no ConnID and no Status.
func (s *sink) line(e audit.Event, suppressed uint64) {
	attrs := make([]slog.Attr, 0, 20)
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("id", e.ConnID)
	add("subject", e.Subject)
	add("client", e.Client)
	add("origin", e.Origin)
	add("endpoint", e.Endpoint)
	add("path", e.Path)
	add("request_id", e.RequestID)
	add("operator", e.Operator)
	closed := e.Kind == audit.Close && e.ConnID != ""
	switch {
	case e.Kind == audit.Refusal:
		add("host", e.Host)
		if e.Status != 0 { // only the event of one refusal has a status
			attrs = append(attrs, slog.Int("status", e.Status))
		}
		if e.Code != 0 {
			attrs = append(attrs, slog.Int("code", int(e.Code)))
		}
	case closed:
		attrs = append(attrs, slog.Int("code", int(e.Code)), slog.Bool("remote", e.Remote), slog.String("by", string(e.By)))
		if e.PeerCode != 0 {
			attrs = append(attrs, slog.Int("peer_code", int(e.PeerCode)))
		}
	}
	add("reason", e.Reason)
	add("action", string(e.Action))
	add("detail", e.Detail)
	if e.Kind == audit.SpikeOver {
		attrs = append(attrs, slog.Duration("duration", e.Duration))
	}
	if e.Report {
		attrs = append(attrs, slog.Bool("report_only", true))
	}
	if closed {
		attrs = append(attrs, slog.Duration("duration", e.Duration),
			slog.Uint64("messages_in", e.MessagesIn), slog.Uint64("messages_out", e.MessagesOut),
			slog.Uint64("bytes_in", e.BytesIn), slog.Uint64("bytes_out", e.BytesOut))
		if e.Violations > 0 {
			attrs = append(attrs, slog.Uint64("violations", e.Violations), slog.Uint64("violations_without_notice", e.ViolationsWithoutNotice))
		}
		if e.Dropped > 0 {
			attrs = append(attrs, slog.Uint64("dropped", e.Dropped))
		}
	}
	if e.Stack != nil {
		attrs = append(attrs, slog.String("stack", string(e.Stack)))
	}
	if suppressed > 0 {
		attrs = append(attrs, slog.Uint64("suppressed", suppressed))
	}
	s.logger().LogAttrs(context.Background(), levelOf(e.Kind), "websocket "+string(e.Kind), attrs...)
}

// sampler returns the sampler of an event, or nil if all events of its kind are written. The
// caller holds mu.
func (s *sink) sampler(e *audit.Event) *sampler {
	of, limit, burst := sampled{kind: e.Kind}, rate.Limit(connPerSecond), connBurst
	switch {
	case levelOf(e.Kind) == slog.LevelWarn:
		of.reason, of.report = e.Reason, e.Report // the reasons are a closed set
		limit, burst = warnPerSecond, warnBurst
	case e.Kind != audit.Accepted && e.Kind != audit.Open && e.Kind != audit.Close && e.Kind != audit.Refresh:
		return nil
	}
	k := s.kinds[of]
	if k == nil {
		k = &sampler{of: of, limit: rate.NewLimiter(limit, burst)}
		s.kinds[of] = k
	}
	return k
}

// sample reports whether e must be written, and how many events before it were suppressed.
func (s *sink) sample(e *audit.Event) (suppressed uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sampler(e)
	if k == nil {
		return 0, true
	}
	if !k.limit.Allow() {
		k.suppressed++
		if k.summary == nil {
			k.summary = time.AfterFunc(summary, func() { s.summarize(k) })
		}
		return 0, false
	}
	k.stop()
	suppressed, k.suppressed = k.suppressed, 0
	return suppressed, true
}

func (k *sampler) stop() {
	if k.summary != nil {
		k.summary.Stop()
		k.summary = nil
	}
}

// summarize writes how many events of k were suppressed, unless a line has said so since.
func (s *sink) summarize(k *sampler) {
	defer func() { _ = recover() }()
	s.mu.Lock()
	n := k.suppressed
	k.suppressed = 0
	k.stop()
	s.mu.Unlock()
	if n > 0 {
		s.line(audit.Event{Kind: k.of.kind, Reason: k.of.reason, Report: k.of.report}, n)
	}
}

// flush calls summarize for every sampler.
func (s *sink) flush() {
	s.mu.Lock()
	kinds := slices.Collect(maps.Values(s.kinds))
	s.mu.Unlock()
	for _, k := range kinds {
		s.summarize(k)
	}
}

// sanitize makes a peer's string fit for a log, a terminal and a page. It escapes control
// characters (C0, DEL, C1), characters that reorder text, line separators and invalid UTF-8, and
// cuts the string to about limit bytes.
func sanitize(s string, limit int) string {
	clean := len(s) <= limit
	for i := 0; clean && i < len(s); i++ {
		clean = s[i] >= 0x20 && s[i] < 0x7f
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if b.Len() >= limit {
			b.WriteString("…")
			break
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unsafeRune(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// maxQuoted is how many bytes of a peer the detail of an event quotes at most.
const maxQuoted = 64

// quotable joins values of a peer into a list that a detail can quote. The list is escaped and
// cut.
func quotable(values []string) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		if b.WriteString(v[:min(len(v), maxQuoted)]); b.Len() > maxQuoted {
			break
		}
	}
	return sanitize(b.String(), maxQuoted)
}

func unsafeRune(r rune) bool {
	switch {
	case r < 0x20, r >= 0x7f && r < 0xa0: // C0, DEL, C1
		return true
	case r == 0x061c, r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2060 && r <= 0x206f, r == 0xfeff, r == 0xfff9, r == 0xfffa, r == 0xfffb: // bidi, zero width, separators
		return true
	case r >= 0xe0000 && r <= 0xe007f: // tags
		return true
	}
	return false
}

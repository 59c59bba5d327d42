package wstest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Log is a [slog.Handler] that keeps every record, whatever its level. The zero
// value is ready for use:
//
//	var events wstest.Log
//	logger := slog.New(&events)
type Log struct {
	mu      sync.Mutex
	records []Record
}

// Record is what was logged in one call.
type Record struct {
	Time    time.Time
	Level   slog.Level
	Message string

	// Attrs are the attributes in their order, those of the logger first. Names
	// of groups are part of the key ("client.addr"), values are resolved.
	Attrs []slog.Attr
}

// Attr returns the value of the last attribute with the key, or the zero Value,
// whose Any is nil, if there is none.
func (r Record) Attr(key string) slog.Value {
	for _, a := range slices.Backward(r.Attrs) {
		if a.Key == key {
			return a.Value
		}
	}
	return slog.Value{}
}

// String renders the record in a line. Each value is rendered without quotes or
// escapes, and one that is not of a basic type also as JSON, so that a secret
// is found by a plain search whichever handler would have let it out.
func (r Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", r.Level, r.Message)
	for _, a := range r.Attrs {
		fmt.Fprintf(&b, " %s=%s", a.Key, render(a.Value))
	}
	return b.String()
}

func render(v slog.Value) string {
	if v.Kind() != slog.KindAny {
		return v.String()
	}
	switch v := v.Any().(type) {
	case error:
		return safely(func() string { return v.Error() })
	case []byte:
		return string(v)
	}
	s := fmt.Sprintf("%+v", v.Any())
	j := safely(func() string { b, _ := json.Marshal(v.Any()); return string(b) })
	if j != "" && j != s {
		s += " " + j
	}
	return s
}

// safely keeps a nil pointer in an attribute from ending the test, as slog's
// own handlers do.
func safely(f func() string) (s string) {
	defer func() {
		if p := recover(); p != nil {
			s = fmt.Sprintf("!PANIC: %v", p)
		}
	}()
	return f()
}

// Records returns a copy of the records so far.
func (l *Log) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// Find returns the records with the message msg.
func (l *Log) Find(msg string) []Record {
	return slices.DeleteFunc(l.Records(), func(r Record) bool { return r.Message != msg })
}

// String renders all records, each in a line of its own.
func (l *Log) String() string {
	var b strings.Builder
	for _, r := range l.Records() {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

// Enabled implements [slog.Handler]: it is true for every level.
func (l *Log) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (l *Log) Handle(ctx context.Context, r slog.Record) error {
	return (&logWith{log: l}).Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (l *Log) WithAttrs(attrs []slog.Attr) slog.Handler { return (&logWith{log: l}).WithAttrs(attrs) }

// WithGroup implements [slog.Handler].
func (l *Log) WithGroup(name string) slog.Handler { return (&logWith{log: l}).WithGroup(name) }

// logWith is a Log with attributes and an open group.
type logWith struct {
	log    *Log
	prefix string
	attrs  []slog.Attr
}

func (h *logWith) Enabled(context.Context, slog.Level) bool { return true }

func (h *logWith) Handle(_ context.Context, r slog.Record) error {
	attrs := slices.Clone(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		attrs = flatten(attrs, h.prefix, a)
		return true
	})
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	h.log.records = append(h.log.records, Record{r.Time, r.Level, r.Message, attrs})
	return nil
}

func (h *logWith) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		with.attrs = flatten(with.attrs, h.prefix, a)
	}
	return &with
}

func (h *logWith) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.prefix += name + "."
	return &with
}

// flatten appends a to dst by the rules of [slog.Handler]: empty attributes are
// dropped, and a group without a name is inlined.
func flatten(dst []slog.Attr, prefix string, a slog.Attr) []slog.Attr {
	a.Value = a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
		return dst
	case a.Value.Kind() != slog.KindGroup:
		return append(dst, slog.Attr{Key: prefix + a.Key, Value: a.Value})
	case a.Key != "":
		prefix += a.Key + "."
	}
	for _, member := range a.Value.Group() {
		dst = flatten(dst, prefix, member)
	}
	return dst
}

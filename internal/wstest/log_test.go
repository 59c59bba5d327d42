package wstest_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// The rules of slog, by its own test.
func TestLogHandler(t *testing.T) {
	var l *wstest.Log
	slogtest.Run(t, func(*testing.T) slog.Handler {
		l = new(wstest.Log)
		return l
	}, func(*testing.T) map[string]any {
		r := l.Records()[0]
		m := map[string]any{slog.LevelKey: r.Level, slog.MessageKey: r.Message}
		if !r.Time.IsZero() {
			m[slog.TimeKey] = r.Time
		}
		for _, a := range r.Attrs {
			path := strings.Split(a.Key, ".")
			in := m
			for _, group := range path[:len(path)-1] {
				if in[group] == nil {
					in[group] = map[string]any{}
				}
				in = in[group].(map[string]any)
			}
			in[path[len(path)-1]] = a.Value.Any()
		}
		return m
	})
}

func TestLog(t *testing.T) {
	var l wstest.Log
	logger := slog.New(&l)
	logger.Debug("open", "n", 1)
	logger.With("a", 1).WithGroup("client").Info("close", "addr", "192.0.2.1", "n", 7, slog.Group("inner", "d", time.Second), "n", 8)
	logger.Warn("open", "n", 2)

	if got := l.Find("nothing"); len(got) != 0 {
		t.Errorf("found %v", got)
	}
	got := l.Find("open")
	if len(got) != 2 || got[0].Attr("n").Int64() != 1 || got[1].Attr("n").Int64() != 2 || got[1].Level != slog.LevelWarn || got[0].Time.IsZero() {
		t.Errorf("found %v", got)
	}
	r := l.Find("close")[0]
	if r.Attr("client.addr").String() != "192.0.2.1" || r.Attr("client.n").Int64() != 8 || r.Attr("client.inner.d").Duration() != time.Second {
		t.Errorf("got %v", r)
	}
	if r.Attr("addr").Any() != nil || r.Attr("a").Int64() != 1 {
		t.Errorf("got %v", r)
	}
	const want = "DEBUG open n=1\nINFO close a=1 client.addr=192.0.2.1 client.n=7 client.inner.d=1s client.n=8\nWARN open n=2\n"
	if got := l.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}

	// A copy: what a test does to it changes nothing.
	l.Records()[0].Message = "changed"
	if len(l.Find("open")) != 2 {
		t.Error("Records is no copy")
	}
}

type secretive struct {
	Open   string
	Nested *struct{ Token string }
}

type valuer struct{}

func (valuer) LogValue() slog.Value { return slog.GroupValue(slog.String("v", "s3cret-valuer")) }

// However a secret gets into a record, a plain search finds it.
func TestLogFindsSecrets(t *testing.T) {
	for name, log := range map[string]func(*slog.Logger){
		"message":    func(l *slog.Logger) { l.Info("with s3cret-") },
		"key":        func(l *slog.Logger) { l.Info("m", "s3cret-", 1) },
		"string":     func(l *slog.Logger) { l.Info("m", "k", `quoted "s3cret-"`) },
		"With":       func(l *slog.Logger) { l.With("k", "s3cret-").Info("m") },
		"WithGroup":  func(l *slog.Logger) { l.WithGroup("s3cret-").Info("m", "k", 1) },
		"group":      func(l *slog.Logger) { l.Info("m", slog.Group("g", "k", "s3cret-")) },
		"error":      func(l *slog.Logger) { l.Info("m", "k", errors.New("s3cret-")) },
		"bytes":      func(l *slog.Logger) { l.Info("m", "k", []byte("s3cret-")) },
		"struct":     func(l *slog.Logger) { l.Info("m", "k", secretive{Open: "s3cret-"}) },
		"pointer":    func(l *slog.Logger) { l.Info("m", "k", secretive{Nested: &struct{ Token string }{"s3cret-"}}) },
		"unexported": func(l *slog.Logger) { l.Info("m", "k", struct{ token string }{"s3cret-"}) },
		"map":        func(l *slog.Logger) { l.Info("m", "k", map[string][]string{"a": {"s3cret-"}}) },
		"LogValuer":  func(l *slog.Logger) { l.Info("m", "k", valuer{}) },
	} {
		var l wstest.Log
		log(slog.New(&l))
		if got := l.String(); !strings.Contains(got, "s3cret-") {
			t.Errorf("%s: %q hides the secret", name, got)
		}
	}
}

type nilError struct{ msg string }

func (e *nilError) Error() string { return e.msg }

func TestLogOddValues(t *testing.T) {
	var l wstest.Log
	args := []any{"nil", nil, "typed", (*nilError)(nil), "func", func() {}, "chan", make(chan int), "eof", io.EOF, "lonely"}
	slog.New(&l).Info("m", args...)
	got := l.String()
	for _, want := range []string{" nil=<nil>", " typed=!PANIC", " eof=EOF", "!BADKEY=lonely"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

// Loggers and records that come from one logger share nothing that is written.
func TestLogDerived(t *testing.T) {
	var l wstest.Log
	base := slog.New(&l).With("a", 1, "b", 2).With("c", 3) // three in a slice for four
	x, y := base.With("d", "x"), base.With("d", "y")
	x.Info("m")
	y.Info("m")
	base.Info("m", "d", "z")
	base.Info("m", "d", "end")
	for i, want := range []string{"x", "y", "z", "end"} {
		if got := l.Records()[i].Attr("d").String(); got != want {
			t.Errorf("record %d has %q, want %q", i, got, want)
		}
	}
	if h := l.WithGroup(""); h.WithGroup("") != h {
		t.Error("an empty group counts")
	}
}

func TestLogConcurrent(t *testing.T) {
	var l wstest.Log
	logger := slog.New(&l).With("shared", 1)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			mine := logger.With("i", i)
			for range 50 {
				mine.Info("m", "x", 1)
				l.Find("m")
			}
		})
	}
	wg.Wait()
	if got := len(l.Records()); got != 1000 {
		t.Errorf("%d records", got)
	}
	for _, r := range l.Records() {
		if len(r.Attrs) != 3 {
			t.Fatalf("mixed up: %v", r)
		}
	}
	if !l.Enabled(context.Background(), slog.LevelDebug-100) {
		t.Error("a level is not recorded")
	}
}

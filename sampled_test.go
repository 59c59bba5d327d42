package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// The lines of open, close and refresh are sampled apart, and counted. OnEvent gets every event.
func TestConnectionLinesSampled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 700
		e := newEnv(t, conf(noHandshakeLimits, noPings, anyToken))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			if err := c.Refresh(ctx, c.Principal().Subject); err != nil {
				return err
			}
			return echo(ctx, c)
		}))
		for i := range n {
			bye(e.open(bearer(fmt.Sprint("u", i))))
		}
		e.events.wait(t, audit.Close, n)
		synctest.Wait()
		check := func(when string, lines int, counted uint64) {
			t.Helper()
			for _, kind := range []audit.Kind{audit.Open, audit.Close, audit.Refresh} {
				all := e.log.Find("websocket " + string(kind))
				var suppressed uint64
				own := 0
				for _, l := range all {
					if l.Level != slog.LevelInfo {
						t.Errorf("%s: %s at %v", when, kind, l.Level)
					}
					if l.Attr("id").Any() != nil {
						own++
					} else if len(l.Attrs) != 1 {
						t.Errorf("%s: a line that only counts has more: %v", when, l.Attrs)
					}
					if s := l.Attr("suppressed"); s.Any() != nil {
						suppressed += s.Uint64()
					}
				}
				if own != lines || suppressed != counted {
					t.Errorf("%s: %d lines of %s, and %d suppressed, want %d and %d", when, own, kind, suppressed, lines, counted)
				}
				if got := len(e.events.of(kind)); got < n {
					t.Errorf("%s: %d events of %s", when, got, kind)
				}
			}
		}
		check("at once", 500, 0)
		time.Sleep(1100 * time.Millisecond)
		check("after a second", 500, n-500)
		for i := range 100 { // 55 places have come back
			bye(e.open(bearer(fmt.Sprint("v", i))))
		}
		synctest.Wait()
		check("after more", 555, n-500)
		if err := e.g.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		check("after Shutdown", 555, n-500+45)
	})
}

// A refused message is explained only for a notice or a line in the log. The events of the others
// name the keyword.
func TestRefusedExplainedForReaders(t *testing.T) {
	schema := must(wsguard.CompileSchema([]byte(`{"properties":{"list":{"items":{"type":"integer"}}}}`)))
	const place, keyword = `at "/list/1"`, "by #/properties/list/items/type"
	for name, tt := range map[string]struct {
		validator wsguard.Validator
		message   string
		report    bool
	}{
		"schema":      {schema, `{"list":[1,"x"]}`, false},
		"report only": {schema, `{"list":[1,"x"]}`, true},
		"table":       {&wsguard.Table{Types: map[string]wsguard.Rule{"say": {Validator: schema}}}, `{"type":"say","list":[1,"x"]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(noRates, noPings, func(cfg *wsguard.Config) {
					cfg.Messages = wsguard.MessageConfig{Validator: tt.validator, OnInvalid: wsguard.ActionReply, ReportOnly: tt.report}
				}))
				c := e.open(header())
				notices := 0
				send := func(n int) {
					t.Helper()
					for range n {
						c.WriteFrame(wstest.Text(tt.message))
					}
					synctest.Wait()
				}
				read := func(n int) {
					t.Helper()
					for range n {
						_, msg, err := c.ReadMessage()
						if err != nil {
							t.Fatal(err)
						}
						if strings.Contains(string(msg), `"pointer":"/list/1"`) {
							notices++
						}
					}
				}
				const n = 200
				send(n)
				if tt.report {
					read(n)
				} else {
					read(20)
				}
				if !tt.report && notices != 20 {
					t.Errorf("%d notices", notices)
				}
				explained := 0
				events := e.events.of(audit.Violation)
				for i, ev := range events {
					if !errors.Is(ev.Err, reason.Schema) || ev.Reason != "schema" || !strings.Contains(ev.Detail, keyword) || name == "table" && !strings.HasPrefix(ev.Detail, "say: ") {
						t.Fatalf("event %d: %s: %s", i, ev.Reason, ev.Detail)
					}
					if strings.Contains(ev.Detail, place) {
						explained++
					}
				}
				if len(events) != n || explained != 20 {
					t.Errorf("%d events, %d of them explained, want %d and 20", len(events), explained, n)
				}
				// A second brings a notice, and some lines.
				time.Sleep(time.Second)
				send(50)
				events = e.events.of(audit.Violation)
				explained = 0
				for _, ev := range events[n:] {
					if strings.Contains(ev.Detail, place) {
						explained++
					}
				}
				if explained != 5 {
					t.Errorf("%d explained after a second, want 5", explained)
				}
				lines := 0
				for _, l := range e.log.Find("websocket violation") {
					if l.Attr("id").Any() != nil {
						lines++
						if d := l.Attr("detail").String(); !strings.Contains(d, place) || !strings.Contains(d, keyword) {
							t.Errorf("a line says %s", d)
						}
					}
				}
				if lines != 25 {
					t.Errorf("%d lines", lines)
				}
				e.g.Admin().Kick(e.ids()[0], 0, "")
			})
		})
	}
	t.Run("close", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, conf(noHandshakeLimits, noPings, func(cfg *wsguard.Config) { cfg.Messages.Validator = schema }))
			const n = 600
			for i := range n {
				c := e.open(header())
				c.WriteFrame(wstest.Text(`{"list":[1,"x"]}`))
				wantClose(t, c, 1008, "schema")
				bye(c)
				e.events.wait(t, audit.Close, i+1) // the next one must not overtake it
			}
			synctest.Wait()
			for _, kind := range []audit.Kind{audit.Violation, audit.Close} {
				explained := 0
				for i, ev := range e.events.of(kind) {
					if !strings.Contains(ev.Detail, keyword) {
						t.Fatalf("%s %d: %s", kind, i, ev.Detail)
					}
					if strings.Contains(ev.Detail, place) {
						explained++
					}
				}
				if explained != 500 {
					t.Errorf("%d of %s explained", explained, kind)
				}
			}
			for _, kind := range []string{"violation", "close"} {
				for _, l := range e.log.Find("websocket " + kind) {
					if d := l.Attr("detail").String(); l.Attr("id").Any() != nil && !strings.Contains(d, place) {
						t.Fatalf("a line of %s says %s", kind, d)
					}
				}
			}
		})
	})
}

package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

func chatTable() *wsguard.Table {
	say := must(wsguard.CompileSchema([]byte(`{"type":"object","additionalProperties":false,"required":["type","text"],
		"properties":{"type":{"const":"say"},"text":{"type":"string","maxLength":20}}}`)))
	return &wsguard.Table{Types: map[string]wsguard.Rule{
		"say":    {Validator: say},
		"ban":    {Scope: "moderate"},
		"upload": {Scope: "write", MaxBytes: 40, Cost: 5},
		"custom": {Validator: refuseWord("bad")},
	}}
}

// refuseWord is somebody's own Validator.
type refuseWord string

func (w refuseWord) Validate(msg []byte) error {
	if strings.Contains(string(msg), string(w)) {
		return errors.New("the word")
	}
	return nil
}

var tableCases = []struct {
	msg  string
	why  *reason.Reason // nil: it passes
	code int
}{
	{`{"type":"say","text":"hello"}`, nil, 0},
	{` {"text":"hello","type":"say"} `, nil, 0},
	{`{"t\u0079pe":"say","text":"hello"}`, nil, 0},
	{`{"type":"say","text":"this is longer than it may be"}`, reason.Schema, 1008},
	{`{"type":"say","text":"x"`, reason.InvalidJSON, 1007},
	{`{"type":"upload","data":"x"}`, nil, 0},
	{`{"type":"upload","data":"` + strings.Repeat("x", 30) + `"}`, reason.MessageTooBig, 1009},
	{`{"type":"custom","text":"good"}`, nil, 0},
	{`{"type":"custom","text":"bad"}`, reason.Schema, 1008},
	{`{"type":"ban","whom":"bob"}`, reason.Forbidden, 3003},
	{`{"type":"nothing"}`, reason.UnknownType, 1008},
	{`{"type":7}`, reason.UnknownType, 1008},
	{`{"kind":"say"}`, reason.UnknownType, 1008},
	{`{}`, reason.UnknownType, 1008},
	{`[]`, reason.UnknownType, 1008},
	{`"say"`, reason.UnknownType, 1008},
	{``, reason.InvalidJSON, 1007},
	{`nothing`, reason.InvalidJSON, 1007},
	// What encoding/json would take for a ban.
	{`{"type":"custom","type":"ban"}`, reason.InvalidJSON, 1007},
	{`{"type":"custom","t\u0079pe":"ban"}`, reason.InvalidJSON, 1007},
	{`{"type":"custom","Type":"ban"}`, reason.UnknownType, 1008},
	{`{"TYPE":"ban","type":"custom"}`, reason.UnknownType, 1008},
	{`{"type":"custom","a":1,"a":2}`, reason.InvalidJSON, 1007},
}

// reportOnly stands in tables of tests for the report-only mode.
const reportOnly wsguard.Action = -1

// onRefused sets what happens to messages that a hook refuses.
func onRefused(m *wsguard.MessageConfig, action wsguard.Action) {
	if action == reportOnly {
		m.ReportOnly, m.InsecureReportOnlyForbidden = true, true
		return
	}
	m.OnInvalid, m.OnForbidden = action, action
}

// T39: each message by its type, and nothing that has none.
func TestTable(t *testing.T) {
	table := chatTable()
	for _, tt := range tableCases {
		// Who it is from is not its business, and a Validator's error is its own.
		passes := tt.why == nil || tt.why == reason.Forbidden
		if err := table.Validate([]byte(tt.msg)); passes != (err == nil) || !passes && tt.why != reason.Schema && !errors.Is(err, tt.why) {
			t.Errorf("Validate(%s): %v, want %v", tt.msg, err, tt.why)
		}
		for action, name := range map[wsguard.Action]string{wsguard.ActionClose: "close", wsguard.ActionReply: "reply", reportOnly: "report"} {
			t.Run("T39 "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e := serveGuard(t, conf(loginConfig, func(cfg *wsguard.Config) {
						cfg.Messages = wsguard.MessageConfig{Validator: table}
						onRefused(&cfg.Messages, action)
					}))
					c := e.open(bearer("alice - 0s write"))
					c.WriteFrame(wstest.Text(tt.msg))
					var want *reason.Reason
					switch {
					case tt.why == nil, action == reportOnly:
						wantMessage(t, c, tt.msg)
						want = tt.why
					case action == wsguard.ActionReply:
						_, p, err := c.ReadMessage()
						text := string(p)
						if err != nil || !strings.HasPrefix(text, `{"error":"`+map[bool]string{true: "forbidden", false: "invalid_message"}[tt.why == reason.Forbidden]+`"`) {
							t.Errorf("%s: %s %v", tt.msg, text, err)
						}
						roundTrip(t, c, `{"type":"say","text":"goes on"}`)
						want = tt.why
					default:
						wantClose(t, c, tt.code, tt.why.Token())
						if ev := e.closed(); !errors.Is(ev.Err, tt.why) {
							t.Errorf("%s: %+v", tt.msg, ev)
						}
						return
					}
					synctest.Wait()
					vs := e.events.of(audit.Violation)
					// What no type is known of, nobody may send, either.
					if len(vs) == 2 && errors.Is(vs[1].Err, reason.Forbidden) && vs[1].Report {
						vs = vs[:1]
					}
					if want == nil && len(vs) > 0 || want != nil && (len(vs) != 1 || !errors.Is(vs[0].Err, want) || vs[0].Report != (action == reportOnly)) {
						t.Errorf("%s: %+v", tt.msg, vs)
					}
					bye(c)
				})
			})
		}
	}
}

// A refusal says of which type, where, and why.
func TestTableDetail(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(cfg *wsguard.Config) {
			cfg.Messages = wsguard.MessageConfig{Validator: chatTable(), OnInvalid: wsguard.ActionReply, OnForbidden: wsguard.ActionReply}
		}))
		c := e.open(header())
		for _, msg := range []string{`{"type":"say","text":7}`, `{"type":"ban"}`} {
			c.WriteFrame(wstest.Text(msg))
			c.ReadMessage()
		}
		synctest.Wait()
		vs := e.events.of(audit.Violation)
		for i, want := range [][]string{{"say: ", `"/text"`, "#/properties/text/type"}, {"ban: ", `needs scope "moderate"`}} {
			for _, w := range want {
				if !strings.Contains(vs[i].Detail, w) {
					t.Errorf("%q lacks %q", vs[i].Detail, w)
				}
			}
		}
		bye(c)
	})
}

// A message of a dear type counts for several.
func TestTableCost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, loginConfig, func(cfg *wsguard.Config) {
			cfg.Rates.Messages = wsguard.Rate{PerSecond: 1, Burst: 11}
			cfg.Rates.Action = wsguard.ActionReply
			cfg.Messages.Validator = chatTable()
		}))
		c := e.open(bearer("alice - 0s write"))
		up, say := `{"type":"upload"}`, `{"type":"say","text":""}`
		limited := func(msg, retry string) {
			t.Helper()
			c.WriteFrame(wstest.Text(msg))
			wantMessage(t, c, `{"error":"rate_limited","retry_after_ms":`+retry+`}`)
		}
		roundTrip(t, c, up)
		roundTrip(t, c, up)
		limited(up, "4000")
		roundTrip(t, c, say) // what was refused took nothing
		limited(say, "1000")
		time.Sleep(5 * time.Second)
		roundTrip(t, c, up)
		limited(say, "1000")
	})
}

// T39: the application is asked last; whatever it does, nothing unasked passes.
func TestAuthorize(t *testing.T) {
	var asked atomic.Int64
	hook := func(ctx context.Context, p wsguard.Principal, kind string, msg []byte) error {
		asked.Add(1)
		switch {
		case p.Subject != "alice" || kind == "" || len(msg) == 0:
			return errors.New("asked wrongly")
		case strings.Contains(string(msg), "down"):
			return fmt.Errorf("store: %w", wsguard.ErrUnavailable)
		case strings.Contains(string(msg), "no"):
			return errors.New("not this one")
		case strings.Contains(string(msg), "panic"):
			panic("hook")
		case strings.Contains(string(msg), "hang"):
			<-ctx.Done()
			return ctx.Err()
		case strings.Contains(string(msg), "stuck"):
			time.Sleep(time.Hour)
		}
		return nil
	}
	for _, tt := range []struct {
		text   string
		action wsguard.Action
		why    *reason.Reason
		code   int
		asked  int64
	}{
		{"fine", wsguard.ActionClose, nil, 0, 1},
		{"no", wsguard.ActionClose, reason.Forbidden, 3003, 1},
		{"no", wsguard.ActionReply, nil, 0, 2},
		{"down", wsguard.ActionReply, reason.Unavailable, 1013, 1},
		{"panic", reportOnly, reason.Internal, 1011, 1},
		{"hang", wsguard.ActionReply, reason.Unavailable, 1013, 1},
		{"stuck", reportOnly, reason.Unavailable, 1013, 1},
		{"too long to be said at all", wsguard.ActionClose, reason.Schema, 1008, 0},
	} {
		t.Run("T39 T76 "+tt.text, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				asked.Store(0)
				e := serveGuard(t, conf(loginConfig, func(cfg *wsguard.Config) {
					cfg.Messages = wsguard.MessageConfig{Validator: chatTable(), Authorize: hook}
					onRefused(&cfg.Messages, tt.action)
				}))
				c := e.open(bearer("alice - 0s"))
				msg := `{"type":"say","text":"` + tt.text + `"}`
				start := time.Now()
				c.WriteFrame(wstest.Text(msg))
				switch {
				case tt.why == nil && tt.action == wsguard.ActionReply:
					wantMessage(t, c, `{"error":"forbidden"}`)
					roundTrip(t, c, `{"type":"say","text":"fine"}`)
					bye(c)
				case tt.why == nil:
					wantMessage(t, c, msg)
					bye(c)
				default:
					wantClose(t, c, tt.code, tt.why.Token())
					wantBetween(t, tt.text, time.Since(start), 0, 6*time.Second)
					if ev := e.closed(); !errors.Is(ev.Err, tt.why) || ev.MessagesIn != 0 {
						t.Errorf("%+v", ev)
					}
				}
				if n := asked.Load(); n != tt.asked {
					t.Errorf("asked %d times, want %d", n, tt.asked)
				}
				time.Sleep(2 * time.Hour) // the hook that is stuck
				if e.g.Conns() != 0 {
					t.Error("the slot is held")
				}
			})
		})
	}
}

// Scopes are those of the moment: a Refresh may take one away.
func TestTableScopesOfNow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(loginConfig, func(cfg *wsguard.Config) {
			cfg.Messages.Validator = chatTable()
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for {
				typ, msg, err := c.Read(ctx)
				if err != nil {
					return err
				}
				if err := c.Refresh(ctx, "alice - 1h"); err != nil {
					return err
				}
				c.Write(ctx, typ, msg)
			}
		}))
		c := e.open(bearer("alice - 1h moderate"))
		roundTrip(t, c, `{"type":"ban"}`)
		c.WriteFrame(wstest.Text(`{"type":"ban"}`))
		wantClose(t, c, 3003, "forbidden")
	})
}

func TestTableConfig(t *testing.T) {
	for name, tt := range map[string]struct {
		m     wsguard.MessageConfig
		field string
	}{
		"no types":       {wsguard.MessageConfig{Validator: &wsguard.Table{}}, "Messages.Validator.Types"},
		"pointer":        {wsguard.MessageConfig{Validator: &wsguard.Table{Pointer: "type", Types: chatTable().Types}}, "Messages.Validator.Pointer"},
		"escape":         {wsguard.MessageConfig{Validator: &wsguard.Table{Pointer: "/a~2", Types: chatTable().Types}}, "Messages.Validator.Pointer"},
		"negative cost":  {wsguard.MessageConfig{Validator: &wsguard.Table{Types: map[string]wsguard.Rule{"a": {Cost: -1}}}}, "Messages.Validator.Types"},
		"nested":         {wsguard.MessageConfig{Validator: &wsguard.Table{Types: map[string]wsguard.Rule{"a": {Validator: chatTable()}}}}, "Messages.Validator.Types"},
		"by subprotocol": {wsguard.MessageConfig{Validators: map[string]wsguard.Validator{"chat": &wsguard.Table{}}}, "Messages.Validators.Types"},
		"action":         {wsguard.MessageConfig{OnForbidden: wsguard.ActionDelay}, "Messages.OnForbidden"},
	} {
		_, err := wsguard.New(wsguard.Config{
			Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true},
			Subprotocols: []string{"chat"}, Messages: tt.m,
		})
		if got := faultsOf(t, err); len(got) != 1 || got[0] != tt.field {
			t.Errorf("%s: %v, want %s", name, got, tt.field)
		}
	}
	bad := &wsguard.Table{Pointer: "type", Types: chatTable().Types}
	if err := bad.Validate([]byte(`{"type":"say"}`)); !errors.Is(err, reason.Internal) {
		t.Error(err)
	}
	deep := &wsguard.Table{Pointer: "/op/a~1b~0", Types: map[string]wsguard.Rule{"x": {}}}
	if err := deep.Validate([]byte(`{"op":{"a/b~":"x"}}`)); err != nil {
		t.Error(err)
	}
}

// Who only reports what is invalid has not thereby switched scopes off.
func TestTableReportKeepsScopes(t *testing.T) {
	for name, hook := range map[string]func(context.Context, wsguard.Principal, string, []byte) error{
		"scopes": nil,
		"Authorize": func(_ context.Context, _ wsguard.Principal, kind string, _ []byte) error {
			if kind == "say" {
				return nil
			}
			return errors.New("no")
		},
	} {
		for _, msg := range []string{`{"type":"say","type":"ban"}`, `{"type":"say","Type":"ban"}`, `{"type":"nothing"}`, `{"type":"ban"}`} {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(loginConfig, func(cfg *wsguard.Config) {
					table := chatTable()
					if hook != nil {
						table = &wsguard.Table{Types: map[string]wsguard.Rule{"say": {}, "ban": {}}}
					}
					cfg.Messages = wsguard.MessageConfig{Validator: table, ReportOnly: true, Authorize: hook}
				}))
				c := e.open(bearer("alice - 0s"))
				roundTrip(t, c, `{"type":"say","text":"a"}`)
				c.WriteFrame(wstest.Text(msg))
				wantClose(t, c, 3003, "forbidden")
				if ev := e.closed(); ev.MessagesIn != 1 {
					t.Errorf("%s, %s: %+v", name, msg, ev)
				}
			})
		}
	}
}

// A message that Authorize has thought about for too long is not delivered after
// the end.
func TestAuthorizeLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(loginConfig, func(cfg *wsguard.Config) {
			cfg.Messages.Authorize = func(context.Context, wsguard.Principal, string, []byte) error {
				time.Sleep(3 * time.Second)
				return nil
			}
		}))
		got := make(chan error, 1)
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			_, msg, err := c.Read(ctx)
			if err == nil {
				t.Errorf("delivered: %s", msg)
			}
			got <- err
			return err
		}))
		c := e.open(bearer("alice - 0s"))
		c.WriteFrame(wstest.Text("delete everything"))
		time.Sleep(time.Second)
		e.g.Admin().Revoke("alice")
		wantClose(t, c, 3000, "revoked")
		if err := <-got; !errors.Is(err, reason.Revoked) {
			t.Error(err)
		}
	})
}

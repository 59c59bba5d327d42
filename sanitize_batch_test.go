package wsguard_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/jsonrpc"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/sanitize"
)

// A batch keeps the types of its calls. No call may become another one, two, or none, because each
// call was allowed by its type.
func TestSanitizeBatch(t *testing.T) {
	table := &wsguard.Table{JSONRPC: true, Types: map[string]wsguard.Rule{
		"say": {}, "shout": {}, "ban": {Scope: "moderate"},
	}}
	const batch = `[{"jsonrpc":"2.0","method":"say","params":["a"]},{"jsonrpc":"2.0","method":"shout","params":["b"]}]`
	for name, tt := range map[string]struct {
		old, new string
		want     string // "": it is refused
	}{
		"params":   {`"a"`, `"A"`, strings.Replace(batch, `"a"`, `"A"`, 1)},
		"a method": {"say", "shout", ""},
		"no scope": {"shout", "ban", ""},
		"one more": {`["b"]}`, `["b"]},{"jsonrpc":"2.0","method":"say"}`, ""},
		"a batch":  {`{"jsonrpc":"2.0","method":"shout","params":["b"]}`, `[{"jsonrpc":"2.0","method":"shout"}]`, ""},
		"no call":  {`{"jsonrpc":"2.0","method":"shout","params":["b"]}`, ``, ""},
		"no JSON":  {"]", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(loginConfig, func(cfg *wsguard.Config) {
					cfg.Messages.Validator = table
					cfg.Messages.Sanitize = exchange(tt.old, tt.new)
				}))
				c := e.open(bearer("alice - 0s"))
				c.WriteFrame(wstest.Text(batch))
				if tt.want != "" {
					wantMessage(t, c, tt.want)
					bye(c)
					return
				}
				if _, _, err := c.ReadClose(); err != nil {
					t.Error(err)
				}
				if ev := e.closed(); ev.MessagesIn != 0 || !errors.Is(ev.Err, reason.UnknownType) && !errors.Is(ev.Err, reason.InvalidJSON) {
					t.Errorf("%+v", ev)
				}
			})
		})
	}
}

// What is sanitised by the type of a call is sanitised in a batch too, however the batch is written.
func TestSanitizeBatchByKind(t *testing.T) {
	table := &wsguard.Table{
		JSONRPC: true, Types: map[string]wsguard.Rule{"say": {}, "join": {}}, Prefixes: map[string]wsguard.Rule{"room/": {}}, Absent: &wsguard.Rule{},
	}
	clean := sanitize.ByKind(map[string]sanitize.Message{
		"say":   sanitize.At(sanitize.Trim, "/params/text"),
		"room/": sanitize.At(sanitize.RemoveControls, "/params/text"),
		"join":  sanitize.At(sanitize.RefuseControls, "/params/room"),
		"":      sanitize.At(sanitize.Trim, "/result"),
	})
	call := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + params + `}}`
	}
	const answer = `{"jsonrpc":"2.0","id":1,"result":" yes "}`
	for _, tt := range []struct{ msg, want string }{
		{call("say", `"text":" a "`), call("say", `"text":"a"`)},
		{answer, strings.ReplaceAll(answer, " ", "")},
		{batchOf(call("say", `"text":" a "`)), batchOf(call("say", `"text":"a"`))},
		{batchOf(call("say", `"text":"a"`), answer), batchOf(call("say", `"text":"a"`), strings.ReplaceAll(answer, " ", ""))},
		{" [\n" + call("s\\u0061y", `"text":" a "`) + " ,\t" + call("room/1", `"text":" \u202e"`) + " ] ", " [\n" + call("s\\u0061y", `"text":"a"`) + " ,\t" + call("room/1", `"text":" "`) + " ] "},
		{batchOf(call("say", `"text":" a"`), call("say", `"text":"b"`), call("say", `"text":" c"`)), batchOf(call("say", `"text":"a"`), call("say", `"text":"b"`), call("say", `"text":"c"`))},
		{batchOf(call("say", `"text":"a"`), call("join", `"room":"a\u0000"`)), ""},
		{call("join", `"room":"a\u0000"`), ""},
	} {
		bubble(t, func(t *testing.T) {
			e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
				cfg.Messages.Validator, cfg.Messages.Sanitize = table, clean
			}))
			c := e.open(header())
			c.WriteFrame(wstest.Text(tt.msg))
			if tt.want == "" {
				wantClose(t, c, 1008, "schema")
				return
			}
			wantMessage(t, c, tt.want)
			bye(c)
		})
	}
}

// Sanitize gets each call of a batch as Authorize does. Whatever it does to one of them happens to
// the batch.
func TestSanitizeBatchHook(t *testing.T) {
	calls := []string{rpc("1", "ping"), rpc("2", "add", `"params":{"a":1}`), `{"jsonrpc":"2.0","id":3,"result":4}`}
	batch := " [ " + strings.Join(calls, " , ") + " ] "
	// on applies do to the second call.
	on := func(do func(msg []byte) ([]byte, error)) func(string, []byte) ([]byte, error) {
		return func(kind string, msg []byte) ([]byte, error) {
			if kind == "add" {
				return do(msg)
			}
			return msg, nil
		}
	}
	for name, tt := range map[string]struct {
		do       func(msg []byte) ([]byte, error)
		want     string // what the application gets; "": nothing
		why      *reason.Reason
		detail   string // of the violation
		reported string // what it gets with ReportOnly; "": nothing, and the connection ends
	}{
		"nothing":  {do: func(msg []byte) ([]byte, error) { return msg, nil }, want: batch},
		"in place": {do: func(msg []byte) ([]byte, error) { msg[bytes.IndexByte(msg, '2')] = '3'; return nil, errors.New("no") }, why: reason.Schema, detail: "add: call 1: no", reported: batch},
		"longer":   {do: func(msg []byte) ([]byte, error) { return append(msg, "\n\n"...), nil }, want: strings.Replace(batch, calls[1], calls[1]+"\n\n", 1)},
		"too long": {do: func(msg []byte) ([]byte, error) { return append(msg, make([]byte, 32<<10)...), nil }, why: reason.MessageTooBig, detail: "add: call 1: wsguard: message too big: Sanitize has made it longer than MaxBytes", reported: batch},
		"too long together": {
			do: func(msg []byte) ([]byte, error) {
				return append(msg, bytes.Repeat([]byte(" "), 32<<10-len(msg))...), nil
			},
			why: reason.MessageTooBig, detail: "wsguard: message too big: Sanitize has made it longer than MaxBytes", reported: batch,
		},
		"its reason": {do: func([]byte) ([]byte, error) { return nil, errRoomClosed }, why: errRoomClosed, detail: "add: call 1: wsguard: the room is closed", reported: batch},
		"refused again": {
			do:  func([]byte) ([]byte, error) { return []byte(rpc("2", "add", `"params":{"a":"x"}`)), nil },
			why: reason.Schema, detail: `add: after Sanitize: wsguard: message does not fit its schema: at "/1/params/a", by #/properties/params/properties/a/type`,
			reported: strings.Replace(batch, `"a":1`, `"a":"x"`, 1),
		},
		"two calls": {do: func(msg []byte) ([]byte, error) { return append(append(msg, ','), msg...), nil }, why: reason.UnknownType, detail: "after Sanitize: wsguard: message of an unknown type", reported: strings.Replace(batch, calls[1], calls[1]+","+calls[1], 1)},
		"nil":       {do: func(msg []byte) ([]byte, error) { return nil, nil }, why: reason.InvalidJSON, reported: strings.Replace(batch, calls[1], "", 1)},
		"a panic":   {do: func(msg []byte) ([]byte, error) { panic("x") }, why: reason.Internal},
		"a Goexit":  {do: func(msg []byte) ([]byte, error) { runtime.Goexit(); return nil, nil }, why: reason.Internal},
	} {
		for action, does := range map[wsguard.Action]string{wsguard.ActionClose: "close", wsguard.ActionReply: "reply", reportOnly: "report"} {
			t.Run(name+", "+does, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
						cfg.Messages.Validator, cfg.Messages.Sanitize = rpcTable(), on(tt.do)
						cfg.Messages.Notice = jsonrpc.Notice
						onRefused(&cfg.Messages, action)
					}))
					c := e.open(header())
					c.WriteFrame(wstest.Text(batch))
					want := tt.want
					if action == reportOnly && tt.why != nil {
						want = tt.reported
					}
					switch {
					case want != "":
						wantMessage(t, c, want)
					case tt.why == reason.Internal:
						if code, _, _ := c.ReadClose(); code != 1011 && name != "a Goexit" {
							t.Errorf("closed with %d", code)
						}
						return
					case action == wsguard.ActionReply:
						_, msg, err := c.ReadMessage()
						if err != nil || !strings.HasPrefix(string(msg), `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`) {
							t.Errorf("%s %v", msg, err)
						}
					default:
						wantClose(t, c, int(tt.why.Code()), tt.why.Token())
						return
					}
					synctest.Wait()
					if vs := e.events.of(audit.Violation); tt.why != nil && (len(vs) == 0 || tt.detail != "" && vs[0].Detail != tt.detail) {
						t.Errorf("%v", vs)
					}
					bye(c)
				})
			})
		}
	}
}

// With ReportOnly, Sanitize gets what is no batch as a whole.
func TestSanitizeBatchReported(t *testing.T) {
	table := rpcTable()
	delete(table.Types, "ban") // with a scope in the table, ReportOnly lets nothing of an unknown type pass
	for _, msg := range []string{`[]`, `[1,{}`, batchOf(slices.Repeat([]string{rpc("1", "ping")}, 33)...)} {
		bubble(t, func(t *testing.T) {
			var last string
			e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
				cfg.Messages = wsguard.MessageConfig{Validator: table, ReportOnly: true, Sanitize: func(kind string, msg []byte) ([]byte, error) {
					last = kind + string(msg)
					return msg, nil
				}}
			}))
			c := e.open(header())
			roundTrip(t, c, msg)
			if last != msg {
				t.Errorf("%.100s", last)
			}
			bye(c)
		})
	}
}

// A notice answers the message that the client has sent, whatever Sanitize has made of it.
func TestSanitizeNotice(t *testing.T) {
	const request = `{"jsonrpc":"2.0","id":7,"method":"ping","params":["x"]}`
	for name, tt := range map[string]struct{ to, want string }{
		"no JSON":         {`{`, `"id":7,"error":{"code":-32600,"message":"Invalid Request","data":{"reason":"syntax"}}`},
		"nothing":         {``, `"id":7,"error":{"code":-32600,"message":"Invalid Request","data":{"reason":"empty"}}`},
		"another id":      {`{"jsonrpc":"2.0","id":8,"method":"ban"}`, `"id":7,"error":{"code":-32601,"message":"Method not found","data":{"reason":"unknown_type"}}`},
		"no request":      {`{"jsonrpc":"2.0","method":"ban"}`, `"id":7,"error":{"code":-32601,"message":"Method not found","data":{"reason":"unknown_type"}}`},
		"what is refused": {strings.ReplaceAll(request, "x", "bad"), `"id":7,"error":{"code":-32602,"message":"Invalid params","data":{"reason":"schema"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				table := rpcTable()
				table.Types["ping"] = wsguard.Rule{Validator: refuseWord("bad")}
				e := serveGuard(t, conf(noRates, replying(jsonrpc.Notice), func(cfg *wsguard.Config) {
					cfg.Messages.Validator = table
					cfg.Messages.Sanitize = func(_ string, msg []byte) ([]byte, error) {
						if strings.Contains(string(msg), "fine") {
							return append(msg, ' '), nil
						}
						clear(msg)
						return append(msg[:0], tt.to...), nil
					}
				}))
				c := e.open(header())
				for range 3 {
					c.WriteFrame(wstest.Text(request))
					wantMessage(t, c, `{"jsonrpc":"2.0",`+tt.want+`}`)
				}
				c.WriteFrame(wstest.Text(rpc(`"fine"`, "ping")))
				wantMessage(t, c, rpc(`"fine"`, "ping")+" ")
				bye(c)
			})
		})
	}
}

// A message that waits behind others when Reconfigure brings an Authorize is not judged before its
// turn, so that Authorize knows what the messages in front of it have done.
func TestAuthorizeAfterReconfigure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		asked := 0
		var e *wrapEnv
		e = wrapWith(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Messages.Validator = reconfigurer{func([]byte) {
				next := e.cfg
				next.Messages.Validator = nil
				next.Messages.Authorize = func(context.Context, wsguard.Principal, string, []byte) error { asked++; return nil }
				e.reconfigure(next)
			}}
		}), answer101)
		c := e.open(header())
		s := <-e.conns
		if _, err := c.Conn().Write(encode(wstest.Text("0"), wstest.Text("1"), wstest.Text("2"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b := make([]byte, 1000)
		for i := range 3 {
			if _, err := s.Read(b); err != nil || asked != i {
				t.Errorf("message %d: asked %d times, %v", i, asked, err)
			}
		}
		bye(c)
	})
}

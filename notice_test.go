package wsguard_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/graphqlws"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/jsonrpc"
	"github.com/wsguard/wsguard/reason"
)

// replying answers whatever is refused, with hook.
func replying(hook func(wsguard.Refused) ([]byte, error)) func(*wsguard.Config) {
	return func(cfg *wsguard.Config) {
		cfg.Rates.Action = wsguard.ActionReply
		cfg.Messages.OnInvalid, cfg.Messages.OnForbidden = wsguard.ActionReply, wsguard.ActionReply
		cfg.Messages.Notice = hook
	}
}

var errRoomClosed = reason.New("notice_room_closed", "the room is closed", 4004)

// The hook learns why and where a message is refused, and what it returns is sent.
func TestNoticeDescribes(t *testing.T) {
	table := rpcTable()
	table.Types["closed"] = wsguard.Rule{Validator: validatorFunc(func([]byte) error { return fmt.Errorf("x: %w", errRoomClosed) })}
	bubble(t, func(t *testing.T) {
		var got wsguard.Refused
		var message string
		e := serveGuard(t, conf(noRates, loginConfig, replying(func(r wsguard.Refused) ([]byte, error) {
			got, message = r, string(r.Message)
			return []byte("notice"), nil
		}), func(cfg *wsguard.Config) {
			cfg.Rates.Messages = wsguard.Rate{PerSecond: 1, Burst: 19}
			cfg.Messages.Validator = table
		}))
		c := e.open(bearer("alice - 0s"))
		for _, tt := range []struct {
			msg  string
			want wsguard.Refused
		}{
			{rpc("1", "add", `"params":{"a":"1"}`), wsguard.Refused{Kind: "add", Reason: reason.Schema, Token: "schema", Pointer: "/params/a", Keyword: "#/properties/params/properties/a/type"}},
			{batchOf(rpc("1", "add", `"params":{"a":"1"}`)), wsguard.Refused{Kind: "add", Reason: reason.Schema, Token: "schema", Pointer: "/0/params/a", Keyword: "#/properties/params/properties/a/type"}},
			{rpc("1", "nothing"), wsguard.Refused{Reason: reason.UnknownType, Token: "unknown_type"}},
			{rpc("1", "ping", `"id":2`), wsguard.Refused{Reason: reason.InvalidJSON, Token: "duplicate_key"}},
			{"{", wsguard.Refused{Reason: reason.InvalidJSON, Token: "syntax"}},
			{rpc("1", "ban"), wsguard.Refused{Kind: "ban", Reason: reason.Forbidden, Token: "forbidden"}},
			{batchOf(rpc("1", "ping"), rpc("1", "ban")), wsguard.Refused{Kind: "ban", Reason: reason.Forbidden, Token: "forbidden"}},
			{rpc("1", "closed"), wsguard.Refused{Kind: "closed", Reason: reason.Schema, Token: "notice_room_closed"}},
			{rpc("1", "up", `"params":["`+strings.Repeat("x", 60)+`"]`), wsguard.Refused{Kind: "up", Reason: reason.MessageTooBig, Token: "message_too_big"}},
			// 5 of the 19 are left.
			{batchOf(rpc("1", "up"), rpc("2", "up")), wsguard.Refused{Reason: reason.RateLimited, Token: "rate_limited", RetryAfter: 5 * time.Second}},
			{rpc("1", "up"), wsguard.Refused{}},
			{rpc("1", "ping"), wsguard.Refused{Kind: "ping", Reason: reason.RateLimited, Token: "rate_limited", RetryAfter: time.Second}},
		} {
			c.WriteFrame(wstest.Text(tt.msg))
			if tt.want.Reason == nil {
				wantMessage(t, c, tt.msg)
				continue
			}
			wantMessage(t, c, "notice")
			got.Message = nil
			if fmt.Sprint(got) != fmt.Sprint(tt.want) || message != tt.msg {
				t.Errorf("%s: %+v, want %+v", tt.msg, got, tt.want)
			}
		}
		bye(c)
	})
}

// A notice never repeats a name of the message that the schema does not declare.
func TestNoticeRepeatsNothing(t *testing.T) {
	schema := must(wsguard.CompileSchema([]byte(`{"properties":{"a":{"additionalProperties":{"type":"integer"}}}}`)))
	bubble(t, func(t *testing.T) {
		var got wsguard.Refused
		e := serveGuard(t, conf(replying(func(r wsguard.Refused) ([]byte, error) {
			got = r
			return []byte("notice"), nil
		}), func(cfg *wsguard.Config) { cfg.Messages.Validator = schema }))
		c := e.open(header())
		c.WriteFrame(wstest.Text(`{"a":{"evil":"x"}}`))
		wantMessage(t, c, "notice")
		if got.Pointer != "/a/*" {
			t.Errorf("%q", got.Pointer)
		}
		bye(c)
	})
}

// nil sends nothing and uses nothing up. A connection that has used up its notices is closed when
// one is due, and not before.
func TestNoticeBudget(t *testing.T) {
	hook := func(r wsguard.Refused) ([]byte, error) {
		if strings.Contains(string(r.Message), "silent") {
			return nil, nil
		}
		return []byte("notice"), nil
	}
	for name, tt := range map[string]struct {
		change       func(*wsguard.Config)
		due, silent  string
		code         int
		reason       string
		tooMany      int // messages that the rate lets pass first
		closedDetail string
	}{
		"invalid":   {func(cfg *wsguard.Config) {}, `{`, `silent`, 1008, "invalid_json", 0, "no notices left: wsguard: not JSON"},
		"unknown":   {func(cfg *wsguard.Config) {}, `{"type":"x"}`, `{"type":"silent"}`, 1008, "unknown_type", 0, "no notices left: wsguard: message of an unknown type"},
		"forbidden": {func(cfg *wsguard.Config) {}, `{"type":"ban"}`, `{"type":"ban","x":"silent"}`, 1008, "forbidden", 0, "no notices left: ban: wsguard: not allowed"},
		"rate": {func(cfg *wsguard.Config) { cfg.Rates.Messages = wsguard.Rate{PerSecond: never, Burst: 1} },
			`{"type":"custom"}`, `{"type":"custom","x":"silent"}`, 1008, "rate_limited", 1, "no notices left: custom: "},
		"with a code of its own": {func(cfg *wsguard.Config) { cfg.CloseCodes = reason.GraphQL() }, `{`, `silent`, 4400, "invalid_json", 0, "no notices left: "},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(noRates, replying(hook), func(cfg *wsguard.Config) { cfg.Messages.Validator = chatTable() }, tt.change))
				c := e.open(header())
				for range tt.tooMany {
					roundTrip(t, c, tt.due)
				}
				for range 20 {
					for range 3 {
						c.WriteFrame(wstest.Text(tt.silent))
					}
					c.WriteFrame(wstest.Text(tt.due))
					wantMessage(t, c, "notice")
				}
				for range 30 {
					c.WriteFrame(wstest.Text(tt.silent))
				}
				if tt.tooMany == 0 {
					roundTrip(t, c, `{"type":"say","text":"goes on"}`)
				}
				time.Sleep(time.Second) // one more
				c.WriteFrame(wstest.Text(tt.due))
				wantMessage(t, c, "notice")
				c.WriteFrame(wstest.Text(tt.due))
				wantClose(t, c, tt.code, tt.reason)
				ev := e.closed()
				if !strings.HasPrefix(ev.Detail, tt.closedDetail) || ev.ViolationsWithoutNotice != 1 || ev.Violations != 20*4+30+1+1 {
					t.Errorf("%+v", ev)
				}
			})
		})
	}
}

// Without the hook, a refused message without a notice is dropped, as ever.
func TestNoNoticeHook(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, replying(nil), func(cfg *wsguard.Config) { cfg.Messages.Validator = chatTable() }))
		c := e.open(header())
		for range 50 {
			c.WriteFrame(wstest.Text(`{"type":"x"}`))
		}
		for range 20 {
			wantMessage(t, c, `{"error":"invalid_message","reason":"unknown_type"}`)
		}
		roundTrip(t, c, `{"type":"say","text":"goes on"}`)
		bye(c)
		if ev := e.closed(); ev.ViolationsWithoutNotice != 30 {
			t.Errorf("%+v", ev)
		}
	})
}

// A notice that must not be sent closes the connection as ActionClose does.
func TestNoticeFaults(t *testing.T) {
	long := `{"type":"x","y":"` + strings.Repeat("y", 2000) + `"}`
	for name, tt := range map[string]struct {
		hook   func(wsguard.Refused) ([]byte, error)
		msg    string
		code   int
		reason string
		detail string
	}{
		"error":              {func(wsguard.Refused) ([]byte, error) { return []byte("x"), errors.New("no words") }, `{"type":"x"}`, 1008, "unknown_type", "Messages.Notice: no words: wsguard: message of an unknown type: the Table has no rule for its type"},
		"too long":           {func(wsguard.Refused) ([]byte, error) { return make([]byte, 257), nil }, `{"type":"x"}`, 1008, "unknown_type", "Messages.Notice: a notice of 257 bytes where 256 are allowed: wsguard: message of an unknown type: the Table has no rule for its type"},
		"longer than 1 KiB":  {func(wsguard.Refused) ([]byte, error) { return make([]byte, 1025), nil }, long, 1008, "unknown_type", "Messages.Notice: a notice of 1025 bytes where 1024 are allowed: wsguard: message of an unknown type: the Table has no rule for its type"},
		"not UTF-8":          {func(wsguard.Refused) ([]byte, error) { return []byte("\xff"), nil }, `{"type":"x"}`, 1008, "unknown_type", "Messages.Notice: wsguard: not UTF-8: wsguard: message of an unknown type: the Table has no rule for its type"},
		"code of the reason": {func(wsguard.Refused) ([]byte, error) { return nil, errors.New("no words") }, `{"type":"ban"}`, 3003, "forbidden", `Messages.Notice: no words: ban: wsguard: not allowed: needs scope "moderate"`},
		"panic":              {func(wsguard.Refused) ([]byte, error) { panic("hook") }, `{"type":"x"}`, 1011, "internal_error", "Messages.Notice panicked"},
		"panic of an error":  {func(wsguard.Refused) ([]byte, error) { return nil, textless{} }, `{"type":"x"}`, 1008, "unknown_type", "Messages.Notice: an error without a text: wsguard: message of an unknown type: the Table has no rule for its type"},
		"Goexit":             {func(wsguard.Refused) ([]byte, error) { runtime.Goexit(); return nil, nil }, `{"type":"x"}`, 1011, "internal_error", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(noRates, replying(tt.hook), func(cfg *wsguard.Config) { cfg.Messages.Validator = chatTable() }))
				c := e.open(header())
				c.WriteFrame(wstest.Text(tt.msg))
				wantClose(t, c, tt.code, tt.reason)
				if ev := e.closed(); tt.detail != "" && ev.Detail != tt.detail {
					t.Errorf("%q, want %q", ev.Detail, tt.detail)
				}
			})
		})
	}
}

type textless struct{}

func (textless) Error() string { panic("text") }

// A notice may be as long as its bound, and its bytes are the hook's again afterwards.
func TestNoticeBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		buf := make([]byte, 2000)
		e := serveGuard(t, conf(noRates, replying(func(r wsguard.Refused) ([]byte, error) {
			for i := range buf {
				buf[i] = byte('a' + len(r.Message)%26)
			}
			return buf[:r.MaxBytes()], nil
		}), func(cfg *wsguard.Config) { cfg.Messages.Validator = chatTable() }))
		c := e.open(header())
		sizes := map[int]int{14: 256, 255: 256, 256: 256, 257: 257, 1023: 1023, 1024: 1024, 1025: 1024, 20000: 1024}
		for n, want := range sizes {
			c.WriteFrame(wstest.Text(`{"type":"` + strings.Repeat("x", n-11) + `"}`))
			wantMessage(t, c, strings.Repeat(string(rune('a'+n%26)), want))
		}
		bye(c)
	})
}

// The default notices keep to 1 KiB too.
func TestDefaultNoticeBound(t *testing.T) {
	name := strings.Repeat("<", 200) // six bytes each in a notice
	schema := must(wsguard.CompileSchema([]byte(`{"properties":{"` + name + `":{"properties":{"` + name + `":{"properties":{"` + name + `":{"properties":{"` + name + `":{"type":"integer"}}}}}}}}}`)))
	msg := `"x"`
	for range 4 {
		msg = `{"` + name + `":` + msg + `}`
	}
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(replying(nil), func(cfg *wsguard.Config) { cfg.Messages.Validator = schema }))
		c := e.open(header())
		c.WriteFrame(wstest.Text(msg))
		_, p, err := c.ReadMessage()
		var n struct{ Error, Reason, Pointer, Keyword string }
		if err != nil || json.Unmarshal(p, &n) != nil || len(p) > 1024 || n.Reason != "schema" {
			t.Errorf("%d bytes: %s %v", len(p), p, err)
		}
		bye(c)
	})
}

// The warning of WarnAt goes through the hook, and its message is delivered.
func TestNoticeWarning(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		err    error
		panics bool
		want   string
	}{
		"words": {answer: "slow down", want: "slow down"}, "nil": {}, "error": {answer: "x", err: errors.New("no")}, "too long": {answer: strings.Repeat("x", 300)}, "panic": {panics: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var got wsguard.Refused
				e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
					cfg.Rates.Messages, cfg.Rates.WarnAt = wsguard.Rate{PerSecond: never, Burst: 10}, 0.5
					cfg.Messages.Notice = func(r wsguard.Refused) ([]byte, error) {
						got = r
						if tt.panics {
							panic("hook")
						}
						return []byte(tt.answer), tt.err
					}
				}))
				c := e.open(header())
				for range 4 {
					roundTrip(t, c, "x")
				}
				c.WriteFrame(wstest.Text("fifth"))
				if tt.panics {
					wantClose(t, c, 1011, "internal_error")
					return
				}
				if tt.want != "" {
					wantMessage(t, c, tt.want)
				}
				wantMessage(t, c, "fifth")
				if !got.Warning || got.Reason != reason.RateLimited || got.RetryAfter != 0 {
					t.Errorf("%+v", got)
				}
				roundTrip(t, c, "x")
				bye(c)
			})
		})
	}
}

// The hook never sees a credential.
func TestNoticeBeforeCredential(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bothDoors(t)
		e := serveGuard(t, conf(noRates, loginConfig, replying(func(r wsguard.Refused) ([]byte, error) {
			t.Errorf("the hook was given %s", r.Message)
			return []byte("notice"), nil
		}), func(cfg *wsguard.Config) {
			cfg.Auth.InsecureAnonymous, cfg.Auth.Sources.FirstMessage = false, true
			cfg.Rates.Bytes, cfg.Rates.WarnAt = wsguard.Rate{PerSecond: never, Burst: 32 << 10}, 0.01
			cfg.Rates.SubjectBytes, cfg.Rates.ClientBytes = wsguard.Rate{PerSecond: wsguard.Off}, wsguard.Rate{PerSecond: wsguard.Off}
		}))
		c := e.open(header())
		c.WriteFrame(wstest.Text(`{"type":"auth","token":"` + strings.Repeat("x", 2000) + `"}`))
		wantClose(t, c, 3000, "unauthenticated")
	})
}

// A JSON-RPC client gets an answer to each of its requests, with their ids.
func TestNoticeJSONRPC(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, loginConfig, replying(jsonrpc.Notice), func(cfg *wsguard.Config) {
			cfg.Rates.Messages = wsguard.Rate{PerSecond: 2, Burst: 13}
			cfg.Messages.Validator = rpcTable()
		}))
		c := e.open(bearer("alice - 0s"))
		for _, tt := range []struct{ msg, want string }{
			{rpc(`"id-\u0061<1>"`, "add", `"params":{"a":"1"}`), `{"jsonrpc":"2.0","id":"id-\u0061<1>","error":{"code":-32602,"message":"Invalid params","data":{"reason":"schema","pointer":"/params/a","keyword":"#/properties/params/properties/a/type"}}}`},
			{rpc("7", "nothing"), `{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"Method not found","data":{"reason":"unknown_type"}}}`},
			{rpc("8", "ban"), `{"jsonrpc":"2.0","id":8,"error":{"code":-32003,"message":"Forbidden","data":{"reason":"forbidden"}}}`},
			{rpc("9", "ping", `"params":5`), `{"jsonrpc":"2.0","id":9,"error":{"code":-32600,"message":"Invalid Request","data":{"reason":"unknown_type"}}}`},
			{rpc("9", "ping", `"id":10`), `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request","data":{"reason":"duplicate_key"}}}`},
			{`{"jsonrpc"`, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error","data":{"reason":"syntax"}}}`},
			{batchOf(rpc("1", "ping"), rpc("2", "nothing")), `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request","data":{"reason":"unknown_type"}}}`},
			{`{"jsonrpc":"2.0","method":"nothing"}`, ""},
			{`{"jsonrpc":"2.0","id":4,"result":"ugly"}`, ""},
			{batchOf(rpc("1", "up"), rpc("2", "up")), `{"jsonrpc":"2.0","id":null,"error":{"code":-32029,"message":"Rate limit exceeded","data":{"reason":"rate_limited","retry_after":3.5}}}`},
			{rpc("11", "up"), `{"jsonrpc":"2.0","id":11,"error":{"code":-32029,"message":"Rate limit exceeded","data":{"reason":"rate_limited","retry_after":1}}}`},
			{rpc("12", "ping"), rpc("12", "ping")},
		} {
			c.WriteFrame(wstest.Text(tt.msg))
			if tt.want != "" {
				wantMessage(t, c, tt.want)
			}
		}
		bye(c)
	})
}

// A graphql-ws client gets an answer to each of its operations.
func TestNoticeGraphQL(t *testing.T) {
	operation := must(wsguard.CompileSchema([]byte(`{"required":["id","payload"],"properties":{"payload":{"required":["query"]}}}`)))
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, loginConfig, replying(graphqlws.Notice), func(cfg *wsguard.Config) {
			cfg.CloseCodes = reason.GraphQL()
			cfg.Rates.Messages = wsguard.Rate{PerSecond: 2, Burst: 4}
			cfg.Messages.Validator = &wsguard.Table{Types: map[string]wsguard.Rule{"connection_init": {}, "ping": {}, "pong": {}, "complete": {}, "subscribe": {Validator: operation}}}
		}))
		c := e.open(bearer("alice - 0s"))
		for _, tt := range []struct{ msg, want string }{
			{`{"type":"connection_init"}`, `{"type":"connection_init"}`},
			{`{"id":"a","type":"subscribe","payload":{}}`, `{"id":"a","type":"error","payload":[{"message":"Bad request","extensions":{"code":"BAD_REQUEST","reason":"schema","pointer":"/payload","keyword":"#/properties/payload/required","detail":"name \"query\" is missing"}}]}`},
			{`{"id":"a","type":"subscribe","payload":{"query":""}}`, `{"id":"a","type":"subscribe","payload":{"query":""}}`},
			{`{"id":"b","type":"complete"}`, `{"id":"b","type":"complete"}`},
			{`{"id":"c","type":"subscribe","payload":{"query":""}}`, `{"id":"c","type":"error","payload":[{"message":"Rate limit exceeded","extensions":{"code":"RATE_LIMITED","reason":"rate_limited","retryAfter":0.5}}]}`},
			{`{"type":"ping"}`, `{"type":"pong"}`},
			{`{"id":"a","type":"complete"}`, ""},
		} {
			c.WriteFrame(wstest.Text(tt.msg))
			if tt.want != "" {
				wantMessage(t, c, tt.want)
			}
		}
		c.WriteFrame(wstest.Text(`{"type":"connection_init"}`))
		wantClose(t, c, 4429, "rate_limited")
	})
}

// Notices of many connections do not disturb each other.
func TestNoticeConcurrent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, replying(jsonrpc.Notice), func(cfg *wsguard.Config) { cfg.Messages.Validator = rpcTable() }))
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				c := e.open(header())
				for k := range 20 {
					id := fmt.Sprint(100*i + k)
					c.WriteFrame(wstest.Text(rpc(id, "nothing")))
					wantMessage(t, c, `{"jsonrpc":"2.0","id":`+id+`,"error":{"code":-32601,"message":"Method not found","data":{"reason":"unknown_type"}}}`)
				}
				bye(c)
			})
		}
		wg.Wait()
		synctest.Wait()
		if vs := e.events.of(audit.Violation); len(vs) != 100 {
			t.Errorf("%d violations", len(vs))
		}
	})
}

// A hook that answers nothing gets the place of few messages, because to find it takes another pass
// over the message. The keyword is always there.
func TestNoticeExplainsBounded(t *testing.T) {
	schema := must(wsguard.CompileSchema([]byte(`{"properties":{"list":{"items":{"type":"integer"}}}}`)))
	bubble(t, func(t *testing.T) {
		placed, all := 0, 0
		e := serveGuard(t, conf(noRates, replying(func(r wsguard.Refused) ([]byte, error) {
			all++
			if r.Keyword != "#/properties/list/items/type" {
				t.Errorf("keyword %q", r.Keyword)
			}
			if r.Pointer == "/list/1" {
				placed++
			}
			return nil, nil
		}), func(cfg *wsguard.Config) { cfg.Messages.Validator = schema }))
		c := e.open(header())
		send := func(n int) {
			for range n {
				c.WriteFrame(wstest.Text(`{"list":[1,"x"]}`))
			}
			synctest.Wait()
		}
		send(200)
		if all != 200 || placed != 20 {
			t.Errorf("%d calls, %d with the place, want 200 and 20", all, placed)
		}
		time.Sleep(3 * time.Second)
		send(50)
		if all != 250 || placed != 23 {
			t.Errorf("%d calls, %d with the place, want 250 and 23", all, placed)
		}
		bye(c)
	})
}

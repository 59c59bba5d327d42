package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// rpcTable has a method with a schema, one with a scope, one with a size and a cost, and
// notifications. Responses may come.
func rpcTable() *wsguard.Table {
	add := must(wsguard.CompileSchema([]byte(`{"properties":{"params":{"type":"object","required":["a"],"properties":{"a":{"type":"integer"}}}},"required":["params"]}`)))
	return &wsguard.Table{
		JSONRPC: true,
		Types: map[string]wsguard.Rule{
			"add": {Validator: add}, "ban": {Scope: "moderate"}, "up": {MaxBytes: 60, Cost: 5}, "word": {Validator: refuseWord("bad")}, "ping": {},
		},
		Prefixes: map[string]wsguard.Rule{"notifications/": {}},
		Absent:   &wsguard.Rule{Validator: refuseWord("ugly")},
	}
}

// rpc returns a request. Its members may be followed by others.
func rpc(id, method string, more ...string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"` + method + `"` + strings.Join(append([]string{""}, more...), ",") + `}`
}

func batchOf(calls ...string) string { return "[" + strings.Join(calls, ",") + "]" }

func TestTableJSONRPC(t *testing.T) {
	many := func(n int) string { return batchOf(slices.Repeat([]string{rpc("1", "ping")}, n)...) }
	checkKinds(t, rpcTable(), []kindCase{
		{rpc("1", "ping"), "ping", nil},
		{rpc(`"x"`, "ping", `"params":[]`, `"_meta":{"method":"ban"}`), "ping", nil},
		{`{"jsonrpc":"2.0","method":"notifications/initialized"}`, "notifications/", nil},
		{`{"jsonrpc":"2.0","id":1,"result":{}}`, "", nil},
		{`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}`, "", nil},
		{`{"jsonrpc":"2.0","id":1,"result":"ugly"}`, "", reason.Schema},
		{rpc("1", "add", `"params":{"a":1}`), "add", nil},
		{rpc("1", "add", `"params":{"a":"1"}`), "", reason.Schema},
		{rpc("1", "add"), "", reason.Schema},
		{rpc("1", "up", `"params":["`+strings.Repeat("x", 40)+`"]`), "", reason.MessageTooBig},
		{rpc("1", "nothing"), "", reason.UnknownType},
		{rpc("1", "*"), "", reason.UnknownType},
		{rpc("null", "ping"), "", reason.UnknownType},
		{rpc("1.0", "ping"), "", reason.UnknownType},
		{rpc("1", "ping", `"params":null`), "", reason.UnknownType},
		{rpc("1", "ping", `"result":1`), "", reason.UnknownType},
		{rpc("1", "ping", `"Method":"ban"`), "", reason.UnknownType},
		{rpc("1", "ping", `"ID":2`), "", reason.UnknownType},
		{rpc("1", "ping", `"method":"ban"`), "", reason.InvalidJSON},
		{rpc("1", "ping", `"id":2`), "", reason.InvalidJSON},
		{rpc("1", "ping", `"m\u0065thod":"ban"`), "", reason.InvalidJSON},
		{`{"jsonrpc":"1.0","id":1,"method":"ping"}`, "", reason.UnknownType},
		{`{"id":1,"method":"ping"}`, "", reason.UnknownType},
		{`{"jsonrpc":"2.0","id":1,"result":1,"error":{}}`, "", reason.UnknownType},
		{`{"jsonrpc":"2.0","id":1,"method":"ping"`, "", reason.InvalidJSON},
		{`"ping"`, "", reason.UnknownType},
		{``, "", reason.InvalidJSON},

		{batchOf(rpc("1", "ping")), "ping", nil},
		{" [ " + rpc("1", "add", `"params":{"a":1}`) + " , " + `{"jsonrpc":"2.0","method":"notifications/x"}` + "\n, " + `{"jsonrpc":"2.0","id":1,"result":1}` + " ] ", "add,notifications/,", nil},
		{many(32), strings.TrimSuffix(strings.Repeat("ping,", 32), ","), nil},
		{many(33), "", reason.JSONLimit},
		{`[]`, "", reason.UnknownType},
		{batchOf(rpc("1", "ping"), rpc("2", "add", `"params":{"a":"1"}`)), "", reason.Schema},
		{batchOf(rpc("1", "ping"), rpc("2", "nothing")), "", reason.UnknownType},
		{batchOf(rpc("1", "ping"), batchOf(rpc("2", "ping"))), "", reason.UnknownType},
		{batchOf(rpc("1", "ping"), `1`), "", reason.UnknownType},
		{batchOf(rpc("1", "ping"), rpc("2", "ping", `"method":"ban"`)), "", reason.InvalidJSON},
		{batchOf(rpc("1", "up", `"params":["`+strings.Repeat("x", 40)+`"]`)), "", reason.MessageTooBig},
		{batchOf(rpc("1", "up"), rpc("2", "up")), "up,up", nil},
		{batchOf(rpc("1", "ping")) + " x", "", reason.InvalidJSON},
		{"[" + rpc("1", "ping") + ",]", "", reason.InvalidJSON},
		{"[" + rpc("1", "ping") + " " + rpc("2", "ping") + "]", "", reason.InvalidJSON},
		{"[" + rpc("1", "ping"), "", reason.InvalidJSON},
		{`[{"jsonrpc":"2.0","id":1,"method":"ping","params":[}]`, "", reason.InvalidJSON},
		{"[" + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "]", "", reason.JSONLimit},
	})
	none := rpcTable()
	none.RefuseBatches, none.Absent = true, nil
	checkKinds(t, none, []kindCase{
		{rpc("1", "ping"), "ping", nil},
		{batchOf(rpc("1", "ping")), "", reason.UnknownType},
		{batchOf(), "", reason.UnknownType},
		{`[`, "", reason.InvalidJSON},
		{`{"jsonrpc":"2.0","id":1,"result":1}`, "", reason.UnknownType},
	})
	all := rpcTable()
	all.MaxBatch, all.Default = wsguard.Off, &wsguard.Rule{}
	checkKinds(t, all, []kindCase{
		{many(200), strings.TrimSuffix(strings.Repeat("ping,", 200), ","), nil},
		{rpc("1", "nothing"), "*", nil},
		{rpc("1.5", "nothing"), "", reason.UnknownType},
	})
}

// Authorize gets the bytes of its call. Each scope is asked for, and one refusal refuses all.
func TestJSONRPCBatchAuthorize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var a asked
		e := serveGuard(t, conf(noRates, loginConfig, func(cfg *wsguard.Config) {
			cfg.Messages = wsguard.MessageConfig{Validator: rpcTable(), OnForbidden: wsguard.ActionReply, Authorize: func(ctx context.Context, p wsguard.Principal, kind string, msg []byte) error {
				a.authorize(ctx, p, kind, msg)
				if strings.Contains(string(msg), "secret") {
					return errors.New("not this one")
				}
				return nil
			}}
		}))
		c := e.open(bearer("alice - 0s"))
		calls := []string{rpc("1", "ping"), rpc("2", "add", `"params":{"a":1}`), `{"jsonrpc":"2.0","id":3,"result":4}`}
		roundTrip(t, c, " [ "+strings.Join(calls, " , ")+" ] ")
		if kinds, msgs := a.take(); !slices.Equal(kinds, []string{"ping", "add", ""}) || !slices.Equal(msgs, calls) {
			t.Errorf("asked for %q with %q", kinds, msgs)
		}
		for msg, detail := range map[string]string{
			batchOf(rpc("1", "ping"), rpc("2", "ban")):                           `ban: call 1: wsguard: not allowed: needs scope "moderate"`,
			batchOf(rpc("1", "ping"), rpc("2", "ping"), rpc(`"secret"`, "ping")): `ping: call 2: not this one`,
		} {
			c.WriteFrame(wstest.Text(msg))
			wantMessage(t, c, `{"error":"forbidden"}`)
			synctest.Wait()
			vs := e.events.of(audit.Violation)
			if d := vs[len(vs)-1].Detail; d != detail {
				t.Errorf("%s: %q, want %q", msg, d, detail)
			}
		}
		bye(c)
	})
}

// A batch costs what its calls cost, all or nothing.
func TestJSONRPCBatchCost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Rates.Messages = wsguard.Rate{PerSecond: 1, Burst: 12}
			cfg.Rates.Action = wsguard.ActionReply
			cfg.Messages.Validator = rpcTable()
		}))
		c := e.open(header())
		limited := func(msg, retry string) {
			t.Helper()
			c.WriteFrame(wstest.Text(msg))
			wantMessage(t, c, `{"error":"rate_limited"`+retry+`}`)
		}
		seven := batchOf(rpc("1", "up"), rpc("2", "ping"), rpc("3", "ping")) // 5 + 1 + 1
		roundTrip(t, c, seven)
		limited(seven, `,"retry_after_ms":2000`)
		roundTrip(t, c, rpc("1", "up"))                     // what was refused took nothing
		limited(rpc("1", "ping"), `,"retry_after_ms":1000`) // 7 + 5 = 12
		limited(batchOf(rpc("1", "up"), rpc("2", "up"), rpc("3", "up")), `,"retry_after_ms":1000`)
		time.Sleep(15 * time.Second)
		// It costs more than the burst, and so it always exceeds the rate.
		limited(batchOf(rpc("1", "up"), rpc("2", "up"), rpc("3", "up")), "")
		roundTrip(t, c, rpc("1", "up"))
		bye(c)
	})
}

// A refusal says which call of the batch is to blame, and where.
func TestJSONRPCBatchPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Messages = wsguard.MessageConfig{Validator: rpcTable(), OnInvalid: wsguard.ActionReply}
		}))
		c := e.open(header())
		good := rpc("1", "ping")
		for _, tt := range []struct{ msg, notice, detail string }{
			{batchOf(good, rpc("2", "add", `"params":{"a":"1"}`)),
				`{"error":"invalid_message","reason":"schema","pointer":"/1/params/a","keyword":"#/properties/params/properties/a/type"}`,
				`add: wsguard: message does not fit its schema: at "/1/params/a", by #/properties/params/properties/a/type`},
			{rpc("2", "add", `"params":{"a":"1"}`),
				`{"error":"invalid_message","reason":"schema","pointer":"/params/a","keyword":"#/properties/params/properties/a/type"}`,
				`add: wsguard: message does not fit its schema: at "/params/a", by #/properties/params/properties/a/type`},
			{batchOf(good, good, rpc("2", "word", `"params":["bad"]`)), `{"error":"invalid_message","reason":"schema"}`, `word: call 2: the word`},
			{batchOf(good, rpc("2", "nothing")), `{"error":"invalid_message","reason":"unknown_type"}`, `call 1: wsguard: message of an unknown type: the Table has no rule for its type`},
			{batchOf(good, rpc("2", "ping", `"id":3`)), `{"error":"invalid_message","reason":"duplicate_key","pointer":"/1"}`,
				fmt.Sprintf("wsguard: not JSON: duplicate_key at byte %d", len(batchOf(good, `{"jsonrpc":"2.0","id":2,"method":"ping",`))-1)},
			{batchOf(good, rpc("1.5", "ping")), `{"error":"invalid_message","reason":"unknown_type"}`, `call 1: wsguard: message of an unknown type: not JSON-RPC 2.0: "id" is not what it must be`},
			{`[]`, `{"error":"invalid_message","reason":"unknown_type"}`, `wsguard: message of an unknown type: an empty JSON-RPC batch`},
		} {
			c.WriteFrame(wstest.Text(tt.msg))
			wantMessage(t, c, tt.notice)
			synctest.Wait()
			vs := e.events.of(audit.Violation)
			if d := vs[len(vs)-1].Detail; d != tt.detail {
				t.Errorf("%s: %q, want %q", tt.msg, d, tt.detail)
			}
		}
		bye(c)
	})
	var m *wsguard.MessageError
	err := rpcTable().Validate([]byte(batchOf(rpc("1", "ping"), rpc("2", "add", `"params":{"a":"1"}`))))
	if !errors.As(err, &m) || m.Pointer != "/1/params/a" || !errors.Is(err, reason.Schema) {
		t.Errorf("%v", err)
	}
}

// Outbound judges what the application sends in the same way.
func TestJSONRPCOutbound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noRates, func(cfg *wsguard.Config) { cfg.Messages.Outbound = rpcTable() }))
		got := make(chan error, 2)
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			got <- c.Write(ctx, wsguard.MessageText, []byte(batchOf(rpc("1", "ping"), rpc("2", "add", `"params":{"a":"1"}`))))
			got <- c.Write(ctx, wsguard.MessageText, []byte(rpc("1", "ping")))
			return nil
		}))
		c := e.open(header())
		var m *wsguard.MessageError
		if err := <-got; !errors.As(err, &m) || m.Pointer != "/1/params/a" {
			t.Errorf("%v", err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		bye(c)
	})
}

// Calls, batches and their relatives cost no allocation.
func TestKindsAllocate(t *testing.T) {
	if raceDetector() {
		t.Skip("under the race detector, sync.Pool drops what it is given")
	}
	calls := rpcTable()
	calls.Absent = &wsguard.Rule{}
	judged := must(wsguard.CompileSchema([]byte(`{"prefixItems":[true,{"format":"uri"},{"format":"email"},{"pattern":"^[\\p{L}\\s]+$"},{"pattern":"^(a|ab)*c$"},{"uniqueItems":true}]}`)))
	tables := map[string]*wsguard.Table{
		"json-rpc": calls,
		"numbers":  {Pointer: "/op", Numbers: true, Types: map[string]wsguard.Rule{"2": {}}},
		"prefix":   {Prefixes: map[string]wsguard.Rule{"room:": {}, "r": {}}, Default: &wsguard.Rule{}},
		"function": {Kind: func(msg []byte) (string, bool) { return "x", true }, NotJSON: true, Types: map[string]wsguard.Rule{"x": {}}},
		"array":    {Pointer: "/0", Types: map[string]wsguard.Rule{"x": {Validator: judged}}, Default: &wsguard.Rule{}, Absent: &wsguard.Rule{}},
	}
	for name, msgs := range map[string][]string{
		"json-rpc": {rpc("1", "ping"), rpc("1", "add", `"params":{"a":1}`), `{"jsonrpc":"2.0","id":1,"result":1}`, batchOf(rpc("1", "ping"), rpc("2", "p\\u0069ng"), `{"jsonrpc":"2.0","method":"notifications/x"}`)},
		"numbers":  {`{"d":1,"op":2}`},
		"prefix":   {`{"type":"room:42"}`, `{"type":"ro\u006fm:42"}`, `{"type":"other"}`},
		"function": {`x`},
		"array":    {`["x","https://a.test/%20","a@b.test","Ελ ж\u00e9","aabc",[1,2,"3"]]`, `["other"]`, `["\u0078","a:b"]`, `[]`, `{}`, `7`},
	} {
		for _, s := range msgs {
			msg := []byte(s)
			if n := testing.AllocsPerRun(100, func() {
				if err := tables[name].Validate(msg); err != nil {
					t.Fatal(err)
				}
			}); n > 0 {
				t.Errorf("%s: %v allocations", s, n)
			}
		}
	}
}

package jsonrpc_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/jsonrpc"
	"github.com/wsguard/wsguard/reason"
)

func TestNotice(t *testing.T) {
	id128, id129 := `"`+strings.Repeat("i", 126)+`"`, `"`+strings.Repeat("i", 127)+`"`
	call := func(id, method string) string { return `{"jsonrpc":"2.0","id":` + id + `,"method":"` + method + `"}` }
	for _, tt := range []struct {
		msg  string
		why  *reason.Reason
		want string // the beginning; "": no notice
	}{
		{call("1", "x"), reason.Schema, `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Invalid params"`},
		{call("1", "x"), reason.UnknownType, `{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"`},
		{call("1", "x"), reason.Forbidden, `{"jsonrpc":"2.0","id":1,"error":{"code":-32003,"message":"Forbidden"`},
		{call("1", "x"), reason.RateLimited, `{"jsonrpc":"2.0","id":1,"error":{"code":-32029,"message":"Rate limit exceeded"`},
		{call("1", "x"), reason.MessageTooBig, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"Invalid Request"`},
		{call("1", "x"), reason.JSONLimit, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,`},
		{call("-7", "x"), reason.Schema, `{"jsonrpc":"2.0","id":-7,`},
		{call(`"a\/\u0062<"`, "x"), reason.Schema, `{"jsonrpc":"2.0","id":"a\/\u0062<",`},
		{call(`12345678901234567890`, "x"), reason.Schema, `{"jsonrpc":"2.0","id":12345678901234567890,`},
		{call(id128, "x"), reason.RateLimited, `{"jsonrpc":"2.0","id":` + id128 + `,`},
		{call(id129, "x"), reason.RateLimited, `{"jsonrpc":"2.0","id":null,`},
		{call("1.5", "x"), reason.UnknownType, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`},
		{call("null", "x"), reason.UnknownType, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`},
		{`{"id":1,"method":"x"}`, reason.UnknownType, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,`},
		{`{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}`, reason.InvalidJSON, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`},
		{`{"jsonrpc":"2.0","id":1,"ID":2,"method":"x"}`, reason.UnknownType, `{"jsonrpc":"2.0","id":null,`},
		{`{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1,"a":2}}`, reason.InvalidJSON, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,`},
		{`{"jsonrpc":"2.0","params":{"id":5},"method":"x","result":1}`, reason.UnknownType, `{"jsonrpc":"2.0","id":null,`},
		// An error with this id would answer a request of the client's own.
		{`{"jsonrpc":"2.0","id":1,"result":1,"error":{}}`, reason.UnknownType, `{"jsonrpc":"2.0","id":null,`},
		{`{"jsonrpc":"2.0","id":1,"method":"x","result":1}`, reason.UnknownType, `{"jsonrpc":"2.0","id":null,`},
		{`{"jsonrpc":"2.0","id":1,"method":"x"`, reason.InvalidJSON, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"`},
		{`{"jsonrpc":"2.0","id":1,"method":"x"`, reason.RateLimited, `{"jsonrpc":"2.0","id":null,"error":{"code":-32029,`},
		{"\xff", reason.RateLimited, `{"jsonrpc":"2.0","id":null,"error":{"code":-32029,`},
		{"{\"jsonrpc\":\"2.0\",\"id\":\"\xff\",\"method\":\"x\"}", reason.RateLimited, `{"jsonrpc":"2.0","id":null,`},
		{``, reason.InvalidJSON, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,`},
		{`7`, reason.UnknownType, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`},
		{`{"jsonrpc":"2.0","method":"x"}`, reason.RateLimited, ""},
		{`{"jsonrpc":"2.0","method":"x"}`, reason.UnknownType, ""},
		{`{"jsonrpc":"2.0","id":1,"result":1}`, reason.Schema, ""},
		{`{"jsonrpc":"2.0","id":1,"error":{"code":1}}`, reason.RateLimited, ""},
		{`[` + call("1", "x") + `]`, reason.UnknownType, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`},
		{`[` + call("1", "x") + `]`, reason.RateLimited, `{"jsonrpc":"2.0","id":null,"error":{"code":-32029,`},
		{`[]`, reason.UnknownType, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`},
		{`[1]`, reason.UnknownType, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`},
		{`[{"jsonrpc":"2.0","method":"x"},{"jsonrpc":"2.0","id":1,"result":1}]`, reason.RateLimited, ""},
		{`[{"jsonrpc":"2.0","method":"x"},` + call("1", "x") + `]`, reason.RateLimited, `{"jsonrpc":"2.0","id":null,`},
	} {
		r := wsguard.Refused{Message: []byte(tt.msg), Reason: tt.why, Token: tt.why.Token()}
		got, err := jsonrpc.Notice(r)
		if err != nil || (tt.want == "") != (got == nil) || !strings.HasPrefix(string(got), tt.want) || got != nil && !json.Valid(got) {
			t.Errorf("%.100s, %v: %s %v, want %s", tt.msg, tt.why, got, err, tt.want)
		}
		if r.Warning = true; true {
			if got, err := jsonrpc.Notice(r); got != nil || err != nil {
				t.Errorf("%.100s: a warning gets %s", tt.msg, got)
			}
		}
	}
}

// Whatever the message and the fault, the notice keeps to its bound. It keeps the id, the code and
// retry_after, and then as much as there is room for.
func TestNoticeFits(t *testing.T) {
	for _, n := range []int{1, 30, 126} {
		for _, pointer := range []string{"", "/a", strings.Repeat("/é", 80), strings.Repeat("\\", 256)} {
			for _, keyword := range []string{"", "#/x", strings.Repeat("<", 256)} {
				for _, params := range []int{0, 500, 2000} {
					id := `"` + strings.Repeat("i", n) + `"`
					r := wsguard.Refused{
						Message: []byte(`{"jsonrpc":"2.0","id":` + id + `,"method":"x","params":["` + strings.Repeat("x", params) + `"]}`),
						Reason:  reason.RateLimited, Token: "a_token_of_the_applications_of_40_letters", Pointer: pointer, Keyword: keyword, RetryAfter: time.Hour - time.Microsecond,
					}
					got, err := jsonrpc.Notice(r)
					var e struct {
						ID    json.RawMessage
						Error struct {
							Code int
							Data struct {
								RetryAfter               float64 `json:"retry_after"`
								Reason, Pointer, Keyword string
							}
						}
					}
					if err != nil || json.Unmarshal(got, &e) != nil || len(got) > r.MaxBytes() || string(e.ID) != id || e.Error.Code != jsonrpc.RateLimited || e.Error.Data.RetryAfter != 3600 {
						t.Fatalf("%d bytes of %d: %s %v", len(got), r.MaxBytes(), got, err)
					}
					d := e.Error.Data
					if params == 2000 && d.Pointer != pointer || d.Keyword != "" && d.Pointer != pointer || d.Pointer != "" && d.Reason == "" {
						t.Errorf("%s leaves out the wrong part", got)
					}
				}
			}
		}
	}
}

func FuzzNotice(f *testing.F) {
	for _, s := range []string{`{"jsonrpc":"2.0","id":1,"method":"x"}`, `[{"jsonrpc":"2.0","id":"a","method":"x"}]`, `{"id":1,"Id":2}`, `{`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, why := range []*reason.Reason{reason.RateLimited, reason.Schema, reason.UnknownType, reason.InvalidJSON, reason.Forbidden} {
			r := wsguard.Refused{Message: msg, Reason: why, Token: why.Token()}
			got, err := jsonrpc.Notice(r)
			if err != nil || len(got) > r.MaxBytes() || got != nil && !json.Valid(got) {
				t.Fatalf("%q: %s %v", msg, got, err)
			}
			var notice, request struct{ ID json.RawMessage }
			if json.Unmarshal(got, &notice) == nil && string(notice.ID) != "null" && (json.Unmarshal(msg, &request) != nil || string(request.ID) != string(notice.ID)) {
				t.Fatalf("%q: %s", msg, got)
			}
		}
	})
}

func ExampleNotice() {
	_ = wsguard.Config{
		Rates: wsguard.RateConfig{Action: wsguard.ActionReply},
		Messages: wsguard.MessageConfig{
			Validator:   &wsguard.Table{JSONRPC: true, Types: map[string]wsguard.Rule{"ping": {}}},
			OnInvalid:   wsguard.ActionReply,
			OnForbidden: wsguard.ActionReply,
			Notice:      jsonrpc.Notice,
		},
	}
}

package graphqlws_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/graphqlws"
	"github.com/wsguard/wsguard/reason"
)

func TestNotice(t *testing.T) {
	id128, id129 := `"`+strings.Repeat("i", 126)+`"`, `"`+strings.Repeat("i", 127)+`"`
	subscribe := func(id string) string { return `{"id":` + id + `,"type":"subscribe","payload":{}}` }
	const closes = "closes"
	for _, tt := range []struct {
		msg  string
		why  *reason.Reason
		want string // the beginning; "": no notice
	}{
		{subscribe(`"a"`), reason.RateLimited, `{"id":"a","type":"error","payload":[{"message":"Rate limit exceeded","extensions":{"code":"RATE_LIMITED",`},
		{subscribe(`"a"`), reason.Forbidden, `{"id":"a","type":"error","payload":[{"message":"Forbidden","extensions":{"code":"FORBIDDEN",`},
		{subscribe(`"a"`), reason.Schema, `{"id":"a","type":"error","payload":[{"message":"Bad request","extensions":{"code":"BAD_REQUEST","reason":"schema"}}]}`},
		{subscribe(`"\u0061<"`), reason.Schema, `{"id":"\u0061<",`},
		{subscribe(id128), reason.Schema, `{"id":` + id128 + `,`},
		{subscribe(id129), reason.Schema, closes},
		{subscribe(`7`), reason.Schema, closes},
		{subscribe(`"a","id":"b"`), reason.InvalidJSON, closes},
		{subscribe(`"a","ID":"b"`), reason.UnknownType, closes},
		{`{"type":"subscribe"}`, reason.Schema, closes},
		{`{"id":"a","type":"subscribe","Type":"ping"}`, reason.UnknownType, closes},
		{`{"id":"a","type":"subscribe"`, reason.InvalidJSON, closes},
		{"{\"id\":\"\xff\",\"type\":\"subscribe\"}", reason.RateLimited, closes},
		{`{"type":"connection_init"}`, reason.RateLimited, closes},
		{`{"type":"nothing"}`, reason.UnknownType, closes},
		{`[]`, reason.UnknownType, closes},
		{``, reason.InvalidJSON, closes},
		{`{"type":"ping","payload":{}}`, reason.RateLimited, `{"type":"pong"}`},
		{`{"type":"pong"}`, reason.RateLimited, ""},
		{`{"id":"a","type":"complete"}`, reason.RateLimited, ""},
	} {
		r := wsguard.Refused{Message: []byte(tt.msg), Reason: tt.why, Token: tt.why.Token()}
		got, err := graphqlws.Notice(r)
		switch {
		case (tt.want == closes) != (err != nil), tt.want == closes && got != nil, tt.want == "" && got != nil:
			t.Errorf("%.100s: %s %v", tt.msg, got, err)
		case tt.want != closes && !strings.HasPrefix(string(got), tt.want), got != nil && !json.Valid(got):
			t.Errorf("%.100s: %s, want %s", tt.msg, got, tt.want)
		}
		r.Warning = true
		if got, err := graphqlws.Notice(r); got != nil || err != nil {
			t.Errorf("%.100s: a warning gets %s %v", tt.msg, got, err)
		}
	}
}

// Whatever the fault, the notice keeps to its bound, and it keeps the code and retryAfter.
func TestNoticeFits(t *testing.T) {
	for _, pointer := range []string{"", "/a", strings.Repeat("\\", 256)} {
		for _, keyword := range []string{"", "#/x", strings.Repeat("<", 256)} {
			for _, size := range []int{0, 2000} {
				id := `"` + strings.Repeat("i", 126) + `"`
				r := wsguard.Refused{
					Message: []byte(`{"id":` + id + `,"type":"subscribe","x":"` + strings.Repeat("x", size) + `"}`),
					Reason:  reason.RateLimited, Token: "a_token_of_the_applications_of_40_letters", Pointer: pointer, Keyword: keyword, RetryAfter: time.Hour - time.Microsecond,
				}
				got, err := graphqlws.Notice(r)
				var e struct {
					ID      json.RawMessage
					Payload []struct {
						Extensions struct {
							Code       string
							RetryAfter float64
							Pointer    string
						}
					}
				}
				if err != nil || json.Unmarshal(got, &e) != nil || len(got) > r.MaxBytes() || string(e.ID) != id || len(e.Payload) != 1 {
					t.Fatalf("%d bytes of %d: %s %v", len(got), r.MaxBytes(), got, err)
				}
				if x := e.Payload[0].Extensions; x.Code != "RATE_LIMITED" || x.RetryAfter != 3600 || size > 0 && x.Pointer != pointer {
					t.Errorf("%s leaves out the wrong part", got)
				}
			}
		}
	}
}

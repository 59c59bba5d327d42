// Package graphqlws answers refused messages in the words of the subprotocol
// graphql-transport-ws, which the npm package graphql-ws speaks.
//
// # Usage
//
// Use [Notice] together with the close codes of reason.GraphQL:
//
//	CloseCodes: reason.GraphQL(),
//	Rates:      wsguard.RateConfig{Action: wsguard.ActionReply},
//	Messages: wsguard.MessageConfig{
//		OnInvalid:   wsguard.ActionReply,
//		OnForbidden: wsguard.ActionReply,
//		Notice:      graphqlws.Notice,
//	},
//
// A client whose operation is refused then gets an error message with the id of the operation.
package graphqlws

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"time"
	"unicode/utf8"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// maxID is how many bytes the id of an operation has at most in a notice.
const maxID = 128

var errNoAnswer = errors.New("graphqlws: the subprotocol has no answer to the message")

// Notice is a function for MessageConfig.Notice. For a refused subscribe message it returns
//
//	{"id":"…","type":"error","payload":[{"message":"…","extensions":{"code":"RATE_LIMITED","retryAfter":1.5}}]}
//
// The id is that of the operation, byte for byte. The code is RATE_LIMITED, FORBIDDEN or
// BAD_REQUEST. The extensions also have the reason, and the place of the fault as far as there is
// room for it. For a rate they have retryAfter, which is how many seconds the client should wait.
// The notice repeats nothing of the message except the id.
//
// The answer to a refused ping is a pong. Notice returns nil for pong and complete, which have no
// answer, and for a warning.
//
// For all other messages Notice returns an error, so that the connection is closed. These are
// connection_init, messages of another type, text that is not JSON, and a subscribe message
// without an id of at most 128 bytes.
func Notice(r wsguard.Refused) ([]byte, error) {
	if r.Warning {
		return nil, nil
	}
	if !utf8.Valid(r.Message) || !json.Valid(r.Message) {
		return nil, errNoAnswer
	}
	kind, _ := jsonschema.Discriminator(r.Message, []string{"type"}, false, nil)
	switch string(kind) {
	case "subscribe":
		id, found := jsonschema.RawMember(r.Message, "id")
		if found != jsonschema.Present || id[0] != '"' || len(id) > maxID {
			return nil, errNoAnswer
		}
		return operationError(id, r), nil
	case "ping":
		return []byte(`{"type":"pong"}`), nil
	case "pong", "complete":
		return nil, nil
	}
	return nil, errNoAnswer
}

// extensions has what a client's program can use.
type extensions struct {
	Code       string  `json:"code"`
	Reason     string  `json:"reason,omitempty"`
	RetryAfter float64 `json:"retryAfter,omitempty"` // in seconds
	Pointer    string  `json:"pointer,omitempty"`
	Keyword    string  `json:"keyword,omitempty"`
	Detail     string  `json:"detail,omitempty"`
}

func operationError(id []byte, r wsguard.Refused) []byte {
	text, x := "Bad request", extensions{Code: "BAD_REQUEST"}
	switch r.Reason {
	case reason.RateLimited:
		text, x.Code = "Rate limit exceeded", "RATE_LIMITED"
	case reason.Forbidden:
		text, x.Code = "Forbidden", "FORBIDDEN"
	}
	x.Reason, x.Pointer, x.Keyword, x.Detail = r.Token, r.Pointer, r.Keyword, r.Detail
	x.RetryAfter = math.Ceil(float64(r.RetryAfter)/float64(time.Millisecond)) / 1000
	for {
		notice := encode(id, text, x)
		if len(notice) <= r.MaxBytes() || !x.shorten() {
			return notice
		}
	}
}

// shorten leaves out what matters least, and returns false if nothing is left.
func (x *extensions) shorten() bool {
	for _, s := range []*string{&x.Detail, &x.Keyword, &x.Pointer, &x.Reason} {
		if *s != "" {
			*s = ""
			return true
		}
	}
	return false
}

func encode(id []byte, text string, x extensions) []byte {
	var b bytes.Buffer
	b.WriteString(`{"id":`)
	b.Write(id)
	b.WriteString(`,"type":"error","payload":[{"message":"` + text + `","extensions":`)
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(x); err != nil {
		return nil // not reached: extensions has strings and a finite number
	}
	b.Truncate(b.Len() - 1) // Encode ends the line
	b.WriteString("}]}")
	return b.Bytes()
}

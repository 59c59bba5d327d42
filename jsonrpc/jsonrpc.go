// Package jsonrpc answers refused messages in the words of JSON-RPC 2.0.
//
// # Usage
//
// Use [Notice] together with a wsguard.Table whose JSONRPC is set:
//
//	Rates: wsguard.RateConfig{Action: wsguard.ActionReply},
//	Messages: wsguard.MessageConfig{
//		Validator: &wsguard.Table{JSONRPC: true, Types: map[string]wsguard.Rule{
//			"ping":       {},
//			"tools/call": {Validator: toolsCall, Cost: 5},
//		}},
//		OnInvalid:   wsguard.ActionReply,
//		OnForbidden: wsguard.ActionReply,
//		Notice:      jsonrpc.Notice,
//	},
//
// A client whose request is refused then gets an error response with the id of the request.
package jsonrpc

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// These are the codes of the errors that Notice makes. The first four are those of JSON-RPC
// 2.0. The others are from the range that JSON-RPC 2.0 leaves to servers.
const (
	// ParseError says that the message is not JSON. The id of the response is null.
	ParseError = -32700

	// InvalidRequest says that the message is no call of JSON-RPC 2.0, that it is too long or too
	// complex, that it has a name twice, or that a call of a batch is refused.
	InvalidRequest = -32600

	// MethodNotFound says that the Table has no rule for the method.
	MethodNotFound = -32601

	// InvalidParams says that the Validator of the method has refused the request.
	InvalidParams = -32602

	// Forbidden says that Authorize or the Scope of the method has refused the request.
	Forbidden = -32003

	// RateLimited says that requests come faster than a rate allows.
	RateLimited = -32029
)

// maxID is how many bytes an id has at most in a notice. A longer one is null.
const maxID = 128

// Notice is a function for MessageConfig.Notice. It returns the response to a refused request:
//
//	{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"Invalid params",
//	"data":{"reason":"schema","pointer":"/params/name","keyword":"#/properties/params/…"}}}
//
// The id is that of the request, byte for byte. It is null if it has more than 128 bytes. It is
// also null if the request is not JSON or has a member twice, because Notice then cannot be sure of
// the id. A refused batch gets one response, with the id null.
//
// The member data has the reason, and the place of the fault as far as there is room for it. For a
// rate it has retry_after, which is how many seconds the client should wait. The notice repeats
// nothing of the message except the id.
//
// Notice returns nil where JSON-RPC 2.0 has no answer. That is so for a notification, for a
// response, for a batch of these, and for a warning. The error is always nil.
func Notice(r wsguard.Refused) ([]byte, error) {
	if r.Warning {
		return nil, nil
	}
	id, kind, due := find(r.Message)
	if !due {
		return nil, nil
	}
	if len(id) == 0 || len(id) > maxID {
		id = []byte("null")
	}
	code, text := codeOf(r.Reason, kind)
	for d := newData(r); ; {
		notice := encode(id, code, text, d)
		if len(notice) <= r.MaxBytes() || !d.shorten() {
			return notice, nil
		}
	}
}

// kind says whether a message is a request, a response, or something else.
type kind int

const (
	notJSON kind = iota
	batch
	request
	noCall // an object that is no call of JSON-RPC 2.0
)

// find returns the id of a message, what the message is, and whether JSON-RPC 2.0 answers it.
func find(msg []byte) (id []byte, k kind, due bool) {
	switch {
	case !utf8.Valid(msg) || !json.Valid(msg):
		return nil, notJSON, true
	case jsonschema.IsBatch(msg):
		return nil, batch, batchDue(msg)
	}
	c := jsonschema.ReadCall(msg, nil)
	switch c.Kind {
	case jsonschema.Request:
		return c.ID, request, true
	case jsonschema.NoCall:
		return c.ID, noCall, true
	}
	return nil, noCall, false
}

// batchDue reports whether a batch has a call that JSON-RPC 2.0 answers.
func batchDue(msg []byte) bool {
	b, empty := jsonschema.NewBatch(msg), true
	for b.Next() {
		empty = false
		switch c := jsonschema.ReadCall(msg[b.From:b.To], nil); c.Kind {
		case jsonschema.Request, jsonschema.NoCall:
			return true
		}
	}
	return empty
}

func codeOf(why *reason.Reason, k kind) (code int, text string) {
	switch {
	case why == reason.RateLimited:
		return RateLimited, "Rate limit exceeded"
	case why == reason.Forbidden:
		return Forbidden, "Forbidden"
	case k == notJSON:
		return ParseError, "Parse error"
	case k == request && why == reason.UnknownType:
		return MethodNotFound, "Method not found"
	case k == request && why == reason.Schema:
		return InvalidParams, "Invalid params"
	}
	return InvalidRequest, "Invalid Request"
}

// data is the member data of an error.
type data struct {
	Reason     string  `json:"reason,omitempty"`
	RetryAfter float64 `json:"retry_after,omitempty"` // in seconds
	Pointer    string  `json:"pointer,omitempty"`
	Keyword    string  `json:"keyword,omitempty"`
	Detail     string  `json:"detail,omitempty"`
}

func newData(r wsguard.Refused) data {
	return data{
		Reason: r.Token, Pointer: r.Pointer, Keyword: r.Keyword, Detail: r.Detail,
		RetryAfter: math.Ceil(float64(r.RetryAfter)/float64(time.Millisecond)) / 1000,
	}
}

// shorten leaves out what matters least, and returns false if nothing is left.
func (d *data) shorten() bool {
	for _, s := range []*string{&d.Detail, &d.Keyword, &d.Pointer, &d.Reason} {
		if *s != "" {
			*s = ""
			return true
		}
	}
	return false
}

func encode(id []byte, code int, text string, d data) []byte {
	var b bytes.Buffer
	b.WriteString(`{"jsonrpc":"2.0","id":`)
	b.Write(id)
	b.WriteString(`,"error":{"code":` + strconv.Itoa(code) + `,"message":"` + text + `"`)
	if d != (data{}) {
		b.WriteString(`,"data":`)
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if e.Encode(d) == nil {
			b.Truncate(b.Len() - 1) // Encode ends the line
		}
	}
	b.WriteString("}}")
	return b.Bytes()
}

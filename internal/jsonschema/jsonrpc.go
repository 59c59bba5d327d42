package jsonschema

import (
	"bytes"
	"strings"
)

// A CallKind says what a JSON-RPC 2.0 message is.
type CallKind uint8

const (
	NoCall       CallKind = iota // it breaks the rules of JSON-RPC 2.0, or readers could see different calls
	Request                      // it has a method and an id
	Notification                 // it has a method and no id
	Response                     // it has no method, but an id, and either a result or an error
)

// A CallFault says why a message is no JSON-RPC 2.0 call.
type CallFault uint8

const (
	CallFaultNone CallFault = iota
	CallFaultObject
	CallFaultMember
	CallFaultVersion
	CallFaultID
	CallFaultMethod
	CallFaultParams
	CallFaultResult
	CallFaults // how many there are
)

// String returns a text for logs.
func (f CallFault) String() string {
	switch f {
	case CallFaultObject:
		return "not an object"
	case CallFaultMember:
		return "a member is there twice or in another letter case"
	case CallFaultVersion:
		return `"jsonrpc" is not "2.0"`
	case CallFaultID:
		return `"id" is not what it must be`
	case CallFaultMethod:
		return `"method" is no string, or too long`
	case CallFaultParams:
		return `"params" is neither an object nor an array`
	case CallFaultResult:
		return `neither a "method" nor one of "result" and "error"`
	}
	return ""
}

// A Call is a JSON-RPC 2.0 message that is no batch.
type Call struct {
	Kind   CallKind
	Fault  CallFault // of a NoCall
	Method []byte    // the text of the method of a Request or a Notification

	// ID is the id as it stands in the message. It is nil if there is none. A NoCall has an ID only if it is a
	// request with a fault elsewhere, so that its sender waits for an answer to this id.
	ID []byte
}

// These are the members that JSON-RPC 2.0 defines, as indices of callNames.
const (
	callVersion = iota
	callID
	callMethod
	callParams
	callResult
	callError
	callMembers
)

var callNames = [callMembers]string{"jsonrpc", "id", "method", "params", "result", "error"}

// callTexts are the callNames as bytes.
var callTexts = func() (texts [callMembers][]byte) {
	for n, name := range callNames {
		texts[n] = []byte(name)
	}
	return texts
}()

// ReadCall reads a JSON-RPC 2.0 message that is no batch. It looks at the members that JSON-RPC 2.0 defines, and not
// into them. For a message that Scan accepts, every reader sees the same call.
//
// A method without escapes is a part of msg. Otherwise it is in buf, which grows as needed.
func ReadCall(msg, buf []byte) Call {
	i := skipSpace(msg, 0)
	if i >= len(msg) || msg[i] != '{' {
		return Call{Fault: CallFaultObject}
	}
	at, ok := findMembers(msg, i)
	if !ok {
		return Call{Fault: CallFaultMember}
	}
	id, null := []byte(nil), false
	if at[callID] > 0 {
		id, null = idAt(msg, at[callID])
	}
	fault := judgeCall(msg, &at, id, null)
	if fault == CallFaultNone && at[callMethod] == 0 {
		return Call{Kind: Response, ID: id}
	}
	if fault == CallFaultNone {
		if method, ok := kindAt(msg, at[callMethod], buf); !ok {
			fault = CallFaultMethod
		} else if id == nil {
			return Call{Kind: Notification, Method: method}
		} else {
			return Call{Kind: Request, Method: method, ID: id}
		}
	}
	if null || at[callMethod] == 0 || at[callResult] > 0 || at[callError] > 0 {
		id = nil
	}
	return Call{Fault: fault, ID: id}
}

// findMembers returns the offsets of the values of the object's members. 0 means that there is none.
func findMembers(msg []byte, i int) (at [callMembers]int, ok bool) {
	for j, last := firstMember(msg, i); !last; {
		if j < 0 {
			return at, false
		}
		end := skipString(msg, j)
		value := skipSpace(msg, end)
		if value >= len(msg) || msg[value] != ':' {
			return at, false
		}
		if value = skipSpace(msg, value+1); value >= len(msg) {
			return at, false
		}
		if n, is := callMember(msg[j:end]); n >= 0 {
			if !is || at[n] > 0 {
				return at, false
			}
			at[n] = value
		}
		j, last = memberAfter(msg, value)
	}
	return at, true
}

// callMember returns which member of a call a reader could take a name for, or -1, and whether it is the name to the
// letter.
func callMember(raw []byte) (n int, is bool) {
	// The longest name, with every byte escaped.
	if len(raw)-2 > 6*len("jsonrpc") {
		return -1, false
	}
	_, flags, f := scanString(raw, 1)
	if f != faultNone {
		return callVersion, false // parsers may read it differently, so it must not be any of the names
	}
	text := raw[1 : len(raw)-1]
	var buf [6 * len("jsonrpc")]byte
	if flags&escaped != 0 {
		text = unescape(buf[:0], text)
	}
	for n, name := range callNames {
		switch {
		case flags == 0 && len(text) != len(name): // only letters outside ASCII fold to another length
		case string(text) == name:
			return n, true
		case bytes.EqualFold(text, callTexts[n]):
			return n, false
		}
	}
	return -1, false
}

// judgeCall judges the members of a call except the text of the method.
func judgeCall(msg []byte, at *[callMembers]int, id []byte, null bool) CallFault {
	has := func(n int) bool { return at[n] > 0 }
	begins := func(n int, with string) bool { return strings.IndexByte(with, msg[at[n]]) >= 0 }
	switch {
	case has(callID) && id == nil:
		return CallFaultID
	case !has(callVersion) || !isVersion(msg, at[callVersion]):
		return CallFaultVersion
	case has(callMethod):
		switch {
		case !begins(callMethod, `"`):
			return CallFaultMethod
		case has(callResult) || has(callError):
			return CallFaultResult
		case null:
			return CallFaultID
		case has(callParams) && !begins(callParams, "{["):
			return CallFaultParams
		}
		return CallFaultNone
	case has(callResult) == has(callError), has(callError) && !begins(callError, "{"):
		return CallFaultResult
	case id == nil, null && !has(callError):
		return CallFaultID
	}
	return CallFaultNone
}

// idAt returns the id at i as it is written, and whether it is null. It returns nil if it is none that JSON-RPC 2.0
// allows and all readers read alike.
func idAt(msg []byte, i int) (id []byte, null bool) {
	end := skipValue(msg, i)
	id = msg[i:end]
	switch {
	case string(id) == "null":
		return id, true
	case id[0] == '"':
		if _, flags, f := scanString(msg, i+1); f == faultNone && flags == 0 {
			return id, false
		}
		var buf [64]byte
		if _, ok := Unquote(id, buf[:]); ok {
			return id, false
		}
	default:
		if id, ok := integer(msg, i); ok {
			return id, false
		}
	}
	return nil, false
}

func isVersion(msg []byte, i int) bool {
	raw := msg[i:skipValue(msg, i)]
	if string(raw) == `"2.0"` {
		return true
	}
	var buf [8]byte
	if len(raw) > 6*len("2.0")+2 {
		return false
	}
	version, ok := Unquote(raw, buf[:])
	return ok && string(version) == "2.0"
}

// IsBatch reports whether a message is an array, and so a batch of JSON-RPC 2.0.
func IsBatch(msg []byte) bool {
	i := skipSpace(msg, 0)
	return i < len(msg) && msg[i] == '['
}

// A Batch walks the calls of a batch. The zero value is no Batch; NewBatch makes one.
type Batch struct {
	w        items
	From, To int // where the call stands in the message
}

// NewBatch returns a Batch in front of the first call of msg, for which IsBatch is true.
func NewBatch(msg []byte) Batch { return Batch{w: items{msg: msg, at: skipSpace(msg, 0)}} }

// Next goes to the next call, and returns false if there is none.
func (b *Batch) Next() bool {
	if !b.w.next() {
		return false
	}
	b.From, b.To = b.w.at, skipValue(b.w.msg, b.w.at)
	return true
}

// OK reports whether the message that has been walked to its end is an array. The message is JSON if that is so and
// each call is JSON.
func (b *Batch) OK() bool {
	return !b.w.bad && len(bytes.TrimLeft(b.w.msg[b.w.at+1:], " \t\r\n")) == 0
}

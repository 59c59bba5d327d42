package jsonschema

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func TestReadCall(t *testing.T) {
	long := strings.Repeat("m", MaxKind+1)
	for _, tt := range []struct {
		msg    string
		kind   CallKind
		fault  CallFault
		method string
		id     string
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"ping"}`, Request, 0, "ping", "1"},
		{` { "method" : "a/b" , "params" : {} , "id" : "x" , "jsonrpc" : "2.0" } `, Request, 0, "a/b", `"x"`},
		{`{"jsonrpc":"2.0","id":"\u0061","m\u0065thod":"p\u0069ng","params":[]}`, Request, 0, "ping", `"\u0061"`},
		{`{"jsonrpc":"2\u002e0","id":-5,"method":""}`, Request, 0, "", "-5"},
		{`{"jsonrpc":"2.0","id":12345678901234567890123,"method":"x","_meta":{"id":7,"method":"y"}}`, Request, 0, "x", "12345678901234567890123"},
		{`{"jsonrpc":"2.0","method":"note","params":{"id":1}}`, Notification, 0, "note", ""},
		{`{"jsonrpc":"2.0","id":1,"result":null}`, Response, 0, "", "1"},
		{`{"jsonrpc":"2.0","id":"a","result":{"method":"x"}}`, Response, 0, "", `"a"`},
		{`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}`, Response, 0, "", "1"},
		{`{"jsonrpc":"2.0","id":null,"error":{}}`, Response, 0, "", "null"},

		{`{"id":1,"method":"ping"}`, NoCall, CallFaultVersion, "", "1"},
		{`{"jsonrpc":"1.0","id":1,"method":"ping"}`, NoCall, CallFaultVersion, "", "1"},
		{`{"jsonrpc":2.0,"id":1,"method":"ping"}`, NoCall, CallFaultVersion, "", "1"},
		{`{"jsonrpc":"2.00","id":1,"method":"ping"}`, NoCall, CallFaultVersion, "", "1"},
		{`{"jsonrpc":["2.0"],"id":1,"method":"ping"}`, NoCall, CallFaultVersion, "", "1"},
		{`{"jsonrpc":"2.0","id":null,"method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":1.0,"method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":1e3,"method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":-0,"method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":true,"method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":{},"method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":[1],"method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":"\ud800","method":"ping"}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":1,"method":1}`, NoCall, CallFaultMethod, "", "1"},
		{`{"jsonrpc":"2.0","id":1,"method":null}`, NoCall, CallFaultMethod, "", "1"},
		{`{"jsonrpc":"2.0","id":1,"method":"` + long + `"}`, NoCall, CallFaultMethod, "", "1"},
		{`{"jsonrpc":"2.0","id":1,"method":"x","params":null}`, NoCall, CallFaultParams, "", "1"},
		{`{"jsonrpc":"2.0","id":1,"method":"x","params":"y"}`, NoCall, CallFaultParams, "", "1"},
		{`{"jsonrpc":"2.0","method":"x","params":5}`, NoCall, CallFaultParams, "", ""},

		// A client must not take the answer for one to its own request of that id.
		{`{"jsonrpc":"2.0","id":1,"method":"x","result":1}`, NoCall, CallFaultResult, "", ""},
		{`{"jsonrpc":"2.0","id":1,"method":"x","error":{}}`, NoCall, CallFaultResult, "", ""},
		{`{"jsonrpc":"2.0","id":1,"method":null,"result":1}`, NoCall, CallFaultMethod, "", ""},
		{`{"jsonrpc":"2.0","id":1,"result":1,"error":{}}`, NoCall, CallFaultResult, "", ""},
		{`{"jsonrpc":"2.0","id":1,"result":1,"error":null}`, NoCall, CallFaultResult, "", ""},
		{`{"jsonrpc":"2.0","id":1,"error":null}`, NoCall, CallFaultResult, "", ""},
		{`{"jsonrpc":"2.0","id":1,"error":"x"}`, NoCall, CallFaultResult, "", ""},
		{`{"jsonrpc":"2.0","id":1}`, NoCall, CallFaultResult, "", ""},
		{`{"jsonrpc":"2.0"}`, NoCall, CallFaultResult, "", ""},
		{`{"jsonrpc":"2.0","result":1}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","error":{}}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"2.0","id":null,"result":1}`, NoCall, CallFaultID, "", ""},
		{`{"jsonrpc":"1.0","id":1,"result":1}`, NoCall, CallFaultVersion, "", ""},

		{`{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}`, NoCall, CallFaultMember, "", ""},
		{`{"jsonrpc":"2.0","id":1,"i\u0064":2,"method":"x"}`, NoCall, CallFaultMember, "", ""},
		{`{"jsonrpc":"2.0","id":1,"ID":2,"method":"x"}`, NoCall, CallFaultMember, "", ""},
		{`{"jsonrpc":"2.0","id":1,"Method":"x"}`, NoCall, CallFaultMember, "", ""},
		{`{"jsonrpc":"2.0","id":1,"method":"x","METHOD":"y"}`, NoCall, CallFaultMember, "", ""},
		{`{"jsonrpc":"2.0","id":1,"method":"x","Params":{}}`, NoCall, CallFaultMember, "", ""},
		{`{"jsonrpc":"2.0","id":1,"method":"x","param\u017f":{}}`, NoCall, CallFaultMember, "", ""}, // the long s
		{`{"jsonrpc":"2.0","id":1,"method":"x"`, NoCall, CallFaultMember, "", ""},
		{`{"jsonrpc":"2.0","id":`, NoCall, CallFaultMember, "", ""},
		{`{"jsonrpc":"2.0","id"`, NoCall, CallFaultMember, "", ""},
		{`{`, NoCall, CallFaultMember, "", ""},
		{`{}`, NoCall, CallFaultVersion, "", ""},
		{`[]`, NoCall, CallFaultObject, "", ""},
		{`"x"`, NoCall, CallFaultObject, "", ""},
		{``, NoCall, CallFaultObject, "", ""},
	} {
		c := ReadCall([]byte(tt.msg), nil)
		if c.Kind != tt.kind || c.Fault != tt.fault || string(c.Method) != tt.method || string(c.ID) != tt.id {
			t.Errorf("%.100s: %d %v %q %s", tt.msg, c.Kind, c.Fault, c.Method, c.ID)
		}
	}
}

func TestCallFaultText(t *testing.T) {
	seen := map[string]bool{}
	for f := CallFaultNone + 1; f < CallFaults; f++ {
		if s := f.String(); s == "" || seen[s] {
			t.Errorf("%d: %q", f, s)
		} else {
			seen[s] = true
		}
	}
}

var callSeeds = []string{
	`{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}`, `{"jsonrpc":"2.0","method":"n","params":[1]}`, `{"jsonrpc":"2.0","id":"x","result":1}`,
	`{"jsonrpc":"2.0","id":null,"error":{"code":1}}`, `{"jsonrpc":"2.0","id":1.0,"method":"x"}`, `{"jsonrpc":"2.0","ID":1,"method":"x"}`,
	`{"jsonrpc":"2.0","id":1,"method":"x","result":null}`, `{"jsonrpc":"2\u002e0","i\u0064":-0,"method":"\u0061"}`, `{"jsonrpc":"2.0","id":1,"error":null,"result":2}`,
}

// For a message that passes the scan, ReadCall sees the call that a classification with encoding/json sees.
func FuzzReadCall(f *testing.F) {
	for _, s := range callSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		c := ReadCall(msg, nil)
		if Scan(msg, nil) != nil {
			return
		}
		kind, method, id := classify(msg)
		if c.Kind != kind || kind != NoCall && (string(c.Method) != method || string(c.ID) != id) {
			t.Fatalf("%q: %d %q %s, want %d %q %s", msg, c.Kind, c.Method, c.ID, kind, method, id)
		}
		var s struct {
			ID     json.RawMessage
			Method string
		}
		if json.Unmarshal(msg, &s) == nil && kind != NoCall && (s.Method != method || string(s.ID) != id) {
			t.Fatalf("%q: a struct has %q %s", msg, s.Method, s.ID)
		}
	})
}

var integerText = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

// classify judges a message by the text of the JSON-RPC 2.0 specification, with encoding/json.
func classify(msg []byte) (kind CallKind, method, id string) {
	var all map[string]json.RawMessage
	if json.Unmarshal(msg, &all) != nil || all == nil {
		return NoCall, "", ""
	}
	for name := range all {
		for _, known := range []string{"jsonrpc", "id", "method", "params", "result", "error"} {
			if name != known && strings.EqualFold(name, known) {
				return NoCall, "", ""
			}
		}
	}
	first := func(name string) byte {
		if raw := all[name]; len(raw) > 0 {
			return raw[0]
		}
		return 0
	}
	var version string
	if json.Unmarshal(all["jsonrpc"], &version) != nil || version != "2.0" {
		return NoCall, "", ""
	}
	null := string(all["id"]) == "null"
	if c := first("id"); c != 0 && c != '"' && !null && !integerText.Match(all["id"]) {
		return NoCall, "", ""
	}
	id = string(all["id"])
	if first("method") != 0 {
		p := first("params")
		if first("method") != '"' || json.Unmarshal(all["method"], &method) != nil || len(all["method"]) > MaxKind+2 ||
			p != 0 && p != '{' && p != '[' || null || first("result") != 0 || first("error") != 0 {
			return NoCall, "", ""
		}
		if id == "" {
			return Notification, method, ""
		}
		return Request, method, id
	}
	if (first("result") != 0) == (first("error") != 0) || first("error") != 0 && first("error") != '{' || id == "" || null && first("error") == 0 {
		return NoCall, "", ""
	}
	return Response, "", id
}

func TestBatch(t *testing.T) {
	for _, tt := range []struct {
		msg  string
		want []string
		ok   bool
	}{
		{`[]`, nil, true},
		{" [ ] \n", nil, true},
		{`[1]`, []string{"1"}, true},
		{` [ {"a":"]"} , [1,2] ,"x"] `, []string{`{"a":"]"}`, `[1,2]`, `"x"`}, true},
		{`[1]x`, []string{"1"}, false},
		{`[1][2]`, []string{"1"}, false},
		{`[1`, []string{"1"}, false},
		{`[1,`, []string{"1"}, false},
		{`[1,]`, []string{"1"}, false},
		{`[1}`, []string{"1"}, false},
		{`[1 2]`, []string{"1"}, false},
		{`[`, nil, false},
	} {
		b := NewBatch([]byte(tt.msg))
		var got []string
		for b.Next() {
			got = append(got, tt.msg[b.From:b.To])
		}
		if strings.Join(got, "|") != strings.Join(tt.want, "|") || b.OK() != tt.ok {
			t.Errorf("%s: %q %v", tt.msg, got, b.OK())
		}
	}
}

// A batch has the calls that encoding/json sees. It is JSON exactly if its brackets and all its calls are.
func FuzzBatch(f *testing.F) {
	f.Add([]byte(`[` + strings.Join(callSeeds, " , ") + `]`))
	for _, s := range []string{`[]`, `[1,[2,"]"]]`, `[{"a":]}`, `["\"]","x"]`, `[1]2`, `[1,]`, `[tru,1]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if !IsBatch(msg) {
			return
		}
		b, good, n := NewBatch(msg), true, 0
		var parts [][]byte
		for b.Next() {
			part := msg[b.From:b.To]
			parts = append(parts, part)
			good = good && Scan(part, &Limits{Depth: 63}) == nil
			if n++; n > len(msg) {
				t.Fatalf("%q: the walk does not end", msg)
			}
		}
		if good = good && b.OK(); good != (Scan(msg, nil) == nil) {
			t.Fatalf("%q: JSON by its calls: %v", msg, good)
		}
		var want []json.RawMessage
		if !good {
			return
		}
		if err := json.Unmarshal(msg, &want); err != nil || len(want) != len(parts) {
			t.Fatalf("%q: %d calls, encoding/json sees %d, %v", msg, len(parts), len(want), err)
		}
		for i := range want {
			if !bytes.Equal(want[i], parts[i]) {
				t.Fatalf("%q: call %d is %q, encoding/json sees %q", msg, i, parts[i], want[i])
			}
		}
	})
}

func TestReadCallAllocates(t *testing.T) {
	for _, s := range append(callSeeds, `{"jsonrpc":"2.0","id":"\u0061","method":"p\u0069ng"}`) {
		msg := []byte(s)
		if n := testing.AllocsPerRun(100, func() {
			var buf [64]byte
			ReadCall(msg, buf[:])
		}); n > 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

// TestReadCallRandom builds calls of members that JSON-RPC defines and of their relatives.
func TestReadCallRandom(t *testing.T) {
	names := []string{`"jsonrpc"`, `"jsonrpc"`, `"id"`, `"method"`, `"params"`, `"result"`, `"error"`, `"ID"`, `"m\u0065thod"`, `"iD"`, `"Result"`, `"x"`, `""`, `"param\u017f"`, `"ids"`}
	values := []string{`"2.0"`, `"2.0"`, `"2\u002e0"`, `2.0`, `null`, `1`, `-0`, `0`, `10`, `1.5`, `1e2`, `"a"`, `"\u0061"`, `{}`, `[]`, `{"id":1}`, `[{"method":"y"}]`, `true`, `""`, `"]"`, `"}"`}
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := map[CallKind]int{}
	for range 60000 {
		var b bytes.Buffer
		b.WriteString(`{"jsonrpc":"2.0"`)
		if rng.IntN(8) == 0 {
			b.Truncate(1)
			b.WriteString(` "x":1`)
		}
		for range rng.IntN(4) {
			b.WriteString([]string{",", " , ", ",\n"}[rng.IntN(3)] + names[rng.IntN(len(names))] + []string{":", " : "}[rng.IntN(2)] + values[rng.IntN(len(values))])
		}
		b.WriteString("}")
		msg := b.Bytes()
		if Scan(msg, nil) != nil {
			continue
		}
		c := ReadCall(msg, nil)
		kind, method, id := classify(msg)
		if c.Kind != kind || kind != NoCall && (string(c.Method) != method || string(c.ID) != id) {
			t.Fatalf("%s: %d %q %s, want %d %q %s", msg, c.Kind, c.Method, c.ID, kind, method, id)
		}
		kinds[kind]++
	}
	for k := NoCall; k <= Response; k++ {
		if kinds[k] < 50 {
			t.Errorf("only %d of kind %d", kinds[k], k)
		}
	}
}

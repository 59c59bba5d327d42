package jsonschema

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func TestDiscriminator(t *testing.T) {
	for _, tt := range []struct{ msg, path, want string }{
		{`{"type":"say"}`, "type", "say"},
		{` { "a" : [1,{"type":"x"}] , "type" : "say" , "b" : {"type":"y"} } `, "type", "say"},
		{`{"t\u0079pe":"s\u0061y"}`, "type", "say"},
		{`{"a":"}\"{","type":"say"}`, "type", "say"},
		{`{"a":-1.5e3,"b":null,"type":"say"}`, "type", "say"},
		{`{"op":{"kind":"x"}}`, "op kind", "x"},
		{`[["a","b"],"c"]`, "0 1", "b"},
		{`[["a","b"],"c"]`, "1", "c"},
		{`["a"]`, "1", ""},
		{`["a"]`, "00", ""},
		{`["a"]`, "type", ""},
		{`{"type":1}`, "type", ""},
		{`{"type":{"x":"y"}}`, "type", ""},
		{`{"kind":"say"}`, "type", ""},
		{`{}`, "type", ""},
		{``, "type", ""},
		{`{"type":"say"`, "type", ""},
		{`{"type":"say","type":"admin"}`, "type", ""},
		{`{"type":"say","type":"say"}`, "type", ""},
		{`{"type":"say","t\u0079pe":"admin"}`, "type", ""},
		{`{"type":"say","Type":"admin"}`, "type", ""},
		{`{"TYPE":"admin","type":"say"}`, "type", ""},
		{`{"Type":"say"}`, "type", ""},
		{`{"kind":"say","\u212Aind":"admin"}`, "kind", ""}, // the Kelvin sign
		{`{"kind":"say","Kind":"admin"}`, "kind", ""},
		{`{"type":"say"]`, "type", ""},
		{`{"type":"sa`, "type", ""},
		{`{"a":`, "type", ""},
		{`{"a"`, "type", ""},
	} {
		got, found := Discriminator([]byte(tt.msg), strings.Fields(tt.path), false, nil)
		if (found == Present) != (tt.want != "") || string(got) != tt.want {
			t.Errorf("%s at %s: %q %v, want %q", tt.msg, tt.path, got, found, tt.want)
		}
	}
}

func TestDiscriminatorFinds(t *testing.T) {
	const most = "9007199254740991"
	for _, tt := range []struct {
		msg, path string
		numbers   bool
		want      string
		found     Found
	}{
		{`{"op":2}`, "op", true, "2", Present},
		{`{"op":-1 , "d":{}}`, "op", true, "-1", Present},
		{`{"op":0}`, "op", true, "0", Present},
		{`[1,[2,3]]`, "1 0", true, "2", Present},
		{`{"op":` + most + `}`, "op", true, most, Present},
		{`{"op":-` + most + `}`, "op", true, "-" + most, Present},
		{`{"op":9007199254740992}`, "op", true, "", Unclear},
		{`{"op":18446744073709551618}`, "op", true, "", Unclear},
		{`{"op":2.0}`, "op", true, "", Unclear},
		{`{"op":2e0}`, "op", true, "", Unclear},
		{`{"op":2E0}`, "op", true, "", Unclear},
		{`{"op":-0}`, "op", true, "", Unclear},
		{`{"op":-}`, "op", true, "", Unclear},
		{`{"op":02}`, "op", true, "", Unclear},
		{`{"op":-02}`, "op", true, "", Unclear},
		{`{"op":"2"}`, "op", true, "", Unclear},
		{`{"op":null}`, "op", true, "", Unclear},
		{`{"op":[2]}`, "op", true, "", Unclear},
		{`{"op":2,"op":3}`, "op", true, "", Unclear},
		{`{"op":2,"OP":3}`, "op", true, "", Unclear},
		{`{"op":2`, "op", true, "", Unclear},
		{`{"x":2}`, "op", true, "", Absent},

		{`{"a":1}`, "type", false, "", Absent},
		{`{}`, "type", false, "", Absent},
		{` { } `, "type", false, "", Absent},
		{`[]`, "type", false, "", Absent},
		{`"say"`, "type", false, "", Absent},
		{`7`, "type", false, "", Absent},
		{`-7`, "type", false, "", Absent},
		{`true`, "type", false, "", Absent},
		{`null`, "type", false, "", Absent},
		{`{"op":1}`, "op kind", false, "", Absent},
		{`{"op":[]}`, "op 0", false, "", Absent},
		{`{"op":["x"]}`, "op 1", false, "", Absent},
		{`{"op":["x"]}`, "op 01", false, "", Absent},
		{`{"op":["x"]}`, "op -", false, "", Absent},
		{`{"op":["x"]}`, "op 0", false, "x", Present},
		{`{"op":{"0":"x"}}`, "op 0", false, "x", Present},
		{`["x"]`, "0", false, "x", Present},
		{`{"0":"x"}`, "0", false, "x", Present},
		{`[["join","r"],{"type":"y"}]`, "1 type", false, "y", Present},
		{`{"type":null}`, "type", false, "", Unclear},
		{`{"type":1}`, "type", false, "", Unclear},
		{`{"Type":"say"}`, "type", false, "", Unclear},
		{`{"\ud800":1}`, "type", false, "", Unclear}, // readers turn it into different names
		{``, "type", false, "", Unclear},
		{`nothing`, "op", true, "", Absent}, // the scan refuses it
		{`?`, "type", false, "", Unclear},
		{`{"a":1`, "type", false, "", Unclear},
		{`{"a"}`, "type", false, "", Unclear},
		{`{a:1}`, "type", false, "", Unclear},
		{`{"a":1,}`, "type", false, "", Unclear},
		{`{"a":1]`, "type", false, "", Unclear},
		{`[`, "0", false, "", Unclear},
		{`[1`, "1", false, "", Unclear},
		{`[1,]`, "1", false, "", Unclear},
		{`[1}`, "1", false, "", Unclear},
		{`{"type":"` + strings.Repeat("x", MaxKind) + `"}`, "type", false, strings.Repeat("x", MaxKind), Present},
		{`{"type":"` + strings.Repeat("x", MaxKind+1) + `"}`, "type", false, "", Unclear},
		{manyMembers(300, `"type":"say"`), "type", false, "say", Present},
		{manyMembers(300, `"x":"say"`), "type", false, "", Absent},
	} {
		got, found := Discriminator([]byte(tt.msg), strings.Fields(tt.path), tt.numbers, nil)
		if found != tt.found || string(got) != tt.want {
			t.Errorf("%.80s at %s: %q %v, want %q %v", tt.msg, tt.path, got, found, tt.want, tt.found)
		}
	}
}

// manyMembers returns an object of n members and one more.
func manyMembers(n int, last string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"k%d":%d,`, i, i)
	}
	return "{" + b.String() + last + "}"
}

func TestIsInteger(t *testing.T) {
	for _, s := range []string{"0", "2", "-1", "10", "9007199254740991", "-9007199254740991"} {
		if !IsInteger(s) {
			t.Errorf("%q is none", s)
		}
	}
	for _, s := range []string{"", "-", "-0", "02", "+2", "2.0", "2e0", " 2", "2 ", "2,", "0x2", "two", "9007199254740992", "90071992547409910"} {
		if IsInteger(s) {
			t.Errorf("%q is one", s)
		}
	}
}

func TestRawMember(t *testing.T) {
	for _, tt := range []struct {
		msg, want string
		found     Found
	}{
		{`{"a":1,"id":"\u0061" }`, `"\u0061"`, Present},
		{`{"id":[1, 2],"a":1}`, `[1, 2]`, Present},
		{`{"a":1}`, "", Absent},
		{`{"id":1,"id":2}`, "", Unclear},
		{`{"id":1,"ID":2}`, "", Unclear},
		{`[1]`, "", Unclear},
		{``, "", Unclear},
	} {
		if got, found := RawMember([]byte(tt.msg), "id"); string(got) != tt.want || found != tt.found {
			t.Errorf("%s: %s %v", tt.msg, got, found)
		}
	}
}

var discriminatorSeeds = []string{
	`{"type":"say"}`, `{"Type":"a","type":"b"}`, `{"a":{"type":"x"},"type":"\u0061"}`, `{"type":1}`, `[1]`, `{"typ\u0065":"x","a":"\\"}`,
	`["x",["y"]]`, `{"0":"x"}`, `{"type":-0}`, `{"type":2.0}`, `{"type":12345678901234567890}`, `[[2]]`, `{"type":[1],"typ":null}`, `{}`, `[]`, `7`,
}

// Whatever passes the scan, encoding/json and JSON.parse see the type that Discriminator sees,
// and none where it sees none.
func FuzzDiscriminator(f *testing.F) {
	for _, s := range discriminatorSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if Scan(msg, nil) != nil {
			return
		}
		for _, path := range [][]string{{"type"}, {"0"}, {"type", "0"}, {"0", "type"}} {
			for _, numbers := range []bool{false, true} {
				got, found := Discriminator(msg, path, numbers, nil)
				checkFound(t, msg, path, numbers, string(got), found)
			}
		}
	})
}

// checkFound compares what Discriminator has found with what two readers find.
func checkFound(t *testing.T, msg []byte, path []string, numbers bool, got string, found Found) {
	t.Helper()
	if found == Unclear {
		return
	}
	exactly, folded := lookUp(msg, path, false), lookUp(msg, path, true)
	if found == Absent {
		if exactly != nil || folded != nil {
			t.Fatalf("%q at %v: absent, others see %s and %s", msg, path, exactly, folded)
		}
		return
	}
	for _, raw := range []json.RawMessage{exactly, folded} {
		if numbers {
			var n int64
			var x float64
			if json.Unmarshal(raw, &n) != nil || json.Unmarshal(raw, &x) != nil || strconv.FormatInt(n, 10) != got || strconv.FormatFloat(x, 'f', -1, 64) != got {
				t.Fatalf("%q at %v: %s, others see %s", msg, path, got, raw)
			}
			continue
		}
		var s string
		if json.Unmarshal(raw, &s) != nil || s != got || raw[0] != '"' {
			t.Fatalf("%q at %v: %q, others see %s", msg, path, got, raw)
		}
	}
}

// lookUp returns what encoding/json finds at a path, or nil. With fold, the names match in any letter case, as those of
// a struct do. Otherwise they match to the letter.
func lookUp(msg json.RawMessage, path []string, fold bool) json.RawMessage {
	for _, name := range path {
		var next json.RawMessage
		var list []json.RawMessage
		object := map[string]json.RawMessage{}
		switch {
		case json.Unmarshal(msg, &list) == nil && list != nil:
			if n, ok := index(name); ok && n < len(list) {
				next = list[n]
			}
		case json.Unmarshal(msg, &object) == nil:
			for key, value := range object {
				if key == name || fold && strings.EqualFold(key, name) {
					next = value
				}
			}
		}
		if next == nil {
			return nil
		}
		msg = next
	}
	return msg
}

func TestDiscriminatorAllocates(t *testing.T) {
	for msg, path := range map[string][]string{
		`{"room":"lobby","type":"say","text":"hello"}`:  {"type"},
		`{"room":"lobby","type":"s\u0061y","text":"x"}`: {"type"},
		`[1,["say"]]`: {"1", "0"},
	} {
		msg := []byte(msg)
		if n := testing.AllocsPerRun(100, func() {
			var buf [64]byte
			Discriminator(msg, path, false, buf[:])
		}); n > 0 {
			t.Errorf("%s: %v allocations", msg, n)
		}
	}
}

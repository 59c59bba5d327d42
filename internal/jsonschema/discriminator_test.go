package jsonschema

import (
	"encoding/json"
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

// Whatever passes the scan, encoding/json sees the type that Discriminator sees.
func FuzzDiscriminator(f *testing.F) {
	for _, s := range []string{`{"type":"say"}`, `{"Type":"a","type":"b"}`, `{"a":{"type":"x"},"type":"\u0061"}`, `{"type":1}`, `[1]`, `{"typ\u0065":"x","a":"\\"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, found := Discriminator(msg, []string{"type"}, false, nil)
		ok := found == Present
		if Scan(msg, nil) != nil {
			return
		}
		var v struct {
			Type any `json:"type"`
		}
		if json.Unmarshal(msg, &v) != nil {
			if ok {
				t.Fatalf("%q has type %q, but is no object", msg, got)
			}
			return
		}
		if s, is := v.Type.(string); ok && (!is || s != string(got)) {
			t.Fatalf("%q: type %q, encoding/json sees %#v", msg, got, v.Type)
		}
	})
}

func TestDiscriminatorAllocates(t *testing.T) {
	msg, path := []byte(`{"room":"lobby","type":"say","text":"hello"}`), []string{"type"}
	if n := testing.AllocsPerRun(100, func() { Discriminator(msg, path, false, nil) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

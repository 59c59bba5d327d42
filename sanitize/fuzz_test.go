package sanitize_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/sanitize"
)

// decode reads JSON into a tree whose numbers are as they were written.
func decode(t *testing.T, msg []byte) (v any) {
	d := json.NewDecoder(bytes.NewReader(msg))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", msg, err)
	}
	return v
}

// upperAll does to a decoded message what At does with the pointers of FuzzAt.
func upperAll(v any, path string) any {
	switch v := v.(type) {
	case string:
		if path == "" || path == "/*" || strings.EqualFold(path, "/*/text") {
			return strings.ToUpper(v)
		}
	case []any:
		for i := range v {
			v[i] = upperAll(v[i], step1(path, "0"))
		}
	case map[string]any:
		for name := range v {
			v[name] = upperAll(v[name], step1(path, name))
		}
	}
	return v
}

func step1(path, name string) string {
	switch {
	case path == "":
		return "/*"
	case path == "/*" && strings.EqualFold(name, "text"):
		return "/*/text"
	}
	return "no"
}

// Whatever the bytes are, At refuses them or changes the strings that it should, and the result
// is JSON with the same numbers, names and order.
func FuzzAt(f *testing.F) {
	for _, s := range []string{
		`{"text":"a","b":{"text":"a\u00fc\ud83d\ude00\n"}}`, `["a",["b"],{"TEXT":"c"}]`, `"a"`, `{"a":1e400,"b":[]}`, `{"a":"b`, "\"\u2028\\\"\"",
	} {
		f.Add([]byte(s))
	}
	m := sanitize.At(sanitize.String(strings.ToUpper), "", "/*", "/*/text")
	trim := sanitize.At(sanitize.Chain(sanitize.RemoveControls, sanitize.RemoveInvisible, sanitize.Trim), "", "/*", "/*/text")
	f.Fuzz(func(t *testing.T, msg []byte) {
		in := bytes.Clone(msg)
		out, err := m("", msg)
		if !bytes.Equal(in, msg) {
			t.Fatal("changed in place")
		}
		if err != nil {
			if !errors.Is(err, reason.InvalidJSON) || out != nil {
				t.Fatalf("%q %v", out, err)
			}
			return
		}
		if got, want := decode(t, out), upperAll(decode(t, msg), ""); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s\n got %v\nwant %v", msg, got, want)
		}
		// What is clean stays as it is.
		once, err := trim("", msg)
		if err != nil || len(once) > len(msg) {
			t.Fatalf("%s: %s %v", msg, once, err)
		}
		if twice, err := trim("", once); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s: %s and then %s %v", msg, once, twice, err)
		}
	})
}

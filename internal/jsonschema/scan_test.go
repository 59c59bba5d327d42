package jsonschema_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

type scanCase struct {
	name, in string
	token    string
	offset   int
}

func scanCases() []scanCase {
	keys := func(n int) string {
		return "{" + list(n, func(i int) string { return fmt.Sprintf(`"%d":0`, i) }) + "}"
	}
	long := strings.Repeat("k", 256)
	return []scanCase{
		{"null", `null`, "", 0},
		{"scalar in space", " \t\r\n -1.5e+3 ", "", 0},
		{"all kinds", `{"a":[true,false,null,-0,1.0,1E1,"é\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t",{}],"b":{}}`, "", 0},
		{"escaped NUL", `"\u0000"`, "", 0},
		{"noncharacters", "\"\uFFFE\uFFFF\\uFFFF\U0010FFFF\"", "", 0},
		{"DEL", "\"\x7f\"", "", 0},
		{"same name in other objects", `{"a":{"a":[{"a":1},{"a":1}]},"b":1}`, "", 0},
		{"same name again after", `[{"a":1},{"a":1}]`, "", 0},
		{"empty name", `{"":1}`, "", 0},
		{"depth 64", strings.Repeat("[", 64) + strings.Repeat("]", 64), "", 0},
		{"256 keys", keys(256), "", 0},
		{"key of 256", `{"` + long + `":1}`, "", 0},
		{"escaped key of 256", `{"` + strings.Repeat(`\u006b`, 256) + `":1}`, "", 0},
		{"number of 64", strings.Repeat("9", 64), "", 0},
		{"exponent 400", `[1e400,1E-400,1e+0000000400]`, "", 0},

		{"nothing", ``, "empty", 0},
		{"space", " \n", "empty", 2},
		{"BOM", "\xef\xbb\xbf{}", "bom", 0},
		{"BOM later", " \xef\xbb\xbf{}", "syntax", 1},
		{"UTF-16", "\xff\xfe{\x00}\x00", "syntax", 0},
		{"NUL", "{}\x00", "trailing_data", 2},
		{"NUL before", "\x00{}", "syntax", 0},
		{"form feed", "\f1", "syntax", 0},
		{"two values", `{} {}`, "trailing_data", 3},
		{"bracket after", `[]]`, "trailing_data", 2},
		{"leading zero", `01`, "syntax", 1},
		{"minus zero one", `-01`, "syntax", 2},
		{"minus", `-`, "syntax", 1},
		{"plus", `+1`, "syntax", 0},
		{"point first", `.5`, "syntax", 0},
		{"point last", `5.`, "syntax", 2},
		{"exponent empty", `1e`, "syntax", 2},
		{"exponent sign", `1e+`, "syntax", 3},
		{"hexadecimal", `0x1`, "trailing_data", 1},
		{"NaN", `NaN`, "syntax", 0},
		{"Infinity", `-Infinity`, "syntax", 1},
		{"word", `nul`, "syntax", 3},
		{"word in capitals", `True`, "syntax", 0},
		{"word too long", `nulll`, "trailing_data", 4},
		{"open string", `"abc`, "syntax", 4},
		{"open escape", `"\`, "syntax", 2},
		{"open \\u", `"\u00`, "syntax", 5},
		{"bad escape", `"\x"`, "syntax", 2},
		{"bad \\u", `"\u00g0"`, "syntax", 5},
		{"single quotes", `{'a':1}`, "syntax", 1},
		{"no name", `{1:1}`, "syntax", 1},
		{"no colon", `{"a" 1}`, "syntax", 5},
		{"no value", `{"a":}`, "syntax", 5},
		{"comma last", `[1,]`, "syntax", 3},
		{"comma last in object", `{"a":1,}`, "syntax", 7},
		{"comma first", `[,1]`, "syntax", 1},
		{"no comma", `[1 2]`, "syntax", 3},
		{"wrong bracket", `[1}`, "syntax", 2},
		{"wrong brace", `{"a":1]`, "syntax", 6},
		{"open array", `[1`, "syntax", 2},
		{"open object", `{`, "syntax", 1},
		{"comment", `/**/1`, "syntax", 0},
		{"line feed in a string", "\"a\nb\"", "control_character", 2},
		{"NUL in a string", "\"\x00\"", "control_character", 1},
		{"US in a string", "\"12345678\x1f\"", "control_character", 9},
		{"continuation", "\"\x80\"", "invalid_utf8", 1},
		{"overlong", "\"\xc0\xaf\"", "invalid_utf8", 1},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", "invalid_utf8", 1},
		{"beyond Unicode", "\"\xf4\x90\x80\x80\"", "invalid_utf8", 1},
		{"cut character", "\"é\xe2\x82\"", "invalid_utf8", 3},
		{"high alone", `"\ud800"`, "lone_surrogate", 1},
		{"high, then text", `"a\ud800b"`, "lone_surrogate", 2},
		{"high, high", `"\ud800\ud800"`, "lone_surrogate", 1},
		{"high, then no digits", `"\ud800\uzzzz"`, "lone_surrogate", 1},
		{"low alone", `"\udc00"`, "lone_surrogate", 1},
		{"low in a name", `{"\udfff":1}`, "lone_surrogate", 2},
		{"twice", `{"a":1,"a":1}`, "duplicate_key", 7},
		{"twice, escaped", `{"a":1,"\u0061":1}`, "duplicate_key", 7},
		{"twice, both escaped", `{"\u00e9":1,"b":1,"\u00E9":1}`, "duplicate_key", 18},
		{"twice, beyond the BMP", `{"😀":1,"\ud83d\ude00":1}`, "duplicate_key", 10},
		{"twice empty", `{"":1,"":1}`, "duplicate_key", 6},
		{"twice around an object", `{"a":{"b":1,"c":[{"a":2}]},"a":1}`, "duplicate_key", 27},
		{"depth 65", strings.Repeat("[", 65) + strings.Repeat("]", 65), "depth", 64},
		{"depth 65 of objects", strings.Repeat(`{"a":`, 65), "depth", 320},
		{"257 keys", keys(257), "keys", len(keys(256))},
		{"key of 257", `{"` + long + `k":1}`, "key_bytes", 1},
		{"key of 257 by escapes", `{"` + strings.Repeat(`\u00e9`, 128) + `k":1}`, "key_bytes", 1},
		{"number of 65", `[` + strings.Repeat("9", 65) + `]`, "number_bytes", 1},
		{"exponent 401", `[1,1e401]`, "exponent", 3},
		{"exponent -401", `1e-401`, "exponent", 0},
		{"exponent by value", `1e+0000000401`, "exponent", 0},
		{"exponent beyond int64", `1e99999999999999999999`, "exponent", 0},
		{"exponent of 2^31", `1e2147483648`, "exponent", 0},
		{"exponent of 2^32", `1e4294967296`, "exponent", 0},
		{"exponent of -2^32-1", `1e-4294967297`, "exponent", 0},
		{"exponent of ten times 2^32", `[1e42949672960]`, "exponent", 1},
		{"exponent of 2^64", `1e18446744073709551616`, "exponent", 0},

		// The first fault in byte order wins.
		{"limit before syntax", strings.Repeat("[", 65) + `x`, "depth", 64},
		{"syntax before limit", `[x` + strings.Repeat("[", 65), "syntax", 1},
		{"long name, then a control", `{"` + long + "k\n", "key_bytes", 1},
		{"a control, then a long name", "{\"\n" + long + "k", "control_character", 2},
		{"long number, then a letter", strings.Repeat("9", 65) + `.x`, "number_bytes", 0},
	}
}

func TestScan(t *testing.T) {
	for _, c := range scanCases() {
		t.Run(c.name, func(t *testing.T) {
			err := jsonschema.Scan([]byte(c.in), nil)
			if got := token(t, err); got != c.token {
				t.Fatalf("%.80q: got %q (%v), want %q", c.in, got, err, c.token)
			}
			if err != nil {
				e := err.(*jsonschema.Error)
				if e.Offset != c.offset {
					t.Errorf("at %d, want %d", e.Offset, c.offset)
				}
				want := jsonschema.KindSyntax
				switch c.token {
				case "depth", "keys", "key_bytes", "number_bytes", "exponent":
					want = jsonschema.KindLimit
				}
				if e.Kind != want {
					t.Errorf("kind %v, want %v", e.Kind, want)
				}
			}
			checkScan(t, []byte(c.in))
		})
	}
}

func TestScanLimits(t *testing.T) {
	for _, c := range []struct {
		lim  jsonschema.Limits
		in   string
		want string
	}{
		{jsonschema.Limits{Depth: 1}, `[1]`, ""},
		{jsonschema.Limits{Depth: 1}, `[[]]`, "depth"},
		{jsonschema.Limits{Depth: -1}, strings.Repeat("[", 9999) + strings.Repeat("]", 9999), ""},
		{jsonschema.Limits{Keys: 1}, `{"a":1,"b":1}`, "keys"},
		{jsonschema.Limits{Keys: -1}, "{" + list(5000, func(i int) string { return fmt.Sprintf(`"%d":[]`, i) }) + "}", ""},
		{jsonschema.Limits{Keys: -1}, "{" + list(5000, func(i int) string { return fmt.Sprintf(`"%d":[]`, i%4999) }) + "}", "duplicate_key"},
		{jsonschema.Limits{KeyBytes: 1}, `{"é":1}`, "key_bytes"},
		{jsonschema.Limits{KeyBytes: -1}, `{"` + strings.Repeat("k", 9999) + `":1}`, ""},
		{jsonschema.Limits{NumberBytes: 2}, `-10`, "number_bytes"},
		{jsonschema.Limits{NumberBytes: -1}, strings.Repeat("1", 9999), ""},
		{jsonschema.Limits{Exponent: 1}, `1e2`, "exponent"},
		{jsonschema.Limits{Exponent: -1}, `1e1073741823`, ""},
		{jsonschema.Limits{Exponent: -1}, `1e1073741824`, "exponent"},
	} {
		if got := token(t, jsonschema.Scan([]byte(c.in), &c.lim)); got != c.want {
			t.Errorf("%+v, %.40q: got %q, want %q", c.lim, c.in, got, c.want)
		}
	}
}

// TestScanAllocs: nothing is allocated on accept, whatever the message is made of.
func TestScanAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	lim := jsonschema.DefaultLimits()
	for _, c := range scanCases() {
		in := []byte(c.in)
		if c.token != "" {
			continue
		}
		if n := testing.AllocsPerRun(100, func() { _ = jsonschema.Scan(in, &lim) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// TestScanAttack: names cannot be chosen to make the search for double ones slow. Each message is compared with one of
// the same size that has no object at all; both were a second or more if the search were quadratic in the message.
func TestScanAttack(t *testing.T) {
	if raceEnabled {
		t.Skip("a ratio of times, which the race detector bends")
	}
	lim := jsonschema.Limits{Keys: -1}
	one := []byte("{" + list(100000, func(i int) string { return strconv.Quote(strconv.Itoa(i)) + ":0" }) + "}")
	many := []byte("[" + list(400, func(int) string {
		return "{" + list(256, func(i int) string { return fmt.Sprintf(`"%d":0`, i) }) + "}"
	}) + "]")
	flat := []byte("[" + strings.Repeat("123456,", len(one)/7) + "0]")
	base := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			_ = jsonschema.Scan(flat, &lim)
		}
	}).NsPerOp()
	for name, msg := range map[string][]byte{"one object": one, "objects of 256 keys": many} {
		if err := jsonschema.Scan(msg, &lim); err != nil {
			t.Fatal(err)
		}
		ns := testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				_ = jsonschema.Scan(msg, &lim)
			}
		}).NsPerOp()
		ratio := float64(ns) / float64(len(msg)) * float64(len(flat)) / float64(base)
		t.Logf("%s: %.1f times a flat array", name, ratio)
		if ratio > 200 {
			t.Errorf("%s: %.1f times a flat array", name, ratio)
		}
	}
}

// checkScan holds Scan against encoding/json and against a slow reader that knows each strict rule by itself.
func checkScan(t *testing.T, msg []byte) {
	t.Helper()
	err := jsonschema.Scan(msg, nil)
	valid := json.Valid(msg)
	if err == nil {
		if !valid {
			t.Fatalf("accepted what encoding/json refuses: %q", msg)
		}
		if why := slow(msg); len(why) > 0 {
			t.Fatalf("accepted %q, which is %v", msg, why)
		}
		return
	}
	var e *jsonschema.Error
	if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(msg) {
		t.Fatalf("%q: %#v", msg, err)
	}
	if !valid {
		return
	}
	if why := slow(msg); !why[e.Token] {
		t.Fatalf("%q refused as %s at %d, but it is %v", msg, e.Token, e.Offset, why)
	}
}

// slow lists the strict rules that a message breaks which encoding/json accepts.
func slow(msg []byte) map[string]bool {
	why := map[string]bool{}
	if !utf8.Valid(msg) {
		why["invalid_utf8"] = true
	}
	text := string(msg)
	for i := 0; i < len(text); i++ { // escapes only stand in strings
		if text[i] != '\\' {
			continue
		}
		i++
		if text[i] != 'u' {
			continue
		}
		r, _ := strconv.ParseUint(text[i+1:i+5], 16, 32)
		i += 4
		if r >= 0xD800 && r < 0xDC00 && i+6 < len(text) && text[i+1] == '\\' && text[i+2] == 'u' {
			if low, _ := strconv.ParseUint(text[i+3:i+7], 16, 32); low >= 0xDC00 && low < 0xE000 {
				i += 6
				continue
			}
		}
		if r >= 0xD800 && r < 0xE000 {
			why["lone_surrogate"] = true
		}
	}
	dec := json.NewDecoder(bytes.NewReader(msg))
	dec.UseNumber()
	type level struct {
		object, name bool
		seen         map[string]bool
	}
	var stack []*level
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			return why
		}
		if err != nil {
			panic(err)
		}
		var top *level
		if len(stack) > 0 {
			top = stack[len(stack)-1]
		}
		isName := top != nil && top.object && top.name
		if top != nil && top.object {
			top.name = !top.name
		}
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '{', '[':
				stack = append(stack, &level{object: tok == '{', name: tok == '{', seen: map[string]bool{}})
				if len(stack) > 64 {
					why["depth"] = true
				}
			default:
				stack = stack[:len(stack)-1]
			}
		case string:
			if !isName {
				continue
			}
			if top.seen[tok] {
				why["duplicate_key"] = true
			}
			top.seen[tok] = true
			if len(top.seen) > 256 {
				why["keys"] = true
			}
			if len(tok) > 256 {
				why["key_bytes"] = true
			}
		case json.Number:
			if len(tok) > 64 {
				why["number_bytes"] = true
			}
			if i := strings.IndexAny(string(tok), "eE"); i >= 0 {
				if n, err := strconv.ParseInt(string(tok[i+1:]), 10, 64); err != nil || n > 400 || n < -400 {
					why["exponent"] = true
				}
			}
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, c := range scanCases() {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, msg []byte) { checkScan(t, msg) })
}

func BenchmarkScan(b *testing.B) {
	chat := []byte(`{"type":"chat","id":"3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60","room":"general","text":"Does anybody know whether the release is out yet?","ts":1714392000123}`)
	for _, c := range []struct {
		name string
		msg  []byte
	}{{"chat", chat}, {"array", []byte("[" + list(200, func(int) string { return string(chat) }) + "]")}} {
		b.Run(c.name+"/scan", func(b *testing.B) {
			b.SetBytes(int64(len(c.msg)))
			b.ReportAllocs()
			for b.Loop() {
				_ = jsonschema.Scan(c.msg, nil)
			}
		})
		b.Run(c.name+"/json.Valid", func(b *testing.B) {
			b.SetBytes(int64(len(c.msg)))
			for b.Loop() {
				_ = json.Valid(c.msg)
			}
		})
	}
}

package sanitize_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/sanitize"
)

// upper is a Func that changes most texts.
func upper(text []byte) ([]byte, error) { return bytes.ToUpper(text), nil }

// unvowel is a Func that only removes characters.
func unvowel(text []byte) ([]byte, error) {
	return bytes.Map(func(r rune) rune {
		if strings.ContainsRune("aeiou", r) {
			return -1
		}
		return r
	}, text), nil
}

// run applies m and checks that the message is not changed in place.
func run(t *testing.T, m sanitize.Message, kind, msg string) (string, error) {
	t.Helper()
	in := []byte(msg)
	out, err := m(kind, in[:len(in):len(in)])
	if string(in) != msg {
		t.Errorf("%s was changed in place to %s", msg, in)
	}
	return string(out), err
}

func TestAt(t *testing.T) {
	for _, tt := range []struct {
		f        sanitize.Func
		pointers string // separated by blanks
		in, want string
	}{
		{upper, "/text", `{"text":"a"}`, `{"text":"A"}`},
		{upper, "/text", ` { "n" : 1.50e+0 , "text" : "a" , "z":[ ] } `, ` { "n" : 1.50e+0 , "text" : "A" , "z":[ ] } `},
		{upper, "/text", `{"other":"a","text":"","more":{"text":"a"}}`, `{"other":"a","text":"","more":{"text":"a"}}`},
		{upper, "/text", `{"text":["a"]}`, `{"text":["a"]}`},
		{upper, "/text", `{"text":{"a":"a"}}`, `{"text":{"a":"a"}}`},
		{upper, "/text", `["text","a"]`, `["text","a"]`},
		{upper, "/text", `"text"`, `"text"`},
		{upper, "/text", `7`, `7`},
		{upper, "/text", `{}`, `{}`},
		{upper, "/text", `{"text":null,"a":true}`, `{"text":null,"a":true}`},
		{upper, "/te~1x~0t", `{"te/x~t":"a","te~1x~0t":"a"}`, `{"te/x~t":"A","te~1x~0t":"a"}`},
		{upper, "/text", `{"t\u0065xt":"a"}`, `{"t\u0065xt":"A"}`},
		{upper, "/é", `{"\u00e9":"a","é ":"a"}`, `{"\u00e9":"A","é ":"a"}`},
		{upper, "/", `{"":"a","x":"a"}`, `{"":"A","x":"a"}`},
		{upper, "/text", `{"Text":"a","TE\u0058T":"b","tex":"c"}`, `{"Text":"A","TE\u0058T":"B","tex":"c"}`},
		{upper, "/k", "{\"\u212a\":\"a\"}", "{\"\u212a\":\"A\"}"}, // encoding/json takes the Kelvin sign for k
		{upper, "/0", `["a","b"]`, `["A","b"]`},
		{upper, "/1", `["a","b"]`, `["a","B"]`},
		{upper, "/2", `["a","b"]`, `["a","b"]`},
		{upper, "/01 /-1 /+1 /- /1.0", `["a","b"]`, `["a","b"]`},
		{upper, "/01 /-", `{"01":"a","-":"b","1":"c"}`, `{"01":"A","-":"B","1":"c"}`},
		{upper, "/items/*/name", `{"items":[{"name":"a"},{"name":"b","x":"c"},"d",[{"name":"e"}]]}`, `{"items":[{"name":"A"},{"name":"B","x":"c"},"d",[{"name":"e"}]]}`},
		{upper, "/items/*/name", `{"items":{"x":{"name":"a"},"y":{"nam":"a"}}}`, `{"items":{"x":{"name":"A"},"y":{"nam":"a"}}}`},
		{upper, "/*", `{"*":"a","b":"c","d":{"e":"f"}}`, `{"*":"A","b":"C","d":{"e":"f"}}`},
		{upper, "/*/* /a", `{"a":"x","b":["y",["z"]]}`, `{"a":"X","b":["Y",["z"]]}`},
		{upper, "", ` "a" `, ` "A" `},
		{upper, "/a/b /a /*/b", `{"a":{"b":"x"}}`, `{"a":{"b":"X"}}`},
		{unvowel, "/a /*", `{"a":"eaebe"}`, `{"a":"b"}`},

		// Escapes stay as they are where a text only gets shorter.
		{unvowel, "/t", `{"t":"\u003Ca\u003e<a> \u2028\/\"\\\n\tü\u00fca\ud83d\uDE00"}`, `{"t":"\u003C\u003e<> \u2028\/\"\\\n\tü\u00fc\ud83d\uDE00"}`},
		{unvowel, "/t", `{"t":"\u0061b\u0062"}`, `{"t":"b\u0062"}`},
		{sanitize.Trim, "/t", `{"t":"\n \u00a0\u003cb>\u2028x\ufeff \t"}`, `{"t":"\u003cb>\u2028x"}`},
		// A character that was escaped anywhere in the text is escaped in another text.
		{upper, "/t", `{"t":"\u003Ca><a>"}`, `{"t":"\u003cA>\u003cA>"}`},
		{upper, "/t", `{"t":"<\/a/>&"}`, `{"t":"<\/A\/>&"}`},
		{upper, "/t", `{"t":"\u2028a/ü"}`, `{"t":"\u2028A/Ü"}`},
		{upper, "/t", `{"t":"a\u00fc😀ſ"}`, `{"t":"A\u00dc\ud83d\ude00S"}`},
		{upper, "/t", `{"t":"a\"\\\b\f\n\r\t\u0000\u007f` + "\u007f" + `"}`, `{"t":"A\"\\\u0008\u000c\n\r\t\u0000\u007f\u007f"}`},
		{upper, "/t", "{\"t\":\"a\u2028\u007f\"}", "{\"t\":\"A\u2028\u007f\"}"},
	} {
		m := sanitize.At(tt.f, strings.Split(tt.pointers, " ")...)
		if got, err := run(t, m, "", tt.in); err != nil || got != tt.want {
			t.Errorf("At(%q): %s\n got %s %v\nwant %s", tt.pointers, tt.in, got, err, tt.want)
		}
	}
}

// At refuses what is not strict JSON, because an application could find the string at another
// place, or another string.
func TestAtNotJSON(t *testing.T) {
	m := sanitize.At(upper, "/text")
	for _, msg := range []string{
		``, ` `, `x`, `{"text":"a"`, `{"text":"a"}}`, `{"text":"a"} {"text":"a"}`, `{text:"a"}`, `{'text':'a'}`, `{"text":"a",}`,
		`{"text":"a","text":"b"}`, `{"text":"a","t\u0065xt":"b"}`, "{\"text\":\"a\n\"}", "{\"text\":\"\xff\"}", `{"text":"\ud800"}`,
		`{"text":"\x61"}`, "\ufeff{\"text\":\"a\"}", `{"a":1/*,"text":"a"*/}`, `{"a":01}`, `[`, `"`, `"\`, `{"`, `{"a`, `{"a":`,
	} {
		if out, err := run(t, m, "", msg); !errors.Is(err, reason.InvalidJSON) || out != "" {
			t.Errorf("%q: %q %v", msg, out, err)
		}
	}
	// The limits of a message are the Validator's.
	keys := make([]string, 2000)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"%d":1e9999`, i)
	}
	msg := strings.Repeat(`[`, 1000) + `{"` + strings.Repeat("k", 2000) + `":` + strings.Repeat("9", 2000) + `,` + strings.Join(keys, ",") + `}` + strings.Repeat(`]`, 1000)
	if out, err := run(t, m, "", msg); err != nil || out != msg {
		t.Error(err)
	}
}

// An error of a Func refuses the message, says at which pointer, and has nothing of the message.
func TestErrors(t *testing.T) {
	own := reason.New("swearing", "no swearing", 4001)
	for _, tt := range []struct {
		f    sanitize.Func
		text string
		is   error  // what the error wraps; nil: no reason
		want string // the text of the error; "": any
	}{
		{sanitize.RefuseControls, `secret\u202e`, nil, `sanitize: at "/items/*/t": a control character`},
		{sanitize.RefuseInvisible, `secret\u200b`, nil, `sanitize: at "/items/*/t": an invisible character`},
		{func([]byte) ([]byte, error) { return []byte("x"), fmt.Errorf("no: %w", own) }, `secret`, own, ""},
		{sanitize.Chain(sanitize.Trim, func([]byte) ([]byte, error) { return nil, own }, unreached), `secret`, own, ""},
		{func([]byte) ([]byte, error) { return []byte("\xff"), nil }, `secret`, reason.Internal, ""},
		{func(text []byte) ([]byte, error) { return text[:1], nil }, `üsecret`, reason.Internal, ""},
	} {
		out, err := run(t, sanitize.At(tt.f, "/items/*/t"), "", `{"a":"b","items":[{"t":"`+tt.text+`"}]}`)
		switch {
		case err == nil, out != "", tt.is != nil && !errors.Is(err, tt.is), tt.want != "" && err.Error() != tt.want:
			t.Errorf("%s: %q %v", tt.text, out, err)
		case tt.is == nil && errors.Is(err, reason.Internal), strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: %v", tt.text, err)
		}
	}
}

// unreached is a Func that nobody may call.
func unreached([]byte) ([]byte, error) { panic("reached") }

// A Func is called once for each string, and not after an error.
func TestCalls(t *testing.T) {
	var got []string
	m := sanitize.At(func(text []byte) ([]byte, error) {
		if got = append(got, string(text)); string(text) == "c" {
			return nil, errors.New("no")
		}
		return text, nil
	}, "/*", "/a", "/*/*")
	run(t, m, "", `{"a":"\u0061","b":["b",{"x":"no"}],"c":"c","d":"d"}`)
	if strings.Join(got, "") != "abc" {
		t.Errorf("called for %q", got)
	}
}

func TestByKindAndAll(t *testing.T) {
	text := sanitize.At(upper, "/text")
	both := sanitize.All(text, sanitize.At(unvowel, "/text", "/name"))
	kinds := map[string]sanitize.Message{"say": text, "both": both}
	m := sanitize.ByKind(kinds)
	clear(kinds) // it is copied
	const msg = `{"text":"ae b","name":"ae b"}`
	for kind, want := range map[string]string{
		"say": `{"text":"AE B","name":"ae b"}`, "both": `{"text":"AE B","name":" b"}`, "": msg, "other": msg,
	} {
		if got, err := run(t, m, kind, msg); err != nil || got != want {
			t.Errorf("%q: %s %v, want %s", kind, got, err, want)
		}
	}
	no := errors.New("no")
	m = sanitize.All(text, func(string, []byte) ([]byte, error) { return []byte("x"), no }, func(string, []byte) ([]byte, error) { panic("reached") })
	if out, err := run(t, m, "", msg); err != no || out != "" {
		t.Errorf("%q %v", out, err)
	}
}

func TestChain(t *testing.T) {
	f := sanitize.Chain(sanitize.RemoveControls, sanitize.RemoveInvisible, sanitize.Trim, sanitize.String(strings.ToUpper))
	out, err := f([]byte("\u202e\u200b \x00 a\u200db\u2066\n\ufeff "))
	if string(out) != "A\u200dB" || err != nil {
		t.Errorf("%q %v", out, err)
	}
	if out, err := sanitize.Chain()([]byte("a")); string(out) != "a" || err != nil {
		t.Errorf("%q %v", out, err)
	}
}

// Mistakes of the program panic when the functions are made.
func TestPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"At, no Func":         func() { sanitize.At(nil, "/a") },
		"At, no pointer":      func() { sanitize.At(upper) },
		"At, no slash":        func() { sanitize.At(upper, "/a", "text") },
		"At, escape":          func() { sanitize.At(upper, "/a~2") },
		"At, escape at end":   func() { sanitize.At(upper, "/a~") },
		"At, fragment":        func() { sanitize.At(upper, "#/a") },
		"Chain":               func() { sanitize.Chain(upper, nil) },
		"All":                 func() { sanitize.All(nil) },
		"ByKind":              func() { sanitize.ByKind(map[string]sanitize.Message{"say": nil}) },
		"String":              func() { sanitize.String(nil) },
		"At, a typed nil too": func() { var f sanitize.Func; sanitize.At(f, "/a") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// T81: the sets are those that the documentation lists, which follow Unicode's properties.
func TestSets(t *testing.T) {
	is := func(f sanitize.Func, r rune) bool {
		_, err := f([]byte("a" + string(r) + "b"))
		return err != nil
	}
	in := func(r rune, ranges ...rune) bool {
		for i := 0; i < len(ranges); i += 2 {
			if r >= ranges[i] && r <= ranges[i+1] {
				return true
			}
		}
		return false
	}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		control := unicode.Is(unicode.Cc, r) && r != '\t' && r != '\n' && r != '\r' || unicode.Is(unicode.Bidi_Control, r)
		if got := is(sanitize.RefuseControls, r); got != control {
			t.Errorf("RefuseControls, %U: %t", r, got)
		}
		ignorable := unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Cf, unicode.Variation_Selector) &&
			!unicode.In(r, unicode.White_Space, unicode.Prepended_Concatenation_Mark) && !in(r, 0xFFF9, 0xFFFB, 0x13430, 0x13440)
		needed := unicode.Is(unicode.Variation_Selector, r) || in(r, 0x200C, 0x200D, 0x034F, 0x034F)
		invisible := ignorable && !needed && !control || in(r, 0xFFF9, 0xFFFB)
		if got := is(sanitize.RefuseInvisible, r); got != invisible {
			t.Errorf("RefuseInvisible, %U: %t", r, got)
		}
		for name, tt := range map[string]struct {
			f   sanitize.Func
			set bool
		}{"RemoveControls": {sanitize.RemoveControls, control}, "RemoveInvisible": {sanitize.RemoveInvisible, invisible}} {
			text := string(r) + "a" + string(r) + string(r) + "b" + string(r)
			want := text
			if tt.set {
				want = "ab"
			}
			if out, err := tt.f([]byte(text)); err != nil || string(out) != want {
				t.Errorf("%s, %U: %q %v", name, r, out, err)
			}
		}
		blank := unicode.Is(unicode.White_Space, r) || r == 0xFEFF
		want := string(r) + "a b" + string(r)
		if blank {
			want = "a b"
		}
		if out, err := sanitize.Trim([]byte(string(r) + "a b" + string(r))); err != nil || string(out) != want {
			t.Errorf("Trim, %U: %q %v", r, out, err)
		}
	}
	for _, text := range []string{"", " ", "\u3000\n\ufeff"} {
		if out, err := sanitize.Trim([]byte(text)); err != nil || string(out) != "" {
			t.Errorf("Trim(%q): %q %v", text, out, err)
		}
	}
}

// An unchanged message is returned itself, and costs no allocation.
func TestUnchanged(t *testing.T) {
	long := strings.Repeat(`{"name":"M\u00fcller \ud83d\ude00","text":"nothing to do","n":[1,2,3]},`, 100)
	msg := []byte(`{"text":"fine","t\u0065xt2":"\n fine\n.","items":[` + strings.TrimSuffix(long, ",") + `]}`)
	m := sanitize.ByKind(map[string]sanitize.Message{"say": sanitize.All(
		sanitize.At(sanitize.Chain(sanitize.RefuseControls, sanitize.RemoveControls, sanitize.RemoveInvisible, sanitize.Trim), "/text", "/items/*/name"),
		sanitize.At(sanitize.RefuseInvisible, "/text2"),
	)})
	var out []byte
	n := testing.AllocsPerRun(100, func() { out, _ = m("say", msg) })
	if &out[0] != &msg[0] || len(out) != len(msg) {
		t.Error("another message")
	}
	if n >= 1 && !raceDetector() {
		t.Errorf("%v allocations", n)
	}
}

// raceDetector reports whether the test runs under the race detector, which makes pools forget.
func raceDetector() bool {
	pool := sync.Pool{New: func() any { return new([64]byte) }}
	return testing.AllocsPerRun(1, func() {
		for range 1000 {
			pool.Put(pool.Get())
		}
	}) > 10
}

// message is a random message, and what At must make of it.
type message struct {
	*rand.Rand
	pointers []string
	in, want []byte
	removes  bool // only characters are removed, so that want is exact
}

func (m *message) both(s string) {
	m.in, m.want = append(m.in, s...), append(m.want, s...)
}

func (m *message) blank() { m.both([]string{"", "", "", " ", "\n", "\t \r"}[m.IntN(6)]) }

// texts have what is special in JSON, in pages and in UTF-8.
var texts = []rune("aeioubcx \"\\/<>&'\u2028\u2029ü\u200b😀\n\t\x00\x7f~*01")

// char writes a character in one of the ways of JSON.
func (m *message) char(r rune) string {
	switch m.IntN(4) {
	case 0:
		if i := strings.IndexRune("\"\\/\n\t", r); i >= 0 {
			return `\` + string("\"\\/nt"[i])
		}
		fallthrough
	case 1:
		var b strings.Builder
		for _, u := range utf16(r) {
			hex := fmt.Sprintf("%04x", u)
			if m.IntN(2) == 0 {
				hex = strings.ToUpper(hex)
			}
			b.WriteString(`\u` + hex)
		}
		return b.String()
	}
	if r < ' ' || r == '"' || r == '\\' {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return string(r)
}

func utf16(r rune) []rune {
	if r > 0xFFFF {
		return []rune{0xD800 + (r-0x10000)>>10, 0xDC00 + (r-0x10000)&0x3FF}
	}
	return []rune{r}
}

func (m *message) text() (text string) {
	for range m.IntN(8) {
		text += string(texts[m.IntN(len(texts))])
	}
	return text
}

func (m *message) name(text string) {
	s := `"`
	for _, r := range text {
		s += m.char(r)
	}
	m.both(s + `"`)
}

// step is a step from a value to another.
type step struct {
	name  string
	array bool
}

func (m *message) value(path []step, depth int) {
	m.blank()
	defer m.blank()
	kind := m.IntN(6)
	if len(path) == 0 {
		kind /= 2 // mostly an object
	}
	switch {
	case kind < 2 && depth > 0:
		m.both("{")
		had := map[string]bool{}
		for i := range m.IntN(7) {
			name := []string{"a", "b", "A", "0", "1", "*", "a/b", "a~b", "", m.text()}[m.IntN(10)]
			if had[name] {
				name += "#" + strconv.Itoa(i)
			}
			if had[name] = true; i > 0 {
				m.both(",")
			}
			m.blank()
			m.name(name)
			m.blank()
			m.both(":")
			m.value(append(path[:len(path):len(path)], step{name, false}), depth-1)
		}
		m.both("}")
	case kind == 2 && depth > 0:
		m.both("[")
		for i := range m.IntN(4) {
			if i > 0 {
				m.both(",")
			}
			m.value(append(path[:len(path):len(path)], step{strconv.Itoa(i), true}), depth-1)
		}
		m.both("]")
	case kind == 5:
		m.both([]string{"1", "-0.50e+1", "true", "false", "null", "{}", "[]", "123456789012345678901234567890"}[m.IntN(8)])
	default:
		m.string(path)
	}
}

// string is a string that At must change if a pointer leads there.
func (m *message) string(path []step) {
	hit := false
	for _, p := range m.pointers {
		hit = hit || leads(p, path)
	}
	m.both(`"`)
	for _, r := range m.text() {
		s := m.char(r)
		m.in = append(m.in, s...)
		switch {
		case hit && m.removes && strings.ContainsRune("aeiou", r):
		case hit && !m.removes:
			upper := must(json.Marshal(strings.ToUpper(string(r))))
			m.want = append(m.want, upper[1:len(upper)-1]...)
		default:
			m.want = append(m.want, s...)
		}
	}
	m.both(`"`)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// leads reports, in another way than the package does, whether a pointer leads to a path.
func leads(pointer string, path []step) bool {
	if pointer == "" {
		return len(path) == 0
	}
	parts := strings.Split(pointer, "/")[1:]
	if len(parts) != len(path) {
		return false
	}
	for i, part := range parts {
		name := strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		switch {
		case part == "*":
		case path[i].array && name != path[i].name, !strings.EqualFold(name, path[i].name):
			return false
		}
	}
	return true
}

// At changes the strings that a plain reading of its documentation says, and no other byte.
func TestAtRandomly(t *testing.T) {
	parts := []string{"/a", "/*", "/*", "/*", "/b", "/0", "/1", "/a~1b", "/a~0b", "/", "/A"}
	seed := rand.Uint64()
	n := 20_000
	if testing.Short() {
		n = 2000
	}
	changed := 0
	for i := range n {
		m := &message{Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
		for range 1 + m.IntN(4) {
			p := ""
			for range m.IntN(4) {
				p += parts[m.IntN(len(parts))]
			}
			m.pointers = append(m.pointers, p)
		}
		m.removes = m.IntN(2) == 0
		m.value(nil, 4)
		f := sanitize.Func(unvowel)
		if !m.removes {
			f = sanitize.String(strings.ToUpper)
		}
		out, err := sanitize.At(f, m.pointers...)("", m.in)
		got, want := string(out), string(m.want)
		if !m.removes { // how a character is escaped in a new text is another test's matter
			got, want = unescaped(t, got), unescaped(t, want)
		}
		if err != nil || got != want {
			t.Fatalf("seed %d, round %d, pointers %q\n  in %s\n got %s %v\nwant %s", seed, i, m.pointers, m.in, got, err, want)
		}
		if string(out) != string(m.in) {
			changed++
		}
	}
	if changed < n/20 {
		t.Errorf("only %d of %d messages were changed", changed, n)
	}
}

// unescaped writes each string of a message in the way of encoding/json, and leaves the rest.
func unescaped(t *testing.T, msg string) string {
	t.Helper()
	return stringsOf.ReplaceAllStringFunc(msg, func(raw string) string {
		var text string
		if err := json.Unmarshal([]byte(raw), &text); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		return string(must(json.Marshal(text)))
	})
}

var stringsOf = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

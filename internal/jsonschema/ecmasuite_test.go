package jsonschema_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// TestSuiteECMA runs the cases of the official suite about regular expressions. Each of them must agree.
func TestSuiteECMA(t *testing.T) {
	dir := suiteFolder(t)
	cases := 0
	for _, d := range suiteDrafts {
		optional := filepath.Join(dir, "tests", d.name, "optional")
		for _, file := range []string{"ecmascript-regex.json", "non-bmp-regex.json", "format/regex.json", "format/ecmascript-regex.json"} {
			path := filepath.Join(optional, filepath.FromSlash(file))
			if _, err := os.Stat(path); err != nil {
				continue
			}
			for _, groups := range suiteGroups(t, path) {
				for _, g := range groups {
					s, err := jsonschema.Compile(g.Schema, jsonschema.Options{DefaultDialect: d.url})
					if err != nil {
						t.Errorf("%s: %s: %s: %v", d.name, file, g.Description, err)
						continue
					}
					for _, c := range g.Tests {
						if err := s.Validate(c.Data); (err == nil) != c.Valid {
							t.Errorf("%s: %s: %s: %s: valid %t, got %v", d.name, file, g.Description, c.Description, c.Valid, err)
						}
						agrees(t, s, c.Data)
						cases++
					}
				}
			}
		}
	}
	if cases < 400 {
		t.Errorf("only %d cases", cases)
	}
	t.Logf("%d cases", cases)
}

// TestPatternFaults: an error names RE2 or ECMA-262, the construct and the reason, with its offset and its place.
func TestPatternFaults(t *testing.T) {
	for _, c := range []struct{ pattern, want string }{
		{`ab(?=c)`, `"(?=" at byte 2: RE2 has no lookaround`},
		{`é(?<!c)`, `"(?<!" at byte 2: RE2 has no lookaround`},
		{`(a)\1`, `"\\1" at byte 3: RE2 has no backreferences`},
		{`(?<n>a)\k<n>`, `"\\k<n>" at byte 7: RE2 has no backreferences`},
		{`\p{scx=Greek}`, `"\\p{scx=Greek}" at byte 0: neither Go nor RE2 has a table of script extensions`},
		{`x\p{Emoji}`, `"\\p{Emoji}" at byte 1: neither Go nor RE2 has a table of this property`},
		{`\p{Greek}`, `ECMA-262 writes a script as Script=Greek`},
		{`\pL`, `in braces, as in \p{L}`},
		{`(?i)a`, `"(?i" at byte 0: ECMA-262 has no such group`},
		{`(?P<n>a)`, `"(?P<" at byte 0: this is syntax of RE2`},
		{`\Aa`, `"\\A" at byte 0: ECMA-262 has no such escape`},
		{`[[:alpha:]]`, `"[:alpha:]" at byte 1: ECMA-262 has no POSIX classes`},
		{`[^]]`, `ECMA-262 ends the class at the first ]`},
		{`a*+`, `"+" at byte 2: there is nothing to repeat`},
		{`[z-a]`, `"z-a" at byte 1: the range is out of order`},
		{`^(?:(?:(?:ab){50}){50}){50}$`, `RE2 unrolls the repeats of the pattern to about`},
	} {
		for keyword, src := range map[string]any{"pattern": map[string]any{"pattern": c.pattern}, "patternProperties/" + strings.ReplaceAll(strings.ReplaceAll(c.pattern, "~", "~0"), "/", "~1"): map[string]any{
			"patternProperties": map[string]any{c.pattern: true}}} {
			_, err := jsonschema.Compile(toJSON(t, map[string]any{"items": src}), jsonschema.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "RE2") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, want one fault with %q", c.pattern, err, c.want)
			} else if !strings.Contains(err.Error(), "schema #/items/"+keyword[:7]) {
				t.Errorf("%s: %v, want its place", c.pattern, err)
			}
		}
	}
}

// TestMaskedPatterns: v5 does not see the patterns that only ECMA-262 has. References that lead through one, and the places
// in errors, are as in the schema.
func TestMaskedPatterns(t *testing.T) {
	const src = `{"$id":"https://x/root","type":"object","patternProperties":{
			"^\\u00e9/~":{"type":"integer","$defs":{"short":{"maxLength":2}}},
			"^\\cA":{"$id":"inner","properties":{"a":{"pattern":"^\\u{61}+$"},"b":{"$ref":"#/properties/a"}}}},
		"properties":{
			"pattern":{"$ref":"#/patternProperties/%5E%5Cu00e9~1~0/$defs/short"},
			"patternProperties":{"type":"object","properties":{"^\\u00e9/~":{"type":"null"}}},
			"in":{"$ref":"inner#/properties/a"},
			"far":{"$ref":"https://x/other#/patternProperties/%5B%5E%5D"}},
		"additionalProperties":{"pattern":"^.{1001}$"}}`
	for _, d := range []string{"", "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema"} {
		text, defs := src, "$defs"
		if d == "http://json-schema.org/draft-07/schema#" {
			defs = "definitions"
			text = strings.ReplaceAll(src, "$defs", defs)
		}
		s, err := jsonschema.Compile([]byte(text), jsonschema.Options{DefaultDialect: d, Resources: map[string][]byte{"https://x/other": []byte(`{"patternProperties":{"[^]":{"const":1}}}`)}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ msg, keyword string }{
			{`{"é/~":1}`, ""},
			{`{"é/~":"a"}`, `#/patternProperties/%5E%5Cu00e9~1~0/type`},
			{`{"\u0001":{"a":"aa","b":"a"}}`, ""},
			{`{"\u0001":{"b":"ab"}}`, `#/patternProperties/%5E%5CcA/properties/a/pattern`},
			{`{"pattern":"ab"}`, ""},
			{`{"pattern":"abc"}`, `#/patternProperties/%5E%5Cu00e9~1~0/` + defs + `/short/maxLength`},
			{`{"patternProperties":{"^\\u00e9/~":null}}`, ""},
			{`{"patternProperties":{"^\\u00e9/~":1}}`, `#/properties/patternProperties/properties/%5E%5Cu00e9~1~0/type`},
			{`{"in":"aaa"}`, ""},
			{`{"in":"b"}`, `#/patternProperties/%5E%5CcA/properties/a/pattern`},
			{`{"far":1}`, ""},
			{`{"far":2}`, `https://x/other#/patternProperties/%5B%5E%5D/const`},
			{`{"x":"` + strings.Repeat("é", 1001) + `"}`, ""},
			{`{"x":"` + strings.Repeat("é", 1002) + `"}`, `#/additionalProperties/pattern`},
		} {
			e := s.Explain([]byte(c.msg))
			if got := ""; e != nil {
				if got = e.KeywordLocation; got != c.keyword {
					t.Errorf("%q: %.40s: refused by %q (%v), want %q", d, c.msg, got, e, c.keyword)
				}
			} else if c.keyword != "" {
				t.Errorf("%q: %.40s: accepted, want it refused by %q", d, c.msg, c.keyword)
			}
			if !alike(s, []byte(c.msg)) {
				t.Errorf("%q: %.40s: the evaluator says otherwise", d, c.msg)
			}
		}
	}
}

// TestLargeRepeats: counts that RE2 refuses are matched, and what they cost is bounded.
func TestLargeRepeats(t *testing.T) {
	for _, c := range []struct{ pattern, yes, no string }{
		{`^[a-z]{1,5000}$`, strings.Repeat("x", 5000), strings.Repeat("x", 5001)},
		{`^.{0,2000}$`, strings.Repeat("é", 2000), strings.Repeat("é", 2001)},
		{`.{0,2000}`, "", ""},
		{`^(a?){2000}$`, strings.Repeat("a", 2000), strings.Repeat("a", 2001)},
		{`^(?:[a-z]{4}){0,5000}$`, strings.Repeat("abcd", 5000), strings.Repeat("abcd", 5001)},
		{`^(?:[a-z]{4}-){1,1500}$`, strings.Repeat("abcd-", 1500), strings.Repeat("abcd-", 1501)},
		{`^(ab){1001}`, strings.Repeat("ab", 1001), strings.Repeat("ab", 1000)},
		{`^(ab){1001,}$`, strings.Repeat("ab", 3000), strings.Repeat("ab", 1000)},
		{`^(?:a{2,3}b){600}$`, strings.Repeat("aaab", 600), strings.Repeat("aaab", 599)},
		{`é{1500}$`, "a" + strings.Repeat("é", 1600), strings.Repeat("é", 1600) + "a"},
		{`^(?:(?:a{50}){50}){2}$`, strings.Repeat("a", 5000), strings.Repeat("a", 4999)},
		{`^[a-z]{2147483648,}`, "", "a"},
	} {
		s := compile(t, string(toJSON(t, map[string]any{"type": "string", "pattern": c.pattern})))
		for text, want := range map[string]bool{c.yes: true, c.no: false} {
			if c.yes == c.no || strings.Contains(c.pattern, "21474") && want {
				continue
			}
			msg := toJSON(t, text)
			if err := s.Validate(msg); (err == nil) != want || token(t, err) == "fuel" {
				t.Errorf("%s of %d bytes: %v, want %t", c.pattern, len(text), err, want)
			}
			if !alike(s, msg) {
				t.Errorf("%s of %d bytes: the evaluator says otherwise", c.pattern, len(text))
			}
		}
	}
}

// TestPatternAllocations: a pattern allocates nothing for a message, however it is matched.
func TestPatternAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, p := range []string{`^\S{1,2000}$`, `^[^\s]+@\S+$`, `^.*$`, `\bword\b`, `^(?:\p{L}+ ?)+$`, `^(?:ab){1001}`} {
		s := compile(t, string(toJSON(t, map[string]any{"pattern": p})))
		msg := toJSON(t, "a word of é and 😀 "+strings.Repeat("ab", 1001))
		if n := testing.AllocsPerRun(100, func() { _ = s.Validate(msg) }); n > 0 {
			t.Errorf("%s: %v allocations", p, n)
		}
	}
}

func toJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

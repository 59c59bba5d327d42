package jsonschema_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// TestAnnotations: a word that says nothing is named, and typos stay errors.
func TestAnnotations(t *testing.T) {
	for _, c := range []struct {
		words  string
		schema string
		fault  string // "" if the schema compiles
	}{
		{"javaType", `{"javaType":"A","properties":{"a":{"javaType":{"minimun":1}}}}`, ""},
		{"javaType", `{"JavaType":"A"}`, `unknown keyword`},
		{"javaType", `{"javaType":"A","minimun":3}`, `did you mean "minimum"?`},
		{"javaType comment", `{"comment":"c","javaType":1}`, ""},
		{"", `{"comment":"c"}`, `SchemaConfig.Annotations`},
		{"abc*", `{"abcIsAfter":"c","abc":1,"ab":2}`, `#/ab: unknown keyword`},
		{"$xsd-*", `{"$xsd-type":"c"}`, ""},
		{"a*c", `{"abc":1}`, "unknown keyword"},
		{"minimun", `{"minimun":1}`, ""}, // whoever names a typo has been asked
		{"minimum", `{"minimum":1}`, `Annotations has "minimum"`},
		{"minimum", `{}`, `Annotations has "minimum"`},
		{"min*", `{}`, `Annotations has "min*", but minContains is a keyword`},
		{"$*", `{}`, `Annotations has "$*"`},
		{"title", `{}`, `Annotations has "title"`},
		{"const", `{"$schema":"http://json-schema.org/draft-04/schema#","const":1}`, ""}, // draft 4 has no const
		{"additionalItems", `{"additionalItems":1}`, ""},
		{"id", `{"id":1}`, ""},
		{"id", `{"$schema":"http://json-schema.org/draft-04/schema#"}`, `Annotations has "id"`},
		{"x-*", `{"x-a":1}`, ""},
		{"nullable", `{"type":"string","nullable":true}`, ""},
		{"tpye", `{"$ref":"#/$defs/a","$defs":{"a":{"tpye":1}}}`, ""},
		{"word", `{"$ref":"#/word","word":{"type":"string"}}`, "here is no schema"},
		{"word", `{"enum":[{"word":1}],"properties":{"word":{"wrod":1}}}`, "#/properties/word/wrod"},
	} {
		_, err := jsonschema.Compile([]byte(c.schema), jsonschema.Options{Annotations: strings.Fields(c.words)})
		if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s with %s: %v, want %q", c.schema, c.words, err, c.fault)
		}
	}
	// A word that only some documents' dialects have can be named for the others.
	_, err := jsonschema.Compile([]byte(`{"$ref":"https://x/old","const":1}`), jsonschema.Options{Annotations: []string{"const"},
		Resources: map[string][]byte{"https://x/old": []byte(`{"$schema":"http://json-schema.org/draft-04/schema#","const":2}`)}})
	if err != nil {
		t.Error(err)
	}
}

// TestPresetsInFaults: the error for a word or a format that a preset knows names the presets.
func TestPresetsInFaults(t *testing.T) {
	for schema, want := range map[string][]string{
		`{"type":"string","nullable":true}`: {"unknown keyword", "SchemaConfig.Presets knows it with OpenAPI30 or AJV or Schemars;"},
		`{"example":1}`:                     {`did you mean "examples"?`, "Presets knows it with OpenAPI30 or OpenAPI31;"},
		`{"id":"https://a.test/"}`:          {`did you mean "$id"?`, "Presets knows it with Zod;"},
		`{"format":"cuid2"}`:                {"unknown format", "Presets knows it with Zod;"},
		`{"format":"file-path"}`:            {"Presets knows it with Pydantic;"},
		`{"format":"uint128"}`:              {"Presets knows it with Schemars;"},
		`{"format":"byte"}`:                 {"Presets knows it with OpenAPI30 or OpenAPI31 or AJV;"},
	} {
		_, err := jsonschema.Compile([]byte(schema), jsonschema.Options{})
		for _, text := range want {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %q in it", schema, err, text)
			}
		}
		if err != nil && strings.Contains(err.Error(), `"date"`) {
			t.Errorf("%s: %v", schema, err)
		}
	}
}

// TestFormatAnnotations: a format that says nothing is named, and a format that is checked stays checked.
func TestFormatAnnotations(t *testing.T) {
	word := func(s string) bool { return s == "word" }
	for _, c := range []struct {
		silent string
		opt    jsonschema.Options
		format string
		fault  string
	}{
		{"password", jsonschema.Options{}, "password", ""},
		{"", jsonschema.Options{}, "password", "SchemaConfig.FormatAnnotations"},
		{"password", jsonschema.Options{}, "pasword", "unknown format"},
		{"", jsonschema.Options{}, "emial", `did you mean "email"?`},
		{"", jsonschema.Options{Presets: jsonschema.PresetZod}, "ulidd", `did you mean "ulid"?`},
		{"email", jsonschema.Options{}, "email", `FormatAnnotations has "email", but that format is checked`},
		{"email", jsonschema.Options{}, "date", `FormatAnnotations has "email"`},
		{"int32", jsonschema.Options{}, "int32", ""},
		{"int32", jsonschema.Options{Presets: jsonschema.PresetAJV}, "int32", `FormatAnnotations has "int32"`},
		{"own", jsonschema.Options{Formats: map[string]func(string) bool{"own": word}}, "own", "so has Formats"},
	} {
		c.opt.FormatAnnotations = strings.Fields(c.silent)
		s, err := jsonschema.Compile([]byte(`{"format":"`+c.format+`"}`), c.opt)
		if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s with %s: %v, want %q", c.format, c.silent, err, c.fault)
		}
		if s != nil && s.Validate([]byte(`"anything"`)) != nil {
			t.Errorf("%s says something", c.format)
		}
	}
}

// TestOwnFormats: they judge strings, wherever strings are judged, and replace those that exist.
func TestOwnFormats(t *testing.T) {
	opt := jsonschema.Options{Presets: jsonschema.PresetAJV, Formats: map[string]func(string) bool{
		"even": func(s string) bool { return len(s)%2 == 0 }, "email": func(s string) bool { return s == "nobody" },
		"int32": func(s string) bool { return s == "n" }, "panics": func(s string) bool { panic(s) },
	}}
	for _, c := range []struct{ schema, msg, want string }{
		{`{"format":"even"}`, `"ab"`, ""},
		{`{"format":"even"}`, `"abc"`, "schema"},
		{`{"format":"even"}`, `"\u00e9"`, ""}, // two bytes of UTF-8, unescaped
		{`{"format":"even"}`, `"\\"`, "schema"},
		{`{"format":"even"}`, `7`, ""},
		{`{"format":"even"}`, `[]`, ""},
		{`{"format":"email"}`, `"a@b.test"`, "schema"},
		{`{"format":"email"}`, `"nobody"`, ""},
		{`{"format":"int32"}`, `2147483648`, ""},
		{`{"format":"int32"}`, `"m"`, "schema"},
		{`{"propertyNames":{"format":"even"}}`, `{"ab":1,"a":2}`, "schema"},
		{`{"anyOf":[{"format":"even"},{"const":"abc"}]}`, `"abc"`, ""},
		{`{"not":{"format":"even"}}`, `"ab"`, "schema"},
		{`{"format":"panics"}`, `"secret"`, "panic"},
		{`{"format":"panics"}`, `1`, ""},
		{`{"anyOf":[{"format":"panics"},{}]}`, `"secret"`, "panic"},
		{`{"not":{"format":"panics"}}`, `"secret"`, "panic"},
		{`{"$schema":"http://json-schema.org/draft-07/schema#","items":{"format":"even"}}`, `["ab","a"]`, "schema"},
	} {
		s, err := jsonschema.Compile([]byte(c.schema), opt)
		if err != nil {
			t.Errorf("%s: %v", c.schema, err)
			continue
		}
		if got := token(t, s.Validate([]byte(c.msg))); got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.schema, c.msg, got, c.want)
		}
		if got := token(t, s.Tree([]byte(c.msg))); got != c.want {
			t.Errorf("%s, %s: the evaluator: %q, want %q", c.schema, c.msg, got, c.want)
		}
		if err := s.Validate([]byte(c.msg)); err != nil && strings.Contains(err.Error(), "secret") {
			t.Error(err)
		}
	}
	// It is charged: a message cannot call it without end.
	s, err := jsonschema.Compile([]byte(`{"items":{"allOf":[`+list(200, func(int) string { return `{"format":"even"}` })+`]}}`), opt)
	if err != nil {
		t.Fatal(err)
	}
	if got := token(t, s.Validate([]byte(fill("[", `"abcdefgh"`, ",", "]")))); got != "fuel" {
		t.Errorf("%q for 500,000 calls", got)
	}
}

// TestNullable: it adds null to a type, and is an error where it would do nothing.
func TestNullable(t *testing.T) {
	for _, c := range []struct{ schema, null, fault string }{
		{`{"type":"string","nullable":true}`, "yes", ""},
		{`{"type":["string","integer"],"nullable":true}`, "yes", ""},
		{`{"type":"string","nullable":false}`, "no", ""},
		{`{"nullable":true}`, "yes", ""},
		{`{"type":"string","nullable":true,"minLength":3}`, "yes", ""},
		{`{"type":"string","nullable":true,"enum":["a"]}`, "no", ""}, // as the specification says
		{`{"type":"string","nullable":true,"enum":["a",null]}`, "yes", ""},
		{`{"type":"object","nullable":true,"allOf":[{"type":"object"}]}`, "no", ""},
		{`{"items":{"type":"integer","nullable":true},"type":"array"}`, "no", ""},
		{`{"nullable":true,"allOf":[{"type":"string"}]}`, "", "no type beside it"},
		{`{"nullable":true,"anyOf":[{"type":"string"}]}`, "", "no type beside it"},
		{`{"nullable":true,"enum":["a"]}`, "", "no type beside it"},
		{`{"type":"string","nullable":"true"}`, "", "true or false"},
		{`{"type":"string","nullable":null}`, "", "true or false"},
		{`{"type":"string","nullabel":true}`, "", "unknown keyword"},
		{`{"properties":{"nullable":{"type":"string"}}}`, "yes", ""},
		{`{"type":["string","null"],"nullable":false}`, "", "contradict"},
	} {
		for name, p := range map[string]jsonschema.Preset{"OpenAPI": jsonschema.PresetOpenAPI30, "ajv": jsonschema.PresetAJV, "schemars": jsonschema.PresetSchemars} {
			s, err := jsonschema.Compile([]byte(c.schema), jsonschema.Options{Presets: p})
			if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %s: %v, want %q", name, c.schema, err, c.fault)
			}
			if s != nil && (s.Validate([]byte("null")) == nil) != (c.null == "yes") {
				t.Errorf("%s: %s: null is judged wrong", name, c.schema)
			}
		}
	}
	if _, err := jsonschema.Compile([]byte(`{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"#/definitions/a","nullable":true,"definitions":{"a":{"type":"string"}}}`),
		jsonschema.Options{Presets: jsonschema.PresetAJV}); err == nil {
		t.Error("nullable beside a $ref that hides it")
	}
}

// TestNumericFormats holds the formats of numbers against math/big.
func TestNumericFormats(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, bits := range map[string]int{"int8": -8, "int16": -16, "int32": -32, "int64": -64, "int128": -128, "int": -64,
		"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "uint128": 128, "uint": 64} {
		low, high := new(big.Int), new(big.Int).Lsh(big.NewInt(1), uint(max(bits, -bits-1)))
		if bits < 0 {
			low.Neg(high)
		}
		numbers, err := jsonschema.Compile([]byte(`{"format":"`+name+`","type":"number"}`), jsonschema.Options{Presets: jsonschema.PresetSchemars})
		if err != nil {
			t.Fatal(err)
		}
		texts, err := jsonschema.Compile([]byte(`{"format":"`+name+`","type":"string"}`), jsonschema.Options{Presets: jsonschema.PresetSchemars})
		if err != nil {
			t.Fatal(err)
		}
		for range 2000 {
			n := new(big.Int).Add(high, big.NewInt(r.Int64N(5)-3))
			switch r.IntN(4) {
			case 0:
				n.Add(low, big.NewInt(r.Int64N(5)-2))
			case 1:
				n.SetUint64(r.Uint64()).Lsh(n, 64).Add(n, new(big.Int).SetUint64(r.Uint64())).Rsh(n, uint(r.IntN(128)))
				if r.IntN(2) == 0 {
					n.Neg(n)
				}
			}
			fits := n.Cmp(low) >= 0 && n.Cmp(high) < 0
			for _, msg := range []string{n.String(), n.String() + ".0", n.String() + "e0", n.String() + ".00e+0"} {
				if (numbers.Validate([]byte(msg)) == nil) != fits {
					t.Errorf("%s: %s", name, msg)
				}
				if (numbers.Tree([]byte(msg)) == nil) != fits {
					t.Errorf("%s: %s, the evaluator", name, msg)
				}
			}
			if numbers.Validate([]byte(n.String()+".5")) == nil {
				t.Errorf("%s: %s.5", name, n)
			}
			if (texts.Validate([]byte(`"`+n.String()+`"`)) == nil) != fits {
				t.Errorf("%s: %q", name, n)
			}
		}
		for _, text := range []string{"", "-", "1.0", "1e0", "01", "+1", " 1", "1 ", "0x1", "one", "1\\u0000"} {
			if texts.Validate([]byte(`"`+text+`"`)) == nil {
				t.Errorf("%s: %q", name, text)
			}
		}
	}
}

// TestPresetPatterns: what replaces a pattern with lookaround accepts the same texts. The right column is worked out by
// hand from the original, one part after the other.
func TestPresetPatterns(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	text := func(alphabet string) string {
		b := make([]byte, r.IntN(12))
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(b)
	}
	whole := func(expr string) *regexp.Regexp { return regexp.MustCompile(`^(?:` + expr + `)$`) }
	email, week, parts := whole(`([A-Za-z0-9_'+\-.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}`), whole(`P\d+W`),
		whole(`P(\d+Y)?(\d+M)?(\d+D)?(T(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?`)
	some, timed := regexp.MustCompile(`^P(\d|T\d)`), regexp.MustCompile(`T\d`)
	number := whole(`[+-]?0*\d*\.?\d*`)
	accepts := map[string]func(string) bool{
		"a.'-@bc": func(s string) bool { return email.MatchString(s) && s[0] != '.' && !strings.Contains(s, "..") },
		"P1TYMDHSW.": func(s string) bool {
			return week.MatchString(s) || parts.MatchString(s) && some.MatchString(s) &&
				(!strings.Contains(s, "T") || timed.MatchString(s))
		},
		"01.+-": func(s string) bool { return number.MatchString(s) && strings.Trim(s, "-+.") != "" },
	}
	for original, same := range jsonschema.PresetPatterns() {
		re := regexp.MustCompile(same)
		for alphabet, want := range accepts {
			if strings.HasPrefix(original, `^P`) != (alphabet[0] == 'P') || strings.Contains(original, "@") != strings.Contains(alphabet, "@") ||
				strings.Contains(original, "Emoji") {
				continue
			}
			n := 0
			for range 300_000 {
				s := text(alphabet)
				if strings.Contains(original, "@") && r.IntN(2) == 0 {
					s = text("a.'-") + "@" + text("ab-.") + ".bc"
				} else if original[1] == 'P' {
					s = "P" + s
				}
				if ok := want(s); ok != re.MatchString(s) {
					t.Fatalf("%s: %q", original, s)
				} else if ok {
					n++
				}
			}
			if n < 100 {
				t.Errorf("%s: %d texts fit", original, n)
			}
		}
	}
	for s, want := range map[string]bool{"😀": true, "1": true, "👩‍👩‍👧": true, "🇩🇪": true, "a": false, "": false, "漢": false, "☺️": true} {
		s2, err := jsonschema.Compile(fmt.Appendf(nil, `{"pattern":%q,"format":"emoji"}`, `^(\p{Extended_Pictographic}|\p{Emoji_Component})+$`), jsonschema.Options{Presets: jsonschema.PresetZod})
		if err != nil {
			t.Fatal(err)
		}
		if (s2.Validate([]byte(`"`+s+`"`)) == nil) != want {
			t.Errorf("emoji %q", s)
		}
	}
}

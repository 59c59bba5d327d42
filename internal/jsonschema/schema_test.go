package jsonschema_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// faults returns the locations that an error of Compile names, as "resource#pointer".
func faults(t testing.TB, err error) []string {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	var at []string
	for _, e := range joined.Unwrap() {
		f, ok := e.(*jsonschema.SchemaFault)
		if !ok {
			t.Fatalf("%T: %v", e, e)
		}
		at = append(at, f.Resource+"#"+f.Pointer)
	}
	return at
}

func TestCompileRefuses(t *testing.T) {
	const d7 = `"$schema":"http://json-schema.org/draft-07/schema#",`
	for _, c := range []struct {
		name, src string
		at, text  string // of the first fault
	}{
		{"nothing", ``, "#", "empty"},
		{"not JSON", "{\n\"a\":}", "#", "line 2"},
		{"twice the same keyword", `{"type":"string","type":"number"}`, "#", "duplicate_key"},
		{"BOM", "\xef\xbb\xbf{}", "#", "bom"},
		{"trailing", `{} {}`, "#", "trailing_data"},
		{"null", `null`, "#", "a schema is an object"},
		{"array", `[]`, "#", "a schema is an object"},
		{"boolean in draft 4", `{"$schema":"http://json-schema.org/draft-04/schema#","properties":{"a":true}}`, "#/properties/a", "metaschema"},
		{"unknown dialect", `{"$schema":"https://example.com/schema"}`, "#/$schema", "unknown dialect"},
		{"draft 3", `{"$schema":"http://json-schema.org/draft-03/schema#"}`, "#/$schema", "unknown dialect"},
		{"dialect is no string", `{"$schema":7}`, "#/$schema", "unknown dialect"},
		{"another dialect inside", `{"$defs":{"a":{` + d7 + `"type":"string"}}}`, "#/$defs/a/$schema", "another dialect"},
		{"empty enum", `{"properties":{"a":{"enum":[]}}}`, "#/properties/a/enum", "empty enum"},
		{"empty enum in draft 7", `{` + d7 + `"enum":[]}`, "#/enum", "empty enum"},
		{"unknown format", `{"items":{"format":"emial"}}`, "#/items/format", "emial"},
		{"misspelt keyword", `{"additionalProperites":false}`, "#/additionalProperites", `did you mean "additionalProperties"?`},
		{"keyword of OpenAPI", `{"properties":{"a/b":{"nullable":true}}}`, "#/properties/a~1b/nullable", "unknown keyword"},
		{"keyword of another draft", `{` + d7 + `"prefixItems":[true]}`, "#/prefixItems", "unknown keyword in draft 7"},
		{"keyword of an older draft", `{"additionalItems":false}`, "#/additionalItems", "unknown keyword in draft 2020-12"},
		{"keyword beside $ref", `{` + d7 + `"$ref":"#/definitions/a","minLength":3,"definitions":{"a":{}}}`, "#/minLength", "beside $ref"},
		{"items array in 2020-12", `{"items":[{}]}`, "#/items", "metaschema"},
		{"wrong type", `{"properties":{"a":{"type":"strnig"}}}`, "#/properties/a/type", "metaschema"},
		{"pattern", `{"pattern":"(?=a)b"}`, "#/pattern", `"(?=" at byte 0: RE2 has no lookaround`},
		{"patternProperties", `{"patternProperties":{"[":{}}}`, "#/patternProperties/[", "the class has no end"},
		{"negative length", `{"minLength":-1}`, "#/minLength", "metaschema"},
		{"huge length", `{"minLength":1e9999999}`, "#/minLength", "exponent"},
		{"large length", `{"maxLength":1e300}`, "#/maxLength", "2^53"},
		{"huge minimum", `{"allOf":[{},{"minimum":1e9999999}]}`, "#/allOf/1/minimum", "exponent"},
		{"long number", `{"const":` + strings.Repeat("1", 65) + `}`, "#/const", "64 characters"},
		{"huge number in an example", `{"examples":[1e401]}`, "#/examples/0", "exponent"},
		{"file", `{"$ref":"file:///etc/passwd"}`, "#/$ref", "not among the resources"},
		{"network", `{"properties":{"a":{"$ref":"https://example.com/a"}}}`, "#/properties/a/$ref", "not among the resources"},
		{"relative file", `{"$ref":"other.json"}`, "#/$ref", "not among the resources"},
		{"missing definition", `{"$ref":"#/$defs/a"}`, "#/$ref", "where nothing is"},
		{"missing anchor", `{"$ref":"#a"}`, "#", "not found"},
		{"missing definition elsewhere", `{"items":{"$ref":"https://x/y#/$defs/a"},"$defs":{"y":{"$id":"https://x/y"}}}`, "#", "not found"},
		{"reference to itself", `{"$ref":"#"}`, "#", "loop"},
		{"loop of two", `{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, "#", "loop"},
		{"loop that v5 misses", `{"$ref":"#/$defs/b","$defs":{"b":{"properties":{"x":{"$ref":"#/$defs/a"}},"allOf":[{"$ref":"#/$defs/a"}]},"a":{"anyOf":[{"$ref":"#/$defs/b"}]}}}`, "*", "loop"},
		{"loop through a dependency", `{"dependentSchemas":{"a":{"$ref":"#"}}}`, "#", "loop"},
		{"reference into an enum", `{"$ref":"#/enum/0","enum":[{"type":"string"}]}`, "#/enum/0", "no schema"},
		{"reference into a const", `{"properties":{"a":{"$ref":"#/properties/b/const"},"b":{"const":{"tpye":"string"}}}}`, "#/properties/b/const", "no schema"},
		{"anchor is a number", `{"$anchor":7}`, "#/$anchor", "metaschema"},
		{"two with the same $id", `{"$defs":{"a":{"$id":"https://x/a"},"b":{"$id":"https://x/a"}}}`, "#", "same canonical-uri"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := jsonschema.Compile([]byte(c.src), jsonschema.Options{})
			if err == nil || s != nil {
				t.Fatalf("accepted %s", c.src)
			}
			if at := faults(t, err); at[0] != c.at && c.at != "*" {
				t.Errorf("at %q, want %q", at, c.at)
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v: want %q in it", err, c.text)
			}
		})
	}
}

func TestCompileJoinsFaults(t *testing.T) {
	_, err := jsonschema.Compile([]byte(`{"properties":{"a":{"enum":[]},"b":{"tpye":"string"},"c":{"format":"x"},"d":{"type":"foo"}},"required":"a"}`), jsonschema.Options{
		Resources: map[string][]byte{"https://x/r": []byte(`{"maxLenght":1}`), "https://x/s": []byte(`{`)}})
	got := strings.Join(faults(t, err), " ")
	if want := "https://x/s# #/properties/a/enum #/properties/b/tpye #/properties/c/format https://x/r#/maxLenght"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// Where no source is beyond reading, the metaschema is heard as well.
	_, err = jsonschema.Compile([]byte(`{"properties":{"a":{"enum":[]},"d":{"type":"foo"}},"required":"a"}`), jsonschema.Options{})
	if got, want := strings.Join(faults(t, err), " "), "#/properties/a/enum #/properties/d/type #/required"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestCompileResources(t *testing.T) {
	def := []byte(`{"$defs":{"id":{"type":"integer"}}}`)
	src := []byte(`{"properties":{"a":{"$ref":"https://x/defs#/$defs/id"}}}`)
	s, err := jsonschema.Compile(src, jsonschema.Options{Resources: map[string][]byte{"https://x/defs": def}})
	if err != nil {
		t.Fatal(err)
	}
	def[0] = 'x' // copied
	if err := s.Validate([]byte(`{"a":1}`)); err != nil {
		t.Error(err)
	}
	if e := s.Explain([]byte(`{"a":"1"}`)); e.InstancePointer != "/a" || e.KeywordLocation != "https://x/defs#/$defs/id/type" {
		t.Errorf("%+v", e)
	}
	for _, u := range []string{"https://x/defs#", "https://x/defs#/a", "defs", "/etc/passwd", "%zz", ""} {
		if _, err := jsonschema.Compile([]byte(`{}`), jsonschema.Options{Resources: map[string][]byte{u: []byte(`{}`)}}); err == nil {
			t.Errorf("resource %q accepted", u)
		}
	}
	// A resource without a dialect is read like the schema that refers to it.
	_, err = jsonschema.Compile([]byte(`{"$schema":"http://json-schema.org/draft-07/schema#","allOf":[{"$ref":"https://x/d"}]}`), jsonschema.Options{
		Resources: map[string][]byte{"https://x/d": []byte(`{"prefixItems":[]}`)}})
	if err == nil {
		t.Error("a keyword of 2020-12 accepted in a resource of draft 7")
	}
}

func TestCompileAccepts(t *testing.T) {
	for _, src := range []string{
		`true`, `false`, `{}`,
		`{"$schema":"https://json-schema.org/draft/2019-09/schema#","items":[{}],"additionalItems":false,"$recursiveAnchor":true,"$defs":{}}`,
		`{"$schema":"http://json-schema.org/draft-04/schema","id":"https://x/y","exclusiveMinimum":true,"minimum":0,"definitions":{"a":{}}}`,
		`{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"#/definitions/A","definitions":{"A":{"type":"object"}},"title":"A"}`,
		`{"$comment":"","title":"","description":"","default":{"$ref":"x"},"examples":[{"enum":[]}],"readOnly":true,"writeOnly":true,"deprecated":true,
			"contentEncoding":"base64","contentMediaType":"text/plain","contentSchema":{},"x-foo":{"tpye":1}}`,
		`{"properties":{"enum":{},"format":{},"$ref":{},"tpye":{}},"required":["tpye"]}`,
		`{"const":{"enum":[],"format":"x","$ref":"nowhere"},"enum":[{"tpye":1,"enum":[]}]}`,
		`{"$ref":"https://json-schema.org/draft/2020-12/schema"}`,
		`{"$id":"https://x/y","$ref":"https://x/y#/$defs/a","$defs":{"a":{"$id":"z","$anchor":"q"},"b":{"$ref":"z#q"}}}`,
		`{"$id":"https://x/y","properties":{"~a/b%\"c d":{"$ref":"#/properties/~0a~1b%25%22c%20d/items"},"e":{"$ref":"#"}},"maxLength":10.0}`,
	} {
		if strings.Contains(src, "~0a") {
			src = strings.Replace(src, `c d":{`, `c d":{"items":{"type":"null"},`, 1)
		}
		if _, err := jsonschema.Compile([]byte(src), jsonschema.Options{}); err != nil {
			t.Errorf("%s: %v", src, err)
		}
	}
}

func TestFormatIsAsserted(t *testing.T) {
	for _, draft := range suiteDrafts {
		s, err := jsonschema.Compile([]byte(`{"$schema":"`+draft.url+`","format":"ipv4"}`), jsonschema.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if s.Validate([]byte(`"1.2.3.4"`)) != nil || s.Validate([]byte(`"1.2.3"`)) == nil {
			t.Errorf("%s: format is not asserted", draft.name)
		}
	}
}

// TestContent checks that contentEncoding and contentMediaType are annotations in every draft, unless they are asked for.
func TestContent(t *testing.T) {
	for _, draft := range suiteDrafts[2:] {
		for _, c := range []struct {
			words string
			msgs  map[string]string // by message, the keyword that refuses it
		}{
			{`"contentEncoding":"base64"`, map[string]string{`"e30="`: "", `"e30"`: "contentEncoding", `"{}"`: "contentEncoding", `1`: ""}},
			{`"contentMediaType":"application/json"`, map[string]string{`"{}"`: "", `"{"`: "contentMediaType", `"e30="`: "contentMediaType", `[]`: ""}},
			{`"contentEncoding":"base64","contentMediaType":"application/json"`, map[string]string{`"e30="`: "", `"ew=="`: "contentMediaType", `"{}"`: "contentEncoding"}},
			{`"contentEncoding":"base32","contentMediaType":"application/json"`, map[string]string{`"{"`: ""}},
			{`"contentMediaType":"text/html"`, map[string]string{`"{"`: ""}},
		} {
			src := []byte(`{"$schema":"` + draft.url + `",` + c.words + `}`)
			for _, assert := range []bool{false, true} {
				s, err := jsonschema.Compile(src, jsonschema.Options{AssertContent: assert})
				if err != nil {
					t.Fatal(err)
				}
				for msg, want := range c.msgs {
					if !assert {
						want = ""
					}
					got := ""
					if e := s.Explain([]byte(msg)); e != nil {
						got = strings.TrimPrefix(e.KeywordLocation, "#/")
					}
					if got != want || !alike(s, []byte(msg)) {
						t.Errorf("%s, %s, AssertContent %t: refused by %q, want %q", src, msg, assert, got, want)
					}
				}
			}
		}
	}
}

func TestValidateErrors(t *testing.T) {
	s := compile(t, `{"type":"object","required":["type"],"properties":{
		"type":{"enum":["a","b"]},
		"list":{"type":"array","items":{"type":"object","properties":{"n":{"type":"integer","minimum":0}},"additionalProperties":false}},
		"any":{"anyOf":[{"type":"string"},{"type":"object","properties":{"deep":{"properties":{"x":{"const":1}}}}},{"type":"object","properties":{"deep":{"type":"null"}}}]},
		"one":{"oneOf":[{"type":"integer"},{"minimum":5}]},
		"~/":{"type":"null"},
		"names":{"propertyNames":{"maxLength":3}},
		"no":false, "not":{"not":{}},
		"loc":{"$ref":"#/$defs/a%20b"}},
		"$defs":{"a b":{"pattern":"^x"}}}`)
	for _, c := range []struct{ msg, pointer, keyword string }{
		{`[]`, "", "#/type"},
		{`{}`, "", "#/required"},
		{`{"type":"c"}`, "/type", "#/properties/type/enum"},
		{`{"type":"a","list":[{},{"n":1},{"n":-1}]}`, "/list/2/n", "#/properties/list/items/properties/n/minimum"},
		{`{"type":"a","list":[{"n":1.5}]}`, "/list/0/n", "#/properties/list/items/properties/n/type"},
		{`{"type":"a","list":[{"m":1}]}`, "/list/0/m", "#/properties/list/items/additionalProperties"},
		{`{"type":"a","any":{"deep":{"x":2}}}`, "/any/deep/x", "#/properties/any/anyOf/1/properties/deep/properties/x/const"},
		{`{"type":"a","any":1}`, "/any", "#/properties/any/anyOf/0/type"},
		{`{"type":"a","one":7}`, "/one", "#/properties/one/oneOf"},
		{`{"type":"a","~/":1}`, "/~0~1", "#/properties/~0~1/type"},
		{`{"type":"a","names":{"abc":1,"abcd":1}}`, "/names/abcd", "#/properties/names/propertyNames/maxLength"},
		{`{"type":"a","no":1}`, "/no", "#/properties/no"},
		{`{"type":"a","not":1}`, "/not", "#/properties/not/not"},
		{`{"type":"a","loc":"y"}`, "/loc", "#/$defs/a%20b/pattern"},
		{`{"list":1,"type":"c"}`, "/list", "#/properties/list/type"}, // the first in byte order
		{`{"type":"c","list":1}`, "/type", "#/properties/type/enum"},
	} {
		e := s.Explain([]byte(c.msg))
		if e == nil {
			t.Errorf("%s: accepted", c.msg)
			continue
		}
		agrees(t, s, []byte(c.msg))
		if e.Kind != jsonschema.KindSchema || e.Token != "schema" || e.Offset != -1 || e.InstancePointer != c.pointer || e.KeywordLocation != c.keyword {
			t.Errorf("%s: %+v, want %s by %s", c.msg, *e, c.pointer, c.keyword)
		}
	}
}

// agrees holds Explain against Validate, whose errors are always the same ones.
func agrees(t *testing.T, s *jsonschema.Schema, msg []byte) {
	t.Helper()
	err := s.Validate(msg)
	full := s.Explain(msg)
	if err == nil || full == nil {
		if err != nil || full != nil {
			t.Errorf("%q: Validate says %v, Explain %v", msg, err, full)
		}
		return
	}
	e := err.(*jsonschema.Error)
	if e.Kind != full.Kind || e.Token != full.Token || e.KeywordLocation != full.KeywordLocation || e.Offset != -1 || e.InstancePointer != "" {
		t.Errorf("%q: Validate says %+v, Explain %+v", msg, *e, *full)
	}
}

// TestErrorsAreClean: nothing of the peer gets into a log but what cannot do harm there.
func TestErrorsAreClean(t *testing.T) {
	s := compile(t, `{"additionalProperties":{"additionalProperties":{"type":"null"}}}`)
	nasty := "\u202e\u0007\u009b\x7f\u2028\u2066\ufeff\U000e0041\u200b\u00a0é😀\\u0000~/\""
	quote := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, key := range []string{nasty, strings.Repeat("é", 128), strings.Repeat("~", 256), strings.Repeat("\u202e", 85), strings.Repeat(nasty, 5)} {
		e := s.Explain(quote(map[string]any{key: map[string]any{key: "SECRET"}}))
		if e == nil {
			t.Fatalf("%q: accepted", key)
		}
		if len(e.InstancePointer) > 256 || len(e.KeywordLocation) > 256 {
			t.Errorf("%q: %d and %d bytes", key, len(e.InstancePointer), len(e.KeywordLocation))
		}
		for _, r := range e.InstancePointer + e.Error() {
			if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
				t.Errorf("%q: %U in %q", key, r, e.InstancePointer)
			}
		}
		if strings.Contains(e.Error(), "SECRET") {
			t.Errorf("%v", e)
		}
	}
	if e := s.Explain(quote(map[string]any{nasty: map[string]any{"k": 1}})); e.InstancePointer !=
		`/\u202e\u0007\u009b\u007f\u2028\u2066\ufeff\U000e0041\u200b\u00a0é😀\\u0000~0~1"/k` {
		t.Errorf("%s", e.InstancePointer)
	}
	long := compile(t, `{"properties":{"`+strings.Repeat("p", 250)+`":{"properties":{"`+strings.Repeat("q", 250)+`":false}}}}`)
	e := long.Explain([]byte(`{"` + strings.Repeat("p", 250) + `":{"` + strings.Repeat("q", 250) + `":1}}`))
	if len(e.KeywordLocation) > 256 || len(e.InstancePointer) > 256 || !strings.HasSuffix(e.KeywordLocation, "…") {
		t.Errorf("%+v", e)
	}
}

func TestLimitIsNoVerdict(t *testing.T) {
	for _, src := range []string{`{"not":{"items":{"type":"integer"}}}`, `{"anyOf":[{"items":{"type":"integer"}},true]}`, `{"if":{"items":{"type":"integer"}},"else":true}`,
		`{"oneOf":[{"items":{"type":"integer"}},{"type":"array"}]}`, `{"contains":{"items":{"type":"integer"}},"maxContains":1}`} {
		s, err := jsonschema.Compile([]byte(src), jsonschema.Options{Fuel: 50})
		if err != nil {
			t.Fatal(err)
		}
		msg := []byte("[[" + strings.Repeat("1,", 500) + "1]]")
		if strings.Contains(src, "items") && !strings.Contains(src, "contains") {
			msg = msg[1 : len(msg)-1]
		}
		e, ok := s.Validate(msg).(*jsonschema.Error)
		if !ok || e.Kind != jsonschema.KindLimit || e.Token != "fuel" {
			t.Errorf("%s: %v", src, e)
		}
		if err := s.Validate([]byte(`[]`)); token(t, err) == "fuel" {
			t.Errorf("%s: the next message pays for the last", src)
		}
	}
}

// TestDynamicLoop: a dynamic reference can come back to itself only while a message is judged.
func TestDynamicLoop(t *testing.T) {
	s, err := jsonschema.Compile([]byte(`{"$id":"https://x/a","$dynamicAnchor":"n","anyOf":[{"$ref":"https://x/b"},true]}`), jsonschema.Options{
		Resources: map[string][]byte{"https://x/b": []byte(`{"$id":"https://x/b","allOf":[{"$dynamicRef":"#n"}],"$defs":{"n":{"$dynamicAnchor":"n"}}}`)}})
	if err != nil {
		t.Skip("refused at construction: ", err)
	}
	for _, msg := range []string{`1`, `{"a":1}`} {
		e, ok := s.Validate([]byte(msg)).(*jsonschema.Error)
		if !ok || e.Kind != jsonschema.KindInternal || e.Token != "loop" {
			t.Errorf("%s: %v", msg, e)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		schema, msg string
		ok          bool
	}{
		{`{"const":1}`, `1.0`, true}, {`{"const":1}`, `10e-1`, true}, {`{"const":0}`, `-0.0e5`, true}, {`{"const":1}`, `true`, false},
		{`{"enum":[{"a":[1,2.50]}]}`, `{"a":[1.0,25e-1]}`, true}, {`{"enum":[[1,2]]}`, `[2,1]`, false},
		{`{"const":{"a":1,"b":2}}`, `{"b":2,"a":1}`, true}, {`{"const":"1"}`, `1`, false}, {`{"const":null}`, `false`, false},
		{`{"type":"integer"}`, `1.0`, true}, {`{"type":"integer"}`, `1e400`, true}, {`{"type":"integer"}`, `1e-1`, false}, {`{"type":"integer"}`, `10e-1`, true},
		{`{"multipleOf":0.01}`, `19.99`, true}, {`{"multipleOf":0.0001}`, `0.00751`, false}, {`{"multipleOf":1e-8}`, `12391239123`, true},
		{`{"multipleOf":3}`, `1e400`, false}, {`{"multipleOf":7}`, `0`, true}, {`{"multipleOf":1e400}`, `1`, false},
		{`{"minimum":9007199254740993}`, `9007199254740992`, false}, {`{"exclusiveMaximum":1e-400}`, `0`, true}, {`{"exclusiveMinimum":0}`, `1e-400`, true},
		{`{"maximum":-1.5}`, `-1.50`, true}, {`{"exclusiveMaximum":-1.5}`, `-1.50`, false}, {`{"minimum":-2}`, `-10`, false},
		{`{"uniqueItems":true}`, `[1,1.0]`, false}, {`{"uniqueItems":true}`, `[1,true,"1",[1],{"a":1}]`, true}, {`{"uniqueItems":true}`, `[{"a":1,"b":[2]},{"b":[20e-1],"a":1}]`, false},
		{`{"uniqueItems":true}`, `[[],{},"",0,false,null]`, true}, {`{"uniqueItems":true}`, `[[[]],[]]`, true}, {`{"uniqueItems":true}`, `[{"a":"b"},{"b":"a"}]`, true},
		{`{"minLength":1,"maxLength":1}`, `"\ud83d\ude00"`, true}, {`{"maxLength":2}`, `"e\u0301e"`, false}, {`{"const":"\u00e9"}`, `"\u00E9"`, true}, {`{"const":"a\u0000"}`, `"a\u0000"`, true},
		{`{"required":["a"],"additionalProperties":false}`, `{"a":1}`, false},
	} {
		s := compile(t, c.schema)
		if err := s.Validate([]byte(c.msg)); (err == nil) != c.ok {
			t.Errorf("%s, %s: %v, want %v", c.schema, c.msg, err, c.ok)
		}
	}
}

// TestEmptyRanges checks that a range that no value can meet refuses every value of its type, and nothing else, where it
// stands behind a choice. Elsewhere Compile refuses most of these schemas (see TestContradictions).
func TestEmptyRanges(t *testing.T) {
	const d4, d6 = `"$schema":"http://json-schema.org/draft-04/schema#"`, `"$schema":"http://json-schema.org/draft-06/schema#"`
	values := []string{`0`, `-0`, `0.0`, `-0.0e5`, `1`, `1.0`, `10e-1`, `0.5`, `-1`, `2`, `5`, `1e400`, `-1e400`, `1e-400`, `""`, `"a"`, `"ab"`, `"\u0061bc"`, `[]`, `[0]`, `[0,1]`, `{}`, `{"a":0}`, `{"a":0,"b":1}`, `true`, `null`}
	kind := func(msg string) string {
		switch msg[0] {
		case '"':
			return "string"
		case '[':
			return "array"
		case '{':
			return "object"
		case 't', 'n':
			return "word"
		}
		return "number"
	}
	for _, c := range []struct{ schema, refuses string }{
		{`{"exclusiveMinimum":0,"exclusiveMaximum":1,"multipleOf":1}`, "number"},
		{`{"exclusiveMinimum":0,"exclusiveMaximum":0}`, "number"},
		{`{"exclusiveMinimum":-0.0,"maximum":0}`, "number"},
		{`{"minimum":0,"exclusiveMaximum":-0}`, "number"},
		{`{"minimum":1,"maximum":0}`, "number"},
		{`{"minimum":5,"maximum":-1}`, "number"},
		{`{"minimum":1e400,"maximum":-1e400}`, "number"},
		{`{"minimum":1e-400,"maximum":-1e-400}`, "number"},
		{`{"exclusiveMinimum":0,"exclusiveMaximum":1e-400}`, "number"},
		{`{"minimum":-1,"exclusiveMinimum":1,"maximum":1,"exclusiveMaximum":5}`, "number"},
		{`{"minimum":1,"exclusiveMaximum":1.0}`, "number"},
		{`{` + d4 + `,"minimum":0,"exclusiveMinimum":true,"maximum":0}`, "number"},
		{`{` + d4 + `,"minimum":1,"maximum":1,"exclusiveMaximum":true}`, "number"},
		{`{` + d4 + `,"minimum":2,"maximum":1}`, "number"},
		{`{` + d4 + `,"allOf":[{"minimum":0,"exclusiveMinimum":true},{"maximum":1,"exclusiveMaximum":true},{"multipleOf":1}]}`, "number"},
		{`{` + d6 + `,"allOf":[{"exclusiveMinimum":1},{"$ref":"#/definitions/a"}],"definitions":{"a":{"maximum":0}}}`, "number"},
		{`{"minimum":1,"$ref":"#/$defs/a","$defs":{"a":{"allOf":[{"maximum":5},{"exclusiveMaximum":1}]}}}`, "number"},
		{`{"minimum":2,"anyOf":[{"maximum":0},{"exclusiveMaximum":1}]}`, "number"},
		{`{"not":{"not":{"minimum":1,"maximum":0}}}`, "number"},
		{`{"type":["integer","string","array","object","boolean","null"],"exclusiveMinimum":0,"exclusiveMaximum":1}`, "number"},
		{`{"minLength":2,"maxLength":1}`, "string"},
		{`{"allOf":[{"minLength":1},{"maxLength":0}]}`, "string"},
		{`{"minItems":2,"maxItems":1}`, "array"},
		{`{"minItems":1,"$ref":"#/$defs/a","$defs":{"a":{"maxItems":0}}}`, "array"},
		{`{"contains":true,"minContains":2,"maxContains":1}`, "array"},
		{`{"contains":{"minimum":1,"maximum":0}}`, "array"},
		{`{"minProperties":2,"maxProperties":1}`, "object"},
		{`{"allOf":[{"maxProperties":0}],"minProperties":1}`, "object"},
	} {
		s := compile(t, chosen(c.schema))
		for _, msg := range values {
			// The engine has a fast path for numbers that are not at the end of the message.
			for _, msg := range []string{msg, msg + strings.Repeat(" ", 17)} {
				if err := s.Validate([]byte(msg)); (err == nil) != (kind(msg) != c.refuses) {
					t.Errorf("%s, %s: %v", c.schema, msg, err)
				}
				agrees(t, s, []byte(msg))
			}
		}
	}
	// A narrow range is not an empty one.
	for _, c := range []struct{ schema, accepts string }{
		{`{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1}`, `0.5 1e-400`},
		{`{"type":"integer","exclusiveMinimum":0,"exclusiveMaximum":2}`, `1 1.0 10e-1`},
		{`{"type":"number","minimum":0,"maximum":0}`, `0 -0 0.0 -0.0e5`},
		{`{"type":"number","minimum":0,"maximum":1e-400}`, `0 -0 0.0 -0.0e5 1e-400`},
		{`{` + d4 + `,"type":"integer","minimum":0,"exclusiveMinimum":true,"maximum":1}`, `1 1.0 10e-1`},
	} {
		s := compile(t, c.schema)
		accepts := strings.Fields(c.accepts)
		for _, msg := range values {
			if err := s.Validate([]byte(msg)); (err == nil) != slices.Contains(accepts, msg) {
				t.Errorf("%s, %s: %v", c.schema, msg, err)
			}
		}
	}
}

// TestConcurrent runs one schema from many goroutines; go test -race watches.
func TestConcurrent(t *testing.T) {
	s := compile(t, oracleSchemas[0])
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 300 {
				good := fmt.Sprintf(`{"type":"chat","id":%d,"tags":["a","b","%d"],"next":{"type":"ping","n":%d}}`, i, g, i)
				if g%2 == 0 { // the order of names is learnt by all of them
					good = fmt.Sprintf(`{"tags":["a","b","%d"],"next":{"n":%d,"type":"ping"},"id":%d,"type":"chat"}`, g, i, i)
				}
				if err := s.Validate([]byte(good)); err != nil {
					t.Errorf("%s: %v", good, err)
				}
				bad := fmt.Sprintf(`{"type":"chat","id":%d,"tags":["a","%d","a"]}`, i, g)
				if err := s.Validate([]byte(bad)); err == nil {
					t.Errorf("%s: accepted", bad)
				}
				if e := s.Explain([]byte(bad)); e == nil || e.InstancePointer != "/tags" {
					t.Errorf("%s: %v", bad, e)
				}
			}
		}()
	}
	wg.Wait()
}

// oracleSchemas are ordinary, and together use every keyword that is judged.
var oracleSchemas = []string{
	`{"type":"object","required":["type"],"properties":{"type":{"enum":["chat","ping",1,null]},"id":{"type":"integer","minimum":0,"exclusiveMaximum":1e6},
		"tags":{"type":"array","uniqueItems":true,"maxItems":4,"items":{"type":"string","minLength":1,"maxLength":5}},
		"n":{"multipleOf":0.5,"maximum":1e300},"next":{"$ref":"#"},"at":{"format":"date-time"}},"additionalProperties":false,"maxProperties":5}`,
	`{"oneOf":[{"type":"object","properties":{"op":{"const":"add"},"l":{"$ref":"#"},"r":{"$ref":"#"}},"required":["op","l","r"]},
		{"type":"object","properties":{"op":{"const":"neg"},"l":{"$ref":"#"}},"required":["op","l"],"minProperties":2},{"type":["number","null"]},{"type":"integer"}]}`,
	`{"allOf":[{"properties":{"a":{"type":"string"}}},{"patternProperties":{"^b":{"type":"number"},"c$":true}}],"anyOf":[{"required":["a"]},{"required":["b"],"properties":{"d":{}}},{"type":"array"}],
		"unevaluatedProperties":{"type":"boolean"},"dependentRequired":{"a":["b"]},"dependentSchemas":{"d":{"properties":{"e":true},"required":["e"]}},"propertyNames":{"pattern":"^[a-f]{1,3}$"},
		"prefixItems":[{"type":"integer"},{"const":[1,{"a":2}]}],"contains":{"type":"string"},"maxContains":2,"unevaluatedItems":{"enum":[1,2,"x",[],{}]}}`,
	`{"if":{"properties":{"a":{"const":1}},"required":["a"]},"then":{"required":["b"]},"else":{"not":{"required":["c"]}},"minProperties":1,"additionalProperties":{"items":false,"minItems":1}}`,
	`{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"integer"},{"$ref":"#/definitions/a"}],"additionalItems":{"contentEncoding":"base64","contentMediaType":"application/json"},
		"dependencies":{"a":["b"],"c":{"maxProperties":1}},"definitions":{"a":{"anyOf":[{"format":"ipv4"},{"format":"uuid"},{"format":"regex"},{"format":"duration"}]}},"contains":{"minimum":3}}`,
	`{"$schema":"http://json-schema.org/draft-04/schema#","properties":{"a":{"minimum":1,"exclusiveMinimum":true,"maximum":5}},"items":{"$ref":"#"},"additionalProperties":{"type":["string","null"]}}`,
	`{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"type":["object","string"],"properties":{"a":{"$recursiveRef":"#"},"b":{"items":[{"type":"null"}],"unevaluatedItems":false}},"unevaluatedProperties":false}`,
	`{"$ref":"https://json-schema.org/draft/2020-12/schema"}`,
	`{"$ref":"http://json-schema.org/draft-07/schema#"}`,
	`{"contains":{"$ref":"#/$defs/a"},"minContains":0,"unevaluatedItems":{"type":"null"},"$defs":{"a":{"$dynamicAnchor":"x","items":{"$dynamicRef":"#x"},"maxItems":2,"uniqueItems":true}}}`,
}

type oracle struct {
	s     *jsonschema.Schema
	plain func([]byte) (ok, judged bool)
	src   string
}

func oracles(t testing.TB) []oracle {
	var all []oracle
	for _, src := range oracleSchemas {
		s, err := jsonschema.Compile([]byte(src), jsonschema.Options{AssertContent: true}) // as v5 does in draft 7
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		plain := plainV5([]byte(src), nil, v5.Draft2020, true)
		if plain == nil {
			t.Fatalf("v5 does not compile %s", src)
		}
		all = append(all, oracle{s, plain, src})
	}
	return all
}

func (o oracle) check(t *testing.T, msg []byte) {
	t.Helper()
	err := o.s.Validate(msg)
	agrees(t, o.s, msg)
	if scan := jsonschema.Scan(msg, nil); scan != nil {
		if err == nil {
			t.Fatalf("%s, %q: accepted, although %v", o.src, msg, scan)
		}
		// What the schema refuses may come first, but not later.
		if e, s := err.(*jsonschema.Error), scan.(*jsonschema.Error); e.Kind != jsonschema.KindSchema && e.Token != s.Token {
			t.Fatalf("%s, %q: %v, want %v", o.src, msg, err, scan)
		}
		return
	}
	if err != nil {
		if e := err.(*jsonschema.Error); e.Kind != jsonschema.KindSchema {
			t.Fatalf("%s, %q: %v", o.src, msg, err)
		}
	}
	if tree := o.s.Tree(msg); (tree == nil) != (err == nil) {
		t.Fatalf("%s, %q: the evaluator says %v, the engine %v", o.src, msg, tree, err)
	}
	if len(msg) > 4096 || strings.Contains(o.src, "oneOf") && strings.Count(string(msg), "{") > 8 {
		return // v5 is exponential there
	}
	if ok, judged := o.plain(msg); judged && ok != (err == nil) && !signed.Match(msg) {
		t.Fatalf("%s, %q: v5 says %v, got %v", o.src, msg, ok, err)
	}
}

// signed finds numbers that v5 takes for part of an address or a time of day.
var signed = regexp.MustCompile(`"[^"]*[+-][0-9][^"]*"`)

// TestOracle runs the data of the official suite through every schema, and compares with plain v5.
func TestOracle(t *testing.T) {
	dir := suiteFolder(t)
	all := oracles(t)
	n := 0
	for _, d := range suiteDrafts {
		for _, groups := range suiteGroups(t, filepath.Join(dir, "tests", d.name, "*.json")) {
			for _, g := range groups {
				for _, o := range all {
					o.check(t, g.Schema)
					for _, c := range g.Tests {
						o.check(t, c.Data)
						n++
					}
				}
			}
		}
	}
	t.Logf("%d judgements", n)
}

// TestOracleRandom judges random values made of the words that the schemas know.
func TestOracleRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"a", "b", "c", "d", "e", "abc", "bc", "type", "id", "tags", "n", "next", "at", "op", "l", "r", "x", "chat", "ping", "add", "neg", "items", "properties", "enum",
		"minimum", "$ref", "required", "object", "string", "1.2.3.4", "W10=", "2024-01-02T03:04:05Z", "P1D"}
	scalars := []string{"null", "true", "false", "0", "1", "1.0", "2", "5", "0.5", "-1", "1e2", "3.25"}
	var gen func(b *strings.Builder, depth int)
	gen = func(b *strings.Builder, depth int) {
		switch k := r.IntN(10); {
		case k < 3 || depth == 0:
			b.WriteString(scalars[r.IntN(len(scalars))])
		case k < 5:
			fmt.Fprintf(b, "%q", words[r.IntN(len(words))])
		case k < 7:
			b.WriteByte('[')
			for i := range r.IntN(5) {
				if i > 0 {
					b.WriteByte(',')
				}
				gen(b, depth-1)
			}
			b.WriteByte(']')
		default:
			b.WriteByte('{')
			from := r.IntN(len(words))
			for i := range r.IntN(5) {
				if i > 0 {
					b.WriteByte(',')
				}
				fmt.Fprintf(b, "%q:", words[(from+i)%len(words)])
				gen(b, depth-1)
			}
			b.WriteByte('}')
		}
	}
	all := oracles(t)
	accepted := make([]int, len(all))
	rounds := 20000
	if raceEnabled {
		rounds = 2000
	}
	for range rounds {
		var b strings.Builder
		gen(&b, 4)
		for i, o := range all {
			if o.check(t, []byte(b.String())); o.s.Validate([]byte(b.String())) == nil {
				accepted[i]++
			}
		}
	}
	t.Logf("accepted of %d by schema: %v", rounds, accepted)
}

func FuzzValidate(f *testing.F) {
	for _, msg := range []string{`{"type":"chat","id":1,"tags":["a","b"],"next":{"type":"ping","n":1.5}}`, `{"op":"add","l":{"op":"neg","l":1},"r":null}`,
		`{"a":"x","b":1,"d":true,"e":false}`, `[1,[1,{"a":2}],"x","y",[]]`, `{"a":1,"b":[1],"c":[]}`, `[1,"1.2.3.4","W10=","P1Y2M",4]`, `{"a":2,"c":null}`,
		`{"a":{"a":"s","b":[null]}}`, `{"properties":{"a":{"type":"string","enum":[1]}},"items":[true]}`, `[[[]],[[],[1]],null]`, `1e400`, `-0.0`, `"\ud83d\ude00"`} {
		for i := range oracleSchemas {
			f.Add(uint8(i), []byte(msg))
		}
	}
	if dir := os.Getenv(suiteEnv); dir != "" {
		for _, groups := range suiteGroups(f, filepath.Join(dir, "tests", "draft2020-12", "*.json")) {
			for i, g := range groups {
				f.Add(uint8(i), []byte(g.Schema))
			}
		}
	}
	all := oracles(f)
	f.Fuzz(func(t *testing.T, which uint8, msg []byte) { all[int(which)%len(all)].check(t, msg) })
}

// FuzzNumber holds the exact decimals against big.Rat.
func FuzzNumber(f *testing.F) {
	for _, p := range [][2]string{{"1", "1.0"}, {"19.99", "0.01"}, {"-0", "0e5"}, {"1e400", "7"}, {"1e-400", "1e400"}, {"123456789012345678901234567890", "1234567890123456789"}, {"-12.5", "0.5"}} {
		f.Add(p[0], p[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(a) > 64 || len(b) > 64 || jsonschema.Scan([]byte(a), nil) != nil || jsonschema.Scan([]byte(b), nil) != nil {
			return
		}
		x, ok := new(big.Rat).SetString(a)
		y, ok2 := new(big.Rat).SetString(b)
		if !ok || !ok2 || strings.ContainsAny(a+b, "xXpPoO_n") {
			return
		}
		check := func(schema string, want bool) {
			t.Helper()
			s, err := jsonschema.Compile([]byte(schema), jsonschema.Options{})
			if err != nil {
				t.Fatalf("%s: %v", schema, err)
			}
			for _, msg := range []string{a, a + "                    ", " " + a + "\n"} { // near the end of a message there is no word to read
				if err := s.Validate([]byte(msg)); (err == nil) != want {
					t.Fatalf("%q against %s: %v", msg, schema, err)
				}
			}
		}
		cmp := x.Cmp(y)
		b = strings.TrimSpace(b)
		check(`{"minimum":`+b+`}`, cmp >= 0)
		check(`{"exclusiveMaximum":`+b+`}`, cmp < 0)
		check(`{"const":`+b+`}`, cmp == 0)
		check(`{"type":"integer"}`, x.IsInt())
		if y.Sign() > 0 {
			check(`{"multipleOf":`+b+`}`, new(big.Rat).Quo(x, y).IsInt())
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, src := range oracleSchemas {
		f.Add([]byte(src))
	}
	f.Add([]byte(`{"unevaluatedProperties":{"type":"boolean"},"contains":{},"unevaluatedItems":{}}`))
	f.Add([]byte(`{"allOf":[{"$ref":"#/$defs/d","type":"object"}],"$defs":{"d":{"oneOf":[{"const":[1]},{"anyOf":[{"type":["object","array"]},false,{"const":"b"}]}]}}}`))
	f.Add([]byte(`{"$dynamicRef":"#n","$defs":{"n":{"$dynamicAnchor":"n","$ref":"#"}}}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > 2048 {
			return
		}
		for _, lax := range []bool{false, true} {
			s, err := jsonschema.Compile(src, jsonschema.Options{AllowUnknownKeywords: lax, AllowUnknownFormats: lax})
			if (s == nil) == (err == nil) {
				t.Fatalf("%q: %v, %v", src, s, err)
			}
			if err != nil {
				var f *jsonschema.SchemaFault
				if !errors.As(err, &f) {
					t.Fatalf("%T", err)
				}
				continue
			}
			for _, msg := range []string{`{}`, `[1,"a",{"a":null}]`, `{"a":1,"b":[{"a":"x"}],"type":"chat","c":{"op":"add"}}`, `"a"`, `1.0`, `[[],[1,1.0],{"b":{}}]`, string(src)} {
				err := s.Validate([]byte(msg))
				if err != nil && err.(*jsonschema.Error).Token == "panic" {
					t.Fatalf("%q, %q: %v", src, msg, err)
				}
				if !alike(s, []byte(msg)) {
					t.Fatalf("%q, %q: the evaluator says %v, the engine %v", src, msg, s.Tree([]byte(msg)), err)
				}
			}
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	s := compile(b, `{"type":"object","properties":{"type":{"const":"chat"},"id":{"type":"string","format":"uuid"},"room":{"type":"string","maxLength":64},"text":{"type":"string","maxLength":500},"ts":{"type":"integer"}},"required":["type","room","text"],"additionalProperties":false}`)
	plain := plainV5([]byte(`{"type":"object","properties":{"type":{"const":"chat"},"id":{"type":"string","format":"uuid"},"room":{"type":"string","maxLength":64},"text":{"type":"string","maxLength":500},"ts":{"type":"integer"}},"required":["type","room","text"],"additionalProperties":false}`), nil, v5.Draft2020, true)
	msg := []byte(`{"type":"chat","id":"3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60","room":"general","text":"Does anybody know whether the release is out yet?","ts":1714392000123}`)
	b.Run("guard", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Validate(msg); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode and v5", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			plain(msg)
		}
	})
}

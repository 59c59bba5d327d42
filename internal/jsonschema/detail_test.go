package jsonschema_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// TestDetails checks that the error of required, oneOf and uniqueItems says which name, branches or items.
func TestDetails(t *testing.T) {
	many := `{"oneOf":[{"type":"object","minProperties":2},{"type":"object","maxProperties":0},{"type":"object","required":["a"]}]}`
	for _, c := range []struct{ schema, msg, detail string }{
		{`{"required":["b","a"]}`, `{"b":1}`, `name "a" is missing`},
		{`{"required":["b","a"]}`, `{"a":1,"c":2}`, `name "b" is missing`},
		{`{"allOf":[{"required":["b"]},{"required":["a"]}]}`, `{"b":1}`, `name "a" is missing`},
		{`{"items":{"required":["a"]}}`, `[{"a":1},{"\u0061b":1}]`, `name "a" is missing`},
		{`{"anyOf":[{"required":["a"]},{"properties":{"x":{"required":["y"]}},"required":["x"]}]}`, `{"x":{}}`, `name "y" is missing`},
		{`{"required":["a\u202e\"b"]}`, `{}`, `name "a\u202e"b" is missing`},
		{`{"dependentRequired":{"a":["b","c"]}}`, `{"b":1,"a":1}`, `name "c" is missing`},
		{`{"$schema":"http://json-schema.org/draft-07/schema#","dependencies":{"a":["b","c"]}}`, `{"c":1,"a":1}`, `name "b" is missing`},
		{`{"oneOf":[{"minimum":5},{"maximum":3},{"multipleOf":2}]}`, `2`, `branches 1 and 2 accept the value`},
		{`{"oneOf":[{"type":"string"},{"type":"integer"},{"type":"null"},{"type":"number"}]}`, `7`, `branches 1 and 3 accept the value`},
		{many, `{"a":1,"b":1}`, `branches 0 and 2 accept the value`},
		{`{"oneOf":[{"properties":{"t":{"const":"x"}}},{"properties":{"t":{"const":"a"}},"required":["t"]},{"properties":{"t":{"enum":["b","a"]}},"required":["t"]}]}`, `{"t":"a"}`, `branches 1 and 2 accept the value`},
		{`{"uniqueItems":true}`, `[1,2,1.0]`, `items 0 and 2 are equal`},
		{`{"uniqueItems":true}`, `[{"a":1,"b":[]},0,[0],"0",{"b":[],"\u0061":1}]`, `items 0 and 4 are equal`},
		{`{"uniqueItems":true}`, `[` + strings.Repeat(`[[`, 20) + strings.Repeat(`]]`, 20) + `,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,17]`, `items 9 and 17 are equal`},
		{`{"properties":{"a":{"uniqueItems":true}}}`, `{"a":["x","y","y"]}`, `items 1 and 2 are equal`},
		// Other keywords have none, nor has an error that is found before them.
		{`{"type":"object"}`, `[]`, ``}, {`{"oneOf":[{"type":"string"},{"type":"null"}]}`, `1`, ``}, {`{"not":{"required":["a"]}}`, `{"a":1}`, ``}, {`{"required":["a"]}`, `{"b":1,}`, ``},
	} {
		for _, whole := range []bool{false, true} {
			src := c.schema
			if whole { // The evaluator judges what depends on the way to a dynamic reference.
				if strings.Contains(src, "$schema") {
					continue
				}
				src = `{"$id":"https://x/a","$dynamicAnchor":"n","properties":{"never":{"$ref":"https://x/b"}},` + strings.TrimPrefix(src, "{")
				src = strings.TrimSuffix(src, "}") + `,"$defs":{"b":{"$id":"https://x/b","$dynamicRef":"#n","$defs":{"n":{"$dynamicAnchor":"n"}}}}}`
			}
			if strings.Count(src, `"properties"`) > 1 && whole && strings.HasPrefix(c.schema, `{"properties"`) {
				continue
			}
			s := compile(t, src)
			e := s.Explain([]byte(c.msg))
			if e == nil || e.Detail != c.detail || c.detail != "" && !strings.HasSuffix(e.Error(), ", "+c.detail) {
				t.Errorf("%s, %s: %v, want %q", src, c.msg, e, c.detail)
			}
			if err := s.Validate([]byte(c.msg)).(*jsonschema.Error); err.Detail != "" {
				t.Errorf("%s, %s: Validate has the detail %q", src, c.msg, err.Detail)
			}
			agrees(t, s, []byte(c.msg))
		}
	}
	s := compile(t, `{"required":["`+strings.Repeat("é\u202e", 300)+`"]}`)
	e := s.Explain([]byte(`{}`))
	if len(e.Detail) > 256 || strings.ContainsFunc(e.Detail, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%d bytes: %q", len(e.Detail), e.Detail)
	}
}

// TestDetailsHoldNothingOfTheMessage gives a secret to each keyword that has a detail.
func TestDetailsHoldNothingOfTheMessage(t *testing.T) {
	for schema, msg := range map[string]string{
		`{"required":["a"]}`:                `{"hunter2":"hunter2"}`,
		`{"dependentRequired":{"a":["b"]}}`: `{"a":"hunter2","hunter2":1}`,
		`{"uniqueItems":true}`:              `["hunter2","hunter2"]`,
		`{"oneOf":[{"type":"object"},{}]}`:  `{"hunter2":"hunter2"}`,
	} {
		if e := compile(t, schema).Explain([]byte(msg)); e.Detail == "" || strings.Contains(e.Detail+e.Error(), "hunter2") {
			t.Errorf("%s: %q, %v", schema, e.Detail, e)
		}
	}
}

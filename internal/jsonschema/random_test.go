package jsonschema_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// A generator makes schemas and messages out of the same few words, so that they have much to do with each other.
type generator struct{ *rand.Rand }

func (g generator) pick(words ...string) string { return words[g.IntN(len(words))] }

func (g generator) list(least, most int, f func() string) string {
	var parts []string
	for range least + g.IntN(most-least+1) {
		parts = append(parts, f())
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func (g generator) object(most int, names []string, f func() string) string {
	var parts []string
	for _, i := range g.Perm(len(names))[:g.IntN(min(most, len(names))+1)] {
		parts = append(parts, fmt.Sprintf("%q:%s", names[i], f()))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

var (
	memberNames = []string{"a", "b", "c", "t", "long-name-0", "long-name-1", "x_1"}
	scalars     = []string{`null`, `true`, `false`, `0`, `1`, `1.0`, `2`, `-1`, `0.5`, `15e-1`, `100`, `"a"`, `"b"`, `"ab"`, `"\u0061"`, `"long-name-0"`, `"é"`, `""`, `[]`, `{}`}
)

func (g generator) name() string { return fmt.Sprintf("%q", memberNames[g.IntN(len(memberNames))]) }

func (g generator) message(depth int) string {
	switch k := g.IntN(10); {
	case depth == 0 || k < 3:
		return scalars[g.IntN(len(scalars))]
	case k < 5:
		return g.list(0, 4, func() string { return g.message(depth - 1) })
	}
	return g.object(4, memberNames, func() string { return g.message(depth - 1) })
}

func (g generator) schema(depth int) string {
	if depth == 0 || g.IntN(12) == 0 {
		return g.pick(`true`, `false`, `{}`, `{"type":"string"}`, `{"type":"integer"}`, `{"const":"a"}`, `{"const":"b"}`, `{"enum":["a","ab",1,null]}`, `{"type":["object","array"]}`,
			`{"type":"number","minimum":1}`, `{"$ref":"#/$defs/d"}`, `{"$ref":"#/$defs/e"}`)
	}
	sub := func() string { return g.schema(depth - 1) }
	subs := func() string { return g.list(1, 3, sub) }
	names := func() string {
		var parts []string
		for _, i := range g.Perm(len(memberNames))[:1+g.IntN(2)] {
			parts = append(parts, fmt.Sprintf("%q", memberNames[i]))
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	told := func() string { // a branch that says what it is
		return fmt.Sprintf(`{"type":"object","properties":{"t":{%s},%s:%s},"required":["t"]%s}`, g.pick(`"const":"a"`, `"const":"b"`, `"enum":["ab",""]`, `"type":"string"`, `"const":1`),
			g.name(), sub(), g.pick(``, ``, `,"additionalProperties":false`))
	}
	closed := func() string { // a branch that shows by its names
		return fmt.Sprintf(`{"properties":{%s:%s,%s:true},"required":%s,"additionalProperties":false}`, g.pick(`"a"`, `"b"`), sub(), g.pick(`"c"`, `"t"`), names())
	}
	keywords := []func() string{
		func() string {
			return `"type":` + g.pick(`"object"`, `"array"`, `"string"`, `"integer"`, `["object","string","number"]`, `["array","null"]`)
		},
		func() string { return `"properties":` + g.object(3, memberNames, sub) },
		func() string { return `"properties":` + g.object(3, memberNames, sub) },
		func() string { return `"required":` + names() },
		func() string { return `"additionalProperties":` + g.pick(`false`, `true`, sub()) },
		func() string { return `"patternProperties":` + g.object(2, []string{"^[ab]", "^long", "_", "1$"}, sub) },
		func() string { return `"propertyNames":` + g.pick(`{"maxLength":1}`, `{"pattern":"^[a-z]"}`, sub()) },
		func() string { return `"minProperties":1` }, func() string { return `"maxProperties":2` },
		func() string { return fmt.Sprintf(`"dependentRequired":{%s:%s}`, g.name(), names()) },
		func() string { return fmt.Sprintf(`"dependentSchemas":{%s:%s}`, g.name(), sub()) },
		func() string { return `"items":` + sub() }, func() string { return `"prefixItems":` + subs() },
		func() string { return `"minItems":1` }, func() string { return `"maxItems":2` }, func() string { return `"uniqueItems":true` },
		func() string { return `"contains":` + sub() }, func() string {
			return `"contains":` + sub() + g.pick(`,"minContains":0`, `,"minContains":2`, `,"maxContains":1`)
		},
		func() string { return `"anyOf":` + subs() }, func() string { return `"oneOf":` + subs() }, func() string { return `"allOf":` + subs() },
		func() string { return g.pick(`"anyOf":`, `"oneOf":`) + g.list(2, 4, told) },
		func() string { return g.pick(`"anyOf":`, `"oneOf":`) + g.list(2, 3, closed) },
		func() string {
			return g.pick(`"anyOf":`, `"oneOf":`) + g.list(2, 3, func() string { return `{"required":` + names() + `}` })
		},
		func() string { return `"not":` + sub() }, func() string { return `"if":` + sub() + `,"then":` + sub() + `,"else":` + sub() }, func() string { return `"if":` + sub() },
		func() string { return `"$ref":"#/$defs/` + g.pick("d", "e") + `"` },
		func() string { return `"unevaluatedProperties":` + g.pick(`false`, sub()) }, func() string { return `"unevaluatedItems":` + g.pick(`false`, sub()) },
		func() string { return `"const":` + g.message(1) }, func() string { return `"enum":` + g.list(1, 4, func() string { return g.message(1) }) },
		func() string { return `"minimum":1` }, func() string { return `"exclusiveMaximum":1.5` }, func() string { return `"multipleOf":0.5` },
		func() string { return `"minLength":1` }, func() string { return `"maxLength":1` }, func() string { return `"pattern":` + g.pick(`"^a"`, `"b$"`, `"^(a|b)+$"`) },
	}
	said := map[string]bool{}
	var parts []string
	for range 1 + g.IntN(4) {
		kw := keywords[g.IntN(len(keywords))]()
		if word, _, _ := strings.Cut(kw, ":"); !said[word] {
			said[word] = true
			parts = append(parts, kw)
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// TestRandomSchemas holds the engine against the evaluator and against v5 where schemas are as odd as they can be.
func TestRandomSchemas(t *testing.T) {
	rounds := 2500
	if raceEnabled {
		rounds = 150
	}
	g := generator{rand.New(rand.NewPCG(7, 8))}
	judged, accepted, refused := 0, 0, 0
	for range rounds {
		root := g.schema(3)
		if root[0] != '{' {
			continue
		}
		src := fmt.Sprintf(`%s,"$defs":{"d":%s,"e":%s}}`, strings.TrimSuffix(root, "}"), g.schema(2), g.schema(1))
		src = strings.Replace(src, "{,", "{", 1)
		s, err := jsonschema.Compile([]byte(src), jsonschema.Options{})
		if err != nil {
			refused++ // an endless loop, or a keyword twice
			continue
		}
		plain := plainV5([]byte(src), nil, v5.Draft2020, true)
		for range 20 {
			msg := []byte(g.message(3))
			err := s.Validate(msg)
			agrees(t, s, msg)
			if !alike(s, msg) {
				t.Fatalf("%s, %s: the evaluator says %v, the engine %v", src, msg, s.Tree(msg), err)
			}
			if ok, known := plain(msg); known && ok != (err == nil) && !strings.Contains(src, "unevaluated") {
				t.Fatalf("%s, %s: v5 says %v, the engine %v", src, msg, ok, err)
			}
			if judged++; err == nil {
				accepted++
			}
		}
	}
	t.Logf("%d judgements, %d accepted; %d schemas refused", judged, accepted, refused)
}

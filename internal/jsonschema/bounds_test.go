package jsonschema_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// chosen puts a schema behind a choice, where contradictory bounds are no fault.
func chosen(schema string) string {
	dialect := ""
	if strings.HasPrefix(schema, `{"$schema":`) {
		dialect, schema, _ = strings.Cut(schema, ",")
		dialect, schema = dialect[1:]+",", "{"+schema
	}
	return "{" + dialect + `"anyOf":[` + strings.ReplaceAll(schema, `"#/`, `"#/anyOf/0/`) + "]}"
}

// TestContradictions has pairs of bounds that no value of their type can meet, and the faults that name them.
func TestContradictions(t *testing.T) {
	const d4, d6, d7 = `"$schema":"http://json-schema.org/draft-04/schema#"`, `"$schema":"http://json-schema.org/draft-06/schema#"`, `"$schema":"http://json-schema.org/draft-07/schema#"`
	for _, c := range []struct{ schema, at, reason string }{
		// Each family.
		{`{"minimum":5,"maximum":3}`, "#/minimum", "no number can meet minimum 5 and maximum 3"},
		{`{"type":"number","minimum":5,"maximum":3}`, "#/minimum", "no number can meet minimum 5 and maximum 3"},
		{`{"type":["string","integer"],"minimum":5,"maximum":3}`, "#/minimum", "no integer can meet minimum 5 and maximum 3"},
		{`{"minimum":1,"exclusiveMaximum":1.0}`, "#/minimum", "no number can meet minimum 1 and exclusiveMaximum 1"},
		{`{"exclusiveMinimum":-0.0,"maximum":0}`, "#/exclusiveMinimum", "no number can meet exclusiveMinimum 0 and maximum 0"},
		{`{"exclusiveMinimum":0.5,"exclusiveMaximum":5e-1}`, "#/exclusiveMinimum", "exclusiveMinimum 0.5 and exclusiveMaximum 0.5"},
		{`{"minimum":-1,"exclusiveMinimum":1,"maximum":1,"exclusiveMaximum":5}`, "#/exclusiveMinimum", "exclusiveMinimum 1 and maximum 1"},
		{`{"minimum":1e400,"maximum":-1e400}`, "#/minimum", "minimum 1e400 and maximum -1e400"},
		{`{"minimum":-1.25e-30,"maximum":-123456789012345678901234}`, "#/minimum", "minimum -125e-32 and maximum -123456789012345678901234"},
		{`{` + d4 + `,"minimum":0,"exclusiveMinimum":true,"maximum":0}`, "#/exclusiveMinimum", "exclusiveMinimum 0 and maximum 0"},
		{`{` + d4 + `,"minimum":1,"maximum":1,"exclusiveMaximum":true}`, "#/minimum", "minimum 1 and exclusiveMaximum 1"},
		{`{"type":"integer","minimum":0.2,"maximum":0.8}`, "#/minimum", "no integer can meet minimum 0.2 and maximum 0.8"},
		{`{"type":"integer","exclusiveMinimum":0,"exclusiveMaximum":1}`, "#/exclusiveMinimum", "no integer can meet exclusiveMinimum 0 and exclusiveMaximum 1"},
		{`{"multipleOf":5,"minimum":1,"maximum":4}`, "#/minimum", "no number can meet minimum 1, maximum 4 and multipleOf 5"},
		{`{"multipleOf":0.3,"exclusiveMinimum":-0.3,"exclusiveMaximum":0}`, "#/exclusiveMinimum", "exclusiveMinimum -0.3, exclusiveMaximum 0 and multipleOf 0.3"},
		{`{"allOf":[{"multipleOf":4},{"multipleOf":6}],"minimum":1,"maximum":11}`, "#/minimum", "no number can meet minimum 1, maximum 11, multipleOf 4 at #/allOf/0/multipleOf and multipleOf 6 at #/allOf/1/multipleOf"},
		{`{"type":"integer","multipleOf":1.5,"minimum":1,"maximum":2}`, "#/minimum", "no integer can meet minimum 1, maximum 2 and multipleOf 1.5"},
		{`{"minLength":2,"maxLength":1}`, "#/minLength", "no string can meet minLength 2 and maxLength 1"},
		{`{"minItems":2,"maxItems":1}`, "#/minItems", "no array can meet minItems 2 and maxItems 1"},
		{`{"minProperties":2,"maxProperties":1}`, "#/minProperties", "no object can meet minProperties 2 and maxProperties 1"},
		{`{"required":["a","b"],"maxProperties":1}`, "#/required", "no object can meet required of 2 names and maxProperties 1"},
		{`{"allOf":[{"required":["a","b"]},{"required":["b","c"]}],"maxProperties":2}`, "#/allOf/0/required", "required of 3 names and maxProperties 2 at #/maxProperties"},
		{`{"minItems":3,"uniqueItems":true,"items":{"enum":["a","b","\u0061"]}}`, "#/minItems", "no array can meet minItems 3, uniqueItems and enum of 2 values at #/items/enum"},
		{`{"minItems":3,"uniqueItems":true,"items":{"allOf":[{"enum":[1,10e-1,{"a":1,"b":2},{"b":2,"a":1}]}]}}`, "#/minItems", "enum of 2 values"},
		// Each place that a value cannot avoid.
		{`{"allOf":[{"minimum":5},{"maximum":3}]}`, "#/allOf/0/minimum", "minimum 5 and maximum 3 at #/allOf/1/maximum"},
		{`{` + d4 + `,"allOf":[{"minimum":0,"exclusiveMinimum":true},{"maximum":1,"exclusiveMaximum":true},{"multipleOf":1}]}`, "#/allOf/0/exclusiveMinimum", "multipleOf 1 at #/allOf/2/multipleOf"},
		{`{` + d6 + `,"allOf":[{"exclusiveMinimum":1},{"$ref":"#/definitions/a"}],"definitions":{"a":{"maximum":0}}}`, "#/allOf/0/exclusiveMinimum", "maximum 0 at #/definitions/a/maximum"},
		{`{"minimum":1,"$ref":"#/$defs/a","$defs":{"a":{"allOf":[{"maximum":5},{"exclusiveMaximum":1}]}}}`, "#/minimum", "exclusiveMaximum 1 at #/$defs/a/allOf/1/exclusiveMaximum"},
		{`{"$ref":"#/$defs/a","$defs":{"a":{"minLength":5,"maxLength":3}}}`, "#/$defs/a/minLength", "minLength 5"},
		{`{"$ref":"#a","$defs":{"x":{"$anchor":"a","minLength":5,"maxLength":3}}}`, "#/$defs/x/minLength", "minLength 5"},
		{`{"$dynamicRef":"#a","$defs":{"x":{"$dynamicAnchor":"a","minLength":5,"maxLength":3}}}`, "#/$defs/x/minLength", "minLength 5"},
		{`{"required":["a"],"properties":{"a":{"minimum":5,"maximum":3}}}`, "#/properties/a/minimum", "minimum 5"},
		{`{"required":["a/b","~"],"properties":{"a/b":{"required":["~"],"properties":{"~":{"minItems":5,"maxItems":3}}}}}`, "#/properties/a~1b/properties/~0/minItems", "minItems 5"},
		{`{"required":["a"],"allOf":[{"properties":{"a":{"minimum":5}}},{"properties":{"a":{"maximum":3}}}]}`, "#/allOf/0/properties/a/minimum", "maximum 3 at #/allOf/1/properties/a/maximum"},
		{`{"properties":{"a":{"minimum":5,"maximum":3}},"allOf":[{"required":["a"]}]}`, "#/properties/a/minimum", "minimum 5"},
		{`{"required":["ab"],"patternProperties":{"^a":{"minimum":5},"b$":{"maximum":3}}}`, "*", "maximum 3 at #/patternProperties/b$/maximum"},
		{`{"required":["a"],"additionalProperties":{"minimum":5,"maximum":3}}`, "#/additionalProperties/minimum", "minimum 5"},
		{`{"items":{"minimum":5,"maximum":3}}`, "#/items/minimum", "minimum 5"},
		{`{"items":{"items":{"minimum":5,"maximum":3}}}`, "#/items/items/minimum", "minimum 5"},
		{`{"prefixItems":[{},{"minimum":5,"maximum":3}]}`, "#/prefixItems/1/minimum", "minimum 5"},
		{`{` + d7 + `,"items":[{},{"minimum":5,"maximum":3}]}`, "#/items/1/minimum", "minimum 5"},
		{`{` + d7 + `,"items":[{}],"additionalItems":{"minimum":5,"maximum":3}}`, "#/additionalItems/minimum", "minimum 5"},
		{`{"items":{"minimum":5},"allOf":[{"prefixItems":[{"maximum":3}]}]}`, "#/items/minimum", "maximum 3 at #/allOf/0/prefixItems/0/maximum"},
		{`{"type":"object","required":["n"],"properties":{"n":{"$ref":"#"},"m":{}},"minProperties":3,"maxProperties":2}`, "#/minProperties", "minProperties 3"},
		{`{"$ref":"https://x/r#/$defs/a"}`, "https://x/r#/$defs/a/items/minLength", "no string can meet minLength 2 and maxLength 1 at https://x/r#/$defs/b/maxLength"},
		// A required name whose schema is false.
		{`{"required":["a"],"properties":{"a":false}}`, "#/properties/a", `no object is valid, because the name "a" is required by #/required and its schema is false`},
		{`{"items":{"allOf":[{"required":["b","a"]}],"properties":{"a":false,"b":true}}}`, "#/items/properties/a", `"a" is required by #/items/allOf/0/required`},
		{`{"required":["a"],"allOf":[{"properties":{"a":false}}]}`, "#/allOf/0/properties/a", `"a" is required by #/required`},
		{`{"required":["a"],"properties":{"a":{"$ref":"#/$defs/no"}},"$defs":{"no":false}}`, "#/properties/a", `"a" is required by #/required`},
		{`{"required":["ab"],"patternProperties":{"^a":false}}`, "#/patternProperties/^a", `"ab" is required by #/required`},
		{`{` + d6 + `,"required":["a"],"properties":{"a":false}}`, "#/properties/a", `"a" is required by #/required`},
	} {
		resources := map[string][]byte{"https://x/r": []byte(`{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{"a":{"items":{"$ref":"#/$defs/b","minLength":2}},"b":{"maxLength":1}}}`)}
		_, err := jsonschema.Compile([]byte(c.schema), jsonschema.Options{Resources: resources})
		if err == nil {
			t.Errorf("%s: accepted", c.schema)
			continue
		}
		if at := faults(t, err); len(at) != 1 || at[0] != c.at && c.at != "*" || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q and %q", c.schema, err, c.at, c.reason)
		}
	}
}

// TestNoContradictions has schemas that look contradictory and compile, because a value may avoid the place, or because
// some value of the type is valid.
func TestNoContradictions(t *testing.T) {
	const no = `{"minimum":5,"maximum":3}`
	for _, c := range []struct{ schema, valid, invalid string }{
		{`false`, ``, `1`}, {`{"not":{}}`, ``, `1`}, {`{"not":true}`, ``, `1`}, {`{"allOf":[false]}`, ``, `1`}, {`{"anyOf":[false]}`, ``, `1`}, {`{"oneOf":[false,false]}`, ``, `1`}, {`{"$ref":"#/$defs/a","$defs":{"a":false}}`, ``, `1`},
		{`{"required":["a"],"properties":{"a":{"allOf":[false]}}}`, ``, `{"a":1}`}, {`{"required":["a"],"properties":{"a":{"not":{}}}}`, ``, `{"a":1}`}, {`{"required":["a"],"additionalProperties":false}`, ``, `{"a":1}`},
		{`{"items":false}`, `[]`, `[1]`}, {`{"prefixItems":[false]}`, `[]`, `[1]`}, {`{"properties":{"a":false}}`, `{}`, `{"a":1}`}, {`{"required":["b"],"properties":{"a":false}}`, `{"b":1}`, `{"a":1,"b":1}`},
		{`{"contains":true,"minContains":2,"maxContains":1}`, `1`, `[1,2]`}, {`{"contains":` + no + `}`, `1`, `[1]`}, {`{"contains":true,"maxItems":0}`, `1`, `[]`},
		{`{"properties":{"a":` + no + `}}`, `{}`, `{"a":1}`}, {`{"patternProperties":{"a":` + no + `}}`, `{}`, `{"a":1}`}, {`{"additionalProperties":` + no + `}`, `{"a":"x"}`, `{"a":1}`}, {`{"required":["a"],"properties":{"a":{}},"additionalProperties":` + no + `}`, `{"a":1}`, `{"a":1,"b":1}`},
		{`{"anyOf":[` + no + `,{"minimum":9}]}`, `9`, `1`}, {`{"oneOf":[` + no + `,{"minimum":9}]}`, `9`, `1`}, {`{"not":` + no + `}`, `1`, `"a"`}, {`{"if":` + no + `,"then":` + no + `}`, `4`, ``}, {`{"if":{"minimum":7},"then":` + no + `}`, `4`, `8`},
		{`{"if":true,"else":` + no + `}`, `4`, ``}, {`{"minimum":2,"anyOf":[{"maximum":0},{"exclusiveMaximum":1}]}`, `"a"`, `2`}, {`{"propertyNames":{"minLength":2,"maxLength":1}}`, `{}`, `{"a":1}`}, {`{"dependentSchemas":{"a":{"minProperties":2,"maxProperties":1}}}`, `{}`, `{"a":1}`},
		{`{"$defs":{"a":` + no + `}}`, `4`, ``}, {`{"unevaluatedItems":` + no + `}`, `[]`, `[1]`}, {`{"required":["a"],"dependentRequired":{"a":["b","c"]},"maxProperties":2}`, `[]`, `{"a":1}`},
		// The type has no such values.
		{`{"type":"string","minimum":5,"maximum":3}`, `"a"`, `4`}, {`{"type":"null","required":["a"],"properties":{"a":false}}`, `null`, `{}`}, {`{"type":["object","number"],"allOf":[{"type":["object","string"]},` + no + `]}`, `{}`, `4`},
		// A narrow range is not an empty one.
		{`{"minimum":3,"maximum":3}`, `3.0`, `3.1`}, {`{"type":"number","minimum":0.2,"maximum":0.8}`, `0.5`, `1`}, {`{"type":["integer","number"],"minimum":0.2,"maximum":0.8}`, `0.5`, `1`}, {`{"type":"integer","minimum":0.2,"maximum":1}`, `1`, `0.5`}, {`{"exclusiveMinimum":0,"exclusiveMaximum":1e-399}`, `1e-400`, `0`},
		{`{"multipleOf":5,"minimum":1,"maximum":5}`, `5`, `4`}, {`{"multipleOf":5,"exclusiveMinimum":-5,"maximum":4}`, `0`, `-5`}, {`{"multipleOf":5,"minimum":1}`, `5`, `4`}, {`{"multipleOf":1e400,"minimum":1}`, `1e400`, `4`},
		{`{"allOf":[{"multipleOf":4},{"multipleOf":6}],"minimum":1,"maximum":12}`, `12`, `8`}, {`{"allOf":[{"multipleOf":0.4},{"multipleOf":0.6}],"minimum":1,"maximum":1.2}`, `1.2`, `1`},
		{`{"minLength":3,"maxLength":3}`, `"abc"`, `"ab"`}, {`{"minItems":0,"maxItems":0}`, `[]`, `[1]`}, {`{"required":["a","b"],"maxProperties":2}`, `{"a":1,"b":2}`, `{"a":1}`}, {`{"required":["a"],"allOf":[{"required":["a"]}],"maxProperties":1}`, `{"a":1}`, `{}`},
		{`{"minItems":2,"uniqueItems":true,"items":{"enum":["a","b"]}}`, `["a","b"]`, `["a","a"]`}, {`{"minItems":3,"items":{"enum":["a","b"]}}`, `["a","b","a"]`, `["a"]`}, {`{"minItems":3,"uniqueItems":true,"prefixItems":[{}],"items":{"enum":["a","b"]}}`, `[1,"a","b"]`, `["a"]`},
		// The way decides where the dynamic reference leads.
		{`{"$id":"https://x/s","$dynamicAnchor":"n","$ref":"https://x/t","minLength":2,"$defs":{"t":{"$id":"https://x/t","$dynamicRef":"#n","$defs":{"n":{"$dynamicAnchor":"n","maxLength":1}}}}}`, ``, ``},
	} {
		s, err := jsonschema.Compile([]byte(c.schema), jsonschema.Options{})
		if err != nil {
			t.Errorf("%s: %v", c.schema, err)
			continue
		}
		if c.valid != "" && s.Validate([]byte(c.valid)) != nil {
			t.Errorf("%s, %s: %v", c.schema, c.valid, s.Validate([]byte(c.valid)))
		}
		if c.invalid != "" && s.Validate([]byte(c.invalid)) == nil {
			t.Errorf("%s, %s: accepted", c.schema, c.invalid)
		}
	}
}

// An impossibility is the oracle of contradictions. It reads the source of a schema by itself, and tries the keywords of
// each family on a large pool of values with plain v5.
type impossibility struct {
	draft suiteDraft
	root  map[string]any
	near  []string
}

// in reports whether some place that a value cannot avoid has a family of bounds that no value of its type meets.
func (o impossibility) in(place []any, depth int) bool {
	all := o.joined(place)
	if depth == 0 {
		return false
	}
	for family, words := range map[string][]string{
		"number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}, "string": {"minLength", "maxLength"},
		"array": {"minItems", "maxItems"}, "object": {"minProperties", "maxProperties", "required"},
	} {
		if o.typed(all, family) && !o.meets(all, words, family) {
			return true
		}
	}
	if o.typed(all, "array") {
		for i := range 16 { // more than any prefix has
			if items := o.items(all, i); len(items) > 0 && o.in(items, depth-1) {
				return true
			}
		}
	}
	for _, name := range memberNames {
		if !o.typed(all, "object") || !slices.ContainsFunc(all, func(s map[string]any) bool { return contains(s["required"], name) }) {
			continue
		}
		var members []any
		for _, s := range all {
			properties, _ := s["properties"].(map[string]any)
			patterns, _ := s["patternProperties"].(map[string]any)
			declared := values(properties[name])
			if name == "a" { // the only pattern is ^a, and no other name begins with a
				declared = append(declared, values(patterns["^a"])...)
			}
			if slices.Contains(declared, any(false)) {
				return true
			}
			if members = append(members, declared...); len(declared) == 0 {
				members = append(members, values(s["additionalProperties"])...)
			}
		}
		if len(members) > 0 && o.in(members, depth-1) {
			return true
		}
	}
	return false
}

// items returns the schemas of the item of that index.
func (o impossibility) items(all []map[string]any, i int) (items []any) {
	for _, s := range all {
		prefix, tuple := s["items"].([]any)
		rest := "additionalItems"
		if !tuple {
			prefix, _ = s["prefixItems"].([]any)
			rest = "items"
		}
		if i < len(prefix) {
			items = append(items, prefix[i])
		} else {
			items = append(items, values(s[rest])...)
		}
	}
	return items
}

func values(v any) []any {
	if v == nil {
		return nil
	}
	return []any{v}
}

func contains(list any, v string) bool {
	l, _ := list.([]any)
	return slices.Contains(l, any(v))
}

// joined returns the objects of a place and what their allOf and $ref lead to.
func (o impossibility) joined(place []any) (all []map[string]any) {
	for _, v := range place {
		s, ok := v.(map[string]any)
		if !ok {
			continue
		}
		if ref, ok := s["$ref"].(string); ok {
			defs := o.root["definitions"].(map[string]any)
			all = append(all, o.joined([]any{defs[strings.TrimPrefix(ref, "#/definitions/")]})...)
			if !o.draft.since("draft2019-09") {
				continue // the keywords beside it say nothing
			}
		}
		if list, ok := s["allOf"].([]any); ok {
			all = append(all, o.joined(list)...)
		}
		all = append(all, s)
	}
	return all
}

// typed reports whether all types that are named allow the type of a family.
func (o impossibility) typed(all []map[string]any, family string) bool {
	for _, s := range all {
		types := values(s["type"])
		if list, ok := s["type"].([]any); ok {
			types = list
		}
		if len(types) > 0 && !slices.Contains(types, any(family)) && !(family == "number" && slices.Contains(types, any("integer"))) {
			return false
		}
	}
	return true
}

// meets reports whether some value of the pool meets the given words and the types.
func (o impossibility) meets(all []map[string]any, words []string, family string) bool {
	var parts []any
	for _, s := range all {
		part := map[string]any{}
		for _, w := range append(words, "type") {
			if v, ok := s[w]; ok {
				part[w] = v
			}
		}
		if len(part) > 0 {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return true
	}
	src, err := json.Marshal(map[string]any{"allOf": parts})
	if err != nil {
		panic(err)
	}
	valid := plainV5(src, nil, o.draft.v5, true)
	return slices.ContainsFunc(o.pool(all, family), func(msg string) bool {
		ok, _ := valid([]byte(msg))
		return ok
	})
}

// pool returns values of a type. Between two numbers of the schemas there is always one of the pool, if there is any that
// is as divisible as the schemas want.
func (o impossibility) pool(all []map[string]any, family string) (pool []string) {
	switch family {
	case "string":
		for n := range 5 {
			pool = append(pool, `"`+strings.Repeat("a", n)+`"`)
		}
	case "array":
		for n := range 5 {
			pool = append(pool, "["+list(n, func(i int) string { return "0" })+"]")
		}
	case "object":
		for set := range 1 << len(memberNames) {
			var members []string
			for i, name := range memberNames {
				if set>>i&1 != 0 {
					members = append(members, fmt.Sprintf("%q:0", name))
				}
			}
			pool = append(pool, "{"+strings.Join(members, ",")+"}")
		}
	case "number":
		var at []*big.Rat
		for _, text := range o.near {
			r, _ := new(big.Rat).SetString(text)
			at = append(at, r)
		}
		slices.SortFunc(at, func(a, b *big.Rat) int { return a.Cmp(b) })
		add := func(r *big.Rat) {
			digits, _ := r.FloatPrec()
			pool = append(pool, r.FloatString(digits))
		}
		// All numbers here are multiples of 1e-410.
		unit := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(410), nil))
		step := big.NewInt(1)
		multiple := func(size *big.Rat) {
			m := new(big.Rat).Mul(size, unit).Num()
			step = new(big.Int).Quo(new(big.Int).Mul(step, m), new(big.Int).GCD(nil, nil, step, m))
		}
		for _, s := range all {
			if n, ok := s["multipleOf"].(json.Number); ok {
				size, _ := new(big.Rat).SetString(string(n))
				multiple(size)
			}
			if l, _ := s["type"].([]any); s["type"] == any("integer") || slices.Contains(l, any("integer")) && !slices.Contains(l, any("number")) {
				multiple(big.NewRat(1, 1))
			}
		}
		for i, r := range at {
			add(r)
			if i > 0 {
				mid := new(big.Rat).Add(at[i-1], r)
				add(mid.Mul(mid, big.NewRat(1, 2)))
			}
			k := new(big.Int).Div(new(big.Rat).Mul(r, unit).Num(), step)
			for next := int64(-1); next <= 2; next++ {
				n := new(big.Int).Mul(new(big.Int).Add(k, big.NewInt(next)), step)
				add(new(big.Rat).SetFrac(n, unit.Num()))
			}
		}
	}
	return pool
}

// contradictory reports whether the oracle finds a contradiction in a schema.
func contradictory(t testing.TB, d suiteDraft, src string, near []string) bool {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(src))
	dec.UseNumber()
	var root map[string]any
	if err := dec.Decode(&root); err != nil {
		t.Fatal(err)
	}
	return impossibility{d, root, near}.in([]any{root}, 8)
}

// contradicted reports whether every fault of an error is a contradiction.
func contradicted(err error) bool {
	joined, _ := err.(interface{ Unwrap() []error })
	if joined == nil {
		return false
	}
	for _, e := range joined.Unwrap() {
		var f *jsonschema.SchemaFault
		if !errors.As(e, &f) || !strings.Contains(f.Reason, " can meet ") && !strings.Contains(f.Reason, "no object is valid") {
			return false
		}
	}
	return true
}

// TestManyPlaces has schemas of which joined schema objects make millions of places. Compile looks at a part of them.
func TestManyPlaces(t *testing.T) {
	const n = 40
	defs := list(n, func(i int) string {
		next := func(j int) string { return fmt.Sprintf(`{"$ref":"#/$defs/%d"}`, min(j, n-1)) }
		both := next(i + 1)
		if i == 0 {
			both = `{"allOf":[` + next(0) + "," + next(1) + `]}`
		}
		return fmt.Sprintf(`"%d":{"required":["x","y"],"properties":{"x":%s,"y":%s}}`, i, next(i+min(i, 1)), both)
	})
	src := `{"$ref":"#/$defs/0","$defs":{` + defs + `}}`
	if _, err := jsonschema.Compile([]byte(src), jsonschema.Options{}); err != nil {
		t.Error(err)
	}
	deep := strings.Repeat(`{"required":["x"],"properties":{"x":`, 100) + `{"minimum":5,"maximum":3}` + strings.Repeat(`}}`, 100)
	if _, err := jsonschema.Compile([]byte(deep), jsonschema.Options{}); err == nil || !contradicted(err) {
		t.Errorf("a deep contradiction: %v", err)
	}
}

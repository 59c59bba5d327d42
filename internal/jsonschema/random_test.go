package jsonschema_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
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
		switch g.IntN(6) {
		case 0:
			return g.pick(neighbours[0]...)
		case 1:
			return g.pick(g.formatted(g.pick(sortedFormats...)), g.repeated("ab1_-é"))
		}
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
		func() string { return g.counts("Properties") },
		func() string { return fmt.Sprintf(`"dependentRequired":{%s:%s}`, g.name(), names()) },
		func() string { return fmt.Sprintf(`"dependentSchemas":{%s:%s}`, g.name(), sub()) },
		func() string { return `"items":` + sub() }, func() string { return `"prefixItems":` + subs() },
		func() string { return g.counts("Items") }, func() string { return `"uniqueItems":true` },
		func() string { return `"contains":` + sub() }, func() string {
			return `"contains":` + sub() + "," + g.counts("Contains")
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
		func() string { return strings.Join(g.bounds(neighbours[0], false), ",") }, func() string { return `"multipleOf":0.5` },
		func() string { return g.counts("Length") }, func() string { return `"pattern":` + g.pick(samePatterns...) },
		func() string { return `"format":"` + g.pick(sortedFormats...) + `"` },
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

// neighbours are groups of numbers so close to each other that ranges between them are narrow, empty or crossed.
var neighbours = [][]string{
	{`-2`, `-1.5`, `-1`, `-0.5`, `-1e-400`, `-0`, `0`, `0.0`, `-0e9`, `1e-400`, `0.5`, `1`, `1.0`, `10e-1`, `1.5`, `2`, `20e-1`},
	{`99`, `99.999999`, `99.9999999`, `100`, `1e2`, `1000e-1`, `100.0000001`, `101`, `-99`, `-100`, `-1E+2`, `-100.5`, `-101`},
	{`4398046511102`, `4398046511103`, `4398046511103.5`, `4398046511104`, `4.398046511104e12`, `4398046511105`, `-4398046511103`, `-4398046511104`},
	{`999999999999999998`, `999999999999999999`, `999999999999999999.5`, `1000000000000000000`, `1e18`, `1000000000000000001`, `18446744073709551616`},
	{`9.99e399`, `1e400`, `10e399`, `1.0000000000000000001e400`, `-1e400`, `0`, `-9.99e399`},
	{`1e-400`, `1.5e-400`, `2e-400`, `0.00000000000000000001`, `0`, `-1e-400`, `-2e-400`},
}

// bounds returns bounds of numbers, which may be crossed. Each element is what must stand in one schema object.
func (g generator) bounds(near []string, draft4 bool) (units []string) {
	for len(units) == 0 {
		for _, side := range []string{"inimum", "aximum"} {
			if g.IntN(5) == 0 {
				continue
			}
			plain := `"m` + side + `":` + g.pick(near...)
			exclusive := `"exclusiveM` + side + `":`
			if draft4 {
				units = append(units, plain+g.pick("", ","+exclusive+"true", ","+exclusive+"true", ","+exclusive+"false"))
				continue
			}
			k := g.IntN(5)
			if k != 0 {
				units = append(units, exclusive+g.pick(near...))
			}
			if k < 3 {
				units = append(units, plain)
			}
		}
	}
	return units
}

// counts returns one or both bounds of a family that counts: Length, Items, Properties or Contains.
func (g generator) counts(family string) string {
	return strings.Join(g.countUnits(family), ",")
}

// countUnits returns what counts returns, each bound by itself.
func (g generator) countUnits(family string) (units []string) {
	k := g.IntN(6)
	if k != 0 {
		units = append(units, `"min`+family+`":`+g.pick("0", "1", "2", "3", "2.0", "1e0"))
	}
	if k != 1 {
		units = append(units, `"max`+family+`":`+g.pick("0", "1", "2", "3", "2.0", "10e-1"))
	}
	return units
}

// A ranged makes schemas whose keywords are nearly all bounds.
type ranged struct {
	generator
	draft suiteDraft
	near  []string // the numbers that schemas and messages are made of
	defs  []string // the schemas that references lead to
}

// since reports whether the draft is this one or a later one.
func (d suiteDraft) since(draft string) bool {
	at := func(name string) int {
		return slices.IndexFunc(suiteDrafts, func(d suiteDraft) bool { return d.name == name })
	}
	return at(d.name) >= at(draft)
}

// units returns the bounds of one family.
func (g *ranged) units() []string {
	draft4 := !g.draft.since("draft6")
	switch k := g.IntN(14); {
	case k == 10:
		return []string{`"pattern":` + g.pick(samePatterns...)}
	case k == 11:
		return []string{`"format":"` + g.pick(sortedFormats...) + `"`}
	case k > 11: // a pair
		return []string{`"pattern":` + g.pick(samePatterns...), g.pick(g.countUnits("Length")...), `"format":"` + g.pick(sortedFormats...) + `"`}
	case k < 6:
		units := g.bounds(g.near, draft4)
		if g.IntN(4) == 0 {
			units = append(units, `"multipleOf":`+g.pick("0.5", "1", "2", "3", "0.1", "1e-400", "1e3"))
		}
		return units
	case k == 6:
		return g.countUnits("Length")
	case k == 7:
		return g.countUnits("Items")
	case k == 8 || draft4:
		return g.countUnits("Properties")
	case !g.draft.since("draft2019-09"):
		return []string{`"contains":` + g.schema(0), `"maxItems":1`}
	}
	// minContains and maxContains say nothing without contains, so the three stay together.
	return []string{`"contains":` + g.schema(0) + "," + g.counts("Contains")}
}

// schema returns a schema object with bounds. Up to that depth, some of them stand in subschemas.
func (g *ranged) schema(depth int) string {
	var here, there []string
	for range 1 + g.IntN(2) {
		for _, unit := range g.units() {
			word, _, _ := strings.Cut(unit, ":")
			if depth > 0 && g.IntN(2) == 0 || slices.ContainsFunc(here, func(u string) bool { return strings.Contains(u, word+":") }) {
				there = append(there, unit)
			} else {
				here = append(here, unit)
			}
		}
	}
	if k := g.IntN(8); k < 4 {
		here = append(here, `"type":`+g.pick(`"integer"`, `"integer"`, `"number"`, `"string"`, `["integer","string"]`, `["number","array","object"]`))
	}
	if depth > 0 {
		here = append(here, g.beside(there, depth))
	}
	return "{" + strings.Join(here, ",") + "}"
}

// beside returns a keyword with subschemas. Each of the units gets a subschema of its own, and there may be further ones.
func (g *ranged) beside(units []string, depth int) string {
	var list []string
	for _, u := range units {
		list = append(list, "{"+u+"}")
	}
	for len(list) == 0 || g.IntN(3) == 0 {
		list = append(list, g.schema(depth-1))
	}
	for i := range list {
		switch g.IntN(5) {
		case 0:
			g.defs = append(g.defs, list[i])
			list[i] = fmt.Sprintf(`{"$ref":"#/definitions/%d"}`, len(g.defs)-1)
		case 1:
			list[i] = `{"allOf":[` + list[i] + `]}`
		}
	}
	g.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	all := strings.Join(list, ",")
	words := []string{`"allOf":[` + all + `]`, `"allOf":[` + all + `]`, `"allOf":[` + all + `]`,
		`"anyOf":[{"allOf":[` + all + `]},` + g.schema(depth-1) + `]`, `"anyOf":[` + all + `]`, `"anyOf":[{"allOf":[` + all + `]}]`, `"oneOf":[` + all + `]`,
		`"not":{"allOf":[` + all + `]}`, `"items":{"allOf":[` + all + `]}`, `"properties":{"a":{"allOf":[` + all + `]}}`, `"dependencies":{"a":{"allOf":[` + all + `]}}`}
	if prefix := `[` + all + `]`; g.draft.since("draft2020-12") {
		words = append(words, `"prefixItems":`+prefix, `"prefixItems":`+prefix+`,"items":`+g.schema(depth-1), `"items":`+list[0]+`,"allOf":[{"prefixItems":`+prefix+`}]`)
	} else {
		words = append(words, `"items":`+prefix, `"items":`+prefix+`,"additionalItems":`+g.schema(depth-1), `"items":`+list[0]+`,"allOf":[{"items":`+prefix+`}]`)
	}
	for _, name := range []string{"a", "b"} { // of a required name
		words = append(words, fmt.Sprintf(`"properties":{"a":{"allOf":[%s]}},"required":[%q]`, all, name),
			fmt.Sprintf(`"properties":{"a":%s},"allOf":[{"required":[%q]},{"patternProperties":{"^a":%s}}]`, list[0], name, list[len(list)-1]),
			fmt.Sprintf(`"additionalProperties":{"allOf":[%s]},"properties":{"b":{}},"required":[%q]`, all, name))
		if g.draft.since("draft6") {
			words = append(words, fmt.Sprintf(`"properties":{"a":%s},"required":["c",%q]`, g.pick(`false`, `{"allOf":[false]}`, `true`), name))
		}
	}
	if g.draft.since("draft7") {
		words = append(words, `"if":`+list[0]+`,"then":{"allOf":[`+all+`]}`)
	}
	if g.draft.since("draft2019-09") && strings.HasPrefix(list[0], `{"$ref"`) {
		words = append(words, list[0][1:len(list[0])-1])
	}
	return g.pick(words...)
}

func (g *ranged) message(depth int) string {
	text := func() string {
		return `"` + strings.Repeat(g.pick(`a`, `é`, `\u0061`, `\ud83d\ude00`), g.IntN(4)) + `"`
	}
	switch k := g.IntN(10); {
	case depth == 0 || k < 6:
		return g.pick(g.pick(g.near...), g.pick(g.near...), g.pick(g.near...), g.pick(scalars...), text(), g.formatted(g.pick(sortedFormats...)), g.repeated("ab1_-é"))
	case k < 8:
		return g.list(0, 4, func() string { return g.message(0) })
	}
	return g.object(4, memberNames, func() string { return g.message(0) })
}

// TestRandomBounds compares the engine with the evaluator and with v5 on narrow, empty and crossed ranges, in all five
// drafts. It also compares what Compile refuses with an oracle that tries many values.
func TestRandomBounds(t *testing.T) {
	rounds := 600
	if raceEnabled || testing.Short() {
		rounds = 100
	}
	for i, d := range suiteDrafts {
		judged, accepted, refused := 0, 0, 0
		for round := range rounds {
			g := &ranged{generator: generator{rand.New(rand.NewPCG(uint64(i), uint64(round)))}, draft: d, near: neighbours[round%len(neighbours)]}
			src := g.schema(round % 3)
			if len(g.defs) > 0 {
				var defs []string
				for i, def := range g.defs {
					defs = append(defs, fmt.Sprintf(`"%d":%s`, i, def))
				}
				src = fmt.Sprintf(`%s,"definitions":{%s}}`, strings.TrimSuffix(src, "}"), strings.Join(defs, ","))
			}
			s, err := jsonschema.Compile([]byte(src), jsonschema.Options{DefaultDialect: d.url})
			plain := plainV5([]byte(src), nil, d.v5, true)
			if plain == nil {
				t.Fatalf("%s: %s: v5 does not compile it", d.name, src)
			}
			if err == nil == contradictory(t, d, src, g.near) || err != nil && !contradicted(err) {
				t.Fatalf("%s: %s: %v, and the oracle finds a contradiction: %t", d.name, src, err, err == nil)
			}
			if err != nil {
				// Behind a choice it compiles, and is judged.
				refused++
				src = chosen(src)
				if s, err = jsonschema.Compile([]byte(src), jsonschema.Options{DefaultDialect: d.url}); err != nil {
					t.Fatalf("%s: %s: %v", d.name, src, err)
				}
				plain = plainV5([]byte(src), nil, d.v5, true)
			}
			for range 20 {
				// The engine has a fast path for numbers that are not at the end of the message.
				msg := []byte(g.message(1) + g.pick("", strings.Repeat(" ", 17)))
				err := s.Validate(msg)
				agrees(t, s, msg)
				if !alike(s, msg) {
					t.Fatalf("%s: %s, %s: the evaluator says %v, the engine %v", d.name, src, msg, s.Tree(msg), err)
				}
				if ok, known := plain(msg); known && ok != (err == nil) {
					t.Fatalf("%s: %s, %s: v5 accepts: %t, the engine says %v", d.name, src, msg, ok, err)
				}
				if judged++; err == nil {
					accepted++
				}
			}
		}
		t.Logf("%s: %d judgements, %d accepted; %d schemas refused", d.name, judged, accepted, refused)
	}
}

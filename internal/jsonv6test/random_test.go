package jsonv6test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	v6 "github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

type draft struct {
	url string
	v6  *v6.Draft
}

var drafts = []draft{
	{"http://json-schema.org/draft-04/schema#", v6.Draft4},
	{"http://json-schema.org/draft-06/schema#", v6.Draft6},
	{"http://json-schema.org/draft-07/schema#", v6.Draft7},
	{"https://json-schema.org/draft/2019-09/schema", v6.Draft2019},
	{"https://json-schema.org/draft/2020-12/schema", v6.Draft2020},
}

// oracle compiles a schema with v6.
func oracle(t *testing.T, d draft, src string) func(msg string) bool {
	t.Helper()
	doc, err := v6.UnmarshalJSON(strings.NewReader(src))
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	c := v6.NewCompiler()
	c.DefaultDraft(d.v6)
	c.AssertFormat()
	c.UseLoader(v6.SchemeURLLoader{}) // nothing is loaded
	if err := c.AddResource("test:///root", doc); err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	s, err := c.Compile("test:///root")
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return func(msg string) bool {
		v, err := v6.UnmarshalJSON(strings.NewReader(msg))
		if err != nil {
			t.Fatalf("%s: %v", msg, err)
		}
		return s.Validate(v) == nil
	}
}

// A format has texts and the characters that are put into them.
type format struct {
	texts []string
	chars string
}

// agreed are the formats on which v6 and the engine agree. The others are left out for these reasons:
//   - duration: v6 accepts P1Y2D, and RFC 3339 wants months between years and days.
//   - email: v6 accepts a dot at the end, and no backslash between quotes.
//   - hostname: v6 accepts a dot at the end, and any label that begins with xn--.
//   - uri, uri-reference, iri, iri-reference: v6 accepts all that url.Parse does.
//   - uri-template: v6 accepts anything between braces.
//   - relative-json-pointer: v6 does not have the adjustment of an index, such as 0+1.
//   - regex: v6 asks RE2, and ECMA-262 has other expressions.
//   - idn-email, idn-hostname, uriref, ip-address: v6 does not have them.
//   - period: it is made of the formats above.
var agreed = map[string]format{
	"date":         {[]string{"2024-02-29", "2023-02-28", "1999-12-31", "0000-01-01"}, "0123456789-T"},
	"time":         {[]string{"12:30:00Z", "23:59:60Z", "01:29:60+01:30", "00:00:00.25-23:59"}, "0123456789:.Zz"},
	"date-time":    {[]string{"2024-02-29T12:30:00Z", "1998-12-31t23:59:60.5z", "2000-01-01T00:00:00+05:30"}, "0123456789:.TZ"},
	"ipv4":         {[]string{"192.168.0.1", "0.0.0.0", "255.255.255.255"}, "0123456789."},
	"ipv6":         {[]string{"::1", "2001:db8::ff00:42:8329", "::ffff:192.0.2.1", "1:2:3:4:5:6:7:8"}, "0123456789abf:."},
	"uuid":         {[]string{"3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60", "00000000-0000-0000-0000-000000000000"}, "0123456789abcdefABG-"},
	"json-pointer": {[]string{"", "/a/0", "/a~1b/~0", "//"}, "/~01ab "},
}

// patterns mean the same in RE2 and in ECMA-262, as far as the texts of messages go.
var patterns = []string{`"^a"`, `"b$"`, `"^(a|b)+$"`, `"^[a-z0-9]{2,4}$"`, `"\\d"`, `"^\\w+$"`, `"[^a-c]"`, `"^.{1,3}$"`, `"^(?:ab|a)*$"`, `"(a|ab)(1|b1a)(a*)"`, `"^é+$"`, `"^$"`, `"^[^é]*$"`, `"a.?b|_"`}

// numbers are so close to each other that ranges between them are narrow, empty or crossed.
var numbers = []string{`-2`, `-1.5`, `-1`, `-0.5`, `-0`, `0.0`, `0.25`, `0.5`, `1`, `1.0`, `10e-1`, `1.5`, `2`, `20e-1`, `3`, `1e2`, `99.999999`, `9007199254740993`, `9007199254740992.5`}

type generator struct {
	*rand.Rand
	draft4 bool
}

func (g *generator) pick(of ...string) string { return of[g.IntN(len(of))] }

func (g *generator) names() string {
	return g.pick(`"a"`, `"b"`, `"a","b"`, `"b","c"`, `"a","b","c"`)
}

// bounds returns keywords that belong together, each for itself.
func (g *generator) bounds() []string {
	exclusive := func(side string) string {
		if g.draft4 {
			return g.pick(``, `,"exclusive`+side+`imum":true`)
		}
		return g.pick(``, `,"exclusive`+side+`imum":`+g.pick(numbers...))
	}
	count := func(of string) []string {
		return []string{`"min` + of + `":` + g.pick("0", "1", "2", "3"), `"max` + of + `":` + g.pick("0", "1", "2", "3", "2.0")}
	}
	switch g.IntN(8) {
	case 0, 1, 2:
		return []string{`"minimum":` + g.pick(numbers...) + exclusive("Min"), `"maximum":` + g.pick(numbers...) + exclusive("Max"), `"multipleOf":` + g.pick("0.5", "1", "2", "0.1", "1e-9")}[g.IntN(2):]
	case 3:
		return append(count("Length"), `"pattern":`+g.pick(patterns...))
	case 4:
		return append(count("Items"), `"uniqueItems":true`)
	case 5:
		return append(count("Properties"), `"required":[`+g.names()+`]`)
	case 6:
		return append(count("Length")[g.IntN(2):], `"format":"`+g.format()+`"`)
	}
	return []string{`"pattern":` + g.pick(patterns...), `"format":"` + g.format() + `"`}
}

func (g *generator) format() string {
	names := make([]string, 0, len(agreed))
	for name := range agreed {
		names = append(names, name)
	}
	slices.Sort(names)
	return g.pick(names...)
}

// schema returns a schema with bounds, some of them in subschemas.
func (g *generator) schema(depth int) string {
	var here, there []string
	said := map[string]bool{}
	for range 1 + g.IntN(2) {
		for _, unit := range g.bounds() {
			word, _, _ := strings.Cut(unit, ":")
			if said[word] || depth > 0 && g.IntN(2) == 0 {
				there = append(there, "{"+unit+"}")
			} else {
				said[word], here = true, append(here, unit)
			}
		}
	}
	if g.IntN(2) == 0 {
		here = append(here, `"type":`+g.pick(`"integer"`, `"number"`, `"string"`, `["integer","string"]`, `["number","array","object"]`))
	}
	if depth > 0 {
		for len(there) == 0 || g.IntN(3) == 0 {
			there = append(there, g.schema(depth-1))
		}
		all := strings.Join(there, ",")
		here = append(here, g.pick(`"allOf":[`+all+`]`, `"allOf":[`+all+`]`, `"anyOf":[`+all+`]`, `"oneOf":[`+all+`]`, `"not":{"allOf":[`+all+`]}`, `"items":{"allOf":[`+all+`]}`,
			`"properties":{"a":{"allOf":[`+all+`]}}`, `"additionalProperties":{"anyOf":[`+all+`]}`, `"patternProperties":{"^[ab]":{"allOf":[`+all+`]}}`, `"dependencies":{"a":{"allOf":[`+all+`]}}`))
	}
	return "{" + strings.Join(here, ",") + "}"
}

// text returns a text of a format, one that nearly is, or one for patterns.
func (g *generator) text() string {
	if g.IntN(2) == 0 {
		chars := []rune("ab1_-é")
		var text []rune
		for range g.IntN(6) {
			text = append(text, chars[g.IntN(len(chars))])
		}
		return `"` + string(text) + `"`
	}
	return g.formatted(g.format())
}

// formatted returns a text of a format, or one that nearly is.
func (g *generator) formatted(name string) string {
	f := agreed[name]
	text := []byte(g.pick(f.texts...))
	for range g.IntN(3) {
		at, c := g.IntN(len(text)+1), f.chars[g.IntN(len(f.chars))]
		switch k := g.IntN(3); {
		case k == 0 || at == len(text):
			text = slices.Insert(text, at, c)
		case k == 1:
			text[at] = c
		default:
			text = slices.Delete(text, at, at+1)
		}
	}
	return `"` + string(text) + `"`
}

func (g *generator) message(depth int) string {
	switch k := g.IntN(10); {
	case depth == 0 || k < 6:
		return g.pick(g.pick(numbers...), g.text(), g.text(), "null", "true", "[]", "{}")
	case k < 8:
		var items []string
		for range g.IntN(5) {
			items = append(items, g.message(depth-1))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	var members []string
	for _, name := range []string{"a", "b", "c", "é"} {
		if g.IntN(2) == 0 {
			members = append(members, fmt.Sprintf("%q:%s", name, g.message(depth-1)))
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// contradicted reports whether an error of Compile is about bounds that no value can meet, and nothing else.
func contradicted(err error) bool {
	joined, ok := err.(interface{ Unwrap() []error })
	return ok && !slices.ContainsFunc(joined.Unwrap(), func(err error) bool {
		var f *jsonschema.SchemaFault
		return !errors.As(err, &f) || !strings.Contains(f.Reason, " can meet ")
	})
}

// TestRandomSchemas compares the engine with v6 on schemas with pairs of bounds, patterns and formats, in all five drafts.
func TestRandomSchemas(t *testing.T) {
	rounds := 2000
	if testing.Short() {
		rounds = 200
	}
	for i, d := range drafts {
		judged, accepted, refused := 0, 0, 0
		for round := range rounds {
			g := &generator{rand.New(rand.NewPCG(uint64(i), uint64(round))), i == 0}
			src := g.schema(round % 3)
			s, err := jsonschema.Compile([]byte(src), jsonschema.Options{DefaultDialect: d.url})
			if err != nil {
				if !contradicted(err) {
					t.Fatalf("%s: %s: %v", d.url, src, err)
				}
				refused++
				src = `{"anyOf":[` + src + `]}` // where contradictions compile
				if s, err = jsonschema.Compile([]byte(src), jsonschema.Options{DefaultDialect: d.url}); err != nil {
					t.Fatalf("%s: %s: %v", d.url, src, err)
				}
			}
			valid := oracle(t, d, src)
			for range 20 {
				msg := g.message(2)
				err := s.Validate([]byte(msg))
				if ok := valid(msg); ok != (err == nil) {
					t.Fatalf("%s: %s, %s: v6 accepts: %t, the engine says %v", d.url, src, msg, ok, err)
				}
				if judged++; err == nil {
					accepted++
				}
			}
		}
		t.Logf("%s: %d judgements, %d accepted; %d schemas with contradictions", d.url, judged, accepted, refused)
	}
}

// TestRandomFormats compares each format with v6 on texts that have it, or nearly.
func TestRandomFormats(t *testing.T) {
	g := &generator{Rand: rand.New(rand.NewPCG(1, 2))}
	for name := range agreed {
		src := `{"format":"` + name + `"}`
		s, err := jsonschema.Compile([]byte(src), jsonschema.Options{})
		if err != nil {
			t.Fatal(err)
		}
		valid := oracle(t, drafts[4], src)
		for range 5000 {
			msg := g.formatted(name)
			if ok, err := valid(msg), s.Validate([]byte(msg)); ok != (err == nil) {
				t.Fatalf("%s, %s: v6 accepts: %t, the engine says %v", src, msg, ok, err)
			}
		}
	}
}

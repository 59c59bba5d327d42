package jsonschema_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// full is the default message size of the guard.
const full = 32 << 10

func compile(t testing.TB, src string) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.Compile([]byte(src), jsonschema.Options{AssertContent: true})
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return s
}

// fill repeats piece, with every # replaced by a counter, up to the size of a full message.
func fill(before, piece, sep, after string) string {
	var b strings.Builder
	b.WriteString(before)
	for i := 0; ; i++ {
		p := strings.ReplaceAll(piece, "#", fmt.Sprint(i))
		if b.Len()+len(p)+len(sep)+len(after) > full {
			break
		}
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(p)
	}
	b.WriteString(after)
	return b.String()
}

func list(n int, f func(i int) string) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = f(i)
	}
	return strings.Join(parts, ",")
}

func nest(before, leaf, after string, depth int) string {
	return strings.Repeat(before, depth) + leaf + strings.Repeat(after, depth)
}

type hostileCase struct {
	name, schema, msg string
	want              string // token, or "" for accepted
}

func hostileCases() []hostileCase {
	anyOf := `{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}],"$defs":{
		"a":{"type":"object","properties":{"x":{"$ref":"#"}},"required":["x"]},
		"b":{"type":"object","properties":{"x":{"$ref":"#"}},"required":["x"]}}}`
	// Here a verdict depends on the way that led to a node, so none is remembered.
	dynamic := `{"$id":"https://x/root","$ref":"https://x/node","$defs":{"node":{"$id":"https://x/node","$dynamicAnchor":"n","anyOf":[` + list(2, func(i int) string {
		return `{"type":"object","properties":{"x":{"$dynamicRef":"#n"}},"required":["x"]}`
	}) + `]}}}`
	tree := `{"oneOf":[{"type":"number"},` + list(6, func(i int) string {
		return fmt.Sprintf(`{"type":"object","required":["op","l","r"],"properties":{"op":{"const":"op%d"},"l":{"$ref":"#"},"r":{"$ref":"#"}}}`, i)
	}) + `]}`
	oneBad := func(n int) string { return nest(`{"l":`, `"x"`, `,"r":1,"op":"op5"}`, n) }
	huge := "9" + strings.Repeat("0", 50) + "e400"
	return []hostileCase{
		{"1e1000001", `{"type":"integer","minimum":0}`, `1e1000001`, "exponent"},
		{"1e999999 many", `{"items":{"multipleOf":3}}`, fill("[", "1e999999", ",", "]"), "exponent"},
		{"a million digits", `{"minimum":0}`, strings.Repeat("9", 1e6), "number_bytes"},
		{"1e400 many", `{"uniqueItems":true,"items":{"type":"integer","multipleOf":7,"minimum":-5,"maximum":1e400}}`, fill("[", "1e400", ",", "]"), "schema"},
		{"1e-400 many", `{"items":{"multipleOf":1e-400,"exclusiveMinimum":0,"enum":[1e-400,1]}}`, fill("[", "1e-400", ",", "]"), ""},
		{"long numbers", `{"items":{"multipleOf":123456789012345678901234567890}}`, fill("[", huge, ",", "]"), "schema"},
		{"anyOf depth 18", anyOf, nest(`{"x":`, `1`, `}`, 18), "schema"},
		{"anyOf depth 64", anyOf, nest(`{"x":`, `1`, `}`, 64), "schema"},
		{"dynamic anyOf, depth 10", dynamic, nest(`{"x":`, `1`, `}`, 10), "schema"},
		{"dynamic anyOf, depth 64", dynamic, nest(`{"x":`, `1`, `}`, 64), "fuel"},
		{"bad leaf at depth 64", `{"type":"object","properties":{"a":{"$ref":"#"}}}`, nest(`{"a":`, `1`, `}`, 64), "schema"},
		{"depth 65", `{"type":"object","properties":{"a":{"$ref":"#"}}}`, nest(`{"a":`, `1`, `}`, 65), "depth"},
		{"oneOf tree, bad leaf", tree, oneBad(60), "schema"},
		{"oneOf tree, operator last", tree, strings.Replace(oneBad(60), `"x"`, `1`, 1), ""},
		{"oneOf tree, operator last, large leaf", tree, strings.Replace(oneBad(60), `"x"`, fill("[", "1", ",", "]")[:full-1500]+`1]`, 1), "schema"},
		{"oneOf tree, operator missing, large leaf", tree, strings.ReplaceAll(strings.Replace(oneBad(60), `"x"`, fill("[", "[]", ",", "]")[:full-1501]+`1]`, 1), `"op"`, `"po"`), "schema"},
		{"uniqueItems numbers", `{"uniqueItems":true}`, fill("[", "#", ",", "]"), ""},
		{"uniqueItems ones", `{"uniqueItems":true}`, fill("[", "1", ",", "]"), "schema"},
		{"uniqueItems objects", `{"uniqueItems":true}`, fill("[", `{"a":#}`, ",", "]"), ""},
		{"uniqueItems nested", `{"uniqueItems":true,"items":{"$ref":"#"}}`, nest("[", fill("", "1#", ",", "")[:full-200]+"5", "]", 60), ""},
		{"large enum", `{"items":{"enum":[` + list(10000, func(i int) string { return fmt.Sprint(i * 2) }) + `]}}`, fill("[", "2#0", ",", "]"), "schema"},
		{"large enum of objects", `{"items":{"enum":[` + list(5000, func(i int) string { return fmt.Sprintf(`{"a":%d}`, i) }) + `]}}`, fill("[", `{"a":#}`, ",", "]"), ""},
		{"anyOf of 3,000", `{"anyOf":[` + list(3000, func(i int) string {
			return fmt.Sprintf(`{"properties":{"k%d":{"const":%d}},"required":["k%d"]}`, i, i, i)
		}) + `]}`,
			fill("[", `1`, ",", "]"), ""},
		{"anyOf of 3,000 per item", `{"items":{"anyOf":[` + list(3000, func(i int) string { return fmt.Sprintf(`{"type":"object","required":["k%d"]}`, i) }) + `]}}`,
			fill("[", `{"k2999":0}`, ",", "]"), "fuel"},
		{"patternProperties", `{"patternProperties":{` + list(300, func(i int) string { return fmt.Sprintf(`"^[a-z]*%d":{"type":"number"}`, i) }) + `}}`,
			`{` + list(256, func(i int) string { return fmt.Sprintf(`"%s%d":1`, strings.Repeat("a", 100), i) }) + `}`, ""},
		{"slow pattern", `{"type":"array","items":{"pattern":"(x{1,100}){1,10}y$"}}`, `["` + strings.Repeat("x", full-8) + `"]`, "schema"},
		{"slow pattern for RE2", `{"type":"array","items":{"pattern":"\b(x{1,100}){1,10}y$"}}`, `["` + strings.Repeat("x", full-8) + `"]`, "fuel"},
		{"pattern per item", `{"items":{"pattern":"^(a|b|ab)*c$"}}`, fill("[", `"`+strings.Repeat("ab", 50)+`"`, ",", "]"), "schema"},
		{"unknown keys", `{"additionalProperties":false}`, `{` + list(256, func(i int) string { return fmt.Sprintf(`"%s%d":1`, strings.Repeat("k", 100), i) }) + `}`, "schema"},
		{"3,000 keys", `{"additionalProperties":false}`, `{` + list(3000, func(i int) string { return fmt.Sprintf(`"k%d":1`, i) }) + `}`, "schema"},
		{"3,000 keys that may be", `{"additionalProperties":{"type":"integer"}}`, `{` + list(3000, func(i int) string { return fmt.Sprintf(`"k%d":1`, i) }) + `}`, "keys"},
		{"unevaluated arrays", `{"allOf":[` + list(200, func(i int) string { return `{"contains":{"const":` + fmt.Sprint(i) + `}}` }) + `],"unevaluatedItems":{"type":"number"}}`,
			fill("[", "#", ",", "]"), ""},
		{"durations", `{"items":{"format":"duration"}}`, `["P` + strings.Repeat("1Y", full/2-8) + `"]`, "schema"},
		{"regex format", `{"items":{"format":"regex"}}`, fill("[", `"(\\p{L}{1000})"`, ",", "]"), ""},
		{"all formats", `{"items":{"anyOf":[` + list(len(jsonschema.Formats()), func(i int) string { return `{"format":"` + jsonschema.Formats()[i] + `"}` }) + `]}}`,
			fill("[", `"`+strings.Repeat("/:.", 333)+`"`, ",", "]"), ""},
		{"many patterns", `{"items":{"allOf":[` + list(40, func(i int) string { return fmt.Sprintf(`{"pattern":"(a|aa)*(b|%d)*$"}`, i) }) + `]}}`,
			fill("[", `"`+strings.Repeat("a", 500)+`"`, ",", "]"), ""},
		{"short patterns", `{"items":{"allOf":[` + list(100, func(i int) string { return fmt.Sprintf(`{"pattern":"^(a|aa)*(b|%d)*$"}`, i) }) + `]}}`,
			fill("[", `"aaaaaaaaaaaa"`, ",", "]"), ""},
		{"short patterns for RE2", `{"items":{"allOf":[` + list(100, func(i int) string { return fmt.Sprintf(`{"pattern":"^(a|aa)*(b|%d)*(\\B|$)"}`, i) }) + `]}}`,
			fill("[", `"aaaaaaaaaaaa"`, ",", "]"), "fuel"},
		{"a base64 string", `{"$schema":"http://json-schema.org/draft-07/schema#","items":{"contentEncoding":"base64","contentMediaType":"application/json"}}`,
			fill("[", `"W1tbW10="`, ",", "]"), "schema"},
		{"strings in an enum", `{"items":{"enum":[` + list(100, func(i int) string { return fmt.Sprintf(`"%d"`, i) }) + `]}}`, fill("[", `"\u0031"`, ",", "]"), ""},
		{"long string", `{"maxLength":5}`, `"` + strings.Repeat("é", full/2-2) + `"`, "schema"},
		{"required", `{"items":{"required":[` + list(1000, func(i int) string { return fmt.Sprintf(`"k%d"`, i) }) + `]}}`, fill("[", "{}", ",", "]"), "schema"},
		{"dependentRequired", `{"items":{"dependentRequired":{` + list(500, func(i int) string { return fmt.Sprintf(`"k%d":["a"]`, i) }) + `}}}`, fill("[", `{"b":1}`, ",", "]"), ""},
	}
}

func token(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var e *jsonschema.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T: %v", err, err)
	}
	return e.Token
}

// TestDefaultFuel: the figure is documented, and what it costs depends on it.
func TestDefaultFuel(t *testing.T) {
	if n := jsonschema.DefaultFuel(full); n != 2162688 {
		t.Errorf("%d units for a full message", n)
	}
}

// TestHostile holds every input to its verdict, to its fuel and, with a wide margin, to time.
func TestHostile(t *testing.T) {
	most := 30 * time.Second // a hundred times what the dearest takes
	if raceEnabled {
		most = 3 * time.Minute
	}
	for _, c := range hostileCases() {
		t.Run(c.name, func(t *testing.T) {
			if raceEnabled && strings.Contains(c.name, "anyOf of 3,000") {
				t.Skip("v5 takes seconds to compile it")
			}
			s := compile(t, c.schema)
			msg := []byte(c.msg)
			start := time.Now()
			used, err := s.FuelUsed(msg)
			took := time.Since(start)
			if got := token(t, err); got != c.want {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
			if fuel := jsonschema.DefaultFuel(len(msg)); used > fuel {
				t.Errorf("used %d units of fuel, %d were there", used, fuel)
			}
			if took > most {
				t.Errorf("took %v", took)
			}
			start = time.Now()
			json.Valid(msg)
			t.Logf("%d bytes, %d units, %v, %.0f ns a unit, %.0f times json.Valid", len(msg), used, took, float64(took)/float64(max(used, 1)), float64(took)/float64(time.Since(start)))
			if err != nil && len(err.Error()) > 700 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

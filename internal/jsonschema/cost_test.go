package jsonschema_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// mostValid is how many times as long as json.Valid on the same message Validate and Explain may take.
const mostValid = 20

// held compares what f takes with json.Valid on msg. It takes the least of some runs of both in turn, and runs more of
// them while the ratio is too large, because other programs take a part of the time.
func held(f func(), msg []byte) (ratio float64) {
	took, valid := time.Hour, time.Hour
	for round := 0; round < 3 || round < 40 && ratio > mostValid; round++ {
		n := 1 + 2000/(len(msg)+1) // a short message takes less than the clock shows
		took = min(took, least(1, func() {
			for range n {
				f()
			}
		}))
		valid = min(valid, least(1, func() {
			for range n {
				json.Valid(msg)
			}
		}))
		ratio = float64(took) / float64(valid)
	}
	return ratio
}

// benchCases returns the schemas of the bench, with a message that each accepts.
func benchCases(t *testing.T) map[string][2]json.RawMessage {
	t.Helper()
	names, err := filepath.Glob("../../bench/testdata/schema/[0-9]*.json")
	if err != nil || len(names) < 11 {
		t.Fatalf("%d schemas of the bench: %v", len(names), err)
	}
	cases := map[string][2]json.RawMessage{}
	for _, name := range names {
		var c struct{ Schema, Accept json.RawMessage }
		b, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(b, &c)
		}
		if err != nil {
			t.Fatal(err)
		}
		cases[strings.TrimSuffix(filepath.Base(name), ".json")] = [2]json.RawMessage{c.Schema, c.Accept}
	}
	return cases
}

// places calls f with v once for each value within v, after it has been replaced by each of by.
func places(v any, by func(old any) []any, f func()) {
	switch v := v.(type) {
	case map[string]any:
		for name, old := range v {
			for _, v[name] = range by(old) {
				f()
			}
			v[name] = old
			places(old, by, f)
		}
	case []any:
		for i, old := range v {
			for _, v[i] = range by(old) {
				f()
			}
			v[i] = old
			places(old, by, f)
		}
	}
}

// hostileValues returns values that a peer may put in the place of old, of the size of a full message.
func hostileValues(old any) (all []any) {
	raw := func(s string) { all = append(all, json.RawMessage(s)) }
	own, _ := json.Marshal(old)
	raw(fill("[", string(own), ",", "]"))
	raw(fill("[", string(own), ",", `,"x"]`))
	raw("{" + list(250, func(i int) string { return fmt.Sprintf(`"k%d":%s`, i, own) }) + "}")
	raw(nest("[", fill("[", string(own), ",", "]"), "]", 55))
	raw(nest(`{"":`, fill("[", "[]", ",", `,{"":0,"":0}]`), "}", 55))
	raw(fill(`"`, `\u0031`, "", `"`))
	raw(fill(`"`, `é`, "", `"`))
	raw(fill("[", `"\u0061"`, ",", "]"))
	raw(fill("[", "0.1e-9", ",", "]"))
	raw(fill("[", "{}", ",", "]"))
	if list, ok := old.([]any); ok && len(list) > 0 {
		item, _ := json.Marshal(list[0])
		raw(fill("[", string(item), ",", "]"))
	}
	return all
}

// TestHostileCostOfTheBench puts hostile values into each place of the messages of the bench.
func TestHostileCostOfTheBench(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("measures time")
	}
	for name, c := range benchCases(t) {
		s := compile(t, string(c[0]))
		var root [1]any
		if err := json.Unmarshal(c[1], &root[0]); err != nil {
			t.Fatal(err)
		}
		worst, dearest := [2]float64{}, [2]string{}
		places(root[:], hostileValues, func() {
			msg, err := json.Marshal(root[0])
			if err != nil {
				t.Fatal(err)
			}
			for i, judge := range []func(){func() { _ = s.Validate(msg) }, func() { _ = s.Explain(msg) }} {
				if r := held(judge, msg); r > worst[i] {
					worst[i], dearest[i] = r, fmt.Sprintf("%d bytes, %.60s…", len(msg), msg)
				}
			}
		})
		for i, what := range []string{"Validate", "Explain"} {
			t.Logf("%s: %s: at most %.1f times json.Valid: %s", name, what, worst[i], dearest[i])
			if worst[i] > mostValid {
				t.Errorf("%s: %s: %.1f times json.Valid: %s", name, what, worst[i], dearest[i])
			}
		}
	}
}

// TestExplainCost holds saying where a fault is, and what of the keyword the value does not meet, to the bound too. The
// fault stands at the end.
func TestExplainCost(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("measures time")
	}
	deep := jsonschema.Options{Limits: jsonschema.Limits{Depth: 10000, Keys: -1}}
	many := list(100_000, func(i int) string { return fmt.Sprintf(`"k%d":0`, i) })
	strict := `{"anyOf":[{"type":["array","object"],"items":{"$ref":"#"},"additionalProperties":{"$ref":"#"}},{"type":"string"}]}`
	plain := `{"type":["array","object"],"items":{"$ref":"#"},"additionalProperties":{"$ref":"#"}}`
	for name, c := range map[string]struct {
		schema, msg string
		opt         jsonschema.Options
	}{
		"deep, first":          {plain, nest("[", "1", fill(",", "1", ",", "")[:500]+"]", 62), jsonschema.Options{}},
		"deep, large leaf":     {plain, nest("[", fill("[", "[]", ",", ",1]"), "]", 62), jsonschema.Options{}},
		"deep, empty names":    {plain, nest(`{"":`, fill("[", "[]", ",", ",1]"), "}", 62), jsonschema.Options{}},
		"250 levels":           {plain, nest(`{"":`, fill("[", "[]", ",", ",1]"), "}", 250), deep},
		"8,000 levels":         {plain, nest("[", fill("[", "[]", ",", ",1]"), "]", 8000), deep},
		"8,000 levels, anyOf":  {strict, nest("[", fill("[", "[]", ",", ",1]"), "]", 8000), deep},
		"8,000 levels, name":   {`{"properties":{"a":{"$ref":"#"}},"propertyNames":{"maxLength":1}}`, nest(`{"a":`, fill(`{"x":[`, "[]", ",", `],"ab":1}`), "}", 5000), deep},
		"tree":                 {`{"properties":{"a":{"$ref":"#"}},"unevaluatedProperties":false}`, nest(`{"a":`, `{"b":`+fill("[", "[]", ",", "]")+"}", "}", 60), deep},
		"required":             {`{"required":[` + list(1000, func(i int) string { return fmt.Sprintf(`"n%d"`, i) }) + `]}`, "{" + many + "}", deep},
		"required, all but 1":  {`{"required":[` + list(1000, func(i int) string { return fmt.Sprintf(`"k%d"`, i) }) + `,"x"]}`, "{" + many + "}", deep},
		"dependentRequired":    {`{"dependentRequired":{` + list(200, func(i int) string { return fmt.Sprintf(`"k%d":["k1","k2"]`, i) }) + `,"k555":["x"]}}`, "{" + many + "}", deep},
		"required in tree":     {`{"unevaluatedProperties":true,"allOf":[{"required":[` + list(1000, func(i int) string { return fmt.Sprintf(`"k%d"`, i) }) + `,"x"]}]}`, "{" + many + "}", deep},
		"additionalProperties": {`{"additionalProperties":{"type":"integer"}}`, "{" + many + `,"x":""}`, deep},
		"uniqueItems":          {`{"uniqueItems":true}`, fill("[", "#", ",", ",5]"), deep},
		"uniqueItems, nested":  {`{"uniqueItems":true,"items":{"$ref":"#"}}`, nest("[", fill("", "1#", ",", "")+",10", "]", 60), deep},
		"uniqueItems, alike":   {`{"uniqueItems":true}`, fill("[", `"\u0061#"`, ",", `,"a5"]`), deep},
		"uniqueItems, arrays":  {`{"uniqueItems":true}`, fill("[", `[1,{"a":#}]`, ",", `,[1.0,{"a":5.0}]]`), deep},
		"oneOf":                {`{"oneOf":[{"type":"array"},{"items":{"type":"integer"}},{"minItems":1}]}`, fill("[", "1", ",", "]"), deep},
		"oneOf of 50":          {`{"items":{"oneOf":[` + list(50, func(i int) string { return fmt.Sprintf(`{"required":["k%d"]}`, i) }) + `]}}`, fill("[", `{"k49":0}`, ",", `,{"k4":1,"k49":0}]`), deep},
	} {
		s, err := jsonschema.Compile([]byte(c.schema), c.opt)
		if err != nil {
			t.Fatal(err)
		}
		msg := []byte(c.msg)
		e := s.Explain(msg)
		if e == nil || !json.Valid(msg) {
			t.Errorf("%s: %v", name, e)
			continue
		}
		v, x := held(func() { _ = s.Validate(msg) }, msg), held(func() { _ = s.Explain(msg) }, msg)
		t.Logf("%s: %d bytes, Validate %.1f, Explain %.1f times json.Valid: %.60v", name, len(msg), v, x, e)
		if max(v, x) > mostValid {
			t.Errorf("%s: Validate %.1f, Explain %.1f times json.Valid", name, v, x)
		}
	}
}

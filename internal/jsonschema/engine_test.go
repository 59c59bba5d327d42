package jsonschema_test

import (
	"encoding/json"
	"fmt"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

const chatSchema = `{"type":"object","properties":{"type":{"const":"chat"},"id":{"type":"string","format":"uuid"},"room":{"type":"string","minLength":1,"maxLength":8},
	"text":{"type":"string","maxLength":20},"ts":{"type":"integer","minimum":0},"tags":{"type":"array","items":{"enum":["a","b"]},"uniqueItems":true,"maxItems":3}},
	"required":["type","room"],"additionalProperties":false}`

// TestFaultOrder: the first fault in byte order wins; at one value, syntax beats type.
func TestFaultOrder(t *testing.T) {
	for _, c := range []struct{ schema, msg, token string }{
		{chatSchema, `{"type":"chat","room":1,"x`, "schema"},
		{chatSchema, `{"type":"chat","room":01}`, "syntax"},
		{chatSchema, `{"type":"chat","room":tru}`, "syntax"},
		{chatSchema, `{"type":"chat","room":1e999}`, "exponent"},
		{chatSchema, `{"type":"chat","room":"` + "\xff" + `"}`, "invalid_utf8"},
		{chatSchema, `{"type":"chat","room":"far too long ` + "\xff" + `"}`, "invalid_utf8"},
		{chatSchema, `{"type":"chat","text":"\ud800","room":1}`, "lone_surrogate"},
		{chatSchema, `{"type":"chat","room":[,]}`, "schema"},
		{chatSchema, `{"type":"chat","room":"a","room":1}`, "duplicate_key"},
		{chatSchema, `{"type":"chat","room":"a","\u0072oom":1}`, "duplicate_key"},
		{chatSchema, `{"type":"chat","room":"a","rum":tru}`, "schema"},
		{chatSchema, `{"type":"chat","room":"a"`, "syntax"},
		{chatSchema, `{"type":"chat"}x`, "schema"},
		{chatSchema, `{"type":"chat","room":"a"}x`, "trailing_data"},
		{chatSchema, `{"room":"a","tags":["a","a"],"type":"chat",}`, "schema"},
		{chatSchema, `[`, "schema"},
		{chatSchema, ` `, "empty"},
		{`{"items":false}`, `[]]`, "trailing_data"},
		{`{"items":false}`, `[x]`, "syntax"},
		{`{"items":false}`, `[[x]]`, "schema"},
		{`{"maxItems":1}`, `[1,x]`, "syntax"},
		{`{"maxItems":1}`, `[1,2,x]`, "schema"},
		// A branch that fails swallows neither syntax nor limits, and comes after them.
		{`{"anyOf":[{"type":"string"},true]}`, `[1,01]`, "syntax"},
		{`{"not":{"type":"array"}}`, `[1,01]`, "syntax"},
		{`{"not":{"type":"array"}}`, `[1,1e999]`, "exponent"},
		{`{"not":{"properties":{"a":{"type":"string"}}}}`, `{"a":{"b":1,"b":2}}`, "duplicate_key"},
		{`{"if":{"items":{"type":"string"}},"then":false}`, strings.Repeat("[", 65) + strings.Repeat("]", 65), "depth"},
		{`{"oneOf":[{"properties":{"t":{"const":"a"},"v":{"type":"string"}},"required":["t"]},{"properties":{"t":{"const":"b"}},"required":["t"]}]}`, `{"v":1,"t":"a","x":01}`, "schema"},
		{`{"oneOf":[{"properties":{"t":{"const":"a"},"v":{"type":"string"}},"required":["t"]},{"properties":{"t":{"const":"b"}},"required":["t"]}]}`, `{"v":1,"t":"b","x":01}`, "syntax"},
		{`{"oneOf":[{"properties":{"t":{"const":"a"}},"required":["t"]},{"properties":{"t":{"const":"b"}},"required":["t"]}]}`, `{"t":"b","x":1,"t":"b"}`, "duplicate_key"},
		{`{"oneOf":[{"properties":{"t":{"const":"a"}},"required":["t"]},{"properties":{"t":{"const":"b"}},"required":["t"]}]}`, `{"t":"c","x":1}`, "schema"},
	} {
		s := compile(t, c.schema)
		if got := token(t, s.Validate([]byte(c.msg))); got != c.token {
			t.Errorf("%s, %q: got %q, want %q", c.schema, c.msg, got, c.token)
		}
		agrees(t, s, []byte(c.msg))
	}
}

func TestExplainSaysWhere(t *testing.T) {
	s := compile(t, `{"properties":{"a b":{"items":{"properties":{"x/y":{"type":"string"}},"additionalProperties":false}}}}`)
	for _, c := range []struct {
		msg, pointer string
		offset       int
	}{
		{`{"a b":[{},{"x/y":"v"},{"x/y":1}]}`, "/a b/2/x~1y", -1},
		{` { "a\u0020b" : [ {} , { "x\/y" : 1 `, "/a b/1/x~1y", -1},
		{`{"a b":[{"z":[1]}]}`, "/a b/0/z", -1},
		{`{"a b":[{},]}`, "", 11},
		{`{"a b":1,"a b":2}`, "", 9},
	} {
		e := s.Explain([]byte(c.msg))
		if e == nil || e.InstancePointer != c.pointer || e.Offset != c.offset {
			t.Errorf("%s: %+v, want %q at %d", c.msg, e, c.pointer, c.offset)
		}
		agrees(t, s, []byte(c.msg))
	}
	if e := s.Explain([]byte(`{"a b":[]}`)); e != nil {
		t.Error(e)
	}
}

// TestErrorsAreStatic: nobody makes an error for each bad message.
func TestErrorsAreStatic(t *testing.T) {
	s := compile(t, chatSchema)
	for _, msg := range []string{`{"type":"chat","room":1}`, `{`, `{"type":"chat"}`, `[1e999]`} {
		if a, b := s.Validate([]byte(msg)), s.Validate([]byte(msg)); a == nil || a != b {
			t.Errorf("%s: %p and %p", msg, a, b)
		}
	}
	// The evaluator's as well.
	d := compile(t, `{"$ref":"https://json-schema.org/draft/2020-12/schema"}`)
	if a, b := d.Validate([]byte(`{"type":1}`)), d.Validate([]byte(`{"type":2}`)); a == nil || a != b {
		t.Errorf("%p and %p", a, b)
	}
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	for _, c := range []struct {
		schema string
		msgs   []string
	}{
		{chatSchema, []string{`{"type":"chat","room":"a","text":"hello","ts":1,"id":"3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60","tags":["a","b"]}`, `{"type":"ch\u0061t","\u0072oom":"\u00e9"}`,
			`{"type":"chat"}`, `{"type":"chat","room":""}`, `{"type":"chat","room":"a","tags":["a","b","a"]}`, `{"type":"chat","room":"a","nope":1}`, `{"type":"chat","room":"a","ts":1.5}`,
			`{"type":"chat","room":"a","id":"x"}`, `{"type":"chat","room":"a","room":"b"}`, `{`, `[`, `1e999`, `nul`, "\xef\xbb\xbf", ``}},
		{`{}`, []string{`{"a":{"b":[1,2,{"c":null}],"\u0064":"x"},"e":1.5e3}`, `{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"j":10,"a":11}`, `{"\u0061":1,"a":2}`}},
		{`{"additionalProperties":{"type":["integer","null"]},"propertyNames":{"pattern":"^[a-z]+$"},"minProperties":1,"maxProperties":3}`, []string{`{"a":1,"b":null}`, `{}`, `{"A":1}`, `{"a":"x"}`, `{"a":1,"b":2,"c":3,"d":4}`}},
		{`{"patternProperties":{"^x_(a|b)+$":{"type":"number"}},"additionalProperties":false}`, []string{`{"x_ab":1}`, `{"x_ab":"1"}`, `{"y":1}`}},
		{`{"oneOf":[{"properties":{"t":{"const":"a"},"v":{"type":"string"}},"required":["t"]},{"properties":{"t":{"enum":["b","c"]}},"required":["t"]},{"type":"array","items":{"$ref":"#"}}]}`,
			[]string{`{"t":"a","v":"x"}`, `{"v":1,"t":"a"}`, `{"t":"c"}`, `{"t":"d"}`, `[{"t":"a"},[{"t":"b"}]]`, `[{"t":"a"},[{"t":"z"}]]`, `1`}},
		{`{"anyOf":[{"type":"object","properties":{"x":{"$ref":"#"}},"required":["x"]},{"type":"object","properties":{"x":{"$ref":"#"},"y":{}},"required":["y"]},{"type":"integer"}]}`, []string{`{"x":{"x":{"y":1}}}`, `{"x":{"x":{"z":1}}}`}},
		{`{"if":{"properties":{"a":{"const":1}},"required":["a"]},"then":{"required":["b"]},"not":{"required":["c"]},"dependentRequired":{"d":["e"]},"dependentSchemas":{"f":{"minProperties":2}}}`,
			[]string{`{"a":1,"b":2}`, `{"a":1}`, `{"c":1}`, `{"d":1}`, `{"f":1}`, `{"f":1,"a":2}`}},
		{`{"items":{"type":"number","minimum":0.5,"maximum":1e300,"multipleOf":0.01},"contains":{"const":1.5},"uniqueItems":true}`, []string{`[1.5,1.50,2]`, `[1.5,2.25]`, `[1.5,2.255]`, `[0.1]`, `[9]`,
			`[1.5,123456789012345678901234567890.5]`}},
		{`{"items":{"enum":[1,"x",2.5,null,true]}}`, []string{`[1.0,"x",25e-1,null,true]`, `[false]`, `["y"]`, `[3]`}},
		{`{"items":{"format":"date-time"},"maxItems":2}`, []string{`["2024-02-29T12:00:00Z"]`, `["2023-02-29T12:00:00Z"]`, `["2024-02-29T12:00:00Z",1,2]`}},
		{`{"items":{"anyOf":[{"format":"ipv4"},{"format":"ipv6"},{"format":"hostname"}]}}`, []string{`["1.2.3.4","::1","a.b"]`, `["-"]`}},
		{`{"allOf":[{"properties":{"a":{"type":"string"}}},{"properties":{"b":{"type":"string"}}}],"unevaluatedProperties":false}`, []string{`{"a":"x","b":"y"}`, `{"a":"x","c":"y"}`}},
	} {
		s := compile(t, c.schema)
		for _, msg := range c.msgs {
			in := []byte(msg)
			_ = s.Validate(in)
			if n := testing.AllocsPerRun(100, func() { _ = s.Validate(in) }); n != 0 {
				t.Errorf("%s, %s: %v allocations", c.schema, msg, n)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		opt                jsonschema.Options
		schema, msg, token string
	}{
		{jsonschema.Options{Limits: jsonschema.Limits{RefusePrototypeKeys: true}}, `{}`, `{"a":[{"__proto__":1}]}`, "prototype_key"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefusePrototypeKeys: true}}, `{}`, `{"__pr\u006fto__":1}`, "prototype_key"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefusePrototypeKeys: true}}, `{"properties":{"constructor":{}}}`, `{"constructor":1}`, "prototype_key"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefusePrototypeKeys: true}}, `{"not":{"properties":{"a":{"type":"object"}}}}`, `{"a":{"prototype":1}}`, "prototype_key"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefusePrototypeKeys: true}}, `{}`, `{"a":"__proto__","proto":1,"prototypes":1}`, ""},
		{jsonschema.Options{}, `{}`, `{"__proto__":1}`, ""},

		{jsonschema.Options{RefuseCaseVariants: true}, `{"properties":{"admin":{"const":false}}}`, `{"ADMIN":true}`, "case_variant"},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"properties":{"admin":{"const":false}}}`, `{"\u0041dmin":true}`, "case_variant"},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"properties":{"kind":{},"case":{}}}`, `{"ca\u017fe":1}`, "case_variant"},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"properties":{"kind":{}}}`, "{\"\u212aind\":1}", "case_variant"},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"properties":{"admin":{},"Admin":{}}}`, `{"Admin":1,"admin":2}`, ""},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"properties":{"admin":{}}}`, `{"a":{"ADMIN":1},"administrator":1}`, ""},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"anyOf":[{"properties":{"admin":{"const":false}}},{"minProperties":1}]}`, `{"ADMIN":true}`, "case_variant"},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"anyOf":[{"properties":{"id":{}}},{"properties":{"ID":{}}}]}`, `{"ID":1}`, ""},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"anyOf":[{"properties":{"a":{"type":"string"}}},{"properties":{"b":{}}}],"unevaluatedProperties":{"properties":{"deep":{}}}}`, `{"c":{"Deep":1}}`, "case_variant"},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"anyOf":[{"properties":{"a":{"type":"string"}}},{"properties":{"b":{}}}],"unevaluatedProperties":{"properties":{"deep":{}}}}`, `{"A":1}`, "case_variant"},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"anyOf":[{"properties":{"a":{"properties":{"id":{}}}}},{"properties":{"a":{"properties":{"ID":{}}}}}]}`, `{"a":{"ID":1}}`, ""},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"anyOf":[{"properties":{"a":{"properties":{"id":{}}}}},{"properties":{"a":{"properties":{"ID":{}}}}}]}`, `{"a":{"Id":1}}`, "case_variant"},
		{jsonschema.Options{RefuseCaseVariants: true}, `{"items":{"$ref":"#/$defs/p"},"$defs":{"p":{"properties":{"x":{}},"additionalProperties":false}}}`, `[{"x":1},{"X":1}]`, "case_variant"},
		{jsonschema.Options{}, `{"properties":{"admin":{}}}`, `{"ADMIN":true}`, ""},

		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{}`, `["a\u0000"]`, "control_in_string"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{}`, `{"a\b":1}`, "control_in_string"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{"type":"string"}`, "\"a long enough text \x7f\"", "control_in_string"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{}`, "[\"\u0085\"]", "control_in_string"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{"properties":{"a":{"maxLength":9}}}`, "{\"a\":\"x\u202ey\"}", "control_in_string"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{}`, `["\u2066"]`, "control_in_string"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{"const":"\u202e"}`, "\"\u202e\"", "control_in_string"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{"properties":{"\u202e":{}}}`, "{\"\u202e\":1}", "control_in_string"},
		{jsonschema.Options{Limits: jsonschema.Limits{RefuseControls: true}}, `{}`, "[\"tab\\t, line\\r\\n, \\u0009é\u00a0\u200d😀\"]", ""},
		{jsonschema.Options{}, `{}`, "[\"\\u0000\x7f\u202e\"]", ""},
	} {
		s, err := jsonschema.Compile([]byte(c.schema), c.opt)
		if err != nil {
			t.Fatalf("%s: %v", c.schema, err)
		}
		for range 2 { // the second time the names are the ones to be expected
			err = s.Validate([]byte(c.msg))
			if got := token(t, err); got != c.token {
				t.Errorf("%s, %s: got %q, want %q", c.schema, c.msg, got, c.token)
			}
			if err != nil && err.(*jsonschema.Error).Kind != jsonschema.KindSchema {
				t.Errorf("%s: %v", c.msg, err)
			}
		}
		agrees(t, s, []byte(c.msg))
		if c.token != "case_variant" {
			if got := token(t, jsonschema.Scan([]byte(c.msg), &c.opt.Limits)); got != c.token {
				t.Errorf("Scan of %s: got %q, want %q", c.msg, got, c.token)
			}
		}
	}
}

func TestUnquote(t *testing.T) {
	buf := make([]byte, 0, 64)
	for _, c := range []struct {
		raw, want string
		ok        bool
	}{
		{`"chat"`, "chat", true}, {`""`, "", true}, {`"\u0063hat\n"`, "chat\n", true}, {`"😀é"`, "😀é", true}, {`"\ud83d\ude00"`, "😀", true},
		{`chat`, "", false}, {`"chat`, "", false}, {`"a"b"`, "", false}, {`"\x"`, "", false}, {`"\ud800"`, "", false}, {"\"\xff\"", "", false}, {"\"\n\"", "", false}, {`"`, "", false}, {``, "", false}, {`1`, "", false},
	} {
		got, ok := jsonschema.Unquote([]byte(c.raw), buf)
		if ok != c.ok || string(got) != c.want {
			t.Errorf("%q: %q, %v", c.raw, got, ok)
		}
	}
	plain, escaped := []byte(`"chat"`), []byte(`"ch\u0061t"`)
	if n := testing.AllocsPerRun(100, func() { _, _ = jsonschema.Unquote(plain, nil); _, _ = jsonschema.Unquote(escaped, buf) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestHostileCost holds what kills a validator over a decoded tree against the time that json.Valid takes for a full
// message of 32 KiB.
func TestHostileCost(t *testing.T) {
	if raceEnabled {
		t.Skip("a ratio of times, which the race detector bends")
	}
	most := 20.0
	if bits.UintSize == 32 {
		most = 80 // hashes and numbers of 64 bits take several instructions here
	}
	ordinary := []byte(fill("[", `{"id":#,"name":"somebody","tags":["a","b"],"score":12.5}`, ",", "]"))
	timed := func(f func()) time.Duration {
		start := time.Now()
		f()
		return time.Since(start)
	}
	all := map[string]bool{"1e1000001": true, "1e999999 many": true, "a million digits": true, "1e400 many": true, "1e-400 many": true, "long numbers": true, "anyOf depth 18": true, "anyOf depth 64": true,
		"bad leaf at depth 64": true, "oneOf tree, bad leaf": true, "oneOf tree, operator last": true, "oneOf tree, operator last, large leaf": true, "oneOf tree, operator missing, large leaf": true, "uniqueItems numbers": true, "unknown keys": true, "3,000 keys": true, "3,000 keys that may be": true, "durations": true,
		"long string": true, "large enum": true}
	for _, c := range hostileCases() {
		if !all[c.name] {
			continue
		}
		delete(all, c.name)
		s := compile(t, c.schema)
		msg := []byte(c.msg)
		// The million digits come to more than a message may hold.
		scale := max(1, float64(len(msg))/float64(full))
		// The least of each is what it costs, in turn, so that a machine that is
		// slower for a while is so for both; and what others take of it needs more
		// rounds to be seen past, not another bound.
		took, valid, ratio := time.Hour, time.Hour, 0.0
		for round := 0; round < 15 || round < 300 && ratio > most; round++ {
			took = min(took, timed(func() { _ = s.Validate(msg) }))
			valid = min(valid, timed(func() { json.Valid(ordinary) }))
			ratio = float64(took) / float64(valid) / scale
		}
		if ratio > most {
			t.Errorf("%s: %.1f times json.Valid on 32 KiB", c.name, ratio)
		} else {
			t.Logf("%s: %.2f times json.Valid on 32 KiB", c.name, ratio)
		}
	}
	if len(all) > 0 {
		t.Errorf("not among the cases: %v", all)
	}
}

// TestNumbersAgainstRat compares ordinary numbers and bounds, where the short ways are taken, with big.Rat.
func TestNumbersAgainstRat(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	number := func() string {
		var b strings.Builder
		if r.IntN(3) == 0 {
			b.WriteByte('-')
		}
		whole := strconv.FormatUint(r.Uint64()>>r.IntN(64), 10)
		b.WriteString(whole[:1+r.IntN(min(len(whole), 1+r.IntN(20)))])
		if b.String() == "" || strings.TrimPrefix(b.String(), "-")[0] == '0' && len(whole) > 1 {
			return "0"
		}
		if r.IntN(2) == 0 {
			b.WriteByte('.')
			for range 1 + r.IntN(1+r.IntN(10)) {
				b.WriteByte(byte('0' + r.IntN(10)))
			}
		}
		if r.IntN(8) == 0 {
			fmt.Fprintf(&b, "e%d", r.IntN(41)-20)
		}
		return b.String()
	}
	near := func(s string) string { // numbers that are the same, or nearly
		switch r.IntN(4) {
		case 0:
			return s
		case 1:
			if strings.Contains(s, ".") && !strings.Contains(s, "e") {
				return s + "0"
			}
			return s
		case 2:
			if !strings.ContainsAny(s, ".e") {
				return s + ".5"
			}
		}
		return number()
	}
	rounds := 3000
	if raceEnabled {
		rounds = 300
	}
	for range rounds {
		b := number()
		a := near(b)
		x, ok := new(big.Rat).SetString(a)
		y, ok2 := new(big.Rat).SetString(b)
		if !ok || !ok2 {
			t.Fatal(a, b)
		}
		cmp := x.Cmp(y)
		for schema, want := range map[string]bool{
			`{"type":"number","minimum":` + b + `}`: cmp >= 0, `{"type":"number","maximum":` + b + `}`: cmp <= 0, `{"exclusiveMinimum":` + b + `}`: cmp > 0, `{"type":"number","exclusiveMaximum":` + b + `}`: cmp < 0,
			`{"const":` + b + `}`: cmp == 0, `{"enum":[7,8,9,10,11,` + b + `]}`: cmp == 0 || x.IsInt() && x.Cmp(big.NewRat(7, 1)) >= 0 && x.Cmp(big.NewRat(11, 1)) <= 0, `{"type":"integer","minimum":` + b + `}`: x.IsInt() && cmp >= 0,
		} {
			s := compile(t, schema)
			for _, msg := range []string{a, a + "                    "} {
				if err := s.Validate([]byte(msg)); (err == nil) != want {
					t.Errorf("%q, %s: %v", msg, schema, err)
				}
			}
		}
		if y.Sign() > 0 {
			s := compile(t, `{"type":"number","multipleOf":`+b+`}`)
			if err := s.Validate([]byte(a)); (err == nil) != new(big.Rat).Quo(x, y).IsInt() {
				t.Errorf("%s, multipleOf %s: %v", a, b, err)
			}
		}
	}
}

// TestManyProperties has more names than fit a word, in an object and around branches.
func TestManyProperties(t *testing.T) {
	names := make([]string, 130)
	for i := range names {
		names[i] = fmt.Sprintf("property-number-%d", i)
	}
	props := list(len(names), func(i int) string { return fmt.Sprintf("%q:{\"type\":\"integer\"}", names[i]) })
	src := `{"properties":{` + props + `},"required":["property-number-3","property-number-129"],"additionalProperties":false,"dependentRequired":{"property-number-5":["property-number-100"]},
		"dependentSchemas":{"property-number-120":{"minProperties":4}},"anyOf":[{"required":["property-number-3"]},{"maxProperties":1}]}`
	member := func(ids ...int) string {
		return "{" + list(len(ids), func(i int) string { return fmt.Sprintf("%q:%d", names[ids[i]], i) }) + "}"
	}
	s := compile(t, src)
	for _, c := range []struct {
		msg, token string
	}{
		{member(3, 129), ""}, {member(129, 64, 63, 3), ""}, {member(3), "schema"}, {member(129, 1), "schema"}, {member(3, 129, 5), "schema"}, {member(3, 129, 5, 100), ""}, {member(3, 129, 120), "schema"},
		{member(3, 129, 120, 1), ""}, {member(3, 129, 3), "duplicate_key"}, {member(3, 129, 64, 64), "duplicate_key"}, {strings.Replace(member(3, 129), "{", `{"property-number-130":1,`, 1), "schema"},
		{strings.Replace(member(3, 129, 64), "64", `6\u0034`, 1), ""}, {strings.Replace(member(3, 129, 64, 64), "64", `6\u0034`, 1), "duplicate_key"},
	} {
		for range 2 {
			if got := token(t, s.Validate([]byte(c.msg))); got != c.token {
				t.Errorf("%s: got %q, want %q", c.msg, got, c.token)
			}
		}
		agrees(t, s, []byte(c.msg))
		if c.token != "duplicate_key" && !alike(s, []byte(c.msg)) {
			t.Errorf("%s: the evaluator says %v", c.msg, s.Tree([]byte(c.msg)))
		}
	}
}

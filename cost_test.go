package wsguard_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/graphqlws"
	"github.com/wsguard/wsguard/jsonrpc"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/sanitize"
)

// costBound is how many times as long as json.Valid on the same message judging a message may take.
const costBound = 20

// filled returns pieces with separators between them, as many as fit in 32 KiB. A # in piece is a counter.
func filled(before, piece, after string) string {
	var b strings.Builder
	b.WriteString(before)
	for i := 0; b.Len()+len(piece)+len(after) < 32<<10; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strings.ReplaceAll(piece, "#", fmt.Sprint(i)))
	}
	return b.String() + after
}

// costs returns how many times as long as json.Valid on msg f takes. It compares the least of some runs of both in turn,
// and runs more while the ratio is too large, because other programs take a part of the time.
func costs(f func(msg []byte), msg []byte) (ratio float64) {
	n := 1 + 2000/(len(msg)+1) // a short message takes less than the clock shows
	once := func(f func()) time.Duration {
		start := time.Now()
		for range n {
			f()
		}
		return time.Since(start)
	}
	took, valid := time.Hour, time.Hour
	for round := 0; round < 5 || round < 60 && ratio > costBound; round++ {
		took = min(took, once(func() { f(msg) }))
		valid = min(valid, once(func() { json.Valid(msg) }))
		ratio = float64(took) / float64(valid)
	}
	return ratio
}

// manyPrefixes returns a Table of 1,000 prefixes of 1,000 lengths. Each is a prefix of the next.
func manyPrefixes() *wsguard.Table {
	t := &wsguard.Table{Prefixes: map[string]wsguard.Rule{}}
	for n := 1; n <= 1000; n++ {
		t.Prefixes[strings.Repeat("p", n)+"/"] = wsguard.Rule{}
	}
	return t
}

// TestTablesCost judges messages that are dear for a Table, accepted and refused ones. A refusal that says where the fault
// is counts with it.
func TestTablesCost(t *testing.T) {
	if raceDetector() || testing.Short() {
		t.Skip("measures time")
	}
	schema := func(cfg wsguard.SchemaConfig, src string) *wsguard.Schema { return must(cfg.Compile([]byte(src))) }
	strict := schema(wsguard.SchemaConfig{}, `{"properties":{"params":{"items":{"type":"integer"}}}}`)
	calls := func(cfg wsguard.Table) *wsguard.Table {
		cfg.JSONRPC, cfg.MaxBatch = true, wsguard.Off
		if cfg.Types == nil {
			cfg.Types = map[string]wsguard.Rule{"a": {}, "b": {Validator: strict}}
		}
		return &cfg
	}
	prefixes := manyPrefixes()
	own := schema(wsguard.SchemaConfig{Formats: map[string]func(string) bool{"own": func(s string) bool { return s != "no" }}}, `{"items":{"format":"own"}}`)
	wide := schema(wsguard.SchemaConfig{}, `{"items":{"pattern":"^[\\p{L}\\p{N}\\p{Script=Greek}]+[^\\s\\p{P}]*$"}}`)
	for name, tt := range map[string]struct {
		v   wsguard.Validator
		msg string
	}{
		"tiny calls":                    {calls(wsguard.Table{}), filled("[", `{"jsonrpc":"2.0","method":"a"}`, "]")},
		"tiny calls with a schema":      {calls(wsguard.Table{}), filled("[", `{"jsonrpc":"2.0","method":"b"}`, "]")},
		"tiny calls, the last refused":  {calls(wsguard.Table{}), filled("[", `{"jsonrpc":"2.0","method":"b"}`, `,{"jsonrpc":"2.0","method":"b","params":["x"]}]`)},
		"tiny calls, the last unknown":  {calls(wsguard.Table{}), filled("[", `{"jsonrpc":"2.0","method":"b"}`, `,{"jsonrpc":"2.0","method":"c"}]`)},
		"tiny calls, the last no call":  {calls(wsguard.Table{}), filled("[", `{"jsonrpc":"2.0","method":"b"}`, `,{}]`)},
		"tiny calls, a broken end":      {calls(wsguard.Table{}), filled("[", `{"jsonrpc":"2.0","method":"b"}`, `,`)},
		"responses":                     {calls(wsguard.Table{Absent: &wsguard.Rule{}}), filled("[", `{"jsonrpc":"2.0","id":1,"result":1}`, "]")},
		"escaped calls":                 {calls(wsguard.Table{}), filled("[", `{"\u006asonrpc":"\u0032.0","\u006dethod":"\u0061"}`, "]")},
		"similar members":               {calls(wsguard.Table{}), filled("[", `{"jsonrpc":"2.0","method":"a","metho":1,"methodd":1,"jsonrp":1,"ide":1}`, "]")},
		"no calls":                      {calls(wsguard.Table{Default: &wsguard.Rule{}}), filled("[", `{}`, "]")},
		"numbers":                       {calls(wsguard.Table{}), filled("[", `0`, "]")},
		"a batch that is too long":      {&wsguard.Table{JSONRPC: true, Types: map[string]wsguard.Rule{"a": {}}}, filled("[", `{"jsonrpc":"2.0","method":"a"}`, "]")},
		"a batch that is not served":    {&wsguard.Table{JSONRPC: true, RefuseBatches: true, Types: map[string]wsguard.Rule{"a": {}}}, filled("[", `{}`, "]")},
		"calls of 1,000 prefixes":       {calls(wsguard.Table{Types: map[string]wsguard.Rule{"x": {}}, Prefixes: prefixes.Prefixes, Default: &wsguard.Rule{}}), filled("[", `{"jsonrpc":"2.0","method":"`+strings.Repeat("p", 1000)+`"}`, "]")},
		"1,000 prefixes, a long type":   {prefixes, `{"type":"` + strings.Repeat("p", 1000) + `/"}`},
		"1,000 prefixes, the shortest":  {prefixes, `{"type":"p/` + strings.Repeat("p", 1000) + `"}`},
		"1,000 prefixes, an unknown":    {prefixes, `{"type":"` + strings.Repeat("p", 1020) + `"}`},
		"1,000 prefixes, another":       {prefixes, `{"type":"` + strings.Repeat("pq", 500) + `"}`},
		"a function and 1,000 prefixes": {&wsguard.Table{Kind: func(msg []byte) (string, bool) { return strings.Repeat("p", len(msg)), true }, Prefixes: prefixes.Prefixes, Default: &wsguard.Rule{}}, `"` + strings.Repeat("p", 1000) + `"`},
		"a number behind many members":  {&wsguard.Table{Pointer: "/op", Numbers: true, Types: map[string]wsguard.Rule{"2": {}}}, filled("{", `"#":1`, `,"op":2}`)},
		"a number that is unclear":      {&wsguard.Table{Pointer: "/op", Numbers: true, Types: map[string]wsguard.Rule{"2": {}}}, `{"op":` + strings.Repeat("1", 30<<10) + `}`},
		"a type behind many members":    {&wsguard.Table{Types: map[string]wsguard.Rule{"a": {}}}, filled("{", `"typ\u0065#":1`, `,"type":"a"}`)},
		"a type within many types":      {&wsguard.Table{Pointer: "/1/1/1/1", Types: map[string]wsguard.Rule{"a": {}}}, "[0,[0,[0,[0,\"a\"," + filled("[", "0", "]") + "]]]]"},
		"a format of one's own":         {own, filled("[", `"a"`, "]")},
		"and escapes":                   {own, filled("[", `"\u0061"`, "]")},
		"and a refusal":                 {own, filled("[", `"a"`, `,"no"]`)},
		"wide sets":                     {wide, filled("[", `"é日Ω"`, "]")},
		"wide sets, long texts":         {wide, `["` + strings.Repeat("日", 10000) + `"]`},
		"wide sets, a refusal":          {wide, `["` + strings.Repeat("Ω", 10000) + ` "]`},
		"wide sets, escapes":            {wide, filled("[", `"\u65e5\ud835\udc00"`, "]")},
		"a raised depth": {schema(wsguard.SchemaConfig{MaxDepth: 10000}, `{"items":{"$ref":"#"},"type":"array"}`),
			strings.Repeat("[", 8000) + "1" + strings.Repeat("]", 8000)},
		"a raised length of numbers": {schema(wsguard.SchemaConfig{MaxNumberBytes: 4096, MaxExponent: 1e6}, `{"items":{"multipleOf":7,"minimum":3,"enum":[1e300]},"uniqueItems":true}`),
			filled("[", "1#"+strings.Repeat("7", 4000)+"e999999", "]")},
	} {
		msg := []byte(tt.msg)
		if ratio := costs(func(msg []byte) { _ = tt.v.Validate(msg) }, msg); ratio > costBound {
			t.Errorf("%s: %.1f times json.Valid: %v", name, ratio, tt.v.Validate(msg))
		} else {
			t.Logf("%s: %.1f times json.Valid: %v", name, ratio, tt.v.Validate(msg))
		}
	}
}

// TestNoticesCost holds the ready-made functions for Notice and Sanitize to the bound.
func TestNoticesCost(t *testing.T) {
	if raceDetector() || testing.Short() {
		t.Skip("measures time")
	}
	notice := func(hook func(wsguard.Refused) ([]byte, error)) func([]byte) {
		return func(msg []byte) { _, _ = hook(wsguard.Refused{Message: msg, Reason: reason.Schema, Token: "schema"}) }
	}
	clean := func(m sanitize.Message) func([]byte) { return func(msg []byte) { _, _ = m("say", msg) } }
	all := sanitize.Chain(sanitize.RemoveControls, sanitize.RemoveInvisible, sanitize.Trim)
	for name, tt := range map[string]struct {
		f   func([]byte)
		msg string
	}{
		"json-rpc, no call":           {notice(jsonrpc.Notice), filled("{", `"k#":1`, "}")},
		"json-rpc, similar members":   {notice(jsonrpc.Notice), filled("{", `"metho":1,"IE":1`, "}")},
		"json-rpc, a batch":           {notice(jsonrpc.Notice), filled("[", `{"jsonrpc":"2.0","method":"a"}`, "]")},
		"json-rpc, not JSON":          {notice(jsonrpc.Notice), strings.Repeat("[", 9000) + "1" + strings.Repeat("]", 9000)},
		"graphql, a long message":     {notice(graphqlws.Notice), filled(`{"id":"1","type":"subscribe","payload":[`, `"\u0061"`, "]}")},
		"graphql, many members":       {notice(graphqlws.Notice), filled(`{`, `"typ#":"","i":1`, `,"id":"1","type":"subscribe"}`)},
		"sanitize, one string":        {clean(sanitize.At(all, "/text")), `{"text":"` + strings.Repeat(" \u202ea\u00ad", 4000) + `"}`},
		"sanitize, escapes":           {clean(sanitize.At(all, "/text")), `{"text":"` + strings.Repeat(`\u202ea\u00ad`, 2000) + `"}`},
		"sanitize, surrogates":        {clean(sanitize.At(all, "/text")), `{"text":"` + strings.Repeat(`\udb40\udc01`, 2500) + `"}`},
		"sanitize, many strings":      {clean(sanitize.At(all, "/*", "/*/*")), filled("[", `"\u00ad"`, "]")},
		"sanitize, short strings":     {clean(sanitize.At(all, "/*", "/*/*")), filled("[", `" a"`, "]")},
		"sanitize, ten pointers":      {clean(sanitize.At(all, "/a/b", "/a/c", "/b/b", "/*/d", "/x/y", "/x/z", "/*/*/e", "/c", "/d", "/*/*/*/f")), filled("{", `"#":{"e":[{"f":""}]}`, "}")},
		"sanitize, similar members":   {clean(sanitize.At(all, "/a", "/b", "/c", "/\u00e9")), filled("{", `"\u00e8#":""`, "}")},
		"sanitize, another text":      {clean(sanitize.At(sanitize.String(strings.ToUpper), "/*")), filled("[", `"\u0061<"`, "]")},
		"sanitize, another long text": {clean(sanitize.At(sanitize.String(strings.ToUpper), "/*")), `["` + strings.Repeat(`\u0061`, 5000) + `"]`},
		"sanitize, a refusal":         {clean(sanitize.At(sanitize.RefuseControls, "/*")), filled("[", `""`, `,"\u202e"]`)},
	} {
		msg := []byte(tt.msg)
		if ratio := costs(tt.f, msg); ratio > costBound {
			t.Errorf("%s: %.1f times json.Valid", name, ratio)
		} else {
			t.Logf("%s: %.1f times json.Valid", name, ratio)
		}
	}
}

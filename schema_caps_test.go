package wsguard_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

// members returns an object of n members whose names have no order that helps.
func members(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":%d`, uint32(i)*2654435761, i)
	}
	return []byte("{" + b.String()[1:] + "}")
}

// thousands writes a number as the pages do.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Each cap of JSON has a default, and a field that raises or lowers it.
func TestSchemaCaps(t *testing.T) {
	page, err := os.ReadFile("docs/schemas.md")
	if err != nil {
		t.Fatal(err)
	}
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	key := func(n int) []byte { return []byte(`{"` + strings.Repeat("k", n) + `":1}`) }
	digits := func(n int) []byte { return []byte(strings.Repeat("7", n)) }
	exponent := func(n int) []byte { return fmt.Appendf(nil, "1e%d", n) }
	for _, tt := range []struct {
		field string
		set   func(c *wsguard.SchemaConfig, n int)
		msg   func(n int) []byte
		def   int
		token string
		most  int // the largest value
		off   bool
	}{
		{"MaxDepth", func(c *wsguard.SchemaConfig, n int) { c.MaxDepth = n }, nested, 64, "depth", 10000, false},
		{"MaxKeys", func(c *wsguard.SchemaConfig, n int) { c.MaxKeys = n }, members, 256, "keys", math.MaxInt / 2, true},
		{"MaxKeyBytes", func(c *wsguard.SchemaConfig, n int) { c.MaxKeyBytes = n }, key, 256, "key_bytes", math.MaxInt / 2, true},
		{"MaxNumberBytes", func(c *wsguard.SchemaConfig, n int) { c.MaxNumberBytes = n }, digits, 64, "number_bytes", 4096, false},
		{"MaxExponent", func(c *wsguard.SchemaConfig, n int) { c.MaxExponent = n }, exponent, 400, "exponent", 1000000, false},
	} {
		for _, src := range []string{`{}`, `{"type":["object","array","number"]}`, `{"additionalProperties":{"type":"number"},"items":{"items":{}},"multipleOf":1}`, `{"anyOf":[{"maxProperties":0},{}]}`} {
			for _, n := range []int{0, tt.def, 7, 2 * tt.def, wsguard.Off} {
				var c wsguard.SchemaConfig
				tt.set(&c, n)
				s, err := c.Compile([]byte(src))
				if n == wsguard.Off && !tt.off {
					if err == nil || !strings.Contains(err.Error(), "SchemaConfig."+tt.field) {
						t.Errorf("%s: Off: %v", tt.field, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				most := n
				if n == 0 {
					most = tt.def
				}
				if n == wsguard.Off {
					most = 20 * tt.def
				}
				if err := s.Validate(tt.msg(most)); err != nil {
					t.Errorf("%s of %d: %v", tt.field, n, err)
				}
				if n == wsguard.Off {
					continue
				}
				var e *wsguard.MessageError
				if err := s.Validate(tt.msg(most + 1)); !errors.As(err, &e) || e.Reason != tt.token || !errors.Is(err, reason.JSONLimit) || !strings.HasSuffix(err.Error(), ", more than SchemaConfig."+tt.field+" allows") {
					t.Errorf("%s of %d, one more: %v", tt.field, n, err)
				}
			}
		}
		for _, n := range []int{-2, math.MinInt, tt.most + 1} {
			var c wsguard.SchemaConfig
			tt.set(&c, n)
			var e *wsguard.ConfigError
			if _, err := c.Compile([]byte(`{}`)); !errors.As(err, &e) || e.Field != "SchemaConfig."+tt.field {
				t.Errorf("%s of %d: %v", tt.field, n, err)
			}
		}
		most := "`Off`"
		if !tt.off {
			most = thousands(tt.most)
		}
		if row := fmt.Sprintf("\n| `%s` | %d | %s |", tt.field, tt.def, most); !strings.Contains(string(page), row) {
			t.Errorf("docs/schemas.md has no row %s", row[1:])
		}
		var c wsguard.SchemaConfig
		tt.set(&c, tt.most)
		if _, err := c.Compile([]byte(`{}`)); err != nil {
			t.Errorf("%s of %d: %v", tt.field, tt.most, err)
		}
	}
}

// A message of many names costs a fixed time for each, whatever the names are.
func TestManyKeysAreLinear(t *testing.T) {
	if raceDetector() {
		t.Skip("the detector changes what costs what")
	}
	s := must(wsguard.SchemaConfig{MaxKeys: wsguard.Off, MaxKeyBytes: wsguard.Off}.Compile([]byte(`{"type":"object"}`)))
	closed := must(wsguard.SchemaConfig{MaxKeys: wsguard.Off}.Compile([]byte(`{"properties":{"a":{}},"patternProperties":{"^k":{"type":"integer"}},"additionalProperties":false}`)))
	escaped := strings.ReplaceAll(string(members(100_000)), `"k`, `"\u006b`)
	alike := strings.ReplaceAll(string(members(100_000)), `"k`, `"`+strings.Repeat("k", 40))
	twice := string(members(100_000))
	twice = twice[:len(twice)-1] + twice[strings.LastIndexByte(twice, ','):]
	for name, msg := range map[string]string{"plain": string(members(100_000)), "escaped": escaped, "alike": alike, "twice": twice,
		"nested": `{"a":` + string(members(50_000)) + `,"b":[` + string(members(50_000)) + `]}`} {
		for _, s := range []*wsguard.Schema{s, closed} {
			var ratios []float64
			for range 5 {
				start := time.Now()
				json.Valid([]byte(msg))
				valid := time.Since(start)
				start = time.Now()
				err := s.Validate([]byte(msg))
				ratios = append(ratios, float64(time.Since(start))/float64(valid))
				if (err != nil) != (name == "twice") && s != closed {
					t.Errorf("%s: %v", name, err)
				}
			}
			if most := slices.Min(ratios); most > 20 {
				t.Errorf("%s: %.1f times json.Valid", name, most)
			}
		}
	}
}

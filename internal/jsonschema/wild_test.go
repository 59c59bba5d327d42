package jsonschema_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

var presetsByName = map[string]jsonschema.Preset{
	"OpenAPI30": jsonschema.PresetOpenAPI30, "OpenAPI31": jsonschema.PresetOpenAPI31, "AJV": jsonschema.PresetAJV,
	"Zod": jsonschema.PresetZod, "Pydantic": jsonschema.PresetPydantic, "Schemars": jsonschema.PresetSchemars,
}

// TestWild: schemas in the style of each tool mean what the tool means, in the engine and in the evaluator.
func TestWild(t *testing.T) {
	files, err := filepath.Glob("testdata/wild/*.json")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var c struct {
				Presets, Annotations, FormatAnnotations []string
				Schema                                  json.RawMessage
				Good                                    []json.RawMessage
				Bad                                     map[string]json.RawMessage // by the keyword that refuses
			}
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(src, &c); err != nil {
				t.Fatal(err)
			}
			opt := jsonschema.Options{Annotations: c.Annotations, FormatAnnotations: c.FormatAnnotations}
			for _, name := range c.Presets {
				opt.Presets |= presetsByName[name]
			}
			if _, err := jsonschema.Compile(c.Schema, jsonschema.Options{}); err == nil && len(c.Presets)+len(c.Annotations) > 0 {
				t.Error("compiles without the preset, too")
			}
			s, err := jsonschema.Compile(c.Schema, opt)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Good) == 0 || len(c.Bad) == 0 {
				t.Error("no messages")
			}
			for _, msg := range c.Good {
				if e := s.Explain(msg); e != nil {
					t.Errorf("%s: %v", msg, e)
				}
				if err := s.Tree(msg); err != nil {
					t.Errorf("%s: the evaluator: %v", msg, err)
				}
				if n := testing.AllocsPerRun(50, func() { s.Validate(msg) }); n > 0 && !raceEnabled {
					t.Errorf("%s: %v allocations", msg, n)
				}
			}
			for keyword, msg := range c.Bad {
				e := s.Explain(msg)
				if e == nil || strings.TrimPrefix(e.KeywordLocation, "urn:OCPP:Cp:2:2020:3:BootRequest") != keyword {
					t.Errorf("%s: %v, want %s", msg, e, keyword)
				}
				if s.Tree(msg) == nil {
					t.Errorf("%s: the evaluator accepts it", msg)
				}
			}
		})
	}
}

// TestPresetCost: no text makes a format of a preset cost more than 20 times json.Valid of the message.
func TestPresetCost(t *testing.T) {
	if raceEnabled {
		t.Skip("the detector changes what costs what")
	}
	pieces := []string{"a", "7", "ey", "😀", "c1234567890", "7777777777777777777777", "/~0", "ABCD", "::", "1Y", "[[1,", "2001:db8::/", "http://a.test/?", "1.5e"}
	if testing.Short() {
		pieces = pieces[:4]
	}
	for name, preset := range presetsByName {
		names := jsonschema.PresetNames(preset)[2]
		for _, format := range names {
			s, err := jsonschema.Compile([]byte(`{"items":{"type":["string","number","null"],"format":"`+format+`"},"type":"array","maxItems":100000}`), jsonschema.Options{Presets: preset})
			if err != nil {
				t.Fatal(err)
			}
			for _, piece := range pieces {
				for _, n := range []int{1, 20, 1000} {
					text := `"` + strings.Repeat(piece, n) + `"`
					checkCost(t, name+" "+format, s, fill("[", text, ",", "]"))
				}
			}
			checkCost(t, name+" "+format, s, fill("[", "77777777777777777777777777777.5e-1", ",", "]"))
			checkCost(t, name+" "+format, s, fill("[", "1e0", ",", "]"))
		}
	}
}

// checkCost compares the best of a few runs, so that another program's load does not count.
func checkCost(t *testing.T, name string, s *jsonschema.Schema, msg string) {
	t.Helper()
	least := func(runs int, f func()) time.Duration {
		best := time.Hour
		for range runs {
			start := time.Now()
			f()
			best = min(best, time.Since(start))
		}
		return best
	}
	b := []byte(msg)
	judge, valid := func() { s.Validate(b) }, func() { json.Valid(b) }
	for try := range 4 {
		ratio := float64(least(1+3*try, judge)) / float64(least(3, valid))
		if ratio <= 20 {
			return
		}
		if try == 3 {
			t.Errorf("%s: %.0f times json.Valid for %.40s…", name, ratio, msg)
		}
	}
}

package jsonschema_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

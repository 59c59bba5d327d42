package wsguard_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// Words, formats and presets reach the schema.
func TestSchemaWords(t *testing.T) {
	src := []byte(`{"type":"object","javaType":"A","properties":{"n":{"type":"string","nullable":true,"format":"ulid"},"p":{"format":"password"},"q":{"format":"even"}}}`)
	c := wsguard.SchemaConfig{
		Presets: wsguard.SchemaPresets{AJV: true, Zod: true}, Annotations: []string{"java*"}, FormatAnnotations: []string{"secret"},
		Formats: map[string]func(string) bool{"even": func(s string) bool { return len(s)%2 == 0 }},
	}
	s, err := c.Compile(src)
	if err != nil {
		t.Fatal(err)
	}
	for msg, ok := range map[string]bool{`{"n":null}`: true, `{"n":"x"}`: false, `{"p":"x"}`: true, `{"q":"x"}`: false, `{"q":"xx"}`: true, `{"q":7}`: true} {
		if err := s.Validate([]byte(msg)); (err == nil) != ok {
			t.Errorf("%s: %v", msg, err)
		}
	}
	_, err = wsguard.CompileSchema(src)
	for _, want := range []string{"javaType: unknown keyword", "SchemaConfig.Annotations", `unknown format "ulid"`, "SchemaConfig.FormatAnnotations"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %s in it", err, want)
		}
	}
}

// Each mistake in a SchemaConfig names its field.
func TestSchemaConfigFaults(t *testing.T) {
	format := func(string) bool { return true }
	for field, c := range map[string]wsguard.SchemaConfig{
		"SchemaConfig.Annotations":       {Annotations: []string{"a", ""}},
		"SchemaConfig.FormatAnnotations": {FormatAnnotations: []string{""}},
		"SchemaConfig.Formats":           {Formats: map[string]func(string) bool{"a": format, "b": nil}},
		"SchemaConfig.Presets":           {Presets: wsguard.SchemaPresets{OpenAPI30: true, OpenAPI31: true}},
	} {
		var e *wsguard.ConfigError
		if _, err := c.Compile([]byte(`{}`)); !errors.As(err, &e) || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, word := range []string{"*", "a**", "*a", "a*b*"} {
		var e *wsguard.ConfigError
		if _, err := (wsguard.SchemaConfig{Annotations: []string{word}}).Compile([]byte(`{}`)); !errors.As(err, &e) {
			t.Errorf("%q: %v", word, err)
		}
	}
	// All of them at once.
	_, err := wsguard.SchemaConfig{MaxDepth: -1, MaxKeys: -2, Annotations: []string{"*"}}.Compile([]byte(`{}`))
	for _, field := range []string{"MaxDepth", "MaxKeys", "Annotations"} {
		if err == nil || !strings.Contains(err.Error(), "SchemaConfig."+field) {
			t.Errorf("%v: want %s in it", err, field)
		}
	}
}

// A format that panics ends its own connection and no other.
func TestFormatPanics(t *testing.T) {
	s := must(wsguard.SchemaConfig{Formats: map[string]func(string) bool{"word": func(s string) bool {
		if s == "boom" {
			panic(s)
		}
		return true
	}}}.Compile([]byte(`{"properties":{"text":{"format":"word"}}}`)))
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) { cfg.Messages.Validator, cfg.Messages.OnInvalid = s, wsguard.ActionReply }))
		e.serve(e.g.Handler(echo))
		c, other := e.open(header()), e.open(header())
		c.WriteFrame(wstest.Text(`{"text":"boom"}`))
		wantClose(t, c, 1011, "internal_error")
		if ev := e.closed(); ev.Code != 1011 || !errors.Is(ev.Err, reason.Internal) || strings.Contains(ev.Detail, "boom") {
			t.Errorf("%+v", ev)
		}
		roundTrip(t, other, `{"text":"hello"}`)
		bye(other)
	})
}

// An object of 257 prices is a message, if its schema says so: behind a Table, too, where the type may come last.
func TestManyPrices(t *testing.T) {
	prices := string(members(1000))
	last := strings.TrimSuffix(prices, "}") + `,"type":"prices"}`
	first := `{"type":"prices",` + prices[1:]
	nested := `{"type":"prices","of":` + prices + `}`
	for _, src := range []string{`true`, `{"type":"object","properties":{"type":{"const":"prices"}}}`} {
		large := must(wsguard.SchemaConfig{MaxKeys: 1001}.Compile([]byte(src)))
		table := &wsguard.Table{Types: map[string]wsguard.Rule{"prices": {Validator: large}, "small": {}}}
		for _, msg := range []string{first, last, nested} {
			if err := large.Validate([]byte(msg)); err != nil {
				t.Error(err)
			}
			if err := table.Validate([]byte(msg)); err != nil {
				t.Errorf("behind a Table: %v", err)
			}
			var e *wsguard.MessageError
			if err := must(wsguard.CompileSchema([]byte(src))).Validate([]byte(msg)); !errors.As(err, &e) || e.Reason != "keys" {
				t.Errorf("by default: %v", err)
			}
		}
		// The bounds of one type are not those of another.
		if err := table.Validate([]byte(strings.Replace(nested, "prices", "small", 1))); !errors.Is(err, reason.JSONLimit) {
			t.Errorf("a type without a schema: %v", err)
		}
	}
}

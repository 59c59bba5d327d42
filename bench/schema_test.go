package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// TestSchema runs the table once. Only what is exact is asserted: what is accepted, what is refused, and allocations.
func TestSchema(t *testing.T) {
	results, err := runSchema(tiny(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 11 {
		t.Errorf("%d cases, want 11", len(results))
	}
	for _, r := range results {
		if !raceEnabled && r.allocs != [2]float64{} {
			t.Errorf("%s: %v allocations on accept and refusal, want none", r.c.Title, r.allocs)
		}
	}
	var b bytes.Buffer
	printSchema(&b, tiny(), results)
	goalsSchema(&b, results)
	t.Logf("\n%s", b.String())
}

func TestSchemaReport(t *testing.T) {
	round := func(engine, v5, valid float64) []schemaRound {
		return []schemaRound{{byEngine: engine, byV5: v5, byValid: valid}}
	}
	c := &schemaCase{Title: "x"}
	results := []schemaResult{
		{c: c, accept: round(100, 4000, 150), refuse: round(100, 4000, 150)},
		{c: c, accept: round(100, 1900, 400), refuse: round(100, 4000, 150), allocs: [2]float64{0, 1}},
	}
	var b bytes.Buffer
	goalsSchema(&b, results)
	want := []string{
		"÷ Unmarshal + v5: 1/40.0 (rounds 1/40.0 to 1/40.0), goal ≤ 1/30: **reached**",
		"÷ Unmarshal + v5: 1/19.0 (messages 1/19.0 to 1/19.0), goal ≤ 1/20: **NOT reached**",
		"÷ json.Valid: 1/1.5 (rounds 1/1.5 to 1/1.5), goal ≤ 1/2: **NOT reached**",
		"÷ json.Valid: 1/4.0 (messages 1/4.0 to 1/4.0), goal ≤ 1/2: **reached**",
		"goal 0: **NOT reached**",
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), b.String())
	}
	for i, w := range want {
		if !strings.HasSuffix(lines[i], w) {
			t.Errorf("line %q does not end with %q", lines[i], w)
		}
	}
}

func BenchmarkSchema(b *testing.B) {
	cases, err := schemaCases()
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range cases {
		b.Run(c.Name+"/engine", func(b *testing.B) {
			for b.Loop() {
				c.byEngine(c.Accept)
			}
		})
		b.Run(c.Name+"/valid", func(b *testing.B) {
			for b.Loop() {
				json.Valid(c.Accept)
			}
		})
	}
}

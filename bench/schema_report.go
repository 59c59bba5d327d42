package main

import (
	"fmt"
	"io"
	"slices"
)

func printSchema(w io.Writer, o options, results []schemaResult) {
	if len(results) == 0 {
		return
	}
	fmt.Fprintf(w, "A message judged by its schema, strict JSON included; rounds: %d\n\n", o.rounds)
	fmt.Fprintln(w, "| message | bytes | byte engine, ns | allocations | ÷ json.Unmarshal + v5 | ÷ json.Valid | ÷ ajv | refusal, ns | allocations | ÷ json.Unmarshal + v5 | ÷ ajv |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, r := range results {
		ns := func(rounds []schemaRound) float64 {
			return median(collect(rounds, func(m schemaRound) float64 { return m[byEngine] }))
		}
		fmt.Fprintf(w, "| %s | %d | %.0f | %.0f | %s | %s | %s | %.0f | %.0f | %s | %s |\n", r.c.Title, r.bytes,
			ns(r.accept), r.allocs[0], fraction(r.accept, byV5), fraction(r.accept, byValid), fraction(r.accept, byAjv),
			ns(r.refuse), r.allocs[1], fraction(r.refuse, byV5), fraction(r.refuse, byAjv))
	}
	fmt.Fprintln(w)
}

// fraction writes a ratio below one as it is spoken of: 1/40.
func fraction(rounds []schemaRound, by string) string {
	r, ok := schemaRatio(rounds, by)
	switch {
	case !ok:
		return "-"
	case r.mid > 0 && r.mid < 0.95:
		return fmt.Sprintf("1/%.1f", 1/r.mid)
	}
	return fmt.Sprintf("%.1f", r.mid)
}

// goalsSchema prints what the engine has to reach: the first case alone, and the median over the others.
func goalsSchema(w io.Writer, results []schemaResult) {
	if len(results) < 2 {
		return
	}
	line := goal(w)
	goal := func(by string, most int) {
		if r, ok := schemaRatio(results[0].accept, by); ok {
			if by == byV5 {
				line(r.mid <= 1.0/30, "schema, %s ÷ %s: 1/%.1f (rounds 1/%.1f to 1/%.1f), goal ≤ 1/30", results[0].c.Title, by, 1/r.mid, 1/r.low, 1/r.high)
			} else {
				line(r.mid <= 1/float64(most), "schema, %s ÷ %s: 1/%.1f (rounds 1/%.1f to 1/%.1f), goal ≤ 1/%d", results[0].c.Title, by, 1/r.mid, 1/r.low, 1/r.high, most)
			}
		}
		var q []float64
		for _, s := range results[1:] {
			if r, ok := schemaRatio(s.accept, by); ok {
				q = append(q, r.mid)
			}
		}
		if len(q) == 0 {
			return
		}
		mid := median(q)
		line(mid <= 1/float64(most), "schema, median of %d further ÷ %s: 1/%.1f (messages 1/%.1f to 1/%.1f), goal ≤ 1/%d", len(q), by, 1/mid, 1/slices.Min(q), 1/slices.Max(q), most)
	}
	goal(byV5, 20)
	goal(byValid, 2)
	goal(byAjv, 3)
	worst := 0.0
	for _, r := range results {
		worst = max(worst, r.allocs[0], r.allocs[1])
	}
	line(worst == 0, "schema, allocations on accept and on refusal: %.0f, goal 0", worst)
}

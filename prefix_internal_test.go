package wsguard

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestPrefixed compares the search with a look at each prefix.
func TestPrefixed(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	text := func(most int) string {
		b := make([]byte, r.IntN(most+1))
		for i := range b {
			b[i] = "ab\xff"[r.IntN(3)]
		}
		return string(b)
	}
	for range 5000 {
		var own table
		var texts []string
		for range r.IntN(12) {
			if s := text(6); s != "" && !slices.Contains(texts, s) {
				texts = append(texts, s)
				own.addPrefix(s, &rule{kind: s})
			}
		}
		own.linkPrefixes()
		for range 20 {
			kind, want := text(9), ""
			for _, s := range texts {
				if strings.HasPrefix(kind, s) && len(s) > len(want) {
					want = s
				}
			}
			got := ""
			if r := own.prefixed([]byte(kind)); r != nil {
				got = r.kind
			}
			if got != want {
				t.Fatalf("%q of %q: %q, want %q", kind, texts, got, want)
			}
		}
	}
}

// The walk that finds what a batch costs allocates nothing.
func TestBatchCostAllocates(t *testing.T) {
	own := (&Table{JSONRPC: true, Types: map[string]Rule{"a": {Cost: 3}}, Prefixes: map[string]Rule{"b/": {}}, Default: &Rule{}}).resolve("Table", new(faults))
	msg := []byte(`[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"b/\u0063"},{"jsonrpc":"2.0","id":"7","method":"c"}]`)
	if n := testing.AllocsPerRun(100, func() {
		if n := own.rule(msg).cost(msg); n != 5 {
			t.Errorf("a cost of %d", n)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

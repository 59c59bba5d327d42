package main

import "testing"

// Only what is exact or bounded, not the times.
func TestLimits(t *testing.T) {
	o := tiny()
	r := runLimits(o, t.Logf)
	if n := len(r.rounds[takeOne]); n != o.rounds {
		t.Errorf("%d rounds, want %d", n, o.rounds)
	}
	if !raceEnabled && r.allocs > 0.01 {
		t.Errorf("%.3f allocations for a decision, want 0", r.allocs)
	}
	if r.perKey > 64 || r.perKeyPair > 64 {
		t.Errorf("%.1f and %.1f bytes for a key and limit, want at most 64", r.perKey, r.perKeyPair)
	}
	if f := r.flood; f.used > f.limit || f.remained != f.penalised || !f.banned {
		t.Errorf("%+v", f)
	}
}

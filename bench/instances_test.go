package main

import (
	"bytes"
	"testing"
	"time"
)

// Only what is exact or bounded, not the times.
func TestInstances(t *testing.T) {
	o := tiny()
	o.budget = 200 * time.Millisecond
	r, err := runInstances(o, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		t.Skip("no Redis")
	}
	if r.budget.part > 1 || r.budget.part < 0.3 {
		t.Errorf("%.3f of the budget admitted", r.budget.part)
	}
	if r.raced != raceCap {
		t.Errorf("%d racers have a slot, want %d", r.raced, raceCap)
	}
	if r.trips != 2 || r.ticket != 2 {
		t.Errorf("%d round trips of a handshake, and %d with a ticket, want 2", r.trips, r.ticket)
	}
	if !raceEnabled && r.allocs > 0.01 {
		t.Errorf("%.3f allocations for a decision, want 0", r.allocs)
	}
	if len(r.costs) != 4 {
		t.Errorf("%d costs, want 4", len(r.costs))
	}
	for _, c := range r.costs {
		if c.in <= 0 || c.out <= 0 {
			t.Errorf("%+v", c)
		}
	}
}

// The lines of a result that is given here.
func TestInstancesGoals(t *testing.T) {
	r := &instancesResult{
		budget: budgetResult{part: 0.995, calls: 1.0 / 25}, raced: 50, granted: 1, trips: 2, ticket: 2,
		decided: [2][]time.Duration{{100}, {310}},
	}
	var b bytes.Buffer
	goalsInstances(&b, r)
	goalsInstances(&b, nil)
	want := `- 4 instances, offered 4 times the limit: 99.50 % of the budget admitted, goal 99 to 100 %: **reached**
- calls of the store for each admitted message: 1/25.0, goal ≤ 1/20: **reached**
- 800 racing acquires at a cap of 50: 50 admitted, goal 50: **reached**
- decision with a lease in hand ÷ the table alone: 3.10 (rounds 3.10 to 3.10), goal ≤ 3; 0.00 allocations, goal 0; 100.0 % of them from the lease, goal > 95 %: **NOT reached**
- round trips of a handshake with a store more than without: 2, and 2 with a ticket, goal ≤ 2: **reached**
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

package main

import (
	"fmt"
	"io"
)

func printInstances(w io.Writer, r *instancesResult) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "Several instances on one Redis, on this machine. What Redis does for one of each, and the bytes that it gets and sends:\n\n")
	fmt.Fprintln(w, "| what | CPU µs of Redis | bytes in | bytes out |")
	fmt.Fprintln(w, "|---|--:|--:|--:|")
	for _, c := range r.costs {
		fmt.Fprintf(w, "| %s | %.1f | %.0f | %.0f |\n", c.name, c.cpu, c.in, c.out)
	}
	fmt.Fprintf(w, "\nMemory of Redis for each of %d open connections, which have a client and a subject each: %.0f bytes.\n", r.heldFrom, r.held)
	if q, ok := ratioOf(r.opened[1], r.opened[0]); ok {
		fmt.Fprintf(w, "A handshake takes %s µs without a store and %s µs with one: %s times as long.\n",
			microseconds(median(r.opened[0])), microseconds(median(r.opened[1])), q.spread())
	}
	fmt.Fprintln(w)
}

// goalsInstances prints what limits that instances share have to reach.
func goalsInstances(w io.Writer, r *instancesResult) {
	if r == nil {
		return
	}
	line := goal(w)
	b := r.budget
	line(b.part <= 1 && b.part >= 0.99, "%d instances, offered 4 times the limit: %.2f %% of the budget admitted, goal 99 to 100 %%", budgetInstances, 100*b.part)
	line(b.calls <= 1.0/20, "calls of the store for each admitted message: 1/%.1f, goal ≤ 1/20", 1/b.calls)
	line(r.raced == raceCap, "%d racing acquires at a cap of %d: %d admitted, goal %d", racers, raceCap, r.raced, raceCap)
	if q, ok := ratioOf(r.decided[1], r.decided[0]); ok {
		line(q.mid <= 3 && r.allocs < 0.005 && r.granted > 0.95, "decision with a lease in hand ÷ the table alone: %s, goal ≤ 3; %.2f allocations, goal 0; %.1f %% of them from the lease, goal > 95 %%", q.spread(), r.allocs, 100*r.granted)
	}
	line(max(r.trips, r.ticket) <= 2, "round trips of a handshake with a store more than without: %d, and %d with a ticket, goal ≤ 2", r.trips, r.ticket)
}

package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// goal returns what prints a line of what has to be reached.
func goal(w io.Writer) func(reached bool, format string, args ...any) {
	return func(reached bool, format string, args ...any) {
		verdict := "NOT reached"
		if reached {
			verdict = "reached"
		}
		fmt.Fprintf(w, "- %s: **%s**\n", fmt.Sprintf(format, args...), verdict)
	}
}

// goals prints what wsguard has to reach, a line for each.
func goals(w io.Writer, echo []echoResult, idle []idleResult, refuse map[string][]refuseRound) {
	line := goal(w)
	if allocs, ok := worstAllocs(echo); ok {
		line(allocs < 0.005, "allocations per message, Read and Write, at every size: %.2f, goal 0", allocs)
	}
	if e, ok := sized(echo, 150); ok {
		if r, ok := ratioOf(e.cpu(guarded), e.cpu(gorilla)); ok {
			line(r.mid <= 1.0, "CPU per message of 150 B ÷ gorilla: %s, goal ≤ 1.0", r.spread())
		}
	}
	for _, n := range []int{4 << 10, 32 << 10} {
		if e, ok := sized(echo, n); ok {
			if r, ok := ratioOf(e.cpu(guarded), e.cpu(gwsName)); ok {
				line(r.mid <= 1.25, "CPU per message of %s ÷ gws: %s, goal ≤ 1.25", e.size.label, r.spread())
			}
		}
	}
	if e, ok := sized(echo, 150); ok {
		if r, ok := ratioOf(e.cpu(checked), e.cpu(bare)); ok {
			line(r.mid <= 1.05, "CPU per message of 150 B with a schema ÷ bare coder/websocket: %s, goal ≤ 1.05", r.spread())
		}
	}
	for _, goal := range wrapGoals {
		for _, e := range echo {
			most, ok := goal.at[e.size.bytes]
			if !ok {
				continue
			}
			if r, ok := ratioOf(e.cpu(goal.wrapped), e.cpu(goal.bare)); ok {
				line(r.mid <= most, "CPU per message of %s, %s ÷ bare: %s, goal ≤ %.2f", e.size.label, goal.wrapped, r.spread(), most)
				more := e.leastAllocs(goal.wrapped) - e.leastAllocs(goal.bare)
				line(more < 0.005, "further allocations per message of %s, %s: %.2f, goal 0", e.size.label, goal.wrapped, max(0, more))
			}
		}
	}
	cpu := func(r refuseRound) time.Duration { return r.cpu }
	for _, name := range []string{foreignOrigin, bannedClient, overTheCap} {
		if r, ok := ratioOf(collect(refuse[name], cpu), collect(refuse[plain403], cpu)); ok {
			line(r.mid <= 1.5, "CPU per refusal, %s ÷ %s: %s, goal ≤ 1.5", name, plain403, r.spread())
		}
	}
	g, ok := findIdle(idle, guarded)
	if !ok {
		return
	}
	if b, ok := findIdle(idle, bare); ok {
		fresh, used := g.fresh.inUse/b.fresh.inUse, g.used.inUse/b.used.inUse
		line(max(fresh, used) <= 0.50, "memory of an idle connection ÷ bare coder/websocket: %.2f opened, %.2f after one message, goal ≤ 0.50", fresh, used)
	}
	line(g.goroutines == 1, "goroutines per connection: %.2f, goal 1.00", g.goroutines)
}

// leastAllocs is what each message allocates: a pool that is filling shows only in some
// rounds.
func (e echoResult) leastAllocs(name string) float64 {
	return fewest(e.rounds[name], func(r echoRound) float64 { return r.allocs })
}

// fewest is the least number of allocations of all rounds.
func fewest[R any](rounds []R, allocs func(R) float64) float64 {
	return slices.Min(collect(rounds, allocs))
}

// worstAllocs is of the size that allocates most, in its best round: what each
// message allocates shows in every round, a pool that is filling only in some.
func worstAllocs(echo []echoResult) (worst float64, ok bool) {
	for _, e := range echo {
		if rounds := e.rounds[guarded]; len(rounds) > 0 {
			worst, ok = max(worst, slices.Min(collect(rounds, func(r echoRound) float64 { return r.allocs }))), true
		}
	}
	return worst, ok
}

func sized(echo []echoResult, bytes int) (echoResult, bool) {
	for _, e := range echo {
		if e.size.bytes == bytes {
			return e, true
		}
	}
	return echoResult{}, false
}

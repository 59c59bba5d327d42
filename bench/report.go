package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// median of an even number of values is the upper one of the two in the middle.
func median[T cmp.Ordered](v []T) T {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// collect takes one number out of each round.
func collect[R any, T any](rounds []R, f func(R) T) []T {
	out := make([]T, len(rounds))
	for i, r := range rounds {
		out[i] = f(r)
	}
	return out
}

// ratio compares two servers round by round, which is fairer than comparing
// their medians: the two halves of a round ran right after each other.
type ratio struct{ mid, low, high float64 }

func ratioOf(a, b []time.Duration) (r ratio, ok bool) {
	if len(a) == 0 || len(a) != len(b) {
		return r, false
	}
	q := make([]float64, len(a))
	for i := range a {
		q[i] = float64(a[i]) / float64(b[i])
	}
	return ratio{median(q), slices.Min(q), slices.Max(q)}, true
}

func (r ratio) String() string { return fmt.Sprintf("%.2f", r.mid) }

func (r ratio) spread() string {
	return fmt.Sprintf("%.2f (rounds %.2f to %.2f)", r.mid, r.low, r.high)
}

func (e echoResult) cpu(name string) []time.Duration {
	return collect(e.rounds[name], func(r echoRound) time.Duration { return r.cpu })
}

func microseconds(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/1e3) }

// orDash is for what was not measured because -servers left it out.
func orDash(r ratio, ok bool) string {
	if !ok {
		return "-"
	}
	return r.String()
}

func printMachine(w io.Writer) {
	fmt.Fprintf(w, "%s, %s/%s, %d CPUs (%s)\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), cpuModel())
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo") // Linux only; elsewhere it is not known
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "model unknown"
}

// baseline is a server with which the others are compared, and the heading of that column.
type baseline struct{ label, server string }

// printEcho prints the results of servers, compared with each baseline. over follows the size in
// the heading.
func printEcho(w io.Writer, o options, over string, servers []server, by []baseline, results []echoResult) {
	for _, e := range results {
		fmt.Fprintf(w, "Echo of %s%s: %d connections, %d in flight each, rounds of %d messages: %d\n\n",
			e.size.label, over, o.conns, inFlight, e.size.messages/o.conns*o.conns, o.rounds)
		columns, rule := "", ""
		for _, b := range by {
			columns += " ÷ " + b.label + " |"
			rule += "--:|"
		}
		fmt.Fprintf(w, "| server | CPU µs per message |%s allocations per message | messages/s |\n", columns)
		fmt.Fprintf(w, "|---|--:|%s--:|--:|\n", rule)
		for _, s := range o.pick(servers) {
			rounds, ratios := e.rounds[s.name], ""
			for _, b := range by {
				ratios += " " + orDash(ratioOf(e.cpu(s.name), e.cpu(b.server))) + " |"
			}
			fmt.Fprintf(w, "| %s | %s |%s %.2f | %.0f |\n", s.name, microseconds(median(e.cpu(s.name))), ratios,
				median(collect(rounds, func(r echoRound) float64 { return r.allocs })),
				median(collect(rounds, func(r echoRound) float64 { return r.rate })))
		}
		fmt.Fprintln(w)
	}
}

func printIdle(w io.Writer, o options, results []idleResult) {
	if len(results) == 0 {
		return
	}
	base, measured := findIdle(results, bare)
	part := func(v, of float64) string {
		if !measured {
			return "-"
		}
		return fmt.Sprintf("%.2f", v/of)
	}
	fmt.Fprintf(w, "%d idle connections: bytes of heap and stacks for each, goroutines for each\n\n", o.idleConns)
	fmt.Fprintln(w, "| server | opened | ÷ bare | after one message | ÷ bare | objects and stacks only | ÷ bare | goroutines |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|")
	for _, r := range results {
		fmt.Fprintf(w, "| %s | %.0f | %s | %.0f | %s | %.0f | %s | %.2f |\n", r.name,
			r.fresh.inUse, part(r.fresh.inUse, base.fresh.inUse),
			r.used.inUse, part(r.used.inUse, base.used.inUse),
			r.used.alloc, part(r.used.alloc, base.used.alloc), r.goroutines)
	}
	fmt.Fprintln(w)
}

func findIdle(results []idleResult, name string) (idleResult, bool) {
	for _, r := range results {
		if r.name == name {
			return r, true
		}
	}
	return idleResult{}, false
}

func printRefuse(w io.Writer, o options, rounds map[string][]refuseRound) {
	if len(rounds) == 0 {
		return
	}
	cpu := func(name string) []time.Duration {
		return collect(rounds[name], func(r refuseRound) time.Duration { return r.cpu })
	}
	fmt.Fprintf(w, "Handshakes that are refused, each on a TCP connection of its own, %d in a round; rounds: %d\n\n", o.refusals, o.rounds)
	fmt.Fprintln(w, "| server | CPU µs per refusal | ÷ net/http | refusals/s |")
	fmt.Fprintln(w, "|---|--:|--:|--:|")
	for _, s := range o.pick(refuseServers) {
		fmt.Fprintf(w, "| %s | %s | %s | %.0f |\n", s.name, microseconds(median(cpu(s.name))),
			orDash(ratioOf(cpu(s.name), cpu(plain403))),
			median(collect(rounds[s.name], func(r refuseRound) float64 { return r.rate })))
	}
	fmt.Fprintln(w)
}

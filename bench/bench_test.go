package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// The children are this test binary.
func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		exit(child(name, os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// tiny is less than quick: of what it measures, only counts are looked at.
func tiny() options {
	o := options{
		sizes: []echoSize{
			{"150 B", 150, 4000},
			{"4 KB", 4 << 10, 2000},
			{"32 KB", 32 << 10, 400},
		},
		conns:     4,
		audiences: []int{8},
		arrivals:  6400,
		rounds:    1,
		idleConns: 40,
		refusals:  20,
	}
	if raceEnabled {
		// No allocations to count, and ten times the work for each: a round is to
		// be over long before a ping, which this client does not answer.
		for i := range o.sizes {
			o.sizes[i].messages /= 10
		}
		o.arrivals /= 10
	}
	return o
}

func TestEchoAllocatesNothing(t *testing.T) {
	results, err := runEcho(tiny(), echoServers, tiny().sizes, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range results {
		for _, s := range echoServers {
			if n := len(e.rounds[s.name]); n != 1 {
				t.Errorf("%s, %s: %d rounds, want 1", e.size.label, s.name, n)
			}
		}
		allocs := e.rounds[guarded][0].allocs
		t.Logf("%s: %.3f allocations per message", e.size.label, allocs)
		// A round is short here: the few allocations of the runtime and of
		// asking for the numbers come to hundredths, one per message to 1.
		if !raceEnabled && allocs > 0.5 {
			t.Errorf("%s: %.3f allocations per message, want 0", e.size.label, allocs)
		}
	}
}

func TestEchoOverTLS(t *testing.T) {
	o := tiny()
	results, err := runEcho(o, tlsServers, o.small(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 {
		t.Errorf("%d sizes, want 2", len(results))
	}
	for _, e := range results {
		for _, s := range tlsServers {
			if n := len(e.rounds[s.name]); n != 1 {
				t.Errorf("%s, %s: %d rounds, want 1", e.size.label, s.name, n)
			}
		}
		t.Logf("%s: %.3f allocations per message", e.size.label, e.rounds[guardedTLS][0].allocs)
	}
}

func TestBroadcastReachesAll(t *testing.T) {
	results, err := runBroadcast(tiny(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(broadcastInFlight) {
		t.Errorf("%d results, want %d", len(results), len(broadcastInFlight))
	}
	for _, b := range results {
		for _, s := range broadcastServers {
			if n := len(b.rounds[s.name]); n != 1 {
				t.Errorf("%s, %s: %d rounds, want 1", b, s.name, n)
			}
		}
		t.Logf("%s: %.3f allocations per message", b, b.rounds[bySend][0].allocs)
	}
}

func TestOneGoroutinePerConnection(t *testing.T) {
	o := tiny()
	o.servers = []string{guarded, bare}
	results, err := runIdle(o, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := findIdle(results, guarded)
	if !ok || r.goroutines != 1 {
		t.Errorf("%.3f goroutines per connection (measured: %t), want 1", r.goroutines, ok)
	}
}

func TestRefusals(t *testing.T) {
	rounds, err := runRefuse(tiny(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range refuseServers {
		if len(rounds[s.name]) != 1 {
			t.Errorf("%s: %d rounds, want 1", s.name, len(rounds[s.name]))
		}
	}
}

// The tables are made from numbers given here, so that the test does not depend
// on the machine.
func TestReport(t *testing.T) {
	o := tiny()
	echo := []echoResult{
		{o.sizes[0], map[string][]echoRound{
			guarded: {{cpu: 90}, {cpu: 110}, {cpu: 99}},
			gorilla: {{cpu: 100}, {cpu: 100}, {cpu: 100}},
		}},
		{o.sizes[1], map[string][]echoRound{
			guarded: {{cpu: 130}, {cpu: 130}, {cpu: 130}},
			gwsName: {{cpu: 100}, {cpu: 100}, {cpu: 100}},
		}},
		{o.sizes[2], map[string][]echoRound{
			guarded: {{cpu: 120}, {cpu: 120}, {cpu: 120}},
			gwsName: {{cpu: 100}, {cpu: 100}, {cpu: 100}},
		}},
	}
	broadcast := []broadcastResult{
		{broadcastCase{200, 1}, map[string][]broadcastRound{
			bySend:        {{cpu: 110, allocs: 2}, {cpu: 110}, {cpu: 110}},
			byBroadcaster: {{cpu: 100}, {cpu: 100}, {cpu: 100}},
		}},
		{broadcastCase{2000, 16}, map[string][]broadcastRound{
			bySend:        {{cpu: 36}, {cpu: 36}, {cpu: 36}},
			byBroadcaster: {{cpu: 100}, {cpu: 100}, {cpu: 100}},
		}},
	}
	idle := []idleResult{
		{name: guarded, fresh: memory{inUse: 50}, used: memory{inUse: 51}, goroutines: 1},
		{name: bare, fresh: memory{inUse: 100}, used: memory{inUse: 100}, goroutines: 1},
	}
	var b bytes.Buffer
	o.servers = []string{guarded, gorilla, gwsName, bare}
	goals(&b, echo, idle, nil)
	goalsBroadcast(&b, broadcast)
	want := []string{
		"at every size: 0.00, goal 0: **reached**",
		"÷ gorilla: 0.99 (rounds 0.90 to 1.10), goal ≤ 1.0: **reached**",
		"4 KB ÷ gws: 1.30 (rounds 1.30 to 1.30), goal ≤ 1.25: **NOT reached**",
		"32 KB ÷ gws: 1.20 (rounds 1.20 to 1.20), goal ≤ 1.25: **reached**",
		"0.50 opened, 0.51 after one message, goal ≤ 0.50: **NOT reached**",
		"goroutines per connection: 1.00, goal 1.00: **reached**",
		"200 connections, 1 in flight ÷ gws's Broadcaster: 1.10 (rounds 1.10 to 1.10), goal ≤ 1.10: **reached**",
		"2000 connections, 16 in flight ÷ gws's Broadcaster: 0.36 (rounds 0.36 to 0.36), goal ≤ 0.35: **NOT reached**",
		"allocations per message, wsguard, Send, in every case: 0.00, goal 0: **reached**",
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

// Watching allocates nothing for a message. A scrape and an export come each second.
func TestWatched(t *testing.T) {
	o := tiny()
	o.sizes = []echoSize{{"150 B", 150, 40_000}}
	results, err := runEcho(o, watchedServers, o.sizes, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range results {
		allocs := e.rounds[watched][0].allocs
		t.Logf("%s: %.3f allocations per message", e.size.label, allocs)
		if !raceEnabled && allocs > 0.5 {
			t.Errorf("%s: %.3f allocations per message, want 0", e.size.label, allocs)
		}
	}
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// broadcastBytes is the size of each message.
const broadcastBytes = 150

// broadcastCase is how many connections get each message, and how many messages
// the sender sends before it waits until all connections have got them.
type broadcastCase struct{ conns, inFlight int }

func (c broadcastCase) String() string {
	return fmt.Sprintf("%d connections, %d in flight", c.conns, c.inFlight)
}

// broadcastInFlight are the numbers of messages in flight that are measured.
var broadcastInFlight = []int{1, 16, 64}

// broadcastRound is what one round of one server took.
type broadcastRound struct {
	cpu    time.Duration // of the server, for each message and connection
	allocs float64       // of the server, for each message and connection
	rate   float64       // messages a second that arrive, of all connections together
}

// broadcastResult has the rounds of each server, by name.
type broadcastResult struct {
	broadcastCase
	rounds map[string][]broadcastRound
}

func (b broadcastResult) cpu(name string) []time.Duration {
	return collect(b.rounds[name], func(r broadcastRound) time.Duration { return r.cpu })
}

// batches is how often the sender sends in a round in which about this many
// messages arrive.
func (c broadcastCase) batches(messages int) int { return max(2, messages/(c.conns*c.inFlight)) }

// runBroadcast measures the servers in turn, round by round.
func runBroadcast(o options, log func(string, ...any)) ([]broadcastResult, error) {
	children, stopAll, err := startAll(o.pick(broadcastServers), o.profile)
	if err != nil {
		return nil, err
	}
	var results []broadcastResult
	for _, conns := range o.audiences {
		first := len(results)
		for _, n := range broadcastInFlight {
			results = append(results, broadcastResult{broadcastCase{conns, n}, map[string][]broadcastRound{}})
		}
		for round := range o.rounds {
			log("broadcast to %d connections, round %d of %d", conns, round+1, o.rounds)
			for _, p := range children {
				if err := broadcastOnce(p, results[first:], o.arrivals); err != nil {
					stopAll()
					return nil, fmt.Errorf("%s: broadcast to %d connections: %w", p.name, conns, err)
				}
			}
		}
	}
	return results, stopAll()
}

// broadcastOnce adds a round of p to each of results, which all have the same number of
// connections.
func broadcastOnce(p *process, results []broadcastResult, arrivals int) error {
	c, err := dialAll(p, results[0].conns)
	if err != nil {
		return err
	}
	defer c.close()
	m := newMessage(broadcastBytes)
	// A server echoes the first message of a connection, and from then on the
	// connection gets what is broadcast.
	for _, cl := range c {
		err := cl.echo(m, 1)
		cl.buf = nil // 64 KiB, which nothing of what follows needs
		if err != nil {
			return err
		}
	}
	for _, res := range results {
		r, err := c.broadcast(p, m, res.broadcastCase, res.batches(arrivals))
		if err != nil {
			return fmt.Errorf("%d in flight: %w", res.inFlight, err)
		}
		res.rounds[p.name] = append(res.rounds[p.name], r)
	}
	return nil
}

func (c crowd) broadcast(p *process, m *message, of broadcastCase, batches int) (r broadcastRound, err error) {
	// Pools and buffers fill in the first batches.
	if err := c.spread(m, of.inFlight, max(2, batches/10)); err != nil {
		return r, err
	}
	before, err := p.ask(askNow)
	if err != nil {
		return r, err
	}
	begin := time.Now()
	if err := c.spread(m, of.inFlight, batches); err != nil {
		return r, err
	}
	took := time.Since(begin)
	after, err := p.ask(askNow)
	if err != nil {
		return r, err
	}
	n := batches * of.inFlight * of.conns
	return broadcastRound{
		cpu:    (after.CPU - before.CPU) / time.Duration(n),
		allocs: float64(after.Mallocs-before.Mallocs) / float64(n),
		rate:   float64(n) / took.Seconds(),
	}, nil
}

// spread has the first client send inFlight messages in one write, and waits until each
// client has got all of them. It does so as often as batches says.
func (c crowd) spread(m *message, inFlight, batches int) error {
	sent := bytes.Repeat(m.sent[:m.one], inFlight)
	want := bytes.Repeat(m.echo, inFlight)
	for _, cl := range c {
		cl.conn.SetDeadline(time.Now().Add(limitPerRound))
		if len(cl.buf) < len(want) {
			cl.buf = make([]byte, len(want))
		}
	}
	for range batches {
		if _, err := c[0].conn.Write(sent); err != nil {
			return err
		}
		err := parallel(len(c), len(c), func(i int) error {
			got := c[i].buf[:len(want)]
			if _, err := io.ReadFull(c[i].conn, got); err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("connection %d did not get what was sent", i)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func printBroadcast(w io.Writer, o options, results []broadcastResult) {
	if len(results) == 0 {
		return
	}
	fmt.Fprintf(w, "Broadcast of %d B by one sender; rounds: %d. A message counts for each connection that gets it.\n\n", broadcastBytes, o.rounds)
	fmt.Fprintln(w, "| connections | in flight | server | CPU µs per message | ÷ gws, Broadcaster | allocations per message | messages/s |")
	fmt.Fprintln(w, "|--:|--:|---|--:|--:|--:|--:|")
	for _, b := range results {
		for _, s := range o.pick(broadcastServers) {
			rounds := b.rounds[s.name]
			fmt.Fprintf(w, "| %d | %d | %s | %s | %s | %.2f | %.0f |\n", b.conns, b.inFlight, s.name,
				microseconds(median(b.cpu(s.name))),
				orDash(ratioOf(b.cpu(s.name), b.cpu(byBroadcaster))),
				median(collect(rounds, func(r broadcastRound) float64 { return r.allocs })),
				median(collect(rounds, func(r broadcastRound) float64 { return r.rate })))
		}
	}
	fmt.Fprintln(w)
}

// goalsBroadcast prints what the servers of wsguard have to reach.
func goalsBroadcast(w io.Writer, results []broadcastResult) {
	line := goal(w)
	for _, s := range broadcastServers {
		if s.name == byBroadcaster {
			continue
		}
		worst, measured := 0.0, false
		for _, b := range results {
			if r, ok := ratioOf(b.cpu(s.name), b.cpu(byBroadcaster)); ok {
				most := 0.35
				if b.inFlight == 1 {
					most = 1.1
				}
				line(r.mid <= most, "CPU per message, %s, %s ÷ gws's Broadcaster: %s, goal ≤ %.2f", s.name, b, r.spread(), most)
			}
			if rounds := b.rounds[s.name]; len(rounds) > 0 {
				measured = true
				worst = max(worst, b.leastAllocs(s.name))
			}
		}
		if measured {
			line(worst < 0.005, "allocations per message, %s, in every case: %.2f, goal 0", s.name, worst)
		}
	}
}

// leastAllocs is of the round that allocates least, because a pool that is filling shows
// only in some rounds.
func (b broadcastResult) leastAllocs(name string) float64 {
	return fewest(b.rounds[name], func(r broadcastRound) float64 { return r.allocs })
}

package main

import (
	"fmt"
	"time"
)

// echoSize is one size of message, and how many of them make a round.
type echoSize struct {
	label    string
	bytes    int
	messages int // of all connections together
}

// echoRound is what one round of one server took.
type echoRound struct {
	cpu    time.Duration // of the server, for each message
	allocs float64       // of the server, for each message
	rate   float64       // messages a second
}

// echoResult has the rounds of each server, by name.
type echoResult struct {
	size   echoSize
	rounds map[string][]echoRound
}

// runEcho measures the servers in turn, round by round, so that whatever else
// the machine does hits them alike.
func runEcho(o options, servers []server, sizes []echoSize, log func(string, ...any)) ([]echoResult, error) {
	children, stopAll, err := startAll(o.pick(servers), o.profile)
	if err != nil {
		return nil, err
	}
	var results []echoResult
	for _, size := range sizes {
		res := echoResult{size, map[string][]echoRound{}}
		for round := range o.rounds {
			log("echo of %s, round %d of %d", size.label, round+1, o.rounds)
			for _, p := range children {
				r, err := echoOnce(p, size, o.conns)
				if err != nil {
					stopAll()
					return nil, fmt.Errorf("%s: echo of %s: %w", p.name, size.label, err)
				}
				res.rounds[p.name] = append(res.rounds[p.name], r)
			}
		}
		results = append(results, res)
	}
	return results, stopAll()
}

func echoOnce(p *process, size echoSize, conns int) (r echoRound, err error) {
	// New connections for each round: one that waits for its turn would be
	// pinged, and this client answers no pings.
	c, err := dialAll(p, conns)
	if err != nil {
		return r, err
	}
	defer c.close()
	m := newMessage(size.bytes)
	each := size.messages / conns
	// Steady state is what is measured: pools and buffers are full by then.
	if err := c.echo(m, max(2*inFlight, each/10)); err != nil {
		return r, err
	}
	before, err := p.ask(askNow)
	if err != nil {
		return r, err
	}
	begin := time.Now()
	if err := c.echo(m, each); err != nil {
		return r, err
	}
	took := time.Since(begin)
	after, err := p.ask(askNow)
	if err != nil {
		return r, err
	}
	n := each * conns
	return echoRound{
		cpu:    (after.CPU - before.CPU) / time.Duration(n),
		allocs: float64(after.Mallocs-before.Mallocs) / float64(n),
		rate:   float64(n) / took.Seconds(),
	}, nil
}

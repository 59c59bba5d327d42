package main

import "fmt"

// idleResult is what one connection of a server takes while nothing happens.
type idleResult struct {
	name       string
	fresh      memory // opened, nothing sent
	used       memory // after one message has been echoed
	goroutines float64
}

// memory is in bytes for each connection.
type memory struct {
	inUse float64 // spans of the heap that are in use, and stacks
	alloc float64 // objects on the heap, and stacks
}

func runIdle(o options, log func(string, ...any)) ([]idleResult, error) {
	var results []idleResult
	for _, s := range o.pick(echoServers) {
		log("%d idle connections: %s", o.idleConns, s.name)
		r, err := idleOnce(s, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

func idleOnce(s server, o options) (r idleResult, err error) {
	// A process of its own: nothing that other measurements have left.
	p, err := start(s, o.profile)
	if err != nil {
		return r, err
	}
	defer func() {
		if e := p.stop(); err == nil {
			err = e
		}
	}()
	m := newMessage(150)
	// What there is once, whatever the number of connections, is there with
	// the first one.
	first, err := dialAll(p, 1)
	if err != nil {
		return r, err
	}
	defer first.close()
	if err := first.echo(m, 1); err != nil {
		return r, err
	}
	before, err := p.ask(askSettled)
	if err != nil {
		return r, err
	}
	// Kept and closed at the end, or the garbage collector closes them.
	c, err := dialAll(p, o.idleConns)
	if err != nil {
		return r, err
	}
	defer c.close()
	fresh, err := p.ask(askSettled)
	if err != nil {
		return r, err
	}
	// One by one: what is kept afterwards is a connection's, not a pool's.
	for _, cl := range c {
		err := cl.echo(m, 1)
		cl.buf = nil
		if err != nil {
			return r, err
		}
	}
	used, err := p.ask(askSettled)
	if err != nil {
		return r, err
	}
	each := func(s stats) memory {
		n := float64(o.idleConns)
		stacks := float64(s.StackInuse) - float64(before.StackInuse)
		return memory{
			inUse: (float64(s.HeapInuse) - float64(before.HeapInuse) + stacks) / n,
			alloc: (float64(s.HeapAlloc) - float64(before.HeapAlloc) + stacks) / n,
		}
	}
	return idleResult{
		name:       s.name,
		fresh:      each(fresh),
		used:       each(used),
		goroutines: float64(used.Goroutines-before.Goroutines) / float64(o.idleConns),
	}, nil
}

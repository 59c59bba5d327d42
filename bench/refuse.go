package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"time"
)

// refuseRound is what one round of refused handshakes took.
type refuseRound struct {
	cpu  time.Duration // of the server, for each
	rate float64       // a second
}

// runRefuse measures refused handshakes, each on a TCP connection of its own: a
// refusal closes it.
func runRefuse(o options, log func(string, ...any)) (map[string][]refuseRound, error) {
	children, stopAll, err := startAll(o.pick(refuseServers), o.profile)
	if err != nil {
		return nil, err
	}
	rounds := map[string][]refuseRound{}
	for round := range o.rounds {
		log("refused handshakes, round %d of %d", round+1, o.rounds)
		for _, p := range children {
			r, err := refuseOnce(p, o.refusals)
			if err != nil {
				stopAll()
				return nil, fmt.Errorf("%s: refusals: %w", p.name, err)
			}
			rounds[p.name] = append(rounds[p.name], r)
		}
	}
	return rounds, stopAll()
}

func refuseOnce(p *process, n int) (r refuseRound, err error) {
	origin, status := "http://"+p.addr, "403"
	switch p.name {
	case bannedClient:
		status = "429"
	case overTheCap:
		status = "503"
	default:
		origin = "https://evil.example"
	}
	request := []byte(handshake(p.addr, origin))
	one := func(int) error { return refused(p.addr, request, status) }
	const workers = 8
	if err := parallel(workers, n/10, one); err != nil { // the first are dearer
		return r, err
	}
	before, err := p.ask(askNow)
	if err != nil {
		return r, err
	}
	begin := time.Now()
	if err := parallel(workers, n, one); err != nil {
		return r, err
	}
	took := time.Since(begin)
	after, err := p.ask(askNow)
	return refuseRound{
		cpu:  (after.CPU - before.CPU) / time.Duration(n),
		rate: float64(n) / took.Seconds(),
	}, err
}

// refused makes one request and reads until the server closes.
func refused(addr string, request []byte, status string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(request); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 "+status+" ")) {
		return fmt.Errorf("not a %s: %.40q", status, answer)
	}
	return nil
}

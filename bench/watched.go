package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// Names of servers that differ in who watches them.
const (
	unwatched    = "wsguard, nothing attached"
	quietRefusal = "wsguard, foreign origin, no log"
)

// watchedServers are compared with each other only.
var watchedServers = []server{
	{name: unwatched, handler: func(origin string) http.Handler { return guardEcho(newGuardWith(origin, silent)) }},
	{name: watched, handler: guardWatched},
}

// silent switches the log off.
func silent(cfg *wsguard.Config) { cfg.Logger = slog.New(slog.DiscardHandler) }

// statsConns are the numbers of connections with which Stats is measured.
var statsConns = [2]int{100, 10_000}

// runStats measures Guard.Stats with few and with many connections, in this process and in turn,
// so that both share the machine and the collector.
func runStats(o options, log func(string, ...any)) (rounds [2][]time.Duration, err error) {
	var guards [2]*wsguard.Guard
	for i, n := range statsConns {
		log("stats: %d connections", n)
		guard, stop, err := idleGuard(n)
		if err != nil {
			return rounds, err
		}
		defer stop()
		guards[i] = guard
	}
	settle()
	for range o.rounds * 20 {
		for i, g := range guards {
			began := time.Now()
			for range 20 {
				g.Stats()
			}
			rounds[i] = append(rounds[i], time.Since(began)/20)
		}
	}
	return rounds, nil
}

// idleGuard returns a Guard with n connections in memory.
func idleGuard(n int) (*wsguard.Guard, func(), error) {
	guard := newGuardWith("http://bench.test", func(cfg *wsguard.Config) {
		silent(cfg)
		cfg.InsecureAllowHTTP = true
		cfg.Caps = wsguard.CapConfig{MaxConns: wsguard.Off, MaxConnsPerClient: wsguard.Off, MaxUsersPerClient: wsguard.Off, MaxConnsPerSubject: wsguard.Off}
		cfg.Timeouts.PingInterval = wsguard.Off
	})
	srv := &http.Server{Handler: guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		<-ctx.Done()
		return nil
	})}
	l := wstest.NewListener(wstest.PipeOptions{})
	go srv.Serve(l)
	var conns []net.Conn
	stop := func() {
		for _, c := range conns {
			c.Close()
		}
		srv.Close()
		guard.Shutdown(context.Background())
	}
	request := []byte(handshake("bench.test", "http://bench.test"))
	for range n {
		c, err := l.Dial(context.Background())
		if err == nil {
			conns = append(conns, c)
			err = opens(c, request)
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
	}
	return guard, stop, nil
}

// opens makes a handshake that must succeed.
func opens(c net.Conn, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if string(answer[9:]) != "101" {
		return fmt.Errorf("not a 101: %q", answer)
	}
	return nil
}

func printStats(w io.Writer, o options, rounds [2][]time.Duration) {
	if len(rounds[0]) == 0 {
		return
	}
	fmt.Fprintf(w, "Guard.Stats: %d calls in turn\n\n| connections | µs per call |\n|--:|--:|\n", len(rounds[0])*20)
	for i, n := range statsConns {
		fmt.Fprintf(w, "| %d | %s |\n", n, microseconds(median(rounds[i])))
	}
	fmt.Fprintln(w)
}

// goalsWatched prints what being watched may cost.
func goalsWatched(w io.Writer, echo []echoResult, refuse map[string][]refuseRound, stats [2][]time.Duration) {
	line := goal(w)
	for _, e := range echo {
		if r, ok := ratioOf(e.cpu(watched), e.cpu(unwatched)); ok {
			line(r.mid <= 1.03, "CPU per message of %s, everything attached ÷ nothing attached: %s, goal ≤ 1.03", e.size.label, r.spread())
			more := max(0, e.leastAllocs(watched)-e.leastAllocs(unwatched))
			line(more < 0.05, "further allocations per message of %s, scrapes included: %.2f, goal 0", e.size.label, more)
		}
	}
	cpu := func(r refuseRound) time.Duration { return r.cpu }
	if r, ok := ratioOf(collect(refuse[foreignOrigin], cpu), collect(refuse[quietRefusal], cpu)); ok {
		line(r.mid <= 1.2, "CPU per refusal, sampled log ÷ no log: %s, goal ≤ 1.2", r.spread())
	}
	if r, ok := ratioOf(stats[1], stats[0]); ok {
		line(r.mid <= 1.1, "Guard.Stats with %d connections ÷ %d: %s, goal 1", statsConns[1], statsConns[0], r.spread())
	}
}

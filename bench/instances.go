package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// instancesResult is what limits cost that several instances share on one Redis.
type instancesResult struct {
	budget   budgetResult
	raced    int                // of racers, those that got a slot
	decided  [2][]time.Duration // of the table alone, and with a lease; in picoseconds
	granted  float64            // the part of the decisions that the lease has granted
	allocs   float64            // for each decision
	opened   [2][]time.Duration // handshakes without a store, and with one
	trips    int                // the most round trips of a handshake
	ticket   int                // the same with a ticket
	costs    []costResult
	held     float64 // bytes of memory of Redis for each connection
	heldFrom int     // of so many connections
}

type budgetResult struct {
	part  float64 // of the budget, 1 is all of it
	calls float64 // of the store, for each admitted message
}

// costResult is what Redis does for one of something.
type costResult struct {
	name string
	redisLoad
}

// The limit that is offered four times as much by four instances, and the cap.
const (
	budgetInstances = 4
	budgetRate      = 1000
	budgetBurst     = 200
	racers          = 800
	raceCap         = 50
)

const instancesOrigin = "http://bench.test"

// runInstances starts a Redis. It returns nil if there is none.
func runInstances(o options, log func(string, ...any)) (*instancesResult, error) {
	if _, err := exec.LookPath(redisProgram); err != nil {
		log("instances: left out, because %s is not installed", redisProgram)
		return nil, nil
	}
	addr, stop, err := startRedis()
	if err != nil {
		return nil, err
	}
	defer stop()
	r := &instancesResult{}
	for _, step := range []struct {
		name string
		run  func(options, string) error
	}{
		{"the budget", r.spendBudget},
		{"the race for slots", r.race},
		{"decisions", func(o options, _ string) error { r.decide(o.rounds, o.refusals*1000); return nil }},
		{"handshakes", r.open},
		{"what Redis does", r.measureRedis},
	} {
		log("instances: %s", step.name)
		if err := step.run(o, addr); err != nil {
			return nil, fmt.Errorf("instances: %s: %w", step.name, err)
		}
	}
	return r, nil
}

// instance is a Guard that listens in memory. A client sets its address by the header Client.
type instance struct {
	guard  *wsguard.Guard
	client *redis.Client // nil without a store
	store  *wsguardredis.Store
	server *http.Server
	l      *wstest.Listener
	conns  []net.Conn
	trips  atomic.Int64 // the most round trips of one request
}

// newInstance returns an instance that shares everything on the Redis at addr, or nothing if addr
// is "". The subject of a connection is its token. change may change the configuration.
func newInstance(addr, prefix string, handler func(context.Context, *wsguard.Conn) error, change func(*wsguard.Config)) (*instance, error) {
	in := &instance{l: wstest.NewListener(wstest.PipeOptions{})}
	var shared wsguard.SharedConfig
	if addr != "" {
		s, client, err := openStore(addr, prefix)
		if err != nil {
			return nil, err
		}
		in.store, in.client, shared = s, client, s.Shared()
	}
	in.guard = newGuardWith(instancesOrigin, func(cfg *wsguard.Config) {
		silent(cfg)
		cfg.Shared = shared
		cfg.InsecureAllowHTTP = true
		cfg.Auth.Verifier = func(_ context.Context, token string) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: token, IssuedAt: time.Now()}, nil
		}
		cfg.Auth.Tickets = &wsguard.TicketConfig{}
		cfg.Caps = wsguard.CapConfig{}
		cfg.Rates = wsguard.RateConfig{}
		cfg.Timeouts.PingInterval = wsguard.Off
		change(cfg)
	})
	mux := http.NewServeMux()
	mux.Handle("/ws", in.guard.Handler(handler))
	mux.Handle("/ticket", in.guard.TicketHandler(nil))
	in.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if client := r.Header.Get("Client"); client != "" {
			r.RemoteAddr = net.JoinHostPort(client, "1")
		}
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tripsKey{}, &in.trips)))
	})}
	go in.server.Serve(in.l)
	return in, nil
}

func countTrip(ctx context.Context) {
	if n, ok := ctx.Value(tripsKey{}).(*atomic.Int64); ok {
		n.Add(1)
	}
}

// hold is a handler that keeps its connection until the peer closes it.
func hold(ctx context.Context, c *wsguard.Conn) error {
	_, _, err := c.Read(ctx)
	return err
}

// dial opens a connection of a client and a subject, or with a ticket if path has one.
func (in *instance) dial(path, client, subject string) (net.Conn, error) {
	c, err := in.l.Dial(context.Background())
	if err != nil {
		return nil, err
	}
	in.conns = append(in.conns, c)
	request := "GET " + path + " HTTP/1.1\r\nHost: bench.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Origin: " + instancesOrigin + "\r\nClient: " + client + "\r\n"
	if subject != "" {
		request += "Authorization: Bearer " + subject + "\r\n"
	}
	return c, opens(c, []byte(request+"\r\n"))
}

// hangUp closes the connections.
func (in *instance) hangUp() {
	for _, c := range in.conns {
		c.Close()
	}
	in.conns = nil
}

func (in *instance) stop() {
	in.hangUp()
	in.guard.Shutdown(context.Background())
	in.server.Close()
	if in.client != nil {
		in.client.Close()
	}
}

// addrOf returns the address of the i-th client.
func addrOf(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255) }

// spendBudget offers four instances four times what one subject may send.
func (r *instancesResult) spendBudget(o options, addr string) error {
	off := wsguard.Rate{PerSecond: wsguard.Off}
	var admitted atomic.Int64
	count := func(ctx context.Context, c *wsguard.Conn) error {
		for {
			if _, _, err := c.Read(ctx); err != nil {
				return err
			}
			admitted.Add(1)
		}
	}
	var conns []net.Conn
	var all []*instance
	for i := range budgetInstances {
		in, err := newInstance(addr, "budget", count, func(cfg *wsguard.Config) {
			cfg.Rates = wsguard.RateConfig{
				Messages: off, Bytes: off, ClientMessages: off, ClientBytes: off, SubjectBytes: off,
				SubjectMessages: wsguard.Rate{PerSecond: budgetRate, Burst: budgetBurst},
				Action:          wsguard.ActionReply,
			}
			cfg.Penalties.Violations = off
		})
		if err != nil {
			return err
		}
		defer in.stop()
		all = append(all, in)
		for j := range 4 {
			c, err := in.dial("/ws", addrOf(i*4+j), "alice")
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
	}
	time.Sleep(time.Second) // the tokens that the handshakes have taken have ended
	calls := func() (n uint64) {
		for _, in := range all {
			n += in.guard.Stats().Shared.Calls[audit.StoreCall{Operation: "rates_take", Result: "ok"}]
		}
		return n
	}
	called, begin := calls(), time.Now()
	offer(conns, begin, o.budget)
	n := float64(admitted.Load())
	r.budget.part = n / (budgetBurst + budgetRate*time.Since(begin).Seconds())
	r.budget.calls = float64(calls()-called) / n
	return nil
}

// offer sends four times budgetRate on the connections together, for a time. It reads what comes
// back.
func offer(conns []net.Conn, begin time.Time, length time.Duration) {
	var sending sync.WaitGroup
	every := time.Duration(len(conns)) * time.Second / (4 * budgetRate)
	for _, c := range conns {
		go func() {
			buf := make([]byte, 4096)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}()
		sending.Go(func() {
			frame := []byte{0x81, 0x82, 0, 0, 0, 0, '{', '}'}
			for next := begin; time.Since(begin) < length; next = next.Add(every) {
				time.Sleep(time.Until(next))
				if _, err := c.Write(frame); err != nil {
					return
				}
			}
		})
	}
	sending.Wait()
}

// race lets four stores ask for more slots than a scope has, all at the same time.
func (r *instancesResult) race(_ options, addr string) error {
	var got, failed atomic.Int64
	var racing sync.WaitGroup
	begin := make(chan struct{})
	for i := range budgetInstances {
		s, client, err := openStore(addr, "race")
		if err != nil {
			return err
		}
		defer client.Close()
		for j := range racers / budgetInstances {
			racing.Go(func() {
				<-begin
				full, err := s.Acquire(context.Background(), fmt.Sprint(i, "-", j), store.MaxLease, store.Scope{Key: "subject/alice", Max: raceCap})
				switch {
				case err != nil:
					failed.Add(1)
				case full == "":
					got.Add(1)
				}
			})
		}
	}
	close(begin)
	racing.Wait()
	if n := failed.Load(); n > 0 {
		return fmt.Errorf("%d of %d calls have failed", n, racers)
	}
	r.raced = int(got.Load())
	return nil
}

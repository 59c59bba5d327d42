package soak_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

var (
	attackTime = flag.Duration("attack", time.Minute, "how long each door of wsguard is attacked")
	peerTime   = flag.Duration("attackpeers", 5*time.Second, "how long each server of another library is attacked, for comparison")
	calmTime   = flag.Duration("calm", 5*time.Second, "how long each server is used before it is attacked")
)

const (
	manyClients   = 300
	manyAttackers = 300
)

// heapBound is how many bytes of objects a server may hold after the attack beyond those
// before it. Tables that have grown with the number of clients are most of it.
const heapBound = 8 << 20

// settling is how long the buffers of slow clients may take to fill.
const settling = 5 * time.Second

// How long a server may take to give everything back after the attack. Nothing is asserted
// about the servers of other libraries, and some never do.
const (
	guardedEnd = time.Minute
	peerEnd    = 3 * time.Second
)

// mostCalm is the latency up to which a failure says something about the server. On a
// machine that is slower than that before the attack, clients miss deadlines by themselves.
const mostCalm = time.Second

// figures are what a soak of one server has shown.
type figures struct {
	name           string
	calm, attacked time.Duration // the 99th percentile of the latencies of echoes
	clients, well  int
}

// TestNightlySoak shows that nothing of good clients is lost, that none of them is refused
// or cut off, and that the server has everything back at the end. It prints by how much
// the latency of their echoes grows under attack. It prints the same figures for other
// libraries, and asserts nothing about them.
func TestNightlySoak(t *testing.T) {
	wstest.Nightly(t)
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has all of 127.0.0.0/8 on the loopback interface")
	}
	var all []figures
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			guarded := s.name == throughHandler || s.name == throughWrap
			length := *peerTime
			if guarded {
				length = *attackTime
			}
			all = append(all, soak(t, s.name, guarded, manyClients, manyAttackers, *calmTime, length))
		})
	}
	t.Logf("latency of echoes, %d clients and %d attackers, on %d CPUs:", manyClients, manyAttackers, runtime.NumCPU())
	for _, f := range all {
		ratio := "-"
		if f.calm > 0 && f.attacked > 0 {
			ratio = fmt.Sprintf("%.1f", float64(f.attacked)/float64(f.calm))
		}
		t.Logf("%-24s p99 %8v calm, %8v under attack, ratio %6s; %d of %d clients well", f.name, f.calm, f.attacked, ratio, f.well, f.clients)
	}
}

// soak uses a server, attacks it, and looks at what is left. With guarded it fails the test
// for what must not happen to a guarded server.
func soak(t *testing.T, name string, guarded bool, clients, attackers int, calm, attack time.Duration) figures {
	srv := start(t, roleServer, name)
	var to greeting
	if err := srv.out.Decode(&to); err != nil {
		t.Fatal("the server did not start: ", err)
	}
	var before state
	if guarded {
		before = warm(t, srv, to)
	} else {
		srv.ask(t, askState, &before)
	}

	crowd, err := newCrowd(clients, to)
	if err != nil {
		t.Fatal(err)
	}
	defer crowd.finish()
	time.Sleep(settling)
	first := usage(t, srv)
	crowd.phase.Store(phaseCalm)
	time.Sleep(calm)
	crowd.phase.Store(phaseIgnored)
	second := usage(t, srv)
	if p99 := quantile(0.99, crowd.recorded(phaseCalm)); guarded && p99 > mostCalm {
		t.Skipf("the machine is too busy: without any attack the 99th percentile of the latencies is %v, and must be at most %v", p99, mostCalm)
	}

	evil := start(t, roleAttack, "")
	var ready string
	evil.ask(t, order{to, attackers}, &ready)
	crowd.phase.Store(phaseAttack)
	time.Sleep(attack)
	crowd.phase.Store(phaseIgnored)
	third := usage(t, srv)
	t.Logf("the server used %.0f %% of a CPU in calm, and %.0f %% under attack", 100*(second-first).Seconds()/calm.Seconds(), 100*(third-second).Seconds()/attack.Seconds())
	tallies := map[string]tally{}
	evil.ask(t, "stop", &tallies)
	if err := evil.stop(); err != nil {
		t.Error("the attackers ended with: ", err)
	}
	crowd.finish()

	end := peerEnd
	if guarded {
		end = guardedEnd
	}
	after := settled(t, srv, end, func(_, now state) bool { return now.Goroutines <= before.Goroutines })
	if guarded {
		crowd.check(t)
		checkEvents(t, after.Events)
		checkTallies(t, tallies)
		if after.Conns != 0 {
			t.Errorf("%d slots are held at the end", after.Conns)
		}
		if after.Goroutines > before.Goroutines {
			t.Errorf("%d goroutines at the end, %d at first", after.Goroutines, before.Goroutines)
		}
		if grown := after.Heap - before.Heap; grown > heapBound {
			t.Errorf("the heap has grown by %d bytes, want at most %d", grown, heapBound)
		}
		var last state
		srv.ask(t, askShutdown, &last)
		if last.Shutdown != "" {
			t.Error("shutdown:", last.Shutdown)
		}
	}
	if err := srv.stop(); err != nil {
		if guarded {
			t.Error("the server ended with: ", err)
		} else {
			t.Log("the server ended with: ", err)
		}
	}
	report(t, crowd, tallies, before, after)
	return figures{
		name: name, clients: clients, well: clients - len(crowd.failed),
		calm: quantile(0.99, crowd.latencies[phaseCalm]), attacked: quantile(0.99, crowd.latencies[phaseAttack]),
	}
}

// usage returns the processor time of the server.
func usage(t *testing.T, srv *child) time.Duration {
	t.Helper()
	var now state
	srv.ask(t, askState, &now)
	return now.CPU
}

// warm has one client of each kind use the server, so that what a server has once is there, and
// returns the state of the server then.
func warm(t *testing.T, srv *child, to greeting) state {
	c, err := newCrowd(len(goodKinds), to)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	c.finish()
	return settled(t, srv, guardedEnd, func(last, now state) bool { return now.Goroutines == last.Goroutines })
}

// settled waits until the server has no connection and enough says that nothing more ends. It
// returns the state of the server then, or at the end of longest.
func settled(t *testing.T, srv *child, longest time.Duration, enough func(last, now state) bool) state {
	t.Helper()
	var last state
	for begin := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		var now state
		srv.ask(t, askState, &now)
		if now.Conns == 0 && enough(last, now) || time.Since(begin) > longest {
			return now
		}
		last = now
	}
}

// check fails the test if a good client was not well served.
func (c *crowd) check(t *testing.T) {
	t.Helper()
	if c.answers.Load() == 0 {
		t.Error("no client has had an answer")
	}
	const most = 5
	for kind, errs := range c.failures() {
		t.Errorf("%d good clients (%s) were refused or cut off, or have lost something", len(errs), kind)
		for _, err := range errs[:min(len(errs), most)] {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// checkEvents fails the test if the Guard has refused a good client or ended its connection. A
// slow client need not have seen its end before the test is over.
func checkEvents(t *testing.T, events map[string]int) {
	t.Helper()
	for what, n := range events {
		switch event, good := strings.CutSuffix(what, ofGood); {
		case !good, event == "close peer_closed", event == "close connection_lost":
		default:
			t.Errorf("%d times: %s", n, what)
		}
	}
}

// checkTallies fails the test if attackers of a kind have done nothing.
func checkTallies(t *testing.T, tallies map[string]tally) {
	t.Helper()
	for _, k := range attackKinds {
		switch n := tallies[k.name]; {
		case n.Tries == 0:
			t.Errorf("nobody has tried: %s", k.name)
		case n.Opened == 0 && !slices.Contains([]string{"slow header", "slow body", "foreign origin", "bad token"}, k.name):
			t.Errorf("no handshake was accepted, so that nothing was attacked: %s", k.name)
		}
	}
}

// report logs what has happened.
func report(t *testing.T, c *crowd, tallies map[string]tally, before, after state) {
	quiet, loud := c.latencies[phaseCalm], c.latencies[phaseAttack]
	t.Logf("%d messages came back; p50 and p99 of %d echoes in calm: %v, %v; of %d under attack: %v, %v", c.answers.Load(),
		len(quiet), quantile(0.5, quiet), quantile(0.99, quiet), len(loud), quantile(0.5, loud), quantile(0.99, loud))
	for kind, errs := range c.failures() {
		t.Logf("%d failed (%s), the first with: %v", len(errs), kind, errs[0])
	}
	t.Logf("at first: %d goroutines, %d bytes of heap; at the end: %d slots, %d goroutines, %d bytes", before.Goroutines, before.Heap, after.Conns, after.Goroutines, after.Heap)
	for _, k := range attackKinds {
		n := tallies[k.name]
		t.Logf("%-25s %6d tries, %6d accepted, %6d refused", k.name, n.Tries, n.Opened, n.Refused)
	}
	events := slices.SortedFunc(maps.Keys(after.Events), func(a, b string) int {
		return cmp.Or(cmp.Compare(after.Events[b], after.Events[a]), cmp.Compare(a, b))
	})
	for _, e := range events {
		t.Logf("%7d %s", after.Events[e], e)
	}
}

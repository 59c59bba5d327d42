package wsguardotel_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardotel"
	"github.com/wsguard/wsguard/store"
)

// meters returns a MeterProvider with Histograms, and a function that collects all metrics.
func meters(t *testing.T) (wsguardotel.Config, func() metricdata.ResourceMetrics) {
	t.Helper()
	h := &wsguardotel.Histograms{}
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(h))
	p := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	t.Cleanup(func() { p.Shutdown(context.Background()) })
	return wsguardotel.Config{MeterProvider: p, Histograms: h}, func() (rm metricdata.ResourceMetrics) {
		t.Helper()
		if err := reader.Collect(t.Context(), &rm); err != nil {
			t.Fatal(err)
		}
		return rm
	}
}

// register registers a guard until the test ends.
func register(t *testing.T, g *wsguard.Guard, cfg wsguardotel.Config) metric.Registration {
	t.Helper()
	r, err := wsguardotel.Register(g, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Unregister(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// TestMetrics compares all metrics with what has happened behind each door.
func TestMetrics(t *testing.T) {
	doors(t, func(t *testing.T, echo func(*wsguard.Guard) http.Handler) {
		g := newGuard(t, config())
		cfg, collect := meters(t)
		register(t, g, cfg)
		s := server(t, echo(g))

		c, _ := dial(t, s, "/", http.Header{"Origin": {page}})
		say(t, c, "four", "fifty-five")
		if _, status := dial(t, s, "/", http.Header{"Origin": {"https://evil.example"}}); status != http.StatusForbidden {
			t.Fatalf("status %d", status)
		}
		c.Close(websocket.StatusNormalClosure, "")
		shutdown(t, g)

		varies := regexp.MustCompile(`^wsguard\.(start_time|sweeper\.late|connections\.limit|tracked_keys[a-z.]*)\{`)
		got := slices.DeleteFunc(series(collect()), varies.MatchString)
		want := strings.Split(strings.TrimSpace(`
wsguard.banned_clients{guard=default} 0
wsguard.bans{guard=default} 0
wsguard.connection.duration{guard=default} 1
wsguard.connection.slots{guard=default,scope=total} 0
wsguard.connection.slots{guard=default,scope=unauthenticated} 0
wsguard.connections.closed{code=1000,guard=default,initiator=peer,reason=peer_closed} 1
wsguard.connections{guard=default} 0
wsguard.credentials.refreshed{guard=default} 0
wsguard.draining{guard=default} 1
wsguard.events.dropped{guard=default} 0
wsguard.handshake.duration{guard=default} 2
wsguard.handshakes.in_flight{guard=default} 0
wsguard.handshakes.rejected{guard=default,reason=origin} 1
wsguard.handshakes{guard=default,result=accepted} 1
wsguard.handshakes{guard=default,result=rejected} 1
wsguard.heartbeats.missed{guard=default} 0
wsguard.kicks{cause=kicked,guard=default} 0
wsguard.kicks{cause=replaced,guard=default} 0
wsguard.kicks{cause=revoked,guard=default} 0
wsguard.limit.used{guard=default,limit=Caps.MaxConns} 0
wsguard.limit.used{guard=default,limit=Caps.MaxUnauthenticated} 0
wsguard.limit.used{guard=default,limit=Rates.MaxInFlight} 0
wsguard.limit.used{guard=default,limit=Send.MaxTotalBytes} 0
wsguard.message.bytes{direction=in,guard=default} 14
wsguard.message.bytes{direction=out,guard=default} 14
wsguard.message.size{guard=default} 2
wsguard.messages{direction=in,guard=default} 2
wsguard.messages{direction=out,guard=default} 2
wsguard.notices.omitted{guard=default} 0
wsguard.ping.rtt{guard=default} 0
wsguard.queue.bytes{guard=default} 0
wsguard.queue.dropped_messages{guard=default} 0
wsguard.queue.messages{guard=default} 0
wsguard.revocations.remembered{guard=default} 0
wsguard.revocations{guard=default} 0
wsguard.spikes{guard=default,of=bytes} 0
wsguard.spikes{guard=default,of=connections} 0
wsguard.spikes{guard=default,of=messages} 0
wsguard.spikes{guard=default,of=refusals} 0
wsguard.spiking{guard=default,of=bytes} 0
wsguard.spiking{guard=default,of=connections} 0
wsguard.spiking{guard=default,of=messages} 0
wsguard.spiking{guard=default,of=refusals} 0
wsguard.tickets.outstanding{guard=default} 0
wsguard.tickets.sold{guard=default} 0`), "\n")
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestStores has the metrics of stores only if the guard has some.
func TestStores(t *testing.T) {
	doors(t, func(t *testing.T, echo func(*wsguard.Guard) http.Handler) {
		gcfg := config()
		gcfg.Shared = wsguard.SharedConfig{Slots: &store.MemorySlots{}}
		g := newGuard(t, gcfg)
		cfg, collect := meters(t)
		register(t, g, cfg)
		c, _ := dial(t, server(t, echo(g)), "/", http.Header{"Origin": {page}})
		say(t, c, "hello")
		varies := regexp.MustCompile(`renewal_age\{|operation=renew,`) // on a machine that is slow
		got := slices.DeleteFunc(series(collect()), func(line string) bool {
			return !strings.HasPrefix(line, "wsguard.store.") || varies.MatchString(line)
		})
		want := strings.Split(strings.TrimSpace(`
wsguard.store.calls{guard=default,operation=admit,result=ok} 1
wsguard.store.held_messages{guard=default} 0
wsguard.store.instances{guard=default} 1
wsguard.store.local_decisions{guard=default} 0
wsguard.store.lost{guard=default} 0
wsguard.store.marks_age{guard=default} 0
wsguard.store.marks_waiting{guard=default} 0
wsguard.store.refused_decisions{guard=default} 0
wsguard.store.slots{guard=default} 1`), "\n")
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestInstrumentKinds says what a backend may do with the values: add them up, or not.
func TestInstrumentKinds(t *testing.T) {
	cfg, collect := meters(t)
	gcfg := config()
	gcfg.Shared = wsguard.SharedConfig{Slots: &store.MemorySlots{}}
	register(t, newGuard(t, gcfg), cfg)
	got := map[string]string{}
	for _, scope := range collect().ScopeMetrics {
		if scope.Scope.Name != wsguardotel.Scope {
			t.Errorf("scope %q", scope.Scope.Name)
		}
		for _, m := range scope.Metrics {
			if m.Description == "" {
				t.Errorf("%s has no description", m.Name)
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				got[m.Name] = "updown"
				if data.IsMonotonic {
					got[m.Name] = "counter"
				}
			case metricdata.Gauge[int64], metricdata.Gauge[float64]:
				got[m.Name] = "gauge"
			case metricdata.Histogram[float64]:
				got[m.Name] = "histogram"
			}
		}
	}
	for name, want := range map[string]string{
		"wsguard.handshakes": "counter", "wsguard.connections": "updown", "wsguard.limit.used": "gauge", "wsguard.connections.limit": "gauge",
		"wsguard.draining": "gauge", "wsguard.sweeper.late": "gauge", "wsguard.ping.rtt": "histogram", "wsguard.tracked_keys.evicted": "counter",
		"wsguard.store.lost": "gauge", "wsguard.store.held_messages": "counter", "wsguard.store.slots": "updown", "wsguard.store.instances": "gauge",
		"wsguard.store.marks_waiting": "updown", "wsguard.store.renewal_age": "gauge",
	} {
		if got[name] != want {
			t.Errorf("%s is a %q, want a %q", name, got[name], want)
		}
	}
}

// TestSeveralGuards reports two guards through one provider and the same Histograms. Unregister
// ends the reports about one of them.
func TestSeveralGuards(t *testing.T) {
	cfg, collect := meters(t)
	count := func() map[string]int {
		n := map[string]int{}
		for _, line := range series(collect()) {
			n[regexp.MustCompile(`guard=([a-z]+)`).FindStringSubmatch(line)[1]]++
		}
		return n
	}
	for _, name := range []string{"chat", "game"} {
		cfg.Name = name
		r, err := wsguardotel.Register(newGuard(t, config()), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if name == "game" {
			if n := count(); n["chat"] == 0 || n["chat"] != n["game"] {
				t.Errorf("%v series", n)
			}
			for range 2 {
				if err := r.Unregister(); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if n := count(); n["chat"] == 0 || n["game"] != 0 {
		t.Errorf("%v series after Unregister", n)
	}
}

// TestGlobalProvider uses the provider that the process has set.
func TestGlobalProvider(t *testing.T) {
	cfg, collect := meters(t)
	before := otel.GetMeterProvider()
	otel.SetMeterProvider(cfg.MeterProvider)
	defer otel.SetMeterProvider(before)
	register(t, newGuard(t, config()), wsguardotel.Config{})
	if len(series(collect())) == 0 {
		t.Error("no metrics")
	}
}

// refusing is a MeterProvider whose Meter refuses what its name says.
type refusing struct {
	noop.MeterProvider
	instruments bool
}

func (p refusing) Meter(string, ...metric.MeterOption) metric.Meter {
	return refusingMeter{refusing: p}
}

type refusingMeter struct {
	noop.Meter
	refusing refusing
}

var errRefused = errors.New("refused")

func (m refusingMeter) Int64ObservableUpDownCounter(string, ...metric.Int64ObservableUpDownCounterOption) (metric.Int64ObservableUpDownCounter, error) {
	if m.refusing.instruments {
		return nil, errRefused
	}
	return noop.Int64ObservableUpDownCounter{}, nil
}

func (m refusingMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return nil, errRefused
}

// TestRegisterErrors registers nothing if the provider refuses, and if there is no guard.
func TestRegisterErrors(t *testing.T) {
	if r, err := wsguardotel.Register(nil, wsguardotel.Config{}); r != nil || err == nil {
		t.Errorf("%v, %v", r, err)
	}
	for _, p := range []refusing{{instruments: true}, {}} {
		h := &wsguardotel.Histograms{}
		r, err := wsguardotel.Register(newGuard(t, config()), wsguardotel.Config{MeterProvider: p, Histograms: h})
		if r != nil || !errors.Is(err, errRefused) {
			t.Errorf("%v, %v", r, err)
		}
		if got, err := h.Produce(t.Context()); len(got) != 0 || err != nil {
			t.Errorf("%v, %v: the guard is in the Histograms", got, err)
		}
	}
	// A provider that does nothing is what a process without a set-up has.
	r, err := wsguardotel.Register(newGuard(t, config()), wsguardotel.Config{MeterProvider: noop.NewMeterProvider()})
	if err != nil || r.Unregister() != nil {
		t.Errorf("%v", err)
	}
}

// TestClosedSets gives the guard what an attacker can choose, again and again. No further series
// comes into being.
func TestClosedSets(t *testing.T) {
	handshakes, closes := 100_000, 300
	if testing.Short() {
		handshakes, closes = 3_000, 100
	}
	doors(t, func(t *testing.T, echo func(*wsguard.Guard) http.Handler) {
		cfg := config()
		cfg.Timeouts.CloseGrace = 100 * time.Millisecond
		g := newGuard(t, cfg)
		mcfg, collect := meters(t)
		register(t, g, mcfg)
		h := echo(g)
		s := server(t, h)
		names := func() (list []string) {
			for _, line := range series(collect()) {
				list = append(list, line[:strings.LastIndexByte(line, ' ')])
			}
			return list
		}
		attack := func(handshakes, closes int) {
			for range handshakes {
				r := httptest.NewRequest(http.MethodGet, "/"+rand.Text(), nil)
				r.Host = rand.Text()
				for _, k := range []string{"Origin", "X-Request-Id", "Sec-Websocket-Protocol", "User-Agent", "Authorization", "X-Forwarded-For"} {
					r.Header.Set(k, rand.Text())
				}
				for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
					r.Header.Set(k, v)
				}
				h.ServeHTTP(unhijackable{httptest.NewRecorder()}, r)
			}
			for i := range closes {
				c, status := dial(t, s, "/"+rand.Text(), http.Header{"Origin": {page}, "X-Request-Id": {rand.Text()}})
				if c == nil {
					t.Fatalf("status %d", status)
				}
				c.Close(websocket.StatusCode(4000+i), rand.Text())
			}
			eventually(t, func() bool { return g.Conns() == 0 })
		}
		attack(200, 10) // the guard warns once about so many from one address
		before := names()
		attack(handshakes, closes)
		if after := names(); !slices.Equal(before, after) {
			t.Errorf("%d series have become %d:\n%s", len(before), len(after), strings.Join(after, "\n"))
		}
	})
}

// unhijackable is a ResponseWriter whose Hijack fails. No handshake of the test comes so far.
type unhijackable struct{ http.ResponseWriter }

func (unhijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errRefused }

// eventually waits until f returns true.
func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for by := time.Now().Add(20 * time.Second); !f(); runtime.Gosched() {
		if time.Now().After(by) {
			t.Fatal("it does not happen")
		}
	}
}

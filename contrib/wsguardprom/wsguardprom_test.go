package wsguardprom

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

var update = flag.Bool("update", false, "write the golden files")

// gather returns the exposition of what c collects, as a checked registry lets it pass.
func gather(t testing.TB, c ...prometheus.Collector) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	for _, c := range c {
		if err := r.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return text(t, families)
}

// text returns the exposition of families.
func text(t testing.TB, families []*dto.MetricFamily) string {
	t.Helper()
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// jittered finds what depends on the time between two pings, which is random.
var jittered = regexp.MustCompile(`(?m)^(wsguard_connection_duration_seconds_sum\{.*\}) \d+.*$`)

// TestExposition compares all that Prometheus gets after a small scenario with a golden file. In
// a bubble of synctest, time is a figure like any other.
func TestExposition(t *testing.T) {
	eachDoor(t, func(t *testing.T, door func(*wsguard.Guard) http.Handler) {
		synctest.Test(t, func(t *testing.T) {
			t.Cleanup(func() { time.Sleep(time.Minute) }) // runs last
			g := newGuard(t)
			scenario(t, g, door(g))
			got := jittered.ReplaceAllString(gather(t, New(g, Options{Name: "chat"})), "$1 (jittered)")
			golden := filepath.Join("testdata", "exposition.txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			diff(t, string(want), got)
		})
	})
}

// diff reports the lines that only one of two texts has.
func diff(t *testing.T, want, got string) {
	t.Helper()
	lines := func(s string) map[string]bool {
		m := map[string]bool{}
		for line := range strings.Lines(s) {
			m[line] = true
		}
		return m
	}
	w, g := lines(want), lines(got)
	for line := range strings.Lines(want) {
		if !g[line] {
			t.Errorf("missing: %s", line)
		}
	}
	for line := range strings.Lines(got) {
		if !w[line] {
			t.Errorf("not in the golden file: %s", line)
		}
	}
}

// series returns the series of an exposition, without their values.
func series(exposition string) (names []string) {
	for line := range strings.Lines(exposition) {
		if !strings.HasPrefix(line, "#") {
			names = append(names, line[:strings.LastIndexByte(line, ' ')])
		}
	}
	return names
}

// full returns a Snapshot with every field set.
func full() audit.Snapshot {
	h := audit.Histogram{Count: 3, Sum: 3, Buckets: []audit.Bucket{{Upper: 1, Count: 3}}}
	return audit.Snapshot{
		Time: time.Unix(2e9, 0), Since: time.Unix(1e9, 0), Draining: true, Open: 1, Unauthenticated: 2, InFlight: 3, Slots: 4,
		HandshakesAccepted: 5, HandshakesRefused: map[string]uint64{"origin": 6}, HandshakesReported: map[string]uint64{"origin": 7},
		Closed: map[audit.Closing]uint64{{Reason: "idle", By: audit.ByGuard, Code: 3008}: 8},
		In:     audit.Traffic{Messages: 9, Bytes: 10}, Out: audit.Traffic{Messages: 11, Bytes: 12},
		Violations:     map[audit.Offence]uint64{{Reason: "schema", Action: audit.ActionReply}: 13},
		NoticesOmitted: 14, QueuedMessages: 15, QueuedBytes: 16, QueueDropped: 17, TicketsSold: 18, TicketsOutstanding: 19,
		Refreshes: 20, Tables: map[string]audit.Table{"clients": {Tracked: 21, Penalised: 22, Evicted: 23}}, Bans: 24, Banned: 25,
		Revocations: 26, Revoked: 27, SweeperLate: 28 * time.Second, Warnings: map[string]uint64{"panic": 29}, EventsDropped: 30,
		Spikes: map[string]uint64{"bytes": 32}, Spiking: []audit.Spike{{Of: "bytes"}},
		Limits:           []audit.Limit{{Name: "Caps.MaxConns", Max: 40, Used: 31}},
		HandshakeSeconds: h, ConnectionSeconds: h, MessageBytes: h, PingSeconds: h,
		Shared: audit.Shared{
			Instances: 33, Lost: true, Calls: map[audit.StoreCall]uint64{{Operation: "admit", Result: "ok"}: 34}, LocalDecisions: 35,
			ClosedDecisions: 36, HeldMessages: 37, Slots: 38, RenewalAge: 39 * time.Second, MarksAge: 40 * time.Second, MarksWaiting: 41,
		},
	}
}

func of(s audit.Snapshot, o Options) *Collector {
	return newCollector(func() audit.Snapshot { return s }, o)
}

// Each field of a Snapshot is in some metric.
func TestFields(t *testing.T) {
	whole := gather(t, of(full(), Options{}))
	for i, typ := 0, reflect.TypeFor[audit.Snapshot](); i < typ.NumField(); i++ {
		name := typ.Field(i).Name
		s := full()
		field := reflect.ValueOf(&s).Elem().Field(i)
		if field.IsZero() {
			t.Errorf("%s: the test does not set it", name)
		}
		field.SetZero()
		if name != "Time" && gather(t, of(s, Options{})) == whole {
			t.Errorf("%s is in no metric", name)
		}
	}
	for i, typ := 0, reflect.TypeFor[audit.Shared](); i < typ.NumField(); i++ {
		name := "Shared." + typ.Field(i).Name
		s := full()
		field := reflect.ValueOf(&s.Shared).Elem().Field(i)
		if field.IsZero() {
			t.Errorf("%s: the test does not set it", name)
		}
		field.SetZero()
		if gather(t, of(s, Options{})) == whole {
			t.Errorf("%s is in no metric", name)
		}
	}
}

// The limits that a Guard has are those of the metrics, and each has a ratio.
func TestLimits(t *testing.T) {
	g := newGuard(t, func(cfg *wsguard.Config) {
		cfg.Auth = wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}}
	})
	s := g.Stats()
	for i := range s.Limits {
		l := &s.Limits[i]
		if l.Max <= 0 {
			t.Errorf("%s has no default", l.Name)
		}
		l.Used = 3 * l.Max / 4
		want := fmt.Sprintf("wsguard_limit_used_ratio{guard=%q,limit=%q} 0.75\n", "default", l.Name)
		if got := gather(t, of(s, Options{})); !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	got := gather(t, New(g, Options{}))
	for _, want := range []string{
		`wsguard_connections_limit{guard="default",scope="total"} 10000`, `wsguard_connections_limit{guard="default",scope="unauthenticated"} 1000`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	for i := range s.Limits {
		s.Limits[i].Max = 0
	}
	if got := gather(t, of(s, Options{})); strings.Contains(got, "wsguard_limit_used_ratio{") || strings.Contains(got, "wsguard_connections_limit{") {
		t.Error("there is a ratio or a limit, although there are no limits")
	}
}

// Names, units and help are as Prometheus wants them. In OpenMetrics, too, each family has a name
// of its own, which for a counter has no suffix.
func TestLint(t *testing.T) {
	exposition := gather(t, of(full(), Options{}))
	problems, err := promlint.New(strings.NewReader(exposition)).Lint()
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	names := map[string]bool{}
	for _, f := range families {
		name := strings.TrimSuffix(f.name, "_total")
		if names[name] {
			t.Errorf("two families have the name %s in OpenMetrics", name)
		}
		names[name] = true
		if !strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: the help %q is no sentence", f.name, f.help)
		}
	}
	promtool(t, exposition, "check", "metrics")
}

// promtool runs Debian's or anybody's promtool with a standard input. It skips the test if there
// is none.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "promtool", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// All counters begin with a series for whatever a peer can bring about, so that rate and increase
// see it.
func TestZeros(t *testing.T) {
	empty := gather(t, of(audit.Snapshot{}, Options{}))
	for _, r := range reason.All() {
		if want := fmt.Sprintf(`wsguard_handshakes_rejected_total{guard="default",reason=%q} 0`, r.Token()); r.Status() != 0 && !strings.Contains(empty, want) {
			t.Errorf("missing: %s", want)
		}
		if want := fmt.Sprintf(`reason=%q} 0`, cmp.Or(r.Token(), "handler_done")); !strings.Contains(empty, want) {
			t.Errorf("missing: %s", want)
		}
	}
	// The tokens of the warnings are those that the page says.
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(page), "| `websocket warning` |")
	line, _, _ = strings.Cut(line, "\n")
	var tokens []string
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(line, -1) {
		if m[1] != "reason" {
			tokens = append(tokens, m[1])
		}
	}
	slices.Sort(tokens)
	if want := slices.Sorted(maps.Keys(warnings)); !slices.Equal(tokens, want) {
		t.Errorf("docs/operations.md has the warnings %q, want %q", tokens, want)
	}
}

// Prometheus learns when the counters began with 0.
func TestCreated(t *testing.T) {
	s := full()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(of(s, Options{}))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			created := s.Since
			switch {
			case m.Counter != nil:
				created = m.Counter.GetCreatedTimestamp().AsTime()
			case m.Histogram != nil:
				created = m.Histogram.GetCreatedTimestamp().AsTime()
			}
			if !created.Equal(s.Since) {
				t.Errorf("%s was created at %s, want %s", f.GetName(), created, s.Since)
			}
		}
	}
}

// Each Guard of a process has a name, and no two have the same.
func TestTwoGuards(t *testing.T) {
	a, b := newGuard(t), newGuard(t)
	r := prometheus.NewPedanticRegistry()
	for name, c := range map[string]*Collector{"default": New(a, Options{}), "b": New(b, Options{Name: "b"})} {
		if err := r.Register(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]Options{"no name": {}, "the name default": {Name: "default"}, "the name b": {Name: "b"}, "a name that is not UTF-8": {Name: "\xff"}} {
		if err := r.Register(New(b, o)); err == nil {
			t.Errorf("a further Collector with %s is registered", name)
		}
	}
	doors["handler"](a).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	got, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	exposition := text(t, got)
	for _, want := range []string{`wsguard_handshakes_total{guard="default",result="rejected"} 1`, `wsguard_handshakes_total{guard="b",result="rejected"} 0`} {
		if !strings.Contains(exposition, want) {
			t.Errorf("missing: %s", want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("New takes nil for a Guard")
		}
	}()
	New(nil, Options{})
}

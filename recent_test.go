package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// A flood for one reason, from ever new addresses, displaces neither the refusals for another
// reason nor the clients that have caused most.
func TestFloodHidesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newSpikeEnv(t, func(cfg *wsguard.Config) { cfg.Hosts = []string{"example.com"} })
		other := func(r *http.Request) { r.Host = "evil.example" }
		for i := range 3 {
			e.request(fmt.Sprintf("198.51.100.%d", i), appOrigin, other)
		}
		for i := range 5000 {
			e.refuse(fmt.Sprintf("2001:db8:%x:%x::1", i/100, i), 1)
			if i%30 == 0 {
				e.refuse("203.0.113.66", 1)
			}
		}
		a := e.g.Admin().Activity()
		each := map[string]int{}
		for _, r := range a.Refusals {
			each[r.Reason]++
			if r.Err != nil || r.Stack != nil || r.Kind != audit.Refusal || r.Time.IsZero() || r.Client == "" {
				t.Errorf("%+v", r)
			}
		}
		if each["host"] != 3 || each["origin"] != 16 || len(each) != 2 {
			t.Errorf("kept %v", each)
		}
		if !slices.IsSortedFunc(a.Refusals, func(a, b audit.Event) int { return b.Time.Compare(a.Time) }) {
			t.Error("not the newest first")
		}
		if i := slices.IndexFunc(a.Offenders, func(o audit.Offender) bool { return o.Client == "203.0.113.66" && o.Reason == "origin" }); i != 0 || a.Offenders[0].Count < 80 {
			t.Errorf("%+v", a.Offenders)
		}
		if i := slices.IndexFunc(a.Offenders, func(o audit.Offender) bool { return o.Client == "198.51.100.1" && o.Reason == "host" }); i < 0 || len(a.Offenders) > 50 {
			t.Errorf("%+v", a.Offenders)
		}
		time.Sleep(time.Hour)
		if a := e.g.Admin().Activity(); len(a.Offenders) != 0 || len(a.Refusals) != 19 {
			t.Errorf("after an hour: %d offenders, %d refusals", len(a.Offenders), len(a.Refusals))
		}
		e.refuse("203.0.113.67", 1)
		if a := e.g.Admin().Activity(); a.Refusals[0].Client != "203.0.113.67" || len(a.Refusals) != 19 {
			t.Errorf("the newest: %+v", a.Refusals[0])
		}
	})
}

// Refused messages are kept, and warnings are not. A message of the application makes no offender.
func TestRecentMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bad := func(b []byte) error {
			if strings.HasPrefix(string(b), "bad") {
				return errors.New("bad")
			}
			return nil
		}
		e := newSpikeEnv(t, func(cfg *wsguard.Config) {
			cfg.Messages.Validator, cfg.Messages.OnInvalid = judge(bad), wsguard.ActionReply
			cfg.Messages.Outbound = judge(func(b []byte) error {
				if strings.HasPrefix(string(b), "out") {
					return errors.New("bad")
				}
				return nil
			})
			cfg.Rates.Messages, cfg.Rates.WarnAt = wsguard.Rate{PerSecond: 1, Burst: 4}, 0.5
		})
		e.serve(e.h)
		c := e.open(header("X-Forwarded-For", "203.0.113.66", "X-Forwarded-Proto", "https"))
		roundTrip(t, c, "good")
		if err := c.WriteFrame(wstest.Text("bad")); err != nil {
			t.Fatal(err)
		}
		c.ReadMessage() // the notice
		if err := c.WriteFrame(wstest.Text("out")); err != nil {
			t.Fatal(err)
		}
		e.events.wait(t, audit.Violation, 3)
		a := e.g.Admin().Activity()
		var got []string
		for _, r := range a.Refusals {
			got = append(got, r.Reason+" "+string(r.Action))
			if r.ConnID == "" || r.Client != "203.0.113.66" {
				t.Errorf("%+v", r)
			}
		}
		slices.Sort(got)
		if want := []string{"schema refuse", "schema reply"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		for _, o := range a.Offenders {
			if o.Of == "refusals" && (o.Client != "203.0.113.66" || o.Count != 1) {
				t.Errorf("%+v", o)
			}
		}
		c.Close()
	})
}

// What is nearest to a limit comes first, and a limit that is off has nothing.
func TestFullest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newSpikeEnv(t, anyToken, func(cfg *wsguard.Config) {
			cfg.Caps = wsguard.CapConfig{MaxConnsPerSubject: 4, MaxUsersPerClient: 100, MaxConnsPerClient: wsguard.Off, MaxConnsPerNetwork: 10}
			cfg.Proxies.ClientName = func(r *http.Request) string { return strings.ReplaceAll(r.Header.Get("X-Tenant"), "|", "\n") }
		})
		e.serve(e.h)
		open := func(client, tenant, subject string) {
			e.open(header("X-Forwarded-For", client, "X-Forwarded-Proto", "https", "X-Tenant", tenant, "Authorization", "Bearer "+subject))
		}
		for i := range 30 {
			open(fmt.Sprintf("198.51.100.%d", i), "", fmt.Sprint("user-", i))
		}
		open("2001:db8:1:2::1", "", "alice")
		open("2001:db8:1:3::1", "", "alice")
		open("192.0.2.7", "tenant|"+strings.Repeat("x", 300), "alice")
		synctest.Wait() // all are the application's; a 101 comes before
		all := e.g.Admin().Activity().Fullest
		each := map[string]int{}
		for i, l := range all {
			each[l.Name]++
			if l.Max <= 0 || l.Used <= 0 || l.Of == "" || len(l.Of) > 300 || strings.Contains(l.Of, "\n") {
				t.Errorf("%+v", l)
			}
			if i > 0 && float64(l.Used)/float64(l.Max) > float64(all[i-1].Used)/float64(all[i-1].Max) {
				t.Errorf("%+v after %+v", l, all[i-1])
			}
		}
		want := map[string]int{"Caps.MaxConnsPerSubject": 20, "Caps.MaxUsersPerClient": 20, "Caps.MaxConnsPerNetwork": 1}
		if fmt.Sprint(each) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", each, want)
		}
		if first := (audit.Limit{Name: "Caps.MaxConnsPerSubject", Of: "alice", Max: 4, Used: 3}); all[0] != first {
			t.Errorf("%+v, want %+v", all[0], first)
		}
		if i := slices.Index(all, audit.Limit{Name: "Caps.MaxConnsPerNetwork", Of: "2001:db8:1::/48", Max: 10, Used: 2}); i < 0 {
			t.Errorf("%+v", all)
		}
		names := 0
		for s := range e.g.Admin().Sessions() {
			if strings.HasPrefix(s.ClientName, `tenant\u000a`) {
				names++
			}
		}
		if names != 1 {
			t.Errorf("%d sessions have the name", names)
		}
		e.g.Shutdown(context.Background())
	})
}

// The table of rates in docs/operators.md says what the guard watches.
func TestOperatorsPageSpikes(t *testing.T) {
	floors := map[string]float64{}
	for of, floor := range wsguard.SpikeFloors {
		floors[of] = floor
	}
	tableRows(t, "docs/operators.md", func(heading string, cells []string) {
		of := strings.Trim(cells[0], "`")
		if floor, known := floors[of]; known && heading == "Spikes" && len(cells) == 3 {
			delete(floors, of)
			if got := parseQuantities(cells[2]); len(got) != 1 || got[0].value != floor {
				t.Errorf("%s: %v, want %v", of, got, floor)
			}
		}
	})
	if len(floors) > 0 {
		t.Errorf("the page lacks %v", floors)
	}
	b, err := os.ReadFile("docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(b)), " ")
	for _, want := range []string{
		fmt.Sprintf("%d times by default", wsguard.DefaultSpikeFactor), fmt.Sprintf("the latest %d refusals of each reason", wsguard.KeptEach),
		fmt.Sprintf("more often than %d times a second", wsguard.WarnPerSecond), fmt.Sprintf("at most %d for each limit", wsguard.FullestEach),
		fmt.Sprintf("They halve in %d minutes", int(wsguard.OffenderHalfLife.Minutes())), fmt.Sprintf("a %dth of the events", wsguard.OffenderCounters),
		fmt.Sprintf("names the %d clients", wsguard.ShownInEvent),
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

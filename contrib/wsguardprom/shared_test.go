package wsguardprom

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// breakable is a store whose calls fail after it was set to gone.
type breakable struct {
	store.MemorySlots
	gone atomic.Bool
}

var errGone = errors.New("gone")

func (b *breakable) Acquire(ctx context.Context, id string, ttl time.Duration, scopes ...store.Scope) (string, error) {
	if b.gone.Load() {
		return "", errGone
	}
	return b.MemorySlots.Acquire(ctx, id, ttl, scopes...)
}

func (b *breakable) Renew(ctx context.Context, ttl time.Duration, leases ...store.Lease) error {
	if b.gone.Load() {
		return errGone
	}
	return b.MemorySlots.Renew(ctx, ttl, leases...)
}

func (b *breakable) Beat(ctx context.Context, ttl time.Duration) (int, error) {
	if b.gone.Load() {
		return 0, errGone
	}
	return b.MemorySlots.Beat(ctx, ttl)
}

// storeSeries returns the series about stores and the values that they have.
func storeSeries(t *testing.T, g *wsguard.Guard) map[string]string {
	t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(gather(t, New(g, Options{}))) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && strings.HasPrefix(name, "wsguard_store_") {
			m[strings.NewReplacer(`{guard="default",`, "{", `{guard="default"`, "{").Replace(name)+"}"] = value
		}
	}
	return m
}

// A Guard has the metrics of the stores that it shares, while they answer and while they do not.
func TestStores(t *testing.T) {
	eachDoor(t, func(t *testing.T, door func(*wsguard.Guard) http.Handler) {
		synctest.Test(t, func(t *testing.T) {
			t.Cleanup(func() { time.Sleep(time.Minute) }) // runs last
			slots := &breakable{}
			g := newGuard(t, func(cfg *wsguard.Config) { cfg.Shared = wsguard.SharedConfig{Slots: slots} })
			s := wstest.ServePipe(t, door(g))
			shake := func() {
				t.Helper()
				c := s.Dial(t)
				c.Timeout = time.Hour
				if res, err := c.Handshake("/", http.Header{"Origin": {origin}}); err != nil || res.StatusCode != 101 {
					t.Fatalf("%v %v", res, err)
				}
				synctest.Wait()
			}
			check := func(when string, want map[string]string) {
				t.Helper()
				got := storeSeries(t, g)
				for name, value := range want {
					if got["wsguard_store_"+name] != value {
						t.Errorf("%s: %s is %q, want %s", when, name, got["wsguard_store_"+name], value)
					}
				}
			}

			// There is a 0 for each call that can come, so that increase sees the first.
			if n := len(storeSeries(t, g)); n != 2*(len(operations)+1)+9 {
				t.Errorf("%d series", n)
			}
			check("at first", map[string]string{
				`calls_total{operation="rates_take",result="error"}`: "0", `calls_total{operation="other",result="ok"}`: "0", `instances{}`: "1",
				`lost{}`: "0", `slots{}`: "0", `marks_age_seconds{}`: "0", `marks_waiting{}`: "0",
			})
			shake()
			time.Sleep(5 * time.Second)
			check("with a connection", map[string]string{
				`calls_total{operation="admit",result="ok"}`: "1", `slots{}`: "1", `renewal_age_seconds{}`: "5", `local_decisions_total{}`: "0",
			})
			slots.gone.Store(true)
			time.Sleep(20 * time.Second)
			shake()
			check("without the store", map[string]string{
				`lost{}`: "1", `local_decisions_total{}`: "1", `refused_decisions_total{}`: "0", `slots{}`: "2",
			})
			if got := gather(t, New(g, Options{})); !strings.Contains(got, `wsguard_warnings_total{guard="default",reason="store_lost"} 1`) {
				t.Error("the warning is not counted")
			}
		})
	})
}

// A Guard that shares no store has no metrics of stores.
func TestNoStores(t *testing.T) {
	if got := storeSeries(t, newGuard(t)); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// No call of a store adds a series, whatever its names are.
func TestStoreCalls(t *testing.T) {
	s := full()
	before := series(gather(t, of(s, Options{})))
	s.Shared.Calls = map[audit.StoreCall]uint64{
		{Operation: "beat", Result: "ok"}: 1, {Operation: "new", Result: "ok"}: 2, {Operation: "newer", Result: "ok"}: 3, {Operation: "new", Result: "slow"}: 4,
	}
	got := gather(t, of(s, Options{}))
	if after := series(got); !slices.Equal(before, after) {
		t.Errorf("%d series before, %d after", len(before), len(after))
	}
	for _, want := range []string{`"beat",result="ok"} 1`, `"other",result="ok"} 5`, `"other",result="error"} 4`, `"admit",result="ok"} 0`} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
}

// The README names the operations.
func TestOperations(t *testing.T) {
	_, text, _ := strings.Cut(readme(t), "`operation` is ")
	text, _, _ = strings.Cut(text, ". ")
	got := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(text, -1) {
		got[m[1]] = true
	}
	want := slices.Sorted(slices.Values(append(slices.Clone(operations), other)))
	if got := slices.Sorted(maps.Keys(got)); !slices.Equal(got, want) {
		t.Errorf("the README has the operations %q, want %q", got, want)
	}
}

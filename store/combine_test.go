package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/store"
)

// failing is a Once that fails.
type failing struct{ store.Once }

func (failing) Take(context.Context, string) ([]byte, bool, error) {
	return nil, false, &store.OutageError{Op: "take", Err: errors.New("gone")}
}

func TestCombineReleasesSlots(t *testing.T) {
	var slots store.MemorySlots
	a := store.Combine(&store.MemoryRates{}, &slots, failing{})
	one := []store.Scope{{Key: "one", Max: 1}}
	_, err := a.Admit(ctx, store.Request{ID: "id", TTL: time.Minute, Scopes: one, Once: "k"})
	if o := new(store.OutageError); !errors.As(err, &o) {
		t.Error(err)
	}
	if full, err := slots.Acquire(ctx, "next", time.Minute, one...); full != "" || err != nil {
		t.Errorf("the slot is held: %q %v", full, err)
	}
}

func TestCombineWithoutStores(t *testing.T) {
	a := store.Combine(nil, nil, nil)
	if got, err := a.Admit(ctx, store.Request{}); err != nil || got.Refused != store.Admitted {
		t.Errorf("%+v %v", got, err)
	}
	for _, r := range []store.Request{
		{Takes: []store.Take{{Key: "k", Limit: store.Limit{PerSecond: 1, Burst: 1}, Least: 1, Most: 1}}},
		{ID: "id", TTL: time.Minute, Scopes: []store.Scope{{Key: "k"}}},
		{Once: "k"},
	} {
		if _, err := a.Admit(ctx, r); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestOutageError(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("wrapped: %w", &store.OutageError{Op: "take", Err: cause})
	if !errors.Is(err, cause) || err.Error() != "wrapped: store: take: cause" {
		t.Error(err)
	}
	quiet := &store.OutageError{Op: "take", RetryAfter: time.Second}
	if quiet.Error() != "store: take: not asked for the next 1s, because earlier calls have failed" || quiet.Unwrap() != nil {
		t.Error(quiet)
	}
}

// A bucket that is refused and asked again after the time to wait has what was asked for.
func TestRatesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, perSecond := range []float64{0.001, 1.0 / 3, 7, 1e3, 1e6, 1 << 32} {
			var rates store.MemoryRates
			take := store.Take{Key: "k", Limit: store.Limit{PerSecond: perSecond, Burst: 50}, Least: 7, Most: 7}
			start, taken := time.Now(), int64(0)
			for range 100 {
				n, wait, err := rates.TakeTokens(ctx, take)
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					time.Sleep(wait)
					if n, wait, err = rates.TakeTokens(ctx, take); n != 7 {
						t.Fatalf("%v per second: %d after the wait, and %v more, %v", perSecond, n, wait, err)
					}
				}
				taken += n
			}
			if most := 50 + time.Since(start).Seconds()*perSecond; float64(taken) > most+1e-3 {
				t.Errorf("%v per second: %d tokens, want at most %v", perSecond, taken, most)
			}
		}
	})
}

package spend_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/spend"
	"github.com/wsguard/wsguard/store"
)

// shop is a store that several Pools share. It counts the calls.
type shop struct {
	store.Admitter
	rates   store.MemoryRates
	calls   atomic.Int64
	latency time.Duration
}

func newShop(latency time.Duration) *shop {
	s := &shop{latency: latency}
	s.Admitter = store.Combine(&s.rates, nil, nil)
	return s
}

func (s *shop) take(takes []store.Take) (store.Answer, error) {
	s.calls.Add(1)
	time.Sleep(s.latency / 2)
	defer time.Sleep(s.latency - s.latency/2)
	return s.Admit(context.Background(), store.Request{Takes: takes})
}

// resumed is a message that waits.
type resumed chan struct{}

func (r resumed) Resume() {
	select {
	case r <- struct{}{}:
	default:
	}
}

// wait waits as a message does, and reports whether it gets its tokens.
func wait(l *spend.Lease, n spend.Amount, lim *spend.Limits) bool {
	begun := time.Now()
	woken := make(resumed, 1)
	for {
		d := l.Take(n, lim, time.Now(), spend.Patient{For: spend.Patience - time.Since(begun), Waiter: woken})
		switch d.Verdict {
		case spend.Granted:
			return true
		case spend.Refused, spend.Lost:
			return false
		}
		select {
		case <-woken:
		case <-time.After(d.Wait):
		}
	}
}

// Instances that are offered four times the limit admit almost all of it, and never more. The goal
// for four is 99 % at no more than a call of the store for each 20 messages. The pauses between
// calls are random, so the bounds here are lower.
func TestBudget(t *testing.T) {
	for _, c := range []struct {
		name       string
		instances  int
		part       float64 // of the budget
		perMessage float64
	}{{"One", 1, 0.98, 18}, {"Two", 2, 0.98, 18}, {"Four", 4, 0.98, 18}, {"Eight", 8, 0.92, 11}, {"Sixteen", 16, 0.9, 8}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const rate, burst, length = 1000, 200, 10 * time.Second
				shop := newShop(500 * time.Microsecond)
				lim := spend.NewLimits(store.Limit{PerSecond: rate, Burst: burst}, store.Limit{PerSecond: 1 << 20, Burst: 4 << 20})
				var admitted atomic.Int64
				var running, sending sync.WaitGroup
				begin := time.Now()
				for range c.instances {
					pool := spend.NewPool(shop.take, &running)
					l := pool.Acquire("client/a")
					gap := time.Second * time.Duration(c.instances) / (4 * rate)
					for i := range 4 {
						sending.Go(func() {
							time.Sleep(gap * time.Duration(i))
							for time.Since(begin) < length {
								last := time.Now()
								if wait(l, spend.Amount{1, 100}, &lim) {
									admitted.Add(1)
								}
								time.Sleep(4*gap - time.Since(last))
							}
						})
					}
				}
				sending.Wait()
				took := time.Since(begin)
				running.Wait()
				n, calls := float64(admitted.Load()), float64(shop.calls.Load())
				most := burst + rate*took.Seconds()
				t.Logf("admitted %.2f %% of the budget with %.0f calls, one for %.1f messages", 100*n/most, calls, n/calls)
				if n > most || n < c.part*(burst+rate*length.Seconds()) {
					t.Errorf("admitted %.0f of %.0f", n, most)
				}
				if n/calls < c.perMessage {
					t.Errorf("%.0f calls for %.0f messages, one for each %.1f", calls, n, n/calls)
				}
			})
		})
	}
}

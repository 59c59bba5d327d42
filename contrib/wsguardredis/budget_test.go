package wsguardredis_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/internal/spend"
	"github.com/wsguard/wsguard/store"
)

// resumed is a message that waits for tokens.
type resumed chan struct{}

func (r resumed) Resume() {
	select {
	case r <- struct{}{}:
	default:
	}
}

// admit waits for a message's tokens as a connection does.
func admit(l *spend.Lease, lim *spend.Limits) bool {
	begun, woken := time.Now(), make(resumed, 1)
	for {
		d := l.Take(spend.Amount{1, 100}, lim, time.Now(), spend.Patient{For: spend.Patience - time.Since(begun), Waiter: woken})
		if d.Verdict != spend.Held {
			return d.Verdict == spend.Granted
		}
		select {
		case <-woken:
		case <-time.After(d.Wait):
		}
	}
}

// budget offers four times 1,000 messages per second to four instances on one Redis, for a time.
func budget(t testing.TB, addr string, length time.Duration) (part, messagesPerCall float64) {
	const rate, burst, instances = 1000, 200, 4
	var admitted, calls atomic.Int64
	var running, sending sync.WaitGroup
	lim := spend.NewLimits(store.Limit{PerSecond: rate, Burst: burst}, store.Limit{PerSecond: 1 << 20, Burst: 4 << 20})
	begin := time.Now()
	for range instances {
		client := redis.NewClient(&redis.Options{Addr: addr})
		defer client.Close()
		s, err := wsguardredis.New(client, wsguardredis.Options{Prefix: "budget", Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		l := spend.NewPool(func(takes []store.Take) (store.Answer, error) {
			calls.Add(1)
			return s.Admit(context.Background(), store.Request{Takes: takes})
		}, &running).Acquire("subject/alice")
		for range 4 {
			sending.Go(func() {
				for next := begin; time.Since(begin) < length; next = next.Add(4 * time.Second * instances / (4 * rate)) {
					time.Sleep(time.Until(next))
					if admit(l, &lim) {
						admitted.Add(1)
					}
				}
			})
		}
	}
	sending.Wait()
	took := time.Since(begin)
	running.Wait()
	n := float64(admitted.Load())
	if most := burst + rate*took.Seconds(); n > most {
		t.Errorf("admitted %.0f of %.0f", n, most)
	}
	return n / (burst + rate*length.Seconds()), n / float64(calls.Load())
}

// Four instances on a real Redis never admit more than the limit.
func TestBudget(t *testing.T) {
	s := startServer(t, "redis-server")
	part, perCall := budget(t, s.addr, time.Second)
	t.Logf("%.2f %% of the budget admitted, %.1f messages per call", 100*part, perCall)
	if part < 0.1 || perCall < 2 { // a busy machine offers less
		t.Error("much less than the limit, or many more calls than usual")
	}
}

// The goals are at least 99 % of the budget, and a call for 20 messages.
func BenchmarkBudget(b *testing.B) {
	server := startServer(b, "redis-server").addr
	for b.Loop() {
		part, perCall := budget(b, server, 10*time.Second)
		b.ReportMetric(100*part, "%-admitted")
		b.ReportMetric(perCall, "messages/call")
	}
}

package spend_test

import (
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/spend"
	"github.com/wsguard/wsguard/store"
)

// A decision about a message by the table alone, and by the table and a lease with tokens in
// hand. The second must take no longer than three times the first, and must not allocate.
func BenchmarkTake(b *testing.B) {
	limit := keyed.Limit{PerSecond: 1e9, Burst: 1e9}
	table := func(b *testing.B, then func(time.Time)) {
		b.ReportAllocs()
		tab, now := keyed.New(65536), time.Now()
		key := tab.String("k")
		for b.Loop() {
			now = now.Add(100)
			tab.Take2(key, 1, 100, limit, limit, now)
			then(now)
		}
	}
	b.Run("Table", func(b *testing.B) { table(b, func(time.Time) {}) })
	b.Run("Lease", func(b *testing.B) {
		var running sync.WaitGroup
		shop := newShop(0)
		of := store.Limit{PerSecond: 1 << 32, Burst: 1 << 34}
		lim := spend.NewLimits(of, of)
		l := spend.NewPool(shop.take, &running).Acquire("k")
		in, all := 0, 0
		table(b, func(now time.Time) {
			all++
			if l.Take(spend.Amount{1, 100}, &lim, now, spend.Patient{For: spend.Patience}).Verdict == spend.Granted {
				in++
			}
		})
		b.ReportMetric(float64(in)/float64(all), "granted/op")
		running.Wait()
	})
}

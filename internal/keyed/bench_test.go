package keyed_test

import (
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/internal/keyed"
)

// A decision for a known key, beside one of golang.org/x/time/rate.
func BenchmarkTake(b *testing.B) {
	for _, c := range []struct {
		name  string
		limit keyed.Limit
	}{{"full", keyed.Limit{PerSecond: 1e9, Burst: 1e9}}, {"owing", keyed.Limit{PerSecond: 9.99e6, Burst: 1e9}}} {
		b.Run(c.name+"/AllowN", func(b *testing.B) {
			lim, now := rate.NewLimiter(rate.Limit(c.limit.PerSecond), int(c.limit.Burst)), time.Now()
			for b.Loop() {
				now = now.Add(100)
				lim.AllowN(now, 1)
			}
		})
		b.Run(c.name+"/Take", func(b *testing.B) {
			tab, now := keyed.New(65536), time.Now()
			key := tab.String("k")
			for b.Loop() {
				now = now.Add(100)
				tab.Take(key, 1, c.limit, now)
			}
		})
		b.Run(c.name+"/Take2", func(b *testing.B) {
			tab, now := keyed.New(65536), time.Now()
			key := tab.String("k")
			for b.Loop() {
				now = now.Add(100)
				tab.Take2(key, 1, 100, c.limit, c.limit, now)
			}
		})
	}
}

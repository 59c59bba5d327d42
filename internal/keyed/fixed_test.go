package keyed_test

import (
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
)

// fixed is a table that is always called with the same limits, until set changes
// them.
type fixed struct {
	*keyed.Table
	limits atomic.Pointer[[2]keyed.Limit]
}

func newFixed(perSecond, burst float64, keys int) *fixed {
	return newPair(keyed.Limit{PerSecond: perSecond, Burst: burst}, keyed.Limit{}, keys)
}

func newPair(a, b keyed.Limit, keys int) *fixed {
	f := &fixed{Table: keyed.New(keys)}
	f.set(a, b)
	return f
}

func (f *fixed) set(a, b keyed.Limit) { f.limits.Store(&[2]keyed.Limit{a, b}) }

func (f *fixed) first() keyed.Limit  { return f.limits.Load()[0] }
func (f *fixed) second() keyed.Limit { return f.limits.Load()[1] }

func (f *fixed) Take(key keyed.Key, n float64, now time.Time) (time.Duration, bool) {
	return f.Table.Take(key, n, f.first(), now)
}

func (f *fixed) Take2(key keyed.Key, a, b float64, now time.Time) (time.Duration, bool) {
	l := f.limits.Load()
	return f.Table.Take2(key, a, b, l[0], l[1], now)
}

func (f *fixed) Peek(key keyed.Key, n float64, now time.Time) (time.Duration, bool) {
	return f.Table.Peek(key, n, f.first(), now)
}

func (f *fixed) Charge(key keyed.Key, n float64, now time.Time) {
	f.Table.Charge(key, n, f.first(), now)
}

func (f *fixed) Spend(key keyed.Key, n float64, now time.Time) bool {
	return f.Table.Spend(key, n, f.first(), now)
}

func (f *fixed) Give(key keyed.Key, n float64) { f.Table.Give(key, n, f.first()) }

func (f *fixed) Give2(key keyed.Key, a, b float64) {
	f.Table.Give2(key, a, b, f.first(), f.second())
}

func (f *fixed) Stats(now time.Time) keyed.Stats {
	return f.Table.Stats(f.first(), f.second(), now)
}

package penalty_test

import (
	"cmp"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/penalty"
)

// config is what the tests say about a box and the buckets in front of it. 0 is the
// default that the comment names.
type config struct {
	Rate    float64       // weight that is forgiven within a second; 0.1
	Burst   float64       // weight without consequence; 10
	First   time.Duration // 1 min
	Max     time.Duration // 1 h
	Decay   time.Duration // 1 h
	MaxBans int           // 16,384
}

// box is a Box with buckets for violations in front of it, put together as the
// Guard does it.
type box struct {
	*penalty.Box
	cfg        config
	violations *keyed.Table
}

func newBox(cfg config) *box {
	cfg.Rate, cfg.Burst = cmp.Or(cfg.Rate, 0.1), cmp.Or(cfg.Burst, 10)
	cfg.First, cfg.Max, cfg.Decay = cmp.Or(cfg.First, time.Minute), cmp.Or(cfg.Max, time.Hour), cmp.Or(cfg.Decay, time.Hour)
	cfg.MaxBans = cmp.Or(cfg.MaxBans, 16384)
	return &box{Box: penalty.New(cfg.MaxBans), cfg: cfg, violations: keyed.New(4 * cfg.MaxBans)}
}

func (b *box) key(k penalty.Key) (key keyed.Key, ok bool) {
	prefix, name := k.Client()
	if name != "" {
		return b.violations.String(name), true
	}
	return b.violations.Prefix(prefix), prefix.IsValid()
}

func (b *box) limit() keyed.Limit { return keyed.Limit{PerSecond: b.cfg.Rate, Burst: b.cfg.Burst} }

func (b *box) lasts() penalty.Config {
	return penalty.Config{First: b.cfg.First, Max: b.cfg.Max, Decay: b.cfg.Decay}
}

// Violation counts a violation, and bans when there were too many. While k is
// banned nothing counts.
func (b *box) Violation(k penalty.Key, weight float64, reason string, now time.Time) (ban penalty.Ban, banned bool) {
	key, ok := b.key(k)
	if _, is := b.Banned(k, now); is || !ok || b.violations.Spend(key, weight, b.limit(), now) {
		return ban, false
	}
	if ban, banned = b.Strike(k, reason, b.lasts(), now); banned {
		b.violations.Forget(key)
	}
	return ban, banned
}

// Lift forgets what has led to a ban, too.
func (b *box) Lift(k penalty.Key, now time.Time) bool {
	if key, ok := b.key(k); ok {
		b.violations.Forget(key)
	}
	return b.Box.Lift(k, now)
}

// suspects are those with violations and without a ban.
func (b *box) suspects(now time.Time) int {
	return b.violations.Stats(b.limit(), keyed.Limit{}, now).Keys
}

package keyed_test

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/internal/keyed"
)

// oracle is a bucket in exact arithmetic.
type oracle struct {
	rate, burst, tokens *big.Rat
	born, latest        time.Time
}

func newOracle(rate, burst float64, now time.Time) *oracle {
	r, b := new(big.Rat).SetFloat64(rate), new(big.Rat).SetFloat64(burst)
	return &oracle{rate: r, burst: b, tokens: new(big.Rat).Set(b), born: now, latest: now}
}

// flow is what flows in within d.
func (o *oracle) flow(d time.Duration) *big.Rat {
	return new(big.Rat).Mul(o.rate, big.NewRat(int64(d), int64(time.Second)))
}

func (o *oracle) advance(now time.Time) {
	if d := now.Sub(o.latest); d > 0 {
		o.tokens.Add(o.tokens, o.flow(d))
		if o.tokens.Cmp(o.burst) > 0 {
			o.tokens.Set(o.burst)
		}
		o.latest = now
	}
}

func (o *oracle) add(n float64) { o.tokens.Add(o.tokens, new(big.Rat).SetFloat64(n)) }

// spare is what a take of n would leave.
func (o *oracle) spare(n float64) *big.Rat {
	return new(big.Rat).Sub(o.tokens, new(big.Rat).SetFloat64(n))
}

// run does what ops say to one bucket and to an oracle. They must agree, but for
// what flows in within a nanosecond, or next to nothing of a burst.
func run(t *testing.T, perSecond, burst float64, ops []byte) {
	tab := newFixed(perSecond, burst, 1)
	key, start := tab.String("k"), time.Now()
	o := newOracle(perSecond, burst, start)
	tab.Take(key, 0, start)
	slack := o.flow(time.Nanosecond)
	slack.Add(slack, new(big.Rat).SetFloat64(math.Ldexp(burst, -54)))
	taken, charged := new(big.Rat), false
	now := start
	for ; len(ops) >= 4; ops = ops[4:] {
		// Steps of very different lengths, a quarter of them back.
		step := time.Duration(binary.LittleEndian.Uint16(ops)) << (ops[2] % 24)
		if ops[2]>>6 == 0 {
			step = -step
		}
		if now = now.Add(step); now.Before(start) {
			now = start
		}
		o.advance(now)
		tab.Take(key, 0, now) // so that the table has seen it as well
		n := float64(ops[3] >> 2)
		if ops[2]&32 != 0 {
			n = math.Floor(burst * n / 64)
		}
		switch ops[3] & 3 {
		case 0:
			if !charged && o.spare(n-15*burst).Sign() > 0 { // a debt has a limit
				tab.Charge(key, n, now)
				o.add(-n)
				charged = true
			}
		default:
			_, peeked := tab.Peek(key, n, now)
			wait, ok := tab.Take(key, n, now)
			if ok != peeked {
				t.Fatalf("Take says %v, Peek %v", ok, peeked)
			}
			spare := o.spare(n)
			if want := spare.Sign() >= 0; ok != want && new(big.Rat).Abs(spare).Cmp(slack) > 0 {
				t.Fatalf("rate %v burst %v: take of %v: %v, spare %v", perSecond, burst, n, ok, spare.FloatString(12))
			}
			if !ok {
				switch {
				case n > burst && wait < math.MaxInt64/4:
					t.Fatalf("more than the burst fits after %v", wait)
				case n <= burst && wait <= 0:
					t.Fatalf("refused, with a wait of %v", wait)
				case n <= burst && wait < 1<<58:
					// It fits after the wait, and a nanosecond before it does not.
					if _, ok := tab.Peek(key, n, now.Add(max(wait, o.latest.Sub(now)+1)-1)); ok && wait > o.latest.Sub(now)+1 {
						t.Fatalf("fits before the wait of %v", wait)
					}
					o.advance(now.Add(wait - 1))
					if _, ok := tab.Peek(key, n, now.Add(wait)); !ok {
						t.Fatalf("does not fit after the wait of %v", wait)
					}
					o.advance(now.Add(wait))
					now = now.Add(wait)
				}
				continue
			}
			if ops[3]&3 == 1 {
				tab.Give(key, n)
				continue
			}
			o.add(-n)
			taken.Add(taken, new(big.Rat).SetFloat64(n))
			most := new(big.Rat).Add(o.burst, o.flow(o.latest.Sub(start)))
			most.Add(most, slack)
			if taken.Cmp(most) > 0 {
				t.Fatalf("rate %v burst %v: %v taken, at most %v", perSecond, burst, taken.FloatString(6), most.FloatString(6))
			}
		}
	}
}

var limits = [][2]float64{
	{20, 40}, {1.0 / 3600, 1}, {1.0 / 3600, 1e9}, {1e9, 1}, {1e9, 1e9}, {999999937, 7}, {3, 5}, {0.1, 10},
	{256 << 10, 1 << 20}, {16 * 256 << 10, 16 << 20}, {1e-9, 100}, {1e-9, 1}, {2, 1}, {1 << 31, 64}, {math.Pi, 2.5}, {1e-12, 3},
}

func TestAgainstExactArithmetic(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, l := range limits {
		for range 20 {
			ops := make([]byte, 600)
			for i := range ops {
				ops[i] = byte(rng.Uint32())
			}
			run(t, l[0], l[1], ops)
		}
	}
}

func FuzzAgainstExactArithmetic(f *testing.F) {
	for _, l := range limits {
		f.Add(l[0], l[1], []byte{1, 0, 64, 8, 0, 0, 64, 255, 16, 0, 20, 6, 255, 255, 86, 7, 9, 9, 9, 9})
	}
	f.Fuzz(func(t *testing.T, perSecond, burst float64, ops []byte) {
		if !(perSecond >= 1e-12 && perSecond <= 1e9 && burst >= 1 && burst <= 1e9) || len(ops) > 4000 {
			t.Skip()
		}
		run(t, perSecond, burst, ops)
	})
}

// At any rate a burst is exactly its number of takes.
func TestBurstIsExact(t *testing.T) {
	for _, perSecond := range []float64{1e-12, 1e-9, 1.0 / 3600, 0.1, 3, 7, 20, 1e3, 1e5 / 3, 256 << 10, 999999937, 1e9} {
		for _, burst := range []int{1, 2, 40, 1000, 65536} {
			tab := newFixed(perSecond, float64(burst), 1)
			key, now := tab.String("k"), time.Now().Add(time.Duration(rand.N(int64(time.Hour))))
			n := 0
			for ; n <= burst; n++ {
				if _, ok := tab.Take(key, 1, now); !ok {
					break
				}
			}
			if n != burst {
				t.Errorf("rate %v: %d takes of a burst of %d", perSecond, n, burst)
			}
		}
	}
	tab := newFixed(256<<10, 1e9, 1)
	key, now := tab.String("k"), time.Now()
	if _, ok := tab.Take(key, 1e9, now); !ok {
		t.Error("a burst of 1e9 bytes refused")
	}
	if wait, ok := tab.Take(key, 1, now); ok || wait > 4*time.Microsecond {
		t.Errorf("one byte more: %v %v, want a wait of 3.8 µs", wait, ok)
	}
}

// An eternity later the arithmetic is as exact.
func TestYearsLater(t *testing.T) {
	for _, l := range limits {
		tab := newFixed(l[0], l[1], 1)
		key := tab.String("k")
		for _, years := range []int{1, 10, 30} {
			now := time.Now().AddDate(years, 0, 0)
			tab.Take(key, 0, now)
			if _, ok := tab.Take(key, math.Floor(l[1]), now); !ok && l[0] >= 1 {
				t.Errorf("rate %v burst %v: not full after %d years", l[0], l[1], years)
			}
			if _, ok := tab.Take(key, l[1], now); ok {
				t.Errorf("rate %v burst %v: two bursts after %d years", l[0], l[1], years)
			}
			if _, ok := tab.Take(key, 1, now.Add(time.Duration(1.001e9/l[0])+2)); !ok && l[0] > 0.001 && l[1] < 1e8 && l[1] == math.Floor(l[1]) {
				t.Errorf("rate %v burst %v: no token after its time, %d years later", l[0], l[1], years)
			}
		}
	}
}

// The same decisions as golang.org/x/time/rate, while time goes forth.
func TestAgainstXTimeRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, l := range limits[:9] {
			tab, lim := newFixed(l[0], l[1], 1), rate.NewLimiter(rate.Limit(l[0]), int(l[1]))
			key := tab.String("k")
			ours, theirs := 0.0, 0.0
			for range 2000 {
				// Off by a few nanoseconds' flow, so that rounding seldom decides.
				time.Sleep(time.Duration(rng.ExpFloat64()*1e9/l[0]) + 7)
				n := 1 + math.Floor(rng.Float64()*min(l[1], 3))
				if l[1] > 1e6 {
					n = math.Floor(rng.ExpFloat64() * l[0])
				}
				n = min(n, l[1])
				now := time.Now()
				if _, ok := tab.Take(key, n, now); ok {
					ours += n
				}
				if lim.AllowN(now, int(n)) {
					theirs += n
				}
			}
			if diff := math.Abs(ours - theirs); diff > 1e-3*theirs+3 {
				t.Errorf("rate %v burst %v: %v taken, x/time/rate %v", l[0], l[1], ours, theirs)
			}
		}
	})
}

// Buckets that became full, were forgotten and are asked in the past.
func TestNowStepsBackAcrossKeys(t *testing.T) {
	const perSecond, burst, keys = 100.0, 2.0, 6
	tab := newFixed(perSecond, burst, 1)
	start := time.Now()
	latest := start
	for phase := range 10 {
		// Twelve keys for eight places, half of them at a time: the others are
		// full by then, and no bucket that is not has to go.
		begin := latest.Add(time.Second)
		latest = begin
		var taken [keys]float64
		for i := range 2000 {
			now := begin.Add(time.Duration(i) * time.Millisecond)
			if i%3 != 0 {
				now = start.Add(time.Duration(rand.N(int64(now.Sub(start)))))
			}
			if now.After(latest) {
				latest = now
			}
			k := rand.N(keys)
			// The same shard and sets, so that they drive each other out.
			if _, ok := tab.Take(keyed.RawKey(uint64(phase%2*keys+k)<<20), 1, now); ok {
				taken[k]++
			}
			if most := burst + perSecond*latest.Sub(begin).Seconds() + 1e-6; taken[k] > most {
				t.Fatalf("%v taken, at most %v", taken[k], most)
			}
		}
	}
	if n := tab.Evicted(); n != 0 {
		t.Errorf("%d live keys evicted", n)
	}
}

func TestAdmittedByManyAtOnce(t *testing.T) {
	const perSecond, burst = 5000.0, 50.0
	tab := newPair(keyed.Limit{PerSecond: perSecond, Burst: burst}, keyed.Limit{PerSecond: 1e6, Burst: 1e6}, 1024)
	start := time.Now()
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			key := tab.String("k")
			for range 100 {
				if _, ok := tab.Take2(key, 1, 10, time.Now()); ok {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	n, most := float64(admitted.Load()), burst+perSecond*time.Since(start).Seconds()
	if n > most || n < burst {
		t.Fatalf("%v admitted, want %v to %v", n, burst, most)
	}
}

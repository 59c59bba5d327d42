package keyed_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
)

// changing are the limits that a bucket is called with in turn.
var changing = []keyed.Limit{
	{},
	{PerSecond: 20, Burst: 40},
	{PerSecond: 1e-9, Burst: 1},
	{PerSecond: 1e-9, Burst: 1e9},
	{PerSecond: 1e9, Burst: 1},
	{PerSecond: 1e9, Burst: 1e9},
	{PerSecond: 999999937, Burst: 7},
	{PerSecond: 1.0 / 3600, Burst: 3},
	{PerSecond: 256 << 10, Burst: 1 << 20},
	{PerSecond: 16e9, Burst: 16e9},
	{PerSecond: math.Pi, Burst: 2.5},
	{PerSecond: 0.1, Burst: 1e6},
	{PerSecond: 5, Burst: 0},
}

func rat(x float64) *big.Rat { return new(big.Rat).SetFloat64(x) }

// model is a key's two buckets in exact arithmetic: what is owed, in tokens, and
// when something was last taken.
type model struct {
	owed  [2]*big.Rat
	slack [2]float64 // what the table may have rounded up
	seen  int64
	clock int64
}

func newModel() *model {
	return &model{owed: [2]*big.Rat{new(big.Rat), new(big.Rat)}}
}

// at is what is owed now, given the limits of a call.
func (m *model) at(l [2]keyed.Limit) (owed [2]*big.Rat) {
	for i := range owed {
		owed[i] = new(big.Rat).Set(m.owed[i])
		if l[i].PerSecond > 0 {
			flow := new(big.Rat).Mul(rat(l[i].PerSecond), big.NewRat(m.clock-m.seen, 1e9))
			if owed[i].Sub(owed[i], flow).Sign() < 0 {
				owed[i].SetInt64(0)
			}
		}
	}
	return owed
}

// spare is what a take would leave in a lane.
func spare(owed *big.Rat, n float64, l keyed.Limit) *big.Rat {
	left := new(big.Rat).Sub(rat(l.Burst), owed)
	return left.Sub(left, rat(n))
}

// take makes the model owe n more, and allows the table the rounding that its
// package comment promises: a unit for the flow, one for n, and 40 significant bits.
func (m *model) take(owed [2]*big.Rat, n [2]float64, l [2]keyed.Limit) {
	for i := range owed {
		if l[i].PerSecond > 0 {
			owed[i].Add(owed[i], rat(n[i]))
			most, _ := owed[i].Float64()
			m.slack[i] += 2.0/(1<<27) + math.Ldexp(most+m.slack[i], -39)
		}
		m.owed[i] = owed[i]
	}
	m.seen = m.clock
}

// runChanges does what ops say to a key of a table and to a model, each time with
// other limits. The table must admit nothing that the model refuses, and refuse
// nothing that the model admits by more than the rounding.
func runChanges(t *testing.T, ops []byte) {
	tab := keyed.New(1)
	key, start := tab.String("k"), time.Now()
	m := newModel()
	now, charges := int64(0), 0
	for ; len(ops) >= 8; ops = ops[8:] {
		step := int64(binary.LittleEndian.Uint16(ops)) << (ops[2] % 36)
		if ops[2]>>6 == 0 {
			step = -step
		}
		if now += step; now < 0 || now > 36*365*24*int64(time.Hour) {
			now = m.clock
		}
		l := [2]keyed.Limit{changing[int(ops[3])%len(changing)], changing[int(ops[4])%len(changing)]}
		var n [2]float64
		for i := range n {
			switch n[i] = float64(ops[5+i] >> 2); ops[5+i] & 3 {
			case 1:
				n[i] /= 10
			case 2:
				n[i] = math.Floor(l[i].Burst * n[i] / 64)
			}
		}
		verb, wall := ops[7]%5, start.Add(time.Duration(now))
		if verb < 4 {
			n[1], l[1] = 0, keyed.Limit{}
		}
		limited := l[0].PerSecond > 0 || l[1].PerSecond > 0
		if n[0] == 0 && verb < 2 || verb == 0 && charges > 4 {
			continue
		}
		if limited {
			m.clock = max(m.clock, now)
		}
		owed := m.at(l)
		fits, clear := true, true // clear: by more than the rounding
		for i := range owed {
			if left := spare(owed[i], n[i], l[i]); l[i].PerSecond > 0 {
				fits = fits && left.Sign() >= 0
				clear = clear && left.Cmp(rat(m.slack[i]+1.0/(1<<27))) >= 0
			}
		}
		var wait time.Duration
		var ok bool
		switch verb {
		case 0:
			tab.Charge(key, n[0], l[0], wall)
			if limited {
				charges++
				m.take(owed, n, l)
			}
			continue
		case 1:
			if ok = tab.Spend(key, n[0], l[0], wall); !ok {
				// The model empties its bucket too.
				left := spare(owed[0], 0, l[0])
				n[0] = 0
				if left.Sign() > 0 {
					owed[0].Add(owed[0], left)
				}
				m.take(owed, n, l)
			}
		case 4:
			wait, ok = tab.Take2(key, n[0], n[1], l[0], l[1], wall)
		default:
			_, peeked := tab.Peek(key, n[0], l[0], wall)
			if wait, ok = tab.Take(key, n[0], l[0], wall); ok != peeked {
				t.Fatalf("Take says %v, Peek %v", ok, peeked)
			}
		}
		if ok && !fits || !ok && clear {
			t.Fatalf("take of %v with %v: %v, owed %s and %s, rounding %s and %s", n, l, ok,
				owed[0].FloatString(12), owed[1].FloatString(12), rat(m.slack[0]).FloatString(12), rat(m.slack[1]).FloatString(12))
		}
		if !ok {
			if verb != 1 && wait <= 0 {
				t.Fatalf("refused, with a wait of %v", wait)
			}
			continue
		}
		if n == [2]float64{} || !limited {
			continue
		}
		if l[0].PerSecond <= 0 && n[1] == 0 || l[1].PerSecond <= 0 && n[0] == 0 {
			continue // nothing was taken
		}
		m.take(owed, n, l)
		if verb == 2 {
			tab.Give(key, n[0], l[0])
			if m.owed[0].Sub(m.owed[0], rat(n[0])).Sign() < 0 {
				m.owed[0].SetInt64(0)
			}
		}
	}
}

// What is owed stays owed, in tokens, whatever becomes of the limits.
func TestChangesAgainstExactArithmetic(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	rounds, length := 400, 200
	if raceEnabled {
		rounds, length = 40, 20
	}
	for range rounds {
		ops := make([]byte, 1600)
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		runChanges(t, ops)
	}
	// Between the same two limits all the time, in small steps.
	for _, step := range []byte{0, 3, 10, 16} {
		for a := range changing {
			for b := range changing {
				ops := make([]byte, 0, 1600)
				for i := range length {
					l := a
					if i%2 > 0 {
						l = b
					}
					ops = append(ops, byte(rng.Uint32()), 1, 64|step, byte(l), byte(a), 1<<2, byte(i%3)<<2, 3+byte(i%2))
				}
				runChanges(t, ops)
			}
		}
	}
}

func FuzzChangesAgainstExactArithmetic(f *testing.F) {
	f.Add([]byte{1, 0, 64, 1, 3, 40 << 2, 5, 4, 255, 1, 84, 2, 5, 4, 8, 4, 7, 0, 90, 5, 4, 4, 4, 3, 1, 1, 70, 4, 1, 6, 6, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 8000 {
			t.Skip()
		}
		runChanges(t, ops)
	})
}

// What is owed is kept to 40 significant bits, and never as less.
func TestPack(t *testing.T) {
	check := func(owed int64) {
		t.Helper()
		code, kept := keyed.Pack(owed)
		if code >= 1<<44 || kept < owed || kept-owed > owed>>39 || owed < 1<<40 && kept != owed {
			t.Fatalf("%d is kept as %d, code %x", owed, kept, code)
		}
		if again, same := keyed.Pack(kept); again != code || same != kept {
			t.Fatalf("%d is kept as %d", kept, same)
		}
	}
	for bits := range 62 {
		for d := int64(-2); d <= 2; d++ {
			if owed := int64(1)<<bits + d; owed >= 0 && owed <= 1<<61 {
				check(owed)
			}
		}
		for range 1000 {
			check(rand.Int64N(1<<bits) + 1)
		}
	}
}

// Whole tokens are exact, up to the largest burst.
func TestWholeTokensAreExact(t *testing.T) {
	tab := keyed.New(1)
	key, now := tab.String("k"), time.Now()
	l := keyed.Limit{PerSecond: 1e-9, Burst: 1 << 34}
	for left := l.Burst; left > 0; {
		n := max(1, math.Floor(left/3))
		if _, ok := tab.Take(key, n, l, now); !ok {
			t.Fatalf("%v of %v refused", n, left)
		}
		if left -= n; left > 0 {
			if _, ok := tab.Peek(key, left+1, l, now); ok {
				t.Fatalf("one more than %v admitted", left)
			}
		}
	}
	if _, ok := tab.Take(key, 1, l, now); ok {
		t.Fatal("more than the burst")
	}
	if wait, ok := tab.Take(key, 1e12, keyed.Limit{PerSecond: 1, Burst: 1e12}, now); ok || wait < math.MaxInt64/4 {
		t.Fatalf("%v %v for more than any bucket holds", wait, ok)
	}
}

// Without a limit nothing is paid off, and nothing is taken.
func TestWithoutLimitDebtsStay(t *testing.T) {
	tab := keyed.New(1)
	key, now := tab.String("k"), time.Now()
	l := keyed.Limit{PerSecond: 1, Burst: 10}
	tab.Take2(key, 10, 10, l, l, now)
	for i := range 5 {
		now = now.Add(time.Second)
		if _, ok := tab.Take2(key, 1e9, 1, keyed.Limit{}, l, now); !ok {
			t.Fatalf("second %d: refused by no limit", i)
		}
		tab.Give2(key, 1e9, 1, keyed.Limit{}, l)
		if _, ok := tab.Take(key, 1e9, keyed.Limit{}, now); !ok {
			t.Fatal("refused by no limit")
		}
		tab.Charge(key, 1e9, keyed.Limit{}, now)
		tab.Give(key, 1e9, keyed.Limit{})
	}
	if _, ok := tab.Take(key, 1, l, now); ok {
		t.Error("debts were paid off without a limit")
	}
	if _, ok := tab.Take2(key, 0, 6, keyed.Limit{}, l, now); ok {
		t.Error("more than has flowed in")
	}
	if _, ok := tab.Take2(key, 0, 5, keyed.Limit{}, l, now); !ok {
		t.Error("less than has flowed in")
	}
	if _, ok := tab.Take(key, 1, l, now.Add(time.Second)); !ok {
		t.Error("debts are not paid off any more")
	}
}

// A table that guards with different limits share holds each to its own.
func TestTwoLimitsOneKey(t *testing.T) {
	tab := keyed.New(1)
	key, now := tab.String("k"), time.Now()
	small, large := keyed.Limit{PerSecond: 1, Burst: 3}, keyed.Limit{PerSecond: 1, Burst: 100}
	tab.Take(key, 50, large, now)
	for i := range 50 {
		if wait, ok := tab.Take(key, 1, small, now); ok || wait != 48*time.Second {
			t.Fatalf("small: %v %v, want a wait of 48s", wait, ok)
		}
		if _, ok := tab.Take(key, 1, large, now); !ok {
			t.Fatalf("large: refused after %d", i)
		}
		now = now.Add(time.Second)
	}
}

func TestForget(t *testing.T) {
	tab := newFixed(1, 3, 64)
	key, other, now := tab.String("k"), tab.String("other"), time.Now()
	tab.Forget(key) // of which nothing is known
	tab.Charge(other, 3, now)
	tab.Charge(key, 100, now)
	refuse(t, tab, key, now)
	tab.Forget(key)
	if st := tab.Stats(now); st.Keys != 1 || st.Penalised != 1 || st.Evicted != 0 {
		t.Errorf("%+v, want one key, penalised", st)
	}
	if _, ok := tab.Take(key, 3, now); !ok {
		t.Error("a debt that was forgotten is asked for")
	}
	if _, ok := tab.Take(other, 1, now); ok {
		t.Error("another key was forgotten")
	}
}

// Spend decides by a key's own bucket, and empties it.
func TestSpend(t *testing.T) {
	tab := newFixed(1, 4, 64)
	key, now := tab.Prefix(client6(1, 1)), time.Now()
	for i, step := range []struct {
		later  time.Duration
		weight float64
		ok     bool
	}{
		{0, 3, true}, {0, 0, true}, {0, 2, false}, {0, 0.5, false}, {time.Second, 1, true}, {time.Second, 2, false}, {time.Second, 1, true}, {time.Hour, 4, true},
	} {
		now = now.Add(step.later)
		if ok := tab.Spend(key, step.weight, now); ok != step.ok {
			t.Fatalf("step %d: %v", i, ok)
		}
	}
	if !tab.Table.Spend(key, 1e9, keyed.Limit{}, now) {
		t.Error("refused by no limit")
	}
	if st := tab.Stats(now); st.Keys != 1 || st.Penalised != 0 {
		t.Errorf("%+v", st)
	}
}

// However many keys spend too much, one that has not is not held to it.
func TestSpendersDoNotShare(t *testing.T) {
	tab, now := newFixed(1e-3, 2, 512), time.Now()
	for i := range 50_000 {
		tab.Spend(tab.Prefix(client6(i%7, i)), float64(1+i%4), now)
	}
	for i := range 10_000 {
		if !tab.Spend(tab.Prefix(client6(i%7, 50_000+i)), 1, now) {
			t.Fatal("a fresh key is held to what others have spent")
		}
	}
	if st := tab.Stats(now); st.Overflowed != 0 || st.Penalised != 0 || st.Keys > 512 {
		t.Errorf("%+v", st)
	}
}

// A full bucket that was asked for more than its burst is not worth protecting.
func TestImpossibleTakesArePenalisedForNothing(t *testing.T) {
	tab, now := newFixed(1, 1, 1<<16), time.Now()
	for i := range 20_000 {
		refuse(t, tab, tab.String(fmt.Sprint(i)), now) // so that its part of the table has to grow
		key := tab.Prefix(client4(i))
		tab.Take(key, 1, now)
		tab.Give(key, 1)
		if _, ok := tab.Take(key, 2, now); ok {
			t.Fatal("more than the burst")
		}
	}
	if st := tab.Stats(now); st.Keys < 19_990 || st.Penalised < 19_000 { // by chance both sets of a key may be full
		t.Errorf("%+v, want about 20,000 keys, nearly all penalised", st)
	}
}

// What a key was refused for is forgotten when its bucket is full.
func TestFullBucketsBeginAnew(t *testing.T) {
	tab, now := newFixed(1, 4, 64), time.Now()
	key := tab.String("k")
	tab.Charge(key, 3, now)
	refuse(t, tab, key, now)
	tab.Take(key, 0, now.Add(2*time.Second))
	if st := tab.Stats(now.Add(3 * time.Second)); st.Penalised != 1 {
		t.Errorf("%+v, want 1 penalised", st)
	}
	tab.Take(key, 1, now.Add(4*time.Second))
	if st := tab.Stats(now.Add(4 * time.Second)); st.Keys != 1 || st.Penalised != 0 {
		t.Errorf("%+v, want none penalised", st)
	}
}

// What flows in is exact, next to a whole number of units as well.
func TestFlowIsExact(t *testing.T) {
	check := func(perSecond float64, d int64) {
		t.Helper()
		got := keyed.Flow(keyed.Limit{PerSecond: perSecond, Burst: 1}, d)
		want := new(big.Rat).Mul(rat(perSecond), big.NewRat(d, 1e9))
		want.Mul(want, rat(1<<27))
		units := new(big.Int).Quo(want.Num(), want.Denom())
		if most := big.NewInt(1 << 61); units.Cmp(most) > 0 {
			units = most
		}
		if units.Cmp(big.NewInt(got)) != 0 {
			t.Fatalf("%v per second for %d ns: %d units, want %v", perSecond, d, got, units)
		}
	}
	rates := []float64{1e-12, 1e-9, 1.0 / 3600, 1.0 / 60, 0.1, 1, 3, math.Pi, 20, 1e5 / 3, 256 << 10, 999999937, 1e9, 16e9, 1e15, 1e300, 5e-324}
	random, times := 200, 500
	if raceEnabled {
		random, times = 20, 100
	}
	for range random {
		rates = append(rates, math.Exp(rand.Float64()*42-21))
	}
	for _, r := range rates {
		for range times {
			d := rand.Int64N(1 << rand.IntN(61))
			check(r, d)
			// The nanoseconds around a whole number of units.
			if whole := math.Round(rand.Float64()*1e6) * 1e9 / (r * (1 << 27)); whole < 1<<59 {
				check(r, int64(whole))
				check(r, int64(whole)+1)
			}
			check(r, d/1e9*1e9)
		}
	}
}

// A network stays penalised when the limit becomes slower.
func TestPenalisedNetworkWhenTheLimitChanges(t *testing.T) {
	tab := newFixed(1, 4, 4096)
	now := time.Now()
	for _, p := range spread(tab, 7, 40, 8) {
		tab.Charge(tab.Prefix(p), 4, now)
		refuse(t, tab, tab.Prefix(p), now)
	}
	if st := tab.Stats(now); st.Networks != 1 {
		t.Fatalf("%+v, want the /48", st)
	}
	tab.set(keyed.Limit{PerSecond: 1.0 / 60, Burst: 4}, keyed.Limit{})
	later := now.Add(50 * time.Second) // the old limit would have filled it by now
	if _, ok := tab.Take(tab.Prefix(client6(7, 9999)), 1, later); ok {
		t.Error("the /48 is not penalised any more")
	}
	if _, ok := tab.Take(tab.Prefix(client6(7, 9999)), 1, now.Add(time.Hour)); !ok {
		t.Error("the /48 is penalised for ever")
	}
}

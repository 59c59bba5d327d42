package baseline_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/wsguard/wsguard/internal/baseline"
)

// TestTicks ticks in other intervals, regularly and not. Six ticks find a flood.
func TestTicks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ every, jitter, within float64 }{
		{0.5, 0.1, 30}, {1, 0, 30}, {3, 2, 30}, {4.9, 0.2, 30}, {5, 0, 30}, {5, 3, 40}, {10, 2, 70}, {30, 5, 200},
	} {
		w := newWorld(3, constant, 20)
		w.every, w.jitter = c.every, c.jitter
		if all := w.run(day); len(all) > 0 {
			t.Errorf("%+v: %+v", c, all)
		}
		begin := w.t + 1
		w.shape = during(constant, begin, 10*minute, 10)
		if all := w.run(begin + hour); len(all) != 2 || all[0].t-begin > c.within {
			t.Errorf("%+v: a flood at %g makes %+v", c, begin, all)
		}
	}
}

// TestClockJumps lets the clock jump, and the machine sleep.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	for _, jump := range []time.Duration{
		-math.MaxInt64, -200 * 365 * 24 * time.Hour, -time.Hour, -3 * time.Second, 3 * time.Second, 20 * time.Second, 55 * time.Second,
		65 * time.Second, 9 * time.Minute, time.Hour, 40 * time.Hour, 200 * 365 * 24 * time.Hour, math.MaxInt64,
	} {
		for _, strip := range []bool{false, true} {
			var s baseline.Series
			now, total := time.Now(), uint64(0)
			if strip {
				now = now.Round(0)
			}
			tick := func(n uint64) baseline.Change {
				now, total = now.Add(5*time.Second), total+n
				return s.Tick(now, total, baseline.Rule{})
			}
			for i := range 3000 {
				if i >= 1000 && i%500 == 0 {
					now = now.Add(jump)
				}
				if c := tick(100); c.Kind != baseline.None {
					t.Fatalf("a jump of %v makes %+v", jump, c)
				}
			}
			late := -1
			for i := range 7 {
				if c := tick(1000); c.Kind == baseline.Begun {
					late = i
				}
			}
			if late < 0 || late > 6 {
				t.Errorf("a flood after jumps of %v is found after %d ticks", jump, late)
			}
			now = now.Add(jump) // in a spike
			for range 30 {
				tick(100)
			}
			if s.Spiking() {
				t.Errorf("a spike with a jump of %v does not end", jump)
			}
		}
	}
}

// spiking returns a Series with a spike, and the time and the counter of its last tick.
func spiking(t *testing.T) (*baseline.Series, time.Time, uint64) {
	t.Helper()
	s, now, total := &baseline.Series{}, midnight, uint64(0)
	for i := range 220 {
		now, total = now.Add(5*time.Second), total+100
		if i > 200 {
			total += 900
		}
		s.Tick(now, total, baseline.Rule{})
	}
	if !s.Spiking() {
		t.Fatal("a tenfold flood is no spike")
	}
	return s, now, total
}

// TestEnds ends a spike in each way but calm.
func TestEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *baseline.Series, now time.Time, total uint64) baseline.Change{
		"restarted counter": func(s *baseline.Series, now time.Time, _ uint64) baseline.Change {
			return s.Tick(now.Add(5*time.Second), 3, baseline.Rule{})
		},
		"gap": func(s *baseline.Series, now time.Time, total uint64) baseline.Change {
			return s.Tick(now.Add(time.Hour), total, baseline.Rule{})
		},
		"gap with an event": func(s *baseline.Series, now time.Time, total uint64) baseline.Change {
			return s.Tick(now.Add(time.Hour), total+1, baseline.Rule{})
		},
		"no factor": func(s *baseline.Series, now time.Time, total uint64) baseline.Change {
			return s.Tick(now.Add(5*time.Second), total+1000, baseline.Rule{Factor: -1})
		},
		"no factor that is a number": func(s *baseline.Series, now time.Time, total uint64) baseline.Change {
			return s.Tick(now.Add(5*time.Second), total+1000, baseline.Rule{Factor: math.NaN()})
		},
	} {
		s, now, total := spiking(t)
		c := end(s, now, total)
		if c.Kind != baseline.Over || s.Spiking() || c.Peak != 200 || c.Settled || c.For < time.Minute || c.For > 2*time.Minute || math.Abs(c.Baseline-20) > 1 {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// TestRules passes rules in which every number is odd. Nothing panics, and what is
// found is in order.
func TestRules(t *testing.T) {
	t.Parallel()
	odd := []float64{0, 1, 1.0001, 5, -1, math.Inf(1), math.Inf(-1), math.NaN(), math.MaxFloat64, math.SmallestNonzeroFloat64}
	for _, factor := range odd {
		for _, floor := range odd {
			for _, unit := range odd {
				for _, zero := range []bool{false, true} {
					w := newWorld(1, constant, 5)
					w.rule = baseline.Rule{Factor: factor, Floor: floor, Unit: unit, FromZero: zero}
					w.run(10 * minute)
					w.rate = 500
					all := w.run(20 * minute)
					w.rate = 5
					inOrder(t, append(all, w.run(hour)...))
				}
			}
		}
	}
}

// inOrder holds that begin and end alternate and that all numbers are some.
func inOrder(t *testing.T, all []found) {
	t.Helper()
	for i, f := range all {
		if want := baseline.Kind(i%2) + baseline.Begun; f.Kind != want {
			t.Fatalf("change %d of %+v is of kind %d", i, all, f.Kind)
		}
		for _, n := range []float64{f.Rate, f.Baseline, f.Peak, f.For.Seconds()} {
			if !(n >= 0) || math.IsInf(n, 0) {
				t.Fatalf("change %d of %+v", i, all)
			}
		}
	}
}

// TestOff checks that a Series learns while its rule is off.
func TestOff(t *testing.T) {
	t.Parallel()
	w := newWorld(1, constant, 5)
	w.rule.Factor = -1
	w.run(hour)
	w.shape = during(constant, w.t, 5*minute, 20)
	if all := w.run(2 * hour); len(all) > 0 {
		t.Errorf("a rule that is off makes %+v", all)
	}
	w.rule.Factor = 0
	w.shape = during(constant, w.t, 5*minute, 10)
	begin := w.t
	floods(t, w.run(w.t+15*minute), begin, 5*minute, 5)
}

// FuzzSeries passes any times and counters.
func FuzzSeries(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"), true)
	f.Fuzz(func(t *testing.T, data []byte, zero bool) {
		var s baseline.Series
		var all []found
		now, total := midnight, uint64(0)
		for ; len(data) >= 4; data = data[4:] {
			d, n, times := data[0], data[1], int(data[2])
			for range times {
				switch {
				case d < 100:
					now = now.Add(time.Duration(d) * time.Second)
				case d < 200:
					now = now.Add(time.Duration(d-99) * time.Minute)
				case d < 220:
					now = now.Add(-time.Duration(d) * time.Minute)
				default:
					now = now.Add(time.Duration(d) * 5000 * time.Hour)
				}
				total += uint64(n) << (data[3] % 64)
				if c := s.Tick(now, total, baseline.Rule{FromZero: zero, Unit: float64(data[3] / 64)}); c.Kind != baseline.None {
					all = append(all, found{Change: c})
				}
				if s.Spiking() != (len(all)%2 == 1) {
					t.Fatalf("Spiking is %v after %+v", s.Spiking(), all)
				}
			}
		}
		inOrder(t, all)
	})
}

// TestSize holds the memory of a Series, and that Tick allocates nothing.
func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(baseline.Series{}); n >= 1024 {
		t.Errorf("a Series has %d bytes", n)
	}
	var s baseline.Series
	now, total := midnight, uint64(0)
	if n := testing.AllocsPerRun(10_000, func() {
		now, total = now.Add(5*time.Second), total+uint64(now.Unix()/5%7)
		if now.Unix()%3600 < 300 {
			total += 1000
		}
		s.Tick(now, total, baseline.Rule{})
	}); n != 0 {
		t.Errorf("Tick allocates %v times", n)
	}
}

func BenchmarkTick(b *testing.B) {
	for _, rate := range []uint64{0, 1, 100_000} {
		b.Run(fmt.Sprint(rate), func(b *testing.B) {
			var s baseline.Series
			now, total, seed := midnight, uint64(0), [8]byte{1}
			b.ReportAllocs()
			for b.Loop() {
				x := binary.LittleEndian.Uint64(seed[:])*6364136223846793005 + 1442695040888963407
				binary.LittleEndian.PutUint64(seed[:], x)
				now, total = now.Add(5*time.Second), total+rate*(8+x>>62)/2
				s.Tick(now, total, baseline.Rule{})
			}
		})
	}
}

package seen_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/seen"
)

const age = 24 * time.Hour

func TestFirstSightStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := seen.New(age)
		a, b := m.Key("token", "a"), m.Key("token", "b")
		if _, ok := m.Look(a); ok {
			t.Error("known before it was noted")
		}
		first := m.Note(a, true)
		time.Sleep(time.Hour)
		if got := m.Note(a, true); !got.Equal(first) {
			t.Errorf("first seen at %v, then at %v", first, got)
		}
		if got, ok := m.Look(a); !ok || !got.Equal(first) {
			t.Errorf("looked up: %v, %v", got, ok)
		}
		if got := m.Note(b, true); !got.After(first) {
			t.Errorf("the second was seen at %v, the first at %v", got, first)
		}
	})
}

// Moments tell the order of calls where the clock stands still.
func TestMomentsAreOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := seen.New(age)
		a := m.Note(m.Key("a"), true)
		now := m.Now()
		b := m.Note(m.Key("b"), true)
		if !a.Before(now) || !now.Before(b) {
			t.Errorf("%v, %v, %v", a, now, b)
		}
		if again := m.Note(m.Key("a"), true); !again.Before(now) {
			t.Errorf("noted again: %v, not before %v", again, now)
		}
		// Without the monotonic part, as a store returns them.
		if a, now, b := a.Round(0), now.Round(0), b.Round(0); !a.Before(now) || !now.Before(b) {
			t.Errorf("by the wall clock: %v, %v, %v", a, now, b)
		}
	})
}

func TestForgottenAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := seen.New(age)
		first := m.Note(m.Key("a"), true)
		time.Sleep(age - time.Millisecond)
		if got := m.Note(m.Key("a"), true); !got.Equal(first) {
			t.Errorf("forgotten early: %v, %v", got, first)
		}
		time.Sleep(2 * time.Millisecond)
		if _, ok := m.Look(m.Key("a")); ok {
			t.Error("known for longer than a day")
		}
		if got := m.Note(m.Key("a"), true); !got.After(first) {
			t.Errorf("first seen a day ago: %v", got)
		}
		if _, ok := m.Look(m.Key("a")); !ok {
			t.Error("not noted again")
		}
	})
}

// A credential that had no issue time and has one now is another.
func TestDated(t *testing.T) {
	m := seen.New(age)
	k := m.Key("a")
	undated := m.Note(k, false)
	if got := m.Note(k, false); !got.Equal(undated) {
		t.Errorf("%v, then %v", undated, got)
	}
	dated := m.Note(k, true)
	if !dated.After(undated) {
		t.Errorf("%v, then %v with an issue time", undated, dated)
	}
	if got := m.Note(k, false); !got.Equal(dated) {
		t.Errorf("%v, then %v without", dated, got)
	}
}

func TestKeys(t *testing.T) {
	m, other := seen.New(age), seen.New(age)
	all := map[seen.Key][]string{}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"a"}, {"a", ""}, {"", "a"}, {"ab", "c"}, {"a", "bc"}, {"abc"}} {
		k := m.Key(parts...)
		if before, ok := all[k]; ok {
			t.Errorf("%q and %q have one key", before, parts)
		}
		all[k] = parts
		if k != m.Key(parts...) {
			t.Errorf("%q has two keys", parts)
		}
		if k == other.Key(parts...) {
			t.Errorf("%q has the same key in another Memory", parts)
		}
	}
}

// A full Memory forgets the oldest first, and takes no more than it says.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		m := seen.New(age)
		key := func(i int) (k seen.Key) {
			binary.BigEndian.PutUint64(k[:], uint64(i))
			return k
		}
		const extra = 1000
		for i := range 3*seen.Size + extra {
			m.Note(key(i), true)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 5<<20 {
			t.Errorf("%d bytes", grown)
		}
		for i := range 3*seen.Size + extra {
			if _, ok := m.Look(key(i)); ok != (i >= 2*seen.Size+extra) {
				t.Fatalf("number %d is known: %t", i, ok)
			}
		}
		// All of them age, and go while others come in.
		time.Sleep(age + time.Millisecond)
		for i := range seen.Size {
			m.Note(key(-1-i), true)
		}
		for i := range seen.Size {
			if _, ok := m.Look(key(-1 - i)); !ok {
				t.Fatalf("new number %d is not known", i)
			}
		}
	})
}

// Some go, others come in, while the ring grows.
func TestRingGrowsWhileItTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := seen.New(age)
		next, oldest := 0, 0
		for round := range 40 {
			for range 5 + round*3 {
				m.Note(m.Key(fmt.Sprint(next)), true)
				next++
			}
			if round%3 == 2 {
				time.Sleep(age + time.Millisecond)
				oldest = next
			}
			for i := range next {
				if _, ok := m.Look(m.Key(fmt.Sprint(i))); ok != (i >= oldest) {
					t.Fatalf("round %d: number %d of %d is known: %t", round, i, next, ok)
				}
			}
			time.Sleep(time.Second)
		}
	})
}

func TestRace(t *testing.T) {
	m := seen.New(age)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				k := m.Key(fmt.Sprint(i % 300))
				first, now := m.Note(k, g%2 == 0), m.Now()
				if !first.Before(now) {
					t.Errorf("%v is not before %v", first, now)
				}
				m.Look(k)
			}
		})
	}
	wg.Wait()
}

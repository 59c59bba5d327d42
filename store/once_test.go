package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/store"
)

var ctx = context.Background()

func TestOnceTakenOnce(t *testing.T) {
	s := store.NewOnce(0)
	for i := range 200 {
		key := fmt.Sprint(i)
		if err := s.Put(ctx, key, []byte(key), time.Minute); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var got atomic.Int32
		for range 8 {
			wg.Go(func() {
				v, ok, err := s.Take(ctx, key)
				if err != nil {
					t.Error(err)
				}
				if ok {
					got.Add(1)
					if string(v) != key {
						t.Errorf("%q under %q", v, key)
					}
				}
			})
		}
		wg.Wait()
		if n := got.Load(); n != 1 {
			t.Fatalf("taken %d times", n)
		}
	}
}

func TestOnceCopies(t *testing.T) {
	s := store.NewOnce(0)
	value := []byte("alice")
	s.Put(ctx, "k", value, time.Minute)
	value[0] = 'X'
	if v, ok, _ := s.Take(ctx, "k"); !ok || string(v) != "alice" {
		t.Errorf("%q %v", v, ok)
	}
}

// Values of any life, against a model.
func TestOnceExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.NewOnce(0)
		until := map[string]time.Time{}
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 20_000 {
			time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
			key := fmt.Sprint(r.IntN(500))
			if r.IntN(2) == 0 {
				ttl := time.Duration(1+r.IntN(10_000)) * time.Millisecond
				s.Put(ctx, key, []byte(key), ttl)
				until[key] = time.Now().Add(ttl)
				continue
			}
			_, ok, _ := s.Take(ctx, key)
			if want := time.Now().Before(until[key]); ok != want {
				t.Fatalf("step %d: taken %v, want %v", i, ok, want)
			}
			delete(until, key)
		}
	})
}

func TestOnceFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.NewOnce(2)
		s.Put(ctx, "a", nil, time.Second)
		s.Put(ctx, "b", nil, time.Minute)
		if err := s.Put(ctx, "c", nil, time.Minute); err != store.ErrFull {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if err := s.Put(ctx, "c", nil, time.Minute); err != nil {
			t.Error("what is over takes room:", err)
		}
		if _, ok, _ := s.Take(ctx, "b"); !ok {
			t.Error("b is gone")
		}
		if err := s.Put(ctx, "d", nil, time.Minute); err != nil {
			t.Error("what was taken takes room:", err)
		}
	})
}

package spend_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/spend"
	"github.com/wsguard/wsguard/store"
)

// ledger has all tokens that a store has given, with the time at which each of them ends.
type ledger struct {
	mu   sync.Mutex
	lots []entry
}

type entry struct {
	left [2]int64
	end  time.Time
}

func (l *ledger) took(n spend.Amount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lots = append(l.lots, entry{n, time.Now().Add(spend.Life)})
}

// spend spends n of what ends first, and returns what can be put back. ok is false if the tokens
// are not there.
func (l *ledger) spend(n spend.Amount) (undo func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.lots = slices.DeleteFunc(l.lots, func(e entry) bool { return !e.end.After(now) })
	ok = true
	var back []func()
	for lane := range n {
		rest := n[lane]
		for i := range l.lots {
			k := min(rest, l.lots[i].left[lane])
			rest -= k
			l.lots[i].left[lane] -= k
			end := l.lots[i].end
			back = append(back, func() {
				var e entry
				e.left[lane], e.end = k, end
				l.lots = append(l.lots, e)
			})
		}
		ok = ok && rest == 0
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, f := range back {
			f()
		}
		slices.SortStableFunc(l.lots, func(a, b entry) int { return a.end.Compare(b.end) })
	}, ok
}

// A lease never spends more than was taken from the store, and nothing half a second after it
// was taken. That holds for any order of calls, whatever the store does.
func TestLeaseSpendsWhatWasTaken(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	for seed := range uint64(rounds) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 16))
			var books ledger
			var running sync.WaitGroup
			shop := newShop(0)
			var mu sync.Mutex
			pool := spend.NewPool(func(takes []store.Take) (store.Answer, error) {
				mu.Lock()
				late, mood := time.Duration(r.IntN(80))*time.Millisecond, r.IntN(8)
				if r.IntN(4) == 0 {
					late = time.Duration(r.IntN(700)) * time.Millisecond
				}
				mu.Unlock()
				if mood == 0 {
					time.Sleep(late)
					return store.Answer{}, &store.OutageError{Op: "test"}
				}
				a, err := shop.take(takes)
				if err != nil {
					t.Errorf("%v: %+v", err, takes)
				}
				var got spend.Amount
				for i, n := range a.Taken {
					lane := 0
					if takes[i].Key == "bytes/k" {
						lane = 1
					}
					got[lane] = n
				}
				books.took(got)
				time.Sleep(late)
				if mood == 1 {
					return store.Answer{}, errors.New("the answer is lost")
				}
				return a, nil
			}, &running)
			l := pool.Acquire("k")
			limits := []spend.Limits{
				spend.NewLimits(store.Limit{PerSecond: 1000, Burst: 200}, store.Limit{PerSecond: 5000, Burst: 10000}),
				spend.NewLimits(store.Limit{PerSecond: 5, Burst: 10}, store.Limit{PerSecond: 100, Burst: 3000}),
				spend.NewLimits(store.Limit{}, store.Limit{PerSecond: 2000, Burst: 3000}),
				spend.NewLimits(store.Limit{PerSecond: 100, Burst: 100}, store.Limit{}),
			}
			granted := 0
			lim := &limits[r.IntN(len(limits))]
			for range 2000 {
				mu.Lock()
				n := spend.Amount{1 + int64(r.IntN(1+r.IntN(5))), int64(r.IntN(1 + r.IntN(2500)))}
				what, other, pause := r.IntN(40), r.IntN(len(limits)), time.Duration(r.IntN(1+r.IntN(20)))*time.Millisecond
				mu.Unlock()
				switch {
				case what == 0:
					lim = &limits[other]
					l.Renew()
				case what == 1:
					l.Prepare(n, lim, time.Now())
				case what == 2:
					l.Probe(n, lim, time.Now())
				case what == 3:
					n = lim.Of(lim.First())
					books.took(n)
					pool.Credit("k", n, time.Now())
				case what == 4:
					time.Sleep(time.Second)
				}
				d := l.Take(n, lim, time.Now(), spend.Patient{For: spend.Patience})
				if d.Verdict == spend.Granted {
					granted++
					undo, ok := books.spend(lim.Of(n))
					if !ok {
						t.Fatalf("seed %d: %v was spent and not there", seed, n)
					}
					if what == 5 {
						undo()
						l.Give(lim.Of(n))
					}
				} else if d.Verdict != spend.Lost && (d.Wait < 0 || d.Verdict == spend.Held && d.Wait > spend.Patience) {
					t.Errorf("%+v", d)
				}
				time.Sleep(pause)
			}
			running.Wait()
			if granted < 20 {
				t.Errorf("seed %d: %d granted", seed, granted)
			}
			time.Sleep(time.Second)
			pool.Release(l)
			if n := pool.Len(); n != 0 {
				t.Errorf("%d leases are left", n)
			}
		})
	}
}

// A key that sends little takes no tokens that it does not spend.
func TestLittleIsWasted(t *testing.T) {
	for _, perSecond := range []float64{1, 3, 10, 40, 70} {
		t.Run(fmt.Sprint(perSecond), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var running sync.WaitGroup
				shop := newShop(time.Millisecond)
				limit := store.Limit{PerSecond: 80, Burst: 160}
				lim := spend.NewLimits(limit, store.Limit{})
				// Four instances, each with a quarter of the messages.
				var sending sync.WaitGroup
				for i := range 4 {
					l := spend.NewPool(shop.take, &running).Acquire("k")
					sending.Go(func() {
						gap := time.Duration(4 * float64(time.Second) / perSecond)
						time.Sleep(gap * time.Duration(i) / 4)
						for range int(10 * perSecond) {
							last := time.Now()
							if !wait(l, spend.Amount{1, 0}, &lim) {
								t.Error("a key below its rate is refused")
							}
							time.Sleep(gap - time.Since(last))
						}
					})
				}
				sending.Wait()
				running.Wait()
			})
		})
	}
}

// A key that uses its rate up, and no more, is not refused when its burst is used up.
func TestAtTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running sync.WaitGroup
		shop := newShop(time.Millisecond)
		lim := spend.NewLimits(store.Limit{PerSecond: 80, Burst: 160}, store.Limit{})
		l := spend.NewPool(shop.take, &running).Acquire("k")
		for range 160 {
			if !wait(l, spend.Amount{1, 0}, &lim) {
				t.Fatal("refused within the burst")
			}
		}
		refused := 0
		for range 800 {
			last := time.Now()
			if !wait(l, spend.Amount{1, 0}, &lim) {
				refused++
			}
			time.Sleep(time.Second/79 - time.Since(last))
		}
		if refused > 0 {
			t.Errorf("%d of 800 refused at the rate", refused)
		}
		running.Wait()
	})
}

// A message that needs more than a batch waits until all of it is there. Messages that need less
// do not wait for it.
func TestLargeMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running sync.WaitGroup
		shop := newShop(time.Millisecond)
		lim := spend.NewLimits(store.Limit{}, store.Limit{PerSecond: 1000, Burst: 4000})
		l := spend.NewPool(shop.take, &running).Acquire("k")
		if !wait(l, spend.Amount{1, 4000}, &lim) {
			t.Fatal("a message of the whole burst is refused")
		}
		time.Sleep(time.Second)
		d := spend.Decision{Verdict: spend.Held}
		for d.Verdict == spend.Held {
			d = l.Take(spend.Amount{1, 3000}, &lim, time.Now(), spend.Patient{For: spend.Patience})
			time.Sleep(time.Millisecond)
		}
		if d.Verdict != spend.Refused || d.Lane != 1 || d.Wait < 1900*time.Millisecond || d.Wait > 2*time.Second {
			t.Errorf("%+v", d)
		}
		if !wait(l, spend.Amount{1, 100}, &lim) {
			t.Error("a small message behind a large one is refused")
		}
		time.Sleep(d.Wait + 150*time.Millisecond)
		if !wait(l, spend.Amount{1, 3000}, &lim) {
			t.Error("the large message is refused after its wait")
		}
		if d := l.Take(spend.Amount{1, 4001}, &lim, time.Now(), spend.Patient{}); d.Verdict != spend.Refused {
			t.Errorf("a message that is larger than the burst: %+v", d)
		}
		running.Wait()
	})
}

// No more than Flights refills are under way, and the others get their turn.
func TestFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running sync.WaitGroup
		var mu sync.Mutex
		most, now := 0, 0
		shop := newShop(0)
		pool := spend.NewPool(func(takes []store.Take) (store.Answer, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(5 * time.Millisecond)
			mu.Lock()
			now--
			mu.Unlock()
			return shop.take(takes)
		}, &running)
		lim := spend.NewLimits(store.Limit{PerSecond: 10, Burst: 10}, store.Limit{})
		var sending sync.WaitGroup
		for i := range 300 {
			l := pool.Acquire(fmt.Sprint(i))
			sending.Go(func() {
				if !wait(l, spend.Amount{1, 0}, &lim) {
					t.Error("refused")
				}
			})
		}
		sending.Wait()
		running.Wait()
		if most != spend.Flights {
			t.Errorf("%d at once, want %d", most, spend.Flights)
		}
		pool.Close()
		if d := pool.Acquire("late").Take(spend.Amount{1, 0}, &lim, time.Now(), spend.Patient{For: spend.Patience}); d.Verdict != spend.Held && d.Verdict != spend.Lost {
			t.Errorf("after Close: %+v", d)
		}
		running.Wait()
	})
}

// A flight that takes longer than Patience holds no message up any longer.
func TestSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running sync.WaitGroup
		shop := newShop(200 * time.Millisecond)
		lim := spend.NewLimits(store.Limit{PerSecond: 10, Burst: 10}, store.Limit{})
		l := spend.NewPool(shop.take, &running).Acquire("k")
		begin := time.Now()
		if wait(l, spend.Amount{1, 0}, &lim) || time.Since(begin) != spend.Patience {
			t.Errorf("held for %v", time.Since(begin))
		}
		if d := l.Take(spend.Amount{1, 0}, &lim, time.Now(), spend.Patient{For: spend.Patience}); d.Verdict != spend.Lost {
			t.Errorf("%+v", d)
		}
		running.Wait()
		if d := l.Take(spend.Amount{1, 0}, &lim, time.Now(), spend.Patient{For: spend.Patience}); d.Verdict != spend.Granted {
			t.Errorf("%+v", d)
		}
	})
}

package wsguardredis_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/store"
)

// model has the stores in memory, which know nothing of instances.
type model struct {
	once  *store.MemoryOnce
	slots *store.MemorySlots
	rates *store.MemoryRates
}

// request returns a random request for few keys.
func request(r *rand.Rand) (q store.Request) {
	for _, i := range r.Perm(3)[:r.IntN(3)] {
		least := int64(r.IntN(3))
		q.Takes = append(q.Takes, store.Take{
			Key: fmt.Sprint("rate", i), Limit: store.Limit{PerSecond: 1e-6, Burst: 60}, Least: least, Most: least + int64(r.IntN(3)),
		})
	}
	if r.IntN(4) > 0 {
		q.ID, q.TTL = fmt.Sprint("id", r.IntN(40)), time.Hour/6
		for _, i := range r.Perm(4)[:1+r.IntN(3)] {
			q.Scopes = append(q.Scopes, store.Scope{Key: fmt.Sprint("scope", i), Max: []int{0, 3, 5, 8}[i], Wide: i%2 == 0})
		}
	}
	if r.IntN(3) == 0 {
		q.Once = fmt.Sprint("once", r.IntN(8))
	}
	return q
}

// The answers of Redis are those of the stores in memory. Each ID belongs to one instance.
func TestAgainstMemory(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for seed := range uint64(20) {
		server := miniredis.RunT(t)
		r := rand.New(rand.NewPCG(seed, 1))
		m := model{store.NewOnce(0), &store.MemorySlots{}, &store.MemoryRates{}}
		combined := store.Combine(m.rates, m.slots, m.once)
		var instances [3]*wsguardredis.Store
		for i := range instances {
			instances[i], _ = open(t, server.Addr(), wsguardredis.Options{Timeout: slowest})
		}
		of := func(id string) *wsguardredis.Store {
			sum := 0
			for _, c := range []byte(id) {
				sum += int(c)
			}
			return instances[sum%len(instances)]
		}
		held := map[string][]store.Scope{}
		for step := range 300 {
			switch r.IntN(4) {
			case 0:
				id := fmt.Sprint("id", r.IntN(40))
				lease := store.Lease{ID: id, Scopes: held[id]}
				delete(held, id)
				if err := of(id).Release(ctx, lease); err != nil {
					t.Fatal(err)
				}
				m.slots.Release(ctx, lease)
			case 1:
				key := fmt.Sprint("once", r.IntN(8))
				if err := of(key).Put(ctx, key, []byte(key), time.Hour); err != nil {
					t.Fatal(err)
				}
				m.once.Put(ctx, key, []byte(key), time.Hour)
			default:
				q := request(r)
				if held[q.ID] != nil {
					q.Scopes, q.Once = held[q.ID], "" // a lease has the scopes of its Acquire
				}
				want, err := combined.Admit(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				got, err := of(q.ID).Admit(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				if got.Wait = got.Wait.Round(time.Minute); want.Refused == store.RefusedRate {
					want.Wait = want.Wait.Round(time.Minute)
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, step %d: %+v\ngot  %+v\nwant %+v", seed, step, q, got, want)
				}
				if got.Refused == store.Admitted && q.ID != "" {
					held[q.ID] = q.Scopes
				}
			}
		}
	}
}

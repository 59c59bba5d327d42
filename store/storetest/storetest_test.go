package storetest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/store"
	"github.com/wsguard/wsguard/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(*testing.T) func() storetest.Instance {
			once, slots, rates := store.NewOnce(0), &store.MemorySlots{}, &store.MemoryRates{}
			all := storetest.Instance{
				Once: once, Slots: slots, Instances: slots, Rates: rates, Marks: &store.MemoryMarks{},
				Admitter: store.Combine(rates, slots, once),
			}
			return func() storetest.Instance { return all }
		},
		Advance:   time.Sleep,
		Bubble:    synctest.Test,
		ShortNews: 10_000,
		Single:    true,
	})
}

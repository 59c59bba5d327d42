// Package storetest tests a store of package store. The stores in memory pass it, and so do
// those of contrib/wsguardredis.
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Harness{
//			Open: func(t *testing.T) func() storetest.Instance {
//				server := startServer(t) // empty
//				return func() storetest.Instance {
//					s := mystore.New(server.Addr())
//					return storetest.Instance{Once: s, Slots: s}
//				}
//			},
//			Advance: time.Sleep,
//		})
//	}
package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard/store"
)

// Instance has the stores of one instance of a service. Those that are nil are not tested.
type Instance struct {
	Once      store.Once // PutOwned is tested if it is a store.OwnedOnce
	Slots     store.Slots
	Instances store.Instances // tested with several instances, unless Harness.Single is set
	Rates     store.Rates
	Marks     store.Marks
	Admitter  store.Admitter // must share its state with Once, Slots and Rates, which must be set
}

// Harness is what a store brings to its test.
type Harness struct {
	// Open makes an empty store for one test, and returns a function. Each call of that
	// function returns another instance of a service that shares the store. Open may call
	// t.Parallel if Bubble is nil. Then several stores are in use at the same time.
	Open func(t *testing.T) func() Instance

	// Advance moves the clock of the store on by d, or a little more. It is called after all
	// other calls of the test have returned. Use time.Sleep for a store whose clock cannot be
	// moved. The suite asks for a second at most.
	Advance func(d time.Duration)

	// Bubble runs one test. It is nil, or testing/synctest.Test if the store is in memory and
	// Advance is time.Sleep.
	Bubble func(t *testing.T, test func(t *testing.T))

	// ShortNews is how many changes are certainly more than News remembers. The test of a gap
	// makes as many. 0 leaves that test out.
	ShortNews int

	// Single says that all instances are one, because the store is in memory.
	Single bool
}

// Run runs the whole suite.
func Run(t *testing.T, h Harness) {
	tests := []struct {
		name string
		run  func(*suite)
	}{
		{"OnceTakenOnce", onceTakenOnce}, {"OnceExpires", onceExpires}, {"OnceOwned", onceOwned},
		{"SlotsCap", slotsCap}, {"SlotsAllOrNone", slotsAllOrNone}, {"SlotsSameID", slotsSameID},
		{"SlotsRace", slotsRace}, {"SlotsRelease", slotsRelease}, {"SlotsExpire", slotsExpire},
		{"SlotsRenew", slotsRenew}, {"SlotsInvalid", slotsInvalid}, {"Instances", instances},
		{"RatesBurst", ratesBurst}, {"RatesRefill", ratesRefill}, {"RatesRace", ratesRace},
		{"RatesDebt", ratesDebt}, {"RatesLook", ratesLook}, {"RatesExtremes", ratesExtremes}, {"RatesInvalid", ratesInvalid},
		{"MarksSet", marksSet}, {"MarksLongerStays", marksLongerStays}, {"MarksExpire", marksExpire},
		{"MarksNews", marksNews}, {"MarksWake", marksWake}, {"MarksNoneLost", marksNoneLost}, {"MarksGap", marksGap}, {"MarksInvalid", marksInvalid},
		{"AdmitOrder", admitOrder}, {"AdmitAll", admitAll}, {"AdmitRace", admitRace}, {"AdmitInvalid", admitInvalid},
	}
	bubble := h.Bubble
	if bubble == nil {
		bubble = func(t *testing.T, test func(*testing.T)) { test(t) }
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				open := h.Open(t)
				test.run(&suite{T: t, h: h, open: open, a: open(), ctx: context.Background()})
			})
		})
	}
}

// suite is one test.
type suite struct {
	*testing.T
	h    Harness
	open func() Instance
	a    Instance // the first instance
	ctx  context.Context
}

// short is a life after which the suite waits for the end, and long is one that does not end
// during a test.
const (
	short = 200 * time.Millisecond
	long  = 5 * time.Minute
)

// need skips the test if a store is missing. It is nil, or an interface that is nil.
func (s *suite) need(has bool, what string) {
	s.Helper()
	if !has {
		s.Skip("there is no " + what)
	}
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// invalid checks that a call was refused because its arguments are not valid.
func (s *suite) invalid(what string, err error) {
	s.Helper()
	if !errors.Is(err, store.ErrInvalid) {
		s.Errorf("%s: %v, which does not wrap store.ErrInvalid", what, err)
	}
}

// race calls f n times at the same time, from four instances in turn.
func (s *suite) race(n int, f func(in Instance, i int)) {
	ins := []Instance{s.a, s.open(), s.open(), s.open()}
	var start, done sync.WaitGroup
	start.Add(1)
	for i := range n {
		done.Go(func() {
			start.Wait()
			f(ins[i%len(ins)], i)
		})
	}
	start.Done()
	done.Wait()
}

package wsguard

import "time"

// storeClock relates the clock of a store to the local one.
type storeClock struct {
	local, store time.Time     // the same moment by both clocks
	within       time.Duration // the error of store
}

// readClock reads the clock of the store, if that was not done for clockEvery. It fails only as
// long as the clock is not known at all.
func (f *feed) readClock(now time.Time) error {
	old := f.clock.Load()
	if old != nil && now.Sub(old.local) < clockEvery {
		return nil
	}
	at, err := callStore(f.sh, f.sh.ctx, f.name+"_now", f.marks.Now)
	if err != nil {
		if old != nil {
			err = nil
		}
		return err
	}
	took := time.Since(now)
	c := &storeClock{local: now.Add(took / 2), store: at.Round(0), within: took/2 + clockGrain}
	if old != nil {
		// An answer that was slow says less than the earlier one, unless a clock was set.
		aged := storeClock{local: c.local, store: old.store.Add(c.local.Sub(old.local)), within: old.within + c.local.Sub(old.local)/10_000}
		if aged.within < c.within && aged.store.Sub(c.store).Abs() <= aged.within+c.within {
			c = &aged
		}
	}
	f.clock.Store(c)
	return nil
}

// storeNow returns what the clock of the store shows at a local time.
func (f *feed) storeNow(local time.Time) time.Time {
	if c := f.clock.Load(); c != nil {
		return c.store.Add(local.Sub(c.local))
	}
	return local.Round(0)
}

// localTime returns the local time of a time by the clock of the store.
func (f *feed) localTime(at time.Time) time.Time {
	if c := f.clock.Load(); c != nil {
		return c.local.Add(at.Sub(c.store))
	}
	return at
}

// within returns the error of localTime.
func (f *feed) within() time.Duration {
	if c := f.clock.Load(); c != nil {
		return c.within
	}
	return clockGrain
}

// stored returns a local time by the clock of the store of revocations, for a ticket that another
// instance redeems. Without such a store, and for the zero time, it returns at.
func (sh *shared) stored(at time.Time) time.Time {
	if sh == nil || sh.revocations == nil || at.IsZero() {
		return at
	}
	return sh.revocations.storeNow(at)
}

// localised undoes stored.
func (sh *shared) localised(at time.Time) time.Time {
	if sh == nil || sh.revocations == nil || at.IsZero() {
		return at
	}
	return sh.revocations.localTime(at)
}

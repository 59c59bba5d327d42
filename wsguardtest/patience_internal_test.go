package wsguardtest

import (
	"testing"
	"testing/synctest"
	"time"
)

// until is a test that must end at a time.
type until struct {
	testing.TB
	by time.Time
	ok bool
}

func (u until) Deadline() (time.Time, bool) { return u.by, u.ok }

// A client waits for 10 s, and less if the test must end before, so that the test can say what is
// missing. In a bubble the deadline of the test does not count.
func TestPatience(t *testing.T) {
	for _, tt := range []struct {
		t           testing.TB
		least, most time.Duration
	}{
		{nil, 10 * time.Second, 10 * time.Second},
		{until{}, 10 * time.Second, 10 * time.Second},
		{until{by: time.Now().Add(time.Hour), ok: true}, 10 * time.Second, 10 * time.Second},
		{until{by: time.Now().Add(9 * time.Second), ok: true}, time.Second, 8 * time.Second},
		{until{by: time.Now().Add(-time.Hour), ok: true}, time.Second, time.Second},
	} {
		if got := patience(tt.t); got < tt.least || got > tt.most {
			t.Errorf("%v, want %v to %v", got, tt.least, tt.most)
		}
	}
	now := time.Now()
	synctest.Test(t, func(*testing.T) {
		if got := patience(until{by: now, ok: true}); got != 24*time.Hour {
			t.Errorf("%v in a bubble", got)
		}
	})
}

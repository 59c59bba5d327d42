package seen_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/seen"
)

// What is seen again and again is never forgotten, and what is not seen is forgotten after two
// ages at most.
func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := seen.NewRecent(age)
		used, once := r.Key("token", "used"), r.Key("token", "once")
		r.Note(once)
		for hour := range 100 {
			if hour > 0 && !r.Look(used) {
				t.Fatalf("forgotten after %d hours", hour)
			}
			r.Note(used)
			if known := r.Look(once); hour < 24 && !known || hour > 48 && known {
				t.Errorf("hour %d: known is %t", hour, known)
			}
			time.Sleep(time.Hour)
		}
		time.Sleep(2 * age)
		if r.Look(used) {
			t.Error("remembered for ever")
		}
		if r.Look(r.Key("tokenused", "")) {
			t.Error("the parts run together")
		}
	})
}

// A flood forgets what was not seen for longest, and memory stays bounded.
func TestRecentIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := seen.NewRecent(age)
		used := r.Key("used")
		for i := range 4 * seen.Size {
			if i%1000 == 0 {
				r.Note(used)
			}
			r.Note(r.Key(fmt.Sprint(i)))
		}
		if !r.Look(used) {
			t.Error("what is in use was forgotten")
		}
		known := 0
		for i := range 4 * seen.Size {
			if r.Look(r.Key(fmt.Sprint(i))) {
				known++
			}
		}
		if known > seen.Size || known < seen.Size/4 {
			t.Errorf("%d are known", known)
		}
	})
}

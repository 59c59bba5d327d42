package wstest_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// fakeTB records what a helper does to its test.
type fakeTB struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (f *fakeTB) Helper()          {}
func (f *fakeTB) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }
func (f *fakeTB) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

func (f *fakeTB) end() {
	for len(f.cleanups) > 0 {
		last := len(f.cleanups) - 1
		c := f.cleanups[last]
		f.cleanups = f.cleanups[:last]
		c()
	}
}

func leaky(stop <-chan struct{}) { <-stop }

func TestCheckGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		defer close(stop)
		go leaky(stop) // before: not the test's

		for _, tc := range []struct {
			name  string
			ends  time.Duration // the goroutine, after the test; negative means never
			waits time.Duration
			fails bool
		}{
			{"at once", 0, 0, false},
			{"late", 3 * time.Second, 3 * time.Second, false},
			{"never", -1, 30 * time.Second, true},
		} {
			tb := &fakeTB{}
			wstest.CheckGoroutines(tb)
			own := make(chan struct{})
			go leaky(own)
			tb.Cleanup(func() {
				if tc.ends >= 0 {
					time.AfterFunc(tc.ends, func() { close(own) })
				}
			})
			start := time.Now()
			tb.end()
			if got := time.Since(start); got < tc.waits || got > tc.waits+100*time.Millisecond {
				t.Errorf("%s: waited %v, want %v", tc.name, got, tc.waits)
			}
			if tc.fails != (len(tb.errors) == 1) {
				t.Errorf("%s: errors %q", tc.name, tb.errors)
			}
			if tc.fails {
				got := tb.errors[0]
				if !strings.Contains(got, "1 goroutines more") || strings.Count(got, "wstest_test.leaky(") != 1 {
					t.Errorf("%s: the report is\n%s", tc.name, got)
				}
				close(own)
			}
		}
	})
}

// What package testing starts is not the test's.
func TestCheckGoroutinesIgnoresTesting(t *testing.T) {
	tb := &fakeTB{}
	wstest.CheckGoroutines(tb)
	hold, held := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(held)
		<-hold
	}()
	done := false
	t.Run("sub", func(t *testing.T) {
		close(hold)
		<-held
		tb.end() // runs while the subtest's goroutine does
		done = true
	})
	if !done || len(tb.errors) != 0 {
		t.Errorf("errors %q", tb.errors)
	}
}

func TestCheckGoroutinesRealTime(t *testing.T) {
	wstest.CheckGoroutines(t)
	for range 100 {
		go time.Sleep(30 * time.Millisecond)
	}
}

func TestKeepAlive(t *testing.T) {
	type conn struct{ _ [64]byte }
	var kept, lost atomic.Bool
	collect := func(gone *atomic.Bool) bool {
		for range 200 {
			runtime.GC()
			if gone.Load() {
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	}
	t.Run("test", func(t *testing.T) {
		func() {
			c, d := new(conn), new(conn)
			runtime.AddCleanup(c, func(gone *atomic.Bool) { gone.Store(true) }, &kept)
			runtime.AddCleanup(d, func(gone *atomic.Bool) { gone.Store(true) }, &lost)
			wstest.KeepAlive(t, c)
		}()
		if !collect(&lost) {
			t.Error("what nobody keeps is still there: this test shows nothing")
		}
		if kept.Load() {
			t.Error("collected during the test")
		}
	})
	if !collect(&kept) {
		t.Error("kept after the test")
	}
}

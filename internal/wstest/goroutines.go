package wstest

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// KeepAlive keeps conn reachable until the test ends. The garbage collector closes
// a connection without references. So a test of a peer that stops reading could pass
// only because the peer was closed. [Dial] and [NewClient]
// do this by themselves.
func KeepAlive(t testing.TB, conn any) {
	t.Cleanup(func() { runtime.KeepAlive(conn) })
}

// goroutineGrace is how long goroutines have to end after the test.
const goroutineGrace = 30 * time.Second

// CheckGoroutines fails the test if, some seconds after its end, goroutines run
// that did not run when CheckGoroutines was called, and prints their stacks.
// Goroutines of package testing and of the runtime do not count.
//
// Cleanups run in reverse order. So call it before everything whose cleanup stops a
// goroutine. It does not know which test has started a goroutine, so it is not for
// tests that run in parallel with others.
func CheckGoroutines(t testing.TB) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		t.Helper()
		var extra []string
		start := time.Now()
		for wait := time.Duration(0); ; wait = min(2*wait+time.Millisecond, 50*time.Millisecond) {
			extra = extra[:0]
			for id, stack := range goroutines() {
				if _, ok := before[id]; !ok && !ignored(stack) {
					extra = append(extra, stack)
				}
			}
			if len(extra) == 0 {
				return
			}
			if time.Since(start) >= goroutineGrace {
				break
			}
			runtime.Gosched()
			time.Sleep(wait)
		}
		t.Errorf("wstest: %d goroutines more than at the start of the test:\n\n%s", len(extra), strings.Join(extra, "\n\n"))
	})
}

// goroutines returns the stacks of all goroutines by their id.
func goroutines() map[string]string {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := make(map[string]string)
	for stack := range strings.SplitSeq(strings.TrimSpace(string(buf)), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		stacks[id] = stack
	}
	return stacks
}

// ignored reports whether package testing or the runtime has started a goroutine.
// The last part of the stack names the function that has started it.
func ignored(stack string) bool {
	_, creator, ok := strings.Cut(stack, "\ncreated by ")
	if !ok {
		return true // the main goroutine, or one of the runtime's own
	}
	for _, pkg := range []string{"runtime.", "runtime/", "testing.", "testing/", "internal/synctest.", "os/signal."} {
		if strings.HasPrefix(creator, pkg) {
			return true
		}
	}
	return false
}

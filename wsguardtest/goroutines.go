package wsguardtest

import (
	"context"
	"fmt"
	"regexp"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A watch finds the goroutines that a server has started. They have a label of package
// runtime/pprof, which each goroutine inherits from the one that starts it. So a watch does not
// confuse them with those of tests that run in parallel. It does not see a goroutine that a
// timer has started.
type watch struct {
	label string // read-only
}

const labelName = "wsguardtest"

// address is what a line of a stack has in front of the function.
var address = regexp.MustCompile(`(?m)^#\t0x[0-9a-f]+\t`)

var watches atomic.Int64 // how many there have been

func newWatch() *watch { return &watch{strconv.FormatInt(watches.Add(1), 10)} }

// do calls f, whose goroutines are watched.
func (w *watch) do(f func()) {
	pprof.Do(context.Background(), pprof.Labels(labelName, w.label), func(context.Context) { f() })
}

// check fails the test if goroutines are left after endGrace. It ignores those with a function
// in allowed on their stack.
func (w *watch) check(t testing.TB, allowed []string) {
	t.Helper()
	start := time.Now()
	for wait := time.Duration(0); ; wait = min(2*wait+time.Millisecond, 50*time.Millisecond) {
		left := w.left(allowed)
		if len(left) == 0 {
			return
		}
		if time.Since(start) >= endGrace {
			t.Errorf("wsguardtest: goroutines of the server are left %v after its end. "+
				"A goroutine that a handler starts must end when the handler's ctx ends, or in a Cleanup of the test. AllowGoroutines is for one that may stay:\n\n%s",
				endGrace, strings.Join(left, "\n\n"))
			return
		}
		time.Sleep(wait)
	}
}

// left returns the stacks of the goroutines that run.
func (w *watch) left(allowed []string) (stacks []string) {
	var b strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return []string{err.Error()}
	}
	label := fmt.Sprintf("%q:%q", labelName, w.label)
	for stack := range strings.SplitSeq(b.String(), "\n\n") {
		_, labels, _ := strings.Cut(stack, "\n# labels: ")
		labels, frames, _ := strings.Cut(labels, "\n")
		if strings.Contains(labels, label) && !slices.ContainsFunc(allowed, func(f string) bool { return strings.Contains(frames, f) }) {
			stacks = append(stacks, address.ReplaceAllString(strings.TrimSpace(frames), "\t"))
		}
	}
	return stacks
}

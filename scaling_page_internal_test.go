package wsguard

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/spend"
)

// docs/scaling.md has the constants of shared stores.
func TestScalingPageConstants(t *testing.T) {
	b, err := os.ReadFile("docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(b)), " ")
	for _, want := range []string{
		fmt.Sprintf("for at most %d s, because that is the lease of a slot", slotLease/time.Second),
		fmt.Sprintf("within about %d s", (renewEvery+renewEvery/10)/time.Second),
		fmt.Sprintf("for each %d connections, every %d s", renewBatch, renewEvery/time.Second),
		fmt.Sprintf("after %d failed calls in a row | `Stats().Shared.Lost`", lostAfter),
		fmt.Sprintf("in advance, for at most %d ms", spend.Life/time.Millisecond),
		fmt.Sprintf("is held for at most %d ms", spend.Patience/time.Millisecond),
		fmt.Sprintf("a refill at most every %d ms", spend.Life/time.Millisecond),
		fmt.Sprintf("have not been read for %d seconds", confirmWithin/time.Second),
		fmt.Sprintf("two calls in %d s", newsWait/time.Second),
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

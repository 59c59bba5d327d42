package wstest_test

import (
	"testing"

	"github.com/wsguard/wsguard/internal/wstest"
)

// Nightly skips a test in the runs of every commit, and in no nightly run.
func TestSkipsOutsideNightly(t *testing.T) {
	for _, tt := range []struct {
		env     string
		skipped bool
	}{{"", true}, {"0", true}, {"1", false}} {
		t.Run("WSGUARD_NIGHTLY="+tt.env, func(t *testing.T) {
			t.Setenv("WSGUARD_NIGHTLY", tt.env)
			var skipped bool
			t.Run("", func(t *testing.T) {
				defer func() { skipped = t.Skipped() }()
				wstest.Nightly(t)
			})
			if skipped != tt.skipped {
				t.Errorf("skipped is %v, want %v", skipped, tt.skipped)
			}
		})
	}
}

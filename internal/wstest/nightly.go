package wstest

import (
	"os"
	"testing"
)

// nightlyEnv is the environment variable that `make nightly` sets to 1.
const nightlyEnv = "WSGUARD_NIGHTLY"

// Nightly skips the test unless it runs under `make nightly`. It is for tests that take longer than each commit can wait
// for: browsers, soaks, and peers in other languages. Such a test is named TestNightly…, because `make nightly` selects
// tests by this name, and calls Nightly first.
func Nightly(t testing.TB) {
	t.Helper()
	if os.Getenv(nightlyEnv) != "1" {
		t.Skip("runs under make nightly only")
	}
}

//go:build race

package baseline_test

// The race detector makes everything ten times as slow.
const raceEnabled = true

//go:build race

package penalty_test

// The race detector makes everything ten times as slow.
const raceEnabled = true

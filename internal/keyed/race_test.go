//go:build race

package keyed_test

// The race detector makes everything ten times as slow.
const raceEnabled = true

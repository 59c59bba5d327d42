//go:build race

package main

// Under the race detector a sync.Pool drops things at random: allocations cannot
// be counted.
const raceEnabled = true

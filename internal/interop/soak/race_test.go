//go:build race

package soak_test

// slowdown is how much less the attackers do, because the race detector makes the server so
// much slower. A machine that has nothing left refuses anybody.
const slowdown = 8

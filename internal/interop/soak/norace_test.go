//go:build !race

package soak_test

const slowdown = 1

// Package soak attacks a server for minutes while well-behaved clients use it. The
// server, the attackers and the clients are three processes, so that the memory, the
// goroutines and the processor time of each can be told from those of the others.
//
// The tests run under make nightly. To run them alone, without the race detector and so with
// latencies that mean something:
//
//	WSGUARD_NIGHTLY=1 go test -v -run TestNightlySoak . -attack 2m
package soak

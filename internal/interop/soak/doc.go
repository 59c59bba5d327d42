// Package soak attacks a server for minutes while well-behaved clients use it. The
// server, the attackers and the clients are three processes, so that the memory, the
// goroutines and the processor time of each can be told from those of the others.
//
// The tests run under make soak, which make nightly calls. They run without the race detector, so
// that the attackers have the machine to themselves and the latencies mean something. To run them
// for a shorter time:
//
//	WSGUARD_NIGHTLY=1 go test -v -run TestNightlySoak . -attack 30s -attackpeers 5s
package soak

// Package wraptest runs handlers of other WebSocket libraries, unchanged, bare
// and behind [wsguard.Guard.Wrap]: the same attacks, the same conversations.
// It is a module of its own, so that the core keeps its three dependencies.
//
// The tests print a table. To see which attacks a bare handler does not hold:
//
//	go test -run TestTable -v .
//
// TestLibraryDefaults compares the table of docs/comparison.md with what the
// libraries do if no option is set.
//
// Node's ws needs npm ci in testdata/node, Python's websockets the package of
// that name. Where one is missing its rows are left out, and the test says so.
package wraptest

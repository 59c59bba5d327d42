// Package wstest holds the helpers of the project's own tests. Package wsguardtest
// serves users with them, and nothing else outside of tests imports them. It imports
// nothing but the standard library.
//
//   - [Pipe] and [Listener] are an in-memory network that behaves like TCP and
//     blocks only in ways that [testing/synctest] understands, so that hours of
//     a connection's life pass in milliseconds and every deadline can be
//     asserted to the exact duration.
//   - [Client] is a raw WebSocket client. It sends whatever a test asks for,
//     legal or not, and is strict about what comes back.
//   - [Serve], [ServeTLS] and [ServePipe] start a server that the test's end
//     stops.
//   - [CheckGoroutines] and [KeepAlive] keep leaks, and tests that pass by
//     accident, from going unnoticed.
//   - [Log] records what was logged.
//   - [Nightly] keeps a long test out of the run of every commit.
//
// Nothing here waits longer than a bounded time unless a test asks for it. So a
// server that hangs makes its test fail, and the test does not hang.
package wstest

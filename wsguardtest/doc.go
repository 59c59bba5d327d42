// Package wsguardtest has helpers for the tests of programs that use wsguard. It is for tests
// only.
//
// # A server for a handler
//
// [NewServer] serves a handler behind a Guard until the test ends. A [Client] speaks messages
// with it, and a [Raw] speaks frames or any other bytes. Both fail the test if something else
// comes than the test expects:
//
//	func TestGreet(t *testing.T) {
//		s := wsguardtest.NewServer(t, greet)
//		c := s.Dial(wsguardtest.As(wsguard.Principal{Subject: "alice"}))
//		c.WriteText("hello")
//		c.WantText("hello, alice")
//		c.Close()
//	}
//
// The server and its clients are in memory, so that they also work in a bubble of
// testing/synctest. The option [TCP] makes the server listen on a port of the loopback
// interface instead. [As] gives a client its principal without a credential, and [Config] gives
// the Guard the configuration of the program. [Server.Events] has what the Guard has reported.
// [NewServerFunc] is for Guard.Wrap, Guard.Accept and routers, and [NewHTTPServer] is for a
// handler that makes its own Guard. [ServerAt] is for a program that listens by itself.
//
// At the end of the test, the server drops its clients, shuts the Guard down, and fails the
// test if a goroutine of the server is left. If the test has failed, its log has the events.
//
// # A corpus of messages
//
// [Messages] checks that a schema or a table of message types accepts the messages that it
// must accept, and refuses the others:
//
//	func TestMessages(t *testing.T) {
//		wsguardtest.Messages(t, table, os.DirFS("testdata/messages"))
//	}
//
// The messages are files. Those below valid/ must pass, and those below invalid/ must be
// refused.
package wsguardtest

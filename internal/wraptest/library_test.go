package wraptest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
)

// library is a WebSocket server that is tested.
type library struct {
	name    string
	dialect dialect

	// handler returns a handler as a user of the library would write it, and
	// what frees it. It sets the header fields of served in its 101.
	handler func() (http.Handler, func())

	// own is set in place of handler for the row of the guard's own door. There
	// is nothing bare about it.
	own func(*wsguard.Guard) http.Handler

	// start is called once before handler, and skips the test when a runtime is
	// missing. Nil: nothing to start.
	start func(*testing.T)

	// repairs are the conversations that the bare library gets wrong and the
	// guard puts right, with the reason.
	repairs map[string]string

	// mute says that the bare library answers a close frame with none. The guard
	// then does, with the same code.
	mute bool

	// deadly are the attacks that would kill the process of the test if they
	// met the bare handler, with the reason. They count as not held.
	deadly map[string]string
}

// served is what each handler adds to its 101.
var served = http.Header{
	"X-Served-By": {"wraptest"},
	"Set-Cookie":  {"seen=1; Path=/; HttpOnly"},
}

func addServed(h http.Header) {
	for name, values := range served {
		h[name] = values
	}
}

// dialect is how a client speaks to a handler.
type dialect struct {
	subprotocol string

	greet string // the first message; empty for none. The handler answers it.

	say  func(id int, text string) string // is answered with text
	push func(n, size int) string         // is answered with n messages, see pushed, before anything else is read
	both func(n int) string               // is answered with n messages while others are read and answered

	// shut is sent in place of greet. The handler closes with 4001 and byeText.
	shut    string
	byeText string

	// heard returns the text in a message of the handler. It is false for what
	// only accompanies texts.
	heard func(msg string) (text string, ok bool)

	// unordered says that answers may overtake one another.
	unordered bool
}

const (
	byeCode = 4001
	bye     = "bye"
)

// plain is the dialect of a handler that echoes, but for a few commands.
var plain = dialect{
	subprotocol: "echo.v1",
	say:         func(_ int, text string) string { return text },
	push:        func(n, size int) string { return fmt.Sprintf("/push %d %d", n, size) },
	both:        func(n int) string { return fmt.Sprintf("/both %d", n) },
	shut:        fmt.Sprintf("/close %d %s", byeCode, bye),
	byeText:     bye,
	heard:       func(msg string) (string, bool) { return msg, true },
}

// pushed is the i-th of the messages that push and both ask for.
func pushed(i, size int) string {
	text := fmt.Sprintf("push %d ", i)
	if pad := size - len(text); pad > 0 {
		text += strings.Repeat(".", pad)
	}
	return text
}

// peer is a connection of a library, as plain echoes see it.
type peer interface {
	// send may be called by several goroutines at a time.
	send(binary bool, msg []byte) error
	close(code int, reason string) error
}

// answer does what a plain echo does with a message.
func answer(p peer, binary bool, msg []byte) error {
	var n, size, code int
	var reason string
	switch text := string(msg); {
	case binary || !strings.HasPrefix(text, "/"):
	case scan(text, "/push %d %d", &n, &size):
		return sendPushed(p, n, size)
	case scan(text, "/both %d", &n):
		go sendPushed(p, n, 0)
		return nil
	case scan(text, "/close %d %s", &code, &reason):
		return p.close(code, reason)
	}
	return p.send(binary, msg)
}

func scan(text, format string, values ...any) bool {
	n, err := fmt.Sscanf(text, format, values...)
	return err == nil && n == len(values)
}

func sendPushed(p peer, n, size int) error {
	for i := range n {
		if err := p.send(false, []byte(pushed(i, size))); err != nil {
			return err
		}
	}
	return nil
}

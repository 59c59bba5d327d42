package sanitize_test

import (
	"fmt"
	"strings"

	"github.com/wsguard/wsguard/sanitize"
)

// The names of all guests lose their blanks. Everything else stays as it was sent.
func ExampleAt() {
	clean := sanitize.At(sanitize.Trim, "/guests/*/name")
	msg, err := clean("invite", []byte(`{"type":"invite", "guests":[{"name":" Ann "},{"name":"\u00a0Bob"}], "n":1.50}`))
	fmt.Printf("%s %v\n", msg, err)
	// Output: {"type":"invite", "guests":[{"name":"Ann"},{"name":"Bob"}], "n":1.50} <nil>
}

// Each type of message has a Message of its own.
func ExampleByKind() {
	clean := sanitize.ByKind(map[string]sanitize.Message{
		"say":  sanitize.At(sanitize.Chain(sanitize.RemoveControls, sanitize.Trim), "/text"),
		"join": sanitize.At(sanitize.RefuseControls, "/room"),
	})
	msg, err := clean("say", []byte(`{"type":"say","text":"hello \u202e"}`))
	fmt.Printf("%s %v\n", msg, err)
	_, err = clean("join", []byte(`{"type":"join","room":"lobby\u0000"}`))
	fmt.Println(err)
	// Output:
	// {"type":"say","text":"hello"} <nil>
	// sanitize: at "/room": a control character
}

// A function for strings becomes a Func.
func ExampleString() {
	upper := sanitize.At(sanitize.String(strings.ToUpper), "/code")
	msg, err := upper("", []byte(`{"code":"abc"}`))
	fmt.Printf("%s %v\n", msg, err)
	// Output: {"code":"ABC"} <nil>
}

package wsguardtest_test

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/wsguardtest"
)

type command struct {
	Op string
	N  int
}

// sum keeps a sum for each connection. Only a user with the scope "reset" may reset it.
func sum(ctx context.Context, c *wsguard.Conn) error {
	who, sum := c.Principal(), 0
	for {
		cmd, err := wsguard.ReadJSON[command](ctx, c)
		if err != nil {
			return err
		}
		switch cmd.Op {
		case "add":
			sum += cmd.N
		case "reset":
			if !slices.Contains(who.Scopes, "reset") {
				return &wsguard.CloseError{Code: 4003, Reason: "no reset"}
			}
			sum = 0
		}
		answer := fmt.Sprintf(`{"user": %q, "sum": %d}`, who.Subject, sum)
		if err := c.Write(ctx, wsguard.MessageText, []byte(answer)); err != nil {
			return err
		}
	}
}

// In a test, t is the test's own. The handler sum keeps a sum for each connection, which only a
// user with the scope "reset" may reset.
func ExampleNewServer() {
	s := wsguardtest.NewServer(t, sum)
	alice := s.Dial(wsguardtest.As(wsguard.Principal{Subject: "alice", Scopes: []string{"reset"}}))
	alice.WriteText(`{"op": "add", "n": 2}`)
	alice.WantJSON(`{"user": "alice", "sum": 2}`)
	alice.WriteText(`{"op": "reset"}`)
	alice.WantJSON(`{"user": "alice", "sum": 0}`)
	bob := s.Dial(wsguardtest.As(wsguard.Principal{Subject: "bob"}))
	bob.WriteText(`{"op": "reset"}`)
	bob.WantClose(4003, "no reset")
}

// TestExample runs ExampleNewServer as a test, which is short for such a handler.
func TestExample(own *testing.T) {
	old := t
	t = own
	defer func() { t = old }()
	ExampleNewServer()

	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "example_server_test.go", nil, parser.SkipObjectResolution)
	if err != nil {
		own.Fatal(err)
	}
	lines := map[string]int{}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			lines[fn.Name.Name] = fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
		}
	}
	if lines["sum"] < 20 || lines["ExampleNewServer"] > 15 {
		own.Errorf("the test of a handler of %d lines has %d", lines["sum"], lines["ExampleNewServer"])
	}
}

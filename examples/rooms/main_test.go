package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/wsguardtest"
)

// The program prints what its users need to connect.
func TestProgram(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", stdout)
		stdout.Close()
		done <- err
	}()
	t.Cleanup(stop)
	lines := bufio.NewScanner(out)
	dial := func() *wsguardtest.Client {
		if !lines.Scan() {
			t.Fatal("the program ends with", <-done)
		}
		url := strings.Fields(lines.Text())[4]
		_, key, _ := strings.Cut(strings.TrimSuffix(lines.Text(), `"`), "Bearer ")
		s := wsguardtest.ServerAt(t, url, wsguardtest.Origin(""))
		s.WantRefusal(401, "unauthenticated")
		s.WantRefusal(403, "origin", wsguardtest.Origin("https://evil.example"))
		return s.Dial(wsguardtest.Header("Authorization", "Bearer "+key))
	}
	alice, bob := dial(), dial()
	alice.WriteText(`{"type":"say","room":"go","text":"hello"}`)
	alice.WantJSON(`{"type":"problem","room":"go","text":"You are not in this room."}`)
	alice.WriteText(`{"type":"join","room":"go"}`)
	alice.WantJSON(`{"type":"joined","room":"go","people":["alice"]}`)
	bob.WriteText(`{"type":"join","room":"go"}`)
	bob.WantJSON(`{"type":"joined","room":"go","people":["alice","bob"]}`)
	alice.WantJSON(`{"type":"here","room":"go","name":"bob"}`)
	bob.WriteText(`{"type":"say","room":"go","text":"hello"}`)
	alice.WantJSON(`{"type":"said","room":"go","name":"bob","text":"hello"}`)
	bob.CloseNow()
	alice.WantJSON(`{"type":"gone","room":"go","name":"bob"}`)
	alice.WriteText(`{"type":"leave","room":"go"}`)
	for _, room := range strings.Fields("a b c d e") {
		alice.WriteText(`{"type":"join","room":"` + room + `"}`)
		alice.WantJSON(`{"type":"joined","room":"` + room + `","people":["alice"]}`)
	}
	alice.WriteText(`{"type":"join","room":"f"}`)
	alice.WantJSON(`{"type":"problem","room":"f","text":"You are in too many rooms."}`)
	stop()
	alice.WantClose(1012, "draining")
	select {
	case err := <-done:
		if err != nil {
			t.Error("run:", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("the program does not end")
	}
}

// What a client sends must fit the schema.
func TestSchema(t *testing.T) {
	cfg, err := config()
	if err != nil {
		t.Fatal(err)
	}
	for msg, valid := range map[string]bool{
		`{"type":"join","room":"go"}`:                        true,
		`{"type":"leave","room":"go"}`:                       true,
		`{"type":"say","room":"go","text":"hello"}`:          true,
		`{"type":"say","room":"go","text":" "}`:              false,
		`{"type":"say","room":"go"}`:                         false,
		`{"type":"say","room":"go","text":"x","name":"bob"}`: false,
		`{"type":"join","room":"Go"}`:                        false,
		`{"type":"join","room":""}`:                          false,
		`{"type":"joined","room":"go"}`:                      false,
		`[]`:                                                 false,
	} {
		if err := cfg.Messages.Validator.Validate([]byte(msg)); (err == nil) != valid {
			t.Errorf("%s: %v", msg, err)
		}
	}
}

package main

import (
	"strings"
	"testing"

	"github.com/wsguard/wsguard/wsguardtest"
)

const (
	origin = "https://app.example.com"
	key    = "0123456789abcdef"
)

func serve(t *testing.T) *wsguardtest.Server {
	t.Helper()
	h, err := newHandler(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	return wsguardtest.NewHTTPServer(t, h, wsguardtest.Path("/ws"), wsguardtest.Origin(origin), wsguardtest.Header("Authorization", "Bearer "+key))
}

func TestEcho(t *testing.T) {
	c := serve(t).Dial()
	c.WriteText("hello")
	c.WantText("hello")

	// The guard's limits hold although the handler sets none.
	c.WriteText(strings.Repeat("x", 100<<10))
	c.WantClose(1009, "message_too_big")
}

func TestRefused(t *testing.T) {
	s := serve(t)
	s.WantRefusal(403, "origin", wsguardtest.Origin("https://evil.example"))
	s.WantRefusal(401, "unauthenticated", wsguardtest.Header("Authorization", "Bearer wrong"))
}

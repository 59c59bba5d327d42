package main

import (
	"strings"
	"testing"
)

// The flags of origins, as tests from outside use them.
func TestOriginFlags(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		origin string // OWN is the server's address
		status int
	}{
		{nil, "OWN", 101},
		{nil, "https://evil.example", 403},
		{[]string{"-same-origin"}, "OWN", 101},
		{[]string{"-same-origin"}, "https://evil.example", 403},
		{[]string{"-same-origin", "-hosts", "127.0.0.1"}, "OWN", 101},
		{[]string{"-same-origin", "-hosts", "a.example"}, "OWN", 421},
		{[]string{"-same-origin", "-origins", "https://a.example"}, "https://a.example", 101},
		{[]string{"-origins", "https://a.example"}, "OWN", 403},
		{[]string{"-any-origin"}, "https://evil.example", 101},
		{[]string{"-any-origin"}, "", 403},
		{[]string{"-origins", "file://,http://localhost:*"}, "file://", 101},
		{[]string{"-origins", "file://,http://localhost:*"}, "http://localhost:5173", 101},
		{[]string{"-origins", "file://,http://localhost:*"}, "http://localhost", 101},
		{[]string{"-origins", "file://,http://localhost:*"}, "https://localhost", 403},
		{[]string{"-origins", "file://,http://localhost:*"}, "http://127.0.0.1:5173", 403},
	} {
		s := start(t, tt.args...)
		s.status(tt.status, "/ws", "Origin", strings.Replace(tt.origin, "OWN", "http://"+s.addr, 1))
	}
}

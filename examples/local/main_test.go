package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/wsguardtest"
)

// start runs the server and returns its address.
func start(t *testing.T, file string) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"-token-file", file}, stdout)
		stdout.Close()
		done <- err
	}()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Error("run:", err)
			}
		case <-time.After(15 * time.Second):
			t.Error("the server does not end")
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, addr, ok := strings.Cut(strings.TrimSpace(line), "-connect ")
	if !ok {
		t.Fatalf("the server prints %q", line)
	}
	return addr
}

func TestLocal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	addr := start(t, file)
	var out bytes.Buffer
	if err := run(context.Background(), []string{"-token-file", file, "-connect", addr}, &out); err != nil || out.String() != "hello\n" {
		t.Errorf("%q, %v", &out, err)
	}

	wrong := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(wrong, []byte("a-token-of-another-server\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(context.Background(), []string{"-token-file", wrong, "-connect", addr}, &out); err == nil || !strings.Contains(err.Error(), "401") {
		t.Error("with a wrong token:", err)
	}
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := wsguardtest.ServerAt(t, "ws://"+addr, wsguardtest.Origin(""), wsguardtest.Header("Authorization", "Bearer "+strings.TrimSpace(string(token))))
	s.WantRefusal(421, "host", wsguardtest.Host("evil.example"))
}

func TestFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, args := range [][]string{
		{"-addr", "0.0.0.0:0"},
		{"-addr", ":0"},
		{"-token-file", filepath.Join(file, "token")},
		{"-token-file", t.TempDir()},
		{"-connect", "127.0.0.1:1"}, // there is no token
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if err := run(ctx, append([]string{"-token-file", file}, args...), io.Discard); err == nil || ctx.Err() != nil {
			t.Errorf("%q: %v", args, err)
		}
		cancel()
		os.Remove(file)
	}
}

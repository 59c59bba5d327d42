package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// The whole program, from its flags to the drain.
func TestRun(t *testing.T) {
	wstest.CheckGoroutines(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stdout, w := io.Pipe()
	done := make(chan error, 1)
	data := filepath.Join(t.TempDir(), "data")
	go func() {
		done <- run(ctx, "127.0.0.1:0", "", data, w, slog.New(new(wstest.Log)))
		w.Close()
	}()
	lines := bufio.NewScanner(stdout)
	said := func(begin string) string {
		t.Helper()
		lines.Scan()
		rest, ok := strings.CutPrefix(lines.Text(), begin)
		if !ok || rest == "" {
			t.Fatalf("the program says %q", lines.Text())
		}
		return rest
	}
	url := said("open ")
	said("operator key: ")
	if got := said("logins and messages: "); got != data {
		t.Errorf("the data is in %s", got)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("the page: %d", res.StatusCode)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("run does not end")
	}
}

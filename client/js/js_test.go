package js_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/client/js"
)

// TestNode runs the tests of the module with node, which needs no install.
func TestNode(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: npm test is not run")
	}
	program, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node")
	}
	version, err := exec.Command(program, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if major, _, _ := strings.Cut(strings.TrimPrefix(string(version), "v"), "."); len(major) < 2 || major < "20" {
		t.Skipf("node %s is older than 20", version)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--test", "--test-reporter=tap")
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "\nok "); n < 50 {
		t.Errorf("%d tests have run:\n%s", n, out)
	}
}

func TestHandler(t *testing.T) {
	want, err := os.ReadFile("wsguard.js")
	if err != nil {
		t.Fatal(err)
	}
	if js.Source() != string(want) {
		t.Error("Source is not the file")
	}
	serve := func(method string, change func(*http.Request)) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/anything", nil)
		change(r)
		w := httptest.NewRecorder()
		js.Handler().ServeHTTP(w, r)
		return w
	}
	as := func(*http.Request) {}
	got := serve("GET", as)
	if got.Code != http.StatusOK || got.Body.String() != string(want) {
		t.Errorf("GET: %d, %d bytes", got.Code, got.Body.Len())
	}
	for name, want := range map[string]string{"Content-Type": "text/javascript; charset=utf-8", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"} {
		if v := got.Header().Get(name); v != want {
			t.Errorf("%s: %q", name, v)
		}
	}
	again := serve("GET", func(r *http.Request) { r.Header.Set("If-None-Match", got.Header().Get("ETag")) })
	if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("unchanged: %d, %d bytes", again.Code, again.Body.Len())
	}
	if head := serve("HEAD", as); head.Code != http.StatusOK || head.Body.Len() != 0 {
		t.Errorf("HEAD: %d, %d bytes", head.Code, head.Body.Len())
	}
	if post := serve("POST", as); post.Code != http.StatusMethodNotAllowed || post.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %q", post.Code, post.Header())
	}
}

package wsguardprom

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/store"
)

// table returns the table of the metrics as the README has it.
func table(t *testing.T) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(of(full(), Options{}))
	got, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]string{}
	for _, f := range got {
		types[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	var b strings.Builder
	for _, f := range families {
		labels := ""
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `wsguard_%s` | %s | %s | %s |\n", f.name, types["wsguard_"+f.name], labels, strings.TrimSuffix(f.help, "."))
	}
	return b.String()
}

// readme returns README.md.
func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The README has each metric, with the help that Prometheus gets.
func TestREADME(t *testing.T) {
	page := readme(t)
	_, got, _ := strings.Cut(page, "| metric | type | labels | what it says |\n|---|---|---|---|\n")
	got, _, _ = strings.Cut(got, "\n\n")
	diff(t, table(t), got+"\n")

	// Each line of the first program stands in the example, which runs.
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(page)
	if m == nil {
		t.Fatal("the README has no program")
	}
	for line := range strings.Lines(m[1]) {
		if line = strings.TrimSpace(line); !strings.Contains(string(example), line) && !strings.Contains(line, "ListenAndServe") {
			t.Errorf("the example lacks %s", line)
		}
	}

	// The page claims that there are about 300 series, and about 40 more with stores.
	n := len(series(gather(t, New(newGuard(t), Options{}))))
	if n < 270 || n > 330 {
		t.Errorf("%d series, and the README says about 300", n)
	}
	shared := newGuard(t, func(cfg *wsguard.Config) { cfg.Shared = wsguard.SharedConfig{Slots: &store.MemorySlots{}} })
	if more := len(series(gather(t, New(shared, Options{})))) - n; more < 35 || more > 45 {
		t.Errorf("%d series of stores, and the README says about 40", more)
	}
}

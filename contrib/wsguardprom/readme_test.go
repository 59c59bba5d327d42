package wsguardprom

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
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

// The README has each metric, with the help that Prometheus gets.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(string(readme), "| metric | type | labels | what it says |\n|---|---|---|---|\n")
	got, _, _ = strings.Cut(got, "\n\n")
	diff(t, table(t), got+"\n")

	// Each line of the first program stands in the example, which runs.
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(string(readme))
	if m == nil {
		t.Fatal("the README has no program")
	}
	for line := range strings.Lines(m[1]) {
		if line = strings.TrimSpace(line); !strings.Contains(string(example), line) && !strings.Contains(line, "ListenAndServe") {
			t.Errorf("the example lacks %s", line)
		}
	}

	// The page claims that there are about 300 series.
	if n := len(series(gather(t, New(newGuard(t), Options{})))); n < 270 || n > 330 {
		t.Errorf("%d series, and the README says about 300", n)
	}
}

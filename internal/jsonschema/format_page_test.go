package jsonschema_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// TestFormatsPage holds the table of docs/schemas.md: it has every format, and its examples are judged as it says.
func TestFormatsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/schemas.md")
	if err != nil {
		t.Skip(err)
	}
	code := regexp.MustCompile("`([^`]+)`")
	_, section, _ := strings.Cut(string(page), "\n## Formats\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var names []string
	for _, line := range strings.Split(section, "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) != 4 || strings.Contains(line, "| format |") {
			continue
		}
		accepted, refused := code.FindStringSubmatch(cells[2]), code.FindStringSubmatch(cells[3])
		if accepted == nil || refused == nil || cells[1] == "" {
			t.Errorf("no examples: %s", line)
			continue
		}
		for _, m := range code.FindAllStringSubmatch(cells[0], -1) {
			names = append(names, m[1])
			ok, _ := jsonschema.Format(m[1])
			if ok == nil {
				t.Errorf("there is no format %s", m[1])
				continue
			}
			if !ok([]byte(accepted[1])) || ok([]byte(refused[1])) {
				t.Errorf("not as the page says: %s", line)
			}
		}
	}
	slices.Sort(names)
	if want := jsonschema.Formats(); !slices.Equal(names, want) {
		t.Errorf("the page has %v, and the formats are %v", names, want)
	}
}

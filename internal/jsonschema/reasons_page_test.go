package jsonschema_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReasonsPage checks that docs/schemas.md lists each token of an Error, and no other.
func TestReasonsPage(t *testing.T) {
	source, err := os.ReadFile("error.go")
	if err != nil {
		t.Fatal(err)
	}
	var tokens []string
	for _, m := range regexp.MustCompile(`(?m)^\tToken\w+ += "(\w+)"`).FindAllSubmatch(source, -1) {
		tokens = append(tokens, string(m[1]))
	}
	page, err := os.ReadFile("../../docs/schemas.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n## Reasons\n")
	if !ok {
		t.Fatal("the page has no section Reasons")
	}
	var listed []string
	for _, line := range strings.Split(section, "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cell, _, _ := strings.Cut(line[2:], " |")
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cell, -1) {
			listed = append(listed, m[1])
		}
	}
	slices.Sort(tokens)
	slices.Sort(listed)
	if len(tokens) < 20 || !slices.Equal(tokens, listed) {
		t.Errorf("the page lists\n%v, and error.go has\n%v", listed, tokens)
	}
}

package jsonschema_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// TestPresetsPage holds the table of presets in docs/schemas.md against the presets.
func TestPresetsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/schemas.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "| `SchemaPresets` |")
	if !found {
		t.Fatal("docs/schemas.md has no table of presets")
	}
	words := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for _, line := range strings.Split(table, "\n")[2:] {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(line, "| "), "|")
		name := strings.Trim(cells[0], "` ")
		preset, ok := presetsByName[name]
		if !ok || len(cells) != 5 {
			t.Fatalf("%s", line)
		}
		rows++
		for i, want := range jsonschema.PresetNames(preset) {
			var got []string
			for _, m := range words.FindAllStringSubmatch(cells[i+1], -1) {
				got = append(got, m[1])
			}
			slices.Sort(want)
			if !slices.IsSorted(got) || !slices.Equal(got, want) {
				t.Errorf("%s, column %d:\nhave %s\nwant `%s`", name, i+2, cells[i+1], strings.Join(want, "`, `"))
			}
		}
	}
	if rows != len(presetsByName) {
		t.Errorf("%d rows for %d presets", rows, len(presetsByName))
	}
}

package wsguard_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
)

// TestLimitsPageShared checks that docs/limits.md names each field of SharedConfig in its section.
func TestLimitsPageShared(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "\n## Several instances\n")
	section, _, found := strings.Cut(section, "\n## ")
	if !found {
		t.Fatal("docs/limits.md has no section about several instances")
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[wsguard.SharedConfig]()) {
		if !strings.Contains(section, "`"+field.Name+"`") && !strings.Contains(section, "`Shared."+field.Name+"`") {
			t.Errorf("the section about several instances does not name %s", field.Name)
		}
	}
}

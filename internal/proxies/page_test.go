package proxies

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// page returns docs/operations.md.
func page(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var fence = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// blocks returns the fenced blocks of the page in a language, in their order.
func blocks(t *testing.T, language string) (all []string) {
	t.Helper()
	for _, m := range fence.FindAllStringSubmatch(page(t), -1) {
		if m[1] == language {
			all = append(all, m[2])
		}
	}
	if len(all) == 0 {
		t.Fatalf("docs/operations.md has no block in the language %s", language)
	}
	return all
}

// substitute replaces parts of a block. Pairs has what is replaced, and by what. Each part
// must be in the block, so that the page and the test stay the same.
func substitute(t *testing.T, block string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(block, pairs[i]) {
			t.Fatalf("the block does not have %q:\n%s", pairs[i], block)
		}
	}
	return strings.NewReplacer(pairs...).Replace(block)
}

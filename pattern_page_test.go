package wsguard_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
)

// TestSchemasPagePatterns holds the table of patterns in docs/schemas.md. Every construct of the table is compiled, and is
// an error where the table says so. Some texts show each meaning.
func TestSchemasPagePatterns(t *testing.T) {
	page, err := os.ReadFile("docs/schemas.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "| in a pattern | meaning |\n|---|---|\n")
	if !ok {
		t.Fatal("docs/schemas.md has no table of patterns")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	// What is no pattern by itself, or is refused for a reason that its construct alone does not have.
	whole := map[string]string{`{1,5000}`: `^a{1,5000}$`, `\1`: `(a)\1`, `\k<n>`: `(?<n>a)\k<n>`}
	rows := strings.Split(strings.TrimSpace(table), "\n")
	for _, row := range rows {
		construct, meaning, _ := strings.Cut(strings.Trim(row, "| "), " | ")
		for _, code := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(construct, -1) {
			p := code[1]
			if w := whole[p]; w != "" {
				p = w
			}
			_, err := compilePattern(p)
			if refused := strings.HasPrefix(meaning, "an error"); (err != nil) != refused {
				t.Errorf("%s: %v, and the page says %q", p, err, meaning)
			} else if refused && (!strings.Contains(err.Error(), "RE2") || !strings.Contains(err.Error(), " at byte ")) {
				t.Errorf("%s: %v, want RE2 and the offset", p, err)
			}
		}
	}
	if len(rows) != 11 {
		t.Errorf("%d rows", len(rows))
	}
	for _, c := range []struct {
		pattern string
		yes, no string
	}{
		{`^\s$`, "\u00a0\u2028\u2029\u3000\ufeff \t\n", "a\u0085\u200b"},
		{`^\S$`, "a\u0085\u200b", "\u00a0\u2028\u2029\u3000\ufeff \t\n"},
		{`^.$`, "a\u0085é😀", "\n\r\u2028\u2029"},
		{`^[^\s]$`, "a", "\u00a0\ufeff"},
		{`^\d$`, "0", "٣"},
		{`^\w$`, "a_", "é"},
		{`^\ud83d\ude00$`, "😀", "🐲"},
		{`^\u{1F600}$`, "😀", "🐲"},
		{`^[\u00e9\xe8\cA]$`, "éè\x01", "eA"},
		{`^[^]$`, "\n]😀", ""},
		{`^\p{Script=Greek}$`, "α", "aя"},
		{`^\p{L}$`, "aéя", "1-"},
		{`^\p{Alphabetic}$`, "aéя", "1-"},
		{`^[\w-.]$`, "a-.", "+"},
	} {
		s, err := compilePattern(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		for _, r := range c.yes + c.no {
			msg, err := json.Marshal(string(r))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Validate(msg); (err == nil) != strings.ContainsRune(c.yes, r) {
				t.Errorf("%s of %q: %v", c.pattern, r, err)
			}
		}
	}
	for text, want := range map[string]bool{"a": true, "a\n": false, "\na": false} {
		s, err := compilePattern(`^a$`)
		if err != nil {
			t.Fatal(err)
		}
		msg, _ := json.Marshal(text)
		if err := s.Validate(msg); (err == nil) != want {
			t.Errorf("^a$ of %q: %v", text, err)
		}
	}
	// RE2's 1,000, and the bound of its program.
	if _, err := compilePattern(`^(?:ab){1001}$`); err != nil {
		t.Error(err)
	}
	if _, err := compilePattern(`^(?:ab){40000}$`); err == nil || !strings.Contains(err.Error(), "65536 are allowed") {
		t.Errorf("a pattern of 80,000 instructions: %v", err)
	}
}

func compilePattern(p string) (*wsguard.Schema, error) {
	src, err := json.Marshal(map[string]any{"type": "string", "pattern": p})
	if err != nil {
		return nil, err
	}
	return wsguard.CompileSchema(src)
}

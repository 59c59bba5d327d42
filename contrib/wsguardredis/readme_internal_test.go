package wsguardredis

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// The README has each option with its default.
func TestREADMEOptions(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	s, err := New(client, Options{Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]string{
		"Prefix":   "none, required",
		"HashTag":  "`" + fmt.Sprint(s.opts.HashTag) + "`",
		"Timeout":  strings.Replace(s.opts.Timeout.String(), "ms", " ms", 1),
		"MaxMarks": grouped(s.opts.MaxMarks),
		"News":     grouped(s.opts.News),
		"Logger":   "none",
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		row := fmt.Sprintf("| `%s` | %s |", field.Name, defaults[field.Name])
		if !strings.Contains(string(readme), row) {
			t.Errorf("README.md has no row %q", row)
		}
	}
	for _, text := range []string{
		fmt.Sprintf("After %d\nfailures in a row", maxFailures),
		fmt.Sprintf("about %d ms", probeEvery.Milliseconds()),
	} {
		if !strings.Contains(string(readme), text) {
			t.Errorf("README.md does not say %q", text)
		}
	}
}

// grouped writes n with commas between groups of three digits.
func grouped(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

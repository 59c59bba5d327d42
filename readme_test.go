package wsguard_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The program that README opens with must compile, and stand before line 60.
func TestREADMEProgram(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```go\n(package main.*?)```").FindSubmatchIndex(readme)
	if m == nil {
		t.Fatal("README has no program")
	}
	if line := strings.Count(string(readme[:m[1]]), "\n") + 1; line > 60 {
		t.Errorf("the program ends in line %d", line)
	}
	long(t) // compiles a program
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, readme[m[2]:m[3]], 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "vet", file).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

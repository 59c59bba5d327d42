package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckAll finds what compiles on some platforms only, in a package and in both kinds of
// its tests.
func TestCheckAll(t *testing.T) {
	for name, tt := range map[string]struct {
		file, source  string
		fails, passes string // platforms
		says          string
	}{
		"fine":               {file: "a_linux.go", source: "package m\n\nfunc f() { _ = 1 }\n", passes: "linux/386"},
		"an integer":         {file: "a.go", source: "package m\n\nfunc f() int { return 1 << 40 }\n", fails: "linux/386", passes: "darwin/arm64", says: "overflows"},
		"a file of Windows":  {file: "a_windows.go", source: "package m\n\nfunc f() { var unused int }\n", fails: "windows/amd64", passes: "linux/386", says: "declared and not used"},
		"a syscall":          {file: "a.go", source: "package m\n\nimport \"syscall\"\n\nvar _ = syscall.Kill\n", fails: "windows/amd64", passes: "freebsd/amd64", says: "undefined: syscall.Kill"},
		"a test":             {file: "a_test.go", source: "package m\n\nvar _ = 1 << 40 + len(\"\")\n", fails: "linux/386", passes: "darwin/arm64", says: "a_test.go"},
		"an external test":   {file: "b_test.go", source: "package m_test\n\nimport \"example.com/m\"\n\nvar _ = m.Missing\n", fails: "linux/386", says: "undefined: m.Missing"},
		"what a test adds":   {file: "b_test.go", source: "package m_test\n\nimport \"example.com/m\"\n\nvar _ = m.Added\n", passes: "windows/amd64"},
		"no such package":    {file: "a.go", source: "package m\n\nimport _ \"example.com/m/missing\"\n", fails: "linux/386", says: "example.com/m/missing"},
		"no such file there": {file: "only_darwin.go", source: "package m\n\nvar Only int\n", passes: "darwin/arm64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOWORK", "off")
			dir := t.TempDir()
			for name, source := range map[string]string{
				"go.mod": "module example.com/m\n\ngo 1.25.0\n", "m.go": "package m\n",
				"added_test.go": "package m\n\nimport \"testing\"\n\nvar Added testing.TB\n", tt.file: tt.source,
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(source), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if tt.passes != "" {
				if err := checkAll(tt.passes, []string{dir}); err != nil {
					t.Errorf("%s: %v", tt.passes, err)
				}
			}
			if tt.fails == "" {
				return
			}
			if err := checkAll(tt.fails, []string{dir}); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v, want an error with %q", tt.fails, err, tt.says)
			}
		})
	}
}

// TestCheckAllPlatforms refuses a platform that Go does not have.
func TestCheckAllPlatforms(t *testing.T) {
	for _, platform := range []string{"linux", "linux/z80"} {
		if err := checkAll(platform, nil); err == nil {
			t.Errorf("%s is no platform", platform)
		}
	}
}

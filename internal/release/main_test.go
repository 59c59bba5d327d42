package main

import (
	"archive/zip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTree checks the go.mod files of this repository. make release-check goes
// further, and takes longer.
func TestTree(t *testing.T) {
	tree, err := readTree("../..")
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.checkRequires(); err != nil {
		t.Error(err)
	}
	if n := len(tree.released()); n < 2 {
		t.Errorf("%d modules get a tag, want the root and those below contrib", n)
	}
}

// files is a repository that can be released.
func files() map[string]string {
	return map[string]string{
		"CHANGELOG.md":                "# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2030-01-02\n\n## 1.2.2\n",
		"README.md":                   "```go\npackage main\n\nimport _ \"example.com/m\"\n\nfunc main() {}\n```\n",
		"go.mod":                      "module example.com/m\n\ngo 1.25.0\n",
		"m.go":                        "package m\n",
		"sub/sub.go":                  "package sub\n\nimport _ \"example.com/m/internal/i\"\n",
		"internal/i/i.go":             "package i\n",
		"cmd/c/main.go":               "package main\n\nfunc main() {}\n",
		"contrib/a/go.mod":            "module example.com/m/contrib/a\n\ngo 1.25.0\n\nrequire example.com/m v1.2.3\n\nreplace example.com/m => ../..\n",
		"contrib/a/a.go":              "package a\n\nimport _ \"example.com/m/sub\"\n",
		"contrib/x/b/go.mod":          "module example.com/m/contrib/x/b\n\ngo 1.25.0\n\nrequire (\n\texample.com/m v1.2.3\n\texample.com/m/contrib/a v1.2.3\n)\n\nreplace (\n\texample.com/m => ../../..\n\texample.com/m/contrib/a => ../../a\n)\n",
		"contrib/x/b/b.go":            "package b\n\nimport (\n\t_ \"example.com/m\"\n\t_ \"example.com/m/contrib/a\"\n)\n",
		"bench/go.mod":                "module example.com/m/bench\n\ngo 1.25.0\n\nrequire example.com/m v1.2.3\n\nreplace example.com/m => ../\n",
		"bench/bench.go":              "package bench\n\nimport _ \"example.com/m\"\n",
		"bench/node_modules/x/go.mod": "module node\n",
	}
}

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestCheck runs the whole check on small repositories. It needs no network.
func TestCheck(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	for _, tt := range []struct {
		name     string
		file     string
		old, new string
		want     string // in the error; "" is none
		requires bool   // The go.mod files have no fault, so only the installation can fail.
	}{
		{"as it must be", "go.mod", "", "", "", true},
		{"an older version of the root", "contrib/a/go.mod", "example.com/m v1.2.3", "example.com/m v1.2.2", "contrib/a/go.mod: requires example.com/m v1.2.2, want v1.2.3", false},
		{"no version of the root", "bench/go.mod", "v1.2.3", "v0.0.0", "bench/go.mod: requires example.com/m v0.0.0", false},
		{"an older version of a sibling", "contrib/x/b/go.mod", "contrib/a v1.2.3", "contrib/a v1.0.0", "requires example.com/m/contrib/a v1.0.0", false},
		{"no replace", "contrib/a/go.mod", "replace example.com/m => ../..", "", "does not replace example.com/m by its directory", false},
		{"replace by another directory", "contrib/a/go.mod", "=> ../..", "=> ../x", "does not replace example.com/m by its directory", false},
		{"replace of something else", "contrib/a/go.mod", "replace", "replace example.com/other => ./other\n\nreplace", "replaces example.com/other", false},
		{"replace in the root", "go.mod", "go 1.25.0", "go 1.25.0\n\nreplace example.com/other => ./other", "replaces example.com/other", false},
		{"the root requires a nested module", "go.mod", "go 1.25.0", "go 1.25.0\n\nrequire example.com/m/contrib/a v1.2.3", "the root requires", false},
		{"another path than that of the directory", "contrib/a/go.mod", "module example.com/m/contrib/a", "module example.com/a", "names the module example.com/a", false},
		{"a release that CHANGELOG.md has not", "CHANGELOG.md", "1.2.", "next ", "no section with a version", false},
		{"a package of the root that is not there", "contrib/a/a.go", "m/sub", "m/gone", "example.com/m/gone", true},
		{"a package that is not required", "contrib/a/a.go", "example.com/m/sub", "example.com/other", "example.com/other", true},
		{"a program of README.md that does not compile", "README.md", "example.com/m", "example.com/m/gone", "a program of README.md", true},
		{"no program in README.md", "README.md", "package main", "package p", "README.md has no program", true},
		{"a program that does not compile", "cmd/c/main.go", "func main() {}", "", "function main is undeclared", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := files()
			if tt.old != "" {
				if !strings.Contains(f[tt.file], tt.old) {
					t.Fatalf("%s has no %q", tt.file, tt.old)
				}
				f[tt.file] = strings.ReplaceAll(f[tt.file], tt.old, tt.new)
			}
			dir := write(t, f)
			err := check(dir)
			switch {
			case tt.want == "":
				if err != nil {
					t.Fatal(err)
				}
			case err == nil || !strings.Contains(err.Error(), tt.want):
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if tree, err := readTree(dir); tt.requires && (err != nil || tree.checkRequires() != nil) {
				t.Errorf("%v: the go.mod files have a fault", err)
			}
		})
	}
}

// TestPack: a module has its own files and no other module's.
func TestPack(t *testing.T) {
	dir := write(t, files())
	tree, err := readTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	proxy := t.TempDir()
	for _, tt := range []struct {
		module, archive string
		want            []string
	}{
		{"example.com/m", "example.com/m/@v/v1.2.3.zip", []string{"CHANGELOG.md", "README.md", "cmd/c/main.go", "go.mod", "internal/i/i.go", "m.go", "sub/sub.go"}},
		{"example.com/m/contrib/x/b", "example.com/m/contrib/x/b/@v/v1.2.3.zip", []string{"b.go", "go.mod"}},
	} {
		i := slices.IndexFunc(tree.modules, func(m mod) bool { return m.path == tt.module })
		if err := tree.pack(tree.modules[i], proxy); err != nil {
			t.Fatal(err)
		}
		r, err := zip.OpenReader(filepath.Join(proxy, filepath.FromSlash(tt.archive)))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range r.File {
			got = append(got, strings.TrimPrefix(f.Name, tt.module+"@v1.2.3/"))
		}
		r.Close()
		if slices.Sort(got); !slices.Equal(got, tt.want) {
			t.Errorf("%s has %q, want %q", tt.module, got, tt.want)
		}
	}
}

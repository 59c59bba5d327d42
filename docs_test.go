package wsguard_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// texts returns the files of this repository that people read, with what is in them.
func texts(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range projectFiles(t) {
		switch path.Ext(name) {
		case ".go", ".md", ".yml", ".js", ".html", ".css":
		default:
			if base := path.Base(name); base != "Makefile" && name != ".ci/run" {
				continue
			}
		}
		b, err := os.ReadFile(filepath.FromSlash(name))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(b)
	}
	return all
}

// testNames returns the names of all tests of this repository.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, name := range projectFiles(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

// TestThreatsPage checks that docs/threats.md has each threat from T01 to T79
// once, in their order, and names a test for each. The page may grow at its end.
func TestThreatsPage(t *testing.T) {
	n := 0
	tests := testNames(t)
	tableRows(t, "docs/threats.md", func(_ string, cells []string) {
		n++
		if want := fmt.Sprintf("T%02d", n); cells[0] != want {
			t.Errorf("row %d is %s, want %s", n, cells[0], want)
		}
		if len(cells) != 4 || slices.Contains(cells, "") {
			t.Errorf("%s: the cells are %q", cells[0], cells)
			return
		}
		named := codeText.FindAllStringSubmatch(cells[3], -1)
		if len(named) == 0 {
			t.Errorf("%s names no test", cells[0])
		}
		for _, m := range named {
			if !tests[m[1]] {
				t.Errorf("%s: there is no test %s", cells[0], m[1])
			}
		}
	})
	if n < 79 {
		t.Errorf("%d threats, want at least 79", n)
	}
}

// TestCitations checks that what code, tests and pages refer to is in this
// repository: threats and invariants by their numbers, tests by their names, and
// pages by their paths and links.
func TestCitations(t *testing.T) {
	t.Parallel()
	threats, invariants := map[string]bool{}, map[string]bool{}
	tableRows(t, "docs/threats.md", func(_ string, cells []string) { threats[cells[0]] = true })
	tableRows(t, "docs/invariants.md", func(_ string, cells []string) { invariants[cells[0]] = true })
	tests := testNames(t)

	var (
		threat     = regexp.MustCompile(`\b(?:Test[A-Z][A-Za-z]*)?(T\d\d)(?:[A-Z][A-Za-z0-9]*)?\b`)
		otherID    = regexp.MustCompile(`(?:^|[\s("])([A-SU-Z]\d{1,2})(?:[\s),.:]|$)`) // like T46, with another letter
		invariant  = regexp.MustCompile(`(?i)\binvariants? (\d+)\b`)
		testName   = regexp.MustCompile("`((?:Test|Fuzz|Example)[A-Z_]\\w*)`")
		link       = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
		pageInCode = regexp.MustCompile(`\bdocs/[\w-]+\.md\b`)
		// Documents that are not published. Their names are split here, so that
		// the test does not find them in this file.
		elsewhere = regexp.MustCompile(`\bfac` + `ts/|\bDES` + `IGN\b|\bWRA` + `P\.md|\bPRO` + `SE\b|\bsha` + `red/|\b[Tt]he stu` + `dy\b|\bpicture of the des` + `ign\b|\bthe design's pic` + `ture\b`)
	)
	cited := 0
	for name, text := range texts(t) {
		for i, line := range strings.Split(text, "\n") {
			place := name + ":" + strconv.Itoa(i+1)
			if m := elsewhere.FindString(line); m != "" {
				t.Errorf("%s cites %q, which is not in this repository: say it here, or cite a page of docs", place, m)
			}
			if ext := path.Ext(name); ext != ".go" && ext != ".md" {
				continue
			}
			for _, m := range threat.FindAllStringSubmatch(line, -1) {
				cited++
				if !threats[m[1]] {
					t.Errorf("%s cites %s, which docs/threats.md does not have", place, m[1])
				}
			}
			if m := otherID.FindStringSubmatch(line); m != nil && m[1] != "C0" && m[1] != "C1" { // control characters
				t.Errorf("%s cites %s, and no page has such numbers", place, m[1])
			}
			for _, m := range invariant.FindAllStringSubmatch(line, -1) {
				if !invariants[m[1]] {
					t.Errorf("%s cites invariant %s, which docs/invariants.md does not have", place, m[1])
				}
			}
			for _, m := range pageInCode.FindAllString(line, -1) {
				if _, err := os.Stat(m); err != nil {
					t.Errorf("%s cites %s: %v", place, m, err)
				}
			}
			if path.Ext(name) != ".md" {
				continue
			}
			for _, m := range testName.FindAllStringSubmatch(line, -1) {
				if !tests[m[1]] {
					t.Errorf("%s names the test %s, which does not exist", place, m[1])
				}
			}
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], ":") {
					continue // of the web
				}
				if _, err := os.Stat(filepath.Join(filepath.Dir(filepath.FromSlash(name)), filepath.FromSlash(m[1]))); err != nil {
					t.Errorf("%s: broken link: %v", place, err)
				}
			}
		}
	}
	if cited < 400 {
		t.Errorf("only %d citations of threats", cited)
	}
}

// TestContents checks that docs/README.md has one line for each page, each example and each module below contrib,
// and that README.md leads to it.
func TestContents(t *testing.T) {
	contents, err := os.ReadFile(filepath.Join("docs", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]int{} // by what they lead to, from the root
	for _, m := range regexp.MustCompile(`(?m)^- \[[^\]]+\]\(([^)#]+)\): \S.*\.$`).FindAllStringSubmatch(string(contents), -1) {
		entries[strings.TrimSuffix(path.Join("docs", m[1]), "/README.md")]++
	}
	want := map[string]bool{"client/js": true, "bench": true, "README.md": true, "CONTRIBUTING.md": true, "SECURITY.md": true, "CHANGELOG.md": true}
	for _, name := range projectFiles(t) {
		dir, base := path.Split(name)
		switch dir = strings.TrimSuffix(dir, "/"); {
		case name == "docs/README.md":
		case strings.HasPrefix(name, "docs/") && base == "README.md":
			want[dir] = true
		case strings.HasPrefix(name, "docs/") && path.Ext(base) == ".md":
			want[name] = true
		case strings.HasPrefix(name, "contrib/") && base == "go.mod":
			want[dir] = true
		case strings.HasPrefix(name, "examples/"):
			want[strings.Join(strings.Split(name, "/")[:2], "/")] = true
		}
	}
	for name := range want {
		if entries[name] != 1 {
			t.Errorf("docs/README.md has %d lines for %s, want 1", entries[name], name)
		}
	}
	for name := range entries {
		if !want[name] {
			t.Errorf("docs/README.md lists %s, which is no page and no example", name)
		}
	}
	if n := strings.Count(string(contents), "\n- "); n != len(entries) {
		t.Errorf("docs/README.md has %d entries, of which %d have a link, a colon and a sentence", n, len(entries))
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"(docs/README.md)", "(docs/start.md)"} {
		if !strings.Contains(string(readme), name) {
			t.Errorf("README.md does not lead to %s", name)
		}
	}
}

// TestExamplesHaveReadmes checks that each example says how to run it.
func TestExamplesHaveReadmes(t *testing.T) {
	folders, err := os.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		readme, err := os.ReadFile(filepath.Join("examples", f.Name(), "README.md"))
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(string(readme), "go run ") {
			t.Errorf("examples/%s/README.md does not say how to run it", f.Name())
		}
	}
}

// parsePackage returns the files of the package in dir, without its tests.
func parsePackage(t *testing.T, dir string) (files []*ast.File) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

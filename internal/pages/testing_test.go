package pages_test

import (
	"fmt"
	"go/ast"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// testingImports has the import paths of the names that the tests of docs/testing.md use.
var testingImports = map[string]string{
	"audit": module + "/audit", "fstest": "testing/fstest", "http": "net/http", "httptest": "net/http/httptest", "sha256": "crypto/sha256", "synctest": "testing/synctest",
	"testing": "testing", "time": "time", "websocket": "github.com/coder/websocket", "wsguard": module, "wsguardtest": module + "/wsguardtest",
}

// testingPage returns the handler of docs/testing.md, and a file with all of its tests.
func testingPage(t *testing.T) (handler, tests string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	list := blocks("docs/testing.md", string(page))
	if len(list) < 9 || !list[0].whole() {
		t.Fatalf("%d blocks, of which the first must be a whole file", len(list))
	}
	var body strings.Builder
	for _, b := range list[1:] {
		if !strings.HasPrefix(b.code, "func Test") {
			t.Errorf("%s is no test", b)
		}
		fmt.Fprintf(&body, "%s\n", b.code)
		if got, err := format.Source([]byte(b.code)); err != nil || string(got) != b.code {
			t.Errorf("%s is not as gofmt writes it, %v", b, err)
		}
	}
	var imports strings.Builder
	for _, name := range slices.Sorted(maps.Keys(testingImports)) {
		if regexp.MustCompile(`\b` + name + `\.`).MatchString(body.String()) {
			fmt.Fprintf(&imports, "import %q\n", testingImports[name])
		}
	}
	return list[0].code, "package sum\n\n" + imports.String() + "\n" + body.String()
}

// TestTestingPage runs the tests of docs/testing.md as they are there. The first one is that of a
// handler with at least 20 lines, and has at most 15.
func TestTestingPage(t *testing.T) {
	handler, tests := testingPage(t)
	if n := linesOf(t, handler, "Serve"); n < 20 {
		t.Errorf("the handler has %d lines", n)
	}
	if n := linesOf(t, tests, "TestServe"); n > 15 {
		t.Errorf("its test has %d lines", n)
	}
	dir := t.TempDir()
	files := []string{"test", "-count=1"}
	for name, code := range map[string]string{"sum.go": handler, "sum_test.go": tests} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	cmd := exec.Command("go", files...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// linesOf returns how many lines a function has.
func linesOf(t *testing.T, code, name string) int {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", code, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == name {
			return fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// The page has a row for each option of a client, and names each other function of wsguardtest.
func TestTestingPageNames(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	files, err := filepath.Glob(filepath.Join(root, "wsguardtest", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var parsed []*ast.File
	for _, name := range files {
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	pkg, err := doc.NewFromFiles(fset, parsed, module+"/wsguardtest")
	if err != nil {
		t.Fatal(err)
	}
	funcs := pkg.Funcs
	options := 0
	for _, typ := range pkg.Types {
		if typ.Name != "DialOption" {
			funcs = append(funcs, typ.Funcs...)
			continue
		}
		for _, f := range typ.Funcs {
			options++
			if !strings.Contains(string(text), "\n| `"+f.Name+"` | ") {
				t.Errorf("the page has no row for the option %s", f.Name)
			}
		}
	}
	if options < 8 {
		t.Errorf("%d options", options)
	}
	for _, f := range funcs {
		if !regexp.MustCompile(`\b` + f.Name + `\b`).Match(text) {
			t.Errorf("the page does not name %s", f.Name)
		}
	}
}

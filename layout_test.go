package wsguard_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/wsguard/wsguard"

// mayImport says which packages of this project the packages of a folder import,
// test files aside. "" is the root, and a final slash stands for all folders below.
type mayImport struct {
	folder string
	may    []string
}

// importLaw has a row for each folder. The first row that fits a folder counts.
var importLaw = []mayImport{
	{"internal/spend", []string{"store"}},
	{"internal/", nil},
	{"reason", nil},
	{"audit", []string{"reason"}},
	{"store", nil},
	{"store/storetest", []string{"store"}},
	{"", []string{"audit", "reason", "store", "internal/"}},
	{"jsonrpc", []string{"", "reason", "internal/"}},
	{"graphqlws", []string{"", "reason", "internal/"}},
	{"operator", []string{"", "audit"}},
	{"wsguardtest", []string{"", "audit", "reason", "store", "internal/"}},
	{"contrib/", []string{"", "audit", "reason", "store"}},
	{"examples/", []string{"", "audit", "reason", "store", "wsguardtest", "contrib/", "sanitize", "jsonrpc", "graphqlws", "client/", "operator", "examples/rooms/hub", "examples/chat/server"}},
	{"client/", nil},
	{"sanitize", []string{"reason", "internal/"}},
	{"bench", []string{"", "audit", "reason", "store", "internal/", "contrib/"}},
}

// coreDependencies are what the packages of the root module may import beyond the
// standard library and this project.
var coreDependencies = []string{
	"github.com/coder/websocket",
	"github.com/santhosh-tekuri/jsonschema/v5",
	"golang.org/x/time/rate",
}

// TestImportLaw holds the direction of data: packages under internal import
// neither the root nor each other, and nothing imports what stands above it.
// Nested modules under internal contain only tests of several packages together,
// so the law does not apply to them.
func TestImportLaw(t *testing.T) {
	modules := map[string]bool{} // the folders of nested modules
	for _, name := range projectFiles(t) {
		if path.Base(name) == "go.mod" && name != "go.mod" {
			modules[path.Dir(name)] = true
		}
	}
	nested := func(dir string) bool {
		for ; dir != "."; dir = path.Dir(dir) {
			if modules[dir] {
				return true
			}
		}
		return false
	}
	checked := map[string]bool{}
	for _, name := range projectFiles(t) {
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		folder := strings.TrimPrefix(path.Dir(name), ".")
		if nested(folder) && strings.HasPrefix(folder, "internal/") {
			continue
		}
		checked[folder] = true
		row := slices.IndexFunc(importLaw, func(l mayImport) bool { return inFolder(folder, l.folder) })
		if row < 0 {
			t.Errorf("%s: importLaw says nothing about the folder %s", name, folder)
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(name), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			own, inside := strings.CutPrefix(imported+"/", modulePath+"/")
			own = strings.TrimSuffix(own, "/")
			switch {
			case inside:
				if !slices.ContainsFunc(importLaw[row].may, func(may string) bool { return inFolder(own, may) }) {
					t.Errorf("%s imports %s", name, imported)
				}
			case strings.Contains(strings.Split(imported, "/")[0], ".") && !nested(folder) && !slices.Contains(coreDependencies, imported):
				t.Errorf("%s imports %s, which is none of the core's dependencies", name, imported)
			}
		}
	}
	for _, folder := range []string{"", "reason", "internal/wire", "examples/echo", "bench"} {
		if !checked[folder] {
			t.Errorf("no file of %q was checked", folder)
		}
	}
}

// within reports whether folder is the one that a row names, or below it.
func inFolder(folder, row string) bool {
	return folder == row || strings.HasSuffix(row, "/") && strings.HasPrefix(folder, row)
}

// TestNamesOfNightlyTests checks that `make nightly`, which selects tests by name, finds
// each test that calls wstest.Nightly, and that each test so named calls it.
func TestNamesOfNightlyTests(t *testing.T) {
	t.Parallel()
	found := 0
	for _, name := range projectFiles(t) {
		if !strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "internal/wstest/") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(name), nil, 0)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			calls := 0
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Nightly" {
					if x, ok := s.X.(*ast.Ident); ok && x.Name == "wstest" {
						calls++
					}
				}
				return true
			})
			named := strings.HasPrefix(fn.Name.Name, "TestNightly")
			switch {
			case named && calls == 0:
				t.Errorf("%s: %s does not call wstest.Nightly", name, fn.Name.Name)
			case !named && calls > 0:
				t.Errorf("%s: %s calls wstest.Nightly, and is not named TestNightly…", name, fn.Name.Name)
			case named:
				found++
			}
		}
	}
	if found == 0 {
		t.Error("there is no nightly test")
	}
}

// projectFiles returns the names of the files of this repository, with slashes,
// relative to its root. Folders that hold data or what other tools made are left
// out.
func projectFiles(t testing.TB) (names []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch base := d.Name(); {
			case base == "." || base == ".ci" || base == ".github":
			case strings.HasPrefix(base, "."), base == "testdata", base == "node_modules", base == "bin":
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() && d.Name() != "go.work" && d.Name() != "go.work.sum" {
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("examples"); err != nil {
		t.Fatal("the test does not run in the root of the repository:", err)
	}
	return names
}

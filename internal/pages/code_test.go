package pages_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/wsguard/wsguard"
	root   = "../.." // of the repository
)

// A block is Go code of a page.
type block struct {
	page string
	line int // of the first line of code
	code string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// whole reports whether the block is a source file, and no part of one.
func (b block) whole() bool { return strings.HasPrefix(b.code, "package ") }

// blocks returns the blocks of a page that are marked as Go.
func blocks(page, text string) (list []block) {
	for _, m := range regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatchIndex(text, -1) {
		list = append(list, block{page, strings.Count(text[:m[2]], "\n") + 1, text[m[2]:m[3]]})
	}
	return list
}

// walk calls f for each file of the repository that has the extension.
func walk(t *testing.T, ext string, f func(name, text string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || len(name) > 1 && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ext:
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err == nil {
			f(name, string(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCodeOfPages checks the types of the Go code in all pages. A block that is a
// whole file must have no error. Of a part of a file the test knows neither the
// variables nor the imports, so it accepts names that are not defined.
func TestCodeOfPages(t *testing.T) {
	c := newChecker(t)
	n := 0
	walk(t, ".md", func(name, text string) {
		for _, b := range blocks(name, text) {
			n++
			for _, err := range c.check(b.code) {
				t.Errorf("%s: %v", b, err)
			}
		}
	})
	if n < 5 {
		t.Errorf("%d blocks of code in all pages", n)
	}
}

// TestCodeChecker shows what TestCodeOfPages finds.
func TestCodeChecker(t *testing.T) {
	c := newChecker(t)
	for _, tt := range []struct{ code, want string }{
		{`c.Read(ctx)`, ""},
		{`srv.Shutdown(ctx)`, ""},
		{"schema, err := wsguard.CompileSchema(src)\n…\nMessages: wsguard.MessageConfig{Validator: schema},", ""},
		{"Hosts: []string{\"localhost\"},\nAllowMissingOrigin: true,", ""},
		{`return wsguard.Rate{PerSecond: 0.1, Burst: 20}`, ""},
		{"func f(c *wsguard.Conn) error {\n\treturn nil\n}", ""},
		{`verifier, err := wsguardjwt.New(wsguardjwt.Config{Issuer: "x"})`, ""},
		{`wsguard.Rate{0.1, 20}`, "unkeyed"},
		{`Violations: wsguard.Rate{0.1, 20},`, "unkeyed"},
		{`rates := []wsguard.Rate{{0.1, 20}}`, "unkeyed"},
		{`keys := map[string]wsguard.Principal{"k": {"alice"}}`, "unkeyed"},
		{`keys := map[string]*wsguard.Principal{"k": {"alice"}}`, "unkeyed"},
		{`f(func() wsguard.Rate { return wsguard.Rate{0.1, 20} })`, "unkeyed"},
		{`v := wsguardjwt.Config{"x"}`, "unkeyed"},
		{`e := audit.Ban{"x"}`, "unkeyed"},
		{`guard, err := wsguard.Make(cfg)`, "undefined: wsguard.Make"},
		{`guard.Handle(f)`, "guard.Handle undefined"},
		{`cfg := wsguard.Config{Origin: "x"}`, "unknown field Origin"},
		{`Originz: []string{"x"},`, "no struct"},
		{`MaxConns: "many",`, "cannot use"},
		{`if x {`, "expected"},
		{"package main\n\nfunc main() { x() }", "undefined: x"},
		{"package main\n\nimport \"github.com/wsguard/wsguard\"\n\nfunc main() { _ = wsguard.Rate{1, 2} }", "unkeyed"},
	} {
		err := errors.Join(c.check(tt.code)...)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s\ngot %v, want %q", tt.code, err, tt.want)
		}
	}
}

// A checker checks Go code that is written for readers.
type checker struct {
	fset    *token.FileSet
	gc      types.Importer
	paths   map[string]string // import paths by package names
	structs []string          // struct types whose fields a page may show, the Config first
}

// A listed package is what go list says of a package.
type listed struct{ ImportPath, Name, Export string }

// list returns packages that the module in dir knows, and what they import.
func list(t *testing.T, dir string, packages ...string) (all []listed) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-export", "-deps", "-json=ImportPath,Name,Export"}, packages...)...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func newChecker(t *testing.T) *checker {
	t.Helper()
	c := &checker{fset: token.NewFileSet(), paths: map[string]string{}, structs: []string{"wsguard.Config"}}
	exports := map[string]string{}
	for _, p := range list(t, root, ".", "./audit", "./reason", "./store", "./wsguardtest", "net/http/httptest", "net/http/httputil", "testing/fstest", "testing/synctest") {
		exports[p.ImportPath] = p.Export
		// A page that imports nothing means the package with the shortest path.
		if known, ok := c.paths[p.Name]; !ok || len(p.ImportPath) < len(known) {
			c.paths[p.Name] = p.ImportPath
		}
	}
	// Pages show whole programs that import these.
	for dir, packages := range map[string][]string{
		"internal/wraptest":    {"github.com/gorilla/websocket", "github.com/coder/websocket/wsjson"},
		"contrib/wsguardjwt":   {"."},
		"contrib/wsguardredis": {"."},
	} {
		for _, p := range list(t, filepath.Join(root, filepath.FromSlash(dir)), packages...) {
			if exports[p.ImportPath] == "" {
				exports[p.ImportPath] = p.Export
			}
		}
	}
	c.gc = importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fs.ErrNotExist
		}
		return os.Open(exports[path])
	})
	for _, name := range []string{"wsguard", "http"} {
		pkg, err := c.gc.Import(c.paths[name])
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range pkg.Scope().Names() {
			if o, ok := pkg.Scope().Lookup(s).(*types.TypeName); ok && o.Exported() {
				if _, ok := o.Type().Underlying().(*types.Struct); ok {
					c.structs = append(c.structs, name+"."+s)
				}
			}
		}
	}
	return c
}

// known are variables that a part of a file may use.
const known = `
var (
	guard *wsguard.Guard
	c     *wsguard.Conn
	ctx   context.Context
	w     http.ResponseWriter
	r     *http.Request
)
`

// check returns the faults of a block.
func (c *checker) check(code string) []error {
	if (block{code: code}).whole() {
		return c.typecheck(code, nil)
	}
	var faults []error
	for part := range strings.SplitSeq(regexp.MustCompile(`(?m)^\s*(…|\.\.\.)$`).ReplaceAllString(code, "\x00"), "\x00") {
		if strings.TrimSpace(part) != "" {
			faults = append(faults, c.part(part)...)
		}
	}
	return faults
}

// part checks a part of a file: fields with their values, statements, or
// declarations.
func (c *checker) part(code string) []error {
	if e, err := parser.ParseExpr("T{\n" + code + "\n}"); err == nil {
		if fields := keys(e.(*ast.CompositeLit)); fields != nil {
			for _, s := range c.structs {
				if c.has(s, fields) {
					return c.typecheck("package p\nvar _ = "+s+"{\n"+code+"\n}\n"+known, tolerated)
				}
			}
			return []error{fmt.Errorf("no struct has the fields %q", fields)}
		}
	}
	src := "package p\nfunc _() {\n" + code + "\n}\n" + known
	_, err := parser.ParseFile(c.fset, "", src, 0)
	if err == nil {
		return c.typecheck(src, tolerated)
	}
	src = "package p\n" + code + known
	if _, e := parser.ParseFile(c.fset, "", src, 0); e == nil {
		return c.typecheck(src, tolerated)
	}
	return []error{err}
}

// keys returns the keys of a literal. It returns nil unless all elements have a
// name for a key.
func keys(lit *ast.CompositeLit) (names []string) {
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return nil
		}
		id, ok := kv.Key.(*ast.Ident)
		if !ok {
			return nil
		}
		names = append(names, id.Name)
	}
	return names
}

func (c *checker) has(structName string, fields []string) bool {
	name, typ, _ := strings.Cut(structName, ".")
	pkg, err := c.gc.Import(c.paths[name])
	if err != nil {
		return false
	}
	s := pkg.Scope().Lookup(typ).Type().Underlying().(*types.Struct)
	for _, f := range fields {
		if !slices.ContainsFunc(slices.Collect(s.Fields()), func(v *types.Var) bool { return v.Name() == f }) {
			return false
		}
	}
	return true
}

// tolerated matches errors that only say that a part is not the whole.
var tolerated = regexp.MustCompile(`^undefined: \w+$|^declared and not used|is not used|^missing return|too many return values`)

// typecheck checks the types of src, and that the literals of our structs name their
// fields. Errors that the expression matches are not reported.
func (c *checker) typecheck(src string, but *regexp.Regexp) (faults []error) {
	f, err := parser.ParseFile(c.fset, "", src, parser.SkipObjectResolution)
	if err != nil {
		return []error{err}
	}
	if len(f.Imports) == 0 {
		var imports strings.Builder
		for name, path := range c.paths {
			if regexp.MustCompile(`\b` + name + `\.`).MatchString(src) {
				fmt.Fprintf(&imports, "import %s %q; ", name, path)
			}
		}
		if f, err = parser.ParseFile(c.fset, "", strings.Replace(src, "package p\n", "package p; "+imports.String()+"\n", 1), parser.SkipObjectResolution); err != nil {
			return []error{err}
		}
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: c.gc, Error: func(err error) {
		e := err.(types.Error)
		if but == nil || !e.Soft && !but.MatchString(e.Msg) {
			faults = append(faults, errors.New(e.Msg))
		}
	}}
	conf.Check("p", c.fset, []*ast.File{f}, info)
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok || len(lit.Elts) == 0 {
			return true
		}
		if _, ok := lit.Elts[0].(*ast.KeyValueExpr); !ok && c.needsKeys(lit, info) {
			faults = append(faults, fmt.Errorf("unkeyed fields: %s", types.ExprString(lit)))
		}
		return true
	})
	return faults
}

// needsKeys reports whether a literal without keys is of one of our structs, or of a
// type of a package that the test does not know.
func (c *checker) needsKeys(lit *ast.CompositeLit, info *types.Info) bool {
	t := info.TypeOf(lit)
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := types.Unalias(t).(*types.Named); ok {
		_, isStruct := n.Underlying().(*types.Struct)
		return isStruct && n.Obj().Pkg() != nil && strings.HasPrefix(n.Obj().Pkg().Path(), module)
	}
	_, selector := lit.Type.(*ast.SelectorExpr)
	return selector
}

// TestLiteralsInProse checks the literals of our structs in the text of pages and in
// comments. go vet refuses a literal without keys in a user's code.
func TestLiteralsInProse(t *testing.T) {
	var structs []string
	type text struct{ name, text string }
	var texts []text
	walk(t, ".go", func(name, src string) {
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range f.Comments {
			texts = append(texts, text{name, c.Text()})
		}
		if f.Name.Name == "main" || strings.HasSuffix(name, "_test.go") {
			return
		}
		for _, d := range f.Decls {
			d, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range d.Specs {
				if s, ok := s.(*ast.TypeSpec); ok && s.Name.IsExported() {
					if _, ok := s.Type.(*ast.StructType); ok {
						structs = append(structs, s.Name.Name)
					}
				}
			}
		}
	})
	walk(t, ".md", func(name, src string) { texts = append(texts, text{name, src}) })
	unkeyed := regexp.MustCompile(`\b(?:` + strings.Join(structs, "|") + `)\{[^{}:…]*[^{}:….\s][^{}:…]*\}`)
	for _, s := range []string{"Rate{0.1, 20}", "a wsguard.Rate{1,2}"} {
		if !unkeyed.MatchString(s) {
			t.Errorf("%q is not found", s)
		}
	}
	for _, s := range []string{"Rate{}", "Rate{…}", "Rate{...}", "Rate{PerSecond: Off}", "NotRate{1}", "struct{}"} {
		if unkeyed.MatchString(s) {
			t.Errorf("%q is found", s)
		}
	}
	for _, text := range texts {
		if !strings.Contains(text.text, "{") { // most comments: the expression takes long
			continue
		}
		for _, m := range unkeyed.FindAllString(text.text, -1) {
			t.Errorf("%s: unkeyed fields: %s", text.name, m)
		}
	}
}

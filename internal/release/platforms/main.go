// Command platforms checks the types of modules and of their tests for platforms that CI does
// not have.
//
// go vet does more. But it compiles the standard library and all dependencies for each
// platform, which takes most of the time of CI on a machine without a build cache.
//
// Usage:
//
//	go run . linux/386,windows/amd64 directory...
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: platforms os/arch,... directory...")
		os.Exit(2)
	}
	platforms := strings.Split(os.Args[1], ",")
	errs := make([]error, len(platforms))
	var all sync.WaitGroup
	for i, p := range platforms {
		all.Go(func() { errs[i] = checkAll(p, os.Args[2:]) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// checkAll checks the modules in the directories for a platform.
func checkAll(platform string, dirs []string) error {
	system, arch, ok := strings.Cut(platform, "/")
	sizes := types.SizesFor("gc", arch)
	if !ok || sizes == nil {
		return fmt.Errorf("no platform %q", platform)
	}
	std := map[string]*types.Package{"unsafe": types.Unsafe}
	var errs []error
	for _, dir := range dirs {
		packages, err := list(system, arch, dir)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", platform, dir, err)
		}
		c := checker{sizes: sizes, std: std, others: map[string]*types.Package{}}
		for _, p := range packages {
			c.check(p)
		}
		for _, err := range c.errs {
			errs = append(errs, fmt.Errorf("%s: %w", platform, err))
		}
		if c.own == 0 {
			errs = append(errs, fmt.Errorf("%s: %s has no packages", platform, dir))
		}
		fmt.Printf("%s: %s has %d packages\n", platform, dir, c.own)
	}
	return errors.Join(errs...)
}

// A listed package is one that go list has found, with the names that it uses there.
type listed struct {
	Dir, ImportPath string
	Standard        bool
	GoFiles         []string
	ImportMap       map[string]string
	Module          *struct {
		Main      bool
		GoVersion string
	}
}

// list returns the packages of a module, their tests and all that these import. Each comes
// after those that it imports.
func list(system, arch, dir string) ([]listed, error) {
	cmd := exec.Command("go", "list", "-deps", "-test", "-json=Dir,ImportPath,Standard,GoFiles,ImportMap,Module", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, &stderr)
	}
	var packages []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
}

// checker checks the packages of one module for one platform.
type checker struct {
	sizes       types.Sizes
	std, others map[string]*types.Package // by the path that go list has for them
	own         int                       // how many packages of the module were checked
	errs        []error
}

func (c *checker) check(p listed) {
	checked := c.others
	if p.Standard {
		checked = c.std
	}
	// go test generates the package whose name ends with .test.
	if checked[p.ImportPath] != nil || strings.HasSuffix(p.ImportPath, ".test") {
		return
	}
	files := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			c.errs = append(c.errs, err)
			return
		}
		parsed = append(parsed, f)
	}
	own := p.Module != nil && p.Module.Main
	conf := types.Config{
		Sizes:            c.sizes,
		IgnoreFuncBodies: !own,
		Importer:         importer{c, p.ImportMap},
		Error:            func(err error) { c.errs = append(c.errs, err) },
	}
	if p.Module != nil && p.Module.GoVersion != "" {
		conf.GoVersion = "go" + p.Module.GoVersion
	}
	path, _, _ := strings.Cut(p.ImportPath, " ") // of p [q.test], which is p as the test of q sees it
	checked[p.ImportPath], _ = conf.Check(path, files, parsed, nil)
	if own {
		c.own++
	}
}

// importer finds what a package imports.
type importer struct {
	c      *checker
	mapped map[string]string // of the package
}

func (i importer) Import(path string) (*types.Package, error) {
	if real, ok := i.mapped[path]; ok {
		path = real
	}
	for _, checked := range []map[string]*types.Package{i.c.others, i.c.std} {
		if p := checked[path]; p != nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s was not listed", path)
}

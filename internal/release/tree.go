package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// A tree is a repository with several modules.
type tree struct {
	dir     string
	version string // of the newest section of CHANGELOG.md, such as v0.1.0
	modules []mod  // The root comes first.
}

// A mod is a module of the tree.
type mod struct {
	dir  string // relative to the tree, with slashes; "." for the root
	path string
	file *modfile.File
}

func (m mod) root() bool { return m.dir == "." }

// readTree finds the modules below dir, and their version.
func readTree(dir string) (*tree, error) {
	t := &tree{dir: dir}
	changelog, err := os.ReadFile(filepath.Join(dir, "CHANGELOG.md"))
	if err != nil {
		return nil, err
	}
	heading := regexp.MustCompile(`(?m)^## \[?([0-9]+\.[0-9]+\.[0-9]+)\b`).FindSubmatch(changelog)
	if heading == nil {
		return nil, errors.New("CHANGELOG.md has no section with a version, such as ## 0.1.0")
	}
	t.version = "v" + string(heading[1])
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && file != dir && (name == "node_modules" || name == "testdata" || strings.HasPrefix(name, ".")):
			return filepath.SkipDir
		case d.IsDir() || name != "go.mod":
			return nil
		}
		rel, err := filepath.Rel(dir, filepath.Dir(file))
		if err != nil {
			return err
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		f, err := modfile.Parse(file, data, nil)
		if err != nil {
			return err
		}
		if f.Module == nil {
			return fmt.Errorf("%s names no module", file)
		}
		t.modules = append(t.modules, mod{filepath.ToSlash(rel), f.Module.Mod.Path, f})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(t.modules, func(a, b mod) int { return strings.Compare(a.dir, b.dir) }) // "." is the first
	if len(t.modules) == 0 || !t.modules[0].root() {
		return nil, fmt.Errorf("%s has no go.mod", dir)
	}
	return t, nil
}

// released returns the modules that get a tag: the root, and those below contrib.
func (t *tree) released() []mod {
	var list []mod
	for _, m := range t.modules {
		if m.root() || strings.HasPrefix(m.dir, "contrib/") {
			list = append(list, m)
		}
	}
	return list
}

// checkRequires checks what the go.mod files say about each other. A module is
// named after its directory. If it requires another module of the tree, it requires
// the version of the tree and replaces the module by its directory. It replaces
// nothing else. The root requires no other module of the tree. The error joins one
// line for each fault.
func (t *tree) checkRequires() error {
	var faults []error
	fault := func(m mod, format string, a ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", path.Join(m.dir, "go.mod"), fmt.Sprintf(format, a...)))
	}
	root := t.modules[0].path
	ours := map[string]mod{}
	for _, m := range t.modules {
		ours[m.path] = m
	}
	for _, m := range t.modules {
		if want := path.Join(root, m.dir); m.path != want {
			fault(m, "names the module %s, want %s", m.path, want)
		}
		replaced := map[string]string{}
		for _, r := range m.file.Replace {
			if _, ok := ours[r.Old.Path]; !ok {
				fault(m, "replaces %s, which is not a module of the tree", r.Old.Path)
				continue
			}
			replaced[r.Old.Path] = path.Join(m.dir, r.New.Path)
		}
		for _, r := range m.file.Require {
			o, ok := ours[r.Mod.Path]
			switch {
			case !ok:
				continue
			case m.root():
				fault(m, "the root requires %s, which requires the root", r.Mod.Path)
			case r.Mod.Version != t.version:
				fault(m, "requires %s %s, want %s", r.Mod.Path, r.Mod.Version, t.version)
			}
			if replaced[o.path] != o.dir {
				fault(m, "does not replace %s by its directory", o.path)
			}
		}
	}
	return errors.Join(faults...)
}

// sums returns the lines of the go.sum files of the modules. Dependencies are
// checked against them, so that the check needs no network when they are in the
// module cache.
func (t *tree) sums(modules ...mod) ([]byte, error) {
	var all []byte
	for _, m := range modules {
		sum, err := os.ReadFile(filepath.Join(t.dir, filepath.FromSlash(m.dir), "go.sum"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		all = append(append(all, bytes.TrimSpace(sum)...), '\n')
	}
	return bytes.TrimLeft(all, "\n"), nil
}

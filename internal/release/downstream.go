package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A downstream is where modules are installed as a user would install them. It has
// a module cache of its own, so that nothing of the tree gets into the user's.
type downstream struct {
	t     *tree
	dir   string
	proxy string // the directory that the tree is packed into
	env   []string
	n     int
}

func newDownstream(t *tree, dir string) (*downstream, error) {
	d := &downstream{t: t, dir: dir, proxy: filepath.Join(dir, "proxy")}
	out, err := exec.Command("go", "env", "-json", "GOMODCACHE", "GOPROXY", "GOSUMDB").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	var env struct{ GOMODCACHE, GOPROXY, GOSUMDB string }
	if err := json.Unmarshal(out, &env); err != nil {
		return nil, err
	}
	packed, err := fileURL(d.proxy)
	if err != nil {
		return nil, err
	}
	// What a module cache has downloaded is laid out as a proxy is.
	cached, err := fileURL(filepath.Join(env.GOMODCACHE, "cache", "download"))
	if err != nil {
		return nil, err
	}
	d.env = append(os.Environ(),
		"GOWORK=off",
		"GOFLAGS=-mod=mod -modcacherw",
		"GOMODCACHE="+filepath.Join(dir, "cache"),
		"GOPROXY="+packed+","+cached+","+env.GOPROXY,
		"GOSUMDB="+env.GOSUMDB,
		// The checksum database does not know what is not published yet.
		"GONOSUMDB="+t.modules[0].path,
		// No setting of the user's may have the tree looked for elsewhere.
		"GOENV=off", "GOPRIVATE=", "GONOPROXY=",
	)
	return d, nil
}

// get installs the modules into a new module. It returns the directory of the new
// module, and what it has installed.
func (d *downstream) get(modules ...mod) (dir string, names []string, err error) {
	d.n++
	dir = filepath.Join(d.dir, fmt.Sprint("downstream", d.n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, err
	}
	if _, err := d.run(dir, "mod", "init", "example.com/downstream"); err != nil {
		return "", nil, err
	}
	sums, err := d.t.sums(modules...)
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o644); err != nil {
		return "", nil, err
	}
	for _, m := range modules {
		names = append(names, m.path+"@"+d.t.version)
	}
	_, err = d.run(dir, append([]string{"get"}, names...)...)
	return dir, names, err
}

// run runs the go command in dir and returns its output.
func (d *downstream) run(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, d.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String(), nil
}

// install installs the modules into a new module, builds all their packages, and
// builds a program that imports those that can be imported.
func (d *downstream) install(modules ...mod) error {
	dir, names, err := d.get(modules...)
	if err != nil {
		return err
	}
	var imports []string
	for _, m := range modules {
		out, err := d.run(dir, "list", "-f", "{{.ImportPath}} {{.Name}} {{.Module.Path}} {{.Module.Version}}", m.path+"/...")
		if err != nil {
			return err
		}
		var all []string
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) != 4 || f[2] != m.path {
				continue // of a nested module
			}
			if f[3] != d.t.version {
				return fmt.Errorf("%s was installed at %s", m.path, f[3])
			}
			all = append(all, f[0])
			if f[1] != "main" && !slices.Contains(strings.Split(f[0], "/"), "internal") {
				imports = append(imports, f[0])
			}
		}
		if len(all) == 0 {
			return fmt.Errorf("%s has no packages", m.path)
		}
		if _, err := d.run(dir, append([]string{"build"}, all...)...); err != nil {
			return err
		}
	}
	var program bytes.Buffer
	program.WriteString("package main\n\nimport (\n")
	for _, path := range imports {
		fmt.Fprintf(&program, "\t_ %q\n", path)
	}
	program.WriteString(")\n\nfunc main() {}\n")
	if err := d.build(dir, program.Bytes()); err != nil {
		return err
	}
	fmt.Printf("installed %s, and built a program that imports %s\n", strings.Join(names, " and "), strings.Join(imports, ", "))
	return nil
}

// build builds a program in the module in dir, without another change of the module
// than go get has made.
func (d *downstream) build(dir string, program []byte) error {
	source, err := os.MkdirTemp(dir, "program")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(source, "main.go"), program, 0o644); err != nil {
		return err
	}
	_, err = d.run(dir, "build", "-mod=readonly", "-o", filepath.Join(source, "program"), "./"+filepath.Base(source))
	return err
}

// buildPage builds the programs of a page, such as README.md, with the root.
func (d *downstream) buildPage(page string) error {
	text, err := os.ReadFile(filepath.Join(d.t.dir, page))
	if err != nil {
		return err
	}
	programs := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindAllSubmatch(text, -1)
	if len(programs) == 0 {
		return fmt.Errorf("%s has no program", page)
	}
	dir, names, err := d.get(d.t.modules[0])
	if err != nil {
		return err
	}
	for _, m := range programs {
		if err := d.build(dir, m[1]); err != nil {
			return fmt.Errorf("a program of %s: %w", page, err)
		}
	}
	fmt.Printf("installed %s, and built the %d programs of %s\n", strings.Join(names, " and "), len(programs), page)
	return nil
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// pack writes m into the module proxy in the directory proxy, as a version control
// system would give it to one. See https://go.dev/ref/mod#goproxy-protocol.
func (t *tree) pack(m mod, proxy string) (err error) {
	v := module.Version{Path: m.path, Version: t.version}
	escaped, err := module.EscapePath(v.Path)
	if err != nil {
		return err
	}
	dir := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{v.Version, time.Now().UTC()})
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"list":              []byte(v.Version + "\n"),
		v.Version + ".info": info,
		v.Version + ".mod":  modfile.Format(m.file.Syntax),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	out, err := os.Create(filepath.Join(dir, v.Version+".zip"))
	if err != nil {
		return err
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
	}()
	source := filepath.Join(t.dir, filepath.FromSlash(m.dir))
	files, ok := tracked(source)
	if !ok {
		return zip.CreateFromDir(out, v, source)
	}
	return zip.Create(out, v, files)
}

// tracked returns the files below dir that git has, or would have after git add.
// Otherwise build results and node_modules would be packed as well. It returns
// false where dir is not in a work tree of git.
func tracked(dir string) ([]zip.File, bool) {
	out, err := exec.Command("git", "-C", dir, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return nil, false
	}
	var files []zip.File
	seen := map[string]bool{}
	for name := range strings.SplitSeq(string(out), "\x00") {
		f := file{dir, name}
		if _, err := f.Lstat(); name == "" || seen[name] || err != nil {
			continue // deleted, but not yet in the index
		}
		seen[name] = true
		files = append(files, f)
	}
	return files, true
}

// A file is a zip.File.
type file struct{ dir, name string }

func (f file) Path() string                 { return path.Clean(f.name) }
func (f file) Lstat() (os.FileInfo, error)  { return os.Lstat(filepath.Join(f.dir, f.name)) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.dir, f.name)) }

// fileURL returns the URL of a directory, for GOPROXY.
func fileURL(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	abs = filepath.ToSlash(abs)
	if !strings.HasPrefix(abs, "/") {
		abs = "/" + abs // a drive of Windows
	}
	return fmt.Sprintf("file://%s", abs), nil
}

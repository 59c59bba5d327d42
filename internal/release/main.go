// Command release checks that the modules of this repository can be installed as
// they will be tagged.
//
// A nested module finds the root by a replace directive. Such a directive works in
// the tree only. A user who installs the module gets the versions that it requires.
//
// The command packs the tree as a module proxy in the file system, at the version
// of the newest section of CHANGELOG.md. It installs the root and each module below
// contrib from there, one by one and then all together. Each time it starts from an
// empty module without a replace directive, and builds all that it has installed.
// It builds the programs of README.md in the same way.
//
// Usage:
//
//	go run . [directory of the repository]
package main

import (
	"fmt"
	"os"
)

func main() {
	root := "../.."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	if err := check(root); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// check runs every check on the repository in the directory root.
func check(root string) error {
	t, err := readTree(root)
	if err != nil {
		return err
	}
	if err := t.checkRequires(); err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "wsguard-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	d, err := newDownstream(t, temp)
	if err != nil {
		return err
	}
	released := t.released()
	for _, m := range released {
		if err := t.pack(m, d.proxy); err != nil {
			return err
		}
	}
	for _, m := range released {
		if err := d.install(m); err != nil {
			return err
		}
	}
	if err := d.install(released...); err != nil {
		return err
	}
	return d.buildPage("README.md")
}

//go:build !unix

package main

import "os/exec"

// ownGroup does nothing, because the system has no groups of processes as Unix has.
func ownGroup(*exec.Cmd) {}

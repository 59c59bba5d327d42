//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps a Ctrl-C in the terminal from a program, so that it ends after the instances.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

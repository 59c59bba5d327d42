package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// process is a child, seen from the parent.
type process struct {
	name string
	addr string
	tls  bool
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// start runs s. Profiles go to files that begin with
// profile, if it is not empty.
func start(s server, profile string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+s.name, profileEnv+"="+profile)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{name: s.name, tls: s.overTLS, cmd: cmd, in: in, out: bufio.NewReader(out)}
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("%s did not start: %w", s.name, err)
	}
	p.addr = strings.TrimSpace(line)
	return p, nil
}

func (p *process) ask(question string) (stats, error) {
	var s stats
	if _, err := fmt.Fprintln(p.in, question); err != nil {
		return s, fmt.Errorf("%s: %w", p.name, err)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.name, err)
	}
	return s, json.Unmarshal(line, &s)
}

// stop ends the child and waits for it.
func (p *process) stop() error {
	p.in.Close()
	return p.cmd.Wait()
}

// startAll runs one child for each server. stopAll ends them.
func startAll(list []server, profile string) (children []*process, stopAll func() error, err error) {
	stopAll = func() error {
		var first error
		for _, p := range children {
			if err := p.stop(); err != nil && first == nil {
				first = fmt.Errorf("%s: %w", p.name, err)
			}
		}
		return first
	}
	for _, s := range list {
		p, err := start(s, profile)
		if err != nil {
			stopAll()
			return nil, nil, err
		}
		children = append(children, p)
	}
	return children, stopAll, nil
}

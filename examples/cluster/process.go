package main

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
)

// process is an instance.
type process struct {
	url      string // of its page
	cmd      *exec.Cmd
	stdin    io.Closer // its end tells the instance to end
	ended    chan struct{}
	err      error       // written before ended is closed
	expected atomic.Bool // this program ends the instance
}

// startInstance returns once the instance listens.
func startInstance(env []string, log *slog.Logger) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(exe), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = os.Stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.stdin = stdin
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() {
		if err := p.cmd.Wait(); p.expected.Load() {
			p.err = err
		} else {
			log.Warn("an instance has ended", "pid", p.cmd.Process.Pid, "error", err)
		}
		close(p.ended)
	}()
	if err != nil {
		p.stop()
		return nil, errors.Join(errors.New("an instance does not start"), p.wait())
	}
	p.url = strings.TrimSpace(line)
	return p, nil
}

// stop lets the instance drain.
func (p *process) stop() {
	p.expected.Store(true)
	p.stdin.Close()
}

// kill is kill -9.
func (p *process) kill() {
	p.expected.Store(true)
	p.cmd.Process.Kill()
	<-p.ended
	p.err = nil
}

// wait waits for the end of the instance after stop. It returns no error if the instance has ended
// before.
func (p *process) wait() error {
	<-p.ended
	return p.err
}

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
	url      string // of its page; written by ready
	cmd      *exec.Cmd
	stdin    io.Closer     // its end tells the instance to end
	line     chan string   // gets the first line that the instance prints, or what there is of it
	ended    chan struct{} // closed when the instance has ended
	err      error         // written before ended is closed
	expected atomic.Bool   // this program ends the instance
}

func startInstance(env []string, log *slog.Logger) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(exe), line: make(chan string, 1), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		p.line <- strings.TrimSpace(line)
		if err := p.cmd.Wait(); p.expected.Load() {
			p.err = err
		} else {
			log.Warn("an instance has ended", "pid", p.cmd.Process.Pid, "error", err)
		}
		close(p.ended)
	}()
	return p, nil
}

// ready waits until the instance listens. It is called once.
func (p *process) ready() error {
	if p.url = <-p.line; p.url == "" {
		return errors.New("an instance does not start")
	}
	return nil
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
	p.err = nil // a kill is no error
}

// wait waits for the end of the instance after stop. It returns no error if the instance has ended
// before.
func (p *process) wait() error {
	<-p.ended
	return p.err
}

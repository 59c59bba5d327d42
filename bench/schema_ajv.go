package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// ajvFolder holds package.json; npm ci there makes the column appear.
const ajvFolder = "testdata/schema"

// ajvProcess is a node that runs ajv.js.
type ajvProcess struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	runs map[string]int
}

func startAjv(cases []*schemaCase) (*ajvProcess, error) {
	program, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("there is no node")
	}
	if _, err := os.Stat(filepath.Join(ajvFolder, "node_modules", "ajv")); err != nil {
		return nil, errors.New("ajv is not installed: npm ci in bench/" + ajvFolder)
	}
	cmd := exec.Command(program, "ajv.js")
	cmd.Dir = ajvFolder
	cmd.Stderr = os.Stderr
	p := &ajvProcess{cmd: cmd, runs: map[string]int{}}
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	type asText struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
		Accept string          `json:"accept"`
		Refuse string          `json:"refuse"`
	}
	var list []asText
	for _, c := range cases {
		list = append(list, asText{c.Name, c.Schema, string(c.Accept), string(c.Refuse)})
	}
	if _, err := p.ask(map[string]any{"cases": list}); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *ajvProcess) ask(question any) (ns float64, err error) {
	line, err := json.Marshal(question)
	if err != nil {
		return 0, err
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return 0, err
	}
	reply, err := p.out.ReadBytes('\n')
	if err != nil {
		return 0, err
	}
	var a struct {
		NS    float64
		Error string
	}
	if err := json.Unmarshal(reply, &a); err != nil {
		return 0, err
	}
	if a.Error != "" {
		return 0, errors.New("ajv: " + a.Error)
	}
	return a.NS, nil
}

// measure returns the nanoseconds of a JSON.parse and a validate. The first time it warms up the compiler of node.
func (p *ajvProcess) measure(index int, refuse bool, about time.Duration) (float64, error) {
	about /= slicesOfTime
	key := fmt.Sprint(index, refuse)
	warm := p.runs[key] == 0
	if warm {
		p.runs[key] = 100
	}
	for {
		runs := p.runs[key]
		question := map[string]any{"case": index, "refuse": refuse, "runs": runs}
		ns, err := p.ask(question)
		if err != nil {
			return 0, err
		}
		if ns < float64(about)/2 {
			p.runs[key] = max(runs*2, int(float64(runs)*float64(about)/(ns+1)))
			continue
		}
		if warm {
			warm = false
			continue
		}
		best := ns
		for range slicesOfTime - 1 {
			if ns, err = p.ask(question); err != nil {
				return 0, err
			}
			best = min(best, ns)
		}
		return best / float64(runs), nil
	}
}

func (p *ajvProcess) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

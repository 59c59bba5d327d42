package soak_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

// A child is this test binary, with one of these roles. It writes a line of JSON to its
// standard output for each line of JSON on its standard input, and exits when that ends.
const (
	roleEnv = "WSGUARD_SOAK_ROLE"
	nameEnv = "WSGUARD_SOAK_NAME" // the name of the server

	roleServer = "server"
	roleAttack = "attack"
)

func TestMain(m *testing.M) {
	var err error
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	switch os.Getenv(roleEnv) {
	case roleServer:
		err = serverMain(os.Getenv(nameEnv), in, out)
	case roleAttack:
		err = attackMain(in, out)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is a process, as the test sees it.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// start starts a child, which the test's end kills if it still runs.
func start(t *testing.T, role, name string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role, nameEnv+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd, in: in, out: json.NewDecoder(out)}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return c
}

// ask sends a line of JSON and decodes the line that comes back.
func (c *child) ask(t *testing.T, question, answer any) {
	t.Helper()
	if err := json.NewEncoder(c.in).Encode(question); err != nil {
		t.Fatal(err)
	}
	if err := c.out.Decode(answer); err != nil {
		t.Fatal("no answer of the child: ", err)
	}
}

// stop ends the child and waits for it. A child in which the race detector has found
// something exits with an error.
func (c *child) stop() error {
	c.in.Close()
	return c.cmd.Wait()
}

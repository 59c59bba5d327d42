//go:build unix

package main

import (
	"bufio"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// paused is a server in a process of its own, which can be stopped for a while.
type paused struct {
	*server
	cmd *exec.Cmd
}

func startPaused(t *testing.T, flags string) *paused {
	t.Helper()
	cmd, stdout, stderr := program(append(strings.Fields(flags), "-addr", "127.0.0.1:0", "-max-message-bytes", "16777216", "-byte-rate", "-1/-1", "-message-rate", "-1/-1")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on http://")
	if err != nil || !ok {
		t.Fatalf("the first line is %q, %v\n%s", line, err, stderr)
	}
	return &paused{&server{t: t, addr: addr, stderr: stderr}, cmd}
}

// pause stops the process for the time d, in which the client does what it must do.
func (p *paused) pause(d time.Duration, do func()) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		p.t.Fatal(err)
	}
	do()
	time.Sleep(d)
	p.cmd.Process.Signal(syscall.SIGCONT)
}

// A client that has done in time what it must do is not closed because the process of the server
// was stopped meanwhile. The timeouts are so long that a busy machine does not use them up.
func TestPausedProcess(t *testing.T) {
	const rounds, pause = 2, 3 * time.Second
	for _, door := range []string{"", " -wrap"} {
		t.Run("pong"+door, func(t *testing.T) {
			t.Parallel()
			p := startPaused(t, "-ping 3s -pong-timeout 2s -write-timeout 1s"+door)
			c := p.open()
			for range rounds {
				f, err := c.ReadFrame()
				if err != nil || f.Opcode != wstest.OpPing {
					t.Fatalf("%+v %v\n%s", f, err, p.stderr)
				}
				p.pause(pause, func() { c.WriteFrame(wstest.Pong(f.Payload)) })
			}
			for { // the server may ping first
				c.WriteFrame(wstest.Text("hello"))
				f, err := c.ReadFrame()
				if err != nil || f.Opcode == wstest.OpClose {
					t.Fatalf("%+v %v\n%s", f, err, p.stderr)
				}
				if f.Opcode == wstest.OpText {
					return
				}
			}
		})
		t.Run("message"+door, func(t *testing.T) {
			t.Parallel()
			p := startPaused(t, "-message-timeout 2s -ping -1ns"+door)
			c := p.open()
			for range rounds {
				b := wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 20_000)))
				c.Write(b[:7000])
				p.pause(pause, func() { c.Write(b[7000:]) })
				if op, msg, err := c.ReadMessage(); op != wstest.OpText || len(msg) != 20_000 {
					t.Fatalf("%d bytes, %v\n%s", len(msg), err, p.stderr)
				}
			}
		})
		t.Run("idle"+door, func(t *testing.T) {
			t.Parallel()
			p := startPaused(t, "-idle 2s -ping -1ns"+door)
			c := p.open()
			for range rounds {
				p.pause(pause, func() { c.WriteFrame(wstest.Text("hello")) })
				if op, msg, err := c.ReadMessage(); op != wstest.OpText || string(msg) != "hello" {
					t.Fatalf("%s, %v\n%s", msg, err, p.stderr)
				}
			}
		})
		t.Run("write"+door, func(t *testing.T) {
			t.Parallel()
			p := startPaused(t, "-write-timeout 2s -message-timeout 1m -ping -1ns"+door)
			c := p.open()
			c.Timeout = time.Minute // 15 MiB take a while on a busy machine
			for range rounds {
				const size = 15 << 20
				c.WriteFrame(wstest.Text(strings.Repeat("x", size)))
				time.Sleep(100 * time.Millisecond) // the server's write does not end before the client reads
				read := make(chan error, 1)
				p.pause(pause, func() {
					go func() {
						op, msg, err := c.ReadMessage()
						if op != wstest.OpText || len(msg) != size {
							err = fmt.Errorf("%d bytes, %v", len(msg), err)
						}
						read <- err
					}()
				})
				if err := <-read; err != nil {
					t.Fatalf("%v\n%s", err, p.stderr)
				}
			}
		})
	}
}

// The same is true of a first message that must be the credential. There are several clients,
// because the sweeper and the readers come back in any order.
func TestPausedFirstMessage(t *testing.T) {
	p := startPaused(t, "-tokens alice=T1 -token-from first-message -auth-timeout 2s -ping -1ns -max-conns-per-subject -1 -max-conns-per-client -1 -handshake-rate -1/-1")
	var clients []*wstest.Client
	for range 20 {
		clients = append(clients, p.open())
	}
	p.pause(4*time.Second, func() {
		for _, c := range clients {
			c.WriteFrame(wstest.Text(`{"type":"auth","token":"T1"}`))
		}
	})
	for _, c := range clients {
		c.WriteFrame(wstest.Text("hello"))
		if _, msg, err := c.ReadMessage(); string(msg) != "hello" {
			t.Fatalf("%s, %v\n%s", msg, err, p.stderr)
		}
	}
}

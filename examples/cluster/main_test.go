package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// With programEnv the test binary is the program. It is also the program if it is an instance.
const programEnv = "WSGUARD_CLUSTER_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" || os.Getenv(redisEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is the program in a process of its own, with its instances and its Redis.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer
	lines  *bufio.Scanner // of its standard output
}

func start(t *testing.T, args ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: exec.CommandContext(t.Context(), exe, args...)}
	p.cmd.Env = append(os.Environ(), programEnv+"=1", "TMPDIR="+t.TempDir())
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait() // until all that it has started have closed its standard error
	})
	return p
}

// until reads on to the first line that matches.
func (p *program) until(pattern string) []string {
	p.t.Helper()
	for p.lines.Scan() {
		p.t.Log(p.lines.Text())
		if m := regexp.MustCompile(pattern).FindStringSubmatch(p.lines.Text()); m != nil {
			return m
		}
	}
	p.cmd.Wait()
	p.t.Fatalf("the program has ended without %q\n%s", pattern, &p.stderr)
	return nil
}

// wait waits for the end of the program and of all that it has started.
func (p *program) wait() error {
	for p.lines.Scan() {
		p.t.Log(p.lines.Text())
	}
	return p.cmd.Wait()
}

// steps has the lines of a demonstration. The last lines are missing, because they take as long as a
// lease.
var steps = []string{
	`^✓ alice logs in at instance 1, and is logged in at all$`,
	`^✓ alice, bob and carol see each other in a room`,
	`^✓ a client at each instance says 8 messages, and each of them gets all 24 once and in the same order$`,
	`^✓ alice has 9 connections, .* 429 max_subject_conns$`,
	`^✓ instance 2 bans \S+, and \d\S+ later the others refuse it with 429 banned$`,
	`^✓ instance 2 revokes alice, and \d\S+ later all her connections are closed with 3000 revoked; each instance refuses her with 401$`,
	`^✓ instance 3 is killed; bob comes back at instance 2, and has what was said meanwhile$`,
	`^✓ carol has lost 3 of 9 connections with instance 3, `,
}

// The demonstration up to what the slots of the killed instance do.
func TestClusterShow(t *testing.T) {
	p := start(t, "-addr", "127.0.0.1:0", "-show")
	for _, step := range steps {
		p.until(step)
	}
}

// The whole demonstration. Its last step waits for the end of a lease, which has 30 seconds.
func TestNightlyClusterShow(t *testing.T) {
	wstest.Nightly(t)
	p := start(t, "-addr", "127.0.0.1:0", "-show")
	for _, step := range steps {
		p.until(step)
	}
	p.until(`^✓ \S+ later she has them again, at instance 1$`)
	if err := p.wait(); err != nil || p.stderr.Len() > 0 {
		t.Errorf("%v\n%s", err, &p.stderr)
	}
}

// Without a redis-server the program has one in its own process.
func TestClusterMiniredis(t *testing.T) {
	t.Setenv("PATH", "")
	p := start(t, "-addr", "127.0.0.1:0", "-show")
	for _, step := range steps {
		p.until(step)
	}
}

// Each way to end the program ends all that it has started.
func TestClusterEnds(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals")
	}
	for name, how := range map[string]os.Signal{"interrupt": os.Interrupt, "kill": os.Kill} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "-addr", "127.0.0.1:0")
			var pages []string
			for i := range size {
				pages = append(pages, p.until(fmt.Sprintf(`^instance %d: (http://\S+) \(pid \d+\)$`, i+1))[1])
			}
			redis := p.until(`^redis: .* on (\S+)$|^redis: miniredis`)[1]
			for _, page := range pages {
				res, err := http.Get(page)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != 200 || !bytes.Contains(body, []byte("wsguard chat")) {
					t.Errorf("%s: %d", page, res.StatusCode)
				}
			}
			http.DefaultClient.CloseIdleConnections()
			if err := p.cmd.Process.Signal(how); err != nil {
				t.Fatal(err)
			}
			err := p.wait() // the instances have its standard error
			if interrupted := how == os.Interrupt; interrupted != (err == nil) {
				t.Errorf("%v\n%s", err, &p.stderr)
			}
			for _, page := range append(pages, redis) {
				addr := strings.TrimPrefix(page, "http://")
				for end := time.Now().Add(10 * time.Second); addr != ""; {
					c, err := net.Dial("tcp", addr)
					if err != nil {
						break
					}
					c.Close()
					if time.Now().After(end) {
						t.Fatalf("%s still listens", addr)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
}

// An address that is taken is replaced, and one that is not on this machine is refused.
func TestAddresses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := start(t, "-addr", taken.Addr().String())
	for i := range size {
		page := p.until(fmt.Sprintf(`^instance %d: http://(\S+) `, i+1))[1]
		if page == taken.Addr().String() {
			t.Errorf("an instance listens at %s, which is taken", page)
		}
	}
	for _, addr := range []string{"0.0.0.0:0", "nonsense", "localhost:x", "localhost:65536"} {
		p := start(t, "-addr", addr)
		if err := p.wait(); err == nil || p.stderr.Len() == 0 {
			t.Errorf("%s: %v %s", addr, err, &p.stderr)
		}
	}
}

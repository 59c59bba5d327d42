package pages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deployingBlock returns the block of docs/deploying.md in a language.
func deployingBlock(t *testing.T, language string) string {
	t.Helper()
	var found []string
	for _, m := range fenced.FindAllStringSubmatch(page(t, "docs/deploying.md"), -1) {
		if m[1] == language {
			found = append(found, m[2])
		}
	}
	if len(found) != 1 {
		t.Fatalf("docs/deploying.md has %d blocks of %s", len(found), language)
	}
	return found[0]
}

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDeployingUnit runs the program of the unit as the unit does, and ends it as systemd does. Where there is
// systemd-analyze, it also judges the unit.
func TestDeployingUnit(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds a program")
	}
	unit := deployingBlock(t, "ini")
	program := filepath.Join(t.TempDir(), "ws")
	build := exec.Command("go", "build", "-trimpath", "-o", program, ".")
	build.Dir = filepath.Join(root, "examples", "kubernetes")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	m := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/ws (.*)$`).FindStringSubmatch(unit)
	if m == nil {
		t.Fatal("the unit does not start the program")
	}
	drain := regexp.MustCompile(`-drain (\S+)`).FindStringSubmatch(m[1])
	stop := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindStringSubmatch(unit)
	if drain == nil || stop == nil {
		t.Fatal("the unit does not bound the drain and the stop")
	}
	d, err := time.ParseDuration(drain[1])
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := strconv.Atoi(stop[1]); time.Duration(n)*time.Second <= d {
		t.Errorf("TimeoutStopSec=%d s, and the drain takes up to %v", n, d)
	}
	port := freePort(t)
	cmd := exec.Command(program, strings.Fields(strings.Replace(m[1], ":8080", ":"+port, 1))...)
	startServer(t, cmd, port)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for by := time.Now().Add(30 * time.Second); cmd.Process.Signal(syscall.Signal(0)) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(by) {
			t.Fatal("the program does not end on SIGTERM")
		}
	}

	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "ws.service")
	if err := os.WriteFile(file, []byte(strings.Replace(unit, "/usr/local/bin/ws", program, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), "ws.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// TestDeployingImage checks that the Dockerfile of the page is that of examples/kubernetes, which a test of that module reads,
// except for the folder of the program.
func TestDeployingImage(t *testing.T) {
	instructions := func(text string) (list []string) {
		for line := range strings.SplitSeq(text, "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				list = append(list, strings.ReplaceAll(line, "cd examples/kubernetes && ", ""))
			}
		}
		return list
	}
	got, want := instructions(deployingBlock(t, "dockerfile")), instructions(page(t, "examples/kubernetes/Dockerfile"))
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestDeployingSizes checks the figures of the page against those of README.md, which other tests hold.
func TestDeployingSizes(t *testing.T) {
	text, readme := page(t, "docs/deploying.md"), page(t, "README.md")
	idle := regexp.MustCompile(`(?m)^\| wsguard, every guard on \|.*\| ([\d.]+) KB \|$`).FindStringSubmatch(readme)
	conns := regexp.MustCompile(`(?m)^\| connections \| ([\d,]+);`).FindStringSubmatch(readme)
	queue := regexp.MustCompile(`Send queue \| [\d,]+ messages, (1 MiB); (256 MiB) in all`).FindStringSubmatch(readme)
	if idle == nil || conns == nil || queue == nil {
		t.Fatal("README.md does not have the figures")
	}
	kb, err := strconv.ParseFloat(idle[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.ReplaceAll(conns[1], ",", ""))
	if err != nil {
		t.Fatal(err)
	}
	all := strconv.FormatFloat(kb*float64(n)/1000, 'f', 0, 64)
	for _, want := range []string{
		"| memory of an idle connection | " + idle[1] + " KB",
		"| " + conns[1] + " idle connections, the default of `Caps.MaxConns` | " + all + " MB |",
		"at most " + queue[1] + " a connection, and " + queue[2] + " in all",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/deploying.md does not say %q", want)
		}
	}
	for _, want := range []string{"LimitNOFILE=20000", "nofile=20000:20000", "MemoryMax=1G", "--memory 1g", "TimeoutStopSec=45", "--stop-timeout 45"} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/deploying.md does not say %q", want)
		}
	}
}

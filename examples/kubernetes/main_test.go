package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/wsguardtest"
)

// The test starts itself as the program, with this variable.
const asProgram = "WSGUARD_EXAMPLE_KUBERNETES"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program is the program in a process of its own, with the arguments of the manifest.
type program struct {
	cmd *exec.Cmd
	url string
	s   *wsguardtest.Server
}

// start runs the program. The test stands in for the ingress.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args = append(container(t).Args, append([]string{"-addr=127.0.0.1:0", "-trusted-proxies=127.0.0.1"}, args...)...)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("the program prints no address:", err, cmd.Wait())
	}
	url := strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	return &program{cmd, url, wsguardtest.ServerAt(t, url+"/ws", wsguardtest.Origin("https://app.example.com"),
		wsguardtest.Header("X-Forwarded-For", "192.0.2.1"), wsguardtest.Header("X-Forwarded-Proto", "https"))}
}

// status returns the status of a page. It is 0 if the server does not answer.
func status(t *testing.T, client *http.Client, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// On SIGTERM, the program closes its connections with 1012 and exits with 0.
func TestSIGTERM(t *testing.T) {
	p := start(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c := container(t)
	for _, path := range []string{c.ReadinessProbe.HTTPGet.Path, c.LivenessProbe.HTTPGet.Path} {
		if got := status(t, client, p.url+path); got != 200 {
			t.Errorf("%s: %d", path, got)
		}
	}
	ws := p.s.Dial()
	ws.WriteText("hello")
	ws.WantText("hello")
	p.s.WantRefusal(403, "origin", wsguardtest.Origin("https://evil.example"))
	p.s.WantRefusal(403, "insecure_transport", wsguardtest.Header("X-Forwarded-Proto", "http"))

	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ws.WantClose(1012, "draining")
	if got := status(t, client, p.url+c.ReadinessProbe.HTTPGet.Path); got != 503 && got != 0 {
		t.Errorf("the program is still ready: %d", got)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Error("the program ends with", err)
	}
}

// The program exits with 0 even if it must cut a connection at the end of the drain.
func TestCut(t *testing.T) {
	p := start(t, "-drain=1ms")
	p.s.DialRaw()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Error("the program ends with", err)
	}
}

// While the pod drains it is alive and not ready.
func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wsguardtest.NewServerFunc(t, handler, wsguardtest.Path("/ws"))
		want := func(ready, alive int) {
			t.Helper()
			if r, a := status(t, s.HTTPClient(), s.URL+"/readyz"), status(t, s.HTTPClient(), s.URL+"/healthz"); r != ready || a != alive {
				t.Errorf("ready %d, alive %d, want %d and %d", r, a, ready, alive)
			}
		}
		slow := s.DialRaw() // does not answer the close frame
		want(200, 200)
		done := make(chan error, 1)
		go func() { done <- s.Guard.Shutdown(context.Background()) }()
		synctest.Wait()
		want(503, 200)
		s.WantRefusal(503, "draining")
		slow.WantClose(1012, "draining")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFaults(t *testing.T) {
	for _, args := range [][]string{{}, {"-origins=*"}, {"-origins=https://a.example", "-trusted-proxies=x"}, {"-drain=1"}} {
		if err := run(t.Context(), append([]string{"-addr=127.0.0.1:0"}, args...), io.Discard, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%q is no fault", args)
		} else if config := (*wsguard.ConfigError)(nil); len(args) > 0 && strings.HasPrefix(args[0], "-origins") && !errors.As(err, &config) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

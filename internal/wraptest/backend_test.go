package wraptest_test

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// backend is a server in another language, started once for all tests.
type backend struct {
	dir     string                  // of the command
	command func() ([]string, bool) // false: the runtime is missing
	missing string                  // what to do about it
	url     *url.URL
}

// start starts the backend, and skips the test when that cannot be.
func (b *backend) start(t *testing.T) {
	args, ok := b.command()
	if !ok {
		t.Skip(b.missing)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = b.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // the backend ends with it
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stdin.Close()
		cmd.Wait()
		t.Fatalf("%s did not start: %v\n%s", args[0], err, &stderr)
	}
	b.url = &url.URL{Scheme: "http", Host: "127.0.0.1:" + strings.TrimSpace(line)}
}

// proxy returns a reverse proxy in front of the backend.
func (b *backend) proxy() (http.Handler, func()) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(b.url)
			pr.Out.Host = pr.In.Host
		},
		Transport: transport,
	}, transport.CloseIdleConnections
}

var node = backend{
	dir: filepath.Join("testdata", "node"),
	command: func() ([]string, bool) {
		program, err := exec.LookPath("node")
		if err != nil {
			return nil, false
		}
		_, err = os.Stat(filepath.Join("testdata", "node", "node_modules", "ws"))
		return []string{program, "server.js"}, err == nil
	},
	missing: "no node, or no ws: npm ci in testdata/node",
}

var python = backend{
	dir: filepath.Join("testdata", "python"),
	command: func() ([]string, bool) {
		// The package of a distribution is for the distribution's Python, which
		// need not be the first in the path.
		for _, program := range []string{"python3", "/usr/bin/python3"} {
			if exec.Command(program, "-c", "import websockets").Run() == nil {
				return []string{program, "server.py"}, true
			}
		}
		return nil, false
	},
	missing: "no python3 that has websockets: install python3-websockets",
}

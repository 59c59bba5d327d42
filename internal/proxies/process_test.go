package proxies

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// proxy is a program that stands in front of the server.
type proxy struct {
	name     string
	language string // of its block in docs/operations.md

	// parts returns what is replaced in the block, in pairs, so that the program listens on
	// the ports of r.
	parts func(r *run) []string

	// timeout is the part of the block that cuts a silent connection, and brief is the same
	// for one second. They are empty for a proxy that does not cut.
	timeout, brief string

	// command writes the files that the program needs beside the block, and returns its
	// command. The block is in r.block.
	command func(t *testing.T, r *run) *exec.Cmd

	threads int // of Apache
}

// run is a proxy that runs.
type run struct {
	dir         string // for the files of the program
	cert        certificate
	http, https string // ports of 127.0.0.1
	block       string // after the substitution
	threads     int    // of Apache
}

// file writes a file for the program and returns its path.
func (r *run) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

var allProxies = []*proxy{
	{
		name: "nginx", language: "nginx",
		parts: func(r *run) []string {
			return []string{"listen 80;", "listen 127.0.0.1:" + r.http + ";", "listen 443 ssl;", "listen 127.0.0.1:" + r.https + " ssl;", "/etc/ssl/app", r.cert.dir}
		},
		timeout: "timeout 90s", brief: "timeout 1s",
		command: func(t *testing.T, r *run) *exec.Cmd {
			main := "daemon off; master_process off; pid " + r.dir + "/pid; error_log stderr;\nevents {}\nhttp {\naccess_log off;\n"
			for _, temp := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				main += temp + "_temp_path " + r.dir + "/" + temp + ";\n"
			}
			main += "include " + r.file(t, "app.conf", r.block) + ";\n}\n"
			return exec.Command("nginx", "-e", "stderr", "-p", r.dir, "-c", r.file(t, "nginx.conf", main))
		},
	},
	{
		name: "haproxy", language: "haproxy",
		parts: func(r *run) []string {
			return []string{"bind :80\n", "bind 127.0.0.1:" + r.http + "\n", "bind :443 ", "bind 127.0.0.1:" + r.https + " ", "/etc/ssl/app", r.cert.dir,
				// Without room for fewer connections the program may want more files than the
				// machine allows.
				"maxconn 20000", "maxconn 100"}
		},
		timeout: "timeout tunnel 90s", brief: "timeout tunnel 1s",
		command: func(t *testing.T, r *run) *exec.Cmd {
			return exec.Command("haproxy", "-db", "-f", r.file(t, "haproxy.cfg", r.block))
		},
	},
	{
		name: "apache2", language: "apache",
		parts: func(r *run) []string {
			return []string{"*:80>", "127.0.0.1:" + r.http + ">", "*:443>", "127.0.0.1:" + r.https + ">", "/etc/ssl/app", r.cert.dir}
		},
		timeout: "timeout=90", brief: "timeout=1",
		command: apache, threads: 64,
	},
	{
		name: "caddy", language: "caddyfile",
		parts: func(r *run) []string {
			return []string{
				"http://app.example.com {", "http://app.example.com:" + r.http + " {", "https://app.example.com {", "https://app.example.com:" + r.https + " {",
				"/etc/ssl/app", r.cert.dir,
			}
		},
		command: func(t *testing.T, r *run) *exec.Cmd {
			main := "{\nadmin off\nhttp_port " + r.http + "\nhttps_port " + r.https + "\nskip_install_trust\n}\n"
			cmd := exec.Command("caddy", "run", "--adapter", "caddyfile", "--config", r.file(t, "Caddyfile", main+r.block))
			cmd.Env = append(os.Environ(), "HOME="+r.dir, "XDG_DATA_HOME="+r.dir, "XDG_CONFIG_HOME="+r.dir)
			return cmd
		},
	},
}

var a2enmod = regexp.MustCompile(`# a2enmod ([a-z_ ]+) &&`)

// apache loads the modules that the block names, and those that are on in a new installation
// of Debian as far as they matter here. Its timeouts for a request are short, so that a test
// sees whether they end with the upgrade.
func apache(t *testing.T, r *run) *exec.Cmd {
	t.Helper()
	named := a2enmod.FindStringSubmatch(r.block)
	if named == nil {
		t.Fatal("the block for Apache does not say which modules it needs")
	}
	main := "ServerRoot " + r.dir + "\nPidFile " + r.dir + "/pid\nErrorLog /dev/stderr\nServerName localhost\nListen 127.0.0.1:" + r.http + "\nListen 127.0.0.1:" + r.https + "\n"
	if os.Getuid() == 0 {
		main += "User www-data\nGroup www-data\n"
	}
	for _, m := range append([]string{"mpm_event", "authz_core", "alias", "reqtimeout", "socache_shmcb", "setenvif"}, strings.Fields(named[1])...) {
		main += "LoadModule " + m + "_module /usr/lib/apache2/modules/mod_" + m + ".so\n"
	}
	main += "DefaultRuntimeDir " + r.dir + "\nMutex posixsem\nTimeout 1\nRequestReadTimeout handshake=5 header=5 body=1\nInclude " + r.file(t, "app.conf", r.block) + "\n"
	main += fmt.Sprintf("ThreadsPerChild %d\nMaxRequestWorkers %[1]d\n", r.threads)
	return exec.Command("apache2", "-X", "-f", r.file(t, "apache2.conf", main))
}

// start runs the proxy with a block of the page, of which more parts are replaced by pairs.
// The test is skipped if the program is not installed. The program ends with the test, and
// also if the process of the test is killed.
func (p *proxy) start(t *testing.T, block string, pairs ...string) *run {
	t.Helper()
	path, err := exec.LookPath(p.name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + p.name); err != nil {
			t.Skipf("%s is not installed, so nothing shows that its block in docs/operations.md works", p.name)
		}
	}
	var failed string
	for range 3 { // somebody may take a port before the program does
		dir, err := os.MkdirTemp("", "wsguard-proxy-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil { // Apache reads it as another user
			t.Fatal(err)
		}
		r := &run{dir: dir, cert: cert(t), http: freePort(t), https: freePort(t), threads: p.threads}
		r.block = substitute(t, block, append(pairs, p.parts(r)...)...)
		cmd := p.command(t, r)
		cmd.Path, cmd.Err = path, nil
		if failed = launch(t, cmd, r); failed == "" {
			return r
		}
	}
	t.Fatalf("%s does not start:\n%s", p.name, failed)
	return nil
}

// watched is a script that becomes the program of its arguments. Beside the program it leaves a
// shell that waits for the end of file descriptor 3, and then kills the program. The test holds
// the other end. So the program ends with the test, also if the test is killed.
const watched = `(cat <&3; kill -9 0) >/dev/null 2>&1 & exec "$@" 3<&-`

// launch starts a program and waits until it listens. It returns what the program has written
// if it does not listen.
func launch(t *testing.T, cmd *exec.Cmd, r *run) (failed string) {
	t.Helper()
	life, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer life.Close()
	t.Cleanup(func() { held.Close() })
	out := &output{}
	cmd.Args = append([]string{"sh", "-c", watched, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{life}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	stop := func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
	for until := time.Now().Add(20 * time.Second); ; {
		select {
		case <-ended:
			stop()
			return out.String()
		case <-time.After(20 * time.Millisecond):
		}
		if listens(r.http) && listens(r.https) {
			break
		}
		if time.Now().After(until) {
			stop()
			return fmt.Sprintf("it does not listen after 20 s\n%s", out)
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%s says:\n%s", filepath.Base(cmd.Args[4]), out)
		}
	})
	return ""
}

// output keeps what a program writes.
type output struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func listens(port string) bool {
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

package pages_test

import (
	"fmt"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// A use says what the tests do with a line that a page tells its readers to run.
type use struct {
	how    string // see the constants
	folder string // where the line runs, from the root of the repository
	why    string // of skipped
}

const (
	serves   = "serves"   // a server: it is built, started on a free port, and stopped
	serves2  = "serves2"  // one that takes long to build, for make nightly
	runs     = "runs"     // it ends by itself, and succeeds
	runs2    = "runs2"    // the same, for make nightly
	connects = "connects" // it needs the server of its page: TestShell reads it and does what it says
	skipped  = "skipped"  // it does not run here
)

// skip is the use of a line that does not run.
func skip(why string) use { return use{how: skipped, why: why} }

var (
	installs  = skip("it installs modules: make release-check does the same")
	publishes = skip("it publishes a release")
	started   = skip("TestStart runs it")
	asTests   = skip("CI runs these tests")
	npm       = skip("it installs packages of npm: .ci/run does the same")
)

// shellLines has all lines of all pages that a shell can run, after the name of the page. A
// line that is missing here fails TestShellLines.
var shellLines = map[string]use{
	"README.md: go mod init example.com/try":                    installs,
	"README.md: go get github.com/wsguard/wsguard":              installs,
	"README.md: go run .":                                       skip("TestREADME runs the program"),
	"README.md: go run ./client":                                skip("TestREADME runs the program"),
	"README.md: go run ./examples/chat":                         {how: serves},
	"examples/chat/README.md: go run ./examples/chat":           {how: serves},
	"README.md: go run ./examples/echo -h":                      {how: runs},
	"CONTRIBUTING.md: go test -run 'TestRefresh$' .":            {how: runs2},
	"CONTRIBUTING.md: go test -run 'TestAuthSources/T30_two' .": {how: runs2},
	"CONTRIBUTING.md: go test -short .":                         asTests,
	"CONTRIBUTING.md: go test ./client/js":                      asTests,
	"CONTRIBUTING.md: cd internal/interop && go test ./...":     asTests,

	"docs/start.md: go mod init example.com/try": installs,
	"docs/start.md: go mod tidy":                 skip("it fetches modules: TestStart builds the programs with those of the repository"),
	"docs/start.md: go run .":                    started,
	"docs/deploying.md: go run ./examples/tls":   {how: serves},
	"docs/deploying.md: cd examples/kubernetes && go run . -addr 127.0.0.1:8080 -origins http://127.0.0.1:8080": {how: serves},
	"docs/deploying.md: systemctl daemon-reload":                                                                skip("TestDeployingUnit checks the unit"),
	"docs/deploying.md: systemctl enable --now ws":                                                              skip("TestDeployingUnit checks the unit"),
	"docs/deploying.md: curl -fsS http://127.0.0.1:8080/healthz":                                                {how: connects},
	"docs/deploying.md: curl -fsS http://127.0.0.1:8080/readyz":                                                 {how: connects},
	"docs/local.md: go run ./examples/local":                                                                    {how: serves},
	"docs/monitoring/README.md: promtool check rules alerts.yml":                                                {how: runs, folder: "docs/monitoring"},

	"examples/cluster/README.md: cd examples/cluster && go run .":                                              {how: serves2},
	"examples/cluster/README.md: cd examples/cluster && go run . -show":                                        skip("it takes 40 seconds: the example's own tests run it"),
	"examples/echo/README.md: go run ./examples/echo":                                                          {how: serves},
	"examples/echo/README.md: npx wscat -c ws://127.0.0.1:8080/ws -o http://127.0.0.1:8080":                    {how: connects},
	"examples/feed/README.md: go run ./examples/feed":                                                          {how: serves},
	"examples/frameworks/README.md: cd examples/frameworks && go run . -router chi":                            {how: serves2},
	"examples/graphql/README.md: cd examples/graphql && go run .":                                              {how: serves2},
	"examples/graphql/README.md: (cd client && npm ci)":                                                        npm,
	"examples/graphql/README.md: go run . -ttl 10s":                                                            {how: serves2, folder: "examples/graphql"},
	"examples/graphql/README.md: go run . -connection-init":                                                    {how: serves2, folder: "examples/graphql"},
	"examples/html/README.md: cd examples/html && go run .":                                                    {how: serves},
	"examples/jsonrpc/README.md: go run ./examples/jsonrpc -token-file ~/.wsguard-token":                       {how: serves},
	"examples/jwt/README.md: cd examples/jwt && go run .":                                                      {how: serves},
	"examples/jwt/README.md: go run . -ttl 20s":                                                                {how: serves, folder: "examples/jwt"},
	"examples/kubernetes/README.md: kubectl apply -f examples/kubernetes/manifest.yaml":                        skip("it needs a cluster: manifest_test.go reads the manifest"),
	"examples/kubernetes/README.md: go run . -origins http://localhost:8080":                                   {how: serves, folder: "examples/kubernetes"},
	"examples/local/README.md: go run ./examples/local":                                                        {how: serves},
	"examples/otel/README.md: OTEL_SERVICE_NAME=echo go run .":                                                 {how: serves2, folder: "examples/otel"},
	"examples/proxyproto/README.md: cd examples/proxyproto && go run . -trusted 127.0.0.1":                     {how: serves},
	"examples/proxyproto/README.md: haproxy -f haproxy.cfg":                                                    skip("it takes fixed ports: the example's own test runs HAProxy with this file"),
	"examples/proxyproto/README.md: npx wscat --no-check -c wss://localhost:8443/ws -o https://localhost:8443": skip("it needs the HAProxy of the line above"),
	"examples/rooms/README.md: go run ./examples/rooms":                                                        {how: serves},
	"examples/tls/README.md: go run ./examples/tls":                                                            {how: serves},
	"examples/wrap/README.md: go run ./gorilla":                                                                {how: serves, folder: "examples/wrap"},
	"examples/wrap/README.md: go run ./proxy":                                                                  {how: serves, folder: "examples/wrap"},
}

func init() {
	for _, line := range []string{
		"git tag -a v0.1.0 -m v0.1.0", "git push origin v0.1.0",
		"git tag -a contrib/wsguardjwt/v0.1.0 -m contrib/wsguardjwt/v0.1.0", "git push origin contrib/wsguardjwt/v0.1.0",
	} {
		shellLines["docs/releasing.md: "+line] = publishes
	}
	for _, line := range []string{
		"go mod init example.com/try", "go get github.com/wsguard/wsguard@v0.1.0", "go get github.com/wsguard/wsguard/contrib/wsguardjwt@v0.1.0",
	} {
		shellLines["docs/releasing.md: "+line] = installs
	}
	for _, name := range []string{"wsguardjwt", "wsguardotel", "wsguardprom", "wsguardredis", "wsguardtext"} {
		shellLines["contrib/"+name+"/README.md: go get github.com/wsguard/wsguard/contrib/"+name] = installs
	}
	for _, line := range []string{
		`TOKEN=$(curl -s -d '{"name":"alice","password":"wonderland"}' http://localhost:8080/login | sed 's/.*"token":"\([^"]*\)".*/\1/')`,
		`npx wscat -c ws://localhost:8080/ws -o http://localhost:8080 -H "Authorization: Bearer $TOKEN"`,
	} {
		shellLines["examples/jwt/README.md: "+line] = use{how: connects}
	}
}

var (
	fenced  = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	spans   = regexp.MustCompile("`([^`]+)`")
	command = regexp.MustCompile(`^\(?(?:[A-Z_]+=\S* )*([a-z][\w-]*)(?: |$)`)
	setting = regexp.MustCompile(`^[A-Z_]+=[^ $]*$`)
	// A command in the text of a page counts if it begins like this.
	inText = regexp.MustCompile(`^(?:go (?:run|test) .*|npm (?:ci|install) .*|promtool .*|curl .*|kubectl apply .*|docker run .*|cd \S+ && .*)$`)
)

// shellWords are programs that not every machine has.
var shellWords = []string{"cd", "docker", "export", "go", "haproxy", "helm", "kubectl", "make", "nginx", "npm", "npx", "promtool", "source", "systemctl", "wscat"}

// isCommand reports whether a line of a block without a language is one for a shell.
func isCommand(line string) bool {
	if strings.Contains(line, "=$(") {
		return true
	}
	m := command.FindStringSubmatch(line)
	if m == nil || strings.ContainsAny(line, "·→─") { // a drawing
		return false
	}
	if slices.Contains(shellWords, m[1]) {
		return true
	}
	_, err := exec.LookPath(m[1])
	return err == nil
}

// commands returns the lines of a page that a shell can run, each of them once.
func commands(text string) (lines []string) {
	add := func(line string) {
		if line != "" && !strings.HasPrefix(line, "#") && !setting.MatchString(line) && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for _, m := range fenced.FindAllStringSubmatch(text, -1) {
		code := strings.ReplaceAll(m[2], "\\\n", " ")
		for line := range strings.SplitSeq(code, "\n") {
			line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
			switch m[1] {
			case "sh", "bash", "shell", "console":
				add(line)
			case "", "text":
				if isCommand(line) {
					add(line)
				}
			}
		}
	}
	for _, m := range spans.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		if line := strings.Join(strings.Fields(m[1]), " "); inText.MatchString(line) {
			add(line)
		}
	}
	return lines
}

// pagesWithCommands returns the lines of each page that a user or a contributor reads.
func pagesWithCommands(t *testing.T) map[string][]string {
	t.Helper()
	pages := map[string][]string{}
	walk(t, ".md", func(name, text string) {
		dir := path.Dir(name)
		switch {
		case name == "README.md", name == "CONTRIBUTING.md", name == "client/js/README.md", strings.HasPrefix(name, "docs/"),
			path.Base(name) == "README.md" && slices.Contains([]string{"examples", "contrib"}, path.Dir(dir)):
			pages[name] = commands(text)
		}
	})
	return pages
}

// useOf returns the use of a line of a page.
func useOf(page, line string) (use, bool) {
	u, ok := shellLines[page+": "+line]
	switch {
	case ok:
	case page == "docs/start.md" && (strings.HasPrefix(line, "npx wscat ") || strings.HasPrefix(line, "openssl ")):
		return started, true
	case page == "docs/deploying.md" && strings.HasPrefix(line, "docker "):
		return skip("it needs Docker's service and the network: TestDeployingImage checks the file"), true
	}
	return u, ok
}

// TestShellLines checks that the tests know each line that a page tells its readers to run, and that
// they know no others.
func TestShellLines(t *testing.T) {
	left := maps.Clone(shellLines)
	for page, lines := range pagesWithCommands(t) {
		for _, line := range lines {
			u, ok := useOf(page, line)
			if !ok {
				t.Errorf("%q: %q runs in no test: shellLines must say how, or why not", page, line)
			}
			if u.how == skipped && u.why == "" {
				t.Errorf("%s: %q is skipped without a reason", page, line)
			}
			delete(left, page+": "+line)
		}
	}
	for key := range left {
		t.Errorf("no page has %q", key)
	}
}

// TestShellCommands shows what counts as a line for a shell.
func TestShellCommands(t *testing.T) {
	text := "Run `go run\n./examples/x`, not `go vet`, and:\n\n```\ngo get example.com/x\n{\"type\":\"go\"}\nrequest → handshake\nA=1 go run . \\\n  -x\nA=2\n```\n\n" +
		"```sh\n# note\nunknown-program -x\n$ go version\n```\n\n```go\ngo f()\n```\n"
	want := []string{"go get example.com/x", "A=1 go run .    -x", "unknown-program -x", "go version", "go run ./examples/x"}
	if got := commands(text); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestShell runs the lines of all pages that can run.
func TestShell(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds programs")
	}
	shell(t, serves, runs)
}

// TestNightlyShell runs the lines that take longer.
func TestNightlyShell(t *testing.T) {
	wstest.Nightly(t)
	shell(t, serves2, runs2)
}

func shell(t *testing.T, server, once string) {
	programs := &programs{folder: t.TempDir(), built: map[string]string{}}
	for page, lines := range pagesWithCommands(t) {
		port := ""
		for i, line := range lines {
			u, _ := useOf(page, line)
			if u.how == server {
				t.Run(fmt.Sprintf("%s: %s", page, line), func(t *testing.T) {
					port = freePort(t)
					programs.start(t, line, u.folder, port)
					for _, next := range lines[i+1:] {
						if v, _ := useOf(page, next); v.how == connects {
							connectLine(t, next, port)
						}
					}
				})
			}
			if u.how == once {
				t.Run(fmt.Sprintf("%s: %s", page, line), func(t *testing.T) {
					if program := command.FindStringSubmatch(line)[1]; program != "cd" {
						if _, err := exec.LookPath(program); err != nil {
							t.Skip(err)
						}
					}
					cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
					cmd.Dir = filepath.Join(root, filepath.FromSlash(u.folder))
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				})
			}
		}
	}
}

var goRun = regexp.MustCompile(`^(?:cd (\S+) && )?((?:[A-Z_]+=\S* )*)go run (\S+)(.*)$`)

// programs are those that the lines with `go run` run. Each is built once.
type programs struct {
	folder string
	built  map[string]string // by the folders of their sources
}

// build builds a package, as `go run` in the folder does.
func (p *programs) build(t *testing.T, folder, pkg string) string {
	t.Helper()
	source := filepath.Join(folder, filepath.FromSlash(pkg))
	if p.built[source] == "" {
		program := filepath.Join(p.folder, fmt.Sprintf("program%d", len(p.built)))
		cmd := exec.Command("go", "build", "-o", program, pkg)
		cmd.Dir = folder
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		p.built[source] = program
	}
	return p.built[source]
}

// start starts the server of a line with `go run` on a free port. The server must say on which port
// it listens.
func (p *programs) start(t *testing.T, line, folder, port string) {
	t.Helper()
	m := goRun.FindStringSubmatch(line)
	if m == nil {
		t.Fatal("not understood")
	}
	dir := filepath.Join(root, filepath.FromSlash(path.Join(folder, m[1])))
	program := p.build(t, dir, m[3])
	cmd := exec.Command("sh", "-c", m[2]+"exec "+program+m[4]+" -addr localhost:"+port)
	cmd.Dir = dir
	home := t.TempDir() // for files that a server makes
	cmd.Env = append(cmd.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "TMPDIR="+home)
	out := startServer(t, cmd, port)
	for by := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), port); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(by) {
			t.Errorf("the server does not say where it listens:\n%s", out)
			return
		}
	}
}

// shellToken is what $TOKEN stands for.
var shellToken string

// connectLine does what a line says that connects to the server at port 8080.
func connectLine(t *testing.T, line, port string) {
	t.Helper()
	line = regexp.MustCompile(`(127\.0\.0\.1|localhost):8080`).ReplaceAllString(line, "localhost:"+port)
	if strings.HasPrefix(line, "npx wscat ") {
		if c, status := wscat(t, strings.ReplaceAll(line, "$TOKEN", shellToken), ""); c == nil {
			t.Errorf("%s: %d", line, status)
		}
		return
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip(err)
	}
	text := line
	if strings.HasPrefix(line, "TOKEN=") {
		text += `; echo "$TOKEN"`
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", text).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	if strings.HasPrefix(line, "TOKEN=") {
		shellToken = strings.TrimSpace(string(out))
	}
}

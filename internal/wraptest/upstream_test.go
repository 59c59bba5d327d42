package wraptest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	_ "github.com/99designs/gqlgen/graphql/handler/testserver" // for gqlgen's tests
	_ "github.com/stretchr/testify/require"                    // for gqlgen's tests

	"github.com/wsguard/wsguard/internal/wraptest"
)

// mostLines is how many lines of a foreign test may be changed to guard what it
// tests.
const mostLines = 5

// upstream is a test of another project. Its sources stay where Go keeps
// modules; what is compiled is a copy with a few lines changed.
type upstream struct {
	dir     string      // of the sources
	files   []string    // that are copied
	changes [][3]string // of a file, from, to
}

const ourImport = `"github.com/wsguard/wsguard/internal/wraptest"`

// run runs the test with bare handlers, which must pass here as it does
// upstream, and with guarded ones.
func (u *upstream) run(t *testing.T) {
	tmp := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	pkg := filepath.Join("upstream", t.Name())
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	changed := 0
	for i, name := range u.files {
		b, err := os.ReadFile(filepath.Join(u.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		text, n := u.change(t, name, string(b))
		changed += n
		path := filepath.Join(tmp, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(here, pkg, name)] = path
	}
	t.Logf("%d lines are changed", changed)
	if changed > mostLines {
		t.Fatalf("%d lines are changed, at most %d may be", changed, mostLines)
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(tmp, "overlay.json")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(tmp, "upstream.test")
	args := []string{"test", "-overlay", list, "-vet=off", "-c", "-o", binary}
	if raceEnabled() {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "./"+filepath.ToSlash(pkg))...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	// The tests have deadlines of their own, which a busy machine can miss.
	const tries = 3
	passes := func(t *testing.T, env string) bool {
		for try := range tries {
			test := exec.Command(binary, "-test.v", "-test.timeout=90s")
			test.Env = append(os.Environ(), env)
			test.Dir = tmp
			out, err := test.CombinedOutput()
			if err == nil {
				t.Logf("%d tests passed", strings.Count(string(out), "--- PASS"))
				return true
			}
			t.Logf("try %d of %d: %v\n%s", try+1, tries, err, out)
		}
		return false
	}
	bare := false
	t.Run("bare", func(t *testing.T) {
		if bare = passes(t, wraptest.Bare+"=1"); !bare {
			t.Skip("it fails here")
		}
	})
	t.Run("wrapped", func(t *testing.T) {
		if !wraptest.CanWrap() {
			t.Skip("the Guard of this tree has no Wrap")
		}
		if !bare {
			t.Skip("it fails here without a guard, too")
		}
		if !passes(t, wraptest.Bare+"=") {
			t.Fail()
		}
	})
}

// raceEnabled reports whether this test was built with -race.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// change carries out the changes of a file and returns how many lines differ.
// A change that finds nothing to do is a fault: the sources are not those that
// it was written for.
func (u *upstream) change(t *testing.T, name, text string) (changed string, lines int) {
	for _, c := range u.changes {
		if c[0] != name {
			continue
		}
		if strings.Count(text, c[1]) != 1 {
			t.Fatalf("%s has %q %d times", name, c[1], strings.Count(text, c[1]))
		}
		text = strings.Replace(text, c[1], c[2], 1)
		lines += max(strings.Count(c[1], "\n"), strings.Count(c[2], "\n")) + 1
	}
	return text, lines
}

// download returns the folder of a module, which need not be one that this
// module requires. The test is skipped when it cannot be had.
func download(t *testing.T, module, sum string) string {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = t.TempDir() // away from our go.mod
	out, err := cmd.Output()
	var m struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(out, &m); err != nil || jsonErr != nil || m.Dir == "" {
		t.Skipf("%s is not to be had: %v", module, errors.Join(err, jsonErr, errors.New(m.Error)))
	}
	if m.Sum != sum {
		t.Fatalf("%s has the sum %s, want %s", module, m.Sum, sum)
	}
	return m.Dir
}

// TestGqlgenTransport runs gqlgen's own tests of its WebSocket transport.
func TestGqlgenTransport(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/99designs/gqlgen").Output()
	if err != nil {
		t.Skipf("gqlgen's module is not to be found: %v", err)
	}
	u := upstream{dir: filepath.Join(strings.TrimSpace(string(out)), "graphql", "handler", "transport")}
	for _, name := range []string{"websocket_test.go", "websocket_coderws_test.go"} {
		u.files = append(u.files, name)
		u.changes = append(u.changes, [3]string{name, `"net/http/httptest"`, "httptest " + ourImport})
	}
	u.run(t)
}

// TestCoderChat runs the tests of coder/websocket's chat example. The modules of
// today leave the examples out; those from before the project had its present
// name have them, and with another import they are today's.
func TestCoderChat(t *testing.T) {
	dir := download(t, "nhooyr.io/websocket@v1.8.7", "h1:usjR2uOr/zjjkVMy0lW+PPohFok7PCow5sDjLgX4P4g=")
	const before, now = `"nhooyr.io/websocket"`, `"github.com/coder/websocket"`
	u := upstream{
		dir:   filepath.Join(dir, "examples", "chat"),
		files: []string{"main.go", "chat.go", "chat_test.go"},
		changes: [][3]string{
			{"chat.go", before, now + "\n\t" + ourImport},
			{"chat.go", `Mux.HandleFunc("/subscribe", cs.subscribeHandler)`, `Mux.Handle("/subscribe", wraptest.Guarded(http.HandlerFunc(cs.subscribeHandler)))`},
			{"chat_test.go", before, now},
		},
	}
	u.run(t)
}

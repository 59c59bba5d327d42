package pages_test

import (
	"go/format"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/wsguardtest"
)

func migratingPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "migrating.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// migratingPrograms returns the programs of docs/migrating.md: an echo bare and wrapped, and a
// broadcast on gorilla/websocket and on wsguard.
func migratingPrograms(t *testing.T) (bare, wrapped, gorilla, own string) {
	t.Helper()
	var programs []string
	for _, b := range blocks("docs/migrating.md", migratingPage(t)) {
		if got, err := format.Source([]byte(b.code)); err != nil || string(got) != b.code {
			t.Errorf("%s is not as gofmt writes it, %v", b, err)
		}
		if b.whole() {
			programs = append(programs, b.code)
		}
	}
	if len(programs) != 4 {
		t.Fatalf("%d programs, want 4", len(programs))
	}
	return programs[0], programs[1], programs[2], programs[3]
}

// start runs a program on a port of its own.
func start(t *testing.T, program string) *wsguardtest.Server {
	t.Helper()
	port := freePort(t)
	serve(t, strings.ReplaceAll(program, "localhost:8080", "localhost:"+port), port)
	return wsguardtest.ServerAt(t, "http://localhost:"+port+"/ws", wsguardtest.Origin("http://localhost:"+port))
}

// TestMigratingWrap runs the echo before and behind Guard.Wrap.
func TestMigratingWrap(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds programs")
	}
	bare, wrapped, _, _ := migratingPrograms(t)
	if before, after := strings.Count(bare, "\n"), strings.Count(wrapped, "\n"); after > before+15 {
		t.Errorf("%d lines before, %d after", before, after)
	}
	// The lines of the handler stay as they are.
	if from, to := strings.Index(bare, "func echo"), strings.Index(bare, "func main"); !strings.Contains(wrapped, bare[from:to]) {
		t.Error("the handler has changed")
	}
	t.Run("bare", func(t *testing.T) {
		c := start(t, bare).Dial()
		c.WriteText("hello")
		c.WantText("hello")
	})
	t.Run("wrapped", func(t *testing.T) {
		t.Setenv("KEY", "a-long-random-key")
		s := start(t, wrapped)
		page := wsguardtest.Origin("https://app.example.com")
		c := s.Dial(page, wsguardtest.Subprotocols("chat", "bearer.a-long-random-key"))
		if c.Subprotocol() != "chat" {
			t.Errorf("the subprotocol is %q", c.Subprotocol())
		}
		c.WriteText("hello")
		c.WantText("hello")
		s.WantRefusal(403, "origin", wsguardtest.Origin("https://evil.example"), wsguardtest.Subprotocols("chat", "bearer.a-long-random-key"))
		s.WantRefusal(401, "unauthenticated", page, wsguardtest.Subprotocols("chat"))
		s.WantRefusal(401, "unauthenticated", page, wsguardtest.Subprotocols("chat", "bearer.wrong"))
	})
}

// TestMigratingConn runs the broadcast on gorilla/websocket and on wsguard.
func TestMigratingConn(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds programs")
	}
	_, _, gorilla, own := migratingPrograms(t)
	before, after := strings.Count(gorilla, "\n"), strings.Count(own, "\n")
	t.Logf("%d lines before, %d after", before, after)
	if after*2 > before {
		t.Errorf("%d lines before, %d after", before, after)
	}
	for name, program := range map[string]string{"gorilla": gorilla, "own": own} {
		t.Run(name, func(t *testing.T) {
			s := start(t, program)
			a, b := s.Dial(), s.Dial()
			b.WriteText("b is here") // so that both are members
			b.WantText("b is here")
			a.WriteText("hello")
			for a.ReadText() != "hello" { // after that of b, if a was there
			}
			b.WantText("hello")
			a.Close()
			if r := s.Connect(wsguardtest.Origin("https://evil.example")).Handshake(); r.StatusCode != 403 {
				t.Errorf("a foreign page gets %d", r.StatusCode)
			}
		})
	}
}

// quoted matches a name in a cell of a table.
var quoted = regexp.MustCompile("`([^`]+)`")

// names returns the names in the first and in the other cells of the tables below a heading.
func names(page, heading string) (first, others []string) {
	_, text, _ := strings.Cut(page, "\n### "+heading+"\n")
	text, _, _ = strings.Cut(text, "\n#")
	for line := range strings.SplitSeq(text, "\n") {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 2 {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[0], -1) {
			first = append(first, m[1])
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			others = append(others, m[1])
		}
	}
	return first, others
}

// member returns the object that a name such as Conn.Read means in a package, or nil.
func member(pkg *types.Package, name string) types.Object {
	name, rest, _ := strings.Cut(name, ".")
	o := pkg.Scope().Lookup(name)
	for rest != "" && o != nil {
		name, rest, _ = strings.Cut(rest, ".")
		o, _, _ = types.LookupFieldOrMethod(o.Type(), true, pkg, name)
	}
	return o
}

// TestMigratingNames checks the tables that lead from the names of a library to ours. Each name
// exists, and each exported name of the library stands in its table, except for constants.
func TestMigratingNames(t *testing.T) {
	c := newChecker(t)
	load := func(path string) *types.Package {
		pkg, err := c.gc.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		return pkg
	}
	ours := load(module)
	known := func(name string) bool {
		if member(ours, name) != nil || member(ours, "Config."+name) != nil {
			return true
		}
		pkg, rest, ok := strings.Cut(name, ".")
		return ok && c.paths[pkg] != "" && member(load(c.paths[pkg]), rest) != nil
	}
	page := migratingPage(t)
	for heading, path := range map[string]string{"From gorilla/websocket": "github.com/gorilla/websocket", "From coder/websocket": "github.com/coder/websocket"} {
		pkg := load(path)
		theirs, others := names(page, heading)
		if len(theirs) < 20 || len(others) < 20 {
			t.Errorf("%s: %d names of the library and %d of ours", heading, len(theirs), len(others))
		}
		listed := map[string]bool{}
		for _, name := range theirs {
			listed[name] = true
			in := pkg
			if rest, ok := strings.CutPrefix(name, "wsjson."); ok {
				in, name = load(path+"/wsjson"), rest
			}
			if member(in, name) == nil {
				t.Errorf("%s: the library has no %s", heading, name)
			}
		}
		for _, name := range others {
			if !known(name) {
				t.Errorf("%s: there is no %s", heading, name)
			}
		}
		for _, name := range exported(pkg) {
			if !listed[name] {
				t.Errorf("%s: the table lacks %s", heading, name)
			}
		}
	}
	_, goes := names(strings.Replace(page, "\n## Replace the library\n", "\n### Replace\n", 1), "Replace")
	if len(goes) < 8 {
		t.Errorf("%d names in the table of what goes", len(goes))
	}
	for _, name := range goes {
		if !known(name) {
			t.Errorf("what goes: there is no %s", name)
		}
	}
}

// exported returns the names of a library that a server uses: those of the package without its
// constants, and the members of a connection and of the options for an upgrade.
func exported(pkg *types.Package) (all []string) {
	for _, name := range pkg.Scope().Names() {
		o := pkg.Scope().Lookup(name)
		if _, constant := o.(*types.Const); constant || !o.Exported() {
			continue
		}
		all = append(all, name)
		if name != "Conn" && name != "Upgrader" && name != "AcceptOptions" {
			continue
		}
		for method := range types.NewMethodSet(types.NewPointer(o.Type())).Methods() {
			if method.Obj().Exported() {
				all = append(all, name+"."+method.Obj().Name())
			}
		}
		for field := range o.Type().Underlying().(*types.Struct).Fields() {
			if field.Exported() {
				all = append(all, name+"."+field.Name())
			}
		}
	}
	return all
}

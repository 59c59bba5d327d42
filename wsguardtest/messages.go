package wsguardtest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

// Messages checks that v judges a corpus of messages as it should. v may be a
// *[wsguard.Schema], a *[wsguard.Table] or any other Validator. Each message that v judges
// otherwise is an error of the test. The error names the file, the type of the message, and the
// reason, the pointer and the keyword of its refusal.
//
// Every file below valid/ is a message that must pass, and every file below invalid/ one that
// must be refused, whatever its extension. A file NAME.reason next to invalid/NAME.json says
// for which reason. It has a token, either of the [wsguard.MessageError] or of package reason.
// If the place matters, a space and the JSON pointer follow. Without that file, the message may
// be refused for any reason.
//
//	valid/say.json          {"type":"say","text":"hello"}
//	invalid/say/long.json   {"type":"say","text":"hello, hello, hello"}
//	invalid/say/long.reason schema /text
//
// A corpus may be a directory, an embed.FS, or a [testing/fstest.MapFS] that is written in Go.
//
// The test also fails if the corpus has no valid or no invalid message, if it has no valid
// message of a type of a Table, or if v panics or changes a message. Messages skips files and
// directories whose names begin with a dot. Any other name next to valid and invalid is an
// error.
//
// Messages checks neither the Scope of a Rule nor the limits of a MessageConfig, because a
// Validator does not judge them.
func Messages(t testing.TB, v wsguard.Validator, corpus fs.FS) {
	t.Helper()
	if v == nil {
		t.Errorf("wsguardtest: no Validator")
		return
	}
	c := &checker{t: t, v: v, fsys: corpus, shown: map[string]bool{}}
	c.table, _ = v.(*wsguard.Table)
	c.top()
	for _, dir := range []string{valid, invalid} {
		if c.messages(dir) == 0 {
			t.Errorf("%s: no message: the corpus shows nothing", dir)
		}
	}
	if c.table == nil {
		return
	}
	for _, kind := range slices.Sorted(maps.Keys(c.table.Types)) {
		if !c.shown[kind] {
			t.Errorf("%s: no message of type %q", valid, kind)
		}
	}
}

const (
	valid     = "valid"
	invalid   = "invalid"
	whySuffix = ".reason"
)

// checker checks one corpus. The goroutine of the test owns it.
type checker struct {
	t     testing.TB
	v     wsguard.Validator
	table *wsguard.Table // v, if it is a Table; nil: it is not
	fsys  fs.FS
	shown map[string]bool // the types that a valid message has
}

// top finds files and directories that no test would look at, such as a directory whose name
// is misspelt.
func (c *checker) top() {
	c.t.Helper()
	entries, err := fs.ReadDir(c.fsys, ".")
	if err != nil {
		c.t.Errorf("wsguardtest: %v", err)
	}
	for _, e := range entries {
		if !hidden(e.Name()) && e.Name() != valid && e.Name() != invalid {
			c.t.Errorf("%s: neither %s nor %s", e.Name(), valid, invalid)
		}
	}
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// messages checks the messages below dir, and returns how many there are.
func (c *checker) messages(dir string) (n int) {
	c.t.Helper()
	reasons := map[string]string{} // by the file's name without its extension
	var files []string
	err := fs.WalkDir(c.fsys, dir, func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case hidden(e.Name()) && e.IsDir():
			return fs.SkipDir
		case hidden(e.Name()), e.IsDir():
		case dir == invalid && path.Ext(name) == whySuffix:
			b, err := fs.ReadFile(c.fsys, name)
			if err != nil {
				return err
			}
			if reasons[stem(name)] = strings.TrimSpace(string(b)); reasons[stem(name)] == "" {
				c.t.Errorf("%s: says nothing", name)
			}
		default:
			files = append(files, name)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.t.Errorf("wsguardtest: %v", err)
	}
	used := map[string]bool{}
	for _, name := range files {
		msg, err := fs.ReadFile(c.fsys, name)
		if err != nil {
			c.t.Errorf("wsguardtest: %v", err)
			continue
		}
		if dir == valid {
			c.valid(name, msg)
		} else {
			used[stem(name)] = true
			c.invalid(name, msg, reasons[stem(name)])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		if !used[name] {
			c.t.Errorf("%s%s: no message of that name", name, whySuffix)
		}
	}
	return len(files)
}

func stem(name string) string { return strings.TrimSuffix(name, path.Ext(name)) }

func (c *checker) valid(name string, msg []byte) {
	c.t.Helper()
	kind := c.kind(msg)
	c.shown[kind] = true
	if err := c.judge(msg); err != nil {
		c.t.Errorf("%s: refused: %s", name, describe(kind, err))
	}
}

func (c *checker) invalid(name string, msg []byte, want string) {
	c.t.Helper()
	kind := c.kind(msg)
	err := c.judge(msg)
	switch {
	case err == nil:
		c.t.Errorf("%s: passes%s, want %s", name, ofType(kind), cmp.Or(want, "a refusal"))
	case errors.Is(err, reason.Internal):
		c.t.Errorf("%s: not judged: %s", name, describe(kind, err))
	case want != "" && !fits(err, want):
		c.t.Errorf("%s: refused, but not for %s: %s", name, want, describe(kind, err))
	}
}

// kind returns the type that the Table finds in a message, or "". It calls the Validate method
// of a Table for one type at a time, so that the type is the one that a Guard would find.
func (c *checker) kind(msg []byte) string {
	if c.table == nil {
		return ""
	}
	for kind := range c.table.Types {
		one := wsguard.Table{Pointer: c.table.Pointer, Types: map[string]wsguard.Rule{kind: {}}}
		if one.Validate(msg) == nil {
			return kind
		}
	}
	return ""
}

// judge calls v.Validate as a Guard does. It also notices if v changes the message, which a
// Guard cannot notice. The application would then get other bytes than the peer has sent.
func (c *checker) judge(msg []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the Validator panics: %v", reason.Internal, p)
		}
	}()
	b := bytes.Clone(msg)
	err = c.v.Validate(b)
	if !bytes.Equal(b, msg) {
		return fmt.Errorf("%w: the Validator changes the message", reason.Internal)
	}
	return err
}

// tokens returns the names of a refusal. The most exact name comes first, and the token of the
// close frame last.
func tokens(err error) []string {
	var names []string
	var m *wsguard.MessageError
	if errors.As(err, &m) {
		names = append(names, m.Reason)
	}
	var r *reason.Reason
	if !errors.As(err, &r) {
		r = reason.Schema // a Guard refuses the message for this reason
	}
	return append(names, r.Token())
}

func fits(err error, want string) bool {
	token, pointer, exact := strings.Cut(want, " ")
	if !slices.Contains(tokens(err), token) {
		return false
	}
	var m *wsguard.MessageError
	return !exact || errors.As(err, &m) && m.Pointer == pointer
}

func describe(kind string, err error) string {
	s := tokens(err)[0] + ofType(kind)
	var m *wsguard.MessageError
	switch {
	case !errors.As(err, &m):
		return s + ": " + err.Error()
	case m.Detail != "":
		return s + fmt.Sprintf(", at %q, by %s, %s", m.Pointer, m.Keyword, m.Detail)
	case m.Keyword != "":
		return s + fmt.Sprintf(", at %q, by %s", m.Pointer, m.Keyword)
	case m.Offset >= 0:
		return s + fmt.Sprintf(", at byte %d", m.Offset)
	}
	return s
}

func ofType(kind string) string {
	if kind == "" {
		return ""
	}
	return fmt.Sprintf(", type %q", kind)
}

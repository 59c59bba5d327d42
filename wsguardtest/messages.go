// Package wsguardtest has helpers for the tests of those who use wsguard.
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

// Messages checks a corpus of messages against what is to judge them: a
// *[wsguard.Schema], a *[wsguard.Table] or any other Validator. What is wrong
// fails the test, each with the file, the message's type, and the reason, the
// pointer and the keyword of its refusal.
//
//	func TestMessages(t *testing.T) {
//		wsguardtest.Messages(t, table, os.DirFS("testdata/messages"))
//	}
//
// Every file below valid/ is a message that must pass, and every file below
// invalid/ one that must be refused, whatever its extension. A file NAME.reason
// next to invalid/NAME.json says why: a token, of the [wsguard.MessageError] or
// of package reason, and, if it matters, a space and the pointer.
//
//	valid/say.json          {"type":"say","text":"hello"}
//	invalid/say/long.json   {"type":"say","text":"hello, hello, hello"}
//	invalid/say/long.reason schema /text
//
// Without that file, any reason will do. A corpus written in Go is a
// [testing/fstest.MapFS].
//
// A corpus that shows nothing fails as well: one without valid or without invalid
// messages, and one without a valid message of each of a Table's types. So does
// a Validator that panics or changes a message. Names that begin with a dot are
// skipped; any others beside valid and invalid are mistakes.
//
// A Rule's Scope and the limits of a MessageConfig are not the Validator's.
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

type checker struct {
	t     testing.TB
	v     wsguard.Validator
	table *wsguard.Table // v, if it is one
	fsys  fs.FS
	shown map[string]bool // types with a valid message
}

// top finds what nobody would look at: a misspelt directory, a message beside
// the two.
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

// messages checks those below dir, and returns how many there are.
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

// kind is the type that a Table finds in a message. It is asked of the Table's
// own Validate, one type at a time, so that it is what a Guard would find.
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

// judge is v.Validate as a Guard calls it, and notices what a Guard cannot: that
// the application would get other bytes than came.
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

// tokens are the names of a refusal: the most exact first, then the one that the
// close frame has.
func tokens(err error) []string {
	var names []string
	var m *wsguard.MessageError
	if errors.As(err, &m) {
		names = append(names, m.Reason)
	}
	var r *reason.Reason
	if !errors.As(err, &r) {
		r = reason.Schema // so it counts, to a Guard
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

package wraptest_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
)

// TestAsBeforePage checks that docs/migrating.md has the Config that these tests try, and says of
// each line and of each exception what they show.
func TestAsBeforePage(t *testing.T) {
	b, err := os.ReadFile("../../docs/migrating.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	source, err := os.ReadFile("asbefore_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(source), "\nfunc asBefore() ")
	text, _, _ = strings.Cut(text, "\n}\n")
	if text == "" || !strings.Contains(page, "```go\nfunc asBefore() "+text+"\n}\n```\n") {
		t.Error("the page does not have the function asBefore")
	}

	var fields []string
	for _, cells := range rows(page, "Tighten it") {
		fields = append(fields, strings.Trim(cells[0], "`"))
		i := len(fields) - 1
		if i >= len(lines) || fields[i] != lines[i].field {
			t.Fatalf("row %d is about %s", i, fields[i])
		}
		l := lines[i]
		if l.also != "" && !slices.Contains(fields, l.also) {
			t.Errorf("%s stands above %s, which must go first", l.field, l.also)
		}
		if want := "`New` returns an error"; l.try == nil && !strings.HasPrefix(cells[1], want) {
			t.Errorf("%s: the page says %q, want %q", l.field, cells[1], want)
		} else if l.try != nil && !strings.HasPrefix(cells[1], code(l.want)) {
			t.Errorf("%s: the page says %q, want %q", l.field, cells[1], l.want)
		}
		if strings.HasPrefix(cells[2], "reported") != l.observe {
			t.Errorf("%s: the page says of Observe %q, want %t", l.field, cells[2], l.observe)
		}
	}
	set := setFields("", reflect.ValueOf(asBefore()))
	slices.Sort(set)
	slices.Sort(fields)
	if !slices.Equal(fields, set) {
		t.Errorf("the page has the lines %q, and asBefore sets %q", fields, set)
	}

	exceptions := rows(page, "As permissive as before")
	for _, cells := range exceptions {
		token := quotedToken.FindStringSubmatch(cells[1])
		if token == nil || stillRefused[token[1]] != cells[0] {
			t.Errorf("the page says that %q is still refused as %s", cells[0], cells[1])
		}
	}
	if len(exceptions) != len(stillRefused) {
		t.Errorf("the page has %d exceptions, want %d", len(exceptions), len(stillRefused))
	}

	// What a client notices at once is what some line is there for, or the credential, which
	// internal/pages tries.
	noticed := 0
	for _, cells := range rows(page, "Wrap the handler") {
		m := regexp.MustCompile("^\\d+ `[a-z_]+`").FindString(cells[2])
		if m == "" || m == code("401 unauthenticated") {
			continue
		}
		noticed++
		if !slices.ContainsFunc(lines, func(l line) bool { return code(l.want) == m }) {
			t.Errorf("the page says that a client notices %s, and no line is about that", m)
		}
	}
	if noticed < 5 {
		t.Errorf("the client notices %d changes", noticed)
	}
}

var quotedToken = regexp.MustCompile("`([a-z_0-9]+)`$")

// code writes an end such as "403 origin" as pages do.
func code(end string) string {
	status, token, _ := strings.Cut(end, " ")
	return status + " `" + token + "`"
}

// rows returns the cells of the table in a section, without its header.
func rows(page, heading string) (all [][]string) {
	_, text, _ := strings.Cut(page, "\n## "+heading+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "| ") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			all = append(all, cells)
		}
	}
	return all[min(1, len(all)):]
}

// setFields returns the names of the fields of a Config that are set.
func setFields(prefix string, v reflect.Value) (names []string) {
	for i := range v.NumField() {
		f, name := v.Field(i), prefix+v.Type().Field(i).Name
		switch {
		case f.IsZero():
		case f.Kind() == reflect.Struct && f.Type() != reflect.TypeFor[wsguard.Rate]():
			names = append(names, setFields(name+".", f)...)
		default:
			names = append(names, name)
		}
	}
	return names
}

// TestAsBeforeTooBig declares a message that is longer than asBefore allows.
func TestAsBeforeTooBig(t *testing.T) {
	bubble(t, "64 MiB", func(t *testing.T) {
		c, _ := enter(t, wstest.ServePipe(t, guardOf(t, asBefore()).Wrap(defaultGorilla())), "")
		f, length := wstest.Text(""), uint64(64<<20+1)
		f.Length = &length
		if end := echoed(c, f); end != "1009 message_too_big" {
			t.Error(end)
		}
	})
}

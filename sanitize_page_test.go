package wsguard_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/sanitize"
)

// The examples in the table of docs/messages.md are what the functions do. That of NFC stands in
// the tests of contrib/wsguardtext.
func TestSanitisingPage(t *testing.T) {
	fns := map[string]sanitize.Func{
		"Trim":           sanitize.Trim,
		"RemoveControls": sanitize.RemoveControls, "RefuseControls": sanitize.RefuseControls,
		"RemoveInvisible": sanitize.RemoveInvisible, "RefuseInvisible": sanitize.RefuseInvisible,
		"String": sanitize.String(strings.ToUpper),
	}
	tableRows(t, "docs/messages.md", func(heading string, cells []string) {
		if heading != "Sanitising" || len(cells) != 4 {
			return
		}
		name := codeText.FindStringSubmatch(cells[0])[1]
		f := fns[name]
		if delete(fns, name); f == nil {
			if name != "wsguardtext.NFC" {
				t.Errorf("there is no %s", name)
			}
			return
		}
		in := codeText.FindStringSubmatch(cells[2])[1]
		out, err := sanitize.At(f, "")("", []byte(in))
		got := "refused"
		if err == nil {
			got = "`" + string(out) + "`"
		}
		if !json.Valid([]byte(in)) || !strings.HasPrefix(cells[3], got) {
			t.Errorf("%s: %s becomes %s, and the page says %s", name, in, got, cells[3])
		}
	})
	for name := range fns {
		t.Errorf("the page does not have %s", name)
	}
}

// What docs/messages.md says of the results of Sanitize: the close code without ReportOnly, and
// with it the message that the application gets. TestSanitizeIsJudged has many more.
func TestSanitisingPageResults(t *testing.T) {
	cases := map[string]string{ // the first words of a row, and the case of TestSanitizeIsJudged
		"returns an error":                                         "an error",
		"returns more than `MaxBytes`":                             "too long",
		"returns what the Validator refuses":                       "too long for the schema",
		"returns nil and no error":                                 "nil",
		"panics, or returns an error that wraps `reason.Internal`": "a panic",
	}
	tableRows(t, "docs/messages.md", func(heading string, cells []string) {
		if heading != "Sanitising" || len(cells) != 3 {
			return
		}
		tt, ok := sanitizeCases[cases[cells[0]]]
		if delete(cases, cells[0]); !ok {
			t.Errorf("no test for %q", cells[0])
			return
		}
		if code := strings.Fields(cells[1])[0]; code[0] == '1' && code != strconv.Itoa(tt.code) {
			t.Errorf("%s: the page says %s, and the test %d", cells[0], code, tt.code)
		}
		sent := strings.HasPrefix(cells[2], "the message as the client sent it")
		if sent != (tt.reported == say) || (cells[2] == "nothing") != (tt.reported == "") {
			t.Errorf("%s: the page says %s, and the test %q", cells[0], cells[2], tt.reported)
		}
	})
	for row := range cases {
		t.Errorf("the page does not have %q", row)
	}
}

package wsguardtest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/wsguardtest"
)

// recorder is a testing.TB that keeps what fails.
type recorder struct {
	testing.TB // nil: any other method panics
	failures   []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func failures(v wsguard.Validator, corpus fs.FS) []string {
	r := new(recorder)
	wsguardtest.Messages(r, v, corpus)
	return r.failures
}

// files is a corpus.
func files(nameAndText ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(nameAndText); i += 2 {
		m[nameAndText[i]] = &fstest.MapFile{Data: []byte(nameAndText[i+1])}
	}
	return m
}

func with(corpus fstest.MapFS, nameAndText ...string) fstest.MapFS {
	for name, f := range files(nameAndText...) {
		corpus[name] = f
	}
	return corpus
}

func saySchema(t testing.TB) *wsguard.Schema {
	t.Helper()
	s, err := wsguard.CompileSchema([]byte(`{"type":"object","additionalProperties":false,"required":["type","text"],
		"properties":{"type":{"const":"say"},"text":{"type":"string","maxLength":20}}}`))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func chatTable(t testing.TB) *wsguard.Table {
	return &wsguard.Table{Types: map[string]wsguard.Rule{
		"say":    {Validator: saySchema(t), Scope: "write"},
		"upload": {MaxBytes: 40},
		"word":   {Validator: validator(refuseBad)},
	}}
}

// validator is somebody's own Validator.
type validator func(msg []byte) error

func (v validator) Validate(msg []byte) error { return v(msg) }

func refuseBad(msg []byte) error {
	if strings.Contains(string(msg), "bad") {
		return errors.New("a bad word")
	}
	return nil
}

// good is a corpus with nothing to say against it.
func good() fstest.MapFS {
	return files(
		"valid/say.json", `{"type":"say","text":"hello"}`+"\n",
		"valid/deeper/upload.json", `{"type":"upload","data":"x"}`,
		"valid/word.json", `{"text":"good","type":"word"}`,
		"valid/.gitkeep", ``,
		".DS_Store", `x`,
		"invalid/say/number.json", `{"type":"say","text":7}`,
		"invalid/say/number.reason", "schema /text\n",
		"invalid/say/root.json", `{"type":"say"}`,
		"invalid/say/root.reason", "schema",
		"invalid/twice.json", `{"type":"upload","type":"say"}`,
		"invalid/twice.reason", "duplicate_key",
		"invalid/broken.txt", `{"type":`,
		"invalid/broken.reason", "invalid_json",
		"invalid/other.json", `{"type":"other"}`,
		"invalid/other.reason", "unknown_type",
		"invalid/big.json", `{"type":"upload","data":"`+strings.Repeat("x", 40)+`"}`,
		"invalid/big.reason", "message_too_big",
		"invalid/word.json", `{"type":"word","text":"bad"}`,
		"invalid/word.reason", "schema",
		"invalid/any.json", `[]`,
		"invalid/.cache/x.json", `{"type":"upload"}`,
	)
}

func TestMessagesPass(t *testing.T) {
	wsguardtest.Messages(t, chatTable(t), good())
	wsguardtest.Messages(t, saySchema(t), files("valid/a.json", `{"type":"say","text":"hello"}`, "invalid/a.json", `{}`))
	wsguardtest.Messages(t, validator(refuseBad), files("valid/a.bin", "\x00\xff", "invalid/a.bin", "bad", "invalid/a.reason", "schema"))
}

func TestMessagesFail(t *testing.T) {
	for _, tt := range []struct {
		name   string
		corpus fstest.MapFS
		want   []string // each in the failure of its place
	}{
		{"valid by schema", with(good(), "valid/long.json", `{"type":"say","text":"this is longer than it may be"}`),
			[]string{`valid/long.json: refused: schema, type "say", at "/text", by #/properties/text/maxLength`}},
		{"valid by syntax", with(good(), "valid/twice.json", `{"type":"upload","a":1,"a":2}`),
			[]string{`valid/twice.json: refused: duplicate_key, at byte 23`}},
		{"valid by size", with(good(), "valid/big.json", `{"type":"upload","data":"`+strings.Repeat("x", 40)+`"}`),
			[]string{`valid/big.json: refused: message_too_big, type "upload": wsguard: message too big`}},
		{"valid by type", with(good(), "valid/x.json", `{"type":"x"}`),
			[]string{`valid/x.json: refused: unknown_type: wsguard: message of an unknown type`}},
		{"valid by own", with(good(), "valid/x.json", `{"type":"word","x":"bad"}`),
			[]string{`valid/x.json: refused: schema, type "word": a bad word`}},
		{"invalid passes", with(good(), "invalid/fine.json", `{"type":"say","text":"hello"}`, "invalid/fine.reason", "schema /text"),
			[]string{`invalid/fine.json: passes, type "say", want schema /text`}},
		{"invalid passes any", with(good(), "invalid/fine.json", `{"type":"upload"}`),
			[]string{`invalid/fine.json: passes, type "upload", want a refusal`}},
		{"another reason", with(good(), "invalid/any.reason", "duplicate_key"),
			[]string{`invalid/any.json: refused, but not for duplicate_key: unknown_type: wsguard: message of an unknown type`}},
		{"another pointer", with(good(), "invalid/say/number.reason", "schema /type"),
			[]string{`invalid/say/number.json: refused, but not for schema /type: schema, type "say", at "/text", by #/properties/text/type`}},
		{"a pointer that none has", with(good(), "invalid/other.reason", "unknown_type /type"),
			[]string{`invalid/other.json: refused, but not for unknown_type /type: `}},
		{"reason of nothing", with(good(), "invalid/none.reason", "schema"), []string{`invalid/none.reason: no message of that name`}},
		{"reason that is empty", with(good(), "invalid/any.reason", " \n"), []string{`invalid/any.reason: says nothing`}},
		{"reason in valid", with(good(), "valid/say.reason", "schema"), []string{`valid/say.reason: refused: syntax, at byte 0`}},
		{"misspelt", with(good(), "vaild/say.json", `{}`), []string{`vaild: neither valid nor invalid`}},
		{"beside", with(good(), "say.json", `{}`), []string{`say.json: neither valid nor invalid`}},
		{"empty", fstest.MapFS{}, []string{`valid: no message: `, `invalid: no message: `,
			`valid: no message of type "say"`, `valid: no message of type "upload"`, `valid: no message of type "word"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := failures(chatTable(t), tt.corpus)
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("failures:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// A type that no valid message is of has perhaps never let one pass.
func TestMessagesCoverage(t *testing.T) {
	corpus := good()
	delete(corpus, "valid/word.json")
	if got := failures(chatTable(t), corpus); !slices.Equal(got, []string{`valid: no message of type "word"`}) {
		t.Error(got)
	}
	table := &wsguard.Table{Pointer: "/a~1b/0", Types: map[string]wsguard.Rule{"x": {}, "y": {}}}
	corpus = files("valid/x.json", `{"a/b":["x"]}`, "invalid/z.json", `{"a/b":["z"]}`)
	if got := failures(table, corpus); !slices.Equal(got, []string{`valid: no message of type "y"`}) {
		t.Error(got)
	}
}

func TestMessagesEmpty(t *testing.T) {
	if got := failures(saySchema(t), files("valid/a.json", `{"type":"say","text":"hello"}`)); len(got) != 1 || !strings.HasPrefix(got[0], "invalid: no message") {
		t.Error(got)
	}
	if got := failures(saySchema(t), files("invalid/a.json", `{}`)); len(got) != 1 || !strings.HasPrefix(got[0], "valid: no message") {
		t.Error(got)
	}
}

// What a Guard would call an internal error is no refusal, in either directory.
func TestMessagesBroken(t *testing.T) {
	corpus := files("valid/a", "x", "invalid/b", "y")
	for name, tt := range map[string]struct {
		v    wsguard.Validator
		want string
	}{
		"panic":        {validator(func([]byte) error { panic("oops") }), "the Validator panics: oops"},
		"nil Schema":   {(*wsguard.Schema)(nil), "the Validator panics: "},
		"nil Table":    {(*wsguard.Table)(nil), "the Validator panics: "},
		"changes":      {validator(func(msg []byte) error { msg[0] = '_'; return nil }), "the Validator changes the message"},
		"own internal": {validator(func([]byte) error { return reason.Internal }), "wsguard: internal error"},
		"wrong Table":  {&wsguard.Table{Types: map[string]wsguard.Rule{"x": {Cost: -1}}}, "must not be negative"},
	} {
		t.Run(name, func(t *testing.T) {
			got := failures(tt.v, corpus)
			if len(got) < 2 || !strings.HasPrefix(got[0], "valid/a: refused: internal_error") || !strings.HasPrefix(got[1], "invalid/b: not judged: internal_error") ||
				!strings.Contains(got[0], tt.want) || !strings.Contains(got[1], tt.want) {
				t.Error(got)
			}
		})
	}
	if got := failures(nil, corpus); len(got) != 1 {
		t.Errorf("no Validator: %q", got)
	}
}

// unreadable fails where a file is opened.
type unreadable struct{ fstest.MapFS }

func (u unreadable) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, ".json") {
		return nil, fs.ErrPermission
	}
	return u.MapFS.Open(name)
}

func (u unreadable) ReadFile(name string) ([]byte, error) {
	if strings.HasSuffix(name, ".json") {
		return nil, fs.ErrPermission
	}
	return u.MapFS.ReadFile(name)
}

func TestMessagesUnreadable(t *testing.T) {
	got := failures(saySchema(t), unreadable{files("valid/a.json", `{}`, "invalid/b.json", `{}`)})
	if len(got) != 2 || !strings.Contains(got[0], "permission") || !strings.Contains(got[1], "permission") {
		t.Error(got)
	}
}

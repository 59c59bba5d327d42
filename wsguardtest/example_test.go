package wsguardtest_test

import (
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/wsguardtest"
)

// In a test, t is the test's own, and the corpus is os.DirFS("testdata/messages")
// or an embed.FS.
func ExampleMessages() {
	say, err := wsguard.CompileSchema([]byte(`{
		"type": "object", "required": ["text"], "additionalProperties": false,
		"properties": {"type": true, "text": {"type": "string", "maxLength": 20}}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	table := &wsguard.Table{Types: map[string]wsguard.Rule{
		"say":   {Validator: say},
		"leave": {},
	}}

	wsguardtest.Messages(t, table, fstest.MapFS{
		"valid/say.json":       {Data: []byte(`{"type":"say","text":"hello"}`)},
		"valid/long.json":      {Data: []byte(`{"type":"say","text":"longer than the schema wants it"}`)},
		"invalid/extra.json":   {Data: []byte(`{"type":"say","text":"hello","admin":true}`)},
		"invalid/extra.reason": {Data: []byte("schema")},
		"invalid/leave.json":   {Data: []byte(`{"type":"leave","admin":true}`)},
	})

	// Output:
	// valid/long.json: refused: schema, type "say", at "/text", by #/properties/text/maxLength
	// invalid/leave.json: passes, type "leave", want a refusal
	// valid: no message of type "leave"
}

// t prints what fails.
var t testing.TB = printer{}

type printer struct{ testing.TB }

func (printer) Helper()                           {}
func (printer) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

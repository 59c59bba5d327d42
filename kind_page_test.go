package wsguard_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/jsonrpc"
)

// The tables of docs/messages.md about types and notices say what a Table and a notice do.
func TestMessagesPageKinds(t *testing.T) {
	rule := map[string]wsguard.Rule{"say": {}, "2": {}, "ping": {}}
	tables := map[string]*wsguard.Table{
		"a member":                          {Pointer: "/kind", Types: rule},
		"an item of an array":               {Pointer: "/0", Types: rule},
		"an integer":                        {Pointer: "/op", Numbers: true, Types: map[string]wsguard.Rule{"2": {}}},
		"the method of a JSON-RPC 2.0 call": {JSONRPC: true, Types: rule},
	}
	kinds := map[string]string{ // the rows of the second table, and what TestConnKind sees for them
		"whose type is in `Types`": "the type", "whose type begins with a key of `Prefixes`": "the key, such as `room:`",
		"of any other type": "`*`", "without a type": "empty", "whose type is unclear": "",
	}
	tableRows(t, "docs/messages.md", func(heading string, cells []string) {
		if table := tables[cells[0]]; table != nil {
			delete(tables, cells[0])
			if err := table.Validate([]byte(strings.Trim(cells[2], "`"))); err != nil {
				t.Errorf("%s: %v", cells[2], err)
			}
		}
		if kind, ok := kinds[cells[0]]; ok {
			delete(kinds, cells[0])
			if cells[2] != kind {
				t.Errorf("%s: %q, want %q", cells[0], cells[2], kind)
			}
		}
		if cells[0] == "JSON-RPC 2.0" {
			for _, code := range []int{jsonrpc.ParseError, jsonrpc.InvalidRequest, jsonrpc.MethodNotFound, jsonrpc.InvalidParams, jsonrpc.Forbidden, jsonrpc.RateLimited} {
				if !strings.Contains(cells[2], fmt.Sprint(code)) {
					t.Errorf("the page lacks %d", code)
				}
			}
		}
	})
	if len(tables)+len(kinds) > 0 {
		t.Errorf("the page lacks %v and %v", tables, kinds)
	}
	b, err := os.ReadFile("docs/messages.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(b)), " ")
	least, most := wsguard.Refused{}.MaxBytes(), wsguard.Refused{Message: make([]byte, 5000)}.MaxBytes()
	for _, want := range []string{"at most 32 calls (`MaxBatch`)", fmt.Sprintf("at least %d and at most %d,%03d bytes", least, most/1000, most%1000), "1 notice per second with a burst of 20"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// The function for OCPP in docs/messages.md finds the types that the page says.
func TestMessagesPageKindFunction(t *testing.T) {
	kind := func(msg []byte) (string, bool) {
		var m []json.RawMessage
		if json.Unmarshal(msg, &m) != nil || len(m) < 3 {
			return "", false
		}
		var action string
		switch string(m[0]) {
		case "2":
			ok := json.Unmarshal(m[2], &action) == nil
			return action, ok
		case "3", "4":
			return "result", true
		}
		return "", false
	}
	for msg, want := range map[string]string{`[2,"1","BootNotification",{}]`: "BootNotification", `[3,"1",{}]`: "result", `[2,"1",{}]`: "", `{`: "", `[5,1,1]`: ""} {
		if got, ok := kind([]byte(msg)); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %t", msg, got, ok)
		}
	}
	page, err := os.ReadFile("docs/messages.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("kind_page_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(page), "\tKind: func(msg []byte) (string, bool) {\n")
	body, _, _ = strings.Cut(body, "\n\t},\n")
	if body == "" || !strings.Contains(string(source), body) {
		t.Error("the page has another function than this test")
	}
}

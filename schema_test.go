package wsguard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// Schemas refer to others by URL, wherever these come from.
func TestSchemaResources(t *testing.T) {
	root := []byte(`{"$ref":"https://example.com/schemas/point.json"}`)
	point := `{"$id":"https://example.com/schemas/point.json","type":"object","required":["x"],"properties":{"x":{"$ref":"number.json"}}}`
	number := `{"$id":"https://example.com/schemas/number.json","type":"number"}`
	for name, c := range map[string]wsguard.SchemaConfig{
		"bytes": {Resources: map[string][]byte{"https://example.com/schemas/point.json": []byte(point), "https://example.com/schemas/number.json": []byte(number)}},
		"files": {Files: fstest.MapFS{"a/point.json": {Data: []byte(point)}, "number.json": {Data: []byte(number)}, "README.md": {Data: []byte("#")}}},
		"both":  {Resources: map[string][]byte{"https://example.com/schemas/point.json": []byte(point)}, Files: fstest.MapFS{"number.json": {Data: []byte(number)}}},
	} {
		s, err := c.Compile(root)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.Validate([]byte(`{"x":1}`)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var e *wsguard.MessageError
		if err := s.Explain([]byte(`{"x":"1"}`)); !errors.As(err, &e) || e.Pointer != "/x" || !strings.HasSuffix(e.Keyword, "number.json#/type") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := wsguard.CompileSchema(root); err == nil {
		t.Error("a reference to nothing")
	}
	for name, files := range map[string]fstest.MapFS{
		"not JSON":   {"a.json": {Data: []byte(`{`)}},
		"two of one": {"a.json": {Data: []byte(`{"$id":"https://example.com/a"}`)}, "b.json": {Data: []byte(`{"$id":"https://example.com/a","type":"null"}`)}},
	} {
		if _, err := (wsguard.SchemaConfig{Files: files}).Compile([]byte(`{}`)); err == nil || !strings.Contains(err.Error(), ".json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// T68 and its like, which JSON Schema has no word for.
func TestSchemaRefusals(t *testing.T) {
	src := []byte(`{"properties":{"admin":{"const":false},"text":{"type":"string"}}}`)
	for _, tt := range []struct {
		c     wsguard.SchemaConfig
		msg   string
		token string
	}{
		{wsguard.SchemaConfig{RefusePrototypeKeys: true}, `{"a":{"__proto__":1}}`, "prototype_key"},
		{wsguard.SchemaConfig{RefusePrototypeKeys: true}, `{"a":[{"constr\u0075ctor":1}]}`, "prototype_key"},
		{wsguard.SchemaConfig{RefusePrototypeKeys: true}, `{"prototype":1}`, "prototype_key"},
		{wsguard.SchemaConfig{RefusePrototypeKeys: true}, `{"proto":"__proto__"}`, ""},
		{wsguard.SchemaConfig{RefuseCaseVariants: true}, `{"ADMIN":true}`, "case_variant"},
		{wsguard.SchemaConfig{RefuseCaseVariants: true}, `{"admi\u004e":true}`, "case_variant"},
		{wsguard.SchemaConfig{RefuseCaseVariants: true}, `{"admins":true}`, ""},
		{wsguard.SchemaConfig{RefuseControls: true}, `{"text":"a\u202eb"}`, "control_in_string"},
		{wsguard.SchemaConfig{RefuseControls: true}, "{\"text\":\"a\u202eb\"}", "control_in_string"},
		{wsguard.SchemaConfig{RefuseControls: true}, `{"text":"a\u0000b"}`, "control_in_string"},
		{wsguard.SchemaConfig{RefuseControls: true}, "{\"text\":\"a\u009bb\"}", "control_in_string"},
		{wsguard.SchemaConfig{RefuseControls: true}, `{"text":"a\tb\nc é 漢"}`, ""},
	} {
		s := must(tt.c.Compile(src))
		err := s.Validate([]byte(tt.msg))
		var e *wsguard.MessageError
		switch {
		case tt.token == "" && err != nil:
			t.Errorf("%s: %v", tt.msg, err)
		case tt.token != "" && (!errors.As(err, &e) || e.Reason != tt.token || !errors.Is(err, reason.Schema)):
			t.Errorf("%s: %v, want %s", tt.msg, err, tt.token)
		}
		if plain := must(wsguard.CompileSchema(src)); plain.Validate([]byte(tt.msg)) != nil {
			t.Errorf("%s: refused although nobody asked", tt.msg)
		}
	}
}

// A content type is an annotation, unless somebody asks for it.
func TestAssertContent(t *testing.T) {
	src := []byte(`{"$schema":"http://json-schema.org/draft-07/schema#","properties":{"a":{"contentMediaType":"application/json"},"b":{"contentEncoding":"base64"}}}`)
	msg := []byte(`{"a":"{","b":"?"}`)
	if s := must(wsguard.CompileSchema(src)); s.Validate(msg) != nil {
		t.Error(s.Validate(msg))
	}
	s := must(wsguard.SchemaConfig{AssertContent: true}.Compile(src))
	var e *wsguard.MessageError
	if err := s.Explain(msg); !errors.As(err, &e) || e.Keyword != "#/properties/a/contentMediaType" {
		t.Error(err)
	}
	if err := s.Validate([]byte(`{"a":"{}","b":"e30="}`)); err != nil {
		t.Error(err)
	}
}

// One error for each place: nothing is allocated to refuse, nor to accept.
func TestSchemaErrors(t *testing.T) {
	s := must(wsguard.CompileSchema([]byte(`{"type":"object","required":["type"],"properties":{"type":{"enum":["a","b"]},"n":{"maximum":10}}}`)))
	msgs := []string{`{"type":"a","n":3}`, `{"type":"c"}`, `{"n":11,"type":"a"}`, `{}`, `[]`, `{"type":"a"`, `{"type":"a","type":"a"}`, "\xff"}
	for _, msg := range msgs {
		b := []byte(msg)
		first := s.Validate(b)
		if second := s.Validate(b); first != second {
			t.Errorf("%s: two errors", msg)
		}
		if n := testing.AllocsPerRun(100, func() { s.Validate(b) }); n > 0 && !raceDetector() {
			t.Errorf("%s: %v allocations", msg, n)
		}
		e1, e2 := new(wsguard.MessageError), new(wsguard.MessageError)
		explained := s.Explain(b)
		if (first == nil) != (explained == nil) || first != nil && (!errors.As(first, &e1) || !errors.As(explained, &e2) || e1.Reason != e2.Reason || e1.Keyword != e2.Keyword) {
			t.Errorf("%s: %v, but %v", msg, first, explained)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				for _, msg := range msgs {
					s.Validate([]byte(msg))
				}
			}
		})
	}
	wg.Wait()
}

// The application gets the bytes that were judged, and their type.
func TestReadJSON(t *testing.T) {
	type said struct{ Type, Text string }
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) { cfg.Messages.Validator = chatTable() }))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for {
				v, err := wsguard.ReadJSON[said](ctx, c)
				if err != nil {
					return err
				}
				if err := c.Write(ctx, wsguard.MessageText, fmt.Appendf(nil, "%s %s", c.Kind(), v.Text)); err != nil {
					return err
				}
			}
		}))
		c := e.open(header())
		c.WriteFrame(wstest.Text(`{"type":"say","text":"hello"}`))
		wantMessage(t, c, "say hello")
		c.WriteFrame(wstest.Text(`{"type":"custom","text":7}`))
		wantClose(t, c, 1011, "internal_error")
		if ev := e.closed(); strings.Contains(ev.Detail, `"text"`) {
			t.Errorf("%+v", ev)
		}
	})
}

// What the application says is checked, when it asks for that.
func TestOutbound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) { cfg.Messages.Outbound = chatTable() }))
		got := make(chan error, 3)
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			got <- c.Write(ctx, wsguard.MessageText, []byte(`{"type":"say","text":7}`))
			got <- c.Send(wsguard.MessageText, []byte(`{"type":"nothing"}`))
			got <- c.Send(wsguard.MessageText, []byte(`{"type":"say","text":"fine"}`))
			<-ctx.Done()
			return nil
		}))
		c := e.open(header())
		wantMessage(t, c, `{"type":"say","text":"fine"}`)
		var ev *wsguard.MessageError
		if err := <-got; !errors.Is(err, reason.Schema) || !errors.As(err, &ev) || ev.Pointer != "/text" {
			t.Error(err)
		}
		if err := <-got; !errors.Is(err, reason.UnknownType) {
			t.Error(err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if vs := e.events.of(audit.Violation); len(vs) != 2 || !strings.HasPrefix(vs[0].Detail, "outbound: ") {
			t.Errorf("%+v", vs)
		}
		bye(c)
	})
}

// panicky is a Validator that panics.
type panicky struct{}

func (panicky) Validate(msg []byte) error {
	if strings.Contains(string(msg), "boom") {
		panic(string(msg))
	}
	return nil
}

// T70: a Validator that panics ends its own connection and no other.
func TestValidatorPanics(t *testing.T) {
	for name, v := range map[string]wsguard.Validator{
		"alone":      panicky{},
		"in a table": &wsguard.Table{Types: map[string]wsguard.Rule{"say": {Validator: panicky{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					cfg.Messages.Validator, cfg.Messages.ReportOnly = v, true
				}))
				e.serve(e.g.Handler(echo))
				c, other := e.open(header()), e.open(header())
				c.WriteFrame(wstest.Text(`{"type":"say","text":"boom"}`))
				wantClose(t, c, 1011, "internal_error")
				if ev := e.closed(); ev.Code != 1011 || !errors.Is(ev.Err, reason.Internal) {
					t.Errorf("%+v", ev)
				}
				roundTrip(t, other, `{"type":"say","text":"hello"}`)
				bye(other)
			})
		})
	}
}

// One schema judges for all connections at once, also what only the evaluator does.
func TestSchemaAtOnce(t *testing.T) {
	for _, src := range []string{
		`{"$id":"https://x/root","$ref":"https://x/node","$defs":{"node":{"$id":"https://x/node","$dynamicAnchor":"n","anyOf":[{"type":"object","properties":{"x":{"$dynamicRef":"#n"}},"required":["x"]},{"type":"integer"}]}}}`,
		`{"properties":{"x":{"enum":[{"x":1},[1]]}}}`,
		`{"properties":{"x":{"uniqueItems":true}}}`,
	} {
		s := must(wsguard.CompileSchema([]byte(src)))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 500 {
					if err := s.Validate([]byte(`{"x":{"x":1}}`)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
}

// A log has no name that the peer has made up: it may be a card number. The peer
// himself is told.
func TestNamesOfThePeerStayOutOfLogs(t *testing.T) {
	s := must(wsguard.CompileSchema([]byte(`{
		"properties": {"user": {"additionalProperties": false, "properties": {"id": {"type": "integer"}, "tags": {"items": {"type": "string"}}}}},
		"patternProperties": {"^x-": {"type": "integer"}},
		"dependentSchemas": {"dep": {"propertyNames": {"enum": ["dep", "ok"]}}},
		"unevaluatedProperties": {"$dynamicRef": "#node"}, "$defs": {"node": {"$dynamicAnchor": "node", "type": "integer"}}
	}`)))
	for msg, want := range map[string][2]string{
		`{"user":{"4111111111111111":1}}`:             {"/user/4111111111111111", "/user/*"},
		`{"user":{"id":"4111111111111111"}}`:          {"/user/id", "/user/id"},
		`{"user":{"tags":["a",1]}}`:                   {"/user/tags/1", "/user/tags/1"},
		`{"x-4111111111111111":"4111111111111111"}`:   {"/x-4111111111111111", "/*"},
		`{"dep":1,"4111111111111111":1}`:              {"/4111111111111111", "/*"},
		`{"4111111111111111":{"4111111111111111":1}}`: {"/4111111111111111", "/*"},
	} {
		var e *wsguard.MessageError
		if err := s.Explain([]byte(msg)); !errors.As(err, &e) {
			t.Errorf("%s: %v", msg, err)
		} else if text := e.Error(); e.Pointer != want[0] || !strings.Contains(text, fmt.Sprintf("at %q", want[1])) || strings.Contains(text, "4111111111111111") {
			t.Errorf("%s: %q, %s; want %q", msg, e.Pointer, text, want)
		}
	}
	e := serveGuard(t, wsguard.Config{Messages: wsguard.MessageConfig{Validator: s, OnInvalid: wsguard.ActionReply}})
	c := e.open(header())
	c.WriteFrame(wstest.Text(`{"user":{"4111111111111111":1}}`))
	wantMessage(t, c, `{"error":"invalid_message","reason":"schema","pointer":"/user/4111111111111111","keyword":"#/properties/user/additionalProperties"}`)
	bye(c)
	if vs := e.events.of(audit.Violation); len(vs) != 1 || strings.Contains(fmt.Sprintf("%+v %v", vs, vs[0].Err), "4111111111111111") || strings.Contains(e.log.String(), "4111111111111111") {
		t.Errorf("%+v\n%s", vs, e.log)
	}
}

// An error of required, oneOf or uniqueItems says which name, branches or items. So do the
// notice and the log.
func TestErrorsSayWhich(t *testing.T) {
	s := must(wsguard.CompileSchema([]byte(`{"required": ["to"], "properties": {
		"to": {"oneOf": [{"type": "integer"}, {"type": "string"}, {"minimum": 5}]}, "tags": {"uniqueItems": true}}}`)))
	e := serveGuard(t, wsguard.Config{Messages: wsguard.MessageConfig{Validator: s, OnInvalid: wsguard.ActionReply}})
	c := e.open(header())
	for _, tt := range []struct{ msg, pointer, keyword, detail string }{
		{`{"from":"hunter2"}`, "", "#/required", `name "to" is missing`},
		{`{"to":7,"hunter2":1}`, "/to", "#/properties/to/oneOf", "branches 0 and 2 accept the value"},
		{`{"to":1,"tags":["a","hunter2","hunter2"]}`, "/tags", "#/properties/tags/uniqueItems", "items 1 and 2 are equal"},
	} {
		var m *wsguard.MessageError
		if err := s.Explain([]byte(tt.msg)); !errors.As(err, &m) || m.Detail != tt.detail || !strings.HasSuffix(m.Error(), "by "+tt.keyword+", "+tt.detail) {
			t.Errorf("%s: %v", tt.msg, err)
		}
		if err := s.Validate([]byte(tt.msg)); !errors.As(err, &m) || m.Detail != "" || m.Keyword != tt.keyword {
			t.Errorf("%s: %v", tt.msg, err)
		}
		c.WriteFrame(wstest.Text(tt.msg))
		_, reply, err := c.ReadMessage()
		var n struct{ Pointer, Keyword, Detail string }
		if err := errors.Join(err, json.Unmarshal(reply, &n)); err != nil || n.Pointer != tt.pointer || n.Keyword != tt.keyword || n.Detail != tt.detail {
			t.Errorf("%s: %s, %v", tt.msg, reply, err)
		}
	}
	bye(c)
	vs := e.events.of(audit.Violation)
	if len(vs) != 3 || !strings.HasSuffix(vs[0].Detail, `, name "to" is missing`) || strings.Contains(fmt.Sprintf("%+v", vs), "hunter2") || strings.Contains(e.log.String(), "hunter2") {
		t.Errorf("%+v\n%s", vs, e.log)
	}
}

// Nor has it what encoding/json quotes of a message.
func TestReadJSONKeepsTheMessageToItself(t *testing.T) {
	e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler {
		return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			_, err := wsguard.ReadJSON[struct{ M map[int]int }](ctx, c)
			if at := new(json.UnmarshalTypeError); err != nil && !errors.As(err, &at) {
				t.Errorf("%v", err)
			}
			return err
		})
	})
	c := e.open(header())
	c.WriteFrame(wstest.Text(`{"M":{"hunter2":1}}`))
	wantClose(t, c, 1011, "internal_error")
	c.Close()
	e.events.wait(t, audit.Close, 1)
	if ev := e.events.of(audit.Close)[0]; !strings.Contains(ev.Detail, "does not fit") || strings.Contains(ev.Detail, "hunter2") {
		t.Errorf("%s", ev.Detail)
	}
}

// The table of contradictions in docs/schemas.md has what is an error, and what compiles.
func TestContradictionsPage(t *testing.T) {
	page := string(must(os.ReadFile("docs/schemas.md")))
	_, table, found := strings.Cut(page, "| error | compiles |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	code := regexp.MustCompile("`(\\{[^`]*|false)`")
	count := [2]int{}
	for line := range strings.Lines(table) {
		for column, cell := range strings.Split(strings.Trim(line, "| \n"), " | ") {
			for _, src := range code.FindAllStringSubmatch(cell, -1) {
				_, err := wsguard.CompileSchema([]byte(src[1]))
				if (err != nil) != (column == 0) {
					t.Errorf("%s: %v", src[1], err)
				}
				count[column]++
			}
		}
	}
	if !found || count[0] < 9 || count[1] < 10 {
		t.Errorf("found: %t, schemas: %v", found, count)
	}
}

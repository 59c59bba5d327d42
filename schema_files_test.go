package wsguard_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/wsguard/wsguard"
)

func mapFS(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, src := range files {
		m[name] = &fstest.MapFile{Data: []byte(src)}
	}
	return m
}

// Files refer to each other by their paths, and by the $id of those that have one.
func TestSchemaFiles(t *testing.T) {
	files := mapFS(map[string]string{
		"user.json":             `{"type":"object","properties":{"name":{"$ref":"common/name.json"},"boss":{"$ref":"#"}}}`,
		"common/name.json":      `{"$ref":"../limits/text.json#/$defs/short"}`,
		"limits/text.json":      `{"$defs":{"short":{"type":"string","maxLength":3}}}`,
		"with blank/a%20b.json": `{"type":"string","maxLength":3}`,
		"named.json":            `{"$id":"https://example.com/s/named.json","$ref":"other.json"}`,
		"other.json":            `{"$id":"https://example.com/s/other.json","type":"string","maxLength":3}`,
		"relative.json":         `{"$id":"elsewhere/r.json","$ref":"../user.json#/properties/name"}`,
		"chat/say.json":         `{"properties":{"by":{"$ref":"../user.json"},"text":{"$ref":"/common/name.json"}}}`,
		"true.json":             `true`,
		"package.json":          `{"name":"not a schema","dependencies":{"left-pad":"1.0.0"}}`,
	})
	for src, where := range map[string]string{
		`{"$ref":"user.json#/properties/name"}`:                    "limits/text.json#/$defs/short/maxLength",
		`{"$ref":"./common/../user.json#/properties/name"}`:        "limits/text.json#/$defs/short/maxLength",
		`{"$ref":"/common/name.json"}`:                             "limits/text.json#/$defs/short/maxLength",
		`{"$ref":"with%20blank/a%2520b.json"}`:                     "with%20blank/a%2520b.json#/maxLength",
		`{"$ref":"named.json"}`:                                    "https://example.com/s/other.json#/maxLength",
		`{"$ref":"https://example.com/s/named.json"}`:              "https://example.com/s/other.json#/maxLength",
		`{"$ref":"other.json"}`:                                    "https://example.com/s/other.json#/maxLength",
		`{"$ref":"relative.json"}`:                                 "limits/text.json#/$defs/short/maxLength",
		`{"$ref":"chat/say.json#/properties/text"}`:                "limits/text.json#/$defs/short/maxLength",
		`{"$id":"chat/x.json","$ref":"../common/name.json"}`:       "limits/text.json#/$defs/short/maxLength",
		`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"other.json"}}}`: "https://example.com/s/other.json#/maxLength",
	} {
		s, err := wsguard.SchemaConfig{Files: files}.Compile([]byte(src))
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		var e *wsguard.MessageError
		if err := s.Validate([]byte(`"abc"`)); err != nil {
			t.Errorf("%s: %v", src, err)
		}
		if err := s.Validate([]byte(`"abcd"`)); !errors.As(err, &e) || e.Keyword != where {
			t.Errorf("%s: %v, want %s", src, err, where)
		}
	}
	for name, want := range map[string]string{ // what refuses a name of four letters
		"user.json": `{"name":"abcd"}`, "chat/say.json": `{"by":{"boss":{"name":"abcd"}}}`, "common/name.json": `"abcd"`,
		"named.json": `"abcd"`, "relative.json": `"abcd"`,
	} {
		s, err := wsguard.SchemaConfig{Files: files}.CompileFile(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.Validate([]byte(want)); err == nil {
			t.Errorf("%s: accepts %s", name, want)
		}
		if err := s.Validate([]byte(strings.Replace(want, "abcd", "abc", 1))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No reference leads out of the files, and errors name the file and the reference.
func TestSchemaFilesRefused(t *testing.T) {
	files := func(src string) fstest.MapFS {
		return mapFS(map[string]string{"a/b/c.json": src, "x.json": `{}`, "a/x.json": `{}`, "etc/passwd": `{}`, "bad/syntax.jso": `{`})
	}
	for ref, want := range map[string]string{
		"../../../x.json":                `schema a/b/c.json#/items/$ref: "../../../x.json" leads out of the files`,
		"../../..//x.json":               "leads out of the files",
		"/../x.json":                     "leads out of the files",
		"../b/../../../x.json":           "leads out of the files",
		"none.json":                      `schema a/b/c.json#/items/$ref: leads to "a/b/none.json"`,
		"../../etc/passwd":               `leads to "etc/passwd"`,
		"file:///etc/passwd":             "not among the resources",
		"//etc/passwd":                   "not among the resources",
		`..\\..\\x.json`:                 "not",
		"%2e%2e/%2e%2e/x.json":           "not among the resources",
		"https://example.com/x.json":     "not among the resources",
		"../../x.json#/properties/a":     "where nothing is",
		"C:/x.json":                      "not among the resources",
		"../../x.json/":                  "not among the resources",
		"../../X.JSON":                   "not among the resources",
		"wsguard-schema://host/x.json":   "not among the resources",
		"../../x.json?query":             "not among the resources",
		"http://localhost/../../../x":    "not among the resources",
		"wsguard-schema:///../../y.json": "not among the resources",
	} {
		src := `{"items":{"$ref":"` + ref + `"}}`
		c := wsguard.SchemaConfig{Files: files(src)}
		if _, err := c.CompileFile("a/b/c.json"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
		if _, err := c.Compile([]byte(`{"$ref":"a/b/c.json"}`)); err == nil || !strings.Contains(err.Error(), "a/b/c.json") {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for name, c := range map[string]wsguard.SchemaConfig{"none": {}, "no such file": {Files: files(`{}`)}, "outside": {Files: files(`{}`)}} {
		if _, err := c.CompileFile("../" + name); err == nil || !strings.HasPrefix(err.Error(), "wsguard: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A typo in a file is an error of the schema that refers to it, with the name of the file.
	_, err := wsguard.SchemaConfig{Files: mapFS(map[string]string{"u.json": `{"maxLenght":1}`})}.Compile([]byte(`{"$ref":"u.json"}`))
	if err == nil || !strings.Contains(err.Error(), `schema u.json#/maxLenght: unknown keyword`) || !strings.Contains(err.Error(), `did you mean "maxLength"?`) {
		t.Error(err)
	}
	// Two schemas with one URL.
	for name, files := range map[string]map[string]string{
		"$id":  {"a.json": `{"$id":"https://x/a"}`, "b.json": `{"$id":"https://x/a","type":"null"}`},
		"path": {"a.json": `{"$id":"b.json"}`, "b.json": `{"type":"null"}`},
	} {
		if _, err := (wsguard.SchemaConfig{Files: mapFS(files)}).Compile([]byte(`{"$ref":"a.json"}`)); err == nil {
			t.Errorf("%s: two schemas with one URL", name)
		}
	}
}

// BaseURL is the URL of the schema that has none itself.
func TestSchemaBaseURL(t *testing.T) {
	user := `{"type":"string","maxLength":3}`
	for name, c := range map[string]wsguard.SchemaConfig{
		"file":      {BaseURL: "https://example.com/s/chat.json", Files: mapFS(map[string]string{"user.json": user})},
		"directory": {BaseURL: "https://example.com/s/", Files: mapFS(map[string]string{"user.json": user})},
		"resource":  {BaseURL: "https://example.com/s/chat.json", Resources: map[string][]byte{"https://example.com/s/user.json": []byte(user)}},
		"both":      {BaseURL: "https://example.com/chat.json", Files: mapFS(map[string]string{"s/user.json": user, "user.json": `{"$ref":"s/user.json"}`})},
	} {
		for _, src := range []string{`{"$ref":"user.json"}`, `{"$id":"` + strings.TrimSuffix(c.BaseURL, "chat.json") + `x.json","$ref":"user.json"}`} {
			s, err := c.Compile([]byte(src))
			if err != nil {
				t.Errorf("%s, %s: %v", name, src, err)
				continue
			}
			if s.Validate([]byte(`"abc"`)) != nil || s.Validate([]byte(`"abcd"`)) == nil {
				t.Errorf("%s: another schema", name)
			}
		}
	}
	for _, base := range []string{"chat.json", "/chat.json", "urn:example:chat", "https://example.com/#a", "https://example.com/#", "%zz", "mailto:a@b.test"} {
		if _, err := (wsguard.SchemaConfig{BaseURL: base}).Compile([]byte(`{}`)); err == nil || !strings.Contains(err.Error(), "SchemaConfig.BaseURL") {
			t.Errorf("%s: %v", base, err)
		}
	}
	_, err := wsguard.SchemaConfig{BaseURL: "https://example.com/a.json", Files: mapFS(map[string]string{"a.json": `{"type":"null"}`})}.Compile([]byte(`{}`))
	if err == nil || !strings.Contains(err.Error(), "a.json") {
		t.Errorf("two schemas with one URL: %v", err)
	}
}

// An OpenAPI document has schemas, and is none.
func TestSchemaOpenAPI(t *testing.T) {
	doc := func(version string) string {
		return fmt.Sprintf(`{"openapi":%q,"info":{"title":"chat"},"paths":{"/x":{"get":{"tags":["a"]}}},"components":{"parameters":{},"schemas":{
			"Count":{"type":"integer","format":"int32","minimum":0,"example":7},"Say":{"properties":{"n":{"$ref":"#/components/schemas/Count"}}}}}}`, version)
	}
	say := []byte(`{"$ref":"api.json#/components/schemas/Say"}`)
	for version, p := range map[string]wsguard.SchemaPresets{"3.0.3": {OpenAPI30: true}, "3.1.0": {OpenAPI31: true}} {
		c := wsguard.SchemaConfig{Presets: p, Files: mapFS(map[string]string{"api.json": doc(version)})}
		s, err := c.Compile(say)
		if err != nil {
			t.Errorf("%s: %v", version, err)
			continue
		}
		var e *wsguard.MessageError
		if err := s.Validate([]byte(`{"n":2147483647}`)); err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if err := s.Validate([]byte(`{"n":2147483648}`)); !errors.As(err, &e) || e.Keyword != "api.json#/components/schemas/Count/format" {
			t.Errorf("%s: %v", version, err)
		}
		if _, err := c.CompileFile("api.json"); err == nil || !strings.Contains(err.Error(), "no schema") {
			t.Errorf("%s: %v", version, err)
		}
		other := wsguard.SchemaConfig{Presets: wsguard.SchemaPresets{OpenAPI30: !p.OpenAPI30, OpenAPI31: p.OpenAPI30}, Files: c.Files}
		if _, err := other.Compile(say); err == nil || !strings.Contains(err.Error(), "/openapi") {
			t.Errorf("%s with the other preset: %v", version, err)
		}
	}
	typo := mapFS(map[string]string{"api.json": `{"openapi":"3.0.0","components":{"schemas":{"A":{},"B":{"minimun":1}}}}`})
	_, err := wsguard.SchemaConfig{Presets: wsguard.SchemaPresets{OpenAPI30: true}, Files: typo}.Compile([]byte(`{"$ref":"api.json#/components/schemas/A"}`))
	if err == nil || !strings.Contains(err.Error(), "api.json#/components/schemas/B/minimun") {
		t.Error(err)
	}
}

// A reference may write the name of a file with or without percent-encoding, as RFC 3986 allows both.
func TestSchemaFileNames(t *testing.T) {
	for name, refs := range map[string][]string{
		"user(1).json":      {"user(1).json", "user%281%29.json", "./user(1%29.json"},
		"it's.json":         {"it's.json", "it%27s.json"},
		"[id]!*.json":       {"[id]!*.json", "%5bid%5D%21%2a.json"},
		"a(b) c.json":       {"a(b) c.json", "a(b)%20c.json", "a%28b%29%20c.json"},
		"ü.json":            {"ü.json", "%C3%BC.json", "%c3%bc.json"},
		"user.json":         {"%75ser.json", "user%2Ejson"},
		"a%b#?.json":        {"a%25b%23%3f.json"},
		"a:b.json":          {"./a:b.json", "a%3Ab.json"},
		"sub (x)/a+&;.json": {"sub (x)/a+&;.json", "sub%20(x)/a%2B%26%3B.json"},
	} {
		for _, ref := range refs {
			for _, base := range []string{"", "https://x.test/s/", "https://x.test/s/chat.json", "https://x.test/a(b)/"} {
				c := wsguard.SchemaConfig{BaseURL: base, Files: mapFS(map[string]string{name: `{"type":"string","maxLength":3}`})}
				s, err := c.Compile([]byte(`{"$ref":"` + ref + `"}`))
				if err != nil {
					t.Errorf("%s: %s: %v", base, ref, err)
				} else if s.Validate([]byte(`"abc"`)) != nil || s.Validate([]byte(`"abcd"`)) == nil {
					t.Errorf("%s: %s: judged wrong", base, ref)
				}
			}
		}
	}
	// Files that refer to each other with one spelling or with several.
	files := mapFS(map[string]string{
		"s/a(1).json": `{"$id":"a(1).json","$ref":"#/$defs/x","$defs":{"x":{"$ref":"b(1).json"},"y":{"maxLength":3}}}`,
		"s/b(1).json": `{"$ref":"a%281).json#/$defs/y"}`,
	})
	if s, err := (wsguard.SchemaConfig{Files: files}).CompileFile("s/a(1).json"); err != nil {
		t.Error(err)
	} else if s.Validate([]byte(`"abc"`)) != nil || s.Validate([]byte(`"abcd"`)) == nil {
		t.Error("judged wrong")
	}
	// An encoded slash separates nothing.
	c := wsguard.SchemaConfig{Files: mapFS(map[string]string{"sub/a.json": `{}`})}
	if _, err := c.Compile([]byte(`{"$ref":"sub%2fa.json"}`)); err == nil {
		t.Error("an encoded slash leads into a directory")
	}
	// The dots in a BaseURL lead where those of a reference do.
	c = wsguard.SchemaConfig{BaseURL: "https://x.test/a/../b/./c.json", Files: mapFS(map[string]string{"user.json": `{}`})}
	if _, err := c.Compile([]byte(`{"allOf":[{"$ref":"user.json"},{"$ref":"https://x.test/b/user.json"}]}`)); err != nil {
		t.Error(err)
	}
}

// Files to which no reference leads need not be schemas, but each *.json file is JSON.
func TestSchemaFilesUnused(t *testing.T) {
	for src, ok := range map[string]bool{`1`: true, `{"name":"package"}`: true, `[]`: true, "{ // tsconfig\n}": false, "": false, "\ufeff{}": false} {
		c := wsguard.SchemaConfig{Files: mapFS(map[string]string{"user.json": `{}`, "other.json": src})}
		if _, err := c.Compile([]byte(`{"$ref":"user.json"}`)); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "other.json: ") {
			t.Errorf("%s: %v", src, err)
		}
		if _, err := c.Compile([]byte(`{"$ref":"other.json"}`)); err == nil || !strings.Contains(err.Error(), "other.json") {
			t.Errorf("%s: %v", src, err)
		}
	}
}

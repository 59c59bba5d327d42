package jsonschema_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

const (
	// suiteDir is the copy of the official suite that this repository carries.
	suiteDir = "../jsonsuite/testdata"
	// suiteEnv is the environment variable that names another checkout of
	// github.com/json-schema-org/JSON-Schema-Test-Suite, which is then tested instead.
	suiteEnv = "WSGUARD_JSON_SCHEMA_TEST_SUITE"
)

type suiteGroup struct {
	Description string
	Schema      json.RawMessage
	Tests       []struct {
		Description string
		Data        json.RawMessage
		Valid       bool
	}
}

// suiteFolder returns the folder of the suite. It skips the test if there is none, as in a downloaded module, which does
// not contain the nested module internal/jsonsuite.
func suiteFolder(t testing.TB) string {
	if dir := os.Getenv(suiteEnv); dir != "" {
		return dir
	}
	if _, err := os.Stat(suiteDir); err != nil {
		t.Skipf("the suite is not here; set %s to a checkout of it: %v", suiteEnv, err)
	}
	return suiteDir
}

func remotes(t testing.TB, dir, draft string) map[string][]byte {
	res := map[string][]byte{}
	root := filepath.Join(dir, "remotes")
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if first, _, _ := strings.Cut(rel, "/"); first == "draft3" || first == "v1" || draft != "" && strings.HasPrefix(first, "draft") && first != draft {
			return nil
		}
		b, err := os.ReadFile(path)
		res["http://localhost:1234/"+rel] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func suiteGroups(t testing.TB, pattern string) map[string][]suiteGroup {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests at %s (%v)", pattern, err)
	}
	all := map[string][]suiteGroup{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var groups []suiteGroup
		if err := json.Unmarshal(b, &groups); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".json")] = groups
	}
	return all
}

type suiteDraft struct {
	name, url string
	v5        *v5.Draft
	floor     int // what must agree of the main cases; the empty enum is refused and stands apart
}

var suiteDrafts = []suiteDraft{
	{"draft4", "http://json-schema.org/draft-04/schema#", v5.Draft4, 618},
	{"draft6", "http://json-schema.org/draft-06/schema#", v5.Draft6, 839},
	{"draft7", "http://json-schema.org/draft-07/schema#", v5.Draft7, 927},
	{"draft2019-09", "https://json-schema.org/draft/2019-09/schema", v5.Draft2019, 1253},
	{"draft2020-12", "https://json-schema.org/draft/2020-12/schema", v5.Draft2020, 1293},
}

// TestSuite runs the official suite to the letter, and prints what does not agree.
func TestSuite(t *testing.T) {
	dir := suiteFolder(t)
	for _, d := range suiteDrafts {
		t.Run(d.name, func(t *testing.T) {
			res := remotes(t, dir, d.name)
			main := runSuite(t, d, res, filepath.Join(dir, "tests", d.name, "*.json"))
			if main.agree < d.floor {
				t.Errorf("%d cases agree, at least %d must", main.agree, d.floor)
			}
			// Whatever is not refused agrees, and only the empty enum is refused.
			if main.agree+main.refusedCases != main.cases || main.refused > 1 {
				t.Errorf("main: %s", main)
			}
			t.Logf("%s: main %s", d.name, main)
			t.Logf("%s: optional %s", d.name, runSuite(t, d, remotes(t, dir, ""), filepath.Join(dir, "tests", d.name, "optional", "*.json")))
		})
	}
}

// TestSuiteFormats asserts each of the suite's cases for format. All of them agree.
func TestSuiteFormats(t *testing.T) {
	dir := suiteFolder(t)
	for _, d := range suiteDrafts {
		cases := 0
		groups := suiteGroups(t, filepath.Join(dir, "tests", d.name, "optional", "format", "*.json"))
		for _, file := range sorted(groups) {
			for _, g := range groups[file] {
				s, err := jsonschema.Compile(g.Schema, jsonschema.Options{DefaultDialect: d.url, AllowUnknownFormats: true})
				if err != nil {
					t.Errorf("%s: %s: %s: %v", d.name, file, g.Description, err)
					continue
				}
				for _, c := range g.Tests {
					cases++
					if err := s.Validate(c.Data); (err == nil) != c.Valid {
						t.Errorf("%s: %s: %s: %s: valid %v, got %v", d.name, file, c.Description, c.Data, c.Valid, err)
					}
					if err := s.Tree(c.Data); (err == nil) != c.Valid {
						t.Errorf("%s: %s: %s: %s: valid %v, the evaluator says %v", d.name, file, c.Description, c.Data, c.Valid, err)
					}
				}
			}
		}
		if cases < 200 {
			t.Errorf("%s: %d cases", d.name, cases)
		}
	}
}

// TestSuiteStrict counts what the strict reading refuses of the suite's schemas, which like to show what is ignored.
func TestSuiteStrict(t *testing.T) {
	dir := suiteFolder(t)
	for _, d := range suiteDrafts {
		res := remotes(t, dir, d.name)
		total, refused := 0, 0
		groups := suiteGroups(t, filepath.Join(dir, "tests", d.name, "*.json"))
		for _, file := range sorted(groups) {
			for _, g := range groups[file] {
				total++
				opt := jsonschema.Options{DefaultDialect: d.url}
				if strings.Contains(string(g.Schema), "localhost:1234") {
					opt.Resources = map[string][]byte{}
					for u, b := range res {
						if _, err := jsonschema.Compile(b, jsonschema.Options{DefaultDialect: d.url}); err == nil {
							opt.Resources[u] = b
						}
					}
				}
				s, err := jsonschema.Compile(g.Schema, opt)
				if err != nil {
					refused++
					t.Logf("%s: %s: %s: %v", d.name, file, g.Description, err)
					continue
				}
				for _, c := range g.Tests {
					// Where only the format may differ, the strict reading refuses more, never less.
					if err := s.Validate(c.Data); err == nil && !c.Valid {
						t.Errorf("%s: %s: %s: %s: accepted", d.name, file, g.Description, c.Description)
					} else if err != nil && c.Valid && file != "format" {
						t.Errorf("%s: %s: %s: %s: %v", d.name, file, g.Description, c.Description, err)
					}
				}
			}
		}
		t.Logf("%s: %d of %d schemas refused by the strict reading", d.name, refused, total)
	}
}

// TestEngineAndEvaluator judges every message of a file of the suite by every schema of that file, and by those two ways.
func TestEngineAndEvaluator(t *testing.T) {
	dir := suiteFolder(t)
	n := 0
	drafts := suiteDrafts
	if raceEnabled {
		drafts = drafts[4:]
	}
	for _, d := range drafts {
		res := remotes(t, dir, d.name)
		groups := suiteGroups(t, filepath.Join(dir, "tests", d.name, "*.json"))
		for _, file := range sorted(groups) {
			var data [][]byte
			for _, g := range groups[file] {
				for _, c := range g.Tests {
					data = append(data, c.Data)
				}
			}
			for _, g := range groups[file] {
				opt := jsonschema.Options{DefaultDialect: d.url, AllowUnknownKeywords: true, AllowUnknownFormats: true, AllowMetaschemas: true}
				if strings.Contains(string(g.Schema), "localhost:1234") {
					opt.Resources = res
				}
				s, err := jsonschema.Compile(g.Schema, opt)
				if err != nil {
					continue
				}
				for _, msg := range data {
					if err := s.Validate(msg); !alike(s, msg) {
						t.Errorf("%s: %s: %s, %s: the evaluator says %v, the engine %v", d.name, file, g.Schema, msg, s.Tree(msg), err)
					}
					agrees(t, s, msg)
					n++
				}
			}
		}
	}
	t.Logf("%d judgements", n)
}

// alike reports whether the engine and the evaluator accept and refuse the same, as far as neither runs out of fuel.
func alike(s *jsonschema.Schema, msg []byte) bool {
	a, b := s.Validate(msg), s.Tree(msg)
	for _, err := range []error{a, b} {
		if e, ok := err.(*jsonschema.Error); ok && (e.Token == jsonschema.TokenFuel || e.Token == jsonschema.TokenLoop) {
			return true
		}
	}
	return (a == nil) == (b == nil)
}

type suiteResult struct{ agree, cases, refused, refusedCases, unlikeV5 int }

func (r suiteResult) String() string {
	return fmt.Sprintf("%d of %d cases agree; %d schemas refused (%d cases); %d cases where v5 says otherwise", r.agree, r.cases, r.refused, r.refusedCases, r.unlikeV5)
}

func runSuite(t *testing.T, d suiteDraft, res map[string][]byte, pattern string) (r suiteResult) {
	opt := jsonschema.Options{Resources: res, DefaultDialect: d.url, AnnotateFormat: true, AllowUnknownKeywords: true,
		AllowUnknownFormats: true, AllowMetaschemas: true, AssertContent: d.name == "draft7", Limits: jsonschema.Limits{NumberBytes: 4096}}
	groups := suiteGroups(t, pattern)
	for _, file := range sorted(groups) {
		for _, g := range groups[file] {
			s, err := jsonschema.Compile(g.Schema, opt)
			oracle := plainV5(g.Schema, res, d.v5, false)
			if err != nil {
				r.refused++
				r.refusedCases += len(g.Tests)
				r.cases += len(g.Tests)
				t.Logf("refused: %s: %s (%d cases): %v", file, g.Description, len(g.Tests), err)
				continue
			}
			for _, c := range g.Tests {
				r.cases++
				err := s.Validate(c.Data)
				agrees(t, s, c.Data)
				if tree := s.Tree(c.Data); (tree == nil) != (err == nil) {
					t.Errorf("%s: %s: %s: the evaluator says %v, the engine %v", file, g.Description, c.Description, tree, err)
				}
				if e, ok := err.(*jsonschema.Error); ok && e.Kind != jsonschema.KindSchema {
					t.Logf("differs: %s: %s: %s: %v", file, g.Description, c.Description, err)
					continue
				}
				if oracle != nil {
					if ok, judged := oracle(c.Data); judged && ok != (err == nil) {
						r.unlikeV5++
						t.Logf("v5 says otherwise (valid: %v): %s: %s: %s: %v", ok, file, g.Description, c.Description, err)
					}
				}
				if (err == nil) == c.Valid {
					r.agree++
				} else {
					t.Logf("differs: %s: %s: %s: valid %v, got %v", file, g.Description, c.Description, c.Valid, err)
				}
			}
		}
	}
	return r
}

// plainV5 is the oracle: v5 by itself, or nil where it cannot compile.
func plainV5(schema []byte, res map[string][]byte, draft *v5.Draft, assertFormat bool) func(msg []byte) (ok, judged bool) {
	c := v5.NewCompiler()
	c.Draft = draft
	c.AssertFormat = assertFormat
	c.LoadURL = func(u string) (io.ReadCloser, error) {
		b, ok := res[u]
		if !ok {
			return nil, fmt.Errorf("no %s", u)
		}
		return io.NopCloser(strings.NewReader(string(b))), nil
	}
	if err := c.AddResource("test:///root", strings.NewReader(string(schema))); err != nil {
		return nil
	}
	s, err := c.Compile("test:///root")
	if err != nil {
		return nil
	}
	return func(msg []byte) (ok, judged bool) {
		defer func() { _ = recover() }()
		dec := json.NewDecoder(strings.NewReader(string(msg)))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) != nil {
			return false, false
		}
		return s.Validate(v) == nil, true
	}
}

func sorted[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	for i := range keys {
		for j := i; j > 0 && keys[j] < keys[j-1]; j-- {
			keys[j], keys[j-1] = keys[j-1], keys[j]
		}
	}
	return keys
}

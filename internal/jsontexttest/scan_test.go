package jsontexttest

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// wide switches off the caps, which jsontext does not have, but for that on depth: jsontext has one of 10,000, too.
var wide = jsonschema.Limits{Depth: -1, Keys: -1, KeyBytes: -1, NumberBytes: -1, Exponent: -1}

// strict reports why jsontext refuses a message; its defaults refuse double names, invalid UTF-8 and lone surrogates.
func strict(msg []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(msg))
	if _, err := d.ReadValue(); err != nil {
		return err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return errors.New("trailing data")
	}
	return nil
}

func check(t *testing.T, msg []byte) {
	t.Helper()
	err := jsonschema.Scan(msg, &wide)
	want := strict(msg)
	if e, ok := err.(*jsonschema.Error); ok && (e.Token == jsonschema.TokenExponent || e.Token == jsonschema.TokenDepth) {
		return // an exponent beyond 2^30, or one level more or less
	}
	if (err == nil) != (want == nil) {
		t.Fatalf("%q: %v, jsontext says %v", msg, err, want)
	}
	// A schema that accepts everything reads the same way, whichever of its walks is taken.
	for _, s := range schemas {
		if got := s.Validate(msg); (got == nil) != (want == nil) {
			t.Fatalf("%q: the engine says %v, jsontext %v", msg, got, want)
		}
	}
}

var schemas = func() (list []*jsonschema.Schema) {
	for _, src := range []string{`{}`, `{"properties":{"a":{},"b":{"$ref":"#"},"name":{"maxLength":1000000}},"additionalProperties":{"$ref":"#"},"items":{"$ref":"#"}}`,
		`{"anyOf":[{"type":"object","minProperties":1000},{"items":{"$ref":"#"}}]}`, `{"patternProperties":{"a":{"$ref":"#"}},"uniqueItems":false}`} {
		s, err := jsonschema.Compile([]byte(src), jsonschema.Options{Limits: wide, Fuel: math.MaxInt / 4})
		if err != nil {
			panic(err)
		}
		list = append(list, s)
	}
	return list
}()

var seeds = []string{
	`null`, ` [true , false,null] `, `{"a":{"b":[1,-0.5e+10,"é\u00e9\ud83d\ude00"]},"b":{}}`, `{"a":1,"\u0061":2}`, `{"a":1,"b":2,"a":3}`, `"\ud800"`, `"\udc00\ud800"`, "\"\xff\"", "\"\xed\xa0\x80\"", "\xef\xbb\xbf{}",
	`01`, `1.`, `.1`, `1e`, `-`, `+1`, `[1,]`, `{"a":1,}`, `{"a"}`, `{1:2}`, `[1 2]`, `nul`, `truex`, `"\x"`, `"\u12"`, "\"\n\"", "\"\x00\"", `1 2`, `{} x`, `[[]`, `]`, ``, ` `, "\v1", `{"":{"":{"":1}}}`,
	`{"name":"12345678\"12345678\\","aaaaaaaa":1,"aaaaaaaaa":2,"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":3}`, `"Привет, мир и 世界 𝄞"`,
	`{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1,"7":1,"8":1,"9":1,"10":1,"11":1,"12":1,"13":1,"14":1,"15":1,"16":1,"17":1,"18":1,"19":1,"20":1,"21":1,"22":1,"23":1,"24":1,"25":1,"26":1,"27":1,"1":1}`,
}

func TestSeeds(t *testing.T) {
	for _, msg := range seeds {
		check(t, []byte(msg))
	}
}

// TestSuiteData reads the files of the official JSON Schema suite, which internal/jsonsuite carries.
func TestSuiteData(t *testing.T) {
	dir := os.Getenv("WSGUARD_JSON_SCHEMA_TEST_SUITE")
	if dir == "" {
		dir = "../jsonsuite/testdata"
	}
	files, err := filepath.Glob(filepath.Join(dir, "tests", "*", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		check(t, b)
	}
}

// TestMutations spoils valid messages a byte at a time.
func TestMutations(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	alphabet := []byte("{}[]\",:\\u0a1-+.eE \n\tntf\x00\x1f\x7f\x80\xc3\xa9\xed\xa0\xf0\x9f\xff")
	for range 30000 {
		msg := []byte(seeds[r.IntN(len(seeds))])
		for range 1 + r.IntN(3) {
			if len(msg) == 0 {
				break
			}
			i := r.IntN(len(msg))
			switch r.IntN(3) {
			case 0:
				msg[i] = alphabet[r.IntN(len(alphabet))]
			case 1:
				msg = append(msg[:i], msg[i+1:]...)
			default:
				msg = append(msg[:i], append([]byte{alphabet[r.IntN(len(alphabet))]}, msg[i:]...)...)
			}
		}
		check(t, msg)
	}
}

// TestManyNames has objects with so many names that they are no longer searched one by one.
func TestManyNames(t *testing.T) {
	for _, n := range []int{7, 8, 9, 23, 24, 25, 63, 64, 65, 127, 128, 129, 500} {
		for _, double := range []int{-1, 0, n / 2, n - 1} {
			var parts []string
			for i := range n {
				parts = append(parts, strconv.Quote("name"+strconv.Itoa(i))+`:{"name0":[{"name0":1}]}`)
			}
			if double >= 0 {
				parts = append(parts, `"\u006eame`+strconv.Itoa(double)+`":1`)
			}
			check(t, []byte("{"+strings.Join(parts, ",")+"}"))
			check(t, []byte(`[{"a":{`+strings.Join(parts, ",")+"}}]"))
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, msg := range seeds {
		f.Add([]byte(msg))
	}
	f.Fuzz(func(t *testing.T, msg []byte) { check(t, msg) })
}

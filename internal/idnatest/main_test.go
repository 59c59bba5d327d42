package main

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

const table = "../jsonschema/idna_table.go"

// current skips the test if the tables of package norm, which come with the toolchain, are of another version of Unicode
// than the table of the format.
func current(t *testing.T) []byte {
	src, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	if head, _, _ := strings.Cut(string(src), "\n"); !strings.Contains(head, "Unicode "+norm.Version+".") {
		t.Skipf("%q, and this is Unicode %s", head, norm.Version)
	}
	return src
}

func TestTable(t *testing.T) {
	src := current(t)
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	if string(src) != string(want) {
		t.Errorf("%s is not what the generator writes", table)
	}
}

// judge returns the function that judges texts by a format.
func judge(t *testing.T, format string) func(s string) bool {
	schema, err := jsonschema.Compile([]byte(`{"format":"`+format+`"}`), jsonschema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return func(s string) bool {
		msg, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(msg) == nil
	}
}

// TestCodePoints compares each code point with package idna. It allows symbols too, as UTS 46 does and RFC 5892 does not.
func TestCodePoints(t *testing.T) {
	current(t)
	ok := judge(t, "idn-hostname")
	registration := idna.New(idna.ValidateForRegistration())
	for r := rune(0x80); r <= unicode.MaxRune; r++ {
		if strings.ContainsRune("\u3002\uff0e\uff61", r) || r >= 0xD800 && r <= 0xDFFF {
			continue
		}
		got := ok("a" + string(r) + "a")
		_, err := registration.ToASCII("a" + string(r) + "a")
		letter := unicode.In(r, letterDigits...)
		switch {
		case got && err != nil:
			t.Errorf("%U is accepted: %v", r, err)
		case !got && err == nil && letter && exceptions[r] == "" && !unicode.Is(oldJamo, r) && !unicode.In(r, ignorable...) && rule(r) != context:
			t.Errorf("%U is refused", r)
		}
	}
}

// alphabet has code points whose rules meet: letters of several directions, marks that compose and are put in order, digits,
// joiners and the others that depend on their neighbours.
var alphabet = []rune("az09-l\u00b7\u00e9\u00ea\u00e7\u1eb9\u1ec7\u0301\u0302\u0323\u0327\u0338\u03b1\u0375\u05d0\u05d1\u05f3\u05f4\u0627\u0628\u064a\u0660\u0661\u06f0\u06f1\u0710\u0915\u093c\u094d\u0937\u0995\u09be\u09c7\u0a3c\u0c46\u0c56\u200c\u200d\u302a\u3041\u3099\u30a1\u30fb\u4e08\ua872\u1e94b\U0001D7CE")

func label(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(6) {
		b.WriteRune(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}

// TestLabels compares names with package idna. That allows more in two places, which the rules of RFC 5892 name.
func TestLabels(t *testing.T) {
	ok := judge(t, "idn-hostname")
	registration := idna.New(idna.ValidateForRegistration(), idna.BidiRule(), idna.VerifyDNSLength(true), idna.StrictDomainName(true))
	r := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for range 100000 {
		s := label(r)
		if r.IntN(3) == 0 {
			s += "." + label(r)
		}
		if strings.Contains(s, "--") || composed.MatchString(s) {
			continue // package idna counts bytes, or does not look
		}
		a, err := registration.ToASCII(s)
		if got := ok(s); got {
			accepted++
			if err != nil {
				t.Errorf("%+q is accepted: %v", s, err)
			} else if !ok(a) {
				t.Errorf("%+q is accepted, and %s is not", s, a)
			}
		} else if err == nil && !strings.ContainsFunc(s, func(r rune) bool { return rule(r) != valid && r != '.' }) && !strings.Contains(s, "xn--") {
			t.Errorf("%+q is refused", s)
		}
	}
	if accepted < 1500 {
		t.Errorf("%d names were accepted", accepted)
	}
}

// composed finds a mark without a combining class that has another behind it. Package norm then composes over the first, which
// UAX 15 forbids.
var composed = regexp.MustCompile(`[\x{09BE}\x{09D7}\x{0B3E}\x{0B56}\x{0B57}\x{0BBE}\x{0BD7}\x{0CC2}\x{0CD5}\x{0CD6}\x{0D3E}\x{0D57}\x{0DCF}\x{0DDF}\x{102E}\x{1B35}]\pM`)

// TestNFC: a label that package idna refuses only for its form is refused.
func TestNFC(t *testing.T) {
	current(t)
	ok := judge(t, "idn-hostname")
	r := rand.New(rand.NewPCG(3, 4))
	var letters, marks []rune
	for c := rune('a'); c < 0x2000; c++ {
		if rule(c) != valid {
			continue
		}
		if unicode.Is(unicode.M, c) {
			marks = append(marks, c)
		} else if unicode.Is(unicode.Latin, c) || unicode.Is(unicode.Greek, c) || unicode.Is(unicode.Devanagari, c) {
			letters = append(letters, c)
		}
	}
	few := []rune("\u0300\u0301\u0302\u0306\u0307\u0308\u031b\u0323\u0327\u0328\u0331\u0342\u093c\u094d\u09be\u0bd7")
	normal := 0
	for range 150000 {
		s := string(letters[r.IntN(len(letters))])
		for range 1 + r.IntN(3) {
			if r.IntN(4) > 0 {
				s += string(few[r.IntN(len(few))])
			} else {
				s += string(marks[r.IntN(len(marks))])
			}
		}
		if composed.MatchString(s) {
			continue
		}
		want := norm.NFC.IsNormalString(s)
		if want {
			normal++
		}
		if got := ok(s); got != want {
			t.Errorf("%+q: %v, package norm says %v", s, got, want)
		}
	}
	if normal < 15000 {
		t.Errorf("%d texts are normal", normal)
	}
}

// TestPunycode: A-labels that are spoilt are accepted only if they are what package idna makes of their meaning.
func TestPunycode(t *testing.T) {
	ok := judge(t, "hostname")
	r := rand.New(rand.NewPCG(5, 6))
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
	accepted := 0
	for range 100000 {
		a, err := idna.Punycode.ToASCII(label(r))
		if err != nil || !strings.HasPrefix(a, "xn--") {
			continue
		}
		b := []byte(a)
		for range r.IntN(3) {
			b[4+r.IntN(len(b)-4)] = letters[r.IntN(len(letters))]
		}
		if r.IntN(8) == 0 {
			b = append(b, letters[r.IntN(len(letters))])
		}
		if s := string(b); ok(s) {
			accepted++
			u, err := idna.Punycode.ToUnicode(s)
			if back, err2 := idna.Punycode.ToASCII(u); err != nil || err2 != nil || back != s {
				t.Errorf("%s is accepted: %+q, %s, %v, %v", s, u, back, err, err2)
			}
			if got, _ := idna.Punycode.ToASCII(strings.ToUpper(s)); !ok(got) {
				t.Errorf("%s is refused", got)
			}
		}
	}
	if accepted < 500 {
		t.Errorf("%d labels were accepted", accepted)
	}
}

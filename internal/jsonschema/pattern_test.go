package jsonschema_test

import (
	"math/rand/v2"
	"regexp"
	"testing"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

var patterns = []string{`^[a-z][a-z0-9_]{0,31}$`, `^[0-9]+(\.[0-9]+)?$`, `^@[a-z0-9._=/+-]+:[a-zA-Z0-9.:-]+$`, `^geo:`, `abc`, `a|b`, `^(a|b|ab)*c$`, `^a*a$`, `$`, `^$`, `$^`,
	``, `^`, `[^a]`, `^[^a]{2}$`, `.`, `^.{3}$`, `^.*$`, `\d{3}`, `^\S+@\S+$`, `é`, `^[à-ü]+$`, `^\p{L}+$`, `\bword\b`, `x*`, `^x{2,4}y?z+`,
	`^(?:[01]\d|2[0-3]):[0-5]\d$`, `a{0}`, `^[a-c]{1,3}[b-d]{2}$`, `^a{2}b{0,3}$`, `(a{1,3}){1,3}$`, `^\u{1F600}$`, `^-?(0|[1-9]\d*)$`, `^[\x00-\x7f]*$`, `[\u{80}-\u{10FFFF}]`, `^[^é]*é$`, `^(a|é|中|😀)*b$`, `^[^\s]+ [^\s]+$`, `^(?:\p{L}+ ?)+$`, `^(?:[а-яё]+-)*[а-яё]+$`, `x{2,3}$`, `[a-c]{3}`, `é{2}`, `^(ab)+$`, `^(ab){2}$`, `^a?b?c?$`}

// TestPatterns holds the fast ways to match against regexp.
func TestPatterns(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	letters := []rune("aaabbccdxyzk09.:-_@ \nAKéàüß\u212a\u017f😀")
	texts := []string{"", "word", "a word here", "geo:1,2", "straße", "STRASSE", "12:59", "-10", "0.5", "a\n", "\u0080", "\x7f"}
	for range 3000 {
		var text []rune
		for range r.IntN(8) {
			text = append(text, letters[r.IntN(len(letters))])
		}
		texts = append(texts, string(text))
	}
	for _, p := range patterns {
		match, how, re2, err := jsonschema.Matcher(p)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		re := regexp.MustCompile(re2)
		t.Logf("%s: %s", p, how)
		for _, text := range texts {
			if got, want := match([]byte(text)), re.MatchString(text); got != want {
				t.Errorf("%s (%s) of %q: %v, want %v", p, how, text, got, want)
			}
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, p := range patterns {
		f.Add(p, "aab", "é")
	}
	f.Fuzz(func(t *testing.T, p, a, b string) {
		if len(p) > 100 {
			return
		}
		match, how, re2, err := jsonschema.Matcher(p)
		if err != nil || re2 == "" {
			return
		}
		re := regexp.MustCompile(re2)
		for _, text := range []string{a, b, a + b} {
			text = string([]rune(text)) // what a message holds is UTF-8
			if got, want := match([]byte(text)), re.MatchString(text); got != want {
				t.Errorf("%s (%s) of %q: %v, want %v", p, how, text, got, want)
			}
		}
	})
}

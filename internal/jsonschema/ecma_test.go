package jsonschema_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

var updateECMA = flag.Bool("update-ecma", false, "write testdata/ecma.json with the verdicts of node")

// A verdict is what node says of a pattern. Mode is "u" if the pattern is valid with the flag u, "" if it is valid without
// it only, and "invalid" otherwise. Found has a 1 for each text in which the pattern is found, and a 0 for the others.
type verdict struct {
	Pattern string `json:"pattern"`
	Mode    string `json:"mode"`
	Found   string `json:"found"`
}

const nodeProgram = `
const {patterns, texts} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const compile = (p) => {
	for (const mode of ["u", ""]) {
		try { return [mode, new RegExp(p, mode)]; } catch {}
	}
	return ["invalid", null];
};
console.log(JSON.stringify(patterns.map((pattern, i) => {
	const [mode, re] = compile(pattern);
	const found = re === null ? "" : texts[i % texts.length].map((t) => (re.test(t) ? "1" : "0")).join("");
	return {pattern, mode, found};
})));`

// askNode returns the verdicts of node on the patterns. The pattern i is looked for in the texts of the list i modulo the
// number of lists.
func askNode(t *testing.T, patterns []string, texts [][]string) (verdicts []verdict) {
	program, err := exec.LookPath("node")
	if err != nil {
		t.Skipf("node is the oracle: %v", err)
	}
	in, err := json.Marshal(map[string]any{"patterns": patterns, "texts": texts})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-e", nodeProgram)
	cmd.Stdin = strings.NewReader(string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &verdicts); err != nil {
		t.Fatal(err)
	}
	return verdicts
}

// limits are the reasons for which a pattern may be refused that ECMA-262 accepts with the flag u.
var limits = []string{"RE2 has no lookaround", "RE2 has no backreferences", "neither Go nor RE2 has a table", "RE2 unrolls the repeats", "Go has no table of it"}

// compare holds the pattern of a verdict against it, and returns how many judgements it has compared.
func compare(t *testing.T, v verdict, texts []string) int {
	t.Helper()
	match, how, _, err := jsonschema.Matcher(v.Pattern)
	if err != nil {
		if !strings.Contains(err.Error(), "RE2") || !strings.Contains(err.Error(), "ECMA-262") && !strings.Contains(err.Error(), "unrolls") {
			t.Errorf("%q: an error that does not say enough: %v", v.Pattern, err)
		}
		allowed := v.Mode != "u"
		for _, reason := range limits {
			allowed = allowed || strings.Contains(err.Error(), reason)
		}
		if !allowed {
			t.Errorf("%q is a pattern of ECMA-262: %v", v.Pattern, err)
		}
		return 0
	}
	if v.Mode == "invalid" {
		if !wide(v.Pattern) && !strings.Contains(v.Pattern, `\u`) { // as above, and their ranges may be out of order
			t.Errorf("%q is no pattern of ECMA-262, and is accepted", v.Pattern)
		}
		return 0
	}
	if v.Mode == "" && (strings.Contains(v.Pattern, `\p`) || strings.Contains(v.Pattern, `\P`) || strings.Contains(v.Pattern, `\u`) || wide(v.Pattern)) {
		return 0 // without the flag u, these mean something that nobody wants
	}
	n := 0
	for i, text := range texts {
		if v.Mode == "" && wide(text) {
			continue // without the flag u, a character outside the BMP is two
		}
		if strings.Contains(v.Pattern, `\B`) && wide(text) {
			continue // node finds \B between the halves of such a character even with the flag u
		}
		if n++; match([]byte(text)) != (v.Found[i] == '1') {
			t.Errorf("%q (%s) of %q: %t, ECMA-262 says %c", v.Pattern, how, text, match([]byte(text)), v.Found[i])
		}
	}
	return n
}

func wide(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r > 0xFFFF }) >= 0 }

const goldenECMA = "testdata/ecma.json"

type golden struct {
	Texts        []string  `json:"texts"`
	Verdicts     []verdict `json:"verdicts"`
	LongVerdicts []verdict `json:"long_verdicts"` // for longTexts
}

// TestECMAGolden compares the meaning of patterns with what node said of them once.
func TestECMAGolden(t *testing.T) {
	if *updateECMA {
		g := golden{ecmaTexts, askNode(t, ecmaPatterns, [][]string{ecmaTexts}), askNode(t, longPatterns, [][]string{longTexts})}
		b, err := json.MarshalIndent(g, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.FromSlash(goldenECMA), append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.FromSlash(goldenECMA))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	n := 0
	for _, v := range g.Verdicts {
		known[v.Pattern] = true
		n += compare(t, v, g.Texts)
	}
	for _, v := range g.LongVerdicts {
		known[v.Pattern] = true
		n += compare(t, v, longTexts)
	}
	for _, p := range slices.Concat(ecmaPatterns, longPatterns) {
		if !known[p] {
			t.Errorf("%q has no verdict; run go test -run ECMAGolden -update-ecma with node", p)
		}
	}
	t.Logf("%d patterns, %d judgements", len(known), n)
}

// TestECMANode compares the meaning of patterns with that of node.
func TestECMANode(t *testing.T) {
	n := 0
	for _, v := range askNode(t, ecmaPatterns, [][]string{ecmaTexts}) {
		n += compare(t, v, ecmaTexts)
	}
	for _, v := range askNode(t, longPatterns, [][]string{longTexts}) {
		n += compare(t, v, longTexts)
	}
	rounds := 10_000
	if raceEnabled || testing.Short() {
		rounds = 1_000
	}
	g := patternGenerator{rand.New(rand.NewPCG(262, 2))}
	var patterns []string
	texts := make([][]string, 101)
	for i := range texts {
		texts[i] = []string{""}
		for range 19 {
			texts[i] = append(texts[i], g.text())
		}
	}
	for range rounds {
		patterns = append(patterns, g.pattern())
	}
	compiled := 0
	for i, v := range askNode(t, patterns, texts) {
		m := compare(t, v, texts[i%len(texts)])
		if n += m; m > 0 {
			compiled++
		}
	}
	t.Logf("%d judgements; %d of %d random patterns are translated", n, compiled, len(patterns))
	if least := 5 * rounds; n < least {
		t.Errorf("%d judgements, want %d at least", n, least)
	}
}

// TestECMASets compares sets of characters with those of node, character by character. Characters that one of the two
// versions of Unicode does not have are left out.
func TestECMASets(t *testing.T) {
	program, err := exec.LookPath("node")
	if err != nil {
		t.Skipf("node is the oracle: %v", err)
	}
	const js = `
const {sets, chars} = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(sets.map((s) => {
	const re = new RegExp("^" + s + "$", "u");
	return chars.map((c) => (re.test(String.fromCodePoint(c)) ? "1" : "0")).join("");
})));`
	var chars []rune
	for r := rune(0); r <= 0x10FFFF; r++ {
		if r < 0x3400 || r < 0x20000 && r%16 < 2 || r%1024 < 2 { // what follows is alike in large blocks
			chars = append(chars, r)
		}
	}
	sets := append([]string{`\p{Cn}`}, ecmaSets()...)
	in, err := json.Marshal(map[string]any{"sets": sets, "chars": chars})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-e", js)
	cmd.Stdin = strings.NewReader(string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var has []string
	if err := json.Unmarshal(out, &has); err != nil {
		t.Fatal(err)
	}
	unassigned := has[0]
	for i, s := range sets {
		match, _, _, err := jsonschema.Matcher("^" + s + "$")
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		wrong := 0
		for k, r := range chars {
			if unassigned[k] == '1' || unassignedInGo(r) || r >= firstSurrogate && r <= lastSurrogate {
				continue
			}
			if match([]byte(string(r))) != (has[i][k] == '1') {
				wrong++
			}
		}
		most := 0
		if strings.Contains(s, `\p`) || strings.Contains(s, `\P`) {
			most = 64 // a version of Unicode changes a few characters that the version before has
		}
		if wrong > most {
			t.Errorf("%s: %d of %d characters differ", s, wrong, len(chars))
		}
	}
	t.Logf("%d sets, %d characters", len(sets), len(chars))
}

const firstSurrogate, lastSurrogate = 0xD800, 0xDFFF

func unassignedInGo(r rune) bool { return unicode.Is(unicode.Categories["Cn"], r) }

func ecmaSets() []string {
	sets := []string{`\s`, `\S`, `\w`, `\W`, `\d`, `\D`, `.`, `[^]`, `[]`, `[^\s]`, `[\s\S]`, `[^\S\n]`, `[^\W_]`, `\u00e9`}
	for _, name := range jsonschema.ECMAProperties() {
		sets = append(sets, fmt.Sprintf(`\p{%s}`, name))
	}
	return append(sets, `\P{L}`, `[^\P{L}]`, `[\p{L}\p{N}_-]`)
}

type patternGenerator struct{ *rand.Rand }

func (g patternGenerator) pick(words ...string) string { return words[g.IntN(len(words))] }

// letters are the characters of the random texts and patterns.
var letters = []string{"a", "b", "c", "A", "z", "0", "9", "_", "-", " ", "\t", "\n", "\r", "\v", "\u0085", "\u00a0", "é", "É", "ß", "\u1680", "\u180e", "\u2003", "\u200b", "\u2028",
	"\u2029", "\u202f", "\u3000", "\ufeff", "я", "中", "😀", "🐲", "\u212a", "\u017f", "]", "[", "{", "}", "(", ")", ".", "*", "/", "\\", "^", "$", "|", "\x00", "\x08", "\x7f", "\u07ff", "\u0800", "\uffff", "\ud7ff", "\ue000"}

func (g patternGenerator) text() string {
	var b strings.Builder
	few := letters
	if g.IntN(2) == 0 {
		few = letters[:6]
	}
	for range g.IntN(7) {
		b.WriteString(few[g.IntN(len(few))])
	}
	return b.String()
}

func (g patternGenerator) pattern() string {
	p := g.alternatives(2)
	return g.pick("^", "^", "", "") + p + g.pick("$", "$", "", "")
}

func (g patternGenerator) alternatives(depth int) string {
	p := g.sequence(depth)
	for g.IntN(5) == 0 {
		p += "|" + g.sequence(depth)
	}
	return p
}

func (g patternGenerator) sequence(depth int) string {
	p := ""
	for range g.IntN(4) {
		p += g.atom(depth)
		if g.IntN(3) == 0 {
			p += g.pick("*", "+", "?", "*?", "{2}", "{0,3}", "{1,}", "{0}", "{2,3}?", "{,3}", "{a", "*+", "{3,1}", "{")
		}
	}
	return p
}

func (g patternGenerator) atom(depth int) string {
	switch g.IntN(12) {
	case 0, 1, 2:
		return g.pick("a", "b", "c", "a", "é", "я", "😀", " ", "-", "_", "/", "0")
	case 3, 4:
		return g.pick(`\s`, `\S`, `\d`, `\D`, `\w`, `\W`, ".", ".", `\p{L}`, `\P{Lu}`, `\p{Script=Greek}`, `\p{Zs}`)
	case 5:
		return g.pick(`\t`, `\n`, `\r`, `\v`, `\f`, `\0`, `\cA`, `\x61`, `\u00e9`, `\u{1F600}`, `\ud83d\ude00`, `\.`, `\*`, `\/`, `\\`, `\-`, `\_`, `\@`, `\é`, `\]`, `\}`)
	case 6:
		return g.pick(`\b`, `\B`, "^", "$")
	case 7, 8:
		return g.class()
	case 9:
		if depth > 0 {
			return g.pick("(", "(?:", "(?:", "(?<n>") + g.alternatives(depth-1) + ")"
		}
		return "a"
	case 10:
		return g.pick("a", "a", "a", "]", "}", "{", ")", "(", `\1`, `\A`, `\z`, `\Q`, `\pL`, `\p{Greek}`, `\a`, `\u12`, `\x1`, `\c1`, `\07`, "(?i)", "(?=a)", "(?<!a)", "(?P<n>a)", "[[:alpha:]]", `\k<n>`, `\C`, "+", "\\")
	}
	return g.pick("b", "c", "ab", "bc")
}

func (g patternGenerator) class() string {
	p := "[" + g.pick("", "", "^")
	for range g.IntN(4) {
		p += g.pick("a", "b-c", "a-z", "0-9", "é", "à-ü", `\s`, `\S`, `\d`, `\w`, `\W`, `\D`, `\n`, `\t`, `\b`, `\-`, "-", "^", "$", ".", `\]`, "[", `\u2028`, `\u{1F600}`, "😀-🙏", `\ud83d\ude00-\ud83d\ude4f`,
			`\ud800-\udfff`, `\p{L}`, `\P{L}`, `\w-`, `c-a`, `\d-z`, `a-\d`, `\x00-\x7f`, `\u0080-\uffff`, " ", "/", `\cA`, `\0`, `\1`, `\B`, `\z`, "_", "я", "中")
	}
	return p + "]"
}

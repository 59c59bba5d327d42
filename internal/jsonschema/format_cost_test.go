package jsonschema_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// costlyTexts are texts that are as long or as intricate as a format lets them be. Every format judges all of them.
func costlyTexts() []string {
	times := strings.Repeat
	distinct := func(first rune, n, step int) string {
		var b strings.Builder
		for i := range n {
			b.WriteRune(first + rune(i*step))
		}
		return b.String()
	}
	named := func(piece string, n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.ReplaceAll(piece, "#", fmt.Sprintf("%c%c", 'a'+i%26, 'a'+i/26%26)))
		}
		return b.String()
	}
	label := "xn--" + times("0", 59)
	return []string{
		"", "a", "1", "/", "\u00e9", "\u4e08", "\U00020000",
		times("a", 63), times("a.", 126) + "a", times("1", 252), times("a", 30000), times("é", 15000), times("\u4e08", 10000),
		// Host names.
		label, times(label+".", 3) + label, times("xn--11b2ezcs70k.", 15) + "a", times("xn--a-0ea.", 20) + "a",
		"xn--" + times("a", 59), "xn--" + times("9", 58) + "a", times("xn--4dbc5h.", 22) + "a",
		distinct(0x4e00, 35, 1), distinct(0x4e00, 59, 1), distinct(0x4e3a, 30, -1), distinct(0xe1, 40, 2), distinct(0x5d0, 27, 1),
		times("\u4e08", 50), times(times("\u4e08", 50)+".", 4) + "a", times("\u0628\u200c", 25) + "\u0628", times("\u0628\u0301\u200c\u0301", 8) + "\u0628",
		times("\u0915\u094d\u200d", 15) + "\u0937", times("l\u00b7", 25) + "l", times("\u30fb", 50) + "\u30a1", times("a\u0323\u0301", 15),
		times("\u1eb9\u0301", 20), times("\u0915\u093c", 20), distinct(0x10920, 20, 1), times("\u3042.", 60) + "a", times("\u3042\u3002", 60) + "a",
		times(distinct(0x4e00, 30, 1)+".", 5) + "a", distinct(0xe0, 45, 1),
		// Mailboxes.
		times("a", 64) + "@" + times("a.", 90) + "a", `"` + times(`\a`, 31) + `"@` + times("a.", 90) + "a", times("é", 32) + "@" + distinct(0x4e00, 30, 1) + ".test",
		"a@" + times("xn--11b2ezcs70k.", 15) + "a", "a@[IPv6:1:2:3:4:5:6:255.255.255.255]", times("a.", 31) + "a@" + times("\u4e08", 50),
		// URIs, IRIs and templates.
		"a:" + times("%20", 10000), "a://" + times("a", 30000), "a://" + times("a:", 15000), "a://" + times("%41", 5000) + "@" + times("%41", 5000), "//" + times(":", 30000) + "@a",
		"a:" + times("é", 15000), "a:?" + times("\ue000", 10000), "a://" + times("é", 15000), times("a", 30000) + ":", times("é", 15000) + ":", "a://[::1]", "a://[v1." + times("a:", 15000) + "]",
		times("{a}", 10000), "{" + times("a,", 15000) + "a}", "{" + times("%41.", 7000) + "a}", times("é{+a*,b:10}", 3000), times("{", 30000), "{" + times("a", 30000), times("\ue000", 10000),
		// Expressions.
		times("(", 900) + times(")", 900), times("(?:", 10000), named("(?<#>a)", 676), named("(?<#>a)|", 676) + "a", "(?<a>a)" + times(`\k<a>`, 990), times("(?<a>x)|", 3000),
		named("(?<é#>a)", 676), times(`\p{L}`, 6000), times(`\p{Script=Greek}`, 1800), times(`\p{Changes_When_NFKC_Casefolded}`, 900), times(`\p{`, 9000), times(`\é`, 9000), times(`\-`, 15000),
		times("[", 30000), times("[a-z]", 6000), "[" + times("a-", 15000) + "]", "[" + times("é", 15000) + "]", times(`\u0041`, 5000), times(`\ud83d\ude00`, 2500), times(`\ud83d`, 5000),
		times(`\u{41}`, 5000), `\u{` + times("0", 30000) + "}", "a{" + times("9", 15000) + "," + times("9", 14000) + "}", times("a{1,2}", 5000), times(`\1`, 15000) + "(a)", `\` + times("9", 30000),
		times("|", 30000), times("(|", 900) + times(")", 900), times("(?<a", 5000), "(?<" + times("é", 15000) + ">a)", "(?<" + times(`\u0061`, 5000) + ">a)", times("(?i-ms:", 900) + times(")", 900),
		times(`\cA`, 10000), times(`\x41`, 7000), times("a*?", 10000), times("^$", 15000), "[" + times(`\-`, 15000) + "]",
		// Numbers, dates and pointers.
		"P" + times("1", 30000) + "Y", "P" + times("1Y", 15000), "P1Y2M3DT4H5M6S", "12:00:00." + times("1", 30000) + "Z", "2024-02-29T12:00:00." + times("1", 14000) + "Z/2024-02-29T12:00:00." + times("1", 14000) + "Z",
		times("1", 30000) + "/a", times("1", 15000) + "+" + times("1", 15000), times("/~0", 10000), times("/", 30000), "0" + times("/~1", 10000), "1:2:3:4:5:6:255.255.255.255", "::", times(":", 30000), "255.255.255.255",
		"3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60", times("/:.", 333),
	}
}

// least returns the least time that f took of several runs, so that other work on the machine does not count.
func least(runs int, f func()) time.Duration {
	best := time.Hour
	for range runs {
		start := time.Now()
		f()
		best = min(best, time.Since(start))
	}
	return best
}

// TestFormatCost holds each format to 20 times the cost of json.Valid, for messages full of each text.
func TestFormatCost(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("measures time")
	}
	type worst struct {
		ratio float64
		text  string
	}
	tops := map[string][]worst{}
	for _, text := range costlyTexts() {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		n := max(1, full/(len(quoted)+1))
		msg := []byte("[" + strings.Repeat(string(quoted)+",", n-1) + string(quoted) + "]")
		plain := least(10, func() { json.Valid(msg) })
		for _, name := range jsonschema.Formats() {
			ok, _ := jsonschema.Format(name)
			s := compile(t, fmt.Sprintf(`{"items":{"format":%q}}`, name))
			took := time.Hour
			for tries := 0; tries < 10 && took > 10*plain; tries++ {
				// Judging stops at the first text that is wrong. A schema can go on, as with anyOf, and so does this.
				took = min(took, least(3, func() {
					if s.Validate(msg) != nil {
						for range n {
							ok([]byte(text))
						}
					}
				}))
			}
			ratio := float64(took) / float64(plain)
			tops[name] = append(tops[name], worst{ratio, text})
			if ratio > 20 {
				t.Errorf("%s: %.1f times json.Valid: %.100q", name, ratio, text)
			}
		}
	}
	for _, name := range jsonschema.Formats() {
		top := slices.MaxFunc(tops[name], func(a, b worst) int { return int(1000 * (a.ratio - b.ratio)) })
		t.Logf("%s: at most %.1f times json.Valid: %.60q", name, top.ratio, top.text)
	}
}

// TestFormatAllocations: no format allocates for the texts of ordinary messages.
func TestFormatAllocations(t *testing.T) {
	for name, texts := range map[string][]string{
		"date-time": {"2024-02-29T12:00:00.5Z"}, "date": {"2024-02-29"}, "time": {"12:00:00Z"}, "duration": {"P1DT2H"}, "period": {"2024-02-29T12:00:00Z/P1D"},
		"hostname": {"www.example.com", "xn--9n2bp8q.xn--9t4b11yi5a"}, "idn-hostname": {"www.example.com", "b\u00fccher.example", "\u0628\u064a\u200c\u0628\u064a"},
		"email": {"joe@example.com", `"joe bloggs"@example.com`, "joe@[IPv6:::1]"}, "idn-email": {"\u03b4\u03bf@b\u00fccher.example"},
		"ipv4": {"10.0.0.1"}, "ipv6": {"2001:db8::1"}, "ip-address": {"10.0.0.1"},
		"uri": {"https://user@example.com:443/a%20b?c=d#e"}, "uri-reference": {"../a?b"}, "uriref": {"../a?b"}, "iri": {"https://b\u00fccher.example/\u00e9?\u00e9"}, "iri-reference": {"\u00e9"},
		"uri-template": {"https://a.test/{+x}{?y,z*}"}, "uuid": {"3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60"}, "json-pointer": {"/a/b~1c"}, "relative-json-pointer": {"1/a"},
		"regex": {`^(?:[a-z]+|\d{2,4})\.[^\s]*$`, `(a)\1(?=b)`},
	} {
		ok, _ := jsonschema.Format(name)
		for _, text := range texts {
			b := []byte(text)
			if !ok(b) {
				t.Errorf("%s: %q is refused", name, text)
			}
			if n := testing.AllocsPerRun(100, func() { ok(b) }); n != 0 && !raceEnabled {
				t.Errorf("%s: %q: %v allocations", name, text, n)
			}
		}
	}
}

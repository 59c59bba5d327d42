package jsonschema_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// samePatterns mean the same in RE2 and in ECMA-262, as far as the texts of messages go.
var samePatterns = []string{`"^a"`, `"b$"`, `"^(a|b)+$"`, `"^[a-z0-9]{2,4}$"`, `"\\d"`, `"^\\w+$"`, `"[^a-c]"`, `"^.{1,3}$"`, `"^(?:ab|a)*$"`, `"(a|ab)(1|b1a)(a*)"`, `"^é+$"`, `"^$"`, `"^[^é]*$"`, `"a.?b|_"`, `"[0-9]{4}-[0-9]"`}

// An agreedFormat has texts and the characters that are put into them. v5 and this package agree on all that comes of them.
type agreedFormat struct {
	texts []string
	chars string
}

// agreed are the formats of the differential tests. Some of them get no signs, because v5 takes "+1" for a number of an
// address or of a time. ipv4 gets no zero, because v5 takes 00 for a number of an address.
var agreed = map[string]agreedFormat{
	"date":         {[]string{"2024-02-29", "2023-02-28", "1999-12-31", "0000-01-01"}, "0123456789-T"},
	"time":         {[]string{"12:30:00Z", "23:59:60Z", "01:29:60+01:30", "00:00:00.25-23:59"}, "0123456789:.Zz"},
	"date-time":    {[]string{"2024-02-29T12:30:00Z", "1998-12-31t23:59:60.5z", "2000-01-01T00:00:00+05:30"}, "0123456789:.TZ"},
	"duration":     {[]string{"P1Y2M3D", "PT4H5M6S", "P7W", "P1DT1S"}, "0123456789PYMDTHSW"},
	"ipv4":         {[]string{"192.168.0.1", "0.0.0.0", "255.255.255.255"}, "123456789."},
	"ipv6":         {[]string{"::1", "2001:db8::ff00:42:8329", "::ffff:192.0.2.1", "1:2:3:4:5:6:7:8"}, "0123456789abf:."},
	"uuid":         {[]string{"3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60", "00000000-0000-0000-0000-000000000000"}, "0123456789abcdefABG-"},
	"json-pointer": {[]string{"", "/a/0", "/a~1b/~0", "//"}, "/~01ab "},
}

var sortedFormats = sorted(agreed)

// apart has the other formats, and why the differential tests leave them out.
var apart = map[string]string{
	"email":                 "v5 takes all that mail.ParseAddress takes",
	"hostname":              "v5 takes a dot at the end, and any label that begins with xn--",
	"idn-email":             "v5 does not have it",
	"idn-hostname":          "v5 does not have it",
	"iri":                   "v5 takes all that url.Parse takes",
	"iri-reference":         "v5 takes all that url.Parse takes",
	"uri":                   "v5 takes all that url.Parse takes",
	"uri-reference":         "v5 takes all that url.Parse takes",
	"uriref":                "v5 takes all that url.Parse takes",
	"uri-template":          "v5 takes anything between braces",
	"regex":                 "v5 asks RE2, and ECMA-262 has other expressions",
	"relative-json-pointer": "v5 does not have the adjustment of an index, such as 0+1",
	"ip-address":            "it is another name of ipv4",
	"period":                "it is made of the formats above",
}

// TestEveryFormatIsCompared checks that each format is compared with v5, or has a reason why it is not.
func TestEveryFormatIsCompared(t *testing.T) {
	for _, name := range jsonschema.Formats() {
		if _, compared := agreed[name]; compared == (apart[name] != "") {
			t.Errorf("%s is compared: %t, and the reason why not is %q", name, compared, apart[name])
		}
	}
}

// formatted returns a text of a format, or one that nearly is.
func (g generator) formatted(format string) string {
	f := agreed[format]
	text := []byte(g.pick(f.texts...))
	for range g.IntN(3) {
		at, c := g.IntN(len(text)+1), f.chars[g.IntN(len(f.chars))]
		switch k := g.IntN(3); {
		case k == 0 || at == len(text):
			text = slices.Insert(text, at, c)
		case k == 1:
			text[at] = c
		default:
			text = slices.Delete(text, at, at+1)
		}
	}
	return `"` + string(text) + `"`
}

// repeated returns a short text of a few characters.
func (g generator) repeated(of string) string {
	chars := []rune(of)
	var text []rune
	for range g.IntN(6) {
		text = append(text, chars[g.IntN(len(chars))])
	}
	return `"` + string(text) + `"`
}

// TestRandomFormats compares each format with v5 on texts that have it, or nearly.
func TestRandomFormats(t *testing.T) {
	rounds := 20000
	if raceEnabled || testing.Short() {
		rounds = 2000
	}
	g := generator{rand.New(rand.NewPCG(11, 12))}
	for _, format := range sortedFormats {
		src := `{"format":"` + format + `"}`
		s, plain := compile(t, src), plainV5([]byte(src), nil, v5.Draft2020, true)
		accepted := 0
		for range rounds {
			msg := []byte(g.formatted(format))
			err := s.Validate(msg)
			if ok, _ := plain(msg); ok != (err == nil) {
				t.Fatalf("%s, %s: v5 accepts: %t, the engine says %v", src, msg, ok, err)
			}
			if err == nil {
				accepted++
			}
		}
		t.Logf("%s: %d of %d accepted", format, accepted, rounds)
	}
}

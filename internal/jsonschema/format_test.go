package jsonschema_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"
)

// excused reports whether v5 may judge text differently. It accepts much that no RFC allows. What it refuses is right for a
// few reasons, and TestFormatsByRFC has cases for them.
func excused(name, text string, accepted bool) bool {
	if accepted {
		switch name {
		case "uri", "uri-reference", "uriref", "iri", "iri-reference", "uri-template", "email", "regex":
			return true
		case "hostname":
			// v5 looks only at the first label for a hyphen at its ends.
			return strings.HasSuffix(text, ".") || strings.Contains(text, "xn--") || strings.Contains(text, ".-") || strings.Contains(text, "-.") || strings.HasSuffix(text, "-")
		}
		// v5 reads signs as parts of numbers, and takes 00 for a number without a leading zero.
		return strings.ContainsAny(text, "+-") || strings.Contains(text, "00")
	}
	switch name {
	case "uri", "uri-reference", "uriref", "iri", "iri-reference":
		// net/url allows no encoded ASCII in a host, no address of a later version of IP, and ASCII alone before an @.
		before, _, found := strings.Cut(text, "@")
		return strings.Contains(text, "%") || strings.Contains(strings.ToLower(text), "[v") || name[0] == 'i' && found && strings.ContainsFunc(before, func(r rune) bool { return r > unicode.MaxASCII })
	case "uri-template":
		return true
	case "email":
		return strings.HasPrefix(text, `"`) // net/mail allows no empty quoted string
	case "regex":
		return true // RE2 has no lookaround, no references and no empty class
	case "relative-json-pointer":
		return strings.ContainsAny(text, "+-") // the index adjustment is newer than v5
	}
	return false
}

// TestFormats holds each format against v5's, on samples that are spoilt a character at a time.
func TestFormats(t *testing.T) {
	samples := map[string][]string{
		"date-time":             {"2024-02-29T12:00:00Z", "1998-12-31T23:59:60Z", "1998-12-31T15:59:60.123-08:00", "2023-02-28t00:00:00.5+23:59", "0000-02-29T00:00:00Z", "1900-02-28T24:00:00Z"},
		"date":                  {"2024-02-29", "1900-02-29", "2000-02-29", "2023-04-31", "2023-12-31", "2023-08-31", "2023-00-10"},
		"time":                  {"12:00:00Z", "23:59:60Z", "00:29:60+00:30", "01:29:60+01:30", "12:00:00.52-07:00", "23:29:60-00:30"},
		"duration":              {"P1Y2M3DT4H5M6S", "P1W", "PT1M", "P1D", "P1Y2W", "P1Y1D", "PT", "P", "P1M1Y", "PT1H1S"},
		"period":                {"2024-02-29T12:00:00Z/P1D", "P1D/2024-02-29T12:00:00Z", "2024-02-29T12:00:00Z/2024-03-01T12:00:00Z"},
		"hostname":              {"www.example.com", "a.b.", "xn--4gbwdl.xn--wgbh1c", strings.Repeat("a", 63) + ".b", strings.Repeat("a", 64), strings.Repeat("a.", 126) + "a", "."},
		"email":                 {"joe.bloggs@example.com", "a+b_c@x.de", "\"joe bloggs\"@example.com", "joe@[127.0.0.1]", "joe@[IPv6:::1]", ".a@b", "a..b@c", strings.Repeat("a", 65) + "@b"},
		"ipv4":                  {"192.168.0.1", "0.0.0.0", "256.1.1.1", "01.2.3.4", "255.255.255.255"},
		"ipv6":                  {"::1", "::", "1:2:3:4:5:6:7:8", "::ffff:192.168.0.1", "1::8", "1:2:3:4:5:6:1.2.3.4", "12345::", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "fe80::1"},
		"uri":                   {"https://example.com/a?b=c#d", "mailto:a@b.de", "urn:x:y", "//example.com", "/a/b", "file:///a", "http://a:80/b", "http://a:8x/b", "http://[::1]:80/", "http://a b/", "1http://a", "http://%41/", "a:b:c"},
		"uri-reference":         {"/a/b?c", "a:b", "../x", "//host:80/a", "#frag", "a/b:c", "1a:b", "", "?a=b:c", "http://user@host/", "//host:x/", "a%zz"},
		"uriref":                {"/a/b?c", "//[::1]:80/a", "//[v1.a]/", "a@b"},
		"iri":                   {"https://b\u00fccher.example/\u00e9?\u00e9#\u00e9", "a:\u00e9", "http://[::1]/", "a://\u00e9@\u00e9:80/"},
		"iri-reference":         {"\u00e9", "//\u00e9/a?b#c", "\u00e9:a", "./\u00e9:a"},
		"uri-template":          {"https://a.test/{a}{b}", "{a:1}", "{a*}", "a%41b", "{a,b}", "{a.b}"},
		"regex":                 {"^(a|b)*$", "[a-z]{2,3}", "(?:a)", "a*?b+?", "[^]]"},
		"ip-address":            {"192.168.0.1"},
		"uuid":                  {"3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60", "2EB8AA08-AA98-11EA-B4AA-73B441D16380"},
		"json-pointer":          {"", "/a/b~0c~1d", "/", "a", "/~2", "/~"},
		"relative-json-pointer": {"0", "1/a", "10#", "01/a", "0#", "1", "#", "120/foo/~0"},
	}
	r := rand.New(rand.NewPCG(11, 12))
	const letters = "0123456789abcfzAPTWZ:/.-_@[]#?%~ \\\u00e9"
	alphabet := []rune(letters)
	for _, name := range sorted(samples) {
		list := samples[name]
		s := compile(t, fmt.Sprintf(`{"format":%q}`, name))
		plain := v5.Formats[name]
		n := 0
		for range 5000 {
			text := []rune(list[r.IntN(len(list))])
			for range r.IntN(3) {
				i := r.IntN(len(text) + 1)
				switch r.IntN(3) {
				case 0:
					text = append(text[:i], append([]rune{alphabet[r.IntN(len(alphabet))]}, text[i:]...)...)
				case 1:
					if i < len(text) {
						text[i] = alphabet[r.IntN(len(alphabet))]
					}
				default:
					if i < len(text) {
						text = append(text[:i], text[i+1:]...)
					}
				}
			}
			quoted, err := json.Marshal(string(text))
			if err != nil {
				t.Fatal(err)
			}
			err = s.Validate(quoted)
			if want := plain(string(text)); want != (err == nil) && !excused(name, string(text), want) {
				t.Errorf("%s: %q: %v, v5 says %v", name, string(text), err, want)
			}
			n++
		}
		t.Logf("%s: %d compared", name, n)
	}
}

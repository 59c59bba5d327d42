package jsonschema_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// grammars are formats as regular expressions, made of the productions of the RFCs. What a regular expression cannot say is
// in the function.
var grammars = func() map[string]func(string) bool {
	const (
		h16      = `[0-9A-Fa-f]{1,4}`
		octet    = `(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])`
		v4       = octet + `(?:\.` + octet + `){3}`
		ls32     = `(?:` + h16 + `:` + h16 + `|` + v4 + `)`
		v6       = `(?:(?:` + h16 + `:){6}` + ls32 + `|::(?:` + h16 + `:){5}` + ls32 + `|(?:` + h16 + `)?::(?:` + h16 + `:){4}` + ls32 + `|(?:(?:` + h16 + `:){0,1}` + h16 + `)?::(?:` + h16 + `:){3}` + ls32 + `|(?:(?:` + h16 + `:){0,2}` + h16 + `)?::(?:` + h16 + `:){2}` + ls32 + `|(?:(?:` + h16 + `:){0,3}` + h16 + `)?::` + h16 + `:` + ls32 + `|(?:(?:` + h16 + `:){0,4}` + h16 + `)?::` + ls32 + `|(?:(?:` + h16 + `:){0,5}` + h16 + `)?::` + h16 + `|(?:(?:` + h16 + `:){0,6}` + h16 + `)?::)`
		plain    = `A-Za-z0-9\-._~!$&'()*+,;=`
		planes   = `\x{10000}-\x{1FFFD}\x{20000}-\x{2FFFD}\x{30000}-\x{3FFFD}\x{40000}-\x{4FFFD}\x{50000}-\x{5FFFD}\x{60000}-\x{6FFFD}\x{70000}-\x{7FFFD}\x{80000}-\x{8FFFD}\x{90000}-\x{9FFFD}\x{A0000}-\x{AFFFD}\x{B0000}-\x{BFFFD}\x{C0000}-\x{CFFFD}\x{D0000}-\x{DFFFD}\x{E1000}-\x{EFFFD}`
		ucs      = `\x{A0}-\x{61B}\x{61D}-\x{200D}\x{2010}-\x{2029}\x{202F}-\x{2065}\x{206A}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}` + planes
		private  = `\x{E000}-\x{F8FF}\x{F0000}-\x{FFFFD}\x{100000}-\x{10FFFD}`
		encoded  = `%[0-9A-Fa-f]{2}`
		label    = `[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?`
		host     = label + `(?:\.` + label + `)*`
		atom     = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
		quoted   = `"(?:[ !#-\[\]-~]|\\[ -~])*"`
		variable = `(?:[A-Za-z0-9_]|` + encoded + `)(?:\.?(?:[A-Za-z0-9_]|` + encoded + `))*(?:\*|:[1-9][0-9]{0,3})?`
	)
	uri := func(absolute bool, ucs, private string) string {
		chars := func(more string) string { return `(?:[` + plain + ucs + more + `]|` + encoded + `)` }
		pchar := chars(`:@`)
		authority := `(?:` + chars(`:`) + `*@)?(?:\[(?:` + v6 + `|[vV][0-9A-Fa-f]+\.[` + plain + `:]+)\]|` + chars(``) + `*)(?::[0-9]*)?`
		abempty := `(?:/` + pchar + `*)*`
		rest := `(?:\?` + chars(`:@/?`+private) + `*)?(?:#` + chars(`:@/?`) + `*)?`
		u := `[A-Za-z][A-Za-z0-9+.-]*:(?://` + authority + abempty + `|/(?:` + pchar + `+` + abempty + `)?|` + pchar + `+` + abempty + `|)` + rest
		if absolute {
			return u
		}
		return u + `|(?://` + authority + abempty + `|/(?:` + pchar + `+` + abempty + `)?|` + chars(`@`) + `+` + abempty + `|)` + rest
	}
	match := func(expr string) func(string) bool {
		re := regexp.MustCompile(`^(?:` + expr + `)$`)
		return re.MatchString
	}
	hostname := match(host)
	mailbox := match(`(?:` + atom + `(?:\.` + atom + `)*|` + quoted + `)@(?:` + host + `|\[` + v4 + `\]|\[(?i:IPv6:)` + v6 + `\])`)
	return map[string]func(string) bool{
		"uri":           match(uri(true, "", "")),
		"uri-reference": match(uri(false, "", "")),
		"iri":           match(uri(true, ucs, private)),
		"iri-reference": match(uri(false, ucs, private)),
		"uri-template":  match(`(?:[!#-$&-;=?-\[\]_a-z~]|[\x{A0}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}` + planes + private + `]|` + encoded + `|\{[+#./;?&]?` + variable + `(?:,` + variable + `)*\})*`),
		"hostname":      func(s string) bool { return hostname(s) && len(s) <= 253 },
		"email": func(s string) bool {
			at := strings.LastIndexByte(s, '@')
			return mailbox(s) && at <= 64 && len(s) <= 254
		},
		"ipv6":                  match(v6),
		"ipv4":                  match(v4),
		"json-pointer":          match(`(?s:(?:/(?:[^/~]|~[01])*)*)`),
		"relative-json-pointer": match(`(?s:(?:0|[1-9][0-9]*)(?:[+-][1-9][0-9]*)?(?:#|(?:/(?:[^/~]|~[01])*)*))`),
		"duration":              match(`P(?:[0-9]+W|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))?|T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))`),
		"uuid":                  match(`[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}`),
	}
}()

// seeds are texts from which the tests of formats make others.
var seeds = []string{
	"https://joe:x@example.com:443/a/b%20c;d=e,f@g/?h=i&j[]=k#l?m", "a://[2001:db8::1.2.3.4]:80", "a://[v1.a:b]", "//a@b:1/c", "a:b:c", "./a:b", "?a#b", "", "mailto:joe@example.com",
	"http://büc.é/é?\ue000#é", "a:#\U0001F600", "https://a.test/\" onmouseover=\"x", "a://b/\r\n#\x00", "a:#b#c", "a://b@c@d",
	"https://a.test/{a}/{+b*,c:12}{#d}{.e.f}{/g}{;h}{?i,j}{&k}'", "{%41}é\ue000",
	"joe.b+c@example.com", `"a \" b"@[127.0.0.1]`, "joe@[IPv6:::1]", `""@a`, " joe@a", "joe@a.",
	"www.example.com", "a-b.c--d", "xn--11b2ezcs70k.xn--9t4b11yi5a", strings.Repeat("a", 63) + ".b", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1::8", "255.10.0.1",
	"/a~0b/~1c//", "0", "12/a", "1+2#", "0-1/a", "P1Y2M3DT4H5M6S", "PT1H2M3S", "P3W", "3f1c2b6e-9a4d-4c58-8f0e-1d2c3b4a5f60",
}

// spoil makes another text of s.
func spoil(r *rand.Rand, s string) string {
	text := []rune(s)
	alphabet := []rune("abcfvxnAPTWYMDHZ0123456789:/.-_@[]#?%~ \\\"'<>^`{}|+*,;=!$&()\r\n\t\x00\x7f\u0085\u00a0\u00e9\u0661\u0667\u061c\u200b\u200d\u200e\u202e\u2028\u2066\u3002\u4e08\ue000\ufeff\uff0e\uff20\ufffd\U0001F600\U000E0041\U000E1000\U000F0000\U0010FFFF")
	for range 1 + r.IntN(3) {
		i := r.IntN(len(text) + 1)
		switch r.IntN(4) {
		case 0:
			text = slices.Insert(text, i, alphabet[r.IntN(len(alphabet))])
		case 1:
			if i < len(text) {
				text[i] = alphabet[r.IntN(len(alphabet))]
			}
		case 2:
			if i < len(text) {
				text = slices.Delete(text, i, i+1)
			}
		default:
			if i < len(text) {
				text = slices.Insert(text, i, text[i])
			}
		}
	}
	return string(text)
}

// TestFormatGrammars holds the formats against regular expressions that were made of the grammars of the RFCs.
func TestFormatGrammars(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	accepted := map[string]int{}
	n := 60000
	if testing.Short() || raceEnabled {
		n = 6000
	}
	for range n {
		text := seeds[r.IntN(len(seeds))]
		if r.IntN(8) > 0 {
			text = spoil(r, text)
		}
		for name, grammar := range grammars {
			ok, _ := jsonschema.Format(name)
			got, want := ok([]byte(text)), grammar(text)
			if got && want {
				accepted[name]++
			}
			// A grammar knows nothing of A-labels.
			if got != want && !(want && (name == "hostname" || name == "email") && strings.Contains(strings.ToLower(text), "xn--")) {
				t.Errorf("%s: %q: %v, the grammar says %v", name, text, got, want)
			}
		}
	}
	for name := range grammars {
		if accepted[name] < n/1000 {
			t.Errorf("%s: accepted %d of %d texts", name, accepted[name], n)
		}
	}
}

// TestFormatsByRFC has cases that neither the suite nor v5 has right, or at all.
func TestFormatsByRFC(t *testing.T) {
	for _, c := range []struct {
		format    string
		ok, wrong []string
	}{
		{"uri", []string{"a:", "A+-.1:b", "https:///a", "http://:80/", "http://@a", "http://a%2fb/", "file:///etc/passwd", "data:text/plain,a%20b", "a:b?c?d/e#f?g/h", "http://[v1F.a:b]/", "http://a:/"},
			[]string{"https://a.test/\" onmouseover=\"x", "https://a.test/#a\r\nb", "https://a.test/#\x00", "https://a.test/a#b#c", "http://a@b@host/", "http://[::1", "http://::1/", "http://[::1]a/", "http://[fe80::1%25eth0]/",
				"http://[::1%eth0]/", "http://a:80:80/", "http://[v.a]/", "http://[v1]/", "http://[v1.]/", "http://a b", " http://a", "http://a ", "http://a\t", "http://a\u200b", "javascript:alert(\"x\")", "http://a/[b]", "http://a?[b]", "http://a#[b]",
				"é:a", "http://é/", "a", "", ":a", "1a:b", "http://a/%", "http://a/%4", "http://a/%4g", "http://%zz/", "http://a:8\u0660/", "http://[1.2.3.4]/"}},
		{"uri-reference", []string{"", "//", "a", "./a:b", "?", "#", "//a:80", "../..", "a/b:c", "//[::1]", "a//b"}, []string{"a b", "#a#b", "//a@b@c", "a_b:c", "a%b:c", "//[::1]b", "\u00e9", "a\\b", "a\n", "#\u202e", "//a:b"}},
		{"iri", []string{"http://\u00e9/\u4e08?\ue000#\U0001F600", "a:\u00a0", "a:\u200b", "a://\u00e9@\u00e9:1", "a:\U000E1000"},
			[]string{"\u00e9:a", "a:#\ue000", "a:\ue000", "a:\u0085", "a:\u202e", "a:\u200e", "a:\u200f", "a:\u2066", "a:\u061c", "a:\ufdd0", "a:\ufffe", "a:\ufffd", "a:\U000E0041", "a:\U0001FFFE", "a:?\U000FFFFE", "a://[\u00e9]", "a://b:\u0661", "a:\" x", "a:\r\n", "a:#b#c", "a://b@c@d/"}},
		{"iri-reference", []string{"\u00e9", "", "./\u00e9:a", "?\ue000"}, []string{"\u00e9:a", "#\ue000", "\u202e", "\u00e9 ", "\u00e9\\"}},
		{"uri-template", []string{"", "{a}", "{+a}", "{#a}", "{.a}", "{/a}", "{;a}", "{?a}", "{&a}", "{a*}", "{a:1}", "{a:9999}", "{a,b*,c:3}", "{a_1.b.%41}", "http://a{?b,c}{&d}", "'", "\u00e9", "\ue000", "[]", "{1}"},
			[]string{"{", "}", "{}", "{+}", "{a", "a}", "{{a}}", "{a b}", "{ a}", "{a }", "{a:}", "{a:0}", "{a:10000}", "{a:1*}", "{a*:1}", "{a**}", "{a-b}", "{.a.}", "{a.}", "{%4}", "{\u00e9}", "{=a}", "{!a}", "{@a}", "{|a}", "{$a}", "{a,,b}", "{,a}",
				"a\"b", "<", ">", "\\", "^", "`", "|", "%", "%4", " ", "\n", "\x00", "\u0085", "\ufffe", "{a\n}"}},
		{"email", []string{"a@b", `""@a`, `"@"@a`, `"\""@a`, `"\\"@a`, "!#$%&'*+-/=?^_`{|}~@a", "a@[1.2.3.4]", "a@[ipv6:::1]", strings.Repeat("a", 64) + "@b", "a@1.2.3.4", "a@xn--9n2bp8q"},
			[]string{"a\u200b@b", "a\u200f@b", "a\u202e@b", " a@b", "a@b ", "a @b", "a@ b", "\u0430@b", "a@\u0431", "a@b.", "a@.b", "a@b..c", "a@", "@b", "a", "", "a@b@c", "a..b@c", ".a@b", "a.@b", `"a@b`, `a"b@c`, `"a"b@c`, `"a\"@b`, "\"a\n\"@b", "\"\u00e9\"@b",
				"a@-b", "a@b-", "a@b_c", "a@[1.2.3]", "a@[::1]", "a@[IPv6:1.2.3.4]", "a@[1.2.3.4", "a@1.2.3.4]", "a@[IPv7:1]", "a@[]", "a@[1.2.3.4]b", strings.Repeat("a", 65) + "@b", "a@" + strings.Repeat("a.", 126) + "a", "Joe <a@b>", "<a@b>", "a@b (c)", "a,b@c", "a@b\n", "a\x00@b", "a\t@b", "a@xn--X", `"a"."b"@c`, "\ufeffa@b"}},
		{"idn-email", []string{"\u0434@\u0434", "a@b", "a@\u0434.\u0434", "\"\u0434 \"@a", "a@[1.2.3.4]", "\u0434.a@b", "a@xn--9n2bp8q"},
			[]string{"\u0434@\u0434.", "\u0434@a_b", "\u0434@a\u3002b", "\u0434@\u302e", " \u0434@a", "\u0434 @a", ".\u0434@a", "\u0434..a@b", "a@\u0391", "a@a\u202eb", strings.Repeat("\u0434", 33) + "@a", "\u0434@", "a@\u05d0a", "\x00@a", "\u0434\n@a"}},
		{"hostname", []string{"a", "1", "1.2.3.4", "a-b", "EXAMPLE.com", "xn--9n2bp8q", "XN--9N2BP8Q", "ab--cd.example", strings.Repeat("a.", 126) + "a"},
			[]string{"", ".", "a.", "a..b", ".a", "-a", "a-", "a.-b", "a-.b", "a_b", "a b", " a", "a ", "a\n", "a\x00", "\u00e9", "a\u200b", "a\uff0eb", "a:80", "a/b", "*.a", "xn--", "xn---", "xn--a", "xn--a-", "xn--X", "xn--0", "xn--\u00e9", "xn--99999999", "a.xn--X.b", "xn--7a", "0a.xn--4db",
				"xn--" + strings.Repeat("9", 59), strings.Repeat("a", 64), strings.Repeat("a.", 126) + "aa", "xn--xn---epa", "xn--cafe-yvc"}},
		{"idn-hostname", []string{"a", "b\u00fccher.example", "EXAMPLE.com", "ab--cd.example", "\u5b9e\u4f8b\u3002\u6d4b\u8bd5", "xn--9n2bp8q.\uc2e4\ub840", "\u05d0.a", "\u0915\u093c", "\u00e9\u093c", "\u0995\u09c7\u09a6"},
			[]string{"B\u00dccher", "B\u00fccher", "cafe\u0301", "e\u0323\u0301", "\u00e9\u0323", "a\u0301\u0327", "\u0995\u09c7\u09be", "a\u200bb", "\u00adb", "a\ufeff", "\ufb01", "\uff41", "\u2460", "\u212a", "a\u202eb", "\u00a0", "a b", "a\n", "1.\u05d0", "\u05d0-", "\u05d0.a.1", "\u05d01\u0661", "\u1100\u1161", "\u0378", "\U000E0041", "\u00e9_", "a\u00e9--a", "ab--\u00e9", "-\u00e9", "\u00e9-", "l\u00b7", "\u00e9..a", "\u00e9.",
				strings.Repeat("\u00e9", 64), strings.Repeat(strings.Repeat("\u00e9", 50)+".", 5) + "a"}},
		{"ipv4", []string{"0.0.0.0", "1.2.3.4"}, []string{"01.2.3.4", "1.2.3", "1.2.3.4.", "1.2.3.4\n", "1.2.3.\u0664", "1.2.3.256", "1.2.3.4 ", "0x1.2.3.4", ""}},
		{"ip-address", []string{"1.2.3.4"}, []string{"::1", "1.2.3.4/8"}},
		{"ipv6", []string{"::", "1::", "::1.2.3.4", "A:b::"}, []string{"fe80::1%eth0", "fe80::1%", "[::1]", "::1/64", ":::", "1:::2", "1::2::3", "::1\n", "::\u0661", "::1 ", "", ":", "1:2:3:4:5:6:7:8:", "1:2:3:4:5:6:7::8", "::g", "::1.2.3.4:1", "1.2.3.4::"}},
		{"uuid", []string{"00000000-0000-0000-0000-000000000000", "FFFFFFFF-ffff-ffff-ffff-ffffffffffff"}, []string{"{00000000-0000-0000-0000-000000000000}", "00000000-0000-0000-0000-00000000000\u0660", "00000000-0000-0000-0000-000000000000\n", "00000000\u20110000-0000-0000-000000000000"}},
		{"date", []string{"2024-02-29"}, []string{"2024-02-29 ", "2024-02-3\u0660", "2024-02-29\n", "+2024-02-29", "2023-02-29", "2024\u201002-29", "2024-2-29"}},
		{"time", []string{"23:59:60Z", "00:00:00.0+00:00", "12:00:00-00:00"}, []string{"12:00:00", "12:00:00.Z", "12:00:00,5Z", "12:00Z", "12:00:00 Z", "12:00:00Z\n", "12:00:00+0100", "12:00:00+1:00", "12:00:00\u221201:00", "1\u0662:00:00Z", "24:00:00Z", "12:00:60Z"}},
		{"date-time", []string{"2024-02-29T12:00:00Z", "2024-02-29t12:00:00z"}, []string{"2024-02-29 12:00:00Z", "2024-02-29T12:00:00", "2024-02-29T12:00:00Z ", "2024-02-29\u00a012:00:00Z", "2024-02-30T12:00:00Z"}},
		{"duration", []string{"P1Y", "PT0S", "P1W"}, []string{"P", "PT", "P1", "p1y", "P1Y1W", "P001.5D", "PT1.5H", "P1D ", "P1D\n", "-P1D", "P\u0661D", "P1DT", "PT1D", "P1H"}},
		{"period", []string{"P1D/2024-02-29T12:00:00Z"}, []string{"P1D/P1D", "2024-02-29T12:00:00Z", "/", "P1D/2024-02-29T12:00:00Z/P1D", "2024-02-29T12:00:00Z/P1D\n", "2024-02-29T12:00:00Z--P1D"}},
		{"json-pointer", []string{"", "/", "//", "/\u0000", "/\u202e"}, []string{"a", "/~", "/~2", "#/a", " /a"}},
		{"relative-json-pointer", []string{"0", "1/a", "0#", "0+1", "0-10/a", "1+1#"}, []string{"", "+1", "-1", "00", "01", "0+0", "0+01", "0+", "0+1+1", "1 ", "1\n", "\u0661", "1##", "1#/a", "1a", "1/~2"}},
		{"regex", []string{"", "a|", "|", "()", "(?:)", "(?=a)", "(?!a)b", "(?<=a)b", "(?<!a)b", "(?<a>b)\\k<a>", "\\k<a>(?<a>b)", "(a)\\1", "\\1(a)", "[^]", "[]", "[[:alpha:]", "[-a]", "[a-]", "[\\b\\-\\]]", "[--0]", "a{2}", "a{2,}?", "a{2,3}", "a{00,1}", "a{99999999999999999999}", "\\0", "\\cz", "\\x4f", "\\u00e9", "\\u{1F600}",
			"[\\u{1F600}-\\u{1F603}]", "[\U0001F600-\U0001F603]", "[\\ud83d\\ude00-\\ud83d\\ude03]", "\\p{L}", "\\P{Lu}", "\\p{gc=Letter}", "\\p{Script=Greek}", "\\p{scx=Grek}", "\\p{Alphabetic}", "[\\p{L}\\d]", "\\/", "\\-", "\\ ", "\\\u00a0", "(?i:a)", "(?i-m:a)", "(?-s:a)", "(?<a>b)|(?<a>c)", "(?<$_\u00e9\\u0061\\u{62}>c)", "\n", "a\u2028", strings.Repeat("(", 1000) + strings.Repeat(")", 1000)},
			[]string{"\\", "(", ")", "[", "]", "{", "}", "a{", "a{}", "a{,1}", "a{1", "a{1,", "a{2,1}", "a{10,9}", "*", "+a", "?", "a**", "a{1}{2}", "^*", "$+", "\\b?", "(?=a)*", "(?<=a)+", "(?!a){2}", "(?", "(?a)", "(?i)", "(?i)a", "(?P<a>b)", "(?<a", "(?<>b)", "(?<1>b)", "(?<a b>c)", "(?<a>b)(?<a>c)", "(?<a>(?<a>b))", "(?:(?<a>b)|c)(?<a>d)",
				"\\k", "\\k<a>", "\\ka", "(?<b>)\\k<a>", "\\1", "(a)\\2", "\\01", "\\00", "[\\1]", "[\\B]", "[\\k]", "[b-a]", "[\\d-a]", "[a-\\d]", "[\U0001F603-\U0001F600]", "\\a", "\\Z", "\\A", "\\z", "\\Q", "\\e", "\\_", "\\\u00e9", "\\c", "\\c1", "\\x", "\\x4", "\\u", "\\u004", "\\u{}", "\\u{110000}", "\\u{1F600", "\\p", "\\pL", "\\p{}", "\\p{Foo}", "\\p{Script=Foo}", "\\p{Greek}", "\\p{gc=Alphabetic}", "\\p{letter}", "[[:alpha:]]",
				"(?-:a)", "(?ii:a)", "(?i-i:a)", "(?x:a)", "(?#a)", "(?>a)", "a++", "\\-\\p{L}", "\\-\\u{1F600}", "\\p{L", strings.Repeat("(", 1001) + strings.Repeat(")", 1001)}},
	} {
		ok, _ := jsonschema.Format(c.format)
		for _, text := range c.ok {
			if !ok([]byte(text)) {
				t.Errorf("%s: %q is refused", c.format, text)
			}
		}
		for _, text := range c.wrong {
			if ok([]byte(text)) {
				t.Errorf("%s: %q is accepted", c.format, text)
			}
		}
	}
}

// checkFormat reports what an accepted text of a format has that it must not have, or "".
func checkFormat(name, s string) string {
	ok := func(name string) bool { f, _ := jsonschema.Format(name); return f([]byte(s)) }
	if !ok(name) {
		return ""
	}
	hidden := func(r rune) bool { return r <= ' ' || r == 0x7f || r > unicode.MaxASCII }
	switch name {
	case "uri", "uri-reference", "uriref":
		if strings.ContainsFunc(s, hidden) || strings.ContainsAny(s, "\"<>\\^`{|}") {
			return "characters"
		}
		if u, err := url.Parse(s); err == nil && u.Opaque == "" {
			if v, err := url.Parse(u.String()); err != nil || v.Path != u.Path || v.Host != u.Host || v.RawQuery != u.RawQuery || v.Fragment != u.Fragment {
				return "another URL after a round trip"
			}
		}
		if !ok("iri-reference") || name == "uri" && !ok("iri") {
			return "no IRI"
		}
	case "iri", "iri-reference":
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0x200f }) || strings.ContainsAny(s, "\"<>\\^`{|}") {
			return "characters"
		}
	case "uri-template":
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f && r < 0xa0 }) || strings.Count(s, "{") != strings.Count(s, "}") {
			return "characters"
		}
	case "email":
		if strings.ContainsFunc(s, func(r rune) bool { return hidden(r) && r != ' ' }) || strings.Contains(s, " ") && s[0] != '"' {
			return "characters"
		}
		if !ok("idn-email") {
			return "no idn-email"
		}
	case "hostname":
		if strings.ContainsFunc(s, hidden) || len(s) > 253 {
			return "characters"
		}
		if !ok("idn-hostname") {
			return "no idn-hostname"
		}
	case "idn-hostname", "idn-email":
		if name == "idn-email" {
			s = s[strings.LastIndexByte(s, '@')+1:]
		}
		if strings.ContainsFunc(s, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Zs, unicode.Co, unicode.Cs) || r == 0x202e }) {
			return "characters"
		}
	case "ipv4", "ip-address", "ipv6":
		if a, err := netip.ParseAddr(s); err != nil || a.Is4() != (name != "ipv6") || a.Zone() != "" {
			return "no address"
		}
	case "date", "time", "date-time", "duration", "period", "uuid":
		if strings.ContainsFunc(s, hidden) {
			return "characters"
		}
	case "regex":
		if strings.HasPrefix(s, "*") || strings.HasSuffix(s, "(") && !strings.HasSuffix(s, `\(`) {
			return "no expression"
		}
	}
	return ""
}

// FuzzFormats: no format panics, and what it accepts has nothing that it must not have.
func FuzzFormats(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	for _, s := range costlyTexts() {
		if len(s) < 200 {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		for _, name := range jsonschema.Formats() {
			if fault := checkFormat(name, s); fault != "" {
				t.Errorf("%s accepts %q: %s", name, s, fault)
			}
		}
		for name, grammar := range grammars {
			ok, _ := jsonschema.Format(name)
			if got, want := ok([]byte(s)), grammar(s); got && !want {
				t.Errorf("%s accepts %q, its grammar does not", name, s)
			}
		}
	})
}

// TestFormatProperties runs the properties of FuzzFormats on texts that are spoilt at random.
func TestFormatProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	pool := slices.Concat(seeds, []string{"b\u00fccher.example", "\u0628\u064a\u200c\u0628\u064a", "\u0434@\u0434.\u0434", `^(?<a>[^\s]{2,3}|\p{L})\k<a>$`, "2024-02-29T12:00:00.5+01:00/P1D"})
	n := 20000
	if testing.Short() || raceEnabled {
		n = 2000
	}
	for range n {
		s := spoil(r, pool[r.IntN(len(pool))])
		for _, name := range jsonschema.Formats() {
			if fault := checkFormat(name, s); fault != "" {
				t.Errorf("%s accepts %q: %s", name, s, fault)
			}
		}
	}
}

// TestFormatsInMessages: the engine and the evaluator give a format the text without JSON's escapes.
func TestFormatsInMessages(t *testing.T) {
	for _, c := range []struct {
		format, msg string
		ok          bool
	}{
		{"uri", `"https:\/\/a.test\/"`, true}, {"uri", `"https://a.test/\u0022"`, false}, {"uri", `"https://a.test/#\r\n"`, false}, {"uri", `"https://a.test/#\u0000"`, false},
		{"email", `"a\u200b@b"`, false}, {"email", `"\u0061@b"`, true}, {"email", `"\"a\"@b"`, true}, {"hostname", `"xn--9n2bp8q"`, true}, {"idn-hostname", `"b\u00fccher"`, true},
		{"idn-email", `"\u0434@a"`, true}, {"regex", `"\\d"`, true}, {"regex", `"\\u{1F600}"`, true}, {"iri", `"a:\u202e"`, false}, {"iri", `"a:\ud83d\ude00"`, true}, {"uri", `1`, true},
	} {
		s := compile(t, fmt.Sprintf(`{"format":%q}`, c.format))
		for _, err := range []error{s.Validate([]byte(c.msg)), s.Tree([]byte(c.msg))} {
			if (err == nil) != c.ok {
				t.Errorf("%s: %s: %v", c.format, c.msg, err)
			}
		}
	}
}

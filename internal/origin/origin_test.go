package origin_test

import (
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/origin"
)

func mustList(t testing.TB, entries ...string) *origin.List {
	t.Helper()
	l, faults := origin.ParseList(entries)
	if faults != nil {
		t.Fatalf("ParseList(%q): %v", entries, faults)
	}
	return l
}

// longest is a name of 253 bytes, the most there can be.
var longest = strings.Repeat("a23456789.", 24) + "a2345678.test"

func TestMatch(t *testing.T) {
	tests := []struct {
		name    string
		entries []string
		yes     []string
		no      []string
	}{
		{
			name:    "T01 exact tuple",
			entries: []string{"https://app.example.com", "https://admin.example.com:8443"},
			yes:     []string{"https://app.example.com", "https://admin.example.com:8443"},
			no: []string{
				"https://evil.test", "https://example.com", "https://admin.example.com", "https://app.example.com:8443",
				"https://admin.example.com:443", "https://admin.example.com:84433", "https://admin.example.com:844",
			},
		},
		{name: "T01 empty list", no: []string{"https://app.example.com", "null", "", "*", "://", "https://"}},
		{
			name:    "T02 prefix, suffix, substring",
			entries: []string{"https://dash.corp"},
			yes:     []string{"https://dash.corp"},
			no: []string{
				"https://dash.corp.evil.test", "https://evildash.corp", "https://evil-dash.corp", "https://dash.corp:444",
				"https://dash.corpx", "https://dash.cor", "https://dashxcorp", "https://a.dash.corp", "https://dash.corp.",
				"https://evil.test/https://dash.corp", "https://evil.test?https://dash.corp", "https://evil.test#https://dash.corp",
				"https://dash.corp@evil.test", "https://evil.test@dash.corp", `https://dash.corp\.evil.test`, "https://dash.corp&.evil.test",
				"https://dash.corp!.evil.test", "https://dash.corp`.evil.test", "https://dash.corp_.evil.test", "https://dash.corp%00.evil.test",
				"https://dash.corp\x00.evil.test", "https://dash.corp\x7f", "https://dash.corp{.evil.test", "https://dash.corp,https://evil.test",
				"https://evil.test https://dash.corp", "https://evil.test,https://dash.corp", "xhttps://dash.corp", "https://https://dash.corp",
			},
		},
		{
			name:    "T03 wildcard is one label",
			entries: []string{"https://*.example.com"},
			yes:     []string{"https://a.example.com", "https://A.Example.COM:443", "https://xn--bcher-kva.example.com", "https://my_app.example.com", "https://1.example.com"},
			no: []string{
				"https://example.com", "https://.example.com", "https://a.b.example.com", "https://..example.com", "https://a..example.com",
				"https://*.example.com", "https://a.example.com:8443", "http://a.example.com", "https://aexample.com", "https://a.example.com.evil.test",
				"https://a.example.com.", "https://-.example.com", "https://a-.example.com", "https://a@b.example.com", "https://%61.example.com",
				"https://a/.example.com", "https://a&b.example.com", "https://a!.example.com", "https://a+b.example.com", "https://" + strings.Repeat("a", 64) + ".example.com", "null", "https://com", "https://[::1].example.com",
			},
		},
		{
			name:    "T03 wildcard with a port",
			entries: []string{"https://*.example.com:8443", "http://*.dev.example.com"},
			yes:     []string{"https://a.example.com:8443", "http://a.dev.example.com", "http://a.dev.example.com:80"},
			no:      []string{"https://a.example.com", "https://a.example.com:443", "https://a.dev.example.com", "http://dev.example.com", "http://a.dev.example.com:443"},
		},
		{
			name:    "T04 scheme",
			entries: []string{"https://app.example.com", "http://plain.example.com"},
			yes:     []string{"https://app.example.com", "http://plain.example.com"},
			no: []string{
				"http://app.example.com", "ftp://app.example.com", "//app.example.com", "app.example.com", "https:app.example.com", "https:/app.example.com",
				"https:///app.example.com", "://app.example.com", "wss://app.example.com", "ws://app.example.com", "http://app.example.com:443",
				"https://plain.example.com", "https://plain.example.com:80", "http+s://app.example.com", "+https://app.example.com", "0https://app.example.com",
				"ht*tps://app.example.com", "https ://app.example.com", "javascript://app.example.com", "blob:https://app.example.com",
			},
		},
		{
			name:    "T05 case and default port",
			entries: []string{"https://app.example.com", "http://plain.example.com"},
			yes: []string{
				"HTTPS://APP.EXAMPLE.COM:443", "https://APP.example.com", "Https://app.example.com", "https://app.example.com:443",
				"http://plain.example.com:80", "HTTP://plain.example.COM",
			},
			no: []string{
				"https://app.example.com.", "https://app.example.com.:443", "https://app.example.com:80", "http://plain.example.com:443",
				"https://app.example.com:0443", "https://app.example.com:+443", "https://app.example.com:-443", "https://app.example.com:",
				"https://app.example.com:443:443", "https://app.example.com:0x1bb", "https://app.example.com:443 ", "https://app.example.com:４４３",
				"https://app.example.com:65979", "https://app.example.com:99999", "https://app.example.com:4294967739", "https://app.example.com:0",
			},
		},
		{
			name:    "T05 construction canonicalises",
			entries: []string{"HTTPS://App.Example.com:443", "http://PLAIN.example.com:80"},
			yes:     []string{"https://app.example.com", "http://plain.example.com"},
		},
		{
			name:    "T05 international names",
			entries: []string{"https://xn--bcher-kva.example", "https://kelvin.example"},
			yes:     []string{"https://xn--bcher-kva.example", "https://XN--BCHER-KVA.example"},
			no: []string{
				"https://bücher.example", "https://b\u00fccher.example", "https://b%C3%BCcher.example",
				"https://\u212aelvin.example", "https://kelvin\u3002example", "https://kelvin.example\u200b", "https://kelvin.e\xff",
			},
		},
		{
			name:    "T06 malformed",
			entries: []string{"https://app.example.com", "https://*.example.com"},
			no: []string{
				"", " ", "https://", "https://:443", "https://user@app.example.com", "https://user:pw@app.example.com", "https://@app.example.com",
				"https://app.example.com/", "https://app.example.com/x", "https://app.example.com?", "https://app.example.com?x", "https://app.example.com#",
				"https://app.example.com:443/", `https://app.example.com\`, "https://app.example.com, https://app.example.com",
				" https://app.example.com", "https://app.example.com ", "\thttps://app.example.com", "https://app.example.com\n", "https://app.example.com\r\n",
				"https://app.example.com\x00", "https://app\x01.example.com", "https://app.exam ple.com", "https://app.exam\u00a0ple.com",
				"https://app.example.com:443,", `"https://app.example.com"`, "https://app.example.com;", "https://[app.example.com]", "https://app.example.com]",
				"https://app..example.com", "https://.app.example.com", "https://app.example.com" + strings.Repeat(":443", 200),
				"https://" + strings.Repeat("a.", 300) + "example.com",
			},
		},
		{name: "T07 null unlisted", entries: []string{"https://app.example.com", "https://*.example.com"}, no: []string{"null", "NULL", "null:", "null://", "https://null"}},
		{
			name:    "T07 null listed",
			entries: []string{"null"},
			yes:     []string{"null"},
			no:      []string{"Null", "NULL", " null", "null ", "null,null", "null null", "null://null", "https://null", "", "nul", "nulls", "file://"},
		},
		{name: "T08 empty", entries: []string{"https://app.example.com", "null"}, no: []string{""}},
		{
			name:    "T10 loopback and addresses",
			entries: []string{"http://127.0.0.1", "http://localhost:8080", "http://[::1]:3000", "https://[2001:db8::1]", "http://192.0.2.1:80"},
			yes: []string{
				"http://127.0.0.1", "http://127.0.0.1:80", "http://localhost:8080", "http://LOCALHOST:8080", "http://[::1]:3000",
				"https://[2001:DB8::1]", "https://[2001:db8::1]:443", "http://192.0.2.1",
			},
			no: []string{
				"http://127.0.0.1.evil.test", "http://127.0.0.1.", "http://127.1", "http://127.0.1", "http://2130706433", "http://0x7f.0.0.1", "http://0x7f000001",
				"http://0177.0.0.1", "http://127.0.0.01", "http://127.0.0.1:8080", "http://127.0.0.2", "http://0.0.0.0", "http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]",
				"http://[::1]", "http://[::1]:30000", "http://::1:3000", "http://[0:0:0:0:0:0:0:1]:3000", "http://[::0001]:3000", "http://[::1%25lo]:3000", "http://[::1%lo]:3000",
				"http://[::1]3000", "http://[::1]:", "http://[::1", "http://::1]:3000", "http://[[::1]]:3000", "http://[::1]:3000]", "http://[]:3000", "http://[::1].evil.test:3000",
				"http://localhost.evil.test:8080", "http://localhost", "http://localhost.:8080", "http://[127.0.0.1]", "http://[v1.x]:3000",
			},
		},
		{
			name:    "other schemes",
			entries: []string{"chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb", "capacitor://localhost", "app://x", "safari-web-extension://0A1B2C3D-0000-4000-8000-00805F9B34FB", "app://y:443"},
			yes: []string{
				"chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb", "capacitor://localhost", "app://x",
				"safari-web-extension://0a1b2c3d-0000-4000-8000-00805f9b34fb", "app://y:443",
			},
			no: []string{"chrome-extension://other", "ionic://localhost", "capacitor://localhost:80", "app://x/", "app://y", "app://x:443", "https://localhost", "app:x"},
		},
		{
			name:    "lengths",
			entries: []string{"https://" + longest, "https://" + strings.Repeat("a", 63) + ".test"},
			yes:     []string{"https://" + longest, "https://" + strings.Repeat("a", 63) + ".test", "https://" + longest + ":443"},
			no:      []string{"https://a" + longest, "https://" + strings.Repeat("a", 64) + ".test"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := mustList(t, tt.entries...)
			if got := l.Len(); got != len(tt.entries) {
				t.Errorf("Len() = %d, want %d", got, len(tt.entries))
			}
			for _, h := range tt.yes {
				if !l.Match(h) {
					t.Errorf("Match(%q) = false, want true", h)
				}
			}
			for _, h := range tt.no {
				if l.Match(h) {
					t.Errorf("Match(%q) = true, want false", h)
				}
			}
		})
	}
}

func TestSame(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"https://a.example", "https://a.example", true},
		{"https://a.example", "HTTPS://A.example:443", true},
		{"http://[::1]:80", "http://[::1]", true},
		{"null", "null", true},
		{"null", "NULL", false},
		{"https://a.example", "http://a.example", false},
		{"https://a.example", "https://a.example:444", false},
		{"https://a.example", "https://b.example", false},
		{"https://a.example", "", false},
		{"nonsense", "NONSENSE", false},
	} {
		if origin.Same(tt.a, tt.b) != tt.same || origin.Same(tt.b, tt.a) != tt.same {
			t.Errorf("%q, %q: want %t", tt.a, tt.b, tt.same)
		}
	}
}

func TestZero(t *testing.T) {
	var nl *origin.List
	var zl origin.List
	var nh *origin.Hosts
	var zh origin.Hosts
	for _, s := range []string{"", "null", "https://app.example.com", "https://a.b.c"} {
		if nl.Match(s) || zl.Match(s) || nh.Match(s, "443") || zh.Match(s, "443") {
			t.Errorf("an unparsed list matches %q", s)
		}
	}
	if nh.Match("app.example.com", "443") || zh.Match("app.example.com", "443") {
		t.Error("an unparsed Hosts matches")
	}
	if nl.Len()+zl.Len()+nh.Len()+zh.Len() != 0 {
		t.Error("an unparsed list has entries")
	}
}

// A caller may reuse its slice.
func TestListIsACopy(t *testing.T) {
	entries := []string{"https://app.example.com", "https://app.example.com:443"}
	l := mustList(t, entries...)
	entries[0] = "https://evil.test"
	if l.Match("https://evil.test") || !l.Match("https://app.example.com") {
		t.Error("the list changed with the caller's slice")
	}
	if l.Len() != 1 {
		t.Errorf("Len() = %d, want 1: both entries are the same origin", l.Len())
	}
}

// Faults of both kinds of list. want is part of the reason, so that each entry is
// refused for what is wrong with it and not by accident.
func TestListFaults(t *testing.T) {
	tests := []struct{ entry, want string }{
		{"", "empty"},
		{" ", "white space"},
		{" https://app.example.com", "white space"},
		{"https://app.example.com\n", "white space"},
		{"https://app.\x00example.com", "control character"},
		{"https://app.example.com\x7f", "control character"},
		{"*", "Insecure"},
		{"https://*", "every host"},
		{"https://*:8443", "every host"},
		{"https://*.com", "top-level domain"},
		{"https://*.localhost:3000", "top-level domain"},
		{"https://*.co.uk", "anybody can register"},
		{"https://*.COM.au", "anybody can register"},
		{"https://*.github.io", "anybody can register"},
		{"https://*.vercel.app:8443", "anybody can register"},
		{"https://*.", "no host"},
		{"https://*.:443", "no host"},
		{"https://*.*.example.com", "elsewhere"},
		{"https://a.*.example.com", "elsewhere"},
		{"https://a*.example.com", "elsewhere"},
		{"https://*a.example.com", "elsewhere"},
		{"https://**.example.com", "elsewhere"},
		{"https://example.*", "elsewhere"},
		{"https://example.com:*", "star for the port"},
		{"https://localhost:*", "star for the port"},
		{"http://127.0.0.1:*", "star for the port"},
		{"http://localhost:*/", "elsewhere"},
		{"file:///home", "names a file"},
		{"*://example.com", "elsewhere"},
		{"https://*.127.0.0.1", "IP address"},
		{"https://*.[::1]", "IP address"},
		{"https://*.0.1", "IPv4"},
		{"chrome-extension://*.example.com", "only http and https"},
		{"*.example.com", "no scheme"},
		{"app.example.com", "no scheme"},
		{"//app.example.com", "no scheme"},
		{"://app.example.com", "no scheme"},
		{"localhost:8080", "no scheme"},
		{"https:app.example.com", "no scheme"},
		{"NULL", "no scheme"},
		{"1https://app.example.com", "malformed scheme"},
		{"ht!tps://app.example.com", "malformed scheme"},
		{"wss://app.example.com", "no page"},
		{"WS://app.example.com", "no page"},
		{"data://x", "no page"},
		{"https://", "no host"},
		{"https:///", "no host"},
		{"https://:443", "no host"},
		{"https://user@app.example.com", "user information"},
		{"https://user:pw@app.example.com/x", "user information"},
		{"https://app.example.com/", "slash"},
		{"https://app.example.com/ws", "path"},
		{`https://app.example.com\ws`, "path"},
		{"https://app.example.com?x=1", "query"},
		{"https://app.example.com#x", "fragment"},
		{"https://a.example.com,https://b.example.com", "comma"},
		{"https://" + strings.Repeat("a", 513), "512 bytes"},
		{"https://" + strings.Repeat("a23456789.", 25) + "test", "253 bytes"},
		{"https://" + strings.Repeat("a", 64) + ".example.com", "63 bytes"},
		{"https://app..example.com", "empty label"},
		{"https://.example.com", "empty label"},
		{"https://-app.example.com", "hyphen"},
		{"https://app-.example.com", "hyphen"},
		{"https://app.example.com.", "ends in a dot"},
		{"https://app.example.com.:443", "ends in a dot"},
		{"https://app$.example.com", "character in its host"},
		{"https://app.example.com:", "bad port"},
		{"https://app.example.com:0", "bad port"},
		{"https://app.example.com:00", "bad port"},
		{"https://app.example.com:0443", "bad port"},
		{"https://app.example.com:+443", "bad port"},
		{"https://app.example.com:-1", "bad port"},
		{"https://app.example.com:65536", "bad port"},
		{"https://app.example.com:999999", "bad port"},
		{"https://app.example.com:https", "bad port"},
		{"https://app.example.com:443:443", "colon"},
		{"https://bücher.example", "punycode"},
		{"https://app.example\xff", "punycode"},
		{"https://app%2eexample.com", "percent"},
		{"http://127.1", "IPv4"},
		{"http://0x7f.0.0.1", "IPv4"},
		{"http://0X7F000001", "IPv4"},
		{"http://2130706433", "IPv4"},
		{"http://127.0.0.01", "IPv4"},
		{"http://127.0.0.256", "IPv4"},
		{"http://1.2.3.4.5", "IPv4"},
		{"http://a.b.0x", "IPv4"},
		{"http://example.1", "IPv4"},
		{"http://::1", "brackets"},
		{"http://::1:3000", "brackets"},
		{"http://[::1", "unclosed"},
		{"http://[::1]3000", "other than a port"},
		{"http://[::1]:", "bad port"},
		{"http://[]", "malformed IPv6"},
		{"http://[127.0.0.1]", "malformed IPv6"},
		{"http://[::g]", "malformed IPv6"},
		{"http://[fe80::1%25eth0]", "percent"},
		{"http://[fe80::1%eth0]", "percent"},
		{"http://[::ffff:127.0.0.1]", "as IPv4"},
		{"http://[::ffff:7f00:1]", "as IPv4"},
		{"http://[0:0:0:0:0:0:0:1]", "short form"},
		{"http://[::0001]", "short form"},
		{"http://[::127.0.0.1]", "short form"},
	}
	for _, tt := range tests {
		l, faults := origin.ParseList([]string{tt.entry})
		checkFault(t, tt.entry, tt.want, l != nil, faults)
	}
}

func checkFault(t *testing.T, entry, want string, list bool, faults []origin.Fault) {
	t.Helper()
	if len(faults) != 1 || faults[0].Value != entry || !strings.Contains(faults[0].Reason, want) {
		t.Errorf("%q: faults %q, want one with %q", entry, faults, want)
	}
	if list {
		t.Errorf("%q: a list in spite of the fault", entry)
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	entries := []string{"https://ok.example.com", "*", "https://ok2.example.com", "https://x/", ""}
	_, faults := origin.ParseList(entries)
	if len(faults) != 3 || faults[0].Value != "*" || faults[1].Value != "https://x/" || faults[2].Value != "" {
		t.Errorf("ParseList: faults %q", faults)
	}
	_, faults = origin.ParseHosts([]string{"ok.example.com", "*", "x/", "", "[::1]"})
	if len(faults) != 3 || faults[0].Value != "*" || faults[1].Value != "x/" || faults[2].Value != "" {
		t.Errorf("ParseHosts: faults %q", faults)
	}
}

func TestMatchAllocates(t *testing.T) {
	l := mustList(t, "https://app.example.com", "https://*.example.net", "http://[::1]:3000", "http://127.0.0.1:8080", "null")
	for _, h := range []string{
		"https://app.example.com", "https://app.example.com:443", "https://a.example.net", "http://[::1]:3000",
		"http://127.0.0.1:8080", "null", "https://evil.test", "https://app.example.com/", "",
	} {
		if n := testing.AllocsPerRun(100, func() { l.Match(h) }); n != 0 {
			t.Errorf("Match(%q): %v allocations", h, n)
		}
	}
	hosts, _ := origin.ParseHosts([]string{"app.example.com", "*.example.net:8443", "[::1]"})
	for _, h := range []string{"app.example.com", "app.example.com:8080", "a.example.net:8443", "[::1]:80", "evil.test"} {
		if n := testing.AllocsPerRun(100, func() { hosts.Match(h, "443") }); n != 0 {
			t.Errorf("Hosts.Match(%q): %v allocations", h, n)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	l := mustList(b, "https://app.example.com", "https://*.example.net")
	for _, h := range []string{"https://app.example.com", "HTTPS://APP.EXAMPLE.COM:443", "https://a.example.net", "https://evil.test"} {
		b.Run(h[8:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l.Match(h)
			}
		})
	}
}

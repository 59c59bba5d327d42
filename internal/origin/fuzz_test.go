package origin_test

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/origin"
)

// The oracle reads the input with net/url and says no to whatever a browser does
// not send. It shares nothing with the package.

var (
	oracleLabel = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	oraclePort  = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)
	oracleNum   = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)
)

// oracleHost returns host and port of an authority in lower case.
func oracleHost(authority string) (host, port string, ok bool) {
	u, err := url.Parse("x://" + authority)
	if err != nil || u.User != nil || u.Host != authority || strings.ContainsAny(authority, "%, \\") {
		return "", "", false
	}
	host, port = u.Hostname(), u.Port()
	if strings.HasSuffix(authority, ":") || port != "" && (!oraclePort.MatchString(port) || len(port) == 5 && port > "65535") {
		return "", "", false
	}
	if strings.HasPrefix(authority, "[") {
		ip := net.ParseIP(host)
		return host, port, ip != nil && strings.Contains(host, ":") && ip.To4() == nil && ip.String() == host
	}
	labels := strings.Split(host, ".")
	if len(host) > 253 || slices.ContainsFunc(labels, func(l string) bool { return !oracleLabel.MatchString(l) }) {
		return "", "", false
	}
	if oracleNum.MatchString(labels[len(labels)-1]) {
		ip := net.ParseIP(host)
		return host, port, ip != nil && ip.String() == host
	}
	return host, port, true
}

func oracleASCII(s string) bool {
	return len(s) <= 512 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

var fuzzOrigins = []string{
	"https://app.example.com", "http://127.0.0.1:8080", "http://[::1]:3000", "https://*.example.net", "http://*.example.org:81", "app://x",
}

func oracleMatch(s string) bool {
	if !oracleASCII(s) {
		return false
	}
	scheme, authority, ok := strings.Cut(strings.ToLower(s), "://")
	if !ok {
		return false
	}
	host, port, ok := oracleHost(authority)
	if !ok {
		return false
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	switch host {
	case "app.example.com":
		return scheme == "https" && port == "443"
	case "127.0.0.1":
		return scheme == "http" && port == "8080"
	case "::1":
		return scheme == "http" && port == "3000"
	case "x":
		return scheme == "app" && port == ""
	}
	labels := strings.Split(host, ".")
	if len(labels) != 3 || labels[1] != "example" {
		return false
	}
	return labels[2] == "net" && scheme == "https" && port == "443" || labels[2] == "org" && scheme == "http" && port == "81"
}

func FuzzMatch(f *testing.F) {
	for _, s := range []string{
		"", "null", "https://app.example.com", "HTTPS://APP.EXAMPLE.COM:443", "https://app.example.com.", "https://app.example.com:0443", "https://app.example.com:",
		"https://a@app.example.com", "https://app.example.com/", "https://a.example.net", "https://a.b.example.net", "https://.example.net", "http://a.example.org:81",
		"http://127.0.0.1:8080", "http://127.1:8080", "http://0x7f.0.0.1:8080", "http://[::1]:3000", "http://[0::1]:3000", "http://[::ffff:1.2.3.4]:3000", "http://[::1%25a]:3000",
		"app://x", "app://x:80", "https://app.example.com,https://app.example.com", "https://\u00e1.example.net", "https://a%2e.example.net", "https://-.example.net",
		"https://_.example.net", "https://1.example.net", `https://app.example.com\@evil`, "https://app.example.com\x00", "https://app.example.com:443:443", "://", "https://[]",
	} {
		f.Add(s)
	}
	l := mustList(f, fuzzOrigins...)
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := l.Match(s), oracleMatch(s); got != want {
			t.Errorf("Match(%q) = %v, the oracle says %v", s, got, want)
		}
	})
}

// An entry that is accepted matches itself, in any case, and if it is no wildcard
// it has the parts that net/url sees.
func FuzzParseList(f *testing.F) {
	for _, s := range append([]string{
		"null", "*", "https://*", "https://*.com", "https://*.co.uk", "https://*.example.com:443", "http://[::1]", "chrome-extension://abc", "https://a_b.example",
		"https://example.1", "https://0x7f", "https://xn--a.b", "ws://x", "a+b://c", "https://x:65536", "https://x:65535",
	}, fuzzOrigins...) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, faults := origin.ParseList([]string{s})
		if (l == nil) != (len(faults) == 1) || len(faults) > 1 {
			t.Fatalf("list %v, faults %v", l, faults)
		}
		if faults != nil {
			if faults[0].Value != s || faults[0].Reason == "" {
				t.Fatalf("%q: fault %q", s, faults[0])
			}
			return
		}
		if s == "null" {
			if !l.Match("null") {
				t.Fatal("null does not match itself")
			}
			return
		}
		if !oracleASCII(s) {
			t.Fatalf("%q accepted", s)
		}
		scheme, authority, _ := strings.Cut(s, "://")
		if rest, ok := strings.CutPrefix(authority, "*."); ok {
			host, _, ok := oracleHost(strings.ToLower(rest))
			if !ok || !strings.Contains(host, ".") {
				t.Fatalf("%q accepted", s)
			}
			if l.Match(s) || l.Match(scheme+"://"+rest) || l.Match(scheme+"://a.b."+rest) {
				t.Fatalf("%q matches more than one label", s)
			}
			if len(host) <= 200 && !l.Match(scheme+"://a."+rest) {
				t.Fatalf("%q does not match one label", s)
			}
			return
		}
		if _, _, ok := oracleHost(strings.ToLower(authority)); !ok {
			t.Fatalf("%q accepted", s)
		}
		for _, m := range []string{s, strings.ToLower(s), strings.ToUpper(s)} {
			if !l.Match(m) {
				t.Fatalf("%q does not match %q", s, m)
			}
		}
		for _, m := range []string{s + ".", s + "/", "x" + s, s + ".evil.test", s + "@evil.test", "https://evil.test#" + s} {
			if l.Match(m) {
				t.Fatalf("%q matches %q", s, m)
			}
		}
	})
}

func FuzzHosts(f *testing.F) {
	for _, s := range []string{
		"", "app.example.com", "APP.example.com:8443", "app.example.com.", "app.example.com:", "app.example.com:08", "[::1]", "[::1]:8080", "[::1]x", "::1", "127.0.0.1:8080",
		"127.1:8080", "a.example.net", "a.example.net:443", "a.b.example.net", "u@app.example.com", "app.example.com/x", "[::ffff:7f00:1]:8080", "a%.example.net", "b.example.com", "b.example.com:80",
	} {
		f.Add(s, "443")
	}
	f.Add("b.example.com", "80")
	f.Add("b.example.com", "")
	h, faults := origin.ParseHosts([]string{"app.example.com", "b.example.com:80", "127.0.0.1:8080", "[::1]", "*.example.net:443"})
	if faults != nil {
		f.Fatal(faults)
	}
	f.Fuzz(func(t *testing.T, s, def string) {
		want := false
		if host, port, ok := oracleHost(strings.ToLower(s)); ok && oracleASCII(s) {
			if port == "" {
				port = def
			}
			labels := strings.Split(host, ".")
			switch {
			case host == "app.example.com", host == "::1":
				want = true
			case host == "b.example.com":
				want = port == "80"
			case host == "127.0.0.1":
				want = port == "8080"
			case len(labels) == 3 && labels[1] == "example" && labels[2] == "net":
				want = port == "443"
			}
		}
		if got := h.Match(s, def); got != want {
			t.Errorf("Match(%q, %q) = %v, the oracle says %v", s, def, got, want)
		}
	})
}

var (
	oracleHostHeader = regexp.MustCompile(`^(?:\[([^\[\]%]+)(?:%([^\[\]]*))?\]|([^\[\]:]+))(?::([0-9]*))?$`)
	oracleRegName    = regexp.MustCompile(`^(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$`)
)

// A Host is what the grammar of RFC 3986 says, written as expressions. What is in a
// list of hosts is one.
func FuzzCheckHost(f *testing.F) {
	for _, s := range []string{
		"", "app.example.com", "a:80", "a:", ":80", ":", "a:65536", "a:000001", "a:99999999999999999999999", "::1", "[::1]", "[::1]:80", "[::1", "[]", "[127.0.0.1]", "[::1%25eth0]", "[::1%]",
		"[::1%25]", "a%41", "a%4", "a%zz", "a b", "a/b", "u@a", "a,b", "[v1.a]", "[::ffff:1.2.3.4]:1", "\u00e4", strings.Repeat("a", 261), strings.Repeat("a", 262), "[fe80::1%eth0]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := s == ""
		if m := oracleHostHeader.FindStringSubmatch(s); m != nil && len(s) <= 261 {
			port, _ := strconv.Atoi(m[4]) // the largest int if it is larger
			switch {
			case port > 65535:
			case m[3] != "":
				want = oracleRegName.MatchString(m[3])
			default:
				zone := strings.Contains(m[0], "%")
				want = strings.Contains(m[1], ":") && net.ParseIP(m[1]) != nil && (!zone || oracleRegName.MatchString(strings.TrimPrefix(m[2], "25")))
			}
		}
		if fault := origin.CheckHost(s); (fault == "") != want {
			t.Errorf("CheckHost(%q) = %q, the oracle says %v", s, fault, want)
		}
		if _, faults := origin.ParseHosts([]string{s}); faults == nil && origin.CheckHost(s) != "" {
			t.Errorf("%q is an entry of a list, and no host: %s", s, origin.CheckHost(s))
		}
	})
}

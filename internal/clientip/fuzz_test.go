package clientip_test

import (
	"mime"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/clientip"
)

// The oracles work on package net and on whole slices; they share nothing with
// the package.

var oraclePort = regexp.MustCompile(`^[0-9]{1,5}$`)

func oracleNode(s string) net.IP {
	s = strings.Trim(s, " \t")
	if host, port, err := net.SplitHostPort(s); err == nil && (strings.HasPrefix(s, "[") || !strings.Contains(host, ":")) {
		if n, _ := strconv.Atoi(port); !oraclePort.MatchString(port) || n > 65535 || strings.HasPrefix(s, "[") && !strings.Contains(host, ":") {
			return nil
		}
		s = host
	} else if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") && strings.Contains(s, ":") {
		s = s[1 : len(s)-1]
	}
	if ip, zone, ok := strings.Cut(s, "%"); ok {
		if zone == "" || !strings.Contains(ip, ":") {
			return nil
		}
		s = ip
	}
	return net.ParseIP(s)
}

var oracleTrusted = func() (nets []*net.IPNet) {
	for _, s := range []string{"10.0.0.0/8", "2001:db8:ffff::/48"} {
		_, n, _ := net.ParseCIDR(s)
		nets = append(nets, n)
	}
	return nets
}()

func oracleTrusts(ip net.IP) bool {
	return slices.ContainsFunc(oracleTrusted, func(n *net.IPNet) bool { return n.Contains(ip) })
}

// oracleWalk is the naive walk: everything is read, then looked at from the end.
func oracleWalk(peer string, lines []string) net.IP {
	hops := []net.IP{}
	for _, e := range strings.Split(strings.Join(lines, ","), ",") {
		hops = append(hops, oracleNode(e))
	}
	hops = append(hops, net.ParseIP(peer))
	at := len(hops) - 1
	for oracleTrusts(hops[at]) && at > 0 && hops[at-1] != nil {
		at--
	}
	return hops[at]
}

func FuzzForwardedFor(f *testing.F) {
	for _, s := range [][2]string{
		{"", ""}, {"198.51.100.7", ""}, {"203.0.113.66", "198.51.100.7"}, {"203.0.113.66, 198.51.100.7", "10.0.0.2"}, {"unknown, 10.0.0.2", "10.0.0.3,"},
		{"[2001:db8::7]:80", "2001:db8:ffff::9"}, {"fe80::1%eth0", "::ffff:10.0.0.2"}, {"198.51.100.7:80", "[::ffff:10.0.0.1]:1"}, {"1.2.3.4:", "unix:"}, {"\"", "198.51.100.7"},
		{",,", ",10.0.0.1"}, {" 10.0.0.1 ,\t10.0.0.2", "10.0.0.3 "}, {"[1.2.3.4]", "[::1"}, {"1.2.3.4%x", "::1%"}, {"01.2.3.4", "10.0.0.1:65536"},
	} {
		f.Add(s[0], s[1])
	}
	r := mustParse(f, "", "10.0.0.0/8", "2001:db8:ffff::/48")
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(a)+len(b) > 4000 || strings.Count(a+b, ",") > 30 {
			t.Skip("beyond the bounds, which the oracle does not have")
		}
		req := request(proxy)
		req.Header["X-Forwarded-For"] = []string{a, b}
		got, err := r.Client(req)
		if err != nil {
			t.Fatal(err)
		}
		if want := oracleWalk("10.0.0.1", []string{a, b}); !net.IP(got.AsSlice()).Equal(want) {
			t.Errorf("Client(%q, %q) = %v, the oracle says %v", a, b, got, want)
		}
		if got.Zone() != "" || got.Is4In6() {
			t.Errorf("%v is not in its plain form", got)
		}
	})
}

// Whatever a client sends, and however the proxies lay out their own elements
// behind it, the answer is the address that the first trusted proxy saw, and the
// scheme is what that proxy said.
func FuzzSpoof(f *testing.F) {
	for _, s := range []string{
		"", "203.0.113.66", "for=203.0.113.66", "for=203.0.113.66;proto=https", "proto=http", `proto="`, `for="`, `for="\`, `"`, `\`, `for="203.0.113.66, for="`, ",", ";", "for=203.0.113.66;", `x="a,b\"`, "[", "for=\"[::1]:",
		strings.Repeat(",", 100), strings.Repeat(`"`, 101), strings.Repeat(`\`, 101), strings.Repeat("10.0.0.1,", 40), strings.Repeat("for=10.0.0.1,", 40),
	} {
		f.Add(s)
	}
	list := mustParse(f, "", "10.0.0.0/8")
	forwarded := mustParse(f, "Forwarded", "10.0.0.0/8")
	want := netip.MustParseAddr(client)
	tails := []string{
		"for=198.51.100.7", `for="198.51.100.7"`, `For="198.51.100.7:4711";proto=https`, `host="a,b;c";for=198.51.100.7`, `host="\"\\,";for=198.51.100.7;by="_x"`,
		`for=198.51.100.7;proto="wss", for=10.0.0.2;proto=http`, `proto=http;for=198.51.100.7, for="10.0.0.2";proto=https`,
		`for=198.51.100.7, for="10.0.0.2";host="\","`, `for=198.51.100.7, for=10.0.0.3;by="[::1]", for="10.0.0.2:_p"`,
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(r *clientip.Resolver, name, tail string, lines ...string) {
			t.Helper()
			req := request(proxy)
			req.Header[name] = lines
			if got, err := r.Client(req); err != nil || got != want {
				t.Errorf("%s %q: %v, %v", name, lines, got, err)
			}
			alone := request(proxy)
			alone.Header[name] = []string{tail}
			if got, want := r.Scheme(req).Values, r.Scheme(alone).Values; !slices.Equal(got, want) {
				t.Errorf("%s %q: scheme %q, want %q", name, lines, got, want)
			}
		}
		for _, tail := range []string{"198.51.100.7", "198.51.100.7:80, 10.0.0.2"} {
			check(list, "X-Forwarded-For", tail, s+", "+tail)
			check(list, "X-Forwarded-For", tail, s, tail)
		}
		for _, tail := range tails {
			check(forwarded, "Forwarded", tail, s+", "+tail)
			check(forwarded, "Forwarded", tail, s+","+tail)
			check(forwarded, "Forwarded", tail, s, tail)
		}
	})
}

var oracleSimple = regexp.MustCompile(`^[^,\\*%=]*(=[^,\\*%=]*)*$`)

// FuzzForwarded reads one element as a MIME parameter list, which has nearly the
// same grammar, and leaves out what the two do not share.
func FuzzForwarded(f *testing.F) {
	for _, s := range []string{
		"for=198.51.100.7", `for="[2001:db8::7]:80";proto=https`, "FOR=198.51.100.7 ; by=_x", "for=unknown", `for="_x"`, "proto=https", `host="a;b";for=1.2.3.4`, "for=",
	} {
		f.Add(s)
	}
	r := mustParse(f, "Forwarded", "10.0.0.0/8")
	f.Fuzz(func(t *testing.T, s string) {
		if !oracleSimple.MatchString(s) || len(s) > 4000 || strings.Count(strings.ToLower(s), "for") > 1 {
			t.Skip() // mime lets the same parameter stand twice
		}
		req := request(proxy)
		req.Header["Forwarded"] = []string{s}
		got, err := r.Client(req)
		if err != nil {
			t.Fatal(err)
		}
		_, params, err := mime.ParseMediaType("x/y;" + s)
		if err != nil {
			return // this grammar is a little wider; FuzzSpoof has what must hold
		}
		want := net.ParseIP("10.0.0.1")
		if node := params["for"]; strings.HasPrefix(node, "[") || strings.Count(node, ":") < 2 {
			if ip := oracleNode(node); ip != nil && !strings.ContainsAny(node, " \t") {
				want = ip
			}
		}
		// In MIME white space may stand where RFC 7239 has none; then no address
		// is an answer, too.
		if spaced := strings.ContainsAny(s, " \t\r\n\v\f"); !net.IP(got.AsSlice()).Equal(want) && !(spaced && got.String() == proxyA) {
			t.Errorf("Client(%q) = %v, the oracle says %v", s, got, want)
		}
	})
}

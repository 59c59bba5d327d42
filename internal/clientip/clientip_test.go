package clientip_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/clientip"
)

func mustParse(t testing.TB, header string, trusted ...string) *clientip.Resolver {
	t.Helper()
	r, faults := clientip.Parse(trusted, header)
	if faults != nil {
		t.Fatalf("Parse(%q, %q): %v", trusted, header, faults)
	}
	return r
}

// request has the header lines "Name: value", as the server would hand them on.
func request(remote string, lines ...string) *http.Request {
	req := &http.Request{RemoteAddr: remote, Header: http.Header{}}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		req.Header.Add(name, strings.Trim(value, " \t"))
	}
	return req
}

// lines are the header lines of one name.
func lines(name string, values []string) (all []string) {
	for _, v := range values {
		all = append(all, name+": "+v)
	}
	return all
}

func xff(values ...string) []string { return lines("X-Forwarded-For", values) }
func xfp(values ...string) []string { return lines("X-Forwarded-Proto", values) }
func fwd(values ...string) []string { return lines("Forwarded", values) }

const (
	proxy  = "10.0.0.1:40000"     // the peer, a trusted proxy
	proxyA = "10.0.0.1"           // its address
	client = "198.51.100.7"       // what the proxy saw
	spoof  = "203.0.113.66"       // what the client claims
	direct = "198.51.100.7:55555" // a peer that is no proxy
)

var many = strings.TrimSuffix(strings.Repeat("10.9.9.9, ", 31), ", ")

func TestClient(t *testing.T) {
	proxies := []string{"10.0.0.0/8", "2001:db8:ffff::/48", "192.0.2.1"}
	tests := []struct {
		name    string
		trusted []string
		header  string
		remote  string
		lines   []string
		want    string
	}{
		// T42: the default is RemoteAddr, and headers count only behind a proxy.
		{"no proxies, no header", nil, "", direct, nil, client},
		{"no proxies, spoofed header", nil, "", direct, append(xff(spoof), "X-Real-IP: "+spoof, "Forwarded: for="+spoof), client},
		{"untrusted peer, spoofed header", proxies, "", direct, xff(spoof), client},
		{"untrusted peer, claims a trusted address", proxies, "", direct, xff(proxyA), client},
		{"trusted peer, no header", proxies, "", proxy, nil, proxyA},
		{"trusted peer, one address", proxies, "", proxy, xff(client), client},
		{"the default is named", proxies, "x-forwarded-for", proxy, xff(client), client},
		{"nginx appends on one line", proxies, "", proxy, xff(spoof + ", " + client), client},
		{"HAProxy adds a second line", proxies, "", proxy, xff(spoof, client), client},
		{"HAProxy behind nginx", proxies, "", proxy, xff(spoof+", "+client, "10.0.0.2"), client},
		{"Caddy replaces", proxies, "", proxy, xff(client), client},
		{"many lines of the client", proxies, "", proxy, xff(spoof, spoof, spoof+","+spoof, client), client},
		{"chain of proxies", proxies, "", proxy, xff(spoof + ", " + client + ", 192.0.2.1, 10.2.3.4"), client},
		{"a trusted address of the client's own making", proxies, "", proxy, xff("10.1.1.1, " + client), client},
		{"spoofed trusted addresses, second line", proxies, "", proxy, xff("10.1.1.1, 10.1.1.2", client), client},
		{"a single address is trusted alone", proxies, "", proxy, xff(spoof + ", 192.0.2.2"), "192.0.2.2"},
		{"all trusted: the leftmost", proxies, "", proxy, xff("10.3.0.1, 10.3.0.2", "10.3.0.3"), "10.3.0.1"},
		{"IPv6 proxies", proxies, "", "[2001:db8:ffff::1]:443", xff(spoof + ", 2001:db8::7, 2001:db8:ffff::2"), "2001:db8::7"},

		// T42: the first unreadable element ends the walk.
		{"unreadable at the right", proxies, "", proxy, xff(client + ", unknown"), proxyA},
		{"unreadable behind a proxy", proxies, "", proxy, xff(client + ", unknown, 10.0.0.2"), "10.0.0.2"},
		{"rubbish of the client", proxies, "", proxy, xff("<script>, \", " + client), client},
		{"rubbish line of the client", proxies, "", proxy, xff("\x00\xff", client), client},
		{"nginx behind a unix socket", proxies, "", proxy, xff(spoof + ", unix:"), proxyA},
		{"empty element", proxies, "", proxy, xff(spoof + ", "), proxyA},
		{"empty element between", proxies, "", proxy, xff(spoof + ",,10.0.0.2"), "10.0.0.2"},
		{"empty line", proxies, "", proxy, xff(spoof, ""), proxyA},
		{"empty line of the client", proxies, "", proxy, xff("", client), client},
		{"obfuscated", proxies, "", proxy, xff(spoof + ", _hidden"), proxyA},
		{"a name", proxies, "", proxy, xff(spoof + ", localhost"), proxyA},
		{"a prefix", proxies, "", proxy, xff(spoof + ", 198.51.100.0/24"), proxyA},
		{"leading zeros", proxies, "", proxy, xff(spoof + ", 198.051.100.007"), proxyA},
		{"three numbers", proxies, "", proxy, xff(spoof + ", 198.51.7"), proxyA},
		{"one number", proxies, "", proxy, xff(spoof + ", 3325256711"), proxyA},
		{"quoted", proxies, "", proxy, xff(spoof + `, "198.51.100.7"`), proxyA},
		{"inner white space", proxies, "", proxy, xff(spoof + ", 198.51.100.7 198.51.100.8"), proxyA},
		{"semicolon", proxies, "", proxy, xff(spoof + "; " + client), proxyA},

		// Forms of an address.
		{"port", proxies, "", proxy, xff(spoof + ", 198.51.100.7:1234"), client},
		{"port 0", proxies, "", proxy, xff("198.51.100.7:0"), client},
		{"bare IPv6", proxies, "", proxy, xff("2001:db8::7"), "2001:db8::7"},
		{"IPv6 in brackets", proxies, "", proxy, xff("[2001:DB8::7]"), "2001:db8::7"},
		{"IPv6 in brackets with a port", proxies, "", proxy, xff("[2001:db8::7]:65535"), "2001:db8::7"},
		{"long IPv6", proxies, "", proxy, xff("2001:0db8:0000:0000:0000:0000:0000:0007"), "2001:db8::7"},
		{"tabs and spaces", proxies, "", proxy, xff(" \t198.51.100.7\t , \t10.0.0.2 "), client},
		{"no space", proxies, "", proxy, xff(spoof + "," + client + ",10.0.0.2"), client},
		{"empty port", proxies, "", proxy, xff("198.51.100.7:"), proxyA},
		{"bad port", proxies, "", proxy, xff("198.51.100.7:65536"), proxyA},
		{"long port", proxies, "", proxy, xff("198.51.100.7:000080"), proxyA},
		{"named port", proxies, "", proxy, xff("198.51.100.7:http"), proxyA},
		{"IPv4 in brackets", proxies, "", proxy, xff("[198.51.100.7]"), proxyA},
		{"unclosed bracket", proxies, "", proxy, xff("[2001:db8::7"), proxyA},
		{"behind the bracket", proxies, "", proxy, xff("[2001:db8::7]80"), proxyA},
		{"empty brackets", proxies, "", proxy, xff("[]:80"), proxyA},

		// T43: one source, the others do not count.
		{"other sources, default", proxies, "", proxy, append(xff(client), "X-Real-IP: "+spoof, "Forwarded: for="+spoof, "True-Client-IP: "+spoof), client},
		{"other sources, Forwarded", proxies, "Forwarded", proxy, append(fwd("for="+client), "X-Forwarded-For: "+spoof, "X-Real-IP: "+spoof), client},
		{"other sources, X-Real-IP", proxies, "X-Real-IP", proxy, append(xff(spoof), "X-Real-IP: "+client, "Forwarded: for="+spoof), client},
		{"only other sources", proxies, "X-Real-IP", proxy, append(xff(spoof), "Forwarded: for="+spoof), proxyA},

		// T44: IPv4 in IPv6.
		{"mapped peer", proxies, "", "[::ffff:198.51.100.7]:1", nil, client},
		{"mapped trusted peer", proxies, "", "[::ffff:10.0.0.1]:1", xff(client), client},
		{"mapped trusted peer, no header", proxies, "", "[::ffff:10.0.0.1]:1", nil, proxyA},
		{"mapped client", proxies, "", proxy, xff("::ffff:198.51.100.7"), client},
		{"mapped client in hex", proxies, "", proxy, xff("[::ffff:c633:6407]:80"), client},
		{"mapped proxy in the list", proxies, "", proxy, xff(spoof + ", " + client + ", ::ffff:10.0.0.2"), client},
		{"mapped in Forwarded", proxies, "Forwarded", proxy, fwd(`for="[::ffff:198.51.100.7]"`), client},

		// T45: zones.
		{"zone of the peer", nil, "", "[fe80::1%eth0]:80", nil, "fe80::1"},
		{"zone of a trusted peer", []string{"fe80::/10"}, "", "[fe80::1%eth0]:80", xff(client), client},
		{"zone in the header", proxies, "", proxy, xff("fe80::1%eth0"), "fe80::1"},
		{"zone in brackets", proxies, "", proxy, xff("[fe80::1%eth0]:80"), "fe80::1"},
		{"zone of a mapped address", proxies, "", proxy, xff("::ffff:198.51.100.7%x"), client},
		{"empty zone", proxies, "", proxy, xff("fe80::1%"), proxyA},
		{"zone of IPv4", proxies, "", proxy, xff("198.51.100.7%eth0"), proxyA},

		// RFC 7239. The first five are its own examples (sections 4 and 7.1).
		{"RFC 7239 obfuscated", proxies, "Forwarded", proxy, fwd(`for="_gazonk"`), proxyA},
		{"RFC 7239 IPv6 with a port", proxies, "Forwarded", proxy, fwd(`For="[2001:db8:cafe::17]:4711"`), "2001:db8:cafe::17"},
		{"RFC 7239 parameters", proxies, "Forwarded", proxy, fwd("for=192.0.2.60;proto=http;by=203.0.113.43"), "192.0.2.60"},
		{"RFC 7239 several", proxies, "Forwarded", proxy, fwd("for=192.0.2.43, for=198.51.100.17"), "198.51.100.17"},
		{"RFC 7239 several with IPv6", proxies, "Forwarded", proxy, fwd(`for=10.0.2.43, for="[2001:db8:cafe::17]", for=unknown`), proxyA},
		{"Forwarded, several lines", proxies, "forwarded", proxy, fwd("for="+spoof, "for="+client, "for=10.0.0.3, for=10.0.0.2"), client},
		{"Forwarded, all trusted", proxies, "Forwarded", proxy, fwd("for=10.0.0.3", `for="10.0.0.2:80";by=_x`), "10.0.0.3"},
		{"Forwarded, port", proxies, "Forwarded", proxy, fwd(`for="198.51.100.7:4711"`), client},
		{"Forwarded, obfuscated port", proxies, "Forwarded", proxy, fwd(`for="198.51.100.7:_http"`), client},
		{"Forwarded, obfuscated port, IPv6", proxies, "Forwarded", proxy, fwd(`for="[2001:db8::7]:_a.B-1"`), "2001:db8::7"},
		{"Forwarded, empty obfuscated port", proxies, "Forwarded", proxy, fwd(`for="198.51.100.7:_"`), proxyA},
		{"Forwarded, odd obfuscated port", proxies, "Forwarded", proxy, fwd(`for="198.51.100.7:_a b"`), proxyA},
		{"Forwarded, unquoted port", proxies, "Forwarded", proxy, fwd("for=198.51.100.7:80"), client},
		{"Forwarded, bare IPv6 is ambiguous", proxies, "Forwarded", proxy, fwd(`for="2001:db8::7:8080"`), proxyA},
		{"Forwarded, empty pairs", proxies, "Forwarded", proxy, fwd(";;for=198.51.100.7;;proto=https;"), client},
		{"Forwarded, spaces", proxies, "Forwarded", proxy, fwd("proto=https; for=198.51.100.7 ; host=example.com"), client},
		{"Forwarded, spaces behind a quote", proxies, "Forwarded", proxy, fwd(`by="_x" ; for="198.51.100.7" ;proto=https`), client},
		{"Forwarded, comma in quotes", proxies, "Forwarded", proxy, fwd(`for=` + spoof + `, for=198.51.100.7;host="a,for=203.0.113.66"`), client},
		{"Forwarded, semicolon in quotes", proxies, "Forwarded", proxy, fwd(`host="a;for=203.0.113.66";for=198.51.100.7`), client},
		{"Forwarded, escaped quote", proxies, "Forwarded", proxy, fwd(`for=` + spoof + `, host="a\",for=203.0.113.66,\\\"";for=198.51.100.7`), client},
		{"Forwarded, escaped backslash at the end", proxies, "Forwarded", proxy, fwd(`for=` + spoof + `, host="a,\\";for=198.51.100.7`), client},
		{"Forwarded, open quote of the client", proxies, "Forwarded", proxy, fwd(`for="203.0.113.66, for=198.51.100.7`), client},
		{"Forwarded, open quote of the client, quoted client", proxies, "Forwarded", proxy, fwd(`for="x, for="[2001:db8::7]:80"`), "2001:db8::7"},
		{"Forwarded, open escape of the client", proxies, "Forwarded", proxy, fwd(`for="x\, for=198.51.100.7`), client},
		{"Forwarded, open quote of the client, own line", proxies, "Forwarded", proxy, fwd(`for="`, "for=198.51.100.7"), client},
		{"Forwarded, twice", proxies, "Forwarded", proxy, fwd("for=198.51.100.7;for=203.0.113.66"), proxyA},
		{"Forwarded, twice in other case", proxies, "Forwarded", proxy, fwd("for=198.51.100.7;FOR=198.51.100.7"), proxyA},
		{"Forwarded, without for", proxies, "Forwarded", proxy, fwd("for=203.0.113.66, proto=https;by=10.0.0.2"), proxyA},
		{"Forwarded, empty", proxies, "Forwarded", proxy, fwd("for=203.0.113.66, "), proxyA},
		{"Forwarded, empty line", proxies, "Forwarded", proxy, fwd("for=203.0.113.66", ""), proxyA},
		{"Forwarded, empty value", proxies, "Forwarded", proxy, fwd("for="), proxyA},
		{"Forwarded, no pair", proxies, "Forwarded", proxy, fwd("198.51.100.7"), proxyA},
		{"Forwarded, a word beside the pair", proxies, "Forwarded", proxy, fwd("for=198.51.100.7;secure"), proxyA},
		{"Forwarded, space before =", proxies, "Forwarded", proxy, fwd("for =198.51.100.7"), proxyA},
		{"Forwarded, space behind =", proxies, "Forwarded", proxy, fwd(`for= "198.51.100.7"`), proxyA},
		{"Forwarded, no name", proxies, "Forwarded", proxy, fwd("=x;for=198.51.100.7"), proxyA},
		{"Forwarded, quote inside a token", proxies, "Forwarded", proxy, fwd(`for=198.51.100.7"`), proxyA},
		{"Forwarded, text behind a quote", proxies, "Forwarded", proxy, fwd(`for="198.51.100.7"x`), proxyA},
		{"Forwarded, pair behind a quote", proxies, "Forwarded", proxy, fwd(`for="198.51.100.7"by=x`), proxyA},
		{"Forwarded, quote inside another token", proxies, "Forwarded", proxy, fwd(`by=a"b;for=198.51.100.7`), proxyA},
		{"Forwarded, space inside another token", proxies, "Forwarded", proxy, fwd(`by=a b;for=198.51.100.7`), proxyA},
		{"Forwarded, unclosed quote", proxies, "Forwarded", proxy, fwd(`for="198.51.100.7`), proxyA},
		{"Forwarded, unclosed quote elsewhere", proxies, "Forwarded", proxy, fwd(`for=198.51.100.7;host="a`), proxyA},
		{"Forwarded, IPv4 in brackets", proxies, "Forwarded", proxy, fwd(`for="[198.51.100.7]"`), proxyA},

		// One address in a header of its own.
		{"single", proxies, "X-Real-IP", proxy, []string{"X-Real-IP: " + client}, client},
		{"single, in other case", proxies, "cf-connecting-ip", proxy, []string{"CF-Connecting-IP: 2001:db8::7"}, "2001:db8::7"},
		{"single, with a port", proxies, "X-Client", proxy, []string{"X-Client: [2001:db8::7]:80"}, "2001:db8::7"},
		{"single, trusted address", proxies, "X-Real-IP", proxy, []string{"X-Real-IP: 10.7.7.7"}, "10.7.7.7"},
		{"single, untrusted peer", proxies, "X-Real-IP", direct, []string{"X-Real-IP: " + spoof}, client},
		{"single, none", proxies, "X-Real-IP", proxy, nil, proxyA},
		{"single, two lines", proxies, "X-Real-IP", proxy, []string{"X-Real-IP: " + spoof, "X-Real-IP: " + client}, proxyA},
		{"single, a list", proxies, "X-Real-IP", proxy, []string{"X-Real-IP: " + spoof + ", " + client}, proxyA},
		{"single, unreadable", proxies, "X-Real-IP", proxy, []string{"X-Real-IP: unknown"}, proxyA},
		{"single, empty", proxies, "X-Real-IP", proxy, []string{"X-Real-IP:"}, proxyA},
		{"single, too long", proxies, "X-Real-IP", proxy, []string{"X-Real-IP: fe80::1%" + strings.Repeat("z", 9000)}, proxyA},

		// Bounds.
		{"32 elements", proxies, "", proxy, xff(client + ", " + many), client},
		{"33 elements", proxies, "", proxy, xff(client + ", 10.8.8.8, " + many), "10.8.8.8"},
		{"33 elements on lines", proxies, "", proxy, xff(append([]string{client, "10.8.8.8"}, strings.Split(many, ", ")...)...), "10.8.8.8"},
		{"33 elements, Forwarded", proxies, "Forwarded", proxy, fwd("for=" + client + ", for=10.8.8.8, for=" + strings.ReplaceAll(many, ", ", ", for=")), "10.8.8.8"},
		{"8 KiB, exactly", proxies, "", proxy, xff(client + strings.Repeat(" ", 8<<10-len(client)-len(",10.0.0.2")) + ",10.0.0.2"), client},
		{"8 KiB and a byte", proxies, "", proxy, xff(client + strings.Repeat(" ", 8<<10+1-len(client)-len(",10.0.0.2")) + ",10.0.0.2"), "10.0.0.2"},
		{"8 KiB over two lines", proxies, "", proxy, xff(client, strings.Repeat(" ", 8<<10)+",10.0.0.2"), "10.0.0.2"},
		{"a long line of the client", proxies, "", proxy, xff(strings.Repeat("x", 1<<20) + ", " + client), client},
		{"long lines of the client", proxies, "", proxy, xff(strings.Repeat(",", 1<<20), client), client},
		{"a long element", proxies, "", proxy, xff(strings.Repeat("1", 1<<20)), proxyA},

		// unix sockets.
		{"unix, X-Forwarded-For", []string{"unix"}, "", "@", xff(spoof + ", " + client), client},
		{"unix, a chain", []string{"unix", "10.0.0.0/8"}, "", "", xff(spoof + ", " + client + ", 10.0.0.1"), client},
		{"unix, unreadable behind a proxy", []string{"unix", "10.0.0.0/8"}, "", "/run/x.sock", xff(spoof + ", unix:, 10.0.0.1"), proxyA},
		{"unix, Forwarded", []string{"unix"}, "Forwarded", "@", fwd("for=" + client), client},
		{"unix, single", []string{"unix"}, "X-Real-IP", "@", []string{"X-Real-IP: " + client}, client},
		{"unix trusted, TCP peer", []string{"unix"}, "", direct, xff(spoof), client},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := mustParse(t, tt.header, tt.trusted...)
			got, err := r.Client(request(tt.remote, tt.lines...))
			if err != nil || got != netip.MustParseAddr(tt.want) {
				t.Errorf("Client() = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestClientErrors(t *testing.T) {
	proxies := []string{"10.0.0.0/8"}
	tests := []struct {
		name    string
		trusted []string
		header  string
		remote  string
		lines   []string
		want    error
	}{
		{"unix, nothing trusted", nil, "", "@", nil, clientip.ErrUnixPeer},
		{"unix, no name", nil, "", "", nil, clientip.ErrUnixPeer},
		{"unix, abstract name", proxies, "", "@abc", xff(client), clientip.ErrUnixPeer},
		{"unix, path", proxies, "", "/run/x.sock", xff(client), clientip.ErrUnixPeer},
		{"unix trusted, no header", []string{"unix"}, "", "@", nil, clientip.ErrNoAddr},
		{"unix trusted, unreadable", []string{"unix"}, "", "@", xff(client + ", unix:"), clientip.ErrNoAddr},
		{"unix trusted, empty", []string{"unix"}, "", "@", xff(""), clientip.ErrNoAddr},
		{"unix trusted, Forwarded unreadable", []string{"unix"}, "Forwarded", "@", fwd("for=unknown"), clientip.ErrNoAddr},
		{"unix trusted, single twice", []string{"unix"}, "X-Real-IP", "@", []string{"X-Real-IP: " + client, "X-Real-IP: " + client}, clientip.ErrNoAddr},
		// chi's RealIP and gorilla's ProxyHeaders write what the client claimed.
		{"address without a port", proxies, "", client, nil, clientip.ErrPeer},
		{"IPv6 without a port", proxies, "", "2001:db8::7", nil, clientip.ErrPeer},
		{"a name", proxies, "", "localhost:80", nil, clientip.ErrPeer},
		{"a bad port", nil, "", "198.51.100.7:x", nil, clientip.ErrPeer},
		{"rubbish", nil, "", "pipe", xff(client), clientip.ErrPeer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := mustParse(t, tt.header, tt.trusted...)
			req := request(tt.remote, tt.lines...)
			if got, err := r.Client(req); !errors.Is(err, tt.want) || got.IsValid() {
				t.Errorf("Client() = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestPeerTrusted(t *testing.T) {
	for _, tt := range []struct {
		trusted []string
		remote  string
		want    bool
	}{
		{nil, proxy, false},
		{nil, "@", false},
		{[]string{"10.0.0.0/8"}, proxy, true},
		{[]string{"10.0.0.0/8"}, "[::ffff:10.0.0.1]:1", true},
		{[]string{"10.0.0.0/8"}, direct, false},
		{[]string{"10.0.0.0/8"}, "@", false},
		{[]string{"10.0.0.0/8"}, proxyA, false}, // without a port
		{[]string{"10.0.0.0/8"}, "rubbish", false},
		{[]string{"fe80::/10"}, "[fe80::1%eth0]:1", true},
		{[]string{"unix"}, "@", true},
		{[]string{"unix"}, "", true},
		{[]string{"unix"}, "/run/x.sock", true},
		{[]string{"unix"}, proxy, false},
		{[]string{"unix"}, "rubbish", false},
	} {
		r := mustParse(t, "", tt.trusted...)
		// What the request claims changes nothing.
		if got := r.PeerTrusted(request(tt.remote, xff(proxyA)...)); got != tt.want {
			t.Errorf("%q: PeerTrusted(%q) = %v", tt.trusted, tt.remote, got)
		}
		if r.Proxied() != (tt.trusted != nil) {
			t.Errorf("%q: Proxied() = %v", tt.trusted, r.Proxied())
		}
	}
}

func TestScheme(t *testing.T) {
	const none, clear, secure = "none", "clear text", "secure"
	for _, tt := range []struct {
		name   string
		header string
		remote string
		lines  []string
		want   string
	}{
		{"none", "", proxy, xff(client), none},
		{"https", "", proxy, xfp("https"), secure},
		{"wss", "", proxy, xfp("wss"), secure},
		{"any case", "", proxy, xfp("hTTpS, WSS"), secure},
		{"blanks", "", proxy, xfp(" https\t,\t wss "), secure},
		{"lines", "", proxy, xfp("wss", "https"), secure},
		{"http", "", proxy, xfp("http"), clear},
		{"ws", "", proxy, xfp("WS"), clear},
		{"one of many", "", proxy, xfp("https,wss", "https,ws,https"), clear},
		{"empty", "", proxy, xfp(""), clear},
		{"blank", "", proxy, xfp(" \t"), clear},
		{"empty first", "", proxy, xfp(",https"), clear},
		{"empty last", "", proxy, xfp("https,"), clear},
		{"empty between", "", proxy, xfp("https,,https"), clear},
		{"empty line", "", proxy, xfp("https", ""), clear},
		{"longer", "", proxy, xfp("https1"), clear},
		{"shorter", "", proxy, xfp("wsshttp"), clear},
		{"a URL", "", proxy, xfp("https://"), clear},
		{"folds to s", "", proxy, xfp("w\u017fs"), clear},
		{"folds to s, long", "", proxy, xfp("http\u017f"), clear},
		{"another blank", "", proxy, xfp("https\v"), clear},
		{"unix", "", "@", xfp("https"), secure},
		{"the address is unreadable", "", proxy, append(xff("unknown"), xfp("https")...), secure},
		{"not of Forwarded", "", proxy, fwd("for=198.51.100.7;proto=https"), none},
		{"single", "X-Real-IP", proxy, xfp("https"), secure},

		{"Forwarded", "Forwarded", proxy, fwd("for=198.51.100.7;proto=https"), secure},
		{"Forwarded, first", "Forwarded", proxy, fwd("proto=wss;by=10.0.0.1;for=198.51.100.7"), secure},
		{"Forwarded, name in any case", "Forwarded", proxy, fwd("For=198.51.100.7;Proto=HTTPS"), secure},
		{"Forwarded, quoted", "Forwarded", proxy, fwd(`for="198.51.100.7";proto="https"`), secure},
		{"Forwarded, quoted blanks", "Forwarded", proxy, fwd(`for="198.51.100.7";proto=" https "`), secure},
		{"Forwarded, http", "Forwarded", proxy, fwd("for=198.51.100.7;proto=http"), clear},
		{"Forwarded, empty", "Forwarded", proxy, fwd("for=198.51.100.7;proto="), clear},
		{"Forwarded, empty in quotes", "Forwarded", proxy, fwd(`for=198.51.100.7;proto=""`), clear},
		{"Forwarded, escaped", "Forwarded", proxy, fwd(`for=198.51.100.7;proto="http\s"`), clear},
		{"Forwarded, none", "Forwarded", proxy, fwd("for=198.51.100.7"), none},
		{"Forwarded, no header", "Forwarded", proxy, nil, none},
		{"Forwarded, not X-Forwarded-Proto", "Forwarded", proxy, append(fwd("for=198.51.100.7"), xfp("https")...), none},
		{"Forwarded, in a value", "Forwarded", proxy, fwd(`for=198.51.100.7;host="a;proto=https"`), none},
		{"Forwarded, another parameter", "Forwarded", proxy, fwd("for=198.51.100.7;xproto=https;proto2=https"), none},
		{"Forwarded, of the client", "Forwarded", proxy, fwd("for=203.0.113.66;proto=https, for=198.51.100.7"), none},
		{"Forwarded, of the client against it", "Forwarded", proxy, fwd("for=203.0.113.66;proto=http", "for=198.51.100.7;proto=https"), secure},
		{"Forwarded, of a hop behind", "Forwarded", proxy, fwd("for=198.51.100.7, for=10.0.0.2;proto=https"), none},
		{"Forwarded, clear text behind", "Forwarded", proxy, fwd("for=198.51.100.7;proto=https, for=10.0.0.2;proto=http"), secure},
		{"Forwarded, clear text in front", "Forwarded", proxy, fwd("for=198.51.100.7;proto=http, for=10.0.0.2;proto=https"), clear},
		{"Forwarded, all trusted", "Forwarded", proxy, fwd("for=10.0.0.3;proto=wss, for=10.0.0.2;proto=http"), secure},
		{"Forwarded, the peer itself", "Forwarded", proxy, fwd("for=10.0.0.1;proto=https"), secure},
		{"Forwarded, unknown", "Forwarded", proxy, fwd("for=unknown;proto=https"), none},
		{"Forwarded, unknown, http", "Forwarded", proxy, fwd("for=unknown;proto=http"), clear},
		{"Forwarded, without for, http", "Forwarded", proxy, fwd("proto=http"), clear},
		{"Forwarded, obfuscated, http, in front", "Forwarded", proxy, fwd("for=_x;proto=http, for=10.0.0.2;proto=https"), clear},
		{"Forwarded, obfuscated, https, in front", "Forwarded", proxy, fwd("for=_x;proto=https, for=10.0.0.2;proto=https"), secure},
		{"Forwarded, obfuscated, https, in front of none", "Forwarded", proxy, fwd("for=_x;proto=https, for=10.0.0.2"), none},
		{"Forwarded, twice the same", "Forwarded", proxy, fwd("for=198.51.100.7;proto=https;proto=https"), secure},
		{"Forwarded, twice, http first", "Forwarded", proxy, fwd("for=198.51.100.7;proto=http;proto=https"), clear},
		{"Forwarded, twice, http last", "Forwarded", proxy, fwd("for=198.51.100.7;proto=https;proto=http"), clear},
		{"Forwarded, malformed", "Forwarded", proxy, fwd("for=198.51.100.7;for=1.2.3.4;proto=https"), none},
		{"Forwarded, malformed behind", "Forwarded", proxy, fwd("for=198.51.100.7;proto=https;x"), none},
		{"Forwarded, unix", "Forwarded", "@", fwd("for=198.51.100.7;proto=https"), secure},
		{"Forwarded, 33 elements", "Forwarded", proxy, fwd("for=198.51.100.7;proto=https" + strings.Repeat(", for=10.0.0.2", 32)), none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := mustParse(t, tt.header, "10.0.0.0/8", "unix").Scheme(request(tt.remote, tt.lines...))
			got := none
			if s.Named() {
				got = clear
			}
			if s.Secure() {
				got = secure
			}
			if got != tt.want {
				t.Errorf("%s (%q), want %s", got, s.Values, tt.want)
			}
		})
	}
}

func TestZero(t *testing.T) {
	var r clientip.Resolver
	got, err := r.Client(request(direct, xff(spoof)...))
	if err != nil || got.String() != client || r.Proxied() || r.PeerTrusted(request(direct)) {
		t.Errorf("Client() = %v, %v", got, err)
	}
}

func TestFaults(t *testing.T) {
	proxies := []string{"10.0.0.0/8"}
	tests := []struct {
		trusted []string
		header  string
		want    string // part of the reason
	}{
		{[]string{""}, "", "neither a prefix"},
		{[]string{"proxy.internal"}, "", "neither a prefix"},
		{[]string{"10.0.0.1:80"}, "", "neither a prefix"},
		{[]string{"Unix"}, "", "neither a prefix"},
		{[]string{" 10.0.0.1"}, "", "neither a prefix"},
		{[]string{"10.0.0.0/8,192.168.0.0/16"}, "", "not a prefix"},
		{[]string{"10.0.0.0/33"}, "", "not a prefix"},
		{[]string{"10.0.0.0/08"}, "", "not a prefix"},
		{[]string{"10.0.0.0/-1"}, "", "not a prefix"},
		{[]string{"10.0.0/8"}, "", "not a prefix"},
		{[]string{"/"}, "", "not a prefix"},
		{[]string{"10.0.0.1/8"}, "", "write 10.0.0.0/8"},
		{[]string{"2001:db8::1/32"}, "", "write 2001:db8::/32"},
		{[]string{"0.0.0.0/0"}, "", "every address"},
		{[]string{"1.2.3.4/0"}, "", "every address"},
		{[]string{"::/0"}, "", "every address"},
		{[]string{"::ffff:0:0/0"}, "", "every address"},
		{[]string{"::ffff:10.0.0.1"}, "", "as IPv4"},
		{[]string{"::ffff:10.0.0.0/104"}, "", "as IPv4"},
		{[]string{"fe80::1%eth0"}, "", "zone"},
		{[]string{"fe80::%eth0/10"}, "", "zone"},
		{proxies, "X Real IP", "not the name"},
		{proxies, "X-Real-IP:", "not the name"},
		{proxies, "X-Réal-IP", "not the name"},
		{proxies, " ", "not the name"},
		{nil, "X-Real-IP", "name the proxies"},
		{nil, "X-Forwarded-For", "name the proxies"},
	}
	for _, tt := range tests {
		r, faults := clientip.Parse(tt.trusted, tt.header)
		value := tt.header
		if tt.header == "" {
			value = tt.trusted[0]
		}
		if len(faults) != 1 || faults[0].Value != value || faults[0].Header != (tt.header != "") || !strings.Contains(faults[0].Reason, tt.want) {
			t.Errorf("Parse(%q, %q): faults %+v, want one with %q", tt.trusted, tt.header, faults, tt.want)
		}
		if r != nil {
			t.Errorf("Parse(%q, %q): a Resolver in spite of the fault", tt.trusted, tt.header)
		}
	}
	_, faults := clientip.Parse([]string{"x", "10.0.0.0/8", "unix", "0.0.0.0/0"}, "a b")
	if len(faults) != 3 || faults[0].Value != "x" || faults[1].Value != "0.0.0.0/0" || !faults[2].Header {
		t.Errorf("faults %+v, want all three", faults)
	}
}

// Prefixes that leave no address out, taken together, are trust in everybody.
func TestTrustInAll(t *testing.T) {
	split := func(prefix string, bits int) (all []string) { // prefix in pieces of bits each
		p := netip.MustParsePrefix(prefix)
		for a := p.Addr(); p.Contains(a); {
			q := netip.PrefixFrom(a, bits)
			all = append(all, q.String())
			last := a.AsSlice()
			for i := bits; i < a.BitLen(); i++ {
				last[i/8] |= 0x80 >> (i % 8)
			}
			next, _ := netip.AddrFromSlice(last)
			if a = next.Next(); !a.IsValid() {
				break
			}
		}
		return all
	}
	without := func(prefix string, hole string) (all []string) { // prefix but for hole, in as few pieces as possible
		h := netip.MustParsePrefix(hole)
		for bits := netip.MustParsePrefix(prefix).Bits() + 1; bits <= h.Bits(); bits++ {
			for _, half := range split(netip.PrefixFrom(h.Addr(), bits-1).Masked().String(), bits) {
				if !netip.MustParsePrefix(half).Contains(h.Addr()) {
					all = append(all, half)
				}
			}
		}
		return all
	}
	for _, tt := range []struct {
		name    string
		trusted []string
		want    string // part of the reason; empty: no fault
	}{
		{"IPv4 in halves", []string{"0.0.0.0/1", "128.0.0.0/1"}, "every IPv4 address"},
		{"IPv4 in halves, the other way round", []string{"128.0.0.0/1", "0.0.0.0/1"}, "every IPv4 address"},
		{"IPv4 in quarters", split("0.0.0.0/0", 2), "every IPv4 address"},
		{"IPv4 in 256 parts", split("0.0.0.0/0", 8), "every IPv4 address"},
		{"IPv4 in parts of several sizes", append(without("0.0.0.0/0", "10.1.2.3/32"), "10.1.2.3"), "every IPv4 address"},
		{"IPv4, overlapping", []string{"0.0.0.0/1", "10.0.0.0/8", "64.0.0.0/2", "128.0.0.0/1", "255.255.255.255", "128.0.0.0/1"}, "every IPv4 address"},
		{"IPv4, among others", []string{"2001:db8::/32", "0.0.0.0/1", "unix", "128.0.0.0/1"}, "every IPv4 address"},
		{"IPv6 in halves", []string{"::/1", "8000::/1"}, "every IPv6 address"},
		{"IPv6 in eighths", split("::/0", 3), "every IPv6 address"},
		{"IPv6 but for IPv4 in it", without("::/0", "::ffff:0:0/96"), "every IPv6 address"},
		{"IPv4 written as IPv6", []string{"::ffff:0.0.0.0/97", "::ffff:128.0.0.0/97"}, "as IPv4"},
		{"one half", []string{"0.0.0.0/1"}, ""},
		{"a half of each", []string{"0.0.0.0/1", "8000::/1"}, ""},
		{"a half of each, the others", []string{"128.0.0.0/1", "::/1"}, ""},
		{"IPv4 but for one address", without("0.0.0.0/0", "10.1.2.3/32"), ""},
		{"IPv4 but for the first", without("0.0.0.0/0", "0.0.0.0/32"), ""},
		{"IPv4 but for the last", without("0.0.0.0/0", "255.255.255.255/32"), ""},
		{"IPv6 but for one address", without("::/0", "2001:db8::1/128"), ""},
		{"IPv6 but for the last", without("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"), ""},
		{"half as IPv6, twice", []string{"::/1", "::/1", "::/2"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, faults := clientip.Parse(tt.trusted, "")
			if tt.want == "" {
				if faults != nil || r == nil {
					t.Errorf("faults %+v, want none", faults)
				}
				return
			}
			if r != nil || len(faults) == 0 || !strings.Contains(faults[0].Reason, tt.want) {
				t.Errorf("faults %+v, want one with %q", faults, tt.want)
			}
			for _, entry := range strings.Split(faults[0].Value, ", ") {
				if !slices.Contains(tt.trusted, strings.TrimSuffix(entry, "/32")) && !slices.Contains(tt.trusted, entry) {
					t.Errorf("the fault names %q, which is no entry", entry)
				}
			}
		})
	}
}

func TestPeer(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want string
		unix bool
		err  error
	}{
		{in: "192.0.2.1:1234", want: "192.0.2.1"},
		{in: "[2001:db8::1]:1234", want: "2001:db8::1"},
		{in: "[::ffff:192.0.2.1]:1234", want: "192.0.2.1"},
		{in: "[fe80::1%eth0]:1234", want: "fe80::1"},
		{in: "", unix: true},
		{in: "@", unix: true},
		{in: "@name", unix: true},
		{in: "/run/app.sock", unix: true},
		{in: "192.0.2.1", err: clientip.ErrPeer},
		{in: "2001:db8::1", err: clientip.ErrPeer},
		{in: "[2001:db8::1]", err: clientip.ErrPeer},
		{in: "example.com:80", err: clientip.ErrPeer},
		{in: ":80", err: clientip.ErrPeer},
	} {
		var want netip.Addr
		if tt.want != "" {
			want = netip.MustParseAddr(tt.want)
		}
		if got, unix, err := clientip.Peer(tt.in); got != want || unix != tt.unix || !errors.Is(err, tt.err) {
			t.Errorf("Peer(%q) = %v, %v, %v", tt.in, got, unix, err)
		}
	}
}

// T44, T45.
func TestKeys(t *testing.T) {
	for _, tt := range []struct{ in, key, net48 string }{
		{"192.0.2.1", "192.0.2.1/32", "192.0.2.1/32"},
		{"::ffff:192.0.2.1", "192.0.2.1/32", "192.0.2.1/32"},
		{"::ffff:192.0.2.1%x", "192.0.2.1/32", "192.0.2.1/32"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"2001:db8:1:2:ffff::", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"fe80::1%eth0", "fe80::/64", "fe80::/48"},
		{"::1", "::/64", "::/48"},
	} {
		a := netip.MustParseAddr(tt.in)
		if got := clientip.Key(a); got != netip.MustParsePrefix(tt.key) {
			t.Errorf("Key(%v) = %v, want %v", a, got, tt.key)
		}
		if got := clientip.Net48(a); got != netip.MustParsePrefix(tt.net48) {
			t.Errorf("Net48(%v) = %v, want %v", a, got, tt.net48)
		}
	}
	if clientip.Key(netip.Addr{}) != (netip.Prefix{}) || clientip.Net48(netip.Addr{}) != (netip.Prefix{}) {
		t.Error("the zero Addr has a key")
	}
}

func TestAllocations(t *testing.T) {
	list := mustParse(t, "", "10.0.0.0/8", "unix")
	forwarded := mustParse(t, "Forwarded", "10.0.0.0/8")
	for _, tt := range []struct {
		name string
		r    *clientip.Resolver
		req  *http.Request
	}{
		{"plain", mustParse(t, ""), request(direct)},
		{"plain, IPv6", mustParse(t, ""), request("[2001:db8::1]:1")},
		{"untrusted", list, request(direct, xff(spoof)...)},
		{"X-Forwarded-For", list, request(proxy, xff(spoof+", "+client+", 10.0.0.2")...)},
		{"Forwarded", forwarded, request(proxy, fwd(`for="[2001:db8::7]:80";proto=https, for=10.0.0.2`)...)},
		{"unix", list, request("@", xff(client)...)},
	} {
		if n := testing.AllocsPerRun(100, func() {
			a, _ := tt.r.Client(tt.req)
			clientip.Key(a)
			clientip.Net48(a)
			tt.r.PeerTrusted(tt.req)
		}); n != 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}

func BenchmarkClient(b *testing.B) {
	trusted := make([]string, 0, 200) // as many as a large CDN has
	for i := range 200 {
		trusted = append(trusted, fmt.Sprintf("10.%d.0.0/16", i))
	}
	r := mustParse(b, "", trusted...)
	for _, tt := range []struct {
		name string
		req  *http.Request
	}{
		{"plain", request(direct)},
		{"proxied", request(proxy, xff(spoof+", "+client)...)},
		{"worst", request(proxy, xff(strings.Repeat("10.199.0.1,", 40)+"10.199.0.1")...)},
	} {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Client(tt.req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A trusted peer counts as the client if its header names none.
func TestNamesClient(t *testing.T) {
	for _, tt := range []struct {
		header string
		lines  []string
		want   bool
	}{
		{"", nil, false},
		{"", []string{""}, false},
		{"", []string{"192.0.2.1"}, true},
		{"", []string{"10.0.0.1"}, true},
		{"", []string{"unknown, 10.0.0.1"}, true},
		{"", []string{"192.0.2.1, unknown"}, false},
		{"", []string{"192.0.2.1", ""}, false},
		{"Forwarded", []string{"for=192.0.2.1"}, true},
		{"Forwarded", []string{"for=unknown"}, false},
		{"Forwarded", []string{"proto=https"}, false},
		{"X-Real-IP", []string{"192.0.2.1"}, true},
		{"X-Real-IP", []string{"192.0.2.1, 192.0.2.2"}, false},
		{"X-Real-IP", []string{"192.0.2.1", "192.0.2.1"}, false},
	} {
		r := mustParse(t, tt.header, "10.0.0.0/8")
		name := http.CanonicalHeaderKey(cmp.Or(tt.header, "X-Forwarded-For"))
		req := &http.Request{RemoteAddr: "10.0.0.9:1", Header: http.Header{name: tt.lines}}
		if got := r.NamesClient(req); got != tt.want {
			t.Errorf("%s: %q: %t, want %t", name, tt.lines, got, tt.want)
		}
		if got := r.Single(); got != (tt.header == "X-Real-IP") {
			t.Errorf("%s: single: %t", name, got)
		}
		peer := netip.MustParseAddr("10.0.0.9")
		if c, err := r.Client(req); err != nil || !tt.want && c != peer {
			t.Errorf("%s: %q: the client is %v, %v", name, tt.lines, c, err)
		}
	}
}

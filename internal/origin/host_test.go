package origin_test

import (
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/origin"
)

func TestHosts(t *testing.T) {
	tests := []struct {
		name    string
		entries []string
		port    string // the default port
		yes     []string
		no      []string
	}{
		{
			name:    "T09 any port",
			entries: []string{"app.example.com"},
			port:    "443",
			yes:     []string{"app.example.com", "app.example.com:443", "app.example.com:8080", "APP.Example.com", "app.example.com:1", "app.example.com:65535"},
			no: []string{
				"", "evil.test", "evil", "app.example.com.", "app.example.com.:443", "a.app.example.com", "app.example.com.evil.test", "app.example.com:",
				"app.example.com:0", "app.example.com:080", "app.example.com:+80", "app.example.com:65536", "app.example.com:80:80", "app.example.com:x",
				"app.example.com/", "app.example.com?", "app.example.com#", "u@app.example.com", "app.example.com@evil.test", "app.example.com,evil.test",
				" app.example.com", "app.example.com ", "app.example.com\x00", "app%2eexample.com", "https://app.example.com", `app.example.com\`, "ápp.example.com",
				"app..example.com", ".app.example.com", "*.example.com", "*", "[app.example.com]", "app.example.com" + strings.Repeat("m", 600),
			},
		},
		{
			name:    "a default port stands for none",
			entries: []string{"a.example.com:443", "b.example.com:80", "c.example.com:8443"},
			port:    "443",
			yes:     []string{"a.example.com", "a.example.com:443", "b.example.com:80", "c.example.com:8443"},
			no:      []string{"b.example.com", "c.example.com", "a.example.com:80", "b.example.com:443", "c.example.com:443"},
		},
		{
			name:    "in clear text",
			entries: []string{"a.example.com:443", "b.example.com:80"},
			port:    "80",
			yes:     []string{"a.example.com:443", "b.example.com", "b.example.com:80"},
			no:      []string{"a.example.com", "a.example.com:80", "b.example.com:443"},
		},
		{
			name:    "no default port",
			entries: []string{"a.example.com:443", "b.example.com"},
			yes:     []string{"a.example.com:443", "b.example.com", "b.example.com:1"},
			no:      []string{"a.example.com"},
		},
		{
			name:    "addresses",
			entries: []string{"127.0.0.1:8080", "[::1]:8080", "[2001:DB8::1]", "localhost"},
			port:    "80",
			yes:     []string{"127.0.0.1:8080", "[::1]:8080", "[2001:db8::1]", "[2001:db8::1]:80", "[2001:DB8::1]:9", "localhost:3000"},
			no: []string{
				"127.0.0.1", "127.1:8080", "127.0.0.1.:8080", "2130706433:8080", "0x7f.1:8080", "[::ffff:127.0.0.1]:8080", "127.0.0.1.evil.test:8080",
				"[::1]", "::1", "::1:8080", "[::1]8080", "[::1", "[0:0:0:0:0:0:0:1]:8080", "[::1%lo]:8080", "localhost.", "localhost.evil.test",
			},
		},
		{
			name:    "wildcards",
			entries: []string{"*.example.com", "*.example.net:8443"},
			port:    "443",
			yes:     []string{"a.example.com", "A.example.com:99", "b.example.net:8443"},
			no:      []string{"example.com", ".example.com", "a.b.example.com", "*.example.com", "b.example.net", "b.example.net:443", "example.net:8443", "localhost"},
		},
		{name: "nothing", port: "443", no: []string{"", "app.example.com", "localhost", "null"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, faults := origin.ParseHosts(tt.entries)
			if faults != nil {
				t.Fatal(faults)
			}
			if h.Len() != len(tt.entries) {
				t.Errorf("Len() = %d, want %d", h.Len(), len(tt.entries))
			}
			for _, s := range tt.yes {
				if !h.Match(s, tt.port) {
					t.Errorf("Match(%q, %q) = false, want true", s, tt.port)
				}
			}
			for _, s := range tt.no {
				if h.Match(s, tt.port) {
					t.Errorf("Match(%q, %q) = true, want false", s, tt.port)
				}
			}
		})
	}
}

func TestHostsFaults(t *testing.T) {
	tests := []struct{ entry, want string }{
		{"", "empty"},
		{"*", "leave the list out"},
		{"*:80", "every host"},
		{"*.com", "top-level domain"},
		{"*.co.uk", "anybody can register"},
		{"*.10.0.0.1", "IP address"},
		{"a.*.com", "elsewhere"},
		{"https://app.example.com", "has a scheme"},
		{"app.example.com/", "slash"},
		{"app.example.com?", "query"},
		{"app.example.com#", "fragment"},
		{"u@app.example.com", "user information"},
		{"app.example.com:0", "bad port"},
		{"app.example.com:", "bad port"},
		{":8080", "no host"},
		{"app.example.com.", "ends in a dot"},
		{"app example.com", "white space"},
		{"a,b", "comma"},
		{"bücher.example", "punycode"},
		{"127.1", "IPv4"},
		{"::1", "brackets"},
		{"[::1%eth0]", "percent"},
		{"[::ffff:10.0.0.1]", "as IPv4"},
		{strings.Repeat("a", 513), "512 bytes"},
	}
	for _, tt := range tests {
		h, faults := origin.ParseHosts([]string{tt.entry})
		checkFault(t, tt.entry, tt.want, h != nil, faults)
	}
}

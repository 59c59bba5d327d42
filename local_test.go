package wsguard_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

const uiOrigin = "http://localhost:5173"

// local is a server with LocalConfig.
type local struct {
	*env
	port, token, file string
}

// serveLocal starts a server with LocalConfig on a free port of an address. It skips the test
// if this machine does not have the address.
func serveLocal(t *testing.T, ip string, edit func(*wsguard.Config)) *local {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	cfg, err := wsguard.LocalConfig(l.Addr(), file)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(&cfg)
	}
	e := newEnv(t, cfg)
	e.s = wstest.ServeListener(t, l, echoDoor(e.g))
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return &local{e, port, tokenOf(t, file), file}
}

// tokenOf reads a token file as a client does.
func tokenOf(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// request is a handshake with a Host. Pages have an Origin, and programs have none.
func (s *local) request(host, origin, token string, more ...string) wstest.HandshakeOptions {
	if token != "" {
		token = "Bearer " + token
	}
	return wstest.HandshakeOptions{Host: host, Header: header(append([]string{"Origin", origin, "Authorization", token}, more...)...)}
}

// withUI admits the pages of a development server.
func withUI(cfg *wsguard.Config) {
	cfg.Origins, cfg.Subprotocols = []string{uiOrigin}, []string{"chat"}
}

// Programs with the token connect under each name of the machine.
func TestLocalClients(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, ip := range []string{"127.0.0.1", "::1", "127.0.0.2"} {
		t.Run(ip, func(t *testing.T) {
			s := serveLocal(t, ip, nil)
			for i, name := range []string{"localhost", "127.0.0.1", "[::1]", "LOCALHOST"} {
				c, res := s.tryWith(s.request(name+":"+s.port, "", s.token))
				if res.StatusCode != 101 {
					t.Fatalf("%s: %s\n%s", name, res.Status, s.events)
				}
				roundTrip(t, c, "hello")
				if open := s.events.wait(t, audit.Open, i+1); open.Subject != "local" {
					t.Errorf("the subject is %q", open.Subject)
				}
				bye(c)
			}
			c, res := s.tryWith(s.request(s.s.Addr, "", s.token))
			if res.StatusCode != 101 {
				t.Errorf("under its own address: %s", res.Status)
			}
			c.Close()
		})
	}
}

// T26, T28: a program without the token is another user's, and gets a 401.
func TestLocalToken(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := serveLocal(t, "127.0.0.1", nil)
	host := "localhost:" + s.port
	for _, token := range []string{"", "wrong-wrong-wrong-wrong", s.token + "x", s.token[:len(s.token)-1], strings.ToUpper(s.token)} {
		s.refusedWith(s.request(host, "", token), 401, "unauthenticated")
	}
	s.refusedWith(s.request(host, "", "", "Cookie", "token="+s.token), 403, "origin")
	o := s.request(host, "", "")
	o.Path = "/?token=" + s.token
	s.refusedWith(o, 401, "unauthenticated")
	s.refusedWith(s.request(host, "", s.token, "Sec-WebSocket-Protocol", "chat, bearer."+s.token), 401, "unauthenticated")
}

// T01, T08: a page connects only if its origin is listed and it has the token.
func TestLocalPages(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := serveLocal(t, "127.0.0.1", nil)
	host := "localhost:" + s.port
	for _, origin := range []string{"https://evil.example", "http://localhost:" + s.port, "http://127.0.0.1:" + s.port, uiOrigin, "null", "file://"} {
		s.refusedWith(s.request(host, origin, s.token), 403, "origin")
	}

	s = serveLocal(t, "127.0.0.1", withUI)
	host = "localhost:" + s.port
	c, res := s.tryWith(s.request(host, uiOrigin, "", "Sec-WebSocket-Protocol", "chat, bearer."+s.token))
	if res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Protocol") != "chat" {
		t.Fatalf("%s, %v\n%s", res.Status, res.Header, s.events)
	}
	roundTrip(t, c, "hello")
	bye(c)
	s.refusedWith(s.request(host, uiOrigin, "", "Sec-WebSocket-Protocol", "chat"), 401, "unauthenticated")
	s.refusedWith(s.request(host, uiOrigin, "", "Sec-WebSocket-Protocol", "chat, bearer.wrong-wrong-wrong-wrong"), 401, "unauthenticated")
	s.refusedWith(s.request(host, "https://evil.example", "", "Sec-WebSocket-Protocol", "chat, bearer."+s.token), 403, "origin")
}

// sameHost is the check that gorilla/websocket documents for a nil CheckOrigin: the request
// fails if the Origin is present and its host is not equal to the Host.
func sameHost(r *http.Request) bool {
	from := r.Header.Get("Origin")
	if from == "" {
		return true
	}
	u, err := url.Parse(from)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// T09: DNS rebinding. The page of evil.example has had its name point to 127.0.0.1. Its Origin
// and its Host are equal, so that checks which compare the two pass it. LocalConfig does not,
// even if the page has the token and all pages of its own origin may connect.
func TestLocalRebinding(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := serveLocal(t, "127.0.0.1", func(cfg *wsguard.Config) { withUI(cfg); cfg.SameOrigin = true })
	others := map[string]*wstest.Server{
		"coder/websocket": wstest.Serve(t, coderWithDefaults()),
		"gorilla/websocket": wstest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !sameHost(r) {
				http.Error(w, "Forbidden", http.StatusForbidden)
				return
			}
			coderEcho().ServeHTTP(w, r)
		})),
		"InsecureSameOrigin": serveGuard(t, wsguard.Config{InsecureSameOrigin: true}).s,
	}
	for _, host := range []string{"evil.example", "evil.example:" + s.port, "localhost.evil.example:" + s.port, "127.0.0.1.evil.example:" + s.port} {
		s.refusedWith(s.request(host, "http://"+host, ""), 421, "host")
		s.refusedWith(s.request(host, "http://"+host, s.token), 421, "host")
		s.refusedWith(s.request(host, "", s.token), 421, "host")
		s.refusedWith(s.request(host, uiOrigin, s.token), 421, "host")
		for name, other := range others {
			c := other.Dial(t)
			res, err := c.HandshakeWith(s.request(host, "http://"+host, ""))
			if err != nil || res.StatusCode != 101 {
				t.Errorf("%s does not pass the page of %s: %v, %v; docs/local.md says that it does", name, host, res, err)
				continue
			}
			roundTrip(t, c, "stolen")
			bye(c)
		}
	}
	for name, other := range others { // they do check pages whose name is not that of the Host
		res, err := other.Dial(t).HandshakeWith(s.request("localhost:"+s.port, "http://evil.example", ""))
		if err != nil || res.StatusCode != 403 {
			t.Errorf("%s: %v, %v", name, res, err)
		}
	}
}

// coderWithDefaults is an echo on coder/websocket, which checks the origin by itself.
func coderWithDefaults() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		typ, msg, err := c.Read(context.Background())
		if err == nil && c.Write(context.Background(), typ, msg) == nil {
			c.Read(context.Background())
		}
	})
}

// T09: the port belongs to the name, so a request that was meant for another server of this
// machine is refused.
func TestLocalHostPort(t *testing.T) {
	wstest.CheckGoroutines(t)
	s := serveLocal(t, "127.0.0.1", nil)
	for _, host := range []string{
		"127.0.0.1", "localhost", "[::1]", "127.0.0.1:1", "localhost:1", "localhost.:" + s.port, "0.0.0.0:" + s.port, "[::]:" + s.port,
		"127.0.0.2:" + s.port, "2130706433:" + s.port, "sub.localhost:" + s.port,
	} {
		s.refusedWith(s.request(host, "", s.token), 421, "host")
	}
}

// handshakeFrom is a good handshake that seems to come from a peer.
func (s *local) handshakeFrom(peer string) *http.Request {
	r := upgradeRequest()
	r.RemoteAddr, r.Host = peer, "localhost:"+s.port
	r.Header.Del("Origin")
	r.Header.Set("Authorization", "Bearer "+s.token)
	return r
}

// T80: LoopbackOnly judges the TCP peer, whatever a header says.
func TestLoopbackOnlyPeers(t *testing.T) {
	s := serveLocal(t, "127.0.0.1", func(cfg *wsguard.Config) {
		cfg.InsecureAllowHTTP = true // clear text would be the next refusal
		cfg.Auth.Tickets = &wsguard.TicketConfig{}
	})
	cfg := wsguard.Config{LoopbackOnly: true, Hosts: []string{"localhost"}, AllowMissingOrigin: true}
	auth := s.g.Pieces().Auth
	checks := map[string]*wsguard.RequestCheck{
		"Origin": s.g.Pieces().Origin, "Host": s.g.Pieces().Host, "TLS": s.g.Pieces().TLS,
		"NewOriginCheck": must(wsguard.NewOriginCheck(cfg)), "NewHostCheck": must(wsguard.NewHostCheck(cfg)), "NewTLSCheck": must(wsguard.NewTLSCheck(cfg)),
	}
	for peer, status := range map[string]int{
		"127.0.0.1:1": 401, "127.255.255.254:1": 401, "[::1]:1": 401, "[::ffff:127.0.0.1]:1": 401,
		"192.0.2.1:1": 403, "[2001:db8::1]:1": 403, "10.0.0.1:1": 403, "[fe80::1%lo]:1": 403, "0.0.0.0:1": 403, "[::]:1": 403,
		"[64:ff9b::7f00:1]:1": 403, "[::ffff:192.0.2.1]:1": 403, // NAT64 of 127.0.0.1 comes from the network
		"": 403, "@": 403, "/run/s": 403, "127.0.0.1": 403, "localhost:1": 403,
	} {
		for _, name := range []string{"", "X-Forwarded-For", "X-Real-Ip", "Forwarded"} {
			for _, method := range []string{"GET", "POST"} {
				r := s.handshakeFrom(peer)
				r.Method = method
				r.Header.Set("Authorization", "Bearer wrong-wrong-wrong-wrong")
				switch name {
				case "":
				case "Forwarded":
					r.Header.Set(name, "for=127.0.0.1")
				default:
					r.Header.Set(name, "127.0.0.1")
				}
				h := s.g.Handler(echo)
				if method == "POST" {
					h = s.g.TicketHandler(nil)
					for _, h := range []string{"Upgrade", "Connection", "Sec-Websocket-Version", "Sec-Websocket-Key"} {
						r.Header.Del(h)
					}
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(hijackable{w}, r)
				got := w.Code
				if ok := got == status || status == 401 && got == 429; !ok { // many wrong tokens
					t.Errorf("%s %q %s: status %d, want %d", method, peer, name, got, status)
				}
			}
		}
		if _, err := auth.Authenticate(s.handshakeFrom(peer)); (err == nil) != (status == 401) {
			t.Errorf("Authenticator, %q: %v", peer, err)
		}
		for name, check := range checks {
			if err := check.Check(s.handshakeFrom(peer)); errors.Is(err, reason.ClientAddress) != (status == 403) {
				t.Errorf("%s, %q: %v", name, peer, err)
			}
		}
		lease, err := s.g.Pieces().Cap.Acquire(s.handshakeFrom(peer))
		if (err == nil) != (status == 401) {
			t.Errorf("ConnCap, %q: %v", peer, err)
		}
		if err == nil {
			lease.Release()
		}
	}
	for _, e := range s.events.of(audit.Refusal) {
		if e.Status == 403 && (e.Reason != "client_address" || e.Detail == "") {
			t.Errorf("%+v", e)
		}
	}
}

// T80: without LoopbackOnly the peer may be anywhere, and Reconfigure switches it.
func TestLoopbackOnlyReconfigure(t *testing.T) {
	cfg := wsguard.Config{Origins: []string{appOrigin}, InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}
	g := must(wsguard.New(cfg))
	status := func() int {
		r := upgradeRequest()
		r.RemoteAddr = "192.0.2.1:1"
		w := httptest.NewRecorder()
		g.Handler(echo).ServeHTTP(hijackable{w}, r)
		return w.Code
	}
	if got := status(); got != 401 {
		t.Errorf("by default: status %d", got)
	}
	cfg.LoopbackOnly = true
	if err := g.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	if got := status(); got != 403 {
		t.Errorf("with LoopbackOnly: status %d", got)
	}
}

// T80: a proxy makes everybody a loopback peer. New refuses one that is named, and the check
// of clear text one that is not.
func TestLoopbackOnlyProxies(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, trusted := range []string{"127.0.0.1", "10.0.0.0/8", "unix"} {
		cfg := wsguard.Config{
			Origins: []string{appOrigin}, LoopbackOnly: true, Proxies: wsguard.Proxies{Trusted: []string{trusted}},
			Auth: wsguard.AuthConfig{InsecureAnonymous: true},
		}
		_, err := wsguard.New(cfg)
		_, ofPiece := wsguard.NewTLSCheck(cfg)
		for _, err := range []error{err, ofPiece} {
			if got := faultsOf(t, err); !slices.Equal(got, []string{"LoopbackOnly"}) {
				t.Errorf("%s: %v", trusted, err)
			}
		}
	}
	s := serveLocal(t, "127.0.0.1", nil)
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Real-IP", "Via"} {
		s.refusedWith(s.request("localhost:"+s.port, "", s.token, name, "192.0.2.1"), 403, "insecure_transport")
	}
	if got := s.events.wait(t, audit.Refusal, 1).Detail; !strings.Contains(got, "LoopbackOnly") || strings.Contains(got, "Proxies.Trusted") {
		t.Errorf("the advice is %q", got)
	}
}

// T80: the pieces guard a plain HTTP handler of the same server.
func TestLocalPieces(t *testing.T) {
	s := serveLocal(t, "127.0.0.1", nil)
	p := s.g.Pieces()
	calls := 0
	api := p.Host.Handler(p.Auth.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ })))
	for _, tt := range []struct {
		peer, host, token string
		status            int
	}{
		{"127.0.0.1:1", "localhost:" + s.port, s.token, 200},
		{"127.0.0.1:1", "localhost:" + s.port, "", 401},
		{"127.0.0.1:1", "evil.example:" + s.port, s.token, 421},
		{"127.0.0.1:1", "localhost", s.token, 421},
		{"192.0.2.1:1", "localhost:" + s.port, s.token, 403},
	} {
		r := httptest.NewRequest("GET", "/api/", nil)
		r.RemoteAddr, r.Host = tt.peer, tt.host
		if tt.token != "" {
			r.Header.Set("Authorization", "Bearer "+tt.token)
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%+v: status %d", tt, w.Code)
		}
	}
	if calls != 1 {
		t.Errorf("%d calls of the handler", calls)
	}
}

// All clients have one address here, so that says nothing about a proxy.
func TestLoopbackOnlyOneClient(t *testing.T) {
	s := serveLocal(t, "127.0.0.1", func(cfg *wsguard.Config) { cfg.Rates.Handshakes.PerSecond = wsguard.Off })
	for range 150 {
		r := s.handshakeFrom("127.0.0.1:1")
		r.Header.Del("Authorization")
		s.g.Handler(echo).ServeHTTP(hijackable{httptest.NewRecorder()}, r)
	}
	if w := s.events.of(audit.Warning); len(w) > 0 {
		t.Errorf("%+v", w)
	}
}

type netAddr struct{ network, text string }

func (a netAddr) Network() string { return a.network }
func (a netAddr) String() string  { return a.text }

// T15: an address that other machines can reach is an error that says so.
func TestLocalConfigAddr(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, tt := range []struct {
		addr net.Addr
		want string // in the error; "": none
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}, ""},
		{&net.TCPAddr{IP: net.IPv6loopback, Port: 8080}, ""},
		{&net.TCPAddr{IP: net.IPv6loopback, Port: 8080, Zone: "lo"}, ""},
		{netAddr{"tcp", "127.0.0.1:8080"}, ""},
		{&net.TCPAddr{IP: net.IPv4zero, Port: 8080}, "whole network: listen on 127.0.0.1:8080"},
		{&net.TCPAddr{IP: net.IPv6unspecified, Port: 8080}, "whole network: listen on 127.0.0.1:8080"},
		{&net.TCPAddr{Port: 8080}, "whole network: listen on 127.0.0.1:8080"},
		{&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8080}, "not on loopback"},
		{&net.TCPAddr{IP: net.ParseIP("64:ff9b::7f00:1"), Port: 8080}, "not on loopback"},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "the port is 0"},
		{nil, "the address is nil"},
		{(*net.TCPAddr)(nil), "not an IP address"},
		{netAddr{"tcp", "localhost:8080"}, "not an IP address"},
		{&net.UnixAddr{Name: "/run/s", Net: "unix"}, "only TCP"},
		{&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}, "only TCP"},
	} {
		cfg, err := wsguard.LocalConfig(tt.addr, file)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "wsguard: LocalConfig: ") {
				t.Errorf("%v: %v, want %q", tt.addr, err, tt.want)
			}
			if _, err := wsguard.New(cfg); err == nil {
				t.Errorf("%v: New takes the Config beside the error", tt.addr)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%v: %v", tt.addr, err)
		}
		if want := []string{"localhost:8080", "127.0.0.1:8080", "[::1]:8080"}; !slices.Equal(cfg.Hosts, want) {
			t.Errorf("%v: the hosts are %v", tt.addr, cfg.Hosts)
		}
		if !cfg.LoopbackOnly || !cfg.AllowMissingOrigin || cfg.Origins != nil || cfg.Auth.Sources != (wsguard.TokenSources{Header: true, Subprotocol: "bearer."}) {
			t.Errorf("%+v", cfg)
		}
		if _, err := wsguard.New(cfg); err != nil {
			t.Error(err)
		}
	}
}

var loopback = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}

// A new token file has 256 random bits that only its owner can read, and is used again.
func TestLocalTokenFileIsCreated(t *testing.T) {
	var tokens []string
	for range 2 {
		file := filepath.Join(t.TempDir(), "token")
		for range 2 {
			if _, err := wsguard.LocalConfig(loopback, file); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(`^[A-Za-z0-9_-]{43}\n$`).Match(b) {
				t.Errorf("the file has %q", b)
			}
			tokens = append(tokens, string(b))
			if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		}
	}
	if tokens[0] != tokens[1] || tokens[2] != tokens[3] || tokens[0] == tokens[2] {
		t.Errorf("the tokens are %q", tokens)
	}
}

// T30: what a token file may be and have. No error has anything of the content.
func TestLocalTokenFileFaults(t *testing.T) {
	unix := runtime.GOOS != "windows" && runtime.GOOS != "plan9"
	const good = "Secret-Secret-Secret"
	write := func(content string, mode fs.FileMode) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			if err := errors.Join(os.WriteFile(file, []byte(content), 0o600), os.Chmod(file, mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(target string) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			write(good, 0o600)(t, filepath.Join(filepath.Dir(file), "target"))
			if err := os.Symlink(target, file); err != nil {
				t.Skip(err)
			}
		}
	}
	type fault struct {
		name    string
		prepare func(*testing.T, string)
		want    string // in the error; "": none
	}
	tests := []fault{
		{"newline", write(good+"\n", 0o600), ""},
		{"CRLF", write(good+"\r\n", 0o600), ""},
		{"no newline", write(good, 0o600), ""},
		{"read-only", write(good+"\n", 0o400), ""},
		{"16 bytes", write("Secret-Secret-16\n", 0o600), ""},
		{"15 bytes", write("Secret-Secret15\n", 0o600), "fewer than 16 bytes"},
		{"512 bytes", write(strings.Repeat("Secret--", 64)+"\r\n", 0o600), ""},
		{"513 bytes", write(strings.Repeat("Secret--", 64)+"S\r\n", 0o600), "more than 512 bytes"},
		{"huge", write(strings.Repeat("Secret--", 1<<16), 0o600), "more than 512 bytes"},
		{"empty", write("", 0o600), "is empty"},
		{"a newline only", write("\n", 0o600), "is empty"},
		{"two lines", write(good+"\n"+good+"\n", 0o600), "a second line"},
		{"two newlines", write(good+"\n\n", 0o600), "a second line"},
		{"space", write(" "+good+"\n", 0o600), "such as a space"},
		{"slash", write("Secret/Secret/Secret\n", 0o600), "a slash"},
		{"NUL", write(good+"\x00\n", 0o600), "a character"},
		{"UTF-8", write(good+"é\n", 0o600), "a character"},
		{"a directory", func(t *testing.T, file string) { must(0, os.Mkdir(file, 0o700)) }, "is a directory"},
		{"a socket", func(t *testing.T, file string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
			if err != nil {
				t.Skip(err) // long names of directories
			}
			t.Cleanup(func() { l.Close() })
		}, "is not a regular file"},
		{"a link", link("target"), "is a symbolic link"},
		{"a link to nothing", link("nothing"), "is a symbolic link"},
		{"no directory", func(t *testing.T, file string) { must(0, os.Remove(filepath.Dir(file))) }, "its directory must exist"},
	}
	for _, mode := range []fs.FileMode{0o640, 0o620, 0o604, 0o602, 0o644, 0o666, 0o601, 0o777, 0o440} {
		if unix {
			tests = append(tests, fault{mode.String(), write(good+"\n", mode), "has the mode 0"})
		}
	}
	if unix && os.Geteuid() == 0 {
		tests = append(tests, fault{"another owner", func(t *testing.T, file string) {
			write(good+"\n", 0o600)(t, file)
			must(0, os.Chown(file, 65534, -1))
		}, "belongs to the user 65534"})
	} else if unix {
		tests = append(tests,
			fault{"read-only directory", func(t *testing.T, file string) { must(0, os.Chmod(filepath.Dir(file), 0o500)) }, "must be able to write to it"},
			fault{"not readable", write(good+"\n", 0o200), "cannot be read"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // some wait for a writer
			dir := filepath.Join(t.TempDir(), "dir")
			must(0, os.Mkdir(dir, 0o700))
			file := filepath.Join(dir, "token")
			tt.prepare(t, file)
			_, err := wsguard.LocalConfig(loopback, file)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "token") {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "Secret") {
				t.Errorf("%v quotes the token", err)
			}
			if strings.HasPrefix(tt.name, "a link") {
				if _, err := os.Lstat(filepath.Join(dir, "nothing")); err == nil {
					t.Error("the link was followed")
				}
			}
		})
	}
}

// Processes that start at the same time agree on one token.
func TestLocalTokenFileRace(t *testing.T) {
	for range 20 {
		file := filepath.Join(t.TempDir(), "token")
		var wg sync.WaitGroup
		configs := make([]wsguard.Config, 8)
		for i := range configs {
			wg.Go(func() {
				var err error
				if configs[i], err = wsguard.LocalConfig(loopback, file); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		token := tokenOf(t, file)
		for _, cfg := range configs {
			if cfg.Auth.Verifier == nil {
				continue
			}
			if p, err := cfg.Auth.Verifier(context.Background(), token); err != nil || p.Subject != "local" {
				t.Errorf("%+v, %v", p, err)
			}
		}
	}
}

// A process waits for another one that has created the file and not written it yet.
func TestLocalTokenFileIsWrittenSlowly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		var errs []error
		for part := range bytes.SplitSeq([]byte("Secret-Secret-Secret,-and-the-rest,\n"), []byte(",")) {
			time.Sleep(50 * time.Millisecond)
			_, err := f.Write(part)
			errs = append(errs, err)
		}
		written <- errors.Join(append(errs, f.Close())...)
	}()
	cfg, err := wsguard.LocalConfig(loopback, file)
	if err := errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.Auth.Verifier(context.Background(), "Secret-Secret-Secret-and-the-rest"); err != nil {
		t.Error(err)
	}
}

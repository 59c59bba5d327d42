package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// These tests hold sentences of the README and of docs/ that no other test holds.

const claimOrigin = "https://app.example.com"

// claimed is a Guard behind a trusted proxy, in a bubble of synctest.
type claimed struct {
	t *testing.T
	g *wsguard.Guard
	s *wstest.Server

	mu     sync.Mutex
	events []audit.Event
}

// claim runs test with a Guard of cfg. Its handler echoes at every path but /ticket, which
// sells tickets by login. It takes the message "refresh TOKEN" for a newer credential.
func claim(t *testing.T, cfg wsguard.Config, login func(*http.Request) (wsguard.Principal, error), test func(*claimed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // the last: connections end in this time
		c := &claimed{t: t}
		if len(cfg.Origins) == 0 && !cfg.InsecureAnyOrigin {
			cfg.Origins = []string{claimOrigin}
		}
		cfg.Proxies.Trusted = []string{"127.0.0.1"}
		cfg.Logger = slog.New(slog.DiscardHandler)
		cfg.OnEvent = func(e audit.Event) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.events = append(c.events, e)
		}
		g, err := wsguard.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.g = g
		mux := http.NewServeMux()
		mux.Handle("/", g.Handler(func(ctx context.Context, conn *wsguard.Conn) error {
			for {
				typ, msg, err := conn.Read(ctx)
				if err != nil {
					return err
				}
				if token, ok := strings.CutPrefix(string(msg), "refresh "); ok {
					if conn.Refresh(ctx, token) != nil {
						token = "refused"
					}
					msg = []byte(token)
				}
				if err := conn.Write(ctx, typ, msg); err != nil {
					return err
				}
			}
		}))
		if cfg.Auth.Tickets != nil {
			mux.Handle("/ticket", g.TicketHandler(login))
		}
		c.s = wstest.ServePipe(t, mux)
		test(c)
	})
}

// do sends a request of the client at addr, and returns the status and the body of the
// answer. An empty value in kv removes a header.
func (c *claimed) do(method, path, addr string, kv ...string) (conn *wstest.Client, status int, text string) {
	c.t.Helper()
	h := http.Header{"Origin": {claimOrigin}, "X-Forwarded-For": {addr}, "X-Forwarded-Proto": {"https"}}
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == "" {
			h.Del(kv[i])
		} else {
			h.Set(kv[i], kv[i+1])
		}
	}
	conn = c.s.Dial(c.t)
	res, err := conn.HandshakeWith(wstest.HandshakeOptions{Method: method, Path: path, Header: h})
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	if res.StatusCode != 101 {
		b, _ := io.ReadAll(res.Body)
		text = string(b)
		conn.Close()
	}
	return conn, res.StatusCode, text
}

// want is do for a handshake that must get an answer, as in "429 guessing" or "101".
func (c *claimed) want(answer, path, addr string, kv ...string) *wstest.Client {
	c.t.Helper()
	conn, status, text := c.do("GET", path, addr, kv...)
	got := fmt.Sprint(status)
	if _, token, ok := strings.Cut(text, ": "); ok {
		got += " " + token
	}
	if got != answer {
		c.t.Errorf("%s from %s %v: %s, want %s", path, addr, kv, got, answer)
	}
	synctest.Wait() // what the handshake held is given back after the answer
	return conn
}

// buy buys a ticket, and returns the path of a handshake with it.
func (c *claimed) buy(addr string, kv ...string) string {
	c.t.Helper()
	_, status, text := c.do("POST", "/ticket", addr, kv...)
	_, ticket, ok := strings.Cut(text, `"ticket":"`)
	if ticket, _, _ = strings.Cut(ticket, `"`); status != 200 || !ok {
		c.t.Fatalf("no ticket: %d %s", status, text)
	}
	return "/ws?ticket=" + ticket
}

// closes reads until the close frame.
func (c *claimed) closes(conn *wstest.Client, code int, reason string) {
	c.t.Helper()
	conn.Timeout = 24 * time.Hour
	if got, text, err := conn.ReadClose(); err != nil || got != code || text != reason {
		c.t.Errorf("closed with %d %q, %v, want %d %s", got, text, err, code, reason)
	}
	conn.Close()
}

// claimNames takes every token that begins with good as the name of its owner.
func claimNames(_ context.Context, token string) (wsguard.Principal, error) {
	if strings.HasPrefix(token, "good") {
		return wsguard.Principal{Subject: token}, nil
	}
	return wsguard.Principal{}, errors.New("no such token")
}

func claimBearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

var (
	claimOff  = wsguard.Rate{PerSecond: wsguard.Off}
	claimOnce = func(burst int) wsguard.Rate { return wsguard.Rate{PerSecond: 1e-9, Burst: burst} }
)

// limits.md, Handshakes: 256 handshakes wait for a place in flight for a second, and 64 of one
// client. Others are refused at once.
func TestClaimWhoWaits(t *testing.T) {
	release := make(chan struct{})
	cfg := wsguard.Config{
		Rates: wsguard.RateConfig{Handshakes: claimOff, MaxInFlightPerClient: 1},
		Auth: wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
			<-release
			return claimNames(ctx, token)
		}},
	}
	claim(t, cfg, nil, func(c *claimed) {
		release = make(chan struct{})
		const clients, each = 5, 70
		var mu sync.Mutex
		var wg sync.WaitGroup
		waited := map[string]map[time.Duration]int{}
		for i := range clients {
			addr := fmt.Sprintf("192.0.2.%d", i)
			waited[addr] = map[time.Duration]int{}
			wg.Go(func() { c.do("GET", "/", addr, claimBearer("good")...) }) // takes the place
			synctest.Wait()
		}
		for i := range clients {
			addr := fmt.Sprintf("192.0.2.%d", i)
			for range each {
				wg.Go(func() {
					start := time.Now()
					_, status, text := c.do("GET", "/", addr, claimBearer("good")...)
					mu.Lock()
					defer mu.Unlock()
					if waited[addr][time.Since(start)]++; status != 429 || text != "Too Many Requests: in_flight" {
						t.Errorf("%d %s", status, text)
					}
				})
			}
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		close(release)
		wg.Wait()
		all := 0
		for addr, n := range waited {
			all += n[time.Second]
			if n[0]+n[time.Second] != each || n[time.Second] > 64 {
				t.Errorf("%s waited %v", addr, n)
			}
		}
		if n := waited["192.0.2.0"][time.Second]; n != 64 || all != 256 {
			t.Errorf("%d of one client waited, and %d in all", n, all)
		}
	})
}

// running-services.md, What Observe does not let pass: the checks that are not limits of the
// service still refuse and close.
func TestClaimObserveStillEnds(t *testing.T) {
	cfg := wsguard.Config{
		Observe: true, Auth: wsguard.AuthConfig{InsecureAnonymous: true},
		Messages: wsguard.MessageConfig{MaxBytes: 1 << 10}, Subprotocols: []string{"chat"},
	}
	claim(t, cfg, nil, func(c *claimed) {
		for want, frame := range map[string][]byte{
			"1009 message_too_big": {0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0}, // the header of one byte more than 16 MiB
			"1007 invalid_utf8":    wstest.AppendFrame(nil, wstest.Text("\xff")),
			"1002 protocol_error":  wstest.AppendFrame(nil, claimPart(0, true)),
		} {
			conn := c.want("101", "/", "192.0.2.1")
			conn.Write(frame)
			var code int
			var reason string
			fmt.Sscan(want, &code, &reason)
			c.closes(conn, code, reason)
		}
		c.want("403 origin", "/", "192.0.2.1", "Origin", "https://evil.example")
		c.want("400 subprotocol", "/", "192.0.2.1", "Sec-WebSocket-Protocol", "other")
	})
}

// authentication.md, Tickets: with Authenticate and without a login, a request without an
// Authorization header is judged by Authenticate, and one with the header by the Verifier.
func TestClaimTicketByAuthenticate(t *testing.T) {
	cfg := wsguard.Config{Auth: wsguard.AuthConfig{
		Tickets: &wsguard.TicketConfig{}, Verifier: claimNames,
		Authenticate: func(r *http.Request) (wsguard.Principal, error) {
			if r.Header.Get("Cookie") == "session=alice" {
				return wsguard.Principal{Subject: "alice"}, nil
			}
			return wsguard.Principal{}, wsguard.ErrNoCredential
		},
	}}
	claim(t, cfg, nil, func(c *claimed) {
		for want, kv := range map[string][]string{"alice": {"Cookie", "session=alice"}, "good": {"Cookie", "session=alice", "Authorization", "Bearer good"}} {
			conn := c.want("101", c.buy("192.0.2.1", kv...), "192.0.2.1")
			for s := range c.g.Admin().Sessions() {
				if s.Subject != want {
					t.Errorf("%v: a ticket of %s", kv, s.Subject)
				}
			}
			conn.Close()
			synctest.Wait()
		}
		for _, kv := range [][]string{{"Cookie", "session=alice", "Authorization", "Bearer bad"}, {"Cookie", "session=alice", "Origin", "https://evil.example"}, nil} {
			if _, status, text := c.do("POST", "/ticket", "192.0.2.1", kv...); status != 401 && status != 403 {
				t.Errorf("%v: %d %s", kv, status, text)
			}
		}
	})
}

// authentication.md, Tickets: a ticket belongs to the Origin that bought it. One that was
// bought without an Origin is good for every allowed origin.
func TestClaimTicketOfNoOrigin(t *testing.T) {
	other := "https://other.example"
	cfg := wsguard.Config{Origins: []string{claimOrigin, other}, Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}, Verifier: claimNames}}
	claim(t, cfg, nil, func(c *claimed) {
		c.want("401 unauthenticated", c.buy("192.0.2.1", claimBearer("good")...), "192.0.2.1", "Origin", other)
		for _, at := range []string{claimOrigin, other} {
			c.want("101", c.buy("192.0.2.1", "Origin", "", "Authorization", "Bearer good"), "192.0.2.1", "Origin", at).Close()
		}
	})
}

// authentication.md, Tickets: a handshake that the rate of its subject refuses gets its ticket
// back. One that Attach refuses does not.
func TestClaimTicketBack(t *testing.T) {
	refuse := false
	cfg := wsguard.Config{
		Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: 0.1, Burst: 2}},
		Auth:  wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}, Verifier: claimNames},
		Attach: func(*http.Request, wsguard.Principal) (any, error) {
			if refuse {
				return nil, errors.New("no")
			}
			return nil, nil
		},
	}
	claim(t, cfg, nil, func(c *claimed) {
		path := c.buy("192.0.2.1", claimBearer("good")...)
		c.want("101", "/ws", "192.0.2.2", claimBearer("good")...).Close()
		c.want("429 handshake_rate", path, "192.0.2.3")
		time.Sleep(10 * time.Second)
		c.want("101", path, "192.0.2.4").Close()
		time.Sleep(time.Minute)
		path, refuse = c.buy("192.0.2.1", claimBearer("good")...), true
		c.want("403 forbidden", path, "192.0.2.1")
		refuse = false
		time.Sleep(10 * time.Second)
		c.want("401 unauthenticated", path, "192.0.2.1")
	})
}

// authentication.md, Tickets: with TicketsOnly, the tokens of the Verifier count in Refresh and
// in no handshake.
func TestClaimTicketsOnlyRefresh(t *testing.T) {
	cfg := wsguard.Config{Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}, Verifier: claimNames, Sources: wsguard.TokenSources{TicketsOnly: true}}}
	claim(t, cfg, nil, func(c *claimed) {
		c.want("401 unauthenticated", "/", "192.0.2.1", claimBearer("good")...)
		conn := c.want("101", c.buy("192.0.2.1", claimBearer("good")...), "192.0.2.1")
		for _, tt := range [][2]string{{"good", "good"}, {"bad", "refused"}} {
			conn.WriteFrame(wstest.Text("refresh " + tt[0]))
			if _, got, err := conn.ReadMessage(); err != nil || string(got) != tt[1] {
				t.Errorf("refresh with %s: %s %v", tt[0], got, err)
			}
		}
		conn.Close()
	})
}

// authentication.md, Which pages may connect: what browsers send by themselves cannot be
// combined with InsecureAnyOrigin.
func TestClaimAnyOriginAndLogin(t *testing.T) {
	_, err := wsguard.New(wsguard.Config{InsecureAnyOrigin: true, Auth: wsguard.AuthConfig{
		Authenticate: func(*http.Request) (wsguard.Principal, error) { return wsguard.Principal{}, wsguard.ErrNoCredential },
	}})
	var fault *wsguard.ConfigError
	if !errors.As(err, &fault) || fault.Field != "InsecureAnyOrigin" {
		t.Error(err)
	}
}

// operations.md, When a hook panics: OriginFunc and Authenticate fail closed if they end their
// goroutine.
func TestClaimGoexit(t *testing.T) {
	cfg := wsguard.Config{
		OriginFunc: func(context.Context, string, string) (bool, error) {
			runtime.Goexit()
			return true, nil
		},
		Auth: wsguard.AuthConfig{Authenticate: func(*http.Request) (wsguard.Principal, error) {
			runtime.Goexit()
			return wsguard.Principal{Subject: "alice"}, nil
		}},
	}
	claim(t, cfg, nil, func(c *claimed) {
		c.want("503 unavailable", "/", "192.0.2.1", "Origin", "https://other.example")
		c.want("503 unavailable", "/", "192.0.2.1", "Cookie", "session=alice")
	})
}

// limits.md, Handshakes: bad tickets are counted apart from other bad credentials.
func TestClaimBadTicketsApart(t *testing.T) {
	cfg := wsguard.Config{Auth: wsguard.AuthConfig{Failures: claimOnce(2), Tickets: &wsguard.TicketConfig{}, Verifier: claimNames}}
	claim(t, cfg, nil, func(c *claimed) {
		c.want("401 unauthenticated", "/?ticket=a", "192.0.2.1")
		c.want("401 unauthenticated", "/?ticket=b", "192.0.2.1")
		c.want("429 guessing", "/?ticket=c", "192.0.2.1")
		c.want("401 unauthenticated", "/", "192.0.2.1", claimBearer("a")...)
		c.want("101", "/", "192.0.2.1", claimBearer("good")...).Close()
	})
}

// authentication.md, Which way for whom: a Guard refuses a cookie without an Origin, and that
// of a foreign page, with 403. Where origins are only reported, it is a 401.
func TestClaimCookieStatus(t *testing.T) {
	for _, report := range []bool{false, true} {
		want := "403 origin"
		if report {
			want = "401 unauthenticated"
		}
		cfg := wsguard.Config{
			InsecureReportOnlyOrigins: report, AllowMissingOrigin: true, Hosts: []string{"127.0.0.1"},
			Auth: wsguard.AuthConfig{Verifier: claimNames, Sources: wsguard.TokenSources{Cookie: "session"}},
		}
		claim(t, cfg, nil, func(c *claimed) {
			c.want("101", "/", "192.0.2.1", "Cookie", "session=good").Close()
			for _, from := range []string{"", "null", "https://evil.example"} {
				c.want(want, "/", "192.0.2.1", "Cookie", "session=good", "Origin", from)
			}
		})
	}
}

// authentication.md, What a page can learn: only pages of an allowed origin are told by a close
// code. InsecureAnyOrigin allows none.
func TestClaimExplained(t *testing.T) {
	auth := wsguard.AuthConfig{Verifier: claimNames, MaxExplained: 20}
	for _, any := range []bool{false, true} {
		claim(t, wsguard.Config{Origins: []string{claimOrigin}, InsecureAnyOrigin: any, Auth: auth}, nil, func(c *claimed) {
			c.closes(c.want("101", "/", "192.0.2.1", claimBearer("bad")...), 3000, "unauthenticated")
			want := "403 origin"
			if any {
				want = "401 unauthenticated"
			}
			c.want(want, "/", "192.0.2.1", "Origin", "https://evil.example", "Authorization", "Bearer bad")
		})
	}
}

// limits.md, Connections: the defaults of the two caps of a client depend on each other.
func TestClaimCapsOfAClient(t *testing.T) {
	for _, tt := range []struct {
		caps             wsguard.CapConfig
		strangers, users int // how many of 80 handshakes in a row open a connection
	}{
		{wsguard.CapConfig{}, 64, 80},
		{wsguard.CapConfig{MaxUsersPerClient: 5}, 5, 5},
		{wsguard.CapConfig{MaxUsersPerClient: 70}, 64, 70},
		{wsguard.CapConfig{MaxConnsPerClient: 3}, 3, 3},
		{wsguard.CapConfig{MaxConnsPerClient: wsguard.Off}, 80, 80},
		{wsguard.CapConfig{MaxConnsPerClient: wsguard.Off, MaxUsersPerClient: 6}, 6, 6},
		{wsguard.CapConfig{MaxUsersPerClient: wsguard.Off}, 64, 80},
	} {
		for _, users := range []bool{false, true} {
			cfg := wsguard.Config{Caps: tt.caps, Rates: wsguard.RateConfig{Handshakes: claimOff}, Auth: wsguard.AuthConfig{Verifier: claimNames, InsecureAnonymous: true}}
			claim(t, cfg, nil, func(c *claimed) {
				opened, want := 0, tt.strangers
				for i := range 80 {
					kv := []string{}
					if users {
						kv, want = claimBearer(fmt.Sprint("good", i)), tt.users
					}
					if _, status, text := c.do("GET", "/", "192.0.2.1", kv...); status == 101 {
						opened++
					} else if text != "Too Many Requests: max_client_conns" {
						t.Errorf("%+v: %d %s", tt.caps, status, text)
					}
				}
				if opened != want {
					t.Errorf("%+v, users %t: %d were opened, want %d", tt.caps, users, opened, want)
				}
			})
		}
	}
	if _, err := wsguard.New(wsguard.Config{Origins: []string{claimOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Caps: wsguard.CapConfig{MaxConnsPerClient: 5, MaxUsersPerClient: 4}}); err == nil {
		t.Error("MaxUsersPerClient below MaxConnsPerClient is accepted")
	}
}

// limits.md, Changing them: Reconfigure keeps the State, the Logger and OnEvent of New.
func TestClaimReconfigureKeeps(t *testing.T) {
	claim(t, wsguard.Config{Auth: wsguard.AuthConfig{InsecureAnonymous: true}}, nil, func(c *claimed) {
		err := c.g.Reconfigure(wsguard.Config{
			Origins: []string{claimOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Proxies: wsguard.Proxies{Trusted: []string{"127.0.0.1"}},
			State: wsguard.NewState(), OnEvent: func(e audit.Event) { t.Errorf("the new hook gets %+v", e) },
			Logger: slog.New(slog.NewTextHandler(claimWriter{t}, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		conn := c.want("101", "/", "192.0.2.1")
		c.mu.Lock()
		if n := len(c.events); n != 3 || c.events[0].Kind != audit.Reconfigured || c.events[1].Kind != audit.Accepted || c.events[2].Kind != audit.Open {
			t.Errorf("%+v", c.events)
		}
		c.mu.Unlock()
		conn.Close()
	})
}

// claimWriter fails the test with what is written to it.
type claimWriter struct{ t *testing.T }

func (w claimWriter) Write(p []byte) (int, error) {
	w.t.Errorf("the new log gets %s", p)
	return len(p), nil
}

// limits.md: Off is an error in the fields that cannot be Off.
func TestClaimNotOff(t *testing.T) {
	for field, cfg := range map[string]wsguard.Config{
		"Rates.WarnAt":             {Rates: wsguard.RateConfig{WarnAt: wsguard.Off}},
		"Messages.Validator.Types": {Messages: wsguard.MessageConfig{Validator: &wsguard.Table{Types: map[string]wsguard.Rule{"a": {Cost: wsguard.Off}}}}},
		"Messages.Outbound.Types":  {Messages: wsguard.MessageConfig{Outbound: &wsguard.Table{Types: map[string]wsguard.Rule{"a": {MaxBytes: wsguard.Off}}}}},
	} {
		cfg.Origins, cfg.Auth.InsecureAnonymous = []string{claimOrigin}, true
		var fault *wsguard.ConfigError
		if _, err := wsguard.New(cfg); !errors.As(err, &fault) || fault.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// operations.md, Logs, has a line for each kind of event, and names each warning.
func TestClaimLogPage(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	_, page, _ := strings.Cut(read("docs/operations.md"), "\n## Logs\n")
	page, _, _ = strings.Cut(page, "\n## ")
	source := read("audit/audit.go")
	kinds := regexp.MustCompile(`(?m)^\t\w+ +Kind = "(\w+)"`).FindAllStringSubmatch(source, -1)
	if len(kinds) < 13 {
		t.Fatalf("only %d kinds", len(kinds))
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `websocket (\\w+)` \\|").FindAllStringSubmatch(page, -1) {
		listed = append(listed, m[1])
	}
	for _, m := range kinds {
		if !slices.Contains(listed, m[1]) {
			t.Errorf("docs/operations.md has no line for websocket %s", m[1])
		}
	}
	if len(listed) != len(kinds) {
		t.Errorf("%d kinds are listed, want %d", len(listed), len(kinds))
	}
	_, warnings, _ := strings.Cut(source, "For a Warning it is ")
	warnings, _, _ = strings.Cut(warnings, ". It is")
	named := regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(warnings, -1)
	if len(named) < 7 {
		t.Fatalf("only %d warnings in %q", len(named), warnings)
	}
	for _, m := range named {
		if !strings.Contains(page, "`"+m[1]+"`") {
			t.Errorf("docs/operations.md does not name the warning %s", m[1])
		}
	}
}

// authentication.md and the audit package: the event and the log of SignOut do not name the
// login, because its name may be a secret.
func TestClaimSignOutNamesNoLogin(t *testing.T) {
	var log strings.Builder
	const secret = "a-secret-of-the-application"
	g, err := wsguard.New(wsguard.Config{
		Origins: []string{claimOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		OnEvent: func(e audit.Event) {
			if s := fmt.Sprintf("%+v", e); strings.Contains(s, secret) {
				t.Error(s)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Admin().SignOut(secret)
	if s := log.String(); strings.Contains(s, secret) || !strings.Contains(s, "websocket sign_out") {
		t.Error(s)
	}
}

// claimPart is a frame of a message.
func claimPart(op byte, fin bool) wstest.Frame {
	f := wstest.Text("x")
	f.Opcode, f.Fin = op, fin
	return f
}

// limits.md, Repeat offenders, lists the weights. A Burst of 10 allows 10 offences of weight 1,
// 5 of weight 2, and 2 of weight 5.
func TestClaimWeights(t *testing.T) {
	page, err := os.ReadFile("docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := func(weight int, phrase string) {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \|.*$`, weight)).FindString(string(page))
		if !strings.Contains(row, phrase) {
			t.Errorf("docs/limits.md does not say that the weight of %q is %d", phrase, weight)
		}
	}
	// until commits an offence until the client is banned.
	until := func(c *claimed, addr string, weight int, phrase string, allowed int, offend func()) {
		listed(weight, phrase)
		for i := 0; i <= 20; i++ {
			offend()
			synctest.Wait()
			banned := slices.ContainsFunc(c.g.Admin().Bans(), func(b audit.Ban) bool { return b.Client == addr })
			if banned || i == 20 {
				if !banned || i != allowed {
					t.Errorf("%s: banned %t after %d offences, want %d to be allowed", phrase, banned, i+1, allowed)
				}
				return
			}
		}
	}
	penalties := wsguard.PenaltyConfig{Violations: claimOnce(10)}

	claim(t, wsguard.Config{
		Penalties: penalties,
		Auth:      wsguard.AuthConfig{Verifier: claimNames, Failures: claimOff, Sources: wsguard.TokenSources{Header: true, FirstMessage: true}},
		Caps:      wsguard.CapConfig{MaxConnsPerSubject: wsguard.Off},
		Rates:     wsguard.RateConfig{Handshakes: claimOff, Messages: claimOnce(3), ClientMessages: claimOff, SubjectMessages: claimOff},
		Messages: wsguard.MessageConfig{
			MaxBytes: 1 << 10, MaxFragments: 2, ControlFrames: claimOnce(1),
			Validator: &wsguard.Table{Types: map[string]wsguard.Rule{
				"a": {}, "b": {Scope: "x"}, "c": {Validator: claimRefuse{}},
			}},
		},
	}, nil, func(c *claimed) {
		text := func(n int, s string) (all []wstest.Frame) {
			for range n {
				all = append(all, wstest.Text(s))
			}
			return all
		}
		illegal := wstest.Text("x")
		illegal.RSV = 1
		for i, tt := range []struct {
			weight, allowed int
			phrase, reason  string
			frames          []wstest.Frame
		}{
			{1, 10, "message type", "message_type", []wstest.Frame{wstest.Binary([]byte("x"))}},
			{1, 10, "UTF-8", "invalid_utf8", text(1, "\xff")},
			{1, 10, "JSON", "invalid_json", text(1, "{")},
			{1, 10, "schema", "schema", text(1, `{"type":"c"}`)},
			{1, 10, "unknown type", "unknown_type", text(1, `{"type":"d"}`)},
			{1, 10, "forbidden", "forbidden", text(1, `{"type":"b"}`)},
			{1, 10, "rate", "rate_limited", text(4, `{"type":"a"}`)},
			{2, 5, "message too big", "message_too_big", text(1, strings.Repeat("x", 2000))},
			{2, 5, "JSON limits", "json_limit", text(1, strings.Repeat("[", 100))},
			{2, 5, "message timeout", "message_timeout", []wstest.Frame{claimPart(wstest.OpText, false)}},
			{5, 2, "illegal frames", "protocol_error", []wstest.Frame{illegal}},
			{5, 2, "fragments", "fragments", []wstest.Frame{claimPart(wstest.OpText, false), claimPart(0, false), claimPart(0, true)}},
			{5, 2, "control floods", "control_flood", []wstest.Frame{wstest.Pong(nil), wstest.Pong(nil)}},
		} {
			addr := fmt.Sprintf("192.0.2.%d", i)
			until(c, addr, tt.weight, tt.phrase, tt.allowed, func() {
				conn := c.want("101", "/", addr, claimBearer("good")...)
				conn.Timeout = time.Hour
				for _, f := range tt.frames {
					conn.WriteFrame(f)
				}
				for {
					if _, _, err := conn.ReadMessage(); err != nil {
						if !strings.Contains(err.Error(), tt.reason) {
							t.Errorf("%s: %v", tt.phrase, err)
						}
						break
					}
				}
				conn.Close()
			})
		}
		until(c, "198.51.100.1", 1, "a bad credential", 10, func() {
			c.want("401 unauthenticated", "/", "198.51.100.1", claimBearer(fmt.Sprint("bad", time.Now()))...)
		})
		until(c, "198.51.100.2", 1, "no first message", 10, func() { c.closes(c.want("101", "/", "198.51.100.2"), 3008, "auth_timeout") })
	})

	anonymous := wsguard.AuthConfig{InsecureAnonymous: true}
	claim(t, wsguard.Config{Penalties: penalties, Auth: anonymous, Rates: wsguard.RateConfig{Handshakes: claimOnce(1)}}, nil, func(c *claimed) {
		c.want("101", "/", "192.0.2.1").Close()
		until(c, "192.0.2.1", 1, "handshake rate", 10, func() { c.want("429 handshake_rate", "/", "192.0.2.1") })
	})
	claim(t, wsguard.Config{Penalties: penalties, Auth: anonymous, Caps: wsguard.CapConfig{MaxConnsPerClient: 1}}, nil, func(c *claimed) {
		conn := c.want("101", "/", "192.0.2.1")
		until(c, "192.0.2.1", 1, "client's cap", 10, func() { c.want("429 max_client_conns", "/", "192.0.2.1") })
		conn.Close()
	})
	claim(t, wsguard.Config{Penalties: penalties, Auth: wsguard.AuthConfig{Verifier: claimNames, Failures: claimOnce(1)}}, nil, func(c *claimed) {
		c.want("401 unauthenticated", "/", "192.0.2.1", claimBearer("bad")...) // has a weight of 1
		until(c, "192.0.2.1", 2, "guessing", 4, func() { c.want("429 guessing", "/", "192.0.2.1", claimBearer("worse")...) })
	})
	claim(t, wsguard.Config{Penalties: penalties, Rates: wsguard.RateConfig{MaxInFlightPerClient: 1}, Auth: wsguard.AuthConfig{
		VerifyTimeout: time.Minute, Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
			<-ctx.Done()
			return claimNames(ctx, token)
		},
	}}, nil, func(c *claimed) {
		busy := c.s.Dial(t)
		busy.Timeout = time.Hour
		go busy.Handshake("/", http.Header{"Origin": {claimOrigin}, "X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}, "Authorization": {"Bearer good"}})
		synctest.Wait()
		until(c, "192.0.2.1", 1, "in flight", 10, func() { c.want("429 in_flight", "/", "192.0.2.1", claimBearer("good")...) })
		busy.Close()
	})
}

// claimRefuse is a Validator that refuses every message.
type claimRefuse struct{}

func (claimRefuse) Validate([]byte) error { return errors.New("no") }

package wsguard_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// firstEnv is a guard in a bubble of synctest, and what it has reported.
type firstEnv struct {
	t *testing.T
	g *wsguard.Guard
	s *wstest.Server

	mu     sync.Mutex
	events []audit.Event
}

// of returns the events of a kind.
func (e *firstEnv) of(kind audit.Kind) (found []audit.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.events {
		if ev.Kind == kind {
			found = append(found, ev)
		}
	}
	return found
}

// dial opens a connection without a credential in the handshake.
func (e *firstEnv) dial() *wstest.Client {
	e.t.Helper()
	c := e.s.Dial(e.t)
	c.Timeout = 1000 * time.Hour
	res, err := c.HandshakeWith(wstest.HandshakeOptions{Path: "/room?id=7", Header: http.Header{"Origin": {"https://app.example.com"}}})
	if err != nil || res.StatusCode != 101 {
		e.t.Fatalf("handshake: %v, %v", res, err)
	}
	return c
}

// firstNames is a Verifier for which the token is the subject. It refuses "bad".
func firstNames(_ context.Context, token string) (wsguard.Principal, error) {
	if token == "bad" {
		return wsguard.Principal{}, errors.New("bad")
	}
	return wsguard.Principal{Subject: token}, nil
}

// firstServe runs test with a guard whose handler echoes. All slots must be free afterwards.
func firstServe(t *testing.T, change func(*wsguard.Config), handler func(context.Context, *wsguard.Conn) error, test func(*firstEnv)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &firstEnv{t: t}
		cfg := wsguard.Config{
			Origins: []string{"https://app.example.com"},
			Auth:    wsguard.AuthConfig{Verifier: firstNames, Sources: wsguard.TokenSources{FirstMessage: true}},
			Logger:  slog.New(slog.DiscardHandler),
			OnEvent: func(ev audit.Event) {
				e.mu.Lock()
				defer e.mu.Unlock()
				e.events = append(e.events, ev)
			},
		}
		cfg.Timeouts.PingInterval = wsguard.Off
		change(&cfg)
		g, err := wsguard.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		e.g = g
		if handler == nil {
			handler = firstEcho
		}
		e.s = wstest.ServePipe(t, g.Handler(handler))
		t.Cleanup(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			g.Shutdown(ctx)
			time.Sleep(time.Minute)
			if n := g.Conns(); n != 0 {
				t.Errorf("%d slots are held", n)
			}
		})
		test(e)
	})
}

func firstEcho(ctx context.Context, c *wsguard.Conn) error {
	for {
		typ, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.Write(ctx, typ, msg); err != nil {
			return err
		}
	}
}

func firstSay(c *wstest.Client, texts ...string) {
	for _, text := range texts {
		c.WriteFrame(wstest.Text(text))
	}
}

func firstWant(t *testing.T, c *wstest.Client, texts ...string) {
	t.Helper()
	for _, want := range texts {
		if _, got, err := c.ReadMessage(); err != nil || string(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
}

func firstClosed(t *testing.T, c *wstest.Client, code int, text string) {
	t.Helper()
	if got, why, err := c.ReadClose(); err != nil || got != code || why != text {
		t.Errorf("closed with %d %q, %v; want %d %q", got, why, err, code, text)
	}
}

// shibboleth is a protocol whose credential is "login TOKEN".
func shibboleth() *wsguard.FirstMessage {
	return &wsguard.FirstMessage{
		Hello: []byte("who is there?"),
		Take: func(msg []byte) (string, []byte, error) {
			word, rest, _ := strings.Cut(string(msg), " ")
			switch word {
			case "login":
				return rest, nil, nil
			case "hush":
				return "", nil, nil
			case "greet":
				return "", []byte("hello"), nil
			case "greet-login":
				return rest, []byte("one moment"), nil
			case "long":
				return "", []byte(strings.Repeat("x", 257)), nil
			case "longest":
				return "", []byte(strings.Repeat("x", 256)), nil
			case "latin":
				return "", []byte("\xe4"), nil
			case "panic":
				panic(rest)
			case "exit":
				runtime.Goexit()
			case "slow":
				time.Sleep(time.Minute)
			case "unavailable":
				return "", nil, wsguard.ErrUnavailable
			case "nobody":
				return "", nil, wsguard.ErrNoCredential
			}
			return "", []byte("sorry"), errors.New("what is " + string(msg))
		},
		Accepted: func(p wsguard.Principal) []byte {
			switch p.Subject {
			case "panic":
				panic("in Accepted")
			case "latin":
				return []byte("\xe4")
			case "silent":
				return nil
			case "slow":
				time.Sleep(time.Minute)
			}
			return []byte("welcome " + p.Subject)
		},
	}
}

// The client gets Hello, a reply to each message, and Accepted's message. The application sees
// none of the messages, and they do not count as its own.
func TestFirstMessageProtocol(t *testing.T) {
	attached := make(chan string, 1)
	change := func(cfg *wsguard.Config) {
		cfg.Auth.FirstMessage = shibboleth()
		cfg.Attach = func(_ *http.Request, p wsguard.Principal) (any, error) { attached <- p.Subject; return nil, nil }
	}
	firstServe(t, change, nil, func(e *firstEnv) {
		c := e.dial()
		firstWant(e.t, c, "who is there?")
		firstSay(c, "greet", "hush", "longest", "greet-login alice", "echo")
		firstWant(e.t, c, "hello", strings.Repeat("x", 256), "one moment", "welcome alice", "echo")
		if got := <-attached; got != "alice" {
			e.t.Error("attached", got)
		}
		synctest.Wait()
		for s := range e.g.Admin().Sessions() {
			if s.Subject != "alice" || s.Stats.MessagesOut != 1 || s.Stats.BytesOut != 4 {
				e.t.Errorf("%+v", s)
			}
		}
		c = e.dial()
		firstSay(c, "login silent", "echo")
		firstWant(e.t, c, "who is there?", "echo")
	})
}

// How a connection ends that does not authenticate as its protocol says.
func TestFirstMessageEndings(t *testing.T) {
	for name, tt := range map[string]struct {
		say    []string
		answer []string
		code   int
		text   string
		guess  bool // a violation is reported
	}{
		"error":            {[]string{"junk"}, []string{"sorry"}, 3000, "unauthenticated", true},
		"refused token":    {[]string{"login bad"}, nil, 3000, "unauthenticated", true},
		"long token":       {[]string{"login " + strings.Repeat("x", 8193)}, nil, 3000, "unauthenticated", true},
		"five messages":    {[]string{"greet", "greet", "hush", "greet", "login alice"}, []string{"hello", "hello", "hello"}, 3000, "unauthenticated", true},
		"four messages":    {[]string{"hush", "hush", "hush", "hush"}, nil, 3008, "auth_timeout", true},
		"silence":          {nil, nil, 3008, "auth_timeout", true},
		"too big":          {[]string{"greet", strings.Repeat("x", 10001)}, []string{"hello"}, 1009, "message_too_big", true},
		"nobody":           {[]string{"nobody"}, nil, 3000, "unauthenticated", true},
		"long reply":       {[]string{"long"}, nil, 1013, "unavailable", false},
		"reply not UTF-8":  {[]string{"latin"}, nil, 1013, "unavailable", false},
		"panic":            {[]string{"panic secret"}, nil, 1013, "unavailable", false},
		"Goexit":           {[]string{"exit"}, nil, 1011, "internal_error", false},
		"slow":             {[]string{"slow"}, nil, 1013, "unavailable", false},
		"unavailable":      {[]string{"unavailable"}, nil, 1013, "unavailable", false},
		"Accepted panics":  {[]string{"login panic"}, nil, 1013, "unavailable", false},
		"Accepted slow":    {[]string{"login slow"}, nil, 1013, "unavailable", false},
		"Accepted not utf": {[]string{"login latin"}, nil, 1013, "unavailable", false},
	} {
		t.Run(name, func(t *testing.T) {
			firstServe(t, func(cfg *wsguard.Config) {
				cfg.Auth.FirstMessage, cfg.Auth.FirstMessageBytes = shibboleth(), 10000
			}, func(context.Context, *wsguard.Conn) error {
				t.Error("the handler runs")
				return nil
			}, func(e *firstEnv) {
				c := e.dial()
				firstWant(e.t, c, "who is there?")
				firstSay(c, tt.say...)
				firstWant(e.t, c, tt.answer...)
				firstClosed(e.t, c, tt.code, tt.text)
				time.Sleep(time.Minute)
				if n := len(e.of(audit.Violation)); (n > 0) != tt.guess {
					e.t.Errorf("%d violations", n)
				}
				for _, ev := range append(e.of(audit.Close), e.of(audit.Violation)...) {
					if strings.Contains(ev.Detail, "secret") || strings.Contains(ev.Detail, "junk") {
						e.t.Errorf("an event discloses %q", ev.Detail)
					}
				}
			})
		})
	}
	t.Run("binary", func(t *testing.T) {
		firstServe(t, func(cfg *wsguard.Config) {
			cfg.Auth.FirstMessage, cfg.Messages.Binary = shibboleth(), true
		}, nil, func(e *firstEnv) {
			c := e.dial()
			c.WriteFrame(wstest.Binary([]byte("login alice")))
			firstWant(e.t, c, "who is there?")
			firstClosed(e.t, c, 1003, "message_type")
			c = e.dial()
			firstSay(c, "login alice")
			firstWant(e.t, c, "who is there?", "welcome alice")
			c.WriteFrame(wstest.Binary([]byte("x")))
			firstWant(e.t, c, "x")
		})
	})
	t.Run("rates", func(t *testing.T) {
		firstServe(t, func(cfg *wsguard.Config) {
			cfg.Auth.FirstMessage, cfg.Rates.Messages = shibboleth(), wsguard.Rate{PerSecond: 0.001, Burst: 2}
		}, nil, func(e *firstEnv) {
			c := e.dial()
			firstSay(c, "greet", "hush", "login alice")
			firstWant(e.t, c, "who is there?", "hello")
			firstClosed(e.t, c, 1008, "rate_limited")
		})
	})
}

// A peer that does not read Hello is cut by the write timeout.
func TestFirstMessageUnread(t *testing.T) {
	firstServe(t, func(cfg *wsguard.Config) {
		cfg.Auth.FirstMessage = shibboleth()
		cfg.Auth.FirstMessage.Hello = []byte(strings.Repeat("x", 1<<20))
	}, nil, func(e *firstEnv) {
		e.dial()
		start := time.Now()
		for len(e.of(audit.Close)) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		if ev := e.of(audit.Close)[0]; !errors.Is(ev.Err, reason.WriteTimeout) || time.Since(start) > 10*time.Second {
			e.t.Errorf("%v after %v", ev.Err, time.Since(start))
		}
	})
}

// Report-only mode admits as anonymous what it would refuse. The application gets a message
// that is none of the protocol's.
func TestFirstMessageReportOnly(t *testing.T) {
	change := func(cfg *wsguard.Config) {
		cfg.Auth.FirstMessage, cfg.Auth.InsecureReportOnly = shibboleth(), true
	}
	firstServe(t, change, nil, func(e *firstEnv) {
		for _, tt := range []struct {
			say  []string
			want []string
		}{
			{[]string{"junk", "x"}, []string{"sorry", "welcome ", "junk", "x"}},
			{[]string{"login bad", "x"}, []string{"welcome ", "x"}},
			{[]string{"nobody", "x"}, []string{"welcome ", "x"}},
			{[]string{"panic", "x"}, []string{"welcome ", "panic", "x"}},
			{[]string{"hush", "hush", "hush", "hush", "fifth"}, []string{"welcome ", "fifth"}},
			{[]string{"login alice", "x"}, []string{"welcome alice", "x"}},
		} {
			c := e.dial()
			firstWant(e.t, c, "who is there?")
			firstSay(c, tt.say...)
			firstWant(e.t, c, tt.want...)
		}
		if n := len(e.of(audit.Violation)); n != 5 {
			e.t.Errorf("%d violations", n)
		}
	})
}

// InsecureAnonymous admits a client that says that it has no credential.
func TestFirstMessageAnonymous(t *testing.T) {
	firstServe(t, func(cfg *wsguard.Config) {
		cfg.Auth.FirstMessage, cfg.Auth.InsecureAnonymous = shibboleth(), true
	}, nil, func(e *firstEnv) {
		c := e.dial()
		firstSay(c, "nobody", "x")
		firstWant(e.t, c, "who is there?", "welcome ", "x")
		if n := len(e.of(audit.Violation)); n != 0 {
			e.t.Errorf("%d violations", n)
		}
		c = e.dial()
		firstSay(c, "login bad")
		firstWant(e.t, c, "who is there?")
		firstClosed(e.t, c, 3000, "unauthenticated")
	})
}

// Accept returns after Accepted's message has been sent.
func TestFirstMessageAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := wsguard.New(wsguard.Config{
			Origins: []string{"https://app.example.com"},
			Auth:    wsguard.AuthConfig{Verifier: firstNames, Sources: wsguard.TokenSources{FirstMessage: true}, FirstMessage: shibboleth()},
			Logger:  slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		e := &firstEnv{t: t, g: g, s: wstest.ServePipe(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, err := g.Accept(w, r); err == nil {
				c.Write(r.Context(), wsguard.MessageText, []byte("first"))
				c.End(nil)
			}
		}))}
		c := e.dial()
		firstSay(c, "login alice")
		firstWant(t, c, "who is there?", "welcome alice", "first")
		firstClosed(t, c, 1000, "")
		c.Close()
		time.Sleep(time.Minute)
	})
}

// New reports each mistake in a FirstMessage.
func TestFirstMessageConfig(t *testing.T) {
	_, err := wsguard.New(wsguard.Config{Origins: []string{"https://app.example.com"}, Auth: wsguard.AuthConfig{
		Verifier: firstNames, FirstMessage: &wsguard.FirstMessage{Hello: []byte("\xe4")},
	}})
	for _, want := range []string{"Auth.FirstMessage: needs", "Auth.FirstMessage.Take: ", "Auth.FirstMessage.Hello: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not have %s", err, want)
		}
	}
	// The guard keeps a copy.
	protocol := shibboleth()
	firstServe(t, func(cfg *wsguard.Config) { cfg.Auth.FirstMessage = protocol }, nil, func(e *firstEnv) {
		protocol.Hello[0], protocol.Take = 'X', nil
		c := e.dial()
		firstSay(c, "login alice")
		firstWant(e.t, c, "who is there?", "welcome alice")
	})
}

func TestGraphQLWS(t *testing.T) {
	const bad = 3000
	for _, tt := range []struct {
		param, say string
		subject    string // "": refused
	}{
		{"", `{"type":"connection_init","payload":{"Authorization":"Bearer alice"}}`, "alice"},
		{"", `{"type":"connection_init","payload":{"Authorization":"bearer  alice","x":[1]}}`, "alice"},
		{"", `{"payload":{"Authorization":"alice"},"type":"connection_init"}`, "alice"},
		{"token", `{"type":"connection_init","payload":{"token":"alice"}}`, "alice"},
		{"token", `{"type":"connection_init","payload":{"Authorization":"alice"}}`, ""},
		{"", `{"type":"connection_init","payload":{"authorization":"alice"}}`, ""},
		{"", `{"type":"connection_init","payload":{"Authorization":"alice","Authorization":"bob"}}`, ""},
		{"", `{"type":"connection_init","Type":"ping","payload":{"Authorization":"alice"}}`, "alice"},
		{"", `{"Type":"connection_init","payload":{"Authorization":"alice"}}`, ""},
		{"", `{"type":"connection_init","payload":{"Authorization":""}}`, ""},
		{"", `{"type":"connection_init","payload":{"Authorization":"Bearer "}}`, ""},
		{"", `{"type":"connection_init","payload":{"Authorization":"Bearer"}}`, ""},
		{"", `{"type":"connection_init","payload":{"Authorization":null}}`, ""},
		{"", `{"type":"connection_init","payload":{"Authorization":["alice"]}}`, ""},
		{"", `{"type":"connection_init","payload":"alice"}`, ""},
		{"", `{"type":"connection_init","payload":null}`, ""},
		{"", `{"type":"connection_init"}`, ""},
		{"", `{"type":"subscribe","id":"1","payload":{"query":"{a}"}}`, ""},
		{"", `{"type":"auth","token":"alice"}`, ""},
		{"", `{"type":"pong"}`, ""},
		{"", `{"type":"ping","payload":1}`, ""},
		{"", `{"type":"connection_init","payload":{"Authorization":"alice"}} {}`, ""},
		{"", `["connection_init"]`, ""},
		{"", `junk`, ""},
	} {
		firstServe(t, func(cfg *wsguard.Config) { cfg.Auth.FirstMessage = wsguard.GraphQLWS(tt.param) }, nil, func(e *firstEnv) {
			c := e.dial()
			firstSay(c, `{"type":"ping"}`, `{"type":"ping","payload":{"a":1}}`, tt.say, "echo")
			firstWant(e.t, c, `{"type":"pong"}`, `{"type":"pong"}`)
			if tt.subject == "" {
				firstClosed(e.t, c, bad, "unauthenticated")
				return
			}
			firstWant(e.t, c, `{"type":"connection_ack"}`, "echo")
			for s := range e.g.Admin().Sessions() {
				if s.Subject != tt.subject {
					e.t.Errorf("%s is %s", tt.say, s.Subject)
				}
			}
		})
	}
}

// FuzzGraphQLWS checks that no message makes Take panic or return a token and an error.
func FuzzGraphQLWS(f *testing.F) {
	f.Add([]byte(`{"type":"connection_init","payload":{"Authorization":"Bearer x"}}`))
	f.Add([]byte(`{"type":"ping"}`))
	f.Add([]byte(`null`))
	take := wsguard.GraphQLWS("").Take
	f.Fuzz(func(t *testing.T, msg []byte) {
		token, reply, err := take(msg)
		if err != nil && (token != "" || reply != nil) || token != "" && reply != nil {
			t.Errorf("%q: %q, %q, %v", msg, token, reply, err)
		}
	})
}

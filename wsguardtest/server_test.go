package wsguardtest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/wsguardtest"
)

// echo answers each message with itself.
func echo(ctx context.Context, c *wsguard.Conn) error {
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

// whoami tells each client its principal.
func whoami(ctx context.Context, c *wsguard.Conn) error {
	if err := wsguard.WriteJSON(ctx, c, c.Principal()); err != nil {
		return err
	}
	return echo(ctx, c)
}

// plainEcho is an echo on another library, and knows nothing of a Guard.
var plainEcho = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		typ, msg, err := c.Read(context.Background())
		if err != nil {
			return
		}
		if err := c.Write(context.Background(), typ, msg); err != nil {
			return
		}
	}
})

// binary admits binary messages, too.
func binary(cfg wsguard.Config) wsguard.Config {
	cfg.Messages.Binary = true
	return cfg
}

var alice = wsguard.Principal{Subject: "alice"}

// ways are the ways to serve an echo that admits binary messages.
var ways = map[string]func(t testing.TB, opts ...wsguardtest.Option) *wsguardtest.Server{
	"NewServer": func(t testing.TB, opts ...wsguardtest.Option) *wsguardtest.Server {
		return wsguardtest.NewServer(t, echo, append(opts, wsguardtest.Config(binary(wsguard.Config{})))...)
	},
	"Wrap": func(t testing.TB, opts ...wsguardtest.Option) *wsguardtest.Server {
		wrap := func(g *wsguard.Guard) http.Handler { return g.Wrap(plainEcho) }
		return wsguardtest.NewServerFunc(t, wrap, append(opts, wsguardtest.Config(binary(wsguard.Config{})))...)
	},
	"Accept": func(t testing.TB, opts ...wsguardtest.Option) *wsguardtest.Server {
		accept := func(g *wsguard.Guard) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c, err := g.Accept(w, r); err == nil {
					c.End(echo(r.Context(), c))
				}
			})
		}
		return wsguardtest.NewServerFunc(t, accept, append(opts, wsguardtest.Config(binary(wsguard.Config{})))...)
	},
	"NewHTTPServer": func(t testing.TB, opts ...wsguardtest.Option) *wsguardtest.Server {
		g, err := wsguard.New(binary(wsguard.Config{
			InsecureSameOrigin: true,
			Logger:             slog.New(slog.DiscardHandler),
			Auth:               wsguard.AuthConfig{Verifier: wsguardtest.Verify, InsecureAnonymous: true},
			OnEvent:            wsguardtest.NewEvents(t).Record,
		}))
		if err != nil {
			t.Fatal(err)
		}
		return wsguardtest.NewHTTPServer(t, g.Handler(echo), opts...)
	},
	"NewHTTPServer without a Guard": func(t testing.TB, opts ...wsguardtest.Option) *wsguardtest.Server {
		return wsguardtest.NewHTTPServer(t, plainEcho, opts...)
	},
}

// TestWays serves a handler in each way, in memory, in a bubble, and over TCP.
func TestWays(t *testing.T) {
	for name, serve := range ways {
		use := func(t *testing.T, opts ...wsguardtest.Option) {
			s := serve(t, opts...)
			c := s.Dial(wsguardtest.As(alice))
			c.WriteText("hello")
			c.WantText("hello")
			c.WriteBinary([]byte{0, 1})
			if got := c.ReadBinary(); string(got) != "\x00\x01" {
				t.Errorf("got %x", got)
			}
			c.WriteJSON(map[string]int{"a": 1, "b": 2})
			c.WantJSON(`{"b": 2, "a": 1}`)
			c.WriteText(`{"a":3}`)
			var v struct{ A int }
			if c.ReadJSON(&v); v.A != 3 {
				t.Errorf("got %+v", v)
			}
			r := s.DialRaw()
			r.WriteFrame(wsguardtest.Frame{Opcode: wsguardtest.OpText, Payload: []byte("hel"), More: true})
			r.WriteFrame(wsguardtest.Frame{Opcode: wsguardtest.OpContinuation, Payload: []byte("lo")})
			r.WantText("hello")
			c.Close()
			s.Dial().CloseWith(1001, "away")
			s.Dial().CloseNow()
			s.Dial() // is dropped
		}
		t.Run(name+" in memory", func(t *testing.T) { t.Parallel(); use(t) })
		t.Run(name+" over TCP", func(t *testing.T) { t.Parallel(); use(t, wsguardtest.TCP()) })
		t.Run(name+" in a bubble", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { use(t) })
		})
	}
}

// As gives a client any principal, whatever the Config says about credentials.
func TestAs(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	p := wsguard.Principal{Subject: "alice", SessionID: "laptop", Scopes: []string{"say", "shout"}, Expires: now.Add(time.Hour), IssuedAt: now}
	own := func(_ context.Context, token string) (wsguard.Principal, error) {
		if token == "the-token-of-bob" {
			return wsguard.Principal{Subject: "bob"}, nil
		}
		return wsguard.Principal{}, errors.New("unknown")
	}
	nobody := func(*http.Request) (wsguard.Principal, error) { return wsguard.Principal{}, wsguard.ErrNoCredential }
	tickets := &wsguard.TicketConfig{}
	for name, auth := range map[string]wsguard.AuthConfig{
		"nothing":         {},
		"anonymous":       {InsecureAnonymous: true},
		"Verifier":        {Verifier: own},
		"header":          {Verifier: own, Sources: wsguard.TokenSources{Header: true}},
		"cookie":          {Verifier: own, Sources: wsguard.TokenSources{Cookie: "session"}},
		"subprotocol":     {Verifier: own, Sources: wsguard.TokenSources{Subprotocol: "bearer."}},
		"custom header":   {Verifier: own, Sources: wsguard.TokenSources{CustomHeader: "X-Api-Key"}},
		"query":           {Verifier: own, Sources: wsguard.TokenSources{InsecureQuery: "token"}},
		"first message":   {Verifier: own, Sources: wsguard.TokenSources{FirstMessage: true}},
		"GraphQL":         {Verifier: own, Sources: wsguard.TokenSources{FirstMessage: true}, FirstMessage: wsguard.GraphQLWS("token")},
		"tickets":         {Tickets: tickets},
		"tickets only":    {Tickets: tickets, Verifier: own, Sources: wsguard.TokenSources{TicketsOnly: true}},
		"Authenticate":    {Authenticate: nobody},
		"all":             {Authenticate: nobody, Tickets: tickets, Verifier: own, Sources: wsguard.TokenSources{Cookie: "session", FirstMessage: true}},
		"cached":          {Verifier: own, CacheTTL: time.Minute},
		"only reporting":  {Verifier: own, InsecureReportOnly: true},
		"told by a close": {Verifier: own, MaxExplained: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := wsguardtest.NewServer(t, whoami, wsguardtest.Config(wsguard.Config{Auth: auth}))
			var got wsguard.Principal
			s.Dial(wsguardtest.As(p)).ReadJSON(&got)
			if !got.Expires.Equal(p.Expires) || !got.IssuedAt.Equal(p.IssuedAt) {
				t.Errorf("%+v, want %+v", got, p)
			}
			if got.Expires, got.IssuedAt = p.Expires, p.IssuedAt; !reflect.DeepEqual(got, p) {
				t.Errorf("%+v, want %+v", got, p)
			}
			if auth.Verifier != nil {
				got = wsguard.Principal{}
				s.Dial(wsguardtest.Header("Authorization", "Bearer the-token-of-bob")).ReadJSON(&got)
				if got.Subject != "bob" {
					t.Errorf("the own Verifier has returned %+v", got)
				}
			}
		})
	}
}

// What As presents counts only until its test ends, and is all that Verify accepts.
func TestVerify(t *testing.T) {
	var token string
	t.Run("a test", func(t *testing.T) {
		token = wsguardtest.Token(t, alice)
		if p, err := wsguardtest.Verify(t.Context(), token); err != nil || p.Subject != "alice" {
			t.Errorf("%+v, %v", p, err)
		}
		if again := wsguardtest.Token(t, alice); again == token {
			t.Error("two tokens are equal")
		}
	})
	for _, token := range []string{token, "", "wsguardtest-", "alice"} {
		if p, err := wsguardtest.Verify(t.Context(), token); err == nil {
			t.Errorf("%q is %+v", token, p)
		}
	}
}

// A server without a principal serves a client as its Config says.
func TestWithoutCredential(t *testing.T) {
	s := wsguardtest.NewServer(t, whoami, wsguardtest.As(alice), wsguardtest.Config(wsguard.Config{Auth: wsguard.AuthConfig{Verifier: wsguardtest.Verify}}))
	s.Dial()
	s.WantRefusal(401, "unauthenticated", wsguardtest.As(wsguard.Principal{}))
	s.WantRefusal(401, "unauthenticated", wsguardtest.Header("Authorization", "Bearer guess"))
	s.WantRefusal(401, "", wsguardtest.Header("Authorization", ""))
	open := wsguardtest.NewServer(t, whoami)
	var p wsguard.Principal
	if open.Dial().ReadJSON(&p); p.Subject != "" {
		t.Errorf("%+v", p)
	}
}

// The defaults of a client get it past the checks of origin and host of any good Config.
func TestOrigins(t *testing.T) {
	for i, cfg := range []wsguard.Config{
		{},
		{Origins: []string{"https://app.example.com", "https://b.example.com"}},
		{Origins: []string{"https://*.example.com:8443"}},
		{Origins: []string{"http://localhost:*"}},
		{Origins: []string{"null"}},
		{Origins: []string{"file://"}},
		{SameOrigin: true, Hosts: []string{"app.example.com"}},
		{SameOrigin: true, Hosts: []string{"*.example.com:8443"}},
		{InsecureSameOrigin: true},
		{InsecureAnyOrigin: true},
		{AllowMissingOrigin: true, Hosts: []string{"[::1]:8080", "localhost"}},
		{AllowMissingOrigin: true, Hosts: []string{"127.0.0.1:1"}, Origins: []string{"https://app.example.com"}},
		{OriginFunc: func(_ context.Context, origin, host string) (bool, error) { return origin == "http://"+host, nil }},
		{Subprotocols: []string{"chat.v2", "chat.v1"}},
		{Subprotocols: []string{"chat"}, Auth: wsguard.AuthConfig{Verifier: wsguardtest.Verify}},
		{LoopbackOnly: true},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := wsguardtest.NewServer(t, echo, wsguardtest.Config(cfg))
			c := s.Dial(wsguardtest.As(alice), wsguardtest.Path("/any?x=1"))
			if len(cfg.Subprotocols) > 0 && c.Subprotocol() != cfg.Subprotocols[0] {
				t.Errorf("the subprotocol is %q", c.Subprotocol())
			}
			if cfg.OriginFunc == nil && !cfg.InsecureAnyOrigin {
				s.WantRefusal(403, "origin", wsguardtest.Origin("https://evil.example"))
			}
			if cfg.Hosts != nil {
				s.WantRefusal(421, "host", wsguardtest.Host("evil.example"))
			}
		})
	}
}

// All clients are one client for the limits, unless they come from different addresses.
func TestFrom(t *testing.T) {
	s := wsguardtest.NewServer(t, echo, wsguardtest.Config(wsguard.Config{Caps: wsguard.CapConfig{MaxConnsPerClient: 1}}))
	s.Dial()
	s.WantRefusal(429, "max_client_conns")
	s.Dial(wsguardtest.From("127.0.0.2"))
	s.Dial(wsguardtest.From("::1"))
	s.WantRefusal(429, "max_client_conns", wsguardtest.From("127.0.0.2"))
	s.WantRefusal(403, "insecure_transport", wsguardtest.From("203.0.113.7"))
	if got := s.Events.Find(func(ev audit.Event) bool { return ev.Status == 403 }); got.Client != "203.0.113.7" {
		t.Errorf("the client is %s", got.Client)
	}
}

// The options of a client come after those of the server.
func TestOptionsOfClient(t *testing.T) {
	header := make(chan http.Header, 1)
	cfg := wsguard.Config{Subprotocols: []string{"a", "b"}, Attach: func(r *http.Request, _ wsguard.Principal) (any, error) {
		header <- r.Header
		return nil, nil
	}}
	s := wsguardtest.NewServer(t, echo, wsguardtest.Config(cfg), wsguardtest.Header("X-One", "1"), wsguardtest.Header("X-Two", "2"), wsguardtest.Subprotocols("b"))
	c := s.Dial(wsguardtest.Header("x-one", "one"), wsguardtest.Header("X-Two", ""))
	if h := <-header; h.Get("X-One") != "one" || h.Values("X-Two") != nil || c.Subprotocol() != "b" {
		t.Errorf("%v, %q", h, c.Subprotocol())
	}
	c = s.Dial(wsguardtest.Subprotocols())
	if h := <-header; h.Get("X-One") != "1" || h.Get("X-Two") != "2" || c.Subprotocol() != "" || c.Response().StatusCode != 101 {
		t.Errorf("%v, %q", h, c.Subprotocol())
	}
}

// The hooks of the Config are called, and Reconfigure with the server's Config keeps its clients.
func TestConfigIsKept(t *testing.T) {
	events := make(chan audit.Event, 100)
	s := wsguardtest.NewServer(t, echo, wsguardtest.Config(wsguard.Config{OnEvent: func(ev audit.Event) { events <- ev }}))
	s.Dial(wsguardtest.As(alice))
	for ev := range events {
		if ev.Subject != "alice" {
			t.Errorf("%+v", ev)
		}
		if ev.Kind == audit.Open {
			break
		}
	}
	cfg := s.Config
	cfg.Messages.MaxBytes = 3
	if err := s.Guard.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	c := s.Dial(wsguardtest.As(alice))
	c.WriteText("long")
	c.WantClose(1009, "message_too_big")
}

// Other clients reach the server in memory, by HTTP and with other libraries.
func TestOtherClients(t *testing.T) {
	build := func(g *wsguard.Guard) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/ws", g.Handler(whoami))
		mux.Handle("/ticket", g.TicketHandler(nil))
		return mux
	}
	for name, opts := range map[string][]wsguardtest.Option{"memory": nil, "TCP": {wsguardtest.TCP()}} {
		t.Run(name, func(t *testing.T) {
			cfg := wsguard.Config{Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}}}
			s := wsguardtest.NewServerFunc(t, build, append(opts, wsguardtest.Config(cfg))...)
			req, err := http.NewRequest("POST", s.URL+"/ticket", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Origin", s.Config.Origins[0])
			req.Header.Set("Authorization", "Bearer "+wsguardtest.Token(t, alice))
			res, err := s.HTTPClient().Do(req)
			if err != nil || res.StatusCode != 200 {
				t.Fatalf("%v, %v", res, err)
			}
			res.Body.Close()
			transport := &http.Transport{DialContext: s.DialContext}
			defer transport.CloseIdleConnections()
			c, _, err := websocket.Dial(t.Context(), s.URL+"/ws", &websocket.DialOptions{
				HTTPClient: &http.Client{Transport: transport},
				HTTPHeader: req.Header,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			if _, msg, err := c.Read(t.Context()); err != nil || !strings.Contains(string(msg), "alice") {
				t.Errorf("%s, %v", msg, err)
			}
		})
	}
}

// ServerAt reaches a server of another kind, and sends what its URL says.
func TestServerAt(t *testing.T) {
	g, err := wsguard.New(wsguard.Config{
		SameOrigin: true, Hosts: []string{"localhost", "127.0.0.1"},
		Auth:   wsguard.AuthConfig{Verifier: wsguardtest.Verify},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", g.Handler(whoami))
	srv := httptest.NewServer(mux)
	defer srv.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(srv.URL, "http://"), ":")
	for _, host := range []string{"localhost:" + port, "127.0.0.1:" + port} {
		s := wsguardtest.ServerAt(t, "ws://"+host+"/ws?a=b", wsguardtest.As(alice))
		var p wsguard.Principal
		if s.Dial().ReadJSON(&p); p.Subject != "alice" {
			t.Errorf("%+v", p)
		}
		s.DialRaw(wsguardtest.From("127.0.0.1"))
		s.WantRefusal(404, "", wsguardtest.Path("/"))
		s.WantRefusal(403, "origin", wsguardtest.Origin("http://localhost:1"))
		if res, err := s.HTTPClient().Get(s.URL + "/ws"); err != nil || res.StatusCode != 426 {
			t.Errorf("%v, %v", res, err)
		}
	}
}

// The methods of a server in a subtest fail the subtest.
func TestIn(t *testing.T) {
	s := wsguardtest.NewServer(t, echo)
	for range 3 {
		t.Run("a subtest", func(t *testing.T) {
			s := s.In(t)
			c := s.Dial()
			c.WriteText("x")
			c.WantText("x")
			s.Events.Next(audit.Open)
		})
	}
	if got := failing(t, func(tb testing.TB) { s.In(tb).WantRefusal(403, "origin") }); len(got) != 1 {
		t.Errorf("failures: %q", got)
	}
	for range 3 {
		s.Events.Next(audit.Close) // the connections have ended with their subtests
	}
}

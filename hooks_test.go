package wsguard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// evilError is an error of an application's, one of whose methods does not return.
type evilError struct {
	method string
	act    func()
}

func (e *evilError) do(method string) {
	if e.method == method {
		e.act()
	}
}

func (e *evilError) Error() string { e.do("Error"); return "evil" }
func (e *evilError) Unwrap() error { e.do("Unwrap"); return nil }
func (e *evilError) Is(error) bool { e.do("Is"); return false }
func (e *evilError) As(any) bool   { e.do("As"); return false }
func (e *evilError) Timeout() bool { e.do("Timeout"); return false }

// evilMany is one of several errors that unwrap together.
type evilMany struct{ *evilError }

func (e evilMany) Unwrap() []error { e.do("Unwrap all"); return nil }

// liar says that it is whatever it is asked about.
type liar struct{}

func (liar) Error() string { return "liar" }
func (liar) Is(error) bool { return true }
func (liar) As(any) bool   { return true }

var evilActs = map[string]func(){
	"panics":                            func() { panic("evil") },
	"panics with a value that panics":   func() { panic(&evilError{"Error", func() { panic("evil") }}) },
	"panics with a value that Goexits":  func() { panic(&evilError{"Error", runtime.Goexit}) },
	"panics with http.ErrAbortHandler":  func() { panic(http.ErrAbortHandler) },
	"dereferences nil":                  func() { var e *badError; _ = e.cause },
	"ends its goroutine":                runtime.Goexit,
	"ends its goroutine while it fails": func() { defer runtime.Goexit(); panic("evil") },
}

// evilHooks are what a hook may do: not return, or return an error with a method
// that does not.
func evilHooks() map[string]func() error {
	hooks := map[string]func() error{
		"returns a nil of its own": func() error { var e *badError; return e },
		"returns a liar":           func() error { return liar{} },
	}
	for what, act := range evilActs {
		if testing.Short() && what != "panics" && what != "ends its goroutine" {
			continue
		}
		hooks[what] = func() error { act(); return nil }
		for _, method := range []string{"Error", "Unwrap", "Is", "As", "Timeout"} {
			hooks["returns an error whose "+method+" "+what] = func() error { return &evilError{method, act} }
		}
		hooks["returns errors whose Unwrap "+what] = func() error { return evilMany{&evilError{"Unwrap all", act}} }
		hooks["returns a wrapped error that "+what] = func() error { return fmt.Errorf("wrapped: %w", &evilError{"Unwrap", act}) }
	}
	return hooks
}

// hooked is a guard with one hook that does what act says.
type hooked struct {
	*env
	act atomic.Pointer[func() error] // nil: nothing
}

// hook is called by the hook.
func (h *hooked) hook() error {
	if act := h.act.Load(); act != nil {
		return (*act)()
	}
	return nil
}

// handle reads until the client says quit, or to return what the hook returns.
func (h *hooked) handle(ctx context.Context, c *wsguard.Conn) error {
	for {
		typ, msg, err := c.Read(ctx)
		switch {
		case err != nil:
			return err
		case string(msg) == "quit":
			return nil
		case string(msg) == "return":
			return h.hook()
		}
		if err := c.Write(ctx, typ, msg); err != nil {
			return err
		}
	}
}

func onlySends(ctx context.Context, c *wsguard.Conn) error {
	c.CloseRead()
	<-ctx.Done()
	return nil
}

// doors are the ways to a connection.
func (h *hooked) doors(g *wsguard.Guard) http.Handler {
	accept := func(fn func(context.Context, *wsguard.Conn) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			c, err := g.Accept(w, r)
			if err == nil {
				c.End(fn(c.Context(), c))
			}
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/handler", g.Handler(h.handle))
	mux.Handle("/handler/closeread", g.Handler(onlySends))
	mux.Handle("/accept", accept(h.handle))
	mux.Handle("/accept/closeread", accept(onlySends))
	return mux
}

// outcome is the status of a handshake or a close code; 0 when the server ends
// without either.
func (h *hooked) outcome(t *testing.T, path string, header http.Header, messages ...string) int {
	t.Helper()
	c := h.dial()
	defer c.Close()
	res, err := c.HandshakeWith(wstest.HandshakeOptions{Path: path, Header: header})
	ended := func(err error) int {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("the connection stays open: %v", err)
		}
		return 0
	}
	if err != nil {
		return ended(err)
	}
	if res.StatusCode != 101 {
		return res.StatusCode
	}
	for _, m := range messages {
		c.WriteFrame(wstest.Text(m))
	}
	code, _, err := c.ReadClose()
	if err != nil {
		return ended(err)
	}
	c.WriteFrame(wstest.CloseFrame(code, ""))
	return code
}

var (
	messageDoors = []string{"/handler", "/accept", "/handler/closeread", "/accept/closeread"}
	allDoors     = messageDoors[:2]
)

// hookTest is one hook, and what a client may see of what it does.
type hookTest struct {
	config   func(*wsguard.Config, *hooked)
	doors    []string
	header   http.Header
	messages []string
	want     []int
	plain    int  // for an error that is an error; 0: nothing ends
	good     int  // without the hook; 0: nothing ends
	silent   bool // the hook returns no error
	bubble   bool // it takes time
	http     bool // net/http gets the panic, and prints its value
}

// All code of an application runs under recover, the methods of its errors too.
// Whatever it does, the process lives, the client is refused or closed with an
// error, and slots and goroutines come back.
func TestHooksThatDoNotReturn(t *testing.T) {
	alice := bearer("alice")
	message := func(config func(*wsguard.Config, *hooked)) hookTest {
		return hookTest{config: config, doors: messageDoors, messages: []string{`{"type":"x"}`}, want: []int{1011}, plain: 1008}
	}
	noPlain := func(tt hookTest) hookTest { tt.plain = 0; return tt }
	logger := func(kind string) func(*wsguard.Config, *hooked) {
		return func(cfg *wsguard.Config, h *hooked) { cfg.Logger = slog.New(evilHandler{kind, h}) }
	}
	onEvent := func(kind audit.Kind) func(*wsguard.Config, *hooked) {
		return func(cfg *wsguard.Config, h *hooked) {
			cfg.OnEvent = func(e audit.Event) {
				if e.Kind == kind {
					h.hook()
				}
			}
		}
	}
	firstMessage := func(cfg *wsguard.Config, v wsguard.Verifier) {
		cfg.Auth = wsguard.AuthConfig{Verifier: v, Sources: wsguard.TokenSources{FirstMessage: true}, Failures: wsguard.Rate{PerSecond: wsguard.Off}}
	}
	verifier := func(h *hooked) wsguard.Verifier {
		return func(_ context.Context, token string) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: token}, h.hook()
		}
	}
	fine := func(_ context.Context, token string) (wsguard.Principal, error) {
		return wsguard.Principal{Subject: token}, nil
	}
	auth := []string{`{"type":"auth","token":"alice"}`, "quit"}
	tests := map[string]hookTest{
		"Verifier": {
			config: func(cfg *wsguard.Config, h *hooked) { cfg.Auth.Verifier = verifier(h) },
			doors:  allDoors, header: alice, messages: []string{"quit"}, want: []int{401, 503}, plain: 401, good: 1000,
		},
		"Verifier, first message": {
			config: func(cfg *wsguard.Config, h *hooked) { firstMessage(cfg, verifier(h)) },
			doors:  allDoors, messages: auth, want: []int{3000, 1013}, plain: 3000, good: 1000,
		},
		"Revalidate": {
			config: func(cfg *wsguard.Config, h *hooked) {
				cfg.Auth.Verifier = fine
				cfg.Auth.RevalidateEvery = time.Millisecond
				cfg.Auth.Revalidate = func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) { return p, h.hook() }
			},
			doors: []string{"/handler", "/accept/closeread"}, header: alice, want: []int{3000, 1013}, plain: 3000, bubble: true,
		},
		"Attach": {
			config: func(cfg *wsguard.Config, h *hooked) {
				cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return nil, h.hook() }
			},
			doors: allDoors, messages: []string{"quit"}, want: []int{403, 503, 0}, plain: 403, good: 1000,
		},
		"Attach, first message": {
			config: func(cfg *wsguard.Config, h *hooked) {
				firstMessage(cfg, fine)
				cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return nil, h.hook() }
			},
			doors: allDoors, messages: auth, want: []int{3003, 1013, 1011}, plain: 3003, good: 1000,
		},
		"Close of a value": {
			config: func(cfg *wsguard.Config, h *hooked) {
				cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return h.closer(), nil }
			},
			doors: allDoors, messages: []string{"quit"}, want: []int{1000}, plain: 1000, good: 1000,
		},
		"Close of a value that is refused": {
			config: func(cfg *wsguard.Config, h *hooked) {
				cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) {
					if h.act.Load() != nil {
						return h.closer(), errors.New("refused")
					}
					return nil, nil
				}
			},
			doors: allDoors, messages: []string{"quit"}, want: []int{403, 503, 0}, plain: 403, good: 1000,
		},
		"Close of a value when the upgrade fails": {
			config: func(cfg *wsguard.Config, h *hooked) {
				cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return h.closer(), nil }
			},
			doors: []string{"/broken/handler", "/broken/accept"}, messages: []string{"quit"}, want: []int{501, 0}, plain: 501, good: 501,
		},
		"ClientName": {
			config: func(cfg *wsguard.Config, h *hooked) {
				cfg.Proxies.ClientName = func(*http.Request) string { h.hook(); return "" }
			},
			doors: allDoors, messages: []string{"quit"}, want: []int{503, 0}, good: 1000, silent: true,
		},
		"handler's error": {
			config: func(*wsguard.Config, *hooked) {}, doors: allDoors, messages: []string{"return"}, want: []int{1011, 1001}, plain: 1011, good: 1000, // 1001: a handler of Accept has returned without End
		},
		"Validator": message(func(cfg *wsguard.Config, h *hooked) { cfg.Messages.Validator = evilValidator{h} }),
		"Validator, reply": noPlain(message(func(cfg *wsguard.Config, h *hooked) {
			cfg.Messages.Validator, cfg.Messages.OnInvalid = evilValidator{h}, wsguard.ActionReply
		})),
		"Validator, report": noPlain(message(func(cfg *wsguard.Config, h *hooked) {
			cfg.Messages.Validator, cfg.Messages.ReportOnly = evilValidator{h}, true
		})),
		"Validator in a Table": message(func(cfg *wsguard.Config, h *hooked) {
			cfg.Messages.Validator = &wsguard.Table{Types: map[string]wsguard.Rule{"x": {Validator: evilValidator{h}}}}
		}),
		"Authorize": noPlain(message(func(cfg *wsguard.Config, h *hooked) {
			cfg.Messages.Authorize = func(context.Context, wsguard.Principal, string, []byte) error { return h.hook() }
		})),
		"Authorize, reply, behind a Schema": noPlain(message(func(cfg *wsguard.Config, h *hooked) {
			cfg.Messages.Validator = must(wsguard.CompileSchema([]byte(`{}`)))
			cfg.Messages.OnForbidden = wsguard.ActionReply
			cfg.Messages.Authorize = func(context.Context, wsguard.Principal, string, []byte) error { return h.hook() }
		})),
		"Sanitize": message(func(cfg *wsguard.Config, h *hooked) {
			cfg.Messages.Sanitize = func(_ string, msg []byte) ([]byte, error) { return msg, h.hook() }
		}),
		"Sanitize, report": noPlain(message(func(cfg *wsguard.Config, h *hooked) {
			cfg.Messages.ReportOnly = true
			cfg.Messages.Sanitize = func(_ string, msg []byte) ([]byte, error) { return msg, h.hook() }
		})),
		"Outbound": {
			config: func(cfg *wsguard.Config, h *hooked) { cfg.Messages.Outbound = evilValidator{h} },
			doors:  allDoors, messages: []string{"x", "quit"}, want: []int{1011}, plain: 1011, good: 1000,
		},
		"OnEvent, open": {config: onEvent(audit.Open), doors: allDoors, messages: []string{"quit"}, want: []int{1000, 1011}, good: 1000, silent: true},
		"OnEvent, open, first message": {
			config: func(cfg *wsguard.Config, h *hooked) { firstMessage(cfg, fine); onEvent(audit.Open)(cfg, h) },
			doors:  allDoors, messages: auth, want: []int{1000, 1011}, good: 1000, silent: true,
		},
		"OnEvent, close":   {config: onEvent(audit.Close), doors: allDoors, messages: []string{"quit"}, want: []int{1000}, good: 1000, silent: true},
		"OnEvent, refusal": {config: onEvent(audit.Refusal), doors: allDoors, header: header("Origin", "https://evil.test"), want: []int{403, 0}, good: 403, silent: true},
		"OnEvent, violation": {
			config: func(cfg *wsguard.Config, h *hooked) {
				onEvent(audit.Violation)(cfg, h)
				cfg.Rates.Messages, cfg.Rates.ReportOnly = wsguard.Rate{PerSecond: never, Burst: 1}, true
			},
			doors: allDoors, messages: []string{"x", "x", "quit"}, want: []int{1000, 1011}, good: 1000, silent: true,
		},
		"OnEvent, violation, reported by the reader": {
			config: func(cfg *wsguard.Config, h *hooked) {
				onEvent(audit.Violation)(cfg, h)
				cfg.Messages.Validator, cfg.Messages.ReportOnly = must(wsguard.CompileSchema([]byte("false"))), true
			},
			doors: messageDoors, messages: []string{"x", "quit"}, want: []int{1000, 1008, 1011}, silent: true,
		},
		"Logger, open":           {config: logger("websocket open"), doors: allDoors, messages: []string{"quit"}, want: []int{1000, 1011}, good: 1000, silent: true},
		"Logger, close":          {config: logger("websocket close"), doors: allDoors, messages: []string{"quit"}, want: []int{1000}, good: 1000, silent: true},
		"Logger, refusal":        {config: logger("websocket refusal"), doors: allDoors, header: header("Origin", "https://evil.test"), want: []int{403, 0}, good: 403, silent: true},
		"Logger, Enabled":        {config: logger("Enabled"), doors: allDoors, messages: []string{"quit"}, want: []int{1000, 1011}, good: 1000, silent: true, bubble: true},
		"ResponseWriter, Hijack": {config: func(*wsguard.Config, *hooked) {}, doors: []string{"/hijack/handler", "/hijack/accept"}, messages: []string{"quit"}, want: []int{501, 0}, plain: 501, good: 1000, http: true},
	}
	wstest.CheckGoroutines(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.bubble {
				bubble(t, func(t *testing.T) { tt.run(t, wstest.ServePipe) })
			} else {
				tt.run(t, wstest.Serve)
			}
		})
	}
}

// run lets the hook do everything, behind each door.
func (tt hookTest) run(t *testing.T, serve func(testing.TB, http.Handler, ...func(*http.Server)) *wstest.Server) {
	h := &hooked{}
	cfg := wsguard.Config{}
	patient(&cfg)
	cfg.Caps.MaxConnsPerSubject, cfg.Caps.MaxConnsPerClient = wsguard.Off, wsguard.Off
	off := wsguard.Rate{PerSecond: wsguard.Off}
	cfg.Rates.Handshakes, cfg.Auth.Failures, cfg.Rates.ClientMessages = off, off, off
	tt.config(&cfg, h)
	h.env = newEnv(t, cfg)
	doors := h.doors(h.g)
	h.s = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutPrefix(r.URL.Path, "/broken"); ok {
			r.URL.Path, w = path, &brokenWriter{ResponseWriter: w}
		}
		if path, ok := strings.CutPrefix(r.URL.Path, "/hijack"); ok {
			r.URL.Path, w = path, evilWriter{w, h}
		}
		doors.ServeHTTP(w, r)
	}))
	header := tt.header
	if header == nil {
		header = http.Header{"Origin": {appOrigin}}
	}
	acts := map[string]func() error{}
	for what, act := range evilHooks() {
		if tt.silent && strings.HasPrefix(what, "returns ") || tt.http && strings.HasPrefix(what, "panics with a value") {
			continue
		}
		acts[what] = act
	}
	for what, act := range acts {
		want := tt.want
		switch {
		case !strings.Contains(what, "Timeout"):
		case tt.plain == 0:
			continue
		default: // nobody calls it
			want = []int{tt.plain}
		}
		for _, door := range tt.doors {
			h.act.Store(&act)
			if got := h.outcome(t, door, header, tt.messages...); !slices.Contains(want, got) {
				t.Errorf("%s: %s: %d, want one of %v; events:\n%s", door, what, got, want, h.events)
			}
			h.idle() // which is after the last event
			h.act.Store(nil)
		}
	}
	if tt.good > 0 {
		for _, door := range tt.doors {
			if got := h.outcome(t, door, header, tt.messages...); got != tt.good {
				t.Errorf("%s: %d without the hook, want %d", door, got, tt.good)
			}
		}
	}
	h.idle()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := h.g.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

type evilValidator struct{ h *hooked }

func (v evilValidator) Validate([]byte) error { return v.h.hook() }

// closer is a value whose Close does what the hook does now.
func (h *hooked) closer() io.Closer {
	if act := h.act.Load(); act != nil {
		return evilCloser(*act)
	}
	return evilCloser(func() error { return nil })
}

type evilCloser func() error

func (c evilCloser) Close() error { return c() }

type evilHandler struct {
	what string
	h    *hooked
}

func (l evilHandler) Enabled(context.Context, slog.Level) bool {
	if l.what == "Enabled" {
		l.h.hook()
	}
	return true
}

func (l evilHandler) Handle(_ context.Context, r slog.Record) error {
	if l.what == r.Message {
		return l.h.hook()
	}
	return nil
}
func (l evilHandler) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l evilHandler) WithGroup(string) slog.Handler      { return l }

// evilWriter cannot be hijacked when its hook says so.
type evilWriter struct {
	http.ResponseWriter
	h *hooked
}

func (w evilWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.h.act.Load() != nil {
		if err := w.h.hook(); err != nil {
			return nil, nil, err
		}
	}
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// A hook that ends the sweeper's goroutine, or panics there, ends no guard: what is
// due afterwards is seen.
func TestHookInTheSweeper(t *testing.T) {
	for what, act := range evilActs {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				banned := 0
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					cfg.Auth = wsguard.AuthConfig{
						Verifier: wsguard.Verifier(func(context.Context, string) (wsguard.Principal, error) {
							return wsguard.Principal{Subject: "alice", Expires: time.Now().Add(20 * time.Second)}, nil
						}),
						Sources: wsguard.TokenSources{FirstMessage: true},
					}
					cfg.Proxies.ClientName = func(*http.Request) string { return "somebody" } // loopback is not banned
					cfg.Penalties.Violations = wsguard.Rate{PerSecond: never, Burst: 2}
					cfg.OnEvent = func(e audit.Event) {
						if e.Kind == audit.Banned {
							banned++
							act()
						}
					}
				}))
				e.serve(e.g.Handler(echo))
				good := e.open(header())
				good.WriteFrame(wstest.Text(`{"type":"auth","token":"x"}`))
				roundTrip(t, good, "hello")
				start := time.Now()
				var late []*wstest.Client
				for range 4 {
					late = append(late, e.open(header()))
				}
				for _, c := range late {
					wantClose(t, c, 3008, "auth_timeout")
					c.Close()
					wantBetween(t, "auth timeout", time.Since(start), 10*time.Second, 12*time.Second)
				}
				if banned == 0 {
					t.Error("nobody was banned")
				}
				wantClose(t, good, 3000, "expired")
				wantBetween(t, "expired", time.Since(start), 20*time.Second, 21*time.Second)
				good.Close()
				if err := e.g.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// evilStore is a store of tickets that other instances share.
type evilStore struct {
	*store.MemoryOnce
	put, take *hooked
}

func (s evilStore) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := s.put.hook(); err != nil {
		return err
	}
	return s.MemoryOnce.Put(ctx, key, value, ttl)
}

func (s evilStore) Take(ctx context.Context, key string) ([]byte, bool, error) {
	if err := s.take.hook(); err != nil {
		return nil, false, err
	}
	return s.MemoryOnce.Take(ctx, key)
}

// The hooks around tickets: the login and the store. What failed is not counted as
// outstanding.
func TestTicketHooksThatDoNotReturn(t *testing.T) {
	wstest.CheckGoroutines(t)
	put, take, login := &hooked{}, &hooked{}, &hooked{}
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{
		Tickets:  &wsguard.TicketConfig{Store: evilStore{store.NewOnce(0), put, take}, MaxPerSubject: 1, TTL: time.Hour},
		Failures: wsguard.Rate{PerSecond: wsguard.Off},
	}, Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}})
	mux := http.NewServeMux()
	mux.Handle("/ws", e.g.Handler(echo))
	mux.Handle("/ticket", e.g.TicketHandler(func(*http.Request) (wsguard.Principal, error) {
		return wsguard.Principal{Subject: "alice"}, login.hook()
	}))
	e.serve(mux)
	buy := func() (ticket string, status int) {
		c := e.dial()
		defer c.Close()
		c.Write([]byte("POST /ticket HTTP/1.1\r\nHost: x\r\nOrigin: " + appOrigin + "\r\nContent-Length: 0\r\n\r\n"))
		res, err := c.ReadResponse()
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Ticket string }
		json.NewDecoder(res.Body).Decode(&got)
		return got.Ticket, res.StatusCode
	}
	redeem := func(ticket string) int {
		c := e.dial()
		defer c.Close()
		res, err := c.Handshake("/ws?ticket="+ticket, header())
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == 101 {
			bye(c)
		}
		return res.StatusCode
	}
	for what, act := range evilHooks() {
		for where, h := range map[string]*hooked{"login": login, "Put": put} {
			h.act.Store(&act)
			if ticket, status := buy(); ticket != "" || status != 503 && !(h == login && status == 401) {
				t.Errorf("%s %s: %d %q", where, what, status, ticket)
			}
			h.act.Store(nil)
		}
		ticket, status := buy() // it is the only one outstanding
		if status != 200 {
			t.Fatalf("after %s: %d", what, status)
		}
		take.act.Store(&act)
		if status := redeem(ticket); status != 503 {
			t.Errorf("Take %s: %d", what, status)
		}
		take.act.Store(nil)
		if status := redeem(ticket); status != 101 {
			t.Errorf("after %s: %d", what, status)
		}
	}
	e.idle()
}

// evilConns is a listener whose connections fail with errors of its own, once it is
// told to.
type evilConns struct {
	net.Listener
	h *hooked
}

func (l evilConns) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return evilConn{c, l.h}, err
}

type evilConn struct {
	net.Conn
	h *hooked
}

func (c evilConn) fail(err error) error {
	if err != nil && c.h.act.Load() != nil {
		return c.h.hook()
	}
	return err
}

func (c evilConn) Read(p []byte) (int, error)  { n, err := c.Conn.Read(p); return n, c.fail(err) }
func (c evilConn) Write(p []byte) (int, error) { n, err := c.Conn.Write(p); return n, c.fail(err) }

// The errors of a net.Conn may be an application's, too.
func TestConnErrorsThatDoNotReturn(t *testing.T) {
	wstest.CheckGoroutines(t)
	h := &hooked{env: newEnv(t, wsguard.Config{Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}})}
	h.serveOn(evilConns{listenTCP(), h}, h.doors(h.g))
	n := 0
	for what, act := range evilActs {
		for _, method := range []string{"Error", "Unwrap", "Is", "As", "Timeout"} {
			hook := func() error { return &evilError{method, act} }
			for _, door := range messageDoors {
				c := h.dial()
				if res, err := c.Handshake(door, header()); err != nil || res.StatusCode != 101 {
					t.Fatal(res, err)
				}
				if !strings.HasSuffix(door, "closeread") {
					roundTrip(t, c, "hello")
				}
				h.act.Store(&hook)
				c.Conn().(*net.TCPConn).SetLinger(0)
				c.Close()
				n++
				e := h.events.wait(t, audit.Close, n)
				h.idle()
				h.act.Store(nil)
				if e.Reason != "connection_lost" && !strings.Contains(what, "goroutine") {
					t.Errorf("%s: an error whose %s %s: %s %q", door, method, what, e.Reason, e.Detail)
				}
			}
		}
	}
}

// A report of what would be refused may end the goroutine of a handshake. Nothing
// that the handshake had taken stays taken.
func TestReportThatDoesNotReturn(t *testing.T) {
	wstest.CheckGoroutines(t)
	once := wsguard.Rate{PerSecond: never, Burst: 1}
	fine := func(_ context.Context, token string) (wsguard.Principal, error) {
		return wsguard.Principal{Subject: token}, nil
	}
	for name, config := range map[string]func(*wsguard.Config){
		"all":             func(cfg *wsguard.Config) { cfg.Caps.MaxConns = 1 },
		"client":          func(cfg *wsguard.Config) { cfg.Caps.MaxConnsPerClient = 1 },
		"subject":         func(cfg *wsguard.Config) { cfg.Caps.MaxConnsPerSubject = 1 },
		"unauthenticated": func(cfg *wsguard.Config) { cfg.Caps.MaxUnauthenticated = 1; cfg.Auth.Sources.FirstMessage = true },
		"handshake rate":  func(cfg *wsguard.Config) { cfg.Rates.Handshakes, cfg.Rates.ReportOnly = once, true },
	} {
		for _, piece := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, piece %t", name, piece), func(t *testing.T) {
				h := &hooked{}
				cfg := wsguard.Config{}
				patient(&cfg)
				cfg.Auth.Verifier, cfg.Auth.Sources.Header, cfg.Caps.ReportOnly = fine, true, true
				cfg.Rates.Handshakes = wsguard.Rate{PerSecond: wsguard.Off}
				config(&cfg)
				cfg.OnEvent = func(e audit.Event) {
					if e.Report {
						h.hook()
					}
				}
				h.env = newEnv(t, cfg)
				handler := h.g.Handler(echo)
				if p := h.g.Pieces(); piece {
					handler = p.Auth.Handler(p.Cap.Handler(handler))
				}
				h.serve(handler)
				creds := bearer("alice")
				if name == "unauthenticated" {
					creds = header()
				}
				first := h.open(creds)
				eventually(t, "one slot", func() bool { return h.g.Conns() == 1 })
				act := func() error { runtime.Goexit(); return nil }
				h.act.Store(&act)
				for range 20 {
					c := h.dial()
					if res, err := c.Handshake("/", creds); err == nil {
						t.Errorf("status %d", res.StatusCode)
					}
					c.Close()
				}
				eventually(t, "one slot", func() bool { return h.g.Conns() == 1 })
				if n := len(h.events.of(audit.Warning)); n != 20 && !piece {
					t.Errorf("%d warnings", n)
				}
				h.act.Store(nil)
				first.Close()
				h.idle()
				if err := h.g.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

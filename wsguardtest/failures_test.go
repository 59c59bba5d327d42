package wsguardtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/wsguardtest"
)

// fakeT is a testing.TB that keeps what a test reports. The goroutine of the test owns it, except
// for what mu guards.
type fakeT struct {
	testing.TB // nil: any other method panics
	mu         sync.Mutex
	failures   []string // guarded by mu
	logs       []string // guarded by mu
	cleanups   []func()
}

type stop struct{}

func (f *fakeT) Helper()          {}
func (f *fakeT) Cleanup(g func()) { f.cleanups = append(f.cleanups, g) }

func (f *fakeT) Failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.failures) > 0
}

func (f *fakeT) Logf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logs = append(f.logs, fmt.Sprintf(format, args...))
}

func (f *fakeT) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = append(f.failures, fmt.Sprintf(format, args...))
}

func (f *fakeT) Fatal(args ...any) { f.Fatalf("%s", fmt.Sprint(args...)) }

func (f *fakeT) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	panic(stop{})
}

// run runs a test and its cleanups.
func (f *fakeT) run(test func(testing.TB)) {
	f.do(func() { test(f) })
	for _, g := range slices.Backward(f.cleanups) {
		f.do(g)
	}
}

func (f *fakeT) do(g func()) {
	defer func() {
		if v := recover(); v != nil && v != (stop{}) {
			panic(v)
		}
	}()
	g()
}

// failing runs a test, and returns what it reports.
func failing(t *testing.T, test func(testing.TB)) []string {
	t.Helper()
	f := new(fakeT)
	f.run(test)
	for _, s := range append(f.failures, f.logs...) {
		if !strings.HasPrefix(s, "wsguardtest: ") && !strings.HasPrefix(s, "http.Server: ") {
			t.Errorf("reported %q", s)
		}
	}
	return f.failures
}

// greet says hello, and ends with a code of its own when it is told to.
func greet(ctx context.Context, c *wsguard.Conn) error {
	if err := c.Write(ctx, wsguard.MessageText, []byte(`{"hello":1}`)); err != nil {
		return err
	}
	_, msg, err := c.Read(ctx)
	switch {
	case err != nil:
		return err
	case string(msg) == "quit":
		return &wsguard.CloseError{Code: 4000, Reason: "quit"}
	case string(msg) == "panic":
		panic("a mistake")
	}
	return nil
}

// Each failure says what has come instead of what the test wants.
func TestFailures(t *testing.T) {
	serve := func(t testing.TB) *wsguardtest.Client { return wsguardtest.NewServer(t, greet).Dial() }
	raw := func(t testing.TB) *wsguardtest.Raw { return wsguardtest.NewServer(t, greet).DialRaw() }
	for name, tt := range map[string]struct {
		test func(t testing.TB)
		want string // in the one failure
	}{
		"another text":    {func(t testing.TB) { serve(t).WantText("hi") }, `client 1: got the message "{\"hello\":1}", want the message "hi"`},
		"another JSON":    {func(t testing.TB) { serve(t).WantJSON(`{"hello": 2}`) }, "client 1:\n got {\"hello\":1}\nwant {\"hello\": 2}"},
		"a wrong test":    {func(t testing.TB) { serve(t).WantJSON(`{`) }, "in the JSON that the test wants: {"},
		"two wrong tests": {func(t testing.TB) { serve(t).WantJSON(`{} 1`) }, "something after the first value, in the JSON that the test wants: {} 1"},
		"no JSON":         {func(t testing.TB) { c := serve(t); c.ReadJSON(new(int)) }, `ReadJSON: json: cannot unmarshal object into Go value of type int, in the message "{\"hello\":1}"`},
		"not encoded":     {func(t testing.TB) { serve(t).WriteJSON(make(chan int)) }, "WriteJSON: json: unsupported type: chan int"},
		"binary":          {func(t testing.TB) { serve(t).ReadBinary() }, `got the message "{\"hello\":1}", want a binary message`},
		"silence":         {func(t testing.TB) { wsguardtest.NewHTTPServer(t, plainEcho).Dial().ReadText() }, "nothing has come within 24h0m0s, want a text message"},
		"idle":            {func(t testing.TB) { c := serve(t); c.ReadText(); c.ReadText() }, `the connection was closed with 3008 "idle" after 5m0s, want a text message`},
		"the option's silence": {func(t testing.TB) {
			c := wsguardtest.NewServer(t, echo, wsguardtest.Timeout(time.Second)).Dial()
			c.ReadText()
		}, "nothing has come within 1s, want a text message"},
		"closed":            {func(t testing.TB) { c := serve(t); c.WriteText("quit"); c.ReadText(); c.WantText("x") }, `the connection was closed with 4000 "quit", want the message "x"`},
		"closed by a panic": {func(t testing.TB) { c := serve(t); c.WriteText("panic"); c.WantClose(1000, "") }, `the connection was closed with 1011 "internal_error", want it closed with 1000; a message has come before:` + "\n\t" + `the message "{\"hello\":1}"`},
		"closed before a write": {func(t testing.TB) {
			c := serve(t)
			c.WriteText("quit")
			c.WantClose(4000, "quit")
			c.WriteText("more")
		}, `cannot send the message "more": the connection was closed with 4000 "quit"`},
		"closed and nothing wanted":    {func(t testing.TB) { c := serve(t); c.WriteText("quit"); c.ReadText(); c.WantNothing(time.Second) }, `the connection was closed with 4000 "quit", want nothing for 1s`},
		"something and nothing wanted": {func(t testing.TB) { serve(t).WantNothing(time.Second) }, `got the message "{\"hello\":1}", want nothing for 1s`},
		"not closed":                   {func(t testing.TB) { wsguardtest.NewHTTPServer(t, plainEcho).Dial().WantClose(1008, "schema") }, `nothing has come within 24h0m0s, want it closed with 1008 "schema"`},
		"dropped":                      {func(t testing.TB) { c := serve(t); c.CloseNow(); c.ReadText(); c.ReadText() }, "the client has dropped the connection"},
		"refused": {func(t testing.TB) {
			wsguardtest.NewServer(t, greet).Dial(wsguardtest.As(alice), wsguardtest.Origin("https://evil.example"))
		}, `client 1 (alice): the handshake was refused with 403 Forbidden: origin`},
		"refused raw": {func(t testing.TB) { wsguardtest.NewServer(t, greet).DialRaw(wsguardtest.Origin("")) }, `raw client 1: the handshake was refused with 403 Forbidden: origin`},
		"accepted":    {func(t testing.TB) { wsguardtest.NewServer(t, greet).WantRefusal(401, "unauthenticated") }, "the handshake was accepted, want it refused with 401 unauthenticated"},
		"refused otherwise": {func(t testing.TB) {
			wsguardtest.NewServer(t, greet).WantRefusal(403, "host", wsguardtest.Origin("null"))
		}, "the handshake was refused with 403 Forbidden: origin, want 403 host"},
		"no upgrade":      {func(t testing.TB) { wsguardtest.NewHTTPServer(t, http.NotFoundHandler()).Dial() }, "the handshake was refused with 404 404 page not found"},
		"no handler":      {func(t testing.TB) { wsguardtest.NewServer(t, nil) }, "NewServer: the handler is nil"},
		"no HTTP handler": {func(t testing.TB) { wsguardtest.NewHTTPServer(t, nil) }, "the handler is nil"},
		"bad Config": {func(t testing.TB) {
			wsguardtest.NewServer(t, greet, wsguardtest.Config(wsguard.Config{Origins: []string{"*"}}))
		}, "the Config of the server has mistakes:\nwsguard: Origins: *: would let every site in"},
		"Config without a Guard": {func(t testing.TB) {
			wsguardtest.NewHTTPServer(t, plainEcho, wsguardtest.Config(wsguard.Config{}))
		}, "NewHTTPServer: the option Config needs NewServer or NewServerFunc"},
		"TCP in a bubble": {func(t testing.TB) { wsguardtest.NewServer(t, greet, wsguardtest.TCP()) }, "leave the option TCP out"},
		"no URL":          {func(t testing.TB) { wsguardtest.ServerAt(t, "127.0.0.1:8080") }, "ServerAt: "},
		"TLS":             {func(t testing.TB) { wsguardtest.ServerAt(t, "wss://127.0.0.1/") }, `ServerAt: "wss://127.0.0.1/" is no URL such as ws://`},
		"URL in a bubble": {func(t testing.TB) { wsguardtest.ServerAt(t, "ws://127.0.0.1:8080/") }, "a bubble of testing/synctest cannot wait for the network"},
		"bad address":     {func(t testing.TB) { wsguardtest.NewServer(t, greet).Dial(wsguardtest.From("localhost")) }, `From: ParseAddr("localhost")`},
		"bad timeout":     {func(t testing.TB) { wsguardtest.NewServer(t, greet, wsguardtest.Timeout(0)).Dial() }, "Timeout: 0s is not positive"},
		"no subject":      {func(t testing.TB) { wsguardtest.Token(t, wsguard.Principal{}) }, "Token: the Principal has no Subject"},
		"no event":        {func(t testing.TB) { wsguardtest.NewServer(t, greet).Events.Next(audit.Banned) }, `no further event of the kind "ban" within 24h0m0s`},
		"no such event": {func(t testing.TB) {
			wsguardtest.NewServer(t, greet).Events.Find(func(audit.Event) bool { return false })
		}, "no event that matches within 24h0m0s"},
		"another frame": {func(t testing.TB) { raw(t).WantText("hi") }, `raw client 1: got the message "{\"hello\":1}", want the message "hi"`},
		"no frame": {func(t testing.TB) {
			r := raw(t)
			for {
				r.ReadFrame()
			}
		}, "the connection has ended, want a frame"},
		"raw closed": {func(t testing.TB) {
			r := raw(t)
			r.WriteFrame(wsguardtest.Frame{Opcode: wsguardtest.OpText, Payload: []byte("quit")})
			r.WantClose(1000, "")
		}, `the connection was closed with 4000 "quit", want it closed with 1000`},
		"raw not ended": {func(t testing.TB) { wsguardtest.NewHTTPServer(t, plainEcho).DialRaw().WantEnd() }, "the server has not ended the connection within 24h0m0s"},
		"raw dropped":   {func(t testing.TB) { r := raw(t); r.CloseNow(); r.Write([]byte("x")) }, "cannot send 1 bytes: "},
		"raw response":  {func(t testing.TB) { r := raw(t); r.CloseNow(); r.ReadResponse() }, "want a response"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := failing(t, tt.test); len(got) != 1 || !strings.Contains(got[0], tt.want) {
					t.Errorf("failures: %q\nwant one with %q", got, tt.want)
				}
			})
		})
	}
}

// A failure shows the beginning of a long message.
func TestFailureWithLongMessage(t *testing.T) {
	got := failing(t, func(t testing.TB) {
		c := wsguardtest.NewServer(t, echo).Dial()
		c.WriteText(strings.Repeat("x", 30000))
		c.WantText("y")
	})
	if len(got) != 1 || len(got[0]) > 1000 || !strings.Contains(got[0], `xxx"… (30000 bytes)`) {
		t.Errorf("failures: %q", got)
	}
}

// The log of a failed test has the events, with the stack of a panic.
func TestEventsOfFailedTest(t *testing.T) {
	f := new(fakeT)
	f.run(func(t testing.TB) {
		c := wsguardtest.NewServer(t, greet).Dial(wsguardtest.As(alice))
		c.WriteText("panic")
		c.WantClose(1000, "")
	})
	log := strings.Join(f.logs, "\n")
	for _, want := range []string{"the guard has reported:\n", " open subject=alice conn=", " warning reason=panic", "wsguardtest_test.greet(", " close reason=internal_error code=1011"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %q:\n%s", want, log)
		}
	}
	f = new(fakeT)
	f.run(func(t testing.TB) { wsguardtest.NewServer(t, greet).Dial() })
	if f.failures != nil || f.logs != nil {
		t.Errorf("%q, %q", f.failures, f.logs)
	}
}

// A test fails if a handler does not return, or if a goroutine is left.
func TestLeaks(t *testing.T) {
	for name, tt := range map[string]struct {
		handler func(end chan struct{}) func(context.Context, *wsguard.Conn) error
		opts    []wsguardtest.Option
		want    []string
	}{
		"handler": {func(end chan struct{}) func(context.Context, *wsguard.Conn) error {
			return func(context.Context, *wsguard.Conn) error {
				<-end
				return nil
			}
		}, nil, []string{"a handler has not returned 10s after its connection has ended", "TestLeaks.func"}},
		"goroutine": {func(end chan struct{}) func(context.Context, *wsguard.Conn) error {
			return func(context.Context, *wsguard.Conn) error {
				go leak(end)
				return nil
			}
		}, nil, []string{"wsguardtest_test.leak"}},
		"a goroutine's goroutine": {func(end chan struct{}) func(context.Context, *wsguard.Conn) error {
			return func(context.Context, *wsguard.Conn) error {
				go func() { go leak(end) }()
				return nil
			}
		}, nil, []string{"wsguardtest_test.leak"}},
		"allowed": {func(end chan struct{}) func(context.Context, *wsguard.Conn) error {
			return func(context.Context, *wsguard.Conn) error {
				go leak(end)
				return nil
			}
		}, []wsguardtest.Option{wsguardtest.AllowGoroutines("_test.leak")}, nil},
		"in time": {func(end chan struct{}) func(context.Context, *wsguard.Conn) error {
			return func(ctx context.Context, c *wsguard.Conn) error {
				go func() {
					<-ctx.Done()
					time.Sleep(9 * time.Second)
				}()
				return echo(ctx, c)
			}
		}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end := make(chan struct{})
				got := failing(t, func(t testing.TB) {
					wsguardtest.NewServer(t, tt.handler(end), tt.opts...).Dial()
					synctest.Wait()
				})
				if len(got) != len(tt.want) {
					t.Errorf("failures: %q, want %q", got, tt.want)
				} else {
					for i, want := range tt.want {
						if !strings.Contains(got[i], want) {
							t.Errorf("failure %q, want %q", got[i], want)
						}
					}
				}
				close(end)
			})
		})
	}
}

func leak(end chan struct{}) { <-end }

// A server does not count the goroutines of another one, or of the test.
func TestLeaksOfOthers(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	go leak(end)
	other := wsguardtest.NewServer(t, echo)
	c := other.Dial()
	got := failing(t, func(tb testing.TB) {
		go leak(end)
		wsguardtest.NewServer(tb, echo).Dial()
		go leak(end)
	})
	if got != nil {
		t.Errorf("failures: %q", got)
	}
	c.WriteText("x")
	c.WantText("x")
}

// What build starts may end in a Cleanup of the test.
func TestGoroutineOfBuild(t *testing.T) {
	got := failing(t, func(tb testing.TB) {
		wsguardtest.NewServerFunc(tb, func(g *wsguard.Guard) http.Handler {
			end := make(chan struct{})
			tb.Cleanup(func() { close(end) })
			go leak(end)
			return g.Handler(echo)
		}).Dial()
	})
	if got != nil {
		t.Errorf("failures: %q", got)
	}
}

// Read and Write return errors, and may be called on any goroutine.
func TestReadWrite(t *testing.T) {
	c := wsguardtest.NewServer(t, echo).Dial()
	errs := make(chan error)
	for range 4 {
		go func() {
			if err := c.Write(wsguard.MessageText, []byte("x")); err != nil {
				errs <- err
				return
			}
			_, msg, err := c.Read()
			if err == nil && string(msg) != "x" {
				err = errors.New(string(msg))
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
